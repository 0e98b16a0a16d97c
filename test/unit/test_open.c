/* test_open.c - what an engine finds in a folder beside the weights: the marks of reasoning sections, and things worth a warning. */
#define _POSIX_C_SOURCE 200809L /* mkdtemp, symlink */
#include "../../runtime/base/log.h"
#include "../../runtime/engine/engine.h"
#include "../../runtime/engine/seat.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define SOURCE KVRT_TEST_DIR "/golden/models/llama_mha/"
static char folder[] = "/tmp/kvrt_open_XXXXXX";

static char *path_of(const char *dir, const char *name)
{
    static char path[2][600];
    static unsigned turn;
    char *at = path[turn++ % 2];
    snprintf(at, sizeof path[0], "%s/%s", dir, name);
    return at;
}

static char *read_text(const char *path)
{
    static char text[8192];
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    return text;
}

static void write_text(const char *name, const char *text)
{
    FILE *file = fopen(path_of(folder, name), "wb");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

/* The golden file `name` with `more` written behind the first `place` in it. */
static void write_changed(const char *name, const char *place, const char *more)
{
    static char text[12000];
    const char *source = read_text(path_of(SOURCE, name)), *at = strstr(source, place);
    assert_non_null(at);
    at += strlen(place);
    snprintf(text, sizeof text, "%.*s%s%s", (int)(at - source), source, more, at);
    write_text(name, text);
}

static kvrt_engine open_folder(const char *load, const char *ctx, kvrt_event_fn fn, void *user)
{
    kvrt_error error = {.size = sizeof error};
    kvrt_engine engine = NULL;
    kvrt_options *o;
    assert_int_equal(kvrt_options_create(&o, NULL), KVRT_OK);
    kvrt_options_set_string(o, "model.path", folder, -1, NULL);
    kvrt_options_set_text(o, "model.load", load, NULL);
    kvrt_options_set_text(o, "device.backend", "cpu", NULL);
    if (ctx) kvrt_options_set_text(o, "ctx.size", ctx, NULL);
    if (kvrt_engine_open(o, fn, user, &engine, &error) < KVRT_OK) fail_msg("%s", error.message);
    kvrt_options_destroy(o);
    return engine;
}

/* --------------------------------------------------------------------------------------------------------- marks --- */
#define TOKEN(id, text) "{\"id\": " #id ", \"content\": \"" text "\", \"special\": true},"

static const struct mark_case {
    const char *tokens, *chat; /* added to the vocabulary; the chat template */
    const char *open;          /* NULL: no sections */
    int32_t open_id, close_id;
} mark_cases[] = {{"", "{{ messages[0].content }}", NULL, 0, 0},
                  {"", NULL, NULL, 0, 0},
                  {TOKEN(96, "<think>") TOKEN(97, "</think>"), NULL, "<think>", 96, 97},
                  {TOKEN(96, "<think>") TOKEN(97, "</think>"), "<think></think>", "<think>", 96, 97},
                  {TOKEN(97, "[THINK]") TOKEN(96, "[/THINK]"), "{{ messages[0].content }}", "[THINK]", 97, 96},
                  /* Half a pair is none; the template may have both all the same. */
                  {TOKEN(96, "<think>"), NULL, NULL, 0, 0},
                  {TOKEN(96, "<think>"), "{{ '<think>' }}", NULL, 0, 0},
                  {TOKEN(96, "<think>"), "{{ '<think>' }}{{ '</think>' }}", "<think>", -1, -1},
                  {"", "x<reasoning>y</reasoning>", "<reasoning>", -1, -1},
                  {"", "x</reasoning>", NULL, 0, 0},
                  /* The first pair of the list that is there, in either way. */
                  {TOKEN(96, "[THINK]") TOKEN(97, "[/THINK]"), "<thought></thought>", "[THINK]", 96, 97},
                  {TOKEN(96, "[THINK]") TOKEN(97, "[/THINK]"), "<think></think>", "<think>", -1, -1}};

static void marks_come_from_the_vocabulary_or_the_template(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof mark_cases / sizeof mark_cases[0]; i++) {
        const struct mark_case *c = &mark_cases[i];
        kvi_engine *e;
        write_changed("tokenizer.json", "\"added_tokens\": [", c->tokens);
        (void)remove(path_of(folder, "chat_template.jinja"));
        if (c->chat) write_text("chat_template.jinja", c->chat);
        kvrt_engine engine = open_folder("tokenizer", NULL, NULL, NULL);
        assert_int_equal(kvi_engine_enter(engine, KVI_LOOK, &e, NULL), KVRT_OK);
        const kvi_marks marks = e->marks;
        kvi_engine_leave(e, KVI_LOOK);
        if (!marks.open != !c->open || (c->open && strcmp(marks.open, c->open) != 0))
            fail_msg("case %zu: marks %s, need %s", i, marks.open ? marks.open : "none", c->open ? c->open : "none");
        if (c->open) {
            assert_int_equal(marks.open_id, c->open_id);
            assert_int_equal(marks.close_id, c->close_id);
        }
        assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
    }
}

/* ------------------------------------------------------------------------------------------------------ warnings --- */
typedef struct heard {
    int32_t answer;
    uint32_t n_events, n_warnings, n_lines;
    char text[2048]; /* of all warnings */
} heard;

static int32_t listen(const kvrt_event *event, void *user)
{
    heard *h = user;
    h->n_events++;
    if (event->type != KVRT_EVENT_WARNING) return KVRT_CONTINUE;
    h->n_warnings++;
    assert_int_equal(event->text_len, strlen(event->text));
    assert_int_equal(event->request, 0);
    strncat(h->text, event->text, sizeof h->text - strlen(h->text) - 1);
    return h->answer;
}

static void log_line(int32_t level, const char *line, void *user)
{
    heard *h = user;
    (void)line;
    h->n_lines += level == KVI_LOG_WARN;
}

static void what_is_odd_is_an_event_where_somebody_listens(void **state)
{
    (void)state;
    heard none = {.answer = KVRT_CONTINUE}, odd = {.answer = KVRT_STOP}, unheard = {.answer = KVRT_CONTINUE};
    write_text("tokenizer.json", read_text(SOURCE "tokenizer.json"));
    (void)remove(path_of(folder, "chat_template.jinja"));
    (void)symlink(SOURCE "model.safetensors", path_of(folder, "model.safetensors"));
    write_changed("config.json", "\"mlp_bias\": false,", "");
    kvrt_engine engine = open_folder("all", "128", listen, &none);
    assert_true(none.n_events > 0);
    assert_int_equal(none.n_warnings, 0);
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
    /* A key that nobody knows, and a context beyond what the model was trained for. An answer to a warning stops nothing. */
    write_changed("config.json", "\"mlp_bias\": false,", "\"wild_guess\": 3,");
    kvrt_log_set(log_line, &odd, KVI_LOG_WARN);
    engine = open_folder("all", "600", listen, &odd);
    assert_int_equal(odd.n_warnings, 2);
    assert_int_equal(odd.n_lines, 0);
    assert_non_null(strstr(odd.text, "wild_guess"));
    assert_non_null(strstr(odd.text, "600"));
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
    /* Nobody listens: lines of the log, and none of them an event later. */
    kvrt_log_set(log_line, &unheard, KVI_LOG_WARN);
    engine = open_folder("all", "600", NULL, NULL);
    assert_int_equal(unheard.n_lines, 2);
    assert_int_equal(odd.n_warnings, 2);
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
    kvrt_log_set(NULL, NULL, 0);
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    static const char *const names[] = {"tokenizer.json", "chat_template.jinja", "config.json", "model.safetensors"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) (void)remove(path_of(folder, names[i]));
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(marks_come_from_the_vocabulary_or_the_template),
                                       cmocka_unit_test(what_is_odd_is_an_event_where_somebody_listens)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
