/* fp8.c - folders of 8-bit floats as DeepSeek and Qwen publish them (`fp8`) and as FBGEMM writes them (`fbgemm_fp8`).
 *
 *   weight            F8_E4M3 (n_out, n_in)     codes
 *   weight_scale_inv  F32, F16 or BF16          scales, by which codes are multiplied whatever the name says: one for each block of
 *                                               `weight_block_size` (both sides rounded up), or without that one for all
 *                     U8 or F8_E8M0             the same as powers of two (`scale_fmt` ue8m0)
 *   weight_scale      F32, F16 or BF16          likewise; one for all, or for each row
 *
 * `activation_scheme` and `input_scale` are about activations, which stay f32. Reference: transformers, integrations/finegrained_fp8.py
 * (Fp8Dequantize). */
#include "quantization_impl.h"

#include <string.h>

static bool read_key(kvi_quantization *q, kvi_json *r)
{
    if (kvi_json_key_is(r, "fmt") || kvi_json_key_is(r, "expert_dtype")) {
        char text[16];
        const bool fmt = kvi_json_key_is(r, "fmt");
        kvi_quant_read_text(r, text, sizeof text);
        if (text[0] && strcmp(text, fmt ? "e4m3" : "fp8") != 0 && q->status >= KVRT_OK)
            q->status = kvi_quant_refuse(q, fmt ? "fmt" : "expert_dtype", text, fmt ? "e4m3" : "fp8", &q->problem);
    } else if (kvi_json_key_is(r, "weight_block_size") && kvi_json_peek(r) == KVI_JSON_ARRAY)
        kvi_quant_read_sides(r, &q->args);
    else return false;
    return true;
}

static kvrt_status check(kvi_quantization *q, kvrt_error *error)
{
    const kvi_quant_args *a = &q->args;
    const bool none = !a->block_rows && !a->block_columns;
    if (none ||
        (a->block_rows > 0 && a->block_columns > 0 && a->block_rows <= INT32_MAX && a->block_columns <= INT32_MAX))
        return KVRT_OK;
    return kvi_quant_refuse(q, "weight_block_size", "not a pair of sizes", "[rows, columns]", error);
}

/* What shares a scale: a block, where the config has them; else a row or all, as the tensor is. */
static void share(const kvi_quant_weight *w, const kvi_tensor *scales)
{
    kvi_weight_desc *desc = w->desc;
    uint64_t n = 1;
    for (uint32_t i = 0; i < scales->n_dims; i++) n *= scales->shape[i];
    desc->group = 0;
    desc->group_rows = n == 1 ? w->n_out : 1;
    if (!w->args.block_rows || (n == 1 && scales->n_dims < 2)) return;
    desc->group_rows = (uint32_t)w->args.block_rows;
    desc->group = w->args.block_columns < w->n_in ? (uint32_t)w->args.block_columns : 0;
}

static kvrt_status describe(const kvi_quant_weight *w, bool *done)
{
    if (strcmp(w->codes->dtype, "F8_E4M3") != 0) return KVRT_OK;
    KVI_TRY(kvi_quant_check(w, w->codes, "F8_E4M3", w->n_out, w->n_in));
    const char *suffix = kvi_quant_find(w, "weight_scale") ? "weight_scale" : "weight_scale_inv";
    const kvi_tensor *scales = kvi_quant_find(w, suffix);
    if (!scales) return kvi_quant_absent(w, suffix);
    const bool powers = strcmp(scales->dtype, "U8") == 0 || strcmp(scales->dtype, "F8_E8M0") == 0;
    share(w, scales);
    w->desc->form = powers ? KVI_FORM_MXFP8 : KVI_FORM_F8_E4M3;
    KVI_TRY(kvi_quant_scales(w, suffix, powers ? KVI_SCALE_E8M0 : KVI_SCALE_PLAIN));
    *done = true;
    return KVRT_OK;
}

const kvi_quant_method kvi_quant_fp8 = {{"fp8", "fbgemm_fp8"}, {NULL}, read_key, check, describe};
