/* format_value.c - format(value, spec) of strings, integers and floats. See format.h. */
#include "format.h"
#include "../base/utf8.h"

#include <math.h>
#include <string.h>

#define MAX_PRECISION 800 /* more digits than any double has behind the point in templates */
#define FLOAT_TEXT 1300

/* ------------------------------------------------------------------------------------------------- the mini language
 * --- */
static bool is_align(char c) { return c == '<' || c == '>' || c == '=' || c == '^'; }

static bool read_count(kvi_jinja_ctx *ctx, const char *s, size_t len, size_t *at, int64_t *out)
{
    size_t from = *at;
    for (*out = 0; *at < len && s[*at] >= '0' && s[*at] <= '9'; ++*at) {
        *out = *out * 10 + (s[*at] - '0');
        if (*out > INT32_MAX) return kvi_jinja_fail(ctx, "ValueError: too many decimal digits in a format"), false;
    }
    return *at > from;
}

static bool parse_spec(kvi_jinja_ctx *ctx, const char *s, size_t len, kvi_jinja_spec *out)
{
    *out = (kvi_jinja_spec){.fill = " ", .fill_len = 1, .sign = '-', .precision = -1};
    uint32_t cp;
    size_t at = 0, n = len ? kvi_utf8_decode(s, len, &cp) : 0;
    if (n && n < len && is_align(s[n])) {
        memcpy(out->fill, s, n);
        out->fill_len = n;
        out->align = s[n];
        at = n + 1;
    } else if (len && is_align(s[0])) out->align = s[at++];
    if (at < len && (s[at] == '+' || s[at] == '-' || s[at] == ' ')) out->sign = s[at++];
    if (at < len && s[at] == 'z') out->no_negative_zero = true, at++;
    if (at < len && s[at] == '#') out->alternate = true, at++;
    if (at < len && s[at] == '0' && out->fill[0] == ' ' && out->fill_len == 1 && at++ < len) {
        out->fill[0] = '0';
        if (!out->align) out->align = 'z'; /* '=' for numbers, '<' for strings */
    }
    (void)read_count(ctx, s, len, &at, &out->width);
    if (at < len && (s[at] == ',' || s[at] == '_')) out->group = s[at++];
    if (at < len && s[at] == '.' && !read_count(ctx, s, len, (at++, &at), &out->precision))
        return kvi_jinja_fail(ctx, "ValueError: Format specifier missing precision"), false;
    if (at < len) out->type = s[at++];
    if (at < len) kvi_jinja_fail(ctx, "ValueError: Invalid format specifier '%.*s'", (int)(len < 60 ? len : 60), s);
    return !ctx->failed;
}

/* Padding before (or behind) `chars` characters; `usual` is the alignment of the type. */
static size_t padding(const kvi_jinja_spec *spec, size_t chars, char usual, bool before)
{
    char align = spec->align && spec->align != 'z' ? spec->align : usual;
    size_t room = (uint64_t)spec->width > chars ? (size_t)spec->width - chars : 0;
    size_t left = align == '>' ? room : align == '^' ? room / 2 : 0;
    return before ? left : room - left;
}

void kvi_jinja_format_text(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, const kvi_jinja_str *s, const kvi_jinja_spec *spec)
{
    size_t chars = kvi_jinja_str_chars(s), end = s->len;
    kvi_jinja_charge(ctx, s->len / 64);
    if (spec->precision >= 0 && (uint64_t)spec->precision < chars) {
        chars = (size_t)spec->precision;
        end = kvi_jinja_byte_at(s, chars);
    }
    kvi_jinja_pad(ctx, b, spec->fill, spec->fill_len, padding(spec, chars, '<', true));
    kvi_jinja_add_range(ctx, b, s, 0, end);
    kvi_jinja_pad(ctx, b, spec->fill, spec->fill_len, padding(spec, chars, '<', false));
}

/* ------------------------------------------------------------------------------------------------------------ numbers
 * --- */
typedef struct number {
    char sign;          /* 0: none */
    const char *prefix; /* "0x" */
    const char *digits; /* before the point: whole of them, they are grouped */
    size_t whole;
    const char *rest; /* from the point on */
    size_t rest_len;
    size_t group_size;
    size_t zeros; /* stand before the digits */
} number;

static void add_grouped(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, const number *n, char group)
{
    size_t count = n->zeros + n->whole;
    for (size_t i = 0; i < count && !ctx->failed; i++) {
        if (group && i && (count - i) % n->group_size == 0) kvi_jinja_add(ctx, b, &group, 1, KVI_JINJA_TEXT);
        kvi_jinja_add(ctx, b, i < n->zeros ? "0" : n->digits + i - n->zeros, 1, KVI_JINJA_TEXT);
    }
}

static void add_number(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, number n, const kvi_jinja_spec *spec)
{
    kvi_jinja_spec s = *spec;
    if (s.align == 'z') s.align = '=';
    size_t head = (n.sign != 0) + strlen(n.prefix), digits = n.zeros + n.whole;
    if (s.group && s.align == '=' && s.fill[0] == '0') /* zeros are digits here: they are grouped, too */
        while (head + digits + (digits - 1) / n.group_size + n.rest_len < (uint64_t)s.width && kvi_jinja_charge(ctx, 1))
            digits++, n.zeros++;
    size_t chars = head + digits + n.rest_len + (s.group && digits ? (digits - 1) / n.group_size : 0);
    bool inside = s.align == '=';
    size_t before = inside ? padding(&s, chars, '<', false) : padding(&s, chars, '>', true);
    if (!inside) kvi_jinja_pad(ctx, b, s.fill, s.fill_len, before);
    if (n.sign) kvi_jinja_add(ctx, b, &n.sign, 1, KVI_JINJA_TEXT);
    kvi_jinja_add(ctx, b, n.prefix, strlen(n.prefix), KVI_JINJA_TEXT);
    if (inside) kvi_jinja_pad(ctx, b, s.fill, s.fill_len, before);
    add_grouped(ctx, b, &n, s.group);
    kvi_jinja_add(ctx, b, n.rest, n.rest_len, KVI_JINJA_TEXT);
    if (!inside) kvi_jinja_pad(ctx, b, s.fill, s.fill_len, padding(&s, chars, '>', false));
}

static char sign_of(bool negative, char sign) { return negative ? '-' : sign == '-' ? 0 : sign; }

/* Digits in base 2, 8 or 16, in reverse; 60 bits at a time, which are whole digits of all three. */
static kvi_jinja_value reversed_digits(kvi_jinja_ctx *ctx, kvi_jinja_value v, unsigned bits, bool upper)
{
    const char *alphabet = upper ? "0123456789ABCDEF" : "0123456789abcdef";
    kvi_jinja_builder b = {0};
    kvi_jinja_value step = kvi_jinja_int((int64_t)1 << 60);
    bool more = true;
    if (kvi_jinja_int_compare(v, kvi_jinja_int(0)) < 0) v = kvi_jinja_int_binary(ctx, '-', kvi_jinja_int(0), v);
    while (more && !ctx->failed) {
        kvi_jinja_value low = kvi_jinja_int_binary(ctx, '%', v, step);
        v = ctx->failed ? v : kvi_jinja_int_binary(ctx, 'F', v, step);
        if (ctx->failed) break;
        more = kvi_jinja_int_compare(v, kvi_jinja_int(0)) > 0;
        uint64_t u = (uint64_t)low.u.i;
        for (unsigned k = 0; k < 60 / bits && (more || u || !b.len); k++, u >>= bits)
            kvi_jinja_add(ctx, &b, &alphabet[u & ((1u << bits) - 1)], 1, KVI_JINJA_TEXT);
    }
    return kvi_jinja_built(ctx, &b);
}

void kvi_jinja_format_int(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, kvi_jinja_value value, size_t min_digits,
                          const kvi_jinja_spec *spec)
{
    char text[KVI_JINJA_INT_TEXT];
    bool negative = kvi_jinja_int_compare(value, kvi_jinja_int(0)) < 0;
    number n = {.sign = sign_of(negative, spec->sign), .prefix = "", .rest = "", .group_size = 3};
    unsigned bits = spec->type == 'b' ? 1 : spec->type == 'o' ? 3 : spec->type == 'x' || spec->type == 'X' ? 4 : 0;
    if (!bits) {
        n.whole = kvi_jinja_int_digits(value, text) - negative;
        n.digits = text + negative;
    } else {
        kvi_jinja_value digits = reversed_digits(ctx, value, bits, spec->type == 'X');
        if (ctx->failed) return;
        n.whole = digits.u.s->len;
        char *forward = kvi_jinja_alloc(ctx, n.whole);
        if (!forward) return;
        for (size_t i = 0; i < n.whole; i++) forward[i] = digits.u.s->data[n.whole - 1 - i];
        n.digits = forward;
        n.group_size = 4;
        if (spec->alternate)
            n.prefix = spec->type == 'b' ? "0b" : spec->type == 'o' ? "0o" : spec->type == 'x' ? "0x" : "0X";
    }
    if (min_digits > n.whole) n.zeros = min_digits - n.whole;
    if (n.zeros > ctx->max_bytes) kvi_jinja_fail(ctx, "needs more than %zu MiB of memory", ctx->max_bytes >> 20);
    add_number(ctx, b, n, spec);
}

/* d.ddde+XX of digits[n]; dst holds n + 8 bytes. */
static size_t scientific(const char *digits, size_t n, int exponent, bool point, char e, char *dst)
{
    size_t len = 0;
    dst[len++] = digits[0];
    if (n > 1 || point) dst[len++] = '.';
    memcpy(dst + len, digits + 1, n - 1);
    len += n - 1;
    int power = exponent - 1;
    dst[len++] = e;
    dst[len++] = power < 0 ? '-' : '+';
    if (power < 0) power = -power;
    if (power < 10) dst[len++] = '0';
    return len + kvi_jinja_int_text(power, dst + len);
}

/* The types g and none with a precision: `n` significant digits, in whichever form is shorter. */
static size_t general(double f, unsigned n, const kvi_jinja_spec *spec, char *dst)
{
    char digits[MAX_PRECISION + 1];
    int exponent = 1;
    bool upper = spec->type == 'G', none = !spec->type;
    memset(digits, '0', sizeof digits);
    if (f != 0) kvi_jinja_float_digits(f, n, digits, &exponent);
    bool exponential = exponent - 1 < -4 || exponent - 1 >= (int)n - (none ? 1 : 0);
    size_t kept = n;
    while (!spec->alternate && kept > 1 && digits[kept - 1] == '0') kept--;
    if (exponential) return scientific(digits, kept, exponent, spec->alternate, upper ? 'E' : 'e', dst);
    size_t len = 0;
    if (exponent <= 0) dst[len++] = '0';
    for (int i = 0; i < exponent; i++) dst[len++] = (size_t)i < kept ? digits[i] : '0';
    bool fraction = (int)kept > exponent;
    if (fraction || spec->alternate || none) dst[len++] = '.';
    for (int i = exponent; i < 0; i++) dst[len++] = '0';
    for (size_t i = exponent > 0 ? (size_t)exponent : 0; i < kept && fraction; i++) dst[len++] = digits[i];
    if (!fraction && none) dst[len++] = '0';
    return len;
}

/* Text of a finite f >= 0. */
static size_t float_text(double f, const kvi_jinja_spec *spec, char *dst)
{
    char digits[MAX_PRECISION + 1], lower = (char)(spec->type | 0x20);
    int exponent = 1;
    unsigned precision = spec->precision < 0 ? 6 : (unsigned)spec->precision;
    if (!spec->type && spec->precision < 0) return kvi_jinja_float_repr(f, dst);
    if (lower == 'f' || spec->type == '%') {
        int n = kvi_jinja_float_fixed(f, precision, dst, FLOAT_TEXT);
        size_t len = n < 0 ? 0 : (size_t)n;
        if (spec->alternate && !precision) dst[len++] = '.';
        if (spec->type == '%') dst[len++] = '%';
        return len;
    }
    if (lower != 'e') return general(f, precision ? precision : 1, spec, dst);
    memset(digits, '0', sizeof digits);
    if (f != 0) kvi_jinja_float_digits(f, precision + 1, digits, &exponent);
    return scientific(digits, precision + 1, exponent, spec->alternate, spec->type, dst);
}

void kvi_jinja_format_float(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, double f, const kvi_jinja_spec *spec)
{
    char text[FLOAT_TEXT + 16];
    bool upper = spec->type == 'E' || spec->type == 'F' || spec->type == 'G', negative = signbit(f) && !isnan(f);
    size_t len = 0;
    if (spec->precision >= MAX_PRECISION) {
        kvi_jinja_fail(ctx, "a precision of more than %d digits is not supported", MAX_PRECISION - 1);
        return;
    }
    if (spec->type == '%') f *= 100;
    kvi_jinja_spec plain = *spec;
    if (isnan(f) || isinf(f)) {
        memcpy(text, isnan(f) ? upper ? "NAN" : "nan" : upper ? "INF" : "inf", 3);
        len = 3;
        if (spec->type == '%') text[len++] = '%';
        plain.group = 0;
    } else len = float_text(fabs(f), spec, text);
    if (spec->no_negative_zero && !memchr(text, '.', 0)) {
        bool zero = true;
        for (size_t i = 0; i < len && text[i] != 'e' && text[i] != 'E'; i++)
            zero = zero && (text[i] < '1' || text[i] > '9');
        negative = negative && !(zero && !isinf(f));
    }
    size_t whole = 0;
    while (whole < len && text[whole] >= '0' && text[whole] <= '9') whole++;
    number n = {.sign = sign_of(negative, spec->sign),
                .prefix = "",
                .digits = text,
                .whole = whole,
                .rest = text + whole,
                .rest_len = len - whole,
                .group_size = 3};
    add_number(ctx, b, n, &plain);
}

/* -------------------------------------------------------------------------------------------------- format(value, spec)
 * --- */
static void bad_type(kvi_jinja_ctx *ctx, const kvi_jinja_spec *spec, kvi_jinja_value value)
{
    kvi_jinja_fail(ctx, "ValueError: Unknown format code '%c' for object of type '%s'", spec->type,
                   kvi_jinja_type_name(value));
}

static void format_int(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, kvi_jinja_value value, const kvi_jinja_spec *spec)
{
    char type = spec->type;
    if (type && strchr("eEfFgG%", type)) {
        double f = kvi_jinja_int_to_float(value);
        if (isinf(f)) kvi_jinja_fail(ctx, "OverflowError: int too large to convert to float");
        else kvi_jinja_format_float(ctx, b, f, spec);
    } else if (type && !strchr("bdoxXcn", type)) bad_type(ctx, spec, value);
    else if (spec->precision >= 0) kvi_jinja_fail(ctx, "ValueError: Precision not allowed in integer format specifier");
    else if (type == 'n' && spec->group) kvi_jinja_fail(ctx, "ValueError: Cannot specify '%c' with 'n'.", spec->group);
    else if (type && strchr("boxXc", type) && spec->group == ',')
        kvi_jinja_fail(ctx, "ValueError: Cannot specify ',' with '%c'.", type);
    else if (type == 'c') kvi_jinja_fail(ctx, "the format code 'c' is not supported");
    else kvi_jinja_format_int(ctx, b, value, 0, spec);
}

void kvi_jinja_format_value(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, kvi_jinja_value value, const char *text,
                            size_t len)
{
    kvi_jinja_spec spec;
    if (!len) {
        kvi_jinja_add_value(ctx, b, value);
        return;
    }
    bool number = kvi_jinja_is_int(value) || value.type == KVI_JINJA_FLOAT;
    if (!number && value.type != KVI_JINJA_STR) {
        kvi_jinja_fail(ctx, "TypeError: unsupported format string passed to %s.__format__", kvi_jinja_type_name(value));
        return;
    }
    if (!parse_spec(ctx, text, len, &spec)) return;
    if (value.type == KVI_JINJA_STR) {
        if (spec.type && spec.type != 's') bad_type(ctx, &spec, value);
        else if (spec.sign != '-' || spec.alternate || spec.align == '=' || spec.group || spec.no_negative_zero)
            kvi_jinja_fail(ctx, "ValueError: sign, '=', '#', 'z' and ',' are not allowed in string format specifier");
        else kvi_jinja_format_text(ctx, b, value.u.s, &spec);
    } else if (value.type != KVI_JINJA_FLOAT) {
        if (spec.no_negative_zero && !(spec.type && strchr("eEfFgG%", spec.type)))
            kvi_jinja_fail(ctx, "ValueError: Negative zero coercion (z) not allowed in format specifier with integer");
        else format_int(ctx, b, value, &spec);
    } else if (spec.type && !strchr("eEfFgGn%", spec.type)) bad_type(ctx, &spec, value);
    else {
        if (spec.type == 'n' && spec.group)
            kvi_jinja_fail(ctx, "ValueError: Cannot specify '%c' with 'n'.", spec.group);
        if (spec.type == 'n') spec.type = 'g';
        kvi_jinja_format_float(ctx, b, value.u.f, &spec);
    }
}
