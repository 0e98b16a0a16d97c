/* conv_state.c - CONV_STATE of the CPU by its contract in program.h: the short convolution in front of the delta rule, which remembers the last
 * rows of its input. A task is a sequence and a block of channels, and walks the text row by row, so that the result of a row does not depend on
 * where steps are cut. Since a state is changed in place, a step that is left half-way leaves states half-way; the engine then goes
 * back to a checkpoint. */
#include "device_cpu.h"

#include <string.h>

#define CHANNELS 256u /* of a task, a multiple of every vector */

typedef struct conv {
    kvi_device *device;
    const kvi_op *op;
    uint32_t per_seq; /* tasks of a sequence */
} conv;

/* Taps of n channels from the first one on, (depth, CHANNELS): neighbours in the file are taps, here channels. Rows of a plain form are
 * widened together: a decode step does this once per token, and asking row by row took ten times as long as the convolution. */
static void load_taps(const conv *t, uint32_t first, uint32_t n, float *w)
{
    const kvi_weight *weight = t->op->weights[0];
    const uint32_t depth = weight->desc.n_in;
    float rows[CHANNELS * KVI_MAX_CONV];
    if (kvi_form_is_plain(weight->desc.form) && kvi_weight_neighbours(&weight->desc, first) >= n)
        t->device->v->widen(kvi_cpu_plain_row(&weight->desc, 0, first), kvi_form_dtype(weight->desc.form), n * depth,
                            rows);
    else
        for (uint32_t c = 0; c < n; c++) kvi_cpu_weight_row(t->device, weight, first + c, rows + c * depth);
    for (uint32_t j = 0; j < depth; j++) {
        for (uint32_t c = 0; c < n; c++) w[j * CHANNELS + c] = rows[c * depth + j];
        memset(w + j * CHANNELS + n, 0, (CHANNELS - n) * sizeof *w);
    }
}

static void convolve(void *arg, uint32_t task, uint32_t thread)
{
    const conv *t = arg;
    const kvi_op *op = t->op;
    const kvi_seq *seq = &t->device->step.seqs[task / t->per_seq];
    const uint32_t cols = t->device->program->buffers[op->in].cols, depth = op->weights[0]->desc.n_in, past = depth - 1;
    const uint32_t first = task % t->per_seq * CHANNELS, n = cols - first < CHANNELS ? cols - first : CHANNELS;
    const float *in = t->device->buffers[op->in] + (size_t)seq->first_row * cols + first;
    float *out = t->device->buffers[op->out] + (size_t)seq->first_row * cols + first;
    float *state = kvi_cpu_state(t->device, op, seq) + first;
    float w[KVI_MAX_CONV * CHANNELS], kept[KVI_MAX_CONV * CHANNELS];
    const float *row[2 * KVI_MAX_CONV]; /* inputs from `past` before the step on */
    (void)thread;
    load_taps(t, first, n, w);
    for (uint32_t j = 0; j < past; j++) {
        if (seq->pos) memcpy(kept + j * CHANNELS, state + (size_t)j * cols, n * sizeof *kept);
        else memset(kept + j * CHANNELS, 0, n * sizeof *kept);
    }
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
    conv t = {device, op, (device->program->buffers[op->in].cols + CHANNELS - 1) / CHANNELS};
    (void)kvi_cpu_tasks(device, convolve, &t, device->step.n_seqs * t.per_seq);
    return "conv_state";
}
