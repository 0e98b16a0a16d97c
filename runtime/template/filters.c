/* filters.c - filters on single values: text, numbers, default, tojson. An unknown filter is an error when it is
 * reached, as in Jinja2 (a template may mention it in a branch that never runs). */
#include "../base/json.h"
#include "args.h"
#include "../base/utf8.h"

#include <math.h>
#include <string.h>

FILTER(filter_safe)
{
    NO_ARGUMENTS("safe");
    return kvi_jinja_as_markup(in->ctx, kvi_jinja_str_of(in->ctx, x), true);
}
FILTER(filter_escape)
{
    NO_ARGUMENTS("escape");
    return kvi_jinja_escape(in->ctx, x);
}
FILTER(filter_string)
{
    NO_ARGUMENTS("string");
    return kvi_jinja_str_of(in->ctx, x);
}

static kvi_jinja_value cased(kvi_jinja_interp *in, kvi_jinja_value x, const kvi_jinja_args *args, const char *what,
                             kvi_jinja_case mode)
{
    NO_ARGUMENTS(what);
    x = kvi_jinja_str_of(in->ctx, x);
    return in->ctx->failed ? x : kvi_jinja_change_case(in->ctx, x.u.s, mode);
}
FILTER(filter_upper) { return cased(in, x, args, "upper", KVI_JINJA_UPPER); }
FILTER(filter_lower) { return cased(in, x, args, "lower", KVI_JINJA_LOWER); }
FILTER(filter_title) { return cased(in, x, args, "title", KVI_JINJA_FILTER_TITLE); }
FILTER(filter_capitalize) { return cased(in, x, args, "capitalize", KVI_JINJA_CAPITALIZE); }

FILTER(filter_trim)
{
    BIND("trim", 1, "chars");
    x = kvi_jinja_str_of(in->ctx, x);
    return in->ctx->failed ? x : kvi_jinja_strip(in->ctx, x, v[0], true, true);
}

FILTER(filter_replace)
{
    BIND("replace", 3, "old", "new", "count");
    int64_t count = -1;
    if (kvi_jinja_absent(v[0]) || kvi_jinja_absent(v[1]))
        return kvi_jinja_fail(in->ctx, "TypeError: replace needs old and new");
    if (!kvi_jinja_absent(v[2]) && v[2].type != KVI_JINJA_NONE && !kvi_jinja_want_int(in->ctx, v[2], "replace", &count))
        return v[2];
    kvi_jinja_value s = kvi_jinja_as_markup(in->ctx, kvi_jinja_str_of(in->ctx, x), false);
    kvi_jinja_value from = kvi_jinja_str_of(in->ctx, v[0]), to = kvi_jinja_str_of(in->ctx, v[1]);
    return in->ctx->failed ? s : kvi_jinja_replace(in->ctx, s.u.s, from.u.s, to.u.s, count);
}

FILTER(filter_length)
{
    NO_ARGUMENTS("length");
    kvi_jinja_charge(in->ctx, x.type == KVI_JINJA_STR ? x.u.s->len / 64 : 0);
    switch (x.type) {
    case KVI_JINJA_UNDEFINED: return kvi_jinja_int(0);
    case KVI_JINJA_STR: return kvi_jinja_int((int64_t)kvi_jinja_str_chars(x.u.s));
    case KVI_JINJA_BYTES: return kvi_jinja_int((int64_t)x.u.s->len);
    case KVI_JINJA_DICT: return kvi_jinja_int((int64_t)x.u.dict->n);
    case KVI_JINJA_LOOP: return kvi_jinja_int((int64_t)x.u.loop->seq->n);
    case KVI_JINJA_SEQ:
        if (x.u.seq->kind != KVI_JINJA_ITERATOR) return kvi_jinja_int((int64_t)x.u.seq->n);
        /* fall through */
    default: return kvi_jinja_fail(in->ctx, "TypeError: object of type '%s' has no len()", kvi_jinja_type_name(x));
    }
}

FILTER(filter_default)
{
    BIND("default", 2, "default_value", "boolean");
    bool falsy = !kvi_jinja_absent(v[1]) && kvi_jinja_truth(v[1]) && !kvi_jinja_truth(x);
    if (x.type != KVI_JINJA_UNDEFINED && !falsy) return x;
    return kvi_jinja_absent(v[0]) ? kvi_jinja_str_static(in->ctx, "") : v[0];
}

/* ------------------------------------------------------------------------------------------------------- numbers
 * --- */
/* Python's int(text) and float(text): surrounding whitespace, a sign, underscores between digits. */
static bool clean_number(const kvi_jinja_str *s, char *dst, size_t cap, size_t *len, bool *negative)
{
    size_t from = 0, to = s->len;
    while (from < to && kvi_jinja_is_space((unsigned char)s->data[from])) from++;
    while (to > from && kvi_jinja_is_space((unsigned char)s->data[to - 1])) to--;
    *negative = from < to && s->data[from] == '-';
    if (from < to && (s->data[from] == '-' || s->data[from] == '+')) from++;
    *len = 0;
    for (size_t i = from; i < to; i++) {
        char c = s->data[i];
        if (c == '_' && i > from && i + 1 < to && s->data[i - 1] >= '0' && s->data[i - 1] <= '9' &&
            s->data[i + 1] >= '0' && s->data[i + 1] <= '9')
            continue;
        if (*len + 1 >= cap) return false;
        dst[(*len)++] = c;
    }
    return *len > 0;
}

static bool named_float(const char *text, size_t len, double *out)
{
    static const char *const names[] = {"inf", "infinity", "nan"};
    char lower[12];
    if (len >= sizeof lower) return false;
    for (size_t i = 0; i < len; i++) lower[i] = (char)(text[i] | 0x20);
    lower[len] = 0;
    for (size_t i = 0; i < 3; i++)
        if (strcmp(lower, names[i]) == 0) return *out = i < 2 ? HUGE_VAL : NAN, true;
    return false;
}

bool kvi_jinja_parse_float(const kvi_jinja_str *s, double *out)
{
    char text[400], padded[404];
    size_t len, n = 0, from = 0;
    bool negative, digit = false;
    if (!clean_number(s, text, sizeof text, &len, &negative)) return false;
    if (named_float(text, len, out)) return *out = negative ? -*out : *out, true;
    for (size_t i = 0; i < len; i++) digit = digit || (text[i] >= '0' && text[i] <= '9');
    if (!digit) return false;
    while (from + 1 < len && text[from] == '0' && text[from + 1] >= '0' && text[from + 1] <= '9') from++;
    /* ".5" and "5." are numbers to Python, not to JSON. */
    for (size_t i = from; i < len; i++) {
        bool before = i > from && text[i - 1] >= '0' && text[i - 1] <= '9',
             after = i + 1 < len && text[i + 1] >= '0' && text[i + 1] <= '9';
        if (text[i] == '.' && !before && !after) return false;
        if (text[i] == '.' && !before) padded[n++] = '0';
        padded[n++] = text[i];
        if (text[i] == '.' && !after) padded[n++] = '0';
        if (n + 3 > sizeof padded) return false;
    }
    if (!kvi_parse_f64(padded, n, out)) {
        if (strspn(padded, "0123456789") == 0 || !memchr(padded, 'e', n)) return false;
        *out = HUGE_VAL; /* as far as it can be read, too large */
    }
    if (negative) *out = -*out;
    return true;
}

/* Python reads the digits of every script; here they are named and refused. */
static bool has_foreign_digit(kvi_jinja_ctx *ctx, const kvi_jinja_str *s)
{
    for (size_t at = 0; at < s->len;) {
        uint32_t cp = 0;
        size_t n = kvi_utf8_decode(s->data + at, s->len - at, &cp);
        if (cp >= 0x80 && kvi_jinja_is_decimal(cp))
            return kvi_jinja_fail(ctx, "a number with the digit U+%04X is not supported", cp), true;
        at += n ? n : 1;
    }
    return false;
}

/* Undefined: not a number. */
static kvi_jinja_value parse_int(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, int64_t base)
{
    char text[4400];
    size_t len, i = 0;
    bool negative;
    if (!clean_number(s, text, sizeof text, &len, &negative)) return kvi_jinja_undefined(NULL);
    char prefix = len > 2 && text[0] == '0' ? (char)(text[1] | 0x20) : 0;
    int64_t named = prefix == 'x' ? 16 : prefix == 'o' ? 8 : prefix == 'b' ? 2 : 0;
    if (named && (base == named || !base)) i = 2, base = named;
    if (!base && len > 1 && text[0] == '0' && strspn(text, "0") < len) return kvi_jinja_undefined(NULL);
    if (!base) base = 10;
    for (size_t k = i; k < len; k++) {
        char c = (char)(text[k] | 0x20);
        int64_t d = text[k] >= '0' && text[k] <= '9' ? text[k] - '0' : c >= 'a' && c <= 'z' ? c - 'a' + 10 : 99;
        if (d >= base) return kvi_jinja_undefined(NULL);
    }
    return kvi_jinja_int_parse(ctx, text + i, len - i, (unsigned)base, negative);
}

static kvi_jinja_value int_of_float(kvi_jinja_ctx *ctx, double f, kvi_jinja_value fallback, bool from_text)
{
    if (isnan(f) || (isinf(f) && from_text)) return fallback;
    return kvi_jinja_int_of_float(ctx, f);
}

FILTER(filter_int)
{
    BIND("int", 2, "default", "base");
    int64_t base = 10;
    double f;
    kvi_jinja_value fallback = kvi_jinja_absent(v[0]) ? kvi_jinja_int(0) : v[0];
    if (!kvi_jinja_absent(v[1]) && !kvi_jinja_want_int(in->ctx, v[1], "int", &base)) return v[1];
    bool valid = !base || (base >= 2 && base <= 36);
    switch (x.type) {
    case KVI_JINJA_UNDEFINED: return kvi_jinja_use_undefined(in->ctx, x);
    case KVI_JINJA_BIG:
    case KVI_JINJA_INT: return x;
    case KVI_JINJA_BOOL: return kvi_jinja_int(x.u.b);
    case KVI_JINJA_FLOAT: return int_of_float(in->ctx, x.u.f, fallback, false);
    case KVI_JINJA_STR: {
        if (has_foreign_digit(in->ctx, x.u.s)) return fallback;
        kvi_jinja_value i = valid ? parse_int(in->ctx, x.u.s, base) : kvi_jinja_undefined(NULL);
        if (i.type != KVI_JINJA_UNDEFINED || in->ctx->failed) return i;
        return kvi_jinja_parse_float(x.u.s, &f) ? int_of_float(in->ctx, f, fallback, true) : fallback;
    }
    default: return fallback;
    }
}

FILTER(filter_float)
{
    BIND("float", 1, "default");
    double f;
    kvi_jinja_value fallback = kvi_jinja_absent(v[0]) ? kvi_jinja_float(0) : v[0];
    switch (x.type) {
    case KVI_JINJA_UNDEFINED: return kvi_jinja_use_undefined(in->ctx, x);
    case KVI_JINJA_BIG:
        f = kvi_jinja_int_to_float(x);
        if (isinf(f)) return kvi_jinja_fail(in->ctx, "OverflowError: int too large to convert to float");
        return kvi_jinja_float(f);
    case KVI_JINJA_INT: return kvi_jinja_float((double)x.u.i);
    case KVI_JINJA_BOOL: return kvi_jinja_float(x.u.b);
    case KVI_JINJA_FLOAT: return x;
    case KVI_JINJA_STR:
        if (has_foreign_digit(in->ctx, x.u.s)) return fallback;
        return kvi_jinja_parse_float(x.u.s, &f) ? kvi_jinja_float(f) : fallback;
    default: return fallback;
    }
}

FILTER(filter_abs)
{
    NO_ARGUMENTS("abs");
    if (x.type == KVI_JINJA_FLOAT) return kvi_jinja_float(fabs(x.u.f));
    if (kvi_jinja_is_int(x)) return kvi_jinja_negate(in->ctx, x, kvi_jinja_int_compare(x, kvi_jinja_int(0)) < 0);
    if (x.type == KVI_JINJA_UNDEFINED) return kvi_jinja_use_undefined(in->ctx, x);
    return kvi_jinja_fail(in->ctx, "TypeError: bad operand type for abs(): '%s'", kvi_jinja_type_name(x));
}

/* To a multiple of 10^places, half to even; `above`: a little more than x is meant. */
static kvi_jinja_value round_int(kvi_jinja_ctx *ctx, kvi_jinja_value x, int64_t places, bool above)
{
    if (places > 4300) return kvi_jinja_int(0);
    kvi_jinja_value unit = kvi_jinja_int_binary(ctx, 'P', kvi_jinja_int(10), kvi_jinja_int(places));
    kvi_jinja_value rest = ctx->failed ? unit : kvi_jinja_int_binary(ctx, '%', x, unit);
    kvi_jinja_value base = ctx->failed ? unit : kvi_jinja_int_binary(ctx, '-', x, rest);
    kvi_jinja_value twice = ctx->failed ? unit : kvi_jinja_int_binary(ctx, '+', rest, rest);
    if (ctx->failed) return unit;
    int c = kvi_jinja_int_compare(twice, unit);
    kvi_jinja_value quotient = kvi_jinja_int_binary(ctx, 'F', x, unit);
    bool odd = !ctx->failed && kvi_jinja_truth(kvi_jinja_int_binary(ctx, '%', quotient, kvi_jinja_int(2)));
    return c > 0 || (c == 0 && (odd || above)) ? kvi_jinja_int_binary(ctx, '+', base, unit) : base;
}

static kvi_jinja_value round_float(kvi_jinja_ctx *ctx, kvi_jinja_value x, int64_t places)
{
    char text[1200];
    double f = x.u.f;
    if (!isfinite(f) || places > 323) return isfinite(f) || places ? x : kvi_jinja_int_of_float(ctx, f);
    if (places < 0) {
        kvi_jinja_value whole = round_int(ctx, kvi_jinja_int_of_float(ctx, floor(f)), -places, floor(f) != f);
        return ctx->failed ? whole : kvi_jinja_float(copysign(kvi_jinja_int_to_float(whole), f));
    }
    int n = kvi_jinja_float_fixed(f, (unsigned)places, text, sizeof text);
    bool negative = text[0] == '-';
    if (n < 0 || !kvi_parse_f64(text + negative, (size_t)n - negative, &f)) return x;
    return kvi_jinja_float(negative ? -f : f);
}

/* ceil or floor of x * 10^places, divided by it again: what the filter does to the letter. */
static kvi_jinja_value scaled(kvi_jinja_ctx *ctx, kvi_jinja_value x, int64_t places, bool up)
{
    kvi_jinja_value scale = kvi_jinja_binary(ctx, 'P', kvi_jinja_int(10), kvi_jinja_int(places));
    x = ctx->failed ? x : kvi_jinja_binary(ctx, '*', x, scale);
    if (!ctx->failed && x.type == KVI_JINJA_FLOAT) x = kvi_jinja_int_of_float(ctx, up ? ceil(x.u.f) : floor(x.u.f));
    return ctx->failed ? x : kvi_jinja_binary(ctx, '/', x, scale);
}

FILTER(filter_round)
{
    BIND("round", 2, "precision", "method");
    int64_t places = 0;
    const char *method = "common";
    if (!kvi_jinja_absent(v[0]) && !kvi_jinja_want_int(in->ctx, v[0], "round", &places)) return v[0];
    if (!kvi_jinja_absent(v[1])) {
        static const char *const known[] = {"common", "ceil", "floor"};
        size_t i = 0;
        while (i < 3 && !(v[1].type == KVI_JINJA_STR && kvi_jinja_str_is(v[1].u.s, known[i]))) i++;
        if (i == 3) return kvi_jinja_fail(in->ctx, "FilterArgumentError: method must be common, ceil or floor");
        method = known[i];
    }
    bool common = strcmp(method, "common") == 0;
    if (kvi_jinja_is_int(x) && common)
        return places < 0 ? round_int(in->ctx, x, -places, false) : kvi_jinja_negate(in->ctx, x, false);
    if (kvi_jinja_is_int(x) && places > -300 && places < 300) return scaled(in->ctx, x, places, method[0] == 'c');
    if (x.type != KVI_JINJA_FLOAT)
        return x.type == KVI_JINJA_UNDEFINED
                   ? kvi_jinja_use_undefined(in->ctx, x)
                   : kvi_jinja_fail(in->ctx, "TypeError: round: '%s' is not a number", kvi_jinja_type_name(x));
    if (!common) {
        if (places < -300 || places > 300)
            return kvi_jinja_fail(in->ctx, "OverflowError: round: the precision is too large");
        return scaled(in->ctx, x, places, method[0] == 'c');
    }
    return round_float(in->ctx, x, places);
}

/* ---------------------------------------------------------------------------------------------------------- text
 * --- */
FILTER(filter_tojson)
{
    BIND("tojson", 4, "ensure_ascii", "indent", "separators", "sort_keys");
    kvi_jinja_json_style style = {.indent = -1};
    int64_t indent = -1;
    style.ensure_ascii = !kvi_jinja_absent(v[0]) && kvi_jinja_truth(v[0]);
    style.sort_keys = !kvi_jinja_absent(v[3]) && kvi_jinja_truth(v[3]);
    if (v[1].type == KVI_JINJA_STR) {
        char *text = kvi_jinja_alloc(in->ctx, v[1].u.s->len + 1);
        if (!text) return x;
        memcpy(text, v[1].u.s->data, v[1].u.s->len);
        style.indent_text = text;
    } else if (!kvi_jinja_absent(v[1]) && v[1].type != KVI_JINJA_NONE) {
        if (!kvi_jinja_want_int(in->ctx, v[1], "tojson", &indent)) return v[1];
        if (indent > 64)
            return kvi_jinja_fail(in->ctx, "tojson: an indent of %lld is not supported", (long long)indent);
        style.indent = indent < 0 ? 0 : (int)indent;
    }
    if (!kvi_jinja_absent(v[2]) && v[2].type != KVI_JINJA_NONE) {
        kvi_jinja_seq *pair = kvi_jinja_iterate(in->ctx, v[2]);
        if (!pair || pair->n != 2 || pair->items[0].type != KVI_JINJA_STR || pair->items[1].type != KVI_JINJA_STR)
            return kvi_jinja_fail(in->ctx, "TypeError: separators must be a pair of strings");
        style.item_separator = pair->items[0].u.s;
        style.key_separator = pair->items[1].u.s;
    }
    return kvi_jinja_to_json(in->ctx, x, &style);
}

/* Appends a newline and splits at line ends, as Jinja2 does: other line ends than \n become \n, too. */
FILTER(filter_indent)
{
    BIND("indent", 3, "width", "first", "blank");
    kvi_jinja_ctx *ctx = in->ctx;
    int64_t width = 4;
    const kvi_jinja_str *s;
    bool first = kvi_jinja_flag(v[1], false), blank = kvi_jinja_flag(v[2], false);
    kvi_jinja_value pad = v[0];
    if (x.type == KVI_JINJA_UNDEFINED) return kvi_jinja_use_undefined(ctx, x);
    if (!kvi_jinja_want_str(ctx, x, "indent", &s)) return x;
    if (v[0].type != KVI_JINJA_STR) {
        if (!kvi_jinja_absent(v[0]) && !kvi_jinja_want_int(ctx, v[0], "indent", &width)) return v[0];
        pad = kvi_jinja_binary(ctx, '*', kvi_jinja_str_static(ctx, " "), kvi_jinja_int(width));
    }
    kvi_jinja_value newline = kvi_jinja_str_static(ctx, "\n");
    if (ctx->failed) return x;
    kvi_jinja_value text = kvi_jinja_binary(ctx, '+', kvi_jinja_as_markup(ctx, x, false), newline);
    kvi_jinja_value lines =
        ctx->failed ? x : kvi_jinja_str_method(in, text.u.s, "splitlines", &(kvi_jinja_args){NULL, 0, NULL, NULL, 0});
    if (ctx->failed) return x;
    kvi_jinja_builder b = {0};
    for (size_t i = 0; i < lines.u.seq->n && kvi_jinja_charge(ctx, 1); i++) {
        const kvi_jinja_str *line = lines.u.seq->items[i].u.s;
        if (i) kvi_jinja_add(ctx, &b, "\n", 1, KVI_JINJA_TEXT);
        if (i ? blank || line->len : first) kvi_jinja_add_str(ctx, &b, pad.u.s);
        kvi_jinja_add_str(ctx, &b, line);
    }
    return kvi_jinja_as_markup(ctx, kvi_jinja_built(ctx, &b), s->markup);
}

kvi_jinja_filter_fn kvi_jinja_find_filter(const char *name)
{
    static const struct {
        const char *name;
        kvi_jinja_filter_fn fn;
    } table[] = {{"safe", filter_safe},       {"escape", filter_escape},
                 {"e", filter_escape},        {"string", filter_string},
                 {"upper", filter_upper},     {"lower", filter_lower},
                 {"title", filter_title},     {"capitalize", filter_capitalize},
                 {"trim", filter_trim},       {"replace", filter_replace},
                 {"length", filter_length},   {"count", filter_length},
                 {"default", filter_default}, {"d", filter_default},
                 {"int", filter_int},         {"float", filter_float},
                 {"abs", filter_abs},         {"round", filter_round},
                 {"tojson", filter_tojson},   {"indent", filter_indent}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i].name, name) == 0) return table[i].fn;
    kvi_jinja_filter_fn text = kvi_jinja_find_text_filter(name);
    return text ? text : kvi_jinja_find_seq_filter(name);
}

kvi_jinja_value kvi_jinja_apply_filter(kvi_jinja_interp *in, const char *name, kvi_jinja_value input,
                                       const kvi_jinja_args *args)
{
    kvi_jinja_filter_fn fn = kvi_jinja_find_filter(name);
    return fn ? fn(in, input, args) : kvi_jinja_fail(in->ctx, "unknown or unsupported filter '%s'", name);
}
