/* recorder.h - what the parts of forward.c share: taking down operations, buffers and cache groups. */
#ifndef KVI_RECORDER_H
#define KVI_RECORDER_H
#include "forward.h"

/* Takes down the program. The first pass only counts operations (ops is NULL then). */
typedef struct kvi_recorder {
    const kvi_model_config *c;
    const kvi_model_weights *weights; /* NULL: handles stay empty */
    const kvi_record_options *o;
    kvi_model_program *out;
    kvi_op *ops;
    uint32_t n_ops;
    uint32_t layer;
    const kvi_layer_weights *w; /* of that layer */
    kvi_buffer x;               /* residual (R, hidden) */
    kvi_buffer inputs;          /* (R, n_layers * layer_input) of the layers, where they have any */
    uint16_t group[KVI_MAX_LAYERS + 1], place[KVI_MAX_LAYERS + 1]; /* cache group of a layer, and its place in it */
} kvi_recorder;

void kvi_record_op(kvi_recorder *r, kvi_op op);
/* A layer, or a part of the head, ends here. */
void kvi_record_slice_end(kvi_recorder *r);
/* Whether a mutation test switches that part off (debug.disable). */
bool kvi_record_without(const kvi_recorder *r, const char *part);
/* The buffer of that name and width; layers that need the same share it. */
kvi_buffer kvi_record_buffer(kvi_recorder *r, const char *name, uint32_t cols, kvi_rows rows, kvi_precision precision);
/* One row of `cols` per token that products read. */
kvi_buffer kvi_record_operand(kvi_recorder *r, const char *name, uint32_t cols);
/* RMSNorm with these gains. */
kvi_norm kvi_record_norm(const kvi_recorder *r, const kvi_weight *gain);
/* The norm before a part of a layer and the one behind it; NORM_NONE where the model has none there. */
kvi_norm kvi_record_norm_before(const kvi_recorder *r, const kvi_weight *gain);
kvi_norm kvi_record_norm_after(const kvi_recorder *r, const kvi_weight *gain);

/* A factor of embeddings, rounded to their type where the model does so. */
float kvi_record_embedding_scale(float scale, bool narrow, kvi_weight_form form);
/* What is added to the residual is multiplied by this. */
float kvi_record_residual_scale(const kvi_recorder *r);
/* The factor of what leaves a layer, for the operation that ends it; NULL: none. */
const kvi_weight *kvi_record_layer_scalar(const kvi_recorder *r);

/* One per kind of layer: x (R, hidden) += mixer(x), x += ffn(x). */
void kvi_record_attention(kvi_recorder *r); /* record_attention.c */
void kvi_record_recurrent(kvi_recorder *r); /* record_recurrent.c */
void kvi_record_latent(kvi_recorder *r);    /* record_latent.c */
void kvi_record_dense(kvi_recorder *r);     /* record_ffn.c */
void kvi_record_routed(kvi_recorder *r);
/* What every layer gets beside the residual, and what it makes of it: record_inputs.c. */
void kvi_record_inputs(kvi_recorder *r, const kvi_model_weights *w);
void kvi_record_layer_input(kvi_recorder *r);
/* out (R, hidden) = norm(in); record_head.c */
void kvi_record_hidden(kvi_recorder *r, kvi_buffer in, kvi_buffer out, const kvi_weight *gain);
void kvi_record_head(kvi_recorder *r, const kvi_weight *norm, const kvi_weight *head); /* record_head.c */
/* A layer of any kind, with r->layer and r->w set to it; out (R, hidden) = scale * E[ids]. */
void kvi_record_layer(kvi_recorder *r, uint32_t layer);
void kvi_record_embedding(kvi_recorder *r, const kvi_model_weights *w, kvi_buffer out);
/* What looks one token further, behind the step's own operations. */
void kvi_record_ahead(kvi_recorder *r, const kvi_model_weights *w); /* record_ahead.c */

#endif
