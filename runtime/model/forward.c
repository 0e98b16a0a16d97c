/* forward.c - one transformer for every family and every backend. It reads top to bottom; each line has its shape.
 * A layer is a mixer (attention, ...) and a feed-forward part; both are told by kind, one function each.
 *   R rows of the step (tokens), L rows that need logits, H heads, K KV heads, D head_dim */
#include "forward.h"
#include "rope.h"
#include "../base/mem.h"

#include <math.h>
#include <string.h>

static bool disabled(const kvi_record_options *options, const char *part)
{
    for (const char *at = options->disable; at && *at;) {
        size_t n = strcspn(at, ",");
        if (n == strlen(part) && memcmp(at, part, n) == 0) return true;
        at += n + (at[n] == ',');
    }
    return false;
}

/* ---------------------------------------------------------------------------------------------------- recorder --- */
/* Takes down the program. The first pass only counts operations (ops is NULL then). */
typedef struct recorder {
    const kvi_model_config *c;
    const kvi_model_weights *weights; /* NULL: handles stay empty */
    const kvi_record_options *o;
    kvi_model_program *out;
    kvi_op *ops;
    uint32_t n_ops;
    uint32_t layer;
    const kvi_layer_weights *w; /* of that layer */
    kvi_buffer x;               /* residual (R, hidden) */
} recorder;

static void add(recorder *r, kvi_op op)
{
    op.layer = r->layer;
    if (op.scale == 0) op.scale = 1.0f;
    if (r->ops) r->ops[r->n_ops] = op;
    r->n_ops++;
}

/* A layer, or a part of the head, ends here. */
static void end_slice(recorder *r)
{
    if (r->ops) r->ops[r->n_ops - 1].slice_end = true;
}

/* The buffer of that name and width; layers that need the same share it. */
static kvi_buffer buffer(recorder *r, const char *name, uint32_t cols, kvi_rows rows, kvi_precision precision)
{
    kvi_program *p = &r->out->program;
    uint32_t i = 0;
    while (i < p->n_buffers && (strcmp(r->out->buffers[i].name, name) != 0 || r->out->buffers[i].cols != cols)) i++;
    if (i == p->n_buffers) r->out->buffers[p->n_buffers++] = (kvi_buffer_desc){name, cols, rows, precision};
    return (kvi_buffer)i;
}
static kvi_buffer operand(recorder *r, const char *name, uint32_t cols)
{
    return buffer(r, name, cols, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND);
}

/* The cache group of layers with this kind of memory; *layer is the place of the next one in it. */
static uint32_t cache_group(recorder *r, uint32_t window, uint32_t n_kv_heads, uint32_t head_dim, uint32_t *layer)
{
    kvi_program *p = &r->out->program;
    uint32_t i = 0;
    for (; i < p->n_groups; i++) {
        const kvi_cache_group *g = &r->out->groups[i];
        if (g->window == window && g->shape.n_kv_heads == n_kv_heads && g->shape.head_dim == head_dim) break;
    }
    kvi_cache_group *group = &r->out->groups[i];
    if (i == p->n_groups) {
        *group = (kvi_cache_group){
            .shape = {0, n_kv_heads, head_dim}, .window = window, .rotate = r->o->rotate, .plain = r->o->plain};
        p->n_groups++;
    }
    *layer = group->shape.n_layers++;
    return i;
}

static kvi_norm norm(const recorder *r, const kvi_weight *gain)
{
    return (kvi_norm){.kind = KVI_NORM_GAIN, .gain = gain, .eps = (float)r->c->rms_eps};
}

/* ------------------------------------------------------------------------------------------------------ layers --- */
static void record_attention(recorder *r, bool windowed)
{
    const kvi_model_config *c = r->c;
    const kvi_layer_weights *l = r->w;
    const bool bias = !disabled(r->o, "bias"), qk_norm = c->qk_norm && !disabled(r->o, "qk_norm");
    const uint32_t h = c->n_heads, k = c->n_kv_heads, d = c->head_dim;
    const kvi_buffer qkv = operand(r, "qkv", (h + 2 * k) * d), att = operand(r, "attention", h * d);
    uint32_t group_layer;
    const uint32_t group =
        cache_group(r, windowed && !disabled(r->o, "window") ? c->sliding_window : 0, k, d, &group_layer);

    /* qkv (R, (H + 2K) D) = norm(x) [Wq | Wk | Wv]^T + b */
    add(r, (kvi_op){.kind = KVI_OP_NORM_LINEAR,
                    .in = r->x,
                    .out = qkv,
                    .norm = norm(r, l->input_norm),
                    .n_weights = 3,
                    .weights = {l->q, l->k, l->v},
                    .biases = {bias ? l->q_bias : NULL, bias ? l->k_bias : NULL, bias ? l->v_bias : NULL}});
    /* q (R, H, D), k (R, K, D): norm, RoPE; q, k, v rotated; k, v (R, K, D) into the pages of this layer */
    add(r, (kvi_op){.kind = KVI_OP_ROPE_APPEND,
                    .in = qkv,
                    .out = qkv,
                    .q_norm = qk_norm ? norm(r, l->q_norm) : (kvi_norm){0},
                    .k_norm = qk_norm ? norm(r, l->k_norm) : (kvi_norm){0},
                    .rope = disabled(r->o, "rope") ? NULL : &r->out->ropes[0],
                    .n_heads = h,
                    .group = group,
                    .group_layer = group_layer});
    /* attention (R, H, D) = softmax(q K^T / sqrt(D)) V over the pages */
    add(r, (kvi_op){.kind = KVI_OP_ATTENTION,
                    .in = qkv,
                    .out = att,
                    .scale = (float)(1.0 / sqrt(d)),
                    .n_heads = h,
                    .group = group,
                    .group_layer = group_layer,
                    .causal = !disabled(r->o, "mask")});
    /* x (R, hidden) += attention Wo^T + b */
    add(r, (kvi_op){.kind = KVI_OP_LINEAR_ADD,
                    .in = att,
                    .out = r->x,
                    .n_weights = 1,
                    .weights = {l->o},
                    .biases = {bias ? l->o_bias : NULL}});
}

static void record_dense(recorder *r)
{
    const kvi_layer_weights *l = r->w;
    const kvi_buffer ffn = operand(r, "ffn", r->c->ffn_size);
    /* ffn (R, ffn) = silu(norm(x) Wgate^T) * (norm(x) Wup^T) */
    add(r, (kvi_op){.kind = KVI_OP_NORM_GATE_UP,
                    .in = r->x,
                    .out = ffn,
                    .norm = norm(r, l->post_norm),
                    .n_weights = 2,
                    .weights = {l->gate, l->up}});
    /* x (R, hidden) += ffn Wdown^T */
    add(r, (kvi_op){.kind = KVI_OP_LINEAR_ADD, .in = ffn, .out = r->x, .n_weights = 1, .weights = {l->down}});
}

/* logits (L, vocab) = norm(x) Whead^T, in parts of the vocabulary */
static void record_head(recorder *r, const kvi_model_weights *w)
{
    const kvi_model_config *c = r->c;
    const kvi_buffer logits = buffer(r, "logits", c->vocab_size, KVI_ROWS_LOGIT, KVI_PRECISION_RESIDUAL);
    for (uint32_t part = 0; part < r->o->head_parts; part++) {
        const uint32_t first = (uint32_t)((uint64_t)c->vocab_size * part / r->o->head_parts);
        const uint32_t end = (uint32_t)((uint64_t)c->vocab_size * (part + 1) / r->o->head_parts);
        add(r, (kvi_op){.kind = KVI_OP_HEAD,
                        .in = r->x,
                        .out = logits,
                        .norm = norm(r, w->norm),
                        .n_weights = 1,
                        .weights = {w->head},
                        .first_out = first,
                        .n_out = end - first});
        end_slice(r);
    }
    r->out->program.logits = logits;
}

static void record(recorder *r)
{
    static const kvi_layer_weights no_layer;
    static const kvi_model_weights no_weights;
    const kvi_model_weights *w = r->weights ? r->weights : &no_weights;
    kvi_program *p = &r->out->program;
    *p = (kvi_program){.n_ropes = 1, .vocab_size = r->c->vocab_size, .n_layers = r->c->n_layers};
    r->n_ops = 0;
    r->x = buffer(r, "x", r->c->hidden_size, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);

    /* x (R, hidden) = E[ids] */
    add(r, (kvi_op){.kind = KVI_OP_EMBED, .in = r->x, .out = r->x, .n_weights = 1, .weights = {w->embed}});
    for (r->layer = 0; r->layer < r->c->n_layers; r->layer++) {
        r->w = r->weights ? &r->weights->layers[r->layer] : &no_layer;
        record_attention(r, r->c->mixer[r->layer] == KVI_MIXER_WINDOW);
        record_dense(r);
        end_slice(r);
    }
    r->layer = 0;
    record_head(r, w);

    p->ops = r->ops;
    p->n_ops = r->n_ops;
    p->buffers = r->out->buffers;
    p->groups = r->out->groups;
    p->ropes = r->out->ropes;
}

kvrt_status kvi_model_record(const kvi_model_config *config, const kvi_model_weights *weights,
                             const kvi_record_options *options, kvi_model_program *out, kvrt_error *error)
{
    memset(out, 0, sizeof *out);
    recorder r = {.c = config, .weights = weights, .o = options, .out = out};
    out->inv_freq = kvi_mem_zalloc(config->head_dim / 2, sizeof *out->inv_freq);
    record(&r); /* counts */
    r.ops = out->ops = kvi_mem_zalloc(r.n_ops, sizeof *out->ops);
    if (!out->ops || !out->inv_freq) {
        const uint64_t bytes = r.n_ops * sizeof *out->ops;
        kvi_model_program_free(out);
        return kvi_error_nomem(error, bytes, "program");
    }
    kvi_rope_frequencies(config, out->inv_freq);
    out->ropes[0] = (kvi_rope){.n_dims = config->head_dim,
                               .interleaved = config->rope_interleaved,
                               .inv_freq = out->inv_freq,
                               .magnitude = 1.0f};
    memset(out->groups, 0, sizeof out->groups);
    record(&r);
    for (uint32_t g = 0; g < out->program.n_groups; g++) kvi_group_measure(&out->groups[g]);
    return KVRT_OK;
}

void kvi_model_program_free(kvi_model_program *program)
{
    kvi_mem_free(program->ops);
    kvi_mem_free(program->inv_freq);
    program->ops = NULL;
    program->inv_freq = NULL;
}
