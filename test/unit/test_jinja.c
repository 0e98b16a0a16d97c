/* test_jinja.c - the template interpreter against goldens made by Python's Jinja2 (test/golden/templates), hostile
 * templates within their limits, places of errors. */
#include "chat_cases.h"
#include "cpu_time.h"
#include "runtime/base/os.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static chat_slice context;
static int n_cases, n_bad;

static kvrt_status render(const char *source, size_t len, chat_slice with, kvi_chat_text *text, kvrt_error *error)
{
    kvi_chat_template *t = NULL;
    kvrt_status status = kvi_chat_template_parse(source, len, "test", &t, error);
    if (status >= 0) status = chat_render(t, with, text, error);
    kvi_chat_template_free(t);
    return status;
}

/* Where this engine refuses and Python does not: each is a decision, named here. */
static bool refused_on_purpose(const char *message)
{
    return strstr(message, "not supported") || strstr(message, "unsupported");
}

static void check_case(chat_slice item, void *user)
{
    size_t len, want_len = 0, error_len = 0;
    char *source = chat_string(chat_member(item, "template"), &len),
         *want = chat_string(chat_member(item, "output"), &want_len);
    char *exception = chat_string(chat_member(item, "error"), &error_len);
    kvi_chat_text text = {0};
    kvrt_error error = {.size = sizeof error};
    kvrt_status status = render(source, len, context, &text, &error);
    bool equal = want && status == KVRT_OK && text.text.len == want_len &&
                 memcmp(text.text.data ? text.text.data : "", want, want_len) == 0;
    bool good = want ? equal || (status < 0 && refused_on_purpose(error.message)) : status < 0;
    n_cases++;
    if (!good) {
        n_bad++;
        print_error("%s\nexpected: %s\nfound:    %s\n", source, want ? want : exception,
                    status < 0 ? error.message : text.text.data);
    }
    kvi_chat_text_free(&text);
    free(source), free(want), free(exception);
}

static void goldens_equal(void **state)
{
    size_t len;
    char *json = chat_read_file(KVRT_TEST_DIR "/golden/templates/cases.json", &len);
    assert_non_null(json);
    context = chat_member((chat_slice){json, len}, "context");
    chat_each(chat_member((chat_slice){json, len}, "cases"), check_case, NULL);
    print_message("%d templates\n", n_cases);
    assert_true(n_cases > 300);
    assert_int_equal(n_bad, 0);
    free(json);
}

/* ------------------------------------------------------------------------------------------------------ snippets
 * --- */
static int n_refused;

/* [template, output]; null where Python raises. */
static void check_snippet(chat_slice item, void *user)
{
    chat_slice parts[2] = {{NULL, 0}, {NULL, 0}};
    size_t len, want_len = 0;
    chat_items(item, parts, 2);
    char *source = chat_string(parts[0], &len), *want = chat_string(parts[1], &want_len);
    kvi_chat_text text = {0};
    kvrt_error error = {.size = sizeof error};
    kvrt_status status = render(source, len, context, &text, &error);
    bool refused = status < 0 && strstr(error.message, "supported");
    bool equal = want && status == KVRT_OK && text.text.len == want_len &&
                 (!want_len || !memcmp(text.text.data, want, want_len));
    bool placed = status >= 0 || (strstr(error.message, "line ") && strstr(error.message, "column "));
    n_cases++;
    n_refused += want && refused;
    if (!placed || !(want ? equal || refused : status < 0)) {
        n_bad++;
        print_error("%s\nexpected: %s\nfound:    %s\n", source, want ? want : "an error",
                    status < 0 ? error.message : text.text.data);
    } else if (want && refused) print_message("refused: %s: %s\n", source, error.message);
    kvi_chat_text_free(&text);
    free(source), free(want);
}

/* Every filter, test, method, operator and statement as Python's Jinja2, but for the few that are refused by name. */
static void snippets_equal(void **state)
{
    size_t len;
    char *json = chat_read_file(KVRT_TEST_DIR "/golden/templates/snippets.json", &len);
    assert_non_null(json);
    context = chat_member((chat_slice){json, len}, "context");
    n_cases = n_bad = n_refused = 0;
    chat_each(chat_member((chat_slice){json, len}, "cases"), check_snippet, NULL);
    print_message("%d snippets, %d differ, %d refused\n", n_cases, n_bad, n_refused);
    assert_true(n_cases > 2500);
    assert_int_equal(n_bad, 0);
    assert_true(n_refused < 40);
    free(json);
}

/* ------------------------------------------------------------------------------------------------------- hostile
 * --- */
static char *repeated(const char *head, const char *piece, size_t times, const char *tail)
{
    size_t n = strlen(piece), at = strlen(head);
    char *out = malloc(at + n * times + strlen(tail) + 1);
    memcpy(out, head, at);
    for (size_t i = 0; i < times; i++, at += n) memcpy(out + at, piece, n);
    strcpy(out + at, tail);
    return out;
}

/* Ends in an error, soon, in little memory: in a tenth of a second of an idle machine, in hours without a limit. */
static void must_fail(const char *label, const char *source)
{
    uint64_t before, peak_before, start = cpu_us();
    kvi_chat_text text = {0};
    kvrt_error error = {.size = sizeof error};
    static const char messages[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"hello\"}]}";
    kvi_mem_stats(&before, NULL, &peak_before);
    kvrt_status status = render(source, strlen(source), (chat_slice){messages, sizeof messages - 1}, &text, &error);
    uint64_t us = cpu_us() - start, after;
    kvi_mem_stats(&after, NULL, NULL);
    print_message("%-28s %4llu ms  %.100s\n", label, (unsigned long long)us / 1000,
                  status < 0 ? error.message : "no error");
    kvi_chat_text_free(&text);
    assert_true(status == KVRT_TEMPLATE);
    assert_int_equal(before, after);
    assert_true(us < 2000000);
}

static void hostile_templates_end(void **state)
{
    static const char *const plain[][2] = {
        {"three loops", "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}x{% endfor "
                        "%}{% endfor %}{% endfor %}"},
        {"empty loops", "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"},
        {"doubling", "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% "
                     "endfor %}{{ ns.s }}"},
        {"repetition", "{{ 'abcdefgh' * 1000000000 }}"},
        {"list repetition", "{{ ([1] * 100000000) | length }}"},
        {"nested lists",
         "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}"},
        {"deep list", "{% set ns = namespace(l=[1]) %}{% for i in range(5000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ "
                      "ns.l | tojson }}"},
        {"list compare", "{% set a = namespace(l=[1]) %}{% set b = namespace(l=[1]) %}{% for i in range(60) %}{% set "
                         "a.l = [a.l, a.l] %}{% set b.l = [b.l, b.l] %}{% endfor %}{{ a.l == b.l }}"},
        {"recursion", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"},
        {"two macros",
         "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}"},
        {"join", "{{ range(99999) | join('x' * 100000) }}"},
        {"replace", "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}"},
        {"range", "{{ range(1000000000000) }}"},
        {"indent", "{{ ('a\\n' * 10000) | indent(100000) }}"},
        {"batch", "{{ [1] | batch(100000000000, 1) | list }}"},
        {"json indent", "{{ [[[[[[1]]]]]] | tojson(indent=1000000) }}"},
        {"power", "{{ 10 ** (10 ** 10) }}"},
        {"slices", "{% for i in range(90000) %}{{ ('x' * 50000)[::-1] }}{% endfor %}"},
        {"sorts", "{% for i in range(90000) %}{{ range(5000) | sort(reverse=true) | first }}{% endfor %}"},
        {"center", "{{ 'x' | center(1000000000) }}"},
        {"ljust", "{{ 'x'.ljust(10 ** 12) }}"},
        {"zfill", "{{ '1'.zfill(9223372036854775807) }}"},
        {"format width", "{{ '%999999999d' % 1 }}"},
        {"format digits", "{{ '%.999999999d' % 1 }}"},
        {"format precision", "{{ '%.999999999f' % 1.5 }}"},
        {"format star", "{{ '%*d' % (1000000000, 1) }}"},
        {"str.format width", "{{ '{:>2000000000}'.format(1) }}"},
        {"str.format zeros", "{{ '{:02000000000,}'.format(1) }}"},
        {"str.format nesting", "{{ '{:{:{}}}'.format(1, 2, 3) }}"},
        {"huge power", "{{ 2 ** (2 ** 70) }}"},
        {"growing integer",
         "{% set ns = namespace(i=9) %}{% for i in range(99) %}{% set ns.i = ns.i * ns.i %}{% endfor %}"},
        {"long divisions", "{% for i in range(99999) %}{% set x = 7 ** 5000 // 3 ** 4000 %}{% endfor %}"},
        {"huge literal", "{{ 1 ~ ('9' * 100000) | int }}{{ 1 / 0 }}"},
        {"slices of nothing", "{{ [] | slice(100000000000) | list }}"},
        {"wrapped dashes", "{{ ('a' ~ '-' * 100000) | wordwrap(1) }}{{ 1 / 0 }}"},
        {"wrapped words", "{% for i in range(90000) %}{{ ('ab-cd ' * 9000) | wordwrap(9) }}{% endfor %}"},
        {"tags", "{% for i in range(90000) %}{{ ('<a>' * 90000) | striptags }}{% endfor %}"},
        {"tabs", "{{ '\t'.expandtabs(1000000000) }}"},
        {"endless recursion", "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}"},
        {"spread", "{{ dict(*range(100000)) }}"},
        {"groups", "{% for i in range(90000) %}{{ range(90000) | groupby(none) | length }}{% endfor %}"},
        {"rsplits", "{% for i in range(90000) %}{{ (' a' * 90000).rsplit() | length }}{% endfor %}"},
        {"finds", "{% for i in range(90000) %}{{ ('x' * 500000).count('y') }}{% endfor %}"},
        {"strips",
         "{{ ('ab' * 300000).strip('ba' * 300000) }}{{ ('ab' * 300000).strip('cd' * 300000 + 'ab') }}{{ 1 / 0 }}"}};
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) must_fail(plain[i][0], plain[i][1]);
    struct {
        const char *label, *head, *piece, *tail;
        size_t times;
    } grown[] = {{"parentheses", "{{ ", "(", "", 100000},
                 {"lists", "{{ ", "[", "", 100000},
                 {"nots", "{{ ", "not ", "1 }}", 100000},
                 {"minus", "{{ ", "-", "1 }}", 100000},
                 {"blocks", "", "{% if 1 %}", "", 50000},
                 {"filters", "{{ 1", "|string", " }}", 60000},
                 {"attributes", "{{ d", ".a", " }}", 60000},
                 {"sums", "{{ 1", "+1", " }}", 60000},
                 {"conditions", "{{ 1", " if 1 else 1", " }}", 60000},
                 {"concats", "{{ 1", ".a()", " }}", 60000},
                 {"10 MB literal", "", "0123456789", "", 1000000},
                 {"10 MB string", "{{ '", "0123456789", "' }}", 1000000},
                 {"ands", "{{ x", " and x", " ~ ", 90000},
                 {"elifs", "{% if 0 %}", "{% elif 0 %}", "{{ 1 / 0 }}", 60000},
                 {"names", "{{ [", "a1,b2,c3,", "", 100000},
                 {"calls with content", "{% macro a(c) %}{% endmacro %}{{ 1 / 0 }}", "{{ a(m.content) }}", "", 30000},
                 {"loops", "", "{% for x in [1,2] %}", "", 80}};
    for (size_t i = 0; i < sizeof grown / sizeof *grown; i++) {
        char *source = repeated(grown[i].head, grown[i].piece, grown[i].times, grown[i].tail);
        must_fail(grown[i].label, source);
        free(source);
    }
}

/* -------------------------------------------------------------------------------------------------- places, tags
 * --- */
static void errors_name_their_place(void **state)
{
    static const struct {
        const char *source, *place;
    } cases[] = {{"a\nb {{ x.y }}", "line 2, column 7: UndefinedError: 'x' is undefined"},
                 {"{% if 1 %}\n\n  {% foo %}", "line 3, column 6:"},
                 {"{{ 1 +\n  }}", "line 2, column 3: TemplateSyntaxError"},
                 {"é{{ 1 / 0 }}", "line 1, column 7: ZeroDivisionError"},
                 {"{{ 'abc\n }}", "line 1, column 4: TemplateSyntaxError"},
                 {"{{ n | frob }}", "line 1, column 8: unknown or unsupported filter 'frob'"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kvi_chat_text text = {0};
        kvrt_error error = {.size = sizeof error};
        assert_true(render(cases[i].source, strlen(cases[i].source), (chat_slice){"{}", 2}, &text, &error) < 0);
        if (!strstr(error.message, cases[i].place)) fail_msg("%s: %s", cases[i].source, error.message);
        kvi_chat_text_free(&text);
    }
}

/* Bytes written by the template, the others as dots. */
static void tags(const char *source, const char *messages, const char *expected)
{
    char with[600], shown[600];
    kvi_chat_text text = {0};
    kvrt_error error = {.size = sizeof error};
    snprintf(with, sizeof with, "{\"messages\": %s}", messages);
    if (render(source, strlen(source), (chat_slice){with, strlen(with)}, &text, &error) < 0)
        fail_msg("%s: %s", source, error.message);
    size_t n = 0;
    for (size_t i = 0; i < text.n_segments; i++)
        for (size_t k = 0; k < text.segments[i].len; k++)
            shown[n++] = text.segments[i].parse_special ? text.segments[i].text[k] : '.';
    shown[n] = 0;
    assert_string_equal(shown, expected);
    kvi_chat_text_free(&text);
}

static void text_keeps_its_origin(void **state)
{
    static const char one[] = "[{\"role\": \"user\", \"content\": \" <s>x \"}]";
    tags("<s>{{ messages[0].content }}</s>", one, "<s>......</s>");
    tags("{{ '<s>' + messages[0].content | trim + '</s>' }}", one, "<s>....</s>");
    tags("{{ ('<a>' ~ messages[0].content ~ '<b>').replace('<', '[[') }}", one, "[[a>.[[....[[b>");
    tags("{{ '<|' + messages[0]['role'] + '|>' }}", one, "<|user|>");
    tags("{{ messages[0].content | tojson }}{{ {'a': '<s>'} | tojson }}", one,
         "........"
         "............");
    tags("{% set x %}<s>{{ messages[0].content }}{% endset %}{{ x[1:6] | upper }}", one, "S>...");
    tags("{% macro m(t) %}<s>{{ t }}{% endmacro %}{{ m(messages[0].content) }}", one, "<s>......");
    tags("{{ ['<s>', messages[0].content] | join('|') }}", one, "<s>|......");
    tags("{{ messages[0].content.split('s')[0] }}{{ messages | length }}", one, "...");
    tags("{% for c in '<' + messages[0].content %}{{ c }}{% endfor %}", one, "<......");
    tags("{{ ['<s>', messages[0].content] }}", one, "..<s>............");
    tags("{{ messages[0].content }}{{ bos_token }}",
         "[{\"role\": \"user\", \"content\": \"<s>\", \"allow_special\": true}]", "<s><s>");
    tags("{{ messages[0].role }}", "[{\"role\": \"<s>\"}]", "...");
    tags("{{ messages[0].content }}",
         "[{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"<s>\"}, {\"type\": \"text\", \"text\": "
         "\"b\"}]}]",
         "....");
}

static void bad_messages_are_refused(void **state)
{
    static const struct {
        const char *messages, *text;
        kvrt_status status;
    } cases[] = {{"[{\"role\": \"user\", \"content\": [{\"type\": \"image\", \"url\": \"x\"}]}]",
                  "only text parts are supported, found a part of type image", KVRT_UNSUPPORTED},
                 {"[{\"content\": \"x\"}]", "message 0: no role", KVRT_ARG},
                 {"{}", "need a JSON array", KVRT_ARG},
                 {"[3]", "not a JSON object", KVRT_ARG},
                 {"[{\"role\": \"user\", \"content\": 3}]", "neither a string", KVRT_ARG},
                 {"[{\"role\"", "messages", KVRT_ARG},
                 {"[{\"role\": \"user\", \"content\": 1e400}]", "messages", KVRT_ARG}};
    kvi_chat_template *t = NULL;
    kvrt_error error = {.size = sizeof error};
    assert_int_equal(kvi_chat_template_parse("x", 1, "test", &t, &error), KVRT_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kvi_chat_text text = {0};
        kvi_chat_input input = {.messages = cases[i].messages, .messages_len = strlen(cases[i].messages)};
        kvrt_status status = kvi_chat_template_render(t, &input, &text, &error);
        if (status != cases[i].status || !strstr(error.message, cases[i].text))
            print_error("%s: %d %s\n", cases[i].messages, status, error.message);
        assert_true(status < 0);
        kvi_chat_text_free(&text);
    }
    kvi_chat_template_free(t);
}

/* Every allocation in turn fails: NOMEM_HOST, nothing leaks, the next rendering works. */
static void failing_allocations_are_survived(void **state)
{
    static const char source[] =
        "{% set ns = namespace(x=[]) %}{% for m in messages %}{% set ns.x = ns.x + [m.content | upper] %}"
        "{% endfor %}<s>{{ ns.x | tojson }}{{ messages[0].role }}{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1) }}";
    static const char with[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"hello\"}]}";
    uint64_t before, after, n = 1;
    kvrt_status status = KVRT_NOMEM_HOST;
    kvi_mem_stats(&before, NULL, NULL);
    for (; status < 0 && n < 200; n++) {
        kvi_chat_text text = {0};
        kvrt_error error = {.size = sizeof error};
        kvi_chat_template *t = NULL;
        kvi_mem_fail_nth(n);
        status = kvi_chat_template_parse(source, sizeof source - 1, "test", &t, &error);
        kvi_chat_input input = {.messages = with + 13, .messages_len = sizeof with - 15};
        if (status >= 0) status = kvi_chat_template_render(t, &input, &text, &error);
        kvi_mem_fail_nth(0);
        if (status < 0) assert_int_equal(status, KVRT_NOMEM_HOST);
        kvi_chat_text_free(&text);
        kvi_chat_template_free(t);
        kvi_mem_stats(&after, NULL, NULL);
        assert_int_equal(before, after);
    }
    assert_int_equal(status, KVRT_OK);
    assert_true(n > 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(goldens_equal),
                                       cmocka_unit_test(snippets_equal),
                                       cmocka_unit_test(errors_name_their_place),
                                       cmocka_unit_test(text_keeps_its_origin),
                                       cmocka_unit_test(bad_messages_are_refused),
                                       cmocka_unit_test(hostile_templates_end),
                                       cmocka_unit_test(failing_allocations_are_survived)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
