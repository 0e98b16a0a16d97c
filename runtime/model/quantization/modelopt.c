/* modelopt.c - folders of NVIDIA's TensorRT Model Optimizer: `quantization_config` of config.json, or hf_quant_config.json beside it.
 *
 *   NVFP4  weight          U8 (n_out, n_in / 2)        two E2M1 codes to a byte, the lower half first
 *          weight_scale    F8_E4M3 (n_out, n_in / 16)
 *          weight_scale_2  F32                         multiplies every scale
 *   FP8    weight          F8_E4M3 (n_out, n_in)
 *          weight_scale    F32: one for all, for each row (FP8_PER_CHANNEL_PER_TOKEN), for each block of 128 x 128 (FP8_PB_WO)
 *
 * Which of the two a module has is seen by its tensors, in MIXED_PRECISION as elsewhere. `input_scale` is about activations, which stay f32;
 * algorithms that also scale them (AWQ, SmoothQuant: pre_quant_scale) are refused. Reference: modelopt/torch/quantization/qtensor. */
#include "quantization_impl.h"

#include <string.h>

static const char *const algorithms[] = {"NVFP4",     "W4A16_NVFP4",    "FP8", "FP8_PER_CHANNEL_PER_TOKEN",
                                         "FP8_PB_WO", "MIXED_PRECISION"};

static bool read_key(kvi_quantization *q, kvi_json *r)
{
    if (kvi_json_key_is(r, "quant_algo")) kvi_quant_read_text(r, q->variant, sizeof q->variant);
    else if (kvi_json_key_is(r, "group_size")) q->args.group = kvi_quant_read_int(r, 0);
    else return false;
    return true;
}

static kvrt_status check(kvi_quantization *q, kvrt_error *error)
{
    size_t i = 0;
    while (i < sizeof algorithms / sizeof algorithms[0] && strcmp(algorithms[i], q->variant) != 0) i++;
    if (i == sizeof algorithms / sizeof algorithms[0])
        return kvi_quant_refuse(q, "quant_algo", q->variant,
                                "NVFP4, W4A16_NVFP4, FP8, FP8_PER_CHANNEL_PER_TOKEN, FP8_PB_WO or MIXED_PRECISION",
                                error);
    return KVRT_OK;
}

static kvrt_status describe_nvfp4(const kvi_quant_weight *w)
{
    if (w->args.group && w->args.group != 16)
        return kvi_quant_refuse_number(w->q, "group_size", w->args.group, "16", w->error);
    KVI_TRY(kvi_quant_halves(w, 16));
    w->desc->form = KVI_FORM_NVFP4;
    KVI_TRY(kvi_quant_global(w, "weight_scale_2", false));
    return kvi_quant_scales(w, "weight_scale", KVI_SCALE_E4M3);
}

/* One scale, one for each row, or blocks, as many as there are scales. */
static kvrt_status describe_fp8(const kvi_quant_weight *w)
{
    kvi_weight_desc *desc = w->desc;
    const kvi_tensor *t = kvi_quant_find(w, "weight_scale");
    uint64_t n = 1;
    KVI_TRY(kvi_quant_check(w, w->codes, "F8_E4M3", w->n_out, w->n_in));
    for (uint32_t i = 0; t && i < t->n_dims; i++) n *= t->shape[i];
    const bool blocks = strcmp(w->q->variant, "FP8_PB_WO") == 0 || (n != 1 && n != w->n_out);
    desc->form = KVI_FORM_F8_E4M3;
    desc->group = blocks && w->n_in > 128 ? 128 : 0;
    desc->group_rows = blocks ? 128 : n == 1 ? w->n_out : 1;
    return kvi_quant_scales(w, "weight_scale", KVI_SCALE_PLAIN);
}

static kvrt_status describe(const kvi_quant_weight *w, bool *done)
{
    const bool is_4 = strcmp(w->codes->dtype, "U8") == 0;
    if (!is_4 && strcmp(w->codes->dtype, "F8_E4M3") != 0) return KVRT_OK;
    const kvi_tensor *scaled = kvi_quant_find(w, "pre_quant_scale");
    if (scaled)
        return kvi_error_set(w->error, KVRT_UNSUPPORTED, "tensor %s: activations with scales (%s), need weights alone",
                             scaled->name, w->q->variant);
    KVI_TRY(is_4 ? describe_nvfp4(w) : describe_fp8(w));
    *done = true;
    return KVRT_OK;
}

const kvi_quant_method kvi_quant_modelopt = {
    {"modelopt", "modelopt_fp4", "modelopt_mixed"}, {NULL}, read_key, check, describe};
