/* element.h - plain numbers in memory: activations, rows of an unencoded cache page, the scales of a weight. Shared by C and device code. */
#ifndef KVI_ELEMENT_H
#define KVI_ELEMENT_H
#include <stdint.h>

#ifdef __CUDACC__
#define KVI_HD __host__ __device__
#else
#define KVI_HD
#endif

typedef enum kvi_dtype { KVI_F32 = 0, KVI_F16 = 1, KVI_BF16 = 2 } kvi_dtype;
KVI_HD static inline uint32_t kvi_dtype_bytes(kvi_dtype dtype) { return dtype == KVI_F32 ? 4u : 2u; }

#endif
