/* simd.h - vectors of f32 by the compilers' vector extension, for text that is compiled once per instruction set: define VB, the bytes of a
 * vector (16, 32, 64), and include this. No intrinsics; whoever includes it adds those of its set. */
#ifndef KVI_SIMD_H
#define KVI_SIMD_H
#include <stdint.h>
#include <string.h>

typedef float vf __attribute__((vector_size(VB)));
typedef int32_t vi __attribute__((vector_size(VB)));
typedef uint32_t vu __attribute__((vector_size(VB)));
#define VW ((uint32_t)(VB / 4)) /* f32 of a vector */
#define INLINE static inline __attribute__((always_inline))

INLINE vf load(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE void store(float *p, vf v) { memcpy(p, &v, sizeof v); }
INLINE vf splat(float x) { return x - (vf){0}; }

#endif
