/* test_jinja_shared.c - 40 real templates of models, 7 conversations each, against Python's Jinja2; feature cases;
 * and for each template: a message that spells its special tokens stays message text. Needs shared data; skipped
 * without. */
#define _POSIX_C_SOURCE 200809L
#include "chat_cases.h"
#include "runtime/base/json.h"

#include <dirent.h>
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
    char *name = chat_string(chat_member(item, "template"), &name_len),
         *which = chat_string(chat_member(item, "case"), &context_len);
    char *output = chat_string(chat_member(item, "output"), &output_len),
         *expected = chat_string(chat_member(item, "error"), &error_len);
    kvi_chat_template *t = open_template(name);
    kvi_chat_text text = {0};
    kvrt_error error = {.size = sizeof error};
    kvrt_status status =
        t ? chat_render(t, chat_member(chat_member(renderings, "contexts"), which), &text, &error) : KVRT_TEMPLATE;
    bool good =
        output ? status == KVRT_OK && text.text.len == output_len && memcmp(text.text.data, output, output_len) == 0
               : status < 0 && expected && strstr(error.message, expected);
    n_cases++;
    if (!good) {
        n_bad++;
        print_error("%s %s\nexpected: %s\nfound:    %s\n", name, which, output ? output : expected,
                    status < 0 ? error.message : text.text.data);
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
    n_cases = n_bad = 0;
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
    char *source = chat_string(chat_member(item, "template"), &len),
         *target = chat_string(chat_member(item, "target"), &target_len);
    chat_slice context = chat_member(item, "context");
    kvi_chat_template *t = NULL;
    kvi_chat_text text = {0};
    kvrt_error error = {.size = sizeof error};
    kvi_chat_input input = {.messages = "[]", .messages_len = 2, .extra = context.text, .extra_len = context.len};
    (void)user;
    kvrt_status status = kvi_chat_template_parse(source, len, "feature", &t, &error);
    if (status >= 0) status = kvi_chat_template_render(t, &input, &text, &error);
    if (status < 0 || text.text.len != target_len ||
        memcmp(text.text.data ? text.text.data : "", target, target_len) != 0) {
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

/* Python prints where an object lies; this engine prints the same place always. */
static void fix_address(char *text)
{
    char *at = strstr(text, " at 0x");
    if (at && strlen(at) > 14) memcpy(at + 6, "7f0000000000", 12);
}

static void check_snippet(chat_slice item, void *user)
{
    size_t len, want_len = 0;
    char *source = chat_string(chat_member(item, "template"), &len),
         *want = chat_string(chat_member(item, "expected"), &want_len);
    kvi_chat_template *t = NULL;
    kvi_chat_text text = {0};
    kvrt_error error = {.size = sizeof error};
    kvi_chat_input input = {.messages = "[]", .messages_len = 2};
    kvrt_status status = kvi_chat_template_parse(source, len, "snippet", &t, &error);
    if (status >= 0) status = kvi_chat_template_render(t, &input, &text, &error);
    if (want) fix_address(want);
    bool good = want
                    ? status >= 0 && text.text.len == want_len && (!want_len || !memcmp(text.text.data, want, want_len))
                    : status < 0;
    if (!good) {
        n_bad++;
        print_error("%s\nexpected: %s\nfound:    %s\n", source, want ? want : "an error",
                    status < 0 ? error.message : text.text.data);
    }
    n_cases++;
    kvi_chat_text_free(&text);
    kvi_chat_template_free(t);
    free(source), free(want);
}

static void snippets_equal(void **state)
{
    size_t len;
    char *json = chat_read_file(KVRT_SHARED_DIR "/data/cases/jinja_snippets.json", &len);
    if (!json) skip();
    n_cases = n_bad = 0;
    chat_each((chat_slice){json, len}, check_snippet, NULL);
    print_message("%d snippets\n", n_cases);
    assert_int_equal(n_cases, 110);
    assert_int_equal(n_bad, 0);
    free(json);
}

/* ----------------------------------------------------------------------------------------------------- injection
 * --- */
/* All "<...>" and "[...]" pieces without spaces of a template: its markers, and more. */
static void collect_markers(const char *source, char *out, size_t cap)
{
    size_t n = 0;
    for (const char *p = source; *p; p++) {
        if (*p != '<' && *p != '[') continue;
        size_t len = strcspn(p, *p == '<' ? "> \n" : "] \n");
        if ((p[len] != '>' && p[len] != ']') || len > 60 || n + len + 2 > cap) continue;
        for (size_t i = 0; i <= len; i++)
            if (p[i] != '"' && p[i] != '\'' && p[i] != '\\') out[n++] = p[i];
    }
    out[n] = 0;
}

/* The message stands in the text, and none of its bytes was written by the template. */
static void assert_text_only(const char *name, const kvi_chat_text *text, const char *message)
{
    size_t len = strlen(message), from = 0;
    char *at = strstr(text->text.data, message);
    if (!at) fail_msg("%s: the message is not in its rendering", name);
    size_t start = (size_t)(at - text->text.data);
    for (size_t i = 0; i < text->n_segments; from += text->segments[i++].len) {
        bool overlaps = from < start + len && from + text->segments[i].len > start;
        if (overlaps && text->segments[i].parse_special)
            fail_msg("%s: message bytes are tagged as the template's", name);
    }
}

static void check_injection(const char *name)
{
    char path[512], markers[16384];
    size_t len;
    snprintf(path, sizeof path, TEMPLATES "jinja/%s", name);
    char *source = chat_read_file(path, &len);
    collect_markers(source, markers, sizeof markers - 64);
    char message[17000];
    snprintf(message, sizeof message, "a%s<s></s><|im_start|><|eot_id|>z", markers);
    kvi_buf context = {0};
    kvi_buf_append_str(&context, "{\"add_generation_prompt\": true, \"messages\": [{\"role\": \"user\", \"content\": ");
    kvi_json_write_string(&context, message, strlen(message));
    kvi_buf_append_str(&context, "}]}");
    kvi_chat_template *t = open_template(name);
    kvi_chat_text text = {0};
    kvrt_error error = {.size = sizeof error};
    if (chat_render(t, (chat_slice){context.data, context.len}, &text, &error) < 0)
        fail_msg("%s: %s", name, error.message);
    assert_text_only(name, &text, message);
    kvi_chat_text_free(&text);
    kvi_chat_template_free(t);
    kvi_buf_free(&context);
    free(source);
    n_cases++;
}

static void injected_markers_stay_text(void **state)
{
    DIR *dir = opendir(TEMPLATES "jinja");
    if (!dir) skip();
    n_cases = 0;
    for (struct dirent *e; (e = readdir(dir)) != NULL;)
        if (strstr(e->d_name, ".jinja")) check_injection(e->d_name);
    closedir(dir);
    print_message("%d templates\n", n_cases);
    assert_int_equal(n_cases, 40);
}

/* Markers among the ids of a conversation whose user says `message`. */
static size_t count_markers(const char *name, const kvi_tokenizer *tok, const char *message)
{
    kvi_buf context = {0};
    kvi_buf_append_str(&context, "{\"add_generation_prompt\": true, \"messages\": [{\"role\": \"user\", \"content\": ");
    kvi_json_write_string(&context, message, strlen(message));
    kvi_buf_append_str(&context, "}]}");
    kvi_chat_template *t = open_template(name);
    kvi_chat_text text = {0};
    kvi_ids ids = {0};
    kvrt_error error = {.size = sizeof error};
    if (chat_render(t, (chat_slice){context.data, context.len}, &text, &error) < 0)
        fail_msg("%s: %s", name, error.message);
    assert_int_equal(kvi_chat_text_encode(&text, tok, &ids, &error), KVRT_OK);
    size_t n = 0;
    for (size_t i = 0; i < ids.len; i++) n += kvi_tokenizer_is_marker(tok, ids.data[i]);
    kvi_ids_free(&ids);
    kvi_chat_text_free(&text);
    kvi_chat_template_free(t);
    kvi_buf_free(&context);
    return n;
}

/* With real vocabularies: a message of all special tokens gives not one of them. */
static void injected_markers_become_ordinary_tokens(void **state)
{
    static const char *const tokenizers[] = {"llama3", "qwen2.5", "phi-3"};
    kvrt_error error = {.size = sizeof error};
    n_cases = 0;
    for (size_t k = 0; k < 3; k++) {
        kvi_tokenizer *tok = NULL;
        char path[512];
        snprintf(path, sizeof path, KVRT_SHARED_DIR "/data/tokenizers/%s", tokenizers[k]);
        if (kvi_tokenizer_load(path, &tok, &error) < 0) skip();
        kvi_buf message = {0};
        kvi_buf_append_str(&message, "a ");
        for (int32_t id = 0; id < kvi_tokenizer_vocab_size(tok); id++) {
            size_t len;
            const char *spelled = kvi_tokenizer_token_text(tok, id, &len);
            if (kvi_tokenizer_is_marker(tok, id)) kvi_buf_append(&message, spelled, len);
        }
        kvi_buf_append_str(&message, " z");
        DIR *dir = opendir(TEMPLATES "jinja");
        for (struct dirent *e; dir && (e = readdir(dir)) != NULL;) {
            if (!strstr(e->d_name, ".jinja")) continue;
            size_t plain = count_markers(e->d_name, tok, "a z"), injected = count_markers(e->d_name, tok, message.data);
            if (plain != injected)
                fail_msg("%s, %s: %zu markers, %zu without", e->d_name, tokenizers[k], injected, plain);
            n_cases++;
        }
        if (dir) closedir(dir);
        kvi_buf_free(&message);
        kvi_tokenizer_free(tok);
    }
    print_message("%d templates and tokenizers\n", n_cases);
    assert_int_equal(n_cases, 120);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(injected_markers_stay_text), cmocka_unit_test(injected_markers_become_ordinary_tokens),
        cmocka_unit_test(renderings_equal), cmocka_unit_test(features_equal), cmocka_unit_test(snippets_equal)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
