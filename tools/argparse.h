/* argparse.h - a small command-line parser in one header, stb style.
 * In one C file: #define ARGPARSE_IMPLEMENTATION before including it. No allocation, no globals, no output; the
 * conventions of getopt:
 *   --name value   --name=value   -n value   -nvalue   -abc (flags)   --no-name (for flags that allow it)
 *   -- (the rest is positional)
 * The caller owns the table and the arguments; the parser only walks.
 *
 *     argparse p; argparse_init(&p, argc, argv, table, n);
 *     for (int i; (i = argparse_next(&p)) != ARGPARSE_END;)
 *         if (i == ARGPARSE_ERROR) fprintf(stderr, "%s\n", p.message);
 *         else if (i == ARGPARSE_POSITIONAL) use(p.value);
 *         else handle(&table[i], p.value, p.negated);
 */
#ifndef ARGPARSE_H
#define ARGPARSE_H
#include <stddef.h>

typedef struct argparse_option {
    const char *name;       /* long name without dashes */
    char letter;            /* 0: none */
    int takes_value;        /* 0: flag */
    int negatable;          /* --no-name is understood */
    const char *value_name; /* for help: "N" */
    const char *help;
} argparse_option;

enum { ARGPARSE_END = -1, ARGPARSE_ERROR = -2, ARGPARSE_POSITIONAL = -3 };

typedef struct argparse {
    int argc;
    char **argv;
    const argparse_option *table;
    size_t n_options;
    int index;           /* next argument */
    const char *cluster; /* rest of "-abc" */
    int only_positional;
    const char *value; /* of the option, or the positional itself */
    int negated;
    char message[256];
} argparse;

void argparse_init(argparse *p, int argc, char **argv, const argparse_option *table, size_t n_options);
/* Index into the table, or one of the enum. After an error parsing may go on. */
int argparse_next(argparse *p);

#ifdef ARGPARSE_IMPLEMENTATION
#include <stdio.h>
#include <string.h>

void argparse_init(argparse *p, int argc, char **argv, const argparse_option *table, size_t n_options)
{
    memset(p, 0, sizeof *p);
    p->argc = argc;
    p->argv = argv;
    p->table = table;
    p->n_options = n_options;
}

static int argparse_error_(argparse *p, const char *format, const char *name)
{
    snprintf(p->message, sizeof p->message, format, name);
    return ARGPARSE_ERROR;
}

/* The value that stands in the next argument. */
static int argparse_take_(argparse *p, int option, const char *shown)
{
    if (p->index >= p->argc) return argparse_error_(p, "option %s needs a value", shown);
    p->value = p->argv[p->index++];
    return option;
}

static int argparse_letter_(argparse *p)
{
    char shown[3] = {'-', *p->cluster++, 0};
    for (size_t i = 0; i < p->n_options; i++) {
        if (!p->table[i].letter || p->table[i].letter != shown[1]) continue;
        if (!p->table[i].takes_value) return (int)i;
        const char *rest = p->cluster;
        p->cluster = NULL;
        if (!*rest) return argparse_take_(p, (int)i, shown);
        p->value = rest;
        return (int)i;
    }
    p->cluster = NULL;
    return argparse_error_(p, "unknown option %s", shown);
}

static int argparse_long_(argparse *p, const char *arg)
{
    const char *name = arg + 2, *equals = strchr(name, '=');
    size_t len = equals ? (size_t)(equals - name) : strlen(name);
    for (size_t i = 0; i < p->n_options; i++) {
        const argparse_option *o = &p->table[i];
        int plain = o->name && strlen(o->name) == len && memcmp(o->name, name, len) == 0;
        int no = !plain && o->name && o->negatable && len == strlen(o->name) + 3 && memcmp(name, "no-", 3) == 0 &&
                 memcmp(name + 3, o->name, len - 3) == 0;
        if (!plain && !no) continue;
        p->negated = no;
        if (!o->takes_value && equals) return argparse_error_(p, "option %s takes no value", arg);
        if (!o->takes_value) return (int)i;
        if (!equals) return argparse_take_(p, (int)i, arg);
        p->value = equals + 1;
        return (int)i;
    }
    return argparse_error_(p, "unknown option %s", arg);
}

int argparse_next(argparse *p)
{
    p->value = NULL;
    p->negated = 0;
    if (p->cluster && *p->cluster) return argparse_letter_(p);
    if (p->index >= p->argc) return ARGPARSE_END;
    const char *arg = p->argv[p->index++];
    if (p->only_positional || arg[0] != '-' || !arg[1]) {
        p->value = arg;
        return ARGPARSE_POSITIONAL;
    }
    if (strcmp(arg, "--") == 0) {
        p->only_positional = 1;
        return argparse_next(p);
    }
    if (arg[1] == '-') return argparse_long_(p, arg);
    p->cluster = arg + 1;
    return argparse_letter_(p);
}
#endif
#endif
