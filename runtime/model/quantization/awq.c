/* awq.c - folders of AutoAWQ, LLM-AWQ's successors and GPTQModel's `awq`, 4 bits.
 *
 *   gemm   qweight  I32 (n_in, n_out / 8)         codes, neighbours of a column in a word, in the order 0 2 4 6 1 3 5 7
 *          qzeros   I32 (groups, n_out / 8)       zeros, packed the same way
 *          scales   F16 (groups, n_out)
 *   gemv   qweight  I32 (n_out, n_in / 8)         codes, neighbours of a row in a word, lowest bits first
 *          qzeros   I32 (n_out, padded groups / 8)   likewise; so that a row of scales is a multiple of 64, of 32 or of 16 bytes
 *          scales   F16 (n_out, padded groups)
 *
 * Zeros are stored as they are. Activation scales are folded into the norm or product before. Layout: AutoAWQ, awq/utils/packing_utils.py,
 * awq/modules/linear/gemm.py and gemv.py. */
#include "quantization_impl.h"

#include <string.h>

static bool read_key(kvi_quantization *q, kvi_json *r)
{
    if (kvi_json_key_is(r, "bits") || kvi_json_key_is(r, "w_bit")) q->args.bits = kvi_quant_read_int(r, 0);
    else if (kvi_json_key_is(r, "group_size") || kvi_json_key_is(r, "q_group_size"))
        q->args.group = kvi_quant_read_int(r, -1);
    else if (kvi_json_key_is(r, "version") || kvi_json_key_is(r, "format") || kvi_json_key_is(r, "checkpoint_format"))
        kvi_quant_read_text(r, q->variant, sizeof q->variant);
    else return false;
    return true;
}

static bool is_gemv(const kvi_quantization *q) { return strcmp(q->variant, "gemv") == 0; }

kvrt_status kvi_quant_awq_bits(const kvi_quantization *q, kvrt_error *error)
{
    return q->args.bits == 4 ? KVRT_OK : kvi_quant_refuse_number(q, "bits", q->args.bits, "4", error);
}

static kvrt_status awq_check(kvi_quantization *q, kvrt_error *error)
{
    KVI_TRY(kvi_quant_awq_bits(q, error));
    if (!q->args.group) q->args.group = -1;
    for (char *c = q->variant; *c; c++)
        if (*c >= 'A' && *c <= 'Z') *c = (char)(*c - 'A' + 'a'); /* "GEMM" in AutoAWQ's own file */
    if (q->variant[0] && strcmp(q->variant, "gemm") != 0 && !is_gemv(q))
        return kvi_quant_refuse(q, "version", q->variant, "gemm or gemv", error);
    return KVRT_OK;
}

/* Words of a row of zeros, as AutoAWQ's calculate_zeros_width has it. */
static uint32_t gemv_words(uint32_t groups, uint32_t group)
{
    const uint32_t words = (groups + 7) / 8, multiple = group >= 128 ? 1 : group == 64 ? 2 : 4;
    return (words + multiple - 1) / multiple * multiple;
}

static kvrt_status describe_gemm(const kvi_quant_weight *w, uint32_t groups)
{
    const uint32_t words = w->n_out / 8;
    kvi_weight_desc *desc = w->desc;
    const kvi_tensor *zeros;
    if (w->n_out % 8)
        return kvi_error_set(w->error, KVRT_UNSUPPORTED, "tensor %s: %u rows, need a multiple of 8", w->codes->name,
                             w->n_out);
    KVI_TRY(kvi_quant_check(w, w->codes, "I32", w->n_in, words));
    KVI_TRY(kvi_quant_need(w, "qzeros", "I32", groups, words, &zeros));
    KVI_TRY(kvi_quant_need_scales(w, "scales", groups, w->n_out));
    desc->code_order = desc->zero_order = (kvi_part_order){KVI_PACK_AWQ, 1, words};
    desc->scale_order = (kvi_part_order){KVI_PACK_NONE, 1, w->n_out};
    desc->parts[KVI_PART_ZEROS] = zeros->data;
    return KVRT_OK;
}

static kvrt_status describe_gemv(const kvi_quant_weight *w, uint32_t groups)
{
    kvi_weight_desc *desc = w->desc;
    const uint32_t words = gemv_words(groups, desc->group ? desc->group : w->n_in);
    const kvi_tensor *zeros;
    if (w->n_in % 8)
        return kvi_error_set(w->error, KVRT_UNSUPPORTED, "tensor %s: %u columns, need a multiple of 8", w->codes->name,
                             w->n_in);
    KVI_TRY(kvi_quant_check(w, w->codes, "I32", w->n_out, w->n_in / 8));
    KVI_TRY(kvi_quant_need(w, "qzeros", "I32", w->n_out, words, &zeros));
    KVI_TRY(kvi_quant_need_scales(w, "scales", w->n_out, (uint64_t)words * 8));
    desc->zero_order = (kvi_part_order){KVI_PACK_ALONG_ROW, words, 1};
    desc->scale_order = (kvi_part_order){KVI_PACK_NONE, words * 8, 1};
    desc->parts[KVI_PART_ZEROS] = zeros->data;
    return KVRT_OK;
}

static kvrt_status awq_describe(const kvi_quant_weight *w, bool *done)
{
    if (strcmp(strrchr(w->codes->name, '.'), ".qweight") != 0) return KVRT_OK;
    if (w->rule && w->rule->skip) return kvi_quant_contradiction(w);
    KVI_TRY(kvi_quant_group_size(w, &w->desc->group));
    const uint32_t groups = w->desc->group ? w->n_in / w->desc->group : 1;
    w->desc->form = KVI_FORM_I4;
    KVI_TRY(is_gemv(w->q) ? describe_gemv(w, groups) : describe_gemm(w, groups));
    *done = true;
    return KVRT_OK;
}

const kvi_quant_method kvi_quant_awq = {{"awq"}, {"qweight"}, read_key, awq_check, awq_describe};
