/* unicode.h - what text needs to know of code points: stand-ins for bytes that are none, and the character classes and
 * case mapping of Unicode (data from utf8proc). */
#ifndef KVI_UNICODE_H
#define KVI_UNICODE_H
#include "../base/utf8.h"

/* Stand-ins for bytes that are not UTF-8: byte b >= 0x80 becomes the private-use code point base + (b - 0x80), so that
 * regexes and normalizers see well-formed text and the model can give the byte back. `base` is a block of 128 that the
 * text itself does not use. */
#define KVI_UTF8_NO_BASE 0u
/* A block that none of the texts added so far contains; start from {0}. */
typedef struct kvi_utf8_blocks {
    uint32_t used[32]; /* one bit per block of 128 code points from U+F0000 on */
    bool invalid;      /* some text is not well-formed */
} kvi_utf8_blocks;
void kvi_utf8_blocks_scan(kvi_utf8_blocks *blocks, const char *text, size_t len);
/* KVI_UTF8_NO_BASE when every block is in use. */
uint32_t kvi_utf8_blocks_base(const kvi_utf8_blocks *blocks);
/* Appends the text with its invalid bytes as stand-ins, or as U+FFFD when base is KVI_UTF8_NO_BASE. */
void kvi_utf8_sanitize(kvi_buf *out, const char *text, size_t len, uint32_t base);

/* Classes, as in Rust: */
bool kvi_cp_is_space(uint32_t cp);       /* property White_Space */
bool kvi_cp_is_word(uint32_t cp);        /* Rust's \w: Alphabetic, M, Nd, Pc, the two joiners */
bool kvi_cp_is_mark(uint32_t cp);        /* general category M */
bool kvi_cp_is_punctuation(uint32_t cp); /* general category P, or ASCII punctuation */
bool kvi_cp_is_numeric(uint32_t cp);     /* general category N */
/* Full lower-case mapping of one code point, appended. */
void kvi_cp_append_lower(kvi_buf *out, uint32_t cp);

#endif
