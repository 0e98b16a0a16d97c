/* program.h - the operations of a model: their contracts, and the flat list of them that forward.c records.
 *
 * NOTATION. Row r is one token of the batch; matrices are row-major; W is (n_out, n_in) as in Hugging Face files, y = x W^T.
 *   rmsnorm(x; g, eps)[i] = x[i] / sqrt(mean(x^2) + eps) * g[i]
 *   Accumulation is f32 or better. Results do not depend on the number of threads, on how a step is cut into ranges, or on
 *   the other sequences of the batch. */
#ifndef KVI_PROGRAM_H
#define KVI_PROGRAM_H
#include <stdbool.h>
#include <stdint.h>
#include "weight.h"
#include "../runtime/kv/page.h"

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

#endif
