/* places.c - see places.h. It reads top to bottom, a part of a layer each. */
#include "places.h"

#include <stddef.h>

typedef struct list {
    const kvi_model_config *c;
    kvi_place *out; /* (KVI_MAX_PLACES) */
    uint32_t n;
} list;
#define SLOT(field) offsetof(kvi_layer_weights, field)

/* One more place, whose usual source is a whole tensor of its own. */
static kvi_place *put(list *l, size_t slot, const char *name, uint32_t n_out, uint32_t n_in, const char *why)
{
    kvi_place *p = &l->out[l->n++];
    *p = (kvi_place){.name = name, .n_out = n_out, .n_in = n_in, .why = why, .slot = slot, .sources = {{.name = name}}};
    return p;
}

/* It may as well be rows [first, first + n_out) of a tensor of `of` rows. */
static void or_rows(kvi_place *p, const char *name, uint32_t first, uint32_t of)
{
    uint32_t i = 0;
    while (p->sources[i].name) i++;
    p->sources[i] = (kvi_place_source){.name = name, .rows = {.first = first, .of = of}};
}

static void attention_places(list *l)
{
    static const char of_q[] = "num_attention_heads * head_dim, hidden_size",
                      of_kv[] = "num_key_value_heads * head_dim, hidden_size";
    const kvi_model_config *c = l->c;
    const uint32_t h = c->hidden_size, d = c->head_dim, q = c->n_heads * d, kv = c->n_kv_heads * d, all = q + 2 * kv;
    or_rows(put(l, SLOT(q), "self_attn.q_proj.weight", q, h, of_q), "self_attn.qkv_proj.weight", 0, all);
    or_rows(put(l, SLOT(k), "self_attn.k_proj.weight", kv, h, of_kv), "self_attn.qkv_proj.weight", q, all);
    or_rows(put(l, SLOT(v), "self_attn.v_proj.weight", kv, h, of_kv), "self_attn.qkv_proj.weight", q + kv, all);
    if (c->qkv_bias) {
        or_rows(put(l, SLOT(q_bias), "self_attn.q_proj.bias", q, 0, "num_attention_heads * head_dim"),
                "self_attn.qkv_proj.bias", 0, all);
        or_rows(put(l, SLOT(k_bias), "self_attn.k_proj.bias", kv, 0, "num_key_value_heads * head_dim"),
                "self_attn.qkv_proj.bias", q, all);
        or_rows(put(l, SLOT(v_bias), "self_attn.v_proj.bias", kv, 0, "num_key_value_heads * head_dim"),
                "self_attn.qkv_proj.bias", q + kv, all);
    }
    if (c->qk_norm) {
        put(l, SLOT(q_norm), "self_attn.q_norm.weight", d, 0, "head_dim");
        put(l, SLOT(k_norm), "self_attn.k_norm.weight", d, 0, "head_dim");
    }
    put(l, SLOT(o), "self_attn.o_proj.weight", h, q, "hidden_size, num_attention_heads * head_dim");
    if (c->o_bias) put(l, SLOT(o_bias), "self_attn.o_proj.bias", h, 0, "hidden_size");
}

static void dense_places(list *l)
{
    const uint32_t h = l->c->hidden_size, f = l->c->ffn_size;
    or_rows(put(l, SLOT(gate), "mlp.gate_proj.weight", f, h, "intermediate_size, hidden_size"),
            "mlp.gate_up_proj.weight", 0, 2 * f);
    or_rows(put(l, SLOT(up), "mlp.up_proj.weight", f, h, "intermediate_size, hidden_size"), "mlp.gate_up_proj.weight",
            f, 2 * f);
    put(l, SLOT(down), "mlp.down_proj.weight", h, f, "hidden_size, intermediate_size");
}

uint32_t kvi_layer_places(const kvi_model_config *config, uint32_t layer, kvi_place *out)
{
    list l = {.c = config, .out = out};
    (void)layer;
    put(&l, SLOT(input_norm), "input_layernorm.weight", config->hidden_size, 0, "hidden_size");
    attention_places(&l);
    put(&l, SLOT(post_norm), "post_attention_layernorm.weight", config->hidden_size, 0, "hidden_size");
    dense_places(&l);
    return l.n;
}

kvi_place kvi_embed_place(const kvi_model_config *c)
{
    return (kvi_place){.name = KVI_NAME_EMBED,
                       .n_out = c->vocab_size,
                       .n_in = c->hidden_size,
                       .why = "vocab_size, hidden_size",
                       .sources = {{.name = KVI_NAME_EMBED}}};
}

kvi_place kvi_head_place(const kvi_model_config *c)
{
    kvi_place p = kvi_embed_place(c);
    p.name = p.sources[0].name = KVI_NAME_HEAD;
    return p;
}

kvi_place kvi_norm_place(const kvi_model_config *c)
{
    return (kvi_place){
        .name = KVI_NAME_NORM, .n_out = c->hidden_size, .why = "hidden_size", .sources = {{.name = KVI_NAME_NORM}}};
}
