/* config.c - derives and checks the model from the keys of config.json (config_raw.h), and reads the end tokens of generation_config.json. */
#include "config_raw.h"
#include "../base/folder.h"

#include <math.h>
#include <string.h>

#define MAX_POSITIONS (1 << 24)

/* generation_config.json wins for the ids: chat models list several end tokens there. */
static kvrt_status read_generation(const char *text, size_t len, kvi_model_config *out, kvrt_error *error)
{
    kvi_json r;
    kvi_json_init(&r, text, len);
    r.python = true;
    if (!kvi_json_expect(&r, KVI_JSON_OBJECT)) return kvi_json_fail(&r, "generation_config.json", error);
    while (kvi_json_next_key(&r))
        if (kvi_json_key_is(&r, "eos_token_id")) {
            int32_t ids[KVI_MAX_EOS];
            uint32_t n;
            kvi_config_read_ids(&r, ids, &n);
            if (n) memcpy(out->eos_ids, ids, sizeof ids), out->n_eos = n;
        } else kvi_json_skip(&r);
    return kvi_json_end(&r) ? KVRT_OK : kvi_json_fail(&r, "generation_config.json", error);
}

static kvrt_status size_key(const char *key, int64_t found, int64_t low, int64_t high, uint32_t *out, kvrt_error *error)
{
    if (found == KVI_NO_INT)
        return kvi_error_set(error, KVRT_FORMAT, "config.json: %s not found, need %lld..%lld", key, (long long)low,
                             (long long)high);
    if (found < low || found > high)
        return kvi_error_set(error, found < 0 ? KVRT_FORMAT : KVRT_UNSUPPORTED,
                             "config.json: %s is %lld, need %lld..%lld", key, (long long)found, (long long)low,
                             (long long)high);
    *out = (uint32_t)found;
    return KVRT_OK;
}

static kvrt_status derive_sizes(const kvi_raw_config *raw, kvi_model_config *c, kvrt_error *error)
{
    KVI_TRY(size_key("hidden_size", raw->hidden_size, 1, 1 << 20, &c->hidden_size, error));
    KVI_TRY(size_key("num_hidden_layers", raw->n_layers, 1, KVI_MAX_LAYERS, &c->n_layers, error));
    KVI_TRY(size_key("num_attention_heads", raw->n_heads, 1, 1024, &c->n_heads, error));
    KVI_TRY(size_key("num_key_value_heads", raw->n_kv_heads == KVI_NO_INT ? raw->n_heads : raw->n_kv_heads, 1, 1024,
                     &c->n_kv_heads, error));
    KVI_TRY(size_key("intermediate_size", raw->intermediate_size, 1, 1 << 22, &c->ffn_size, error));
    KVI_TRY(size_key("vocab_size", raw->vocab_size, 1, 1 << 24, &c->vocab_size, error));
    KVI_TRY(size_key("max_position_embeddings", raw->max_positions, 1, MAX_POSITIONS, &c->ctx_model, error));
    if (c->n_heads % c->n_kv_heads)
        return kvi_error_set(error, KVRT_FORMAT,
                             "config.json: num_attention_heads is %u, need a multiple of num_key_value_heads (%u)",
                             c->n_heads, c->n_kv_heads);
    if (raw->head_dim == KVI_NO_INT && c->hidden_size % c->n_heads)
        return kvi_error_set(error, KVRT_FORMAT,
                             "config.json: hidden_size is %u, need a multiple of num_attention_heads (%u) or head_dim",
                             c->hidden_size, c->n_heads);
    KVI_TRY(size_key("head_dim", raw->head_dim == KVI_NO_INT ? c->hidden_size / c->n_heads : raw->head_dim, 8, 256,
                     &c->head_dim, error));
    if (c->head_dim % 8)
        return kvi_error_set(error, KVRT_UNSUPPORTED, "config.json: head_dim is %u, need a multiple of 8", c->head_dim);
    return KVRT_OK;
}

static kvrt_status derive_scaling(const kvi_raw_config *raw, const kvi_raw_rope *rope, const char *type,
                                  kvi_model_config *c, kvrt_error *error)
{
    bool linear = strcmp(type, "linear") == 0;
    if (!linear && strcmp(type, "llama3") != 0)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "config.json: rope scaling type '%s', need default, linear or llama3", type);
    c->rope_factor = rope->factor;
    if (!(rope->factor >= 1))
        return kvi_error_set(error, KVRT_FORMAT,
                             "config.json: rope_scaling.factor is below 1 or absent, need 1 or more");
    c->rope_scaling = linear ? KVI_ROPE_LINEAR : KVI_ROPE_LLAMA3;
    if (linear) return KVRT_OK;
    c->rope_low_freq_factor = rope->low_freq;
    c->rope_high_freq_factor = rope->high_freq;
    if (!(rope->low_freq > 0 && rope->high_freq > rope->low_freq && isfinite(rope->high_freq)))
        return kvi_error_set(error, KVRT_FORMAT,
                             "config.json: rope_scaling: need 0 < low_freq_factor < high_freq_factor");
    /* transformers prefers the key of the whole config, then that of the scaling, then the length of the model. */
    int64_t original = raw->original_ctx != KVI_NO_INT    ? raw->original_ctx
                       : rope->original_ctx != KVI_NO_INT ? rope->original_ctx
                                                          : raw->max_positions;
    return size_key("original_max_position_embeddings", original, 1, MAX_POSITIONS, &c->rope_original_ctx, error);
}

/* As transformers standardizes them: rope_scaling replaces rope_parameters as a whole, and its own rope_theta and partial_rotary_factor win
 * over those beside it. */
static kvrt_status derive_rope(const kvi_raw_config *raw, kvi_model_config *c, kvrt_error *error)
{
    const kvi_raw_rope *rope = raw->scaling.filled ? &raw->scaling : &raw->parameters;
    double theta = !isnan(rope->theta) ? rope->theta : raw->rope_theta;
    double partial = !isnan(rope->partial_rotary) ? rope->partial_rotary : raw->partial_rotary;
    c->rope_theta = isnan(theta) ? 10000.0 : theta;
    /* Below 1 the angles grow with the dimension until float32, in which transformers takes them, has no digit left. */
    if (!(c->rope_theta >= 1))
        return kvi_error_set(error, KVRT_FORMAT, "config.json: rope_theta below 1, need 1 or more");
    if (rope->nested)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "config.json: rope_parameters differ by layer type, need one set for all layers");
    if (!isnan(partial) && partial != 1.0)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "config.json: partial_rotary_factor is not 1, need full rotary embeddings");
    const char *type = rope->rope_type[0] ? rope->rope_type : rope->type[0] ? rope->type : "default";
    return strcmp(type, "default") == 0 ? KVRT_OK : derive_scaling(raw, rope, type, c, error);
}

static kvrt_status check_layer_types(const kvi_raw_config *raw, const kvi_family *family, bool on,
                                     const kvi_model_config *c, kvrt_error *error)
{
    if (!raw->has_layer_types) return KVRT_OK;
    if (raw->layer_type_problem[0])
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "config.json: layer_types has '%s', need full_attention or sliding_attention",
                             raw->layer_type_problem);
    if (raw->n_layer_types != c->n_layers)
        return kvi_error_set(error, KVRT_FORMAT, "config.json: layer_types has %u entries, need %u (num_hidden_layers)",
                             raw->n_layer_types, c->n_layers);
    if (!on && memchr(raw->layer_types, 1, raw->n_layer_types))
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "config.json: layer_types has sliding_attention, but %s has no window here, need "
                             "full_attention",
                             family->name);
    return KVRT_OK;
}

/* Null: none. With a window of 0 transformers fails, with one of 1 its prompts and its steps differ. */
static kvrt_status derive_window(const kvi_raw_config *raw, const kvi_family *family, kvi_model_config *c,
                                 kvrt_error *error)
{
    bool on = raw->sliding_window != KVI_NO_INT && (family->window != KVI_WINDOW_IF_USED || raw->use_sliding_window);
    uint32_t window = 0;
    if (on) KVI_TRY(size_key("sliding_window", raw->sliding_window, 2, INT32_MAX, &window, error));
    if (family->window == KVI_WINDOW_NEVER) {
        /* transformers cuts the cache of such a model, but not its prompts. Only a window that cuts nothing means one thing. */
        if (on && window < c->ctx_model && !raw->has_layer_types)
            return kvi_error_set(error, KVRT_UNSUPPORTED,
                                 "config.json: sliding_window is %u, need null or at least %u "
                                 "(max_position_embeddings) for %s",
                                 window, c->ctx_model, family->name);
        on = false;
    }
    KVI_TRY(check_layer_types(raw, family, on, c, error));
    for (uint32_t i = 0; on && i < c->n_layers; i++) {
        /* Without layer_types, Qwen windows the layers from max_window_layers on, and Mistral all of them. */
        bool by_rule = family->window == KVI_WINDOW_ALL || (int64_t)i >= raw->max_window_layers;
        const bool windowed = raw->has_layer_types ? raw->layer_types[i] != 0 : by_rule;
        c->mixer[i] = windowed ? KVI_MIXER_WINDOW : KVI_MIXER_ATTENTION;
        if (windowed) c->sliding_window = window;
    }
    return KVRT_OK;
}

static kvrt_status refuse_quantized(const kvi_raw_config *raw, kvrt_error *error)
{
    if (!raw->quant_key[0]) return KVRT_OK;
    if (raw->quant_bits == KVI_NO_INT)
        return kvi_error_set(error, KVRT_UNSUPPORTED, "config.json: %s (%s), need unquantized F32, F16 or BF16 weights",
                             raw->quant_key, raw->quant_method);
    bool mlx = strcmp(raw->quant_key, "quantization") == 0;
    return kvi_error_set(error, KVRT_UNSUPPORTED,
                         "config.json: %s (%s, %lld bits), need unquantized F32, F16 or BF16 weights", raw->quant_key,
                         mlx ? "MLX" : raw->quant_method, (long long)raw->quant_bits);
}

/* What an unsupported config says of itself, for inspect. */
static void show_sizes(const kvi_raw_config *raw, kvi_model_config *c)
{
    const struct {
        int64_t found;
        uint32_t *out;
    } sizes[] = {{raw->hidden_size, &c->hidden_size},
                 {raw->n_layers, &c->n_layers},
                 {raw->n_heads, &c->n_heads},
                 {raw->n_kv_heads, &c->n_kv_heads},
                 {raw->intermediate_size, &c->ffn_size},
                 {raw->vocab_size, &c->vocab_size},
                 {raw->max_positions, &c->ctx_model},
                 {raw->head_dim, &c->head_dim},
                 {raw->sliding_window, &c->sliding_window}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        if (sizes[i].found > 0 && sizes[i].found <= UINT32_MAX) *sizes[i].out = (uint32_t)sizes[i].found;
    if (!c->n_kv_heads) c->n_kv_heads = c->n_heads;
    if (!c->head_dim && c->n_heads) c->head_dim = c->hidden_size / c->n_heads;
    const double theta = isnan(raw->parameters.theta) ? raw->rope_theta : raw->parameters.theta;
    if (isfinite(theta)) c->rope_theta = theta;
    c->tied_embeddings = raw->tie;
}

static kvrt_status derive(const kvi_raw_config *raw, const kvi_family *family, kvi_model_config *out, kvrt_error *error)
{
    KVI_TRY(refuse_quantized(raw, error));
    if (strcmp(raw->act, "silu") != 0 && strcmp(raw->act, "swish") != 0)
        return kvi_error_set(error, KVRT_UNSUPPORTED, "config.json: hidden_act is '%s', need silu", raw->act);
    KVI_TRY(derive_sizes(raw, out, error));
    out->sliding_window = 0;
    KVI_TRY(derive_rope(raw, out, error));
    KVI_TRY(derive_window(raw, family, out, error));
    out->rms_eps = raw->rms_eps;
    if (!(out->rms_eps > 0 && out->rms_eps < 1))
        return kvi_error_set(error, KVRT_FORMAT, "config.json: rms_norm_eps outside 0..1");
    out->tied_embeddings = raw->tie;
    out->qkv_bias = family->qkv_bias || raw->attention_bias;
    out->o_bias = raw->attention_bias;
    out->qk_norm = family->qk_norm;
    if (raw->mlp_bias) return kvi_error_set(error, KVRT_UNSUPPORTED, "config.json: mlp_bias is true, need false");
    return KVRT_OK;
}

kvrt_status kvi_config_parse(const char *config, size_t config_len, const char *generation, size_t generation_len,
                             kvi_model_config *out, kvrt_error *error)
{
    const kvi_family *family;
    kvi_raw_config raw;
    memset(out, 0, sizeof *out);
    kvrt_status status = kvi_config_find_family(config, config_len, out, &family, error);
    if (family) out->family = family->name;
    kvrt_status read = kvi_config_read_keys(config, config_len, status < KVRT_OK ? NULL : family, out, &raw,
                                            status < KVRT_OK ? NULL : error);
    show_sizes(&raw, out);
    KVI_TRY(status);
    KVI_TRY(read);
    KVI_TRY(derive(&raw, family, out, error));
    return generation ? read_generation(generation, generation_len, out, error) : KVRT_OK;
}

kvrt_status kvi_config_check_folder(const char *path, kvrt_error *error)
{
    static const char need[] =
        "need a Hugging Face folder (config.json, model.safetensors, tokenizer.json) or a GGUF file";
    const kvi_os_kind kind = kvi_os_path_kind(path);
    if (kind == KVI_OS_DIRECTORY) return KVRT_OK;
    if (kind == KVI_OS_ABSENT)
        return kvi_error_set(error, KVRT_IO, "model %s: no such file or directory, %s", path, need);
    return kvi_error_set(error, KVRT_IO, "model %s: is not a directory, %s", path, need);
}

static kvrt_status no_config(const char *dir, kvrt_error *error)
{
    static const struct {
        const char *file, *found;
    } others[] = {
        {"adapter_config.json", "an adapter (adapter_config.json), need the model with the adapter merged into it"},
        {"params.json", "Meta's or Mistral's own layout (params.json), need the Hugging Face one"}};
    char gguf[256];
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (kvi_folder_has(dir, others[i].file))
            return kvi_error_set(error, KVRT_UNSUPPORTED, "model %s: no config.json, found %s", dir, others[i].found);
    if (kvi_os_find_suffix(dir, ".gguf", gguf, sizeof gguf))
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "model %s: no config.json, found the GGUF file %s: name the file itself", dir, gguf);
    return kvi_error_set(error, KVRT_IO, "model %s: no config.json, need a Hugging Face folder", dir);
}

/* GPTQ and AWQ folders of before quantization_config keep its keys in a file of their own. */
static kvrt_status refuse_old_quantized(const char *dir, kvrt_error *error)
{
    static const char *const files[] = {"quantize_config.json", "quant_config.json"};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        if (kvi_folder_has(dir, files[i]))
            return kvi_error_set(
                error, KVRT_UNSUPPORTED,
                "%s: found beside config.json (a GPTQ or AWQ model), need unquantized F32, F16 or BF16 "
                "weights",
                files[i]);
    return KVRT_OK;
}

kvrt_status kvi_config_read(const char *dir, kvi_model_config *out, kvrt_error *error)
{
    memset(out, 0, sizeof *out);
    kvi_map config = {0}, generation = {0};
    bool has_config = false, has_generation = false;
    KVI_TRY(kvi_config_check_folder(dir, error));
    kvrt_status status = kvi_folder_map(dir, "config.json", true, &config, &has_config, error);
    if (status >= KVRT_OK && !has_config) status = no_config(dir, error);
    if (status >= KVRT_OK)
        status = kvi_folder_map(dir, "generation_config.json", true, &generation, &has_generation, error);
    if (status >= KVRT_OK)
        status = kvi_config_parse((const char *)config.data, config.len,
                                  has_generation ? (const char *)generation.data : NULL, generation.len, out, error);
    if (status >= KVRT_OK) status = refuse_old_quantized(dir, error);
    kvi_os_unmap(&config);
    kvi_os_unmap(&generation);
    return status;
}

uint64_t kvi_config_params(const kvi_model_config *c)
{
    uint64_t h = c->hidden_size, q = (uint64_t)c->n_heads * c->head_dim, kv = (uint64_t)c->n_kv_heads * c->head_dim;
    uint64_t layer = h * (q + 2 * kv) + q * h + 3 * h * c->ffn_size + 2 * h;
    if (c->qkv_bias) layer += q + 2 * kv;
    if (c->o_bias) layer += h;
    if (c->qk_norm) layer += 2u * c->head_dim;
    return layer * c->n_layers + h + h * c->vocab_size * (c->tied_embeddings ? 1u : 2u);
}
