/* half.h - 16-bit and 8-bit float conversions, exact, round to nearest even; the same bits on every compiler, CPU and device.
 * No tables, no state. Part of the codec's bit-identity promise, hence integer arithmetic only. */
#ifndef KVI_KV_HALF_H
#define KVI_KV_HALF_H
#include "layout.h"

KVI_HD static inline uint32_t kvi_f32_bits(float value)
{
    union {
        float f;
        uint32_t u;
    } pun;
    pun.f = value;
    return pun.u;
}
KVI_HD static inline float kvi_f32_from_bits(uint32_t bits)
{
    union {
        float f;
        uint32_t u;
    } pun;
    pun.u = bits;
    return pun.f;
}

KVI_HD static inline float kvi_bf16_to_f32(uint16_t h) { return kvi_f32_from_bits((uint32_t)h << 16); }
KVI_HD static inline uint16_t kvi_f32_to_bf16(float value)
{
    uint32_t u = kvi_f32_bits(value);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u); /* NaN stays NaN */
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

KVI_HD static inline float kvi_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, mantissa = h & 0x3ffu;
    if (exponent == 31u) return kvi_f32_from_bits(sign | 0x7f800000u | (mantissa << 13));
    if (exponent) return kvi_f32_from_bits(sign | ((exponent + 112u) << 23) | (mantissa << 13));
    if (!mantissa) return kvi_f32_from_bits(sign);
    uint32_t shift = 0;
    while (!(mantissa & 0x400u)) mantissa <<= 1, shift++;
    return kvi_f32_from_bits(sign | ((113u - shift) << 23) | ((mantissa & 0x3ffu) << 13));
}
KVI_HD static inline uint16_t kvi_f32_to_f16(float value)
{
    uint32_t u = kvi_f32_bits(value), sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and above round to infinity */
    if (a < 0x33000001u) return (uint16_t)sign;              /* at most half of the smallest subnormal */
    if (a < 0x38800000u) {                                   /* subnormal: shift the mantissa into place and round */
        uint32_t shift = 126u - (a >> 23), mantissa = (a & 0x7fffffu) | 0x800000u;
        uint32_t kept = mantissa >> shift, rest = mantissa & ((1u << shift) - 1u), half = 1u << (shift - 1u);
        return (uint16_t)(sign | (kept + (rest > half || (rest == half && (kept & 1u)))));
    }
    uint32_t rounded = a + 0xfffu + ((a >> 13) & 1u);
    return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13));
}

#endif
