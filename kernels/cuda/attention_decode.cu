/* attention_decode.cu - the instantiations of attention_decode.cuh, one per page format and head dimension. The last number of KVI_KERNEL is
 * blocks per multiprocessor, by which attention_cuda.c splits the context. */
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

KERNELS(64, KVI_DECODE_BLOCKS_WIDE, KVI_DECODE_BLOCKS_NARROW)
KERNELS(128, KVI_DECODE_BLOCKS_WIDE, KVI_DECODE_BLOCKS_NARROW)
KERNELS(256, KVI_DECODE_BLOCKS_256, KVI_DECODE_BLOCKS_256)
