/* safetensors.h - the checkpoint reader for a Hugging Face folder: DIR/model.safetensors, else DIR/model.safetensors.index.json with its shards.
 * Owns: the maps and the directory of names. Refuses: headers that lie in any way (found and needed are named), shard names that leave
 * the folder. Format: huggingface/safetensors README. */
#ifndef KVI_SAFETENSORS_H
#define KVI_SAFETENSORS_H
#include "checkpoint.h"

/* As kvi_checkpoint_open. */
kvrt_status kvi_safetensors_open(const char *dir, bool copy, kvi_checkpoint **out, kvrt_error *error);

/* One header, for the fuzzer and for tests: checks `len` bytes as a whole safetensors file called `name`. */
kvrt_status kvi_safetensors_check(const uint8_t *data, uint64_t len, const char *name, uint64_t *n_tensors,
                                  kvrt_error *error);

#endif
