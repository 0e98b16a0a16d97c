/* dots_avx2.c - integer kernels on AVX2: vpmaddubsw multiplies bytes and adds pairs in 16 bits. Small codes are summed there as long as nothing
 * can overflow; codes of 8 bits become signed and give their sign to the activation, since 255 * 127 * 2 does not fit. */
#if defined(__x86_64__)
#define WAY avx2
#include "lanes_avx2.h"
#define BLOCKS 1u
#define CHUNK 8u
#define BIAS(size) ((size) == 8u ? 128 : 0)
#define SIZES_DIFFER
#include "dots_body.h"

INLINE __m256i word_at(const uint8_t *x)
{
    int32_t word;
    memcpy(&word, x, 4);
    return _mm256_set1_epi32(word);
}
INLINE void dot_quads(vi *sum, const vu *w, uint32_t n, uint32_t size, const uint8_t *x)
{
    const __m256i ones = _mm256_set1_epi16(1);
    /* Products that fit into 16 bits: 2 * 15 * 127 * 8, 2 * 31 * 127 * 4, 2 * 63 * 127 * 2. */
    const uint32_t fit = size == 4u ? 8u : size == 5u ? 4u : size == 6u ? 2u : 1u;
    __m256i pairs = _mm256_setzero_si256();
    for (uint32_t i = 0; i < n; i++) {
        const __m256i a = word_at(x + 16u * i);
        __m256i product;
        if (size < 8u) product = _mm256_maddubs_epi16((__m256i)w[i], a);
        else {
            const __m256i code = _mm256_xor_si256((__m256i)w[i], _mm256_set1_epi8((char)-128));
            product = _mm256_maddubs_epi16(_mm256_abs_epi8(code), _mm256_sign_epi8(a, code));
        }
        pairs = i % fit ? _mm256_add_epi16(pairs, product) : product;
        if (i % fit == fit - 1u || i == n - 1u)
            *sum = (vi)_mm256_add_epi32((__m256i)*sum, _mm256_madd_epi16(pairs, ones));
    }
}
#else
typedef int kvi_dots_avx2_absent;
#endif
