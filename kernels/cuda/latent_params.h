/* latent_params.h - parameters of the kernels of latent attention:
 * latent_append, latent_absorb, latent_attend, latent_leave. Shared by C and
 * device code. */
#ifndef KVI_CUDA_LATENT_PARAMS_H
#define KVI_CUDA_LATENT_PARAMS_H
#include "attention_params.h"
#include "tile_params.h"

/* A latent and its roped key, as wide as the kernels are made for; what a model
 * does not have of it is zeros. */
#define KVI_LATENT_RANK 512u
#define KVI_LATENT_ROPE 64u
#define KVI_LATENT_WIDTH (KVI_LATENT_RANK + KVI_LATENT_ROPE)

/* One layer of a latent group. The K side of a record is the latent, the V side the roped key (runtime/kv/layout.h). */
typedef struct kvi_cuda_latent {
    kvi_dptr pool;
    uint32_t group, layer, rank, rope, rotate;
    uint32_t bf16; /* unencoded pages are bf16 */
} kvi_cuda_latent;
KVI_HD static inline uint64_t kvi_cuda_latent_record(const kvi_cuda_latent *l, uint32_t format)
{
    const kvi_kv_shape shape = {1u, 1u, l->rank, l->rope};
    return (uint64_t)l->layer * kvi_kv_shape_record_bytes(format, &shape);
}

/* program.h, LATENT_APPEND; c and k leave for the page alone. */
typedef struct kvi_cuda_latent_append_params {
    kvi_cuda_step_map step;
    kvi_cuda_latent latent;
    kvi_dptr kv;    /* (max_rows, kv_pitch) of kv_type: c | k */
    kvi_dptr q;     /* (max_rows, q_pitch) of q_type: heads of key_dim + rope, in place */
    kvi_dptr gain;  /* f32 (rank); 0: ones */
    kvi_dptr turns; /* double (rope / 2): inv_freq / 2 pi; 0: no RoPE */
    uint32_t kv_pitch, q_pitch, kv_type, q_type, n_heads, key_dim;
    uint32_t norm, n_dims, apart, next; /* pairs of RoPE as in kvi_cuda_rope_params */
    float magnitude, eps;
} kvi_cuda_latent_append_params;

/* A matrix of plain numbers or in tile form. */
typedef struct kvi_cuda_any_matrix {
    kvi_cuda_matrix rows; /* tile form: codes are the panels */
    kvi_dptr order;       /* uint32 (n_in): the column that stands at each place; 0: its
                     own */
    uint32_t type;        /* of plain numbers, as kvi_dtype */
    uint32_t n_in, tiled;
} kvi_cuda_any_matrix;

/* Rows of a block, and its threads. */
#define KVI_LATENT_ROWS 8u
#define KVI_ABSORB_THREADS 512u
#define KVI_LEAVE_THREADS 256u

/* queries[r, h] = scale * ( H W_K^T q | q_rope ) in F16, (rows, n_heads,
 * KVI_LATENT_WIDTH) */
typedef struct kvi_cuda_latent_absorb_params {
    kvi_cuda_step_map step;
    kvi_cuda_any_matrix w; /* by_columns: W_K^T, rank rows a head of key_dim; else
                            W_K above W_V, key_dim + value_dim rows of rank */
    kvi_cuda_tile tile;
    kvi_dptr q, queries;
    uint32_t q_pitch, q_type, n_heads, key_dim, value_dim, rank, rope, rotate, by_columns;
    float scale; /* with log2(e) */
} kvi_cuda_latent_absorb_params;
/* Floats: (ROWS, rank) results, (ROWS, key_dim) queries. */
KVI_HD static inline uint32_t kvi_cuda_absorb_shared(uint32_t rank, uint32_t key_dim)
{
    return KVI_LATENT_ROWS * (rank + key_dim) * 4u;
}

/* A block is 16 (row, head) pairs of a sequence, every n_splits'th page.
 * Partial results as those of decode attention (attention_params.h), one per
 * (row, head, split), KVI_LATENT_RANK wide. */
typedef struct kvi_cuda_latent_attend_params {
    kvi_cuda_step_map step;
    kvi_cuda_latent latent;
    kvi_dptr queries, ml, acc;
    kvi_dptr levels; /* f32 (2, 64) of the trellis */
    uint32_t n_heads, n_splits, causal;
} kvi_cuda_latent_attend_params;

#define KVI_LATENT_TOKENS 16u /* of a stage */
#define KVI_LATENT_WARPS 4u
/* A warp's part of a stage: 128 columns of the latent, 16 of the roped key,
 * F16. */
#define KVI_LATENT_STAGE (KVI_LATENT_TOKENS * (KVI_LATENT_WIDTH / KVI_LATENT_WARPS) * 2u)
#define KVI_LATENT_EXCHANGE (KVI_LATENT_WARPS * 16u * KVI_LATENT_TOKENS * 4u) /* partial scores of all warps */
#define KVI_LATENT_LEVELS (2u * 64u * 4u)                                     /* of latent_attend_any */
#define KVI_LATENT_SHARED (2u * KVI_LATENT_WARPS * KVI_LATENT_STAGE + 2u * KVI_LATENT_EXCHANGE + KVI_LATENT_LEVELS)

/* out[r, h] = W_V of the merged sums, rotated back. */
typedef struct kvi_cuda_latent_leave_params {
    kvi_cuda_step_map step;
    kvi_cuda_any_matrix w; /* rows first_row + h * head_rows .. of head h */
    kvi_cuda_tile tile;
    kvi_dptr ml, acc, out; /* out (max_rows, out_pitch) of out_type */
    uint32_t out_pitch, out_type, n_heads, value_dim, rank, rotate, n_splits;
    uint32_t first_row, head_rows;
} kvi_cuda_latent_leave_params;
/* Floats: (ROWS, KVI_LATENT_RANK) sums, the same of every warp, and l of every
 * row and warp. */
#define KVI_LEAVE_SHARED                                                                                               \
    ((KVI_LATENT_ROWS + KVI_LEAVE_THREADS / 32u) * KVI_LATENT_RANK * 4u +                                              \
     KVI_LATENT_ROWS * KVI_LEAVE_THREADS / 32u * 4u)

#endif
