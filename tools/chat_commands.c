/* chat_commands.c - what begins with a slash. An unknown command is an error message, never a message to the model. */
#define _POSIX_C_SOURCE 200809L
#include "chat.h"
#include "vocabulary.h"

#include <errno.h>
#include <string.h>

const char *const chat_command_names[] = {"/help",   "/system", "/set",   "/show", "/stats", "/mem",  "/kv",
                                          "/ctx",    "/regen",  "/undo",  "/save", "/load",  "/fork", "/switch",
                                          "/export", "/read",   "/reset", "/quit", NULL};

static const char help[] =
    "/system [TEXT]       show or set the system message (- removes it)\n"
    "/set KEY VALUE       set an option of sampling or generation, or thinking on|off|hide\n"
    "/show                model, options and system message\n"
    "/stats /mem /kv /ctx the last answer, memory, cache, context\n"
    "/regen               answer again        /undo   take back the last exchange\n"
    "/save FILE           keep the conversation and what was computed of it        /load FILE   go on with one\n"
    "/fork NAME           keep it as it is here, and go on        /switch NAME   change places with one\n"
    "/read FILE           send a file         /export md|json FILE\n"
    "/reset               start over          /quit   leave (also Ctrl-D)\n"
    "\"\"\" begins and ends a message of several lines. Ctrl-C stops an answer; twice leaves.\n";

static double mib(uint64_t bytes) { return (double)bytes / 1048576.0; }
static double rate(double n, uint64_t us) { return us ? n * 1e6 / (double)us : 0; }

void chat_show_stats(chat *c)
{
    kvrt_session_info info = {.size = sizeof info};
    if (!c->last.size) fprintf(stderr, "there is no answer yet\n");
    if (!c->last.size || kvrt_session_get_info(c->session, &info, NULL) < 0) return;
    const kvrt_result *r = &c->last;
    bool colour = command_wants_colour(stderr);
    fprintf(
        stderr,
        "%sprompt %u tokens (%u cached, %u new) | first token %.0f ms | prefill %.0f tok/s | %u tokens, %.1f tok/s%s "
        "| context %u/%u"
        " | KV %.2f MiB | seed %llu%s\n",
        colour ? "\033[2m" : "", r->n_prompt, r->n_reused, r->n_prompt - r->n_reused, (double)r->first_token_us / 1e3,
        rate(r->n_prompt - r->n_reused, r->prefill_us), r->n_generated,
        rate(r->n_generated > 1 ? r->n_generated - 1.0 : 0, r->decode_us), command_guesses(r, (char[64]){""}),
        info.n_tokens, info.ctx_size, mib(r->kv_bytes), (unsigned long long)r->seed, colour ? "\033[0m" : "");
}

static void show_engine(chat *c, bool memory, bool cache)
{
    kvrt_engine_info e = {.size = sizeof e};
    kvrt_session_info s = {.size = sizeof s};
    if (kvrt_engine_get_info(c->engine, &e, NULL) < 0 || kvrt_session_get_info(c->session, &s, NULL) < 0) return;
    if (memory)
        fprintf(
            stderr,
            "weights %.1f MiB (%s), workspace %.1f MiB, KV pool %.1f MiB (%.1f used); %.1f MiB held, %.1f planned\n",
            mib(e.weight_bytes), e.mapped_bytes ? "mapped, not held" : "held", mib(e.workspace_bytes),
            mib(e.kv_pool_bytes), mib(e.kv_pool_used_bytes), mib(e.resident_bytes), mib(e.planned_bytes));
    if (cache)
        fprintf(stderr, "%s, %.0f bytes per token, %u pages (%u packed), %.2f MiB\n", e.kv_format, e.kv_bytes_per_token,
                s.n_pages, s.n_packed_pages, mib(s.kv_bytes));
    if (!memory && !cache)
        fprintf(stderr, "context %u of %u tokens (%u in the cache)\n", s.n_tokens, s.ctx_size, s.n_cached);
}

static void show_seed(chat *c)
{
    int64_t seed = -1;
    (void)kvrt_options_get_i64(c->line.options, "sample.seed", &seed, NULL);
    if (seed < 0 && c->last.size)
        fprintf(stderr, "sample.seed random, %llu in the last answer (default)\n", (unsigned long long)c->last.seed);
    else if (seed >= 0)
        fprintf(stderr, "sample.seed %lld (%s)\n", (long long)seed,
                command_origin(&c->line, c->defaults, "sample.seed"));
    else fprintf(stderr, "sample.seed random (default)\n");
}

static void show(chat *c)
{
    kvrt_engine_info e = {.size = sizeof e};
    if (kvrt_engine_get_info(c->engine, &e, NULL) >= 0)
        fprintf(stderr, "%s, %.1fM parameters, %s weights, %s on %s\n", e.architecture, (double)e.n_params / 1e6,
                e.weight_dtype, e.backend, e.device);
    for (unsigned i = 0; command_sampling_keys[i]; i++) {
        char value[40];
        command_value(c->line.options, c->defaults, command_sampling_keys[i], value, sizeof value);
        fprintf(stderr, "%s %s (%s)\n", command_sampling_keys[i], value,
                command_origin(&c->line, c->defaults, command_sampling_keys[i]));
    }
    show_seed(c);
    const chat_conversation *v = &c->conversation;
    fprintf(stderr, "thinking %s\n", !v->thinking ? "off" : c->view.hide_thinking ? "hidden" : "on");
    if (v->n && strcmp(v->messages[0].role, "system") == 0)
        fprintf(stderr, "system: %s\n", v->messages[0].content.data);
}

static void set_option(chat *c, char *argument)
{
    size_t n = strcspn(argument, " =");
    char *value = argument + n + strspn(argument + n, " =");
    if (!n || !*value) {
        fprintf(stderr, "/set needs KEY VALUE, such as /set temp 0.7\n");
        return;
    }
    argument[n] = 0;
    if (strcmp(argument, "thinking") == 0) {
        c->conversation.thinking = strcmp(value, "off") != 0;
        c->view.hide_thinking = strcmp(value, "hide") == 0;
        return;
    }
    kvrt_error error = command_error();
    kvrt_option_info info;
    if (vocabulary_find(argument, &info, NULL) && info.scope != KVRT_SCOPE_CALL)
        fprintf(stderr, "%s is fixed when the model is loaded (see kvrt chat --help)\n", info.key);
    else if (command_set(&c->line, argument, value, SOURCE_OPTION, &error) < 0) fprintf(stderr, "%s\n", error.message);
}

void chat_path(const char *typed, char *out, size_t cap)
{
    size_t len = strlen(typed);
    const char *home = getenv("HOME");
    if (len >= 2 && (*typed == '"' || *typed == '\'') && typed[len - 1] == *typed) typed++, len -= 2;
    bool is_home = len >= 2 && typed[0] == '~' && typed[1] == '/' && home && *home;
    snprintf(out, cap, "%s%.*s", is_home ? home : "", (int)(len - is_home), typed + is_home);
}

static void export_to(chat *c, char *argument)
{
    char path[4096], *name = strchr(argument, ' ');
    bool json = strncmp(argument, "json ", 5) == 0, markdown = strncmp(argument, "md ", 3) == 0;
    if (!name || !name[1] || (!json && !markdown)) {
        fprintf(stderr, "/export needs md FILE or json FILE\n");
        return;
    }
    chat_path(name + 1, path, sizeof path);
    chat_text text = {0};
    if (json) chat_to_json(&c->conversation, &text);
    else chat_to_markdown(&c->conversation, &text);
    errno = 0;
    FILE *file = fopen(path, "wb");
    bool good = file && fwrite(text.data, 1, text.len, file) == text.len;
    if (file && fclose(file) != 0) good = false;
    if (good) fprintf(stderr, "wrote %s\n", path);
    else fprintf(stderr, "%s: cannot be written: %s\n", path, strerror(errno));
    chat_free(&text);
}

static chat_action read_file(chat *c, const char *name)
{
    char path[4096];
    size_t len = 0;
    if (!*name) {
        fprintf(stderr, "/read needs a file name\n");
        return CHAT_NOTHING;
    }
    chat_path(name, path, sizeof path);
    char *text = command_read_file(path, &len);
    if (!text) return CHAT_NOTHING;
    chat_add_message(&c->conversation, "user", text, len);
    free(text);
    return CHAT_ANSWER;
}

static chat_action take_back(chat *c, bool again)
{
    chat_conversation *v = &c->conversation;
    bool answered = v->n && strcmp(v->messages[v->n - 1].role, "assistant") == 0;
    if (answered) chat_drop_last(v);
    bool asked = v->n && strcmp(v->messages[v->n - 1].role, "user") == 0;
    if (!asked) {
        fprintf(stderr, "there is no exchange yet\n");
        return CHAT_NOTHING;
    }
    chat_clear(&v->held); /* the session holds more than the messages now; the common prefix is found again */
    if (again) return CHAT_ANSWER;
    chat_drop_last(v);
    fprintf(stderr, "took back the last exchange\n");
    return CHAT_NOTHING;
}

static void system_message(chat *c, const char *argument)
{
    const chat_conversation *v = &c->conversation;
    bool has = v->n && strcmp(v->messages[0].role, "system") == 0;
    if (!*argument) fprintf(stderr, "%s\n", has ? v->messages[0].content.data : "there is no system message");
    else chat_set_system(&c->conversation, strcmp(argument, "-") == 0 ? "" : argument);
}

/* Commands as people know them from elsewhere. */
static const char *command_named(const char *typed)
{
    static const char *const others[][2] = {{"/?", "/help"},           {"/h", "/help"},     {"/commands", "/help"},
                                            {"/bye", "/quit"},         {"/exit", "/quit"},  {"/q", "/quit"},
                                            {"/clear", "/reset"},      {"/new", "/reset"},  {"/retry", "/regen"},
                                            {"/regenerate", "/regen"}, {"/file", "/read"},  {"/info", "/show"},
                                            {"/context", "/ctx"},      {"/memory", "/mem"}, {"/sys", "/system"}};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (strcmp(typed, others[i][0]) == 0) return others[i][1];
    return typed;
}

static void unknown_command(const char *name)
{
    unsigned best = 1000, nearest = 0;
    for (unsigned i = 0; chat_command_names[i]; i++) {
        unsigned d = argparse_distance(name, chat_command_names[i]);
        if (d < best) best = d, nearest = i;
    }
    if (argparse_is_near(name + 1, best))
        fprintf(stderr, "unknown command %s, did you mean %s?\n", name, chat_command_names[nearest]);
    else fprintf(stderr, "unknown command %s (see /help)\n", name);
}

chat_action chat_command(chat *c, const char *line)
{
    char typed[32];
    size_t n = strcspn(line, " ");
    snprintf(typed, sizeof typed, "%.*s", (int)(n < sizeof typed ? n : sizeof typed - 1), line);
    const char *name = command_named(typed);
    char *argument = strdup(line[n] ? line + n + 1 : "");
    if (!argument) return CHAT_QUIT;
    chat_action action = CHAT_NOTHING;
    if (strcmp(name, "/help") == 0) fputs(help, stderr);
    else if (strcmp(name, "/quit") == 0) action = CHAT_QUIT;
    else if (strcmp(name, "/system") == 0) system_message(c, argument);
    else if (strcmp(name, "/set") == 0) set_option(c, argument);
    else if (strcmp(name, "/show") == 0) show(c);
    else if (strcmp(name, "/stats") == 0) chat_show_stats(c);
    else if (strcmp(name, "/mem") == 0) show_engine(c, true, false);
    else if (strcmp(name, "/kv") == 0) show_engine(c, false, true);
    else if (strcmp(name, "/ctx") == 0) show_engine(c, false, false);
    else if (strcmp(name, "/regen") == 0 || strcmp(name, "/undo") == 0) action = take_back(c, name[1] == 'r');
    else if (strcmp(name, "/save") == 0 || strcmp(name, "/load") == 0) chat_save_command(c, argument, name[1] == 'l');
    else if (strcmp(name, "/fork") == 0) chat_fork(c, argument);
    else if (strcmp(name, "/switch") == 0) chat_switch(c, argument);
    else if (strcmp(name, "/export") == 0) export_to(c, argument);
    else if (strcmp(name, "/read") == 0) action = read_file(c, argument);
    else if (strcmp(name, "/reset") == 0) {
        chat_reset(&c->conversation);
        fprintf(stderr, "the conversation is empty\n");
    } else unknown_command(typed);
    free(argument);
    return action;
}
