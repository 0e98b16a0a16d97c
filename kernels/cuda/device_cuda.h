/* device_cuda.h - the CUDA device: what the host files of kernels/cuda share. A file per family of operations (linear_cuda.c,
 * attention_cuda.c, encode_cuda.c) turns operations into launches; launch_cuda.c makes the launches or records them;
 * layout_cuda.c, graph_cuda.c and run_cuda.c stand above the families; backend_cuda.c owns step state and the table.
 *
 * Memory is four blocks: weights (taken at import), workspace and pool (taken at load), pinned host memory. Whoever needs device
 * memory for its operations says so in its `bytes` function and gets an address in `prepare`; nothing is taken later. */
#ifndef KVI_DEVICE_CUDA_H
#define KVI_DEVICE_CUDA_H
#include "driver.h"
#include "tile_params.h"
#include "../backend.h"
#include "../../runtime/base/mem.h"

#define KVI_CUDA_MAX_BUFFERS KVI_MAX_BUFFERS
#define KVI_CUDA_MAX_SMS                                                                                               \
    192u /* multiprocessors that workspace is planned for (a 5090 has 170); grids of larger cards stay within it */
#define KVI_CUDA_STAGING (4u << 20) /* bytes of each of the two pinned staging blocks */

typedef enum kvi_cuda_kernel_id {
#define KERNEL(name, registers) KVI_CUDA_K_##name,
#include "kernel_list.h"
#undef KERNEL
    KVI_CUDA_KERNEL_COUNT
} kvi_cuda_kernel_id;
const char *kvi_cuda_kernel_name(kvi_cuda_kernel_id id);

struct kvi_weight {
    const char *name;
    kvi_weight_form form; /* on the device; vectors (n_out = 1) are always F32 */
    uint32_t n_out, n_in;
    kvi_cuda_matrix data; /* rows end in zeros up to a multiple of 8 elements; with a tile form codes are its panels */
    const kvi_cuda_tile *tile; /* of quantized weights; NULL: rows of plain numbers */
    kvi_dptr order;            /* uint32 (n_in): the column that stands at each place of the tile form; 0: its own */
};

/* A buffer of the program. pitch is a multiple of 8; what lies between cols and pitch stays zero for ever. */
typedef struct kvi_cuda_buffer {
    kvi_dptr data;
    kvi_dtype dtype;      /* RESIDUAL: F32; OPERAND: F16 for q | k | v, else kvi_device.operand */
    uint32_t cols, pitch; /* elements */
} kvi_cuda_buffer;

typedef struct kvi_cuda_block { /* of weight memory */
    kvi_dptr data;
    uint64_t bytes, used;
} kvi_cuda_block;
#define KVI_CUDA_MAX_BLOCKS 1024u

typedef struct kvi_cuda_graph { /* one range of the program for steps of up to `rows` rows */
    uint32_t first_op, n_ops, rows;
    uint32_t formats; /* of pages, a bit set as kvi_device.formats */
    kvi_cu_graph_exec exec;
} kvi_cuda_graph;
#define KVI_CUDA_MAX_GRAPHS 20u
#define KVI_CUDA_MAX_SIBLINGS 5u

typedef struct kvi_cuda_timed { /* one operation between two events */
    kvi_cu_event start, end;
    uint32_t slot;
    const char *kernel;
    uint64_t bytes;
} kvi_cuda_timed;
#define KVI_CUDA_TIMED 32u

/* Scratch of mixtures of experts (experts_cuda.c). */
typedef struct kvi_cuda_experts {
    kvi_dptr list;  /* tiles and sorted pairs (linear_params.h) */
    kvi_dptr act;   /* (pairs, width) 16-bit: what gate and up leave */
    kvi_dptr parts; /* (pairs, hidden) f32: what an expert says of a token */
} kvi_cuda_experts;

/* Scratch of latent attention (latent_cuda.c). */
typedef struct kvi_cuda_latents {
    kvi_dptr queries; /* (max_rows, n_heads, KVI_LATENT_WIDTH) F16: what has absorbed W_K */
    kvi_dptr ml, acc; /* partial results */
} kvi_cuda_latents;

struct kvi_cuda_attention; /* attention_cuda.c */
struct kvi_cuda_encode;    /* encode_cuda.c */

struct kvi_device {
    kvi_cuda_driver driver;
    kvi_cu_device ordinal;
    kvi_cu_context context;
    bool owns_context; /* retained the primary context, else the host handed one over */
    kvi_cu_stream stream;
    bool owns_stream;
    char text[200];
    uint32_t sm_count;   /* at most KVI_CUDA_MAX_SMS: what grids are made for */
    uint32_t capability; /* 86 is 8.6 */
    kvi_cu_library libraries[64];
    uint32_t n_libraries;
    kvi_cu_function kernels[KVI_CUDA_KERNEL_COUNT];
    kvi_arena arena; /* host: weight handles and what the families keep */

    kvi_cuda_block blocks[KVI_CUDA_MAX_BLOCKS]; /* weights */
    uint32_t n_blocks;
    uint8_t *staging[2]; /* pinned, KVI_CUDA_STAGING each */
    kvi_cu_event staged[2];
    uint32_t next_staging;

    const kvi_program *program;
    kvi_limits limits;
    kvi_dtype operand; /* F16, or BF16 when the program has BF16 matrices */
    kvi_dptr pool, workspace;
    uint64_t pool_bytes, pool_reserved; /* behind which there is memory; addresses, 0: the pool is an allocation */
    kvi_cuda_buffer buffers[KVI_CUDA_MAX_BUFFERS];
    kvi_dptr best;          /* scratch of best_cuda.c */
    kvi_cuda_buffer normed; /* (max_rows, widest normed input) operands of the matrix kernels */
    kvi_cuda_buffer sums;   /* (max_rows, widest) f32: products that are more than added */
    kvi_cuda_experts experts;
    kvi_cuda_latents latent;
    struct kvi_cuda_attention *attention;
    struct kvi_cuda_encode *encode;

    /* The step: written to pinned memory, copied to the device before anything runs. */
    kvi_cuda_step_map map; /* device addresses */
    uint8_t *step_host[2]; /* pinned, the device's layout */
    kvi_cu_event step_copied[2];
    uint32_t next_step;
    uint64_t step_bytes;
    uint32_t n_rows, n_logit_rows, n_seqs; /* of the current step */
    bool wide;                             /* the current step's form; false while a graph is recorded */
    uint32_t formats; /* of pages in it, or in the graph being recorded: bits of attention_cuda.c's table */
    uint64_t attention_bytes
        [KVI_MAX_GROUPS]; /* record bytes per layer that the current step reads, by cache group; when timed */

    kvi_cu_graph recording; /* NULL: launches are made at once */
    /* Nodes that the next one comes after; between siblings_begin and _end those before them, and the siblings so far. */
    kvi_cu_node last[KVI_CUDA_MAX_SIBLINGS], siblings[KVI_CUDA_MAX_SIBLINGS];
    uint32_t n_last, n_siblings;
    bool branching;
    kvi_cuda_graph graphs[KVI_CUDA_MAX_GRAPHS];
    uint32_t n_graphs;

    bool timing;
    kvi_cuda_timed timed[KVI_CUDA_TIMED]; /* operations that run, or have run and are not counted yet */
    uint32_t n_timed;
    struct {
        const char *kernel;
        uint64_t calls, bytes;
        double us;
    } times[KVI_OP_KIND_COUNT + 2]; /* the last ones: page conversion, best tokens */
};

/* ------------------------------------------------------------------------------------------- backend_cuda.c, memory --- */
/* Every entry of the table runs between these two; the caller's current context is as before afterwards. */
kvrt_status kvi_cuda_enter(kvi_device *device, kvrt_error *error);
void kvi_cuda_leave(kvi_device *device);

static inline uint64_t kvi_cuda_round(uint64_t bytes) { return (bytes + 255) & ~(uint64_t)255; }
/* A walk over a block of device memory: `base` 0 counts, else gives addresses; 256-byte aligned. */
typedef struct kvi_cuda_space {
    kvi_dptr base;
    uint64_t used;
} kvi_cuda_space;
static inline kvi_dptr kvi_cuda_carve(kvi_cuda_space *space, uint64_t bytes)
{
    kvi_dptr at = space->base + space->used;
    space->used += kvi_cuda_round(bytes);
    return at;
}
/* Host bytes of any length and alignment through pinned staging; the source may be reused on return. Not within a graph. */
kvrt_status kvi_cuda_upload(kvi_device *device, kvi_dptr to, const void *from, uint64_t bytes, kvrt_error *error);
/* Waits for the device. */
kvrt_status kvi_cuda_download(kvi_device *device, void *to, kvi_dptr from, uint64_t bytes, kvrt_error *error);

/* The pinned staging block whose turn it is, once its last transfer is over; then its first bytes to the device. */
kvrt_status kvi_cuda_staging_take(kvi_device *device, uint8_t **out, kvrt_error *error);
kvrt_status kvi_cuda_staging_send(kvi_device *device, kvi_dptr to, uint64_t bytes, kvrt_error *error);

/* Elements from row to row of n_in columns. */
static inline uint32_t kvi_cuda_pitch(uint32_t n_in) { return (n_in + 7) / 8 * 8; }

/* ------------------------------------------------------------------------------------------------- launch_cuda.c --- */
/* Launches on the device's stream, or adds a node to the graph being recorded. `params` is the kernel's only parameter. */
kvrt_status kvi_cuda_launch(kvi_device *device, kvi_cuda_kernel_id kernel, uint32_t grid_x, uint32_t grid_y,
                            uint32_t grid_z, uint32_t threads, uint32_t shared_bytes, const void *params,
                            kvrt_error *error);
/* Launches between the two come after what was launched before, and not after one another: in a graph they may run side by side. */
void kvi_cuda_siblings_begin(kvi_device *device);
void kvi_cuda_siblings_end(kvi_device *device);
/* Rows that launches are made for: the step's own count, or the bucket (1, 2, 4, 8, 16) of a decode step. Kernels read the real count. */
uint32_t kvi_cuda_bucket(uint32_t n_rows);
/* Most rows of a narrow step: more than KVI_DECODE_ROWS are of several sequences, and are planned for where there are more sequences than that. */
static inline uint32_t kvi_cuda_narrow_rows(const kvi_limits *limits)
{
    return limits->max_seqs > KVI_DECODE_ROWS ? KVI_BATCH_ROWS : KVI_DECODE_ROWS;
}

/* -------------------------------------------------------------------------------------------------- graph_cuda.c --- */
/* Launches of one operation, for `rows` rows: a bucket or, in wide steps beyond 8, the step's own count. */
kvrt_status kvi_cuda_op_run(kvi_device *device, const kvi_op *op, uint32_t rows, const char **kernel,
                            kvrt_error *error);
/* Graphs of the whole program for the row counts of decode. After every `prepare`. */
kvrt_status kvi_cuda_graphs_build(kvi_device *device, kvrt_error *error);
void kvi_cuda_graphs_free(kvi_device *device);
/* The graph of a range for the rows of the current step; NULL: launch its operations one by one. */
const kvi_cuda_graph *kvi_cuda_graph_find(const kvi_device *device, uint32_t first_op, uint32_t n_ops);

/* ---------------------------------------------------------------------------------------------------- run_cuda.c --- */
kvrt_status kvi_cuda_run_range(kvi_device *device, uint32_t first_op, uint32_t n_ops, kvrt_error *error);
/* Around what is timed; both do nothing unless device->timing. Slots: kvi_op_kind, then page conversion, then best tokens. Times are counted by
 * time_read, which waits for the device. */
kvrt_status kvi_cuda_time_begin(kvi_device *device, kvrt_error *error);
kvrt_status kvi_cuda_time_end(kvi_device *device, uint32_t slot, const char *kernel, uint64_t bytes, kvrt_error *error);
kvrt_status kvi_cuda_time_read(kvi_device *device, kvrt_error *error);
const char *kvi_cuda_slot_name(uint32_t slot);

/* ---------------------------------------------------------------------------------------- families of operations ---
 * *_check refuses at load (UNSUPPORTED: operation, layer, reason), before memory is taken, and in plans,
 * where weights are NULL. *_bytes says how much device
 * workspace the family needs, from the program and the limits alone. *_prepare gets that much memory (256-byte aligned, zeroed), uploads its
 * constants and allocates host state from device->arena. The run functions launch for `rows` rows (device->n_rows, or a bucket when a
 * graph is recorded) and set *kernel to the name of the main kernel. */
/* Whether there are kernels for weights of that form. */
bool kvi_cuda_linear_has(kvi_weight_form form);
kvrt_status kvi_cuda_linear_check(const kvi_program *program, kvrt_error *error);
uint64_t kvi_cuda_linear_bytes(const kvi_program *program, const kvi_limits *limits);
kvrt_status kvi_cuda_linear_prepare(kvi_device *device, kvi_dptr memory, kvrt_error *error);
/* Quantized weights (tiles_cuda.c). Whether one has a tile form, and its bytes on the device; laying it there, w->data.codes being its place. */
bool kvi_cuda_tile_of(const kvi_weight_desc *desc, kvi_cuda_tile *out);
uint64_t kvi_cuda_tile_bytes(const kvi_weight_desc *desc, const kvi_cuda_tile *tile);
kvrt_status kvi_cuda_tile_send(kvi_device *device, const kvi_weight_desc *desc, kvi_weight *w, kvrt_error *error);
/* Whether two weights can go side by side in one launch. */
bool kvi_cuda_same_tile(const kvi_weight *a, const kvi_weight *b);
/* Weights first .. first + n of the operation by rows of F16 that are normalized, gathered and in order; `linear` as for plain weights. `blocks` of
 * tile_rows rows: 8 (gemv), 32 or 64. */
kvrt_status kvi_cuda_tile_product(kvi_device *device, const kvi_op *op, uint32_t first, uint32_t n,
                                  const kvi_cuda_linear_params *linear, uint32_t tile_rows, uint32_t blocks,
                                  const char **name, kvrt_error *error);
kvrt_status kvi_cuda_tile_embed(kvi_device *device, const kvi_op *op, uint32_t rows, const char **name,
                                kvrt_error *error);
/* EMBED, NORM_LINEAR, LINEAR_ADD, NORM_GATE_UP, HEAD */
kvrt_status kvi_cuda_linear_run(kvi_device *device, const kvi_op *op, uint32_t rows, const char **kernel,
                                kvrt_error *error);

/* ROUTE, EXPERTS */
kvrt_status kvi_cuda_experts_check(const kvi_program *program, kvrt_error *error);
uint64_t kvi_cuda_experts_bytes(const kvi_program *program, const kvi_limits *limits);
void kvi_cuda_experts_prepare(kvi_device *device, kvi_dptr memory);
kvrt_status kvi_cuda_route_run(kvi_device *device, const kvi_op *op, uint32_t rows, const char **kernel,
                               kvrt_error *error);
kvrt_status kvi_cuda_experts_run(kvi_device *device, const kvi_op *op, uint32_t rows, const char **kernel,
                                 kvrt_error *error);

/* CONV_STATE, DELTA; scratch is device->sums. */
kvrt_status kvi_cuda_recurrent_check(const kvi_program *program, kvrt_error *error);
kvrt_status kvi_cuda_conv_run(kvi_device *device, const kvi_op *op, uint32_t rows, const char **kernel,
                              kvrt_error *error);
kvrt_status kvi_cuda_delta_run(kvi_device *device, const kvi_op *op, uint32_t rows, const char **kernel,
                               kvrt_error *error);

kvrt_status kvi_cuda_attention_check(const kvi_program *program, const kvi_limits *limits, kvrt_error *error);
kvrt_status kvi_cuda_attention_check_step(const kvi_device *device, const kvi_step *step,
                                          kvrt_error *error); /* every page can be read */
/* Formats of the pages of a step that passed, those that a session of the planned format has, and all that may occur: bits. */
uint32_t kvi_cuda_attention_formats(const kvi_device *device, const kvi_step *step);
uint32_t kvi_cuda_attention_usual(const kvi_device *device);
uint32_t kvi_cuda_attention_possible(const kvi_device *device);
/* Splits of the context for a step of up to 32 rows: one row fills the card once, as long as there are so many pages. Never more blocks than the card
 * holds at a time, or a few left over would take as long as all the others. Up to KVI_DECODE_ROWS rows they are the same, so that a sequence
 * has the same bits alone and in a batch; beyond, partial results stay within the memory of those. */
uint32_t kvi_cuda_decode_splits(uint32_t blocks_per_sm, uint32_t sm_count, uint32_t n_kv_heads, uint32_t max_ctx,
                                uint32_t rows);
uint64_t kvi_cuda_attention_bytes(const kvi_program *program, const kvi_limits *limits);
kvrt_status kvi_cuda_attention_prepare(kvi_device *device, kvi_dptr memory, kvrt_error *error);
kvrt_status kvi_cuda_rope_append_run(kvi_device *device, const kvi_op *op, uint32_t rows, const char **kernel,
                                     kvrt_error *error);
kvrt_status kvi_cuda_attention_run(kvi_device *device, const kvi_op *op, uint32_t rows, const char **kernel,
                                   kvrt_error *error);

/* Of a RoPE: double (n_dims / 2), inv_freq / 2 pi. */
kvi_dptr kvi_cuda_turns_of(const kvi_device *device, const kvi_rope *rope);
/* f32 (2, 64): numbers of the trellis' states, of two bits and of three. */
kvi_dptr kvi_cuda_attention_levels(const kvi_device *device);

/* LATENT_APPEND, ATTENTION_LATENT */
kvrt_status kvi_cuda_latent_check(const kvi_program *program, const kvi_limits *limits, kvrt_error *error);
uint64_t kvi_cuda_latent_bytes(const kvi_program *program, const kvi_limits *limits);
void kvi_cuda_latent_prepare(kvi_device *device, kvi_dptr memory);
kvrt_status kvi_cuda_latent_append_run(kvi_device *device, const kvi_op *op, uint32_t rows, const char **kernel,
                                       kvrt_error *error);
kvrt_status kvi_cuda_latent_run(kvi_device *device, const kvi_op *op, uint32_t rows, const char **kernel,
                                kvrt_error *error);

/* The sampling head, outside of the program: it runs when the host asks for it. */
uint64_t kvi_cuda_best_bytes(const kvi_program *program);
kvrt_status kvi_cuda_best_run(kvi_device *device, uint32_t logit_row, kvi_best *out, const char **kernel,
                              kvrt_error *error);

uint64_t kvi_cuda_encode_bytes(const kvi_program *program, const kvi_limits *limits);
kvrt_status kvi_cuda_encode_prepare(kvi_device *device, kvi_dptr memory, kvrt_error *error);
kvrt_status kvi_cuda_encode_run(kvi_device *device, const kvi_page_job *jobs, uint32_t n_jobs,
                                const kvi_encode_params *params, const char **kernel, kvrt_error *error);
/* Copies bytes (multiple of KVI_KV_UNIT) within the device's memory; the two places may overlap when `to` is the lower one. */
kvrt_status kvi_cuda_move(kvi_device *device, kvi_dptr from, kvi_dptr to, uint64_t bytes, kvrt_error *error);

#endif
