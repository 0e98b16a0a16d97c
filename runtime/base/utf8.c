/* utf8.c - see utf8.h. */
#include "utf8.h"

#include <string.h>

size_t kvi_utf8_encode(char *dst, uint32_t cp)
{
    if (cp < 0x80) {
        dst[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        dst[0] = (char)(0xc0 | cp >> 6);
        dst[1] = (char)(0x80 | (cp & 63));
        return 2;
    }
    if (cp < 0x10000) {
        dst[0] = (char)(0xe0 | cp >> 12);
        dst[1] = (char)(0x80 | (cp >> 6 & 63));
        dst[2] = (char)(0x80 | (cp & 63));
        return 3;
    }
    dst[0] = (char)(0xf0 | (cp >> 18 & 7));
    dst[1] = (char)(0x80 | (cp >> 12 & 63));
    dst[2] = (char)(0x80 | (cp >> 6 & 63));
    dst[3] = (char)(0x80 | (cp & 63));
    return 4;
}

void kvi_utf8_append(kvi_buf *out, uint32_t cp)
{
    char bytes[4];
    kvi_buf_append(out, bytes, kvi_utf8_encode(bytes, cp));
}

size_t kvi_utf8_valid_prefix(const char *text, size_t len)
{
    size_t pos = 0;
    while (pos < len) {
        /* Eight ASCII bytes at a time: most text is ASCII. */
        uint64_t word;
        while (len - pos >= sizeof word) {
            memcpy(&word, text + pos, sizeof word);
            if (word & UINT64_C(0x8080808080808080)) break;
            pos += sizeof word;
        }
        if (pos == len) break;
        uint32_t cp;
        size_t n = kvi_utf8_decode(text + pos, len - pos, &cp);
        if (n == 0) break;
        pos += n;
    }
    return pos;
}

size_t kvi_utf8_bad_len(const char *text, size_t left, bool *partial)
{
    const unsigned char *p = (const unsigned char *)text;
    unsigned c = p[0], lo = 0x80, hi = 0xbf;
    size_t need = c >= 0xc2 && c < 0xe0 ? 2 : c >= 0xe0 && c < 0xf0 ? 3 : c >= 0xf0 && c < 0xf5 ? 4 : 1;
    /* The second byte is restricted after these (overlong forms, surrogates, above U+10FFFF). */
    if (c == 0xe0) lo = 0xa0;
    if (c == 0xed) hi = 0x9f;
    if (c == 0xf0) lo = 0x90;
    if (c == 0xf4) hi = 0x8f;
    size_t n = 1;
    while (n < need && n < left && p[n] >= lo && p[n] <= hi) {
        lo = 0x80;
        hi = 0xbf;
        n++;
    }
    *partial = n < need && n == left;
    return n;
}
