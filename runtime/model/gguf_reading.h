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

/* What a family has beyond Llama: gguf_families.c. Sizes, norms and the first RoPE are there before. */
kvrt_status kvi_gguf_family_keys(const kvi_gguf_reading *r);
/* Whether a key, without its architecture, is read by kvi_gguf_family_keys for this family. */
bool kvi_gguf_family_knows(const kvi_family *family, const char *name);

#endif
