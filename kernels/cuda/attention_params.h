/* attention_params.h - parameters of the kernels that read and write the KV cache: rope_append_*, attn_decode_*, attn_any_*, attn_combine_*,
 * attn_prefill_*. Shared by C and device code. */
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
    kvi_dptr qkv;                    /* (max_rows, pitch) F16 or BF16: n_heads + 2 n_kv_heads heads */
    kvi_dptr q_gain, k_gain, v_gain; /* f32 (head_dim); 0: ones */
    kvi_dptr turns;                  /* double (n_dims / 2): inv_freq / 2 pi; 0: no RoPE */
    uint32_t pitch, n_heads, n_dims, bf16;
    uint32_t apart, next; /* pair i of RoPE: elements i next and i next + apart */
    float magnitude, eps;
    uint32_t q_norm, k_norm, v_norm; /* 0: none */
    uint32_t keys_as_values;         /* v is what k came in as */
    float q_growth;                  /* 0: none (program.h, ROPE_APPEND) */
    uint32_t q_growth_ctx;
    uint32_t queries_only; /* io has q alone, and nothing is appended */
    uint32_t plain_bf16;   /* what pages are appended to: BF16, else F16 */
    uint32_t n_queries;    /* rows that a plain page keeps of each KV head; 0: none */
    uint64_t queries_off;  /* from the start of a page to those of this layer */
} kvi_cuda_rope_params;

/* In place on io: q and k, each over all of its heads side by side. */
typedef struct kvi_cuda_norm_heads_params {
    kvi_cuda_step_map step;
    kvi_dptr io;             /* (max_rows, pitch) 16-bit: q (n_q), k (n_k), ... */
    kvi_dptr q_gain, k_gain; /* f32 (n_q), (n_k); 0: ones */
    uint32_t pitch, n_q, n_k, bf16;
    uint32_t q_norm, k_norm; /* 0: none */
    float q_eps, k_eps;
} kvi_cuda_norm_heads_params;

/* Decode attention: warps of a block, and the columns (query row, head) that it serves. */
#define KVI_DECODE_WARPS 4u
#define KVI_DECODE_COLS 8u
#define KVI_DECODE_FORMATS 5u /* f16, i8, k4v4, k4v2 have kernels; all others share one */

/* Blocks of attn_decode_* that a multiprocessor holds, by bits of a code and head dimension: what the kernels are compiled for (launch bounds),
 * and what the context is split by. Lanes of 8- and 16-bit pages keep more than 168 registers have room for. */
#define KVI_DECODE_BLOCKS_WIDE 2u   /* f16, i8 */
#define KVI_DECODE_BLOCKS_NARROW 3u /* k4v4, k4v2 of head dimension 64 and 128 */
#define KVI_DECODE_BLOCKS_256 2u

/* Floats from the sums of one pair of columns to the next: four beyond the pair, so that the four pairs of a warp lie in different banks. */
#define KVI_DECODE_PAIR(head_dim) (2u * (head_dim) + 4u)

/* Groups of eight columns that a block serves at most. Heads of 256 have one: their sums fill the shared memory. */
KVI_HD static inline uint32_t kvi_cuda_decode_groups(uint32_t head_dim) { return head_dim == 256u ? 1u : 4u; }

/* Bytes of shared memory: queries of all groups; behind them m and l, and the sums of four warps for eight columns each. At head dimension 256 sums
 * rest in shared memory between pages, and what is behind begins where the queries were. A word per warp behind all says whether it has pages. */
KVI_HD static inline uint32_t kvi_cuda_decode_results(uint32_t head_dim)
{
    return head_dim == 256u ? 0u : kvi_cuda_decode_groups(head_dim) * head_dim * 16u;
}
KVI_HD static inline uint32_t kvi_cuda_decode_flags(uint32_t head_dim)
{
    const uint32_t pages =
        head_dim * 16u + (head_dim == 256u ? KVI_DECODE_WARPS * KVI_DECODE_COLS * head_dim * 4u : 0u);
    const uint32_t end =
        kvi_cuda_decode_results(head_dim) +
        4u * KVI_DECODE_WARPS * (2u * KVI_DECODE_COLS + KVI_DECODE_COLS / 2u * KVI_DECODE_PAIR(head_dim));
    return pages > end ? pages : end;
}
KVI_HD static inline uint32_t kvi_cuda_decode_shared(uint32_t head_dim)
{
    return kvi_cuda_decode_flags(head_dim) + 4u * KVI_DECODE_WARPS;
}

/* attn_any_*: warps and columns of a block; tokens and channels that a warp expands at a time, halves from row to row of both orders of a stage. */
#define KVI_ANY_WARPS 4u
#define KVI_ANY_COLS 16u
#define KVI_ANY_TOKENS 16u
#define KVI_ANY_PIECE 128u
#define KVI_ANY_TURNED (KVI_ANY_TOKENS + 8u)
#define KVI_ANY_STRAIGHT (KVI_ANY_PIECE + 8u)
#define KVI_ANY_STAGE (KVI_ANY_TURNED * KVI_ANY_PIECE) /* halves: packed K takes more than the other */
#define KVI_ANY_LEVELS (2u * 64u * 4u)                 /* bytes: the levels of trellis.h, f32 */
#define KVI_ANY_BLOCKS 3u                              /* per multiprocessor, as for attn_decode */
#define KVI_ANY_BLOCKS_256 2u
#define KVI_CUDA_OTHER_FORMATS 0x100u /* pages whose format has no kernel of its own */
#define KVI_CUDA_EVERY_FORMAT 0x101u

/* Bytes of shared memory: levels, queries, a stage per warp; at the end m, l and the sums of all. */
KVI_HD static inline uint32_t kvi_cuda_any_shared(uint32_t head_dim, uint32_t width)
{
    const uint32_t pages = KVI_ANY_LEVELS + 2u * (KVI_ANY_COLS * (head_dim + 8u) + KVI_ANY_WARPS * KVI_ANY_STAGE);
    const uint32_t end = 4u * (2u * KVI_ANY_WARPS * KVI_ANY_COLS + KVI_ANY_COLS * (width + 8u));
    return pages > end ? pages : end;
}

/* Bytes of shared memory of attn_prefill: two stages of 4096 / D tokens, K in whichever of its two orders takes more, and V. */
KVI_HD static inline uint32_t kvi_cuda_prefill_shared(uint32_t head_dim)
{
    const uint32_t tokens = 4096u / head_dim, straight = (head_dim + 8u) * tokens, turned = (tokens + 8u) * head_dim;
    return 2u * 2u * ((straight > turned ? straight : turned) + straight);
}

/* Partial results of decode attention, f32, one per (row, head, part): first all m and l, then all sums.
 *   ml  (max_rows, n_heads, n_parts, 2): largest score in powers of two, and sum of 2^(score - m); l = 0: nothing seen
 *   acc (max_rows, n_heads, n_parts, head_dim): sum of 2^(score - m) v, undefined where l is 0
 * Every page format that the cache may hold has as many parts as its launch has splits. Parts of a format that the step does not have are not
 * written, and not read. */
typedef struct kvi_cuda_attention_params {
    kvi_cuda_step_map step;
    kvi_cuda_kv kv;
    kvi_dptr q;   /* (max_rows, q_pitch), heads first */
    kvi_dptr out; /* (max_rows, out_pitch) */
    kvi_dptr ml, acc;
    uint32_t q_pitch, out_pitch;
    uint32_t bf16, out_bf16; /* q, out: BF16, else F16 */
    uint32_t n_heads;
    uint32_t n_splits, n_parts; /* of this launch's format, of all */
    uint32_t first_part;        /* of this launch's format */
    uint32_t
        col_groups; /* blocks of columns: gridDim.x = n_splits * col_groups, those of one split side by side; behind the last they are empty */
    uint32_t first_row, n_rows; /* rows of the batch that the launch serves; partial results are theirs alone */
    uint32_t format;   /* pages with another format belong to another launch; attn_any_*: KVI_CUDA_*_FORMAT(S) */
    kvi_dptr levels;   /* f32 (2, 64): of trellis.h, of two bits and of three */
    uint32_t n_ranges; /* attn_combine: which parts were written */
    struct {
        uint32_t first, end;
    } ranges[KVI_DECODE_FORMATS];
    uint32_t causal;
    float scale_log2; /* scale * log2(e) */
    float cap,
        cap_inv; /* softcap * log2(e), and one divided by it; 0: none. Scores are in powers of two when it meets them */
    kvi_dptr sinks; /* f32 (n_heads): one more logit of each head; 0: none */
    kvi_dptr gate;  /* (max_rows, gate_pitch), columns as out: its logistic function multiplies the output; 0: none */
    uint32_t gate_pitch, gate_type; /* as kvi_dtype */
} kvi_cuda_attention_params;

#endif
