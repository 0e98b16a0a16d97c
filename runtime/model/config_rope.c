/* config_rope.c - rotary embeddings of config.json: one set for all layers, or one for full attention and one for windows.
 * To know: dynamic and longrope choose frequencies by the length of a text. Up to a length they are one set, which is computed exactly; longer
 * contexts are refused, since keys of the cache would have to be turned again (transformers drops its cache there). */
#include "config_raw.h"

#include <math.h>
#include <string.h>

/* A set of keys, and what stands beside it in the config. */
typedef struct rope_source {
    const kvi_raw_config *raw;
    const kvi_family *family;
    const kvi_raw_rope *rope;
    double theta, partial; /* where the set has none */
    uint32_t head_dim;
    bool by_type; /* one of several sets */
} rope_source;

static kvrt_status need_factor(const rope_source *s, double *out, kvrt_error *error)
{
    *out = s->rope->factor;
    if (s->rope->factor >= 1) return KVRT_OK;
    return kvi_error_set(error, KVRT_FORMAT, "config.json: rope_scaling.factor is below 1 or absent, need 1 or more");
}

/* transformers prefers the key of the whole config, then that of the scaling, then the length of the model. */
static kvrt_status original_ctx(const rope_source *s, uint32_t *out, kvrt_error *error)
{
    const kvi_raw_config *raw = s->raw;
    const int64_t original = raw->original_max_position_embeddings != KVI_NO_INT ? raw->original_max_position_embeddings
                             : s->rope->original_ctx != KVI_NO_INT               ? s->rope->original_ctx
                                                                                 : raw->max_position_embeddings;
    return kvi_config_size("original_max_position_embeddings", original, 1, KVI_MAX_POSITIONS, out, error);
}

static kvrt_status linear(const rope_source *s, kvi_rope_spec *out, kvi_model_config *c, kvrt_error *error)
{
    (void)c;
    out->scaling = KVI_ROPE_LINEAR;
    return need_factor(s, &out->factor, error);
}

static kvrt_status llama3(const rope_source *s, kvi_rope_spec *out, kvi_model_config *c, kvrt_error *error)
{
    const kvi_raw_rope *rope = s->rope;
    (void)c;
    KVI_TRY(need_factor(s, &out->factor, error));
    out->scaling = KVI_ROPE_LLAMA3;
    out->low_freq_factor = rope->low_freq;
    out->high_freq_factor = rope->high_freq;
    if (!(rope->low_freq > 0 && rope->high_freq > rope->low_freq && isfinite(rope->high_freq)))
        return kvi_error_set(error, KVRT_FORMAT,
                             "config.json: rope_scaling: need 0 < low_freq_factor < high_freq_factor");
    return original_ctx(s, &out->original_ctx, error);
}

/* The base of the frequencies grows with the length beyond max_position_embeddings only. */
static kvrt_status dynamic(const rope_source *s, kvi_rope_spec *out, kvi_model_config *c, kvrt_error *error)
{
    c->ctx_limit = c->ctx_model;
    c->limit_why = "dynamic RoPE changes its frequencies beyond max_position_embeddings";
    return need_factor(s, &out->factor, error);
}

static double yarn_magnitude(double factor, double mscale) { return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1; }

static kvrt_status yarn(const rope_source *s, kvi_rope_spec *out, kvi_model_config *c, kvrt_error *error)
{
    const kvi_raw_rope *rope = s->rope;
    KVI_TRY(original_ctx(s, &out->original_ctx, error));
    if (isnan(rope->factor)) out->factor = (double)c->ctx_model / out->original_ctx;
    else KVI_TRY(need_factor(s, &out->factor, error));
    out->scaling = KVI_ROPE_YARN;
    out->beta_fast = rope->beta_fast > 0 ? rope->beta_fast : 32;
    out->beta_slow = rope->beta_slow > 0 ? rope->beta_slow : 1;
    out->truncate = s->by_type || !rope->no_truncate; /* transformers looks for it beside the sets, where it is not */
    if (!(out->theta > 1)) return kvi_error_set(error, KVRT_FORMAT, "config.json: rope_theta is 1, need more for yarn");
    double magnitude = rope->attention_factor;
    if (isnan(magnitude)) {
        const bool both =
            !isnan(rope->mscale) && rope->mscale != 0 && !isnan(rope->mscale_all_dim) && rope->mscale_all_dim != 0;
        magnitude = both ? yarn_magnitude(out->factor, rope->mscale) / yarn_magnitude(out->factor, rope->mscale_all_dim)
                         : yarn_magnitude(out->factor, 1);
    }
    out->magnitude = (float)magnitude;
    return KVRT_OK;
}

/* Texts up to the original length have the short factors, longer ones the long factors from their first token on. */
static kvrt_status longrope(const rope_source *s, kvi_rope_spec *out, kvi_model_config *c, kvrt_error *error)
{
    const kvi_raw_rope *rope = s->rope;
    const uint32_t n = out->n_dims / 2;
    uint32_t original;
    KVI_TRY(original_ctx(s, &original, error));
    if (rope->n_short != n || rope->n_long != n)
        return kvi_error_set(error, KVRT_FORMAT,
                             "config.json: short_factor and long_factor have %u and %u entries, need %u (half of the "
                             "dimensions that turn)",
                             rope->n_short, rope->n_long, n);
    out->scaling = KVI_ROPE_DIVISORS;
    for (uint32_t i = 0; i < n; i++)
        if (!((out->divisors[i] = rope->short_factor[i]) > 0))
            return kvi_error_set(error, KVRT_FORMAT, "config.json: short_factor[%u] is not above 0", i);
    const double factor = isnan(rope->factor) ? (double)c->ctx_model / original : rope->factor;
    double magnitude = rope->attention_factor;
    if (isnan(magnitude)) magnitude = factor <= 1 ? 1 : sqrt(1 + log(factor) / log(original));
    if (!isfinite(magnitude))
        return kvi_error_set(error, KVRT_FORMAT,
                             "config.json: original_max_position_embeddings is %u, need more for longrope", original);
    out->magnitude = (float)magnitude;
    if (original < c->ctx_model) {
        c->ctx_limit = c->ctx_model = original;
        c->limit_why = "longrope changes its frequencies beyond original_max_position_embeddings";
    }
    return KVRT_OK;
}

/* Over the whole head, of which only the first part turns. */
static kvrt_status proportional(const rope_source *s, kvi_rope_spec *out, kvi_model_config *c, kvrt_error *error)
{
    const double partial = !isnan(s->rope->partial_rotary) ? s->rope->partial_rotary
                           : isnan(s->partial)             ? 1
                                                           : s->partial;
    (void)c;
    out->scaling = KVI_ROPE_PROPORTIONAL;
    out->factor = isnan(s->rope->factor) ? 1 : s->rope->factor;
    if (!(partial >= 0 && partial <= 1) || !(out->factor > 0))
        return kvi_error_set(error, KVRT_FORMAT,
                             "config.json: partial_rotary_factor %g and factor %g of proportional RoPE, need 0..1 and "
                             "more than 0",
                             partial, out->factor);
    out->n_turning = (uint32_t)floor(partial * s->head_dim / 2);
    out->n_dims = s->head_dim;
    return KVRT_OK;
}

/* The part of a head that turns. transformers rounds down to whole dimensions, and needs an even number. */
static kvrt_status derive_dims(const rope_source *s, uint32_t *out, kvrt_error *error)
{
    double partial = !isnan(s->rope->partial_rotary) ? s->rope->partial_rotary : s->partial;
    *out = s->head_dim;
    if (isnan(partial) || partial == 1.0) return KVRT_OK;
    if (!s->family->partial_rotary)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "config.json: partial_rotary_factor is not 1, need full rotary embeddings");
    *out = partial > 0 && partial <= 1 ? (uint32_t)(s->head_dim * partial) : 0;
    if (*out == 0 || *out % 2)
        return kvi_error_set(
            error, KVRT_UNSUPPORTED,
            "config.json: partial_rotary_factor is %g, need an even number of the %u dimensions of a head", partial,
            s->head_dim);
    return KVRT_OK;
}

static kvrt_status derive(const rope_source *s, kvi_rope_spec *out, kvi_model_config *c, kvrt_error *error)
{
    static const struct {
        const char *type;
        kvrt_status (*derive)(const rope_source *, kvi_rope_spec *, kvi_model_config *, kvrt_error *);
    } kinds[] = {{"linear", linear}, {"llama3", llama3}, {"dynamic", dynamic}, {"yarn", yarn}, {"longrope", longrope}};
    const kvi_raw_rope *rope = s->rope;
    const char *type = rope->rope_type[0] ? rope->rope_type : rope->type[0] ? rope->type : "default";
    if (s->family->old_longrope && (strcmp(type, "su") == 0 || strcmp(type, "yarn") == 0)) type = "longrope";
    out->theta = !isnan(rope->theta) ? rope->theta : s->theta;
    /* Below 1 the angles grow with the dimension until float32, in which transformers takes them, has no digit left. */
    if (!(out->theta >= 1)) return kvi_error_set(error, KVRT_FORMAT, "config.json: rope_theta below 1, need 1 or more");
    if (s->family->two_ropes && strcmp(type, "proportional") == 0) return proportional(s, out, c, error);
    KVI_TRY(derive_dims(s, &out->n_dims, error));
    if (strcmp(type, "default") == 0) return KVRT_OK;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strcmp(kinds[i].type, type) == 0) return kinds[i].derive(s, out, c, error);
    return kvi_error_set(
        error, KVRT_UNSUPPORTED,
        "config.json: rope scaling type '%s', need default, linear, llama3, dynamic, yarn or longrope%s", type,
        s->family->two_ropes ? ", or proportional" : "");
}

/* One set for full attention, in which rope_scaling changes what rope_parameters say, and one for windows. */
static kvrt_status derive_two(const kvi_raw_config *raw, const kvi_family *family, kvi_model_config *c,
                              kvrt_error *error)
{
    const kvi_attention *full = &c->attention[0], *windowed = &c->attention[c->n_attentions > 1 ? 1 : 0];
    kvi_raw_rope whole = raw->full;
    if (raw->parameters.filled && !raw->parameters.nested)
        return kvi_error_set(
            error, KVRT_UNSUPPORTED,
            "config.json: rope_parameters is one set, need full_attention and sliding_attention for %s", family->name);
    if (raw->scaling.filled && raw->parameters.nested)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "config.json: rope_scaling beside rope_parameters by type of layer, need one of them");
    if (raw->scaling.filled) whole = raw->scaling;
    if (!whole.filled && family->proportional_rope) {
        (void)strcpy(whole.rope_type, "proportional");
        whole.partial_rotary = 0.25;
    }
    const rope_source of_full = {.raw = raw,
                                 .family = family,
                                 .rope = &whole,
                                 .theta = isnan(raw->rope_theta) ? family->theta : raw->rope_theta,
                                 .partial = NAN,
                                 .head_dim = full->head_dim,
                                 .by_type = true};
    rope_source of_window = of_full;
    of_window.rope = &raw->sliding;
    of_window.theta = isnan(raw->rope_local_base_freq) ? family->window_theta : raw->rope_local_base_freq;
    of_window.head_dim = windowed->head_dim;
    c->n_ropes = 2;
    KVI_TRY(derive(&of_full, &c->ropes[0], c, error));
    KVI_TRY(derive(&of_window, &c->ropes[1], c, error));
    for (uint32_t i = 0; i < c->n_attentions; i++)
        if (c->attention[i].rope != KVI_NO_ROPE) c->attention[i].rope = c->attention[i].window ? 1 : 0;
    return KVRT_OK;
}

/* As transformers standardizes them: rope_scaling replaces rope_parameters as a whole, and its own rope_theta and partial_rotary_factor win
 * over those beside it. */
kvrt_status kvi_config_rope(const kvi_raw_config *raw, const kvi_family *family, kvi_model_config *c, kvrt_error *error)
{
    const kvi_raw_rope *rope = raw->scaling.filled ? &raw->scaling : &raw->parameters;
    if (family->two_ropes) return derive_two(raw, family, c, error);
    if (rope->nested)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "config.json: rope_parameters differ by layer type, need one set for all layers");
    const rope_source source = {.raw = raw,
                                .family = family,
                                .rope = rope,
                                .theta = isnan(raw->rope_theta) ? raw->default_theta : raw->rope_theta,
                                .partial = raw->partial_rotary_factor,
                                .head_dim = family->latent ? c->latent.rope_dim : c->attention[0].head_dim};
    c->n_ropes = 1;
    KVI_TRY(derive(&source, &c->ropes[0], c, error));
    if (!family->q_growth) return KVRT_OK;
    if (isnan(rope->q_growth) || rope->original_ctx == KVI_NO_INT)
        return kvi_error_set(error, KVRT_FORMAT,
                             "config.json: rope_parameters: llama_4_scaling_beta or original_max_position_embeddings "
                             "not found, need them for %s",
                             family->name);
    c->q_growth = (float)rope->q_growth;
    return kvi_config_size("original_max_position_embeddings", rope->original_ctx, 1, KVI_MAX_POSITIONS,
                           &c->q_growth_ctx, error);
}
