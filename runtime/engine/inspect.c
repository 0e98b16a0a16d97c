/* inspect.c - kvrt_inspect: what a folder holds, as far as it can be read. An unsupported model is a finding, not a failure; only a folder
 * that is none fails. */
#include "engine.h"
#include "../model/generation_config.h"
#include "../model/quantization/quantization.h"

#include <stdio.h>
#include <string.h>

static void note(kvrt_inspect_info *info, const kvrt_error *error)
{
    if (info->problem[0]) return; /* the first problem is the one to solve */
    memcpy(info->problem, error->message, sizeof info->problem);
}

static void copy_config(const kvi_model_config *c, kvrt_inspect_info *info)
{
    static const char *const scalings[] = {
        [KVI_ROPE_NONE] = "none",
        [KVI_ROPE_LINEAR] = "linear",
        [KVI_ROPE_LLAMA3] = "llama3",
        [KVI_ROPE_YARN] = "yarn",
        [KVI_ROPE_PROPORTIONAL] = "proportional",
        [KVI_ROPE_DIVISORS] = "divisors",
    };
    memcpy(info->architecture, c->architecture, sizeof info->architecture);
    if (c->family) (void)snprintf(info->family, sizeof info->family, "%s", c->family);
    info->n_layers = c->n_layers, info->n_heads = c->attention[0].n_heads,
    info->n_kv_heads = c->attention[0].n_kv_heads, info->head_dim = c->attention[0].head_dim;
    info->hidden_size = c->hidden_size, info->ffn_size = c->ffn_size, info->vocab_size = c->vocab_size,
    info->ctx_model = c->ctx_model;
    info->tied_embeddings = c->tied_embeddings, info->qkv_bias = c->qkv_bias,
    info->qk_norm = c->qk_norm != KVI_QK_NORM_NONE;
    for (uint32_t i = 0; i < c->n_layers && i < KVI_MAX_LAYERS; i++)
        if (kvi_attention_of(c, i)->window > info->sliding_window)
            info->sliding_window = kvi_attention_of(c, i)->window;
    info->rope_theta = c->ropes[0].theta;
    info->n_eos = c->n_eos;
    memcpy(info->eos_ids, c->eos_ids, sizeof info->eos_ids);
    (void)snprintf(info->rope_scaling, sizeof info->rope_scaling, "%s", scalings[c->ropes[0].scaling]);
}

/* What is read from each tensor. */
typedef struct tensor_use {
    const char *form;
    uint64_t n_weights, bytes;
    uint32_t group;
    char kernel[64];
} tensor_use;
typedef struct tensor_uses {
    const kvi_checkpoint *checkpoint;
    tensor_use *of; /* (n_tensors) */
    kvrt_inspect_info *info;
    const kvi_backend *backend; /* that an open would take */
    kvi_device_options options;
} tensor_uses;

static void on_weight(void *user, const kvi_weight_desc *desc)
{
    const tensor_uses *uses = user;
    const uint64_t n = (uint64_t)desc->n_out * desc->n_in * (desc->n_experts ? desc->n_experts : 1),
                   bytes = kvi_weight_bytes(desc);
    uses->info->n_weights += n;
    uses->info->weight_bytes += bytes;
    for (uint64_t i = 0; i < uses->checkpoint->n_tensors; i++) {
        tensor_use *use = &uses->of[i];
        if (kvi_checkpoint_at(uses->checkpoint, i)->name != desc->name) continue;
        use->form = kvi_form(desc->form)->name;
        use->group = desc->group;
        use->n_weights += n;
        use->bytes += bytes;
        if (desc->n_out > 1 && uses->backend)
            (void)uses->backend->kernel_of(desc, &uses->options, use->kernel, sizeof use->kernel);
        return;
    }
}

/* "16 attention, 48 gated DeltaNet; 64 dense": how many layers have which mixer, and which feed-forward part. */
static void describe_layers(const kvi_model_config *c, char *out, size_t cap)
{
    enum { FULL, WINDOW, LATENT, RECURRENT, DENSE, ROUTED, KINDS };
    static const char *const names[KINDS] = {
        "attention", "windowed attention", "latent attention", "gated DeltaNet", "dense", "experts"};
    uint32_t n[KINDS] = {0};
    size_t len = 0;
    for (uint32_t i = 0; i < c->n_layers; i++) {
        const kvi_layer *layer = &c->layers[i];
        n[layer->mixer == KVI_MIXER_RECURRENT ? RECURRENT
          : layer->mixer == KVI_MIXER_LATENT  ? LATENT
          : kvi_attention_of(c, i)->window    ? WINDOW
                                              : FULL]++;
        n[layer->ffn == KVI_FFN_ROUTED ? ROUTED : DENSE]++;
    }
    for (int kind = 0; kind < KINDS && len < cap; kind++)
        if (n[kind])
            len += (size_t)snprintf(out + len, cap - len, "%s%u %s",
                                    kind == DENSE || (kind == ROUTED && !n[DENSE]) ? "; "
                                    : len                                          ? ", "
                                                                                   : "",
                                    n[kind], names[kind]);
    if (c->experts.n_experts && len < cap)
        (void)snprintf(out + len, cap - len, " (%u of %u%s)", c->experts.route.top_k, c->experts.n_experts,
                       c->experts.shared_width ? " and shared ones" : "");
}

static void list_tensors(const kvi_checkpoint *checkpoint, const tensor_use *uses, kvrt_inspect_info *info,
                         kvrt_tensor_fn fn, void *user)
{
    for (uint64_t i = 0; i < checkpoint->n_tensors; i++) {
        const kvi_tensor *t = kvi_checkpoint_at(checkpoint, i);
        static const tensor_use none;
        const tensor_use *const use = uses ? &uses[i] : &none;
        kvrt_inspect_tensor out = {.size = sizeof out,
                                   .name = t->name,
                                   .dtype = t->dtype,
                                   .file = kvi_checkpoint_file(checkpoint, t->file),
                                   .n_dims = t->n_dims,
                                   .bytes = t->bytes,
                                   .form = use->form ? use->form : "",
                                   .n_weights = use->n_weights,
                                   .bits = use->n_weights ? (double)use->bytes * 8 / (double)use->n_weights : 0,
                                   .group = use->group,
                                   .kernel = use->kernel};
        uint64_t elements = 1;
        for (uint32_t d = 0; d < t->n_dims; d++) elements *= out.shape[d] = t->shape[d];
        info->n_params += elements;
        info->bytes += t->bytes;
        if (fn) fn(&out, user);
    }
    if (info->n_weights) info->n_params = info->n_weights; /* elements of packed tensors are no parameters */
    info->n_tensors = checkpoint->n_tensors;
    info->n_files = checkpoint->n_files;
}

static void inspect_tensors(const kvi_model_config *config, const kvi_checkpoint *checkpoint, kvrt_inspect_info *info,
                            kvrt_tensor_fn fn, void *user)
{
    kvrt_error error = {.size = sizeof error};
    kvrt_options *defaults = NULL;
    tensor_uses uses = {
        .checkpoint = checkpoint, .of = kvi_mem_zalloc(checkpoint->n_tensors + 1, sizeof *uses.of), .info = info};
    if (kvrt_options_create(&defaults, &error) >= KVRT_OK) {
        uses.backend = kvi_plan_backend(defaults);
        uses.options = kvi_device_options_from(defaults);
        uses.options.isa = NULL; /* the best: its text belongs to the options */
        uses.options.amx = true; /* as the command opens */
    }
    kvrt_options_destroy(defaults);
    (void)snprintf(info->quantization, sizeof info->quantization, "%s",
                   kvi_quantization_method(checkpoint->quantization));
    if (!uses.of) (void)kvi_error_nomem(&error, checkpoint->n_tensors * sizeof *uses.of, "list of tensors");
    if (!uses.of || (config && kvi_weights_each(config, checkpoint, on_weight, &uses, &error) < KVRT_OK)) {
        note(info, &error);
        info->n_weights = info->weight_bytes = 0;
    }
    list_tensors(checkpoint, uses.of, info, fn, user);
    kvi_mem_free(uses.of);
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
    bool known = kvi_model_files_config(files, config, &error) >= KVRT_OK;
    if (!known) note(info, &error);
    (void)snprintf(info->warning, sizeof info->warning, "%s", config->warning);
    copy_config(config, info);
    if (known) describe_layers(config, info->layers, sizeof info->layers);
    if (kvi_model_files_checkpoint(files, false, &checkpoint, &error) < KVRT_OK) note(info, &error);
    else inspect_tensors(known ? config : NULL, checkpoint, info, fn, user);
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
