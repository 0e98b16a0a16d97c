/* serve_metrics.c - /metrics: what the server has counted, in Prometheus' text format (exposition format 0.0.4). Counters are kept under server.lock;
 * what the engine has is asked when somebody looks. */
#include "serve.h"

#include <stdio.h>

/* ---------------------------------------------------------------------------------------------------- counting --- */
static const double bounds[SERVE_BUCKETS] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                             0.5,   1,      2.5,   5,    10,    30,   60,  120};
static const int statuses[SERVE_STATUSES] = {200, 204, 400, 401, 403, 404, 405, 413, 429, 499, 500, 503};
static const char *const endings[SERVE_ENDINGS] = {"stop", "length", "tool_calls", "cancelled", "error"};

void serve_observe(serve_histogram *h, uint64_t us)
{
    const double seconds = (double)us / 1e6;
    unsigned i = 0;
    while (i < SERVE_BUCKETS && seconds > bounds[i]) i++;
    h->n[i]++;
    h->sum += seconds;
}

void serve_count_reply(serve_server *s, unsigned route, int status)
{
    pthread_mutex_lock(&s->lock);
    s->counts.refused += status >= 400 && status < 499;
    s->counts.failed += status >= 500;
    for (unsigned i = 0; i < SERVE_STATUSES; i++) s->counts.replies[route][i] += statuses[i] == status;
    pthread_mutex_unlock(&s->lock);
}

/* ----------------------------------------------------------------------------------------------------- writing --- */
static void head(serve_text *out, const char *name, const char *type, const char *help)
{
    serve_putf(out, "# HELP kvrt_%s %s\n# TYPE kvrt_%s %s\n", name, help, name, type);
}

static void metric(serve_text *out, const char *name, const char *type, const char *help, uint64_t value)
{
    head(out, name, type, help);
    serve_putf(out, "kvrt_%s %llu\n", name, (unsigned long long)value);
}

static void histogram(serve_text *out, const char *name, const char *help, const serve_histogram *h)
{
    uint64_t n = 0;
    head(out, name, "histogram", help);
    for (unsigned i = 0; i < SERVE_BUCKETS; i++) {
        n += h->n[i];
        serve_putf(out, "kvrt_%s_bucket{le=\"%g\"} %llu\n", name, bounds[i], (unsigned long long)n);
    }
    n += h->n[SERVE_BUCKETS];
    serve_putf(out, "kvrt_%s_bucket{le=\"+Inf\"} %llu\nkvrt_%s_sum %.9g\nkvrt_%s_count %llu\n", name,
               (unsigned long long)n, name, h->sum, name, (unsigned long long)n);
}

/* A label's value: backslash, quote and line end are escaped. */
static void put_label(serve_text *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '\\' || *text == '"') serve_put(out, "\\", 1);
        if (*text == '\n') serve_puts(out, "\\n");
        else serve_put(out, text, 1);
    }
}

static void replies(serve_text *out, const serve_counts *c)
{
    head(out, "http_requests_total", "counter", "Requests by route and status; 499: the client left.");
    for (unsigned r = 0; r < SERVE_ROUTES; r++)
        for (unsigned i = 0; i < SERVE_STATUSES; i++)
            if (c->replies[r][i])
                serve_putf(out, "kvrt_http_requests_total{route=\"%s\",status=\"%d\"} %llu\n", serve_route_name(r),
                           statuses[i], (unsigned long long)c->replies[r][i]);
}

static void of_answers(serve_text *out, const serve_counts *c)
{
    head(out, "answers_total", "counter", "Answers by what ended them.");
    for (unsigned i = 0; i < SERVE_ENDINGS; i++)
        serve_putf(out, "kvrt_answers_total{reason=\"%s\"} %llu\n", endings[i], (unsigned long long)c->endings[i]);
    metric(out, "prompt_tokens_total", "counter", "Tokens of prompts.", c->prompt_tokens);
    metric(out, "prompt_tokens_cached_total", "counter", "Of these, not computed again.", c->cached_tokens);
    metric(out, "generated_tokens_total", "counter", "Tokens generated.", c->generated_tokens);
    metric(out, "drafted_tokens_total", "counter", "Tokens that were guessed.", c->drafted_tokens);
    metric(out, "drafted_tokens_accepted_total", "counter", "Of these, those that came true.", c->accepted_tokens);
    metric(out, "embedded_tokens_total", "counter", "Tokens of inputs of embeddings.", c->embedded_tokens);
    histogram(out, "queue_seconds", "From a request to its session.", &c->queue);
    histogram(out, "time_to_first_token_seconds", "From a request to its first token.", &c->first_token);
    histogram(out, "time_per_output_token_seconds", "From a token to the next one.", &c->next_token);
    histogram(out, "answer_seconds", "From a request to the end of its answer.", &c->whole);
}

static void of_store(serve_text *out, const serve_store_counts *t)
{
    metric(out, "store_lookups_total", "counter", "Prompts that were looked for in the store.", t->lookups);
    metric(out, "store_hits_total", "counter", "Of these, found.", t->hits);
    metric(out, "store_misses_total", "counter", "Of these, not found.", t->lookups - t->hits);
    metric(out, "store_tokens_total", "counter", "Tokens of prompts that came from the store.", t->tokens);
    metric(out, "store_read_bytes_total", "counter", "Bytes of pages read from the store.", t->read_bytes);
    metric(out, "store_written_total", "counter", "Conversations written to the store.", t->written);
    metric(out, "store_written_bytes_total", "counter", "Bytes that it did not have yet.", t->written_bytes);
    metric(out, "store_dropped_total", "counter", "Conversations that it was too slow for.", t->dropped);
    metric(out, "store_errors_total", "counter", "Calls of the store that failed.", t->errors);
    metric(out, "store_damaged_total", "counter", "Objects that were not what they should be.", t->damaged);
}

int serve_metrics(serve_server *s, struct MHD_Connection *connection, const char *body, size_t len)
{
    serve_text out = {0};
    kvrt_memory memory = {.size = sizeof memory};
    (void)body, (void)len;
    pthread_mutex_lock(&s->engine_lock);
    (void)kvrt_mem_info(s->engine, &memory, NULL);
    unsigned kept = 0;
    for (unsigned i = 0; i < s->n_seats; i++) kept += s->seats[i].session != NULL;
    pthread_mutex_unlock(&s->engine_lock);
    pthread_mutex_lock(&s->lock);
    const serve_counts c = s->counts;
    const unsigned running = s->n_running, waiting = s->n_waiting;
    pthread_mutex_unlock(&s->lock);
    head(&out, "info", "gauge", "The model and the program.");
    serve_puts(&out, "kvrt_info{model=\"");
    put_label(&out, s->model);
    serve_putf(&out, "\",version=\"%s\",backend=\"%s\",kv_format=\"%s\"} 1\n", kvrt_version_string(), s->info.backend,
               s->info.kv_format);
    metric(&out, "start_time_seconds", "gauge", "When the server began, seconds since 1970.", (uint64_t)s->started);
    metric(&out, "requests_total", "counter", "Requests for answers and embeddings.", c.requests);
    metric(&out, "requests_refused_total", "counter", "Requests answered with a status of 4xx.", c.refused);
    metric(&out, "requests_failed_total", "counter", "Requests answered with a status of 5xx.", c.failed);
    metric(&out, "requests_running", "gauge", "Requests being computed.", running);
    metric(&out, "requests_waiting", "gauge", "Requests waiting for a session.", waiting);
    replies(&out, &c);
    of_answers(&out, &c);
    metric(&out, "sessions", "gauge", "Sessions that hold a conversation.", kept);
    metric(&out, "sessions_max", "gauge", "Sessions that fit.", s->n_seats);
    metric(&out, "kv_pool_bytes", "gauge", "Bytes of the KV pool.", memory.kv_pool_bytes);
    metric(&out, "kv_used_bytes", "gauge", "Of these, held by sessions.", memory.kv_used_bytes);
    metric(&out, "kv_cached_bytes", "gauge", "Of these, kept for whoever can use them.", memory.kv_cached_bytes);
    metric(&out, "kv_used_pages", "gauge", "Pages and states held by sessions.", memory.kv_used_pages);
    metric(&out, "kv_cached_pages", "gauge", "Pages and states kept for whoever can use them.", memory.kv_cached_pages);
    metric(&out, "host_bytes", "gauge", "Host memory taken by the engine.", memory.host_bytes);
    metric(&out, "device_bytes", "gauge", "Device memory taken by the engine.", memory.device_bytes);
    if (s->store) {
        const serve_store_counts t = serve_store_get_counts(s);
        of_store(&out, &t);
    }
    return serve_reply(s, connection, 200, "text/plain; version=0.0.4; charset=utf-8", &out);
}
