/* attention_cuda.c - ROPE_APPEND and ATTENTION as launches of rope_append_*, attn_decode_*, attn_combine_* and attn_prefill_*.
 * Up to SPLIT_ROWS rows the context is split over the card (decode); more rows fill it by themselves (prefill, one launch).
 * Decode: one launch per page format (a warp skips pages of others), side by side in a graph, then one that merges their partial results. Which
 * formats are launched a step says, or its graph; where the parts of a format stand does not depend on it, so neither do the bits.
 * Grids depend on the number of rows, the limits and the card, never on how long a context is. The number of splits is the same for every
 * step of up to KVI_DECODE_ROWS rows, so that a sequence has the same bits alone and in a batch. */
#include "device_cuda.h"
#include "attention_params.h"
#include "../../runtime/kv/format.h"

#define MAX_ROPES 8u
#define N_FORMATS KVI_DECODE_FORMATS
#define DECODE_THREADS (32u * KVI_DECODE_WARPS)
#define COMBINE_THREADS 256u
#define PREFILL_THREADS 256u
#define PREFILL_COLS 128u
#define SPLIT_ROWS 32u

static const struct attention_format {
    uint32_t format;
    uint32_t codes;  /* bit set that limits.page_formats has when such pages may occur */
    uint32_t blocks; /* that a multiprocessor holds, but for head dimension 256 */
} formats[N_FORMATS] = {{KVI_KV_FMT_F16, 1u << KVI_KV_F16, KVI_DECODE_BLOCKS_WIDE},
                        {KVI_KV_FMT_I8, 1u << KVI_KV_I8, KVI_DECODE_BLOCKS_WIDE},
                        {KVI_KV_FMT_K4V4, 1u << KVI_KV_Q4, KVI_DECODE_BLOCKS_NARROW},
                        {KVI_KV_FMT_K4V2, 1u << KVI_KV_Q4 | 1u << KVI_KV_Q2, KVI_DECODE_BLOCKS_NARROW}};

/* [format][head dimension] */
static const kvi_cuda_kernel_id decode_kernels[N_FORMATS][3] = {
    {KVI_CUDA_K_attn_decode_f16_d64, KVI_CUDA_K_attn_decode_f16_d128, KVI_CUDA_K_attn_decode_f16_d256},
    {KVI_CUDA_K_attn_decode_i8_d64, KVI_CUDA_K_attn_decode_i8_d128, KVI_CUDA_K_attn_decode_i8_d256},
    {KVI_CUDA_K_attn_decode_k4v4_d64, KVI_CUDA_K_attn_decode_k4v4_d128, KVI_CUDA_K_attn_decode_k4v4_d256},
    {KVI_CUDA_K_attn_decode_k4v2_d64, KVI_CUDA_K_attn_decode_k4v2_d128, KVI_CUDA_K_attn_decode_k4v2_d256}};
static const kvi_cuda_kernel_id combine_kernels[3] = {KVI_CUDA_K_attn_combine_d64, KVI_CUDA_K_attn_combine_d128,
                                                      KVI_CUDA_K_attn_combine_d256};
static const kvi_cuda_kernel_id prefill_kernels[3] = {KVI_CUDA_K_attn_prefill_d64, KVI_CUDA_K_attn_prefill_d128,
                                                      KVI_CUDA_K_attn_prefill_d256};
static const kvi_cuda_kernel_id rope_kernels[3] = {KVI_CUDA_K_rope_append_d64, KVI_CUDA_K_rope_append_d128,
                                                   KVI_CUDA_K_rope_append_d256};

static uint32_t dim_index(uint32_t head_dim) { return head_dim == 64 ? 0 : head_dim == 128 ? 1 : 2; }

struct kvi_cuda_attention {
    kvi_dptr turns[MAX_ROPES];
    kvi_dptr ml, acc;
    uint32_t n_formats, used[N_FORMATS]; /* indices into formats */
};

/* ---------------------------------------------------------------------------------------------------------- check --- */
static bool format_possible(uint32_t index, uint32_t codes) { return (formats[index].codes & ~codes) == 0; }

static bool has_kernel(uint32_t format)
{
    for (uint32_t i = 0; i < N_FORMATS; i++)
        if (formats[i].format == format) return true;
    return false;
}

kvrt_status kvi_cuda_attention_check(const kvi_program *program, const kvi_limits *limits, kvrt_error *error)
{
    const uint32_t known = 1u << KVI_KV_F16 | 1u << KVI_KV_I8 | 1u << KVI_KV_Q4 | 1u << KVI_KV_Q2;
    char text[8];
    for (uint32_t i = 0; i < program->n_ops; i++) {
        const kvi_op *op = &program->ops[i];
        if (op->kind != KVI_OP_ROPE_APPEND && op->kind != KVI_OP_ATTENTION) continue;
        const char *name = op->kind == KVI_OP_ATTENTION ? "attention" : "rope_append";
        const kvi_cache_group *group = &program->groups[op->group];
        const uint32_t d = group->shape.head_dim;
        if (d != 64 && d != 128 && d != 256)
            return kvi_error_set(
                error, KVRT_UNSUPPORTED,
                "%s, layer %u: head_dim %u; the CUDA backend has 64, 128 and 256 (backend 'cpu' has all)", name,
                op->layer, d);
        if (group->plain != KVI_KV_F16)
            return kvi_error_set(error, KVRT_UNSUPPORTED,
                                 "%s, layer %u: %s pages; the CUDA backend keeps unencoded pages in f16 (kv.format)",
                                 name, op->layer, group->plain == KVI_KV_BF16 ? "bf16" : "f32");
        if (op->n_heads == 0 || op->n_heads % group->shape.n_kv_heads)
            return kvi_error_set(error, KVRT_UNSUPPORTED,
                                 "%s, layer %u: %u query heads over %u KV heads, need a multiple", name, op->layer,
                                 op->n_heads, group->shape.n_kv_heads);
        if (op->rope && (op->rope->n_dims > d || op->rope->n_dims % 2))
            return kvi_error_set(error, KVRT_UNSUPPORTED, "%s, layer %u: RoPE over %u of %u dimensions", name,
                                 op->layer, op->rope->n_dims, d);
    }
    if ((limits->page_formats & ~known) || (!kvi_kv_format_is_plain(limits->body) && !has_kernel(limits->body)))
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "attention: %s pages; the CUDA backend reads f16, i8, k4v4 and k4v2 (kv.format)",
                             kvi_kv_format_name(limits->body, text));
    if (program->n_ropes > MAX_ROPES)
        return kvi_error_set(error, KVRT_UNSUPPORTED, "rope_append: more than %u sets of RoPE frequencies", MAX_ROPES);
    return KVRT_OK;
}

/* Index into formats; N_FORMATS: no kernel, or not planned for. */
static uint32_t index_of(const struct kvi_cuda_attention *a, uint32_t format)
{
    for (uint32_t i = 0; i < a->n_formats; i++)
        if (formats[a->used[i]].format == format) return a->used[i];
    return N_FORMATS;
}

/* limits.page_formats knows sides, not pairs of them: a session's own pair without a kernel (k2v2, say) shows here. */
kvrt_status kvi_cuda_attention_check_step(const kvi_device *device, const kvi_step *step, kvrt_error *error)
{
    for (uint32_t s = 0; s < step->n_seqs; s++) {
        const kvi_seq *seq = &step->seqs[s];
        for (uint32_t g = 0; g < device->program->n_groups; g++)
            for (uint32_t p = 0; p < (seq->pos + seq->n_rows + KVI_KV_PAGE - 1) / KVI_KV_PAGE; p++) {
                const kvi_page_ref *page = &seq->pages[g][p];
                if (page->unit != KVI_KV_NO_EXTENT && index_of(device->attention, page->format) == N_FORMATS)
                    return kvi_error_set(error, KVRT_UNSUPPORTED,
                                         "attention: a page with %u-bit keys and %u-bit values; the CUDA backend reads "
                                         "f16, i8, k4v4 and k4v2 (kv.format)",
                                         kvi_kv_code_bits(KVI_KV_K_CODE(page->format)),
                                         kvi_kv_code_bits(KVI_KV_V_CODE(page->format)));
            }
    }
    return KVRT_OK;
}

uint32_t kvi_cuda_attention_formats(const kvi_device *device, const kvi_step *step)
{
    uint32_t found = 0;
    for (uint32_t s = 0; s < step->n_seqs; s++) {
        const kvi_seq *seq = &step->seqs[s];
        for (uint32_t g = 0; g < device->program->n_groups; g++)
            for (uint32_t p = 0; p < (seq->pos + seq->n_rows + KVI_KV_PAGE - 1) / KVI_KV_PAGE; p++)
                if (seq->pages[g][p].unit != KVI_KV_NO_EXTENT)
                    found |= 1u << index_of(device->attention, seq->pages[g][p].format);
    }
    return found;
}

uint32_t kvi_cuda_attention_usual(const kvi_device *device)
{
    const uint32_t body = kvi_kv_format_is_plain(device->limits.body) ? KVI_KV_FMT_F16 : device->limits.body;
    return (1u << index_of(device->attention, KVI_KV_FMT_F16) | 1u << index_of(device->attention, body)) &
           kvi_cuda_attention_possible(device);
}

uint32_t kvi_cuda_attention_possible(const kvi_device *device)
{
    uint32_t possible = 0;
    for (uint32_t i = 0; i < device->attention->n_formats; i++) possible |= 1u << device->attention->used[i];
    return possible;
}

/* --------------------------------------------------------------------------------------------------------- memory --- */
uint32_t kvi_cuda_decode_splits(uint32_t blocks_per_sm, uint32_t sm_count, uint32_t n_kv_heads, uint32_t max_ctx,
                                uint32_t rows)
{
    const uint32_t most = max_ctx / KVI_KV_PAGE + (max_ctx % KVI_KV_PAGE != 0);
    uint32_t n = blocks_per_sm * sm_count / n_kv_heads;
    if (n > most) n = most;
    n /= (rows + KVI_DECODE_ROWS - 1) / KVI_DECODE_ROWS;
    return n ? n : 1;
}

static uint32_t splits_for(uint32_t format, uint32_t rows, const kvi_kv_shape *shape, uint32_t max_ctx,
                           uint32_t sm_count)
{
    const uint32_t blocks = shape->head_dim == 256 ? KVI_DECODE_BLOCKS_256 : formats[format].blocks;
    return kvi_cuda_decode_splits(blocks, sm_count, shape->n_kv_heads, max_ctx, rows);
}

typedef struct demand {
    uint64_t ml, acc; /* bytes */
} demand;

static demand demand_of(const kvi_program *program, const kvi_limits *limits, uint32_t sm_count)
{
    const uint32_t rows = limits->max_rows < SPLIT_ROWS ? limits->max_rows : SPLIT_ROWS;
    const uint64_t small = rows < KVI_DECODE_ROWS ? rows : KVI_DECODE_ROWS;
    demand need = {0, 0};
    for (uint32_t i = 0; i < program->n_ops; i++) {
        const kvi_op *op = &program->ops[i];
        if (op->kind != KVI_OP_ATTENTION) continue;
        const kvi_kv_shape *shape = &program->groups[op->group].shape;
        uint64_t parts = 0, n_formats = 0;
        for (uint32_t k = 0; k < N_FORMATS; k++) {
            if (!format_possible(k, limits->page_formats)) continue;
            parts += splits_for(k, 1, shape, limits->max_ctx, sm_count);
            n_formats++;
        }
        uint64_t slots = small * parts;
        if (slots < rows * n_formats) slots = rows * n_formats;
        slots *= op->n_heads;
        if (slots * 8u > need.ml) need.ml = slots * 8u;
        if (slots * shape->head_dim * 4u > need.acc) need.acc = slots * shape->head_dim * 4u;
    }
    return need;
}

uint64_t kvi_cuda_attention_bytes(const kvi_program *program, const kvi_limits *limits)
{
    const demand need = demand_of(program, limits, KVI_CUDA_MAX_SMS);
    uint64_t bytes = kvi_cuda_round(need.ml) + kvi_cuda_round(need.acc);
    for (uint32_t i = 0; i < program->n_ropes; i++)
        bytes += kvi_cuda_round((uint64_t)program->ropes[i].n_dims / 2 * sizeof(double));
    return bytes;
}

kvrt_status kvi_cuda_attention_prepare(kvi_device *device, kvi_dptr memory, kvrt_error *error)
{
    struct kvi_cuda_attention *a = kvi_arena_alloc(&device->arena, sizeof *a);
    if (!a) return kvi_error_nomem(error, sizeof *a, "attention");
    *a = (struct kvi_cuda_attention){0};
    device->attention = a;
    for (uint32_t i = 0; i < N_FORMATS; i++)
        if (format_possible(i, device->limits.page_formats)) a->used[a->n_formats++] = i;
    const demand need = demand_of(device->program, &device->limits, KVI_CUDA_MAX_SMS);
    kvi_cuda_space space = {memory, 0};
    a->ml = kvi_cuda_carve(&space, need.ml);
    a->acc = kvi_cuda_carve(&space, need.acc);
    for (uint32_t i = 0; i < device->program->n_ropes; i++) {
        const kvi_rope *rope = &device->program->ropes[i];
        const uint32_t n = rope->n_dims / 2;
        double *turns = kvi_arena_alloc(&device->arena, n * sizeof *turns);
        if (!turns) return kvi_error_nomem(error, n * sizeof *turns, "RoPE frequencies");
        for (uint32_t k = 0; k < n; k++) turns[k] = rope->inv_freq[k] * 0.15915494309189535; /* 1 / 2 pi */
        a->turns[i] = kvi_cuda_carve(&space, n * sizeof *turns);
        KVI_TRY(kvi_cuda_upload(device, a->turns[i], turns, n * sizeof *turns, error));
    }
    return KVRT_OK;
}

/* -------------------------------------------------------------------------------------------------------- launches --- */
static kvi_cuda_kv kv_of(const kvi_device *device, const kvi_op *op)
{
    const kvi_cache_group *group = &device->program->groups[op->group];
    return (kvi_cuda_kv){.pool = device->pool,
                         .group = op->group,
                         .layer = op->group_layer,
                         .n_kv_heads = group->shape.n_kv_heads,
                         .head_dim = group->shape.head_dim,
                         .window = group->window,
                         .rotate = group->rotate};
}

kvi_dptr kvi_cuda_turns_of(const kvi_device *device, const kvi_rope *rope)
{
    return device->attention->turns[rope - device->program->ropes];
}

static kvi_dptr gain_of(const kvi_norm *norm) { return norm->kind == KVI_NORM_GAIN ? norm->gain->data.codes : 0; }

static kvrt_status norm_heads(kvi_device *device, const kvi_op *op, uint32_t rows, kvrt_error *error)
{
    const kvi_cuda_buffer *io = &device->buffers[op->out];
    const kvi_kv_shape *shape = &device->program->groups[op->group].shape;
    const kvi_cuda_norm_heads_params p = {.step = device->map,
                                          .io = io->data,
                                          .q_gain = gain_of(&op->q_norm),
                                          .k_gain = gain_of(&op->k_norm),
                                          .pitch = io->pitch,
                                          .n_q = op->n_heads * shape->head_dim,
                                          .n_k = shape->n_kv_heads * shape->head_dim,
                                          .bf16 = io->dtype == KVI_BF16,
                                          .q_norm = op->q_norm.kind,
                                          .k_norm = op->k_norm.kind && !op->queries_only,
                                          .q_eps = op->q_norm.eps,
                                          .k_eps = op->k_norm.eps};
    return kvi_cuda_launch(device, KVI_CUDA_K_norm_heads, rows, 2, 1, 256, 8 * sizeof(float), &p, error);
}

kvrt_status kvi_cuda_rope_append_run(kvi_device *device, const kvi_op *op, uint32_t rows, const char **kernel,
                                     kvrt_error *error)
{
    const kvi_cuda_buffer *io = &device->buffers[op->out];
    const bool each = !op->norm_whole;
    kvi_cuda_rope_params p = {.step = device->map,
                              .kv = kv_of(device, op),
                              .qkv = io->data,
                              .q_gain = gain_of(&op->q_norm),
                              .k_gain = gain_of(&op->k_norm),
                              .v_gain = gain_of(&op->v_norm),
                              .pitch = io->pitch,
                              .n_heads = op->n_heads,
                              .bf16 = io->dtype == KVI_BF16,
                              .magnitude = 1,
                              .eps = op->q_norm.kind   ? op->q_norm.eps
                                     : op->k_norm.kind ? op->k_norm.eps
                                                       : op->v_norm.eps,
                              .q_norm = each && op->q_norm.kind,
                              .k_norm = each && op->k_norm.kind,
                              .v_norm = op->v_norm.kind,
                              .keys_as_values = op->keys_as_values,
                              .q_growth = op->q_growth,
                              .q_growth_ctx = op->q_growth_ctx,
                              .queries_only = op->queries_only};
    if (op->norm_whole) KVI_TRY(norm_heads(device, op, rows, error));
    if (op->rope) p.turns = kvi_cuda_turns_of(device, op->rope);
    if (op->rope) p.n_dims = op->rope->n_dims, p.magnitude = op->rope->magnitude;
    if (op->rope) p.apart = op->rope->interleaved ? 1 : p.n_dims / 2, p.next = op->rope->interleaved ? 2 : 1;
    const kvi_cuda_kernel_id id = rope_kernels[dim_index(p.kv.head_dim)];
    *kernel = kvi_cuda_kernel_name(id);
    return kvi_cuda_launch(device, id, rows, (p.n_heads + 2 * p.kv.n_kv_heads + 3) / 4, 1, 128, 4 * p.kv.head_dim * 4,
                           &p, error);
}

kvrt_status kvi_cuda_attention_run(kvi_device *device, const kvi_op *op, uint32_t rows, const char **kernel,
                                   kvrt_error *error)
{
    const struct kvi_cuda_attention *a = device->attention;
    const kvi_cuda_buffer *in = &device->buffers[op->in], *out = &device->buffers[op->out];
    kvi_cuda_attention_params p = {.step = device->map,
                                   .kv = kv_of(device, op),
                                   .q = in->data,
                                   .out = out->data,
                                   .ml = a->ml,
                                   .acc = a->acc,
                                   .q_pitch = in->pitch,
                                   .out_pitch = out->pitch,
                                   .bf16 = in->dtype == KVI_BF16,
                                   .out_bf16 = out->dtype == KVI_BF16,
                                   .n_heads = op->n_heads,
                                   .causal = op->causal,
                                   .scale_log2 = op->scale * 1.4426950408889634f,
                                   .cap = op->softcap * 1.4426950408889634f,
                                   .cap_inv = op->softcap > 0 ? 1.0f / (op->softcap * 1.4426950408889634f) : 0.0f,
                                   .sinks = op->sinks ? op->sinks->data.codes : 0};
    if (op->gated) {
        const kvi_cuda_buffer *gate = &device->buffers[op->gate];
        p.gate = gate->data, p.gate_pitch = gate->pitch, p.gate_type = (uint32_t)gate->dtype;
    }
    const uint32_t d = dim_index(p.kv.head_dim), per_kv = p.n_heads / p.kv.n_kv_heads;
    const uint32_t n_seqs = rows < device->limits.max_seqs ? rows : device->limits.max_seqs;
    if (rows > SPLIT_ROWS) {
        *kernel = kvi_cuda_kernel_name(prefill_kernels[d]);
        return kvi_cuda_launch(device, prefill_kernels[d], (rows * per_kv + PREFILL_COLS - 1) / PREFILL_COLS,
                               p.kv.n_kv_heads, n_seqs, PREFILL_THREADS, kvi_cuda_prefill_shared(p.kv.head_dim), &p,
                               error);
    }
    const kvi_kv_shape *shape = &device->program->groups[op->group].shape;
    p.col_groups = (rows * per_kv + KVI_DECODE_COLS - 1) / KVI_DECODE_COLS;
    uint32_t splits[N_FORMATS];
    for (uint32_t i = 0; i < a->n_formats; i++)
        p.n_parts += splits[i] = splits_for(a->used[i], rows, shape, device->limits.max_ctx, device->sm_count);
    kvi_cuda_siblings_begin(device);
    for (uint32_t i = 0; i < a->n_formats; p.first_part += splits[i++]) {
        if (!(device->formats >> a->used[i] & 1)) continue;
        p.format = formats[a->used[i]].format;
        p.n_splits = splits[i];
        p.ranges[p.n_ranges].first = p.first_part;
        p.ranges[p.n_ranges++].end = p.first_part + splits[i];
        const kvi_cuda_kernel_id id = decode_kernels[a->used[i]][d];
        *kernel = kvi_cuda_kernel_name(id); /* the most packed one stays */
        KVI_TRY(kvi_cuda_launch(device, id, p.n_splits * p.col_groups, p.kv.n_kv_heads, n_seqs, DECODE_THREADS,
                                kvi_cuda_decode_shared(p.kv.head_dim), &p, error));
    }
    kvi_cuda_siblings_end(device);
    return kvi_cuda_launch(device, combine_kernels[d], rows, p.n_heads, 1, COMBINE_THREADS,
                           COMBINE_THREADS / 32 * (p.kv.head_dim + 1) * 4, &p, error);
}
