/* variant_avx512.c - AVX-512 F, BW, DQ, VL. Compiled with those flags; called only where the CPU has them. */
#if defined(__x86_64__)
#define VARIANT avx512
#include "lanes_avx512.h"
#define MR 12
#define NEEDS (KVI_CPU_HAS_AVX2 | KVI_CPU_HAS_AVX512)
#define TILES &kvi_cpu_amx
#define DOTS &kvi_dots_avx2
#include "variant_body.h"

static inline void narrow_f16(vf v, uint16_t *p)
{
    _mm256_storeu_si256((__m256i *)(void *)p,
                        _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#else
typedef int kvi_avx512_absent;
#endif
