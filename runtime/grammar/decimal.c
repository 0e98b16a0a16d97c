/* decimal.c - see decimal.h. */
#include "decimal.h"

#include <string.h>

bool kvi_decimal_read(const char *text, size_t len, kvi_decimal *out)
{
    char digits[2 * KVI_DECIMAL_DIGITS];
    size_t n = 0, i = 0;
    int64_t point = 0, exponent = 0; /* digits before the point */
    bool seen_point = false, exponent_negative = false;
    *out = (kvi_decimal){.negative = len && text[0] == '-'};
    for (i = out->negative; i < len && text[i] != 'e' && text[i] != 'E'; i++) {
        if (text[i] == '.') {
            seen_point = true;
            continue;
        }
        if (n == 0 && text[i] == '0') { /* leading */
            point -= seen_point;
            continue;
        }
        if (n == sizeof digits) return false;
        digits[n++] = text[i];
        point += !seen_point;
    }
    for (i += i < len; i < len; i++) {
        if (text[i] == '-') exponent_negative = true;
        else if (text[i] != '+' && exponent < 100000) exponent = exponent * 10 + (text[i] - '0');
    }
    while (n && digits[n - 1] == '0') n--;
    if (n == 0) {
        out->negative = false;
        return true;
    }
    point += exponent_negative ? -exponent : exponent;
    if (point > KVI_DECIMAL_DIGITS || (int64_t)n - point > KVI_DECIMAL_DIGITS) return false;
    for (int64_t k = 0; k < point; k++) out->whole[out->n_whole++] = k < (int64_t)n ? digits[k] : '0';
    for (int64_t k = point; k < (int64_t)n; k++) out->fraction[out->n_fraction++] = k < 0 ? '0' : digits[k];
    return true;
}

static int compare_digits(const char *x, uint32_t n_x, const char *y, uint32_t n_y)
{
    const int order = memcmp(x, y, n_x < n_y ? n_x : n_y);
    return order ? order : n_x < n_y ? -1 : n_x > n_y;
}

int kvi_decimal_compare(const char *x, size_t x_len, const char *y, size_t y_len)
{
    kvi_decimal a, b;
    if (!kvi_decimal_read(x, x_len, &a) || !kvi_decimal_read(y, y_len, &b))
        return x_len == y_len && memcmp(x, y, x_len) == 0 ? 0 : 2;
    if (a.negative != b.negative) return a.negative ? -1 : 1;
    int order = a.n_whole < b.n_whole ? -1 : a.n_whole > b.n_whole;
    if (!order) order = compare_digits(a.whole, a.n_whole, b.whole, b.n_whole);
    if (!order) order = compare_digits(a.fraction, a.n_fraction, b.fraction, b.n_fraction);
    order = order < 0 ? -1 : order > 0;
    return a.negative ? -order : order;
}

bool kvi_decimal_is_integer(const char *text, size_t len)
{
    kvi_decimal d;
    return kvi_decimal_read(text, len, &d) && d.n_fraction == 0;
}

/* y as M / 10^*fraction with M in a range that DIGITS takes. */
static bool read_divisor(const char *text, size_t len, uint32_t *of, uint32_t *fraction)
{
    kvi_decimal d;
    uint64_t m = 0;
    if (!kvi_decimal_read(text, len, &d) || d.negative || d.n_whole + d.n_fraction > 20) return false;
    for (uint32_t i = 0; i < d.n_whole; i++) m = m * 10 + (uint64_t)(d.whole[i] - '0');
    for (uint32_t i = 0; i < d.n_fraction; i++) m = m * 10 + (uint64_t)(d.fraction[i] - '0');
    if (m == 0 || m >= 1000000) return false;
    *of = (uint32_t)m;
    *fraction = d.n_fraction;
    return true;
}

bool kvi_decimal_is_multiple(const char *x, size_t x_len, const char *y, size_t y_len)
{
    kvi_decimal d;
    uint32_t of, fraction;
    uint64_t rest = 0;
    if (!read_divisor(y, y_len, &of, &fraction) || !kvi_decimal_read(x, x_len, &d) || d.n_fraction > fraction)
        return false;
    for (uint32_t i = 0; i < d.n_whole; i++) rest = (rest * 10 + (uint64_t)(d.whole[i] - '0')) % of;
    for (uint32_t i = 0; i < fraction; i++)
        rest = (rest * 10 + (uint64_t)(i < d.n_fraction ? d.fraction[i] - '0' : 0)) % of;
    return rest == 0;
}

/* -------------------------------------------------------------------------------------------------------- languages --- */
static kvi_expr any_digits(kvi_exprs *p, uint32_t min, uint32_t max)
{
    return kvi_expr_repeat(p, kvi_expr_bytes(p, '0', '9'), min, max);
}
static kvi_expr point(kvi_exprs *p) { return kvi_expr_bytes(p, '.', '.'); }

/* Nothing, or a point and digits. */
static kvi_expr any_fraction(kvi_exprs *p, bool integer)
{
    if (integer) return KVI_EXPR_VOID;
    return kvi_expr_or2(p, KVI_EXPR_VOID, kvi_expr_then(p, point(p), any_digits(p, 1, KVI_EXPR_MANY)));
}

/* Digits from `from` on that are greater (less) than d; NONE if there are none. */
static kvi_expr beyond(kvi_exprs *p, char d, char from, bool greater)
{
    if (greater) return d < '9' ? kvi_expr_bytes(p, (uint8_t)(d + 1), '9') : KVI_EXPR_NONE;
    return d > from ? kvi_expr_bytes(p, (uint8_t)from, (uint8_t)(d - 1)) : KVI_EXPR_NONE;
}

/* Fractions ("" or ".25") that, behind equal whole parts, are at least (at most) the bound's. */
static kvi_expr fraction_beyond(kvi_exprs *p, const kvi_decimal *b, bool greater, bool open)
{
    const kvi_expr more = any_digits(p, 0, KVI_EXPR_MANY),
                   zeros = kvi_expr_repeat(p, kvi_expr_bytes(p, '0', '0'), 0, KVI_EXPR_MANY);
    const kvi_expr not_zero = kvi_expr_then(p, more, kvi_expr_then(p, kvi_expr_bytes(p, '1', '9'), more));
    /* Behind all digits of the bound: what makes it equal is zeros. */
    kvi_expr e = greater ? (open ? not_zero : more) : (open ? KVI_EXPR_NONE : zeros);
    for (uint32_t i = b->n_fraction; i-- > 0;) {
        const char d = b->fraction[i];
        e = kvi_expr_or2(p, kvi_expr_then(p, kvi_expr_bytes(p, (uint8_t)d, (uint8_t)d), e),
                         kvi_expr_then(p, beyond(p, d, '0', greater), more));
        if (!greater) e = kvi_expr_or2(p, e, KVI_EXPR_VOID); /* a shorter fraction is less */
    }
    e = kvi_expr_and2(p, e, any_digits(p, 1, KVI_EXPR_MANY)); /* at least a digit behind the point */
    e = kvi_expr_then(p, point(p), e);
    const bool none_fits = greater ? b->n_fraction == 0 && !open : b->n_fraction > 0 || !open;
    return none_fits ? kvi_expr_or2(p, e, KVI_EXPR_VOID) : e;
}

/* Non-negative numbers without exponent that are at least (at most) |bound|. */
static kvi_expr plain_beyond(kvi_exprs *p, const kvi_decimal *b, bool greater, bool open, bool integer)
{
    const kvi_expr tail = any_fraction(p, integer), first = kvi_expr_bytes(p, '1', '9');
    const uint32_t n = b->n_whole;
    kvi_expr same; /* the whole parts are equal */
    if (!integer) same = fraction_beyond(p, b, greater, open);
    else same = (greater ? b->n_fraction == 0 && !open : b->n_fraction > 0 || !open) ? KVI_EXPR_VOID : KVI_EXPR_NONE;
    kvi_expr e = same, other = KVI_EXPR_NONE;
    for (uint32_t i = n; i-- > 0;) {
        const char d = b->whole[i];
        e = kvi_expr_or2(p, kvi_expr_then(p, kvi_expr_bytes(p, (uint8_t)d, (uint8_t)d), e),
                         kvi_expr_then(p, beyond(p, d, i ? '0' : '1', greater),
                                       kvi_expr_then(p, any_digits(p, n - 1 - i, n - 1 - i), tail)));
    }
    const kvi_expr zero = kvi_expr_bytes(p, '0', '0');
    if (n == 0) e = kvi_expr_then(p, zero, same);
    if (greater) other = kvi_expr_then(p, first, kvi_expr_then(p, any_digits(p, n, KVI_EXPR_MANY), tail));
    else if (n > 0) {
        other = kvi_expr_then(p, zero, tail);
        if (n > 1)
            other = kvi_expr_or2(p, other, kvi_expr_then(p, first, kvi_expr_then(p, any_digits(p, 0, n - 2), tail)));
    }
    return kvi_expr_or2(p, e, other);
}

/* [eE] and an exponent that is at least (at most) k. */
static kvi_expr letter(kvi_exprs *p)
{
    const kvi_byte_set letters = {{0, 1ull << ('e' - 64) | 1ull << ('E' - 64), 0, 0}};
    return kvi_expr_byte_set(p, &letters);
}
static kvi_expr power_beyond(kvi_exprs *p, int32_t k, bool greater)
{
    const kvi_expr plus = kvi_expr_repeat(p, kvi_expr_bytes(p, '+', '+'), 0, 1), minus = kvi_expr_bytes(p, '-', '-');
    const kvi_expr zeros = kvi_expr_repeat(p, kvi_expr_bytes(p, '0', '0'), 0, 1);
    const kvi_expr outward = greater ? plus : minus, inward = greater ? minus : plus;
    const bool far = greater ? k > 0 : k < 0; /* from zero: all are on one side of it */
    kvi_decimal d = {0};
    char digits[12];
    for (uint32_t m = (uint32_t)(k < 0 ? -k : k); m; m /= 10) digits[d.n_whole++] = (char)('0' + m % 10);
    for (uint32_t i = 0; i < d.n_whole; i++) d.whole[i] = digits[d.n_whole - 1 - i];
    const kvi_expr size = kvi_expr_then(p, zeros, plain_beyond(p, &d, far, false, true));
    kvi_expr e = kvi_expr_then(p, far ? outward : inward, size);
    if (!far) e = kvi_expr_or2(p, e, kvi_expr_then(p, outward, any_digits(p, 1, KVI_EXPR_MANY)));
    return kvi_expr_then(p, letter(p), e);
}

/* The same with exponents and one digit that is not zero in front of the point, as printers write them (1e-06). */
static kvi_expr scientific_beyond(kvi_exprs *p, const kvi_decimal *b, bool greater, bool open)
{
    const kvi_expr mantissa = kvi_expr_then(p, kvi_expr_bytes(p, '1', '9'), any_fraction(p, false));
    kvi_decimal m = {.n_whole = 1};
    int32_t k = (int32_t)b->n_whole - 1;
    for (uint32_t i = 0; i < b->n_whole; i++) *(i ? &m.fraction[m.n_fraction++] : m.whole) = b->whole[i];
    for (uint32_t i = 0; i < b->n_fraction; i++) {
        const bool first = b->n_whole == 0 && k == -1 - (int32_t)i;
        if (first && b->fraction[i] == '0') k--;
        else if (first) m.whole[0] = b->fraction[i];
        else if (m.n_fraction < KVI_DECIMAL_DIGITS) m.fraction[m.n_fraction++] = b->fraction[i];
        else return kvi_expr_fail(p, "a bound of a number has more than 400 digits");
    }
    while (m.n_fraction && m.fraction[m.n_fraction - 1] == '0') m.n_fraction--;
    if (!m.whole[0]) /* zero */
        return greater
                   ? kvi_expr_then(p, mantissa, kvi_expr_or2(p, power_beyond(p, 0, true), power_beyond(p, 0, false)))
                   : KVI_EXPR_NONE;
    const kvi_expr same = kvi_expr_and2(p, power_beyond(p, k, true), power_beyond(p, k, false));
    return kvi_expr_or2(p, kvi_expr_then(p, mantissa, power_beyond(p, greater ? k + 1 : k - 1, greater)),
                        kvi_expr_then(p, kvi_expr_and2(p, mantissa, plain_beyond(p, &m, greater, open, false)), same));
}

static kvi_expr any_size(kvi_exprs *p, bool integer, bool exponent)
{
    const kvi_expr whole = kvi_expr_or2(p, kvi_expr_bytes(p, '0', '0'),
                                        kvi_expr_then(p, kvi_expr_bytes(p, '1', '9'), any_digits(p, 0, KVI_EXPR_MANY)));
    kvi_expr e = kvi_expr_then(p, whole, any_fraction(p, integer));
    if (!exponent) return e;
    const kvi_byte_set signs = {{1ull << '+' | 1ull << '-', 0, 0, 0}};
    const kvi_expr sign = kvi_expr_repeat(p, kvi_expr_byte_set(p, &signs), 0, 1);
    const kvi_expr power = kvi_expr_then(p, letter(p), kvi_expr_then(p, sign, any_digits(p, 1, KVI_EXPR_MANY)));
    return kvi_expr_then(p, e, kvi_expr_or2(p, KVI_EXPR_VOID, power));
}

static bool is_zero(const kvi_decimal *d) { return d->n_whole == 0 && d->n_fraction == 0; }

/* |x| of one sign between two bounds; NULL: none there. What stands in front of an exponent satisfies them as well: a model that has begun a number
 * may end it, and has not to find the exponent that makes 8.25 less than 5. */
static kvi_expr between(kvi_exprs *p, const kvi_decimal *low, bool low_open, const kvi_decimal *high, bool high_open,
                        bool integer)
{
    kvi_expr plain = low ? plain_beyond(p, low, true, low_open, integer) : any_size(p, integer, false);
    if (high) plain = kvi_expr_and2(p, plain, plain_beyond(p, high, false, high_open, integer));
    if (integer) return plain;
    const kvi_expr sign =
        kvi_expr_or(p, (kvi_expr[]){KVI_EXPR_VOID, kvi_expr_bytes(p, '+', '+'), kvi_expr_bytes(p, '-', '-')}, 3);
    kvi_expr e = kvi_expr_then(p, plain, kvi_expr_then(p, letter(p), kvi_expr_then(p, sign, any_digits(p, 1, 3))));
    if (low) e = kvi_expr_and2(p, e, scientific_beyond(p, low, true, low_open));
    if (high) e = kvi_expr_and2(p, e, scientific_beyond(p, high, false, high_open));
    return kvi_expr_or2(p, plain, e);
}

kvi_expr kvi_decimal_expr(kvi_exprs *p, const kvi_decimal_range *r)
{
    const kvi_expr minus = kvi_expr_bytes(p, '-', '-');
    if (!r->low && !r->high)
        return kvi_expr_then(p, kvi_expr_repeat(p, minus, 0, 1), any_size(p, r->integer, !r->integer));
    kvi_decimal *d = kvi_mem_zalloc(3, sizeof *d); /* too large for the stack of a host's thread */
    if (!d) return kvi_expr_fail(p, "");
    kvi_decimal *low = r->low ? &d[0] : NULL, *high = r->high ? &d[1] : NULL, *zero = &d[2];
    kvi_expr positive = KVI_EXPR_NONE, negative = KVI_EXPR_NONE;
    if ((low && !kvi_decimal_read(r->low, r->low_len, low)) ||
        (high && !kvi_decimal_read(r->high, r->high_len, high))) {
        kvi_mem_free(d);
        return kvi_expr_fail(p, "a bound of a number has more than 400 digits");
    }
    /* From max(low, 0) to high, and mirrored from -high to -low. Zero belongs to the positive ones. */
    if (!high || !high->negative) {
        const bool from_low = low && !low->negative;
        positive = between(p, from_low ? low : NULL, r->low_open, high, r->high_open, r->integer);
    }
    if (!low || low->negative) {
        const bool to_high = high && (high->negative || is_zero(high));
        const bool open = to_high ? r->high_open || is_zero(high) : true;
        negative = kvi_expr_then(p, minus, between(p, to_high ? high : zero, open, low, r->low_open, r->integer));
    }
    kvi_mem_free(d);
    return kvi_expr_or2(p, positive, negative);
}

kvi_expr kvi_decimal_multiples(kvi_exprs *p, const char *text, size_t len)
{
    uint32_t of, fraction;
    if (!read_divisor(text, len, &of, &fraction))
        return kvi_expr_fail(
            p, "multipleOf: need a positive number of up to 6 digits without those behind a power of ten");
    const kvi_expr digits = kvi_expr_multiple(p, of, fraction);
    return kvi_expr_then(p, kvi_expr_repeat(p, kvi_expr_bytes(p, '-', '-'), 0, 1),
                         kvi_expr_and2(p, digits, any_size(p, fraction == 0, false)));
}
