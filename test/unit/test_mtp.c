/* test_mtp.c - the layer that predicts the token after the next one (model.mtp), of a dense model and of one with experts, against logits that PyTorch
 * computed: drafts behind every kind of step, in a chain, after a way back; what it takes is planned; what is off, missing or out of turn is refused. */
#include "golden_model.h"
#include "../../runtime/base/json.h"
#include "../../runtime/base/os.h"
#include "../../runtime/engine/handle.h"
#include "../../runtime/engine/look_ahead.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { N = 300, MOST_ROWS = 32, CHAIN = 4 };

/* test/golden/make_golden_mtp.py says what these are. */
static struct {
    const char *name;
    golden_model model;
    int32_t ids[N + 1], rows[MOST_ROWS], chain[CHAIN];
    uint32_t n_rows;
    double std;
    float logits[(MOST_ROWS + CHAIN) * 96];
} want;

static uint32_t read_ints(kvi_json *r, int32_t *out, uint32_t cap)
{
    uint32_t n = 0;
    kvi_json_expect(r, KVI_JSON_ARRAY);
    while (kvi_json_next_item(r) && n < cap) out[n++] = (int32_t)kvi_json_i64(r);
    return n;
}

static int load(const char *name)
{
    char path[600];
    kvi_map json = {0}, bin = {0};
    kvi_json r;
    want.name = name;
    assert_true(golden_load(name, &want.model));
    snprintf(path, sizeof path, "%s/mtp.json", want.model.dir);
    assert_true(kvi_os_map(path, &kvi_mem_copies, &json, NULL) >= KVRT_OK);
    kvi_json_init(&r, (const char *)json.data, json.len);
    kvi_json_expect(&r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(&r)) {
        if (kvi_json_key_is(&r, "ids")) assert_int_equal(read_ints(&r, want.ids, N + 1), N + 1);
        else if (kvi_json_key_is(&r, "rows")) want.n_rows = read_ints(&r, want.rows, MOST_ROWS);
        else if (kvi_json_key_is(&r, "chain")) assert_int_equal(read_ints(&r, want.chain, CHAIN), CHAIN);
        else if (kvi_json_key_is(&r, "std")) want.std = kvi_json_f64(&r);
        else kvi_json_skip(&r);
    }
    assert_true(kvi_json_end(&r));
    snprintf(path, sizeof path, "%s/mtp.bin", want.model.dir);
    assert_true(kvi_os_map(path, &kvi_mem_copies, &bin, NULL) >= KVRT_OK);
    assert_int_equal(bin.len, (uint64_t)(want.n_rows + CHAIN) * want.model.vocab * sizeof(float));
    memcpy(want.logits, bin.data, bin.len);
    kvi_os_unmap(&json), kvi_os_unmap(&bin);
    return 0;
}

static int load_dense(void **state) { return load("qwen3_5_mtp"); }
static int load_experts(void **state) { return load("qwen3_5_moe_mtp"); }

static int unload(void **state)
{
    golden_free(&want.model);
    return 0;
}

static kvrt_session open_session(kvrt_engine engine)
{
    kvrt_session session;
    assert_int_equal(kvrt_session_create(engine, NULL, &session, NULL), KVRT_OK);
    return session;
}

static void eval(kvrt_session session, const int32_t *ids, uint32_t n)
{
    kvrt_error error = {.size = sizeof error};
    if (kvrt_session_eval(session, ids, n, NULL, 0, NULL, &error) < 0) fail_msg("%s", error.message);
}

static kvrt_status draft(kvrt_session session, int32_t next, float *logits, kvrt_error *error)
{
    kvi_session *s;
    assert_int_equal(kvi_session_enter_compute(session, &s, NULL), KVRT_OK);
    kvrt_status status = kvi_ahead_draft(s, next, error);
    if (status >= KVRT_OK) status = s->engine->backend->read_logits(s->engine->device, 0, logits, error);
    kvi_session_leave(s, KVI_DRIVE);
    return status;
}

static void must_draft(kvrt_session session, int32_t next, float *logits)
{
    kvrt_error error = {.size = sizeof error};
    if (draft(session, next, logits, &error) < 0) fail_msg("%s", error.message);
}

static double error_of(const float *got, uint32_t row)
{
    double worst = 0;
    for (uint32_t i = 0; i < want.model.vocab; i++) {
        const double e = fabs((double)got[i] - (double)want.logits[row * want.model.vocab + i]);
        if (!(e <= worst)) worst = isnan(e) ? INFINITY : e;
    }
    return worst / fmax(1, want.std);
}

/* The largest error of drafts at every golden row; the prompt up to a row in one call, or in two of which the second has `last` tokens. At the end the
 * chain, from the layer's own results. */
static double errors(const char *const *pairs, uint32_t last)
{
    kvrt_engine engine = golden_open(&want.model, pairs);
    double worst = 0;
    float logits[96];
    for (uint32_t i = 0; i < want.n_rows; i++) {
        kvrt_session session = open_session(engine);
        const uint32_t n = (uint32_t)want.rows[i] + 1, first = n > last ? n - last : 0;
        if (first) eval(session, want.ids, first);
        eval(session, want.ids + first, n - first);
        must_draft(session, want.ids[n], logits);
        worst = fmax(worst, error_of(logits, i));
        for (uint32_t k = 0; n == N && k < CHAIN; k++) {
            must_draft(session, want.chain[k], logits);
            worst = fmax(worst, error_of(logits, want.n_rows + k));
        }
        /* Drafts change nothing: the session goes on, and drafts again. */
        if (n + 2 < N) {
            must_draft(session, 5, logits);
            eval(session, want.ids + n, 2);
            must_draft(session, want.ids[n + 2], logits);
            if (i + 1 < want.n_rows && (uint32_t)want.rows[i + 1] == n + 1)
                worst = fmax(worst, error_of(logits, i + 1));
        }
        kvrt_session_close(session, NULL);
    }
    kvrt_engine_close(engine, NULL);
    return worst;
}

static void drafts_are_what_pytorch_computes(void **state)
{
    static const char *const chunks[] = {"7", "64", "512"};
    static const uint32_t lasts[] = {1, 3, 9};
    for (unsigned c = 0; c < 3; c++) {
        const char *pairs[] = {"model.mtp", "true", "kv.format", "f32", "ctx.chunk", chunks[c], NULL};
        const double error = errors(pairs, lasts[c]);
        if (!(error <= GOLDEN_F32_CACHE)) fail_msg("chunk %s: drafts are off by %g s.d.", chunks[c], error);
    }
    static const char *const formats[] = {"f16", "k4v4"};
    static const double limits[] = {GOLDEN_F16_CACHE, GOLDEN_QUANTIZED};
    for (unsigned f = 0; f < 2; f++) {
        const char *pairs[] = {"model.mtp", "true", "kv.format", formats[f], "kv.tail", "1", NULL};
        const double error = errors(pairs, 1);
        if (!(error <= limits[f])) fail_msg("%s: drafts are off by %g s.d.", formats[f], error);
    }
}

/* A golden that passes without a part proves nothing about it. */
static void every_part_matters(void **state)
{
    static const char *const parts[] = {"ahead_norms",    "ahead_hidden", "rope",          "qk_norm",
                                        "attention_gate", "mask",         "shared_expert", "renormalize"};
    const unsigned all = sizeof parts / sizeof parts[0], n = strstr(want.name, "moe") ? all : all - 2;
    for (unsigned i = 0; i < n; i++) {
        const char *pairs[] = {"model.mtp", "true", "kv.format", "f32", "debug.disable", parts[i], NULL};
        const double error = errors(pairs, 1);
        if (error <= GOLDEN_F32_CACHE) fail_msg("drafts pass without %s", parts[i]);
    }
}

/* With the layer the model computes what it computes without, and greedy text too, whoever drafts in between. */
static void the_model_stays_what_it_is(void **state)
{
    static const char *const formats[] = {"f32", "k4v4"};
    for (unsigned f = 0; f < 2; f++) {
        uint64_t digests[2] = {1, 1};
        for (unsigned on = 0; on < 2; on++) {
            const char *pairs[] = {"model.mtp", on ? "true" : "false", "kv.format", formats[f], NULL};
            kvrt_engine engine = golden_open(&want.model, pairs);
            (void)golden_logit_error(engine, &want.model, &digests[on]);
            kvrt_engine_close(engine, NULL);
        }
        assert_true(digests[0] == digests[1]);
    }
    const char *pairs[] = {"model.mtp", "true", "kv.format", "f32", NULL};
    golden_expect(want.name, GOLDEN_F32_CACHE, pairs, NULL);
}

/* Back to a position, to another token, and on: drafts have the bits of a fresh session's. */
static void a_way_back_leaves_nothing_stale(void **state)
{
    static const uint32_t positions[] = {1, 2, 127, 128, 129, 200, 256, 290};
    const char *pairs[] = {"model.mtp", "true", "kv.format", "k4v4", "ctx.chunk", "64", "ctx.sessions", "2", NULL};
    kvrt_engine engine = golden_open(&want.model, pairs);
    for (unsigned p = 0; p < sizeof positions / sizeof positions[0]; p++) {
        kvrt_session a = open_session(engine), b = open_session(engine);
        const uint32_t at = positions[p], n = at + 8;
        int32_t ids[N + 1];
        float again[96], fresh[96];
        eval(a, want.ids, N);
        assert_int_equal(kvrt_session_rewind(a, at, NULL), KVRT_OK);
        memcpy(ids, want.ids, sizeof ids);
        for (uint32_t i = at; i < n; i++) ids[i] = 2 + (int32_t)((i * 7 + 3) % 90);
        /* As a prompt, so that what is computed again has the form that it had; the last token alone. */
        assert_int_equal(kvrt_session_sync(a, ids, n - 1, NULL, NULL), KVRT_OK);
        eval(a, ids + n - 1, 1);
        must_draft(a, 9, again);
        assert_int_equal(kvrt_session_sync(b, ids, n - 1, NULL, NULL), KVRT_OK);
        eval(b, ids + n - 1, 1);
        must_draft(b, 9, fresh);
        if (memcmp(again, fresh, sizeof fresh) != 0)
            fail_msg("back to %u: the draft differs from a fresh session's", at);
        kvrt_session_close(a, NULL), kvrt_session_close(b, NULL);
    }
    kvrt_engine_close(engine, NULL);
}

static void expect(kvrt_session session, int32_t next, kvrt_status status, const char *words)
{
    kvrt_error error = {.size = sizeof error};
    float logits[96];
    assert_int_equal(draft(session, next, logits, &error), status);
    if (!strstr(error.message, words)) fail_msg("'%s' does not say '%s'", error.message, words);
}

static void out_of_turn_it_is_refused(void **state)
{
    const char *off[] = {"kv.format", "f32", NULL},
               *on[] = {"model.mtp", "true", "kv.format", "f32", "ctx.sessions", "2", NULL};
    float logits[96];
    kvrt_engine engine = golden_open(&want.model, off);
    kvrt_session a = open_session(engine), b;
    eval(a, want.ids, 20);
    expect(a, 3, KVRT_STATE, "model.mtp");
    kvrt_engine_close(engine, NULL);

    engine = golden_open(&want.model, on);
    a = open_session(engine), b = open_session(engine);
    expect(a, 3, KVRT_STATE, "0 of 0");
    eval(a, want.ids, 20);
    expect(a, -1, KVRT_ARG, "-1");
    expect(a, (int32_t)want.model.vocab, KVRT_ARG, "95");
    eval(b, want.ids, 5);
    expect(a, 3, KVRT_STATE, "19 of 20");
    must_draft(b, 3, logits);
    eval(a, want.ids + 20, 2); /* a gap: what it would have followed was lost */
    expect(a, 3, KVRT_STATE, "19 of 22");
    assert_int_equal(kvrt_session_rewind(a, 19, NULL), KVRT_OK);
    eval(a, want.ids + 19, 2);
    must_draft(a, want.ids[21], logits);
    kvrt_engine_close(engine, NULL);
}

static kvrt_status try_open(const char *dir, const char *shape, kvrt_error *error)
{
    kvrt_options *options;
    kvrt_engine engine = NULL;
    assert_int_equal(kvrt_options_create(&options, NULL), KVRT_OK);
    if (dir) kvrt_options_set_string(options, "model.path", dir, -1, NULL);
    if (shape) kvrt_options_set_string(options, "model.shape", shape, -1, NULL);
    kvrt_options_set_text(options, "device.backend", "cpu", NULL);
    kvrt_options_set_text(options, "model.mtp", "true", NULL);
    kvrt_options_set_text(options, "ctx.size", "64", NULL);
    const kvrt_status status = kvrt_engine_open(options, NULL, NULL, &engine, error);
    kvrt_options_destroy(options);
    if (status >= KVRT_OK) kvrt_engine_close(engine, NULL);
    return status;
}

static void models_without_it_are_refused(void **state)
{
    kvrt_error error = {.size = sizeof error};
    golden_model plain;
    assert_true(golden_load("qwen3_5", &plain));
    assert_int_equal(try_open(plain.dir, NULL, &error), KVRT_UNSUPPORTED);
    assert_non_null(strstr(error.message, "mtp_num_hidden_layers"));
    golden_free(&plain);
    assert_int_equal(try_open(NULL, "qwen3-0.6b", &error), KVRT_UNSUPPORTED);
}

/* Weights, a layer more of pages, buffers: to the byte what is taken, and none of it without the option. */
static void it_is_planned(void **state)
{
    kvrt_plan_row rows[2];
    for (unsigned on = 0; on < 2; on++) {
        kvrt_error error = {.size = sizeof error};
        kvrt_options *options;
        kvrt_engine engine;
        uint64_t before, after, n = 0;
        rows[on] = (kvrt_plan_row){.size = sizeof rows[on]};
        assert_int_equal(kvrt_options_create(&options, NULL), KVRT_OK);
        kvrt_options_set_string(options, "model.path", want.model.dir, -1, NULL);
        kvrt_options_set_text(options, "device.backend", "cpu", NULL);
        kvrt_options_set_text(options, "ctx.size", "1000", NULL);
        kvrt_options_set_text(options, "model.mtp", on ? "true" : "false", NULL);
        if (kvrt_plan(options, "k4v4", NULL, &rows[on], 1, &n, &error) != KVRT_OK) fail_msg("%s", error.message);
        kvrt_debug_mem(&before, NULL, NULL);
        if (kvrt_engine_open(options, NULL, NULL, &engine, &error) < 0) fail_msg("%s", error.message);
        kvrt_debug_mem(&after, NULL, NULL);
        assert_int_equal(after - before, rows[on].total_bytes - rows[on].session_bytes);
        kvrt_engine_close(engine, NULL);
        kvrt_options_destroy(options);
    }
    assert_true(rows[1].kv_bytes > rows[0].kv_bytes && rows[1].workspace_bytes > rows[0].workspace_bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(drafts_are_what_pytorch_computes),
                                       cmocka_unit_test(every_part_matters),
                                       cmocka_unit_test(the_model_stays_what_it_is),
                                       cmocka_unit_test(a_way_back_leaves_nothing_stale),
                                       cmocka_unit_test(out_of_turn_it_is_refused),
                                       cmocka_unit_test(models_without_it_are_refused),
                                       cmocka_unit_test(it_is_planned)};
    const int failed = cmocka_run_group_tests_name("a dense model", tests, load_dense, unload);
    return failed + cmocka_run_group_tests_name("a model with experts", tests, load_experts, unload);
}
