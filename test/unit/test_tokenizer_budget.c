/* test_tokenizer_budget.c - tokenizers that ask for gigabytes or hours get an error in a second and 64 MiB, whatever
 * part of them asks for it; long texts of ordinary tokenizers never do. */
#include "cpu_time.h"
#include "tokenizer_cases.h"

#define GOLDEN KVRT_TEST_DIR "/golden/tokenizers/"
#define NINETY_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define BPE "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"!\":2},\"merges\":[]}"

/* {before, item, item, ..., after} */
static void repeat_json(kvi_buf *out, const char *before, const char *item, int n, const char *after)
{
    kvi_buf_append_str(out, before);
    for (int i = 0; i < n; i++) {
        if (i) kvi_buf_append_byte(out, ',');
        kvi_buf_append_str(out, item);
    }
    kvi_buf_append_str(out, after);
}

static kvi_tokenizer *load(const char *json, size_t len)
{
    kvi_tokenizer *tok = NULL;
    kvrt_error error = {.size = sizeof error};
    if (kvi_tokenizer_load_json(json, len, NULL, 0, "hostile.json", &tok, &error) != KVRT_OK)
        fail_msg("%s", error.message);
    return tok;
}

/* Encoding fails in time and memory, with the message of a spent budget, and leaves the list as it was. */
static void expect_stopped(const kvi_tokenizer *tok, const char *text, size_t len, const char *what)
{
    kvi_ids ids = {0};
    kvrt_error error = {.size = sizeof error};
    kvi_account *account = kvi_account_open(), *old = kvi_account_use(account);
    uint64_t start = cpu_us();
    kvrt_status status = kvi_tokenizer_encode(tok, text, len, 0, &ids, &error);
    uint64_t us = cpu_us() - start, peak = kvi_account_peak(account);
    kvi_account_use(old);
    printf("%s: %s after %llu ms, %llu KiB\n", what, status ? "stopped" : "done", (unsigned long long)(us / 1000),
           (unsigned long long)(peak >> 10));
    assert_int_equal(status, KVRT_UNSUPPORTED);
    assert_non_null(strstr(error.message, "hostile"));
    assert_int_equal(ids.len, 0);
    assert_true(peak < (64u << 20));
    assert_true(us < 8000000); /* 0.6 s on an idle machine; sanitizers take their share */
    kvi_ids_free(&ids);
    kvi_account_close(account);
}

static void test_normalizers(void **state)
{
    (void)state;
    static const char *const items[] = {
        "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"" NINETY_A "\"}",
        "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"a\"},\"content\":\"" NINETY_A "\"}",
        "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"\"},\"content\":\"" NINETY_A "\"}"};
    for (size_t i = 0; i < sizeof items / sizeof *items; i++) {
        kvi_buf json = {0};
        repeat_json(&json, "{" BPE ",\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[", items[i], 30, "]}}");
        kvi_tokenizer *tok = load(json.data, json.len);
        expect_stopped(tok, "aaaa", 4, "normalizers");
        kvi_tokenizer_free(tok);
        kvi_buf_free(&json);
    }
}

static void test_regex_over_a_whole_call(void **state)
{
    (void)state;
    static const char json[] = "{" BPE ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a+)+b|!\"},"
                               "\"behavior\":\"Isolated\",\"invert\":false}}";
    kvi_tokenizer *tok = load(json, sizeof json - 1);
    kvi_buf text = {0};
    for (int i = 0; i < 40; i++) kvi_buf_append_str(&text, "aaaaaaaaaaaaaaaaaaaaaaaa!");
    expect_stopped(tok, text.data, text.len, "regex");
    kvi_buf_free(&text);
    kvi_tokenizer_free(tok);
}

static void test_byte_level_chain(void **state)
{
    (void)state;
    kvi_buf json = {0};
    repeat_json(&json, "{" BPE ",\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[",
                "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"use_regex\":false}", 16, "]}}");
    kvi_tokenizer *tok = load(json.data, json.len);
    kvi_buf text = {0};
    for (int i = 0; i < 4000; i++) kvi_buf_append_str(&text, "\xc3\xa9");
    expect_stopped(tok, text.data, text.len, "ByteLevel 16 times");
    kvi_buf_free(&text);
    kvi_buf_free(&json);
    kvi_tokenizer_free(tok);
}

/* A token of 20,000 letters makes each position look that far ahead. */
static void test_long_tokens(void **state)
{
    (void)state;
    kvi_buf text = {0}, json = {0};
    for (int i = 0; i < 20000; i++) kvi_buf_append_byte(&text, 'a');
    kvi_buf_append_str(&json, "{\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"a\",-1],[\"b\",-1],[\"");
    kvi_buf_append(&json, text.data, text.len);
    kvi_buf_append_str(&json, "b\",-1]]}}");
    kvi_tokenizer *tok = load(json.data, json.len);
    expect_stopped(tok, text.data, text.len, "Unigram");
    kvi_tokenizer_free(tok);
    kvi_buf_clear(&json);
    kvi_buf_append_str(&json, "{" BPE ",\"added_tokens\":[{\"id\":3,\"content\":\"");
    kvi_buf_append(&json, text.data, text.len);
    kvi_buf_append_str(&json, "b\",\"special\":false,\"normalized\":false}]}");
    tok = load(json.data, json.len);
    expect_stopped(tok, text.data, text.len, "added token");
    kvi_tokenizer_free(tok);
    kvi_buf_free(&json);
    kvi_buf_free(&text);
}

/* What is run at load, over the spelling of every token, is bounded too. */
static void test_loading(void **state)
{
    (void)state;
    static const struct {
        const char *before, *item, *after;
    } rows[] = {{"{" BPE ",\"decoder\":{\"type\":\"Sequence\",\"decoders\":[",
                 "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"" NINETY_A "\"}", "]}}"},
                {"{" BPE ",\"decoder\":{\"type\":\"Sequence\",\"decoders\":[",
                 "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"a\"},\"content\":\"" NINETY_A "\"}", "]}}"},
                {"{" BPE ",\"added_tokens\":[{\"id\":3,\"content\":\"aa\",\"special\":false,\"normalized\":true}],"
                 "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[",
                 "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"" NINETY_A "\"}", "]}}"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        kvi_buf json = {0};
        kvi_tokenizer *tok = NULL;
        kvrt_error error = {.size = sizeof error};
        uint64_t start = cpu_us();
        repeat_json(&json, rows[i].before, rows[i].item, 16, rows[i].after);
        kvi_account *account = kvi_account_open(), *old = kvi_account_use(account);
        assert_int_equal(kvi_tokenizer_load_json(json.data, json.len, NULL, 0, "t.json", &tok, &error),
                         KVRT_UNSUPPORTED);
        kvi_account_use(old);
        assert_null(tok);
        assert_true(kvi_account_peak(account) < (64u << 20) && cpu_us() - start < 8000000);
        kvi_account_close(account);
        kvi_buf_free(&json);
    }
}

static void test_long_texts_pass(void **state)
{
    (void)state;
    static const char *const names[] = {"byte_level_llama3",  "byte_level_qwen2", "byte_level_gpt2",
                                        "spm_bpe_normalizer", "unigram",          "mixed_parts"};
    static const char *const units[] = {
        "The quick brown fox, 1984 times! It's \xc3\xa9t\xc3\xa9 & \xe4\xbd\xa0\xe5\xa5\xbd. \n",
        "\xef\xb7\xba"}; /* the ligature with the longest compatibility form */
    for (size_t t = 0; t < sizeof names / sizeof *names; t++) {
        char path[512];
        kvi_map map = {0};
        (void)snprintf(path, sizeof path, GOLDEN "%s.json", names[t]);
        assert_int_equal(kvi_os_map(path, NULL, &map, NULL), KVRT_OK);
        kvi_tokenizer *tok = load((const char *)map.data, (size_t)map.len);
        for (size_t u = 0; u < 2; u++) {
            kvi_buf text = {0};
            kvi_ids ids = {0};
            kvrt_error error = {.size = sizeof error};
            while (text.len < (u ? 100000u : 10u << 20)) kvi_buf_append_str(&text, units[u]);
            if (kvi_tokenizer_encode(tok, text.data, text.len, 0, &ids, &error) != KVRT_OK)
                fail_msg("%s: %s", names[t], error.message);
            kvi_ids_free(&ids);
            kvi_buf_free(&text);
        }
        kvi_tokenizer_free(tok);
        kvi_os_unmap(&map);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_normalizers),      cmocka_unit_test(test_regex_over_a_whole_call),
        cmocka_unit_test(test_byte_level_chain), cmocka_unit_test(test_long_tokens),
        cmocka_unit_test(test_loading),          cmocka_unit_test(test_long_texts_pass)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
