/* test_recurrent.c - sessions of a model with recurrent layers, which cannot go back by themselves: after a rewind to any position, or a sync to a
 * text that differs from there on, every logit is that of a fresh session, to the bit; and what is computed again begins at a checkpoint. */
#include "golden_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { N = 300, TAIL = 5 };

static kvrt_session open_session(kvrt_engine engine)
{
    kvrt_session session;
    assert_int_equal(kvrt_session_create(engine, NULL, &session, NULL), KVRT_OK);
    return session;
}

/* Logits behind the last of ids (n), the last TAIL of which are appended token by token, as decoding does. */
static void last_logits(kvrt_session session, const int32_t *ids, uint32_t n, float *out)
{
    kvrt_error error = {.size = sizeof error};
    if (n > TAIL && kvrt_session_sync(session, ids, n - TAIL, NULL, &error) < 0) fail_msg("%s", error.message);
    for (uint32_t i = n > TAIL ? n - TAIL : 0; i < n; i++)
        if (kvrt_session_eval(session, ids + i, 1, NULL, 1, out, &error) < 0) fail_msg("%s", error.message);
}

static uint64_t n_cached(kvrt_session session)
{
    kvrt_session_info info = {.size = sizeof info};
    assert_int_equal(kvrt_session_get_info(session, &info, NULL), KVRT_OK);
    return info.n_cached;
}

static const golden_prompt *longest(const golden_model *m)
{
    const golden_prompt *best = &m->prompts[0];
    for (uint32_t i = 1; i < m->n_prompts; i++)
        if (m->prompts[i].n > best->n) best = &m->prompts[i];
    assert_true(best->n >= N);
    return best;
}

/* In pages of every kind, chunks that do and do not divide a page: from a text of N tokens back to `at`, and on with other tokens. */
static void a_rewound_session_is_a_fresh_one(void **state)
{
    static const char *const formats[] = {"f32", "k4v4"}, *const chunks[] = {"64", "512", "7"};
    static const uint32_t positions[] = {1, 2, 63, 64, 127, 128, 129, 200, 255, 256, 257, 290, N - TAIL};
    golden_model m;
    assert_true(golden_load("qwen3_5", &m));
    const golden_prompt *prompt = longest(&m);
    float *fresh = malloc(m.vocab * sizeof *fresh), *again = malloc(m.vocab * sizeof *again);
    for (unsigned f = 0; f < 2; f++)
        for (unsigned c = 0; c < 3; c++) {
            const char *pairs[] = {"kv.format", formats[f], "ctx.chunk", chunks[c], "ctx.sessions", "2", NULL};
            kvrt_engine engine = golden_open(&m, pairs);
            for (unsigned p = 0; p < sizeof positions / sizeof positions[0]; p++) {
                const uint32_t at = positions[p], n = at + 20;
                int32_t ids[N + 40];
                kvrt_session a = open_session(engine), b = open_session(engine);
                memcpy(ids, prompt->ids, N * sizeof *ids);
                last_logits(a, ids, N, again);
                for (uint32_t i = at; i < n; i++)
                    ids[i] = 2 + (int32_t)((i * 7 + 3) % 90); /* another text from there on */
                assert_int_equal(kvrt_session_rewind(a, at, NULL), KVRT_OK);
                assert_true(n_cached(a) <= at);
                last_logits(a, ids, n, again);
                last_logits(b, ids, n, fresh);
                if (memcmp(fresh, again, m.vocab * sizeof *fresh) != 0)
                    fail_msg("%s, chunk %s: back to %u differs from a fresh session", formats[f], chunks[c], at);
                kvrt_session_close(a, NULL), kvrt_session_close(b, NULL);
            }
            kvrt_engine_close(engine, NULL);
        }
    free(fresh), free(again);
    golden_free(&m);
}

/* An answer begun anew, and one to a longer text, begin where the prompt ended, wherever that is in a page. */
static void an_answer_begun_anew_computes_no_prompt(void **state)
{
    static const uint32_t lengths[] = {130, 140, 257, 290};
    const char *pairs[] = {"kv.format", "k4v4", "gen.max_tokens", "150", "gen.ignore_eos", "true", "sample.temperature",
                           "0",         NULL};
    golden_model m;
    assert_true(golden_load("qwen3_5", &m));
    const golden_prompt *prompt = longest(&m);
    kvrt_engine engine = golden_open(&m, pairs);
    for (unsigned i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        kvrt_session session = open_session(engine);
        const uint32_t n = lengths[i];
        uint64_t reused = 0;
        kvrt_result result = {.size = sizeof result};
        assert_int_equal(kvrt_session_sync(session, prompt->ids, n, NULL, NULL), KVRT_OK);
        assert_true(kvrt_generate(session, NULL, NULL, NULL, &result, NULL) >= KVRT_OK);
        assert_true(result.n_generated >= 100);
        assert_int_equal(kvrt_session_sync(session, prompt->ids, n, &reused, NULL), KVRT_OK);
        assert_int_equal(reused, n - 1);
        kvrt_session_close(session, NULL);
    }
    kvrt_engine_close(engine, NULL);
    golden_free(&m);
}

/* In short steps the convolution rests on what it remembers; here another layer's state overwrites it. */
static void the_convolution_remembers(void **state)
{
    golden_model m;
    assert_true(golden_load("qwen3_5", &m));
    for (unsigned off = 0; off < 2; off++) {
        const char *pairs[] = {"kv.format", "f32", "ctx.chunk", "7", "debug.disable", off ? "conv_state" : "", NULL};
        kvrt_engine engine = golden_open(&m, pairs);
        const double error = golden_logit_error(engine, &m, NULL);
        if ((error <= golden_limit(&m, GOLDEN_F32_CACHE)) == (off != 0))
            fail_msg("state of its own %u: %g", !off, error);
        kvrt_engine_close(engine, NULL);
    }
    golden_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_rewound_session_is_a_fresh_one),
                                       cmocka_unit_test(an_answer_begun_anew_computes_no_prompt),
                                       cmocka_unit_test(the_convolution_remembers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
