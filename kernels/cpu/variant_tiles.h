/* variant_tiles.h - f32 activations times the exact numbers of tiled weights: what cpu.exact computes with. Part of variant_body.h. */
#include "tile_unpack.h"

#define TILE_PIECE KVI_CPU_KC
typedef struct tile_piece {
    uint8_t lines[TILE_PIECE * KVI_TILE_ROWS] __attribute__((aligned(64)));
    float scales[TILE_PIECE / 16u * KVI_TILE_ROWS], offsets[TILE_PIECE / 16u * KVI_TILE_ROWS];
} tile_piece;

static const float tile_nf4[16] = {KVI_NF4_VALUES}, tile_bnb_fp4[16] = {KVI_BNB_FP4_VALUES};

/* E4M3 (shift 20, bias 120) and E5M2 (21, 112) from their bits: normal numbers by their exponent, the others by their mantissa. */
INLINE vf small_floats(vu code, uint32_t shift, uint32_t bias, float least)
{
    const vu size = code & 0x7fu, is_tiny = (vu)(size < (1u << (23u - shift)));
    const vf tiny = __builtin_convertvector((vi)size, vf) * least;
    const vu normal = (size << shift) + (bias << 23);
    return as_float((is_tiny & (vu)tiny) | (~is_tiny & normal) | (code & 0x80u) << 24);
}
INLINE vf float_codes(uint32_t values, vu code)
{
    if (values == KVI_TILE_NF4) return look_up_f32(code, tile_nf4);
    if (values == KVI_TILE_BNB_FP4) return look_up_f32(code, tile_bnb_fp4);
    if (values == KVI_TILE_OF_E4M3) {
        const vu nan = (vu)((code & 0x7fu) == 0x7fu) & 0x7fc00000u;
        return as_float((vu)small_floats(code, 20, 120, 0.001953125f) | nan); /* 2^-9 */
    }
    const vu special = (vu)((code & 0x7fu) > 0x7bu) & 0x7f800000u; /* infinity, NaN: the exponent is that of f32 */
    return as_float((vu)small_floats(code, 21, 112, 0.0000152587890625f) | special); /* 2^-16 */
}

/* Column k of a piece, rows of a part, in the codec's order of operations. */
INLINE vf tile_values(const kvi_tile *t, const tile_piece *piece, uint32_t k, uint32_t part)
{
    const vu quad = load_line(piece->lines + k / 4u * KVI_TILE_LINE, part), code = (quad >> (k % 4u * 8u)) & 0xffu;
    const vf q = t->values >= KVI_TILE_FLOATS ? float_codes(t->values, code) : __builtin_convertvector((vi)code, vf);
    const uint32_t at = k / t->step * KVI_TILE_ROWS + part * VW;
    const vf scale = load(piece->scales + at), offset = load(piece->offsets + at);
    if (t->values >= KVI_TILE_FLOATS) return q * scale;
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
        const bool whole = p * KVI_TILE_ROWS >= first && (p + 1) * KVI_TILE_ROWS <= first + n_rows;
        for (uint32_t k = 0; whole && k < n_k; k++)
            for (uint32_t part = 0; part < PARTS; part++)
                store(dst + (size_t)k * PANEL + (p * KVI_TILE_ROWS - first) + part * VW,
                      tile_values(&w->tile, &piece, k, part));
        for (uint32_t k = 0; !whole && k < n_k; k++) {
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
