/* test_config.c - config.json: what is refused and how it is named, what is taken from transformers' defaults, both layouts of RoPE, windows
 * by layer. A value that kvrt does not understand must never pass for an absent one. Whether transformers computes the same: golden.odd. */
#include "../../runtime/model/places.h"
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
                   "\"num_hidden_layers\":4,\"num_attention_heads\":4,\"num_key_value_heads\":4,\"head_dim\":16,"
                   "\"vocab_size\":96%s%s}",
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
        {"\"hidden_act\":\"quick_gelu\"", KVRT_UNSUPPORTED, {"hidden_act is 'quick_gelu'", "need silu"}},
        {"\"hidden_act\":\"an_activation_with_a_name_of_forty_bytes\"", KVRT_UNSUPPORTED, {"hidden_act", "need silu"}},
        {"\"hidden_act\":\"silu\\u0000x\"", KVRT_FORMAT, {"config.json", "NUL"}},
        {"\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":0.5}", KVRT_FORMAT, {"factor", "1 or more"}},
        {"\"rope_scaling\":{\"rope_type\":\"proportional\",\"factor\":4}",
         KVRT_UNSUPPORTED,
         {"'proportional'", "yarn"}},
        {"\"rope_scaling\":{\"rope_type\":\"longrope\",\"short_factor\":[1]}", KVRT_FORMAT, {"short_factor", "need"}},
        {"\"rope_scaling\":{\"rope_type\":\"dynamic\"}", KVRT_FORMAT, {"factor", "1 or more"}},
        {"\"rope_scaling\":{\"type\":\"mrope\"}", KVRT_UNSUPPORTED, {"'mrope'", "llama3"}},
        {"\"rope_scaling\":{\"type\":\"a_scaling_with_a_name_of_forty_bytes_too\"}",
         KVRT_UNSUPPORTED,
         {"a_scaling", "llama3"}},
        {"\"rope_scaling\":{\"type\":\"linear\",\"factor\":0.5}", KVRT_FORMAT, {"factor", "1 or more"}},
        {"\"rope_parameters\":{\"full_attention\":{\"rope_theta\":7}}",
         KVRT_UNSUPPORTED,
         {"rope_parameters", "one set"}},
        {"\"rope_theta\":-5", KVRT_FORMAT, {"rope_theta", "1 or more"}},
        {"\"partial_rotary_factor\":0.5", KVRT_UNSUPPORTED, {"partial_rotary_factor", "full rotary"}},
        {"\"sliding_window\":4294967297", KVRT_UNSUPPORTED, {"sliding_window is 4294967297", "need 2.."}},
        {"\"layer_types\":[\"full_attention\"]", KVRT_FORMAT, {"layer_types has 1", "need 4"}},
        {"\"layer_types\":[\"linear_attention\"]", KVRT_UNSUPPORTED, {"linear_attention", "full_attention"}},
        {"\"eos_token_id\":4294967301", KVRT_FORMAT, {"config.json", "token id"}},
        {"\"is_causal\":false", KVRT_UNSUPPORTED, {"is_causal is false", "need true (the default of mistral)"}},
        {"\"is_causal\":null", KVRT_UNSUPPORTED, {"is_causal is null", "need true"}},
        {"\"attention_chunk_size\":8", KVRT_UNSUPPORTED, {"attention_chunk_size is 8", "need null"}},
        {"\"is_encoder_decoder\":true", KVRT_UNSUPPORTED, {"is_encoder_decoder is true", "need false"}},
        {"\"per_layer_config\":{\"0\":{\"head_dim\":8}}", KVRT_UNSUPPORTED, {"per_layer_config is {", "need null"}},
        {"\"transformers_weights\":\"other\"", KVRT_UNSUPPORTED, {"transformers_weights is \"other\"", "need null"}},
        {"\"sliding_window\":0", KVRT_UNSUPPORTED, {"sliding_window is 0", "need 2.."}},
        {"\"sliding_window\":null,\"layer_types\":[\"sliding_attention\",\"sliding_attention\",\"sliding_attention\","
         "\"sliding_attention\"]",
         KVRT_UNSUPPORTED,
         {"sliding_attention", "no window"}},
        {"\"model_type\":\"qwen2\"", KVRT_UNSUPPORTED, {"model_type is 'qwen2'", "need 'mistral'"}},
        {"\"rope_theta\":NaN", KVRT_FORMAT, {"config.json: NaN", "need a number"}},
        {"\"rms_norm_eps\":{\"__float__\":\"NaN\"}", KVRT_FORMAT, {"config.json: NaN", "need a number"}},
        {"\"rope_theta\":0.5", KVRT_FORMAT, {"rope_theta below 1", "1 or more"}},
        {"\"rms_norm_eps\":0", KVRT_FORMAT, {"rms_norm_eps", "0..1"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        kvrt_status status = parse("Mistral", cases[i].more, NULL);
        if (status != cases[i].status) fail_msg("%s: status %d, need %d", cases[i].more, status, cases[i].status);
        for (int k = 0; k < 2; k++)
            if (!strstr(error.message, cases[i].parts[k]))
                fail_msg("%s: '%s' lacks '%s'", cases[i].more, error.message, cases[i].parts[k]);
    }
    assert_int_equal(parse("Llama", "\"sliding_window\":40", NULL), KVRT_UNSUPPORTED);
    assert_non_null(strstr(error.message, "sliding_window is 40, need null or at least 2048"));
    assert_int_equal(parse("Elman", "", NULL), KVRT_UNSUPPORTED);
    assert_non_null(strstr(error.message, "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM"));
}

/* Mixtures and latent attention: sizes, and what transformers would compute otherwise. */
static void experts_and_latents(void **state)
{
    (void)state;
    static const char sizes[] =
        "\"num_key_value_heads\":4,\"kv_lora_rank\":32,\"qk_rope_head_dim\":16,\"n_routed_experts\":8,"
        "\"num_experts_per_tok\":2,\"moe_intermediate_size\":24,\"n_group\":4,\"topk_group\":2";
    static const struct {
        const char *family, *more;
        kvrt_status status;
        const char *part;
    } cases[] = {
        {"Olmoe", "\"clip_qkv\":8.0", KVRT_UNSUPPORTED, "clip_qkv is 8.0, need null"},
        {"Olmoe", "\"num_experts_per_tok\":65", KVRT_UNSUPPORTED, "num_experts_per_tok is 65, need 1..64"},
        {"Qwen3Moe", "\"use_sliding_window\":true", KVRT_UNSUPPORTED, "use_sliding_window is true, need false"},
        {"Qwen3Moe", "\"num_local_experts\":4", KVRT_UNSUPPORTED, "num_experts_per_tok is 8, need 1..4"},
        {"GptOss", "\"swiglu_limit\":0.0", KVRT_FORMAT, "swiglu_limit not found, need a number above 0"},
        {"GptOss", "\"swiglu_alpha\":1.5", KVRT_UNSUPPORTED, "swiglu_alpha is 1.5, need 1.702"},
        {"Glm4Moe", "\"routed_scaling_factor\":0.0", KVRT_FORMAT, "routed_scaling_factor is 0, need a number above 0"},
        {"Glm4Moe", "\"n_group\":3,\"topk_group\":1", KVRT_FORMAT,
         "n_group is 3 and topk_group 1, need equal groups of the 128"},
        {"DeepseekV2", "\"head_dim\":null,\"topk_method\":\"noaux_tc\",\"num_experts_per_tok\":2", KVRT_UNSUPPORTED,
         "topk_method is 'noaux_tc', need greedy"},
        {"DeepseekV2", "\"kv_lora_rank\":20", KVRT_UNSUPPORTED,
         "kv_lora_rank is 20 and qk_rope_head_dim 64, need multiples of 8"},
        {"DeepseekV2", "\"head_dim\":64,\"mlp_bias\":true,\"num_experts_per_tok\":2", KVRT_UNSUPPORTED,
         "mlp_bias is true, need false"},
        {"DeepseekV3", "\"num_key_value_heads\":4", KVRT_UNSUPPORTED,
         "head_dim is 16, need qk_rope_head_dim (64) or none"},
        {"Qwen3_5", "\"hidden_act\":\"gelu\"", KVRT_UNSUPPORTED, "hidden_act is 'gelu', need silu for qwen3_5_text"},
        {"DeepseekV3", "\"num_key_value_heads\":2", KVRT_UNSUPPORTED,
         "num_key_value_heads is 2, need num_attention_heads (4) or null"},
        {"Glm4MoeLite", "\"head_dim\":null,\"mlp_layer_types\":[\"dense\",\"sparse\",\"moe\",\"sparse\"]",
         KVRT_UNSUPPORTED, "mlp_layer_types has 'moe', need dense or sparse"},
        {"Glm4MoeLite", "\"head_dim\":null,\"mlp_layer_types\":[\"dense\"]", KVRT_FORMAT,
         "mlp_layer_types has 1 entries, need 4"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const kvrt_status status = parse(cases[i].family, cases[i].more, NULL);
        if (status != cases[i].status || !strstr(error.message, cases[i].part))
            fail_msg("%s, %s: status %d, '%s' lacks '%s'", cases[i].family, cases[i].more, status, error.message,
                     cases[i].part);
    }
    assert_int_equal(parse("DeepseekV3", sizes, NULL), KVRT_OK);
    assert_int_equal(config.latent.rank, 32);
    assert_int_equal(config.ropes[0].n_dims, 16);
    assert_int_equal(config.experts.n_experts, 8);
    assert_int_equal(config.experts.route.top_groups, 2);
    assert_int_equal(config.layers[2].ffn, KVI_FFN_DENSE); /* first_k_dense_replace is 3 */
    assert_int_equal(config.layers[3].ffn, KVI_FFN_ROUTED);
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
        {"Llama", "\"sliding_window\":2048", "0000", 0},
        {"Mistral", "\"hidden_act\":\"silu\"", "1111", 4096},
        {"Mistral", "\"sliding_window\":40,\"layer_types\":null", "1111", 40},
        {"Mistral",
         "\"sliding_window\":40,\"layer_types\":[\"full_attention\",\"sliding_attention\",\"full_attention\","
         "\"full_attention\"]",
         "0100", 40},
        {"Qwen2", "\"use_sliding_window\":true,\"max_window_layers\":3", "0001", 4096},
        {"Qwen2", "\"use_sliding_window\":true", "0000", 0},
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
        for (uint32_t k = 0; k < 4; k++)
            assert_int_equal(kvi_attention_of(&config, k)->window, cases[i].windowed[k] == '1' ? cases[i].window : 0);
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
    kvi_rope_frequencies(&config.ropes[0], plain);
    assert_int_equal(parse("Llama", "\"head_dim\":64,\"rope_theta\":500000,\"rope_scaling\":{" LLAMA3 "}", NULL),
                     KVRT_OK);
    kvi_rope_frequencies(&config.ropes[0], old_layout);
    assert_int_equal(parse("Llama", "\"head_dim\":64,\"rope_parameters\":{\"rope_theta\":500000," LLAMA3 "}", NULL),
                     KVRT_OK);
    kvi_rope_frequencies(&config.ropes[0], new_layout);
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
    kvi_rope_frequencies(&config.ropes[0], new_layout);
    for (int i = 0; i < 32; i++) assert_true(new_layout[i] == plain[i] / 4);
}

/* What is absent has transformers' value for the family. */
static void defaults_by_family(void **state)
{
    (void)state;
    static const struct {
        const char *type;
        uint32_t ffn, n_kv_heads, head_dim, ctx, n_eos;
        int32_t bos;
    } cases[] = {{"llama", 11008, 32, 128, 2048, 1, 1},
                 {"mistral", 14336, 8, 128, 131072, 1, 1},
                 {"qwen2", 22016, 32, 128, 32768, 0, -1},
                 {"qwen3", 22016, 32, 128, 32768, 0, -1}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[64];
        (void)snprintf(text, sizeof text, "{\"model_type\":\"%s\",\"hidden_size\":%s}", cases[i].type,
                       strcmp(cases[i].type, "qwen3") == 0 ? "1024" : "4096");
        if (kvi_config_parse(text, strlen(text), NULL, 0, &config, &error) < KVRT_OK) fail_msg("%s", error.message);
        assert_string_equal(config.family, cases[i].type);
        assert_int_equal(config.ffn_size, cases[i].ffn);
        assert_int_equal(config.attention[0].n_kv_heads, cases[i].n_kv_heads);
        assert_int_equal(config.attention[0].head_dim, cases[i].head_dim);
        assert_int_equal(config.ctx_model, cases[i].ctx);
        assert_int_equal(config.n_eos, cases[i].n_eos);
        assert_int_equal(config.bos_id, cases[i].bos);
        assert_true(config.rms_eps == 1e-6 && config.ropes[0].theta == 10000.0 && !config.tied_embeddings);
        assert_string_equal(config.warning, "");
    }
}

/* Of a key given twice the last one counts, and nothing of the first is left. */
static void the_last_of_two_keys_counts(void **state)
{
    (void)state;
    assert_int_equal(parse("Llama",
                           "\"rope_scaling\":{\"type\":\"linear\",\"factor\":4,\"rope_theta\":7},\"rope_scaling\":null,"
                           "\"eos_token_id\":[3,4],\"eos_token_id\":5,\"hidden_size\":1,\"hidden_size\":64,"
                           "\"is_causal\":false,\"is_causal\":true,\"layer_types\":[\"x\"],\"layer_types\":null",
                           NULL),
                     KVRT_OK);
    assert_int_equal(config.ropes[0].scaling, KVI_ROPE_NONE);
    assert_true(config.ropes[0].theta == 10000.0);
    assert_int_equal(config.n_eos, 1);
    assert_int_equal(config.eos_ids[0], 5);
    assert_int_equal(config.hidden_size, 64);
    assert_int_equal(parse("Llama", "\"is_causal\":true,\"is_causal\":false", NULL), KVRT_UNSUPPORTED);
}

static void unknown_keys_are_warned_of(void **state)
{
    (void)state;
    assert_int_equal(
        parse("Qwen2", "\"mlp_bias\":true,\"attention_bias\":true,\"use_cache\":false,\"head_dim\":16", NULL), KVRT_OK);
    assert_string_equal(config.warning, "config.json: unknown to transformers and ignored: mlp_bias, attention_bias");
    assert_false(config.o_bias);
    assert_int_equal(parse("Llama", "\"rope_parameters\":{\"mrope_sections\":[1,2]}", NULL), KVRT_OK);
    assert_string_equal(config.warning,
                        "config.json: unknown to transformers and ignored: rope_parameters.mrope_sections");
    /* More than the text holds: cut between keys, and said. */
    char more[1500] = "\"a_key_of_thirty_characters_0000\":1";
    for (int i = 1; i < 40; i++)
        (void)snprintf(more + strlen(more), sizeof more - strlen(more), ",\"a_key_of_thirty_characters_%04d\":1", i);
    assert_int_equal(parse("Llama", more, NULL), KVRT_OK);
    assert_string_equal(config.warning + strlen(config.warning) - 9, "0005, ...");
}

/* Python reads and writes them, so they are in people's files. */
static void numbers_beyond_json(void **state)
{
    (void)state;
    assert_int_equal(parse("Llama", "\"initializer_range\":NaN,\"temperature\":-Infinity,\"top_p\":1e999", NULL),
                     KVRT_OK);
    assert_int_equal(parse("Llama", "\"rope_theta\":{\"__float__\":\"Infinity\"}", NULL), KVRT_OK);
    assert_true(isinf(config.ropes[0].theta));
    assert_int_equal(parse("Llama", "\"rope_theta\":{\"__float__\":\"many\"}", NULL), KVRT_FORMAT);
    assert_int_equal(parse("Llama", "\"hidden_size\":Infinity", NULL), KVRT_FORMAT);
    assert_int_equal(parse("Llama", "\"hidden_size\":Infinite", NULL), KVRT_FORMAT);
    assert_int_equal(parse("Llama", "\"rope_theta\":-NaN", NULL), KVRT_FORMAT);
    static const char marked[] = "\xef\xbb\xbf{}";
    assert_int_equal(kvi_config_parse(marked, sizeof marked - 1, NULL, 0, &config, &error), KVRT_FORMAT);
    assert_non_null(strstr(error.message, "config.json: a byte order mark, need UTF-8 without one, at byte 0"));
}

static void family_by_architecture_or_type(void **state)
{
    (void)state;
    static const struct {
        const char *text, *family; /* NULL: refused */
    } cases[] = {{"\"architectures\":[\"LlamaModel\"]", "llama"},
                 {"\"architectures\":[\"LlamaModel\"],\"model_type\":\"llama\"", "llama"},
                 {"\"architectures\":null,\"model_type\":\"qwen2\"", "qwen2"},
                 {"\"architectures\":[],\"model_type\":\"mistral\"", "mistral"},
                 {"\"architectures\":[\"Qwen3ForCausalLM\",\"Other\"]", "qwen3"},
                 {"\"architectures\":[\"LlamaForSequenceClassification\"],\"model_type\":\"llama\"", NULL},
                 {"\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"other\"", NULL},
                 {"\"model_type\":\"other\"", NULL},
                 {"\"vocab_size\":3", NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[200];
        (void)snprintf(text, sizeof text, "{%s}", cases[i].text);
        kvrt_status status = kvi_config_parse(text, strlen(text), NULL, 0, &config, &error);
        if ((status == KVRT_OK) != (cases[i].family != NULL)) fail_msg("%s: %d", text, status);
        if (cases[i].family) assert_string_equal(config.family, cases[i].family);
    }
}

/* For inspect: what the file says, in a family of which nothing is known, also inside text_config. */
static void an_unknown_family_shows_its_sizes(void **state)
{
    (void)state;
    static const char text[] =
        "{\"architectures\":[\"ElmanForCausalLM\"],\"text_config\":{\"hidden_size\":640,"
        "\"num_hidden_layers\":18,\"num_attention_heads\":10,\"vocab_size\":5000,\"rope_theta\":7000}}";
    assert_int_equal(kvi_config_parse(text, sizeof text - 1, NULL, 0, &config, &error), KVRT_UNSUPPORTED);
    assert_non_null(strstr(error.message, "ElmanForCausalLM"));
    assert_int_equal(config.hidden_size, 640);
    assert_int_equal(config.n_layers, 18);
    assert_int_equal(config.attention[0].n_kv_heads, 10);
    assert_int_equal(config.attention[0].head_dim, 64);
    assert_int_equal(config.vocab_size, 5000);
    assert_int_equal(config.ctx_model, 0);
    assert_true(config.ropes[0].theta == 7000.0);
}

static void shapes_have_their_size(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        double billions;
    } known[] = {{"llama-3.2-1b", 1.2358},        {"llama-3.1-8b", 8.0303},
                 {"llama-2-7b", 6.7384},          {"mistral-7b", 7.2480},
                 {"qwen2.5-0.5b", 0.4940},        {"qwen2.5-7b", 7.6156},
                 {"qwen3-0.6b", 0.5961},          {"qwen3-8b", 8.1907},
                 {"qwen3-30b-a3b", 30.5321},      {"mixtral-8x7b", 46.7028},
                 {"olmoe-7b-a1b", 6.9192},        {"gpt-oss-20b", 20.9148},
                 {"deepseek-v2-lite", 15.7065},   {"llama-3.2-1b:16", 1.2358},
                 {"smollm2-135m", 0.1345},        {"smollm3-3b", 3.0751},
                 {"gemma-3-27b", 27.0094},        {"qwen3.8-27b", 26.8955},
                 {"qwen3.6-35b-a3b", 34.6606},    {"gemma-2-9b", 9.2417},
                 {"gemma-4-12b", 11.9074},        {"gemma-4-26b-a4b", 25.2331},
                 {"qwen3-next-80b-a3b", 79.6744}, {"ministral-3-3b", 3.4290},
                 {"ministral-3-8b", 8.4896},      {"olmo-2-7b", 7.2986},
                 {"olmo-3-7b", 7.2980},           {"phi-4", 14.6595},
                 {"granite-3.3-8b", 8.1709},      {"glm-4.5-air", 106.8523},
                 {"glm-4.7-flash", 29.9434},      {"gemma-3-1b", 0.9999},
                 {"gemma-3-4b", 3.8803},          {"gemma-4-e2b", 4.6286},
                 {"gemma-4-e4b", 7.4630},         {"gemma-4-31b", 30.6973}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        assert_int_equal(kvi_shape_config(known[i].name, &config, NULL), KVRT_OK);
        double found = (double)kvi_config_params(&config) / 1e9;
        if (!(fabs(found - known[i].billions) < 1e-3))
            fail_msg("%s: %.4f billion parameters, need %.4f", known[i].name, found, known[i].billions);
    }
    error = (kvrt_error){.size = sizeof error};
    assert_int_equal(kvi_shape_config("qwen3-30b-a3b:8", &config, NULL), KVRT_OK);
    assert_int_equal(config.n_layers, 8);
    assert_int_equal(config.experts.n_experts, 128);
    assert_int_equal(config.layers[7].ffn, KVI_FFN_ROUTED);
    static const char *const wrong[] = {
        "llama-9", "llama-3.2-1", "llama-3.2-1b:", "llama-3.2-1b:0", "llama-3.2-1b:17", "llama-3.2-1b:2x"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_int_equal(kvi_shape_config(wrong[i], &config, &error), KVRT_ARG);
        assert_non_null(strstr(error.message, i < 2 ? "llama-3.2-1b" : "1 to 16 layers"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(refusals_name_key_and_need),
                                       cmocka_unit_test(experts_and_latents),
                                       cmocka_unit_test(end_tokens),
                                       cmocka_unit_test(windows_by_family),
                                       cmocka_unit_test(rope_layouts),
                                       cmocka_unit_test(defaults_by_family),
                                       cmocka_unit_test(the_last_of_two_keys_counts),
                                       cmocka_unit_test(unknown_keys_are_warned_of),
                                       cmocka_unit_test(numbers_beyond_json),
                                       cmocka_unit_test(family_by_architecture_or_type),
                                       cmocka_unit_test(an_unknown_family_shows_its_sizes),
                                       cmocka_unit_test(shapes_have_their_size)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
