/* experts.c - mixture of experts on the CPU: choosing (ROUTE) and computing (EXPERTS), by the contracts of program.h.
 * A plain implementation: one task per row and chosen expert, so the weights of an expert are read once for each row that chose it. */
#include "device_cpu.h"

#include <math.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------------- route --- */
static void softmax(float *x, uint32_t n)
{
    float top = x[0], sum = 0;
    for (uint32_t i = 1; i < n; i++)
        if (!(x[i] <= top)) top = x[i]; /* a NaN comes through */
    for (uint32_t i = 0; i < n; i++) sum += x[i] = expf(x[i] - top);
    for (uint32_t i = 0; i < n; i++) x[i] /= sum;
}

/* Index of the largest c that is still there, ties to the lower one; takes it out. */
static uint32_t take_best(float *c, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (c[i] > c[best]) best = i;
    c[best] = -INFINITY;
    return best;
}

/* Takes the experts of all runs but the best ones out of c (n). worth (n_groups) is scratch. */
static void keep_best_groups(const kvi_route *route, float *c, uint32_t n, float *worth)
{
    const uint32_t size = n / route->n_groups;
    for (uint32_t g = 0; g < route->n_groups; g++) {
        float first = -INFINITY, second = -INFINITY;
        for (uint32_t i = 0; i < size; i++) {
            const float x = c[g * size + i];
            if (x > first) second = first, first = x;
            else if (x > second) second = x;
        }
        worth[g] = route->group_best > 1 && size > 1 ? first + second : first;
    }
    for (uint32_t left = route->n_groups; left > route->top_groups; left--) {
        uint32_t worst = 0; /* of equals the later run goes */
        for (uint32_t g = 1; g < route->n_groups; g++)
            if (worth[g] <= worth[worst]) worst = g;
        worth[worst] = INFINITY;
        for (uint32_t i = 0; i < size; i++) c[worst * size + i] = -INFINITY;
    }
}

typedef struct route_task {
    kvi_device *device;
    const kvi_op *op;
    float *scores; /* (rows, n_experts) logits of the router */
} route_task;

static void route_row(void *arg, uint32_t row, uint32_t thread)
{
    const route_task *t = arg;
    const kvi_route *route = &t->op->route;
    const uint32_t n = t->op->n_experts, k = route->top_k;
    float *p = t->scores + (size_t)row * n, *c = t->device->thread_scratch + thread * t->device->scratch_floats;
    float *logits = c + n, *worth = logits + n;
    float *ids = t->device->buffers[t->op->out] + (size_t)row * 2 * k, *weights = ids + k;
    memcpy(logits, p, n * sizeof *p);
    if (route->score == KVI_ROUTE_SOFTMAX) softmax(p, n);
    if (route->score == KVI_ROUTE_SIGMOID)
        for (uint32_t i = 0; i < n; i++) p[i] = 1.0f / (1.0f + expf(-p[i]));
    memcpy(c, p, n * sizeof *p);
    for (uint32_t i = 0; t->op->weights[1] && i < n; i++) c[i] += t->op->weights[1]->f32[i];
    if (route->n_groups > 1) keep_best_groups(route, c, n, worth);
    float sum = 0;
    for (uint32_t j = 0; j < k; j++) {
        const uint32_t e = take_best(c, n);
        ids[j] = (float)e;
        weights[j] = route->softmax_chosen ? logits[e] : p[e];
    }
    if (route->softmax_chosen) softmax(weights, k);
    for (uint32_t j = 0; j < k; j++) sum += weights[j];
    const float factor = (route->scale != 0.0f ? route->scale : 1.0f) / (route->renormalize ? sum + 1e-20f : 1.0f);
    for (uint32_t j = 0; j < k; j++) weights[j] *= factor;
}

const char *kvi_cpu_route(kvi_device *device, const kvi_op *op)
{
    route_task t = {device, op, device->added};
    const kvi_linear job = {.x = kvi_cpu_norm_rows(device, op, NULL, device->step.n_rows),
                            .n_rows = device->step.n_rows,
                            .n_in = device->program->buffers[op->in].cols,
                            .n_weights = 1,
                            .weights = {op->weights[0]},
                            .biases = {op->biases[0]},
                            .y = device->added,
                            .wide = kvi_step_is_wide(&device->step),
                            .ldy = op->n_experts};
    (void)kvi_cpu_linear(device, &job);
    kvi_workers_run(device->workers, route_row, &t, device->step.n_rows);
    return "route";
}

/* ----------------------------------------------------------------------------------------------------- experts --- */
typedef struct expert_task {
    kvi_device *device;
    const kvi_op *op;
    const float *x; /* (rows, hidden) normed */
    float *out;     /* (rows * top_k, hidden) */
    uint32_t hidden;
} expert_task;

/* y (n_out) = W_e x + b_e */
static void expert_product(const kvi_weight *w, const kvi_weight *bias, uint32_t e, const float *x, float *y)
{
    const uint32_t n_out = w->desc.n_out;
    w->kernel->gemv(&w->desc, e, 0, n_out, x, 1, w->desc.n_in, y, n_out);
    for (uint32_t i = 0; bias && i < n_out; i++) y[i] += bias->f32[(size_t)e * n_out + i];
}

static void run_expert(void *arg, uint32_t task, uint32_t thread)
{
    const expert_task *t = arg;
    const kvi_op *op = t->op;
    const uint32_t k = op->route.top_k, row = task / k, j = task % k, width = op->expert_width;
    const uint32_t e = (uint32_t)t->device->buffers[op->side][(size_t)row * 2 * k + j];
    float *gate = t->device->thread_scratch + thread * t->device->scratch_floats, *up = gate + width;
    const float *x = t->x + (size_t)row * t->hidden;
    expert_product(op->weights[0], op->biases[0], e, x, gate);
    expert_product(op->weights[1], op->biases[1], e, x, up);
    kvi_cpu_activate(t->device->v, op->activation, op->limit, gate, up, width);
    expert_product(op->weights[2], op->biases[2], e, gate, t->out + (size_t)task * t->hidden);
}

/* added[row] = sum over j of w_j out[row, j], in place: row `row` of the sum never lies behind what is still to be read. */
static void sum_experts(kvi_device *device, const kvi_op *op, uint32_t hidden)
{
    const uint32_t k = op->route.top_k;
    for (uint32_t row = 0; row < device->step.n_rows; row++) {
        const float *weights = device->buffers[op->side] + (size_t)row * 2 * k + k;
        float *y = device->added + (size_t)row * hidden, *x = device->added + (size_t)row * k * hidden;
        for (uint32_t i = 0; i < hidden; i++) {
            float sum = 0;
            for (uint32_t j = 0; j < k; j++) sum += weights[j] * x[(size_t)j * hidden + i];
            y[i] = sum;
        }
    }
}

const char *kvi_cpu_experts(kvi_device *device, const kvi_op *op)
{
    const uint32_t hidden = device->program->buffers[op->out].cols;
    expert_task t = {device, op, kvi_cpu_norm_rows(device, op, NULL, device->step.n_rows), device->added, hidden};
    kvi_workers_run(device->workers, run_expert, &t, device->step.n_rows * op->route.top_k);
    sum_experts(device, op, hidden);
    kvi_cpu_add_rows(device, op);
    return "experts";
}
