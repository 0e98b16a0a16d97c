/* gguf_reading.h - what the files that make a configuration of a GGUF file share: the keys behind the name of the architecture. */
#ifndef KVI_GGUF_READING_H
#define KVI_GGUF_READING_H
#include "families.h"
#include "gguf_model.h"

#include <stdio.h>

typedef struct kvi_gguf_reading {
    const kvi_gguf *g;
    const char *file;
    kvi_gguf_text arch; /* "llama": prefix of the keys */
    const kvi_family *family;
    kvi_model_config *c;
    uint32_t n_blocks; /* layers, and behind them those that only guess further tokens (nextn_predict_layers) */
    kvrt_error *error;
} kvi_gguf_reading;

typedef struct kvi_gguf_key {
    char text[128];
} kvi_gguf_key;
static inline const char *kvi_gguf_key_of(const kvi_gguf_reading *r, kvi_gguf_key *out, const char *name)
{
    (void)snprintf(out->text, sizeof out->text, "%.*s.%s", (int)(r->arch.len < 60 ? r->arch.len : 60), r->arch.data,
                   name);
    return out->text;
}
static inline kvrt_status kvi_gguf_read_u32(const kvi_gguf_reading *r, const char *name, kvi_gguf_need need,
                                            uint32_t *out)
{
    kvi_gguf_key full;
    return kvi_gguf_u32(r->g, kvi_gguf_key_of(r, &full, name), need, out, r->error);
}
/* An optional number. */
static inline kvrt_status kvi_gguf_read_f64(const kvi_gguf_reading *r, const char *name, double *out)
{
    kvi_gguf_key full;
    return kvi_gguf_f64(r->g, kvi_gguf_key_of(r, &full, name), KVI_GGUF_OPTIONAL, out, r->error);
}

static inline kvrt_status kvi_gguf_read_bool(const kvi_gguf_reading *r, const char *name, bool *out)
{
    kvi_gguf_key full;
    return kvi_gguf_bool(r->g, kvi_gguf_key_of(r, &full, name), KVI_GGUF_OPTIONAL, out, r->error);
}

/* A figure of every block, into out (n_blocks): one number for all of them, or a list of numbers or bools. *found is false when there is no such
 * key; then out is as it was. */
kvrt_status kvi_gguf_read_blocks(const kvi_gguf_reading *r, const char *name, uint32_t *out, bool *found);
/* A number that may also stand as a list of equal ones, of Gemma 4 of any: then the first. */
kvrt_status kvi_gguf_read_same(const kvi_gguf_reading *r, const char *name, kvi_gguf_need need, uint32_t *out);
/* The tensor of a layer, by llama.cpp's name behind "blk.N."; NULL when absent. */
const kvi_gguf_tensor *kvi_gguf_layer_tensor(const kvi_gguf_reading *r, uint32_t layer, const char *name);

/* What a family has beyond Llama: gguf_families.c. Sizes, norms and the first RoPE are there before. */
kvrt_status kvi_gguf_family_keys(const kvi_gguf_reading *r);
/* Whether a key, without its architecture, is read by kvi_gguf_family_keys for this family. */
bool kvi_gguf_family_knows(const kvi_family *family, const char *name);
/* attention[0] sees everything, attention[1] has attention.sliding_window; every pattern-th layer is of the first kind, unless
 * attention.sliding_window_pattern says otherwise. pattern 1: none is of the second, 0: all. */
kvrt_status kvi_gguf_windows(const kvi_gguf_reading *r, uint32_t pattern);

/* gguf_mixers.c: recurrent layers, and latent attention: its sizes in place of those of heads, and the scale of its scores. */
kvrt_status kvi_gguf_delta(const kvi_gguf_reading *r);
kvrt_status kvi_gguf_latent_sizes(const kvi_gguf_reading *r);
kvrt_status kvi_gguf_latent_scale(const kvi_gguf_reading *r);
/* gguf_gemma4.c. */
kvrt_status kvi_gguf_gemma4(const kvi_gguf_reading *r);
/* gguf_experts.c: a mixture of experts, and whether its router goes by sigmoid. */
kvrt_status kvi_gguf_experts(const kvi_gguf_reading *r);
kvrt_status kvi_gguf_sigmoid(const kvi_gguf_reading *r, bool *out);

#endif
