/* command.c - see command.h. */
#define _POSIX_C_SOURCE 200809L
#define ARGPARSE_IMPLEMENTATION
#include "plan_report.h"

#include <errno.h>
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

/* -------------------------------------------------------------------------------------------------- arguments --- */
/* The flag table: extra flags, general flags, then every option that has a flag. */
enum { GENERAL_HELP, GENERAL_SET, GENERAL_CONFIG, GENERAL_COUNT };
static const argparse_option general[GENERAL_COUNT] = {
    {"help", 'h', 0, 0, NULL, "this text"},
    {"set", 0, 1, 0, "KEY=VALUE", "any option by its key"},
    {"config", 0, 1, 0, "FILE", "read options from a file of KEY = VALUE lines"},
};

typedef struct flag_table {
    argparse_option flags[MAX_FLAGS];
    kvrt_option_info info[MAX_FLAGS]; /* of option flags */
    unsigned n, first_option;
} flag_table;

static void build_table(const command *c, flag_table *t)
{
    for (unsigned i = 0; i < c->n_extra; i++) t->flags[t->n++] = c->extra[i];
    for (unsigned i = 0; i < GENERAL_COUNT; i++) t->flags[t->n++] = general[i];
    t->first_option = t->n;
    for (uint32_t i = 0; i < kvrt_option_count() && t->n < MAX_FLAGS; i++) {
        kvrt_option_info info = {.size = sizeof info};
        if (kvrt_option_at(i, &info, NULL) < 0 || !info.flag) continue;
        bool shadowed = false;
        for (unsigned k = 0; k < c->n_extra; k++) shadowed = shadowed || strcmp(c->extra[k].name, info.flag) == 0;
        if (shadowed) continue;
        bool is_bool = info.type == KVRT_OPTION_BOOL;
        t->info[t->n] = info;
        t->flags[t->n++] = (argparse_option){
            info.flag, (char)(info.flag[1] ? 0 : info.flag[0]), !is_bool, is_bool, "VALUE", info.help};
    }
}

static void print_flag(const argparse_option *o, const kvrt_option_info *info, void *user)
{
    FILE *to = user;
    char left[64], letter[5] = "    ";
    bool is_letter = !o->name[1]; /* an option named by one letter, such as -n */
    if (o->letter) snprintf(letter, sizeof letter, "-%c%s", o->letter, is_letter ? "" : ", ");
    snprintf(left, sizeof left, "%s%s%s%s%s", letter, is_letter ? "" : "--", is_letter ? "" : o->name,
             o->takes_value ? " " : "", o->takes_value ? (o->value_name ? o->value_name : "VALUE") : "");
    fprintf(to, "  %-30s %s", left, o->help);
    const char *range = info ? info->range : "", *defaults = info ? info->defaults : "";
    if (info && strcmp(info->key, "cpu.amx") == 0) defaults = "true"; /* see command_parse */
    if (*range || *defaults) fprintf(to, " [%s%s%s]", range, *range && *defaults ? "; " : "", defaults);
    fputc('\n', to);
}

void command_flags(const command *c, command_flag_fn fn, void *user)
{
    flag_table *t = calloc(1, sizeof *t);
    if (!t) return;
    build_table(c, t);
    for (unsigned i = 0; i < t->n; i++) fn(&t->flags[i], i >= t->first_option ? &t->info[i] : NULL, user);
    free(t);
}

void command_help(const command *c, FILE *to)
{
    fprintf(to, "usage: kvrt %s\n%s\n\n", c->usage, c->summary);
    command_flags(c, print_flag, to);
    fprintf(to, "\nEvery option is also read from the environment: --top-k as KVRT_TOP_K.\n");
}

static int usage_error(const char *name, const char *message)
{
    fprintf(stderr, "kvrt %s: %s (see kvrt %s --help)\n", name, message, name);
    return EXIT_USAGE;
}

static int set_pair(kvrt_options *options, const char *pair, size_t len)
{
    kvrt_error error = command_error();
    char key[128];
    const char *equals = memchr(pair, '=', len);
    size_t n = equals ? (size_t)(equals - pair) : len;
    while (n && (pair[n - 1] == ' ' || pair[n - 1] == '\t')) n--;
    if (!equals || n == 0 || n >= sizeof key) return usage_error("--set", "need KEY=VALUE");
    memcpy(key, pair, n);
    key[n] = 0;
    char *value = strndup(equals + 1, len - (size_t)(equals + 1 - pair));
    if (!value) return EXIT_RUN;
    char *start = value;
    while (*start == ' ' || *start == '\t') start++;
    for (size_t end = strlen(start); end && (start[end - 1] == ' ' || start[end - 1] == '\r' || start[end - 1] == '\t');
         end--)
        start[end - 1] = 0;
    int32_t status = kvrt_options_set_text(options, key, start, &error);
    free(value);
    return status < 0 ? command_fail(status, &error) : -1;
}

static int read_config(kvrt_options *options, const char *path)
{
    size_t len;
    char *text = command_read_file(path, &len);
    if (!text) return EXIT_RUN;
    int code = -1;
    for (char *line = text; *line && code < 0;) {
        size_t n = strcspn(line, "\n");
        char *next = line + n + (line[n] == '\n');
        while (*line == ' ' || *line == '\t') line++, n--;
        if (n && line[0] != '#' && line[0] != '\r') code = set_pair(options, line, n);
        line = next;
    }
    free(text);
    return code;
}

/* KVRT_TOP_K for --top-k: the command reads the environment, the library never does. */
static int read_environment(const flag_table *t, kvrt_options *options)
{
    for (unsigned i = t->first_option; i < t->n; i++) {
        char name[64] = "KVRT_";
        size_t n = strlen(name);
        for (const char *p = t->flags[i].name; *p && n < sizeof name - 1; p++)
            name[n++] = *p == '-' ? '_' : (char)(*p >= 'a' && *p <= 'z' ? *p - 32 : *p);
        name[n] = 0;
        const char *value = getenv(name);
        if (!value || !*value) continue;
        kvrt_error error = command_error();
        int32_t status = kvrt_options_set_text(options, t->info[i].key, value, &error);
        if (status < 0) {
            fprintf(stderr, "kvrt: environment %s: ", name);
            return command_fail(status, &error);
        }
    }
    return -1;
}

/* The file named by --config, else by KVRT_CONFIG. */
static int find_config(const command *c, const flag_table *t, int argc, char **argv, kvrt_options *options)
{
    argparse p;
    const char *path = getenv("KVRT_CONFIG");
    argparse_init(&p, argc, argv, t->flags, t->n);
    for (int i; (i = argparse_next(&p)) != ARGPARSE_END;)
        if (i == (int)c->n_extra + GENERAL_CONFIG) path = p.value;
    return path && *path ? read_config(options, path) : -1;
}

static int handle_flag(const command *c, const flag_table *t, int i, const argparse *p, command_line *out)
{
    kvrt_error error = command_error();
    unsigned index = (unsigned)i;
    if (index < c->n_extra) {
        out->extra[index] = p->value ? p->value : "";
        return -1;
    }
    switch (index - c->n_extra) {
    case GENERAL_HELP: command_help(c, stdout); return EXIT_OK;
    case GENERAL_SET: return set_pair(out->options, p->value, strlen(p->value));
    case GENERAL_CONFIG: return -1; /* read before everything else */
    default: break;
    }
    const char *text = p->value ? p->value : p->negated ? "false" : "true";
    int32_t status = kvrt_options_set_text(out->options, t->info[index].key, text, &error);
    return status < 0 ? command_fail(status, &error) : -1;
}

static int parse(const command *c, const flag_table *t, int argc, char **argv, bool positional_is_model,
                 command_line *out)
{
    argparse p;
    argparse_init(&p, argc, argv, t->flags, t->n);
    for (int i, code; (i = argparse_next(&p)) != ARGPARSE_END;) {
        if (i == ARGPARSE_ERROR) return usage_error(c->name, p.message);
        if (i == ARGPARSE_POSITIONAL) {
            if (out->n_positional == sizeof out->positional / sizeof out->positional[0])
                return usage_error(c->name, "too many arguments");
            out->positional[out->n_positional++] = p.value;
        } else if ((code = handle_flag(c, t, i, &p, out)) >= 0) return code;
    }
    if (positional_is_model && out->n_positional) {
        kvrt_error error = command_error();
        int32_t status = kvrt_options_set_string(out->options, "model.path", out->positional[0], -1, &error);
        if (status < 0) return command_fail(status, &error);
    }
    return -1;
}

static void log_line(int32_t level, const char *message, void *user)
{
    static const char *const names[] = {"", "error", "warning", "info", "debug", "kernel"};
    (void)user;
    fprintf(stderr, "kvrt %s: %s\n", names[level < 0 || level > 5 ? 0 : level], message);
}

int command_parse(const command *c, int argc, char **argv, bool positional_is_model, command_line *out)
{
    memset(out, 0, sizeof *out);
    kvrt_error error = command_error();
    int32_t status = kvrt_options_create(&out->options, &error);
    if (status < 0) return command_fail(status, &error);
    /* The library leaves AMX off, because it is a process-wide permission; this process is ours. */
    (void)kvrt_options_set_bool(out->options, "cpu.amx", 1, NULL);
    flag_table *t = calloc(1, sizeof *t);
    if (!t) return EXIT_RUN;
    build_table(c, t);
    int code = find_config(c, t, argc, argv, out->options);
    if (code < 0) code = read_environment(t, out->options);
    if (code < 0) code = parse(c, t, argc, argv, positional_is_model, out);
    free(t);
    int64_t level = 2;
    (void)kvrt_options_get_i64(out->options, "log.level", &level, NULL);
    kvrt_log_set(log_line, NULL, (int32_t)level);
    return code;
}

void command_free(command_line *line) { kvrt_options_destroy(line->options); }

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
    static const char *const names[] = {"none", "eos", "stop", "length", "ctx_full", "cancelled", "callback", "paused"};
    return finish >= 0 && finish < (int32_t)(sizeof names / sizeof names[0]) ? names[finish] : "unknown";
}

void command_say_early_end(const kvrt_result *result, const char *lift, const char *room)
{
    if (result->finish != KVRT_FINISH_LENGTH && result->finish != KVRT_FINISH_CTX_FULL) return;
    command_break_line();
    if (result->finish == KVRT_FINISH_LENGTH)
        fprintf(stderr, "kvrt: ended after %u tokens, as -n asks (%s: until the end of text)\n", result->n_generated,
                lift);
    else fprintf(stderr, "kvrt: the context is full; %s\n", room);
}

char *command_read_file(const char *path, size_t *len)
{
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
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

/* ---------------------------------------------------------------------------------------------------- opening --- */
static int32_t show_load(const kvrt_event *event, void *user)
{
    if (command_interrupted) return KVRT_STOP;
    command_progress_show(user, event->text, event->done, event->total, 1.0 / 1048576, "MiB");
    return KVRT_CONTINUE;
}

int command_open(const kvrt_options *options, kvrt_engine *out)
{
    kvrt_error error = command_error();
    command_progress progress = {0};
    command_catch_interrupt(NULL);
    int32_t status = kvrt_engine_open(options, show_load, &progress, out, &error);
    command_progress_clear(&progress);
    if (status >= 0 && command_interrupted) { /* pressed behind the last event of the load */
        (void)kvrt_engine_close(*out);
        *out = NULL;
        fprintf(stderr, "kvrt: loading cancelled\n");
        return EXIT_INTERRUPT;
    }
    int code = status < 0 ? command_fail(status, &error) : 0;
    if (code == EXIT_FIT) plan_report_explain(options, &error);
    return code;
}
