/* format_args.c - str % args and str.format, as Python and Jinja2's sandbox do them. See format.h. */
#include "format.h"
#include "../base/utf8.h"

#include <math.h>
#include <string.h>

kvi_jinja_value kvi_jinja_ascii(kvi_jinja_ctx *ctx, kvi_jinja_value value)
{
    static const char hex[] = "0123456789abcdef";
    kvi_jinja_builder repr = {0}, b = {0};
    kvi_jinja_add_repr(ctx, &repr, value);
    kvi_jinja_value text = kvi_jinja_built(ctx, &repr);
    for (size_t at = 0; !ctx->failed && at < text.u.s->len;) {
        uint32_t cp;
        size_t n = kvi_utf8_decode(text.u.s->data + at, text.u.s->len - at, &cp);
        if (!n) n = 1, cp = 0;
        if (cp < 0x80) kvi_jinja_add_range(ctx, &b, text.u.s, at, at + n);
        else {
            char escape[12] = {'\\', cp < 0x100 ? 'x' : cp < 0x10000 ? 'u' : 'U'};
            size_t digits = cp < 0x100 ? 2 : cp < 0x10000 ? 4 : 8;
            for (size_t i = 0; i < digits; i++) escape[2 + i] = hex[cp >> (4 * (digits - 1 - i)) & 15];
            kvi_jinja_add(ctx, &b, escape, 2 + digits, KVI_JINJA_TEXT);
        }
        at += n;
    }
    return kvi_jinja_built(ctx, &b);
}

static kvi_jinja_value repr_of(kvi_jinja_ctx *ctx, kvi_jinja_value value)
{
    kvi_jinja_builder b = {0};
    kvi_jinja_add_repr(ctx, &b, value);
    return kvi_jinja_built(ctx, &b);
}

/* ----------------------------------------------------------------------------------------------------------- str % args
 * --- */
typedef struct percent {
    kvi_jinja_ctx *ctx;
    const kvi_jinja_str *format;
    size_t at;
    kvi_jinja_value args;
    const kvi_jinja_value *values; /* what is left of the arguments, in order */
    size_t left;
    bool mapping;
} percent;

static kvi_jinja_value next_value(percent *p)
{
    if (!p->left) return kvi_jinja_fail(p->ctx, "TypeError: not enough arguments for format string");
    p->left--;
    return *p->values++;
}

/* (key): parentheses may nest. */
static kvi_jinja_value keyed_value(percent *p)
{
    size_t from = ++p->at, depth = 1;
    const kvi_jinja_str *f = p->format;
    for (; p->at < f->len && depth; p->at++) {
        if (f->data[p->at] == '(') depth++;
        else if (f->data[p->at] == ')') depth--;
    }
    if (depth) return kvi_jinja_fail(p->ctx, "ValueError: incomplete format key");
    if (p->args.type != KVI_JINJA_DICT) return kvi_jinja_fail(p->ctx, "TypeError: format requires a mapping");
    kvi_jinja_value key = kvi_jinja_slice_bytes(p->ctx, f, from, p->at - 1);
    kvi_jinja_value *found = p->ctx->failed ? NULL : kvi_jinja_dict_find(p->ctx, p->args.u.dict, key);
    if (found) return *found;
    return kvi_jinja_fail(p->ctx, "KeyError: '%.*s'", (int)(p->at - 1 - from < 60 ? p->at - 1 - from : 60),
                          f->data + from);
}

/* Digits, or * for an argument; -1 when there are none. */
static int64_t read_count(percent *p)
{
    int64_t n = 0;
    size_t from = p->at;
    const kvi_jinja_str *f = p->format;
    if (p->at < f->len && f->data[p->at] == '*') {
        p->at++;
        kvi_jinja_value v = next_value(p);
        if (!p->ctx->failed && v.type != KVI_JINJA_INT) kvi_jinja_fail(p->ctx, "TypeError: * wants int");
        return p->ctx->failed ? 0 : v.u.i;
    }
    for (; p->at < f->len && f->data[p->at] >= '0' && f->data[p->at] <= '9'; p->at++) {
        n = n * 10 + (f->data[p->at] - '0');
        if (n > INT32_MAX) return kvi_jinja_fail(p->ctx, "ValueError: width or precision too big"), 0;
    }
    return p->at > from ? n : -1;
}

static void read_flags(percent *p, kvi_jinja_spec *spec, bool *zero)
{
    *spec = (kvi_jinja_spec){.fill = " ", .fill_len = 1, .align = '>', .sign = '-', .precision = -1};
    for (; p->at < p->format->len; p->at++) {
        char c = p->format->data[p->at];
        if (c == '-') spec->align = '<';
        else if (c == '+') spec->sign = '+';
        else if (c == ' ') spec->sign = spec->sign == '+' ? '+' : ' ';
        else if (c == '#') spec->alternate = true;
        else if (c == '0') *zero = true;
        else return;
    }
}

static void add_integer(percent *p, kvi_jinja_builder *b, kvi_jinja_value v, kvi_jinja_spec *spec)
{
    if (v.type == KVI_JINJA_FLOAT && spec->type == 'd') v = kvi_jinja_int_of_float(p->ctx, v.u.f);
    if (p->ctx->failed) return;
    if (!kvi_jinja_is_int(v)) {
        kvi_jinja_fail(p->ctx, "TypeError: %%%c format: %s is required, not %s", spec->type,
                       spec->type == 'd' ? "a real number" : "an integer", kvi_jinja_type_name(v));
        return;
    }
    kvi_jinja_format_int(p->ctx, b, v, spec->precision < 0 ? 0 : (size_t)spec->precision, spec);
}

static void add_character(percent *p, kvi_jinja_builder *b, kvi_jinja_value v, kvi_jinja_spec *spec)
{
    char utf8[4];
    spec->precision = -1;
    if (v.type == KVI_JINJA_INT && v.u.i >= 0 && v.u.i < 0x110000 && !(v.u.i >= 0xd800 && v.u.i < 0xe000))
        v = kvi_jinja_str_copy(p->ctx, utf8, kvi_utf8_encode(utf8, (uint32_t)v.u.i), KVI_JINJA_TEXT);
    if (p->ctx->failed) return;
    if (v.type == KVI_JINJA_STR && kvi_jinja_str_chars(v.u.s) == 1) kvi_jinja_format_text(p->ctx, b, v.u.s, spec);
    else kvi_jinja_fail(p->ctx, "TypeError: %%c requires int or char");
}

static void add_conversion(percent *p, kvi_jinja_builder *b, kvi_jinja_value v, kvi_jinja_spec *spec, bool zero)
{
    kvi_jinja_ctx *ctx = p->ctx;
    char c = spec->type;
    if (c == 'i' || c == 'u') spec->type = c = 'd';
    if (c == 's' || c == 'r' || c == 'a') {
        v = c == 's' ? kvi_jinja_str_of(ctx, v) : c == 'r' ? repr_of(ctx, v) : kvi_jinja_ascii(ctx, v);
        if (!ctx->failed && p->format->markup) v = kvi_jinja_escape(ctx, v);
        if (!ctx->failed) kvi_jinja_format_text(ctx, b, v.u.s, spec);
        return;
    }
    if (c == 'c') {
        add_character(p, b, v, spec);
        return;
    }
    if (zero && spec->align != '<') spec->align = '=', spec->fill[0] = '0';
    if (strchr("doxX", c)) add_integer(p, b, v, spec);
    else if (!strchr("eEfFgG", c)) kvi_jinja_fail(ctx, "ValueError: unsupported format character '%c'", c);
    else if (v.type != KVI_JINJA_FLOAT && !kvi_jinja_is_int(v))
        kvi_jinja_fail(ctx, "TypeError: must be real number, not %s", kvi_jinja_type_name(v));
    else {
        double f = v.type == KVI_JINJA_FLOAT ? v.u.f : kvi_jinja_int_to_float(v);
        if (isinf(f) && v.type == KVI_JINJA_BIG)
            kvi_jinja_fail(ctx, "OverflowError: int too large to convert to float");
        kvi_jinja_format_float(ctx, b, f, spec);
    }
}

/* Behind a '%' that is not doubled. */
static void convert(percent *p, kvi_jinja_builder *b)
{
    kvi_jinja_spec spec;
    const kvi_jinja_str *f = p->format;
    bool zero = false, keyed = p->at < f->len && f->data[p->at] == '(';
    kvi_jinja_value v = keyed ? keyed_value(p) : kvi_jinja_none();
    read_flags(p, &spec, &zero);
    int64_t width = p->ctx->failed ? 0 : read_count(p);
    if (width < -1) spec.align = '<', width = -width; /* a negative * */
    spec.width = width < 0 ? 0 : width;
    if (p->at < f->len && f->data[p->at] == '.') {
        p->at++;
        int64_t precision = p->ctx->failed ? 0 : read_count(p);
        spec.precision = precision < 0 ? 0 : precision;
    }
    if (p->at < f->len && strchr("hlL", f->data[p->at])) p->at++;
    if (p->ctx->failed) return;
    if (p->at >= f->len) {
        kvi_jinja_fail(p->ctx, "ValueError: incomplete format");
        return;
    }
    spec.type = f->data[p->at++];
    if (!keyed) v = next_value(p);
    if (!p->ctx->failed) add_conversion(p, b, v, &spec, zero);
}

kvi_jinja_value kvi_jinja_percent(kvi_jinja_ctx *ctx, const kvi_jinja_str *format, kvi_jinja_value args)
{
    bool tuple = args.type == KVI_JINJA_SEQ && args.u.seq->kind == KVI_JINJA_TUPLE;
    percent p = {ctx,
                 format,
                 0,
                 args,
                 tuple ? args.u.seq->items : &args,
                 tuple ? args.u.seq->n : 1,
                 args.type == KVI_JINJA_DICT || args.type == KVI_JINJA_UNDEFINED ||
                     (args.type == KVI_JINJA_SEQ && !tuple && args.u.seq->kind <= KVI_JINJA_RANGE)};
    kvi_jinja_builder b = {0};
    while (p.at < format->len && kvi_jinja_charge(ctx, 1)) {
        const char *next = memchr(format->data + p.at, '%', format->len - p.at);
        size_t to = next ? (size_t)(next - format->data) : format->len;
        kvi_jinja_add_range(ctx, &b, format, p.at, to);
        p.at = to + 1;
        if (next && p.at < format->len && next[1] == '%') kvi_jinja_add_range(ctx, &b, format, p.at, p.at + 1), p.at++;
        else if (next) convert(&p, &b);
    }
    if (!ctx->failed && p.left && !p.mapping)
        return kvi_jinja_fail(ctx, "TypeError: not all arguments converted during string formatting");
    return kvi_jinja_as_markup(ctx, kvi_jinja_built(ctx, &b), format->markup);
}

/* ---------------------------------------------------------------------------------------------------------- str.format
 * --- */
typedef struct braces {
    kvi_jinja_interp *in;
    const kvi_jinja_args *args;
    const kvi_jinja_dict *mapping;
    int64_t next; /* of automatic numbering; -1: fields are numbered by hand */
    bool markup;
} braces;

static bool all_digits(const char *s, size_t n)
{
    size_t i = 0;
    while (i < n && s[i] >= '0' && s[i] <= '9') i++;
    return n > 0 && n < 10 && i == n;
}

static int64_t number_of(const char *s, size_t n)
{
    int64_t out = 0;
    for (size_t i = 0; i < n; i++) out = out * 10 + (s[i] - '0');
    return out;
}

static kvi_jinja_value argument(braces *f, const char *name, size_t len)
{
    kvi_jinja_ctx *ctx = f->in->ctx;
    if (all_digits(name, len)) {
        uint64_t i = (uint64_t)number_of(name, len);
        return i < f->args->n
                   ? f->args->values[i]
                   : kvi_jinja_fail(ctx, "IndexError: replacement index %llu out of range", (unsigned long long)i);
    }
    for (size_t k = 0; k < f->args->n_keys; k++)
        if (strlen(f->args->keys[k]) == len && memcmp(f->args->keys[k], name, len) == 0) return f->args->named[k];
    for (size_t i = 0; f->mapping && i < f->mapping->n; i++) {
        kvi_jinja_value key = f->mapping->keys[i];
        if (key.type == KVI_JINJA_STR && key.u.s->len == len && memcmp(key.u.s->data, name, len) == 0)
            return f->mapping->values[i];
    }
    return kvi_jinja_fail(ctx, "KeyError: '%.*s'", (int)(len < 60 ? len : 60), name);
}

/* "0.name[key]" */
static kvi_jinja_value field_value(braces *f, const char *name, size_t len)
{
    kvi_jinja_ctx *ctx = f->in->ctx;
    size_t at = 0;
    while (at < len && name[at] != '.' && name[at] != '[') at++;
    if (!len) {
        if (f->next < 0) return kvi_jinja_fail(ctx, "ValueError: cannot switch from manual to automatic numbering");
        uint64_t i = (uint64_t)f->next++;
        return i < f->args->n ? f->args->values[i]
                              : kvi_jinja_fail(ctx,
                                               "IndexError: Replacement index %llu out of range for positional "
                                               "args tuple",
                                               (unsigned long long)i);
    }
    if (all_digits(name, len)) {
        if (f->next > 0) return kvi_jinja_fail(ctx, "ValueError: cannot switch from automatic to manual numbering");
        f->next = -1;
    }
    kvi_jinja_value v = argument(f, name, at);
    while (at < len && !ctx->failed) {
        bool bracket = name[at++] == '[';
        size_t from = at;
        while (at < len && (bracket ? name[at] != ']' : name[at] != '.' && name[at] != '[')) at++;
        if (at == from || (bracket && at == len))
            return kvi_jinja_fail(ctx, "ValueError: Empty attribute or missing ']' in format string");
        const char *word = kvi_jinja_intern(ctx, f->in->names, name + from, at - from);
        if (ctx->failed) break;
        if (!bracket) v = kvi_jinja_attribute(f->in, v, word);
        else if (all_digits(name + from, at - from))
            v = kvi_jinja_item(f->in, v, kvi_jinja_int(number_of(name + from, at - from)));
        else v = kvi_jinja_item(f->in, v, kvi_jinja_str_static(ctx, word));
        at += bracket;
    }
    return v;
}

static void expand(braces *f, const kvi_jinja_str *s, unsigned depth, kvi_jinja_builder *b);

static void add_field(braces *f, kvi_jinja_value v, char conversion, const kvi_jinja_str *spec, unsigned depth,
                      kvi_jinja_builder *b)
{
    kvi_jinja_ctx *ctx = f->in->ctx;
    kvi_jinja_builder inner = {0}, one = {0};
    expand(f, spec, depth + 1, &inner);
    if (ctx->failed) return;
    if (conversion == 's') v = kvi_jinja_str_of(ctx, v);
    else if (conversion == 'r') v = repr_of(ctx, v);
    else if (conversion == 'a') v = kvi_jinja_ascii(ctx, v);
    else if (conversion) kvi_jinja_fail(ctx, "ValueError: Unknown conversion specifier %c", conversion);
    if (ctx->failed) return;
    if (!f->markup) {
        kvi_jinja_format_value(ctx, b, v, inner.len ? inner.data : "", inner.len);
        return;
    }
    bool safe = v.type == KVI_JINJA_STR && v.u.s->markup;
    if (safe && inner.len) kvi_jinja_fail(ctx, "ValueError: a format specifier for a safe string");
    kvi_jinja_format_value(ctx, &one, v, inner.len ? inner.data : "", inner.len);
    v = kvi_jinja_as_markup(ctx, kvi_jinja_built(ctx, &one), safe);
    if (!ctx->failed) v = kvi_jinja_escape(ctx, v);
    if (!ctx->failed) kvi_jinja_add_str(ctx, b, v.u.s);
}

/* From behind "{" to behind its "}". */
static size_t read_field(braces *f, const kvi_jinja_str *s, size_t at, unsigned depth, kvi_jinja_builder *b)
{
    kvi_jinja_ctx *ctx = f->in->ctx;
    size_t from = at, level = 1;
    while (at < s->len && s->data[at] != '!' && s->data[at] != ':' && s->data[at] != '}') {
        if (s->data[at] == '{') return kvi_jinja_fail(ctx, "ValueError: unexpected '{' in field name"), s->len;
        if (s->data[at] == '[')
            while (at + 1 < s->len && s->data[at] != ']') at++;
        at++;
    }
    size_t name_end = at;
    char conversion = 0;
    if (at + 2 < s->len && s->data[at] == '!') {
        conversion = s->data[at + 1];
        at += 2;
        if (s->data[at] != ':' && s->data[at] != '}')
            return kvi_jinja_fail(ctx, "ValueError: expected ':' after conversion specifier"), s->len;
    }
    size_t spec = at < s->len && s->data[at] == ':' ? ++at : at;
    for (; at < s->len; at++) {
        if (s->data[at] == '{') level++;
        else if (s->data[at] == '}' && !--level) break;
    }
    if (at >= s->len) return kvi_jinja_fail(ctx, "ValueError: expected '}' before end of string"), s->len;
    kvi_jinja_value v = field_value(f, s->data + from, name_end - from);
    kvi_jinja_value inner = ctx->failed ? v : kvi_jinja_slice_bytes(ctx, s, spec, at);
    if (!ctx->failed) add_field(f, v, conversion, inner.u.s, depth, b);
    return at + 1;
}

static void expand(braces *f, const kvi_jinja_str *s, unsigned depth, kvi_jinja_builder *b)
{
    kvi_jinja_ctx *ctx = f->in->ctx;
    if (depth > 2) kvi_jinja_fail(ctx, "ValueError: Max string recursion exceeded");
    for (size_t at = 0; at < s->len && kvi_jinja_charge(ctx, 1);) {
        char c = s->data[at];
        bool doubled = at + 1 < s->len && s->data[at + 1] == c;
        size_t end = at;
        while (end < s->len && s->data[end] != '{' && s->data[end] != '}') end++;
        if (end > at) kvi_jinja_add_range(ctx, b, s, at, end), at = end;
        else if (doubled) kvi_jinja_add_range(ctx, b, s, at, at + 1), at += 2;
        else if (c == '}') kvi_jinja_fail(ctx, "ValueError: Single '}' encountered in format string");
        else at = read_field(f, s, at + 1, depth, b);
    }
}

kvi_jinja_value kvi_jinja_str_format(kvi_jinja_interp *in, const kvi_jinja_str *format, const kvi_jinja_args *args,
                                     const kvi_jinja_dict *mapping)
{
    braces f = {in, args, mapping, 0, format->markup};
    kvi_jinja_builder b = {0};
    expand(&f, format, 0, &b);
    return kvi_jinja_as_markup(in->ctx, kvi_jinja_built(in->ctx, &b), format->markup);
}
