/* forward.c - one transformer for every family and every backend. A layer is a mixer (attention, a state, ...) and a feed-forward part; each
 * kind is told in a file of its own (record_*.c), one line per operation, each with its shape:
 *   R rows of the step (tokens), L rows that need logits, H heads, K KV heads, D head_dim */
#include "recorder.h"
#include "rope.h"
#include "../base/mem.h"
#include "../kv/half.h"

#include <string.h>

/* ---------------------------------------------------------------------------------------------------- recorder --- */
bool kvi_record_without(const kvi_recorder *r, const char *part)
{
    for (const char *at = r->o->disable; at && *at;) {
        size_t n = strcspn(at, ",");
        if (n == strlen(part) && memcmp(at, part, n) == 0) return true;
        at += n + (at[n] == ',');
    }
    return false;
}

void kvi_record_op(kvi_recorder *r, kvi_op op)
{
    op.layer = r->layer;
    if (op.scale == 0) op.scale = 1.0f;
    if (r->ops) r->ops[r->n_ops] = op;
    r->n_ops++;
}

void kvi_record_slice_end(kvi_recorder *r)
{
    if (r->ops) r->ops[r->n_ops - 1].slice_end = true;
}

kvi_buffer kvi_record_buffer(kvi_recorder *r, const char *name, uint32_t cols, kvi_rows rows, kvi_precision precision)
{
    kvi_program *p = &r->out->program;
    uint32_t i = 0;
    while (i < p->n_buffers && (strcmp(r->out->buffers[i].name, name) != 0 || r->out->buffers[i].cols != cols)) i++;
    if (i == p->n_buffers) r->out->buffers[p->n_buffers++] = (kvi_buffer_desc){name, cols, rows, precision};
    return (kvi_buffer)i;
}

kvi_buffer kvi_record_operand(kvi_recorder *r, const char *name, uint32_t cols)
{
    return kvi_record_buffer(r, name, cols, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND);
}

kvi_norm kvi_record_norm(const kvi_recorder *r, const kvi_weight *gain)
{
    return (kvi_norm){.kind = KVI_NORM_GAIN, .gain = gain, .eps = (float)r->c->rms_eps};
}
kvi_norm kvi_record_norm_before(const kvi_recorder *r, const kvi_weight *gain)
{
    const bool none = r->c->norms == KVI_NORMS_AFTER || kvi_record_without(r, "norm_before");
    return none ? (kvi_norm){0} : kvi_record_norm(r, gain);
}
kvi_norm kvi_record_norm_after(const kvi_recorder *r, const kvi_weight *gain)
{
    const bool none = r->c->norms == KVI_NORMS_BEFORE || kvi_record_without(r, "norm_after");
    return none ? (kvi_norm){0} : kvi_record_norm(r, gain);
}

float kvi_record_residual_scale(const kvi_recorder *r)
{
    return kvi_record_without(r, "residual_scale") ? 1.0f : r->c->residual_scale;
}

/* ------------------------------------------------------------------------------------------------------- whole --- */
void kvi_record_layer(kvi_recorder *r, uint32_t index)
{
    static const kvi_layer_weights no_layer;
    const kvi_layer *layer = &r->c->layers[index];
    r->layer = index;
    r->w = r->weights ? &r->weights->layers[index] : &no_layer;
    if (layer->mixer == KVI_MIXER_RECURRENT) kvi_record_recurrent(r);
    else if (layer->mixer == KVI_MIXER_LATENT) kvi_record_latent(r);
    else kvi_record_attention(r);
    if (layer->ffn == KVI_FFN_ROUTED) kvi_record_routed(r);
    else kvi_record_dense(r);
    kvi_record_layer_input(r);
    kvi_record_slice_end(r);
}

void kvi_record_embedding(kvi_recorder *r, const kvi_model_weights *w, kvi_buffer out)
{
    const bool scaled = !kvi_record_without(r, "embedding_scale");
    kvi_record_op(r, (kvi_op){.kind = KVI_OP_EMBED,
                              .in = out,
                              .out = out,
                              .n_weights = 1,
                              .weights = {w->embed},
                              .scale = scaled ? kvi_record_embedding_scale(r->c->embedding_scale,
                                                                           r->c->embedding_scale_narrow, w->embed_form)
                                              : 1.0f});
}

float kvi_record_embedding_scale(float scale, bool narrow, kvi_weight_form form)
{
    if (!narrow) return scale;
    if (form == KVI_FORM_BF16) return kvi_bf16_to_f32(kvi_f32_to_bf16(scale));
    return form == KVI_FORM_F16 ? kvi_f16_to_f32(kvi_f32_to_f16(scale)) : scale;
}

const kvi_weight *kvi_record_layer_scalar(const kvi_recorder *r)
{
    return kvi_record_without(r, "layer_scalar") ? NULL : r->w->layer_scalar;
}

static void record(kvi_recorder *r)
{
    static const kvi_model_weights no_weights;
    const kvi_model_weights *w = r->weights ? r->weights : &no_weights;
    kvi_program *p = &r->out->program;
    *p = (kvi_program){.n_ropes = r->c->n_ropes, .vocab_size = r->c->vocab_size, .n_layers = r->c->n_layers};
    r->n_ops = r->layer = 0;
    r->x = kvi_record_buffer(r, "x", r->c->hidden_size, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);

    /* x (R, hidden) = E[ids] */
    kvi_record_embedding(r, w, r->x);
    kvi_record_inputs(r, w);
    for (uint32_t layer = 0; layer < r->c->n_layers; layer++) kvi_record_layer(r, layer);
    r->layer = 0;
    kvi_record_head(r, w->norm, w->head);
    p->n_step = p->hidden = r->n_ops;
    /* x (R, hidden) = norm(x) */
    kvi_record_hidden(r, r->x, r->x, w->norm);
    if (r->c->n_ahead) kvi_record_ahead(r, w);

    p->ops = r->ops;
    p->n_ops = r->n_ops;
    p->buffers = r->out->buffers;
    p->groups = r->out->groups;
    p->ropes = r->out->ropes;
}

static uint32_t fill_ropes(const kvi_recorder *r)
{
    const kvi_model_config *c = r->c;
    kvi_model_program *out = r->out;
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->n_ropes; i++) {
        kvi_rope_spec plain = c->ropes[i];
        plain.scaling = KVI_ROPE_NONE, plain.magnitude = 1;
        const kvi_rope_spec *spec = kvi_record_without(r, "rope_scaling") ? &plain : &c->ropes[i];
        if (out->inv_freq) {
            kvi_rope_frequencies(spec, out->inv_freq + n);
            out->ropes[i] = (kvi_rope){.n_dims = spec->n_dims,
                                       .interleaved = spec->interleaved,
                                       .inv_freq = out->inv_freq + n,
                                       .magnitude = spec->magnitude != 0.0f ? spec->magnitude : 1.0f};
        }
        n += spec->n_dims / 2;
    }
    return n;
}

kvrt_status kvi_model_record(const kvi_model_config *config, const kvi_model_weights *weights,
                             const kvi_record_options *options, kvi_model_program *out, kvrt_error *error)
{
    memset(out, 0, sizeof *out);
    kvi_recorder r = {.c = config, .weights = weights, .o = options, .out = out};
    out->inv_freq = kvi_mem_zalloc(fill_ropes(&r) + 1u, sizeof *out->inv_freq);
    record(&r); /* counts */
    r.ops = out->ops = kvi_mem_zalloc(r.n_ops, sizeof *out->ops);
    if (!out->ops || !out->inv_freq) {
        const uint64_t bytes = r.n_ops * sizeof *out->ops;
        kvi_model_program_free(out);
        return kvi_error_nomem(error, bytes, "program");
    }
    (void)fill_ropes(&r);
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
