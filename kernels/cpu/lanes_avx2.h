/* lanes_avx2.h - vectors of 32 bytes with AVX2, FMA and F16C: what the bodies of kernels ask of an instruction set. */
#define VB 32
#include "../../runtime/base/simd.h"

#include <immintrin.h>

INLINE vf fma_vec(vf a, vf b, vf c) { return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
INLINE vf widen_f16(const uint16_t *p)
{
    return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
INLINE vf widen_u8(const uint8_t *p)
{
    return (vf)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}
/* The low byte of every lane, a number of -128..127, to VW bytes. */
INLINE void store_bytes(uint8_t *to, vi v)
{
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
    _mm_storel_epi64((__m128i *)(void *)to, _mm_packs_epi16(words, words));
}
INLINE vu look_up(vu codes, const uint8_t *table)
{
    const __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)table));
    return (vu)_mm256_shuffle_epi8(t, (__m256i)codes);
}
/* Lane by lane the number of a table of 16; codes below 16. */
INLINE vf look_up_f32(vu codes, const float *table)
{
    const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), (__m256i)codes),
                 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), (__m256i)codes);
    return (vf)_mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32((__m256i)codes, 28)));
}
