/* linear_params.h - parameters of embed, norm_rows, gemv and gemm. Shared by C and device code. */
#ifndef KVI_CUDA_LINEAR_PARAMS_H
#define KVI_CUDA_LINEAR_PARAMS_H
#include "params.h"

/* Types of elements in memory, as kvi_dtype. */
enum { KVI_CUDA_F32 = 0, KVI_CUDA_F16 = 1, KVI_CUDA_BF16 = 2 };
#define KVI_CUDA_OPERAND_BYTES 2u /* of an element that a tensor core multiplies */

/* A weight on the device; weights.cuh reads it. */
typedef struct kvi_cuda_matrix {
    kvi_dptr codes, scales;      /* scales 0: the form has none beside its codes */
    uint32_t pitch, scale_pitch; /* bytes from row to row, multiples of 16 */
} kvi_cuda_matrix;

/* What becomes of a finished sum. */
enum {
    KVI_CUDA_STORE,     /* y = capped(sum + bias), of type y_type */
    KVI_CUDA_ADD,       /* y += scale (sum + bias), f32 */
    KVI_CUDA_GATED,     /* two weights of the same shape: y = activation(first, second), of type y_type */
    KVI_CUDA_GATED_SIDE /* y = activation(sum, side), or activation(side, sum); side may be y itself */
};
/* As kvi_activation. */
enum { KVI_CUDA_SILU = 0, KVI_CUDA_GELU = 1, KVI_CUDA_GELU_TANH = 2, KVI_CUDA_SWIGLU_OAI = 3 };

#define KVI_CUDA_F16_MAX 65504.0f /* operands saturate there: one outlier must not become an infinity */

typedef struct kvi_cuda_embed_params {
    kvi_cuda_step_map step;
    kvi_cuda_matrix table; /* (vocab, n_cols) of `type` */
    kvi_dptr y;            /* (max_rows, y_pitch) of y_type */
    uint32_t type, n_cols, y_pitch, y_type;
    float scale;
} kvi_cuda_embed_params;

/* y[r, i] = n[order[i]] in 16 bits, n = rmsnorm(x[row]; gain, eps) or x[row] itself; row = r, or logit_rows[r]. */
typedef struct kvi_cuda_norm_params {
    kvi_cuda_step_map step;
    kvi_dptr x;     /* (max_rows, x_pitch) of x_type */
    kvi_dptr gain;  /* (n_cols) f32; 0: ones */
    kvi_dptr order; /* uint32 (n_cols); 0: i itself */
    kvi_dptr y;     /* (rows, y_pitch) of y_type */
    uint32_t n_cols, x_pitch, y_pitch, x_type, y_type;
    uint32_t norm;   /* 0: no division by the root of the mean square */
    uint32_t logits; /* the rows are those that need logits */
    float eps;
} kvi_cuda_norm_params;

/* y[r] = factor * (y[r] + scale * norm(x[r])), y f32; the norm is over runs of `run` columns, each by itself (program.h, LINEAR_ADD). */
typedef struct kvi_cuda_add_params {
    kvi_cuda_step_map step;
    kvi_dptr x;    /* (rows, x_pitch) of x_type */
    kvi_dptr gain; /* (run) f32; 0: ones */
    kvi_dptr
        gate; /* (rows, gate_pitch) of gate_type: column 0 by the logistic function multiplies what is added; 0: none */
    kvi_dptr factor; /* (1) f32; 0: 1 */
    kvi_dptr y;      /* (rows, y_pitch) f32, of y_type where fresh */
    uint32_t n_cols, run, x_pitch, x_type, y_pitch, y_type, gate_pitch, gate_type;
    uint32_t norm, fresh; /* fresh: y counts as zero */
    float eps, scale;
} kvi_cuda_add_params;

/* The last row of the step becomes the first, y[0] = x[n_rows - 1], elements of 2 or 4 bytes. */
typedef struct kvi_cuda_last_params {
    kvi_cuda_step_map step;
    kvi_dptr x, y; /* (max_rows, pitch) */
    uint32_t row_bytes, pitch_bytes;
} kvi_cuda_last_params;

/* Products of a mixture of experts: a row of y is a pair (token, choice), number token * top_k + choice, and the rows that a block computes are pairs
 * of one expert. sort_pairs makes the list of such tiles:
 *   uint32 (4): number of tiles, three unused;  kvi_cuda_tile_pairs (max_tiles);  uint32 (pairs): pairs sorted by expert */
typedef struct kvi_cuda_tile_pairs {
    uint32_t expert, first, n, unused; /* pairs [first, first + n) of the sorted ones */
} kvi_cuda_tile_pairs;
#define KVI_CUDA_LIST_HEAD 16u /* bytes */

typedef struct kvi_cuda_mixture {
    kvi_dptr list;      /* 0: a dense product, whose rows are rows of the step */
    uint64_t stride;    /* bytes from an expert's matrix to the next one's */
    uint32_t max_tiles; /* that the list has room for */
    uint32_t sharing;   /* pairs that have one row of x: top_k, or 1 */
} kvi_cuda_mixture;

/* chosen (rows, pitch): ids and weights of a row's experts, as ROUTE leaves them. */
typedef struct kvi_cuda_sort_params {
    kvi_cuda_step_map step;
    kvi_dptr chosen, list;
    uint32_t pitch, top_k, n_experts, max_tiles;
    uint32_t tile_rows; /* pairs of a tile, at most */
} kvi_cuda_sort_params;

/* Columns of what experts read, each in the order of its own: y[pair, i] = x[pair / sharing, order[expert of the pair, i]], 16 bits each; y may be
 * x where sharing is 1. */
typedef struct kvi_cuda_gather_params {
    kvi_cuda_step_map step;
    kvi_dptr x, y;   /* (rows, x_pitch), (pairs, y_pitch) */
    kvi_dptr order;  /* uint32 (n_experts, n_cols) */
    kvi_dptr chosen; /* as above */
    uint32_t n_cols, x_pitch, y_pitch, pitch, top_k, sharing;
} kvi_cuda_gather_params;

/* y[r] += scale * post_norm( sum over j of w_j x[r * top_k + j] ), w as chosen; x is used up. */
typedef struct kvi_cuda_add_pairs_params {
    kvi_cuda_step_map step;
    kvi_dptr x;      /* (rows * top_k, x_pitch) f32 */
    kvi_dptr chosen; /* as above */
    kvi_dptr gain;   /* (n_cols) f32; 0: ones */
    kvi_dptr y;      /* (rows, y_pitch) f32 */
    uint32_t n_cols, x_pitch, y_pitch, pitch, top_k;
    uint32_t norm;
    float eps, scale;
} kvi_cuda_add_pairs_params;

/* As kvi_route_score. */
enum { KVI_CUDA_ROUTE_SOFTMAX = 0, KVI_CUDA_ROUTE_SIGMOID = 1, KVI_CUDA_ROUTE_LOGITS = 2 };

/* From the router's logits s + bias to chosen (program.h, ROUTE). */
typedef struct kvi_cuda_route_params {
    kvi_cuda_step_map step;
    kvi_dptr logits;                 /* (rows, pitch) f32 */
    kvi_dptr bias, correction, gain; /* (n_experts) f32; 0: none */
    kvi_dptr chosen;                 /* (rows, chosen_pitch) f32 */
    uint32_t pitch, chosen_pitch, n_experts, top_k;
    uint32_t score; /* as kvi_route_score */
    uint32_t n_groups, top_groups, group_best, softmax_chosen, renormalize;
    float scale;
} kvi_cuda_route_params;
#define KVI_ROUTE_WARPS 4u
/* Floats of shared memory of a row: logits, what is chosen by, worth of the groups, weights of the chosen. */
KVI_HD static inline uint32_t kvi_cuda_route_floats(uint32_t n_experts, uint32_t n_groups, uint32_t top_k)
{
    return 2u * n_experts + n_groups + top_k;
}

/* y (rows, n_out) = x W^T over up to three weights side by side. The gemv normalizes x itself when it is to. */
typedef struct kvi_cuda_linear_params {
    kvi_cuda_step_map step;
    kvi_dptr x;           /* (rows, x_pitch) of x_type */
    kvi_dptr gain;        /* f32 (n_in); 0: ones */
    kvi_cuda_matrix w[3]; /* all of the form that the kernel is for */
    kvi_dptr bias[3];     /* f32; 0: none */
    kvi_dptr y;           /* (rows, y_pitch), columns y_first on */
    uint32_t end[3];      /* outputs of w[0], of w[0] and w[1], of all */
    uint32_t first_out;   /* row of w[0] that is output 0 */
    uint32_t n_in;
    uint32_t x_pitch, y_pitch, y_first;
    uint32_t x_type, y_type, action;
    uint32_t norm; /* x is normalized */
    uint32_t
        rows_first; /* of a gemv: blocks of other rows and the same outputs are neighbours, which find the weights in L2 */
    uint32_t logits; /* rows are counted by n_logit_rows */
    uint32_t gather; /* row r of x is logit_rows[r] */
    float eps;
    float scale;         /* of the sum, behind its bias */
    float softcap;       /* 0: none */
    uint32_t activation; /* of KVI_CUDA_GATED */
    float limit;         /* of KVI_CUDA_SWIGLU_OAI */
    uint32_t side_type, side_pitch, side_first, side_is_gate;
    kvi_dptr side; /* (rows, side_pitch), columns side_first on, of KVI_CUDA_GATED_SIDE */
    kvi_cuda_mixture mixture;
} kvi_cuda_linear_params;

#endif
