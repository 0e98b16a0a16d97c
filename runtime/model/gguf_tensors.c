/* gguf_tensors.c - the tensors of a GGUF file as a checkpoint. */
#include "gguf_model.h"
#include "places.h"
#include "../base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------------- names --- */
typedef struct name_pair {
    const char *ours, *theirs;
} name_pair;
static const name_pair whole[] = {{KVI_NAME_EMBED, "token_embd.weight"},
                                  {KVI_NAME_NORM, "output_norm.weight"},
                                  {KVI_NAME_HEAD, "output.weight"},
                                  {"model.embed_tokens_per_layer.weight", "per_layer_token_embd.weight"},
                                  {"model.per_layer_model_projection.weight", "per_layer_model_proj.weight"},
                                  {"model.per_layer_projection_norm.weight", "per_layer_proj_norm.weight"}};
/* Of a layer. Where both are without an end, .weight or .bias follows; the same name twice: files have one or the other. */
static const name_pair parts[] = {{"input_layernorm", "attn_norm"},
                                  {"self_attn.q_proj", "attn_q"},
                                  {"self_attn.k_proj", "attn_k"},
                                  {"self_attn.v_proj", "attn_v"},
                                  {"self_attn.q_norm", "attn_q_norm"},
                                  {"self_attn.k_norm", "attn_k_norm"},
                                  {"self_attn.o_proj", "attn_output"},
                                  {"self_attn.qkv_proj", "attn_qkv"},
                                  {"self_attn.sinks", "attn_sinks.weight"},
                                  {"self_attn.post_norm", "post_attention_norm"},
                                  {"post_attention_layernorm", "ffn_norm"},
                                  {"post_attention_layernorm", "post_attention_norm"},
                                  {"mlp.gate_proj", "ffn_gate"},
                                  {"mlp.up_proj", "ffn_up"},
                                  {"mlp.down_proj", "ffn_down"},
                                  {"mlp.gate_up_proj", "ffn_up"},
                                  {"mlp.post_norm", "post_ffw_norm"},
                                  /* latent attention */
                                  {"self_attn.q_a_proj", "attn_q_a"},
                                  {"self_attn.q_a_layernorm", "attn_q_a_norm"},
                                  {"self_attn.q_b_proj", "attn_q_b"},
                                  {"self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"},
                                  {"self_attn.kv_a_layernorm", "attn_kv_a_norm"},
                                  {"self_attn.kv_b_proj", "attn_kv_b"},
                                  {"self_attn.k_b_proj", "attn_k_b"},
                                  {"self_attn.v_b_proj", "attn_v_b"},
                                  /* recurrent layers */
                                  {"linear_attn.in_proj_qkv", "attn_qkv"},
                                  {"linear_attn.in_proj_z", "attn_gate"},
                                  {"linear_attn.in_proj_qkvz", "ssm_in"},
                                  {"linear_attn.in_proj_b", "ssm_beta"},
                                  {"linear_attn.in_proj_a", "ssm_alpha"},
                                  {"linear_attn.in_proj_ba", "ssm_ba"},
                                  {"linear_attn.conv1d", "ssm_conv1d"},
                                  {"linear_attn.minus_exp_A", "ssm_a"},
                                  {"linear_attn.dt_bias", "ssm_dt.bias"},
                                  {"linear_attn.norm", "ssm_norm"},
                                  {"linear_attn.out_proj", "ssm_out"},
                                  /* experts */
                                  {"mlp.gate", "ffn_gate_inp"},
                                  {"mlp.gate.e_score_correction_bias", "exp_probs_b.bias"},
                                  {"mlp.experts.gate_proj", "ffn_gate_exps"},
                                  {"mlp.experts.up_proj", "ffn_up_exps"},
                                  {"mlp.experts.down_proj", "ffn_down_exps"},
                                  {"mlp.experts.gate_up_proj", "ffn_gate_up_exps.weight"},
                                  {"mlp.experts.gate_proj_bias", "ffn_gate_exps.bias"},
                                  {"mlp.experts.up_proj_bias", "ffn_up_exps.bias"},
                                  {"mlp.experts.down_proj_bias", "ffn_down_exps.bias"},
                                  {"mlp.shared_expert.gate_proj", "ffn_gate_shexp"},
                                  {"mlp.shared_expert.up_proj", "ffn_up_shexp"},
                                  {"mlp.shared_expert.down_proj", "ffn_down_shexp"},
                                  {"mlp.shared_expert_gate", "ffn_gate_inp_shexp"},
                                  /* Gemma 4 */
                                  {"router.scale", "ffn_gate_inp.scale"},
                                  {"router.per_expert_scale", "ffn_down_exps.scale"},
                                  {"post_feedforward_layernorm_1", "post_ffw_norm_1"},
                                  {"pre_feedforward_layernorm_2", "pre_ffw_norm_2"},
                                  {"post_feedforward_layernorm_2", "post_ffw_norm_2"},
                                  {"per_layer_input_gate", "inp_gate"},
                                  {"per_layer_projection", "proj"},
                                  {"post_per_layer_input_norm", "post_norm"},
                                  {"layer_scalar", "layer_output_scale.weight"}};

bool kvi_gguf_tensor_name(const char *name, unsigned nth, char *out, size_t cap)
{
    static const char prefix[] = "model.layers.";
    for (size_t i = 0; i < sizeof whole / sizeof whole[0]; i++)
        if (strcmp(name, whole[i].ours) == 0)
            return nth == 0 && (size_t)snprintf(out, cap, "%s", whole[i].theirs) < cap;
    if (strncmp(name, prefix, sizeof prefix - 1) != 0) return false;
    char *part;
    const unsigned long layer = strtoul(name + sizeof prefix - 1, &part, 10);
    if (*part++ != '.') return false;
    const char *kind = strrchr(part, '.');
    const size_t stem =
        kind && (strcmp(kind, ".weight") == 0 || strcmp(kind, ".bias") == 0) ? (size_t)(kind - part) : 0;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        const bool all = strcmp(part, parts[i].ours) == 0;
        if (!all && (!stem || strlen(parts[i].ours) != stem || memcmp(part, parts[i].ours, stem) != 0)) continue;
        if (nth--) continue;
        return (size_t)snprintf(out, cap, "blk.%lu.%s%s", layer, parts[i].theirs, all ? "" : kind) < cap;
    }
    return false;
}

/* --------------------------------------------------------------------------------------------------- checkpoint --- */
typedef struct gguf_checkpoint {
    kvi_checkpoint base;
    const kvi_gguf *g;
    kvi_tensor *tensors; /* (n_tensors) in the order of g */
    bool fused;          /* no feed-forward gate of its own */
} gguf_checkpoint;

static const gguf_checkpoint *own(const kvi_checkpoint *c) { return (const gguf_checkpoint *)(const void *)c; }

/* X(name of the type), of those whose form has the same name. */
#define TYPES(X)                                                                                                       \
    X(F32)                                                                                                             \
    X(F16)                                                                                                             \
    X(BF16)                                                                                                            \
    X(F64)                                                                                                             \
    X(Q4_0)                                                                                                            \
    X(Q4_1)                                                                                                            \
    X(Q5_0)                                                                                                            \
    X(Q5_1)                                                                                                            \
    X(Q8_0)                                                                                                            \
    X(Q2_K)                                                                                                            \
    X(Q3_K)                                                                                                            \
    X(Q4_K)                                                                                                            \
    X(Q5_K)                                                                                                            \
    X(Q6_K)                                                                                                            \
    X(IQ4_NL)                                                                                                          \
    X(IQ4_XS)

static kvi_weight_form form_of(kvi_gguf_type type)
{
    switch (type) {
#define SAME(NAME)                                                                                                     \
    case KVI_GGUF_##NAME: return KVI_FORM_##NAME;
        TYPES(SAME)
#undef SAME
    case KVI_GGUF_MXFP4: return KVI_FORM_MXFP4_BLOCK;
    case KVI_GGUF_NVFP4: return KVI_FORM_NVFP4_BLOCK;
    default: return KVI_FORM_NONE;
    }
}

static const kvi_tensor *find(const kvi_checkpoint *c, const char *name)
{
    char theirs[192];
    /* Phi-3's ffn_up is gate above up. */
    if (strstr(name, own(c)->fused ? ".mlp.up_proj." : ".mlp.gate_up_proj.")) return NULL;
    for (unsigned nth = 0; kvi_gguf_tensor_name(name, nth, theirs, sizeof theirs); nth++) {
        const kvi_gguf_tensor *t = kvi_gguf_tensor_find(own(c)->g, theirs);
        if (t) return &own(c)->tensors[t - kvi_gguf_tensor_at(own(c)->g, 0)];
    }
    return NULL;
}

static const kvi_tensor *at(const kvi_checkpoint *c, uint64_t index) { return &own(c)->tensors[index]; }
static const char *file(const kvi_checkpoint *c, uint32_t index) { return kvi_gguf_file(own(c)->g, index); }
static void close(kvi_checkpoint *c)
{
    kvi_mem_free(own(c)->tensors);
    kvi_mem_free(c);
}

kvrt_status kvi_gguf_checkpoint(const kvi_gguf *g, kvi_checkpoint **out, kvrt_error *error)
{
#define NAME(NAME) #NAME ", "
    static const kvi_checkpoint_reader reader = {.settings = "the file's metadata",
                                                 .types = TYPES(NAME) "MXFP4 or NVFP4",
                                                 .our_names = true,
                                                 .find = find,
                                                 .at = at,
                                                 .file = file,
                                                 .close = close};
#undef NAME
    const uint64_t n = kvi_gguf_count(g);
    gguf_checkpoint *c = kvi_mem_zalloc(1, sizeof *c);
    kvi_tensor *tensors = kvi_mem_zalloc((size_t)n, sizeof *tensors);
    *out = NULL;
    if (!c || !tensors) {
        kvi_mem_free(c);
        kvi_mem_free(tensors);
        return kvi_error_nomem(error, n * sizeof *tensors, "tensor list");
    }
    for (uint64_t i = 0; i < n; i++) {
        const kvi_gguf_tensor *t = kvi_gguf_tensor_at(g, i);
        tensors[i] = (kvi_tensor){.name = t->name,
                                  .dtype = kvi_gguf_type_at((uint32_t)t->type)->name,
                                  .form = form_of(t->type),
                                  .n_dims = t->n_dims,
                                  .bytes = t->bytes,
                                  .data = t->data,
                                  .file = t->file};
        memcpy(tensors[i].shape, t->shape, sizeof t->shape);
    }
    c->base = (kvi_checkpoint){.reader = &reader,
                               .n_tensors = n,
                               .n_files = kvi_gguf_files(g),
                               .bytes = kvi_gguf_bytes(g),
                               .file_bytes = kvi_gguf_file_bytes(g)};
    c->g = g;
    c->tensors = tensors;
    c->fused = !kvi_gguf_tensor_find(g, "blk.0.ffn_gate.weight");
    *out = &c->base;
    return KVRT_OK;
}
