/* dots_avx512vnni.c - integer kernels with vpdpbusd on vectors of 64 bytes: a line at a time. */
#if defined(__x86_64__)
#define WAY avx512vnni
#include "lanes_avx512.h"
#define CHAINS 4u
#define BLOCKS 3u
#define GEMV_BLOCKS 2u
#define FEW 64u
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
        *sum = (vi)_mm512_dpbusd_epi32((__m512i)*sum, (__m512i)w[i], _mm512_set1_epi32(word));
    }
}
#else
typedef int kvi_dots_avx512vnni_absent;
#endif
