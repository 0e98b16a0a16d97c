/* serve_responses.c - the shape of /v1/responses, without a memory of its own: what a client wants to go on with it sends again, and
 * previous_response_id is refused. Members that nobody here knows are ignored, as are tools that are not functions, which clients send
 * unasked. /v1/responses/compact asks the model for a summary, which comes as an item of type compaction and is sent again instead of what was
 * before: the question and its answer. `encrypted_content` is the summary as it is, since nobody but its owner sees it. */
#include "serve.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ------------------------------------------------------------------------------------------------------ requests --- */
static void begin_message(serve_text *out, const char *role)
{
    if (out->len) serve_puts(out, ",");
    serve_puts(out, "{\"role\":");
    serve_put_json_str(out, role);
}

static const char summarize[] =
    "Summarize the conversation so far, so that it can be gone on with from the summary alone: what was asked, "
    "what was found and decided, what is still to be done.";
static void ask_summary(serve_text *out)
{
    begin_message(out, "user");
    serve_puts(out, ",\"content\":");
    serve_put_json_str(out, summarize);
    serve_puts(out, "}");
}

/* A string, or parts of text. */
static bool put_content(serve_call *call, const serve_node *content, serve_text *out)
{
    const serve_json *j = &call->json;
    serve_text text = {0};
    if (content && content->type == SERVE_STRING) serve_json_string(j, content, &text);
    else if (!content || content->type != SERVE_ARRAY)
        return serve_fail(call, 400, "input", "input: content: need a string or an array, found %s",
                          serve_json_type_name(content));
    else
        for (const serve_node *p = serve_json_child(j, content); p; p = serve_json_next(j, p)) {
            const serve_node *type = serve_json_get(j, p, "type");
            if (!serve_param_is(call, p, "text", SERVE_STRING, "input") ||
                !serve_param_is(call, p, "refusal", SERVE_STRING, "input")) {
                serve_text_free(&text);
                return false;
            }
            if (serve_json_is(j, type, "input_text") || serve_json_is(j, type, "output_text") ||
                serve_json_is(j, type, "text"))
                serve_json_string(j, serve_json_get(j, p, "text"), &text);
            else if (serve_json_is(j, type, "refusal")) serve_json_string(j, serve_json_get(j, p, "refusal"), &text);
            else {
                serve_text_free(&text);
                return serve_fail_type(call, "input", "parts", p);
            }
        }
    serve_puts(out, ",\"content\":");
    serve_put_json(out, text.data ? text.data : "", text.len);
    if (text.failed) out->failed = true;
    serve_text_free(&text);
    return true;
}

static void put_member(const serve_json *j, const serve_node *item, const char *member, serve_text *out)
{
    const serve_node *node = serve_json_get(j, item, member);
    if (node) serve_put(out, j->text + node->start, node->len);
    else serve_puts(out, "\"\"");
}

static bool add_item(serve_call *call, const serve_node *item, serve_text *out)
{
    const serve_json *j = &call->json;
    const serve_node *type = serve_json_get(j, item, "type"), *role = serve_json_get(j, item, "role");
    if (!serve_is_item(call, item, "input") || !serve_param_is(call, item, "call_id", SERVE_STRING, "input"))
        return false;
    if (!type || serve_json_is(j, type, "message")) {
        serve_text name = {0};
        serve_json_string(j, role, &name);
        const bool known = name.len && !name.failed;
        if (known) begin_message(out, strcmp(name.data, "developer") == 0 ? "system" : name.data);
        serve_text_free(&name);
        if (!known) return serve_fail(call, 400, "input", "input: a message without a role");
        if (!put_content(call, serve_json_get(j, item, "content"), out)) return false;
    } else if (serve_json_is(j, type, "function_call")) {
        begin_message(out, "assistant");
        serve_puts(out, ",\"content\":\"\",\"tool_calls\":[{\"type\":\"function\",\"id\":");
        put_member(j, item, "call_id", out);
        serve_puts(out, ",\"function\":");
        if (!serve_put_function(call, item, "arguments", "input", out)) return false;
        serve_puts(out, "}]");
    } else if (serve_json_is(j, type, "custom_tool_call")) { /* of another server: its text is an argument here */
        const serve_node *name = serve_json_get(j, item, "name"), *said = serve_json_get(j, item, "input");
        if (!name || name->type != SERVE_STRING || !said || said->type != SERVE_STRING)
            return serve_fail(call, 400, "input", "input: a custom_tool_call without a name and an input");
        begin_message(out, "assistant");
        serve_puts(out, ",\"content\":\"\",\"tool_calls\":[{\"type\":\"function\",\"id\":");
        put_member(j, item, "call_id", out);
        serve_puts(out, ",\"function\":{\"name\":");
        put_member(j, item, "name", out);
        serve_puts(out, ",\"arguments\":{\"input\":");
        put_member(j, item, "input", out);
        serve_puts(out, "}}}]");
    } else if (serve_json_is(j, type, "function_call_output") || serve_json_is(j, type, "custom_tool_call_output")) {
        begin_message(out, "tool");
        serve_puts(out, ",\"tool_call_id\":");
        put_member(j, item, "call_id", out);
        if (!put_content(call, serve_json_get(j, item, "output"), out)) return false;
    } else if (serve_json_is(j, type, "compaction")) {
        ask_summary(out);
        begin_message(out, "assistant");
        if (!put_content(call, serve_json_get(j, item, "encrypted_content"), out)) return false;
    } else if (serve_json_is(j, type, "reasoning")) return true; /* templates leave out what was thought before */
    else return serve_fail_type(call, "input", "items", item);
    serve_puts(out, "}");
    return true;
}

static bool put_messages(serve_call *call, serve_text *out)
{
    const serve_json *j = &call->json;
    const serve_node *input = serve_json_get(j, call->body, "input"),
                     *instructions = serve_json_get(j, call->body, "instructions");
    serve_text items = {0};
    bool ok = true;
    if (instructions) {
        begin_message(&items, "system");
        ok = put_content(call, instructions, &items);
        serve_puts(&items, "}");
    }
    if (ok && input && input->type == SERVE_STRING) {
        begin_message(&items, "user");
        ok = put_content(call, input, &items);
        serve_puts(&items, "}");
    } else if (ok && !(input && input->type == SERVE_ARRAY && input->child))
        ok = serve_fail(call, 400, "input", "input: need a string or an array of at least one item, found %s",
                        serve_json_type_name(input));
    else
        for (const serve_node *i = ok ? serve_json_child(j, input) : NULL; i && ok; i = serve_json_next(j, i))
            ok = add_item(call, i, &items);
    if (ok && call->shape == &serve_compact_shape) ask_summary(&items);
    serve_puts(out, "[");
    if (items.len) serve_put(out, items.data, items.len);
    serve_puts(out, "]");
    if (items.failed) out->failed = true;
    serve_text_free(&items);
    return ok;
}

typedef struct filler {
    const char *name, *value;
} filler;

/* An object as it came, with what it lacks of the members that the API's own schema wants. */
static void put_filled(serve_call *call, const serve_node *object, const filler *wanted, size_t n)
{
    const serve_json *j = &call->json;
    const char *between = object->child ? "," : "";
    serve_put(&call->echo, j->text + object->start, object->len - 1u);
    for (size_t i = 0; i < n; i++) {
        if (serve_json_get(j, object, wanted[i].name)) continue;
        serve_putf(&call->echo, "%s\"%s\":%s", between, wanted[i].name, wanted[i].value);
        between = ",";
    }
    serve_puts(&call->echo, "}");
}

/* Those that the model has: functions. */
static void put_tools(serve_call *call, const serve_node *tools)
{
    static const filler wanted[] = {{"description", "null"}, {"parameters", "null"}, {"strict", "null"}};
    const serve_json *j = &call->json;
    const char *between = "";
    serve_puts(&call->echo, "[");
    for (const serve_node *t = serve_json_child(j, tools); t; t = serve_json_next(j, t)) {
        if (!serve_json_is(j, serve_json_get(j, t, "type"), "function")) continue;
        serve_puts(&call->echo, between);
        put_filled(call, t, wanted, sizeof wanted / sizeof wanted[0]);
        between = ",";
    }
    serve_puts(&call->echo, "]");
}

/* What every response repeats of its request, or what holds without. False: the call has an error. */
static bool note_echo(serve_call *call)
{
    static const struct {
        const char *name, *without;
        serve_json_type type; /* SERVE_NULL: looked at elsewhere */
    } members[] = {{"instructions", "null", SERVE_NULL},
                   {"metadata", "{}", SERVE_OBJECT},
                   {"tools", "[]", SERVE_ARRAY},
                   {"tool_choice", "\"auto\"", SERVE_NULL},
                   {"parallel_tool_calls", "true", SERVE_TRUE},
                   {"max_output_tokens", "null", SERVE_NUMBER},
                   {"max_tool_calls", "null", SERVE_NUMBER},
                   {"user", "null", SERVE_STRING},
                   {"service_tier", "\"default\"", SERVE_STRING},
                   {"safety_identifier", "null", SERVE_STRING},
                   {"prompt_cache_key", "null", SERVE_STRING},
                   {"top_logprobs", "0", SERVE_NUMBER},
                   {"text", "{\"format\":{\"type\":\"text\"}}", SERVE_OBJECT},
                   {"reasoning", "{\"effort\":null,\"summary\":null}", SERVE_OBJECT}};
    static const filler format[] = {{"format", "{\"type\":\"text\"}"}},
                        reasoning[] = {{"effort", "null"}, {"summary", "null"}};
    const serve_json *j = &call->json;
    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++) {
        const char *name = members[i].name;
        const serve_node *node = serve_json_get(j, call->body, name);
        if (members[i].type != SERVE_NULL && !serve_param_is(call, call->body, name, members[i].type, name))
            return false;
        serve_putf(&call->echo, ",\"%s\":", name);
        if (node && strcmp(name, "tools") == 0) put_tools(call, node);
        else if (node && strcmp(name, "text") == 0) put_filled(call, node, format, 1);
        else if (node && strcmp(name, "reasoning") == 0) put_filled(call, node, reasoning, 2);
        else if (node) serve_put(&call->echo, j->text + node->start, node->len);
        else serve_puts(&call->echo, members[i].without);
    }
    for (size_t i = 0; i < SERVE_SAMPLING; i++) {
        const serve_node *node = serve_json_get(j, call->body, serve_sampling[i][0]);
        double value = call->server->sampling[i];
        if (node) (void)serve_json_f64(j, node, &value);
        serve_putf(&call->echo, ",\"%s\":%.6g", serve_sampling[i][0], value);
    }
    return !call->echo.failed || serve_fail(call, 500, NULL, "out of memory");
}

static const char *const refused[] = {"previous_response_id", "conversation", "prompt", "background", NULL};

static bool parse_compact(serve_call *call)
{
    if (!serve_params(call, NULL) || !serve_refuse(call, refused)) return false;
    if (call->stream) return serve_fail(call, 400, "stream", "stream: a compacted conversation comes whole");
    call->prompts = calloc(1, sizeof *call->prompts);
    if (!call->prompts) return serve_fail(call, 500, NULL, "out of memory");
    call->n_prompts = 1;
    return put_messages(call, &call->prompts->messages) && serve_chat_prompt(call, call->prompts);
}

static bool parse(serve_call *call)
{
    const serve_json *j = &call->json;
    int64_t top = 0;
    const serve_node *text = serve_json_get(j, call->body, "text"), *format = serve_json_get(j, text, "format");
    const serve_node *reasoning = serve_json_get(j, call->body, "reasoning"),
                     *effort = serve_json_get(j, reasoning, "effort");
    if (!note_echo(call) || !serve_param_is(call, text, "format", SERVE_OBJECT, "text") ||
        !serve_param_is(call, reasoning, "effort", SERVE_STRING, "reasoning") ||
        !serve_param_i64(call, "top_logprobs", 0, 0, &top)) /* logprobs are told by the two other shapes */
        return false;
    if (!serve_params(call, NULL) || !serve_refuse(call, refused)) return false;
    call->prompts = calloc(1, sizeof *call->prompts);
    if (!call->prompts) return serve_fail(call, 500, NULL, "out of memory");
    call->n_prompts = 1;
    if (!serve_grammar(call) || !serve_format(call, format, "text.format") ||
        !serve_tools(call, call->prompts, SERVE_TOOLS_RESPONSES))
        return false;
    if (effort) {
        serve_puts(&call->prompts->variables, "{\"reasoning_effort\":");
        serve_put(&call->prompts->variables, j->text + effort->start, effort->len);
        serve_puts(&call->prompts->variables, serve_json_is(j, effort, "none") ? ",\"enable_thinking\":false}" : "}");
    }
    return put_messages(call, &call->prompts->messages) && serve_chat_prompt(call, call->prompts);
}

/* ------------------------------------------------------------------------------------------------------- answers --- */
static bool is_cut(const serve_answer *a)
{
    return a->finish == KVRT_FINISH_LENGTH || a->finish == KVRT_FINISH_CTX_FULL;
}

static void put_part(serve_call *call, const serve_answer *a, const serve_part *p)
{
    serve_puts(&call->out, p->kind == SERVE_TEXT
                               ? "{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[],\"text\":"
                               : "{\"type\":\"reasoning_text\",\"text\":");
    serve_put_json(&call->out, serve_part_text(a, p), p->len);
    serve_puts(&call->out, "}");
}

/* The item of part i; its content only when it is over. */
static void put_item(serve_call *call, const serve_answer *a, size_t i, bool over)
{
    serve_text *out = &call->out;
    const serve_part *p = &a->parts[i];
    const bool is_text = p->kind == SERVE_TEXT, last = i + 1 == a->n_parts;
    const char *status = !over ? "in_progress" : last && a->ended && is_cut(a) ? "incomplete" : "completed";
    if (p->kind == SERVE_CALL) {
        serve_putf(
            out,
            "{\"id\":\"fc_%s_%zu\",\"type\":\"function_call\",\"status\":\"%s\",\"call_id\":\"call_%s_%u\",\"name\":",
            call->id, i, status, call->id, p->call);
        serve_put_json(out, a->names.data + p->name_at, p->name_len);
        serve_puts(out, ",\"arguments\":");
        serve_put_json(out, serve_part_text(a, p), over ? p->len : 0);
        serve_puts(out, "}");
        return;
    }
    serve_putf(out, "{\"id\":\"%s_%s_%zu\",\"type\":\"%s\",", is_text ? "msg" : "rs", call->id, i,
               is_text ? "message" : "reasoning");
    serve_putf(out, "\"status\":\"%s\",%s\"content\":[",
               !over                           ? "in_progress"
               : last && a->ended && is_cut(a) ? "incomplete"
                                               : "completed",
               is_text ? "\"role\":\"assistant\"," : "\"summary\":[],");
    if (over) put_part(call, a, p);
    serve_puts(out, "]}");
}

static void put_usage(serve_text *out, const serve_answer *a)
{
    const kvrt_result *r = &a->result;
    serve_putf(out,
               ",\"usage\":{\"input_tokens\":%u,\"input_tokens_details\":{\"cached_tokens\":%u},\"output_tokens\":%u,"
               "\"output_tokens_details\":{\"reasoning_tokens\":%zu},\"total_tokens\":%u}}",
               r->n_prompt, r->n_reused, r->n_generated, a->n_reasoned, r->n_prompt + r->n_generated);
}

static void put_response(serve_call *call, const char *status)
{
    serve_text *out = &call->out;
    const serve_answer *a = call->answers;
    serve_putf(out, "{\"id\":\"resp_%s\",\"object\":\"response\",\"created_at\":%lld,\"completed_at\":", call->id,
               (long long)call->created);
    if (strcmp(status, "completed") == 0) serve_putf(out, "%lld", (long long)time(NULL));
    else serve_puts(out, "null");
    serve_putf(out, ",\"status\":\"%s\",\"model\":", status);
    serve_put_json_str(out, call->server->model);
    serve_puts(out, ",\"output\":[");
    for (size_t i = 0; i < a->n_parts && a->ended; i++) {
        if (i) serve_puts(out, ",");
        put_item(call, a, i, true);
    }
    serve_puts(out, "],\"error\":");
    if (call->status) {
        serve_puts(out, "{\"code\":\"server_error\",\"message\":");
        serve_put_json_str(out, call->message);
        serve_puts(out, "}");
    } else serve_puts(out, "null");
    serve_puts(out, a->ended && !call->status && is_cut(a)
                        ? ",\"incomplete_details\":{\"reason\":\"max_output_tokens\"}"
                        : ",\"incomplete_details\":null");
    serve_puts(out, ",\"previous_response_id\":null,\"store\":false,\"background\":false,\"truncation\":\"disabled\"");
    serve_put(out, call->echo.data, call->echo.len);
    if (a->ended && !call->status) put_usage(out, a);
    else serve_puts(out, ",\"usage\":null}");
}

static const char *status_of(const serve_answer *a) { return is_cut(a) ? "incomplete" : "completed"; }

static void whole_compact(serve_call *call)
{
    serve_text *out = &call->out;
    const serve_answer *a = call->answers;
    serve_putf(
        out,
        "{\"id\":\"resp_%s\",\"object\":\"response.compaction\",\"created_at\":%lld,\"output\":[{\"id\":\"cmp_%s\","
        "\"type\":\"compaction\",\"encrypted_content\":",
        call->id, (long long)call->created, call->id);
    serve_put_json(out, a->text.data ? a->text.data : "", a->text.len);
    serve_puts(out, "}]");
    put_usage(out, a);
}

static void whole(serve_call *call) { put_response(call, status_of(call->answers)); }

static void event(serve_call *call, const char *name)
{
    serve_putf(&call->out, "event: response.%s\ndata: {\"type\":\"response.%s\",\"sequence_number\":%llu", name, name,
               (unsigned long long)call->sequence++);
}

static void event_response(serve_call *call, const char *name, const char *status)
{
    event(call, name);
    serve_puts(&call->out, ",\"response\":");
    put_response(call, status);
    serve_puts(&call->out, "}\n\n");
}

/* An event about the open part. */
static void event_part(serve_call *call, const serve_answer *a, const char *name)
{
    const serve_kind kind = a->parts[a->n_parts - 1].kind;
    event(call, name);
    serve_putf(&call->out, ",\"item_id\":\"%s_%s_%zu\",\"output_index\":%zu%s",
               kind == SERVE_TEXT   ? "msg"
               : kind == SERVE_CALL ? "fc"
                                    : "rs",
               call->id, a->n_parts - 1, a->n_parts - 1, kind == SERVE_CALL ? "" : ",\"content_index\":0");
}

static void event_item(serve_call *call, const serve_answer *a, const char *name, bool over)
{
    event(call, name);
    serve_putf(&call->out, ",\"output_index\":%zu,\"item\":", a->n_parts - 1);
    put_item(call, a, a->n_parts - 1, over);
    serve_puts(&call->out, "}\n\n");
}

static void begin(serve_call *call)
{
    event_response(call, "created", "in_progress");
    event_response(call, "in_progress", "in_progress");
}

static void part_begin(serve_call *call, serve_answer *a)
{
    event_item(call, a, "output_item.added", false);
    if (a->parts[a->n_parts - 1].kind == SERVE_CALL) return;
    event_part(call, a, "content_part.added");
    serve_puts(&call->out, ",\"part\":");
    const serve_part none = {.kind = a->parts[a->n_parts - 1].kind};
    put_part(call, a, &none);
    serve_puts(&call->out, "}\n\n");
}

static void text(serve_call *call, serve_answer *a, serve_kind kind, const char *said, size_t len)
{
    event_part(call, a,
               kind == SERVE_TEXT        ? "output_text.delta"
               : kind == SERVE_REASONING ? "reasoning_text.delta"
                                         : "function_call_arguments.delta");
    serve_puts(&call->out, kind == SERVE_TEXT ? ",\"logprobs\":[],\"delta\":" : ",\"delta\":");
    serve_put_json(&call->out, said, len);
    serve_puts(&call->out, "}\n\n");
}

static void part_end(serve_call *call, serve_answer *a)
{
    const serve_part *p = &a->parts[a->n_parts - 1];
    if (p->kind == SERVE_CALL) {
        event_part(call, a, "function_call_arguments.done");
        serve_puts(&call->out, ",\"name\":");
        serve_put_json(&call->out, a->names.data + p->name_at, p->name_len);
        serve_puts(&call->out, ",\"arguments\":");
        serve_put_json(&call->out, serve_part_text(a, p), p->len);
        serve_puts(&call->out, "}\n\n");
        event_item(call, a, "output_item.done", true);
        return;
    }
    event_part(call, a, p->kind == SERVE_TEXT ? "output_text.done" : "reasoning_text.done");
    serve_puts(&call->out, p->kind == SERVE_TEXT ? ",\"logprobs\":[],\"text\":" : ",\"text\":");
    serve_put_json(&call->out, serve_part_text(a, p), p->len);
    serve_puts(&call->out, "}\n\n");
    event_part(call, a, "content_part.done");
    serve_puts(&call->out, ",\"part\":");
    put_part(call, a, p);
    serve_puts(&call->out, "}\n\n");
    event_item(call, a, "output_item.done", true);
}

static void finish(serve_call *call, serve_answer *a) { (void)call, (void)a; }
static void end(serve_call *call) { event_response(call, status_of(call->answers), status_of(call->answers)); }
static void failed(serve_call *call) { event_response(call, "failed", "failed"); }

const serve_shape serve_responses_shape = {.name = "responses",
                                           .parse = parse,
                                           .begin = begin,
                                           .part_begin = part_begin,
                                           .text = text,
                                           .part_end = part_end,
                                           .finish = finish,
                                           .end = end,
                                           .failed = failed,
                                           .whole = whole};

const serve_shape serve_compact_shape = {.name = "compact", .parse = parse_compact, .whole = whole_compact};
