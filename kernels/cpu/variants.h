/* variants.h - the inner loops that exist once per instruction set: one table per variant, chosen at open.
 * All work on f32 activations; weights and cache rows are F32, F16 or BF16. Pointers may be unaligned unless said. */
#ifndef KVI_CPU_VARIANTS_H
#define KVI_CPU_VARIANTS_H
#include "../backend.h"

typedef struct kvi_cpu_variant {
    const char *name;                          /* "avx512" */
    uint32_t panel;                            /* columns of a packed panel */
    const char *gemv_names[3], *gemm_names[3]; /* by kvi_dtype, "gemv_bf16_avx512": for operation times */

    /* y[j * ldy + i] = w[i] . x[j], i < n_rows, j < n_x <= 4; w (n_rows, n_in). Several rows are walked at once,
     * because one sequential stream per core leaves a third of the memory bandwidth unused. */
    void (*gemv)(const void *w, kvi_dtype dtype, uint32_t n_rows, uint32_t n_in, const float *x, uint32_t n_x,
                 size_t ldx, float *y, size_t ldy);
    /* dst (n_k, panel) f32 = transpose of w[0..n_rows)[k0..k0+n_k); missing rows are zero. */
    void (*pack)(const void *w, kvi_dtype dtype, uint32_t n_rows, size_t n_in, uint32_t k0, uint32_t n_k, float *dst);
    /* c[r][0..n_cols) (+)= a[r][0..n_k) . b, b (n_k, panel) packed, n_cols <= panel; add = false overwrites. */
    void (*panel_mac)(const float *a, size_t lda, uint32_t n_rows, uint32_t n_k, const float *b, float *c, size_t ldc,
                      uint32_t n_cols, bool add);
    /* Attention of a few queries over plain rows of one page, read in place; d a multiple of panel / 2.
     * scores[j * ld + t] = k[t] . q[j] for t < n (up to 3 more are written), q (n_q, d), ld a multiple of 4. */
    void (*score)(const void *k, kvi_dtype dtype, uint32_t n, uint32_t d, const float *q, uint32_t n_q, float *scores,
                  size_t ld);
    /* acc[j] += sum over t < n of p[j * ld + t] v[t], acc (n_q, d) */
    void (*blend)(const void *v, kvi_dtype dtype, uint32_t n, uint32_t d, const float *p, size_t ld, uint32_t n_q,
                  float *acc);
    /* Codes of a packed side as numbers: dst gets panels of `panel` columns over n_rows rows, from an (n_rows, n_cols)
     * matrix of codes (codec.h, rows order); n_cols a multiple of 16. Integer codes come as they are, F8 as its value.
     */
    void (*unpack)(const uint8_t *codes, kvi_kv_code kind, uint32_t n_rows, uint32_t n_cols, float *dst);
    /* x[r][i] = (x[r][i] * a[r] + z[r]) * o[i] in place, x (n_rows, panel): codes of a panel to their values, in the codec's own order. */
    void (*affine)(float *x, uint32_t n_rows, const float *a, const float *z, const float *o);
    /* dst (n) f32 from n values of dtype. */
    void (*widen)(const void *src, kvi_dtype dtype, uint32_t n, float *dst);
    /* n values of dtype from f32, round to nearest even. */
    void (*narrow)(const float *src, kvi_dtype dtype, uint32_t n, void *dst);
    /* y = x * rsqrt(mean(x^2) + eps) * g */
    void (*rmsnorm)(const float *x, const float *gain, float eps, uint32_t n, float *y);
    /* y = silu(gate) * up, in place on gate */
    void (*silu_mul)(float *gate, const float *up, uint32_t n);
    /* One online-softmax step over n scores of one query: s becomes exp(s - m'); *m, *l are updated; returns the factor
     * for the accumulator, exp(m - m'). Scores of -inf vanish; when all are, and m too, s becomes 0. */
    float (*softmax_step)(float *s, uint32_t n, float *m, float *l);
    void (*scale)(float *x, float factor, uint32_t n);
    /* In place, orthonormal, its own inverse; block-diagonal over the largest power of two that divides n. */
    void (*hadamard)(float *x, uint32_t n);
    /* Sum of 32-bit words over n_streams (1 or 8) equal parts of a buffer, read in lock-step: the bandwidth probe. */
    uint64_t (*read_streams)(const void *data, uint64_t bytes, uint32_t n_streams);
} kvi_cpu_variant;

extern const kvi_cpu_variant kvi_cpu_portable;
#if defined(__x86_64__)
extern const kvi_cpu_variant kvi_cpu_avx2, kvi_cpu_avx512;
#endif

#endif
