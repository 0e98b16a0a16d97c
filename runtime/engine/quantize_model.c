/* quantize_model.c - kvrt_quantize: the weights of an open model as integers, tensor by tensor, and the config.json that says so. The
 * arithmetic stands in model/quantize.h; who writes files is the host. */
#include "quantize_gguf.h"
#include "seat.h"
#include "session.h"
#include "../base/folder.h"
#include "../base/json.h"
#include "../model/quantization/quantization.h"
#include "../model/weight_codec.h"

#include <stdio.h>
#include <string.h>

#define MOMENTS_BYTES                                                                                                  \
    (1ull << 30) /* of second moments that are held at a time: the text is read once for so many layers */

typedef kvi_quantize_item item;

typedef struct quantizer {
    kvi_engine *e;
    const kvrt_quantize_params *params;
    kvrt_quantize_fn fn;
    void *user;
    kvi_quantize_items items;
    float **moments; /* (n_ops) of those of the layers in hand; NULL: not wanted */
    uint32_t first_layer, end_layer;
    uint64_t done, total;
    kvrt_error *error;
} quantizer;

static kvrt_status cancelled(const quantizer *q)
{
    return kvi_error_set(q->error, KVRT_CANCELLED, "quantizing cancelled");
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
static kvrt_status tell(quantizer *q, bool list, kvrt_quantize_event *event)
{
    if (list) q->total += event->bytes;
    else q->done += event->bytes;
    event->size = sizeof *event;
    event->kind = list ? KVRT_QUANTIZE_LIST : KVRT_QUANTIZE_TENSOR;
    event->done = q->done, event->total = q->total;
    if (list) event->data = NULL;
    return q->fn(event, q->user) ? cancelled(q) : KVRT_OK;
}

static kvrt_status say(quantizer *q, bool list, const item *i, const char *suffix, const char *dtype, uint64_t rows,
                       uint64_t columns, uint64_t bytes, const void *data)
{
    char name[200];
    (void)snprintf(name, sizeof name, "%s.%s", i->module, suffix);
    kvrt_quantize_event event = {.name = name,
                                 .dtype = dtype,
                                 .shape = {rows, columns},
                                 .n_dims = columns ? 2 : 1,
                                 .bytes = bytes,
                                 .data = data};
    return tell(q, list, &event);
}

/* A tensor as it is, with the type and the shape that it has. */
static kvrt_status say_raw(quantizer *q, bool list, const item *i)
{
    const kvi_tensor *t = i->raw;
    kvrt_quantize_event event = {.name = i->module[0] ? i->module : t->name,
                                 .dtype = t->dtype,
                                 .n_dims = t->n_dims,
                                 .bytes = t->bytes,
                                 .data = t->data};
    for (uint32_t d = 0; d < t->n_dims; d++) event.shape[d] = t->shape[d];
    return tell(q, list, &event);
}

static const char *dtype_name(kvi_dtype type) { return type == KVI_F32 ? "F32" : type == KVI_F16 ? "F16" : "BF16"; }

/* The numbers of an item that is not rounded, in F32: exact, whatever form they have. */
static void decode(const item *i, float *out)
{
    const kvi_weight_desc *d = &i->desc;
    for (uint32_t r = 0; d->n_out > 1 && r < d->n_out; r++)
        (void)kvi_weight_decode(d, 0, kvi_quantize_turned_row(i->turned, r), 0, d->n_in, out + (size_t)r * d->n_in);
    for (uint32_t k = 0; d->n_out == 1 && k < d->n_in; k++)
        (void)kvi_weight_decode(d, 0, 0, kvi_quantize_turned_row(i->turned, k), 1, out + k);
}

static kvrt_status say_decoded(quantizer *q, bool list, const item *i)
{
    const kvi_weight_desc *d = &i->desc;
    const bool own = kvi_form_is_plain(d->form) && !i->turned;
    const kvi_dtype type = own ? kvi_form_dtype(d->form) : KVI_F32;
    const uint64_t n = (uint64_t)d->n_out * d->n_in;
    float *made = own || list ? NULL : kvi_mem_alloc((size_t)n * sizeof *made);
    if (!own && !list && !made) return kvi_error_nomem(q->error, n * sizeof *made, d->name);
    if (made) decode(i, made);
    const kvrt_status status =
        say(q, list, i, i->suffix, dtype_name(type), d->n_out == 1 ? d->n_in : d->n_out, d->n_out == 1 ? 0 : d->n_in,
            n * kvi_dtype_bytes(type), own ? d->parts[KVI_PART_CODES] : made);
    kvi_mem_free(made);
    return status;
}

static kvi_quantize_args args_of(const quantizer *q, const item *i)
{
    kvi_quantize_args args = q->items.kinds[i->kind].args;
    args.scale_type = kvi_fewer_scale_type(&i->desc);
    return args;
}
static uint64_t row_bytes(const item *i, const kvi_quantize_args *args)
{
    return (i->desc.n_in * (uint64_t)args->bits + 31) / 32 * 4;
}
static uint32_t groups_of(const item *i, const kvi_quantize_args *args)
{
    return args->group ? i->desc.n_in / args->group : 1;
}

/* Memory of one weight that is being quantized. */
typedef struct workshop {
    kvi_quantize_args args;
    uint8_t *packed, *scales; /* as stored */
    float *w, *s;             /* (KVI_GPTQ_ROWS, n_in), (KVI_GPTQ_ROWS, groups) */
    int8_t *codes;            /* (KVI_GPTQ_ROWS, n_in) */
    float *importance;        /* (n_in); unused without a text */
    kvi_gptq gptq;
} workshop;

static kvrt_status open_workshop(const quantizer *q, const item *i, workshop *s)
{
    const kvi_quantize_args args = args_of(q, i);
    const uint32_t n_in = i->desc.n_in, n_out = i->desc.n_out, groups = groups_of(i, &args);
    *s = (workshop){.args = args,
                    .packed = kvi_mem_zalloc(n_out, (size_t)row_bytes(i, &args)),
                    .scales = kvi_mem_alloc((size_t)n_out * groups * kvi_dtype_bytes(args.scale_type)),
                    .w = kvi_mem_alloc((size_t)KVI_GPTQ_ROWS * n_in * sizeof(float)),
                    .s = kvi_mem_alloc((size_t)KVI_GPTQ_ROWS * groups * sizeof(float)),
                    .codes = kvi_mem_alloc((size_t)KVI_GPTQ_ROWS * n_in),
                    .importance = kvi_mem_alloc(n_in * sizeof(float))};
    return s->packed && s->scales && s->w && s->s && s->codes && s->importance
               ? KVRT_OK
               : kvi_error_nomem(q->error, n_out * row_bytes(i, &args), i->desc.name);
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
    const kvi_quantize_args *args = &s->args;
    const uint32_t n_in = i->desc.n_in, groups = groups_of(i, args), scale_bytes = kvi_dtype_bytes(args->scale_type);
    const bool gptq = h && args->method == KVI_QUANTIZE_GPTQ;
    if (gptq) KVI_TRY(kvi_gptq_prepare(h, n_in, &s->gptq, q->error));
    for (uint32_t k = 0; h && k < n_in; k++) s->importance[k] = h[(size_t)k * n_in + k];
    for (uint32_t first = 0; first < i->desc.n_out; first += KVI_GPTQ_ROWS) {
        const uint32_t n = i->desc.n_out - first < KVI_GPTQ_ROWS ? i->desc.n_out - first : KVI_GPTQ_ROWS;
        for (uint32_t r = 0; r < n; r++) {
            float *w = s->w + (size_t)r * n_in;
            (void)kvi_weight_decode(&i->desc, 0, kvi_quantize_turned_row(i->turned, first + r), 0, n_in, w);
            kvi_quantize_scales(args, w, h ? s->importance : NULL, n_in, s->s + (size_t)r * groups);
            if (!gptq) kvi_quantize_round(args, w, s->s + (size_t)r * groups, n_in, s->codes + (size_t)r * n_in);
        }
        if (gptq) kvi_gptq_round(&s->gptq, args, s->w, s->s, n, s->codes);
        for (uint32_t r = 0; r < n; r++) {
            kvi_quantize_pack(args, s->codes + (size_t)r * n_in, n_in, s->packed + (first + r) * row_bytes(i, args));
            for (uint32_t g = 0; g < groups; g++)
                kvi_put_scale(s->scales + ((size_t)(first + r) * groups + g) * scale_bytes, args->scale_type,
                              s->s[(size_t)r * groups + g]);
        }
    }
    return KVRT_OK;
}

static kvrt_status say_integers(quantizer *q, bool list, const item *i, const workshop *s)
{
    const kvi_quantize_args args = args_of(q, i);
    const uint64_t n_out = i->desc.n_out, groups = groups_of(i, &args), row = row_bytes(i, &args);
    const int64_t shape[2] = {i->desc.n_out, i->desc.n_in};
    KVI_TRY(say(q, list, i, "weight_packed", "I32", n_out, row / 4, n_out * row, s ? s->packed : NULL));
    KVI_TRY(say(q, list, i, "weight_scale", dtype_name(args.scale_type), n_out, groups,
                n_out * groups * kvi_dtype_bytes(args.scale_type), s ? s->scales : NULL));
    return say(q, list, i, "weight_shape", "I64", 2, 0, sizeof shape, shape);
}

static kvrt_status make_integers(quantizer *q, const item *i)
{
    workshop s;
    kvrt_status status = i->layer == KVI_NO_LAYER ? KVRT_OK : learn(q, i->layer);
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

/* One entry of config_groups: modules that are rounded alike, by name, or those and all that nobody names. Experts go by an expression, since there
 * are many, and since transformers takes the group that has one with "experts" in it for theirs. */
static void write_group(const quantizer *q, uint32_t kind, bool usual, uint32_t number, kvi_buf *out)
{
    const kvi_quantize_kind *k = &q->items.kinds[kind];
    uint32_t n = 0;
    print(out, "%s\n      \"group_%u\": {\"targets\": [", number ? "," : "", number);
    if (k->has_experts) print(out, "%s\"re:.*\\\\.experts\\\\.[0-9]+\\\\..*\"", "", n++);
    if (usual) kvi_buf_append_str(out, n ? ", \"Linear\"" : "\"Linear\"");
    for (size_t i = 0; !usual && i < q->items.n; i++) {
        const item *it = &q->items.items[i];
        if (!it->rounded || it->kind != kind || it->is_expert) continue;
        if (n++) kvi_buf_append_str(out, ", ");
        kvi_json_write_string(out, it->module, strlen(it->module));
    }
    print(out, "], \"weights\": {%s\"num_bits\": %u, \"type\": \"int\", \"symmetric\": true, ", "", k->args.bits);
    if (k->args.group) print(out, "\"strategy\": \"group\", %s\"group_size\": %u, ", "", k->args.group);
    else kvi_buf_append_str(out, "\"strategy\": \"channel\", ");
    kvi_buf_append_str(out, "\"dynamic\": false}, \"input_activations\": null, \"output_activations\": null}");
}

/* That of most weights is for all that nobody names, and stands last: there are readers that take the first group that matches. */
static void write_groups(const quantizer *q, kvi_buf *out)
{
    uint32_t usual = 0, number = 0;
    for (uint32_t k = 1; k < q->items.n_kinds; k++)
        if (q->items.kinds[k].n_weights > q->items.kinds[usual].n_weights) usual = k;
    for (uint32_t k = 0; k < q->items.n_kinds; k++)
        if (k != usual) write_group(q, k, false, number++, out);
    write_group(q, usual, true, number, out);
}

/* Matrices that stay as they are, by module: to a reader without this list every Linear is quantized. */
static void write_ignored(const quantizer *q, kvi_buf *out)
{
    bool head = q->params->head_bits != 0;
    uint32_t n = 0;
    for (size_t i = 0; i < q->items.n; i++) {
        const kvi_tensor *t = q->items.items[i].raw;
        const char *dot = t ? strrchr(t->name, '.') : NULL;
        if (!t || t->n_dims != 2 || !dot || strcmp(dot, ".weight") != 0 || t == q->items.embed) continue;
        head = head || strcmp(t->name, KVI_NAME_HEAD) == 0;
        if (n++) kvi_buf_append_str(out, ", ");
        kvi_json_write_string(out, t->name, (size_t)(dot - t->name));
    }
    if (!head) kvi_buf_append_str(out, n ? ", \"lm_head\"" : "\"lm_head\"");
}

/* config.json without its last brace. */
static kvrt_status begin_config(const quantizer *q, kvi_buf *out)
{
    kvi_map map = {0};
    if (q->e->files.gguf) return kvi_quantize_gguf_config(q->e, out, q->error);
    KVI_TRY(kvi_folder_map(q->e->files.path, "config.json", true, &map, NULL, q->error));
    uint64_t end = map.len;
    while (end && map.data[end - 1] != '}') end--;
    while (end > 1 && strchr(" \t\r\n", (char)map.data[end - 2])) end--;
    kvi_buf_append(out, map.data, end ? (size_t)end - 1 : 0);
    kvi_os_unmap(&map);
    return KVRT_OK;
}

/* The config.json of the folder, with what was done to it before its last brace: of a key given twice the last one counts. */
static kvrt_status say_config(quantizer *q)
{
    kvi_buf out = {0};
    kvrt_status status = begin_config(q, &out);
    if (status < KVRT_OK) {
        kvi_buf_free(&out);
        return status;
    }
    if (q->items.own_head) kvi_buf_append_str(&out, ",\n  \"tie_word_embeddings\": false");
    kvi_buf_append_str(&out, ",\n  \"quantization_config\": {\n    \"quant_method\": \"compressed-tensors\",\n    "
                             "\"format\": \"pack-quantized\",\n"
                             "    \"quantization_status\": \"compressed\",\n    \"config_groups\": {");
    write_groups(q, &out);
    kvi_buf_append_str(&out, "\n    },\n    \"ignore\": [");
    write_ignored(q, &out);
    kvi_buf_append_str(&out, "]\n  }\n}\n");
    if (out.failed) status = kvi_error_nomem(q->error, out.len, "config.json");
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
    if (!e->checkpoint || !e->device)
        return kvi_error_set(q->error, KVRT_UNSUPPORTED, "kvrt_quantize: need a model opened from files");
    if (e->files.gguf) KVI_TRY(kvi_quantize_gguf_check(e, q->error));
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
    KVI_TRY(kvi_quantize_items_find(q->e, q->params, &q->items, q->error));
    q->moments = kvi_mem_zalloc(q->e->program.program.n_ops, sizeof *q->moments);
    if (!q->moments) return kvi_error_nomem(q->error, q->e->program.program.n_ops * sizeof *q->moments, "operations");
    for (size_t i = 0; i < q->items.n; i++) {
        const item *it = &q->items.items[i];
        KVI_TRY(it->raw       ? say_raw(q, true, it)
                : it->rounded ? say_integers(q, true, it, NULL)
                              : say_decoded(q, true, it));
    }
    for (size_t i = 0; i < q->items.n; i++) {
        const item *it = &q->items.items[i];
        KVI_TRY(it->raw ? say_raw(q, false, it) : it->rounded ? make_integers(q, it) : say_decoded(q, false, it));
    }
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
    kvi_quantize_items_free(&q.items);
    kvi_engine_leave(e, KVI_LOOK);
    return status;
}
