/* forward.c - one transformer for every family and every backend. It reads top to bottom; each line has its shape.
 *   R rows of the step (tokens), L rows that need logits, H heads, K KV heads, D head_dim */
#include "forward.h"
#include "rope.h"
#include "../base/mem.h"

#include <math.h>
#include <string.h>

enum { X, QKV, ATT, FFN, LOGITS }; /* buffers */

static bool disabled(const kvi_record_options *options, const char *part)
{
    for (const char *at = options->disable; at && *at;) {
        size_t n = strcspn(at, ",");
        if (n == strlen(part) && memcmp(at, part, n) == 0) return true;
        at += n + (at[n] == ',');
    }
    return false;
}

/* Layers that see everything share one group of pages; windowed layers share another. Returns the group of each layer in op.group. */
static void make_groups(const kvi_model_config *c, const kvi_record_options *o, kvi_model_program *p,
                        uint32_t group_of[2])
{
    uint32_t n_windowed = 0, n_groups = 0;
    for (uint32_t i = 0; i < c->n_layers; i++) n_windowed += c->windowed[i];
    uint32_t counts[2] = {c->n_layers - n_windowed, n_windowed};
    for (uint32_t windowed = 0; windowed < 2; windowed++) {
        if (!counts[windowed]) continue;
        group_of[windowed] = n_groups;
        p->groups[n_groups++] = (kvi_cache_group){.shape = {counts[windowed], c->n_kv_heads, c->head_dim},
                                                  .window = windowed && !disabled(o, "window") ? c->sliding_window : 0,
                                                  .rotate = o->rotate,
                                                  .plain = o->plain};
    }
    p->program.groups = p->groups;
    p->program.n_groups = n_groups;
}

static void record(const kvi_model_config *c, const kvi_model_weights *weights, const kvi_record_options *o,
                   kvi_model_program *p)
{
    static const kvi_layer_weights no_layer;
    static const kvi_model_weights no_weights;
    const kvi_model_weights *w = weights ? weights : &no_weights;
    uint32_t group_of[2] = {0, 0}, next_in_group[2] = {0, 0};
    make_groups(c, o, p, group_of);
    const float eps = (float)c->rms_eps;
    const bool bias = !disabled(o, "bias"), qk_norm = !disabled(o, "qk_norm");
    const kvi_rope *rope = disabled(o, "rope") ? NULL : &p->rope;
    kvi_op *op = p->ops;

    p->buffers[X] = (kvi_buffer_desc){"x", c->hidden_size, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL};
    p->buffers[QKV] =
        (kvi_buffer_desc){"qkv", (c->n_heads + 2 * c->n_kv_heads) * c->head_dim, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND};
    p->buffers[ATT] = (kvi_buffer_desc){"attention", c->n_heads * c->head_dim, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND};
    p->buffers[FFN] = (kvi_buffer_desc){"ffn", c->ffn_size, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND};
    p->buffers[LOGITS] = (kvi_buffer_desc){"logits", c->vocab_size, KVI_ROWS_LOGIT, KVI_PRECISION_RESIDUAL};

    /* x (R, hidden) = E[ids] */
    *op++ = (kvi_op){.kind = KVI_OP_EMBED, .out = X, .n_weights = 1, .weights = {w->embed}, .scale = 1.0f};

    for (uint32_t i = 0; i < c->n_layers; i++) {
        const kvi_layer_weights *l = weights ? &weights->layers[i] : &no_layer;
        const uint32_t group = group_of[c->windowed[i]], group_layer = next_in_group[c->windowed[i]]++;

        /* qkv (R, (H + 2K) D) = norm(x) [Wq | Wk | Wv]^T + b */
        *op++ = (kvi_op){.kind = KVI_OP_NORM_LINEAR,
                         .layer = i,
                         .in = X,
                         .out = QKV,
                         .gain = l->input_norm,
                         .eps = eps,
                         .n_weights = 3,
                         .weights = {l->q, l->k, l->v},
                         .biases = {bias ? l->q_bias : NULL, bias ? l->k_bias : NULL, bias ? l->v_bias : NULL}};
        /* q (R, H, D), k (R, K, D): norm, RoPE; q, k, v rotated; k, v (R, K, D) into the pages of this layer */
        *op++ = (kvi_op){.kind = KVI_OP_ROPE_APPEND,
                         .layer = i,
                         .out = QKV,
                         .in = QKV,
                         .q_gain = qk_norm ? l->q_norm : NULL,
                         .k_gain = qk_norm ? l->k_norm : NULL,
                         .eps = eps,
                         .rope = rope,
                         .n_heads = c->n_heads,
                         .group = group,
                         .group_layer = group_layer};
        /* attention (R, H, D) = softmax(q K^T / sqrt(D)) V over the pages */
        *op++ = (kvi_op){.kind = KVI_OP_ATTENTION,
                         .layer = i,
                         .in = QKV,
                         .out = ATT,
                         .scale = (float)(1.0 / sqrt(c->head_dim)),
                         .n_heads = c->n_heads,
                         .group = group,
                         .group_layer = group_layer,
                         .causal = !disabled(o, "mask")};
        /* x (R, hidden) += attention Wo^T + b */
        *op++ = (kvi_op){.kind = KVI_OP_LINEAR_ADD,
                         .layer = i,
                         .in = ATT,
                         .out = X,
                         .n_weights = 1,
                         .weights = {l->o},
                         .biases = {bias ? l->o_bias : NULL}};
        /* ffn (R, ffn) = silu(norm(x) Wgate^T) * (norm(x) Wup^T) */
        *op++ = (kvi_op){.kind = KVI_OP_NORM_GATE_UP,
                         .layer = i,
                         .in = X,
                         .out = FFN,
                         .gain = l->post_norm,
                         .eps = eps,
                         .n_weights = 2,
                         .weights = {l->gate, l->up}};
        /* x (R, hidden) += ffn Wdown^T */
        *op++ =
            (kvi_op){.kind = KVI_OP_LINEAR_ADD, .layer = i, .in = FFN, .out = X, .n_weights = 1, .weights = {l->down}};
    }

    /* logits (L, vocab) = norm(x) Whead^T, in parts of the vocabulary */
    for (uint32_t part = 0; part < o->head_parts; part++) {
        uint32_t first = (uint32_t)((uint64_t)c->vocab_size * part / o->head_parts);
        uint32_t end = (uint32_t)((uint64_t)c->vocab_size * (part + 1) / o->head_parts);
        *op++ = (kvi_op){.kind = KVI_OP_HEAD,
                         .in = X,
                         .out = LOGITS,
                         .gain = w->norm,
                         .eps = eps,
                         .n_weights = 1,
                         .weights = {w->head},
                         .first_out = first,
                         .n_out = end - first};
    }
    p->program.ops = p->ops;
    p->program.n_ops = (uint32_t)(op - p->ops);
    p->program.buffers = p->buffers;
    p->program.n_buffers = 5;
    p->program.logits = LOGITS;
    p->program.vocab_size = c->vocab_size;
    p->program.n_layers = c->n_layers;
}

kvrt_status kvi_model_record(const kvi_model_config *config, const kvi_model_weights *weights,
                             const kvi_record_options *options, kvi_model_program *out, kvrt_error *error)
{
    memset(out, 0, sizeof *out);
    size_t n_ops = 1 + (size_t)config->n_layers * 6 + options->head_parts;
    out->ops = kvi_mem_zalloc(n_ops, sizeof *out->ops);
    out->inv_freq = kvi_mem_zalloc(config->head_dim / 2, sizeof *out->inv_freq);
    if (!out->ops || !out->inv_freq) {
        kvi_model_program_free(out);
        return kvi_error_nomem(error, n_ops * sizeof *out->ops, "program");
    }
    kvi_rope_frequencies(config, out->inv_freq);
    out->rope = (kvi_rope){.n_dims = config->head_dim, .inv_freq = out->inv_freq, .magnitude = 1.0f};
    record(config, weights, options, out);
    return KVRT_OK;
}

void kvi_model_program_free(kvi_model_program *program)
{
    kvi_mem_free(program->ops);
    kvi_mem_free(program->inv_freq);
    program->ops = NULL;
    program->inv_freq = NULL;
}
