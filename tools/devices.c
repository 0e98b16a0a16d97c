/* devices.c - `kvrt devices`: the backends of this build, and why one is absent. */
#include "command.h"

const command devices_command = {"devices", "devices", "Lists the backends and devices.", NULL, 0, "log."};

static void print_line(const char *name, const char *text, int32_t usable, void *user)
{
    (void)user;
    printf("%-6s %-4s %s\n", name, usable ? "yes" : "no", text);
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
