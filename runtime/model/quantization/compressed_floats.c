/* compressed_floats.c - the modules of compressed-tensors folders whose codes are floats.
 *
 *   float-quantized,        weight               F8_E4M3 (n_out, n_in)
 *   naive-quantized         weight_scale         F32, F16 or BF16, as the strategy says (compressed_tensors.c)
 *   mxfp8-quantized         weight               F8_E4M3 (n_out, n_in)
 *                           weight_scale         U8 (n_out, n_in / 32): 2^(e - 127)
 *   nvfp4-pack-quantized    weight_packed        U8 (n_out, n_in / 2): two E2M1 codes to a byte, the lower half first
 *                           weight_scale         F8_E4M3 (n_out, n_in / 16)
 *                           weight_global_scale  F32: every scale is divided by it
 *   mxfp4-pack-quantized    weight_packed        the same
 *                           weight_scale         U8 (n_out, n_in / 32)
 *
 * Reference: compressors/nvfp4, mxfp4, mxfp8 and naive_quantized, and dequantize of quantization/lifecycle. */
#include "quantization_impl.h"

#include <string.h>

kvrt_status kvi_quant_describe_floats(const kvi_quant_weight *w)
{
    kvi_weight_desc *desc = w->desc;
    const char *format = w->args.format;
    if (strcmp(format, "nvfp4-pack-quantized") == 0) {
        KVI_TRY(kvi_quant_halves(w, 16));
        desc->form = KVI_FORM_NVFP4;
        KVI_TRY(kvi_quant_global(w, "weight_global_scale", true));
        return kvi_quant_scales(w, "weight_scale", KVI_SCALE_E4M3);
    }
    if (strcmp(format, "mxfp4-pack-quantized") == 0) {
        KVI_TRY(kvi_quant_halves(w, 32));
        desc->form = KVI_FORM_MXFP4;
        return kvi_quant_scales(w, "weight_scale", KVI_SCALE_E8M0);
    }
    const bool powers = strcmp(format, "mxfp8-quantized") == 0;
    KVI_TRY(kvi_quant_check(w, w->codes, "F8_E4M3", w->n_out, w->n_in));
    desc->form = powers ? KVI_FORM_MXFP8 : KVI_FORM_F8_E4M3;
    return kvi_quant_scales(w, "weight_scale", powers ? KVI_SCALE_E8M0 : KVI_SCALE_PLAIN);
}
