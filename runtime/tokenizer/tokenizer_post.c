/* tokenizer_post.c - the post-processor of tokenizer.json, reduced to what it means for one text: ids before and ids
 * after. Owns: TemplateProcessing ("single"), Bert- and RobertaProcessing, ByteLevel (offsets only, so nothing),
 * Sequence. */
#include "tokenizer_impl.h"

#include <string.h>

typedef struct post {
    kvi_tokenizer *tok;
    kvi_json *r;
    kvrt_error *error;
    kvi_ids before, after;
} post;

static kvrt_status malformed(post *p, const kvi_json *r) { return kvi_json_fail(r, p->tok->name, p->error); }
static kvrt_status no_memory(post *p) { return kvi_error_nomem(p->error, 0, "tokenizer"); }

static kvrt_status refuse(post *p, const char *what)
{
    return kvi_error_set(p->error, KVRT_UNSUPPORTED, "%s: post_processor: %s is not supported", p->tok->name, what);
}

/* Appends the ids of special token `name` as the map "special_tokens" (at `map`) gives them. */
static kvrt_status template_ids(post *p, kvi_json map, const kvi_json *name, kvi_ids *out)
{
    kvi_buf wanted = {0}, key = {0};
    kvi_json_str_copy(name, &wanted);
    bool found = false, failed = wanted.failed;
    kvi_json_expect(&map, KVI_JSON_OBJECT);
    while (!failed && kvi_json_next_key(&map)) {
        kvi_buf_clear(&key);
        kvi_json_str_copy(&map, &key);
        failed |= key.failed;
        bool match = key.len == wanted.len && (key.len == 0 || memcmp(key.data, wanted.data, key.len) == 0);
        if (!match || found) {
            kvi_json_skip(&map);
            continue;
        }
        found = true;
        kvi_json_expect(&map, KVI_JSON_OBJECT);
        while (kvi_json_next_key(&map)) {
            if (!kvi_json_key_is(&map, "ids")) {
                kvi_json_skip(&map);
                continue;
            }
            kvi_json_expect(&map, KVI_JSON_ARRAY);
            while (kvi_json_next_item(&map)) {
                int64_t id = kvi_json_i64(&map);
                if (id < 0 || id >= p->tok->n_ids)
                    kvi_json_set_error(&map, "id of a special token outside the vocabulary");
                else failed |= !kvi_ids_push(out, (int32_t)id);
            }
        }
    }
    kvi_buf_free(&key);
    kvi_buf_free(&wanted);
    if (failed) return no_memory(p);
    if (map.error) return malformed(p, &map);
    return found ? KVRT_OK : refuse(p, "a template token that is not among its special_tokens");
}

/* One item of "single": {"SpecialToken": {"id": ..}} or {"Sequence": {"id": "A"}}. */
static kvrt_status template_item(post *p, kvi_json *r, const kvi_json *map, bool *seen_text, kvi_ids *before,
                                 kvi_ids *after)
{
    kvi_json_expect(r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(r)) {
        bool special = kvi_json_key_is(r, "SpecialToken");
        if (!special && !kvi_json_key_is(r, "Sequence")) return refuse(p, "this kind of template item");
        kvi_json_expect(r, KVI_JSON_OBJECT);
        while (kvi_json_next_key(r)) {
            if (!kvi_json_key_is(r, "id")) {
                kvi_json_skip(r);
                continue;
            }
            if (!kvi_json_string(r)) return malformed(p, r);
            if (special) {
                KVI_TRY(template_ids(p, *map, r, *seen_text ? after : before));
            } else {
                if (*seen_text || !kvi_json_str_is(r, "A"))
                    return refuse(p, "a template that is not one text with tokens around it");
                *seen_text = true;
            }
        }
    }
    return r->error ? malformed(p, r) : KVRT_OK;
}

/* Puts new ids around the ones that earlier processors put. */
static bool wrap(post *p, kvi_ids *before, kvi_ids *after)
{
    bool ok = true;
    for (size_t i = 0; i < p->before.len; i++) ok = ok && kvi_ids_push(before, p->before.data[i]);
    for (size_t i = 0; i < after->len; i++) ok = ok && kvi_ids_push(&p->after, after->data[i]);
    kvi_ids_free(&p->before);
    p->before = *before;
    *before = (kvi_ids){0};
    return ok;
}

static kvrt_status template(post *p)
{
    kvi_json *r = p->r, single = {0}, map = {0};
    kvi_json_init(&map, "{}", 2);
    kvi_json_expect(r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(r)) {
        if (kvi_json_key_is(r, "single")) single = *r;
        else if (kvi_json_key_is(r, "special_tokens")) map = *r;
        kvi_json_skip(r);
    }
    if (r->error) return malformed(p, r);
    if (!single.text || kvi_json_peek(&single) != KVI_JSON_ARRAY)
        return refuse(p, "a template without a list \"single\"");
    kvi_ids before = {0}, after = {0};
    bool seen_text = false;
    kvrt_status status = KVRT_OK;
    kvi_json_expect(&single, KVI_JSON_ARRAY);
    while (status == KVRT_OK && kvi_json_next_item(&single))
        status = template_item(p, &single, &map, &seen_text, &before, &after);
    if (status == KVRT_OK && single.error) status = malformed(p, &single);
    if (status == KVRT_OK && !seen_text) status = refuse(p, "a template without the text");
    if (status == KVRT_OK && !wrap(p, &before, &after)) status = no_memory(p);
    kvi_ids_free(&before);
    kvi_ids_free(&after);
    return status;
}

/* Bert and Roberta: "cls": [text, id], "sep": [text, id]. */
static kvrt_status cls_sep(post *p)
{
    kvi_json *r = p->r;
    int64_t cls = -1, sep = -1;
    kvi_json_expect(r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(r)) {
        bool is_cls = kvi_json_key_is(r, "cls");
        if (!is_cls && !kvi_json_key_is(r, "sep")) {
            kvi_json_skip(r);
            continue;
        }
        int64_t id = -1;
        kvi_json_expect(r, KVI_JSON_ARRAY);
        if (kvi_json_next_item(r)) kvi_json_skip(r);
        if (kvi_json_next_item(r)) id = kvi_json_i64(r);
        while (kvi_json_next_item(r)) kvi_json_skip(r);
        *(is_cls ? &cls : &sep) = id;
    }
    if (r->error) return malformed(p, r);
    if (cls < 0 || sep < 0 || cls >= p->tok->n_ids || sep >= p->tok->n_ids)
        return refuse(p, "cls or sep outside the vocabulary");
    kvi_ids before = {0}, after = {0};
    bool ok = kvi_ids_push(&before, (int32_t)cls) && kvi_ids_push(&after, (int32_t)sep) && wrap(p, &before, &after);
    kvi_ids_free(&before);
    kvi_ids_free(&after);
    return ok ? KVRT_OK : no_memory(p);
}

static kvrt_status process(post *p)
{
    kvi_json ahead = *p->r, list = {0};
    enum { NONE, TEMPLATE, CLS_SEP, BYTE_LEVEL, SEQUENCE, OTHER } kind = NONE;
    kvi_json_expect(&ahead, KVI_JSON_OBJECT);
    while (kvi_json_next_key(&ahead)) {
        if (kvi_json_key_is(&ahead, "type") && kvi_json_peek(&ahead) == KVI_JSON_STRING) {
            kvi_json_string(&ahead);
            kind = kvi_json_str_is(&ahead, "TemplateProcessing") ? TEMPLATE
                   : kvi_json_str_is(&ahead, "Sequence")         ? SEQUENCE
                   : kvi_json_str_is(&ahead, "ByteLevel")        ? BYTE_LEVEL
                   : kvi_json_str_is(&ahead, "RobertaProcessing") || kvi_json_str_is(&ahead, "BertProcessing") ? CLS_SEP
                                                                                                               : OTHER;
            if (kind == OTHER)
                return kvi_error_set(p->error, KVRT_UNSUPPORTED, "%s: post_processor %.*s is not supported",
                                     p->tok->name, (int)(ahead.str_len > 60 ? 60 : ahead.str_len), ahead.str);
            continue;
        }
        if (kvi_json_key_is(&ahead, "processors")) list = ahead;
        kvi_json_skip(&ahead);
    }
    if (ahead.error) return malformed(p, &ahead);
    if (kind == NONE) return refuse(p, "one without \"type\"");
    if (kind == TEMPLATE) return template(p);
    if (kind == CLS_SEP) return cls_sep(p);
    *p->r = ahead;
    if (kind == BYTE_LEVEL || !list.text) return KVRT_OK;
    kvi_json_expect(&list, KVI_JSON_ARRAY);
    while (kvi_json_next_item(&list)) {
        p->r = &list;
        KVI_TRY(process(p));
    }
    return list.error ? malformed(p, &list) : KVRT_OK;
}

static kvrt_status keep(post *p, const kvi_ids *ids, int32_t **out, size_t *n)
{
    *n = ids->len;
    *out = kvi_arena_alloc(&p->tok->arena, ids->len * sizeof **out + 1);
    if (!*out) return no_memory(p);
    if (ids->len) memcpy(*out, ids->data, ids->len * sizeof **out);
    return KVRT_OK;
}

kvrt_status kvi_load_post_processor(kvi_tokenizer *tok, kvi_json *r, kvrt_error *error)
{
    if (kvi_json_null(r)) return KVRT_OK;
    post p = {.tok = tok, .r = r, .error = error};
    kvrt_status status = process(&p);
    if (status == KVRT_OK) status = keep(&p, &p.before, &tok->prefix, &tok->n_prefix);
    if (status == KVRT_OK) status = keep(&p, &p.after, &tok->suffix, &tok->n_suffix);
    kvi_ids_free(&p.before);
    kvi_ids_free(&p.after);
    return status;
}
