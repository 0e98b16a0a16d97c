/* test_calls_grammar.c - texts in which tools may be called, or must be: random texts of the grammar are read by calls.c, whose names and arguments
 * must be those of the tools; and texts that are right and wrong, in every format. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/grammar/call_grammar.h"
#include "runtime/grammar/matcher.h"
#include "runtime/grammar/schema.h"
#include "grammar_accepts.h"

static const char search_schema[] =
    "{\"type\":\"object\",\"properties\":{\"q\":{\"type\":\"string\",\"maxLength\":6},\"n\":{\"type\":\"integer\","
    "\"minimum\":0,\"maximum\":99},\"kind\":{\"enum\":[\"new\",\"old\",\"7\",7]},\"unit\":{\"type\":\"string\","
    "\"enum\":[\"km\",\"mi\"]},\"deep\":{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"array\",\"items\":{"
    "\"type\":\"string\",\"pattern\":\"^[a-c]{1,2}$\"},\"maxItems\":2}},\"required\":[\"a\"],"
    "\"additionalProperties\":false},\"maybe\":{\"type\":[\"boolean\",\"null\"]}},\"required\":[\"q\",\"kind\"],"
    "\"additionalProperties\":false}";
static const char open_schema[] = "{\"type\":\"object\",\"properties\":{\"x\":{\"$ref\":\"#/$defs/half\"}},"
                                  "\"$defs\":{\"half\":{\"type\":\"number\",\"multipleOf\":0.5,\"minimum\":0,"
                                  "\"maximum\":9}},\"additionalProperties\":{\"type\":\"boolean\"}}";

static char *tools_text(void)
{
    static char text[4096];
    snprintf(text, sizeof text,
             "[{\"type\":\"function\",\"function\":{\"name\":\"search\",\"parameters\":%s}},{\"name\":\"now\"},"
             "{\"type\":\"function\",\"function\":{\"name\":\"set\",\"parameters\":%s}}]",
             search_schema, open_schema);
    return text;
}

static const struct style {
    kvi_call_style style;
    kvi_call_format format;
    uint32_t single;
} styles[] = {{KVI_CALL_STYLE_JSON, KVI_CALLS_TAG, 0},
              {KVI_CALL_STYLE_JSON, KVI_CALLS_TAG, 3},
              {KVI_CALL_STYLE_FUNCTION, KVI_CALLS_TAG, 3},
              {KVI_CALL_STYLE_FUNCTION, KVI_CALLS_TAG, 0},
              {KVI_CALL_STYLE_ARG_KEY, KVI_CALLS_TAG, 0x1e03},
              {KVI_CALL_STYLE_ARG_KEY, KVI_CALLS_TAG, 0},
              {KVI_CALL_STYLE_LLAMA, KVI_CALLS_LLAMA, 4},
              {KVI_CALL_STYLE_LIST, KVI_CALLS_MISTRAL, 8},
              {KVI_CALL_STYLE_ARGS, KVI_CALLS_MISTRAL, 0x38},
              {KVI_CALL_STYLE_GEMMA, KVI_CALLS_GEMMA, 0x1c0},
              {KVI_CALL_STYLE_HARMONY, KVI_CALLS_HARMONY, 0x3e000}};
enum { STYLES = sizeof styles / sizeof *styles };

static kvrt_status compile(const struct style *s, const char *tools, const char *schema, bool required,
                           const char *only, kvi_grammar **out, kvrt_error *error)
{
    kvi_arena arena;
    kvi_arena_init(&arena, 1u << 14);
    kvi_call_rules rules = {.style = s->style, .single = s->single, .required = required};
    *error = (kvrt_error){.size = sizeof *error};
    if (only) rules.only = only, rules.only_len = strlen(only);
    assert_int_equal(kvi_json_tree(tools, strlen(tools), "tools", &arena, &rules.tools, error), KVRT_OK);
    if (schema)
        assert_int_equal(kvi_json_tree(schema, strlen(schema), "schema", &arena, &rules.schema, error), KVRT_OK);
    const kvrt_status status = kvi_call_grammar(&rules, kvi_grammar_default_limits(), out, error);
    kvi_arena_free(&arena);
    return status;
}

static uint64_t luck = 88172645463325252u;
static unsigned roll(unsigned n)
{
    luck ^= luck << 13, luck ^= luck >> 7, luck ^= luck << 17;
    return (unsigned)(luck >> 11) % n;
}

/* A random text of the grammar: bytes by class, so that rare ones come up, and where it may end an end one time in `stay`. False: too long. */
static bool random_text(kvi_grammar *g, unsigned stay, kvi_buf *out)
{
    kvi_matcher m;
    bool fits, done = false;
    kvi_buf_clear(out);
    assert_int_equal(kvi_matcher_init(&m, g, NULL), KVRT_OK);
    while (out->len < 3000 && !done) {
        uint8_t can[256];
        unsigned n = 0;
        assert_int_equal(kvi_matcher_prepare(&m, NULL), KVRT_OK);
        for (uint32_t c = 0; c < g->n_classes; c++)
            if (kvi_matcher_step(&m, m.at, c) != KVI_SPOT_DEAD) can[n++] = (uint8_t)c;
        done = kvi_matcher_accepts(&m) && (n == 0 || roll(stay) == 0);
        if (done) break;
        assert_true(n > 0);
        const uint32_t c = can[roll(n)];
        uint8_t byte;
        do byte = (uint8_t)roll(256);
        while (g->classes[byte] != c);
        assert_int_equal(kvi_matcher_take(&m, (char *)&byte, 1, &fits, NULL), KVRT_OK);
        assert_true(fits);
        kvi_buf_append_byte(out, (char)byte);
    }
    kvi_matcher_free(&m);
    return done;
}

typedef struct reader {
    kvi_grammar *search, *set;
    kvi_buf arguments;
    char name[16], said[2048];
    unsigned n_calls, n_cut;
    bool text; /* that is no white space */
} reader;

static void note(void *user, kvi_call_news news, const char *text, size_t len, uint32_t call)
{
    reader *r = user;
    (void)call;
    if (news == KVI_CALL_TEXT)
        for (size_t i = 0; i < len; i++) r->text |= !strchr(" \t\n", text[i]);
    if (news == KVI_CALL_BEGINS) {
        assert_true(len < sizeof r->name);
        memcpy(r->name, text, len);
        r->name[len] = 0;
        kvi_buf_clear(&r->arguments);
    }
    if (news == KVI_CALL_ARGUMENTS) kvi_buf_append(&r->arguments, text, len);
    if (news != KVI_CALL_ENDS) return;
    r->n_calls++;
    r->n_cut += len > 0;
    const char *a = r->arguments.data;
    const size_t n = r->arguments.len;
    bool ok =
        strcmp(r->name, "now") == 0 && n >= 2 && a[0] == '{' && a[n - 1] == '}' && strspn(a + 1, " \t\n") >= n - 2;
    if (strcmp(r->name, "search") == 0) ok = accepts(r->search, a, n);
    if (strcmp(r->name, "set") == 0) ok = accepts(r->set, a, n);
    if (!ok) fail_msg("%s(%.*s)", r->name, (int)n, a);
}

/* As the engine hands it on: marks spelled; of gpt-oss the calls alone, by their headers. */
static void read_text(reader *r, const struct style *s, const kvi_buf *bytes, const kvi_json_value *tools)
{
    kvi_calls calls = {.format = s->format, .fn = note, .user = r, .tools = tools};
    kvi_buf text = {0};
    for (size_t i = 0; i < bytes->len; i++) {
        const uint8_t b = (uint8_t)bytes->data[i];
        if (b != KVI_CALL_MARK) kvi_buf_append_byte(&text, b ? (char)b : '0'); /* strstr reads it */
        else if (bytes->data[++i]) kvi_buf_append_str(&text, kvi_call_marks[bytes->data[i] - 1]);
    }
    kvi_buf_append_byte(&text, 0);
    const char *p = text.data;
    if (s->format == KVI_CALLS_HARMONY) {
        for (const char *message; (message = strstr(p, "<|message|>")) != NULL;) {
            const char *end = strstr(message, "<|end|>"), *to = strstr(p, "to=functions.");
            if (to && to < message) {
                to += strlen("to=functions.");
                const char *body = message + strlen("<|message|>");
                assert_true(kvi_calls_open(&calls, to, strcspn(to, " <")));
                assert_true(kvi_calls_push(&calls, body, end ? (size_t)(end - body) : strlen(body)));
                assert_true(kvi_calls_close(&calls));
            } else r->text = true;
            p = end ? end + 1 : message + strlen(message);
        }
    } else {
        assert_true(kvi_calls_push(&calls, text.data, text.len - 1));
        assert_true(kvi_calls_finish(&calls));
    }
    kvi_calls_free(&calls);
    kvi_buf_free(&text);
}

static void random_texts_hold_right_calls(void **state)
{
    (void)state;
    kvrt_error error = {.size = sizeof error};
    kvi_arena arena;
    kvi_json_value *tools;
    kvi_buf text = {0};
    reader r = {0};
    const kvi_grammar_limits limits = kvi_grammar_default_limits();
    kvi_arena_init(&arena, 1u << 14);
    assert_int_equal(kvi_json_tree(tools_text(), strlen(tools_text()), "tools", &arena, &tools, &error), KVRT_OK);
    assert_int_equal(kvi_schema_compile(search_schema, strlen(search_schema), limits, &r.search, &error), KVRT_OK);
    assert_int_equal(kvi_schema_compile(open_schema, strlen(open_schema), limits, &r.set, &error), KVRT_OK);
    for (unsigned i = 0; i < STYLES * 3; i++) {
        const struct style *s = &styles[i / 3];
        const bool required = i % 3 > 0, only = i % 3 == 2;
        kvi_grammar *g;
        unsigned n_done = 0, n_calls = 0;
        if (compile(s, tools_text(), NULL, required, only ? "search" : NULL, &g, &error) != KVRT_OK)
            fail_msg("style %d: %s", s->style, error.message);
        for (unsigned k = 0; k < 150; k++) {
            if (!random_text(g, required ? 2 : 60, &text)) continue;
            n_done++;
            r.n_calls = r.n_cut = 0, r.text = false;
            read_text(&r, s, &text, tools);
            n_calls += r.n_calls;
            const bool right = r.n_cut == 0 &&
                               (!required || (r.n_calls > 0 && (s->format == KVI_CALLS_HARMONY || !r.text))) &&
                               (!only || (r.n_calls == 1 && strcmp(r.name, "search") == 0));
            if (!right) fail_msg("style %d, %u calls: %.*s", s->style, r.n_calls, (int)text.len, text.data);
        }
        /* Free text seldom spells a mark of letters. */
        if (n_done < 20 || (required && n_calls < n_done))
            fail_msg("style %d: %u texts, %u calls", s->style, n_done, n_calls);
        kvi_grammar_free(g);
    }
    kvi_buf_free(&text);
    kvi_buf_free(&r.arguments);
    kvi_grammar_free(r.search);
    kvi_grammar_free(r.set);
    kvi_arena_free(&arena);
}

#define OPEN "\xff\x01"
#define CLOSE "\xff\x02"
#define OTHER "\xff\x00"
#define CHANNEL "\xff\x0f"
#define MESSAGE "\xff\x10"
#define END "\xff\x11\xff\x0e"
static const struct {
    unsigned style; /* in styles */
    const char *text;
    bool automatic, required;
} cases[] = {
    {0, "Hello, {\"name\": 1} <tool_cal <tool>", true, false},
    {0,
     "a <tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call> b "
     "<tool_call>\n{\"name\":\"now\",\"arguments\":{}}\n</tool_call>",
     true, false},
    {0,
     "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\": \"search\", "
     "\"arguments\": {\"q\": \"\\u00e9\", \"kind\": 7}}\n</tool_call>",
     true, true},
    {0, "<tool_call>{\"name\": \"then\", \"arguments\": {}}</tool_call>", false, false},
    {0, "<tool_call>{\"name\": \"search\", \"arguments\": {\"q\": \"1234567\", \"kind\": 7}}</tool_call>", false,
     false},
    {0, "<tool_call>{\"name\": \"search\", \"arguments\": {\"kind\": 7}}</tool_call>", false, false},
    {0, "<tool_call>{\"name\": \"now\", \"arguments\": {\"x\": 1}}</tool_call>", false, false},
    {0, "<tool_call> no", false, false},
    {1, "so " OPEN "\n{\"name\": \"set\", \"arguments\": {\"x\": 2.5, \"on\": true}}\n" CLOSE "\n", true, false},
    {1, "so " OPEN "\n{\"name\": \"set\", \"arguments\": {\"x\": 2.25}}\n" CLOSE, false, false},
    {1, OPEN "{\"name\": \"now\", \"arguments\": {}}</tool_call>", false, false}, /* the mark is a token */
    {2,
     OPEN "\n<function=search>\n<parameter=q>\na\n\"b\n</parameter>\n<parameter=kind>\nold\n</"
          "parameter>\n<parameter=unit>\nkm\n</parameter>\n<parameter=deep>\n{\"a\": "
          "[\"ab\"]}\n</parameter>\n</function>\n" CLOSE,
     true, true},
    {2, OPEN "<function=search><parameter=q>\n\n</parameter><parameter=kind>\n7\n</parameter></function>" CLOSE, true,
     true},
    {2,
     OPEN
     "<function=search>\n<parameter=q>\na\n</parameter>\n<parameter=kind>\nolder\n</parameter>\n</function>\n" CLOSE,
     false, false},
    {2,
     OPEN "<function=search>\n<parameter=q>\na\n</parameter>\n<parameter=kind>\nold\n</"
          "parameter>\n<parameter=n>\n100\n</parameter>\n</function>\n" CLOSE,
     false, false},
    {2, OPEN "<function=set>\n<parameter=y>\ntrue\n</parameter>\n</function>\n" CLOSE, true, true},
    {2, OPEN "<function=set>\n<parameter=y>\n1\n</parameter>\n</function>\n" CLOSE, false, false},
    {2, OPEN "<function=now>\n</function>\n" CLOSE, true, true},
    {5,
     "<tool_call>search\n<arg_key>q</arg_key>\n<arg_value>true</arg_value>\n<arg_key>kind</arg_key>\n<arg_value>\"7\"</"
     "arg_value>\n</tool_call>",
     true, true},
    {5, "<tool_call>search\n<arg_key>q</arg_key>\n<arg_value>true</arg_value>\n</tool_call>", false, false},
    {5, "<tool_call>now</tool_call>", true, true},
    {6, "{\"name\": \"now\", \"parameters\": {}}", true, true},
    {6, "{\"type\": \"function\", \"name\": \"set\", \"parameters\": {\"x\": 1}}", true, true},
    {6, "{\"name\": \"then\", \"parameters\": {}}", false, false},
    {6, " {\"names\": 1} {\"name\": \"then\"}", true, false},
    {6, "Hi \xff\x03{\"name\": \"now\", \"parameters\": {}}", true, false},
    {7,
     "\xff\x04[{\"name\": \"now\", \"arguments\": {}}, {\"name\": \"set\", \"arguments\": {}, \"id\": \"abcdefgh1\"}]",
     true, true},
    {7, "\xff\x04[{\"name\": \"now\", \"arguments\": []}]", false, false},
    {8, "x\xff\x04now\xff\x05{}\xff\x04set\xff\x05{\"x\": 1}", true, false},
    {8, "\xff\x04now[ARGS]{}", false, false},
    {9,
     "\xff\x07"
     "call:search{q:\xff\x09{\"}\xff\x09,kind:7,deep:{a:[\xff\x09"
     "ab\xff\x09]}}\xff\x08",
     true, true},
    {9,
     "\xff\x07"
     "call:search{q:<|\"|>a<|\"|>,kind:7}\xff\x08",
     false, false},
    {9,
     "\xff\x07"
     "call:search{q:\xff\x09"
     "1234567\xff\x09,kind:7}\xff\x08",
     false, false},
    {10,
     CHANNEL "analysis" MESSAGE "to=functions.x?" END "assistant" CHANNEL
             "commentary to=functions.set \xff\x12json" MESSAGE "{\"x\": 1}",
     true, true},
    {10, " to=functions.now" CHANNEL "commentary json" MESSAGE "{}", true, true},
    {10, CHANNEL "final" MESSAGE "Hello <|end|>", true, false},
    {10, CHANNEL "commentary to=functions.then" MESSAGE "{}", false, false},
    {10, CHANNEL "commentary to=functions.set" MESSAGE "{\"x\": 1.3}", false, false},
};

static void right_and_wrong_texts(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (unsigned required = 0; required < 2; required++) {
            kvrt_error error;
            kvi_grammar *g;
            assert_int_equal(compile(&styles[cases[i].style], tools_text(), NULL, required, NULL, &g, &error), KVRT_OK);
            const bool want = required ? cases[i].required : cases[i].automatic;
            if (accepts(g, cases[i].text, strlen(cases[i].text)) != want)
                fail_msg("case %zu, required %u: %s", i, required, cases[i].text);
            kvi_grammar_free(g);
        }
}

/* In free text anything goes, bytes that are no UTF-8 and other special tokens too. */
static void free_text_is_free(void **state)
{
    (void)state;
    for (unsigned i = 0; i < STYLES - 1; i++) {
        kvrt_error error;
        kvi_grammar *g;
        static const char text[] = "\x80 <|x|> [ARGS ]\n\n\xfe\xff\x00 {\"\0";
        assert_int_equal(compile(&styles[i], tools_text(), NULL, false, NULL, &g, &error), KVRT_OK);
        assert_true(accepts(g, text, sizeof text - 1));
        kvi_grammar_free(g);
    }
}

static void a_schema_beside_tools(void **state)
{
    (void)state;
    static const char schema[] = "{\"type\":\"array\",\"items\":{\"type\":\"integer\"}}";
    static const char list[] = "[1, 2]", other[] = "[1, x]", harmony_list[] = CHANNEL "final" MESSAGE "[1, 2]",
                      harmony_other[] = CHANNEL "final" MESSAGE "[1, x]";
    for (unsigned i = 0; i < STYLES; i++) {
        kvrt_error error;
        kvi_grammar *g;
        const bool harmony = styles[i].style == KVI_CALL_STYLE_HARMONY;
        assert_int_equal(compile(&styles[i], tools_text(), schema, false, NULL, &g, &error), KVRT_OK);
        assert_true(accepts(g, harmony ? harmony_list : list, strlen(harmony ? harmony_list : list)));
        assert_false(accepts(g, harmony ? harmony_other : other, strlen(harmony ? harmony_other : other)));
        kvi_grammar_free(g);
    }
}

static void what_is_refused(void **state)
{
    (void)state;
    static const char strict[] =
        "[{\"name\":\"f\",\"strict\":true,\"parameters\":{\"type\":\"object\",\"properties\":{\"a\":{"
        "\"type\":\"array\",\"contains\":{}}}}}]";
    static const char loose[] = "[{\"name\":\"f\",\"parameters\":{\"type\":\"object\",\"properties\":{\"a\":{"
                                "\"type\":\"array\",\"contains\":{}}}}}]";
    static const char any[] = "{\"name\": \"f\", \"parameters\": {\"b\": [1]}}";
    for (unsigned i = 0; i < STYLES; i++) {
        kvrt_error error;
        kvi_grammar *g;
        assert_int_equal(compile(&styles[i], strict, NULL, false, NULL, &g, &error), KVRT_GRAMMAR);
        assert_non_null(strstr(error.message, "gen.tools: /0/parameters/properties/a/contains"));
        assert_int_equal(compile(&styles[i], loose, NULL, true, NULL, &g, &error), KVRT_OK);
        if (styles[i].style == KVI_CALL_STYLE_LLAMA) assert_true(accepts(g, any, strlen(any)));
        kvi_grammar_free(g);
        assert_int_equal(compile(&styles[i], loose, NULL, true, "g", &g, &error), KVRT_ARG);
        assert_non_null(strstr(error.message, "no tool is named g"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_texts_hold_right_calls),
                                       cmocka_unit_test(right_and_wrong_texts), cmocka_unit_test(free_text_is_free),
                                       cmocka_unit_test(a_schema_beside_tools), cmocka_unit_test(what_is_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
