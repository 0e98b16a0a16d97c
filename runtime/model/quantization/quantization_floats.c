/* quantization_floats.c - what the methods share whose codes are small floats: scales of any kind for rows, groups or blocks, and the one number that
 * scales them. */
#include "quantization_impl.h"

#include <string.h>

/* Sides of 1 are left out: one scale for a row is (n_out), (n_out, 1) or (n_out, 1, 1, 1), as files have it. */
static bool has_sides(const kvi_tensor *t, uint64_t rows, uint64_t columns)
{
    const uint64_t need[2] = {rows != 1 ? rows : columns, rows != 1 && columns != 1 ? columns : 1};
    uint64_t found[2] = {1, 1};
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n_dims; i++) {
        if (t->shape[i] == 1) continue;
        if (n == 2) return false;
        found[n++] = t->shape[i];
    }
    return found[0] == need[0] && found[1] == need[1];
}

static bool is_one_of(const char *dtype, const char *a, const char *b)
{
    return strcmp(dtype, a) == 0 || strcmp(dtype, b) == 0;
}

kvrt_status kvi_quant_scales(const kvi_quant_weight *w, const char *suffix, kvi_scale_kind kind)
{
    kvi_weight_desc *desc = w->desc;
    const kvi_tensor *t = kvi_quant_find(w, suffix);
    const uint64_t columns = kvi_weight_groups(desc),
                   rows = desc->group_rows > 1 ? (w->n_out + desc->group_rows - 1u) / desc->group_rows : w->n_out;
    if (!t) return kvi_quant_absent(w, suffix);
    const bool fits = kind == KVI_SCALE_E8M0   ? is_one_of(t->dtype, "U8", "F8_E8M0")
                      : kind == KVI_SCALE_E4M3 ? is_one_of(t->dtype, "F8_E4M3", "U8")
                                               : kvi_form_is_plain(t->form);
    if (!fits || !has_sides(t, rows, columns))
        return kvi_quant_wrong(w, t,
                               kind == KVI_SCALE_E8M0   ? "U8 or F8_E8M0"
                               : kind == KVI_SCALE_E4M3 ? "F8_E4M3"
                                                        : "F32, F16 or BF16",
                               rows, columns);
    if (kind == KVI_SCALE_PLAIN) desc->scale_type = kvi_form_dtype(t->form);
    desc->parts[KVI_PART_SCALES] = t->data;
    return KVRT_OK;
}

kvrt_status kvi_quant_global(const kvi_quant_weight *w, const char *suffix, bool divides)
{
    const kvi_tensor *t = kvi_quant_find(w, suffix);
    if (!t) return kvi_quant_absent(w, suffix);
    if (strcmp(t->dtype, "F32") != 0 || !has_sides(t, 1, 1)) return kvi_quant_wrong(w, t, "F32", 1, 0);
    w->desc->parts[KVI_PART_GLOBAL] = t->data;
    w->desc->global_divides = divides;
    return KVRT_OK;
}

kvrt_status kvi_quant_halves(const kvi_quant_weight *w, uint32_t group)
{
    if (w->n_in % group)
        return kvi_error_set(w->error, KVRT_UNSUPPORTED, "tensor %s: %u columns, need a multiple of %u", w->codes->name,
                             w->n_in, group);
    w->desc->group = group;
    w->desc->group_rows = 1;
    return kvi_quant_check(w, w->codes, "U8", w->n_out, w->n_in / 2);
}
