/* test_golden_demo.c - the demo models of examples/models against transformers: likelihood of every token of a full window, and greedy
 * text, through the public API. A model that is not in this checkout is skipped, visibly. */
#include "../../runtime/base/json.h"
#include "../../runtime/base/os.h"
#include "../../runtime/kvrt.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define TOL_F32_CACHE 2e-3 /* of one log-likelihood; a failing kernel is fixed, not this */
#define TOL_F16_CACHE 3e-2
#define TOL_AMX 2e-1 /* f16 cache and activations rounded to BF16 in prefill: the worst of thousands of tokens */
#define MAX_TOKENS 4096
#define MAX_PROMPTS 8
#define MAX_GREEDY 64
#define CHUNK 512 /* rows of logits that exist at once */

typedef struct demo_prompt {
    char text[512];
    int32_t ids[256], greedy[MAX_GREEDY];
    double margin[MAX_GREEDY];
    uint32_t n, n_greedy;
} demo_prompt;
typedef struct demo_golden {
    char dir[512];
    int32_t ids[MAX_TOKENS];
    float ll[MAX_TOKENS]; /* ll[i] belongs to ids[i + 1] */
    uint32_t n, n_prompts;
    demo_prompt prompts[MAX_PROMPTS];
} demo_golden;

static demo_golden golden;

static uint32_t read_ids(kvi_json *r, int32_t *out, uint32_t cap)
{
    uint32_t n = 0;
    kvi_json_expect(r, KVI_JSON_ARRAY);
    while (kvi_json_next_item(r)) {
        int32_t id = (int32_t)kvi_json_i64(r);
        if (n < cap) out[n++] = id;
    }
    return n;
}

static void read_text(kvi_json *r, char *out, size_t cap)
{
    if (!kvi_json_string(r) || r->str_len >= cap) fail_msg("a prompt is not a string of at most %zu bytes", cap);
    out[kvi_json_str_unescape(r, out)] = 0;
}

static void read_prompt(kvi_json *r, demo_prompt *p)
{
    uint32_t n = 0;
    kvi_json_expect(r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(r)) {
        if (kvi_json_key_is(r, "text")) read_text(r, p->text, sizeof p->text);
        else if (kvi_json_key_is(r, "ids")) p->n = read_ids(r, p->ids, 256);
        else if (kvi_json_key_is(r, "greedy")) p->n_greedy = read_ids(r, p->greedy, MAX_GREEDY);
        else if (kvi_json_key_is(r, "margin")) {
            kvi_json_expect(r, KVI_JSON_ARRAY);
            while (kvi_json_next_item(r) && n < MAX_GREEDY) p->margin[n++] = kvi_json_f64(r);
        } else kvi_json_skip(r);
    }
}

/* False when the model is not in this checkout; a model without its golden, or a damaged golden, fails the test. */
static bool load(const char *name)
{
    char path[600];
    kvi_map map = {0};
    memset(&golden, 0, sizeof golden);
    snprintf(golden.dir, sizeof golden.dir, "%s/../examples/models/%s", KVRT_TEST_DIR, name);
    snprintf(path, sizeof path, "%s/config.json", golden.dir);
    if (kvi_os_map(path, &kvi_mem_copies, &map, NULL) < KVRT_OK) return false;
    kvi_os_unmap(&map);
    snprintf(path, sizeof path, "%s/golden/demo/%s.json", KVRT_TEST_DIR, name);
    if (kvi_os_map(path, &kvi_mem_copies, &map, NULL) < KVRT_OK) fail_msg("no golden %s", path);
    kvi_json r;
    kvi_json_init(&r, (const char *)map.data, map.len);
    kvi_json_expect(&r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(&r)) {
        if (kvi_json_key_is(&r, "ids")) golden.n = read_ids(&r, golden.ids, MAX_TOKENS);
        else if (kvi_json_key_is(&r, "prompts")) {
            kvi_json_expect(&r, KVI_JSON_ARRAY);
            while (kvi_json_next_item(&r) && golden.n_prompts < MAX_PROMPTS)
                read_prompt(&r, &golden.prompts[golden.n_prompts++]);
        } else kvi_json_skip(&r);
    }
    if (!kvi_json_end(&r) || golden.n < 2 || !golden.n_prompts) fail_msg("%s is damaged", path);
    kvi_os_unmap(&map);
    snprintf(path, sizeof path, "%s/golden/demo/%s.bin", KVRT_TEST_DIR, name);
    if (kvi_os_map(path, &kvi_mem_copies, &map, NULL) < KVRT_OK) fail_msg("no golden %s", path);
    assert_int_equal(map.len, (golden.n - 1) * sizeof(float));
    memcpy(golden.ll, map.data, map.len);
    kvi_os_unmap(&map);
    return true;
}

static kvrt_engine open_model(const char *format, const char *amx)
{
    kvrt_error error = {.size = sizeof error};
    kvrt_options *options;
    kvrt_engine engine = NULL;
    char text[32];
    assert_int_equal(kvrt_options_create(&options, &error), KVRT_OK);
    kvrt_options_set_string(options, "model.path", golden.dir, -1, &error);
    snprintf(text, sizeof text, "%d", MAX_GREEDY);
    const char *pairs[] = {
        "kv.format",      format, "cpu.amx",        amx,    "cpu.exact", "true", "sample.temperature", "0",
        "gen.max_tokens", text,   "gen.ignore_eos", "true", NULL};
    for (unsigned i = 0; pairs[i]; i += 2)
        if (kvrt_options_set_text(options, pairs[i], pairs[i + 1], &error) < 0) fail_msg("%s", error.message);
    if (kvrt_engine_open(options, NULL, NULL, &engine, &error) < 0) fail_msg("%s: %s", golden.dir, error.message);
    kvrt_options_destroy(options);
    return engine;
}

/* Of one row of logits, natural log. */
static double log_likelihood(const float *logits, uint32_t vocab, int32_t id)
{
    double top = logits[0], sum = 0;
    for (uint32_t i = 1; i < vocab; i++) top = logits[i] > top ? logits[i] : top;
    for (uint32_t i = 0; i < vocab; i++) sum += exp(logits[i] - top);
    return logits[id] - top - log(sum);
}

/* Largest error of one likelihood over the window, infinity for NaN; *shift: difference of the means. */
static double worst_error(kvrt_engine engine, double *shift)
{
    static uint32_t rows[CHUNK];
    kvrt_error error = {.size = sizeof error};
    kvrt_engine_info info = {.size = sizeof info};
    kvrt_session session;
    double worst = 0, sum = 0;
    assert_int_equal(kvrt_engine_get_info(engine, &info, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_create(engine, NULL, &session, NULL), KVRT_OK);
    float *logits = malloc((size_t)CHUNK * info.vocab_size * sizeof *logits); /* (CHUNK, vocab) */
    assert_non_null(logits);
    for (uint32_t i = 0; i < CHUNK; i++) rows[i] = i;
    for (uint32_t at = 0; at + 1 < golden.n; at += CHUNK) {
        uint32_t n = golden.n - 1 - at < CHUNK ? golden.n - 1 - at : CHUNK;
        if (kvrt_session_eval(session, golden.ids + at, n, rows, n, logits, &error) < 0) fail_msg("%s", error.message);
        for (uint32_t i = 0; i < n; i++) {
            double got = log_likelihood(logits + (size_t)i * info.vocab_size, info.vocab_size, golden.ids[at + i + 1]);
            double e = fabs(got - (double)golden.ll[at + i]);
            if (!(e <= worst)) worst = isnan(e) ? INFINITY : e;
            sum += got - (double)golden.ll[at + i];
        }
    }
    free(logits);
    kvrt_session_close(session, NULL);
    *shift = sum / (golden.n - 1);
    return worst;
}

static void check_likelihoods(const char *name)
{
    static const struct {
        const char *format, *amx;
        double most;
    } cases[] = {{"f32", "false", TOL_F32_CACHE}, {"f16", "false", TOL_F16_CACHE}, {"f16", "true", TOL_AMX}};
    if (!load(name)) {
        print_message("skipped: %s is not in this checkout\n", name);
        skip();
    }
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        double shift;
        kvrt_engine engine = open_model(cases[i].format, cases[i].amx);
        double error = worst_error(engine, &shift);
        print_message("%s, %s cache, amx %s, %u tokens: worst %.2g, mean shift %.2g nats\n", name, cases[i].format,
                      cases[i].amx, golden.n, error, shift);
        if (!(error <= cases[i].most))
            fail_msg("%s, %s: likelihood error %g, limit %g", name, cases[i].format, error, cases[i].most);
        kvrt_engine_close(engine, NULL);
    }
}

static void check_prompt(kvrt_engine engine, const char *name, const demo_prompt *p)
{
    static int32_t ids[512];
    kvrt_session session;
    uint64_t n;
    assert_int_equal(kvrt_tokenize(engine, p->text, -1, KVRT_TOKENIZE_PARSE_SPECIAL, ids, 512, &n, NULL), KVRT_OK);
    assert_int_equal(n, p->n);
    assert_memory_equal(ids, p->ids, n * sizeof *ids);
    assert_int_equal(kvrt_session_create(engine, NULL, &session, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_sync(session, p->ids, p->n, NULL, NULL), KVRT_OK);
    assert_int_equal(kvrt_generate(session, NULL, NULL, NULL, NULL, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_tokens(session, ids, 512, &n, NULL), KVRT_OK);
    assert_int_equal(n, p->n + MAX_GREEDY);
    for (uint32_t k = 0; k < p->n_greedy && p->margin[k] > 2 * TOL_F32_CACHE; k++)
        if (ids[p->n + k] != p->greedy[k])
            fail_msg("%s, \"%.40s\": token %u is %d, need %d", name, p->text, k, ids[p->n + k], p->greedy[k]);
    kvrt_session_close(session, NULL);
}

static void check_greedy(const char *name)
{
    if (!load(name)) {
        print_message("skipped: %s is not in this checkout\n", name);
        skip();
    }
    kvrt_engine engine = open_model("f32", "false");
    for (uint32_t i = 0; i < golden.n_prompts; i++) check_prompt(engine, name, &golden.prompts[i]);
    kvrt_engine_close(engine, NULL);
}

static void likelihoods_8m(void **state)
{
    (void)state;
    check_likelihoods("storyteller-8m");
}
static void likelihoods_tiny(void **state)
{
    (void)state;
    check_likelihoods("storyteller-tiny");
}
static void greedy_8m(void **state)
{
    (void)state;
    check_greedy("storyteller-8m");
}
static void greedy_tiny(void **state)
{
    (void)state;
    check_greedy("storyteller-tiny");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(likelihoods_8m), cmocka_unit_test(likelihoods_tiny),
                                       cmocka_unit_test(greedy_8m), cmocka_unit_test(greedy_tiny)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
