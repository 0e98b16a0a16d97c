/* rope_append.cu - QK norm, RoPE, rotation, append of K and V to their page.
 * One warp per row and head of q | k | v. The head passes through shared memory once, for the pairs of RoPE, halves or neighbours, whatever
 * n_dims is; norm and Hadamard stay in registers and shuffles: element e of a head is register e / 32 of lane e % 32.
 * Angles: position times turns in double, the whole turns removed in double, then f32: three double operations per pair, which even cards
 * with 1/64 double rate do not notice, and 131,072 positions are as exact as one. */
#include "attention_params.h"
#include "ptx.cuh"
#include "rotation.cuh"
#include "turns.cuh"
#include "warp.cuh"

#define WARPS 4

/* The rows of queries that the page of this position keeps, where the head is theirs: directions, as whole numbers (encode.h). */
template <int N>
KVI_DEV void keep_queries(const kvi_cuda_rope_params &p, const float (&h)[N], uint32_t d, uint32_t head, uint32_t pos,
                          uint8_t *page, uint32_t lane)
{
    const uint32_t per_kv = p.n_heads / p.kv.n_kv_heads, kv_head = head / per_kv, at = pos & (KVI_KV_PAGE - 1u);
    int8_t *rows = (int8_t *)page + p.queries_off + (uint64_t)kv_head * p.n_queries * d;
    float top = 0.0f;
#pragma unroll
    for (int i = 0; i < N; i++) {
        const float size = h[i] < 0.0f ? -h[i] : h[i];
        if (size > top) top = size;
    }
    top = warp_max(top);
    const float inverse = top > 1e-30f ? kvi_div_rn(127.0f, top) : 0.0f;
    for (uint32_t r = at * p.n_queries / KVI_KV_PAGE; r < (at + 1u) * p.n_queries / KVI_KV_PAGE; r++) {
        if (r % per_kv != head % per_kv) continue;
#pragma unroll
        for (int i = 0; i < N; i++) {
            const float x = h[i] * inverse;
            if (lane + 32u * i < d)
                rows[(uint64_t)r * d + lane + 32u * i] = (int8_t)kvi_round_to_int(x == x ? x : 0.0f);
        }
    }
}

/* exact: a head has D dimensions; else as many as the group says, at most D. */
template <int D, bool exact> KVI_DEV void rope_append(const kvi_cuda_rope_params &p)
{
    KVI_SHARED(float, shared);
    const uint32_t lane = threadIdx.x % 32u, warp = threadIdx.x / 32u, row = blockIdx.x,
                   head = blockIdx.y * WARPS + warp;
    const uint32_t d = exact ? D : p.kv.head_dim;
    const kvi_cuda_step *step = (const kvi_cuda_step *)p.step.step;
    const uint32_t n_kv = p.kv.n_kv_heads, n_all = p.queries_only ? p.n_heads : p.n_heads + 2u * n_kv;
    if (row >= step->n_rows || head >= n_all) return; /* whole warps, and there is no block barrier */
    const bool is_q = head < p.n_heads, is_v = head >= p.n_heads + n_kv;
    const uint32_t s = ((const uint32_t *)p.step.row_seq)[row];
    const kvi_cuda_seq seq = ((const kvi_cuda_seq *)p.step.seqs)[s];
    const uint32_t pos = seq.pos + row - seq.first_row;
    uint16_t *io = (uint16_t *)p.qkv + (uint64_t)row * p.pitch + head * d;
    const uint16_t *from = is_v && p.keys_as_values ? io - n_kv * d : io; /* k is normalized on its way, not in io */
    float h[D / 32], *staged = shared + warp * D;
#pragma unroll
    for (int i = 0; i < D / 32; i++) {
        const uint32_t raw = exact || lane + 32u * i < d ? from[lane + 32u * i] : 0u;
        h[i] = p.bf16 ? kvi_bf16_lo(raw) : kvi_f16_lo(raw);
    }
    const float *gain = (const float *)(is_v ? p.v_gain : is_q ? p.q_gain : p.k_gain);
    if (is_v ? p.v_norm : is_q ? p.q_norm : p.k_norm) {
        float squares = 0.0f;
#pragma unroll
        for (int i = 0; i < D / 32; i++) squares += h[i] * h[i];
        const float inv = kvi_div_rn(
            1.0f,
            kvi_sqrt_rn((exact ? warp_sum(squares) * (1.0f / D) : kvi_div_rn(warp_sum(squares), (float)d)) + p.eps));
#pragma unroll
        for (int i = 0; i < D / 32; i++)
            if (exact || lane + 32u * i < d) h[i] = h[i] * inv * (gain ? gain[lane + 32u * i] : 1.0f);
    }
    if (p.turns && !is_v) {
#pragma unroll
        for (int i = 0; i < D / 32; i++) staged[lane + 32u * i] = h[i];
        kvi_sync_warp();
        turn_row(staged, (const double *)p.turns, p.n_dims, p.next, p.apart, pos + seq.ahead, p.magnitude, lane);
        kvi_sync_warp();
#pragma unroll
        for (int i = 0; i < D / 32; i++) h[i] = staged[lane + 32u * i];
    }
    if (is_q && p.q_growth != 0.0f) {
        const float grown = kvi_fma(p.q_growth, kvi_log(1.0f + (float)(pos / p.q_growth_ctx)), 1.0f);
#pragma unroll
        for (int i = 0; i < D / 32; i++) h[i] *= grown;
    }
    if (p.kv.rotate) {
        if (exact) kvi_hadamard<D>(h, lane);
        else kvi_hadamard_blocks<D / 32>(h, lane, d & (~d + 1u));
    }
    if (is_q) {
#pragma unroll
        for (int i = 0; i < D / 32; i++)
            if (exact || lane + 32u * i < d) io[lane + 32u * i] = kvi_narrow(h[i], p.bf16);
        if (!p.n_queries || p.queries_only) return;
    }
    const kvi_page_ref page =
        ((const kvi_page_ref *)p.step
             .pages)[((uint64_t)s * p.step.n_groups + p.kv.group) * p.step.max_pages + (pos >> KVI_KV_PAGE_SHIFT)];
    uint8_t *start = (uint8_t *)(p.kv.pool + (uint64_t)page.unit * KVI_KV_UNIT);
    if (is_q) {
        keep_queries<D / 32>(p, h, d, head, pos, start, lane);
        return;
    }
    const uint32_t kv_head = (head - p.n_heads) % n_kv;
    uint16_t *record = (uint16_t *)(start + (uint64_t)(p.kv.layer * n_kv + kv_head) * (4u * KVI_KV_PAGE * d));
    record += ((is_v ? KVI_KV_PAGE : 0u) + (pos & (KVI_KV_PAGE - 1u))) * d;
#pragma unroll
    for (int i = 0; i < D / 32; i++)
        if (exact || lane + 32u * i < d) record[lane + 32u * i] = kvi_narrow(h[i], p.plain_bf16);
}

KVI_KERNEL(rope_append_d64, kvi_cuda_rope_params, 128, 8) { rope_append<64, true>(p); }
KVI_KERNEL(rope_append_d128, kvi_cuda_rope_params, 128, 8) { rope_append<128, true>(p); }
KVI_KERNEL(rope_append_d256, kvi_cuda_rope_params, 128, 8) { rope_append<256, true>(p); }
KVI_KERNEL(rope_append_any, kvi_cuda_rope_params, 128, 8) { rope_append<KVI_KV_MAX_HEAD_DIM, false>(p); }

/* Norms that are over all heads of q, and of k, before any of them is turned: a block per row and part. What it leaves is rounded to 16 bits
 * once more. */
KVI_KERNEL(norm_heads, kvi_cuda_norm_heads_params, 256, 4)
{
    KVI_SHARED(float, part); /* (8) */
    const uint32_t row = blockIdx.x, is_k = blockIdx.y, n = is_k ? p.n_k : p.n_q;
    if (row >= ((const kvi_cuda_step *)p.step.step)->n_rows || !(is_k ? p.k_norm : p.q_norm))
        return; /* the whole block */
    uint16_t *x = (uint16_t *)p.io + (uint64_t)row * p.pitch + (is_k ? p.n_q : 0u);
    const float *gain = (const float *)(is_k ? p.k_gain : p.q_gain);
    float squares = 0.0f;
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
        const float v = p.bf16 ? kvi_bf16_lo(x[i]) : kvi_f16_lo(x[i]);
        squares = kvi_fma(v, v, squares);
    }
    squares = warp_sum(squares);
    if (threadIdx.x % 32u == 0u) part[threadIdx.x / 32u] = squares;
    kvi_sync_block();
    squares = 0.0f;
    for (uint32_t i = 0; i < blockDim.x / 32u; i++) squares += part[i];
    const float inv = kvi_div_rn(1.0f, kvi_sqrt_rn(squares / (float)n + (is_k ? p.k_eps : p.q_eps)));
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
        const float v = p.bf16 ? kvi_bf16_lo(x[i]) : kvi_f16_lo(x[i]);
        x[i] = kvi_narrow(v * inv * (gain ? gain[i] : 1.0f), p.bf16);
    }
}
