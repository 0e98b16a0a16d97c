/* quantize_body.h - the inner loops of quantize_gptq.c in plain C. Included once per instruction set, by a file whose name chooses it; LOOPS is the
 * table's name. */
#include "quantize_loops.h"

#define LANES 16u

/* Sums in lanes, so that a compiler may use vectors. */
static float dot(const float *a, const float *b, uint32_t n)
{
    float lane[LANES] = {0}, sum = 0;
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (uint32_t k = 0; k < LANES; k++) lane[k] += a[i + k] * b[i + k];
    for (; i < n; i++) sum += a[i] * b[i];
    for (uint32_t k = 0; k < LANES; k++) sum += lane[k];
    return sum;
}

static void subtract(float *y, const float *x, float a, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) y[i] -= a * x[i];
}

static void moments(float *h, const float *x, uint32_t n_rows, uint32_t n)
{
    enum { ROWS = 8 };
    for (uint32_t r = 0; r < n_rows; r += ROWS) {
        const uint32_t rows = n_rows - r < ROWS ? n_rows - r : ROWS;
        const float *at = x + (size_t)r * n;
        for (uint32_t i = 0; i < n; i++) {
            float *out = h + (size_t)i * n;
            if (rows == ROWS)
                for (uint32_t k = 0; k <= i; k++)
                    out[k] += at[i] * at[k] + at[n + i] * at[n + k] + at[2 * n + i] * at[2 * n + k] +
                              at[3 * n + i] * at[3 * n + k] + at[4 * n + i] * at[4 * n + k] +
                              at[5 * n + i] * at[5 * n + k] + at[6 * n + i] * at[6 * n + k] +
                              at[7 * n + i] * at[7 * n + k];
            else
                for (uint32_t row = 0; row < rows; row++)
                    for (uint32_t k = 0; k <= i; k++) out[k] += at[row * n + i] * at[row * n + k];
        }
    }
}

const kvi_gptq_loops LOOPS = {dot, subtract, moments};
