/* dots.h - products of integers: weights in tile form times activations of 8 bits. One table per way that the CPU multiplies bytes.
 *
 * ACTIVATIONS. For every row and step (kvi_tile.step neighbours): s = max |x| / 127, a = x / s rounded to nearest, -127..127. A row's codes
 * do not depend on other rows. With code q, zero z and scale w of a weight:
 *   y = sum over steps of s w ( sum (q - z) a )             the inner sum is exact
 * and with mins m: s w (sum q a) + s m (sum a). Sums over steps are f32, in order of k: a row has the same bits alone and among others.
 * What this costs against f32 activations stands in DESIGN.md (Weights); cpu.exact does without. */
#ifndef KVI_CPU_DOTS_H
#define KVI_CPU_DOTS_H
#include "../tile_form.h"

#include <stddef.h>

#define KVI_DOTS_ROWS 4u     /* rows of activations that lie side by side */
#define KVI_DOTS_PADDED 32u  /* rows that there is room for, and their multiples: AMX takes so many at once */
#define KVI_DOTS_DEPTH 1024u /* k of a panel that gemm expands at once */

/* Rows of activations as codes. Four rows make a group: word k / 4 of each, then the next word; scales alike. The one row that a gemv has left for
 * its last group lies alone there, so that 8,192 columns fit into a quarter of L1. (AMX has an order of its own, dots_amx.c.) */
typedef struct kvi_dots_input {
    uint8_t *codes; /* (rows / 4, n_words, 4) words of four signed bytes; past the end of a row they are zero */
    float *scales;  /* (rows / 4, n_steps, 4) */
    int32_t *
        starts; /* alike: what an integer sum begins with, -z (sum a); or, for zeros and mins of groups, the bits of s (sum a) in f32 */
    uint32_t n_words; /* of a row, a multiple of 16 */
    uint32_t n_steps;
    uint32_t lone; /* row that lies alone, UINT32_MAX: none */
} kvi_dots_input;

static inline uint64_t kvi_dots_row_words(uint32_t n_in) { return ((uint64_t)n_in + 63u) / 64u * 16u; }
static inline uint64_t kvi_dots_padded(uint32_t n_rows)
{
    return ((uint64_t)n_rows + KVI_DOTS_PADDED - 1u) / KVI_DOTS_PADDED * KVI_DOTS_PADDED;
}
/* Bytes of the codes of n_rows rows, whatever the weight's step. */
static inline uint64_t kvi_dots_input_bytes(uint32_t n_in, uint32_t n_rows)
{
    const uint64_t words = kvi_dots_row_words(n_in), rows = kvi_dots_padded(n_rows);
    return rows * (words * 4u + 2u * ((words / 4u * 4u + 63u) / 64u * 64u));
}
/* Places for n_rows rows within so many bytes at `memory`, 64-byte aligned. for_gemv: what is read by gemv alone. */
static inline kvi_dots_input kvi_dots_input_at(const kvi_tile *t, uint32_t n_rows, bool for_gemv, void *memory)
{
    const uint64_t rows = kvi_dots_padded(n_rows);
    kvi_dots_input in = {.codes = memory, .n_words = (uint32_t)kvi_dots_row_words(t->n_in)};
    in.lone = for_gemv && n_rows % KVI_DOTS_ROWS == 1 ? n_rows - 1u : UINT32_MAX;
    in.n_steps = (t->n_in + t->step - 1u) / t->step;
    in.scales = (float *)(void *)(in.codes + rows * in.n_words * 4u);
    in.starts = (int32_t *)(void *)(in.scales + rows * in.n_steps);
    return in;
}

typedef struct kvi_cpu_dots {
    const char *name; /* "avx512vnni" */
    uint32_t panels;  /* that gemm is best called with */
    uint32_t few;     /* rows up to which gemv is the faster; 0: it has none */
    /* Codes of rows [4 group, 4 group + 4) of x (n_rows, ldx). order: column that stands at each place of the weight; NULL: the same one. */
    void (*quantize)(const kvi_tile *t, const float *x, size_t ldx, uint32_t n_rows, const uint32_t *order,
                     uint32_t group, const kvi_dots_input *to);
    /* y[j * ldy + i] = W[first + i] . x[row + j], i < n_out, j < n_x; row a multiple of 4. Weights are read once, from memory. panels: of the
     * expert. */
    void (*gemv)(const kvi_tile *t, const uint8_t *panels, uint32_t first, uint32_t n_out, const kvi_dots_input *x,
                 uint32_t row, uint32_t n_x, float *y, size_t ldy);
    /* The same for all n_rows rows, with gemv's bits where there is a gemv: sums are made in its order. No row may lie alone. Pieces of a panel are
     * expanded once for all rows. scratch: kvi_dots_scratch bytes, 64-byte aligned. */
    void (*gemm)(const kvi_tile *t, const uint8_t *panels, uint32_t first, uint32_t n_out, const kvi_dots_input *x,
                 uint32_t n_rows, void *scratch, float *y, size_t ldy);
} kvi_cpu_dots;

/* Two panels of KVI_DOTS_DEPTH columns expanded, or one to 16 bits: lines, scales, offsets. */
static inline size_t kvi_dots_scratch(void)
{
    return 2u * (KVI_DOTS_DEPTH * KVI_TILE_ROWS + 2u * (KVI_DOTS_DEPTH / 16u) * KVI_TILE_ROWS * sizeof(float));
}

extern const kvi_cpu_dots kvi_dots_portable;
#if defined(__x86_64__)
extern const kvi_cpu_dots kvi_dots_avx2, kvi_dots_avxvnni, kvi_dots_avx512vnni, kvi_dots_amx;
#endif

#endif
