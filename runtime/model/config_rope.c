/* config_rope.c - rotary embeddings of config.json: one set for all layers that have any. */
#include "config_raw.h"

#include <math.h>
#include <string.h>

static kvrt_status derive_scaling(const kvi_raw_config *raw, const kvi_raw_rope *rope, const char *type,
                                  kvi_rope_spec *out, kvrt_error *error)
{
    bool linear = strcmp(type, "linear") == 0;
    if (!linear && strcmp(type, "llama3") != 0)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "config.json: rope scaling type '%s', need default, linear or llama3", type);
    out->factor = rope->factor;
    if (!(rope->factor >= 1))
        return kvi_error_set(error, KVRT_FORMAT,
                             "config.json: rope_scaling.factor is below 1 or absent, need 1 or more");
    out->scaling = linear ? KVI_ROPE_LINEAR : KVI_ROPE_LLAMA3;
    if (linear) return KVRT_OK;
    out->low_freq_factor = rope->low_freq;
    out->high_freq_factor = rope->high_freq;
    if (!(rope->low_freq > 0 && rope->high_freq > rope->low_freq && isfinite(rope->high_freq)))
        return kvi_error_set(error, KVRT_FORMAT,
                             "config.json: rope_scaling: need 0 < low_freq_factor < high_freq_factor");
    /* transformers prefers the key of the whole config, then that of the scaling, then the length of the model. */
    int64_t original = raw->original_max_position_embeddings != KVI_NO_INT ? raw->original_max_position_embeddings
                       : rope->original_ctx != KVI_NO_INT                  ? rope->original_ctx
                                                                           : raw->max_position_embeddings;
    return kvi_config_size("original_max_position_embeddings", original, 1, KVI_MAX_POSITIONS, &out->original_ctx,
                           error);
}

/* The part of a head that turns. transformers rounds down to whole dimensions, and needs an even number. */
static kvrt_status derive_dims(const kvi_family *family, double partial, uint32_t head_dim, uint32_t *out,
                               kvrt_error *error)
{
    *out = head_dim;
    if (isnan(partial) || partial == 1.0) return KVRT_OK;
    if (!family->partial_rotary)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "config.json: partial_rotary_factor is not 1, need full rotary embeddings");
    *out = partial > 0 && partial <= 1 ? (uint32_t)(head_dim * partial) : 0;
    if (*out == 0 || *out % 2)
        return kvi_error_set(
            error, KVRT_UNSUPPORTED,
            "config.json: partial_rotary_factor is %g, need an even number of the %u dimensions of a head", partial,
            head_dim);
    return KVRT_OK;
}

/* As transformers standardizes them: rope_scaling replaces rope_parameters as a whole, and its own rope_theta and partial_rotary_factor win
 * over those beside it. */
kvrt_status kvi_config_rope(const kvi_raw_config *raw, const kvi_family *family, kvi_model_config *c, kvrt_error *error)
{
    const kvi_raw_rope *rope = raw->scaling.filled ? &raw->scaling : &raw->parameters;
    double theta = !isnan(rope->theta) ? rope->theta : raw->rope_theta;
    double partial = !isnan(rope->partial_rotary) ? rope->partial_rotary : raw->partial_rotary_factor;
    kvi_rope_spec *out = &c->ropes[0];
    c->n_ropes = 1;
    out->theta = isnan(theta) ? raw->default_theta : theta;
    /* Below 1 the angles grow with the dimension until float32, in which transformers takes them, has no digit left. */
    if (!(out->theta >= 1)) return kvi_error_set(error, KVRT_FORMAT, "config.json: rope_theta below 1, need 1 or more");
    if (rope->nested)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "config.json: rope_parameters differ by layer type, need one set for all layers");
    KVI_TRY(derive_dims(family, partial, c->attention[0].head_dim, &out->n_dims, error));
    const char *type = rope->rope_type[0] ? rope->rope_type : rope->type[0] ? rope->type : "default";
    return strcmp(type, "default") == 0 ? KVRT_OK : derive_scaling(raw, rope, type, out, error);
}
