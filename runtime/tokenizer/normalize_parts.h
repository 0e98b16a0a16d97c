/* normalize_parts.h - what normalize.c and normalize_charsmap.c share. */
#ifndef KVI_NORMALIZE_PARTS_H
#define KVI_NORMALIZE_PARTS_H
#include "tokenizer_impl.h"

/* Appends bytes that all carry one mark. */
void kvi_norm_emit(kvi_norm_text *out, const char *bytes, size_t n, char mark);
/* Precompiled: applies SentencePiece's character map. */
void kvi_charsmap_apply(const kvi_norm_op *op, const kvi_view *in, kvi_norm_text *out);
/* Decodes "precompiled_charsmap" (base64) into the arena. Errors: FORMAT, NOMEM_HOST. */
kvrt_status kvi_charsmap_load(kvi_arena *arena, const char *base64, size_t len, const char *owner, kvi_norm_op *op,
                              kvrt_error *error);

#endif
