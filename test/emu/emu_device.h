/* emu_device.h - kernels/cuda/ptx.cuh for the host compiler: the same names, executed on the CPU. Included by ptx.cuh under KVRT_EMU and
 * compiled with the kernels, so that their sanitizers see every access to memory; scheduling and exchange between lanes are calls into
 * emu_block.cpp, which no ThreadSanitizer instruments.
 *
 * The one thing to know: a CUDA thread runs until it waits. Every wait names its place (file, line), by which the emulator tells lanes
 * that meet in different instructions from lanes that meet. What the device leaves undefined is poison here: shared memory starts as
 * 0xff bytes (NaN in every float type) and so is the target of cp.async until its group was waited for. */
#ifndef KVRT_EMU_DEVICE_H
#define KVRT_EMU_DEVICE_H
#include <math.h>
#include <stdint.h>
#include <string.h>
#include "../../runtime/kv/half.h"
#ifdef __F16C__
#include <immintrin.h>
#endif

/* --------------------------------------------------------------------------------------------- CUDA's words and types --- */
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))
struct uint2 {
    uint32_t x, y;
} __align__(8);
struct uint3 {
    uint32_t x, y, z;
};
struct uint4 {
    uint32_t x, y, z, w;
} __align__(16);
struct int2 {
    int32_t x, y;
} __align__(8);
struct int4 {
    int32_t x, y, z, w;
} __align__(16);
struct float2 {
    float x, y;
} __align__(8);
struct float4 {
    float x, y, z, w;
} __align__(16);
struct dim3 {
    uint32_t x, y, z;
    constexpr dim3(uint32_t a = 1, uint32_t b = 1, uint32_t c = 1) : x(a), y(b), z(c) {}
};
inline uint2 make_uint2(uint32_t x, uint32_t y) { return uint2{x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return uint4{x, y, z, w}; }
inline float2 make_float2(float x, float y) { return float2{x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return float4{x, y, z, w}; }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline uint32_t min(uint32_t a, uint32_t b) { return a < b ? a : b; }
inline uint32_t max(uint32_t a, uint32_t b) { return a > b ? a : b; }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }

/* ------------------------------------------------------------------------------------------------------ the emulator --- */
namespace kvi_emu
{
/* Where a thread waits; the default arguments of the functions below fill it in at the place of the call. */
#define KVI_EMU_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

struct block_view {
    uint3 block_index;
    dim3 block_dim, grid_dim;
    void *shared;
};
/* What device code may see of its thread; emu_block.h has the rest of it. */
struct lane_view {
    uint3 thread;
    uint32_t in_warp; /* lane */
    const block_view *block;
};
extern __thread lane_view *self __attribute__((tls_model("initial-exec")));

struct kernel {
    const char *name, *file;
    void (*run)(const void *params);
    uint32_t param_bytes, max_threads, min_blocks;
    kernel *next;
    kernel(const char *name, const char *file, void (*run)(const void *), uint32_t param_bytes, uint32_t max_threads,
           uint32_t min_blocks);
};

void sync_block(const char *file, int line);
void sync_warp(const char *file, int line);
void fence();
uint32_t shuffle(uint32_t value, uint32_t source, const char *name, const char *file, int line);
uint32_t ballot(bool yes, const char *file, int line);
void ldmatrix(uint32_t *r, const uint4 &row, uint32_t n, bool transposed, const char *file, int line);
uint32_t transpose(uint32_t pair, const char *file, int line);
void mma(float c[4], const uint32_t a[4], const uint32_t b[2], bool bf16, const char *file, int line);
[[noreturn]] void misaligned(const char *what, const void *at, uint32_t bytes, const char *file, int line);

struct pending_copy {
    void *to;
    const void *from;
    uint32_t bytes;
};
void cp_add(const pending_copy &copy);
void cp_commit();
bool cp_next(uint32_t pending, pending_copy *out); /* false: at most `pending` groups are left */

inline void check(const char *what, const void *at, uint32_t bytes, const char *file, int line)
{
    if (__builtin_expect((uintptr_t)at & (bytes - 1u), 0)) misaligned(what, at, bytes, file, line);
}

inline float f16(uint32_t h)
{
#ifdef __F16C__
    return _cvtsh_ss((uint16_t)h);
#else
    return kvi_f16_to_f32((uint16_t)h);
#endif
}
inline uint32_t to_f16(float f)
{
#ifdef __F16C__
    return _cvtss_sh(f, _MM_FROUND_TO_NEAREST_INT);
#else
    return kvi_f32_to_f16(f);
#endif
}
/* a * b + c of f16 values, rounded once: exact in double, then through f32 rounded to odd, which keeps the second rounding honest. */
inline uint32_t fma16(uint32_t a, uint32_t b, uint32_t c)
{
    double exact = (double)f16(a) * (double)f16(b) + (double)f16(c);
    float f = (float)exact;
    if ((double)f != exact && f - f == 0.0f && exact == exact) {
        uint32_t u = kvi_f32_bits(f);
        if (fabs((double)f) > fabs(exact)) u--;
        f = kvi_f32_from_bits(u | 1u);
    }
    return to_f16(f);
}
} // namespace kvi_emu

#define threadIdx (kvi_emu::self->thread)
#define blockIdx (kvi_emu::self->block->block_index)
#define blockDim (kvi_emu::self->block->block_dim)
#define gridDim (kvi_emu::self->block->grid_dim)

/* Limits of sm_86 that are known when a kernel is written stand here, the others in emu_launch.cpp. */
#define KVI_KERNEL(name, params, threads, blocks)                                                                      \
    static_assert((threads) <= 1024 && (threads) * (blocks) <= 1536,                                                   \
                  #name ": sm_86 has room for 1,024 threads a block and 1,536 an SM");                                 \
    static_assert(sizeof(params) <= 4096, #name ": parameters are limited to 4,096 bytes");                            \
    extern "C" void name(const params &);                                                                              \
    static void kvi_emu_run_##name(const void *p) { name(*static_cast<const params *>(p)); }                           \
    static kvi_emu::kernel kvi_emu_kernel_##name(#name, __FILE__, kvi_emu_run_##name, sizeof(params), threads,         \
                                                 blocks);                                                              \
    extern "C" void name(const params &p)
/* Always inlined: two kernel files may have helpers of one name, which the linker would otherwise merge without a word. */
#define KVI_DEV inline __attribute__((always_inline))
#define KVI_SHARED(type, name) type *const name = reinterpret_cast<type *>(kvi_emu::self->block->shared)

/* ------------------------------------------------------------------------------------------------- synchronisation --- */
KVI_DEV void kvi_sync_block(KVI_EMU_SITE) { kvi_emu::sync_block(file, line); }
KVI_DEV void kvi_sync_warp(KVI_EMU_SITE) { kvi_emu::sync_warp(file, line); }
KVI_DEV void kvi_fence() { kvi_emu::fence(); }
KVI_DEV uint32_t kvi_shfl_xor(uint32_t v, uint32_t mask, KVI_EMU_SITE)
{
    return kvi_emu::shuffle(v, kvi_emu::self->in_warp ^ mask, "kvi_shfl_xor", file, line);
}
KVI_DEV float kvi_shfl_xor(float v, uint32_t mask, KVI_EMU_SITE)
{
    return kvi_f32_from_bits(
        kvi_emu::shuffle(kvi_f32_bits(v), kvi_emu::self->in_warp ^ mask, "kvi_shfl_xor", file, line));
}
KVI_DEV uint32_t kvi_shfl(uint32_t v, uint32_t lane, KVI_EMU_SITE)
{
    return kvi_emu::shuffle(v, lane, "kvi_shfl", file, line);
}
KVI_DEV float kvi_shfl(float v, uint32_t lane, KVI_EMU_SITE)
{
    return kvi_f32_from_bits(kvi_emu::shuffle(kvi_f32_bits(v), lane, "kvi_shfl", file, line));
}
/* Relaxed, as atomicAdd is: what it guards needs a kvi_fence() on both sides. */
KVI_DEV uint32_t kvi_ballot(bool yes, KVI_EMU_SITE) { return kvi_emu::ballot(yes, file, line); }
KVI_DEV uint32_t kvi_atomic_inc(uint32_t *at) { return __atomic_fetch_add(at, 1u, __ATOMIC_RELAXED); }

/* ------------------------------------------------------------------------------------------------------------ loads --- */
KVI_DEV uint4 kvi_load128(const void *at, KVI_EMU_SITE)
{
    kvi_emu::check("kvi_load128", at, 16, file, line);
    uint4 v;
    memcpy(&v, at, sizeof v);
    return v;
}
KVI_DEV uint2 kvi_load64(const void *at, KVI_EMU_SITE)
{
    kvi_emu::check("kvi_load64", at, 8, file, line);
    uint2 v;
    memcpy(&v, at, sizeof v);
    return v;
}
KVI_DEV uint32_t kvi_load32(const void *at, KVI_EMU_SITE)
{
    kvi_emu::check("kvi_load32", at, 4, file, line);
    uint32_t v;
    memcpy(&v, at, sizeof v);
    return v;
}
KVI_DEV uint4 kvi_load128_l1(const void *at, KVI_EMU_SITE) { return kvi_load128(at, file, line); }
KVI_DEV uint2 kvi_load64_l1(const void *at, KVI_EMU_SITE) { return kvi_load64(at, file, line); }
KVI_DEV uint32_t kvi_load32_l1(const void *at, KVI_EMU_SITE) { return kvi_load32(at, file, line); }
/* The source is read here once (for AddressSanitizer) and at the wait (for its value); both are legal times for the device. */
KVI_DEV void kvi_cp_async16_zfill(void *shared, const void *global, uint32_t bytes, KVI_EMU_SITE)
{
    kvi_emu::check("kvi_cp_async16 to shared memory", shared, 16, file, line);
    uint4 poison = {~0u, ~0u, ~0u, ~0u};
    if (bytes) {
        kvi_emu::check("kvi_cp_async16 from global memory", global, 16, file, line);
        uint4 seen;
        memcpy(&seen, global, sizeof seen);
        __asm__ volatile("" ::"r"(&seen) : "memory");
    }
    memcpy(shared, &poison, sizeof poison);
    kvi_emu::cp_add({shared, global, bytes < 16u ? bytes : 16u});
}
KVI_DEV void kvi_cp_async16(void *shared, const void *global, KVI_EMU_SITE)
{
    kvi_cp_async16_zfill(shared, global, 16, file, line);
}
KVI_DEV void kvi_cp_commit() { kvi_emu::cp_commit(); }
template <int pending> KVI_DEV void kvi_cp_wait()
{
    kvi_emu::pending_copy copy;
    while (kvi_emu::cp_next(pending, &copy)) {
        uint4 v = {0, 0, 0, 0};
        if (copy.bytes == 16u) memcpy(&v, copy.from, 16);
        else memcpy(&v, copy.from, copy.bytes);
        memcpy(copy.to, &v, sizeof v);
    }
}

/* ----------------------------------------------------------------------------------------------------- tensor cores --- */
KVI_DEV void kvi_emu_ldmatrix(uint32_t *r, const void *row, uint32_t n, bool transposed, const char *file, int line)
{
    uint4 v = {0, 0, 0, 0};
    if (kvi_emu::self->in_warp < 8u * n) {
        kvi_emu::check("kvi_ldmatrix", row, 16, file, line);
        memcpy(&v, row, sizeof v);
    }
    kvi_emu::ldmatrix(r, v, n, transposed, file, line);
}
KVI_DEV void kvi_ldmatrix_x4(uint32_t r[4], const void *row, KVI_EMU_SITE)
{
    kvi_emu_ldmatrix(r, row, 4, false, file, line);
}
KVI_DEV void kvi_ldmatrix_x4_trans(uint32_t r[4], const void *row, KVI_EMU_SITE)
{
    kvi_emu_ldmatrix(r, row, 4, true, file, line);
}
KVI_DEV void kvi_ldmatrix_x2(uint32_t r[2], const void *row, KVI_EMU_SITE)
{
    kvi_emu_ldmatrix(r, row, 2, false, file, line);
}
KVI_DEV uint32_t kvi_transpose8x8(uint32_t pair, KVI_EMU_SITE) { return kvi_emu::transpose(pair, file, line); }
KVI_DEV void kvi_mma_f16(float c[4], const uint32_t a[4], const uint32_t b[2], KVI_EMU_SITE)
{
    kvi_emu::mma(c, a, b, false, file, line);
}
KVI_DEV void kvi_mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2], KVI_EMU_SITE)
{
    kvi_emu::mma(c, a, b, true, file, line);
}

/* ------------------------------------------------------------------------------------------------- bits and numbers --- */
KVI_DEV uint32_t kvi_prmt(uint32_t a, uint32_t b, uint32_t selector)
{
    uint64_t bytes = (uint64_t)b << 32 | a;
    uint32_t r = 0;
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t s = selector >> (4u * i) & 15u, byte = (uint32_t)(bytes >> (8u * (s & 7u))) & 255u;
        if (s & 8u) byte = byte & 128u ? 255u : 0u; /* replicates the sign */
        r |= byte << (8u * i);
    }
    return r;
}
KVI_DEV uint32_t kvi_prmt_below_8(uint32_t a, uint32_t b, uint32_t selector) { return kvi_prmt(a, b, selector); }
template <int table> KVI_DEV uint32_t kvi_lop3(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t r = 0;
    if (table & 0x01) r |= ~a & ~b & ~c;
    if (table & 0x02) r |= ~a & ~b & c;
    if (table & 0x04) r |= ~a & b & ~c;
    if (table & 0x08) r |= ~a & b & c;
    if (table & 0x10) r |= a & ~b & ~c;
    if (table & 0x20) r |= a & ~b & c;
    if (table & 0x40) r |= a & b & ~c;
    if (table & 0x80) r |= a & b & c;
    return r;
}
KVI_DEV uint32_t kvi_anew(uint32_t v) { return v; }
KVI_DEV float kvi_bits_f32(uint32_t u) { return kvi_f32_from_bits(u); }
KVI_DEV uint32_t kvi_f32_to_bits(float f) { return kvi_f32_bits(f); }
KVI_DEV uint32_t kvi_pack_f16(float lo, float hi) { return kvi_emu::to_f16(lo) | kvi_emu::to_f16(hi) << 16; }
KVI_DEV uint32_t kvi_pack_bf16(float lo, float hi)
{
    return (uint32_t)kvi_f32_to_bf16(lo) | (uint32_t)kvi_f32_to_bf16(hi) << 16;
}
KVI_DEV float kvi_f16_lo(uint32_t pair) { return kvi_emu::f16(pair & 0xffffu); }
KVI_DEV float kvi_f16_hi(uint32_t pair) { return kvi_emu::f16(pair >> 16); }
KVI_DEV float kvi_bf16_lo(uint32_t pair) { return kvi_f32_from_bits(pair << 16); }
KVI_DEV float kvi_bf16_hi(uint32_t pair) { return kvi_f32_from_bits(pair & 0xffff0000u); }
KVI_DEV uint32_t kvi_fma_f16x2(uint32_t a, uint32_t b, uint32_t c)
{
    return kvi_emu::fma16(a & 0xffffu, b & 0xffffu, c & 0xffffu) | kvi_emu::fma16(a >> 16, b >> 16, c >> 16) << 16;
}
/* A sum of two f16 rounded to f32 and then to f16 is rounded right: 24 bits are twice 11 and two more. */
KVI_DEV uint32_t kvi_sub_f16x2(uint32_t a, uint32_t b)
{
    return kvi_pack_f16(kvi_f16_lo(a) - kvi_f16_lo(b), kvi_f16_hi(a) - kvi_f16_hi(b));
}
KVI_DEV uint32_t kvi_mul_f16x2(uint32_t a, uint32_t b)
{
    return kvi_pack_f16(kvi_f16_lo(a) * kvi_f16_lo(b), kvi_f16_hi(a) * kvi_f16_hi(b));
}
/* Kernels are compiled without contraction here, so these are the plain operators. */
KVI_DEV float kvi_mul_rn(float a, float b) { return a * b; }
KVI_DEV float kvi_div_rn(float a, float b) { return a / b; }
KVI_DEV float kvi_sqrt_rn(float a) { return sqrtf(a); }
KVI_DEV float kvi_fma(float a, float b, float c) { return fmaf(a, b, c); }
KVI_DEV float kvi_max(float a, float b) { return fmaxf(a, b); }
KVI_DEV float kvi_min(float a, float b) { return fminf(a, b); }
KVI_DEV float kvi_exp2(float x)
{
    float r = exp2f(x);
    return r < 1.17549435e-38f ? 0.0f : r; /* .ftz */
}
KVI_DEV float kvi_erf(float x) { return erff(x); }
KVI_DEV float kvi_log(float x) { return logf(x); }
KVI_DEV int32_t kvi_round_to_int(float x)
{
    if (!(x == x)) return 0;
    if (x >= 2147483648.0f) return INT32_MAX;
    if (x < -2147483648.0f) return INT32_MIN;
    return (int32_t)rintf(x);
}

#endif
