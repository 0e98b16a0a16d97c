/* test_unicode.c - UTF-8 primitives, character classes, Unicode forms against the reference library (golden), and
 * linear time. */
#include "cpu_time.h"
#include "tokenizer_cases.h"

#include "runtime/tokenizer/normalize_parts.h"
#include "runtime/tokenizer/tokenizer_impl.h"
#include "runtime/text/unicode.h"

static void test_every_code_point(void **state)
{
    (void)state;
    for (uint32_t cp = 0; cp <= 0x10ffff; cp++) {
        if (cp >= 0xd800 && cp < 0xe000) continue;
        char bytes[4];
        uint32_t back = 0;
        size_t n = kvi_utf8_encode(bytes, cp);
        if (kvi_utf8_decode(bytes, n, &back) != n || back != cp) fail_msg("U+%04X", (unsigned)cp);
        if (kvi_utf8_valid_prefix(bytes, n) != n) fail_msg("U+%04X", (unsigned)cp);
        for (size_t cut = 1; cut < n; cut++) {
            bool partial;
            assert_int_equal(kvi_utf8_decode(bytes, cut, &back), 0);
            assert_int_equal(kvi_utf8_bad_len(bytes, cut, &partial), cut);
            assert_true(partial);
        }
        size_t len = n;
        assert_int_equal(kvi_utf8_prev(bytes, len), 0);
    }
}

static void test_invalid_sequences(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t bad;
        bool partial;
    } rows[] = {{"\x80", 1, false},
                {"\xc0\x80", 1, false},
                {"\xc1\xbf", 1, false},
                {"\xe0\x80\x80", 1, false},
                {"\xed\xa0\x80", 1, false},
                {"\xf0\x80\x80\x80", 1, false},
                {"\xf4\x90\x80\x80", 1, false},
                {"\xf5\x80\x80\x80", 1, false},
                {"\xff", 1, false},
                {"\xe2\x82"
                 "A",
                 2, false},
                {"\xf0\x9f\x98"
                 "A",
                 3, false},
                {"\xe2\x82", 2, true},
                {"\xc3", 1, true},
                {"\xf0\x9f\x98", 3, true}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint32_t cp;
        bool partial;
        size_t len = strlen(rows[i].bytes);
        assert_int_equal(kvi_utf8_decode(rows[i].bytes, len, &cp), 0);
        assert_int_equal(kvi_utf8_bad_len(rows[i].bytes, len, &partial), rows[i].bad);
        assert_int_equal(partial, rows[i].partial);
    }
}

static void test_stand_ins(void **state)
{
    (void)state;
    kvi_utf8_blocks blocks = {{0}, false};
    kvi_utf8_blocks_scan(&blocks, "ok \xf3\xb0\x80\x80", 7); /* U+F0000 is in the text, so the first block is taken */
    assert_false(blocks.invalid);
    kvi_utf8_blocks_scan(&blocks, "\xff", 1);
    assert_true(blocks.invalid);
    uint32_t base = kvi_utf8_blocks_base(&blocks);
    assert_int_equal(base, 0xf0080);
    kvi_buf out = {0};
    kvi_utf8_sanitize(&out, "a\xff\xe2\x82z", 5, base);
    assert_int_equal(kvi_utf8_valid_prefix(out.data, out.len), out.len);
    assert_int_equal(out.len, 14);
    kvi_buf_clear(&out);
    kvi_utf8_sanitize(&out, "a\xff\xe2\x82z", 5, KVI_UTF8_NO_BASE);
    assert_int_equal(out.len, 8);
    assert_memory_equal(out.data, "a\xef\xbf\xbd\xef\xbf\xbdz", 8);
    kvi_buf_free(&out);
    memset(&blocks, 0xff, sizeof blocks.used);
    assert_int_equal(kvi_utf8_blocks_base(&blocks), KVI_UTF8_NO_BASE);
}

static void test_classes(void **state)
{
    (void)state;
    assert_true(kvi_cp_is_space(0x20) && kvi_cp_is_space(0x85) && kvi_cp_is_space(0x3000) && !kvi_cp_is_space(0x180e) &&
                !kvi_cp_is_space(0x200b));
    assert_true(kvi_cp_is_word('_') && kvi_cp_is_word(0xe9) && kvi_cp_is_word(0x301) && kvi_cp_is_word(0x24d0) &&
                !kvi_cp_is_word(0xb2));
    assert_true(kvi_cp_is_mark(0x301) && kvi_cp_is_mark(0x903) && !kvi_cp_is_mark('a'));
    assert_true(kvi_cp_is_punctuation('$') && kvi_cp_is_punctuation(0x3001) && !kvi_cp_is_punctuation(0x20ac));
    assert_true(kvi_cp_is_numeric('7') && kvi_cp_is_numeric(0xbd) && kvi_cp_is_numeric(0x2160) &&
                !kvi_cp_is_numeric('x'));
}

/* ------------------------------------------------------------------------------------------------ normalizers --- */
static void normalize(kvi_norm_kind kind, const kvi_buf *text, kvi_buf *out)
{
    kvi_norm_op op = {.kind = kind, .left = true, .right = true};
    kvi_norm_text buffers[2] = {0};
    kvi_regex_scratch scratch = {0};
    kvi_budget budget = kvi_budget_for(text->len);
    kvi_view view = {.text = text->data ? text->data : "", .len = text->len};
    assert_int_equal(kvi_normalize(&op, 1, &view, buffers, &scratch, &budget, NULL), KVRT_OK);
    kvi_buf_clear(out);
    kvi_buf_append(out, view.text, view.len);
    for (size_t i = 0; i < 2; i++) kvi_buf_free(&buffers[i].text), kvi_buf_free(&buffers[i].mark);
}

static void test_forms_golden(void **state)
{
    (void)state;
    static const struct {
        const char *key;
        kvi_norm_kind kind;
    } kinds[] = {{"NFC", KVI_NORM_NFC},
                 {"NFD", KVI_NORM_NFD},
                 {"NFKC", KVI_NORM_NFKC},
                 {"NFKD", KVI_NORM_NFKD},
                 {"Lowercase", KVI_NORM_LOWERCASE},
                 {"StripAccents", KVI_NORM_STRIP_ACCENTS}};
    kvi_map map;
    kvi_json r;
    kvi_buf text = {0}, expected = {0}, got = {0};
    int n = 0, n_failed = 0;
    case_map(KVRT_TEST_DIR "/golden/tokenizers/normalizers.cases.json", &map, &r);
    assert_true(case_find(&r, "cases"));
    kvi_json_expect(&r, KVI_JSON_ARRAY);
    while (kvi_json_next_item(&r)) {
        kvi_json_expect(&r, KVI_JSON_OBJECT);
        while (kvi_json_next_key(&r)) {
            if (kvi_json_key_is(&r, "text")) {
                case_read_text(&r, &text);
                continue;
            }
            for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
                if (!kvi_json_key_is(&r, kinds[k].key)) continue;
                case_read_text(&r, &expected);
                normalize(kinds[k].kind, &text, &got);
                n++;
                if (case_equal(&got, &expected)) break;
                n_failed++;
                printf("FAIL %s of \"%s\": need \"%s\", got \"%s\"\n", kinds[k].key, text.data, expected.data,
                       got.data);
                break;
            }
        }
    }
    assert_null(r.error);
    kvi_os_unmap(&map);
    kvi_buf_free(&text);
    kvi_buf_free(&expected);
    kvi_buf_free(&got);
    printf("%d forms, %d differences\n", n, n_failed);
    assert_true(n > 3000);
    assert_int_equal(n_failed, 0);
}

/* --------------------------------------------------------------------------------------------- character map --- */
static kvrt_status load_charsmap(kvi_arena *arena, const char *base64, size_t len, kvi_norm_op *op)
{
    kvrt_error error = {.size = sizeof error};
    *op = (kvi_norm_op){.kind = KVI_NORM_PRECOMPILED};
    kvrt_status status = kvi_charsmap_load(arena, base64, len, "t.json", op, &error);
    if (status != KVRT_OK && !strstr(error.message, "precompiled_charsmap")) fail_msg("%s", error.message);
    return status;
}

static void apply(const kvi_norm_op *op, const kvi_buf *text, const char *mark, kvi_norm_text *out)
{
    kvi_view view = {.text = text->data ? text->data : "", .mark = mark, .len = text->len};
    kvi_buf_clear(&out->text);
    kvi_buf_clear(&out->mark);
    out->marked = mark != NULL;
    out->limit = 1u << 20;
    kvi_charsmap_apply(op, &view, out);
}

/* A map made by make_tokenizers.py: shortest key wins, graphemes of up to five bytes are looked up whole. */
static void test_charsmap_golden(void **state)
{
    (void)state;
    kvi_map map;
    kvi_json r, encoded;
    kvi_buf base64 = {0}, text = {0}, expected = {0};
    kvi_arena arena;
    kvi_norm_op op;
    kvi_norm_text got = {0};
    int n = 0;
    kvi_arena_init(&arena, 4096);
    case_map(KVRT_TEST_DIR "/golden/tokenizers/charsmap.cases.json", &map, &r);
    encoded = r;
    assert_true(case_find(&encoded, "charsmap") && case_find(&r, "cases"));
    case_read_text(&encoded, &base64);
    assert_int_equal(load_charsmap(&arena, base64.data, base64.len, &op), KVRT_OK);
    kvi_json_expect(&r, KVI_JSON_ARRAY);
    for (; kvi_json_next_item(&r); n++) {
        kvi_json_expect(&r, KVI_JSON_OBJECT);
        while (kvi_json_next_key(&r)) case_read_text(&r, kvi_json_key_is(&r, "text") ? &text : &expected);
        apply(&op, &text, NULL, &got);
        if (!case_equal(&got.text, &expected))
            fail_msg("\"%s\": need \"%s\", got \"%s\"", text.data, expected.data, got.text.data);
    }
    assert_null(r.error);
    assert_true(n > 200);
    /* What came from the user stays the user's: A, then a ligature of which one byte's worth is the user's. */
    kvi_buf_clear(&text);
    kvi_buf_append_str(&text, "\xef\xbc\xa1\xef\xac\x81x");
    apply(&op, &text, (const char[]){0, 0, 0, 0, 1, 0, 0}, &got);
    assert_string_equal(got.text.data, "Afix");
    assert_memory_equal(got.mark.data, ((const char[]){0, 1, 1, 0}), 4);
    kvi_os_unmap(&map);
    kvi_buf_free(&base64), kvi_buf_free(&text), kvi_buf_free(&expected);
    kvi_buf_free(&got.text), kvi_buf_free(&got.mark);
    kvi_arena_free(&arena);
}

static void test_charsmap_distrusts_the_file(void **state)
{
    (void)state;
    static const char *const bad[] = {"A",    "AAA",      "AA=A",     "====",     "AAAAA",       "AA*A",
                                      "////", "BAAAAA==", "AQAAAAA=", "AAAAAP8=", "CAAAAAAAAAA="};
    kvi_arena arena;
    kvi_norm_op op;
    kvi_map map;
    kvi_json r;
    kvi_buf base64 = {0}, text = {0};
    kvi_norm_text got = {0};
    kvi_arena_init(&arena, 4096);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (load_charsmap(&arena, bad[i], strlen(bad[i]), &op) != KVRT_FORMAT) fail_msg("%s is accepted", bad[i]);
    kvi_buf_append_str(&text, "e\xcc\x81 ab \xef\xac\x81");
    assert_int_equal(load_charsmap(&arena, "", 0, &op), KVRT_OK); /* no map: nothing changes */
    apply(&op, &text, NULL, &got);
    assert_true(case_equal(&got.text, &text));
    assert_int_equal(load_charsmap(&arena, "AAAAAA==", 8, &op), KVRT_OK); /* an empty one: the same */
    apply(&op, &text, NULL, &got);
    assert_true(case_equal(&got.text, &text));
    /* Three units that lead from "a" to a place of the replacements, which are "\u00e9" and NULs: its start, inside the letter, behind the end. */
    static const char *const maps[] = {"DAAAAACAAQBhDQAAAAAAgMOpAAAA", "DAAAAACAAQBhDQAAAQAAgMOpAAAA",
                                       "DAAAAACAAQBhDQAABQAAgMOpAAAA"};
    static const char *const become[] = {"b\xc3\xa9", "ba", "ba"};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(load_charsmap(&arena, maps[i], strlen(maps[i]), &op), KVRT_OK);
        kvi_buf_clear(&text);
        kvi_buf_append_str(&text, "ba");
        apply(&op, &text, NULL, &got);
        assert_string_equal(got.text.data, become[i]);
        /* Not one letter of the base64 may be missing, or be none. */
        char spoilt[64];
        (void)snprintf(spoilt, sizeof spoilt, "%s", maps[i]);
        spoilt[10] = '*';
        assert_int_equal(load_charsmap(&arena, spoilt, strlen(spoilt), &op), KVRT_FORMAT);
        for (size_t cut = 1; cut < 4; cut++)
            assert_int_equal(load_charsmap(&arena, maps[i], strlen(maps[i]) - cut, &op), KVRT_FORMAT);
    }
    kvi_buf_clear(&text);
    kvi_buf_append_str(&text, "e\xcc\x81 ab \xef\xac\x81");
    /* Any other units: no reading outside, and well-formed text in the end. */
    case_map(KVRT_TEST_DIR "/golden/tokenizers/charsmap.cases.json", &map, &r);
    assert_true(case_find(&r, "charsmap"));
    case_read_text(&r, &base64);
    uint64_t seed = 9;
    for (int round = 0; round < 2000; round++) {
        seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        char *at = base64.data + 8 + (seed >> 33) % (base64.len - 12), was = *at;
        *at = (char)('A' + (seed >> 20) % 26);
        kvi_arena scratch;
        kvi_arena_init(&scratch, 4096);
        if (load_charsmap(&scratch, base64.data, base64.len, &op) == KVRT_OK) {
            apply(&op, &text, NULL, &got);
            assert_int_equal(kvi_utf8_valid_prefix(got.text.data, got.text.len), got.text.len);
        }
        kvi_arena_free(&scratch);
        *at = was;
    }
    kvi_os_unmap(&map);
    kvi_buf_free(&base64), kvi_buf_free(&text), kvi_buf_free(&got.text);
    kvi_arena_free(&arena);
}

/* Half a million marks in the worst order: an insertion sort would take hours. */
static void test_marks_in_linear_time(void **state)
{
    (void)state;
    kvi_buf text = {0}, got = {0};
    for (int i = 0; i < 250000; i++) kvi_buf_append(&text, i & 1 ? "\xcc\x96" : "\xcc\x81", 2);
    uint64_t start = cpu_us();
    normalize(KVI_NORM_NFC, &text, &got);
    printf("500 kB of marks: %llu us\n", (unsigned long long)(cpu_us() - start));
    assert_int_equal(got.len, text.len);
    assert_memory_equal(got.data, "\xcc\x96\xcc\x96", 4); /* class 220 before class 230 */
    assert_true(cpu_us() - start < 5000000);
    kvi_buf_free(&text);
    kvi_buf_free(&got);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_code_point), cmocka_unit_test(test_invalid_sequences),
        cmocka_unit_test(test_stand_ins),        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_charsmap_golden),  cmocka_unit_test(test_charsmap_distrusts_the_file),
        cmocka_unit_test(test_forms_golden),     cmocka_unit_test(test_marks_in_linear_time)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
