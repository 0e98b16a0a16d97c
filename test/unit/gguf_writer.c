/* gguf_writer.c - see gguf_writer.h. */
#include "gguf_writer.h"

#include <string.h>

void gguf_uint(kvi_buf *out, uint64_t value, unsigned n_bytes)
{
    for (unsigned i = 0; i < n_bytes; i++) kvi_buf_append_byte(out, (char)(value >> (8 * i)));
}

void gguf_text(kvi_buf *out, const char *text)
{
    gguf_uint(out, strlen(text), 8);
    kvi_buf_append_str(out, text);
}

void gguf_header(kvi_buf *out, uint32_t version, uint64_t n_tensors, uint64_t n_values)
{
    kvi_buf_append_str(out, "GGUF");
    gguf_uint(out, version, 4);
    gguf_uint(out, n_tensors, 8);
    gguf_uint(out, n_values, 8);
}

void gguf_key(kvi_buf *out, const char *key, uint32_t kind)
{
    gguf_text(out, key);
    gguf_uint(out, kind, 4);
}

void gguf_key_u32(kvi_buf *out, const char *key, uint32_t value)
{
    gguf_key(out, key, 4);
    gguf_uint(out, value, 4);
}

void gguf_key_f32(kvi_buf *out, const char *key, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    gguf_key(out, key, 6);
    gguf_uint(out, bits, 4);
}

void gguf_key_bool(kvi_buf *out, const char *key, uint8_t value)
{
    gguf_key(out, key, 7);
    gguf_uint(out, value, 1);
}

void gguf_key_text(kvi_buf *out, const char *key, const char *value)
{
    gguf_key(out, key, 8);
    gguf_text(out, value);
}

void gguf_key_array(kvi_buf *out, const char *key, uint32_t kind, uint64_t n)
{
    gguf_key(out, key, 9);
    gguf_uint(out, kind, 4);
    gguf_uint(out, n, 8);
}

void gguf_key_texts(kvi_buf *out, const char *key, const char *const *texts, uint64_t n)
{
    gguf_key_array(out, key, 8, n);
    for (uint64_t i = 0; i < n; i++) gguf_text(out, texts[i]);
}

void gguf_tensor(kvi_buf *out, const char *name, uint64_t n_0, uint64_t n_1, uint32_t type, uint64_t offset)
{
    gguf_text(out, name);
    gguf_uint(out, n_1 ? 2 : 1, 4);
    gguf_uint(out, n_0, 8);
    if (n_1) gguf_uint(out, n_1, 8);
    gguf_uint(out, type, 4);
    gguf_uint(out, offset, 8);
}

void gguf_tensor_3(kvi_buf *out, const char *name, const uint64_t dims[3], uint32_t type, uint64_t offset)
{
    gguf_text(out, name);
    gguf_uint(out, 3, 4);
    for (int i = 0; i < 3; i++) gguf_uint(out, dims[i], 8);
    gguf_uint(out, type, 4);
    gguf_uint(out, offset, 8);
}

void gguf_pad(kvi_buf *out, size_t alignment)
{
    while (out->len % alignment) kvi_buf_append_byte(out, 0);
}
