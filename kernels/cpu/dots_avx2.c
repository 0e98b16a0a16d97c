/* dots_avx2.c - integer kernels on AVX2: vpmaddubsw multiplies bytes and adds pairs in 16 bits. Small codes are summed there as long as nothing
 * can overflow. 255 * 127 * 2 does not fit: codes of 8 bits become signed; then a gemv gives their sign to the activation, and a gemm expands them to
 * 16 bits (lines_avx2.h). */
#if defined(__x86_64__)
#define WAY avx2
#include "lanes_avx2.h"
#define CHAINS 1u
#define BLOCKS 1u
#define GEMV_BLOCKS 1u
#define FEW 12u
#define BIAS(size) ((size) == 8u ? 128 : 0)
#define SIZES_DIFFER
#define OWN_LINES
#define WIDE(size) ((size) == 8u)
#include "dots_body.h"

INLINE __m256i word_at(const uint8_t *x)
{
    int32_t word;
    memcpy(&word, x, 4);
    return _mm256_set1_epi32(word);
}
#include "lines_avx2.h"

/* Products that fit into 16 bits: 2 * 15 * 127 * 8, 2 * 31 * 127 * 4, 2 * 63 * 127 * 2. */
#define FIT(size) ((size) == 4u ? 8u : (size) == 5u ? 4u : (size) == 6u ? 2u : 1u)

INLINE void dot_quads(vi *sums, uint32_t n_sums, const vu *w, uint32_t n, uint32_t size, const uint8_t *x,
                      size_t stride)
{
    const __m256i ones = _mm256_set1_epi16(1);
    const uint32_t fit = FIT(size);
    __m256i pairs = _mm256_setzero_si256();
    for (uint32_t i = 0; i < n; i++) {
        const __m256i a = word_at(x + stride * i);
        __m256i product;
        if (size < 8u) product = _mm256_maddubs_epi16((__m256i)w[i], a);
        else {
            const __m256i code = _mm256_xor_si256((__m256i)w[i], _mm256_set1_epi8((char)-128));
            product = _mm256_maddubs_epi16(_mm256_abs_epi8(code), _mm256_sign_epi8(a, code));
        }
        pairs = i % fit ? _mm256_add_epi16(pairs, product) : product;
        if (i % fit == fit - 1u || i == n - 1u) {
            vi *sum = &sums[i / fit % n_sums];
            *sum = (vi)_mm256_add_epi32((__m256i)*sum, _mm256_madd_epi16(pairs, ones));
        }
    }
}

/* Small codes are summed in 16 bits while they fit. A word of an activation is fetched once for 16 outputs. */
INLINE void dot_lines(vi (*ints)[PARTS], const uint8_t *line, uint32_t n, uint32_t size, const uint8_t *x,
                      size_t x_stride, uint32_t n_groups)
{
    (void)x_stride, (void)n_groups; /* one group */
    if (WIDE(size)) {
        for (uint32_t i = 0; i < n; i++) add_wide_line(ints, line + i * WIDE_LINE, x + i * GROUP_BYTES);
        return;
    }
    const uint32_t fit = FIT(size) < n ? FIT(size) : n;
#pragma GCC unroll 4
    for (uint32_t i = 0; i < n; i += fit) {
        __m256i pairs[KVI_DOTS_ROWS][PARTS];
#pragma GCC unroll 8
        for (uint32_t k = i; k < i + fit; k++)
            add_small_line(pairs, k == i, line + k * KVI_TILE_LINE, x + k * GROUP_BYTES);
        for (uint32_t j = 0; j < KVI_DOTS_ROWS; j++)
            for (uint32_t part = 0; part < PARTS; part++)
                ints[j][part] = (vi)_mm256_add_epi32((__m256i)ints[j][part],
                                                     _mm256_madd_epi16(pairs[j][part], _mm256_set1_epi16(1)));
    }
}
#else
typedef int kvi_dots_avx2_absent;
#endif
