/* tile_unpack.h - from panels of the tile form to bytes and f32 scales, in the vectors of one instruction set. Part of variant_body.h and of
 * dots_body.h, behind lanes_*.h. A panel of 16 rows is PARTS vectors of VW rows. */
#include "../tile_form.h"
#include "../../runtime/kv/half.h"

#define PARTS (KVI_TILE_ROWS / VW)
#define QUADS 4u /* groups of four k in half a run */

static const uint8_t tile_iq4[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
static const uint8_t tile_e2m1[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

INLINE vu load_line(const uint8_t *line, uint32_t part)
{
    vu v;
    memcpy(&v, line + part * VB, sizeof v);
    return v;
}

/* Codes 4 i .. 4 i + 3 of half a run (i < 4; half 0 or 1) for the rows of a part, a byte each. bits, values and i are constants. */
INLINE vu quad_of(const uint8_t *run, uint32_t half, uint32_t bits, uint32_t values, uint32_t i, uint32_t part)
{
    if (bits == 8u) return load_line(run + (4u * half + i) * KVI_TILE_LINE, part);
    vu codes = {0};
    if (bits >= 4u)
        codes = (load_line(run + (2u * half + i / 2u) * KVI_TILE_LINE, part) >> (i % 2u * 4u)) & 0x0f0f0f0fu;
    if (bits == 2u || bits == 3u) codes = (load_line(run + half * KVI_TILE_LINE, part) >> (i * 2u)) & 0x03030303u;
    if (bits == 6u) {
        const vu line = load_line(run + (4u + half) * KVI_TILE_LINE, part);
        codes |= i < 2u ? (line << (4u - i * 2u)) & 0x30303030u : (line >> (i * 2u - 4u)) & 0x30303030u;
    }
    if (bits == 5u || bits == 3u) { /* the top bit to its place */
        const vu line = load_line(run + (bits - 1u) * KVI_TILE_LINE, part);
        if (bits == 5u) codes |= ((half ? line : line << 4) >> i) & 0x10101010u;
        else codes |= ((half ? line >> 2 : line << 2) >> i) & 0x04040404u;
    }
    if (values == KVI_TILE_IQ4) codes = look_up(codes, tile_iq4);
    if (values == KVI_TILE_E2M1) codes = look_up(codes, tile_e2m1);
    return codes;
}

/* ------------------------------------------------------------------------------------------------------- scales --- */
INLINE vf halves_at(const uint8_t *p) /* VW numbers in F16 */
{
    uint16_t h[VW];
    memcpy(h, p, sizeof h);
    return widen_f16(h);
}
INLINE vu bytes_at(const uint8_t *p) /* VW bytes, a lane each */
{
    const vf wide = widen_u8(p);
    return __builtin_convertvector(wide, vu);
}
INLINE vf as_float(vu bits)
{
    vf v;
    memcpy(&v, &bits, sizeof v);
    return v;
}
INLINE vf signed_bytes_at(const uint8_t *p)
{
    const vf u = widen_u8(p);
    return u - as_float((vu)(u > 127.0f) & 0x43800000u); /* 256 less where the top bit is set */
}
INLINE vf plain_at(const uint8_t *p, uint32_t scale)
{
    if (scale == KVI_TILE_F16) return halves_at(p);
    vu bits = {0};
    if (scale == KVI_TILE_F32) memcpy(&bits, p, sizeof bits);
    else {
        vh h;
        memcpy(&h, p, sizeof h);
        bits = __builtin_convertvector(h, vu) << 16;
    }
    return as_float(bits);
}

/* Scale of group g of a side for the rows of a part. */
INLINE vf scale_of(uint32_t kind, const uint8_t *side, const uint8_t *scales, uint32_t bytes, uint32_t g, uint32_t part)
{
    const uint32_t at = g * KVI_TILE_ROWS + part * VW;
    switch (kind) {
    case KVI_TILE_SUB: return halves_at(side + 2u * part * VW) * signed_bytes_at(scales + at);
    case KVI_TILE_E8M0:
    case KVI_TILE_MX: {
        const vu e = bytes_at(scales + at), small = (vu)(e < 2u), nan = (vu)(e == 255u) & 0x7fc00000u;
        const vu bits = (small & (0x00200000u << (e & 1u))) | (~small & ((e - 1u) << 23));
        return as_float(kind == KVI_TILE_MX ? bits | nan : bits);
    }
    case KVI_TILE_E4M3: { /* its bits are those of an F16 of 2^-8 the size */
        const vu code = bytes_at(scales + at), bits = (code & 0x7fu) << 7 | (code & 0x80u) << 8;
        const vu nan = (vu)(code == 0xffu) & 0x7fc00000u;
        uint16_t h[VW];
        for (uint32_t i = 0; i < VW; i++) h[i] = (uint16_t)bits[i];
        return as_float((vu)(widen_f16(h) * 128.0f) | nan);
    }
    default: return plain_at(scales + at * bytes, kind);
    }
}

/* What belongs to it: zeros as numbers, or mins. */
INLINE vf offset_of_group(uint32_t kind, uint32_t offset, vf zero, const uint8_t *side, const uint8_t *offsets,
                          uint32_t bytes, uint32_t g, uint32_t part)
{
    const uint32_t at = g * KVI_TILE_ROWS + part * VW;
    if (offset == KVI_TILE_CENTRED) return zero;
    if (offset == KVI_TILE_ZEROS) return widen_u8(offsets + at);
    if (kind == KVI_TILE_SUB) return -(halves_at(side + 32u + 2u * part * VW) * widen_u8(offsets + at));
    return plain_at(offsets + at * bytes, kind);
}

/* A side of n groups as numbers: scales (n, 16), and offsets alike, zeros or mins. kind, offset and global are constants. */
INLINE void unpack_side_of(const kvi_tile *t, uint32_t kind, uint32_t offset, bool global, const uint8_t *panel,
                           const uint8_t *side, uint32_t n, float *scales, float *offsets)
{
    float factor = 1;
    if (global) memcpy(&factor, panel, 4);
    const uint32_t bytes = kvi_tile_scale_bytes(t);
    const uint8_t *stored_offsets = side + kvi_tile_offsets_at(t, n),
                  *stored = stored_offsets - n * KVI_TILE_ROWS * bytes;
    const vf zero =
        splat((float)t->zero); /* read once: what is stored below might be *t for all that a compiler knows */
    for (uint32_t g = 0; g < n; g++)
        for (uint32_t part = 0; part < PARTS; part++) {
            const vf scale = scale_of(kind, side, stored, bytes, g, part);
            store(scales + g * KVI_TILE_ROWS + part * VW, !global             ? scale
                                                          : t->global_divides ? scale / factor
                                                                              : scale * factor);
            store(offsets + g * KVI_TILE_ROWS + part * VW,
                  offset_of_group(kind, offset, zero, side, stored_offsets, bytes, g, part));
        }
}
/* The kinds that files mostly have in loops of their own: a gemv spends a third of its time here otherwise. */
static __attribute__((noinline)) void unpack_side(const kvi_tile *t, const uint8_t *panel, const uint8_t *side,
                                                  uint32_t n, float *scales, float *offsets)
{
#define SIDE(kind, offsets_are)                                                                                        \
    if (t->scale == (kind) && t->offset == (offsets_are) && !t->global) {                                              \
        unpack_side_of(t, kind, offsets_are, false, panel, side, n, scales, offsets);                                  \
        return;                                                                                                        \
    }
#ifndef ONE_KIND
    SIDE(KVI_TILE_F16, KVI_TILE_CENTRED)
    SIDE(KVI_TILE_F16, KVI_TILE_MINS)
    SIDE(KVI_TILE_F16, KVI_TILE_ZEROS)
    SIDE(KVI_TILE_BF16, KVI_TILE_CENTRED)
    SIDE(KVI_TILE_SUB, KVI_TILE_MINS)
    SIDE(KVI_TILE_SUB, KVI_TILE_CENTRED)
#endif
#undef SIDE
    unpack_side_of(t, t->scale, t->offset, t->global, panel, side, n, scales, offsets);
}
#define SIDE_FLOATS (KVI_TILE_BLOCK / 16u * KVI_TILE_ROWS) /* of a block, at most */

/* ------------------------------------------------------------------------------------------------------ panels --- */
/* X(bits, values): the kinds of codes there are, each with loops of its own where that pays. */
#ifdef ONE_KIND
#define TILE_KINDS(X) X(t->bits, values)
#else
#define TILE_KINDS(X)                                                                                                  \
    X(2, KVI_TILE_INTEGER)                                                                                             \
    X(3, KVI_TILE_INTEGER)                                                                                             \
    X(4, KVI_TILE_INTEGER)                                                                                             \
    X(5, KVI_TILE_INTEGER)                                                                                             \
    X(6, KVI_TILE_INTEGER)                                                                                             \
    X(8, KVI_TILE_INTEGER)                                                                                             \
    X(4, KVI_TILE_IQ4)                                                                                                 \
    X(4, KVI_TILE_E2M1)
#endif

INLINE void unpack_runs(const uint8_t *run, uint32_t n, uint32_t bits, uint32_t values, uint8_t *lines)
{
    for (; n; n--, run += bits * KVI_TILE_LINE)
        for (uint32_t half = 0; half < 2u; half++)
            for (uint32_t i = 0; i < QUADS; i++, lines += KVI_TILE_LINE)
                for (uint32_t part = 0; part < PARTS; part++) {
                    const vu quad = quad_of(run, half, bits, values, i, part);
                    memcpy(lines + part * VB, &quad, sizeof quad);
                }
}

/* Columns [k0, k0 + n_k) of a panel, k0 a multiple of 256: lines (n_k / 4, 16, 4) bytes, n_k rounded up to runs; scales and offsets, as
 * unpack_side has them, (n_k / step, 16), rounded up. */
static void unpack_panel(const kvi_tile *t, const uint8_t *panel, uint32_t k0, uint32_t n_k, uint8_t *lines,
                         float *scales, float *offsets)
{
    for (uint32_t k = k0; k < k0 + n_k; k += KVI_TILE_BLOCK) {
        const uint8_t *block = panel + kvi_tile_block_at(t, k), *codes = block + kvi_tile_block_side(t, k);
        const uint32_t left = k0 + n_k - k, n = left < KVI_TILE_BLOCK ? left : KVI_TILE_BLOCK;
        const uint32_t values = t->values >= KVI_TILE_FLOATS ? KVI_TILE_INTEGER : t->values; /* floats come as codes */
        const uint32_t n_runs = (n + KVI_TILE_RUN - 1u) / KVI_TILE_RUN, n_groups = kvi_tile_block_groups(t, k);
#define UNPACK(b, v)                                                                                                   \
    if (t->bits == (b) && values == (v)) unpack_runs(codes, n_runs, b, v, lines);
        TILE_KINDS(UNPACK)
#undef UNPACK
        lines += n_runs * 2u * QUADS * KVI_TILE_LINE;
        float groups[SIDE_FLOATS], group_offsets[SIDE_FLOATS];
        unpack_side(t, panel, t->whole_row ? panel : block, t->whole_row ? 1u : n_groups, groups, group_offsets);
        for (uint32_t s = 0; s < n; s += t->step, scales += KVI_TILE_ROWS, offsets += KVI_TILE_ROWS) {
            const uint32_t g = t->whole_row ? 0 : s / t->group * KVI_TILE_ROWS;
            memcpy(scales, groups + g, KVI_TILE_ROWS * sizeof *scales);
            memcpy(offsets, group_offsets + g, KVI_TILE_ROWS * sizeof *offsets);
        }
    }
}
