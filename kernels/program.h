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
#include "../runtime/base/status.h"
#include "../runtime/kv/page.h"

/* What a program has at most; a backend may have room for less and says so in its check. */
#define KVI_MAX_BUFFERS 24u
#define KVI_MAX_ROPES 4u

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
    uint32_t n_dims;        /* rotated leading dimensions of a head, even */
    bool interleaved;       /* pairs are (2i, 2i + 1) instead of (i, i + n_dims/2) */
    const double *inv_freq; /* (n_dims/2) radians per position, scaling already applied; 0 turns nothing */
    float magnitude;        /* multiplies cos and sin; 1 unless the scaling says otherwise */
} kvi_rope;

/* y = x / sqrt(mean(x^2) + eps) * gain. Families that store gains as w - 1 have them raised on import (kvi_weight_desc.add). */
typedef enum kvi_norm_kind {
    KVI_NORM_NONE, /* y = x */
    KVI_NORM_GAIN,
    KVI_NORM_BARE /* all gains are one */
} kvi_norm_kind;
typedef struct kvi_norm {
    kvi_norm_kind kind;
    const kvi_weight *gain; /* (width); of KVI_NORM_GAIN */
    float eps;
} kvi_norm;

/* How gate and up of a feed-forward part meet: y = act(gate) * up. */
typedef enum kvi_activation {
    KVI_ACT_SILU,      /* x / (1 + exp(-x)) */
    KVI_ACT_GELU,      /* x/2 (1 + erf(x / sqrt 2)) */
    KVI_ACT_GELU_TANH, /* x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
    KVI_ACT_SWIGLU_OAI /* gpt-oss: g = min(gate, limit), u = clamp(up, -limit, limit); y = (u + 1) g / (1 + exp(-1.702 g)) */
} kvi_activation;

/* How ROUTE turns the router's logits s into scores p, chooses by c = p + correction, and weighs what it chose. */
typedef enum kvi_route_score { KVI_ROUTE_SOFTMAX, KVI_ROUTE_SIGMOID, KVI_ROUTE_LOGITS } kvi_route_score;
typedef struct kvi_route {
    kvi_route_score score; /* p = softmax(s), 1 / (1 + exp(-s)), s */
    uint32_t top_k;        /* experts per token, 1..KVI_MAX_TOP_K */
    uint32_t
        n_groups; /* above 1: the experts are n_groups equal runs; only those of the best top_groups runs may be chosen */
    uint32_t top_groups;
    uint32_t group_best; /* a run is worth the sum of its best group_best values of c, 1 or 2 */
    bool softmax_chosen; /* weights = softmax over the s of the chosen, instead of their p */
    bool renormalize;    /* weights /= (sum of them + 1e-20) */
    float scale;         /* weights *= scale */
} kvi_route;
#define KVI_MAX_TOP_K 64u

/* A recurrent layer keeps a state per sequence, f32, in the KV pool: at byte kvi_seq.state_unit * KVI_KV_UNIT + kvi_op.state_off. At
 * position 0 of a sequence it counts as zero, whatever stands there. */

typedef enum kvi_op_kind {
    /* out[r] = scale * E[ids[r]]                                                                    out (rows, n_in) f32 */
    KVI_OP_EMBED,
    /* out[r] = concat over j < n_weights of ( norm(in[r]) W_j^T + b_j )                             q, k, v side by side */
    KVI_OP_NORM_LINEAR,
    /* In place on io (rows, (n_heads + 2 n_kv_heads) * D) = q | k | v of one layer, in this order:
     *   q, k, v = q_norm(q), k_norm(k), v_norm(v), each head by itself; with norm_whole q and k each over all of its heads side by side
     *   RoPE of q and k by position + kvi_seq.ahead when rope is present: (a, b) -> (a cos - b sin, b cos + a sin)
     *   q *= 1 + q_growth * log(1 + floor(position / q_growth_ctx)) when q_growth is not 0 (Llama 4, Ministral 3)
     *   every head h = h H when the group rotates
     * k and v are rounded to group.plain and appended at their position, with what the page keeps of q (page.h: n_queries); q stays in io.
     * keys_as_values: v is what k came in as, before its norm; that part of io is not read.
     * queries_only: io (rows, n_heads * D) = q; the layer reads the keys and values of (group, group_layer), which another one appends. */
    KVI_OP_ROPE_APPEND,
    /* out[r, h] = ( sum over visible t of p[t] V[t, h / (n_heads/n_kv_heads)] )  [un-rotated], p = softmax over visible t and the sink of
     *   s[t] = cap( scale * q[r, h] . K[t, .] ), cap(x) = softcap * tanh(x / softcap) where softcap > 0; the sink, where there are sinks
     *   (n_heads), is one more logit sinks[h], which takes its part of the sum and brings no value.
     * visible t: t <= pos(r) when causal, and t > pos(r) - window when window > 0. K and V as stored, all page formats. in is the q|k|v
     * buffer, out (rows, n_heads * D). With `gated`: out[r] *= 1 / (1 + exp(-gate[r])), gate (rows, n_heads * D). */
    KVI_OP_ATTENTION,
    /* io[r] = factor * ( io[r] + scale * post_norm( in[r] W^T + b ) )                               io is the residual
     * factor: out_gain[0] where there is an out_gain, else 1 (Gemma 4 multiplies the sum). Without weights the product is in[r] itself, which
     * may be io where nothing but `fresh` and post_norm is asked for. With `fresh` io counts as zero before. post_norm is over runs of
     * post_group columns, each by itself; 0: over all.
     * With `gated`, what is added is multiplied by 1 / (1 + exp(-gate[r])), gate (rows, 1): shared experts. */
    KVI_OP_LINEAR_ADD,
    /* out[r] = act( n W_0^T + b_0, n W_1^T + b_1 ), n = norm(in[r]). With one weight the second argument stands in `side`, from side_first on. */
    KVI_OP_NORM_GATE_UP,
    /* out[l, v] = cap( scale * norm(in[logit_rows[l]]) . W[v] ) for first_out <= v < first_out + n_out  out (logit rows, vocab) */
    KVI_OP_HEAD,
    /* Chooses experts: s = scale * norm(in[r]) W_0^T + b_0, (n_experts); kvi_route says how; weights[1], when present, is the correction.
     * weights[2], when present, multiplies the weight of each expert in the end.
     * Ties go to the lower id. out (rows, 2 top_k) f32: the ids as whole numbers, best c first, then their weights in the same order. */
    KVI_OP_ROUTE,
    /* io[r] += scale * post_norm( sum over j of w_j ( act( n G^T + b_0, n U^T + b_1 ) D^T + b_2 ) ), n = norm(in[r]); G, U, D and the biases are
     * those of expert e_j; e and w stand in `side` as ROUTE wrote them. weights = {G, U, D}: (n_experts, ffn, hidden) twice, (n_experts,
     * hidden, ffn); biases (n_experts, ffn) twice, (n_experts, hidden). Summed in ROUTE's order. */
    KVI_OP_EXPERTS,
    /* Depthwise causal convolution: out[r, c] = silu( b[c] + sum over j < K of W[c, j] in[t - K + 1 + j, c] ), t the position of row r; W
     * (cols, K). State: the last K - 1 rows of `in`, (K - 1, cols), oldest first. */
    KVI_OP_CONV_STATE,
    /* Gated delta rule (Gated DeltaNet, arXiv 2412.06464), per value head h, which uses key head h / (n_heads / n_kv_heads), with `tiled_heads`
     * key head h % n_kv_heads:
     *   in[r] = q (n_kv_heads, dk) | k (n_kv_heads, dk) | v (n_heads, dv); q, k are divided by sqrt(sum of squares + 1e-6), then q by sqrt(dk)
     *   side[r] = b (n_heads) | a (n_heads); beta = 1 / (1 + exp(-b)), g = -exp(A[h]) log(1 + exp(a + dt[h])), A = weights[0], dt = weights[1];
     *   without A there is no decay, g = 0
     *   S *= exp(g);  S += k (beta (v - S^T k))^T;  o = S^T q        S (dk, dv) is the state, (n_heads, dk, dv) of the layer
     *   out[r, h] = q_norm(o) * silu(gate[r, h])                     gate (rows, n_heads * dv), when `gated` */
    KVI_OP_DELTA,
    /* Latent attention (MLA, arXiv 2405.04434), in a group whose shape has a rope_dim; rank is its head_dim, and it has one KV head.
     * In place on io (rows, rank + rope_dim) = c | k, and on side (rows, n_heads * (key_dim + rope_dim)), of each head its part without RoPE and
     * its part with: c = k_norm(c); RoPE by position + kvi_seq.ahead on k and on the second part of each head; c, k and that part times H when the
     * group rotates. c and k are rounded to group.plain and appended at their position. */
    KVI_OP_LATENT_APPEND,
    /* Every head h has keys W_K c and values W_V c of its own, W_K (key_dim, rank) above W_V (value_dim, rank) in rows h * (key_dim +
     * value_dim) .. of weights[0]; with two weights W_K^T (rank, key_dim) in rows h * rank .. of the first, W_V in rows h * value_dim .. of the
     * second:
     *   out[r, h] = W_V sum over visible t of p[t] c[t],  p = softmax of  s[t] = scale * ( q[r, h] . W_K c[t] + q_rope[r, h] . k[t] )
     * c and k as stored, visible as in ATTENTION without a window. in is the q buffer of LATENT_APPEND, out (rows, n_heads * value_dim). */
    KVI_OP_ATTENTION_LATENT,
    /* out[r] = norm(in[r]) | post_norm(side[r]), side by side */
    KVI_OP_JOIN,
    /* out[0] = in[last row of the step]; in and out may be the same buffer */
    KVI_OP_LAST,
    KVI_OP_KIND_COUNT
} kvi_op_kind;
#define KVI_MAX_CONV 8u /* taps of CONV_STATE */

/* One operation. What a kind does not name in its contract it ignores; zero is the neutral value of every field but scale. */
typedef struct kvi_op {
    kvi_op_kind kind;
    uint32_t layer;      /* of the model; 0 for EMBED and HEAD */
    bool slice_end;      /* a step may be left after it: the engine looks at cancel flag and budget there */
    kvi_buffer in, out;  /* io: out is the buffer updated in place */
    kvi_buffer side;     /* EXPERTS, DELTA, LATENT_APPEND, JOIN, NORM_GATE_UP with one weight */
    uint32_t side_first; /* column of it, NORM_GATE_UP */
    kvi_buffer gate;     /* of what says `gated` */
    bool gated;
    uint32_t n_weights;
    const kvi_weight *weights[3];
    const kvi_weight *biases[3]; /* NULL: none */
    kvi_norm norm;               /* of the input */
    kvi_norm post_norm;          /* of what LINEAR_ADD and EXPERTS add; JOIN: of side */
    uint32_t post_group;         /* LINEAR_ADD: columns of a run of post_norm; 0: all */
    const kvi_weight *out_gain;  /* LINEAR_ADD: (1); NULL: none */
    bool fresh;                  /* LINEAR_ADD: io is written, not added to */
    float scale;                 /* 1: none. ATTENTION: of the scores */
    float softcap;               /* ATTENTION, HEAD; 0: none */
    kvi_activation activation;   /* NORM_GATE_UP, EXPERTS */
    float limit;                 /* of KVI_ACT_SWIGLU_OAI */
    kvi_route route;

    /* attention */
    kvi_norm q_norm, k_norm; /* over a head, or over all with norm_whole */
    kvi_norm v_norm;         /* over a head */
    bool norm_whole, keys_as_values, queries_only;
    float q_growth;          /* 0: none */
    uint32_t q_growth_ctx;   /* positions, of q_growth */
    const kvi_rope *rope;    /* one of kvi_program.ropes; NULL: none */
    const kvi_weight *sinks; /* (n_heads); NULL: none */
    uint32_t n_heads;        /* query heads; DELTA: value heads */
    uint32_t n_kv_heads;     /* DELTA: key heads; attention has them in its group */
    uint32_t group;          /* index into kvi_program.groups */
    uint32_t group_layer;    /* index of this layer inside its group */
    bool causal;             /* ATTENTION; false only in mutation tests */

    uint32_t n_experts;          /* ROUTE, EXPERTS */
    uint32_t expert_width;       /* EXPERTS: ffn of one expert */
    uint32_t key_dim, value_dim; /* DELTA: dk, dv; latent attention: of a head, without its roped part */
    bool tiled_heads;            /* DELTA */
    uint64_t state_off;          /* CONV_STATE, DELTA: bytes from the start of the sequence's state, multiple of 64 */
    uint32_t first_out, n_out;   /* HEAD: range of the vocabulary */
} kvi_op;

/* Operations that look one token further (multi-token prediction), for rows of a step that has just been computed and the token behind each.
 * They stand behind the step's own and run on steps of their own, whose ids are those tokens, at the positions of the rows:
 *   [take, again)  on the step itself: the last hidden state of every row; then the residual's row 0 is that of its last row, and [take, again) on
 *                  a step of one row is of that
 *   [again, layer) instead of it, on the step of one row that [layer, head) ran on last: its result is the hidden state, one position on
 *   [layer, head)  appends keys and values of a layer of its own;  [head, end)  logits, as those of a step */
typedef struct kvi_ahead {
    uint32_t take, again, layer, head, end; /* end 0: the program has none */
} kvi_ahead;

typedef struct kvi_program {
    const kvi_op *ops;
    uint32_t n_ops;
    uint32_t n_step; /* operations of a step, the first ones; behind them `hidden`, and those of `ahead` */
    /* The operation that makes the residual of every row the last hidden state, what the head multiplies: run by itself, behind the last layer of
     * a step without logits. The step's residual is used up. */
    uint32_t hidden;
    kvi_ahead ahead;
    const kvi_buffer_desc *buffers;
    uint32_t n_buffers;
    const kvi_cache_group *groups;
    uint32_t n_groups;
    const kvi_rope *ropes;
    uint32_t n_ropes;
    uint64_t state_bytes; /* of one sequence, all recurrent layers; 0: none */
    kvi_buffer logits;    /* (logit rows, vocab) f32 */
    uint32_t vocab_size;
    uint32_t n_layers;
} kvi_program;

/* "norm_linear"; static. */
const char *kvi_op_name(kvi_op_kind kind);
/* LINEAR_ADD on its own input: it takes no memory. */
static inline bool kvi_op_in_place(const kvi_op *op)
{
    return op->kind == KVI_OP_LINEAR_ADD && op->n_weights == 0 && op->in == op->out;
}
/* First operation after [first, first + slice) that begins a new slice: one past the next slice_end, or n_ops. */
uint32_t kvi_program_slice(const kvi_program *program, uint32_t first);
/* INTERNAL unless [first, first + n) is a range of the program. */
kvrt_status kvi_program_range(const kvi_program *program, uint32_t first, uint32_t n, kvrt_error *error);

#endif
