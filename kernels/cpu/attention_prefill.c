/* attention_prefill.c - softmax attention of many query rows: chunks of a prompt, evaluation.
 * A task is a block of up to PREFILL_BLOCK queries of one KV head: rows of one sequence times the query heads that share the head. Page by page
 * it brings K and V into the form that the products want, once for all queries of the block, in fixed scratch: f32 panels for panel_mac, or
 * BF16 tiles when the device may use AMX. Packed pages are dequantized there (the codec's own values), so that their cost over 16-bit ones
 * vanishes with the number of queries; nothing of the size of the context is ever made. Then group by group of queries: scores, one online
 * softmax step, values.
 * What a query gets does not depend on its block, its group or its neighbours: rows are independent in every product, pages come in order, and a
 * page that a query does not see changes nothing. So neither threads nor the cut into chunks show in the result.
 * Measured, 512 rows behind 4,096 positions, 32 heads of 64 over 8 KV heads, one thread: AMX 44 ms for f16 and 43 ms for k4v4, f32 on AVX-512
 * 148 and 140 ms, on AVX2 234 and 232 ms. Before, with blocks of 128 queries and the scales of packed pages folded into q and p (a product and a
 * sum per query and page instead of one dequantization per block): 183 and 388 ms on AVX-512. */
#include "attention_prefill_amx.h"
#include "device_cpu.h"

#include <math.h>
#include <string.h>

#define PREFILL_BLOCK 512u
#define PREFILL_TASKS 32u /* blocks are smaller when there would be fewer tasks than this */
#define GROUP 48u         /* queries of the f32 path; a multiple of every MR */
#define LOG2_E 1.44269504088896341f

typedef struct prefill {
    kvi_device *device;
    const kvi_op *op;
    const kvi_cache_group *group;
    const float *qkv;                     /* (rows, cols), q first */
    uint32_t cols, per_kv, block, blocks; /* tasks = seqs * kv heads * blocks */
    uint32_t run, run_pages;              /* pages [run * run_pages, ...) of every block */
    bool amx;
} prefill;

/* One thread's scratch, and the block it works on. */
typedef struct area {
    float *q;                       /* (PREFILL_BLOCK, D) scaled; AMX: (PREFILL_BLOCK, padded D) BF16 */
    float *acc, *m, *l;             /* (PREFILL_BLOCK, width), (PREFILL_BLOCK), (PREFILL_BLOCK) */
    float *k, *v;                   /* (128, padded D) each, panels or rows */
    float *scores;                  /* (GROUP, 128) */
    uint8_t *k_tiles, *v_tiles, *p; /* AMX: (128, padded D) BF16 each, (KVI_AMX_GROUP, 128) BF16 */
    float *vectors;                 /* (KVI_CPU_SIDE_VECTORS, KVI_KV_MAX_HEAD_DIM) */
    uint32_t width;                 /* floats between rows of acc */
    const kvi_seq *seq;
    uint32_t kv_head, first, n_queries; /* queries of the sequence and KV head: row * per_kv + head */
} area;

static uint32_t padded(uint32_t d) { return (d + 63u) / 64u * 64u; }
size_t kvi_cpu_prefill_scratch(uint32_t d)
{
    return (size_t)PREFILL_BLOCK * (2u * padded(d) + 2u) + 3u * (size_t)KVI_KV_PAGE * padded(d) +
           (GROUP + KVI_AMX_GROUP / 2u) * KVI_KV_PAGE + KVI_CPU_SIDE_VECTORS * KVI_KV_MAX_HEAD_DIM;
}

static area area_of(const prefill *t, uint32_t thread)
{
    const uint32_t d = t->group->shape.head_dim, wide = padded(d);
    float *at = t->device->thread_scratch + thread * t->device->scratch_floats;
    area s = {.width = t->amx ? kvi_amx_padded(d) : d};
    s.q = at, at += (size_t)PREFILL_BLOCK * wide;
    s.acc = at, at += (size_t)PREFILL_BLOCK * wide;
    s.m = at, at += PREFILL_BLOCK;
    s.l = at, at += PREFILL_BLOCK;
    s.k = at, at += (size_t)KVI_KV_PAGE * wide;
    s.v = at, at += (size_t)KVI_KV_PAGE * wide;
    s.scores = at, at += GROUP * KVI_KV_PAGE;
    s.k_tiles = (uint8_t *)at, at += (size_t)KVI_KV_PAGE * wide / 2u;
    s.v_tiles = (uint8_t *)at, at += (size_t)KVI_KV_PAGE * wide / 2u;
    s.p = (uint8_t *)at, at += KVI_AMX_GROUP * KVI_KV_PAGE / 2u;
    s.vectors = at;
    return s;
}

/* ------------------------------------------------------------------------------------------------------- staging --- */
static void fill(float *x, uint32_t n, float value)
{
    for (uint32_t i = 0; i < n; i++) x[i] = value;
}

void kvi_cpu_dequantize(const kvi_cpu_variant *v, const uint8_t *side, kvi_kv_code code, bool is_v, uint32_t d,
                        float *vectors, float *panels)
{
    float *a = vectors, *z = a + KVI_KV_MAX_HEAD_DIM, *o = z + KVI_KV_MAX_HEAD_DIM, *m_col = o + KVI_KV_MAX_HEAD_DIM;
    const kvi_kv_side at = is_v ? kvi_kv_v_side(code, d) : kvi_kv_k_side(code, d);
    const uint32_t rows = is_v ? KVI_KV_PAGE : d, cols = is_v ? d : KVI_KV_PAGE;
    const bool normal = kvi_kv_code_is_trellis(code), by_channel = normal && is_v; /* where the mean stands */
    const bool has_a = is_v || code >= KVI_KV_Q4,
               has_z = !by_channel && (code >= KVI_KV_Q4 || (is_v && code == KVI_KV_I8)),
               has_o = !is_v || code >= KVI_KV_Q4;
    fill(o, KVI_KV_MAX_HEAD_DIM, 1.0f);
    if (has_a) v->widen(side + at.a_off, KVI_F16, rows, a);
    else fill(a, rows, 1.0f);
    if (has_z) v->widen(side + at.z_off, KVI_F16, rows, z);
    else fill(z, rows, code == KVI_KV_I8 ? -128.0f : 0.0f);
    if (has_o) v->widen(side + at.o_off, KVI_F16, cols, o);
    v->unpack(side + at.codes_off, code, rows, cols, panels);
    fill(m_col, KVI_KV_MAX_HEAD_DIM, 0.0f);
    if (by_channel) v->widen(side + at.z_off, KVI_F16, d, m_col);
    for (uint32_t c = 0; normal && c < cols; c += v->panel)
        v->normal(panels + (size_t)c * rows, rows, a, z, o + c, m_col + c);
    if (normal) return;
    for (uint32_t c = 0; c < cols; c += v->panel) v->affine(panels + (size_t)c * rows, rows, a, z, o + c);
}

/* Plain K as panels of 128 columns over D rows. */
static void stage_plain_k(const kvi_cpu_variant *v, const uint8_t *side, kvi_kv_code code, uint32_t d, uint32_t n,
                          float *panels)
{
    const size_t row_bytes = (size_t)d * kvi_dtype_bytes(kvi_kv_plain_dtype(code));
    for (uint32_t t = 0; t < n; t += v->panel) {
        const uint32_t rows = n - t < v->panel ? n - t : v->panel;
        v->pack(side + t * row_bytes, kvi_kv_plain_dtype(code), rows, d, 0, d, panels + (size_t)t * d);
    }
}

void kvi_cpu_stage_k(const kvi_cpu_variant *v, const uint8_t *side, kvi_kv_code code, uint32_t d, uint32_t n,
                     float *vectors, float *panels)
{
    if (kvi_kv_code_is_plain(code)) stage_plain_k(v, side, code, d, n, panels);
    else kvi_cpu_dequantize(v, side, code, false, d, vectors, panels);
}

/* Plain V as panels of D columns over 128 rows. */
static void stage_plain_v(const kvi_cpu_variant *v, const uint8_t *side, kvi_kv_code code, uint32_t d, uint32_t n,
                          float *panels)
{
    const uint32_t size = kvi_dtype_bytes(kvi_kv_plain_dtype(code));
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t c = 0; c < d; c += v->panel)
            v->widen(side + ((size_t)t * d + c) * size, kvi_kv_plain_dtype(code), d - c < v->panel ? d - c : v->panel,
                     panels + (size_t)c * KVI_KV_PAGE + (size_t)t * v->panel);
}

/* Tiles want pairs of rows of the inner dimension: channels for K, tokens for V. Panels and V's rows have them; K's plain rows are turned. */
static void stage_tiles(const prefill *t, const uint8_t *side, kvi_kv_code code, bool is_v, uint32_t n, const area *s,
                        uint8_t *tiles)
{
    const kvi_cpu_variant *v = t->device->v;
    const uint32_t d = t->group->shape.head_dim, wide = kvi_amx_padded(d),
                   size = kvi_dtype_bytes(kvi_kv_plain_dtype(code));
    const uint32_t cols = is_v ? wide : KVI_KV_PAGE, depth = is_v ? KVI_KV_PAGE : wide;
    float *rows = is_v ? s->v : s->k;
    if (!kvi_kv_code_is_plain(code)) {
        const uint32_t height = is_v ? KVI_KV_PAGE : d, have = is_v ? d : KVI_KV_PAGE;
        kvi_cpu_dequantize(v, side, code, is_v, d, s->vectors, rows);
        for (uint32_t c = 0; c < cols; c += 16)
            kvi_amx_prefill_pack(rows + (size_t)(c / v->panel * v->panel) * height + c % v->panel, v->panel,
                                 c < have ? height : 0, depth, tiles + (size_t)c * depth * 2u);
        return;
    }
    if (is_v) {
        v->widen(side, kvi_kv_plain_dtype(code), n * d, rows);
        for (uint32_t c = 0; c < wide; c += 16)
            kvi_amx_prefill_pack(rows + c, d, c < d ? n : 0, depth, tiles + (size_t)c * depth * 2u);
        return;
    }
    for (uint32_t r = 0; r < n; r++) {
        v->widen(side + (size_t)r * d * size, kvi_kv_plain_dtype(code), d, rows + (size_t)r * wide);
        fill(rows + (size_t)r * wide + d, wide - d, 0.0f);
    }
    kvi_amx_prefill_turn(rows, n, wide, tiles);
}

/* --------------------------------------------------------------------------------------------------------- one page --- */
/* Positions of the page that a query sees: [*begin, *end) of n. */
static void visible(const prefill *t, const area *s, uint32_t query, uint32_t first_pos, uint32_t n, uint32_t *begin,
                    uint32_t *end)
{
    const uint32_t pos = s->seq->pos + query / t->per_kv, window = t->group->window;
    *end = t->op->causal && pos + 1 < first_pos + n ? (pos + 1 > first_pos ? pos + 1 - first_pos : 0) : n;
    *begin = window && pos + 1 > first_pos + window ? pos + 1 - window - first_pos : 0;
    if (*begin > n) *begin = n;
}

/* Queries [i, i + n_queries) of the block against the staged page. */
static void group_panels(const prefill *t, const area *s, uint32_t first_pos, uint32_t n, uint32_t i,
                         uint32_t n_queries)
{
    const kvi_cpu_variant *v = t->device->v;
    const uint32_t d = t->group->shape.head_dim;
    float *acc = s->acc + (size_t)i * s->width;
    for (uint32_t c = 0; c < n; c += v->panel)
        v->panel_mac(s->q + (size_t)i * d, d, n_queries, d, s->k + (size_t)c * d, s->scores + c, KVI_KV_PAGE, v->panel,
                     false);
    for (uint32_t r = 0; r < n_queries; r++) {
        float *score = s->scores + (size_t)r * KVI_KV_PAGE;
        uint32_t begin, end;
        visible(t, s, s->first + i + r, first_pos, n, &begin, &end);
        if (t->op->softcap > 0) v->softcap(score, t->op->softcap, n);
        fill(score, begin, -INFINITY);
        if (end < n) fill(score + end, n - end, -INFINITY);
        const float factor = v->softmax_step(score, n, &s->m[i + r], &s->l[i + r]);
        if (factor != 1.0f) v->scale(acc + (size_t)r * s->width, factor, d);
    }
    for (uint32_t c = 0; c < d; c += v->panel)
        v->panel_mac(s->scores, KVI_KV_PAGE, n_queries, n, s->v + (size_t)c * KVI_KV_PAGE, acc + c, s->width,
                     d - c < v->panel ? d - c : v->panel, true);
}

static void group_tiles(const prefill *t, const area *s, uint32_t first_pos, uint32_t n, uint32_t i, uint32_t n_queries)
{
    kvi_amx_page page = {.d = t->group->shape.head_dim,
                         .q = (const uint16_t *)(const void *)s->q + (size_t)i * s->width,
                         .k = s->k_tiles,
                         .v = s->v_tiles,
                         .m = s->m + i,
                         .l = s->l + i,
                         .acc = s->acc + (size_t)i * s->width,
                         .scores = s->scores,
                         .p = (uint16_t *)(void *)s->p};
    for (uint32_t r = 0; r < n_queries; r++)
        visible(t, s, s->first + i + r, first_pos, n, &page.begin[r], &page.end[r]);
    kvi_amx_prefill_page(&page);
}

static void attend_page(const prefill *t, const area *s, uint32_t page)
{
    const kvi_cpu_variant *v = t->device->v;
    const kvi_seq *seq = s->seq;
    const kvi_page_ref *ref = &seq->pages[t->op->group][page];
    const kvi_kv_code k_code = KVI_KV_K_CODE(ref->format), v_code = KVI_KV_V_CODE(ref->format);
    const uint32_t d = t->group->shape.head_dim, first_pos = page * KVI_KV_PAGE, window = t->group->window;
    const uint32_t stored = seq->pos + seq->n_rows - first_pos, n = stored < KVI_KV_PAGE ? stored : KVI_KV_PAGE;
    const uint8_t *k = t->device->pool + (uint64_t)ref->unit * KVI_KV_UNIT +
                       kvi_kv_record_off(ref->format, &t->group->shape, t->op->group_layer, s->kv_head);
    const uint8_t *values = k + kvi_kv_k_side(k_code, d).bytes;
    if (t->amx) {
        stage_tiles(t, k, k_code, false, n, s, s->k_tiles);
        stage_tiles(t, values, v_code, true, n, s, s->v_tiles);
    } else {
        kvi_cpu_stage_k(v, k, k_code, d, n, s->vectors, s->k);
        if (kvi_kv_code_is_plain(v_code)) stage_plain_v(v, values, v_code, d, n, s->v);
        else kvi_cpu_dequantize(v, values, v_code, true, d, s->vectors, s->v);
    }
    const uint32_t step = t->amx ? KVI_AMX_GROUP : GROUP;
    for (uint32_t i = 0; i < s->n_queries; i += step) {
        const uint32_t n_queries = s->n_queries - i < step ? s->n_queries - i : step;
        const uint32_t low = seq->pos + (s->first + i) / t->per_kv,
                       high = seq->pos + (s->first + i + n_queries - 1) / t->per_kv;
        if (t->op->causal && high < first_pos) continue; /* none of them sees the page */
        if (window && low + 1 > first_pos + n - 1 + window) continue;
        if (t->amx) group_tiles(t, s, first_pos, n, i, n_queries);
        else group_panels(t, s, first_pos, n, i, n_queries);
    }
}

/* -------------------------------------------------------------------------------------------------------- one block --- */
static void load_queries(const prefill *t, const area *s)
{
    const uint32_t d = t->group->shape.head_dim;
    for (uint32_t i = 0; i < s->n_queries; i++) {
        const uint32_t query = s->first + i, row = s->seq->first_row + query / t->per_kv;
        const float *q = t->qkv + (size_t)row * t->cols + (size_t)(s->kv_head * t->per_kv + query % t->per_kv) * d;
        if (t->amx) kvi_amx_prefill_query(q, t->op->scale * LOG2_E, d, (uint16_t *)(void *)s->q + (size_t)i * s->width);
        else
            for (uint32_t k = 0; k < d; k++) s->q[(size_t)i * d + k] = q[k] * t->op->scale;
    }
    const uint32_t rows =
        (s->n_queries + KVI_AMX_GROUP - 1) / KVI_AMX_GROUP * KVI_AMX_GROUP; /* tiles reach beyond the last query */
    fill(s->m, rows, -INFINITY);
    memset(s->l, 0, rows * sizeof *s->l);
    memset(s->acc, 0, (size_t)rows * s->width * sizeof *s->acc);
    if (t->amx)
        memset((uint16_t *)(void *)s->q + (size_t)s->n_queries * s->width, 0,
               (size_t)(rows - s->n_queries) * s->width * 2u);
}

static void store_results(const prefill *t, const area *s)
{
    for (uint32_t i = 0; i < s->n_queries; i++) {
        const uint32_t query = s->first + i;
        /* The tiles' softmax works in powers of two. */
        kvi_cpu_attention_finish(t->device, t->op, s->seq->first_row + query / t->per_kv,
                                 s->kv_head * t->per_kv + query % t->per_kv, t->amx ? s->m[i] / LOG2_E : s->m[i],
                                 s->l[i], s->acc + (size_t)i * s->width);
    }
}

/* What a query has seen so far stands between two runs of pages where its result will: (D) of acc, and in `sums`. */
static void keep(const prefill *t, const area *s, bool load)
{
    const uint32_t d = t->group->shape.head_dim, heads = t->op->n_heads;
    for (uint32_t i = 0; i < s->n_queries; i++) {
        const uint32_t query = s->first + i;
        const size_t at =
            (size_t)(s->seq->first_row + query / t->per_kv) * heads + s->kv_head * t->per_kv + query % t->per_kv;
        float *acc = s->acc + (size_t)i * s->width, *out = t->device->buffers[t->op->out] + at * d,
              *sums = t->device->sums + at * 2;
        if (load) memcpy(acc, out, d * sizeof *acc), s->m[i] = sums[0], s->l[i] = sums[1];
        else memcpy(out, acc, d * sizeof *acc), sums[0] = s->m[i], sums[1] = s->l[i];
    }
}

static void attend_block(void *arg, uint32_t task, uint32_t thread)
{
    const prefill *t = arg;
    const uint32_t n_kv = t->group->shape.n_kv_heads, window = t->group->window;
    area s = area_of(t, thread);
    s.seq = &t->device->step.seqs[task / t->blocks / n_kv];
    s.kv_head = task / t->blocks % n_kv;
    s.first = task % t->blocks * t->block;
    const uint32_t total = s.seq->n_rows * t->per_kv;
    if (s.first >= total) return;
    s.n_queries = total - s.first < t->block ? total - s.first : t->block;
    const uint32_t low = s.seq->pos + s.first / t->per_kv, high = s.seq->pos + (s.first + s.n_queries - 1) / t->per_kv;
    const uint32_t n_pos = t->op->causal ? high + 1 : s.seq->pos + s.seq->n_rows; /* positions that may be seen */
    const uint32_t first_seen = window && low + 1 > window ? low + 1 - window : 0;
    const uint32_t first = first_seen / KVI_KV_PAGE, end = (n_pos + KVI_KV_PAGE - 1) / KVI_KV_PAGE,
                   run = t->run * t->run_pages, from = first > run ? first : run,
                   to = end - from < t->run_pages - (from - run) ? end : run + t->run_pages;
    if (from >= end || from >= run + t->run_pages) return; /* not in this run */
    load_queries(t, &s);
    if (from > first) keep(t, &s, true);
    if (t->amx) kvi_amx_prefill_begin();
    for (uint32_t page = from; page < to; page++) attend_page(t, &s, page);
    if (t->amx) kvi_amx_prefill_end();
    if (to < end) keep(t, &s, false);
    else store_results(t, &s);
}

const char *kvi_cpu_prefill_attention(kvi_device *device, const kvi_op *op)
{
    const kvi_cache_group *group = &device->program->groups[op->group];
    prefill t = {.device = device,
                 .op = op,
                 .group = group,
                 .qkv = device->buffers[op->in],
                 .cols = device->program->buffers[op->in].cols,
                 .per_kv = op->n_heads / group->shape.n_kv_heads,
                 .amx = device->tiles && group->shape.head_dim % 16u == 0 && group->shape.head_dim <= KVI_AMX_MAX_DIM &&
                        !(op->softcap > 0)};
    uint32_t rows = 0, first = UINT32_MAX, end = 0;
    for (uint32_t i = 0; i < device->step.n_seqs; i++) {
        const kvi_seq *seq = &device->step.seqs[i];
        const uint32_t seen = group->window && seq->pos + 1 > group->window ? seq->pos + 1 - group->window : 0;
        if (seq->n_rows > rows) rows = seq->n_rows;
        if (seq->pos + seq->n_rows > end) end = seq->pos + seq->n_rows;
        if (seen < first) first = seen;
    }
    const uint32_t heads = device->step.n_seqs * group->shape.n_kv_heads, queries = rows * t.per_kv;
    t.block = (queries * heads / PREFILL_TASKS + GROUP * 2u - 1) / (GROUP * 2u) *
              (GROUP * 2u); /* whole groups of both paths */
    if (t.block < GROUP * 2u) t.block = GROUP * 2u;
    if (t.block > PREFILL_BLOCK / (GROUP * 2u) * (GROUP * 2u)) t.block = PREFILL_BLOCK / (GROUP * 2u) * (GROUP * 2u);
    t.run_pages = UINT32_MAX;
    if (kvi_cpu_is_cut(device)) t.block = GROUP * 2u, t.run_pages = KVI_CPU_PIECE_PAGES;
    t.blocks = (queries + t.block - 1) / t.block;
    const uint32_t first_run = first / KVI_KV_PAGE / t.run_pages, last_run = (end - 1) / KVI_KV_PAGE / t.run_pages;
    /* A run of pages comes behind the one before it for every block: each is a phase. */
    for (t.run = first_run; t.run <= last_run; t.run++)
        if (!kvi_cpu_tasks(device, attend_block, &t, heads * t.blocks)) break;
    return t.amx ? "attention_prefill_amx" : "attention_prefill";
}
