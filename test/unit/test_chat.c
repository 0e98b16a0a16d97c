/* test_chat.c - the chat templates of a folder: which one is chosen, the special tokens it sees, content in parts, and
 * kvrt_chat_render over all of it. The choices are those of transformers 5.24 on the same folders. */
#define _POSIX_C_SOURCE 200809L
#include "chat_cases.h"
#include "golden_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static char folder[64];

/* -------------------------------------------------------------------------------------------------------- folders
 * --- */
static void put(const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    fclose(f);
}

static void copy_from(const char *dir, const char *name)
{
    char path[700];
    size_t len;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    char *data = chat_read_file(path, &len);
    assert_non_null(data);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, len, f), len);
    fclose(f);
    free(data);
}

static int new_folder(void **state)
{
    strcpy(folder, "/tmp/kvrt-chat-XXXXXX");
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    static const char *const names[] = {"chat_template.jinja/",
                                        "chat_template.jinja",
                                        "chat_template.json",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "additional_chat_templates/tool_use.jinja",
                                        "additional_chat_templates/rag.jinja",
                                        "additional_chat_templates/notes.txt",
                                        "additional_chat_templates/.jinja",
                                        "additional_chat_templates/",
                                        "config.json",
                                        "model.safetensors",
                                        "tokenizer.json",
                                        "golden.json"};
    char path[512];
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        (void)remove(path);
    }
    return rmdir(folder);
}

static void make_dir(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_int_equal(mkdir(path, 0700), 0);
}

static void open_folder(const char *which, kvi_chat_template **t)
{
    kvrt_error error = {.size = sizeof error};
    *t = NULL;
    if (kvi_chat_template_load(folder, which, t, &error) < 0) fail_msg("%s", error.message);
}

static void expect(const kvi_chat_template *t, const char *tools, const char *want)
{
    kvi_chat_text text = {0};
    kvrt_error error = {.size = sizeof error};
    kvi_chat_input input = {.messages = "[{\"role\": \"user\", \"content\": \"hi\"}]",
                            .tools = tools,
                            .tools_len = tools ? strlen(tools) : 0};
    input.messages_len = strlen(input.messages);
    if (kvi_chat_template_render(t, &input, &text, &error) < 0) fail_msg("%s", error.message);
    kvi_buf_append_byte(&text.text, 0);
    assert_string_equal(text.text.data, want);
    kvi_chat_text_free(&text);
}

static void refuse_load(const char *which, kvrt_status status, const char *message)
{
    kvi_chat_template *t = NULL;
    kvrt_error error = {.size = sizeof error};
    assert_int_equal(kvi_chat_template_load(folder, which, &t, &error), status);
    assert_null(t);
    if (!strstr(error.message, message)) fail_msg("%s", error.message);
}

/* --------------------------------------------------------------------------------------------------------- choice
 * --- */
static void list_form_has_a_template_for_tools(void **state)
{
    kvi_chat_template *t;
    put("tokenizer_config.json",
        "{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"T{{ tools | length }}\"}, {\"template\": \"D\", "
        "\"name\": \"default\"}, {\"name\": \"rag\", \"template\": \"R\"}], \"bos_token\": \"<s>\"}");
    open_folder(NULL, &t);
    expect(t, NULL, "D");
    expect(t, "null", "D");
    expect(t, "[]", "T0");
    expect(t, "[{}]", "T1");
    kvi_chat_template_free(t);
    open_folder("rag", &t);
    expect(t, "[{}]", "R");
    kvi_chat_template_free(t);
    refuse_load("other", KVRT_UNSUPPORTED, "no chat template named other, found tool_use, default, rag");
}

static void folder_of_templates_wins_over_the_config(void **state)
{
    kvi_chat_template *t;
    put("tokenizer_config.json", "{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"old\"}, {\"name\": "
                                 "\"default\", \"template\": \"old\"}], \"eos_token\": \"</s>\"}");
    put("chat_template.jinja", "D{{ eos_token }}");
    open_folder(NULL, &t);
    expect(t, "[]", "D</s>"); /* the config's tool_use is gone, too */
    kvi_chat_template_free(t);
    make_dir("additional_chat_templates");
    put("additional_chat_templates/tool_use.jinja", "T{{ eos_token }}");
    put("additional_chat_templates/notes.txt", "no template");
    open_folder(NULL, &t);
    expect(t, NULL, "D</s>");
    expect(t, "[]", "T</s>");
    kvi_chat_template_free(t);
    refuse_load("notes", KVRT_UNSUPPORTED, "named notes");
}

static void no_default_is_refused_by_name(void **state)
{
    kvi_chat_template *t;
    put("tokenizer_config.json", "{\"chat_template\": \"config\"}");
    make_dir("additional_chat_templates");
    put("additional_chat_templates/rag.jinja", "R");
    put("additional_chat_templates/.jinja", "a template needs a name");
    refuse_load(NULL, KVRT_UNSUPPORTED, "no chat template named default, found rag");
    put("additional_chat_templates/tool_use.jinja", "T");
    open_folder(NULL, &t);
    expect(t, "[]", "T");
    kvi_chat_text text = {0};
    kvrt_error error = {.size = sizeof error};
    kvi_chat_input input = {.messages = "[]", .messages_len = 2};
    assert_int_equal(kvi_chat_template_render(t, &input, &text, &error), KVRT_UNSUPPORTED);
    assert_non_null(strstr(error.message, "named default, found "));
    kvi_chat_text_free(&text);
    kvi_chat_template_free(t);
}

static void one_template_serves_tools_too(void **state)
{
    kvi_chat_template *t;
    put("tokenizer_config.json", "{\"chat_template\": \"config\"}");
    open_folder(NULL, &t);
    expect(t, "[]", "config");
    kvi_chat_template_free(t);
    put("chat_template.json", "{\"chat_template\": \"json\"}");
    open_folder(NULL, &t);
    expect(t, NULL, "json");
    kvi_chat_template_free(t);
}

static void broken_folders_are_refused(void **state)
{
    refuse_load(NULL, KVRT_UNSUPPORTED, "the model folder has no chat template");
    put("tokenizer_config.json", "{\"chat_template\": null}");
    refuse_load(NULL, KVRT_UNSUPPORTED, "the model folder has no chat template");
    put("tokenizer_config.json", "{\"chat_template\": 3}");
    refuse_load(NULL, KVRT_FORMAT, "neither a string nor a list");
    put("tokenizer_config.json", "{\"chat_template\": [{\"name\": \"default\"}]}");
    refuse_load(NULL, KVRT_FORMAT, "needs a name and a template");
    put("tokenizer_config.json", "{\"chat_template\": [{\"template\": \"x\"}]}");
    refuse_load(NULL, KVRT_FORMAT, "needs a name and a template");
    put("tokenizer_config.json", "{\"chat_template\": \"x\"");
    refuse_load(NULL, KVRT_FORMAT, "tokenizer_config.json");
    put("tokenizer_config.json", "{\"chat_template\": \"a\\n{{ b\"}");
    refuse_load(NULL, KVRT_TEMPLATE, "line 2, column");
    put("tokenizer_config.json", "{\"chat_template\": \"x\"}");
    put("special_tokens_map.json", "[]");
    refuse_load(NULL, KVRT_FORMAT, "special_tokens_map.json");
    make_dir("chat_template.jinja");
    refuse_load(NULL, KVRT_IO, "chat_template.jinja");
}

/* -------------------------------------------------------------------------------------------------- special tokens
 * --- */
#define NAMES                                                                                                          \
    "{{ bos_token }}|{{ eos_token }}|{{ unk_token }}|{{ pad_token }}|{{ image_token }}|{{ audio_token }}|{{ my }}|"    \
    "{{ add_bos_token is defined }}|{{ additional_special_tokens is defined }}"

static void special_tokens_have_their_names(void **state)
{
    kvi_chat_template *t;
    put("chat_template.jinja", NAMES);
    put("tokenizer_config.json",
        "{\"added_tokens_decoder\": {}, \"bos_token\": {\"__type\": \"AddedToken\", \"content\": \"<s>\"}, "
        "\"eos_token\": "
        "\"</s>\", \"unk_token\": null, \"pad_token\": \"<pad>\", \"image_token\": \"<img>\", \"add_bos_token\": true, "
        "\"extra_special_tokens\": {\"audio_token\": \"<aud>\", \"my\": \"<my>\"}, \"additional_special_tokens\": "
        "[\"<x>\"]}");
    put("special_tokens_map.json", "{\"pad_token\": \"<other>\"}");
    open_folder(NULL, &t);
    expect(t, NULL, "<s>|</s>||<pad>|<img>|<aud>|<my>|False|False");
    kvi_chat_template_free(t);
}

static void any_letter_makes_the_name_of_a_token(void **state)
{
    kvi_chat_template *t;
    put("chat_template.jinja", "{{ x_token }}|{{ _token }}|{{ token }}");
    put("tokenizer_config.json", "{\"x_token\": \"<x>\", \"_token\": \"<y>\", \"token\": \"<z>\"}");
    open_folder(NULL, &t);
    expect(t, NULL, "<x>||");
    kvi_chat_template_free(t);
}

static void special_tokens_map_completes_old_folders(void **state)
{
    kvi_chat_template *t;
    put("chat_template.jinja", NAMES);
    put("tokenizer_config.json", "{\"bos_token\": \"<s>\", \"pad_token\": \"<pad>\", \"eos_token\": \"</s>\"}");
    put("special_tokens_map.json", "{\"pad_token\": {\"content\": \"<other>\", \"lstrip\": false}, \"image_token\": "
                                   "\"<img>\", \"unk_token\": \"<unk>\", \"additional_special_tokens\": [\"<x>\"]}");
    open_folder(NULL, &t);
    expect(t, NULL, "<s>|</s>|<unk>|<other>|<img>|||False|False");
    kvi_chat_template_free(t);
}

/* ----------------------------------------------------------------------------------------------------------- parts
 * --- */
static void parts_reach_templates_that_take_them(void **state)
{
    static const char two[] = "[{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"a\"}, {\"type\": "
                              "\"text\", \"text\": \"<s>\"}]}]",
                      image[] = "[{\"role\": \"user\", \"content\": [{\"type\": \"image\"}, {\"type\": \"text\", "
                                "\"text\": \"b\"}]}]";
    static const struct {
        const char *source, *messages, *want; /* want begins with ! for an UNSUPPORTED that names it */
    } cases[] = {
        {"{{ messages[0].content }}", two, "a<s>"},
        {"{% for m in messages %}{% for p in m.content %}[{{ p.text }}]{% endfor %}{% endfor %}", two, "[a][<s>]"},
        {"{% for m in messages %}{% for p in m['content'] %}[{{ p['text'] }}]{% endfor %}{% endfor %}", two,
         "[a][<s>]"},
        {"{% for m in messages %}{% set c = m.get('content') %}{% for p in c %}[{{ p.text }}]{% endfor %}{% endfor %}",
         two, "[a][<s>]"},
        {"{{ messages[0].content[0].text }}", two, "a"},
        {"{{ messages[0]['content'][1]['text'] }}", two, "<s>"},
        {"{{ messages[0].content[0] }}", two, "a"}, /* the first letter */
        {"{{ messages[0].content | map(attribute='text') | join('+') }}", two, "a+<s>"},
        {"{{ messages[0].content | selectattr('type', 'equalto', 'text') | list | length }}", two, "2"},
        {"{% macro r(c) %}{% for p in c %}[{{ p.text }}]{% endfor %}{% endmacro %}{{ r(messages[0].content) }}", two,
         "[a][<s>]"},
        {"{% macro r(c) %}{% for p in c %}[{{ p.text }}]{% endfor %}{% endmacro %}{% set x = messages[0].content %}{{ "
         "r(c=x) }}",
         two, "[a][<s>]"},
        {"{% set ns = namespace() %}{% set ns.held = messages[0].content %}{% for p in ns.held %}[{{ p.text }}]{% "
         "endfor "
         "%}",
         two, "[a][<s>]"},
        {"{% with c = messages[0].content %}{% for p in c %}[{{ p.text }}]{% endfor %}{% endwith %}", two, "[a][<s>]"},
        /* Qwen 3 drops what is no string: joined, so that nothing is lost. */
        {"{% set c = messages[0].content if messages[0].content is string else '' %}{{ c }}", two, "a<s>"},
        {"{% for t in messages[0].content.split('a') %}[{{ t }}]{% endfor %}", two, "[][<s>]"},
        {"{{ messages[0].content[1:] | trim }}", two, "<s>"},
        {"{{ messages[0].content }}", image, "!image"},
        {"{% for p in messages[0].content %}{{ p.text }}{% endfor %}", image, "!image"},
        {"{% for p in messages[0].content %}{% if p.type == 'image' %}<img>{% else %}{{ p.text }}{% endif %}{% endfor "
         "%}",
         image, "<img>b"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kvi_chat_template *t = NULL;
        kvi_chat_text text = {0};
        kvrt_error error = {.size = sizeof error};
        kvi_chat_input input = {.messages = cases[i].messages, .messages_len = strlen(cases[i].messages)};
        assert_int_equal(kvi_chat_template_parse(cases[i].source, strlen(cases[i].source), "parts", &t, &error),
                         KVRT_OK);
        kvrt_status status = kvi_chat_template_render(t, &input, &text, &error);
        kvi_buf_append_byte(&text.text, 0);
        bool refused = cases[i].want[0] == '!';
        bool good = refused ? status == KVRT_UNSUPPORTED && strstr(error.message, cases[i].want + 1)
                            : status == KVRT_OK && strcmp(text.text.data, cases[i].want) == 0;
        if (!good) fail_msg("%s: %s", cases[i].source, status < 0 ? error.message : text.text.data);
        for (size_t k = 0; k < text.n_segments; k++) /* the message's <s> is never the template's */
            for (size_t j = 0; j < text.segments[k].len; j++)
                assert_false(text.segments[k].parse_special && text.segments[k].text[j] == 's');
        kvi_chat_text_free(&text);
        kvi_chat_template_free(t);
    }
}

/* --------------------------------------------------------------------------------------------------------- engine
 * --- */
static void engine_renders_what_the_folder_says(void **state)
{
    golden_model model;
    assert_true(golden_load("qwen3", &model));
    copy_from(model.dir, "config.json");
    copy_from(model.dir, "model.safetensors");
    copy_from(model.dir, "tokenizer.json");
    put("tokenizer_config.json",
        "{\"chat_template\": [{\"name\": \"default\", \"template\": \"a{{ messages[0].content }}b{% if "
        "add_generation_prompt %}c{% endif %}{{ x }}{{ strftime_now('%Y') }}\"}, {\"name\": \"tool_use\", "
        "\"template\": "
        "\"t{{ tools | length }}\"}]}");
    golden_model copy = model;
    strcpy(copy.dir, folder);
    kvrt_engine engine = golden_open(&copy, NULL);
    kvrt_chat_input input = {.size = sizeof input,
                             .messages = "[{\"role\": \"user\", \"content\": \"de\"}]",
                             .messages_len = -1,
                             .variables = "{\"x\": 5}",
                             .variables_len = -1,
                             .add_generation_prompt = 1};
    int32_t ids[64], part[64];
    char text[64];
    uint64_t n = 0, len = 0, m = 0;
    kvrt_error error = {.size = sizeof error};
    assert_int_equal(kvrt_chat_render(engine, &input, ids, 64, &n, text, 64, &len, &error), KVRT_OK);
    assert_int_equal(len, 10);
    assert_memory_equal(text, "adebc51970", 10);
    assert_true(n > 0 && n <= 10);
    /* Exactly enough room; and the clock is the caller's. */
    input.local_time = 1750000000;
    assert_int_equal(kvrt_chat_render(engine, &input, part, n, &m, text, 10, &len, &error), KVRT_OK);
    assert_int_equal(m, n);
    assert_memory_equal(text, "adebc52025", 10);
    input.local_time = 0;
    /* Too little room: what fits, and the number needed. */
    assert_int_equal(kvrt_chat_render(engine, &input, part, 1, &m, NULL, 0, NULL, &error), KVRT_PARTIAL);
    assert_int_equal(m, n);
    assert_int_equal(part[0], ids[0]);
    assert_int_equal(kvrt_chat_render(engine, &input, ids, 64, &n, text, 3, &len, &error), KVRT_PARTIAL);
    assert_int_equal(len, 10);
    assert_int_equal(kvrt_chat_render(engine, &input, NULL, 0, &m, NULL, 0, &len, &error), KVRT_PARTIAL);
    /* The text from byte 9 on is its last digit. */
    input.text_from = 9;
    assert_int_equal(kvrt_chat_render(engine, &input, part, 64, &m, NULL, 0, &len, &error), KVRT_OK);
    assert_int_equal(m, 1);
    assert_int_equal(len, 10); /* the text is whole */
    input.text_from = 10;
    assert_int_equal(kvrt_chat_render(engine, &input, part, 64, &m, NULL, 0, NULL, &error), KVRT_OK);
    assert_int_equal(m, 0);
    input.text_from = 11;
    assert_int_equal(kvrt_chat_render(engine, &input, part, 64, &m, NULL, 0, NULL, &error), KVRT_ARG);
    assert_non_null(strstr(error.message, "text_from is 11, the text has 10 bytes"));
    input.text_from = 0;
    input.tools = "[{}, {}]";
    input.tools_len = -1;
    assert_int_equal(kvrt_chat_render(engine, &input, ids, 64, &n, text, 64, &len, &error), KVRT_OK);
    assert_memory_equal(text, "t2", 2);
    assert_int_equal(kvrt_chat_render(engine, &input, ids, 64, &n, NULL, 64, &len, &error), KVRT_ARG);
    assert_int_equal(kvrt_chat_render(engine, &input, NULL, 64, &n, text, 64, &len, &error), KVRT_ARG);
    input.messages = NULL;
    assert_int_equal(kvrt_chat_render(engine, &input, ids, 64, &n, text, 64, &len, &error), KVRT_ARG);
    assert_int_equal(kvrt_chat_render(engine, NULL, ids, 64, &n, text, 64, &len, &error), KVRT_ARG);
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
    golden_free(&model);
}

static void engine_says_why_there_is_no_template(void **state)
{
    golden_model model;
    assert_true(golden_load("qwen3", &model));
    copy_from(model.dir, "config.json");
    copy_from(model.dir, "model.safetensors");
    copy_from(model.dir, "tokenizer.json");
    put("chat_template.jinja", "{{ 1 +\n }}");
    golden_model copy = model;
    strcpy(copy.dir, folder);
    kvrt_engine engine = golden_open(&copy, NULL); /* a broken template does not keep the model from opening */
    kvrt_chat_input input = {.size = sizeof input, .messages = "[]", .messages_len = 2};
    uint64_t n;
    kvrt_error error = {.size = sizeof error};
    assert_int_equal(kvrt_chat_render(engine, &input, NULL, 0, &n, NULL, 0, NULL, &error), KVRT_TEMPLATE);
    assert_non_null(strstr(error.message, "line 2, column 2"));
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
    golden_free(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(list_form_has_a_template_for_tools, new_folder, remove_folder),
        cmocka_unit_test_setup_teardown(folder_of_templates_wins_over_the_config, new_folder, remove_folder),
        cmocka_unit_test_setup_teardown(no_default_is_refused_by_name, new_folder, remove_folder),
        cmocka_unit_test_setup_teardown(one_template_serves_tools_too, new_folder, remove_folder),
        cmocka_unit_test_setup_teardown(broken_folders_are_refused, new_folder, remove_folder),
        cmocka_unit_test_setup_teardown(special_tokens_have_their_names, new_folder, remove_folder),
        cmocka_unit_test_setup_teardown(special_tokens_map_completes_old_folders, new_folder, remove_folder),
        cmocka_unit_test_setup_teardown(any_letter_makes_the_name_of_a_token, new_folder, remove_folder),
        cmocka_unit_test_setup_teardown(engine_renders_what_the_folder_says, new_folder, remove_folder),
        cmocka_unit_test_setup_teardown(engine_says_why_there_is_no_template, new_folder, remove_folder),
        cmocka_unit_test(parts_reach_templates_that_take_them)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
