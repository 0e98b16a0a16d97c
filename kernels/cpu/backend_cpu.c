/* backend_cpu.c - the CPU backend's table: device, weights, planned memory, step state, dispatch and timing of
 * operations. */
#include "device_cpu.h"
#include "gemm_amx.h"
#include "../../runtime/kv/encode.h"
#include "../../runtime/base/log.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------------ device --- */
static const kvi_cpu_variant *choose(const kvi_cpu *cpu, const char *isa)
{
#if defined(__x86_64__)
    bool avx2 = cpu->avx2 && cpu->fma && cpu->f16c;
    if (strcmp(isa, "avx512") == 0) return cpu->avx512 && avx2 ? &kvi_cpu_avx512 : NULL;
    if (strcmp(isa, "avx2") == 0) return avx2 ? &kvi_cpu_avx2 : NULL;
    if (strcmp(isa, "auto") == 0 && cpu->avx512 && avx2) return &kvi_cpu_avx512;
    if (strcmp(isa, "auto") == 0 && avx2) return &kvi_cpu_avx2;
#else
    (void)cpu;
#endif
    return strcmp(isa, "auto") == 0 || strcmp(isa, "portable") == 0 ? &kvi_cpu_portable : NULL;
}

static bool cpu_probe(const kvi_device_options *options, char *text, uint64_t cap)
{
    kvi_cpu cpu;
    kvi_os_cpu(&cpu);
    const kvi_cpu_variant *v = choose(&cpu, options && options->isa ? options->isa : "auto");
    (void)snprintf(text, cap, "%s, %u cores, %s%s", cpu.name, kvi_os_cpu_count(),
                   v ? v->name : "instruction set not present", cpu.amx_bf16 ? ", AMX available" : "");
    return v != NULL;
}

static void cpu_close(kvi_device *device)
{
    if (!device) return;
    kvi_workers_close(device->workers);
    kvi_mem_free_aligned(device->workspace);
    kvi_mem_free_aligned(device->pool);
    kvi_arena_free(&device->arena);
    kvi_mem_free(device);
}

static uint32_t threads_of(const kvi_device_options *options)
{
    return options && options->n_threads ? options->n_threads : kvi_os_cpu_count();
}

static kvrt_status cpu_open(const kvi_device_options *options, kvi_device **out, kvrt_error *error)
{
    *out = NULL;
    kvi_device *device = kvi_mem_zalloc(1, sizeof *device);
    if (!device) return kvi_error_nomem(error, sizeof *device, "CPU device");
    kvi_arena_init(&device->arena, 64 * 1024);
    kvi_os_cpu(&device->cpu);
    const char *isa = options->isa ? options->isa : "auto";
    device->v = choose(&device->cpu, isa);
    device->n_threads = threads_of(options);
    kvrt_status status = KVRT_OK;
    if (!device->v)
        status = kvi_error_set(error, KVRT_UNSUPPORTED,
                               "option cpu.isa: found '%s', but this CPU (%s) does not have it", isa, device->cpu.name);
    if (status >= KVRT_OK) status = kvi_workers_open(device->n_threads, &device->workers, error);
    if (status < KVRT_OK) {
        cpu_close(device);
        return status;
    }
    device->amx = options->amx && device->v != &kvi_cpu_portable && device->cpu.amx_bf16 && device->cpu.amx_int8 &&
                  kvi_os_amx_enable();
    (void)snprintf(device->text, sizeof device->text, "%s, %s%s, %u thread%s", device->cpu.name, device->v->name,
                   device->amx ? " + AMX" : "", device->n_threads, device->n_threads == 1 ? "" : "s");
    *out = device;
    return KVRT_OK;
}

static const char *cpu_describe(const kvi_device *device) { return device->text; }
static uint64_t cpu_memory_available(const kvi_device *device)
{
    (void)device;
    return kvi_os_memory_available();
}

static uint64_t cpu_host_bytes(const kvi_program *program, const kvi_limits *limits, const kvi_device_options *options)
{
    (void)program, (void)limits;
    return sizeof(kvi_device) + kvi_workers_bytes(threads_of(options)) + KVI_ARENA_HEADER;
}

/* ------------------------------------------------------------------------------------------------------ weights --- */
static uint64_t round16(uint64_t bytes) { return (bytes + 15) & ~(uint64_t)15; }

static uint64_t cpu_weight_bytes(const kvi_weight_desc *desc)
{
    return round16(sizeof(kvi_weight)) + (desc->n_out == 1 ? round16((uint64_t)desc->n_in * 4) : 0);
}

static kvrt_status cpu_weights_reserve(kvi_device *device, uint64_t bytes, kvrt_error *error)
{
    return kvi_arena_reserve(&device->arena, bytes) ? KVRT_OK : kvi_error_nomem(error, bytes, "weight handles");
}

/* Matrices alias the map; vectors (gains, biases) are widened once, they are small and used by every kernel as f32. */
static kvrt_status cpu_weight_import(kvi_device *device, const kvi_weight_desc *desc, kvi_weight **out,
                                     kvrt_error *error)
{
    kvi_weight *weight = kvi_arena_alloc(&device->arena, sizeof *weight);
    if (!weight) return kvi_error_nomem(error, sizeof *weight, desc->name);
    weight->desc = *desc;
    if (desc->n_out == 1) {
        float *f32 = kvi_arena_alloc(&device->arena, (size_t)desc->n_in * 4);
        if (!f32) return kvi_error_nomem(error, (uint64_t)desc->n_in * 4, desc->name);
        device->v->widen(desc->data, desc->dtype, desc->n_in, f32);
        weight->f32 = f32;
    }
    *out = weight;
    return KVRT_OK;
}

/* ---------------------------------------------------------------------------------------------------- workspace --- */
/* What a program needs at most, so that one function serves the plan and the load. */
typedef struct demand {
    uint32_t widest_in, widest_gated, max_heads, max_dim, max_rope;
    uint64_t buffers, total;
    size_t scratch_floats;
    uint32_t max_splits;
} demand;

static uint64_t buffer_floats(const kvi_program *program, const kvi_limits *limits, uint32_t i)
{
    const kvi_buffer_desc *b = &program->buffers[i];
    return (uint64_t)(b->rows == KVI_ROWS_LOGIT ? limits->max_logit_rows : limits->max_rows) * b->cols;
}

static uint64_t round64(uint64_t bytes) { return (bytes + 63) & ~(uint64_t)63; }

static demand demand_of(const kvi_program *program, const kvi_limits *limits, uint32_t n_threads)
{
    demand need = {0};
    for (uint32_t i = 0; i < program->n_ops; i++) {
        const kvi_op *op = &program->ops[i];
        uint32_t cols = program->buffers[op->in].cols;
        if (op->kind != KVI_OP_EMBED && op->kind != KVI_OP_ATTENTION && op->kind != KVI_OP_ROPE_APPEND &&
            cols > need.widest_in)
            need.widest_in = cols;
        if (op->kind == KVI_OP_NORM_GATE_UP && program->buffers[op->out].cols > need.widest_gated)
            need.widest_gated = program->buffers[op->out].cols;
        if (op->kind == KVI_OP_ATTENTION) {
            uint32_t d = program->groups[op->group].shape.head_dim;
            size_t floats = kvi_cpu_attention_scratch(d), convert = 2u * d * KVI_KV_PAGE + kvi_kv_encode_scratch(d);
            if (convert > floats) floats = convert;
            if (kvi_cpu_prefill_scratch(d) > floats) floats = kvi_cpu_prefill_scratch(d);
            if (floats > need.scratch_floats) need.scratch_floats = floats;
            if (d > need.max_dim) need.max_dim = d;
            if (op->n_heads > need.max_heads) need.max_heads = op->n_heads;
        }
        if (op->rope && op->rope->n_dims / 2 > need.max_rope) need.max_rope = op->rope->n_dims / 2;
    }
    if (need.scratch_floats < KVI_CPU_KC * 64u) need.scratch_floats = KVI_CPU_KC * 64u;
    need.scratch_floats = (need.scratch_floats + 15) & ~(size_t)15;
    need.max_splits = (limits->max_ctx / KVI_KV_PAGE + KVI_CPU_SPLIT_PAGES) / KVI_CPU_SPLIT_PAGES + 1;
    for (uint32_t i = 0; i < program->n_buffers; i++) need.buffers += round64(buffer_floats(program, limits, i) * 4);
    const uint64_t rows = limits->max_rows, small = rows < KVI_DECODE_ROWS ? rows : KVI_DECODE_ROWS;
    need.total = need.buffers + round64(rows * need.widest_in * 4) + round64(rows * need.widest_gated * 4) +
                 round64(((rows + 31) / 32 * 32) * need.widest_in * 2) +
                 round64((uint64_t)n_threads * need.scratch_floats * 4) +
                 round64(small * need.max_heads * need.max_splits * (need.max_dim + 2u) * 4) +
                 2 * round64(rows * need.max_rope * 4) + round64(rows * 4) * 4 +
                 round64((uint64_t)limits->max_seqs * sizeof(kvi_seq)) + 64;
    return need;
}

static uint64_t cpu_workspace_bytes(const kvi_program *program, const kvi_limits *limits,
                                    const kvi_device_options *options)
{
    return demand_of(program, limits, threads_of(options)).total;
}

static void *carve(uint8_t **at, uint64_t bytes)
{
    void *here = *at;
    *at += round64(bytes);
    return here;
}

static void carve_workspace(kvi_device *d, const demand *need)
{
    uint8_t *at = d->workspace;
    const uint64_t rows = d->limits.max_rows, small = rows < KVI_DECODE_ROWS ? rows : KVI_DECODE_ROWS;
    for (uint32_t i = 0; i < d->program->n_buffers; i++)
        d->buffers[i] = carve(&at, buffer_floats(d->program, &d->limits, i) * 4);
    d->normed = carve(&at, rows * need->widest_in * 4);
    d->up = carve(&at, rows * need->widest_gated * 4);
    d->amx_packed = carve(&at, ((rows + 31) / 32 * 32) * need->widest_in * 2);
    d->thread_scratch = carve(&at, (uint64_t)d->n_threads * need->scratch_floats * 4);
    d->split_out = carve(&at, small * need->max_heads * need->max_splits * (need->max_dim + 2u) * 4);
    d->rope_cos = carve(&at, rows * need->max_rope * 4);
    d->rope_sin = carve(&at, rows * need->max_rope * 4);
    d->ids = carve(&at, rows * 4);
    d->logit_rows = carve(&at, rows * 4);
    d->row_seq = carve(&at, rows * 4);
    d->row_pos = carve(&at, rows * 4);
    d->seqs = carve(&at, (uint64_t)d->limits.max_seqs * sizeof(kvi_seq));
    d->scratch_floats = need->scratch_floats;
}

static kvrt_status cpu_check(const kvi_program *program, const kvi_limits *limits, kvrt_error *error)
{
    if (program->n_buffers > KVI_CPU_MAX_BUFFERS)
        return kvi_error_set(error, KVRT_UNSUPPORTED, "program: %u buffers, the CPU backend has room for %u",
                             program->n_buffers, KVI_CPU_MAX_BUFFERS);
    for (uint32_t g = 0; g < program->n_groups; g++) {
        const kvi_cache_group *group = &program->groups[g];
        if (group->shape.head_dim % 8 || group->shape.head_dim > 256)
            return kvi_error_set(error, KVRT_UNSUPPORTED, "attention: head_dim %u, need a multiple of 8 up to 256",
                                 group->shape.head_dim);
    }
    const kvi_rope *rope = NULL;
    for (uint32_t i = 0; i < program->n_ops; i++) {
        const kvi_op *op = &program->ops[i];
        if (op->rope && rope && op->rope != rope) /* the angles of a step are computed once, for all layers */
            return kvi_error_set(error, KVRT_UNSUPPORTED,
                                 "rope_append, layer %u: a second set of RoPE frequencies, need one for all layers",
                                 op->layer);
        if (op->rope) rope = op->rope;
    }
    const uint32_t plain = (1u << KVI_KV_F32) | (1u << KVI_KV_F16) | (1u << KVI_KV_BF16);
    for (uint32_t g = 0; (limits->page_formats & ~plain) && g < program->n_groups; g++)
        if (program->groups[g].shape.head_dim % 16)
            return kvi_error_set(
                error, KVRT_UNSUPPORTED,
                "attention: head_dim %u with a quantized cache, need a multiple of 16 (or kv.format f16)",
                program->groups[g].shape.head_dim);
    return KVRT_OK;
}

static kvrt_status cpu_load(kvi_device *device, const kvi_program *program, const kvi_limits *limits, kvrt_error *error)
{
    KVI_TRY(cpu_check(program, limits, error));
    demand need = demand_of(program, limits, device->n_threads);
    device->program = program;
    device->limits = *limits;
    device->pool = limits->pool_bytes ? kvi_mem_alloc_aligned(limits->pool_bytes) : NULL;
    if (limits->pool_bytes && !device->pool) return kvi_error_nomem(error, limits->pool_bytes, "KV pool");
    device->workspace = kvi_mem_alloc_aligned(need.total);
    if (!device->workspace) return kvi_error_nomem(error, need.total, "workspace");
    carve_workspace(device, &need);
    return KVRT_OK;
}

/* --------------------------------------------------------------------------------------------------------- step --- */
/* RoPE angles of the step: product and reduction in double, then f32 (an f32 product is 2e-3 rad off at 131k). */
static void fill_angles(kvi_device *device)
{
    const kvi_rope *rope = NULL;
    for (uint32_t i = 0; i < device->program->n_ops && !rope; i++) rope = device->program->ops[i].rope;
    if (!rope) return;
    const uint32_t half = rope->n_dims / 2;
    for (uint32_t r = 0; r < device->step.n_rows; r++)
        for (uint32_t i = 0; i < half; i++) {
            double angle = rope->inv_freq[i] * device->row_pos[r];
            device->rope_cos[(size_t)r * half + i] = (float)cos(angle) * rope->magnitude;
            device->rope_sin[(size_t)r * half + i] = (float)sin(angle) * rope->magnitude;
        }
}

static kvrt_status cpu_step_begin(kvi_device *device, const kvi_step *step, kvrt_error *error)
{
    const kvi_limits *limits = &device->limits;
    if (step->n_rows == 0 || step->n_rows > limits->max_rows || step->n_seqs > limits->max_seqs ||
        step->n_logit_rows > limits->max_logit_rows)
        return kvi_error_set(error, KVRT_INTERNAL, "step: %u rows, %u sequences, %u logit rows; planned %u, %u, %u",
                             step->n_rows, step->n_seqs, step->n_logit_rows, limits->max_rows, limits->max_seqs,
                             limits->max_logit_rows);
    memcpy(device->ids, step->ids, (size_t)step->n_rows * 4);
    if (step->n_logit_rows) memcpy(device->logit_rows, step->logit_rows, (size_t)step->n_logit_rows * 4);
    memcpy(device->seqs, step->seqs, (size_t)step->n_seqs * sizeof *step->seqs);
    device->step = *step;
    device->step.ids = device->ids;
    device->step.seqs = device->seqs;
    device->step.logit_rows = device->logit_rows;
    for (uint32_t s = 0; s < step->n_seqs; s++)
        for (uint32_t r = 0; r < step->seqs[s].n_rows; r++) {
            device->row_seq[step->seqs[s].first_row + r] = s;
            device->row_pos[step->seqs[s].first_row + r] = step->seqs[s].pos + r;
        }
    fill_angles(device);
    return KVRT_OK;
}

/* --------------------------------------------------------------------------------------------------- operations --- */
typedef struct row_task {
    kvi_device *device;
    const kvi_op *op;
    const float *x;
    uint32_t cols;
    const uint32_t *rows; /* NULL: all rows in order */
} row_task;

static void norm_row(void *arg, uint32_t task, uint32_t thread)
{
    const row_task *t = arg;
    const size_t from = t->rows ? t->rows[task] : task;
    (void)thread;
    t->device->v->rmsnorm(t->x + from * t->cols, t->op->gain->f32, t->op->eps, t->cols,
                          t->device->normed + (size_t)task * t->cols);
}

/* Normed input of an operation, rows chosen by `rows`. */
static const float *norm_rows(kvi_device *device, const kvi_op *op, const uint32_t *rows, uint32_t n_rows)
{
    row_task t = {device, op, device->buffers[op->in], device->program->buffers[op->in].cols, rows};
    if (n_rows <= KVI_DECODE_ROWS)
        for (uint32_t r = 0; r < n_rows; r++) norm_row(&t, r, 0);
    else kvi_workers_run(device->workers, norm_row, &t, n_rows);
    return device->normed;
}

static void embed_row(void *arg, uint32_t task, uint32_t thread)
{
    const row_task *t = arg;
    const kvi_weight_desc *table = &t->op->weights[0]->desc;
    float *out = t->device->buffers[t->op->out] + (size_t)task * table->n_in;
    const size_t row = (size_t)table->n_in * kvi_dtype_bytes(table->dtype);
    (void)thread;
    t->device->v->widen((const uint8_t *)table->data + (size_t)t->device->step.ids[task] * row, table->dtype,
                        table->n_in, out);
    if (t->op->scale != 1.0f) t->device->v->scale(out, t->op->scale, table->n_in);
}

static const char *linear_op(kvi_device *device, const kvi_op *op)
{
    const kvi_program *program = device->program;
    bool head = op->kind == KVI_OP_HEAD;
    uint32_t n_rows = head ? device->step.n_logit_rows : device->step.n_rows;
    if (n_rows == 0) return "none";
    kvi_linear job = {.n_rows = n_rows,
                      .n_in = program->buffers[op->in].cols,
                      .n_weights = op->n_weights,
                      .y = device->buffers[op->out],
                      .ldy = program->buffers[op->out].cols,
                      .x = device->buffers[op->in]};
    for (uint32_t i = 0; i < op->n_weights; i++) {
        job.weights[i] = op->weights[i];
        job.biases[i] = op->biases[i];
    }
    if (op->kind == KVI_OP_LINEAR_ADD) job.epilogue = KVI_ADD;
    else job.x = norm_rows(device, op, head ? device->step.logit_rows : NULL, n_rows);
    if (op->kind == KVI_OP_NORM_GATE_UP) job.epilogue = KVI_SILU_MUL;
    if (head) job.first_out = op->first_out, job.n_out = op->n_out;
    job.wide = head ? n_rows > KVI_DECODE_ROWS : kvi_step_is_wide(&device->step);
    return kvi_cpu_linear(device, &job);
}

static const char *run_op(kvi_device *device, const kvi_op *op)
{
    row_task t = {.device = device, .op = op};
    switch (op->kind) {
    case KVI_OP_EMBED: kvi_workers_run(device->workers, embed_row, &t, device->step.n_rows); return "embed";
    case KVI_OP_ROPE_APPEND: kvi_cpu_rope_append(device, op); return "rope_append";
    case KVI_OP_ATTENTION:
        return kvi_step_is_wide(&device->step) ? kvi_cpu_prefill_attention(device, op) : kvi_cpu_attention(device, op);
    default: return linear_op(device, op);
    }
}

/* Bytes an operation has to read: weights, or the cache records it looks at. */
static uint64_t op_bytes(const kvi_device *device, const kvi_op *op)
{
    uint64_t bytes = 0;
    if (op->kind == KVI_OP_ATTENTION) {
        const kvi_cache_group *group = &device->program->groups[op->group];
        for (uint32_t s = 0; s < device->step.n_seqs; s++) {
            const kvi_seq *seq = &device->step.seqs[s];
            uint32_t end = (seq->pos + seq->n_rows + KVI_KV_PAGE - 1) / KVI_KV_PAGE;
            uint32_t first =
                group->window && seq->pos + 1 > group->window ? (seq->pos + 1 - group->window) / KVI_KV_PAGE : 0;
            for (uint32_t p = first; p < end; p++)
                bytes += (uint64_t)group->shape.n_kv_heads *
                         kvi_kv_record_bytes(seq->pages[op->group][p].format, group->shape.head_dim);
        }
        return bytes;
    }
    for (uint32_t i = 0; op->kind != KVI_OP_EMBED && i < op->n_weights; i++) {
        const kvi_weight_desc *w = &op->weights[i]->desc;
        bytes += (uint64_t)(op->n_out ? op->n_out : w->n_out) * w->n_in * kvi_dtype_bytes(w->dtype);
    }
    return bytes;
}

static kvrt_status cpu_run(kvi_device *device, uint32_t first_op, uint32_t n_ops, kvrt_error *error)
{
    if (first_op + n_ops > device->program->n_ops)
        return kvi_error_set(error, KVRT_INTERNAL, "run: operations %u..%u of %u", first_op, first_op + n_ops,
                             device->program->n_ops);
    for (uint32_t i = first_op; i < first_op + n_ops; i++) {
        const kvi_op *op = &device->program->ops[i];
        uint64_t start = device->timing ? kvi_os_now_us() : 0;
        const char *kernel = run_op(device, op);
        if (device->timing) {
            struct cpu_op_time *time = &device->times[op->kind];
            time->kernel = kernel;
            time->calls++;
            time->us += kvi_os_now_us() - start;
            time->bytes += op_bytes(device, op);
        }
        if (kvi_log_on(KVI_LOG_KERNELS))
            kvi_log(KVI_LOG_KERNELS, "layer %u: %s, %u rows", op->layer, kernel, device->step.n_rows);
    }
    return KVRT_OK;
}

static kvrt_status cpu_read_logits(kvi_device *device, uint32_t logit_row, float *out, kvrt_error *error)
{
    if (logit_row >= device->step.n_logit_rows)
        return kvi_error_set(error, KVRT_INTERNAL, "logits: row %u of %u", logit_row, device->step.n_logit_rows);
    size_t vocab = device->program->vocab_size;
    memcpy(out, device->buffers[device->program->logits] + logit_row * vocab, vocab * 4);
    return KVRT_OK;
}

/* --------------------------------------------------------------------------------------------------------- pool --- */
static kvrt_status check_range(const kvi_device *device, uint64_t offset, uint64_t len, kvrt_error *error)
{
    if (offset > device->limits.pool_bytes || len > device->limits.pool_bytes - offset)
        return kvi_error_set(error, KVRT_INTERNAL, "KV pool: range outside");
    return KVRT_OK;
}
static kvrt_status cpu_pool_write(kvi_device *device, uint64_t offset, const void *bytes, uint64_t len,
                                  kvrt_error *error)
{
    KVI_TRY(check_range(device, offset, len, error));
    memcpy(device->pool + offset, bytes, len);
    return KVRT_OK;
}
static kvrt_status cpu_pool_read(kvi_device *device, uint64_t offset, void *bytes, uint64_t len, kvrt_error *error)
{
    KVI_TRY(check_range(device, offset, len, error));
    memcpy(bytes, device->pool + offset, len);
    return KVRT_OK;
}
/* One record from any format to any other, through f32 rows in the thread's scratch. */
typedef struct convert_task {
    kvi_device *device;
    const kvi_page_job *jobs;
    const kvi_encode_params *params;
    uint32_t first_task[64]; /* of each job */
    uint32_t n_jobs;
} convert_task;

/* All of them write the same bytes. */
static const kvi_kv_encoder *encoder_of(const kvi_cpu_variant *v)
{
#if defined(__x86_64__)
    if (v == &kvi_cpu_avx512) return &kvi_kv_encoder_avx512;
    if (v == &kvi_cpu_avx2) return &kvi_kv_encoder_avx2;
#endif
    (void)v;
    return &kvi_kv_encoder_portable;
}

static void encode_side(kvi_kv_code kind, bool is_v, const float *rows, uint32_t d, const kvi_encode_params *params,
                        float *scratch, const kvi_cpu_variant *v, uint8_t *side)
{
    if (kvi_kv_code_is_plain(kind)) v->narrow(rows, (kvi_dtype)kind, d * KVI_KV_PAGE, side);
    else (is_v ? encoder_of(v)->v : encoder_of(v)->k)(kind, rows, d, params, scratch, side);
}

static void decode_side(const uint8_t *side, kvi_kv_code kind, bool is_v, uint32_t d, const kvi_cpu_variant *v,
                        float *rows)
{
    if (kvi_kv_code_is_plain(kind)) v->widen(side, (kvi_dtype)kind, d * KVI_KV_PAGE, rows);
    else kvi_kv_decode_rows(side, kind, is_v, d, rows);
}

static void convert_record(const convert_task *t, const kvi_page_job *job, uint32_t index, uint32_t thread)
{
    kvi_device *device = t->device;
    const uint32_t d = device->program->groups[job->group].shape.head_dim;
    float *k = device->thread_scratch + thread * device->scratch_floats, *v = k + d * KVI_KV_PAGE,
          *scratch = v + d * KVI_KV_PAGE;
    const kvi_kv_code from_k = KVI_KV_K_CODE(job->from.format), from_v = KVI_KV_V_CODE(job->from.format);
    const kvi_kv_code to_k = KVI_KV_K_CODE(job->to.format), to_v = KVI_KV_V_CODE(job->to.format);
    const uint8_t *from = device->pool + (uint64_t)job->from.unit * KVI_KV_UNIT +
                          (uint64_t)index * kvi_kv_record_bytes(job->from.format, d);
    uint8_t *to =
        device->pool + (uint64_t)job->to.unit * KVI_KV_UNIT + (uint64_t)index * kvi_kv_record_bytes(job->to.format, d);
    /* A side whose code stays is copied: it would lose a second time otherwise. In place, `to` is at or before `from`, so that reading V
     * before anything is written, and K before V is written, is enough. */
    if (from_v != to_v) decode_side(from + kvi_kv_k_side(from_k, d).bytes, from_v, true, d, device->v, v);
    else memcpy(v, from + kvi_kv_k_side(from_k, d).bytes, kvi_kv_v_side(from_v, d).bytes);
    if (from_k != to_k) {
        decode_side(from, from_k, false, d, device->v, k);
        encode_side(to_k, false, k, d, t->params, scratch, device->v, to);
    } else memmove(to, from, kvi_kv_k_side(from_k, d).bytes);
    to += kvi_kv_k_side(to_k, d).bytes;
    if (from_v != to_v) encode_side(to_v, true, v, d, t->params, scratch, device->v, to);
    else memcpy(to, v, kvi_kv_v_side(to_v, d).bytes);
}

static uint32_t records_of(const kvi_device *device, const kvi_page_job *job)
{
    const kvi_kv_shape *shape = &device->program->groups[job->group].shape;
    return shape->n_layers * shape->n_kv_heads;
}

static void convert_one(void *arg, uint32_t task, uint32_t thread)
{
    const convert_task *t = arg;
    uint32_t job = 0;
    while (job + 1 < t->n_jobs && task >= t->first_task[job + 1]) job++;
    if (t->jobs[job].from.unit != t->jobs[job].to.unit) {
        convert_record(t, &t->jobs[job], task - t->first_task[job], thread);
        return;
    }
    /* In place: records shrink towards the front, so they go in order, each read whole before it is written. */
    for (uint32_t i = 0; i < records_of(t->device, &t->jobs[job]); i++) convert_record(t, &t->jobs[job], i, thread);
}

static kvrt_status cpu_convert_pages(kvi_device *device, const kvi_page_job *jobs, uint32_t n_jobs,
                                     const kvi_encode_params *params, kvrt_error *error)
{
    for (uint32_t done = 0; done < n_jobs;) {
        convert_task t = {.device = device, .jobs = jobs + done, .params = params};
        uint32_t tasks = 0;
        for (; t.n_jobs < 64 && done + t.n_jobs < n_jobs; t.n_jobs++) {
            const kvi_page_job *job = &t.jobs[t.n_jobs];
            bool in_place = job->from.unit == job->to.unit;
            if (in_place &&
                kvi_kv_record_bytes(job->to.format, device->program->groups[job->group].shape.head_dim) >
                    kvi_kv_record_bytes(job->from.format, device->program->groups[job->group].shape.head_dim))
                return kvi_error_set(error, KVRT_INTERNAL, "page conversion: an extent cannot grow in place");
            t.first_task[t.n_jobs] = tasks;
            tasks += in_place ? 1 : records_of(device, job);
        }
        kvi_workers_run(device->workers, convert_one, &t, tasks);
        done += t.n_jobs;
    }
    return KVRT_OK;
}

/* ------------------------------------------------------------------------------------------------------- timing --- */
static void cpu_time_ops(kvi_device *device, bool enable)
{
    memset(device->times, 0, sizeof device->times);
    device->timing = enable;
}

static bool cpu_op_time_at(const kvi_device *device, uint32_t index, kvi_op_time *out)
{
    static const char *const names[KVI_OP_KIND_COUNT] = {"embed",      "norm_linear",  "rope_append", "attention",
                                                         "linear_add", "norm_gate_up", "head"};
    for (uint32_t kind = 0; kind < KVI_OP_KIND_COUNT; kind++) {
        const struct cpu_op_time *time = &device->times[kind];
        if (!time->calls || index--) continue;
        *out = (kvi_op_time){names[kind], time->kernel, time->calls, time->us, time->bytes};
        return true;
    }
    return false;
}

const kvi_backend kvi_backend_cpu = {.name = "cpu",
                                     .probe = cpu_probe,
                                     .open = cpu_open,
                                     .close = cpu_close,
                                     .describe = cpu_describe,
                                     .memory_available = cpu_memory_available,
                                     .check = cpu_check,
                                     .host_bytes = cpu_host_bytes,
                                     .weight_bytes = cpu_weight_bytes,
                                     .weights_reserve = cpu_weights_reserve,
                                     .weight_import = cpu_weight_import,
                                     .workspace_bytes = cpu_workspace_bytes,
                                     .load = cpu_load,
                                     .step_begin = cpu_step_begin,
                                     .run = cpu_run,
                                     .read_logits = cpu_read_logits,
                                     .convert_pages = cpu_convert_pages,
                                     .pool_write = cpu_pool_write,
                                     .pool_read = cpu_pool_read,
                                     .time_ops = cpu_time_ops,
                                     .op_time_at = cpu_op_time_at};
