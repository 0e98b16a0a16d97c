/* weights.c - one table says which tensors a layer has and what shape each needs; binding walks it. */
#include "weights.h"
#include "families.h"
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
    kvi_dtype synthetic_dtype;
    uint64_t memory_used, total_bytes, dtype_bytes[3]; /* memory_used: of out->memory */
    kvrt_error *error;
} binder;

/* A place in the model: name, needed shape and the key of config.json that the shape comes from. n_in 0 marks a vector. */
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

/* F64 becomes F32 on import. */
static bool usable_dtype(kvi_tensor_dtype found, kvi_dtype *out)
{
    if (found == KVI_TENSOR_F32 || found == KVI_TENSOR_F64) return *out = KVI_F32, true;
    if (found == KVI_TENSOR_F16) return *out = KVI_F16, true;
    if (found == KVI_TENSOR_BF16) return *out = KVI_BF16, true;
    return false;
}

static void shape_text(const kvi_tensor *t, char *text, size_t cap)
{
    size_t len = (size_t)snprintf(text, cap, "[");
    for (uint32_t i = 0; i < t->n_dims && len < cap; i++)
        len += (size_t)snprintf(text + len, cap - len, "%s%llu", i ? ", " : "", (unsigned long long)t->shape[i]);
    if (len < cap) (void)snprintf(text + len, cap - len, "]");
}

static kvrt_status check_tensor(const binder *b, const kvi_tensor *t, const place *p, kvi_weight_desc *desc)
{
    bool vector = p->n_in == 0;
    bool fits = t->n_dims == (vector ? 1u : 2u) && t->shape[0] == p->n_out && (vector || t->shape[1] == p->n_in);
    if (!fits) {
        char found[200], need[64];
        shape_text(t, found, sizeof found);
        if (vector) (void)snprintf(need, sizeof need, "[%u]", p->n_out);
        else (void)snprintf(need, sizeof need, "[%u, %u]", p->n_out, p->n_in);
        return kvi_error_set(b->error, KVRT_FORMAT, "tensor %s: shape %s, need %s (%s in config.json)", t->name, found,
                             need, p->why);
    }
    if (!usable_dtype(t->dtype, &desc->dtype))
        return kvi_error_set(b->error, KVRT_UNSUPPORTED, "tensor %s: dtype %s, need F64, F32, F16 or BF16", t->name,
                             kvi_tensor_dtype_name(t->dtype));
    desc->name = t->name;
    desc->data = t->data;
    return KVRT_OK;
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
    double value;
    for (uint64_t i = 0; i < t->bytes / 8; i++) {
        memcpy(&value, t->data + i * 8, 8);
        out[i] = (float)value;
    }
}

static kvrt_status bind(binder *b, const char *name, const place *p, const kvi_weight **out)
{
    bool vector = p->n_in == 0;
    kvi_weight_desc desc = {.name = p->name,
                            .dtype = vector ? KVI_F32 : b->synthetic_dtype,
                            .n_out = vector ? 1 : p->n_out,
                            .n_in = vector ? p->n_out : p->n_in};
    const kvi_tensor *t = b->checkpoint ? find(b, name) : NULL;
    if (b->checkpoint && !t) return not_found(b, name);
    if (t) KVI_TRY(check_tensor(b, t, p, &desc));
    uint64_t bytes = (uint64_t)desc.n_out * desc.n_in * kvi_dtype_bytes(desc.dtype);
    if (!t || t->dtype == KVI_TENSOR_F64) {
        void *memory = take_memory(b, bytes);
        if (memory) desc.data = memory;
        if (memory && t) narrow(t, memory);
        else if (memory && vector) fill_vector(memory, desc.n_in, strstr(p->name, ".bias") != NULL);
    }
    b->out->bytes += bytes;
    b->out->n_params += (uint64_t)desc.n_out * desc.n_in;
    b->dtype_bytes[desc.dtype] += bytes;
    if (b->backend) b->out->taken_bytes += b->backend->weight_bytes(&desc);
    if (b->dry || !b->device) return KVRT_OK;
    kvi_weight *weight;
    KVI_TRY(b->backend->weight_import(b->device, &desc, &weight, b->error));
    *out = weight;
    if (b->progress && !b->progress(b->user, b->out->bytes, b->total_bytes))
        return kvi_error_set(b->error, KVRT_CANCELLED, "loading cancelled");
    return KVRT_OK;
}

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
           (embed->dtype == head->dtype && embed->bytes == head->bytes && embed->n_dims == head->n_dims &&
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
    for (int d = 0; d < 3; d++)
        if (b->dtype_bytes[d] > b->dtype_bytes[out->dtype]) out->dtype = (kvi_dtype)d;
    return KVRT_OK;
}

/* Small values around zero without structure; vectors are F32 and 64-byte aligned. One block is drawn and repeated at odd strides, which
 * costs a copy's time and still makes neighbouring rows differ. */
static void fill_synthetic(unsigned char *memory, uint64_t bytes, kvi_dtype dtype)
{
    enum { BLOCK = 1 << 20 };
    uint64_t block = BLOCK + 4u * 1021u, filled = 0, state = 0x9e3779b97f4a7c15u;
    for (; filled < block && filled + 4 <= bytes; filled += 4) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        /* Exponent near 2^-6, random sign and mantissa, laid so that both halves of the word and the word itself are such numbers. */
        uint32_t r = (uint32_t)(state >> 33), word;
        if (dtype == KVI_F16) word = 0x24002400u | (r & 0x83ff83ffu);
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
    if (!b->checkpoint) fill_synthetic(b->out->memory, bytes, b->synthetic_dtype);
    return KVRT_OK;
}

kvrt_status kvi_weights_bind(const kvi_model_config *config, const kvi_checkpoint *checkpoint, kvi_dtype dtype,
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
                .synthetic_dtype = dtype,
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
