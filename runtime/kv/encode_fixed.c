/* encode_fixed.c - rows to F8 and I8 with a scale that the model brings: no search, no statistics of the rows. */
#include "encode.h"

#include <math.h>
#include <string.h>

/* Signed code of an I8, ties to even; NaN is 0. */
static int to_i8(float x) { return x != x ? 0 : (int)rintf(x < -128.0f ? -128.0f : x > 127.0f ? 127.0f : x); }

void kvi_kv_encode_fixed(kvi_kv_code kind, bool is_v, const float *rows, uint32_t d, float scale, uint8_t *side)
{
    const kvi_kv_side s = is_v ? kvi_kv_v_side(kind, d) : kvi_kv_k_side(kind, d);
    const uint16_t stored = kvi_f32_to_f16(scale), middle = kvi_f32_to_f16(-128.0f * kvi_f16_to_f32(stored));
    const float step = kvi_f16_to_f32(stored);
    memset(side, 0, s.bytes);
    for (uint32_t t = 0; t < KVI_KV_PAGE; t++) {
        kvi_kv_store16(side + (is_v ? s.a_off : s.o_off) + 2u * t, stored);
        if (is_v && kind == KVI_KV_I8) kvi_kv_store16(side + s.z_off + 2u * t, middle);
        for (uint32_t c = 0; c < d; c++) {
            const float x = rows[t * d + c] / step;
            side[s.codes_off + (is_v ? t * d + c : c * KVI_KV_PAGE + t)] =
                kind == KVI_KV_F8 ? kvi_f32_to_e4m3(x) : (uint8_t)(to_i8(x) + 128);
        }
    }
}
