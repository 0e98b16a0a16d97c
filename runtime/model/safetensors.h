/* safetensors.h - the tensors of a Hugging Face folder, mapped read-only.
 * Owns: the maps and the directory of names. Every length, offset, shape and type is checked here, once; after open, a tensor's
 * [data, data + bytes) is inside its map. Refuses: headers that lie in any way (found and needed are named), shard names that leave
 * the folder. Format: huggingface/safetensors README. */
#ifndef KVI_SAFETENSORS_H
#define KVI_SAFETENSORS_H
#include "../base/os.h"

/* The closed list of element types. Those kvrt cannot compute with are readable too, so that `inspect` can name them. */
#define KVI_TENSOR_DTYPES(X)                                                                                           \
    X(BOOL, 8)                                                                                                         \
    X(U8, 8)                                                                                                           \
    X(I8, 8)                                                                                                           \
    X(F8_E5M2, 8)                                                                                                      \
    X(F8_E4M3, 8)                                                                                                      \
    X(F8_E8M0, 8)                                                                                                      \
    X(I16, 16)                                                                                                         \
    X(U16, 16)                                                                                                         \
    X(F16, 16)                                                                                                         \
    X(BF16, 16)                                                                                                        \
    X(I32, 32)                                                                                                         \
    X(U32, 32)                                                                                                         \
    X(F32, 32)                                                                                                         \
    X(F64, 64)                                                                                                         \
    X(I64, 64)                                                                                                         \
    X(U64, 64)
typedef enum kvi_tensor_dtype {
#define KVI_TENSOR_ENUM(name, bits) KVI_TENSOR_##name,
    KVI_TENSOR_DTYPES(KVI_TENSOR_ENUM)
#undef KVI_TENSOR_ENUM
        KVI_TENSOR_DTYPE_COUNT
} kvi_tensor_dtype;
const char *kvi_tensor_dtype_name(kvi_tensor_dtype dtype);

#define KVI_TENSOR_MAX_DIMS 8u

typedef struct kvi_tensor {
    const char *name; /* NUL-terminated, owned by the checkpoint */
    kvi_tensor_dtype dtype;
    uint32_t n_dims;
    uint64_t shape[KVI_TENSOR_MAX_DIMS];
    uint64_t bytes;
    const uint8_t *data; /* may be unaligned for its type */
    uint32_t file;       /* index into kvi_checkpoint_file */
} kvi_tensor;

typedef struct kvi_checkpoint kvi_checkpoint;

/* Opens DIR/model.safetensors, else DIR/model.safetensors.index.json with its shards. `copy` reads into memory instead of mapping.
 * Errors: IO (absent, unreadable), UNSUPPORTED (weights of another format, named), FORMAT (a lie; file and tensor named), NOMEM_HOST. */
kvrt_status kvi_checkpoint_open(const char *dir, bool copy, kvi_checkpoint **out, kvrt_error *error);
void kvi_checkpoint_close(kvi_checkpoint *checkpoint); /* NULL is fine */
/* NULL when absent. */
const kvi_tensor *kvi_checkpoint_find(const kvi_checkpoint *checkpoint, const char *name);
uint64_t kvi_checkpoint_count(const kvi_checkpoint *checkpoint);
const kvi_tensor *kvi_checkpoint_at(const kvi_checkpoint *checkpoint, uint64_t index);
uint32_t kvi_checkpoint_files(const kvi_checkpoint *checkpoint);
const char *kvi_checkpoint_file(const kvi_checkpoint *checkpoint, uint32_t index); /* base name */
uint64_t kvi_checkpoint_bytes(const kvi_checkpoint *checkpoint);                   /* of all tensors */
uint64_t kvi_checkpoint_file_bytes(const kvi_checkpoint *checkpoint);              /* mapped or copied */

/* One header, for the fuzzer and for tests: checks `len` bytes as a whole safetensors file called `name`. */
kvrt_status kvi_safetensors_check(const uint8_t *data, uint64_t len, const char *name, uint64_t *n_tensors,
                                  kvrt_error *error);

#endif
