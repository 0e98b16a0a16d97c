/* main.c - the `kvrt` command: finds the subcommand, and answers for stdout. Bare `kvrt MODEL` is chat on a
 * terminal, run otherwise. */
#define _POSIX_C_SOURCE 200809L
#include "chat.h"
#include "vocabulary.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

const command_entry command_list[] = {
    {&chat_command_about, chat_main}, {&run_command, run_main},           {&serve_command, serve_main},
    {&plan_command, plan_main},       {&inspect_command, inspect_main},   {&tokenize_command, tokenize_main},
    {&embed_command, embed_main},     {&quantize_command, quantize_main}, {&bench_command, bench_main},
    {&eval_command, eval_main},       {&devices_command, devices_main},
};
const size_t command_count = sizeof command_list / sizeof command_list[0];

static void usage(FILE *to)
{
    fprintf(to, "usage: kvrt COMMAND [MODEL] [options]\n\n");
    for (size_t i = 0; i < command_count; i++)
        fprintf(to, "  %-10s %s\n", command_list[i].about->name, command_list[i].about->summary);
    fprintf(to, "\nkvrt MODEL                      kvrt chat on a terminal, kvrt run otherwise\n"
                "kvrt help COMMAND               options of a command\n"
                "kvrt --version\n"
                "kvrt --completions bash|zsh|fish   a completion script\n"
                "kvrt --man                      the manual page\n");
}

/* The command that a wrong name is likely to mean, or NULL. */
static const char *nearest_command(const char *name)
{
    static const char *const others[][2] = {{"show", "inspect"},
                                            {"info", "inspect"},
                                            {"generate", "run"},
                                            {"complete", "run"},
                                            {"completion", "run"},
                                            {"detokenize", "tokenize --decode"},
                                            {"encode", "tokenize"},
                                            {"decode", "tokenize --decode"},
                                            {"perplexity", "eval"},
                                            {"benchmark", "bench"},
                                            {"fit", "plan"},
                                            {"server", "serve"},
                                            {"man", "--man"},
                                            {"completions", "--completions"},
                                            {"completion", "--completions"}};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (strcmp(name, others[i][0]) == 0) return others[i][1];
    unsigned best = 1000;
    const char *nearest = NULL;
    for (size_t i = 0; i < command_count; i++) {
        unsigned d = argparse_distance(name, command_list[i].about->name);
        if (d < best) best = d, nearest = command_list[i].about->name;
    }
    return argparse_is_near(name, best) ? nearest : NULL;
}

/* What other programs do and this one does not, or NULL. */
static const char *other_purpose(const char *name)
{
    static const char *const purposes[][2] = {
        {"pull", "kvrt does not download; with the tools of the hub: hf download NAME --local-dir DIR"},
        {"download", "kvrt does not download; with the tools of the hub: hf download NAME --local-dir DIR"},
        {"list", "kvrt keeps no models; a model is a folder, wherever it lies"},
        {"ls", "kvrt keeps no models; a model is a folder, wherever it lies"},
        {"convert", "kvrt reads *.safetensors as they are"},
        {"quant", "try `kvrt quantize`"}};
    for (size_t i = 0; i < sizeof purposes / sizeof purposes[0]; i++)
        if (strcmp(name, purposes[i][0]) == 0) return purposes[i][1];
    return NULL;
}

static int unknown_command(const char *name)
{
    const char *nearest = nearest_command(name), *purpose = other_purpose(name);
    if (purpose) {
        fprintf(stderr, "kvrt: there is no command %s: %s (see kvrt --help)\n", name, purpose);
        return EXIT_USAGE;
    }
    fprintf(stderr, "kvrt: neither a command nor a model folder: %s", name);
    if (nearest) fprintf(stderr, ", did you mean kvrt %s?", nearest);
    fprintf(stderr, " (see kvrt --help)\n");
    return EXIT_USAGE;
}

/* `kvrt help run` is `kvrt run --help`. */
static int help(const char *name)
{
    for (size_t i = 0; *name && i < command_count; i++)
        if (strcmp(name, command_list[i].about->name) == 0) return command_help(command_list[i].about, stdout), EXIT_OK;
    if (*name) return unknown_command(name);
    usage(stdout);
    return EXIT_OK;
}

static int unknown_option(const char *name)
{
    static const char *const options[] = {"--help", "--version", "--completions", "--man"};
    const char *hint = vocabulary_hint(name + strspn(name, "-"));
    fprintf(stderr, "kvrt: unknown option %s", name);
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
        if (argparse_is_near(name, argparse_distance(name, options[i])))
            fprintf(stderr, ", did you mean %s?", options[i]);
    fprintf(stderr, hint ? ": %s (see kvrt --help)\n" : " (see kvrt --help)\n", hint);
    return EXIT_USAGE;
}

static int usage_error(const char *what, const char *found)
{
    fprintf(stderr, "kvrt: %s %s (see kvrt --help)\n", what, found);
    return EXIT_USAGE;
}

static int dispatch(int argc, char **argv)
{
    const char *first = argc > 1 ? argv[1] : "";
    for (size_t i = 0; i < command_count; i++)
        if (strcmp(first, command_list[i].about->name) == 0) return command_list[i].main(argc - 2, argv + 2);
    if (argc < 2) {
        usage(stderr);
        return EXIT_USAGE;
    }
    if (!*first) return usage_error("the first argument is", "empty, need a command or a model folder");
    const char *second = argc > 2 ? argv[2] : "";
    if (strcmp(first, "--help") == 0 || strcmp(first, "-help") == 0 || strcmp(first, "-h") == 0 ||
        strcmp(first, "help") == 0)
        return help(second);
    if (strcmp(first, "--version") == 0 || strcmp(first, "-V") == 0 || strcmp(first, "-v") == 0 ||
        strcmp(first, "version") == 0)
        printf("kvrt %s\n", kvrt_version_string());
    else if (strcmp(first, "--man") == 0) manual_print(stdout);
    else if (strcmp(first, "--completions") == 0) {
        if (!completions_print(second, stdout))
            return usage_error("--completions: need bash, zsh or fish, found", *second ? second : "nothing");
    } else if (first[0] == '-') return unknown_option(first);
    else if (!strchr(first, '/') && access(first, F_OK) != 0) return unknown_command(first);
    else if (command_is_terminal(stdin) && command_is_terminal(stdout)) return chat_main(argc - 1, argv + 1);
    else return run_main(argc - 1, argv + 1);
    return EXIT_OK;
}

int main(int argc, char **argv)
{
    if (kvrt_abi_check(KVRT_ABI_VERSION) < 0) {
        fprintf(stderr, "kvrt: library %s does not match this command\n", kvrt_version_string());
        return EXIT_RUN;
    }
    (void)signal(SIGPIPE, SIG_IGN); /* a reader that leaves is an error to report, not a death */
    /* What fits is written at once, at the end, where a failure is answered for; text of a model is flushed as it comes. */
    static char buffer[1 << 16];
    if (!command_is_terminal(stdout)) (void)setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    int code = dispatch(argc, argv);
    errno = 0;
    if ((fflush(stdout) != 0 || ferror(stdout)) && (code == EXIT_OK || code == EXIT_RUN)) {
        const int why = command_write_errno() ? command_write_errno() : errno;
        fprintf(stderr, "kvrt: stdout: %s\n", why && why != EPIPE ? strerror(why) : "closed, output is incomplete");
        return EXIT_RUN;
    }
    return code;
}
