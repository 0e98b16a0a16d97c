/* gguf_mixers.c - layers that are no plain attention in GGUF files: gated DeltaNet, under llama.cpp's names for state space models, and latent
 * attention.
 * To know: Qwen3.5's files have value heads in the order that lets key heads repeat (kvi_delta.tiled), in everything that has value heads.
 * Latent attention is written as attention with one key of rank + rope dimensions; what a head has stands behind _mla. */
#include "gguf_reading.h"

#include <math.h>
#include <string.h>

/* The layers with a state: a list of them, or all but every n-th. */
static kvrt_status mark_layers(const kvi_gguf_reading *r)
{
    uint32_t recurrent[KVI_MAX_LAYERS], interval = 4;
    bool listed = false;
    KVI_TRY(kvi_gguf_read_blocks(r, "attention.recurrent_layers", recurrent, &listed));
    if (!listed) KVI_TRY(kvi_gguf_read_u32(r, "full_attention_interval", KVI_GGUF_OPTIONAL, &interval));
    if (interval == 0)
        return kvi_error_set(r->error, KVRT_FORMAT, "%s: full_attention_interval: is 0, need 1 or more", r->file);
    for (uint32_t i = 0; i < r->c->n_layers; i++)
        if (listed ? recurrent[i] != 0 : (i + 1) % interval != 0) r->c->layers[i].mixer = KVI_MIXER_RECURRENT;
    return KVRT_OK;
}

kvrt_status kvi_gguf_delta(const kvi_gguf_reading *r)
{
    kvi_delta *d = &r->c->delta;
    uint32_t inner = 0;
    KVI_TRY(mark_layers(r));
    KVI_TRY(kvi_gguf_read_u32(r, "ssm.group_count", KVI_GGUF_REQUIRED, &d->n_key_heads));
    KVI_TRY(kvi_gguf_read_u32(r, "ssm.time_step_rank", KVI_GGUF_REQUIRED, &d->n_value_heads));
    KVI_TRY(kvi_gguf_read_u32(r, "ssm.state_size", KVI_GGUF_REQUIRED, &d->key_dim));
    KVI_TRY(kvi_gguf_read_u32(r, "ssm.inner_size", KVI_GGUF_REQUIRED, &inner));
    KVI_TRY(kvi_gguf_read_u32(r, "ssm.conv_kernel", KVI_GGUF_REQUIRED, &d->n_taps));
    if (d->n_key_heads == 0 || d->n_key_heads > 1024 || d->n_value_heads == 0 || d->n_value_heads > 1024 ||
        d->n_value_heads % d->n_key_heads || inner % d->n_value_heads)
        return kvi_error_set(
            r->error, KVRT_UNSUPPORTED,
            "%s: ssm.group_count is %u, ssm.time_step_rank %u and ssm.inner_size %u, need 1 to 1024 key "
            "heads, a multiple of them, and a multiple of that",
            r->file, d->n_key_heads, d->n_value_heads, inner);
    d->value_dim = inner / d->n_value_heads;
    if (d->key_dim == 0 || d->key_dim > KVI_MAX_HEAD_DIM || d->value_dim == 0 || d->value_dim > KVI_MAX_HEAD_DIM ||
        d->n_taps < 2 || d->n_taps > KVI_MAX_CONV)
        return kvi_error_set(r->error, KVRT_UNSUPPORTED,
                             "%s: ssm.state_size is %u, ssm.inner_size / ssm.time_step_rank %u and ssm.conv_kernel %u, "
                             "need 1 to %u, the same, and 2 to %u",
                             r->file, d->key_dim, d->value_dim, d->n_taps, KVI_MAX_HEAD_DIM, KVI_MAX_CONV);
    d->tiled = strcmp(r->family->name, "qwen3_next") != 0;
    return KVRT_OK;
}

/* ---------------------------------------------------------------------------------------------- latent attention --- */
kvrt_status kvi_gguf_latent_sizes(const kvi_gguf_reading *r)
{
    kvi_model_config *c = r->c;
    kvi_latent *l = &c->latent;
    uint32_t key = 0, value = 0;
    l->split = kvi_gguf_layer_tensor(r, 0, "attn_k_b.weight") != NULL;
    KVI_TRY(kvi_gguf_read_u32(r, "attention.kv_lora_rank", KVI_GGUF_REQUIRED, &l->rank));
    KVI_TRY(kvi_gguf_read_u32(r, "attention.q_lora_rank", KVI_GGUF_OPTIONAL, &l->q_rank));
    KVI_TRY(kvi_gguf_read_u32(r, "rope.dimension_count", KVI_GGUF_REQUIRED, &l->rope_dim));
    /* Files from before the split say the sizes of a head where later ones say those of the latent. */
    KVI_TRY(kvi_gguf_read_u32(r, "attention.key_length", KVI_GGUF_OPTIONAL, &key));
    KVI_TRY(kvi_gguf_read_u32(r, "attention.value_length", KVI_GGUF_OPTIONAL, &value));
    KVI_TRY(kvi_gguf_read_u32(r, "attention.key_length_mla", KVI_GGUF_OPTIONAL, &key));
    KVI_TRY(kvi_gguf_read_u32(r, "attention.value_length_mla", KVI_GGUF_OPTIONAL, &value));
    if (l->rank < 8 || l->rank > KVI_MAX_HEAD_DIM || l->rank % 8 || l->rope_dim < 8 || l->rope_dim > 128 ||
        l->rope_dim % 8)
        return kvi_error_set(r->error, KVRT_UNSUPPORTED,
                             "%s: attention.kv_lora_rank is %u and rope.dimension_count %u, need multiples of 8 up to "
                             "%u and 128",
                             r->file, l->rank, l->rope_dim, KVI_MAX_HEAD_DIM);
    if (key <= l->rope_dim || key > 1024 + l->rope_dim || value == 0 || value > 1024 || l->q_rank > 1 << 20)
        return kvi_error_set(r->error, KVRT_UNSUPPORTED,
                             "%s: attention.key_length_mla is %u, attention.value_length_mla %u and "
                             "attention.q_lora_rank %u, need rope.dimension_count (%u) and 1 to 1024, 1 to 1024, and "
                             "at most %d",
                             r->file, key, value, l->q_rank, l->rope_dim, 1 << 20);
    l->key_dim = key - l->rope_dim;
    l->value_dim = value;
    c->attention[0].n_kv_heads = 1;
    c->attention[0].head_dim = l->rank;
    c->ropes[0].n_dims = l->rope_dim;
    for (uint32_t i = 0; i < c->n_layers; i++) c->layers[i].mixer = KVI_MIXER_LATENT;
    return KVRT_OK;
}

/* The files hold a tenth of mscale_all_dim, which multiplies the scores and, being mscale too, leaves the keys. */
kvrt_status kvi_gguf_latent_scale(const kvi_gguf_reading *r)
{
    kvi_model_config *c = r->c;
    kvi_rope_spec *rope = &c->ropes[0];
    double log_multiplier = 0, m = 1;
    KVI_TRY(kvi_gguf_read_f64(r, "rope.scaling.yarn_log_multiplier", &log_multiplier));
    if (rope->scaling == KVI_ROPE_YARN && log_multiplier != 0) {
        m = 1 + log_multiplier * log(rope->factor);
        rope->magnitude = 1;
    }
    c->score_scale = (float)(m * m / sqrt(c->latent.key_dim + c->latent.rope_dim));
    return KVRT_OK;
}
