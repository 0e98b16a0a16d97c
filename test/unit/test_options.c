/* test_options.c - the table of options by its own words: every default, limit, choice and type, and the messages of what does not fit. Also what
 * status.c makes of errno. */
#include "runtime/base/options.h"
#include "runtime/base/status.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static kvrt_options *options;
static kvrt_error error = {.size = sizeof error};

static kvrt_option_info at(uint32_t i)
{
    kvrt_option_info info = {.size = sizeof info};
    assert_int_equal(kvrt_option_at(i, &info, &error), KVRT_OK);
    return info;
}

static int type_as_set(
    int32_t type) /* which setter takes it: those of STRING and CHOICE are one, those of I64 and BYTES too */
{
    return type == KVRT_OPTION_CHOICE ? KVRT_OPTION_STRING : type == KVRT_OPTION_BYTES ? KVRT_OPTION_I64 : type;
}

static void the_table_ends(void **state)
{
    kvrt_option_info info = {.size = sizeof info};
    (void)state;
    assert_true(kvrt_option_count() > 40);
    assert_non_null(at(kvrt_option_count() - 1).key);
    assert_int_equal(kvrt_option_at(kvrt_option_count(), &info, &error), KVRT_ARG);
    assert_int_equal(kvrt_option_at(UINT32_MAX, &info, &error), KVRT_ARG);
    for (uint32_t i = 0; i < kvrt_option_count(); i++) {
        const char *dot = strchr(at(i).key, '.');
        assert_non_null(dot);
        assert_non_null(at(i).group);
        assert_int_equal(strlen(at(i).group), dot - at(i).key);
    }
}

/* The value read from an unset key is the one that its default, as text, sets. */
static void defaults_are_what_they_say(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < kvrt_option_count(); i++) {
        const kvrt_option_info info = at(i);
        if (info.type == KVRT_OPTION_LIST || !info.defaults[0]) continue;
        int32_t b[2] = {0};
        int64_t n[2] = {0};
        double x[2] = {0};
        const char *s;
        char text[2][128] = {"", ""};
        for (int k = 0; k < 2; k++) {
            assert_int_equal(kvrt_options_is_set(options, info.key), k);
            if (info.type == KVRT_OPTION_BOOL)
                assert_int_equal(kvrt_options_get_bool(options, info.key, &b[k], &error), KVRT_OK);
            else if (info.type == KVRT_OPTION_F64)
                assert_int_equal(kvrt_options_get_f64(options, info.key, &x[k], &error), KVRT_OK);
            else if (info.type == KVRT_OPTION_I64 || info.type == KVRT_OPTION_BYTES)
                assert_int_equal(kvrt_options_get_i64(options, info.key, &n[k], &error), KVRT_OK);
            else {
                assert_int_equal(kvrt_options_get_string(options, info.key, &s, &error), KVRT_OK);
                snprintf(text[k], sizeof text[k], "%s", s);
                assert_string_equal(text[k], info.defaults);
            }
            if (!k && kvrt_options_set_text(options, info.key, info.defaults, &error) < KVRT_OK)
                fail_msg("%s", error.message);
        }
        assert_true(b[0] == b[1] && n[0] == n[1] && x[0] == x[1]);
        assert_int_equal(kvrt_options_clear(options, info.key, &error), KVRT_OK);
        assert_int_equal(kvrt_options_is_set(options, info.key), 0);
    }
}

static void limits_hold_to_the_last_number(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < kvrt_option_count(); i++) {
        const kvrt_option_info info = at(i);
        if (info.type == KVRT_OPTION_I64 && info.max < 9e15) {
            const int64_t low = (int64_t)info.min, high = (int64_t)info.max;
            const int is_auto = strncmp(info.range, "auto", 4) == 0;
            assert_int_equal(kvrt_options_set_i64(options, info.key, low, &error), KVRT_OK);
            assert_int_equal(kvrt_options_set_i64(options, info.key, high, &error), KVRT_OK);
            assert_int_equal(kvrt_options_set_i64(options, info.key, high + 1, &error), KVRT_ARG);
            assert_non_null(strstr(error.message, info.key));
            assert_non_null(strstr(error.message, info.range));
            assert_int_equal(kvrt_options_set_i64(options, info.key, low - 1, &error),
                             low == 0 && is_auto ? KVRT_OK : KVRT_ARG);
            assert_int_equal(kvrt_options_set_text(options, info.key, "auto", &error), is_auto ? KVRT_OK : KVRT_ARG);
            if (low >= 0) /* -1 is how "auto" is kept, not how it is spelt */
                assert_int_equal(kvrt_options_set_text(options, info.key, "-1", &error), KVRT_ARG);
        }
        if (info.type == KVRT_OPTION_F64) {
            assert_int_equal(kvrt_options_set_f64(options, info.key, info.min, &error), KVRT_OK);
            assert_int_equal(kvrt_options_set_f64(options, info.key, info.max, &error), KVRT_OK);
            assert_int_equal(kvrt_options_set_f64(options, info.key, info.max + 0.001, &error), KVRT_ARG);
            assert_int_equal(kvrt_options_set_f64(options, info.key, info.min - 0.001, &error), KVRT_ARG);
            assert_int_equal(kvrt_options_set_f64(options, info.key, (double)__builtin_nan(""), &error), KVRT_ARG);
        }
        if (info.type == KVRT_OPTION_BYTES) {
            assert_int_equal(kvrt_options_set_i64(options, info.key, 0, &error), KVRT_OK);
            assert_int_equal(kvrt_options_set_i64(options, info.key, -1, &error), KVRT_ARG);
        }
        (void)kvrt_options_clear(options, info.key, &error);
    }
}

/* A setter or getter of another type says which type the option has; integers are numbers, too. */
static void types_are_kept_apart(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < kvrt_option_count(); i++) {
        const kvrt_option_info info = at(i);
        const int type = type_as_set(info.type);
        int32_t b;
        int64_t n;
        double x;
        const char *s;
        kvrt_status set[4] = {kvrt_options_set_bool(options, info.key, 1, &error),
                              kvrt_options_set_i64(options, info.key, 1, &error),
                              kvrt_options_set_f64(options, info.key, 1, &error),
                              kvrt_options_set_string(options, info.key, "?", -1, &error)};
        assert_int_equal(set[0], type == KVRT_OPTION_BOOL ? KVRT_OK : KVRT_ARG);
        assert_int_equal(set[1], type == KVRT_OPTION_I64 || type == KVRT_OPTION_F64 ? KVRT_OK : KVRT_ARG);
        assert_int_equal(set[2], type == KVRT_OPTION_F64 ? KVRT_OK : KVRT_ARG);
        assert_int_equal(set[3], info.type == KVRT_OPTION_STRING || info.type == KVRT_OPTION_LIST ? KVRT_OK : KVRT_ARG);
        if (set[3] < KVRT_OK) assert_non_null(strstr(error.message, info.key));
        assert_int_equal(kvrt_options_get_bool(options, info.key, &b, &error),
                         type == KVRT_OPTION_BOOL ? KVRT_OK : KVRT_ARG);
        assert_int_equal(kvrt_options_get_i64(options, info.key, &n, &error),
                         type == KVRT_OPTION_I64 ? KVRT_OK : KVRT_ARG);
        assert_int_equal(kvrt_options_get_f64(options, info.key, &x, &error),
                         type == KVRT_OPTION_F64 ? KVRT_OK : KVRT_ARG);
        assert_int_equal(kvrt_options_get_string(options, info.key, &s, &error),
                         type == KVRT_OPTION_STRING ? KVRT_OK : KVRT_ARG);
        (void)kvrt_options_clear(options, info.key, &error);
    }
    assert_int_equal(kvrt_options_get_i64(options, NULL, &(int64_t){0}, &error), KVRT_ARG);
    assert_int_equal(kvrt_options_get_i64(options, "ctx.size", NULL, &error), KVRT_ARG);
    assert_int_equal(kvrt_options_set_text(options, "ctx.size", NULL, &error), KVRT_ARG);
    assert_int_equal(kvrt_options_set_string(options, "model.path", "a\0b", 3, &error), KVRT_ARG);
    assert_int_equal(kvrt_options_set_string(options, "model.path", "ab", -2, &error), KVRT_ARG);
    assert_int_equal(kvrt_options_set_text(options, "cpu.isa", "avx", &error),
                     KVRT_ARG); /* only the beginning of choices */
    assert_int_equal(kvrt_options_set_text(options, "cpu.amx", "maybe", &error), KVRT_ARG);
}

/* A list in a clone is the list, and merging replaces. */
static void lists_are_replaced_by_lists(void **state)
{
    kvrt_options *other;
    uint64_t len;
    (void)state;
    assert_int_equal(kvrt_options_set_text(options, "gen.stop", "a", &error), KVRT_OK);
    assert_int_equal(kvrt_options_set_string(options, "gen.stop", "b\0c", 3, &error), KVRT_OK);
    assert_int_equal(kvrt_options_clone(options, &other, &error), KVRT_OK);
    assert_int_equal(kvi_options_list_len(other, "gen.stop"), 2);
    assert_memory_equal(kvi_options_list_item(other, "gen.stop", 1, &len), "b\0c", 3);
    assert_int_equal(len, 3);
    assert_null(kvi_options_list_item(other, "gen.stop", 2, &len));
    assert_int_equal(kvi_options_merge(other, options, &error), KVRT_OK);
    assert_int_equal(kvi_options_list_len(other, "gen.stop"), 2);
    kvrt_options_destroy(other);
    (void)kvrt_options_clear(options, "gen.stop", &error);
}

static void system_errors_have_words(void **state)
{
    static const struct {
        int code;
        const char *text;
    } cases[] = {{2, "no such file or directory"}, {13, "permission denied"},       {20, "not a directory"},
                 {24, "too many open files"},      {40, "too many symbolic links"}, {9999, "system error"}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char want[128];
        assert_int_equal(kvi_error_errno(&error, KVRT_IO, cases[i].code, "file %s", "x"), KVRT_IO);
        snprintf(want, sizeof want, "file x: %s (errno %d)", cases[i].text, cases[i].code);
        assert_string_equal(error.message, want);
        assert_int_equal(error.system_code, cases[i].code);
        assert_int_equal(error.code, KVRT_IO);
    }
    for (int code = 0; code < 134; code++) { /* no text is the C library's, which has a locale */
        (void)kvi_error_errno(&error, KVRT_IO, code, "x");
        assert_true(strlen(error.message) < 60);
    }
}

static int setup(void **state)
{
    (void)state;
    return kvrt_options_create(&options, NULL) == KVRT_OK ? 0 : -1;
}
static int teardown(void **state)
{
    uint64_t bytes, blocks;
    (void)state;
    kvrt_options_destroy(options);
    kvrt_debug_mem(&bytes, &blocks, NULL);
    return blocks == 0 ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_table_ends),
                                       cmocka_unit_test(defaults_are_what_they_say),
                                       cmocka_unit_test(limits_hold_to_the_last_number),
                                       cmocka_unit_test(types_are_kept_apart),
                                       cmocka_unit_test(lists_are_replaced_by_lists),
                                       cmocka_unit_test(system_errors_have_words)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
