/* serve_jobs.c - the pump: takes the engine's events, whose queue all requests share, as they come, and puts each into its job, so
 * that no client that reads slowly holds up the others. What waits for one client is bounded: SERVE_PENDING, then its request is
 * cancelled. */
#include "serve.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

void serve_wake(void *server)
{
    const uint64_t one = 1;
    if (write(((serve_server *)server)->wake_fd, &one, sizeof one) < 0)
        return; /* it is full: the pump will wake anyway */
}

/* False without memory. */
static bool add_news(serve_news *news, serve_kind kind, const kvrt_event *event)
{
    if (news->n == news->cap) {
        const size_t cap = news->cap * 2 + 16;
        serve_delta *grown = realloc(news->deltas, cap * sizeof *grown);
        if (!grown) return false;
        news->deltas = grown;
        news->cap = cap;
    }
    news->deltas[news->n++] = (serve_delta){kind, news->bytes.len, event->text_len, event->token, event->logprob};
    serve_put(&news->bytes, event->text, event->text_len);
    return !news->bytes.failed;
}

static bool add_piece(serve_job *job, const kvrt_event *event)
{
    if (job->n_ids == job->cap_ids) {
        const size_t cap = job->cap_ids * 2 + 64;
        int32_t *ids = realloc(job->ids, cap * sizeof *ids);
        if (ids) job->ids = ids;
        size_t *ends = ids ? realloc(job->ends, cap * sizeof *ends) : NULL;
        if (!ends) return false;
        job->ends = ends;
        job->cap_ids = cap;
    }
    serve_put(&job->pieces, event->text, event->text_len);
    job->ids[job->n_ids] = event->token;
    job->ends[job->n_ids++] = job->pieces.len;
    return !job->pieces.failed;
}

/* Under the lock. */
static void take_event(serve_job *job, const kvrt_event *event)
{
    bool ok = true;
    if (event->type == KVRT_EVENT_TOKEN) ok = add_piece(job, event) && add_news(&job->news, SERVE_TOKEN, event);
    if (event->type == KVRT_EVENT_ALTERNATIVE) ok = add_news(&job->news, SERVE_ALTERNATIVE, event);
    if (event->type == KVRT_EVENT_TOOL_END && job->one_call) {
        job->enough = true;
        kvrt_cancel_id(job->request);
    }
    const bool tells = !job->enough; /* what was under way behind it is nobody's */
    if (tells && event->type == KVRT_EVENT_REASONING) ok = add_news(&job->news, SERVE_REASONING, event);
    if (tells && event->type == KVRT_EVENT_TOOL_CALL) ok = add_news(&job->news, SERVE_CALL, event);
    if (tells && event->type == KVRT_EVENT_TOOL_ARGUMENTS) ok = add_news(&job->news, SERVE_ARGUMENTS, event);
    if (tells && (event->type == KVRT_EVENT_TEXT || (event->type == KVRT_EVENT_DONE && event->text_len)))
        ok = add_news(&job->news, SERVE_TEXT, event);
    if (event->type == KVRT_EVENT_ERROR) {
        job->status = event->status;
        snprintf(job->message, sizeof job->message, "%.*s", (int)(event->text_len < 255 ? event->text_len : 255),
                 event->text);
    }
    if (event->type == KVRT_EVENT_DONE || event->type == KVRT_EVENT_ERROR) {
        job->finish = event->finish;
        job->done = true;
    }
    if (!job->done && !job->too_slow &&
        (!ok || job->news.bytes.len > SERVE_PENDING || job->news.n > SERVE_PENDING / 16)) {
        job->too_slow = true;
        kvrt_cancel_id(job->request);
    }
    pthread_cond_broadcast(job->changed);
}

/* Time to the first token, and from each to the next. */
static void measure(serve_counts *c, serve_job *job)
{
    const uint64_t now = serve_now_us();
    if (job->token_us) serve_observe(&c->next_token, now - job->token_us);
    else serve_observe(&c->first_token, now - job->since_us);
    job->token_us = now;
}

static void dispatch(serve_server *s, const kvrt_event *event)
{
    pthread_mutex_lock(&s->lock);
    for (serve_job **at = &s->jobs; *at; at = &(*at)->next) {
        serve_job *job = *at;
        if (job->request != event->request) continue;
        if (event->type == KVRT_EVENT_DONE || event->type == KVRT_EVENT_ERROR) *at = job->next;
        if (event->type == KVRT_EVENT_TOKEN && job->since_us) measure(&s->counts, job);
        take_event(job, event);
        break;
    }
    pthread_mutex_unlock(&s->lock);
}

static void *pump(void *server)
{
    serve_server *s = server;
    struct pollfd wait = {.fd = s->wake_fd, .events = POLLIN};
    for (bool ends = false; !ends;) {
        uint64_t count;
        kvrt_event event = {.size = sizeof event};
        (void)poll(&wait, 1, -1);
        if (read(s->wake_fd, &count, sizeof count) < 0) continue;
        while (kvrt_poll(s->engine, &event, NULL) == KVRT_OK) dispatch(s, &event);
        pthread_mutex_lock(&s->lock);
        ends = s->pump_ends;
        pthread_mutex_unlock(&s->lock);
    }
    return NULL;
}

bool serve_pump_start(serve_server *s)
{
    s->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (s->wake_fd < 0) return false;
    if (pthread_create(&s->pump, NULL, pump, s) == 0) return true;
    (void)close(s->wake_fd);
    return false;
}

void serve_pump_stop(serve_server *s)
{
    pthread_mutex_lock(&s->lock);
    s->pump_ends = true;
    pthread_mutex_unlock(&s->lock);
    serve_wake(s);
    pthread_join(s->pump, NULL);
    (void)close(s->wake_fd);
}

static void forget(serve_server *s, const serve_job *job)
{
    pthread_mutex_lock(&s->lock);
    for (serve_job **at = &s->jobs; *at; at = &(*at)->next)
        if (*at == job) {
            *at = job->next;
            break;
        }
    pthread_mutex_unlock(&s->lock);
}

int32_t serve_job_start(serve_server *s, serve_job *job, kvrt_session session, const kvrt_options *options,
                        kvrt_error *error)
{
    /* The number is known before the first event can come. */
    int32_t status = kvrt_request_reserve(session, &job->request, error);
    if (status < 0) return status;
    pthread_mutex_lock(&s->lock);
    job->next = s->jobs;
    s->jobs = job;
    if (s->aborting) kvrt_cancel_id(job->request);
    pthread_mutex_unlock(&s->lock);
    pthread_mutex_lock(&s->engine_lock);
    status =
        job->embed ? kvrt_submit_embed(session, job->embed, NULL, error) : kvrt_submit(session, options, NULL, error);
    pthread_mutex_unlock(&s->engine_lock);
    if (status < 0) {
        forget(s, job);
        job->request = 0;
    }
    return status;
}

void serve_job_wait(serve_server *s, serve_job *job)
{
    pthread_mutex_lock(&s->lock);
    while (job->request && !job->done) pthread_cond_wait(job->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
}

void serve_job_free(serve_job *job)
{
    serve_text_free(&job->news.bytes);
    free(job->news.deltas);
    free(job->ids);
    free(job->ends);
    serve_text_free(&job->pieces);
}
