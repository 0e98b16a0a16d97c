/* test_tokenizer_tekken.c - Mistral's tekken.json: the ids of tiktoken (make_tekken.py), special tokens, and files that are wrong. */
#include "tokenizer_cases.h"

#include <stdlib.h>

#define GOLDEN KVRT_TEST_DIR "/golden/tokenizers/"

static void ids_are_those_of_tiktoken(void **state)
{
    (void)state;
    kvi_map map = {0};
    kvi_tokenizer *tok = NULL;
    kvrt_error error = {.size = sizeof error};
    assert_int_equal(kvi_os_map(GOLDEN "tekken.json", NULL, &map, &error), KVRT_OK);
    if (kvi_tokenizer_load_tekken((const char *)map.data, (size_t)map.len, "tekken.json", &tok, &error) != KVRT_OK)
        fail_msg("%s", error.message);
    kvi_os_unmap(&map);
    /* The cases are run as text that may spell special tokens, which tiktoken was told not to find. */
    static const char *const special[] = {"<s>", "</s>", "<unk>", NULL};
    case_run_file(tok, GOLDEN "tekken.cases.json", &(case_rules){.without = special});
    assert_int_equal(kvi_tokenizer_vocab_size(tok), 440);
    /* Names where the file has none, places that are free, and BOS. */
    assert_int_equal(kvi_tokenizer_token_to_id(tok, "[INST]", 6), 3);
    assert_int_equal(kvi_tokenizer_token_to_id(tok, "[TOOL_CONTENT]", 14), 19);
    assert_int_equal(kvi_tokenizer_token_to_id(tok, "<SPECIAL_23>", 12), 23);
    assert_true(kvi_tokenizer_is_special(tok, 23) && !kvi_tokenizer_is_special(tok, 24));
    assert_int_equal(kvi_tokenizer_bos_id(tok), 1);
    assert_int_equal(kvi_tokenizer_eos_id(tok), 2);
    /* A special token is one where the caller asks for it, and text elsewhere. */
    kvi_ids ids = {0};
    assert_int_equal(kvi_tokenizer_encode(tok, "[INST]a", 7, KVRT_TOKENIZE_PARSE_SPECIAL, &ids, NULL), KVRT_OK);
    assert_true(ids.len == 2 && ids.data[0] == 3);
    ids.len = 0;
    assert_int_equal(kvi_tokenizer_encode(tok, "[INST]a", 7, 0, &ids, NULL), KVRT_OK);
    assert_true(ids.len > 2 && ids.data[0] >= 24);
    kvi_ids_free(&ids);
    kvi_tokenizer_free(tok);
}

#define CONFIG(N, SPECIAL)                                                                                             \
    "{\"config\":{\"pattern\":\"\\\\S+|\\\\s+\",\"default_vocab_size\":" N ",\"default_num_special_tokens\":" SPECIAL  \
    "}"
#define TOKEN(RANK, BYTES) "{\"rank\":" RANK ",\"token_bytes\":\"" BYTES "\",\"token_str\":null}"
static const struct {
    const char *json, *named; /* NULL: right */
} files[] = {
    {CONFIG("3", "1") ",\"vocab\":[" TOKEN("0", "YQ==") "," TOKEN("1", "Yg==") "]}", NULL},
    {CONFIG("3", "1") ",\"special_tokens\":[{\"rank\":0,\"token_str\":\"<x>\",\"is_control\":false}],\"vocab\":[" TOKEN(
         "0", "YQ==") "," TOKEN("1", "Yg==") "]}",
     NULL},
    {CONFIG("3", "1") ",\"special_tokens\":null,\"vocab\":[" TOKEN("0", "YQ==") "," TOKEN("1", "Yg==") "]}", NULL},
    {"{}", "need config (pattern"},
    {"[", "tekken.json"},
    {CONFIG("3", "1") "}", "and vocab"},
    {CONFIG("1", "1") ",\"vocab\":[]}", "default_num_special_tokens below it"},
    {CONFIG("99999999", "1") ",\"vocab\":[]}", "default_vocab_size up to"},
    {CONFIG("4", "1") ",\"vocab\":[" TOKEN("0", "YQ==") "," TOKEN("1", "Yg==") "]}", "vocab of 2 tokens, need 3"},
    {CONFIG("3", "1") ",\"vocab\":[" TOKEN("0", "YQ==") "," TOKEN("2", "Yg==") "]}", "token 1: need them in order"},
    {CONFIG("3", "1") ",\"vocab\":[" TOKEN("0", "Y*==") "," TOKEN("1", "Yg==") "]}", "token 0: need them in order"},
    {CONFIG("3", "1") ",\"vocab\":[" TOKEN("0", "") "," TOKEN("1", "Yg==") "]}", "token 0"},
    {CONFIG("3", "1") ",\"vocab\":[" TOKEN("0", "YQ==") ",7]}", "tekken.json"},
    {CONFIG("3", "1") ",\"special_tokens\":[{\"rank\":1,\"token_str\":\"<x>\"}],\"vocab\":[" TOKEN(
         "0", "YQ==") "," TOKEN("1", "Yg==") "]}",
     "special token 0"},
    {CONFIG("3", "1") ",\"special_tokens\":[{\"rank\":0,\"token_str\":\"<x>\"},{\"rank\":1,\"token_str\":\"<y>\"}],"
                      "\"vocab\":[]}",
     "special token 1"},
};

/* Also when memory runs out, once at each allocation. */
static void wrong_files_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        kvi_tokenizer *tok = NULL;
        kvrt_error error = {.size = sizeof error};
        const kvrt_status status =
            kvi_tokenizer_load_tekken(files[i].json, strlen(files[i].json), "tekken.json", &tok, &error);
        if ((status < KVRT_OK) != (files[i].named != NULL) ||
            (status < KVRT_OK && !strstr(error.message, files[i].named)))
            fail_msg("file %zu: status %d, '%s'", i, (int)status, error.message);
        kvi_tokenizer_free(tok);
    }
    kvrt_status status = KVRT_NOMEM_HOST;
    for (uint64_t nth = 1; status < KVRT_OK; nth++) {
        kvi_tokenizer *tok = NULL;
        kvi_mem_fail_nth(nth);
        status = kvi_tokenizer_load_tekken(files[0].json, strlen(files[0].json), "tekken.json", &tok, NULL);
        kvi_mem_fail_nth(0);
        if (status != KVRT_OK && status != KVRT_NOMEM_HOST) fail_msg("allocation %d: status %d", (int)nth, (int)status);
        kvi_tokenizer_free(tok);
    }
    uint64_t blocks;
    kvi_mem_stats(NULL, &blocks, NULL);
    assert_int_equal(blocks, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(ids_are_those_of_tiktoken),
                                       cmocka_unit_test(wrong_files_are_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
