/* test_jinja_shared.c - 40 real templates of models, 7 conversations each, against Python's Jinja2; feature cases; and for each template: a
 * message that spells its special tokens stays message text. Needs shared data; skipped without. */
#include "chat_cases.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define TEMPLATES KVRT_SHARED_DIR "/data/templates/"

static chat_slice renderings;
static int n_cases, n_bad;

static kvi_chat_template *open_template(const char *name)
{
    char path[512];
    size_t len;
    kvi_chat_template *t = NULL;
    kvrt_error error = {.size = sizeof error};
    snprintf(path, sizeof path, TEMPLATES "jinja/%s", name);
    char *source = chat_read_file(path, &len);
    assert_non_null(source);
    if (kvi_chat_template_parse(source, len, name, &t, &error) < 0) print_error("%s\n", error.message);
    free(source);
    return t;
}

static void check_rendering(chat_slice item, void *user)
{
    size_t name_len, context_len, output_len = 0, error_len = 0;
    (void)user;
    char *name = chat_string(chat_member(item, "template"), &name_len), *which = chat_string(chat_member(item, "case"), &context_len);
    char *output = chat_string(chat_member(item, "output"), &output_len), *expected = chat_string(chat_member(item, "error"), &error_len);
    kvi_chat_template *t = open_template(name);
    kvi_chat_text text = {0};
    kvrt_error error = {.size = sizeof error};
    kvrt_status status = t ? chat_render(t, chat_member(chat_member(renderings, "contexts"), which), &text, &error) : KVRT_TEMPLATE;
    bool good = output ? status == KVRT_OK && text.text.len == output_len && memcmp(text.text.data, output, output_len) == 0
                       : status < 0 && expected && strstr(error.message, expected);
    n_cases++;
    if (!good) {
        n_bad++;
        print_error("%s %s\nexpected: %s\nfound:    %s\n", name, which, output ? output : expected, status < 0 ? error.message : text.text.data);
    }
    kvi_chat_text_free(&text);
    kvi_chat_template_free(t);
    free(name), free(which), free(output), free(expected);
}

static void renderings_equal(void **state)
{
    size_t len;
    char *json = chat_read_file(TEMPLATES "renderings.json", &len);
    if (!json) skip();
    renderings = (chat_slice){json, len};
    chat_each(chat_member(renderings, "cases"), check_rendering, NULL);
    print_message("%d renderings\n", n_cases);
    assert_int_equal(n_cases, 280);
    assert_int_equal(n_bad, 0);
    free(json);
}

static void check_feature(chat_slice item, void *user)
{
    size_t len, target_len;
    char *source = chat_string(chat_member(item, "template"), &len), *target = chat_string(chat_member(item, "target"), &target_len);
    chat_slice context = chat_member(item, "context");
    kvi_chat_template *t = NULL;
    kvi_chat_text text = {0};
    kvrt_error error = {.size = sizeof error};
    kvi_chat_input input = {.messages = "[]", .messages_len = 2, .extra = context.text, .extra_len = context.len};
    (void)user;
    kvrt_status status = kvi_chat_template_parse(source, len, "feature", &t, &error);
    if (status >= 0) status = kvi_chat_template_render(t, &input, &text, &error);
    if (status < 0 || text.text.len != target_len || memcmp(text.text.data ? text.text.data : "", target, target_len) != 0) {
        n_bad++;
        print_error("%s\nexpected: %s\nfound:    %s\n", source, target, status < 0 ? error.message : text.text.data);
    }
    n_cases++;
    kvi_chat_text_free(&text);
    kvi_chat_template_free(t);
    free(source), free(target);
}

static void features_equal(void **state)
{
    size_t len;
    char *json = chat_read_file(TEMPLATES "features.json", &len);
    if (!json) skip();
    n_cases = n_bad = 0;
    chat_each((chat_slice){json, len}, check_feature, NULL);
    print_message("%d features\n", n_cases);
    assert_true(n_cases > 40);
    assert_int_equal(n_bad, 0);
    free(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(renderings_equal), cmocka_unit_test(features_equal)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
