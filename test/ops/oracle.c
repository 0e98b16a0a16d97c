/* oracle.c - attention and rotation by their definitions, for every test of an attention kernel. */
#include "oracle.h"
#include "runtime/kv/layout.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

void oracle_rmsnorm(const double *x, const double *gain, double eps, uint32_t n, double *y)
{
    double squares = 0;
    for (uint32_t i = 0; i < n; i++) squares += x[i] * x[i];
    for (uint32_t i = 0; i < n; i++) y[i] = x[i] / sqrt(squares / n + eps) * (gain ? gain[i] : 1);
}

void oracle_rotate(double *h, uint32_t dim)
{
    const uint32_t block = dim & (~dim + 1);
    double out[KVI_KV_MAX_HEAD_DIM];
    for (uint32_t i = 0; i < dim; i++) {
        out[i] = 0;
        for (uint32_t j = 0; j < block; j++)
            out[i] += (__builtin_popcount(i % block & j) % 2 ? -1 : 1) * h[i / block * block + j] / sqrt(block);
    }
    memcpy(h, out, dim * sizeof *h);
}

void oracle_attention(const double *k, const double *v, uint32_t d, uint32_t first, uint32_t last, const double *q,
                      double scale, double softcap, double sink, double *out)
{
    double *score = malloc((last + 1) * sizeof *score), top = sink, sum = 0;
    assert_non_null(score);
    for (uint32_t t = first; t <= last; t++) {
        score[t] = 0;
        for (uint32_t e = 0; e < d; e++) score[t] += q[e] * k[(size_t)t * d + e];
        score[t] *= scale;
        if (softcap > 0) score[t] = softcap * tanh(score[t] / softcap);
        top = fmax(top, score[t]);
    }
    sum = sink > -INFINITY ? exp(sink - top) : 0;
    memset(out, 0, d * sizeof *out);
    for (uint32_t t = first; t <= last; t++) {
        const double p = exp(score[t] - top);
        sum += p;
        for (uint32_t e = 0; e < d; e++) out[e] += p * v[(size_t)t * d + e];
    }
    for (uint32_t e = 0; e < d; e++) out[e] /= sum;
    free(score);
}
