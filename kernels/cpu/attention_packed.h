/* attention_packed.h - decode attention straight from packed records: no dequantized copy, the codes of a page go through registers once for
 * up to four queries (five on AMX). One table per instruction set, in f32 or as exact;
 * attention_packed_avx512vnni.c says what it rounds.
 *
 *   score[t] = O[t] * ( sum_d (q[d] A[d]) code[d][t]  +  sum_d q[d] Z[d] )
 *   out[d]   = O[d] * ( sum_t (p[t] A[t]) code[t][d]  +  sum_t p[t] Z[t] )                               (design: codec.h)
 *
 * and of trellis codes, whose mean no scale multiplies:
 *   score[t] = O[t] * sum_d (q[d] A[d]) level[d][t]  +  sum_d q[d] M[d]
 *   out[d]   = A[d] * sum_t (p[t] O[t]) level[t][d]  +  M[d] sum_t p[t] */
#ifndef KVI_CPU_ATTENTION_PACKED_H
#define KVI_CPU_ATTENTION_PACKED_H
#include "variants.h"
#include "../../runtime/kv/layout.h"

#define KVI_CPU_PACKED_HEADS                                                                                           \
    16u /* more query heads of a KV head than this pay for staging a page, unless there are tiles */
#define KVI_CPU_PACKED_DIM 512u /* head dimensions: multiples of 16 up to this */
#define KVI_CPU_TILES_DIM 256u  /* on tiles: up to this */
#define KVI_CPU_FIXED_DIM 256u  /* in fixed point alike */

/* Floats that a call may use at `scratch`, which is 64-byte aligned: too much for the stack of somebody else's thread. */
#define KVI_CPU_PACKED_SCRATCH (32u * (KVI_CPU_PACKED_DIM + 128u + 32u) + 2048u)

typedef struct kvi_cpu_packed {
    /* scores (n_q, 128) = q (n_q, d) . K^T of one page; side: the K side of a record in `code`. `next` is fetched into the cache meanwhile: the
     * same side of the next page, which no hardware prefetcher can guess; any address will do. */
    void (*score)(const uint8_t *side, kvi_kv_code code, uint32_t d, const float *q, uint32_t n_q, float *scores,
                  const uint8_t *next, float *scratch);
    /* acc (n_q, d) += p (n_q, 128) . V of one page; side: the V side. */
    void (*blend)(const uint8_t *side, kvi_kv_code code, uint32_t d, const float *p, uint32_t n_q, float *acc,
                  const uint8_t *next, float *scratch);
    /* Around any number of calls with that many queries on one thread; NULL: nothing to prepare. */
    void (*begin)(uint32_t n_q);
    void (*end)(void);
} kvi_cpu_packed;

extern const kvi_cpu_packed kvi_cpu_packed_portable;
#if defined(__x86_64__)
extern const kvi_cpu_packed kvi_cpu_packed_avx2, kvi_cpu_packed_avx512, kvi_cpu_packed_avx512vbmi,
    kvi_cpu_packed_avx512vnni, kvi_cpu_packed_amx;
#endif

/* The kernels for a side of that code; NULL: the page is staged as numbers instead, which pays with many query heads. `tiles` may be NULL; rings:
 * those of trellis codes; fixed: those of 4 and 2 bits in fixed point, or NULL. */
static inline const kvi_cpu_packed *kvi_cpu_packed_for(const kvi_cpu_variant *v, const kvi_cpu_tiles *tiles,
                                                       const kvi_cpu_packed *rings, const kvi_cpu_packed *fixed,
                                                       kvi_kv_code code, uint32_t d, uint32_t n_heads)
{
    if (kvi_kv_code_is_plain(code) || d % 16u != 0 || d > KVI_CPU_PACKED_DIM) return NULL;
    if (kvi_kv_code_is_trellis(code)) return rings;
    if (tiles && d <= KVI_CPU_TILES_DIM && (code == KVI_KV_I8 || code == KVI_KV_Q4 || code == KVI_KV_Q2))
        return tiles->packed;
    if (fixed && d <= KVI_CPU_FIXED_DIM && (code == KVI_KV_Q4 || code == KVI_KV_Q2)) return fixed;
    return n_heads > KVI_CPU_PACKED_HEADS ? NULL : v->packed;
}

#endif
