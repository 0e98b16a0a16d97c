/* families.h - model families as name maps plus flags. A family here needs no code of its own anywhere else. */
#ifndef KVI_FAMILIES_H
#define KVI_FAMILIES_H
#include <stdbool.h>
#include <stdint.h>

typedef struct kvi_family {
    const char *architecture; /* config.json "architectures"[0] */
    const char *name;
    bool qkv_bias;          /* by default; Llama and Qwen3 say attention_bias */
    bool o_bias_follows;    /* attention_bias also puts a bias on o_proj */
    bool qk_norm;           /* RMSNorm over head_dim on q and k before RoPE */
    bool window_by_default; /* sliding_window applies without use_sliding_window */
    bool has_use_window;    /* the key use_sliding_window exists and defaults to false */
} kvi_family;

/* Tensor names, shared by all families so far; %u is the layer. */
#define KVI_NAME_EMBED "model.embed_tokens.weight"
#define KVI_NAME_NORM "model.norm.weight"
#define KVI_NAME_HEAD "lm_head.weight"
#define KVI_NAME_LAYER "model.layers.%u.%s"

const kvi_family *kvi_family_find(const char *architecture); /* NULL when unknown */
/* "LlamaForCausalLM, MistralForCausalLM, ..." for messages. */
const char *kvi_family_list(void);

#endif
