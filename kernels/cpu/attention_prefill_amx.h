/* attention_prefill_amx.h - prefill attention of one page on AMX tiles: queries, keys, values and probabilities rounded to BF16 (8 bits), sums
 * and softmax in f32. Its results differ from the f32 path by those roundings, a limit of its own in the tests; whoever allows cpu.amx has
 * already allowed the same for the matrices around it. */
#ifndef KVI_CPU_ATTENTION_PREFILL_AMX_H
#define KVI_CPU_ATTENTION_PREFILL_AMX_H
#include <stddef.h>
#include <stdint.h>

#define KVI_AMX_GROUP 32u    /* queries of one call */
#define KVI_AMX_MAX_DIM 256u /* larger heads take the f32 path, which is tested with them on every CPU */
#define KVI_AMX_STEP 32u     /* k of a tile: head dimensions are padded to it with zeros */

static inline uint32_t kvi_amx_padded(uint32_t d) { return (d + KVI_AMX_STEP - 1) / KVI_AMX_STEP * KVI_AMX_STEP; }

/* One group of queries and one page of 128 positions; all pointers 64-byte aligned. */
typedef struct kvi_amx_page {
    uint32_t d;        /* a multiple of 16 */
    const uint16_t *q; /* (KVI_AMX_GROUP, padded d) BF16, times scale * log2(e) */
    const void *k;     /* (8, padded d / 32) tiles */
    const void *v;     /* (padded d / 16, 4) tiles */
    uint32_t begin[KVI_AMX_GROUP],
        end[KVI_AMX_GROUP]; /* positions of the page that each query sees; a place without a query: none */
    float *m, *l;           /* (KVI_AMX_GROUP) running maximum (of score * log2(e)) and sum */
    float *acc;             /* (KVI_AMX_GROUP, padded d) */
    float *scores;          /* (KVI_AMX_GROUP, 128) scratch */
    uint16_t *p;            /* (KVI_AMX_GROUP, 128) scratch */
} kvi_amx_page;

#if defined(__x86_64__)
/* Between these two the calling thread's tiles belong to the functions below. */
void kvi_amx_prefill_begin(void);
void kvi_amx_prefill_end(void);
/* One query: x (d) times factor, rounded, zeros up to the padded d. */
void kvi_amx_prefill_query(const float *x, float factor, uint32_t d, uint16_t *out);
/* Tiles of a matrix x (n_k rows, 16 columns from x on, rows `stride` floats apart): n_k / 32 tiles, pairs of rows interleaved; rows from n_valid
 * on are zero. n_k is a multiple of 32. */
void kvi_amx_prefill_pack(const float *x, size_t stride, uint32_t n_valid, uint32_t n_k, void *tiles);
/* The same for rows (n, n_k) of which the tiles' columns are made, 16 at a time, up to 128; rows from n on are zero. */
void kvi_amx_prefill_turn(const float *rows, uint32_t n, uint32_t n_k, void *tiles);
void kvi_amx_prefill_page(const kvi_amx_page *page);
#else /* never called: such a device has no AMX */
static inline void kvi_amx_prefill_begin(void) {}
static inline void kvi_amx_prefill_end(void) {}
static inline void kvi_amx_prefill_query(const float *x, float factor, uint32_t d, uint16_t *out)
{
    (void)x, (void)factor, (void)d, (void)out;
}
static inline void kvi_amx_prefill_pack(const float *x, size_t stride, uint32_t n_valid, uint32_t n_k, void *tiles)
{
    (void)x, (void)stride, (void)n_valid, (void)n_k, (void)tiles;
}
static inline void kvi_amx_prefill_turn(const float *rows, uint32_t n, uint32_t n_k, void *tiles)
{
    (void)rows, (void)n, (void)n_k, (void)tiles;
}
static inline void kvi_amx_prefill_page(const kvi_amx_page *page) { (void)page; }
#endif

#endif
