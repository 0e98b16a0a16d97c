/* recurrent_cuda.c - CONV_STATE and DELTA as launches of conv_state, delta_* and delta_norm. States stand in the KV pool, where the step says (a
 * sequence's unit), so that graphs hold for any session, and a checkpoint is a copy within the pool. */
#include "device_cuda.h"
#include "recurrent_params.h"

#define MOST_KEYS 256u

kvrt_status kvi_cuda_recurrent_check(const kvi_program *program, kvrt_error *error)
{
    for (uint32_t i = 0; i < program->n_ops; i++) {
        const kvi_op *op = &program->ops[i];
        if (op->kind == KVI_OP_DELTA && op->key_dim > MOST_KEYS)
            return kvi_error_set(error, KVRT_UNSUPPORTED,
                                 "delta, layer %u: keys of %u dimensions; the CUDA backend has up to %u", op->layer,
                                 op->key_dim, MOST_KEYS);
        if (op->kind == KVI_OP_CONV_STATE && op->weights[0] && op->weights[0]->tile)
            return kvi_error_set(error, KVRT_UNSUPPORTED,
                                 "conv_state, layer %u: %s is quantized; the CUDA backend has taps of plain numbers",
                                 op->layer, op->weights[0]->name);
        if (op->kind == KVI_OP_CONV_STATE && op->weights[0] && op->weights[0]->n_in > KVI_CONV_TAPS)
            return kvi_error_set(error, KVRT_UNSUPPORTED,
                                 "conv_state, layer %u: %u taps; the CUDA backend has up to %u", op->layer,
                                 op->weights[0]->n_in, KVI_CONV_TAPS);
    }
    return KVRT_OK;
}

static uint32_t n_seqs(const kvi_device *d, uint32_t rows)
{
    return rows < d->limits.max_seqs ? rows : d->limits.max_seqs;
}

kvrt_status kvi_cuda_conv_run(kvi_device *d, const kvi_op *op, uint32_t rows, const char **kernel, kvrt_error *error)
{
    const kvi_cuda_buffer *x = &d->buffers[op->in], *y = &d->buffers[op->out];
    const kvi_weight *w = op->weights[0];
    const kvi_cuda_conv_params p = {.step = d->map,
                                    .state = {d->pool, op->state_off},
                                    .x = x->data,
                                    .y = y->data,
                                    .w = w->data,
                                    .bias = op->biases[0] ? op->biases[0]->data.codes : 0,
                                    .x_type = (uint32_t)x->dtype,
                                    .y_type = (uint32_t)y->dtype,
                                    .w_type = (uint32_t)kvi_form_dtype(w->form),
                                    .x_pitch = x->pitch,
                                    .y_pitch = y->pitch,
                                    .cols = x->cols,
                                    .taps = w->n_in};
    *kernel = kvi_cuda_kernel_name(KVI_CUDA_K_conv_state);
    return kvi_cuda_launch(d, KVI_CUDA_K_conv_state, (x->cols + KVI_CONV_CHANNELS - 1) / KVI_CONV_CHANNELS,
                           (rows + KVI_CONV_ROWS - 1) / KVI_CONV_ROWS, n_seqs(d, rows), KVI_CONV_CHANNELS, 0, &p,
                           error);
}

kvrt_status kvi_cuda_delta_run(kvi_device *d, const kvi_op *op, uint32_t rows, const char **kernel, kvrt_error *error)
{
    const kvi_cuda_buffer *x = &d->buffers[op->in], *y = &d->buffers[op->out], *side = &d->buffers[op->side],
                          *gate = &d->buffers[op->gate];
    const kvi_cuda_delta_params p = {.step = d->map,
                                     .state = {d->pool, op->state_off},
                                     .x = x->data,
                                     .side = side->data,
                                     .decay = op->weights[0] ? op->weights[0]->data.codes : 0,
                                     .shift = op->weights[0] ? op->weights[1]->data.codes : 0,
                                     .o = d->sums.data,
                                     .x_type = (uint32_t)x->dtype,
                                     .side_type = (uint32_t)side->dtype,
                                     .x_pitch = x->pitch,
                                     .side_pitch = side->pitch,
                                     .o_pitch = d->sums.pitch,
                                     .n_heads = op->n_heads,
                                     .n_key_heads = op->n_kv_heads,
                                     .key_dim = op->key_dim,
                                     .value_dim = op->value_dim,
                                     .tiled = op->tiled_heads};
    const kvi_cuda_delta_norm_params norm = {.step = d->map,
                                             .o = d->sums.data,
                                             .gain = op->q_norm.kind == KVI_NORM_GAIN ? op->q_norm.gain->data.codes : 0,
                                             .gate = op->gated ? gate->data : 0,
                                             .y = y->data,
                                             .o_pitch = d->sums.pitch,
                                             .gate_pitch = gate->pitch,
                                             .y_pitch = y->pitch,
                                             .gate_type = (uint32_t)gate->dtype,
                                             .y_type = (uint32_t)y->dtype,
                                             .n_heads = op->n_heads,
                                             .value_dim = op->value_dim,
                                             .norm = op->q_norm.kind != KVI_NORM_NONE,
                                             .eps = op->q_norm.eps};
    const uint32_t keys = op->key_dim <= 64 ? 64 : op->key_dim <= 128 ? 128 : 256;
    const kvi_cuda_kernel_id id = keys == 64    ? KVI_CUDA_K_delta_k64
                                  : keys == 128 ? KVI_CUDA_K_delta_k128
                                                : KVI_CUDA_K_delta_k256;
    *kernel = kvi_cuda_kernel_name(id);
    KVI_TRY(kvi_cuda_launch(d, id, (op->value_dim + KVI_DELTA_COLUMNS - 1) / KVI_DELTA_COLUMNS, op->n_heads,
                            n_seqs(d, rows), 128, kvi_cuda_delta_shared(keys), &p, error));
    return kvi_cuda_launch(d, KVI_CUDA_K_delta_norm, rows, (op->n_heads + 3) / 4, 1, 128, 0, &norm, error);
}
