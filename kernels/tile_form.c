/* tile_form.c - which weights have a tile form, and how a panel of it is laid from the source: codes and scales are moved, none changes; or
 * rounded from it first. */
#include "tile_form.h"
#include "../runtime/model/quantize.h"
#include "../runtime/model/weight_codec.h"

#include <string.h>

/* ------------------------------------------------------------------------------------------------------ shapes --- */
/* The largest group of ours that divides one of the source; 0: there is none. */
static uint16_t group_within(uint32_t group)
{
    for (uint16_t ours = KVI_TILE_BLOCK; ours >= 16u; ours = (uint16_t)(ours / 2u))
        if (group % ours == 0) return ours;
    return 0;
}

/* Bits of the forms that are not blocks. */
static uint8_t integer_bits(kvi_weight_form form)
{
    switch (form) {
    case KVI_FORM_A2: return 2;
    case KVI_FORM_A3: return 3;
    case KVI_FORM_MXFP4:
    case KVI_FORM_NVFP4:
    case KVI_FORM_NF4:
    case KVI_FORM_BNB_FP4:
    case KVI_FORM_A4:
    case KVI_FORM_I4: return 4;
    case KVI_FORM_A5: return 5;
    case KVI_FORM_A6: return 6;
    case KVI_FORM_F8_E4M3:
    case KVI_FORM_F8_E5M2:
    case KVI_FORM_MXFP8:
    case KVI_FORM_A8:
    case KVI_FORM_I8: return 8;
    default: return 0;
    }
}

/* A form of parts: integers of so many bits with zeros or mins. */
static void of_parts(const kvi_weight_desc *desc, uint8_t bits, kvi_tile *t)
{
    t->bits = bits;
    const bool mins = kvi_form(desc->form)->needs & KVI_HAS_MINS;
    t->zero = (uint8_t)(mins ? 0u : 1u << (bits - 1u));
    t->scale = desc->scale_type == KVI_F16 ? KVI_TILE_F16 : desc->scale_type == KVI_BF16 ? KVI_TILE_BF16 : KVI_TILE_F32;
    t->offset = mins ? KVI_TILE_MINS : desc->parts[KVI_PART_ZEROS] ? KVI_TILE_ZEROS : KVI_TILE_CENTRED;
    switch (desc->form) {
    case KVI_FORM_MXFP4: t->values = KVI_TILE_E2M1, t->scale = KVI_TILE_MX, t->zero = 12; break;
    case KVI_FORM_NVFP4:
        t->values = KVI_TILE_E2M1, t->scale = KVI_TILE_E4M3, t->zero = 12;
        t->global = true, t->global_divides = desc->global_divides;
        break;
    case KVI_FORM_MXFP8: t->values = KVI_TILE_OF_E4M3, t->scale = KVI_TILE_BF16; break;
    case KVI_FORM_F8_E4M3: t->values = KVI_TILE_OF_E4M3; break;
    case KVI_FORM_F8_E5M2: t->values = KVI_TILE_OF_E5M2; break;
    case KVI_FORM_NF4: t->values = KVI_TILE_NF4; break;
    case KVI_FORM_BNB_FP4: t->values = KVI_TILE_BNB_FP4; break;
    default: break;
    }
    if (t->values >= KVI_TILE_FLOATS) t->zero = 0;
    if (t->values >= KVI_TILE_FLOATS && desc->parts[KVI_PART_GLOBAL]) t->scale = KVI_TILE_F32; /* products with it */
    t->whole_row = !desc->group || desc->group >= desc->n_in;
    t->group = t->whole_row ? KVI_TILE_BLOCK : group_within(desc->group);
}

static const struct block_form {
    uint8_t bits, values, scale, offset, zero, group;
} block_forms[KVI_FORM_COUNT] = {
    [KVI_FORM_Q4_0] = {4, KVI_TILE_INTEGER, KVI_TILE_F16, KVI_TILE_CENTRED, 8, 32},
    [KVI_FORM_Q4_1] = {4, KVI_TILE_INTEGER, KVI_TILE_F16, KVI_TILE_MINS, 0, 32},
    [KVI_FORM_Q5_0] = {5, KVI_TILE_INTEGER, KVI_TILE_F16, KVI_TILE_CENTRED, 16, 32},
    [KVI_FORM_Q5_1] = {5, KVI_TILE_INTEGER, KVI_TILE_F16, KVI_TILE_MINS, 0, 32},
    [KVI_FORM_Q8_0] = {8, KVI_TILE_INTEGER, KVI_TILE_F16, KVI_TILE_CENTRED, 128, 32},
    [KVI_FORM_Q2_K] = {2, KVI_TILE_INTEGER, KVI_TILE_SUB, KVI_TILE_MINS, 0, 16},
    [KVI_FORM_Q3_K] = {3, KVI_TILE_INTEGER, KVI_TILE_SUB, KVI_TILE_CENTRED, 4, 16},
    [KVI_FORM_Q4_K] = {4, KVI_TILE_INTEGER, KVI_TILE_SUB, KVI_TILE_MINS, 0, 32},
    [KVI_FORM_Q5_K] = {5, KVI_TILE_INTEGER, KVI_TILE_SUB, KVI_TILE_MINS, 0, 32},
    [KVI_FORM_Q6_K] = {6, KVI_TILE_INTEGER, KVI_TILE_SUB, KVI_TILE_CENTRED, 32, 16},
    [KVI_FORM_IQ4_NL] = {4, KVI_TILE_IQ4, KVI_TILE_F16, KVI_TILE_CENTRED, 128, 32},
    [KVI_FORM_IQ4_XS] = {4, KVI_TILE_IQ4, KVI_TILE_SUB, KVI_TILE_CENTRED, 128, 32},
    [KVI_FORM_MXFP4_BLOCK] = {4, KVI_TILE_E2M1, KVI_TILE_E8M0, KVI_TILE_CENTRED, 12, 32},
    [KVI_FORM_NVFP4_BLOCK] = {4, KVI_TILE_E2M1, KVI_TILE_E4M3, KVI_TILE_CENTRED, 12, 16},
};

bool kvi_tile_of(const kvi_weight_desc *desc, kvi_tile *out)
{
    const struct block_form *form = desc->form < KVI_FORM_COUNT ? &block_forms[desc->form] : NULL;
    kvi_tile t = {.n_out = desc->n_out, .n_in = desc->n_in, .n_experts = desc->n_experts};
    memset(out, 0, sizeof *out);
    if (!form || desc->n_out == 1 || desc->looked_up) return false;
    if (form->bits) {
        t.bits = form->bits, t.values = form->values, t.scale = form->scale;
        t.offset = form->offset, t.zero = form->zero, t.group = form->group;
    } else if (integer_bits(desc->form)) of_parts(desc, integer_bits(desc->form), &t);
    if (!t.bits || !t.group) return false;
    t.step = t.group < KVI_TILE_STEP ? t.group : KVI_TILE_STEP;
    const uint32_t last = (t.n_in - 1u) / KVI_TILE_BLOCK * KVI_TILE_BLOCK;
    t.panel_bytes = kvi_tile_block_at(&t, last) + kvi_tile_block_bytes(&t, last);
    *out = t;
    return true;
}

/* ------------------------------------------------------------------------------------------------------- codes --- */
static void halves(const uint8_t *bytes, uint8_t *out)
{
    for (uint32_t j = 0; j < 16u; j++) {
        out[j] = bytes[j] & 15u;
        out[16u + j] = bytes[j] >> 4;
    }
}
static void fifth_bits(const uint8_t *bits, uint8_t *out)
{
    for (uint32_t j = 0; j < 32u; j++) out[j] = (uint8_t)(out[j] | ((uint32_t)bits[j / 8u] >> j % 8u & 1u) << 4);
}
/* Bits [shift, shift + n) of 32 bytes. */
static void slice(const uint8_t *bytes, uint32_t shift, uint32_t mask, uint32_t left, uint8_t *out)
{
    for (uint32_t i = 0; i < 32u; i++) out[i] = (uint8_t)(out[i] | (bytes[i] >> shift & mask) << left);
}

/* The 32 codes of run j of a GGUF block. */
static void block_codes(kvi_weight_form form, const uint8_t *b, uint32_t j, uint8_t out[32])
{
    memset(out, 0, 32);
    switch (form) {
    case KVI_FORM_Q4_0:
    case KVI_FORM_IQ4_NL: halves(b + 2, out); return;
    case KVI_FORM_Q4_1: halves(b + 4, out); return;
    case KVI_FORM_MXFP4_BLOCK: halves(b + 1, out); return;
    case KVI_FORM_IQ4_XS: halves(b + 8u + 16u * j, out); return;
    case KVI_FORM_Q5_0: halves(b + 6, out), fifth_bits(b + 2, out); return;
    case KVI_FORM_Q5_1: halves(b + 8, out), fifth_bits(b + 4, out); return;
    case KVI_FORM_Q8_0:
        for (uint32_t i = 0; i < 32u; i++) out[i] = b[2u + i] ^ 0x80u;
        return;
    case KVI_FORM_Q2_K: slice(b + 16u + j / 4u * 32u, j % 4u * 2u, 3u, 0, out); return;
    case KVI_FORM_Q3_K:
        slice(b + 32u + j / 4u * 32u, j % 4u * 2u, 3u, 0, out);
        slice(b, j, 1u, 2, out);
        return;
    case KVI_FORM_Q4_K: slice(b + 16u + j / 2u * 32u, j % 2u * 4u, 15u, 0, out); return;
    case KVI_FORM_Q5_K:
        slice(b + 48u + j / 2u * 32u, j % 2u * 4u, 15u, 0, out);
        slice(b + 16u, j, 1u, 4, out);
        return;
    case KVI_FORM_Q6_K:
        slice(b + j / 4u * 64u + j % 2u * 32u, j % 4u / 2u * 4u, 15u, 0, out);
        slice(b + 128u + j / 4u * 32u, j % 4u * 2u, 3u, 4, out);
        return;
    default: /* NVFP4_BLOCK: two groups of 16, each in 8 bytes */
        for (uint32_t i = 0; i < 32u; i++) {
            const uint8_t byte = b[4u + 16u * j + i / 16u * 8u + i % 8u];
            out[i] = i % 16u < 8u ? byte & 15u : byte >> 4;
        }
    }
}

/* Start of a row of codes that lie row by row. */
static const uint8_t *row_at(const kvi_weight_desc *desc, uint32_t expert, uint32_t row)
{
    return kvi_weight_part_at(desc, KVI_PART_CODES, expert) +
           kvi_weight_tensor_row(desc, row) * kvi_weight_row_bytes(desc->form, desc->n_in);
}

static uint8_t code_at(const kvi_weight_desc *desc, uint32_t expert, uint32_t row, uint32_t k)
{
    uint8_t code;
    if (desc->form == KVI_FORM_I4 || desc->form == KVI_FORM_I8) kvi_weight_codes(desc, expert, row, k, 1, &code);
    else if (desc->form == KVI_FORM_NF4 || desc->form == KVI_FORM_BNB_FP4) /* the upper half first */
        code = (uint8_t)((uint32_t)row_at(desc, expert, row)[k / 2u] >> (1u - k % 2u) * 4u & 15u);
    else code = (uint8_t)kvi_kv_get_code(row_at(desc, expert, row), k, integer_bits(desc->form));
    return code;
}

/* The codes at places [k, k + 32) of a row, zeros past its end. */
static void run_codes(const kvi_weight_desc *desc, uint32_t expert, uint32_t row, const uint32_t *order, uint32_t k,
                      uint8_t out[32])
{
    const uint32_t n = desc->n_in - k < KVI_TILE_RUN ? desc->n_in - k : KVI_TILE_RUN;
    const uint32_t block = kvi_form(desc->form)->block;
    if (block >= KVI_TILE_RUN) {
        const uint8_t *b = row_at(desc, expert, row) + (uint64_t)(k / block) * kvi_form(desc->form)->block_bytes;
        block_codes(desc->form, b, k % block / 32u, out);
        return;
    }
    memset(out, 0, KVI_TILE_RUN);
    if (!order && (desc->form == KVI_FORM_I4 || desc->form == KVI_FORM_I8))
        kvi_weight_codes(desc, expert, row, k, n, out);
    else
        for (uint32_t i = 0; i < n; i++) out[i] = code_at(desc, expert, row, order ? order[k + i] : k + i);
}

/* Row `row` of a run's lines, from its codes as eight words of four. */
static void put_run(uint32_t bits, const uint8_t codes[32], uint32_t row, uint8_t *to)
{
    uint32_t words[8], lines[8] = {0}, n = 0;
    memcpy(words, codes, sizeof words);
    if (bits == 8u)
        for (; n < 8u; n++) lines[n] = words[n];
    if (bits >= 4u && bits < 8u)
        for (; n < 4u; n++) lines[n] = (words[2u * n] & 0x0f0f0f0fu) | (words[2u * n + 1u] & 0x0f0f0f0fu) << 4;
    const uint32_t low = bits < 4u ? 0 : 4u; /* the bits that are already there */
    if (bits == 2u || bits == 3u || bits == 6u) {
        for (uint32_t i = 0; i < 8u; i++) lines[n + i / 4u] |= (words[i] >> low & 0x03030303u) << i % 4u * 2u;
        n += 2u;
    }
    if (bits == 3u || bits == 5u) {
        const uint32_t top = bits - 1u;
        for (uint32_t i = 0; i < 8u; i++) lines[n] |= (words[i] >> top & 0x01010101u) << i;
        n++;
    }
    for (uint32_t i = 0; i < n; i++) memcpy(to + i * KVI_TILE_LINE + 4u * row, &lines[i], 4);
}

/* -------------------------------------------------------------------------------------------------------- side --- */
/* Sub-scale of group g of a block of 256, and the min beside it. */
static void sub_scale(kvi_weight_form form, const uint8_t *b, uint32_t g, uint8_t *scale, uint8_t *min)
{
    float s = 0, m = 0;
    switch (form) {
    case KVI_FORM_Q2_K: *scale = b[g] & 15u, *min = b[g] >> 4; return;
    case KVI_FORM_Q6_K: *scale = b[192u + g]; return;
    case KVI_FORM_Q3_K: {
        const uint8_t *scales = b + 96;
        const uint32_t nibble = g < 8u ? scales[g] & 15u : (uint32_t)scales[g - 8u] >> 4;
        *scale = (uint8_t)((nibble | ((uint32_t)scales[8u + g % 4u] >> g / 4u * 2u & 3u) << 4) - 32u);
        return;
    }
    case KVI_FORM_IQ4_XS: {
        const uint32_t nibble = (uint32_t)b[4u + g / 2u] >> g % 2u * 4u & 15u;
        *scale = (uint8_t)((nibble | ((uint32_t)kvi_kv_load16(b + 2) >> 2u * g & 3u) << 4) - 32u);
        return;
    }
    default: /* Q4_K, Q5_K */ kvi_gguf_k4_scale(b + 4, g, &s, &m); *scale = (uint8_t)s, *min = (uint8_t)m;
    }
}

/* The F16 that all groups of a block of 256 share, and that of their mins. */
static const uint8_t *super_scale(kvi_weight_form form, const uint8_t *b)
{
    return b + (form == KVI_FORM_Q2_K ? 80 : form == KVI_FORM_Q3_K ? 108 : form == KVI_FORM_Q6_K ? 208 : 0);
}

static void put_sub_scales(const kvi_tile *t, const kvi_weight_desc *desc, const uint8_t *block, uint32_t n_groups,
                           uint32_t lane, uint8_t *side)
{
    uint8_t *offsets = side + kvi_tile_offsets_at(t, n_groups), *scales = offsets - n_groups * KVI_TILE_ROWS;
    const uint8_t *d = super_scale(desc->form, block);
    const bool mins = t->offset == KVI_TILE_MINS;
    memcpy(side + 2u * lane, d, 2);
    if (mins) memcpy(side + 32u + 2u * lane, d + 2, 2);
    for (uint32_t g = 0; g < n_groups; g++) {
        uint8_t scale = 0, min = 0;
        sub_scale(desc->form, block, g, &scale, &min);
        scales[g * KVI_TILE_ROWS + lane] = scale;
        if (mins) offsets[g * KVI_TILE_ROWS + lane] = min;
    }
}

/* E4M3 as ggml reads it: without its sign, 0x7f is zero, 0xff the largest number. */
static uint8_t unsigned_e4m3(uint8_t code) { return code == 0x7fu ? 0 : code & 0x7fu; }

static void put_plain(uint32_t scale, float value, uint8_t *to)
{
    const uint16_t h = scale == KVI_TILE_F16 ? kvi_f32_to_f16(value) : kvi_f32_to_bf16(value);
    if (scale == KVI_TILE_F32) memcpy(to, &value, 4);
    else memcpy(to, &h, 2);
}

/* Scale and offset of one group of a row, k one of its columns, into place i of the scales and of the offsets. */
static void put_group(const kvi_tile *t, const kvi_weight_desc *desc, uint32_t expert, uint32_t row, uint32_t k,
                      uint32_t i, uint8_t *scales, uint8_t *offsets)
{
    const kvi_form_info *info = kvi_form(desc->form);
    uint8_t *scale = scales + i * kvi_tile_scale_bytes(t);
    if (t->scale == KVI_TILE_MX || info->scale == KVI_SCALE_E4M3) {
        *scale = kvi_weight_part_at(desc, KVI_PART_SCALES, expert)[kvi_weight_scale_index(desc, expert, row, k)];
        if (t->scale == KVI_TILE_E4M3 && *scale == 0x7fu) *scale = 0xffu; /* NaN as well */
        return;
    }
    if (info->scale) {
        float zero;
        put_plain(t->scale, kvi_weight_scale(desc, expert, row, k, &zero), scale);
        if (t->offset == KVI_TILE_ZEROS) offsets[i] = (uint8_t)zero;
        if (t->offset == KVI_TILE_MINS)
            put_plain(t->scale, kvi_weight_min(desc, expert, row, k), offsets + i * kvi_tile_scale_bytes(t));
        return;
    }
    const uint8_t *b = row_at(desc, expert, row) + (uint64_t)(k / info->block) * info->block_bytes;
    if (t->scale == KVI_TILE_E8M0) *scale = b[0];
    else if (t->scale == KVI_TILE_E4M3) *scale = unsigned_e4m3(b[k % info->block / 16u]);
    else memcpy(scale, b, 2);
    if (t->offset == KVI_TILE_MINS) memcpy(offsets + 2u * i, b + 2, 2);
}

static void put_side(const kvi_tile *t, const kvi_weight_desc *desc, uint32_t expert, uint32_t row,
                     const uint32_t *order, uint32_t lane, uint32_t k, uint32_t n_groups, uint8_t *side)
{
    if (t->scale == KVI_TILE_SUB) {
        const uint8_t *b =
            row_at(desc, expert, row) + (uint64_t)(k / KVI_TILE_BLOCK) * kvi_form(desc->form)->block_bytes;
        put_sub_scales(t, desc, b, n_groups, lane, side);
        return;
    }
    for (uint32_t g = 0; g < n_groups; g++) {
        const uint32_t first = k + g * t->group;
        put_group(t, desc, expert, row, order ? order[first] : first, g * KVI_TILE_ROWS + lane, side,
                  side + kvi_tile_offsets_at(t, n_groups));
    }
}

void kvi_tile_lay(const kvi_tile *t, const kvi_weight_desc *desc, uint32_t expert, uint32_t panel,
                  const uint32_t *order, uint8_t *to)
{
    const uint32_t first = panel * KVI_TILE_ROWS;
    const uint32_t n = t->n_out - first < KVI_TILE_ROWS ? t->n_out - first : KVI_TILE_ROWS;
    memset(to, 0, t->panel_bytes); /* missing rows, and the rest of a side */
    if (t->global) memcpy(to, kvi_weight_part_at(desc, KVI_PART_GLOBAL, expert), 4);
    for (uint32_t lane = 0; lane < n; lane++) {
        const uint32_t row = first + lane;
        if (t->whole_row) put_side(t, desc, expert, row, order, lane, 0, 1, to);
        for (uint32_t k = 0; k < t->n_in; k += KVI_TILE_BLOCK) {
            uint8_t *block = to + kvi_tile_block_at(t, k), *codes = block + kvi_tile_block_side(t, k);
            if (!t->whole_row) put_side(t, desc, expert, row, order, lane, k, kvi_tile_block_groups(t, k), block);
            for (uint32_t i = 0; i < kvi_tile_block_columns(t, k); i += KVI_TILE_RUN) {
                uint8_t run[KVI_TILE_RUN];
                run_codes(desc, expert, row, order, k + i, run);
                put_run(t->bits, run, lane, codes + i / KVI_TILE_RUN * kvi_tile_run_bytes(t));
            }
        }
    }
}

static float plain_scale(uint32_t scale, const uint8_t *at)
{
    return kvi_plain_at(at, scale == KVI_TILE_F16 ? KVI_F16 : scale == KVI_TILE_BF16 ? KVI_BF16 : KVI_F32, 0);
}

void kvi_tile_read_row(const kvi_tile *t, const uint8_t *panels, uint32_t row, float *out)
{
    const uint8_t *panel = panels + row / KVI_TILE_ROWS * t->panel_bytes;
    const uint32_t lane = row % KVI_TILE_ROWS, scale_bytes = kvi_tile_scale_bytes(t);
    for (uint32_t k = 0; k < t->n_in; k++) {
        const uint32_t in_block = k % KVI_TILE_BLOCK, first = k - in_block, i = k % KVI_TILE_RUN;
        const uint8_t *block = panel + kvi_tile_block_at(t, first),
                      *run = block + kvi_tile_block_side(t, first) + in_block / KVI_TILE_RUN * kvi_tile_run_bytes(t);
        const uint8_t *scales = t->whole_row ? panel : block + in_block / t->group * KVI_TILE_ROWS * scale_bytes;
        const uint32_t line = t->bits == 8u ? i / 4u : i / 8u, shift = t->bits == 8u ? 0 : i % 8u / 4u * 4u;
        const uint32_t byte = run[line * KVI_TILE_LINE + 4u * lane + i % 4u],
                       code = t->bits == 8u ? byte : byte >> shift & 15u;
        out[k] = ((float)code - (float)t->zero) * plain_scale(t->scale, scales + lane * scale_bytes);
    }
}

/* -------------------------------------------------------------------------------------------------------- order --- */
static kvi_tile_order sort_expert(const kvi_weight_desc *desc, uint32_t expert, uint32_t *order)
{
    const uint32_t n_groups = kvi_weight_groups(desc);
    bool sorted = true;
    uint32_t place = 0;
    for (uint32_t g = 0; g < n_groups; g++) {
        const uint32_t first = place;
        for (uint32_t k = 0; k < desc->n_in; k++)
            if (kvi_weight_group(desc, expert, k) == g) sorted = sorted && place == k, order[place++] = k;
        const uint32_t want = desc->n_in - first < desc->group ? desc->n_in - first : desc->group;
        if (desc->group && place - first != want) return KVI_TILE_ORDER_UNEVEN;
    }
    return sorted ? KVI_TILE_ORDER_SORTED : KVI_TILE_ORDER_GATHERS;
}

kvrt_status kvi_tile_sort_columns(const kvi_weight_desc *desc, uint32_t *order, kvi_tile_order *out, kvrt_error *error)
{
    const uint32_t n_experts = desc->n_experts > 1 ? desc->n_experts : 1, n_groups = kvi_weight_groups(desc);
    *out = KVI_TILE_ORDER_SORTED;
    for (uint32_t e = 0; e < n_experts; e++) {
        for (uint32_t k = 0; k < desc->n_in; k++)
            if (kvi_weight_group(desc, e, k) >= n_groups)
                return kvi_error_set(error, KVRT_FORMAT,
                                     "tensor %s: a column's group is not below %u, the number of groups", desc->name,
                                     n_groups);
        const kvi_tile_order found = sort_expert(desc, e, order + (size_t)e * desc->n_in);
        if (found > *out) *out = found;
    }
    return KVRT_OK;
}

/* ---------------------------------------------------------------------------------------------------- rounding --- */
static uint64_t codes_floats(const kvi_weight_desc *desc)
{
    return (kvi_weight_rows_bytes(desc, KVI_PART_CODES, KVI_TILE_ROWS) + 3) / 4;
}

/* The rows of a panel as numbers, as codes, and their scales. */
uint64_t kvi_tile_round_scratch(const kvi_weight_desc *desc)
{
    return kvi_quantize_scratch(desc) + codes_floats(desc) +
           (kvi_weight_rows_bytes(desc, KVI_PART_SCALES, KVI_TILE_ROWS) + 3) / 4;
}

void kvi_tile_round(const kvi_tile *tile, const kvi_weight_desc *desc, uint32_t expert, uint32_t panel, float *scratch,
                    uint8_t *to)
{
    const uint32_t first = panel * KVI_TILE_ROWS,
                   n = desc->n_out - first < KVI_TILE_ROWS ? desc->n_out - first : KVI_TILE_ROWS;
    uint8_t *codes = (uint8_t *)(scratch + kvi_quantize_scratch(desc)), *scales = codes + 4 * codes_floats(desc);
    kvi_quantize_rows(desc, expert, first, n, scratch, codes, scales);
    kvi_weight_desc rows = *desc;
    kvi_tile part = *tile;
    rows.n_out = part.n_out = n;
    rows.parts[KVI_PART_CODES] = codes, rows.parts[KVI_PART_SCALES] = scales;
    kvi_tile_lay(&part, &rows, 0, 0, NULL, to);
}
