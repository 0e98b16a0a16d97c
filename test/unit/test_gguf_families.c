/* test_gguf_families.c - the files of golden/gguf/models, which llama.cpp's own converter wrote, against the logits of transformers: what names,
 * orders of rows and keys mean is its word here, not ours. Parts whose loss these files must notice are switched off as well. */
#define _DEFAULT_SOURCE /* mkstemps */
#include "golden_model.h"
#include "../../runtime/model/gguf_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static const struct {
    const char *name, *family;
    const char *parts[8]; /* debug.disable */
} models[] = {
    {"qwen3_5", "qwen3_5_text", {"attention_gate", "qk_norm", "decay"}},
    {"qwen3_5_nested", "qwen3_5_text", {NULL}},
    {"qwen3_5_odd", "qwen3_5_text", {"bias"}},
    {"qwen3_5_moe", "qwen3_5_moe_text", {"shared_expert", "shared_gate", "renormalize"}},
    {"qwen3_5_moe_fused", "qwen3_5_moe_text", {NULL}},
    {"qwen3_next_all", "qwen3_next", {"shared_expert", "decay"}},
    {"qwen2_moe", "qwen2_moe", {"shared_expert", "shared_gate"}},
    {"qwen3_moe_all", "qwen3_moe", {"renormalize"}},
    {"mixtral", "mixtral", {"renormalize"}},
    {"gpt_oss_clamped", "gpt_oss", {"sinks", "softmax_chosen", "clamp", "bias", "window"}},
    {"gpt_oss_clamped_mxfp4", "gpt_oss", {"sinks", "clamp"}},
    {"gemma4", "gemma4_text", {"softcap", "value_norm", "layer_scalar", "window"}},
    {"gemma4_e", "gemma4_text", {"shared_kv", "layer_input", "layer_scalar"}},
    {"gemma4_moe", "gemma4_text", {"experts", "expert_scale"}},
    {"granitemoe", "granitemoe", {"softmax_chosen", "score_scale"}},
    {"granitemoe_shared", "granitemoeshared", {"shared_expert"}},
    {"granite4", "granite", {"score_scale", "rope"}},
    {"deepseek_v2", "deepseek_v2", {"shared_expert", "latent_norm", "rope"}},
    {"deepseek_v2_groups", "deepseek_v2", {"groups", "route_scale", "score_scale"}},
    {"deepseek_v3", "deepseek_v3", {"correction", "groups", "route_scale"}},
    {"glm4_moe_lite", "deepseek_v3", {"correction", "route_scale"}},
    {"glm4_moe", "glm4_moe", {"correction", "groups", "qk_norm", "bias"}},
    {"glm4_moe_plain", "glm4_moe", {"shared_expert"}},
    {"olmo3", "olmo2", {"window"}},
};
#define N_MODELS (sizeof models / sizeof models[0])

static golden_model load(size_t i)
{
    golden_model m;
    assert_true(golden_load(models[i].name, &m));
    (void)snprintf(m.dir, sizeof m.dir, "%s/golden/gguf/models/%s.gguf", KVRT_TEST_DIR, models[i].name);
    return m;
}

static double error_of(size_t i, const char *const *pairs, double *limit, double tolerance)
{
    golden_model m = load(i);
    kvrt_engine engine = golden_open(&m, pairs);
    const double error = golden_logit_error(engine, &m, NULL);
    *limit = golden_limit(&m, tolerance);
    kvrt_engine_close(engine, NULL);
    golden_free(&m);
    return error;
}

static void expect(size_t i, double tolerance, const char *const *pairs)
{
    double limit;
    const double error = error_of(i, pairs, &limit, tolerance);
    if (!(error <= limit))
        fail_msg("%s, %s %s: logit error %g, need at most %g", models[i].name, pairs[2] ? pairs[2] : pairs[0],
                 pairs[2] ? pairs[3] : pairs[1], error, limit);
}

static void logits_are_those_of_transformers(void **state)
{
    static const char *const f32[] = {"kv.format", "f32", NULL},
                             *const copy[] = {"kv.format", "f32", "model.io", "copy", NULL},
                             *const chunk[] = {"kv.format", "f32", "ctx.chunk", "7", NULL},
                             *const f16[] = {"kv.format", "f16", NULL};
    for (size_t i = 0; i < N_MODELS; i++) {
        expect(i, GOLDEN_F32_CACHE, f32);
        expect(i, GOLDEN_F32_CACHE, copy);
        expect(i, GOLDEN_F32_CACHE, chunk);
        expect(i, GOLDEN_F16_CACHE, f16);
    }
}

static void greedy_texts_are_those_of_transformers(void **state)
{
    static const char *const pairs[] = {
        "kv.format", "f32", "sample.temperature", "0", "gen.max_tokens", "16", "gen.ignore_eos", "true", NULL};
    for (size_t i = 0; i < N_MODELS; i++) {
        golden_model m = load(i);
        kvrt_engine engine = golden_open(&m, pairs);
        (void)golden_greedy(engine, &m, golden_logit_error(engine, &m, NULL));
        kvrt_engine_close(engine, NULL);
        golden_free(&m);
    }
}

static void what_is_missing_is_noticed(void **state)
{
    for (size_t i = 0; i < N_MODELS; i++)
        for (const char *const *part = models[i].parts; *part; part++) {
            const char *pairs[] = {"kv.format", "f32", "debug.disable", *part, NULL};
            double limit;
            const double error = error_of(i, pairs, &limit, GOLDEN_F16_CACHE);
            if (!(error > 2 * limit))
                fail_msg("%s without %s: error %g would pass (limit %g)", models[i].name, *part, error, limit);
        }
}

static void files_are_named_and_nothing_in_them_is_unknown(void **state)
{
    for (size_t i = 0; i < N_MODELS; i++) {
        golden_model m = load(i);
        kvi_model_config config;
        kvrt_error error = {.size = sizeof error};
        kvi_gguf *g;
        if (kvi_gguf_open(m.dir, false, &g, &error) < KVRT_OK) fail_msg("%s", error.message);
        if (kvi_gguf_config(g, &config, &error) < KVRT_OK) fail_msg("%s: %s", models[i].name, error.message);
        if (strcmp(config.family, models[i].family) != 0 || config.warning[0])
            fail_msg("%s: family %s, need %s; warning '%s', need none", models[i].name, config.family, models[i].family,
                     config.warning);
        kvi_gguf_close(g);
        golden_free(&m);
    }
}

/* ----------------------------------------------------------------------------------------------------- refusals --- */
/* A key whose number (or first element, or bool) becomes another, or, with UINT32_MAX, which is called otherwise; and what is said of it. */
static const struct {
    const char *model, *key;
    uint32_t value;
    kvrt_status status;
    const char *named;
} changes[] = {
    {"qwen3_5", "qwen35.ssm.group_count", 3, KVRT_UNSUPPORTED, "ssm.group_count is 3, ssm.time_step_rank 4"},
    {"qwen3_5", "qwen35.ssm.group_count", 0, KVRT_UNSUPPORTED, "ssm.group_count is 0"},
    {"qwen3_5", "qwen35.ssm.conv_kernel", 1, KVRT_UNSUPPORTED,
     "ssm.conv_kernel 1, need 1 to 512, the same, and 2 to 8"},
    {"qwen3_5", "qwen35.ssm.conv_kernel", 3, KVRT_FORMAT, "blk.0.ssm_conv1d.weight: shape [128, 4], need [128, 3]"},
    {"qwen3_5", "qwen35.ssm.state_size", 0, KVRT_UNSUPPORTED, "ssm.state_size is 0"},
    {"qwen3_5", "qwen35.ssm.inner_size", UINT32_MAX, KVRT_FORMAT, "qwen35.ssm.inner_size: not found"},
    {"qwen3_5", "qwen35.rope.dimension_count", 5, KVRT_UNSUPPORTED, "rope.dimension_count is 5"},
    {"qwen3_5", "qwen35.attention.recurrent_layers", 0, KVRT_UNSUPPORTED, "has no place"},
    {"qwen3_5_moe", "qwen35moe.expert_used_count", 7, KVRT_UNSUPPORTED, "expert_count is 6, expert_used_count 7"},
    {"qwen3_5_moe", "qwen35moe.expert_count", 0, KVRT_UNSUPPORTED, "expert_count is 0"},
    {"qwen3_5_moe", "qwen35moe.expert_feed_forward_length", 23, KVRT_FORMAT,
     "ffn_gate_up_exps.weight: shape [6, 48, 32]"},
    {"qwen3_5_moe", "qwen35moe.expert_feed_forward_length", UINT32_MAX, KVRT_OK, ""},
    {"qwen3_5_moe", "qwen35moe.expert_shared_feed_forward_length", UINT32_MAX, KVRT_OK, ""},
    {"qwen3_5_moe", "qwen35moe.expert_shared_feed_forward_length", 41, KVRT_FORMAT, "shexp.weight: shape"},
    {"mixtral", "llama.expert_count", 0, KVRT_UNSUPPORTED, "has no place in llama"},
    {"gpt_oss_clamped", "gpt-oss.attention.sliding_window", 1, KVRT_UNSUPPORTED, "attention.sliding_window: is 1"},
    {"gpt_oss_clamped", "gpt-oss.expert_used_count", UINT32_MAX, KVRT_FORMAT, "gpt-oss.expert_used_count: not found"},
    {"gemma4", "gemma4.attention.sliding_window", UINT32_MAX, KVRT_FORMAT, "attention.sliding_window: not found"},
    {"gemma4", "gemma4.attention.key_length_swa", 20, KVRT_UNSUPPORTED, "4 heads of 20 over 2"},
    {"gemma4", "gemma4.attention.key_length_swa", 24, KVRT_UNSUPPORTED, "value_length_swa: is 16, need 24"},
    {"gemma4", "gemma4.attention.value_length_swa", 24, KVRT_UNSUPPORTED, "value_length_swa: is 24, need 16"},
    {"gemma4", "gemma4.attention.head_count_kv", 4, KVRT_UNSUPPORTED, "attention.head_count_kv: 2 in layer 2, need 4"},
    {"gemma4", "gemma4.attention.shared_kv_layers", 4, KVRT_FORMAT,
     "attention.shared_kv_layers: is 4, need less than 4"},
    {"gemma4", "gemma4.attention.shared_kv_layers", 3, KVRT_FORMAT, "no layer of the kind of layer 1 has keys"},
    {"gemma4", "gemma4.rope.dimension_count_swa", 8, KVRT_UNSUPPORTED,
     "rope.dimension_count_swa 8, need 1 or more and 16"},
    {"gemma4_e", "gemma4.embedding_length_per_layer_input", 7, KVRT_FORMAT,
     "per_layer_token_embd.weight: shape [96, 48]"},
    {"gemma4_e", "gemma4.embedding_length_per_layer_input", 0, KVRT_UNSUPPORTED, "per_layer_"},
    {"gemma4_e", "gemma4.feed_forward_length", 30, KVRT_UNSUPPORTED, "feed_forward_length: 40 in layer 1, need 30"},
    {"deepseek_v2", "deepseek2.attention.kv_lora_rank", 20, KVRT_UNSUPPORTED, "attention.kv_lora_rank is 20"},
    {"deepseek_v2", "deepseek2.attention.kv_lora_rank", UINT32_MAX, KVRT_FORMAT, "attention.kv_lora_rank: not found"},
    {"deepseek_v2", "deepseek2.attention.key_length_mla", 8, KVRT_UNSUPPORTED, "attention.key_length_mla is 8"},
    {"deepseek_v2", "deepseek2.attention.value_length_mla", 16, KVRT_FORMAT,
     "blk.0.attn_v_b.weight: shape [4, 24, 32], need [4, 16, 32]"},
    {"deepseek_v2_groups", "deepseek2.expert_group_count", 4, KVRT_FORMAT, "expert_group_count is 4"},
    {"deepseek_v2_groups", "deepseek2.expert_group_used_count", 0, KVRT_FORMAT, "expert_group_used_count 0"},
    {"glm4_moe", "glm4moe.expert_gating_func", 1, KVRT_UNSUPPORTED, "expert_gating_func: is 1, need 2 for glm4_moe"},
    {"glm4_moe", "glm4moe.expert_shared_count", 65, KVRT_UNSUPPORTED, "expert_shared_count: is 65"},
    {"glm4_moe", "glm4moe.nextn_predict_layers", 3, KVRT_FORMAT,
     "nextn_predict_layers: is 3, need less than block_count (3)"},
    {"glm4_moe", "glm4moe.nextn_predict_layers", 2, KVRT_OK, ""}, /* a block behind the layers is passed over */
    {"glm4_moe", "glm4moe.leading_dense_block_count", 0, KVRT_OK, ""},
    {"granite4", "granite.attention.head_count_kv", 2, KVRT_UNSUPPORTED,
     "attention.head_count_kv: 1 in layer 1, need 2"},
};

/* The file with a change, as bytes that the caller frees. */
static uint8_t *changed(size_t i, size_t *len)
{
    char path[600];
    (void)snprintf(path, sizeof path, "%s/golden/gguf/models/%s.gguf", KVRT_TEST_DIR, changes[i].model);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    uint8_t *bytes = malloc(1 << 20);
    *len = fread(bytes, 1, 1 << 20, file);
    (void)fclose(file);
    const size_t n = strlen(changes[i].key);
    for (uint8_t *at = bytes; at + n + 20 < bytes + *len; at++) {
        if (at[0] != n || at[1] || memcmp(at + 8, changes[i].key, n) != 0) continue;
        uint8_t *kind = at + 8 + n; /* an array: its kind, that of its elements, their number */
        const size_t size = kind[kind[0] == 9 ? 4 : 0] == 7 ? 1 : 4;
        if (changes[i].value == UINT32_MAX) kind[-1] = '_';
        else memcpy(kind + (kind[0] == 9 ? 16 : 4), &changes[i].value, size);
        return bytes;
    }
    fail_msg("%s: no key %s", path, changes[i].key);
    return NULL;
}

static void what_would_be_wrong_is_refused(void **state)
{
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        char path[] = "/tmp/kvrt_gguf_families_XXXXXX.gguf";
        kvrt_error error = {.size = sizeof error};
        kvrt_options *options;
        kvrt_engine engine;
        size_t len = 0;
        uint8_t *bytes = changed(i, &len);
        const int fd = mkstemps(path, 5);
        assert_true(fd >= 0 && write(fd, bytes, len) == (ssize_t)len && close(fd) == 0);
        assert_int_equal(kvrt_options_create(&options, NULL), KVRT_OK);
        kvrt_options_set_string(options, "model.path", path, -1, NULL);
        kvrt_options_set_text(options, "device.backend", "cpu", NULL);
        const kvrt_status status = kvrt_engine_open(options, NULL, NULL, &engine, &error);
        if (status >= KVRT_OK) kvrt_engine_close(engine, NULL);
        kvrt_options_destroy(options);
        assert_int_equal(unlink(path), 0);
        free(bytes);
        if (status != changes[i].status || (status < KVRT_OK && !strstr(error.message, changes[i].named)))
            fail_msg("%s, %s %u: status %d, '%s', need %d, '%s'", changes[i].model, changes[i].key, changes[i].value,
                     (int)status, error.message, (int)changes[i].status, changes[i].named);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_are_named_and_nothing_in_them_is_unknown),
        cmocka_unit_test(logits_are_those_of_transformers), cmocka_unit_test(greedy_texts_are_those_of_transformers),
        cmocka_unit_test(what_is_missing_is_noticed), cmocka_unit_test(what_would_be_wrong_is_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
