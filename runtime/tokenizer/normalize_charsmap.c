/* normalize_charsmap.c - SentencePiece's Precompiled normalizer: a double-array trie from character sequences to
 * replacements. Layout (little-endian): u32 bytes of the trie, the trie's u32 units, then the replacements as
 * NUL-terminated UTF-8. Distrusts the units: every step is bounds-checked. To know: the shortest key that a grapheme
 * begins with decides for the whole grapheme, as in the reference library. */
#include "normalize_parts.h"
#include "../base/utf8.h"

#include <string.h>
#include <utf8proc.h>

#define GRAPHEME_MAX 6u /* longer ones (bytes) are looked up character by character */

static uint32_t unit_offset(uint32_t unit) { return unit >> 10 << ((unit & 1u << 9) >> 6); }
static uint32_t unit_label(uint32_t unit) { return unit & (1u << 31 | 0xffu); }
static bool unit_has_leaf(uint32_t unit) { return unit >> 8 & 1u; }

/* Replacement for the shortest key that is a prefix of `key`; false: none. */
static bool look_up(const kvi_norm_op *op, const char *key, size_t len, kvi_bytes *out)
{
    if (op->n_units == 0) return false;
    size_t pos = unit_offset(op->units[0]);
    for (size_t i = 0; i < len; i++) {
        unsigned char byte = (unsigned char)key[i];
        if (byte == 0) return false;
        pos ^= byte;
        if (pos >= op->n_units || unit_label(op->units[pos]) != byte) return false;
        uint32_t unit = op->units[pos];
        pos ^= unit_offset(unit);
        if (!unit_has_leaf(unit)) continue;
        if (pos >= op->n_units) return false;
        size_t start = op->units[pos] & 0x7fffffffu;
        if (start >= op->replacements.len) return false;
        const char *text = op->replacements.data + start;
        if (((unsigned char)*text & 0xc0) == 0x80) return false; /* inside a code point: the file lies */
        const char *end = memchr(text, 0, op->replacements.len - start);
        *out = (kvi_bytes){.data = text, .len = end ? (size_t)(end - text) : op->replacements.len - start};
        return true;
    }
    return false;
}

static void apply_grapheme(const kvi_norm_op *op, const kvi_view *in, size_t start, size_t end, kvi_norm_text *out)
{
    const char *text = in->text;
    char mark = 0;
    for (size_t i = start; in->mark && i < end; i++) mark = (char)(mark | in->mark[i]);
    kvi_bytes to;
    if (end - start < GRAPHEME_MAX && look_up(op, text + start, end - start, &to)) {
        kvi_norm_emit(out, to.data, to.len, mark);
        return;
    }
    for (size_t pos = start; pos < end;) {
        uint32_t cp = 0;
        size_t n = kvi_utf8_decode(text + pos, end - pos, &cp);
        if (look_up(op, text + pos, n, &to)) kvi_norm_emit(out, to.data, to.len, mark);
        else kvi_norm_emit(out, text + pos, n, mark);
        pos += n;
    }
}

void kvi_charsmap_apply(const kvi_norm_op *op, const kvi_view *in, kvi_norm_text *out)
{
    size_t start = 0, pos = 0, len = in->len;
    uint32_t previous = 0;
    utf8proc_int32_t state = 0;
    while (pos < len) {
        uint32_t cp = 0;
        size_t n = kvi_utf8_decode(in->text + pos, len - pos, &cp);
        if (pos > 0 && utf8proc_grapheme_break_stateful((utf8proc_int32_t)previous, (utf8proc_int32_t)cp, &state)) {
            apply_grapheme(op, in, start, pos, out);
            start = pos;
        }
        previous = cp;
        pos += n;
    }
    if (len > start) apply_grapheme(op, in, start, len, out);
}

/* ----------------------------------------------------------------------------------------------------- loading --- */
static int base64_value(char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Number of bytes written, SIZE_MAX when malformed. dst holds len / 4 * 3 bytes. */
static size_t base64_decode(const char *text, size_t len, unsigned char *dst)
{
    size_t n = 0;
    if (len % 4 != 0) return SIZE_MAX;
    for (size_t i = 0; i < len; i += 4) {
        bool last = i + 4 == len;
        unsigned pad = !last || text[i + 3] != '=' ? 0 : text[i + 2] == '=' ? 2 : 1;
        uint32_t word = 0;
        for (unsigned k = 0; k < 4; k++) {
            int value = k >= 4 - pad ? 0 : base64_value(text[i + k]);
            if (value < 0) return SIZE_MAX;
            word = word << 6 | (uint32_t)value;
        }
        for (unsigned k = 0; k < 3 - pad; k++) dst[n++] = (unsigned char)(word >> (16 - 8 * k));
    }
    return n;
}

static uint32_t read_u32(const unsigned char *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

kvrt_status kvi_charsmap_load(kvi_arena *arena, const char *base64, size_t len, const char *owner, kvi_norm_op *op,
                              kvrt_error *error)
{
    if (len == 0) return KVRT_OK; /* an empty map changes nothing */
    unsigned char *raw = kvi_arena_alloc(arena, len / 4 * 3 + 4);
    if (!raw) return kvi_error_nomem(error, len, "tokenizer");
    size_t n = base64_decode(base64, len, raw);
    uint32_t trie_bytes = n != SIZE_MAX && n >= 4 ? read_u32(raw) : 0;
    if (n == SIZE_MAX || n < 4 || trie_bytes % 4 != 0 || trie_bytes > n - 4)
        return kvi_error_set(error, KVRT_FORMAT, "%s: precompiled_charsmap is not base64 of a character map", owner);
    op->n_units = trie_bytes / 4;
    uint32_t *units = kvi_arena_alloc(arena, op->n_units * sizeof *units + 1);
    if (!units) return kvi_error_nomem(error, trie_bytes, "tokenizer");
    for (size_t i = 0; i < op->n_units; i++) units[i] = read_u32(raw + 4 + 4 * i);
    op->units = units;
    op->replacements = (kvi_bytes){.data = (const char *)raw + 4 + trie_bytes, .len = n - 4 - trie_bytes};
    if (kvi_utf8_valid_prefix(op->replacements.data, op->replacements.len) != op->replacements.len)
        return kvi_error_set(error, KVRT_FORMAT, "%s: precompiled_charsmap holds invalid UTF-8", owner);
    return KVRT_OK;
}
