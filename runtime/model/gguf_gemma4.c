/* gguf_gemma4.c - what is Gemma 4's alone in GGUF files, as config_gemma4.c does for folders. attention.key_length is that of full attention,
 * key_length_swa that of windows; figures that differ by layer are lists; that values are made of keys is seen by the missing tensor. */
#include "gguf_reading.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FULL, WINDOWED }; /* places of c->attention */

/* The value of the layers of one kind, which must be one. */
static kvrt_status of_kind(const kvi_gguf_reading *r, const char *name, const uint32_t *list, uint8_t kind,
                           uint32_t *out)
{
    uint32_t first = UINT32_MAX;
    for (uint32_t i = 0; i < r->c->n_layers; i++) {
        if (r->c->layers[i].attention != kind) continue;
        if (first != UINT32_MAX && list[i] != first)
            return kvi_error_set(r->error, KVRT_UNSUPPORTED,
                                 "%s: %s: %u in layer %u, need %u as in others of its kind (%s)", r->file, name,
                                 list[i], i, first, kind == FULL ? "full attention" : "windows");
        first = list[i];
    }
    if (first != UINT32_MAX) *out = first;
    return KVRT_OK;
}

static kvrt_status heads(const kvi_gguf_reading *r)
{
    kvi_model_config *c = r->c;
    uint32_t kv[KVI_MAX_LAYERS], value;
    bool listed = false;
    KVI_TRY(kvi_gguf_windows(r, r->family->window_pattern));
    if (c->n_attentions < 2)
        return kvi_error_set(r->error, KVRT_FORMAT, "%s: attention.sliding_window: not found, need it for %s", r->file,
                             r->family->name);
    kvi_attention *full = &c->attention[FULL], *windowed = &c->attention[WINDOWED];
    KVI_TRY(kvi_gguf_read_u32(r, "attention.key_length_swa", KVI_GGUF_OPTIONAL, &windowed->head_dim));
    value = windowed->head_dim;
    KVI_TRY(kvi_gguf_read_u32(r, "attention.value_length_swa", KVI_GGUF_OPTIONAL, &value));
    KVI_TRY(kvi_gguf_read_blocks(r, "attention.head_count_kv", kv, &listed));
    if (listed) {
        KVI_TRY(of_kind(r, "attention.head_count_kv", kv, FULL, &full->n_kv_heads));
        KVI_TRY(of_kind(r, "attention.head_count_kv", kv, WINDOWED, &windowed->n_kv_heads));
    }
    for (uint32_t kind = FULL; kind <= WINDOWED; kind++)
        if (c->attention[kind].n_kv_heads == 0 || c->attention[kind].n_heads % c->attention[kind].n_kv_heads ||
            c->attention[kind].head_dim < 8 || c->attention[kind].head_dim > KVI_MAX_HEAD_DIM ||
            c->attention[kind].head_dim % 8)
            return kvi_error_set(r->error, KVRT_UNSUPPORTED,
                                 "%s: %u heads of %u over %u (attention.head_count, attention.key_length%s, "
                                 "attention.head_count_kv), need a multiple, of a multiple of 8 up to %u",
                                 r->file, c->attention[kind].n_heads, c->attention[kind].head_dim,
                                 c->attention[kind].n_kv_heads, kind == FULL ? "" : "_swa", KVI_MAX_HEAD_DIM);
    if (value != windowed->head_dim)
        return kvi_error_set(r->error, KVRT_UNSUPPORTED,
                             "%s: attention.value_length_swa: is %u, need %u (key_length_swa)", r->file, value,
                             windowed->head_dim);
    for (uint32_t i = 0; i < c->n_layers; i++)
        if (c->layers[i].attention == FULL && kvi_gguf_layer_tensor(r, i, "attn_k.weight") &&
            !kvi_gguf_layer_tensor(r, i, "attn_v.weight"))
            full->keys_as_values = true;
    return KVRT_OK;
}

/* rope_freqs.weight, read before, stops what does not turn in full attention; windows have a set of their own. */
static kvrt_status ropes(const kvi_gguf_reading *r)
{
    kvi_model_config *c = r->c;
    double theta = r->family->window_theta;
    uint32_t n_dims = c->attention[WINDOWED].head_dim;
    KVI_TRY(kvi_gguf_read_f64(r, "rope.freq_base_swa", &theta));
    KVI_TRY(kvi_gguf_read_u32(r, "rope.dimension_count_swa", KVI_GGUF_OPTIONAL, &n_dims));
    if (!(theta >= 1) || n_dims != c->attention[WINDOWED].head_dim)
        return kvi_error_set(r->error, KVRT_UNSUPPORTED,
                             "%s: rope.freq_base_swa is %g and rope.dimension_count_swa %u, need 1 or more and %u",
                             r->file, theta, n_dims, c->attention[WINDOWED].head_dim);
    c->n_ropes = 2;
    c->ropes[1] = (kvi_rope_spec){.n_dims = n_dims, .theta = theta};
    c->attention[WINDOWED].rope = 1;
    return KVRT_OK;
}

/* The last layers read keys and values of earlier ones, and may be twice as wide. */
static kvrt_status shared_layers(const kvi_gguf_reading *r)
{
    kvi_model_config *c = r->c;
    uint32_t n = 0, width[KVI_MAX_LAYERS];
    bool listed = false;
    KVI_TRY(kvi_gguf_read_u32(r, "attention.shared_kv_layers", KVI_GGUF_OPTIONAL, &n));
    if (n >= c->n_layers)
        return kvi_error_set(r->error, KVRT_FORMAT, "%s: attention.shared_kv_layers: is %u, need less than %u", r->file,
                             n, c->n_layers);
    const uint32_t lonely = kvi_config_share_kv(c, n);
    if (lonely)
        return kvi_error_set(r->error, KVRT_FORMAT,
                             "%s: attention.shared_kv_layers: is %u, but no layer of the kind of layer %u has keys",
                             r->file, n, lonely - 1);
    KVI_TRY(kvi_gguf_read_blocks(r, "feed_forward_length", width, &listed));
    for (uint32_t i = 0; listed && i < c->n_layers; i++) {
        c->layers[i].wide = width[i] == 2 * c->ffn_size;
        if (width[i] != kvi_ffn_size(c, i))
            return kvi_error_set(r->error, KVRT_UNSUPPORTED,
                                 "%s: feed_forward_length: %u in layer %u, need %u (the first) or twice that", r->file,
                                 width[i], i, c->ffn_size);
    }
    return KVRT_OK;
}

static kvrt_status inputs(const kvi_gguf_reading *r)
{
    static const char name[] = "per_layer_token_embd.weight";
    kvi_model_config *c = r->c;
    KVI_TRY(kvi_gguf_read_u32(r, "embedding_length_per_layer_input", KVI_GGUF_OPTIONAL, &c->layer_input));
    if (c->layer_input == 0) return KVRT_OK;
    const kvi_gguf_tensor *t = kvi_gguf_tensor_find(r->g, name);
    if (c->layer_input > 1 << 16 || !t || t->n_dims != 2 || t->shape[0] < c->vocab_size || t->shape[0] > 1 << 24)
        return kvi_error_set(
            r->error, KVRT_FORMAT,
            "%s: embedding_length_per_layer_input is %u, need at most %d, and tensor %s with a row for "
            "each of %u tokens",
            r->file, c->layer_input, 1 << 16, name, c->vocab_size);
    c->layer_input_vocab = (uint32_t)t->shape[0];
    return KVRT_OK;
}

kvrt_status kvi_gguf_gemma4(const kvi_gguf_reading *r)
{
    kvi_model_config *c = r->c;
    double cap = 0;
    c->activation = KVI_ACT_GELU_TANH;
    c->embedding_scale = (float)sqrt(c->hidden_size);
    c->embedding_scale_narrow = true; /* as a folder of the same type */
    c->layer_scalar = kvi_gguf_layer_tensor(r, 0, "layer_output_scale.weight") != NULL;
    KVI_TRY(kvi_gguf_read_f64(r, "final_logit_softcapping", &cap));
    c->logit_softcap = (float)cap;
    KVI_TRY(heads(r));
    KVI_TRY(ropes(r));
    KVI_TRY(shared_layers(r));
    return inputs(r);
}
