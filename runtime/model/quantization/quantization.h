/* quantization.h - what a Hugging Face folder says about the quantization of its weights (`quantization_config`), and how a quantized weight
 * becomes a kvi_weight_desc that aliases its tensors.
 * Owns: the methods kvrt reads, a file each; which modules a config names, by name, class or regular expression; the checks of every tensor
 * that belongs to a weight. Refuses, by key, what it would read wrongly.
 * To know: a *module* is what a tensor's name is before its last dot; transformers and the configs call "model.layers.0.mlp.up_proj" one.
 * Mixed folders are normal: whether a module is quantized is seen by the tensors that are there, and the config must not contradict them. */
#ifndef KVI_QUANTIZATION_H
#define KVI_QUANTIZATION_H
#include "../checkpoint.h"

typedef struct kvi_quantization kvi_quantization;

/* Reads the configuration of DIR: config.json, or the file of its own in which GPTQ and AWQ kept it once. *out is NULL where there is none.
 * What is wrong with it is kept, so that a folder can still be listed; kvi_quantization_problem says it. Errors: IO, NOMEM_HOST. */
kvrt_status kvi_quantization_read(const char *dir, kvi_quantization **out, kvrt_error *error);
/* The same from the text of a config.json; `quant` alone is the configuration itself, and `file` is what messages call it. */
kvrt_status kvi_quantization_parse(const char *text, size_t len, const char *file, kvi_quantization **out,
                                   kvrt_error *error);
void kvi_quantization_free(kvi_quantization *q); /* NULL is fine */

/* KVRT_OK, or FORMAT or UNSUPPORTED with the key. NULL is fine: nothing is quantized. */
kvrt_status kvi_quantization_problem(const kvi_quantization *q, kvrt_error *error);
/* "gptq", as the config calls it; "" for NULL. */
const char *kvi_quantization_method(const kvi_quantization *q);

/* The tensor with the codes of the weight called `name` ("lm_head.weight") where it has another name than the weight; NULL: there is none. */
const kvi_tensor *kvi_quantization_codes(const kvi_quantization *q, const kvi_checkpoint *checkpoint, const char *name);

/* From the tensor of codes to the weight. On entry `desc` has n_out, n_in and rows; on return with *done also form, name, parts and how they
 * lie. *done is false for tensors that are not quantized. Errors: FORMAT, UNSUPPORTED, with the tensor and the key. */
kvrt_status kvi_quantization_describe(const kvi_quantization *q, const kvi_checkpoint *checkpoint,
                                      const kvi_tensor *codes, kvi_weight_desc *desc, bool *done, kvrt_error *error);

#endif
