/* number.c - numbers as text without the locale: Python's repr of floats, fixed digits, integers. To know: a
 * double is expanded exactly in base 10^9, then rounded; the shortest text is found by trying 1..17 digits and reading
 * each back. Slow beside the famous algorithms, short, and templates print few floats. */
#include "../base/json.h"
#include "value.h"

#include <math.h>
#include <string.h>

#define LIMBS 130u /* 10^9 each: 1,170 decimal digits, a double has at most 1,075 after and 309 before the point */

/* f = 0.DDDD * 10^exponent with n digits in `digits` (values 0..9), exact. f > 0 and finite. */
static size_t exact_digits(double f, unsigned char *digits, int *exponent)
{
    uint32_t limbs[LIMBS] = {0}; /* little endian integer */
    size_t n = 0;
    int e2;
    double mantissa = frexp(f, &e2);
    uint64_t bits = (uint64_t)ldexp(mantissa, 53);
    e2 -= 53;
    while (e2 < 0 && !(bits & 1)) bits >>= 1, e2++;
    for (; bits; bits /= 1000000000u) limbs[n++] = (uint32_t)(bits % 1000000000u);
    /* m * 2^e2 is an integer, or m / 2^k = m * 5^k / 10^k. */
    uint32_t factor = e2 < 0 ? 5 : 2;
    int k = e2 < 0 ? -e2 : e2;
    for (int i = 0; i < k; i++) {
        uint64_t carry = 0;
        for (size_t j = 0; j < n; j++) {
            uint64_t v = (uint64_t)limbs[j] * factor + carry;
            limbs[j] = (uint32_t)(v % 1000000000u);
            carry = v / 1000000000u;
        }
        if (carry && n < LIMBS) limbs[n++] = (uint32_t)carry;
    }
    size_t count = 0;
    for (size_t j = n; j-- > 0;) {
        uint32_t power = 100000000u;
        for (unsigned d = 0; d < 9; d++, power /= 10) {
            unsigned char digit = (unsigned char)(limbs[j] / power % 10);
            if (count || digit) digits[count++] = digit;
        }
    }
    *exponent = (int)count - (e2 < 0 ? k : 0);
    return count;
}

/* Rounds to n digits, half to even; true when a carry made one more leading digit (exponent + 1). n may be 0. */
static bool round_digits(const unsigned char *in, size_t count, size_t n, unsigned char *out)
{
    for (size_t i = 0; i < n; i++) out[i] = i < count ? in[i] : 0;
    if (n >= count) return false;
    bool above = false;
    for (size_t i = n + 1; i < count; i++) above = above || in[i];
    bool odd = n ? (out[n - 1] & 1) : false;
    if (in[n] < 5 || (in[n] == 5 && !above && !odd)) return false;
    size_t i = n;
    while (i > 0 && out[i - 1] == 9) out[--i] = 0;
    if (i > 0) {
        out[i - 1]++;
        return false;
    }
    if (n) out[0] = 1; /* 9.99 became 1.00: the digits behind are zero */
    return true;
}

void kvi_jinja_float_digits(double f, unsigned n, char *digits, int *exponent)
{
    unsigned char exact[LIMBS * 9], rounded[LIMBS * 9];
    size_t count = exact_digits(f, exact, exponent);
    if (round_digits(exact, count, n, rounded)) ++*exponent;
    for (unsigned i = 0; i < n; i++) digits[i] = (char)('0' + rounded[i]);
}

size_t kvi_jinja_int_text(int64_t i, char *dst)
{
    char reversed[24];
    size_t n = 0, len = 0;
    uint64_t u = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    do reversed[n++] = (char)('0' + u % 10);
    while ((u /= 10) != 0);
    if (i < 0) dst[len++] = '-';
    while (n) dst[len++] = reversed[--n];
    return len;
}

/* digits[n] with the point behind `exponent` of them, in Python's two forms. */
static size_t layout(const char *digits, size_t n, int exponent, char *dst)
{
    size_t len = 0;
    if (exponent > -4 && exponent <= 16) {
        if (exponent <= 0) {
            memcpy(dst, "0.", 2);
            len = 2;
            for (int i = exponent; i < 0; i++) dst[len++] = '0';
            memcpy(dst + len, digits, n);
            return len + n;
        }
        for (size_t i = 0; i < n || (int)i < exponent; i++) {
            if ((int)i == exponent) dst[len++] = '.';
            dst[len++] = i < n ? digits[i] : '0';
        }
        if ((int)n <= exponent) {
            memcpy(dst + len, ".0", 2);
            len += 2;
        }
        return len;
    }
    dst[len++] = digits[0];
    if (n > 1) {
        dst[len++] = '.';
        memcpy(dst + len, digits + 1, n - 1);
        len += n - 1;
    }
    int e = exponent - 1;
    dst[len++] = 'e';
    dst[len++] = e < 0 ? '-' : '+';
    if (e < 0) e = -e;
    if (e < 10) dst[len++] = '0';
    return len + kvi_jinja_int_text(e, dst + len);
}

size_t kvi_jinja_float_repr(double f, char *dst)
{
    size_t sign = 0;
    if (isnan(f)) return memcpy(dst, "nan", 3), 3;
    if (signbit(f)) dst[sign++] = '-', f = -f;
    if (isinf(f)) return memcpy(dst + sign, "inf", 3), sign + 3;
    if (f == 0) return memcpy(dst + sign, "0.0", 3), sign + 3;
    char digits[17], text[32];
    int exponent = 0;
    unsigned n = 1;
    for (; n <= 17; n++) {
        kvi_jinja_float_digits(f, n, digits, &exponent);
        size_t len = 0;
        double back = 0;
        memcpy(text, "0.", 2);
        memcpy(text + 2, digits, n);
        len = 2 + n;
        text[len++] = 'e';
        len += kvi_jinja_int_text(exponent, text + len);
        if (kvi_parse_f64(text, len, &back) && back == f) break;
    }
    if (n > 17) n = 17;
    while (n > 1 && digits[n - 1] == '0') n--;
    return sign + layout(digits, n, exponent, dst + sign);
}

int kvi_jinja_float_fixed(double f, unsigned places, char *dst, size_t cap)
{
    unsigned char exact[LIMBS * 9], rounded[LIMBS * 9];
    size_t len = 0, count = 0;
    int exponent = 0;
    if (isnan(f) || isinf(f) || places > 800) return -1;
    if (signbit(f)) f = -f, dst[len++] = '-';
    if (f != 0) count = exact_digits(f, exact, &exponent);
    /* Digits kept: those before the point and `places` behind it; negative when f is far below the last place. */
    int keep = exponent + (int)places;
    if (cap < (size_t)(exponent > 0 ? exponent : 1) + places + 4) return -1;
    bool carry = keep >= 0 && f != 0 && round_digits(exact, count, (size_t)keep, rounded);
    if (keep < 0 || f == 0) keep = 0;
    /* Position of each decimal: exponent digits stand before the point. */
    int first = exponent > 1 || (exponent == 1) ? exponent : 1;
    if (carry && exponent >= first) first = exponent + 1;
    for (int place = first; place > -(int)places; place--) {
        /* The digit worth 10^(place-1); rounded[0] is worth 10^(exponent-1), one more after a carry. */
        int at = exponent + (carry ? 1 : 0) - place;
        char c = '0';
        if (carry) c = at == 0 ? '1' : '0';
        else if (at >= 0 && at < keep) c = (char)('0' + rounded[at]);
        if (place == 0 && places) dst[len++] = '.';
        dst[len++] = c;
    }
    return (int)len;
}
