/* config_gemma4.c - what is Gemma 4's alone. Full attention has heads of its own; the last layers read keys and values of earlier ones; each layer
 * may get an input beside the residual; experts may stand beside a dense part. Figures of full attention come from global_head_dim and
 * num_global_key_value_heads, or, as transformers 5 writes them, layer by layer from per_layer_config. */
#include "config_raw.h"

#include <math.h>
#include <string.h>

/* Places of c->attention, as config_layers.c fills them. */
enum { FULL, WINDOWED };

static kvrt_status full_heads(const kvi_raw_config *raw, kvi_model_config *c, kvrt_error *error)
{
    kvi_attention *full = &c->attention[FULL];
    int64_t dim = raw->global_head_dim, kv = raw->attention_k_eq_v ? raw->num_global_key_value_heads : KVI_NO_INT;
    if (raw->has_per_layer) {
        bool fits = !raw->per_layer_problem;
        for (uint32_t i = 0; i < KVI_MAX_LAYERS; i++)
            fits = fits && (raw->per_layer[i] != 0) == (i < c->n_layers && c->layers[i].attention == FULL);
        if (!fits)
            return kvi_error_set(error, KVRT_UNSUPPORTED,
                                 "config.json: per_layer_config: need the same head_dim and num_key_value_heads for "
                                 "each layer with full attention, and for no other");
        dim = raw->layer_head_dim, kv = raw->layer_kv;
    }
    if (dim != KVI_NO_INT)
        KVI_TRY(kvi_config_size("global_head_dim", dim, 8, KVI_MAX_HEAD_DIM, &full->head_dim, error));
    if (kv != KVI_NO_INT) KVI_TRY(kvi_config_size("num_global_key_value_heads", kv, 1, 1024, &full->n_kv_heads, error));
    if (full->head_dim % 8 || full->n_heads % full->n_kv_heads)
        return kvi_error_set(
            error, KVRT_UNSUPPORTED,
            "config.json: full attention has %u heads of %u over %u, need a multiple, of a multiple of 8",
            full->n_heads, full->head_dim, full->n_kv_heads);
    full->keys_as_values = raw->attention_k_eq_v;
    return KVRT_OK;
}

uint32_t kvi_config_share_kv(kvi_model_config *c, uint32_t n)
{
    uint32_t source[KVI_MAX_ATTENTIONS] = {0};
    for (uint32_t i = 0; i < c->n_layers - n; i++) source[c->layers[i].attention] = i + 1;
    for (uint32_t i = c->n_layers - n; i < c->n_layers; i++) {
        if (!source[c->layers[i].attention]) return i + 1;
        c->layers[i].kv_of = (uint16_t)source[c->layers[i].attention];
    }
    return 0;
}

static kvrt_status share(const kvi_raw_config *raw, kvi_model_config *c, kvrt_error *error)
{
    uint32_t n = 0;
    if (raw->num_kv_shared_layers != KVI_NO_INT)
        KVI_TRY(kvi_config_size("num_kv_shared_layers", raw->num_kv_shared_layers, 0, c->n_layers - 1, &n, error));
    const uint32_t lonely = kvi_config_share_kv(c, n);
    if (lonely)
        return kvi_error_set(error, KVRT_FORMAT,
                             "config.json: layer %u shares keys and values (num_kv_shared_layers is %u), but no "
                             "layer of its kind has any",
                             lonely - 1, n);
    for (uint32_t i = c->n_layers - n; i < c->n_layers; i++) c->layers[i].wide = raw->use_double_wide_mlp;
    return KVRT_OK;
}

static kvrt_status experts(const kvi_raw_config *raw, kvi_model_config *c, kvrt_error *error)
{
    kvi_experts *e = &c->experts;
    if (!raw->enable_moe_block) return KVRT_OK;
    KVI_TRY(kvi_config_size("num_experts", raw->num_experts, 1, 4096, &e->n_experts, error));
    KVI_TRY(kvi_config_size("top_k_experts", raw->top_k_experts, 1, KVI_MAX_TOP_K, &e->route.top_k, error));
    KVI_TRY(kvi_config_size("moe_intermediate_size", raw->moe_intermediate_size, 1, 1 << 22, &e->width, error));
    if (e->route.top_k > e->n_experts)
        return kvi_error_set(error, KVRT_FORMAT, "config.json: top_k_experts is %u, need at most %u (num_experts)",
                             e->route.top_k, e->n_experts);
    e->route.score = KVI_ROUTE_SOFTMAX;
    e->route.renormalize = true;
    e->route.scale = 1;
    e->beside_dense = true;
    for (uint32_t i = 0; i < c->n_layers; i++) c->layers[i].ffn = KVI_FFN_ROUTED;
    return KVRT_OK;
}

kvrt_status kvi_config_gemma4(const kvi_raw_config *raw, kvi_model_config *c, kvrt_error *error)
{
    c->layers[c->n_layers - 1].attention = FULL; /* whatever layer_types say */
    KVI_TRY(full_heads(raw, c, error));
    KVI_TRY(share(raw, c, error));
    KVI_TRY(experts(raw, c, error));
    if (raw->hidden_size_per_layer_input == KVI_NO_INT || raw->hidden_size_per_layer_input == 0) return KVRT_OK;
    KVI_TRY(kvi_config_size("hidden_size_per_layer_input", raw->hidden_size_per_layer_input, 1, 1 << 16,
                            &c->layer_input, error));
    /* Every token needs its row. */
    return kvi_config_size("vocab_size_per_layer_input", raw->vocab_size_per_layer_input, c->vocab_size, 1 << 24,
                           &c->layer_input_vocab, error);
}
