/* op_rig.h - a bench for one operation of any backend, through the backend table alone, so that the same cases run on
 * every device. Inputs enter by EMBED from an F32 table (token id = row of the input), outputs leave by HEAD. An
 * operand buffer is reached through NORM_LINEAR and left through LINEAR_ADD with the identity matrix, as the contracts
 * demand. Where a norm is in the way it is made harmless by eps = 1e12 and a gain of 1e6: it passes values on to two
 * f32 roundings. */
#ifndef OP_RIG_H
#define OP_RIG_H
#include "kernels/backend.h"

/* What a backend may say UNSUPPORTED to: any other refusal fails the case. */
typedef struct op_refusal {
    const char *part, *reason; /* of the error's message; why it is not served */
    uint32_t count;            /* cases that met it */
} op_refusal;

/* A backend, how to open it, and what it promises. */
typedef struct op_target {
    const char *name; /* "cpu avx512, 2 threads" */
    const kvi_backend *backend;
    kvi_device_options options;
    double linear, attention, rotary, copy; /* limits, tolerance.h; linear: of BF16 weights */
    double linear_f16;                      /* of F16 and F32 weights; 0: OPS_LINEAR_F32 */
    bool integers;                          /* activations of quantized weights are rounded to 8 bits */
    op_refusal *refusals;                   /* ended by one without a part; NULL: nothing may be refused */
} op_target;

typedef struct op_matrix {
    uint32_t n_out, n_in;
    double *values; /* (n_out, n_in) as stored, after rounding to the type */
    const kvi_weight *weight;
} op_matrix;

typedef struct op_rig {
    const op_target *target;
    kvi_device *device;
    kvi_op ops[24];
    kvi_buffer_desc buffers[16];
    kvi_rope ropes[4]; /* program.n_ropes of them */
    kvi_cache_group group;
    kvi_program program;
    kvi_limits limits;
    void *blocks[64];
    uint32_t n_blocks, n_ids;
    kvi_dtype
        inputs; /* type of the tables of op_rig_input; F32 unless set. F16: values that a 16-bit operand holds as they are */
    uint32_t page_codes; /* codes of pages beside group.plain, for limits.page_formats */
} op_rig;

void op_rig_open(op_rig *rig, const op_target *target);
void op_rig_close(op_rig *rig);
void *op_rig_memory(op_rig *rig, size_t bytes); /* zeroed, lives as long as the rig */

kvi_buffer op_rig_buffer(op_rig *rig, uint32_t cols, kvi_rows rows, kvi_precision precision);
/* Random values of standard deviation `std` around `mean`, stored as dtype `misalign` bytes off every alignment. */
op_matrix op_rig_matrix(op_rig *rig, uint32_t n_out, uint32_t n_in, kvi_dtype dtype, double mean, double std,
                        uint32_t misalign);
/* n_experts matrices one after the other. */
op_matrix op_rig_experts(op_rig *rig, uint32_t n_experts, uint32_t n_out, uint32_t n_in, kvi_dtype dtype);
kvi_op *op_rig_op(op_rig *rig, kvi_op_kind kind, kvi_buffer in, kvi_buffer out);
/* A random table (n_ids, cols) of type `inputs` whose row of a token's id stands in `to` from then on; returns the table's values.
 */
op_matrix op_rig_input(op_rig *rig, kvi_buffer to, uint32_t n_ids);
/* Makes the logits show `from`; last call before load. */
void op_rig_output(op_rig *rig, kvi_buffer from);

/* Counts a refusal of the target's list; fails the test where the list does not have it. */
void op_refused(const op_target *target, const kvrt_error *error);
/* Behind a test: prints how many cases ran, and fails where none did. */
void op_tally(const char *test);
/* Behind all tests: false, and says which, where a refusal of the list was met by no case, so that the list is stale. */
bool op_refusals_met(const op_target *target);

/* False: the backend refused what target->refusals lists. */
bool op_rig_load(op_rig *rig, uint32_t max_rows, uint32_t max_seqs, uint32_t max_ctx, uint64_t pool_bytes);
/* One step; out (n_logit_rows, vocab). logit_rows NULL: every row. */
void op_rig_step(op_rig *rig, const kvi_step *step, bool op_by_op, float *out);
/* One step of one sequence of n_rows from position 0 that uses no cache, ids 0.. */
void op_rig_rows(op_rig *rig, uint32_t n_rows, bool op_by_op, float *out);

/* Randomness, the same on every machine. */
extern uint64_t op_seed;
double op_uniform(void); /* [0, 1) */
double op_normal(void);

/* Fails the running test, NaN included, unless |got - want| <= limit. */
void op_check(const op_target *target, const char *what, uint32_t row, uint32_t col, double got, double want,
              double limit);

#endif
