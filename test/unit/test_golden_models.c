/* test_golden_models.c - logits and greedy text of every golden model against transformers, through the public API: formats, chunk sizes,
 * threads, instruction sets; and the mutation check: with a part of the model left out, its golden must fail. */
#include "golden_model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* Named tolerances, times max(1, s) with s the standard deviation of the golden logits. A failing kernel is fixed, not these. */
#define TOL_F32_CACHE 2e-4
#define TOL_F16_CACHE 2e-2
#define TOL_AMX 1e-1 /* activations rounded to BF16 in prefill */

static double limit(const golden_model *m, double tolerance) { return tolerance * (m->std > 1 ? m->std : 1); }

static void check(const char *name, double error, double most)
{
    if (!(error <= most)) fail_msg("%s: logit error %g, need at most %g", name, error, most);
}

static void logits_match(void **state)
{
    (void)state;
    static const char *const f32[] = {"kv.format", "f32", NULL}, *const f16[] = {"kv.format", "f16", NULL};
    for (unsigned i = 0; golden_name(i); i++) {
        golden_model m;
        assert_true(golden_load(golden_name(i), &m));
        kvrt_engine engine = golden_open(&m, f32);
        check(golden_name(i), golden_logit_error(engine, &m, NULL), limit(&m, TOL_F32_CACHE));
        kvrt_engine_close(engine, NULL);
        engine = golden_open(&m, f16);
        check(golden_name(i), golden_logit_error(engine, &m, NULL), limit(&m, TOL_F16_CACHE));
        kvrt_engine_close(engine, NULL);
        golden_free(&m);
    }
}

static void every_instruction_set(void **state)
{
    (void)state;
    static const char *const sets[] = {"portable", "avx2", "avx512"};
    for (unsigned i = 0; golden_name(i); i++)
        for (unsigned k = 0; k < 3; k++) {
            golden_model m;
            kvrt_options *options;
            kvrt_engine engine;
            assert_true(golden_load(golden_name(i), &m));
            kvrt_options_create(&options, NULL);
            kvrt_options_set_text(options, "model.path", m.dir, NULL);
            kvrt_options_set_text(options, "kv.format", "f32", NULL);
            kvrt_options_set_text(options, "cpu.isa", sets[k], NULL);
            int32_t status = kvrt_engine_open(options, NULL, NULL, &engine, NULL);
            kvrt_options_destroy(options);
            if (status == KVRT_UNSUPPORTED) {
                if (!i) print_message("skipped: this CPU has no %s\n", sets[k]);
            } else {
                assert_int_equal(status, KVRT_OK);
                check(golden_name(i), golden_logit_error(engine, &m, NULL), limit(&m, TOL_F32_CACHE));
                kvrt_engine_close(engine, NULL);
            }
            golden_free(&m);
        }
}

static void amx_within_its_limit(void **state)
{
    (void)state;
    static const char *const amx[] = {"kv.format", "f32", "cpu.amx", "true", NULL};
    for (unsigned i = 0; golden_name(i); i++) {
        golden_model m;
        assert_true(golden_load(golden_name(i), &m));
        kvrt_engine engine = golden_open(&m, amx);
        check(golden_name(i), golden_logit_error(engine, &m, NULL), limit(&m, TOL_AMX));
        kvrt_engine_close(engine, NULL);
        golden_free(&m);
    }
}

/* Chunks change the cut of the work, not the result; threads not even a bit. */
static void chunks_and_threads(void **state)
{
    (void)state;
    static const char *const chunks[] = {"1", "7", "64", "512"};
    for (unsigned i = 0; golden_name(i); i++) {
        golden_model m;
        assert_true(golden_load(golden_name(i), &m));
        for (unsigned k = 0; k < 4; k++) {
            uint64_t digests[3] = {0};
            for (unsigned run = 0; run < 3; run++) {
                const char *pairs[] = {"kv.format",          "f32", "ctx.chunk", chunks[k], "cpu.threads",
                                       run == 1 ? "1" : "2", NULL};
                kvrt_engine engine = golden_open(&m, pairs);
                check(golden_name(i), golden_logit_error(engine, &m, &digests[run]), limit(&m, TOL_F32_CACHE));
                kvrt_engine_close(engine, NULL);
            }
            if (digests[0] != digests[1]) fail_msg("%s chunk %s: 1 and 2 threads differ", golden_name(i), chunks[k]);
            if (digests[0] != digests[2]) fail_msg("%s chunk %s: two runs differ", golden_name(i), chunks[k]);
        }
        golden_free(&m);
    }
}

static void greedy_text(void **state)
{
    (void)state;
    static const char *const pairs[] = {
        "kv.format", "f32", "sample.temperature", "0", "gen.max_tokens", "16", "gen.ignore_eos", "true", NULL};
    for (unsigned i = 0; golden_name(i); i++) {
        golden_model m;
        assert_true(golden_load(golden_name(i), &m));
        kvrt_engine engine = golden_open(&m, pairs);
        double error = golden_logit_error(engine, &m, NULL);
        (void)golden_greedy(engine, &m, error);
        kvrt_engine_close(engine, NULL);
        golden_free(&m);
    }
}

/* A golden that still passes with a part missing proves nothing about that part. */
static void mutations_are_found(void **state)
{
    (void)state;
    static const char *const cases[][2] = {{"rope", "llama_gqa2"},
                                           {"rope", "llama_rope3"},
                                           {"mask", "llama_mha"},
                                           {"qk_norm", "qwen3"},
                                           {"bias", "qwen2"},
                                           {"bias", "llama_bias"},
                                           {"bias", "llama_mlp_bias"},
                                           {"window", "mistral_window"},
                                           {"window", "qwen2_window"},
                                           {"rope", "qwen3_5"},
                                           {"qk_norm", "qwen3_5"},
                                           {"attention_gate", "qwen3_5"},
                                           {"delta_gate", "qwen3_5"},
                                           {"decay", "qwen3_5"},
                                           {"beta", "qwen3_5"},
                                           {"conv", "qwen3_5"},
                                           {"delta_gate", "qwen3_5_odd"},
                                           {"decay", "qwen3_5_odd"},
                                           {"conv", "qwen3_5_odd"}};
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        golden_model m;
        const char *pairs[] = {"kv.format", "f32", "debug.disable", cases[i][0], NULL};
        assert_true(golden_load(cases[i][1], &m));
        kvrt_engine engine = golden_open(&m, pairs);
        double error = golden_logit_error(engine, &m, NULL), most = limit(&m, TOL_F16_CACHE);
        if (!(error > 2 * most))
            fail_msg("%s without %s: error %g would pass (limit %g)", cases[i][1], cases[i][0], error, most);
        kvrt_engine_close(engine, NULL);
        golden_free(&m);
    }
}

/* The rotation must cancel exactly: on and off are the same computation up to rounding. */
static void rotation_cancels(void **state)
{
    (void)state;
    static const char *const off[] = {"kv.format", "f32", "kv.rotate", "false", NULL};
    for (unsigned i = 0; golden_name(i); i++) {
        golden_model m;
        assert_true(golden_load(golden_name(i), &m));
        kvrt_engine engine = golden_open(&m, off);
        check(golden_name(i), golden_logit_error(engine, &m, NULL), limit(&m, TOL_F32_CACHE));
        kvrt_engine_close(engine, NULL);
        golden_free(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(logits_match),         cmocka_unit_test(every_instruction_set),
                                       cmocka_unit_test(amx_within_its_limit), cmocka_unit_test(chunks_and_threads),
                                       cmocka_unit_test(greedy_text),          cmocka_unit_test(mutations_are_found),
                                       cmocka_unit_test(rotation_cancels)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
