/* methods_class.c - the methods str.is...(): what kind of characters a string has. Refuses: isnumeric, isdigit and
 * isidentifier where the answer needs tables beyond the general category. */
#include "methods.h"
#include "../base/utf8.h"

#include <string.h>
#include <utf8proc.h>

typedef enum verdict { NO = 0, YES, UNKNOWN } verdict;
typedef verdict (*judge)(uint32_t cp);

static utf8proc_category_t category(uint32_t cp) { return utf8proc_category((utf8proc_int32_t)cp); }

static verdict is_alpha(uint32_t cp)
{
    utf8proc_category_t c = category(cp);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

bool kvi_jinja_is_decimal(uint32_t cp) { return category(cp) == UTF8PROC_CATEGORY_ND; }

static verdict is_decimal(uint32_t cp) { return kvi_jinja_is_decimal(cp); }

/* Superscripts and circled digits are digits, fractions are not: the category tells them not apart. */
static verdict is_digit(uint32_t cp)
{
    return kvi_jinja_is_decimal(cp) ? YES : category(cp) == UTF8PROC_CATEGORY_NO ? UNKNOWN : NO;
}

/* Some ideographs are numbers. */
static verdict is_numeric(uint32_t cp)
{
    utf8proc_category_t c = category(cp);
    if (c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO) return YES;
    return c == UTF8PROC_CATEGORY_LO && cp >= 0x3400 ? UNKNOWN : NO;
}

static verdict is_alnum(uint32_t cp) { return kvi_jinja_is_word(cp) && cp != '_'; }
static verdict is_ascii(uint32_t cp) { return cp < 0x80; }
static verdict is_space(uint32_t cp) { return kvi_jinja_is_space(cp); }
static verdict is_printable(uint32_t cp) { return kvi_jinja_is_printable(cp); }

static kvi_jinja_value every(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, judge fn, bool empty)
{
    kvi_jinja_charge(ctx, s->len / 32);
    for (size_t at = 0; at < s->len;) {
        uint32_t cp = 0;
        size_t n = kvi_utf8_decode(s->data + at, s->len - at, &cp);
        verdict answer = n ? fn(cp) : NO;
        if (answer == UNKNOWN) return kvi_jinja_fail(ctx, "is...() of the character U+%04X is not supported", cp);
        if (answer == NO) return kvi_jinja_bool(false);
        at += n;
    }
    return kvi_jinja_bool(s->len > 0 || empty);
}

static METHOD(do_isalpha) { return (void)v, every(ctx, s, is_alpha, false); }
static METHOD(do_isdecimal) { return (void)v, every(ctx, s, is_decimal, false); }
static METHOD(do_isdigit) { return (void)v, every(ctx, s, is_digit, false); }
static METHOD(do_isnumeric) { return (void)v, every(ctx, s, is_numeric, false); }
static METHOD(do_isalnum) { return (void)v, every(ctx, s, is_alnum, false); }
static METHOD(do_isascii) { return (void)v, every(ctx, s, is_ascii, true); }
static METHOD(do_isspace) { return (void)v, every(ctx, s, is_space, false); }
static METHOD(do_isprintable) { return (void)v, every(ctx, s, is_printable, true); }

static verdict is_name(uint32_t cp)
{
    if (cp < 0x80) return kvi_jinja_is_word(cp);
    return is_alpha(cp) || kvi_jinja_is_decimal(cp) ? YES : UNKNOWN;
}
static METHOD(do_isidentifier)
{
    uint32_t first = 0;
    (void)v;
    if (!s->len || !kvi_utf8_decode(s->data, s->len, &first) || kvi_jinja_is_decimal(first))
        return kvi_jinja_bool(false);
    return every(ctx, s, is_name, false);
}

static bool is_upper(uint32_t cp)
{
    return utf8proc_isupper((utf8proc_int32_t)cp) && category(cp) != UTF8PROC_CATEGORY_LT;
}
static bool is_lower(uint32_t cp) { return utf8proc_islower((utf8proc_int32_t)cp); }

/* All cased characters are of one case, and there is one. */
static kvi_jinja_value one_case(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, bool upper)
{
    bool found = false;
    kvi_jinja_charge(ctx, s->len / 32);
    for (size_t at = 0; at < s->len;) {
        uint32_t cp = 0;
        size_t n = kvi_utf8_decode(s->data + at, s->len - at, &cp);
        bool other = upper ? is_lower(cp) : is_upper(cp);
        if (!n || other || category(cp) == UTF8PROC_CATEGORY_LT) return kvi_jinja_bool(false);
        found = found || (upper ? is_upper(cp) : is_lower(cp));
        at += n;
    }
    return kvi_jinja_bool(found);
}
static METHOD(do_islower) { return (void)v, one_case(ctx, s, false); }
static METHOD(do_isupper) { return (void)v, one_case(ctx, s, true); }

/* Upper case begins words and only there; lower case goes on in them. */
static METHOD(do_istitle)
{
    bool inside = false, found = false;
    (void)v;
    kvi_jinja_charge(ctx, s->len / 32);
    for (size_t at = 0; at < s->len;) {
        uint32_t cp = 0;
        size_t n = kvi_utf8_decode(s->data + at, s->len - at, &cp);
        bool upper = is_upper(cp) || category(cp) == UTF8PROC_CATEGORY_LT, lower = is_lower(cp);
        if (!n || (upper && inside) || (lower && !inside)) return kvi_jinja_bool(false);
        inside = upper || lower;
        found = found || inside;
        at += n;
    }
    return kvi_jinja_bool(found);
}

const kvi_jinja_method_row *kvi_jinja_class_method(const char *name)
{
    static const kvi_jinja_method_row table[] = {
        {"isalpha", do_isalpha, 0, NULL}, {"isdecimal", do_isdecimal, 0, NULL},
        {"isdigit", do_isdigit, 0, NULL}, {"isnumeric", do_isnumeric, 0, NULL},
        {"isalnum", do_isalnum, 0, NULL}, {"isascii", do_isascii, 0, NULL},
        {"isspace", do_isspace, 0, NULL}, {"isprintable", do_isprintable, 0, NULL},
        {"islower", do_islower, 0, NULL}, {"isupper", do_isupper, 0, NULL},
        {"istitle", do_istitle, 0, NULL}, {"isidentifier", do_isidentifier, 0, NULL}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i].name, name) == 0) return &table[i];
    return NULL;
}
