/* attention.c - softmax attention over pages on the CPU in the narrow form, up to KVI_BATCH_ROWS rows. A *part* is up to KVI_CPU_QUERY_BLOCK
 * queries of one KV head: the rows of one sequence times the query heads that share the KV head. Parts whose pages are the same ones (sessions
 * behind one prefix) keep *company*: a task handles such parts for one KV head, and as long as they look at the same page every K and V value of
 * it is read once for all of them; where their pages part each goes on alone. Who keeps company changes no bit: each query has its own sums, in
 * the order of its own pages. Per page: plain rows and codes are read in place, by kernels of a few queries; with many query heads K becomes
 * transposed panels, V panels (packed pages: their raw codes, a page at a time in the thread's scratch), and both products are the panel
 * kernel of the GEMM; the softmax runs online. A long context is split into fixed runs of pages whose partial results are merged by log-sum-exp;
 * the split depends neither on the number of threads nor on the rows beside a row. */
#include "attention_packed.h"
#include "device_cpu.h"

#include <math.h>
#include <string.h>

typedef struct attention_task {
    kvi_device *device;
    const kvi_op *op;
    const kvi_cache_group *group;
    const float *qkv; /* (rows, cols), q first */
    uint32_t cols, per_kv, n_parts, n_splits;
} attention_task;

/* Queries of a task that keep company: as many as the kernels have use for, and a round of work that is short enough for a budget. */
#define COMPANY_QUERIES 32u

/* One thread's staging area, sized by kvi_cpu_attention_scratch. */
typedef struct stage {
    float *q;               /* (QUERY_BLOCK, D) scaled queries */
    float *scores;          /* (QUERY_BLOCK, 128) */
    float *acc;             /* (QUERY_BLOCK, D) */
    float *m, *l;           /* (QUERY_BLOCK) */
    float *k;               /* panels of 128 columns over D rows */
    float *v;               /* panels of D columns over 128 rows */
    float *row;             /* (D) */
    float *k_a, *k_z, *k_o; /* (D), (D), (128) side vectors of a packed K; see fold_k */
    float *v_a, *v_z, *v_o; /* (128), (128), (D) */
    float *part;            /* (QUERY_BLOCK, D) one packed page's p . codes */
    float *packed;          /* (KVI_CPU_PACKED_SCRATCH) 64-byte aligned */
} stage;

/* Up to this many query heads of a KV head read plain pages in place; for more, panels that are made once are worth their cost. Heads, not
 * queries: which kernel runs must not depend on the rows beside a row. */
#define DIRECT_HEADS 16u
#define PAD 64u /* widest panel, rounded up */
static uint32_t padded(uint32_t d) { return (d + PAD - 1) / PAD * PAD; }

size_t kvi_cpu_attention_scratch(uint32_t d)
{
    return KVI_CPU_PACKED_SCRATCH + (size_t)KVI_CPU_QUERY_BLOCK * (3u * d + KVI_KV_PAGE + 2u) +
           (size_t)KVI_KV_PAGE * (d + padded(d)) + 4u * d + 3u * KVI_KV_PAGE;
}

static stage stage_of(kvi_device *device, uint32_t thread, uint32_t d)
{
    stage s;
    float *at = device->thread_scratch + thread * device->scratch_floats;
    s.packed = at, at += KVI_CPU_PACKED_SCRATCH;
    s.k = at, at += (size_t)KVI_KV_PAGE * d;
    s.v = at, at += (size_t)KVI_KV_PAGE * padded(d);
    s.q = at, at += (size_t)KVI_CPU_QUERY_BLOCK * d;
    s.acc = at, at += (size_t)KVI_CPU_QUERY_BLOCK * d;
    s.scores = at, at += (size_t)KVI_CPU_QUERY_BLOCK * KVI_KV_PAGE;
    s.m = at, at += KVI_CPU_QUERY_BLOCK;
    s.l = at, at += KVI_CPU_QUERY_BLOCK;
    s.row = at, at += d;
    s.k_a = at, at += d;
    s.k_z = at, at += d;
    s.k_o = at, at += KVI_KV_PAGE;
    s.v_a = at, at += KVI_KV_PAGE;
    s.v_z = at, at += KVI_KV_PAGE;
    s.v_o = at, at += d;
    s.part = at;
    return s;
}

/* ------------------------------------------------------------------------------------------------------- staging --- */
static void stage_plain_k(const kvi_cpu_variant *v, const uint8_t *side, kvi_kv_code code, uint32_t d, uint32_t n,
                          const stage *s)
{
    const size_t row_bytes = (size_t)d * kvi_dtype_bytes(kvi_kv_plain_dtype(code));
    for (uint32_t t = 0; t < n; t += v->panel) {
        uint32_t rows = n - t < v->panel ? n - t : v->panel;
        v->pack(side + t * row_bytes, kvi_kv_plain_dtype(code), rows, d, 0, d, s->k + (size_t)t * d);
    }
}

static void stage_plain_v(const kvi_cpu_variant *v, const uint8_t *side, kvi_kv_code code, uint32_t d, uint32_t n,
                          const stage *s)
{
    const size_t row_bytes = (size_t)d * kvi_dtype_bytes(kvi_kv_plain_dtype(code));
    for (uint32_t t = 0; t < n; t++) {
        v->widen(side + t * row_bytes, kvi_kv_plain_dtype(code), d, s->row);
        for (uint32_t c = 0; c < d; c += v->panel) {
            uint32_t cols = d - c < v->panel ? d - c : v->panel;
            memcpy(s->v + (size_t)c * KVI_KV_PAGE + (size_t)t * v->panel, s->row + c, (size_t)cols * 4);
        }
    }
}

static void side_vector(const kvi_cpu_variant *v, const uint8_t *side, uint32_t off, uint32_t n, float *out)
{
    v->widen(side + off, KVI_F16, n, out);
}

static void fill(float *x, uint32_t n, float value)
{
    for (uint32_t i = 0; i < n; i++) x[i] = value;
}

/* A packed side is staged as its raw codes; the scales are folded into the queries and probabilities, so that a context
 * is never dequantized, only multiplied:
 *   score[t] = O[t] * ( sum_d (q[d] A[d]) code[d][t]  +  sum_d q[d] Z[d] )
 *   out[d]   = O[d] * ( sum_t (p[t] A[t]) code[t][d]  +  sum_t p[t] Z[t] ) */
static void stage_packed_k(const kvi_cpu_variant *v, const uint8_t *side, kvi_kv_code code, uint32_t d, const stage *s)
{
    const kvi_kv_side at = kvi_kv_k_side(code, d);
    v->unpack(side + at.codes_off, code, d, KVI_KV_PAGE, s->k);
    side_vector(v, side, at.o_off, KVI_KV_PAGE, s->k_o);
    fill(s->k_a, d, 1.0f);
    fill(s->k_z, d, code == KVI_KV_I8 ? -128.0f : 0.0f);
    if (code < KVI_KV_Q4) return;
    side_vector(v, side, at.a_off, d, s->k_a);
    side_vector(v, side, at.z_off, d, s->k_z);
}

static void stage_packed_v(const kvi_cpu_variant *v, const uint8_t *side, kvi_kv_code code, uint32_t d, const stage *s)
{
    const kvi_kv_side at = kvi_kv_v_side(code, d);
    v->unpack(side + at.codes_off, code, KVI_KV_PAGE, d, s->v);
    side_vector(v, side, at.a_off, KVI_KV_PAGE, s->v_a);
    fill(s->v_z, KVI_KV_PAGE, 0.0f);
    fill(s->v_o, d, 1.0f);
    if (code != KVI_KV_F8) side_vector(v, side, at.z_off, KVI_KV_PAGE, s->v_z);
    if (code >= KVI_KV_Q4) side_vector(v, side, at.o_off, d, s->v_o);
}

/* --------------------------------------------------------------------------------------------------------- one page --- */
static void multiply(float *x, const float *y, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) x[i] *= y[i];
}
static float dot(const float *x, const float *y, uint32_t n)
{
    float parts[8] = {0};
    for (uint32_t i = 0; i < n; i += 8)
        for (uint32_t k = 0; k < 8; k++) parts[k] += x[i + k] * y[i + k];
    return ((parts[0] + parts[1]) + (parts[2] + parts[3])) + ((parts[4] + parts[5]) + (parts[6] + parts[7]));
}

/* scores (n_queries, 128) = q . K^T */
static void score_page(const kvi_cpu_variant *v, bool packed, uint32_t d, uint32_t n, uint32_t n_queries,
                       const stage *s)
{
    const float *q = s->q;
    if (packed) { /* `part` is free until the values' turn */
        memcpy(s->part, s->q, (size_t)n_queries * d * 4);
        for (uint32_t i = 0; i < n_queries; i++) multiply(s->part + (size_t)i * d, s->k_a, d);
        q = s->part;
    }
    for (uint32_t c = 0; c < n; c += v->panel)
        v->panel_mac(q, d, n_queries, d, s->k + (size_t)c * d, s->scores + c, KVI_KV_PAGE, v->panel, false);
    for (uint32_t i = 0; packed && i < n_queries; i++) {
        float *score = s->scores + (size_t)i * KVI_KV_PAGE, zero = dot(s->q + (size_t)i * d, s->k_z, d);
        for (uint32_t t = 0; t < KVI_KV_PAGE; t++) score[t] = (score[t] + zero) * s->k_o[t];
    }
}

/* acc (n_queries, D) += p . V; the probabilities in `scores` are used up. */
static void value_page(const kvi_cpu_variant *v, bool packed, uint32_t d, uint32_t n, uint32_t n_queries,
                       const stage *s)
{
    float *out = packed ? s->part : s->acc;
    for (uint32_t i = 0; packed && i < n_queries; i++) {
        float *p = s->scores + (size_t)i * KVI_KV_PAGE, zero = dot(p, s->v_z, KVI_KV_PAGE);
        multiply(p, s->v_a, KVI_KV_PAGE);
        fill(out + (size_t)i * d, d, zero);
    }
    for (uint32_t c = 0; c < d; c += v->panel) {
        uint32_t cols = d - c < v->panel ? d - c : v->panel;
        v->panel_mac(s->scores, KVI_KV_PAGE, n_queries, n, s->v + (size_t)c * KVI_KV_PAGE, out + c, d, cols, true);
    }
    for (uint32_t i = 0; packed && i < n_queries * d; i++) s->acc[i] += out[i] * s->v_o[i % d];
}

static const uint8_t *record_of(const attention_task *t, const kvi_page_ref *ref, uint32_t kv_head)
{
    return t->device->pool + (uint64_t)ref->unit * KVI_KV_UNIT +
           kvi_kv_record_off(ref->format, &t->group->shape, t->op->group_layer, kv_head);
}

/* Neighbouring parts that look at one page together. */
typedef struct lookers {
    const kvi_cpu_part *parts;
    uint32_t n_parts, n_queries;
    uint32_t page, next_page; /* that comes after it */
    uint32_t n;               /* positions of the page that hold data */
} lookers;

static const kvi_seq *seq_of(const attention_task *t, const kvi_cpu_part *part)
{
    return &t->device->step.seqs[part->seq];
}
static const kvi_page_ref *page_of(const attention_task *t, const kvi_cpu_part *part, uint32_t page)
{
    return &seq_of(t, part)->pages[t->op->group][page];
}

/* The scores of one part's queries as weights of the page; stage of its first query. Packed values are summed over the whole page. */
static void weigh(const attention_task *t, const lookers *at, const kvi_cpu_part *part, bool v_packed, const stage *s)
{
    const kvi_cpu_variant *v = t->device->v;
    const uint32_t n = at->n, first_pos = at->page * KVI_KV_PAGE, window = t->group->window,
                   d = t->group->shape.head_dim;
    for (uint32_t i = 0; i < part->n_queries; i++) {
        float *score = s->scores + (size_t)i * KVI_KV_PAGE;
        uint32_t pos = seq_of(t, part)->pos + (part->first_query + i) / t->per_kv;
        uint32_t end = t->op->causal && pos + 1 < first_pos + n ? (pos + 1 > first_pos ? pos + 1 - first_pos : 0) : n;
        uint32_t begin = window && pos + 1 > first_pos + window ? pos + 1 - window - first_pos : 0;
        if (begin > n) begin = n;
        if (t->op->softcap > 0) v->softcap(score, t->op->softcap, n);
        for (uint32_t k = 0; k < begin; k++) score[k] = -INFINITY;
        for (uint32_t k = end; k < n; k++) score[k] = -INFINITY;
        float factor = v->softmax_step(score, n, &s->m[i], &s->l[i]);
        if (factor != 1.0f) v->scale(s->acc + (size_t)i * d, factor, d);
        for (uint32_t k = n; v_packed && k < KVI_KV_PAGE; k++) score[k] = 0;
    }
}

/* The stage from query `first` on. */
static stage stage_from(const stage *s, uint32_t first, uint32_t d)
{
    stage from = *s;
    from.q += (size_t)first * d, from.acc += (size_t)first * d, from.scores += (size_t)first * KVI_KV_PAGE;
    from.m += first, from.l += first;
    return from;
}

static const kvi_cpu_packed *kernel_of(const attention_task *t, kvi_kv_code code)
{
    const kvi_device *device = t->device;
    return kvi_cpu_packed_for(device->v, device->tiles, device->rings, device->fixed, code, t->group->shape.head_dim,
                              t->per_kv);
}

/* One page for all that look at it; the stage of their first query. */
static void attend_page(const attention_task *t, const lookers *at, uint32_t kv_head, const stage *s)
{
    const kvi_cpu_variant *v = t->device->v;
    const kvi_page_ref *ref = page_of(t, at->parts, at->page);
    const uint8_t *next = record_of(t, page_of(t, at->parts, at->next_page), kv_head);
    const kvi_kv_code k_code = KVI_KV_K_CODE(ref->format), v_code = KVI_KV_V_CODE(ref->format);
    const uint32_t d = t->group->shape.head_dim, n = at->n, n_queries = at->n_queries;
    const uint8_t *record = record_of(t, ref, kv_head);
    const bool k_packed = !kvi_kv_code_is_plain(k_code), v_packed = !kvi_kv_code_is_plain(v_code);
    const bool direct = t->per_kv <= DIRECT_HEADS && d % (v->panel / 2u) == 0;
    const kvi_cpu_packed *k_kernel = kernel_of(t, k_code), *v_kernel = kernel_of(t, v_code);
    if (k_kernel) k_kernel->score(record, k_code, d, s->q, n_queries, s->scores, next, s->packed);
    else if (direct && !k_packed)
        v->score(record, kvi_kv_plain_dtype(k_code), n, d, s->q, n_queries, s->scores, KVI_KV_PAGE);
    else {
        if (k_packed) stage_packed_k(v, record, k_code, d, s);
        else stage_plain_k(v, record, k_code, d, n, s);
        score_page(v, k_packed, d, n, n_queries, s);
    }
    for (uint32_t i = 0, query = 0; i < at->n_parts; query += at->parts[i++].n_queries) {
        const stage own = stage_from(s, query, d);
        weigh(t, at, &at->parts[i], v_packed, &own);
    }
    record += kvi_kv_k_side(k_code, d).bytes;
    next += kvi_kv_k_side(k_code, d).bytes;
    if (v_kernel) {
        v_kernel->blend(record, v_code, d, s->scores, n_queries, s->acc, next, s->packed);
        return;
    }
    if (direct && !v_packed) {
        v->blend(record, kvi_kv_plain_dtype(v_code), n, d, s->scores, KVI_KV_PAGE, n_queries, s->acc);
        return;
    }
    if (v_packed) stage_packed_v(v, record, v_code, d, s);
    else stage_plain_v(v, record, v_code, d, n, s);
    value_page(v, v_packed, d, n, n_queries, s);
}

void kvi_cpu_attention_finish(const kvi_device *device, const kvi_op *op, uint32_t row, uint32_t head, float m, float l,
                              float *acc)
{
    const kvi_cache_group *group = &device->program->groups[op->group];
    const uint32_t d = group->shape.head_dim;
    const size_t at = ((size_t)row * op->n_heads + head) * d;
    float factor = 1.0f / l, *out = device->buffers[op->out] + at;
    if (op->sinks) { /* one more logit in the sum: exp(sink - m) relative to the largest score */
        const float sink = op->sinks->f32[head], top = m > sink ? m : sink, part = expf(m - top);
        factor = part / (l * part + expf(sink - top));
    }
    device->v->scale(acc, factor, d);
    if (group->rotate) device->v->hadamard(acc, d); /* H is its own inverse */
    memcpy(out, acc, (size_t)d * 4);
    if (!op->gated) return;
    const float *gate = device->buffers[op->gate] + at;
    for (uint32_t i = 0; i < d; i++) out[i] /= 1.0f + expf(-gate[i]);
}

static void finish(const attention_task *t, const kvi_cpu_part *part, uint32_t kv_head, uint32_t i, float m, float l,
                   float *acc)
{
    const uint32_t query = part->first_query + i;
    kvi_cpu_attention_finish(t->device, t->op, seq_of(t, part)->first_row + query / t->per_kv,
                             kv_head * t->per_kv + query % t->per_kv, m, l, acc);
}

static uint32_t first_split(const kvi_cpu_part *part) { return part->first_page / KVI_CPU_SPLIT_PAGES; }
/* First page of that split that the part looks at. */
static uint32_t first_in(const kvi_cpu_part *part, uint32_t split)
{
    const uint32_t first = split * KVI_CPU_SPLIT_PAGES;
    return part->first_page > first ? part->first_page : first;
}
static uint32_t end_split(const kvi_cpu_part *part) { return (part->end_page - 1) / KVI_CPU_SPLIT_PAGES + 1; }

/* Where the partial result (m, l, acc) of a split stands. */
static float *split_at(const attention_task *t, const kvi_cpu_part *part, uint32_t kv_head, uint32_t i, uint32_t split)
{
    const uint32_t d = t->group->shape.head_dim, query = part->first_query + i,
                   row = seq_of(t, part)->first_row - t->device->step.seqs->first_row + query / t->per_kv;
    size_t slot = ((size_t)row * t->op->n_heads + kv_head * t->per_kv + query % t->per_kv) * t->n_splits + split;
    return t->device->split_out + slot * (d + 2u);
}

static void load_queries(const attention_task *t, const kvi_cpu_part *part, uint32_t kv_head, const stage *s)
{
    const uint32_t d = t->group->shape.head_dim;
    for (uint32_t i = 0; i < part->n_queries; i++) {
        const uint32_t query = part->first_query + i, row = seq_of(t, part)->first_row + query / t->per_kv;
        const float *q = t->qkv + (size_t)row * t->cols + (size_t)(kv_head * t->per_kv + query % t->per_kv) * d;
        for (uint32_t k = 0; k < d; k++) s->q[i * d + k] = q[k] * t->op->scale;
        s->m[i] = -INFINITY;
        s->l[i] = 0;
    }
    memset(s->acc, 0, (size_t)part->n_queries * d * 4);
}

static void store_results(const attention_task *t, const kvi_cpu_part *part, uint32_t kv_head, uint32_t split,
                          const stage *s)
{
    const uint32_t d = t->group->shape.head_dim;
    for (uint32_t i = 0; i < part->n_queries; i++) {
        if (end_split(part) - first_split(part) == 1) {
            finish(t, part, kv_head, i, s->m[i], s->l[i], s->acc + (size_t)i * d);
            continue;
        }
        float *partial = split_at(t, part, kv_head, i, split);
        partial[0] = s->m[i];
        partial[1] = s->l[i];
        memcpy(partial + 2, s->acc + (size_t)i * d, (size_t)d * 4);
    }
}

/* Positions of a page that the part may see, or later queries of it. */
static uint32_t positions_in(const kvi_cpu_part *part, uint32_t page)
{
    const uint32_t n = part->n_pos - page * KVI_KV_PAGE;
    return n < KVI_KV_PAGE ? n : KVI_KV_PAGE;
}

static bool look_at_same(const attention_task *t, const kvi_cpu_part *a, const kvi_cpu_part *b, uint32_t page)
{
    const kvi_page_ref *x = page_of(t, a, page), *y = page_of(t, b, page);
    return x->unit == y->unit && x->format == y->format && positions_in(a, page) == positions_in(b, page);
}

/* A company's pages of one split, for one KV head. */
static void attend(void *arg, uint32_t task, uint32_t thread)
{
    const attention_task *t = arg;
    kvi_device *device = t->device;
    const uint32_t n_kv = t->group->shape.n_kv_heads, d = t->group->shape.head_dim, kv_head = task % n_kv;
    const kvi_cpu_company *company = &device->companies[task / n_kv];
    const kvi_cpu_part *parts = device->parts + company->first;
    const uint32_t n_parts = company->n, end = (company->split + 1) * KVI_CPU_SPLIT_PAGES;
    const stage s = stage_of(device, thread, d);
    uint32_t n_queries = 0;
    for (uint32_t i = 0; i < n_parts; n_queries += parts[i++].n_queries) {
        const stage own = stage_from(&s, n_queries, d);
        load_queries(t, &parts[i], kv_head, &own);
    }
    if (device->tiles) device->tiles->packed->begin(n_queries);
    for (uint32_t page = first_in(parts, company->split); page < end; page++)
        for (uint32_t i = 0, query = 0, next; i < n_parts; i = next) {
            lookers at = {.parts = &parts[i], .page = page, .next_page = page};
            for (next = i; next < n_parts && page < parts[next].end_page; next++) {
                if (next > i && !look_at_same(t, &parts[i], &parts[next], page)) break;
                at.n_queries += parts[next].n_queries;
            }
            at.n_parts = next - i;
            if (at.n_parts) {
                const stage own = stage_from(&s, query, d);
                if (page + 1 < end && page + 1 < parts[i].end_page) at.next_page = page + 1;
                at.n = positions_in(&parts[i], page);
                attend_page(t, &at, kv_head, &own);
                query += at.n_queries;
            } else query += parts[next++].n_queries; /* has no such page */
        }
    if (device->tiles) device->tiles->packed->end();
    for (uint32_t i = 0, query = 0; i < n_parts; query += parts[i++].n_queries) {
        const stage own = stage_from(&s, query, d);
        store_results(t, &parts[i], kv_head, company->split, &own);
    }
}

/* acc = sum over a part's splits of exp(m_i - M) acc_i, and the same for l; one task per part and KV head. */
static void combine(void *arg, uint32_t task, uint32_t thread)
{
    const attention_task *t = arg;
    const uint32_t n_kv = t->group->shape.n_kv_heads, d = t->group->shape.head_dim, kv_head = task % n_kv;
    const kvi_cpu_part *part = &t->device->parts[task / n_kv];
    const uint32_t first = first_split(part), end = end_split(part);
    float *acc = stage_of(t->device, thread, d).acc;
    for (uint32_t query = 0; end - first > 1 && query < part->n_queries; query++) {
        float top = -INFINITY, l = 0;
        for (uint32_t i = first; i < end; i++) {
            float m = split_at(t, part, kv_head, query, i)[0];
            if (!(m <= top)) top = m;
        }
        memset(acc, 0, (size_t)d * 4);
        for (uint32_t i = first; i < end; i++) {
            const float *partial = split_at(t, part, kv_head, query, i);
            if (partial[0] - top < -60.0f)
                continue; /* weighs nothing (variant_body.h, LEAST_LOG), or saw nothing: -inf */
            float factor = expf(partial[0] - top);
            l += factor * partial[1];
            for (uint32_t k = 0; k < d; k++) acc[k] += factor * partial[2 + k];
        }
        finish(t, part, kv_head, query, top, l, acc);
    }
}

/* ------------------------------------------------------------------------------------------------------- companies --- */
static kvi_cpu_part part_of(const attention_task *t, uint32_t index, uint32_t first_query)
{
    const kvi_seq *seq = &t->device->step.seqs[index];
    const uint32_t left = seq->n_rows * t->per_kv - first_query,
                   n = left < KVI_CPU_QUERY_BLOCK ? left : KVI_CPU_QUERY_BLOCK,
                   low = seq->pos + first_query / t->per_kv, high = seq->pos + (first_query + n - 1) / t->per_kv,
                   n_pos = t->op->causal ? high + 1 : seq->pos + seq->n_rows;
    const uint32_t first_seen = t->group->window && low + 1 > t->group->window ? low + 1 - t->group->window : 0;
    return (kvi_cpu_part){.seq = index,
                          .first_query = first_query,
                          .n_queries = n,
                          .n_pos = n_pos,
                          .first_page = first_seen / KVI_KV_PAGE,
                          .end_page = (n_pos + KVI_KV_PAGE - 1) / KVI_KV_PAGE};
}

/* Any order that has all parts with a common beginning side by side: by where the first page stands in which they differ. */
static bool comes_before(const attention_task *t, const kvi_cpu_part *a, const kvi_cpu_part *b)
{
    const uint32_t end = a->end_page < b->end_page ? a->end_page : b->end_page;
    if (a->first_page != b->first_page) return a->first_page < b->first_page;
    for (uint32_t page = a->first_page; page < end; page++) {
        const uint32_t x = page_of(t, a, page)->unit, y = page_of(t, b, page)->unit;
        if (x != y) return x < y;
    }
    return false;
}

static void list_parts(attention_task *t)
{
    kvi_cpu_part *parts = t->device->parts;
    for (uint32_t i = 0; i < t->device->step.n_seqs; i++)
        for (uint32_t q = 0; q < t->device->step.seqs[i].n_rows * t->per_kv; q += KVI_CPU_QUERY_BLOCK) {
            const kvi_cpu_part part = part_of(t, i, q);
            uint32_t at = t->n_parts++;
            for (; at > 0 && comes_before(t, &part, &parts[at - 1]); at--) parts[at] = parts[at - 1];
            parts[at] = part;
        }
}

/* Of each split the parts that keep company, up to `most` queries; returns how many companies there are. */
static uint32_t list_companies(const attention_task *t, uint32_t most)
{
    const kvi_cpu_part *parts = t->device->parts;
    uint32_t n = 0;
    for (uint32_t split = 0; split < t->n_splits; split++)
        for (uint32_t i = 0, next; i < t->n_parts; i = next) {
            next = i + 1;
            if (split < first_split(&parts[i]) || split >= end_split(&parts[i])) continue;
            const uint32_t page = first_in(&parts[i], split);
            uint32_t n_queries = parts[i].n_queries;
            for (; next < t->n_parts && page < parts[next].end_page; next++) {
                const kvi_cpu_part *other = &parts[next];
                n_queries += other->n_queries;
                if (n_queries > most || first_in(other, split) != page || !look_at_same(t, &parts[i], other, page))
                    break;
            }
            t->device->companies[n++] = (kvi_cpu_company){.split = split, .first = i, .n = next - i};
        }
    return n;
}

const char *kvi_cpu_attention(kvi_device *device, const kvi_op *op)
{
    const kvi_cache_group *group = &device->program->groups[op->group];
    attention_task t = {.device = device,
                        .op = op,
                        .group = group,
                        .qkv = device->buffers[op->in],
                        .cols = device->program->buffers[op->in].cols,
                        .per_kv = op->n_heads / group->shape.n_kv_heads};
    list_parts(&t);
    for (uint32_t i = 0; i < t.n_parts; i++)
        if (t.n_splits < end_split(&device->parts[i])) t.n_splits = end_split(&device->parts[i]);
    /* Company is for those who would have to wait otherwise: no thread goes without work for it. */
    const uint32_t n_kv = group->shape.n_kv_heads, wanted = 2 * device->n_threads;
    uint32_t n = list_companies(&t, COMPANY_QUERIES);
    for (uint32_t most = COMPANY_QUERIES / 2; most && n * n_kv < wanted; most /= 2) n = list_companies(&t, most);
    if (kvi_cpu_tasks(device, attend, &t, n * n_kv) && t.n_splits > 1)
        (void)kvi_cpu_tasks(device, combine, &t, t.n_parts * n_kv);
    return "attention_decode";
}
