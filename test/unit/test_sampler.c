/* test_sampler.c - the sampler against a plain double-precision reference (sort everything, follow the order that sampler.h states), and
 * statistics. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/text/sampler.h"

#define N 200

static uint64_t seed = 7;
static double rnd(void)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(seed >> 11) * 0x1p-53;
}

/* ------------------------------------------------------------------------------------------------- reference --- */
typedef struct entry {
    double logit, p;
    int id;
} entry;

static int by_logit(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    return x->logit > y->logit ? -1 : x->logit < y->logit ? 1 : x->id - y->id;
}

/* Probabilities (by id) of what may be drawn. */
static void reference(const kvi_sampler_params *p, const float *logits, const int32_t *recent, size_t n_recent,
                      double *probs, double *logprobs)
{
    entry e[N];
    size_t first = n_recent > p->repeat_last ? n_recent - p->repeat_last : 0;
    double sum = 0;
    for (int id = 0; id < N; id++) {
        float x = logits[id];
        int count = 0;
        for (size_t i = first; i < n_recent; i++) count += recent[i] == id;
        if (count) {
            x = x > 0 ? x / p->repeat_penalty : x * p->repeat_penalty;
            x -= (float)count * p->frequency_penalty + p->presence_penalty;
        }
        for (uint32_t i = 0; i < p->n_bias; i++)
            if (p->bias[i].id == id) x += p->bias[i].bias;
        e[id] = (entry){.logit = x, .id = id};
        sum += exp((double)logits[id]);
        probs[id] = 0;
    }
    for (int id = 0; id < N; id++) logprobs[id] = (double)logits[id] - log(sum);
    qsort(e, N, sizeof *e, by_logit);
    size_t n = p->top_k && p->top_k < N ? p->top_k : N, kept = 0;
    double total = 0, mass = 0;
    for (size_t i = 0; i < n; i++) total += e[i].p = exp((e[i].logit - e[0].logit) / (double)p->temperature);
    while (kept < n) {
        mass += e[kept++].p;
        if (p->top_p < 1 && mass >= (double)p->top_p * total) break;
    }
    while (kept > 1 && e[kept - 1].p < (double)p->min_p * e[0].p) mass -= e[--kept].p;
    mass = 0;
    for (size_t i = 0; i < kept; i++) mass += e[i].p;
    for (size_t i = 0; i < kept; i++) probs[e[i].id] = e[i].p / mass;
}

static kvi_random stream;

static kvi_sampler make_on(const kvi_sampler_params *p, int n, kvi_random *random)
{
    kvi_sampler s;
    kvrt_error error = {.size = sizeof error};
    if (kvi_sampler_init(&s, p, n, random, &error) != KVRT_OK) fail_msg("%s", error.message);
    return s;
}

static kvi_sampler make(const kvi_sampler_params *p, int n) { return make_on(p, n, &stream); }

/* ------------------------------------------------------------------------------------------------------- checks --- */
static void test_against_reference(void **state)
{
    (void)state;
    for (int round = 0; round < 150; round++) {
        kvi_logit_bias bias[3] = {{5, 2}, {17, -INFINITY}, {40, -1.5f}};
        kvi_sampler_params p = kvi_sampler_defaults();
        p.temperature = 0.2f + 1.5f * (float)rnd();
        if (round & 1) p.top_k = 1 + (uint32_t)(rnd() * 60);
        if (round & 2) p.top_p = 0.3f + 0.69f * (float)rnd();
        if (round & 4) p.min_p = 0.2f * (float)rnd();
        if (round & 8)
            p.repeat_penalty = 1.3f, p.frequency_penalty = 0.2f, p.presence_penalty = 0.3f, p.repeat_last = 20;
        if (round & 16) p.bias = bias, p.n_bias = 3;
        kvi_random_seed(&stream, (uint64_t)round);
        float logits[N], work[N];
        int32_t recent[30];
        for (int i = 0; i < N; i++) logits[i] = (float)(6 * rnd() - 3) + (rnd() < 0.05 ? 4.0f : 0.0f);
        logits[11] = logits[12];
        for (int i = 0; i < 30; i++) recent[i] = (int32_t)(rnd() * 50) - 2;
        double probs[N], logprobs[N];
        reference(&p, logits, recent, 30, probs, logprobs);
        kvi_sampler s = make(&p, N);
        int counts[N] = {0}, draws = 4000;
        for (int i = 0; i < draws; i++) {
            int32_t token;
            float logprob;
            memcpy(work, logits, sizeof work);
            assert_int_equal(kvi_sampler_sample(&s, work, recent, 30, &token, NULL), KVRT_OK);
            logprob = kvi_log_probability(logits, N, token); /* of the raw logits */
            if (!(probs[token] > 0)) fail_msg("round %d: token %d cannot be drawn", round, (int)token);
            if (!(fabs((double)logprob - logprobs[token]) <= 1e-5))
                fail_msg("logprob %g, need %g", (double)logprob, logprobs[token]);
            counts[token]++;
        }
        for (int id = 0; id < N; id++) {
            double expected = probs[id] * draws, sigma = sqrt(expected * (1 - probs[id])) + 1;
            if (!(fabs(counts[id] - expected) <= 5.5 * sigma))
                fail_msg("round %d: token %d drawn %d times, need %g", round, id, counts[id], expected);
        }
        kvi_sampler_free(&s);
    }
}

static void test_greedy(void **state)
{
    (void)state;
    kvi_sampler_params p = kvi_sampler_defaults();
    kvi_sampler s = make(&p, 5);
    const kvi_random rng = stream;
    float logits[5] = {1, 3, -2, 3, 3};
    int32_t token;
    assert_int_equal(kvi_sampler_sample(&s, logits, NULL, 0, &token, NULL), KVRT_OK);
    assert_int_equal(token, 1); /* lowest id among equals */
    assert_memory_equal(&rng, &stream, sizeof rng);
    kvi_sampler_free(&s);
    kvi_logit_bias bias = {1, -INFINITY};
    p.bias = &bias;
    p.n_bias = 1;
    p.repeat_penalty = 2;
    p.repeat_last = 8;
    s = make(&p, 5);
    int32_t recent[2] = {3, 3};
    float again[5] = {1, 3, -2, 3, 2};
    assert_int_equal(kvi_sampler_sample(&s, again, recent, 2, &token, NULL), KVRT_OK);
    assert_int_equal(token, 4);
    kvi_sampler_free(&s);
}

/* The window of the penalties to the token, and which way each sign goes; greedy, so that one logit decides. */
static void test_penalties_exactly(void **state)
{
    static const struct {
        uint32_t window;
        float logits[3];
        int32_t recent[3], token;
    } cases[] = {{2, {3, 2, 1}, {0, 2, 2}, 0},               /* just out of the window */
                 {3, {3, 2, 1}, {0, 2, 2}, 1},               /* just inside */
                 {0, {3, 2, 1}, {0, 0, 0}, 0},               /* no window */
                 {3, {0.4f, 0.3f, -9}, {0, 0, 0}, 1},        /* positive: divided */
                 {3, {-0.2f, -0.3f, -9}, {0, 0, 0}, 1},      /* negative: multiplied */
                 {3, {3, 2.9f, 1}, {-1, 3, 2000000000}, 0}}; /* no tokens of this vocabulary */
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        kvi_sampler_params p = kvi_sampler_defaults();
        int32_t token;
        float logits[3];
        p.repeat_penalty = 2;
        p.repeat_last = cases[i].window;
        kvi_sampler s = make(&p, 3);
        memcpy(logits, cases[i].logits, sizeof logits);
        assert_int_equal(kvi_sampler_sample(&s, logits, cases[i].recent, 3, &token, NULL), KVRT_OK);
        if (token != cases[i].token) fail_msg("case %zu: token %d", i, (int)token);
        kvi_sampler_free(&s);
    }
}

/* top_p keeps tokens until their mass is reached, not until it is passed; and what changes logits needs all of them. */
static void test_edges_of_choosing(void **state)
{
    (void)state;
    kvi_logit_bias bias = {1, 1};
    for (int i = 0; i < 6; i++) {
        kvi_sampler_params p = kvi_sampler_defaults();
        p.temperature = 1;
        p.top_p = 0.5f; /* half of four equal tokens: two */
        if (i == 1) p.repeat_penalty = 1.1f;
        if (i == 2) p.frequency_penalty = 0.1f;
        if (i == 3) p.presence_penalty = 0.1f;
        if (i == 4) p.bias = &bias, p.n_bias = 1;
        if (i == 5) p.repeat_last = 64; /* of no penalty */
        kvi_sampler s = make(&p, 4);
        assert_int_equal(kvi_sampler_takes_best(&s), i == 0 || i == 5);
        for (int k = 0; k < 200 && i == 0; k++) {
            float logits[4] = {0, 0, 0, 0};
            int32_t token;
            assert_int_equal(kvi_sampler_sample(&s, logits, NULL, 0, &token, NULL), KVRT_OK);
            assert_true(token < 2);
        }
        kvi_sampler_free(&s);
    }
}

static void test_seed_repeats(void **state)
{
    (void)state;
    kvi_sampler_params p = kvi_sampler_defaults();
    p.temperature = 1;
    kvi_random of_a, of_b;
    kvi_random_seed(&of_a, 42), kvi_random_seed(&of_b, 42);
    kvi_sampler a = make_on(&p, N, &of_a), b = make_on(&p, N, &of_b);
    int n_differ = 0;
    for (int i = 0; i < 200; i++) {
        float x[N], y[N];
        for (int k = 0; k < N; k++) x[k] = y[k] = (float)rnd();
        int32_t s, t;
        kvi_sampler_sample(&a, x, NULL, 0, &s, NULL);
        kvi_sampler_sample(&b, y, NULL, 0, &t, NULL);
        assert_int_equal(s, t);
    }
    kvi_random_seed(&of_b, 43);
    for (int i = 0; i < 200; i++) {
        float x[N] = {0}, y[N] = {0};
        int32_t s, t;
        kvi_sampler_sample(&a, x, NULL, 0, &s, NULL);
        kvi_sampler_sample(&b, y, NULL, 0, &t, NULL);
        n_differ += s != t;
    }
    assert_true(n_differ > 150);
    kvi_sampler_free(&a);
    kvi_sampler_free(&b);
}

static void expect_bad(float value, const char *part)
{
    kvi_sampler_params p = kvi_sampler_defaults();
    p.temperature = 1;
    kvi_sampler s = make(&p, 4);
    float logits[4] = {-INFINITY, value, -INFINITY, -INFINITY};
    int32_t token;
    kvrt_error error = {.size = sizeof error};
    const kvi_random rng = stream;
    assert_int_equal(kvi_sampler_sample(&s, logits, NULL, 0, &token, &error), KVRT_ARG);
    assert_memory_equal(&rng, &stream, sizeof rng);
    if (!strstr(error.message, part)) fail_msg("message \"%s\" lacks \"%s\"", error.message, part);
    kvi_sampler_free(&s);
}

static void test_bad_logits(void **state)
{
    (void)state;
    expect_bad(NAN, "NaN");
    expect_bad(INFINITY, "+infinity");
    expect_bad(-INFINITY, "no token");
    /* The first of them, wherever it stands. */
    for (int at = 0; at < N; at++) {
        kvi_sampler_params p = kvi_sampler_defaults();
        kvi_sampler s = make(&p, N);
        float logits[N];
        char name[32];
        int32_t token;
        kvrt_error error = {.size = sizeof error};
        for (int i = 0; i < N; i++) logits[i] = i % 3 ? (float)i : -INFINITY;
        logits[at] = at & 1 ? NAN : INFINITY;
        if (at + 7 < N) logits[at + 7] = NAN;
        (void)snprintf(name, sizeof name, "of token %d is ", at);
        assert_int_equal(kvi_sampler_sample(&s, logits, NULL, 0, &token, &error), KVRT_ARG);
        if (!strstr(error.message, name)) fail_msg("message \"%s\" lacks \"%s\"", error.message, name);
        kvi_sampler_free(&s);
    }
}

static void test_extremes(void **state)
{
    (void)state;
    kvi_sampler_params p = kvi_sampler_defaults();
    p.temperature = 1e-6f;
    p.top_k = 3;
    p.top_p = 0;
    p.min_p = 1;
    kvi_sampler s = make(&p, 4);
    float logits[4] = {-3e38f, 3e38f, -INFINITY, 3e38f};
    int32_t token;
    float logprob;
    assert_int_equal(kvi_sampler_sample(&s, logits, NULL, 0, &token, NULL), KVRT_OK);
    assert_int_equal(token, 1);
    logprob = kvi_log_probability(logits, 4, token);
    assert_true(fabs((double)logprob - log(0.5)) < 1e-6);
    kvi_sampler_free(&s);
    p.top_k = 4000000;
    s = make(&p, 4);
    assert_int_equal(kvi_sampler_sample(&s, logits, NULL, 0, &token, NULL), KVRT_OK);
    kvi_sampler_free(&s);
}

static void test_parameters(void **state)
{
    (void)state;
    kvi_sampler s;
    kvrt_error error = {.size = sizeof error};
    kvi_logit_bias bias = {9, 1}, endless = {1, INFINITY}, none = {1, NAN};
    struct {
        kvi_sampler_params p;
        const char *part;
    } bad[] = {{{.temperature = -1, .top_p = 1, .repeat_penalty = 1}, "temperature"},
               {{.temperature = NAN, .top_p = 1, .repeat_penalty = 1}, "temperature"},
               {{.top_p = 1.5f, .repeat_penalty = 1}, "top_p"},
               {{.top_p = 1, .min_p = -1, .repeat_penalty = 1}, "min_p"},
               {{.top_p = 1, .repeat_penalty = 0}, "repeat_penalty"},
               {{.top_p = 1, .repeat_penalty = 1, .frequency_penalty = INFINITY}, "frequency"},
               {{.top_p = 1, .repeat_penalty = 1, .presence_penalty = NAN}, "presence"},
               {{.top_p = 1, .repeat_penalty = 1, .bias = &bias, .n_bias = 1}, "token 9"},
               {{.top_p = 1, .repeat_penalty = 1, .bias = &endless, .n_bias = 1}, "token 1"},
               {{.top_p = 1, .repeat_penalty = 1, .bias = &none, .n_bias = 1}, "token 1"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(kvi_sampler_init(&s, &bad[i].p, 9, &stream, &error), KVRT_ARG);
        if (!strstr(error.message, bad[i].part)) fail_msg("message \"%s\" lacks \"%s\"", error.message, bad[i].part);
    }
}

static void test_calls_allocate_nothing(void **state)
{
    (void)state;
    kvi_sampler_params p = kvi_sampler_defaults();
    p.temperature = 0.8f;
    p.top_k = 40;
    p.top_p = 0.9f;
    p.min_p = 0.05f;
    p.repeat_penalty = 1.1f;
    p.repeat_last = 64;
    kvi_sampler s = make(&p, N);
    uint64_t before, after;
    kvi_mem_stats(NULL, NULL, &before);
    for (int i = 0; i < 100; i++) {
        float logits[N];
        int32_t token, recent[4] = {1, 2, 3, 3};
        for (int k = 0; k < N; k++) logits[k] = (float)rnd();
        assert_int_equal(kvi_sampler_sample(&s, logits, recent, 4, &token, NULL), KVRT_OK);
        for (int k = 0; k < N; k++) assert_int_equal(s.counts[k], 0);
    }
    kvi_mem_stats(NULL, NULL, &after);
    assert_int_equal(before, after);
    kvi_sampler_free(&s);
}

/* From the 64 best and the sum: the same tokens, the same random numbers, or a refusal that changes nothing. */
static void test_from_best(void **state)
{
    (void)state;
    enum { MANY = 300, BEST = 64 };
    int decided = 0, refused = 0;
    for (int round = 0; round < 400; round++) {
        kvi_sampler_params p = kvi_sampler_defaults();
        const int n = round % 5 == 4 ? 40 : MANY, n_best = n < BEST ? n : BEST;
        if (round % 7) p.temperature = 0.2f + 1.5f * (float)rnd();
        if (round & 1) p.top_k = 1 + (uint32_t)(rnd() * 80);
        if (round & 2) p.top_p = 0.3f + 0.69f * (float)rnd();
        if (round & 4) p.min_p = 0.2f * (float)rnd();
        kvi_random of_a, of_b, before;
        kvi_random_seed(&of_a, (uint64_t)round), kvi_random_seed(&of_b, (uint64_t)round);
        kvi_sampler a = make_on(&p, n, &of_a), b = make_on(&p, n, &of_b);
        assert_true(kvi_sampler_takes_best(&b));
        for (int step = 0; step < 20; step++) {
            struct {
                float logit;
                int32_t id;
            } order[MANY], swap;
            float logits[MANY], best[BEST], logprob = 0, got_logprob = 0;
            int32_t ids[BEST], token = -1, got = -1;
            double sum = 0;
            for (int i = 0; i < n; i++) logits[i] = (float)((int)(40 * rnd()) - 20) * 0.25f; /* many equal ones */
            for (int i = 0; i < n; i++) {
                order[i].logit = logits[i], order[i].id = i;
                for (int j = i; j > 0 && order[j].logit > order[j - 1].logit; j--)
                    swap = order[j], order[j] = order[j - 1], order[j - 1] = swap;
            }
            for (int i = 0; i < n_best; i++) best[i] = order[i].logit, ids[i] = order[i].id;
            for (int i = 0; i < n; i++) sum += exp((double)logits[i] - (double)best[0]);
            before = of_b;
            const bool yes = kvi_sampler_from_best(&b, best, ids, (uint32_t)n_best, (float)sum, &got, &got_logprob);
            if (!yes) {
                assert_memory_equal(&before, &of_b, sizeof before);
                if (p.temperature == 0 || (p.top_k > 0 && p.top_k < (uint32_t)n && p.top_k <= BEST))
                    fail_msg("round %d: not decided", round);
                refused++;
                break;
            }
            decided++;
            assert_int_equal(kvi_sampler_sample(&a, logits, NULL, 0, &token, NULL), KVRT_OK);
            logprob = kvi_log_probability(logits, n, token);
            assert_int_equal(got, token);
            assert_memory_equal(&of_a, &of_b, sizeof before);
            if (!(fabs((double)logprob - (double)got_logprob) <= 1e-5))
                fail_msg("logprob %g, need %g", (double)got_logprob, (double)logprob);
        }
        kvi_sampler_free(&a);
        kvi_sampler_free(&b);
    }
    assert_true(decided > 1000 && refused > 50);
    kvi_sampler_params p = kvi_sampler_defaults();
    p.presence_penalty = 0.1f;
    kvi_sampler s = make(&p, 10);
    assert_false(kvi_sampler_takes_best(&s));
    kvi_sampler_free(&s);
}

/* Against double, vocabularies around and above a run of logits. */
static void test_log_probability(void **state)
{
    enum { M = 5000 };
    static float logits[M];
    (void)state;
    for (int round = 0; round < 400; round++) {
        const int32_t n = round < 300 ? 1 + round : M - round % 70;
        const double spread = round % 3 == 0 ? 1 : round % 3 == 1 ? 12 : 200;
        double top = -INFINITY, sum = 0;
        for (int32_t i = 0; i < n; i++) {
            logits[i] = rnd() < 0.1 && i ? -INFINITY : (float)(spread * (rnd() - 0.5) + 1000 * (round % 2));
            top = fmax(top, (double)logits[i]);
        }
        for (int32_t i = 0; i < n; i++) sum += exp((double)logits[i] - top);
        for (int draw = 0; draw < 20; draw++) {
            const int32_t token = (int32_t)(rnd() * n);
            const double want = (double)logits[token] - top - log(sum),
                         got = (double)kvi_log_probability(logits, n, token);
            if (logits[token] == -INFINITY ? got != -INFINITY : !(fabs(got - want) <= 2e-7 * (1 + fabs(want))))
                fail_msg("round %d: log probability %.9g of %d tokens, need %.9g", round, got, (int)n, want);
        }
    }
}

/* Against counting how many are better. */
static void test_likeliest(void **state)
{
    enum { M = 50 };
    float logits[M], found[KVI_LIKELIEST];
    int32_t ids[KVI_LIKELIEST];
    (void)state;
    for (uint32_t seed = 1; seed <= 300; seed++) {
        uint32_t x = seed * 2654435761u;
        for (int i = 0; i < M; i++)
            x = x * 1664525u + 1013904223u, logits[i] = (float)(x >> 24) / 16.0f; /* some are equal */
        const int32_t most = (int32_t)(seed % (KVI_LIKELIEST + 1)), vocab = seed % 7 ? M : 5;
        const int32_t n = kvi_likeliest(logits, vocab, most, ids, found);
        assert_int_equal(n, most < vocab ? most : vocab);
        for (int32_t i = 0; i < n; i++) {
            int32_t better = 0;
            for (int32_t k = 0; k < vocab; k++)
                better += logits[k] > logits[ids[i]] || (logits[k] == logits[ids[i]] && k < ids[i]);
            assert_int_equal(better, i);
            assert_true(fabsf(found[i] - kvi_log_probability(logits, vocab, ids[i])) < 1e-5f);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_log_probability),
                                       cmocka_unit_test(test_likeliest),
                                       cmocka_unit_test(test_against_reference),
                                       cmocka_unit_test(test_greedy),
                                       cmocka_unit_test(test_seed_repeats),
                                       cmocka_unit_test(test_penalties_exactly),
                                       cmocka_unit_test(test_edges_of_choosing),
                                       cmocka_unit_test(test_bad_logits),
                                       cmocka_unit_test(test_extremes),
                                       cmocka_unit_test(test_parameters),
                                       cmocka_unit_test(test_calls_allocate_nothing),
                                       cmocka_unit_test(test_from_best)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
