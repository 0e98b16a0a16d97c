/* config.c - derives and checks the model from the keys of config.json (config_raw.h), and reads the end tokens of generation_config.json. */
#include "config_raw.h"
#include "../base/folder.h"

#include <math.h>
#include <string.h>

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

kvrt_status kvi_config_size(const char *key, int64_t found, int64_t low, int64_t high, uint32_t *out, kvrt_error *error)
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

static kvrt_status derive_heads(const kvi_raw_config *raw, const kvi_model_config *c, kvi_attention *a,
                                kvrt_error *error)
{
    const int64_t kv = raw->num_key_value_heads == KVI_NO_INT ? raw->num_attention_heads : raw->num_key_value_heads;
    KVI_TRY(kvi_config_size("num_attention_heads", raw->num_attention_heads, 1, 1024, &a->n_heads, error));
    KVI_TRY(kvi_config_size("num_key_value_heads", kv, 1, 1024, &a->n_kv_heads, error));
    if (a->n_heads % a->n_kv_heads)
        return kvi_error_set(error, KVRT_FORMAT,
                             "config.json: num_attention_heads is %u, need a multiple of num_key_value_heads (%u)",
                             a->n_heads, a->n_kv_heads);
    if (raw->head_dim == KVI_NO_INT && c->hidden_size % a->n_heads)
        return kvi_error_set(error, KVRT_FORMAT,
                             "config.json: hidden_size is %u, need a multiple of num_attention_heads (%u) or head_dim",
                             c->hidden_size, a->n_heads);
    const int64_t dim = raw->head_dim == KVI_NO_INT ? c->hidden_size / a->n_heads : raw->head_dim;
    KVI_TRY(kvi_config_size("head_dim", dim, 8, KVI_MAX_HEAD_DIM, &a->head_dim, error));
    if (a->head_dim % 8)
        return kvi_error_set(error, KVRT_UNSUPPORTED, "config.json: head_dim is %u, need a multiple of 8", a->head_dim);
    return KVRT_OK;
}

static kvrt_status derive_sizes(const kvi_raw_config *raw, const kvi_family *family, kvi_model_config *c,
                                kvrt_error *error)
{
    KVI_TRY(kvi_config_size("hidden_size", raw->hidden_size, 1, 1 << 20, &c->hidden_size, error));
    KVI_TRY(kvi_config_size("num_hidden_layers", raw->num_hidden_layers, 1, KVI_MAX_LAYERS, &c->n_layers, error));
    if (family->latent) KVI_TRY(kvi_config_latent(raw, family, c, error));
    else KVI_TRY(derive_heads(raw, c, &c->attention[0], error));
    /* Where all layers are mixtures, it may say nothing of a dense part. */
    const bool no_dense = family->experts != KVI_EXPERTS_NONE && raw->intermediate_size == KVI_NO_INT;
    KVI_TRY(kvi_config_size("intermediate_size", no_dense ? raw->moe_intermediate_size : raw->intermediate_size, 1,
                            1 << 22, &c->ffn_size, error));
    KVI_TRY(kvi_config_size("vocab_size", raw->vocab_size, 1, 1 << 24, &c->vocab_size, error));
    return kvi_config_size("max_position_embeddings", raw->max_position_embeddings, 1, KVI_MAX_POSITIONS, &c->ctx_model,
                           error);
}

/* What an unsupported config says of itself, for inspect. */
static void show_sizes(const kvi_raw_config *raw, kvi_model_config *c)
{
    kvi_attention *a = &c->attention[0];
    const struct {
        int64_t found;
        uint32_t *out;
    } sizes[] = {{raw->hidden_size, &c->hidden_size},
                 {raw->num_hidden_layers, &c->n_layers},
                 {raw->num_attention_heads, &a->n_heads},
                 {raw->num_key_value_heads, &a->n_kv_heads},
                 {raw->intermediate_size, &c->ffn_size},
                 {raw->vocab_size, &c->vocab_size},
                 {raw->max_position_embeddings, &c->ctx_model},
                 {raw->head_dim, &a->head_dim},
                 {raw->sliding_window, &a->window}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        if (sizes[i].found > 0 && sizes[i].found <= UINT32_MAX) *sizes[i].out = (uint32_t)sizes[i].found;
    if (!a->n_kv_heads) a->n_kv_heads = a->n_heads;
    if (!a->head_dim && a->n_heads) a->head_dim = c->hidden_size / a->n_heads;
    const double theta = isnan(raw->parameters.theta) ? raw->rope_theta : raw->parameters.theta;
    if (isfinite(theta)) c->ropes[0].theta = theta;
    c->n_attentions = c->n_ropes = 1;
    c->tied_embeddings = raw->tie_word_embeddings;
}

static kvrt_status derive_activation(const kvi_raw_config *raw, kvi_model_config *c, kvrt_error *error)
{
    static const struct {
        const char *name;
        kvi_activation activation;
    } known[] = {{"silu", KVI_ACT_SILU},
                 {"swish", KVI_ACT_SILU},
                 {"gelu", KVI_ACT_GELU},
                 {"gelu_python", KVI_ACT_GELU},
                 {"gelu_pytorch_tanh", KVI_ACT_GELU_TANH},
                 {"gelu_new", KVI_ACT_GELU_TANH}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(known[i].name, raw->act) == 0) return c->activation = known[i].activation, KVRT_OK;
    return kvi_error_set(error, KVRT_UNSUPPORTED,
                         "config.json: hidden_act is '%s', need silu, gelu or gelu_pytorch_tanh", raw->act);
}

/* Multipliers and caps. Zero would mean none in kvi_model_config, so a file may not have it. */
static kvrt_status derive_factors(const kvi_raw_config *raw, const kvi_family *family, kvi_model_config *c,
                                  kvrt_error *error)
{
    const struct {
        const char *key;
        double value;
        float *out;
    } factors[] = {{"embedding_multiplier", raw->embedding_multiplier, &c->embedding_scale},
                   {"attention_multiplier", raw->attention_multiplier, &c->score_scale},
                   {"residual_multiplier", raw->residual_multiplier, &c->residual_scale},
                   {"logits_scaling", 1 / raw->logits_scaling, &c->logit_scale},
                   {"query_pre_attn_scalar", 1 / sqrt(raw->query_pre_attn_scalar), &c->score_scale},
                   {"attn_logit_softcapping", raw->attn_logit_softcapping, &c->score_softcap},
                   {"final_logit_softcapping", raw->final_logit_softcapping, &c->logit_softcap}};
    for (size_t i = 0; i < sizeof factors / sizeof factors[0]; i++) {
        if (isnan(factors[i].value)) continue;
        *factors[i].out = (float)factors[i].value;
        if (!(*factors[i].out != 0.0f && isfinite(*factors[i].out)) ||
            (factors[i].out == &c->score_softcap && *factors[i].out < 0) ||
            (factors[i].out == &c->logit_softcap && *factors[i].out < 0))
            return kvi_error_set(error, KVRT_UNSUPPORTED, "config.json: %s leads to a factor of %g, need another",
                                 factors[i].key, factors[i].value);
    }
    if (family->root_embedding_scale) {
        c->embedding_scale = (float)sqrt(c->hidden_size);
        c->embedding_scale_narrow = true;
    }
    if (raw->bidirectional[0] && strcmp(raw->bidirectional, "vision") != 0)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "config.json: use_bidirectional_attention is %s, need null or vision (text is causal)",
                             raw->bidirectional);
    return KVRT_OK;
}

/* The members of Granite 4 that have neither Mamba layers (config_layers.c) nor experts: what the others share is their feed-forward part. */
static kvrt_status derive_granite4(const kvi_raw_config *raw, kvi_model_config *c, kvrt_error *error)
{
    if (raw->num_experts != 0)
        return kvi_error_set(error, KVRT_UNSUPPORTED, "config.json: num_local_experts is %lld, need 0 (a dense model)",
                             (long long)raw->num_experts);
    if (!raw->has_layer_types)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "config.json: layer_types not found, which stands for Mamba layers, need full_attention");
    if (strcmp(raw->position_type, "rope") != 0) c->attention[0].rope = KVI_NO_ROPE;
    return kvi_config_size("shared_intermediate_size", raw->shared_intermediate_size, 1, 1 << 22, &c->ffn_size, error);
}

static kvrt_status derive(const kvi_raw_config *raw, const kvi_family *family, kvi_model_config *out, kvrt_error *error)
{
    KVI_TRY(derive_activation(raw, out, error));
    out->attention[0] = (kvi_attention){0};
    KVI_TRY(derive_sizes(raw, family, out, error));
    if (family->granite4) KVI_TRY(derive_granite4(raw, out, error));
    KVI_TRY(kvi_config_layers(raw, family, out, error));
    if (family->gemma4) KVI_TRY(kvi_config_gemma4(raw, out, error));
    else if (raw->has_per_layer)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "config.json: per_layer_config is {...}, need null (the default of %s)", family->name);
    KVI_TRY(kvi_config_rope(raw, family, out, error));
    KVI_TRY(kvi_config_delta(raw, out, error));
    KVI_TRY(kvi_config_experts(raw, family, out, error));
    if (raw->mtp_num_hidden_layers > 0)
        KVI_TRY(kvi_config_size("mtp_num_hidden_layers", raw->mtp_num_hidden_layers, 0, 64, &out->mtp_layers, error));
    out->rms_eps = raw->rms_norm_eps;
    if (!(out->rms_eps > 0 && out->rms_eps < 1))
        return kvi_error_set(error, KVRT_FORMAT, "config.json: rms_norm_eps outside 0..1");
    out->tied_embeddings = raw->tie_word_embeddings;
    out->mlp_bias = raw->mlp_bias;
    kvi_family_apply(family, out);
    KVI_TRY(derive_factors(raw, family, out, error));
    if (family->latent) kvi_config_latent_scale(raw, out);
    if (family->latent) out->ropes[0].interleaved = family->rope_pairs || raw->rope_interleave;
    if (raw->use_qk_norm) out->qk_norm = KVI_QK_NORM_HEAD;
    out->qkv_bias = out->qkv_bias || raw->attention_bias || raw->qkv_bias;
    out->o_bias = out->o_bias || (raw->attention_bias && !family->no_o_bias);
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
    kvi_os_unmap(&config);
    kvi_os_unmap(&generation);
    return status;
}
