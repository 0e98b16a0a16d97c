/* op_forms.c - see op_forms.h. */
#include "op_forms.h"
#include "runtime/kv/half.h"

#include <math.h>
#include <string.h>

static uint32_t bits(uint32_t n) { return (uint32_t)(op_uniform() * (double)(1ull << n)); }

static double f16_at(const unsigned char *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    return (double)kvi_f16_to_f32(h);
}

static double e4m3(unsigned code)
{
    const unsigned exponent = code >> 3 & 15u, mantissa = code & 7u;
    const double size = exponent ? ldexp(8 + mantissa, (int)exponent - 10) : ldexp(mantissa, -9);
    return code & 0x80u ? -size : size;
}

static unsigned char *part(op_rig *rig, const op_form *form, kvi_weight_desc *desc, kvi_weight_part which)
{
    const uint64_t n = desc->n_experts > 1 ? desc->n_experts : 1;
    unsigned char *p = (unsigned char *)op_rig_memory(rig, n * kvi_weight_part_bytes(desc, which) + 8) + form->misalign;
    desc->parts[which] = p;
    return p;
}

/* A number between 0.05 and 0.1 times size, or its negative, as it is stored. */
static double put_scale(unsigned char *p, kvi_dtype dtype, double size)
{
    const float f = (float)(size * (0.05 + 0.05 * op_uniform()) * (bits(1) ? 1 : -1));
    const uint16_t h = dtype == KVI_F16 ? kvi_f32_to_f16(f) : kvi_f32_to_bf16(f);
    memcpy(p, dtype == KVI_F32 ? (const void *)&f : (const void *)&h, dtype == KVI_F32 ? 4 : 2);
    return (double)(dtype == KVI_F32 ? f : dtype == KVI_F16 ? kvi_f16_to_f32(h) : kvi_bf16_to_f32(h));
}

/* ------------------------------------------------------------------------------------------------------ blocks --- */
/* A block of random codes and its values. */
static void put_block(kvi_weight_form form, double size, unsigned char *p, double *out)
{
    const uint16_t d = kvi_f32_to_f16((float)(size * (0.02 + 0.02 * op_uniform()))),
                   m = kvi_f32_to_f16((float)(-0.1 * size * op_uniform()));
    for (uint32_t i = 0; i < kvi_form(form)->block_bytes; i++) p[i] = (unsigned char)bits(8);
    memcpy(p, &d, 2);
    if (form == KVI_FORM_Q8_0) {
        for (int i = 0; i < 32; i++) out[i] = f16_at(p) * (p[2 + i] < 128 ? p[2 + i] : p[2 + i] - 256);
        return;
    }
    const unsigned char *codes = p + (form == KVI_FORM_Q4_1 ? 4 : 2);
    if (form == KVI_FORM_Q4_1) memcpy(p + 2, &m, 2);
    for (int i = 0; i < 32; i++) {
        const int q = i < 16 ? codes[i] % 16 : codes[i - 16] / 16;
        out[i] = form == KVI_FORM_Q4_1 ? f16_at(p) * q + f16_at(p + 2) : f16_at(p) * (q - 8);
    }
}

/* ------------------------------------------------------------------------------------------------------ groups --- */
typedef struct scales {
    double *scale, *zero;   /* per group row and group */
    uint32_t *place;        /* (n_in) */
    uint32_t groups, group; /* of a row */
    uint32_t group_rows;
} scales;

static scales put_scales(op_rig *rig, const op_form *form, kvi_weight_desc *desc)
{
    const uint32_t size = kvi_dtype_bytes(form->scale_type);
    scales s = {.group = form->group ? form->group : desc->n_in, .group_rows = form->group_rows ? form->group_rows : 1};
    s.groups = (desc->n_in + s.group - 1) / s.group;
    const uint32_t n =
        (desc->n_out + s.group_rows - 1) / s.group_rows * s.groups * (desc->n_experts > 1 ? desc->n_experts : 1);
    s.scale = op_rig_memory(rig, n * sizeof(double));
    s.zero = op_rig_memory(rig, n * sizeof(double));
    s.place = op_rig_memory(rig, desc->n_in * sizeof *s.place);
    unsigned char *p = part(rig, form, desc, KVI_PART_SCALES);
    for (uint32_t i = 0; i < n; i++)
        s.scale[i] = put_scale(p + i * size, form->scale_type, form->size > 0 ? form->size : 1);
    if (form->zeros) p = part(rig, form, desc, KVI_PART_ZEROS);
    for (uint32_t i = 0; i < n; i++) {
        s.zero[i] = desc->form == KVI_FORM_I4 ? 8 : 0;
        if (!form->zeros) continue;
        s.zero[i] = desc->form == KVI_FORM_I4 ? (int)bits(4) : (int)bits(8) - 128;
        p[i] = (unsigned char)(int)s.zero[i];
    }
    for (uint32_t k = 0; k < desc->n_in; k++) s.place[k] = k;
    for (uint32_t k = desc->n_in; form->permuted && k > 1; k--) {
        const uint32_t other = (uint32_t)(op_uniform() * k), kept = s.place[k - 1];
        s.place[k - 1] = s.place[other];
        s.place[other] = kept;
    }
    for (uint32_t e = 0; form->permuted && e < (desc->n_experts > 1 ? desc->n_experts : 1); e++) {
        if (e == 0) p = part(rig, form, desc, KVI_PART_PERMUTATION);
        memcpy(p + (size_t)e * desc->n_in * 4, s.place, (size_t)desc->n_in * 4);
    }
    return s;
}

/* A random code at place k of a row; returns its number. */
static double put_code(kvi_weight_form form, unsigned char *row, uint32_t k)
{
    if (form == KVI_FORM_I4) {
        const uint32_t q = bits(4);
        row[k / 2] = (unsigned char)(row[k / 2] | q << (k % 2 * 4));
        return q;
    }
    uint32_t code = bits(8);
    if (form == KVI_FORM_F8_E4M3 && code % 128 == 127) code--; /* no NaN */
    row[k] = (unsigned char)code;
    return form == KVI_FORM_F8_E4M3 ? e4m3(code) : (int)code - (code < 128 ? 0 : 256);
}

static void fill_groups(op_rig *rig, const op_form *form, kvi_weight_desc *desc, unsigned char *codes, double *values)
{
    const scales s = put_scales(rig, form, desc);
    const uint32_t n = desc->n_experts > 1 ? desc->n_experts : 1;
    const uint64_t row_bytes = kvi_weight_row_bytes(desc->form, desc->n_in);
    double *number = op_rig_memory(rig, desc->n_in * sizeof *number), global = 1;
    if (form->global) {
        const float f = 0.75f;
        unsigned char *p = part(rig, form, desc, KVI_PART_GLOBAL);
        for (uint32_t e = 0; e < n; e++) memcpy(p + 4 * e, &f, 4);
        global = 0.75;
    }
    for (uint32_t e = 0; e < n; e++)
        for (uint32_t r = 0; r < desc->n_out; r++) {
            unsigned char *row = codes + (e * desc->n_out + r) * row_bytes;
            for (uint32_t k = 0; k < desc->n_in; k++) number[k] = put_code(desc->form, row, k);
            for (uint32_t k = 0; k < desc->n_in; k++) {
                const uint32_t rows = (desc->n_out + s.group_rows - 1) / s.group_rows;
                const uint32_t at = (e * rows + r / s.group_rows) * s.groups + s.place[k] / s.group;
                values[((size_t)e * desc->n_out + r) * desc->n_in + k] =
                    (number[s.place[k]] - s.zero[at]) * s.scale[at] * global;
            }
        }
}

double *op_form_fill(op_rig *rig, const op_form *form, kvi_weight_desc *desc)
{
    desc->form = form->form;
    desc->group = form->group;
    desc->group_rows = form->group_rows;
    desc->scale_type = form->scale_type;
    const size_t n = (size_t)desc->n_out * desc->n_in * (desc->n_experts > 1 ? desc->n_experts : 1);
    double *values = op_rig_memory(rig, n * sizeof *values);
    unsigned char *codes = part(rig, form, desc, KVI_PART_CODES);
    const kvi_form_info *info = kvi_form(form->form);
    const double size = form->size > 0 ? form->size : 1;
    if (form->form == KVI_FORM_F64)
        for (size_t i = 0; i < n; i++) {
            values[i] = 0.2 * op_normal();
            memcpy(codes + 8 * i, &values[i], 8);
        }
    else if (kvi_form_is_plain(form->form))
        for (size_t i = 0; i < n; i++)
            values[i] = put_scale(codes + i * info->block_bytes, kvi_form_dtype(form->form), 1);
    else if (info->needs) fill_groups(rig, form, desc, codes, values);
    else
        for (size_t i = 0; i < n; i += info->block)
            put_block(form->form, size, codes + i / info->block * info->block_bytes, values + i);
    return values;
}
