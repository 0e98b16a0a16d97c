/* attention.c - softmax attention over pages on the CPU in the narrow form, up to KVI_DECODE_ROWS rows. A task handles up to KVI_CPU_QUERY_BLOCK
 * queries of one KV head: the rows of one sequence times the query heads that share the KV head, so every K and V
 * value is read once for all of them. Per page: K becomes transposed panels, V panels (packed pages: their raw codes,
 * a page at a time in the thread's scratch), and both products are the panel kernel of the GEMM; the softmax runs
 * online. A long context is split into fixed runs of pages whose partial results are merged by log-sum-exp; the split
 * depends neither on the number of threads nor on the rows beside a row. */
#include "attention_packed.h"
#include "device_cpu.h"

#include <math.h>
#include <string.h>

typedef struct attention_task {
    kvi_device *device;
    const kvi_op *op;
    const kvi_cache_group *group;
    const float *qkv;                        /* (rows, cols), q first */
    uint32_t cols, per_kv, blocks, n_splits; /* tasks = seqs * kv heads * blocks * splits */
} attention_task;

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

/* One page for all queries of a block; next_page comes after it. first_query counts (row, head) pairs of the KV head;
 * only the first n positions hold data. */
static void attend_page(const attention_task *t, const kvi_seq *seq, uint32_t page, uint32_t next_page, uint32_t n,
                        uint32_t kv_head, uint32_t first_query, uint32_t n_queries, const stage *s)
{
    const kvi_cpu_variant *v = t->device->v;
    const kvi_page_ref *ref = &seq->pages[t->op->group][page];
    const uint8_t *next = record_of(t, &seq->pages[t->op->group][next_page], kv_head);
    const kvi_kv_code k_code = KVI_KV_K_CODE(ref->format), v_code = KVI_KV_V_CODE(ref->format);
    const uint32_t d = t->group->shape.head_dim, first_pos = page * KVI_KV_PAGE, window = t->group->window;
    const uint8_t *record = record_of(t, ref, kv_head);
    const bool k_packed = !kvi_kv_code_is_plain(k_code), v_packed = !kvi_kv_code_is_plain(v_code);
    const bool direct = t->per_kv <= DIRECT_HEADS && d % (v->panel / 2u) == 0;
    const kvi_cpu_packed *k_kernel = kvi_cpu_packed_for(v, t->device->tiles, t->device->rings, k_code, d, t->per_kv);
    const kvi_cpu_packed *v_kernel = kvi_cpu_packed_for(v, t->device->tiles, t->device->rings, v_code, d, t->per_kv);
    if (k_kernel) k_kernel->score(record, k_code, d, s->q, n_queries, s->scores, next, s->packed);
    else if (direct && !k_packed)
        v->score(record, kvi_kv_plain_dtype(k_code), n, d, s->q, n_queries, s->scores, KVI_KV_PAGE);
    else {
        if (k_packed) stage_packed_k(v, record, k_code, d, s);
        else stage_plain_k(v, record, k_code, d, n, s);
        score_page(v, k_packed, d, n, n_queries, s);
    }
    for (uint32_t i = 0; i < n_queries; i++) {
        float *score = s->scores + (size_t)i * KVI_KV_PAGE;
        uint32_t pos = seq->pos + (first_query + i) / t->per_kv;
        uint32_t end = t->op->causal && pos + 1 < first_pos + n ? (pos + 1 > first_pos ? pos + 1 - first_pos : 0) : n;
        uint32_t begin = window && pos + 1 > first_pos + window ? pos + 1 - window - first_pos : 0;
        if (begin > n) begin = n;
        if (t->op->softcap > 0) v->softcap(score, t->op->softcap, n);
        for (uint32_t k = 0; k < begin; k++) score[k] = -INFINITY;
        for (uint32_t k = end; k < n; k++) score[k] = -INFINITY;
        float factor = v->softmax_step(score, n, &s->m[i], &s->l[i]);
        if (factor != 1.0f) v->scale(s->acc + (size_t)i * d, factor, d);
        for (uint32_t k = n; v_packed && k < KVI_KV_PAGE; k++)
            score[k] = 0; /* packed values are summed over the whole page */
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

static void finish(const attention_task *t, const kvi_seq *seq, uint32_t kv_head, uint32_t query, float m, float l,
                   float *acc)
{
    kvi_cpu_attention_finish(t->device, t->op, seq->first_row + query / t->per_kv,
                             kv_head * t->per_kv + query % t->per_kv, m, l, acc);
}

/* Where the partial result (m, l, acc) of a split stands. */
static float *split_at(const attention_task *t, const kvi_seq *seq, uint32_t kv_head, uint32_t query, uint32_t split)
{
    const uint32_t d = t->group->shape.head_dim, row = seq->first_row + query / t->per_kv;
    size_t slot = ((size_t)row * t->op->n_heads + kv_head * t->per_kv + query % t->per_kv) * t->n_splits + split;
    return t->device->split_out + slot * (d + 2u);
}

static void attend(void *arg, uint32_t task, uint32_t thread)
{
    const attention_task *t = arg;
    kvi_device *device = t->device;
    const uint32_t n_kv = t->group->shape.n_kv_heads, d = t->group->shape.head_dim;
    const uint32_t split = task % t->n_splits, block = task / t->n_splits % t->blocks;
    const uint32_t kv_head = task / t->n_splits / t->blocks % n_kv;
    const kvi_seq *seq = &device->step.seqs[task / t->n_splits / t->blocks / n_kv];
    const uint32_t total = seq->n_rows * t->per_kv, first_query = block * KVI_CPU_QUERY_BLOCK;
    if (first_query >= total) return;
    const uint32_t n_queries = total - first_query < KVI_CPU_QUERY_BLOCK ? total - first_query : KVI_CPU_QUERY_BLOCK;
    const stage s = stage_of(device, thread, d);
    for (uint32_t i = 0; i < n_queries; i++) {
        const uint32_t query = first_query + i, row = seq->first_row + query / t->per_kv;
        const float *q = t->qkv + (size_t)row * t->cols + (size_t)(kv_head * t->per_kv + query % t->per_kv) * d;
        for (uint32_t k = 0; k < d; k++) s.q[i * d + k] = q[k] * t->op->scale;
        s.m[i] = -INFINITY;
        s.l[i] = 0;
    }
    memset(s.acc, 0, (size_t)n_queries * d * 4);

    const uint32_t low = seq->pos + first_query / t->per_kv,
                   high = seq->pos + (first_query + n_queries - 1) / t->per_kv;
    const uint32_t n_pos = t->op->causal ? high + 1 : seq->pos + seq->n_rows; /* positions that may be seen */
    const uint32_t first_seen = t->group->window && low + 1 > t->group->window ? low + 1 - t->group->window : 0;
    uint32_t page = first_seen / KVI_KV_PAGE, end = (n_pos + KVI_KV_PAGE - 1) / KVI_KV_PAGE;
    if (t->n_splits > 1) {
        if (page < split * KVI_CPU_SPLIT_PAGES) page = split * KVI_CPU_SPLIT_PAGES;
        if (end > (split + 1) * KVI_CPU_SPLIT_PAGES) end = (split + 1) * KVI_CPU_SPLIT_PAGES;
    }
    if (device->tiles) device->tiles->packed->begin(n_queries);
    for (; page < end; page++) {
        const uint32_t n = n_pos - page * KVI_KV_PAGE < KVI_KV_PAGE ? n_pos - page * KVI_KV_PAGE : KVI_KV_PAGE;
        attend_page(t, seq, page, page + 1 < end ? page + 1 : page, n, kv_head, first_query, n_queries, &s);
    }
    if (device->tiles) device->tiles->packed->end();
    for (uint32_t i = 0; i < n_queries; i++) {
        if (t->n_splits == 1) {
            finish(t, seq, kv_head, first_query + i, s.m[i], s.l[i], s.acc + (size_t)i * d);
            continue;
        }
        float *partial = split_at(t, seq, kv_head, first_query + i, split);
        partial[0] = s.m[i];
        partial[1] = s.l[i];
        memcpy(partial + 2, s.acc + (size_t)i * d, (size_t)d * 4);
    }
}

/* acc = sum over splits of exp(m_i - M) acc_i, and the same for l; one task per sequence and KV head. */
static void combine(void *arg, uint32_t task, uint32_t thread)
{
    const attention_task *t = arg;
    const uint32_t n_kv = t->group->shape.n_kv_heads, d = t->group->shape.head_dim, kv_head = task % n_kv;
    const kvi_seq *seq = &t->device->step.seqs[task / n_kv];
    float *acc = stage_of(t->device, thread, d).acc;
    for (uint32_t query = 0; query < seq->n_rows * t->per_kv; query++) {
        float top = -INFINITY, l = 0;
        for (uint32_t i = 0; i < t->n_splits; i++) {
            float m = split_at(t, seq, kv_head, query, i)[0];
            if (!(m <= top)) top = m;
        }
        memset(acc, 0, (size_t)d * 4);
        for (uint32_t i = 0; i < t->n_splits; i++) {
            const float *partial = split_at(t, seq, kv_head, query, i);
            if (partial[0] - top < -60.0f)
                continue; /* weighs nothing (variant_body.h, LEAST_LOG), or saw nothing: -inf */
            float factor = expf(partial[0] - top);
            l += factor * partial[1];
            for (uint32_t k = 0; k < d; k++) acc[k] += factor * partial[2 + k];
        }
        finish(t, seq, kv_head, query, top, l, acc);
    }
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
    uint32_t longest = 0, rows = 0;
    for (uint32_t i = 0; i < device->step.n_seqs; i++) {
        const kvi_seq *seq = &device->step.seqs[i];
        if (seq->n_rows > rows) rows = seq->n_rows;
        if (seq->pos + seq->n_rows > longest) longest = seq->pos + seq->n_rows;
    }
    t.blocks = (rows * t.per_kv + KVI_CPU_QUERY_BLOCK - 1) / KVI_CPU_QUERY_BLOCK;
    t.n_splits = ((longest + KVI_KV_PAGE - 1) / KVI_KV_PAGE + KVI_CPU_SPLIT_PAGES - 1) / KVI_CPU_SPLIT_PAGES;
    const uint32_t heads = device->step.n_seqs * group->shape.n_kv_heads;
    if (kvi_cpu_tasks(device, attend, &t, heads * t.blocks * t.n_splits) && t.n_splits > 1)
        (void)kvi_cpu_tasks(device, combine, &t, heads);
    return "attention_decode";
}
