/* selftest_good.cu - correct kernels: the emulator must say nothing of them, in any order of threads, and their results are checked
 * against plain loops. */
#include "selftest_params.h"
#include "../../../kernels/cuda/ptx.cuh"

KVI_DEV float warp_sum(float v)
{
    for (uint32_t m = 16; m; m /= 2) v += kvi_shfl_xor(v, m);
    return v;
}

/* out[b] = sum of n floats of row b; 8 warps. */
KVI_KERNEL(good_sum, selftest_params, 256, 2)
{
    KVI_SHARED(float, part);
    const float *row = (const float *)p.in + (uint64_t)blockIdx.x * p.n;
    float sum = 0.0f;
    for (uint32_t i = threadIdx.x; i < p.n; i += blockDim.x) sum += row[i];
    sum = warp_sum(sum);
    if (threadIdx.x % 32u == 0) part[threadIdx.x / 32u] = sum;
    kvi_sync_block();
    if (threadIdx.x == 0) {
        sum = 0.0f;
        for (uint32_t w = 0; w < blockDim.x / 32u; w++) sum += part[w];
        ((float *)p.out)[blockIdx.x] = sum;
    }
}

/* Neighbours exchange through shared memory within a warp. out[i] = in[i ^ 1] + in[i ^ 31] */
KVI_KERNEL(good_exchange, selftest_params, 64, 1)
{
    KVI_SHARED(uint32_t, s);
    const uint32_t i = threadIdx.x, base = i & ~31u;
    s[i] = ((const uint32_t *)p.in)[i];
    kvi_sync_warp();
    const uint32_t sum = s[i ^ 1u] + s[base + (31u - (i & 31u))];
    kvi_sync_warp();
    s[i] = sum;
    kvi_sync_warp();
    ((uint32_t *)p.out)[i] = s[i];
}

/* C (16, n) = A (16, extra) B (n, extra)^T, f16 or bf16, one warp per 8 columns, two stages of cp.async. blockIdx.y: 1 is bf16. */
template <bool bf16> KVI_DEV void product(const selftest_params &p)
{
    KVI_SHARED(uint16_t, s); /* 2 x (16 rows of A + 8 rows of B) of 24 values, 16 used */
    const uint32_t lane = threadIdx.x, k = p.extra, column = blockIdx.x * 8u;
    const uint16_t *a = (const uint16_t *)p.in, *b = (const uint16_t *)p.in2;
    float c[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    const auto fetch = [&](uint32_t step) {
        uint16_t *to = s + (step & 1u) * 24u * 24u;
        kvi_cp_async16(to + (lane / 2u) * 24u + (lane & 1u) * 8u, a + (lane / 2u) * k + step * 16u + (lane & 1u) * 8u);
        if (lane < 16u)
            kvi_cp_async16(to + (16u + lane / 2u) * 24u + (lane & 1u) * 8u,
                           b + (column + lane / 2u) * k + step * 16u + (lane & 1u) * 8u);
        kvi_cp_commit();
    };
    fetch(0);
    for (uint32_t step = 0; step < k / 16u; step++) {
        if (step + 1u < k / 16u) {
            fetch(step + 1u);
            kvi_cp_wait<1>();
        } else {
            kvi_cp_wait<0>();
        }
        kvi_sync_warp();
        const uint16_t *from = s + (step & 1u) * 24u * 24u;
        uint32_t fa[4], fb[2];
        kvi_ldmatrix_x4(fa, from + (lane % 16u) * 24u + (lane / 16u) * 8u);
        kvi_ldmatrix_x2(fb, from + (16u + lane % 8u) * 24u + (lane / 8u & 1u) * 8u);
        if (bf16) kvi_mma_bf16(c, fa, fb);
        else kvi_mma_f16(c, fa, fb);
        kvi_sync_warp();
    }
    float *out = (float *)p.out;
    for (uint32_t i = 0; i < 4u; i++) out[(lane / 4u + i / 2u * 8u) * p.n + column + lane % 4u * 2u + (i & 1u)] = c[i];
}
KVI_KERNEL(good_product_f16, selftest_params, 32, 1) { product<false>(p); }
KVI_KERNEL(good_product_bf16, selftest_params, 32, 1) { product<true>(p); }

/* in: an 8x8 matrix of 16-bit values. out: it transposed by ldmatrix.trans, then by transpose8x8, as matrices. */
KVI_KERNEL(good_transposes, selftest_params, 32, 1)
{
    KVI_SHARED(uint16_t, s); /* (32 rows, 8): four copies */
    const uint32_t lane = threadIdx.x;
    for (uint32_t i = 0; i < 8u; i++) s[lane * 8u + i] = ((const uint16_t *)p.in)[lane % 8u * 8u + i];
    kvi_sync_warp();
    uint32_t r[4], straight[4];
    kvi_ldmatrix_x4_trans(r, s + lane * 8u);
    kvi_ldmatrix_x4(straight, s + lane * 8u);
    const uint32_t turned = kvi_transpose8x8(straight[lane % 4u]);
    uint32_t *out = (uint32_t *)p.out; /* (2, 8, 4) pairs */
    out[lane] = r[lane % 4u];
    out[32u + lane] = turned;
}

/* Every thread of a 3-d grid of 3-d blocks of 90 threads adds 1 to its own cell; blocks of z = 1 leave at once. No barrier: no switch. */
KVI_KERNEL(good_cells, selftest_params, 96, 1)
{
    if (blockIdx.z == 1u) return;
    const uint32_t threads = blockDim.x * blockDim.y * blockDim.z;
    const uint32_t block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const uint32_t thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    ((uint32_t *)p.out)[block * threads + thread] += 1u;
}

/* The last block to finish adds what all of them left: in (blocks) of n each, in2 a zeroed counter, out (gridDim.x + 1). */
KVI_KERNEL(good_last_block, selftest_params, 64, 1)
{
    KVI_SHARED(uint32_t, is_last);
    float *out = (float *)p.out;
    if (threadIdx.x == 0) {
        float sum = 0.0f;
        for (uint32_t i = 0; i < p.n; i++) sum += ((const float *)p.in)[blockIdx.x * p.n + i];
        out[blockIdx.x] = sum;
        kvi_fence();
        *is_last = kvi_atomic_inc((uint32_t *)p.in2) == gridDim.x - 1u;
        kvi_fence();
    }
    kvi_sync_block();
    if (*is_last && threadIdx.x == 33u) {
        float all = 0.0f;
        for (uint32_t b = 0; b < gridDim.x; b++) all += out[b];
        out[gridDim.x] = all;
    }
}

/* Rows of 16 bytes, the last one cut after `extra` bytes, zeros behind; 40 threads: the second warp is not whole, barriers still are. */
KVI_KERNEL(good_zfill, selftest_params, 40, 1)
{
    KVI_SHARED(uint4, s);
    const uint32_t i = threadIdx.x;
    kvi_cp_async16_zfill(&s[i], (const uint4 *)p.in + i, i < p.n ? 16u : i == p.n ? p.extra : 0u);
    kvi_cp_commit();
    kvi_cp_wait<0>();
    kvi_sync_block();
    ((uint4 *)p.out)[i] = s[39u - i];
}

/* Single instructions, one result each; see selftest.cpp. */
KVI_KERNEL(good_bits, selftest_params, 32, 1)
{
    uint32_t *out = (uint32_t *)p.out;
    const uint32_t a = ((const uint32_t *)p.in)[0], b = ((const uint32_t *)p.in)[1];
    uint32_t swapped = kvi_shfl(threadIdx.x * 3u, 31u - threadIdx.x);
    if (kvi_ballot(threadIdx.x % 3u == 1u) != 0x92492492u || kvi_anew(swapped) != swapped) swapped = ~0u;
    if (threadIdx.x != 0) {
        out[threadIdx.x] = swapped;
        return;
    }
    out[0] = swapped;
    out[32] = kvi_prmt(a, b, 0x7150u);
    out[33] = kvi_lop3<(0xf0 & 0xcc) | 0xaa>(a, b, 0x01010101u);
    out[34] = kvi_pack_f16(1.0f, 65519.0f);
    out[35] = kvi_pack_bf16(1.00390625f, -3.0f);
    out[36] = kvi_fma_f16x2(0x3c013c00u, 0x3c013c00u, 0x10000001u); /* (1 + 2^-10)^2 + 2^-11, 1 + 2^-24 */
    out[37] = kvi_sub_f16x2(0x64056400u, 0x64006400u);
    out[38] = kvi_mul_f16x2(0x40003c00u, 0x42004500u);
    out[39] = (uint32_t)kvi_round_to_int(2.5f) | (uint32_t)kvi_round_to_int(-3.5f) << 16;
    out[40] = kvi_f32_to_bits(kvi_exp2(-3.0f));
}

/* out[i] = in[i] * n + extra: for graphs. */
KVI_KERNEL(good_scale_add, selftest_params, 128, 1)
{
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    ((uint32_t *)p.out)[i] = ((const uint32_t *)p.in)[i] * p.n + p.extra;
}
