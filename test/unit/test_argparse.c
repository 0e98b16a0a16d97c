/* test_argparse.c - the command-line parser of tools/: every spelling it accepts, every mistake it names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#define ARGPARSE_IMPLEMENTATION
#include "tools/argparse.h"

enum { PROMPT, COUNT, VERBOSE, QUIET, DRY, COLOUR };
static const argparse_option table[] = {
    {"prompt", 'p', 1, 0, "TEXT", ""}, {"count", 'n', 1, 0, "N", ""},  {"verbose", 'v', 0, 0, NULL, ""},
    {"quiet", 'q', 0, 0, NULL, ""},    {"dry-run", 0, 0, 0, NULL, ""}, {"colour", 0, 0, 1, NULL, ""},
    {"color", 0, 0, 1, NULL, NULL},
};

static argparse parser;

static void start(int argc, const char **argv)
{
    argparse_init(&parser, argc, (char **)(uintptr_t)argv, table, sizeof table / sizeof table[0]);
}
#define START(...)                                                                                                     \
    const char *arguments[] = {__VA_ARGS__};                                                                           \
    start((int)(sizeof arguments / sizeof *arguments), arguments)

static void expect(int option, const char *value)
{
    assert_int_equal(argparse_next(&parser), option);
    if (value) assert_string_equal(parser.value, value);
    else assert_null(parser.value);
}

static void long_options(void **state)
{
    START("--prompt", "a b", "--prompt=c=d", "--prompt=", "--verbose");
    expect(PROMPT, "a b");
    expect(PROMPT, "c=d");
    expect(PROMPT, "");
    expect(VERBOSE, NULL);
    expect(ARGPARSE_END, NULL);
    expect(ARGPARSE_END, NULL);
}

static void letters(void **state)
{
    START("-p", "x", "-n12", "-vqn", "3", "-vp--");
    expect(PROMPT, "x");
    expect(COUNT, "12");
    expect(VERBOSE, NULL);
    expect(QUIET, NULL);
    expect(COUNT, "3");
    expect(VERBOSE, NULL);
    expect(PROMPT, "--");
    expect(ARGPARSE_END, NULL);
}

static void negation(void **state)
{
    START("--colour", "--no-colour", "--no-verbose");
    expect(COLOUR, NULL);
    assert_false(parser.negated);
    expect(COLOUR, NULL);
    assert_true(parser.negated);
    expect(ARGPARSE_ERROR, NULL);
    assert_string_equal(parser.message, "option --verbose cannot be negated");
    assert_string_equal(parser.unknown, "no-verbose");
}

static void other_names(void **state)
{
    START("--color", "--no-color", "-color", "-count", "7", "-prompt=x", "--dry_run", "-colr");
    expect(COLOUR, NULL);
    expect(COLOUR, NULL);
    assert_true(parser.negated);
    expect(COLOUR, NULL);
    expect(COUNT, "7");
    expect(PROMPT, "x");
    expect(DRY, NULL);
    expect(ARGPARSE_ERROR, NULL); /* no cluster of letters either */
    assert_string_equal(parser.message, "unknown option -colr, did you mean --colour?");
    expect(ARGPARSE_END, NULL);
}

/* Against the definition, not the table of the implementation: all ways to mend the ends of two words. */
static unsigned mends(const char *a, size_t na, const char *b, size_t nb)
{
    if (na == 0 || nb == 0) return (unsigned)(na + nb);
    unsigned best = mends(a, na - 1, b, nb - 1) + (a[na - 1] != b[nb - 1]);
    unsigned drop = mends(a, na - 1, b, nb) + 1, add = mends(a, na, b, nb - 1) + 1;
    if (drop < best) best = drop;
    if (add < best) best = add;
    if (na > 1 && nb > 1 && a[na - 1] == b[nb - 2] && a[na - 2] == b[nb - 1]) {
        unsigned swap = mends(a, na - 2, b, nb - 2) + 1;
        if (swap < best) best = swap;
    }
    return best;
}

static void distances(void **state)
{
    static const char *const words[] = {"", "a", "temp", "tmep", "tepm", "rn", "run", "trun", "chat", "caht", "plan"};
    const size_t n = sizeof words / sizeof *words;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            assert_int_equal(argparse_distance(words[i], words[j]),
                             mends(words[i], strlen(words[i]), words[j], strlen(words[j])));
    char longest[65];
    memset(longest, 'x', sizeof longest);
    longest[64] = 0;
    assert_int_equal(argparse_distance(longest, "x"), 1000);
    longest[63] = 0;
    assert_int_equal(argparse_distance(longest, "x"), 62);
    assert_int_equal(argparse_distance("tmep", "temp"), 1);
    assert_true(argparse_is_near("rn", 1) && argparse_is_near("tmep", 1));
    assert_false(argparse_is_near("x", 1) || argparse_is_near("tmep", 2));
}

static void positionals(void **state)
{
    START("model", "-", "-v", "--", "-v", "--prompt", "");
    expect(ARGPARSE_POSITIONAL, "model");
    expect(ARGPARSE_POSITIONAL, "-");
    expect(VERBOSE, NULL);
    expect(ARGPARSE_POSITIONAL, "-v");
    expect(ARGPARSE_POSITIONAL, "--prompt");
    expect(ARGPARSE_POSITIONAL, "");
    expect(ARGPARSE_END, NULL);
}

static void a_value_may_look_like_an_option(void **state)
{
    START("-p", "-v", "--prompt", "--quiet", "-n", "-1");
    expect(PROMPT, "-v");
    expect(PROMPT, "--quiet");
    expect(COUNT, "-1");
    expect(ARGPARSE_END, NULL);
}

static void mistakes_are_named(void **state)
{
    START("--promp", "--verbose=1", "-x", "-vx", "--prompts", "-n");
    expect(ARGPARSE_ERROR, NULL);
    assert_string_equal(parser.message, "unknown option --promp, did you mean --prompt?");
    expect(ARGPARSE_ERROR, NULL);
    assert_string_equal(parser.message, "option --verbose=1 takes no value");
    expect(ARGPARSE_ERROR, NULL);
    assert_string_equal(parser.message, "unknown option -x");
    expect(VERBOSE, NULL);
    expect(ARGPARSE_ERROR, NULL);
    expect(ARGPARSE_ERROR, NULL);
    assert_string_equal(parser.message, "unknown option --prompts, did you mean --prompt?");
    expect(ARGPARSE_ERROR, NULL);
    assert_string_equal(parser.message, "option -n needs a value");
    expect(ARGPARSE_END, NULL);
}

static void long_names_do_not_overflow_the_message(void **state)
{
    char name[2000] = "--";
    for (size_t i = 2; i < sizeof name - 1; i++) name[i] = 'x';
    START(name);
    assert_int_equal(argparse_next(&parser), ARGPARSE_ERROR);
    assert_true(parser.message[sizeof parser.message - 1] == 0);
}

static void nothing(void **state)
{
    start(0, NULL);
    expect(ARGPARSE_END, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(long_options),
        cmocka_unit_test(letters),
        cmocka_unit_test(negation),
        cmocka_unit_test(other_names),
        cmocka_unit_test(distances),
        cmocka_unit_test(positionals),
        cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(a_value_may_look_like_an_option),
        cmocka_unit_test(nothing),
        cmocka_unit_test(long_names_do_not_overflow_the_message),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
