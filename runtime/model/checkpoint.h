/* checkpoint.h - tensors by name, whatever container they come from. A container is a reader: a table of functions and a struct of its own that
 * begins with a kvi_checkpoint. Nothing above this header knows which container it is.
 *
 *   safetensors.c  a Hugging Face folder                         struct reader_of_mine { kvi_checkpoint base; ... };
 *
 * A reader checks every length, offset, shape and type when it opens: afterwards a tensor's [data, data + bytes) lies inside its map. */
#ifndef KVI_CHECKPOINT_H
#define KVI_CHECKPOINT_H
#include "weight_form.h"
#include "../base/status.h"
#include <stdbool.h>

#define KVI_TENSOR_MAX_DIMS 8u

typedef struct kvi_tensor {
    const char *name;     /* NUL-terminated, owned by the checkpoint */
    const char *dtype;    /* as the container calls it: "BF16", "Q4_K"; static */
    kvi_weight_form form; /* KVI_FORM_NONE: listed by inspect, no weight */
    uint32_t n_dims;
    uint64_t shape[KVI_TENSOR_MAX_DIMS]; /* outermost first: (n_out, n_in) as in Hugging Face files */
    uint64_t bytes;
    const uint8_t *data; /* may be unaligned for its type */
    uint32_t file;       /* index into kvi_checkpoint_file */
} kvi_tensor;

typedef struct kvi_checkpoint kvi_checkpoint;

typedef struct kvi_checkpoint_reader {
    const char *settings; /* for messages: where it says what the model is like ("config.json"), */
    const char *types;    /* and which types are computed with */
    bool our_names;       /* finds tensors by kvrt's names (places.h), whatever the family calls them */
    const kvi_tensor *(*find)(const kvi_checkpoint *checkpoint, const char *name); /* NULL when absent */
    const kvi_tensor *(*at)(const kvi_checkpoint *checkpoint, uint64_t index);     /* index < n_tensors */
    const char *(*file)(const kvi_checkpoint *checkpoint, uint32_t index);         /* base name; index < n_files */
    void (*close)(kvi_checkpoint *checkpoint);
} kvi_checkpoint_reader;

struct kvi_checkpoint {
    const kvi_checkpoint_reader *reader;
    struct kvi_quantization *quantization; /* what a folder says of it; owned; NULL: nothing */
    uint64_t n_tensors;
    uint32_t n_files;
    uint64_t bytes;      /* of all tensors */
    uint64_t file_bytes; /* mapped or copied */
};

/* Opens what `path` holds. `copy` reads into memory instead of mapping.
 * Errors: IO (absent, unreadable), UNSUPPORTED (weights of another format, named), FORMAT (a lie; file and tensor named), NOMEM_HOST. */
kvrt_status kvi_checkpoint_open(const char *path, bool copy, kvi_checkpoint **out, kvrt_error *error);
void kvi_checkpoint_close(kvi_checkpoint *checkpoint); /* NULL is fine */
static inline const kvi_tensor *kvi_checkpoint_find(const kvi_checkpoint *checkpoint, const char *name)
{
    return checkpoint->reader->find(checkpoint, name);
}
static inline const kvi_tensor *kvi_checkpoint_at(const kvi_checkpoint *checkpoint, uint64_t index)
{
    return checkpoint->reader->at(checkpoint, index);
}
static inline const char *kvi_checkpoint_file(const kvi_checkpoint *checkpoint, uint32_t index)
{
    return checkpoint->reader->file(checkpoint, index);
}

#endif
