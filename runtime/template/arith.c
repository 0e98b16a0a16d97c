/* arith.c - arithmetic with Python's types: int and float mix, strings and lists join and repeat; integers
 * grow as they must (bigint.c). Markup: what is joined to it by + is escaped, as MarkupSafe does. */
#include "format.h"

#include <math.h>
#include <string.h>

static bool is_number(kvi_jinja_value v) { return kvi_jinja_is_int(v) || v.type == KVI_JINJA_FLOAT; }

static double float_of(kvi_jinja_value v) { return v.type == KVI_JINJA_FLOAT ? v.u.f : kvi_jinja_int_to_float(v); }

static kvi_jinja_value type_error(kvi_jinja_ctx *ctx, char op, kvi_jinja_value a, kvi_jinja_value b)
{
    char text[3] = {op, 0, 0};
    if (op == 'F' || op == 'P') text[0] = text[1] = op == 'F' ? '/' : '*';
    if (a.type == KVI_JINJA_UNDEFINED || b.type == KVI_JINJA_UNDEFINED)
        return kvi_jinja_use_undefined(ctx, a.type == KVI_JINJA_UNDEFINED ? a : b);
    if (op == '+' && a.type == KVI_JINJA_STR)
        return kvi_jinja_fail(ctx, "TypeError: can only concatenate str (not \"%s\") to str", kvi_jinja_type_name(b));
    return kvi_jinja_fail(ctx, "TypeError: unsupported operand type(s) for %s: '%s' and '%s'", text,
                          kvi_jinja_type_name(a), kvi_jinja_type_name(b));
}

kvi_jinja_value kvi_jinja_as_markup(kvi_jinja_ctx *ctx, kvi_jinja_value value, bool markup)
{
    if (value.type != KVI_JINJA_STR || value.u.s->markup == markup) return value;
    kvi_jinja_value out = kvi_jinja_slice_bytes(ctx, value.u.s, 0, value.u.s->len);
    if (!ctx->failed) ((kvi_jinja_str *)(uintptr_t)out.u.s)->markup = markup;
    return out;
}

kvi_jinja_value kvi_jinja_escape(kvi_jinja_ctx *ctx, kvi_jinja_value value)
{
    kvi_jinja_value str = kvi_jinja_str_of(ctx, value);
    if (ctx->failed || str.u.s->markup) return str;
    const kvi_jinja_str *s = str.u.s;
    kvi_jinja_builder b = {0};
    size_t from = 0;
    for (size_t i = 0; i < s->len && !ctx->failed; i++) {
        const char *entity = s->data[i] == '&'    ? "&amp;"
                             : s->data[i] == '<'  ? "&lt;"
                             : s->data[i] == '>'  ? "&gt;"
                             : s->data[i] == '"'  ? "&#34;"
                             : s->data[i] == '\'' ? "&#39;"
                                                  : NULL;
        if (!entity) continue;
        kvi_jinja_add_range(ctx, &b, s, from, i);
        kvi_jinja_add(ctx, &b, entity, strlen(entity), KVI_JINJA_TEXT);
        from = i + 1;
    }
    kvi_jinja_add_range(ctx, &b, s, from, s->len);
    return kvi_jinja_as_markup(ctx, kvi_jinja_built(ctx, &b), true);
}

static kvi_jinja_value add_strings(kvi_jinja_ctx *ctx, kvi_jinja_value a, kvi_jinja_value b)
{
    bool markup = a.u.s->markup || b.u.s->markup;
    if (markup) a = kvi_jinja_escape(ctx, a), b = kvi_jinja_escape(ctx, b);
    if (ctx->failed) return a;
    kvi_jinja_builder out = {0};
    kvi_jinja_add_str(ctx, &out, a.u.s);
    kvi_jinja_add_str(ctx, &out, b.u.s);
    return kvi_jinja_as_markup(ctx, kvi_jinja_built(ctx, &out), markup);
}

static kvi_jinja_value repeat(kvi_jinja_ctx *ctx, kvi_jinja_value what, kvi_jinja_value count)
{
    int64_t times = count.type == KVI_JINJA_BOOL ? count.u.b : count.u.i;
    if (count.type == KVI_JINJA_BIG)
        return kvi_jinja_fail(ctx, "OverflowError: cannot fit 'int' into an index-sized integer");
    if (times < 0) times = 0;
    if (what.type == KVI_JINJA_STR) {
        kvi_jinja_builder b = {0};
        for (int64_t i = 0; i < times && what.u.s->len && kvi_jinja_charge(ctx, 1); i++)
            kvi_jinja_add_str(ctx, &b, what.u.s);
        return kvi_jinja_as_markup(ctx, kvi_jinja_built(ctx, &b), what.u.s->markup);
    }
    kvi_jinja_seq *out = kvi_jinja_seq_new(ctx, what.u.seq->kind);
    for (int64_t i = 0; out && i < times && what.u.seq->n && kvi_jinja_charge(ctx, 1); i++)
        for (size_t k = 0; k < what.u.seq->n && !ctx->failed; k++) kvi_jinja_seq_push(ctx, out, what.u.seq->items[k]);
    return kvi_jinja_seq_value(out);
}

static bool is_list(kvi_jinja_value v) { return v.type == KVI_JINJA_SEQ && v.u.seq->kind <= KVI_JINJA_TUPLE; }

static bool is_zero(kvi_jinja_value v) { return v.type == KVI_JINJA_BOOL ? !v.u.b : v.type == KVI_JINJA_INT && !v.u.i; }

static kvi_jinja_value integers(kvi_jinja_ctx *ctx, char op, kvi_jinja_value a, kvi_jinja_value b)
{
    if ((op == '/' || op == 'F' || op == '%') && is_zero(b))
        return kvi_jinja_fail(ctx, "ZeroDivisionError: %s",
                              op == '/' ? "division by zero" : "integer division or modulo by zero");
    if (op == 'P' && kvi_jinja_int_compare(b, kvi_jinja_int(0)) < 0) {
        if (is_zero(a)) return kvi_jinja_fail(ctx, "ZeroDivisionError: 0.0 cannot be raised to a negative power");
        return kvi_jinja_float(pow(float_of(a), float_of(b)));
    }
    if (op != '/') return kvi_jinja_int_binary(ctx, op, a, b);
    double x = float_of(a), y = float_of(b);
    if (isinf(x) || isinf(y)) return kvi_jinja_fail(ctx, "OverflowError: int too large to convert to float");
    return kvi_jinja_float(x / y);
}

static kvi_jinja_value floats(kvi_jinja_ctx *ctx, char op, double a, double b)
{
    if ((op == '/' || op == 'F' || op == '%') && b == 0)
        return kvi_jinja_fail(ctx, "ZeroDivisionError: float division by zero");
    double rest;
    switch (op) {
    case '+': return kvi_jinja_float(a + b);
    case '-': return kvi_jinja_float(a - b);
    case '*': return kvi_jinja_float(a * b);
    case '/': return kvi_jinja_float(a / b);
    case 'P':
        if (a == 0 && b < 0) return kvi_jinja_fail(ctx, "ZeroDivisionError: 0.0 cannot be raised to a negative power");
        if (a < 0 && floor(b) != b) return kvi_jinja_fail(ctx, "complex numbers are not supported");
        rest = pow(a, b);
        if (isinf(rest) && !isinf(a) && !isinf(b))
            return kvi_jinja_fail(ctx, "OverflowError: Numerical result out of range");
        return kvi_jinja_float(rest);
    default:
        rest = fmod(a, b);
        if (rest != 0 && (rest < 0) != (b < 0)) rest += b;
        if (op == '%') return kvi_jinja_float(rest == 0 ? copysign(0, b) : rest);
        return kvi_jinja_float(rint((a - rest) / b));
    }
}

kvi_jinja_value kvi_jinja_binary(kvi_jinja_ctx *ctx, char op, kvi_jinja_value a, kvi_jinja_value b)
{
    if (kvi_jinja_is_int(a) && kvi_jinja_is_int(b)) return integers(ctx, op, a, b);
    if (is_number(a) && is_number(b)) {
        double x = float_of(a), y = float_of(b);
        if ((isinf(x) && a.type == KVI_JINJA_BIG) || (isinf(y) && b.type == KVI_JINJA_BIG))
            return kvi_jinja_fail(ctx, "OverflowError: int too large to convert to float");
        return floats(ctx, op, x, y);
    }
    if (op == '+' && a.type == KVI_JINJA_STR && b.type == KVI_JINJA_STR) return add_strings(ctx, a, b);
    if (op == '+' && is_list(a) && is_list(b) && a.u.seq->kind == b.u.seq->kind) {
        kvi_jinja_seq *out = kvi_jinja_seq_new(ctx, a.u.seq->kind);
        for (size_t i = 0; out && i < a.u.seq->n && !ctx->failed; i++) kvi_jinja_seq_push(ctx, out, a.u.seq->items[i]);
        for (size_t i = 0; out && i < b.u.seq->n && !ctx->failed; i++) kvi_jinja_seq_push(ctx, out, b.u.seq->items[i]);
        return kvi_jinja_seq_value(out);
    }
    if (op == '*' && kvi_jinja_is_int(b) && (a.type == KVI_JINJA_STR || is_list(a))) return repeat(ctx, a, b);
    if (op == '*' && kvi_jinja_is_int(a) && (b.type == KVI_JINJA_STR || is_list(b))) return repeat(ctx, b, a);
    if (op == '%' && a.type == KVI_JINJA_STR) return kvi_jinja_percent(ctx, a.u.s, b);
    return type_error(ctx, op, a, b);
}

kvi_jinja_value kvi_jinja_negate(kvi_jinja_ctx *ctx, kvi_jinja_value a, bool negative)
{
    if (a.type == KVI_JINJA_UNDEFINED) return kvi_jinja_use_undefined(ctx, a);
    if (a.type == KVI_JINJA_FLOAT) return kvi_jinja_float(negative ? -a.u.f : a.u.f);
    if (!kvi_jinja_is_int(a))
        return kvi_jinja_fail(ctx, "TypeError: bad operand type for unary %c: '%s'", negative ? '-' : '+',
                              kvi_jinja_type_name(a));
    return kvi_jinja_int_binary(ctx, negative ? '-' : '+', kvi_jinja_int(0), a);
}
