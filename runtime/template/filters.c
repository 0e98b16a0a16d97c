/* filters.c - filters on single values: text, numbers, default, tojson. An unknown filter is an error when it is
 * reached, as in Jinja2 (a template may mention it in a branch that never runs). */
#include "../base/json.h"
#include "interpret.h"

#include <math.h>
#include <string.h>

#define FILTER(name) static kvi_jinja_value name(kvi_jinja_interp *in, kvi_jinja_value x, const kvi_jinja_args *args)
#define BIND(what, n, ...)                                                                                             \
    static const char *const names[] = {__VA_ARGS__};                                                                  \
    kvi_jinja_value v[n];                                                                                              \
    if (!kvi_jinja_bind(in->ctx, what, args, names, n, v)) return v[0]
#define NO_ARGUMENTS(what)                                                                                             \
    if (args->n || args->n_keys) return kvi_jinja_fail(in->ctx, "TypeError: %s takes no arguments", what)

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

static bool parse_float(const kvi_jinja_str *s, double *out)
{
    char text[400], padded[404];
    size_t len, n = 0, from = 0;
    bool negative, digit = false;
    if (!clean_number(s, text, sizeof text, &len, &negative)) return false;
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
    if (!kvi_parse_f64(padded, n, out)) return false;
    if (negative) *out = -*out;
    return true;
}

static bool parse_int(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, int64_t base, int64_t *out)
{
    char text[400];
    size_t len, i = 0;
    bool negative;
    if (!clean_number(s, text, sizeof text, &len, &negative)) return false;
    char prefix = len > 2 && text[0] == '0' ? (char)(text[1] | 0x20) : 0;
    if ((prefix == 'x' && base == 16) || (prefix == 'o' && base == 8) || (prefix == 'b' && base == 2)) i = 2;
    *out = 0;
    bool overflow = false;
    for (; i < len; i++) {
        int64_t d = text[i] >= '0' && text[i] <= '9'                     ? text[i] - '0'
                    : (text[i] | 0x20) >= 'a' && (text[i] | 0x20) <= 'z' ? (text[i] | 0x20) - 'a' + 10
                                                                         : 99;
        if (d >= base) return false;
        overflow = overflow || __builtin_mul_overflow(*out, base, out) || __builtin_sub_overflow(*out, d, out);
    }
    if (!negative && *out == INT64_MIN) overflow = true;
    if (overflow) kvi_jinja_fail(ctx, "OverflowError: an integer does not fit 64 bits");
    else if (!negative) *out = -*out;
    return true;
}

static kvi_jinja_value int_of_float(kvi_jinja_ctx *ctx, double f, kvi_jinja_value fallback)
{
    if (isnan(f)) return fallback;
    if (isinf(f)) return kvi_jinja_fail(ctx, "OverflowError: cannot convert float infinity to integer");
    if (!(fabs(f) < 9.2e18)) return kvi_jinja_fail(ctx, "OverflowError: an integer does not fit 64 bits");
    return kvi_jinja_int((int64_t)f);
}

FILTER(filter_int)
{
    BIND("int", 2, "default", "base");
    int64_t base = 10, i;
    double f;
    kvi_jinja_value fallback = kvi_jinja_absent(v[0]) ? kvi_jinja_int(0) : v[0];
    if (!kvi_jinja_absent(v[1]) && !kvi_jinja_want_int(in->ctx, v[1], "int", &base)) return v[1];
    if (base < 2 || base > 36) return kvi_jinja_fail(in->ctx, "ValueError: int() base must be >= 2 and <= 36");
    switch (x.type) {
    case KVI_JINJA_UNDEFINED: return kvi_jinja_use_undefined(in->ctx, x);
    case KVI_JINJA_INT: return x;
    case KVI_JINJA_BOOL: return kvi_jinja_int(x.u.b);
    case KVI_JINJA_FLOAT: return int_of_float(in->ctx, x.u.f, fallback);
    case KVI_JINJA_STR:
        if (parse_int(in->ctx, x.u.s, base, &i)) return kvi_jinja_int(i);
        return parse_float(x.u.s, &f) ? int_of_float(in->ctx, f, fallback) : fallback;
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
    case KVI_JINJA_INT: return kvi_jinja_float((double)x.u.i);
    case KVI_JINJA_BOOL: return kvi_jinja_float(x.u.b);
    case KVI_JINJA_FLOAT: return x;
    case KVI_JINJA_STR: return parse_float(x.u.s, &f) ? kvi_jinja_float(f) : fallback;
    default: return fallback;
    }
}

FILTER(filter_abs)
{
    NO_ARGUMENTS("abs");
    if (x.type == KVI_JINJA_FLOAT) return kvi_jinja_float(fabs(x.u.f));
    if (x.type == KVI_JINJA_BOOL) return kvi_jinja_int(x.u.b);
    if (x.type == KVI_JINJA_INT) return x.u.i < 0 ? kvi_jinja_negate(in->ctx, x, true) : x;
    if (x.type == KVI_JINJA_UNDEFINED) return kvi_jinja_use_undefined(in->ctx, x);
    return kvi_jinja_fail(in->ctx, "TypeError: bad operand type for abs(): '%s'", kvi_jinja_type_name(x));
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
    if (places < 0 || places > 15)
        return kvi_jinja_fail(in->ctx, "round: a precision of %lld is not supported", (long long)places);
    bool common = strcmp(method, "common") == 0;
    if (x.type == KVI_JINJA_INT || x.type == KVI_JINJA_BOOL) {
        int64_t i = x.type == KVI_JINJA_INT ? x.u.i : x.u.b;
        return common ? kvi_jinja_int(i) : kvi_jinja_float((double)i);
    }
    if (x.type != KVI_JINJA_FLOAT)
        return x.type == KVI_JINJA_UNDEFINED
                   ? kvi_jinja_use_undefined(in->ctx, x)
                   : kvi_jinja_fail(in->ctx, "TypeError: round: '%s' is not a number", kvi_jinja_type_name(x));
    double f = x.u.f;
    if (!common) {
        double scale = pow(10, (double)places);
        return kvi_jinja_float((method[0] == 'c' ? ceil(f * scale) : floor(f * scale)) / scale);
    }
    char text[340];
    int n = kvi_jinja_float_fixed(f, (unsigned)places, text, sizeof text);
    if (n < 0) return x;
    bool negative = text[0] == '-';
    if (!kvi_parse_f64(text + negative, (size_t)n - negative, &f)) return x;
    return kvi_jinja_float(negative ? -f : f);
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

FILTER(filter_indent)
{
    BIND("indent", 3, "width", "first", "blank");
    kvi_jinja_ctx *ctx = in->ctx;
    int64_t width = 4;
    bool first = !kvi_jinja_absent(v[1]) && kvi_jinja_truth(v[1]),
         blank = !kvi_jinja_absent(v[2]) && kvi_jinja_truth(v[2]);
    kvi_jinja_value pad, text = kvi_jinja_str_of(ctx, x);
    if (v[0].type == KVI_JINJA_STR) pad = v[0];
    else {
        if (!kvi_jinja_absent(v[0]) && !kvi_jinja_want_int(ctx, v[0], "indent", &width)) return v[0];
        pad = kvi_jinja_binary(ctx, '*', kvi_jinja_str_static(ctx, " "), kvi_jinja_int(width));
    }
    if (ctx->failed) return text;
    const kvi_jinja_str *s = text.u.s;
    kvi_jinja_builder b = {0};
    for (size_t from = 0, line = 0; from <= s->len && kvi_jinja_charge(ctx, 1); line++) {
        const char *end = from < s->len ? memchr(s->data + from, '\n', s->len - from) : NULL;
        size_t to = end ? (size_t)(end - s->data) : s->len;
        if (line) kvi_jinja_add(ctx, &b, "\n", 1, KVI_JINJA_TEXT);
        if (line ? blank || to > from : first) kvi_jinja_add_str(ctx, &b, pad.u.s);
        kvi_jinja_add_range(ctx, &b, s, from, to);
        from = to + 1;
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
    return kvi_jinja_find_seq_filter(name);
}

kvi_jinja_value kvi_jinja_apply_filter(kvi_jinja_interp *in, const char *name, kvi_jinja_value input,
                                       const kvi_jinja_args *args)
{
    kvi_jinja_filter_fn fn = kvi_jinja_find_filter(name);
    return fn ? fn(in, input, args) : kvi_jinja_fail(in->ctx, "unknown or unsupported filter '%s'", name);
}
