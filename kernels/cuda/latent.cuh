/* latent.cuh - what the kernels of latent attention share: elements of matrices
 * of any form, and a head's rotation in shared memory. */
#ifndef KVI_CUDA_LATENT_CUH
#define KVI_CUDA_LATENT_CUH
#include "latent_params.h"
#include "linear.cuh"
#include "tiles.cuh"
#include "warp.cuh"

KVI_DEV float kvi_value_at(kvi_dptr x, uint32_t type, uint64_t i)
{
    if (type == KVI_CUDA_F32) return ((const float *)x)[i];
    const uint32_t raw = ((const uint16_t *)x)[i];
    return type == KVI_CUDA_F16 ? kvi_f16_lo(raw) : kvi_bf16_lo(raw);
}
/* Places k .. k + 3 of a row, k a multiple of 4; zeros behind its end. */
KVI_DEV void kvi_quad_of(const kvi_cuda_any_matrix &m, const kvi_cuda_tile &tile, uint32_t row, uint32_t k,
                         float (&w)[4])
{
    if (!m.tiled) { /* rows end in zeros up to a multiple of eight */
        const unsigned char *at = (const unsigned char *)m.rows.codes + (uint64_t)row * m.rows.pitch;
        if (m.type == KVI_CUDA_F32) {
            const float4 v = *(const float4 *)(at + k * 4u);
            w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
            return;
        }
        const uint2 v = *(const uint2 *)(at + k * 2u);
        const bool f16 = m.type == KVI_CUDA_F16;
        w[0] = f16 ? kvi_f16_lo(v.x) : kvi_bf16_lo(v.x), w[1] = f16 ? kvi_f16_hi(v.x) : kvi_bf16_hi(v.x);
        w[2] = f16 ? kvi_f16_lo(v.y) : kvi_bf16_lo(v.y), w[3] = f16 ? kvi_f16_hi(v.y) : kvi_bf16_hi(v.y);
        return;
    }
    const kvi_tile &t = tile.form;
    const unsigned char *panel = (const unsigned char *)m.rows.codes + row / KVI_TILE_ROWS * t.panel_bytes;
    const unsigned char *block = kvi_tile_block_of(tile, panel, k);
    const uint32_t in_block = k % KVI_TILE_BLOCK;
    const unsigned char *run = block + kvi_tile_side_of(tile, k) + in_block / KVI_TILE_RUN * kvi_tile_run_bytes(&t);
    const uint32_t quad = kvi_tile_any_quad(t.bits, run, in_block % KVI_TILE_RUN / 4u, row % KVI_TILE_ROWS);
    float scale, offset;
    kvi_tile_scale_of(t, panel, t.whole_row ? panel : block, t.whole_row ? 1u : kvi_tile_groups_of(tile, k),
                      t.whole_row ? 0u : in_block / t.group, row % KVI_TILE_ROWS, scale, offset);
#pragma unroll
    for (uint32_t i = 0; i < 4u; i++) {
        const float code = kvi_tile_value(tile, quad >> 8u * i & 255u);
        const float v = t.offset == KVI_TILE_MINS ? kvi_mul_rn(code, scale) + offset : (code - offset) * scale;
        w[i] = k + i < m.n_in ? v : 0.0f;
    }
}

/* The column of place k. */
KVI_DEV uint32_t kvi_column_of(const kvi_cuda_any_matrix &m, uint32_t k)
{
    return m.order && k < m.n_in ? ((const uint32_t *)m.order)[k] : k;
}

/* x = x H for a row of n in shared memory, by one warp: block-diagonal over the
 * largest power of two that divides n. */
KVI_DEV void kvi_rotate_row(float *x, uint32_t n, uint32_t lane)
{
    const uint32_t size = n & (0u - n);
    kvi_sync_warp();
    for (uint32_t bit = 1; bit < size; bit *= 2u) {
        for (uint32_t i = lane; i < n / 2u; i += 32u) {
            const uint32_t at = i / bit * 2u * bit + i % bit;
            const float a = x[at], b = x[at + bit];
            x[at] = a + b;
            x[at + bit] = a - b;
        }
        kvi_sync_warp();
    }
    const float scale = kvi_div_rn(1.0f, kvi_sqrt_rn((float)size));
    for (uint32_t i = lane; i < n; i += 32u) x[i] *= scale;
    kvi_sync_warp();
}

#endif
