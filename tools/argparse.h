/* argparse.h - a small command-line parser in one header, stb style.
 * In one C file: #define ARGPARSE_IMPLEMENTATION before including it. No allocation, no globals, no output; the
 * conventions of getopt:
 *   --name value   --name=value   -n value   -nvalue   -abc (flags)   --no-name (for flags that allow it)
 *   -- (the rest is positional)   -name is --name when there is such a name (-ngl 99 is not -n gl), --na_me is --na-me
 * A row of the table without help is one more name of the row above it that has help: its index is never returned. What
 * is unknown is answered with the nearest name.
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
    const char *help;       /* NULL: one more name of the row above */
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
    const char *unknown; /* after an error: the name as typed when no row has it, else NULL */
    char message[256];
} argparse;

void argparse_init(argparse *p, int argc, char **argv, const argparse_option *table, size_t n_options);
/* Index into the table, or one of the enum. After an error parsing may go on. */
int argparse_next(argparse *p);
/* Letters that must be added, removed, changed or swapped with their neighbour to make b of a; 1000 beyond 63 letters. */
unsigned argparse_distance(const char *a, const char *b);
/* Whether so many mistakes are few enough for a word to be meant. */
int argparse_is_near(const char *word, unsigned distance);

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

unsigned argparse_distance(const char *a, const char *b)
{
    unsigned rows[3][64]; /* of the table of all beginnings: two before, one before, this */
    size_t na = strlen(a), nb = strlen(b);
    if (na > 63 || nb > 63) return 1000;
    for (size_t j = 0; j <= nb; j++) rows[0][j] = (unsigned)j;
    for (size_t i = 1; i <= na; i++) {
        unsigned *row = rows[i % 3], *up = rows[(i + 2) % 3], *up2 = rows[(i + 1) % 3];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= nb; j++) {
            row[j] = up[j - 1] + (a[i - 1] != b[j - 1]);
            if (up[j] + 1 < row[j]) row[j] = up[j] + 1;
            if (row[j - 1] + 1 < row[j]) row[j] = row[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && up2[j - 2] + 1 < row[j])
                row[j] = up2[j - 2] + 1;
        }
    }
    return rows[na % 3][nb];
}

int argparse_is_near(const char *word, unsigned distance)
{
    return distance <= (strlen(word) + 1) / 3 && distance < strlen(word);
}

/* The row that carries the help of row i. */
static int argparse_main_(const argparse *p, size_t i)
{
    while (i && !p->table[i].help) i--;
    return (int)i;
}

static int argparse_is_name_(const argparse_option *o, const char *name, size_t len)
{
    if (!o->name || strlen(o->name) != len) return 0;
    for (size_t i = 0; i < len; i++)
        if (o->name[i] != (name[i] == '_' ? '-' : name[i])) return 0;
    return 1;
}

static int argparse_unknown_(argparse *p, const char *shown, const char *name, size_t len)
{
    char word[64];
    unsigned best = 1000;
    const argparse_option *nearest = NULL;
    snprintf(word, sizeof word, "%.*s", (int)(len < sizeof word ? len : sizeof word - 1), name);
    for (size_t i = 0; i < p->n_options && len > 1; i++) {
        if (!p->table[i].name) continue;
        unsigned d = argparse_distance(word, p->table[i].name);
        if (d < best) best = d, nearest = &p->table[argparse_main_(p, i)];
    }
    p->unknown = name;
    for (size_t i = 0; i < p->n_options && strncmp(word, "no-", 3) == 0; i++)
        if (argparse_is_name_(&p->table[i], word + 3, strlen(word + 3)))
            return argparse_error_(p, "option --%s cannot be negated", word + 3);
    if (!nearest || !argparse_is_near(word, best)) return argparse_error_(p, "unknown option %s", shown);
    snprintf(p->message, sizeof p->message, "unknown option %.100s, did you mean --%s?", shown, nearest->name);
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
        const int option = argparse_main_(p, i);
        if (!p->table[i].takes_value) return option;
        const char *rest = p->cluster;
        p->cluster = NULL;
        if (!*rest) return argparse_take_(p, option, shown);
        p->value = rest;
        return option;
    }
    p->unknown = p->cluster - 1;
    p->cluster = NULL;
    return argparse_error_(p, "unknown option %s", shown);
}

/* `name` is what follows the dashes of `arg`. */
static int argparse_long_(argparse *p, const char *arg, const char *name)
{
    const char *equals = strchr(name, '=');
    size_t len = equals ? (size_t)(equals - name) : strlen(name);
    for (size_t i = 0; i < p->n_options; i++) {
        const argparse_option *o = &p->table[i];
        int plain = argparse_is_name_(o, name, len);
        int no = !plain && o->negatable && len > 3 && (memcmp(name, "no-", 3) == 0 || memcmp(name, "no_", 3) == 0) &&
                 argparse_is_name_(o, name + 3, len - 3);
        if (!plain && !no) continue;
        const int option = argparse_main_(p, i);
        p->negated = no;
        if (!o->takes_value && equals)
            return argparse_error_(
                p, o->negatable ? "option %s takes no value, but may begin with no-" : "option %s takes no value", arg);
        if (!o->takes_value) return option;
        if (!equals) return argparse_take_(p, option, arg);
        p->value = equals + 1;
        return option;
    }
    return argparse_unknown_(p, arg, name, len);
}

/* Whether "-name" is written for "--name". */
static int argparse_is_long_(const argparse *p, const char *name)
{
    size_t len = strcspn(name, "=");
    for (size_t i = 0; i < p->n_options && len > 1; i++)
        if (argparse_is_name_(&p->table[i], name, len)) return 1;
    return 0;
}

int argparse_next(argparse *p)
{
    p->value = NULL;
    p->unknown = NULL;
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
    if (arg[1] == '-') return argparse_long_(p, arg, arg + 2);
    if (argparse_is_long_(p, arg + 1)) return argparse_long_(p, arg, arg + 1);
    p->cluster = arg + 1;
    const int option = argparse_letter_(p);
    return p->unknown && arg[2] ? argparse_unknown_(p, arg, arg + 1, strcspn(arg + 1, "=")) : option;
}
#endif
#endif
