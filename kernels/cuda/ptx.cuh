/* ptx.cuh - every instruction that device code uses beyond plain C++, in one place and by one name: inline PTX for nvcc, a call into
 * test/emu for the host compiler (KVRT_EMU). Kernels include this file and no CUDA header, so there is no half type either: 16-bit
 * values are raw bits, pairs of them one uint32_t with the lower index in the lower half.
 *
 * Rules that kernels obey (the emulator enforces what it can):
 *   - one parameter, a plain struct of kernels/cuda/params.h, by value; what changes from step to step is read from device memory
 *   - shared memory through KVI_SHARED alone, its size given at launch, at most 48 KiB
 *   - all 32 lanes reach every warp collective, all threads every block barrier; no early return before one
 *   - no waiting for another block; at most 1,024 threads a block; sm_80 instructions only */
#ifndef KVI_PTX_CUH
#define KVI_PTX_CUH
#include <stdint.h>

#ifdef KVRT_EMU
#include "../../test/emu/emu_device.h"
#else

/* A kernel: C linkage, its launch bounds, its parameter struct. The emulator registers it under the same name.
 *   KVI_KERNEL(rmsnorm_f32, kvi_cuda_norm_params, 256, 2) { ... p.rows ... } */
#define KVI_KERNEL(name, params, max_threads, min_blocks)                                                              \
    extern "C" __global__ void __launch_bounds__(max_threads, min_blocks) name(const __grid_constant__ params p)
#define KVI_DEV __device__ __forceinline__
#define KVI_SHARED(type, name)                                                                                         \
    extern __shared__ __align__(16) unsigned char kvi_shared_bytes[];                                                  \
    type *const name = reinterpret_cast<type *>(kvi_shared_bytes)

/* ------------------------------------------------------------------------------------------------- synchronisation --- */
KVI_DEV void kvi_sync_block() { __syncthreads(); }
KVI_DEV void kvi_sync_warp() { __syncwarp(); }
KVI_DEV void kvi_fence() { __threadfence(); }
KVI_DEV uint32_t kvi_shfl_xor(uint32_t v, uint32_t mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
KVI_DEV float kvi_shfl_xor(float v, uint32_t mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
KVI_DEV uint32_t kvi_shfl(uint32_t v, uint32_t lane) { return __shfl_sync(0xffffffffu, v, lane); }
KVI_DEV float kvi_shfl(float v, uint32_t lane) { return __shfl_sync(0xffffffffu, v, lane); }
/* Bit i: whether lane i says so. */
KVI_DEV uint32_t kvi_ballot(bool yes) { return __ballot_sync(0xffffffffu, yes); }
KVI_DEV uint32_t kvi_atomic_inc(uint32_t *at) { return atomicAdd(at, 1u); }

/* ------------------------------------------------------------------------------------------------------------ loads --- */
/* Read-only data, addresses aligned to the size of the load: used once, past L1; and through L1, what other warps of the block are about to read. */
#define KVI_LOADS(of, how)                                                                                             \
    KVI_DEV uint4 kvi_load128##of(const void *at)                                                                      \
    {                                                                                                                  \
        uint4 v;                                                                                                       \
        asm volatile("ld.global.nc" how ".v4.u32 {%0,%1,%2,%3}, [%4];"                                                 \
                     : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)                                                      \
                     : "l"(at));                                                                                       \
        return v;                                                                                                      \
    }                                                                                                                  \
    KVI_DEV uint2 kvi_load64##of(const void *at)                                                                       \
    {                                                                                                                  \
        uint2 v;                                                                                                       \
        asm volatile("ld.global.nc" how ".v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(at));                    \
        return v;                                                                                                      \
    }                                                                                                                  \
    KVI_DEV uint32_t kvi_load32##of(const void *at)                                                                    \
    {                                                                                                                  \
        uint32_t v;                                                                                                    \
        asm volatile("ld.global.nc" how ".u32 %0, [%1];" : "=r"(v) : "l"(at));                                         \
        return v;                                                                                                      \
    }
KVI_LOADS(, ".L1::no_allocate")
KVI_LOADS(_l1, "")
#undef KVI_LOADS
/* 16 bytes from global to shared memory in the background; both aligned to 16. `bytes` < 16 fills the rest with zeros (0: all zeros,
 * the source is not read). */
KVI_DEV uint32_t kvi_shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }
KVI_DEV void kvi_cp_async16(void *shared, const void *global)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(kvi_shared_address(shared)), "l"(global) : "memory");
}
KVI_DEV void kvi_cp_async16_zfill(void *shared, const void *global, uint32_t bytes)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(kvi_shared_address(shared)), "l"(global),
                 "r"(bytes)
                 : "memory");
}
KVI_DEV void kvi_cp_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending> KVI_DEV void kvi_cp_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory"); }

/* ----------------------------------------------------------------------------------------------------- tensor cores --- */
/* Fragment layouts as in the PTX ISA, section "Matrix fragments for mma.m16n8k16" and "ldmatrix". */
KVI_DEV void kvi_ldmatrix_x4(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(kvi_shared_address(row))
                 : "memory");
}
KVI_DEV void kvi_ldmatrix_x4_trans(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(kvi_shared_address(row))
                 : "memory");
}
KVI_DEV void kvi_ldmatrix_x2(uint32_t r[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(kvi_shared_address(row))
                 : "memory");
}
/* The 8x8 matrix of 16-bit values that a warp holds as fragments (lane 4r + c: columns 2c, 2c + 1 of row r), transposed. */
KVI_DEV uint32_t kvi_transpose8x8(uint32_t pair)
{
    uint32_t r;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(r) : "r"(pair));
    return r;
}
KVI_DEV void kvi_mma_f16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
KVI_DEV void kvi_mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* ------------------------------------------------------------------------------------------------- bits and numbers --- */
KVI_DEV uint32_t kvi_prmt(uint32_t a, uint32_t b, uint32_t selector) { return __byte_perm(a, b, selector); }
/* The same where no nibble of the selector is above 7, of which __byte_perm makes sure by an instruction when it does not know it. */
KVI_DEV uint32_t kvi_prmt_below_8(uint32_t a, uint32_t b, uint32_t selector)
{
    uint32_t r;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(selector));
    return r;
}
template <int table> KVI_DEV uint32_t kvi_lop3(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t r;
    asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(r) : "r"(a), "r"(b), "r"(c), "n"(table));
    return r;
}
/* The same number, computed anew here: what follows from it is not kept in registers across a loop. */
KVI_DEV uint32_t kvi_anew(uint32_t v)
{
    uint32_t r;
    asm volatile("mov.u32 %0, %1;" : "=r"(r) : "r"(v));
    return r;
}
KVI_DEV float kvi_bits_f32(uint32_t u) { return __uint_as_float(u); }
KVI_DEV uint32_t kvi_f32_to_bits(float f) { return __float_as_uint(f); }
/* Pairs of 16-bit floats, round to nearest even. */
KVI_DEV uint32_t kvi_pack_f16(float lo, float hi)
{
    uint32_t r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}
KVI_DEV uint32_t kvi_pack_bf16(float lo, float hi)
{
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}
KVI_DEV float kvi_f16_lo(uint32_t pair)
{
    float r;
    asm("{ .reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l; }" : "=f"(r) : "r"(pair));
    return r;
}
KVI_DEV float kvi_f16_hi(uint32_t pair)
{
    float r;
    asm("{ .reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, h; }" : "=f"(r) : "r"(pair));
    return r;
}
KVI_DEV float kvi_bf16_lo(uint32_t pair) { return __uint_as_float(pair << 16); }
KVI_DEV float kvi_bf16_hi(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }
KVI_DEV uint32_t kvi_fma_f16x2(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t r;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
    return r;
}
KVI_DEV uint32_t kvi_sub_f16x2(uint32_t a, uint32_t b)
{
    uint32_t r;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}
KVI_DEV uint32_t kvi_mul_f16x2(uint32_t a, uint32_t b)
{
    uint32_t r;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}
/* f32; the plain operators contract to fma where the compiler likes, these never do. */
KVI_DEV float kvi_mul_rn(float a, float b) { return __fmul_rn(a, b); }
KVI_DEV float kvi_div_rn(float a, float b) { return __fdiv_rn(a, b); }
KVI_DEV float kvi_sqrt_rn(float a) { return __fsqrt_rn(a); }
KVI_DEV float kvi_fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
KVI_DEV float kvi_max(float a, float b) { return fmaxf(a, b); }
KVI_DEV float kvi_min(float a, float b) { return fminf(a, b); }
/* 2^x, about 2 ulp. */
KVI_DEV float kvi_exp2(float x)
{
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
}
KVI_DEV float kvi_erf(float x) { return erff(x); }
KVI_DEV float kvi_log(float x) { return logf(x); }
KVI_DEV int32_t kvi_round_to_int(float x) { return __float2int_rn(x); }

#endif /* KVRT_EMU */
#endif
