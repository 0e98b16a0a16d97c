/* serve_prompt.c - from requests to tokens: text by the tokenizer, messages by the model folder's chat template. Messages are handed
 * on as they came but for what a client must not say (allow_special) and what templates do not know (the role "developer"). */
#define _DEFAULT_SOURCE
#define _POSIX_C_SOURCE 200809L
#include "serve.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

int32_t serve_tokenize(serve_server *s, const char *text, size_t len, uint32_t flags, int32_t **ids, size_t *n,
                       kvrt_error *error)
{
    uint64_t cap = len / 2 + 16, needed = 0;
    for (;;) {
        *ids = malloc(cap * sizeof **ids);
        if (!*ids) return KVRT_NOMEM_HOST;
        const int32_t status = kvrt_tokenize(s->engine, text, (int64_t)len, flags, *ids, cap, &needed, error);
        if (status == KVRT_OK) return *n = needed, status;
        free(*ids);
        *ids = NULL;
        if (status != KVRT_PARTIAL) return status;
        cap = needed;
    }
}

/* `text` may be NULL. */
int32_t serve_render(serve_server *s, const serve_prompt *prompt, uint64_t from, int32_t **ids, size_t *n,
                     serve_text *text, kvrt_error *error)
{
    const kvrt_chat_input input = {.size = sizeof input,
                                   .add_generation_prompt = 1,
                                   .messages = prompt->messages.data,
                                   .messages_len = (int64_t)prompt->messages.len,
                                   .tools = prompt->tools.len ? prompt->tools.data : NULL,
                                   .tools_len = (int64_t)prompt->tools.len,
                                   .variables = prompt->variables.len ? prompt->variables.data : NULL,
                                   .variables_len = (int64_t)prompt->variables.len,
                                   .local_time = prompt->local_time,
                                   .text_from = from};
    uint64_t cap = prompt->messages.len / 2 + 256, text_cap = text ? prompt->messages.len * 2 + 1024 : 0;
    for (;;) {
        uint64_t needed = 0, text_needed = 0;
        *ids = malloc(cap * sizeof **ids);
        char *spelled = text_cap ? malloc(text_cap) : NULL;
        int32_t status = *ids && (spelled || !text_cap) ? KVRT_OK : KVRT_NOMEM_HOST;
        if (status >= 0)
            status = kvrt_chat_render(s->engine, &input, *ids, cap, &needed, spelled, text_cap, &text_needed, error);
        const bool fits = needed <= cap && (!text || text_needed <= text_cap);
        if (status >= 0 && fits) {
            if (text) serve_put(text, spelled, text_needed);
            free(spelled);
            return *n = needed, text && text->failed ? KVRT_NOMEM_HOST : KVRT_OK;
        }
        free(spelled);
        free(*ids);
        *ids = NULL;
        if (status < 0) return status;
        cap = needed > cap ? needed : cap;
        text_cap = text && text_needed > text_cap ? text_needed : text_cap;
    }
}

static bool take_text(serve_call *call, const char *name, const serve_node *node, serve_prompt *prompt)
{
    kvrt_error error = {.size = sizeof error};
    serve_text text = {0};
    serve_json_string(&call->json, node, &text);
    int32_t status = text.failed ? KVRT_NOMEM_HOST : KVRT_OK;
    if (status >= 0)
        status = serve_tokenize(call->server, text.data, text.len, KVRT_TOKENIZE_ADD_SPECIAL, &prompt->ids, &prompt->n,
                                &error);
    serve_text_free(&text);
    return status >= 0 || serve_fail_kvrt(call, status, name, &error);
}

static bool take_ids(serve_call *call, const char *name, const serve_node *first, serve_prompt *prompt)
{
    const serve_json *j = &call->json;
    size_t n = 0;
    for (const serve_node *at = first; at; at = serve_json_next(j, at)) n++;
    prompt->ids = malloc(n * sizeof *prompt->ids);
    if (!prompt->ids) return serve_fail(call, 500, NULL, "out of memory");
    for (const serve_node *at = first; at; at = serve_json_next(j, at)) {
        int64_t id;
        if (!serve_json_i64(j, at, &id) || id < 0 || id >= (int64_t)call->server->info.vocab_size)
            return serve_fail(call, 400, name, "%s: need ids below %u", name, call->server->info.vocab_size);
        prompt->ids[prompt->n++] = (int32_t)id;
    }
    return true;
}

bool serve_prompts(serve_call *call, const char *name, unsigned most, const char *why)
{
    const serve_json *j = &call->json;
    const serve_node *prompt = serve_json_get(j, call->body, name), *first = serve_json_child(j, prompt);
    const bool is_text = prompt && prompt->type == SERVE_STRING, is_ids = first && first->type == SERVE_NUMBER;
    if (!is_text && !(prompt && prompt->type == SERVE_ARRAY && first))
        return serve_fail(call, 400, name, "%s: need a string or an array, found %s", name,
                          prompt && prompt->type == SERVE_ARRAY ? "an empty one" : serve_json_type_name(prompt));
    size_t n = is_text || is_ids ? 1 : 0;
    for (const serve_node *at = first; at && !is_ids; at = serve_json_next(j, at)) n++;
    if (n > most) return serve_fail(call, 400, name, "%s: found %zu, %s %u at once", name, n, why, most);
    call->prompts = calloc(n, sizeof *call->prompts);
    if (!call->prompts) return serve_fail(call, 500, NULL, "out of memory");
    call->n_prompts = (unsigned)n;
    if (is_text) return take_text(call, name, prompt, call->prompts);
    if (is_ids) return take_ids(call, name, first, call->prompts);
    size_t i = 0;
    for (const serve_node *at = first; at; at = serve_json_next(j, at), i++) {
        const bool ok = at->type == SERVE_STRING ? take_text(call, name, at, &call->prompts[i])
                        : at->type == SERVE_ARRAY
                            ? take_ids(call, name, serve_json_child(j, at), &call->prompts[i])
                            : serve_fail(call, 400, name, "%s: need strings or arrays of ids", name);
        if (!ok) return false;
    }
    return true;
}

void serve_prompt_free(serve_prompt *p)
{
    free(p->ids);
    serve_text_free(&p->text);
    serve_text_free(&p->messages);
    serve_text_free(&p->variables);
    serve_text_free(&p->tools);
}

static void put_raw(const serve_json *j, const serve_node *node, serve_text *out)
{
    serve_put(out, j->text + node->start, node->len);
}

static void put_key(const serve_json *j, const serve_node *node, serve_text *out)
{
    serve_put(out, "\"", 1);
    serve_put(out, j->text + node->key_start, node->key_len);
    serve_put(out, "\":", 2);
}

/* Parts of text: {"type": "text", "text": "..."}; the library refuses other types by name. */
static bool are_parts(serve_call *call, const serve_node *content)
{
    const serve_json *j = &call->json;
    for (const serve_node *p = serve_json_child(j, content); p; p = serve_json_next(j, p)) {
        if (!serve_is_item(call, p, "messages: content") ||
            !serve_param_is(call, p, "text", SERVE_STRING, "messages: content"))
            return false;
        if (!serve_json_get(j, p, "type"))
            return serve_fail(call, 400, "messages", "messages: content: a part without a type");
    }
    return true;
}

static bool put_message(serve_call *call, const serve_node *message, serve_text *out)
{
    const serve_json *j = &call->json;
    if (message->type != SERVE_OBJECT)
        return serve_fail(call, 400, "messages", "messages: need objects, found %s", serve_json_type_name(message));
    const serve_node *role = serve_json_get(j, message, "role");
    if (!role || role->type != SERVE_STRING)
        return serve_fail(call, 400, "messages", "messages: a message without a role");
    static const char *const strings[] = {"name", "tool_call_id", "reasoning_content"};
    for (size_t i = 0; i < sizeof strings / sizeof strings[0]; i++)
        if (!serve_param_is(call, message, strings[i], SERVE_STRING, "messages")) return false;
    const serve_node *content = serve_json_get(j, message, "content");
    if (!serve_param_is(call, message, "tool_calls", SERVE_ARRAY, "messages") ||
        (content && content->type == SERVE_ARRAY && !are_parts(call, content)))
        return false;
    serve_put(out, "{", 1);
    const char *between = "";
    for (const serve_node *m = serve_json_child(j, message); m; m = serve_json_next(j, m)) {
        if (serve_json_key_is(j, m, "allow_special")) continue;
        if (serve_json_key_is(j, m, "content") && m->type == SERVE_NULL) continue; /* an assistant that called tools */
        serve_puts(out, between);
        between = ",";
        put_key(j, m, out);
        if (serve_json_key_is(j, m, "role") && serve_json_is(j, m, "developer")) serve_puts(out, "\"system\"");
        else if (serve_json_key_is(j, m, "tool_calls") && m->type == SERVE_ARRAY) {
            if (!serve_put_calls(call, m, out)) return false;
        } else put_raw(j, m, out);
    }
    if (!content) { /* templates add it to other text */
        serve_puts(out, between);
        serve_puts(out, "\"content\":\"\"");
    }
    serve_put(out, "}", 1);
    return true;
}

bool serve_messages(serve_call *call, const serve_node *messages, serve_text *out)
{
    const serve_json *j = &call->json;
    if (!messages || messages->type != SERVE_ARRAY)
        return serve_fail(call, 400, "messages", "messages: need an array, found %s", serve_json_type_name(messages));
    if (!messages->child) return serve_fail(call, 400, "messages", "messages: need at least one");
    for (const serve_node *m = serve_json_child(j, messages); m; m = serve_json_next(j, m)) {
        if (out->len) serve_put(out, ",", 1);
        if (!put_message(call, m, out)) return false;
    }
    return true;
}

bool serve_chat_prompt(serve_call *call, serve_prompt *prompt)
{
    kvrt_error error = {.size = sizeof error};
    const time_t now = time(NULL);
    struct tm tm;
    localtime_r(&now, &tm);
    prompt->local_time = (int64_t)now + tm.tm_gmtoff;
    if (prompt->messages.failed || prompt->variables.failed) return serve_fail(call, 500, NULL, "out of memory");
    const int32_t status = serve_render(call->server, prompt, 0, &prompt->ids, &prompt->n, &prompt->text, &error);
    if (status >= 0) return true;
    return serve_fail_kvrt(call, status, "messages", &error);
}
