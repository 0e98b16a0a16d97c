/* decimal.h - JSON numbers as they are written: compared, and as languages of decimal digits between bounds. Exact: nothing becomes a double. */
#ifndef KVI_DECIMAL_H
#define KVI_DECIMAL_H
#include "expr.h"

#define KVI_DECIMAL_DIGITS 400 /* before and behind the point */

/* A number's digits without superfluous zeros: 0.0123 is {.whole = "", .fraction = "0123"}. */
typedef struct kvi_decimal {
    bool negative;
    char whole[KVI_DECIMAL_DIGITS], fraction[KVI_DECIMAL_DIGITS];
    uint32_t n_whole, n_fraction;
} kvi_decimal;

/* False when it has more digits than that. `text` is a JSON number. */
bool kvi_decimal_read(const char *text, size_t len, kvi_decimal *out);
/* -1, 0, 1; numbers that are too long are compared as doubles would be: by their text alone, equal or not (2). */
int kvi_decimal_compare(const char *x, size_t x_len, const char *y, size_t y_len);
bool kvi_decimal_is_integer(const char *text, size_t len);
/* Whether x is a multiple of y (> 0); false too when it cannot be told. */
bool kvi_decimal_is_multiple(const char *x, size_t x_len, const char *y, size_t y_len);

/* Numbers >= bound (> with `open`), or <= (<). With bounds an exponent stands behind d or d.ddd, d != 0, in front, which satisfies them too. */
typedef struct kvi_decimal_range {
    const char *low, *high; /* NULL: none */
    size_t low_len, high_len;
    bool low_open, high_open, integer;
} kvi_decimal_range;
/* Sets pool->why for numbers that are too long. */
kvi_expr kvi_decimal_expr(kvi_exprs *pool, const kvi_decimal_range *range);
/* Multiples of a number. */
kvi_expr kvi_decimal_multiples(kvi_exprs *pool, const char *of, size_t len);

#endif
