/* config.h - what a model is: the checked content of config.json and generation_config.json.
 * Owns: defaults as transformers has them, and the refusal of everything kvrt would compute wrongly (the key, what was found and what is
 * needed are named). Layouts of transformers 4 (rope_theta, rope_scaling, torch_dtype) and 5 (rope_parameters, dtype) are read, and text models
 * inside one that also sees (text_config).
 * Zero is the neutral value of every field: no bias, no cap, a factor of one. What differs between layers stands in `layers`, by kind. */
#ifndef KVI_CONFIG_H
#define KVI_CONFIG_H
#include "../base/status.h"
#include "../../kernels/backend.h"
#include <stdbool.h>

#define KVI_MAX_LAYERS 1024u
#define KVI_MAX_EOS 16u
#define KVI_MAX_HEAD_DIM KVI_KV_MAX_HEAD_DIM

/* ------------------------------------------------------------------------------------------------------ layers --- */
typedef enum kvi_mixer {
    KVI_MIXER_ATTENTION,
    KVI_MIXER_LATENT,   /* attention over one compressed vector per position */
    KVI_MIXER_RECURRENT /* gated delta rule: a state instead of pages */
} kvi_mixer;
typedef enum kvi_ffn { KVI_FFN_DENSE, KVI_FFN_ROUTED } kvi_ffn;

typedef struct kvi_layer {
    uint8_t mixer;     /* kvi_mixer */
    uint8_t ffn;       /* kvi_ffn */
    uint8_t attention; /* index into kvi_model_config.attention, of layers that attend */
    bool wide;         /* the feed-forward part has twice ffn_size */
    uint16_t kv_of;    /* 1 + the layer whose keys and values it reads; 0: it has its own */
} kvi_layer;

/* A kind of attention that layers share. Most models have one, or one with a window and one without. */
#define KVI_MAX_ATTENTIONS 4u
#define KVI_NO_ROPE UINT8_MAX
typedef struct kvi_attention {
    uint32_t n_heads, n_kv_heads, head_dim;
    uint32_t window;     /* positions a query sees, its own included; 0: all */
    uint8_t rope;        /* index into kvi_model_config.ropes, or KVI_NO_ROPE */
    bool keys_as_values; /* values are what keys are made of */
} kvi_attention;

/* -------------------------------------------------------------------------------------------------------- rope --- */
typedef enum kvi_rope_scaling {
    KVI_ROPE_NONE,
    KVI_ROPE_LINEAR,
    KVI_ROPE_LLAMA3,
    KVI_ROPE_YARN,
    KVI_ROPE_PROPORTIONAL, /* the first n_turning frequencies of a whole head, the others 0 */
    KVI_ROPE_DIVISORS      /* each frequency has its own; longrope, and Llama 3 in GGUF files */
} kvi_rope_scaling;

typedef struct kvi_rope_spec {
    uint32_t n_dims; /* leading dimensions of a head that turn, even */
    double theta;
    kvi_rope_scaling scaling;
    double factor, low_freq_factor, high_freq_factor;
    uint32_t original_ctx;
    double beta_fast,
        beta_slow; /* of YARN: turns within original_ctx from which on a frequency stays, below which it is divided */
    bool truncate; /* of YARN: the two ends between them are whole dimensions */
    uint32_t n_turning;                   /* of PROPORTIONAL */
    float magnitude;                      /* multiplies cos and sin; 0: 1 */
    bool interleaved;                     /* rotated pairs are neighbours: GGUF files of Llama's family */
    float divisors[KVI_MAX_HEAD_DIM / 2]; /* (n_dims / 2) of KVI_ROPE_DIVISORS */
} kvi_rope_spec;

/* ------------------------------------------------------------------------------------------------------- parts --- */
/* Where the norms of a layer stand: x += f(norm x), x += norm f(x), x += norm f(norm x). */
typedef enum kvi_norms { KVI_NORMS_BEFORE, KVI_NORMS_AFTER, KVI_NORMS_BOTH } kvi_norms;
/* RMSNorm of q and k before RoPE: none, over each head, over all heads at once. */
typedef enum kvi_qk_norm { KVI_QK_NORM_NONE, KVI_QK_NORM_HEAD, KVI_QK_NORM_WIDTH } kvi_qk_norm;

/* Gated DeltaNet (DELTA and CONV_STATE of program.h). */
typedef struct kvi_delta {
    uint32_t n_key_heads, n_value_heads; /* the second a multiple of the first */
    uint32_t key_dim, value_dim;         /* of a head */
    uint32_t n_taps;                     /* of the convolution */
    bool tiled; /* value head h uses key head h mod n_key_heads, as GGUF files order them; else h / (ratio) */
} kvi_delta;

/* Latent attention (LATENT_APPEND and ATTENTION_LATENT): per token a latent and one roped key for all heads. */
typedef struct kvi_latent {
    uint32_t rank, rope_dim;     /* of the latent, of the roped key */
    uint32_t key_dim, value_dim; /* of a head, keys without their roped part */
    uint32_t q_rank;             /* queries come through a smaller width; 0: they do not */
    bool split; /* what heads make of the latent are two weights, keys by columns, as GGUF files have them */
} kvi_latent;

/* A mixture of experts. */
typedef struct kvi_experts {
    uint32_t n_experts;
    uint32_t width;        /* ffn of one expert */
    uint32_t shared_width; /* ffn of the shared experts together, 0: none */
    bool shared_gate;      /* what they give is multiplied by sigmoid(x w) */
    bool router_bias, correction, bias;
    bool beside_dense; /* Gemma 4: added to a dense part, with norms and a router of their own */
    bool interleaved;  /* gpt-oss: one tensor with gate and up in turns */
    kvi_route route;
} kvi_experts;

typedef struct kvi_model_config {
    char architecture[64]; /* "LlamaForCausalLM" */
    const char *family;    /* "llama", "qwen3_5_text": model_type of families.c; static */
    uint32_t n_layers, hidden_size, ffn_size, vocab_size;
    uint32_t mtp_layers; /* mtp_num_hidden_layers: what a checkpoint has to look further than one token */
    uint32_t n_ahead;    /* of them computed: 0, or 1, which is layers[n_layers]; kvi_config_look_ahead */
    uint32_t ctx_model;  /* max_position_embeddings */
    uint32_t ctx_limit;  /* no longer context is computed right, and `limit_why`; 0: none */
    const char *limit_why;

    kvi_layer layers[KVI_MAX_LAYERS + 1]; /* (n_layers + n_ahead) */
    kvi_attention attention[KVI_MAX_ATTENTIONS];
    kvi_rope_spec ropes[KVI_MAX_ROPES];
    uint32_t n_attentions, n_ropes;
    kvi_delta delta;     /* of recurrent layers */
    kvi_latent latent;   /* of latent layers, which all layers are where one is */
    kvi_experts experts; /* of routed layers */

    double rms_eps;
    float gain_add; /* files store gains of norms without it: 1 where they hold w - 1 */
    kvi_norms norms;
    kvi_qk_norm qk_norm;
    bool qkv_bias, o_bias, mlp_bias;
    bool value_norm;      /* values are normed, without gains */
    bool layer_scalar;    /* what leaves a layer is multiplied by a number of its own */
    uint32_t layer_input; /* width of what each layer gets beside the residual (Gemma 4); 0: nothing */
    uint32_t layer_input_vocab;
    bool attention_gate; /* attention *= sigmoid of a second half of q_proj */
    bool sinks;
    float score_scale; /* of attention; 0: 1 / sqrt(head_dim) */
    float q_growth;    /* queries grow with their position, ROPE_APPEND of program.h */
    uint32_t q_growth_ctx;
    float score_softcap, logit_softcap;
    float embedding_scale, residual_scale, logit_scale; /* 0: 1 */
    bool embedding_scale_narrow; /* rounded to the type of the embeddings, where that has 16 bits */
    kvi_activation activation;
    float activation_limit; /* of KVI_ACT_SWIGLU_OAI */
    bool tied_embeddings;

    int32_t bos_id; /* -1: none */
    int32_t eos_ids[KVI_MAX_EOS];
    uint32_t n_eos;
    char warning[256]; /* keys of config.json that transformers does not know either; empty: none */
} kvi_model_config;

static inline uint32_t kvi_ffn_size(const kvi_model_config *config, uint32_t layer)
{
    return config->ffn_size * (config->layers[layer].wide ? 2u : 1u);
}
/* The attention of a layer that attends. */
static inline const kvi_attention *kvi_attention_of(const kvi_model_config *config, uint32_t layer)
{
    return &config->attention[config->layers[layer].attention];
}

/* The last n layers read what the last layer of their kind of attention before them has in the cache. Returns 0, or 1 + a layer that finds none. */
uint32_t kvi_config_share_kv(kvi_model_config *config, uint32_t n);

/* Reads DIR/config.json and, when present, DIR/generation_config.json. Errors: IO, FORMAT, UNSUPPORTED. Also on failure, `architecture`
 * and the sizes are filled in as far as the file says them. */
kvrt_status kvi_config_read(const char *dir, kvi_model_config *out, kvrt_error *error);
/* IO when `path` is no folder. */
kvrt_status kvi_config_check_folder(const char *path, kvrt_error *error);
/* The model with its layer that looks one token further. UNSUPPORTED: it has none, or another number of them. */
kvrt_status kvi_config_look_ahead(kvi_model_config *config, kvrt_error *error);
/* kvi_config_read from memory; generation may be NULL. */
kvrt_status kvi_config_parse(const char *config, size_t config_len, const char *generation, size_t generation_len,
                             kvi_model_config *out, kvrt_error *error);

#endif
