/* record_ffn.c - feed-forward parts: dense, and mixtures of experts. */
#include "recorder.h"

#include <math.h>

/* ffn (R, width) = act(norm(x) Wgate^T + b) * (norm(x) Wup^T + b) */
static void record_gate_up(kvi_recorder *r, const kvi_mlp_weights *w, kvi_buffer ffn)
{
    const bool bias = !kvi_record_without(r, "bias");
    kvi_record_op(r, (kvi_op){.kind = KVI_OP_NORM_GATE_UP,
                              .in = r->x,
                              .out = ffn,
                              .norm = kvi_record_norm_before(r, r->w->post_norm),
                              .n_weights = 2,
                              .weights = {w->gate, w->up},
                              .biases = {bias ? w->gate_bias : NULL, bias ? w->up_bias : NULL},
                              .activation = kvi_record_without(r, "activation") ? KVI_ACT_SILU : r->c->activation,
                              .limit = r->c->activation_limit});
}

/* x (R, hidden) += ffn Wdown^T + b, times sigmoid(gate) where there is one */
static void record_down(kvi_recorder *r, const kvi_mlp_weights *w, kvi_buffer ffn, const kvi_buffer *gate)
{
    kvi_record_op(r, (kvi_op){.kind = KVI_OP_LINEAR_ADD,
                              .in = ffn,
                              .out = r->x,
                              .n_weights = 1,
                              .weights = {w->down},
                              .biases = {kvi_record_without(r, "bias") ? NULL : w->down_bias},
                              .post_norm = kvi_record_norm_after(r, r->w->ffn_post_norm),
                              .gated = gate != NULL,
                              .gate = gate ? *gate : 0,
                              .out_gain = r->c->layer_input ? NULL : kvi_record_layer_scalar(r),
                              .scale = kvi_record_residual_scale(r)});
}

void kvi_record_dense(kvi_recorder *r)
{
    const kvi_buffer ffn = kvi_record_operand(r, "ffn", kvi_ffn_size(r->c, r->layer));
    record_gate_up(r, &r->w->mlp, ffn);
    record_down(r, &r->w->mlp, ffn, NULL);
}

/* ------------------------------------------------------------------------------------------------------ experts --- */
/* Gemma 4: both (R, hidden) = norm(dense(norm x)) + norm(experts(norm x)), x = scalar (x + norm(both)). The router has a norm of its own, whose
 * result is divided by sqrt(hidden). */
static void record_beside(kvi_recorder *r)
{
    const kvi_model_config *c = r->c;
    const kvi_experts *e = &c->experts;
    const kvi_layer_weights *l = r->w;
    const kvi_buffer ffn = kvi_record_operand(r, "ffn", kvi_ffn_size(c, r->layer)),
                     both = kvi_record_buffer(r, "both", c->hidden_size, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL),
                     chosen =
                         kvi_record_buffer(r, "chosen", 2 * e->route.top_k, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
    kvi_route route = e->route;
    if (kvi_record_without(r, "renormalize")) route.renormalize = false;
    record_gate_up(r, &l->mlp, ffn);
    kvi_record_op(r, (kvi_op){.kind = KVI_OP_LINEAR_ADD,
                              .in = ffn,
                              .out = both,
                              .n_weights = 1,
                              .weights = {l->mlp.down},
                              .fresh = true,
                              .post_norm = kvi_record_norm_after(r, l->dense_post_norm)});
    kvi_record_op(r,
                  (kvi_op){.kind = KVI_OP_ROUTE,
                           .in = r->x,
                           .out = chosen,
                           .norm = kvi_record_norm(r, l->router_norm),
                           .n_weights = 3,
                           .weights = {l->router, NULL, kvi_record_without(r, "expert_scale") ? NULL : l->expert_scale},
                           .scale = (float)(1 / sqrt(c->hidden_size)),
                           .n_experts = e->n_experts,
                           .route = route});
    if (!kvi_record_without(r, "experts"))
        kvi_record_op(r, (kvi_op){.kind = KVI_OP_EXPERTS,
                                  .in = r->x,
                                  .out = both,
                                  .side = chosen,
                                  .norm = kvi_record_norm_before(r, l->experts_norm),
                                  .n_weights = 3,
                                  .weights = {l->experts.gate, l->experts.up, l->experts.down},
                                  .post_norm = kvi_record_norm_after(r, l->experts_post_norm),
                                  .activation = c->activation,
                                  .n_experts = e->n_experts,
                                  .expert_width = e->width,
                                  .route = route});
    kvi_record_op(r, (kvi_op){.kind = KVI_OP_LINEAR_ADD,
                              .in = both,
                              .out = r->x,
                              .post_norm = kvi_record_norm_after(r, l->ffn_post_norm),
                              .out_gain = c->layer_input ? NULL : kvi_record_layer_scalar(r)});
}

/* The shared experts are computed from x before the routed ones add to it, and added behind them. */
void kvi_record_routed(kvi_recorder *r)
{
    if (r->c->experts.beside_dense) {
        record_beside(r);
        return;
    }
    const kvi_model_config *c = r->c;
    const kvi_experts *e = &c->experts;
    const kvi_layer_weights *l = r->w;
    const bool bias = !kvi_record_without(r, "bias");
    const bool shared = e->shared_width && !kvi_record_without(r, "shared_expert"),
               shared_gate = e->shared_gate && !kvi_record_without(r, "shared_gate");
    const kvi_norm norm = kvi_record_norm_before(r, l->post_norm);
    const kvi_buffer chosen =
        kvi_record_buffer(r, "chosen", 2 * e->route.top_k, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
    kvi_route route = e->route;
    if (kvi_record_without(r, "renormalize")) route.renormalize = false;
    if (kvi_record_without(r, "route_scale")) route.scale = 1;
    if (kvi_record_without(r, "groups")) route.n_groups = 0;
    if (kvi_record_without(r, "softmax_chosen")) route.softmax_chosen = false;
    kvi_buffer gate = 0, ffn = 0;
    /* chosen (R, 2 top_k): ids and weights from norm(x) Wrouter^T + b */
    kvi_record_op(r, (kvi_op){.kind = KVI_OP_ROUTE,
                              .in = r->x,
                              .out = chosen,
                              .norm = norm,
                              .n_weights = 2,
                              .weights = {l->router, kvi_record_without(r, "correction") ? NULL : l->correction},
                              .biases = {bias ? l->router_bias : NULL},
                              .n_experts = e->n_experts,
                              .route = route});
    if (shared) record_gate_up(r, &l->shared, ffn = kvi_record_operand(r, "shared_ffn", e->shared_width));
    /* shared_gate (R, 1) = norm(x) w^T */
    if (shared && shared_gate)
        kvi_record_op(r, (kvi_op){.kind = KVI_OP_NORM_LINEAR,
                                  .in = r->x,
                                  .out = gate = kvi_record_operand(r, "shared_gate", 1),
                                  .norm = norm,
                                  .n_weights = 1,
                                  .weights = {l->shared_gate}});
    /* x (R, hidden) += sum over the chosen of w (act(n G^T) * (n U^T)) D^T, n = norm(x) */
    kvi_record_op(r, (kvi_op){.kind = KVI_OP_EXPERTS,
                              .in = r->x,
                              .out = r->x,
                              .side = chosen,
                              .norm = norm,
                              .n_weights = 3,
                              .weights = {l->experts.gate, l->experts.up, l->experts.down},
                              .biases = {bias ? l->experts.gate_bias : NULL, bias ? l->experts.up_bias : NULL,
                                         bias ? l->experts.down_bias : NULL},
                              .post_norm = kvi_record_norm_after(r, l->ffn_post_norm),
                              .activation = c->activation,
                              .limit = kvi_record_without(r, "clamp") ? 1e30f : c->activation_limit,
                              .scale = kvi_record_residual_scale(r),
                              .n_experts = e->n_experts,
                              .expert_width = e->width,
                              .route = route});
    if (shared) record_down(r, &l->shared, ffn, shared_gate ? &gate : NULL);
}
