/* record_inputs.c - what layers get beside the residual (Gemma 4): an embedding of the token and a projection of its hidden embedding, P wide for
 * each of the layers. */
#include "recorder.h"
#include "../kv/half.h"

#include <math.h>

#define HALF_ROOT 0.70710678118654752440

/* inputs (R, layers, P) = (sqrt(P) E[ids] + norm(x Wp^T / sqrt(hidden))) / sqrt(2), each P of it normed by itself */
void kvi_record_inputs(kvi_recorder *r, const kvi_model_weights *w)
{
    const kvi_model_config *c = r->c;
    if (!c->layer_input || kvi_record_without(r, "layer_input")) return;
    const float root =
        kvi_record_embedding_scale((float)sqrt(c->layer_input), c->embedding_scale_narrow, w->embed_form);
    /* The projection is divided in front of its norm, so that only eps tells. */
    kvi_norm norm = kvi_record_norm(r, w->input_norm);
    norm.eps *= (float)c->hidden_size;
    r->inputs = kvi_record_buffer(r, "inputs", c->n_layers * c->layer_input, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
    kvi_record_op(r, (kvi_op){.kind = KVI_OP_EMBED,
                              .in = r->inputs,
                              .out = r->inputs,
                              .n_weights = 1,
                              .weights = {w->input_embed},
                              .scale = (float)((double)root * HALF_ROOT)});
    kvi_record_op(r, (kvi_op){.kind = KVI_OP_LINEAR_ADD,
                              .in = r->x,
                              .out = r->inputs,
                              .n_weights = 1,
                              .weights = {w->input_projection},
                              .post_norm = norm,
                              .post_group = c->layer_input,
                              .scale = (float)HALF_ROOT});
}

/* x (R, hidden) = scalar (x + norm((gelu(x Wgate^T) * input of the layer) W^T)) */
void kvi_record_layer_input(kvi_recorder *r)
{
    const kvi_model_config *c = r->c;
    const kvi_layer_weights *l = r->w;
    if (!c->layer_input || kvi_record_without(r, "layer_input")) return;
    const kvi_buffer gate = kvi_record_operand(r, "input_gate", c->layer_input);
    kvi_record_op(r, (kvi_op){.kind = KVI_OP_NORM_GATE_UP,
                              .in = r->x,
                              .out = gate,
                              .n_weights = 1,
                              .weights = {l->input_gate},
                              .side = r->inputs,
                              .side_first = r->layer * c->layer_input,
                              .activation = c->activation});
    kvi_record_op(r, (kvi_op){.kind = KVI_OP_LINEAR_ADD,
                              .in = gate,
                              .out = r->x,
                              .n_weights = 1,
                              .weights = {l->input_projection},
                              .post_norm = kvi_record_norm(r, l->input_norm_after),
                              .out_gain = kvi_record_layer_scalar(r)});
}
