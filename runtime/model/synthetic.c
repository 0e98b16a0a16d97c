/* synthetic.c - see synthetic.h. One block is drawn and repeated at odd strides, which costs a copy's time and still makes neighbouring rows
 * differ. */
#include "synthetic.h"
#include "../base/lcg.h"
#include "../kv/half.h"

#include <string.h>

bool kvi_synthetic_shape(kvi_weight_desc *desc)
{
    const kvi_form_info *info = kvi_form(desc->form);
    if (kvi_form_is_plain(desc->form)) return false;
    desc->scale_type = KVI_F16;
    switch (desc->form) {
    case KVI_FORM_I4:
    case KVI_FORM_I8:
        desc->group = 128;
        while (desc->group > 32 && desc->n_in % desc->group) desc->group /= 2;
        break;
    case KVI_FORM_MXFP4:
    case KVI_FORM_MXFP8: desc->group = 32; break;
    case KVI_FORM_NVFP4: desc->group = 16; break;
    case KVI_FORM_F8_E4M3:
    case KVI_FORM_F8_E5M2:
    case KVI_FORM_BNB_I8: desc->group = 0; break; /* a scale for a row */
    default: desc->group = info->needs ? 64 : 0;
    }
    const bool whole = desc->n_in % info->block == 0 && (!desc->group || desc->n_in % desc->group == 0);
    if (!whole) desc->form = KVI_FORM_F16, desc->group = 0;
    return whole;
}

/* A random word of a part. */
static uint32_t word_of(kvi_weight_form form, kvi_weight_part part, uint32_t r)
{
    const kvi_scale_kind kind = kvi_form(form)->scale;
    const float one = 1.0f;
    uint32_t bits;
    memcpy(&bits, &one, 4);
    if (part == KVI_PART_GLOBAL) return bits;
    if (part == KVI_PART_SCALES && kind == KVI_SCALE_E8M0) return 0x77777777u;
    if (part == KVI_PART_SCALES && kind == KVI_SCALE_E4M3) return 0x08080808u | (r & 0x07070707u);
    if (part != KVI_PART_CODES) return 0x18001800u | (r & 0x03ff03ffu); /* F16, 2^-9 to 2^-8 */
    /* Exponent near 2^-6, random sign and mantissa, laid so that both halves of the word and the word itself are such numbers. */
    if (form == KVI_FORM_F16) return 0x24002400u | (r & 0x83ff83ffu);
    if (kvi_form_is_plain(form)) return 0x3c003c00u | (r & 0x80ff80ffu);
    if (form == KVI_FORM_F8_E4M3 || form == KVI_FORM_F8_E5M2 || form == KVI_FORM_MXFP8)
        return r & 0xbfbfbfbfu; /* no NaN */
    return r;
}

/* Scales inside the blocks of GGUF forms. */
static void tame_block(kvi_weight_form form, unsigned char *block)
{
    const uint16_t d = kvi_f32_to_f16(form == KVI_FORM_Q6_K || form == KVI_FORM_IQ4_XS ? 0x1p-14f : 0x1p-9f);
    const uint32_t at = form == KVI_FORM_Q2_K ? 80 : form == KVI_FORM_Q3_K ? 108 : form == KVI_FORM_Q6_K ? 208 : 0;
    if (form == KVI_FORM_MXFP4_BLOCK) block[0] = 0x77;
    else if (form == KVI_FORM_NVFP4_BLOCK) memset(block, 0x0c, 4);
    else memcpy(block + at, &d, 2);
    if (form == KVI_FORM_Q4_1 || form == KVI_FORM_Q5_1 || form == KVI_FORM_Q2_K || form == KVI_FORM_Q4_K ||
        form == KVI_FORM_Q5_K)
        memcpy(block + at + 2, &d, 2);
}

void kvi_synthetic_fill(kvi_weight_form form, kvi_weight_part part, unsigned char *memory, uint64_t bytes)
{
    enum { BLOCK = 1 << 20 };
    const uint32_t size = kvi_form(form)->block_bytes;
    const bool blocks = part == KVI_PART_CODES && !kvi_form_is_plain(form) && !kvi_form(form)->needs;
    /* At an odd stride, which is whole blocks where there are blocks. */
    uint64_t block = blocks ? (BLOCK / size + 1021u) * (uint64_t)size : BLOCK + 4u * 1021u;
    uint64_t filled = 0, state = 0x9e3779b97f4a7c15u;
    for (; filled < block && filled + 4 <= bytes; filled += 4) {
        const uint32_t word = word_of(form, part, (uint32_t)(kvi_lcg(&state) >> 33) << 1 | (filled >> 2 & 1u));
        memcpy(memory + filled, &word, 4);
    }
    for (uint64_t i = 0; blocks && i + size <= filled; i += size) tame_block(form, memory + i);
    for (filled = block < bytes ? block : bytes; filled < bytes; filled += block)
        memcpy(memory + filled, memory, bytes - filled < block ? bytes - filled : block);
}
