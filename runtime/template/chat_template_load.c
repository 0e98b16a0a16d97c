/* chat_template_load.c - where a model folder keeps its chat templates and the names of its special tokens, as
 * transformers looks for them. Templates: chat_template.jinja and additional_chat_templates/NAME.jinja; without any of
 * these chat_template of chat_template.json or of tokenizer_config.json, a string or a list of named ones. Tokens:
 * tokenizer_config.json, and special_tokens_map.json over it when the former has no added_tokens_decoder. */
#include "../base/folder.h"
#include "../base/json.h"
#include "../base/os.h"
#include "chat_template_impl.h"

#include <stdio.h>
#include <string.h>

#define MAX_CONFIG ((uint64_t)64 << 20)
#define FOLDER "additional_chat_templates"

typedef struct named {
    char *name;
    kvi_buf source;
} named;

typedef struct found {
    const char *dir;
    named *items; // (n)
    size_t n, cap;
    kvrt_status status;
    kvrt_error *error;
} found;

/* KVRT_OK with data == NULL when the file is absent. */
static kvrt_status map_file(const char *dir, const char *name, kvi_map *map, kvrt_error *error)
{
    bool present;
    KVI_TRY(kvi_folder_map(dir, name, true, map, &present, error));
    if (map->len <= MAX_CONFIG) return KVRT_OK;
    kvi_os_unmap(map);
    memset(map, 0, sizeof *map);
    return kvi_error_set(error, KVRT_FORMAT, "%s: larger than %llu MiB", name, (unsigned long long)(MAX_CONFIG >> 20));
}

/* ---------------------------------------------------------------------------------------------------------- templates
 * --- */
static named *find(found *f, const char *name)
{
    for (size_t i = 0; i < f->n; i++)
        if (strcmp(f->items[i].name, name) == 0) return &f->items[i];
    return NULL;
}

/* A later template of the same name replaces an earlier one. */
static void keep(found *f, const char *name, const char *text, size_t len)
{
    named *item = find(f, name);
    if (!item) {
        char *copy = kvi_mem_strndup(name, strlen(name));
        if (!copy || !kvi_mem_grow((void **)&f->items, &f->cap, f->n + 1, sizeof *f->items)) {
            kvi_mem_free(copy);
            f->status = kvi_error_nomem(f->error, sizeof *f->items, "chat template");
            return;
        }
        item = &f->items[f->n++];
        *item = (named){.name = copy};
    }
    kvi_buf_clear(&item->source);
    kvi_buf_append(&item->source, text, len);
    if (item->source.failed) f->status = kvi_error_nomem(f->error, len, "chat template");
}

static void keep_file(found *f, const char *file, const char *name)
{
    kvi_map map;
    kvrt_status status = map_file(f->dir, file, &map, f->error);
    if (status < KVRT_OK) f->status = status;
    if (map.data) keep(f, name, (const char *)map.data, (size_t)map.len);
    kvi_os_unmap(&map);
}

static void keep_entry(const char *entry, void *user)
{
    char file[400], name[256];
    size_t len = strlen(entry);
    if (len < 7 || len >= sizeof name || strcmp(entry + len - 6, ".jinja") != 0) return;
    (void)snprintf(name, sizeof name, "%.*s", (int)(len - 6), entry);
    (void)snprintf(file, sizeof file, FOLDER "/%s", entry);
    keep_file(user, file, name);
}

/* {"name": ..., "template": ...}, in any order. */
static void read_named(kvi_json *r, found *f)
{
    kvi_buf name = {0}, text = {0};
    bool has_text = false;
    kvi_json_expect(r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(r)) {
        bool is_name = kvi_json_key_is(r, "name");
        if (!is_name && !kvi_json_key_is(r, "template")) {
            kvi_json_skip(r);
            continue;
        }
        kvi_buf_clear(is_name ? &name : &text);
        if (kvi_json_string(r)) kvi_json_str_copy(r, is_name ? &name : &text);
        has_text = has_text || !is_name;
    }
    if (!name.len || !has_text) kvi_json_set_error(r, "a chat template of the list needs a name and a template");
    kvi_buf_append_byte(&name, 0);
    if (!r->error && !name.failed) keep(f, name.data, text.len ? text.data : "", text.len);
    kvi_buf_free(&name);
    kvi_buf_free(&text);
}

static void read_template(kvi_json *r, found *f)
{
    kvi_buf text = {0};
    kvi_json_type type = kvi_json_peek(r);
    if (type == KVI_JSON_STRING && kvi_json_string(r)) {
        kvi_json_str_copy(r, &text);
        keep(f, "default", text.len ? text.data : "", text.len);
        kvi_buf_free(&text);
    } else if (type == KVI_JSON_ARRAY) {
        kvi_json_expect(r, KVI_JSON_ARRAY);
        while (kvi_json_next_item(r)) read_named(r, f);
    } else if (!kvi_json_null(r)) kvi_json_set_error(r, "chat_template is neither a string nor a list");
}

static void read_config(found *f, const char *file)
{
    kvi_map map;
    kvi_json r;
    f->status = map_file(f->dir, file, &map, f->error);
    if (f->status < KVRT_OK || !map.data) return;
    kvi_json_init(&r, (const char *)map.data, (size_t)map.len);
    kvi_json_expect(&r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(&r)) {
        if (kvi_json_key_is(&r, "chat_template")) read_template(&r, f);
        else kvi_json_skip(&r);
    }
    (void)kvi_json_end(&r);
    if (r.error) f->status = kvi_json_fail(&r, file, f->error);
    kvi_os_unmap(&map);
}

static kvrt_status find_templates(found *f)
{
    char folder[4096];
    keep_file(f, "chat_template.jinja", "default");
    if ((size_t)snprintf(folder, sizeof folder, "%s/" FOLDER, f->dir) < sizeof folder)
        kvi_os_list(folder, keep_entry, f);
    if (f->status >= KVRT_OK && !f->n) read_config(f, "chat_template.json");
    if (f->status >= KVRT_OK && !f->n) read_config(f, "tokenizer_config.json");
    return f->status;
}

/* ------------------------------------------------------------------------------------------------------ special tokens
 * --- */
static kvrt_status put_token(kvi_chat_template *t, const char *name, const char *text, size_t len, kvrt_error *error)
{
    bool put = kvi_chat_template_set_token(t, name, text, len);
    if (put && t->tool_use) put = kvi_chat_template_set_token(t->tool_use, name, text, len);
    return put ? KVRT_OK : kvi_error_nomem(error, len, "special tokens");
}

/* The value of key `name`: "<s>", {"content": "<s>", ...} or null; anything else (add_bos_token: true) is no token. */
static kvrt_status read_token(kvi_json *r, const char *name, kvi_chat_template *t, kvrt_error *error)
{
    kvi_buf text = {0};
    kvi_json_type type = kvi_json_peek(r);
    bool has = false, null = type == KVI_JSON_NULL;
    if (type == KVI_JSON_OBJECT) {
        kvi_json_expect(r, KVI_JSON_OBJECT);
        while (kvi_json_next_key(r)) {
            if (!kvi_json_key_is(r, "content") || kvi_json_peek(r) != KVI_JSON_STRING) kvi_json_skip(r);
            else if (kvi_json_string(r)) kvi_json_str_copy(r, &text), has = true;
        }
    } else if (type == KVI_JSON_STRING && kvi_json_string(r)) kvi_json_str_copy(r, &text), has = true;
    else kvi_json_skip(r);
    kvrt_status status = KVRT_OK;
    if (text.failed) status = kvi_error_nomem(error, text.len, "special tokens");
    else if (has || null) status = put_token(t, name, null ? NULL : text.len ? text.data : "", text.len, error);
    kvi_buf_free(&text);
    return status;
}

static bool is_table(const kvi_json *r)
{
    return kvi_json_str_is(r, "extra_special_tokens") || kvi_json_str_is(r, "model_specific_special_tokens");
}

/* The keys ..._token of an object, and those of the tables inside it, where any name will do. */
static kvrt_status read_tokens(kvi_json *r, bool table, kvi_chat_template *t, bool *has_decoder, kvrt_error *error)
{
    kvrt_status status = KVRT_OK;
    kvi_json_expect(r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(r) && status >= KVRT_OK) {
        kvi_buf name = {0};
        kvi_json_str_copy(r, &name);
        size_t len = name.len;
        kvi_buf_append_byte(&name, 0);
        bool token = !name.failed && (table || (len > 6 && strcmp(name.data + len - 6, "_token") == 0));
        if (!table && kvi_json_str_is(r, "added_tokens_decoder")) *has_decoder = true;
        if (token) status = read_token(r, name.data, t, error);
        else if (!table && is_table(r) && kvi_json_peek(r) == KVI_JSON_OBJECT)
            status = read_tokens(r, true, t, has_decoder, error);
        else kvi_json_skip(r);
        kvi_buf_free(&name);
    }
    return status;
}

static kvrt_status tokens_of(const char *dir, const char *file, kvi_chat_template *t, bool *has_decoder,
                             kvrt_error *error)
{
    kvi_map map;
    kvi_json r;
    KVI_TRY(map_file(dir, file, &map, error));
    if (!map.data) return KVRT_OK;
    kvi_json_init(&r, (const char *)map.data, (size_t)map.len);
    kvrt_status status = read_tokens(&r, false, t, has_decoder, error);
    if (status >= KVRT_OK) (void)kvi_json_end(&r);
    if (status >= KVRT_OK && r.error) status = kvi_json_fail(&r, file, error);
    kvi_os_unmap(&map);
    return status;
}

static kvrt_status find_tokens(const char *dir, kvi_chat_template *t, kvrt_error *error)
{
    bool has_decoder = false;
    KVI_TRY(tokens_of(dir, "tokenizer_config.json", t, &has_decoder, error));
    return has_decoder ? KVRT_OK : tokens_of(dir, "special_tokens_map.json", t, &has_decoder, error);
}

/* --------------------------------------------------------------------------------------------------------------- load
 * --- */
static kvrt_status missing(found *f, const char *which, kvrt_error *error)
{
    char names[300] = "";
    size_t used = 0;
    for (size_t i = 0; i < f->n && used + 1 < sizeof names; i++)
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%.60s", i ? ", " : "", f->items[i].name);
    if (!f->n)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "the model folder has no chat template (chat_template.jinja, or chat_template in "
                             "tokenizer_config.json): give plain text instead of messages");
    return kvi_error_set(error, KVRT_UNSUPPORTED, "the model folder has no chat template named %s, found %s", which,
                         names);
}

static kvrt_status parse_named(const named *item, kvi_chat_template **out, kvrt_error *error)
{
    char title[80] = "chat template";
    if (strcmp(item->name, "default") != 0) (void)snprintf(title, sizeof title, "chat template %.40s", item->name);
    return kvi_chat_template_parse(item->source.len ? item->source.data : "", item->source.len, title, out, error);
}

/* The default and, for chats with tools, tool_use. Without a default the template renders nothing but those. */
static kvrt_status parse_usual(found *f, kvi_chat_template **out, kvrt_error *error)
{
    const named *usual = find(f, "default"), *tool_use = find(f, "tool_use");
    kvrt_error why = {.size = sizeof why};
    if (!usual) (void)missing(f, "default", &why);
    if (!usual && !tool_use) return missing(f, "default", error);
    if (usual) KVI_TRY(parse_named(usual, out, error));
    else KVI_TRY(kvi_chat_template_parse("", 0, "chat template", out, error));
    kvrt_status status = tool_use ? parse_named(tool_use, &(*out)->tool_use, error) : KVRT_OK;
    if (status >= KVRT_OK && !usual) {
        (*out)->missing = kvi_mem_strndup(why.message, strlen(why.message));
        if (!(*out)->missing) status = kvi_error_nomem(error, sizeof why.message, "chat template");
    }
    return status;
}

kvrt_status kvi_chat_template_load(const char *dir, const char *which, kvi_chat_template **out, kvrt_error *error)
{
    found f = {.dir = dir, .error = error};
    kvi_chat_template *t = NULL;
    kvrt_status status = find_templates(&f);
    if (status >= KVRT_OK) {
        const named *item = which ? find(&f, which) : NULL;
        status = !which ? parse_usual(&f, &t, error) : item ? parse_named(item, &t, error) : missing(&f, which, error);
    }
    if (status >= KVRT_OK) status = find_tokens(dir, t, error);
    if (status >= KVRT_OK) *out = t;
    else kvi_chat_template_free(t);
    for (size_t i = 0; i < f.n; i++) {
        kvi_mem_free(f.items[i].name);
        kvi_buf_free(&f.items[i].source);
    }
    kvi_mem_free(f.items);
    return status;
}

static kvrt_status fill_from(const kvi_chat_source *source, kvi_chat_template *t, kvrt_error *error)
{
    if (source->tool_use)
        KVI_TRY(kvi_chat_template_parse(source->tool_use, source->tool_use_len, "chat template tool_use", &t->tool_use,
                                        error));
    for (size_t i = 0; i < source->n_tokens; i++)
        KVI_TRY(put_token(t, source->tokens[i].name, source->tokens[i].text, source->tokens[i].len, error));
    return KVRT_OK;
}

kvrt_status kvi_chat_template_from(const kvi_chat_source *source, kvi_chat_template **out, kvrt_error *error)
{
    *out = NULL;
    kvi_chat_template *t;
    KVI_TRY(kvi_chat_template_parse(source->text, source->len, "chat template", &t, error));
    const kvrt_status status = fill_from(source, t, error);
    if (status < KVRT_OK) kvi_chat_template_free(t);
    else *out = t;
    return status;
}
