/* weight_codec.h - what the numbers of a weight are: rows of every form to f32, once. The oracle of the tests, the slow path of every backend
 * (a form works before it has a kernel), and shared with device code as kv/codec.h is. No memory, no libc; one IEEE operation at a time,
 * compiled without contraction, so results are the same bits everywhere.
 *
 *   F32, F16, BF16   as they are         F64   rounded to f32
 *   F8_E4M3, MXFP8   code * s            a byte: sign, 4 bits of exponent, 3 of mantissa (OCP E4M3)
 *   F8_E5M2          code * s            a byte: the upper half of an F16
 *   I8               (code - z) * s      codes and zeros 0..255 as kvi_weight_codes gives them, z = 128 when absent; signed bytes are
 *                                        raised by 128, both alike
 *   I4               (code - z) * s      codes and zeros 0..15, z = 8 when absent
 *   A2 to A8         code * s + m        codes of so many bits, one after the other from the lowest bit on (MLX)
 *   MXFP4, NVFP4     E[code] * s         two codes to a byte, the lower half first; E: what E2M1 says
 *   NF4, BNB_FP4     T[code] * s         two codes to a byte, the upper half first; T: the tables of bitsandbytes
 *   BNB_I8           (code * s) / 127    signed bytes; 1/127 is the f32 that bitsandbytes multiplies by
 *   GGUF blocks      gguf_blocks.h
 * s, z and m are those of the element's group (weight_form.h); where there is a GLOBAL, s is first multiplied or divided by it.
 * With a scale of 16 bits (code - z) * s is exact in f32; what libraries hold in 16 bits after dequantizing is this number rounded once. */
#ifndef KVI_WEIGHT_CODEC_H
#define KVI_WEIGHT_CODEC_H
#include "gguf_blocks.h"

KVI_HD static inline uint32_t kvi_load_le32(const uint8_t *p)
{
    return (uint32_t)kvi_kv_load16(p) | (uint32_t)kvi_kv_load16(p + 2) << 16;
}

/* F64 is a form on disk, not one that kernels have. */
KVI_HD static inline float kvi_f64_to_f32(const uint8_t *p)
{
    union {
        double value;
        uint64_t bits;
    } pun;
    pun.bits = (uint64_t)kvi_load_le32(p) | (uint64_t)kvi_load_le32(p + 4) << 32;
    return (float)pun.value;
}

/* Number i of n plain ones. */
KVI_HD static inline float kvi_plain_at(const uint8_t *data, kvi_dtype dtype, uint64_t i)
{
    if (dtype == KVI_F32) return kvi_f32_from_bits(kvi_load_le32(data + 4u * i));
    const uint16_t half = kvi_kv_load16(data + 2u * i);
    return dtype == KVI_F16 ? kvi_f16_to_f32(half) : kvi_bf16_to_f32(half);
}

/* 2^(e - 127); 255 is NaN (OCP MX). */
KVI_HD static inline float kvi_e8m0_to_f32(uint8_t e)
{
    return kvi_f32_from_bits(e == 255u ? 0x7fc00000u : e ? (uint32_t)e << 23 : 0x00400000u);
}

/* E5M2 is an F16 without its lower half. */
KVI_HD static inline float kvi_e5m2_to_f32(uint8_t e) { return kvi_f16_to_f32((uint16_t)(e << 8)); }

/* E2M1: sign, two bits of exponent, one of mantissa; code 8 is -0. */
KVI_HD static inline float kvi_e2m1_to_f32(uint32_t code)
{
    const float size = kvi_gguf_e2m1(code & 7u) * 0.5f;
    return code & 8u ? -size : size;
}

/* The 16 values of NF4 are quantiles of a normal distribution (arXiv 2305.14314), as bitsandbytes rounds them. */
#define KVI_NF4_VALUES                                                                                                 \
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,                   \
        -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f,                \
        0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f,    \
        1.0f
KVI_HD static inline float kvi_nf4_to_f32(uint32_t code)
{
    const float table[16] = {KVI_NF4_VALUES};
    return table[code];
}

/* FP4 as bitsandbytes has it: E2M1 divided by 12 for the normal ones; code 8 is 0. */
#define KVI_BNB_FP4_VALUES                                                                                             \
    0.0f, 0.005208333488553762f, 0.6666666865348816f, 1.0f, 0.3333333432674408f, 0.5f, 0.1666666716337204f, 0.25f,     \
        0.0f, -0.005208333488553762f, -0.6666666865348816f, -1.0f, -0.3333333432674408f, -0.5f, -0.1666666716337204f,  \
        -0.25f
KVI_HD static inline float kvi_bnb_fp4_to_f32(uint32_t code)
{
    const float table[16] = {KVI_BNB_FP4_VALUES};
    return table[code];
}

/* ------------------------------------------------------------------------------------------------------ integers --- */
/* The integer of `bits` at (row, column) of a part that is packed into words; `add`: see zero_add. */
KVI_HD static inline uint32_t kvi_packed_at(const uint8_t *words, const kvi_part_order *order, uint32_t bits,
                                            uint32_t add, uint32_t row, uint32_t column)
{
    const uint32_t per_word = 32u / bits;
    const bool along_row = order->packing == KVI_PACK_ALONG_ROW;
    uint32_t slot = (along_row ? column : row) % per_word;
    if (order->packing == KVI_PACK_AWQ) slot = slot / 2u + slot % 2u * 4u;
    const uint64_t word = (uint64_t)(along_row ? row : row / per_word) * order->row +
                          (uint64_t)(along_row ? column / per_word : column) * order->column;
    return (kvi_load_le32(words + 4u * word) + add) >> slot * bits & ((1u << bits) - 1u);
}

/* out (n) = codes of places [first, first + n) of a row of I4 or I8, in whatever order they lie: 0..15, and 0..255 with signed bytes raised by
 * 128. What a backend builds its own form from. */
KVI_HD static inline void kvi_weight_codes(const kvi_weight_desc *w, uint32_t expert, uint32_t row, uint32_t first,
                                           uint32_t n, uint8_t *out)
{
    const uint8_t *codes = kvi_weight_part_at(w, KVI_PART_CODES, expert);
    const bool is_4 = w->form == KVI_FORM_I4;
    row = kvi_weight_tensor_row(w, row);
    if (w->code_order.packing) {
        for (uint32_t i = 0; i < n; i++)
            out[i] = (uint8_t)kvi_packed_at(codes, &w->code_order, is_4 ? 4 : 8, 0, row, first + i);
        return;
    }
    codes += row * kvi_weight_row_bytes(w->form, w->n_in);
    const uint8_t raise = w->is_unsigned ? 0 : 0x80;
    if (is_4)
        for (uint32_t i = 0; i < n; i++)
            out[i] = (uint8_t)((uint32_t)codes[(first + i) / 2u] >> (first + i) % 2u * 4u & 15u);
    else
        for (uint32_t i = 0; i < n; i++) out[i] = codes[first + i] ^ raise;
}

/* ------------------------------------------------------------------------------------------------------ groups --- */
/* The row of scales that a row of the weight has. */
KVI_HD static inline uint32_t kvi_weight_scale_row(const kvi_weight_desc *w, uint32_t row)
{
    const uint32_t at = kvi_weight_tensor_row(w, row);
    return w->group_rows > 1u ? at / w->group_rows : at;
}

/* The group of place k of a row. */
KVI_HD static inline uint32_t kvi_weight_group(const kvi_weight_desc *w, uint32_t expert, uint32_t k)
{
    if (w->parts[KVI_PART_GROUPS])
        return kvi_load_le32(kvi_weight_part_at(w, KVI_PART_GROUPS, expert) + 4u * (uint64_t)k);
    return w->group ? k / w->group : 0u;
}

/* Which scale is that of one element: place k of a row. */
KVI_HD static inline uint64_t kvi_weight_scale_index(const kvi_weight_desc *w, uint32_t expert, uint32_t row,
                                                     uint32_t k)
{
    const uint64_t at = kvi_weight_scale_row(w, row), group = kvi_weight_group(w, expert, k);
    const kvi_part_order *order = &w->scale_order;
    return order->row || order->column ? at * order->row + group * order->column : at * kvi_weight_groups(w) + group;
}

/* The zero of the group of one element, as kvi_weight_codes counts; 0 of forms that have none. */
KVI_HD static inline float kvi_weight_zero(const kvi_weight_desc *w, uint32_t expert, uint32_t row, uint32_t k)
{
    const bool is_signed = w->signed_zeros || (w->form == KVI_FORM_I8 && !w->is_unsigned);
    const uint32_t middle = w->form == KVI_FORM_I4 ? 8 : 128;
    if (w->form != KVI_FORM_I4 && w->form != KVI_FORM_I8) return 0.0f;
    if (!w->parts[KVI_PART_ZEROS]) return (float)middle;
    const uint8_t *zeros = kvi_weight_part_at(w, KVI_PART_ZEROS, expert);
    const uint32_t at = kvi_weight_scale_row(w, row), group = kvi_weight_group(w, expert, k);
    if (w->zero_order.packing)
        return (float)kvi_packed_at(zeros, &w->zero_order, w->form == KVI_FORM_I4 ? 4 : 8, w->zero_add, at, group);
    return (float)(uint8_t)(zeros[(uint64_t)at * kvi_weight_groups(w) + group] + (is_signed ? middle : 0u));
}

/* A scale that is a byte, number i of its matrix (weight_form.h). */
KVI_HD static inline float kvi_nested_scale(const kvi_weight_desc *w, uint32_t expert, uint8_t code, uint64_t i)
{
    const float value = kvi_plain_at(kvi_weight_part_at(w, KVI_PART_SCALE_MAP, expert), KVI_F32, code);
    const float product =
        value * kvi_plain_at(kvi_weight_part_at(w, KVI_PART_SCALE_SCALES, expert), KVI_F32, i / w->scale_group);
    return product + w->scale_add;
}

/* Scale and zero of the group of one element: place k of a row. A forms have a minimum instead of a zero (kvi_weight_min). */
KVI_HD static inline float kvi_weight_scale(const kvi_weight_desc *w, uint32_t expert, uint32_t row, uint32_t k,
                                            float *zero)
{
    const uint64_t i = kvi_weight_scale_index(w, expert, row, k);
    const uint8_t *scales = kvi_weight_part_at(w, KVI_PART_SCALES, expert);
    const kvi_scale_kind kind = kvi_form(w->form)->scale;
    float scale = kind == KVI_SCALE_E8M0         ? kvi_e8m0_to_f32(scales[i])
                  : kind == KVI_SCALE_E4M3       ? kvi_e4m3_to_f32(scales[i])
                  : w->parts[KVI_PART_SCALE_MAP] ? kvi_nested_scale(w, expert, scales[i], i)
                                                 : kvi_plain_at(scales, w->scale_type, i);
    if (w->parts[KVI_PART_GLOBAL]) {
        const float global = kvi_plain_at(kvi_weight_part_at(w, KVI_PART_GLOBAL, expert), KVI_F32, 0);
        scale = w->global_divides ? scale / global : scale * global;
    }
    *zero = kvi_weight_zero(w, expert, row, k);
    return scale;
}

/* What code 0 means in the group of place k; 0 where the form has no MINS. */
KVI_HD static inline float kvi_weight_min(const kvi_weight_desc *w, uint32_t expert, uint32_t row, uint32_t k)
{
    if (!w->parts[KVI_PART_MINS]) return 0.0f;
    return kvi_plain_at(kvi_weight_part_at(w, KVI_PART_MINS, expert), w->scale_type,
                        kvi_weight_scale_index(w, expert, row, k));
}

/* The code at place k of a row of codes that lie row by row, as a number: all forms but I4 and I8. */
KVI_HD static inline float kvi_weight_code(kvi_weight_form form, const uint8_t *row, uint32_t k)
{
    const uint32_t bits = kvi_form(form)->block_bytes; /* of an A form: 8 codes are so many bytes */
    switch (form) {
    case KVI_FORM_MXFP4:
    case KVI_FORM_NVFP4: return kvi_e2m1_to_f32((uint32_t)row[k / 2u] >> k % 2u * 4u & 15u);
    case KVI_FORM_NF4: return kvi_nf4_to_f32((uint32_t)row[k / 2u] >> (1u - k % 2u) * 4u & 15u);
    case KVI_FORM_BNB_FP4: return kvi_bnb_fp4_to_f32((uint32_t)row[k / 2u] >> (1u - k % 2u) * 4u & 15u);
    case KVI_FORM_BNB_I8: return (float)(int8_t)row[k];
    case KVI_FORM_F8_E5M2: return kvi_e5m2_to_f32(row[k]);
    case KVI_FORM_F8_E4M3:
    case KVI_FORM_MXFP8: return kvi_e4m3_to_f32(row[k]);
    default: return (float)kvi_kv_get_code(row, k, bits);
    }
}

/* Elements [k, k + n) of a row of codes that share scale and minimum; all forms but I4 and I8. Codes of up to four bits have so few values that
 * these are computed once. */
KVI_HD static inline void kvi_weight_run(kvi_weight_form form, const uint8_t *row, uint32_t k, uint32_t n, float scale,
                                         float min, float *out)
{
    const bool upper_first = form == KVI_FORM_NF4 || form == KVI_FORM_BNB_FP4,
               has_min = form >= KVI_FORM_A2 && form <= KVI_FORM_A8;
    const uint32_t bits = has_min ? kvi_form(form)->block_bytes
                          : upper_first || form == KVI_FORM_MXFP4 || form == KVI_FORM_NVFP4 ? 4u
                                                                                            : 8u;
    if (bits <= 4u) {
        float values[16];
        for (uint32_t code = 0; code < 1u << bits; code++) {
            const uint8_t both[2] = {(uint8_t)(bits == 4u ? code * 17u : code), 0}; /* of either half, or the first */
            const float product = kvi_weight_code(form, both, 0) * scale;
            values[code] = has_min ? product + min : product;
        }
        if (bits < 4u)
            for (uint32_t i = 0; i < n; i++) out[i] = values[kvi_kv_get_code(row, k + i, bits)];
        else
            for (uint32_t i = 0; i < n; i++)
                out[i] = values[(uint32_t)row[(k + i) / 2u] >> ((k + i) % 2u ^ (upper_first ? 1u : 0u)) * 4u & 15u];
    } else if (form == KVI_FORM_F8_E4M3 || form == KVI_FORM_MXFP8) {
        for (uint32_t i = 0; i < n; i++) { /* kvi_e4m3_to_f32 without branches */
            const uint32_t code = row[k + i], size = code & 127u, sign = (code & 128u) << 24;
            const uint32_t small = kvi_f32_bits((float)(int32_t)size * 0.001953125f),
                           normal = (size << 20) + (120u << 23);
            const uint32_t value = size < 8u ? small : normal;
            out[i] = kvi_f32_from_bits(size == 127u ? 0x7fc00000u : value | sign) * scale;
        }
    } else {
        for (uint32_t i = 0; i < n; i++) {
            const float product = kvi_weight_code(form, row, k + i) * scale;
            out[i] = has_min ? product + min : form == KVI_FORM_BNB_I8 ? product * 0.007874015718698502f : product;
        }
    }
}

/* Elements of a form with scales: out[i] = element first + i of a row of `codes`. */
KVI_HD static inline void kvi_weight_decode_scaled(const kvi_weight_desc *w, uint32_t expert, uint32_t row,
                                                   const uint8_t *codes, uint32_t first, uint32_t n, float *out)
{
    const bool is_integer = w->form == KVI_FORM_I4 || w->form == KVI_FORM_I8;
    uint8_t integers[64];
    for (uint32_t i = 0, run; i < n; i += run) {
        const uint32_t k = first + i;
        float zero;
        const float scale = kvi_weight_scale(w, expert, row, k, &zero), min = kvi_weight_min(w, expert, row, k);
        run = w->group ? w->group - k % w->group : n;
        if (run > n - i) run = n - i;
        if (w->parts[KVI_PART_GROUPS]) /* columns of any group, of which neighbours may share one */
            for (run = 1; i + run < n && kvi_weight_group(w, expert, k + run) == kvi_weight_group(w, expert, k);) run++;
        if (!is_integer) {
            kvi_weight_run(w->form, codes, k, run, scale, min, out + i);
            continue;
        }
        if (run > sizeof integers) run = (uint32_t)sizeof integers;
        kvi_weight_codes(w, expert, row, k, run, integers);
        for (uint32_t j = 0; j < run; j++) out[i + j] = ((float)integers[j] - zero) * scale;
    }
}

/* out (n) = elements [first, first + n) of a row; first is a multiple of the form's block, and n too unless the row ends there. Returns 0,
 * and writes nothing, for KVI_FORM_NONE alone. */
KVI_HD static inline int kvi_weight_decode(const kvi_weight_desc *w, uint32_t expert, uint32_t row, uint32_t first,
                                           uint32_t n, float *out)
{
    const uint8_t *codes = kvi_weight_part_at(w, KVI_PART_CODES, expert);
    const uint32_t at = kvi_weight_tensor_row(w, row);
    if (w->transposed) {
        const uint64_t column = kvi_weight_tensor_rows(w);
        for (uint32_t i = 0; i < n; i++)
            out[i] = kvi_plain_at(codes, kvi_form_dtype(w->form), (first + i) * column + at);
        return kvi_form_is_plain(w->form);
    }
    codes += at * kvi_weight_row_bytes(w->form, w->n_in);
    if (kvi_form(w->form)->needs & KVI_HAS_SCALES) {
        kvi_weight_decode_scaled(w, expert, row, codes, first, n, out);
        return 1;
    }
    switch (w->form) {
    case KVI_FORM_F32:
    case KVI_FORM_F16:
    case KVI_FORM_BF16:
        for (uint32_t i = 0; i < n; i++) out[i] = kvi_plain_at(codes, kvi_form_dtype(w->form), first + i);
        return 1;
    case KVI_FORM_F64:
        for (uint32_t i = 0; i < n; i++) out[i] = kvi_f64_to_f32(codes + 8u * (uint64_t)(first + i));
        return 1;
    default: {
        const uint32_t block = kvi_form(w->form)->block, bytes = kvi_form(w->form)->block_bytes;
        for (uint32_t i = 0; i < n; i += block)
            if (!kvi_gguf_block(w->form, codes + (uint64_t)((first + i) / block) * bytes, out + i)) return 0;
        return 1;
    }
    }
}

/* kvi_weight_decode as a function that exists once (weight_codec.c), for callers outside inner loops: it is 12 KB of code. */
int kvi_weight_read(const kvi_weight_desc *w, uint32_t expert, uint32_t row, uint32_t first, uint32_t n, float *out);

#endif
