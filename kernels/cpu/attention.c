/* attention.c - softmax attention over pages on the CPU, decode and prefill.
 * A task handles up to KVI_CPU_QUERY_BLOCK queries of one KV head: the rows of one sequence times the query heads that share the KV head, so
 * every K and V value is read once for all of them. Per page: K becomes transposed panels, V panels, and both products are the panel
 * kernel of the GEMM; the softmax runs online. In small steps (decode) a long context is split into fixed runs of pages whose partial
 * results are merged by log-sum-exp; the split does not depend on the number of threads. */
#include "device_cpu.h"

#include <math.h>
#include <string.h>

typedef struct attention_task {
    kvi_device *device;
    const kvi_op *op;
    const kvi_cache_group *group;
    const float *qkv; /* (rows, cols), q first */
    float *out;       /* (rows, n_heads * D) */
    uint32_t cols, per_kv, blocks, n_splits; /* tasks = seqs * kv heads * blocks * splits */
} attention_task;

/* One thread's staging area, sized by kvi_cpu_attention_scratch. */
typedef struct stage {
    float *q;      /* (QUERY_BLOCK, D) scaled queries */
    float *scores; /* (QUERY_BLOCK, 128) */
    float *acc;    /* (QUERY_BLOCK, D) */
    float *m, *l;  /* (QUERY_BLOCK) */
    float *k;      /* panels of 128 columns over D rows */
    float *v;      /* panels of D columns over 128 rows */
    float *row;    /* (D) */
} stage;

#define PAD 64u /* widest panel, rounded up */
static uint32_t padded(uint32_t d) { return (d + PAD - 1) / PAD * PAD; }

size_t kvi_cpu_attention_scratch(uint32_t d)
{
    return (size_t)KVI_CPU_QUERY_BLOCK * (2u * d + KVI_KV_PAGE + 2u) + (size_t)KVI_KV_PAGE * (d + padded(d)) + d;
}

static stage stage_of(kvi_device *device, uint32_t thread, uint32_t d)
{
    stage s;
    float *at = device->thread_scratch + thread * device->scratch_floats;
    s.k = at, at += (size_t)KVI_KV_PAGE * d;
    s.v = at, at += (size_t)KVI_KV_PAGE * padded(d);
    s.q = at, at += (size_t)KVI_CPU_QUERY_BLOCK * d;
    s.acc = at, at += (size_t)KVI_CPU_QUERY_BLOCK * d;
    s.scores = at, at += (size_t)KVI_CPU_QUERY_BLOCK * KVI_KV_PAGE;
    s.m = at, at += KVI_CPU_QUERY_BLOCK;
    s.l = at, at += KVI_CPU_QUERY_BLOCK;
    s.row = at;
    return s;
}

/* K and V of a plain page into panels; only the first n tokens hold data. */
static void stage_page(const kvi_device *device, const kvi_cache_group *group, const kvi_page_ref *page, uint32_t layer, uint32_t kv_head,
                       uint32_t n, const stage *s)
{
    const kvi_cpu_variant *v = device->v;
    const uint32_t d = group->shape.head_dim, panel = v->panel;
    const kvi_dtype dtype = (kvi_dtype)KVI_KV_K_CODE(page->format);
    const size_t row_bytes = (size_t)d * kvi_dtype_bytes(dtype);
    const uint8_t *k = device->pool + (uint64_t)page->unit * KVI_KV_UNIT + kvi_kv_record_off(page->format, &group->shape, layer, kv_head);
    const uint8_t *vs = k + KVI_KV_PAGE * row_bytes;
    for (uint32_t t = 0; t < n; t += panel) {
        uint32_t rows = n - t < panel ? n - t : panel;
        v->pack(k + t * row_bytes, dtype, rows, d, 0, d, s->k + (size_t)t * d);
    }
    for (uint32_t t = 0; t < n; t++) {
        v->widen(vs + t * row_bytes, dtype, d, s->row);
        for (uint32_t c = 0; c < d; c += panel) {
            uint32_t cols = d - c < panel ? d - c : panel;
            memcpy(s->v + (size_t)c * KVI_KV_PAGE + (size_t)t * panel, s->row + c, (size_t)cols * 4);
        }
    }
}

/* One page for all queries of a block. first_query counts (row, head) pairs of the KV head. */
static void attend_page(const attention_task *t, const kvi_seq *seq, uint32_t page, uint32_t n, uint32_t first_query, uint32_t n_queries,
                        const stage *s)
{
    const kvi_cpu_variant *v = t->device->v;
    const uint32_t d = t->group->shape.head_dim, panel = v->panel, first_pos = page * KVI_KV_PAGE, window = t->group->window;
    for (uint32_t c = 0; c < n; c += panel) {
        uint32_t cols = KVI_KV_PAGE - c < panel ? KVI_KV_PAGE - c : panel;
        v->panel_mac(s->q, d, n_queries, d, s->k + (size_t)c * d, s->scores + c, KVI_KV_PAGE, cols, false);
    }
    for (uint32_t i = 0; i < n_queries; i++) {
        float *score = s->scores + (size_t)i * KVI_KV_PAGE;
        uint32_t pos = seq->pos + (first_query + i) / t->per_kv;
        uint32_t end = t->op->causal && pos + 1 < first_pos + n ? (pos + 1 > first_pos ? pos + 1 - first_pos : 0) : n;
        uint32_t begin = window && pos + 1 > first_pos + window ? pos + 1 - window - first_pos : 0;
        if (begin > n) begin = n;
        for (uint32_t k = 0; k < begin; k++) score[k] = -INFINITY;
        for (uint32_t k = end; k < n; k++) score[k] = -INFINITY;
        float factor = v->softmax_step(score, n, &s->m[i], &s->l[i]);
        if (factor != 1.0f) v->scale(s->acc + (size_t)i * d, factor, d);
    }
    for (uint32_t c = 0; c < d; c += panel) {
        uint32_t cols = d - c < panel ? d - c : panel;
        v->panel_mac(s->scores, KVI_KV_PAGE, n_queries, n, s->v + (size_t)c * KVI_KV_PAGE, s->acc + c, d, cols, true);
    }
}

static void finish(const attention_task *t, float *acc, float l, float *out)
{
    const uint32_t d = t->group->shape.head_dim;
    t->device->v->scale(acc, 1.0f / l, d);
    if (t->group->rotate) kvi_cpu_hadamard(acc, d); /* H is its own inverse */
    memcpy(out, acc, (size_t)d * 4);
}

static float *out_of(const attention_task *t, const kvi_seq *seq, uint32_t kv_head, uint32_t query)
{
    const uint32_t d = t->group->shape.head_dim, row = seq->first_row + query / t->per_kv;
    return t->out + ((size_t)row * t->op->n_heads + kv_head * t->per_kv + query % t->per_kv) * d;
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

    const uint32_t low = seq->pos + first_query / t->per_kv, high = seq->pos + (first_query + n_queries - 1) / t->per_kv;
    const uint32_t n_pos = t->op->causal ? high + 1 : seq->pos + seq->n_rows; /* positions that may be seen */
    const uint32_t first_seen = t->group->window && low + 1 > t->group->window ? low + 1 - t->group->window : 0;
    uint32_t page = first_seen / KVI_KV_PAGE, end = (n_pos + KVI_KV_PAGE - 1) / KVI_KV_PAGE;
    if (t->n_splits > 1) {
        if (page < split * KVI_CPU_SPLIT_PAGES) page = split * KVI_CPU_SPLIT_PAGES;
        if (end > (split + 1) * KVI_CPU_SPLIT_PAGES) end = (split + 1) * KVI_CPU_SPLIT_PAGES;
    }
    for (; page < end; page++) {
        const uint32_t n = n_pos - page * KVI_KV_PAGE < KVI_KV_PAGE ? n_pos - page * KVI_KV_PAGE : KVI_KV_PAGE;
        stage_page(device, t->group, &seq->pages[t->op->group][page], t->op->group_layer, kv_head, n, &s);
        attend_page(t, seq, page, n, first_query, n_queries, &s);
    }
    for (uint32_t i = 0; i < n_queries; i++) {
        if (t->n_splits == 1) {
            finish(t, s.acc + (size_t)i * d, s.l[i], out_of(t, seq, kv_head, first_query + i));
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
            if (partial[0] == -INFINITY) continue;
            float factor = expf(partial[0] - top);
            l += factor * partial[1];
            for (uint32_t k = 0; k < d; k++) acc[k] += factor * partial[2 + k];
        }
        finish(t, acc, l, out_of(t, seq, kv_head, query));
    }
}

const char *kvi_cpu_attention(kvi_device *device, const kvi_op *op)
{
    const kvi_cache_group *group = &device->program->groups[op->group];
    attention_task t = {.device = device, .op = op, .group = group, .qkv = device->buffers[op->in], .out = device->buffers[op->out],
                        .cols = device->program->buffers[op->in].cols, .per_kv = op->n_heads / group->shape.n_kv_heads, .n_splits = 1};
    uint32_t longest = 0, rows = 0;
    for (uint32_t i = 0; i < device->step.n_seqs; i++) {
        const kvi_seq *seq = &device->step.seqs[i];
        if (seq->n_rows > rows) rows = seq->n_rows;
        if (seq->pos + seq->n_rows > longest) longest = seq->pos + seq->n_rows;
    }
    t.blocks = (rows * t.per_kv + KVI_CPU_QUERY_BLOCK - 1) / KVI_CPU_QUERY_BLOCK;
    if (device->step.n_rows <= KVI_CPU_SMALL_ROWS)
        t.n_splits = ((longest + KVI_KV_PAGE - 1) / KVI_KV_PAGE + KVI_CPU_SPLIT_PAGES - 1) / KVI_CPU_SPLIT_PAGES;
    const uint32_t heads = device->step.n_seqs * group->shape.n_kv_heads;
    kvi_workers_run(device->workers, attend, &t, heads * t.blocks * t.n_splits);
    if (t.n_splits > 1) kvi_workers_run(device->workers, combine, &t, heads);
    return device->step.n_rows <= KVI_CPU_SMALL_ROWS ? "attention_decode" : "attention_prefill";
}
