/* record_attention.c - layers that attend to the cache. */
#include "recorder.h"

#include <math.h>

/* The cache group of layers with this kind of memory; *layer is the place of the next one in it. */
static uint32_t cache_group(kvi_recorder *r, const kvi_attention *a, uint32_t window, uint32_t *layer)
{
    kvi_program *p = &r->out->program;
    uint32_t i = 0;
    for (; i < p->n_groups; i++) {
        const kvi_cache_group *g = &r->out->groups[i];
        if (g->window == window && g->shape.n_kv_heads == a->n_kv_heads && g->shape.head_dim == a->head_dim) break;
    }
    kvi_cache_group *group = &r->out->groups[i];
    if (i == p->n_groups) {
        *group = (kvi_cache_group){.shape = {0, a->n_kv_heads, a->head_dim, 0},
                                   .window = window,
                                   .rotate = r->o->rotate,
                                   .plain = r->o->plain};
        if (r->o->keep_queries) group->n_queries = kvi_kv_query_rows(a->head_dim, a->n_heads / a->n_kv_heads);
        p->n_groups++;
    }
    *layer = group->shape.n_layers++;
    return i;
}

static const kvi_rope *rope_of(const kvi_recorder *r, const kvi_attention *a)
{
    const bool other = (a->rope == KVI_NO_ROPE && kvi_record_without(r, "nope")) ||
                       (a->rope != KVI_NO_ROPE && kvi_record_without(r, "local_rope"));
    if (kvi_record_without(r, "rope") || (a->rope == KVI_NO_ROPE && !other)) return NULL;
    return &r->out->ropes[other ? 0 : a->rope];
}

/* Norm of the values. Where they are made of keys, a mutation gives them the keys' gains. */
static kvi_norm value_norm(const kvi_recorder *r, const kvi_attention *a)
{
    if (a->keys_as_values && kvi_record_without(r, "k_eq_v")) return kvi_record_norm(r, r->w->k_norm);
    if (!r->c->value_norm || kvi_record_without(r, "value_norm")) return (kvi_norm){0};
    return (kvi_norm){.kind = KVI_NORM_BARE, .eps = (float)r->c->rms_eps};
}

/* Where the keys and values of the layer stand: its own, or those that an earlier layer appends. */
static void place_layer(kvi_recorder *r, const kvi_attention *a)
{
    const uint32_t source = r->c->layers[r->layer].kv_of;
    uint32_t place = source && !kvi_record_without(r, "shared_kv") ? r->place[source - 1] : 0;
    uint32_t group = source ? r->group[source - 1] : 0;
    if (!source) group = cache_group(r, a, kvi_record_without(r, "window") ? 0 : a->window, &place);
    r->group[r->layer] = (uint16_t)group;
    r->place[r->layer] = (uint16_t)place;
}

void kvi_record_attention(kvi_recorder *r)
{
    const kvi_model_config *c = r->c;
    const kvi_layer_weights *l = r->w;
    const kvi_attention *a = kvi_attention_of(c, r->layer);
    const bool bias = !kvi_record_without(r, "bias"), qk_norm = c->qk_norm && !kvi_record_without(r, "qk_norm"),
               gated = c->attention_gate && !kvi_record_without(r, "attention_gate"),
               scaled = c->score_scale != 0.0f && !kvi_record_without(r, "score_scale"),
               shares = c->layers[r->layer].kv_of != 0;
    const kvi_rope *rope = rope_of(r, a);
    const uint32_t h = a->n_heads, k = shares ? 0 : a->n_kv_heads, d = a->head_dim;
    const kvi_buffer qkv = kvi_record_operand(r, "qkv", (h + 2 * k) * d),
                     att = kvi_record_operand(r, "attention", h * d);
    kvi_buffer gate = 0;
    place_layer(r, a);
    const uint32_t group = r->group[r->layer], group_layer = r->place[r->layer];

    /* qkv (R, (H + 2K) D) = norm(x) [Wq | Wk | Wv]^T + b; without Wv where keys are values, Wq alone where another layer has the keys */
    kvi_record_op(r, (kvi_op){.kind = KVI_OP_NORM_LINEAR,
                              .in = r->x,
                              .out = qkv,
                              .norm = kvi_record_norm_before(r, l->input_norm),
                              .n_weights = shares              ? 1
                                           : a->keys_as_values ? 2
                                                               : 3,
                              .weights = {l->q, l->k, l->v},
                              .biases = {bias ? l->q_bias : NULL, bias ? l->k_bias : NULL, bias ? l->v_bias : NULL}});
    /* gate (R, H D) = norm(x) Wgate^T + b */
    if (gated) {
        gate = kvi_record_operand(r, "attention_gate", h * d);
        kvi_record_op(r, (kvi_op){.kind = KVI_OP_NORM_LINEAR,
                                  .in = r->x,
                                  .out = gate,
                                  .norm = kvi_record_norm_before(r, l->input_norm),
                                  .n_weights = 1,
                                  .weights = {l->attention_gate},
                                  .biases = {bias ? l->attention_gate_bias : NULL}});
    }
    /* q (R, H, D), k (R, K, D): norm, RoPE; q, k, v rotated; k, v (R, K, D) into the pages of this layer */
    kvi_record_op(r, (kvi_op){.kind = KVI_OP_ROPE_APPEND,
                              .in = qkv,
                              .out = qkv,
                              .q_norm = qk_norm ? kvi_record_norm(r, l->q_norm) : (kvi_norm){0},
                              .k_norm = qk_norm ? kvi_record_norm(r, l->k_norm) : (kvi_norm){0},
                              .v_norm = value_norm(r, a),
                              .keys_as_values = a->keys_as_values,
                              .queries_only = shares,
                              .norm_whole = qk_norm && c->qk_norm == KVI_QK_NORM_WIDTH,
                              .q_growth = kvi_record_without(r, "q_growth") ? 0.0f : c->q_growth,
                              .q_growth_ctx = c->q_growth_ctx,
                              .rope = rope,
                              .n_heads = h,
                              .group = group,
                              .group_layer = group_layer});
    /* attention (R, H, D) = softmax(q K^T / sqrt(D)) V over the pages */
    kvi_record_op(r, (kvi_op){.kind = KVI_OP_ATTENTION,
                              .in = qkv,
                              .out = att,
                              .scale = scaled ? c->score_scale : (float)(1.0 / sqrt(d)),
                              .softcap = kvi_record_without(r, "softcap") ? 0.0f : c->score_softcap,
                              .sinks = kvi_record_without(r, "sinks") ? NULL : l->sinks,
                              .gated = gated,
                              .gate = gate,
                              .n_heads = h,
                              .group = group,
                              .group_layer = group_layer,
                              .causal = !kvi_record_without(r, "mask")});
    /* x (R, hidden) += attention Wo^T + b */
    kvi_record_op(r, (kvi_op){.kind = KVI_OP_LINEAR_ADD,
                              .in = att,
                              .out = r->x,
                              .n_weights = 1,
                              .weights = {l->o},
                              .biases = {bias ? l->o_bias : NULL},
                              .post_norm = kvi_record_norm_after(r, l->mixer_post_norm),
                              .scale = kvi_record_residual_scale(r)});
}
