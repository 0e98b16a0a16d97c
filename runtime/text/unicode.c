/* unicode.c - see unicode.h. */
#include "unicode.h"

#include <string.h>

/* Blocks of stand-ins: U+F0000 + 128 * k, k in 0..1023 (planes of private use). */
#define BLOCK_FIRST 0xf0000u
#define BLOCK_COUNT 1024u

void kvi_utf8_blocks_scan(kvi_utf8_blocks *blocks, const char *text, size_t len)
{
    size_t pos = 0;
    while (pos < len) {
        uint32_t cp = 0;
        size_t n = kvi_utf8_decode(text + pos, len - pos, &cp);
        if (n == 0) {
            blocks->invalid = true;
            n = 1;
        } else if (cp >= BLOCK_FIRST && cp < BLOCK_FIRST + 128 * BLOCK_COUNT) {
            uint32_t k = (cp - BLOCK_FIRST) / 128;
            blocks->used[k / 32] |= 1u << (k % 32);
        }
        pos += n;
    }
}

uint32_t kvi_utf8_blocks_base(const kvi_utf8_blocks *blocks)
{
    /* The last block of the plane holds two noncharacters (U+FFFFE, U+FFFFF), so it is left out. */
    for (uint32_t k = 0; k < 511; k++)
        if (!(blocks->used[k / 32] >> (k % 32) & 1)) return BLOCK_FIRST + 128 * k;
    return KVI_UTF8_NO_BASE;
}

void kvi_utf8_sanitize(kvi_buf *out, const char *text, size_t len, uint32_t base)
{
    size_t pos = 0;
    while (pos < len) {
        size_t n = kvi_utf8_valid_prefix(text + pos, len - pos);
        kvi_buf_append(out, text + pos, n);
        pos += n;
        if (pos == len) break;
        bool partial;
        n = kvi_utf8_bad_len(text + pos, len - pos, &partial);
        if (base == KVI_UTF8_NO_BASE) {
            kvi_utf8_append(out, 0xfffd);
        } else {
            for (size_t i = 0; i < n; i++) kvi_utf8_append(out, base + ((unsigned char)text[pos + i] - 0x80u));
        }
        pos += n;
    }
}

/* ---------------------------------------------------------------------------------------------------- classes --- */
/* True when one of the n / 2 ranges holds cp. */
static bool in_ranges(const uint32_t *ranges, size_t n, uint32_t cp)
{
    size_t low = 0, high = n / 2;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (cp > ranges[2 * middle + 1]) low = middle + 1;
        else high = middle;
    }
    return 2 * low < n && cp >= ranges[2 * low];
}

bool kvi_cp_is_space(uint32_t cp)
{
    if (cp < 0x80) return cp == ' ' || (cp >= 9 && cp <= 13);
    return cp == 0x85 || cp == 0xa0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

bool kvi_cp_is_word(uint32_t cp)
{
    if (cp < 0x80) return (cp >= '0' && cp <= '9') || (cp >= 'A' && cp <= 'Z') || (cp >= 'a' && cp <= 'z') || cp == '_';
    return in_ranges(kvi_unicode_word, kvi_unicode_word_n, cp);
}

bool kvi_cp_is_mark(uint32_t cp) { return cp >= 0x300 && in_ranges(kvi_unicode_marks, kvi_unicode_marks_n, cp); }

bool kvi_cp_is_punctuation(uint32_t cp) { return in_ranges(kvi_unicode_punctuation, kvi_unicode_punctuation_n, cp); }

bool kvi_cp_is_numeric(uint32_t cp)
{
    return cp < 0x80 ? cp >= '0' && cp <= '9' : in_ranges(kvi_unicode_numeric, kvi_unicode_numeric_n, cp);
}

bool kvi_cp_is_unformed(uint32_t cp)
{
    return cp >= kvi_unicode_unformed[0] && in_ranges(kvi_unicode_unformed, kvi_unicode_unformed_n, cp);
}

int kvi_cp_script(uint32_t cp)
{
    static const char *const han[] = {"han", "hiragana", "katakana"};
    /* Four more code points have changed their script since. */
    if (cp == 0x589 || cp == 0x61c) cp = '.';
    if (cp == 0x953 || cp == 0x954) cp = 0x915;
    if (cp == ' ' || in_ranges(kvi_unicode_unscripted, kvi_unicode_unscripted_n, cp)) return -1;
    size_t low = 0, high = kvi_unicode_scripts_n;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (kvi_unicode_scripts[middle] >> 8 <= cp) low = middle;
        else high = middle;
    }
    uint32_t script = kvi_unicode_scripts[low] & 0xff;
    if (script >= kvi_unicode_script_names_n) return -1;
    bool is_han = cp == 0x30fc; /* the mark of a long vowel, which has no script of its own */
    for (size_t i = 0; i < 3; i++) is_han |= strcmp(kvi_unicode_script_names[script], han[i]) == 0;
    return is_han ? INT32_MAX : (int)script;
}

void kvi_cp_append_lower(kvi_buf *out, uint32_t cp)
{
    if (cp < 0x80) {
        kvi_buf_append_byte(out, (char)(cp >= 'A' && cp <= 'Z' ? cp + 32 : cp));
        return;
    }
    if (cp == 0x130) { /* the one code point whose lower case is two, without conditions */
        kvi_buf_append_str(out, "i\xcc\x87");
        return;
    }
    size_t low = 0, high = kvi_unicode_lower_n / 4;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (cp > kvi_unicode_lower[4 * middle + 1]) low = middle + 1;
        else high = middle;
    }
    const uint32_t *run = kvi_unicode_lower + 4 * low;
    bool mapped = 4 * low < kvi_unicode_lower_n && cp >= run[0] && (cp - run[0]) % run[2] == 0;
    kvi_utf8_append(out, mapped ? cp + run[3] : cp);
}
