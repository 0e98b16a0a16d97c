/* test_stories.c - the trained stories260k model, when the shared data is there: 200 greedy ids and the likelihoods of an independent float64
 * implementation. */
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

#define DIR KVRT_SHARED_DIR "/data/models/stories260k"

static bool present(void)
{
    if (kvi_os_path_kind(DIR "/config.json") == KVI_OS_FILE) return true;
    print_message("skipped: stories260k is not here\n");
    return false;
}

static kvrt_engine open_stories(void)
{
    kvrt_options *o;
    kvrt_engine engine;
    kvrt_error error = {.size = sizeof error};
    kvrt_options_create(&o, NULL);
    kvrt_options_set_string(o, "model.path", DIR, -1, NULL);
    kvrt_options_set_text(o, "kv.format", "f32", NULL);
    kvrt_options_set_text(o, "sample.temperature", "0", NULL);
    kvrt_options_set_text(o, "gen.ignore_eos", "true", NULL);
    if (kvrt_engine_open(o, NULL, NULL, &engine, &error) < 0) fail_msg("%s", error.message);
    kvrt_options_destroy(o);
    return engine;
}

static uint32_t int_list(kvi_json *r, int32_t *out, uint32_t cap)
{
    uint32_t n = 0;
    kvi_json_expect(r, KVI_JSON_ARRAY);
    while (kvi_json_next_item(r)) {
        int64_t v = kvi_json_i64(r);
        if (n < cap) out[n++] = (int32_t)v;
    }
    return n;
}

static void greedy_ids(void **state)
{
    (void)state;
    if (!present()) return;
    kvi_map map;
    kvi_json r;
    static int32_t prompt[64], greedy[512], ids[1024];
    uint32_t n_prompt = 0, n_greedy = 0;
    assert_int_equal(kvi_os_map(DIR "/numpy_reference.json", &kvi_mem_copies, &map, NULL), KVRT_OK);
    kvi_json_init(&r, (const char *)map.data, map.len);
    kvi_json_expect(&r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(&r)) {
        if (kvi_json_key_is(&r, "prompt_ids")) n_prompt = int_list(&r, prompt, 64);
        else if (kvi_json_key_is(&r, "greedy_ids")) n_greedy = int_list(&r, greedy, 512);
        else kvi_json_skip(&r);
    }
    kvi_os_unmap(&map);
    assert_true(n_greedy >= 200 && n_prompt >= 1);
    kvrt_engine engine = open_stories();
    kvrt_session s;
    uint64_t n;
    kvrt_options *o;
    kvrt_options_create(&o, NULL);
    kvrt_options_set_i64(o, "gen.max_tokens", n_greedy - n_prompt, NULL);
    assert_int_equal(kvrt_session_create(engine, NULL, &s, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_sync(s, prompt, n_prompt, NULL, NULL), KVRT_OK);
    assert_int_equal(kvrt_generate(s, o, NULL, NULL, NULL, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_tokens(s, ids, 1024, &n, NULL), KVRT_OK);
    assert_int_equal(n, n_greedy);
    for (uint32_t i = 0; i < n_greedy; i++) assert_int_equal(ids[i], greedy[i]);
    kvrt_options_destroy(o);
    kvrt_engine_close(engine, NULL);
}

/* Teacher-forced: the sum of the log-likelihoods and the most likely token of every position, story by story. */
static void likelihoods(void **state)
{
    (void)state;
    if (!present()) return;
    kvi_map map;
    kvi_json r;
    kvrt_engine engine = open_stories();
    static int32_t ids[512], argmax[512];
    static uint32_t rows[511];
    float *logits = malloc(511 * 512 * sizeof *logits);
    uint32_t cases = 0;
    for (uint32_t i = 0; i < 511; i++) rows[i] = i;
    assert_int_equal(kvi_os_map(DIR "/golden_numpy_ppl.json", &kvi_mem_copies, &map, NULL), KVRT_OK);
    kvi_json_init(&r, (const char *)map.data, map.len);
    kvi_json_expect(&r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(&r)) {
        if (!kvi_json_key_is(&r, "cases")) {
            kvi_json_skip(&r);
            continue;
        }
        kvi_json_expect(&r, KVI_JSON_ARRAY);
        while (kvi_json_next_item(&r)) {
            uint32_t n = 0, n_argmax = 0;
            double want = 0, nll = 0;
            kvi_json_expect(&r, KVI_JSON_OBJECT);
            while (kvi_json_next_key(&r)) {
                if (kvi_json_key_is(&r, "ids")) n = int_list(&r, ids, 512);
                else if (kvi_json_key_is(&r, "argmax")) n_argmax = int_list(&r, argmax, 512);
                else if (kvi_json_key_is(&r, "nll_sum")) want = kvi_json_f64(&r);
                else kvi_json_skip(&r);
            }
            kvrt_session s;
            assert_int_equal(kvrt_session_create(engine, NULL, &s, NULL), KVRT_OK);
            assert_int_equal(kvrt_session_eval(s, ids, n - 1, rows, n - 1, logits, NULL), KVRT_OK);
            uint32_t differ = 0;
            for (uint32_t i = 0; i + 1 < n; i++) {
                const float *row = logits + (size_t)i * 512;
                double sum = 0;
                uint32_t top = 0;
                for (uint32_t v = 0; v < 512; v++) sum += exp((double)row[v]), top = row[v] > row[top] ? v : top;
                nll += log(sum) - (double)row[ids[i + 1]];
                differ += i < n_argmax && (int32_t)top != argmax[i];
            }
            if (!(fabs(nll - want) <= 1e-2))
                fail_msg("story %u: negative log-likelihood %g, need %g", cases, nll, want);
            if (differ > 1)
                fail_msg("story %u: %u most likely tokens differ", cases,
                         differ); /* one near-tie may fall either way */
            kvrt_session_close(s, NULL);
            cases++;
        }
    }
    assert_true(cases >= 40);
    kvi_os_unmap(&map);
    free(logits);
    kvrt_engine_close(engine, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(greedy_ids), cmocka_unit_test(likelihoods)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
