/* command.h - what the subcommands of `kvrt` share: the argument table (the command's own flags plus every flag of
 * the option table), exit codes, messages, progress. Uses kvrt.h only, like any other application. */
#ifndef KVRT_COMMAND_H
#define KVRT_COMMAND_H
#include "argparse.h"
#include "kvrt.h"

#include <stdbool.h>
#include <stdio.h>

/* What a script can tell from the exit status; kvrt.1 lists them. */
enum {
    EXIT_OK = 0,
    EXIT_RUN = 1,
    EXIT_USAGE = 2,
    EXIT_MODEL = 3,
    EXIT_FIT = 4,
    EXIT_CONTEXT = 5,
    EXIT_TEMPLATE = 6,
    EXIT_LOST = 7,
    EXIT_DEVICE = 8,
    EXIT_INTERRUPT = 130
};

#define MAX_EXTRA 24u
#define MAX_FLAGS 160u /* with all their names */
#define MAX_OPTIONS 128u
#define MAX_POSITIONAL 8u

/* Keys and groups of options, for `command.options`: what matters to whoever opens a model folder. */
#define OPTIONS_OF_A_MODEL "model.io model.cache weights. device. cpu. ctx. kv. mem. log. debug."

typedef struct command {
    const char *name, *usage, *summary;
    const argparse_option *extra; /* flags of this command alone */
    unsigned n_extra;
    const char *options; /* keys and groups of the library's options that matter to it, such as "ctx. model.io" */
} command;

/* Where the value of an option comes from; the later wins. */
typedef enum command_source { SOURCE_NONE, SOURCE_FILE, SOURCE_ENVIRONMENT, SOURCE_OPTION } command_source;

/* Parsed command line: option values are already in `options`. */
typedef struct command_line {
    kvrt_options *options;
    const char *positional[MAX_POSITIONAL];
    char model[4096];                  /* the path behind a model's name, which positional[0] then is */
    unsigned n_positional;             /* as many as there were, also beyond MAX_POSITIONAL */
    const char *extra[MAX_EXTRA];      /* value of extra flag i; "" for a flag without value; NULL when absent */
    unsigned char source[MAX_OPTIONS]; /* command_source of each option of the library's table */
} command_line;

/* The flags of a command: its own, the general ones, and the options that apply to it and have a flag.
 * Calls fn for each; `info` is NULL for a flag that is no option. */
typedef void (*command_flag_fn)(const argparse_option *flag, const kvrt_option_info *info, void *user);
void command_flags(const command *c, command_flag_fn fn, void *user);

/* Reads configuration file, environment (KVRT_*) and arguments, in this order: the later wins. Returns an exit
 * code, or -1 to go on; --help prints and gives EXIT_OK. `positional_is_model`: the first positional becomes
 * model.path. */
int command_parse(const command *c, int argc, char **argv, bool positional_is_model, command_line *out);
void command_free(command_line *line);
/* Sets an option by any of its names (vocabulary.h) and notes where it came from. KVRT_ARG with a message otherwise. */
int32_t command_set(command_line *line, const char *name, const char *text, command_source source, kvrt_error *error);
command_source command_source_of(const command_line *line, const char *key);

/* What a model folder says about sampling, as options; never NULL but when memory is out, empty when it says nothing. */
kvrt_options *command_model_defaults(const char *path);
/* The options that choose tokens, NULL at the end: an effective value as text (a JSON value), and where it comes from: "option", "config
 * file", "environment", "generation_config.json" or "default". `defaults`: command_model_defaults. */
extern const char *const command_sampling_keys[];
void command_value(const kvrt_options *options, const kvrt_options *defaults, const char *key, char *dst, size_t cap);
const char *command_origin(const command_line *line, const kvrt_options *defaults, const char *key);
void command_help(const command *c, FILE *to);
/* What an option is when nobody sets it: the library's default, but for what the command sets itself. */
const char *command_default(const kvrt_option_info *info);
/* `kvrt run MODEL TEXT` and `kvrt chat MODEL TEXT`: the arguments are one model and at most one text, which may stand
 * behind -p (`flag`) instead. A usage error, or -1; and that text, or NULL. */
int command_check_prompt(const command *c, const command_line *line, const char *flag);
const char *command_prompt(const command_line *line, const char *flag);

/* Prints "kvrt: <message>" and returns the exit code of the status. */
int command_fail(int32_t status, const kvrt_error *error);
int command_exit_code(int32_t status);
kvrt_error command_error(void);

/* What the text must satisfy, and tools: the last flags of `run` and `chat`, in this order; sets options by them. Exit code, 0 on success. */
#define COMMAND_GRAMMAR_FLAGS                                                                                          \
    {"schema", 0, 1, 0, "FILE", "answer with JSON that satisfies this JSON Schema"},                                   \
        {"grammar", 0, 1, 0, "FILE", "answer with a text of this grammar (llama.cpp's GBNF)"},                         \
        {"regex", 0, 1, 0, "RE", "answer with a text that this regular expression matches"},                           \
    {                                                                                                                  \
        "tools", 0, 1, 0, "FILE", "tools that the model may call, a JSON array; calls are shown as JSON"               \
    }
int command_set_grammar(command_line *line, const char *const flags[4]);
/* gen.tools, or NULL. */
const char *command_tools(const command_line *line);
/* A TOOL event as its part of {"name": ..., "arguments": ...} and a line end. */
bool command_is_call(const kvrt_event *event);
void command_call_text(const kvrt_event *event, char *dst, size_t cap);

/* Opens an engine with a progress bar on a terminal; Ctrl-C cancels. When the model does not fit, the table of `kvrt plan`
 * follows the message. Exit code, 0 on success. */
int command_open(const kvrt_options *options, kvrt_engine *out);

/* Checks that a command which takes a model folder or --shape has exactly one of them. -1 or a usage error. */
int command_check_model(const command *c, const command_line *line);

/* Set by Ctrl-C; the handler also cancels `command_session` when it is set. */
extern volatile int command_interrupted;
void command_catch_interrupt(kvrt_session session);
bool command_interrupted_twice(void); /* two within a second */

bool command_is_terminal(FILE *file);
bool command_is_closed(FILE *file); /* nobody opened it: `kvrt run <&-` */
bool command_wants_colour(FILE *file);
/* A line on stderr that is rewritten in place: only on a terminal that can, only when the work takes longer than
 * 0.3 seconds, and at most ten times a second. `scale` turns done and total into `unit`. */
typedef struct command_progress {
    uint64_t start_us, shown_us;
    bool visible;
} command_progress;
void command_progress_show(command_progress *p, const char *stage, uint64_t done, uint64_t total, double scale,
                           const char *unit);
void command_progress_clear(command_progress *p);
/* Whole stream or file into memory, NUL-terminated; NULL with a message on failure. path "-" is stdin. */
char *command_read_file(const char *path, size_t *len);
/* The length of a piped message without the line end behind it: `echo text |` says the text. Models answer differently to a line break. */
size_t command_message_length(const char *text, size_t len);
/* Text of a model may end without a newline. Where both streams go to one file or pipe, what follows on stderr begins
 * on a line of its own. Once per process. */
void command_break_line(void);
/* Writes to stdout; false when it cannot take the text: its reader has gone, its disk is full. */
bool command_write(const char *text, size_t len);
/* The errno of the first write that failed; 0: none did. */
int command_write_errno(void);
/* Text as a JSON string; bytes that are not UTF-8 become U+FFFD. */
void command_json_string(FILE *to, const char *text, size_t len);
const char *command_finish_name(int32_t finish);
/* " (14 of 20 guesses)", or what text is, where there were none. */
const char *command_guesses(const kvrt_result *result, char text[64]);
/* Says on stderr what ended an answer before the model did: a number of tokens, with what lifts it, or a full context,
 * with what makes room. */
void command_say_early_end(const kvrt_result *result, const char *lift, const char *room);

/* The subcommands, one file each; main.c lists them. */
typedef struct command_entry {
    const command *about;
    int (*main)(int argc, char **argv);
} command_entry;
extern const command_entry command_list[];
extern const size_t command_count;

extern const command run_command, inspect_command, tokenize_command, embed_command, quantize_command, bench_command,
    devices_command, eval_command, plan_command, serve_command;
int run_main(int argc, char **argv);
int inspect_main(int argc, char **argv);
int tokenize_main(int argc, char **argv);
int embed_main(int argc, char **argv);
int quantize_main(int argc, char **argv);
int bench_main(int argc, char **argv);
int devices_main(int argc, char **argv);
int eval_main(int argc, char **argv);
int plan_main(int argc, char **argv);
int serve_main(int argc, char **argv);

/* Completion scripts and the manual page, from the same tables. False for an unknown shell. */
bool completions_print(const char *shell, FILE *to);
void manual_print(FILE *to);

#endif
