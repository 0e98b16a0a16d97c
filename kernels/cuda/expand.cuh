/* expand.cuh - codes of a page as F16 numbers: 16 codes of a row at a time, of any code there is, read as they lie. What is behind a number: (code
 * a + z) o + m, where one row of codes shares a and z and its columns have an o and an m each. Integer codes have no m, the trellis' normal form
 * no z (and K's m is the row's), 8-bit floats neither. */
#ifndef KVI_EXPAND_CUH
#define KVI_EXPAND_CUH
#include "attention_params.h"
#include "ptx.cuh"

#define KVI_ONES make_uint4(0x3c003c00u, 0x3c003c00u, 0x3c003c00u, 0x3c003c00u)

KVI_DEV uint32_t kvi_word(const uint4 &v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }
KVI_DEV constexpr bool kvi_trellis(kvi_kv_code code) { return code == KVI_KV_T3 || code == KVI_KV_T2; }
KVI_DEV constexpr uint32_t kvi_bits(kvi_kv_code code)
{
    return code == KVI_KV_I8 || code == KVI_KV_F8   ? 8u
           : code == KVI_KV_Q4                      ? 4u
           : code == KVI_KV_Q3 || code == KVI_KV_T3 ? 3u
                                                    : 2u;
}

/* The branches of a switch over codes of packed sides: DO(code), a constant. And those of all codes. */
#define KVI_PACKED_CASES(DO)                                                                                           \
    case KVI_KV_F8: DO(KVI_KV_F8); break;                                                                              \
    case KVI_KV_I8: DO(KVI_KV_I8); break;                                                                              \
    case KVI_KV_Q4: DO(KVI_KV_Q4); break;                                                                              \
    case KVI_KV_Q3: DO(KVI_KV_Q3); break;                                                                              \
    case KVI_KV_Q2: DO(KVI_KV_Q2); break;                                                                              \
    case KVI_KV_T3: DO(KVI_KV_T3); break;                                                                              \
    default:                                                                                                           \
        DO(KVI_KV_T2);                                                                                                 \
        break;
#define KVI_BY_CODE(code, PLAIN, DO)                                                                                   \
    switch (code) {                                                                                                    \
    case KVI_KV_F16:                                                                                                   \
    case KVI_KV_BF16:                                                                                                  \
        PLAIN;                                                                                                         \
        break;                                                                                                         \
        KVI_PACKED_CASES(DO)                                                                                           \
    }

/* The codes of `chunk` of a row, in 2 to 16 bytes as they lie; of the trellis the byte behind as well, the row being a ring. Sixteen codes of
 * three bits begin at even addresses, all others at multiples of their length. */
template <kvi_kv_code code> KVI_DEV uint4 kvi_codes16(const uint8_t *row, uint32_t row_bytes, uint32_t chunk)
{
    constexpr uint32_t bits = kvi_bits(code);
    uint4 w = make_uint4(0, 0, 0, 0);
    if (bits == 8) return *(const uint4 *)(row + 16u * chunk);
    if (bits == 4) {
        const uint2 v = *(const uint2 *)(row + 8u * chunk);
        w.x = v.x, w.y = v.y;
    } else if (bits == 3) {
        const uint16_t *at = (const uint16_t *)(row + 6u * chunk);
        w.x = at[0] | (uint32_t)at[1] << 16, w.y = at[2];
    } else w.x = *(const uint32_t *)(row + 4u * chunk);
    if (kvi_trellis(code)) {
        const uint32_t next = 2u * bits * (chunk + 1u), more = row[next < row_bytes ? next : 0u];
        if (bits == 3) w.y |= more << 16;
        else w.y = more;
    }
    return w;
}

/* Number e of 16; levels: (2, 64) of the trellis, of two bits and of three. */
template <kvi_kv_code code> KVI_DEV float kvi_number(const uint4 &w, int e, const float *levels)
{
    constexpr int bits = kvi_bits(code), take = kvi_trellis(code) ? 6 : bits;
    const int at = e * bits, shift = at % 32;
    uint32_t v = kvi_word(w, at / 32) >> shift;
    if (shift + take > 32) v |= kvi_word(w, at / 32 + 1) << (32 - shift);
    v &= (1u << take) - 1u;
    if (kvi_trellis(code)) return levels[(bits == 3 ? 64u : 0u) + v];
    if (code == KVI_KV_F8) /* with the exponent of F16, which is 8 more */
        return kvi_f16_lo((v & 0x80u) << 8 | (v & 0x7fu) << 7) * 256.0f;
    return kvi_bits_f32(0x4b000000u | v) - 8388608.0f;
}

/* What belongs to a row of codes, and to 16 columns. */
struct kvi_row_scales {
    float a, z, m;
};
struct kvi_column_scales {
    uint4 o[2], m[2];
};

/* 16 numbers as pairs. */
template <kvi_kv_code code>
KVI_DEV void kvi_expand(const uint4 &w, const kvi_row_scales &r, const kvi_column_scales &c, const float *levels,
                        uint32_t (&out)[8])
{
#pragma unroll
    for (int e = 0; e < 8; e++) {
        const uint32_t o = kvi_word(c.o[e / 4], e % 4);
        float lo = kvi_number<code>(w, 2 * e, levels) * r.a + r.z,
              hi = kvi_number<code>(w, 2 * e + 1, levels) * r.a + r.z;
        lo = lo * kvi_f16_lo(o) + r.m;
        hi = hi * kvi_f16_hi(o) + r.m;
        if (kvi_trellis(code)) {
            const uint32_t mean = kvi_word(c.m[e / 4], e % 4);
            lo += kvi_f16_lo(mean), hi += kvi_f16_hi(mean);
        }
        out[e] = kvi_pack_f16(lo, hi);
    }
}

KVI_DEV float kvi_side_f16(const uint8_t *side, uint32_t off, uint32_t i)
{
    return kvi_f16_lo(*(const uint16_t *)(side + off + 2u * i));
}

template <kvi_kv_code code, bool is_v>
KVI_DEV kvi_row_scales kvi_scales_of_row(const uint8_t *side, const kvi_kv_side &s, uint32_t row)
{
    kvi_row_scales r = {1.0f, 0.0f, 0.0f};
    if (is_v || code >= KVI_KV_Q4) r.a = kvi_side_f16(side, s.a_off, row);
    if (kvi_trellis(code)) {
        if (!is_v) r.m = kvi_side_f16(side, s.z_off, row);
    } else if (code >= KVI_KV_Q4 || (is_v && code == KVI_KV_I8)) r.z = kvi_side_f16(side, s.z_off, row);
    else if (code == KVI_KV_I8) r.z = -128.0f;
    return r;
}

/* Of 16 columns from `col` on, a multiple of 16. */
template <kvi_kv_code code, bool is_v>
KVI_DEV kvi_column_scales kvi_scales_of_columns(const uint8_t *side, const kvi_kv_side &s, uint32_t col)
{
    const uint4 *o = (const uint4 *)(side + s.o_off + 2u * col), *m = (const uint4 *)(side + s.z_off + 2u * col);
    kvi_column_scales c = {{KVI_ONES, KVI_ONES}, {make_uint4(0, 0, 0, 0), make_uint4(0, 0, 0, 0)}};
    if (!is_v || code >= KVI_KV_Q4) c.o[0] = o[0], c.o[1] = o[1];
    if (is_v && kvi_trellis(code)) c.m[0] = m[0], c.m[1] = m[1];
    return c;
}

/* Eight numbers of a plain 16-bit row as F16; NaN stays NaN. */
KVI_DEV uint32_t kvi_plain_pair(uint32_t pair)
{
    const float lo = kvi_bf16_lo(pair), hi = kvi_bf16_hi(pair), top = KVI_F16_MAX;
    return kvi_pack_f16(lo > top ? top : lo < -top ? -top : lo, hi > top ? top : hi < -top ? -top : hi);
}
KVI_DEV uint4 kvi_plain8(const uint4 &v, kvi_kv_code code)
{
    if (code == KVI_KV_F16) return v;
    return make_uint4(kvi_plain_pair(v.x), kvi_plain_pair(v.y), kvi_plain_pair(v.z), kvi_plain_pair(v.w));
}

#endif
