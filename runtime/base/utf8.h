/* utf8.h - bytes to code points and back. Every function is total over bytes; nothing allocates except through the
 * buffers handed in. */
#ifndef KVI_UTF8_H
#define KVI_UTF8_H
#include "mem.h"

/* Length of the well-formed sequence at p (1..4) and its code point; 0 when the bytes there are not one. left > 0. */
static inline size_t kvi_utf8_decode(const char *text, size_t left, uint32_t *cp)
{
    const unsigned char *p = (const unsigned char *)text;
    uint32_t c = p[0];
    if (c < 0x80) {
        *cp = c;
        return 1;
    }
    if (c >= 0xc2 && c < 0xe0 && left >= 2 && (p[1] & 0xc0) == 0x80) {
        *cp = (c & 31) << 6 | (p[1] & 63u);
        return 2;
    }
    if (c >= 0xe0 && c < 0xf0 && left >= 3 && (p[1] & 0xc0) == 0x80 && (p[2] & 0xc0) == 0x80) {
        *cp = (c & 15) << 12 | (p[1] & 63u) << 6 | (p[2] & 63u);
        return *cp >= 0x800 && (*cp < 0xd800 || *cp > 0xdfff) ? 3 : 0;
    }
    if (c >= 0xf0 && c < 0xf5 && left >= 4 && (p[1] & 0xc0) == 0x80 && (p[2] & 0xc0) == 0x80 && (p[3] & 0xc0) == 0x80) {
        *cp = (c & 7) << 18 | (p[1] & 63u) << 12 | (p[2] & 63u) << 6 | (p[3] & 63u);
        return *cp >= 0x10000 && *cp <= 0x10ffff ? 4 : 0;
    }
    return 0;
}

/* Writes cp (<= 0x10ffff) to dst[4]; returns its length. */
size_t kvi_utf8_encode(char *dst, uint32_t cp);
void kvi_utf8_append(kvi_buf *out, uint32_t cp);
/* Length of the well-formed prefix of a text. */
size_t kvi_utf8_valid_prefix(const char *text, size_t len);
/* For bytes at p that start no well-formed sequence: length of the maximal ill-formed part (1..3, what one U+FFFD
 * stands for), and *partial = true when the text ends inside what could still become a code point. */
size_t kvi_utf8_bad_len(const char *text, size_t left, bool *partial);
/* Start of the code point before `pos` in well-formed text. pos > 0. */
static inline size_t kvi_utf8_prev(const char *text, size_t pos)
{
    do pos--;
    while (pos > 0 && ((unsigned char)text[pos] & 0xc0) == 0x80);
    return pos;
}

#endif
