/* backend.h - what a device must be able to do: operation contracts, the program, step state, weight handles, the table.
 * Nothing here speaks of grids, SIMD or streams. A backend is one const table; the engine never calls anything else of it.
 *
 * THE IDEA. runtime/model/forward.c describes the transformer once by *recording a program*: a flat list of fused, semantic
 * operations over buffer handles. A backend runs any range [first, first + n) of that list for one *step*: a batch of sequences,
 * each with a page table, a first position and a number of query rows. Prefill chunks, decode, verification and evaluation are the
 * same call. What a backend cannot run it refuses in `load`, naming the operation; there is no fallback per operation.
 *
 * NOTATION. Row r is one token of the batch; matrices are row-major; W is (n_out, n_in) as in Hugging Face files, y = x W^T.
 *   rmsnorm(x; g, eps)[i] = x[i] / sqrt(mean(x^2) + eps) * g[i]
 *   Accumulation is f32 or better. Results do not depend on the number of threads, on how a step is cut into ranges, or on
 *   the other sequences of the batch. */
#ifndef KVI_BACKEND_H
#define KVI_BACKEND_H
#include <stdbool.h>
#include <stdint.h>
#include "../runtime/base/status.h"
#include "../runtime/kv/layout.h"

/* ------------------------------------------------------------------------------------------------------ weights --- */
typedef enum kvi_dtype { KVI_F32 = 0, KVI_F16 = 1, KVI_BF16 = 2 } kvi_dtype;
static inline uint32_t kvi_dtype_bytes(kvi_dtype dtype) { return dtype == KVI_F32 ? 4u : 2u; }

typedef struct kvi_weight_desc {
    const char *name; /* for messages; outlives the weight */
    kvi_dtype dtype;
    uint32_t n_out;   /* rows; 1 for a vector */
    uint32_t n_in;    /* columns, contiguous */
    const void *data; /* (n_out, n_in), in the map; may be unaligned for its type; outlives the weight */
} kvi_weight_desc;

typedef struct kvi_weight kvi_weight; /* the backend's own form; freed by device close */

/* ------------------------------------------------------------------------------------------------------ program --- */
typedef uint16_t kvi_buffer; /* index into kvi_program.buffers */
typedef enum kvi_rows { KVI_ROWS_TOKEN, KVI_ROWS_LOGIT } kvi_rows;
typedef enum kvi_precision {
    KVI_PRECISION_RESIDUAL, /* f32 on every backend */
    KVI_PRECISION_OPERAND   /* f32 on the CPU, 16-bit on CUDA */
} kvi_precision;
typedef struct kvi_buffer_desc {
    const char *name;
    uint32_t cols;
    kvi_rows rows;
    kvi_precision precision;
} kvi_buffer_desc;

typedef struct kvi_rope {
    uint32_t n_dims;        /* rotated leading dimensions of a head, even; pairs are (i, i + n_dims/2) */
    const double *inv_freq; /* (n_dims/2) radians per position, scaling already applied */
    float magnitude;        /* multiplies cos and sin; 1 unless the scaling says otherwise */
} kvi_rope;

/* One group of layers whose K/V live in the same pages. */
typedef struct kvi_cache_group {
    kvi_kv_shape shape;
    uint32_t window;   /* positions a query may see including itself; 0: all */
    bool rotate;       /* Hadamard along the head, block-diagonal over the largest power of two that divides head_dim */
    kvi_kv_code plain; /* code of unencoded pages (sink, tail): F32, F16 or BF16 */
} kvi_cache_group;

typedef enum kvi_op_kind {
    /* out[r] = scale * E[ids[r]]                                                                    out (rows, n_in) f32 */
    KVI_OP_EMBED,
    /* out[r] = concat over j < n_weights of ( rmsnorm(in[r]; gain, eps) W_j^T + b_j )               q, k, v side by side */
    KVI_OP_NORM_LINEAR,
    /* In place on io (rows, (n_heads + 2 n_kv_heads) * D) = q | k | v of one layer. Per head of q and k: h = rmsnorm(h; q_gain or
     * k_gain, eps) when present; RoPE by absolute position when rope is present: (a, b) -> (a cos - b sin, b cos + a sin);
     * h = h H when the group rotates (v too). k and v are rounded to group.plain and appended at their position. q stays in io. */
    KVI_OP_ROPE_APPEND,
    /* out[r, h] = ( softmax over visible t of (scale * q[r, h] . K[t, h / (n_heads/n_kv_heads)]) ) V  [un-rotated]
     * visible t: t <= pos(r) when causal, and t > pos(r) - window when window > 0. K and V as stored, all page formats. in is the q|k|v
     * buffer, out (rows, n_heads * D). */
    KVI_OP_ATTENTION,
    /* io[r] += in[r] W^T + b                                                                        io is the residual */
    KVI_OP_LINEAR_ADD,
    /* out[r] = silu(n W_0^T) * (n W_1^T), n = rmsnorm(in[r]; gain, eps), silu(x) = x / (1 + exp(-x)) */
    KVI_OP_NORM_GATE_UP,
    /* out[l, v] = rmsnorm(in[logit_rows[l]]; gain, eps) . W[v] for first_out <= v < first_out + n_out  out (logit rows, vocab) */
    KVI_OP_HEAD,
    KVI_OP_KIND_COUNT
} kvi_op_kind;

typedef struct kvi_op {
    kvi_op_kind kind;
    uint32_t layer;     /* of the model; 0 for EMBED and HEAD */
    kvi_buffer in, out; /* ROPE_APPEND, LINEAR_ADD: out is the buffer updated in place */
    uint32_t n_weights;
    const kvi_weight *weights[3];
    const kvi_weight *biases[3];       /* NULL: none */
    const kvi_weight *gain;            /* of the leading norm; (n_in) */
    const kvi_weight *q_gain, *k_gain; /* (D); NULL: no QK norm */
    float eps;
    float scale;               /* EMBED, ATTENTION */
    const kvi_rope *rope;      /* NULL: none */
    uint32_t n_heads;          /* query heads; ROPE_APPEND, ATTENTION */
    uint32_t group;            /* index into kvi_program.groups */
    uint32_t group_layer;      /* index of this layer inside its group */
    bool causal;               /* ATTENTION; false only in mutation tests */
    uint32_t first_out, n_out; /* HEAD: range of the vocabulary */
} kvi_op;

typedef struct kvi_program {
    const kvi_op *ops;
    uint32_t n_ops;
    const kvi_buffer_desc *buffers;
    uint32_t n_buffers;
    const kvi_cache_group *groups;
    uint32_t n_groups;
    kvi_buffer logits; /* (logit rows, vocab) f32 */
    uint32_t vocab_size;
    uint32_t n_layers;
} kvi_program;

/* What every step stays within; workspace is planned from these. */
typedef struct kvi_limits {
    uint32_t max_rows; /* tokens of a step (the prefill chunk) */
    uint32_t max_logit_rows;
    uint32_t max_seqs;
    uint32_t max_ctx;    /* positions of a sequence */
    uint64_t pool_bytes; /* KV pool, multiple of KVI_KV_UNIT */
    uint32_t
        page_formats; /* bit set over kvi_kv_code: codes that pages may have, so that a backend can refuse at load */
} kvi_limits;

/* --------------------------------------------------------------------------------------------------- step state --- */
typedef struct kvi_seq {
    uint32_t first_row; /* row of its first query in the batch; sequences are contiguous and in order */
    uint32_t n_rows;    /* query rows, >= 1 */
    uint32_t pos;       /* absolute position of its first query row; positions below are in the cache */
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
} kvi_step;

/* The most likely tokens of a row of logits, best first, of equals the lower id: what most samplers need, in half a kilobyte. */
#define KVI_BEST_MAX 64u
typedef struct kvi_best {
    uint32_t n; /* min(KVI_BEST_MAX, vocab_size) */
    bool bad;   /* a logit is NaN or +infinite: read_logits tells which */
    float sum;  /* of exp(logit - logits[0]) over the vocabulary */
    float logits[KVI_BEST_MAX];
    int32_t ids[KVI_BEST_MAX];
} kvi_best;

/* One page to encode or to convert: reads `from` (plain or packed), writes `to` (which may overlap `from` only when both start at the
 * same unit and `to` is not longer: in-place demotion, done record by record through staging). */
typedef struct kvi_page_job {
    uint32_t group;
    kvi_page_ref from, to;
} kvi_page_job;

/* How quantized pages are made (KV.md section 2); the stored format and the attention kernels do not depend on it. */
typedef enum kvi_varnorm { KVI_VARNORM_OFF, KVI_VARNORM_PAPER, KVI_VARNORM_KVRT } kvi_varnorm;
typedef enum kvi_range { KVI_RANGE_MINMAX, KVI_RANGE_SEARCH, KVI_RANGE_UNBIASED } kvi_range;
typedef struct kvi_encode_params {
    kvi_varnorm varnorm;
    kvi_range range;
} kvi_encode_params;

/* -------------------------------------------------------------------------------------------------- the table --- */
typedef struct kvi_device kvi_device;

typedef struct kvi_device_options {
    uint32_t n_threads;      /* 0: all cores */
    bool amx;                /* ask for AMX (process-wide permission) */
    const char *isa;         /* "auto", "portable", "avx2", "avx512" */
    const char *cuda_driver; /* path of the driver library, NULL: the system's */
    int32_t device_index;
    void *cuda_context, *cuda_stream; /* the host's CUcontext and CUstream to work in; NULL: our own */
} kvi_device_options;

typedef struct kvi_op_time {
    const char *op, *kernel;
    uint64_t calls, total_us, bytes;
} kvi_op_time;

typedef struct kvi_backend {
    const char *name; /* "cpu", "cuda" */

    /* One line about the device, or why there is none (returns false). */
    bool (*probe)(const kvi_device_options *options, char *text, uint64_t cap);
    kvrt_status (*open)(const kvi_device_options *options, kvi_device **out, kvrt_error *error);
    void (*close)(kvi_device *device); /* frees weights, workspace and pool */
    const char *(*describe)(const kvi_device *device);
    uint64_t (*memory_available)(const kvi_device *device); /* bytes free on the device */
    uint64_t (*context_bytes)(const kvi_device *device);    /* estimate of what the device context itself takes */

    /* Device bytes an import takes (0: aliases the map), and the import itself. The handle lives until close. */
    uint64_t (*weight_bytes)(const kvi_weight_desc *desc);
    kvrt_status (*weights_reserve)(kvi_device *device, uint64_t bytes,
                                   kvrt_error *error); /* before the first; NULL: not needed */
    kvrt_status (*weight_import)(kvi_device *device, const kvi_weight_desc *desc, kvi_weight **out, kvrt_error *error);

    /* Workspace beside weights and pool, from the program alone (handles may be NULL in it). */
    uint64_t (*workspace_bytes)(const kvi_program *program, const kvi_limits *limits,
                                const kvi_device_options *options);
    /* Checks that every operation can run, then takes workspace and pool. `program` and what it points to outlive the device.
     * UNSUPPORTED names operation, layer and reason. */
    kvrt_status (*load)(kvi_device *device, const kvi_program *program, const kvi_limits *limits, kvrt_error *error);

    /* A step of a few rows is best run as one range, program start to end (or to the first HEAD): it was recorded as such at load. */
    bool decodes_at_once;

    /* Makes `step` current (copied), then runs ranges of the program on it, in order. Neither allocates. */
    kvrt_status (*step_begin)(kvi_device *device, const kvi_step *step, kvrt_error *error);
    kvrt_status (*run)(kvi_device *device, uint32_t first_op, uint32_t n_ops, kvrt_error *error);
    /* Logits of row l of the current step, (vocab_size) f32; waits for the device. */
    kvrt_status (*read_logits)(kvi_device *device, uint32_t logit_row, float *out, kvrt_error *error);
    /* The best of them; waits. NULL: logits are at hand, look there. */
    kvrt_status (*read_best)(kvi_device *device, uint32_t logit_row, kvi_best *out, kvrt_error *error);

    /* Encodes or converts pages. */
    kvrt_status (*convert_pages)(kvi_device *device, const kvi_page_job *jobs, uint32_t n_jobs,
                                 const kvi_encode_params *params, kvrt_error *error);
    /* Raw bytes of the pool: snapshots, synthetic fill, tests. */
    kvrt_status (*pool_write)(kvi_device *device, uint64_t offset, const void *bytes, uint64_t len, kvrt_error *error);
    kvrt_status (*pool_read)(kvi_device *device, uint64_t offset, void *bytes, uint64_t len, kvrt_error *error);

    /* Synthetic content: 32-bit words base | (random & mask), the same for the same seed. NULL: the caller makes and writes them. */
    kvrt_status (*pool_fill)(kvi_device *device, uint64_t offset, uint64_t len, uint32_t base, uint32_t mask,
                             uint64_t seed, kvrt_error *error);
    /* GB/s, read plus written, of a copy within the device over the pool, whose content is lost. NULL: not measured here. */
    kvrt_status (*copy_bandwidth)(kvi_device *device, double *gbps, kvrt_error *error);

    /* Per-operation times: enable resets; at(index) is false past the end. */
    void (*time_ops)(kvi_device *device, bool enable);
    bool (*op_time_at)(const kvi_device *device, uint32_t index, kvi_op_time *out);
} kvi_backend;

/* The backends of this build, in order of preference; NULL past the end. */
const kvi_backend *kvi_backend_at(uint32_t index);
extern const kvi_backend kvi_backend_cpu,
    kvi_backend_cuda; /* cuda: without a driver, a card or kernels its probe says so */

#endif
