/* backend.h - what a device must be able to do: limits, step state, the table. Operations stand in program.h, weights in weight.h.
 * Nothing here speaks of grids, SIMD or streams. A backend is one const table; the engine never calls anything else of it.
 *
 * THE IDEA. runtime/model/forward.c describes the transformer once by *recording a program*: a flat list of fused, semantic
 * operations over buffer handles. A backend runs any range [first, first + n) of that list for one *step*: a batch of sequences,
 * each with a page table, a first position and a number of query rows. Prefill chunks, decode, verification and evaluation are the
 * same call. What a backend cannot run it refuses in `load`, naming the operation; there is no fallback per operation.
 */
#ifndef KVI_BACKEND_H
#define KVI_BACKEND_H
#include <stdbool.h>
#include <stdint.h>
#include "../runtime/base/status.h"
#include "../runtime/kv/page.h"
#include "program.h"
#include "weight.h"

/* A row is computed in one of two forms. *Narrow*: in a step of at most so many rows, as decoding does (matrix times vectors, attention
 * split by runs of pages). *Wide*: in a longer step, or in a short one that asks for it, as a prompt is read (matrix times matrix). The forms
 * sum in different orders and round to different bits. Within a form the bits of a row depend on its token, its position and the pages it reads,
 * never on how many rows are computed with it. (CUDA has products so; its attention of 9 to 32 rows, and of short `wide` steps, is not there yet.) */
#define KVI_DECODE_ROWS 8u
/* Most rows of a narrow step of several sequences that any backend takes (kvi_backend.narrow_rows; kvi_step.narrow): more than KVI_DECODE_ROWS are
 * of no use to one sequence, but weights are read once for all of them. */
#define KVI_BATCH_ROWS 16u

/* What every step stays within; workspace is planned from these. */
typedef struct kvi_limits {
    uint32_t max_rows; /* tokens of a step (the prefill chunk) */
    uint32_t max_logit_rows;
    uint32_t max_seqs;
    uint32_t max_ctx;    /* positions of a sequence */
    uint64_t pool_bytes; /* KV pool, multiple of KVI_KV_UNIT */
    uint64_t
        pool_most_bytes; /* it may grow to that (pool_resize); where a backend cannot change it, what it is opened with */
    uint64_t pool_grain; /* of a pool that may change: its size is a multiple; 0: of KVI_KV_UNIT */
    uint32_t
        page_formats;   /* bit set over kvi_kv_code: codes that pages may have, so that a backend can refuse at load */
    kvi_kv_format body; /* of encoded pages, refused at load likewise; plain: no page is encoded */
} kvi_limits;
static inline uint64_t kvi_limits_grain(const kvi_limits *limits)
{
    return limits->pool_grain ? limits->pool_grain : KVI_KV_UNIT;
}

/* --------------------------------------------------------------------------------------------------- step state --- */
typedef struct kvi_seq {
    uint32_t first_row; /* row of its first query in the batch; sequences are contiguous and in order */
    uint32_t n_rows;    /* query rows, >= 1 */
    uint32_t pos;       /* position in the cache of its first query row; positions below are there */
    uint32_t
        ahead; /* RoPE turns a row by its position + ahead: pages keep the turns that they were written with when others before
                          * them are dropped, and only differences of turns are seen */
    uint32_t state_unit; /* pool unit where the state of its recurrent layers stands; unused without such layers */
    /* (pages) NULL: not asked. To each page is added what rows [mass_from, n_rows) pay attention to it, mean over query heads, summed over rows and
     * over the layers of groups without a window. Only where the backend observes. */
    float *mass;
    uint32_t mass_from;
    const kvi_page_ref *const
        *pages; /* (n_groups) -> (ceil((pos + n_rows) / 128)) page table, appended pages included */
} kvi_seq;

typedef struct kvi_step {
    const int32_t *ids; /* (n_rows) checked against the vocabulary */
    uint32_t n_rows;
    const kvi_seq *seqs;
    uint32_t n_seqs;
    const uint32_t *logit_rows; /* (n_logit_rows) rows that need logits, increasing */
    uint32_t n_logit_rows;
    bool wide;   /* the wide form, however few rows there are */
    bool narrow; /* the narrow form, for up to narrow_rows rows of several sequences */
    /* A wide step of both forms (kvi_backend.mixes): only so many rows, those of its first sequence, are wide; up to narrow_rows behind them are
     * narrow, and may be of the same text, going on behind the wide ones. There may be one sequence more than max_seqs. 0: one form. */
    uint32_t n_wide;
} kvi_step;
static inline bool kvi_step_is_wide(const kvi_step *step)
{
    return step->wide || (step->n_rows > KVI_DECODE_ROWS && !step->narrow);
}

/* The most likely tokens of a row of logits, best first, of equals the lower id: what most samplers need, in half a kilobyte. */
#define KVI_BEST_MAX 64u
typedef struct kvi_best {
    uint32_t n; /* min(KVI_BEST_MAX, vocab_size) */
    bool bad;   /* a logit is NaN or +infinite: read_logits tells which */
    float sum;  /* of exp(logit - logits[0]) over the vocabulary */
    float logits[KVI_BEST_MAX];
    int32_t ids[KVI_BEST_MAX];
} kvi_best;

/* -------------------------------------------------------------------------------------------------- the table --- */
typedef struct kvi_device kvi_device;

typedef struct kvi_device_options {
    uint32_t n_threads;      /* 0: all cores */
    bool amx;                /* ask for AMX (process-wide permission) */
    bool exact;              /* CPU: f32 activations, never rounded to 8 bits or BF16 (but on AMX) */
    const char *isa;         /* "auto", "portable", "avx2", "avx512" */
    const char *cuda_driver; /* path of the driver library, NULL: the system's */
    int32_t device_index;
    void *cuda_context, *cuda_stream; /* the host's CUcontext and CUstream to work in; NULL: our own */
} kvi_device_options;

typedef struct kvi_op_time {
    const char *op, *kernel;
    uint64_t calls, total_us, bytes;
} kvi_op_time;

/* Told the input of a product before it is computed: x (n_rows, n_in) f32 behind the operation's norm. */
typedef void (*kvi_watch_fn)(void *user, const kvi_op *op, const float *x, uint32_t n_rows, uint32_t n_in);

typedef struct kvi_backend {
    const char *name; /* "cpu", "cuda" */

    /* One line about the device, or why there is none (returns false). */
    bool (*probe)(const kvi_device_options *options, char *text, uint64_t cap);
    kvrt_status (*open)(const kvi_device_options *options, kvi_device **out, kvrt_error *error);
    void (*close)(kvi_device *device); /* frees weights, workspace and pool */
    const char *(*describe)(const kvi_device *device);
    uint64_t (*memory_available)(const kvi_device *device); /* bytes free on the device, beside its context */

    /* ACCOUNTING. These four ask no device and no driver: a plan is made where none is. They are exact: what open, import and load take is
     * what they say. A device with memory of its own holds weights, workspace and pool there and the rest in the host's. */
    bool own_memory;
    bool fixed_kv_scales; /* encodes with the scales of a cache group, where it has some */
    bool observes;        /* kvi_seq.mass */
    uint32_t narrow_rows; /* of a narrow step, KVI_DECODE_ROWS to KVI_BATCH_ROWS */
    /* Pages keep queries, and convert_pages rounds K in their metric. Otherwise no group of a program has n_queries. */
    bool rounds_by_queries;
    /* Whether load would take the program: UNSUPPORTED names operation, layer and reason. Handles may be NULL in it. */
    kvrt_status (*check)(const kvi_program *program, const kvi_limits *limits, kvrt_error *error);
    /* Host bytes of an open device beside weights, workspace and pool. */
    uint64_t (*host_bytes)(const kvi_program *program, const kvi_limits *limits, const kvi_device_options *options);
    /* What multiplies a weight here, in words ("tiles, avx512vnni"), without a device; false, and why: it is refused. */
    bool (*kernel_of)(const kvi_weight_desc *desc, const kvi_device_options *options, char *text, uint64_t cap);
    /* Bytes an import takes: the weight, or a handle to what lies in the map. UNSUPPORTED: the backend does not have the form. */
    kvrt_status (*weight_bytes)(const kvi_weight_desc *desc, uint64_t *bytes, kvrt_error *error);
    /* Workspace beside weights and pool. */
    uint64_t (*workspace_bytes)(const kvi_program *program, const kvi_limits *limits,
                                const kvi_device_options *options);

    /* What an import makes may be kept and handed over again as desc.made, by those backends that say so: of which version the bytes are (0: nothing
     * is kept; the same number means the same bytes for the same weight), how many of a weight (0: it is used as it lies), and where they are after
     * an import (NULL: it made none after all). `made` lies at a multiple of 64. */
    uint32_t kept_version;
    uint64_t (*kept_bytes)(const kvi_weight_desc *desc);
    const void *(*kept_form)(const kvi_weight *weight);

    /* Imports a weight; the handle lives until close. */
    kvrt_status (*weights_reserve)(kvi_device *device, uint64_t bytes,
                                   kvrt_error *error); /* before the first; NULL: not needed */
    kvrt_status (*weight_import)(kvi_device *device, const kvi_weight_desc *desc, kvi_weight **out, kvrt_error *error);

    /* Checks the program, then takes workspace and pool. `program` and what it points to outlive the device. */
    kvrt_status (*load)(kvi_device *device, const kvi_program *program, const kvi_limits *limits, kvrt_error *error);

    /* A step of a few rows is best run as one range, program start to end (or to the first HEAD): it was recorded as such at load. */
    bool decodes_at_once;

    /* Whether a step may have rows of both forms and gains by it: of products that have the same bits in both. NULL: never. */
    bool (*mixes)(const kvi_device *device);

    /* Makes `step` current (copied), then runs ranges of the program on it, in order. Neither allocates. */
    kvrt_status (*step_begin)(kvi_device *device, const kvi_step *step, kvrt_error *error);
    kvrt_status (*run)(kvi_device *device, uint32_t first_op, uint32_t n_ops, kvrt_error *error);
    /* One operation of the step in pieces, for those who have less time than it takes: rounds [first, first + n) of it, in order and from 0 on;
     * nothing that computes comes between them. A round is what every thread does once, a range of rows of a matrix or a run of pages: some 10 to
     * 200 us of a decode step or of a few dozen rows. *n_run: how many there were, at most n; *over: the operation is done. Bits do not depend on
     * it. NULL: operations are not cut. */
    kvrt_status (*run_some)(kvi_device *device, uint32_t op, uint32_t first, uint32_t n, uint32_t *n_run, bool *over,
                            kvrt_error *error);
    /* Logits of row l of the current step, (vocab_size) f32; waits for the device. */
    kvrt_status (*read_logits)(kvi_device *device, uint32_t logit_row, float *out, kvrt_error *error);
    /* Row `row` of the current step in a buffer of KVI_ROWS_TOKEN that is a residual, (cols) f32; waits. */
    kvrt_status (*read_row)(kvi_device *device, kvi_buffer buffer, uint32_t row, float *out, kvrt_error *error);
    /* The best of row logit_row; waits. */
    kvrt_status (*read_best)(kvi_device *device, uint32_t logit_row, kvi_best *out, kvrt_error *error);

    /* Converts pages from one format to another; the first conversion of a page, from 16 bits, encodes it. */
    kvrt_status (*convert_pages)(kvi_device *device, const kvi_page_job *jobs, uint32_t n_jobs,
                                 const kvi_encode_params *params, kvrt_error *error);
    /* One conversion to another place in pieces, as run_some. NULL: conversions are not cut. */
    kvrt_status (*convert_some)(kvi_device *device, const kvi_page_job *job, const kvi_encode_params *params,
                                uint32_t first, uint32_t n, uint32_t *n_run, bool *over, kvrt_error *error);
    /* Copies `units` within the pool, on the device and in its order: steps before read the old place, steps after may read the new one. The
     * two may overlap when `to_unit` is the lower one. */
    kvrt_status (*pool_move)(kvi_device *device, uint32_t from_unit, uint32_t to_unit, uint32_t units,
                             kvrt_error *error);
    /* The content of this part is not needed any more: memory behind it may go back to the system until it is written to. NULL: it stays. */
    void (*pool_discard)(kvi_device *device, uint64_t offset, uint64_t len);
    /* The pool has so many bytes from now on, at most pool_most_bytes; what stands in those that it keeps stays. NULL: its size is fixed. */
    kvrt_status (*pool_resize)(kvi_device *device, uint64_t bytes, kvrt_error *error);
    /* A pool changes in steps of so many bytes, and only if it was loaded with limits.pool_grain, which is this; 0: any does. */
    uint64_t pool_grain;
    /* Raw bytes of the pool: snapshots, synthetic fill, tests. */
    kvrt_status (*pool_write)(kvi_device *device, uint64_t offset, const void *bytes, uint64_t len, kvrt_error *error);
    kvrt_status (*pool_read)(kvi_device *device, uint64_t offset, void *bytes, uint64_t len, kvrt_error *error);
    /* Where that byte of the pool stands in the host's memory, until the next call of this table; NULL: elsewhere, and pool_read is the way. */
    void *(*pool_at)(kvi_device *device, uint64_t offset);

    /* Synthetic content: 32-bit words base | (random & mask), the same for the same seed. NULL: the caller makes and writes them. */
    kvrt_status (*pool_fill)(kvi_device *device, uint64_t offset, uint64_t len, uint32_t base, uint32_t mask,
                             uint64_t seed, kvrt_error *error);
    /* GB/s, read plus written, of a copy within the device over the pool, whose content is lost. NULL: not measured here. */
    kvrt_status (*copy_bandwidth)(kvi_device *device, double *gbps, kvrt_error *error);

    /* Calls fn with the inputs of all NORM_LINEAR, LINEAR_ADD and NORM_GATE_UP of the steps that follow; NULL ends it. What a quantizer learns
     * from. NULL: not here. */
    void (*watch)(kvi_device *device, kvi_watch_fn fn, void *user);

    /* Per-operation times: enable resets; at(index) is false past the end. */
    void (*time_ops)(kvi_device *device, bool enable);
    bool (*op_time_at)(const kvi_device *device, uint32_t index, kvi_op_time *out);
} kvi_backend;

/* What every backend checks before it touches the pool; INTERNAL names what is wrong. A range of its bytes, and a page conversion. */
kvrt_status kvi_pool_check(const kvi_limits *limits, uint64_t offset, uint64_t len, kvrt_error *error);
kvrt_status kvi_page_job_check(const kvi_program *program, const kvi_limits *limits, const kvi_page_job *job,
                               kvrt_error *error);

/* The backends of this build, in order of preference; NULL past the end. */
const kvi_backend *kvi_backend_at(uint32_t index);
extern const kvi_backend kvi_backend_cpu,
    kvi_backend_cuda; /* cuda: without a driver, a card or kernels its probe says so */

#endif
