/* gguf_model.h - a model from a GGUF file: metadata to a configuration, tensors to the names of Hugging Face files.
 * Owns: what llama.cpp's names mean. Refuses, as config.h does, everything kvrt would compute wrongly: architectures, keys and tensors it does
 * not know what to do with are named.
 * To know: llama.cpp stores the rows of q and k of Llama's family so that rotated pairs are neighbours. They are used as they are, and
 * rotated as neighbours (kvi_rope.interleaved): scores are the same, and nothing has to be rearranged or copied. */
#ifndef KVI_GGUF_MODEL_H
#define KVI_GGUF_MODEL_H
#include "checkpoint.h"
#include "config.h"
#include "gguf.h"

/* Errors: FORMAT, UNSUPPORTED. Also on failure, `architecture` and the sizes are filled in as far as the file says them. */
kvrt_status kvi_gguf_config(const kvi_gguf *g, kvi_model_config *out, kvrt_error *error);
/* A reader of g's tensors, found under the names of Hugging Face files; g outlives it. Errors: NOMEM_HOST. */
kvrt_status kvi_gguf_checkpoint(const kvi_gguf *g, kvi_checkpoint **out, kvrt_error *error);
/* A name in the file of a tensor that kvrt calls `name` (places.h), into out (cap): the nth one, 0 first, of those that files use; false when there
 * are no more. */
bool kvi_gguf_tensor_name(const char *name, unsigned nth, char *out, size_t cap);

#endif
