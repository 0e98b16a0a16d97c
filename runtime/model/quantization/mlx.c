/* mlx.c - folders of mlx-lm: `quantization` of config.json says bits and group size, and under a module's name what is different there.
 *
 *   affine  weight  U32 (n_out, n_in * bits / 32)  codes of 2, 3, 4, 5, 6 or 8 bits, one after the other from the lowest bit on
 *           scales  F16, BF16 or F32 (n_out, n_in / group_size)
 *           biases  the same: a weight is code * scale + bias
 *   mxfp4   weight  U32 (n_out, n_in / 8)          two E2M1 codes to a byte, the lower half first
 *   mxfp8   weight  U32 (n_out, n_in / 4)          E4M3
 *           scales  U8 (n_out, n_in / 32)          of both: 2^(e - 127)
 *
 * Embeddings and heads are quantized like any other module. Reference: mlx, mx.dequantize. */
#include "quantization_impl.h"

#include <stdio.h>
#include <string.h>

static const struct {
    int64_t bits;
    kvi_weight_form form;
} affine[] = {{2, KVI_FORM_A2}, {3, KVI_FORM_A3}, {4, KVI_FORM_A4},
              {5, KVI_FORM_A5}, {6, KVI_FORM_A6}, {8, KVI_FORM_A8}};

static kvi_weight_form affine_of(int64_t bits)
{
    for (size_t i = 0; i < sizeof affine / sizeof affine[0]; i++)
        if (affine[i].bits == bits) return affine[i].form;
    return KVI_FORM_NONE;
}

/* {"group_size": 64, "bits": 6}; a mode of its own is kept as the format. */
static void read_args(kvi_json *r, kvi_quant_args *args)
{
    (void)kvi_json_expect(r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(r))
        if (kvi_json_key_is(r, "bits")) args->bits = kvi_quant_read_int(r, args->bits);
        else if (kvi_json_key_is(r, "group_size")) args->group = kvi_quant_read_int(r, args->group);
        else if (kvi_json_key_is(r, "mode")) kvi_quant_read_text(r, args->format, sizeof args->format);
        else kvi_json_skip(r);
}

/* Under a module's name: what is different there, or false where it is as it was. The defaults may stand behind it. */
static void read_module(kvi_quantization *q, kvi_json *r)
{
    const char *name = kvi_quant_text(q, r);
    const kvi_json_type type = kvi_json_peek(r);
    if (!name || (type != KVI_JSON_OBJECT && type != KVI_JSON_FALSE)) {
        kvi_json_skip(r);
        return;
    }
    kvi_quant_rule *rule = kvi_quant_add_rule(q, name, strlen(name), KVI_MATCH_NAME, 0, name);
    if (!rule) return;
    rule->args = (kvi_quant_args){.bits = 0};
    rule->skip = type == KVI_JSON_FALSE;
    if (rule->skip) kvi_json_skip(r);
    else read_args(r, &rule->args);
}

static bool read_key(kvi_quantization *q, kvi_json *r)
{
    if (kvi_json_key_is(r, "bits")) q->args.bits = kvi_quant_read_int(r, 0);
    else if (kvi_json_key_is(r, "group_size")) q->args.group = kvi_quant_read_int(r, 0);
    else if (kvi_json_key_is(r, "mode")) kvi_quant_read_text(r, q->args.format, sizeof q->args.format);
    else read_module(q, r);
    return true;
}

static kvrt_status check_args(const kvi_quantization *q, const kvi_quant_args *args, const char *module,
                              kvrt_error *error)
{
    const bool is_affine = !args->format[0] || strcmp(args->format, "affine") == 0;
    char key[256];
    const char *dot = module[0] ? "." : "";
    if (!is_affine && strcmp(args->format, "mxfp4") != 0 && strcmp(args->format, "mxfp8") != 0) {
        (void)snprintf(key, sizeof key, "%.200s%smode", module, dot);
        return kvi_quant_refuse(q, key, args->format, "affine, mxfp4 or mxfp8", error);
    }
    if (is_affine && affine_of(args->bits) == KVI_FORM_NONE) {
        (void)snprintf(key, sizeof key, "%.200s%sbits", module, dot);
        return kvi_quant_refuse_number(q, key, args->bits, "2, 3, 4, 5, 6 or 8", error);
    }
    if (is_affine && (args->group <= 0 || args->group > INT32_MAX)) {
        (void)snprintf(key, sizeof key, "%.200s%sgroup_size", module, dot);
        return kvi_quant_refuse_number(q, key, args->group, "32, 64 or 128", error);
    }
    return KVRT_OK;
}

static kvrt_status check(kvi_quantization *q, kvrt_error *error)
{
    KVI_TRY(check_args(q, &q->args, "", error));
    for (kvi_quant_rule *rule = q->rules; rule; rule = rule->next) {
        if (rule->skip) continue;
        if (!rule->args.bits) rule->args.bits = q->args.bits;
        if (!rule->args.group) rule->args.group = q->args.group;
        if (!rule->args.format[0]) memcpy(rule->args.format, q->args.format, sizeof rule->args.format);
        KVI_TRY(check_args(q, &rule->args, rule->pattern, error));
    }
    return KVRT_OK;
}

static kvrt_status describe(const kvi_quant_weight *w, bool *done)
{
    kvi_weight_desc *desc = w->desc;
    const bool mxfp4 = strcmp(w->args.format, "mxfp4") == 0, mxfp8 = strcmp(w->args.format, "mxfp8") == 0;
    const uint32_t bits = mxfp4   ? 4
                          : mxfp8 ? 8
                                  : (uint32_t)w->args.bits,
                   group = mxfp4 || mxfp8 ? 32 : (uint32_t)w->args.group;
    if (strcmp(w->codes->dtype, "U32") != 0) return KVRT_OK;
    if (w->rule && w->rule->skip) return kvi_quant_contradiction(w);
    if (w->n_in % group || (uint64_t)w->n_in * bits % 32)
        return kvi_error_set(w->error, KVRT_UNSUPPORTED,
                             "tensor %s: %u columns, need a multiple of %u (%s.group_size in %s)", w->codes->name,
                             w->n_in, group, w->q->key, w->q->file);
    KVI_TRY(kvi_quant_check(w, w->codes, "U32", w->n_out, (uint64_t)w->n_in * bits / 32));
    desc->form = mxfp4 ? KVI_FORM_MXFP4 : mxfp8 ? KVI_FORM_MXFP8 : affine_of(bits);
    desc->group = group < w->n_in ? group : 0;
    desc->group_rows = 1;
    KVI_TRY(kvi_quant_scales(w, "scales", mxfp4 || mxfp8 ? KVI_SCALE_E8M0 : KVI_SCALE_PLAIN));
    *done = true;
    if (mxfp4 || mxfp8) return KVRT_OK;
    const kvi_tensor *scales = kvi_quant_find(w, "scales"), *biases;
    KVI_TRY(kvi_quant_need(w, "biases", scales->dtype, w->n_out, kvi_weight_groups(desc), &biases));
    desc->parts[KVI_PART_MINS] = biases->data;
    return KVRT_OK;
}

const kvi_quant_method kvi_quant_mlx = {{"mlx"}, {NULL}, read_key, check, describe};
