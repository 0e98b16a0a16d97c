/* weight_codec.h - what the numbers of a weight are: rows of every form to f32, once. The oracle of the tests, the slow path of every backend
 * (a form works before it has a kernel), and shared with device code as kv/codec.h is. No memory, no libc; one IEEE operation at a time,
 * compiled without contraction, so results are the same bits everywhere.
 *
 *   F32, F16, BF16   as they are         F64   rounded to f32
 *   F8_E4M3          code * s, after s *= GLOBAL where there is one
 *   I8               (code - z) * s      codes and zeros signed bytes, z = 0 when absent
 *   I4               (code - z) * s      codes 0..15, eight to a little-endian word, lowest bits first; z a byte, 8 when absent
 *   GGUF blocks      gguf_blocks.h
 * s and z are those of the element's group (weight_form.h). */
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

/* Scale and zero of the group of one element: place k of a row. */
KVI_HD static inline float kvi_weight_scale(const kvi_weight_desc *w, uint32_t expert, uint32_t row, uint32_t k,
                                            float *zero)
{
    const uint32_t at = kvi_weight_tensor_row(w, row);
    const uint64_t i = (uint64_t)(w->group_rows > 1u ? at / w->group_rows : at) * kvi_weight_groups(w) +
                       (w->group ? k / w->group : 0u);
    float scale = kvi_plain_at(kvi_weight_part_at(w, KVI_PART_SCALES, expert), w->scale_type, i);
    if (w->parts[KVI_PART_GLOBAL]) scale *= kvi_plain_at(kvi_weight_part_at(w, KVI_PART_GLOBAL, expert), KVI_F32, 0);
    *zero = w->form == KVI_FORM_I4 ? 8.0f : 0.0f;
    if (w->parts[KVI_PART_ZEROS]) {
        const uint8_t code = kvi_weight_part_at(w, KVI_PART_ZEROS, expert)[i];
        *zero = w->form == KVI_FORM_I4 ? (float)code : (float)(int8_t)code;
    }
    return scale;
}

/* The code at place k of a row of codes, as a number. */
KVI_HD static inline float kvi_weight_code(kvi_weight_form form, const uint8_t *row, uint32_t k)
{
    if (form == KVI_FORM_I4) return (float)((uint32_t)row[k / 2u] >> (k % 2u * 4u) & 15u);
    return form == KVI_FORM_I8 ? (float)(int8_t)row[k] : kvi_e4m3_to_f32(row[k]);
}

/* out (n) = elements [first, first + n) of a row; first is a multiple of the form's block, and n too unless the row ends there. Returns 0, and
 * writes nothing, when the form is not among those above. */
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
    switch (w->form) {
    case KVI_FORM_F32:
    case KVI_FORM_F16:
    case KVI_FORM_BF16:
        for (uint32_t i = 0; i < n; i++) out[i] = kvi_plain_at(codes, kvi_form_dtype(w->form), first + i);
        return 1;
    case KVI_FORM_F64:
        for (uint32_t i = 0; i < n; i++) out[i] = kvi_f64_to_f32(codes + 8u * (uint64_t)(first + i));
        return 1;
    case KVI_FORM_F8_E4M3:
    case KVI_FORM_I8:
    case KVI_FORM_I4: {
        const uint8_t *places =
            w->parts[KVI_PART_PERMUTATION] ? kvi_weight_part_at(w, KVI_PART_PERMUTATION, expert) : 0;
        for (uint32_t i = 0; i < n; i++) {
            const uint32_t k = places ? kvi_load_le32(places + 4u * (uint64_t)(first + i)) : first + i;
            float zero;
            const float scale = kvi_weight_scale(w, expert, row, k, &zero);
            out[i] = (kvi_weight_code(w->form, codes, k) - zero) * scale;
        }
        return 1;
    }
    default: {
        const uint32_t block = kvi_form(w->form)->block, bytes = kvi_form(w->form)->block_bytes;
        for (uint32_t i = 0; i < n; i += block)
            if (!kvi_gguf_block(w->form, codes + (uint64_t)((first + i) / block) * bytes, out + i)) return 0;
        return 1;
    }
    }
}

/* Whether kvi_weight_decode has the form. */
static inline int kvi_weight_decodes(kvi_weight_form form)
{
    const uint8_t zeros[512] = {0};
    float out[KVI_MAX_FORM_BLOCK];
    if (form == KVI_FORM_NONE || (kvi_form(form)->needs && form > KVI_FORM_I4)) return 0;
    return form <= KVI_FORM_I4 || kvi_gguf_block(form, zeros, out);
}

#endif
