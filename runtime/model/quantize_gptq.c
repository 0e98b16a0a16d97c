/* quantize_gptq.c - second moments of inputs, and rounding that makes good what it spoils (quantize.h).
 *
 * With H = R R^T, R upper, U = 1/R is upper as well and H^-1 = U^T U, which is the factor that GPTQ asks for: one factorization from the last
 * column to the first, and one inverse of a triangle. f32 is enough because a hundredth of the mean is added to the diagonal. */
#include "quantize_loops.h"
#include "../base/mem.h"

#include <math.h>
#include <string.h>

/* What takes the time, compiled for each instruction set. */
static const kvi_gptq_loops *loops(void)
{
    kvi_cpu cpu;
    kvi_os_cpu(&cpu);
    return cpu.avx512 ? &kvi_gptq_loops_avx512 : cpu.avx2 ? &kvi_gptq_loops_avx2 : &kvi_gptq_loops_portable;
}

void kvi_moments_add(float *h, const float *x, uint32_t n_rows, uint32_t n) { loops()->moments(h, x, n_rows, n); }

/* Columns with large inputs first: what they spoil, all others can make good. */
static void order_columns(kvi_gptq *g)
{
    for (uint32_t k = 0; k < g->n_in; k++) g->columns[k] = k;
    for (uint32_t gap = g->n_in / 2; gap; gap /= 2)
        for (uint32_t i = gap; i < g->n_in; i++) {
            const uint32_t column = g->columns[i];
            uint32_t k = i;
            for (; k >= gap && g->importance[g->columns[k - gap]] < g->importance[column]; k -= gap)
                g->columns[k] = g->columns[k - gap];
            g->columns[k] = column;
        }
}

/* u = R with R R^T = u; false when u is not positive. */
static bool factor(const kvi_gptq_loops *l, float *u, uint32_t n)
{
    for (uint32_t j = n; j-- > 0;) {
        float *row_j = u + (size_t)j * n;
        const float square = row_j[j] - l->dot(row_j + j + 1, row_j + j + 1, n - j - 1);
        if (!(square > 0)) return false;
        row_j[j] = sqrtf(square);
        for (uint32_t i = 0; i < j; i++) {
            float *row_i = u + (size_t)i * n;
            row_i[j] = (row_i[j] - l->dot(row_i + j + 1, row_j + j + 1, n - j - 1)) / row_j[j];
        }
    }
    return true;
}

/* u = 1/u, row by row from the last: row i is (e_i - sum over k > i of R[i][k] row k) / R[i][i]. `row` (n). */
static void invert(const kvi_gptq_loops *l, float *u, uint32_t n, float *row)
{
    for (uint32_t i = n; i-- > 0;) {
        float *r = u + (size_t)i * n;
        memset(row, 0, n * sizeof *row);
        for (uint32_t k = i + 1; k < n; k++) l->subtract(row + k, u + (size_t)k * n + k, r[k], n - k);
        for (uint32_t k = i + 1; k < n; k++) row[k] /= r[i];
        row[i] = 1 / r[i];
        memcpy(r + i, row + i, (n - i) * sizeof *row);
    }
}

kvrt_status kvi_gptq_prepare(const float *h, uint32_t n, kvi_gptq *g, kvrt_error *error)
{
    *g = (kvi_gptq){.n_in = n,
                    .u = kvi_mem_alloc((size_t)n * n * sizeof(float)),
                    .columns = kvi_mem_alloc(n * sizeof(uint32_t)),
                    .importance = kvi_mem_alloc(n * sizeof(float)),
                    .rows = kvi_mem_alloc((size_t)n * KVI_GPTQ_ROWS * sizeof(float))};
    float *row = kvi_mem_alloc(n * sizeof *row);
    bool done = !g->u || !g->columns || !g->importance || !g->rows || !row;
    if (done) {
        kvi_gptq_free(g);
        kvi_mem_free(row);
        return kvi_error_nomem(error, (uint64_t)n * n * 4, "second moments");
    }
    const kvi_gptq_loops *l = loops();
    double mean = 0;
    for (uint32_t k = 0; k < n; k++) mean += (double)(g->importance[k] = h[(size_t)k * n + k]) / n;
    if (!(mean > 0)) mean = 1; /* inputs that are always zero */
    order_columns(g);
    /* More is added until rounding errors of the sums do no harm any more. */
    for (double damping = 0.01; !done; damping *= 4) {
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t k = i; k < n; k++) {
                const uint32_t a = g->columns[i], b = g->columns[k];
                g->u[(size_t)i * n + k] =
                    (a > b ? h[(size_t)a * n + b] : h[(size_t)b * n + a]) + (i == k ? (float)(damping * mean) : 0);
            }
        done = factor(l, g->u, n);
    }
    invert(l, g->u, n, row);
    kvi_mem_free(row);
    return KVRT_OK;
}

void kvi_gptq_free(kvi_gptq *g)
{
    kvi_mem_free(g->u);
    kvi_mem_free(g->columns);
    kvi_mem_free(g->importance);
    kvi_mem_free(g->rows);
    *g = (kvi_gptq){0};
}

void kvi_gptq_round(const kvi_gptq *g, const kvi_quantize_args *args, const float *w, const float *scales,
                    uint32_t n_rows, int8_t *codes)
{
    const uint32_t n = g->n_in, group = args->group ? args->group : n, groups = (n + group - 1) / group;
    const kvi_quantize_args one = {.bits = args->bits};
    const kvi_gptq_loops *l = loops();
    for (uint32_t r = 0; r < n_rows; r++)
        for (uint32_t j = 0; j < n; j++) g->rows[(size_t)r * n + j] = w[(size_t)r * n + g->columns[j]];
    for (uint32_t j = 0; j < n; j++) {
        const uint32_t column = g->columns[j];
        const float *u = g->u + (size_t)j * n;
        for (uint32_t r = 0; r < n_rows; r++) {
            float *row = g->rows + (size_t)r * n;
            const float scale = scales[(size_t)r * groups + column / group];
            int8_t *code = codes + (size_t)r * n + column;
            kvi_quantize_round(&one, &row[j], &scale, 1, code);
            l->subtract(row + j + 1, u + j + 1, (row[j] - (float)*code * scale) / u[j], n - j - 1);
        }
    }
}
