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
template <class weight> KVI_DEV kvi_weight_row kvi_row_at(const kvi_cuda_linear_params &p, uint32_t o, uint32_t expert)
{
    const uint32_t j = kvi_weight_of(p, o);
    kvi_weight_row row = weight::row(j == 0u ? p.w[0] : j == 1u ? p.w[1] : p.w[2], kvi_local_of(p, o));
    row.codes += expert * p.mixture.stride;
    return row;
}
/* Biases of experts stand one behind the other; those of gate and up have the same length. */
KVI_DEV float kvi_bias_of(const kvi_cuda_linear_params &p, uint32_t o, uint32_t expert)
{
    const uint32_t j = kvi_weight_of(p, o);
    const kvi_dptr bias = j == 0u ? p.bias[0] : j == 1u ? p.bias[1] : p.bias[2];
    return bias ? ((const float *)bias)[expert * p.end[0] + kvi_local_of(p, o)] : 0.0f;
}

/* The rows that a block computes: neighbours, or pairs of one expert. */
struct kvi_block_rows {
    uint32_t n, expert, first;
    const uint32_t *pairs; /* nullptr: rows first .. of the step */

    KVI_DEV uint32_t of_y(uint32_t i) const { return pairs ? pairs[i] : first + i; }
    KVI_DEV uint32_t of_x(const kvi_cuda_linear_params &p, uint32_t i) const
    {
        return pairs ? pairs[i] / p.mixture.sharing : first + i;
    }
};
/* Those of block number `block`, of `most` rows; n is 0 where there are none, and may be more than `most` of neighbours. */
KVI_DEV kvi_block_rows kvi_block_rows_of(const kvi_cuda_linear_params &p, uint32_t block, uint32_t most)
{
    if (p.mixture.list) {
        const unsigned char *list = (const unsigned char *)p.mixture.list;
        const kvi_cuda_tile_pairs *tiles = (const kvi_cuda_tile_pairs *)(list + KVI_CUDA_LIST_HEAD);
        if (block >= *(const uint32_t *)list) return kvi_block_rows{0u, 0u, 0u, nullptr};
        const uint32_t *pairs = (const uint32_t *)(tiles + p.mixture.max_tiles);
        return kvi_block_rows{tiles[block].n, tiles[block].expert, 0u, pairs + tiles[block].first};
    }
    const kvi_cuda_step *step = (const kvi_cuda_step *)p.step.step;
    const uint32_t n_rows = p.logits ? step->n_logit_rows : step->n_rows, first = block * most;
    return kvi_block_rows{first < n_rows ? n_rows - first : 0u, 0u, first, nullptr};
}

/* Sums of a gemm leave through shared memory, 16 rows of every warp at a time, so that what is done with an output stands once in the code: unrolled
 * with the registers that hold sums it took ptxas minutes. sums: (warps_m * 16, pitch), where a pitch of the outputs and 8 keeps a warp's stores of
 * pairs out of each other's banks. */
template <int m_tiles, int n_tiles>
KVI_DEV void kvi_leave_sums(const float (&sum)[m_tiles][n_tiles][4], uint32_t pass, uint32_t warp_m, uint32_t warp_n,
                            uint32_t lane, uint32_t pitch, float *sums)
{
    kvi_sync_block(); /* stages, or sums of the pass before, have been read */
#pragma unroll
    for (uint32_t i = 0; i < m_tiles; i++)
        if (i == pass)
#pragma unroll
            for (int j = 0; j < n_tiles; j++)
#pragma unroll
                for (uint32_t half = 0; half < 2; half++) /* rows g and g + 8 of the fragment */
                    *(float2 *)(sums + (warp_m * 16u + half * 8u + lane / 4u) * pitch + (warp_n * n_tiles + j) * 8u +
                                lane % 4u * 2u) = make_float2(sum[i][j][2u * half], sum[i][j][2u * half + 1u]);
    kvi_sync_block();
}

#define LOG2_E 1.4426950408889634f
KVI_DEV float kvi_exp(float v) { return kvi_exp2(v * LOG2_E); }
KVI_DEV float kvi_sigmoid(float v) { return kvi_div_rn(1.0f, 1.0f + kvi_exp(-v)); }
KVI_DEV float kvi_tanh(float v) { return 1.0f - kvi_div_rn(2.0f, 1.0f + kvi_exp(2.0f * v)); }
KVI_DEV float kvi_silu(float v) { return kvi_div_rn(v, 1.0f + kvi_exp(-v)); }

/* How gate and up meet (program.h, kvi_activation). */
KVI_DEV float kvi_gated(const kvi_cuda_linear_params &p, float gate, float up)
{
    if (p.activation == KVI_CUDA_SILU) return kvi_silu(gate) * up;
    if (p.activation == KVI_CUDA_GELU) return 0.5f * gate * (1.0f + kvi_erf(gate * 0.7071067811865476f)) * up;
    if (p.activation == KVI_CUDA_GELU_TANH) {
        const float u = 0.7978845608028654f * kvi_fma(0.044715f * gate * gate, gate, gate);
        return 0.5f * gate * (1.0f + kvi_tanh(u)) * up;
    }
    const float g = kvi_min(gate, p.limit), u = kvi_max(-p.limit, kvi_min(up, p.limit));
    return (u + 1.0f) * g * kvi_sigmoid(1.702f * g);
}
/* A sum on its way to y: the gate of another product, scale, and the softcap of the head. */
KVI_DEV float kvi_finished(const kvi_cuda_linear_params &p, uint32_t row, uint32_t o, float v)
{
    if (p.action == KVI_CUDA_GATED_SIDE) {
        const uint64_t at = (uint64_t)row * p.side_pitch + p.side_first + o;
        const uint32_t half = p.side_type == KVI_CUDA_F32 ? 0u : ((const uint16_t *)p.side)[at];
        const float other = p.side_type == KVI_CUDA_F32   ? ((const float *)p.side)[at]
                            : p.side_type == KVI_CUDA_F16 ? kvi_f16_lo(half)
                                                          : kvi_bf16_lo(half);
        return p.side_is_gate ? kvi_gated(p, other, v) : kvi_gated(p, v, other);
    }
    v *= p.scale;
    return p.softcap > 0.0f ? p.softcap * kvi_tanh(kvi_div_rn(v, p.softcap)) : v;
}

KVI_DEV float kvi_saturated(float v) { return kvi_max(-KVI_CUDA_F16_MAX, kvi_min(KVI_CUDA_F16_MAX, v)); }

KVI_DEV uint16_t kvi_narrow_to(float v, uint32_t type)
{
    return (uint16_t)(type == KVI_CUDA_BF16 ? kvi_pack_bf16(v, 0.0f) : kvi_pack_f16(kvi_saturated(v), 0.0f));
}
KVI_DEV void kvi_put_value(kvi_dptr y, uint32_t type, uint64_t i, float v)
{
    if (type == KVI_CUDA_F32) ((float *)y)[i] = v;
    else ((uint16_t *)y)[i] = kvi_narrow_to(v, type);
}

/* Output o of a row. */
KVI_DEV void kvi_put(const kvi_cuda_linear_params &p, uint32_t row, uint32_t o, float v)
{
    const uint64_t at = (uint64_t)row * p.y_pitch + p.y_first + o;
    v = kvi_finished(p, row, o, v);
    if (p.y_type == KVI_CUDA_F32) {
        float *y = (float *)p.y + at;
        *y = p.action == KVI_CUDA_ADD ? *y + v : v;
    } else ((uint16_t *)p.y)[at] = kvi_narrow_to(v, p.y_type);
}
/* Outputs o and o + 1 of a row; the second may lie outside of n_out. */
KVI_DEV void kvi_put_pair(const kvi_cuda_linear_params &p, uint32_t row, uint32_t o, uint32_t n_out, float v, float w)
{
    const uint64_t at = (uint64_t)row * p.y_pitch + p.y_first + o;
    const bool both = o + 1u < n_out;
    v = kvi_finished(p, row, o, v);
    if (both) w = kvi_finished(p, row, o + 1u, w);
    if (p.y_type == KVI_CUDA_F32) {
        float *y = (float *)p.y + at;
        const bool add = p.action == KVI_CUDA_ADD;
        y[0] = add ? y[0] + v : v;
        if (both) y[1] = add ? y[1] + w : w;
        return;
    }
    const uint32_t pair =
        p.y_type == KVI_CUDA_BF16 ? kvi_pack_bf16(v, w) : kvi_pack_f16(kvi_saturated(v), kvi_saturated(w));
    uint16_t *y = (uint16_t *)p.y + at;
    if (both && at % 2u == 0u) *(uint32_t *)y = pair;
    else {
        y[0] = (uint16_t)pair;
        if (both) y[1] = (uint16_t)(pair >> 16);
    }
}

#endif
