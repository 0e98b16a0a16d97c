/* forward.h - the transformer, told once: records the program of kernels/backend.h for a model. It computes nothing. */
#ifndef KVI_FORWARD_H
#define KVI_FORWARD_H
#include "config.h"
#include "weights.h"

typedef struct kvi_record_options {
    bool rotate;         /* Hadamard in the cache */
    kvi_kv_code plain;   /* code of unencoded pages */
    bool keep_queries;   /* plain pages keep queries for the rounding of K */
    uint32_t head_parts; /* operations the LM head is cut into, so that a slice may end inside it; >= 1 */
    const char *
        disable; /* comma list of parts that record_*.c leave out, for mutation tests: rope, mask, qk_norm, bias, window, ...; "" otherwise */
} kvi_record_options;

typedef struct kvi_model_program {
    kvi_program program;
    kvi_cache_group groups[KVI_MAX_GROUPS]; /* layers with the same kind of memory share one */
    kvi_buffer_desc buffers[KVI_MAX_BUFFERS];
    kvi_rope ropes[KVI_MAX_ROPES];
    double *inv_freq; /* of all ropes, one behind the other */
    kvi_op *ops;
} kvi_model_program;

/* `weights` may be NULL: handles stay empty, for the plan. The program keeps pointers into `out`, which must not move. */
kvrt_status kvi_model_record(const kvi_model_config *config, const kvi_model_weights *weights,
                             const kvi_record_options *options, kvi_model_program *out, kvrt_error *error);
void kvi_model_program_free(kvi_model_program *program);

#endif
