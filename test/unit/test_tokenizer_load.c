/* test_tokenizer_load.c - tokenizer.json as a file: every refusal names the thing, odd but legal files load, memory may
 * fail anywhere, loading is fast, one tokenizer serves many threads. */
#include "tokenizer_cases.h"

#define GOLDEN KVRT_TEST_DIR "/golden/tokenizers/"

static kvrt_status load_text(const char *json, const char *config, kvi_tokenizer **tok, kvrt_error *error)
{
    error->size = sizeof *error;
    error->message[0] = 0;
    return kvi_tokenizer_load_json(json, strlen(json), config, config ? strlen(config) : 0, "t.json", tok, error);
}

#define BPE "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}"

static void expect(const char *json, kvrt_status code, const char *part)
{
    kvi_tokenizer *tok = NULL;
    kvrt_error error;
    kvrt_status status = load_text(json, NULL, &tok, &error);
    if (status != code || tok) fail_msg("%s: status %d (%s), need %d", json, (int)status, error.message, (int)code);
    if (!strstr(error.message, part)) fail_msg("%s: message \"%s\" lacks \"%s\"", json, error.message, part);
    uint64_t blocks;
    kvi_mem_stats(NULL, &blocks, NULL);
    assert_int_equal(blocks, 0);
}

static void test_refusals(void **state)
{
    (void)state;
    expect("", KVRT_FORMAT, "t.json");
    expect("[]", KVRT_FORMAT, "need an object");
    expect("{}", KVRT_FORMAT, "no \"model\"");
    expect("{" BPE "", KVRT_FORMAT, "t.json");
    expect("{" BPE "} x", KVRT_FORMAT, "after the end");
    expect("{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"a\":0}}}", KVRT_UNSUPPORTED, "WordPiece");
    expect("{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0}}}", KVRT_UNSUPPORTED, "WordLevel");
    expect("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a c\"]}}", KVRT_FORMAT, "merge 0");
    expect("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[\"a b\"]}}", KVRT_FORMAT, "merge 0");
    expect("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a\"]}}", KVRT_FORMAT, "left right");
    expect("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", KVRT_FORMAT, "left, right");
    expect("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", KVRT_FORMAT, "token id -1");
    expect("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":2000000000},\"merges\":[]}}", KVRT_FORMAT,
           "token id 2000000000");
    expect("{\"model\":{\"type\":\"BPE\",\"unk_token\":\"u\",\"vocab\":{\"a\":0},\"merges\":[]}}", KVRT_FORMAT,
           "unk_token");
    expect("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"vocab\":{\"a\":0},\"merges\":[]}}", KVRT_FORMAT,
           "second vocab");
    expect("{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", KVRT_FORMAT, "empty vocabulary");
    expect("{\"model\":{\"type\":\"Unigram\",\"unk_id\":5,\"vocab\":[[\"a\",0]]}}", KVRT_FORMAT, "unk_id 5");
    expect("{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0,1]]}}", KVRT_FORMAT, "[token, score]");
    expect("{" BPE ",\"normalizer\":{\"type\":\"Magic\"}}", KVRT_UNSUPPORTED, "normalizer Magic");
    expect("{" BPE ",\"normalizer\":{}}", KVRT_FORMAT, "without \"type\"");
    expect("{" BPE ",\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Odd\"}]}}",
           KVRT_UNSUPPORTED, "Odd");
    expect("{" BPE ",\"normalizer\":{\"type\":\"Replace\",\"content\":\"\"}}", KVRT_UNSUPPORTED, "empty pattern");
    expect("{" BPE ",\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAA\"}}", KVRT_FORMAT,
           "charsmap");
    expect("{" BPE ",\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"////\"}}", KVRT_FORMAT,
           "charsmap");
    expect("{" BPE ",\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"}}", KVRT_UNSUPPORTED,
           "pre_tokenizer BertPreTokenizer");
    expect("{" BPE ",\"normalizer\":{\"type\":\"BertNormalizer\"}}", KVRT_UNSUPPORTED, "normalizer BertNormalizer");
    expect("{" BPE ",\"decoder\":{\"type\":\"BPEDecoder\",\"suffix\":\"</w>\"}}", KVRT_UNSUPPORTED, "BPEDecoder");
    expect("{" BPE ",\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"ab\"}}", KVRT_UNSUPPORTED,
           "not one character");
    expect("{" BPE ",\"pre_tokenizer\":{\"type\":\"FixedLength\",\"length\":0}}", KVRT_UNSUPPORTED, "length");
    expect("{\"model\":{\"type\":\"BPE\",\"dropout\":0.1,\"vocab\":{\"a\":0},\"merges\":[]}}", KVRT_UNSUPPORTED,
           "dropout");
    expect("{" BPE
           ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?<=a+)b\"},\"behavior\":\"Isolated\"}}",
           KVRT_UNSUPPORTED, "lookbehind");
    expect("{" BPE ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Odd\"}}",
           KVRT_UNSUPPORTED, "behavior");
    expect("{" BPE ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Glob\":\"a\"}}}", KVRT_UNSUPPORTED,
           "pattern");
    expect("{" BPE ",\"pre_tokenizer\":{\"type\":\"Metaspace\",\"prepend_scheme\":\"odd\"}}", KVRT_UNSUPPORTED,
           "prepend_scheme");
    expect("{" BPE ",\"decoder\":{\"type\":\"CTC\"}}", KVRT_UNSUPPORTED, "decoder CTC");
    expect("{" BPE
           ",\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":\"ByteFallback\"}]}}",
           KVRT_UNSUPPORTED, "after Fuse");
    expect("{" BPE ",\"post_processor\":{\"type\":\"Odd\"}}", KVRT_UNSUPPORTED, "post_processor Odd");
    expect("{" BPE ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}},"
           "{\"Sequence\":{\"id\":\"A\"}}],"
           "\"special_tokens\":{}}}",
           KVRT_UNSUPPORTED, "special_tokens");
    expect("{" BPE ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}},"
           "{\"Sequence\":{\"id\":\"A\"}}],"
           "\"special_tokens\":{\"x\":{\"ids\":[99]}}}}",
           KVRT_FORMAT, "outside the vocabulary");
    expect("{" BPE ",\"added_tokens\":[{\"content\":\"x\"}]}", KVRT_FORMAT, "token id -1");
}

static int32_t one_id(const kvi_tokenizer *tok, const char *text, uint32_t flags)
{
    kvi_ids ids = {0};
    assert_int_equal(kvi_tokenizer_encode(tok, text, strlen(text), flags, &ids, NULL), KVRT_OK);
    int32_t id = ids.len == 1 ? ids.data[0] : -1;
    kvi_ids_free(&ids);
    return id;
}

static void test_odd_but_legal(void **state)
{
    (void)state;
    kvi_tokenizer *tok = NULL;
    kvrt_error error;
    /* Keys in alphabetical order: merges before vocab; no type; the parts after the model. */
    assert_int_equal(
        load_text("{\"model\":{\"merges\":[[\"a\",\"b\"]],\"vocab\":{\"ab\":2,\"a\":0,\"b\":1}},\"added_tokens\":"
                  "[{\"id\":7,\"content\":\"<x>\",\"special\":true}],\"version\":\"1.0\"}",
                  "{\"bos_token\":\"<x>\",\"eos_token\":{\"content\":\"ab\"},\"other\":[1,{}]}", &tok, &error),
        KVRT_OK);
    assert_int_equal(one_id(tok, "ab", 0), 2);
    assert_int_equal(one_id(tok, "<x>", KVRT_TOKENIZE_PARSE_SPECIAL), 7);
    assert_int_equal(kvi_tokenizer_vocab_size(tok), 8);
    assert_int_equal(kvi_tokenizer_bos_id(tok), 7);
    assert_int_equal(kvi_tokenizer_eos_id(tok), 2);
    assert_int_equal(kvi_tokenizer_unk_id(tok), -1);
    assert_true(kvi_tokenizer_is_special(tok, 7) && kvi_tokenizer_is_marker(tok, 7) &&
                !kvi_tokenizer_is_special(tok, 2));
    assert_false(kvi_tokenizer_is_special(tok, -1) || kvi_tokenizer_is_special(tok, 1000));
    size_t len;
    assert_null(kvi_tokenizer_token_text(tok, 5, &len)); /* a hole */
    assert_int_equal(len, 0);
    assert_non_null(kvi_tokenizer_token_text(tok, 7, &len));
    assert_int_equal(len, 3);
    assert_string_equal(kvi_tokenizer_describe(tok), "BPE, 8 tokens, 1 merges");
    kvi_tokenizer_free(tok);
    assert_int_equal(load_text("{" BPE "}", "{\"bos_token\":", &tok, &error), KVRT_FORMAT);
    assert_non_null(strstr(error.message, "tokenizer_config.json"));
    kvi_tokenizer_free(NULL);
}

static void test_folder_errors(void **state)
{
    (void)state;
    kvi_tokenizer *tok = NULL;
    kvrt_error error = {.size = sizeof error};
    assert_int_equal(kvi_tokenizer_load(KVRT_TEST_DIR "/no-such-folder", &tok, &error), KVRT_IO);
    assert_non_null(strstr(error.message, "no-such-folder"));
    assert_null(tok);
}

/* The n-th allocation fails, for each n at first, then ever wider: the right code, nothing left behind. */
static void test_memory(void **state)
{
    (void)state;
    static const char *const names[] = {"byte_level_llama3", "spm_bpe_normalizer", "unigram_bytes", "mixed_parts"};
    for (size_t t = 0; t < sizeof names / sizeof *names; t++) {
        char path[512];
        kvi_map map = {0};
        snprintf(path, sizeof path, GOLDEN "%s.json", names[t]);
        assert_int_equal(kvi_os_map(path, NULL, &map, NULL), KVRT_OK);
        uint64_t before, after;
        kvi_mem_stats(NULL, &before, NULL);
        kvrt_status status = KVRT_NOMEM_HOST;
        for (uint64_t nth = 1; status != KVRT_OK; nth += 1 + nth / 200) {
            kvi_tokenizer *tok = NULL;
            kvi_mem_fail_nth(nth);
            status = kvi_tokenizer_load_json((const char *)map.data, (size_t)map.len, NULL, 0, names[t], &tok, NULL);
            kvi_mem_fail_nth(0);
            if (status != KVRT_OK && (status != KVRT_NOMEM_HOST || tok))
                fail_msg("%s: allocation %d: status %d", names[t], (int)nth, (int)status);
            kvi_tokenizer_free(tok);
            kvi_mem_stats(NULL, &after, NULL);
            assert_int_equal(before, after);
        }
        kvi_os_unmap(&map);
    }
}

/* ----------------------------------------------------------------------------------------------------- threads --- */
typedef struct worker {
    const kvi_tokenizer *tok;
    kvi_ids expected;
    bool ok;
} worker;
static const char shared_text[] = "Once upon a time <mask> there w\xc3\xa9re 12345 words, <|end|> and it's d\xffone.";

static void work(void *arg)
{
    worker *w = arg;
    w->ok = true;
    for (int i = 0; i < 300; i++) {
        kvi_ids ids = {0};
        w->ok = w->ok && kvi_tokenizer_encode(w->tok, shared_text, sizeof shared_text - 1, KVRT_TOKENIZE_PARSE_SPECIAL,
                                              &ids, NULL) == KVRT_OK;
        w->ok = w->ok && case_same(&ids, &w->expected);
        kvi_ids_free(&ids);
    }
}

static void test_threads(void **state)
{
    (void)state;
    char path[512];
    kvi_map map = {0};
    kvi_tokenizer *tok = NULL;
    snprintf(path, sizeof path, GOLDEN "byte_level_qwen2.json");
    assert_int_equal(kvi_os_map(path, NULL, &map, NULL), KVRT_OK);
    assert_int_equal(kvi_tokenizer_load_json((const char *)map.data, (size_t)map.len, NULL, 0, "t", &tok, NULL),
                     KVRT_OK);
    worker workers[4];
    kvi_thread threads[4];
    for (int i = 0; i < 4; i++) {
        workers[i] = (worker){.tok = tok};
        kvi_tokenizer_encode(tok, shared_text, sizeof shared_text - 1, KVRT_TOKENIZE_PARSE_SPECIAL,
                             &workers[i].expected, NULL);
        assert_int_equal(kvi_thread_start(&threads[i], work, &workers[i], NULL), KVRT_OK);
    }
    for (int i = 0; i < 4; i++) {
        kvi_thread_join(&threads[i]);
        assert_true(workers[i].ok);
        kvi_ids_free(&workers[i].expected);
    }
    kvi_tokenizer_free(tok);
    kvi_os_unmap(&map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_refusals), cmocka_unit_test(test_odd_but_legal),
                                       cmocka_unit_test(test_folder_errors), cmocka_unit_test(test_memory),
                                       cmocka_unit_test(test_threads)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
