/* gguf_blocks.h - blocks of the GGUF forms as numbers: one block of 32, 64 or 256 neighbours to f32. Part of weight_codec.h.
 * A block brings its scales with it; F16 unless said. Values are ggml's, in its order of operations.
 *
 *   Q4_0  d, 16 bytes: nibble j is element j (low) and 16 + j (high)      (q - 8) d
 *   Q4_1  d, m, 16 bytes alike                                            d q + m
 *   Q8_0  d, 32 signed bytes                                              q d */
#ifndef KVI_GGUF_BLOCKS_H
#define KVI_GGUF_BLOCKS_H
#include "weight_form.h"
#include "../kv/codec.h"

/* out (kvi_form(form)->block); 0 when the form is not among those above. */
KVI_HD static inline int kvi_gguf_block(kvi_weight_form form, const uint8_t *block, float *out)
{
    const float d = kvi_f16_to_f32(kvi_kv_load16(block));
    switch (form) {
    case KVI_FORM_Q4_0:
        for (uint32_t j = 0; j < 16u; j++) {
            out[j] = (float)((int)(block[2u + j] & 15u) - 8) * d;
            out[16u + j] = (float)((int)(block[2u + j] >> 4) - 8) * d;
        }
        return 1;
    case KVI_FORM_Q4_1: {
        const float m = kvi_f16_to_f32(kvi_kv_load16(block + 2));
        for (uint32_t j = 0; j < 16u; j++) {
            const float low = d * (float)(block[4u + j] & 15u), high = d * (float)(block[4u + j] >> 4);
            out[j] = low + m;
            out[16u + j] = high + m;
        }
        return 1;
    }
    case KVI_FORM_Q8_0:
        for (uint32_t j = 0; j < 32u; j++) out[j] = (float)(int8_t)block[2u + j] * d;
        return 1;
    default: return 0;
    }
}

#endif
