/* quantize_avx2.c - the loops of quantize_body.h compiled for AVX2. */
#define LOOPS kvi_gptq_loops_avx2
#include "quantize_body.h"
