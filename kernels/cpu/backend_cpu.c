/* backend_cpu.c - the CPU backend's table: device, weights, planned memory, step state, dispatch and timing of
 * operations. */
#include "device_cpu.h"
#include "attention_packed.h"
#include "../../runtime/kv/encode.h"
#include "../../runtime/base/log.h"
#include "../../runtime/model/weight_codec.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------------ device --- */
const kvi_cpu_variant *kvi_cpu_choose(const kvi_cpu *cpu, const char *name)
{
    static const kvi_cpu_variant *const variants[] = {
#if defined(__x86_64__)
        &kvi_cpu_avx512,
        &kvi_cpu_avx2,
#endif
        &kvi_cpu_portable
    }; /* best first */
    const bool avx2 = cpu->avx2 && cpu->fma && cpu->f16c;
    const uint32_t has = (avx2 ? (uint32_t)KVI_CPU_HAS_AVX2 : 0) | (cpu->avx512 ? (uint32_t)KVI_CPU_HAS_AVX512 : 0);
    for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++)
        if (!(variants[i]->needs & ~has) && (strcmp(name, "auto") == 0 || strcmp(name, variants[i]->name) == 0))
            return variants[i];
    return NULL;
}

const kvi_cpu_dots *kvi_cpu_dots_for(const kvi_cpu_variant *v, const kvi_cpu *cpu)
{
#if defined(__x86_64__)
    if ((v->needs & KVI_CPU_HAS_AVX512) && cpu->avx512_vnni) return &kvi_dots_avx512vnni;
    if (v->needs && cpu->avx_vnni) return &kvi_dots_avxvnni;
#endif
    (void)cpu;
    return v->dots;
}

const kvi_cpu_bf16 *kvi_cpu_bf16_for(const kvi_cpu_variant *v, const kvi_cpu *cpu, bool exact)
{
#if defined(__x86_64__)
    if ((v->needs & KVI_CPU_HAS_AVX512) && cpu->avx512_bf16 && !exact) return &kvi_cpu_bf16_avx512;
#endif
    (void)v, (void)cpu, (void)exact;
    return NULL;
}

static const kvi_cpu_packed *rings_for(const kvi_cpu_variant *v, const kvi_cpu *cpu)
{
#if defined(__x86_64__)
    if ((v->needs & KVI_CPU_HAS_AVX512) && cpu->avx512_vbmi) return &kvi_cpu_packed_avx512vbmi;
#endif
    (void)cpu;
    return v->packed;
}

static const kvi_cpu_packed *fixed_for(const kvi_cpu_variant *v, const kvi_cpu *cpu, bool exact)
{
#if defined(__x86_64__)
    if ((v->needs & KVI_CPU_HAS_AVX512) && cpu->avx512_vnni && !exact) return &kvi_cpu_packed_avx512vnni;
#endif
    (void)v, (void)cpu, (void)exact;
    return NULL;
}

static bool cpu_probe(const kvi_device_options *options, char *text, uint64_t cap)
{
    kvi_cpu cpu;
    kvi_os_cpu(&cpu);
    const kvi_cpu_variant *v = kvi_cpu_choose(&cpu, options && options->isa ? options->isa : "auto");
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
    device->v = kvi_cpu_choose(&device->cpu, isa);
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
    device->exact = options->exact;
    device->dots = device->wide_dots = kvi_cpu_dots_for(device->v, &device->cpu);
    device->bf16 = kvi_cpu_bf16_for(device->v, &device->cpu, options->exact);
    device->rings = rings_for(device->v, &device->cpu);
    device->fixed = fixed_for(device->v, &device->cpu, options->exact);
    if (options->amx && device->v->tiles && device->cpu.amx_bf16 && device->cpu.amx_int8 && kvi_os_amx_enable()) {
        device->tiles = device->v->tiles, device->wide_dots = device->tiles->dots;
        device->bf16 = device->tiles->bf16;
    }
    (void)snprintf(device->text, sizeof device->text, "%s, %s%s, %u thread%s", device->cpu.name, device->v->name,
                   device->tiles ? " + AMX" : "", device->n_threads, device->n_threads == 1 ? "" : "s");
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

/* ---------------------------------------------------------------------------------------------------- workspace --- */
/* What a program needs at most, so that one function serves the plan and the load. */
typedef struct demand {
    uint32_t widest_in, widest_normed, max_heads, max_dim, ones;
    uint32_t rope_floats[KVI_MAX_ROPES]; /* of a row */
    uint64_t added;                      /* floats of a row */
    uint32_t top_k, n_experts;           /* of EXPERTS */
    uint32_t absorbed;                   /* floats of a row */
    uint64_t act;                        /* floats of a row */
    uint64_t pair_codes;                 /* bytes of all pairs as codes */
    uint64_t codes;                      /* bytes of activations of products of integers */
    uint64_t buffers, ropes, total;
    size_t scratch_floats;
    uint32_t max_splits;
} demand;

static uint64_t buffer_floats(const kvi_program *program, const kvi_limits *limits, uint32_t i)
{
    const kvi_buffer_desc *b = &program->buffers[i];
    return (uint64_t)(b->rows == KVI_ROWS_LOGIT ? limits->max_logit_rows : limits->max_rows) * b->cols;
}

static uint64_t round64(uint64_t bytes) { return (bytes + 63) & ~(uint64_t)63; }

static void most(uint32_t *so_far, uint32_t n)
{
    if (n > *so_far) *so_far = n;
}

/* What ROUTE, EXPERTS, DELTA and additions that are more than a sum need beside the buffers. */
static void demand_special(const kvi_program *program, const kvi_limits *limits, const kvi_op *op, demand *need)
{
    uint64_t added = 0;
    uint32_t scratch = 0;
    if (op->kind == KVI_OP_LINEAR_ADD && kvi_cpu_adds_specially(op) && !kvi_op_in_place(op))
        added = program->buffers[op->out].cols;
    if (op->kind == KVI_OP_ROUTE) added = op->n_experts, scratch = 2 * op->n_experts + op->route.n_groups;
    if (op->kind == KVI_OP_EXPERTS) {
        added = (uint64_t)program->buffers[op->out].cols * op->route.top_k;
        scratch = (uint32_t)kvi_cpu_experts_scratch(op, program->buffers[op->out].cols);
        most(&need->top_k, op->route.top_k);
        most(&need->n_experts, op->n_experts);
        const uint32_t widest =
            op->expert_width > program->buffers[op->out].cols ? op->expert_width : program->buffers[op->out].cols;
        /* Each run begins a group of four. */
        const uint64_t codes = kvi_dots_input_bytes(widest, limits->max_rows * op->route.top_k + 3u * op->n_experts);
        if (codes > need->pair_codes) need->pair_codes = codes;
        if ((uint64_t)op->expert_width * op->route.top_k > need->act)
            need->act = (uint64_t)op->expert_width * op->route.top_k;
    }
    if (op->kind == KVI_OP_DELTA) scratch = (uint32_t)kvi_cpu_delta_scratch(op);
    if (added > need->added) need->added = added;
    if (scratch > need->scratch_floats) need->scratch_floats = scratch;
    if (op->norm.kind == KVI_NORM_BARE) most(&need->ones, program->buffers[op->in].cols);
    if (op->post_norm.kind == KVI_NORM_BARE) most(&need->ones, program->buffers[op->out].cols);
    if (op->kind == KVI_OP_DELTA && op->q_norm.kind == KVI_NORM_BARE) most(&need->ones, op->value_dim);
    if (op->kind == KVI_OP_ROPE_APPEND &&
        (op->q_norm.kind == KVI_NORM_BARE || op->k_norm.kind == KVI_NORM_BARE || op->v_norm.kind == KVI_NORM_BARE))
        most(&need->ones, op->norm_whole ? program->buffers[op->in].cols : program->groups[op->group].shape.head_dim);
}

static void demand_latent(const kvi_program *program, const kvi_op *op, demand *need)
{
    const kvi_kv_shape *shape = &program->groups[op->group].shape;
    const size_t floats = kvi_cpu_latent_scratch(op, shape),
                 convert = 2u * shape->head_dim * KVI_KV_PAGE + kvi_kv_encode_scratch(shape->head_dim);
    if (floats > need->scratch_floats) need->scratch_floats = floats;
    if (convert > need->scratch_floats) need->scratch_floats = convert;
    most(&need->max_dim, shape->head_dim);
    most(&need->max_heads, op->n_heads);
    most(&need->absorbed, op->n_heads * (shape->head_dim + shape->rope_dim));
}

/* Most parts of a narrow step: of each row all query heads of one KV head, by KVI_CPU_QUERY_BLOCK. */
static uint64_t parts_of(const demand *need, uint64_t rows)
{
    return rows * ((need->max_heads + KVI_CPU_QUERY_BLOCK - 1) / KVI_CPU_QUERY_BLOCK);
}

static demand demand_of(const kvi_program *program, const kvi_limits *limits, uint32_t n_threads)
{
    demand need = {0};
    for (uint32_t i = 0; i < program->n_ops; i++) {
        const kvi_op *op = &program->ops[i];
        uint32_t cols = program->buffers[op->in].cols;
        if (op->kind != KVI_OP_EMBED && op->kind != KVI_OP_ATTENTION && op->kind != KVI_OP_ROPE_APPEND &&
            cols > need.widest_in)
            need.widest_in = cols;
        const uint64_t codes = op->n_weights * kvi_dots_input_bytes(cols, limits->max_rows);
        if (op->kind != KVI_OP_EMBED && codes > need.codes) need.codes = codes;
        if (op->norm.kind || op->kind == KVI_OP_HEAD) most(&need.widest_normed, cols); /* as kvi_cpu_norm_rows asks */
        if (op->kind == KVI_OP_ATTENTION) {
            uint32_t d = program->groups[op->group].shape.head_dim;
            size_t floats = kvi_cpu_attention_scratch(d), convert = 2u * d * KVI_KV_PAGE + kvi_kv_encode_scratch(d);
            if (convert > floats) floats = convert;
            if (kvi_cpu_prefill_scratch(d) > floats) floats = kvi_cpu_prefill_scratch(d);
            if (floats > need.scratch_floats) need.scratch_floats = floats;
            if (d > need.max_dim) need.max_dim = d;
            if (op->n_heads > need.max_heads) need.max_heads = op->n_heads;
        }
        if (op->kind == KVI_OP_ATTENTION_LATENT) demand_latent(program, op, &need);
    }
    for (uint32_t i = 0; i < program->n_ops; i++) demand_special(program, limits, &program->ops[i], &need);
    for (uint32_t i = 0; i < program->n_ropes; i++) {
        need.rope_floats[i] = program->ropes[i].n_dims / 2;
        need.ropes += 2 * round64((uint64_t)limits->max_rows * need.rope_floats[i] * 4);
    }
    if (need.scratch_floats < KVI_CPU_KC * 64u) need.scratch_floats = KVI_CPU_KC * 64u;
    if (need.scratch_floats < KVI_CPU_BF16_SCRATCH / 4u) need.scratch_floats = KVI_CPU_BF16_SCRATCH / 4u;
    if (need.scratch_floats < kvi_dots_scratch() / 4u) need.scratch_floats = kvi_dots_scratch() / 4u;
    need.scratch_floats = (need.scratch_floats + 15) & ~(size_t)15;
    need.max_splits = (limits->max_ctx / KVI_KV_PAGE + KVI_CPU_SPLIT_PAGES) / KVI_CPU_SPLIT_PAGES + 1;
    for (uint32_t i = 0; i < program->n_buffers; i++) need.buffers += round64(buffer_floats(program, limits, i) * 4);
    const uint64_t rows = limits->max_rows, small = rows < KVI_BATCH_ROWS ? rows : KVI_BATCH_ROWS;
    need.total = need.buffers + round64(rows * need.widest_normed * 4) +
                 round64(n_threads * kvi_cpu_products(limits->max_rows) * 4) +
                 round64(((rows + 31) / 32 * 32) * need.widest_in * 2) + round64(need.codes) +
                 round64((uint64_t)n_threads * need.scratch_floats * 4) +
                 round64(small * need.max_heads * need.max_splits * (need.max_dim + 2u) * 4) +
                 round64(parts_of(&need, small) * sizeof(kvi_cpu_part)) +
                 round64(parts_of(&need, small) * need.max_splits * sizeof(kvi_cpu_company)) + need.ropes +
                 round64(rows * need.max_heads * 2 * 4) + round64(rows * need.added * 4) + round64(need.ones * 4ull) +
                 round64(rows * 4) * 4 + round64(small * need.absorbed * 4) + round64(rows * need.top_k * 4) * 2 +
                 round64((need.n_experts + 1ull) * 4) + round64(need.n_experts * sizeof(kvi_cpu_run_of)) +
                 round64(rows * need.act * 4) + round64(need.pair_codes) +
                 round64(kvi_cpu_best_bytes(program->vocab_size)) +
                 round64((limits->max_seqs + 1ull) * sizeof(kvi_seq)) + 64;
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
    const uint64_t rows = d->limits.max_rows, small = rows < KVI_BATCH_ROWS ? rows : KVI_BATCH_ROWS;
    for (uint32_t i = 0; i < d->program->n_buffers; i++)
        d->buffers[i] = carve(&at, buffer_floats(d->program, &d->limits, i) * 4);
    d->normed = carve(&at, rows * need->widest_normed * 4);
    d->products = carve(&at, d->n_threads * kvi_cpu_products(d->limits.max_rows) * 4);
    d->bf16_packed = carve(&at, ((rows + 31) / 32 * 32) * need->widest_in * 2);
    d->dots_codes = carve(&at, need->codes);
    d->thread_scratch = carve(&at, (uint64_t)d->n_threads * need->scratch_floats * 4);
    d->split_out = carve(&at, small * need->max_heads * need->max_splits * (need->max_dim + 2u) * 4);
    d->parts = carve(&at, parts_of(need, small) * sizeof(kvi_cpu_part));
    d->companies = carve(&at, parts_of(need, small) * need->max_splits * sizeof(kvi_cpu_company));
    d->sums = carve(&at, rows * need->max_heads * 2 * 4);
    for (uint32_t i = 0; i < d->program->n_ropes; i++) {
        d->rope_cos[i] = carve(&at, rows * need->rope_floats[i] * 4);
        d->rope_sin[i] = carve(&at, rows * need->rope_floats[i] * 4);
    }
    d->added = carve(&at, rows * need->added * 4);
    d->ones = carve(&at, need->ones * 4ull);
    for (uint32_t i = 0; i < need->ones; i++) d->ones[i] = 1.0f;
    d->absorbed = carve(&at, small * need->absorbed * 4);
    d->mixture.place = carve(&at, rows * need->top_k * 4);
    d->mixture.pair = carve(&at, rows * need->top_k * 4);
    d->mixture.first = carve(&at, (need->n_experts + 1ull) * 4);
    d->mixture.used = carve(&at, need->n_experts * sizeof(kvi_cpu_run_of));
    d->mixture.act = carve(&at, rows * need->act * 4);
    d->mixture.codes = carve(&at, need->pair_codes);
    d->bests = carve(&at, kvi_cpu_best_bytes(d->program->vocab_size));
    d->ids = carve(&at, rows * 4);
    d->logit_rows = carve(&at, rows * 4);
    d->row_seq = carve(&at, rows * 4);
    d->row_pos = carve(&at, rows * 4);
    d->seqs = carve(&at, (d->limits.max_seqs + 1ull) * sizeof(kvi_seq));
    d->scratch_floats = need->scratch_floats;
}

static kvrt_status check_op(const kvi_op *op, kvrt_error *error)
{
    const kvi_route *route = &op->route;
    if (op->kind == KVI_OP_CONV_STATE && op->weights[0] && op->weights[0]->desc.n_in > KVI_MAX_CONV)
        return kvi_error_set(error, KVRT_UNSUPPORTED, "conv_state, layer %u: %u taps, need at most %u", op->layer,
                             op->weights[0]->desc.n_in, KVI_MAX_CONV);
    if (op->kind == KVI_OP_DELTA && (op->n_kv_heads == 0 || op->n_heads % op->n_kv_heads))
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "delta, layer %u: %u value heads over %u key heads, need a multiple", op->layer,
                             op->n_heads, op->n_kv_heads);
    if (op->kind != KVI_OP_ROUTE && op->kind != KVI_OP_EXPERTS) return KVRT_OK;
    if (route->top_k == 0 || route->top_k > KVI_MAX_TOP_K || route->top_k > op->n_experts)
        return kvi_error_set(error, KVRT_UNSUPPORTED, "%s, layer %u: %u of %u experts, need 1 to %u",
                             kvi_op_name(op->kind), op->layer, route->top_k, op->n_experts, KVI_MAX_TOP_K);
    if (route->n_groups > 1 && (op->n_experts % route->n_groups || route->top_groups == 0 ||
                                (uint64_t)route->top_groups * (op->n_experts / route->n_groups) < route->top_k))
        return kvi_error_set(error, KVRT_UNSUPPORTED, "%s, layer %u: %u experts in %u groups, %u of them chosen",
                             kvi_op_name(op->kind), op->layer, op->n_experts, route->n_groups, route->top_groups);
    return KVRT_OK;
}

/* The widths of a latent group: those of its two sides. */
static kvrt_status check_latent(const kvi_kv_shape *shape, const kvi_limits *limits, kvrt_error *error)
{
    const uint32_t plain = (1u << KVI_KV_F32) | (1u << KVI_KV_F16) | (1u << KVI_KV_BF16),
                   unit = limits->page_formats & ~plain ? 16 : 8;
    if (!shape->rope_dim || (shape->head_dim % unit == 0 && shape->head_dim <= KVI_KV_MAX_HEAD_DIM &&
                             shape->rope_dim % unit == 0 && shape->rope_dim <= KVI_KV_PAGE))
        return KVRT_OK;
    return kvi_error_set(
        error, KVRT_UNSUPPORTED,
        "latent attention: a latent of %u and roped keys of %u, need multiples of %u up to %u and %u%s",
        shape->head_dim, shape->rope_dim, unit, KVI_KV_MAX_HEAD_DIM, KVI_KV_PAGE,
        unit == 16 ? " (or kv.format f16)" : "");
}

static kvrt_status cpu_check(const kvi_program *program, const kvi_limits *limits, kvrt_error *error)
{
    if (program->n_buffers > KVI_MAX_BUFFERS || program->n_ropes > KVI_MAX_ROPES)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "program: %u buffers and %u sets of RoPE, the CPU backend has room for %u and %u",
                             program->n_buffers, program->n_ropes, KVI_MAX_BUFFERS, KVI_MAX_ROPES);
    for (uint32_t i = 0; i < program->n_ops; i++) KVI_TRY(check_op(&program->ops[i], error));
    for (uint32_t g = 0; g < program->n_groups; g++) {
        const kvi_cache_group *group = &program->groups[g];
        KVI_TRY(check_latent(&group->shape, limits, error));
        if (!group->shape.rope_dim && (group->shape.head_dim % 8 || group->shape.head_dim > KVI_KV_MAX_HEAD_DIM))
            return kvi_error_set(error, KVRT_UNSUPPORTED, "attention: head_dim %u, need a multiple of 8 up to %u",
                                 group->shape.head_dim, KVI_KV_MAX_HEAD_DIM);
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
    /* Tests and probes plan no growth. */
    const uint64_t most = limits->pool_most_bytes > limits->pool_bytes ? limits->pool_most_bytes : limits->pool_bytes;
    device->pool = most ? kvi_mem_alloc_reserved(limits->pool_bytes, most) : NULL;
    if (most && !device->pool) return kvi_error_nomem(error, limits->pool_bytes, "KV pool");
    device->workspace = kvi_mem_alloc_aligned(need.total);
    if (!device->workspace) return kvi_error_nomem(error, need.total, "workspace");
    carve_workspace(device, &need);
    return KVRT_OK;
}

/* --------------------------------------------------------------------------------------------------------- step --- */
/* RoPE angles of the step: product and reduction in double, then f32 (an f32 product is 2e-3 rad off at 131k). */
static void fill_angles(kvi_device *device)
{
    for (uint32_t set = 0; set < device->program->n_ropes; set++) {
        const kvi_rope *rope = &device->program->ropes[set];
        const uint32_t half = rope->n_dims / 2;
        for (uint32_t r = 0; r < device->step.n_rows; r++)
            for (uint32_t i = 0; i < half; i++) {
                const uint32_t turns = device->row_pos[r] + device->seqs[device->row_seq[r]].ahead;
                const double angle = rope->inv_freq[i] * turns;
                device->rope_cos[set][(size_t)r * half + i] = (float)cos(angle) * rope->magnitude;
                device->rope_sin[set][(size_t)r * half + i] = (float)sin(angle) * rope->magnitude;
            }
    }
}

static kvrt_status cpu_step_begin(kvi_device *device, const kvi_step *step, kvrt_error *error)
{
    const kvi_limits *limits = &device->limits;
    if (step->n_rows == 0 || step->n_rows > limits->max_rows ||
        step->n_seqs > limits->max_seqs + (step->n_wide ? 1u : 0u) || step->n_logit_rows > limits->max_logit_rows)
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

/* Integers have the same bits in both forms (dots.h), and attention and routers look which rows are which. Numbers would be multiplied in two ways,
 * one after the other, and states of two forms of one text at a time: nothing would be gained. */
static bool cpu_mixes(const kvi_device *device)
{
    const kvi_program *program = device->program;
    if (program->state_bytes || device->dots != device->wide_dots) return false;
    for (uint32_t i = 0; i < program->n_step; i++) {
        const kvi_op *op = &program->ops[i];
        for (uint32_t w = 0; w < op->n_weights; w++)
            if (op->kind != KVI_OP_EMBED && op->kind != KVI_OP_ROUTE && op->kind != KVI_OP_ATTENTION_LATENT &&
                !kvi_cpu_multiplies_integers(device, op->weights[w]))
                return false;
    }
    return true;
}

static kvrt_status cpu_read_logits(kvi_device *device, uint32_t logit_row, float *out, kvrt_error *error)
{
    if (logit_row >= device->step.n_logit_rows)
        return kvi_error_set(error, KVRT_INTERNAL, "logits: row %u of %u", logit_row, device->step.n_logit_rows);
    size_t vocab = device->program->vocab_size;
    memcpy(out, device->buffers[device->program->logits] + logit_row * vocab, vocab * 4);
    return KVRT_OK;
}

static kvrt_status cpu_read_row(kvi_device *device, kvi_buffer buffer, uint32_t row, float *out, kvrt_error *error)
{
    if (row >= device->step.n_rows)
        return kvi_error_set(error, KVRT_INTERNAL, "row %u of %u", row, device->step.n_rows);
    const size_t cols = device->program->buffers[buffer].cols;
    memcpy(out, device->buffers[buffer] + row * cols, cols * sizeof *out);
    return KVRT_OK;
}

/* --------------------------------------------------------------------------------------------------------- pool --- */
static void cpu_pool_discard(kvi_device *device, uint64_t offset, uint64_t len)
{
    kvi_os_pages_discard(device->pool + offset, len);
}

static kvrt_status cpu_pool_resize(kvi_device *device, uint64_t bytes, kvrt_error *error)
{
    if (device->pool && !kvi_mem_resize_reserved(device->pool, bytes)) return kvi_error_nomem(error, bytes, "KV pool");
    device->limits.pool_bytes = bytes;
    return KVRT_OK;
}

static kvrt_status cpu_pool_write(kvi_device *device, uint64_t offset, const void *bytes, uint64_t len,
                                  kvrt_error *error)
{
    KVI_TRY(kvi_pool_check(&device->limits, offset, len, error));
    memcpy(device->pool + offset, bytes, len);
    return KVRT_OK;
}
static void *cpu_pool_at(kvi_device *device, uint64_t offset) { return device->pool + offset; }

static kvrt_status cpu_pool_read(kvi_device *device, uint64_t offset, void *bytes, uint64_t len, kvrt_error *error)
{
    KVI_TRY(kvi_pool_check(&device->limits, offset, len, error));
    memcpy(bytes, device->pool + offset, len);
    return KVRT_OK;
}
static kvrt_status cpu_pool_move(kvi_device *device, uint32_t from_unit, uint32_t to_unit, uint32_t units,
                                 kvrt_error *error)
{
    const uint64_t from = (uint64_t)from_unit * KVI_KV_UNIT, to = (uint64_t)to_unit * KVI_KV_UNIT,
                   bytes = (uint64_t)units * KVI_KV_UNIT;
    KVI_TRY(kvi_pool_check(&device->limits, from, bytes, error));
    KVI_TRY(kvi_pool_check(&device->limits, to, bytes, error));
    memmove(device->pool + to, device->pool + from, bytes);
    return KVRT_OK;
}
/* ------------------------------------------------------------------------------------------------------- timing --- */
static void cpu_time_ops(kvi_device *device, bool enable)
{
    memset(device->times, 0, sizeof device->times);
    device->timing = enable;
}

static void cpu_watch(kvi_device *device, kvi_watch_fn fn, void *user)
{
    device->watch = fn;
    device->watch_user = user;
}

static bool cpu_op_time_at(const kvi_device *device, uint32_t index, kvi_op_time *out)
{
    for (uint32_t kind = 0; kind < KVI_OP_KIND_COUNT; kind++) {
        const struct cpu_op_time *time = &device->times[kind];
        if (!time->calls || index--) continue;
        *out = (kvi_op_time){kvi_op_name((kvi_op_kind)kind), time->kernel, time->calls, time->us, time->bytes};
        return true;
    }
    return false;
}

const kvi_backend kvi_backend_cpu = {.name = "cpu",
                                     .fixed_kv_scales = true,
                                     .observes = true,
                                     .narrow_rows = KVI_BATCH_ROWS,
                                     .rounds_by_queries = true,
                                     .probe = cpu_probe,
                                     .open = cpu_open,
                                     .close = cpu_close,
                                     .describe = cpu_describe,
                                     .memory_available = cpu_memory_available,
                                     .check = cpu_check,
                                     .host_bytes = cpu_host_bytes,
                                     .kernel_of = kvi_cpu_kernel_of,
                                     .weight_bytes = kvi_cpu_weight_bytes,
                                     .weights_reserve = kvi_cpu_weights_reserve,
                                     .kept_version = KVI_TILE_VERSION,
                                     .kept_bytes = kvi_cpu_kept_bytes,
                                     .kept_form = kvi_cpu_kept_form,
                                     .weight_import = kvi_cpu_weight_import,
                                     .workspace_bytes = cpu_workspace_bytes,
                                     .load = cpu_load,
                                     .mixes = cpu_mixes,
                                     .step_begin = cpu_step_begin,
                                     .run = kvi_cpu_run,
                                     .run_some = kvi_cpu_run_some,
                                     .read_logits = cpu_read_logits,
                                     .read_row = cpu_read_row,
                                     .read_best = kvi_cpu_read_best,
                                     .convert_pages = kvi_cpu_convert_pages,
                                     .convert_some = kvi_cpu_convert_some,
                                     .pool_move = cpu_pool_move,
                                     .pool_discard = cpu_pool_discard,
                                     .pool_resize = cpu_pool_resize,
                                     .pool_write = cpu_pool_write,
                                     .pool_read = cpu_pool_read,
                                     .pool_at = cpu_pool_at,
                                     .watch = cpu_watch,
                                     .time_ops = cpu_time_ops,
                                     .op_time_at = cpu_op_time_at};
