/* test_draft_samples.c - what is drawn behind guesses has the distribution of the model, by Pearson's chi-squared. */
#include "crowd.h"
#include "golden_model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { V = 4096 };
typedef struct sampling {
    double temperature, min_p, frequency;
    uint32_t top_k;
} sampling;

/* Probabilities by the definition, in double: penalties, temperature, top-k, min-p. */
static void probabilities(const sampling *w, const float *logits, uint32_t n, const int32_t *recent, uint32_t n_recent,
                          double *p)
{
    double best = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < n; i++) p[i] = logits[i];
    for (uint32_t i = 0; i < n_recent; i++) p[recent[i]] -= w->frequency;
    for (uint32_t i = 0; i < n; i++) p[i] /= w->temperature, best = fmax(best, p[i]);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t above = 0;
        for (uint32_t k = 0; k < n && above < w->top_k; k++) above += p[k] > p[i];
        p[i] = above < w->top_k && exp(p[i] - best) >= w->min_p ? p[i] : -INFINITY;
    }
    for (uint32_t i = 0; i < n; i++) p[i] = exp(p[i] - best), sum += p[i];
    for (uint32_t i = 0; i < n; i++) p[i] /= sum;
}

/* 2,500 seeds each make three tokens behind a prompt that repeats itself; with what went before given, the second and third (whose rows were
 * computed behind guesses) are counted against the exact distribution by Pearson's chi-squared. */
static void samples_have_the_distribution_of_the_model(void **state)
{
    enum { SEEDS = 2500, PROMPT = 48 };
    static double p1[V], p2[V];
    static float logits[V];
    static uint32_t first[V], second[V];
    static int32_t drawn[SEEDS][3];
    const sampling w = {.temperature = 1.3, .min_p = 0.02, .frequency = 0.2, .top_k = 12};
    const char *pairs[] = {"ctx.size", "256", "ctx.sessions", "2", "kv.format", "f16", NULL};
    kvrt_engine engine = golden_open_tiny(pairs);
    kvrt_engine_info info = {.size = sizeof info};
    assert_int_equal(kvrt_engine_get_info(engine, &info, NULL), KVRT_OK);
    assert_true(info.vocab_size <= V);
    int32_t prompt[PROMPT + 2];
    kvrt_session s = golden_session(engine), exact = golden_session(engine);
    /* A greedy text of the model's own, and its beginning again: what is guessed is likely, and not certain. */
    const char *greedy[] = {"sample.temperature", "0", "gen.max_tokens", "24", "gen.ignore_eos", "true", NULL};
    kvrt_options *o = golden_options(greedy);
    prompt[0] = crowd_token(3, 0);
    assert_int_equal(kvrt_session_sync(s, prompt, 1, NULL, NULL), KVRT_OK);
    assert_int_equal(kvrt_generate(s, o, NULL, NULL, NULL, NULL), KVRT_OK);
    uint64_t n;
    assert_int_equal(kvrt_session_tokens(s, prompt, PROMPT, &n, NULL), KVRT_OK);
    for (uint32_t i = 25; i < PROMPT; i++) prompt[i] = prompt[i - 25];
    kvrt_options_destroy(o);
    const char *draw[] = {"sample.temperature",
                          "1.3",
                          "sample.top_k",
                          "12",
                          "sample.top_p",
                          "1",
                          "sample.min_p",
                          "0.02",
                          "sample.frequency_penalty",
                          "0.2",
                          "sample.repeat_last",
                          "64",
                          "gen.max_tokens",
                          "3",
                          "gen.ignore_eos",
                          "true",
                          "draft.type",
                          "lookup",
                          NULL};
    o = golden_options(draw);
    uint32_t n_true = 0, n_wrong = 0;
    for (uint32_t seed = 0; seed < SEEDS; seed++) {
        int32_t ids[PROMPT + 3];
        kvrt_result result = {.size = sizeof result};
        kvrt_options_set_i64(o, "sample.seed", seed, NULL);
        assert_int_equal(kvrt_session_sync(s, prompt, PROMPT, NULL, NULL), KVRT_OK);
        assert_int_equal(kvrt_generate(s, o, NULL, NULL, &result, NULL), KVRT_OK);
        assert_int_equal(kvrt_session_tokens(s, ids, PROMPT + 3, &n, NULL), KVRT_OK);
        memcpy(drawn[seed], ids + PROMPT, sizeof drawn[seed]);
        first[drawn[seed][0]]++;
        n_true += result.n_accepted, n_wrong += result.n_drafted - result.n_accepted;
    }
    assert_true(n_true > 300 && n_wrong > 300);
    kvrt_options_destroy(o);
    /* The first token, then the second behind the first token that was drawn most. */
    double chi = 0, cells = 0;
    assert_int_equal(kvrt_session_eval(exact, prompt, PROMPT - 1, NULL, 0, NULL, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_eval(exact, prompt + PROMPT - 1, 1, NULL, 1, logits, NULL), KVRT_OK);
    probabilities(&w, logits, info.vocab_size, prompt, PROMPT, p1);
    uint32_t most = 0, n_most = 0;
    for (uint32_t i = 0; i < info.vocab_size; i++) {
        if (p1[i] == 0 && first[i]) fail_msg("token %u was drawn %u times, and is not allowed", i, first[i]);
        if (first[i] > first[most]) most = i;
        if (p1[i] * SEEDS < 5) continue;
        const double d = first[i] - p1[i] * SEEDS;
        chi += d * d / (p1[i] * SEEDS), cells++;
    }
    for (uint32_t i = 0; i < SEEDS; i++)
        if ((uint32_t)drawn[i][0] == most) second[drawn[i][1]]++, n_most++;
    prompt[PROMPT] = (int32_t)most;
    assert_int_equal(kvrt_session_eval(exact, prompt + PROMPT, 1, NULL, 1, logits, NULL), KVRT_OK);
    probabilities(&w, logits, info.vocab_size, prompt, PROMPT + 1, p2);
    for (uint32_t i = 0; i < info.vocab_size; i++) {
        if (p2[i] == 0 && second[i])
            fail_msg("token %u was drawn %u times behind %u, and is not allowed", i, second[i], most);
        if (p2[i] * n_most < 5) continue;
        const double d = second[i] - p2[i] * n_most;
        chi += d * d / (p2[i] * n_most), cells++;
    }
    assert_true(cells >= 6);
    /* Five standard deviations of chi-squared with so many degrees of freedom. */
    if (!(chi < cells + 5 * sqrt(2 * cells))) fail_msg("chi-squared %.1f of %.0f cells", chi, cells);
    kvrt_session_close(s, NULL), kvrt_session_close(exact, NULL);
    kvrt_engine_close(engine, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(samples_have_the_distribution_of_the_model)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
