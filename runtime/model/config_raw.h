/* config_raw.h - between config_read.c, which finds the keys of config.json, and config*.c, which derive the model from them.
 * As in Python, of a key given twice the last one counts, whole: nothing of the first remains. */
#ifndef KVI_CONFIG_RAW_H
#define KVI_CONFIG_RAW_H
#include "config.h"
#include "families.h"
#include "../base/json.h"

#define KVI_NO_INT INT64_MIN /* null, or absent where transformers has no default */

/* Keys with one value. A field has the name of its key; what is absent has the family's default, and where that is null, or the family does not
 * know the key, KVI_NO_INT, NAN or false. Integers and numbers of the second list may be null in a file, too. */
#define KVI_CONFIG_INTS(X)                                                                                             \
    X(hidden_size)                                                                                                     \
    X(intermediate_size)                                                                                               \
    X(num_hidden_layers)                                                                                               \
    X(num_attention_heads)                                                                                             \
    X(num_key_value_heads)                                                                                             \
    X(head_dim)                                                                                                        \
    X(vocab_size)                                                                                                      \
    X(max_position_embeddings)                                                                                         \
    X(original_max_position_embeddings)                                                                                \
    X(sliding_window)                                                                                                  \
    X(max_window_layers)                                                                                               \
    X(sliding_window_pattern)                                                                                          \
    X(no_rope_layer_interval)                                                                                          \
    X(global_head_dim)                                                                                                 \
    X(num_global_key_value_heads)                                                                                      \
    X(num_kv_shared_layers)                                                                                            \
    X(hidden_size_per_layer_input)                                                                                     \
    X(vocab_size_per_layer_input)                                                                                      \
    X(num_experts)                                                                                                     \
    X(top_k_experts)                                                                                                   \
    X(moe_intermediate_size)                                                                                           \
    X(full_attention_interval)                                                                                         \
    X(linear_num_key_heads)                                                                                            \
    X(linear_num_value_heads)                                                                                          \
    X(linear_key_head_dim)                                                                                             \
    X(linear_value_head_dim)                                                                                           \
    X(linear_conv_kernel_dim)                                                                                          \
    X(mtp_num_hidden_layers)                                                                                           \
    X(num_experts_per_tok)                                                                                             \
    X(shared_expert_intermediate_size)                                                                                 \
    X(shared_intermediate_size)                                                                                        \
    X(n_shared_experts)                                                                                                \
    X(n_group)                                                                                                         \
    X(topk_group)                                                                                                      \
    X(first_k_dense_replace)                                                                                           \
    X(decoder_sparse_step)                                                                                             \
    X(kv_lora_rank)                                                                                                    \
    X(q_lora_rank)                                                                                                     \
    X(qk_rope_head_dim)                                                                                                \
    X(qk_nope_head_dim)                                                                                                \
    X(v_head_dim)
#define KVI_CONFIG_NUMBERS(X)                                                                                          \
    X(rms_norm_eps)                                                                                                    \
    X(rope_theta)                                                                                                      \
    X(default_theta)                                                                                                   \
    X(partial_rotary_factor)                                                                                           \
    X(rope_local_base_freq)                                                                                            \
    X(routed_scaling_factor)                                                                                           \
    X(swiglu_limit)
#define KVI_CONFIG_NUMBERS_OR_NULL(X)                                                                                  \
    X(query_pre_attn_scalar)                                                                                           \
    X(attn_logit_softcapping)                                                                                          \
    X(final_logit_softcapping)                                                                                         \
    X(embedding_multiplier)                                                                                            \
    X(attention_multiplier)                                                                                            \
    X(residual_multiplier)                                                                                             \
    X(logits_scaling)
#define KVI_CONFIG_FLAGS(X)                                                                                            \
    X(attention_k_eq_v)                                                                                                \
    X(enable_moe_block)                                                                                                \
    X(use_double_wide_mlp)                                                                                             \
    X(use_sliding_window)                                                                                              \
    X(attention_bias)                                                                                                  \
    X(mlp_bias)                                                                                                        \
    X(tie_word_embeddings)                                                                                             \
    X(qkv_bias)                                                                                                        \
    X(use_qk_norm)                                                                                                     \
    X(norm_topk_prob)                                                                                                  \
    X(rope_interleave)

/* rope_scaling or rope_parameters as it stands; NAN and KVI_NO_INT mark what is absent. */
typedef struct kvi_raw_rope {
    bool filled,
        nested; /* filled: holds any key, else transformers takes it for absent; nested: a set for each type of layer */
    char rope_type[32], type[32];
    double theta, factor, low_freq, high_freq, partial_rotary;
    double attention_factor, beta_fast, beta_slow, mscale, mscale_all_dim; /* yarn; the first of longrope too */
    double q_growth;                                                       /* llama_4_scaling_beta */
    bool no_truncate;
    int64_t original_ctx;
    float short_factor[KVI_MAX_HEAD_DIM / 2]; /* (n_short) of longrope */
    uint32_t n_short, n_long;
} kvi_raw_rope;

/* What layer_types calls a layer, in the order of kvi_layer_type_name. */
typedef enum kvi_layer_type { KVI_LAYER_FULL, KVI_LAYER_SLIDING, KVI_LAYER_LINEAR, KVI_LAYER_TYPES } kvi_layer_type;

typedef struct kvi_raw_config {
#define KVI_INT(key) int64_t key;
#define KVI_NUMBER(key) double key;
#define KVI_FLAG(key) bool key;
    KVI_CONFIG_INTS(KVI_INT)
    KVI_CONFIG_NUMBERS(KVI_NUMBER)
    KVI_CONFIG_NUMBERS_OR_NULL(KVI_NUMBER)
    KVI_CONFIG_FLAGS(KVI_FLAG)
#undef KVI_INT
#undef KVI_NUMBER
#undef KVI_FLAG
    kvi_raw_rope scaling, parameters;
    kvi_raw_rope full, sliding; /* of rope_parameters that differ by type of layer */
    bool has_layer_types;
    uint32_t n_layer_types;
    uint8_t layer_types[KVI_MAX_LAYERS]; /* kvi_layer_type */
    char layer_type_problem[48], act[32];
    bool has_per_layer;                /* per_layer_config: layers with other heads */
    uint8_t per_layer[KVI_MAX_LAYERS]; /* 1: has them */
    int64_t layer_head_dim, layer_kv;  /* KVI_NO_INT: as the others */
    bool per_layer_problem;            /* they differ among themselves, or more than that differs */
    char position_type[16];            /* position_embedding_type */
    bool has_no_rope_layers;
    uint32_t n_no_rope_layers;
    bool rope_layers[KVI_MAX_LAYERS];         /* no_rope_layers: true where a layer has RoPE */
    uint32_t mlp_only_layers[KVI_MAX_LAYERS]; /* (n_mlp_only_layers) */
    uint32_t n_mlp_only_layers;
    bool has_mlp_layer_types;
    uint32_t n_mlp_layer_types;
    bool sparse_layers[KVI_MAX_LAYERS]; /* mlp_layer_types: true where it is sparse */
    char mlp_type_problem[48], topk_method[32];
    char bidirectional[16]; /* use_bidirectional_attention: empty for null and false */
} kvi_raw_config;

/* Family by architectures and model_type. Fills in out->architecture. FORMAT, UNSUPPORTED. */
kvrt_status kvi_config_find_family(const char *text, size_t len, kvi_model_config *out, const kvi_family **family,
                                   kvrt_error *error);
/* Reads every key. Token ids and the warning go straight to *out. With family == NULL (an unknown one, for inspect) nothing has a default and no
 * key is refused. FORMAT, UNSUPPORTED (a key that transformers knows, kvrt does not compute, and that is not at its default). */
kvrt_status kvi_config_read_keys(const char *text, size_t len, const kvi_family *family, kvi_model_config *out,
                                 kvi_raw_config *raw, kvrt_error *error);
/* One id or a list of a JSON text. */
void kvi_config_read_ids(kvi_json *r, int32_t *ids, uint32_t *n);

/* An integer key within [low, high]; FORMAT when absent or negative, UNSUPPORTED when outside. */
kvrt_status kvi_config_size(const char *key, int64_t found, int64_t low, int64_t high, uint32_t *out,
                            kvrt_error *error);
/* Parts of the derivation, in this order; sizes are there before. */
kvrt_status kvi_config_layers(const kvi_raw_config *raw, const kvi_family *family, kvi_model_config *out,
                              kvrt_error *error); /* config_layers.c: mixers, windows */
kvrt_status kvi_config_rope(const kvi_raw_config *raw, const kvi_family *family, kvi_model_config *out,
                            kvrt_error *error);                                                    /* config_rope.c */
kvrt_status kvi_config_delta(const kvi_raw_config *raw, kvi_model_config *out, kvrt_error *error); /* config_delta.c */
/* What is Gemma 4's alone: heads of full attention, shared keys and values, per-layer inputs, experts beside a dense part. */
kvrt_status kvi_config_gemma4(const kvi_raw_config *raw, kvi_model_config *out, kvrt_error *error);
kvrt_status kvi_config_experts(const kvi_raw_config *raw, const kvi_family *family, kvi_model_config *out,
                               kvrt_error *error); /* config_experts.c */
/* config_latent.c: instead of the heads of other attention, before the rest; and the scale of the scores, after RoPE. */
kvrt_status kvi_config_latent(const kvi_raw_config *raw, const kvi_family *family, kvi_model_config *out,
                              kvrt_error *error);
void kvi_config_latent_scale(const kvi_raw_config *raw, kvi_model_config *out);

#define KVI_MAX_POSITIONS (1 << 24)

#endif
