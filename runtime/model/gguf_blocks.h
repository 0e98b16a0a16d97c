/* gguf_blocks.h - blocks of the GGUF forms as numbers: one block of 32, 64 or 256 neighbours to f32. Part of weight_codec.h.
 * A block brings its scales with it. Values are those of the package gguf, to the bit: the order of operations is part of a form's meaning,
 * a scale is multiplied by its sub-scale first, then by the code. d, m, dmin are F16; h is a nibble, low nibbles come first.
 *
 *   32 elements: 16 bytes of nibbles, byte j holds elements j and 16 + j
 *     Q4_0   d, nibbles                              (h - 8) d
 *     Q4_1   d, m, nibbles                           d h + m
 *     Q5_0   d, u32 b, nibbles                       (h + 16 b_j - 16) d, b_j bit j of b
 *     Q5_1   d, m, u32 b, nibbles                    d (h + 16 b_j) + m
 *     Q8_0   d, 32 signed bytes                      q d
 *     IQ4_NL d, nibbles                              d T[h]
 *     MXFP4_BLOCK  exponent e, nibbles               2^(e - 128) U[h]
 *   64 elements in four groups of 16, 8 bytes each, byte j of a group holds its elements j and 8 + j
 *     NVFP4_BLOCK  4 scales UE4M3, nibbles           s/2 U[h]
 *   256 elements, in groups with small scales of their own
 *     Q2_K   16 bytes of scales (low) and mins, 64 bytes of 2-bit codes, d, dmin     (d s) q - dmin m, groups of 16
 *     Q3_K   32 bytes of high bits, 64 bytes of low ones, 12 bytes of scales, d      (d (s - 32)) (q - 4), groups of 16
 *     Q4_K   d, dmin, 12 bytes of scales and mins, 128 bytes of nibbles              (d s) h - dmin m, groups of 32
 *     Q5_K   d, dmin, 12 bytes alike, 32 bytes of high bits, 128 bytes of nibbles    (d s) q - dmin m
 *     Q6_K   128 bytes of nibbles, 64 bytes of high pairs, 16 signed scales, d       (d s) (q - 32), groups of 16
 *     IQ4_XS d, u16 of high pairs, 4 bytes of low nibbles of scales, 128 of nibbles  (d (s - 32)) T[h], groups of 32
 *
 * T and U are the tables below; U is twice what E2M1 says, hence 2^(e - 128) and s/2. */
#ifndef KVI_GGUF_BLOCKS_H
#define KVI_GGUF_BLOCKS_H
#include "weight_form.h"
#include "../kv/codec.h"

KVI_HD static inline float kvi_gguf_half(const uint8_t *p) { return kvi_f16_to_f32(kvi_kv_load16(p)); }

KVI_HD static inline float kvi_gguf_iq4(uint32_t code)
{
    const int8_t table[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    return (float)table[code];
}

KVI_HD static inline float kvi_gguf_e2m1(uint32_t code)
{
    const int8_t table[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    return (float)table[code];
}

/* Element j of 32 in 16 bytes. */
KVI_HD static inline uint32_t kvi_gguf_nibble(const uint8_t *bytes, uint32_t j)
{
    return j < 16u ? bytes[j] & 15u : (uint32_t)bytes[j - 16u] >> 4;
}

/* -------------------------------------------------------------------------------------------- blocks of 32, 64 --- */
KVI_HD static inline void kvi_gguf_q4(const uint8_t *b, int has_min, float *out)
{
    const float d = kvi_gguf_half(b), m = has_min ? kvi_gguf_half(b + 2) : 0.0f;
    const uint8_t *codes = b + (has_min ? 4 : 2);
    for (uint32_t j = 0; j < 32u; j++) {
        const int h = (int)kvi_gguf_nibble(codes, j);
        const float product = d * (float)(has_min ? h : h - 8);
        out[j] = has_min ? product + m : product;
    }
}

KVI_HD static inline void kvi_gguf_q5(const uint8_t *b, int has_min, float *out)
{
    const float d = kvi_gguf_half(b), m = has_min ? kvi_gguf_half(b + 2) : 0.0f;
    const uint8_t *high = b + (has_min ? 4 : 2), *codes = high + 4;
    for (uint32_t j = 0; j < 32u; j++) {
        const int q = (int)(kvi_gguf_nibble(codes, j) | ((uint32_t)high[j / 8u] >> j % 8u & 1u) << 4);
        const float product = d * (float)(has_min ? q : q - 16);
        out[j] = has_min ? product + m : product;
    }
}

KVI_HD static inline void kvi_gguf_q8_0(const uint8_t *b, float *out)
{
    const float d = kvi_gguf_half(b);
    for (uint32_t j = 0; j < 32u; j++) out[j] = (float)(int8_t)b[2u + j] * d;
}

KVI_HD static inline void kvi_gguf_iq4_nl(const uint8_t *b, float *out)
{
    const float d = kvi_gguf_half(b);
    for (uint32_t j = 0; j < 32u; j++) out[j] = d * kvi_gguf_iq4(kvi_gguf_nibble(b + 2, j));
}

/* 2^(e - 128), which is subnormal for the two smallest. */
KVI_HD static inline float kvi_gguf_e8m0_half(uint32_t e)
{
    return kvi_f32_from_bits(e < 2u ? 0x00200000u << e : (e - 1u) << 23);
}

KVI_HD static inline void kvi_gguf_mxfp4(const uint8_t *b, float *out)
{
    const float d = kvi_gguf_e8m0_half(b[0]);
    for (uint32_t j = 0; j < 32u; j++) out[j] = d * kvi_gguf_e2m1(kvi_gguf_nibble(b + 1, j));
}

/* Half of an E4M3 whose sign bit is not looked at, except that 0x7f, E4M3's NaN, is zero as ggml has it; 0xff is not 0x7f and so is 480. */
KVI_HD static inline float kvi_gguf_ue4m3_half(uint32_t code)
{
    const uint32_t exponent = code >> 3 & 15u, mantissa = code & 7u;
    if (code == 0x7fu) return 0.0f;
    if (!exponent) return (float)mantissa * 0.0009765625f; /* 2^-10 */
    return kvi_f32_from_bits((exponent + 119u) << 23 | mantissa << 20);
}

KVI_HD static inline void kvi_gguf_nvfp4(const uint8_t *b, float *out)
{
    for (uint32_t g = 0; g < 4u; g++) {
        const float s = kvi_gguf_ue4m3_half(b[g]);
        const uint8_t *codes = b + 4u + 8u * g;
        for (uint32_t j = 0; j < 8u; j++) {
            out[16u * g + j] = s * kvi_gguf_e2m1(codes[j] & 15u);
            out[16u * g + 8u + j] = s * kvi_gguf_e2m1((uint32_t)codes[j] >> 4);
        }
    }
}

/* ---------------------------------------------------------------------------------------------- blocks of 256 --- */
/* Codes of two bits: each 32 bytes hold 128 elements, bits 2k of byte i element 32 k + i of them. */
KVI_HD static inline uint32_t kvi_gguf_pair(const uint8_t *bytes, uint32_t j)
{
    return (uint32_t)bytes[j / 128u * 32u + j % 32u] >> j % 128u / 32u * 2u & 3u;
}

KVI_HD static inline void kvi_gguf_q2_k(const uint8_t *b, float *out)
{
    const float d = kvi_gguf_half(b + 80), dmin = kvi_gguf_half(b + 82);
    for (uint32_t g = 0; g < 16u; g++) {
        const float s = d * (float)(b[g] & 15u), m = dmin * (float)(b[g] >> 4);
        for (uint32_t j = 16u * g; j < 16u * g + 16u; j++) {
            const float product = s * (float)kvi_gguf_pair(b + 16, j);
            out[j] = product - m;
        }
    }
}

KVI_HD static inline void kvi_gguf_q3_k(const uint8_t *b, float *out)
{
    const uint8_t *high = b, *low = b + 32, *scales = b + 96;
    const float d = kvi_gguf_half(b + 108);
    for (uint32_t g = 0; g < 16u; g++) {
        /* Scale g: four low bits in bytes 0 to 7, groups 8 and up in the high nibbles; two high bits in bytes 8 to 11. */
        const uint32_t nibble = g < 8u ? scales[g] & 15u : (uint32_t)scales[g - 8u] >> 4;
        const int scale = (int)(nibble | ((uint32_t)scales[8u + g % 4u] >> g / 4u * 2u & 3u) << 4) - 32;
        const float s = d * (float)scale;
        for (uint32_t j = 16u * g; j < 16u * g + 16u; j++) {
            const int q = (int)kvi_gguf_pair(low, j) - (high[j % 32u] >> j / 32u & 1 ? 0 : 4);
            out[j] = s * (float)q;
        }
    }
}

/* Scale and min of group g of Q4_K and Q5_K, six bits each. */
KVI_HD static inline void kvi_gguf_k4_scale(const uint8_t *b, uint32_t g, float *scale, float *min)
{
    if (g < 4u) {
        *scale = (float)(b[g] & 63u);
        *min = (float)(b[g + 4u] & 63u);
        return;
    }
    *scale = (float)((b[g + 4u] & 15u) | ((uint32_t)b[g - 4u] >> 6) << 4);
    *min = (float)((uint32_t)b[g + 4u] >> 4 | ((uint32_t)b[g] >> 6) << 4);
}

/* Q4_K, and Q5_K with its high bits between scales and nibbles. */
KVI_HD static inline void kvi_gguf_q45_k(const uint8_t *b, int has_high, float *out)
{
    const float d = kvi_gguf_half(b), dmin = kvi_gguf_half(b + 2);
    const uint8_t *high = b + 16, *codes = b + (has_high ? 48 : 16);
    for (uint32_t g = 0; g < 8u; g++) {
        float scale, min;
        kvi_gguf_k4_scale(b + 4, g, &scale, &min);
        const float s = d * scale, m = dmin * min;
        for (uint32_t i = 0; i < 32u; i++) {
            uint32_t q = (uint32_t)codes[g / 2u * 32u + i] >> (g & 1u) * 4u & 15u;
            if (has_high) q |= ((uint32_t)high[i] >> g & 1u) << 4;
            const float product = s * (float)q;
            out[32u * g + i] = product - m;
        }
    }
}

KVI_HD static inline void kvi_gguf_q6_k(const uint8_t *b, float *out)
{
    const uint8_t *low = b, *high = b + 128, *scales = b + 192;
    const float d = kvi_gguf_half(b + 208);
    for (uint32_t j = 0; j < 256u; j++) {
        const uint32_t nibble = (uint32_t)low[j / 128u * 64u + j % 64u] >> j % 128u / 64u * 4u & 15u;
        const float s = d * (float)(int8_t)scales[j / 16u];
        out[j] = s * (float)((int)(nibble | kvi_gguf_pair(high, j) << 4) - 32);
    }
}

KVI_HD static inline void kvi_gguf_iq4_xs(const uint8_t *b, float *out)
{
    const float d = kvi_gguf_half(b);
    const uint32_t high = kvi_kv_load16(b + 2);
    for (uint32_t g = 0; g < 8u; g++) {
        const uint32_t nibble = (uint32_t)b[4u + g / 2u] >> g % 2u * 4u & 15u;
        const float s = d * (float)((int)(nibble | (high >> 2u * g & 3u) << 4) - 32);
        for (uint32_t i = 0; i < 32u; i++) out[32u * g + i] = s * kvi_gguf_iq4(kvi_gguf_nibble(b + 8u + 16u * g, i));
    }
}

/* out (kvi_form(form)->block); 0 when the form is not among those above. */
KVI_HD static inline int kvi_gguf_block(kvi_weight_form form, const uint8_t *block, float *out)
{
    switch (form) {
    case KVI_FORM_Q4_0: kvi_gguf_q4(block, 0, out); return 1;
    case KVI_FORM_Q4_1: kvi_gguf_q4(block, 1, out); return 1;
    case KVI_FORM_Q5_0: kvi_gguf_q5(block, 0, out); return 1;
    case KVI_FORM_Q5_1: kvi_gguf_q5(block, 1, out); return 1;
    case KVI_FORM_Q8_0: kvi_gguf_q8_0(block, out); return 1;
    case KVI_FORM_Q2_K: kvi_gguf_q2_k(block, out); return 1;
    case KVI_FORM_Q3_K: kvi_gguf_q3_k(block, out); return 1;
    case KVI_FORM_Q4_K: kvi_gguf_q45_k(block, 0, out); return 1;
    case KVI_FORM_Q5_K: kvi_gguf_q45_k(block, 1, out); return 1;
    case KVI_FORM_Q6_K: kvi_gguf_q6_k(block, out); return 1;
    case KVI_FORM_IQ4_NL: kvi_gguf_iq4_nl(block, out); return 1;
    case KVI_FORM_IQ4_XS: kvi_gguf_iq4_xs(block, out); return 1;
    case KVI_FORM_MXFP4_BLOCK: kvi_gguf_mxfp4(block, out); return 1;
    case KVI_FORM_NVFP4_BLOCK: kvi_gguf_nvfp4(block, out); return 1;
    default: return 0;
    }
}

#endif
