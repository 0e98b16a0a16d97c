/* amx_emulated.h - the tile instructions of amx.h in plain C, after the pseudo code of Intel's manual, so that kernels on tiles run on any
 * processor: palette 1, eight tiles of up to 16 rows of 64 bytes. Rows and bytes beyond the configured ones become zero where the processor
 * zeroes them, and shapes that the processor would refuse stop the program. Products of BF16 are summed in f32 by pairs, as there. */
#ifndef AMX_EMULATED_H
#define AMX_EMULATED_H
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct kvi_amx_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t colsb[16];
    uint8_t rows[16];
} kvi_amx_config;

typedef struct amx_state {
    kvi_amx_config config; /* palette 0: none */
    uint8_t tiles[8][16][64];
} amx_state;
static _Thread_local amx_state amx;

static inline void amx_demand(int right)
{
    if (!right) abort(); /* #UD or #GP there */
}
static inline void kvi_amx_configure(const kvi_amx_config *config)
{
    amx_demand(config->palette == 1 && config->start_row == 0);
    for (int t = 0; t < 8; t++) amx_demand(config->colsb[t] <= 64 && config->rows[t] <= 16);
    memset(&amx, 0, sizeof amx);
    amx.config = *config;
}
static inline void kvi_amx_release(void) { memset(&amx, 0, sizeof amx); }

static inline void amx_zero(int t)
{
    amx_demand(amx.config.palette == 1);
    memset(amx.tiles[t], 0, sizeof amx.tiles[t]);
}
static inline void amx_load(int t, const void *base, size_t stride)
{
    amx_zero(t);
    for (int r = 0; r < amx.config.rows[t]; r++)
        memcpy(amx.tiles[t][r], (const uint8_t *)base + (size_t)r * stride, amx.config.colsb[t]);
}
static inline void amx_store(int t, void *base, size_t stride)
{
    amx_demand(amx.config.palette == 1);
    for (int r = 0; r < amx.config.rows[t]; r++)
        memcpy((uint8_t *)base + (size_t)r * stride, amx.tiles[t][r], amx.config.colsb[t]);
}
/* What all products demand of the shapes of c, a and b. */
static inline void amx_shapes(int c, int a, int b)
{
    const kvi_amx_config *s = &amx.config;
    amx_demand(s->palette == 1 && c != a && c != b && a != b);
    amx_demand(s->rows[c] == s->rows[a] && s->colsb[c] == s->colsb[b] && s->colsb[a] == 4 * s->rows[b]);
}
static inline void amx_dp_s8(int c, int a, int b, int b_signed)
{
    amx_shapes(c, a, b);
    for (int m = 0; m < amx.config.rows[c]; m++)
        for (int k = 0; k < amx.config.colsb[a] / 4; k++)
            for (int n = 0; n < amx.config.colsb[b] / 4; n++) {
                int32_t sum;
                memcpy(&sum, &amx.tiles[c][m][4 * n], 4);
                for (int i = 0; i < 4; i++) {
                    const uint8_t byte = amx.tiles[b][k][4 * n + i];
                    sum += (int8_t)amx.tiles[a][m][4 * k + i] * (b_signed ? (int8_t)byte : (int)byte);
                }
                memcpy(&amx.tiles[c][m][4 * n], &sum, 4);
            }
}
static inline float amx_bf16(const uint8_t *p)
{
    const uint32_t bits = (uint32_t)(p[0] | p[1] << 8) << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
static inline void amx_dp_bf16(int c, int a, int b)
{
    amx_shapes(c, a, b);
    for (int m = 0; m < amx.config.rows[c]; m++)
        for (int k = 0; k < amx.config.colsb[a] / 4; k++)
            for (int n = 0; n < amx.config.colsb[b] / 4; n++) {
                const uint8_t *x = &amx.tiles[a][m][4 * k], *y = &amx.tiles[b][k][4 * n];
                float sum;
                memcpy(&sum, &amx.tiles[c][m][4 * n], 4);
                sum += amx_bf16(x) * amx_bf16(y);
                sum += amx_bf16(x + 2) * amx_bf16(y + 2);
                memcpy(&amx.tiles[c][m][4 * n], &sum, 4);
            }
}
#define KVI_AMX_ZERO(t) amx_zero(t)
#define KVI_AMX_LOAD(t, base, stride) amx_load(t, base, stride)
#define KVI_AMX_STORE(t, base, stride) amx_store(t, base, stride)
#define KVI_AMX_DP_BF16(c, a, b) amx_dp_bf16(c, a, b)
#define KVI_AMX_DP_S8S8(c, a, b) amx_dp_s8(c, a, b, 1)
#define KVI_AMX_DP_S8U8(c, a, b) amx_dp_s8(c, a, b, 0)

#endif
