/* quantize_gguf.h - a model of a GGUF file as the Hugging Face folder that it once was: names of tensors, rows of q and k in their own order, and a
 * config.json. Serves Llama, Qwen2 and Qwen3 (dense); others are refused by family, and what a config.json of theirs cannot say by key. */
#ifndef KVI_QUANTIZE_GGUF_H
#define KVI_QUANTIZE_GGUF_H
#include "quantize_items.h"
#include "../base/mem.h"

/* UNSUPPORTED: the family, or something of the model that has no key there. */
kvrt_status kvi_quantize_gguf_check(const kvi_engine *e, kvrt_error *error);
/* What a tensor of a place is called, without ".weight" or ".bias", into out (KVI_QUANTIZE_NAME); returns the end. */
const char *kvi_quantize_gguf_name(const kvi_place *place, uint32_t layer, char *out);
/* Dimensions of a head whose rows llama.cpp rearranged, where the place is one of q or k; 0: none did. */
uint32_t kvi_quantize_gguf_turned(const kvi_engine *e, const kvi_place *place);
/* Where row r of the folder's tensor stands in the file. The file has the two halves of each head in turns. */
static inline uint32_t kvi_quantize_turned_row(uint32_t head_dim, uint32_t r)
{
    const uint32_t in_head = head_dim ? r % head_dim : 0, half = head_dim / 2;
    return head_dim ? r - in_head + (in_head < half ? 2 * in_head : 2 * (in_head - half) + 1) : r;
}
/* The config.json, up to its last brace. */
kvrt_status kvi_quantize_gguf_config(const kvi_engine *e, kvi_buf *out, kvrt_error *error);

#endif
