/* elementary.h - logarithm and exponential of the encoder: plain IEEE double arithmetic, rounded to f32 once, so that CPU and device give the same
 * bits whatever their math libraries do. Errors are about 1e-13 before the rounding: in practice the nearest float. Compiled without
 * contraction, as codec.h. */
#ifndef KVI_KV_ELEMENTARY_H
#define KVI_KV_ELEMENTARY_H
#include "half.h"

KVI_HD static inline double kvi_f64_from_bits(uint64_t bits)
{
    union {
        double f;
        uint64_t u;
    } pun;
    pun.u = bits;
    return pun.f;
}
KVI_HD static inline uint64_t kvi_f64_bits(double value)
{
    union {
        double f;
        uint64_t u;
    } pun;
    pun.f = value;
    return pun.u;
}

/* x > 0. log x = e log 2 + 2 atanh s, s = (m - 1) / (m + 1), for x = 2^e m with m in [0.7, 1.42). */
KVI_HD static inline float kvi_kv_log(float x)
{
    const uint64_t u = kvi_f64_bits((double)x);
    int32_t e = (int32_t)(u >> 52) - 1023;
    double m = kvi_f64_from_bits((u & 0xfffffffffffffu) | 0x3ff0000000000000u);
    if (m > 1.4142135623730951) m *= 0.5, e++;
    const double s = (m - 1.0) / (m + 1.0), z = s * s;
    double p = 1.0 / 17.0;
    p = p * z + 1.0 / 15.0;
    p = p * z + 1.0 / 13.0;
    p = p * z + 1.0 / 11.0;
    p = p * z + 1.0 / 9.0;
    p = p * z + 1.0 / 7.0;
    p = p * z + 1.0 / 5.0;
    p = p * z + 1.0 / 3.0;
    p = p * z + 1.0;
    return (float)((double)e * 0.6931471805599453 + 2.0 * s * p);
}

/* 2^n e^r, |r| <= log(2) / 2, for |x| <= 80; beyond, the value there: side vectors of the cache saturate long before. */
KVI_HD static inline float kvi_kv_exp(float x)
{
    const double y = x > 80.0f ? 80.0 : x < -80.0f ? -80.0 : (double)x;
    const double n = (y * 1.4426950408889634 + 6755399441055744.0) - 6755399441055744.0, r = y - n * 0.6931471805599453;
    double p = 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    return (float)(p * kvi_f64_from_bits((uint64_t)((int64_t)n + 1023) << 52));
}

/* e^x for |x| <= 80 to 3e-6 of it, in f32 alone, so that vectors have it, too (feedback.h). */
#define KVI_KV_EXP2_1 0.693147182f
#define KVI_KV_EXP2_2 0.240226500f
#define KVI_KV_EXP2_3 0.0555041f
#define KVI_KV_EXP2_4 0.00961813f
#define KVI_KV_EXP2_5 0.00133336f
KVI_HD static inline float kvi_kv_exp_near(float x)
{
    const float y = x * 1.44269504f, n = (y + 12582912.0f) - 12582912.0f, r = y - n;
    float p = KVI_KV_EXP2_5;
    p = p * r + KVI_KV_EXP2_4;
    p = p * r + KVI_KV_EXP2_3;
    p = p * r + KVI_KV_EXP2_2;
    p = p * r + KVI_KV_EXP2_1;
    p = p * r + 1.0f;
    return p * kvi_f32_from_bits((uint32_t)((int32_t)n + 127) << 23);
}

#endif
