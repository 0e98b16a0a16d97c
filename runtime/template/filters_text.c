/* filters_text.c - filters that lay out or clean text: center, format, truncate, urlencode, striptags, xmlattr and the
 * like. Refuses: urlize, random (named by apply_filter), HTML entities beyond the five of XML and &nbsp;. */
#include "format.h"
#include "../base/utf8.h"

#include <math.h>
#include <string.h>
#include <utf8proc.h>

FILTER(filter_center)
{
    BIND("center", 1, "width");
    int64_t width = 80;
    x = kvi_jinja_str_of(in->ctx, x);
    if (!kvi_jinja_absent(v[0]) && !kvi_jinja_want_int(in->ctx, v[0], "center", &width)) return v[0];
    return in->ctx->failed ? x : kvi_jinja_centered(in->ctx, x.u.s, width, " ", 1);
}

FILTER(filter_forceescape)
{
    NO_ARGUMENTS("forceescape");
    x = kvi_jinja_as_markup(in->ctx, kvi_jinja_str_of(in->ctx, x), false);
    return in->ctx->failed ? x : kvi_jinja_escape(in->ctx, x);
}

FILTER(filter_format)
{
    kvi_jinja_ctx *ctx = in->ctx;
    if (args->n && args->n_keys)
        return kvi_jinja_fail(ctx,
                              "FilterArgumentError: can't handle positional and keyword arguments at the same time");
    x = kvi_jinja_str_of(ctx, x);
    if (ctx->failed) return x;
    if (args->n_keys) {
        kvi_jinja_dict *dict = kvi_jinja_dict_new(ctx);
        for (size_t k = 0; dict && k < args->n_keys; k++)
            kvi_jinja_dict_set(ctx, dict, kvi_jinja_str_static(ctx, args->keys[k]), args->named[k]);
        return ctx->failed ? x : kvi_jinja_percent(ctx, x.u.s, (kvi_jinja_value){KVI_JINJA_DICT, {.dict = dict}});
    }
    kvi_jinja_seq *tuple = kvi_jinja_seq_new(ctx, KVI_JINJA_TUPLE);
    for (size_t i = 0; tuple && i < args->n; i++) kvi_jinja_seq_push(ctx, tuple, args->values[i]);
    return ctx->failed ? x : kvi_jinja_percent(ctx, x.u.s, kvi_jinja_seq_value(tuple));
}

/* \w of Python's re: letters, numbers, the underscore. */
bool kvi_jinja_is_word(uint32_t cp)
{
    if (cp < 0x80) return cp == '_' || (cp >= '0' && cp <= '9') || ((cp | 0x20) >= 'a' && (cp | 0x20) <= 'z');
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO) ||
           (c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO);
}

FILTER(filter_wordcount)
{
    NO_ARGUMENTS("wordcount");
    x = kvi_jinja_str_of(in->ctx, x);
    if (in->ctx->failed) return x;
    int64_t words = 0;
    bool inside = false;
    kvi_jinja_charge(in->ctx, x.u.s->len / 16);
    for (size_t at = 0; at < x.u.s->len;) {
        uint32_t cp;
        size_t n = kvi_utf8_decode(x.u.s->data + at, x.u.s->len - at, &cp);
        bool word = n && kvi_jinja_is_word(cp);
        words += word && !inside;
        inside = word;
        at += n ? n : 1;
    }
    return kvi_jinja_int(words);
}

/* What has a length but is no string comes back when it is short enough; Python cannot cut it either. */
FILTER(filter_truncate)
{
    BIND("truncate", 4, "length", "killwords", "end", "leeway");
    kvi_jinja_ctx *ctx = in->ctx;
    int64_t length = 255, leeway = 5;
    kvi_jinja_value end = kvi_jinja_absent(v[2]) ? kvi_jinja_str_copy(ctx, "...", 3, KVI_JINJA_LITERAL) : v[2];
    if (!kvi_jinja_absent(v[0]) && !kvi_jinja_want_int(ctx, v[0], "truncate", &length)) return v[0];
    if (kvi_jinja_given(v[3]) && !kvi_jinja_want_int(ctx, v[3], "truncate", &leeway)) return v[3];
    if (ctx->failed || end.type != KVI_JINJA_STR) return kvi_jinja_fail(ctx, "TypeError: truncate: end must be str");
    int64_t end_chars = (int64_t)kvi_jinja_str_chars(end.u.s), chars;
    if (length < end_chars || leeway < 0 || leeway > INT32_MAX || length > INT64_MAX / 2)
        return kvi_jinja_fail(ctx, "AssertionError: truncate: length or leeway out of range");
    if (x.type == KVI_JINJA_STR) chars = (int64_t)kvi_jinja_str_chars(x.u.s);
    else if (x.type == KVI_JINJA_UNDEFINED) chars = 0;
    else if (x.type == KVI_JINJA_DICT) chars = (int64_t)x.u.dict->n;
    else if (x.type == KVI_JINJA_SEQ && x.u.seq->kind != KVI_JINJA_ITERATOR) chars = (int64_t)x.u.seq->n;
    else return kvi_jinja_fail(ctx, "TypeError: object of type '%s' has no len()", kvi_jinja_type_name(x));
    if (chars <= length + leeway) return x;
    if (x.type != KVI_JINJA_STR) return kvi_jinja_fail(ctx, "TypeError: truncate cuts strings only");
    size_t to = kvi_jinja_byte_at(x.u.s, (size_t)(length - end_chars));
    if (!kvi_jinja_flag(v[1], false)) {
        size_t space = to;
        while (space > 0 && x.u.s->data[space - 1] != ' ') space--;
        if (space) to = space - 1;
    }
    kvi_jinja_value cut = kvi_jinja_slice_bytes(ctx, x.u.s, 0, to);
    return ctx->failed ? cut : kvi_jinja_binary(ctx, '+', cut, end);
}

/* ---------------------------------------------------------------------------------------------------------------- web
 * --- */
static void add_quoted(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, kvi_jinja_value value, bool query)
{
    static const char hex[] = "0123456789ABCDEF";
    kvi_jinja_value str = kvi_jinja_str_of(ctx, value);
    for (size_t i = 0; !ctx->failed && i < str.u.s->len; i++) {
        unsigned char c = (unsigned char)str.u.s->data[i];
        char escape[3] = {'%', hex[c >> 4], hex[c & 15]};
        bool plain = (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') ||
                     (c < 0x80 && c && strchr("_.-~", c)) || (c == '/' && !query);
        if (plain) kvi_jinja_add_range(ctx, b, str.u.s, i, i + 1);
        else if (c == ' ' && query) kvi_jinja_add(ctx, b, "+", 1, KVI_JINJA_TEXT);
        else kvi_jinja_add(ctx, b, escape, 3, KVI_JINJA_TEXT);
    }
}

FILTER(filter_urlencode)
{
    NO_ARGUMENTS("urlencode");
    kvi_jinja_ctx *ctx = in->ctx;
    kvi_jinja_builder b = {0};
    if (x.type == KVI_JINJA_STR || !kvi_jinja_is_iterable(x)) {
        add_quoted(ctx, &b, x, false);
        return kvi_jinja_built(ctx, &b);
    }
    kvi_jinja_value pairs = x.type == KVI_JINJA_DICT ? kvi_jinja_dict_view(ctx, x.u.dict, KVI_JINJA_ITEMS) : x;
    kvi_jinja_seq *seq = ctx->failed ? NULL : kvi_jinja_iterate(ctx, pairs);
    for (size_t i = 0; seq && i < seq->n && kvi_jinja_charge(ctx, 1); i++) {
        kvi_jinja_seq *pair = kvi_jinja_iterate(ctx, seq->items[i]);
        if (!pair || pair->n != 2) return kvi_jinja_fail(ctx, "ValueError: urlencode needs pairs");
        if (i) kvi_jinja_add(ctx, &b, "&", 1, KVI_JINJA_TEXT);
        add_quoted(ctx, &b, pair->items[0], true);
        kvi_jinja_add(ctx, &b, "=", 1, KVI_JINJA_TEXT);
        add_quoted(ctx, &b, pair->items[1], true);
    }
    return kvi_jinja_built(ctx, &b);
}

FILTER(filter_xmlattr)
{
    BIND("xmlattr", 1, "autospace");
    kvi_jinja_ctx *ctx = in->ctx;
    kvi_jinja_builder b = {0};
    if (x.type == KVI_JINJA_UNDEFINED) return kvi_jinja_use_undefined(ctx, x);
    if (x.type != KVI_JINJA_DICT) return kvi_jinja_fail(ctx, "TypeError: xmlattr needs a mapping");
    for (size_t i = 0; i < x.u.dict->n && kvi_jinja_charge(ctx, 1); i++) {
        kvi_jinja_value key = x.u.dict->keys[i], value = x.u.dict->values[i];
        if (value.type == KVI_JINJA_NONE || value.type == KVI_JINJA_UNDEFINED) continue;
        if (key.type != KVI_JINJA_STR) return kvi_jinja_fail(ctx, "TypeError: xmlattr: keys must be strings");
        for (size_t k = 0; k < key.u.s->len; k++)
            if (key.u.s->data[k] && strchr(" \t\n\r\f\v/>=", key.u.s->data[k]))
                return kvi_jinja_fail(ctx, "ValueError: Invalid character in attribute name");
        key = kvi_jinja_escape(ctx, key);
        value = kvi_jinja_escape(ctx, value);
        if (ctx->failed) return key;
        if (b.len || kvi_jinja_flag(v[0], true)) kvi_jinja_add(ctx, &b, " ", 1, KVI_JINJA_TEXT);
        kvi_jinja_add_str(ctx, &b, key.u.s);
        kvi_jinja_add(ctx, &b, "=\"", 2, KVI_JINJA_TEXT);
        kvi_jinja_add_str(ctx, &b, value.u.s);
        kvi_jinja_add(ctx, &b, "\"", 1, KVI_JINJA_TEXT);
    }
    return kvi_jinja_built(ctx, &b);
}

static const char *find_text(const char *data, size_t len, const char *text)
{
    size_t n = strlen(text);
    for (const char *at = data; (size_t)(data + len - at) >= n; at++) {
        at = memchr(at, text[0], (size_t)(data + len - at) - n + 1);
        if (!at || memcmp(at, text, n) == 0) return at;
    }
    return NULL;
}

/* Without tags and comments; what is not closed stays. */
static kvi_jinja_value without_tags(kvi_jinja_ctx *ctx, const kvi_jinja_str *s)
{
    kvi_jinja_builder b = {0};
    const char *at = s->data, *end = s->data + s->len, *start;
    while (at < end && !ctx->failed && (start = memchr(at, '<', (size_t)(end - at))) != NULL) {
        bool comment = end - start >= 4 && memcmp(start, "<!--", 4) == 0;
        const char *from = start + (comment ? 4 : 0);
        const char *close = find_text(from, (size_t)(end - from), comment ? "-->" : ">");
        if (!close) break;
        kvi_jinja_add_range(ctx, &b, s, (size_t)(at - s->data), (size_t)(start - s->data));
        at = close + (comment ? 3 : 1);
    }
    kvi_jinja_add_range(ctx, &b, s, (size_t)(at - s->data), s->len);
    return kvi_jinja_built(ctx, &b);
}

/* The entity at s[at] == '&': its character, and its length in *used; 0 when it is none. */
static uint32_t entity(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, size_t at, size_t *used)
{
    static const struct {
        const char *name;
        uint32_t cp;
    } known[] = {{"amp;", '&'}, {"lt;", '<'}, {"gt;", '>'}, {"quot;", '"'}, {"apos;", '\''}, {"nbsp;", 0xa0}};
    const char *p = s->data + at + 1;
    size_t left = s->len - at - 1, n = 0;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        n = strlen(known[i].name);
        if (left >= n && memcmp(p, known[i].name, n) == 0) return *used = n + 1, known[i].cp;
    }
    uint32_t cp = 0;
    bool hex = left > 2 && p[0] == '#' && (p[1] | 0x20) == 'x';
    for (n = hex ? 2 : 1; left && p[0] == '#' && n < left && cp < 0x110000; n++) {
        unsigned char c = (unsigned char)p[n], l = c | 0x20;
        if (c >= '0' && c <= '9') cp = cp * (hex ? 16 : 10) + (c - '0');
        else if (hex && l >= 'a' && l <= 'f') cp = cp * 16 + (l - 'a' + 10u);
        else break;
    }
    bool numeric = left && p[0] == '#' && n > (hex ? 2u : 1u);
    if (numeric && cp >= 0x20 && (cp < 0x7f || cp > 0x9f) && cp < 0xd800)
        return *used = n + 1 + (n < left && p[n] == ';'), cp;
    if (numeric || (left && (p[0] | 0x20) >= 'a' && (p[0] | 0x20) <= 'z'))
        kvi_jinja_fail(ctx, "striptags: the entity at '&%.*s' is not supported", (int)(left < 12 ? left : 12), p);
    return 0;
}

static kvi_jinja_value unescape(kvi_jinja_ctx *ctx, const kvi_jinja_str *s)
{
    kvi_jinja_builder b = {0};
    size_t from = 0;
    for (size_t at = 0; at < s->len && !ctx->failed;) {
        size_t used = 0;
        char utf8[4];
        uint32_t cp = s->data[at] == '&' ? entity(ctx, s, at, &used) : 0;
        if (!cp) {
            at++;
            continue;
        }
        kvi_jinja_add_range(ctx, &b, s, from, at);
        kvi_jinja_add(ctx, &b, utf8, kvi_utf8_encode(utf8, cp), KVI_JINJA_TEXT);
        from = at += used;
    }
    kvi_jinja_add_range(ctx, &b, s, from, s->len);
    return kvi_jinja_built(ctx, &b);
}

FILTER(filter_striptags)
{
    NO_ARGUMENTS("striptags");
    kvi_jinja_ctx *ctx = in->ctx;
    x = kvi_jinja_as_markup(ctx, kvi_jinja_str_of(ctx, x), false);
    if (!ctx->failed) x = without_tags(ctx, x.u.s);
    if (ctx->failed) return x;
    kvi_jinja_value words = kvi_jinja_str_method(in, x.u.s, "split", &(kvi_jinja_args){NULL, 0, NULL, NULL, 0});
    kvi_jinja_value space = kvi_jinja_str_static(ctx, " ");
    if (ctx->failed) return x;
    x = kvi_jinja_join(ctx, words.u.seq, space.u.s, true);
    return ctx->failed ? x : unescape(ctx, x.u.s);
}

FILTER(filter_filesizeformat)
{
    BIND("filesizeformat", 1, "binary");
    static const double decimal[] = {1e6, 1e9, 1e12, 1e15, 1e18, 1e21, 1e24, 1e27};
    static const char letters[] = "kMGTPEZY";
    kvi_jinja_ctx *ctx = in->ctx;
    bool binary = kvi_jinja_flag(v[0], false);
    double base = binary ? 1024 : 1000, bytes;
    char unit_name[5] = {' '};
    if (x.type == KVI_JINJA_UNDEFINED) return kvi_jinja_use_undefined(ctx, x);
    if (x.type == KVI_JINJA_FLOAT) bytes = x.u.f;
    else if (kvi_jinja_is_int(x)) bytes = kvi_jinja_int_to_float(x);
    else if (x.type != KVI_JINJA_STR || !kvi_jinja_parse_float(x.u.s, &bytes))
        return kvi_jinja_fail(ctx, "ValueError: filesizeformat: not a number");
    if (isinf(bytes) && x.type == KVI_JINJA_BIG)
        return kvi_jinja_fail(ctx, "OverflowError: int too large to convert to float");
    if (bytes == 1) return kvi_jinja_str_static(ctx, "1 Byte");
    kvi_jinja_builder b = {0};
    if (bytes < base) {
        kvi_jinja_value whole = kvi_jinja_int_of_float(ctx, bytes);
        if (!ctx->failed) kvi_jinja_add_value(ctx, &b, whole);
        kvi_jinja_add(ctx, &b, " Bytes", 6, KVI_JINJA_TEXT);
        return kvi_jinja_built(ctx, &b);
    }
    size_t i = 0;
    double unit = 0;
    for (; i < 8; i++) {
        unit = binary ? ldexp(1, 10 * (int)(i + 2)) : decimal[i];
        if (bytes < unit) break;
    }
    if (i == 8) i = 7;
    unit_name[1] = binary && !i ? 'K' : letters[i];
    strcpy(unit_name + 2, binary ? "iB" : "B");
    kvi_jinja_format_value(ctx, &b, kvi_jinja_float(base * bytes / unit), ".1f", 3);
    kvi_jinja_add(ctx, &b, unit_name, strlen(unit_name), KVI_JINJA_TEXT);
    return kvi_jinja_built(ctx, &b);
}

/* A copy with the keys of every dictionary in order, as pprint shows them. */
static kvi_jinja_value key_sorted(kvi_jinja_interp *in, kvi_jinja_value value)
{
    kvi_jinja_ctx *ctx = in->ctx;
    if (++ctx->depth > KVI_JINJA_MAX_NESTING) kvi_jinja_fail(ctx, "a value is nested too deeply to print");
    if (!ctx->failed && value.type == KVI_JINJA_SEQ && value.u.seq->kind <= KVI_JINJA_TUPLE) {
        kvi_jinja_seq *out = kvi_jinja_seq_new(ctx, value.u.seq->kind);
        for (size_t i = 0; out && i < value.u.seq->n && !ctx->failed; i++)
            kvi_jinja_seq_push(ctx, out, key_sorted(in, value.u.seq->items[i]));
        value = kvi_jinja_seq_value(out);
    } else if (!ctx->failed && value.type == KVI_JINJA_DICT) {
        static const char *const sensitive[] = {"case_sensitive"};
        kvi_jinja_value yes = kvi_jinja_bool(true);
        kvi_jinja_value pairs =
            kvi_jinja_apply_filter(in, "dictsort", value, &(kvi_jinja_args){NULL, 0, sensitive, &yes, 1});
        kvi_jinja_dict *out = kvi_jinja_dict_new(ctx);
        for (size_t i = 0; out && !ctx->failed && i < pairs.u.seq->n; i++) {
            const kvi_jinja_value *pair = pairs.u.seq->items[i].u.seq->items;
            kvi_jinja_dict_set(ctx, out, pair[0], key_sorted(in, pair[1]));
        }
        value = (kvi_jinja_value){KVI_JINJA_DICT, {.dict = out}};
    }
    ctx->depth--;
    return value;
}

FILTER(filter_pprint)
{
    NO_ARGUMENTS("pprint");
    kvi_jinja_builder b = {0};
    x = key_sorted(in, x);
    if (!in->ctx->failed) kvi_jinja_add_repr(in->ctx, &b, x);
    x = kvi_jinja_built(in->ctx, &b);
    if (!in->ctx->failed && kvi_jinja_str_chars(x.u.s) > 80)
        return kvi_jinja_fail(in->ctx, "pprint of a value wider than 80 characters is not supported; use tojson");
    return x;
}

kvi_jinja_filter_fn kvi_jinja_find_text_filter(const char *name)
{
    static const struct {
        const char *name;
        kvi_jinja_filter_fn fn;
    } table[] = {{"center", filter_center},       {"filesizeformat", filter_filesizeformat},
                 {"format", filter_format},       {"forceescape", filter_forceescape},
                 {"pprint", filter_pprint},       {"striptags", filter_striptags},
                 {"truncate", filter_truncate},   {"urlencode", filter_urlencode},
                 {"wordcount", filter_wordcount}, {"wordwrap", kvi_jinja_wordwrap},
                 {"xmlattr", filter_xmlattr}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i].name, name) == 0) return table[i].fn;
    return NULL;
}
