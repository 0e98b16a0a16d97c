/* dots_portable.c - integer kernels without instructions of their own, any architecture. */
#define WAY portable
#define ONE_KIND /* small instead of fast */
#include "lanes_portable.h"
#define CHAINS 1u
#define BLOCKS 1u
#define GEMV_BLOCKS 1u
#define FEW 8u
#define CHUNK 4u
#define BIAS(size) ((void)(size), 0)
#include "dots_body.h"

INLINE void dot_quads(vi *sums, uint32_t n_sums, const vu *w, uint32_t n, uint32_t size, const uint8_t *x,
                      size_t stride)
{
    (void)size;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < 4u; j++)
            sums[i % n_sums] += (vi)((w[i] >> (8u * j)) & 0xffu) * (int32_t)(int8_t)x[stride * i + j];
}
