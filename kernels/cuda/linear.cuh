/* linear.cuh - what gemv and gemm share: which weight an output belongs to, its bias, and how a value leaves. */
#ifndef KVI_CUDA_LINEAR_CUH
#define KVI_CUDA_LINEAR_CUH
#include "weights.cuh"

KVI_DEV uint32_t kvi_weight_of(const kvi_cuda_linear_params &p, uint32_t o)
{
    return (o >= p.end[0]) + (o >= p.end[1]);
}
/* Row of that weight. */
KVI_DEV uint32_t kvi_local_of(const kvi_cuda_linear_params &p, uint32_t o)
{
    const uint32_t j = kvi_weight_of(p, o);
    return j == 0u ? o + p.first_out : j == 1u ? o - p.end[0] : o - p.end[1];
}
template <class weight> KVI_DEV kvi_weight_row kvi_row_at(const kvi_cuda_linear_params &p, uint32_t o)
{
    const uint32_t j = kvi_weight_of(p, o);
    return weight::row(j == 0u ? p.w[0] : j == 1u ? p.w[1] : p.w[2], kvi_local_of(p, o));
}
KVI_DEV float kvi_bias_of(const kvi_cuda_linear_params &p, uint32_t o)
{
    const uint32_t j = kvi_weight_of(p, o);
    const kvi_dptr bias = j == 0u ? p.bias[0] : j == 1u ? p.bias[1] : p.bias[2];
    return bias ? ((const float *)bias)[kvi_local_of(p, o)] : 0.0f;
}

KVI_DEV float kvi_silu(float v) { return kvi_div_rn(v, 1.0f + kvi_exp2(v * -1.4426950408889634f)); }
KVI_DEV float kvi_saturated(float v) { return kvi_max(-KVI_CUDA_F16_MAX, kvi_min(KVI_CUDA_F16_MAX, v)); }

#endif
