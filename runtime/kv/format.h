/* format.h - names of cache formats: "f16", "k4v2", ... to kvi_kv_format and back. */
#ifndef KVI_KV_FORMAT_H
#define KVI_KV_FORMAT_H
#include "layout.h"
#include <stdbool.h>
#include <stddef.h>

/* Formats with names of their own, from most to fewest bits; NULL past the end. */
const char *kvi_kv_format_at(uint32_t index, kvi_kv_format *out);
/* Also kXvY with X, Y out of 2, 3, 4, 8, 16, t2, t3. False when unknown. */
bool kvi_kv_format_parse(const char *text, size_t len, kvi_kv_format *out);
/* "k8v4", "k?v4" where a code is none; static for the named ones, else written to `buffer` (8 bytes). */
const char *kvi_kv_format_name(kvi_kv_format format, char buffer[8]);

#endif
