/* test_engine.c - the engine as a guest in its host's process: handles, threads, callbacks, memory, failures in every allocation. */
#include "golden_model.h"
#include "../../runtime/kv/layout.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static golden_model model;
static const int32_t prompt[5] = {10, 20, 30, 40, 50};

static kvrt_options *options_for(const char *const *pairs)
{
    kvrt_options *o;
    assert_int_equal(kvrt_options_create(&o, NULL), KVRT_OK);
    kvrt_options_set_string(o, "model.path", model.dir, -1, NULL);
    for (; pairs && *pairs; pairs += 2) assert_int_equal(kvrt_options_set_text(o, pairs[0], pairs[1], NULL), KVRT_OK);
    return o;
}

static kvrt_session session_on(kvrt_engine engine)
{
    kvrt_session s;
    assert_int_equal(kvrt_session_create(engine, NULL, &s, NULL), KVRT_OK);
    return s;
}

/* ------------------------------------------------------------------------------------------------------- handles --- */
static void closed_handles_are_refused(void **state)
{
    (void)state;
    kvrt_engine engine = golden_open(&model, NULL);
    kvrt_session s = session_on(engine), t = session_on(engine);
    kvrt_session_info info = {.size = sizeof info};
    kvrt_engine_info engine_info = {.size = sizeof engine_info};
    assert_int_equal(kvrt_session_close(s, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_close(s, NULL), KVRT_HANDLE);
    assert_int_equal(kvrt_session_get_info(s, &info, NULL), KVRT_HANDLE);
    kvrt_cancel(s);
    assert_int_equal(kvrt_session_get_info((kvrt_session)engine, &info, NULL), KVRT_HANDLE);
    assert_int_equal(kvrt_engine_get_info((kvrt_engine)t, &engine_info, NULL), KVRT_HANDLE);
    assert_int_equal(kvrt_engine_get_info(NULL, &engine_info, NULL), KVRT_HANDLE);
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK); /* closes t */
    assert_int_equal(kvrt_session_get_info(t, &info, NULL), KVRT_HANDLE);
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_HANDLE);
    /* A new object in the same slot does not answer to the old handle. */
    kvrt_engine again = golden_open(&model, NULL);
    assert_int_equal(kvrt_engine_get_info(engine, &engine_info, NULL), KVRT_HANDLE);
    assert_int_equal(kvrt_engine_close(again, NULL), KVRT_OK);
}

/* ------------------------------------------------------------------------------------------------------ callbacks --- */
typedef struct inside {
    kvrt_engine engine;
    kvrt_session session;
    kvrt_status generate, create, close, info;
    pthread_t thread;
    kvrt_status other_thread;
    int answer, texts;
} inside;

static void *drive_elsewhere(void *user)
{
    inside *in = user;
    in->other_thread = kvrt_session_rewind(in->session, 0, NULL);
    return NULL;
}

static int32_t try_everything(const kvrt_event *event, void *user)
{
    inside *in = user;
    if (event->type != KVRT_EVENT_TEXT || in->texts++)
        return event->type == KVRT_EVENT_TEXT ? in->answer : KVRT_CONTINUE;
    kvrt_session s;
    kvrt_session_info info = {.size = sizeof info};
    in->generate = kvrt_generate(in->session, NULL, NULL, NULL, NULL, NULL);
    in->create = kvrt_session_create(in->engine, NULL, &s, NULL);
    in->close = kvrt_engine_close(in->engine, NULL);
    in->info = kvrt_session_get_info(in->session, &info, NULL);
    pthread_create(&in->thread, NULL, drive_elsewhere, in);
    pthread_join(in->thread, NULL);
    return in->answer;
}

static void misuse_is_answered(void **state)
{
    (void)state;
    static const char *const pairs[] = {
        "gen.max_tokens", "20", "gen.ignore_eos", "true", "sample.temperature", "0", NULL};
    kvrt_engine engine = golden_open(&model, pairs);
    inside in = {.engine = engine, .session = session_on(engine), .answer = KVRT_CONTINUE};
    kvrt_result result = {.size = sizeof result};
    assert_int_equal(kvrt_generate(in.session, NULL, NULL, NULL, NULL, NULL), KVRT_STATE);
    kvrt_session_sync(in.session, prompt, 5, NULL, NULL);
    assert_int_equal(kvrt_generate(in.session, NULL, try_everything, &in, &result, NULL), KVRT_OK);
    assert_true(in.texts > 0);
    assert_int_equal(in.generate, KVRT_REENTRANT);
    assert_int_equal(in.create, KVRT_REENTRANT);
    assert_int_equal(in.close, KVRT_REENTRANT);
    assert_int_equal(in.info, KVRT_OK);
    assert_int_equal(in.other_thread, KVRT_BUSY);
    assert_int_equal(result.finish, KVRT_FINISH_LENGTH);
    assert_int_equal(result.n_generated, 20);
    kvrt_engine_close(engine, NULL);
}

/* Stopping and pausing: a paused generation goes on and gives the same tokens as one that never paused. */
static void pause_continues_exactly(void **state)
{
    (void)state;
    static const char *const pairs[] = {
        "gen.max_tokens", "24", "gen.ignore_eos", "true", "sample.seed", "5", "sample.temperature", "1.5", NULL};
    kvrt_engine engine = golden_open(&model, pairs);
    int32_t whole[64], parts[64];
    uint64_t n, m;
    kvrt_session a = session_on(engine);
    kvrt_session_sync(a, prompt, 5, NULL, NULL);
    assert_int_equal(kvrt_generate(a, NULL, NULL, NULL, NULL, NULL), KVRT_OK);
    kvrt_session_tokens(a, whole, 64, &n, NULL);
    kvrt_session_close(a, NULL);
    a = session_on(engine);
    kvrt_session_sync(a, prompt, 5, NULL, NULL);
    inside in = {.engine = engine, .session = a, .texts = 1, .answer = KVRT_PAUSE};
    kvrt_status status;
    int rounds = 0;
    while ((status = kvrt_generate(a, NULL, try_everything, &in, NULL, NULL)) == KVRT_PAUSED)
        assert_true(++rounds < 64);
    assert_int_equal(status, KVRT_OK);
    assert_true(rounds > 2);
    kvrt_session_tokens(a, parts, 64, &m, NULL);
    assert_int_equal(n, m);
    assert_memory_equal(whole, parts, n * sizeof *whole);
    kvrt_engine_close(engine, NULL);
}

/* -------------------------------------------------------------------------------------------------------- sessions --- */
static void sync_reuses_and_rewind_is_exact(void **state)
{
    (void)state;
    for (int packed = 0; packed < 2; packed++) {
        const char *pairs[] = {"kv.format", packed ? "k4v4" : "f16", "kv.tail", "0", NULL};
        kvrt_engine engine = golden_open(&model, pairs);
        int32_t ids[400];
        float *a = malloc(model.vocab * 4), *b = malloc(model.vocab * 4);
        for (int i = 0; i < 400; i++) ids[i] = 2 + (i * 31) % 90;
        kvrt_session s = session_on(engine);
        uint64_t reused = 99;
        assert_int_equal(kvrt_session_sync(s, ids, 300, &reused, NULL), KVRT_OK);
        assert_int_equal(reused, 0);
        assert_int_equal(kvrt_session_eval(s, ids + 300, 100, NULL, 1, a, NULL), KVRT_OK);
        kvrt_session_info info = {.size = sizeof info};
        kvrt_session_get_info(s, &info, NULL);
        assert_int_equal(info.n_tokens, 400);
        assert_int_equal(info.n_packed_pages, packed ? 2 : 0); /* pages 1 and 2; page 0 is the sink, page 3 open */
        /* Into an encoded page: rounded to its start; into a plain one: exact. */
        assert_int_equal(kvrt_session_rewind(s, packed ? 200 : 390, NULL), KVRT_OK);
        kvrt_session_get_info(s, &info, NULL);
        assert_int_equal(info.n_cached, packed ? 128 : 390);
        assert_int_equal(kvrt_session_sync(s, ids, 400, &reused, NULL), KVRT_OK);
        assert_int_equal(reused, packed ? 128 : 390);
        assert_int_equal(kvrt_session_rewind(s, 399, NULL), KVRT_OK);
        assert_int_equal(kvrt_session_eval(s, ids + 399, 1, NULL, 1, b, NULL), KVRT_OK);
        for (uint32_t i = 0; i < model.vocab && !packed; i++)
            if (!(a[i] - b[i] < 1e-2f && b[i] - a[i] < 1e-2f))
                fail_msg("logit %u: %g and %g", i, (double)a[i], (double)b[i]);
        free(a), free(b);
        kvrt_engine_close(engine, NULL);
    }
}

static void bad_calls_change_nothing(void **state)
{
    (void)state;
    static const char *const pairs[] = {"ctx.size", "32", NULL};
    kvrt_engine engine = golden_open(&model, pairs);
    kvrt_session s = session_on(engine);
    kvrt_error error = {.size = sizeof error};
    kvrt_session_info info = {.size = sizeof info};
    int32_t ids[40] = {0}, bad[2] = {3, 4000};
    assert_int_equal(kvrt_session_sync(s, prompt, 5, NULL, &error), KVRT_OK);
    assert_int_equal(kvrt_session_sync(s, ids, 0, NULL, &error), KVRT_ARG);
    assert_non_null(strstr(error.message, "0 tokens"));
    assert_int_equal(kvrt_session_sync(s, ids, 33, NULL, &error), KVRT_CTX_FULL);
    assert_non_null(strstr(error.message, "33 tokens, need at most 32"));
    assert_int_equal(kvrt_session_sync(s, bad, 2, NULL, &error), KVRT_ARG);
    assert_non_null(strstr(error.message, "4000"));
    /* The first id past the vocabulary, and the last one in it. */
    char text[16];
    uint64_t len;
    int32_t edge = (int32_t)model.vocab;
    assert_int_equal(kvrt_session_sync(s, &edge, 1, NULL, &error), KVRT_ARG);
    assert_int_equal(kvrt_session_eval(s, &edge, 1, NULL, 0, NULL, &error), KVRT_ARG);
    assert_int_equal(kvrt_detokenize(engine, &edge, 1, 0, text, sizeof text, &len, &error), KVRT_ARG);
    edge = -1;
    assert_int_equal(kvrt_session_sync(s, &edge, 1, NULL, &error), KVRT_ARG);
    assert_int_equal(kvrt_detokenize(engine, &edge, 1, 0, text, sizeof text, &len, &error), KVRT_ARG);
    edge = (int32_t)model.vocab - 1;
    assert_int_equal(kvrt_session_eval(s, &edge, 1, NULL, 0, NULL, &error), KVRT_OK);
    assert_int_equal(kvrt_session_rewind(s, 5, &error), KVRT_OK);
    assert_int_equal(kvrt_session_rewind(s, 6, &error), KVRT_ARG);
    uint32_t rows[2] = {1, 1};
    float *logits = malloc(2 * model.vocab * 4);
    assert_int_equal(kvrt_session_eval(s, prompt, 2, rows, 2, logits, &error), KVRT_ARG);
    assert_int_equal(kvrt_session_eval(s, ids, 30, NULL, 1, logits, &error), KVRT_CTX_FULL);
    free(logits);
    kvrt_session_get_info(s, &info, NULL);
    assert_int_equal(info.n_tokens, 5);
    /* The context fills up: a result, not an error. */
    kvrt_result result = {.size = sizeof result};
    kvrt_options *o = options_for((const char *const[]){"gen.ignore_eos", "true", "gen.max_tokens", "1000", NULL});
    assert_int_equal(kvrt_generate(s, o, NULL, NULL, &result, &error), KVRT_OK);
    assert_int_equal(result.finish, KVRT_FINISH_CTX_FULL);
    assert_int_equal(result.n_generated, 27);
    kvrt_options_destroy(o);
    kvrt_engine_close(engine, NULL);
}

/* An eval that fails half-way leaves the session as it was, its cache too: what was computed of the new tokens is not kept for others. */
static void a_failed_eval_leaves_nothing(void **state)
{
    (void)state;
    static const char *const pairs[] = {"ctx.size", "1024", "ctx.chunk", "128", "kv.format", "f16", NULL};
    kvrt_engine engine = golden_open(&model, pairs);
    kvrt_session s = session_on(engine), hog = session_on(engine);
    kvrt_session_info before = {.size = sizeof before}, after = {.size = sizeof after};
    int32_t ids[900];
    for (int i = 0; i < 900; i++) ids[i] = 2 + i % 90;
    assert_int_equal(kvrt_session_eval(hog, ids, 600, NULL, 0, NULL, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_eval(s, ids, 130, NULL, 0, NULL, NULL), KVRT_OK);
    kvrt_session_get_info(s, &before, NULL);
    assert_int_equal(kvrt_session_eval(s, ids, 800, NULL, 0, NULL, NULL), KVRT_CTX_FULL);
    kvrt_session_get_info(s, &after, NULL);
    assert_int_equal(after.n_tokens, 130);
    assert_int_equal(after.n_cached, 130);
    assert_int_equal(after.kv_bytes, before.kv_bytes);
    kvrt_engine_close(engine, NULL);
}

/* A choice is a whole word of its list. */
static void choices_are_whole_words(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "ma", "map|", "mapp", "cop", "map|copy", "copy|", "|"};
    kvrt_options *o = options_for(NULL);
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(kvrt_options_set_string(o, "model.io", bad[i], -1, NULL), KVRT_ARG);
        assert_int_equal(kvrt_options_set_text(o, "model.io", bad[i], NULL), KVRT_ARG);
    }
    assert_int_equal(kvrt_options_set_string(o, "model.io", "copying", 4, NULL), KVRT_OK);
    assert_int_equal(kvrt_options_set_text(o, "model.io", "map", NULL), KVRT_OK);
    kvrt_options_destroy(o);
}

/* An elastic session keeps 16 bits as long as its share holds them, to the last unit, and not a page longer. */
static void an_elastic_share_is_exact(void **state)
{
    (void)state;
    enum { PAGES = 8 };
    static const char *const one[] = {"kv.format", "f16", "ctx.size", "128", NULL};
    int32_t ids[128];
    kvrt_session_info info = {.size = sizeof info};
    for (int i = 0; i < 128; i++) ids[i] = 2 + i % 90;
    kvrt_engine engine = golden_open(&model, one);
    kvrt_session s = session_on(engine);
    assert_int_equal(kvrt_session_eval(s, ids, 1, NULL, 0, NULL, NULL), KVRT_OK);
    kvrt_session_get_info(s, &info, NULL);
    const uint64_t page = info.kv_bytes;
    kvrt_engine_close(engine, NULL);
    for (uint32_t less = 0; less < 2; less++) { /* a share of whole pages, and of one unit less */
        const uint64_t share = PAGES * page - less * KVI_KV_UNIT, plain = PAGES - less;
        char pool[32];
        snprintf(pool, sizeof pool, "%llu", (unsigned long long)(2 * share));
        engine =
            golden_open(&model, (const char *const[]){"kv.format", "elastic", "kv.tail", "0", "ctx.sessions", "2",
                                                      "ctx.chunk", "64", "ctx.size", "1152", "kv.pool", pool, NULL});
        s = session_on(engine);
        for (uint32_t p = 1; p <= plain + 1; p++) {
            assert_int_equal(kvrt_session_eval(s, ids, 128, NULL, 0, NULL, NULL), KVRT_OK);
            kvrt_session_get_info(s, &info, NULL);
            assert_int_equal(info.n_packed_pages > 0, p > plain);
            assert_true(info.kv_bytes <= share);
            if (p <= plain) assert_int_equal(info.kv_bytes, p * page);
        }
        kvrt_engine_close(engine, NULL);
    }
}

/* ---------------------------------------------------------------------------------------------------------- memory --- */
/* The plan's context really fits its pool, in every format, to the last position; the bytes held follow the plan. */
static void planned_context_fits(void **state)
{
    (void)state;
    static const char *const formats[] = {"f32", "f16", "bf16", "i8", "f8", "k4v4", "k4v2", "k3v3", "k2v2", "k8v4"};
    for (unsigned i = 0; i < sizeof formats / sizeof formats[0]; i++)
        for (unsigned m = 0; m < 2; m++) {
            golden_model windowed;
            assert_true(golden_load(m ? "qwen2_window" : "llama_gqa2", &windowed));
            const char *pairs[] = {"kv.format", formats[i], "ctx.size", "9000", "ctx.chunk", "200", NULL};
            kvrt_engine engine = golden_open(&windowed, pairs);
            kvrt_session s = session_on(engine);
            kvrt_error error = {.size = sizeof error};
            kvrt_engine_info info = {.size = sizeof info};
            int32_t ids[200];
            for (int k = 0; k < 200; k++) ids[k] = 2 + k % 90;
            for (uint32_t n = 0; n < 9000; n += 200)
                if (kvrt_session_eval(s, ids, 200, NULL, 0, NULL, &error) < 0)
                    fail_msg("%s at %u of 9000 tokens: %s", formats[i], n, error.message);
            assert_int_equal(kvrt_engine_get_info(engine, &info, NULL), KVRT_OK);
            assert_true(info.kv_pool_used_bytes <= info.kv_pool_bytes);
            kvrt_engine_close(engine, NULL);
            golden_free(&windowed);
        }
}

static int32_t count_allocations(const kvrt_event *event, void *user)
{
    uint64_t *seen = user, now;
    if (event->type != KVRT_EVENT_TEXT) return KVRT_CONTINUE;
    kvrt_debug_mem(NULL, NULL, &now);
    if (seen[0] && now != seen[0]) seen[1] += now - seen[0];
    seen[0] = now;
    return KVRT_CONTINUE;
}

static void steps_allocate_nothing(void **state)
{
    (void)state;
    static const char *const pairs[] = {
        "gen.max_tokens", "300", "gen.ignore_eos", "true", "kv.format", "k4v2", "kv.tail", "0", NULL};
    kvrt_engine engine = golden_open(&model, pairs);
    kvrt_session s = session_on(engine);
    uint64_t seen[2] = {0, 0};
    kvrt_session_sync(s, prompt, 5, NULL, NULL);
    assert_int_equal(kvrt_generate(s, NULL, count_allocations, seen, NULL, NULL), KVRT_OK);
    assert_true(seen[0] > 0);
    assert_int_equal(seen[1], 0);
    kvrt_engine_close(engine, NULL);
}

static void hundred_opens_leave_nothing(void **state)
{
    (void)state;
    uint64_t bytes, blocks, bytes_after, blocks_after;
    kvrt_debug_mem(&bytes, &blocks, NULL);
    for (int i = 0; i < 100; i++) {
        kvrt_engine engine = golden_open(&model, NULL);
        kvrt_session s = session_on(engine);
        kvrt_session_sync(s, prompt, 5, NULL, NULL);
        kvrt_engine_close(engine, NULL);
    }
    kvrt_debug_mem(&bytes_after, &blocks_after, NULL);
    assert_int_equal(bytes_after, bytes);
    assert_int_equal(blocks_after, blocks);
}

/* Every allocation from open to generated text fails in turn: the right code, nothing lost, and the next try works. */
static void every_allocation_may_fail(void **state)
{
    (void)state;
    kvrt_options *o =
        options_for((const char *const[]){"gen.max_tokens", "3", "gen.stop", "zz", "sample.logit_bias", "3=1", NULL});
    uint64_t bytes, blocks, bytes_after, blocks_after;
    kvrt_debug_mem(&bytes, &blocks, NULL);
    int failures = 0;
    for (uint64_t nth = 1;; nth++) {
        kvrt_engine engine = NULL;
        kvrt_session s;
        kvrt_error error = {.size = sizeof error};
        kvrt_debug_fail_alloc(nth);
        kvrt_status status = kvrt_engine_open(o, NULL, NULL, &engine, &error);
        if (status >= 0) status = kvrt_session_create(engine, NULL, &s, &error);
        if (status >= 0) status = kvrt_session_sync(s, prompt, 5, NULL, &error);
        if (status >= 0) status = kvrt_generate(s, o, NULL, NULL, NULL, &error);
        kvrt_debug_fail_alloc(0);
        if (engine) kvrt_engine_close(engine, NULL);
        kvrt_debug_mem(&bytes_after, &blocks_after, NULL);
        if (bytes_after != bytes || blocks_after != blocks)
            fail_msg("allocation %llu failing: %lld blocks lost", (unsigned long long)nth,
                     (long long)(blocks_after - blocks));
        if (status >= 0) break; /* fewer than nth allocations: all were tried */
        if (status != KVRT_NOMEM_HOST)
            fail_msg("allocation %llu failing: status %s (%s)", (unsigned long long)nth, kvrt_status_name(status),
                     error.message);
        failures++;
    }
    assert_true(failures > 30);
    kvrt_options_destroy(o);
}

static int setup(void **state)
{
    (void)state;
    return golden_load("llama_gqa2", &model) ? 0 : -1;
}
static int teardown(void **state)
{
    (void)state;
    golden_free(&model);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(closed_handles_are_refused),  cmocka_unit_test(misuse_is_answered),
        cmocka_unit_test(pause_continues_exactly),     cmocka_unit_test(sync_reuses_and_rewind_is_exact),
        cmocka_unit_test(bad_calls_change_nothing),    cmocka_unit_test(a_failed_eval_leaves_nothing),
        cmocka_unit_test(choices_are_whole_words),     cmocka_unit_test(an_elastic_share_is_exact),
        cmocka_unit_test(planned_context_fits),        cmocka_unit_test(steps_allocate_nothing),
        cmocka_unit_test(hundred_opens_leave_nothing), cmocka_unit_test(every_allocation_may_fail)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
