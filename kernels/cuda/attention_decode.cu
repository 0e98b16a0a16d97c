/* attention_decode.cu - the instantiations of attention_decode.cuh, one per page format and head dimension. The last number of KVI_KERNEL is
 * blocks per multiprocessor: what a lane keeps of 8- and 16-bit pages does not fit 168 registers without spills. */
#include "attention_decode.cuh"

#define KERNELS(D, wide, narrow)                                                                                       \
    KVI_KERNEL(attn_decode_f16_d##D, kvi_cuda_attention_params, 128, wide)                                             \
    {                                                                                                                  \
        attn_decode<D, key_f16<D>, value_f16<D>>(p);                                                                   \
    }                                                                                                                  \
    KVI_KERNEL(attn_decode_i8_d##D, kvi_cuda_attention_params, 128, wide)                                              \
    {                                                                                                                  \
        attn_decode<D, key_codes<D, 8>, value_codes<D, 8>>(p);                                                         \
    }                                                                                                                  \
    KVI_KERNEL(attn_decode_k4v4_d##D, kvi_cuda_attention_params, 128, narrow)                                          \
    {                                                                                                                  \
        attn_decode<D, key_codes<D, 4>, value_codes<D, 4>>(p);                                                         \
    }                                                                                                                  \
    KVI_KERNEL(attn_decode_k4v2_d##D, kvi_cuda_attention_params, 128, narrow)                                          \
    {                                                                                                                  \
        attn_decode<D, key_codes<D, 4>, value_codes<D, 2>>(p);                                                         \
    }

KERNELS(64, 2, 3)
KERNELS(128, 2, 3)
KERNELS(256, 2, 2)
