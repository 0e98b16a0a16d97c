/* model_files.c - see model_files.h. */
#include "model_files.h"
#include "../base/folder.h"
#include "../model/gguf_model.h"

#include <stdio.h>
#include <string.h>

/* A file that begins like one; kvi_gguf_open then says what is wrong with it. */
static bool is_gguf(const char *path)
{
    kvi_map map = {0};
    if (kvi_os_path_kind(path) != KVI_OS_FILE || kvi_os_map(path, NULL, &map, NULL) < KVRT_OK) return false;
    const bool is = map.len >= 4 && memcmp(map.data, "GGUF", 4) == 0;
    kvi_os_unmap(&map);
    return is;
}

/* The GGUF models of a folder: of a split one its first file, and no projectors of pictures. */
typedef struct gguf_list {
    char first[256]; /* in the order of their names */
    unsigned n;
} gguf_list;

static void list_gguf(const char *name, void *user)
{
    gguf_list *list = user;
    const size_t len = strlen(name);
    const char *of = strstr(name, "-of-");
    const bool later = of && of - name > 6 && strncmp(of - 6, "-00001", 6) != 0;
    if (len < 6 || len >= sizeof list->first || strcmp(name + len - 5, ".gguf") != 0 || later ||
        strncmp(name, "mmproj", 6) == 0)
        return;
    if (list->n++ == 0 || strcmp(name, list->first) < 0) memcpy(list->first, name, len + 1);
}

/* A folder without config.json that holds one GGUF model means that. */
static kvrt_status open_folder(const char *path, bool copy, kvi_gguf **out, kvrt_error *error)
{
    gguf_list list = {.n = 0};
    char file[4096];
    KVI_TRY(kvi_config_check_folder(path, error));
    if (kvi_folder_has(path, "config.json")) return KVRT_OK;
    kvi_os_list(path, list_gguf, &list);
    if (list.n > 1)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "%s: %u GGUF models and no config.json, need one: name the file (%s)", path, list.n,
                             list.first);
    if (list.n == 0 || (size_t)snprintf(file, sizeof file, "%s/%s", path, list.first) >= sizeof file) return KVRT_OK;
    return kvi_gguf_open(file, copy, out, error);
}

kvrt_status kvi_model_files_open(const char *path, bool copy, kvi_model_files *out, kvrt_error *error)
{
    *out = (kvi_model_files){.path = path};
    return is_gguf(path) ? kvi_gguf_open(path, copy, &out->gguf, error) : open_folder(path, copy, &out->gguf, error);
}

void kvi_model_files_close(kvi_model_files *files)
{
    kvi_gguf_close(files->gguf);
    files->gguf = NULL;
}

kvrt_status kvi_model_files_config(const kvi_model_files *files, kvi_model_config *out, kvrt_error *error)
{
    return files->gguf ? kvi_gguf_config(files->gguf, out, error) : kvi_config_read(files->path, out, error);
}

kvrt_status kvi_model_files_generation(const kvi_model_files *files, kvrt_options *options, kvi_generation_notes *notes,
                                       kvrt_error *error)
{
    return files->gguf ? KVRT_OK : kvi_generation_defaults(files->path, options, notes, error);
}

kvrt_status kvi_model_files_checkpoint(const kvi_model_files *files, bool copy, kvi_checkpoint **out, kvrt_error *error)
{
    return files->gguf ? kvi_gguf_checkpoint(files->gguf, out, error)
                       : kvi_checkpoint_open(files->path, copy, out, error);
}

/* --------------------------------------------------------------------------------------------------- tokenizer --- */
static kvrt_status read_name(const kvi_gguf *g, const char *key, kvi_gguf_need need, char out[64], kvrt_error *error)
{
    kvi_gguf_text text = {0};
    KVI_TRY(kvi_gguf_string(g, key, need, &text, error));
    const size_t len = text.len < 63 ? text.len : 63;
    if (len) memcpy(out, text.data, len);
    out[len] = 0;
    return KVRT_OK;
}

static kvrt_status read_id(const kvi_gguf *g, const char *key, int64_t *out, kvrt_error *error)
{
    uint32_t id = UINT32_MAX; /* also what some files write for none */
    KVI_TRY(kvi_gguf_u32(g, key, KVI_GGUF_OPTIONAL, &id, error));
    *out = id == UINT32_MAX ? -1 : (int64_t)id;
    return KVRT_OK;
}

static kvrt_status read_choice(const kvi_gguf *g, const char *key, int *out, kvrt_error *error)
{
    bool value = false;
    *out = -1;
    if (!kvi_gguf_find(g, key)) return KVRT_OK;
    KVI_TRY(kvi_gguf_bool(g, key, KVI_GGUF_REQUIRED, &value, error));
    *out = value;
    return KVRT_OK;
}

/* An array with one element for each token; *at is NULL when there is none. */
static kvrt_status read_per_token(const kvi_gguf *g, const char *key, kvi_gguf_kind kind, uint64_t n,
                                  const uint8_t **at, kvrt_error *error)
{
    const kvi_gguf_value *array;
    KVI_TRY(kvi_gguf_array(g, key, kind, KVI_GGUF_OPTIONAL, &array, error));
    *at = array ? array->at : NULL;
    if (!array || array->n == n) return KVRT_OK;
    return kvi_error_set(error, KVRT_FORMAT, "%s: key %s: %llu elements, need %llu (tokens)", kvi_gguf_file(g, 0), key,
                         (unsigned long long)array->n, (unsigned long long)n);
}

static kvrt_status read_lists(const kvi_gguf *g, kvi_vocabulary *v, kvrt_error *error)
{
    const kvi_gguf_value *tokens, *merges;
    KVI_TRY(kvi_gguf_array(g, "tokenizer.ggml.tokens", KVI_GGUF_KIND_STRING, KVI_GGUF_REQUIRED, &tokens, error));
    KVI_TRY(kvi_gguf_array(g, "tokenizer.ggml.merges", KVI_GGUF_KIND_STRING, KVI_GGUF_OPTIONAL, &merges, error));
    v->tokens = (kvi_texts){tokens->at, tokens->n};
    if (merges) v->merges = (kvi_texts){merges->at, merges->n};
    KVI_TRY(read_per_token(g, "tokenizer.ggml.token_type", KVI_GGUF_KIND_I32, tokens->n, &v->types, error));
    return read_per_token(g, "tokenizer.ggml.scores", KVI_GGUF_KIND_F32, tokens->n, &v->scores, error);
}

static kvrt_status vocabulary_tokenizer(const kvi_gguf *g, kvi_tokenizer **out, kvrt_error *error)
{
    char model[64], pre[64];
    kvi_vocabulary v = {.model = model};
    KVI_TRY(read_name(g, "tokenizer.ggml.model", KVI_GGUF_REQUIRED, model, error));
    KVI_TRY(read_name(g, "tokenizer.ggml.pre", KVI_GGUF_OPTIONAL, pre, error));
    if (pre[0]) v.pre = pre;
    KVI_TRY(read_lists(g, &v, error));
    KVI_TRY(read_id(g, "tokenizer.ggml.bos_token_id", &v.bos_id, error));
    KVI_TRY(read_id(g, "tokenizer.ggml.eos_token_id", &v.eos_id, error));
    KVI_TRY(read_id(g, "tokenizer.ggml.unknown_token_id", &v.unk_id, error));
    KVI_TRY(read_choice(g, "tokenizer.ggml.add_bos_token", &v.add_bos, error));
    KVI_TRY(read_choice(g, "tokenizer.ggml.add_eos_token", &v.add_eos, error));
    KVI_TRY(read_choice(g, "tokenizer.ggml.add_space_prefix", &v.space_prefix, error));
    return kvi_tokenizer_from_vocabulary(&v, kvi_gguf_file(g, 0), out, error);
}

kvrt_status kvi_model_files_tokenizer(const kvi_model_files *files, kvi_tokenizer **out, kvrt_error *error)
{
    *out = NULL;
    return files->gguf ? vocabulary_tokenizer(files->gguf, out, error) : kvi_tokenizer_load(files->path, out, error);
}

/* ---------------------------------------------------------------------------------------------------- template --- */
/* The spelling of the token whose id stands under `key`; empty when there is none. */
static kvi_gguf_text spelling(const kvi_gguf *g, const char *key)
{
    const kvi_gguf_value *tokens;
    int64_t id;
    if (read_id(g, key, &id, NULL) < KVRT_OK || id < 0 ||
        kvi_gguf_array(g, "tokenizer.ggml.tokens", KVI_GGUF_KIND_STRING, KVI_GGUF_REQUIRED, &tokens, NULL) < KVRT_OK ||
        (uint64_t)id >= tokens->n)
        return (kvi_gguf_text){0};
    const uint8_t *at = tokens->at;
    kvi_gguf_text text = {0};
    for (int64_t i = 0; i <= id; i++) text = kvi_gguf_next_string(&at);
    return text;
}

static kvrt_status metadata_template(const kvi_gguf *g, kvi_chat_template **out, kvrt_error *error)
{
    static const char *const variables[] = {"bos_token", "eos_token", "unk_token", "pad_token"},
                             *const keys[] = {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                                              "tokenizer.ggml.unknown_token_id", "tokenizer.ggml.padding_token_id"};
    kvi_gguf_text usual = {0}, tool_use = {0};
    kvi_chat_source source = {0};
    kvi_chat_token_text tokens[4];
    KVI_TRY(kvi_gguf_string(g, "tokenizer.chat_template", KVI_GGUF_OPTIONAL, &usual, error));
    KVI_TRY(kvi_gguf_string(g, "tokenizer.chat_template.tool_use", KVI_GGUF_OPTIONAL, &tool_use, error));
    if (!usual.data)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "%s: no chat template (key tokenizer.chat_template): give plain text instead of messages",
                             kvi_gguf_file(g, 0));
    for (size_t i = 0; i < 4; i++) {
        const kvi_gguf_text text = spelling(g, keys[i]);
        if (text.data) tokens[source.n_tokens++] = (kvi_chat_token_text){variables[i], text.data, text.len};
    }
    source.text = usual.data, source.len = usual.len;
    source.tool_use = tool_use.data, source.tool_use_len = tool_use.len;
    source.tokens = tokens;
    return kvi_chat_template_from(&source, out, error);
}

kvrt_status kvi_model_files_template(const kvi_model_files *files, kvi_chat_template **out, kvrt_error *error)
{
    return files->gguf ? metadata_template(files->gguf, out, error)
                       : kvi_chat_template_load(files->path, NULL, out, error);
}
