/* mxfp4.c - gpt-oss: experts as MXFP4 in tensors of three dimensions and more.
 *
 *   NAME_blocks  U8 (experts, n_out, n_in / 32, 16)   two E2M1 codes to a byte, the lower half first: 32 neighbours of a row
 *   NAME_scales  U8 (experts, n_out, n_in / 32)       2^(e - 127)
 *
 * NAME is mlp.experts.gate_up_proj, whose rows are gate and up by turns, and mlp.experts.down_proj; their biases are as in other folders. What is not
 * so stored is not quantized. Reference: transformers, integrations/mxfp4.py (convert_moe_packed_tensors). */
#include "quantization_impl.h"

#include <stdio.h>
#include <string.h>

static bool read_key(kvi_quantization *q, kvi_json *r)
{
    (void)q, (void)r; /* modules_to_not_convert names what has no blocks anyway */
    return false;
}

static kvrt_status check(kvi_quantization *q, kvrt_error *error)
{
    (void)q, (void)error;
    return KVRT_OK;
}

static kvrt_status describe(const kvi_quant_weight *w, bool *done)
{
    static const char blocks[] = "_blocks";
    kvi_weight_desc *desc = w->desc;
    const kvi_tensor *codes = w->codes;
    const size_t len = strlen(codes->name), stem = len - (sizeof blocks - 1);
    const uint32_t experts = desc->n_experts > 1 ? desc->n_experts : 1, groups = w->n_in / 32;
    if (len < sizeof blocks || strcmp(codes->name + stem, blocks) != 0) return KVRT_OK;
    const uint64_t *s = codes->shape;
    if (w->n_in % 32 || strcmp(codes->dtype, "U8") != 0 || codes->n_dims != 4 || s[0] != experts || s[1] != w->n_out ||
        s[2] != groups || s[3] != 16)
        return kvi_error_set(w->error, KVRT_FORMAT, "tensor %s: %s of %u dimensions, need U8 [%u, %u, %u, 16]",
                             codes->name, codes->dtype, codes->n_dims, experts, w->n_out, groups);
    char name[224];
    (void)snprintf(name, sizeof name, "%.*s_scales", (int)(stem < 200 ? stem : 200), codes->name);
    const kvi_tensor *scales = kvi_checkpoint_find(w->checkpoint, name);
    if (!scales)
        return kvi_error_set(w->error, KVRT_FORMAT, "tensor %s: not found, need it beside %s", name, codes->name);
    if (strcmp(scales->dtype, "U8") != 0 || scales->n_dims != 3 || scales->shape[0] != experts ||
        scales->shape[1] != w->n_out || scales->shape[2] != groups)
        return kvi_error_set(w->error, KVRT_FORMAT, "tensor %s: %s of %u dimensions, need U8 [%u, %u, %u]", name,
                             scales->dtype, scales->n_dims, experts, w->n_out, groups);
    desc->form = KVI_FORM_MXFP4;
    desc->group = 32;
    desc->group_rows = 1;
    desc->transposed = false; /* other folders of the family have these matrices by columns, this form by rows */
    desc->parts[KVI_PART_SCALES] = scales->data;
    *done = true;
    return KVRT_OK;
}

const kvi_quant_method kvi_quant_mxfp4 = {{"mxfp4"}, {"_blocks"}, read_key, check, describe};
