/* ranges.h - the ranges that the encoder tries for a row of codes, shared by C and device code: the row's extremes, shrunken about their middle. */
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

#endif
