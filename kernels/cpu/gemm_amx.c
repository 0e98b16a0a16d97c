/* gemm_amx.c - prefill GEMM on AMX tiles: BF16 weights straight from the map, activations rounded to BF16, f32
 * accumulation. Its results differ from the f32 path by the rounding of the activations: relative 2^-9 each, a limit of
 * its own in the tests.
 * The weights are the A operand: a tile is 16 output rows x 32 k, read in place, so nothing of the model is repacked.
 * The activations are the B operand: 16 tokens x 32 k with pairs of k interleaved, packed once per operation. A step of
 * the inner loop loads two tiles of each and does four products, 32 outputs x 32 tokens. Outputs are the inner of the
 * two outer loops: a task's weights (at most half a megabyte) and 32 packed tokens stay in L2, while the other order
 * streams all tokens past every 32 outputs. */
#include "attention_packed.h"

#if defined(__x86_64__)
#include "amx.h"
#include "words_avx512.h"

#define TILE_BYTES 1024u

static void pack_block(const float *x, uint32_t n_rows, uint32_t n_in, uint32_t block, void *packed)
{
    uint8_t *tile = (uint8_t *)packed + (size_t)block * (n_in / 32u) * TILE_BYTES;
    for (uint32_t k = 0; k < n_in; k += 32, tile += TILE_BYTES) {
        __m512i rows[16]; /* word p of row r: elements 2 p and 2 p + 1 of the row */
        for (uint32_t r = 0; r < 16; r++) {
            rows[r] = _mm512_setzero_si512();
            if (block * 16 + r >= n_rows) continue;
            rows[r] = kvi_bf16_words(x + (size_t)(block * 16 + r) * n_in + k);
        }
        kvi_turn_words(rows);
        memcpy(tile, rows, TILE_BYTES);
    }
}

/* out (16 outputs, 16 tokens) to y[token][output] */
static void put_tile(float out[16][16], uint32_t first_token, uint32_t n_rows, const float *bias, bool add, float *y,
                     size_t ldy)
{
    __m512i rows[16];
    const __m512 b = bias ? _mm512_loadu_ps(bias) : _mm512_setzero_ps();
    memcpy(rows, out, sizeof rows);
    kvi_turn_words(rows);
    for (uint32_t t = 0; t < 16 && first_token + t < n_rows; t++) {
        float *row = y + (size_t)(first_token + t) * ldy;
        __m512 value = _mm512_add_ps(_mm512_castsi512_ps(rows[t]), b);
        _mm512_storeu_ps(row, add ? _mm512_add_ps(_mm512_loadu_ps(row), value) : value);
    }
}

/* out[2 i + j]: outputs 16 i .. of a, tokens 16 j .. of b, over `steps` tiles of 32 k. */
static void multiply(const uint8_t *a, size_t row, const uint8_t *b, size_t steps, float out[4][16][16])
{
    const uint8_t *a1 = a + 16 * row, *b1 = b + steps * TILE_BYTES;
    KVI_AMX_ZERO(0);
    KVI_AMX_ZERO(1);
    KVI_AMX_ZERO(2);
    KVI_AMX_ZERO(3);
    for (size_t k = 0; k < steps; k++) {
        KVI_AMX_LOAD(4, a + k * 64, row);
        KVI_AMX_LOAD(6, b + k * TILE_BYTES, 64);
        KVI_AMX_LOAD(7, b1 + k * TILE_BYTES, 64);
        KVI_AMX_LOAD(5, a1 + k * 64, row);
        KVI_AMX_DP_BF16(0, 4, 6);
        KVI_AMX_DP_BF16(1, 4, 7);
        KVI_AMX_DP_BF16(2, 5, 6);
        KVI_AMX_DP_BF16(3, 5, 7);
    }
    KVI_AMX_STORE(0, out[0], 64);
    KVI_AMX_STORE(1, out[1], 64);
    KVI_AMX_STORE(2, out[2], 64);
    KVI_AMX_STORE(3, out[3], 64);
}

static void gemm(const void *w, uint32_t n_out, uint32_t n_in, const void *packed, uint32_t n_rows, const float *bias,
                 bool add, void *scratch, float *y, size_t ldy)
{
    (void)scratch;
    kvi_amx_config config;
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int t = 0; t < 8; t++) config.colsb[t] = 64, config.rows[t] = 16;
    kvi_amx_configure(&config);
    const size_t row = (size_t)n_in * 2u, steps = n_in / 32u;
    float out[4][16][16];
    for (uint32_t t = 0; t < n_rows; t += 32)
        for (uint32_t o = 0; o < n_out; o += 32) {
            multiply((const uint8_t *)w + (size_t)o * row, row,
                     (const uint8_t *)packed + (size_t)(t / 16) * steps * TILE_BYTES, steps, out);
            for (uint32_t q = 0; q < 4; q++)
                put_tile(out[q], t + 16 * (q & 1), n_rows, bias ? bias + o + 16 * (q >> 1) : NULL, add,
                         y + o + 16 * (q >> 1), ldy);
        }
    kvi_amx_release();
}

const kvi_cpu_bf16 kvi_cpu_bf16_amx = {.name = "gemm_amx_bf16", .pack_block = pack_block, .gemm = gemm};
const kvi_cpu_tiles kvi_cpu_amx = {.bf16 = &kvi_cpu_bf16_amx, .packed = &kvi_cpu_packed_amx, .dots = &kvi_dots_amx};
#else
typedef int kvi_amx_absent;
#endif
