/* synthetic.cu - words that stand for K and V in measurements: different everywhere, the same for the same seed. */
#include "params.h"
#include "ptx.cuh"

KVI_KERNEL(fill_words, kvi_cuda_fill_params, 256, 4)
{
    const uint64_t stride = (uint64_t)gridDim.x * blockDim.x;
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < p.n_words; i += stride) {
        uint32_t h = (uint32_t)(i ^ p.seed) ^ (uint32_t)((i ^ p.seed) >> 32) * 0x9e3779b1u; /* murmur3's last mix */
        h = (h ^ (h >> 16)) * 0x85ebca6bu;
        h = (h ^ (h >> 13)) * 0xc2b2ae35u;
        ((uint32_t *)p.at)[i] = p.base | ((h ^ (h >> 16)) & p.mask);
    }
}
