/* test_guest.c - an engine that gives memory back: trimmed, suspended and resumed, its sessions go on as if nothing had happened. */
#include "golden_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static golden_model model;

static kvrt_engine open_engine(const char *format, const char *ctx)
{
    const char *pairs[] = {"cpu.threads",      "1",    "kv.format", format, "ctx.chunk",      "64",
                           "ctx.sessions",     "4",    "ctx.size",  ctx,    "gen.ignore_eos", "true",
                           "gen.token_events", "true", NULL};
    return golden_open(&model, pairs);
}

static uint64_t generate(kvrt_session s, uint32_t n)
{
    kvrt_options *o;
    kvrt_options_create(&o, NULL);
    kvrt_options_set_i64(o, "gen.max_tokens", n, NULL);
    kvrt_options_set_i64(o, "sample.seed", 4, NULL);
    return golden_generate(s, o);
}

/* An engine under mem.limit, alone or together with others. */
static kvrt_status open_under(uint64_t limit, const char *shared, const char *ctx, kvrt_engine *out, kvrt_error *error)
{
    char bytes[32];
    snprintf(bytes, sizeof bytes, "%llu", (unsigned long long)limit);
    const char *pairs[] = {"model.path", model.dir,    "device.backend", "cpu",      "cpu.threads", "1", "mem.limit",
                           bytes,        "mem.shared", shared,           "ctx.size", ctx,           NULL};
    return golden_try_open(pairs, out, error);
}

static void engines_share_a_limit(void **state)
{
    (void)state;
    kvrt_engine one, two, three, alone;
    kvrt_error error = {.size = sizeof error};
    assert_int_equal(open_under(1u << 30, "true", "300", &one, &error), KVRT_OK);
    const uint64_t each = golden_memory(one).planned_bytes, limit = 2 * each + each / 2;
    assert_int_equal(kvrt_engine_close(one, NULL), KVRT_OK);

    assert_int_equal(open_under(limit, "true", "300", &one, &error), KVRT_OK);
    assert_int_equal(open_under(limit, "true", "300", &two, &error), KVRT_OK);
    assert_true(golden_memory(two).budget_bytes <= limit - each);
    assert_int_equal(open_under(limit, "true", "300", &three, &error), KVRT_OVER_BUDGET);
    assert_true(error.available_bytes < each);
    assert_int_equal(open_under(limit, "false", "300", &alone, &error), KVRT_OK); /* has one of its own */
    assert_int_equal(kvrt_engine_close(alone, NULL), KVRT_OK);

    /* Who is suspended leaves room, and comes back when there is some. */
    kvrt_session s = golden_session_with(one, 3, 150);
    (void)generate(s, 5);
    assert_int_equal(kvrt_suspend(one, &error), KVRT_OK);
    const uint64_t left = golden_memory(one).host_bytes;
    assert_true(left < each);
    kvrt_status status = open_under(limit + left, "true", "300", &three, &error); /* what is left of it counts */
    if (status < KVRT_OK) fail_msg("%s", error.message);
    assert_int_equal(kvrt_resume(one, &error), KVRT_OVER_BUDGET);
    assert_int_equal(golden_memory(one).suspended, 1);
    assert_int_equal(kvrt_engine_close(three, NULL), KVRT_OK);
    assert_int_equal(kvrt_resume(one, &error), KVRT_OK);
    (void)generate(s, 5);
    assert_int_equal(open_under(limit, "true", "300", &three, &error), KVRT_OVER_BUDGET);
    /* A context that is left to the plan takes what is left. */
    assert_int_equal(kvrt_engine_close(two, NULL), KVRT_OK);
    status = open_under(limit, "true", "auto", &two, &error);
    if (status < KVRT_OK) fail_msg("%s", error.message);
    assert_true(golden_memory(one).planned_bytes + golden_memory(two).planned_bytes <= limit);
    assert_int_equal(kvrt_engine_close(one, NULL), KVRT_OK);
    assert_int_equal(kvrt_engine_close(two, NULL), KVRT_OK);
    /* Nothing of it is held by whoever failed or is gone. */
    assert_int_equal(open_under(each + each / 4, "true", "300", &one, &error), KVRT_OK);
    assert_int_equal(kvrt_engine_close(one, NULL), KVRT_OK);
}

static void suspended_and_resumed(void **state)
{
    static const char *const formats[] = {"f16", "k4v4", "elastic"};
    for (unsigned f = 0; f < 3; f++) {
        kvrt_engine engine = open_engine(formats[f], "600"), other = open_engine(formats[f], "600");
        kvrt_session a[3] = {golden_session_with(engine, 1, 300), golden_session_with(engine, 1, 280),
                             golden_session_with(engine, 2, 200)},
                     b[3] = {golden_session_with(other, 1, 300), golden_session_with(other, 1, 280),
                             golden_session_with(other, 2, 200)},
                     gone;
        for (int i = 0; i < 3; i++) assert_true(generate(a[i], 20) == generate(b[i], 20));
        gone = golden_session_with(engine, 5, 250);
        (void)generate(gone, 2);
        const kvrt_memory before = golden_memory(engine);
        for (unsigned round = 0; round < 3; round++) {
            kvrt_session_info info = {.size = sizeof info};
            kvrt_session s;
            assert_int_equal(kvrt_suspend(engine, NULL), KVRT_OK);
            const kvrt_memory now = golden_memory(engine);
            assert_true(now.suspended && now.kv_cached_bytes == 0 && now.kv_pool_bytes == 0);
            assert_true(now.host_bytes < before.host_bytes - before.kv_pool_bytes / 2);
            assert_int_equal(now.kv_saved_bytes, now.kv_used_bytes);
            assert_int_equal(kvrt_suspend(engine, NULL), KVRT_STATE);
            assert_int_equal(kvrt_generate(a[0], NULL, NULL, NULL, NULL, NULL), KVRT_STATE);
            assert_int_equal(kvrt_step(engine, 100, NULL), KVRT_STATE);
            assert_int_equal(kvrt_session_create(engine, NULL, &s, NULL), KVRT_STATE);
            assert_int_equal(kvrt_session_get_info(a[0], &info, NULL), KVRT_OK);
            if (round == 0) assert_int_equal(kvrt_session_close(gone, NULL), KVRT_OK);
            assert_int_equal(kvrt_resume(engine, NULL), KVRT_OK);
            assert_int_equal(kvrt_resume(engine, NULL), KVRT_STATE);
            for (int i = 0; i < 3; i++)
                if (generate(a[i], 20) != generate(b[i], 20))
                    fail_msg("%s, round %u: session %d goes on otherwise", formats[f], round, i);
        }
        assert_int_equal(kvrt_suspend(engine, NULL), KVRT_OK);
        assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
        kvrt_engine_close(other, NULL);
    }
}

/* Every allocation of a suspension and of a return fails in turn: nothing is lost, and the next try succeeds. */
static void without_memory(void **state)
{
    kvrt_engine engine = open_engine("k4v4", "600"), other = open_engine("k4v4", "600");
    kvrt_session a = golden_session_with(engine, 1, 300), b = golden_session_with(other, 1, 300);
    assert_true(generate(a, 20) == generate(b, 20));
    uint32_t n_failed = 0;
    for (uint64_t nth = 1;; nth += 1 + nth / 8) {
        kvrt_debug_fail_alloc(nth);
        kvrt_status status = kvrt_suspend(engine, NULL);
        if (status == KVRT_OK) {
            status = kvrt_resume(engine, NULL);
            kvrt_debug_fail_alloc(0);
            if (status == KVRT_OK) break;
            assert_int_equal(kvrt_resume(engine, NULL), KVRT_OK);
        }
        kvrt_debug_fail_alloc(0);
        if (status == KVRT_DEVICE_LOST ||
            kvrt_session_rewind(a, 320, NULL) == KVRT_DEVICE_LOST) { /* the outline could not be kept */
            kvrt_engine_close(engine, NULL), kvrt_engine_close(other, NULL);
            engine = open_engine("k4v4", "600"), other = open_engine("k4v4", "600");
            a = golden_session_with(engine, 1, 300), b = golden_session_with(other, 1, 300);
            assert_true(generate(a, 20) == generate(b, 20));
        }
        n_failed++;
    }
    assert_true(n_failed > 10);
    assert_true(generate(a, 20) == generate(b, 20));
    kvrt_engine_close(engine, NULL), kvrt_engine_close(other, NULL);
}

static uint64_t resident_kib(void)
{
    char line[128];
    unsigned long long kib = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "VmRSS: %llu kB", &kib) == 1) break;
    if (file) fclose(file);
    return kib;
}

static void trimmed(void **state)
{
    uint64_t freed;
    kvrt_engine engine = open_engine("f16", "30000");
    kvrt_session a = golden_session_with(engine, 1, 300), b;
    assert_int_equal(kvrt_session_create(engine, NULL, &b, NULL), KVRT_OK);
    const uint64_t first = generate(a, 5);
    assert_int_equal(kvrt_measure_fill(b, 29000, 1, NULL), KVRT_OK);
    kvrt_session_close(a, NULL);
    kvrt_session_close(b, NULL);
    const uint64_t full = resident_kib();
    assert_true(golden_memory(engine).kv_cached_bytes > 0);
    assert_int_equal(kvrt_trim(engine, &freed, NULL), KVRT_OK);
    assert_true(freed > 0);
    assert_int_equal(golden_memory(engine).kv_cached_bytes, 0);
    if (full && resident_kib() + 4000 > full)
        fail_msg("%llu KiB before, %llu KiB after", (unsigned long long)full, (unsigned long long)resident_kib());
    a = golden_session_with(engine, 1, 300);
    assert_true(generate(a, 5) == first);
    assert_int_equal(kvrt_trim(engine, NULL, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_rewind(a, 300, NULL), KVRT_OK);
    (void)generate(a, 5);
    kvrt_engine_close(engine, NULL);
}

static int set_up(void **state) { return golden_load("llama_gqa2", &model) ? 0 : -1; }
static int tear_down(void **state)
{
    golden_free(&model);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(engines_share_a_limit), cmocka_unit_test(suspended_and_resumed),
                                       cmocka_unit_test(without_memory), cmocka_unit_test(trimmed)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
