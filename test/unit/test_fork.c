/* test_fork.c - a fork goes on as the first one does, wherever in a text it is made: withheld bytes, half of a stop string, half of a character, the
 * stream of random numbers, a pause; what one does then the other does not see. */
#include "golden_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static golden_model model;

typedef struct heard {
    char text[4096];
    size_t len;
    uint64_t digest;
    int32_t answer;
} heard;

static int32_t listen(const kvrt_event *event, void *user)
{
    heard *h = user;
    uint32_t bits;
    memcpy(&bits, &event->logprob, sizeof bits);
    h->digest = (h->digest ^ (uint32_t)event->type ^ (uint32_t)event->token ^ bits ^ (uint32_t)event->finish << 8) *
                1099511628211u;
    if (event->type == KVRT_EVENT_DONE || event->type == KVRT_EVENT_TEXT) /* of DONE: what is withheld */
        for (size_t i = 0; i < event->text_len; i++) h->digest = (h->digest ^ (uint8_t)event->text[i]) * 1099511628211u;
    if (event->type == KVRT_EVENT_TEXT && h->len + event->text_len < sizeof h->text) {
        memcpy(h->text + h->len, event->text, event->text_len);
        h->len += event->text_len;
    }
    return event->type == KVRT_EVENT_TOKEN ? h->answer : KVRT_CONTINUE;
}

static kvrt_engine open_engine(void)
{
    const char *pairs[] = {
        "cpu.threads", "1",   "kv.format",      "k4v4", "kv.tail",          "0",    "ctx.sessions",       "3",
        "ctx.size",    "400", "gen.ignore_eos", "true", "gen.token_events", "true", "sample.temperature", "1.2",
        NULL};
    return golden_open(&model, pairs);
}

static kvrt_status generate(kvrt_session s, uint32_t n, const char *stop, int64_t seed, heard *h)
{
    kvrt_options *o;
    kvrt_error error = {.size = sizeof error};
    assert_int_equal(kvrt_options_create(&o, NULL), KVRT_OK);
    kvrt_options_set_i64(o, "gen.max_tokens", n, NULL);
    if (stop) kvrt_options_set_string(o, "gen.stop", stop, -1, NULL);
    if (seed >= 0) kvrt_options_set_i64(o, "sample.seed", seed, NULL);
    const kvrt_status status = kvrt_generate(s, o, listen, h, NULL, &error);
    if (status < KVRT_OK) fail_msg("%s", error.message);
    kvrt_options_destroy(o);
    return status;
}

static kvrt_session begin(kvrt_engine engine, const char *text)
{
    kvrt_session s;
    int32_t ids[256];
    uint64_t n;
    assert_int_equal(kvrt_session_create(engine, NULL, &s, NULL), KVRT_OK);
    assert_int_equal(kvrt_tokenize(engine, text, -1, 0, ids, 256, &n, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_sync(s, ids, n, NULL, NULL), KVRT_OK);
    return s;
}

/* At every token of a text: both go on alike, with a seed and without one. */
static void goes_on_alike(void **state)
{
    (void)state;
    static const char *const names[] = {"llama_gqa2", "qwen3", "mistral_window", "qwen3_next"};
    for (unsigned m = 0; m < 4; m++)
        for (int seeded = 0; seeded < 2; seeded++) {
            golden_free(&model);
            if (!golden_load(names[m], &model)) fail_msg("no golden model %s", names[m]);
            kvrt_engine engine = open_engine();
            const int64_t seed = seeded ? 9 : -1;
            char stop[8] = "";
            /* A stop string whose beginning the text has, and which it never meets. */
            kvrt_session s = begin(engine, "once upon a time");
            heard all = {.digest = 1};
            (void)generate(s, 60, NULL, seed, &all);
            snprintf(stop, sizeof stop, "%.2s\x01", all.len > 4 ? all.text + all.len / 2 : "ab");
            assert_int_equal(kvrt_session_close(s, NULL), KVRT_OK);
            s = begin(engine, "once upon a time");
            for (uint32_t n = 0; n < 40; n++) {
                kvrt_session fork;
                heard one = {.digest = 1}, two = {.digest = 1}, step = {.digest = 1};
                assert_int_equal(kvrt_session_fork(s, &fork, NULL), KVRT_OK);
                if (n == 0 && !seeded) {
                    /* Without a stream that has begun each draws its own. */
                    assert_int_equal(kvrt_session_close(fork, NULL), KVRT_OK);
                    (void)generate(s, 1, stop, seed, &step);
                    continue;
                }
                kvrt_session second;
                assert_int_equal(kvrt_session_fork(fork, &second, NULL), KVRT_OK);
                (void)generate(fork, 12, stop, seed, &one);
                (void)generate(second, 12, stop, seed, &two);
                if (one.digest != two.digest)
                    fail_msg("%s, token %u: the fork's fork says something else", names[m], n);
                assert_int_equal(kvrt_session_close(second, NULL), KVRT_OK);
                assert_int_equal(kvrt_session_close(fork, NULL), KVRT_OK);
                /* The first one has heard nothing of it. */
                assert_int_equal(kvrt_session_fork(s, &fork, NULL), KVRT_OK);
                heard now = {.digest = 1};
                (void)generate(fork, 12, stop, seed, &now);
                if (now.digest != one.digest) fail_msg("%s, token %u: the first one was changed", names[m], n);
                assert_int_equal(kvrt_session_close(fork, NULL), KVRT_OK);
                (void)generate(s, 1, stop, seed, &step);
            }
            kvrt_engine_close(engine, NULL);
        }
}

/* The original itself goes on as its fork did: compared token by token, not by two forks. */
static void as_the_original(void **state)
{
    (void)state;
    golden_free(&model);
    assert_true(golden_load("llama_gqa2", &model));
    kvrt_engine engine = open_engine();
    uint32_t n_withheld = 0;
    for (uint32_t n = 1; n < 30; n += 3) {
        kvrt_session s = begin(engine, "it was a dark night"), fork;
        heard plain = {.digest = 1}, before = {.digest = 1}, one = {.digest = 1}, two = {.digest = 1};
        char stop[4] = "zz";
        (void)generate(s, n, NULL, 21, &plain);
        /* The text's last byte could be the beginning of this one, so it waits in the session. */
        if (plain.len > 0 && (signed char)plain.text[plain.len - 1] > 0)
            stop[0] = plain.text[plain.len - 1], stop[1] = 1;
        assert_int_equal(kvrt_session_close(s, NULL), KVRT_OK);
        s = begin(engine, "it was a dark night");
        (void)generate(s, n, stop, 21, &before);
        n_withheld += before.len < plain.len;
        assert_int_equal(kvrt_session_fork(s, &fork, NULL), KVRT_OK);
        (void)generate(fork, 25, stop, 21, &one);
        (void)generate(s, 25, stop, 21, &two);
        assert_int_equal(one.digest, two.digest);
        assert_int_equal(kvrt_session_close(fork, NULL), KVRT_OK);
        assert_int_equal(kvrt_session_close(s, NULL), KVRT_OK);
    }
    assert_true(n_withheld > 3);
    /* A paused request is over in the fork; its text goes on. */
    kvrt_session s = begin(engine, "it was a dark night"), fork;
    heard paused = {.digest = 1, .answer = KVRT_PAUSE}, one = {.digest = 1}, two = {.digest = 1};
    assert_int_equal(generate(s, 26, NULL, 3, &paused), KVRT_PAUSED);
    assert_int_equal(kvrt_session_fork(s, &fork, NULL), KVRT_OK);
    (void)generate(fork, 25, NULL, 3, &one);
    assert_int_equal(generate(s, 26, NULL, 3, &two), KVRT_OK);
    assert_int_equal(one.len, two.len);
    assert_memory_equal(one.text, two.text, one.len);
    kvrt_engine_close(engine, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(goes_on_alike), cmocka_unit_test(as_the_original)};
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    golden_free(&model);
    return failed;
}
