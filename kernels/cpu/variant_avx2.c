/* variant_avx2.c - AVX2, FMA, F16C. Compiled with those flags; called only where the CPU has them. */
#if defined(__x86_64__)
#include <immintrin.h>
#define VARIANT avx2
#define VB 32
#define MR 6
#define NEEDS KVI_CPU_HAS_AVX2
#define TILES &kvi_cpu_amx
#include "variant_body.h"

static inline vf fma_vec(vf a, vf b, vf c) { return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
static inline vf widen_f16(const uint16_t *p)
{
    return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
static inline vf widen_u8(const uint8_t *p)
{
    return (vf)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}
static inline void narrow_f16(vf v, uint16_t *p)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#else
typedef int kvi_avx2_absent;
#endif
