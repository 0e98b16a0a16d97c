/* unicode.h - what text needs to know of code points: stand-ins for bytes that are none, and the character classes and
 * case mapping that the reference library has (unicode_tables.c and unicode_mappings.c, written by a script that asks it). */
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

/* Classes, each in the version of Unicode that the part of the reference library which uses it carries: */
bool kvi_cp_is_space(uint32_t cp);       /* property White_Space */
bool kvi_cp_is_word(uint32_t cp);        /* Whitespace's \w: Alphabetic, M, Nd, Pc, the two joiners */
bool kvi_cp_is_mark(uint32_t cp);        /* StripAccents: general category M */
bool kvi_cp_is_punctuation(uint32_t cp); /* Punctuation: general category P, or ASCII punctuation */
bool kvi_cp_is_numeric(uint32_t cp);     /* Digits: general category N */
bool kvi_cp_is_unformed(uint32_t cp);    /* newer than the normalization forms: they leave it alone */
/* Script as UnicodeScripts sees it (Han, Hiragana and Katakana are one); -1: goes with any. */
int kvi_cp_script(uint32_t cp);
/* Full lower-case mapping of one code point, appended. */
void kvi_cp_append_lower(kvi_buf *out, uint32_t cp);

/* The tables themselves. Runs are (first code point << 8 | value), a run reaches to the next one; ranges are pairs of
 * first and last code point; mappings are quadruples of first, last, step and difference; the longer foldings of (?i) are
 * quadruples of first code point, how many, and the first two code points of the sequence of the first. */
extern const uint32_t kvi_unicode_categories[], kvi_unicode_scripts[];                            /* runs */
extern const uint32_t kvi_unicode_alphabetic[], kvi_unicode_uppercase[], kvi_unicode_lowercase[]; /* ranges */
extern const uint32_t kvi_unicode_emoji[], kvi_unicode_emoji_presentation[];                      /* ranges */
extern const uint32_t kvi_unicode_extended_pictographic[], kvi_unicode_ideographic[];             /* ranges */
extern const uint32_t kvi_unicode_word[], kvi_unicode_numeric[], kvi_unicode_punctuation[];       /* ranges */
extern const uint32_t kvi_unicode_marks[], kvi_unicode_unformed[], kvi_unicode_unscripted[];      /* ranges */
extern const uint32_t kvi_unicode_lower[], kvi_unicode_fold[], kvi_unicode_fold_long[];           /* mappings */
extern const size_t kvi_unicode_categories_n, kvi_unicode_scripts_n, kvi_unicode_alphabetic_n, kvi_unicode_uppercase_n,
    kvi_unicode_lowercase_n, kvi_unicode_emoji_n, kvi_unicode_emoji_presentation_n, kvi_unicode_extended_pictographic_n,
    kvi_unicode_ideographic_n, kvi_unicode_word_n, kvi_unicode_numeric_n, kvi_unicode_punctuation_n,
    kvi_unicode_marks_n, kvi_unicode_unformed_n, kvi_unicode_unscripted_n, kvi_unicode_lower_n, kvi_unicode_fold_n,
    kvi_unicode_fold_long_n;
/* Names in small letters without separators; categories also by their two letters. */
extern const char *const kvi_unicode_category_names[30][2], *const kvi_unicode_script_names[];
extern const size_t kvi_unicode_script_names_n;

#endif
