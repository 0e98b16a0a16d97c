/* families.c - the table of families.h. A family whose members have something that is not here yet has its column in config_keys.h all the same. */
#include "families.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

static const kvi_name_pair granite4_names[] = {
    {"mlp.gate_up_proj", "shared_mlp.input_linear"}, {"mlp.down_proj", "shared_mlp.output_linear"}, {NULL, NULL}};
static const kvi_name_pair gemma4_names[] = {{"self_attn.post_norm", "post_attention_layernorm"},
                                             {"post_attention_layernorm", "pre_feedforward_layernorm"},
                                             {"mlp.post_norm", "post_feedforward_layernorm"},
                                             {"mlp.gate", "router.proj"},
                                             {"mlp.experts", "experts"},
                                             {NULL, NULL}};
/* Norms behind attention and feed-forward part, of Gemma and OLMo. */
static const kvi_name_pair behind_names[] = {{"self_attn.post_norm", "post_attention_layernorm"},
                                             {"post_attention_layernorm", "pre_feedforward_layernorm"},
                                             {"mlp.post_norm", "post_feedforward_layernorm"},
                                             {NULL, NULL}};

static const kvi_name_pair shared_names[] = {{"mlp.shared_expert", "mlp.shared_experts"}, {NULL, NULL}};
static const kvi_name_pair gpt_oss_names[] = {{"mlp.gate", "mlp.router"}, {NULL, NULL}};
static const kvi_name_pair granite_moe_names[] = {{"mlp.gate", "block_sparse_moe.router.layer"},
                                                  {"mlp.experts.gate_up_proj", "block_sparse_moe.input_linear.weight"},
                                                  {"mlp.experts.down_proj", "block_sparse_moe.output_linear.weight"},
                                                  {"mlp.shared_expert.gate_up_proj", "shared_mlp.input_linear"},
                                                  {"mlp.shared_expert.down_proj", "shared_mlp.output_linear"},
                                                  {NULL, NULL}};

/* What Qwen3-Next began: three layers of gated DeltaNet, then one of gated attention. */
#define QWEN3_NEXT                                                                                                     \
    .qk_norm = KVI_QK_NORM_HEAD, .gain_add = 1, .attention_gate = true, .partial_rotary = true, .mrope = true,         \
    .recurrent = true

/* X(architecture, model_type, what README says is one, what is always so) */
#define KVI_FAMILIES(X)                                                                                                \
    X("LlamaForCausalLM", "llama", "Llama 2, 3, 3.1, 3.2, 3.3", .window = KVI_WINDOW_NEVER)                            \
    X("MistralForCausalLM", "mistral", "Mistral 7B, Nemo, Small 3", .outer = "Mistral3ForConditionalGeneration",       \
      .outer_name = "mistral3", .window = KVI_WINDOW_ALL)                                                              \
    X("Qwen2ForCausalLM", "qwen2", "Qwen2, Qwen2.5", .qkv_bias = true, .window = KVI_WINDOW_IF_USED)                   \
    X("Qwen3ForCausalLM", "qwen3", "Qwen3 (dense)", .qk_norm = KVI_QK_NORM_HEAD, .window = KVI_WINDOW_IF_USED)         \
    X("Qwen3_5ForCausalLM", "qwen3_5_text", "Qwen3.5, 3.6, 3.8 (dense; text)",                                         \
      .outer = "Qwen3_5ForConditionalGeneration", .outer_name = "qwen3_5", QWEN3_NEXT)                                 \
    X("Qwen3_5MoeForCausalLM", "qwen3_5_moe_text", "Qwen3.5, 3.6 MoE (text)",                                          \
      .outer = "Qwen3_5MoeForConditionalGeneration", .outer_name = "qwen3_5_moe", QWEN3_NEXT,                          \
      .experts = KVI_EXPERTS_SOFTMAX, .renormalize = true, .shared_gate = true)                                        \
    X("Qwen3NextForCausalLM", "qwen3_next", "Qwen3-Next", QWEN3_NEXT, .single_experts = true,                          \
      .experts = KVI_EXPERTS_SOFTMAX, .shared_gate = true)                                                             \
    X("Gemma2ForCausalLM", "gemma2", "Gemma 2", .window = KVI_WINDOW_PATTERN, .window_pattern = 2,                     \
      .norms = KVI_NORMS_BOTH, .gain_add = 1, .root_embedding_scale = true, .names = behind_names)                     \
    X("Gemma3ForCausalLM", "gemma3_text", "Gemma 3 (text)", .outer = "Gemma3ForConditionalGeneration",                 \
      .outer_name = "gemma3", .window = KVI_WINDOW_PATTERN, .window_pattern = 6, .norms = KVI_NORMS_BOTH,              \
      .gain_add = 1, .qk_norm = KVI_QK_NORM_HEAD, .two_ropes = true, .theta = 1e6, .window_theta = 1e4,                \
      .root_embedding_scale = true, .names = behind_names)                                                             \
    X("Gemma4ForCausalLM", "gemma4_text", "Gemma 4 (text)", .outer = "Gemma4ForConditionalGeneration",                 \
      .outer_name = "gemma4", .window = KVI_WINDOW_PATTERN, .window_pattern = 6, .norms = KVI_NORMS_BOTH,              \
      .qk_norm = KVI_QK_NORM_HEAD, .value_norm = true, .layer_scalar = true, .score_scale = 1, .two_ropes = true,      \
      .theta = 1e6, .window_theta = 1e4, .proportional_rope = true, .root_embedding_scale = true, .gemma4 = true,      \
      .names = gemma4_names)                                                                                           \
    X("Phi3ForCausalLM", "phi3", "Phi-3, 3.5, 4", .window = KVI_WINDOW_ALL, .partial_rotary = true,                    \
      .old_longrope = true)                                                                                            \
    X("SmolLM3ForCausalLM", "smollm3", "SmolLM3", .window = KVI_WINDOW_IF_USED, .nope = true)                          \
    X("GraniteForCausalLM", "granite", "Granite 3", .window = KVI_WINDOW_NEVER)                                        \
    X("GraniteMoeHybridForCausalLM", "granitemoehybrid", "Granite 4 (dense)", .window = KVI_WINDOW_NEVER,              \
      .granite4 = true, .names = granite4_names)                                                                       \
    X("Olmo2ForCausalLM", "olmo2", "OLMo 2", .window = KVI_WINDOW_NEVER, .norms = KVI_NORMS_AFTER,                     \
      .qk_norm = KVI_QK_NORM_WIDTH, .names = behind_names)                                                             \
    X("Olmo3ForCausalLM", "olmo3", "OLMo 3", .window = KVI_WINDOW_PATTERN, .window_pattern = 4,                        \
      .norms = KVI_NORMS_AFTER, .qk_norm = KVI_QK_NORM_WIDTH, .two_ropes = true, .theta = 5e5, .window_theta = 5e5,    \
      .names = behind_names)                                                                                           \
    X("Ministral3ForCausalLM", "ministral3", "Ministral 3", .outer = "Mistral3ForConditionalGeneration",               \
      .outer_name = "mistral3", .window = KVI_WINDOW_ALL, .q_growth = true)                                            \
    X("Qwen2MoeForCausalLM", "qwen2_moe", "Qwen2-MoE", .window = KVI_WINDOW_IF_USED, .no_o_bias = true,                \
      .single_experts = true, .experts = KVI_EXPERTS_SOFTMAX, .shared_gate = true)                                     \
    X("Qwen3MoeForCausalLM", "qwen3_moe", "Qwen3-MoE", .window = KVI_WINDOW_IF_USED, .qk_norm = KVI_QK_NORM_HEAD,      \
      .single_experts = true, .experts = KVI_EXPERTS_SOFTMAX)                                                          \
    X("MixtralForCausalLM", "mixtral", "Mixtral", .window = KVI_WINDOW_ALL, .single_experts = true,                    \
      .experts = KVI_EXPERTS_SOFTMAX, .renormalize = true)                                                             \
    X("OlmoeForCausalLM", "olmoe", "OLMoE", .window = KVI_WINDOW_NEVER, .qk_norm = KVI_QK_NORM_WIDTH,                  \
      .single_experts = true, .experts = KVI_EXPERTS_SOFTMAX)                                                          \
    X("GraniteMoeForCausalLM", "granitemoe", "Granite 3 MoE", .window = KVI_WINDOW_NEVER,                              \
      .experts = KVI_EXPERTS_CHOSEN_SOFTMAX, .names = granite_moe_names)                                               \
    X("GraniteMoeSharedForCausalLM", "granitemoeshared", "Granite MoE with shared experts",                            \
      .window = KVI_WINDOW_NEVER, .experts = KVI_EXPERTS_CHOSEN_SOFTMAX, .names = granite_moe_names)                   \
    X("Glm4MoeForCausalLM", "glm4_moe", "GLM-4.5, 4.6", .window = KVI_WINDOW_NEVER, .partial_rotary = true,            \
      .no_o_bias = true, .single_experts = true, .experts = KVI_EXPERTS_SIGMOID, .names = shared_names)                \
    X("GptOssForCausalLM", "gpt_oss", "gpt-oss", .window = KVI_WINDOW_PATTERN, .window_pattern = 2, .sinks = true,     \
      .experts = KVI_EXPERTS_CHOSEN_SOFTMAX, .expert_bias = true, .swiglu_limit = true, .names = gpt_oss_names)        \
    X("DeepseekV2ForCausalLM", "deepseek_v2", "DeepSeek-V2", .window = KVI_WINDOW_NEVER, .latent = true,               \
      .rope_pairs = true, .single_experts = true, .experts = KVI_EXPERTS_SOFTMAX, .ignores_norm_topk = true,           \
      .names = shared_names)                                                                                           \
    X("DeepseekV3ForCausalLM", "deepseek_v3", "DeepSeek-V3, R1", .window = KVI_WINDOW_NEVER, .latent = true,           \
      .single_experts = true, .experts = KVI_EXPERTS_SIGMOID, .names = shared_names)                                   \
    X("Glm4MoeLiteForCausalLM", "glm4_moe_lite", "GLM-4.7-Flash", .window = KVI_WINDOW_NEVER, .latent = true,          \
      .mlp_types = true, .single_experts = true, .experts = KVI_EXPERTS_SIGMOID, .names = shared_names)

static const kvi_family families[] = {
#define ROW(arch, type, models, ...) {.architecture = arch, .name = type, __VA_ARGS__},
    KVI_FAMILIES(ROW)
#undef ROW
};
#define N_FAMILIES (sizeof families / sizeof families[0])

/* "LlamaForCausalLM", or "LlamaModel": the same without a head of its own. */
static bool is_architecture(const char *ours, const char *theirs)
{
    if (!ours || strcmp(ours, theirs) == 0) return ours != NULL;
    const char *end = strstr(ours, "For");
    const size_t stem = end ? (size_t)(end - ours) : strlen(ours);
    return strncmp(ours, theirs, stem) == 0 && strcmp(theirs + stem, "Model") == 0;
}

const kvi_family *kvi_family_find(const char *architecture)
{
    for (size_t i = 0; i < N_FAMILIES; i++)
        if (is_architecture(families[i].architecture, architecture) || is_architecture(families[i].outer, architecture))
            return &families[i];
    return NULL;
}

const kvi_family *kvi_family_of_type(const char *model_type)
{
    for (size_t i = 0; i < N_FAMILIES; i++)
        if (strcmp(families[i].name, model_type) == 0 ||
            (families[i].outer_name && strcmp(families[i].outer_name, model_type) == 0))
            return &families[i];
    return NULL;
}

const kvi_family *kvi_family_at(uint32_t index) { return index < N_FAMILIES ? &families[index] : NULL; }

const char *kvi_family_list(void)
{
#define NAME(arch, type, models, ...) ", " arch
    static const char list[] = KVI_FAMILIES(NAME);
#undef NAME
    return list + 2;
}

void kvi_family_apply(const kvi_family *family, kvi_model_config *c)
{
    c->family = family->name;
    c->qkv_bias = family->qkv_bias;
    c->o_bias = family->o_bias;
    c->qk_norm = family->qk_norm;
    c->norms = family->norms;
    c->gain_add = family->gain_add;
    c->attention_gate = family->attention_gate;
    c->value_norm = family->value_norm;
    c->layer_scalar = family->layer_scalar;
    c->score_scale = family->score_scale;
    c->sinks = family->sinks;
    c->experts.interleaved = family->swiglu_limit;
}

void kvi_family_rename(const kvi_family *family, const char *name, char *out, size_t cap)
{
    for (const kvi_name_pair *pair = family ? family->names : NULL; pair && pair->ours; pair++) {
        const size_t len = strlen(pair->ours);
        if (strncmp(name, pair->ours, len) != 0 || (name[len] && name[len] != '.')) continue;
        (void)snprintf(out, cap, "%s%s", pair->theirs, name + len);
        return;
    }
    (void)snprintf(out, cap, "%s", name);
}
