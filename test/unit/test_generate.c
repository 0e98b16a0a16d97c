/* test_generate.c - what kvrt_generate promises over several calls on one session: random choices. */
#include "golden_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { MOST = 128 };
static golden_model model;
static const int32_t prompt[5] = {10, 20, 30, 40, 50};

typedef struct ids {
    int32_t id[MOST];
    uint64_t n;
} ids;

static ids tokens_of(kvrt_session s)
{
    ids out = {0};
    assert_int_equal(kvrt_session_tokens(s, out.id, MOST, &out.n, NULL), KVRT_OK);
    return out;
}

static kvrt_session session_with_prompt(kvrt_engine engine)
{
    kvrt_session s;
    assert_int_equal(kvrt_session_create(engine, NULL, &s, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_sync(s, prompt, 5, NULL, NULL), KVRT_OK);
    return s;
}

static bool same_ids(const ids *a, const ids *b)
{
    return a->n == b->n && memcmp(a->id, b->id, a->n * sizeof *a->id) == 0;
}

/* `n` tokens in calls of `per_call`, with sample.seed as text (NULL: not given). Returns the seed that the last call reports. */
static uint64_t go_on(kvrt_session s, int64_t n, int64_t per_call, const char *seed)
{
    kvrt_result result = {.size = sizeof result};
    kvrt_error error = {.size = sizeof error};
    kvrt_options *o;
    assert_int_equal(kvrt_options_create(&o, NULL), KVRT_OK);
    assert_int_equal(kvrt_options_set_i64(o, "gen.max_tokens", per_call, NULL), KVRT_OK);
    if (seed) assert_int_equal(kvrt_options_set_text(o, "sample.seed", seed, NULL), KVRT_OK);
    for (int64_t i = 0; i < n; i += per_call)
        if (kvrt_generate(s, o, NULL, NULL, &result, &error) != KVRT_OK) fail_msg("%s", error.message);
    kvrt_options_destroy(o);
    return result.seed;
}

static const char *const flat[] = {"sample.temperature",
                                   "5",
                                   "sample.top_k",
                                   "0",
                                   "sample.top_p",
                                   "1",
                                   "sample.min_p",
                                   "0",
                                   "gen.ignore_eos",
                                   "true",
                                   NULL};

static void a_given_seed_goes_on_over_calls(void **state)
{
    (void)state;
    kvrt_engine engine = golden_open(&model, flat);
    kvrt_session a = session_with_prompt(engine), b = session_with_prompt(engine);
    assert_int_equal(go_on(a, 32, 32, "7"), 7);
    assert_int_equal(go_on(b, 32, 1, "7"), 7);
    const ids whole = tokens_of(a), steps = tokens_of(b);
    assert_true(same_ids(&whole, &steps));
    /* Generating again advances the stream, after a rewind as after a sync. */
    assert_int_equal(kvrt_session_rewind(a, 5, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_sync(b, prompt, 5, NULL, NULL), KVRT_OK);
    assert_int_equal(go_on(a, 32, 32, "7"), 7);
    assert_int_equal(go_on(b, 32, 32, "7"), 7);
    const ids second = tokens_of(a), second_synced = tokens_of(b);
    assert_false(same_ids(&whole, &second));
    assert_true(same_ids(&second, &second_synced));
    /* Another seed begins the stream again; so does the first one after it. */
    assert_int_equal(kvrt_session_rewind(a, 5, NULL), KVRT_OK);
    assert_int_equal(go_on(a, 32, 32, "8"), 8);
    const ids other = tokens_of(a);
    assert_false(same_ids(&whole, &other));
    assert_int_equal(kvrt_session_rewind(a, 5, NULL), KVRT_OK);
    assert_int_equal(go_on(a, 32, 32, "7"), 7);
    const ids again = tokens_of(a);
    assert_true(same_ids(&whole, &again));
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
}

static void without_a_seed_every_text_is_new_and_can_be_repeated(void **state)
{
    (void)state;
    kvrt_engine engine = golden_open(&model, flat);
    kvrt_session a = session_with_prompt(engine), b = session_with_prompt(engine);
    char text[32];
    const uint64_t seed = go_on(a, 32, 4, NULL); /* eight calls, one text: one seed */
    assert_true(seed < (UINT64_C(1) << 53));
    snprintf(text, sizeof text, "%llu", (unsigned long long)seed);
    assert_int_equal(go_on(b, 32, 32, text), seed);
    const ids first = tokens_of(a), repeated = tokens_of(b);
    assert_true(same_ids(&first, &repeated));
    assert_int_equal(kvrt_session_rewind(a, 5, NULL), KVRT_OK);
    const uint64_t next = go_on(a, 32, 32, "auto");
    const ids second = tokens_of(a);
    assert_true(next != seed);
    assert_false(same_ids(&first, &second));
    /* A seed that was random before and is given now begins again. */
    assert_int_equal(kvrt_session_rewind(a, 5, NULL), KVRT_OK);
    snprintf(text, sizeof text, "%llu", (unsigned long long)next);
    assert_int_equal(go_on(a, 32, 32, text), next);
    const ids given = tokens_of(a);
    assert_true(same_ids(&second, &given));
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_given_seed_goes_on_over_calls),
                                       cmocka_unit_test(without_a_seed_every_text_is_new_and_can_be_repeated)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
