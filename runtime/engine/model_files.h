/* model_files.h - what is read of a model's files, from a Hugging Face folder or from a GGUF file: the one place that knows the difference. */
#ifndef KVI_MODEL_FILES_H
#define KVI_MODEL_FILES_H
#include "../model/checkpoint.h"
#include "../model/config.h"
#include "../model/generation_config.h"
#include "../template/chat_template.h"
#include "../tokenizer/tokenizer.h"

/* `gguf` is NULL for a folder. */
typedef struct kvi_model_files {
    const char *path;
    struct kvi_gguf *gguf;
} kvi_model_files;

/* `path` outlives *out. `copy`: as kvi_checkpoint_open. Errors: IO, FORMAT, UNSUPPORTED (neither a folder nor GGUF), NOMEM_HOST. */
kvrt_status kvi_model_files_open(const char *path, bool copy, kvi_model_files *out, kvrt_error *error);
void kvi_model_files_close(kvi_model_files *files); /* after the checkpoint; zeroes are fine */
/* As the functions of the folder: kvi_config_read, kvi_generation_defaults, kvi_checkpoint_open, kvi_tokenizer_load, kvi_chat_template_load. */
kvrt_status kvi_model_files_config(const kvi_model_files *files, kvi_model_config *out, kvrt_error *error);
kvrt_status kvi_model_files_generation(const kvi_model_files *files, kvrt_options *options, kvi_generation_notes *notes,
                                       kvrt_error *error);
kvrt_status kvi_model_files_checkpoint(const kvi_model_files *files, bool copy, kvi_checkpoint **out,
                                       kvrt_error *error);
kvrt_status kvi_model_files_tokenizer(const kvi_model_files *files, kvi_tokenizer **out, kvrt_error *error);
kvrt_status kvi_model_files_template(const kvi_model_files *files, kvi_chat_template **out, kvrt_error *error);

#endif
