/* config.h - what a model is: the checked content of config.json and generation_config.json.
 * Owns: defaults as transformers has them, and the refusal of everything kvrt would compute wrongly (the key, what was found and what is
 * needed are named). Layouts of transformers 4 (rope_theta, rope_scaling, torch_dtype) and 5 (rope_parameters, dtype) are read. */
#ifndef KVI_CONFIG_H
#define KVI_CONFIG_H
#include "../base/status.h"
#include <stdbool.h>

#define KVI_MAX_LAYERS 1024u
#define KVI_MAX_EOS 16u

#define KVI_MAX_HEAD_DIM 256u

typedef enum kvi_rope_scaling {
    KVI_ROPE_NONE,
    KVI_ROPE_LINEAR,
    KVI_ROPE_LLAMA3,
    KVI_ROPE_DIVISORS /* each frequency has its own */
} kvi_rope_scaling;

/* What a layer is made of. */
typedef enum kvi_mixer {
    KVI_MIXER_ATTENTION, /* sees everything */
    KVI_MIXER_WINDOW,    /* attention over the last sliding_window positions */
    KVI_MIXER_LATENT,    /* attention over one compressed vector per position */
    KVI_MIXER_RECURRENT  /* a state instead of pages */
} kvi_mixer;
typedef enum kvi_ffn { KVI_FFN_DENSE, KVI_FFN_ROUTED } kvi_ffn;

typedef struct kvi_model_config {
    char architecture[64]; /* "LlamaForCausalLM" */
    const char *family;    /* "llama", "mistral", "qwen2", "qwen3"; static */
    uint32_t n_layers, n_heads, n_kv_heads, head_dim, hidden_size, ffn_size, vocab_size;
    uint32_t ctx_model; /* max_position_embeddings */
    double rms_eps;
    double rope_theta;
    kvi_rope_scaling rope_scaling;
    double rope_factor, rope_low_freq_factor, rope_high_freq_factor;
    uint32_t rope_original_ctx;
    float rope_divisors[KVI_MAX_HEAD_DIM / 2]; /* (head_dim / 2) of KVI_ROPE_DIVISORS */
    bool rope_interleaved;                     /* rotated pairs are neighbours: GGUF files of Llama's family */
    uint32_t sliding_window;                   /* 0: none */
    uint8_t mixer[KVI_MAX_LAYERS];             /* (n_layers) kvi_mixer */
    uint8_t ffn[KVI_MAX_LAYERS];               /* (n_layers) kvi_ffn */
    bool tied_embeddings;
    bool qkv_bias, o_bias;
    bool qk_norm;
    int32_t bos_id; /* -1: none */
    int32_t eos_ids[KVI_MAX_EOS];
    uint32_t n_eos;
    char warning[256]; /* keys of config.json that transformers does not know either; empty: none */
} kvi_model_config;

/* Reads DIR/config.json and, when present, DIR/generation_config.json. Errors: IO, FORMAT, UNSUPPORTED. Also on failure, `architecture`
 * and the sizes are filled in as far as the file says them. */
kvrt_status kvi_config_read(const char *dir, kvi_model_config *out, kvrt_error *error);
/* IO when `path` is no folder. */
kvrt_status kvi_config_check_folder(const char *path, kvrt_error *error);
/* kvi_config_read from memory; generation may be NULL. */
kvrt_status kvi_config_parse(const char *config, size_t config_len, const char *generation, size_t generation_len,
                             kvi_model_config *out, kvrt_error *error);
/* Parameters of the model, from the shape alone. */
uint64_t kvi_config_params(const kvi_model_config *config);

#endif
