/* rope_append.c - norms of q, k and v, RoPE, rotation, and the append of K, V and some queries to their pages. One task per row and KV head. */
#include "device_cpu.h"
#include "../../runtime/kv/encode.h"

#include <math.h>
#include <string.h>

typedef struct append_task {
    kvi_device *device;
    const kvi_op *op;
    const kvi_cache_group *group;
    float *qkv;
    uint32_t cols;
} append_task;

void kvi_cpu_rope(const kvi_device *device, const kvi_rope *rope, uint32_t row, float *head)
{
    const uint32_t half = rope->n_dims / 2, set = (uint32_t)(rope - device->program->ropes);
    const uint32_t next = rope->interleaved ? 1 : half, step = rope->interleaved ? 2 : 1;
    const float *c = device->rope_cos[set] + (size_t)row * half;
    const float *s = device->rope_sin[set] + (size_t)row * half;
    for (uint32_t i = 0; i < half; i++) {
        float *pair = head + i * step, a = pair[0], b = pair[next];
        pair[0] = a * c[i] - b * s[i];
        pair[next] = b * c[i] + a * s[i];
    }
}

/* q and k of a row, each over all of its heads. */
static void norm_whole(void *arg, uint32_t row, uint32_t thread)
{
    const append_task *t = arg;
    const uint32_t d = t->group->shape.head_dim, n_q = t->op->n_heads * d, n_k = t->group->shape.n_kv_heads * d;
    float *q = t->qkv + (size_t)row * t->cols;
    (void)thread;
    kvi_cpu_norm(t->device, &t->op->q_norm, q, n_q, q);
    if (!t->op->queries_only) kvi_cpu_norm(t->device, &t->op->k_norm, q + n_q, n_k, q + n_q);
}

static void norm_and_rope(const append_task *t, float *head, const kvi_norm *norm, uint32_t row)
{
    uint32_t d = t->group->shape.head_dim;
    if (!t->op->norm_whole) kvi_cpu_norm(t->device, norm, head, d, head);
    if (t->op->rope) kvi_cpu_rope(t->device, t->op->rope, row, head);
}

static void rotate(const append_task *t, float *head)
{
    if (t->group->rotate) t->device->v->hadamard(head, t->group->shape.head_dim);
}

static void query(const append_task *t, float *head, uint32_t row)
{
    norm_and_rope(t, head, &t->op->q_norm, row);
    if (t->op->q_growth != 0.0f) {
        const uint32_t times = t->device->row_pos[row] / t->op->q_growth_ctx;
        t->device->v->scale(head, (float)(1.0 + (double)t->op->q_growth * log(1.0 + times)), t->group->shape.head_dim);
    }
    rotate(t, head);
}

/* The rows of queries that the page of this position keeps, if there are any of it. */
static void keep_queries(const append_task *t, const float *queries, uint32_t per_kv, uint32_t kv_head, uint32_t pos,
                         uint8_t *page)
{
    const uint32_t n = t->group->n_queries, d = t->group->shape.head_dim, at = pos & (KVI_KV_PAGE - 1);
    int8_t *rows = (int8_t *)page + kvi_group_queries_off(t->group, t->op->group_layer, kv_head);
    for (uint32_t r = at * n / KVI_KV_PAGE; r < (at + 1) * n / KVI_KV_PAGE; r++)
        t->device->v->encoder->query(queries + (size_t)(r % per_kv) * d, d, rows + (size_t)r * d);
}

static void append_one(void *arg, uint32_t task, uint32_t thread)
{
    const append_task *t = arg;
    kvi_device *device = t->device;
    const kvi_cache_group *group = t->group;
    const uint32_t n_kv = group->shape.n_kv_heads, d = group->shape.head_dim, n_heads = t->op->n_heads;
    const uint32_t row = task / n_kv, kv_head = task % n_kv, per_kv = n_heads / n_kv;
    float *base = t->qkv + (size_t)row * t->cols;
    float *k = base + (size_t)(n_heads + kv_head) * d, *v = base + (size_t)(n_heads + n_kv + kv_head) * d;
    (void)thread;
    for (uint32_t h = 0; h < per_kv; h++) query(t, base + (size_t)(kv_head * per_kv + h) * d, row);
    if (t->op->queries_only) return;
    if (t->op->keys_as_values) memcpy(v, k, (size_t)d * sizeof *v);
    kvi_cpu_norm(device, &t->op->v_norm, v, d, v);
    norm_and_rope(t, k, &t->op->k_norm, row);
    rotate(t, k);
    rotate(t, v);

    uint32_t pos = device->row_pos[row];
    const kvi_page_ref *page = &device->step.seqs[device->row_seq[row]].pages[t->op->group][pos >> KVI_KV_PAGE_SHIFT];
    uint8_t *start = device->pool + (uint64_t)page->unit * KVI_KV_UNIT,
            *record = start + kvi_kv_record_off(page->format, &group->shape, t->op->group_layer, kv_head);
    const kvi_dtype dtype = kvi_kv_plain_dtype(group->plain);
    const size_t row_bytes = (size_t)d * kvi_dtype_bytes(dtype), at = (pos & (KVI_KV_PAGE - 1)) * row_bytes;
    device->v->narrow(k, dtype, d, record + at);
    device->v->narrow(v, dtype, d, record + KVI_KV_PAGE * row_bytes + at);
    if (group->n_queries) keep_queries(t, base + (size_t)kv_head * per_kv * d, per_kv, kv_head, pos, start);
}

/* A step of one or two rows is a microsecond or two of work: less than waking the others, much less where cores are shared. */
static void run(const append_task *t, void (*task)(void *, uint32_t, uint32_t), uint32_t n_tasks)
{
    append_task copy = *t;
    if (t->device->step.n_rows > 2) kvi_workers_run(t->device->workers, task, &copy, n_tasks);
    else
        for (uint32_t i = 0; i < n_tasks; i++) task(&copy, i, 0);
}

void kvi_cpu_rope_append(kvi_device *device, const kvi_op *op)
{
    const kvi_cache_group *group = &device->program->groups[op->group];
    const append_task t = {device, op, group, device->buffers[op->out], device->program->buffers[op->out].cols};
    const uint32_t n_rows = device->step.n_rows;
    if (op->norm_whole) run(&t, norm_whole, n_rows);
    run(&t, append_one, n_rows * group->shape.n_kv_heads);
}
