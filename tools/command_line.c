/* command_line.c - from what was typed to options: the flag table of a command, the configuration file, the environment, the arguments;
 * and its help. The later of these wins. A wrong name is answered with the right one, a wrong value with where it stood. */
#define _POSIX_C_SOURCE 200809L
#define ARGPARSE_IMPLEMENTATION
#include "command.h"
#include "model_name.h"
#include "vocabulary.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

enum { GENERAL_HELP, GENERAL_SET, GENERAL_CONFIG, GENERAL_LAYERS, GENERAL_CACHE_TYPE, GENERAL_COUNT };
static const argparse_option general[GENERAL_COUNT] = {
    {"help", 'h', 0, 0, NULL, "this text"},
    {"set", 0, 1, 0, "KEY=VALUE", "any option by its key"},
    {"config", 0, 1, 0, "FILE", "read options from a file of KEY = VALUE lines"},
    {"gpu-layers", 0, 1, 0, "N", ""}, /* of other programs: understood, not shown */
    {"cache-type-k", 0, 1, 0, "TYPE", ""},
};

typedef enum row_kind { ROW_EXTRA, ROW_GENERAL, ROW_OPTION } row_kind;
typedef struct flag_table {
    argparse_option flags[MAX_FLAGS];
    row_kind kind[MAX_FLAGS];
    uint32_t index[MAX_FLAGS]; /* in the command's own flags, the general ones, or the library's options */
    unsigned n;
} flag_table;

/* ------------------------------------------------------------------------------------------------------- table --- */
/* Whether the command has a use for the option: a list of keys and groups ("model.io cpu. ctx."). */
static bool applies(const command *c, const char *key)
{
    for (const char *at = c->options; at && *at;) {
        size_t n = strcspn(at, " ");
        if (strncmp(key, at, n) == 0 && (at[n - 1] == '.' || !key[n])) return true;
        at += n + (at[n] == ' ');
    }
    return false;
}

static void add_row(flag_table *t, argparse_option flag, row_kind kind, uint32_t index)
{
    if (t->n == MAX_FLAGS) return;
    t->kind[t->n] = kind;
    t->index[t->n] = index;
    t->flags[t->n++] = flag;
}

static void add_flag(flag_table *t, argparse_option flag, row_kind kind, uint32_t index)
{
    add_row(t, flag, kind, index);
    const char *other;
    for (unsigned k = 0; (other = vocabulary_other_name(flag.name, k)); k++) {
        char letter = (char)(other[1] ? 0 : other[0]);
        if (letter == flag.letter) letter = 0;
        add_row(t, (argparse_option){other, letter, flag.takes_value, flag.negatable, NULL, NULL}, kind, index);
    }
}

static bool is_taken(const command *c, const char *name, char letter)
{
    for (unsigned i = 0; i < c->n_extra; i++)
        if (strcmp(c->extra[i].name, name) == 0 || (letter && c->extra[i].letter == letter)) return true;
    return false;
}

static void build_table(const command *c, flag_table *t)
{
    for (unsigned i = 0; i < c->n_extra; i++) add_flag(t, c->extra[i], ROW_EXTRA, i);
    for (unsigned i = 0; i < GENERAL_COUNT; i++)
        if (i < GENERAL_LAYERS || applies(c, "device.backend")) add_flag(t, general[i], ROW_GENERAL, i);
    for (uint32_t i = 0; i < kvrt_option_count(); i++) {
        kvrt_option_info info = {.size = sizeof info};
        if (kvrt_option_at(i, &info, NULL) < 0 || !info.flag || !applies(c, info.key)) continue;
        if (is_taken(c, info.flag, 0)) continue;
        const bool is_bool = info.type == KVRT_OPTION_BOOL;
        char letter = vocabulary_letter(info.key);
        if (is_taken(c, "", letter)) letter = 0;
        add_flag(t, (argparse_option){info.flag, letter, !is_bool, is_bool, "VALUE", info.help}, ROW_OPTION, i);
    }
}

static kvrt_option_info option_at(uint32_t index)
{
    kvrt_option_info info = {.size = sizeof info};
    (void)kvrt_option_at(index, &info, NULL);
    return info;
}

void command_flags(const command *c, command_flag_fn fn, void *user)
{
    flag_table *t = calloc(1, sizeof *t);
    if (!t) return;
    build_table(c, t);
    for (unsigned i = 0; i < t->n; i++) {
        if (!t->flags[i].help || !*t->flags[i].help) continue;
        kvrt_option_info info = {.size = 0};
        if (t->kind[i] == ROW_OPTION) info = option_at(t->index[i]);
        fn(&t->flags[i], info.size ? &info : NULL, user);
    }
    free(t);
}

/* -------------------------------------------------------------------------------------------------------- help --- */
typedef struct help_page {
    FILE *to;
    const char *group; /* of the option before */
} help_page;

const char *command_default(const kvrt_option_info *info)
{
    return strcmp(info->key, "cpu.amx") == 0 ? "true" : info->defaults; /* see command_parse */
}

static void print_flag(const argparse_option *o, const kvrt_option_info *info, void *user)
{
    help_page *page = user;
    char left[64], letter[5] = "    ";
    /* A long list of words stands behind the help, as the ranges of options do. */
    const bool words = o->value_name && strchr(o->value_name, '|') && strlen(o->value_name) > 20;
    const char *value = !o->takes_value ? "" : words || !o->value_name ? "VALUE" : o->value_name;
    if (info && strcmp(page->group, info->group) != 0) fprintf(page->to, "\n%s\n", page->group = info->group);
    if (o->letter) snprintf(letter, sizeof letter, "-%c, ", o->letter);
    snprintf(left, sizeof left, "%s--%s%s%s", letter, o->name, *value ? " " : "", value);
    fprintf(page->to, "  %-30s %s", left, o->help);
    const char *range = info ? info->range : words ? o->value_name : "", *defaults = info ? info->defaults : "";
    if (info) defaults = command_default(info);
    if (*range || *defaults) fprintf(page->to, " [%s%s%s]", range, *range && *defaults ? "; " : "", defaults);
    fputc('\n', page->to);
}

void command_help(const command *c, FILE *to)
{
    fprintf(to, "usage: kvrt %s\n%s\n\n", c->usage, c->summary);
    command_flags(c, print_flag, &(help_page){to, ""});
    fprintf(
        to,
        "\nOptions are also read from the environment (--top-k as KVRT_TOP_K) and from --config FILE (top-k = 40).\n");
}

/* ------------------------------------------------------------------------------------------------------ setting --- */
static int usage_error(const char *name, const char *message)
{
    fprintf(stderr, "kvrt %s: %s (see kvrt %s --help)\n", name, message, name);
    return EXIT_USAGE;
}

int32_t command_set(command_line *line, const char *name, const char *text, command_source source, kvrt_error *error)
{
    kvrt_option_info info;
    uint32_t index = 0;
    if (!vocabulary_find(name, &info, &index)) {
        error->code = KVRT_ARG;
        if (vocabulary_nearest(name, &info)) {
            char flag[80];
            snprintf(error->message, sizeof error->message, "option %.100s: unknown, did you mean %s (%s)?", name,
                     info.key, vocabulary_as_flag(&info, flag, sizeof flag));
        } else snprintf(error->message, sizeof error->message, "option %.100s: unknown", name);
        return KVRT_ARG;
    }
    int32_t status = kvrt_options_set_text(line->options, info.key, vocabulary_value(info.key, text), error);
    if (status >= 0) line->source[index] = (unsigned char)source;
    return status;
}

command_source command_source_of(const command_line *line, const char *key)
{
    for (uint32_t i = 0; i < kvrt_option_count() && i < MAX_OPTIONS; i++)
        if (strcmp(option_at(i).key, key) == 0) return (command_source)line->source[i];
    return SOURCE_NONE;
}

const char *const command_sampling_keys[] = {"sample.temperature",
                                             "sample.top_k",
                                             "sample.top_p",
                                             "sample.min_p",
                                             "sample.repeat_penalty",
                                             "sample.repeat_last",
                                             "sample.frequency_penalty",
                                             "sample.presence_penalty",
                                             NULL};

kvrt_options *command_model_defaults(const char *path)
{
    kvrt_options *defaults = NULL;
    if (kvrt_options_create(&defaults, NULL) < 0) return NULL;
    (void)kvrt_inspect_defaults(path, defaults,
                                NULL); /* what is wrong with the file is said where the model is opened */
    return defaults;
}

void command_value(const kvrt_options *options, const kvrt_options *defaults, const char *key, char *dst, size_t cap)
{
    const kvrt_options *from = kvrt_options_is_set(options, key) ? options : defaults;
    double number = 0;
    int64_t integer = 0;
    if (kvrt_options_get_f64(from, key, &number, NULL) >= 0) snprintf(dst, cap, "%g", number);
    else if (kvrt_options_get_i64(from, key, &integer, NULL) >= 0) snprintf(dst, cap, "%lld", (long long)integer);
}

const char *command_origin(const command_line *line, const kvrt_options *defaults, const char *key)
{
    static const char *const names[] = {"option", "config file", "environment", "option"};
    if (kvrt_options_is_set(line->options, key)) return names[command_source_of(line, key)];
    return kvrt_options_is_set(defaults, key) ? "generation_config.json" : "default";
}

static char *trimmed(char *text)
{
    size_t n = strlen(text);
    while (n && strchr(" \t\r\n", text[n - 1])) text[--n] = 0;
    return text + strspn(text, " \t");
}

/* "KEY=VALUE" or "KEY = VALUE", changed in place. Quotes around the whole value are taken off. */
static int32_t set_pair(command_line *line, char *pair, command_source source, kvrt_error *error)
{
    char *equals = strchr(pair, '=');
    if (!equals || equals == pair) {
        snprintf(error->message, sizeof error->message, "found '%.60s', need KEY=VALUE", pair);
        return KVRT_ARG;
    }
    *equals = 0;
    char *value = trimmed(equals + 1);
    const size_t n = strlen(value);
    if (source == SOURCE_FILE && n > 1 && (*value == '"' || *value == '\'') && value[n - 1] == *value)
        value[n - 1] = 0, value++;
    return command_set(line, trimmed(pair), value, source, error);
}

static int read_config(command_line *line, const char *path)
{
    size_t len;
    char *text = command_read_file(path, &len);
    if (!text) return EXIT_RUN;
    int code = -1;
    unsigned number = 0;
    for (char *at = text, *next; at && code < 0; at = next) {
        next = strchr(at, '\n');
        if (next) *next++ = 0;
        number++;
        char *pair = trimmed(at);
        kvrt_error error = command_error();
        if (!*pair || *pair == '#' || *pair == ';') continue;
        int32_t status = set_pair(line, pair, SOURCE_FILE, &error);
        if (status >= 0) continue;
        fprintf(stderr, "kvrt: %s:%u: %s\n", path, number, error.message);
        code = command_exit_code(status);
    }
    free(text);
    return code;
}

/* Variables of the build and of the tests. */
static bool is_of_the_project(const char *name)
{
    static const char *const beginnings[] = {"BUILD",      "CMOCKA", "CUDA",     "EMU_",          "EXAMPLES",
                                             "FRESH",      "NVCC",   "OPTIMIZE", "SANITIZE",      "SHARED_DIR",
                                             "SOURCE_DIR", "TEST",   "TOOLS",    "UPDATE_GOLDEN", "WERROR"};
    for (size_t i = 0; i < sizeof beginnings / sizeof beginnings[0]; i++)
        if (strncmp(name, beginnings[i], strlen(beginnings[i])) == 0) return true;
    return false;
}

static void warn_variable(const char *name)
{
    kvrt_option_info info;
    char right[80];
    if (is_of_the_project(name)) return;
    fprintf(stderr, "kvrt: environment KVRT_%s: no such option", name);
    if (vocabulary_nearest(name, &info))
        fprintf(stderr, ", did you mean %s?", vocabulary_as_variable(&info, right, sizeof right));
    fputc('\n', stderr);
}

/* KVRT_TOP_K for --top-k: the command reads the environment, the library never does. */
static int read_environment(command_line *line)
{
    for (char **at = environ; at && *at; at++) {
        char name[80];
        kvrt_option_info info;
        kvrt_error error = command_error();
        const char *equals = strchr(*at, '=');
        if (strncmp(*at, "KVRT_", 5) != 0 || !equals || !equals[1]) continue;
        snprintf(name, sizeof name, "%.*s", (int)(equals - *at - 5), *at + 5);
        if (strcmp(name, "CONFIG") == 0) continue;
        if (!vocabulary_find(name, &info, NULL)) {
            warn_variable(name);
            continue;
        }
        int32_t status = command_set(line, name, equals + 1, SOURCE_ENVIRONMENT, &error);
        if (status >= 0) continue;
        fprintf(stderr, "kvrt: environment KVRT_%s: %s\n", name, error.message);
        return command_exit_code(status);
    }
    return -1;
}

/* ---------------------------------------------------------------------------------------------------- arguments --- */
/* The file named by --config, else by KVRT_CONFIG. */
static int find_config(const flag_table *t, int argc, char **argv, command_line *line)
{
    argparse p;
    const char *path = getenv("KVRT_CONFIG");
    argparse_init(&p, argc, argv, t->flags, t->n);
    for (int i; (i = argparse_next(&p)) != ARGPARSE_END;)
        if (i >= 0 && t->kind[i] == ROW_GENERAL && t->index[i] == GENERAL_CONFIG) path = p.value;
    return path && *path ? read_config(line, path) : -1;
}

/* An unknown flag may be one of another command. */
static int unknown_flag(const command *c, const argparse *p)
{
    char name[80], message[256];
    kvrt_option_info info;
    snprintf(name, sizeof name, "%.*s", (int)strcspn(p->unknown, "="), p->unknown);
    if (vocabulary_find(name, &info, NULL)) {
        char flag[80];
        snprintf(message, sizeof message, "option %s (%s) has no meaning for this command",
                 vocabulary_as_flag(&info, flag, sizeof flag), info.key);
        return usage_error(c->name, message);
    }
    const char *hint = vocabulary_hint(name);
    if (hint) {
        snprintf(message, sizeof message, "unknown option %s%s: %s", name[1] ? "--" : "-", name, hint);
        return usage_error(c->name, message);
    }
    for (size_t i = 0; name[0] && name[1] && i < command_count; i++)
        for (unsigned k = 0; k < command_list[i].about->n_extra; k++)
            if (strcmp(command_list[i].about->extra[k].name, name) == 0) {
                snprintf(message, sizeof message, "option --%s is one of kvrt %s", name, command_list[i].about->name);
                return usage_error(c->name, message);
            }
    return usage_error(c->name, p->message);
}

static int set_from_argument(command_line *line, const char *argument)
{
    kvrt_error error = command_error();
    char *pair = strdup(argument);
    if (!pair) return EXIT_RUN;
    int32_t status = set_pair(line, pair, SOURCE_OPTION, &error);
    free(pair);
    if (status >= 0) return -1;
    fprintf(stderr, "kvrt --set: %s\n", error.message);
    return command_exit_code(status);
}

/* Programs that split a model ask for a number of layers. 0 means the same here; anything else is said to be out of our hands. */
static int gpu_layers(command_line *line, const char *value)
{
    kvrt_error error = command_error();
    if (strcmp(value, "0") == 0) {
        int32_t status = command_set(line, "device.backend", "cpu", SOURCE_OPTION, &error);
        return status < 0 ? command_fail(status, &error) : -1;
    }
    fprintf(stderr, "kvrt: -ngl %s: a model is whole on one device; --backend auto|cpu|cuda chooses it\n", value);
    return -1;
}

static int handle_flag(const command *c, const flag_table *t, int i, const argparse *p, command_line *out)
{
    kvrt_error error = command_error();
    const uint32_t index = t->index[i];
    if (t->kind[i] == ROW_EXTRA) {
        out->extra[index] = p->value ? p->value : "";
        return -1;
    }
    if (t->kind[i] == ROW_GENERAL) switch (index) {
        case GENERAL_HELP: command_help(c, stdout); return EXIT_OK;
        case GENERAL_SET: return set_from_argument(out, p->value);
        case GENERAL_LAYERS: return gpu_layers(out, p->value);
        case GENERAL_CACHE_TYPE:
            return usage_error(c->name, "the types of K and V are one name here, --kv f16, i8, k4v4 ...");
        default: return -1; /* the configuration file was read before everything else */
        }
    const char *text = p->value ? p->value : p->negated ? "false" : "true";
    int32_t status = command_set(out, option_at(index).key, text, SOURCE_OPTION, &error);
    return status < 0 ? command_fail(status, &error) : -1;
}

static int parse(const command *c, const flag_table *t, int argc, char **argv, bool positional_is_model,
                 command_line *out)
{
    argparse p;
    argparse_init(&p, argc, argv, t->flags, t->n);
    for (int i, code; (i = argparse_next(&p)) != ARGPARSE_END;) {
        if (i == ARGPARSE_ERROR) return p.unknown ? unknown_flag(c, &p) : usage_error(c->name, p.message);
        if (i == ARGPARSE_POSITIONAL) {
            if (out->n_positional < MAX_POSITIONAL) out->positional[out->n_positional] = p.value;
            out->n_positional++;
        } else if ((code = handle_flag(c, t, i, &p, out)) >= 0) return code;
    }
    if (positional_is_model && out->n_positional) {
        if (!*out->positional[0]) return usage_error(c->name, "the first argument, the model folder, is empty");
        out->positional[0] = model_name_path(out->positional[0], out->model, sizeof out->model);
        kvrt_error error = command_error();
        int32_t status = kvrt_options_set_string(out->options, "model.path", out->positional[0], -1, &error);
        if (status < 0) return command_fail(status, &error);
    }
    return -1;
}

int command_check_model(const command *c, const command_line *line)
{
    char message[200];
    const char *shape = "", *path = "", *name;
    (void)kvrt_options_get_string(line->options, "model.shape", &shape, NULL);
    (void)kvrt_options_get_string(line->options, "model.path", &path, NULL);
    for (uint32_t i = 0; (name = kvrt_shape_name(i)) && line->n_positional == 1; i++)
        if (strcmp(name, path) == 0 && access(path, F_OK) != 0) {
            snprintf(message, sizeof message, "no model folder %s, did you mean --shape %s?", path, name);
            return usage_error(c->name, message);
        }
    if (line->n_positional > 1)
        snprintf(message, sizeof message, "need one model folder, found '%.80s' as well", line->positional[1]);
    else if (*path && *shape)
        snprintf(message, sizeof message, "need a model folder or --shape, not both, found '%.80s'", shape);
    else if (!*path && !*shape) snprintf(message, sizeof message, "need a model folder or --shape NAME, found neither");
    else return -1;
    return usage_error(c->name, message);
}

int command_check_prompt(const command *c, const command_line *line, const char *flag)
{
    const unsigned n = line->n_positional;
    char message[128];
    if (n == 0) snprintf(message, sizeof message, "no model: its folder is the first argument");
    else if (n > 2)
        snprintf(message, sizeof message, "found %u arguments, need a model folder and one text in quotes", n);
    else if (n == 2 && flag)
        snprintf(message, sizeof message, "found two prompts, '%.40s' and -p", line->positional[1]);
    else return -1;
    return usage_error(c->name, message);
}

const char *command_prompt(const command_line *line, const char *flag)
{
    return line->n_positional > 1 ? line->positional[1] : flag;
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
    int code = find_config(t, argc, argv, out);
    if (code < 0) code = read_environment(out);
    if (code < 0) code = parse(c, t, argc, argv, positional_is_model, out);
    free(t);
    int64_t level = 2;
    (void)kvrt_options_get_i64(out->options, "log.level", &level, NULL);
    kvrt_log_set(log_line, NULL, (int32_t)level);
    return code;
}

void command_free(command_line *line) { kvrt_options_destroy(line->options); }
