/* chat_template_load.c - where a model folder keeps its chat template, in the order in which Hugging Face looks:
 * chat_template.jinja, chat_template.json, chat_template of tokenizer_config.json. The names of the BOS and EOS tokens
 * come from the last. */
#include "../base/folder.h"
#include "../base/json.h"
#include "chat_template_impl.h"

#include <stdio.h>
#include <string.h>

#define MAX_CONFIG ((uint64_t)64 << 20)

typedef struct found {
    kvi_buf source;
    bool has_source, has_named;
    char *bos, *eos;
    char names[200]; /* of named templates, for the message */
} found;

/* KVRT_OK with data == NULL when the file is absent. */
static kvrt_status map_file(const char *dir, const char *name, kvi_map *map, kvrt_error *error)
{
    bool found;
    KVI_TRY(kvi_folder_map(dir, name, true, map, &found, error));
    if (map->len <= MAX_CONFIG) return KVRT_OK;
    kvi_os_unmap(map);
    memset(map, 0, sizeof *map);
    return kvi_error_set(error, KVRT_FORMAT, "%s: larger than %llu MiB", name, (unsigned long long)(MAX_CONFIG >> 20));
}

static void note_name(found *f, const kvi_json *r)
{
    size_t used = strlen(f->names);
    (void)snprintf(f->names + used, sizeof f->names - used, "%s%.*s", used ? ", " : "",
                   (int)(r->str_len < 60 ? r->str_len : 60), r->str);
}

/* {"name": ..., "template": ...}, in any order. */
static void read_named(kvi_json *r, const char *which, found *f)
{
    bool mine = false;
    kvi_buf text = {0};
    kvi_json_expect(r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(r)) {
        if (kvi_json_key_is(r, "name") && kvi_json_string(r)) {
            mine = kvi_json_str_is(r, which);
            note_name(f, r);
        } else if (kvi_json_key_is(r, "template") && kvi_json_string(r)) {
            kvi_buf_clear(&text);
            kvi_json_str_copy(r, &text);
        } else kvi_json_skip(r);
    }
    f->has_named = true;
    if (mine && !f->has_source) {
        kvi_buf_free(&f->source);
        f->source = text;
        f->has_source = true;
    } else kvi_buf_free(&text);
}

static void read_template(kvi_json *r, const char *which, found *f)
{
    kvi_json_type type = kvi_json_peek(r);
    if (type == KVI_JSON_STRING && kvi_json_string(r)) {
        if (!f->has_source && strcmp(which, "default") == 0) {
            kvi_json_str_copy(r, &f->source);
            f->has_source = true;
        }
    } else if (type == KVI_JSON_ARRAY) {
        kvi_json_expect(r, KVI_JSON_ARRAY);
        while (kvi_json_next_item(r)) read_named(r, which, f);
    } else kvi_json_skip(r);
}

/* "<s>" or {"content": "<s>", ...} or null. */
static void read_token(kvi_json *r, char **out)
{
    kvi_buf text = {0};
    kvi_json_type type = kvi_json_peek(r);
    bool has = type == KVI_JSON_STRING;
    if (has && kvi_json_string(r)) kvi_json_str_copy(r, &text);
    else if (type == KVI_JSON_OBJECT) {
        kvi_json_expect(r, KVI_JSON_OBJECT);
        while (kvi_json_next_key(r)) {
            if (!kvi_json_key_is(r, "content") || kvi_json_peek(r) != KVI_JSON_STRING) kvi_json_skip(r);
            else if (kvi_json_string(r)) kvi_json_str_copy(r, &text), has = true;
        }
    } else kvi_json_skip(r);
    if (has && !*out) *out = kvi_mem_strndup(text.len ? text.data : "", text.len);
    kvi_buf_free(&text);
}

static kvrt_status read_json(const kvi_map *map, const char *name, const char *which, found *f, kvrt_error *error)
{
    kvi_json r;
    kvi_json_init(&r, (const char *)map->data, (size_t)map->len);
    kvi_json_expect(&r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(&r)) {
        if (kvi_json_key_is(&r, "chat_template")) read_template(&r, which, f);
        else if (kvi_json_key_is(&r, "bos_token")) read_token(&r, &f->bos);
        else if (kvi_json_key_is(&r, "eos_token")) read_token(&r, &f->eos);
        else kvi_json_skip(&r);
    }
    (void)kvi_json_end(&r);
    return r.error ? kvi_json_fail(&r, name, error) : KVRT_OK;
}

static kvrt_status find_template(const char *dir, const char *which, found *f, kvrt_error *error)
{
    static const char *const files[] = {"chat_template.json", "tokenizer_config.json"};
    kvi_map map;
    KVI_TRY(map_file(dir, "chat_template.jinja", &map, error));
    if (map.data && strcmp(which, "default") == 0) {
        kvi_buf_append(&f->source, map.data, (size_t)map.len);
        f->has_source = true;
    }
    kvi_os_unmap(&map);
    for (size_t i = 0; i < 2; i++) {
        KVI_TRY(map_file(dir, files[i], &map, error));
        kvrt_status status = map.data ? read_json(&map, files[i], which, f, error) : KVRT_OK;
        kvi_os_unmap(&map);
        KVI_TRY(status);
    }
    return f->source.failed ? kvi_error_nomem(error, f->source.len, "chat template") : KVRT_OK;
}

kvrt_status kvi_chat_template_load(const char *dir, const char *which, kvi_chat_template **out, kvrt_error *error)
{
    found f = {.source = {0}};
    char name[64];
    (void)snprintf(name, sizeof name, "chat template%s%.40s", which ? " " : "", which ? which : "");
    kvrt_status status = find_template(dir, which ? which : "default", &f, error);
    if (status >= KVRT_OK && !f.has_source && f.has_named)
        status = kvi_error_set(error, KVRT_UNSUPPORTED, "tokenizer_config.json: no chat template named %s, found %s",
                               which ? which : "default", f.names);
    else if (status >= KVRT_OK && !f.has_source)
        status = kvi_error_set(error, KVRT_UNSUPPORTED,
                               "the model folder has no chat template (chat_template.jinja, or chat_template in "
                               "tokenizer_config.json): give plain text instead of messages");
    if (status >= KVRT_OK)
        status = kvi_chat_template_parse(f.source.len ? f.source.data : "", f.source.len, name, out, error);
    if (status >= KVRT_OK) {
        (*out)->bos = f.bos;
        (*out)->eos = f.eos;
        f.bos = f.eos = NULL;
    }
    kvi_mem_free(f.bos);
    kvi_mem_free(f.eos);
    kvi_buf_free(&f.source);
    return status;
}
