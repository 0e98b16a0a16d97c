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
    if (kvi_os_map(path, false, &map, &error) != KVRT_OK) fail_msg("%s", error.message);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_byte_level_llama3), cmocka_unit_test(test_byte_level_qwen2),
        cmocka_unit_test(test_byte_level_gpt2),   cmocka_unit_test(test_spm_bpe_normalizer),
        cmocka_unit_test(test_spm_bpe_metaspace), cmocka_unit_test(test_unigram),
        cmocka_unit_test(test_unigram_bytes),     cmocka_unit_test(test_mixed_parts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
