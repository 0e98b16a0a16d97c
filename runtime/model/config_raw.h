/* config_raw.h - between config_read.c, which finds the keys of config.json, and config.c, which derives the model from them.
 * As in Python, of a key given twice the last one counts, whole: nothing of the first remains. */
#ifndef KVI_CONFIG_RAW_H
#define KVI_CONFIG_RAW_H
#include "config.h"
#include "families.h"
#include "../base/json.h"

#define KVI_NO_INT INT64_MIN /* null, or absent where transformers has no default */

/* rope_scaling or rope_parameters as it stands; NAN and KVI_NO_INT mark what is absent. */
typedef struct kvi_raw_rope {
    bool filled, nested; /* filled: holds any key, else transformers takes it for absent */
    char rope_type[32], type[32];
    double theta, factor, low_freq, high_freq, partial_rotary;
    int64_t original_ctx;
} kvi_raw_rope;

/* Keys as found; what is absent has the family's default. */
typedef struct kvi_raw_config {
    int64_t hidden_size, intermediate_size, n_layers, n_heads, n_kv_heads, head_dim, vocab_size, max_positions;
    int64_t sliding_window, max_window_layers, original_ctx;
    double rms_eps, rope_theta, partial_rotary;
    bool use_sliding_window, attention_bias, mlp_bias, tie; /* false also where the family does not know the key */
    kvi_raw_rope scaling, parameters;
    bool has_layer_types;
    uint32_t n_layer_types;
    uint8_t layer_types[KVI_MAX_LAYERS]; /* 1 = sliding_attention */
    char layer_type_problem[48], act[32];
    char quant_key[24], quant_method[48]; /* empty: not quantized */
    int64_t quant_bits;
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

#endif
