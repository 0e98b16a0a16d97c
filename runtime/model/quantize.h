/* quantize.h - weights in 16 or 32 bits to integers of 4 or 8 bits with a scale per group: what `kvrt quantize` writes and weights.type makes at
 * open. Symmetric: value = code * scale, code from -2^(bits-1) to 2^(bits-1) - 1. Pure arithmetic on the caller's memory.
 *
 *   RTN      the scale that the largest of a group asks for, every weight to its nearest code (as compressed-tensors has it: most / 7.5 at 4 bits)
 *   SEARCH   of some scales below it the one with the least squared error, each weight's counted as often as its input is large
 *   GPTQ     codes one column after the other, each error made good by the columns that follow as far as the inputs allow it
 *            (arXiv 2210.17323), columns with large inputs first, scales by SEARCH
 *
 * SEARCH and GPTQ know inputs by their second moments H = sum over rows x x^T, which a calibration text gives; without one SEARCH counts every
 * weight alike. */
#ifndef KVI_QUANTIZE_H
#define KVI_QUANTIZE_H
#include "weight_form.h"
#include "../base/status.h"

typedef enum kvi_quantize_method { KVI_QUANTIZE_RTN, KVI_QUANTIZE_SEARCH, KVI_QUANTIZE_GPTQ } kvi_quantize_method;

typedef struct kvi_quantize_args {
    uint32_t bits;        /* 4 or 8 */
    uint32_t group;       /* neighbours that share a scale; 0: the whole row */
    kvi_dtype scale_type; /* what scales are rounded to before codes are chosen */
    kvi_quantize_method method;
} kvi_quantize_args;

/* Scales of a row w (n_in) into scales (groups), rounded to the type. `importance` (n_in) counts errors; NULL: all alike. */
void kvi_quantize_scales(const kvi_quantize_args *args, const float *w, const float *importance, uint32_t n_in,
                         float *scales);
/* Nearest codes of a row to its scales, into codes (n_in). */
void kvi_quantize_round(const kvi_quantize_args *args, const float *w, const float *scales, uint32_t n_in,
                        int8_t *codes);

#define KVI_GPTQ_ROWS 8u /* that are rounded at a time */

/* What GPTQ makes of H, once for all weights with the same input: errors of column j are taken up by later columns k as U[j][k] says. */
typedef struct kvi_gptq {
    uint32_t n_in;
    float *u;          /* (n_in, n_in) upper triangle, in the order of `columns` */
    uint32_t *columns; /* (n_in) which column comes when */
    float *importance; /* (n_in) by column */
    float *rows;       /* (KVI_GPTQ_ROWS, n_in) scratch */
} kvi_gptq;
/* From h (n_in, n_in), of which the lower triangle counts. NOMEM_HOST. */
kvrt_status kvi_gptq_prepare(const float *h, uint32_t n_in, kvi_gptq *out, kvrt_error *error);
void kvi_gptq_free(kvi_gptq *g); /* zeroes are fine */
/* Codes of up to KVI_GPTQ_ROWS rows w (n_rows, n_in) to their scales (n_rows, groups), into codes (n_rows, n_in). One call at a time. */
void kvi_gptq_round(const kvi_gptq *g, const kvi_quantize_args *args, const float *w, const float *scales,
                    uint32_t n_rows, int8_t *codes);

/* h (n, n) += x^T x of x (n_rows, n), the lower triangle. */
void kvi_moments_add(float *h, const float *x, uint32_t n_rows, uint32_t n);

/* Rows [first, first + n) of one expert of a weight that is to be made from its source by plain rounding, as it stores them: codes (n, row bytes of
 * the form), scales (n, groups) of scale_type. `scratch` (kvi_quantize_scratch floats). What weights.type does, and with the same bits
 * `kvrt quantize --method rtn`. */
uint64_t kvi_quantize_scratch(const kvi_weight_desc *weight);
void kvi_quantize_rows(const kvi_weight_desc *weight, uint32_t expert, uint32_t first, uint32_t n, float *scratch,
                       uint8_t *codes, uint8_t *scales);
/* A number as scales of that type are stored. */
void kvi_put_scale(uint8_t *to, kvi_dtype type, float scale);

/* Codes of a row as they are stored: I4 as codes + 8, eight to a word, rows padded with code 0; I8 as codes + 128. */
void kvi_quantize_pack(const kvi_quantize_args *args, const int8_t *codes, uint32_t n_in, uint8_t *out);

#endif
