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

#define TOL_AMX 1e-1 /* activations rounded to BF16 in prefill */
#define TOL_ROUNDED                                                                                                    \
    3e-1 /* alike; layers with a state are the most sensitive: 0.18 in qwen3_5, below 0.1 in all others */

static void logits_match(void **state)
{
    (void)state;
    static const char *const f32[] = {"kv.format", "f32", NULL}, *const f16[] = {"kv.format", "f16", NULL};
    for (unsigned i = 0; golden_name(i); i++) {
        golden_expect(golden_name(i), GOLDEN_F32_CACHE, f32, NULL);
        golden_expect(golden_name(i), GOLDEN_F16_CACHE, f16, NULL);
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
            kvrt_options_set_text(options, "cpu.exact", "true", NULL);
            int32_t status = kvrt_engine_open(options, NULL, NULL, &engine, NULL);
            kvrt_options_destroy(options);
            if (status == KVRT_UNSUPPORTED) {
                if (!i) print_message("skipped: this CPU has no %s\n", sets[k]);
            } else {
                assert_int_equal(status, KVRT_OK);
                const double error = golden_logit_error(engine, &m, NULL), most = golden_limit(&m, GOLDEN_F32_CACHE);
                if (!(error <= most))
                    fail_msg("%s, %s: logit error %g, need at most %g", golden_name(i), sets[k], error, most);
                kvrt_engine_close(engine, NULL);
            }
            golden_free(&m);
        }
}

static void amx_within_its_limit(void **state)
{
    (void)state;
    static const char *const amx[] = {"kv.format", "f32", "cpu.amx", "true", NULL};
    for (unsigned i = 0; golden_name(i); i++) golden_expect(golden_name(i), TOL_AMX, amx, NULL);
}

/* The product of BF16 weights that machines with AVX-512-BF16 use; elsewhere it is the one above. */
static void rounded_within_its_limit(void **state)
{
    (void)state;
    static const char *const rounded[] = {"kv.format", "f32", "cpu.amx", "false", "cpu.exact", "false", NULL};
    for (unsigned i = 0; golden_name(i); i++) golden_expect(golden_name(i), TOL_ROUNDED, rounded, NULL);
}

static void chunks_and_threads(void **state)
{
    (void)state;
    for (unsigned i = 0; golden_name(i); i++) golden_expect_chunks_and_threads(golden_name(i));
}

static void greedy_text(void **state)
{
    (void)state;
    for (unsigned i = 0; golden_name(i); i++) golden_expect_greedy(golden_name(i));
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
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++)
        golden_expect_failure_without(cases[i][1], cases[i][0]);
}

static void rotation_cancels(void **state)
{
    (void)state;
    for (unsigned i = 0; golden_name(i); i++) golden_expect_rotation_cancels(golden_name(i));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_match),         cmocka_unit_test(every_instruction_set),
        cmocka_unit_test(amx_within_its_limit), cmocka_unit_test(rounded_within_its_limit),
        cmocka_unit_test(chunks_and_threads),   cmocka_unit_test(greedy_text),
        cmocka_unit_test(mutations_are_found),  cmocka_unit_test(rotation_cancels)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
