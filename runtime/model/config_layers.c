/* config_layers.c - which layer is of which kind: attention with and without a window, recurrent layers. */
#include "config_raw.h"

#include <string.h>

/* Places of c->attention. */
enum { FULL, WINDOWED };

static kvrt_status check_layer_types(const kvi_raw_config *raw, const kvi_family *family, bool has_window,
                                     const kvi_model_config *c, kvrt_error *error)
{
    if (!raw->has_layer_types) return KVRT_OK;
    const bool linear = family->recurrent;
    if (raw->layer_type_problem[0] || (!linear && memchr(raw->layer_types, KVI_LAYER_LINEAR, raw->n_layer_types)))
        return kvi_error_set(error, KVRT_UNSUPPORTED, "config.json: layer_types has '%s', need full_attention or %s",
                             raw->layer_type_problem[0] ? raw->layer_type_problem : "linear_attention",
                             linear ? "linear_attention" : "sliding_attention");
    if (raw->n_layer_types != c->n_layers)
        return kvi_error_set(error, KVRT_FORMAT, "config.json: layer_types has %u entries, need %u (num_hidden_layers)",
                             raw->n_layer_types, c->n_layers);
    if (!has_window && memchr(raw->layer_types, KVI_LAYER_SLIDING, raw->n_layer_types))
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "config.json: layer_types has sliding_attention, but %s has no window here, need "
                             "full_attention",
                             family->name);
    return KVRT_OK;
}

/* Null: none. With a window of 0 transformers fails, with one of 1 its prompts and its steps differ. */
static kvrt_status derive_window(const kvi_raw_config *raw, const kvi_family *family, const kvi_model_config *c,
                                 uint32_t *window, kvrt_error *error)
{
    *window = 0;
    if (raw->sliding_window == KVI_NO_INT || (family->window == KVI_WINDOW_IF_USED && !raw->use_sliding_window))
        return KVRT_OK;
    KVI_TRY(kvi_config_size("sliding_window", raw->sliding_window, 2, INT32_MAX, window, error));
    if (family->window != KVI_WINDOW_NEVER) return KVRT_OK;
    /* transformers cuts the cache of such a model, but not its prompts. Only a window that cuts nothing means one thing. */
    if (*window < c->ctx_model && !raw->has_layer_types)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "config.json: sliding_window is %u, need null or at least %u "
                             "(max_position_embeddings) for %s",
                             *window, c->ctx_model, family->name);
    *window = 0;
    return KVRT_OK;
}

/* Whether a layer has RoPE. */
static bool turns(const kvi_raw_config *raw, uint32_t layer)
{
    if (raw->has_no_rope_layers) return raw->rope_layers[layer];
    return (layer + 1) % (raw->no_rope_layer_interval > 0 ? (uint32_t)raw->no_rope_layer_interval : 4u) != 0;
}

static kvi_layer_type type_of(const kvi_raw_config *raw, const kvi_family *family, uint32_t layer, uint32_t interval)
{
    if (raw->has_layer_types) return (kvi_layer_type)raw->layer_types[layer];
    if (family->recurrent) return (layer + 1) % interval ? KVI_LAYER_LINEAR : KVI_LAYER_FULL;
    /* Without layer_types, Qwen windows the layers from max_window_layers on, and Mistral all of them. */
    bool windowed = family->window == KVI_WINDOW_ALL || (int64_t)layer >= raw->max_window_layers;
    if (family->window == KVI_WINDOW_PATTERN) windowed = (layer + 1) % interval != 0;
    if (family->nope) windowed = !turns(raw, layer);
    return windowed ? KVI_LAYER_SLIDING : KVI_LAYER_FULL;
}

kvrt_status kvi_config_layers(const kvi_raw_config *raw, const kvi_family *family, kvi_model_config *c,
                              kvrt_error *error)
{
    uint32_t window, interval = family->window_pattern ? family->window_pattern : 4;
    KVI_TRY(derive_window(raw, family, c, &window, error));
    KVI_TRY(check_layer_types(raw, family, window > 0, c, error));
    if (raw->full_attention_interval != KVI_NO_INT)
        KVI_TRY(kvi_config_size("full_attention_interval", raw->full_attention_interval, 1, KVI_MAX_LAYERS, &interval,
                                error));
    if (family->window == KVI_WINDOW_PATTERN && raw->sliding_window_pattern != KVI_NO_INT)
        KVI_TRY(kvi_config_size("sliding_window_pattern", raw->sliding_window_pattern, 1, KVI_MAX_LAYERS, &interval,
                                error));
    if (family->nope && raw->has_no_rope_layers && raw->n_no_rope_layers < c->n_layers)
        return kvi_error_set(error, KVRT_FORMAT,
                             "config.json: no_rope_layers has %u entries, need %u (num_hidden_layers)",
                             raw->n_no_rope_layers, c->n_layers);
    c->n_attentions = window ? 2 : 1;
    c->attention[WINDOWED] = c->attention[FULL];
    c->attention[WINDOWED].window = window;
    const uint8_t kinds = (uint8_t)c->n_attentions; /* and as many behind them that do not turn */
    for (uint32_t i = 0; family->nope && i < kinds; i++) {
        c->attention[kinds + i] = c->attention[i];
        c->attention[kinds + i].rope = KVI_NO_ROPE;
        c->n_attentions++;
    }
    for (uint32_t i = 0; i < c->n_layers; i++) {
        const kvi_layer_type type = type_of(raw, family, i, interval);
        c->layers[i] = (kvi_layer){.mixer = type == KVI_LAYER_LINEAR ? KVI_MIXER_RECURRENT
                                            : family->latent         ? KVI_MIXER_LATENT
                                                                     : KVI_MIXER_ATTENTION,
                                   .attention = type == KVI_LAYER_SLIDING && window ? WINDOWED : FULL};
        if (family->nope && !turns(raw, i)) c->layers[i].attention = (uint8_t)(c->layers[i].attention + kinds);
    }
    return KVRT_OK;
}

/* Of several layers (Qwen3.5 has one) each would feed the next. */
kvrt_status kvi_config_look_ahead(kvi_model_config *c, kvrt_error *error)
{
    const kvi_layer *last = &c->layers[c->n_layers - 1];
    if (c->mtp_layers != 1)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "option model.mtp: mtp_num_hidden_layers in config.json is %u, need 1", c->mtp_layers);
    c->layers[c->n_layers] = (kvi_layer){.mixer = KVI_MIXER_ATTENTION, .ffn = last->ffn, .attention = FULL};
    c->n_ahead = 1;
    return KVRT_OK;
}
