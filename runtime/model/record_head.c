/* record_head.c - from the residual to logits. */
#include "recorder.h"

void kvi_record_hidden(kvi_recorder *r, kvi_buffer in, kvi_buffer out, const kvi_weight *gain)
{
    kvi_record_op(
        r, (kvi_op){
               .kind = KVI_OP_LINEAR_ADD, .in = in, .out = out, .fresh = true, .post_norm = kvi_record_norm(r, gain)});
}

/* logits (L, vocab) = cap(scale norm(x) Whead^T), in parts of the vocabulary */
void kvi_record_head(kvi_recorder *r, const kvi_weight *norm, const kvi_weight *head)
{
    const kvi_model_config *c = r->c;
    const kvi_buffer logits = kvi_record_buffer(r, "logits", c->vocab_size, KVI_ROWS_LOGIT, KVI_PRECISION_RESIDUAL);
    for (uint32_t part = 0; part < r->o->head_parts; part++) {
        const uint32_t first = (uint32_t)((uint64_t)c->vocab_size * part / r->o->head_parts);
        const uint32_t end = (uint32_t)((uint64_t)c->vocab_size * (part + 1) / r->o->head_parts);
        kvi_record_op(r, (kvi_op){.kind = KVI_OP_HEAD,
                                  .in = r->x,
                                  .out = logits,
                                  .norm = kvi_record_norm(r, norm),
                                  .n_weights = 1,
                                  .weights = {head},
                                  .scale = kvi_record_without(r, "logit_scale") ? 1.0f : c->logit_scale,
                                  .softcap = kvi_record_without(r, "softcap") ? 0.0f : c->logit_softcap,
                                  .first_out = first,
                                  .n_out = end - first});
        kvi_record_slice_end(r);
    }
    r->out->program.logits = logits;
}
