/* route.c - ROUTE on the CPU: from the router's logits of a token to its experts and their weights, by the contract of program.h. */
#include "device_cpu.h"

#include <math.h>
#include <string.h>

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
    for (uint32_t i = 0; t->op->scale != 1.0f && i < n; i++)
        p[i] = p[i] * t->op->scale + (t->op->biases[0] ? t->op->biases[0]->f32[i] : 0.0f);
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
    for (uint32_t j = 0; t->op->weights[2] && j < k; j++) weights[j] *= t->op->weights[2]->f32[(uint32_t)ids[j]];
}

const char *kvi_cpu_route(kvi_device *device, const kvi_op *op)
{
    route_task t = {device, op, device->added};
    kvi_linear job = {.x = kvi_cpu_norm_rows(device, op, NULL, device->step.n_rows),
                      .n_rows = device->step.n_rows,
                      .n_in = device->program->buffers[op->in].cols,
                      .n_weights = 1,
                      .weights = {op->weights[0]},
                      .biases = {op->scale != 1.0f ? NULL : op->biases[0]}, /* behind the scale */
                      .y = device->added,
                      .wide = kvi_step_is_wide(&device->step),
                      .ldy = op->n_experts};
    const kvi_linear whole = job;
    if (device->step.n_wide) job.n_rows = device->step.n_wide;
    (void)kvi_cpu_linear(device, &job);
    if (device->step.n_wide && kvi_cpu_is_over(device)) {
        job.x += (size_t)job.n_rows * job.n_in;
        job.y += (size_t)job.n_rows * job.ldy;
        job.n_rows = whole.n_rows - job.n_rows;
        job.wide = false;
        (void)kvi_cpu_linear(device, &job);
    }
    if (kvi_cpu_is_over(device)) (void)kvi_cpu_tasks(device, route_row, &t, device->step.n_rows);
    return "route";
}
