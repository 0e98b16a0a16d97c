/* bigint.c - integers beyond 64 bits, exact, as Python has them. Owns: the change between a machine integer and limbs,
 * + - * // % **, comparison, text. Refuses: more than 4,300 digits, where Python refuses to print. To know: limbs are
 * base 10^9, so that text needs no division; a result that fits 64 bits is always an INT, so that a BIG never equals
 * an INT. */
#include "../base/json.h"
#include "value.h"

#include <math.h>
#include <string.h>

#define BASE 1000000000u
#define MAX_DIGITS 4300u
#define MAX_LIMBS (MAX_DIGITS / 9 + 1)

static kvi_jinja_big load(kvi_jinja_value v, uint32_t small[3])
{
    if (v.type == KVI_JINJA_BIG) return *v.u.big;
    int64_t i = v.type == KVI_JINJA_BOOL ? v.u.b : v.u.i;
    uint64_t u = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    kvi_jinja_big out = {i < 0, 0, small};
    for (; u; u /= BASE) small[out.n++] = (uint32_t)(u % BASE);
    return out;
}

/* The value of limbs[n], which may have zeros on top. */
static kvi_jinja_value normalized(kvi_jinja_ctx *ctx, bool negative, uint32_t *limbs, size_t n)
{
    while (n && !limbs[n - 1]) n--;
    if (n < 3 || (n == 3 && limbs[2] < 10)) { /* below 10^19 */
        uint64_t u = 0;
        for (size_t i = n; i-- > 0;) u = u * BASE + limbs[i];
        if (u <= INT64_MAX) return kvi_jinja_int(negative ? -(int64_t)u : (int64_t)u);
        if (negative && u == (uint64_t)INT64_MAX + 1) return kvi_jinja_int(INT64_MIN);
    }
    if (n > MAX_LIMBS) return kvi_jinja_fail(ctx, "integers of more than %u digits are not supported", MAX_DIGITS);
    kvi_jinja_big *big = kvi_jinja_alloc(ctx, sizeof *big);
    if (!big) return kvi_jinja_undefined(NULL);
    *big = (kvi_jinja_big){negative, n, limbs};
    return (kvi_jinja_value){KVI_JINJA_BIG, {.big = big}};
}

static int compare_magnitude(const kvi_jinja_big *a, const kvi_jinja_big *b)
{
    if (a->n != b->n) return a->n < b->n ? -1 : 1;
    for (size_t i = a->n; i-- > 0;)
        if (a->limbs[i] != b->limbs[i]) return a->limbs[i] < b->limbs[i] ? -1 : 1;
    return 0;
}

int kvi_jinja_int_compare(kvi_jinja_value a, kvi_jinja_value b)
{
    uint32_t sa[3], sb[3];
    kvi_jinja_big x = load(a, sa), y = load(b, sb);
    if (x.negative != y.negative) return x.negative ? -1 : 1;
    int c = compare_magnitude(&x, &y);
    return x.negative ? -c : c;
}

static void add_magnitude(uint32_t *out, const kvi_jinja_big *a, const kvi_jinja_big *b, size_t n)
{
    uint32_t carry = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t v = carry + (i < a->n ? a->limbs[i] : 0) + (i < b->n ? b->limbs[i] : 0);
        out[i] = v % BASE;
        carry = v / BASE;
    }
}

/* |a| >= |b| */
static void subtract_magnitude(uint32_t *out, const kvi_jinja_big *a, const kvi_jinja_big *b)
{
    uint32_t borrow = 0;
    for (size_t i = 0; i < a->n; i++) {
        int64_t v = (int64_t)a->limbs[i] - borrow - (i < b->n ? b->limbs[i] : 0);
        borrow = v < 0;
        out[i] = (uint32_t)(v + (borrow ? BASE : 0));
    }
}

static kvi_jinja_value sum(kvi_jinja_ctx *ctx, kvi_jinja_big a, kvi_jinja_big b)
{
    size_t n = (a.n > b.n ? a.n : b.n) + 1;
    uint32_t *out = kvi_jinja_alloc(ctx, n * sizeof *out);
    if (!out) return kvi_jinja_undefined(NULL);
    if (a.negative == b.negative) {
        add_magnitude(out, &a, &b, n);
        return normalized(ctx, a.negative, out, n);
    }
    bool larger = compare_magnitude(&a, &b) >= 0;
    if (larger) subtract_magnitude(out, &a, &b);
    else subtract_magnitude(out, &b, &a);
    return normalized(ctx, larger ? a.negative : b.negative, out, n);
}

static kvi_jinja_value product(kvi_jinja_ctx *ctx, kvi_jinja_big a, kvi_jinja_big b)
{
    if (a.n + b.n > MAX_LIMBS + 1)
        return kvi_jinja_fail(ctx, "integers of more than %u digits are not supported", MAX_DIGITS);
    uint32_t *out = kvi_jinja_alloc(ctx, (a.n + b.n + 1) * sizeof *out);
    if (!out || !kvi_jinja_charge(ctx, a.n * b.n / 64)) return kvi_jinja_undefined(NULL);
    for (size_t i = 0; i < a.n; i++) {
        uint64_t carry = 0;
        for (size_t k = 0; k < b.n || carry; k++) {
            uint64_t v = out[i + k] + carry + (k < b.n ? (uint64_t)a.limbs[i] * b.limbs[k] : 0);
            out[i + k] = (uint32_t)(v % BASE);
            carry = v / BASE;
        }
    }
    return normalized(ctx, a.negative != b.negative, out, a.n + b.n);
}

static uint32_t multiply_small(uint32_t *out, const uint32_t *limbs, size_t n, uint32_t factor)
{
    uint64_t carry = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t v = (uint64_t)limbs[i] * factor + carry;
        out[i] = (uint32_t)(v % BASE);
        carry = v / BASE;
    }
    return (uint32_t)carry;
}

static uint32_t divide_small(uint32_t *out, const uint32_t *limbs, size_t n, uint32_t divisor)
{
    uint64_t rest = 0;
    for (size_t i = n; i-- > 0;) {
        rest = rest * BASE + limbs[i];
        out[i] = (uint32_t)(rest / divisor);
        rest %= divisor;
    }
    return (uint32_t)rest;
}

/* One digit of the long division (Knuth, 4.3.1, D3 to D6): u[n + 1] -= q * v[n]; returns q. */
static uint32_t divide_step(uint32_t *u, const uint32_t *v, size_t n)
{
    uint64_t top = (uint64_t)u[n] * BASE + u[n - 1], q = top / v[n - 1], rest = top % v[n - 1];
    while (q >= BASE || q * v[n - 2] > rest * BASE + u[n - 2]) {
        q--;
        rest += v[n - 1];
        if (rest >= BASE) break;
    }
    int64_t borrow = 0;
    for (size_t i = 0; i < n; i++) {
        int64_t d = (int64_t)u[i] - borrow - (int64_t)(q * v[i] % BASE);
        borrow = (int64_t)(q * v[i] / BASE) + (d < 0);
        u[i] = (uint32_t)(d + (d < 0 ? BASE : 0));
    }
    int64_t last = (int64_t)u[n] - borrow;
    u[n] = (uint32_t)(last < 0 ? 0 : last);
    if (last >= 0) return (uint32_t)q;
    uint32_t carry = 0; /* q was one too large: add v back, the carry leaves at the top */
    for (size_t i = 0; i < n; i++) {
        uint32_t s = u[i] + v[i] + carry;
        u[i] = s % BASE;
        carry = s / BASE;
    }
    return (uint32_t)q - 1;
}

/* Quotient a.n limbs, remainder b.n limbs, of the magnitudes. */
static bool divide_magnitude(kvi_jinja_ctx *ctx, kvi_jinja_big a, kvi_jinja_big b, uint32_t *quotient, uint32_t *rest)
{
    if (compare_magnitude(&a, &b) < 0) {
        memcpy(rest, a.limbs, a.n * sizeof *rest);
        return true;
    }
    if (b.n == 1) {
        rest[0] = divide_small(quotient, a.limbs, a.n, b.limbs[0]);
        return true;
    }
    uint32_t *u = kvi_jinja_alloc(ctx, (a.n + 1) * sizeof *u), *v = kvi_jinja_alloc(ctx, b.n * sizeof *v);
    if (!u || !v || !kvi_jinja_charge(ctx, a.n * b.n / 64)) return false;
    uint32_t scale = BASE / (b.limbs[b.n - 1] + 1);
    u[a.n] = multiply_small(u, a.limbs, a.n, scale);
    (void)multiply_small(v, b.limbs, b.n, scale);
    for (size_t j = a.n - b.n + 1; j-- > 0;) quotient[j] = divide_step(u + j, v, b.n);
    (void)divide_small(rest, u, b.n, scale);
    return true;
}

/* Rounded down, as Python does: the remainder has the sign of the divisor. */
static kvi_jinja_value quotient_or_rest(kvi_jinja_ctx *ctx, char op, kvi_jinja_big a, kvi_jinja_big b)
{
    uint32_t *q = kvi_jinja_alloc(ctx, (a.n + 1) * sizeof *q), *r = kvi_jinja_alloc(ctx, (b.n + 1) * sizeof *r);
    if (!q || !r || !divide_magnitude(ctx, a, b, q, r)) return kvi_jinja_undefined(NULL);
    kvi_jinja_value quotient = normalized(ctx, a.negative != b.negative, q, a.n),
                    rest = normalized(ctx, a.negative, r, b.n);
    if (ctx->failed) return quotient;
    bool down = a.negative != b.negative && !(rest.type == KVI_JINJA_INT && !rest.u.i);
    if (!down) return op == 'F' ? quotient : rest;
    uint32_t small[3];
    if (op == 'F') return kvi_jinja_int_binary(ctx, '-', quotient, kvi_jinja_int(1));
    return sum(ctx, load(rest, small), b);
}

static kvi_jinja_value power(kvi_jinja_ctx *ctx, kvi_jinja_value base, kvi_jinja_value exponent)
{
    kvi_jinja_value out = kvi_jinja_int(1);
    bool trivial = base.type == KVI_JINJA_INT && base.u.i >= -1 && base.u.i <= 1;
    if (exponent.type == KVI_JINJA_BIG && !trivial)
        return kvi_jinja_fail(ctx, "integers of more than %u digits are not supported", MAX_DIGITS);
    if (exponent.type == KVI_JINJA_BIG) /* 0, 1 and -1 repeat after two steps */
        exponent = kvi_jinja_int(2 + (exponent.u.big->limbs[0] & 1));
    for (int64_t e = exponent.u.i; e && !ctx->failed; e >>= 1) {
        if (e & 1) out = kvi_jinja_int_binary(ctx, '*', out, base);
        if (e > 1 && !ctx->failed) base = kvi_jinja_int_binary(ctx, '*', base, base);
    }
    return out;
}

static kvi_jinja_value as_int(kvi_jinja_value v) { return v.type == KVI_JINJA_BOOL ? kvi_jinja_int(v.u.b) : v; }

kvi_jinja_value kvi_jinja_int_binary(kvi_jinja_ctx *ctx, char op, kvi_jinja_value a, kvi_jinja_value b)
{
    uint32_t sa[3], sb[3];
    kvi_jinja_big x = load(a, sa), y = load(b, sb);
    if (ctx->failed) return kvi_jinja_undefined(NULL);
    switch (op) {
    case '-': y.negative = !y.negative; /* fall through */
    case '+': return sum(ctx, x, y);
    case '*': return product(ctx, x, y);
    case 'P': return power(ctx, as_int(a), as_int(b));
    default: return quotient_or_rest(ctx, op, x, y);
    }
}

static unsigned digit_value(char c)
{
    if (c >= '0' && c <= '9') return (unsigned)(c - '0');
    c |= 0x20;
    return c >= 'a' && c <= 'z' ? (unsigned)(c - 'a' + 10) : 99;
}

kvi_jinja_value kvi_jinja_int_parse(kvi_jinja_ctx *ctx, const char *digits, size_t len, unsigned base, bool negative)
{
    if (len > 4 * MAX_DIGITS)
        return kvi_jinja_fail(ctx, "integers of more than %u digits are not supported", MAX_DIGITS);
    size_t cap = len / 5 + 2, n = 0; /* 36^5 < 10^9 */
    uint32_t *limbs = kvi_jinja_alloc(ctx, cap * sizeof *limbs);
    if (!limbs || !kvi_jinja_charge(ctx, len * cap / 64)) return kvi_jinja_undefined(NULL);
    for (size_t i = 0; i < len; i++) {
        uint64_t carry = digit_value(digits[i]);
        for (size_t k = 0; k < n; k++) {
            uint64_t v = (uint64_t)limbs[k] * base + carry;
            limbs[k] = (uint32_t)(v % BASE);
            carry = v / BASE;
        }
        if (carry) limbs[n++] = (uint32_t)carry;
    }
    return normalized(ctx, negative, limbs, n);
}

size_t kvi_jinja_int_digits(kvi_jinja_value v, char *dst)
{
    if (v.type != KVI_JINJA_BIG) return kvi_jinja_int_text(v.type == KVI_JINJA_BOOL ? v.u.b : v.u.i, dst);
    size_t len = 0;
    if (v.u.big->negative) dst[len++] = '-';
    for (size_t i = v.u.big->n; i-- > 0;) {
        char part[9];
        uint32_t limb = v.u.big->limbs[i];
        for (size_t k = 9; k-- > 0; limb /= 10) part[k] = (char)('0' + limb % 10);
        size_t skip = 0;
        while (i + 1 == v.u.big->n && part[skip] == '0') skip++;
        memcpy(dst + len, part + skip, 9 - skip);
        len += 9 - skip;
    }
    return len;
}

double kvi_jinja_int_to_float(kvi_jinja_value v)
{
    char text[KVI_JINJA_INT_TEXT];
    double f = 0;
    if (v.type != KVI_JINJA_BIG) return (double)(v.type == KVI_JINJA_BOOL ? v.u.b : v.u.i);
    size_t n = kvi_jinja_int_digits(v, text);
    return kvi_parse_f64(text, n, &f) ? f : v.u.big->negative ? -HUGE_VAL : HUGE_VAL;
}

kvi_jinja_value kvi_jinja_int_of_float(kvi_jinja_ctx *ctx, double f)
{
    char text[340];
    if (isnan(f)) return kvi_jinja_fail(ctx, "ValueError: cannot convert float NaN to integer");
    if (isinf(f)) return kvi_jinja_fail(ctx, "OverflowError: cannot convert float infinity to integer");
    if (fabs(f) < 9.2e18) return kvi_jinja_int((int64_t)f);
    int n = kvi_jinja_float_fixed(f, 0, text, sizeof text);
    bool negative = text[0] == '-';
    return kvi_jinja_int_parse(ctx, text + negative, (size_t)n - negative, 10, negative);
}
