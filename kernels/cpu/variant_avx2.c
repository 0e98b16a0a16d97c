/* variant_avx2.c - AVX2, FMA, F16C. Compiled with those flags; called only where the CPU has them. */
#if defined(__x86_64__)
#define VARIANT avx2
#include "lanes_avx2.h"
#define MR 6
#define NEEDS KVI_CPU_HAS_AVX2
#define TILES &kvi_cpu_amx
#define DOTS &kvi_dots_avx2
#include "variant_body.h"

static inline void narrow_f16(vf v, uint16_t *p)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#else
typedef int kvi_avx2_absent;
#endif
