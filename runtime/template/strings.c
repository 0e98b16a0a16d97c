/* strings.c - text operations shared by string methods and filters. All keep the tags of the bytes they keep; a
 * changed letter has the tag of the letter it was. */
#include "args.h"
#include "../text/unicode.h"

#include <string.h>
#include <utf8proc.h>

size_t kvi_jinja_byte_at(const kvi_jinja_str *s, size_t chars)
{
    size_t at = 0;
    while (at < s->len && chars--) {
        at++;
        while (at < s->len && ((unsigned char)s->data[at] & 0xc0) == 0x80) at++;
    }
    return at;
}

static bool in_set(const kvi_jinja_str *set, const char *p, size_t n)
{
    for (size_t i = 0; i + n <= set->len; i++)
        if (memcmp(set->data + i, p, n) == 0 && ((unsigned char)set->data[i] & 0xc0) != 0x80) return true;
    return false;
}

static bool strips(const kvi_jinja_str *set, const char *p, size_t n)
{
    uint32_t cp;
    if (set) return in_set(set, p, n);
    return kvi_utf8_decode(p, n, &cp) && kvi_jinja_is_space(cp);
}

kvi_jinja_value kvi_jinja_strip(kvi_jinja_ctx *ctx, kvi_jinja_value value, kvi_jinja_value chars, bool left, bool right)
{
    const kvi_jinja_str *s = value.u.s, *set = NULL;
    if (chars.type == KVI_JINJA_STR) set = chars.u.s;
    else if (chars.type != KVI_JINJA_NONE && !kvi_jinja_absent(chars))
        return kvi_jinja_fail(ctx, "TypeError: strip arg must be None or str");
    size_t from = 0, to = s->len;
    while (left && from < to && kvi_jinja_charge(ctx, set ? set->len / 32 : 0)) {
        size_t next = from + 1;
        while (next < to && ((unsigned char)s->data[next] & 0xc0) == 0x80) next++;
        if (!strips(set, s->data + from, next - from)) break;
        from = next;
    }
    while (right && to > from && kvi_jinja_charge(ctx, set ? set->len / 32 : 0)) {
        size_t before = kvi_utf8_prev(s->data, to);
        if (!strips(set, s->data + before, to - before)) break;
        to = before;
    }
    return kvi_jinja_slice_bytes(ctx, s, from, to);
}

kvi_jinja_value kvi_jinja_replace(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_str *from,
                                  const kvi_jinja_str *to, int64_t count)
{
    kvi_jinja_builder b = {0};
    size_t start = 0, at = 0;
    kvi_jinja_charge(ctx, s->len / 64);
    while (count != 0 && !ctx->failed && at + from->len <= s->len) {
        bool boundary = at == s->len || ((unsigned char)s->data[at] & 0xc0) != 0x80;
        if (boundary && memcmp(s->data + at, from->data, from->len) == 0) {
            kvi_jinja_add_range(ctx, &b, s, start, at);
            kvi_jinja_add_str(ctx, &b, to);
            start = at + from->len;
            at = from->len ? start : at + 1;
            if (count > 0) count--;
            kvi_jinja_charge(ctx, 1);
        } else at++;
    }
    kvi_jinja_add_range(ctx, &b, s, start, s->len);
    return kvi_jinja_as_markup(ctx, kvi_jinja_built(ctx, &b), s->markup);
}

static int tag_at(const kvi_jinja_str *s, size_t at)
{
    for (size_t i = 0; i < s->n_runs; i++)
        if (at < s->runs[i].end) return s->runs[i].tag;
    return s->tag;
}

/* Characters after which the filter `title` begins a word: whitespace, - ( { [ < . */
static bool begins_word(uint32_t cp) { return kvi_jinja_is_space(cp) || (cp < 0x80 && cp && strchr("-({[<", (int)cp)); }

/* Upper case of more than one letter, which the simple mapping does not give: ligatures and letters with two marks. */
static bool has_long_upper(uint32_t cp)
{
    return cp == 0x149 || cp == 0x1f0 || cp == 0x390 || cp == 0x3b0 || cp == 0x587 || (cp >= 0x1e96 && cp <= 0x1e9a) ||
           (cp >= 0x1f50 && cp <= 0x1f56 && !(cp & 1)) || (cp >= 0x1f80 && cp <= 0x1faf) ||
           (cp >= 0x1fb2 && cp <= 0x1ffc && utf8proc_category((utf8proc_int32_t)cp) <= UTF8PROC_CATEGORY_LT &&
            cp != 0x1fbe) ||
           (cp >= 0xfb00 && cp <= 0xfb17);
}

static bool is_cased(uint32_t cp)
{
    return utf8proc_isupper((utf8proc_int32_t)cp) || utf8proc_islower((utf8proc_int32_t)cp) ||
           utf8proc_category((utf8proc_int32_t)cp) == UTF8PROC_CATEGORY_LT;
}

/* Marks and the like, which do not end a word. */
static bool is_case_ignorable(uint32_t cp)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_ME || c == UTF8PROC_CATEGORY_CF ||
           c == UTF8PROC_CATEGORY_LM || c == UTF8PROC_CATEGORY_SK || (cp < 0x80 && cp && strchr("'.:^`", (int)cp)) ||
           cp == 0xb7 || cp == 0x2019 || cp == 0x2018;
}

/* The capital sigma at s[at, next) ends a word: a cased letter before it, none behind. */
static bool is_final_sigma(const kvi_jinja_str *s, size_t at, size_t next)
{
    uint32_t cp = 0;
    bool before = false;
    while (at > 0 && !before) {
        size_t from = kvi_utf8_prev(s->data, at);
        if (!kvi_utf8_decode(s->data + from, at - from, &cp)) break;
        at = from;
        if (is_case_ignorable(cp)) continue;
        before = is_cased(cp);
        if (!before) return false;
    }
    while (before && next < s->len) {
        size_t n = kvi_utf8_decode(s->data + next, s->len - next, &cp);
        if (!n || !is_case_ignorable(cp)) return !n || !is_cased(cp);
        next += n;
    }
    return before;
}

kvi_jinja_value kvi_jinja_change_case(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, kvi_jinja_case mode)
{
    kvi_jinja_builder b = {0};
    kvi_buf lower = {0};
    bool start = true;
    kvi_jinja_charge(ctx, s->len / 16);
    for (size_t at = 0; at < s->len && !ctx->failed;) {
        uint32_t cp;
        char upper[4];
        size_t n = kvi_utf8_decode(s->data + at, s->len - at, &cp);
        if (!n) n = 1, cp = 0xfffd;
        bool raise = mode == KVI_JINJA_UPPER || (mode != KVI_JINJA_LOWER && start);
        if (raise && has_long_upper(cp)) kvi_jinja_fail(ctx, "the upper case of U+%04X is not supported", cp);
        else if (!raise && cp == 0x3a3 && is_final_sigma(s, at, at + n))
            kvi_jinja_add(ctx, &b, "\xcf\x82", 2, tag_at(s, at));
        else if (raise && cp == 0xdf)
            kvi_jinja_add(ctx, &b, mode == KVI_JINJA_UPPER || mode == KVI_JINJA_FILTER_TITLE ? "SS" : "Ss", 2,
                          tag_at(s, at));
        else if (raise) {
            bool upper_case = mode == KVI_JINJA_UPPER || mode == KVI_JINJA_FILTER_TITLE;
            utf8proc_int32_t up =
                upper_case ? utf8proc_toupper((utf8proc_int32_t)cp) : utf8proc_totitle((utf8proc_int32_t)cp);
            kvi_jinja_add(ctx, &b, upper, kvi_utf8_encode(upper, (uint32_t)up), tag_at(s, at));
        } else {
            kvi_buf_clear(&lower);
            kvi_cp_append_lower(&lower, cp);
            kvi_jinja_add(ctx, &b, lower.data, lower.len, tag_at(s, at));
        }
        at += n;
        bool cased = utf8proc_toupper((utf8proc_int32_t)cp) != (utf8proc_int32_t)cp ||
                     utf8proc_tolower((utf8proc_int32_t)cp) != (utf8proc_int32_t)cp;
        start = mode == KVI_JINJA_TITLE ? !cased : mode == KVI_JINJA_FILTER_TITLE ? begins_word(cp) : false;
    }
    if (lower.failed) kvi_jinja_fail(ctx, "out of memory");
    kvi_buf_free(&lower);
    return kvi_jinja_as_markup(ctx, kvi_jinja_built(ctx, &b), s->markup);
}

/* strict: as str.join, which wants strings; the filter takes anything. */
kvi_jinja_value kvi_jinja_join(kvi_jinja_ctx *ctx, const kvi_jinja_seq *seq, const kvi_jinja_str *separator,
                               bool strict)
{
    kvi_jinja_builder b = {0};
    for (size_t i = 0; i < seq->n && kvi_jinja_charge(ctx, 1); i++) {
        if (i) kvi_jinja_add_str(ctx, &b, separator);
        if (strict && seq->items[i].type != KVI_JINJA_STR)
            return kvi_jinja_fail(ctx, "TypeError: sequence item %zu: expected str instance, %s found", i,
                                  kvi_jinja_type_name(seq->items[i]));
        kvi_jinja_add_value(ctx, &b, seq->items[i]);
    }
    return kvi_jinja_built(ctx, &b);
}
