/* test_stream.c - the text contract: random texts, random cuts, random stop strings against a plain reference that sees
 * the whole text. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "runtime/text/stream.h"
#include "runtime/base/utf8.h"

static uint64_t seed = 1;
static uint32_t rnd(uint32_t n)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(seed >> 33) % n;
}

/* ------------------------------------------------------------------------------------------------- reference --- */
/* Python's bytes.decode("utf-8", "replace"), written from the table of well-formed sequences (Unicode 3.9, table 3-7).
 */
static void reference_decode(const uint8_t *p, size_t len, kvi_buf *out)
{
    static const uint8_t rows[][5] = {{0xc2, 0xdf, 0x80, 0xbf, 1}, {0xe0, 0xe0, 0xa0, 0xbf, 2},
                                      {0xe1, 0xec, 0x80, 0xbf, 2}, {0xed, 0xed, 0x80, 0x9f, 2},
                                      {0xee, 0xef, 0x80, 0xbf, 2}, {0xf0, 0xf0, 0x90, 0xbf, 3},
                                      {0xf1, 0xf3, 0x80, 0xbf, 3}, {0xf4, 0xf4, 0x80, 0x8f, 3}};
    for (size_t i = 0; i < len;) {
        size_t good = p[i] < 0x80 ? 1 : 0, need = good;
        for (size_t r = 0; r < 8 && p[i] >= 0x80; r++) {
            if (p[i] < rows[r][0] || p[i] > rows[r][1]) continue;
            need = 1u + rows[r][4];
            good = 1;
            if (i + 1 < len && p[i + 1] >= rows[r][2] && p[i + 1] <= rows[r][3]) {
                good = 2;
                while (good < need && i + good < len && p[i + good] >= 0x80 && p[i + good] <= 0xbf) good++;
            }
        }
        if (need && good == need) {
            kvi_buf_append(out, p + i, need);
            i += need;
        } else {
            kvi_buf_append(out, "\xef\xbf\xbd", 3);
            i += good ? good : 1;
        }
    }
}

/* Start of the earliest match of any stop string; len when there is none. */
static size_t reference_stop(const kvi_buf *text, const kvi_stop *stops, size_t n)
{
    for (size_t pos = 0; pos < text->len; pos++)
        for (size_t i = 0; i < n; i++)
            if (stops[i].len && stops[i].len <= text->len - pos &&
                memcmp(text->data + pos, stops[i].text, stops[i].len) == 0)
                return pos;
    return text->len;
}

/* ------------------------------------------------------------------------------------------------------- checks --- */
static void check_piece(const char *text, size_t len) { assert_int_equal(kvi_utf8_valid_prefix(text, len), len); }

/* What is withheld is an incomplete code point or a proper prefix of a stop string, nothing else. */
static void check_withheld(const kvi_stream *s, const kvi_stop *stops, size_t n)
{
    assert_true(s->n_tail < 4);
    if (s->pending.len == 0) return;
    for (size_t i = 0; i < n; i++)
        if (stops[i].len > s->pending.len && memcmp(stops[i].text, s->pending.data, s->pending.len) == 0) return;
    fail_msg("withheld without need: %.*s", (int)s->pending.len, s->pending.data);
}

/* Another stream that takes over at this place gives the rest; a peek gives the same and changes nothing. */
static void check_peek(kvi_stream *s, const char *bytes, size_t len, const kvi_stop *stops, size_t n)
{
    const char *text;
    size_t text_len;
    bool stopped;
    kvi_stream other;
    kvi_buf want = {0};
    assert_int_equal(kvi_stream_init(&other, stops, n, NULL), KVRT_OK);
    assert_int_equal(kvi_stream_take(&other, s, NULL), KVRT_OK);
    assert_int_equal(kvi_stream_push(&other, bytes, len, &text, &text_len, &stopped, NULL), KVRT_OK);
    kvi_buf_append(&want, text, text_len);
    if (!stopped) {
        assert_int_equal(kvi_stream_finish(&other, &text, &text_len, &stopped, NULL), KVRT_OK);
        kvi_buf_append(&want, text, text_len);
    }
    const size_t pending = s->pending.len;
    const uint32_t tail = s->n_tail;
    assert_int_equal(kvi_stream_peek(s, bytes, len, &text, &text_len, NULL), KVRT_OK);
    assert_int_equal(text_len, want.len);
    if (text_len) assert_memory_equal(text, want.data, text_len);
    assert_int_equal(s->pending.len, pending);
    assert_int_equal(s->n_tail, tail);
    kvi_stream_free(&other);
    kvi_buf_free(&want);
}

static bool run_stream(kvi_stream *s, const uint8_t *bytes, size_t len, const kvi_stop *stops, size_t n,
                       uint32_t max_cut, kvi_buf *got)
{
    const char *text;
    size_t text_len;
    bool stopped = false;
    for (size_t pos = 0; pos < len;) {
        size_t cut = max_cut ? rnd(max_cut + 1) : len;
        if (cut > len - pos) cut = len - pos;
        if (rnd(4) == 0) check_peek(s, (const char *)bytes + pos, cut, stops, n);
        assert_int_equal(kvi_stream_push(s, (const char *)bytes + pos, cut, &text, &text_len, &stopped, NULL), KVRT_OK);
        check_piece(text, text_len);
        kvi_buf_append(got, text, text_len);
        if (stopped) return true;
        check_withheld(s, stops, n);
        pos += cut;
    }
    assert_int_equal(kvi_stream_finish(s, &text, &text_len, &stopped, NULL), KVRT_OK);
    check_piece(text, text_len);
    kvi_buf_append(got, text, text_len);
    return stopped;
}

static size_t random_bytes(uint8_t *out, size_t cap)
{
    static const char *const parts[] = {"a",
                                        "b",
                                        "ab",
                                        "abc",
                                        "<|end|>",
                                        "<|",
                                        "\n\n",
                                        "User:",
                                        " ",
                                        "é",
                                        "ü",
                                        "中",
                                        "文字",
                                        "😀",
                                        "👨‍👩‍👧",
                                        "🏳️‍🌈",
                                        "\xff",
                                        "\xc3",
                                        "\xe2\x82",
                                        "\xf0\x9f\x98",
                                        "\xed\xa0\x80",
                                        "\xf4\x90\x80\x80",
                                        "\xc0\x80",
                                        "\x80",
                                        "\xef\xbf\xbd"};
    size_t len = 0, n = rnd(30);
    for (size_t i = 0; i < n; i++) {
        const char *part = parts[rnd(sizeof parts / sizeof *parts)];
        size_t k = strlen(part);
        if (len + k > cap) break;
        memcpy(out + len, part, k);
        len += k;
    }
    return len;
}

static void test_random_texts(void **state)
{
    (void)state;
    static const char *const pool[] = {
        "abc", "bc", "b",      "aab", "<|end|>",      "<|en", "\n\n", "User:", "中文",          "文",
        "😀a",  "é",  "ababab", "a😀",  "\xef\xbf\xbd", "",     "ca",   "|>",    "🏳️‍🌈"};
    int n_stopped = 0;
    for (int round = 0; round < 30000; round++) {
        uint8_t bytes[512];
        size_t len = random_bytes(bytes, sizeof bytes), n_stops = rnd(5) ? rnd(4) : 19;
        kvi_stop stops[19];
        for (size_t i = 0; i < n_stops; i++) {
            const char *text = pool[n_stops == 19 ? i : rnd(19)];
            stops[i] = (kvi_stop){.text = text, .len = strlen(text)};
        }
        kvi_stream s;
        assert_int_equal(kvi_stream_init(&s, stops, n_stops, NULL), KVRT_OK);
        kvi_buf whole = {0}, got = {0};
        reference_decode(bytes, len, &whole);
        size_t end = reference_stop(&whole, stops, n_stops);
        bool stopped = run_stream(&s, bytes, len, stops, n_stops, rnd(3) ? 1 + rnd(6) : 0, &got);
        if (got.len != end || (end && memcmp(got.data, whole.data, end) != 0) || stopped != (end < whole.len))
            fail_msg("round %d: got \"%.*s\", need \"%.*s\"", round, (int)got.len, got.data ? got.data : "", (int)end,
                     whole.data ? whole.data : "");
        if (stopped) {
            n_stopped++;
            const kvi_stop *by = &stops[s.stopped_by];
            assert_true(by->len && memcmp(whole.data + end, by->text, by->len) == 0);
        }
        kvi_buf_free(&whole);
        kvi_buf_free(&got);
        kvi_stream_free(&s);
    }
    assert_true(n_stopped > 5000);
}

static void expect_push(kvi_stream *s, const char *bytes, const char *expected, bool expect_stop)
{
    const char *text;
    size_t len;
    bool stopped;
    assert_int_equal(kvi_stream_push(s, bytes, strlen(bytes), &text, &len, &stopped, NULL), KVRT_OK);
    assert_int_equal(len, strlen(expected));
    assert_memory_equal(text, expected, len);
    assert_int_equal(stopped, expect_stop);
}

static void test_earliest_match_waits(void **state)
{
    (void)state;
    kvi_stop stops[] = {{"abcd", 4}, {"bc", 2}};
    kvi_stream s;
    assert_int_equal(kvi_stream_init(&s, stops, 2, NULL), KVRT_OK);
    expect_push(&s, "xa", "x", false);
    expect_push(&s, "bc", "", false); /* "abcd" may still come and begins earlier */
    expect_push(&s, "x", "a", true);
    assert_int_equal(s.stopped_by, 1);
    expect_push(&s, "more", "", true);
    kvi_stream_reset(&s);
    expect_push(&s, "abc", "", false);
    expect_push(&s, "d", "", true);
    assert_int_equal(s.stopped_by, 0);
    kvi_stream_reset(&s);
    const char *text;
    size_t len;
    bool stopped;
    expect_push(&s, "abc", "", false);
    assert_int_equal(kvi_stream_finish(&s, &text, &len, &stopped, NULL), KVRT_OK);
    assert_true(stopped && len == 1 && text[0] == 'a');
    kvi_stream_free(&s);
}

static void test_incomplete_tail(void **state)
{
    (void)state;
    kvi_stream s;
    const char *text;
    size_t len;
    bool stopped;
    assert_int_equal(kvi_stream_init(&s, NULL, 0, NULL), KVRT_OK);
    expect_push(&s, "a\xf0\x9f", "a", false);
    expect_push(&s, "\x98", "", false);
    assert_int_equal(kvi_stream_finish(&s, &text, &len, &stopped, NULL), KVRT_OK);
    assert_true(!stopped && len == 3 && memcmp(text, "\xef\xbf\xbd", 3) == 0);
    kvi_stream_free(&s);
}

static void test_steps_allocate_nothing(void **state)
{
    (void)state;
    kvi_stop stops[] = {{"stop stop stop", 14}};
    kvi_stream s;
    assert_int_equal(kvi_stream_init(&s, stops, 1, NULL), KVRT_OK);
    assert_int_equal(kvi_stream_reserve(&s, 64, NULL), KVRT_OK);
    uint64_t before, after;
    kvi_mem_stats(NULL, NULL, &before);
    for (int i = 0; i < 2000; i++) {
        char bytes[64];
        for (size_t k = 0; k < sizeof bytes; k++) bytes[k] = "stop \xff\xe2\x82\xac"[rnd(9)];
        const char *text;
        size_t len;
        bool stopped;
        assert_int_equal(kvi_stream_push(&s, bytes, rnd(65), &text, &len, &stopped, NULL), KVRT_OK);
        if (stopped) kvi_stream_reset(&s);
    }
    kvi_mem_stats(NULL, NULL, &after);
    assert_int_equal(before, after);
    kvi_stream_free(&s);
}

/* Room counts what a long stop string makes wait. */
static void test_long_stops_allocate_nothing(void **state)
{
    (void)state;
    static char text[3000];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = 'y';
    kvi_stop stops[] = {{"z", 1}, {text, sizeof text}, {"zz", 2}};
    kvi_stream s;
    uint64_t before, after;
    const char *out;
    size_t len;
    bool stopped;
    assert_int_equal(kvi_stream_init(&s, stops, 3, NULL), KVRT_OK);
    assert_int_equal(kvi_stream_reserve(&s, 8, NULL), KVRT_OK);
    kvi_mem_stats(NULL, NULL, &before);
    for (int i = 0; i < 2000; i++) {
        assert_int_equal(kvi_stream_push(&s, "xx", 2, &out, &len, &stopped, NULL), KVRT_OK);
        assert_int_equal(s.pending.len, i < 1499 ? 2 * (i + 1) : 2999);
    }
    kvi_mem_stats(NULL, NULL, &after);
    assert_int_equal(before, after);
    kvi_stream_free(&s);
}

static void test_errors(void **state)
{
    (void)state;
    kvi_stream s;
    kvrt_error error = {.size = sizeof error};
    kvi_stop bad = {"\xff", 1}, good = {"stop", 4};
    assert_int_equal(kvi_stream_init(&s, &bad, 1, &error), KVRT_ARG);
    assert_non_null(strstr(error.message, "UTF-8"));
    uint64_t before, after;
    kvi_mem_stats(NULL, &before, NULL);
    for (uint64_t nth = 1; nth < 10; nth++) {
        const char *text;
        size_t len;
        bool stopped;
        kvi_mem_fail_nth(nth);
        kvrt_status status = kvi_stream_init(&s, &good, 1, &error);
        if (status == KVRT_OK) status = kvi_stream_push(&s, "some text st", 12, &text, &len, &stopped, &error);
        kvi_mem_fail_nth(0);
        kvi_stream_free(&s);
        kvi_mem_stats(NULL, &after, NULL);
        assert_int_equal(before, after);
        if (status == KVRT_OK) return;
        assert_int_equal(status, KVRT_NOMEM_HOST);
    }
    fail_msg("never succeeded");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random_texts),
                                       cmocka_unit_test(test_earliest_match_waits),
                                       cmocka_unit_test(test_incomplete_tail),
                                       cmocka_unit_test(test_steps_allocate_nothing),
                                       cmocka_unit_test(test_long_stops_allocate_nothing),
                                       cmocka_unit_test(test_errors)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
