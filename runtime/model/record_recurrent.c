/* record_recurrent.c - layers that keep a state instead of pages: Gated DeltaNet. */
#include "recorder.h"

/* Room in the state of a sequence; begins at a multiple of 64 bytes. */
static uint64_t take_state(kvi_recorder *r, uint64_t floats)
{
    kvi_program *p = &r->out->program;
    const uint64_t at = p->state_bytes;
    p->state_bytes += (floats * 4 + 63) & ~(uint64_t)63;
    return at;
}

/* out (R, widths of the weights) = norm(x) [W0 | W1 | W2]^T */
static kvi_buffer project(kvi_recorder *r, const char *name, uint32_t cols, uint32_t n, const kvi_weight *const *w)
{
    const kvi_buffer out = kvi_record_operand(r, name, cols);
    kvi_op op = {.kind = KVI_OP_NORM_LINEAR,
                 .in = r->x,
                 .out = out,
                 .norm = kvi_record_norm_before(r, r->w->input_norm),
                 .n_weights = n};
    for (uint32_t i = 0; i < n; i++) op.weights[i] = w[i];
    kvi_record_op(r, op);
    return out;
}

void kvi_record_recurrent(kvi_recorder *r)
{
    const kvi_model_config *c = r->c;
    const kvi_delta *d = &c->delta;
    const kvi_layer_weights *l = r->w;
    const uint32_t keys = d->n_key_heads * d->key_dim, values = d->n_value_heads * d->value_dim,
                   qkv = 2 * keys + values;
    const bool gated = !kvi_record_without(r, "delta_gate"), convolves = !kvi_record_without(r, "conv");
    /* u (R, q | k | v), z (R, values), b | a (R, 2 value heads) = norm(x) W^T */
    kvi_buffer u = project(r, "delta_u", qkv, 3, (const kvi_weight *const[]){l->delta_q, l->delta_k, l->delta_v});
    const kvi_buffer z = project(r, "delta_z", values, 1, &l->delta_z);
    const kvi_weight *ba[] = {kvi_record_without(r, "beta") ? l->delta_a : l->delta_b, l->delta_a};
    const kvi_buffer side = project(r, "delta_ba", 2 * d->n_value_heads, 2, ba);
    const uint64_t conv_at = take_state(r, (uint64_t)(d->n_taps - 1) * qkv),
                   state_at = take_state(r, (uint64_t)values * d->key_dim);
    /* q | k | v (R, ...) = silu(convolution of u along the text) */
    if (convolves) {
        const kvi_buffer convolved = kvi_record_operand(r, "delta_qkv", qkv);
        kvi_record_op(r, (kvi_op){.kind = KVI_OP_CONV_STATE,
                                  .in = u,
                                  .out = convolved,
                                  .n_weights = 1,
                                  .weights = {l->conv},
                                  .state_off = kvi_record_without(r, "conv_state") ? state_at : conv_at});
        u = convolved;
    }
    /* y (R, values) = norm(delta rule) * silu(z) */
    const kvi_buffer y = kvi_record_operand(r, "delta_y", values);
    kvi_record_op(r, (kvi_op){.kind = KVI_OP_DELTA,
                              .in = u,
                              .out = y,
                              .side = side,
                              .gate = z,
                              .gated = gated,
                              .n_weights = 2,
                              .weights = {kvi_record_without(r, "decay") ? NULL : l->decay, l->decay_shift},
                              .q_norm = kvi_record_norm(r, l->delta_norm),
                              .n_heads = d->n_value_heads,
                              .n_kv_heads = d->n_key_heads,
                              .key_dim = d->key_dim,
                              .value_dim = d->value_dim,
                              .tiled_heads = d->tiled,
                              .state_off = state_at});
    /* x (R, hidden) += y Wo^T */
    kvi_record_op(r, (kvi_op){.kind = KVI_OP_LINEAR_ADD,
                              .in = y,
                              .out = r->x,
                              .n_weights = 1,
                              .weights = {l->delta_out},
                              .post_norm = kvi_record_norm_after(r, l->mixer_post_norm),
                              .scale = c->residual_scale});
}
