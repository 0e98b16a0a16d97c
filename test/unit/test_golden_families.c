/* test_golden_families.c - logits and greedy text of the families beyond Llama, Mistral and Qwen, and of every kind of RoPE, against transformers
 * (test/golden/make_golden_families.py): formats, chunk sizes, threads; and the mutation check, part by part. */
#include "golden_model.h"
#include "../../runtime/model/forward.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const char *const names[] = {"gemma2",          "gemma2_plain",   "gemma3",         "gemma3_global",
                                    "gemma3_hub",      "gemma4",         "gemma4_e",       "gemma4_moe",
                                    "gemma4_hub",      "phi3",           "phi3_longrope",  "phi3_window",
                                    "smollm3",         "smollm3_untied", "granite",        "granite_bias",
                                    "granite4",        "granite4_nope",  "olmo2",          "olmo2_gqa",
                                    "olmo3",           "ministral3",     "ministral3_hub", "llama_gelu",
                                    "llama_gelu_tanh", "llama_yarn",     "llama_yarn_all", "llama_yarn_factor",
                                    "llama_dynamic",   "llama_longrope", "llama_linear"};
#define N_NAMES (sizeof names / sizeof names[0])

static void logits_match(void **state)
{
    (void)state;
    static const struct {
        const char *format;
        double tolerance;
    } formats[] = {
        {"f32", GOLDEN_F32_CACHE}, {"f16", GOLDEN_F16_CACHE}, {"i8", GOLDEN_QUANTIZED}, {"k4v4", GOLDEN_QUANTIZED}};
    for (size_t i = 0; i < N_NAMES; i++)
        for (size_t f = 0; f < sizeof formats / sizeof formats[0]; f++) {
            const char *pairs[] = {"kv.format", formats[f].format, "kv.tail", "0", NULL};
            golden_expect(names[i], formats[f].tolerance, pairs, NULL);
        }
}

static void chunks_and_threads(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_NAMES; i++) golden_expect_chunks_and_threads(names[i]);
}

static void greedy_text(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_NAMES; i++) golden_expect_greedy(names[i]);
}

/* A golden that still passes with a part missing proves nothing about that part. */
static void mutations_are_found(void **state)
{
    (void)state;
    static const char *const cases[][2] = {{"softcap", "gemma2"},
                                           {"embedding_scale", "gemma2"},
                                           {"score_scale", "gemma2"},
                                           {"window", "gemma2"},
                                           {"norm_before", "gemma2"},
                                           {"norm_after", "gemma2"},
                                           {"softcap", "gemma3_global"},
                                           {"qk_norm", "gemma3"},
                                           {"local_rope", "gemma3"},
                                           {"rope_scaling", "gemma3"},
                                           {"window", "gemma3_hub"},
                                           {"embedding_scale", "gemma3"},
                                           {"norm_after", "gemma3"},
                                           {"k_eq_v", "gemma4"},
                                           {"value_norm", "gemma4"},
                                           {"layer_scalar", "gemma4"},
                                           {"softcap", "gemma4"},
                                           {"score_scale", "gemma4"},
                                           {"window", "gemma4"},
                                           {"rope_scaling", "gemma4"},
                                           {"local_rope", "gemma4"},
                                           {"embedding_scale", "gemma4"},
                                           {"layer_input", "gemma4_e"},
                                           {"layer_scalar", "gemma4_e"},
                                           {"shared_kv", "gemma4_e"},
                                           {"value_norm", "gemma4_e"},
                                           {"experts", "gemma4_moe"},
                                           {"expert_scale", "gemma4_moe"},
                                           {"rope", "phi3"},
                                           {"rope_scaling", "phi3_longrope"},
                                           {"window", "phi3_window"},
                                           {"nope", "smollm3"},
                                           {"nope", "smollm3_untied"},
                                           {"bias", "smollm3_untied"},
                                           {"embedding_scale", "granite"},
                                           {"residual_scale", "granite"},
                                           {"score_scale", "granite"},
                                           {"logit_scale", "granite"},
                                           {"residual_scale", "granite4"},
                                           {"rope", "granite4"},
                                           {"nope", "granite4_nope"},
                                           {"qk_norm", "olmo2_gqa"},
                                           {"norm_after", "olmo2"},
                                           {"window", "olmo3"},
                                           {"local_rope", "olmo3"},
                                           {"rope_scaling", "olmo3"},
                                           {"q_growth", "ministral3"},
                                           {"rope_scaling", "ministral3"},
                                           {"bias", "llama_gelu"},
                                           {"activation", "llama_gelu"},
                                           {"activation", "llama_gelu_tanh"},
                                           {"rope_scaling", "llama_yarn"},
                                           {"rope_scaling", "llama_yarn_all"},
                                           {"rope_scaling", "llama_yarn_factor"},
                                           {"rope_scaling", "llama_longrope"},
                                           {"rope_scaling", "llama_linear"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) golden_expect_failure_without(cases[i][1], cases[i][0]);
}

static void rotation_cancels(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_NAMES; i++) golden_expect_rotation_cancels(names[i]);
}

/* Where frequencies would change with the length of the text, no longer one is promised. */
static void lengths_that_turn_keys_again_are_refused(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"llama_dynamic", "512", "513"}, {"llama_longrope", "512", "513"}, {"phi3_longrope", "512", "4096"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        golden_model m;
        kvrt_error error = {.size = sizeof error};
        kvrt_options *options;
        kvrt_engine engine = NULL;
        assert_true(golden_load(cases[i][0], &m));
        const char *right[] = {"ctx.size", cases[i][1], NULL};
        kvrt_engine_close(golden_open(&m, right), NULL);
        assert_int_equal(kvrt_options_create(&options, NULL), KVRT_OK);
        kvrt_options_set_string(options, "model.path", m.dir, -1, NULL);
        kvrt_options_set_text(options, "ctx.size", cases[i][2], NULL);
        assert_int_equal(kvrt_engine_open(options, NULL, NULL, &engine, &error), KVRT_UNSUPPORTED);
        if (!strstr(error.message, "ctx.size") || !strstr(error.message, "512")) fail_msg("%s", error.message);
        kvrt_options_destroy(options);
        golden_free(&m);
    }
}

/* Of six layers the last two read the cache of earlier ones: pages hold four, in two groups with heads of their own. */
static void layers_that_share_take_no_cache(void **state)
{
    (void)state;
    golden_model m;
    kvi_model_config *config = calloc(1, sizeof *config);
    kvi_model_program *program = calloc(1, sizeof *program);
    const kvi_record_options options = {.rotate = true, .plain = KVI_KV_F16, .head_parts = 1, .disable = ""};
    assert_true(config && program && golden_load("gemma4_e", &m));
    assert_int_equal(kvi_config_read(m.dir, config, NULL), KVRT_OK);
    assert_int_equal(kvi_model_record(config, NULL, &options, program, NULL), KVRT_OK);
    assert_int_equal(config->n_layers, 6);
    assert_int_equal(program->program.n_groups, 2);
    for (uint32_t g = 0; g < 2; g++) {
        const kvi_kv_shape *shape = &program->groups[g].shape;
        assert_int_equal(shape->n_layers, 2);
        assert_int_equal(shape->head_dim, program->groups[g].window ? 16 : 32);
    }
    kvi_model_program_free(program);
    free(program);
    free(config);
    golden_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(logits_match),
                                       cmocka_unit_test(chunks_and_threads),
                                       cmocka_unit_test(greedy_text),
                                       cmocka_unit_test(mutations_are_found),
                                       cmocka_unit_test(rotation_cancels),
                                       cmocka_unit_test(lengths_that_turn_keys_again_are_refused),
                                       cmocka_unit_test(layers_that_share_take_no_cache)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
