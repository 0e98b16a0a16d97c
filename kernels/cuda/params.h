/* params.h - what kernels are given: one plain struct per kernel, and the step in device memory. Shared by C and device code.
 *
 * A kernel's parameters never change between steps of one shape, so that a graph of launches is built once and replayed. What changes,
 * the batch, stands in device memory as a kvi_cuda_step, written before each step by one copy. Device addresses are kvi_dptr.
 * Kernel structs follow in the header of their family (linear_params.h, attention_params.h); all of them embed nothing but
 * fixed-width numbers, so that C and device layouts agree. */
#ifndef KVI_CUDA_PARAMS_H
#define KVI_CUDA_PARAMS_H
#include <stdint.h>
#include "../../runtime/kv/layout.h"

typedef uint64_t kvi_dptr; /* device address; 0: absent */

/* One sequence of the step. Query row i of it stands at position pos + i. */
typedef struct kvi_cuda_seq {
    uint32_t first_row, n_rows; /* rows of the batch */
    uint32_t pos;               /* of its first row */
    uint32_t n_pages;           /* ceil((pos + n_rows) / 128) */
    uint32_t ahead;             /* RoPE turns by position + ahead */
    uint32_t state_unit;        /* pool unit of its recurrent layers' state */
} kvi_cuda_seq;

/* The step, contiguous in device memory: this head, then the arrays at the byte offsets given (fixed at load from kvi_limits). */
typedef struct kvi_cuda_step {
    uint32_t n_rows, n_seqs, n_logit_rows, reserved;
} kvi_cuda_step;

/* Where the arrays of the step stand. */
typedef struct kvi_cuda_step_map {
    kvi_dptr step;       /* kvi_cuda_step */
    kvi_dptr ids;        /* int32 (max_rows) */
    kvi_dptr row_seq;    /* uint32 (max_rows): sequence of a row */
    kvi_dptr logit_rows; /* uint32 (max_logit_rows) */
    kvi_dptr seqs;       /* kvi_cuda_seq (max_seqs) */
    kvi_dptr pages;      /* kvi_page_ref (max_seqs, n_groups, max_pages) */
    uint32_t n_groups, max_pages;
} kvi_cuda_step_map;

/* fill_words: word i = base | (random(seed, i) & mask). */
typedef struct kvi_cuda_fill_params {
    kvi_dptr at;
    uint64_t n_words, seed;
    uint32_t base, mask;
} kvi_cuda_fill_params;

#endif
