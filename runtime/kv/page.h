/* page.h - what a page of the cache belongs to and what can be done to it: cache groups, conversions, the encoder's settings. */
#ifndef KVI_KV_PAGE_H
#define KVI_KV_PAGE_H
#include <stdbool.h>
#include "layout.h"

#define KVI_MAX_GROUPS 4u

/* One group of layers whose K/V live in the same pages. */
typedef struct kvi_cache_group {
    kvi_kv_shape shape;
    uint32_t window;   /* positions a query may see including itself; 0: all */
    bool rotate;       /* Hadamard along the head, block-diagonal over the largest power of two that divides head_dim */
    kvi_kv_code plain; /* code of unencoded pages (sink, tail): F32, F16 or BF16 */
} kvi_cache_group;

/* One page to encode or to convert: reads `from` (plain or packed), writes `to` (which may overlap `from` only when both start at the
 * same unit and `to` is not longer: in-place demotion, done record by record through staging). */
typedef struct kvi_page_job {
    uint32_t group;
    kvi_page_ref from, to;
} kvi_page_job;

/* How quantized pages are made (README.md beside this file says what each choice is worth); the stored format and the attention
 * kernels do not depend on it. */
typedef enum kvi_varnorm { KVI_VARNORM_OFF, KVI_VARNORM_PAPER, KVI_VARNORM_KVRT } kvi_varnorm;
typedef enum kvi_range { KVI_RANGE_MINMAX, KVI_RANGE_SEARCH, KVI_RANGE_UNBIASED } kvi_range;
typedef struct kvi_encode_params {
    kvi_varnorm varnorm;
    kvi_range range;
} kvi_encode_params;

#endif
