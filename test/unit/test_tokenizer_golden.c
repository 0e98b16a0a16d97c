/* test_tokenizer_golden.c - our own small tokenizers against the reference library's ids and texts
 * (test/golden/tokenizers). */
#include "tokenizer_cases.h"

#define GOLDEN KVRT_TEST_DIR "/golden/tokenizers/"

static kvi_tokenizer *load_golden(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, GOLDEN "%s.json", name);
    kvi_map map = {0};
    kvi_tokenizer *tok = NULL;
    kvrt_error error = {.size = sizeof error};
    if (kvi_os_map(path, NULL, &map, &error) != KVRT_OK) fail_msg("%s", error.message);
    if (kvi_tokenizer_load_json((const char *)map.data, (size_t)map.len, NULL, 0, name, &tok, &error) != KVRT_OK)
        fail_msg("%s", error.message);
    kvi_os_unmap(&map);
    return tok;
}

static void run_golden(const char *name)
{
    char path[512];
    kvi_tokenizer *tok = load_golden(name);
    snprintf(path, sizeof path, GOLDEN "%s.cases.json", name);
    case_run_file(tok, path, &(case_rules){.tidy = false});
    kvi_tokenizer_free(tok);
    uint64_t blocks;
    kvi_mem_stats(NULL, &blocks, NULL);
    assert_int_equal(blocks, 0);
}

static void test_byte_level_llama3(void **state)
{
    (void)state;
    run_golden("byte_level_llama3");
}
static void test_byte_level_qwen2(void **state)
{
    (void)state;
    run_golden("byte_level_qwen2");
}
static void test_byte_level_qwen35(void **state)
{
    (void)state;
    run_golden("byte_level_qwen35");
}
static void test_byte_level_o200k(void **state)
{
    (void)state;
    run_golden("byte_level_o200k");
}
static void test_byte_level_tekken(void **state)
{
    (void)state;
    run_golden("byte_level_tekken");
}
static void test_byte_level_deepseek3(void **state)
{
    (void)state;
    run_golden("byte_level_deepseek3");
}
static void test_byte_level_deepseek_llm(void **state)
{
    (void)state;
    run_golden("byte_level_deepseek_llm");
}
static void test_byte_level_deepseek_coder(void **state)
{
    (void)state;
    run_golden("byte_level_deepseek_coder");
}
static void test_gemma_bpe(void **state)
{
    (void)state;
    run_golden("gemma_bpe");
}
static void test_byte_level_gpt2(void **state)
{
    (void)state;
    run_golden("byte_level_gpt2");
}
static void test_spm_bpe_normalizer(void **state)
{
    (void)state;
    run_golden("spm_bpe_normalizer");
}
static void test_spm_bpe_metaspace(void **state)
{
    (void)state;
    run_golden("spm_bpe_metaspace");
}
static void test_unigram(void **state)
{
    (void)state;
    run_golden("unigram");
}
static void test_unigram_bytes(void **state)
{
    (void)state;
    run_golden("unigram_bytes");
}
static void test_mixed_parts(void **state)
{
    (void)state;
    run_golden("mixed_parts");
}

/* One small tokenizer for each part and setting that the others leave out. */
static void test_small(void **state)
{
    (void)state;
    kvi_map map = {0};
    kvi_json r, cases = {0};
    kvi_buf name = {0}, json = {0};
    int n = 0;
    case_map(GOLDEN "small.cases.json", &map, &r);
    assert_true(case_find(&r, "tokenizers"));
    kvi_json_expect(&r, KVI_JSON_ARRAY);
    for (; kvi_json_next_item(&r); n++) {
        kvi_json_expect(&r, KVI_JSON_OBJECT);
        while (kvi_json_next_key(&r)) {
            size_t start = r.pos;
            bool whole = kvi_json_key_is(&r, "tokenizer");
            if (kvi_json_key_is(&r, "name")) {
                case_read_text(&r, &name);
                continue;
            }
            if (kvi_json_key_is(&r, "cases")) cases = r;
            kvi_json_skip(&r);
            if (!whole) continue;
            kvi_buf_clear(&json);
            kvi_buf_append(&json, r.text + start, r.pos - start);
        }
        kvi_tokenizer *tok = NULL;
        kvrt_error error = {.size = sizeof error};
        if (kvi_tokenizer_load_json(json.data, json.len, NULL, 0, name.data, &tok, &error) != KVRT_OK)
            fail_msg("%s", error.message);
        case_totals totals = {0};
        kvi_json_expect(&cases, KVI_JSON_ARRAY);
        while (kvi_json_next_item(&cases)) case_run_one(tok, &cases, NULL, &(case_rules){0}, &totals);
        if (totals.n_failed) fail_msg("%s: %d differences", name.data, totals.n_failed);
        assert_true(totals.n_cases >= 15);
        kvi_tokenizer_free(tok);
    }
    assert_null(r.error);
    assert_true(n >= 20);
    kvi_os_unmap(&map);
    kvi_buf_free(&name);
    kvi_buf_free(&json);
}

/* The class LlamaTokenizer takes only the model from tokenizer.json; ids are transformers 5.24's. Without a word about
 * add_prefix_space the file counts as it stands. */
static void test_llama_class(void **state)
{
    (void)state;
    static const struct {
        const char *file, *config, *text;
        int n;
        int32_t ids[12];
    } rows[] = {{"spm_bpe_metaspace",
                 "\"add_prefix_space\":false",
                 "hello world",
                 11,
                 {294, 291, 298, 298, 301, 345, 309, 301, 304, 298, 290}},
                {"spm_bpe_metaspace", "\"add_prefix_space\":false,\"legacy\":true", "a<s>b", 3, {287, 1, 288}},
                {"spm_bpe_metaspace", "\"legacy\":true,\"add_prefix_space\":true", "a<s>b", 5, {345, 287, 1, 345, 288}},
                {"spm_bpe_metaspace", "\"legacy\":false,\"add_prefix_space\":true", "a<s>b", 4, {345, 287, 1, 288}},
                {"spm_bpe_normalizer",
                 "\"legacy\":null,\"add_prefix_space\":true",
                 " hello",
                 6,
                 {343, 294, 291, 298, 298, 301}},
                {"spm_bpe_normalizer", "\"add_prefix_space\":null", "  two", 6, {343, 343, 343, 306, 309, 301}},
                {"spm_bpe_normalizer", "\"add_prefix_space\":false", "hello", 5, {294, 291, 298, 298, 301}}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char path[512], config[200];
        kvi_map map = {0};
        kvi_tokenizer *tok = NULL;
        kvi_ids ids = {0};
        kvi_buf back = {0};
        int n = snprintf(config, sizeof config, "{%s,\"tokenizer_class\":\"LlamaTokenizer%s\"}", rows[i].config,
                         i & 1 ? "Fast" : "");
        (void)snprintf(path, sizeof path, GOLDEN "%s.json", rows[i].file);
        assert_int_equal(kvi_os_map(path, NULL, &map, NULL), KVRT_OK);
        assert_int_equal(
            kvi_tokenizer_load_json((const char *)map.data, (size_t)map.len, config, (size_t)n, "t", &tok, NULL),
            KVRT_OK);
        assert_int_equal(
            kvi_tokenizer_encode(tok, rows[i].text, strlen(rows[i].text), KVRT_TOKENIZE_PARSE_SPECIAL, &ids, NULL),
            KVRT_OK);
        if ((int)ids.len != rows[i].n || memcmp(ids.data, rows[i].ids, ids.len * sizeof *ids.data) != 0) {
            case_print_ids("got", &ids);
            fail_msg("\"%s\" with %s", rows[i].text, config);
        }
        kvi_tokenizer_decode(tok, ids.data, ids.len, KVRT_DETOKENIZE_KEEP_SPECIAL, &back, NULL);
        if (rows[i].text[0] != ' ' && !strchr(rows[i].text, '<')) assert_string_equal(back.data, rows[i].text);
        kvi_buf_free(&back);
        kvi_ids_free(&ids);
        kvi_tokenizer_free(tok);
        kvi_os_unmap(&map);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_byte_level_llama3),
                                       cmocka_unit_test(test_byte_level_qwen2),
                                       cmocka_unit_test(test_byte_level_qwen35),
                                       cmocka_unit_test(test_byte_level_o200k),
                                       cmocka_unit_test(test_byte_level_tekken),
                                       cmocka_unit_test(test_byte_level_deepseek3),
                                       cmocka_unit_test(test_byte_level_deepseek_llm),
                                       cmocka_unit_test(test_byte_level_deepseek_coder),
                                       cmocka_unit_test(test_gemma_bpe),
                                       cmocka_unit_test(test_byte_level_gpt2),
                                       cmocka_unit_test(test_spm_bpe_normalizer),
                                       cmocka_unit_test(test_spm_bpe_metaspace),
                                       cmocka_unit_test(test_unigram),
                                       cmocka_unit_test(test_unigram_bytes),
                                       cmocka_unit_test(test_mixed_parts),
                                       cmocka_unit_test(test_small),
                                       cmocka_unit_test(test_llama_class)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
