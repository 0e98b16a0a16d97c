/* compressed_tensors.c - folders of llm-compressor. A module is quantized as the group of `config_groups` says that has it among its targets, unless
 * `ignore` names it.
 *
 *   pack-quantized   weight_packed      I32 (n_out, n_in * bits / 32)   codes, neighbours of a row in a word, as unsigned numbers
 *                    weight_zero_point  I32 (n_out * bits / 32, groups) zeros, neighbours of a column in a word; older files: as below
 *                    weight_shape       I64 (2)
 *   int-quantized,   weight             I8 (n_out, n_in)                codes, signed
 *   naive-quantized  weight_zero_point  I8 (as the scales)              zeros, signed
 *   floats           compressed_floats.c
 *   all              weight_scale       (n_out, groups), (n_out, 1), (1), or a scale for each block
 *                    weight_g_idx       I32 (n_in)                      the group of a column; -1: as they come
 *
 * Layout: compressed-tensors, compressors/pack_quantized and compressors/naive_quantized; which group is that of a module: utils/match.py. What
 * activations are rounded to (`input_activations`) is about speed on other devices, and is not done here. */
#include "quantization_impl.h"

#include <stdio.h>
#include <string.h>

/* Names go before expressions, and both before classes. */
enum { RANK_IGNORED, RANK_NAME, RANK_REGEX, RANK_CLASS };

static void add_target(kvi_quantization *q, const kvi_json *r, bool skip, const kvi_quant_args *args, const char *key)
{
    const char *text = kvi_quant_text(q, r);
    if (!text) return;
    const bool regex = strncmp(text, "re:", 3) == 0;
    const bool class = !regex && !strchr(text, '.') && text[0] >= 'A' && text[0] <= 'Z';
    if (regex) text += 3;
    kvi_quant_rule *rule = kvi_quant_add_rule(q, text, strlen(text),
                                              regex   ? KVI_MATCH_REGEX
                                              : class ? KVI_MATCH_CLASS
                                                      : KVI_MATCH_NAME,
                                              skip    ? RANK_IGNORED
                                              : regex ? RANK_REGEX
                                              : class ? RANK_CLASS
                                                      : RANK_NAME,
                                              key);
    if (!rule) return;
    rule->skip = skip;
    if (args) rule->args = *args;
}

static void read_targets(kvi_quantization *q, kvi_json *r, bool skip, const kvi_quant_args *args, const char *key)
{
    if (kvi_json_null(r) || !kvi_json_expect(r, KVI_JSON_ARRAY)) return;
    while (kvi_json_next_item(r))
        if (kvi_json_string(r)) add_target(q, r, skip, args, key);
}

static void read_weights(kvi_json *r, kvi_quant_args *args)
{
    char text[16];
    *args = (kvi_quant_args){.bits = 8, .symmetric = true, .format = ""};
    if (!kvi_json_expect(r, KVI_JSON_OBJECT)) return;
    while (kvi_json_next_key(r))
        if (kvi_json_key_is(r, "num_bits")) args->bits = kvi_quant_read_int(r, 8);
        else if (kvi_json_key_is(r, "group_size")) args->group = kvi_quant_read_int(r, 0);
        else if (kvi_json_key_is(r, "symmetric")) args->symmetric = kvi_quant_read_flag(r);
        else if (kvi_json_key_is(r, "strategy")) kvi_quant_read_text(r, args->strategy, sizeof args->strategy);
        else if (kvi_json_key_is(r, "type")) {
            kvi_quant_read_text(r, text, sizeof text);
            args->is_float = strcmp(text, "float") == 0;
        } else if (kvi_json_key_is(r, "block_structure") && kvi_json_peek(r) == KVI_JSON_ARRAY)
            kvi_quant_read_sides(r, args);
        else kvi_json_skip(r);
}

/* {"targets": ["Linear"], "weights": {...}, "format": "pack-quantized"}; targets may stand before the weights, so they are read last. */
static void read_group(kvi_quantization *q, kvi_json *r, const char *key)
{
    kvi_quant_args args = {0};
    char format[32] = "";
    bool has_weights = false;
    kvi_json targets = {0};
    if (kvi_json_peek(r) != KVI_JSON_OBJECT) {
        if (q->status >= KVRT_OK)
            q->status = kvi_quant_refuse(q, key, "not an object", "targets and weights", &q->problem);
        return;
    }
    (void)kvi_json_expect(r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(r))
        if (kvi_json_key_is(r, "targets")) {
            targets = *r;
            kvi_json_skip(r);
        } else if (kvi_json_key_is(r, "weights") && kvi_json_peek(r) == KVI_JSON_OBJECT) {
            has_weights = true;
            read_weights(r, &args);
        } else if (kvi_json_key_is(r, "format")) kvi_quant_read_text(r, format, sizeof format);
        else kvi_json_skip(r);
    if (!has_weights || !targets.text) return; /* a group about activations */
    memcpy(args.format, format, sizeof args.format);
    read_targets(q, &targets, false, &args, key);
}

static bool read_key(kvi_quantization *q, kvi_json *r)
{
    if (kvi_json_key_is(r, "format")) kvi_quant_read_text(r, q->variant, sizeof q->variant);
    else if (kvi_json_key_is(r, "ignore")) read_targets(q, r, true, NULL, "ignore");
    else if (kvi_json_key_is(r, "config_groups") && kvi_json_peek(r) == KVI_JSON_OBJECT) {
        (void)kvi_json_expect(r, KVI_JSON_OBJECT);
        while (q->status >= KVRT_OK && kvi_json_next_key(r)) {
            char key[64];
            (void)snprintf(key, sizeof key, "config_groups.%.*s", r->str_len < 40 ? (int)r->str_len : 40, r->str);
            const char *kept = kvi_arena_strndup(&q->arena, key, strlen(key));
            read_group(q, r, kept ? kept : "config_groups");
        }
    } else if (kvi_json_key_is(r, "transform_config") && kvi_json_peek(r) == KVI_JSON_OBJECT) {
        (void)kvi_json_expect(r, KVI_JSON_OBJECT);
        bool any = false;
        while (kvi_json_next_key(r)) {
            any = true;
            kvi_json_skip(r);
        }
        if (any && q->status >= KVRT_OK)
            q->status = kvi_quant_refuse(q, "transform_config", "not empty", "no transforms", &q->problem);
    } else return false;
    return true;
}

/* ----------------------------------------------------------------------------------------------------- checks --- */
static bool is_one_of(const char *text, const char *const *list)
{
    while (*list && strcmp(*list, text) != 0) list++;
    return *list != NULL;
}

static kvrt_status refuse_group(const kvi_quantization *q, const kvi_quant_rule *rule, const char *what,
                                const char *found, const char *need, kvrt_error *error)
{
    char key[128];
    (void)snprintf(key, sizeof key, "%s.%s", rule->key, what);
    return kvi_quant_refuse(q, key, found, need, error);
}

static kvrt_status check_group(const kvi_quantization *q, kvi_quant_rule *rule, kvrt_error *error)
{
    static const char *const integers[] = {"pack-quantized", "int-quantized", "naive-quantized", NULL},
                             *const floats[] = {"naive-quantized",      "float-quantized",      "mxfp8-quantized",
                                                "nvfp4-pack-quantized", "mxfp4-pack-quantized", NULL},
                             *const strategies[] = {"group", "tensor_group", "channel", "tensor", "block", NULL};
    kvi_quant_args *a = &rule->args;
    char bits[24];
    if (!a->format[0]) (void)snprintf(a->format, sizeof a->format, "%.31s", q->variant);
    if (!is_one_of(a->format, a->is_float ? floats : integers))
        return refuse_group(q, rule, "format", a->format,
                            a->is_float ? "float-, naive-, mxfp8-quantized, nvfp4- or mxfp4-pack-quantized for floats"
                                        : "pack-, int- or naive-quantized for integers",
                            error);
    if (!a->strategy[0]) /* as the library infers it */
        (void)snprintf(a->strategy, sizeof a->strategy, "%s",
                       a->group > 0   ? "group"
                       : a->group < 0 ? "channel"
                                      : "tensor");
    if (!is_one_of(a->strategy, strategies))
        return refuse_group(q, rule, "weights.strategy", a->strategy, "group, channel, tensor or block", error);
    if (strcmp(a->strategy, "tensor_group") == 0) memcpy(a->strategy, "group", sizeof "group");
    if (strcmp(a->strategy, "group") == 0 ? a->group <= 0 : a->group > 0)
        return refuse_group(q, rule, "weights.group_size", a->group > 0 ? "set" : "not set", "it with groups alone",
                            error);
    if (strcmp(a->strategy, "block") == 0 &&
        (a->block_rows <= 0 || a->block_columns <= 0 || a->block_rows > INT32_MAX || a->block_columns > INT32_MAX))
        return refuse_group(q, rule, "weights.block_structure", "not a pair of sizes", "[rows, columns]", error);
    (void)snprintf(bits, sizeof bits, "%lld", (long long)a->bits);
    if (strcmp(a->format, "pack-quantized") == 0 && a->bits != 4 && a->bits != 8)
        return refuse_group(q, rule, "weights.num_bits", bits, "4 or 8", error);
    const bool halves = strstr(a->format, "fp4-pack") != NULL;
    if (a->is_float ? a->bits != (halves ? 4 : 8) : a->bits < 2 || a->bits > 8)
        return refuse_group(q, rule, "weights.num_bits", bits, halves ? "4" : a->is_float ? "8" : "2 to 8", error);
    return KVRT_OK;
}

static kvrt_status check(kvi_quantization *q, kvrt_error *error)
{
    for (kvi_quant_rule *rule = q->rules; rule; rule = rule->next)
        if (!rule->skip) KVI_TRY(check_group(q, rule, error));
    return KVRT_OK;
}

/* ---------------------------------------------------------------------------------------------------- weights --- */
/* Rows and columns of the scales, and what shares one. */
static kvrt_status shape_of_scales(const kvi_quant_weight *w, uint64_t *rows, uint64_t *columns)
{
    kvi_weight_desc *desc = w->desc;
    desc->group = 0;
    desc->group_rows = 1;
    *rows = w->n_out, *columns = 1;
    if (strcmp(w->args.strategy, "group") == 0) {
        KVI_TRY(kvi_quant_group_size(w, &desc->group));
        *columns = desc->group ? w->n_in / desc->group : 1;
    } else if (strcmp(w->args.strategy, "tensor") == 0) {
        desc->group_rows = w->n_out;
        *rows = 1;
    } else if (strcmp(w->args.strategy, "block") == 0) {
        desc->group_rows = (uint32_t)w->args.block_rows;
        desc->group = w->args.block_columns < w->n_in ? (uint32_t)w->args.block_columns : 0;
        *rows = (w->n_out + desc->group_rows - 1) / desc->group_rows;
        *columns = kvi_weight_groups(desc);
    }
    return KVRT_OK;
}

/* One column may go without a dimension, and one number without any. */
static bool is_shape(const kvi_tensor *t, uint64_t rows, uint64_t columns)
{
    if (t->n_dims == 2) return t->shape[0] == rows && t->shape[1] == columns;
    return columns == 1 && (t->n_dims == 1 ? t->shape[0] == rows : t->n_dims == 0 && rows == 1);
}

static kvrt_status find_scales(const kvi_quant_weight *w, uint64_t rows, uint64_t columns)
{
    const kvi_tensor *t = kvi_quant_find(w, "weight_scale");
    if (!t || !kvi_form_is_plain(t->form) || !is_shape(t, rows, columns))
        return kvi_quant_need_scales(w, "weight_scale", rows, columns); /* says what is wrong */
    w->desc->scale_type = kvi_form_dtype(t->form);
    w->desc->parts[KVI_PART_SCALES] = t->data;
    return KVRT_OK;
}

static kvrt_status find_zeros(const kvi_quant_weight *w, bool packed, uint64_t rows, uint64_t columns)
{
    const kvi_tensor *t = kvi_quant_find(w, "weight_zero_point");
    const uint64_t words = (w->n_out * (uint64_t)w->args.bits + 31) / 32;
    kvi_weight_desc *desc = w->desc;
    if (w->args.symmetric) return KVRT_OK;
    if (!t) return kvi_quant_absent(w, "weight_zero_point");
    desc->parts[KVI_PART_ZEROS] = t->data;
    if (strcmp(t->dtype, "I8") == 0 && is_shape(t, rows, columns)) {
        desc->signed_zeros = true;
        return KVRT_OK;
    }
    if (!packed) return kvi_quant_check(w, t, "I8", rows, columns);
    desc->zero_order = (kvi_part_order){KVI_PACK_ALONG_COLUMN, (uint32_t)columns, 1};
    return kvi_quant_check(w, t, "I32", words, columns);
}

static kvrt_status describe_packed(const kvi_quant_weight *w)
{
    const uint64_t words = (w->n_in * (uint64_t)w->args.bits + 31) / 32;
    kvi_weight_desc *desc = w->desc;
    KVI_TRY(kvi_quant_check(w, w->codes, "I32", w->n_out, words));
    const kvi_tensor *shape = kvi_quant_find(w, "weight_shape");
    if (shape) {
        KVI_TRY(kvi_quant_check(w, shape, "I64", 2, 0));
        for (uint32_t i = 0; i < 2; i++) {
            uint64_t side = 0;
            for (uint32_t b = 0; b < 8; b++) side |= (uint64_t)shape->data[8 * i + b] << (8 * b);
            if (side != (i ? w->n_in : w->n_out))
                return kvi_error_set(w->error, KVRT_FORMAT, "tensor %s: element %u is %lld, need %u", shape->name, i,
                                     (long long)side, i ? w->n_in : w->n_out);
        }
    }
    desc->form = w->args.bits == 4 ? KVI_FORM_I4 : KVI_FORM_I8;
    desc->is_unsigned = true;
    if (desc->form == KVI_FORM_I8 && w->n_in % 4)
        desc->code_order = (kvi_part_order){KVI_PACK_ALONG_ROW, (uint32_t)words, 1};
    return KVRT_OK;
}

static kvrt_status describe(const kvi_quant_weight *w, bool *done)
{
    const bool packed = strcmp(strrchr(w->codes->name, '.'), ".weight_packed") == 0;
    const bool floats = strcmp(w->codes->dtype, packed ? "U8" : "F8_E4M3") == 0;
    if (!packed && !floats && strcmp(w->codes->dtype, "I8") != 0) return KVRT_OK;
    if (!w->rule)
        return kvi_error_set(w->error, KVRT_FORMAT,
                             "tensor %s: quantized, but no targets of %s.config_groups in %s have %s", w->codes->name,
                             w->q->key, w->q->file, w->module);
    if (w->rule->skip) return kvi_quant_contradiction(w);
    if (w->args.is_float != floats || packed != (strstr(w->args.format, "pack-quantized") != NULL))
        return kvi_error_set(w->error, KVRT_FORMAT, "tensor %s: %s, need what %s.%s in %s says (%s, %s)",
                             w->codes->name, w->codes->dtype, w->q->key, w->rule->key, w->q->file, w->args.format,
                             w->args.is_float ? "float" : "int");
    uint64_t rows = 0, columns = 0;
    KVI_TRY(shape_of_scales(w, &rows, &columns));
    if (floats) KVI_TRY(kvi_quant_describe_floats(w));
    *done = floats;
    if (floats) return KVRT_OK;
    if (packed) KVI_TRY(describe_packed(w));
    else KVI_TRY(kvi_quant_check(w, w->codes, "I8", w->n_out, w->n_in));
    w->desc->form = packed ? w->desc->form : KVI_FORM_I8;
    KVI_TRY(find_scales(w, rows, columns));
    KVI_TRY(find_zeros(w, packed, rows, columns));
    KVI_TRY(kvi_quant_groups(w, "weight_g_idx", (uint32_t)columns));
    *done = true;
    return KVRT_OK;
}

const kvi_quant_method kvi_quant_compressed_tensors = {
    {"compressed-tensors"}, {"weight_packed"}, read_key, check, describe};
