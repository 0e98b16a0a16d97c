/* config.c - reads config.json in one pass into raw fields, then derives and checks the model from them. */
#include "config.h"
#include "families.h"
#include "../base/json.h"
#include "../base/os.h"

#include <math.h>
#include <string.h>

#define ABSENT INT64_MIN /* an integer key that is not there, or null */
#define MAX_POSITIONS (1 << 24)

/* Keys as found. */
typedef struct raw_config {
    int64_t hidden_size, intermediate_size, n_layers, n_heads, n_kv_heads, head_dim, vocab_size, max_positions,
        sliding_window;
    int64_t max_window_layers, original_ctx;
    double rms_eps, rope_theta /* NAN absent */, factor, low_freq, high_freq, partial_rotary;
    int use_sliding_window, attention_bias, mlp_bias, tie; /* -1 absent */
    bool has_layer_types, nested_rope, quantized;
    uint32_t n_layer_types;
    uint8_t layer_types[KVI_MAX_LAYERS]; /* 1 = sliding_attention */
    char act[32], rope_type[32], quant[48], layer_type_problem[48];
} raw_config;

/* A string that is too long to be one we know is cut, never dropped: dropped, it would pass for an absent key. */
static void text_value(kvi_json *r, char *out, size_t cap)
{
    out[0] = 0;
    if (!kvi_json_string(r)) return;
    char whole[256];
    if (r->str_len >= sizeof whole) {
        kvi_json_set_error(r, "string of more than 255 bytes");
        return;
    }
    size_t len = kvi_json_str_unescape(r, whole);
    if (memchr(whole, 0, len)) kvi_json_set_error(r, "NUL character in a string");
    if (len >= cap) len = cap - 1;
    memcpy(out, whole, len);
    out[len] = 0;
}

/* An integer key may be null. */
static int64_t int_or_null(kvi_json *r) { return kvi_json_null(r) ? ABSENT : kvi_json_i64(r); }

static void read_rope(kvi_json *r, raw_config *raw)
{
    if (kvi_json_null(r)) return;
    if (!kvi_json_expect(r, KVI_JSON_OBJECT)) return;
    while (kvi_json_next_key(r)) {
        if (kvi_json_key_is(r, "rope_type") || kvi_json_key_is(r, "type"))
            text_value(r, raw->rope_type, sizeof raw->rope_type);
        else if (kvi_json_key_is(r, "rope_theta")) raw->rope_theta = kvi_json_f64(r);
        else if (kvi_json_key_is(r, "factor")) raw->factor = kvi_json_f64(r);
        else if (kvi_json_key_is(r, "low_freq_factor")) raw->low_freq = kvi_json_f64(r);
        else if (kvi_json_key_is(r, "high_freq_factor")) raw->high_freq = kvi_json_f64(r);
        else if (kvi_json_key_is(r, "partial_rotary_factor")) raw->partial_rotary = kvi_json_f64(r);
        else if (kvi_json_key_is(r, "original_max_position_embeddings")) raw->original_ctx = int_or_null(r);
        else {
            if (kvi_json_peek(r) == KVI_JSON_OBJECT) raw->nested_rope = true;
            kvi_json_skip(r);
        }
    }
}

static void read_layer_types(kvi_json *r, raw_config *raw)
{
    if (kvi_json_null(r)) return;
    if (!kvi_json_expect(r, KVI_JSON_ARRAY)) return;
    raw->has_layer_types = true;
    while (kvi_json_next_item(r)) {
        char type[48];
        text_value(r, type, sizeof type);
        bool sliding = strcmp(type, "sliding_attention") == 0;
        if (!sliding && strcmp(type, "full_attention") != 0 && !raw->layer_type_problem[0])
            memcpy(raw->layer_type_problem, type, sizeof type);
        if (raw->n_layer_types < KVI_MAX_LAYERS) raw->layer_types[raw->n_layer_types++] = sliding;
        else kvi_json_set_error(r, "more than 1024 layer_types");
    }
}

/* One id or a list. A dropped end token would make a model talk on, so too many of them is an error. Negative: none. */
static void read_ids(kvi_json *r, int32_t *ids, uint32_t *n)
{
    *n = 0;
    if (kvi_json_null(r)) return;
    bool list = kvi_json_peek(r) == KVI_JSON_ARRAY;
    if (list && !kvi_json_expect(r, KVI_JSON_ARRAY)) return;
    while (!list || kvi_json_next_item(r)) {
        int64_t id = kvi_json_i64(r);
        if (id > INT32_MAX) kvi_json_set_error(r, "token id above 2147483647");
        else if (id >= 0 && *n == KVI_MAX_EOS) kvi_json_set_error(r, "more than 16 token ids");
        else if (id >= 0) ids[(*n)++] = (int32_t)id;
        if (!list || r->error) return;
    }
}

static void read_quantization(kvi_json *r, raw_config *raw)
{
    if (kvi_json_null(r)) return;
    raw->quantized = true;
    memcpy(raw->quant, "unnamed", 8);
    if (!kvi_json_expect(r, KVI_JSON_OBJECT)) return;
    while (kvi_json_next_key(r))
        if (kvi_json_key_is(r, "quant_method")) text_value(r, raw->quant, sizeof raw->quant);
        else kvi_json_skip(r);
}

static void read_architectures(kvi_json *r, kvi_model_config *out)
{
    if (kvi_json_null(r) || !kvi_json_expect(r, KVI_JSON_ARRAY)) return;
    bool first = true;
    while (kvi_json_next_item(r)) {
        if (first) text_value(r, out->architecture, sizeof out->architecture);
        else kvi_json_skip(r);
        first = false;
    }
}

static bool read_size_key(kvi_json *r, raw_config *raw)
{
    struct {
        const char *key;
        int64_t *value;
    } keys[] = {{"hidden_size", &raw->hidden_size},        {"intermediate_size", &raw->intermediate_size},
                {"num_hidden_layers", &raw->n_layers},     {"num_attention_heads", &raw->n_heads},
                {"num_key_value_heads", &raw->n_kv_heads}, {"head_dim", &raw->head_dim},
                {"vocab_size", &raw->vocab_size},          {"max_position_embeddings", &raw->max_positions},
                {"sliding_window", &raw->sliding_window},  {"max_window_layers", &raw->max_window_layers}};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if (kvi_json_key_is(r, keys[i].key)) {
            *keys[i].value = int_or_null(r);
            return true;
        }
    return false;
}

static kvrt_status read_raw(const char *text, size_t len, kvi_model_config *out, raw_config *raw, kvrt_error *error)
{
    kvi_json r;
    uint32_t n_bos = 0;
    int32_t bos[KVI_MAX_EOS];
    kvi_json_init(&r, text, len);
    if (!kvi_json_expect(&r, KVI_JSON_OBJECT)) return kvi_json_fail(&r, "config.json", error);
    while (kvi_json_next_key(&r)) {
        if (read_size_key(&r, raw)) continue;
        if (kvi_json_key_is(&r, "architectures")) read_architectures(&r, out);
        else if (kvi_json_key_is(&r, "rms_norm_eps")) raw->rms_eps = kvi_json_f64(&r);
        else if (kvi_json_key_is(&r, "rope_theta")) raw->rope_theta = kvi_json_f64(&r);
        else if (kvi_json_key_is(&r, "partial_rotary_factor")) raw->partial_rotary = kvi_json_f64(&r);
        else if (kvi_json_key_is(&r, "rope_scaling") || kvi_json_key_is(&r, "rope_parameters")) read_rope(&r, raw);
        else if (kvi_json_key_is(&r, "layer_types")) read_layer_types(&r, raw);
        else if (kvi_json_key_is(&r, "use_sliding_window")) raw->use_sliding_window = kvi_json_bool(&r);
        else if (kvi_json_key_is(&r, "attention_bias")) raw->attention_bias = kvi_json_bool(&r);
        else if (kvi_json_key_is(&r, "mlp_bias")) raw->mlp_bias = kvi_json_bool(&r);
        else if (kvi_json_key_is(&r, "tie_word_embeddings")) raw->tie = kvi_json_bool(&r);
        else if (kvi_json_key_is(&r, "hidden_act")) text_value(&r, raw->act, sizeof raw->act);
        else if (kvi_json_key_is(&r, "quantization_config")) read_quantization(&r, raw);
        else if (kvi_json_key_is(&r, "eos_token_id")) read_ids(&r, out->eos_ids, &out->n_eos);
        else if (kvi_json_key_is(&r, "bos_token_id")) {
            read_ids(&r, bos, &n_bos);
            out->bos_id = n_bos ? bos[0] : -1;
        } else kvi_json_skip(&r);
    }
    return kvi_json_end(&r) ? KVRT_OK : kvi_json_fail(&r, "config.json", error);
}

/* generation_config.json wins for the ids: chat models list several end tokens there. */
static kvrt_status read_generation(const char *text, size_t len, kvi_model_config *out, kvrt_error *error)
{
    kvi_json r;
    kvi_json_init(&r, text, len);
    if (!kvi_json_expect(&r, KVI_JSON_OBJECT)) return kvi_json_fail(&r, "generation_config.json", error);
    while (kvi_json_next_key(&r))
        if (kvi_json_key_is(&r, "eos_token_id")) {
            int32_t ids[KVI_MAX_EOS];
            uint32_t n;
            read_ids(&r, ids, &n);
            if (n) memcpy(out->eos_ids, ids, sizeof ids), out->n_eos = n;
        } else kvi_json_skip(&r);
    return kvi_json_end(&r) ? KVRT_OK : kvi_json_fail(&r, "generation_config.json", error);
}

static kvrt_status size_key(const char *key, int64_t found, int64_t low, int64_t high, uint32_t *out, kvrt_error *error)
{
    if (found == ABSENT)
        return kvi_error_set(error, KVRT_FORMAT, "config.json: %s not found, need %lld..%lld", key, (long long)low,
                             (long long)high);
    if (found < low || found > high)
        return kvi_error_set(error, found < 0 ? KVRT_FORMAT : KVRT_UNSUPPORTED,
                             "config.json: %s is %lld, need %lld..%lld", key, (long long)found, (long long)low,
                             (long long)high);
    *out = (uint32_t)found;
    return KVRT_OK;
}

static kvrt_status derive_sizes(raw_config *raw, kvi_model_config *c, kvrt_error *error)
{
    KVI_TRY(size_key("hidden_size", raw->hidden_size, 1, 1 << 20, &c->hidden_size, error));
    KVI_TRY(size_key("num_hidden_layers", raw->n_layers, 1, KVI_MAX_LAYERS, &c->n_layers, error));
    KVI_TRY(size_key("num_attention_heads", raw->n_heads, 1, 1024, &c->n_heads, error));
    KVI_TRY(size_key("num_key_value_heads", raw->n_kv_heads == ABSENT ? raw->n_heads : raw->n_kv_heads, 1, 1024,
                     &c->n_kv_heads, error));
    KVI_TRY(size_key("intermediate_size", raw->intermediate_size, 1, 1 << 22, &c->ffn_size, error));
    KVI_TRY(size_key("vocab_size", raw->vocab_size, 1, 1 << 24, &c->vocab_size, error));
    KVI_TRY(size_key("max_position_embeddings", raw->max_positions == ABSENT ? 2048 : raw->max_positions, 1,
                     MAX_POSITIONS, &c->ctx_model, error));
    if (c->n_heads % c->n_kv_heads)
        return kvi_error_set(error, KVRT_FORMAT,
                             "config.json: num_attention_heads is %u, need a multiple of num_key_value_heads (%u)",
                             c->n_heads, c->n_kv_heads);
    if (raw->head_dim == ABSENT && c->hidden_size % c->n_heads)
        return kvi_error_set(error, KVRT_FORMAT,
                             "config.json: hidden_size is %u, need a multiple of num_attention_heads (%u) or head_dim",
                             c->hidden_size, c->n_heads);
    KVI_TRY(size_key("head_dim", raw->head_dim == ABSENT ? c->hidden_size / c->n_heads : raw->head_dim, 8, 256,
                     &c->head_dim, error));
    if (c->head_dim % 8)
        return kvi_error_set(error, KVRT_UNSUPPORTED, "config.json: head_dim is %u, need a multiple of 8", c->head_dim);
    return KVRT_OK;
}

static kvrt_status derive_rope(raw_config *raw, kvi_model_config *c, kvrt_error *error)
{
    c->rope_theta = isnan(raw->rope_theta) ? 10000.0 : raw->rope_theta;
    if (!(c->rope_theta > 0)) return kvi_error_set(error, KVRT_FORMAT, "config.json: rope_theta is not above 0");
    if (raw->nested_rope)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "config.json: rope_parameters differ by layer type, need one set for all layers");
    if (raw->partial_rotary != 1.0)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "config.json: partial_rotary_factor is not 1, need full rotary embeddings");
    if (strcmp(raw->rope_type, "default") == 0) return KVRT_OK;
    bool linear = strcmp(raw->rope_type, "linear") == 0;
    if (!linear && strcmp(raw->rope_type, "llama3") != 0)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "config.json: rope scaling type '%s', need default, linear or llama3", raw->rope_type);
    c->rope_factor = raw->factor;
    if (!(raw->factor >= 1))
        return kvi_error_set(error, KVRT_FORMAT,
                             "config.json: rope_scaling.factor is below 1 or absent, need 1 or more");
    if (linear) {
        c->rope_scaling = KVI_ROPE_LINEAR;
        return KVRT_OK;
    }
    c->rope_scaling = KVI_ROPE_LLAMA3;
    c->rope_low_freq_factor = raw->low_freq;
    c->rope_high_freq_factor = raw->high_freq;
    KVI_TRY(size_key("rope_scaling.original_max_position_embeddings", raw->original_ctx, 1, MAX_POSITIONS,
                     &c->rope_original_ctx, error));
    if (!(raw->low_freq > 0 && raw->high_freq > raw->low_freq))
        return kvi_error_set(error, KVRT_FORMAT,
                             "config.json: rope_scaling: need 0 < low_freq_factor < high_freq_factor");
    return KVRT_OK;
}

static kvrt_status derive_window(const raw_config *raw, const kvi_family *family, kvi_model_config *c,
                                 kvrt_error *error)
{
    if (raw->layer_type_problem[0])
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "config.json: layer_types has '%s', need full_attention or sliding_attention",
                             raw->layer_type_problem);
    if (raw->has_layer_types && raw->n_layer_types != c->n_layers)
        return kvi_error_set(error, KVRT_FORMAT, "config.json: layer_types has %u entries, need %u (num_hidden_layers)",
                             raw->n_layer_types, c->n_layers);
    uint32_t window = 0; /* 0 and absent: none */
    if (raw->sliding_window != ABSENT)
        KVI_TRY(size_key("sliding_window", raw->sliding_window, 0, INT32_MAX, &window, error));
    bool on = window > 0 && (family->has_use_window ? raw->use_sliding_window == 1 : family->window_by_default);
    for (uint32_t i = 0; i < c->n_layers; i++) {
        /* Qwen windows the layers from max_window_layers on; Mistral all of them. */
        bool by_rule =
            !family->has_use_window || (int64_t)i >= (raw->max_window_layers == ABSENT ? 28 : raw->max_window_layers);
        c->windowed[i] = on && (raw->has_layer_types ? raw->layer_types[i] != 0 : by_rule);
        if (c->windowed[i]) c->sliding_window = window;
    }
    return KVRT_OK;
}

kvrt_status kvi_config_parse(const char *config, size_t config_len, const char *generation, size_t generation_len,
                             kvi_model_config *out, kvrt_error *error)
{
    raw_config raw = {.hidden_size = ABSENT,
                      .intermediate_size = ABSENT,
                      .n_layers = ABSENT,
                      .n_heads = ABSENT,
                      .n_kv_heads = ABSENT,
                      .head_dim = ABSENT,
                      .vocab_size = ABSENT,
                      .max_positions = ABSENT,
                      .sliding_window = ABSENT,
                      .max_window_layers = ABSENT,
                      .original_ctx = ABSENT,
                      .rms_eps = 1e-6,
                      .rope_theta = NAN,
                      .partial_rotary = 1.0,
                      .use_sliding_window = -1,
                      .attention_bias = -1,
                      .mlp_bias = -1,
                      .tie = -1,
                      .act = "silu",
                      .rope_type = "default"};
    memset(out, 0, sizeof *out);
    out->bos_id = -1;
    KVI_TRY(read_raw(config, config_len, out, &raw, error));
    if (!out->architecture[0])
        return kvi_error_set(error, KVRT_FORMAT, "config.json: no architectures entry, need one of %s",
                             kvi_family_list());
    const kvi_family *family = kvi_family_find(out->architecture);
    if (!family)
        return kvi_error_set(error, KVRT_UNSUPPORTED, "config.json: architecture %s, need one of %s", out->architecture,
                             kvi_family_list());
    out->family = family->name;
    if (raw.quantized)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "config.json: quantization_config (%s), need unquantized F32, F16 or BF16 weights",
                             raw.quant);
    if (strcmp(raw.act, "silu") != 0 && strcmp(raw.act, "swish") != 0)
        return kvi_error_set(error, KVRT_UNSUPPORTED, "config.json: hidden_act is '%s', need silu", raw.act);
    KVI_TRY(derive_sizes(&raw, out, error));
    KVI_TRY(derive_rope(&raw, out, error));
    KVI_TRY(derive_window(&raw, family, out, error));
    out->rms_eps = raw.rms_eps;
    if (!(out->rms_eps > 0 && out->rms_eps < 1))
        return kvi_error_set(error, KVRT_FORMAT, "config.json: rms_norm_eps outside 0..1");
    out->tied_embeddings = raw.tie == 1;
    out->qkv_bias = family->qkv_bias || raw.attention_bias == 1;
    out->o_bias = family->o_bias_follows && raw.attention_bias == 1;
    out->mlp_bias = raw.mlp_bias == 1;
    out->qk_norm = family->qk_norm;
    if (out->mlp_bias) return kvi_error_set(error, KVRT_UNSUPPORTED, "config.json: mlp_bias is true, need false");
    return generation ? read_generation(generation, generation_len, out, error) : KVRT_OK;
}

kvrt_status kvi_config_read(const char *dir, kvi_model_config *out, kvrt_error *error)
{
    memset(out, 0, sizeof *out);
    kvi_buf path = {0};
    kvi_map config = {0}, generation = {0};
    kvi_os_kind kind = kvi_os_path_kind(dir);
    if (kind != KVI_OS_DIRECTORY)
        return kvi_error_set(error, KVRT_IO, "model %s: %s, need a Hugging Face folder", dir,
                             kind == KVI_OS_ABSENT ? "no such file or directory" : "is not a directory");
    kvi_buf_append_str(&path, dir);
    kvi_buf_append_str(&path, "/config.json");
    if (path.failed) return kvi_error_nomem(error, strlen(dir), "path");
    kvrt_status status =
        kvi_os_path_kind(path.data) == KVI_OS_ABSENT
            ? kvi_error_set(error, KVRT_IO, "model %s: no config.json, need a Hugging Face folder", dir)
            : kvi_os_map(path.data, true, &config, error);
    if (status >= KVRT_OK) {
        kvi_buf_clear(&path);
        kvi_buf_append_str(&path, dir);
        kvi_buf_append_str(&path, "/generation_config.json");
        if (path.failed) status = kvi_error_nomem(error, strlen(dir), "path");
        else if (kvi_os_path_kind(path.data) == KVI_OS_FILE) status = kvi_os_map(path.data, true, &generation, error);
    }
    if (status >= KVRT_OK)
        status = kvi_config_parse((const char *)config.data, config.len, (const char *)generation.data, generation.len,
                                  out, error);
    kvi_os_unmap(&config);
    kvi_os_unmap(&generation);
    kvi_buf_free(&path);
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
