/* tile_gemm.cuh - matrix products of prefill with quantized weights: y (rows, n_out) = x W^T on tensor cores, x in F16, sums in f32.
 *
 * As gemm.cu: a block computes tile_m rows by tile_n outputs, a run of 32 columns at a time, through stages of cp.async. What differs is W: its runs
 * come as they lie in the tile form (tiles.cuh), 16 outputs in bits * 64 bytes, and codes become f16 in registers, as the B operand. Scales stay
 * f32 and meet the sum of a run, so that nothing is rounded but x. They are decoded by the threads of the block, one output each, while the stage
 * before is multiplied: the loads are issued in front of the products and are used behind them.
 *
 *   stage: tile_m rows of x, 32 halves each; tile_n / 16 runs of codes; then (2 halves, scale and offset, tile_n) f32
 *   chunk c of row r of x stands at place c ^ 2 (r / 2 % 2): a lane takes a quad, 8 bytes, and the 16 lanes that are served at once
 *   (rows g .. g + 3) then touch all 32 banks once.
 *
 * Outputs: place u of 8 outputs belongs to panel u / 4 * 2 + u % 2 of the block, half u / 2 % 2 of it. For gate and up even panels are gate's and odd
 * ones up's, and a thread holds both sums of a column.
 * Unproven: no card has timed this kernel. */
#ifndef KVI_CUDA_TILE_GEMM_CUH
#define KVI_CUDA_TILE_GEMM_CUH
#include "linear.cuh"
#include "tiles.cuh"

#define ROW_BYTES (KVI_TILE_RUN * KVI_CUDA_OPERAND_BYTES)
#define ONES 0x3c003c00u

template <class codes, int tile_m, int tile_n, int warps_m, int warps_n, int stages> struct tile_gemm {
    static constexpr uint32_t threads = 32 * warps_m * warps_n, panels = tile_n / 16;
    static constexpr uint32_t run_bytes = codes::bits * KVI_TILE_LINE, codes_at = tile_m * ROW_BYTES,
                              side_at = codes_at + panels * run_bytes, stage_bytes = side_at + 16 * tile_n;
    static constexpr int m_tiles = tile_m / warps_m / 16, n_tiles = tile_n / warps_n / 8; /* of mma, per warp */
    static constexpr int x_copies = tile_m * 4 / threads, w_chunks = panels * run_bytes / 16,
                         w_copies = (w_chunks + threads - 1) / threads;
    static_assert(2 * tile_n == threads, "a thread has an output's scale of half a run");

    struct side {
        float scale, offset;
    };

    static KVI_DEV uint32_t place_of(uint32_t row, uint32_t chunk)
    {
        return row * ROW_BYTES + ((chunk ^ (row / 2u % 2u * 2u)) * 16u);
    }

    /* Panel `slot` of the block; nullptr: there is none. */
    static KVI_DEV const unsigned char *panel_of(const kvi_cuda_tile_params &p, uint32_t slot, uint32_t expert)
    {
        const uint64_t skipped = expert * p.l.mixture.stride;
        if (p.l.action == KVI_CUDA_GATED) {
            const uint32_t at = blockIdx.y * (panels / 2u) + slot / 2u;
            const kvi_dptr of = slot % 2u ? p.panels[1] : p.panels[0];
            return at < p.panel_end[0] ? (const unsigned char *)of + skipped + at * p.tile.form.panel_bytes : nullptr;
        }
        const uint32_t at = blockIdx.y * panels + slot;
        if (at >= p.panel_end[2]) return nullptr;
        const uint32_t j = (at >= p.panel_end[0]) + (at >= p.panel_end[1]);
        const kvi_dptr of = j == 0u ? p.panels[0] : j == 1u ? p.panels[1] : p.panels[2];
        const uint32_t own = at - (j == 0u ? 0u : j == 1u ? p.panel_end[0] : p.panel_end[1]);
        return (const unsigned char *)of + skipped + (own + (j == 0u ? p.first_panel : 0u)) * p.tile.form.panel_bytes;
    }

    static KVI_DEV const unsigned char *run_of(const kvi_cuda_tile &t, const unsigned char *panel, uint32_t step)
    {
        const uint32_t k = step * KVI_TILE_RUN;
        return kvi_tile_block_of(t, panel, k) + kvi_tile_side_of(t, k) + k % KVI_TILE_BLOCK / KVI_TILE_RUN * run_bytes;
    }

    /* x: the row of each of this thread's chunks; nullptr: zeros. */
    static KVI_DEV void load(const kvi_cuda_tile_params &p, const unsigned char *const (&x)[x_copies],
                             const unsigned char *const (&from)[w_copies], unsigned char *stage, uint32_t step)
    {
#pragma unroll
        for (int i = 0; i < x_copies; i++) {
            const uint32_t at = threadIdx.x + i * threads, row = at / 4u, k = step * KVI_TILE_RUN + at % 4u * 8u;
            const bool there = x[i] && k < p.l.n_in; /* rows end in zeros up to a multiple of 8 */
            kvi_cp_async16_zfill(stage + place_of(row, at % 4u),
                                 there ? x[i] + k * KVI_CUDA_OPERAND_BYTES : (const unsigned char *)p.l.x,
                                 there ? 16u : 0u);
        }
#pragma unroll
        for (int i = 0; i < w_copies; i++) {
            const uint32_t at = threadIdx.x + i * threads;
            if (at >= w_chunks) continue;
            const unsigned char *w = (const unsigned char *)p.l.x;
            if (from[i]) w = run_of(p.tile, from[i], step) + at * 16u % run_bytes;
            kvi_cp_async16_zfill(stage + codes_at + at * 16u, w, from[i] ? 16u : 0u);
        }
    }

    /* This thread's scale of a run: output threadIdx % tile_n of the block, half threadIdx / tile_n. */
    static KVI_DEV side read_side(const kvi_cuda_tile &t, const unsigned char *panel, uint32_t step)
    {
        const uint32_t n = threadIdx.x % tile_n, k = step * KVI_TILE_RUN + threadIdx.x / tile_n * 16u;
        side s = {0.0f, 0.0f};
        if (!panel || k >= t.form.n_in) return s;
        const bool whole = t.form.whole_row;
        const unsigned char *at = whole ? panel : kvi_tile_block_of(t, panel, k);
        kvi_tile_scale_of(t.form, panel, at, whole ? 1u : kvi_tile_groups_of(t, k),
                          whole ? 0u : k % KVI_TILE_BLOCK / t.form.group, n % 16u, s.scale, s.offset);
        s.scale *= codes::unit;
        return s;
    }
    static KVI_DEV void keep_side(unsigned char *stage, const side &s)
    {
        float *to = (float *)(stage + side_at) + threadIdx.x / tile_n * (2u * tile_n) + threadIdx.x % tile_n;
        to[0] = s.scale;
        to[tile_n] = s.offset;
    }

    /* Sums of this warp, and those of a group that goes on. */
    typedef float tile_sums[m_tiles][n_tiles][4];

    static KVI_DEV uint32_t slot_of(uint32_t u) { return u / 4u * 2u + u % 2u; }

    static KVI_DEV void multiply(const kvi_cuda_tile &t, const unsigned char *stage, uint32_t warp_m, uint32_t warp_n,
                                 uint32_t lane, tile_sums &sum)
    {
        const uint32_t g = lane / 4u, q = lane % 4u;
        const bool mins = t.form.offset == KVI_TILE_MINS;
#pragma unroll(codes::twice ? 1 : 2) /* products of two tables leave no registers for two halves side by side */
        for (uint32_t half = 0; half < 2u; half++) {
            const float *side = (const float *)(stage + side_at) + half * (2u * tile_n);
            uint32_t a[m_tiles][4];
            float ones[m_tiles][4];
#pragma unroll
            for (int i = 0; i < m_tiles; i++) {
                const uint32_t row = warp_m * (m_tiles * 16u) + i * 16u + g;
                const uint2 first = *(const uint2 *)(stage + place_of(row, half * 2u + q / 2u) + q % 2u * 8u),
                            second = *(const uint2 *)(stage + place_of(row + 8u, half * 2u + q / 2u) + q % 2u * 8u);
                a[i][0] = first.x, a[i][1] = second.x, a[i][2] = first.y, a[i][3] = second.y;
                ones[i][0] = ones[i][1] = ones[i][2] = ones[i][3] = 0.0f;
                const uint32_t b[2] = {ONES, ONES};
                if (mins) kvi_mma_f16(ones[i], a[i], b);
            }
#pragma unroll
            for (int j = 0; j < n_tiles; j++) {
                const uint32_t u = warp_n * n_tiles + j, slot = slot_of(u), row = u / 2u % 2u * 8u;
                const unsigned char *run = stage + codes_at + slot * run_bytes;
                const float *scale = side + slot * 16u + row, *offset = scale + tile_n;
                const uint32_t quad = kvi_tile_quad<codes::bits>(run, 4u * half + q, row + g);
                uint32_t b[2], rest[2];
                codes::expand(t, quad, kvi_tile_bias(mins ? 0.0f : offset[g]), b);
                codes::rest(t, quad, rest);
                const float2 s = *(const float2 *)(scale + 2u * q), m = *(const float2 *)(offset + 2u * q);
#pragma unroll
                for (int i = 0; i < m_tiles; i++) {
                    float c[4] = {0.0f, 0.0f, 0.0f, 0.0f};
                    kvi_mma_f16(c, a[i], b);
                    if (codes::twice) kvi_mma_f16(c, a[i], rest);
                    sum[i][j][0] = kvi_fma(s.x, c[0], sum[i][j][0]);
                    sum[i][j][1] = kvi_fma(s.y, c[1], sum[i][j][1]);
                    sum[i][j][2] = kvi_fma(s.x, c[2], sum[i][j][2]);
                    sum[i][j][3] = kvi_fma(s.y, c[3], sum[i][j][3]);
                    if (!mins) continue;
                    sum[i][j][0] = kvi_fma(m.x, ones[i][0], sum[i][j][0]);
                    sum[i][j][1] = kvi_fma(m.y, ones[i][1], sum[i][j][1]);
                    sum[i][j][2] = kvi_fma(m.x, ones[i][2], sum[i][j][2]);
                    sum[i][j][3] = kvi_fma(m.y, ones[i][3], sum[i][j][3]);
                }
            }
        }
    }

    /* First output of place u among all outputs of the launch, and how many of eight there are. */
    static KVI_DEV bool outputs_of(const kvi_cuda_tile_params &p, uint32_t u, uint32_t &row, uint32_t &j)
    {
        const uint32_t slot = slot_of(u), half = u / 2u % 2u * 8u;
        if (p.l.action == KVI_CUDA_GATED) {
            j = 0u;
            row = (blockIdx.y * (panels / 2u) + slot / 2u) * 16u + half;
            return slot % 2u == 0u;
        }
        const uint32_t at = blockIdx.y * panels + slot;
        j = (at >= p.panel_end[0]) + (at >= p.panel_end[1]);
        const uint32_t own = at - (j == 0u ? 0u : j == 1u ? p.panel_end[0] : p.panel_end[1]);
        row = (own + (j == 0u ? p.first_panel : 0u)) * 16u + half;
        return at < p.panel_end[2];
    }

    static constexpr uint32_t sum_pitch = tile_n + 8;
    static_assert(warps_m * 16 * sum_pitch * 4 <= stages * (int)stage_bytes, "sums of a pass lie where stages were");
    static KVI_DEV void finish(const kvi_cuda_tile_params &p, const kvi_block_rows &block, uint32_t warp_m,
                               uint32_t warp_n, uint32_t lane, const tile_sums &sum, float *sums)
    {
        const bool pair = p.l.action == KVI_CUDA_GATED;
#pragma unroll 1
        for (uint32_t pass = 0; pass < m_tiles; pass++) {
            kvi_leave_sums(sum, pass, warp_m, warp_n, lane, sum_pitch, sums);
#pragma unroll 1
            for (uint32_t at = threadIdx.x; at < warps_m * 16u * (tile_n / 2u); at += threads) {
                const uint32_t r = at / (tile_n / 2u), u = at % (tile_n / 2u) / 4u,
                               row = r / 16u * (m_tiles * 16u) + pass * 16u + r % 16u;
                uint32_t w_row, weight;
                if (row >= block.n || !outputs_of(p, u, w_row, weight)) continue;
                const float *mine = sums + r * sum_pitch + at % (tile_n / 2u) * 2u;
                w_row += at % 4u * 2u;
                const uint32_t first_out = weight == 0u ? p.l.first_out : 0u,
                               begin = weight == 0u   ? 0u
                                       : weight == 1u ? p.l.end[0]
                                                      : p.l.end[1],
                               end = weight == 0u   ? p.l.end[0]
                                     : weight == 1u ? p.l.end[1]
                                                    : p.l.end[2];
                float v[2] = {mine[0], mine[1]};
                bool there[2];
#pragma unroll
                for (uint32_t e = 0; e < 2u; e++) {
                    there[e] = w_row + e >= first_out && begin + w_row + e - first_out < end;
                    if (!there[e]) continue;
                    const uint32_t o = begin + w_row + e - first_out;
                    v[e] += kvi_bias_of(p.l, o, block.expert);
                    if (pair) /* the next place holds what belongs to gate */
                        v[e] = kvi_gated(p.l, v[e], mine[8u + e] + kvi_bias_of(p.l, p.l.end[0] + o, block.expert));
                }
                const uint32_t o = begin + w_row - first_out, y_row = block.of_y(row);
                if (there[0]) kvi_put_pair(p.l, y_row, o, there[1] ? o + 2u : o + 1u, v[0], v[1]);
                else if (there[1]) kvi_put(p.l, y_row, o + 1u, v[1]);
            }
        }
    }

    static KVI_DEV void run(const kvi_cuda_tile_params &p)
    {
        KVI_SHARED(unsigned char, shared); /* (stages, stage_bytes) */
        const kvi_block_rows block = kvi_block_rows_of(p.l, blockIdx.x, tile_m);
        const uint32_t lane = threadIdx.x % 32u, warp_m = threadIdx.x / 32u % warps_m,
                       warp_n = threadIdx.x / 32u / warps_m;
        if (!block.n) return; /* the whole block */
        const unsigned char *x[x_copies], *from[w_copies];
#pragma unroll
        for (int i = 0; i < x_copies; i++) {
            const uint32_t row = (threadIdx.x + i * threads) / 4u;
            x[i] = nullptr;
            if (row < block.n)
                x[i] = (const unsigned char *)p.l.x +
                       (uint64_t)block.of_x(p.l, row) * p.l.x_pitch * KVI_CUDA_OPERAND_BYTES;
        }
#pragma unroll
        for (int i = 0; i < w_copies; i++)
            from[i] = panel_of(p, (threadIdx.x + i * threads) * 16u / run_bytes, block.expert);
        const unsigned char *own = panel_of(p, threadIdx.x % tile_n / 16u, block.expert);
        tile_sums sum;
#pragma unroll
        for (int i = 0; i < m_tiles; i++)
#pragma unroll
            for (int j = 0; j < n_tiles; j++) sum[i][j][0] = sum[i][j][1] = sum[i][j][2] = sum[i][j][3] = 0.0f;

        const uint32_t n_steps = (p.l.n_in + KVI_TILE_RUN - 1u) / KVI_TILE_RUN;
#pragma unroll
        for (uint32_t s = 0; s < stages - 1u; s++) {
            if (s < n_steps) {
                load(p, x, from, shared + s * stage_bytes, s);
                keep_side(shared + s * stage_bytes, read_side(p.tile, own, s));
            }
            kvi_cp_commit(); /* empty groups too: the wait counts groups */
        }
        for (uint32_t s = 0; s < n_steps; s++) {
            kvi_cp_wait<stages - 2>();
            kvi_sync_block(); /* stage s is there for all, and all are done with stage s - 1, which is filled next */
            const uint32_t next = s + stages - 1u;
            unsigned char *to = shared + next % stages * stage_bytes;
            side coming = {0.0f, 0.0f};
            if (next < n_steps) {
                load(p, x, from, to, next);
                coming = read_side(p.tile, own, next);
            }
            kvi_cp_commit();
            multiply(p.tile, shared + s % stages * stage_bytes, warp_m, warp_n, lane, sum);
            if (next < n_steps) keep_side(to, coming);
        }
        finish(p, block, warp_m, warp_n, lane, sum, (float *)shared);
    }
};

/* A kernel per way to store codes, in two sizes. 64 rows and not 128: sums take half of the registers, so that two blocks share a multiprocessor. */
#define TILE_GEMM(name, codes)                                                                                         \
    KVI_KERNEL(gemm_##name##_m64, kvi_cuda_tile_params, 256, 2) { tile_gemm<codes, 64, 128, 2, 4, 3>::run(p); }        \
    KVI_KERNEL(gemm_##name##_m32, kvi_cuda_tile_params, 128, 4) { tile_gemm<codes, 32, 64, 1, 4, 3>::run(p); }

#endif
