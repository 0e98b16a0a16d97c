/* best_params.h - parameters of best_part and best_merge: the most likely tokens of one row of logits. Shared by C and device code. */
#ifndef KVI_CUDA_BEST_PARAMS_H
#define KVI_CUDA_BEST_PARAMS_H
#include "params.h"

#define KVI_CUDA_BEST_RUN 64u    /* tokens that are kept */
#define KVI_CUDA_BEST_PART 2048u /* logits of a block: 32 runs */

/* What a block found: the sum is relative to its own largest logit. */
typedef struct kvi_cuda_best_sum {
    float top, sum;
    uint32_t bad; /* a logit is NaN or +infinity */
} kvi_cuda_best_sum;

/* What the host reads. */
typedef struct kvi_cuda_best {
    uint32_t bad;
    float sum; /* of exp(logit - the largest logit) */
    float logits[KVI_CUDA_BEST_RUN];
    int32_t ids[KVI_CUDA_BEST_RUN]; /* behind the vocabulary's end: -1 */
} kvi_cuda_best;

typedef struct kvi_cuda_best_params {
    kvi_dptr logits; /* (n) f32 */
    kvi_dptr runs;   /* (n_parts, 64) keys, best first */
    kvi_dptr sums;   /* kvi_cuda_best_sum (n_parts) */
    kvi_dptr out;    /* kvi_cuda_best */
    uint32_t n, n_parts;
} kvi_cuda_best_params;

#endif
