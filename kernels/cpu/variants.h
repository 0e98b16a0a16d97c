/* variants.h - the inner loops that exist once per instruction set: one table per variant, chosen at open. What depends on the instruction
 * set is a field here, and nobody asks which variant it is. All work on f32 activations; cache rows are F32, F16 or BF16, weights of any form.
 * Pointers may be unaligned unless said. */
#ifndef KVI_CPU_VARIANTS_H
#define KVI_CPU_VARIANTS_H
#include "../backend.h"
#include "dots.h"
#include "../../runtime/base/os.h"

struct kvi_cpu_packed; /* attention_packed.h */
struct kvi_kv_encoder; /* kv/encode.h */

#define KVI_CPU_KC 256u /* depth of a packed weight panel; a whole number of blocks of every form */

struct kvi_cpu_kernel;
/* A matrix of a plain form stays where it is in the file. One with a tile form is laid anew; single rows of it are still looked up in the
 * file. A vector (n_out 1) becomes f32. */
struct kvi_weight {
    kvi_weight_desc desc;
    const struct kvi_cpu_kernel *kernel; /* with f32 activations */
    const float *f32;                    /* vectors; NULL for matrices */
    uint32_t streams;                    /* runs of rows that a gemv of plain ones walks side by side: 4 or 8 */
    uint32_t ahead;                      /* bytes that it asks for in advance, in each of them */
    kvi_tile tile;                       /* bits 0: none */
    const uint8_t *panels;               /* of all experts, 64-byte aligned */
    const uint8_t *own_rows; /* codes, then scales, of a weight that was rounded and has no tiles; else NULL */
    const uint32_t *order;   /* (n_experts, n_in) column at each place; NULL: as they are */
    char gemv_name[40], gemm_name[40]; /* what runs for it, "gemv_q4_k_avx512vnni": for operation times */
};

/* How one form of weights is computed with: gemv for few rows of activations, pack and panel_mac for many. */
typedef struct kvi_cpu_kernel {
    /* y[j * ldy + i] = W[first + i] . x[j], i < n_rows, j < n_x <= 4. Several rows are walked at once,
     * because one sequential stream per core leaves a third of the memory bandwidth unused. */
    void (*gemv)(const kvi_weight *w, uint32_t expert, uint32_t first, uint32_t n_rows, const float *x, uint32_t n_x,
                 size_t ldx, float *y, size_t ldy);
    /* dst (n_k, panel) f32 = transpose of W[first..first + n_rows)[k0..k0 + n_k); missing rows are zero. k0 is a multiple of KVI_CPU_KC, n_k at
     * most that. */
    void (*pack)(const kvi_weight *w, uint32_t expert, uint32_t first, uint32_t n_rows, uint32_t k0, uint32_t n_k,
                 float *dst);
} kvi_cpu_kernel;

/* Row `row` of a plain form that is not transposed. */
static inline const uint8_t *kvi_cpu_plain_row(const kvi_weight_desc *w, uint32_t expert, uint32_t row)
{
    return kvi_weight_part_at(w, KVI_PART_CODES, expert) +
           kvi_weight_tensor_row(w, row) * kvi_weight_row_bytes(w->form, w->n_in);
}
/* Panels of an expert in tile form. */
static inline const uint8_t *kvi_cpu_panels(const kvi_weight *w, uint32_t expert)
{
    return w->panels + expert * (kvi_tile_panels(&w->tile) * w->tile.panel_bytes);
}

/* Products of many rows with BF16 weights as they lie in the map, whose n_in and n_out are multiples of KVI_CPU_BF16_STEP: activations are
 * rounded to BF16 and packed once. */
#define KVI_CPU_BF16_STEP 32u
typedef struct kvi_cpu_bf16 {
    const char *name;
    /* Rows [16 block, 16 block + 16) of x (n_rows, n_in); missing rows become zero. packed: n_rows up to a multiple of 32, n_in, 2 bytes each. */
    void (*pack_block)(const float *x, uint32_t n_rows, uint32_t n_in, uint32_t block, void *packed);
    /* y[r * ldy + o] (+)= w[o] . x[r] + bias[o] for o < n_out and all rows; w (n_out, n_in). `bias` may be NULL. scratch: KVI_CPU_BF16_SCRATCH
     * bytes, 64-byte aligned. */
    void (*gemm)(const void *w, uint32_t n_out, uint32_t n_in, const void *packed, uint32_t n_rows, const float *bias,
                 bool add, void *scratch, float *y, size_t ldy);
} kvi_cpu_bf16;
#define KVI_CPU_BF16_DEPTH 2048u /* most k of 32 outputs in the scratch */
#define KVI_CPU_BF16_SCRATCH (32u * 2u * KVI_CPU_BF16_DEPTH)

/* What the CPU does on matrix tiles (AMX). */
typedef struct kvi_cpu_tiles {
    const kvi_cpu_bf16 *bf16;
    const struct kvi_cpu_packed *packed; /* packed attention, for the codes it has */
    const kvi_cpu_dots *dots;            /* integer products of many rows */
} kvi_cpu_tiles;

enum { KVI_CPU_HAS_AVX2 = 1, KVI_CPU_HAS_AVX512 = 2 }; /* AVX2: with FMA and F16C */

typedef struct kvi_cpu_variant {
    const char *name; /* "avx512" */
    uint32_t needs;   /* KVI_CPU_HAS_* */
    uint32_t panel;   /* columns of a packed panel */

    kvi_cpu_kernel plain[3];              /* by element type */
    kvi_cpu_kernel tiled;                 /* of weights in tile form, */
    kvi_cpu_kernel decoded;               /* of all others: rows become numbers first, slow, and right */
    const kvi_cpu_dots *dots;             /* integer products; a better one may be chosen at open */
    const struct kvi_cpu_packed *packed;  /* attention from packed records */
    const struct kvi_kv_encoder *encoder; /* all of them write the same bytes */
    const kvi_cpu_tiles *tiles;           /* where the CPU has them and the caller wants them; NULL: none */

    /* dst (n_k, panel) f32 = transpose of rows[0..n_rows)[k0..k0+n_k) of a plain matrix; missing rows are zero. */
    void (*pack)(const void *rows, kvi_dtype dtype, uint32_t n_rows, size_t n_in, uint32_t k0, uint32_t n_k,
                 float *dst);
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
    /* The same of trellis codes: x[r][i] = (x[r][i] * a[r]) * o[i] + m[r] + m_col[i]; of the two means one is 0. */
    void (*normal)(float *x, uint32_t n_rows, const float *a, const float *m, const float *o, const float *m_col);
    /* dst (n) f32 from n values of dtype. */
    void (*widen)(const void *src, kvi_dtype dtype, uint32_t n, float *dst);
    /* n values of dtype from f32, round to nearest even. */
    void (*narrow)(const float *src, kvi_dtype dtype, uint32_t n, void *dst);
    /* y = x * rsqrt(mean(x^2) + eps) * g */
    void (*rmsnorm)(const float *x, const float *gain, float eps, uint32_t n, float *y);
    /* y = silu(gate) * up, in place on gate; the same with GELU by tanh */
    void (*silu_mul)(float *gate, const float *up, uint32_t n);
    void (*gelu_tanh_mul)(float *gate, const float *up, uint32_t n);
    void (*swiglu_oai_mul)(float *gate, const float *up, float limit, uint32_t n); /* KVI_ACT_SWIGLU_OAI */
    /* x = cap * tanh(x / cap), cap > 0 */
    void (*softcap)(float *x, float cap, uint32_t n);
    /* One online-softmax step over n scores of one query: s becomes exp(s - m'); *m, *l are updated; returns the factor
     * for the accumulator, exp(m - m'). Scores of -inf vanish; when all are, and m too, s becomes 0. */
    float (*softmax_step)(float *s, uint32_t n, float *m, float *l);
    void (*scale)(float *x, float factor, uint32_t n);
    /* In place, orthonormal, its own inverse; block-diagonal over the largest power of two that divides n. */
    void (*hadamard)(float *x, uint32_t n);
    /* A token of the gated delta rule of a head (program.h), decay and beta given: s (dk, dv) in place, q and k (dk) normalized, v and o (dv).
     * Memory at `next`, shaped like s, is fetched meanwhile; s itself: nothing. */
    void (*delta)(float *s, uint32_t dk, uint32_t dv, const float *q, const float *k, float decay, float beta,
                  const float *v, float *o, const float *next);
    /* n >= 1 tokens one after the other, with the same bits: q and k (n, dk), decay and beta (n), rows of v and o ldv and ldo apart; columns
     * (dk, panel) is scratch. */
    void (*delta_block)(float *s, uint32_t dk, uint32_t dv, uint32_t n, const float *q, const float *k,
                        const float *decay, const float *beta, const float *v, size_t ldv, float *o, size_t ldo,
                        float *columns);
    /* out (n) = silu( bias + sum over j of w[j * ldw + i] taps[j][i] ); bias may be NULL; rows of w are readable up to a multiple of panel. */
    void (*conv_silu)(const float *const *taps, uint32_t n_taps, const float *w, size_t ldw, const float *bias,
                      uint32_t n, float *out);
    /* Sum of 32-bit words over n_streams (1 or 8) equal parts of a buffer, read in lock-step: the bandwidth probe. */
    uint64_t (*read_streams)(const void *data, uint64_t bytes, uint32_t n_streams);
} kvi_cpu_variant;

extern const kvi_cpu_variant kvi_cpu_portable;
#if defined(__x86_64__)
extern const kvi_cpu_variant kvi_cpu_avx2, kvi_cpu_avx512;
extern const kvi_cpu_tiles kvi_cpu_amx;
extern const kvi_cpu_bf16 kvi_cpu_bf16_avx512, kvi_cpu_bf16_amx;
#endif
/* The variant of that name ("auto": the best) when this CPU has it; else NULL. */
const kvi_cpu_variant *kvi_cpu_choose(const kvi_cpu *cpu, const char *name);

#endif
