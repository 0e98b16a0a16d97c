/* record_latent.c - latent attention (MLA). H heads, a latent of C and a roped key of P per token, N and V of a head without RoPE. */
#include "recorder.h"

#define LATENT_EPS 1e-6f /* of the norms of the latents, whatever rms_norm_eps is */

static kvi_norm latent_norm(const kvi_weight *gain)
{
    return (kvi_norm){.kind = KVI_NORM_GAIN, .gain = gain, .eps = LATENT_EPS};
}

static uint32_t latent_group(kvi_recorder *r, uint32_t *layer)
{
    kvi_program *p = &r->out->program;
    const kvi_latent *c = &r->c->latent;
    if (p->n_groups == 0)
        r->out->groups[p->n_groups++] =
            (kvi_cache_group){.shape = {0, 1, c->rank, c->rope_dim}, .rotate = r->o->rotate, .plain = r->o->plain};
    *layer = r->out->groups[0].shape.n_layers++;
    return 0;
}

void kvi_record_latent(kvi_recorder *r)
{
    const kvi_model_config *m = r->c;
    const kvi_latent *c = &m->latent;
    const kvi_layer_weights *l = r->w;
    const uint32_t h = m->attention[0].n_heads;
    const bool bias = !kvi_record_without(r, "bias"), normed = !kvi_record_without(r, "latent_norm");
    const kvi_rope *rope = kvi_record_without(r, "rope") ? NULL : &r->out->ropes[0];
    const kvi_norm norm = kvi_record_norm_before(r, l->input_norm);
    const kvi_buffer q = kvi_record_operand(r, "q", h * (c->key_dim + c->rope_dim)),
                     kv = kvi_record_operand(r, "latent", c->rank + c->rope_dim),
                     att = kvi_record_operand(r, "attention", h * c->value_dim);
    uint32_t group_layer;
    const uint32_t group = latent_group(r, &group_layer);

    /* q (R, H, N + P) = norm(x) Wq^T, or norm(norm(x) Wa^T + b) Wb^T over a smaller width */
    if (c->q_rank) {
        const kvi_buffer small = kvi_record_operand(r, "q_latent", c->q_rank);
        kvi_record_op(r, (kvi_op){.kind = KVI_OP_NORM_LINEAR,
                                  .in = r->x,
                                  .out = small,
                                  .norm = norm,
                                  .n_weights = 1,
                                  .weights = {l->q_a},
                                  .biases = {bias ? l->q_a_bias : NULL}});
        kvi_record_op(r, (kvi_op){.kind = KVI_OP_NORM_LINEAR,
                                  .in = small,
                                  .out = q,
                                  .norm = normed ? latent_norm(l->q_a_norm) : (kvi_norm){0},
                                  .n_weights = 1,
                                  .weights = {l->q}});
    } else
        kvi_record_op(
            r, (kvi_op){
                   .kind = KVI_OP_NORM_LINEAR, .in = r->x, .out = q, .norm = norm, .n_weights = 1, .weights = {l->q}});
    /* latent (R, C + P) = norm(x) Wa^T + b */
    kvi_record_op(r, (kvi_op){.kind = KVI_OP_NORM_LINEAR,
                              .in = r->x,
                              .out = kv,
                              .norm = norm,
                              .n_weights = 1,
                              .weights = {l->kv_a},
                              .biases = {bias ? l->kv_a_bias : NULL}});
    /* norm of the latent (R, C); RoPE on the key (R, P) and on P of each head of q; both into the pages of this layer */
    kvi_record_op(r, (kvi_op){.kind = KVI_OP_LATENT_APPEND,
                              .in = kv,
                              .out = kv,
                              .side = q,
                              .k_norm = normed ? latent_norm(l->kv_a_norm) : (kvi_norm){0},
                              .rope = rope,
                              .n_heads = h,
                              .key_dim = c->key_dim,
                              .value_dim = c->value_dim,
                              .group = group,
                              .group_layer = group_layer});
    /* attention (R, H, V): every head expands keys and values from the latents, Wkv (H (N + V), C), or Wk (H C, N) and Wv (H V, C) */
    kvi_record_op(r, (kvi_op){.kind = KVI_OP_ATTENTION_LATENT,
                              .in = q,
                              .out = att,
                              .n_weights = c->split ? 2 : 1,
                              .weights = {c->split ? l->k_b : l->kv_b, c->split ? l->v_b : NULL},
                              .scale = kvi_record_without(r, "score_scale") ? 1.0f : m->score_scale,
                              .n_heads = h,
                              .key_dim = c->key_dim,
                              .value_dim = c->value_dim,
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
                              .scale = kvi_record_residual_scale(r)});
}
