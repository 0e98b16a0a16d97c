/* config_latent.c - the sizes of latent attention (MLA): what stands in the cache, and what a head makes of it. */
#include "config_raw.h"

#include <math.h>
#include <string.h>

kvrt_status kvi_config_latent(const kvi_raw_config *raw, const kvi_family *family, kvi_model_config *c,
                              kvrt_error *error)
{
    kvi_latent *l = &c->latent;
    kvi_attention *a = &c->attention[0];
    KVI_TRY(kvi_config_size("num_attention_heads", raw->num_attention_heads, 1, 1024, &a->n_heads, error));
    KVI_TRY(kvi_config_size("kv_lora_rank", raw->kv_lora_rank, 8, KVI_MAX_HEAD_DIM, &l->rank, error));
    KVI_TRY(kvi_config_size("qk_rope_head_dim", raw->qk_rope_head_dim, 8, 128, &l->rope_dim, error));
    KVI_TRY(kvi_config_size("qk_nope_head_dim", raw->qk_nope_head_dim, 1, 1024, &l->key_dim, error));
    KVI_TRY(kvi_config_size("v_head_dim", raw->v_head_dim, 1, 1024, &l->value_dim, error));
    if (raw->q_lora_rank != KVI_NO_INT)
        KVI_TRY(kvi_config_size("q_lora_rank", raw->q_lora_rank, 1, 1 << 20, &l->q_rank, error));
    if (l->rank % 8 || l->rope_dim % 8)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "config.json: kv_lora_rank is %u and qk_rope_head_dim %u, need multiples of 8", l->rank,
                             l->rope_dim);
    if (raw->num_key_value_heads != KVI_NO_INT && raw->num_key_value_heads != (int64_t)a->n_heads)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "config.json: num_key_value_heads is %lld, need num_attention_heads (%u) or null: %s has "
                             "one latent for all heads",
                             (long long)raw->num_key_value_heads, a->n_heads, family->name);
    if (raw->head_dim != KVI_NO_INT && raw->head_dim != (int64_t)l->rope_dim)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "config.json: head_dim is %lld, need qk_rope_head_dim (%u) or none: transformers turns so "
                             "many dimensions",
                             (long long)raw->head_dim, l->rope_dim);
    a->n_kv_heads = 1;
    a->head_dim = l->rank;
    return KVRT_OK;
}

void kvi_config_latent_scale(const kvi_raw_config *raw, kvi_model_config *c)
{
    const kvi_raw_rope *rope = raw->scaling.filled ? &raw->scaling : &raw->parameters;
    const char *type = rope->rope_type[0] ? rope->rope_type : rope->type;
    double scale = 1 / sqrt(c->latent.key_dim + c->latent.rope_dim), m = 1;
    if (type[0] && strcmp(type, "default") != 0 && rope->mscale_all_dim > 0 && rope->factor > 1)
        m = 0.1 * rope->mscale_all_dim * log(rope->factor) + 1;
    c->score_scale = (float)(scale * m * m);
}
