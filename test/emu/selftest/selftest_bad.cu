/* selftest_bad.cu - kernels with planted bugs, one each; selftest.cpp says by what means each must be found. */
#include "selftest_params.h"
#include "../../../kernels/cuda/ptx.cuh"

/* ------------------------------------------------------------------------------------------------ missing order --- */
/* Reads before the other warp has written. out[i] = in[n - 1 - i] */
KVI_KERNEL(bad_no_barrier, selftest_params, 64, 1)
{
    KVI_SHARED(float, s);
    s[threadIdx.x] = ((const float *)p.in)[threadIdx.x];
    /* kvi_sync_block() is missing */
    ((float *)p.out)[threadIdx.x] = s[blockDim.x - 1u - threadIdx.x];
}
/* Writes the next round over what the other warp has not read yet. out[i] = sum over rounds r of in[r][n - 1 - i] */
KVI_KERNEL(bad_no_second_barrier, selftest_params, 64, 1)
{
    KVI_SHARED(float, s);
    float sum = 0.0f;
    for (uint32_t r = 0; r < 4u; r++) {
        s[threadIdx.x] = ((const float *)p.in)[r * blockDim.x + threadIdx.x];
        kvi_sync_block();
        sum += s[blockDim.x - 1u - threadIdx.x];
        /* kvi_sync_block() is missing */
    }
    ((float *)p.out)[threadIdx.x] = sum;
}
/* A shuffle moves registers and orders no memory, so this lacks a kvi_sync_warp(), although the order of this emulator is right. */
KVI_KERNEL(bad_no_warp_sync, selftest_params, 32, 1)
{
    KVI_SHARED(float, s);
    s[threadIdx.x] = ((const float *)p.in)[threadIdx.x];
    const float other = kvi_shfl_xor(0.0f, 1u);
    ((float *)p.out)[threadIdx.x] = s[31u - threadIdx.x] + other;
}
KVI_KERNEL(bad_no_cp_wait, selftest_params, 32, 1)
{
    KVI_SHARED(uint4, s);
    kvi_cp_async16(&s[threadIdx.x], (const uint4 *)p.in + threadIdx.x);
    kvi_cp_commit();
    /* kvi_cp_wait<0>() is missing */
    kvi_sync_warp();
    ((uint4 *)p.out)[threadIdx.x] = s[threadIdx.x];
}
KVI_KERNEL(bad_cp_wait_too_few, selftest_params, 32, 1)
{
    KVI_SHARED(uint4, s);
    kvi_cp_async16(&s[threadIdx.x], (const uint4 *)p.in + threadIdx.x);
    kvi_cp_commit();
    kvi_cp_wait<1>(); /* 0 is right */
    kvi_sync_warp();
    ((uint4 *)p.out)[threadIdx.x] = s[threadIdx.x];
}
/* Waits for its own copies, but what it reads is another thread's. */
KVI_KERNEL(bad_cp_no_barrier, selftest_params, 64, 1)
{
    KVI_SHARED(uint4, s);
    kvi_cp_async16(&s[threadIdx.x], (const uint4 *)p.in + threadIdx.x);
    kvi_cp_commit();
    kvi_cp_wait<0>();
    /* kvi_sync_block() is missing */
    ((uint4 *)p.out)[threadIdx.x] = s[63u - threadIdx.x];
}
/* Two blocks write one cell. */
KVI_KERNEL(bad_block_race, selftest_params, 32, 1)
{
    if (threadIdx.x == blockIdx.x % 32u) *(uint32_t *)p.out += 1u;
}
/* As good_last_block, without the fences. */
KVI_KERNEL(bad_no_fence, selftest_params, 32, 1)
{
    float *out = (float *)p.out;
    if (threadIdx.x != blockIdx.x) return;
    out[blockIdx.x] = ((const float *)p.in)[blockIdx.x];
    if (kvi_atomic_inc((uint32_t *)p.in2) != gridDim.x - 1u) return;
    float all = 0.0f;
    for (uint32_t b = 0; b < gridDim.x; b++) all += out[b];
    out[gridDim.x] = all;
}

/* --------------------------------------------------------------------------------------------------- memory --- */
KVI_KERNEL(bad_shared_overrun, selftest_params, 64, 1)
{
    KVI_SHARED(float, s); /* 64 floats at launch */
    s[threadIdx.x + 1u] = ((const float *)p.in)[threadIdx.x];
    kvi_sync_block();
    ((float *)p.out)[threadIdx.x] = s[63u - threadIdx.x + 1u];
}
KVI_KERNEL(bad_global_overrun, selftest_params, 64, 1) { ((float *)p.out)[threadIdx.x + 1u] = 1.0f; }
KVI_KERNEL(bad_global_read, selftest_params, 64, 1)
{
    ((float *)p.out)[threadIdx.x] = ((const float *)p.in)[threadIdx.x + 1u];
}
KVI_KERNEL(bad_null, selftest_params, 32, 1)
{
    ((float *)p.out)[threadIdx.x] = *(const volatile float *)(p.in * 0u + p.extra);
}
KVI_KERNEL(bad_shared_read, selftest_params, 64, 1)
{
    KVI_SHARED(float, s);
    if (threadIdx.x < 63u) s[threadIdx.x] = ((const float *)p.in)[threadIdx.x];
    kvi_sync_block();
    ((float *)p.out)[threadIdx.x] = s[63u - threadIdx.x]; /* s[63] was never written */
}
KVI_KERNEL(bad_misaligned_load, selftest_params, 32, 1)
{
    ((uint4 *)p.out)[threadIdx.x] = kvi_load128((const char *)p.in + threadIdx.x * 16u + 8u * (threadIdx.x == 5u));
}
KVI_KERNEL(bad_misaligned_copy, selftest_params, 32, 1)
{
    KVI_SHARED(char, s);
    kvi_cp_async16(s + threadIdx.x * 20u, (const uint4 *)p.in + threadIdx.x);
    kvi_cp_commit();
    kvi_cp_wait<0>();
    ((uint4 *)p.out)[threadIdx.x] = uint4{0, 0, 0, 0};
}
KVI_KERNEL(bad_misaligned_pointer, selftest_params, 32, 1)
{
    const float2 v = *(const float2 *)((const char *)p.in + threadIdx.x * 8u + 4u * (threadIdx.x == 5u));
    ((float *)p.out)[threadIdx.x] = v.x + v.y;
}
KVI_KERNEL(bad_deep_stack, selftest_params, 32, 1)
{
    volatile char local[300000];
    for (uint32_t i = 0; i < sizeof local; i += 512u) local[i] = (char)i;
    ((float *)p.out)[threadIdx.x] = (float)local[p.n];
}

/* ------------------------------------------------------------------------------------- threads that do not meet --- */
KVI_KERNEL(bad_two_barriers, selftest_params, 64, 1)
{
    if (threadIdx.x < 32u) kvi_sync_block();
    else kvi_sync_block(); /* another barrier of the program */
    ((float *)p.out)[threadIdx.x] = 0.0f;
}
KVI_KERNEL(bad_half_barrier, selftest_params, 64, 1)
{
    if (threadIdx.x < 48u) kvi_sync_block();
    ((float *)p.out)[threadIdx.x] = 0.0f;
}
KVI_KERNEL(bad_return_before_barrier, selftest_params, 64, 1)
{
    if (threadIdx.x >= p.n) return;
    kvi_sync_block();
    ((float *)p.out)[threadIdx.x] = 0.0f;
}
KVI_KERNEL(bad_return_before_shuffle, selftest_params, 64, 1)
{
    if (threadIdx.x >= p.n) return;
    ((float *)p.out)[threadIdx.x] = kvi_shfl_xor(1.0f, 1u);
}
KVI_KERNEL(bad_two_shuffles, selftest_params, 32, 1)
{
    float v = (float)threadIdx.x;
    if (threadIdx.x < 16u) v = kvi_shfl_xor(v, 1u);
    else v = kvi_shfl_xor(v, 2u);
    ((float *)p.out)[threadIdx.x] = v;
}
KVI_KERNEL(bad_shuffle_and_mma, selftest_params, 32, 1)
{
    float c[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    const uint32_t a[4] = {0, 0, 0, 0};
    if (threadIdx.x & 1u) c[0] = kvi_shfl_xor(1.0f, 1u);
    else kvi_mma_f16(c, a, a);
    ((float *)p.out)[threadIdx.x] = c[0];
}
KVI_KERNEL(bad_part_of_a_warp, selftest_params, 48, 1) { ((float *)p.out)[threadIdx.x] = kvi_shfl_xor(1.0f, 1u); }
KVI_KERNEL(bad_barrier_in_loop, selftest_params, 64, 1)
{
    for (uint32_t i = 0; i <= threadIdx.x / 32u; i++) kvi_sync_block();
    ((float *)p.out)[threadIdx.x] = 0.0f;
}
