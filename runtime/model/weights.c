/* weights.c - binds the places of a model (places.c) to the tensors of a checkpoint. */
#include "weights.h"
#include "families.h"
#include "synthetic.h"
#include "weight_codec.h"
#include "quantization/quantization.h"
#include "../base/checksum.h"
#include "../base/mem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct binder {
    const kvi_model_config *config;
    const kvi_family *family; /* of its names; NULL: kvrt's own */
    const kvi_checkpoint *checkpoint;
    const kvi_backend *backend;
    kvi_device *device;
    bool dry; /* only counts */
    kvi_progress_fn progress;
    void *user;
    kvi_model_weights *out;
    kvi_weight_wish wish;
    uint64_t shared_bytes[KVI_WEIGHT_PARTS]; /* of the parts that all synthetic quantized weights show */
    unsigned char *shared[KVI_WEIGHT_PARTS];
    uint64_t n_kept;                                               /* weights with a form to keep so far */
    uint64_t memory_used, total_bytes, form_bytes[KVI_FORM_COUNT]; /* memory_used: of out->memory */
    uint64_t idle_bytes;                                           /* experts that a token does not choose */
    kvrt_error *error;
} binder;

#define NAME_CAP 192u
#define OUTSIDE UINT32_MAX /* instead of a layer */
#define PREFIX "model."

static void shape_text(const kvi_tensor *t, char *text, size_t cap)
{
    size_t len = (size_t)snprintf(text, cap, "[");
    for (uint32_t i = 0; i < t->n_dims && len < cap; i++)
        len += (size_t)snprintf(text + len, cap - len, "%s%llu", i ? ", " : "", (unsigned long long)t->shape[i]);
    if (len < cap) (void)snprintf(text + len, cap - len, "]");
}

/* The shape that a tensor of this source needs; returns its dimensions. */
static uint32_t needed_shape(const kvi_place *p, const kvi_place_source *s, uint64_t need[3])
{
    const uint64_t rows = s->rows.of ? s->rows.of : p->n_out;
    uint32_t n = 0;
    if (p->n_experts && !s->per_expert) need[n++] = p->n_experts;
    if (s->transposed && p->n_in) need[n++] = p->n_in;
    if (s->stacked > 1) need[n++] = s->stacked;
    need[n++] = s->stacked > 1 ? rows / s->stacked : rows;
    if (p->n_in && !s->transposed) need[n++] = p->n_in;
    return n;
}

/* Dimensions of 1 mean nothing: a depthwise convolution is (channels, 1, taps), and the gate of shared experts may be a vector. */
static bool has_shape(const kvi_tensor *t, const uint64_t *need, uint32_t n)
{
    uint32_t found = 0;
    for (uint32_t i = 0; i < t->n_dims; i++) {
        if (t->shape[i] == 1) continue;
        while (found < n && need[found] == 1) found++;
        if (found == n || t->shape[i] != need[found]) return false;
        found++;
    }
    while (found < n && need[found] == 1) found++;
    return found == n;
}

static kvrt_status check_shape(const binder *b, const kvi_tensor *t, const kvi_place *p, const kvi_place_source *s)
{
    kvi_tensor need = {.n_dims = needed_shape(p, s, need.shape)};
    if (has_shape(t, need.shape, need.n_dims)) return KVRT_OK;
    char found[200], text[96];
    shape_text(t, found, sizeof found);
    shape_text(&need, text, sizeof text);
    return kvi_error_set(b->error, KVRT_FORMAT, "tensor %s: shape %s, need %s (%s in %s)", t->name, found, text, p->why,
                         b->checkpoint->reader->settings);
}

/* Synthetic gains lie around one and biases around zero, so that activations keep their size through every layer. */
static void fill_vector(float *out, uint32_t n, float middle)
{
    for (uint32_t i = 0; i < n; i++) out[i] = middle + (float)((int)(i * 37 % 64) - 32) / 256.0f;
}

/* The tensor of codes of a weight, which quantized folders call something else. */
static const kvi_tensor *find_codes(const kvi_checkpoint *checkpoint, const char *name)
{
    const kvi_tensor *t = kvi_checkpoint_find(checkpoint, name);
    return t ? t : kvi_quantization_codes(checkpoint->quantization, checkpoint, name);
}

const kvi_tensor *kvi_weights_find(const kvi_checkpoint *checkpoint, const char *name)
{
    static const char *const prefixes[] = {"", "model.language_model.", "language_model.model."};
    const size_t prefix = strlen(PREFIX);
    const kvi_tensor *t = find_codes(checkpoint, name);
    char other[192];
    if (strcmp(name, KVI_NAME_HEAD) == 0) return t ? t : find_codes(checkpoint, "language_model." KVI_NAME_HEAD);
    if (strncmp(name, PREFIX, prefix) != 0) return t; /* beside the text model */
    for (size_t i = 0; !t && i < sizeof prefixes / sizeof prefixes[0]; i++) {
        (void)snprintf(other, sizeof other, "%s%s", prefixes[i], name + prefix);
        t = find_codes(checkpoint, other);
    }
    return t;
}

static const kvi_tensor *find(const binder *b, const char *name) { return kvi_weights_find(b->checkpoint, name); }

static kvrt_status not_found(const binder *b, const char *name)
{
    const char *architecture = b->config->architecture;
    char packed[160];
    const size_t stem = strlen(name) - strlen("weight");
    (void)snprintf(packed, sizeof packed, "%.*sqweight", stem < 120 ? (int)stem : 120, name);
    if (find(b, packed))
        return kvi_error_set(b->error, KVRT_UNSUPPORTED,
                             "tensor %s: quantized (GPTQ or AWQ), need quantization_config in config.json for it",
                             packed);
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
    desc->group_rows = rows == 1 ? kvi_weight_tensor_rows(desc) : 1;
    return rows == kvi_weight_tensor_rows(desc) || (rows == 1 && groups == 1);
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

/* From a tensor and what belongs to it to a weight. */
static kvrt_status describe(const binder *b, const kvi_tensor *t, const kvi_place *p, const kvi_place_source *s,
                            kvi_weight_desc *desc)
{
    bool done = false;
    desc->rows = s->rows;
    desc->transposed = s->transposed;
    if (p->n_in)
        KVI_TRY(kvi_quantization_describe(b->checkpoint->quantization, b->checkpoint, t, desc, &done, b->error));
    if (done) return KVRT_OK;
    KVI_TRY(check_shape(b, t, p, s));
    desc->name = t->name;
    desc->form = t->form;
    desc->parts[KVI_PART_CODES] = t->data;
    if (desc->form != KVI_FORM_NONE) KVI_TRY(find_parts(b, t, desc));
    for (int part = KVI_PART_CODES + 1; part < KVI_WEIGHT_PARTS; part++)
        if ((kvi_form(desc->form)->needs >> part & 1u) && !desc->parts[part]) desc->form = KVI_FORM_NONE;
    if (desc->form == KVI_FORM_NONE)
        return kvi_error_set(b->error, KVRT_UNSUPPORTED, "tensor %s: dtype %s%s, need %s", t->name, t->dtype,
                             kvi_form(t->form)->needs ? " without scales" : "", b->checkpoint->reader->types);
    if (s->transposed && !kvi_form_is_plain(desc->form))
        return kvi_error_set(b->error, KVRT_UNSUPPORTED,
                             "tensor %s: dtype %s of a matrix stored by columns, need F32, "
                             "F16 or BF16",
                             t->name, t->dtype);
    if (desc->n_in % kvi_form(desc->form)->block)
        return kvi_error_set(b->error, KVRT_FORMAT, "tensor %s: %u columns, need a multiple of %u (%s)", t->name,
                             desc->n_in, kvi_form(desc->form)->block, t->dtype);
    return KVRT_OK;
}

/* What decides the kernel form of a weight, beside its numbers. */
static uint64_t facts_of(const kvi_weight_desc *w, uint64_t sum)
{
    const kvi_part_order *const orders[] = {&w->code_order, &w->scale_order, &w->zero_order};
    uint64_t facts[32] = {w->form,
                          w->n_out,
                          w->n_in,
                          w->n_experts,
                          w->group,
                          w->group_rows,
                          w->scale_type,
                          w->looked_up,
                          w->transposed,
                          w->global_divides,
                          w->is_unsigned,
                          w->zero_add,
                          w->rows.first,
                          w->rows.run,
                          w->rows.step,
                          w->signed_zeros,
                          w->scale_group,
                          w->rows.of,
                          0};
    uint32_t n = 18;
    for (int i = 0; i < 3; i++)
        facts[n++] = (uint64_t)orders[i]->packing << 32 | orders[i]->row, facts[n++] = orders[i]->column;
    for (int part = 0; part < KVI_WEIGHT_PARTS; part++) facts[n] |= (uint64_t)(w->parts[part] != NULL) << part;
    sum = kvi_checksum(w->name, strlen(w->name), sum);
    sum = kvi_checksum(facts, sizeof facts, sum);
    return w->source ? facts_of(w->source, sum) : sum;
}

/* The kernel form that the cache has of a weight. */
static void look_up_form(binder *b, kvi_weight_desc *desc)
{
    const uint64_t kept = b->backend && b->backend->kept_version ? b->backend->kept_bytes(desc) : 0;
    b->out->facts = facts_of(desc, b->out->facts + kept);
    b->out->kept_bytes += kept;
    if (kept && b->wish.cache) desc->made = kvi_weight_cache_form(b->wish.cache, b->n_kept, kept);
    if (kept) b->n_kept++;
}

static kvrt_status hand_over(binder *b, const kvi_place *p, kvi_weight_desc *desc, const kvi_weight **out)
{
    look_up_form(b, desc);
    const uint64_t bytes = kvi_weight_bytes(desc), n_experts = p->n_experts ? p->n_experts : 1;
    b->out->bytes += bytes;
    b->out->n_params += (uint64_t)desc->n_out * desc->n_in * (desc->n_experts ? desc->n_experts : 1);
    if (p->n_experts) b->out->expert_bytes += bytes;
    if (p->n_experts) b->idle_bytes += bytes / n_experts * (n_experts - p->n_used);
    b->form_bytes[desc->form] += bytes;
    if (desc->source && !desc->made) b->out->own_bytes += bytes;
    uint64_t taken = 0;
    if (b->wish.fn) b->wish.fn(b->wish.user, desc);
    if (b->backend) KVI_TRY(b->backend->weight_bytes(desc, &taken, b->error));
    b->out->taken_bytes += taken;
    if (b->dry || !b->device) return KVRT_OK;
    kvi_weight *weight;
    KVI_TRY(b->backend->weight_import(b->device, desc, &weight, b->error));
    *out = weight;
    if (b->wish.cache && !b->wish.cache->map.data && b->backend->kept_bytes(desc))
        kvi_weight_cache_put(b->wish.cache, b->backend->kept_form(weight), b->backend->kept_bytes(desc));
    if (b->progress && !b->progress(b->user, b->out->bytes, b->total_bytes))
        return kvi_error_set(b->error, KVRT_CANCELLED, "loading cancelled");
    return KVRT_OK;
}

/* The tensor of a source, of one expert where each has its own, by its whole name; `name` (NAME_CAP) says which. */
static const kvi_tensor *tensor_of(const binder *b, uint32_t layer, const kvi_place_source *s, uint32_t expert,
                                   char *name)
{
    char local[NAME_CAP - 32]; /* the rest is for the layer */
    const char *rest = s->per_expert ? strstr(s->name, "%u") : NULL;
    if (rest) (void)snprintf(local, sizeof local, "%.*s%u%s", (int)(rest - s->name), s->name, expert, rest + 2);
    else (void)snprintf(local, sizeof local, "%s", s->name);
    if (layer == OUTSIDE) (void)snprintf(name, NAME_CAP, "%s", local);
    else {
        char theirs[NAME_CAP - 32];
        kvi_family_rename(b->checkpoint->reader->our_names ? NULL : b->family, local, theirs, sizeof theirs);
        if (layer < b->config->n_layers) (void)snprintf(name, NAME_CAP, KVI_NAME_LAYER, layer, theirs);
        else (void)snprintf(name, NAME_CAP, KVI_NAME_AHEAD, layer - b->config->n_layers, theirs);
    }
    return find(b, name);
}

/* Vectors are small: what is not one run of F32, F16 or BF16 in the file is made so. */
static bool stands_as_it_is(const kvi_weight_desc *desc, const kvi_place_source *s)
{
    return kvi_form_is_plain(desc->form) && !desc->rows.of && !s->per_expert && !s->minus_exp;
}

/* x of -exp(x). A decay of nothing at all is x = -infinity. */
static kvrt_status take_logarithm(const binder *b, const kvi_tensor *t, float *values, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (!(values[i] <= 0))
            return kvi_error_set(b->error, KVRT_FORMAT, "tensor %s: element %u is %g, need none above 0", t->name, i,
                                 (double)values[i]);
        values[i] = logf(-values[i]);
    }
    return KVRT_OK;
}

/* The elements of one expert (of all, where they are one tensor) of a vector, into out. */
static void gather(const kvi_place *p, const kvi_weight_desc *desc, bool all, float *out)
{
    const uint32_t n_experts = all && p->n_experts ? p->n_experts : 1, of = desc->rows.of ? desc->rows.of : p->n_out;
    kvi_weight_desc whole = *desc;
    whole.rows = (kvi_weight_rows){0};
    for (uint32_t e = 0; e < n_experts; e++)
        for (uint32_t i = 0; i < p->n_out; i++)
            (void)kvi_weight_read(&whole, 0, 0, e * of + kvi_weight_tensor_row(desc, i), 1, out++);
}

static kvrt_status bind_vector(binder *b, uint32_t layer, const kvi_place *p, const kvi_place_source *s,
                               const kvi_tensor *t, kvi_weight_desc *desc)
{
    char name[NAME_CAP];
    KVI_TRY(describe(b, t, p, s, desc));
    if (!kvi_form_is_plain(desc->form) && desc->form != KVI_FORM_F64)
        return kvi_error_set(b->error, KVRT_UNSUPPORTED, "tensor %s: dtype %s of a vector, need F64, F32, F16 or BF16",
                             t->name, t->dtype);
    if (stands_as_it_is(desc, s)) return KVRT_OK;
    float *memory = take_memory(b, (uint64_t)desc->n_in * 4);
    const uint32_t n = s->per_expert ? p->n_experts : 1;
    for (uint32_t e = 0; e < n; e++) {
        const kvi_tensor *own = e ? tensor_of(b, layer, s, e, name) : t;
        kvi_weight_desc one = *desc;
        if (!own) return not_found(b, name);
        KVI_TRY(describe(b, own, p, s, &one));
        if (memory) gather(p, &one, !s->per_expert, memory + (size_t)e * p->n_out);
    }
    if (memory && s->minus_exp) KVI_TRY(take_logarithm(b, t, memory, p->n_out));
    desc->form = KVI_FORM_F32;
    desc->rows = (kvi_weight_rows){0};
    desc->parts[KVI_PART_CODES] = memory;
    return KVRT_OK;
}

/* No backend computes in F64: such a matrix becomes F32. */
static void narrow(binder *b, kvi_weight_desc *desc)
{
    const kvi_weight_desc from = *desc;
    desc->form = KVI_FORM_F32;
    desc->rows = (kvi_weight_rows){0};
    float *memory = take_memory(b, kvi_weight_bytes(desc));
    desc->parts[KVI_PART_CODES] = memory;
    for (uint32_t e = 0; memory && e < (from.n_experts ? from.n_experts : 1); e++)
        for (uint32_t row = 0; row < from.n_out; row++, memory += from.n_in)
            (void)kvi_weight_read(&from, e, row, 0, from.n_in, memory);
}

/* Experts that are tensors of their own: nothing is copied but where they are. All must have the form of the first. */
static kvrt_status bind_experts(binder *b, uint32_t layer, const kvi_place *p, const kvi_place_source *s,
                                kvi_weight_desc *desc)
{
    kvi_expert_parts *table = take_memory(b, p->n_experts * sizeof *table);
    for (uint32_t e = 0; e < p->n_experts; e++) {
        char name[NAME_CAP];
        const kvi_tensor *t = tensor_of(b, layer, s, e, name);
        kvi_weight_desc one = {.n_out = desc->n_out, .n_in = desc->n_in};
        if (!t) return not_found(b, name);
        KVI_TRY(describe(b, t, p, s, &one));
        if (!kvi_weight_same_layout(&one, desc))
            return kvi_error_set(b->error, KVRT_UNSUPPORTED, "tensor %s: %s, need the form of %s (%s)", t->name,
                                 t->dtype, desc->name, kvi_form(desc->form)->name);
        if (table) memcpy(table[e].parts, one.parts, sizeof one.parts);
    }
    desc->experts = table;
    return KVRT_OK;
}

static kvrt_status bind_tensors(binder *b, uint32_t layer, const kvi_place *p, kvi_weight_desc *desc)
{
    char name[NAME_CAP], usual[NAME_CAP];
    const kvi_place_source *s = p->sources;
    const kvi_tensor *t = tensor_of(b, layer, s, 0, usual);
    while (!t && s + 1 < p->sources + KVI_PLACE_SOURCES && s[1].name) t = tensor_of(b, layer, ++s, 0, name);
    if (!t) return not_found(b, usual);
    if (p->n_in == 0) return bind_vector(b, layer, p, s, t, desc);
    KVI_TRY(describe(b, t, p, s, desc));
    if (s->per_expert && p->n_experts) KVI_TRY(bind_experts(b, layer, p, s, desc));
    if (desc->form == KVI_FORM_F64) narrow(b, desc);
    return KVRT_OK;
}

/* Form and group of a synthetic matrix. */
static bool shape_synthetic(const binder *b, kvi_weight_role role, const kvi_place *p, kvi_weight_desc *desc)
{
    const kvi_fewer_bits *fewer = &b->wish.fewer;
    const bool own = role != KVI_ROLE_LAYER && kvi_fewer_bits_at(fewer, role, p) == 8;
    desc->form = own ? KVI_FORM_I8 : b->wish.form;
    if (!kvi_synthetic_shape(desc)) return false;
    const bool integers = desc->form == KVI_FORM_I4 || desc->form == KVI_FORM_I8;
    if (integers && (own || b->wish.has_group)) desc->group = kvi_fewer_group(own ? 0 : fewer->group, desc->n_in);
    return true;
}

/* A quantized matrix: all of them show the same memory, since a backend makes a form of its own of it. Sizes come from the dry run. */
static void bind_synthetic(binder *b, kvi_weight_desc *desc)
{
    const uint64_t n = desc->n_experts > 1 ? desc->n_experts : 1;
    for (int part = 0; part < KVI_WEIGHT_PARTS; part++) {
        if (part != KVI_PART_CODES && !(kvi_form(desc->form)->needs >> part & 1u)) continue;
        const uint64_t bytes = n * kvi_weight_part_bytes(desc, (kvi_weight_part)part);
        if (bytes > b->shared_bytes[part]) b->shared_bytes[part] = bytes;
        desc->parts[part] = b->shared[part];
    }
}

static kvrt_status bind(binder *b, uint32_t layer, kvi_weight_role role, const kvi_place *p, const kvi_weight **out)
{
    const bool vector = p->n_in == 0;
    const uint32_t n_experts = p->n_experts ? p->n_experts : 1;
    kvi_weight_desc desc = {.name = p->name,
                            .form = KVI_FORM_F32,
                            .n_out = vector ? 1 : p->n_out,
                            .n_in = vector ? p->n_out * n_experts : p->n_in,
                            .n_experts = vector ? 0 : p->n_experts,
                            .looked_up = p->looked_up,
                            .add = p->add};
    if (b->checkpoint) KVI_TRY(bind_tensors(b, layer, p, &desc));
    else if (!vector && shape_synthetic(b, role, p, &desc)) bind_synthetic(b, &desc);
    else {
        void *memory = take_memory(b, kvi_weight_bytes(&desc));
        if (memory) desc.parts[KVI_PART_CODES] = memory;
        if (memory && !vector) kvi_synthetic_fill(desc.form, KVI_PART_CODES, memory, kvi_weight_bytes(&desc));
        if (memory && vector) fill_vector(memory, desc.n_in, p->synthetic == KVI_SYNTHETIC_BIAS ? 0.0f : 1.0f - p->add);
    }
    const kvi_weight_desc from = desc;
    const uint32_t bits = b->checkpoint && !vector ? kvi_fewer_bits_at(&b->wish.fewer, role, p) : 0,
                   group = role == KVI_ROLE_LAYER ? kvi_fewer_group_at(b->wish.fewer.group, p) : 0;
    if (bits) KVI_TRY(kvi_fewer_bits_of(&from, bits, group, &desc, b->error));
    return hand_over(b, p, &desc, out);
}

/* ------------------------------------------------------------------------------------------------------ places --- */
static kvrt_status bind_layer(binder *b, uint32_t layer)
{
    kvi_place places[KVI_MAX_PLACES];
    const uint32_t n = kvi_layer_places(b->config, layer, places);
    unsigned char *handles = (unsigned char *)&b->out->layers[layer];
    for (uint32_t i = 0; i < n; i++)
        KVI_TRY(bind(b, layer, KVI_ROLE_LAYER, &places[i], (const kvi_weight **)(void *)(handles + places[i].slot)));
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

/* What layers get beside the residual. Of its embeddings a token reads one row. */
static kvrt_status bind_inputs(binder *b)
{
    const kvi_place embed = kvi_input_embed_place(b->config), projection = kvi_input_projection_place(b->config),
                    norm = kvi_input_norm_place(b->config);
    if (!b->config->layer_input) return KVRT_OK;
    const uint64_t before = b->out->bytes;
    KVI_TRY(bind(b, OUTSIDE, KVI_ROLE_OTHER, &embed, &b->out->input_embed));
    b->idle_bytes += b->out->bytes - before;
    KVI_TRY(bind(b, OUTSIDE, KVI_ROLE_OTHER, &projection, &b->out->input_projection));
    return bind(b, OUTSIDE, KVI_ROLE_OTHER, &norm, &b->out->input_norm);
}

/* The layer that looks one token further. No step reads it. */
static kvrt_status bind_ahead(binder *b)
{
    kvi_place places[KVI_AHEAD_PLACES];
    unsigned char *handles = (unsigned char *)&b->out->ahead;
    const uint64_t before = b->out->bytes - b->idle_bytes;
    if (!b->config->n_ahead) return KVRT_OK;
    if (b->checkpoint && find(b, "mtp.embed_tokens.weight"))
        return kvi_error_set(b->error, KVRT_UNSUPPORTED,
                             "tensor mtp.embed_tokens.weight: embeddings of its own, need those of the model");
    for (uint32_t i = 0, n = kvi_ahead_places(b->config, places); i < n; i++)
        KVI_TRY(bind(b, OUTSIDE, KVI_ROLE_OTHER, &places[i], (const kvi_weight **)(void *)(handles + places[i].slot)));
    KVI_TRY(bind_layer(b, b->config->n_layers));
    b->idle_bytes = b->out->bytes - before;
    return KVRT_OK;
}

static kvrt_status bind_all(binder *b)
{
    const kvi_model_config *c = b->config;
    kvi_model_weights *out = b->out;
    kvi_place embed = kvi_embed_place(c);
    const kvi_place norm = kvi_norm_place(c), head = kvi_head_place(c);
    const bool tied = shares_embeddings(b);
    /* Tied embeddings may be stored under either name. */
    if (tied && b->checkpoint && !find(b, KVI_NAME_EMBED) && find(b, KVI_NAME_HEAD)) embed = head;
    /* Shared embeddings of which only the head is to be rounded serve as two weights. */
    const bool two = !tied || (b->checkpoint && b->wish.fewer.head_bits && !b->wish.fewer.embed_bits);
    embed.looked_up = two;
    KVI_TRY(bind(b, OUTSIDE, KVI_ROLE_EMBED, &embed, &out->embed));
    const kvi_tensor *stored = b->checkpoint ? find(b, embed.name) : NULL;
    out->embed_form = stored ? stored->form : b->wish.form;
    uint64_t embed_bytes = out->bytes;
    KVI_TRY(bind_inputs(b));
    for (uint32_t i = 0; i < c->n_layers; i++) KVI_TRY(bind_layer(b, i));
    KVI_TRY(bind_ahead(b));
    KVI_TRY(bind(b, OUTSIDE, KVI_ROLE_OTHER, &norm, &out->norm));
    out->head = out->embed;
    embed.looked_up = false;
    if (two) KVI_TRY(bind(b, OUTSIDE, KVI_ROLE_HEAD, tied ? &embed : &head, &out->head));
    out->read_bytes = out->bytes - (two ? embed_bytes : 0) - b->idle_bytes;
    for (int f = 0; f < KVI_FORM_COUNT; f++)
        if (b->form_bytes[f] > b->form_bytes[out->form]) out->form = (kvi_weight_form)f;
    return KVRT_OK;
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
    for (int part = 0; part < KVI_WEIGHT_PARTS; part++)
        b->shared_bytes[part] = dry.shared_bytes[part], (void)take_memory(&dry, dry.shared_bytes[part]);
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
    for (int part = 0; part < KVI_WEIGHT_PARTS; part++) {
        if (!b->shared_bytes[part]) continue;
        b->shared[part] = take_memory(b, b->shared_bytes[part]);
        kvi_synthetic_fill(b->wish.form, (kvi_weight_part)part, b->shared[part], b->shared_bytes[part]);
    }
    return KVRT_OK;
}

kvi_weight_form kvi_form_named(const char *name)
{
    int form = 0;
    while (form < KVI_FORM_COUNT && strcmp(kvi_form((kvi_weight_form)form)->name, name) != 0) form++;
    return (kvi_weight_form)form;
}

/* What every walk over the places needs first. */
static kvrt_status start(const kvi_model_config *config, const kvi_checkpoint *checkpoint, kvi_model_weights *out,
                         kvrt_error *error)
{
    memset(out, 0, sizeof *out);
    if (checkpoint) KVI_TRY(kvi_quantization_problem(checkpoint->quantization, error));
    const uint32_t n_layers = config->n_layers + config->n_ahead;
    out->layers = kvi_mem_zalloc(n_layers, sizeof *out->layers);
    return out->layers ? KVRT_OK : kvi_error_nomem(error, n_layers * sizeof *out->layers, "layer table");
}

kvrt_status kvi_weights_bind(const kvi_model_config *config, const kvi_checkpoint *checkpoint,
                             const kvi_weight_wish *wish, const kvi_backend *backend, kvi_device *device,
                             kvi_progress_fn progress, void *user, kvi_model_weights *out, kvrt_error *error)
{
    KVI_TRY(start(config, checkpoint, out, error));
    binder b = {.config = config,
                .family = config->family ? kvi_family_of_type(config->family) : NULL,
                .checkpoint = checkpoint,
                .backend = backend,
                .device = device,
                .progress = progress,
                .user = user,
                .out = out,
                .wish = *wish,
                .error = error};
    uint64_t taken_bytes = 0;
    kvrt_status status = device ? count_all(&b, &taken_bytes) : KVRT_OK;
    if (status >= KVRT_OK && device && backend->weights_reserve)
        status = backend->weights_reserve(device, taken_bytes, error);
    if (status >= KVRT_OK && device) status = take_block(&b);
    if (status >= KVRT_OK) status = bind_all(&b);
    if (device && wish->cache) kvi_weight_cache_end(wish->cache, status >= KVRT_OK);
    for (int part = 0; !device && part < KVI_WEIGHT_PARTS; part++) (void)take_memory(&b, b.shared_bytes[part]);
    out->memory_bytes = b.memory_used;
    if (status < KVRT_OK) kvi_weights_free(out);
    return status;
}

kvrt_status kvi_weights_each(const kvi_model_config *config, const kvi_checkpoint *checkpoint, kvi_weight_fn fn,
                             void *user, kvrt_error *error)
{
    kvi_model_weights weights;
    KVI_TRY(start(config, checkpoint, &weights, error));
    binder b = {.config = config,
                .family = config->family ? kvi_family_of_type(config->family) : NULL,
                .checkpoint = checkpoint,
                .wish = {.fn = fn, .user = user},
                .out = &weights,
                .error = error};
    const kvrt_status status = bind_all(&b);
    kvi_weights_free(&weights);
    return status;
}

void kvi_weights_free(kvi_model_weights *weights)
{
    kvi_mem_free(weights->layers);
    kvi_mem_free_aligned(weights->memory);
    weights->layers = NULL;
    weights->memory = NULL;
}
