/* quantize_loops.h - what of quantize_gptq.c takes the time, as a table per instruction set. Orders of sums differ between them. */
#ifndef KVI_QUANTIZE_LOOPS_H
#define KVI_QUANTIZE_LOOPS_H
#include "quantize.h"

typedef struct kvi_gptq_loops {
    float (*dot)(const float *a, const float *b, uint32_t n);
    void (*subtract)(float *y, const float *x, float a, uint32_t n);        /* y -= a x */
    void (*moments)(float *h, const float *x, uint32_t n_rows, uint32_t n); /* kvi_moments_add */
} kvi_gptq_loops;
extern const kvi_gptq_loops kvi_gptq_loops_portable, kvi_gptq_loops_avx2, kvi_gptq_loops_avx512;

#endif
