/* rotation.cuh - what the kernels on whole heads share: a head held by one warp (element e in register e / 32 of lane e % 32), its Hadamard
 * rotation in registers and shuffles, and rounding to 16 bits. */
#ifndef KVI_ROTATION_CUH
#define KVI_ROTATION_CUH
#include "attention_params.h"
#include "ptx.cuh"

/* h = h H, orthonormal, D a power of two; its own inverse. */
template <int D> KVI_DEV void kvi_hadamard(float (&h)[D / 32], uint32_t lane)
{
#pragma unroll
    for (uint32_t bit = 1; bit < 32; bit *= 2)
#pragma unroll
        for (int i = 0; i < D / 32; i++) {
            const float other = kvi_shfl_xor(h[i], bit);
            h[i] = lane & bit ? other - h[i] : h[i] + other;
        }
#pragma unroll
    for (int apart = 1; apart < D / 32; apart *= 2)
#pragma unroll
        for (int i = 0; i < D / 32; i++)
            if (!(i & apart)) {
                const float a = h[i], b = h[i + apart];
                h[i] = a + b;
                h[i + apart] = a - b;
            }
    const float scale = D == 64 ? 0.125f : D == 128 ? 0.08838834764831845f : 0.0625f; /* 1 / sqrt(D) */
#pragma unroll
    for (int i = 0; i < D / 32; i++) h[i] *= scale;
}

/* The same of a head of up to 32 N elements, in blocks of `block`, a power of two that divides their number. */
template <int N> KVI_DEV void kvi_hadamard_blocks(float (&h)[N], uint32_t lane, uint32_t block)
{
#pragma unroll
    for (uint32_t bit = 1; bit < 32; bit *= 2)
        if (bit < block)
#pragma unroll
            for (int i = 0; i < N; i++) {
                const float other = kvi_shfl_xor(h[i], bit);
                h[i] = lane & bit ? other - h[i] : h[i] + other;
            }
#pragma unroll
    for (uint32_t apart = 1; apart < N; apart *= 2)
        if (32u * apart < block)
#pragma unroll
            for (int i = 0; i < N; i++)
                if (!(i & apart)) {
                    const float a = h[i], b = h[i + apart];
                    h[i] = a + b;
                    h[i + apart] = a - b;
                }
    const float scale = kvi_div_rn(1.0f, kvi_sqrt_rn((float)block));
#pragma unroll
    for (int i = 0; i < N; i++) h[i] *= scale;
}

/* To BF16 or F16 bits; finite values stay finite in F16, NaN stays NaN. */
KVI_DEV uint16_t kvi_narrow(float x, uint32_t bf16)
{
    if (bf16) return (uint16_t)kvi_pack_bf16(x, 0.0f);
    return (uint16_t)kvi_pack_f16(x > KVI_F16_MAX ? KVI_F16_MAX : x < -KVI_F16_MAX ? -KVI_F16_MAX : x, 0.0f);
}

/* What element i of a gate lets through: the logistic function. `type` as kvi_dtype. */
KVI_DEV float kvi_gate_of(kvi_dptr gate, uint64_t i, uint32_t type)
{
    const uint32_t raw = type ? ((const uint16_t *)gate)[i] : 0u;
    const float v = type == 0u ? ((const float *)gate)[i] : type == 1u ? kvi_f16_lo(raw) : kvi_bf16_lo(raw);
    return kvi_div_rn(1.0f, 1.0f + kvi_exp2(v * -1.4426950408889634f));
}

/* cap * tanh(s / cap) of a score in powers of two. */
KVI_DEV float kvi_capped_score(float s, float cap, float cap_inv)
{
    return cap - kvi_div_rn(2.0f * cap, 1.0f + kvi_exp2(s * cap_inv * 2.8853900817779268f));
}

#endif
