/* test_tokenizer_shared.c - the real tokenizers and vectors of the shared data, where they are present; skipped visibly
 * where not. */
#include "tokenizer_cases.h"

#include <stdlib.h>

#define DATA KVRT_SHARED_DIR "/data/"

/* Loads DATA/dir, or skips the test when it is not there. */
static kvi_tokenizer *load(const char *dir)
{
    char path[512];
    snprintf(path, sizeof path, DATA "%s", dir);
    if (kvi_os_path_kind(path) != KVI_OS_DIRECTORY) {
        printf("skipped: no %s\n", path);
        skip();
    }
    kvi_tokenizer *tok = NULL;
    kvrt_error error = {.size = sizeof error};
    uint64_t start = kvi_os_now_us();
    if (kvi_tokenizer_load(path, &tok, &error) != KVRT_OK) fail_msg("%s", error.message);
    printf("%s: %s, loaded in %llu us\n", dir, kvi_tokenizer_describe(tok),
           (unsigned long long)(kvi_os_now_us() - start));
    return tok;
}

static void run_vectors(const char *dir, const char *vectors, const char *exceptions)
{
    kvi_tokenizer *tok = load(dir);
    char path[512];
    snprintf(path, sizeof path, DATA "tokenizers/encodings/%s", vectors);
    case_run_file(tok, path, &(case_rules){.tidy = true, .exceptions = exceptions});
    kvi_tokenizer_free(tok);
    uint64_t blocks;
    kvi_mem_stats(NULL, &blocks, NULL);
    assert_int_equal(blocks, 0);
}

static void test_gpt2(void **state)
{
    (void)state;
    run_vectors("tokenizers/gpt2", "gpt2.json", NULL);
}
static void test_llama3(void **state)
{
    (void)state;
    run_vectors("tokenizers/llama3", "llama3.json", NULL);
}
static void test_qwen2_5(void **state)
{
    (void)state;
    run_vectors("tokenizers/qwen2.5", "qwen2.5.json", NULL);
}
static void test_mistral_v3(void **state)
{
    (void)state;
    run_vectors("tokenizers/mistral-v3", "mistral-v3.json", NULL);
}
static void test_phi_3(void **state)
{
    (void)state;
    run_vectors("tokenizers/phi-3", "phi-3.json", NULL);
}
static void test_t5_small(void **state)
{
    (void)state;
    run_vectors("tokenizers/t5-small", "t5-small.json", KVRT_TEST_DIR "/golden/tokenizers/t5_small_exceptions.json");
}
static void test_stories260k(void **state)
{
    (void)state;
    run_vectors("models/stories260k", "stories260k.json", NULL);
}

/* llama.cpp's vectors: texts between separator lines, one line of ids each. */
static void run_llama_cpp(const char *dir, const char *name)
{
    static const char separator[] = "\n__ggml_vocab_test__\n";
    kvi_tokenizer *tok = load(dir);
    char path[512];
    kvi_map in = {0}, out = {0};
    kvrt_error error = {.size = sizeof error};
    snprintf(path, sizeof path, DATA "tokenizers/llama.cpp-vectors/ggml-vocab-%s.gguf.inp", name);
    if (kvi_os_map(path, NULL, &in, &error) != KVRT_OK) fail_msg("%s", error.message);
    snprintf(path, sizeof path, DATA "tokenizers/llama.cpp-vectors/ggml-vocab-%s.gguf.out", name);
    if (kvi_os_map(path, NULL, &out, &error) != KVRT_OK) fail_msg("%s", error.message);
    const char *text = (const char *)in.data, *end = text + in.len, *line = (const char *)out.data,
               *out_end = line + out.len;
    case_totals totals = {0};
    while (text < end) {
        const char *stop = text;
        while (end - stop >= (ptrdiff_t)sizeof separator - 1 && memcmp(stop, separator, sizeof separator - 1) != 0)
            stop++;
        if (end - stop < (ptrdiff_t)sizeof separator - 1) break;
        kvi_ids expected = {0};
        while (line < out_end && *line != '\n') {
            while (line < out_end && *line == ' ') line++;
            int32_t id = 0, digits = 0;
            for (; line < out_end && *line >= '0' && *line <= '9'; line++, digits++) id = id * 10 + (*line - '0');
            if (digits) kvi_ids_push(&expected, id);
        }
        if (line < out_end) line++;
        kvi_buf copy = {0};
        kvi_buf_append(&copy, text, (size_t)(stop - text));
        case_check_encode(tok, &copy, 0, &expected, name, &totals);
        totals.n_cases++;
        kvi_buf_free(&copy);
        kvi_ids_free(&expected);
        text = stop + sizeof separator - 1;
    }
    printf("%s: %d cases, %d differences\n", name, totals.n_cases, totals.n_failed);
    kvi_os_unmap(&in);
    kvi_os_unmap(&out);
    kvi_tokenizer_free(tok);
    assert_true(totals.n_cases > 40);
    assert_int_equal(totals.n_failed, 0);
}

static void test_llama_cpp_gpt2(void **state)
{
    (void)state;
    run_llama_cpp("tokenizers/gpt2", "gpt-2");
}
static void test_llama_cpp_llama3(void **state)
{
    (void)state;
    run_llama_cpp("tokenizers/llama3", "llama-bpe");
}
static void test_llama_cpp_qwen2(void **state)
{
    (void)state;
    run_llama_cpp("tokenizers/qwen2.5", "qwen2");
}
static void test_llama_cpp_phi3(void **state)
{
    (void)state;
    run_llama_cpp("tokenizers/phi-3", "phi-3");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gpt2),
                                       cmocka_unit_test(test_llama3),
                                       cmocka_unit_test(test_qwen2_5),
                                       cmocka_unit_test(test_mistral_v3),
                                       cmocka_unit_test(test_phi_3),
                                       cmocka_unit_test(test_t5_small),
                                       cmocka_unit_test(test_stories260k),
                                       cmocka_unit_test(test_llama_cpp_gpt2),
                                       cmocka_unit_test(test_llama_cpp_llama3),
                                       cmocka_unit_test(test_llama_cpp_qwen2),
                                       cmocka_unit_test(test_llama_cpp_phi3)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
