/* attention_params.h - parameters of the kernels that read and write the KV cache: rope_append, attn_decode_*, attn_combine,
 * attn_prefill_*, kv_convert. Shared by C and device code. */
#ifndef KVI_CUDA_ATTENTION_PARAMS_H
#define KVI_CUDA_ATTENTION_PARAMS_H
#include "params.h"

/* Largest finite F16; what is stored in F16 saturates there, so that one outlier does not become an infinity for ever. */
#define KVI_F16_MAX 65504.0f

/* One layer of a cache group. */
typedef struct kvi_cuda_kv {
    kvi_dptr pool;
    uint32_t group, layer; /* layer inside the group */
    uint32_t n_kv_heads, head_dim;
    uint32_t window; /* positions that a query may see including itself; 0: all */
    uint32_t rotate;
} kvi_cuda_kv;

/* Rows of q | k | v heads as the linear operations leave them, 16-bit. */
typedef struct kvi_cuda_rope_params {
    kvi_cuda_step_map step;
    kvi_cuda_kv kv;
    kvi_dptr qkv;            /* (max_rows, pitch) F16 or BF16: n_heads + 2 n_kv_heads heads */
    kvi_dptr q_gain, k_gain; /* f32 (head_dim); 0: no norm */
    kvi_dptr turns;          /* double (n_dims / 2): inv_freq / 2 pi; 0: no RoPE */
    uint32_t pitch, n_heads, n_dims, bf16;
    uint32_t apart, next; /* pair i of RoPE: elements i next and i next + apart */
    float magnitude, eps;
} kvi_cuda_rope_params;

/* Partial results of decode attention, f32, one per (row, head, part): first all m and l, then all sums.
 *   ml  (max_rows, n_heads, n_parts, 2): largest score in powers of two, and sum of 2^(score - m); l = 0: nothing seen
 *   acc (max_rows, n_heads, n_parts, head_dim): sum of 2^(score - m) v, undefined where l is 0
 * n_parts = formats of the cache * n_splits. */
typedef struct kvi_cuda_attention_params {
    kvi_cuda_step_map step;
    kvi_cuda_kv kv;
    kvi_dptr q;   /* (max_rows, q_pitch), heads first */
    kvi_dptr out; /* (max_rows, out_pitch) */
    kvi_dptr ml, acc;
    uint32_t q_pitch, out_pitch;
    uint32_t bf16, out_bf16; /* q, out: BF16, else F16 */
    uint32_t n_heads;
    uint32_t n_splits, n_parts; /* n_splits = gridDim.x of every decode launch */
    uint32_t first_part;        /* of this launch's format */
    uint32_t format;            /* pages with another format belong to another launch */
    uint32_t causal;
    float scale_log2; /* scale * log2(e) */
} kvi_cuda_attention_params;

#endif
