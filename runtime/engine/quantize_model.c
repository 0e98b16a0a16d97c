/* quantize_model.c - kvrt_quantize: the weights of an open model as integers, tensor by tensor, and the config.json that says so. The
 * arithmetic stands in model/quantize.h; who writes files is the host. */
#include "seat.h"
#include "session.h"
#include "../base/folder.h"
#include "../base/json.h"
#include "../model/quantization/quantization.h"
#include "../model/fewer_bits.h"
#include "../model/quantize.h"
#include "../model/weight_codec.h"

#include <stdio.h>
#include <string.h>

#define MOMENTS_BYTES                                                                                                  \
    (1ull << 30) /* of second moments that are held at a time: the text is read once for so many layers */
#define NO_LAYER UINT32_MAX

/* A weight of the model, and what becomes of it. */
typedef struct item {
    kvi_weight_desc desc;
    const kvi_weight *handle;
    uint32_t layer;
    kvi_quantize_args args; /* bits 0: it stays as it is */
    char module[160];
} item;

typedef struct quantizer {
    kvi_engine *e;
    const kvrt_quantize_params *params;
    kvrt_quantize_fn fn;
    void *user;
    item *items;
    uint32_t n_items, cap_items;
    float **moments; /* (n_ops) of those of the layers in hand; NULL: not wanted */
    uint32_t first_layer, end_layer;
    bool own_head; /* shared embeddings, and a head that is to be quantized */
    uint64_t done, total;
    kvrt_error *error;
    kvrt_status status; /* of collecting */
} quantizer;

static kvrt_status cancelled(const quantizer *q)
{
    return kvi_error_set(q->error, KVRT_CANCELLED, "quantizing cancelled");
}

/* ------------------------------------------------------------------------------------------------------- items --- */
static kvrt_status choose(quantizer *q, item *i, uint32_t bits, uint32_t group)
{
    const kvi_weight_desc *d = &i->desc;
    if (d->n_experts > 1 || d->experts || d->rows.of || d->transposed)
        return kvi_error_set(q->error, KVRT_UNSUPPORTED, "tensor %s: %s, which kvrt quantize does not have yet",
                             d->name,
                             d->rows.of      ? "several matrices in one"
                             : d->transposed ? "stored by columns"
                                             : "experts");
    i->args = (kvi_quantize_args){.bits = bits,
                                  .group = kvi_fewer_group(group, d->n_in),
                                  .scale_type = kvi_fewer_scale_type(d),
                                  .method = (kvi_quantize_method)q->params->method};
    if (i->args.group && i->args.group < 8)
        return kvi_error_set(q->error, KVRT_UNSUPPORTED, "tensor %s: rows of %u, no group of 8 or more divides them",
                             d->name, d->n_in);
    return KVRT_OK;
}

static void collect(void *user, const kvi_weight_desc *desc)
{
    quantizer *q = user;
    void *items = q->items;
    size_t cap = q->cap_items;
    if (q->status < KVRT_OK) return;
    if (!kvi_mem_grow(&items, &cap, q->n_items + 2, sizeof *q->items)) { /* one more: a head of its own */
        q->status = kvi_error_nomem(q->error, (q->n_items + 2) * sizeof *q->items, "list of weights");
        return;
    }
    q->items = items, q->cap_items = (uint32_t)cap;
    item *i = &q->items[q->n_items++];
    *i = (item){.desc = *desc, .layer = NO_LAYER};
    const char *dot = strrchr(desc->name, '.');
    const size_t stem = dot ? (size_t)(dot - desc->name) : 0;
    if (!kvi_form_is_plain(desc->form) || !desc->parts[KVI_PART_CODES] || !stem || stem >= sizeof i->module)
        q->status = kvi_error_set(q->error, KVRT_UNSUPPORTED, "tensor %s: %s, need F32, F16 or BF16", desc->name,
                                  desc->parts[KVI_PART_CODES] ? kvi_form(desc->form)->name : "F64, or several in one");
    else memcpy(i->module, desc->name, stem);
}

/* Layers and handles, in the order in which the weights were bound. */
static kvrt_status place_items(quantizer *q)
{
    const kvi_model_config *c = &q->e->config;
    const kvi_fewer_bits want = {.bits = q->params->bits};
    uint32_t at = 1; /* behind the embeddings */
    for (uint32_t layer = 0; layer < c->n_layers; layer++) {
        kvi_place places[KVI_MAX_PLACES];
        const uint32_t n = kvi_layer_places(c, layer, places);
        const unsigned char *handles = (const unsigned char *)&q->e->weights.layers[layer];
        for (uint32_t p = 0; p < n && at < q->n_items; p++, at++) {
            q->items[at].layer = layer;
            memcpy(&q->items[at].handle, handles + places[p].slot, sizeof q->items[at].handle);
            if (kvi_fewer_bits_at(&want, KVI_ROLE_LAYER, &places[p]))
                KVI_TRY(choose(q, &q->items[at], want.bits, q->params->group));
        }
    }
    if (at >= q->n_items) return kvi_error_set(q->error, KVRT_INTERNAL, "quantize: weights and places differ");
    return KVRT_OK;
}

/* The head is the last one, or the embeddings once more. */
static kvrt_status place_head(quantizer *q)
{
    if (!q->params->head_bits) return KVRT_OK;
    item *last = &q->items[q->n_items - 1];
    if (strcmp(last->module, "lm_head") != 0) {
        last = &q->items[q->n_items++];
        *last = q->items[0];
        (void)snprintf(last->module, sizeof last->module, "lm_head");
        q->own_head = true;
    }
    return choose(q, last, q->params->head_bits, 0);
}

/* ---------------------------------------------------------------------------------------------------- learning --- */
static void on_input(void *user, const kvi_op *op, const float *x, uint32_t n_rows, uint32_t n_in)
{
    quantizer *q = user;
    float *h = q->moments[op - q->e->program.program.ops];
    if (h) kvi_moments_add(h, x, n_rows, n_in);
}

static void forget_moments(quantizer *q)
{
    for (uint32_t i = 0; q->moments && i < q->e->program.program.n_ops; i++) {
        kvi_mem_free(q->moments[i]);
        q->moments[i] = NULL;
    }
}

/* Room for the products of as many layers from first_layer on as fit. */
static kvrt_status take_moments(quantizer *q)
{
    const kvi_program *p = &q->e->program.program;
    uint64_t taken = 0;
    q->end_layer = q->first_layer;
    for (uint32_t i = 0; i < p->n_ops; i++) {
        const kvi_op *op = &p->ops[i];
        const bool product =
            op->kind == KVI_OP_NORM_LINEAR || op->kind == KVI_OP_LINEAR_ADD || op->kind == KVI_OP_NORM_GATE_UP;
        const uint64_t n = p->buffers[op->in].cols, bytes = n * n * sizeof(float);
        if (!product || op->layer < q->first_layer) continue;
        if (op->layer >= q->end_layer) {
            if (taken >= MOMENTS_BYTES / 2) break;
            q->end_layer = op->layer + 1;
        }
        q->moments[i] = kvi_mem_zalloc((size_t)(n * n), sizeof(float));
        if (!q->moments[i]) return kvi_error_nomem(q->error, bytes, "second moments");
        taken += bytes;
    }
    return KVRT_OK;
}

static kvrt_status report_learning(quantizer *q, uint64_t done)
{
    const uint64_t layers = q->e->config.n_layers;
    const kvrt_quantize_event event = {.size = sizeof event,
                                       .kind = KVRT_QUANTIZE_LEARN,
                                       .done =
                                           q->first_layer * q->params->n_ids + done * (q->end_layer - q->first_layer),
                                       .total = layers * q->params->n_ids,
                                       .name = "",
                                       .dtype = ""};
    return q->fn(&event, q->user) ? cancelled(q) : KVRT_OK;
}

static kvrt_status read_text(quantizer *q, kvrt_session session)
{
    const uint64_t ctx =
        kvi_options_i64(q->e->options, "ctx.size") > 0 ? (uint64_t)kvi_options_i64(q->e->options, "ctx.size") : 512;
    for (uint64_t at = 0, part; at < q->params->n_ids; at += part) {
        const uint64_t left = q->params->n_ids - at;
        part = left < ctx ? left : ctx;
        KVI_TRY(report_learning(q, at));
        KVI_TRY(kvrt_session_rewind(session, 0, q->error));
        KVI_TRY(kvrt_session_eval(session, q->params->ids + at, part, NULL, 0, NULL, q->error));
    }
    return KVRT_OK;
}

/* Second moments of the inputs of layer `layer` and of some that follow. */
static kvrt_status learn(quantizer *q, uint32_t layer)
{
    kvrt_session session;
    if (!q->params->n_ids || layer < q->end_layer) return KVRT_OK;
    forget_moments(q);
    q->first_layer = layer;
    KVI_TRY(take_moments(q));
    KVI_TRY(kvrt_session_create(q->e->handle, NULL, &session, q->error));
    q->e->backend->watch(q->e->device, on_input, q);
    const kvrt_status status = read_text(q, session);
    q->e->backend->watch(q->e->device, NULL, NULL);
    (void)kvrt_session_close(session, NULL);
    return status;
}

static const float *moments_of(const quantizer *q, const item *i)
{
    const kvi_program *p = &q->e->program.program;
    for (uint32_t o = 0; q->params->n_ids && i->handle && o < p->n_ops; o++)
        for (uint32_t w = 0; w < p->ops[o].n_weights && w < 3; w++)
            if (p->ops[o].weights[w] == i->handle) return q->moments[o];
    return NULL;
}

/* ----------------------------------------------------------------------------------------------------- tensors --- */
static kvrt_status say(quantizer *q, bool list, const item *i, const char *suffix, const char *dtype, uint64_t rows,
                       uint64_t columns, uint64_t bytes, const void *data)
{
    char name[200];
    (void)snprintf(name, sizeof name, "%s.%s", i->module, suffix);
    if (list) q->total += bytes;
    else q->done += bytes;
    const kvrt_quantize_event event = {.size = sizeof event,
                                       .kind = list ? KVRT_QUANTIZE_LIST : KVRT_QUANTIZE_TENSOR,
                                       .done = q->done,
                                       .total = q->total,
                                       .name = name,
                                       .dtype = dtype,
                                       .shape = {rows, columns},
                                       .n_dims = columns ? 2 : 1,
                                       .bytes = bytes,
                                       .data = list ? NULL : data};
    return q->fn(&event, q->user) ? cancelled(q) : KVRT_OK;
}

static const char *dtype_name(kvi_dtype type) { return type == KVI_F32 ? "F32" : type == KVI_F16 ? "F16" : "BF16"; }

static kvrt_status say_plain(quantizer *q, bool list, const item *i)
{
    const kvi_weight_desc *d = &i->desc;
    const char *suffix = strrchr(d->name, '.') + 1;
    return say(q, list, i, suffix, dtype_name(kvi_form_dtype(d->form)), d->n_out == 1 ? d->n_in : d->n_out,
               d->n_out == 1 ? 0 : d->n_in, kvi_weight_part_bytes(d, KVI_PART_CODES), d->parts[KVI_PART_CODES]);
}

static uint64_t row_bytes(const item *i) { return (i->desc.n_in * (uint64_t)i->args.bits + 31) / 32 * 4; }
static uint32_t groups_of(const item *i) { return i->args.group ? i->desc.n_in / i->args.group : 1; }

/* Memory of one weight that is being quantized. */
typedef struct workshop {
    uint8_t *packed, *scales; /* as stored */
    float *w, *s;             /* (KVI_GPTQ_ROWS, n_in), (KVI_GPTQ_ROWS, groups) */
    int8_t *codes;            /* (KVI_GPTQ_ROWS, n_in) */
    float *importance;        /* (n_in); unused without a text */
    kvi_gptq gptq;
} workshop;

static kvrt_status open_workshop(const quantizer *q, const item *i, workshop *s)
{
    const uint32_t n_in = i->desc.n_in, n_out = i->desc.n_out, groups = groups_of(i);
    *s = (workshop){.packed = kvi_mem_zalloc(n_out, (size_t)row_bytes(i)),
                    .scales = kvi_mem_alloc((size_t)n_out * groups * kvi_dtype_bytes(i->args.scale_type)),
                    .w = kvi_mem_alloc((size_t)KVI_GPTQ_ROWS * n_in * sizeof(float)),
                    .s = kvi_mem_alloc((size_t)KVI_GPTQ_ROWS * groups * sizeof(float)),
                    .codes = kvi_mem_alloc((size_t)KVI_GPTQ_ROWS * n_in),
                    .importance = kvi_mem_alloc(n_in * sizeof(float))};
    return s->packed && s->scales && s->w && s->s && s->codes && s->importance
               ? KVRT_OK
               : kvi_error_nomem(q->error, n_out * row_bytes(i), i->desc.name);
}

static void close_workshop(workshop *s)
{
    kvi_mem_free(s->packed);
    kvi_mem_free(s->scales);
    kvi_mem_free(s->w);
    kvi_mem_free(s->s);
    kvi_mem_free(s->codes);
    kvi_mem_free(s->importance);
    kvi_gptq_free(&s->gptq);
}

static kvrt_status quantize_rows(quantizer *q, const item *i, workshop *s)
{
    const float *h = moments_of(q, i);
    const uint32_t n_in = i->desc.n_in, groups = groups_of(i), scale_bytes = kvi_dtype_bytes(i->args.scale_type);
    const bool gptq = h && i->args.method == KVI_QUANTIZE_GPTQ;
    if (gptq) KVI_TRY(kvi_gptq_prepare(h, n_in, &s->gptq, q->error));
    for (uint32_t k = 0; h && k < n_in; k++) s->importance[k] = h[(size_t)k * n_in + k];
    for (uint32_t first = 0; first < i->desc.n_out; first += KVI_GPTQ_ROWS) {
        const uint32_t n = i->desc.n_out - first < KVI_GPTQ_ROWS ? i->desc.n_out - first : KVI_GPTQ_ROWS;
        for (uint32_t r = 0; r < n; r++) {
            float *w = s->w + (size_t)r * n_in;
            (void)kvi_weight_decode(&i->desc, 0, first + r, 0, n_in, w);
            kvi_quantize_scales(&i->args, w, h ? s->importance : NULL, n_in, s->s + (size_t)r * groups);
            if (!gptq) kvi_quantize_round(&i->args, w, s->s + (size_t)r * groups, n_in, s->codes + (size_t)r * n_in);
        }
        if (gptq) kvi_gptq_round(&s->gptq, &i->args, s->w, s->s, n, s->codes);
        for (uint32_t r = 0; r < n; r++) {
            kvi_quantize_pack(&i->args, s->codes + (size_t)r * n_in, n_in, s->packed + (first + r) * row_bytes(i));
            for (uint32_t g = 0; g < groups; g++)
                kvi_put_scale(s->scales + ((size_t)(first + r) * groups + g) * scale_bytes, i->args.scale_type,
                              s->s[(size_t)r * groups + g]);
        }
    }
    return KVRT_OK;
}

static kvrt_status say_integers(quantizer *q, bool list, const item *i, const workshop *s)
{
    const uint64_t n_out = i->desc.n_out, groups = groups_of(i);
    const int64_t shape[2] = {i->desc.n_out, i->desc.n_in};
    KVI_TRY(
        say(q, list, i, "weight_packed", "I32", n_out, row_bytes(i) / 4, n_out * row_bytes(i), s ? s->packed : NULL));
    KVI_TRY(say(q, list, i, "weight_scale", dtype_name(i->args.scale_type), n_out, groups,
                n_out * groups * kvi_dtype_bytes(i->args.scale_type), s ? s->scales : NULL));
    return say(q, list, i, "weight_shape", "I64", 2, 0, sizeof shape, list ? NULL : shape);
}

static kvrt_status make_integers(quantizer *q, const item *i)
{
    workshop s;
    kvrt_status status = i->layer == NO_LAYER ? KVRT_OK : learn(q, i->layer);
    if (status >= KVRT_OK) status = open_workshop(q, i, &s);
    else return status;
    if (status >= KVRT_OK) status = quantize_rows(q, i, &s);
    if (status >= KVRT_OK) status = say_integers(q, false, i, &s);
    close_workshop(&s);
    return status;
}

/* ------------------------------------------------------------------------------------------------------ config --- */
static void print(kvi_buf *out, const char *format, const char *text, uint32_t number)
{
    char line[160];
    (void)snprintf(line, sizeof line, format, text, number);
    kvi_buf_append_str(out, line);
}

static bool same_args(const item *a, const item *b)
{
    return a->args.bits == b->args.bits && a->args.group == b->args.group;
}

/* One entry of config_groups: the modules that are quantized as `like` is, by name, or all that nobody names. */
static void write_group(const quantizer *q, const item *like, bool by_name, uint32_t number, kvi_buf *out)
{
    print(out, "%s\n      \"group_%u\": {\"targets\": [", number ? "," : "", number);
    if (!by_name) kvi_buf_append_str(out, "\"Linear\"");
    for (uint32_t k = 0, n = 0; by_name && k < q->n_items; k++)
        if (q->items[k].args.bits && same_args(&q->items[k], like)) {
            if (n++) kvi_buf_append_str(out, ", ");
            kvi_json_write_string(out, q->items[k].module, strlen(q->items[k].module));
        }
    print(out, "], \"weights\": {%s\"num_bits\": %u, \"type\": \"int\", \"symmetric\": true, ", "", like->args.bits);
    if (like->args.group) print(out, "\"strategy\": \"group\", %s\"group_size\": %u, ", "", like->args.group);
    else kvi_buf_append_str(out, "\"strategy\": \"channel\", ");
    kvi_buf_append_str(out, "\"dynamic\": false}, \"input_activations\": null, \"output_activations\": null}");
}

/* Modules that are quantized alike are a group. That of most weights is for all that nobody names, and stands last: there are readers that take
 * the first group that matches. */
static void write_groups(const quantizer *q, const item *usual, kvi_buf *out)
{
    uint32_t n_groups = 0;
    for (uint32_t i = 0; i < q->n_items; i++) {
        bool known = !q->items[i].args.bits || same_args(&q->items[i], usual);
        for (uint32_t k = 0; k < i && !known; k++)
            known = q->items[k].args.bits && same_args(&q->items[k], &q->items[i]);
        if (!known) write_group(q, &q->items[i], true, n_groups++, out);
    }
    write_group(q, usual, false, n_groups, out);
}

static const item *usual_item(const quantizer *q)
{
    uint64_t most = 0;
    const item *usual = &q->items[0];
    for (uint32_t i = 0; i < q->n_items; i++) {
        uint64_t n = 0;
        for (uint32_t k = 0; k < q->n_items; k++)
            if (q->items[k].args.bits && q->items[i].args.bits && same_args(&q->items[k], &q->items[i]))
                n += (uint64_t)q->items[k].desc.n_out * q->items[k].desc.n_in;
        if (n > most) most = n, usual = &q->items[i];
    }
    return usual;
}

/* The config.json of the folder, with what was done to it before its last brace: of a key given twice the last one counts. */
static kvrt_status say_config(quantizer *q)
{
    kvi_map map = {0};
    kvi_buf out = {0};
    KVI_TRY(kvi_folder_map(q->e->files.path, "config.json", true, &map, NULL, q->error));
    uint64_t end = map.len;
    while (end && map.data[end - 1] != '}') end--;
    while (end > 1 && strchr(" \t\r\n", (char)map.data[end - 2])) end--;
    kvi_buf_append(&out, map.data, end ? (size_t)end - 1 : 0);
    kvi_os_unmap(&map);
    if (q->own_head) kvi_buf_append_str(&out, ",\n  \"tie_word_embeddings\": false");
    kvi_buf_append_str(&out, ",\n  \"quantization_config\": {\n    \"quant_method\": \"compressed-tensors\",\n    "
                             "\"format\": \"pack-quantized\",\n"
                             "    \"quantization_status\": \"compressed\",\n    \"config_groups\": {");
    write_groups(q, usual_item(q), &out);
    kvi_buf_append_str(&out, q->params->head_bits ? "\n    },\n    \"ignore\": []\n  }\n}\n"
                                                  : "\n    },\n    \"ignore\": [\"lm_head\"]\n  }\n}\n");
    kvrt_status status = out.failed ? kvi_error_nomem(q->error, out.len, "config.json") : KVRT_OK;
    const kvrt_quantize_event event = {.size = sizeof event,
                                       .kind = KVRT_QUANTIZE_CONFIG,
                                       .done = q->done,
                                       .total = q->total,
                                       .name = "config.json",
                                       .dtype = "",
                                       .bytes = out.len,
                                       .data = out.data};
    if (status >= KVRT_OK && q->fn(&event, q->user)) status = cancelled(q);
    kvi_buf_free(&out);
    return status;
}

/* ------------------------------------------------------------------------------------------------------- whole --- */
static kvrt_status check(const quantizer *q)
{
    const kvrt_quantize_params *p = q->params;
    const kvi_engine *e = q->e;
    if ((p->bits != 4 && p->bits != 8) || (p->head_bits && p->head_bits != 8) || p->method < 0 ||
        p->method > KVRT_QUANTIZE_GPTQ)
        return kvi_error_set(q->error, KVRT_ARG,
                             "kvrt_quantize: need bits 4 or 8, head_bits 0 or 8, a method of KVRT_QUANTIZE_*");
    if ((p->ids == NULL) != (p->n_ids == 0) || (p->method == KVRT_QUANTIZE_GPTQ && p->n_ids < 128))
        return kvi_error_set(q->error, KVRT_ARG, "kvrt_quantize: the method gptq needs a text of 128 tokens or more");
    if (e->files.gguf || !e->checkpoint || !e->device)
        return kvi_error_set(q->error, KVRT_UNSUPPORTED,
                             "kvrt_quantize: need a model opened from a Hugging Face folder");
    if (e->checkpoint->quantization)
        return kvi_error_set(q->error, KVRT_UNSUPPORTED, "model %s: quantized already (%s), need F32, F16 or BF16",
                             e->files.path, kvi_quantization_method(e->checkpoint->quantization));
    if (strcmp(kvi_options_string(e->options, "weights.type"), "auto") != 0)
        return kvi_error_set(q->error, KVRT_STATE, "kvrt_quantize: weights.type is %s, need auto",
                             kvi_options_string(e->options, "weights.type"));
    if (p->n_ids && !e->backend->watch)
        return kvi_error_set(q->error, KVRT_UNSUPPORTED,
                             "backend %s: does not show the inputs of its products, need cpu", e->backend->name);
    return KVRT_OK;
}

static kvrt_status quantize(quantizer *q)
{
    KVI_TRY(check(q));
    KVI_TRY(kvi_weights_each(&q->e->config, q->e->checkpoint, collect, q, q->error));
    KVI_TRY(q->status);
    KVI_TRY(place_items(q));
    KVI_TRY(place_head(q));
    q->moments = kvi_mem_zalloc(q->e->program.program.n_ops, sizeof *q->moments);
    if (!q->moments) return kvi_error_nomem(q->error, q->e->program.program.n_ops * sizeof *q->moments, "operations");
    for (uint32_t i = 0; i < q->n_items; i++)
        KVI_TRY(q->items[i].args.bits ? say_integers(q, true, &q->items[i], NULL) : say_plain(q, true, &q->items[i]));
    for (uint32_t i = 0; i < q->n_items; i++)
        KVI_TRY(q->items[i].args.bits ? make_integers(q, &q->items[i]) : say_plain(q, false, &q->items[i]));
    return say_config(q);
}

kvrt_status kvrt_quantize(kvrt_engine handle, const kvrt_quantize_params *params, kvrt_quantize_fn fn, void *user,
                          kvrt_error *error)
{
    kvi_engine *e;
    if (!fn) return kvi_error_set(error, KVRT_ARG, "kvrt_quantize: fn is NULL");
    KVI_TRY(kvi_struct_check(params, "kvrt_quantize_params", error));
    KVI_TRY(kvi_engine_enter(handle, KVI_LOOK, &e, error));
    kvrt_quantize_params own;
    kvi_struct_read(&own, sizeof own, params);
    quantizer q = {.e = e, .params = &own, .fn = fn, .user = user, .error = error};
    const kvrt_status status = quantize(&q);
    forget_moments(&q);
    kvi_mem_free(q.moments);
    kvi_mem_free(q.items);
    kvi_engine_leave(e, KVI_LOOK);
    return status;
}
