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
    const uint64_t padding = form->lay ? (uint64_t)(desc->n_in + 8) * 8 * 8 : 0; /* words that are not full */
    unsigned char *p = (unsigned char *)op_rig_memory(rig, n * kvi_weight_part_bytes(desc, which) + padding + 8);
    p += form->misalign;
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
    double *scale, *zero; /* per group row and group */
    uint32_t *of;         /* (n_experts, n_in) the group of a column, of each expert in an order of its own */
    uint32_t rows, groups;
} scales;

/* Adds an integer to a word: slot 0 is the lowest. */
static void put_slot(unsigned char *words, uint64_t word, uint32_t slot, uint32_t bits_each, uint32_t value)
{
    uint32_t w;
    memcpy(&w, words + 4 * word, 4);
    w |= value << (slot * bits_each);
    memcpy(words + 4 * word, &w, 4);
}
static const uint32_t awq_slot[8] = {0, 4, 1, 5, 2, 6, 3, 7}; /* where neighbour i stands */

/* How the parts lie, for the reader. */
static void order_parts(const op_form *form, uint32_t groups, kvi_weight_desc *desc)
{
    const uint32_t per = desc->form == KVI_FORM_I4 ? 8 : 4, n = desc->n_out, words = (n + per - 1) / per;
    const bool gptq = form->lay == OP_LAY_GPTQ || form->lay == OP_LAY_GPTQ_V1, awq = form->lay == OP_LAY_AWQ;
    if (gptq) desc->code_order = (kvi_part_order){KVI_PACK_ALONG_ROW, 1, n};
    if (awq) desc->code_order = (kvi_part_order){KVI_PACK_AWQ, 1, words};
    if (gptq || awq) desc->scale_order = (kvi_part_order){KVI_PACK_NONE, 1, n};
    if (gptq || awq) desc->zero_order = (kvi_part_order){awq ? KVI_PACK_AWQ : KVI_PACK_ALONG_COLUMN, 1, words};
    if (form->lay == OP_LAY_GEMV) {
        const uint32_t padded = (groups + 15) / 16 * 2;
        desc->zero_order = (kvi_part_order){KVI_PACK_ALONG_ROW, padded, 1};
        desc->scale_order = (kvi_part_order){KVI_PACK_NONE, padded * 8, 1};
    }
    if (form->lay == OP_LAY_PACKED) desc->zero_order = (kvi_part_order){KVI_PACK_ALONG_COLUMN, groups, 1};
    if (form->lay == OP_LAY_GPTQ_V1) desc->zero_add = per == 8 ? 0x11111111u : 0x01010101u;
}

static void put_zero(const op_form *form, const kvi_weight_desc *desc, uint32_t groups, unsigned char *p, uint32_t row,
                     uint32_t group, uint32_t zero)
{
    const uint32_t size = desc->form == KVI_FORM_I4 ? 4 : 8, per = 32 / size, n = desc->n_out,
                   words = (n + per - 1) / per;
    switch (form->lay) {
    case OP_LAY_ROWS: p[row * groups + group] = (unsigned char)zero; break;
    case OP_LAY_GPTQ: put_slot(p, group * words + row / per, row % per, size, zero); break;
    case OP_LAY_GPTQ_V1: put_slot(p, group * words + row / per, row % per, size, zero - 1); break;
    case OP_LAY_AWQ: put_slot(p, group * words + row / 8, awq_slot[row % 8], size, zero); break;
    case OP_LAY_GEMV: put_slot(p, row * ((groups + 15) / 16 * 2) + group / per, group % per, size, zero); break;
    case OP_LAY_PACKED: put_slot(p, row / per * groups + group, row % per, size, zero); break;
    }
}

static size_t scale_at(const op_form *form, const kvi_weight_desc *desc, uint32_t groups, uint32_t row, uint32_t group)
{
    if (form->lay == OP_LAY_ROWS || form->lay == OP_LAY_PACKED) return (size_t)row * groups + group;
    return form->lay == OP_LAY_GEMV ? (size_t)row * ((groups + 15) / 16 * 16) + group
                                    : (size_t)group * desc->n_out + row;
}

/* A zero as it is stored, of `bits`; *number: what it counts as. */
static uint32_t random_zero(const op_form *form, kvi_weight_form of, double *number)
{
    const bool is_4 = of == KVI_FORM_I4;
    const uint32_t lowest = form->lay == OP_LAY_GPTQ_V1,
                   zero = lowest + (bits(is_4 ? 4 : 8) % ((is_4 ? 16 : 256) - lowest));
    *number = is_4 || form->is_unsigned || zero < 128 ? zero : (double)zero - 256;
    return zero;
}

static scales put_scales(op_rig *rig, const op_form *form, kvi_weight_desc *desc)
{
    const uint32_t size = kvi_dtype_bytes(form->scale_type), group = form->group ? form->group : desc->n_in,
                   group_rows = form->group_rows ? form->group_rows : 1,
                   n_experts = desc->n_experts > 1 ? desc->n_experts : 1;
    scales s = {.rows = (desc->n_out + group_rows - 1) / group_rows, .groups = (desc->n_in + group - 1) / group};
    const uint32_t n = n_experts * s.rows * s.groups;
    s.scale = op_rig_memory(rig, n * sizeof(double));
    s.zero = op_rig_memory(rig, n * sizeof(double));
    s.of = op_rig_memory(rig, (size_t)n_experts * desc->n_in * sizeof *s.of);
    order_parts(form, s.groups, desc);
    unsigned char *p = part(rig, form, desc, KVI_PART_SCALES);
    for (uint32_t i = 0; i < n; i++)
        s.scale[i] = put_scale(p + scale_at(form, desc, s.groups, i / s.groups, i % s.groups) * size, form->scale_type,
                               form->size > 0 ? form->size : 1);
    if (form->zeros) p = part(rig, form, desc, KVI_PART_ZEROS);
    for (uint32_t i = 0; i < n; i++) {
        s.zero[i] = desc->form == KVI_FORM_I4 ? 8 : form->is_unsigned ? 128 : 0;
        if (form->zeros)
            put_zero(form, desc, s.groups, p, i / s.groups, i % s.groups, random_zero(form, desc->form, &s.zero[i]));
    }
    for (uint32_t e = 0; e < n_experts; e++) {
        uint32_t *of = s.of + (size_t)e * desc->n_in;
        for (uint32_t k = 0; k < desc->n_in; k++) of[k] = k / group;
        for (uint32_t k = desc->n_in; form->scattered && k > 1; k--) {
            const uint32_t other = (uint32_t)(op_uniform() * k), kept = of[k - 1];
            of[k - 1] = of[other];
            of[other] = kept;
        }
    }
    if (form->scattered)
        memcpy(part(rig, form, desc, KVI_PART_GROUPS), s.of, (size_t)n_experts * desc->n_in * sizeof *s.of);
    return s;
}

/* A random code at (row, k) of a matrix of codes; returns its number. */
static double put_code(const op_form *form, const kvi_weight_desc *desc, unsigned char *codes, uint32_t row, uint32_t k)
{
    const bool is_4 = desc->form == KVI_FORM_I4;
    const uint32_t size = is_4 ? 4 : 8, per = 32 / size;
    uint32_t code = bits(size);
    if (desc->form == KVI_FORM_F8_E4M3 && code % 128 == 127) code--; /* no NaN */
    if (form->lay == OP_LAY_GPTQ || form->lay == OP_LAY_GPTQ_V1)
        put_slot(codes, (uint64_t)(k / per) * desc->n_out + row, k % per, size, code);
    else if (form->lay == OP_LAY_AWQ)
        put_slot(codes, (uint64_t)k * ((desc->n_out + 7) / 8) + row / 8, awq_slot[row % 8], size, code);
    else if (is_4)
        codes[row * kvi_weight_row_bytes(desc->form, desc->n_in) + k / 2] |= (unsigned char)(code << (k % 2 * 4));
    else codes[(size_t)row * desc->n_in + k] = (unsigned char)code;
    if (desc->form == KVI_FORM_F8_E4M3) return e4m3(code);
    return is_4 || form->is_unsigned || code < 128 ? code : (double)code - 256;
}

static void fill_groups(op_rig *rig, const op_form *form, kvi_weight_desc *desc, unsigned char *codes, double *values)
{
    desc->is_unsigned = form->is_unsigned;
    const scales s = put_scales(rig, form, desc);
    const uint32_t n = desc->n_experts > 1 ? desc->n_experts : 1;
    const uint64_t row_bytes = kvi_weight_row_bytes(desc->form, desc->n_in);
    double global = 1;
    if (form->global) {
        const float f = 0.75f;
        unsigned char *p = part(rig, form, desc, KVI_PART_GLOBAL);
        for (uint32_t e = 0; e < n; e++) memcpy(p + 4 * e, &f, 4);
        global = 0.75;
    }
    for (uint32_t e = 0; e < n; e++)
        for (uint32_t r = 0; r < desc->n_out; r++)
            for (uint32_t k = 0; k < desc->n_in; k++) {
                const uint32_t group_row = form->group_rows ? r / form->group_rows : r;
                const uint32_t at = (e * s.rows + group_row) * s.groups + s.of[(size_t)e * desc->n_in + k];
                const double number = put_code(form, desc, codes + e * desc->n_out * row_bytes, r, k);
                values[((size_t)e * desc->n_out + r) * desc->n_in + k] = (number - s.zero[at]) * s.scale[at] * global;
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
