/* families.h - model families as name maps plus flags. A family here needs no code of its own anywhere else. */
#ifndef KVI_FAMILIES_H
#define KVI_FAMILIES_H
#include <stdbool.h>
#include <stdint.h>

typedef enum kvi_window_rule {
    KVI_WINDOW_NEVER,
    KVI_WINDOW_ALL,    /* sliding_window applies to every layer */
    KVI_WINDOW_IF_USED /* with use_sliding_window, by layer_types or from max_window_layers on */
} kvi_window_rule;

typedef struct kvi_family {
    uint32_t index;           /* column of config_keys.h */
    const char *architecture; /* config.json "architectures"[0] */
    const char *name;         /* config.json "model_type" */
    bool qkv_bias;            /* always */
    bool qk_norm;             /* RMSNorm over head_dim on q and k before RoPE */
    kvi_window_rule window;
} kvi_family;

const kvi_family *kvi_family_find(const char *architecture);  /* NULL when unknown */
const kvi_family *kvi_family_of_type(const char *model_type); /* NULL when unknown */
/* "LlamaForCausalLM, MistralForCausalLM, ..." for messages. */
const char *kvi_family_list(void);

#endif
