/* experts_cuda.c - ROUTE and EXPERTS as launches.
 * ROUTE is a product of f32 activations, whatever the number of rows (a rounded activation would choose other experts near ties, and a router is
 * small), and one kernel that chooses. EXPERTS sorts the pairs (token, choice) by expert; then gate and up, and down, are one launch each of the
 * dense kernels over tiles of pairs, which read the experts that somebody chose and no others; the last kernel adds up. All of it depends on what
 * stands in device memory alone, so a decode step is a graph like any other. */
#include "linear_cuda.h"

#define MAX_EXPERTS 1024u /* what route and sort_pairs have shared memory for */
#define SORT_THREADS 256u
#define GATHERED_MOST 24576u /* columns of a row in shared memory */

/* Tiles of `rows` pairs that n pairs of so many experts make at most. */
static uint32_t most_tiles(uint32_t n, uint32_t n_experts, uint32_t rows)
{
    const uint32_t begun = (n < n_experts ? n : n_experts) + n / rows;
    return begun < n ? begun : n;
}

static kvi_dtype act_type(const kvi_weight *down)
{
    return !down->tile && down->form == KVI_FORM_BF16 ? KVI_BF16 : KVI_F16;
}

kvrt_status kvi_cuda_experts_check(const kvi_program *program, kvrt_error *error)
{
    for (uint32_t i = 0; i < program->n_ops; i++) {
        const kvi_op *op = &program->ops[i];
        if (op->kind != KVI_OP_ROUTE && op->kind != KVI_OP_EXPERTS) continue;
        if (op->n_experts > MAX_EXPERTS)
            return kvi_error_set(error, KVRT_UNSUPPORTED, "%s, layer %u: %u experts, the CUDA backend has room for %u",
                                 kvi_op_name(op->kind), op->layer, op->n_experts, MAX_EXPERTS);
        for (uint32_t j = 0; op->kind == KVI_OP_EXPERTS && j < op->n_weights; j++)
            if (op->weights[j] && op->weights[j]->order && op->weights[j]->n_in > GATHERED_MOST)
                return kvi_error_set(error, KVRT_UNSUPPORTED,
                                     "experts, layer %u: %s has %u columns in an order of its own for each expert "
                                     "(g_idx); the CUDA backend has room for %u",
                                     op->layer, op->weights[j]->name, op->weights[j]->n_in, GATHERED_MOST);
    }
    return KVRT_OK;
}

typedef struct demand {
    uint64_t list, act, parts; /* bytes */
} demand;

static void at_least(uint64_t *have, uint64_t need)
{
    if (need > *have) *have = need;
}

static demand demand_of(const kvi_program *program, const kvi_limits *limits)
{
    demand need = {0, 0, 0};
    for (uint32_t i = 0; i < program->n_ops; i++) {
        const kvi_op *op = &program->ops[i];
        if (op->kind != KVI_OP_EXPERTS) continue;
        const uint64_t pairs = (uint64_t)limits->max_rows * op->route.top_k;
        at_least(&need.list, KVI_CUDA_LIST_HEAD + pairs * (sizeof(kvi_cuda_tile_pairs) + 4));
        at_least(&need.act, pairs * kvi_cuda_pitch(op->expert_width) * KVI_CUDA_OPERAND_BYTES);
        at_least(&need.parts, pairs * kvi_cuda_pitch(program->buffers[op->out].cols) * 4);
    }
    return need;
}

uint64_t kvi_cuda_experts_bytes(const kvi_program *program, const kvi_limits *limits)
{
    const demand need = demand_of(program, limits);
    return kvi_cuda_round(need.list) + kvi_cuda_round(need.act) + kvi_cuda_round(need.parts);
}

void kvi_cuda_experts_prepare(kvi_device *d, kvi_dptr memory)
{
    const demand need = demand_of(d->program, &d->limits);
    kvi_cuda_space space = {memory, 0};
    d->experts.list = kvi_cuda_carve(&space, need.list);
    d->experts.act = kvi_cuda_carve(&space, need.act);
    d->experts.parts = kvi_cuda_carve(&space, need.parts);
}

/* -------------------------------------------------------------------------------------------------------- route --- */
kvrt_status kvi_cuda_route_run(kvi_device *d, const kvi_op *op, uint32_t rows, const char **kernel, kvrt_error *error)
{
    const kvi_weight *router = op->weights[0], *correction = op->weights[1], *gain = op->weights[2];
    const kvi_cuda_buffer *chosen = &d->buffers[op->out];
    const kvi_cuda_rows shape = {rows, rows, !router->tile || !d->wide};
    kvi_cuda_linear_params p = kvi_cuda_linear_common(d, op);
    kvi_cuda_held held = {0};
    const kvi_cuda_route_params route = {.step = d->map,
                                         .logits = d->sums.data,
                                         .bias = op->biases[0] ? op->biases[0]->data.codes : 0,
                                         .correction = correction ? correction->data.codes : 0,
                                         .gain = gain ? gain->data.codes : 0,
                                         .chosen = chosen->data,
                                         .pitch = d->sums.pitch,
                                         .chosen_pitch = chosen->pitch,
                                         .n_experts = op->n_experts,
                                         .top_k = op->route.top_k,
                                         .score = (uint32_t)op->route.score,
                                         .n_groups = op->route.n_groups,
                                         .top_groups = op->route.top_groups,
                                         .group_best = op->route.group_best,
                                         .softmax_chosen = op->route.softmax_chosen,
                                         .renormalize = op->route.renormalize,
                                         .scale = op->route.scale != 0.0f ? op->route.scale : 1.0f};
    p.y = d->sums.data, p.y_pitch = d->sums.pitch, p.y_type = KVI_CUDA_F32;
    p.scale = op->scale;
    (void)kvi_cuda_linear_weights(&p, op, 0, 1);
    p.bias[0] = 0; /* behind the scale: the next kernel adds it */
    KVI_TRY(kvi_cuda_linear_operand(d, router, &p, &shape, &held, error));
    KVI_TRY(kvi_cuda_linear_product(d, op, 0, 1, &p, &shape, kernel, error));
    const uint32_t floats = kvi_cuda_route_floats(op->n_experts, op->route.n_groups, op->route.top_k);
    return kvi_cuda_launch(d, KVI_CUDA_K_route, (rows + KVI_ROUTE_WARPS - 1) / KVI_ROUTE_WARPS, 1, 1,
                           32 * KVI_ROUTE_WARPS, KVI_ROUTE_WARPS * floats * 4, &route, error);
}

/* ------------------------------------------------------------------------------------------------------ experts --- */
/* Bytes from an expert to the next. */
static uint64_t stride_of(const kvi_weight *w)
{
    return w->tile ? w->tile->form.panel_bytes * kvi_tile_panels(&w->tile->form) : (uint64_t)w->n_out * w->data.pitch;
}

/* The list of tiles in memory, of `tile_rows` pairs; 0: none yet. */
typedef struct mixture {
    const kvi_op *op;
    kvi_cuda_rows rows;
    uint32_t tile_rows;
} mixture;

/* What a product with w needs: tiles of the size that its kernel has, made if those in memory are of another one. */
static kvrt_status use_tiles(kvi_device *d, mixture *m, const kvi_weight *w, uint32_t sharing,
                             kvi_cuda_linear_params *p, kvrt_error *error)
{
    const kvi_op *op = m->op;
    const kvi_cuda_buffer *chosen = &d->buffers[op->side];
    const uint32_t tile_rows = kvi_cuda_linear_tile_rows(w, &m->rows), n = m->rows.step * op->route.top_k;
    const kvi_cuda_sort_params sort = {.step = d->map,
                                       .chosen = chosen->data,
                                       .list = d->experts.list,
                                       .pitch = chosen->pitch,
                                       .top_k = op->route.top_k,
                                       .n_experts = op->n_experts,
                                       .max_tiles = most_tiles(n, op->n_experts, tile_rows),
                                       .tile_rows = tile_rows};
    p->mixture =
        (kvi_cuda_mixture){.list = sort.list, .stride = stride_of(w), .max_tiles = sort.max_tiles, .sharing = sharing};
    if (m->tile_rows == tile_rows) return KVRT_OK;
    m->tile_rows = tile_rows;
    return kvi_cuda_launch(d, KVI_CUDA_K_sort_pairs, 1, 1, 1, SORT_THREADS, 3 * 4 * op->n_experts, &sort, error);
}

/* The operand of a product whose columns every expert has in an order of its own: a row per pair, at `to`, which may be where it is. */
static kvrt_status gather(kvi_device *d, const kvi_op *op, uint32_t rows, const kvi_weight *w,
                          kvi_cuda_linear_params *p, kvi_dptr to, kvrt_error *error)
{
    const kvi_cuda_buffer *chosen = &d->buffers[op->side];
    const kvi_cuda_gather_params g = {.step = d->map,
                                      .x = p->x,
                                      .y = to,
                                      .order = w->order,
                                      .chosen = chosen->data,
                                      .n_cols = w->n_in,
                                      .x_pitch = p->x_pitch,
                                      .y_pitch = kvi_cuda_pitch(w->n_in),
                                      .pitch = chosen->pitch,
                                      .top_k = op->route.top_k,
                                      .sharing = p->mixture.sharing};
    if (!w->order) return KVRT_OK;
    p->x = to, p->x_pitch = g.y_pitch, p->mixture.sharing = 1;
    return kvi_cuda_launch(d, KVI_CUDA_K_gather_pairs, rows * op->route.top_k, 1, 1, 256, w->n_in * 2, &g, error);
}

/* act (pairs, width) = act(n G^T + b, n U^T + b) */
static kvrt_status gate_up(kvi_device *d, mixture *m, const char **kernel, kvrt_error *error)
{
    const kvi_op *op = m->op;
    const bool apart = !kvi_cuda_side_by_side(op->weights[0], op->weights[1]);
    kvi_cuda_linear_params p = kvi_cuda_linear_common(d, op);
    kvi_cuda_held held = {0};
    p.y = d->experts.act, p.y_pitch = kvi_cuda_pitch(op->expert_width), p.y_type = (uint32_t)act_type(op->weights[2]);
    for (uint32_t first = 0, n; first < 2; first += n) {
        const kvi_weight *w = op->weights[first];
        n = kvi_cuda_linear_weights(&p, op, first, 2);
        if (apart) kvi_cuda_gate_apart(&p, first);
        kvi_cuda_linear_params product = p;
        kvi_cuda_siblings_begin(d); /* the list and the operand know nothing of one another */
        KVI_TRY(use_tiles(d, m, w, op->route.top_k, &product, error));
        KVI_TRY(kvi_cuda_linear_operand(d, w, &product, &m->rows, &held, error));
        kvi_cuda_siblings_end(d);
        KVI_TRY(gather(d, op, m->rows.step, w, &product, d->experts.parts, error)); /* which `down` writes later */
        KVI_TRY(kvi_cuda_linear_product(d, op, first, n, &product, &m->rows, kernel, error));
    }
    return KVRT_OK;
}

/* parts (pairs, hidden) = act D^T + b */
static kvrt_status down(kvi_device *d, mixture *m, const char **kernel, kvrt_error *error)
{
    const kvi_op *op = m->op;
    kvi_cuda_linear_params p = {.step = d->map,
                                .x = d->experts.act,
                                .y = d->experts.parts,
                                .n_in = op->expert_width,
                                .x_pitch = kvi_cuda_pitch(op->expert_width),
                                .y_pitch = kvi_cuda_pitch(d->buffers[op->out].cols),
                                .x_type = (uint32_t)act_type(op->weights[2]),
                                .y_type = KVI_CUDA_F32,
                                .action = KVI_CUDA_STORE,
                                .scale = 1.0f};
    kvi_cuda_held held = {0};
    (void)kvi_cuda_linear_weights(&p, op, 2, 3);
    KVI_TRY(use_tiles(d, m, op->weights[2], 1, &p, error));
    KVI_TRY(kvi_cuda_linear_operand(d, op->weights[2], &p, &m->rows, &held, error));
    KVI_TRY(gather(d, op, m->rows.step, op->weights[2], &p, d->experts.act, error));
    return kvi_cuda_linear_product(d, op, 2, 1, &p, &m->rows, kernel, error);
}

kvrt_status kvi_cuda_experts_run(kvi_device *d, const kvi_op *op, uint32_t rows, const char **kernel, kvrt_error *error)
{
    const kvi_cuda_buffer *chosen = &d->buffers[op->side], *y = &d->buffers[op->out];
    const uint32_t pairs = rows * op->route.top_k;
    const bool narrow = !d->wide;
    mixture m = {op, {rows, narrow ? rows : (pairs + op->n_experts - 1) / op->n_experts, narrow}, 0};
    const kvi_cuda_add_pairs_params add = {.step = d->map,
                                           .x = d->experts.parts,
                                           .chosen = chosen->data,
                                           .gain =
                                               op->post_norm.kind == KVI_NORM_GAIN ? op->post_norm.gain->data.codes : 0,
                                           .y = y->data,
                                           .n_cols = y->cols,
                                           .x_pitch = kvi_cuda_pitch(y->cols),
                                           .y_pitch = y->pitch,
                                           .pitch = chosen->pitch,
                                           .top_k = op->route.top_k,
                                           .norm = op->post_norm.kind != KVI_NORM_NONE,
                                           .eps = op->post_norm.eps,
                                           .scale = op->scale};
    const char *ignored;
    KVI_TRY(gate_up(d, &m, kernel, error));
    KVI_TRY(down(d, &m, &ignored, error));
    return kvi_cuda_launch(d, KVI_CUDA_K_add_pairs, rows, 1, 1, 256, 8 * sizeof(float), &add, error);
}
