/* tile_params.h - parameters of the kernels that read quantized weights: embed_tile, gemv_* and gemm_* of tiles. Shared by C and device code. */
#ifndef KVI_CUDA_TILE_PARAMS_H
#define KVI_CUDA_TILE_PARAMS_H
#include "linear_params.h"
#include "../tile_form.h"

/* Of the K quants each width has one kind of groups and mins: Q2_K, Q3_K, Q6_K groups of 16; Q2_K, Q4_K, Q5_K mins. A gemv knows these alone as they
 * lie. */
#define KVI_CUDA_SUBS_OF_16(bits) ((bits) < 4u || (bits) == 6u)
#define KVI_CUDA_SUBS_HAVE_MINS(bits) ((bits) == 2u || (bits) == 4u || (bits) == 5u)

/* The tile form of a weight with what follows from it once for all, so that no kernel divides. */
typedef struct kvi_cuda_tile {
    kvi_tile form;
    uint32_t first_block, block_bytes; /* bytes from the start of a panel to its first block, from block to block */
    uint32_t side, groups;             /* of every block but the last: bytes, groups of a row (0: the row's) */
    uint32_t last_block, last_side, last_groups; /* column where the last block begins, and its own */
    uint32_t flush;                              /* k16 steps that share scales: of a group, or of a block */
    uint32_t stage_bytes;                        /* of the longest block */
    uint32_t opens; /* whether a gemv makes scales f32 first: lanes do not read those of this form as they lie */
    /* What codes mean: 16 bytes (IQ4, E2M1), or four times 16 (NF4): low and high bytes of an f16, and of the f16 that is added to
     * it, of 1,024 times the number. */
    uint32_t tables[16];
} kvi_cuda_tile;

/* y (rows, n_out) = x W^T; x is F16 and ends in zeros up to a multiple of 8 columns. l.w is unused, l.end counts outputs. */
typedef struct kvi_cuda_tile_params {
    kvi_cuda_linear_params l;
    kvi_cuda_tile tile;
    kvi_dptr panels[3];
    uint32_t panel_end[3]; /* panels of the first weight that take part, of the first two, of all */
    uint32_t first_panel;  /* of the first weight: the one with row l.first_out */
} kvi_cuda_tile_params;

/* out[r] = scale * row ids[r] of a table in tile form. */
typedef struct kvi_cuda_embed_tile_params {
    kvi_cuda_step_map step;
    kvi_cuda_tile tile;
    kvi_dptr panels, order; /* order: uint32 (n_cols), the column that stands at each place; 0: its own */
    kvi_dptr y;             /* (max_rows, y_pitch) of y_type */
    uint32_t n_cols, y_pitch, y_type;
    float scale;
} kvi_cuda_embed_tile_params;

/* Shared memory of gemv: per warp two stages of a block and, where it opens them, scales and offsets of its groups as f32;
 * then the sums of all warps, two panels of
 * (16, 8). */
#define KVI_TILE_STAGES 2u
KVI_HD static inline uint32_t kvi_cuda_tile_warp_bytes(const kvi_cuda_tile *t)
{
    const uint32_t some = t->groups > t->last_groups ? t->groups : t->last_groups, groups = some ? some : 1u;
    return KVI_TILE_STAGES * t->stage_bytes + (t->opens ? 2u * 4u * groups * KVI_TILE_ROWS : 0u);
}
#define KVI_TILE_SUM_BYTES (2u * 16u * 8u * 4u) /* of a warp */

#endif
