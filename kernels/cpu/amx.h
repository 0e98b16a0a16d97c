/* amx.h - AMX tile instructions as inline assembly, the only one of the CPU backend.
 * GCC 12's intrinsics declare too little memory: _tile_loadconfig reads 8 of 64 bytes and _tile_loadd none, so stores
 * before them may be dropped or moved. Every statement here names memory as clobbered. Tiles 0-3 accumulate, 4-5 hold
 * A, 6-7 hold B. */
#ifndef KVI_CPU_AMX_H
#define KVI_CPU_AMX_H
#include <stddef.h>
#include <stdint.h>

#ifdef KVI_AMX_HEADER /* a test's emulation of what stands below */
#include KVI_AMX_HEADER
#else
typedef struct kvi_amx_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t colsb[16];
    uint8_t rows[16];
} kvi_amx_config;

static inline void kvi_amx_configure(const kvi_amx_config *config)
{
    __asm__ volatile("ldtilecfg %0" ::"m"(*config) : "memory");
}
static inline void kvi_amx_release(void) { __asm__ volatile("tilerelease" ::: "memory"); }
#define KVI_AMX_ZERO(t) __asm__ volatile("tilezero %%tmm" #t ::: "memory")
#define KVI_AMX_LOAD(t, base, stride)                                                                                  \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t ::"r"((const void *)(base)), "r"((size_t)(stride)) : "memory")
#define KVI_AMX_STORE(t, base, stride)                                                                                 \
    __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"((void *)(base)), "r"((size_t)(stride)) : "memory")
/* c (16 x 16 f32) += a (16 x 32 bf16) . b (32 x 16 bf16, pairs of k interleaved) */
#define KVI_AMX_DP_BF16(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::: "memory")
/* c (16 x 16 int32) += a (16 x 64 signed bytes) . b (64 x 16 bytes, unsigned or signed, four k interleaved) */
#define KVI_AMX_DP_S8S8(c, a, b) __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::: "memory")
#define KVI_AMX_DP_S8U8(c, a, b) __asm__ volatile("tdpbsud %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::: "memory")
#endif

#endif
