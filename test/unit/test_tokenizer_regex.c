/* test_tokenizer_regex.c - refusals, the budget, and what the reference library matches: our own list of constructs
 * (golden), and many real patterns (shared data, where present). */
#include "gunzip.h"
#include "tokenizer_cases.h"

#include "runtime/tokenizer/regex.h"
#include "runtime/base/utf8.h"

static void expect_refused(const char *pattern, const char *part)
{
    kvi_regex *regex = NULL;
    kvrt_error error = {.size = sizeof error};
    kvrt_status status = kvi_regex_compile(pattern, strlen(pattern), "test.json", &regex, &error);
    assert_int_equal(status, KVRT_UNSUPPORTED);
    assert_null(regex);
    if (!strstr(error.message, part) || !strstr(error.message, "test.json"))
        fail_msg("%s: message \"%s\" lacks \"%s\"", pattern, error.message, part);
}

static void test_refusals(void **state)
{
    (void)state;
    expect_refused("(?x) a b", "option");
    expect_refused("(?i:ss)", "folding");
    expect_refused("(?i:\xc3\x9f)", "folding");
    expect_refused("(?i:[\xc3\x9f\\d])", "folding");
    expect_refused("(?i)[\\p{L}]+", "folding"); /* "ss" is a sharp s to it when nothing else fits */
    expect_refused("(?i:\\u1e96)", "folding");
    expect_refused("(?i:H\\u0331)", "folding");
    expect_refused("(?<=a+)b", "lookbehind");
    expect_refused("\\2(a)", "reference");
    expect_refused("[z-a]", "range");
    expect_refused("[[:foo:]]", "POSIX");
    expect_refused("a{2,1}", "interval");
    expect_refused("*a", "repeat");
    expect_refused("(*ACCEPT)", "(*");
    expect_refused("\\Ka", "escape");
    expect_refused("(?R)", "kind");
    expect_refused("(?C1)a", "kind");
    expect_refused("(?(1)a|b)", "kind");
    expect_refused("a)", "parenthesis");
    expect_refused("(a", "unterminated");
    expect_refused("[a", "unterminated");
    expect_refused("a\\", "backslash");
    expect_refused("\\p{NoSuchProperty}", "regular expression");
    expect_refused("((((a{1000}){1000}){1000}){1000})", "regular expression");
}

/* A message quotes the beginning of a pattern: it stays UTF-8 where that ends inside a character, and keeps what follows. */
static void test_messages_are_utf8(void **state)
{
    (void)state;
    for (size_t n = 70; n < 90; n++) {
        char pattern[120];
        memset(pattern, 'a', n);
        memcpy(pattern + n, "\xe4\xbd\xa0(?R)", 8);
        kvi_regex *regex = NULL;
        kvrt_error error = {.size = sizeof error};
        assert_int_equal(kvi_regex_compile(pattern, n + 7, "test", &regex, &error), KVRT_UNSUPPORTED);
        assert_int_equal(kvi_utf8_valid_prefix(error.message, strlen(error.message)), strlen(error.message));
        assert_non_null(strstr(error.message, "kind"));
    }
}

/* Each allocation fails in turn: the right code, nothing lost. */
static void test_memory(void **state)
{
    (void)state;
    uint64_t before;
    kvi_mem_stats(NULL, &before, NULL);
    for (uint64_t nth = 1; nth < 100; nth++) {
        kvi_regex *regex = NULL;
        kvi_regex_scratch scratch = {0};
        kvi_budget budget = {1000000, 1000000};
        kvrt_error error = {.size = sizeof error};
        kvi_mem_fail_nth(nth);
        kvrt_status status = kvi_regex_compile("(?:a|b)+c", 9, "test", &regex, &error);
        bool found = false;
        size_t start, end;
        if (status == KVRT_OK)
            status = kvi_regex_find(regex, &scratch, &budget, "xxababc", 7, 0, &found, &start, &end, &error);
        kvi_mem_fail_nth(0);
        kvi_regex_scratch_free(&scratch);
        kvi_regex_free(regex);
        uint64_t after;
        kvi_mem_stats(NULL, &after, NULL);
        assert_int_equal(before, after);
        if (status == KVRT_OK) {
            assert_true(found && start == 2 && end == 7);
            return;
        }
        assert_int_equal(status, KVRT_NOMEM_HOST);
    }
    fail_msg("never succeeded");
}

static void test_runaway_is_an_error(void **state)
{
    (void)state;
    kvi_regex *regex = NULL;
    kvi_regex_scratch scratch = {0};
    kvi_budget budget = {10000000, 10000000};
    kvrt_error error = {.size = sizeof error};
    static char text[4000];
    memset(text, 'a', sizeof text);
    text[3000] = 'b'; /* so that the last letter is there to be hoped for */
    text[3999] = 'c';
    assert_int_equal(kvi_regex_compile("(?:a+a+)+c", 10, "test", &regex, &error), KVRT_OK);
    bool found;
    size_t start, end;
    assert_int_equal(kvi_regex_find(regex, &scratch, &budget, text, sizeof text, 0, &found, &start, &end, &error),
                     KVRT_UNSUPPORTED);
    kvi_regex_scratch_free(&scratch);
    kvi_regex_free(regex);
}

/* ------------------------------------------------------------------------------------------------------ matches --- */
/* Matches of a pattern in a text, as one buffer with a NUL after each. */
static void all_matches(const kvi_regex *regex, const kvi_buf *text, kvi_buf *out)
{
    kvi_regex_scratch scratch = {0};
    kvi_budget budget = {10000000, 10000000};
    size_t from = 0, last = SIZE_MAX;
    const char *data = text->data ? text->data : "";
    while (from <= text->len) {
        bool found;
        size_t start, end;
        kvrt_error error = {.size = sizeof error};
        if (kvi_regex_find(regex, &scratch, &budget, data, text->len, from, &found, &start, &end, &error) != KVRT_OK)
            fail_msg("%s", error.message);
        if (!found) break;
        if (start == end && last == end) {
            uint32_t cp;
            from += from < text->len ? kvi_utf8_decode(data + from, text->len - from, &cp) : 1;
            continue;
        }
        if (end > start) {
            kvi_buf_append(out, data + start, end - start);
            kvi_buf_append_byte(out, 0);
        }
        from = last = end;
    }
    kvi_regex_scratch_free(&scratch);
}

typedef struct oracle {
    int n_patterns, n_refused, n_texts, n_failed;
} oracle;

/* expected: array of arrays of strings, one per text of `inputs` (array of strings). */
static void check_pattern(oracle *o, const kvi_buf *pattern, kvi_json inputs, kvi_json expected)
{
    kvi_regex *regex = NULL;
    kvrt_error error = {.size = sizeof error};
    o->n_patterns++;
    if (kvi_regex_compile(pattern->data ? pattern->data : "", pattern->len, "oracle", &regex, &error) != KVRT_OK) {
        o->n_refused++;
        printf("refused: %.200s\n", error.message);
        return;
    }
    kvi_buf text = {0}, want = {0}, got = {0};
    kvi_json_expect(&inputs, KVI_JSON_ARRAY);
    kvi_json_expect(&expected, KVI_JSON_ARRAY);
    while (kvi_json_next_item(&inputs) && kvi_json_next_item(&expected)) {
        kvi_buf_clear(&text);
        kvi_buf_clear(&want);
        kvi_buf_clear(&got);
        kvi_json_string(&inputs);
        kvi_json_str_copy(&inputs, &text);
        kvi_json_expect(&expected, KVI_JSON_ARRAY);
        while (kvi_json_next_item(&expected)) {
            kvi_json_string(&expected);
            kvi_json_str_copy(&expected, &want);
            kvi_buf_append_byte(&want, 0);
        }
        all_matches(regex, &text, &got);
        o->n_texts++;
        if (case_equal(&want, &got)) continue;
        o->n_failed++;
        printf("FAIL pattern \"%.*s\" on \"%.*s\"\n", (int)pattern->len, pattern->data, (int)text.len, text.data);
        for (size_t i = 0; i < want.len; i++)
            if (!want.data[i]) want.data[i] = '|';
        for (size_t i = 0; i < got.len; i++)
            if (!got.data[i]) got.data[i] = '|';
        printf("  expected %.*s\n  got      %.*s\n", (int)want.len, want.data, (int)got.len, got.data);
    }
    assert_null(inputs.error);
    assert_null(expected.error);
    kvi_buf_free(&text);
    kvi_buf_free(&want);
    kvi_buf_free(&got);
    kvi_regex_free(regex);
}

/* {"patterns": [{"pattern", "inputs"?, ...}], "defaults": {"inputs"}}; `tokens` is an object by pattern id. */
static void run_shared_patterns(oracle *o, kvi_json patterns, kvi_json defaults, kvi_json tokens)
{
    kvi_buf pattern = {0}, id = {0};
    kvi_json_expect(&patterns, KVI_JSON_ARRAY);
    while (kvi_json_next_item(&patterns)) {
        kvi_json inputs = defaults, expected = tokens;
        kvi_buf_clear(&id);
        kvi_json_expect(&patterns, KVI_JSON_OBJECT);
        while (kvi_json_next_key(&patterns)) {
            if (kvi_json_key_is(&patterns, "pattern")) case_read_text(&patterns, &pattern);
            else if (kvi_json_key_is(&patterns, "name") || (kvi_json_key_is(&patterns, "id") && id.len == 0))
                case_read_text(&patterns, &id);
            else {
                if (kvi_json_key_is(&patterns, "inputs")) inputs = patterns;
                kvi_json_skip(&patterns);
            }
        }
        /* Case folding that changes the length (ss, eszett) is not done; no tokenizer is known to rely on it. */
        if (strcmp(id.data, "edge-ci-full-fold") == 0) continue;
        if (!case_find(&expected, id.data)) fail_msg("no tokens of %s", id.data);
        check_pattern(o, &pattern, inputs, expected);
    }
    assert_null(patterns.error);
    kvi_buf_free(&pattern);
    kvi_buf_free(&id);
}

static void test_golden(void **state)
{
    (void)state;
    kvi_map map = {0};
    kvi_json r, texts;
    kvi_buf pattern = {0};
    case_map(KVRT_TEST_DIR "/golden/tokenizers/regex.cases.json", &map, &r);
    texts = r;
    assert_true(case_find(&r, "patterns") && case_find(&texts, "texts"));
    oracle o = {0};
    int n_null = 0;
    kvi_json_expect(&r, KVI_JSON_ARRAY);
    while (kvi_json_next_item(&r)) {
        kvi_json_expect(&r, KVI_JSON_OBJECT);
        while (kvi_json_next_key(&r)) {
            if (kvi_json_key_is(&r, "pattern")) {
                case_read_text(&r, &pattern);
            } else if (kvi_json_null(&r)) {
                expect_refused(pattern.data, "regular expression");
                n_null++;
            } else {
                check_pattern(&o, &pattern, texts, r);
                kvi_json_skip(&r);
            }
        }
    }
    assert_null(r.error);
    kvi_os_unmap(&map);
    kvi_buf_free(&pattern);
    printf("%d patterns, %d texts, %d differences; %d refused by both\n", o.n_patterns, o.n_texts, o.n_failed, n_null);
    assert_true(o.n_patterns > 100 && n_null > 0);
    assert_int_equal(o.n_refused, 0);
    assert_int_equal(o.n_failed, 0);
}

static void test_shared_oracle(void **state)
{
    (void)state;
    const char *packed = KVRT_SHARED_DIR "/data/tokenizers/splitRegexOracle.json.gz",
               *plain = KVRT_SHARED_DIR "/data/tokenizers/splitRegexPatterns.json";
    if (kvi_os_path_kind(packed) != KVI_OS_FILE) {
        printf("skipped: no %s\n", packed);
        skip();
    }
    kvi_map gz = {0}, map = {0};
    kvi_buf text = {0};
    assert_int_equal(kvi_os_map(packed, NULL, &gz, NULL), KVRT_OK);
    assert_true(gunzip_all(gz.data, (size_t)gz.len, &text));
    kvi_json tokens, patterns, defaults;
    kvi_json_init(&tokens, text.data, text.len);
    assert_true(case_find(&tokens, "tokens"));
    case_map(plain, &map, &patterns);
    defaults = patterns;
    assert_true(case_find(&patterns, "patterns") && case_find(&defaults, "defaults") && case_find(&defaults, "inputs"));
    oracle o = {0};
    run_shared_patterns(&o, patterns, defaults, tokens);
    printf("shared oracle: %d patterns, %d refused, %d texts, %d differences\n", o.n_patterns, o.n_refused, o.n_texts,
           o.n_failed);
    kvi_os_unmap(&gz);
    kvi_os_unmap(&map);
    kvi_buf_free(&text);
    assert_int_equal(o.n_refused + o.n_failed, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_refusals), cmocka_unit_test(test_messages_are_utf8),
                                       cmocka_unit_test(test_memory),   cmocka_unit_test(test_runaway_is_an_error),
                                       cmocka_unit_test(test_golden),   cmocka_unit_test(test_shared_oracle)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
