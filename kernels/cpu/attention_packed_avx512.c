/* attention_packed_avx512.c - AVX-512 F, BW, DQ, VL. */
#if defined(__x86_64__)
#include <immintrin.h>
#define VB 64
#define CENTRE 1
#define TABLE kvi_cpu_packed_avx512
#include "attention_packed_body.h"
#include "attention_packed_lanes.h"
#else
typedef int kvi_packed_avx512_absent;
#endif
