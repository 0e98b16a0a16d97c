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
static const name_pair whole[] = {
    {KVI_NAME_EMBED, "token_embd.weight"}, {KVI_NAME_NORM, "output_norm.weight"}, {KVI_NAME_HEAD, "output.weight"}};
/* Of a layer; .weight or .bias follows. */
static const name_pair parts[] = {{"input_layernorm", "attn_norm"},
                                  {"self_attn.q_proj", "attn_q"},
                                  {"self_attn.k_proj", "attn_k"},
                                  {"self_attn.v_proj", "attn_v"},
                                  {"self_attn.q_norm", "attn_q_norm"},
                                  {"self_attn.k_norm", "attn_k_norm"},
                                  {"self_attn.o_proj", "attn_output"},
                                  {"post_attention_layernorm", "ffn_norm"},
                                  {"mlp.gate_proj", "ffn_gate"},
                                  {"mlp.up_proj", "ffn_up"},
                                  {"mlp.down_proj", "ffn_down"},
                                  {"self_attn.qkv_proj", "attn_qkv"},
                                  {"self_attn.post_norm", "post_attention_norm"},
                                  {"mlp.post_norm", "post_ffw_norm"},
                                  {"mlp.gate_up_proj", "ffn_up"},
                                  {"mlp.gate", "ffn_gate_inp"},
                                  {"mlp.experts.gate_proj", "ffn_gate_exps"},
                                  {"mlp.experts.up_proj", "ffn_up_exps"},
                                  {"mlp.experts.down_proj", "ffn_down_exps"}};

bool kvi_gguf_tensor_name(const char *name, char *out, size_t cap)
{
    static const char prefix[] = "model.layers.";
    for (size_t i = 0; i < sizeof whole / sizeof whole[0]; i++)
        if (strcmp(name, whole[i].ours) == 0) return (size_t)snprintf(out, cap, "%s", whole[i].theirs) < cap;
    if (strncmp(name, prefix, sizeof prefix - 1) != 0) return false;
    char *part;
    const unsigned long layer = strtoul(name + sizeof prefix - 1, &part, 10);
    const char *kind = strrchr(name, '.');
    if (*part != '.' || kind <= part) return false;
    part++;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        const size_t len = strlen(parts[i].ours);
        if ((size_t)(kind - part) != len || memcmp(part, parts[i].ours, len) != 0) continue;
        return (size_t)snprintf(out, cap, "blk.%lu.%s%s", layer, parts[i].theirs, kind) < cap;
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
    if (!kvi_gguf_tensor_name(name, theirs, sizeof theirs)) return NULL;
    /* Phi-3's ffn_up is gate above up. */
    if (strstr(name, own(c)->fused ? ".mlp.up_proj." : ".mlp.gate_up_proj.")) return NULL;
    const kvi_gguf_tensor *t = kvi_gguf_tensor_find(own(c)->g, theirs);
    return t ? &own(c)->tensors[t - kvi_gguf_tensor_at(own(c)->g, 0)] : NULL;
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
