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
    kvi_dptr y;            /* (max_rows, y_pitch) f32 */
    uint32_t type, n_cols, y_pitch;
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
    kvi_dptr y;      /* (rows, y_pitch) f32 */
    uint32_t n_cols, run, x_pitch, x_type, y_pitch, gate_pitch, gate_type;
    uint32_t norm, fresh; /* fresh: y counts as zero */
    float eps, scale;
} kvi_cuda_add_params;

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
    uint32_t norm;   /* x is normalized */
    uint32_t logits; /* rows are counted by n_logit_rows */
    uint32_t gather; /* row r of x is logit_rows[r] */
    float eps;
    float scale;         /* of the sum, behind its bias */
    float softcap;       /* 0: none */
    uint32_t activation; /* of KVI_CUDA_GATED */
    float limit;         /* of KVI_CUDA_SWIGLU_OAI */
    uint32_t side_type, side_pitch, side_first, side_is_gate;
    kvi_dptr side; /* (rows, side_pitch), columns side_first on, of KVI_CUDA_GATED_SIDE */
} kvi_cuda_linear_params;

#endif
