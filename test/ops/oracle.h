/* oracle.h - what attention and its rotation are, in double precision and by their plain definitions. */
#ifndef ORACLE_H
#define ORACLE_H
#include <stdint.h>

/* y (n) = x / sqrt(mean(x^2) + eps) * gain; gain NULL: ones. y may be x. */
void oracle_rmsnorm(const double *x, const double *gain, double eps, uint32_t n, double *y);
/* h (dim) = h H: Hadamard over blocks of the largest power of two that divides dim; its own inverse. dim is at most
 * KVI_KV_MAX_HEAD_DIM. */
void oracle_rotate(double *h, uint32_t dim);
/* One query over positions first..last: out (d) = softmax(cap(scale * k q)) v; k and v (last + 1, d). softcap 0: none. The sink is one more logit
 * without a value; -INFINITY: none. */
void oracle_attention(const double *k, const double *v, uint32_t d, uint32_t first, uint32_t last, const double *q,
                      double scale, double softcap, double sink, double *out);

#endif
