/* variant_portable.c - 16-byte vectors, any architecture. */
#define VARIANT portable
#define VB 16
#define MR 4
#define NEEDS 0
#define TILES NULL
#include "variant_body.h"

static inline vf fma_vec(vf a, vf b, vf c) { return a * b + c; }
static inline vf widen_f16(const uint16_t *p)
{
    uint16_t h[4];
    memcpy(h, p, sizeof h);
    return (vf){kvi_f16_to_f32(h[0]), kvi_f16_to_f32(h[1]), kvi_f16_to_f32(h[2]), kvi_f16_to_f32(h[3])};
}
static inline vf widen_u8(const uint8_t *p) { return (vf){(float)p[0], (float)p[1], (float)p[2], (float)p[3]}; }
static inline void narrow_f16(vf v, uint16_t *p)
{
    uint16_t h[4];
    for (int i = 0; i < 4; i++) h[i] = kvi_f32_to_f16(v[i]);
    memcpy(p, h, sizeof h);
}
