/* gguf_config.c - the configuration of a model from the metadata and the list of tensors of a GGUF file. */
#include "gguf_reading.h"
#include "places.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef kvi_gguf_reading reading;
typedef kvi_gguf_key key_name;

/* llama.cpp's name of an architecture, the family it is, and whether its rotated pairs are neighbours. */
static const struct {
    const char *theirs, *family;
    bool interleaved;
} architectures[] = {{"llama", "llama", true},
                     {"qwen2", "qwen2", false},
                     {"qwen3", "qwen3", false},
                     {"gemma2", "gemma2", false},
                     {"gemma3", "gemma3_text", false},
                     {"gemma4", "gemma4_text", false},
                     {"phi3", "phi3", false},
                     {"smollm3", "smollm3", true},
                     {"granite", "granite", true},
                     {"granitemoe", "granitemoe", true},
                     {"olmo2", "olmo2", false},
                     {"olmoe", "olmoe", false},
                     {"mistral3", "ministral3", true},
                     {"qwen2moe", "qwen2_moe", false},
                     {"qwen3moe", "qwen3_moe", false},
                     {"qwen35", "qwen3_5_text", false},
                     {"qwen35moe", "qwen3_5_moe_text", false},
                     {"qwen3next", "qwen3_next", false},
                     {"glm4moe", "glm4_moe", false},
                     {"gpt-oss", "gpt_oss", false},
                     {"deepseek2", "deepseek_v2", true}};

static const char *key(const reading *r, key_name *out, const char *name) { return kvi_gguf_key_of(r, out, name); }

/* ------------------------------------------------------------------------------------------------------- lists --- */
kvrt_status kvi_gguf_read_blocks(const reading *r, const char *name, uint32_t *out, bool *found)
{
    key_name full;
    const kvi_gguf_value *v = kvi_gguf_find(r->g, key(r, &full, name));
    uint32_t one = 0;
    *found = v != NULL;
    if (!v) return KVRT_OK;
    const bool bools = v->kind == KVI_GGUF_KIND_BOOL;
    if (!v->is_array) {
        KVI_TRY(kvi_gguf_u32(r->g, full.text, KVI_GGUF_REQUIRED, &one, r->error));
        for (uint32_t i = 0; i < r->n_blocks; i++) out[i] = one;
        return KVRT_OK;
    }
    if ((!bools && v->kind != KVI_GGUF_KIND_I32 && v->kind != KVI_GGUF_KIND_U32) || v->n < r->n_blocks)
        return kvi_error_set(r->error, KVRT_FORMAT, "%s: key %s: is %llu of %s, need %u numbers or bools (block_count)",
                             r->file, full.text, (unsigned long long)v->n, kvi_gguf_kind_name(v->kind), r->n_blocks);
    for (uint32_t i = 0; i < r->n_blocks; i++) out[i] = bools ? v->at[i] : (uint32_t)kvi_gguf_i32_at(v, i);
    return KVRT_OK;
}

kvrt_status kvi_gguf_read_same(const reading *r, const char *name, kvi_gguf_need need, uint32_t *out)
{
    uint32_t list[KVI_MAX_LAYERS];
    key_name full;
    bool found;
    const kvi_gguf_value *v = kvi_gguf_find(r->g, key(r, &full, name));
    if (!v || !v->is_array) return kvi_gguf_read_u32(r, name, need, out);
    KVI_TRY(kvi_gguf_read_blocks(r, name, list, &found));
    for (uint32_t i = 1; i < r->c->n_layers; i++)
        if (list[i] != list[0] && !(r->family && r->family->gemma4))
            return kvi_error_set(r->error, KVRT_UNSUPPORTED, "%s: key %s: %u in layer %u, need %u as in the first",
                                 r->file, full.text, list[i], i, list[0]);
    *out = list[0];
    return KVRT_OK;
}

const kvi_gguf_tensor *kvi_gguf_layer_tensor(const reading *r, uint32_t layer, const char *name)
{
    char full[128];
    (void)snprintf(full, sizeof full, "blk.%u.%s", layer, name);
    return kvi_gguf_tensor_find(r->g, full);
}

/* ------------------------------------------------------------------------------------------------------- sizes --- */
static kvrt_status size(const reading *r, const char *name, uint32_t low, uint32_t high, uint32_t *out)
{
    uint32_t found = 0;
    key_name full;
    KVI_TRY(kvi_gguf_read_same(r, name, KVI_GGUF_REQUIRED, &found));
    if (found < low || found > high)
        return kvi_error_set(r->error, KVRT_UNSUPPORTED, "%s: key %s: is %u, need %u..%u", r->file, key(r, &full, name),
                             found, low, high);
    *out = found;
    return KVRT_OK;
}

static kvrt_status head_sizes(const reading *r)
{
    kvi_model_config *c = r->c;
    uint32_t value_length, rotated;
    c->attention[0].n_kv_heads = c->attention[0].n_heads;
    KVI_TRY(kvi_gguf_read_same(r, "attention.head_count_kv", KVI_GGUF_OPTIONAL, &c->attention[0].n_kv_heads));
    if (c->attention[0].n_kv_heads == 0 || c->attention[0].n_heads % c->attention[0].n_kv_heads)
        return kvi_error_set(r->error, KVRT_FORMAT,
                             "%s: %u heads in groups of attention.head_count_kv %u, need a divisor", r->file,
                             c->attention[0].n_heads, c->attention[0].n_kv_heads);
    c->attention[0].head_dim = c->hidden_size / c->attention[0].n_heads;
    KVI_TRY(kvi_gguf_read_u32(r, "attention.key_length", KVI_GGUF_OPTIONAL, &c->attention[0].head_dim));
    value_length = rotated = c->attention[0].head_dim;
    KVI_TRY(kvi_gguf_read_u32(r, "attention.value_length", KVI_GGUF_OPTIONAL, &value_length));
    KVI_TRY(kvi_gguf_read_u32(r, "rope.dimension_count", KVI_GGUF_OPTIONAL, &rotated));
    if (c->attention[0].head_dim < 8 || c->attention[0].head_dim > KVI_MAX_HEAD_DIM || c->attention[0].head_dim % 8)
        return kvi_error_set(r->error, KVRT_UNSUPPORTED,
                             "%s: attention.key_length: is %u, need a multiple of 8 up to %u", r->file,
                             c->attention[0].head_dim, KVI_MAX_HEAD_DIM);
    c->ropes[0].n_dims = rotated;
    const bool part =
        r->family && r->family->partial_rotary && rotated < c->attention[0].head_dim && rotated && rotated % 2 == 0;
    if (value_length != c->attention[0].head_dim || (rotated != c->attention[0].head_dim && !part))
        return kvi_error_set(r->error, KVRT_UNSUPPORTED,
                             "%s: attention.value_length is %u and rope.dimension_count is %u, need %u "
                             "(attention.key_length) for both",
                             r->file, value_length, rotated, c->attention[0].head_dim);
    return KVRT_OK;
}

/* The rows of the embedding, where no key says how many tokens there are. */
static kvrt_status vocabulary_size(const reading *r)
{
    const kvi_gguf_tensor *embed = kvi_gguf_tensor_find(r->g, "token_embd.weight");
    uint32_t n = embed && embed->n_dims == 2 && embed->shape[0] <= 1 << 24 ? (uint32_t)embed->shape[0] : 0;
    KVI_TRY(kvi_gguf_read_u32(r, "vocab_size", KVI_GGUF_OPTIONAL, &n));
    if (n == 0 || n > 1 << 24)
        return kvi_error_set(r->error, KVRT_FORMAT, "%s: vocab_size: is %u, need 1..%d", r->file, n, 1 << 24);
    r->c->vocab_size = n;
    return KVRT_OK;
}

static kvrt_status sizes(reading *r)
{
    kvi_model_config *c = r->c;
    uint32_t guessing = 0;
    bool given = false;
    key_name full;
    KVI_TRY(size(r, "block_count", 1, KVI_MAX_LAYERS, &r->n_blocks));
    KVI_TRY(kvi_gguf_read_u32(r, "nextn_predict_layers", KVI_GGUF_OPTIONAL, &guessing));
    if (guessing >= r->n_blocks)
        return kvi_error_set(r->error, KVRT_FORMAT, "%s: nextn_predict_layers: is %u, need less than block_count (%u)",
                             r->file, guessing, r->n_blocks);
    c->n_layers = r->n_blocks - guessing;
    KVI_TRY(size(r, "embedding_length", 1, 1 << 20, &c->hidden_size));
    /* Where all layers have experts there may be no other width. */
    given = kvi_gguf_find(r->g, key(r, &full, "feed_forward_length")) != NULL;
    KVI_TRY(size(r, !given && r->family && r->family->experts ? "expert_feed_forward_length" : "feed_forward_length", 1,
                 1 << 22, &c->ffn_size));
    KVI_TRY(size(r, "context_length", 1, (1 << 24), &c->ctx_model));
    KVI_TRY(size(r, "attention.head_count", 1, 1024, &c->attention[0].n_heads));
    KVI_TRY(r->family && r->family->latent ? kvi_gguf_latent_sizes(r) : head_sizes(r));
    return vocabulary_size(r);
}

/* -------------------------------------------------------------------------------------------------------- rope --- */
/* As llama.cpp computes it: with yarn_log_multiplier m, cos and sin are multiplied by the ratio of 1 + 0.1 log(factor) and
 * 1 + 0.1 m log(factor). */
static kvrt_status yarn(const reading *r)
{
    kvi_rope_spec *rope = &r->c->ropes[0];
    double log_multiplier = 0;
    rope->scaling = KVI_ROPE_YARN;
    rope->truncate = true;
    rope->beta_fast = 32, rope->beta_slow = 1;
    rope->original_ctx = r->c->ctx_model;
    KVI_TRY(kvi_gguf_read_u32(r, "rope.scaling.original_context_length", KVI_GGUF_OPTIONAL, &rope->original_ctx));
    KVI_TRY(kvi_gguf_read_f64(r, "rope.scaling.factor", &rope->factor));
    KVI_TRY(kvi_gguf_read_f64(r, "rope.scaling.yarn_beta_fast", &rope->beta_fast));
    KVI_TRY(kvi_gguf_read_f64(r, "rope.scaling.yarn_beta_slow", &rope->beta_slow));
    KVI_TRY(kvi_gguf_read_f64(r, "rope.scaling.yarn_log_multiplier", &log_multiplier));
    if (!(rope->factor >= 1) || !rope->original_ctx || !(rope->beta_fast > 0 && rope->beta_slow > 0) ||
        !(rope->theta > 1))
        return kvi_error_set(
            r->error, KVRT_FORMAT,
            "%s: rope.scaling of yarn: factor %g, original_context_length %u, yarn_beta_fast %g, "
            "yarn_beta_slow %g, rope.freq_base %g: need 1 or more and the others above 0 (the last above 1)",
            r->file, rope->factor, rope->original_ctx, rope->beta_fast, rope->beta_slow, rope->theta);
    double magnitude =
        (1 + 0.1 * log(rope->factor)) / (log_multiplier != 0 ? 1 + 0.1 * log_multiplier * log(rope->factor) : 1);
    KVI_TRY(kvi_gguf_read_f64(r, "rope.scaling.yarn_attn_factor", &magnitude)); /* attention_factor of config.json */
    rope->magnitude = (float)magnitude;
    return KVRT_OK;
}

static kvrt_status rope_type(const reading *r)
{
    key_name full;
    kvi_gguf_text type = {"none", 4};
    double factor = 1;
    KVI_TRY(kvi_gguf_string(r->g, key(r, &full, "rope.scaling.type"), KVI_GGUF_OPTIONAL, &type, r->error));
    const bool linear = type.len == 6 && memcmp(type.data, "linear", 6) == 0;
    if (type.len == 4 && memcmp(type.data, "yarn", 4) == 0) return yarn(r);
    if (!linear && !(type.len == 4 && memcmp(type.data, "none", 4) == 0) &&
        !(r->family->old_longrope && type.len == 8 && memcmp(type.data, "longrope", 8) == 0))
        return kvi_error_set(r->error, KVRT_UNSUPPORTED, "%s: key %s: is '%.*s', need none, linear or yarn", r->file,
                             full.text, (int)(type.len < 40 ? type.len : 40), type.data);
    KVI_TRY(kvi_gguf_f64(r->g, key(r, &full, "rope.scale_linear"), KVI_GGUF_OPTIONAL, &factor, r->error));
    if (linear) KVI_TRY(kvi_gguf_f64(r->g, key(r, &full, "rope.scaling.factor"), KVI_GGUF_OPTIONAL, &factor, r->error));
    if (!(factor >= 1))
        return kvi_error_set(r->error, KVRT_FORMAT, "%s: key %s: below 1, need 1 or more", r->file, full.text);
    r->c->ropes[0].scaling = factor > 1 ? KVI_ROPE_LINEAR : KVI_ROPE_NONE;
    r->c->ropes[0].factor = factor;
    return KVRT_OK;
}

/* rope_freqs.weight: what each frequency is divided by, as Llama 3 scales them. */
static kvrt_status rope_divisors(const reading *r)
{
    static const char name[] = "rope_freqs.weight";
    kvi_model_config *c = r->c;
    const kvi_gguf_tensor *t = kvi_gguf_tensor_find(r->g, name);
    if (!t) return KVRT_OK;
    if (t->type != KVI_GGUF_F32 || t->n_dims != 1 || t->shape[0] != c->ropes[0].n_dims / 2)
        return kvi_error_set(r->error, KVRT_FORMAT, "%s: tensor %s: %s of %llu, need F32 of %u (half of what turns)",
                             r->file, name, kvi_gguf_type_at((uint32_t)t->type)->name, (unsigned long long)t->shape[0],
                             c->ropes[0].n_dims / 2);
    if (c->ropes[0].scaling != KVI_ROPE_NONE)
        return kvi_error_set(r->error, KVRT_UNSUPPORTED, "%s: tensor %s beside linear scaling, need one of them",
                             r->file, name);
    for (uint32_t i = 0; i < c->ropes[0].n_dims / 2; i++) {
        float divisor;
        memcpy(&divisor, t->data + 4 * i, sizeof divisor);
        if (!(divisor > 0) || !isfinite(divisor))
            return kvi_error_set(r->error, KVRT_FORMAT, "%s: tensor %s: element %u not above 0, need a factor", r->file,
                                 name, i);
        c->ropes[0].divisors[i] = divisor;
    }
    c->ropes[0].scaling = KVI_ROPE_DIVISORS;
    return KVRT_OK;
}

static kvrt_status rope(const reading *r)
{
    key_name full;
    r->c->ropes[0].theta = 10000;
    KVI_TRY(kvi_gguf_f64(r->g, key(r, &full, "rope.freq_base"), KVI_GGUF_OPTIONAL, &r->c->ropes[0].theta, r->error));
    if (!(r->c->ropes[0].theta >= 1))
        return kvi_error_set(r->error, KVRT_FORMAT, "%s: key %s: below 1, need 1 or more", r->file, full.text);
    r->c->n_ropes = r->c->n_attentions = 1;
    KVI_TRY(rope_type(r));
    return rope_divisors(r);
}

/* --------------------------------------------------------------------------------------------- other keys --- */
/* Keys behind the architecture that are read above, or tell nothing that is computed with. */
static const char *const known_keys[] = {"block_count",
                                         "embedding_length",
                                         "feed_forward_length",
                                         "context_length",
                                         "vocab_size",
                                         "attention.head_count",
                                         "attention.head_count_kv",
                                         "attention.key_length",
                                         "attention.value_length",
                                         "attention.layer_norm_rms_epsilon",
                                         "attention.sliding_window",
                                         "rope.dimension_count",
                                         "rope.freq_base",
                                         "rope.scaling.type",
                                         "rope.scaling.factor",
                                         "rope.scaling.original_context_length",
                                         "rope.scaling.finetuned",
                                         "rope.scaling.yarn_beta_fast",
                                         "rope.scaling.yarn_beta_slow",
                                         "rope.scaling.yarn_log_multiplier",
                                         "rope.scaling.yarn_attn_factor",
                                         "rope.scale_linear",
                                         "tensor_data_layout",
                                         "nextn_predict_layers",
                                         "expert_used_count"};
/* Keys that would change what is computed, with the value that leaves it as it is. */
static const struct {
    const char *name;
    double neutral;
} neutral_keys[] = {{"expert_count", 0},
                    {"logit_scale", 1},
                    {"residual_scale", 1},
                    {"embedding_scale", 1},
                    {"attn_logit_softcapping", 0},
                    {"final_logit_softcapping", 0},
                    {"attention.clamp_kqv", 0},
                    {"attention.max_alibi_bias", 0},
                    {"rope.scaling.attn_factor", 1},
                    {"rope.scaling.yarn_ext_factor", 1},
                    {"attention.temperature_scale", 0}};
static const struct {
    const char *name;
    bool neutral;
} neutral_bools[] = {{"attention.causal", true}, {"use_parallel_residual", false}};

static kvrt_status refuse_keys(const reading *r)
{
    key_name full;
    uint32_t window = 0;
    for (size_t i = 0; i < sizeof neutral_keys / sizeof neutral_keys[0]; i++) {
        double value = neutral_keys[i].neutral;
        if (kvi_gguf_family_knows(r->family, neutral_keys[i].name)) continue;
        KVI_TRY(kvi_gguf_f64(r->g, key(r, &full, neutral_keys[i].name), KVI_GGUF_OPTIONAL, &value, r->error));
        if (value != neutral_keys[i].neutral)
            return kvi_error_set(r->error, KVRT_UNSUPPORTED, "%s: key %s: need %d for %s", r->file, full.text,
                                 (int)neutral_keys[i].neutral, r->c->family);
    }
    for (size_t i = 0; i < sizeof neutral_bools / sizeof neutral_bools[0]; i++) {
        bool value = neutral_bools[i].neutral;
        KVI_TRY(kvi_gguf_bool(r->g, key(r, &full, neutral_bools[i].name), KVI_GGUF_OPTIONAL, &value, r->error));
        if (value != neutral_bools[i].neutral)
            return kvi_error_set(r->error, KVRT_UNSUPPORTED, "%s: key %s: need %s for %s", r->file, full.text,
                                 neutral_bools[i].neutral ? "true" : "false", r->c->family);
    }
    if (kvi_gguf_family_knows(r->family, "attention.sliding_window")) return KVRT_OK;
    KVI_TRY(kvi_gguf_read_u32(r, "attention.sliding_window", KVI_GGUF_OPTIONAL, &window));
    if (window == 0 || window >= r->c->ctx_model) return KVRT_OK;
    return kvi_error_set(r->error, KVRT_UNSUPPORTED,
                         "%s: attention.sliding_window: is %u, need 0 or at least %u for %s", r->file, window,
                         r->c->ctx_model, r->c->family);
}

static bool is_known(const char *name)
{
    for (size_t i = 0; i < sizeof known_keys / sizeof known_keys[0]; i++)
        if (strcmp(name, known_keys[i]) == 0) return true;
    for (size_t i = 0; i < sizeof neutral_keys / sizeof neutral_keys[0]; i++)
        if (strcmp(name, neutral_keys[i].name) == 0) return true;
    return strcmp(name, neutral_bools[0].name) == 0 || strcmp(name, neutral_bools[1].name) == 0;
}

/* Keys of the architecture that nothing here knows: they may change what the model computes. */
static void warn_unknown(const reading *r)
{
    char *out = r->c->warning;
    size_t used = 0;
    for (uint64_t i = 0; i < kvi_gguf_n_values(r->g); i++) {
        const char *name = kvi_gguf_value_at(r->g, i)->key;
        if (strncmp(name, r->arch.data, r->arch.len) != 0 || name[r->arch.len] != '.' ||
            is_known(name + r->arch.len + 1) || kvi_gguf_family_knows(r->family, name + r->arch.len + 1))
            continue;
        used += (size_t)snprintf(out + used, sizeof r->c->warning - used, "%s%.80s",
                                 used ? ", " : "keys of the GGUF file that kvrt does not know: ", name);
        if (used >= sizeof r->c->warning) return;
    }
}

/* ----------------------------------------------------------------------------------------------------- tensors --- */
/* Whether a tensor has a place in the model, or is of a block that only guesses further tokens. */
static bool has_place(const reading *r, const char *name)
{
    static const char *const whole[] = {"token_embd.weight", "output.weight", "output_norm.weight",
                                        "rope_freqs.weight"},
                             *const of_inputs[] = {"per_layer_token_embd.weight", "per_layer_model_proj.weight",
                                                   "per_layer_proj_norm.weight"};
    const kvi_model_config *c = r->c;
    kvi_place places[KVI_MAX_PLACES];
    char *part, ours[128], theirs[192];
    for (size_t i = 0; i < sizeof whole / sizeof whole[0]; i++)
        if (strcmp(name, whole[i]) == 0) return true;
    for (size_t i = 0; c->layer_input && i < sizeof of_inputs / sizeof of_inputs[0]; i++)
        if (strcmp(name, of_inputs[i]) == 0) return true;
    if (r->family->old_longrope &&
        (strcmp(name, "rope_factors_long.weight") == 0 || strcmp(name, "rope_factors_short.weight") == 0))
        return true;
    if (strncmp(name, "blk.", 4) != 0) return false;
    const unsigned long layer = strtoul(name + 4, &part, 10);
    if (part == name + 4 || *part != '.' || layer >= c->n_layers) return part > name + 4 && layer < r->n_blocks;
    for (uint32_t i = kvi_layer_places(c, (uint32_t)layer, places); i-- > 0;)
        for (const kvi_place_source *s = places[i].sources; s < places[i].sources + KVI_PLACE_SOURCES && s->name; s++) {
            (void)snprintf(ours, sizeof ours, KVI_NAME_LAYER, (unsigned)layer, s->name);
            for (unsigned nth = 0; kvi_gguf_tensor_name(ours, nth, theirs, sizeof theirs); nth++)
                if (strcmp(theirs, name) == 0) return true;
        }
    return false;
}

/* Whether any layer has such a tensor: what attends may not be the first. */
static bool any_layer(const reading *r, const char *name)
{
    for (uint32_t i = 0; i < r->c->n_layers; i++)
        if (kvi_gguf_layer_tensor(r, i, name)) return true;
    return false;
}

static kvrt_status look_at_tensors(const reading *r)
{
    kvi_model_config *c = r->c;
    c->tied_embeddings = !kvi_gguf_tensor_find(r->g, "output.weight");
    c->qkv_bias =
        c->qkv_bias || any_layer(r, "attn_q.bias") || any_layer(r, "attn_qkv.bias") || any_layer(r, "attn_q_a.bias");
    c->o_bias = c->o_bias || any_layer(r, "attn_output.bias");
    c->mlp_bias = any_layer(r, "ffn_up.bias");
    if (any_layer(r, "attn_q_norm.weight") && strcmp(r->family->name, "glm4_moe") == 0) c->qk_norm = KVI_QK_NORM_HEAD;
    for (uint64_t i = 0; i < kvi_gguf_count(r->g); i++) {
        const kvi_gguf_tensor *t = kvi_gguf_tensor_at(r->g, i);
        if (!has_place(r, t->name))
            return kvi_error_set(r->error, KVRT_UNSUPPORTED, "%s: tensor %.200s: has no place in %s of %u layers",
                                 kvi_gguf_file(r->g, t->file), t->name, r->family->name, c->n_layers);
    }
    return KVRT_OK;
}

/* ------------------------------------------------------------------------------------------------------- ends --- */
static void add_end(kvi_model_config *c, uint32_t id)
{
    if (id > INT32_MAX || c->n_eos == KVI_MAX_EOS) return;
    for (uint32_t i = 0; i < c->n_eos; i++)
        if (c->eos_ids[i] == (int32_t)id) return;
    c->eos_ids[c->n_eos++] = (int32_t)id;
}

/* Files name one end of text, and often not the end of a turn: control tokens spelled like one end a generation too, as in llama.cpp. */
static kvrt_status read_ends(const reading *r)
{
    static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    static const char *const spelled[] = {"<|eot_id|>", "<|im_end|>", "<|end|>",         "<end_of_turn>",
                                          "<|eom_id|>", "<EOT>",      "<|end_of_text|>", "<|endoftext|>",
                                          "<|return|>", "<|call|>",   "<turn|>",         "<|observation|>"};
    const kvi_gguf_value *tokens, *types;
    uint32_t bos = UINT32_MAX;
    KVI_TRY(kvi_gguf_u32(r->g, "tokenizer.ggml.bos_token_id", KVI_GGUF_OPTIONAL, &bos, r->error));
    r->c->bos_id = bos <= INT32_MAX ? (int32_t)bos : -1;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        uint32_t id = UINT32_MAX;
        KVI_TRY(kvi_gguf_u32(r->g, keys[i], KVI_GGUF_OPTIONAL, &id, r->error));
        add_end(r->c, id);
    }
    KVI_TRY(kvi_gguf_array(r->g, "tokenizer.ggml.tokens", KVI_GGUF_KIND_STRING, KVI_GGUF_OPTIONAL, &tokens, r->error));
    KVI_TRY(kvi_gguf_array(r->g, "tokenizer.ggml.token_type", KVI_GGUF_KIND_I32, KVI_GGUF_OPTIONAL, &types, r->error));
    if (!tokens || !types || types->n != tokens->n || tokens->n > INT32_MAX) return KVRT_OK;
    const uint8_t *at = tokens->at;
    uint32_t message_end = UINT32_MAX;
    bool channels = false;
    for (uint64_t id = 0; id < tokens->n; id++) {
        const kvi_gguf_text text = kvi_gguf_next_string(&at);
        for (size_t i = 0; kvi_gguf_i32_at(types, id) == 3 && i < sizeof spelled / sizeof spelled[0]; i++) {
            if (text.len != strlen(spelled[i]) || memcmp(text.data, spelled[i], text.len) != 0) continue;
            channels = channels || strcmp(spelled[i], "<|return|>") == 0;
            if (strcmp(spelled[i], "<|end|>") == 0) message_end = (uint32_t)id;
            else add_end(r->c, (uint32_t)id);
        }
    }
    /* Where turns end with <|return|>, <|end|> only ends a message, and the next one follows (channels.h). */
    if (!channels && message_end != UINT32_MAX) add_end(r->c, message_end);
    return KVRT_OK;
}

/* ------------------------------------------------------------------------------------------------------- whole --- */
static kvrt_status unknown_architecture(const reading *r)
{
    reading lenient = *r;
    char known[400] = "";
    lenient.error = NULL;
    (void)sizes(&lenient); /* inspect shows what there is */
    for (size_t i = 0, used = 0; i < sizeof architectures / sizeof architectures[0] && used < sizeof known; i++)
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", architectures[i].theirs);
    return kvi_error_set(r->error, KVRT_UNSUPPORTED, "%s: general.architecture: is '%.*s', need one of %s", r->file,
                         (int)(r->arch.len < 60 ? r->arch.len : 60), r->arch.data, known);
}

/* The family, where several share the name of an architecture. */
static kvrt_status refine(reading *r)
{
    const char *name = r->family->name;
    kvi_gguf_text pre = {"", 0};
    uint32_t n_experts = 0, shared = 0;
    bool sigmoid = false;
    if (r->family->latent) KVI_TRY(kvi_gguf_sigmoid(r, &sigmoid));
    KVI_TRY(kvi_gguf_read_u32(r, "expert_count", KVI_GGUF_OPTIONAL, &n_experts));
    KVI_TRY(kvi_gguf_read_u32(r, "expert_shared_feed_forward_length", KVI_GGUF_OPTIONAL, &shared));
    KVI_TRY(kvi_gguf_string(r->g, "tokenizer.ggml.pre", KVI_GGUF_OPTIONAL, &pre, r->error));
    if (strcmp(name, "llama") == 0 && n_experts) name = "mixtral";
    if (strcmp(name, "granitemoe") == 0 && shared) name = "granitemoeshared";
    if (sigmoid) name = pre.len == 4 && memcmp(pre.data, "glm4", 4) == 0 ? "glm4_moe_lite" : "deepseek_v3";
    r->family = kvi_family_of_type(name);
    return KVRT_OK;
}

kvrt_status kvi_gguf_config(const kvi_gguf *g, kvi_model_config *out, kvrt_error *error)
{
    reading r = {.g = g, .file = kvi_gguf_file(g, 0), .c = out, .error = error};
    key_name full;
    size_t i = 0;
    memset(out, 0, sizeof *out);
    out->bos_id = -1;
    KVI_TRY(kvi_gguf_string(g, "general.architecture", KVI_GGUF_REQUIRED, &r.arch, error));
    const size_t n = sizeof architectures / sizeof architectures[0];
    while (i < n && (strlen(architectures[i].theirs) != r.arch.len ||
                     memcmp(architectures[i].theirs, r.arch.data, r.arch.len) != 0))
        i++;
    const kvi_family *family = i < n ? kvi_family_of_type(architectures[i].family) : NULL;
    (void)snprintf(out->architecture, sizeof out->architecture, "%.*s",
                   family ? 63 : (int)(r.arch.len < 60 ? r.arch.len : 60), family ? family->architecture : r.arch.data);
    if (!family) return unknown_architecture(&r);
    r.family = family;
    KVI_TRY(sizes(&r));
    KVI_TRY(refine(&r));
    (void)snprintf(out->architecture, sizeof out->architecture, "%s", r.family->architecture);
    kvi_family_apply(r.family, out);
    out->gain_add = 0; /* llama.cpp's files hold the gains that are multiplied with */
    out->ropes[0].interleaved = architectures[i].interleaved;
    KVI_TRY(
        kvi_gguf_f64(g, key(&r, &full, "attention.layer_norm_rms_epsilon"), KVI_GGUF_REQUIRED, &out->rms_eps, error));
    if (!(out->rms_eps > 0 && out->rms_eps < 1))
        return kvi_error_set(error, KVRT_FORMAT, "%s: key %s: outside 0..1", r.file, full.text);
    KVI_TRY(rope(&r));
    KVI_TRY(refuse_keys(&r));
    KVI_TRY(kvi_gguf_family_keys(&r));
    warn_unknown(&r);
    KVI_TRY(look_at_tensors(&r));
    return read_ends(&r);
}
