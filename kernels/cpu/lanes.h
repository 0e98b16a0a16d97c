/* lanes.h - operations of vectors for which an instruction set has a single instruction and the compilers' vector extension no word. Included behind
 * runtime/base/simd.h, whose VB names the set. Every set has the same bits. */
#ifndef KVI_LANES_H
#define KVI_LANES_H
#include "../../runtime/base/simd.h"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

/* a where mask is -1, b where it is 0 */
INLINE vf choose(vi mask, vf a, vf b)
{
    vi x, y;
    memcpy(&x, &a, sizeof a);
    memcpy(&y, &b, sizeof b);
    x = (x & mask) | (y & ~mask);
    memcpy(&a, &x, sizeof x);
    return a;
}

/* least: a < b ? a : b; most: a > b ? a : b; madd_whole: a * b + c of whole numbers whose result is exact; pair_products: the sum of the products of
 * both signed 16-bit halves; nearest_code: |x| < 2^22 to the nearest whole number, ties to even, a zero of either sign. */
#if VB == 64 && defined(__AVX512BW__)
INLINE vf least(vf a, vf b) { return _mm512_min_ps(a, b); }
INLINE vf most(vf a, vf b) { return _mm512_max_ps(a, b); }
INLINE vf madd_whole(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vi pair_products(vi a, vi b) { return (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b); }
INLINE vf nearest_code(vf x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
#elif VB == 32 && defined(__AVX2__) && defined(__FMA__)
INLINE vf least(vf a, vf b) { return _mm256_min_ps(a, b); }
INLINE vf most(vf a, vf b) { return _mm256_max_ps(a, b); }
INLINE vf madd_whole(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vi pair_products(vi a, vi b) { return (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b); }
INLINE vf nearest_code(vf x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
#else
#if defined(__SSE2__)
INLINE vf least(vf a, vf b) { return _mm_min_ps(a, b); }
INLINE vf most(vf a, vf b) { return _mm_max_ps(a, b); }
INLINE vi pair_products(vi a, vi b) { return (vi)_mm_madd_epi16((__m128i)a, (__m128i)b); }
#else
INLINE vf least(vf a, vf b) { return choose(a < b, a, b); }
INLINE vf most(vf a, vf b) { return choose(a > b, a, b); }
INLINE vi pair_products(vi a, vi b) { return ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16); }
#endif
INLINE vf madd_whole(vf a, vf b, vf c) { return a * b + c; }
INLINE vf nearest_code(vf x) { return (x + splat(12582912.0f)) - splat(12582912.0f); }
#endif

#endif
