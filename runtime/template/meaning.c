/* meaning.c - truth, equality, order, membership, str() and repr() of template values, as Python defines
 * them. */
#include "interpret.h"
#include "../base/utf8.h"

#include <math.h>
#include <string.h>
#include <utf8proc.h>

/* Python prints where an object lies, another place in every run; here it is always the same. */
#define ADDRESS " at 0x7f0000000000>"
#define MAX_NESTING 100u /* of values inside values when they are compared or printed */

const char *kvi_jinja_type_name(kvi_jinja_value value)
{
    static const char *const seq[] = {"list", "tuple", "range", "generator", "dict_keys", "dict_values", "dict_items"};
    switch (value.type) {
    case KVI_JINJA_UNDEFINED: return "Undefined";
    case KVI_JINJA_NONE: return "NoneType";
    case KVI_JINJA_BOOL: return "bool";
    case KVI_JINJA_INT: return "int";
    case KVI_JINJA_FLOAT: return "float";
    case KVI_JINJA_STR: return value.u.s->markup ? "Markup" : "str";
    case KVI_JINJA_SEQ: return seq[value.u.seq->kind];
    case KVI_JINJA_DICT: return "dict";
    case KVI_JINJA_NAMESPACE: return "Namespace";
    case KVI_JINJA_FUNCTION: return "function";
    case KVI_JINJA_METHOD: return "builtin_function_or_method";
    case KVI_JINJA_MACRO: return "Macro";
    case KVI_JINJA_LOOP: return "LoopContext";
    case KVI_JINJA_BIG: return "int";
    case KVI_JINJA_BYTES: return "bytes";
    case KVI_JINJA_CYCLER: return "Cycler";
    case KVI_JINJA_JOINER: return "Joiner";
    }
    return "?";
}

kvi_jinja_value kvi_jinja_use_undefined(kvi_jinja_ctx *ctx, kvi_jinja_value value)
{
    return kvi_jinja_fail(ctx, "UndefinedError: %s", value.u.why ? value.u.why : "a value is undefined");
}

bool kvi_jinja_truth(kvi_jinja_value value)
{
    switch (value.type) {
    case KVI_JINJA_UNDEFINED:
    case KVI_JINJA_NONE: return false;
    case KVI_JINJA_BOOL: return value.u.b;
    case KVI_JINJA_INT: return value.u.i != 0;
    case KVI_JINJA_FLOAT: return value.u.f != 0;
    case KVI_JINJA_STR:
    case KVI_JINJA_BYTES: return value.u.s->len != 0;
    case KVI_JINJA_SEQ: return value.u.seq->kind == KVI_JINJA_ITERATOR || value.u.seq->n != 0;
    case KVI_JINJA_DICT: return value.u.dict->n != 0;
    default: return true;
    }
}

static bool is_number(kvi_jinja_value v) { return kvi_jinja_is_int(v) || v.type == KVI_JINJA_FLOAT; }

/* Exact: an integer is not always a double. NaN is not equal to and not below anything (2: unordered). */
static int compare_numbers(kvi_jinja_ctx *ctx, kvi_jinja_value a, kvi_jinja_value b)
{
    bool a_int = kvi_jinja_is_int(a), b_int = kvi_jinja_is_int(b);
    if (a_int && b_int) return kvi_jinja_int_compare(a, b);
    if (!a_int && !b_int) return isnan(a.u.f) || isnan(b.u.f) ? 2 : (a.u.f > b.u.f) - (a.u.f < b.u.f);
    if (b_int) {
        int swapped = compare_numbers(ctx, b, a);
        return swapped == 2 ? 2 : -swapped;
    }
    double f = b.u.f;
    if (isnan(f)) return 2;
    if (isinf(f)) return f > 0 ? -1 : 1;
    kvi_jinja_value whole = kvi_jinja_int_of_float(ctx, f);
    if (ctx->failed) return 0;
    int c = kvi_jinja_int_compare(a, whole);
    double rest = f - trunc(f);
    return c ? c : (rest < 0) - (rest > 0);
}

static bool equal_at(kvi_jinja_ctx *ctx, kvi_jinja_value a, kvi_jinja_value b, unsigned depth)
{
    if (depth > MAX_NESTING) return kvi_jinja_fail(ctx, "values are nested too deeply to compare"), false;
    if (!kvi_jinja_charge(ctx, 1)) return false;
    if (is_number(a) && is_number(b)) return compare_numbers(ctx, a, b) == 0;
    if (a.type != b.type) return false;
    switch (a.type) {
    case KVI_JINJA_UNDEFINED:
    case KVI_JINJA_NONE: return true;
    case KVI_JINJA_STR:
    case KVI_JINJA_BYTES:
        kvi_jinja_charge(ctx, a.u.s->len / 512);
        return a.u.s->len == b.u.s->len && memcmp(a.u.s->data, b.u.s->data, a.u.s->len) == 0;
    case KVI_JINJA_SEQ:
        if (a.u.seq == b.u.seq) return true;
        if (a.u.seq->kind != b.u.seq->kind || a.u.seq->kind == KVI_JINJA_ITERATOR || a.u.seq->kind == KVI_JINJA_VALUES)
            return false;
        if (a.u.seq->n != b.u.seq->n) return false;
        for (size_t i = 0; i < a.u.seq->n; i++)
            if (!equal_at(ctx, a.u.seq->items[i], b.u.seq->items[i], depth + 1)) return false;
        return true;
    case KVI_JINJA_DICT:
        if (a.u.dict->n != b.u.dict->n) return false;
        for (size_t i = 0; i < a.u.dict->n; i++) {
            kvi_jinja_value *other = kvi_jinja_dict_find(ctx, b.u.dict, a.u.dict->keys[i]);
            if (!other || !equal_at(ctx, a.u.dict->values[i], *other, depth + 1)) return false;
        }
        return true;
    case KVI_JINJA_FUNCTION: return a.u.i == b.u.i;
    default: return a.u.dict == b.u.dict;
    }
}

bool kvi_jinja_equal(kvi_jinja_ctx *ctx, kvi_jinja_value a, kvi_jinja_value b) { return equal_at(ctx, a, b, 0); }

int kvi_jinja_order(kvi_jinja_ctx *ctx, kvi_jinja_value a, kvi_jinja_value b, const char *op)
{
    if (!kvi_jinja_charge(ctx, 1)) return 0;
    if (is_number(a) && is_number(b)) return compare_numbers(ctx, a, b);
    if (a.type == KVI_JINJA_UNDEFINED || b.type == KVI_JINJA_UNDEFINED) {
        kvi_jinja_use_undefined(ctx, a.type == KVI_JINJA_UNDEFINED ? a : b);
        return 0;
    }
    if (a.type == KVI_JINJA_STR && b.type == KVI_JINJA_STR) {
        size_t n = a.u.s->len < b.u.s->len ? a.u.s->len : b.u.s->len;
        int c = n ? memcmp(a.u.s->data, b.u.s->data, n) : 0; /* UTF-8 sorts as code points do */
        return c ? (c > 0 ? 1 : -1) : (a.u.s->len > b.u.s->len) - (a.u.s->len < b.u.s->len);
    }
    if (a.type == KVI_JINJA_SEQ && b.type == KVI_JINJA_SEQ && a.u.seq->kind == b.u.seq->kind &&
        a.u.seq->kind <= KVI_JINJA_TUPLE) {
        const kvi_jinja_seq *x = a.u.seq, *y = b.u.seq;
        if (++ctx->depth > MAX_NESTING) kvi_jinja_fail(ctx, "values are nested too deeply to compare");
        int c = 0;
        size_t i = 0;
        while (!ctx->failed && i < x->n && i < y->n && kvi_jinja_equal(ctx, x->items[i], y->items[i])) i++;
        if (!ctx->failed && i < x->n && i < y->n) c = kvi_jinja_order(ctx, x->items[i], y->items[i], op);
        else c = (x->n > y->n) - (x->n < y->n);
        ctx->depth--;
        return c;
    }
    kvi_jinja_fail(ctx, "TypeError: '%s' not supported between instances of '%s' and '%s'", op, kvi_jinja_type_name(a),
                   kvi_jinja_type_name(b));
    return 0;
}

static bool find_bytes(kvi_jinja_ctx *ctx, const kvi_jinja_str *hay, const kvi_jinja_str *needle)
{
    if (needle->len > hay->len) return false;
    if (!needle->len) return true;
    kvi_jinja_charge(ctx, hay->len / 256);
    for (const char *at = hay->data, *end = hay->data + hay->len - needle->len; at <= end; at++) {
        at = memchr(at, needle->data[0], (size_t)(end - at) + 1);
        if (!at) return false;
        if (memcmp(at, needle->data, needle->len) == 0) return true;
        if (!kvi_jinja_charge(ctx, needle->len / 512)) return false;
    }
    return false;
}

bool kvi_jinja_contains(kvi_jinja_ctx *ctx, kvi_jinja_value item, kvi_jinja_value container)
{
    if (container.type == KVI_JINJA_STR) {
        if (item.type == KVI_JINJA_STR) return find_bytes(ctx, container.u.s, item.u.s);
        kvi_jinja_fail(ctx, "TypeError: 'in <string>' requires string as left operand, not %s",
                       kvi_jinja_type_name(item));
        return false;
    }
    if (container.type == KVI_JINJA_DICT) return kvi_jinja_dict_find(ctx, container.u.dict, item) != NULL;
    if (container.type == KVI_JINJA_UNDEFINED) return false;
    if (container.type != KVI_JINJA_SEQ) {
        kvi_jinja_fail(ctx, "TypeError: argument of type '%s' is not iterable", kvi_jinja_type_name(container));
        return false;
    }
    kvi_jinja_seq *seq = kvi_jinja_iterate(ctx, container);
    for (size_t i = 0; seq && i < seq->n && !ctx->failed; i++)
        if (kvi_jinja_equal(ctx, seq->items[i], item)) return true;
    return false;
}

/* ----------------------------------------------------------------------------------------------------------- text
 * --- */
bool kvi_jinja_is_printable(uint32_t cp)
{
    if (cp == ' ') return true;
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS: return false;
    default: return true;
    }
}

static void add_escape(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, uint32_t cp)
{
    static const char hex[] = "0123456789abcdef";
    char text[12] = {'\\', cp < 0x100 ? 'x' : cp < 0x10000 ? 'u' : 'U'};
    size_t n = cp < 0x100 ? 2 : cp < 0x10000 ? 4 : 8;
    for (size_t i = 0; i < n; i++) text[2 + i] = hex[cp >> (4 * (n - 1 - i)) & 15];
    kvi_jinja_add(ctx, b, text, 2 + n, KVI_JINJA_TEXT);
}

/* Escapes are the only change, so that the rest keeps its tag. */
static void repr_str(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, const kvi_jinja_str *s)
{
    bool has_single = s->len && memchr(s->data, '\'', s->len), has_double = s->len && memchr(s->data, '"', s->len);
    const char *quote = has_single && !has_double ? "\"" : "'";
    if (s->markup) kvi_jinja_add(ctx, b, "Markup(", 7, KVI_JINJA_TEXT);
    kvi_jinja_add(ctx, b, quote, 1, KVI_JINJA_TEXT);
    size_t from = 0, at = 0;
    while (at < s->len && !ctx->failed) {
        uint32_t cp;
        size_t n = kvi_utf8_decode(s->data + at, s->len - at, &cp);
        if (!n) n = 1, cp = (unsigned char)s->data[at];
        const char *plain = cp == '\\' ? "\\\\" : cp == '\n' ? "\\n" : cp == '\r' ? "\\r" : cp == '\t' ? "\\t" : NULL;
        bool quoted = cp == (unsigned char)quote[0];
        if (plain || quoted || !kvi_jinja_is_printable(cp)) {
            kvi_jinja_add_range(ctx, b, s, from, at);
            if (plain) kvi_jinja_add(ctx, b, plain, 2, KVI_JINJA_TEXT);
            else if (quoted) kvi_jinja_add(ctx, b, "\\'", 2, KVI_JINJA_TEXT);
            else add_escape(ctx, b, cp);
            from = at + n;
        }
        at += n;
    }
    kvi_jinja_add_range(ctx, b, s, from, s->len);
    kvi_jinja_add(ctx, b, quote, 1, KVI_JINJA_TEXT);
    if (s->markup) kvi_jinja_add(ctx, b, ")", 1, KVI_JINJA_TEXT);
}

static void add_text(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, const char *text)
{
    kvi_jinja_add(ctx, b, text, strlen(text), KVI_JINJA_TEXT);
}

static void repr_seq(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, const kvi_jinja_seq *seq)
{
    static const char *const opens[] = {"[", "(", "range(", "", "dict_keys([", "dict_values([", "dict_items(["};
    static const char *const closes[] = {"]", ")", ")", "", "])", "])", "])"};
    if (seq->kind == KVI_JINJA_ITERATOR) {
        add_text(ctx, b, "<");
        add_text(ctx, b, seq->label);
        add_text(ctx, b, ADDRESS);
        return;
    }
    add_text(ctx, b, opens[seq->kind]);
    if (seq->kind == KVI_JINJA_RANGE) {
        kvi_jinja_add_repr(ctx, b, kvi_jinja_int(seq->start));
        add_text(ctx, b, ", ");
        kvi_jinja_add_repr(ctx, b, kvi_jinja_int(seq->stop));
        if (seq->step != 1) add_text(ctx, b, ", ");
        if (seq->step != 1) kvi_jinja_add_repr(ctx, b, kvi_jinja_int(seq->step));
    } else {
        for (size_t i = 0; i < seq->n && !ctx->failed; i++) {
            if (i) add_text(ctx, b, ", ");
            kvi_jinja_add_repr(ctx, b, seq->items[i]);
        }
        if (seq->kind == KVI_JINJA_TUPLE && seq->n == 1) add_text(ctx, b, ",");
    }
    add_text(ctx, b, closes[seq->kind]);
}

static void repr_dict(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, const kvi_jinja_dict *dict)
{
    add_text(ctx, b, "{");
    for (size_t i = 0; i < dict->n && !ctx->failed; i++) {
        if (i) add_text(ctx, b, ", ");
        kvi_jinja_add_repr(ctx, b, dict->keys[i]);
        add_text(ctx, b, ": ");
        kvi_jinja_add_repr(ctx, b, dict->values[i]);
    }
    add_text(ctx, b, "}");
}

static void repr_big(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, kvi_jinja_value value)
{
    char text[KVI_JINJA_INT_TEXT];
    kvi_jinja_add(ctx, b, text, kvi_jinja_int_digits(value, text), KVI_JINJA_TEXT);
}

static void repr_bytes(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, const kvi_jinja_str *s)
{
    bool has_single = s->len && memchr(s->data, '\'', s->len), has_double = s->len && memchr(s->data, '"', s->len);
    char quote = has_single && !has_double ? '"' : '\'';
    add_text(ctx, b, quote == '"' ? "b\"" : "b'");
    for (size_t i = 0; i < s->len && !ctx->failed; i++) {
        unsigned char c = (unsigned char)s->data[i];
        const char *plain = c == '\\' ? "\\\\" : c == '\n' ? "\\n" : c == '\r' ? "\\r" : c == '\t' ? "\\t" : NULL;
        if (plain) add_text(ctx, b, plain);
        else if (c == (unsigned char)quote) add_text(ctx, b, "\\'");
        else if (c < 0x20 || c >= 0x7f) add_escape(ctx, b, c);
        else kvi_jinja_add(ctx, b, s->data + i, 1, KVI_JINJA_TEXT);
    }
    add_text(ctx, b, quote == '"' ? "\"" : "'");
}

/* False for those whose text says where transformers or markupsafe keep their code. */
static bool repr_callable(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, kvi_jinja_value value)
{
    if (value.type == KVI_JINJA_FUNCTION) {
        const char *text = value.u.i == KVI_JINJA_F_SELF    ? "<TemplateReference None>"
                           : value.u.i == KVI_JINJA_F_RANGE ? "<function safe_range" ADDRESS
                                                            : NULL;
        if (text) add_text(ctx, b, text);
        return text != NULL;
    }
    kvi_jinja_value self = value.u.method->self;
    if (self.type > KVI_JINJA_DICT || (self.type == KVI_JINJA_STR && self.u.s->markup)) return false;
    add_text(ctx, b, "<built-in method ");
    add_text(ctx, b, value.u.method->name);
    add_text(ctx, b, " of ");
    add_text(ctx, b, kvi_jinja_type_name(self));
    add_text(ctx, b, " object" ADDRESS);
    return true;
}

void kvi_jinja_add_repr(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, kvi_jinja_value value)
{
    char number[32];
    if (!kvi_jinja_charge(ctx, 1)) return;
    if (++ctx->depth > MAX_NESTING) kvi_jinja_fail(ctx, "a value is nested too deeply to print");
    if (!ctx->failed) switch (value.type) {
        case KVI_JINJA_UNDEFINED: add_text(ctx, b, "Undefined"); break;
        case KVI_JINJA_NONE: add_text(ctx, b, "None"); break;
        case KVI_JINJA_BOOL: add_text(ctx, b, value.u.b ? "True" : "False"); break;
        case KVI_JINJA_INT: kvi_jinja_add(ctx, b, number, kvi_jinja_int_text(value.u.i, number), KVI_JINJA_TEXT); break;
        case KVI_JINJA_BIG: repr_big(ctx, b, value); break;
        case KVI_JINJA_BYTES: repr_bytes(ctx, b, value.u.s); break;
        case KVI_JINJA_LOOP:
        case KVI_JINJA_MACRO:
        case KVI_JINJA_CYCLER:
        case KVI_JINJA_JOINER: kvi_jinja_add_object(ctx, b, value, ADDRESS); break;
        case KVI_JINJA_FLOAT:
            kvi_jinja_add(ctx, b, number, kvi_jinja_float_repr(value.u.f, number), KVI_JINJA_TEXT);
            break;
        case KVI_JINJA_STR: repr_str(ctx, b, value.u.s); break;
        case KVI_JINJA_SEQ: repr_seq(ctx, b, value.u.seq); break;
        case KVI_JINJA_DICT: repr_dict(ctx, b, value.u.dict); break;
        case KVI_JINJA_NAMESPACE:
            add_text(ctx, b, "<Namespace ");
            repr_dict(ctx, b, value.u.dict);
            add_text(ctx, b, ">");
            break;
        case KVI_JINJA_FUNCTION:
        case KVI_JINJA_METHOD:
            if (repr_callable(ctx, b, value)) break;
            /* fall through */
        default: kvi_jinja_fail(ctx, "a %s is printed, which has no useful text", kvi_jinja_type_name(value)); break;
        }
    ctx->depth--;
}

void kvi_jinja_add_value(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, kvi_jinja_value value)
{
    if (value.type == KVI_JINJA_STR) kvi_jinja_add_str(ctx, b, value.u.s);
    else if (value.type != KVI_JINJA_UNDEFINED) kvi_jinja_add_repr(ctx, b, value);
}

kvi_jinja_value kvi_jinja_str_of(kvi_jinja_ctx *ctx, kvi_jinja_value value)
{
    if (value.type == KVI_JINJA_STR) return value;
    kvi_jinja_builder b = {0};
    kvi_jinja_add_value(ctx, &b, value);
    return kvi_jinja_built(ctx, &b);
}
