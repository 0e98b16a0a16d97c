/* attention_cuda.c - ROPE_APPEND and ATTENTION as launches of rope_append_*, attn_decode_*, attn_any_*, attn_combine_* and attn_prefill_*. Up to
 * SPLIT_ROWS rows the context is split over the card (decode); more rows fill it by themselves (prefill, one launch). Decode: one launch per kind
 * of page (a warp skips pages of others), side by side in a graph, then one that merges their partial results. Which kinds are launched a step
 * says, or its graph; where the parts of a kind stand does not depend on it, so neither do the bits. A kind is a format that has kernels of its
 * own for heads of 64, 128 and 256; attn_any_* takes all other formats, and every format of all other heads, whose prompts it reads too, SPLIT_ROWS
 * rows at a time. Grids depend on the number of rows, the limits and the card, never on how long a
 * context is. The number of splits is the same for every step of up to KVI_DECODE_ROWS rows, so that a sequence has the same bits alone and in a
 * batch. */
#include "device_cuda.h"
#include "attention_params.h"
#include "../../runtime/kv/format.h"
#include "../../runtime/kv/trellis.h"

#define MAX_ROPES 8u
#define N_KINDS KVI_DECODE_FORMATS
#define ANY (N_KINDS - 1u)
#define DECODE_THREADS (32u * KVI_DECODE_WARPS)
#define ANY_THREADS (32u * KVI_ANY_WARPS)
#define COMBINE_THREADS 256u
#define PREFILL_THREADS 256u
#define PREFILL_COLS 128u
#define SPLIT_ROWS 32u

static const struct attention_kind {
    uint32_t format;
    uint32_t codes;  /* bit set that limits.page_formats has when such pages may occur */
    uint32_t blocks; /* that a multiprocessor holds, but for head dimension 256 */
} kinds[ANY] = {{KVI_KV_FMT_F16, 1u << KVI_KV_F16, KVI_DECODE_BLOCKS_WIDE},
                {KVI_KV_FMT_I8, 1u << KVI_KV_I8, KVI_DECODE_BLOCKS_WIDE},
                {KVI_KV_FMT_K4V4, 1u << KVI_KV_Q4, KVI_DECODE_BLOCKS_NARROW},
                {KVI_KV_FMT_K4V2, 1u << KVI_KV_Q4 | 1u << KVI_KV_Q2, KVI_DECODE_BLOCKS_NARROW}};

/* [kind][head dimension] */
static const kvi_cuda_kernel_id decode_kernels[ANY][3] = {
    {KVI_CUDA_K_attn_decode_f16_d64, KVI_CUDA_K_attn_decode_f16_d128, KVI_CUDA_K_attn_decode_f16_d256},
    {KVI_CUDA_K_attn_decode_i8_d64, KVI_CUDA_K_attn_decode_i8_d128, KVI_CUDA_K_attn_decode_i8_d256},
    {KVI_CUDA_K_attn_decode_k4v4_d64, KVI_CUDA_K_attn_decode_k4v4_d128, KVI_CUDA_K_attn_decode_k4v4_d256},
    {KVI_CUDA_K_attn_decode_k4v2_d64, KVI_CUDA_K_attn_decode_k4v2_d128, KVI_CUDA_K_attn_decode_k4v2_d256}};
/* The last one of any other size. */
static const kvi_cuda_kernel_id combine_kernels[4] = {KVI_CUDA_K_attn_combine_d64, KVI_CUDA_K_attn_combine_d128,
                                                      KVI_CUDA_K_attn_combine_d256, KVI_CUDA_K_attn_combine_any};
static const kvi_cuda_kernel_id prefill_kernels[3] = {KVI_CUDA_K_attn_prefill_d64, KVI_CUDA_K_attn_prefill_d128,
                                                      KVI_CUDA_K_attn_prefill_d256};
/* Where pages of other formats may occur. */
static const kvi_cuda_kernel_id prefill_any_kernels[3] = {
    KVI_CUDA_K_attn_prefill_any_d64, KVI_CUDA_K_attn_prefill_any_d128, KVI_CUDA_K_attn_prefill_any_d256};
static const kvi_cuda_kernel_id rope_kernels[4] = {KVI_CUDA_K_rope_append_d64, KVI_CUDA_K_rope_append_d128,
                                                   KVI_CUDA_K_rope_append_d256, KVI_CUDA_K_rope_append_any};

#define OTHER_SIZE 3u
static uint32_t dim_index(uint32_t head_dim)
{
    return head_dim == 64 ? 0 : head_dim == 128 ? 1 : head_dim == 256 ? 2 : OTHER_SIZE;
}

struct kvi_cuda_attention {
    kvi_dptr turns[MAX_ROPES];
    kvi_dptr ml, acc, levels;
};

/* --------------------------------------------------------------------------------------------------------- kinds --- */
/* Whether formats have kernels of their own; latents have one for all. */
static bool own_kernels(const kvi_cache_group *group)
{
    return !group->shape.rope_dim && dim_index(group->shape.head_dim) != OTHER_SIZE;
}

static uint32_t kind_of(const kvi_cache_group *group, uint32_t format)
{
    if (own_kernels(group))
        for (uint32_t i = 0; i < ANY; i++)
            if (kinds[i].format == format) return i;
    return ANY;
}

static uint32_t body_of(const kvi_cache_group *group, const kvi_limits *limits)
{
    return kvi_kv_format_is_plain(limits->body) ? kvi_group_plain(group) : limits->body;
}

/* Kinds of pages that a group may have: bits. limits.page_formats knows sides, not pairs of them: with those of k4v4 and k4v2 alone, and one of
 * these as the body, pairs like k2v2 are not planned for, and a step with one is refused. */
static uint32_t possible_of(const kvi_cache_group *group, const kvi_limits *limits)
{
    const uint32_t usual = 1u << KVI_KV_F16 | 1u << KVI_KV_I8 | 1u << KVI_KV_Q4 | 1u << KVI_KV_Q2;
    uint32_t bits = 1u << kind_of(group, kvi_group_plain(group)) | 1u << kind_of(group, body_of(group, limits));
    if (limits->page_formats & ~usual) bits |= 1u << ANY;
    for (uint32_t i = 0; i < ANY && own_kernels(group); i++)
        if ((kinds[i].codes & ~limits->page_formats) == 0) bits |= 1u << i;
    return bits;
}

/* ---------------------------------------------------------------------------------------------------------- check --- */
kvrt_status kvi_cuda_attention_check(const kvi_program *program, const kvi_limits *limits, kvrt_error *error)
{
    for (uint32_t i = 0; i < program->n_ops; i++) {
        const kvi_op *op = &program->ops[i];
        if (op->kind != KVI_OP_ROPE_APPEND && op->kind != KVI_OP_ATTENTION) continue;
        const char *name = op->kind == KVI_OP_ATTENTION ? "attention" : "rope_append";
        const kvi_cache_group *group = &program->groups[op->group];
        const uint32_t d = group->shape.head_dim;
        if (d == 0 || d % 16 || d > KVI_KV_MAX_HEAD_DIM)
            return kvi_error_set(error, KVRT_UNSUPPORTED,
                                 "%s, layer %u: head_dim %u; the CUDA backend has multiples of 16 up to %u", name,
                                 op->layer, d, KVI_KV_MAX_HEAD_DIM);
        if (group->plain == KVI_KV_F32 || limits->page_formats & 1u << KVI_KV_F32)
            return kvi_error_set(
                error, KVRT_UNSUPPORTED,
                "%s, layer %u: f32 pages; the CUDA backend keeps unencoded pages in f16 or bf16 (kv.format)", name,
                op->layer);
        if (op->n_heads == 0 || op->n_heads % group->shape.n_kv_heads)
            return kvi_error_set(error, KVRT_UNSUPPORTED,
                                 "%s, layer %u: %u query heads over %u KV heads, need a multiple", name, op->layer,
                                 op->n_heads, group->shape.n_kv_heads);
        if (op->rope && (op->rope->n_dims > d || op->rope->n_dims % 2))
            return kvi_error_set(error, KVRT_UNSUPPORTED, "%s, layer %u: RoPE over %u of %u dimensions", name,
                                 op->layer, op->rope->n_dims, d);
    }
    if (program->n_ropes > MAX_ROPES)
        return kvi_error_set(error, KVRT_UNSUPPORTED, "rope_append: more than %u sets of RoPE frequencies", MAX_ROPES);
    return KVRT_OK;
}

kvrt_status kvi_cuda_attention_check_step(const kvi_device *device, const kvi_step *step, kvrt_error *error)
{
    for (uint32_t s = 0; s < step->n_seqs; s++) {
        const kvi_seq *seq = &step->seqs[s];
        for (uint32_t g = 0; g < device->program->n_groups; g++) {
            const kvi_cache_group *group = &device->program->groups[g];
            const uint32_t possible = possible_of(group, &device->limits);
            for (uint32_t p = 0; p < (seq->pos + seq->n_rows + KVI_KV_PAGE - 1) / KVI_KV_PAGE; p++) {
                const kvi_page_ref *page = &seq->pages[g][p];
                if (page->unit != KVI_KV_NO_EXTENT && !(possible >> kind_of(group, page->format) & 1))
                    return kvi_error_set(
                        error, KVRT_UNSUPPORTED,
                        "attention: a page with %u-bit keys and %u-bit values, which this CUDA device was not "
                        "opened for: name the pair in the engine's kv.format",
                        kvi_kv_code_bits(KVI_KV_K_CODE(page->format)), kvi_kv_code_bits(KVI_KV_V_CODE(page->format)));
            }
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
                    found |= 1u << kind_of(&device->program->groups[g], seq->pages[g][p].format);
    }
    return found;
}

uint32_t kvi_cuda_attention_usual(const kvi_device *device)
{
    uint32_t usual = 0;
    for (uint32_t g = 0; g < device->program->n_groups; g++) {
        const kvi_cache_group *group = &device->program->groups[g];
        usual |= 1u << kind_of(group, kvi_group_plain(group)) | 1u << kind_of(group, body_of(group, &device->limits));
    }
    return usual;
}

uint32_t kvi_cuda_attention_possible(const kvi_device *device)
{
    uint32_t possible = 0;
    for (uint32_t g = 0; g < device->program->n_groups; g++)
        possible |= possible_of(&device->program->groups[g], &device->limits);
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

/* Channels of the output that a block of attn_any_* has, and its passes over a head. */
static uint32_t any_width(uint32_t head_dim) { return head_dim <= 128 ? 128 : 256; }
static uint32_t any_passes(uint32_t head_dim) { return (head_dim + any_width(head_dim) - 1) / any_width(head_dim); }

static uint32_t splits_for(uint32_t kind, uint32_t rows, const kvi_kv_shape *shape, uint32_t max_ctx, uint32_t sm_count)
{
    const uint32_t d = shape->head_dim;
    const uint32_t blocks = kind == ANY ? (d <= 128 ? KVI_ANY_BLOCKS : KVI_ANY_BLOCKS_256)
                            : d == 256  ? KVI_DECODE_BLOCKS_256
                                        : kinds[kind].blocks;
    const uint32_t heads = shape->n_kv_heads * (kind == ANY ? any_passes(d) : 1);
    return kvi_cuda_decode_splits(blocks, sm_count, heads, max_ctx, rows);
}

typedef struct demand {
    uint64_t ml, acc; /* bytes */
} demand;

static demand demand_of(const kvi_program *program, const kvi_limits *limits, uint32_t sm_count)
{
    const uint32_t rows = limits->max_rows < SPLIT_ROWS ? limits->max_rows : SPLIT_ROWS;
    const uint64_t most = kvi_cuda_narrow_rows(limits), small = rows < most ? rows : most;
    demand need = {0, 0};
    for (uint32_t i = 0; i < program->n_ops; i++) {
        const kvi_op *op = &program->ops[i];
        if (op->kind != KVI_OP_ATTENTION) continue;
        const kvi_kv_shape *shape = &program->groups[op->group].shape;
        uint64_t parts = 0, n_kinds = 0;
        const uint32_t possible = possible_of(&program->groups[op->group], limits);
        for (uint32_t k = 0; k < N_KINDS; k++) {
            if (!(possible >> k & 1)) continue;
            parts += splits_for(k, 1, shape, limits->max_ctx, sm_count);
            n_kinds++;
        }
        uint64_t slots = small * parts;
        if (slots < rows * n_kinds) slots = rows * n_kinds;
        slots *= op->n_heads;
        if (slots * 8u > need.ml) need.ml = slots * 8u;
        if (slots * shape->head_dim * 4u > need.acc) need.acc = slots * shape->head_dim * 4u;
    }
    return need;
}

uint64_t kvi_cuda_attention_bytes(const kvi_program *program, const kvi_limits *limits)
{
    const demand need = demand_of(program, limits, KVI_CUDA_MAX_SMS);
    uint64_t bytes = kvi_cuda_round(need.ml) + kvi_cuda_round(need.acc) + kvi_cuda_round(KVI_ANY_LEVELS);
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
    const demand need = demand_of(device->program, &device->limits, KVI_CUDA_MAX_SMS);
    kvi_cuda_space space = {memory, 0};
    a->ml = kvi_cuda_carve(&space, need.ml);
    a->acc = kvi_cuda_carve(&space, need.acc);
    a->levels = kvi_cuda_carve(&space, KVI_ANY_LEVELS);
    for (uint32_t bits = 2; bits <= 3; bits++)
        KVI_TRY(kvi_cuda_upload(device, a->levels + (bits - 2) * KVI_KV_STATES * sizeof(float), kvi_kv_levels(bits),
                                KVI_KV_STATES * sizeof(float), error));
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

kvi_dptr kvi_cuda_attention_levels(const kvi_device *device) { return device->attention->levels; }

kvi_dptr kvi_cuda_turns_of(const kvi_device *device, const kvi_rope *rope)
{
    return device->attention->turns[rope - device->program->ropes];
}

/* 0: ones, or a norm that is not computed: a layer without keys of its own has no gain of theirs. */
static kvi_dptr gain_of(const kvi_norm *norm)
{
    return norm->kind == KVI_NORM_GAIN && norm->gain ? norm->gain->data.codes : 0;
}

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
    const kvi_cache_group *group = &device->program->groups[op->group];
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
                              .queries_only = op->queries_only,
                              .plain_bf16 = group->plain == KVI_KV_BF16,
                              .n_queries = group->n_queries,
                              .queries_off = kvi_group_queries_off(group, op->group_layer, 0)};
    if (op->norm_whole) KVI_TRY(norm_heads(device, op, rows, error));
    if (op->rope) p.turns = kvi_cuda_turns_of(device, op->rope);
    if (op->rope) p.n_dims = op->rope->n_dims, p.magnitude = op->rope->magnitude;
    if (op->rope) p.apart = op->rope->interleaved ? 1 : p.n_dims / 2, p.next = op->rope->interleaved ? 2 : 1;
    const uint32_t size = dim_index(p.kv.head_dim), width = size == OTHER_SIZE ? KVI_KV_MAX_HEAD_DIM : p.kv.head_dim;
    *kernel = kvi_cuda_kernel_name(rope_kernels[size]);
    return kvi_cuda_launch(device, rope_kernels[size], rows, (p.n_heads + 2 * p.kv.n_kv_heads + 3) / 4, 1, 128,
                           4 * width * 4, &p, error);
}

/* Groups of `size` columns that rows of so many sequences have at most: each row has its own, or each sequence fills all but its last. */
static uint32_t groups_of(uint32_t rows, uint32_t n_seqs, uint32_t per_kv, uint32_t size)
{
    const uint32_t alone = rows * ((per_kv + size - 1) / size), together = (rows * per_kv + (size - 1) * n_seqs) / size;
    return alone < together ? alone : together;
}

/* Rows [p->first_row, + p->n_rows) of the batch, of n_seqs sequences at most, by splits and their merging. */
static kvrt_status run_split(kvi_device *device, kvi_cuda_attention_params p, const kvi_kv_shape *shape,
                             uint32_t possible, uint32_t n_seqs, const char **kernel, kvrt_error *error)
{
    const uint32_t d = p.kv.head_dim, size = dim_index(d), per_kv = p.n_heads / p.kv.n_kv_heads;
    /* In a narrow step as many as for one row, however many sequences are in it. */
    const uint32_t like = device->wide ? p.n_rows : 1;
    uint32_t splits[N_KINDS] = {0};
    for (uint32_t i = 0; i < N_KINDS; i++)
        if (possible >> i & 1)
            p.n_parts += splits[i] = splits_for(i, like, shape, device->limits.max_ctx, device->sm_count);
    kvi_cuda_siblings_begin(device);
    for (uint32_t i = 0; i < N_KINDS; p.first_part += splits[i++]) {
        if (!(possible & device->formats & 1u << i)) continue;
        p.n_splits = splits[i];
        p.ranges[p.n_ranges].first = p.first_part;
        p.ranges[p.n_ranges++].end = p.first_part + splits[i];
        kvi_cuda_kernel_id id = d <= 128 ? KVI_CUDA_K_attn_any_d128 : KVI_CUDA_K_attn_any_d256;
        if (i == ANY) {
            p.format = size == OTHER_SIZE ? KVI_CUDA_EVERY_FORMAT : KVI_CUDA_OTHER_FORMATS;
            p.col_groups = groups_of(p.n_rows, n_seqs, per_kv, KVI_ANY_COLS);
            KVI_TRY(kvi_cuda_launch(device, id, p.n_splits * p.col_groups * any_passes(d), p.kv.n_kv_heads, 1,
                                    ANY_THREADS, kvi_cuda_any_shared(d, any_width(d)), &p, error));
        } else {
            id = decode_kernels[i][size];
            p.format = kinds[i].format;
            p.col_groups = groups_of(p.n_rows, n_seqs, per_kv, KVI_DECODE_COLS * kvi_cuda_decode_groups(d));
            KVI_TRY(kvi_cuda_launch(device, id, p.n_splits * p.col_groups, p.kv.n_kv_heads, 1, DECODE_THREADS,
                                    kvi_cuda_decode_shared(d), &p, error));
        }
        *kernel = kvi_cuda_kernel_name(id); /* the most packed one stays */
    }
    kvi_cuda_siblings_end(device);
    const uint32_t width = size == OTHER_SIZE ? KVI_KV_MAX_HEAD_DIM : d;
    return kvi_cuda_launch(device, combine_kernels[size], p.n_rows, p.n_heads, 1, COMBINE_THREADS,
                           COMBINE_THREADS / 32 * (width + 1) * 4, &p, error);
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
                                   .levels = a->levels,
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
    const kvi_cache_group *group = &device->program->groups[op->group];
    const uint32_t n_seqs = rows < device->limits.max_seqs ? rows : device->limits.max_seqs,
                   possible = possible_of(group, &device->limits);
    if (rows > SPLIT_ROWS && own_kernels(group)) {
        const bool any = possible >> ANY & 1;
        const uint32_t size = dim_index(p.kv.head_dim);
        const kvi_cuda_kernel_id id = any ? prefill_any_kernels[size] : prefill_kernels[size];
        *kernel = kvi_cuda_kernel_name(id);
        return kvi_cuda_launch(device, id, (rows * (p.n_heads / p.kv.n_kv_heads) + PREFILL_COLS - 1) / PREFILL_COLS,
                               p.kv.n_kv_heads, n_seqs, PREFILL_THREADS,
                               kvi_cuda_prefill_shared(p.kv.head_dim) + (any ? KVI_ANY_LEVELS : 0), &p, error);
    }
    p.n_rows = rows < SPLIT_ROWS ? rows : SPLIT_ROWS;
    for (; p.first_row < rows; p.first_row += p.n_rows)
        KVI_TRY(run_split(device, p, &group->shape, possible, n_seqs, kernel, error));
    return KVRT_OK;
}
