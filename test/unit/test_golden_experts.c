/* test_golden_experts.c - logits and greedy text of mixtures of experts and of latent attention against transformers
 * (test/golden/make_golden_experts.py): formats, chunk sizes, threads; and the mutation check, part by part. */
#include "golden_model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const char *const names[] = {"qwen2_moe",
                                    "qwen3_moe",
                                    "qwen3_moe_fused",
                                    "qwen3_moe_all",
                                    "mixtral",
                                    "mixtral_one",
                                    "mixtral_fused",
                                    "olmoe",
                                    "granitemoe",
                                    "granitemoe_shared",
                                    "glm4_moe",
                                    "glm4_moe_plain",
                                    "gpt_oss",
                                    "gpt_oss_mxfp4",
                                    "deepseek_v2",
                                    "deepseek_v2_groups",
                                    "deepseek_v3",
                                    "deepseek_v3_halves",
                                    "glm4_moe_lite",
                                    "qwen3_5_moe",
                                    "qwen3_5_moe_fused",
                                    "qwen3_next",
                                    "qwen3_next_all",
                                    "gpt_oss_clamped",
                                    "gpt_oss_clamped_mxfp4"};
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
            if (formats[f].tolerance >= GOLDEN_QUANTIZED && strcmp(names[i], "deepseek_v2") == 0)
                continue; /* roped keys of 8: plain formats alone */
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
    static const char *const cases[][2] = {{"shared_expert", "qwen2_moe"},
                                           {"shared_gate", "qwen2_moe"},
                                           {"bias", "qwen2_moe"},
                                           {"renormalize", "qwen3_moe"},
                                           {"qk_norm", "qwen3_moe"},
                                           {"renormalize", "mixtral"},
                                           {"window", "mixtral_one"},
                                           {"qk_norm", "olmoe"},
                                           {"softmax_chosen", "granitemoe"},
                                           {"embedding_scale", "granitemoe"},
                                           {"residual_scale", "granitemoe"},
                                           {"score_scale", "granitemoe"},
                                           {"logit_scale", "granitemoe"},
                                           {"shared_expert", "granitemoe_shared"},
                                           {"residual_scale", "granitemoe_shared"},
                                           {"correction", "glm4_moe"},
                                           {"groups", "glm4_moe"},
                                           {"renormalize", "glm4_moe"},
                                           {"route_scale", "glm4_moe"},
                                           {"shared_expert", "glm4_moe"},
                                           {"qk_norm", "glm4_moe"},
                                           {"rope", "glm4_moe"},
                                           {"bias", "glm4_moe"},
                                           {"correction", "glm4_moe_plain"},
                                           {"sinks", "gpt_oss"},
                                           {"window", "gpt_oss"},
                                           {"clamp", "gpt_oss"},
                                           {"clamp", "gpt_oss_clamped"},
                                           {"bias", "gpt_oss"},
                                           {"softmax_chosen", "gpt_oss"},
                                           {"rope_scaling", "gpt_oss"},
                                           {"rope", "deepseek_v2"},
                                           {"mask", "deepseek_v2"},
                                           {"latent_norm", "deepseek_v2"},
                                           {"shared_expert", "deepseek_v2"},
                                           {"groups", "deepseek_v2_groups"},
                                           {"route_scale", "deepseek_v2_groups"},
                                           {"rope_scaling", "deepseek_v2_groups"},
                                           {"score_scale", "deepseek_v2_groups"},
                                           {"groups", "deepseek_v3"},
                                           {"correction", "deepseek_v3"},
                                           {"renormalize", "deepseek_v3"},
                                           {"bias", "deepseek_v3_halves"},
                                           {"latent_norm", "deepseek_v3_halves"},
                                           {"route_scale", "glm4_moe_lite"},
                                           {"shared_gate", "qwen3_5_moe"},
                                           {"shared_expert", "qwen3_5_moe_fused"},
                                           {"renormalize", "qwen3_5_moe"},
                                           {"shared_gate", "qwen3_next"},
                                           {"rope", "glm4_moe_lite"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) golden_expect_failure_without(cases[i][1], cases[i][0]);
}

static void rotation_cancels(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_NAMES; i++) golden_expect_rotation_cancels(names[i]);
}

/* Of a mixture, a token reads the experts it chose: 2 of 6, three matrices of 24 x 32 in BF16 each. */
static void times_count_what_is_read(void **state)
{
    (void)state;
    static const char *const pairs[] = {"kv.format", "f32", NULL};
    golden_model m;
    kvrt_session session;
    kvrt_op_time time = {.size = sizeof time};
    float logits[96];
    bool found = false;
    assert_true(golden_load("qwen3_moe", &m));
    kvrt_engine engine = golden_open(&m, pairs);
    assert_int_equal(kvrt_session_create(engine, NULL, &session, NULL), KVRT_OK);
    assert_int_equal(kvrt_measure_ops(engine, 1, NULL), KVRT_OK);
    assert_true(kvrt_session_eval(session, m.prompts[0].ids, 1, NULL, 1, logits, NULL) >= KVRT_OK);
    for (uint32_t i = 0; kvrt_measure_op_at(engine, i, &time, NULL) == KVRT_OK; i++)
        if (strcmp(time.op, "experts") == 0) found = time.bytes == 2 * 3 * 24 * 32 * 2;
    assert_true(found);
    kvrt_session_close(session, NULL);
    kvrt_engine_close(engine, NULL);
    golden_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(logits_match),     cmocka_unit_test(chunks_and_threads),
                                       cmocka_unit_test(greedy_text),      cmocka_unit_test(mutations_are_found),
                                       cmocka_unit_test(rotation_cancels), cmocka_unit_test(times_count_what_is_read)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
