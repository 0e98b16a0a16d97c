/* serve_openai.c - the shapes of /v1/chat/completions and /v1/completions. */
#include "serve.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Understood by other servers, without meaning here, or with the only value that this one has. */
#define WITHOUT_MEANING                                                                                                \
    "model", "stream", "stream_options", "stop", "seed", "n", "logprobs", "logit_bias", "user", "metadata", "store",   \
        "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "cache_prompt",             \
        "timings_per_token", "return_progress", "id_slot", "include_reasoning", "grammar", "json_schema"

/* ------------------------------------------------------------------------------------------------------ requests --- */
static bool common(serve_call *call, const char *const *known)
{
    const serve_json *j = &call->json;
    int64_t n = 1;
    if (!serve_params(call, known) || !serve_param_stops(call, "stop") || !serve_param_i64(call, "n", 1, 256, &n) ||
        !serve_grammar(call))
        return false;
    call->n = (unsigned)n;
    const serve_node *options = serve_json_get(j, call->body, "stream_options"),
                     *usage = serve_json_get(j, options, "include_usage");
    if (!serve_param_is(call, call->body, "stream_options", SERVE_OBJECT, "stream_options") ||
        !serve_param_is(call, options, "include_usage", SERVE_TRUE, "stream_options"))
        return false;
    if (options && !call->stream) return serve_fail(call, 400, "stream_options", "stream_options: only with stream");
    call->include_usage = usage && usage->type == SERVE_TRUE;
    return true;
}

/* What a template may be told, beside messages. */
static bool put_variables(serve_call *call, serve_text *out)
{
    const serve_json *j = &call->json;
    const serve_node *given = serve_json_get(j, call->body, "chat_template_kwargs");
    const serve_node *effort = serve_json_get(j, call->body, "reasoning_effort");
    if (!serve_param_is(call, call->body, "chat_template_kwargs", SERVE_OBJECT, "chat_template_kwargs") ||
        !serve_param_is(call, call->body, "reasoning_effort", SERVE_STRING, "reasoning_effort"))
        return false;
    serve_puts(out, "{");
    if (effort) {
        serve_puts(out, "\"reasoning_effort\":");
        serve_put(out, j->text + effort->start, effort->len);
        if (serve_json_is(j, effort, "none")) serve_puts(out, ",\"enable_thinking\":false");
    }
    if (given && given->child) {
        if (effort) serve_puts(out, ",");
        serve_put(out, j->text + given->start + 1, given->len - 2u);
    }
    serve_puts(out, "}");
    return true;
}

/* ["text"]: what else there is nobody here can say. */
static bool is_text_alone(serve_call *call)
{
    const serve_json *j = &call->json;
    const serve_node *list = serve_json_get(j, call->body, "modalities");
    bool ok = serve_param_is(call, call->body, "modalities", SERVE_ARRAY, "modalities");
    for (const serve_node *m = serve_json_child(j, list); m && ok; m = serve_json_next(j, m))
        ok = serve_json_is(j, m, "text") ||
             serve_fail(call, 400, "modalities", "modalities: this server has text alone");
    return ok;
}

static bool parse_chat(serve_call *call)
{
    static const char *const known[] = {WITHOUT_MEANING,
                                        "messages",
                                        "top_logprobs",
                                        "response_format",
                                        "tools",
                                        "tool_choice",
                                        "parallel_tool_calls",
                                        "functions",
                                        "function_call",
                                        "modalities",
                                        "audio",
                                        "prediction",
                                        "reasoning_effort",
                                        "chat_template_kwargs",
                                        "web_search_options",
                                        "verbosity",
                                        NULL};
    static const char *const refused[] = {"functions", "audio", "prediction", "web_search_options", "verbosity", NULL};
    int64_t top = 0;
    if (!common(call, known) || !serve_refuse(call, refused) || !is_text_alone(call) ||
        !serve_format(call, serve_json_get(&call->json, call->body, "response_format"), "response_format"))
        return false;
    if (!serve_param_bool(call, "logprobs", &call->logprobs) || !serve_param_i64(call, "top_logprobs", 0, 20, &top))
        return false;
    if (top && !call->logprobs) return serve_fail(call, 400, "top_logprobs", "top_logprobs: only with logprobs");
    if (top && !serve_set_i64(call, "top_logprobs", "gen.top_logprobs", top)) return false;
    call->prompts = calloc(1, sizeof *call->prompts);
    if (!call->prompts) return serve_fail(call, 500, NULL, "out of memory");
    call->n_prompts = 1;
    serve_prompt *prompt = call->prompts;
    if (!serve_tools(call, prompt, SERVE_TOOLS_CHAT)) return false;
    serve_text items = {0};
    const bool ok = serve_messages(call, serve_json_get(&call->json, call->body, "messages"), &items) &&
                    put_variables(call, &prompt->variables);
    serve_puts(&prompt->messages, "[");
    if (ok) serve_put(&prompt->messages, items.data, items.len);
    serve_puts(&prompt->messages, "]");
    if (items.failed) prompt->messages.failed = true;
    serve_text_free(&items);
    return ok && serve_chat_prompt(call, prompt);
}

static bool parse_completions(serve_call *call)
{
    static const char *const known[] = {WITHOUT_MEANING, "prompt", "best_of", "echo", "suffix", NULL};
    static const char *const refused[] = {"echo", "suffix", NULL};
    int64_t best = 0, top = -1;
    if (!common(call, known) || !serve_refuse(call, refused)) return false;
    if (!serve_param_i64(call, "best_of", 1, 256, &best) || !serve_param_i64(call, "logprobs", 0, 5, &top))
        return false;
    if (best && best != call->n)
        return serve_fail(call, 400, "best_of", "best_of: this server does not choose among answers, need n");
    call->logprobs = top >= 0;
    if (top > 0 && !serve_set_i64(call, "logprobs", "gen.top_logprobs", top)) return false;
    /* As the API documents it. */
    if (!kvrt_options_is_set(call->options, "gen.max_tokens") &&
        !serve_set_i64(call, "max_tokens", "gen.max_tokens", 16))
        return false;
    /* A completion is the text as it is. */
    (void)kvrt_options_set_bool(call->options, "gen.reasoning", 0, NULL);
    return serve_prompts(call, "prompt", call->server->n_seats, "this server (--sessions) computes");
}

/* ------------------------------------------------------------------------------------------------------- answers --- */
static unsigned index_of(const serve_call *call, const serve_answer *a) { return (unsigned)(a - call->answers); }

static void put_head(serve_call *call, const char *prefix, const char *object)
{
    serve_putf(&call->out, "{\"id\":\"%s-%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", prefix, call->id, object,
               (long long)call->created);
    serve_put_json_str(&call->out, call->server->model);
    serve_putf(&call->out, ",\"system_fingerprint\":\"kvrt-%s\"", kvrt_version_string());
}

static void put_usage(serve_call *call)
{
    uint64_t prompt = 0, cached = 0, generated = 0, reasoned = 0;
    for (unsigned i = 0; i < call->n_answers; i++) {
        const kvrt_result *r = &call->answers[i].result;
        if (i % call->n == 0) prompt += r->n_prompt, cached += r->n_reused; /* the prompt of n answers counts once */
        generated += r->n_generated;
        reasoned += call->answers[i].n_reasoned;
    }
    serve_putf(&call->out, "{\"prompt_tokens\":%llu,\"completion_tokens\":%llu,\"total_tokens\":%llu,",
               (unsigned long long)prompt, (unsigned long long)generated, (unsigned long long)(prompt + generated));
    serve_putf(
        &call->out,
        "\"prompt_tokens_details\":{\"cached_tokens\":%llu},\"completion_tokens_details\":{\"reasoning_tokens\":%llu}}",
        (unsigned long long)cached, (unsigned long long)reasoned);
}

/* "token":...,"logprob":...,"bytes":[...] */
static void put_token(serve_text *out, const serve_answer *a, const serve_token *t)
{
    const char *bytes = a->token_bytes.data + t->at;
    serve_puts(out, "\"token\":");
    serve_put_json(out, bytes, t->len);
    serve_putf(out, ",\"logprob\":%.9g,\"bytes\":[", (double)t->logprob);
    for (size_t k = 0; k < t->len; k++) serve_putf(out, k ? ",%u" : "%u", (unsigned char)bytes[k]);
    serve_puts(out, "]");
}

/* Alternatives of a token that is still to come stay. */
static void tokens_told(serve_answer *a)
{
    const size_t from = a->n_others - a->n_next;
    a->n_tokens = 0;
    for (size_t i = 0; i < a->n_next && from; i++) a->others[i] = a->others[from + i];
    a->n_others = a->n_next;
    if (!a->n_next) serve_text_clear(&a->token_bytes);
}

/* The tokens that no chunk has told yet; null without logprobs. */
static void put_chat_logprobs(serve_call *call, serve_answer *a)
{
    serve_text *out = &call->out;
    if (!call->logprobs) {
        serve_puts(out, "null");
        return;
    }
    serve_puts(out, "{\"content\":[");
    for (size_t i = 0; i < a->n_tokens; i++) {
        const serve_token *t = &a->tokens[i];
        serve_puts(out, i ? ",{" : "{");
        put_token(out, a, t);
        serve_puts(out, ",\"top_logprobs\":[");
        for (size_t k = 0; k < t->n_others; k++) {
            serve_puts(out, k ? ",{" : "{");
            put_token(out, a, &a->others[t->first + k]);
            serve_puts(out, "}");
        }
        serve_puts(out, "]}");
    }
    serve_puts(out, "],\"refusal\":null}");
    tokens_told(a);
}

static void put_text_logprobs(serve_call *call, serve_answer *a)
{
    serve_text *out = &call->out;
    bool any = false;
    if (!call->logprobs) {
        serve_puts(out, "null");
        return;
    }
    serve_puts(out, "{\"tokens\":[");
    for (size_t i = 0; i < a->n_tokens; i++) {
        if (i) serve_puts(out, ",");
        serve_put_json(out, a->token_bytes.data + a->tokens[i].at, a->tokens[i].len);
        any = any || a->tokens[i].n_others;
    }
    serve_puts(out, "],\"token_logprobs\":[");
    for (size_t i = 0; i < a->n_tokens; i++) serve_putf(out, i ? ",%.9g" : "%.9g", (double)a->tokens[i].logprob);
    serve_puts(out, any ? "],\"top_logprobs\":[" : "],\"top_logprobs\":null");
    for (size_t i = 0; any && i < a->n_tokens; i++) {
        serve_puts(out, i ? ",{" : "{");
        for (size_t k = 0; k < a->tokens[i].n_others; k++) {
            const serve_token *t = &a->others[a->tokens[i].first + k];
            if (k) serve_puts(out, ",");
            serve_put_json(out, a->token_bytes.data + t->at, t->len);
            serve_putf(out, ":%.9g", (double)t->logprob);
        }
        serve_puts(out, "}");
    }
    serve_puts(out, any ? "],\"text_offset\":[" : ",\"text_offset\":[");
    for (size_t i = 0; i < a->n_tokens; i++) {
        serve_putf(out, i ? ",%zu" : "%zu", a->token_text);
        a->token_text += a->tokens[i].len;
    }
    serve_puts(out, "]}");
    tokens_told(a);
}

/* A chunk of a stream; `name` NULL: an empty delta. `finish` NULL: it goes on. */
static void put_chat_chunk(serve_call *call, serve_answer *a, const char *name, const char *text, size_t len,
                           const char *finish)
{
    serve_text *out = &call->out;
    serve_puts(out, "data: ");
    put_head(call, "chatcmpl", "chat.completion.chunk");
    serve_putf(out, ",\"choices\":[{\"index\":%u,\"delta\":{", index_of(call, a));
    if (name) {
        serve_putf(out, "\"%s\":", name);
        serve_put_json(out, text, len);
    }
    serve_puts(out, "},\"logprobs\":");
    put_chat_logprobs(call, a);
    serve_puts(out, ",\"finish_reason\":");
    if (finish) serve_put_json_str(out, finish);
    else serve_puts(out, "null");
    serve_puts(out, call->include_usage ? "}],\"usage\":null}\n\n" : "}]}\n\n");
}

static void chat_begin(serve_call *call)
{
    for (unsigned i = 0; i < call->n_answers; i++) {
        serve_puts(&call->out, "data: ");
        put_head(call, "chatcmpl", "chat.completion.chunk");
        serve_putf(&call->out,
                   ",\"choices\":[{\"index\":%u,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
                   "\"finish_reason\":null}]%s}\n\n",
                   i, call->include_usage ? ",\"usage\":null" : "");
    }
}

/* A chunk about the last call: its name, or more of its arguments. */
static void put_call_chunk(serve_call *call, serve_answer *a, const serve_part *begins, const char *text, size_t len)
{
    serve_text *out = &call->out;
    const unsigned k = a->parts[a->n_parts - 1].call;
    serve_puts(out, "data: ");
    put_head(call, "chatcmpl", "chat.completion.chunk");
    serve_putf(out, ",\"choices\":[{\"index\":%u,\"delta\":{\"tool_calls\":[{\"index\":%u,", index_of(call, a), k);
    if (begins) {
        serve_putf(out, "\"id\":\"call_%s_%u_%u\",\"type\":\"function\",\"function\":{\"name\":", call->id,
                   index_of(call, a), k);
        serve_put_json(out, a->names.data + begins->name_at, begins->name_len);
        serve_puts(out, ",\"arguments\":");
    } else serve_puts(out, "\"function\":{\"arguments\":");
    serve_put_json(out, text, len);
    serve_puts(out, "}}]},\"logprobs\":null,\"finish_reason\":null}]");
    serve_puts(out, call->include_usage ? ",\"usage\":null}\n\n" : "}\n\n");
}

static void chat_part(serve_call *call, serve_answer *a)
{
    const serve_part *p = &a->parts[a->n_parts - 1];
    if (p->kind == SERVE_CALL) put_call_chunk(call, a, p, "", 0);
}

static void chat_text(serve_call *call, serve_answer *a, serve_kind kind, const char *text, size_t len)
{
    if (kind == SERVE_ARGUMENTS) {
        put_call_chunk(call, a, NULL, text, len);
        return;
    }
    put_chat_chunk(call, a, kind == SERVE_TEXT ? "content" : "reasoning_content", text, len, NULL);
}

static void chat_finish(serve_call *call, serve_answer *a)
{
    put_chat_chunk(call, a, NULL, NULL, 0, serve_finish_openai(a));
}

static void end_stream(serve_call *call, const char *prefix, const char *object)
{
    if (call->include_usage) {
        serve_puts(&call->out, "data: ");
        put_head(call, prefix, object);
        serve_puts(&call->out, ",\"choices\":[],\"usage\":");
        put_usage(call);
        serve_puts(&call->out, "}\n\n");
    }
    serve_puts(&call->out, "data: [DONE]\n\n");
}

static void chat_end(serve_call *call) { end_stream(call, "chatcmpl", "chat.completion.chunk"); }
static void text_end(serve_call *call) { end_stream(call, "cmpl", "text_completion"); }
static void text_begin(serve_call *call) { (void)call; }

static void stream_failed(serve_call *call)
{
    serve_puts(&call->out, "data: {\"error\":{\"message\":");
    serve_put_json_str(&call->out, call->message);
    serve_putf(&call->out, ",\"type\":\"server_error\",\"param\":null,\"code\":%d}}\n\ndata: [DONE]\n\n", call->status);
}

/* ,"tool_calls":[...] when there are some. */
static void put_calls(serve_call *call, const serve_answer *a)
{
    serve_text *out = &call->out;
    for (size_t i = 0; i < a->n_parts; i++) {
        const serve_part *p = &a->parts[i];
        if (p->kind != SERVE_CALL) continue;
        serve_putf(out, "%s{\"id\":\"call_%s_%u_%u\",\"type\":\"function\",\"function\":{\"name\":",
                   p->call ? "," : ",\"tool_calls\":[", call->id, index_of(call, a), p->call);
        serve_put_json(out, a->names.data + p->name_at, p->name_len);
        serve_puts(out, ",\"arguments\":");
        serve_put_json(out, serve_part_text(a, p), p->len);
        serve_puts(out, "}}");
    }
    if (a->n_calls) serve_puts(out, "]");
}

static void chat_whole(serve_call *call)
{
    serve_text *out = &call->out;
    put_head(call, "chatcmpl", "chat.completion");
    serve_puts(out, ",\"choices\":[");
    for (unsigned i = 0; i < call->n_answers; i++) {
        serve_answer *a = &call->answers[i];
        serve_putf(out, "%s{\"index\":%u,\"message\":{\"role\":\"assistant\",\"content\":", i ? "," : "", i);
        if (a->n_calls && !a->text.len) serve_puts(out, "null");
        else serve_put_json(out, a->text.data ? a->text.data : "", a->text.len);
        if (a->reasoning.len) {
            serve_puts(out, ",\"reasoning_content\":");
            serve_put_json(out, a->reasoning.data, a->reasoning.len);
        }
        put_calls(call, a);
        serve_puts(out, ",\"refusal\":null},\"logprobs\":");
        put_chat_logprobs(call, a);
        serve_putf(out, ",\"finish_reason\":\"%s\"}", serve_finish_openai(a));
    }
    serve_puts(out, "],\"usage\":");
    put_usage(call);
    serve_puts(out, "}");
}

static void put_text_choice(serve_call *call, serve_answer *a, const char *text, size_t len, bool ended)
{
    serve_putf(&call->out, "{\"index\":%u,\"text\":", index_of(call, a));
    serve_put_json(&call->out, text, len);
    serve_puts(&call->out, ",\"logprobs\":");
    put_text_logprobs(call, a);
    if (ended) serve_putf(&call->out, ",\"finish_reason\":\"%s\"}", serve_finish_openai(a));
    else serve_puts(&call->out, ",\"finish_reason\":null}");
}

static void put_text_chunk(serve_call *call, serve_answer *a, const char *text, size_t len, bool ended)
{
    serve_puts(&call->out, "data: ");
    put_head(call, "cmpl", "text_completion");
    serve_puts(&call->out, ",\"choices\":[");
    put_text_choice(call, a, text, len, ended);
    serve_puts(&call->out, call->include_usage ? "],\"usage\":null}\n\n" : "]}\n\n");
}

static void text_text(serve_call *call, serve_answer *a, serve_kind kind, const char *text, size_t len)
{
    (void)kind;
    put_text_chunk(call, a, text, len, false);
}

static void text_finish(serve_call *call, serve_answer *a) { put_text_chunk(call, a, "", 0, true); }

static void text_whole(serve_call *call)
{
    put_head(call, "cmpl", "text_completion");
    serve_puts(&call->out, ",\"choices\":[");
    for (unsigned i = 0; i < call->n_answers; i++) {
        serve_answer *a = &call->answers[i];
        if (i) serve_puts(&call->out, ",");
        put_text_choice(call, a, a->text.data ? a->text.data : "", a->text.len, true);
    }
    serve_puts(&call->out, "],\"usage\":");
    put_usage(call);
    serve_puts(&call->out, "}");
}

const serve_shape serve_chat_shape = {.name = "chat",
                                      .parse = parse_chat,
                                      .begin = chat_begin,
                                      .part_begin = chat_part,
                                      .text = chat_text,
                                      .finish = chat_finish,
                                      .end = chat_end,
                                      .failed = stream_failed,
                                      .whole = chat_whole};
const serve_shape serve_completions_shape = {.name = "completions",
                                             .parse = parse_completions,
                                             .begin = text_begin,
                                             .text = text_text,
                                             .finish = text_finish,
                                             .end = text_end,
                                             .failed = stream_failed,
                                             .whole = text_whole};
