/* gguf_families.c - what single families have beyond Llama, as llama.cpp's keys and defaults say it: windows and their RoPE, caps, multipliers,
 * layers without RoPE, longrope. Mixers and experts have files of their own. Where llama.cpp knows a figure by the architecture alone it stands
 * here. */
#include "gguf_reading.h"

#include <math.h>
#include <string.h>

static bool is(const kvi_family *family, const char *name) { return family && strcmp(family->name, name) == 0; }
static bool is_gemma(const kvi_family *family) { return is(family, "gemma2") || is(family, "gemma3_text"); }
static bool is_olmo(const kvi_family *family) { return is(family, "olmo2") || is(family, "olmo3"); }
static bool is_granite(const kvi_family *family)
{
    return is(family, "granite") || is(family, "granitemoe") || is(family, "granitemoeshared");
}

bool kvi_gguf_family_knows(const kvi_family *family, const char *name)
{
    /* The figures of states are in files of Granite 4 that have none. */
    static const char
        *const of_granite[] = {"embedding_scale",
                               "residual_scale",
                               "logit_scale",
                               "attention.scale",
                               "ssm.conv_kernel",
                               "ssm.state_size",
                               "ssm.group_count",
                               "ssm.inner_size",
                               "ssm.time_step_rank",
                               "expert_used_count",
                               "expert_shared_feed_forward_length",
                               NULL},
               *const of_gemma[] = {"attn_logit_softcapping", "final_logit_softcapping", NULL},
               *const of_windows[] = {"attention.sliding_window", "attention.sliding_window_pattern",
                                      "rope.freq_base_swa", NULL},
               *const of_experts[] = {"expert_count",
                                      "expert_used_count",
                                      "expert_feed_forward_length",
                                      "expert_shared_feed_forward_length",
                                      "expert_shared_count",
                                      "expert_group_count",
                                      "expert_group_used_count",
                                      "expert_gating_func",
                                      "expert_weights_norm",
                                      "expert_weights_scale",
                                      "leading_dense_block_count",
                                      NULL},
               *const of_delta[] = {"ssm.conv_kernel",         "ssm.state_size",          "ssm.group_count",
                                    "ssm.inner_size",          "ssm.time_step_rank",      "attention.recurrent_layers",
                                    "rope.dimension_sections", "full_attention_interval", NULL},
               *const of_latent[] = {"attention.kv_lora_rank", "attention.q_lora_rank", "attention.key_length_mla",
                                     "attention.value_length_mla", NULL},
               *const of_gemma4[] = {"attention.key_length_swa",
                                     "attention.value_length_swa",
                                     "attention.shared_kv_layers",
                                     "rope.dimension_count_swa",
                                     "embedding_length_per_layer_input",
                                     "final_logit_softcapping",
                                     NULL},
               *const of_ministral[] = {"attention.temperature_scale", "attention.temperature_length", NULL},
               *const of_phi[] = {"rope.scaling.attn_factor", NULL};
    const bool gemma4 = family && family->gemma4, windows = is_gemma(family) || is_olmo(family) || gemma4 ||
                                                            is(family, "phi3") || is(family, "ministral3") ||
                                                            is(family, "gpt_oss");
    const struct {
        bool on;
        const char *const *names;
    } lists[] = {{is_granite(family), of_granite},
                 {is_gemma(family), of_gemma},
                 {windows, of_windows},
                 {gemma4 || (family && family->experts != KVI_EXPERTS_NONE), of_experts},
                 {family && family->recurrent, of_delta},
                 {family && family->latent, of_latent},
                 {gemma4, of_gemma4},
                 {is(family, "ministral3"), of_ministral},
                 {is(family, "phi3"), of_phi}};
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++)
        for (const char *const *known = lists[i].on ? lists[i].names : NULL; known && *known; known++)
            if (strcmp(*known, name) == 0) return true;
    return false;
}

/* A factor that may not be zero. */
static kvrt_status factor(const kvi_gguf_reading *r, const char *name, bool inverse, float *out)
{
    double value = NAN;
    KVI_TRY(kvi_gguf_read_f64(r, name, &value));
    if (isnan(value)) return KVRT_OK;
    *out = (float)(inverse ? 1 / value : value);
    if (*out != 0.0f && isfinite(*out)) return KVRT_OK;
    return kvi_error_set(r->error, KVRT_FORMAT, "%s: key %.*s.%s: is %g, need another factor", r->file,
                         (int)(r->arch.len < 60 ? r->arch.len : 60), r->arch.data, name, value);
}

kvrt_status kvi_gguf_windows(const kvi_gguf_reading *r, uint32_t pattern)
{
    kvi_model_config *c = r->c;
    uint32_t window = 0, windowed[KVI_MAX_LAYERS];
    bool given = false;
    kvi_gguf_key full;
    KVI_TRY(kvi_gguf_read_u32(r, "attention.sliding_window", KVI_GGUF_OPTIONAL, &window));
    if (window == 0) return KVRT_OK;
    if (window == 1)
        return kvi_error_set(r->error, KVRT_UNSUPPORTED, "%s: attention.sliding_window: is 1, need 0 or 2 and more",
                             r->file);
    const kvi_gguf_value *value = kvi_gguf_find(r->g, kvi_gguf_key_of(r, &full, "attention.sliding_window_pattern"));
    if (value && value->is_array)
        KVI_TRY(kvi_gguf_read_blocks(r, "attention.sliding_window_pattern", windowed, &given));
    else KVI_TRY(kvi_gguf_u32(r->g, full.text, KVI_GGUF_OPTIONAL, &pattern, r->error));
    c->n_attentions = 2;
    c->attention[1] = c->attention[0];
    c->attention[1].window = window;
    for (uint32_t i = 0; i < c->n_layers; i++)
        c->layers[i].attention = given ? windowed[i] != 0 : pattern == 0 || (i + 1) % pattern != 0;
    return KVRT_OK;
}

/* Windowed layers turn by a set of their own, never scaled. */
static kvrt_status window_rope(const kvi_gguf_reading *r, double theta)
{
    kvi_model_config *c = r->c;
    KVI_TRY(kvi_gguf_read_f64(r, "rope.freq_base_swa", &theta));
    if (!(theta >= 1))
        return kvi_error_set(r->error, KVRT_FORMAT, "%s: rope.freq_base_swa: below 1, need 1 or more", r->file);
    c->n_ropes = 2;
    c->ropes[1] = (kvi_rope_spec){.n_dims = c->ropes[0].n_dims, .theta = theta};
    c->attention[1].rope = 1;
    return KVRT_OK;
}

/* Scores are divided by the root of a head's size, in the largest models by that of hidden_size / heads. */
static kvrt_status gemma(const kvi_gguf_reading *r)
{
    kvi_model_config *c = r->c;
    const bool third = is(r->family, "gemma3_text"), largest = c->n_layers == (third ? 62u : 46u);
    c->activation = KVI_ACT_GELU_TANH;
    c->embedding_scale = (float)sqrt(c->hidden_size);
    c->embedding_scale_narrow = true; /* as a folder of the same type */
    if (largest) c->score_scale = (float)(1 / sqrt((double)c->hidden_size / c->attention[0].n_heads));
    KVI_TRY(factor(r, "attn_logit_softcapping", false, &c->score_softcap));
    KVI_TRY(factor(r, "final_logit_softcapping", false, &c->logit_softcap));
    KVI_TRY(kvi_gguf_windows(r, r->family->window_pattern));
    return third && c->n_attentions > 1 ? window_rope(r, r->family->window_theta) : KVRT_OK;
}

/* rope.scaling.finetuned is the switch of RoPE: Granite 4 has members without. */
static kvrt_status granite(const kvi_gguf_reading *r)
{
    bool turns = true;
    KVI_TRY(kvi_gguf_read_bool(r, "rope.scaling.finetuned", &turns));
    if (!turns) r->c->attention[0].rope = KVI_NO_ROPE;
    KVI_TRY(factor(r, "embedding_scale", false, &r->c->embedding_scale));
    KVI_TRY(factor(r, "residual_scale", false, &r->c->residual_scale));
    KVI_TRY(factor(r, "attention.scale", false, &r->c->score_scale));
    return factor(r, "logit_scale", true, &r->c->logit_scale);
}

/* OLMo 3 is an OLMo 2 with windows, in whose layers RoPE is not scaled. */
static kvrt_status olmo(const kvi_gguf_reading *r)
{
    KVI_TRY(kvi_gguf_windows(r, 4));
    return r->c->n_attentions > 1 ? window_rope(r, r->c->ropes[0].theta) : KVRT_OK;
}

/* rope_factors_short.weight: longrope up to the original length. */
static kvrt_status longrope(const kvi_gguf_reading *r)
{
    static const char name[] = "rope_factors_short.weight";
    kvi_model_config *c = r->c;
    kvi_rope_spec *rope = &c->ropes[0];
    const kvi_gguf_tensor *t = kvi_gguf_tensor_find(r->g, name);
    double magnitude = 1;
    uint32_t original = c->ctx_model;
    if (!t) return KVRT_OK;
    if (t->type != KVI_GGUF_F32 || t->n_dims != 1 || t->shape[0] != rope->n_dims / 2)
        return kvi_error_set(r->error, KVRT_FORMAT, "%s: tensor %s: need F32 of %u (half of the dimensions that turn)",
                             r->file, name, rope->n_dims / 2);
    for (uint32_t i = 0; i < rope->n_dims / 2; i++) {
        memcpy(&rope->divisors[i], t->data + 4 * i, sizeof rope->divisors[i]);
        if (!(rope->divisors[i] > 0) || !isfinite(rope->divisors[i]))
            return kvi_error_set(r->error, KVRT_FORMAT, "%s: tensor %s: element %u not above 0, need a factor", r->file,
                                 name, i);
    }
    rope->scaling = KVI_ROPE_DIVISORS;
    KVI_TRY(kvi_gguf_read_f64(r, "rope.scaling.attn_factor", &magnitude));
    rope->magnitude = (float)magnitude;
    KVI_TRY(kvi_gguf_read_u32(r, "rope.scaling.original_context_length", KVI_GGUF_OPTIONAL, &original));
    if (original == 0 || original >= c->ctx_model) return KVRT_OK;
    c->ctx_limit = c->ctx_model = original;
    c->limit_why = "longrope changes its frequencies beyond rope.scaling.original_context_length";
    return KVRT_OK;
}

static kvrt_status phi(const kvi_gguf_reading *r)
{
    KVI_TRY(longrope(r));
    return kvi_gguf_windows(r, 0);
}

/* Every fourth layer does not turn. */
static kvrt_status smollm(const kvi_gguf_reading *r)
{
    kvi_model_config *c = r->c;
    c->n_attentions = 2;
    c->attention[1] = c->attention[0];
    c->attention[1].rope = KVI_NO_ROPE;
    for (uint32_t i = 0; i < c->n_layers; i++) c->layers[i].attention = (i + 1) % 4 == 0;
    return KVRT_OK;
}

static kvrt_status ministral(const kvi_gguf_reading *r)
{
    kvi_model_config *c = r->c;
    double growth = 0;
    KVI_TRY(kvi_gguf_read_f64(r, "attention.temperature_scale", &growth));
    c->q_growth = (float)growth;
    c->q_growth_ctx = c->ropes[0].original_ctx;
    KVI_TRY(kvi_gguf_read_u32(r, "attention.temperature_length", KVI_GGUF_OPTIONAL, &c->q_growth_ctx));
    if (c->q_growth != 0.0f && c->q_growth_ctx == 0)
        return kvi_error_set(r->error, KVRT_FORMAT,
                             "%s: attention.temperature_scale: is %g, need rope.scaling.original_context_length too",
                             r->file, growth);
    return kvi_gguf_windows(r, 0);
}

/* Windows in every other layer. YaRN's ends are no whole dimensions here; no key says it, and llama.cpp rounds them. */
static kvrt_status gpt_oss(const kvi_gguf_reading *r)
{
    r->c->ropes[0].truncate = false;
    return kvi_gguf_windows(r, r->family->window_pattern);
}

kvrt_status kvi_gguf_family_keys(const kvi_gguf_reading *r)
{
    static const struct {
        const char *family;
        kvrt_status (*read)(const kvi_gguf_reading *);
    } families[] = {{"gemma2", gemma},
                    {"gemma3_text", gemma},
                    {"gemma4_text", kvi_gguf_gemma4},
                    {"granite", granite},
                    {"granitemoe", granite},
                    {"granitemoeshared", granite},
                    {"olmo2", olmo},
                    {"phi3", phi},
                    {"smollm3", smollm},
                    {"ministral3", ministral},
                    {"qwen3_5_text", kvi_gguf_delta},
                    {"qwen3_5_moe_text", kvi_gguf_delta},
                    {"qwen3_next", kvi_gguf_delta},
                    {"gpt_oss", gpt_oss}};
    const kvi_family *family = r->family;
    uint32_t n_experts = 0;
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++)
        if (is(family, families[i].family)) KVI_TRY(families[i].read(r));
    if (family->latent) KVI_TRY(kvi_gguf_latent_scale(r));
    if (family->gemma4) KVI_TRY(kvi_gguf_read_u32(r, "expert_count", KVI_GGUF_OPTIONAL, &n_experts));
    return n_experts || family->experts != KVI_EXPERTS_NONE ? kvi_gguf_experts(r) : KVRT_OK;
}
