/* device_cpu.h - the CPU device: what the files of kernels/cpu share. */
#ifndef KVI_DEVICE_CPU_H
#define KVI_DEVICE_CPU_H
#include "variants.h"
#include "workers.h"
#include "../../runtime/base/mem.h"

#define KVI_CPU_QUERY_BLOCK 128u /* queries of one KV head that one attention task handles */
/* Pages of one split in decode; fixed, so that results do not depend on the thread count. Few, so that three KV heads are even on two threads. */
#define KVI_CPU_SPLIT_PAGES 8u

/* The (row, choice) pairs of an EXPERTS operation, sorted by expert: experts.c. */
typedef struct kvi_cpu_run_of {
    uint32_t expert, first, n; /* pairs [first, first + n) of the sorted ones chose it */
    uint32_t group;            /* of its activations as codes, four pairs a group */
} kvi_cpu_run_of;
typedef struct kvi_cpu_mixture {
    uint32_t *place, *pair; /* (max_rows * top_k) place of a pair among the sorted ones; pair of a place */
    uint32_t *first;        /* (n_experts + 1) */
    kvi_cpu_run_of *used;   /* (n_experts), n_used of them */
    uint32_t n_used;
    float *act;     /* (max_rows * top_k, expert_width) */
    uint8_t *codes; /* activations of all runs as codes, each run's from a group on */
    uint32_t n_groups;
} kvi_cpu_mixture;
/* Narrow attention: up to KVI_CPU_QUERY_BLOCK queries of a sequence, for any KV head, and parts that look at the same pages: attention.c. */
typedef struct kvi_cpu_part {
    uint32_t seq, first_query, n_queries; /* queries count (row, head) pairs of the KV head */
    uint32_t n_pos;                       /* positions that its last query may see */
    uint32_t first_page, end_page;
} kvi_cpu_part;
typedef struct kvi_cpu_company {
    uint32_t split, first, n; /* parts [first, first + n) look at the same page first in that split */
} kvi_cpu_company;
#define KVI_CPU_EXPERT_ROWS 256u   /* most rows of a task of a gemv */
#define KVI_CPU_TASK_COLUMNS 256u  /* most outputs of a product's task, a row */
#define KVI_CPU_FEW_PRODUCTS 2048u /* most outputs of a gemv's task, of a weight and over all rows */
/* Floats that a thread makes products in: two weights side by side, of which many rows have half the columns at most. */
static inline size_t kvi_cpu_products(uint32_t max_rows)
{
    const size_t many = (size_t)max_rows * KVI_CPU_TASK_COLUMNS;
    return many < 2u * KVI_CPU_FEW_PRODUCTS ? 2u * KVI_CPU_FEW_PRODUCTS : many;
}
#define KVI_CPU_MOST_PANEL 64u /* columns of a packed panel, at least those of every variant */

/* The part of an operation that is to run: rounds of one task per thread, [first, end) of those of all its phases. An operation that may be cut
 * prepares when it begins, hands its tasks to kvi_cpu_tasks phase by phase, and leaves when that says that the piece ends there; whatever one
 * piece makes for the next stands in the workspace. The whole operation is [0, UINT32_MAX). */
typedef struct kvi_cpu_piece {
    uint32_t first, end;
    uint32_t passed; /* rounds of the phases so far */
    uint32_t n_run;
} kvi_cpu_piece;
#define KVI_CPU_PIECE_PAGES 2u /* of a run of pages that a task of a wide step sees, where the operation is cut */

struct kvi_device {
    const kvi_cpu_variant *v;
    kvi_workers *workers;
    uint32_t n_threads;
    const kvi_cpu_tiles *tiles;           /* NULL: not there, or not wanted */
    const struct kvi_cpu_packed *rings;   /* attention from trellis codes */
    const struct kvi_cpu_packed *fixed;   /* from codes of 4 and 2 bits in fixed point; NULL: not there, or `exact` */
    const kvi_cpu_bf16 *bf16;             /* alike */
    const kvi_cpu_dots *dots, *wide_dots; /* products of integers: of few rows, of many */
    bool exact;                           /* no integer products */
    char text[160];
    kvi_arena arena; /* weight handles, tiles, widened vectors */
    kvi_cpu cpu;

    const kvi_program *program;
    kvi_limits limits;
    uint8_t *pool;
    float *buffers[KVI_MAX_BUFFERS];
    void *workspace;     /* everything below */
    float *normed;       /* (max_rows, widest normed input) */
    float *products;     /* (n_threads, kvi_cpu_products) */
    float *added;        /* what is more than a sum before it is added: (max_rows * top_k, widest output) */
    float *ones;         /* gains of norms that have none */
    void *bf16_packed;   /* activations of a product with `bf16` */
    uint8_t *dots_codes; /* those of products of integers, of up to three weights */
    float *bests;        /* of a row of logits: best_cpu.c */
    kvi_cpu_mixture mixture;
    float *thread_scratch; /* (n_threads, scratch_floats) */
    size_t scratch_floats;
    kvi_cpu_part *parts;        /* (max_parts) */
    kvi_cpu_company *companies; /* (max_splits * max_parts) */
    float *split_out;           /* (splits, small rows * heads, D + 2) */
    float *sums;                /* (max_rows, heads, 2) largest score and sum of a query between runs of pages */
    float *absorbed;            /* (small rows, heads, rank + rope) queries of latent attention */
    uint32_t max_splits, max_heads, max_dim;
    float *rope_cos[KVI_MAX_ROPES], *rope_sin[KVI_MAX_ROPES]; /* (max_rows, n_dims / 2) of the current step */

    kvi_step step; /* copies, in the arrays below */
    int32_t *ids;
    uint32_t *logit_rows, *row_seq, *row_pos;
    kvi_seq *seqs;

    kvi_cpu_piece piece; /* of the operation that runs */
    kvi_watch_fn watch;  /* NULL: nobody looks */
    void *watch_user;
    bool timing;
    struct cpu_op_time {
        const char *kernel;
        uint64_t calls, us, bytes;
    } times[KVI_OP_KIND_COUNT + 1];
};

static inline bool kvi_cpu_begins(const kvi_device *device) { return device->piece.first == 0; }
static inline bool kvi_cpu_is_cut(const kvi_device *device)
{
    return device->piece.end != UINT32_MAX || device->piece.first;
}
/* Nothing of the phases so far is left for a later piece. */
static inline bool kvi_cpu_is_over(const kvi_device *device) { return device->piece.passed <= device->piece.end; }
/* The piece's part of the next phase of the operation. */
bool kvi_cpu_tasks(kvi_device *device, kvi_task_fn fn, void *arg, uint32_t n_tasks);

/* y (n_rows, n_out) = x W^T in one of the forms an operation needs. */
typedef enum kvi_epilogue { KVI_STORE, KVI_ADD, KVI_GATE_UP } kvi_epilogue;
typedef struct kvi_linear {
    const float *x; /* (n_rows, n_in) */
    uint32_t n_rows, n_in, n_weights;
    const kvi_weight *weights[3], *biases[3];
    float *y;
    size_t ldy;
    bool wide;             /* panels or tiles, also for a few rows */
    kvi_epilogue epilogue; /* GATE_UP: two weights, y = act(first, second) */
    kvi_activation activation;
    float limit;
    uint32_t first_out, n_out; /* range of the outputs of weight 0; n_out 0: all */
} kvi_linear;
const char *kvi_cpu_linear(kvi_device *device, const kvi_linear *job); /* name of the kernel that ran */
/* Whether products with the weight take activations as codes (dots.h) or f32 ones (its kernel). */
static inline bool kvi_cpu_multiplies_integers(const kvi_device *device, const kvi_weight *w)
{
    return w->tile.bits && w->tile.values < KVI_TILE_FLOATS && !device->exact;
}
/* Whether activations as codes for one weight are those for the other. */
bool kvi_cpu_takes_same_codes(const kvi_weight *a, const kvi_weight *b);

/* Row `row` of a weight as f32, (n_in). */
void kvi_cpu_weight_row(const kvi_device *device, const kvi_weight *w, uint32_t row, float *out);

/* y = act(gate) * up, in place on gate. */
void kvi_cpu_activate(const kvi_cpu_variant *v, kvi_activation activation, float limit, float *gate, const float *up,
                      uint32_t n);
void kvi_cpu_norm(const kvi_device *device, const kvi_norm *norm, const float *x, uint32_t n, float *y);
/* Normed input of an operation, rows chosen by `rows` (NULL: all); the buffer itself where there is no norm. */
const float *kvi_cpu_norm_rows(kvi_device *device, const kvi_op *op, const uint32_t *rows, uint32_t n_rows);
/* An addition that is more than a sum goes through `added`: asked when the workspace is planned and when the operation runs. */
static inline bool kvi_cpu_adds_specially(const kvi_op *op)
{
    return op->post_norm.kind || op->gated || op->scale != 1.0f || op->fresh || op->out_gain || op->n_weights == 0;
}
/* Adds `added` to the residual as LINEAR_ADD says: post-norm, multiplier, gate. */
void kvi_cpu_add_rows(kvi_device *device, const kvi_op *op);
/* The same for one row, x (cols of the residual), which is used up. */
void kvi_cpu_add_row(kvi_device *device, const kvi_op *op, uint32_t row, float *x);

/* The entries of the backend's table. */
kvrt_status kvi_cpu_weight_bytes(const kvi_weight_desc *desc, uint64_t *bytes, kvrt_error *error);
bool kvi_cpu_kernel_of(const kvi_weight_desc *desc, const kvi_device_options *options, char *text, uint64_t cap);
/* The best integer products that go with a variant on this CPU. */
const kvi_cpu_dots *kvi_cpu_dots_for(const kvi_cpu_variant *v, const kvi_cpu *cpu);
/* Products that round activations to BF16 without AMX; NULL: none here, or not wanted. */
const kvi_cpu_bf16 *kvi_cpu_bf16_for(const kvi_cpu_variant *v, const kvi_cpu *cpu, bool exact);
uint64_t kvi_cpu_kept_bytes(const kvi_weight_desc *desc);
const void *kvi_cpu_kept_form(const kvi_weight *weight);
kvrt_status kvi_cpu_weights_reserve(kvi_device *device, uint64_t bytes, kvrt_error *error);
kvrt_status kvi_cpu_weight_import(kvi_device *device, const kvi_weight_desc *desc, kvi_weight **out, kvrt_error *error);
kvrt_status kvi_cpu_run(kvi_device *device, uint32_t first_op, uint32_t n_ops, kvrt_error *error);
kvrt_status kvi_cpu_run_some(kvi_device *device, uint32_t op, uint32_t first, uint32_t n, uint32_t *n_run, bool *over,
                             kvrt_error *error);
kvrt_status kvi_cpu_convert_pages(kvi_device *device, const kvi_page_job *jobs, uint32_t n_jobs,
                                  const kvi_encode_params *params, kvrt_error *error);

kvrt_status kvi_cpu_convert_some(kvi_device *device, const kvi_page_job *job, const kvi_encode_params *params,
                                 uint32_t first, uint32_t n, uint32_t *n_run, bool *over, kvrt_error *error);

/* Each gives the name of the kernel that ran. */
const char *kvi_cpu_route(kvi_device *device, const kvi_op *op);
const char *kvi_cpu_experts(kvi_device *device, const kvi_op *op);
size_t kvi_cpu_experts_scratch(const kvi_op *op, uint32_t hidden); /* floats per thread */
const char *kvi_cpu_conv_state(kvi_device *device, const kvi_op *op);
const char *kvi_cpu_delta(kvi_device *device, const kvi_op *op);
size_t kvi_cpu_delta_scratch(const kvi_op *op); /* floats per thread */
/* State of a layer of that sequence. */
static inline float *kvi_cpu_state(const kvi_device *device, const kvi_op *op, const kvi_seq *seq)
{
    return (float *)(void *)(device->pool + (uint64_t)seq->state_unit * KVI_KV_UNIT + op->state_off);
}
/* Turns the leading dimensions of `head` by the angles of the row's position. */
void kvi_cpu_rope(const kvi_device *device, const kvi_rope *rope, uint32_t row, float *head);
void kvi_cpu_rope_append(kvi_device *device, const kvi_op *op);
const char *kvi_cpu_attention(kvi_device *device, const kvi_op *op);
size_t kvi_cpu_attention_scratch(uint32_t head_dim); /* floats per thread */
uint64_t kvi_cpu_best_bytes(uint32_t vocab);         /* of kvi_device.bests */
kvrt_status kvi_cpu_read_best(kvi_device *device, uint32_t logit_row, kvi_best *out, kvrt_error *error);
/* From the accumulator of a query to its result: the sink's part, the division, the rotation back, the gate. m: largest score, natural. */
void kvi_cpu_attention_finish(const kvi_device *device, const kvi_op *op, uint32_t row, uint32_t head, float m, float l,
                              float *acc);
/* Codes of a packed side as their values, in panels over the side's rows: K by channel (d rows of 128), V by token (128 rows of d).
 * vectors (KVI_CPU_SIDE_VECTORS, KVI_KV_MAX_HEAD_DIM) is scratch. */
#define KVI_CPU_SIDE_VECTORS 4u
void kvi_cpu_dequantize(const kvi_cpu_variant *v, const uint8_t *side, kvi_kv_code code, bool is_v, uint32_t d,
                        float *vectors, float *panels);
/* The first n positions of a side of K as panels of 128 columns over d rows. */
void kvi_cpu_stage_k(const kvi_cpu_variant *v, const uint8_t *side, kvi_kv_code code, uint32_t d, uint32_t n,
                     float *vectors, float *panels);
/* Adds to kvi_seq.mass what the step's rows paid attention to, once an ATTENTION has run. */
void kvi_cpu_observe(kvi_device *device, const kvi_op *op);
const char *kvi_cpu_latent_append(kvi_device *device, const kvi_op *op);
const char *kvi_cpu_latent_attention(kvi_device *device, const kvi_op *op);
size_t kvi_cpu_latent_scratch(const kvi_op *op, const kvi_kv_shape *shape); /* floats per thread */
/* Wide steps. */
const char *kvi_cpu_prefill_attention(kvi_device *device, const kvi_op *op);
size_t kvi_cpu_prefill_scratch(uint32_t head_dim);

#endif
