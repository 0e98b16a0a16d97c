/* tile_gemv.cu - products of up to eight rows with quantized weights on tensor cores, and rows of quantized embeddings.
 *
 * A block owns a panel of 16 outputs (gate and up of them: two panels) for eight rows of x; its warps share the blocks of 256 columns among them, so
 * that a matrix of few outputs fills a card too. A warp brings its blocks, side and codes as they lie, into stages of its own in shared memory by
 * cp.async: no register waits for memory, and no warp for another before the end. Per k16 step the codes are the A operand (16 outputs), x is B
 * (8 rows; rows that are not there are zeros), sums of a group are exact products in f32; scale and offset meet that sum:
 *
 *     centred, zeros:  y += s (sum (code - z) x)          the zero is taken from the code
 *     mins:            y += s (sum code x) + m (sum x)    the sum of x is one more product, of ones
 *
 * A row's bits do not depend on its neighbours: the eight columns of the product never meet, and warps are added in one order.
 * Unproven: no card has timed this kernel. Bytes and instructions of a weight stand in README.md. */
#include "linear.cuh"
#include "tiles.cuh"

#define ONES 0x3c003c00u

/* Which panel a block works on: of weight j, the panel'th of it. */
struct tile_place {
    const unsigned char *panel;
    uint32_t weight, first_row; /* row of the weight that is the panel's first */
};
KVI_DEV tile_place place_of(const kvi_cuda_tile_params &p, uint32_t weight, uint32_t panel, uint32_t expert)
{
    const kvi_dptr at = weight == 0u ? p.panels[0] : weight == 1u ? p.panels[1] : p.panels[2];
    return tile_place{(const unsigned char *)at + expert * p.l.mixture.stride + panel * p.tile.form.panel_bytes, weight,
                      panel * KVI_TILE_ROWS};
}

template <class codes> struct tile_gemv {
    struct sums {
        float c[4], ones[4]; /* of the group, of x over it */
        float y[4];
    };

    static KVI_DEV void fetch(const kvi_cuda_tile &t, const unsigned char *panel, uint32_t k, unsigned char *stage,
                              uint32_t lane)
    {
        const unsigned char *from = kvi_tile_block_of(t, panel, k);
        const uint32_t runs = (kvi_tile_block_columns(&t.form, k) + KVI_TILE_RUN - 1u) / KVI_TILE_RUN;
        const uint32_t bytes = kvi_tile_side_of(t, k) + runs * (codes::bits * KVI_TILE_LINE);
        for (uint32_t at = lane * 16u; at < bytes; at += 512u) kvi_cp_async16(stage + at, from + at);
    }

    /* Scales and offsets of a block as f32: (groups, 16) each. */
    static KVI_DEV void open_side(const kvi_cuda_tile &t, const unsigned char *panel, const unsigned char *stage,
                                  uint32_t groups, float *side, uint32_t lane)
    {
        for (uint32_t i = lane; i < groups * KVI_TILE_ROWS; i += 32u) {
            float scale, offset;
            kvi_tile_scale_of(t.form, panel, stage, groups, i / KVI_TILE_ROWS, i % KVI_TILE_ROWS, scale, offset);
            side[i] = scale * codes::unit;
            side[groups * KVI_TILE_ROWS + i] = offset;
        }
    }

    static KVI_DEV void multiply(const kvi_cuda_tile &t, const unsigned char *run, uint32_t half, uint32_t lane,
                                 const uint2 &x, uint32_t bias0, uint32_t bias1, sums &s)
    {
        const uint32_t q = 4u * half + lane % 4u;
        const uint32_t first = kvi_tile_quad<codes::bits>(run, q, lane / 4u),
                       second = kvi_tile_quad<codes::bits>(run, q, lane / 4u + 8u);
        const uint32_t b[2] = {x.x, x.y};
        uint32_t w0[2], w1[2];
        codes::expand(t, first, bias0, w0);
        codes::expand(t, second, bias1, w1);
        const uint32_t a[4] = {w0[0], w1[0], w0[1], w1[1]};
        kvi_mma_f16(s.c, a, b);
        if (codes::twice) {
            codes::rest(t, first, w0);
            codes::rest(t, second, w1);
            const uint32_t rest[4] = {w0[0], w1[0], w0[1], w1[1]};
            kvi_mma_f16(s.c, rest, b);
        }
        if (t.form.offset == KVI_TILE_MINS) {
            const uint32_t ones[4] = {ONES, ONES, ONES, ONES};
            kvi_mma_f16(s.ones, ones, b);
        }
    }

    static KVI_DEV void flush(bool mins, float scale0, float scale1, float offset0, float offset1, sums &s)
    {
        s.y[0] = kvi_fma(scale0, s.c[0], s.y[0]);
        s.y[1] = kvi_fma(scale0, s.c[1], s.y[1]);
        s.y[2] = kvi_fma(scale1, s.c[2], s.y[2]);
        s.y[3] = kvi_fma(scale1, s.c[3], s.y[3]);
        if (mins) {
            s.y[0] = kvi_fma(offset0, s.ones[0], s.y[0]);
            s.y[1] = kvi_fma(offset0, s.ones[1], s.y[1]);
            s.y[2] = kvi_fma(offset1, s.ones[2], s.y[2]);
            s.y[3] = kvi_fma(offset1, s.ones[3], s.y[3]);
        }
        s.c[0] = s.c[1] = s.c[2] = s.c[3] = s.ones[0] = s.ones[1] = s.ones[2] = s.ones[3] = 0.0f;
    }

    /* One block of 256 columns from its stage. x: row g of the eight, from column 4t on; null: zeros. */
    static KVI_DEV void block(const kvi_cuda_tile &t, const unsigned char *panel, const unsigned char *stage,
                              float *side, const uint16_t *x, uint32_t k, uint32_t lane, sums &s)
    {
        const uint32_t g = lane / 4u, columns = kvi_tile_block_columns(&t.form, k);
        const uint32_t groups = t.form.whole_row ? 1u : kvi_tile_groups_of(t, k), x_end = (columns + 7u) / 8u * 8u;
        const unsigned char *run = stage + kvi_tile_side_of(t, k);
        const bool mins = t.form.offset == KVI_TILE_MINS;
        if (!t.form.whole_row) {
            open_side(t, panel, stage, groups, side, lane);
            kvi_sync_warp();
        }
        const uint32_t halves = (columns + 15u) / 16u;
        uint32_t group = 0;
        for (uint32_t first = 0; first < halves; first += t.flush, group++) {
            const uint32_t end = first + t.flush < halves ? first + t.flush : halves;
            const float *scale = side + group * KVI_TILE_ROWS + g, *offset = scale + groups * KVI_TILE_ROWS;
            const float offset0 = offset[0], offset1 = offset[8];
            const uint32_t bias0 = kvi_tile_bias(mins ? 0.0f : offset0), bias1 = kvi_tile_bias(mins ? 0.0f : offset1);
#pragma unroll 2
            for (uint32_t i = first; i < end; i++) {
                const bool there = x && i * 16u + lane % 4u * 4u < x_end;
                const uint2 v = there ? *(const uint2 *)(x + i * 16u) : make_uint2(0u, 0u);
                multiply(t, run + i / 2u * (codes::bits * KVI_TILE_LINE), i % 2u, lane, v, bias0, bias1, s);
            }
            flush(mins, scale[0], scale[8], offset0, offset1, s);
        }
    }

    /* The sums of a panel over this warp's blocks, to `out` (16, 8). */
    static KVI_DEV void panel(const kvi_cuda_tile_params &p, const unsigned char *panel, const uint16_t *x,
                              unsigned char *stages, uint32_t warp, uint32_t warps, uint32_t lane, float *out)
    {
        const kvi_cuda_tile &t = p.tile;
        float *side = (float *)(stages + KVI_TILE_STAGES * t.stage_bytes);
        const uint32_t stride = warps * KVI_TILE_BLOCK;
        sums s = {};
        if (t.form.whole_row) {
            open_side(t, panel, panel, 1, side, lane);
            kvi_sync_warp();
        }
        uint32_t next = warp * KVI_TILE_BLOCK;
#pragma unroll
        for (uint32_t i = 0; i < KVI_TILE_STAGES; i++, next += stride) {
            if (next < p.l.n_in) fetch(t, panel, next, stages + i * t.stage_bytes, lane);
            kvi_cp_commit(); /* empty groups too: the wait counts groups */
        }
        uint32_t stage = 0;
        for (uint32_t k = warp * KVI_TILE_BLOCK; k < p.l.n_in; k += stride, next += stride, stage ^= 1u) {
            unsigned char *at = stages + stage * t.stage_bytes;
            kvi_cp_wait<KVI_TILE_STAGES - 1>();
            kvi_sync_warp(); /* what other lanes brought */
            block(t, panel, at, side, x ? x + k : x, k, lane, s);
            kvi_sync_warp(); /* all are done with stage and side */
            if (next < p.l.n_in) fetch(t, panel, next, at, lane);
            kvi_cp_commit();
        }
        float *mine = out + lane / 4u * 8u + lane % 4u * 2u;
        mine[0] = s.y[0], mine[1] = s.y[1], mine[64] = s.y[2], mine[65] = s.y[3];
    }

    static KVI_DEV void run(const kvi_cuda_tile_params &p)
    {
        KVI_SHARED(unsigned char, shared); /* (warps, stages and side), then (2, warps, 16, 8) sums */
        const uint32_t lane = threadIdx.x % 32u, warp = threadIdx.x / 32u, warps = blockDim.x / 32u;
        const uint32_t at = p.l.rows_first ? blockIdx.y : blockIdx.x;
        const kvi_block_rows rows = kvi_block_rows_of(p.l, p.l.rows_first ? blockIdx.x : blockIdx.y, 8u);
        if (!rows.n) return; /* the whole block */
        const bool pair = p.l.action == KVI_CUDA_GATED;
        const uint32_t j = pair ? 0u : (at >= p.panel_end[0]) + (at >= p.panel_end[1]);
        const uint32_t own = at - (j == 0u ? 0u : j == 1u ? p.panel_end[0] : p.panel_end[1]);
        const tile_place first = place_of(p, j, own + (j == 0u ? p.first_panel : 0u), rows.expert);
        const uint32_t warp_bytes = kvi_cuda_tile_warp_bytes(&p.tile);
        float *all = (float *)(shared + warps * warp_bytes);
        const uint16_t *x = nullptr;
        if (lane / 4u < rows.n)
            x = (const uint16_t *)p.l.x + (uint64_t)rows.of_x(p.l, lane / 4u) * p.l.x_pitch + lane % 4u * 4u;
        unsigned char *stages = shared + warp * warp_bytes;
        panel(p, first.panel, x, stages, warp, warps, lane, all + warp * 128u);
        if (pair)
            panel(p, place_of(p, 1u, own, rows.expert).panel, x, stages, warp, warps, lane,
                  all + (warps + warp) * 128u);
        kvi_sync_block();
        for (uint32_t i = threadIdx.x; i < 128u; i += blockDim.x) { /* neighbours write neighbouring outputs */
            const uint32_t output = first.first_row + i % 16u;
            const uint32_t first_out = j == 0u ? p.l.first_out : 0u, begin = j == 0u ? 0u : p.l.end[j - 1u];
            if (i / 16u >= rows.n || output < first_out || output - first_out >= p.l.end[j] - begin) continue;
            const uint32_t o = begin + output - first_out;
            float v = 0.0f, up = 0.0f;
            for (uint32_t w = 0; w < warps; w++) {
                v += all[w * 128u + i % 16u * 8u + i / 16u];
                if (pair) up += all[(warps + w) * 128u + i % 16u * 8u + i / 16u];
            }
            v += kvi_bias_of(p.l, o, rows.expert);
            if (pair) v = kvi_gated(p.l, v, up + kvi_bias_of(p.l, p.l.end[0] + o, rows.expert));
            kvi_put(p.l, rows.of_y(i / 16u), o, v);
        }
    }
};

KVI_KERNEL(gemv_u2, kvi_cuda_tile_params, 128, 4) { tile_gemv<kvi_codes_integer<2>>::run(p); }
KVI_KERNEL(gemv_u3, kvi_cuda_tile_params, 128, 4) { tile_gemv<kvi_codes_integer<3>>::run(p); }
KVI_KERNEL(gemv_u4, kvi_cuda_tile_params, 128, 4) { tile_gemv<kvi_codes_integer<4>>::run(p); }
KVI_KERNEL(gemv_u5, kvi_cuda_tile_params, 128, 4) { tile_gemv<kvi_codes_integer<5>>::run(p); }
KVI_KERNEL(gemv_u6, kvi_cuda_tile_params, 128, 4) { tile_gemv<kvi_codes_integer<6>>::run(p); }
KVI_KERNEL(gemv_u8, kvi_cuda_tile_params, 128, 4) { tile_gemv<kvi_codes_integer<8>>::run(p); }
KVI_KERNEL(gemv_table4, kvi_cuda_tile_params, 128, 4) { tile_gemv<kvi_codes_table>::run(p); }
KVI_KERNEL(gemv_numbers4, kvi_cuda_tile_params, 128, 4) { tile_gemv<kvi_codes_numbers>::run(p); }
KVI_KERNEL(gemv_e4m3, kvi_cuda_tile_params, 128, 4) { tile_gemv<kvi_codes_e4m3>::run(p); }
KVI_KERNEL(gemv_e5m2, kvi_cuda_tile_params, 128, 4) { tile_gemv<kvi_codes_e5m2>::run(p); }

/* --------------------------------------------------------------------------------------------------- embeddings --- */
/* A block per row, a quad per thread and turn. */
KVI_KERNEL(embed_tile, kvi_cuda_embed_tile_params, 128, 4)
{
    const kvi_cuda_step *step = (const kvi_cuda_step *)p.step.step;
    const uint32_t r = blockIdx.x;
    if (r >= step->n_rows) return;
    const kvi_tile &t = p.tile.form;
    const uint32_t id = (uint32_t)((const int32_t *)p.step.ids)[r], row = id % KVI_TILE_ROWS;
    const unsigned char *panel = (const unsigned char *)p.panels + id / KVI_TILE_ROWS * t.panel_bytes;
    const uint32_t *order = (const uint32_t *)p.order;
    const uint64_t at = (uint64_t)r * p.y_pitch;
    for (uint32_t k = threadIdx.x * 4u; k < p.n_cols; k += blockDim.x * 4u) {
        const unsigned char *block = kvi_tile_block_of(p.tile, panel, k);
        const uint32_t in_block = k % KVI_TILE_BLOCK;
        const unsigned char *run =
            block + kvi_tile_side_of(p.tile, k) + in_block / KVI_TILE_RUN * kvi_tile_run_bytes(&t);
        const uint32_t quad = kvi_tile_any_quad(t.bits, run, in_block % KVI_TILE_RUN / 4u, row);
        float scale, offset;
        kvi_tile_scale_of(t, panel, t.whole_row ? panel : block, t.whole_row ? 1u : kvi_tile_groups_of(p.tile, k),
                          t.whole_row ? 0u : in_block / t.group, row, scale, offset);
        for (uint32_t i = 0; i < 4u && k + i < p.n_cols; i++) {
            const float code = kvi_tile_value(p.tile, quad >> 8u * i & 255u);
            const float v = t.offset == KVI_TILE_MINS ? kvi_mul_rn(code, scale) + offset : (code - offset) * scale;
            kvi_put_value(p.y, p.y_type, at + (order ? order[k + i] : k + i), p.scale * v);
        }
    }
}
