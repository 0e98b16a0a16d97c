/* config_delta.c - the sizes of recurrent layers (Gated DeltaNet). */
#include "config_raw.h"

static bool is_recurrent(const kvi_model_config *c)
{
    for (uint32_t i = 0; i < c->n_layers; i++)
        if (c->layers[i].mixer == KVI_MIXER_RECURRENT) return true;
    return false;
}

kvrt_status kvi_config_delta(const kvi_raw_config *raw, kvi_model_config *c, kvrt_error *error)
{
    kvi_delta *d = &c->delta;
    if (!is_recurrent(c)) return KVRT_OK;
    if (c->activation != KVI_ACT_SILU)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "config.json: hidden_act is '%s', need silu for %s, whose recurrent layers have it too",
                             raw->act, c->family);
    KVI_TRY(kvi_config_size("linear_num_key_heads", raw->linear_num_key_heads, 1, 1024, &d->n_key_heads, error));
    KVI_TRY(kvi_config_size("linear_num_value_heads", raw->linear_num_value_heads, 1, 1024, &d->n_value_heads, error));
    KVI_TRY(kvi_config_size("linear_key_head_dim", raw->linear_key_head_dim, 1, KVI_MAX_HEAD_DIM, &d->key_dim, error));
    KVI_TRY(kvi_config_size("linear_value_head_dim", raw->linear_value_head_dim, 1, KVI_MAX_HEAD_DIM, &d->value_dim,
                            error));
    KVI_TRY(kvi_config_size("linear_conv_kernel_dim", raw->linear_conv_kernel_dim, 1, KVI_MAX_CONV, &d->n_taps, error));
    if (d->n_value_heads % d->n_key_heads)
        return kvi_error_set(error, KVRT_FORMAT,
                             "config.json: linear_num_value_heads is %u, need a multiple of linear_num_key_heads (%u)",
                             d->n_value_heads, d->n_key_heads);
    return KVRT_OK;
}
