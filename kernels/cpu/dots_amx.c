/* dots_amx.c - wide integer products on AMX tiles. Activations are the A operand, 16 rows x 64 k signed bytes; weights the B operand, two runs
 * expanded to bytes: 64 k x 16 outputs with four k interleaved, which is how lines lie (tile_form.h). 32 rows by 32 outputs are four tiles of
 * sums. They are emptied once per step, where scales are applied, so a step of 128 costs two passes of every tile and one emptying; a step
 * of 32 or 16 uses tiles of that depth and empties as often, which is what bounds it.
 * No processor with AMX has run this file yet: the tests execute it on an emulation of the instructions (test/ops/amx_emulated.h). */
#if defined(__x86_64__)
#include "lanes_avx512.h"

#include "amx.h"
#include "dots.h"
#include "../../runtime/kv/half.h"

#include "variant_numbers.h"

#include "dots_quantize.h"
#include "tile_unpack.h"

#define TILE_BYTES 1024u
#define SIDE 16u    /* rows of a tile, and outputs */
#define A_DEPTH 64u /* k of a stored tile of activations */

/* Codes of rows 16 b .. 16 b + 15: n_words / 16 tiles of (16 rows, 64 k); scales and starts (n_steps, 16). `group` counts four rows. */
static void quantize(const kvi_tile *t, const float *x, size_t ldx, uint32_t n_rows, const uint32_t *order,
                     uint32_t group, const kvi_dots_input *to)
{
    uint8_t codes[KVI_TILE_STEP];
    for (uint32_t r = group * KVI_DOTS_ROWS; r < (group + 1u) * KVI_DOTS_ROWS; r++) {
        const size_t block = r / SIDE, lane = r % SIDE;
        uint8_t *tiles = to->codes + block * to->n_words * 64u + lane * A_DEPTH;
        for (uint32_t w = 0; w < to->n_words; w += A_DEPTH / 4u)
            memset(tiles + w / 16u * (size_t)TILE_BYTES, 0, A_DEPTH);
        for (uint32_t s = 0; s < to->n_steps; s++) {
            const uint32_t k = s * t->step;
            const size_t at = (block * to->n_steps + s) * SIDE + lane;
            to->scales[at] = 0, to->starts[at] = 0; /* of rows that are not there */
            if (r >= n_rows) continue;
            const uint32_t n =
                quantize_places(t, x + (size_t)r * ldx, order, k, 0, codes, &to->scales[at], &to->starts[at]);
            for (uint32_t i = 0; i < n; i += 16u) { /* a step is whole pieces of 16, and so is a tile's row */
                const uint32_t left = n - i < 16u ? n - i : 16u;
                memcpy(tiles + (k + i) / A_DEPTH * (size_t)TILE_BYTES + (k + i) % A_DEPTH, codes + i, left);
            }
        }
    }
}

typedef struct expanded {
    const uint8_t *lines[2]; /* of two panels, (n_k / 4, 16, 4) */
    const float *scales[2], *offsets[2];
    uint32_t k, n_k; /* a multiple of the depth of a pass */
} expanded;

/* k of one pass of the tiles. */
static uint32_t depth_of(const kvi_tile *t) { return t->step < A_DEPTH ? t->step : A_DEPTH; }

/* Sums of a step: ints[2 i + j] = 16 rows i by 16 outputs j. */
static void step_products(const kvi_tile *t, const expanded *e, const uint8_t *a, size_t block_bytes, uint32_t at,
                          int32_t ints[4][SIDE][SIDE])
{
    const uint32_t depth = depth_of(t);
    KVI_AMX_ZERO(0);
    KVI_AMX_ZERO(1);
    KVI_AMX_ZERO(2);
    KVI_AMX_ZERO(3);
    for (uint32_t k = at; k < at + t->step && k < e->n_k; k += depth) {
        const uint8_t *from = a + (e->k + k) / A_DEPTH * (size_t)TILE_BYTES + (e->k + k) % A_DEPTH;
        KVI_AMX_LOAD(4, from, A_DEPTH);
        KVI_AMX_LOAD(6, e->lines[0] + (size_t)k * SIDE, 64);
        KVI_AMX_LOAD(7, e->lines[1] + (size_t)k * SIDE, 64);
        KVI_AMX_LOAD(5, from + block_bytes, A_DEPTH);
        KVI_AMX_DP_S8U8(0, 4, 6);
        KVI_AMX_DP_S8U8(1, 4, 7);
        KVI_AMX_DP_S8U8(2, 5, 6);
        KVI_AMX_DP_S8U8(3, 5, 7);
    }
    KVI_AMX_STORE(0, ints[0], 64);
    KVI_AMX_STORE(1, ints[1], 64);
    KVI_AMX_STORE(2, ints[2], 64);
    KVI_AMX_STORE(3, ints[3], 64);
}

/* sums (4, 16, 16) += s w (ints + start), or s w ints + offset * start. */
static void apply_scales(const kvi_tile *t, const expanded *e, const kvi_dots_input *x, uint32_t row, uint32_t step,
                         int32_t ints[4][SIDE][SIDE], float sums[4][SIDE][SIDE])
{
    const bool centred = t->offset == KVI_TILE_CENTRED;
    for (uint32_t q = 0; q < 4u; q++) {
        const size_t side = ((row / SIDE + q / 2u) * (size_t)x->n_steps + e->k / t->step + step) * SIDE;
        const vf scale = load(e->scales[q % 2u] + step * SIDE), offset = load(e->offsets[q % 2u] + step * SIDE);
        for (uint32_t r = 0; r < SIDE; r++) {
            vi v;
            float start;
            memcpy(&v, ints[q][r], sizeof v);
            memcpy(&start, &x->starts[side + r], 4);
            if (centred) v += x->starts[side + r];
            vf sum = fma_vec(__builtin_convertvector(v, vf) * scale, splat(x->scales[side + r]), load(sums[q][r]));
            if (!centred) sum = fma_vec(offset, splat(start), sum);
            store(sums[q][r], sum);
        }
    }
}

static void configure(const kvi_tile *t)
{
    kvi_amx_config config;
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int i = 0; i < 8; i++) config.colsb[i] = 64, config.rows[i] = 16;
    config.colsb[4] = config.colsb[5] = (uint16_t)depth_of(t);
    config.rows[6] = config.rows[7] = (uint8_t)(depth_of(t) / 4u);
    kvi_amx_configure(&config);
}

/* All rows times the columns of e, outputs [first, first + n_out) of those of panels p and p + 1. */
static void multiply(const kvi_tile *t, const expanded *e, const kvi_dots_input *x, uint32_t n_rows, uint32_t p,
                     uint32_t first, uint32_t n_out, bool add, float *y, size_t ldy)
{
    const size_t block_bytes = (size_t)x->n_words * 64u;
    int32_t ints[4][SIDE][SIDE];
    float sums[4][SIDE][SIDE];
    for (uint32_t row = 0; row < n_rows; row += 2u * SIDE) {
        memset(sums, 0, sizeof sums);
        for (uint32_t at = 0, step = 0; at < e->n_k; at += t->step, step++) {
            step_products(t, e, x->codes + row / SIDE * block_bytes, block_bytes, at, ints);
            apply_scales(t, e, x, row, step, ints, sums);
        }
        for (uint32_t r = 0; r < 2u * SIDE && row + r < n_rows; r++)
            for (uint32_t o = 0; o < 2u * SIDE; o++) {
                const uint32_t out = p * KVI_TILE_ROWS + o;
                const float sum = sums[r / SIDE * 2u + o / SIDE][r % SIDE][o % SIDE];
                if (out < first || out >= first + n_out) continue;
                float *to = y + (size_t)(row + r) * ldy + out - first;
                *to = add ? *to + sum : sum;
            }
    }
}

static void gemm(const kvi_tile *t, const uint8_t *panels, uint32_t first, uint32_t n_out, const kvi_dots_input *x,
                 uint32_t n_rows, void *scratch, float *y, size_t ldy)
{
    const uint32_t depth = depth_of(t);
    configure(t);
    for (uint32_t p = first / KVI_TILE_ROWS; p * KVI_TILE_ROWS < first + n_out; p += 2u)
        for (uint32_t k = 0; k < t->n_in; k += KVI_DOTS_DEPTH) {
            const uint32_t n_k = t->n_in - k < KVI_DOTS_DEPTH ? t->n_in - k : KVI_DOTS_DEPTH;
            expanded e = {.k = k, .n_k = (n_k + depth - 1u) / depth * depth};
            for (uint32_t i = 0; i < 2u; i++) {
                uint8_t *lines = (uint8_t *)scratch + i * (kvi_dots_scratch() / 2u);
                float *scales = (float *)(void *)(lines + KVI_DOTS_DEPTH * KVI_TILE_ROWS),
                      *offsets = scales + KVI_DOTS_DEPTH / 16u * KVI_TILE_ROWS;
                const uint32_t panel = p + i < kvi_tile_panels(t) ? p + i : p; /* an odd one twice */
                unpack_panel(t, panels + panel * t->panel_bytes, k, n_k, lines, scales, offsets);
                for (uint32_t s = 0; s < (n_k + t->step - 1u) / t->step * SIDE; s += VW)
                    if (t->offset == KVI_TILE_ZEROS) store(offsets + s, -load(offsets + s) * load(scales + s));
                e.lines[i] = lines, e.scales[i] = scales, e.offsets[i] = offsets;
            }
            multiply(t, &e, x, n_rows, p, first, n_out, k > 0, y, ldy);
        }
    kvi_amx_release();
}

/* Few rows are multiplied as without AMX. */
const kvi_cpu_dots kvi_dots_amx = {.name = "amx", .panels = 2, .quantize = quantize, .gemm = gemm};
#else
typedef int kvi_dots_amx_absent;
#endif
