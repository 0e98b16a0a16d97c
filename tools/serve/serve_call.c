/* serve_call.c - a request that generates, from its body to the last byte of its answer. */
#define _POSIX_C_SOURCE 200809L
#include "serve.h"

#include <microhttpd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LOOK_MS 100u
#define SILENCE_MS 15000u /* behind so much of it a stream says a comment, so that nobody between takes it for dead */

/* ------------------------------------------------------------------------------------------------------ errors --- */
bool serve_fail(serve_call *call, int status, const char *param, const char *format, ...)
{
    va_list args;
    if (call->status) return false;
    call->status = status;
    va_start(args, format);
    vsnprintf(call->message, sizeof call->message, format, args);
    va_end(args);
    snprintf(call->param, sizeof call->param, "%s", param ? param : "");
    return false;
}

bool serve_fail_kvrt(serve_call *call, int32_t status, const char *param, const kvrt_error *error)
{
    const bool theirs = status == KVRT_ARG || status == KVRT_CTX_FULL || status == KVRT_TEMPLATE ||
                        status == KVRT_UNSUPPORTED || status == KVRT_GRAMMAR;
    const int code = theirs ? 400 : status == KVRT_OVER_BUDGET ? 503 : 500;
    (void)serve_fail(call, code, param, "%s", error->message[0] ? error->message : kvrt_status_text(status));
    if (status == KVRT_CTX_FULL) snprintf(call->code, sizeof call->code, "context_length_exceeded");
    return false;
}

/* ------------------------------------------------------------------------------------------------- begin and end --- */
/* Of an answer whose job is over, while it has its seat. */
static void count(const serve_call *call, serve_answer *a, serve_ending ending)
{
    serve_server *s = call->server;
    serve_counts *c = &s->counts;
    a->result.size = sizeof a->result;
    pthread_mutex_lock(&s->engine_lock);
    (void)kvrt_session_result(a->seat->session, &a->result, NULL);
    pthread_mutex_unlock(&s->engine_lock);
    pthread_mutex_lock(&s->lock);
    c->endings[ending]++;
    c->prompt_tokens += a->result.n_prompt;
    c->cached_tokens += a->result.n_reused;
    c->generated_tokens += a->result.n_generated;
    c->drafted_tokens += a->result.n_drafted;
    c->accepted_tokens += a->result.n_accepted;
    serve_observe(&c->whole, serve_now_us() - call->since_us);
    pthread_mutex_unlock(&s->lock);
}

static serve_ending ending_of(const serve_answer *a)
{
    const serve_job *job = &a->job;
    if (job->too_slow || (!job->enough && (job->finish == KVRT_FINISH_CANCELLED || job->status == KVRT_CANCELLED)))
        return SERVE_CANCELLED;
    if (!job->enough && job->status < 0) return SERVE_FAILED;
    if (a->finish == KVRT_FINISH_LENGTH || a->finish == KVRT_FINISH_CTX_FULL) return SERVE_LENGTH;
    return a->n_calls ? SERVE_CALLED : SERVE_STOPPED;
}

static void end_seats(serve_call *call)
{
    serve_server *s = call->server;
    for (unsigned i = 0; i < call->n_answers; i++) {
        serve_answer *a = &call->answers[i];
        if (!a->seat) continue;
        if (!a->ended) kvrt_cancel_id(a->job.request);
        serve_job_wait(s, &a->job);
        if (!a->ended) count(call, a, SERVE_CANCELLED);
        serve_seat_return(s, a->seat, a->prompt, &a->job);
        a->seat = NULL;
    }
    serve_seats_give_back(s, call->n_seats);
    call->n_seats = 0;
}

static void free_answer(serve_answer *a)
{
    serve_job_free(&a->job);
    serve_text_free(&a->text);
    serve_text_free(&a->reasoning);
    serve_text_free(&a->arguments);
    serve_text_free(&a->names);
    serve_text_free(&a->blanks);
    serve_text_free(&a->token_bytes);
    free(a->tokens);
    free(a->others);
    free(a->parts);
}

static void call_free(void *of)
{
    serve_call *call = of;
    end_seats(call);
    for (unsigned i = 0; i < call->n_answers; i++) free_answer(&call->answers[i]);
    for (unsigned i = 0; i < call->n_prompts; i++) serve_prompt_free(&call->prompts[i]);
    for (unsigned i = 0; i < SERVE_STOPS; i++) serve_text_free(&call->stops[i]);
    free(call->answers);
    free(call->prompts);
    serve_json_free(&call->json);
    kvrt_options_destroy(call->options);
    serve_text_free(&call->out);
    serve_text_free(&call->echo);
    pthread_cond_destroy(&call->changed);
    free(call);
}

static serve_call *call_new(serve_server *s, struct MHD_Connection *connection, const serve_shape *shape)
{
    serve_call *call = calloc(1, sizeof *call);
    if (!call) return NULL;
    *call = (serve_call){
        .server = s, .shape = shape, .connection = connection, .seed = -1, .n = 1, .created = (int64_t)time(NULL)};
    call->since_us = serve_now_us();
    call->told_ms = call->since_us / 1000;
    pthread_cond_init(&call->changed, NULL);
    pthread_mutex_lock(&s->lock);
    const uint64_t serial = ++s->serial;
    s->counts.requests++;
    pthread_mutex_unlock(&s->lock);
    snprintf(call->id, sizeof call->id, "%llx%06llx", (unsigned long long)s->started, (unsigned long long)serial);
    return call;
}

/* Submits all answers. */
static bool start(serve_call *call)
{
    serve_server *s = call->server;
    for (unsigned i = 0; i < call->n_answers; i++) {
        kvrt_error error = {.size = sizeof error};
        serve_answer *a = &call->answers[i];
        a->prompt = &call->prompts[i / call->n];
        a->job.changed = &call->changed;
        a->job.one_call = call->one_call;
        a->job.since_us = call->since_us;
        const int64_t seed = call->seed < 0 ? -1 : call->seed + i % call->n;
        if (seed >= 0 && !serve_set_i64(call, "seed", "sample.seed", seed)) return false;
        int32_t status = serve_seat_take(s, a->prompt, seed, &a->seat, &error);
        if (status >= 0) status = serve_job_start(s, &a->job, a->seat->session, call->options, &error);
        if (status < 0) return serve_fail_kvrt(call, status, NULL, &error);
    }
    return true;
}

/* -------------------------------------------------------------------------------------------------------- news --- */
/* Appends to a list of tokens; false without memory. */
static bool list_token(serve_token **list, size_t *n, size_t *cap, serve_token token)
{
    if (*n == *cap) {
        const size_t more = *cap * 2 + 64;
        serve_token *grown = realloc(*list, more * sizeof *grown);
        if (!grown) return false;
        *list = grown;
        *cap = more;
    }
    (*list)[(*n)++] = token;
    return true;
}

static void add_token(serve_call *call, serve_answer *a, const serve_delta *d, const char *bytes)
{
    serve_token token = {.at = a->token_bytes.len, .len = d->len, .id = d->token, .logprob = d->logprob};
    if (!call->logprobs) return;
    bool ok = true;
    if (d->kind == SERVE_ALTERNATIVE) {
        ok = list_token(&a->others, &a->n_others, &a->cap_others, token);
        a->n_next += ok;
    } else {
        token.n_others = a->n_next;
        token.first = a->n_others - a->n_next;
        a->n_next = 0;
        if (!d->len) return; /* an end-of-text token has no text */
        ok = list_token(&a->tokens, &a->n_tokens, &a->cap_tokens, token);
    }
    serve_put(&a->token_bytes, bytes, d->len);
    if (!ok) call->broken = true;
}

/* What a part's bytes are in. */
static serve_text *text_of(serve_answer *a, serve_kind kind)
{
    return kind == SERVE_TEXT ? &a->text : kind == SERVE_REASONING ? &a->reasoning : &a->arguments;
}

static void begin_part(serve_call *call, serve_answer *a, serve_kind kind, const char *name, size_t name_len)
{
    if (a->n_parts && call->stream && call->shape->part_end) call->shape->part_end(call, a);
    if (a->n_parts == a->cap_parts) {
        const size_t cap = a->cap_parts * 2 + 2;
        serve_part *grown = realloc(a->parts, cap * sizeof *grown);
        if (!grown) {
            call->broken = true;
            return;
        }
        a->parts = grown;
        a->cap_parts = cap;
    }
    a->parts[a->n_parts++] = (serve_part){kind, text_of(a, kind)->len, 0, a->names.len, name_len, a->n_calls};
    serve_put(&a->names, name, name_len);
    a->n_calls += kind == SERVE_CALL;
    if (call->stream && call->shape->part_begin) call->shape->part_begin(call, a);
}

/* Blanks behind a call of a tool are text only if text follows: between calls, and at the end, they are the model's format. */
static bool holds_back(serve_answer *a, serve_kind kind, const char *text, size_t len)
{
    size_t blank = 0;
    if (kind != SERVE_TEXT || !a->n_parts || a->parts[a->n_parts - 1].kind != SERVE_CALL) {
        if (kind != SERVE_ARGUMENTS) serve_text_clear(&a->blanks);
        return false;
    }
    while (blank < len && strchr(" \t\r\n", text[blank]) && text[blank]) blank++;
    if (blank < len) return false;
    serve_put(&a->blanks, text, len);
    return true;
}

static void tell_text(serve_call *call, serve_answer *a, serve_kind kind, const char *text, size_t len)
{
    if (holds_back(a, kind, text, len)) return;
    if (kind == SERVE_CALL) {
        begin_part(call, a, kind, text, len);
        return;
    }
    const serve_kind part = kind == SERVE_ARGUMENTS ? SERVE_CALL : kind;
    if (!a->n_parts || a->parts[a->n_parts - 1].kind != part) begin_part(call, a, part, "", 0);
    if (call->broken) return;
    serve_text held = a->blanks;
    a->blanks = (serve_text){0};
    if (held.failed) call->broken = true;
    if (held.len) tell_text(call, a, kind, held.data, held.len);
    serve_text_free(&held);
    serve_put(text_of(a, part), text, len);
    a->parts[a->n_parts - 1].len += len;
    if (call->stream) call->shape->text(call, a, kind, text, len);
}

const char *serve_part_text(const serve_answer *a, const serve_part *part)
{
    const char *text = part->kind == SERVE_TEXT        ? a->text.data
                       : part->kind == SERVE_REASONING ? a->reasoning.data
                                                       : a->arguments.data;
    return text ? text + part->at : "";
}

/* Neighbours of one kind go out together: a client that fell behind gets fewer, larger pieces. */
static void tell(serve_call *call, serve_answer *a, const serve_news *news)
{
    serve_text piece = {0};
    serve_kind kind = SERVE_TEXT;
    for (size_t i = 0; i < news->n; i++) {
        const serve_delta *d = &news->deltas[i];
        if (d->kind == SERVE_TOKEN || d->kind == SERVE_ALTERNATIVE) {
            add_token(call, a, d, news->bytes.data + d->at);
            a->n_unsorted += d->kind == SERVE_TOKEN;
            continue;
        }
        if (d->kind == SERVE_REASONING) a->n_reasoned += a->n_unsorted;
        a->n_unsorted = 0;
        if (piece.len && (d->kind != kind || kind == SERVE_CALL)) {
            tell_text(call, a, kind, piece.data, piece.len);
            serve_text_clear(&piece);
        }
        kind = d->kind;
        serve_put(&piece, news->bytes.data + d->at, d->len);
    }
    if (piece.len) tell_text(call, a, kind, piece.data, piece.len);
    if (piece.failed) call->broken = true;
    serve_text_free(&piece);
}

static void end_answer(serve_call *call, serve_answer *a)
{
    const serve_job *job = &a->job;
    a->ended = true;
    a->finish = job->enough ? KVRT_FINISH_EOS : job->finish;
    count(call, a, ending_of(a));
    if (job->too_slow) (void)serve_fail(call, 500, NULL, "the client reads too slowly");
    else if (!job->enough && (job->finish == KVRT_FINISH_CANCELLED || job->status == KVRT_CANCELLED))
        (void)serve_fail(call, 503, NULL, "cancelled: the server is shutting down");
    else if (job->status < 0) (void)serve_fail(call, 500, NULL, "%s", job->message);
    else {
        if (!a->n_parts) begin_part(call, a, SERVE_TEXT, "", 0); /* it said nothing */
        if (call->stream && a->n_parts && call->shape->part_end) call->shape->part_end(call, a);
        if (call->stream) call->shape->finish(call, a);
    }
}

bool serve_client_left(serve_call *call)
{
    const uint64_t now = serve_now_ms();
    if (now - call->looked_ms < LOOK_MS) return false;
    call->looked_ms = now;
    return serve_client_gone(call->connection);
}

/* Waits a little for news and tells them. */
static void advance(serve_call *call)
{
    serve_server *s = call->server;
    bool any = false, all = true;
    pthread_mutex_lock(&s->lock);
    for (unsigned i = 0; i < call->n_answers; i++)
        any = any || call->answers[i].job.news.n || (call->answers[i].job.done && !call->answers[i].ended);
    if (!any) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += 200 * 1000 * 1000;
        if (until.tv_nsec >= 1000000000) until.tv_nsec -= 1000000000, until.tv_sec++;
        (void)pthread_cond_timedwait(&call->changed, &s->lock, &until);
    }
    pthread_mutex_unlock(&s->lock);
    for (unsigned i = 0; i < call->n_answers; i++) {
        serve_answer *a = &call->answers[i];
        if (a->ended) continue;
        pthread_mutex_lock(&s->lock);
        serve_news news = a->job.news;
        const bool done = a->job.done;
        a->job.news = (serve_news){0};
        pthread_mutex_unlock(&s->lock);
        tell(call, a, &news);
        serve_text_free(&news.bytes);
        free(news.deltas);
        if (done) end_answer(call, a);
        all = all && a->ended;
    }
    if (call->broken || call->out.failed) (void)serve_fail(call, 500, NULL, "out of memory");
    if (all || call->status) {
        call->over = true;
        end_seats(call);
        if (call->stream && call->status) call->shape->failed(call);
        else if (call->stream) call->shape->end(call);
    }
}

static ssize_t read_stream(void *of, uint64_t at, char *to, size_t room)
{
    serve_call *call = of;
    (void)at;
    for (;;) {
        if (call->sent < call->out.len) {
            const size_t rest = call->out.len - call->sent, n = rest < room ? rest : room;
            memcpy(to, call->out.data + call->sent, n);
            call->sent += n;
            call->told_ms = serve_now_ms();
            return (ssize_t)n;
        }
        serve_text_clear(&call->out);
        call->sent = 0;
        if (call->over) return MHD_CONTENT_READER_END_OF_STREAM;
        if (!call->begun) call->begun = true, call->shape->begin(call);
        else advance(call);
        if (!call->over && serve_client_left(call)) return MHD_CONTENT_READER_END_WITH_ERROR;
        if (serve_now_ms() - call->told_ms > SILENCE_MS && !call->out.len) serve_puts(&call->out, ": computing\n\n");
    }
}

/* --------------------------------------------------------------------------------------------------------- run --- */
static int answer_error(serve_call *call)
{
    const int result = serve_reply_error(call->server, call->connection, call->shape, call->status, call->param,
                                         call->code, call->message);
    call_free(call);
    return result;
}

/* The client has gone. */
static int answer_nobody(serve_call *call)
{
    serve_count_left(call->server);
    call_free(call);
    return MHD_NO;
}

static int answer_stream(serve_call *call)
{
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 8192, read_stream, call, call_free);
    if (!response) {
        call_free(call);
        return MHD_NO;
    }
    (void)MHD_add_response_header(response, "Content-Type", "text/event-stream; charset=utf-8");
    (void)MHD_add_response_header(response, "Cache-Control", "no-store");
    (void)MHD_add_response_header(response, "X-Accel-Buffering", "no");
    if (call->server->cors) (void)MHD_add_response_header(response, "Access-Control-Allow-Origin", call->server->cors);
    serve_count_stream(call->server);
    const enum MHD_Result result = MHD_queue_response(call->connection, MHD_HTTP_OK, response);
    MHD_destroy_response(response);
    return (int)result;
}

/* What is in call->out. */
static int answer_text(serve_call *call)
{
    if (call->out.failed) {
        (void)serve_fail(call, 500, NULL, "out of memory");
        return answer_error(call);
    }
    const int result = serve_reply(call->server, call->connection, 200, "application/json", &call->out);
    call_free(call);
    return result;
}

static int answer_whole(serve_call *call)
{
    while (!call->over) {
        advance(call);
        if (!call->over && serve_client_left(call)) return answer_nobody(call);
    }
    if (!call->status) call->shape->whole(call);
    return call->status ? answer_error(call) : answer_text(call);
}

static bool prepare(serve_call *call, const char *body, size_t len)
{
    kvrt_error error = {.size = sizeof error};
    if (!serve_json_read(&call->json, body, len))
        return serve_fail(call, 400, NULL, "body: not valid JSON at byte %zu: %s", call->json.at, call->json.error);
    call->body = call->json.nodes;
    if (call->body->type != SERVE_OBJECT)
        return serve_fail(call, 400, NULL, "body: need an object, found %s", serve_json_type_name(call->body));
    if (kvrt_options_create(&call->options, &error) < 0) return serve_fail(call, 500, NULL, "%s", error.message);
    if (kvrt_options_set_bool(call->options, "gen.token_events", 1, &error) < 0)
        return serve_fail(call, 500, NULL, "%s", error.message);
    if (!call->shape->parse(call)) return false;
    if (call->server->role == SERVE_PREFILL && !serve_set_i64(call, NULL, "gen.max_tokens", 1)) return false;
    const bool answers = !call->shape->compute;
    const uint64_t n = answers ? (uint64_t)call->n_prompts * call->n : 1;
    for (unsigned i = 0; i < call->n_prompts; i++) {
        if (!call->prompts[i].n) return serve_fail(call, 400, NULL, "the prompt has 0 tokens, need at least 1");
        if (call->prompts[i].n + answers > call->server->info.ctx_size) {
            snprintf(call->code, sizeof call->code, "context_length_exceeded");
            return serve_fail(call, 400, NULL, "the prompt has %zu tokens, the context %u%s", call->prompts[i].n,
                              call->server->info.ctx_size, answers ? ": need at least one more for the answer" : "");
        }
    }
    if (n > call->server->n_seats)
        return serve_fail(call, 400, "n", "%llu answers at once, this server computes %u (--sessions)",
                          (unsigned long long)n, call->server->n_seats);
    call->answers = calloc(n, sizeof *call->answers);
    if (!call->answers) return serve_fail(call, 500, NULL, "out of memory");
    call->n_answers = (unsigned)n;
    return true;
}

int serve_call_run(serve_server *s, struct MHD_Connection *connection, const serve_shape *shape, const char *body,
                   size_t len)
{
    serve_call *call = call_new(s, connection, shape);
    if (!call) return MHD_NO;
    if (!prepare(call, body, len)) return answer_error(call);
    const int code = serve_seats_wait(call);
    if (code == 499) return answer_nobody(call);
    if (code == 429)
        (void)serve_fail(call, 429, NULL, "%u requests are waiting already, try again later", s->max_waiting);
    if (code == 503) (void)serve_fail(call, 503, NULL, "the server is shutting down");
    if (!call->status && shape->compute) {
        if (shape->compute(call)) return answer_text(call);
        if (call->status == 499) return answer_nobody(call);
    }
    if (call->status || !start(call)) return answer_error(call);
    /* The body belongs to the connection, which forgets it; a stream outlives it. */
    serve_json_free(&call->json);
    call->body = NULL;
    return call->stream ? answer_stream(call) : answer_whole(call);
}

int serve_count_tokens(serve_server *s, struct MHD_Connection *connection, const char *body, size_t len)
{
    serve_call *call = call_new(s, connection, &serve_anthropic_shape);
    serve_text out = {0};
    if (!call) return MHD_NO;
    call->counts = true;
    if (!prepare(call, body, len)) return answer_error(call);
    serve_putf(&out, "{\"input_tokens\":%zu}", call->prompts->n);
    call_free(call);
    return serve_reply(s, connection, 200, "application/json", &out);
}

const char *serve_finish_openai(const serve_answer *a)
{
    if (a->finish == KVRT_FINISH_LENGTH || a->finish == KVRT_FINISH_CTX_FULL) return "length";
    return a->n_calls ? "tool_calls" : "stop";
}
