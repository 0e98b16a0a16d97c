/* attention_packed_avx2.c - AVX2, FMA, F16C. */
#if defined(__x86_64__)
#include <immintrin.h>
#define VB 32
#define CENTRE 0
#define TABLE kvi_cpu_packed_avx2
#include "attention_packed_body.h"

INLINE vf fma_vec(vf a, vf b, vf c) { return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
INLINE vf number(vu lanes, uint32_t bits) { return __builtin_convertvector((vi)(lanes & ((1u << bits) - 1u)), vf); }
INLINE vu shift(vu lanes, vu counts, bool same)
{
    (void)same;
    return (vu)_mm256_srlv_epi32((__m256i)lanes, (__m256i)counts);
}
INLINE vf bytes(const uint8_t *p)
{
    return (vf)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}
INLINE vu repeat(const uint8_t *p, uint32_t words)
{
    const void *at = p;
    int64_t two;
    int32_t one;
    if (words == 8) return (vu)_mm256_loadu_si256((const __m256i *)at);
    if (words == 4) return (vu)_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)at));
    if (words == 2) return memcpy(&two, at, 8), (vu)_mm256_set1_epi64x(two);
    return memcpy(&one, at, 4), (vu)_mm256_set1_epi32(one);
}
INLINE void zip(vf a, vf b, vf *low, vf *high)
{
    const __m256 even = _mm256_unpacklo_ps((__m256)a, (__m256)b), odd = _mm256_unpackhi_ps((__m256)a, (__m256)b);
    *low = (vf)_mm256_permute2f128_ps(even, odd, 0x20);
    *high = (vf)_mm256_permute2f128_ps(even, odd, 0x31);
}
INLINE vf half_bytes(const uint8_t *p)
{
    const __m128i wide = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)(const void *)p));
    const __m128i sign = _mm_slli_epi16(_mm_and_si128(wide, _mm_set1_epi16(0x80)), 8);
    const __m128i rest = _mm_slli_epi16(_mm_and_si128(wide, _mm_set1_epi16(0x7f)), 7);
    return (vf)_mm256_cvtph_ps(_mm_or_si128(sign, rest));
}
INLINE vf level(vu states, const float *levels)
{
    return (vf)_mm256_i32gather_ps(levels, (__m256i)(states & (KVI_KV_STATES - 1u)), 4);
}
INLINE vf load_half(const uint8_t *side, uint32_t off, uint32_t i)
{
    return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(side + off + 2u * i)));
}
#else
typedef int kvi_packed_avx2_absent;
#endif
