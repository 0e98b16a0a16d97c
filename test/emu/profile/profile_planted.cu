/* profile_planted.cu - kernels whose memory profile is known by hand; the comment over each says it. profile_cases.cpp expects those numbers. */
#include "../selftest/selftest_params.h"
#include "../../../kernels/cuda/ptx.cuh"

/* n = 1000 of 4-byte words, 8 blocks: 32 warps, the last has 8 lanes: 32 requests, 31 * 4 + 1 = 125 sectors, 125 least; the same for stores. */
KVI_KERNEL(p_copy, selftest_params, 128, 1)
{
    const uint32_t i = blockIdx.x * 128u + threadIdx.x;
    if (i < p.n) ((uint32_t *)p.out)[i] = ((const uint32_t *)p.in)[i];
}
/* One word off: 5 sectors of each 4. */
KVI_KERNEL(p_shifted, selftest_params, 128, 1)
{
    const uint32_t i = blockIdx.x * 128u + threadIdx.x;
    ((uint32_t *)p.out)[i] = ((const uint32_t *)p.in)[i + 1u];
}
/* Words 128 bytes apart: 32 sectors for each 4. */
KVI_KERNEL(p_strided, selftest_params, 128, 1)
{
    const uint32_t i = blockIdx.x * 128u + threadIdx.x;
    ((uint32_t *)p.out)[i] = ((const uint32_t *)p.in)[i * 32u];
}
/* A 32 x 32 transpose: the column is 32 words of one bank; a row is one pass. */
KVI_KERNEL(p_conflict, selftest_params, 128, 1)
{
    KVI_SHARED(uint32_t, s);
    const uint32_t lane = threadIdx.x % 32u, w = threadIdx.x / 32u;
    for (uint32_t r = w; r < 32; r += 4) s[r * 32u + lane] = ((const uint32_t *)p.in)[r * 32u + lane];
    kvi_sync_block();
    for (uint32_t r = w; r < 32; r += 4) ((uint32_t *)p.out)[r * 32u + lane] = s[lane * 32u + r];
}
/* Padded by a word: one pass each. */
KVI_KERNEL(p_padded, selftest_params, 128, 1)
{
    KVI_SHARED(uint32_t, s);
    const uint32_t lane = threadIdx.x % 32u, w = threadIdx.x / 32u;
    for (uint32_t r = w; r < 32; r += 4) s[r * 33u + lane] = ((const uint32_t *)p.in)[r * 32u + lane];
    kvi_sync_block();
    for (uint32_t r = w; r < 32; r += 4) ((uint32_t *)p.out)[r * 32u + lane] = s[lane * 33u + r];
}
/* 16 bytes per lane, contiguous: 4 phases, 4 passes. 16 bytes of rows 64 bytes apart: 8 lanes of a phase meet in pairs of banks: 16 passes, 4 least.
 * 8 bytes contiguous: 2 passes; 8 bytes at a stride of 16: 4 passes, 2 least. */
KVI_KERNEL(p_wide, selftest_params, 128, 1)
{
    KVI_SHARED(unsigned char, s);
    const uint32_t lane = threadIdx.x % 32u;
    uint4 zero = make_uint4(lane, 0, 0, 0);
    *(uint4 *)(s + 16u * lane) = zero;
    kvi_sync_block();
    *(uint4 *)(s + 64u * lane) = zero;
    kvi_sync_block();
    *(uint2 *)(s + 8u * lane) = make_uint2(lane, 0);
    kvi_sync_block();
    *(uint2 *)(s + 16u * lane) = make_uint2(lane, 0);
    kvi_sync_block();
    ((uint4 *)p.out)[threadIdx.x] = *(const uint4 *)(s + 16u * lane);
}
/* ldmatrix of rows 32 bytes apart: eight rows over 256 bytes, two passes each: 8, 4 least; then cp.async and a wait, which charges nothing more. */
KVI_KERNEL(p_matrix, selftest_params, 32, 1)
{
    KVI_SHARED(unsigned char, s);
    const uint32_t lane = threadIdx.x;
    uint32_t r[4];
    kvi_cp_async16(s + 32u * lane, (const unsigned char *)p.in + 16u * lane);
    kvi_cp_async16_zfill(s + 32u * lane + 16u, (const unsigned char *)p.in, 0);
    kvi_cp_commit();
    kvi_cp_wait<0>();
    kvi_sync_warp();
    kvi_ldmatrix_x4(r, s + 32u * lane);
    ((uint32_t *)p.out)[lane] = r[0] ^ r[1] ^ r[2] ^ r[3];
}
/* What grouping by count gets wrong: lanes skip turns of a loop by turns. A card makes 64 requests of 16 lanes, 4 sectors each; here the k-th visit
 * of every lane is one request: 32 of 32 lanes, 8 sectors each. Sectors agree, requests do not. */
KVI_KERNEL(p_skips, selftest_params, 32, 1)
{
    uint32_t sum = 0;
    for (uint32_t k = 0; k < 64; k++) {
        if ((threadIdx.x + k) % 2u) continue;
        sum += ((const uint32_t *)p.in)[k * 32u + threadIdx.x];
    }
    ((uint32_t *)p.out)[threadIdx.x] = sum;
}
/* 16 neighbouring words of a lane, rows of 512 bytes for four lanes: written one by one 16 lanes meet in a bank; nvcc stores 16 bytes at once: 4 stores of 16
 * passes (4 least), so 64 and not 256. */
KVI_KERNEL(p_fused, selftest_params, 32, 1)
{
    KVI_SHARED(uint32_t, s);
    const uint32_t g = threadIdx.x / 4u, t = threadIdx.x % 4u;
#pragma unroll
    for (uint32_t i = 0; i < 16; i++) s[t * 128u + 16u * g + i] = i;
    kvi_sync_block();
    ((uint32_t *)p.out)[threadIdx.x] = s[threadIdx.x];
}
