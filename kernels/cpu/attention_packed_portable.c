/* attention_packed_portable.c - packed attention for every machine, vectors of 16 bytes. */
#define VB 16
#define CENTRE 0
#define TABLE kvi_cpu_packed_portable
#include "attention_packed_body.h"

INLINE vf fma_vec(vf a, vf b, vf c) { return a * b + c; }
INLINE vf number(vu lanes, uint32_t bits) { return __builtin_convertvector((vi)(lanes & ((1u << bits) - 1u)), vf); }
INLINE vu shift(vu lanes, vu counts, bool same)
{
    return same ? lanes >> counts[0] : lanes >> counts;
} /* SSE2 shifts by one count */
INLINE vf bytes(const uint8_t *p) { return (vf){(float)p[0], (float)p[1], (float)p[2], (float)p[3]}; }
INLINE vu repeat(const uint8_t *p, uint32_t words)
{
    vu v;
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    if (words == VW) return memcpy(&v, p, sizeof v), v;
#endif
    for (uint32_t i = 0; i < VW;
         i++) { /* byte by byte: the order of a word's codes is little-endian on every machine */
        const uint8_t *w = p + i % words * 4u;
        v[i] = (uint32_t)w[0] | (uint32_t)w[1] << 8 | (uint32_t)w[2] << 16 | (uint32_t)w[3] << 24;
    }
    return v;
}
INLINE void zip(vf a, vf b, vf *low, vf *high)
{
    *low = (vf){a[0], b[0], a[1], b[1]};
    *high = (vf){a[2], b[2], a[3], b[3]};
}
INLINE vf half_bytes(const uint8_t *p)
{
    return (vf){kvi_e4m3_to_f32(p[0]), kvi_e4m3_to_f32(p[1]), kvi_e4m3_to_f32(p[2]), kvi_e4m3_to_f32(p[3])} / 256.0f;
}
INLINE vf level(vu states, const float *levels)
{
    const vu s = states & (KVI_KV_STATES - 1u);
    return (vf){levels[s[0]], levels[s[1]], levels[s[2]], levels[s[3]]};
}
INLINE vf load_half(const uint8_t *side, uint32_t off, uint32_t i)
{
    return (vf){kvi_kv_side_value(side, off, i), kvi_kv_side_value(side, off, i + 1),
                kvi_kv_side_value(side, off, i + 2), kvi_kv_side_value(side, off, i + 3)};
}
