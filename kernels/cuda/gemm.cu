/* gemm.cu - matrix products of prefill on tensor cores: y (rows, n_out) = x W^T, both operands 16-bit, sums in f32.
 *
 * A block computes a tile of tile_m rows by tile_n outputs, 32 columns of K at a time. Both tiles pass through shared memory in several
 * stages of cp.async, so that the loads of later stages overlap the products of this one; one barrier per stage.
 *
 *   stage in shared memory: tile_m rows of x, then tile_n rows of W, 32 halves (64 bytes, four chunks of 16) each;
 *   chunk c of row r stands at place c ^ (r / 2 % 4): the eight rows that one ldmatrix reads then touch all 32 banks once.
 *
 * Rows of W come from up to three weights side by side (q | k | v). For gate and up the tile alternates eight rows of one and eight of the
 * other, so that a thread holds both sums of a column and multiplies them in registers.
 * K is summed in the same order whatever the tile, so that a row's bits do not depend on how many rows there are.
 *
 * Unproven: no card has timed this kernel. 48 KiB of shared memory and 128 registers allow two blocks per multiprocessor. */
#include "linear.cuh"

#define STEP 32u                             /* columns of K per stage */
#define CHUNK (16u / KVI_CUDA_OPERAND_BYTES) /* columns of 16 bytes */
#define STEP_BYTES (STEP * KVI_CUDA_OPERAND_BYTES)

template <class weight, int tile_m, int tile_n, int warps_m, int warps_n, int stages> struct gemm {
    static_assert(weight::operand, "codes that are no operand need a stage of their own, expanded behind it");
    static constexpr uint32_t threads = 32 * warps_m * warps_n;
    static constexpr uint32_t stage_bytes = (tile_m + tile_n) * STEP_BYTES;
    static constexpr int m_tiles = tile_m / warps_m / 16, n_tiles = tile_n / warps_n / 8; /* of mma, per warp */
    static constexpr int copies = (tile_m + tile_n) * 4 / (32 * warps_m * warps_n); /* chunks per thread and stage */

    /* Where a thread's chunks of each stage come from. */
    struct source {
        const unsigned char *row; /* nullptr: zeros */
        uint32_t place;           /* bytes into the stage */
        uint32_t chunk;
    };

    static KVI_DEV uint32_t place_of(uint32_t row, uint32_t chunk)
    {
        return row * STEP_BYTES + ((chunk ^ (row / 2u % 4u)) * 16u);
    }

    /* Row n of the tile of W: gate and up alternate by eights. */
    static KVI_DEV uint32_t output_of(const kvi_cuda_linear_params &p, uint32_t first, uint32_t n)
    {
        if (p.action != KVI_CUDA_GATED) return first + n;
        const uint32_t column = first / 2u + n / 16u * 8u + n % 8u;
        if (column >= p.end[0]) return p.end[2];
        return n / 8u % 2u ? p.end[0] + column : column;
    }

    static KVI_DEV void find_sources(const kvi_cuda_linear_params &p, const kvi_block_rows &block, uint32_t first_out,
                                     source (&from)[copies])
    {
#pragma unroll
        for (int i = 0; i < copies; i++) {
            const uint32_t at = threadIdx.x + i * threads, row = at / 4u;
            from[i].chunk = at % 4u;
            from[i].place = place_of(row, at % 4u);
            if (row >= tile_m) {
                const uint32_t o = output_of(p, first_out, row - tile_m);
                from[i].row = o < p.end[2] ? kvi_row_at<weight>(p, o, block.expert).codes : nullptr;
            } else
                from[i].row = row < block.n ? (const unsigned char *)p.x +
                                                  (uint64_t)block.of_x(p, row) * p.x_pitch * KVI_CUDA_OPERAND_BYTES
                                            : nullptr;
        }
    }

    static KVI_DEV void load(const kvi_cuda_linear_params &p, const source (&from)[copies], unsigned char *shared,
                             uint32_t step)
    {
#pragma unroll
        for (int i = 0; i < copies; i++) {
            const uint32_t k = step * STEP + from[i].chunk * CHUNK;
            const bool there = from[i].row && k < p.n_in; /* rows end in zeros up to a multiple of 8 */
            kvi_cp_async16_zfill(shared + from[i].place,
                                 there ? from[i].row + weight::offset(k) : (const unsigned char *)p.x,
                                 there ? 16u : 0u);
        }
    }

    static KVI_DEV void multiply(const unsigned char *shared, uint32_t warp_m, uint32_t warp_n, uint32_t lane,
                                 float (&sum)[m_tiles][n_tiles][4])
    {
#pragma unroll
        for (uint32_t half = 0; half < 2; half++) { /* 16 columns of K */
            uint32_t a[m_tiles][4], b[n_tiles / 2][4];
#pragma unroll
            for (int i = 0; i < m_tiles; i++)
                kvi_ldmatrix_x4(
                    a[i], shared + place_of(warp_m * (m_tiles * 16u) + i * 16u + lane % 16u, half * 2u + lane / 16u));
#pragma unroll
            for (int j = 0; j < n_tiles / 2; j++)
                kvi_ldmatrix_x4(
                    b[j], shared + place_of(tile_m + warp_n * (n_tiles * 8u) + j * 16u + lane / 16u * 8u + lane % 8u,
                                            half * 2u + lane / 8u % 2u));
#pragma unroll
            for (int i = 0; i < m_tiles; i++)
#pragma unroll
                for (int j = 0; j < n_tiles; j++) weight::mma(sum[i][j], a[i], &b[j / 2][j % 2 * 2]);
        }
    }

    static constexpr uint32_t sum_pitch = tile_n + 8;
    static_assert(warps_m * 16 * sum_pitch * 4 <= stages * (int)stage_bytes, "sums of a pass lie where stages were");
    static KVI_DEV void finish(const kvi_cuda_linear_params &p, const kvi_block_rows &block, uint32_t warp_m,
                               uint32_t warp_n, uint32_t first_out, uint32_t lane,
                               const float (&sum)[m_tiles][n_tiles][4], float *sums)
    {
        const bool pair = p.action == KVI_CUDA_GATED;
        const uint32_t n_out = pair ? p.end[0] : p.end[2], e = block.expert;
#pragma unroll 1
        for (uint32_t pass = 0; pass < m_tiles; pass++) {
            kvi_leave_sums(sum, pass, warp_m, warp_n, lane, sum_pitch, sums);
#pragma unroll 1
            for (uint32_t at = threadIdx.x; at < warps_m * 16u * (tile_n / 2u); at += threads) {
                const uint32_t r = at / (tile_n / 2u), n = at % (tile_n / 2u) * 2u,
                               row = r / 16u * (m_tiles * 16u) + pass * 16u + r % 16u;
                if (pair && n / 8u % 2u) continue; /* up's eight, behind those of gate */
                const uint32_t o = pair ? first_out / 2u + n / 16u * 8u + n % 8u : first_out + n;
                if (row >= block.n || o >= n_out) continue;
                const float *mine = sums + r * sum_pitch + n;
                float v = mine[0] + kvi_bias_of(p, o, e), w = mine[1];
                if (o + 1u < n_out) w += kvi_bias_of(p, o + 1u, e);
                if (pair) {
                    float up_v = mine[8] + kvi_bias_of(p, n_out + o, e), up_w = mine[9];
                    if (o + 1u < n_out) up_w += kvi_bias_of(p, n_out + o + 1u, e);
                    v = kvi_gated(p, v, up_v), w = kvi_gated(p, w, up_w);
                }
                kvi_put_pair(p, block.of_y(row), o, n_out, v, w);
            }
        }
    }

    static KVI_DEV void run(const kvi_cuda_linear_params &p)
    {
        KVI_SHARED(unsigned char, shared); /* (stages, stage_bytes) */
        const kvi_block_rows block = kvi_block_rows_of(p, blockIdx.x, tile_m);
        const uint32_t first_out = blockIdx.y * tile_n;
        const uint32_t lane = threadIdx.x % 32u, warp_m = threadIdx.x / 32u % warps_m,
                       warp_n = threadIdx.x / 32u / warps_m;
        if (!block.n) return; /* the whole block */
        source from[copies];
        find_sources(p, block, first_out, from);
        float sum[m_tiles][n_tiles][4];
#pragma unroll
        for (int i = 0; i < m_tiles; i++)
#pragma unroll
            for (int j = 0; j < n_tiles; j++) sum[i][j][0] = sum[i][j][1] = sum[i][j][2] = sum[i][j][3] = 0.0f;

        const uint32_t n_steps = (p.n_in + STEP - 1u) / STEP;
#pragma unroll
        for (uint32_t s = 0; s < stages - 1u; s++) {
            if (s < n_steps) load(p, from, shared + s * stage_bytes, s);
            kvi_cp_commit(); /* empty groups too: the wait counts groups */
        }
        for (uint32_t s = 0; s < n_steps; s++) {
            kvi_cp_wait<stages - 2>();
            kvi_sync_block(); /* stage s is there for all, and all are done with stage s - 1, which is filled next */
            const uint32_t next = s + stages - 1u;
            if (next < n_steps) load(p, from, shared + next % stages * stage_bytes, next);
            kvi_cp_commit();
            multiply(shared + s % stages * stage_bytes, warp_m, warp_n, lane, sum);
        }
        finish(p, block, warp_m, warp_n, first_out, lane, sum, (float *)shared);
    }
};

typedef gemm<kvi_weight_f16, 128, 128, 2, 4, 3> f16_m128;
typedef gemm<kvi_weight_bf16, 128, 128, 2, 4, 3> bf16_m128;
typedef gemm<kvi_weight_f16, 32, 64, 1, 4, 4> f16_m32;
typedef gemm<kvi_weight_bf16, 32, 64, 1, 4, 4> bf16_m32;
KVI_KERNEL(gemm_f16_m128, kvi_cuda_linear_params, 256, 2) { f16_m128::run(p); }
KVI_KERNEL(gemm_bf16_m128, kvi_cuda_linear_params, 256, 2) { bf16_m128::run(p); }
KVI_KERNEL(gemm_f16_m32, kvi_cuda_linear_params, 128, 4) { f16_m32::run(p); }
KVI_KERNEL(gemm_bf16_m32, kvi_cuda_linear_params, 128, 4) { bf16_m32::run(p); }
