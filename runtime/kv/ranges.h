/* ranges.h - the ranges that the encoder tries for a row of codes, and the constants of rounding with feedback, shared by C and device code: the
 * row's extremes, shrunken about their middle. */
#ifndef KVI_KV_RANGES_H
#define KVI_KV_RANGES_H
#include "half.h"

#define KVI_KV_RANGES 8u

KVI_HD static inline float kvi_kv_range_factor(uint32_t f)
{
    return f == 0   ? 1.0f
           : f == 1 ? 0.94f
           : f == 2 ? 0.88f
           : f == 3 ? 0.82f
           : f == 4 ? 0.76f
           : f == 5 ? 0.70f
           : f == 6 ? 0.64f
                    : 0.58f;
}

/* How many of them range "unbiased" tries. Shrinking lowers the mean error of a row and cuts off its extremes. Of values, which attention averages,
 * the mean error is what counts; keys are looked up by the rare large products that their extremes make: measured in README.md. */
KVI_HD static inline uint32_t kvi_kv_range_tries(bool is_v) { return is_v ? KVI_KV_RANGES : 1u; }

/* Rounding with feedback tries more, four widths in four places each: where a grid of few levels falls among the numbers of a row is worth as much
 * as its width. None is much narrower than the row: the least angle is that of a grid that cuts extremes off, and with it keys are not found
 * (README.md). */
#define KVI_KV_FITS 16u

/* Grid k's width, of the row's own, and its place, in steps. */
KVI_HD static inline float kvi_kv_fit_width(uint32_t k, uint32_t bits)
{
    const float narrower = bits == 4u ? 0.06f : bits == 3u ? 0.04f : 0.08f;
    return 1.0f - (float)(k >> 2) * narrower;
}
KVI_HD static inline float kvi_kv_fit_place(uint32_t k) { return (float)(k & 3u) * 0.25f - 0.375f; }

/* Lowest level, relative to the row's middle, and step of grid k for a row of half width `half`. */
KVI_HD static inline void kvi_kv_fit(uint32_t k, uint32_t bits, float half, float *low, float *step)
{
    const float width = half * kvi_kv_fit_width(k, bits);
    *step = 2.0f * width / (float)((1u << bits) - 1u);
    *low = kvi_kv_fit_place(k) * *step - width;
}

/* Damping: what is added to the diagonal of a metric, of its mean. There are only about twice as many queries as channels, so that the small
 * directions of H are chance: with 1% the rounding trusts them, and attention differs by a fifth more (README.md). */
#define KVI_KV_KEY_DAMPING 0.25f
#define KVI_KV_VALUE_DAMPING 1.0f

/* Of V's metric: a query's logits over a page have this deviation, and so many queries are enough: every stride-th of n. */
#define KVI_KV_LOGITS 2.0f
#define KVI_KV_MOST_LOGIT 1e15f /* of its dot products, before that */
#define KVI_KV_VALUE_QUERIES 64u
KVI_HD static inline uint32_t kvi_kv_value_stride(uint32_t n)
{
    return n <= KVI_KV_VALUE_QUERIES ? 1u : n / KVI_KV_VALUE_QUERIES;
}

#endif
