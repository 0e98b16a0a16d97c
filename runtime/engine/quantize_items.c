/* quantize_items.c - see quantize_items.h. The weights of a model are walked in the order in which they are bound; what no item takes stays. */
#include "quantize_gguf.h"
#include "../base/mem.h"
#include "../model/families.h"

#include <stdio.h>
#include <string.h>

typedef struct finder {
    kvi_engine *e;
    const kvi_model_config *config; /* without a layer that looks ahead */
    const kvrt_quantize_params *params;
    kvi_quantize_items *out;
    bool *taken; /* (n_tensors) is rounded, or written elsewhere */
    kvi_weight_desc embed;
    kvi_place places[KVI_MAX_PLACES]; /* of the layer in hand */
    uint32_t n_seen, layer, place, n_places;
    bool has_head, gguf;
    kvrt_error *error;
    kvrt_status status;
} finder;

static const kvi_tensor *tensor_named(const finder *f, const char *name)
{
    return kvi_checkpoint_find(f->e->checkpoint, name);
}

static bool *taken_flag(const finder *f, const kvi_tensor *t)
{
    return &f->taken[t - kvi_checkpoint_at(f->e->checkpoint, 0)];
}

static kvrt_status refuse(const finder *f, const char *name, const char *what)
{
    return kvi_error_set(f->error, KVRT_UNSUPPORTED, "tensor %s: %s", name, what);
}

static kvrt_status new_item(finder *f, kvi_quantize_item **out)
{
    kvi_quantize_items *list = f->out;
    void *items = list->items;
    if (!kvi_mem_grow(&items, &list->cap, list->n + 1, sizeof *list->items))
        return kvi_error_nomem(f->error, (list->n + 1) * sizeof *list->items, "list of tensors");
    list->items = items;
    *out = &list->items[list->n++];
    **out = (kvi_quantize_item){.layer = KVI_NO_LAYER};
    return KVRT_OK;
}

/* ----------------------------------------------------------------------------------------------------- rounded --- */
static kvrt_status kind_of(finder *f, const kvi_quantize_args *args, uint32_t *out)
{
    kvi_quantize_items *list = f->out;
    for (*out = 0; *out < list->n_kinds; ++*out)
        if (list->kinds[*out].args.bits == args->bits && list->kinds[*out].args.group == args->group) return KVRT_OK;
    if (*out == KVI_QUANTIZE_KINDS)
        return kvi_error_set(f->error, KVRT_UNSUPPORTED, "model %s: rows of more than %u lengths, need another group",
                             f->e->files.path, KVI_QUANTIZE_KINDS);
    list->kinds[list->n_kinds++].args = *args;
    return KVRT_OK;
}

static kvrt_status round_item(finder *f, kvi_quantize_item *item, uint32_t bits, uint32_t group)
{
    const kvi_quantize_args args = {.bits = bits, .group = group, .method = (kvi_quantize_method)f->params->method};
    if (group && group < 8) {
        char text[80];
        (void)snprintf(text, sizeof text, "rows of %u, no group of 8 or more divides them", item->desc.n_in);
        return refuse(f, item->desc.name, text);
    }
    KVI_TRY(kind_of(f, &args, &item->kind));
    item->rounded = true;
    f->out->kinds[item->kind].n_weights += (uint64_t)item->desc.n_out * item->desc.n_in;
    return KVRT_OK;
}

/* One matrix of a tensor, plain and row by row. `module` is its name in the new folder, NULL: the tensor's. */
static kvrt_status round_matrix(finder *f, const kvi_tensor *t, const kvi_weight_desc *like, const void *rows,
                                uint32_t n_rows, uint32_t bits, uint32_t group, const char *module,
                                kvi_quantize_item **item)
{
    const char *dot = strrchr(t->name, '.');
    const size_t stem = dot ? (size_t)(dot - t->name) : 0;
    if (!kvi_form_is_plain(t->form)) {
        char text[80];
        (void)snprintf(text, sizeof text, "%.20s, need F32, F16 or BF16", t->dtype);
        return refuse(f, t->name, text);
    }
    if (module ? strlen(module) >= KVI_QUANTIZE_NAME - 20 : !stem || stem >= KVI_QUANTIZE_NAME - 20)
        return refuse(f, t->name, "no name for what it becomes");
    KVI_TRY(new_item(f, item));
    (*item)->desc = (kvi_weight_desc){
        .name = t->name, .form = t->form, .n_out = n_rows, .n_in = like->n_in, .parts = {[KVI_PART_CODES] = rows}};
    if (module) (void)snprintf((*item)->module, sizeof(*item)->module, "%s", module);
    else memcpy((*item)->module, t->name, stem);
    *taken_flag(f, t) = true;
    return round_item(f, *item, bits, group);
}

/* All rows of a tensor: of one that several weights share, once. */
static kvrt_status round_tensor(finder *f, const kvi_place *p, const kvi_tensor *t, const kvi_weight_desc *desc,
                                uint32_t bits)
{
    const unsigned char *handles = (const unsigned char *)&f->e->weights.layers[f->layer];
    kvi_quantize_item *item;
    if (*taken_flag(f, t)) return KVRT_OK;
    KVI_TRY(round_matrix(f, t, desc, t->data, kvi_weight_tensor_rows(desc), bits,
                         kvi_fewer_group_at(f->params->group, p), NULL, &item));
    item->layer = f->layer;
    memcpy(&item->handle, handles + p->slot, sizeof item->handle);
    return KVRT_OK;
}

/* ----------------------------------------------------------------------------------------------------- experts --- */
/* "model.layers.3." of a tensor of a layer, to be followed by a local name; 0: it has no such name. */
static size_t layer_prefix(const char *name)
{
    const char *at = strstr(name, "layers.");
    if (!at) return 0;
    at += strlen("layers.");
    while (*at >= '0' && *at <= '9') at++;
    return *at == '.' ? (size_t)(at + 1 - name) : 0;
}

/* What the matrix of one expert is called among the modules of the family, with %u for the expert. */
static const char *expert_name(const finder *f, const kvi_place *p)
{
    const bool mixtral = strcmp(f->e->config.family, "mixtral") == 0;
    for (const kvi_place_source *s = p->sources; s < p->sources + KVI_PLACE_SOURCES && s->name; s++)
        if (s->per_expert && mixtral == (strncmp(s->name, "block_sparse_moe.", 17) == 0)) return s->name;
    return NULL;
}

/* "...experts.E.up_proj" of a name with %u, without ".weight", behind `prefix` bytes of `before`. */
static void name_expert(char *out, size_t cap, const char *before, size_t prefix, const char *name, uint32_t expert)
{
    const char *rest = strstr(name, "%u") + 2;
    const size_t end = strlen(rest) - strlen(".weight");
    (void)snprintf(out, cap, "%.*s%.*s%u%.*s", (int)prefix, before, (int)(rest - 2 - name), name, expert, (int)end,
                   rest);
}

/* Matrices of single experts, from tensors of their own or from one of all. */
static kvrt_status round_experts(finder *f, const kvi_place *p, const kvi_tensor *t, const kvi_weight_desc *desc,
                                 uint32_t bits)
{
    const kvi_family *family = kvi_family_of_type(f->e->config.family);
    const char *single = strstr(t->name, ".experts.0."), *name = expert_name(f, p);
    const size_t prefix = layer_prefix(t->name);
    const uint64_t row_bytes = kvi_weight_row_bytes(t->form, desc->n_in);
    const uint32_t group = kvi_fewer_group_at(f->params->group, p);
    if (!family->single_experts || desc->transposed || !name || !prefix)
        return refuse(f, t->name,
                      "experts that transformers keeps in one tensor and has no modules for: compressed-tensors "
                      "cannot express them in fewer bits; use weights.type at open");
    for (uint32_t e = 0; e < p->n_experts; e++) {
        char module[256], own[280];
        kvi_quantize_item *item;
        const kvi_tensor *of = t;
        const uint8_t *rows = t->data + ((uint64_t)e * kvi_weight_tensor_rows(desc) + desc->rows.first) * row_bytes;
        name_expert(module, sizeof module, t->name, prefix, name, e);
        if (single) {
            (void)snprintf(own, sizeof own, "%.*s.experts.%u.%.100s", (int)(single - t->name), t->name, e,
                           single + strlen(".experts.0."));
            of = tensor_named(f, own);
            if (!of) return refuse(f, own, "not found");
            rows = of->data;
            (void)snprintf(module, sizeof module, "%.*s", (int)(strrchr(own, '.') - own), own);
        }
        KVI_TRY(round_matrix(f, of, desc, rows, p->n_out, bits, group, module, &item));
        item->layer = f->layer, item->is_expert = true;
        f->out->kinds[item->kind].has_experts = true;
    }
    return KVRT_OK;
}

/* -------------------------------------------------------------------------------------------------------- GGUF --- */
/* A weight of a GGUF file, which has a place of its own in the folder. */
static kvrt_status from_file(finder *f, const kvi_place *p, const kvi_weight_desc *desc, uint32_t layer, uint32_t bits)
{
    kvi_quantize_item *item;
    if (!desc->parts[KVI_PART_CODES]) return refuse(f, desc->name, "F64, need another type");
    KVI_TRY(new_item(f, &item));
    item->desc = *desc;
    item->suffix = kvi_quantize_gguf_name(p, layer, item->module);
    item->layer = layer;
    if (layer != KVI_NO_LAYER) {
        const unsigned char *handles = (const unsigned char *)&f->e->weights.layers[layer];
        memcpy(&item->handle, handles + p->slot, sizeof item->handle);
        item->turned = kvi_quantize_gguf_turned(f->e, p);
    }
    return bits ? round_item(f, item, bits, layer == KVI_NO_LAYER ? 0 : kvi_fewer_group_at(f->params->group, p))
                : KVRT_OK;
}

/* ------------------------------------------------------------------------------------------------------- walk --- */
static kvrt_status in_layer(finder *f, const kvi_place *p, const kvi_weight_desc *desc)
{
    const kvi_fewer_bits want = {.bits = f->params->bits};
    const uint32_t bits = kvi_fewer_bits_at(&want, KVI_ROLE_LAYER, p);
    const kvi_tensor *t = bits && !f->gguf ? tensor_named(f, desc->name) : NULL;
    if (f->gguf) return from_file(f, p, desc, f->layer, bits);
    if (!bits) return KVRT_OK;
    if (!t) return refuse(f, desc->name, "not found");
    return p->n_experts ? round_experts(f, p, t, desc, bits) : round_tensor(f, p, t, desc, bits);
}

static kvrt_status at_head(finder *f, const kvi_weight_desc *desc, const char *module)
{
    const kvi_place place = kvi_head_place(f->config);
    f->has_head = true;
    if (f->gguf) return from_file(f, &place, desc, KVI_NO_LAYER, f->params->head_bits);
    const kvi_tensor *t = tensor_named(f, desc->name);
    kvi_quantize_item *item;
    if (!f->params->head_bits) return KVRT_OK;
    const bool *taken = taken_flag(f, t), before = *taken;
    KVI_TRY(round_matrix(f, t, desc, t->data, desc->n_out, f->params->head_bits, 0, module, &item));
    if (module) *taken_flag(f, t) = before; /* the embeddings stay beside it */
    return KVRT_OK;
}

static kvrt_status look(finder *f, const kvi_weight_desc *desc)
{
    const kvi_model_config *c = f->config;
    const kvi_place embed = kvi_embed_place(c), norm = kvi_norm_place(c);
    const uint32_t n = f->n_seen++, before = c->layer_input ? 4 : 1;
    if (n == 0) {
        f->embed = *desc;
        f->out->embed = tensor_named(f, desc->name);
    }
    if (n == 0 && f->gguf) return from_file(f, &embed, desc, KVI_NO_LAYER, 0);
    if (n < before) return KVRT_OK;
    if (f->layer < c->n_layers && f->place == f->n_places) {
        if (n > before) f->layer++;
        f->place = 0;
        f->n_places = f->layer < c->n_layers ? kvi_layer_places(c, f->layer, f->places) : 0;
    }
    if (f->layer < c->n_layers) return in_layer(f, &f->places[f->place++], desc);
    /* The norm, then a head if it is no other weight. */
    if (f->n_places++) return at_head(f, desc, NULL);
    return f->gguf ? from_file(f, &norm, desc, KVI_NO_LAYER, 0) : KVRT_OK;
}

static void on_weight(void *user, const kvi_weight_desc *desc)
{
    finder *f = user;
    if (f->status >= KVRT_OK) f->status = look(f, desc);
}

/* A head that shares the embeddings becomes one of its own; one that is stored as well is not written twice. */
static kvrt_status share_head(finder *f)
{
    const kvi_tensor *stored = tensor_named(f, KVI_NAME_HEAD);
    if (f->has_head || !f->params->head_bits) return KVRT_OK;
    KVI_TRY(at_head(f, &f->embed, "lm_head"));
    f->out->own_head = true;
    if (!f->gguf && stored && stored != f->out->embed) *taken_flag(f, stored) = true;
    return KVRT_OK;
}

static kvrt_status keep_the_rest(finder *f)
{
    for (uint64_t i = 0; i < f->e->checkpoint->n_tensors; i++) {
        kvi_quantize_item *item;
        if (f->taken[i]) continue;
        KVI_TRY(new_item(f, &item));
        item->raw = kvi_checkpoint_at(f->e->checkpoint, i);
        /* Shared embeddings that were stored as the head, which now is another. */
        if (f->out->own_head && item->raw == f->out->embed && strcmp(item->raw->name, KVI_NAME_HEAD) == 0)
            (void)snprintf(item->module, sizeof item->module, KVI_NAME_EMBED);
    }
    return KVRT_OK;
}

kvrt_status kvi_quantize_items_find(kvi_engine *e, const kvrt_quantize_params *params, kvi_quantize_items *out,
                                    kvrt_error *error)
{
    kvi_model_config *config = kvi_mem_alloc(sizeof *config);
    finder f = {.e = e, .config = config, .params = params, .out = out, .gguf = e->files.gguf != NULL, .error = error};
    *out = (kvi_quantize_items){0};
    if (!config) return kvi_error_nomem(error, sizeof *config, "configuration");
    *config = e->config;
    config->n_ahead = 0;
    f.taken = kvi_mem_zalloc((size_t)e->checkpoint->n_tensors + 1, sizeof *f.taken);
    kvrt_status status = f.taken ? KVRT_OK : kvi_error_nomem(error, e->checkpoint->n_tensors, "list of tensors");
    if (status >= KVRT_OK) status = kvi_weights_each(config, e->checkpoint, on_weight, &f, error);
    if (status >= KVRT_OK) status = f.status;
    if (status >= KVRT_OK) status = share_head(&f);
    if (status >= KVRT_OK && !f.gguf) status = keep_the_rest(&f);
    kvi_mem_free(f.taken);
    kvi_mem_free(config);
    return status;
}

void kvi_quantize_items_free(kvi_quantize_items *items)
{
    kvi_mem_free(items->items);
    items->items = NULL;
}
