/* test_config.c - config.json: what is refused and how it is named, both layouts of RoPE, windows by layer. A value that kvrt does not
 * understand must never pass for an absent one. */
#include "../../runtime/model/rope.h"
#include "../../runtime/model/shapes.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static kvi_model_config config;
static kvrt_error error;

/* A small model of `family` with more keys after the needed ones; of a key given twice the last one counts. */
static kvrt_status parse(const char *family, const char *more, const char *generation)
{
    char text[2048];
    (void)snprintf(text, sizeof text,
                   "{\"architectures\":[\"%sForCausalLM\"],\"hidden_size\":64,\"intermediate_size\":96,"
                   "\"num_hidden_layers\":4,\"num_attention_heads\":4,\"vocab_size\":96%s%s}",
                   family, *more ? "," : "", more);
    error = (kvrt_error){.size = sizeof error};
    return kvi_config_parse(text, strlen(text), generation, generation ? strlen(generation) : 0, &config, &error);
}

static void refusals_name_key_and_need(void **state)
{
    (void)state;
    static const struct {
        const char *more;
        kvrt_status status;
        const char *parts[2];
    } cases[] = {
        {"\"hidden_size\":null", KVRT_FORMAT, {"hidden_size not found", "need 1.."}},
        {"\"num_key_value_heads\":-3", KVRT_FORMAT, {"num_key_value_heads is -3", "need 1.."}},
        {"\"num_key_value_heads\":3", KVRT_FORMAT, {"num_attention_heads is 4", "multiple"}},
        {"\"head_dim\":20", KVRT_UNSUPPORTED, {"head_dim is 20", "multiple of 8"}},
        {"\"quantization_config\":{\"quant_method\":\"gptq\"}",
         KVRT_UNSUPPORTED,
         {"quantization_config (gptq)", "F32"}},
        {"\"quantization_config\":{\"quant_method\":\"\"}", KVRT_UNSUPPORTED, {"quantization_config", "F32"}},
        {"\"quantization_config\":{\"quant_method\":\"a_method_with_a_name_of_more_than_forty_eight_bytes\"}",
         KVRT_UNSUPPORTED,
         {"quantization_config (a_method", "F32"}},
        {"\"hidden_act\":\"gelu\"", KVRT_UNSUPPORTED, {"hidden_act is 'gelu'", "need silu"}},
        {"\"hidden_act\":\"an_activation_with_a_name_of_forty_bytes\"", KVRT_UNSUPPORTED, {"hidden_act", "need silu"}},
        {"\"hidden_act\":\"silu\\u0000x\"", KVRT_FORMAT, {"config.json", "NUL"}},
        {"\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4}", KVRT_UNSUPPORTED, {"'yarn'", "llama3"}},
        {"\"rope_scaling\":{\"type\":\"mrope\"}", KVRT_UNSUPPORTED, {"'mrope'", "llama3"}},
        {"\"rope_scaling\":{\"type\":\"a_scaling_with_a_name_of_forty_bytes_too\"}",
         KVRT_UNSUPPORTED,
         {"a_scaling", "llama3"}},
        {"\"rope_scaling\":{\"type\":\"linear\",\"factor\":0.5}", KVRT_FORMAT, {"factor", "1 or more"}},
        {"\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4}",
         KVRT_FORMAT,
         {"original_max_position_embeddings", "need 1.."}},
        {"\"rope_parameters\":{\"full_attention\":{\"rope_theta\":7}}",
         KVRT_UNSUPPORTED,
         {"rope_parameters", "one set"}},
        {"\"rope_theta\":-5", KVRT_FORMAT, {"rope_theta", "above 0"}},
        {"\"partial_rotary_factor\":0.5", KVRT_UNSUPPORTED, {"partial_rotary_factor", "full rotary"}},
        {"\"sliding_window\":4294967297", KVRT_UNSUPPORTED, {"sliding_window is 4294967297", "need 0.."}},
        {"\"layer_types\":[\"full_attention\"]", KVRT_FORMAT, {"layer_types has 1", "need 4"}},
        {"\"layer_types\":[\"linear_attention\"]", KVRT_UNSUPPORTED, {"linear_attention", "full_attention"}},
        {"\"eos_token_id\":4294967301", KVRT_FORMAT, {"config.json", "token id"}},
        {"\"mlp_bias\":true", KVRT_UNSUPPORTED, {"mlp_bias", "need false"}},
        {"\"rms_norm_eps\":0", KVRT_FORMAT, {"rms_norm_eps", "0..1"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        kvrt_status status = parse("Mistral", cases[i].more, NULL);
        if (status != cases[i].status) fail_msg("%s: status %d, need %d", cases[i].more, status, cases[i].status);
        for (int k = 0; k < 2; k++)
            if (!strstr(error.message, cases[i].parts[k]))
                fail_msg("%s: '%s' lacks '%s'", cases[i].more, error.message, cases[i].parts[k]);
    }
    assert_int_equal(parse("Elman", "", NULL), KVRT_UNSUPPORTED);
    assert_non_null(strstr(error.message, "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM"));
}

static void end_tokens(void **state)
{
    (void)state;
    assert_int_equal(parse("Llama", "\"eos_token_id\":1,\"bos_token_id\":0", "{\"eos_token_id\":[7,8,9]}"), KVRT_OK);
    assert_int_equal(config.n_eos, 3);
    assert_int_equal(config.eos_ids[2], 9);
    assert_int_equal(config.bos_id, 0);
    assert_int_equal(parse("Llama", "\"eos_token_id\":null,\"bos_token_id\":null", "{}"), KVRT_OK);
    assert_int_equal(config.n_eos, 0);
    assert_int_equal(config.bos_id, -1);
    assert_int_equal(parse("Llama", "", "{\"eos_token_id\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}"), KVRT_FORMAT);
    assert_non_null(strstr(error.message, "generation_config.json"));
}

static void windows_by_family(void **state)
{
    (void)state;
    static const struct {
        const char *family, *more;
        const char *windowed;
        uint32_t window;
    } cases[] = {
        {"Llama", "\"sliding_window\":40", "0000", 0},
        {"Mistral", "\"sliding_window\":40", "1111", 40},
        {"Mistral", "\"sliding_window\":null", "0000", 0},
        {"Qwen2", "\"sliding_window\":40,\"max_window_layers\":1", "0000", 0},
        {"Qwen2", "\"sliding_window\":40,\"use_sliding_window\":true,\"max_window_layers\":1", "0111", 40},
        {"Qwen3",
         "\"sliding_window\":40,\"use_sliding_window\":true,\"layer_types\":[\"sliding_attention\",\"full_attention\","
         "\"full_attention\",\"sliding_attention\"]",
         "1001", 40},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (parse(cases[i].family, cases[i].more, NULL) != KVRT_OK) fail_msg("case %zu: %s", i, error.message);
        assert_int_equal(config.sliding_window, cases[i].window);
        for (int k = 0; k < 4; k++) assert_int_equal(config.windowed[k], cases[i].windowed[k] - '0');
    }
}

/* Both layouts say the same; the frequencies follow Meta's rule: high ones stay, low ones are divided, none leaves that range. */
static void rope_layouts(void **state)
{
    (void)state;
#define LLAMA3                                                                                                         \
    "\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,\"original_max_position_"      \
    "embeddings\":64"
    double plain[32], old_layout[32], new_layout[32];
    assert_int_equal(parse("Llama", "\"head_dim\":64,\"rope_theta\":500000", NULL), KVRT_OK);
    kvi_rope_frequencies(&config, plain);
    assert_int_equal(parse("Llama", "\"head_dim\":64,\"rope_theta\":500000,\"rope_scaling\":{" LLAMA3 "}", NULL),
                     KVRT_OK);
    kvi_rope_frequencies(&config, old_layout);
    assert_int_equal(parse("Llama", "\"head_dim\":64,\"rope_parameters\":{\"rope_theta\":500000," LLAMA3 "}", NULL),
                     KVRT_OK);
    kvi_rope_frequencies(&config, new_layout);
    for (int i = 0; i < 32; i++) {
        assert_true(old_layout[i] == new_layout[i]);
        if (!(old_layout[i] <= plain[i] && old_layout[i] >= plain[i] / 8)) fail_msg("frequency %d out of range", i);
    }
    assert_true(old_layout[0] == plain[0] && plain[0] == 1);
    assert_true(old_layout[31] == plain[31] / 8);
    assert_int_equal(parse("Llama",
                           "\"head_dim\":64,\"rope_theta\":500000,\"rope_scaling\":{\"type\":\"linear\",\"factor\":4}",
                           NULL),
                     KVRT_OK);
    kvi_rope_frequencies(&config, new_layout);
    for (int i = 0; i < 32; i++) assert_true(new_layout[i] == plain[i] / 4);
}

static void shapes_have_their_size(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        double billions;
    } known[] = {{"llama-3.2-1b", 1.2358}, {"llama-3.1-8b", 8.0303}, {"llama-2-7b", 6.7384}, {"mistral-7b", 7.2480},
                 {"qwen2.5-0.5b", 0.4940}, {"qwen2.5-7b", 7.6156},   {"qwen3-0.6b", 0.5961}, {"qwen3-8b", 8.1907}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        assert_int_equal(kvi_shape_config(known[i].name, &config, NULL), KVRT_OK);
        double found = (double)kvi_config_params(&config) / 1e9;
        if (!(fabs(found - known[i].billions) < 1e-3))
            fail_msg("%s: %.4f billion parameters, need %.4f", known[i].name, found, known[i].billions);
    }
    error = (kvrt_error){.size = sizeof error};
    assert_int_equal(kvi_shape_config("llama-9", &config, &error), KVRT_ARG);
    assert_non_null(strstr(error.message, "llama-3.2-1b"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(refusals_name_key_and_need), cmocka_unit_test(end_tokens),
                                       cmocka_unit_test(windows_by_family), cmocka_unit_test(rope_layouts),
                                       cmocka_unit_test(shapes_have_their_size)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
