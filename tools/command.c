/* command.c - see command.h. */
#define _POSIX_C_SOURCE 200809L
#include "plan_report.h"

#include <errno.h>
#include <glob.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

kvrt_error command_error(void) { return (kvrt_error){.size = sizeof(kvrt_error)}; }

int command_exit_code(int32_t status)
{
    switch (status) {
    case KVRT_ARG: return EXIT_USAGE;
    case KVRT_IO:
    case KVRT_FORMAT:
    case KVRT_UNSUPPORTED: return EXIT_MODEL;
    case KVRT_OVER_BUDGET:
    case KVRT_NOMEM_HOST:
    case KVRT_NOMEM_DEVICE: return EXIT_FIT;
    case KVRT_CTX_FULL: return EXIT_CONTEXT;
    case KVRT_TEMPLATE:
    case KVRT_GRAMMAR:
    case KVRT_GRAMMAR_DEAD_END: return EXIT_TEMPLATE;
    case KVRT_DEVICE_LOST: return EXIT_LOST;
    case KVRT_NO_DEVICE:
    case KVRT_DRIVER_TOO_OLD: return EXIT_DEVICE;
    case KVRT_CANCELLED: return EXIT_INTERRUPT;
    default: return status < 0 ? EXIT_RUN : EXIT_OK;
    }
}

int command_fail(int32_t status, const kvrt_error *error)
{
    fprintf(stderr, "kvrt: %s\n", error->message[0] ? error->message : kvrt_status_text(status));
    return command_exit_code(status);
}

/* ------------------------------------------------------------------------------------------------- interrupts --- */
volatile int command_interrupted;
static volatile sig_atomic_t twice;
static volatile time_t last_time;
static kvrt_session interrupt_session;

static void on_interrupt(int number)
{
    (void)number;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (command_interrupted && now.tv_sec - last_time <= 1) {
        twice = 1;
        static const char newline = '\n';
        ssize_t ignored = write(STDERR_FILENO, &newline, 1);
        (void)ignored;
        _exit(EXIT_INTERRUPT);
    }
    last_time = now.tv_sec;
    command_interrupted = 1;
    if (interrupt_session) kvrt_cancel(interrupt_session);
}

void command_catch_interrupt(kvrt_session session)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_interrupt;
    sigemptyset(&action.sa_mask);
    interrupt_session = session;
    sigaction(SIGINT, &action, NULL);
    action.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &action, NULL); /* a closed stdout is an error to report, not a death */
}

bool command_interrupted_twice(void) { return twice != 0; }

const char *command_finish_name(int32_t finish)
{
    static const char *const names[] = {"none",      "eos",      "stop",   "length", "ctx_full",
                                        "cancelled", "callback", "paused", "grammar"};
    return finish >= 0 && finish < (int32_t)(sizeof names / sizeof names[0]) ? names[finish] : "unknown";
}

const char *command_guesses(const kvrt_result *result, char text[64])
{
    if (result->n_drafted) snprintf(text, 64, " (%u of %u guesses)", result->n_accepted, result->n_drafted);
    return text;
}

void command_say_early_end(const kvrt_result *result, const char *lift, const char *room)
{
    if (result->finish != KVRT_FINISH_LENGTH && result->finish != KVRT_FINISH_CTX_FULL) return;
    command_break_line();
    if (result->finish == KVRT_FINISH_LENGTH)
        fprintf(stderr, "kvrt: ended after %u token%s, as -n asks (%s: until the end of text)\n", result->n_generated,
                result->n_generated == 1 ? "" : "s", lift);
    else fprintf(stderr, "kvrt: the context is full; %s\n", room);
}

char *command_read_file(const char *path, size_t *len)
{
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    if (file == stdin) path = "stdin";
    if (!file) {
        fprintf(stderr, "kvrt: %s: %s\n", path, strerror(errno));
        return NULL;
    }
    size_t cap = 65536, n = 0;
    char *text = malloc(cap);
    while (text) {
        size_t got = fread(text + n, 1, cap - n - 1, file);
        n += got;
        if (got == 0) break;
        if (n + 1 == cap) {
            char *grown = realloc(text, cap *= 2);
            if (!grown) free(text);
            text = grown;
        }
    }
    bool failed = ferror(file) != 0;
    if (failed || !text) fprintf(stderr, "kvrt: %s: %s\n", path, text ? strerror(errno) : "out of memory");
    if (file != stdin) fclose(file);
    if (failed) {
        free(text);
        return NULL;
    }
    if (text) text[n] = 0;
    *len = n;
    return text;
}

size_t command_message_length(const char *text, size_t len)
{
    if (len && text[len - 1] == '\n') len--;
    if (len && text[len - 1] == '\r') len--;
    return len;
}

/* ---------------------------------------------------------------------------------------------------- opening --- */
static int32_t show_load(const kvrt_event *event, void *user)
{
    if (command_interrupted) return KVRT_STOP;
    if (event->type == KVRT_EVENT_WARNING) {
        command_progress_clear(user);
        fprintf(stderr, "kvrt warning: %s\n", event->text);
        return KVRT_CONTINUE;
    }
    command_progress_show(user, event->text, event->done, event->total, 1.0 / 1048576, "MiB");
    return KVRT_CONTINUE;
}

/* A folder of the hub's cache holds the model one or two levels down. */
static void explain_cache_folder(const kvrt_options *options)
{
    const char *path = "";
    char config[4096];
    (void)kvrt_options_get_string(options, "model.path", &path, NULL);
    glob_t found = {0};
    if (snprintf(config, sizeof config, "%s/snapshots/*/config.json", path) < (int)sizeof config &&
        glob(config, 0, NULL, &found) == 0 && found.gl_pathc)
        fprintf(stderr, "this is a folder of the hub's cache; the model in it: %.*s\n",
                (int)(strlen(found.gl_pathv[0]) - strlen("/config.json")), found.gl_pathv[0]);
    globfree(&found);
}

/* A name of a hub, "organization/model", where a folder is needed. */
static void explain_hub_name(const kvrt_options *options)
{
    const char *path = "", *slash;
    (void)kvrt_options_get_string(options, "model.path", &path, NULL);
    slash = strchr(path, '/');
    if (!slash || slash == path || !slash[1] || strchr(slash + 1, '/') || *path == '.' || *path == '~' ||
        access(path, F_OK) == 0)
        return;
    fprintf(stderr, "kvrt does not download; with the tools of the hub: hf download %s --local-dir DIR\n", path);
}

int command_open(const kvrt_options *options, kvrt_engine *out)
{
    kvrt_error error = command_error();
    command_progress progress = {0};
    command_catch_interrupt(NULL);
    int32_t status = kvrt_engine_open(options, show_load, &progress, out, &error);
    command_progress_clear(&progress);
    if (status >= 0 && command_interrupted) { /* pressed behind the last event of the load */
        (void)kvrt_engine_close(*out, NULL);
        *out = NULL;
        fprintf(stderr, "kvrt: loading cancelled\n");
        return EXIT_INTERRUPT;
    }
    int code = status < 0 ? command_fail(status, &error) : 0;
    if (code == EXIT_FIT) plan_report_explain(options);
    if (status == KVRT_IO) explain_hub_name(options);
    if (code == EXIT_MODEL) explain_cache_folder(options);
    return code;
}

int command_set_grammar(command_line *line, const char *const flags[4])
{
    static const char *const keys[4] = {"grammar.schema", "grammar.gbnf", "grammar.regex", "gen.tools"};
    for (int i = 0; i < 4; i++) {
        size_t len = 0;
        kvrt_error error = command_error();
        if (!flags[i]) continue;
        char *text = i != 2 ? command_read_file(flags[i], &len) : NULL;
        if (i != 2 && !text) return EXIT_RUN;
        const int32_t status = kvrt_options_set_string(line->options, keys[i], text ? text : flags[i], -1, &error);
        free(text);
        if (status < 0) return command_fail(status, &error);
    }
    return EXIT_OK;
}

const char *command_tools(const command_line *line)
{
    const char *tools = "";
    (void)kvrt_options_get_string(line->options, "gen.tools", &tools, NULL);
    return *tools ? tools : NULL;
}

bool command_is_call(const kvrt_event *event)
{
    return event->type >= KVRT_EVENT_TOOL_CALL && event->type <= KVRT_EVENT_TOOL_END;
}

void command_call_text(const kvrt_event *event, char *dst, size_t cap)
{
    if (event->type == KVRT_EVENT_TOOL_CALL) snprintf(dst, cap, "{\"name\": \"%.200s\", \"arguments\": ", event->text);
    else snprintf(dst, cap, "}\n");
}
