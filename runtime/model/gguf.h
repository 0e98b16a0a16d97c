/* gguf.h - the container of GGUF files (versions 2 and 3, little-endian, one file or split), mapped read-only.
 * Owns: the maps, the directories of metadata and tensors. Every length, offset, shape and type is checked here, once; after open each
 * value's bytes and each tensor's [data, data + bytes) lie inside their map. Refuses: files that lie in any way (file, key or tensor, found
 * and needed are named), duplicates, version 1, big-endian files, arrays of arrays. Format: GGML's specification of GGUF.
 * To know: strings are bytes of the map, not NUL-terminated, and need not be UTF-8. Shapes are written as in Hugging Face files, slowest
 * dimension first; the file itself has them the other way round. */
#ifndef KVI_GGUF_H
#define KVI_GGUF_H
#include "../base/os.h"

/* Element types that are known: number in the file, weights and bytes of a block. All can be listed; gguf_blocks.h says which are computed
 * with. A row (the last dimension) is a whole number of blocks. */
#define KVI_GGUF_TYPES(X)                                                                                              \
    X(F32, 0, 1, 4)                                                                                                    \
    X(F16, 1, 1, 2)                                                                                                    \
    X(Q4_0, 2, 32, 18)                                                                                                 \
    X(Q4_1, 3, 32, 20)                                                                                                 \
    X(Q5_0, 6, 32, 22)                                                                                                 \
    X(Q5_1, 7, 32, 24)                                                                                                 \
    X(Q8_0, 8, 32, 34)                                                                                                 \
    X(Q8_1, 9, 32, 36)                                                                                                 \
    X(Q2_K, 10, 256, 84)                                                                                               \
    X(Q3_K, 11, 256, 110)                                                                                              \
    X(Q4_K, 12, 256, 144)                                                                                              \
    X(Q5_K, 13, 256, 176)                                                                                              \
    X(Q6_K, 14, 256, 210)                                                                                              \
    X(Q8_K, 15, 256, 292)                                                                                              \
    X(IQ2_XXS, 16, 256, 66)                                                                                            \
    X(IQ2_XS, 17, 256, 74)                                                                                             \
    X(IQ3_XXS, 18, 256, 98)                                                                                            \
    X(IQ1_S, 19, 256, 50)                                                                                              \
    X(IQ4_NL, 20, 32, 18)                                                                                              \
    X(IQ3_S, 21, 256, 110)                                                                                             \
    X(IQ2_S, 22, 256, 82)                                                                                              \
    X(IQ4_XS, 23, 256, 136)                                                                                            \
    X(I8, 24, 1, 1)                                                                                                    \
    X(I16, 25, 1, 2)                                                                                                   \
    X(I32, 26, 1, 4)                                                                                                   \
    X(I64, 27, 1, 8)                                                                                                   \
    X(F64, 28, 1, 8)                                                                                                   \
    X(IQ1_M, 29, 256, 56)                                                                                              \
    X(BF16, 30, 1, 2)                                                                                                  \
    X(TQ1_0, 34, 256, 54)                                                                                              \
    X(TQ2_0, 35, 256, 66)                                                                                              \
    X(MXFP4, 39, 32, 17)                                                                                               \
    X(NVFP4, 40, 64, 36)                                                                                               \
    X(Q1_0, 41, 128, 18)
typedef enum kvi_gguf_type {
#define KVI_GGUF_ENUM(name, number, weights, bytes) KVI_GGUF_##name = number,
    KVI_GGUF_TYPES(KVI_GGUF_ENUM)
#undef KVI_GGUF_ENUM
        KVI_GGUF_TYPE_END
} kvi_gguf_type;
typedef struct kvi_gguf_type_info {
    const char *name; /* "Q4_K" */
    uint32_t block_weights, block_bytes;
} kvi_gguf_type_info;
const kvi_gguf_type_info *kvi_gguf_type_at(uint32_t type); /* NULL: no such type */

#define KVI_GGUF_MAX_DIMS 4u
typedef struct kvi_gguf_tensor {
    const char *name; /* NUL-terminated */
    kvi_gguf_type type;
    uint32_t n_dims;
    uint64_t shape[KVI_GGUF_MAX_DIMS]; /* slowest first */
    uint64_t bytes;
    const uint8_t *data; /* aligned to the file's alignment within the file */
    uint32_t file;       /* index into kvi_gguf_file */
} kvi_gguf_tensor;

/* Kinds of metadata values, as numbered in the file. */
typedef enum kvi_gguf_kind {
    KVI_GGUF_KIND_U8,
    KVI_GGUF_KIND_I8,
    KVI_GGUF_KIND_U16,
    KVI_GGUF_KIND_I16,
    KVI_GGUF_KIND_U32,
    KVI_GGUF_KIND_I32,
    KVI_GGUF_KIND_F32,
    KVI_GGUF_KIND_BOOL,
    KVI_GGUF_KIND_STRING,
    KVI_GGUF_KIND_ARRAY,
    KVI_GGUF_KIND_U64,
    KVI_GGUF_KIND_I64,
    KVI_GGUF_KIND_F64,
    KVI_GGUF_KIND_COUNT
} kvi_gguf_kind;
const char *kvi_gguf_kind_name(kvi_gguf_kind kind); /* "u32", "string", ... */

/* A value, or the n elements of an array, one behind the other from `at`. */
typedef struct kvi_gguf_value {
    const char *key; /* NUL-terminated */
    kvi_gguf_kind kind;
    bool is_array;
    uint64_t n; /* 1 for what is no array */
    const uint8_t *at;
} kvi_gguf_value;
typedef struct kvi_gguf_text {
    const char *data;
    size_t len;
} kvi_gguf_text;

typedef struct kvi_gguf kvi_gguf;

/* Opens a file; of a split model (NAME-00001-of-00003.gguf) any one of them, and the others beside it. `copy` reads into memory instead of
 * mapping. Errors: IO, UNSUPPORTED (another version, byte order or element type), FORMAT, NOMEM_HOST. */
kvrt_status kvi_gguf_open(const char *path, bool copy, kvi_gguf **out, kvrt_error *error);
/* The same of bytes that the caller keeps, called `name` in messages; a split file is refused. */
kvrt_status kvi_gguf_parse(const uint8_t *data, uint64_t len, const char *name, kvi_gguf **out, kvrt_error *error);
void kvi_gguf_close(kvi_gguf *g); /* NULL is fine */

/* Metadata; of a split model that of its first file. NULL when absent. */
const kvi_gguf_value *kvi_gguf_find(const kvi_gguf *g, const char *key);
uint64_t kvi_gguf_n_values(const kvi_gguf *g);
const kvi_gguf_value *kvi_gguf_value_at(const kvi_gguf *g, uint64_t index);
/* What to do about a key that is absent: leave *out as it is, or fail. */
typedef enum kvi_gguf_need { KVI_GGUF_OPTIONAL, KVI_GGUF_REQUIRED } kvi_gguf_need;
/* A value of another kind, or out of range, is a FORMAT error that names file, key, found and needed. Integers of any width will do. */
kvrt_status kvi_gguf_u32(const kvi_gguf *g, const char *key, kvi_gguf_need need, uint32_t *out, kvrt_error *error);
kvrt_status kvi_gguf_f64(const kvi_gguf *g, const char *key, kvi_gguf_need need, double *out, kvrt_error *error);
kvrt_status kvi_gguf_bool(const kvi_gguf *g, const char *key, kvi_gguf_need need, bool *out, kvrt_error *error);
kvrt_status kvi_gguf_string(const kvi_gguf *g, const char *key, kvi_gguf_need need, kvi_gguf_text *out,
                            kvrt_error *error);
/* An array of strings, of 32-bit integers or of f32; *out is NULL when it is absent. */
kvrt_status kvi_gguf_array(const kvi_gguf *g, const char *key, kvi_gguf_kind kind, kvi_gguf_need need,
                           const kvi_gguf_value **out, kvrt_error *error);
/* The string at *at, which moves behind it. Only for arrays of strings, n times from value->at. */
kvi_gguf_text kvi_gguf_next_string(const uint8_t **at);
int32_t kvi_gguf_i32_at(const kvi_gguf_value *array, uint64_t index); /* of i32 or u32 */
float kvi_gguf_f32_at(const kvi_gguf_value *array, uint64_t index);

const kvi_gguf_tensor *kvi_gguf_tensor_find(const kvi_gguf *g, const char *name); /* NULL when absent */
uint64_t kvi_gguf_count(const kvi_gguf *g);
const kvi_gguf_tensor *kvi_gguf_tensor_at(const kvi_gguf *g, uint64_t index);
uint32_t kvi_gguf_files(const kvi_gguf *g);
const char *kvi_gguf_file(const kvi_gguf *g, uint32_t index); /* base name */
uint64_t kvi_gguf_bytes(const kvi_gguf *g);                   /* of all tensors */
uint64_t kvi_gguf_file_bytes(const kvi_gguf *g);              /* mapped or copied */

#endif
