/* rows_cpu.c - what is done to rows of activations before and after products: norms, and additions that are more than a sum. */
#include "device_cpu.h"

#include <math.h>
#include <string.h>

typedef struct row_task {
    kvi_device *device;
    const kvi_op *op;
    const float *x;
    uint32_t cols;
    const uint32_t *rows; /* NULL: all rows in order */
} row_task;

void kvi_cpu_norm(const kvi_device *device, const kvi_norm *norm, const float *x, uint32_t n, float *y)
{
    if (norm->kind)
        device->v->rmsnorm(x, norm->kind == KVI_NORM_GAIN ? norm->gain->f32 : device->ones, norm->eps, n, y);
    else if (x != y) memcpy(y, x, (size_t)n * sizeof *y);
}

static void norm_row(void *arg, uint32_t task, uint32_t thread)
{
    const row_task *t = arg;
    const size_t from = t->rows ? t->rows[task] : task;
    (void)thread;
    kvi_cpu_norm(t->device, &t->op->norm, t->x + from * t->cols, t->cols, t->device->normed + (size_t)task * t->cols);
}

const float *kvi_cpu_norm_rows(kvi_device *device, const kvi_op *op, const uint32_t *rows, uint32_t n_rows)
{
    row_task t = {device, op, device->buffers[op->in], device->program->buffers[op->in].cols, rows};
    if (!op->norm.kind && !rows) return t.x;
    if (!kvi_cpu_begins(device)) return device->normed;
    if (n_rows <= KVI_BATCH_ROWS)
        for (uint32_t r = 0; r < n_rows; r++) norm_row(&t, r, 0);
    else kvi_workers_run(device->workers, norm_row, &t, n_rows);
    return device->normed;
}

void kvi_cpu_add_row(kvi_device *device, const kvi_op *op, uint32_t row, float *x)
{
    const uint32_t cols = device->program->buffers[op->out].cols, run = op->post_group ? op->post_group : cols;
    float *y = device->buffers[op->out] + (size_t)row * cols, factor = op->scale;
    for (uint32_t i = 0; i < cols; i += run) kvi_cpu_norm(device, &op->post_norm, x + i, run, x + i);
    if (op->gated) factor /= 1.0f + expf(-device->buffers[op->gate][row]);
    if (x == y) return; /* in place */
    if (op->fresh) memset(y, 0, cols * sizeof *y);
    for (uint32_t i = 0; i < cols; i++) y[i] += factor * x[i];
    if (op->out_gain) device->v->scale(y, op->out_gain->f32[0], cols);
}

static void add_row(void *arg, uint32_t row, uint32_t thread)
{
    const row_task *t = arg;
    (void)thread;
    float *x = kvi_op_in_place(t->op) ? t->device->buffers[t->op->in] : t->device->added;
    kvi_cpu_add_row(t->device, t->op, row, x + (size_t)row * t->cols);
}

void kvi_cpu_add_rows(kvi_device *device, const kvi_op *op)
{
    row_task t = {.device = device, .op = op, .cols = device->program->buffers[op->out].cols};
    kvi_workers_run(device->workers, add_row, &t, device->step.n_rows);
}
