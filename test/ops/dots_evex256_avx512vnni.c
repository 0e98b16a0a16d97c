/* dots_evex256_avx512vnni.c - the kernels of dots_avxvnni.c with the same instruction as AVX-512-VNNI encodes it, for test machines that do not
 * have AVX-VNNI. */
#if defined(__x86_64__)
#define WAY evex256
#define DPBUSD _mm256_dpbusd_epi32
#include "kernels/cpu/dots_vnni256.h"
#else
#include "kernels/cpu/dots.h"
const kvi_cpu_dots kvi_dots_evex256;
#endif
