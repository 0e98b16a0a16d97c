/* dots_vnni256.h - integer kernels on vectors of 32 bytes with DPBUSD, which the including file defines: the library has it as AVX-VNNI, a test
 * as AVX-512-VNNI, since the processors that have one rarely have the other. */
#include "lanes_avx2.h"
#define CHAINS 2u
#define BLOCKS 1u
#define GEMV_BLOCKS 1u
#define FEW 12u
#define CHUNK 2u
#define BIAS(size) ((void)(size), 0)
#include "dots_body.h"

INLINE void dot_quads(vi *sums, uint32_t n_sums, const vu *w, uint32_t n, uint32_t size, const uint8_t *x,
                      size_t stride)
{
    (void)size;
    for (uint32_t i = 0; i < n; i++) {
        int32_t word;
        memcpy(&word, x + stride * i, 4);
        vi *sum = &sums[i % n_sums];
        *sum = (vi)DPBUSD((__m256i)*sum, (__m256i)w[i], _mm256_set1_epi32(word));
    }
}
