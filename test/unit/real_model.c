/* real_model.c - see real_model.h. */
#include "real_model.h"
#include "../../runtime/base/mem.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define SAMPLES 16u
#define BATCH 50u

typedef struct position {
    int32_t id, best;
    float best_logit, log_sum_exp, samples[SAMPLES];
} position;

static uint32_t word(const real_golden *g, uint64_t offset)
{
    uint32_t value;
    assert_true(offset + 4 <= g->map.len);
    memcpy(&value, g->map.data + offset, 4);
    return value;
}

static const char *model_path(const char *model, char path[600])
{
    (void)snprintf(path, 600, "%s/../examples/models/%s", KVRT_TEST_DIR, model);
    return path;
}

real_golden real_load(const char *model, const char *golden, uint32_t n_lists)
{
    real_golden g = {.model = model};
    kvrt_error error = {.size = sizeof error};
    char path[600];
    if (kvi_os_path_kind(model_path(model, path)) != KVI_OS_FILE) {
        print_message("skipped: no %s (examples/models/fetch.sh)\n", path);
        skip();
    }
    (void)snprintf(path, sizeof path, "%s/golden/gguf/%s", KVRT_TEST_DIR, golden);
    if (kvi_os_map(path, &kvi_mem_copies, &g.map, &error) < KVRT_OK) fail_msg("%s", error.message);
    g.n = word(&g, 0), g.vocab = word(&g, 4);
    memcpy(&g.std, g.map.data + 8, 4);
    g.positions = g.map.data + 12;
    uint64_t at = 12 + (uint64_t)g.n * sizeof(position);
    for (uint32_t i = 0; i < n_lists; i++) {
        g.lists[i] = (real_list){word(&g, at), g.map.data + at + 4};
        at += 4 + 4 * (uint64_t)g.lists[i].n;
    }
    assert_int_equal(at, g.map.len);
    return g;
}

void real_free(real_golden *golden) { kvi_os_unmap(&golden->map); }

int32_t real_item(const real_list *list, uint32_t index)
{
    int32_t value;
    memcpy(&value, list->at + 4 * (size_t)index, 4);
    return value;
}

kvrt_engine real_open(const real_golden *golden, const char *kv_format)
{
    return real_open_exact(golden, kv_format, "true");
}

kvrt_engine real_open_exact(const real_golden *golden, const char *kv_format, const char *exact)
{
    kvrt_options *options;
    kvrt_engine engine;
    kvrt_error error = {.size = sizeof error};
    char path[600];
    assert_int_equal(kvrt_options_create(&options, NULL), KVRT_OK);
    kvrt_options_set_string(options, "model.path", model_path(golden->model, path), -1, NULL);
    const char *const pairs[][2] = {{"device.backend", "cpu"},   {"cpu.exact", exact},     {"ctx.size", "2048"},
                                    {"sample.temperature", "0"}, {"gen.max_tokens", "24"}, {"kv.format", kv_format}};
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++)
        assert_int_equal(kvrt_options_set_text(options, pairs[i][0], pairs[i][1], NULL), KVRT_OK);
    if (kvrt_engine_open(options, NULL, NULL, &engine, &error) < KVRT_OK) fail_msg("%s", error.message);
    kvrt_options_destroy(options);
    return engine;
}

static position position_at(const real_golden *g, uint32_t index)
{
    position p;
    memcpy(&p, g->positions + (size_t)index * sizeof p, sizeof p);
    return p;
}

static double row_error(const real_golden *g, uint32_t index, const float *logits)
{
    const position p = position_at(g, index);
    double sum = 0, worst = fabs((double)logits[p.best] - (double)p.best_logit);
    for (uint32_t v = 0; v < g->vocab; v++) sum += exp((double)logits[v] - (double)p.best_logit);
    const double lse = fabs((double)p.best_logit + log(sum) - (double)p.log_sum_exp);
    if (!(lse <= worst)) worst = lse;
    for (uint32_t k = 0; k < SAMPLES; k++) {
        const uint64_t at = ((uint64_t)index * 7919u + k * 104729u) % g->vocab;
        const double e = fabs((double)logits[at] - (double)p.samples[k]);
        if (!(e <= worst)) worst = e;
    }
    return isnan(worst) ? INFINITY : worst;
}

double real_logit_error(const real_golden *g, kvrt_engine engine)
{
    kvrt_session session;
    kvrt_error error = {.size = sizeof error};
    float *logits = malloc((size_t)BATCH * g->vocab * sizeof *logits);
    uint32_t rows[BATCH];
    int32_t ids[BATCH];
    double worst = 0;
    assert_non_null(logits);
    assert_int_equal(kvrt_session_create(engine, NULL, &session, &error), KVRT_OK);
    for (uint32_t first = 0; first < g->n; first += BATCH) {
        const uint32_t n = g->n - first < BATCH ? g->n - first : BATCH;
        for (uint32_t i = 0; i < n; i++) rows[i] = i, ids[i] = position_at(g, first + i).id;
        if (kvrt_session_eval(session, ids, n, rows, n, logits, &error) < KVRT_OK) fail_msg("%s", error.message);
        for (uint32_t i = 0; i < n; i++) {
            const double e = row_error(g, first + i, logits + (size_t)i * g->vocab);
            if (!(e <= worst)) worst = e;
        }
    }
    free(logits);
    kvrt_session_close(session, NULL);
    print_message("%u positions: largest error %.2e of the standard deviation\n", g->n, worst / (double)g->std);
    return worst / (double)g->std;
}

/* KL divergence of the distribution of logits b from that of a; *same: whether their largest is the same. */
static double row_divergence(const float *a, const float *b, uint32_t n, bool *same)
{
    uint32_t best_a = 0, best_b = 0;
    double sum_a = 0, sum_b = 0, kl = 0;
    for (uint32_t v = 1; v < n; v++) {
        if (a[v] > a[best_a]) best_a = v;
        if (b[v] > b[best_b]) best_b = v;
    }
    for (uint32_t v = 0; v < n; v++) {
        sum_a += exp((double)a[v] - (double)a[best_a]);
        sum_b += exp((double)b[v] - (double)b[best_b]);
    }
    for (uint32_t v = 0; v < n; v++) {
        const double p = (double)a[v] - (double)a[best_a] - log(sum_a),
                     q = (double)b[v] - (double)b[best_b] - log(sum_b);
        kl += exp(p) * (p - q);
    }
    *same = best_a == best_b;
    return kl;
}

void real_distance(const real_golden *g, kvrt_engine a, kvrt_engine b, double *divergence, double *agreement)
{
    kvrt_session sessions[2];
    kvrt_error error = {.size = sizeof error};
    float *logits[2];
    for (int i = 0; i < 2; i++) {
        logits[i] = malloc((size_t)BATCH * g->vocab * sizeof **logits);
        assert_non_null(logits[i]);
        assert_int_equal(kvrt_session_create(i ? b : a, NULL, &sessions[i], &error), KVRT_OK);
    }
    *divergence = *agreement = 0;
    for (uint32_t first = 0; first < g->n; first += BATCH) {
        const uint32_t n = g->n - first < BATCH ? g->n - first : BATCH;
        uint32_t rows[BATCH];
        int32_t ids[BATCH];
        for (uint32_t i = 0; i < n; i++) rows[i] = i, ids[i] = position_at(g, first + i).id;
        for (int i = 0; i < 2; i++)
            if (kvrt_session_eval(sessions[i], ids, n, rows, n, logits[i], &error) < KVRT_OK)
                fail_msg("%s", error.message);
        for (uint32_t i = 0; i < n; i++) {
            bool same;
            *divergence +=
                row_divergence(logits[0] + (size_t)i * g->vocab, logits[1] + (size_t)i * g->vocab, g->vocab, &same) /
                g->n;
            *agreement += (double)same / g->n;
        }
    }
    for (int i = 0; i < 2; i++) free(logits[i]), kvrt_session_close(sessions[i], NULL);
    print_message("%u positions: mean divergence %.2e, %.2f%% with the same best token\n", g->n, *divergence,
                  100 * *agreement);
}

void real_text(kvrt_engine engine, const int32_t *ids, uint32_t n, const real_list *text)
{
    kvrt_session session;
    kvrt_error error = {.size = sizeof error};
    int32_t tokens[512];
    uint64_t all;
    assert_int_equal(kvrt_session_create(engine, NULL, &session, &error), KVRT_OK);
    assert_int_equal(kvrt_session_sync(session, ids, n, NULL, &error), KVRT_OK);
    if (kvrt_generate(session, NULL, NULL, NULL, NULL, &error) < KVRT_OK) fail_msg("%s", error.message);
    assert_int_equal(kvrt_session_tokens(session, tokens, 512, &all, &error), KVRT_OK);
    for (uint32_t i = 0; i < text->n && n + i < all; i++)
        if (tokens[n + i] != real_item(text, i))
            fail_msg("token %u is %d, need %d", i, tokens[n + i], real_item(text, i));
    assert_true(all >= n + text->n - 1);
    kvrt_session_close(session, NULL);
}
