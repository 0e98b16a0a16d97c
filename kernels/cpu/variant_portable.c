/* variant_portable.c - 16-byte vectors, any architecture. */
#define VARIANT portable
#define ONE_KIND /* small instead of fast */
#include "lanes_portable.h"
#define MR 4
#define NEEDS 0
#define TILES NULL
#define DOTS &kvi_dots_portable
#include "variant_body.h"

static inline void narrow_f16(vf v, uint16_t *p)
{
    uint16_t h[4];
    for (int i = 0; i < 4; i++) h[i] = kvi_f32_to_f16(v[i]);
    memcpy(p, h, sizeof h);
}
