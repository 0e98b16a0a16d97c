/* test_constraint.c - generating under a grammar through the public API: the text fits whatever is sampled, however calls cut it, after rewinds, in
 * forks and submitted requests; errors leave the session as it was. */
#include "golden_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "../../runtime/grammar/schema.h"
#include "../../runtime/grammar/matcher.h"

enum { MOST = 256 };
static const int32_t prompt[5] = {10, 20, 30, 40, 50};
static const char schema[] =
    "{\"type\": \"object\", \"properties\": {\"the name of it\": {\"type\": \"string\", \"maxLength\": 8}, \"is it "
    "so\": {\"type\": \"boolean\"}, "
    "\"numbers\": {\"type\": \"array\", \"items\": {\"type\": \"integer\", \"minimum\": 0, \"maximum\": 99}, "
    "\"minItems\": 1, \"maxItems\": 3}}, "
    "\"required\": [\"the name of it\", \"is it so\", \"numbers\"], \"additionalProperties\": false}";

static const char *const plain[] = {"ctx.size", "256", "ctx.sessions", "4", NULL};

static kvrt_options *options(const char *key, const char *text, int64_t seed)
{
    kvrt_options *o;
    assert_int_equal(kvrt_options_create(&o, NULL), KVRT_OK);
    kvrt_options_set_f64(o, "sample.temperature", 5, NULL); /* the model alone would say anything */
    kvrt_options_set_i64(o, "sample.top_k", 0, NULL);
    kvrt_options_set_f64(o, "sample.top_p", 1, NULL);
    kvrt_options_set_f64(o, "sample.min_p", 0, NULL);
    kvrt_options_set_i64(o, "sample.seed", seed, NULL);
    if (key) assert_int_equal(kvrt_options_set_string(o, key, text, -1, NULL), KVRT_OK);
    return o;
}

typedef struct heard {
    char text[4096];
    size_t n;
    unsigned n_tokens, n_forced; /* forced ones have logprob 0 */
    int32_t finish;
} heard;

static int32_t listen(const kvrt_event *event, void *user)
{
    heard *h = user;
    if (event->type == KVRT_EVENT_TEXT) {
        memcpy(h->text + h->n, event->text, event->text_len + 1);
        h->n += event->text_len;
    }
    if (event->type == KVRT_EVENT_TOKEN) h->n_tokens++, h->n_forced += event->logprob == 0;
    if (event->type == KVRT_EVENT_DONE) h->finish = event->finish;
    return KVRT_CONTINUE;
}

static bool satisfies(const char *text)
{
    kvi_grammar *g;
    kvi_matcher m;
    bool fits;
    assert_int_equal(kvi_schema_compile(schema, strlen(schema), kvi_grammar_default_limits(), &g, NULL), KVRT_OK);
    assert_int_equal(kvi_matcher_init(&m, g, NULL), KVRT_OK);
    assert_int_equal(kvi_matcher_take(&m, text, strlen(text), &fits, NULL), KVRT_OK);
    const bool ok = fits && kvi_matcher_accepts(&m);
    kvi_matcher_free(&m);
    kvi_grammar_free(g);
    return ok;
}

static kvrt_session new_session(kvrt_engine engine)
{
    kvrt_session s;
    assert_int_equal(kvrt_session_create(engine, NULL, &s, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_sync(s, prompt, 5, NULL, NULL), KVRT_OK);
    return s;
}

static uint64_t ids_of(kvrt_session s, int32_t *ids)
{
    uint64_t n;
    assert_int_equal(kvrt_session_tokens(s, ids, MOST, &n, NULL), KVRT_OK);
    return n;
}

static kvrt_status say(kvrt_session s, const kvrt_options *o, heard *h, kvrt_error *error)
{
    return kvrt_generate(s, o, listen, h, NULL, error);
}

static void every_text_satisfies_the_schema(void **state)
{
    (void)state;
    kvrt_engine engine = golden_open_tiny(plain);
    for (int seed = 1; seed <= 25; seed++) {
        kvrt_session s = new_session(engine);
        kvrt_options *o = options("grammar.schema", schema, seed);
        heard h = {.n = 0};
        kvrt_options_set_bool(o, "gen.token_events", 1, NULL);
        assert_int_equal(say(s, o, &h, NULL), KVRT_OK);
        if (h.finish != KVRT_FINISH_GRAMMAR || !satisfies(h.text)) fail_msg("finish %d: %s", h.finish, h.text);
        /* Names and punctuation were not sampled. */
        assert_true(h.n_forced > 4 && h.n_forced < h.n_tokens);
        kvrt_options_destroy(o);
        kvrt_session_close(s, NULL);
    }
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
}

/* The same bits and text in one call, in calls of 1, 3 and 7 tokens, and submitted beside another session. */
static void calls_cut_nothing(void **state)
{
    (void)state;
    kvrt_engine engine = golden_open_tiny(plain);
    for (int seed = 3; seed < 6; seed++) {
        kvrt_options *o = options("grammar.schema", schema, seed);
        kvrt_session s = new_session(engine);
        int32_t want[MOST], got[MOST];
        heard whole = {.n = 0};
        assert_int_equal(say(s, o, &whole, NULL), KVRT_OK);
        const uint64_t n = ids_of(s, want);
        kvrt_session_close(s, NULL);
        static const int cuts[] = {1, 3, 7};
        for (int c = 0; c < 3; c++) {
            heard h = {.n = 0};
            s = new_session(engine);
            kvrt_options_set_i64(o, "gen.max_tokens", cuts[c], NULL);
            for (int i = 0; i < 200 && h.finish != KVRT_FINISH_GRAMMAR; i++)
                assert_int_equal(say(s, o, &h, NULL), KVRT_OK);
            assert_int_equal(ids_of(s, got), n);
            assert_memory_equal(got, want, n * sizeof *got);
            assert_string_equal(h.text, whole.text);
            kvrt_session_close(s, NULL);
        }
        kvrt_options_set_i64(o, "gen.max_tokens", -1, NULL);
        kvrt_session a = new_session(engine), b = new_session(engine);
        kvrt_options *other = options("grammar.regex", "[a-z]{30}", 9);
        assert_int_equal(kvrt_submit(a, o, NULL, NULL), KVRT_OK);
        assert_int_equal(kvrt_submit(b, other, NULL, NULL), KVRT_OK);
        kvrt_event event = {.size = sizeof event};
        kvrt_status status;
        do {
            status = kvrt_step(engine, 1000, NULL);
            while (kvrt_poll(engine, &event, NULL) == KVRT_OK) assert_int_not_equal(event.type, KVRT_EVENT_ERROR);
        } while (status == KVRT_MORE || status == KVRT_PARTIAL);
        assert_int_equal(ids_of(a, got), n);
        assert_memory_equal(got, want, n * sizeof *got);
        kvrt_session_close(a, NULL), kvrt_session_close(b, NULL);
        kvrt_options_destroy(o), kvrt_options_destroy(other);
    }
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
}

static void a_rewind_goes_back_in_the_grammar(void **state)
{
    (void)state;
    kvrt_engine engine = golden_open_tiny(plain);
    kvrt_options *o = options("grammar.schema", schema, 11);
    kvrt_session s = new_session(engine), twin;
    heard first = {.n = 0}, rest = {.n = 0};
    int32_t ids[MOST];
    assert_int_equal(say(s, o, &first, NULL), KVRT_OK);
    const uint64_t n = ids_of(s, ids);
    for (uint64_t cut = n - 1; cut >= 5; cut -= cut > 11 ? 7 : 1) {
        char before[4096];
        uint64_t len;
        assert_int_equal(kvrt_session_rewind(s, cut, NULL), KVRT_OK);
        assert_int_equal(kvrt_session_fork(s, &twin, NULL), KVRT_OK);
        for (int who = 0; who < 2; who++) {
            kvrt_session one = who ? twin : s;
            assert_int_equal(ids_of(one, ids), cut);
            assert_int_equal(kvrt_detokenize(engine, ids + 5, cut - 5, 0, before, sizeof before, &len, NULL), KVRT_OK);
            before[len] = 0;
            rest = (heard){.n = 0};
            assert_int_equal(say(one, o, &rest, NULL), KVRT_OK);
            strcat(before, rest.text);
            if (!satisfies(before)) fail_msg("cut at %d: %s", (int)cut, before);
        }
        kvrt_session_close(twin, NULL);
    }
    /* A complete text is over: the next call begins another one. */
    rest = (heard){.n = 0};
    assert_int_equal(say(s, o, &rest, NULL), KVRT_OK);
    assert_true(satisfies(rest.text));
    /* So does another grammar, and none is free. */
    kvrt_options *other = options("grammar.gbnf", "root ::= \"(\" root \")\" | [xyz]", 1);
    rest = (heard){.n = 0};
    kvrt_options_set_i64(other, "gen.max_tokens", 30, NULL);
    assert_int_equal(say(s, other, &rest, NULL), KVRT_OK);
    assert_true(strspn(rest.text, "(") > 0 || strchr("xyz", rest.text[0]));
    assert_int_equal(strspn(rest.text, "(xyz)"), rest.n);
    kvrt_options_destroy(o), kvrt_options_destroy(other);
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
}

static void end_of_text_only_where_the_grammar_accepts(void **state)
{
    (void)state;
    kvrt_engine engine = golden_open_tiny(plain);
    kvrt_engine_info info = {.size = sizeof info};
    char bias[32];
    assert_int_equal(kvrt_engine_get_info(engine, &info, NULL), KVRT_OK);
    snprintf(bias, sizeof bias, "%d=1000", info.eos_id);
    kvrt_options *o = options("grammar.regex", "[a-d]{6}[a-d]*", 1);
    assert_int_equal(kvrt_options_set_text(o, "sample.logit_bias", bias, NULL), KVRT_OK); /* it would end at once */
    kvrt_session s = new_session(engine);
    heard h = {.n = 0};
    assert_int_equal(say(s, o, &h, NULL), KVRT_OK);
    assert_int_equal(h.finish, KVRT_FINISH_EOS);
    assert_true(h.n >= 6 && h.n < 6 + 16); /* as soon as it may: a token holds several letters */
    assert_int_equal(strspn(h.text, "abcd"), h.n);
    kvrt_options_destroy(o);
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
}

static void errors_leave_the_session(void **state)
{
    (void)state;
    kvrt_engine engine = golden_open_tiny(plain);
    kvrt_session s = new_session(engine);
    kvrt_error error = {.size = sizeof error};
    heard h = {.n = 0};
    int32_t before[MOST], after[MOST];
    kvrt_options *o = options("grammar.regex", "(a", 1);
    assert_int_equal(say(s, o, &h, &error), KVRT_GRAMMAR);
    assert_non_null(strstr(error.message, "grammar.regex: line 1, column 3"));
    kvrt_options_set_string(o, "grammar.regex", "a", -1, NULL);
    kvrt_options_set_string(o, "grammar.schema", "{}", -1, NULL);
    assert_int_equal(say(s, o, &h, &error), KVRT_ARG);
    kvrt_options_clear(o, "grammar.schema", NULL);
    kvrt_options_set_string(o, "grammar.regex", "(?=a)b", -1, NULL);
    assert_int_equal(say(s, o, &h, &error), KVRT_GRAMMAR);
    assert_non_null(strstr(error.message, "no text satisfies"));
    assert_int_equal(ids_of(s, before), 5);
    /* A dead end: what the grammar allows is banned. */
    kvrt_options_set_string(o, "grammar.regex", "ab*", -1, NULL);
    for (int32_t id = 0; id < 600; id++) {
        char text[64], item[32];
        uint64_t n;
        if (kvrt_detokenize(engine, &id, 1, 0, text, sizeof text, &n, NULL) != KVRT_OK || n == 0 || text[0] != 'a')
            continue;
        snprintf(item, sizeof item, "%d=-inf", id);
        assert_int_equal(kvrt_options_set_text(o, "sample.logit_bias", item, NULL), KVRT_OK);
    }
    assert_int_equal(say(s, o, &h, &error), KVRT_GRAMMAR_DEAD_END);
    assert_int_equal(ids_of(s, after), 5);
    assert_memory_equal(before, after, sizeof *before * 5);
    kvrt_options_destroy(o);
    o = options("grammar.regex", "ab{3}", 1);
    h = (heard){.n = 0};
    assert_int_equal(say(s, o, &h, &error), KVRT_OK);
    assert_string_equal(h.text, "abbb");
    assert_int_equal(h.finish, KVRT_FINISH_GRAMMAR);
    kvrt_options_destroy(o);
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
}

/* A grammar makes the model write a call, so that its way through the library can be seen: events in order, however calls cut them, and no text of it. */
typedef struct calls_heard {
    char text[512], said[512];
} calls_heard;

static int32_t hear_calls(const kvrt_event *event, void *user)
{
    calls_heard *h = user;
    if (event->type == KVRT_EVENT_TEXT) strcat(h->text, event->text);
    if (event->type < KVRT_EVENT_TOOL_CALL || event->type > KVRT_EVENT_TOOL_END) return KVRT_CONTINUE;
    assert_true(event->done < 2);
    if (event->type == KVRT_EVENT_TOOL_CALL) strcat(h->said, event->done ? "1" : "0");
    strcat(h->said, event->text);
    strcat(h->said, event->type == KVRT_EVENT_TOOL_CALL ? "|" : event->type == KVRT_EVENT_TOOL_END ? ";" : "");
    return KVRT_CONTINUE;
}

static void calls_of_tools_are_events(void **state)
{
    (void)state;
    kvrt_engine engine = golden_open_tiny(plain);
    kvrt_error error = {.size = sizeof error};
    for (int cut = 0; cut < 3; cut++) {
        static const int64_t cuts[] = {-1, 1, 5};
        kvrt_session s = new_session(engine);
        kvrt_options *o = options(
            "grammar.regex",
            "I look\\. <tool_call>\\n\\{\"name\": \"now\", \"arguments\": \\{\"a\": \"<[a-c]{3}\"\\}\\}\\n</tool_call>"
            "<tool_call>\\{\"name\": \"now\", \"arguments\": \\{\\}\\}</tool_call> <ok>",
            4);
        calls_heard h = {.text = ""};
        kvrt_result result = {.size = sizeof result};
        assert_int_equal(kvrt_options_set_string(o, "gen.tools", "[{\"name\": \"now\"}]", -1, NULL), KVRT_OK);
        kvrt_options_set_i64(o, "gen.max_tokens", cuts[cut], NULL);
        for (int i = 0; i < 200 && result.finish != KVRT_FINISH_GRAMMAR; i++)
            if (kvrt_generate(s, o, hear_calls, &h, &result, &error) != KVRT_OK) fail_msg("%s", error.message);
        assert_string_equal(h.text, "I look.  <ok>");
        const size_t letters = strspn(h.said + 13, "abc");
        if (strncmp(h.said, "0now|{\"a\": \"<", 13) != 0 || letters != 3 || strcmp(h.said + 16, "\"};1now|{};") != 0)
            fail_msg("%s", h.said);
        kvrt_options_destroy(o);
        kvrt_session_close(s, NULL);
    }
    kvrt_session s = new_session(engine);
    kvrt_options *o = options("gen.tools", "{}", 1);
    assert_int_equal(kvrt_generate(s, o, NULL, NULL, NULL, &error), KVRT_ARG);
    kvrt_options_set_string(o, "gen.tools", "[{\"function\": {}}]", -1, NULL);
    assert_int_equal(kvrt_generate(s, o, NULL, NULL, NULL, &error), KVRT_ARG);
    assert_non_null(strstr(error.message, "gen.tools: tool 0 has no name"));
    kvrt_options_destroy(o);
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
}

/* More grammars than an engine keeps, one after the other. */
static void many_grammars(void **state)
{
    (void)state;
    uint64_t bytes[2], blocks;
    kvrt_engine engine = golden_open_tiny(plain);
    kvrt_session s = new_session(engine);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 40; i++) {
            char regex[32], want[32];
            heard h = {.n = 0};
            snprintf(regex, sizeof regex, "n%d", i);
            snprintf(want, sizeof want, "n%d", i);
            kvrt_options *o = options("grammar.regex", regex, 1);
            assert_int_equal(kvrt_session_rewind(s, 5, NULL), KVRT_OK);
            assert_int_equal(say(s, o, &h, NULL), KVRT_OK);
            assert_string_equal(h.text, want);
            kvrt_options_destroy(o);
        }
        kvrt_debug_mem(&bytes[round], &blocks, NULL);
    }
    assert_true(bytes[1] < bytes[0] + 65536); /* they go again */
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
    kvrt_debug_mem(&bytes[0], &blocks, NULL);
    assert_int_equal(blocks, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_text_satisfies_the_schema),
        cmocka_unit_test(calls_cut_nothing),
        cmocka_unit_test(a_rewind_goes_back_in_the_grammar),
        cmocka_unit_test(end_of_text_only_where_the_grammar_accepts),
        cmocka_unit_test(errors_leave_the_session),
        cmocka_unit_test(calls_of_tools_are_events),
        cmocka_unit_test(many_grammars),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
