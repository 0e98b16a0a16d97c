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

/* To BF16 or F16 bits; finite values stay finite in F16, NaN stays NaN. */
KVI_DEV uint16_t kvi_narrow(float x, uint32_t bf16)
{
    if (bf16) return (uint16_t)kvi_pack_bf16(x, 0.0f);
    return (uint16_t)kvi_pack_f16(x > KVI_F16_MAX ? KVI_F16_MAX : x < -KVI_F16_MAX ? -KVI_F16_MAX : x, 0.0f);
}

#endif
