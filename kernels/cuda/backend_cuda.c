/* backend_cuda.c - the CUDA backend's table: device, memory, step state, running ranges of the program, timing.
 * Every entry pushes the device's context and pops it again, so that the host's current context is never changed. What a step needs is
 * copied to the device before it runs; kernels read it there, and nothing is allocated. Operations live in linear_cuda.c,
 * attention_cuda.c and encode_cuda.c. */
#include "memory_cuda.h"
#include "../../runtime/base/log.h"

#include <stdio.h>
#include <string.h>

kvrt_status kvi_cuda_enter(kvi_device *d, kvrt_error *error)
{
    return kvi_cuda_check(&d->driver.cu, d->driver.cu.context_push(d->context), "context", error);
}
void kvi_cuda_leave(kvi_device *d)
{
    kvi_cu_context popped;
    (void)d->driver.cu.context_pop(&popped);
}

/* --------------------------------------------------------------------------------------------------------- open --- */
static int attribute(const kvi_cuda_driver *driver, kvi_cu_device device, int which)
{
    int value = 0;
    return driver->cu.device_attribute(&value, which, device) == KVI_CU_SUCCESS ? value : 0;
}

/* Finds device `index` and says what it is in `text`. */
static kvrt_status find_device(const kvi_cuda_driver *driver, int32_t index, kvi_cu_device *out, char *text,
                               uint64_t cap, kvrt_error *error)
{
    int count = 0;
    char name[100] = "";
    size_t bytes = 0;
    if (driver->cu.device_count(&count) != KVI_CU_SUCCESS || count <= 0)
        return kvi_error_set(error, KVRT_NO_DEVICE, "cuda: the driver sees no device");
    if (index < 0 || index >= count)
        return kvi_error_set(error, KVRT_NO_DEVICE, "cuda: option device.index: found %d, need 0..%d", (int)index,
                             count - 1);
    KVI_TRY(kvi_cuda_check(&driver->cu, driver->cu.device_get(out, index), "device", error));
    (void)driver->cu.device_name(name, sizeof name, *out);
    (void)driver->cu.device_total_mem(&bytes, *out);
    const int major = attribute(driver, *out, KVI_CU_ATTR_CAPABILITY_MAJOR),
              minor = attribute(driver, *out, KVI_CU_ATTR_CAPABILITY_MINOR);
    (void)snprintf(text, cap, "%s, compute %d.%d, %d SMs, %llu MiB, driver for CUDA %d.%d", name, major, minor,
                   attribute(driver, *out, KVI_CU_ATTR_SM_COUNT), (unsigned long long)(bytes >> 20),
                   driver->version / 1000, driver->version % 1000 / 10);
    if (major < 8)
        return kvi_error_set(error, KVRT_NO_DEVICE, "cuda: %s has compute capability %d.%d, need 8.0 or newer", name,
                             major, minor);
    return KVRT_OK;
}

static bool cuda_probe(const kvi_device_options *options, char *text, uint64_t cap)
{
    kvrt_error error = {.size = sizeof error};
    kvi_cuda_driver driver;
    kvi_cu_device device;
    kvrt_status status = kvi_cuda_driver_open(options ? options->cuda_driver : NULL, &driver, &error);
    if (status >= KVRT_OK) {
        status = find_device(&driver, options ? options->device_index : 0, &device, text, cap, &error);
        kvi_cuda_driver_close(&driver);
    }
    if (status < KVRT_OK)
        (void)snprintf(text, cap, "%s", strncmp(error.message, "cuda: ", 6) == 0 ? error.message + 6 : error.message);
    return status >= KVRT_OK;
}

/* Every kernel is looked up now; asking for its attributes makes a lazily loading driver load it. */
static kvrt_status load_kernels(kvi_device *d, kvrt_error *error)
{
    const kvi_cu_driver *cu = &d->driver.cu;
    const kvi_cuda_image *next = kvi_cuda_image_at(0);
    while (next && d->n_libraries < sizeof d->libraries / sizeof d->libraries[0]) {
        const char *name = next->name;
        const kvi_cuda_image *image = kvi_cuda_image_for(next, d->capability, &next);
        kvi_cu_result result = KVI_CU_NO_BINARY_FOR_GPU;
        if (image) result = cu->library_load(&d->libraries[d->n_libraries], image->data, NULL, NULL, 0, NULL, NULL, 0);
        if (result == KVI_CU_NO_BINARY_FOR_GPU || result == KVI_CU_INVALID_IMAGE ||
            result == KVI_CU_UNSUPPORTED_PTX_VERSION)
            return kvi_error_set(error, KVRT_NO_DEVICE,
                                 "cuda: the kernels of this build (%s) do not fit the device: %s", name, d->text);
        KVI_TRY(kvi_cuda_check(cu, result, name, error));
        d->n_libraries++;
    }
    for (uint32_t k = 0; k < KVI_CUDA_KERNEL_COUNT; k++) {
        const char *name = kvi_cuda_kernel_name((kvi_cuda_kernel_id)k);
        kvi_cu_kernel kernel = NULL;
        kvi_cu_result result = KVI_CU_NOT_FOUND;
        int local = 0;
        for (uint32_t i = 0; i < d->n_libraries && result == KVI_CU_NOT_FOUND; i++)
            result = cu->library_kernel(&kernel, d->libraries[i], name);
        if (result == KVI_CU_SUCCESS) result = cu->kernel_function(&d->kernels[k], kernel);
        if (result == KVI_CU_SUCCESS) result = cu->function_attribute(&local, KVI_CU_FUNC_LOCAL_BYTES, d->kernels[k]);
        KVI_TRY(kvi_cuda_check(cu, result, name, error));
        if (local) kvi_log(KVI_LOG_DEBUG, "cuda: kernel %s uses %d bytes of local memory", name, local);
    }
    return KVRT_OK;
}

static kvrt_status open_streams(kvi_device *d, const kvi_device_options *options, kvrt_error *error)
{
    const kvi_cu_driver *cu = &d->driver.cu;
    d->stream = options->cuda_stream;
    if (!d->stream) {
        KVI_TRY(kvi_cuda_check(cu, cu->stream_create(&d->stream, KVI_CU_STREAM_NON_BLOCKING), "stream", error));
        d->owns_stream = true;
    }
    for (uint32_t i = 0; i < KVI_CUDA_TIMED; i++) {
        KVI_TRY(kvi_cuda_check(cu, cu->event_create(&d->timed[i].start, KVI_CU_EVENT_DEFAULT), "event", error));
        KVI_TRY(kvi_cuda_check(cu, cu->event_create(&d->timed[i].end, KVI_CU_EVENT_DEFAULT), "event", error));
    }
    for (uint32_t i = 0; i < 2; i++)
        KVI_TRY(kvi_cuda_check(cu, cu->event_create(&d->step_copied[i], KVI_CU_EVENT_DISABLE_TIMING), "event", error));
    return kvi_cuda_staging_open(d, error);
}

static void destroy_event(kvi_device *d, kvi_cu_event event)
{
    if (event) (void)d->driver.cu.event_destroy(event);
}

static void cuda_close(kvi_device *d)
{
    if (!d) return;
    const kvi_cu_driver *cu = &d->driver.cu;
    if (d->context && cu->context_push(d->context) == KVI_CU_SUCCESS) {
        if (d->stream) (void)cu->stream_wait(d->stream);
        kvi_cuda_graphs_free(d);
        for (uint32_t i = 0; i < d->n_blocks; i++) (void)cu->mem_free(d->blocks[i].data);
        if (d->workspace) (void)cu->mem_free(d->workspace);
        kvi_cuda_pool_close(d);
        kvi_cuda_staging_close(d);
        for (uint32_t i = 0; i < 2; i++) {
            if (d->step_host[i]) (void)cu->host_free(d->step_host[i]);
            destroy_event(d, d->step_copied[i]);
        }
        for (uint32_t i = 0; i < KVI_CUDA_TIMED; i++) {
            destroy_event(d, d->timed[i].start);
            destroy_event(d, d->timed[i].end);
        }
        if (d->owns_stream) (void)cu->stream_destroy(d->stream);
        for (uint32_t i = 0; i < d->n_libraries; i++) (void)cu->library_unload(d->libraries[i]);
        kvi_cuda_leave(d);
    }
    if (d->owns_context) (void)cu->primary_release(d->ordinal);
    kvi_cuda_driver_close(&d->driver);
    kvi_arena_free(&d->arena);
    kvi_mem_free(d);
}

/* Limits, kernels and grids are those of device `index`: a context that the host made for another one would be used with the wrong ones. */
static kvrt_status check_context(kvi_device *d, int32_t index, kvrt_error *error)
{
    kvi_cu_device own = d->ordinal;
    KVI_TRY(kvi_cuda_check(&d->driver.cu, d->driver.cu.context_device(&own), "context", error));
    if (own == d->ordinal) return KVRT_OK;
    return kvi_error_set(error, KVRT_ARG,
                         "cuda: the context handed over belongs to device %d, option device.index is %d", own,
                         (int)index);
}

static kvrt_status open_device(kvi_device *d, const kvi_device_options *options, kvrt_error *error)
{
    const kvi_cu_driver *cu = &d->driver.cu;
    KVI_TRY(kvi_cuda_driver_open(options->cuda_driver, &d->driver, error));
    KVI_TRY(find_device(&d->driver, options->device_index, &d->ordinal, d->text, sizeof d->text, error));
    d->capability = (uint32_t)(10 * attribute(&d->driver, d->ordinal, KVI_CU_ATTR_CAPABILITY_MAJOR) +
                               attribute(&d->driver, d->ordinal, KVI_CU_ATTR_CAPABILITY_MINOR));
    const int sms = attribute(&d->driver, d->ordinal, KVI_CU_ATTR_SM_COUNT);
    d->sm_count = sms < 1 ? 1 : sms > (int)KVI_CUDA_MAX_SMS ? KVI_CUDA_MAX_SMS : (uint32_t)sms;
    d->context = options->cuda_context;
    if (!d->context) {
        KVI_TRY(kvi_cuda_check(cu, cu->primary_retain(&d->context, d->ordinal), "context", error));
        d->owns_context = true;
    }
    KVI_TRY(kvi_cuda_enter(d, error));
    kvrt_status status = check_context(d, options->device_index, error);
    if (status >= KVRT_OK) status = open_streams(d, options, error);
    if (status >= KVRT_OK) status = load_kernels(d, error);
    kvi_cuda_leave(d);
    return status;
}

static kvrt_status cuda_open(const kvi_device_options *options, kvi_device **out, kvrt_error *error)
{
    *out = NULL;
    kvi_device *d = kvi_mem_zalloc(1, sizeof *d);
    if (!d) return kvi_error_nomem(error, sizeof *d, "CUDA device");
    kvi_arena_init(&d->arena, 64 * 1024);
    kvrt_status status = open_device(d, options, error);
    if (status < KVRT_OK) {
        cuda_close(d);
        return status;
    }
    *out = d;
    return KVRT_OK;
}

static const char *cuda_describe(const kvi_device *d) { return d->text; }

static uint64_t cuda_memory_available(const kvi_device *device)
{
    kvi_device *d = (kvi_device *)(uintptr_t)device; /* the context is pushed and popped: the device is as before */
    size_t available = 0, total = 0;
    if (kvi_cuda_enter(d, NULL) < KVRT_OK) return 0;
    (void)d->driver.cu.mem_info(&available, &total);
    kvi_cuda_leave(d);
    return available;
}

static kvrt_status cuda_weights_reserve(kvi_device *d, uint64_t bytes, kvrt_error *error)
{
    KVI_TRY(kvi_cuda_enter(d, error));
    kvrt_status status = kvi_cuda_weights_reserve(d, bytes, error);
    kvi_cuda_leave(d);
    return status;
}

static kvrt_status cuda_weight_import(kvi_device *d, const kvi_weight_desc *desc, kvi_weight **out, kvrt_error *error)
{
    KVI_TRY(kvi_cuda_enter(d, error));
    kvrt_status status = kvi_cuda_weight_import(d, desc, out, error);
    kvi_cuda_leave(d);
    return status;
}

/* --------------------------------------------------------------------------------------------------------- load --- */
static uint64_t cuda_workspace_bytes(const kvi_program *program, const kvi_limits *limits,
                                     const kvi_device_options *options)
{
    kvi_cuda_layout layout;
    (void)options;
    return kvi_cuda_workspace_layout(program, limits, 0, &layout);
}

/* Without the arena's few handles: the device, its blocks of pinned memory. */
static uint64_t cuda_host_bytes(const kvi_program *program, const kvi_limits *limits, const kvi_device_options *options)
{
    kvi_cuda_layout layout;
    (void)options;
    (void)kvi_cuda_workspace_layout(program, limits, 0, &layout);
    return sizeof(kvi_device) + 64 * 1024 + 2 * (KVI_CUDA_STAGING + layout.step_bytes);
}

static kvrt_status cuda_check(const kvi_program *program, const kvi_limits *limits, kvrt_error *error)
{
    if (program->n_buffers > KVI_CUDA_MAX_BUFFERS || program->n_groups > KVI_MAX_GROUPS)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "program: %u buffers and %u cache groups, the CUDA backend has room for %u and %u",
                             program->n_buffers, program->n_groups, KVI_CUDA_MAX_BUFFERS, KVI_MAX_GROUPS);
    KVI_TRY(kvi_cuda_linear_check(program, error));
    KVI_TRY(kvi_cuda_experts_check(program, error));
    KVI_TRY(kvi_cuda_recurrent_check(program, error));
    KVI_TRY(kvi_cuda_latent_check(program, limits, error));
    return kvi_cuda_attention_check(program, limits, error);
}

/* Operands are 16-bit in the family of the weights: BF16 weights come from models whose activations may leave the range of F16, and a
 * tensor core multiplies two numbers of the same type. q | k | v are no operand of a weight: the cache is F16 and so are they, three bits
 * more exact; so is what recurrent layers read, and what becomes a latent. */
static kvi_dtype buffer_dtype(const kvi_program *program, uint32_t buffer, kvi_dtype operand)
{
    for (uint32_t i = 0; i < program->n_ops; i++) {
        const kvi_op *op = &program->ops[i];
        if (op->kind == KVI_OP_ROPE_APPEND && op->out == buffer) return KVI_F16;
        if (op->kind == KVI_OP_LATENT_APPEND && (op->out == buffer || op->side == buffer)) return KVI_F16;
        if (op->kind == KVI_OP_CONV_STATE && (op->in == buffer || op->out == buffer)) return KVI_F16;
        if (op->kind == KVI_OP_DELTA && (op->in == buffer || op->side == buffer || (op->gated && op->gate == buffer)))
            return KVI_F16;
    }
    return operand;
}

static kvi_dtype operand_of(const kvi_program *program)
{
    for (uint32_t i = 0; i < program->n_ops; i++)
        for (uint32_t j = 0; program->ops[i].kind != KVI_OP_EMBED && j < program->ops[i].n_weights; j++)
            if (program->ops[i].weights[j] && program->ops[i].weights[j]->form == KVI_FORM_BF16) return KVI_BF16;
    return KVI_F16;
}

static kvrt_status take_memory(kvi_device *d, kvi_cuda_layout *layout, kvrt_error *error)
{
    const kvi_cu_driver *cu = &d->driver.cu;
    const uint64_t bytes = kvi_cuda_workspace_layout(d->program, &d->limits, 0, layout);
    KVI_TRY(kvi_cuda_pool_open(d, error));
    KVI_TRY(kvi_cuda_allocate(d, bytes, "workspace", &d->workspace, error));
    (void)kvi_cuda_workspace_layout(d->program, &d->limits, d->workspace, layout);
    /* Zeros: the tails of padded rows stay so for ever, and counters of the kernels start there. */
    KVI_TRY(kvi_cuda_check(cu, cu->mem_set(d->workspace, 0, bytes, d->stream), "workspace", error));
    for (uint32_t i = 0; i < 2; i++) {
        void *block = NULL;
        if (cu->host_alloc(&block, layout->step_bytes) != KVI_CU_SUCCESS)
            return kvi_error_nomem(error, layout->step_bytes, "cuda: pinned memory of the step");
        d->step_host[i] = block;
    }
    return KVRT_OK;
}

static kvrt_status load(kvi_device *d, kvrt_error *error)
{
    kvi_cuda_layout layout;
    KVI_TRY(take_memory(d, &layout, error));
    memcpy(d->buffers, layout.buffers, sizeof d->buffers);
    for (uint32_t i = 0; i < d->program->n_buffers; i++)
        if (d->buffers[i].dtype != KVI_F32) d->buffers[i].dtype = buffer_dtype(d->program, i, d->operand);
    d->map = layout.map;
    d->step_bytes = layout.step_bytes;
    d->best = layout.best;
    KVI_TRY(kvi_cuda_linear_prepare(d, layout.linear, error));
    kvi_cuda_experts_prepare(d, layout.experts);
    kvi_cuda_latent_prepare(d, layout.latent);
    KVI_TRY(kvi_cuda_attention_prepare(d, layout.attention, error));
    KVI_TRY(kvi_cuda_encode_prepare(d, layout.encode, error));
    KVI_TRY(kvi_cuda_graphs_build(d, error));
    return kvi_cuda_check(&d->driver.cu, d->driver.cu.stream_wait(d->stream), "load", error);
}

static kvrt_status cuda_load(kvi_device *d, const kvi_program *program, const kvi_limits *limits, kvrt_error *error)
{
    d->operand = operand_of(program);
    KVI_TRY(cuda_check(program, limits, error));
    d->program = program;
    d->limits = *limits;
    KVI_TRY(kvi_cuda_enter(d, error));
    kvrt_status status = load(d, error);
    kvi_cuda_leave(d);
    return status;
}

/* --------------------------------------------------------------------------------------------------------- step --- */
static void *host_of(const kvi_device *d, uint8_t *block, kvi_dptr at) { return block + (at - d->map.step); }

/* Writes the step in the device's layout; returns the bytes in use. */
static uint64_t write_step(const kvi_device *d, const kvi_step *step, uint8_t *block)
{
    const kvi_cuda_step_map *map = &d->map;
    const kvi_cuda_step head = {step->n_rows, step->n_seqs, step->n_logit_rows, 0};
    uint32_t *row_seq = host_of(d, block, map->row_seq);
    kvi_cuda_seq *seqs = host_of(d, block, map->seqs);
    kvi_page_ref *pages = host_of(d, block, map->pages), *end = pages;
    memcpy(block, &head, sizeof head);
    memcpy(host_of(d, block, map->ids), step->ids, (size_t)step->n_rows * 4);
    if (step->n_logit_rows)
        memcpy(host_of(d, block, map->logit_rows), step->logit_rows, (size_t)step->n_logit_rows * 4);
    for (uint32_t s = 0; s < step->n_seqs; s++) {
        const kvi_seq *seq = &step->seqs[s];
        const uint32_t n_pages = (seq->pos + seq->n_rows + KVI_KV_PAGE - 1) / KVI_KV_PAGE;
        seqs[s] = (kvi_cuda_seq){seq->first_row, seq->n_rows, seq->pos, n_pages, seq->ahead, seq->state_unit};
        for (uint32_t r = 0; r < seq->n_rows; r++) row_seq[seq->first_row + r] = s;
        for (uint32_t g = 0; g < map->n_groups; g++) {
            kvi_page_ref *table = pages + ((size_t)s * map->n_groups + g) * map->max_pages;
            memcpy(table, seq->pages[g], n_pages * sizeof *table);
            end = table + n_pages;
        }
    }
    return (uint64_t)((uint8_t *)end - block);
}

/* Bytes of the records that attention of one layer reads in this step, by cache group. */
static void count_attention(kvi_device *d, const kvi_step *step)
{
    for (uint32_t g = 0; g < d->program->n_groups; g++) {
        const kvi_cache_group *group = &d->program->groups[g];
        d->attention_bytes[g] = 0;
        for (uint32_t s = 0; s < step->n_seqs; s++) {
            const kvi_seq *seq = &step->seqs[s];
            const uint32_t end = (seq->pos + seq->n_rows + KVI_KV_PAGE - 1) / KVI_KV_PAGE;
            const bool cut = group->window && seq->pos + 1 > group->window;
            for (uint32_t p = cut ? (seq->pos + 1 - group->window) / KVI_KV_PAGE : 0; p < end; p++)
                d->attention_bytes[g] += (uint64_t)group->shape.n_kv_heads *
                                         kvi_kv_shape_record_bytes(seq->pages[g][p].format, &group->shape);
        }
    }
}

static kvrt_status check_step(const kvi_device *d, const kvi_step *step, kvrt_error *error)
{
    const kvi_limits *limits = &d->limits;
    if (step->n_rows == 0 || step->n_rows > limits->max_rows || step->n_seqs > limits->max_seqs ||
        step->n_logit_rows > limits->max_logit_rows)
        return kvi_error_set(error, KVRT_INTERNAL, "step: %u rows, %u sequences, %u logit rows; planned %u, %u, %u",
                             step->n_rows, step->n_seqs, step->n_logit_rows, limits->max_rows, limits->max_seqs,
                             limits->max_logit_rows);
    if (!kvi_step_is_wide(step) && step->n_rows > kvi_cuda_narrow_rows(limits))
        return kvi_error_set(error, KVRT_INTERNAL, "step: %u narrow rows, planned %u", step->n_rows,
                             kvi_cuda_narrow_rows(limits));
    for (uint32_t s = 0; s < step->n_seqs; s++)
        if ((uint64_t)step->seqs[s].pos + step->seqs[s].n_rows > (uint64_t)d->map.max_pages * KVI_KV_PAGE &&
            d->map.n_groups)
            return kvi_error_set(error, KVRT_INTERNAL, "step: sequence %u ends at position %u, planned %u", s,
                                 step->seqs[s].pos + step->seqs[s].n_rows, limits->max_ctx);
    return kvi_cuda_attention_check_step(d, step, error);
}

static kvrt_status step_begin(kvi_device *d, const kvi_step *step, kvrt_error *error)
{
    const kvi_cu_driver *cu = &d->driver.cu;
    const uint32_t i = d->next_step;
    KVI_TRY(kvi_cuda_check(cu, cu->event_wait(d->step_copied[i]), "step", error)); /* two steps ago: over long since */
    const uint64_t bytes = write_step(d, step, d->step_host[i]);
    KVI_TRY(kvi_cuda_check(cu, cu->copy_to_device(d->map.step, d->step_host[i], bytes, d->stream), "step", error));
    KVI_TRY(kvi_cuda_check(cu, cu->event_record(d->step_copied[i], d->stream), "step", error));
    d->next_step = 1 - i;
    d->n_rows = step->n_rows;
    d->n_seqs = step->n_seqs;
    d->wide = kvi_step_is_wide(step);
    d->formats = kvi_cuda_attention_formats(d, step);
    d->n_logit_rows = step->n_logit_rows;
    if (d->timing) count_attention(d, step);
    return KVRT_OK;
}

static kvrt_status cuda_step_begin(kvi_device *d, const kvi_step *step, kvrt_error *error)
{
    KVI_TRY(check_step(d, step, error));
    KVI_TRY(kvi_cuda_enter(d, error));
    kvrt_status status = step_begin(d, step, error);
    kvi_cuda_leave(d);
    return status;
}

/* ---------------------------------------------------------------------------------------------------------- run --- */
static kvrt_status cuda_run(kvi_device *d, uint32_t first_op, uint32_t n_ops, kvrt_error *error)
{
    KVI_TRY(kvi_program_range(d->program, first_op, n_ops, error));
    KVI_TRY(kvi_cuda_enter(d, error));
    kvrt_status status = kvi_cuda_run_range(d, first_op, n_ops, error);
    kvi_cuda_leave(d);
    return status;
}

static kvrt_status read_f32(kvi_device *d, kvi_buffer buffer, uint32_t row, uint32_t n_rows, float *out,
                            kvrt_error *error)
{
    const kvi_cuda_buffer *from = &d->buffers[buffer];
    if (row >= n_rows || from->dtype != KVI_F32)
        return kvi_error_set(error, KVRT_INTERNAL, "%s: row %u of %u", d->program->buffers[buffer].name, row, n_rows);
    KVI_TRY(kvi_cuda_enter(d, error));
    kvrt_status status =
        kvi_cuda_download(d, out, from->data + (uint64_t)row * from->pitch * 4, (uint64_t)from->cols * 4, error);
    kvi_cuda_leave(d);
    return status;
}

static kvrt_status cuda_read_logits(kvi_device *d, uint32_t logit_row, float *out, kvrt_error *error)
{
    return read_f32(d, d->program->logits, logit_row, d->n_logit_rows, out, error);
}

static kvrt_status cuda_read_row(kvi_device *d, kvi_buffer buffer, uint32_t row, float *out, kvrt_error *error)
{
    return read_f32(d, buffer, row, d->n_rows, out, error);
}

static kvrt_status read_best(kvi_device *d, uint32_t logit_row, kvi_best *out, kvrt_error *error)
{
    const char *kernel = "none";
    KVI_TRY(kvi_cuda_time_begin(d, error));
    KVI_TRY(kvi_cuda_best_run(d, logit_row, out, &kernel, error));
    KVI_TRY(kvi_cuda_time_end(d, KVI_OP_KIND_COUNT + 1, kernel, (uint64_t)d->program->vocab_size * 4, error));
    KVI_TRY(kvi_cuda_time_read(d, error));
    if (kvi_log_on(KVI_LOG_KERNELS))
        kvi_log(KVI_LOG_KERNELS, "%s: %s", kvi_cuda_slot_name(KVI_OP_KIND_COUNT + 1), kernel);
    return KVRT_OK;
}

static kvrt_status cuda_read_best(kvi_device *d, uint32_t logit_row, kvi_best *out, kvrt_error *error)
{
    if (logit_row >= d->n_logit_rows)
        return kvi_error_set(error, KVRT_INTERNAL, "best tokens: row %u of %u", logit_row, d->n_logit_rows);
    KVI_TRY(kvi_cuda_enter(d, error));
    kvrt_status status = read_best(d, logit_row, out, error);
    kvi_cuda_leave(d);
    return status;
}

/* --------------------------------------------------------------------------------------------------------- pool --- */
static kvrt_status convert(kvi_device *d, const kvi_page_job *jobs, uint32_t n_jobs, const kvi_encode_params *params,
                           kvrt_error *error)
{
    const char *kernel = "none";
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < n_jobs; i++) {
        KVI_TRY(kvi_page_job_check(d->program, &d->limits, &jobs[i], error));
        const kvi_kv_shape *shape = &d->program->groups[jobs[i].group].shape;
        bytes += kvi_kv_page_bytes(jobs[i].from.format, shape) + kvi_kv_page_bytes(jobs[i].to.format, shape);
    }
    KVI_TRY(kvi_cuda_time_begin(d, error));
    KVI_TRY(kvi_cuda_encode_run(d, jobs, n_jobs, params, &kernel, error));
    if (kvi_log_on(KVI_LOG_KERNELS))
        kvi_log(KVI_LOG_KERNELS, "%s: %s, %u pages", kvi_cuda_slot_name(KVI_OP_KIND_COUNT), kernel, n_jobs);
    KVI_TRY(kvi_cuda_time_end(d, KVI_OP_KIND_COUNT, kernel, bytes, error));
    return kvi_cuda_time_read(d, error);
}

static kvrt_status cuda_convert_pages(kvi_device *d, const kvi_page_job *jobs, uint32_t n_jobs,
                                      const kvi_encode_params *params, kvrt_error *error)
{
    KVI_TRY(kvi_cuda_enter(d, error));
    kvrt_status status = convert(d, jobs, n_jobs, params, error);
    kvi_cuda_leave(d);
    return status;
}

static kvrt_status cuda_pool_resize(kvi_device *d, uint64_t bytes, kvrt_error *error)
{
    KVI_TRY(kvi_cuda_enter(d, error));
    kvrt_status status = kvi_cuda_pool_resize(d, bytes, error);
    kvi_cuda_leave(d);
    return status;
}

static kvrt_status cuda_pool_write(kvi_device *d, uint64_t offset, const void *bytes, uint64_t len, kvrt_error *error)
{
    KVI_TRY(kvi_pool_check(&d->limits, offset, len, error));
    KVI_TRY(kvi_cuda_enter(d, error));
    kvrt_status status = kvi_cuda_upload(d, d->pool + offset, bytes, len, error);
    kvi_cuda_leave(d);
    return status;
}

static kvrt_status cuda_pool_read(kvi_device *d, uint64_t offset, void *bytes, uint64_t len, kvrt_error *error)
{
    KVI_TRY(kvi_pool_check(&d->limits, offset, len, error));
    KVI_TRY(kvi_cuda_enter(d, error));
    kvrt_status status = kvi_cuda_download(d, bytes, d->pool + offset, len, error);
    kvi_cuda_leave(d);
    return status;
}

static kvrt_status cuda_pool_move(kvi_device *d, uint32_t from_unit, uint32_t to_unit, uint32_t units,
                                  kvrt_error *error)
{
    const uint64_t from = (uint64_t)from_unit * KVI_KV_UNIT, to = (uint64_t)to_unit * KVI_KV_UNIT,
                   bytes = (uint64_t)units * KVI_KV_UNIT;
    KVI_TRY(kvi_pool_check(&d->limits, from, bytes, error));
    KVI_TRY(kvi_pool_check(&d->limits, to, bytes, error));
    KVI_TRY(kvi_cuda_enter(d, error));
    kvrt_status status = kvi_cuda_move(d, d->pool + from, d->pool + to, bytes, error);
    kvi_cuda_leave(d);
    return status;
}

static kvrt_status cuda_pool_fill(kvi_device *d, uint64_t offset, uint64_t len, uint32_t base, uint32_t mask,
                                  uint64_t seed, kvrt_error *error)
{
    KVI_TRY(kvi_pool_check(&d->limits, offset, len, error));
    const kvi_cuda_fill_params p = {
        .at = d->pool + offset, .n_words = len / 4, .seed = seed, .base = base, .mask = mask};
    KVI_TRY(kvi_cuda_enter(d, error));
    kvrt_status status = kvi_cuda_launch(d, KVI_CUDA_K_fill_words, 4 * d->sm_count, 1, 1, 256, 0, &p, error);
    kvi_cuda_leave(d);
    return status;
}

/* ------------------------------------------------------------------------------------------------------- timing --- */
/* Best of five copies of one half of the pool to the other; more than the L2 cache holds, or the figure means nothing. */
static kvrt_status copy_bandwidth(kvi_device *d, double *gbps, kvrt_error *error)
{
    const kvi_cu_driver *cu = &d->driver.cu;
    const uint64_t half = d->limits.pool_bytes / 2 / KVI_KV_UNIT * KVI_KV_UNIT,
                   bytes = half < (1ull << 30) ? half : 1ull << 30;
    if (bytes < (64ull << 20))
        return kvi_error_set(error, KVRT_UNSUPPORTED, "copy bandwidth: the KV pool has %llu MiB, need 128 or more",
                             (unsigned long long)(d->limits.pool_bytes >> 20));
    for (uint32_t i = 0; i < 5; i++) {
        float ms = 0;
        KVI_TRY(kvi_cuda_check(cu, cu->event_record(d->timed[0].start, d->stream), "time", error));
        KVI_TRY(kvi_cuda_check(cu, cu->copy_on_device(d->pool + half, d->pool, bytes, d->stream), "copy", error));
        KVI_TRY(kvi_cuda_check(cu, cu->event_record(d->timed[0].end, d->stream), "time", error));
        KVI_TRY(kvi_cuda_check(cu, cu->event_wait(d->timed[0].end), "time", error));
        KVI_TRY(kvi_cuda_check(cu, cu->event_elapsed(&ms, d->timed[0].start, d->timed[0].end), "time", error));
        const double now = ms > 0 ? 2 * (double)bytes / ((double)ms * 1e6) : 0;
        if (now > *gbps) *gbps = now;
    }
    return KVRT_OK;
}

static kvrt_status cuda_copy_bandwidth(kvi_device *d, double *gbps, kvrt_error *error)
{
    *gbps = 0;
    KVI_TRY(kvi_cuda_enter(d, error));
    kvrt_status status = copy_bandwidth(d, gbps, error);
    kvi_cuda_leave(d);
    return status;
}

static void cuda_time_ops(kvi_device *d, bool enable)
{
    memset(d->times, 0, sizeof d->times);
    d->timing = enable;
}

static bool cuda_op_time_at(const kvi_device *d, uint32_t index, kvi_op_time *out)
{
    for (uint32_t slot = 0; slot < KVI_OP_KIND_COUNT + 2; slot++) {
        if (!d->times[slot].calls || index--) continue;
        *out = (kvi_op_time){kvi_cuda_slot_name(slot), d->times[slot].kernel, d->times[slot].calls,
                             (uint64_t)d->times[slot].us, d->times[slot].bytes};
        return true;
    }
    return false;
}

const kvi_backend kvi_backend_cuda = {.name = "cuda",
                                      .probe = cuda_probe,
                                      .open = cuda_open,
                                      .close = cuda_close,
                                      .describe = cuda_describe,
                                      .memory_available = cuda_memory_available,
                                      .own_memory = true,
                                      .narrow_rows = KVI_BATCH_ROWS,
                                      .rounds_by_queries = true,
                                      .check = cuda_check,
                                      .host_bytes = cuda_host_bytes,
                                      .kernel_of = kvi_cuda_kernel_of,
                                      .weight_bytes = kvi_cuda_weight_bytes,
                                      .weights_reserve = cuda_weights_reserve,
                                      .weight_import = cuda_weight_import,
                                      .workspace_bytes = cuda_workspace_bytes,
                                      .load = cuda_load,
                                      .decodes_at_once = true,
                                      .step_begin = cuda_step_begin,
                                      .run = cuda_run,
                                      .read_logits = cuda_read_logits,
                                      .read_row = cuda_read_row,
                                      .read_best = cuda_read_best,
                                      .convert_pages = cuda_convert_pages,
                                      .pool_grain = KVI_CUDA_POOL_GRAIN,
                                      .pool_resize = cuda_pool_resize,
                                      .pool_move = cuda_pool_move,
                                      .pool_write = cuda_pool_write,
                                      .pool_read = cuda_pool_read,
                                      .pool_fill = cuda_pool_fill,
                                      .copy_bandwidth = cuda_copy_bandwidth,
                                      .time_ops = cuda_time_ops,
                                      .op_time_at = cuda_op_time_at};
