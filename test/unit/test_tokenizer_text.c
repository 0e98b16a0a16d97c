/* test_tokenizer_text.c - what holds for every text: provenance of segments, invalid bytes, megabyte words, streaming
 * decode, failing memory. */
#include "cpu_time.h"
#include "tokenizer_cases.h"

#include <stdlib.h>

#define GOLDEN KVRT_TEST_DIR "/golden/tokenizers/"

static const char *const names[] = {"byte_level_llama3", "byte_level_qwen2", "byte_level_gpt2", "spm_bpe_normalizer",
                                    "spm_bpe_metaspace", "unigram",          "unigram_bytes",   "mixed_parts"};
#define N_NAMES (sizeof names / sizeof *names)

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

static uint64_t seed = 3;
static uint32_t rnd(uint32_t n)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(seed >> 33) % n;
}

static kvi_ids encode(const kvi_tokenizer *tok, const char *text, size_t len, uint32_t flags)
{
    kvi_ids ids = {0};
    kvrt_error error = {.size = sizeof error};
    if (kvi_tokenizer_encode(tok, text, len, flags, &ids, &error) != KVRT_OK) fail_msg("%s", error.message);
    return ids;
}

static bool has_id(const kvi_ids *ids, int32_t id)
{
    for (size_t i = 0; i < ids->len; i++)
        if (ids->data[i] == id) return true;
    return false;
}

/* -------------------------------------------------------------------------------------------------- provenance --- */
static void test_user_text_never_becomes_a_marker(void **state)
{
    (void)state;
    static const char *const parts[] = {"<|begin|>", "<|end|>", "<tool>", "<mask>", "<s>",   "</s>",
                                        "<unk>",     "<pad>",   "word",   " ",      "x",     "\n",
                                        "中",        "<|",      "|>",     "＜/s＞", "<0x41>"};
    for (size_t t = 0; t < N_NAMES; t++) {
        kvi_tokenizer *tok = load_golden(names[t]);
        for (int round = 0; round < 500; round++) {
            kvi_buf text = {0};
            for (uint32_t n = rnd(8); n--;) kvi_buf_append_str(&text, parts[rnd(sizeof parts / sizeof *parts)]);
            kvi_ids ids = encode(tok, text.data ? text.data : "", text.len, 0);
            for (size_t i = 0; i < ids.len; i++)
                if (kvi_tokenizer_is_marker(tok, ids.data[i]) && ids.data[i] != kvi_tokenizer_unk_id(tok))
                    fail_msg("%s: \"%s\" gives marker %d", names[t], text.data, (int)ids.data[i]);
            kvi_ids_free(&ids);
            kvi_buf_free(&text);
        }
        kvi_tokenizer_free(tok);
    }
}

/* One provenance throughout: segments are their concatenation. */
static void test_segments_equal_concatenation(void **state)
{
    (void)state;
    static const char text[] =
        "<|begin|>Hello wor\xc3\xa9ld, e\xcc\x81t\xc3\xa9 <mask> word \xe4\xb8\xad\xe6\x96\x87<|end|>  it's 12345 done";
    for (size_t t = 0; t < N_NAMES; t++) {
        kvi_tokenizer *tok = load_golden(names[t]);
        for (int round = 0; round < 200; round++) {
            bool parse = round & 1;
            kvi_segment segments[8];
            size_t n = 0, pos = 0, len = sizeof text - 1;
            while (pos < len && n < 7) {
                size_t cut = 1 + rnd(20);
                if (cut > len - pos) cut = len - pos;
                while (pos + cut < len && ((unsigned char)text[pos + cut] & 0xc0) == 0x80) cut++;
                segments[n++] = (kvi_segment){text + pos, cut, parse};
                pos += cut;
            }
            segments[n++] = (kvi_segment){text + pos, len - pos, parse};
            kvi_ids whole = encode(tok, text, len, parse ? KVRT_TOKENIZE_PARSE_SPECIAL : 0), split = {0};
            assert_int_equal(kvi_tokenizer_encode_segments(tok, segments, n, 0, &split, NULL), KVRT_OK);
            if (!case_same(&whole, &split)) fail_msg("%s: round %d differs", names[t], round);
            kvi_ids_free(&whole);
            kvi_ids_free(&split);
        }
        kvi_tokenizer_free(tok);
    }
}

static void test_mixed_segments(void **state)
{
    (void)state;
    for (size_t t = 0; t < N_NAMES; t++) {
        kvi_tokenizer *tok = load_golden(names[t]);
        int32_t begin = kvi_tokenizer_token_to_id(tok, "<|begin|>", 9),
                mask = kvi_tokenizer_token_to_id(tok, "<mask>", 6);
        assert_true(begin >= 0);
        kvi_segment injected[] = {{"<|begin|>", 9, true}, {"hi <|begin|> <mask>", 19, false}, {"<|begin|>", 9, true}};
        kvi_segment joined[] = {{"<|beg", 5, true},
                                {"in|>", 4, false}}; /* a marker must not grow over the border either */
        kvi_segment after[] = {{"\xe4\xb8\xad\xcc\x81", 5, false}, {" <mask>", 7, true}, {"\xcc\x81", 2, false}};
        kvi_ids ids = {0};
        assert_int_equal(kvi_tokenizer_encode_segments(tok, injected, 3, 0, &ids, NULL), KVRT_OK);
        int n = 0;
        for (size_t i = 0; i < ids.len; i++) n += ids.data[i] == begin;
        if (n != 2 || ids.data[0] != begin || ids.data[ids.len - 1] != begin) fail_msg("%s: %d markers", names[t], n);
        if (mask >= 0 && has_id(&ids, mask)) fail_msg("%s: mask from user text", names[t]);
        ids.len = 0;
        assert_int_equal(kvi_tokenizer_encode_segments(tok, joined, 2, 0, &ids, NULL), KVRT_OK);
        if (has_id(&ids, begin)) fail_msg("%s: marker over a border", names[t]);
        /* Normalized tokens are looked for after normalization, where the template's own must still be found. */
        ids.len = 0;
        assert_int_equal(kvi_tokenizer_encode_segments(tok, after, 3, 0, &ids, NULL), KVRT_OK);
        if (mask >= 0 && strcmp(names[t], "spm_bpe_normalizer") && !has_id(&ids, mask))
            fail_msg("%s: template's mask is gone", names[t]);
        kvi_ids_free(&ids);
        kvi_tokenizer_free(tok);
    }
}

/* --------------------------------------------------------------------------------------------- invalid bytes --- */
static bool round_trips(const char *name)
{
    return strncmp(name, "byte_level", 10) == 0 || strncmp(name, "spm", 3) == 0;
}

static void test_invalid_bytes(void **state)
{
    (void)state;
    for (size_t t = 0; t < N_NAMES; t++) {
        kvi_tokenizer *tok = load_golden(names[t]);
        for (int round = 0; round < 400; round++) {
            char text[40];
            size_t len = rnd(sizeof text);
            for (size_t i = 0; i < len; i++) text[i] = (char)(rnd(3) ? 'a' + (int)rnd(6) : (int)rnd(256));
            if (round < 256) text[0] = (char)round, len = 1;
            kvi_ids ids = encode(tok, text, len, KVRT_TOKENIZE_PARSE_SPECIAL);
            kvi_buf back = {0};
            assert_int_equal(kvi_tokenizer_decode(tok, ids.data, ids.len, KVRT_DETOKENIZE_KEEP_SPECIAL, &back, NULL),
                             KVRT_OK);
            /* NFC may rewrite valid text, a leading space is the decoder's: compare where neither can interfere. */
            bool comparable = round_trips(names[t]) && (round >= 256 || round > ' ');
            for (size_t i = 0; i < len && comparable; i++)
                comparable = (unsigned char)text[i] < 0x80 || strcmp(names[t], "byte_level_qwen2") != 0;
            if (strcmp(names[t], "byte_level_gpt2") == 0 && back.len && back.data[0] == ' ')
                memmove(back.data, back.data + 1, --back.len);
            if (comparable && len && text[0] != ' ' && (back.len != len || memcmp(back.data, text, len) != 0))
                fail_msg("%s: round %d does not come back", names[t], round);
            kvi_buf_free(&back);
            kvi_ids_free(&ids);
        }
        kvi_tokenizer_free(tok);
    }
}

/* ---------------------------------------------------------------------------------------------------- big texts --- */
static void test_megabytes(void **state)
{
    (void)state;
    static const char *const units[] = {
        "a",  " ",           "\n", "ab", "1", "!", "\xe4\xb8\xad", "\xcc\x81", " \n", "\xff", "<|", "\xf0\x9f\x98\x80",
        "a ", "\xe2\x96\x81"};
    const size_t size = getenv("KVRT_TEST_QUICK") ? 100000 : 1000000; /* less in the loop of an edit */
    for (size_t t = 0; t < N_NAMES; t++) {
        kvi_tokenizer *tok = load_golden(names[t]);
        for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
            kvi_buf text = {0};
            size_t n = strlen(units[u]);
            while (text.len + n <= size) kvi_buf_append(&text, units[u], n);
            uint64_t start = cpu_us();
            kvi_ids ids = encode(tok, text.data, text.len, KVRT_TOKENIZE_PARSE_SPECIAL);
            uint64_t us = cpu_us() - start;
            if (us > 1000000)
                printf("%s: %zu bytes of \"%s\": %llu us\n", names[t], size, units[u], (unsigned long long)us);
            assert_true(us < 20000000); /* quadratic would be hours; generous for slow machines under sanitizers */
            kvi_ids_free(&ids);
            kvi_buf_free(&text);
        }
        kvi_tokenizer_free(tok);
    }
}

/* --------------------------------------------------------------------------------------------------- streaming --- */
/* Decoding token by token gives what decoding the list gives. */
static void test_streaming_decode(void **state)
{
    (void)state;
    for (size_t t = 0; t < N_NAMES; t++) {
        kvi_tokenizer *tok = load_golden(names[t]);
        int32_t n_vocab = kvi_tokenizer_vocab_size(tok);
        for (int round = 0; round < 200; round++) {
            int32_t ids[20];
            size_t n = rnd(20);
            for (size_t i = 0; i < n; i++)
                ids[i] = (int32_t)rnd((uint32_t)n_vocab + 4) - 2; /* ids outside give nothing */
            kvi_buf whole = {0}, parts = {0};
            kvi_decode_start start = {0};
            assert_int_equal(kvi_tokenizer_decode(tok, ids, n, 0, &whole, NULL), KVRT_OK);
            for (size_t i = 0; i < n; i++) {
                const char *bytes;
                size_t len;
                kvi_tokenizer_token_bytes(tok, &start, ids[i], 0, &bytes, &len);
                kvi_buf_append(&parts, bytes, len);
            }
            assert_true(case_equal(&whole, &parts));
            kvi_buf_free(&whole);
            kvi_buf_free(&parts);
        }
        kvi_tokenizer_free(tok);
    }
}

static void test_leading_space(void **state)
{
    (void)state;
    kvi_tokenizer *tok = load_golden("spm_bpe_normalizer");
    kvi_ids ids = encode(tok, "the cat", 7, 0);
    kvi_buf out = {0};
    kvi_tokenizer_decode(tok, ids.data, ids.len, 0, &out, NULL);
    assert_string_equal(out.data, "the cat");
    kvi_decode_start going_on = {.started = true};
    const char *bytes;
    size_t len;
    kvi_tokenizer_token_bytes(tok, &going_on, ids.data[0], 0, &bytes, &len);
    assert_true(len > 0 && bytes[0] == ' ');
    kvi_buf_free(&out);
    kvi_ids_free(&ids);
    kvi_tokenizer_free(tok);
}

/* -------------------------------------------------------------------------------------------- failing memory --- */
static void test_every_allocation_fails(void **state)
{
    (void)state;
    static const char text[] = "Hello <mask> w\xc3\xb6rld \xff <|end|> it's 12345 \xe4\xb8\xad";
    kvi_segment segments[] = {{text, 20, true}, {text + 20, sizeof text - 21, false}};
    for (size_t t = 0; t < N_NAMES; t++) {
        kvi_tokenizer *tok = load_golden(names[t]);
        uint64_t before, after;
        kvi_mem_stats(NULL, &before, NULL);
        kvrt_status status = KVRT_NOMEM_HOST;
        kvi_ids good = {0};
        assert_int_equal(kvi_tokenizer_encode_segments(tok, segments, 2, KVRT_TOKENIZE_ADD_SPECIAL, &good, NULL),
                         KVRT_OK);
        for (uint64_t nth = 1; status != KVRT_OK && nth < 2000; nth++) {
            kvi_ids ids = {0};
            kvi_mem_fail_nth(nth);
            status = kvi_tokenizer_encode_segments(tok, segments, 2, KVRT_TOKENIZE_ADD_SPECIAL, &ids, NULL);
            kvi_mem_fail_nth(0);
            if (status == KVRT_OK) assert_true(case_same(&ids, &good));
            else if (status != KVRT_NOMEM_HOST || ids.len != 0)
                fail_msg("%s: allocation %d: status %d", names[t], (int)nth, (int)status);
            kvi_ids_free(&ids);
        }
        kvi_ids_free(&good);
        kvi_mem_stats(NULL, &after, NULL);
        assert_int_equal(status, KVRT_OK);
        assert_int_equal(before, after);
        kvi_tokenizer_free(tok);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_user_text_never_becomes_a_marker),
                                       cmocka_unit_test(test_segments_equal_concatenation),
                                       cmocka_unit_test(test_mixed_segments),
                                       cmocka_unit_test(test_invalid_bytes),
                                       cmocka_unit_test(test_megabytes),
                                       cmocka_unit_test(test_streaming_decode),
                                       cmocka_unit_test(test_leading_space),
                                       cmocka_unit_test(test_every_allocation_fails)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
