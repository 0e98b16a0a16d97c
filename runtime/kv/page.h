/* page.h - what a page of the cache belongs to and what can be done to it: cache groups, conversions, the encoder's settings. */
#ifndef KVI_KV_PAGE_H
#define KVI_KV_PAGE_H
#include <stdbool.h>
#include "layout.h"

#define KVI_MAX_GROUPS 4u
#define KVI_KV_FORMATS (KVI_KV_CODES * KVI_KV_CODES)

/* One group of layers whose K/V live in the same pages. */
typedef struct kvi_cache_group {
    kvi_kv_shape shape;
    uint32_t window;   /* positions a query may see including itself; 0: all */
    bool rotate;       /* Hadamard along the head, block-diagonal over the largest power of two that divides head_dim */
    kvi_kv_code plain; /* code of unencoded pages (sink, tail): F32, F16 or BF16 */
    const float *
        scales; /* (n_layers, n_kv_heads, 2) of K and V, fixed ones of F8 and I8 sides (model/kv_scales.h), 0: none; NULL: no layer has */
    /* Plain pages keep some of their queries behind the records, for the rounding of K (encode.h): rows of head_dim bytes, layer-major, head-minor,
     * so many of each page and KV head; 0: none. A power of two, so that position t has rows [t n / 128, (t + 1) n / 128): row r is of the query
     * head r mod (query heads per KV head). */
    uint32_t n_queries;
    uint32_t units[KVI_KV_FORMATS]; /* pool units of a page by format (kvi_group_units); kvi_group_measure fills it */
} kvi_cache_group;

static inline uint32_t kvi_kv_format_index(kvi_kv_format format)
{
    return (uint32_t)KVI_KV_K_CODE(format) + KVI_KV_CODES * (uint32_t)KVI_KV_V_CODE(format);
}
static inline kvi_kv_format kvi_kv_format_of_index(uint32_t index)
{
    return KVI_KV_FORMAT(index % KVI_KV_CODES, index / KVI_KV_CODES);
}
/* Format of pages that are not encoded. */
static inline kvi_kv_format kvi_group_plain(const kvi_cache_group *group)
{
    return KVI_KV_FORMAT(group->plain, group->plain);
}
/* From the start of a plain page to its rows of queries of (layer of the group, KV head). */
static inline uint64_t kvi_group_queries_off(const kvi_cache_group *group, uint32_t layer, uint32_t head)
{
    const kvi_kv_shape *shape = &group->shape;
    return kvi_kv_page_bytes(kvi_group_plain(group), shape) +
           (uint64_t)(layer * shape->n_kv_heads + head) * group->n_queries * shape->head_dim;
}
/* As many rows as a head has dimensions, nearly: measured in README.md. */
static inline uint32_t kvi_kv_query_rows(uint32_t head_dim, uint32_t heads_per_kv_head)
{
    const uint32_t rows = head_dim <= 64 ? 64 : head_dim <= 128 || heads_per_kv_head < 2 ? 128 : 256;
    return rows;
}
/* Bytes of a page, queries included. */
static inline uint64_t kvi_group_page_bytes(const kvi_cache_group *group, kvi_kv_format format)
{
    return format == kvi_group_plain(group) ? kvi_group_queries_off(group, group->shape.n_layers, 0)
                                            : kvi_kv_page_bytes(format, &group->shape);
}
/* Once shape and queries are known. */
static inline void kvi_group_measure(kvi_cache_group *group)
{
    for (uint32_t i = 0; i < KVI_KV_FORMATS; i++)
        group->units[i] =
            (uint32_t)((kvi_group_page_bytes(group, kvi_kv_format_of_index(i)) + KVI_KV_UNIT - 1) / KVI_KV_UNIT);
}
static inline uint32_t kvi_group_units(const kvi_cache_group *group, kvi_kv_format format)
{
    return group->units[kvi_kv_format_index(format)];
}

/* One page to convert from a format to another: reads `from` (plain or packed), writes `to`. The two may overlap only when both start at the
 * same unit and `to` is not longer: in place. K is rounded in the metric of the queries that `from` and `next` keep, V in that of the attention of
 * `next`'s, `next` being the successor of the page, plain and complete; unit KVI_KV_NO_EXTENT: K by the page's own, V plainly. */
typedef struct kvi_page_job {
    uint32_t group;
    kvi_page_ref from, to, next;
} kvi_page_job;

/* Bytes to be copied within the pool; the two extents may overlap when `to` is the lower one. */
typedef struct kvi_extent_copy {
    uint32_t from_unit, to_unit, units;
} kvi_extent_copy;

/* How quantized pages are made (README.md beside this file says what each choice is worth); the stored format and the attention
 * kernels do not depend on it. */
typedef enum kvi_varnorm { KVI_VARNORM_OFF, KVI_VARNORM_PAPER, KVI_VARNORM_KVRT } kvi_varnorm;
typedef enum kvi_range { KVI_RANGE_MINMAX, KVI_RANGE_SEARCH, KVI_RANGE_UNBIASED } kvi_range;
typedef struct kvi_encode_params {
    kvi_varnorm varnorm;
    kvi_range range;
} kvi_encode_params;

#endif
