/* gguf_writer.h - small GGUF files in memory, written field by field, so that each can be made to lie. */
#ifndef GGUF_WRITER_H
#define GGUF_WRITER_H
#include "../../runtime/base/mem.h"

/* Little-endian integers of 1 to 8 bytes. */
void gguf_uint(kvi_buf *out, uint64_t value, unsigned n_bytes);
void gguf_text(kvi_buf *out, const char *text);
/* "GGUF", version, numbers of tensors and keys. */
void gguf_header(kvi_buf *out, uint32_t version, uint64_t n_tensors, uint64_t n_values);
/* Keys with a value. */
void gguf_key(kvi_buf *out, const char *key, uint32_t kind);
void gguf_key_u32(kvi_buf *out, const char *key, uint32_t value);
void gguf_key_f32(kvi_buf *out, const char *key, float value);
void gguf_key_bool(kvi_buf *out, const char *key, uint8_t value);
void gguf_key_text(kvi_buf *out, const char *key, const char *value);
void gguf_key_array(kvi_buf *out, const char *key, uint32_t kind, uint64_t n);
void gguf_key_texts(kvi_buf *out, const char *key, const char *const *texts, uint64_t n);
/* Dimensions fastest first, as in the file; n_1 0: a vector. */
/* The same of three dimensions, fastest first. */
void gguf_tensor_3(kvi_buf *out, const char *name, const uint64_t dims[3], uint32_t type, uint64_t offset);
void gguf_tensor(kvi_buf *out, const char *name, uint64_t n_0, uint64_t n_1, uint32_t type, uint64_t offset);
/* Zeros up to a multiple. */
void gguf_pad(kvi_buf *out, size_t alignment);

#endif
