/* test_memory_limit.c - mem.limit of an open engine: the pool becomes smaller and larger as the plan says, memory really goes and comes, sessions
 * go on with the bits of an engine that was left alone, and what cannot be given back is refused by name. */
#define _DEFAULT_SOURCE /* mkdtemp */
#include "golden_model.h"
#include "process_memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static golden_model model;

typedef struct settings {
    const char *format, *ctx, *sessions, *shared, *spill;
    uint64_t limit, most;
} settings;

static kvrt_options *options_of(const settings *s)
{
    kvrt_options *o;
    kvrt_options_create(&o, NULL);
    const char *pairs[] = {"model.path",       model.dir,
                           "device.backend",   "cpu",
                           "cpu.threads",      "1",
                           "ctx.chunk",        "64",
                           "gen.ignore_eos",   "true",
                           "gen.token_events", "true",
                           "kv.format",        s->format ? s->format : "f16",
                           "ctx.size",         s->ctx ? s->ctx : "600",
                           "ctx.sessions",     s->sessions ? s->sessions : "4",
                           "mem.shared",       s->shared ? s->shared : "false",
                           "kv.spill",         s->spill ? s->spill : ""};
    for (unsigned i = 0; i < sizeof pairs / sizeof pairs[0]; i += 2)
        assert_int_equal(kvrt_options_set_text(o, pairs[i], pairs[i + 1], NULL), KVRT_OK);
    kvrt_options_set_i64(o, "mem.limit", (int64_t)s->limit, NULL);
    kvrt_options_set_i64(o, "mem.most", (int64_t)s->most, NULL);
    return o;
}

static kvrt_status try_open(const settings *s, kvrt_engine *out, kvrt_error *error)
{
    kvrt_options *o = options_of(s);
    const kvrt_status status = kvrt_engine_open(o, NULL, NULL, out, error);
    kvrt_options_destroy(o);
    return status;
}

static kvrt_engine open_with(settings s)
{
    kvrt_engine engine;
    kvrt_error error = {.size = sizeof error};
    if (try_open(&s, &engine, &error) < KVRT_OK) fail_msg("%s", error.message);
    return engine;
}

static void set(kvrt_engine engine, uint64_t limit)
{
    kvrt_error error = {.size = sizeof error};
    if (kvrt_mem_limit(engine, limit, NULL, &error) < KVRT_OK) fail_msg("%s", error.message);
}

static kvrt_options *for_tokens(uint32_t n)
{
    kvrt_options *o;
    kvrt_options_create(&o, NULL);
    kvrt_options_set_i64(o, "gen.max_tokens", n, NULL);
    kvrt_options_set_f64(o, "sample.temperature", 0, NULL);
    return o;
}

static uint64_t generate(kvrt_session s, uint32_t n)
{
    kvrt_options *o = for_tokens(n);
    return golden_generate(s, o);
}

/* ---------------------------------------------------------------------------------------------------------- plan --- */
static kvrt_plan_row plan_of(const settings *s)
{
    kvrt_options *o = options_of(s);
    kvrt_plan_row row = {.size = sizeof row};
    uint64_t n;
    assert_int_equal(kvrt_plan(o, s->format, NULL, &row, 1, &n, NULL), KVRT_OK);
    kvrt_options_destroy(o);
    return row;
}

/* What is held follows the pool to the byte, up to what the plan says and never above the limit. */
static void the_plan_says_both(void **state)
{
    static const char *const formats[] = {"f16", "k4v4", "elastic"};
    (void)state;
    for (unsigned f = 0; f < 3; f++) {
        settings s = {.format = formats[f], .ctx = "600", .sessions = "2", .limit = 64u << 20, .most = 96u << 20};
        const kvrt_plan_row row = plan_of(&s);
        s.most = 0;
        const kvrt_plan_row fixed = plan_of(&s);
        assert_int_equal(fixed.kv_most_bytes, fixed.kv_bytes);
        assert_true(row.total_bytes - fixed.total_bytes < (1u << 20)); /* bookkeeping alone */
        s.most = 96u << 20;
        kvrt_engine engine = open_with(s);
        const kvrt_memory first = golden_memory(engine);
        const uint64_t others = held() - first.kv_pool_bytes;
        assert_int_equal(first.kv_pool_bytes, row.kv_bytes);
        assert_int_equal(first.kv_pool_most_bytes, row.kv_most_bytes);
        assert_int_equal(first.planned_bytes, row.total_bytes);
        assert_true(row.kv_most_bytes > 3 * row.kv_bytes);
        for (uint64_t mib = 96; mib >= 8; mib -= mib > 16 ? 8 : 1) {
            uint64_t pool = 0;
            const kvrt_status status = kvrt_mem_limit(engine, mib << 20, &pool, NULL);
            const kvrt_memory now = golden_memory(engine);
            assert_int_equal(now.kv_pool_bytes, pool);
            assert_int_equal(held() - others, pool);
            assert_int_equal(now.planned_bytes - pool, first.planned_bytes - first.kv_pool_bytes);
            if (status < KVRT_OK) {
                assert_int_equal(status, KVRT_OVER_BUDGET);
                assert_true((mib << 20) < first.planned_bytes - first.kv_pool_bytes);
                continue;
            }
            assert_true(now.planned_bytes <= mib << 20);
            assert_int_equal(now.budget_bytes, mib << 20);
            if (mib == 96) assert_int_equal(pool, row.kv_most_bytes);
            if (first.planned_bytes > mib << 20) assert_true((mib << 20) - now.planned_bytes < 256);
        }
        set(engine, 0);
        assert_int_equal(golden_memory(engine).kv_pool_bytes, row.kv_most_bytes);
        assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
    }
}

/* What the limit is raised for: sessions beyond the planned ones find room in the pool and in the limit. */
static void more_sessions_find_room(void **state)
{
    (void)state;
    kvrt_session s[4];
    kvrt_engine engine = open_with((settings){.sessions = "1", .limit = 64u << 20});
    const kvrt_memory one = golden_memory(engine);
    kvrt_engine_close(engine, NULL);
    engine =
        open_with((settings){.sessions = "1", .limit = one.planned_bytes + (16u << 10), .most = 3 * one.planned_bytes});
    assert_int_equal(golden_memory(engine).kv_pool_bytes, one.kv_pool_bytes);
    s[0] = golden_session_with(engine, 1, 590);
    (void)generate(s[0], 10);
    assert_int_equal(kvrt_session_create(engine, NULL, &s[1], NULL), KVRT_OVER_BUDGET);
    const uint64_t each = one.kv_pool_bytes + (1u << 20);
    set(engine,
        one.planned_bytes + 3 * each < 3 * one.planned_bytes ? one.planned_bytes + 3 * each : 3 * one.planned_bytes);
    assert_true(golden_memory(engine).kv_pool_bytes >= 3 * one.kv_pool_bytes);
    for (uint32_t i = 1; i < 3; i++) {
        s[i] = golden_session_with(engine, 10 + i, 590);
        (void)generate(s[i], 10);
    }
    assert_true(held() <= golden_memory(engine).budget_bytes);
    kvrt_engine_close(engine, NULL);
}

/* -------------------------------------------------------------------------------------------------------- memory --- */
static void memory_goes_and_comes(void **state)
{
    (void)state;
    kvrt_engine engine = open_with((settings){.ctx = "30000", .sessions = "2", .limit = 1u << 30});
    const kvrt_memory m = golden_memory(engine);
    kvrt_session a, b = golden_session_with(engine, 1, 300);
    const uint64_t first = generate(b, 5);
    assert_int_equal(kvrt_session_create(engine, NULL, &a, NULL), KVRT_OK);
    assert_int_equal(kvrt_measure_fill(a, 29000, 1, NULL), KVRT_OK);
    const uint64_t full = resident();
    /* Held pages are not given back. */
    kvrt_error error = {.size = sizeof error};
    assert_int_equal(kvrt_mem_limit(engine, golden_limit_for(engine, m.kv_pool_bytes / 4), NULL, &error),
                     KVRT_OVER_BUDGET);
    assert_non_null(strstr(error.message, "mem.limit: sessions hold"));
    assert_int_equal(golden_memory(engine).kv_pool_bytes, m.kv_pool_bytes);
    assert_int_equal(kvrt_session_close(a, NULL), KVRT_OK);
    const uint64_t target = m.kv_pool_bytes / 16;
    set(engine, golden_limit_for(engine, target));
    const uint64_t less = resident();
    if (full && less + m.kv_used_bytes + m.kv_pool_bytes / 4 > full)
        fail_msg("%llu KiB before, %llu KiB after", (unsigned long long)full >> 10, (unsigned long long)less >> 10);
    set(engine, golden_limit_for(engine, m.kv_pool_bytes));
    if (full) assert_true(resident() < less + (1u << 20)); /* memory comes as it is used */
    assert_int_equal(kvrt_session_rewind(b, 300, NULL), KVRT_OK);
    assert_true(generate(b, 5) == first);
    assert_int_equal(kvrt_session_create(engine, NULL, &a, NULL), KVRT_OK);
    assert_int_equal(kvrt_measure_fill(a, 29000, 1, NULL), KVRT_OK);
    if (full) assert_true(resident() + (2u << 20) > full);
    kvrt_engine_close(engine, NULL);
}

/* ------------------------------------------------------------------------------------------------------ sessions --- */
static uint64_t least_limit(kvrt_engine engine)
{
    kvrt_error error = {.size = sizeof error};
    assert_int_equal(kvrt_mem_limit(engine, golden_limit_for(engine, 0) + 256, NULL, &error), KVRT_OVER_BUDGET);
    return error.needed_bytes;
}

/* Pages of several sessions, some of them closed and some shared, packed under the least limit that holds them, and set free again. */
static void sessions_go_on(void **state)
{
    static const char *const formats[] = {"f16", "k4v4", "i8"};
    (void)state;
    for (unsigned f = 0; f < 3; f++) {
        settings with = {.format = formats[f], .limit = 64u << 20};
        kvrt_engine engine = open_with(with), other = open_with(with);
        kvrt_session a[3], b[3], gone;
        for (uint32_t i = 0; i < 3; i++) {
            gone = golden_session_with(engine, 5 + i, 250);
            (void)generate(gone, 2);
            a[i] = golden_session_with(engine, i ? 1 : 0, 300 - 20 * i),
            b[i] = golden_session_with(other, i ? 1 : 0, 300 - 20 * i);
            assert_true(generate(a[i], 20) == generate(b[i], 20));
            assert_int_equal(kvrt_session_close(gone, NULL), KVRT_OK);
        }
        const uint64_t whole = golden_memory(engine).planned_bytes;
        for (uint32_t round = 0; round < 4; round++) {
            const uint64_t least = least_limit(engine);
            assert_true(least < whole);
            assert_int_equal(kvrt_mem_limit(engine, least - 1, NULL, NULL), KVRT_OVER_BUDGET);
            set(engine, least);
            const kvrt_memory tight = golden_memory(engine);
            assert_int_equal(tight.kv_used_bytes, tight.kv_pool_bytes);
            assert_int_equal(tight.kv_cached_bytes, 0);
            if (round & 1) { /* a page more is refused by name, and the session goes on from where it is */
                kvrt_error error = {.size = sizeof error};
                kvrt_options *o = for_tokens(200);
                const uint32_t from = golden_session_info(a[0]).n_tokens;
                const kvrt_status status = kvrt_generate(a[0], o, NULL, NULL, NULL, &error);
                assert_true(status == KVRT_OK || status == KVRT_CTX_FULL);
                (void)generate(b[0], golden_session_info(a[0]).n_tokens - from);
                kvrt_options_destroy(o);
            }
            set(engine, whole);
            for (uint32_t i = 0; i < 3; i++)
                if (generate(a[i], 20) != generate(b[i], 20))
                    fail_msg("%s, round %u: session %u goes on otherwise", formats[f], round, i);
        }
        kvrt_engine_close(engine, NULL);
        kvrt_engine_close(other, NULL);
    }
}

/* Submitted requests, the middle of a step included, by the host's steps or by the worker. Returns how often the limit was changed meanwhile. */
static uint32_t go_on(bool by_worker)
{
    settings with = {.format = "k4v4", .limit = 64u << 20};
    kvrt_engine engine = open_with(with), other = open_with(with);
    kvrt_session a[3], b;
    kvrt_options *o = for_tokens(120);
    uint64_t digest[3] = {1, 1, 1}, request[3];
    uint32_t n_done = 0, n_changes = 0;
    const uint64_t whole = golden_memory(engine).planned_bytes;
    for (uint32_t i = 0; i < 3; i++) {
        a[i] = golden_session_with(engine, i, 200);
        assert_int_equal(kvrt_submit(a[i], o, &request[i], NULL), KVRT_OK);
    }
    if (by_worker) assert_int_equal(kvrt_worker_start(engine, NULL, NULL, NULL), KVRT_OK);
    while (n_done < 3) {
        kvrt_event event = {.size = sizeof event};
        if (!by_worker) assert_true(kvrt_step(engine, 50, NULL) >= KVRT_OK);
        while (kvrt_poll(engine, &event, NULL) == KVRT_OK) {
            for (uint32_t i = 0; i < 3; i++)
                if (event.request == request[i]) golden_note(&event, &digest[i]);
            if (event.type == KVRT_EVENT_ERROR) fail_msg("%.*s", (int)event.text_len, event.text);
            n_done += event.type == KVRT_EVENT_DONE;
        }
        if (n_done == 3) break;
        /* What they will need stays, where it stands does not. */
        const uint64_t pool = golden_memory(engine).kv_pool_bytes,
                       limit = ++n_changes % 2 ? whole - whole % 1000 : whole - pool / 4;
        (void)kvrt_mem_limit(engine, limit, NULL, NULL);
    }
    if (by_worker) assert_int_equal(kvrt_worker_stop(engine, NULL), KVRT_OK);
    for (uint32_t i = 0; i < 3; i++) {
        b = golden_session_with(other, i, 200);
        assert_true(generate(b, 120) == digest[i]);
    }
    kvrt_options_destroy(o);
    kvrt_engine_close(engine, NULL);
    kvrt_engine_close(other, NULL);
    return n_changes;
}

static void requests_go_on(void **state)
{
    (void)state;
    for (int by_worker = 0; by_worker < 2; by_worker++) {
        uint32_t n_changes = 0;
        /* A worker that has the machine for itself may be done before this thread's turn comes: once more then. */
        for (int i = 0; i < 100 && n_changes <= 3; i++) n_changes = go_on(by_worker);
        assert_true(n_changes > 3);
    }
}

/* Idle sessions leave for a directory, those that run stay, and all go on once there is room. */
static void idle_sessions_leave(void **state)
{
    char folder[] = "/tmp/kvrt_limit_XXXXXX";
    (void)state;
    assert_non_null(mkdtemp(folder));
    for (int in_memory = 0; in_memory < 2; in_memory++) {
        settings with = {.format = "k4v4", .limit = 64u << 20, .spill = in_memory ? "memory" : folder};
        kvrt_engine engine = open_with(with), other = open_with((settings){.format = "k4v4", .limit = 64u << 20});
        kvrt_session a[4], b[4];
        for (uint32_t i = 0; i < 4; i++) {
            a[i] = golden_session_with(engine, i, 400), b[i] = golden_session_with(other, i, 400);
            assert_true(generate(a[i], 20) == generate(b[i], 20));
        }
        const kvrt_memory m = golden_memory(engine);
        kvrt_error error = {.size = sizeof error};
        const kvrt_status status = kvrt_mem_limit(engine, golden_limit_for(engine, m.kv_used_bytes / 3), NULL, &error);
        if (in_memory) { /* of which they would take as much */
            assert_int_equal(status, KVRT_OVER_BUDGET);
            assert_int_equal(golden_memory(engine).kv_away_bytes, 0);
        } else {
            if (status < KVRT_OK) fail_msg("%s", error.message);
            assert_true(golden_memory(engine).kv_away_bytes >= m.kv_used_bytes / 2);
            assert_true(generate(a[3], 1) == generate(b[3], 1)); /* there is room for one at a time */
            assert_true(generate(a[1], 1) == generate(b[1], 1));
            set(engine, m.planned_bytes);
        }
        for (uint32_t i = 0; i < 4; i++) assert_true(generate(a[i], 20) == generate(b[i], 20));
        kvrt_engine_close(engine, NULL);
        kvrt_engine_close(other, NULL);
    }
    (void)rmdir(folder);
}

/* An elastic session is within its new share at once, as if it had always been that. */
static void elastic_sessions_give_up_bits(void **state)
{
    (void)state;
    kvrt_engine engine = open_with((settings){.format = "elastic", .sessions = "2", .limit = 64u << 20});
    kvrt_session s = golden_session_with(engine, 1, 590), t = golden_session_with(engine, 2, 590);
    (void)generate(s, 1), (void)generate(t, 1);
    kvrt_session_info before = golden_session_info(s);
    const kvrt_memory m = golden_memory(engine);
    set(engine, golden_limit_for(engine, m.kv_pool_bytes * 9 / 10));
    kvrt_session_info after = golden_session_info(s);
    assert_true(after.kv_bytes < before.kv_bytes && after.kv_bytes <= m.kv_pool_bytes * 9 / 20);
    assert_true(after.n_packed_pages > before.n_packed_pages);
    assert_int_equal(after.n_tokens, before.n_tokens);
    (void)generate(s, 5), (void)generate(t, 5);
    kvrt_engine_close(engine, NULL);
}

/* -------------------------------------------------------------------------------------------------------- others --- */
static void engines_share_it(void **state)
{
    (void)state;
    kvrt_engine one = open_with((settings){.limit = 64u << 20}), two, three;
    const kvrt_memory each = golden_memory(one);
    kvrt_engine_close(one, NULL);
    settings with = {.shared = "true", .limit = 2 * each.planned_bytes + (256u << 10), .most = 8 * each.planned_bytes};
    kvrt_error error = {.size = sizeof error};
    one = open_with(with), two = open_with(with);
    assert_int_equal(try_open(&with, &three, &error), KVRT_OVER_BUDGET);
    /* What one gives back the other may have. */
    const uint64_t pool = golden_memory(one).kv_pool_bytes;
    set(one, golden_memory(one).planned_bytes + golden_memory(two).planned_bytes - pool / 2);
    assert_true(golden_memory(one).kv_pool_bytes <= pool / 2);
    set(two, with.limit);
    assert_true(golden_memory(two).kv_pool_bytes > pool);
    assert_true(golden_memory(one).planned_bytes + golden_memory(two).planned_bytes <= with.limit);
    set(one, with.limit); /* nothing is left for it to grow */
    assert_true(golden_memory(one).planned_bytes + golden_memory(two).planned_bytes <= with.limit);
    kvrt_engine_close(two, NULL);
    set(one, with.limit);
    assert_true(golden_memory(one).kv_pool_bytes > pool);
    kvrt_engine_close(one, NULL);
    one = open_with(with); /* and nothing of it is held by who is gone */
    kvrt_engine_close(one, NULL);
}

static void what_is_refused(void **state)
{
    (void)state;
    kvrt_error error = {.size = sizeof error};
    kvrt_engine engine = open_with((settings){.limit = 64u << 20, .most = 96u << 20});
    kvrt_session s = golden_session_with(engine, 1, 300);
    const uint64_t first = generate(s, 5), before = golden_memory(engine).kv_pool_bytes;
    assert_int_equal(kvrt_mem_limit(engine, 1000, NULL, &error), KVRT_OVER_BUDGET);
    assert_non_null(strstr(error.message, "beside its KV pool"));
    assert_int_equal(error.available_bytes, 1000);
    kvrt_debug_fail_alloc(1); /* growing is the one thing that takes memory */
    assert_int_equal(kvrt_mem_limit(engine, 96u << 20, NULL, &error), KVRT_NOMEM_HOST);
    kvrt_debug_fail_alloc(0);
    assert_int_equal(golden_memory(engine).kv_pool_bytes, before);
    set(engine, UINT64_MAX);
    assert_int_equal(golden_memory(engine).kv_pool_bytes, golden_memory(engine).kv_pool_most_bytes);
    /* Options that opened the engine still open sessions. */
    kvrt_session other;
    kvrt_options *o = options_of(&(settings){.limit = 64u << 20, .most = 96u << 20});
    assert_int_equal(kvrt_session_create(engine, o, &other, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_close(other, NULL), KVRT_OK);
    kvrt_options_destroy(o);
    assert_int_equal(kvrt_suspend(engine, NULL), KVRT_OK);
    assert_int_equal(kvrt_mem_limit(engine, 64u << 20, NULL, &error), KVRT_STATE);
    assert_int_equal(kvrt_resume(engine, NULL), KVRT_OK); /* as large as it was */
    set(engine, least_limit(engine));
    set(engine, 0);
    assert_int_equal(kvrt_session_rewind(s, 300, NULL), KVRT_OK);
    assert_true(generate(s, 5) == first);
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_plan_says_both),
                                       cmocka_unit_test(more_sessions_find_room),
                                       cmocka_unit_test(memory_goes_and_comes),
                                       cmocka_unit_test(sessions_go_on),
                                       cmocka_unit_test(requests_go_on),
                                       cmocka_unit_test(idle_sessions_leave),
                                       cmocka_unit_test(elastic_sessions_give_up_bits),
                                       cmocka_unit_test(engines_share_it),
                                       cmocka_unit_test(what_is_refused)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
