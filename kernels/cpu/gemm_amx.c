/* gemm_amx.c - see gemm_amx.h.
 * The weights are the A operand: a tile is 16 output rows x 32 k, read in place, so nothing of the model is repacked. The activations are
 * the B operand: 16 tokens x 32 k with pairs of k interleaved, packed once per operation. A step of the inner loop loads two tiles of
 * each and does four products, 32 outputs x 32 tokens. */
#include "gemm_amx.h"

#if defined(__x86_64__)
#include "amx.h"
#include "../../runtime/kv/half.h"

#include <string.h>

#define TILE_BYTES 1024u

size_t kvi_amx_packed_bytes(uint32_t n_rows, uint32_t n_in) { return (size_t)((n_rows + 31u) / 32u * 2u) * (n_in / 32u) * TILE_BYTES; }

void kvi_amx_pack_block(const float *x, uint32_t n_rows, uint32_t n_in, uint32_t block, void *packed)
{
    uint16_t *tile = (uint16_t *)packed + (size_t)block * (n_in / 32u) * (TILE_BYTES / 2u);
    for (uint32_t k = 0; k < n_in; k += 32, tile += TILE_BYTES / 2u) {
        uint16_t rows[16][32];
        for (uint32_t r = 0; r < 16; r++) {
            uint32_t row = block * 16 + r;
            for (uint32_t i = 0; i < 32; i++) rows[r][i] = row < n_rows ? kvi_f32_to_bf16(x[(size_t)row * n_in + k + i]) : 0;
        }
        for (uint32_t pair = 0; pair < 16; pair++)
            for (uint32_t r = 0; r < 16; r++) {
                tile[pair * 32 + 2 * r] = rows[r][2 * pair];
                tile[pair * 32 + 2 * r + 1] = rows[r][2 * pair + 1];
            }
    }
}

/* out (16 outputs, 16 tokens) to y[token][output] */
static void put_tile(float out[16][16], uint32_t first_token, uint32_t n_rows, const float *bias, bool add, float *y, size_t ldy)
{
    for (uint32_t t = 0; t < 16 && first_token + t < n_rows; t++) {
        float *row = y + (size_t)(first_token + t) * ldy;
        for (uint32_t o = 0; o < 16; o++) {
            float value = out[o][t] + (bias ? bias[o] : 0.0f);
            row[o] = add ? row[o] + value : value;
        }
    }
}

void kvi_amx_gemm(const void *w, uint32_t n_out, uint32_t n_in, const void *packed, uint32_t n_rows, const float *bias, bool add,
                  float *y, size_t ldy)
{
    kvi_amx_config config;
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int t = 0; t < 8; t++) config.colsb[t] = 64, config.rows[t] = 16;
    kvi_amx_configure(&config);
    const size_t row = (size_t)n_in * 2u, steps = n_in / 32u;
    float out[4][16][16];
    for (uint32_t o = 0; o < n_out; o += 32)
        for (uint32_t t = 0; t < n_rows; t += 32) {
            const uint8_t *a0 = (const uint8_t *)w + (size_t)o * row, *a1 = a0 + 16 * row;
            const uint8_t *b0 = (const uint8_t *)packed + (size_t)(t / 16) * steps * TILE_BYTES, *b1 = b0 + steps * TILE_BYTES;
            KVI_AMX_ZERO(0);
            KVI_AMX_ZERO(1);
            KVI_AMX_ZERO(2);
            KVI_AMX_ZERO(3);
            for (size_t k = 0; k < steps; k++) {
                KVI_AMX_LOAD(4, a0 + k * 64, row);
                KVI_AMX_LOAD(6, b0 + k * TILE_BYTES, 64);
                KVI_AMX_DP_BF16(0, 4, 6);
                KVI_AMX_LOAD(7, b1 + k * TILE_BYTES, 64);
                KVI_AMX_DP_BF16(1, 4, 7);
                KVI_AMX_LOAD(5, a1 + k * 64, row);
                KVI_AMX_DP_BF16(2, 5, 6);
                KVI_AMX_DP_BF16(3, 5, 7);
            }
            KVI_AMX_STORE(0, out[0], 64);
            KVI_AMX_STORE(1, out[1], 64);
            KVI_AMX_STORE(2, out[2], 64);
            KVI_AMX_STORE(3, out[3], 64);
            for (uint32_t q = 0; q < 4; q++)
                put_tile(out[q], t + 16 * (q & 1), n_rows, bias ? bias + o + 16 * (q >> 1) : NULL, add, y + o + 16 * (q >> 1), ldy);
        }
    kvi_amx_release();
}
#else
typedef int kvi_amx_absent;
#endif
