/* lanes_portable.h - vectors of 16 bytes on any architecture: what the bodies of kernels ask of an instruction set. */
#define VB 16
#include "../../runtime/base/simd.h"
#include "../../runtime/kv/half.h"

INLINE vf fma_vec(vf a, vf b, vf c) { return a * b + c; }
INLINE vf widen_f16(const uint16_t *p)
{
    uint16_t h[4];
    memcpy(h, p, sizeof h);
    return (vf){kvi_f16_to_f32(h[0]), kvi_f16_to_f32(h[1]), kvi_f16_to_f32(h[2]), kvi_f16_to_f32(h[3])};
}
INLINE vf widen_u8(const uint8_t *p) { return (vf){(float)p[0], (float)p[1], (float)p[2], (float)p[3]}; }
/* The low byte of every lane to VW bytes. */
INLINE void store_bytes(uint8_t *to, vi v)
{
    for (uint32_t i = 0; i < VW; i++) to[i] = (uint8_t)v[i];
}
INLINE vu look_up(vu codes, const uint8_t *table)
{
    uint8_t b[VB];
    memcpy(b, &codes, sizeof b);
    for (uint32_t i = 0; i < VB; i++) b[i] = table[b[i] & 15u];
    memcpy(&codes, b, sizeof b);
    return codes;
}
/* Lane by lane the number of a table of 16; codes below 16. */
INLINE vf look_up_f32(vu codes, const float *table)
{
    vf v;
    for (uint32_t i = 0; i < VW; i++) v[i] = table[codes[i] & 15u];
    return v;
}
