/* quantization_tensors.c - the tensors of a quantized module: found by name, and every shape and type checked before a weight refers to them. */
#include "quantization_impl.h"

#include <stdio.h>
#include <string.h>

static void shape_text(const kvi_tensor *t, char *text, size_t cap)
{
    size_t len = (size_t)snprintf(text, cap, "%s [", t->dtype);
    for (uint32_t i = 0; i < t->n_dims && len < cap; i++)
        len += (size_t)snprintf(text + len, cap - len, "%s%llu", i ? ", " : "", (unsigned long long)t->shape[i]);
    if (len < cap) (void)snprintf(text + len, cap - len, "]");
}

/* The arguments that a module's shapes follow from, as the config calls them. */
static void args_text(const kvi_quant_weight *w, char *text, size_t cap)
{
    (void)snprintf(text, cap, "%u rows of %u; %s%s%s: %lld bits, group size %lld", w->n_out, w->n_in, w->q->key,
                   w->rule ? "." : "", w->rule ? w->rule->key : "", (long long)w->args.bits, (long long)w->args.group);
}

const kvi_tensor *kvi_quant_find(const kvi_quant_weight *w, const char *suffix)
{
    char name[224];
    (void)snprintf(name, sizeof name, "%s.%s", w->module, suffix);
    return kvi_checkpoint_find(w->checkpoint, name);
}

kvrt_status kvi_quant_wrong(const kvi_quant_weight *w, const kvi_tensor *t, const char *dtype, uint64_t rows,
                            uint64_t columns)
{
    char found[240], need[64], args[160];
    shape_text(t, found, sizeof found);
    if (columns)
        (void)snprintf(need, sizeof need, "[%llu, %llu]", (unsigned long long)rows, (unsigned long long)columns);
    else (void)snprintf(need, sizeof need, "[%llu]", (unsigned long long)rows);
    args_text(w, args, sizeof args);
    return kvi_error_set(w->error, KVRT_FORMAT, "tensor %s: %s, need %s %s (%s)", t->name, found, dtype, need, args);
}

static bool has_shape(const kvi_tensor *t, uint64_t rows, uint64_t columns)
{
    return t->n_dims == (columns ? 2u : 1u) && t->shape[0] == rows && (!columns || t->shape[1] == columns);
}

kvrt_status kvi_quant_check(const kvi_quant_weight *w, const kvi_tensor *t, const char *dtype, uint64_t rows,
                            uint64_t columns)
{
    return has_shape(t, rows, columns) && strcmp(t->dtype, dtype) == 0 ? KVRT_OK
                                                                       : kvi_quant_wrong(w, t, dtype, rows, columns);
}

kvrt_status kvi_quant_absent(const kvi_quant_weight *w, const char *suffix)
{
    return kvi_error_set(w->error, KVRT_FORMAT, "tensor %s.%s: not found, need it beside %s (%s)", w->module, suffix,
                         w->codes->name, w->q->name);
}

kvrt_status kvi_quant_need(const kvi_quant_weight *w, const char *suffix, const char *dtype, uint64_t rows,
                           uint64_t columns, const kvi_tensor **out)
{
    *out = kvi_quant_find(w, suffix);
    return *out ? kvi_quant_check(w, *out, dtype, rows, columns) : kvi_quant_absent(w, suffix);
}

kvrt_status kvi_quant_need_scales(const kvi_quant_weight *w, const char *suffix, uint64_t rows, uint64_t columns)
{
    const kvi_tensor *t = kvi_quant_find(w, suffix);
    if (!t) return kvi_quant_absent(w, suffix);
    if (!kvi_form_is_plain(t->form) || !has_shape(t, rows, columns))
        return kvi_quant_wrong(w, t, "F16, BF16 or F32", rows, columns);
    w->desc->scale_type = kvi_form_dtype(t->form);
    w->desc->parts[KVI_PART_SCALES] = t->data;
    return KVRT_OK;
}

static uint32_t word_at(const kvi_tensor *t, uint64_t i)
{
    const uint8_t *p = t->data + 4 * i;
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

kvrt_status kvi_quant_groups(const kvi_quant_weight *w, const char *suffix, uint32_t n_groups)
{
    const kvi_tensor *t = kvi_quant_find(w, suffix);
    if (!t) return KVRT_OK;
    KVI_TRY(kvi_quant_check(w, t, "I32", w->n_in, 0));
    if (word_at(t, 0) == UINT32_MAX) return KVRT_OK; /* how compressed-tensors says that there are none */
    bool usual = true;
    for (uint32_t k = 0; k < w->n_in; k++) {
        const uint32_t group = word_at(t, k);
        usual = usual && group == (w->desc->group ? k / w->desc->group : 0);
        if (group >= n_groups)
            return kvi_error_set(w->error, KVRT_FORMAT, "tensor %s: element %u is %lld, need a group from 0 to %u",
                                 t->name, k, (long long)(int32_t)group, n_groups - 1);
    }
    if (!usual) w->desc->parts[KVI_PART_GROUPS] = t->data;
    return KVRT_OK;
}

kvrt_status kvi_quant_group_size(const kvi_quant_weight *w, uint32_t *group)
{
    const int64_t g = w->args.group;
    if (g < -1 || g == 0 || (g > 0 && g < w->n_in && w->n_in % (uint64_t)g != 0))
        return kvi_error_set(w->error, KVRT_UNSUPPORTED,
                             "tensor %s: groups of %lld (%s%s%s in %s), need -1 or a divisor of %u", w->codes->name,
                             (long long)g, w->q->key, w->rule ? "." : "", w->rule ? w->rule->key : "", w->q->file,
                             w->n_in);
    *group = g < 0 || g >= w->n_in ? 0 : (uint32_t)g;
    return KVRT_OK;
}

bool kvi_quant_all_words(const kvi_tensor *t, uint32_t word)
{
    for (uint64_t i = 0; i < t->bytes / 4; i++)
        if (word_at(t, i) != word) return false;
    return true;
}

kvrt_status kvi_quant_contradiction(const kvi_quant_weight *w)
{
    return kvi_error_set(w->error, KVRT_FORMAT, "tensor %s: quantized, but %s.%s in %s leaves %s out ('%.80s')",
                         w->codes->name, w->q->key, w->rule->key, w->q->file, w->module, w->rule->pattern);
}
