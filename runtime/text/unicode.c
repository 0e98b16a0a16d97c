/* unicode.c - see unicode.h. */
#include "unicode.h"

#include <string.h>
#include <utf8proc.h>

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
static utf8proc_category_t category(uint32_t cp) { return utf8proc_category((utf8proc_int32_t)cp); }

bool kvi_cp_is_space(uint32_t cp)
{
    if (cp < 0x80) return cp == ' ' || (cp >= 9 && cp <= 13);
    return cp == 0x85 || cp == 0xa0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

bool kvi_cp_is_mark(uint32_t cp)
{
    utf8proc_category_t c = category(cp);
    return c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_MC || c == UTF8PROC_CATEGORY_ME;
}

bool kvi_cp_is_word(uint32_t cp)
{
    if (cp < 0x80) return (cp >= '0' && cp <= '9') || (cp >= 'A' && cp <= 'Z') || (cp >= 'a' && cp <= 'z') || cp == '_';
    switch (category(cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME: return true;
    default:
        /* Joiners, and Other_Alphabetic outside these categories: circled and squared Latin letters. */
        return cp == 0x200c || cp == 0x200d || (cp >= 0x24b6 && cp <= 0x24e9) || (cp >= 0x1f130 && cp <= 0x1f149) ||
               (cp >= 0x1f150 && cp <= 0x1f169) || (cp >= 0x1f170 && cp <= 0x1f189);
    }
}

bool kvi_cp_is_punctuation(uint32_t cp)
{
    if (cp < 0x80)
        return (cp >= 33 && cp <= 47) || (cp >= 58 && cp <= 64) || (cp >= 91 && cp <= 96) || (cp >= 123 && cp <= 126);
    utf8proc_category_t c = category(cp);
    return c >= UTF8PROC_CATEGORY_PC && c <= UTF8PROC_CATEGORY_PO;
}

bool kvi_cp_is_numeric(uint32_t cp)
{
    utf8proc_category_t c = category(cp);
    return c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

void kvi_cp_append_lower(kvi_buf *out, uint32_t cp)
{
    if (cp < 0x80) {
        kvi_buf_append_byte(out, (char)(cp >= 'A' && cp <= 'Z' ? cp + 32 : cp));
    } else if (cp == 0x130) { /* the one code point whose lower case is two, without conditions */
        kvi_buf_append_str(out, "i\xcc\x87");
    } else {
        kvi_utf8_append(out, (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp));
    }
}
