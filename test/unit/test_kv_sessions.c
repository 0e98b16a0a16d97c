/* test_kv_sessions.c - what a session computes is its own: pages that were somebody else's before, pages that were moved, a rewind and
 * tokens appended again, other sessions in between. All of it to the last bit of every logit, against sessions that had none of that. */
#include "golden_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const char *const model_names[] = {"llama_gqa2", "qwen2_window"}; /* full attention; full and windowed layers */
static const char *const formats[] = {"f16", "i8", "k4v4", "k4v2", "elastic"};
enum { N_FORMATS = 5, MOST = 4000 };
static golden_model model;
static float *logits;

static int32_t token(uint32_t story, uint32_t pos)
{
    return (int32_t)(2 + (pos * 31 + story * 17 + pos / 90 * story) % 90);
}

/* An engine of one thread; `more` is key, value, ..., NULL. */
static kvrt_engine open_engine(const char *format, const char *tail, const char *const *more)
{
    const char *pairs[24] = {"cpu.threads", "1", "kv.format", format, "kv.tail", tail, "ctx.chunk", "64"};
    for (unsigned n = 8; *more; more++, n++) pairs[n] = *more;
    return golden_open(&model, pairs);
}
static kvrt_session session_on(kvrt_engine engine, const char *format)
{
    kvrt_session s;
    kvrt_options *o;
    kvrt_error error = {.size = sizeof error};
    kvrt_options_create(&o, NULL);
    if (format) kvrt_options_set_text(o, "kv.format", format, NULL);
    if (kvrt_session_create(engine, o, &s, &error) < KVRT_OK) fail_msg("%s", error.message);
    kvrt_options_destroy(o);
    return s;
}

/* Positions [from, to) of a story in steps of at most `step`; every step's last logits go into the digest. */
static uint64_t feed(kvrt_session s, uint32_t story, uint32_t from, uint32_t to, uint32_t step, uint64_t digest)
{
    int32_t ids[64];
    kvrt_error error = {.size = sizeof error};
    for (uint32_t at = from, n; at < to; at += n) {
        n = to - at < step ? to - at : step;
        for (uint32_t i = 0; i < n; i++) ids[i] = token(story, at + i);
        if (kvrt_session_eval(s, ids, n, NULL, 1, logits, &error) < KVRT_OK) fail_msg("at %u: %s", at, error.message);
        for (uint32_t i = 0; i < model.vocab * 4; i++)
            digest = (digest ^ ((const uint8_t *)logits)[i]) * 1099511628211u;
    }
    return digest;
}
/* Back inside the 16-bit pages: as if the tokens had never been there. */
static void rewind_into_the_tail(void **state)
{
    for (unsigned f = 0; f < N_FORMATS; f++) {
        kvrt_engine engine = open_engine(formats[f], "128", (const char *const[]){"ctx.size", "1000", NULL});
        kvrt_session a = session_on(engine, NULL);
        uint64_t want = feed(a, 0, 0, 520, 64, 1); /* 520: the next page is encoded at 640 */
        want = feed(a, 0, 520, 700, 1, want);
        kvrt_session_close(a, NULL);
        for (uint32_t more = 1; more < 120; more += 39) {
            kvrt_session b = session_on(engine, NULL);
            uint64_t got = feed(b, 0, 0, 520, 64, 1);
            (void)feed(b, 1, 520, 520 + more, 7, 0);
            assert_int_equal(kvrt_session_rewind(b, 520, NULL), KVRT_OK);
            assert_int_equal(golden_session_info(b).n_cached, 520);
            got = feed(b, 0, 520, 700, 1, got);
            if (got != want) fail_msg("%s: %u tokens rewound left a trace", formats[f], more);
            kvrt_session_close(b, NULL);
        }
        kvrt_engine_close(engine, NULL);
    }
}

/* Into encoded pages: to the start of one, and from there as if nothing had followed it. */
static void rewind_into_encoded_pages(void **state)
{
    for (unsigned f = 1; f < 4; f++)
        for (uint32_t to = 256; to <= 384; to += to == 256 ? 1 : to == 383 ? 1 : 126) { /* 256, 257, 383, 384 */
            kvrt_engine engine = open_engine(formats[f], "0", (const char *const[]){"ctx.size", "1000", NULL});
            const uint32_t start = to / 128 * 128;
            kvrt_session a = session_on(engine, NULL);
            uint64_t want = feed(a, 0, 0, start, 64, 1);
            want = feed(a, 0, start, 600, 33, want);
            kvrt_session_close(a, NULL);
            kvrt_session b = session_on(engine, NULL);
            uint64_t got = feed(b, 0, 0, start, 64, 1);
            (void)feed(b, 1, start, 700, 50, 0);
            assert_int_equal(golden_session_info(b).n_packed_pages, 4);
            assert_int_equal(kvrt_session_rewind(b, to, NULL), KVRT_OK);
            assert_int_equal(golden_session_info(b).n_cached, start);
            assert_int_equal(golden_session_info(b).n_packed_pages, start / 128 - 1);
            assert_int_equal(kvrt_session_rewind(b, start, NULL), KVRT_OK);
            got = feed(b, 0, start, 600, 33, got);
            if (got != want) fail_msg("%s: rewound to %u: not the same", formats[f], to);
            kvrt_session_close(b, NULL);
            kvrt_engine_close(engine, NULL);
        }
}

/* A pool that is just large enough, so that every page lives where others did and moves when it must, against one with room for all. */
static void recycled_and_moved_pages(void **state)
{
    for (unsigned m = 0; m < 2; m++) {
        golden_free(&model);
        assert_true(golden_load(model_names[m], &model));
        for (unsigned f = 0; f < 4; f++)
            for (uint32_t step = 1; step <= 64; step += 63) {
                const uint32_t n = step == 1 ? 1500 : 3000;
                char ctx[16];
                snprintf(ctx, sizeof ctx, "%u", n);
                const char *chunk = step == 1 ? "1" : "64";
                kvrt_engine small =
                    open_engine(formats[f], "0", (const char *const[]){"ctx.size", ctx, "ctx.chunk", chunk, NULL});
                kvrt_engine large = open_engine(formats[f], "0", (const char *const[]){"ctx.size", "40000", NULL});
                kvrt_session roomy = session_on(large, NULL);
                const uint64_t want = feed(roomy, 0, 0, n, step, 1);
                for (unsigned round = 0; round < 2; round++) {
                    kvrt_session s = session_on(small, NULL);
                    (void)feed(s, 5 + round, 0, n / 3, step, 0); /* somebody's pages before */
                    kvrt_session_close(s, NULL);
                    s = session_on(small, NULL);
                    if (feed(s, 0, 0, n, step, 1) != want)
                        fail_msg("%s, %s, steps of %u, round %u: a full pool changes the results", model_names[m],
                                 formats[f], step, round);
                    kvrt_session_close(s, NULL);
                }
                kvrt_engine_close(small, NULL), kvrt_engine_close(large, NULL);
            }
    }
    golden_free(&model);
    assert_true(golden_load(model_names[0], &model));
}

/* Two sessions take turns; each is as it would be alone. */
static void sessions_take_turns(void **state)
{
    for (unsigned m = 0; m < 2; m++) {
        golden_free(&model);
        assert_true(golden_load(model_names[m], &model));
        for (unsigned f = 0; f < N_FORMATS; f++)
            for (unsigned other = 0; other < (f == 4 ? 2 : 1);
                 other++) { /* beside an elastic session: another one, and a fixed one */
                const bool elastic = f == 4;
                uint64_t want[2];
                kvrt_engine alone =
                    open_engine(formats[f], "128",
                                (const char *const[]){"ctx.size", "1600", elastic ? "kv.pool" : "ctx.sessions",
                                                      elastic ? m ? "150KiB" : "260KiB" : "1", NULL});
                kvrt_engine both =
                    open_engine(formats[f], "128",
                                (const char *const[]){"ctx.size", "1600", "ctx.sessions", "2",
                                                      elastic ? "kv.pool" : NULL, m ? "300KiB" : "520KiB", NULL});
                for (uint32_t i = 0; i < 2; i++) {
                    kvrt_session s = session_on(alone, i && other ? "k4v4" : NULL);
                    want[i] = feed(s, i, 0, 1600, 64, 1);
                    if (elastic && !(i && other))
                        assert_true(golden_session_info(s).n_packed_pages > 2); /* it had to demote */
                    kvrt_session_close(s, NULL);
                }
                kvrt_session s[2] = {session_on(both, NULL), session_on(both, other ? "k4v4" : NULL)};
                uint64_t got[2] = {1, 1};
                for (uint32_t at[2] = {0, 0}; at[0] < 1600 || at[1] < 1600;) {
                    const uint32_t i = at[0] >= 1600 || (at[1] < 1600 && (at[0] + at[1]) / 64 % 5 < 2);
                    got[i] = feed(s[i], i, at[i], at[i] + 64, 64, got[i]);
                    at[i] += 64;
                }
                for (uint32_t i = 0; i < 2; i++)
                    if (got[i] != want[i])
                        fail_msg("%s, %s beside %s: session %u is not what it is alone", model_names[m], formats[f],
                                 other ? "k4v4" : formats[f], i);
                kvrt_engine_close(alone, NULL), kvrt_engine_close(both, NULL);
            }
    }
    golden_free(&model);
    assert_true(golden_load(model_names[0], &model));
}

/* One token, and a context of one. */
static void smallest_contexts(void **state)
{
    for (unsigned f = 0; f < N_FORMATS; f++) {
        kvrt_engine engine = open_engine(formats[f], "0", (const char *const[]){"ctx.size", "1", NULL});
        kvrt_engine large = open_engine(formats[f], "0", (const char *const[]){"ctx.size", "1000", NULL});
        kvrt_session s = session_on(engine, NULL), t = session_on(large, NULL);
        assert_int_equal(golden_session_info(s).kv_bytes, 0);
        assert_true(feed(s, 0, 0, 1, 1, 1) == feed(t, 0, 0, 1, 1, 1));
        const int32_t id = 3;
        assert_int_equal(kvrt_session_eval(s, &id, 1, NULL, 0, NULL, NULL), KVRT_CTX_FULL);
        assert_int_equal(kvrt_session_rewind(s, 0, NULL), KVRT_OK);
        assert_int_equal(golden_session_info(s).kv_bytes, 0);
        assert_true(feed(s, 1, 0, 1, 1, 1) !=
                    feed(t, 1, 1, 2, 1, 1)); /* the second token of one is the first of the other */
        kvrt_engine_close(engine, NULL), kvrt_engine_close(large, NULL);
    }
}

static int setup(void **state)
{
    if (!golden_load(model_names[0], &model)) return -1;
    logits = malloc(MOST * sizeof *logits);
    return logits && model.vocab <= MOST ? 0 : -1;
}
static int teardown(void **state)
{
    golden_free(&model);
    free(logits);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rewind_into_the_tail),
                                       cmocka_unit_test(rewind_into_encoded_pages),
                                       cmocka_unit_test(recycled_and_moved_pages),
                                       cmocka_unit_test(sessions_take_turns), cmocka_unit_test(smallest_contexts)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
