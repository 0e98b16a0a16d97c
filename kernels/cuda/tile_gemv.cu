/* tile_gemv.cu - products of up to eight rows with quantized weights on tensor cores, and rows of quantized embeddings.
 *
 * A block owns a panel of 16 outputs (gate and up of them: two panels) for eight rows of x; its warps share the blocks of 256 columns among them, so
 * that a matrix of few outputs fills a card too. A warp brings its blocks, side and codes as they lie, into stages of its own in shared memory by
 * cp.async: no register waits for memory, and no warp for another before the end. Per k16 step the codes are the A operand (16 outputs), x is B
 * (8 rows), sums of a group are exact products in f32; scale and offset meet that sum:
 *
 *     centred, zeros:  y += s (sum (code - z) x)          the zero is taken from the code
 *     mins:            y += s (sum code x) + m (sum x)    the sum of x is one more product, of ones
 *
 * What a card's issue slots have to do per weight decides at small groups, so a run of 32 columns is two steps of one load (tiles.cuh), and the usual
 * scales, F16 and those of K quants, come to a lane as they lie, two rows of a group by one load. All others are made f32 first, a block at a time.
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

    /* Scales and offsets of a block as f32: (groups, 16) each; of every kind that lanes do not read as they lie. */
    static KVI_DEV void open_side(const kvi_cuda_tile &t, const unsigned char *panel, const unsigned char *stage,
                                  uint32_t groups, float *side, uint32_t lane)
    {
#pragma unroll 1
        for (uint32_t i = lane; i < groups * KVI_TILE_ROWS; i += 32u) {
            float scale, offset;
            kvi_tile_scale_of(t.form, panel, stage, groups, i / KVI_TILE_ROWS, i % KVI_TILE_ROWS, scale, offset);
            side[i] = scale;
            side[groups * KVI_TILE_ROWS + i] = offset;
        }
    }

    /* How scales of rows 2g and 2g + 1, and what belongs to them, come to a lane. */
    enum side_kind {
        OPENED, /* as open_side left them */
        HALVES, /* F16 scales, and mins */
        SUBS,   /* a factor of the block times a byte; mins likewise */
        POWERS, /* a byte e for 2^(e - 128), none of them below 2 or 255 */
        ANY_POWERS
    };
    struct scales {
        float2 scale, offset; /* offset: the zero as a number, or the min */
    };
    static KVI_DEV float2 halves_at(const unsigned char *at)
    {
        const uint32_t pair = *(const uint32_t *)at;
        return make_float2(kvi_f16_lo(pair), kvi_f16_hi(pair));
    }
    /* What belongs to the scales, known when the kernel is compiled or not. */
    enum side_mode { CENTRED, MINS, EITHER };
    template <side_kind kind, side_mode mode> struct side_of {
        const unsigned char *scale, *offset; /* of the group at hand */
        float2 factor, min_factor;
        KVI_DEV side_of(const kvi_tile &t, const unsigned char *stage, const float *opened, uint32_t groups, uint32_t g)
            : factor(make_float2(0.0f, 0.0f)), min_factor(make_float2(0.0f, 0.0f))
        {
            if (kind == OPENED) {
                scale = (const unsigned char *)(opened + 2u * g);
                offset = scale + groups * KVI_TILE_ROWS * 4u;
            } else {
                const unsigned char *offsets = stage + kvi_tile_offsets_at(&t, groups);
                const uint32_t each = kind == HALVES ? 2u : 1u;
                scale = offsets - groups * KVI_TILE_ROWS * each + 2u * each * g;
                offset = offsets + 2u * each * g;
                if (kind == SUBS) {
                    factor = halves_at(stage + 4u * g);
                    if (mode == MINS) min_factor = halves_at(stage + 32u + 4u * g);
                }
            }
        }
        /* Of the next group. */
        KVI_DEV void next(const kvi_tile &t, scales &out)
        {
            const bool stored = mode == EITHER ? t.offset != KVI_TILE_CENTRED : mode == MINS;
            if (kind == OPENED) {
                out.scale = *(const float2 *)scale;
                if (stored) out.offset = *(const float2 *)offset;
                scale += KVI_TILE_ROWS * 4u, offset += KVI_TILE_ROWS * 4u;
            } else if (kind == POWERS) {
                const uint32_t pair = *(const uint16_t *)scale;
                out.scale.x = kvi_bits_f32((pair << 23 & 0x7f800000u) - 0x00800000u);
                out.scale.y = kvi_bits_f32((pair << 15 & 0x7f800000u) - 0x00800000u);
                scale += KVI_TILE_ROWS;
            } else if (kind == ANY_POWERS) {
                out.scale = make_float2(kvi_tile_power(t, scale[0]), kvi_tile_power(t, scale[1]));
                scale += KVI_TILE_ROWS;
            } else if (kind == HALVES) {
                out.scale = halves_at(scale);
                if (stored) out.offset = halves_at(offset); /* zeros are opened */
                scale += KVI_TILE_ROWS * 2u, offset += KVI_TILE_ROWS * 2u;
            } else {
                const uint32_t bytes = *(const uint16_t *)scale;
                out.scale.x = kvi_mul_rn(factor.x, (float)(int32_t)(int8_t)(bytes & 255u));
                out.scale.y = kvi_mul_rn(factor.y, (float)(int32_t)(int8_t)(bytes >> 8));
                if (stored) {
                    const uint32_t mins = *(const uint16_t *)offset;
                    out.offset.x = -kvi_mul_rn(min_factor.x, (float)(mins & 255u));
                    out.offset.y = -kvi_mul_rn(min_factor.y, (float)(mins >> 8));
                }
                scale += KVI_TILE_ROWS, offset += KVI_TILE_ROWS;
            }
        }
    };

    static KVI_DEV void flush(bool mins, const scales &of, sums &s)
    {
        s.y[0] = kvi_fma(of.scale.x, s.c[0], s.y[0]);
        s.y[1] = kvi_fma(of.scale.x, s.c[1], s.y[1]);
        s.y[2] = kvi_fma(of.scale.y, s.c[2], s.y[2]);
        s.y[3] = kvi_fma(of.scale.y, s.c[3], s.y[3]);
        s.c[0] = s.c[1] = s.c[2] = s.c[3] = 0.0f;
        if (!mins) return;
        s.y[0] = kvi_fma(of.offset.x, s.ones[0], s.y[0]);
        s.y[1] = kvi_fma(of.offset.x, s.ones[1], s.y[1]);
        s.y[2] = kvi_fma(of.offset.y, s.ones[2], s.y[2]);
        s.y[3] = kvi_fma(of.offset.y, s.ones[3], s.y[3]);
        s.ones[0] = s.ones[1] = s.ones[2] = s.ones[3] = 0.0f;
    }

    template <bool sixteen> static KVI_DEV void biases_of(float first, float second, uint32_t (&bias)[2])
    {
        bias[0] = kvi_pack_f16(codes::base + first, codes::base + first);
        bias[1] = kvi_pack_f16(codes::high_base(sixteen) + second, codes::high_base(sixteen) + second);
    }

    template <bool sixteen>
    static KVI_DEV void multiply(const kvi_cuda_tile &t, const kvi_tile_words<codes::bits, sixteen> &words, int h,
                                 const uint32_t (&w0)[2][2], const uint32_t (&w1)[2][2], const uint4 &x, bool mins,
                                 sums &s)
    {
        const uint32_t b[2] = {h ? x.z : x.x, h ? x.w : x.y}, a[4] = {w0[h][0], w1[h][0], w0[h][1], w1[h][1]};
        kvi_mma_f16(s.c, a, b);
        if (codes::twice) {
            uint32_t r0[2], r1[2];
            codes::rest(t, words.quad(0, h), r0);
            codes::rest(t, words.quad(1, h), r1);
            const uint32_t rest[4] = {r0[0], r1[0], r0[1], r1[1]};
            kvi_mma_f16(s.c, rest, b);
        }
        if (mins) {
            const uint32_t ones[4] = {ONES, ONES, ONES, ONES};
            kvi_mma_f16(s.ones, ones, b);
        }
    }

    /* Columns of the lane's two quads of a run, from x on; zeros where fewer than `n` are left. */
    template <bool halves> static KVI_DEV uint4 x_of(const uint16_t *x, uint32_t at, uint32_t n)
    {
        uint4 v = make_uint4(0u, 0u, 0u, 0u);
        if (!halves) {
            if (at < n) v = *(const uint4 *)x;
            return v;
        }
        uint2 low = make_uint2(0u, 0u), high = low;
        if (at < n) low = *(const uint2 *)x;
        if (at + 16u < n) high = *(const uint2 *)(x + 16u);
        return make_uint4(low.x, low.y, high.x, high.y);
    }

    /* One block of 256 columns from its stage, run by run; sixteen: of groups of 16 columns; single: rows are whole runs
     * and a group is one, so that nothing is counted. */
    template <side_kind kind, side_mode mode, bool sixteen, bool single = false>
    static KVI_DEV void block(const kvi_cuda_tile &t, const unsigned char *stage, const float *opened, uint32_t groups,
                              const uint16_t *x, uint32_t k, uint32_t lane, sums &s)
    {
        constexpr bool halves = kvi_tile_words<codes::bits, sixteen>::halves;
        const uint32_t g = lane / 4u, q = lane % 4u, columns = kvi_tile_block_columns(&t.form, k);
        const uint32_t runs = (columns + KVI_TILE_RUN - 1u) / KVI_TILE_RUN, x_end = (columns + 7u) / 8u * 8u,
                       x_first = (halves ? 4u : 8u) * q;
        const unsigned char *run = stage + kvi_tile_side_of(t, k);
        const bool mins = mode == EITHER ? t.form.offset == KVI_TILE_MINS : mode == MINS,
                   zeros = mode == EITHER && t.form.offset == KVI_TILE_ZEROS;
        side_of<kind, mode> side(t.form, stage, opened, groups, g);
        scales of = {}, second = {};
        uint32_t bias0[2], bias1[2], left = 0; /* of rows 2g and 2g + 1; runs that the group still has */
        const float centre = mins ? 0.0f : (float)t.form.zero;
        biases_of<sixteen>(centre, centre, bias0);
        bias1[0] = bias0[0], bias1[1] = bias0[1];
#pragma unroll 2
        for (uint32_t i = 0; i < runs; i++, run += codes::bits * KVI_TILE_LINE, x += KVI_TILE_RUN) {
            const bool whole = !sixteen || 2u * i + 1u < groups; /* the second half has a group too */
            if (single || left == 0u) {
                side.next(t.form, of);
                if (sixteen && whole) side.next(t.form, second);
                if (zeros) {
                    biases_of<sixteen>(of.offset.x, sixteen ? second.offset.x : of.offset.x, bias0);
                    biases_of<sixteen>(of.offset.y, sixteen ? second.offset.y : of.offset.y, bias1);
                }
                left = sixteen ? 1u : t.flush / 2u;
            }
            kvi_tile_words<codes::bits, sixteen> words;
            uint4 v =
                x_of<halves>(x + x_first, single ? 0u : i * KVI_TILE_RUN + x_first, single ? KVI_TILE_RUN : x_end);
            if (codes::apart)
                v = make_uint4(kvi_prmt(v.x, v.y, 0x5410u), kvi_prmt(v.x, v.y, 0x7632u), kvi_prmt(v.z, v.w, 0x5410u),
                               kvi_prmt(v.z, v.w, 0x7632u));
            words.load(run, q, 2u * g);
            uint32_t w0[2][2], w1[2][2];
            codes::expand_words(t, words, 0, bias0[0], bias0[1], w0);
            codes::expand_words(t, words, 1, bias1[0], bias1[1], w1);
            multiply(t, words, 0, w0, w1, v, mins, s);
            if (sixteen) flush(mins, of, s);
            if (whole) multiply(t, words, 1, w0, w1, v, mins, s);
            if (single || --left == 0u) flush(mins, sixteen ? second : of, s);
        }
        if (!single && left) flush(mins, of, s);
    }
    /* Whether a scale of a block is one that POWERS does not have (or 2): all lanes get the answer. */
    static KVI_DEV bool has_other_powers(const unsigned char *stage, uint32_t groups, uint32_t lane)
    {
        uint32_t found = 0;
        for (uint32_t i = lane; i < groups * (KVI_TILE_ROWS / 4u); i += 32u) {
            const uint32_t e = ((const uint32_t *)stage)[i],
                           most = (((e & 0x7f7f7f7fu) + 0x01010101u) ^ (e & 0x80808080u)) & 0xfcfcfcfcu;
            found |= (most - 0x01010101u) & ~most & 0x80808080u; /* a byte of e + 1 that is below 4 */
        }
        return kvi_ballot(found != 0u) != 0u;
    }
    static constexpr bool has_subs = codes::bits != 8 && !codes::twice && !codes::powers,
                          subs_of_16 = KVI_CUDA_SUBS_OF_16((uint32_t)codes::bits),
                          subs_have_mins = !codes::table && KVI_CUDA_SUBS_HAVE_MINS((uint32_t)codes::bits);
    static KVI_DEV side_kind kind_of(const kvi_cuda_tile &t)
    {
        if (t.opens) return OPENED;
        if (codes::powers) return POWERS;
        return has_subs && t.form.scale == KVI_TILE_SUB ? SUBS : HALVES;
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
        const side_kind kind = kind_of(t);
        const bool single = t.flush == 2u && p.l.n_in % KVI_TILE_RUN == 0u;
        uint32_t next = warp * KVI_TILE_BLOCK;
#pragma unroll 1
        for (uint32_t i = 0; i < KVI_TILE_STAGES; i++, next += stride) {
            if (next < p.l.n_in) fetch(t, panel, next, stages + i * t.stage_bytes, lane);
            kvi_cp_commit(); /* empty groups too: the wait counts groups */
        }
        uint32_t stage = 0;
        for (uint32_t k = warp * KVI_TILE_BLOCK; k < p.l.n_in; k += stride, next += stride, stage ^= 1u) {
            unsigned char *at = stages + stage * t.stage_bytes;
            kvi_cp_wait<KVI_TILE_STAGES - 1>();
            kvi_sync_warp(); /* what other lanes brought */
            const uint32_t groups = t.form.whole_row ? 1u : kvi_tile_groups_of(t, k);
            const uint16_t *from = x + k;
            if (kind == OPENED && !t.form.whole_row) {
                open_side(t, panel, at, groups, side, lane);
                kvi_sync_warp();
            }
            if (kind == HALVES) {
                const bool mins = t.form.offset == KVI_TILE_MINS;
                if (single && !mins) block<HALVES, CENTRED, false, true>(t, at, side, groups, from, k, lane, s);
                else if (single) block<HALVES, MINS, false, true>(t, at, side, groups, from, k, lane, s);
                else if (mins) block<HALVES, MINS, false>(t, at, side, groups, from, k, lane, s);
                else block<HALVES, CENTRED, false>(t, at, side, groups, from, k, lane, s);
            } else if (has_subs && kind == SUBS) /* of 16 or 32, and rows of 256: as K quants are */
                block<SUBS, subs_have_mins ? MINS : CENTRED, subs_of_16, !subs_of_16>(t, at, side, groups, from, k,
                                                                                      lane, s);
            else if (codes::powers && kind == POWERS) {
                if (has_other_powers(at, groups, lane))
                    block<ANY_POWERS, CENTRED, false>(t, at, side, groups, from, k, lane, s);
                else if (single) block<POWERS, CENTRED, false, true>(t, at, side, groups, from, k, lane, s);
                else block<POWERS, CENTRED, false>(t, at, side, groups, from, k, lane, s);
            } else if (t.flush == 1u) block<OPENED, EITHER, true>(t, at, side, groups, from, k, lane, s);
            else block<OPENED, EITHER, false>(t, at, side, groups, from, k, lane, s);
            kvi_sync_warp(); /* all are done with stage and side */
            if (next < p.l.n_in) fetch(t, panel, next, at, lane);
            kvi_cp_commit();
        }
        float *mine = out + lane / 4u * 16u + lane % 4u * 2u; /* rows 2g and 2g + 1 */
#pragma unroll
        for (int i = 0; i < 4; i++) mine[8 * (i / 2) + i % 2] = codes::unit == 1.0f ? s.y[i] : s.y[i] * codes::unit;
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
        /* A row that is not there repeats the first: no column of a product meets another, and nobody reads it. */
        const uint32_t row = lane / 4u < rows.n ? lane / 4u : 0u;
        const uint16_t *x = (const uint16_t *)p.l.x + (uint64_t)rows.of_x(p.l, row) * p.l.x_pitch;
        unsigned char *stages = shared + warp * warp_bytes;
#pragma unroll 1
        for (uint32_t i = 0; i <= (pair ? 1u : 0u); i++)
            panel(p, i ? place_of(p, 1u, own, rows.expert).panel : first.panel, x, stages, warp, warps, lane,
                  all + (i * warps + warp) * 128u);
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
KVI_KERNEL(gemv_e2m1, kvi_cuda_tile_params, 128, 4) { tile_gemv<kvi_codes_e2m1>::run(p); }
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
