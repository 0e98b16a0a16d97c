/* serve_embeddings.c - /v1/embeddings: hidden states of the inputs, pooled. A prompt fills steps by itself, so inputs come one after the other on one
 * seat, between the steps of answers. Which pooling a model wants is not in a request of OpenAI's API: --pooling, or the request's `pooling`. */
#define _POSIX_C_SOURCE 200809L
#include "serve.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MOST_INPUTS 2048u

static bool parse(serve_call *call)
{
    static const char *const known[] = {"model",      "input",   "encoding_format", "dimensions", "user",
                                        "input_type", "pooling", "normalize",       NULL};
    const serve_json *j = &call->json;
    const serve_node *format = serve_json_get(j, call->body, "encoding_format"),
                     *pooling = serve_json_get(j, call->body, "pooling");
    const int64_t width = call->server->info.hidden_size;
    int64_t wanted = width;
    call->normalize = true;
    call->pooling = call->server->pooling;
    if (!serve_params(call, known) || !serve_param_bool(call, "normalize", &call->normalize) ||
        !serve_param_i64(call, "dimensions", 1, INT32_MAX, &wanted))
        return false;
    if (wanted != width)
        return serve_fail(call, 400, "dimensions",
                          "dimensions: found %lld, this model has %lld, which are not cut: nothing says that it was "
                          "trained for that",
                          (long long)wanted, (long long)width);
    call->base64 = serve_json_is(j, format, "base64");
    if (format && !call->base64 && !serve_json_is(j, format, "float"))
        return serve_fail(call, 400, "encoding_format", "encoding_format: need \"float\" or \"base64\"");
    if (serve_json_is(j, pooling, "mean")) call->pooling = KVRT_POOL_MEAN;
    else if (serve_json_is(j, pooling, "last")) call->pooling = KVRT_POOL_LAST;
    else if (pooling) return serve_fail(call, 400, "pooling", "pooling: need \"mean\" or \"last\"");
    return serve_prompts(call, "input", MOST_INPUTS, "this server computes");
}

/* Little-endian f32. */
static void put_base64(serve_text *out, const float *row, uint32_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const size_t len = (size_t)n * 4;
    for (size_t i = 0; i < len; i += 3) {
        uint32_t three = 0;
        for (size_t k = 0; k < 3; k++) {
            uint32_t bits = 0;
            if (i + k < len) memcpy(&bits, &row[(i + k) / 4], 4);
            three = three << 8 | ((bits >> (i + k) % 4 * 8) & 255u);
        }
        char four[4];
        for (size_t k = 0; k < 4; k++) four[k] = i + k > len ? '=' : digits[three >> (18 - 6 * k) & 63u];
        serve_put(out, four, 4);
    }
}

static bool put(serve_call *call, unsigned i, const float *row, uint32_t n)
{
    serve_text *out = &call->out;
    for (uint32_t k = 0; k < n; k++)
        if (!isfinite(row[k])) return serve_fail(call, 500, NULL, "input %u: a hidden state is no number", i);
    serve_putf(out, "%s{\"object\":\"embedding\",\"index\":%u,\"embedding\":%s", i ? "," : "", i,
               call->base64 ? "\"" : "[");
    if (call->base64) put_base64(out, row, n);
    for (uint32_t k = 0; k < n && !call->base64; k++) serve_putf(out, k ? ",%.9g" : "%.9g", (double)row[k]);
    serve_puts(out, call->base64 ? "\"}" : "]}");
    return true;
}

/* Until it is done, or nobody waits for it. */
static bool wait_for(serve_call *call, serve_job *job)
{
    serve_server *s = call->server;
    bool done = false;
    while (!done && !serve_client_left(call)) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += 200 * 1000 * 1000;
        if (until.tv_nsec >= 1000000000) until.tv_nsec -= 1000000000, until.tv_sec++;
        pthread_mutex_lock(&s->lock);
        if (!job->done) (void)pthread_cond_timedwait(&call->changed, &s->lock, &until);
        done = job->done;
        pthread_mutex_unlock(&s->lock);
    }
    if (done) return true;
    kvrt_cancel_id(job->request);
    serve_job_wait(s, job); /* it writes into the row */
    return serve_fail(call, 499, NULL, "the client has gone");
}

static bool embed(serve_call *call, kvrt_session session, const serve_prompt *prompt, float *row)
{
    serve_server *s = call->server;
    kvrt_error error = {.size = sizeof error};
    const kvrt_embed_params params = {.size = sizeof params,
                                      .pooling = call->pooling,
                                      .normalize = call->normalize,
                                      .out = row,
                                      .cap = s->info.hidden_size};
    serve_job job = {.changed = &call->changed, .embed = &params};
    pthread_mutex_lock(&s->engine_lock);
    int32_t status = kvrt_session_sync(session, prompt->ids, prompt->n, NULL, &error);
    pthread_mutex_unlock(&s->engine_lock);
    if (status >= 0) status = serve_job_start(s, &job, session, NULL, &error);
    if (status < 0) return serve_fail_kvrt(call, status, "input", &error);
    bool ok = wait_for(call, &job);
    if (ok && job.status == KVRT_CANCELLED) ok = serve_fail(call, 503, NULL, "cancelled: the server is shutting down");
    else if (ok && job.status < 0) ok = serve_fail(call, 500, NULL, "%s", job.message);
    serve_job_free(&job);
    return ok;
}

static bool compute(serve_call *call)
{
    serve_server *s = call->server;
    kvrt_error error = {.size = sizeof error};
    const uint32_t width = s->info.hidden_size;
    size_t n_tokens = 0;
    serve_seat *seat = NULL;
    float *row = malloc(width * sizeof *row);
    if (!row) return serve_fail(call, 500, NULL, "out of memory");
    const int32_t status = serve_seat_borrow(s, &seat, &error);
    bool ok = status >= 0 || serve_fail_kvrt(call, status, NULL, &error);
    serve_puts(&call->out, "{\"object\":\"list\",\"data\":[");
    for (unsigned i = 0; i < call->n_prompts && ok; i++) {
        ok = embed(call, seat->session, &call->prompts[i], row) && put(call, i, row, width);
        n_tokens += call->prompts[i].n;
    }
    if (seat) serve_seat_drop(s, seat);
    pthread_mutex_lock(&s->lock);
    s->counts.embedded_tokens += ok ? n_tokens : 0;
    pthread_mutex_unlock(&s->lock);
    free(row);
    serve_puts(&call->out, "],\"model\":");
    serve_put_json_str(&call->out, s->model);
    serve_putf(&call->out, ",\"usage\":{\"prompt_tokens\":%zu,\"total_tokens\":%zu}}", n_tokens, n_tokens);
    return ok;
}

const serve_shape serve_embeddings_shape = {.name = "embeddings", .parse = parse, .compute = compute};
