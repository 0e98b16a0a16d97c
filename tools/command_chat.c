/* command_chat.c - `kvrt chat`: a conversation on the terminal. Without one (stdin or stdout is a pipe) it answers
 * once: no prompt, colour or statistics, model text alone on stdout. */
#define _POSIX_C_SOURCE 200809L
#include "chat.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum {
    X_PROMPT,
    X_SYSTEM,
    X_HIDE,
    X_NO_THINK,
    X_NO_STATS,
    X_RENDER,
    X_SESSION,
    X_SCHEMA,
    X_GRAMMAR,
    X_REGEX,
    X_TOOLS,
    X_COUNT
};
static const argparse_option extra[X_COUNT] = {
    {"prompt", 'p', 1, 0, "TEXT", "the first message; piped text goes before it"},
    {"system", 's', 1, 0, "TEXT", "the system message"},
    {"hide-thinking", 0, 0, 0, NULL, "do not show reasoning"},
    {"no-think", 0, 0, 0, NULL, "ask the template to switch reasoning off"},
    {"no-stats", 0, 0, 0, NULL, "no statistics after each answer"},
    {"render", 0, 0, 0, NULL, "print what the chat template makes of the message, and nothing else"},
    {"session", 0, 1, 0, "FILE",
     "go on where FILE stopped, without computing it again; it is written when the command ends"},
    COMMAND_GRAMMAR_FLAGS,
};
const command chat_command_about = {"chat",
                                    "chat MODEL [TEXT] [options]",
                                    "Talks with a model on the terminal.",
                                    extra,
                                    X_COUNT,
                                    OPTIONS_OF_A_MODEL " gen. sample. draft."};

static int32_t on_event(const kvrt_event *event, void *user)
{
    chat *c = user;
    if (event->type == KVRT_EVENT_PREFILL_PROGRESS)
        command_progress_show(&c->view.progress, "prompt", event->done, event->total, 1, "tokens");
    if (event->type == KVRT_EVENT_CTX_SHIFTED) c->n_shifted += event->done;
    if (event->type == KVRT_EVENT_WARNING) fprintf(stderr, "kvrt: %s\n", event->text);
    if (event->type == KVRT_EVENT_TEXT || event->type == KVRT_EVENT_DONE) { /* DONE: what waited for more text */
        command_progress_clear(&c->view.progress);
        chat_append(&c->answer, event->text, event->text_len);
        chat_view_text(&c->view, event->text, event->text_len);
    }
    if (command_is_call(event)) { /* shown, and kept as what the model answered */
        char part[256];
        command_call_text(event, part, sizeof part);
        const char *text = event->type == KVRT_EVENT_TOOL_ARGUMENTS ? event->text : part;
        chat_append(&c->answer, text, strlen(text));
        chat_view_text(&c->view, text, strlen(text));
    }
    return c->view.closed ? KVRT_STOP : KVRT_CONTINUE;
}

static void warn_context(chat *c)
{
    kvrt_session_info info = {.size = sizeof info};
    const char *when_full = "";
    if (c->n_shifted)
        fprintf(stderr, "kvrt: the context was full; %llu tokens behind the first 128 are gone\n", c->n_shifted);
    c->n_shifted = 0;
    (void)kvrt_options_get_string(c->line.options, "ctx.full", &when_full, NULL);
    if (strcmp(when_full, "shift") == 0) return; /* it never ends */
    if (kvrt_session_get_info(c->session, &info, NULL) < 0 || !info.ctx_size) return;
    int percent = (int)((uint64_t)info.n_tokens * 100 / info.ctx_size), level = percent >= 95   ? 95
                                                                                : percent >= 80 ? 80
                                                                                                : 0;
    if (level > c->warned && c->last.finish != KVRT_FINISH_CTX_FULL) /* that has been said */
        fprintf(stderr, "kvrt: the context is %d%% full (%u of %u tokens); /reset or /undo make room\n", percent,
                info.n_tokens, info.ctx_size);
    c->warned = level;
}

static bool ends_thinking(const chat_conversation *v)
{
    size_t n = v->held.len;
    while (n && (v->held.data[n - 1] == '\n' || v->held.data[n - 1] == ' ')) n--;
    return n >= 7 && memcmp(v->held.data + n - 7, "<think>", 7) == 0;
}

/* Answers the last message. An exit code when the command should end, -1 to go on. */
static int answer(chat *c, bool terminal)
{
    kvrt_error error = command_error();
    kvrt_result result = {.size = sizeof result};
    uint64_t n_new = 0;
    chat_conversation *v = &c->conversation;
    if (terminal) chat_signal_hold(true);
    int32_t status = chat_prepare(v, c->engine, c->session, &n_new, &error);
    if (status >= 0) {
        chat_clear(&c->answer);
        chat_view_start(&c->view, ends_thinking(v));
        chat_signal_session(c->session);
        /* The view tells thinking from text itself, by the marks, which the history keeps. */
        (void)kvrt_options_set_bool(c->line.options, "gen.reasoning", 0, NULL);
        status = kvrt_generate(c->session, c->line.options, on_event, c, &result, &error);
        chat_signal_session(NULL);
        chat_view_end(&c->view);
    }
    bool stopped = chat_signal_take();
    if (c->view.closed) return EXIT_RUN; /* main says what happened to stdout */
    if (status < 0) {
        chat_drop_last(v); /* the conversation is as it was before the message */
        chat_clear(&v->held);
        if (status == KVRT_CANCELLED) fprintf(stderr, "(cancelled)\n");
        int code = status == KVRT_CANCELLED ? EXIT_INTERRUPT : command_fail(status, &error);
        if (terminal && status == KVRT_CTX_FULL) fprintf(stderr, "/reset or /undo make room\n");
        return terminal ? -1 : code;
    }
    chat_note_answer(v, c->engine, c->session, c->answer.data, c->answer.len, result.finish);
    chat_add_message(v, "assistant", c->answer.data, c->answer.len);
    v->messages[v->n - 1].partial = result.finish == KVRT_FINISH_CANCELLED || result.finish == KVRT_FINISH_LENGTH;
    c->last = result;
    c->last_new = n_new;
    if (terminal && !command_write("\n", 1)) return EXIT_RUN;
    if (result.finish == KVRT_FINISH_CANCELLED && terminal) fprintf(stderr, "(stopped)\n");
    command_say_early_end(&result, terminal ? "/set n -1" : "-n -1",
                          terminal ? "/reset or /undo make room" : "--ctx sets its size");
    if (!terminal) return stopped ? EXIT_INTERRUPT : result.finish == KVRT_FINISH_CTX_FULL ? EXIT_CONTEXT : EXIT_OK;
    if (!c->line.extra[X_NO_STATS]) chat_show_stats(c);
    warn_context(c);
    return -1;
}

static void banner(chat *c)
{
    kvrt_engine_info e = {.size = sizeof e};
    if (kvrt_engine_get_info(c->engine, &e, NULL) < 0) return;
    fprintf(stderr, "%s, %.1f MiB of %s weights, KV %s (%.0f bytes per token), context %u, memory %.1f MiB used",
            e.architecture, (double)e.weight_bytes / 1048576.0, e.weight_dtype, e.kv_format, e.kv_bytes_per_token,
            e.ctx_size, (double)e.planned_bytes / 1048576.0);
    if (e.budget_bytes > e.planned_bytes)
        fprintf(stderr, ", %.1f free", (double)(e.budget_bytes - e.planned_bytes) / 1048576.0);
    fprintf(stderr, " on %s\n/help lists the commands, Ctrl-D leaves.\n", e.device);
}

/* What was typed: a command, or a message to answer. An exit code when the command should end, -1 to go on. */
static int take_line(chat *c, const chat_text *text)
{
    chat_action action = CHAT_ANSWER;
    if (text->data[0] == '/') action = chat_command(c, text->data);
    else chat_add_message(&c->conversation, "user", text->data, text->len);
    return action == CHAT_QUIT ? EXIT_OK : action == CHAT_ANSWER ? answer(c, true) : -1;
}

static bool is_blank(const chat_text *text) { return !text->len || strspn(text->data, " \t\r\n") == text->len; }

/* `waiting`: a first message is there to be answered. */
static int converse(chat *c, bool waiting)
{
    chat_input *in = chat_input_open("kvrt");
    chat_text text = {0};
    if (!in) return EXIT_RUN;
    c->view.wraps = true;
    banner(c);
    int code = waiting ? answer(c, true) : -1;
    while (code < 0) {
        chat_read got = chat_input_read(in, "> ", &text);
        if (got == CHAT_END) break;
        if (got == CHAT_INTERRUPT) fprintf(stderr, "(Ctrl-D or /quit leaves)\n");
        else if (!is_blank(&text)) code = take_line(c, &text);
    }
    chat_free(&text);
    chat_input_close(in);
    return code < 0 ? EXIT_OK : code;
}

/* The message that does not come from a prompt: all of stdin unless that is a terminal, then the text of the command
 * line. *waiting tells whether there is one. */
static int first_message(chat *c, bool *waiting)
{
    const char *prompt = command_prompt(&c->line, c->line.extra[X_PROMPT]);
    chat_text text = {0};
    if (!command_is_terminal(stdin) && !command_is_closed(stdin)) {
        size_t len = 0;
        char *piped = command_read_file("-", &len);
        if (!piped && !prompt) return EXIT_RUN;
        if (piped) chat_append(&text, piped, len);
        free(piped);
    }
    if (prompt) chat_append_str(&text, prompt);
    else text.len = command_message_length(text.data, text.len);
    *waiting = text.len > 0;
    if (text.len) chat_add_message(&c->conversation, "user", text.data, text.len);
    chat_free(&text);
    return EXIT_OK;
}

/* Renders a message that says nothing, so that a missing or broken template is found before anyone types. */
static int check_template(chat *c)
{
    kvrt_error error = command_error();
    chat_text text = {0};
    int32_t status =
        chat_render(&c->conversation, c->engine, "[{\"role\": \"user\", \"content\": \"x\"}]", 0, &text, &error);
    chat_free(&text);
    c->conversation.n_ids = 0;
    if (status >= 0) return EXIT_OK;
    int code = command_fail(status, &error);
    return status == KVRT_UNSUPPORTED ? EXIT_TEMPLATE : code;
}

static int render(chat *c)
{
    kvrt_error error = command_error();
    chat_text json = {0}, text = {0};
    chat_to_json(&c->conversation, &json);
    int32_t status = chat_render(&c->conversation, c->engine, json.data, 0, &text, &error);
    int code = status < 0 ? command_fail(status, &error) : chat_print_rendering(&text) ? EXIT_OK : EXIT_RUN;
    chat_free(&json);
    chat_free(&text);
    return code;
}

static int open_session(chat *c)
{
    kvrt_error error = command_error();
    int32_t status = kvrt_session_create(c->engine, c->line.options, &c->session, &error);
    return status < 0 ? command_fail(status, &error) : EXIT_OK;
}

/* What is in the file, if there is one, then what the command line says. */
static int resume(chat *c, const char *path)
{
    kvrt_error error = command_error();
    if (access(path, F_OK) != 0 && errno == ENOENT) return EXIT_OK;
    chat_conversation said = c->conversation;
    c->conversation = (chat_conversation){.thinking = said.thinking, .tools = said.tools};
    const int32_t status = chat_load(c, path, &error);
    for (size_t i = 0; i < said.n; i++) {
        const chat_message *m = &said.messages[i];
        if (strcmp(m->role, "system") == 0) chat_set_system(&c->conversation, m->content.data);
        else chat_add_message(&c->conversation, m->role, m->content.data, m->content.len);
    }
    chat_conversation_free(&said);
    return status >= 0 ? EXIT_OK : status == KVRT_IO ? EXIT_RUN : command_fail(status, &error);
}

static int chat_with(chat *c)
{
    const bool only_render = c->line.extra[X_RENDER] != NULL;
    const bool terminal = command_is_terminal(stdin) && command_is_terminal(stdout) && !only_render;
    bool waiting = false;
    int code = command_set_grammar(&c->line, c->line.extra + X_SCHEMA);
    if (code == EXIT_OK) code = first_message(c, &waiting);
    if (code != EXIT_OK) return code;
    c->conversation.tools = command_tools(&c->line);
    if (!waiting && !terminal) {
        fprintf(stderr, "kvrt chat: %s, need a message\n", command_is_terminal(stdin) ? "no text" : "stdin is empty");
        return EXIT_USAGE;
    }
    if (c->line.extra[X_SYSTEM]) chat_set_system(&c->conversation, c->line.extra[X_SYSTEM]);
    if (only_render) (void)kvrt_options_set_text(c->line.options, "model.load", "tokenizer", NULL);
    code = command_open(c->line.options, &c->engine);
    chat_signal_install();
    if (code == EXIT_OK) code = check_template(c);
    if (code != EXIT_OK) return code;
    if (only_render) return render(c);
    c->defaults = command_model_defaults(c->line.positional[0]);
    code = open_session(c);
    if (code != EXIT_OK) return code;
    const char *file = c->line.extra[X_SESSION];
    if (file) code = resume(c, file);
    if (code != EXIT_OK) return code;
    code = terminal ? converse(c, waiting) : answer(c, false);
    return file && !chat_save(c, file) && code == EXIT_OK ? EXIT_RUN : code;
}

int chat_main(int argc, char **argv)
{
    chat c = {.conversation = {.thinking = true}};
    int code = command_parse(&chat_command_about, argc, argv, true, &c.line);
    if (code < 0) code = command_check_prompt(&chat_command_about, &c.line, c.line.extra[X_PROMPT]);
    if (code < 0) {
        c.view.colour = command_wants_colour(stdout);
        c.view.hide_thinking = c.line.extra[X_HIDE] != NULL;
        c.conversation.thinking = !c.line.extra[X_NO_THINK];
        code = chat_with(&c);
        if (c.engine) (void)kvrt_engine_close(c.engine, NULL);
    }
    chat_conversation_free(&c.conversation);
    chat_free_branches(&c);
    chat_free(&c.answer);
    chat_free(&c.view.pending);
    chat_wrap_free(&c.view.wrap);
    kvrt_options_destroy(c.defaults);
    command_free(&c.line);
    return code;
}
