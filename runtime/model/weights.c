/* weights.c - one table says which tensors a layer has and what shape each needs; binding walks it. */
#include "weights.h"
#include "families.h"
#include "weight_codec.h"
#include "../base/lcg.h"
#include "../base/mem.h"

#include <stdio.h>
#include <string.h>

typedef struct binder {
    const kvi_model_config *config;
    const kvi_checkpoint *checkpoint;
    const kvi_backend *backend;
    kvi_device *device;
    bool dry; /* only counts */
    kvi_progress_fn progress;
    void *user;
    kvi_model_weights *out;
    kvi_weight_form synthetic_form;
    uint64_t memory_used, total_bytes, form_bytes[KVI_FORM_COUNT]; /* memory_used: of out->memory */
    kvrt_error *error;
} binder;

/* A place in the model: name, needed shape and the key of config.json that the shape comes from. n_in 0 marks a vector. The tensor of that name
 * is the weight's codes; tensors of the same name and more behind it are its other parts (part_names). */
typedef struct place {
    const char *name;
    uint32_t n_out, n_in;
    const char *why;
    bool present;
    size_t slot; /* offset of the handle in kvi_layer_weights */
} place;

#define N_LAYER_PLACES 14u

static void layer_places(const kvi_model_config *c, place out[N_LAYER_PLACES])
{
    uint32_t q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim, h = c->hidden_size, f = c->ffn_size,
             d = c->head_dim;
    const place rows[N_LAYER_PLACES] = {
#define SLOT(field) offsetof(kvi_layer_weights, field)
        {"input_layernorm.weight", h, 0, "hidden_size", true, SLOT(input_norm)},
        {"self_attn.q_proj.weight", q, h, "num_attention_heads * head_dim, hidden_size", true, SLOT(q)},
        {"self_attn.k_proj.weight", kv, h, "num_key_value_heads * head_dim, hidden_size", true, SLOT(k)},
        {"self_attn.v_proj.weight", kv, h, "num_key_value_heads * head_dim, hidden_size", true, SLOT(v)},
        {"self_attn.q_proj.bias", q, 0, "num_attention_heads * head_dim", c->qkv_bias, SLOT(q_bias)},
        {"self_attn.k_proj.bias", kv, 0, "num_key_value_heads * head_dim", c->qkv_bias, SLOT(k_bias)},
        {"self_attn.v_proj.bias", kv, 0, "num_key_value_heads * head_dim", c->qkv_bias, SLOT(v_bias)},
        {"self_attn.q_norm.weight", d, 0, "head_dim", c->qk_norm, SLOT(q_norm)},
        {"self_attn.k_norm.weight", d, 0, "head_dim", c->qk_norm, SLOT(k_norm)},
        {"self_attn.o_proj.weight", h, q, "hidden_size, num_attention_heads * head_dim", true, SLOT(o)},
        {"self_attn.o_proj.bias", h, 0, "hidden_size", c->o_bias, SLOT(o_bias)},
        {"post_attention_layernorm.weight", h, 0, "hidden_size", true, SLOT(post_norm)},
        {"mlp.gate_proj.weight", f, h, "intermediate_size, hidden_size", true, SLOT(gate)},
        {"mlp.up_proj.weight", f, h, "intermediate_size, hidden_size", true, SLOT(up)},
    };
    memcpy(out, rows, sizeof rows);
}
static place down_place(const kvi_model_config *c)
{
    return (place){"mlp.down_proj.weight",           c->hidden_size, c->ffn_size,
                   "hidden_size, intermediate_size", true,           SLOT(down)};
}
#undef SLOT

static void shape_text(const kvi_tensor *t, char *text, size_t cap)
{
    size_t len = (size_t)snprintf(text, cap, "[");
    for (uint32_t i = 0; i < t->n_dims && len < cap; i++)
        len += (size_t)snprintf(text + len, cap - len, "%s%llu", i ? ", " : "", (unsigned long long)t->shape[i]);
    if (len < cap) (void)snprintf(text + len, cap - len, "]");
}

/* Every shape is (n_out, n_in), or (n_out) for a vector. */
static kvrt_status check_shape(const binder *b, const kvi_tensor *t, const place *p)
{
    bool vector = p->n_in == 0;
    bool fits = t->n_dims == (vector ? 1u : 2u) && t->shape[0] == p->n_out && (vector || t->shape[1] == p->n_in);
    if (fits) return KVRT_OK;
    char found[200], need[64];
    shape_text(t, found, sizeof found);
    if (vector) (void)snprintf(need, sizeof need, "[%u]", p->n_out);
    else (void)snprintf(need, sizeof need, "[%u, %u]", p->n_out, p->n_in);
    return kvi_error_set(b->error, KVRT_FORMAT, "tensor %s: shape %s, need %s (%s in config.json)", t->name, found,
                         need, p->why);
}

/* Synthetic gains lie around one and biases around zero, so that activations keep their size through every layer. */
static void fill_vector(float *out, uint32_t n, bool bias)
{
    for (uint32_t i = 0; i < n; i++) out[i] = (bias ? 0.0f : 1.0f) + (float)((int)(i * 37 % 64) - 32) / 256.0f;
}

/* By name, with and without the prefix that checkpoints of the model without its head leave out. */
static const kvi_tensor *find(const binder *b, const char *name)
{
    const size_t prefix = strlen(KVI_NAME_PREFIX);
    const kvi_tensor *t = kvi_checkpoint_find(b->checkpoint, name);
    if (t || strncmp(name, KVI_NAME_PREFIX, prefix) != 0) return t;
    return kvi_checkpoint_find(b->checkpoint, name + prefix);
}

static kvrt_status not_found(const binder *b, const char *name)
{
    const char *architecture = b->config->architecture;
    char packed[160];
    const size_t stem = strlen(name) - strlen("weight");
    (void)snprintf(packed, sizeof packed, "%.*sqweight", stem < 120 ? (int)stem : 120, name);
    if (find(b, packed))
        return kvi_error_set(b->error, KVRT_UNSUPPORTED,
                             "tensor %s: quantized (GPTQ or AWQ), need unquantized F32, F16 or BF16 weights", packed);
    if (strcmp(name, KVI_NAME_HEAD) == 0)
        return kvi_error_set(b->error, KVRT_FORMAT,
                             "tensor %s: not found, need it for %s because tie_word_embeddings in config.json is not "
                             "true (set it if the model shares its embeddings)",
                             name, architecture);
    return kvi_error_set(b->error, KVRT_FORMAT, "tensor %s: not found, need it for %s", name, architecture);
}

/* Room in out->memory, and its size when there is none yet (the dry run). */
static void *take_memory(binder *b, uint64_t bytes)
{
    void *memory = b->out->memory ? (unsigned char *)b->out->memory + b->memory_used : NULL;
    b->memory_used += (bytes + 63) & ~(uint64_t)63;
    return memory;
}

static void narrow(const kvi_tensor *t, float *out)
{
    for (uint64_t i = 0; i < t->bytes / 8; i++) out[i] = kvi_f64_to_f32(t->data + i * 8);
}

/* ------------------------------------------------------------------------------------------------------- parts --- */
/* What tensors beside NAME.weight are called that belong to it. */
static const struct {
    const char *behind;
    kvi_weight_part part;
} part_names[] = {{"_scale", KVI_PART_SCALES}};

/* Which rows and neighbours share a scale follows from how many there are: one for all, one for a row, or equal groups of a row. */
static bool group_of(const kvi_tensor *scales, kvi_weight_desc *desc)
{
    const uint64_t rows = scales->n_dims ? scales->shape[0] : 1, groups = scales->n_dims == 2 ? scales->shape[1] : 1;
    if (scales->n_dims > 2 || !kvi_form_is_plain(scales->form) || groups == 0 || desc->n_in % groups) return false;
    desc->scale_type = kvi_form_dtype(scales->form);
    desc->group = groups == 1 ? 0 : desc->n_in / (uint32_t)groups;
    desc->group_rows = rows == 1 ? desc->n_out : 1;
    return rows == desc->n_out || (rows == 1 && groups == 1);
}

/* The parts beside the codes, from tensors of their own. */
static kvrt_status find_parts(const binder *b, const kvi_tensor *codes, kvi_weight_desc *desc)
{
    for (size_t i = 0; i < sizeof part_names / sizeof part_names[0]; i++) {
        const kvi_weight_part part = part_names[i].part;
        char name[192];
        if (!(kvi_form(desc->form)->allows >> part & 1u)) continue;
        (void)snprintf(name, sizeof name, "%.170s%s", codes->name, part_names[i].behind);
        const kvi_tensor *t = kvi_checkpoint_find(b->checkpoint, name);
        if (!t) continue;
        if (!group_of(t, desc)) {
            char found[200];
            shape_text(t, found, sizeof found);
            return kvi_error_set(
                b->error, KVRT_UNSUPPORTED,
                "tensor %s: shape %s of %s, need one scale for each of %u rows, for equal parts of each, "
                "or one for all, in F32, F16 or BF16",
                name, found, t->dtype, desc->n_out);
        }
        desc->parts[part] = t->data;
    }
    return KVRT_OK;
}

/* From the tensors of a place to a weight. */
static kvrt_status describe(const binder *b, const kvi_tensor *t, const place *p, kvi_weight_desc *desc)
{
    KVI_TRY(check_shape(b, t, p));
    desc->name = t->name;
    desc->form = t->form;
    desc->parts[KVI_PART_CODES] = t->data;
    if (desc->form != KVI_FORM_NONE) KVI_TRY(find_parts(b, t, desc));
    for (int part = KVI_PART_CODES + 1; part < KVI_WEIGHT_PARTS; part++)
        if ((kvi_form(desc->form)->needs >> part & 1u) && !desc->parts[part]) desc->form = KVI_FORM_NONE;
    if (desc->form == KVI_FORM_NONE)
        return kvi_error_set(b->error, KVRT_UNSUPPORTED, "tensor %s: dtype %s%s, need F64, F32, F16 or BF16", t->name,
                             t->dtype, kvi_form(t->form)->needs ? " without scales" : "");
    if (desc->n_in % kvi_form(desc->form)->block)
        return kvi_error_set(b->error, KVRT_FORMAT, "tensor %s: %u columns, need a multiple of %u (%s)", t->name,
                             desc->n_in, kvi_form(desc->form)->block, t->dtype);
    return KVRT_OK;
}

static kvrt_status hand_over(binder *b, const kvi_weight_desc *desc, const kvi_weight **out)
{
    const uint64_t bytes = kvi_weight_bytes(desc);
    b->out->bytes += bytes;
    b->out->n_params += (uint64_t)desc->n_out * desc->n_in;
    b->form_bytes[desc->form] += bytes;
    uint64_t taken = 0;
    if (b->backend) KVI_TRY(b->backend->weight_bytes(desc, &taken, b->error));
    b->out->taken_bytes += taken;
    if (b->dry || !b->device) return KVRT_OK;
    kvi_weight *weight;
    KVI_TRY(b->backend->weight_import(b->device, desc, &weight, b->error));
    *out = weight;
    if (b->progress && !b->progress(b->user, b->out->bytes, b->total_bytes))
        return kvi_error_set(b->error, KVRT_CANCELLED, "loading cancelled");
    return KVRT_OK;
}

static kvrt_status bind(binder *b, const char *name, const place *p, const kvi_weight **out)
{
    bool vector = p->n_in == 0;
    kvi_weight_desc desc = {.name = p->name,
                            .form = vector ? KVI_FORM_F32 : b->synthetic_form,
                            .n_out = vector ? 1 : p->n_out,
                            .n_in = vector ? p->n_out : p->n_in};
    const kvi_tensor *t = b->checkpoint ? find(b, name) : NULL;
    if (b->checkpoint && !t) return not_found(b, name);
    if (t) KVI_TRY(describe(b, t, p, &desc));
    if (!t || desc.form == KVI_FORM_F64) { /* no backend computes in F64: it becomes F32 here */
        if (t) desc.form = KVI_FORM_F32;
        void *memory = take_memory(b, kvi_weight_bytes(&desc));
        if (memory) desc.parts[KVI_PART_CODES] = memory;
        if (memory && t) narrow(t, memory);
        else if (memory && vector) fill_vector(memory, desc.n_in, strstr(p->name, ".bias") != NULL);
    }
    return hand_over(b, &desc, out);
}

/* ------------------------------------------------------------------------------------------------------ places --- */
static kvrt_status bind_layer(binder *b, uint32_t layer)
{
    place places[N_LAYER_PLACES + 1];
    layer_places(b->config, places);
    places[N_LAYER_PLACES] = down_place(b->config);
    unsigned char *handles = (unsigned char *)&b->out->layers[layer];
    for (uint32_t i = 0; i <= N_LAYER_PLACES; i++) {
        if (!places[i].present) continue;
        char name[128];
        (void)snprintf(name, sizeof name, KVI_NAME_LAYER, layer, places[i].name);
        KVI_TRY(bind(b, name, &places[i], (const kvi_weight **)(void *)(handles + places[i].slot)));
    }
    return KVRT_OK;
}

/* tie_word_embeddings, unless the checkpoint holds a head that differs: then it is computed with, as transformers does. */
static bool shares_embeddings(const binder *b)
{
    if (!b->config->tied_embeddings || !b->checkpoint) return b->config->tied_embeddings;
    const kvi_tensor *embed = find(b, KVI_NAME_EMBED), *head = find(b, KVI_NAME_HEAD);
    return !embed || !head ||
           (embed->form == head->form && embed->bytes == head->bytes && embed->n_dims == head->n_dims &&
            memcmp(embed->shape, head->shape, sizeof embed->shape) == 0 &&
            memcmp(embed->data, head->data, embed->bytes) == 0);
}

static kvrt_status bind_all(binder *b)
{
    const kvi_model_config *c = b->config;
    kvi_model_weights *out = b->out;
    place embed = {KVI_NAME_EMBED, c->vocab_size, c->hidden_size, "vocab_size, hidden_size", true, 0};
    place norm = {KVI_NAME_NORM, c->hidden_size, 0, "hidden_size", true, 0};
    const bool tied = shares_embeddings(b);
    /* Tied embeddings may be stored under either name. */
    const bool as_head = tied && b->checkpoint && !find(b, KVI_NAME_EMBED) && find(b, KVI_NAME_HEAD);
    KVI_TRY(bind(b, as_head ? KVI_NAME_HEAD : KVI_NAME_EMBED, &embed, &out->embed));
    uint64_t embed_bytes = out->bytes;
    for (uint32_t i = 0; i < c->n_layers; i++) KVI_TRY(bind_layer(b, i));
    KVI_TRY(bind(b, KVI_NAME_NORM, &norm, &out->norm));
    out->head = out->embed;
    if (!tied) {
        embed.name = KVI_NAME_HEAD;
        KVI_TRY(bind(b, KVI_NAME_HEAD, &embed, &out->head));
    }
    out->read_bytes = tied ? out->bytes : out->bytes - embed_bytes;
    for (int f = 0; f < KVI_FORM_COUNT; f++)
        if (b->form_bytes[f] > b->form_bytes[out->form]) out->form = (kvi_weight_form)f;
    return KVRT_OK;
}

/* Small values around zero without structure; vectors are F32 and 64-byte aligned. One block is drawn and repeated at odd strides, which
 * costs a copy's time and still makes neighbouring rows differ. */
static void fill_synthetic(unsigned char *memory, uint64_t bytes, kvi_weight_form form)
{
    enum { BLOCK = 1 << 20 };
    uint64_t block = BLOCK + 4u * 1021u, filled = 0, state = 0x9e3779b97f4a7c15u;
    for (; filled < block && filled + 4 <= bytes; filled += 4) {
        /* Exponent near 2^-6, random sign and mantissa, laid so that both halves of the word and the word itself are such numbers. */
        uint32_t r = (uint32_t)(kvi_lcg(&state) >> 33), word;
        if (form == KVI_FORM_F16) word = 0x24002400u | (r & 0x83ff83ffu);
        else word = 0x3c003c00u | (r & 0x80ff80ffu);
        memcpy(memory + filled, &word, 4);
    }
    for (; filled < bytes; filled += block)
        memcpy(memory + filled, memory, bytes - filled < block ? bytes - filled : block);
}

/* Checks every tensor and adds up the bytes before the first one is imported. */
static kvrt_status count_all(binder *b, uint64_t *taken_bytes)
{
    kvi_model_weights count = {.layers = b->out->layers};
    binder dry = *b;
    dry.out = &count;
    dry.dry = true;
    KVI_TRY(bind_all(&dry));
    b->total_bytes = count.bytes;
    b->out->memory_bytes = dry.memory_used;
    *taken_bytes = count.taken_bytes;
    return KVRT_OK;
}

/* One block for all that is not computed with in the checkpoint's own bytes. */
static kvrt_status take_block(binder *b)
{
    uint64_t bytes = b->out->memory_bytes;
    if (!bytes) return KVRT_OK;
    b->out->memory = kvi_mem_alloc_aligned(bytes);
    if (!b->out->memory) return kvi_error_nomem(b->error, bytes, "weights");
    if (!b->checkpoint) fill_synthetic(b->out->memory, bytes, b->synthetic_form);
    return KVRT_OK;
}

kvi_weight_form kvi_form_named(const char *name)
{
    int form = 0;
    while (form < KVI_FORM_COUNT && strcmp(kvi_form((kvi_weight_form)form)->name, name) != 0) form++;
    return (kvi_weight_form)form;
}

kvrt_status kvi_weights_bind(const kvi_model_config *config, const kvi_checkpoint *checkpoint, kvi_weight_form form,
                             const kvi_backend *backend, kvi_device *device, kvi_progress_fn progress, void *user,
                             kvi_model_weights *out, kvrt_error *error)
{
    memset(out, 0, sizeof *out);
    out->layers = kvi_mem_zalloc(config->n_layers, sizeof *out->layers);
    if (!out->layers) return kvi_error_nomem(error, config->n_layers * sizeof *out->layers, "layer table");
    binder b = {.config = config,
                .checkpoint = checkpoint,
                .backend = backend,
                .device = device,
                .progress = progress,
                .user = user,
                .out = out,
                .synthetic_form = form,
                .error = error};
    uint64_t taken_bytes = 0;
    kvrt_status status = device ? count_all(&b, &taken_bytes) : KVRT_OK;
    if (status >= KVRT_OK && device && backend->weights_reserve)
        status = backend->weights_reserve(device, taken_bytes, error);
    if (status >= KVRT_OK && device) status = take_block(&b);
    if (status >= KVRT_OK) status = bind_all(&b);
    out->memory_bytes = b.memory_used;
    if (status < KVRT_OK) kvi_weights_free(out);
    return status;
}

void kvi_weights_free(kvi_model_weights *weights)
{
    kvi_mem_free(weights->layers);
    kvi_mem_free_aligned(weights->memory);
    weights->layers = NULL;
    weights->memory = NULL;
}
