/* main.c - the `kvrt` command: finds the subcommand. Bare `kvrt MODEL` runs the model. */
#include "command.h"

#include <string.h>

static const struct {
    const char *name;
    int (*main)(int argc, char **argv);
    const char *summary;
} commands[] = {
    {"run", run_main, "generate text from a prompt; reads a pipe, writes a pipe"},
    {"plan", plan_main, "what context fits into which memory, per KV format"},
    {"inspect", inspect_main, "what a model folder holds, and what is unsupported in it"},
    {"tokenize", tokenize_main, "text to token ids and back"},
    {"bench", bench_main, "speed by context depth, as a share of this machine's bandwidth"},
    {"devices", devices_main, "backends of this build and why one is absent"},
};
#define N_COMMANDS (sizeof commands / sizeof commands[0])

static void usage(FILE *to)
{
    fprintf(to, "usage: kvrt COMMAND [MODEL] [options]\n\n");
    for (size_t i = 0; i < N_COMMANDS; i++) fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fprintf(to, "\nkvrt MODEL          the same as kvrt run MODEL\nkvrt COMMAND --help  options of a command\n");
}

int main(int argc, char **argv)
{
    if (kvrt_abi_check(KVRT_ABI_VERSION) < 0) {
        fprintf(stderr, "kvrt: library %s does not match this command\n", kvrt_version_string());
        return EXIT_RUN;
    }
    if (argc < 2) {
        usage(stderr);
        return EXIT_USAGE;
    }
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(argv[1], commands[i].name) == 0) return commands[i].main(argc - 2, argv + 2);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        usage(stdout);
        return EXIT_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("kvrt %s\n", kvrt_version_string());
        return EXIT_OK;
    }
    if (argv[1][0] == '-') {
        fprintf(stderr, "kvrt: unknown option %s\n", argv[1]);
        usage(stderr);
        return EXIT_USAGE;
    }
    return run_main(argc - 1, argv + 1);
}
