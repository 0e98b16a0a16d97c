/* lanes_avx512.h - vectors of 64 bytes with AVX-512 F, BW, DQ, VL: what the bodies of kernels ask of an instruction set. */
#define VB 64
#include "../../runtime/base/simd.h"

#include <immintrin.h>

INLINE vf fma_vec(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
INLINE vf widen_f16(const uint16_t *p)
{
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
INLINE vf widen_u8(const uint8_t *p)
{
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}
/* The low byte of every lane to VW bytes. */
INLINE void store_bytes(uint8_t *to, vi v)
{
    _mm_storeu_si128((__m128i *)(void *)to, _mm512_cvtepi32_epi8((__m512i)v));
}
INLINE vu look_up(vu codes, const uint8_t *table)
{
    const __m512i t = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)table));
    return (vu)_mm512_shuffle_epi8(t, (__m512i)codes);
}
/* Lane by lane the number of a table of 16; codes below 16. */
INLINE vf look_up_f32(vu codes, const float *table)
{
    return (vf)_mm512_permutexvar_ps((__m512i)codes, _mm512_loadu_ps(table));
}
