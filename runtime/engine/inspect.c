/* inspect.c - kvrt_inspect: what a folder holds, as far as it can be read. An unsupported model is a finding, not a failure; only a folder
 * that is none fails. */
#include "engine.h"
#include "../model/generation_config.h"

#include <stdio.h>
#include <string.h>

static void note(kvrt_inspect_info *info, const kvrt_error *error)
{
    if (info->problem[0]) return; /* the first problem is the one to solve */
    memcpy(info->problem, error->message, sizeof info->problem);
}

static void copy_config(const kvi_model_config *c, kvrt_inspect_info *info)
{
    static const char *const scalings[] = {"none", "linear", "llama3", "divisors"};
    memcpy(info->architecture, c->architecture, sizeof info->architecture);
    if (c->family) (void)snprintf(info->family, sizeof info->family, "%s", c->family);
    info->n_layers = c->n_layers, info->n_heads = c->attention[0].n_heads,
    info->n_kv_heads = c->attention[0].n_kv_heads, info->head_dim = c->attention[0].head_dim;
    info->hidden_size = c->hidden_size, info->ffn_size = c->ffn_size, info->vocab_size = c->vocab_size,
    info->ctx_model = c->ctx_model;
    info->tied_embeddings = c->tied_embeddings, info->qkv_bias = c->qkv_bias, info->qk_norm = c->qk_norm;
    for (uint32_t i = 0; i < c->n_layers && i < KVI_MAX_LAYERS; i++)
        if (kvi_attention_of(c, i)->window > info->sliding_window)
            info->sliding_window = kvi_attention_of(c, i)->window;
    info->rope_theta = c->ropes[0].theta;
    info->n_eos = c->n_eos;
    memcpy(info->eos_ids, c->eos_ids, sizeof info->eos_ids);
    (void)snprintf(info->rope_scaling, sizeof info->rope_scaling, "%s", scalings[c->ropes[0].scaling]);
}

static void list_tensors(const kvi_checkpoint *checkpoint, kvrt_inspect_info *info, kvrt_tensor_fn fn, void *user)
{
    for (uint64_t i = 0; i < checkpoint->n_tensors; i++) {
        const kvi_tensor *t = kvi_checkpoint_at(checkpoint, i);
        kvrt_inspect_tensor out = {.size = sizeof out,
                                   .name = t->name,
                                   .dtype = t->dtype,
                                   .file = kvi_checkpoint_file(checkpoint, t->file),
                                   .n_dims = t->n_dims,
                                   .bytes = t->bytes};
        uint64_t elements = 1;
        for (uint32_t d = 0; d < t->n_dims; d++) elements *= out.shape[d] = t->shape[d];
        info->n_params += elements;
        info->bytes += t->bytes;
        if (fn) fn(&out, user);
    }
    info->n_tensors = checkpoint->n_tensors;
    info->n_files = checkpoint->n_files;
}

/* What generation_config.json says goes for nothing here but must be sound; the tokenizer names the end where no configuration does. */
static void check_generation(const kvi_model_files *files, const kvi_tokenizer *tokenizer, kvrt_inspect_info *info)
{
    kvrt_error error = {.size = sizeof error};
    kvrt_options *defaults = NULL;
    kvi_generation_notes notes = {.warning = info->warning, .cap = sizeof info->warning};
    kvrt_status status = kvrt_options_create(&defaults, &error);
    if (status >= KVRT_OK) status = kvi_model_files_generation(files, defaults, &notes, &error);
    if (status < KVRT_OK) note(info, &error);
    info->eos_of_generation = notes.ends;
    if (tokenizer && info->n_eos == 0 && kvi_tokenizer_eos_id(tokenizer) >= 0)
        info->eos_ids[info->n_eos++] = kvi_tokenizer_eos_id(tokenizer);
    kvrt_options_destroy(defaults);
}

static void inspect_files(const kvi_model_files *files, kvi_model_config *config, kvrt_inspect_info *info,
                          kvrt_tensor_fn fn, void *user)
{
    kvrt_error error = {.size = sizeof error};
    kvi_checkpoint *checkpoint = NULL;
    kvi_tokenizer *tokenizer = NULL;
    kvi_model_weights weights;
    bool known = kvi_model_files_config(files, config, &error) >= KVRT_OK;
    if (!known) note(info, &error);
    (void)snprintf(info->warning, sizeof info->warning, "%s", config->warning);
    copy_config(config, info);
    if (kvi_model_files_checkpoint(files, false, &checkpoint, &error) < KVRT_OK) note(info, &error);
    else {
        list_tensors(checkpoint, info, fn, user);
        if (known &&
            kvi_weights_bind(config, checkpoint, KVI_FORM_BF16, NULL, NULL, NULL, NULL, &weights, &error) < KVRT_OK)
            note(info, &error);
        else if (known) kvi_weights_free(&weights);
    }
    if (kvi_model_files_tokenizer(files, &tokenizer, &error) < KVRT_OK) note(info, &error);
    else (void)snprintf(info->tokenizer, sizeof info->tokenizer, "%s", kvi_tokenizer_describe(tokenizer));
    check_generation(files, tokenizer, info);
    kvi_tokenizer_free(tokenizer);
    kvi_checkpoint_close(checkpoint);
}

kvrt_status kvrt_inspect_defaults(const char *path, kvrt_options *options, kvrt_error *error)
{
    if (!path || !options) return kvi_error_set(error, KVRT_ARG, "kvrt_inspect_defaults: path or options is NULL");
    kvi_model_files files;
    KVI_TRY(kvi_model_files_open(path, false, &files, error));
    kvrt_status status = kvi_model_files_generation(&files, options, NULL, error);
    kvi_model_files_close(&files);
    return status;
}

kvrt_status kvrt_inspect(const char *path, kvrt_inspect_info *out, kvrt_tensor_fn fn, void *user, kvrt_error *error)
{
    if (!path) return kvi_error_set(error, KVRT_ARG, "kvrt_inspect: path is NULL");
    KVI_TRY(kvi_struct_check(out, "kvrt_inspect_info", error));
    kvi_model_files files;
    KVI_TRY(kvi_model_files_open(path, false, &files, error));
    kvrt_inspect_info info = {.size = sizeof info};
    kvi_model_config *config = kvi_mem_zalloc(1, sizeof *config);
    if (!config) {
        kvi_model_files_close(&files);
        return kvi_error_nomem(error, sizeof *config, "config");
    }
    inspect_files(&files, config, &info, fn, user);
    kvi_model_files_close(&files);
    kvi_struct_write(out, &info, sizeof info);
    kvi_mem_free(config);
    return KVRT_OK;
}
