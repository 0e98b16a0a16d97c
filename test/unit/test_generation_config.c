/* test_generation_config.c - generation_config.json below what was set, every value that is refused or ignored, and the option calls it
 * rests on; an engine opened for its tokenizer alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/base/options.h"
#include "runtime/model/generation_config.h"

static kvrt_error error;
static kvrt_options *options;

static int setup(void **state)
{
    error = (kvrt_error){.size = sizeof error};
    return kvrt_options_create(&options, &error);
}

static int teardown(void **state)
{
    kvrt_options_destroy(options);
    return 0;
}

static int32_t parse(const char *text) { return kvi_generation_parse(text, strlen(text), options, NULL, &error); }

static double number(const char *key)
{
    double value = -1;
    int64_t integer = -1;
    if (kvrt_options_get_f64(options, key, &value, NULL) >= KVRT_OK) return value;
    assert_int_equal(kvrt_options_get_i64(options, key, &integer, &error), KVRT_OK);
    return (double)integer;
}

static void values_are_defaults(void **state)
{
    assert_int_equal(
        parse("{\"temperature\": 0.25, \"top_k\": 7, \"top_p\": 1e-1, \"min_p\": 0, \"repetition_penalty\": 1.5}"),
        KVRT_OK);
    assert_true(number("sample.temperature") == 0.25 && number("sample.top_k") == 7 && number("sample.top_p") == 0.1);
    assert_true(number("sample.min_p") == 0 && number("sample.repeat_penalty") == 1.5 &&
                number("sample.repeat_last") == 1048576);
    assert_true(kvrt_options_is_set(options, "sample.min_p") == 1 && kvrt_options_is_set(options, "sample.seed") == 0);
}

static void what_was_set_stands_above(void **state)
{
    assert_int_equal(kvrt_options_set_f64(options, "sample.temperature", 2, &error), KVRT_OK);
    assert_int_equal(kvrt_options_set_i64(options, "sample.repeat_last", 5, &error), KVRT_OK);
    assert_int_equal(parse("{\"do_sample\": false, \"temperature\": 0.25, \"top_k\": 7, \"repetition_penalty\": 2}"),
                     KVRT_OK);
    assert_true(number("sample.temperature") == 2 && number("sample.top_k") == 7);
    assert_true(number("sample.repeat_penalty") == 2 && number("sample.repeat_last") == 5);
    assert_int_equal(kvrt_options_clear(options, "sample.temperature", &error), KVRT_OK);
    assert_int_equal(kvrt_options_is_set(options, "sample.temperature"), 0);
}

static void without_sampling_the_best_is_taken(void **state)
{
    assert_int_equal(parse("{\"temperature\": 0.7, \"top_k\": -3, \"do_sample\": false}"),
                     KVRT_OK); /* do_sample last, and top_k unused */
    assert_true(kvrt_options_is_set(options, "sample.temperature") && number("sample.temperature") == 0);
    assert_int_equal(kvrt_options_is_set(options, "sample.top_k"), 0);
}

static void null_and_the_unknown_change_nothing(void **state)
{
    assert_int_equal(parse("{\"temperature\": null, \"do_sample\": null, \"max_length\": 20, \"x\": {\"top_k\": [1]}, "
                           "\"top_p\": 1.5}"),
                     KVRT_OK);
    for (uint32_t i = 0; i < kvrt_option_count(); i++) {
        kvrt_option_info info = {.size = sizeof info};
        assert_int_equal(kvrt_option_at(i, &info, &error), KVRT_OK);
        assert_int_equal(kvrt_options_is_set(options, info.key), 0);
    }
}

static void ends_are_told(void **state)
{
    static const struct {
        const char *text;
        bool ends;
    } cases[] = {{"{}", false},
                 {"{\"eos_token_id\": null}", false},
                 {"{\"eos_token_id\": 0}", true},
                 {"{\"eos_token_id\": [1, 2]}", true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kvi_generation_notes notes = {.ends = !cases[i].ends};
        assert_int_equal(kvi_generation_parse(cases[i].text, strlen(cases[i].text), options, &notes, &error), KVRT_OK);
        assert_int_equal(notes.ends, cases[i].ends);
    }
}

static void what_is_ignored_is_told(void **state)
{
    static const char text[] =
        "{\"top_p\": 1.5, \"num_beams\": 4, \"typical_p\": 1.0, \"do_sample\": false, \"min_p\": 7}";
    static const char wanted[] = "generation_config.json: num_beams is 4, which kvrt does not do; "
                                 "generation_config.json: top_p is 1.5, which is "
                                 "ignored; generation_config.json: min_p is 7, which is ignored";
    char warning[200] = "";
    kvi_generation_notes notes = {.warning = warning, .cap = sizeof warning};
    assert_int_equal(kvi_generation_parse(text, strlen(text), options, &notes, &error), KVRT_OK);
    assert_string_equal(warning, wanted);
    notes.cap = 20;
    memset(warning, 'x', sizeof warning);
    warning[0] = 0;
    assert_int_equal(kvi_generation_parse(text, strlen(text), options, &notes, &error), KVRT_OK);
    assert_memory_equal(warning, wanted, 19); /* cut, and not beyond its room */
    assert_true(warning[19] == 0 && warning[20] == 'x');
}

static void bad_values_are_named(void **state)
{
    static const char *const cases[][2] = {
        {"{\"temperature\": -1}", "temperature is -1, need a number 0..100"},
        {"{\"temperature\": \"1\"}", "temperature is \"1\", need"},
        {"{\"temperature\": 101}", "temperature is 101"},
        {"{\"top_k\": 1.5}", "top_k is 1.5, need a number 0..1048576"},
        {"{\"top_p\": -0.001}", "top_p is -0.001"},
        {"{\"min_p\": 1.001}", "min_p is 1.001"},
        {"{\"min_p\": [1]}", "min_p is [1]"},
        {"{\"do_sample\": \"yes\"}", "do_sample is \"yes\", need true or false"},
        {"{\"do_sample\": false, \"repetition_penalty\": 0}", "repetition_penalty is 0"},
        {"{\"top_k\": 1", "generation_config.json: "},
        {"[]", "generation_config.json: "},
        {"", "generation_config.json: "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        error.message[0] = 0;
        assert_int_equal(parse(cases[i][0]), KVRT_FORMAT);
        assert_non_null(strstr(error.message, "generation_config.json"));
        assert_non_null(strstr(error.message, cases[i][1]));
    }
    assert_int_equal(kvi_generation_defaults("/nonexistent", options, NULL, &error),
                     KVRT_OK); /* no file says nothing */
    assert_int_equal(kvrt_inspect_defaults(NULL, options, &error), KVRT_ARG);
    assert_int_equal(kvrt_inspect_defaults("/", NULL, &error), KVRT_ARG);
}

static void amounts_as_people_write_them(void **state)
{
    static const struct {
        const char *text;
        int64_t bytes;
    } cases[] = {{"8gb", 8000000000},
                 {"8GB", 8000000000},
                 {"8g", 8589934592},
                 {"8GiB", 8589934592},
                 {"64mib", 67108864},
                 {"1.5k", 1536},
                 {"7", 7}};
    int64_t bytes;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_true(kvi_parse_bytes(cases[i].text, &bytes));
        assert_int_equal(bytes, cases[i].bytes);
    }
    static const char *const wrong[] = {"", "gb", "8gbb", "8 g b", "-1", "8iB", "1e3", "99999999TiB"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) assert_false(kvi_parse_bytes(wrong[i], &bytes));
    assert_int_equal(kvrt_options_set_text(options, "sample.min_p", ".05", &error), KVRT_OK);
    assert_true(number("sample.min_p") == 0.05);
    assert_int_equal(kvrt_options_set_text(options, "sample.min_p", ".", &error), KVRT_ARG);
    assert_non_null(strstr(error.message, "'.'"));
    /* The last part of a key is enough to find it. */
    assert_int_equal(kvrt_options_set_text(options, "top_k", "5", &error), KVRT_ARG);
    assert_non_null(strstr(error.message, "did you mean sample.top_k?"));
    assert_true(number("gen.max_tokens") == -1 && !kvrt_options_is_set(options, "gen.max_tokens"));
    assert_int_equal(kvrt_options_set_text(options, "gen.max_tokens", "-1", &error), KVRT_OK);
    assert_int_equal(kvrt_options_set_text(options, "gen.max_tokens", "-2", &error), KVRT_ARG);
}

static void a_tokenizer_alone(void **state)
{
    kvrt_engine engine = NULL;
    kvrt_session session = NULL;
    kvrt_engine_info info = {.size = sizeof info};
    uint64_t n = 0, len = 0;
    int32_t ids[16];
    char text[16];
    assert_int_equal(kvrt_options_set_text(options, "model.path", KVRT_TEST_DIR "/golden/models/llama_gqa2", &error),
                     KVRT_OK);
    assert_int_equal(kvrt_options_set_text(options, "model.load", "tokenizer", &error), KVRT_OK);
    assert_int_equal(kvrt_engine_open(options, NULL, NULL, &engine, &error), KVRT_OK);
    assert_int_equal(kvrt_tokenize(engine, "hello", -1, 0, ids, 16, &n, &error), KVRT_OK);
    assert_int_equal(kvrt_detokenize(engine, ids, n, 0, text, sizeof text, &len, &error), KVRT_OK);
    assert_int_equal(len, 5);
    assert_memory_equal(text, "hello", 5);
    ids[0] = 96;
    assert_int_equal(kvrt_detokenize(engine, ids, 1, 0, text, sizeof text, &len, &error), KVRT_ARG);
    assert_int_equal(kvrt_session_create(engine, NULL, &session, &error), KVRT_STATE);
    assert_non_null(strstr(error.message, "model.load"));
    assert_int_equal(kvrt_measure_ops(engine, 1, &error), KVRT_STATE);
    assert_int_equal(kvrt_engine_get_info(engine, &info, &error), KVRT_OK);
    assert_true(info.vocab_size == 96 && info.weight_bytes == 0 && info.kv_pool_bytes == 0 && info.backend[0] == 0 &&
                info.device[0] == 0);
    assert_int_equal(kvrt_engine_close(engine, &error), KVRT_OK);
    assert_int_equal(kvrt_options_clear(options, "model.path", &error), KVRT_OK);
    assert_int_equal(kvrt_options_set_text(options, "model.shape", "llama-3.2-1b", &error), KVRT_OK);
    assert_int_equal(kvrt_engine_open(options, NULL, NULL, &engine, &error), KVRT_ARG);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(values_are_defaults),
        TEST(what_was_set_stands_above),
        TEST(without_sampling_the_best_is_taken),
        TEST(ends_are_told),
        TEST(null_and_the_unknown_change_nothing),
        TEST(bad_values_are_named),
        TEST(what_is_ignored_is_told),
        TEST(a_tokenizer_alone),
        TEST(amounts_as_people_write_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
