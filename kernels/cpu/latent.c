/* latent.c - latent attention (MLA) on the CPU: LATENT_APPEND and ATTENTION_LATENT, by the contracts of program.h.
 * The cache has one latent c and one roped key k per token, for all heads. Keys and values of a head are never made: the head's matrices are
 * absorbed instead, W_K into the query and W_V into the result, so that all heads attend over the same rows of the cache,
 *
 *   q' = W_K^T q (rank)      s[t] = q' . c[t] + q_rope . k[t]      o = sum p[t] c[t] (rank)      out = W_V o
 *
 * and a page is brought into panels once for all queries of a task: c twice, by channel for the scores and by token for the values.
 *   wide    a task is a head and a block of rows, absorbs for itself and goes page by page
 *   narrow  absorb (a task is a head), attend (some heads over a run of pages), merge the runs and leave the latent (a task is a head)
 * What a query gets does not depend on its neighbours, and runs are fixed: neither threads nor chunks show in the result.
 * A prompt pays for the absorption with (rank + rope) + rank products per position and head instead of those of the head's own dimensions;
 * expanding keys and values per page would save that and cost a product per page and head. */
#include "device_cpu.h"

#include <math.h>
#include <string.h>

#define WIDE_QUERIES 128u /* rows of a wide task */
#define VECTORS KVI_CPU_SIDE_VECTORS

typedef struct latent {
    kvi_device *device;
    const kvi_op *op;
    const kvi_cache_group *group;
    uint32_t rank, rope, width, n_heads; /* width = rank + rope: of an absorbed query */
    uint32_t first_row;                  /* of the step's sequences: not 0 behind wide rows */
    bool wide;
    uint32_t block, blocks, n_splits; /* narrow: heads of a task and tasks of a sequence; wide: blocks of rows */
    /* Where the operation is cut: the first of the blocks that go on, and the piece of each. The first one loads, the last one stores; wide ones
     * have products to do for that, and are pieces of their own (`apart` 1). */
    uint32_t first_task, piece, n_pieces, apart;
} latent;

/* One thread's scratch, and the queries it works on. */
typedef struct area {
    float *q, *acc;             /* (queries, width), (queries, rank) */
    float *m, *l;               /* (queries) */
    uint32_t *pos;              /* (queries) position of each */
    float *scores;              /* (queries, 128) */
    float *latents, *ropes;     /* panels of 128 columns over rank and rope rows */
    float *values;              /* panels of rank columns over 128 rows */
    float *weights, *row, *key; /* panels of rank columns over key_dim rows; (rank); (128, rope) */
    float *vectors;             /* (VECTORS, KVI_KV_MAX_HEAD_DIM) */
    uint32_t n;                 /* queries */
} area;

static uint32_t padded(uint32_t n) { return (n + KVI_CPU_MOST_PANEL - 1) / KVI_CPU_MOST_PANEL * KVI_CPU_MOST_PANEL; }

/* Heads that attend together in a narrow step: enough tasks for some threads, and some use of every staged page. Depends on the shape alone. */
static uint32_t heads_together(uint32_t n_heads)
{
    const uint32_t quarter = (n_heads / 4u + 7u) / 8u * 8u;
    return quarter < 8u ? 8u : quarter > WIDE_QUERIES / KVI_DECODE_ROWS ? WIDE_QUERIES / KVI_DECODE_ROWS : quarter;
}

size_t kvi_cpu_latent_scratch(const kvi_op *op, const kvi_kv_shape *shape)
{
    const size_t rank = padded(shape->head_dim), rope = padded(shape->rope_dim), page = KVI_KV_PAGE;
    return WIDE_QUERIES * (2 * rank + rope + 3 + page) + page * (2 * rank + 2 * rope) + rank * (op->key_dim + 1) +
           VECTORS * KVI_KV_MAX_HEAD_DIM + KVI_CPU_KC * KVI_CPU_MOST_PANEL;
}

static area area_of(const latent *t, uint32_t thread)
{
    const size_t rank = padded(t->rank), rope = padded(t->rope);
    float *at = t->device->thread_scratch + thread * t->device->scratch_floats;
    area s = {0};
    s.q = at, at += WIDE_QUERIES * (rank + rope);
    s.acc = at, at += WIDE_QUERIES * rank;
    s.m = at, at += WIDE_QUERIES;
    s.l = at, at += WIDE_QUERIES;
    s.pos = (uint32_t *)(void *)at, at += WIDE_QUERIES;
    s.scores = at, at += (size_t)WIDE_QUERIES * KVI_KV_PAGE;
    s.latents = at, at += KVI_KV_PAGE * rank;
    s.ropes = at, at += KVI_KV_PAGE * rope;
    s.values = at, at += KVI_KV_PAGE * rank;
    s.key = at, at += KVI_KV_PAGE * rope;
    s.weights = at, at += rank * t->op->key_dim;
    s.row = at, at += rank;
    s.vectors = at;
    return s;
}

static latent latent_of(kvi_device *device, const kvi_op *op)
{
    const kvi_cache_group *group = &device->program->groups[op->group];
    return (latent){.device = device,
                    .op = op,
                    .group = group,
                    .rank = group->shape.head_dim,
                    .rope = group->shape.rope_dim,
                    .width = group->shape.head_dim + group->shape.rope_dim,
                    .n_heads = op->n_heads,
                    .first_row = device->step.seqs->first_row};
}

/* -------------------------------------------------------------------------------------------------------- append --- */
static void append_row(void *arg, uint32_t row, uint32_t thread)
{
    const latent *t = arg;
    kvi_device *device = t->device;
    const kvi_op *op = t->op;
    float *c = device->buffers[op->out] + (size_t)row * t->width, *k = c + t->rank;
    float *q = device->buffers[op->side] + (size_t)row * t->n_heads * (op->key_dim + t->rope);
    (void)thread;
    kvi_cpu_norm(device, &op->k_norm, c, t->rank, c);
    if (op->rope) kvi_cpu_rope(device, op->rope, row, k);
    for (uint32_t h = 0; h < t->n_heads; h++) {
        float *roped = q + (size_t)h * (op->key_dim + t->rope) + op->key_dim;
        if (op->rope) kvi_cpu_rope(device, op->rope, row, roped);
        if (t->group->rotate) device->v->hadamard(roped, t->rope);
    }
    if (t->group->rotate) {
        device->v->hadamard(c, t->rank);
        device->v->hadamard(k, t->rope);
    }
    const uint32_t pos = device->row_pos[row], at = pos & (KVI_KV_PAGE - 1);
    const kvi_page_ref *page = &device->step.seqs[device->row_seq[row]].pages[op->group][pos >> KVI_KV_PAGE_SHIFT];
    const kvi_dtype dtype = kvi_kv_plain_dtype(t->group->plain);
    const size_t size = kvi_dtype_bytes(dtype);
    uint8_t *record = device->pool + (uint64_t)page->unit * KVI_KV_UNIT +
                      kvi_kv_record_off(page->format, &t->group->shape, op->group_layer, 0);
    device->v->narrow(c, dtype, t->rank, record + at * t->rank * size);
    device->v->narrow(k, dtype, t->rope, record + (KVI_KV_PAGE * t->rank + at * t->rope) * size);
}

const char *kvi_cpu_latent_append(kvi_device *device, const kvi_op *op)
{
    latent t = latent_of(device, op);
    if (device->step.n_rows > 2) kvi_workers_run(device->workers, append_row, &t, device->step.n_rows);
    else
        for (uint32_t row = 0; row < device->step.n_rows; row++) append_row(&t, row, 0);
    return "latent_append";
}

/* ------------------------------------------------------------------------------------------------------- staging --- */
/* to = panels of `n_rows` columns over n_cols rows, from = panels of `n_cols` columns over n_rows rows. */
static void turn_panels(const kvi_cpu_variant *v, const float *from, uint32_t n_rows, uint32_t n_cols, float *to)
{
    const uint32_t p = v->panel;
    for (uint32_t r = 0; r < n_rows; r++)
        for (uint32_t c = 0; c < n_cols; c++)
            to[(size_t)(r / p * p) * n_cols + (size_t)c * p + r % p] =
                from[(size_t)(c / p * p) * n_rows + (size_t)r * p + c % p];
}

/* A plain side (rows, d): panels of its transpose, for products with queries. */
static void stage_keys(const kvi_cpu_variant *v, const uint8_t *side, kvi_dtype dtype, uint32_t d, uint32_t n,
                       float *panels)
{
    const size_t row_bytes = (size_t)d * kvi_dtype_bytes(dtype);
    for (uint32_t t = 0; t < n; t += v->panel)
        v->pack(side + t * row_bytes, dtype, n - t < v->panel ? n - t : v->panel, d, 0, d, panels + (size_t)t * d);
}

static void stage_page(const latent *t, const kvi_page_ref *ref, uint32_t n, const area *s)
{
    const kvi_cpu_variant *v = t->device->v;
    const kvi_kv_code c_code = KVI_KV_K_CODE(ref->format), k_code = KVI_KV_V_CODE(ref->format);
    const uint8_t *latents = t->device->pool + (uint64_t)ref->unit * KVI_KV_UNIT +
                             kvi_kv_record_off(ref->format, &t->group->shape, t->op->group_layer, 0);
    const uint8_t *keys = latents + kvi_kv_k_side(c_code, t->rank).bytes;
    if (kvi_kv_code_is_plain(c_code)) {
        const kvi_dtype dtype = kvi_kv_plain_dtype(c_code);
        stage_keys(v, latents, dtype, t->rank, n, s->latents);
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t c = 0; c < t->rank; c += v->panel)
                v->widen(latents + ((size_t)i * t->rank + c) * kvi_dtype_bytes(dtype), dtype,
                         t->rank - c < v->panel ? t->rank - c : v->panel,
                         s->values + (size_t)c * KVI_KV_PAGE + (size_t)i * v->panel);
    } else { /* K's codes stand by channel */
        kvi_cpu_dequantize(v, latents, c_code, false, t->rank, s->vectors, s->latents);
        turn_panels(v, s->latents, t->rank, KVI_KV_PAGE, s->values);
    }
    if (kvi_kv_code_is_plain(k_code)) stage_keys(v, keys, kvi_kv_plain_dtype(k_code), t->rope, n, s->ropes);
    else { /* V's by token */ kvi_cpu_dequantize(v, keys, k_code, true, t->rope, s->vectors, s->key);
        turn_panels(v, s->key, KVI_KV_PAGE, t->rope, s->ropes);
    }
}

/* ------------------------------------------------------------------------------------------------------ products --- */
/* y (n, dim), rows ldy apart, = x (n, n_in) W^T of the dim rows of w from `row` on; `wide` when n may be large. */
static void multiply(const latent *t, const area *s, const kvi_weight *w, uint32_t row, uint32_t dim, uint32_t n_in,
                     const float *x, size_t ldx, uint32_t n, bool wide, float *y, size_t ldy)
{
    const kvi_cpu_variant *v = t->device->v;
    float *panel = s->vectors + VECTORS * KVI_KV_MAX_HEAD_DIM;
    for (uint32_t r = 0; !wide && r < n; r += 4)
        w->kernel->gemv(w, 0, row, dim, x + r * ldx, n - r < 4 ? n - r : 4, ldx, y + r * ldy, ldy);
    for (uint32_t i = 0; wide && i < dim; i += v->panel)
        for (uint32_t k = 0; k < n_in; k += KVI_CPU_KC) {
            const uint32_t n_k = n_in - k < KVI_CPU_KC ? n_in - k : KVI_CPU_KC,
                           cols = dim - i < v->panel ? dim - i : v->panel;
            w->kernel->pack(w, 0, row + i, cols, k, n_k, panel);
            v->panel_mac(x + k, ldx, n, n_k, panel, y + i, ldy, cols, k > 0);
        }
}

/* W_K of a head where it stands above W_V, as panels of its transpose: its rows are the panels' rows. Rows of a plain form are looked up; those of
 * others, which would be decoded number by number, come out of panels and are turned back. */
static void stage_w_k(const latent *t, const area *s, uint32_t head)
{
    kvi_device *device = t->device;
    const kvi_cpu_variant *v = device->v;
    const kvi_weight *w = t->op->weights[0];
    const uint32_t dim = t->op->key_dim, row = head * (dim + t->op->value_dim);
    float *panel = s->vectors + VECTORS * KVI_KV_MAX_HEAD_DIM;
    const bool by_rows = kvi_form_is_plain(w->desc.form);
    for (uint32_t i = 0; by_rows && i < dim; i++) {
        kvi_cpu_weight_row(device, w, row + i, s->row);
        for (uint32_t c = 0; c < t->rank; c += v->panel)
            memcpy(s->weights + (size_t)c * dim + (size_t)i * v->panel, s->row + c,
                   (t->rank - c < v->panel ? t->rank - c : v->panel) * sizeof *s->row);
    }
    for (uint32_t i = 0; !by_rows && i < dim; i += v->panel)
        for (uint32_t k = 0; k < t->rank; k += KVI_CPU_KC) {
            const uint32_t n_k = t->rank - k < KVI_CPU_KC ? t->rank - k : KVI_CPU_KC,
                           rows = dim - i < v->panel ? dim - i : v->panel;
            w->kernel->pack(w, 0, row + i, rows, k, n_k, panel);
            for (uint32_t c = 0; c < n_k; c += v->panel)
                v->pack(panel + (size_t)c * v->panel, KVI_F32, n_k - c < v->panel ? n_k - c : v->panel, v->panel, 0,
                        rows, s->weights + (size_t)(k + c) * dim + (size_t)i * v->panel);
        }
}

/* The same product for a few rows q (n, dim) and a form that is not plain, which saves laying out what is used once: a panel of W_K has for each
 * channel of the latent some rows side by side, which are multiplied with the same part of q. */
static void absorb_panels(const latent *t, const area *s, uint32_t head, const float *q, size_t ldq, uint32_t n,
                          float *out, size_t ld)
{
    const kvi_cpu_variant *v = t->device->v;
    const kvi_weight *w = t->op->weights[0];
    const uint32_t dim = t->op->key_dim, row = head * (dim + t->op->value_dim);
    float *panel = s->vectors + VECTORS * KVI_KV_MAX_HEAD_DIM, part[KVI_BATCH_ROWS * KVI_CPU_MOST_PANEL];
    for (uint32_t r = 0; r < n; r++) memset(out + r * ld, 0, t->rank * sizeof *out);
    for (uint32_t i = 0; i < dim; i += v->panel) {
        const uint32_t rows = dim - i < v->panel ? dim - i : v->panel;
        memset(part, 0, (size_t)n * v->panel * sizeof *part);
        for (uint32_t r = 0; r < n; r++) memcpy(part + r * v->panel, q + r * ldq + i, rows * sizeof *part);
        for (uint32_t k = 0; k < t->rank; k += KVI_CPU_KC) {
            const uint32_t n_k = t->rank - k < KVI_CPU_KC ? t->rank - k : KVI_CPU_KC;
            w->kernel->pack(w, 0, row + i, rows, k, n_k, panel);
            v->score(panel, KVI_F32, n_k, v->panel, part, n, s->scores, KVI_CPU_KC);
            for (uint32_t r = 0; r < n; r++)
                for (uint32_t c = 0; c < n_k; c++) out[r * ld + k + c] += s->scores[r * KVI_CPU_KC + c];
        }
    }
}

/* q' (rows, rank) = q W_K, where W_K stands above W_V. */
static void absorb_rows(const latent *t, const area *s, uint32_t head, const float *q, size_t ldq, uint32_t n,
                        bool wide, float *out, size_t ld)
{
    const kvi_cpu_variant *v = t->device->v;
    const uint32_t dim = t->op->key_dim;
    if (!wide && !kvi_form_is_plain(t->op->weights[0]->desc.form)) {
        absorb_panels(t, s, head, q, ldq, n, out, ld);
        return;
    }
    stage_w_k(t, s, head);
    for (uint32_t c = 0; c < t->rank; c += v->panel)
        v->panel_mac(q, ldq, n, dim, s->weights + (size_t)c * dim, out + c, ld,
                     t->rank - c < v->panel ? t->rank - c : v->panel, false);
}

/* q' (rows, width) of rows [first, first + n) of one head, scaled and in the cache's basis; q' rows are ld apart. */
static void absorb(const latent *t, const area *s, uint32_t head, uint32_t first, uint32_t n, bool wide, float *out,
                   size_t ld)
{
    kvi_device *device = t->device;
    const kvi_cpu_variant *v = device->v;
    const uint32_t dim = t->op->key_dim, own = dim + t->rope;
    const size_t ldq = (size_t)t->n_heads * own;
    const float *q = device->buffers[t->op->in] + first * ldq + (size_t)head * own;
    if (t->op->n_weights == 2)
        multiply(t, s, t->op->weights[0], head * t->rank, t->rank, dim, q, ldq, n, wide, out, ld);
    else absorb_rows(t, s, head, q, ldq, n, wide, out, ld);
    for (uint32_t r = 0; r < n; r++) {
        float *to = out + r * ld;
        if (t->group->rotate) v->hadamard(to, t->rank);
        memcpy(to + t->rank, q + r * ldq + dim, t->rope * sizeof *to);
        v->scale(to, t->op->scale, t->width);
    }
}

/* out of rows [first, first + n) of one head from their sums of latents o (n, rank), which are used up. */
static void leave_latent(const latent *t, const area *s, uint32_t head, uint32_t first, uint32_t n, bool wide, float *o)
{
    const bool split = t->op->n_weights == 2;
    const uint32_t dim = t->op->value_dim, row = split ? head * dim : head * (t->op->key_dim + dim) + t->op->key_dim;
    const size_t ldy = (size_t)t->n_heads * dim;
    for (uint32_t r = 0; t->group->rotate && r < n; r++) t->device->v->hadamard(o + (size_t)r * t->rank, t->rank);
    multiply(t, s, t->op->weights[split ? 1 : 0], row, dim, t->rank, o, t->rank, n, wide,
             t->device->buffers[t->op->out] + first * ldy + (size_t)head * dim, ldy);
}

/* The queries of the area against a page. */
static void attend_page(const latent *t, const area *s, const kvi_seq *seq, uint32_t page, uint32_t n)
{
    const kvi_cpu_variant *v = t->device->v;
    const uint32_t first_pos = page * KVI_KV_PAGE;
    stage_page(t, &seq->pages[t->op->group][page], n, s);
    for (uint32_t c = 0; c < n; c += v->panel) {
        float *scores = s->scores + c;
        v->panel_mac(s->q, t->width, s->n, t->rank, s->latents + (size_t)c * t->rank, scores, KVI_KV_PAGE, v->panel,
                     false);
        v->panel_mac(s->q + t->rank, t->width, s->n, t->rope, s->ropes + (size_t)c * t->rope, scores, KVI_KV_PAGE,
                     v->panel, true);
    }
    for (uint32_t i = 0; i < s->n; i++) {
        float *score = s->scores + (size_t)i * KVI_KV_PAGE;
        const uint32_t seen = s->pos[i] + 1 > first_pos ? s->pos[i] + 1 - first_pos : 0,
                       end = t->op->causal && seen < n ? seen : n;
        for (uint32_t k = end; k < n; k++) score[k] = -INFINITY;
        const float factor = v->softmax_step(score, n, &s->m[i], &s->l[i]);
        if (factor != 1.0f) v->scale(s->acc + (size_t)i * t->rank, factor, t->rank);
    }
    for (uint32_t c = 0; c < t->rank; c += v->panel)
        v->panel_mac(s->scores, KVI_KV_PAGE, s->n, n, s->values + (size_t)c * KVI_KV_PAGE, s->acc + c, t->rank,
                     t->rank - c < v->panel ? t->rank - c : v->panel, true);
}

/* --------------------------------------------------------------------------------------------------------- blocks --- */
/* The queries of a task: a row is that of `n_heads` heads, from `head` on. */
typedef struct block {
    const kvi_seq *seq;
    uint32_t head, n_heads, first; /* first: row of the sequence */
    uint32_t page, end;            /* pages it looks at */
    uint32_t split;                /* narrow */
} block;

/* False: the task has none. */
static bool block_of(const latent *t, uint32_t task, area *s, block *b)
{
    const uint32_t part = task / (t->wide ? 1u : t->n_splits), i = part % t->blocks, rest = part / t->blocks;
    *b = (block){.n_heads = 1, .end = UINT32_MAX};
    if (t->wide) {
        b->seq = &t->device->step.seqs[rest / t->n_heads];
        b->head = rest % t->n_heads;
        b->first = i * WIDE_QUERIES;
        if (b->first >= b->seq->n_rows) return false;
        s->n = b->seq->n_rows - b->first < WIDE_QUERIES ? b->seq->n_rows - b->first : WIDE_QUERIES;
    } else {
        b->seq = &t->device->step.seqs[rest];
        b->split = task % t->n_splits;
        b->head = i * t->block;
        b->n_heads = t->n_heads - b->head < t->block ? t->n_heads - b->head : t->block;
        b->page = b->split * KVI_CPU_SPLIT_PAGES;
        b->end = b->page + KVI_CPU_SPLIT_PAGES;
        s->n = b->seq->n_rows * b->n_heads;
    }
    for (uint32_t q = 0; q < s->n; q++) s->pos[q] = b->seq->pos + b->first + q / b->n_heads;
    return true;
}

/* Where the partial result (m, l, acc) of a query in a run of pages stands; row: of the narrow ones. */
static float *split_at(const latent *t, uint32_t row, uint32_t head, uint32_t split)
{
    return t->device->split_out + (((size_t)row * t->n_heads + head) * t->n_splits + split) * (t->rank + 2u);
}

static void load_block(const latent *t, const area *s, const block *b)
{
    if (t->wide) absorb(t, s, b->head, b->seq->first_row + b->first, s->n, true, s->q, t->width);
    for (uint32_t i = 0; !t->wide && i < s->n; i++) {
        const size_t row = b->seq->first_row - t->first_row + i / b->n_heads;
        memcpy(s->q + (size_t)i * t->width,
               t->device->absorbed + (row * t->n_heads + b->head + i % b->n_heads) * t->width, t->width * sizeof *s->q);
    }
    for (uint32_t i = 0; i < s->n; i++) s->m[i] = -INFINITY, s->l[i] = 0;
    memset(s->acc, 0, (size_t)s->n * t->rank * sizeof *s->acc);
}

/* Pages [page, end) of those that it looks at. */
static void attend_pages(const latent *t, const area *s, const block *b, uint32_t page, uint32_t end)
{
    const uint32_t n_pos = t->op->causal ? s->pos[s->n - 1] + 1 : b->seq->pos + b->seq->n_rows;
    for (; page < end && page < b->end && page * KVI_KV_PAGE < n_pos; page++) {
        const uint32_t left = n_pos - page * KVI_KV_PAGE;
        attend_page(t, s, b->seq, page, left < KVI_KV_PAGE ? left : KVI_KV_PAGE);
    }
}

static void store_block(const latent *t, const area *s, const block *b)
{
    for (uint32_t i = 0; i < s->n; i++) {
        float *acc = s->acc + (size_t)i * t->rank;
        if (t->wide) {
            t->device->v->scale(acc, 1.0f / s->l[i], t->rank);
            continue;
        }
        float *partial =
            split_at(t, b->seq->first_row - t->first_row + i / b->n_heads, b->head + i % b->n_heads, b->split);
        partial[0] = s->m[i];
        partial[1] = s->l[i];
        memcpy(partial + 2, acc, t->rank * sizeof *partial);
    }
    if (t->wide) leave_latent(t, s, b->head, b->seq->first_row + b->first, s->n, true, s->acc);
}

static void whole_block(void *arg, uint32_t task, uint32_t thread)
{
    const latent *t = arg;
    area s = area_of(t, thread);
    block b;
    if (!block_of(t, task, &s, &b)) return;
    load_block(t, &s, &b);
    attend_pages(t, &s, &b, b.page, b.end);
    store_block(t, &s, &b);
}

/* A part of a block's way. What it has so far stands in the area of its place in the round, whichever thread is there. */
static void piece_of_block(void *arg, uint32_t place, uint32_t thread)
{
    const latent *t = arg;
    area s = area_of(t, place);
    block b;
    (void)thread;
    if (!block_of(t, t->first_task + place, &s, &b)) return;
    const uint32_t page = b.page + (t->piece - t->apart) * KVI_CPU_PIECE_PAGES;
    if (t->piece == 0) load_block(t, &s, &b);
    if (t->piece >= t->apart && t->piece < t->n_pieces - t->apart)
        attend_pages(t, &s, &b, page, page + KVI_CPU_PIECE_PAGES);
    if (t->piece == t->n_pieces - 1) store_block(t, &s, &b);
}

/* All blocks, or the piece's part of them. A block is long where much is cached. Its sums have as many numbers as the latent for each head, too many
 * to keep of all rows, so that where the operation is cut as many blocks as there are threads go their way to the end, then the next ones. */
static bool attend_blocks(latent *t, uint32_t n_tasks, uint32_t n_pages)
{
    kvi_device *device = t->device;
    if (!kvi_cpu_is_cut(device)) return kvi_cpu_tasks(device, whole_block, t, n_tasks);
    t->apart = t->wide ? 1 : 0;
    t->n_pieces = (n_pages + KVI_CPU_PIECE_PAGES - 1) / KVI_CPU_PIECE_PAGES + 2 * t->apart;
    for (t->first_task = 0; t->first_task < n_tasks; t->first_task += device->n_threads) {
        const uint32_t left = n_tasks - t->first_task;
        for (t->piece = 0; t->piece < t->n_pieces; t->piece++)
            if (!kvi_cpu_tasks(device, piece_of_block, t, left < device->n_threads ? left : device->n_threads))
                return false;
    }
    return true;
}

/* -------------------------------------------------------------------------------------------------------- narrow --- */
static void absorb_task(void *arg, uint32_t head, uint32_t thread)
{
    const latent *t = arg;
    const area s = area_of(t, thread);
    absorb(t, &s, head, t->first_row, t->device->step.n_rows, false, t->device->absorbed + (size_t)head * t->width,
           (size_t)t->n_heads * t->width);
}

static void merge_task(void *arg, uint32_t head, uint32_t thread)
{
    const latent *t = arg;
    const kvi_step *step = &t->device->step;
    const area s = area_of(t, thread);
    for (uint32_t row = 0; row < step->n_rows; row++) {
        float top = -INFINITY, l = 0, *acc = s.acc + (size_t)row * t->rank;
        for (uint32_t i = 0; i < t->n_splits; i++)
            if (!(split_at(t, row, head, i)[0] <= top)) top = split_at(t, row, head, i)[0];
        memset(acc, 0, t->rank * sizeof *acc);
        for (uint32_t i = 0; i < t->n_splits; i++) {
            const float *partial = split_at(t, row, head, i);
            if (partial[0] == -INFINITY) continue; /* saw nothing */
            const float factor = expf(partial[0] - top);
            l += factor * partial[1];
            for (uint32_t k = 0; k < t->rank; k++) acc[k] += factor * partial[2 + k];
        }
        t->device->v->scale(acc, 1.0f / l, t->rank);
    }
    leave_latent(t, &s, head, t->first_row, step->n_rows, false, s.acc);
}

const char *kvi_cpu_latent_attention(kvi_device *device, const kvi_op *op)
{
    latent t = latent_of(device, op);
    uint32_t rows = 0, longest = 0;
    for (uint32_t i = 0; i < device->step.n_seqs; i++) {
        const kvi_seq *seq = &device->step.seqs[i];
        if (seq->n_rows > rows) rows = seq->n_rows;
        if (seq->pos + seq->n_rows > longest) longest = seq->pos + seq->n_rows;
    }
    const uint32_t pages = (longest + KVI_KV_PAGE - 1) / KVI_KV_PAGE;
    t.wide = kvi_step_is_wide(&device->step);
    if (t.wide) {
        t.blocks = (rows + WIDE_QUERIES - 1) / WIDE_QUERIES;
        (void)attend_blocks(&t, device->step.n_seqs * t.n_heads * t.blocks, pages);
        return "attention_latent_prefill";
    }
    t.block = heads_together(t.n_heads);
    t.blocks = (t.n_heads + t.block - 1) / t.block;
    t.n_splits = (pages + KVI_CPU_SPLIT_PAGES - 1) / KVI_CPU_SPLIT_PAGES;
    if (kvi_cpu_tasks(device, absorb_task, &t, t.n_heads) &&
        attend_blocks(&t, device->step.n_seqs * t.blocks * t.n_splits,
                      pages < KVI_CPU_SPLIT_PAGES ? pages : KVI_CPU_SPLIT_PAGES))
        (void)kvi_cpu_tasks(device, merge_task, &t, t.n_heads);
    return "attention_latent_decode";
}
