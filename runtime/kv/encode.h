/* encode.h - the encoder: 128 rotated K or V rows of one head to one side of a record.
 * Three separable stages: variance normalization finds one scale per column of the tile (K: per token, V: per channel); the range of each row
 * (K: per channel, V: per token) is its extremes or the best of a few shrunken ranges; then asymmetric round-to-nearest-even.
 *   varnorm paper  the published procedure (arXiv 2606.03458 as released: 8 log-domain iterations, floor -0.3, best iterate)
 *   varnorm kvrt   the tile's scale is removed first, no floor, two passes; only columns get factors, rows have ranges
 *   varnorm off    all scales 1: a rotation-only cache, or KIVI when the cache does not rotate either
 *   range minmax   extremes; search: least squared error; unbiased: smallest angle, then a scale without shrinkage; rounding with feedback has
 *                  ranges of its own
 * What each of them is worth is measured in README.md. Head dimensions are multiples of 16 for integer codes below 8 bits.
 * Input may hold anything: NaN counts as 0, magnitudes above 60000 saturate, so that a record never decodes to NaN. */
#ifndef KVI_KV_ENCODE_H
#define KVI_KV_ENCODE_H
#include <stddef.h>
#include "codec.h"
#include "page.h"

/* Floats of scratch for head dimension d. */
static inline uint32_t kvi_kv_encode_scratch(uint32_t d)
{
    const uint32_t metric = d < KVI_KV_PAGE ? KVI_KV_PAGE : d; /* rows of K's, of V's */
    return 3u * d * KVI_KV_PAGE + 6u * (d + KVI_KV_PAGE) + metric * (metric + 32u);
}

/* Rotated queries in whose metric K is rounded, and V in that of their attention (feedback.h): some of the page's and some of its successor's, rows
 * of d numbers as `query` writes them. At most 512 rows in each: sums of products stay below 2^24. keys: of V alone, the page's (128, d), rotated;
 * NULL, or no query of the successor: V is rounded plainly. */
typedef struct kvi_kv_queries {
    const int8_t *rows[2];
    uint32_t n_rows[2];
    const float *keys;
} kvi_kv_queries;

/* rows (128, d) f32, row-major by token, rotated. `side` (kvi_kv_k_side(kind, d).bytes) is overwritten. Every table writes the same bytes. */
typedef struct kvi_kv_encoder {
    void (*k)(kvi_kv_code kind, const float *rows, uint32_t d, const kvi_encode_params *params,
              const kvi_kv_queries *queries, float *scratch, uint8_t *side); /* queries NULL: rounded plainly */
    void (*v)(kvi_kv_code kind, const float *rows, uint32_t d, const kvi_encode_params *params,
              const kvi_kv_queries *queries, float *scratch, uint8_t *side); /* the same */
    /* A rotated query (d), to whole numbers of -127..127: its direction, as all queries count the same. */
    void (*query)(const float *q, uint32_t d, int8_t *out);
} kvi_kv_encoder;
extern const kvi_kv_encoder kvi_kv_encoder_portable;
#if defined(__x86_64__)
extern const kvi_kv_encoder kvi_kv_encoder_avx2, kvi_kv_encoder_avx512; /* only on CPUs that have them */
#endif
static inline void kvi_kv_encode_k(kvi_kv_code kind, const float *rows, uint32_t d, const kvi_encode_params *params,
                                   float *scratch, uint8_t *side)
{
    kvi_kv_encoder_portable.k(kind, rows, d, params, NULL, scratch, side);
}
static inline void kvi_kv_encode_v(kvi_kv_code kind, const float *rows, uint32_t d, const kvi_encode_params *params,
                                   float *scratch, uint8_t *side)
{
    kvi_kv_encoder_portable.v(kind, rows, d, params, NULL, scratch, side);
}
/* F8 and I8 with one scale for all rows, from elsewhere: code = x / scale, which saturates (I8: -128 to 127, around zero); x reads back as
 * code * scale. The side holds the scale as F16, and codes are made with that. */
void kvi_kv_encode_fixed(kvi_kv_code kind, bool is_v, const float *rows, uint32_t d, float scale, uint8_t *side);
/* All 128 rows back to f32. */
void kvi_kv_decode_rows(const uint8_t *side, kvi_kv_code kind, bool is_v, uint32_t d, float *rows);

/* The normalization alone, for tests and studies: x (n_rows, n_cols), both multiples of 16, gives column factors c and row factors r. `best` and
 * `imbalance` (9 values: start and after each iteration) may be NULL. scratch: as of kvi_kv_encode_scratch for the larger of the two. */
void kvi_kv_varnorm_paper(const float *x, uint32_t n_rows, uint32_t n_cols, float *c, float *r, float *scratch,
                          int *best, double *imbalance);

#endif
