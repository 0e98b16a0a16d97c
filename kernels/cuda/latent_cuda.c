/* latent_cuda.c - LATENT_APPEND and ATTENTION_LATENT as launches of
 * latent_append, latent_absorb, latent_attend and latent_leave. Narrow steps
 * split the context over the card, by pages in turn, as many ways for one row
 * as for eight, so that a row has the same bits in each; wide ones fill it by
 * themselves. */
#include "device_cuda.h"
#include "latent_params.h"

#include <string.h>

#define SUMS_MOST (32u << 20) /* bytes of partial results of a narrow step */
#define BLOCKS_PER_SM 2u      /* what latent_attend is compiled for */
#define KEYS_MOST 512u        /* shared memory of latent_absorb */

/* Pages may be something else than F16. */
static bool any_format(const kvi_cache_group *group, const kvi_limits *limits)
{
    return group->plain != KVI_KV_F16 || limits->page_formats & ~(1u << KVI_KV_F16) ||
           !kvi_kv_format_is_plain(limits->body);
}

kvrt_status kvi_cuda_latent_check(const kvi_program *program, const kvi_limits *limits, kvrt_error *error)
{
    for (uint32_t i = 0; i < program->n_ops; i++) {
        const kvi_op *op = &program->ops[i];
        if (op->kind != KVI_OP_LATENT_APPEND && op->kind != KVI_OP_ATTENTION_LATENT) continue;
        const kvi_cache_group *group = &program->groups[op->group];
        const char *name = kvi_op_name(op->kind);
        const uint32_t rows16 = 1u << KVI_KV_F16 | 1u << KVI_KV_BF16;
        const bool packed = limits->page_formats & ~rows16 || !kvi_kv_format_is_plain(limits->body);
        if (group->plain == KVI_KV_F32 || (limits->page_formats & 1u << KVI_KV_F32))
            return kvi_error_set(error, KVRT_UNSUPPORTED,
                                 "%s, layer %u: f32 pages; the CUDA backend keeps "
                                 "unencoded pages in f16 or bf16 (kv.format)",
                                 name, op->layer);
        if (packed && (group->shape.head_dim % 16 || group->shape.rope_dim % 16))
            return kvi_error_set(error, KVRT_UNSUPPORTED,
                                 "%s, layer %u: a latent of %u and a roped key of %u dimensions; the CUDA backend "
                                 "has multiples of 16 in packed pages (kv.format)",
                                 name, op->layer, group->shape.head_dim, group->shape.rope_dim);
        if (group->shape.head_dim > KVI_LATENT_RANK || group->shape.head_dim % 8 ||
            group->shape.rope_dim > KVI_LATENT_ROPE || group->shape.rope_dim % 8 || op->key_dim > KEYS_MOST)
            return kvi_error_set(error, KVRT_UNSUPPORTED,
                                 "%s, layer %u: a latent of %u, a roped key of %u "
                                 "and keys of %u dimensions; the CUDA "
                                 "backend has up to %u, %u (multiples of 8) and %u",
                                 name, op->layer, group->shape.head_dim, group->shape.rope_dim, op->key_dim,
                                 KVI_LATENT_RANK, KVI_LATENT_ROPE, KEYS_MOST);
    }
    return KVRT_OK;
}

/* -------------------------------------------------------------------------------------------------------
 * memory --- */
static uint32_t splits_of(uint32_t n_heads, uint32_t sm_count, uint32_t max_ctx)
{
    const uint32_t most = max_ctx / KVI_KV_PAGE + (max_ctx % KVI_KV_PAGE != 0),
                   room = SUMS_MOST / (KVI_DECODE_ROWS * n_heads * KVI_LATENT_RANK * 4u);
    uint32_t n = BLOCKS_PER_SM * sm_count / ((n_heads + 15u) / 16u);
    if (n > most) n = most;
    if (n > room) n = room;
    return n ? n : 1;
}

typedef struct demand {
    uint64_t queries, ml, acc; /* bytes */
} demand;

static void at_least(uint64_t *have, uint64_t need)
{
    if (need > *have) *have = need;
}

static demand demand_of(const kvi_program *program, const kvi_limits *limits)
{
    const uint64_t rows = limits->max_rows, most = kvi_cuda_narrow_rows(limits), narrow = rows < most ? rows : most;
    demand need = {0, 0, 0};
    for (uint32_t i = 0; i < program->n_ops; i++) {
        const kvi_op *op = &program->ops[i];
        if (op->kind != KVI_OP_ATTENTION_LATENT) continue;
        const uint64_t split = narrow * splits_of(op->n_heads, KVI_CUDA_MAX_SMS, limits->max_ctx),
                       slots = (split > rows ? split : rows) * op->n_heads;
        at_least(&need.queries, rows * op->n_heads * KVI_LATENT_WIDTH * 2);
        at_least(&need.ml, slots * 8);
        at_least(&need.acc, slots * KVI_LATENT_RANK * 4);
    }
    return need;
}

uint64_t kvi_cuda_latent_bytes(const kvi_program *program, const kvi_limits *limits)
{
    const demand need = demand_of(program, limits);
    return kvi_cuda_round(need.queries) + kvi_cuda_round(need.ml) + kvi_cuda_round(need.acc);
}

void kvi_cuda_latent_prepare(kvi_device *d, kvi_dptr memory)
{
    const demand need = demand_of(d->program, &d->limits);
    kvi_cuda_space space = {memory, 0};
    d->latent.queries = kvi_cuda_carve(&space, need.queries);
    d->latent.ml = kvi_cuda_carve(&space, need.ml);
    d->latent.acc = kvi_cuda_carve(&space, need.acc);
}

/* ----------------------------------------------------------------------------------------------------- launches --- */
static kvi_cuda_latent latent_of(const kvi_device *d, const kvi_op *op)
{
    const kvi_cache_group *group = &d->program->groups[op->group];
    return (kvi_cuda_latent){.pool = d->pool,
                             .group = op->group,
                             .rank = group->shape.head_dim,
                             .rope = group->shape.rope_dim,
                             .layer = op->group_layer,
                             .rotate = group->rotate,
                             .bf16 = group->plain == KVI_KV_BF16};
}

kvrt_status kvi_cuda_latent_append_run(kvi_device *d, const kvi_op *op, uint32_t rows, const char **kernel,
                                       kvrt_error *error)
{
    const kvi_cuda_buffer *kv = &d->buffers[op->out], *q = &d->buffers[op->side];
    kvi_cuda_latent_append_params p = {.step = d->map,
                                       .latent = latent_of(d, op),
                                       .kv = kv->data,
                                       .q = q->data,
                                       .gain = op->k_norm.kind == KVI_NORM_GAIN ? op->k_norm.gain->data.codes : 0,
                                       .kv_pitch = kv->pitch,
                                       .q_pitch = q->pitch,
                                       .kv_type = (uint32_t)kv->dtype,
                                       .q_type = (uint32_t)q->dtype,
                                       .n_heads = op->n_heads,
                                       .key_dim = op->key_dim,
                                       .norm = op->k_norm.kind != KVI_NORM_NONE,
                                       .eps = op->k_norm.eps};
    if (op->rope) {
        p.turns = kvi_cuda_turns_of(d, op->rope);
        p.n_dims = op->rope->n_dims;
        p.next = op->rope->interleaved ? 2 : 1;
        p.apart = op->rope->interleaved ? 1 : op->rope->n_dims / 2;
        p.magnitude = op->rope->magnitude;
    }
    *kernel = kvi_cuda_kernel_name(KVI_CUDA_K_latent_append);
    return kvi_cuda_launch(d, KVI_CUDA_K_latent_append, rows, (2 + op->n_heads + 3) / 4, 1, 128,
                           4 * KVI_LATENT_RANK * sizeof(float), &p, error);
}

static kvi_cuda_any_matrix matrix_of(const kvi_weight *w, kvi_cuda_tile *tile)
{
    memset(tile, 0, sizeof *tile);
    if (w->tile) *tile = *w->tile;
    return (kvi_cuda_any_matrix){.rows = w->data,
                                 .order = w->order,
                                 .type = w->tile ? 0 : (uint32_t)kvi_form_dtype(w->form),
                                 .n_in = w->n_in,
                                 .tiled = w->tile != NULL};
}

static kvrt_status absorb(kvi_device *d, const kvi_op *op, uint32_t rows, kvrt_error *error)
{
    const kvi_cuda_buffer *q = &d->buffers[op->in];
    const kvi_cuda_latent latent = latent_of(d, op);
    kvi_cuda_latent_absorb_params p = {.step = d->map,
                                       .q = q->data,
                                       .queries = d->latent.queries,
                                       .q_pitch = q->pitch,
                                       .q_type = (uint32_t)q->dtype,
                                       .n_heads = op->n_heads,
                                       .key_dim = op->key_dim,
                                       .value_dim = op->value_dim,
                                       .rank = latent.rank,
                                       .rope = latent.rope,
                                       .rotate = latent.rotate,
                                       .by_columns = op->n_weights == 2,
                                       .scale = op->scale * 1.4426950408889634f};
    p.w = matrix_of(op->weights[0], &p.tile);
    return kvi_cuda_launch(d, KVI_CUDA_K_latent_absorb, op->n_heads, (rows + KVI_LATENT_ROWS - 1) / KVI_LATENT_ROWS, 1,
                           KVI_ABSORB_THREADS, kvi_cuda_absorb_shared(p.rank, p.key_dim), &p, error);
}

static kvrt_status leave(kvi_device *d, const kvi_op *op, uint32_t rows, uint32_t n_splits, kvrt_error *error)
{
    const kvi_cuda_buffer *out = &d->buffers[op->out];
    const kvi_cuda_latent latent = latent_of(d, op);
    const bool apart = op->n_weights == 2;
    kvi_cuda_latent_leave_params p = {.step = d->map,
                                      .ml = d->latent.ml,
                                      .acc = d->latent.acc,
                                      .out = out->data,
                                      .out_pitch = out->pitch,
                                      .out_type = (uint32_t)out->dtype,
                                      .n_heads = op->n_heads,
                                      .value_dim = op->value_dim,
                                      .rank = latent.rank,
                                      .rotate = latent.rotate,
                                      .n_splits = n_splits,
                                      .first_row = apart ? 0 : op->key_dim,
                                      .head_rows = apart ? op->value_dim : op->key_dim + op->value_dim};
    p.w = matrix_of(op->weights[apart ? 1 : 0], &p.tile);
    return kvi_cuda_launch(d, KVI_CUDA_K_latent_leave, op->n_heads, (rows + KVI_LATENT_ROWS - 1) / KVI_LATENT_ROWS, 1,
                           KVI_LEAVE_THREADS, KVI_LEAVE_SHARED, &p, error);
}

kvrt_status kvi_cuda_latent_run(kvi_device *d, const kvi_op *op, uint32_t rows, const char **kernel, kvrt_error *error)
{
    const bool narrow = !d->wide;
    const kvi_cuda_latent_attend_params p = {.step = d->map,
                                             .latent = latent_of(d, op),
                                             .queries = d->latent.queries,
                                             .ml = d->latent.ml,
                                             .acc = d->latent.acc,
                                             .levels = kvi_cuda_attention_levels(d),
                                             .n_heads = op->n_heads,
                                             .n_splits =
                                                 narrow ? splits_of(op->n_heads, d->sm_count, d->limits.max_ctx) : 1,
                                             .causal = op->causal};
    const kvi_cuda_kernel_id attend = any_format(&d->program->groups[op->group], &d->limits)
                                          ? KVI_CUDA_K_latent_attend_any
                                          : KVI_CUDA_K_latent_attend;
    *kernel = kvi_cuda_kernel_name(attend);
    KVI_TRY(absorb(d, op, rows, error));
    KVI_TRY(kvi_cuda_launch(d, attend, (rows * op->n_heads + 15) / 16, p.n_splits,
                            rows < d->limits.max_seqs ? rows : d->limits.max_seqs, 32 * KVI_LATENT_WARPS,
                            KVI_LATENT_SHARED, &p, error));
    return leave(d, op, rows, p.n_splits, error);
}
