/* codec.h - the elements of a packed record: packing of codes, reconstruction, E4M3. Shared by C, device code and tests; no memory, no libc.
 * Every operation is one IEEE f32 operation, compiled without contraction, so results are the same bits everywhere.
 *
 *   K'[t][d] = (q * A[d] + Z[d]) * O[t]       code row = channel d, 128 codes      A, Z (D)    O (128)
 *   V'[t][d] = (q * A[t] + Z[t]) * O[d]       code row = token t,   D codes        A, Z (128)  O (D)
 *   T2, T3: K' = (level A[d]) O[t] + M[d], V' = (level O[t]) A[d] + M[d], M where others have Z: the normal form, which has a mean
 *        and a scale per channel and a scale per token. Rows of codes are the same, each a ring of its own (trellis.h).
 *   I8:  K A = 1, Z = -128, O per token;  V A, Z per token, O = 1.     F8: the E4M3 value times the token's scale (K: O, V: A).
 *
 * Payload order KVI_KV_ORDER_ROWS: rows of codes one after the other, codes in an LSB-first bit stream per row: a row of 128 or D codes of
 * b bits is 16 b or D b / 8 bytes, always a whole number of 32-bit words for D a multiple of 16 (and of bytes for 8). For K the tokens of a
 * channel are contiguous, which is the transposed form that scores are computed from; for V the channels of a token are.
 * Source: KVarN (arXiv 2606.03458) and its published record layout. */
#ifndef KVI_KV_CODEC_H
#define KVI_KV_CODEC_H
#include "half.h"
#include "trellis.h"

#define KVI_KV_ORDER_ROWS 0u /* payload order id, part of snapshots */

/* Code i of a row of b-bit codes. */
KVI_HD static inline uint32_t kvi_kv_get_code(const uint8_t *row, uint32_t i, uint32_t bits)
{
    uint32_t bit = i * bits, at = bit >> 3, shift = bit & 7u;
    uint32_t word = row[at];
    if (shift + bits > 8u) word |= (uint32_t)row[at + 1] << 8; /* only 3-bit codes cross a byte */
    return (word >> shift) & ((1u << bits) - 1u);
}
/* Rows start zeroed; codes are written once. */
KVI_HD static inline void kvi_kv_put_code(uint8_t *row, uint32_t i, uint32_t bits, uint32_t code)
{
    uint32_t bit = i * bits, at = bit >> 3, shift = bit & 7u;
    row[at] = (uint8_t)(row[at] | (code << shift));
    if (shift + bits > 8u) row[at + 1] = (uint8_t)(row[at + 1] | (code >> (8u - shift)));
}

KVI_HD static inline uint16_t kvi_kv_load16(const uint8_t *p) { return (uint16_t)(p[0] | ((uint32_t)p[1] << 8)); }
KVI_HD static inline void kvi_kv_store16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}
/* Entry i of an fp16 side vector. */
KVI_HD static inline float kvi_kv_side_value(const uint8_t *side, uint32_t off, uint32_t i)
{
    return kvi_f16_to_f32(kvi_kv_load16(side + off + 2u * i));
}

/* E4M3FN: sign, 4 bits of exponent (bias 7), 3 of mantissa; largest 448, no infinity, NaN 0x7f and 0xff. */
KVI_HD static inline float kvi_e4m3_to_f32(uint8_t e)
{
    uint32_t sign = (uint32_t)(e & 0x80u) << 24, exponent = (e >> 3) & 15u, mantissa = e & 7u;
    if (exponent == 15u && mantissa == 7u) return kvi_f32_from_bits(sign | 0x7fc00000u);
    if (exponent) return kvi_f32_from_bits(sign | ((exponent + 120u) << 23) | (mantissa << 20));
    float value = (float)mantissa * 0.001953125f; /* 2^-9 */
    return sign ? -value : value;
}
/* Round to nearest even, saturating at 448; NaN becomes 0 (the encoder's NaN trap). */
KVI_HD static inline uint8_t kvi_f32_to_e4m3(float value)
{
    uint32_t u = kvi_f32_bits(value), sign = (u >> 24) & 0x80u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u) return 0;
    if (a >= 0x43e00000u) return (uint8_t)(sign | 0x7eu); /* 448 and above */
    if (a < 0x3c800000u) {                                /* below 2^-6: multiples of 2^-9 */
        float steps = kvi_f32_from_bits(a) * 512.0f;
        uint32_t n = (uint32_t)steps;
        float rest = steps - (float)n;
        n += rest > 0.5f || (rest == 0.5f && (n & 1u));
        return (uint8_t)(sign | n);
    }
    uint32_t rounded = a + 0x7ffffu + ((a >> 20) & 1u);
    uint32_t code = (rounded >> 20) - (120u << 3);
    return (uint8_t)(sign | (code > 0x7eu ? 0x7eu : code));
}

/* The reconstruction: two roundings, never fused. */
KVI_HD static inline float kvi_kv_reconstruct(uint32_t code, float a, float z, float o)
{
    float product = (float)code * a;
    float sum = product + z;
    return sum * o;
}

/* The reconstruction of the normal form: three roundings. row, col: scales of the row of codes and of its columns. */
KVI_HD static inline float kvi_kv_normal(float level, float row, float col, float mean)
{
    float product = level * row;
    product *= col;
    return product + mean;
}

/* Element (token t, channel c) of a K side of code `kind`; `side` is its start. */
KVI_HD static inline float kvi_kv_decode_k(const uint8_t *side, kvi_kv_code kind, uint32_t d, uint32_t t, uint32_t c)
{
    const kvi_kv_side s = kvi_kv_k_side(kind, d);
    const uint32_t bits = kvi_kv_code_bits(kind);
    if (kind == KVI_KV_F32) {
        const uint8_t *p = side + 4u * (t * d + c);
        return kvi_f32_from_bits((uint32_t)kvi_kv_load16(p) | (uint32_t)kvi_kv_load16(p + 2) << 16);
    }
    if (kind == KVI_KV_F16) return kvi_f16_to_f32(kvi_kv_load16(side + 2u * (t * d + c)));
    if (kind == KVI_KV_BF16) return kvi_bf16_to_f32(kvi_kv_load16(side + 2u * (t * d + c)));
    const uint8_t *row = side + s.codes_off + c * (KVI_KV_PAGE / 8u * bits);
    const float o = kvi_kv_side_value(side, s.o_off, t);
    if (kind == KVI_KV_F8) return kvi_e4m3_to_f32(row[t]) * o;
    if (kind == KVI_KV_I8) return kvi_kv_reconstruct(row[t], 1.0f, -128.0f, o);
    if (kvi_kv_code_is_trellis(kind))
        return kvi_kv_normal(kvi_kv_level(kvi_kv_state(row, KVI_KV_PAGE / 8u * bits, t, bits), bits),
                             kvi_kv_side_value(side, s.a_off, c), o, kvi_kv_side_value(side, s.z_off, c));
    return kvi_kv_reconstruct(kvi_kv_get_code(row, t, bits), kvi_kv_side_value(side, s.a_off, c),
                              kvi_kv_side_value(side, s.z_off, c), o);
}
KVI_HD static inline float kvi_kv_decode_v(const uint8_t *side, kvi_kv_code kind, uint32_t d, uint32_t t, uint32_t c)
{
    const kvi_kv_side s = kvi_kv_v_side(kind, d);
    const uint32_t bits = kvi_kv_code_bits(kind);
    if (kvi_kv_code_is_plain(kind)) return kvi_kv_decode_k(side, kind, d, t, c);
    const uint8_t *row = side + s.codes_off + t * (d / 8u * bits);
    const float a = kvi_kv_side_value(side, s.a_off, t);
    if (kind == KVI_KV_F8) return kvi_e4m3_to_f32(row[c]) * a;
    if (kvi_kv_code_is_trellis(kind))
        return kvi_kv_normal(kvi_kv_level(kvi_kv_state(row, d / 8u * bits, c, bits), bits), a,
                             kvi_kv_side_value(side, s.o_off, c), kvi_kv_side_value(side, s.z_off, c));
    const float z = kvi_kv_side_value(side, s.z_off, t);
    if (kind == KVI_KV_I8) return kvi_kv_reconstruct(row[c], a, z, 1.0f);
    return kvi_kv_reconstruct(kvi_kv_get_code(row, c, bits), a, z, kvi_kv_side_value(side, s.o_off, c));
}

#endif
