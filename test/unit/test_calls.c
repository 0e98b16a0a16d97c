/* test_calls.c - calls of tools out of a model's text, in every format, cut at every place. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "runtime/grammar/calls.h"

static const char tools[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"search\",\"parameters\":{\"type\":\"object\",\"properties\":{"
    "\"q\":{\"type\":"
    "\"string\"},\"n\":{\"type\":\"integer\"},\"deep\":{\"type\":\"object\"}}}}},{\"name\":\"now\",\"parameters\":{}}]";

/* What was told: text as it is, a call as <name|arguments>, a cut one as <name|arguments~>. */
typedef struct transcript {
    char said[2048];
    kvi_call_news last;
} transcript;

static void note(void *user, kvi_call_news news, const char *text, size_t len, uint32_t call)
{
    transcript *t = user;
    (void)call;
    if (news == KVI_CALL_BEGINS) strcat(t->said, "<");
    strncat(t->said, text, news == KVI_CALL_ENDS ? 0 : len);
    if (news == KVI_CALL_BEGINS) strcat(t->said, "|");
    if (news == KVI_CALL_ENDS) strcat(t->said, len ? "~>" : ">");
    t->last = news;
}

static const struct {
    kvi_call_format format;
    const char *text, *says;
} cases[] = {
    /* Hermes, Qwen 2.5, 3 */
    {KVI_CALLS_TAG,
     "Let me see.\n<tool_call>\n{\"name\": \"search\", \"arguments\": {\"q\": \"a \\\"b\\\" }\", \"n\": "
     "3}}\n</tool_call>",
     "Let me see.\n<search|{\"q\": \"a \\\"b\\\" }\", \"n\": 3}>"},
    {KVI_CALLS_TAG,
     "<tool_call>{\"name\":\"now\",\"arguments\":{}}</"
     "tool_call>\n<tool_call>{\"name\":\"search\",\"arguments\":{\"q\":\"<tool_call>\"}}</tool_call> done",
     "<now|{}>\n<search|{\"q\":\"<tool_call>\"}> done"},
    {KVI_CALLS_TAG, "<tool_call>{\"arguments\": {\"n\": [1, {\"x\": \"]\"}]}, \"name\": \"search\"}</tool_call>",
     "<search|{\"n\": [1, {\"x\": \"]\"}]}>"},
    {KVI_CALLS_TAG, "<tool_call>{\"name\": \"now\"}</tool_call>", "<now|{}>"},
    {KVI_CALLS_TAG, "<tool_call>{\"name\": \"search\", \"arguments\": \"{\\\"q\\\": 1}\"}</tool_call>",
     "<search|{\"q\": 1}>"},
    {KVI_CALLS_TAG, "no call <tool and 1 < 2 <tool_cal", "no call <tool and 1 < 2 <tool_cal"},
    {KVI_CALLS_TAG, "<tool_call>{\"name\": \"search\", \"arguments\": {\"q\": \"cu", "<search|{\"q\": \"cu~>"},
    {KVI_CALLS_TAG, "<tool_call>{\"na", "<tool_call>{\"na"},
    {KVI_CALLS_TAG, "<tool_call>{nothing}</tool_call>", "<tool_call>{nothing}</tool_call>"},
    /* Qwen3-Coder */
    {KVI_CALLS_TAG,
     "I look.\n<tool_call>\n<function=search>\n<parameter=q>\n12 "
     "<b>\nlines\n</parameter>\n<parameter=n>\n3\n</parameter>\n<parameter=deep>\n{\"a\": "
     "[1]}\n</parameter>\n</function>\n</tool_call>",
     "I look.\n<search|{\"q\": \"12 <b>\\nlines\", \"n\": 3, \"deep\": {\"a\": [1]}}>"},
    {KVI_CALLS_TAG, "<tool_call>\n<function=now>\n</function>\n</tool_call>", "<now|{}>"},
    {KVI_CALLS_TAG, "<tool_call><function=search><parameter=q>12</parameter></function></tool_call>",
     "<search|{\"q\": \"12\"}>"},
    {KVI_CALLS_TAG, "<tool_call><function=search><parameter=q>1", "<search|{~>"},
    /* GLM 4.5, 4.6 */
    {KVI_CALLS_TAG,
     "\n<tool_call>search\n<arg_key>q</arg_key>\n<arg_value>true</arg_value>\n<arg_key>n</arg_key>\n<arg_value>7</"
     "arg_value>\n</tool_call>",
     "\n<search|{\"q\": \"true\", \"n\": 7}>"},
    {KVI_CALLS_TAG, "<tool_call>now\n</tool_call>", "<now|{}>"},
    /* Llama 3.x */
    {KVI_CALLS_LLAMA, "{\"name\": \"search\", \"parameters\": {\"q\": \"x\"}}", "<search|{\"q\": \"x\"}>"},
    {KVI_CALLS_LLAMA, "<|python_tag|>{\"type\": \"function\", \"name\": \"search\", \"parameters\": {\"n\": 1}}",
     "<search|{\"n\": 1}>"},
    {KVI_CALLS_LLAMA, "{\"name\": \"now\", \"parameters\": {}} <|python_tag|>{\"name\": \"now\", \"parameters\": {}}",
     "<now|{}> <now|{}>"},
    {KVI_CALLS_LLAMA, "Hello {\"name\": \"search\", \"parameters\": {}}",
     "Hello {\"name\": \"search\", \"parameters\": {}}"},
    {KVI_CALLS_LLAMA, " {\"a\": 1} is JSON", " {\"a\": 1} is JSON"},
    /* Mistral */
    {KVI_CALLS_MISTRAL,
     "[TOOL_CALLS][{\"name\": \"search\", \"arguments\": {\"q\": \"a\"}}, {\"name\": \"now\", \"arguments\": {}}]",
     "<search|{\"q\": \"a\"}><now|{}>"},
    {KVI_CALLS_MISTRAL, "Sure.[TOOL_CALLS]search[ARGS]{\"q\": \"[TOOL_CALLS]\"}[TOOL_CALLS]now[CALL_ID]ab12[ARGS]{}",
     "Sure.<search|{\"q\": \"[TOOL_CALLS]\"}><now|{}>"},
    {KVI_CALLS_MISTRAL, "[TOOL_CALLS] [ {\"name\": \"now\", \"arguments\": {}} ] bye", "<now|{}> bye"},
    /* Gemma 4 */
    {KVI_CALLS_GEMMA,
     "Ok<|tool_call>call:search{q:<|\"|>a, \"b\"{}<|\"|>,n:3,deep:{x:[1,true,null],y:<|\"|><|\"|>}}<tool_call|>.",
     "Ok<search|{\"q\":\"a, \\\"b\\\"{}\",\"n\":3,\"deep\":{\"x\":[1,true,null],\"y\":\"\"}}>."},
    {KVI_CALLS_GEMMA, "<|tool_call>call:now{}<tool_call|><|tool_call>call:now{}<tool_call|>", "<now|{}><now|{}>"},
    {KVI_CALLS_GEMMA, "<|tool_call>what<tool_call|>", "<|tool_call>what<tool_call|>"},
};

static void run(const kvi_json_value *list, size_t i, size_t first, size_t step, transcript *t)
{
    kvi_calls c = {.format = cases[i].format, .fn = note, .user = t, .tools = list};
    const size_t len = strlen(cases[i].text);
    t->said[0] = 0;
    for (size_t at = 0; at < len;) {
        size_t n = at == 0 && first ? first : step;
        if (n > len - at) n = len - at;
        assert_true(kvi_calls_push(&c, cases[i].text + at, n));
        at += n;
    }
    assert_true(kvi_calls_finish(&c));
    kvi_calls_free(&c);
}

static void every_format_cut_everywhere(void **state)
{
    (void)state;
    kvi_arena arena;
    kvi_json_value *list;
    kvi_arena_init(&arena, 4096);
    assert_int_equal(kvi_json_tree(tools, strlen(tools), "tools", &arena, &list, NULL), KVRT_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static transcript t;
        const size_t len = strlen(cases[i].text);
        for (size_t first = 0; first < len; first++) {
            run(list, i, first, len, &t);
            if (strcmp(t.said, cases[i].says) != 0)
                fail_msg("%s\ncut at %zu: %s\nneed %s", cases[i].text, first, t.said, cases[i].says);
        }
        for (size_t step = 1; step < 8; step++) {
            run(list, i, 0, step, &t);
            if (strcmp(t.said, cases[i].says) != 0)
                fail_msg("%s\nsteps of %zu: %s\nneed %s", cases[i].text, step, t.said, cases[i].says);
        }
    }
    kvi_arena_free(&arena);
}

/* Arguments come while they are written, not at the end. */
static void arguments_stream(void **state)
{
    (void)state;
    transcript t = {.said = ""};
    kvi_calls c = {.format = KVI_CALLS_TAG, .fn = note, .user = &t};
    assert_true(kvi_calls_push(&c, "<tool_call>{\"name\": \"search\", \"arguments\": {\"q\": \"long", 55));
    assert_string_equal(t.said, "<search|{\"q\": \"long");
    assert_true(kvi_calls_push(&c, " text\"", 6));
    assert_string_equal(t.said, "<search|{\"q\": \"long text\"");
    kvi_calls_reset(&c);
    kvi_calls_free(&c);
    /* gpt-oss: the header says who is meant, the body is the arguments. */
    t.said[0] = 0;
    c = (kvi_calls){.format = KVI_CALLS_HARMONY, .fn = note, .user = &t};
    assert_true(kvi_calls_push(&c, "hm ", 3) && kvi_calls_open(&c, "now", 3) && kvi_calls_push(&c, "{\"a\"", 4) &&
                kvi_calls_push(&c, ":1}", 3));
    assert_true(kvi_calls_open(&c, "search", 6) && kvi_calls_close(&c) && kvi_calls_push(&c, "bye", 3) &&
                kvi_calls_finish(&c));
    assert_string_equal(t.said, "hm <now|{\"a\":1}><search|{}>bye");
    kvi_calls_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_format_cut_everywhere),
                                       cmocka_unit_test(arguments_stream)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
