/* families.h - model families as data: names, and what is always so in a family and therefore stands in no config.json. A family here needs
 * no code of its own anywhere else. */
#ifndef KVI_FAMILIES_H
#define KVI_FAMILIES_H
#include "config.h"

typedef enum kvi_window_rule {
    KVI_WINDOW_NEVER,
    KVI_WINDOW_ALL,     /* sliding_window applies to every layer, or where layer_types says so */
    KVI_WINDOW_IF_USED, /* with use_sliding_window, by layer_types or from max_window_layers on */
    KVI_WINDOW_BY_TYPE, /* by layer_types alone */
    KVI_WINDOW_PATTERN  /* by layer_types, else all but every window_pattern-th */
} kvi_window_rule;

/* How a router weighs and chooses, in families of experts. */
typedef enum kvi_expert_rule {
    KVI_EXPERTS_NONE,
    KVI_EXPERTS_SOFTMAX,       /* by softmax over all experts */
    KVI_EXPERTS_SIGMOID,       /* by sigmoid, chosen with a correction of each expert */
    KVI_EXPERTS_CHOSEN_SOFTMAX /* by softmax over the chosen ones alone */
} kvi_expert_rule;

/* What a family calls a weight, where that is not kvrt's name (places.h): "mlp.gate" stands for all names that begin with it and go on with
 * a dot or end. */
typedef struct kvi_name_pair {
    const char *ours, *theirs;
} kvi_name_pair;

typedef struct kvi_family {
    const char *architecture;       /* config.json "architectures"[0] */
    const char *name;               /* config.json "model_type" */
    const char *outer, *outer_name; /* what both are where this model is the text_config of another; NULL: nowhere */
    kvi_window_rule window;         /* which layers have one */
    bool qkv_bias, o_bias;          /* always */
    kvi_qk_norm qk_norm;            /* before RoPE */
    kvi_norms norms;                /* where they stand */
    float gain_add;                 /* 1: files store gains as w - 1 */
    uint32_t window_pattern;        /* of KVI_WINDOW_PATTERN */
    bool two_ropes;                 /* one for full attention, with theta, one for windows, with window_theta */
    double theta, window_theta;
    bool proportional_rope;    /* of full attention, unless the config says otherwise */
    bool old_longrope;         /* "su" and "yarn" mean longrope */
    bool q_growth;             /* queries grow with their position */
    bool root_embedding_scale; /* embeddings *= sqrt(hidden_size), rounded to their type */
    bool value_norm, layer_scalar;
    float score_scale;          /* of attention; 0: 1 / sqrt(head_dim) */
    bool gemma4;                /* config_gemma4.c */
    bool granite4;              /* a Mamba hybrid with experts, of which the members without both are served */
    bool nope;                  /* no_rope_layers says which layers have RoPE */
    bool partial_rotary;        /* only some of the dimensions of a head may turn */
    bool mrope;                 /* rope_parameters may hold sections for pictures, which mean nothing for text */
    bool recurrent;             /* layers are linear_attention and full_attention */
    bool attention_gate;        /* q_proj has a second half for each head */
    bool sinks;                 /* a logit per head without a value */
    bool no_o_bias;             /* attention_bias is of q, k and v alone */
    bool latent;                /* attention over latents */
    bool rope_pairs;            /* of latent attention: turned pairs are neighbours, always */
    kvi_expert_rule experts;    /* which layers have them, the config says */
    bool renormalize;           /* weights of the chosen experts add up to one, always */
    bool ignores_norm_topk;     /* never, whatever norm_topk_prob says */
    bool shared_gate;           /* what shared experts give is gated */
    bool single_experts;        /* transformers also loads matrices of single experts, as modules */
    bool mlp_types;             /* mlp_layer_types says which layers have experts; without it all but the first */
    bool expert_bias;           /* the router and every expert have biases */
    bool swiglu_limit;          /* experts are gpt-oss's: clamped SwiGLU, gate and up in turns */
    const kvi_name_pair *names; /* ends with a NULL; NULL: none */
} kvi_family;

const kvi_family *kvi_family_find(const char *architecture);  /* NULL when unknown; also by `outer` */
const kvi_family *kvi_family_of_type(const char *model_type); /* NULL when unknown; also by `outer_name` */
/* The family of that place in the table; NULL past the end. */
const kvi_family *kvi_family_at(uint32_t index);
/* "LlamaForCausalLM, MistralForCausalLM, ..." for messages; static. */
const char *kvi_family_list(void);
/* What is always so in a family, into its config. */
void kvi_family_apply(const kvi_family *family, kvi_model_config *config);
/* What a family calls a weight of a layer, into out (cap). */
void kvi_family_rename(const kvi_family *family, const char *name, char *out, size_t cap);

#endif
