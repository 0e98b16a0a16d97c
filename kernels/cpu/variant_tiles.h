/* variant_tiles.h - f32 activations times the exact numbers of tiled weights: what cpu.exact computes with. Part of variant_body.h. */
#include "tile_unpack.h"

#define TILE_PIECE KVI_CPU_KC
typedef struct tile_piece {
    uint8_t lines[TILE_PIECE * KVI_TILE_ROWS] __attribute__((aligned(64)));
    float scales[TILE_PIECE / 16u * KVI_TILE_ROWS], offsets[TILE_PIECE / 16u * KVI_TILE_ROWS];
} tile_piece;

/* Column k of a piece, rows of a part, in the codec's order of operations. */
INLINE vf tile_values(const kvi_tile *t, const tile_piece *piece, uint32_t k, uint32_t part)
{
    const vu quad = load_line(piece->lines + k / 4u * KVI_TILE_LINE, part), code = (quad >> (k % 4u * 8u)) & 0xffu;
    const vf q = __builtin_convertvector((vi)code, vf);
    const uint32_t at = k / t->step * KVI_TILE_ROWS + part * VW;
    const vf scale = load(piece->scales + at), offset = load(piece->offsets + at);
    return t->offset == KVI_TILE_MINS ? q * scale + offset : (q - offset) * scale;
}

static const uint8_t *tile_panel(const kvi_weight *w, uint32_t expert, uint32_t panel)
{
    return w->panels + (expert * (uint64_t)kvi_tile_panels(&w->tile) + panel) * w->tile.panel_bytes;
}

static void gemv_tile(const kvi_weight *w, uint32_t expert, uint32_t first, uint32_t n_rows, const float *x,
                      uint32_t n_x, size_t ldx, float *y, size_t ldy)
{
    const kvi_tile *t = &w->tile;
    tile_piece piece;
    for (uint32_t p = first / KVI_TILE_ROWS; p * KVI_TILE_ROWS < first + n_rows; p++) {
        vf sums[4][PARTS];
        memset(sums, 0, sizeof sums);
        for (uint32_t k0 = 0; k0 < t->n_in; k0 += TILE_PIECE) {
            const uint32_t n = t->n_in - k0 < TILE_PIECE ? t->n_in - k0 : TILE_PIECE;
            unpack_panel(t, tile_panel(w, expert, p), k0, n, piece.lines, piece.scales, piece.offsets);
            for (uint32_t k = 0; k < n; k++)
                for (uint32_t part = 0; part < PARTS; part++) {
                    const vf values = tile_values(t, &piece, k, part);
                    for (uint32_t j = 0; j < n_x; j++)
                        sums[j][part] = fma_vec(values, splat(x[j * ldx + k0 + k]), sums[j][part]);
                }
        }
        for (uint32_t row = 0; row < KVI_TILE_ROWS; row++) {
            const uint32_t out = p * KVI_TILE_ROWS + row;
            for (uint32_t j = 0; j < n_x && out >= first && out < first + n_rows; j++)
                y[j * ldy + out - first] = sums[j][row / VW][row % VW];
        }
    }
}

static void pack_tile(const kvi_weight *w, uint32_t expert, uint32_t first, uint32_t n_rows, uint32_t k0, uint32_t n_k,
                      float *dst)
{
    tile_piece piece;
    memset(dst, 0, (size_t)n_k * PANEL * sizeof *dst);
    for (uint32_t p = first / KVI_TILE_ROWS; p * KVI_TILE_ROWS < first + n_rows; p++) {
        unpack_panel(&w->tile, tile_panel(w, expert, p), k0, n_k, piece.lines, piece.scales, piece.offsets);
        for (uint32_t k = 0; k < n_k; k++) {
            float values[KVI_TILE_ROWS];
            for (uint32_t part = 0; part < PARTS; part++)
                store(values + part * VW, tile_values(&w->tile, &piece, k, part));
            for (uint32_t row = 0; row < KVI_TILE_ROWS; row++) {
                const uint32_t out = p * KVI_TILE_ROWS + row;
                if (out >= first && out < first + n_rows) dst[(size_t)k * PANEL + out - first] = values[row];
            }
        }
    }
}
