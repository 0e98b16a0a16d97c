/* observe.c - how much attention each page gets (kvi_seq.mass), for policies that choose pages by it. It asks again what attention has
 * computed already: no kernel knows of it, and whoever does not ask pays nothing. For the rows that are observed it costs twice the products
 * of queries and keys: once for each query's largest score and sum, once for the pages' shares, so that nothing is kept per page and query.
 * Results do not depend on the number of threads: a task is a KV head, whose sums stand by themselves until all are there. */
#include "device_cpu.h"

#include <math.h>
#include <string.h>

#define QUERIES 32u /* of a block */

typedef struct observation {
    kvi_device *device;
    const kvi_op *op;
    const kvi_cache_group *group;
    const kvi_seq *seq;
    uint32_t per_kv, n_pages;
    float *sums; /* (KV heads, n_pages) */
} observation;

typedef struct area {
    float *panels, *vectors; /* of a page of keys */
    float *q, *scores;       /* (QUERIES, D), (QUERIES, 128) */
    float *m, *l;            /* (QUERIES) */
} area;

static area area_of(const observation *t, uint32_t thread)
{
    const uint32_t d = t->group->shape.head_dim;
    float *at = t->device->thread_scratch + thread * t->device->scratch_floats;
    area s;
    s.panels = at, at += (size_t)KVI_KV_PAGE * d;
    s.vectors = at, at += (size_t)KVI_CPU_SIDE_VECTORS * KVI_KV_MAX_HEAD_DIM;
    s.q = at, at += (size_t)QUERIES * d;
    s.scores = at, at += (size_t)QUERIES * KVI_KV_PAGE;
    s.m = at, at += QUERIES;
    s.l = at;
    return s;
}

/* Position and head of a query: they count from the first observed row, heads of a KV head side by side. */
static uint32_t row_of(const observation *t, uint32_t query) { return t->seq->mass_from + query / t->per_kv; }

static void load_queries(const observation *t, const area *s, uint32_t kv_head, uint32_t first, uint32_t n)
{
    const uint32_t d = t->group->shape.head_dim, cols = t->device->program->buffers[t->op->in].cols;
    for (uint32_t i = 0; i < n; i++) {
        const size_t row = t->seq->first_row + row_of(t, first + i);
        const float *q =
            t->device->buffers[t->op->in] + row * cols + (size_t)(kv_head * t->per_kv + (first + i) % t->per_kv) * d;
        for (uint32_t k = 0; k < d; k++) s->q[(size_t)i * d + k] = q[k] * t->op->scale;
        /* A sink's logit is in the sum and takes its share. */
        s->m[i] = t->op->sinks ? t->op->sinks->f32[kv_head * t->per_kv + (first + i) % t->per_kv] : -INFINITY;
        s->l[i] = t->op->sinks ? 1 : 0;
    }
}

/* Scores of the block against a page; *seen of them are of positions that query i may see. */
static uint32_t seen_by(const observation *t, uint32_t query, uint32_t page, uint32_t n)
{
    const uint32_t end = t->op->causal ? t->seq->pos + row_of(t, query) + 1 : UINT32_MAX, from = page * KVI_KV_PAGE;
    return end <= from ? 0 : end - from < n ? end - from : n;
}

static void score(const observation *t, const area *s, uint32_t kv_head, uint32_t page, uint32_t n, uint32_t n_queries)
{
    const kvi_cpu_variant *v = t->device->v;
    const uint32_t d = t->group->shape.head_dim;
    const kvi_page_ref *ref = &t->seq->pages[t->op->group][page];
    const uint8_t *side = t->device->pool + (uint64_t)ref->unit * KVI_KV_UNIT +
                          kvi_kv_record_off(ref->format, &t->group->shape, t->op->group_layer, kv_head);
    kvi_cpu_stage_k(v, side, KVI_KV_K_CODE(ref->format), d, n, s->vectors, s->panels);
    for (uint32_t c = 0; c < n; c += v->panel)
        v->panel_mac(s->q, d, n_queries, d, s->panels + (size_t)c * d, s->scores + c, KVI_KV_PAGE, v->panel, false);
    for (uint32_t i = 0; t->op->softcap > 0 && i < n_queries; i++)
        v->softcap(s->scores + (size_t)i * KVI_KV_PAGE, t->op->softcap, n);
}

static void widen(const area *s, uint32_t i, uint32_t n)
{
    const float *x = s->scores + (size_t)i * KVI_KV_PAGE;
    float top = s->m[i], sum = 0;
    for (uint32_t k = 0; k < n; k++)
        if (x[k] > top) top = x[k];
    for (uint32_t k = 0; k < n; k++) sum += expf(x[k] - top);
    s->l[i] = (s->l[i] > 0 ? s->l[i] * expf(s->m[i] - top) : 0) + sum;
    s->m[i] = top;
}

static float share(const area *s, uint32_t i, uint32_t n)
{
    const float *x = s->scores + (size_t)i * KVI_KV_PAGE;
    float sum = 0;
    for (uint32_t k = 0; k < n; k++) sum += expf(x[k] - s->m[i]);
    return n ? sum / s->l[i] : 0;
}

static void observe_head(void *arg, uint32_t kv_head, uint32_t thread)
{
    const observation *t = arg;
    const area s = area_of(t, thread);
    const uint32_t stored = t->seq->pos + t->seq->n_rows, total = (t->seq->n_rows - t->seq->mass_from) * t->per_kv;
    float *sums = t->sums + (size_t)kv_head * t->n_pages;
    memset(sums, 0, t->n_pages * sizeof *sums);
    for (uint32_t first = 0; first < total; first += QUERIES) {
        const uint32_t n_queries = total - first < QUERIES ? total - first : QUERIES;
        load_queries(t, &s, kv_head, first, n_queries);
        for (uint32_t pass = 0; pass < 2; pass++)
            for (uint32_t page = 0; page < t->n_pages; page++) {
                const uint32_t left = stored - page * KVI_KV_PAGE, n = left < KVI_KV_PAGE ? left : KVI_KV_PAGE;
                score(t, &s, kv_head, page, n, n_queries);
                for (uint32_t i = 0; i < n_queries; i++) {
                    const uint32_t seen = seen_by(t, first + i, page, n);
                    if (pass) sums[page] += share(&s, i, seen);
                    else if (seen) widen(&s, i, seen);
                }
            }
    }
}

void kvi_cpu_observe(kvi_device *device, const kvi_op *op)
{
    const kvi_cache_group *group = &device->program->groups[op->group];
    const uint32_t n_kv = group->shape.n_kv_heads;
    for (uint32_t i = 0; !group->window && i < device->step.n_seqs; i++) {
        const kvi_seq *seq = &device->step.seqs[i];
        if (!seq->mass || seq->mass_from >= seq->n_rows) continue;
        observation t = {.device = device,
                         .op = op,
                         .group = group,
                         .seq = seq,
                         .per_kv = op->n_heads / n_kv,
                         .n_pages = (seq->pos + seq->n_rows + KVI_KV_PAGE - 1) / KVI_KV_PAGE,
                         .sums = device->split_out}; /* nothing else is in it between two operations */
        kvi_workers_run(device->workers, observe_head, &t, n_kv);
        for (uint32_t h = 0; h < n_kv; h++)
            for (uint32_t page = 0; page < t.n_pages; page++)
                seq->mass[page] += t.sums[(size_t)h * t.n_pages + page] / (float)op->n_heads;
    }
}
