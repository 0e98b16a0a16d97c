/* bitsandbytes.c - folders that transformers saved with bitsandbytes: NF4, FP4 and LLM.int8.
 *
 *   4 bits  weight                                  U8 (n_out * n_in / 2, 1)  two codes to a byte, the upper half first
 *           weight.absmax                           F32 (blocks)              scales of `blocksize` neighbours
 *           weight.quant_map                        F32 (16)                  what codes mean
 *           weight.quant_state.bitsandbytes__TYPE   U8: JSON, with blocksize and shape
 *           nested  weight.absmax                   U8 (blocks)               scales are map[absmax] * nested_absmax + nested_offset
 *                   weight.nested_absmax            F32, one for nested_blocksize scales
 *                   weight.nested_quant_map         F32 (256)
 *   8 bits  weight                                  I8 (n_out, n_in)
 *           SCB                                     F32 (n_out)               a weight is code * SCB / 127
 *
 * Reference: bitsandbytes, functional.py (QuantState, dequantize_4bit, int8_vectorwise_dequant). Outliers of LLM.int8 are about activations. */
#include "quantization_impl.h"
#include "../weight_codec.h"

#include <string.h>

static bool read_key(kvi_quantization *q, kvi_json *r)
{
    char text[24];
    if (kvi_json_key_is(r, "load_in_4bit") || kvi_json_key_is(r, "_load_in_4bit")) {
        if (kvi_quant_read_flag(r)) q->args.bits = 4;
    } else if (kvi_json_key_is(r, "load_in_8bit") || kvi_json_key_is(r, "_load_in_8bit")) {
        if (kvi_quant_read_flag(r)) q->args.bits = 8;
    } else if (kvi_json_key_is(r, "bnb_4bit_quant_type")) kvi_quant_read_text(r, q->variant, sizeof q->variant);
    else if (kvi_json_key_is(r, "bnb_4bit_quant_storage")) {
        kvi_quant_read_text(r, text, sizeof text);
        if (text[0] && strcmp(text, "uint8") != 0 && q->status >= KVRT_OK)
            q->status = kvi_quant_refuse(q, "bnb_4bit_quant_storage", text, "uint8", &q->problem);
    } else return false;
    return true;
}

static kvrt_status check(kvi_quantization *q, kvrt_error *error)
{
    if (!q->args.bits) return kvi_quant_refuse(q, "load_in_4bit", "not true", "load_in_4bit or load_in_8bit", error);
    if (q->args.bits == 4 && strcmp(q->variant, "nf4") != 0 && strcmp(q->variant, "fp4") != 0)
        return kvi_quant_refuse(q, "bnb_4bit_quant_type", q->variant, "nf4 or fp4", error);
    return KVRT_OK;
}

/* ---------------------------------------------------------------------------------------------------- quant_state --- */
typedef struct quant_state {
    int64_t block, nested_block, rows, columns;
    double offset;
} quant_state;

static kvrt_status read_state(const kvi_quant_weight *w, quant_state *out)
{
    const bool nf4 = strcmp(w->q->variant, "nf4") == 0;
    const char *suffix = nf4 ? "weight.quant_state.bitsandbytes__nf4" : "weight.quant_state.bitsandbytes__fp4";
    const kvi_tensor *t = kvi_quant_find(w, suffix);
    kvi_json r;
    *out = (quant_state){0};
    if (!t) return kvi_quant_absent(w, suffix);
    kvi_json_init(&r, (const char *)t->data, (size_t)t->bytes);
    (void)kvi_json_expect(&r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(&r))
        if (kvi_json_key_is(&r, "blocksize")) out->block = kvi_json_i64(&r);
        else if (kvi_json_key_is(&r, "nested_blocksize")) out->nested_block = kvi_json_i64(&r);
        else if (kvi_json_key_is(&r, "nested_offset")) out->offset = kvi_json_f64(&r);
        else if (kvi_json_key_is(&r, "shape") && kvi_json_peek(&r) == KVI_JSON_ARRAY) {
            int64_t *const sides[2] = {&out->rows, &out->columns};
            (void)kvi_json_expect(&r, KVI_JSON_ARRAY);
            for (uint32_t i = 0; kvi_json_next_item(&r); i++)
                if (i < 2) *sides[i] = kvi_json_i64(&r);
                else kvi_json_skip(&r);
        } else kvi_json_skip(&r);
    if (r.error) return kvi_json_fail(&r, t->name, w->error);
    if (out->rows != w->n_out || out->columns != w->n_in)
        return kvi_error_set(w->error, KVRT_FORMAT, "tensor %s: shape [%lld, %lld], need [%u, %u]", t->name,
                             (long long)out->rows, (long long)out->columns, w->n_out, w->n_in);
    if (out->block <= 0 || out->block > w->n_in || w->n_in % out->block)
        return kvi_error_set(w->error, KVRT_UNSUPPORTED, "tensor %s: blocksize %lld, need a divisor of %u, the columns",
                             t->name, (long long)out->block, w->n_in);
    return KVRT_OK;
}

/* The map of codes is the one that kvrt knows, whose values the library has rounded. */
static kvrt_status check_map(const kvi_quant_weight *w, kvi_weight_form form)
{
    const kvi_tensor *t;
    KVI_TRY(kvi_quant_need(w, "weight.quant_map", "F32", 16, 0, &t));
    for (uint32_t code = 0; code < 16; code++) {
        const float value = form == KVI_FORM_NF4 ? kvi_nf4_to_f32(code) : kvi_bnb_fp4_to_f32(code);
        if (!(kvi_plain_at(t->data, KVI_F32, code) == value))
            return kvi_error_set(w->error, KVRT_UNSUPPORTED, "tensor %s: code %u is %g, need %g (%s)", t->name, code,
                                 (double)kvi_plain_at(t->data, KVI_F32, code), (double)value, w->q->variant);
    }
    return KVRT_OK;
}

static kvrt_status describe_4(const kvi_quant_weight *w)
{
    kvi_weight_desc *desc = w->desc;
    quant_state state;
    const kvi_tensor *absmax = kvi_quant_find(w, "weight.absmax"), *map, *scales;
    const uint64_t codes = (uint64_t)w->n_out * w->n_in / 2;
    if (!absmax) return kvi_quant_absent(w, "weight.absmax");
    KVI_TRY(kvi_quant_check(w, w->codes, "U8", codes, 1));
    KVI_TRY(read_state(w, &state));
    const uint64_t blocks = (uint64_t)w->n_out * w->n_in / (uint64_t)state.block;
    const bool nested = strcmp(absmax->dtype, "U8") == 0;
    desc->form = strcmp(w->q->variant, "nf4") == 0 ? KVI_FORM_NF4 : KVI_FORM_BNB_FP4;
    desc->group = state.block < w->n_in ? (uint32_t)state.block : 0;
    desc->group_rows = 1;
    desc->scale_type = KVI_F32;
    desc->parts[KVI_PART_SCALES] = absmax->data;
    KVI_TRY(check_map(w, desc->form));
    KVI_TRY(kvi_quant_check(w, absmax, nested ? "U8" : "F32", blocks, 0));
    if (!nested) return KVRT_OK;
    if (state.nested_block <= 0 || state.nested_block > INT32_MAX)
        return kvi_error_set(w->error, KVRT_FORMAT, "tensor %s: nested_blocksize %lld, need it above 0", absmax->name,
                             (long long)state.nested_block);
    const uint64_t size = (uint64_t)state.nested_block;
    KVI_TRY(kvi_quant_need(w, "weight.nested_quant_map", "F32", 256, 0, &map));
    KVI_TRY(kvi_quant_need(w, "weight.nested_absmax", "F32", (blocks + size - 1) / size, 0, &scales));
    desc->parts[KVI_PART_SCALE_MAP] = map->data;
    desc->parts[KVI_PART_SCALE_SCALES] = scales->data;
    desc->scale_group = (uint32_t)state.nested_block;
    desc->scale_add = (float)state.offset;
    return KVRT_OK;
}

static kvrt_status describe(const kvi_quant_weight *w, bool *done)
{
    const bool is_4 = strcmp(w->codes->dtype, "U8") == 0;
    if (!is_4 && strcmp(w->codes->dtype, "I8") != 0) return KVRT_OK;
    if (is_4 != (w->q->args.bits == 4))
        return kvi_quant_refuse_number(w->q, is_4 ? "load_in_8bit" : "load_in_4bit", 1,
                                       is_4 ? "load_in_4bit, as its tensors are" : "load_in_8bit, as its tensors are",
                                       w->error);
    if (is_4) KVI_TRY(describe_4(w));
    else {
        KVI_TRY(kvi_quant_check(w, w->codes, "I8", w->n_out, w->n_in));
        w->desc->form = KVI_FORM_BNB_I8;
        w->desc->group = 0;
        w->desc->group_rows = 1;
        KVI_TRY(kvi_quant_need_scales(w, "SCB", w->n_out, 0));
    }
    *done = true;
    return KVRT_OK;
}

const kvi_quant_method kvi_quant_bitsandbytes = {{"bitsandbytes"}, {NULL}, read_key, check, describe};
