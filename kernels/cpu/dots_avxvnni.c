/* dots_avxvnni.c - integer kernels with vpdpbusd on vectors of 32 bytes, as processors without AVX-512 have it. */
#if defined(__x86_64__)
#define WAY avxvnni
#define DPBUSD _mm256_dpbusd_avx_epi32
#include "dots_vnni256.h"
#else
typedef int kvi_dots_avxvnni_absent;
#endif
