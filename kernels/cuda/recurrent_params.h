/* recurrent_params.h - parameters of the kernels of layers with a state: conv_state, delta_*, delta_norm. Shared by C and device code. */
#ifndef KVI_CUDA_RECURRENT_PARAMS_H
#define KVI_CUDA_RECURRENT_PARAMS_H
#include "linear_params.h"

/* Where the state of a sequence stands: pool + state_unit * KVI_KV_UNIT + off. */
typedef struct kvi_cuda_state {
    kvi_dptr pool;
    uint64_t off;
} kvi_cuda_state;

#define KVI_CONV_TAPS 8u  /* at most */
#define KVI_CONV_ROWS 16u /* of a block */
#define KVI_CONV_CHANNELS 128u

/* program.h, CONV_STATE. */
typedef struct kvi_cuda_conv_params {
    kvi_cuda_step_map step;
    kvi_cuda_state state; /* f32 (taps - 1, cols) */
    kvi_dptr x, y;        /* (max_rows, pitch) of a type */
    kvi_cuda_matrix w;    /* (cols, taps) of w_type */
    kvi_dptr bias;        /* f32 (cols); 0: none */
    uint32_t x_type, y_type, w_type, x_pitch, y_pitch, cols, taps;
} kvi_cuda_conv_params;

#define KVI_DELTA_TOKENS 16u  /* that are staged at a time */
#define KVI_DELTA_COLUMNS 32u /* of a block */

/* program.h, DELTA, without norm and gate. */
typedef struct kvi_cuda_delta_params {
    kvi_cuda_step_map step;
    kvi_cuda_state state;  /* f32 (n_heads, key_dim, value_dim) */
    kvi_dptr x, side;      /* q | k | v; b | a */
    kvi_dptr decay, shift; /* f32 (n_heads): A, dt; decay 0: there is none */
    kvi_dptr o;            /* f32 (max_rows, o_pitch): (n_heads, value_dim) */
    uint32_t x_type, side_type, x_pitch, side_pitch, o_pitch;
    uint32_t n_heads, n_key_heads, key_dim, value_dim, tiled;
} kvi_cuda_delta_params;

/* Shared memory of delta_*: of each token q and k (each `keys` wide), 32 values, and decay, beta, q . k. */
KVI_HD static inline uint32_t kvi_cuda_delta_token(uint32_t keys) { return 2u * keys + KVI_DELTA_COLUMNS + 4u; }
KVI_HD static inline uint32_t kvi_cuda_delta_shared(uint32_t keys)
{
    return KVI_DELTA_TOKENS * kvi_cuda_delta_token(keys) * 4u;
}

/* y[r, h] = norm(o[r, h]) * silu(gate[r, h]) */
typedef struct kvi_cuda_delta_norm_params {
    kvi_cuda_step_map step;
    kvi_dptr o;    /* as above */
    kvi_dptr gain; /* f32 (value_dim); 0: ones */
    kvi_dptr gate; /* 0: none */
    kvi_dptr y;
    uint32_t o_pitch, gate_pitch, y_pitch, gate_type, y_type;
    uint32_t n_heads, value_dim, norm;
    float eps;
} kvi_cuda_delta_norm_params;

#endif
