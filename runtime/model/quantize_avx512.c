/* quantize_avx512.c - the loops of quantize_body.h compiled for AVX-512. */
#define LOOPS kvi_gptq_loops_avx512
#include "quantize_body.h"
