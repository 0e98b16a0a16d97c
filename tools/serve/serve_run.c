/* serve_run.c - the life of the server: worker, pump and connections begin, a signal is waited for, and all end in the other order.
 * The first SIGINT, SIGTERM or SIGHUP lets requests under way finish, the second cancels them. */
#define _GNU_SOURCE
#include "serve.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void say_address(const serve_server *s)
{
    const bool v6 = strchr(s->host, ':') != NULL;
    fprintf(stderr, "kvrt serve: %s, context %u, %u sessions; listening on http://%s%s%s:%d\n", s->model,
            s->info.ctx_size, s->n_seats, v6 ? "[" : "", s->host, v6 ? "]" : "", s->port);
    if (!s->is_loopback && !s->api_key)
        fprintf(stderr, "kvrt serve: others can reach this address and use it without a key (--api-key-file)\n");
}

static bool is_idle(serve_server *s)
{
    pthread_mutex_lock(&s->lock);
    /* What was computed has still to be sent; who reads nothing is given up by the connection's timeout, or by a second signal. */
    const bool idle = !s->n_running && !s->n_waiting && (!s->n_open || s->aborting);
    pthread_mutex_unlock(&s->lock);
    return idle;
}

static void cancel_all(serve_server *s)
{
    pthread_mutex_lock(&s->lock);
    s->aborting = true;
    for (const serve_job *job = s->jobs; job; job = job->next) kvrt_cancel_id(job->request);
    pthread_cond_broadcast(&s->freed);
    pthread_mutex_unlock(&s->lock);
}

static void wait_for_end(serve_server *s, const sigset_t *signals)
{
    int got = 0;
    while (sigwait(signals, &got) != 0) {
    }
    pthread_mutex_lock(&s->lock);
    s->draining = true;
    const unsigned n = s->n_open;
    pthread_mutex_unlock(&s->lock);
    serve_http_refuse(s);
    if (n) fprintf(stderr, "kvrt serve: shutting down; %u requests finish, a second signal cancels them\n", n);
    const struct timespec moment = {.tv_nsec = 50 * 1000 * 1000};
    while (!is_idle(s))
        if (sigtimedwait(signals, NULL, &moment) > 0) cancel_all(s);
}

int serve_run(serve_server *s)
{
    sigset_t signals, before;
    kvrt_error error = {.size = sizeof error};
    int code = 1;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    struct sigaction hangup; /* of the terminal, unless nohup says to go on */
    if (sigaction(SIGHUP, NULL, &hangup) == 0 && hangup.sa_handler != SIG_IGN) sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals, &before); /* all threads to come have it */
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->engine_lock, NULL);
    pthread_cond_init(&s->freed, NULL);
    s->started = (int64_t)time(NULL);
    s->n_free = s->n_seats;
    s->seats = calloc(s->n_seats, sizeof *s->seats);
    const bool pumps = s->seats && serve_keep_load(s) && serve_store_start(s) && serve_pump_start(s);
    int32_t status = pumps ? kvrt_worker_start(s->engine, serve_wake, s, &error) : KVRT_NOMEM_HOST;
    if (status < 0) fprintf(stderr, "kvrt serve: %s\n", error.message[0] ? error.message : "cannot begin");
    else if (serve_http_start(s) == 0) {
        say_address(s);
        wait_for_end(s, &signals);
        serve_http_stop(s);
        code = 0;
    }
    if (status >= 0) (void)kvrt_worker_stop(s->engine, NULL);
    if (pumps) serve_pump_stop(s);
    if (code == 0) serve_keep_save(s);
    serve_store_stop(s);
    serve_seats_free(s);
    pthread_cond_destroy(&s->freed);
    pthread_mutex_destroy(&s->engine_lock);
    pthread_mutex_destroy(&s->lock);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
}
