/* chat_cases.c - see chat_cases.h. */
#include "chat_cases.h"
#include "runtime/base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIXED_NOW 1752148800 /* 2025-07-10 12:00:00 */

char *chat_read_file(const char *path, size_t *len)
{
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    char *data = NULL;
    size_t n = 0, got;
    do {
        data = realloc(data, n + 65537);
        got = data ? fread(data + n, 1, 65536, f) : 0;
        n += got;
    } while (got == 65536);
    fclose(f);
    data[n] = 0;
    *len = n;
    return data;
}

static chat_slice value_at(kvi_json *r)
{
    (void)kvi_json_peek(r); /* moves over white space */
    size_t start = r->pos;
    kvi_json_skip(r);
    while (start < r->pos &&
           (r->text[start] == ' ' || r->text[start] == '\n' || r->text[start] == ':' || r->text[start] == ','))
        start++;
    return (chat_slice){r->text + start, r->pos - start};
}

chat_slice chat_member(chat_slice json, const char *key)
{
    kvi_json r;
    kvi_json_init(&r, json.text, json.len);
    kvi_json_expect(&r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(&r)) {
        bool mine = kvi_json_key_is(&r, key);
        chat_slice value = value_at(&r);
        if (mine) return value;
    }
    return (chat_slice){NULL, 0};
}

char *chat_string(chat_slice json, size_t *len)
{
    kvi_json r;
    if (!json.len || json.text[0] != '"') return NULL;
    kvi_json_init(&r, json.text, json.len);
    if (!kvi_json_string(&r)) return NULL;
    char *out = malloc(r.str_len + 1);
    *len = kvi_json_str_unescape(&r, out);
    out[*len] = 0;
    return out;
}

void chat_each(chat_slice array, void (*fn)(chat_slice item, void *user), void *user)
{
    kvi_json r;
    kvi_json_init(&r, array.text, array.len);
    kvi_json_expect(&r, KVI_JSON_ARRAY);
    while (kvi_json_next_item(&r)) fn(value_at(&r), user);
}

void chat_items(chat_slice array, chat_slice *out, size_t n)
{
    kvi_json r;
    kvi_json_init(&r, array.text, array.len);
    kvi_json_expect(&r, KVI_JSON_ARRAY);
    for (size_t i = 0; kvi_json_next_item(&r); i++) {
        chat_slice value = value_at(&r);
        if (i < n) out[i] = value;
    }
}

kvrt_status chat_render(kvi_chat_template *t, chat_slice context, kvi_chat_text *out, kvrt_error *error)
{
    chat_slice messages = chat_member(context, "messages"), tools = chat_member(context, "tools");
    chat_slice generation = chat_member(context, "add_generation_prompt");
    kvi_chat_input input = {.messages = messages.len ? messages.text : "[]",
                            .messages_len = messages.len ? messages.len : 2,
                            .tools = tools.text,
                            .tools_len = tools.len,
                            .now = FIXED_NOW,
                            .absent_is_undefined = true,
                            .add_generation_prompt = generation.len == 4};
    /* The rest of the context becomes variables. */
    kvi_buf extra = {0};
    kvi_json r;
    kvi_json_init(&r, context.text, context.len);
    kvi_json_expect(&r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(&r)) {
        bool known = kvi_json_key_is(&r, "messages") || kvi_json_key_is(&r, "tools") ||
                     kvi_json_key_is(&r, "add_generation_prompt");
        const char *key = r.str;
        size_t key_len = r.str_len;
        chat_slice value = value_at(&r);
        if (known) continue;
        kvi_buf_append_str(&extra, extra.len ? "," : "{");
        kvi_buf_append_byte(&extra, '"');
        kvi_buf_append(&extra, key, key_len);
        kvi_buf_append_str(&extra, "\":");
        kvi_buf_append(&extra, value.text, value.len);
    }
    kvi_buf_append_str(&extra, extra.len ? "}" : "{}");
    input.extra = extra.data;
    input.extra_len = extra.len;
    if (!t->n_tokens) {
        (void)kvi_chat_template_set_token(t, "bos_token", "<s>", 3);
        (void)kvi_chat_template_set_token(t, "eos_token", "</s>", 4);
    }
    kvrt_status status = kvi_chat_template_render(t, &input, out, error);
    kvi_buf_free(&extra);
    return status;
}
