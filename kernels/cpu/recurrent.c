/* recurrent.c - layers that keep a state instead of pages, on the CPU: CONV_STATE and DELTA by the contracts of program.h.
 * A text is walked token by token, in prompts too (variant_state.h says why), one task per sequence and channel block or head: the result of a token
 * does not depend on where steps are cut. Since a state is changed in place, a step that is left half-way leaves states half-way; the engine
 * then goes back to a checkpoint. */
#include "device_cpu.h"

#include <math.h>
#include <string.h>

static float *state_of(const kvi_device *device, const kvi_op *op, const kvi_seq *seq)
{
    return (float *)(void *)(device->pool + (uint64_t)seq->state_unit * KVI_KV_UNIT + op->state_off);
}

/* ------------------------------------------------------------------------------------------------- convolution --- */
#define CHANNELS 256u /* of a task, a multiple of every vector */

typedef struct state_task {
    kvi_device *device;
    const kvi_op *op;
    uint32_t per_seq; /* tasks of a sequence */
} state_task;

/* Taps of n channels from the first one on, (depth, CHANNELS): neighbours in the file are taps, here channels. */
static void load_taps(const state_task *t, uint32_t first, uint32_t n, float *w)
{
    const uint32_t depth = t->op->weights[0]->desc.n_in;
    float row[KVI_MAX_CONV];
    for (uint32_t c = 0; c < CHANNELS; c++) {
        if (c < n) kvi_cpu_weight_row(t->device, t->op->weights[0], first + c, row);
        for (uint32_t j = 0; j < depth; j++) w[j * CHANNELS + c] = c < n ? row[j] : 0.0f;
    }
}

static void convolve(void *arg, uint32_t task, uint32_t thread)
{
    const state_task *t = arg;
    const kvi_op *op = t->op;
    const kvi_seq *seq = &t->device->step.seqs[task / t->per_seq];
    const uint32_t cols = t->device->program->buffers[op->in].cols, depth = op->weights[0]->desc.n_in, past = depth - 1;
    const uint32_t first = task % t->per_seq * CHANNELS, n = cols - first < CHANNELS ? cols - first : CHANNELS;
    const float *in = t->device->buffers[op->in] + (size_t)seq->first_row * cols + first;
    float *out = t->device->buffers[op->out] + (size_t)seq->first_row * cols + first;
    float *state = state_of(t->device, op, seq) + first, w[KVI_MAX_CONV * CHANNELS], kept[KVI_MAX_CONV * CHANNELS];
    const float *row[2 * KVI_MAX_CONV]; /* inputs from `past` before the step on */
    (void)thread;
    load_taps(t, first, n, w);
    for (uint32_t j = 0; j < past; j++)
        for (uint32_t c = 0; c < n; c++) kept[j * CHANNELS + c] = seq->pos ? state[(size_t)j * cols + c] : 0.0f;
    for (uint32_t r = 0; r < seq->n_rows; r++) {
        for (uint32_t j = 0; j < depth; j++)
            row[j] = r + j < past ? kept + (r + j) * CHANNELS : in + (size_t)(r + j - past) * cols;
        t->device->v->conv_silu(row, depth, w, CHANNELS, op->biases[0] ? op->biases[0]->f32 + first : NULL, n,
                                out + (size_t)r * cols);
    }
    for (uint32_t j = 0; j < past; j++) {
        const uint32_t r = seq->n_rows + j; /* of the rows from `past` before the step on */
        memcpy(state + (size_t)j * cols, r < past ? kept + r * CHANNELS : in + (size_t)(r - past) * cols,
               n * sizeof *state);
    }
}

const char *kvi_cpu_conv_state(kvi_device *device, const kvi_op *op)
{
    state_task t = {device, op, (device->program->buffers[op->in].cols + CHANNELS - 1) / CHANNELS};
    kvi_workers_run(device->workers, convolve, &t, device->step.n_seqs * t.per_seq);
    return "conv_state";
}

/* -------------------------------------------------------------------------------------------------- delta rule --- */
static void normalized(const float *x, uint32_t n, float scale, float *y)
{
    float squares = 0;
    for (uint32_t i = 0; i < n; i++) squares += x[i] * x[i];
    const float factor = scale / sqrtf(squares + 1e-6f);
    for (uint32_t i = 0; i < n; i++) y[i] = x[i] * factor;
}

/* log(1 + exp(x)) without overflow; above 20 the two differ by less than f32 tells. */
static float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

static void delta_head(void *arg, uint32_t task, uint32_t thread)
{
    const state_task *t = arg;
    const kvi_op *op = t->op;
    kvi_device *device = t->device;
    const kvi_seq *seq = &device->step.seqs[task / op->n_heads];
    const uint32_t dk = op->key_dim, dv = op->value_dim, h = task % op->n_heads;
    const uint32_t key_head = op->tiled_heads ? h % op->n_kv_heads : h / (op->n_heads / op->n_kv_heads),
                   keys = op->n_kv_heads * dk;
    const uint32_t cols = device->program->buffers[op->in].cols, out_cols = op->n_heads * dv;
    float *s = state_of(device, op, seq) + (size_t)h * dk * dv;
    float *q = device->thread_scratch + thread * device->scratch_floats, *k = q + dk, *gate = k + dk;
    const float rate = op->weights[0] ? expf(op->weights[0]->f32[h]) : 0.0f, shift = op->weights[1]->f32[h];
    if (seq->pos == 0) memset(s, 0, (size_t)dk * dv * sizeof *s);
    for (uint32_t r = seq->first_row; r < seq->first_row + seq->n_rows; r++) {
        const float *in = device->buffers[op->in] + (size_t)r * cols;
        const float *side = device->buffers[op->side] + (size_t)r * 2 * op->n_heads;
        float *o = device->buffers[op->out] + (size_t)r * out_cols + h * dv;
        normalized(in + key_head * dk, dk, 1.0f / sqrtf((float)dk), q);
        normalized(in + keys + key_head * dk, dk, 1.0f, k);
        const float beta = 1.0f / (1.0f + expf(-side[h])),
                    decay = expf(-rate * softplus(side[op->n_heads + h] + shift));
        device->v->delta(s, dk, dv, q, k, decay, beta, in + 2 * keys + h * dv, o);
        kvi_cpu_norm(device, &op->q_norm, o, dv, o);
        if (!op->gated) continue;
        memcpy(gate, device->buffers[op->gate] + (size_t)r * out_cols + h * dv, dv * sizeof *gate);
        device->v->silu_mul(gate, o, dv);
        memcpy(o, gate, dv * sizeof *gate);
    }
}

const char *kvi_cpu_delta(kvi_device *device, const kvi_op *op)
{
    state_task t = {device, op, op->n_heads};
    kvi_workers_run(device->workers, delta_head, &t, device->step.n_seqs * op->n_heads);
    return "delta";
}
