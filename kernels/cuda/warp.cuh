/* warp.cuh - sums and maxima over the lanes of a warp; every lane gets the result, and every lane must call. */
#ifndef KVI_WARP_CUH
#define KVI_WARP_CUH
#include "ptx.cuh"

#define NEGATIVE_INFINITY kvi_bits_f32(0xff800000u)

KVI_DEV float warp_sum(float v)
{
#pragma unroll
    for (uint32_t mask = 16; mask; mask /= 2) v += kvi_shfl_xor(v, mask);
    return v;
}
KVI_DEV float warp_max(float v)
{
#pragma unroll
    for (uint32_t mask = 16; mask; mask /= 2) v = kvi_max(v, kvi_shfl_xor(v, mask));
    return v;
}

#endif
