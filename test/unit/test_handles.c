/* test_handles.c - handles under threads and forks, and cancelling: closing against calls that are inside, a child that inherits an engine, a cancel
 * at every stage of a request. */
#define _POSIX_C_SOURCE 200809L
#include "golden_model.h"
#include "../../runtime/engine/handle.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static golden_model model;
static const int32_t prompt[5] = {10, 20, 30, 40, 50};
static const char *const small[] = {"cpu.threads",    "1", "mem.reserve",    "0",    "ctx.size", "64",
                                    "gen.max_tokens", "8", "gen.ignore_eos", "true", NULL};

static kvrt_session session_on(kvrt_engine engine)
{
    kvrt_session s;
    assert_int_equal(kvrt_session_create(engine, NULL, &s, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_sync(s, prompt, 5, NULL, NULL), KVRT_OK);
    return s;
}

/* ------------------------------------------------------------------------------------------------------- closing --- */
/* With anyone inside the engine or one of its sessions, nothing is closed. */
static void close_waits_for_nobody_and_takes_all_or_nothing(void **state)
{
    (void)state;
    kvrt_error error = {.size = sizeof error};
    kvrt_session_info info = {.size = sizeof info};
    kvrt_engine engine = golden_open(&model, small);
    kvrt_session s[2] = {session_on(engine), session_on(engine)};
    const void *inside[3] = {engine, s[0], s[1]};
    void *object;
    for (int i = 0; i < 3; i++) {
        const kvi_handle_kind kind = i ? KVI_HANDLE_SESSION : KVI_HANDLE_ENGINE;
        assert_int_equal(kvi_handle_enter(inside[i], kind, &object, NULL), KVRT_OK);
        assert_int_equal(kvrt_engine_close(engine, &error), KVRT_BUSY);
        assert_int_equal(error.code, KVRT_BUSY);
        assert_non_null(strstr(error.message, "inside"));
        if (i) assert_int_equal(kvrt_session_close(s[i - 1], &error), KVRT_BUSY);
        kvi_handle_leave(inside[i]);
        for (int k = 0; k < 2; k++) {
            assert_int_equal(kvrt_session_get_info(s[k], &info, NULL), KVRT_OK);
            assert_int_equal(kvrt_session_rewind(s[k], 5, NULL), KVRT_OK); /* the seat is free again */
        }
    }
    assert_int_equal(kvrt_session_close(s[0], &error), KVRT_OK);
    assert_int_equal(kvrt_session_close(s[0], &error), KVRT_HANDLE);
    assert_non_null(strstr(error.message, "session: the handle is not open"));
    assert_int_equal(kvrt_engine_close(engine, &error), KVRT_OK);
    assert_int_equal(kvrt_engine_close(engine, &error), KVRT_HANDLE);
    assert_int_equal(kvrt_session_get_info(s[1], &info, NULL), KVRT_HANDLE);
}

static _Atomic(kvrt_session) target;
static atomic_bool stop;

static void *call_all_the_time(void *user)
{
    const bool drive = user != NULL;
    kvrt_session_info info = {.size = sizeof info};
    while (!atomic_load(&stop)) {
        const kvrt_session s = atomic_load(&target);
        const kvrt_status status = drive ? kvrt_session_rewind(s, 0, NULL) : kvrt_session_get_info(s, &info, NULL);
        kvrt_cancel(s);
        if (status != KVRT_OK && status != KVRT_HANDLE && status != KVRT_BUSY) return user ? user : &stop;
    }
    return NULL;
}

/* Engines come and go under threads that call their sessions; the sanitizers see what goes wrong. */
static void close_races_calls_on_its_sessions(void **state)
{
    (void)state;
    for (int drive = 0; drive < 2; drive++) {
        pthread_t threads[2];
        void *failed;
        atomic_store(&stop, false);
        atomic_store(&target, NULL);
        for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, call_all_the_time, drive ? &model : NULL);
        for (int i = 0; i < 60; i++) {
            kvrt_engine engine = golden_open(&model, small);
            kvrt_session s;
            assert_int_equal(kvrt_session_create(engine, NULL, &s, NULL), KVRT_OK);
            atomic_store(&target, s);
            kvrt_status status;
            while ((status = kvrt_engine_close(engine, NULL)) == KVRT_BUSY) sched_yield();
            assert_int_equal(status, KVRT_OK);
        }
        atomic_store(&stop, true);
        for (int i = 0; i < 2; i++) {
            pthread_join(threads[i], &failed);
            assert_null(failed);
        }
    }
}

/* ------------------------------------------------------------------------------------------------------- forking --- */
/* Runs in the child: 0, or the number of the check that failed. */
static int child(kvrt_engine engine, kvrt_session s)
{
    kvrt_error error = {.size = sizeof error};
    kvrt_session_info info = {.size = sizeof info};
    kvrt_engine_info engine_info = {.size = sizeof engine_info};
    kvrt_session other;
    uint64_t n;
    alarm(120); /* a call that hangs ends the child with a signal */
    if (kvrt_session_get_info(s, &info, NULL) != KVRT_HANDLE) return 1;
    if (kvrt_engine_get_info(engine, &engine_info, NULL) != KVRT_HANDLE) return 2;
    if (kvrt_generate(s, NULL, NULL, NULL, NULL, &error) != KVRT_HANDLE || !strstr(error.message, "fork")) return 3;
    if (kvrt_tokenize(engine, "a", -1, 0, NULL, 0, &n, NULL) != KVRT_HANDLE) return 4;
    if (kvrt_session_create(engine, NULL, &other, NULL) != KVRT_HANDLE) return 5;
    if (kvrt_request_reserve(s, &n, NULL) != KVRT_HANDLE) return 6;
    kvrt_cancel(s);
    if (kvrt_session_close(s, &error) != KVRT_HANDLE || !strstr(error.message, "fork")) return 7;
    if (kvrt_engine_close(engine, &error) != KVRT_HANDLE || !strstr(error.message, "fork")) return 8;
    /* An engine of its own works, on two threads. */
    engine = golden_open(&model, (const char *const[]){"cpu.threads", "2", "ctx.size", "64", "mem.reserve", "0", NULL});
    if (kvrt_session_create(engine, NULL, &s, NULL) != KVRT_OK) return 9;
    if (kvrt_session_eval(s, prompt, 5, NULL, 0, NULL, NULL) != KVRT_OK) return 10;
    return kvrt_engine_close(engine, NULL) == KVRT_OK ? 0 : 11;
}

/* The lock of the handle table is busy all the time, so that many children inherit it held. */
static void a_forked_child_is_refused_at_once(void **state)
{
    (void)state;
#ifdef __SANITIZE_THREAD__
    skip(); /* ThreadSanitizer ends a child of a process with threads that starts one itself, and this one opens an engine */
#endif
    kvrt_engine engine = golden_open(&model, (const char *const[]){"cpu.threads", "2", "ctx.size", "64", NULL});
    kvrt_session s = session_on(engine);
    pthread_t thread;
    atomic_store(&stop, false);
    atomic_store(&target, s);
    pthread_create(&thread, NULL, call_all_the_time, NULL);
    for (int i = 0; i < 40; i++) {
        const pid_t pid = fork();
        if (pid == 0) _exit(child(engine, s));
        int status = 0;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
            fail_msg("child %d: %s %d", i, WIFSIGNALED(status) ? "signal" : "check",
                     WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    }
    atomic_store(&stop, true);
    pthread_join(thread, NULL);
    assert_int_equal(kvrt_generate(s, NULL, NULL, NULL, NULL, NULL), KVRT_OK); /* the parent's is whole */
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
}

/* ---------------------------------------------------------------------------------------------------- cancelling --- */
static int32_t answer_texts(const kvrt_event *event, void *user)
{
    return event->type == KVRT_EVENT_TOKEN ? *(const int32_t *)user : KVRT_CONTINUE;
}

typedef struct cancels {
    kvrt_session session;
    uint64_t request; /* 0: kvrt_cancel */
    int seen;
} cancels;

static int32_t cancel_at_first_token(const kvrt_event *event, void *user)
{
    cancels *c = user;
    if (event->type != KVRT_EVENT_TOKEN || c->seen++) return KVRT_CONTINUE;
    if (c->request) kvrt_cancel_request(c->session, c->request == UINT64_MAX ? event->request : c->request);
    else kvrt_cancel(c->session);
    return KVRT_CONTINUE;
}

static void a_cancel_is_never_lost_and_hits_its_request_alone(void **state)
{
    (void)state;
    kvrt_error error = {.size = sizeof error};
    kvrt_engine engine = golden_open(&model, small);
    kvrt_session s = session_on(engine), t = session_on(engine);
    kvrt_result result = {.size = sizeof result};
    kvrt_options *o;
    uint64_t first, second;
    int32_t pause = KVRT_PAUSE;
    kvrt_options_create(&o, NULL);
    kvrt_options_set_bool(o, "gen.token_events", 1, NULL);

    /* Reserved and cancelled before the call begins. */
    assert_int_equal(kvrt_request_reserve(s, &first, NULL), KVRT_OK);
    assert_true(first > 0);
    kvrt_cancel_request(s, first);
    assert_int_equal(kvrt_generate(s, o, NULL, NULL, &result, &error), KVRT_CANCELLED);
    assert_int_equal(result.request, first);
    assert_int_equal(result.finish, KVRT_FINISH_CANCELLED);
    assert_int_equal(result.n_generated, 0);
    /* The next one is another request; cancels of the old one, of none and of unknown ones do nothing. */
    kvrt_cancel_request(s, first), kvrt_cancel_request(s, 0), kvrt_cancel_request(s, UINT64_MAX);
    kvrt_cancel(s);
    assert_int_equal(kvrt_generate(s, o, NULL, NULL, &result, NULL), KVRT_OK);
    assert_int_equal(result.finish, KVRT_FINISH_LENGTH);
    assert_true(result.request > first);

    /* kvrt_cancel takes the reservation too; a replaced reservation is over. */
    assert_int_equal(kvrt_request_reserve(s, &first, NULL), KVRT_OK);
    assert_int_equal(kvrt_request_reserve(s, &second, NULL), KVRT_OK);
    kvrt_cancel_request(s, first);
    assert_int_equal(kvrt_generate(s, o, NULL, NULL, &result, NULL), KVRT_OK);
    assert_int_equal(result.request, second);
    assert_int_equal(kvrt_request_reserve(s, &first, NULL), KVRT_OK);
    kvrt_cancel(s);
    assert_int_equal(kvrt_generate(s, o, NULL, NULL, &result, NULL), KVRT_CANCELLED);
    assert_int_equal(result.request, first);

    /* A failing start leaves the reservation; an eval in between does not take it, nor what was meant for it. */
    assert_int_equal(kvrt_request_reserve(s, &first, NULL), KVRT_OK);
    kvrt_options_set_text(o, "sample.logit_bias", "nonsense", NULL);
    assert_int_equal(kvrt_generate(s, o, NULL, NULL, &result, NULL), KVRT_ARG);
    kvrt_options_clear(o, "sample.logit_bias", NULL);
    kvrt_cancel_request(s, first);
    assert_int_equal(kvrt_session_eval(s, prompt, 2, NULL, 0, NULL, NULL), KVRT_OK);
    assert_int_equal(kvrt_generate(s, o, NULL, NULL, &result, NULL), KVRT_CANCELLED);
    assert_int_equal(result.request, first);

    /* Running: by number and without; a later reservation is not meant, and cancelling it does not stop the running one. */
    for (int i = 0; i < 4; i++) {
        cancels c = {.session = s, .request = i == 0 ? UINT64_MAX : 0};
        if (i == 1) c.session = t;     /* another session's cancel */
        if (i == 2) c.request = first; /* a finished one */
        assert_int_equal(kvrt_session_sync(s, prompt, 5, NULL, NULL), KVRT_OK);
        assert_int_equal(kvrt_generate(s, o, cancel_at_first_token, &c, &result, NULL), KVRT_OK);
        assert_int_equal(result.finish, i == 0 || i == 3 ? KVRT_FINISH_CANCELLED : KVRT_FINISH_LENGTH);
        assert_int_equal(result.n_generated, i == 0 || i == 3 ? 1 : 8);
    }

    /* Paused: the call that continues ends it, as a cancelled decode does. */
    for (int by_number = 0; by_number < 2; by_number++) {
        assert_int_equal(kvrt_session_sync(s, prompt, 5, NULL, NULL), KVRT_OK);
        assert_int_equal(kvrt_generate(s, o, answer_texts, &pause, &result, NULL), KVRT_PAUSED);
        assert_int_equal(kvrt_request_reserve(s, &second, NULL), KVRT_OK);
        if (by_number) kvrt_cancel_request(s, result.request);
        else kvrt_cancel(s);
        first = result.request;
        assert_int_equal(kvrt_generate(s, o, answer_texts, &pause, &result, &error), KVRT_OK);
        assert_int_equal(result.finish, KVRT_FINISH_CANCELLED);
        assert_int_equal(result.request, first);
        assert_int_equal(result.n_generated, 1);
        /* kvrt_cancel meant the reservation as well, the number did not. */
        pause = KVRT_CONTINUE;
        assert_int_equal(kvrt_generate(s, o, answer_texts, &pause, &result, NULL),
                         by_number ? KVRT_OK : KVRT_CANCELLED);
        assert_int_equal(result.request, second);
        pause = KVRT_PAUSE;
    }
    kvrt_options_destroy(o);
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
}

/* Another thread cancels exactly the requests it is told to, while they begin: each is cancelled, and no other. */
static _Atomic uint64_t to_cancel;

static void *cancel_what_is_posted(void *user)
{
    kvi_requests *requests = user;
    while (!atomic_load(&stop)) {
        const uint64_t request = atomic_exchange(&to_cancel, 0);
        if (request) kvi_requests_cancel(requests, request);
        else sched_yield(); /* on one core, or a busy one, the other thread would wait for the end of this one's turn */
    }
    return NULL;
}

static void begin_races_cancel(void **state)
{
    (void)state;
    static kvi_requests requests;
    pthread_t thread;
    unsigned seen = 0;
    kvi_requests_reset(&requests);
    atomic_store(&stop, false);
    pthread_create(&thread, NULL, cancel_what_is_posted, &requests);
    for (unsigned i = 0; i < 20000; i++) {
        const uint64_t number = kvi_requests_reserve(&requests);
        const bool cancel = i % 3 != 0;
        if (cancel) atomic_store(&to_cancel, number);
        if (i % 2) kvi_requests_begin_other(&requests);
        assert_int_equal(kvi_requests_begin(&requests), number);
        if (!cancel) assert_false(kvi_requests_cancelled(&requests));
        while (cancel && !kvi_requests_cancelled(&requests)) sched_yield();
        seen += cancel;
    }
    atomic_store(&stop, true);
    pthread_join(thread, NULL);
    assert_true(seen > 10000);
}

/* What was reserved or marked in a session is gone with it, though the next one stands in its place in the table. */
static void a_new_session_inherits_no_request(void **state)
{
    (void)state;
    kvrt_engine engine = golden_open(&model, small);
    kvrt_result result = {.size = sizeof result};
    uint64_t request;
    kvrt_session s = session_on(engine);
    assert_int_equal(kvrt_request_reserve(s, &request, NULL), KVRT_OK);
    kvrt_cancel_request(s, request);
    assert_int_equal(kvrt_session_close(s, NULL), KVRT_OK);
    s = session_on(engine);
    assert_int_equal(kvrt_generate(s, NULL, NULL, NULL, &result, NULL), KVRT_OK);
    assert_int_equal(result.finish, KVRT_FINISH_LENGTH);
    assert_true(result.request > request);
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
}

static int setup(void **state)
{
    (void)state;
    return golden_load("llama_mha", &model) ? 0 : -1;
}
static int teardown(void **state)
{
    (void)state;
    golden_free(&model);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(close_waits_for_nobody_and_takes_all_or_nothing),
                                       cmocka_unit_test(close_races_calls_on_its_sessions),
                                       cmocka_unit_test(a_forked_child_is_refused_at_once),
                                       cmocka_unit_test(a_cancel_is_never_lost_and_hits_its_request_alone),
                                       cmocka_unit_test(begin_races_cancel),
                                       cmocka_unit_test(a_new_session_inherits_no_request)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
