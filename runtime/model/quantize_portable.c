/* quantize_portable.c - the loops of quantize_body.h for any processor. */
#define LOOPS kvi_gptq_loops_portable
#include "quantize_body.h"
