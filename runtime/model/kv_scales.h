/* kv_scales.h - scales of the KV cache that a checkpoint brings: one for K and one for V of each layer, or of each KV head, found by whoever
 * quantized the model on text of theirs.
 * Honoured means: a cache whose format is the type they were made for (f8 or i8) keeps K after RoPE and V as they are, not rotated, and every
 * row of a layer as code = x / scale, saturated; x reads back as code * scale. Rows then have no scales of their own. The record holds the
 * scale as F16, and codes are made with what it holds. Layers without scales, and every other format, are as ever.
 * Sources: tensors as vLLM, compressed-tensors and ModelOpt name them; else kv_cache_scales.json, vLLM's file of parameters. What type they
 * are for: kv_cache_scheme or ModelOpt's kv_cache_quant_algo; without one F8 (E4M3), as vLLM has it. */
#ifndef KVI_KV_SCALES_H
#define KVI_KV_SCALES_H
#include "checkpoint.h"
#include "config.h"
#include "../../kernels/backend.h"

typedef struct kvi_kv_scales {
    float *by_layer; /* (n_layers, most KV heads of a layer, 2): K, V; 0: the layer has none. NULL: no layer has */
    float *by_group; /* the same in the order of a program's groups; kvi_cache_group.scales points into it */
} kvi_kv_scales;

/* Scales of the folder DIR for a cache whose sides are all `code` (F8 or I8). *out is empty where there are none of that type. Errors: FORMAT
 * (a shape, a scale that no F16 holds, K without V), IO, NOMEM_HOST. */
kvrt_status kvi_kv_scales_read(const char *dir, const kvi_checkpoint *checkpoint, const kvi_model_config *config,
                               kvi_kv_code code, kvi_kv_scales *out, kvrt_error *error);
/* Gives them to the groups (program->groups) and takes the rotation from these. Once; the scales outlive the program. */
kvrt_status kvi_kv_scales_apply(kvi_kv_scales *scales, const kvi_model_config *config, const kvi_program *program,
                                kvi_cache_group *groups, kvrt_error *error);
void kvi_kv_scales_free(kvi_kv_scales *scales); /* zeroes are fine */

#endif
