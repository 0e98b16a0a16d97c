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

/* Gains of an RMSNorm of the model; those inside a mixer may be stored otherwise. */
static void put_norm(list *l, size_t slot, const char *name, uint32_t n, const char *why)
{
    put(l, slot, name, n, 0, why)->add = l->c->gain_add;
}

static kvi_place *put_bias(list *l, size_t slot, const char *name, uint32_t n, const char *why)
{
    kvi_place *p = put(l, slot, name, n, 0, why);
    p->synthetic = KVI_SYNTHETIC_BIAS;
    return p;
}

/* It may as well stand elsewhere. */
static void or_from(kvi_place *p, kvi_place_source source)
{
    uint32_t i = 0;
    while (p->sources[i].name) i++;
    p->sources[i] = source;
}
/* It may as well be rows [first, first + n_out) of a tensor of `of` rows. */
static void or_rows(kvi_place *p, const char *name, uint32_t first, uint32_t of)
{
    or_from(p, (kvi_place_source){.name = name, .rows = {.first = first, .of = of}});
}
/* Its only source: runs of rows of another tensor. */
static void in_runs(kvi_place *p, const char *name, uint32_t first, uint32_t run, uint32_t step, uint32_t of)
{
    p->sources[0] = (kvi_place_source){.name = name, .rows = {first, run, step, of}};
}

/* --------------------------------------------------------------------------------------------------- attention --- */
static const char of_q[] = "num_attention_heads * head_dim, hidden_size",
                  of_kv[] = "num_key_value_heads * head_dim, hidden_size",
                  of_heads[] = "num_attention_heads * head_dim", of_kv_heads[] = "num_key_value_heads * head_dim";

/* q and its gate, head by head in one tensor: D rows of q, D of the gate. */
static void gated_query_places(list *l, const kvi_attention *a)
{
    const uint32_t h = l->c->hidden_size, d = a->head_dim, q = a->n_heads * d;
    in_runs(put(l, SLOT(q), "self_attn.q_proj.weight", q, h, of_q), "self_attn.q_proj.weight", 0, d, 2 * d, 2 * q);
    in_runs(put(l, SLOT(attention_gate), "self_attn.gate.weight", q, h, of_q), "self_attn.q_proj.weight", d, d, 2 * d,
            2 * q);
    if (!l->c->qkv_bias) return;
    in_runs(put_bias(l, SLOT(q_bias), "self_attn.q_proj.bias", q, of_heads), "self_attn.q_proj.bias", 0, d, 2 * d,
            2 * q);
    in_runs(put_bias(l, SLOT(attention_gate_bias), "self_attn.gate.bias", q, of_heads), "self_attn.q_proj.bias", d, d,
            2 * d, 2 * q);
}

static void attention_places(list *l, const kvi_attention *a, bool shares)
{
    const kvi_model_config *c = l->c;
    const uint32_t h = c->hidden_size, d = a->head_dim, q = a->n_heads * d, kv = a->n_kv_heads * d, all = q + 2 * kv;
    const bool width = c->qk_norm == KVI_QK_NORM_WIDTH;
    if (c->attention_gate) gated_query_places(l, a);
    else or_rows(put(l, SLOT(q), "self_attn.q_proj.weight", q, h, of_q), "self_attn.qkv_proj.weight", 0, all);
    if (!shares) or_rows(put(l, SLOT(k), "self_attn.k_proj.weight", kv, h, of_kv), "self_attn.qkv_proj.weight", q, all);
    if (!shares && !a->keys_as_values)
        or_rows(put(l, SLOT(v), "self_attn.v_proj.weight", kv, h, of_kv), "self_attn.qkv_proj.weight", q + kv, all);
    if (c->qkv_bias) {
        if (!c->attention_gate)
            or_rows(put_bias(l, SLOT(q_bias), "self_attn.q_proj.bias", q, of_heads), "self_attn.qkv_proj.bias", 0, all);
        if (!shares)
            or_rows(put_bias(l, SLOT(k_bias), "self_attn.k_proj.bias", kv, of_kv_heads), "self_attn.qkv_proj.bias", q,
                    all);
        if (!shares && !a->keys_as_values)
            or_rows(put_bias(l, SLOT(v_bias), "self_attn.v_proj.bias", kv, of_kv_heads), "self_attn.qkv_proj.bias",
                    q + kv, all);
    }
    if (c->qk_norm) {
        put_norm(l, SLOT(q_norm), "self_attn.q_norm.weight", width ? q : d, width ? of_heads : "head_dim");
        if (!shares)
            put_norm(l, SLOT(k_norm), "self_attn.k_norm.weight", width ? kv : d, width ? of_kv_heads : "head_dim");
    }
    if (c->sinks) put_bias(l, SLOT(sinks), "self_attn.sinks", a->n_heads, "num_attention_heads");
    put(l, SLOT(o), "self_attn.o_proj.weight", h, q, "hidden_size, num_attention_heads * head_dim");
    if (c->o_bias) put_bias(l, SLOT(o_bias), "self_attn.o_proj.bias", h, "hidden_size");
}

/* -------------------------------------------------------------------------------------------- latent attention --- */
static void latent_places(list *l, const kvi_attention *a)
{
    static const char of_heads_q[] = "num_attention_heads * (qk_nope_head_dim + qk_rope_head_dim)",
                      of_kv_a[] = "kv_lora_rank + qk_rope_head_dim, hidden_size";
    const kvi_latent *c = &l->c->latent;
    const uint32_t h = l->c->hidden_size, q = a->n_heads * (c->key_dim + c->rope_dim), kv = c->rank + c->rope_dim;
    const bool bias = l->c->qkv_bias;
    if (c->q_rank) {
        put(l, SLOT(q_a), "self_attn.q_a_proj.weight", c->q_rank, h, "q_lora_rank, hidden_size");
        if (bias) put_bias(l, SLOT(q_a_bias), "self_attn.q_a_proj.bias", c->q_rank, "q_lora_rank");
        put(l, SLOT(q_a_norm), "self_attn.q_a_layernorm.weight", c->q_rank, 0, "q_lora_rank");
        put(l, SLOT(q), "self_attn.q_b_proj.weight", q, c->q_rank, of_heads_q);
    } else put(l, SLOT(q), "self_attn.q_proj.weight", q, h, of_heads_q);
    put(l, SLOT(kv_a), "self_attn.kv_a_proj_with_mqa.weight", kv, h, of_kv_a);
    if (bias) put_bias(l, SLOT(kv_a_bias), "self_attn.kv_a_proj_with_mqa.bias", kv, of_kv_a);
    put(l, SLOT(kv_a_norm), "self_attn.kv_a_layernorm.weight", c->rank, 0, "kv_lora_rank");
    if (c->split) {
        put(l, SLOT(k_b), "self_attn.k_b_proj.weight", a->n_heads * c->rank, c->key_dim,
            "num_attention_heads * kv_lora_rank, qk_nope_head_dim")
            ->sources[0]
            .stacked = a->n_heads;
        put(l, SLOT(v_b), "self_attn.v_b_proj.weight", a->n_heads * c->value_dim, c->rank,
            "num_attention_heads * v_head_dim, kv_lora_rank")
            ->sources[0]
            .stacked = a->n_heads;
    } else
        put(l, SLOT(kv_b), "self_attn.kv_b_proj.weight", a->n_heads * (c->key_dim + c->value_dim), c->rank,
            "num_attention_heads * (qk_nope_head_dim + v_head_dim), kv_lora_rank");
    put(l, SLOT(o), "self_attn.o_proj.weight", h, a->n_heads * c->value_dim,
        "hidden_size, num_attention_heads * v_head_dim");
    if (l->c->o_bias) put_bias(l, SLOT(o_bias), "self_attn.o_proj.bias", h, "hidden_size");
}

/* ----------------------------------------------------------------------------------------------- gated DeltaNet --- */
/* Qwen3-Next keeps q, k, v and z in one tensor, key head by key head (q dk | k dk | v r dv | z r dv, r value heads for a key head), and b and a
 * likewise; Qwen3.5 has q | k | v in one and the others apart. */
static void delta_places(list *l)
{
    static const char of_keys[] = "linear_num_key_heads * linear_key_head_dim, hidden_size",
                      of_values[] = "linear_num_value_heads * linear_value_head_dim, hidden_size",
                      of_v[] = "linear_num_value_heads", qkvz[] = "linear_attn.in_proj_qkvz.weight",
                      ba[] = "linear_attn.in_proj_ba.weight", qkv[] = "linear_attn.in_proj_qkv.weight";
    const kvi_delta *d = &l->c->delta;
    const uint32_t h = l->c->hidden_size, dk = d->key_dim, ratio = d->n_value_heads / d->n_key_heads,
                   keys = d->n_key_heads * dk, values = d->n_value_heads * d->value_dim, v = d->n_value_heads,
                   run = ratio * d->value_dim, step = 2 * dk + 2 * run, of = 2 * keys + 2 * values;
    const struct {
        size_t slot;
        const char *name;
        uint32_t n_out;
        const char *why;
        kvi_place_source sources[2];
    } rows[] = {
        {SLOT(delta_q),
         "linear_attn.q_proj.weight",
         keys,
         of_keys,
         {{.name = qkv, .rows = {0, .of = 2 * keys + values}}, {.name = qkvz, .rows = {0, dk, step, of}}}},
        {SLOT(delta_k),
         "linear_attn.k_proj.weight",
         keys,
         of_keys,
         {{.name = qkv, .rows = {keys, .of = 2 * keys + values}}, {.name = qkvz, .rows = {dk, dk, step, of}}}},
        {SLOT(delta_v),
         "linear_attn.v_proj.weight",
         values,
         of_values,
         {{.name = qkv, .rows = {2 * keys, .of = 2 * keys + values}}, {.name = qkvz, .rows = {2 * dk, run, step, of}}}},
        {SLOT(delta_z),
         "linear_attn.z_proj.weight",
         values,
         of_values,
         {{.name = "linear_attn.in_proj_z.weight"}, {.name = qkvz, .rows = {2 * dk + run, run, step, of}}}},
        {SLOT(delta_b),
         "linear_attn.b_proj.weight",
         v,
         "linear_num_value_heads, hidden_size",
         {{.name = "linear_attn.in_proj_b.weight"}, {.name = ba, .rows = {0, ratio, 2 * ratio, 2 * v}}}},
        {SLOT(delta_a),
         "linear_attn.a_proj.weight",
         v,
         "linear_num_value_heads, hidden_size",
         {{.name = "linear_attn.in_proj_a.weight"}, {.name = ba, .rows = {ratio, ratio, 2 * ratio, 2 * v}}}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        kvi_place *p = put(l, rows[i].slot, rows[i].name, rows[i].n_out, h, rows[i].why);
        for (int s = 0; s < 2; s++) p->sources[s] = rows[i].sources[s];
        p->keeps_bits = rows[i].n_out == v;
    }
    put(l, SLOT(conv), "linear_attn.conv1d.weight", 2 * keys + values, d->n_taps,
        "q, k and v of linear attention, linear_conv_kernel_dim")
        ->keeps_bits = true;
    or_from(put_bias(l, SLOT(decay), "linear_attn.A_log", v, of_v),
            (kvi_place_source){.name = "linear_attn.minus_exp_A", .minus_exp = true});
    put_bias(l, SLOT(decay_shift), "linear_attn.dt_bias", v, of_v);
    put(l, SLOT(delta_norm), "linear_attn.norm.weight", d->value_dim, 0, "linear_value_head_dim");
    put(l, SLOT(delta_out), "linear_attn.out_proj.weight", h, values,
        "hidden_size, linear_num_value_heads * linear_value_head_dim");
}

/* ------------------------------------------------------------------------------------------------- feed-forward --- */
static void dense_places(list *l, uint32_t f)
{
    static const char shape[] = "intermediate_size, hidden_size";
    const uint32_t h = l->c->hidden_size;
    or_rows(put(l, SLOT(mlp.gate), "mlp.gate_proj.weight", f, h, shape), "mlp.gate_up_proj.weight", 0, 2 * f);
    or_rows(put(l, SLOT(mlp.up), "mlp.up_proj.weight", f, h, shape), "mlp.gate_up_proj.weight", f, 2 * f);
    put(l, SLOT(mlp.down), "mlp.down_proj.weight", h, f, "hidden_size, intermediate_size");
    if (!l->c->mlp_bias) return;
    put_bias(l, SLOT(mlp.gate_bias), "mlp.gate_proj.bias", f, "intermediate_size");
    put_bias(l, SLOT(mlp.up_bias), "mlp.up_proj.bias", f, "intermediate_size");
    put_bias(l, SLOT(mlp.down_bias), "mlp.down_proj.bias", h, "hidden_size");
}

static kvi_place *put_experts(list *l, size_t slot, const char *name, uint32_t n_out, uint32_t n_in, const char *why)
{
    kvi_place *p = put(l, slot, name, n_out, n_in, why);
    p->n_experts = l->c->experts.n_experts;
    p->n_used = l->c->experts.route.top_k;
    p->sources[0].per_expert = true;
    return p;
}

/* Those of all experts, one tensor. */
static void put_expert_bias(list *l, size_t slot, const char *name, uint32_t n, const char *why)
{
    kvi_place *p = put_experts(l, slot, name, n, 0, why);
    p->sources[0].per_expert = false;
    p->synthetic = KVI_SYNTHETIC_BIAS;
}

/* gpt-oss: one tensor of all experts with gate and up in turns, (hidden, 2 width) by columns or, of four bits, blocks by rows; and one of their
 * biases. */
static void interleaved_places(list *l, const kvi_experts *e)
{
    static const char shape[] = "num_local_experts, hidden_size, intermediate_size";
    const uint32_t h = l->c->hidden_size, f = e->width;
    const kvi_weight_rows gate = {0, 1, 2, 2 * f}, up = {1, 1, 2, 2 * f}, all = {0};
    const struct {
        size_t slot;
        const char *name, *source;
        uint32_t n_out, n_in;
        kvi_weight_rows rows;
    } rows[] = {{SLOT(experts.gate), "mlp.experts.gate_proj", "mlp.experts.gate_up_proj", f, h, gate},
                {SLOT(experts.up), "mlp.experts.up_proj", "mlp.experts.gate_up_proj", f, h, up},
                {SLOT(experts.down), "mlp.experts.down_proj", "mlp.experts.down_proj", h, f, all},
                {SLOT(experts.gate_bias), "mlp.experts.gate_proj_bias", "mlp.experts.gate_up_proj_bias", f, 0, gate},
                {SLOT(experts.up_bias), "mlp.experts.up_proj_bias", "mlp.experts.gate_up_proj_bias", f, 0, up},
                {SLOT(experts.down_bias), "mlp.experts.down_proj_bias", "mlp.experts.down_proj_bias", h, 0, all}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        kvi_place *p = put_experts(l, rows[i].slot, rows[i].name, rows[i].n_out, rows[i].n_in, shape);
        p->sources[0] = (kvi_place_source){.name = rows[i].source, .rows = rows[i].rows, .transposed = p->n_in > 0};
        if (!p->n_in) p->synthetic = KVI_SYNTHETIC_BIAS;
        else p->n_in_beside = p->n_in == h ? f : h;
    }
}

/* Experts are tensors of their own, here or under Mixtral's names, one tensor with gate above up, or, in GGUF files, one for each of the three. */
static void routed_places(list *l)
{
    const kvi_experts *e = &l->c->experts;
    const uint32_t h = l->c->hidden_size, f = e->width, s = e->shared_width;
    static const char fused[] = "mlp.experts.gate_up_proj", of_gate[] = "moe_intermediate_size, hidden_size",
                      of_shared[] = "shared experts, hidden_size", shared[] = "mlp.shared_expert.gate_up_proj.weight";
    const struct {
        size_t slot;
        const char *own, *mixtral, *stacked, *fused;
        uint32_t n_out, n_in, first, of;
    } rows[] = {{SLOT(experts.gate), "mlp.experts.%u.gate_proj.weight", "block_sparse_moe.experts.%u.w1.weight",
                 "mlp.experts.gate_proj.weight", fused, f, h, 0, 2 * f},
                {SLOT(experts.up), "mlp.experts.%u.up_proj.weight", "block_sparse_moe.experts.%u.w3.weight",
                 "mlp.experts.up_proj.weight", fused, f, h, f, 2 * f},
                {SLOT(experts.down), "mlp.experts.%u.down_proj.weight", "block_sparse_moe.experts.%u.w2.weight",
                 "mlp.experts.down_proj.weight", "mlp.experts.down_proj", h, f, 0, 0}};
    kvi_place *router = put(l, SLOT(router), "mlp.gate.weight", e->n_experts, h, "number of experts, hidden_size");
    or_from(router, (kvi_place_source){.name = "block_sparse_moe.gate.weight"});
    router->keeps_bits = true;
    if (e->router_bias) put_bias(l, SLOT(router_bias), "mlp.gate.bias", e->n_experts, "number of experts");
    if (e->correction)
        put_bias(l, SLOT(correction), "mlp.gate.e_score_correction_bias", e->n_experts, "number of experts");
    if (e->interleaved) interleaved_places(l, e);
    for (size_t i = 0; !e->interleaved && i < sizeof rows / sizeof rows[0]; i++) {
        kvi_place *p = put_experts(l, rows[i].slot, rows[i].own, rows[i].n_out, rows[i].n_in, of_gate);
        p->n_in_beside = rows[i].n_in == h ? f : h;
        or_rows(p, rows[i].fused, rows[i].first, rows[i].of);
        or_from(p, (kvi_place_source){.name = rows[i].mixtral, .per_expert = true});
        or_from(p, (kvi_place_source){.name = rows[i].stacked});
    }
    if (e->bias && !e->interleaved) {
        static const char width[] = "num_local_experts, intermediate_size";
        put_expert_bias(l, SLOT(experts.gate_bias), "mlp.experts.gate_proj_bias", f, width);
        put_expert_bias(l, SLOT(experts.up_bias), "mlp.experts.up_proj_bias", f, width);
        put_expert_bias(l, SLOT(experts.down_bias), "mlp.experts.down_proj_bias", h, "num_local_experts, hidden_size");
    }
    if (!s) return;
    or_rows(put(l, SLOT(shared.gate), "mlp.shared_expert.gate_proj.weight", s, h, of_shared), shared, 0, 2 * s);
    or_rows(put(l, SLOT(shared.up), "mlp.shared_expert.up_proj.weight", s, h, of_shared), shared, s, 2 * s);
    put(l, SLOT(shared.down), "mlp.shared_expert.down_proj.weight", h, s, "hidden_size, shared experts");
    if (e->shared_gate) put(l, SLOT(shared_gate), "mlp.shared_expert_gate.weight", 1, h, "1, hidden_size");
}

/* Gemma 4: experts beside a dense part. */
static void beside_places(list *l)
{
    const uint32_t h = l->c->hidden_size;
    put(l, SLOT(router_norm), "router.scale", h, 0, "hidden_size");
    put(l, SLOT(expert_scale), "router.per_expert_scale", l->c->experts.n_experts, 0, "num_experts");
    put_norm(l, SLOT(dense_post_norm), "post_feedforward_layernorm_1.weight", h, "hidden_size");
    put_norm(l, SLOT(experts_norm), "pre_feedforward_layernorm_2.weight", h, "hidden_size");
    put_norm(l, SLOT(experts_post_norm), "post_feedforward_layernorm_2.weight", h, "hidden_size");
}

/* Gemma 4: what a layer gets beside the residual. */
static void input_places(list *l)
{
    const uint32_t h = l->c->hidden_size, p = l->c->layer_input;
    put(l, SLOT(input_gate), "per_layer_input_gate.weight", p, h, "hidden_size_per_layer_input, hidden_size")
        ->keeps_bits = true;
    put(l, SLOT(input_projection), "per_layer_projection.weight", h, p, "hidden_size, hidden_size_per_layer_input")
        ->keeps_bits = true;
    put_norm(l, SLOT(input_norm_after), "post_per_layer_input_norm.weight", h, "hidden_size");
}

/* ------------------------------------------------------------------------------------------------------- whole --- */
uint32_t kvi_layer_places(const kvi_model_config *c, uint32_t layer, kvi_place *out)
{
    list l = {.c = c, .out = out};
    const uint32_t h = c->hidden_size;
    const bool before = c->norms != KVI_NORMS_AFTER, behind = c->norms != KVI_NORMS_BEFORE;
    if (before) put_norm(&l, SLOT(input_norm), "input_layernorm.weight", h, "hidden_size");
    if (c->layers[layer].mixer == KVI_MIXER_RECURRENT) delta_places(&l);
    else if (c->layers[layer].mixer == KVI_MIXER_LATENT) latent_places(&l, kvi_attention_of(c, layer));
    else attention_places(&l, kvi_attention_of(c, layer), c->layers[layer].kv_of != 0);
    if (behind) put_norm(&l, SLOT(mixer_post_norm), "self_attn.post_norm.weight", h, "hidden_size");
    if (before) put_norm(&l, SLOT(post_norm), "post_attention_layernorm.weight", h, "hidden_size");
    const bool routed = c->layers[layer].ffn == KVI_FFN_ROUTED;
    if (routed) routed_places(&l);
    if (!routed || c->experts.beside_dense) dense_places(&l, kvi_ffn_size(c, layer));
    if (routed && c->experts.beside_dense) beside_places(&l);
    if (behind) put_norm(&l, SLOT(ffn_post_norm), "mlp.post_norm.weight", h, "hidden_size");
    if (c->layer_input) input_places(&l);
    if (c->layer_scalar) put(&l, SLOT(layer_scalar), "layer_scalar", 1, 0, "one");
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
    return (kvi_place){.name = KVI_NAME_NORM,
                       .n_out = c->hidden_size,
                       .why = "hidden_size",
                       .add = c->gain_add,
                       .sources = {{.name = KVI_NAME_NORM}}};
}

kvi_place kvi_input_embed_place(const kvi_model_config *c)
{
    static const char name[] = "model.embed_tokens_per_layer.weight";
    return (kvi_place){.name = name,
                       .n_out = c->layer_input_vocab,
                       .n_in = c->n_layers * c->layer_input,
                       .why = "vocab_size_per_layer_input, num_hidden_layers * hidden_size_per_layer_input",
                       .sources = {{.name = name}}};
}

kvi_place kvi_input_projection_place(const kvi_model_config *c)
{
    static const char name[] = "model.per_layer_model_projection.weight";
    return (kvi_place){.name = name,
                       .n_out = c->n_layers * c->layer_input,
                       .n_in = c->hidden_size,
                       .why = "num_hidden_layers * hidden_size_per_layer_input, hidden_size",
                       .sources = {{.name = name}}};
}

kvi_place kvi_input_norm_place(const kvi_model_config *c)
{
    static const char name[] = "model.per_layer_projection_norm.weight";
    return (kvi_place){.name = name,
                       .n_out = c->layer_input,
                       .why = "hidden_size_per_layer_input",
                       .add = c->gain_add,
                       .sources = {{.name = name}}};
}

uint32_t kvi_ahead_places(const kvi_model_config *c, kvi_place *out)
{
    static const struct {
        size_t slot;
        const char *name;
    } norms[] = {{offsetof(kvi_ahead_weights, embed_norm), "mtp.pre_fc_norm_embedding.weight"},
                 {offsetof(kvi_ahead_weights, hidden_norm), "mtp.pre_fc_norm_hidden.weight"},
                 {offsetof(kvi_ahead_weights, norm), "mtp.norm.weight"}};
    list l = {.c = c, .out = out};
    const uint32_t h = c->hidden_size;
    put(&l, offsetof(kvi_ahead_weights, projection), "mtp.fc.weight", h, 2 * h, "hidden_size, 2 * hidden_size");
    for (size_t i = 0; i < sizeof norms / sizeof norms[0]; i++)
        put_norm(&l, norms[i].slot, norms[i].name, h, "hidden_size");
    return l.n;
}

uint64_t kvi_config_params(const kvi_model_config *c)
{
    kvi_place places[KVI_MAX_PLACES];
    uint64_t n = (uint64_t)c->vocab_size * c->hidden_size * (c->tied_embeddings ? 1u : 2u) + c->hidden_size;
    n += (uint64_t)c->n_layers * c->layer_input * ((uint64_t)c->layer_input_vocab + c->hidden_size) + c->layer_input;
    for (uint32_t layer = 0; layer < c->n_layers; layer++)
        for (uint32_t i = kvi_layer_places(c, layer, places); i-- > 0;)
            n += (uint64_t)places[i].n_out * (places[i].n_in ? places[i].n_in : 1) *
                 (places[i].n_experts ? places[i].n_experts : 1);
    return n;
}
