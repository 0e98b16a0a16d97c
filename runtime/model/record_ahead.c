/* record_ahead.c - the layer that looks one token further (multi-token prediction of Qwen3.5 to 3.8): from the hidden state of a position and
 * the token behind it to the token behind that,
 *   x = Wfc (norm(E[next]) | norm(h)),  a layer as the model's with attention,  logits = norm(x) Whead^T
 * with h what the head is given, or, further on, what this layer gives its own. Source: the MTP module that Qwen's checkpoints hold as mtp.*. */
#include "recorder.h"

void kvi_record_ahead(kvi_recorder *r, const kvi_model_weights *w)
{
    const kvi_model_config *c = r->c;
    const kvi_ahead_weights *a = &w->ahead;
    kvi_ahead *ahead = &r->out->program.ahead;
    const bool normed = !kvi_record_without(r, "ahead_norms");
    const uint32_t h = c->hidden_size;
    const kvi_buffer hidden = kvi_record_operand(r, "ahead_hidden", h), next = kvi_record_operand(r, "ahead_next", h),
                     both = kvi_record_operand(r, "ahead_both", 2 * h),
                     x = kvi_record_buffer(r, "ahead_x", h, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);

    /* hidden (R, hidden) = norm(x), and the last row of x becomes the first */
    ahead->take = r->n_ops;
    kvi_record_hidden(r, r->x, hidden, w->norm);
    kvi_record_op(r, (kvi_op){.kind = KVI_OP_LAST, .in = r->x, .out = r->x});
    ahead->again = r->n_ops;
    kvi_record_hidden(r, x, hidden, a->norm);

    /* x (R, hidden) = (norm(E[ids]) | norm(hidden)) Wfc^T */
    ahead->layer = r->n_ops;
    kvi_record_embedding(r, w, next);
    kvi_record_op(r, (kvi_op){.kind = KVI_OP_JOIN,
                              .in = next,
                              .side = kvi_record_without(r, "ahead_hidden") ? next : hidden,
                              .out = both,
                              .norm = normed ? kvi_record_norm(r, a->embed_norm) : (kvi_norm){0},
                              .post_norm = normed ? kvi_record_norm(r, a->hidden_norm) : (kvi_norm){0}});
    kvi_record_op(
        r, (kvi_op){.kind = KVI_OP_NORM_LINEAR, .in = both, .out = x, .n_weights = 1, .weights = {a->projection}});
    r->x = x;
    kvi_record_layer(r, c->n_layers);
    r->layer = 0;
    ahead->head = r->n_ops;
    kvi_record_head(r, a->norm, w->head);
    ahead->end = r->n_ops;
}
