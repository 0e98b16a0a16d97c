/* gptq.c - GPTQ's folders (AutoGPTQ, GPTQModel), and those of AutoRound that are packed like them or like AWQ's.
 *
 *   qweight  I32 (n_in * bits / 32, n_out)        codes, neighbours of a row in a word
 *   qzeros   I32 (groups, n_out * bits / 32)      zeros, neighbours of a column in a word; the first format stores them less one
 *   scales   F16 (groups, n_out)
 *   g_idx    I32 (n_in)                           the group of a column; with desc_act in no order
 *
 * Layout: GPTQModel, nn_modules/qlinear/__init__.py; the two formats: utils/model.py, convert_gptq_v1_to_v2_format_module, which adds one to every
 * field of a word at once, carries included, as its inverse subtracted it. */
#include "quantization_impl.h"

#include <string.h>

/* "dynamic": {"-:EXPRESSION": {}, "+:EXPRESSION": {"bits": 8}, "EXPRESSION": {...}}; the first that matches a module counts. */
static void read_dynamic(kvi_quantization *q, kvi_json *r)
{
    if (kvi_json_null(r) || !kvi_json_expect(r, KVI_JSON_OBJECT)) return;
    while (kvi_json_next_key(r)) {
        const char *pattern = kvi_quant_text(q, r);
        if (!pattern) return;
        const bool minus = strncmp(pattern, "-:", 2) == 0, sign = minus || strncmp(pattern, "+:", 2) == 0;
        if (sign) pattern += 2;
        kvi_quant_rule *rule = kvi_quant_add_rule(q, pattern, strlen(pattern), KVI_MATCH_REGEX, 0, "dynamic");
        if (!rule) return;
        rule->skip = minus;
        rule->args.bits = rule->args.group = 0; /* not said; the rest of the config may come later */
        if (kvi_json_peek(r) != KVI_JSON_OBJECT) {
            kvi_json_skip(r);
            continue;
        }
        (void)kvi_json_expect(r, KVI_JSON_OBJECT);
        while (kvi_json_next_key(r))
            if (kvi_json_key_is(r, "bits")) rule->args.bits = kvi_quant_read_int(r, 0);
            else if (kvi_json_key_is(r, "group_size")) rule->args.group = kvi_quant_read_int(r, 0);
            else kvi_json_skip(r);
    }
}

/* "extra_config" of AutoRound: {"lm_head": {"bits": 16}, ...}; what is 16 bits or more is not quantized. */
static void read_extra(kvi_quantization *q, kvi_json *r)
{
    if (kvi_json_null(r) || !kvi_json_expect(r, KVI_JSON_OBJECT)) return;
    while (kvi_json_next_key(r)) {
        const char *name = kvi_quant_text(q, r);
        /* A name with anything but letters, digits, dots and underscores is an expression. */
        const bool is_name =
            name && name[strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")] == 0;
        kvi_quant_rule *rule =
            name ? kvi_quant_add_rule(q, name, strlen(name), is_name ? KVI_MATCH_NAME : KVI_MATCH_REGEX, !is_name,
                                      "extra_config")
                 : NULL;
        if (!rule || !kvi_json_expect(r, KVI_JSON_OBJECT)) return;
        rule->args.bits = rule->args.group = 0;
        while (kvi_json_next_key(r))
            if (kvi_json_key_is(r, "bits")) rule->args.bits = kvi_quant_read_int(r, 0);
            else if (kvi_json_key_is(r, "group_size")) rule->args.group = kvi_quant_read_int(r, 0);
            else kvi_json_skip(r);
        rule->skip = rule->args.bits >= 16;
    }
}

static bool read_key(kvi_quantization *q, kvi_json *r)
{
    char text[32];
    if (kvi_json_key_is(r, "bits") || kvi_json_key_is(r, "w_bit")) q->args.bits = kvi_quant_read_int(r, 0);
    else if (kvi_json_key_is(r, "group_size") || kvi_json_key_is(r, "q_group_size"))
        q->args.group = kvi_quant_read_int(r, -1);
    else if (kvi_json_key_is(r, "sym")) q->args.has_symmetric = true, q->args.symmetric = kvi_quant_read_flag(r);
    else if (kvi_json_key_is(r, "checkpoint_format") || kvi_json_key_is(r, "format") ||
             kvi_json_key_is(r, "packing_format"))
        kvi_quant_read_text(r, q->variant, sizeof q->variant);
    else if (kvi_json_key_is(r, "is_marlin_format")) {
        if (kvi_quant_read_flag(r)) memcpy(q->variant, "marlin", sizeof "marlin");
    } else if (kvi_json_key_is(r, "pack_dtype")) {
        kvi_quant_read_text(r, text, sizeof text);
        q->is_packed_in_words = !text[0] || strcmp(text, "int32") == 0;
    } else if (kvi_json_key_is(r, "data_type")) {
        kvi_quant_read_text(r, text, sizeof text);
        q->args.is_float = text[0] && strncmp(text, "int", 3) != 0;
    } else if (kvi_json_key_is(r, "dynamic")) read_dynamic(q, r);
    else if (kvi_json_key_is(r, "extra_config")) read_extra(q, r);
    else return false;
    return true;
}

static kvrt_status check_bits(const kvi_quantization *q, const char *key, int64_t bits, kvrt_error *error)
{
    return bits == 4 || bits == 8 ? KVRT_OK : kvi_quant_refuse_number(q, key, bits, "4 or 8", error);
}

/* What a rule leaves unsaid is as for the whole folder. */
static kvrt_status complete_rules(kvi_quantization *q, kvrt_error *error)
{
    for (kvi_quant_rule *rule = q->rules; rule; rule = rule->next) {
        if (!rule->args.bits) rule->args.bits = q->args.bits;
        if (!rule->args.group) rule->args.group = q->args.group;
        if (!rule->skip && rule->args.bits != 4 && rule->args.bits != 8)
            return kvi_error_set(error, KVRT_UNSUPPORTED, "%s: %s.%s: bits of '%.80s' is %lld, need 4 or 8", q->file,
                                 q->key, rule->key, rule->pattern, (long long)rule->args.bits);
    }
    return KVRT_OK;
}

static kvrt_status check_common(kvi_quantization *q, kvrt_error *error)
{
    KVI_TRY(check_bits(q, "bits", q->args.bits, error));
    if (!q->args.group) q->args.group = -1;
    if (!q->is_packed_in_words) return kvi_quant_refuse(q, "pack_dtype", "not int32", "int32", error);
    if (q->args.is_float) return kvi_quant_refuse(q, "data_type", "a float type", "int", error);
    return complete_rules(q, error);
}

static kvrt_status gptq_check(kvi_quantization *q, kvrt_error *error)
{
    if (q->variant[0] && strcmp(q->variant, "gptq") != 0 && strcmp(q->variant, "gptq_v2") != 0)
        return kvi_quant_refuse(q, "checkpoint_format", q->variant, "gptq or gptq_v2", error);
    return check_common(q, error);
}

static kvrt_status gptq_describe(const kvi_quant_weight *w, bool *done)
{
    const uint32_t bits = (uint32_t)w->args.bits, per_word = 32 / bits, words = (w->n_out + per_word - 1) / per_word;
    const bool first_format = strcmp(w->q->variant, "gptq_v2") != 0;
    const uint32_t ones = bits == 4 ? 0x11111111u : 0x01010101u;
    const char *dot = strrchr(w->codes->name, '.');
    kvi_weight_desc *desc = w->desc;
    if (strcmp(dot, ".qweight") != 0) return KVRT_OK;
    if (w->rule && w->rule->skip) return kvi_quant_contradiction(w);
    KVI_TRY(kvi_quant_group_size(w, &desc->group));
    const uint32_t groups = desc->group ? w->n_in / desc->group : 1;
    if (w->n_in % per_word)
        return kvi_error_set(w->error, KVRT_UNSUPPORTED, "tensor %s: %u columns, need a multiple of %u", w->codes->name,
                             w->n_in, per_word);
    const kvi_tensor *zeros;
    KVI_TRY(kvi_quant_check(w, w->codes, "I32", w->n_in / per_word, w->n_out));
    KVI_TRY(kvi_quant_need(w, "qzeros", "I32", groups, words, &zeros));
    KVI_TRY(kvi_quant_need_scales(w, "scales", groups, w->n_out));
    desc->form = bits == 4 ? KVI_FORM_I4 : KVI_FORM_I8;
    desc->is_unsigned = true;
    desc->code_order = (kvi_part_order){KVI_PACK_ALONG_ROW, 1, w->n_out};
    desc->scale_order = (kvi_part_order){KVI_PACK_NONE, 1, w->n_out};
    /* Symmetric files hold the middle everywhere, which goes without saying here. */
    const uint32_t middle = ones * (bits == 4 ? 8u : 128u) - (first_format ? ones : 0);
    if (!w->q->args.symmetric || !kvi_quant_all_words(zeros, middle)) {
        desc->parts[KVI_PART_ZEROS] = zeros->data;
        desc->zero_order = (kvi_part_order){KVI_PACK_ALONG_COLUMN, 1, words};
        desc->zero_add = first_format ? ones : 0;
    }
    KVI_TRY(kvi_quant_groups(w, "g_idx", groups));
    *done = true;
    return KVRT_OK;
}

const kvi_quant_method kvi_quant_gptq = {{"gptq"}, {"qweight"}, read_key, gptq_check, gptq_describe};

/* -------------------------------------------------------------------------------------------------- AutoRound --- */
static bool packs_like_awq(const kvi_quantization *q) { return strstr(q->variant, "awq") != NULL; }

static kvrt_status auto_round_check(kvi_quantization *q, kvrt_error *error)
{
    static const char *const known[] = {"auto_round:auto_gptq", "auto_round:gptq", "auto_gptq",
                                        "auto_round:auto_awq",  "auto_round:awq",  "auto_awq"};
    bool is_known = !q->variant[0];
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        is_known = is_known || strcmp(q->variant, known[i]) == 0;
    if (!is_known)
        return kvi_quant_refuse(q, "packing_format", q->variant, "auto_round:auto_gptq or auto_round:auto_awq", error);
    KVI_TRY(check_common(q, error));
    return packs_like_awq(q) ? kvi_quant_awq_bits(q, error) : KVRT_OK;
}

static kvrt_status auto_round_describe(const kvi_quant_weight *w, bool *done)
{
    return packs_like_awq(w->q) ? kvi_quant_awq.describe(w, done) : gptq_describe(w, done);
}

const kvi_quant_method kvi_quant_auto_round = {
    {"auto-round", "intel/auto-round", "auto_round"}, {"qweight"}, read_key, auto_round_check, auto_round_describe};
