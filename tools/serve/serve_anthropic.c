/* serve_anthropic.c - the shape of /v1/messages, and of its count_tokens. Blocks become the messages that chat templates know: thinking is
 * reasoning_content, tool_use and tool_result are calls and answers of tools. Members that nobody here knows are ignored, as clients of this
 * API expect. */
#include "serve.h"

#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------------ requests --- */
static bool put_text_of(serve_call *call, const serve_node *block, const char *member, const char *where,
                        serve_text *out)
{
    const serve_node *text = serve_json_get(&call->json, block, member);
    if (!text) return serve_fail(call, 400, where, "%s: a block without %s", where, member);
    serve_json_string(&call->json, text, out);
    return serve_param_is(call, block, member, SERVE_STRING, where);
}

/* A string, or blocks of text: their text, appended. False: something else is in it. */
static bool put_content_text(serve_call *call, const serve_node *content, const char *where, serve_text *out)
{
    const serve_json *j = &call->json;
    if (!content) return true;
    if (content->type == SERVE_STRING) return serve_json_string(j, content, out), true;
    if (content->type != SERVE_ARRAY)
        return serve_fail(call, 400, where, "%s: need a string or an array, found %s", where,
                          serve_json_type_name(content));
    for (const serve_node *b = serve_json_child(j, content); b; b = serve_json_next(j, b)) {
        if (!serve_json_is(j, serve_json_get(j, b, "type"), "text")) return serve_fail_type(call, where, "blocks", b);
        if (!put_text_of(call, b, "text", where, out)) return false;
    }
    return true;
}

static void put_message(serve_text *out, const char *role, const serve_text *content)
{
    if (out->len) serve_puts(out, ",");
    serve_puts(out, "{\"role\":");
    serve_put_json_str(out, role);
    serve_puts(out, ",\"content\":");
    serve_put_json(out, content->data ? content->data : "", content->len);
}

/* What the blocks of one message come to. */
typedef struct gathered {
    serve_text text, thinking, calls; /* calls: objects, with commas */
    serve_text results;               /* messages of role "tool", with commas */
} gathered;

static bool put_call(serve_call *call, const serve_node *block, serve_text *out)
{
    const serve_json *j = &call->json;
    const serve_node *id = serve_json_get(j, block, "id");
    if (!serve_param_is(call, block, "id", SERVE_STRING, "messages: tool_use") ||
        !serve_param_is(call, block, "input", SERVE_OBJECT, "messages: tool_use"))
        return false;
    serve_puts(out, out->len ? ",{\"type\":\"function\",\"id\":" : "{\"type\":\"function\",\"id\":");
    if (id) serve_put(out, j->text + id->start, id->len);
    else serve_puts(out, "\"\"");
    serve_puts(out, ",\"function\":");
    const bool ok = serve_put_function(call, block, "input", "messages: tool_use", out);
    serve_puts(out, "}");
    return ok;
}

static bool put_result(serve_call *call, const serve_node *block, serve_text *out)
{
    const serve_json *j = &call->json;
    const serve_node *id = serve_json_get(j, block, "tool_use_id");
    serve_text text = {0};
    const bool ok = serve_param_is(call, block, "tool_use_id", SERVE_STRING, "tool_result") &&
                    put_content_text(call, serve_json_get(j, block, "content"), "tool_result", &text);
    put_message(out, "tool", &text);
    if (id) {
        serve_puts(out, ",\"tool_call_id\":");
        serve_put(out, j->text + id->start, id->len);
    }
    serve_puts(out, "}");
    if (text.failed) out->failed = true;
    serve_text_free(&text);
    return ok;
}

static bool gather(serve_call *call, const serve_node *content, gathered *g)
{
    const serve_json *j = &call->json;
    if (!content) return serve_fail(call, 400, "messages", "messages: a message without content");
    if (content->type == SERVE_STRING) return serve_json_string(j, content, &g->text), true;
    if (content->type != SERVE_ARRAY)
        return serve_fail(call, 400, "messages", "messages: content: need a string or an array, found %s",
                          serve_json_type_name(content));
    for (const serve_node *b = serve_json_child(j, content); b; b = serve_json_next(j, b)) {
        const serve_node *type = serve_json_get(j, b, "type");
        bool ok = true;
        if (serve_json_is(j, type, "text")) ok = put_text_of(call, b, "text", "messages", &g->text);
        else if (serve_json_is(j, type, "thinking")) ok = put_text_of(call, b, "thinking", "messages", &g->thinking);
        else if (serve_json_is(j, type, "redacted_thinking")) continue;
        else if (serve_json_is(j, type, "tool_use")) ok = put_call(call, b, &g->calls);
        else if (serve_json_is(j, type, "tool_result")) ok = put_result(call, b, &g->results);
        else return serve_fail_type(call, "messages", "blocks", b);
        if (!ok) return false;
    }
    return true;
}

static bool add_message(serve_call *call, const serve_node *message, serve_text *out)
{
    const serve_json *j = &call->json;
    const serve_node *role = serve_json_get(j, message, "role");
    const bool is_user = serve_json_is(j, role, "user"), is_system = serve_json_is(j, role, "system");
    if (!is_user && !is_system && !serve_json_is(j, role, "assistant"))
        return serve_fail(call, 400, "messages", "messages: role: need user, assistant or system");
    gathered g = {0};
    const bool ok = gather(call, serve_json_get(j, message, "content"), &g);
    if (g.results.len) { /* what tools said comes before what the user adds */
        if (out->len) serve_puts(out, ",");
        serve_put(out, g.results.data, g.results.len);
    }
    if (g.text.len || !g.results.len) {
        put_message(out, is_user ? "user" : is_system ? "system" : "assistant", &g.text);
        if (g.thinking.len) {
            serve_puts(out, ",\"reasoning_content\":");
            serve_put_json(out, g.thinking.data, g.thinking.len);
        }
        if (g.calls.len) {
            serve_puts(out, ",\"tool_calls\":[");
            serve_put(out, g.calls.data, g.calls.len);
            serve_puts(out, "]");
        }
        serve_puts(out, "}");
    }
    if (g.text.failed || g.thinking.failed || g.calls.failed || g.results.failed) out->failed = true;
    serve_text_free(&g.text);
    serve_text_free(&g.thinking);
    serve_text_free(&g.calls);
    serve_text_free(&g.results);
    return ok;
}

static bool put_messages(serve_call *call, serve_text *out)
{
    const serve_json *j = &call->json;
    const serve_node *system = serve_json_get(j, call->body, "system"),
                     *messages = serve_json_get(j, call->body, "messages");
    serve_text items = {0}, text = {0};
    bool ok = put_content_text(call, system, "system", &text);
    if (text.len) {
        put_message(&items, "system", &text);
        serve_puts(&items, "}");
    }
    if (ok && (!messages || messages->type != SERVE_ARRAY || !messages->child))
        ok = serve_fail(call, 400, "messages", "messages: need an array of at least one message");
    for (const serve_node *m = ok ? serve_json_child(j, messages) : NULL; m && ok; m = serve_json_next(j, m)) {
        ok = add_message(call, m, &items);
        if (ok && !m->next && !call->counts && serve_json_is(j, serve_json_get(j, m, "role"), "assistant"))
            ok = serve_fail(call, 400, "messages", "messages: an answer that is begun for the model is not supported");
    }
    serve_puts(out, "[");
    if (items.len) serve_put(out, items.data, items.len);
    serve_puts(out, "]");
    if (items.failed || text.failed) out->failed = true;
    serve_text_free(&items);
    serve_text_free(&text);
    return ok;
}

static bool parse(serve_call *call)
{
    static const char *const refused[] = {"mcp_servers", "container", NULL};
    const serve_json *j = &call->json;
    const serve_node *thinking = serve_json_get(j, call->body, "thinking");
    if (!serve_params(call, NULL) || !serve_param_stops(call, "stop_sequences") || !serve_refuse(call, refused))
        return false;
    if (!call->counts && !kvrt_options_is_set(call->options, "gen.max_tokens"))
        return serve_fail(call, 400, "max_tokens", "max_tokens: need a number");
    if (!serve_param_is(call, call->body, "thinking", SERVE_OBJECT, "thinking") ||
        !serve_param_is(call, thinking, "type", SERVE_STRING, "thinking") ||
        !serve_param_is(call, call->body, "output_config", SERVE_OBJECT, "output_config"))
        return false;
    call->prompts = calloc(1, sizeof *call->prompts);
    if (!call->prompts) return serve_fail(call, 500, NULL, "out of memory");
    call->n_prompts = 1;
    const serve_node *format = serve_json_get(j, call->body, "output_format");
    if (!format) format = serve_json_get(j, serve_json_get(j, call->body, "output_config"), "format");
    if (!serve_format(call, format, "output_format") || !serve_tools(call, call->prompts, SERVE_TOOLS_ANTHROPIC))
        return false;
    if (thinking)
        serve_puts(&call->prompts->variables, serve_json_is(j, serve_json_get(j, thinking, "type"), "disabled")
                                                  ? "{\"enable_thinking\":false}"
                                                  : "{\"enable_thinking\":true}");
    return put_messages(call, &call->prompts->messages) && serve_chat_prompt(call, call->prompts);
}

/* ------------------------------------------------------------------------------------------------------- answers --- */
/* The stop string that ended the answer: of those in the bytes that were generated, the one that ends first. NULL: none did. */
static const serve_text *stop_of(const serve_call *call, const serve_answer *a)
{
    const serve_text *found = NULL, *said = &a->job.pieces;
    size_t end = said->len + 1;
    if (a->finish != KVRT_FINISH_STOP) return NULL;
    for (unsigned i = 0; i < call->n_stops; i++) {
        const serve_text *stop = &call->stops[i];
        for (size_t at = 0; at + stop->len <= said->len && at + stop->len < end; at++)
            if (memcmp(said->data + at, stop->data, stop->len) == 0) end = at + stop->len, found = stop;
    }
    return found;
}

static void put_stop(serve_call *call, const serve_answer *a)
{
    const serve_text *stop = stop_of(call, a);
    const bool cut = a->finish == KVRT_FINISH_LENGTH || a->finish == KVRT_FINISH_CTX_FULL;
    serve_putf(&call->out, "\"stop_reason\":\"%s\",\"stop_sequence\":",
               stop         ? "stop_sequence"
               : cut        ? "max_tokens"
               : a->n_calls ? "tool_use"
                            : "end_turn");
    if (stop) serve_put_json(&call->out, stop->data, stop->len);
    else serve_puts(&call->out, "null");
}

static void put_usage(serve_call *call, uint64_t prompt, uint64_t cached, uint64_t generated)
{
    serve_putf(&call->out,
               "\"usage\":{\"input_tokens\":%llu,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":%llu,"
               "\"output_tokens\":%llu}",
               (unsigned long long)(prompt - cached), (unsigned long long)cached, (unsigned long long)generated);
}

static void put_head(serve_call *call)
{
    serve_putf(&call->out, "{\"id\":\"msg_%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":", call->id);
    serve_put_json_str(&call->out, call->server->model);
    serve_puts(&call->out, ",\"content\":[");
}

/* A call's block; its arguments as the object that they are, or none where the answer was cut within. */
static void put_use(serve_call *call, const serve_answer *a, const serve_part *p, bool over)
{
    serve_json arguments = {0};
    serve_putf(&call->out, "{\"type\":\"tool_use\",\"id\":\"toolu_%s_%u\",\"name\":", call->id, p->call);
    serve_put_json(&call->out, a->names.data + p->name_at, p->name_len);
    serve_puts(&call->out, ",\"input\":");
    if (over && serve_json_read(&arguments, serve_part_text(a, p), p->len))
        serve_put(&call->out, serve_part_text(a, p), p->len);
    else serve_puts(&call->out, "{}");
    serve_puts(&call->out, "}");
    serve_json_free(&arguments);
}

static void whole(serve_call *call)
{
    serve_text *out = &call->out;
    const serve_answer *a = call->answers;
    put_head(call);
    for (size_t i = 0; i < a->n_parts; i++) {
        const serve_part *p = &a->parts[i];
        if (i) serve_puts(out, ",");
        if (p->kind == SERVE_CALL) {
            put_use(call, a, p, true);
            continue;
        }
        serve_puts(out, p->kind == SERVE_TEXT ? "{\"type\":\"text\",\"text\":"
                                              : "{\"type\":\"thinking\",\"signature\":\"\",\"thinking\":");
        serve_put_json(out, serve_part_text(a, p), p->len);
        serve_puts(out, "}");
    }
    serve_puts(out, "],");
    put_stop(call, a);
    serve_puts(out, ",");
    put_usage(call, a->result.n_prompt, a->result.n_reused, a->result.n_generated);
    serve_puts(out, "}");
}

static void begin(serve_call *call)
{
    serve_puts(&call->out, "event: message_start\ndata: {\"type\":\"message_start\",\"message\":");
    put_head(call);
    serve_puts(&call->out, "],\"stop_reason\":null,\"stop_sequence\":null,");
    put_usage(call, call->prompts->n, 0, 0);
    serve_puts(&call->out, "}}\n\n");
}

static void part_begin(serve_call *call, serve_answer *a)
{
    serve_text *out = &call->out;
    const serve_part *p = &a->parts[a->n_parts - 1];
    serve_putf(out,
               "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":%zu,\"content_block\":",
               a->n_parts - 1);
    if (p->kind == SERVE_CALL) put_use(call, a, p, false);
    else
        serve_puts(out, p->kind == SERVE_TEXT ? "{\"type\":\"text\",\"text\":\"\"}"
                                              : "{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}");
    serve_puts(out, "}\n\n");
}

static void text(serve_call *call, serve_answer *a, serve_kind kind, const char *said, size_t len)
{
    serve_putf(
        &call->out,
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":%zu,\"delta\":{\"type\":\"%s\":",
        a->n_parts - 1,
        kind == SERVE_TEXT        ? "text_delta\",\"text"
        : kind == SERVE_REASONING ? "thinking_delta\",\"thinking"
                                  : "input_json_delta\",\"partial_json");
    serve_put_json(&call->out, said, len);
    serve_puts(&call->out, "}}\n\n");
}

static void part_end(serve_call *call, serve_answer *a)
{
    serve_putf(&call->out, "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":%zu}\n\n",
               a->n_parts - 1);
}

static void finish(serve_call *call, serve_answer *a)
{
    serve_puts(&call->out, "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{");
    put_stop(call, a);
    serve_puts(&call->out, "},");
    put_usage(call, a->result.n_prompt, a->result.n_reused, a->result.n_generated);
    serve_puts(&call->out, "}\n\n");
}

static void end(serve_call *call)
{
    serve_puts(&call->out, "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
}

static void error(serve_text *out, int status, const char *type, const char *message, const char *param,
                  const char *code)
{
    (void)param, (void)code;
    serve_puts(out, "{\"type\":\"error\",\"error\":{\"type\":");
    serve_put_json_str(out, status == 413   ? "request_too_large"
                            : status == 503 ? "overloaded_error"
                            : status >= 500 ? "api_error"
                                            : type);
    serve_puts(out, ",\"message\":");
    serve_put_json_str(out, message);
    serve_puts(out, "}}");
}

static void failed(serve_call *call)
{
    serve_puts(&call->out, "event: error\ndata: ");
    error(&call->out, call->status, "api_error", call->message, "", "");
    serve_puts(&call->out, "\n\n");
}

const serve_shape serve_anthropic_shape = {.name = "messages",
                                           .parse = parse,
                                           .begin = begin,
                                           .part_begin = part_begin,
                                           .text = text,
                                           .part_end = part_end,
                                           .finish = finish,
                                           .end = end,
                                           .failed = failed,
                                           .whole = whole,
                                           .error = error};
