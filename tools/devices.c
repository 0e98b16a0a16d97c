/* devices.c - `kvrt devices`: the backends of this build, and why one is absent. */
#include "command.h"

#include <string.h>

const command devices_command = {"devices", "devices", "Lists the backends and devices.", NULL, 0, "log."};

/* Weights by what multiplies them, in lines of at most 100 columns. */
static void print_forms(const char *forms, const char *kernel, int32_t usable, void *user)
{
    int column = printf("       %s:", kernel);
    (void)usable, (void)user;
    for (const char *at = forms; *at;) {
        const int n = (int)strcspn(at, " ");
        if (column + n >= 100) column = printf("\n        ") - 1;
        column += printf(" %.*s", n, at);
        at += n + (at[n] != 0);
    }
    putchar('\n');
}

static void print_line(const char *name, const char *text, int32_t usable, void *user)
{
    (void)user;
    printf("%-6s %-4s %s\n", name, usable ? "yes" : "no", text);
    if (usable) (void)kvrt_measure_forms(name, print_forms, NULL, NULL);
}

int devices_main(int argc, char **argv)
{
    command_line line;
    int code = command_parse(&devices_command, argc, argv, false, &line);
    if (code < 0) {
        kvrt_measure_devices(print_line, NULL);
        code = EXIT_OK;
    }
    command_free(&line);
    return code;
}
