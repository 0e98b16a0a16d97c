/* gguf_impl.h - between gguf_read.c, which reads one file, and gguf.c, which puts files together and answers. */
#ifndef KVI_GGUF_IMPL_H
#define KVI_GGUF_IMPL_H
#include "gguf.h"
#include "../base/mem.h"

/* Open addressing over a list of names: index + 1, 0 empty. */
typedef struct kvi_gguf_names {
    uint32_t *slots;
    uint64_t n;
} kvi_gguf_names;

typedef struct kvi_gguf_meta {
    kvi_gguf_value *values; // (n)
    size_t n, cap;
    kvi_gguf_names names;
} kvi_gguf_meta;

typedef struct kvi_gguf_part {
    const char *name; /* base name, in the arena */
    kvi_map map;
} kvi_gguf_part;

struct kvi_gguf {
    kvi_arena arena; /* names */
    kvi_gguf_part *parts;
    uint32_t n_parts;
    bool borrowed;       /* the bytes are the caller's */
    kvi_gguf_meta *meta; /* of the first file */
    kvi_gguf_tensor *tensors;
    size_t n_tensors, cap_tensors;
    kvi_gguf_names names;
    uint64_t bytes;
};

/* Reads parts[part] whole: its metadata into *meta, its tensors behind those of earlier parts. */
kvrt_status kvi_gguf_read(kvi_gguf *g, uint32_t part, kvi_gguf_meta *meta, kvrt_error *error);
/* Enters n names; *twice is the index of one that is there already, or n. */
kvrt_status kvi_gguf_index(kvi_gguf_names *names, uint64_t n, const char *(*name_of)(const void *list, uint64_t index),
                           const void *list, uint64_t *twice, kvrt_error *error);
/* Index of a name, UINT64_MAX when it is not there. */
uint64_t kvi_gguf_index_find(const kvi_gguf_names *names, const char *name,
                             const char *(*name_of)(const void *list, uint64_t index), const void *list);
/* The accessors of gguf.h, on the metadata of any part called `file`. */
const kvi_gguf_value *kvi_gguf_meta_find(const kvi_gguf_meta *meta, const char *key);
kvrt_status kvi_gguf_meta_u32(const kvi_gguf_meta *meta, const char *file, const char *key, kvi_gguf_need need,
                              uint32_t *out, kvrt_error *error);

#endif
