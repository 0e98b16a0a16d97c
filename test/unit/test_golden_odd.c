/* test_golden_odd.c - config.json files and checkpoints that are right but unusual (test/golden/make_odd.py): the logits are those of
 * transformers, or the model is refused by name. */
#define _GNU_SOURCE /* mkdtemp, symlink */
#include "../../runtime/base/json.h"
#include "../../runtime/base/os.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define ODD KVRT_TEST_DIR "/golden/odd"
#define TOL 2e-4 /* times max(1, standard deviation of the logits), with a cache of f32 */
#define MAX_PROMPT 8192u
#define MAX_FILES 8u
#define VOCAB 40u

typedef struct odd_case {
    char name[64], config[4096], refused[64];
    char target[MAX_FILES][64], source[MAX_FILES][64];
    uint32_t n_files, n, rows[32], n_rows;
    uint64_t at; /* of its logits, in floats */
    double std;
} odd_case;

static int32_t prompt[MAX_PROMPT];
static char folder[] = "/tmp/kvrt-odd-XXXXXX";

static void text(kvi_json *r, char *out, size_t cap)
{
    kvi_json_string(r);
    assert_true(r->str_len < cap);
    out[kvi_json_str_unescape(r, out)] = 0;
}

static void read_case(kvi_json *r, odd_case *c)
{
    memset(c, 0, sizeof *c);
    kvi_json_expect(r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(r)) {
        if (kvi_json_key_is(r, "name")) text(r, c->name, sizeof c->name);
        else if (kvi_json_key_is(r, "config")) text(r, c->config, sizeof c->config);
        else if (kvi_json_key_is(r, "refused")) text(r, c->refused, sizeof c->refused);
        else if (kvi_json_key_is(r, "n")) c->n = (uint32_t)kvi_json_i64(r);
        else if (kvi_json_key_is(r, "at")) c->at = (uint64_t)kvi_json_i64(r);
        else if (kvi_json_key_is(r, "std")) c->std = kvi_json_f64(r);
        else if (kvi_json_key_is(r, "rows")) {
            kvi_json_expect(r, KVI_JSON_ARRAY);
            while (kvi_json_next_item(r) && c->n_rows < 32) c->rows[c->n_rows++] = (uint32_t)kvi_json_i64(r);
        } else if (kvi_json_key_is(r, "files")) {
            kvi_json_expect(r, KVI_JSON_OBJECT);
            for (; kvi_json_next_key(r); c->n_files++) {
                assert_true(c->n_files < MAX_FILES && r->str_len < 64);
                c->target[c->n_files][kvi_json_str_unescape(r, c->target[c->n_files])] = 0;
                text(r, c->source[c->n_files], 64);
            }
        } else kvi_json_skip(r);
    }
}

static const char *in_folder(const char *name)
{
    static char path[200];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void lay_out(const odd_case *c)
{
    char source[600];
    FILE *config = fopen(in_folder("config.json"), "w");
    assert_non_null(config);
    assert_int_equal(fputs(c->config, config) >= 0, 1);
    assert_int_equal(fclose(config), 0);
    for (uint32_t i = 0; i < c->n_files; i++) {
        (void)snprintf(source, sizeof source, "%s/%s", ODD, c->source[i]);
        assert_int_equal(symlink(source, in_folder(c->target[i])), 0);
    }
    assert_int_equal(symlink(KVRT_TEST_DIR "/golden/models/llama_mha/tokenizer.json", in_folder("tokenizer.json")), 0);
}

static void clear(const odd_case *c)
{
    assert_int_equal(unlink(in_folder("config.json")) | unlink(in_folder("tokenizer.json")), 0);
    for (uint32_t i = 0; i < c->n_files; i++) assert_int_equal(unlink(in_folder(c->target[i])), 0);
}

static kvrt_status open_odd(kvrt_engine *engine, kvrt_error *error)
{
    kvrt_options *options;
    *error = (kvrt_error){.size = sizeof *error};
    assert_int_equal(kvrt_options_create(&options, error), KVRT_OK);
    kvrt_options_set_string(options, "model.path", folder, -1, error);
    kvrt_options_set_text(options, "device.backend", "cpu", error);
    kvrt_options_set_text(options, "kv.format", "f32", error);
    kvrt_status status = kvrt_engine_open(options, NULL, NULL, engine, error);
    kvrt_options_destroy(options);
    return status;
}

static double logit_error(kvrt_engine engine, const odd_case *c, const float *want)
{
    kvrt_error error = {.size = sizeof error};
    kvrt_session session;
    double worst = 0;
    const size_t n = (size_t)c->n_rows * VOCAB;
    float *logits = malloc(n * sizeof *logits);
    assert_int_equal(kvrt_session_create(engine, NULL, &session, &error), KVRT_OK);
    if (kvrt_session_eval(session, prompt, c->n, c->rows, c->n_rows, logits, &error) < 0) fail_msg("%s", error.message);
    for (size_t i = 0; i < n; i++) {
        const double e = fabs((double)logits[i] - (double)want[i]);
        if (!(e <= worst)) worst = isnan(e) ? INFINITY : e;
    }
    free(logits);
    kvrt_session_close(session, NULL);
    return worst;
}

static void check(const odd_case *c, const kvi_map *blob)
{
    kvrt_engine engine;
    kvrt_error error;
    lay_out(c);
    const kvrt_status status = open_odd(&engine, &error);
    clear(c);
    if (c->refused[0]) {
        if (status >= KVRT_OK) fail_msg("%s: opened, need a refusal", c->name);
        if (!strstr(error.message, c->refused)) fail_msg("%s: '%s' lacks '%s'", c->name, error.message, c->refused);
        return;
    }
    if (status < KVRT_OK) fail_msg("%s: %s", c->name, error.message);
    assert_true((c->at + (uint64_t)c->n_rows * VOCAB) * 4 <= blob->len && c->n_rows > 0 && c->n <= MAX_PROMPT);
    const float *want = (const float *)(const void *)(blob->data + c->at * 4);
    const double worst = logit_error(engine, c, want), most = TOL * (c->std > 1 ? c->std : 1);
    if (!(worst <= most)) fail_msg("%s: logit error %g, need at most %g", c->name, worst, most);
    kvrt_engine_close(engine, NULL);
}

static void odd_models_match_or_are_refused(void **state)
{
    (void)state;
    kvi_map cases, blob;
    kvi_json r;
    uint32_t n_prompt = 0, n_cases = 0;
    static odd_case c;
    assert_int_equal(kvi_os_map(ODD "/cases.json", &kvi_mem_copies, &cases, NULL), KVRT_OK);
    assert_int_equal(kvi_os_map(ODD "/logits.bin", &kvi_mem_copies, &blob, NULL), KVRT_OK);
    assert_non_null(mkdtemp(folder));
    kvi_json_init(&r, (const char *)cases.data, cases.len);
    kvi_json_expect(&r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(&r)) {
        kvi_json_expect(&r, KVI_JSON_ARRAY);
        if (kvi_json_key_is(&r, "prompt"))
            while (kvi_json_next_item(&r) && n_prompt < MAX_PROMPT) prompt[n_prompt++] = (int32_t)kvi_json_i64(&r);
        else
            for (; kvi_json_next_item(&r); n_cases++) {
                read_case(&r, &c);
                if (!r.error) check(&c, &blob);
            }
    }
    assert_true(kvi_json_end(&r));
    assert_true(n_cases >= 25 && n_prompt > 4096);
    assert_int_equal(rmdir(folder), 0);
    kvi_os_unmap(&cases);
    kvi_os_unmap(&blob);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(odd_models_match_or_are_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
