/* weight.h - what a model hands to a backend as a weight, and the handle it gets back. */
#ifndef KVI_WEIGHT_H
#define KVI_WEIGHT_H
#include <stdint.h>

typedef enum kvi_dtype { KVI_F32 = 0, KVI_F16 = 1, KVI_BF16 = 2 } kvi_dtype;
static inline uint32_t kvi_dtype_bytes(kvi_dtype dtype) { return dtype == KVI_F32 ? 4u : 2u; }

typedef struct kvi_weight_desc {
    const char *name; /* for messages; outlives the weight */
    kvi_dtype dtype;
    uint32_t n_out;     /* rows; 1 for a vector */
    uint32_t n_in;      /* columns, contiguous */
    uint32_t n_experts; /* above 1: so many matrices one after the other */
    float add;          /* vectors: added to every element on import (1 where a family stores gains as w - 1) */
    const void *data;   /* (n_out, n_in), in the map; may be unaligned for its type; outlives the weight */
} kvi_weight_desc;

typedef struct kvi_weight kvi_weight; /* the backend's own form; freed by device close */

#endif
