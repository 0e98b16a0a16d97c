/* attention_combine.cu - the partial results of decode attention merged by log-sum-exp, divided, rotated back, rounded. One block per row and
 * head. Eight warps share the parts; the first turns the sum into the output. Which warp adds which part is fixed, so the bits are. */
#include "attention_params.h"
#include "ptx.cuh"
#include "rotation.cuh"
#include "warp.cuh"

#define WARPS 8

/* exact: a head has D dimensions; else as many as the group says, at most D. */
template <int D, bool exact> KVI_DEV void attn_combine(const kvi_cuda_attention_params &p)
{
    KVI_SHARED(float, shared); /* (WARPS, D + 1): sums, and l */
    const uint32_t lane = threadIdx.x % 32u, warp = threadIdx.x / 32u, row = p.first_row + blockIdx.x,
                   head = blockIdx.y;
    const uint32_t d = exact ? D : p.kv.head_dim;
    if (row >= ((const kvi_cuda_step *)p.step.step)->n_rows) return;
    const uint64_t first = ((uint64_t)blockIdx.x * p.n_heads + head) * p.n_parts;
    const float2 *ml = (const float2 *)p.ml + first;
    const float *acc = (const float *)p.acc + first * d;
    float top = NEGATIVE_INFINITY;
    for (uint32_t r = 0; r < p.n_ranges; r++)
        for (uint32_t i = p.ranges[r].first + lane; i < p.ranges[r].end; i += 32u)
            if (ml[i].y != 0.0f) top = kvi_max(top, ml[i].x);
    top = warp_max(top);
    const float sink = p.sinks ? ((const float *)p.sinks)[head] * 1.4426950408889634f : NEGATIVE_INFINITY;
    top = kvi_max(top, sink);
    float sum[D / 32], total = 0.0f;
#pragma unroll
    for (int k = 0; k < D / 32; k++) sum[k] = 0.0f;
    for (uint32_t r = 0; r < p.n_ranges;
         r++) { /* a part's warp depends on its number alone, whatever formats there are */
        const uint32_t from = p.ranges[r].first;
#pragma unroll 4
        for (uint32_t i = from + (warp + WARPS - from % WARPS) % WARPS; i < p.ranges[r].end; i += WARPS) {
            const float2 part = ml[i];
            if (part.y == 0.0f) continue; /* nothing seen; NaN goes on */
            const float factor = kvi_exp2(part.x - top);
            total += factor * part.y;
#pragma unroll
            for (int k = 0; k < D / 32; k++)
                if (exact || lane + 32u * k < d) sum[k] += factor * acc[(uint64_t)i * d + lane + 32u * k];
        }
    }
    if (p.sinks && warp == 0u) total += kvi_exp2(sink - top); /* takes its part of the sum, and brings no value */
    float *mine = shared + warp * (D + 1u);
#pragma unroll
    for (int k = 0; k < D / 32; k++) mine[lane + 32u * k] = sum[k];
    if (lane == 0) mine[D] = total;
    kvi_sync_block();
    if (warp != 0) return;
    for (uint32_t w = 1; w < WARPS; w++) {
        total += shared[w * (D + 1u) + D];
#pragma unroll
        for (int k = 0; k < D / 32; k++) sum[k] += shared[w * (D + 1u) + lane + 32u * k];
    }
    total = kvi_shfl(total, 0);
    const float inv = kvi_div_rn(1.0f, total);
#pragma unroll
    for (int k = 0; k < D / 32; k++) sum[k] *= inv;
    if (p.kv.rotate) {
        if (exact) kvi_hadamard<D>(sum, lane);
        else kvi_hadamard_blocks<D / 32>(sum, lane, d & (~d + 1u));
    }
    uint16_t *out = (uint16_t *)p.out + (uint64_t)row * p.out_pitch + head * d;
#pragma unroll
    for (int k = 0; k < D / 32; k++)
        if (p.gate && (exact || lane + 32u * k < d))
            sum[k] *= kvi_gate_of(p.gate, (uint64_t)row * p.gate_pitch + head * d + lane + 32u * k, p.gate_type);
#pragma unroll
    for (int k = 0; k < D / 32; k++)
        if (exact || lane + 32u * k < d) out[lane + 32u * k] = kvi_narrow(sum[k], p.out_bf16);
}

KVI_KERNEL(attn_combine_d64, kvi_cuda_attention_params, 256, 4) { attn_combine<64, true>(p); }
KVI_KERNEL(attn_combine_d128, kvi_cuda_attention_params, 256, 4) { attn_combine<128, true>(p); }
KVI_KERNEL(attn_combine_d256, kvi_cuda_attention_params, 256, 4) { attn_combine<256, true>(p); }
KVI_KERNEL(attn_combine_any, kvi_cuda_attention_params, 256, 4) { attn_combine<KVI_KV_MAX_HEAD_DIM, false>(p); }
