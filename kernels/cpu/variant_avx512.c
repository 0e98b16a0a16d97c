/* variant_avx512.c - AVX-512 F, BW, DQ, VL. Compiled with those flags; called only where the CPU has them. */
#if defined(__x86_64__)
#include <immintrin.h>
#define VARIANT avx512
#define VB 64
#define MR 12
#define NEEDS (KVI_CPU_HAS_AVX2 | KVI_CPU_HAS_AVX512)
#define TILES &kvi_cpu_amx
#include "variant_body.h"

static inline vf fma_vec(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
static inline vf widen_f16(const uint16_t *p)
{
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
static inline vf widen_u8(const uint8_t *p)
{
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}
static inline void narrow_f16(vf v, uint16_t *p)
{
    _mm256_storeu_si256((__m256i *)(void *)p,
                        _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#else
typedef int kvi_avx512_absent;
#endif
