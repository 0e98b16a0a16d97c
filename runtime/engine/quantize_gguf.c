/* quantize_gguf.c - see quantize_gguf.h. */
#include "quantize_gguf.h"
#include "../model/rope.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

static bool is(const kvi_engine *e, const char *family) { return strcmp(e->config.family, family) == 0; }

kvrt_status kvi_quantize_gguf_check(const kvi_engine *e, kvrt_error *error)
{
    const kvi_model_config *c = &e->config;
    const char *what = NULL;
    if (!is(e, "llama") && !is(e, "qwen2") && !is(e, "qwen3"))
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "model %s: %s from GGUF, need llama, qwen2 or qwen3; quantize its Hugging Face folder",
                             e->files.path, c->family);
    if (is(e, "llama") && c->qkv_bias != c->o_bias)
        what = "biases of q, k and v without one of the output, or it alone";
    if (!is(e, "llama") && c->o_bias) what = "a bias of attention's output";
    if (is(e, "qwen2") && !c->qkv_bias) what = "q, k and v without biases";
    if (!is(e, "llama") && c->mlp_bias) what = "biases of the feed-forward part";
    if (c->attention[0].window) what = "sliding windows";
    if (c->ropes[0].scaling == KVI_ROPE_YARN) what = "yarn";
    return what ? kvi_error_set(error, KVRT_UNSUPPORTED,
                                "model %s: %s of %s from GGUF, which kvrt quantize cannot write", e->files.path, what,
                                c->family)
                : KVRT_OK;
}

const char *kvi_quantize_gguf_name(const kvi_place *place, uint32_t layer, char *out)
{
    const char *name = place->sources[0].name, *dot = strrchr(name, '.');
    if (layer == KVI_NO_LAYER) (void)snprintf(out, KVI_QUANTIZE_NAME, "%.*s", (int)(dot - name), name);
    else (void)snprintf(out, KVI_QUANTIZE_NAME, "model.layers.%u.%.*s", layer, (int)(dot - name), name);
    return dot + 1;
}

uint32_t kvi_quantize_gguf_turned(const kvi_engine *e, const kvi_place *place)
{
    const size_t s = place->slot;
    const bool turns = s == offsetof(kvi_layer_weights, q) || s == offsetof(kvi_layer_weights, k) ||
                       s == offsetof(kvi_layer_weights, q_bias) || s == offsetof(kvi_layer_weights, k_bias);
    return turns && e->config.ropes[0].interleaved ? e->config.attention[0].head_dim : 0;
}

/* ------------------------------------------------------------------------------------------------------ config --- */
static void add(kvi_buf *out, const char *format, double number)
{
    char line[96];
    (void)snprintf(line, sizeof line, format, number);
    kvi_buf_append_str(out, line);
}

/* Llama 3's scaling is a formula in config.json and its results in GGUF: the published factors are tried. */
static bool is_llama3(const kvi_rope_spec *rope, double factor)
{
    double ours[KVI_MAX_HEAD_DIM / 2], theirs[KVI_MAX_HEAD_DIM / 2];
    kvi_rope_spec tried = *rope;
    tried.scaling = KVI_ROPE_LLAMA3;
    tried.factor = factor, tried.low_freq_factor = 1, tried.high_freq_factor = 4, tried.original_ctx = 8192;
    kvi_rope_frequencies(&tried, ours);
    kvi_rope_frequencies(rope, theirs);
    for (uint32_t i = 0; i < rope->n_dims / 2; i++)
        if (!(fabs(ours[i] - theirs[i]) <= 1e-6 * theirs[i])) return false;
    return true;
}

/* In the words of transformers 4, which those of 5 and everybody else read too. */
static kvrt_status add_rope(const kvi_engine *e, kvi_buf *out, kvrt_error *error)
{
    const kvi_rope_spec *rope = &e->config.ropes[0];
    const double factor = is_llama3(rope, 8) ? 8 : 32;
    add(out, ",\n  \"rope_theta\": %.17g", rope->theta);
    if (rope->scaling == KVI_ROPE_LINEAR)
        add(out, ",\n  \"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": %.17g}", rope->factor);
    if (rope->scaling != KVI_ROPE_DIVISORS) return KVRT_OK;
    if (!is_llama3(rope, factor))
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "model %s: tensor rope_freqs.weight: not Llama 3's factors (8 or 32), which config.json "
                             "has a name for",
                             e->files.path);
    kvi_buf_append_str(out, ",\n  \"rope_scaling\": {\"rope_type\": \"llama3\", \"low_freq_factor\": 1.0, "
                            "\"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8192, ");
    add(out, "\"factor\": %.1f}", factor);
    return KVRT_OK;
}

kvrt_status kvi_quantize_gguf_config(const kvi_engine *e, kvi_buf *out, kvrt_error *error)
{
    const kvi_model_config *c = &e->config;
    const struct {
        const char *key;
        double value;
    } numbers[] = {{"hidden_size", c->hidden_size},
                   {"intermediate_size", c->ffn_size},
                   {"num_hidden_layers", c->n_layers},
                   {"num_attention_heads", c->attention[0].n_heads},
                   {"num_key_value_heads", c->attention[0].n_kv_heads},
                   {"head_dim", c->attention[0].head_dim},
                   {"vocab_size", c->vocab_size},
                   {"max_position_embeddings", c->ctx_model},
                   {"rms_norm_eps", c->rms_eps}};
    char line[200];
    (void)snprintf(line, sizeof line, "{\n  \"architectures\": [\"%s\"],\n  \"model_type\": \"%s\"", c->architecture,
                   c->family);
    kvi_buf_append_str(out, line);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        (void)snprintf(line, sizeof line, ",\n  \"%s\": %.9g", numbers[i].key, numbers[i].value);
        kvi_buf_append_str(out, line);
    }
    KVI_TRY(add_rope(e, out, error));
    kvi_buf_append_str(out, ",\n  \"hidden_act\": \"silu\",\n  \"dtype\": \"bfloat16\"");
    if (!is(e, "qwen2"))
        kvi_buf_append_str(out, c->qkv_bias ? ",\n  \"attention_bias\": true" : ",\n  \"attention_bias\": false");
    if (is(e, "llama")) kvi_buf_append_str(out, c->mlp_bias ? ",\n  \"mlp_bias\": true" : ",\n  \"mlp_bias\": false");
    kvi_buf_append_str(out, c->tied_embeddings ? ",\n  \"tie_word_embeddings\": true"
                                               : ",\n  \"tie_word_embeddings\": false");
    if (c->bos_id >= 0) add(out, ",\n  \"bos_token_id\": %.0f", c->bos_id);
    for (uint32_t i = 0; i < c->n_eos; i++) add(out, i ? ", %.0f" : ",\n  \"eos_token_id\": [%.0f", c->eos_ids[i]);
    if (c->n_eos) kvi_buf_append_str(out, "]");
    return KVRT_OK;
}
