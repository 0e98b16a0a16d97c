/* value_tests.c - what may stand behind `is`. */
#include "interpret.h"

#include <string.h>

static bool is_type(const char *name, kvi_jinja_value x, bool *out)
{
    bool integer = x.type == KVI_JINJA_INT || x.type == KVI_JINJA_BIG, boolean = x.type == KVI_JINJA_BOOL,
         floating = x.type == KVI_JINJA_FLOAT;
    bool list = x.type == KVI_JINJA_SEQ && x.u.seq->kind <= KVI_JINJA_RANGE;
    struct {
        const char *name;
        bool value;
    } answers[] = {{"defined", x.type != KVI_JINJA_UNDEFINED},
                   {"undefined", x.type == KVI_JINJA_UNDEFINED},
                   {"none", x.type == KVI_JINJA_NONE},
                   {"boolean", boolean},
                   {"true", boolean && x.u.b},
                   {"false", boolean && !x.u.b},
                   {"integer", integer},
                   {"float", floating},
                   {"number", integer || boolean || floating},
                   {"string", x.type == KVI_JINJA_STR},
                   {"mapping", x.type == KVI_JINJA_DICT},
                   {"iterable", kvi_jinja_is_iterable(x)},
                   {"sequence", x.type == KVI_JINJA_STR || x.type == KVI_JINJA_BYTES || x.type == KVI_JINJA_DICT ||
                                    x.type == KVI_JINJA_UNDEFINED || list},
                   {"callable", x.type == KVI_JINJA_FUNCTION || x.type == KVI_JINJA_METHOD ||
                                    x.type == KVI_JINJA_MACRO || x.type == KVI_JINJA_LOOP ||
                                    x.type == KVI_JINJA_JOINER || x.type == KVI_JINJA_UNDEFINED},
                   {"escaped", x.type == KVI_JINJA_STR && x.u.s->markup}};
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++)
        if (strcmp(answers[i].name, name) == 0) {
            *out = answers[i].value;
            return true;
        }
    return false;
}

/* Python's `is`. Equal strings and integers count as one object, which they are in Python when they stand in the template;
 * floats do not. */
static bool is_same(kvi_jinja_ctx *ctx, kvi_jinja_value a, kvi_jinja_value b)
{
    if (a.type != b.type || a.type == KVI_JINJA_FLOAT) return false;
    bool by_value = a.type <= KVI_JINJA_INT || a.type == KVI_JINJA_STR;
    return by_value ? kvi_jinja_equal(ctx, a, b) : a.u.dict == b.u.dict;
}

static bool compare(kvi_jinja_ctx *ctx, const char *name, kvi_jinja_value a, kvi_jinja_value b, bool *out)
{
    static const struct {
        const char *name;
        char op;
        const char *text;
    } table[] = {{"eq", '=', ""},     {"equalto", '=', ""},    {"==", '=', ""},        {"ne", '!', ""},
                 {"!=", '!', ""},     {"lt", '<', "<"},        {"lessthan", '<', "<"}, {"<", '<', "<"},
                 {"le", 'l', "<="},   {"<=", 'l', "<="},       {"gt", '>', ">"},       {"greaterthan", '>', ">"},
                 {">", '>', ">"},     {"ge", 'g', ">="},       {">=", 'g', ">="},      {"in", 'i', ""},
                 {"sameas", 's', ""}, {"divisibleby", 'd', ""}};
    size_t i = 0;
    while (i < sizeof table / sizeof *table && strcmp(table[i].name, name) != 0) i++;
    if (i == sizeof table / sizeof *table) return false;
    int c = strchr("<l>g", table[i].op) ? kvi_jinja_order(ctx, a, b, table[i].text) : 0;
    switch (table[i].op) {
    case '=': *out = kvi_jinja_equal(ctx, a, b); break;
    case '!': *out = !kvi_jinja_equal(ctx, a, b); break;
    case '<': *out = c < 0; break;
    case 'l': *out = c <= 0; break;
    case '>': *out = c == 1; break;
    case 'g': *out = c == 0 || c == 1; break;
    case 'i': *out = kvi_jinja_contains(ctx, a, b); break;
    case 'd': *out = !kvi_jinja_truth(kvi_jinja_binary(ctx, '%', a, b)) && !ctx->failed; break;
    default: *out = is_same(ctx, a, b); break;
    }
    return true;
}

static bool named_argument(const char *test, const char *key)
{
    return (strcmp(test, "divisibleby") == 0 && strcmp(key, "num") == 0) ||
           (strcmp(test, "sameas") == 0 && strcmp(key, "other") == 0) ||
           (strcmp(test, "in") == 0 && strcmp(key, "seq") == 0);
}

/* 'upper' is filter, 'odd' is test: those of Jinja2, also where this engine refuses them. */
static bool is_known(kvi_jinja_interp *in, const char *what, kvi_jinja_value x)
{
    static const char *const refused[] = {"random", "urlize"}, *const tests[] = {
                                                                   "boolean",     "callable", "defined",  "divisibleby",
                                                                   "eq",          "equalto",  "escaped",  "even",
                                                                   "false",       "filter",   "float",    "ge",
                                                                   "greaterthan", "gt",       "in",       "integer",
                                                                   "iterable",    "le",       "lessthan", "lower",
                                                                   "lt",          "mapping",  "ne",       "none",
                                                                   "number",      "odd",      "sameas",   "sequence",
                                                                   "string",      "test",     "true",     "undefined",
                                                                   "upper",       "==",       "!=",       "<",
                                                                   "<=",          ">",        ">="};
    if (x.type == KVI_JINJA_DICT ||
        (x.type == KVI_JINJA_SEQ && x.u.seq->kind != KVI_JINJA_TUPLE && x.u.seq->kind != KVI_JINJA_RANGE))
        return kvi_jinja_fail(in->ctx, "TypeError: unhashable type: '%s'", kvi_jinja_type_name(x)), false;
    if (x.type != KVI_JINJA_STR) return false;
    bool found = false;
    if (what[0] == 't')
        for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) found = found || kvi_jinja_str_is(x.u.s, tests[i]);
    else {
        const char *name = kvi_jinja_intern(in->ctx, in->names, x.u.s->data, x.u.s->len);
        found = kvi_jinja_find_filter(name) != NULL;
        for (size_t i = 0; i < 2; i++) found = found || strcmp(name, refused[i]) == 0;
    }
    return found;
}

bool kvi_jinja_apply_test(kvi_jinja_interp *in, const char *name, kvi_jinja_value x, const kvi_jinja_args *args)
{
    kvi_jinja_ctx *ctx = in->ctx;
    bool out = false;
    if (args->n_keys == 1 && !args->n && named_argument(name, args->keys[0])) {
        kvi_jinja_args positional = {args->named, 1, NULL, NULL, 0};
        return kvi_jinja_apply_test(in, name, x, &positional);
    }
    if (args->n_keys) return kvi_jinja_fail(ctx, "TypeError: the test '%s' got a keyword argument", name), false;
    if (args->n == 0 && (strcmp(name, "filter") == 0 || strcmp(name, "test") == 0)) return is_known(in, name, x);
    if (args->n == 1 && compare(ctx, name, x, args->values[0], &out)) return out;
    if (args->n == 0 && is_type(name, x, &out)) return out;
    if (args->n == 0 && (strcmp(name, "odd") == 0 || strcmp(name, "even") == 0)) {
        kvi_jinja_value rest = kvi_jinja_binary(ctx, '%', x, kvi_jinja_int(2));
        return kvi_jinja_equal(ctx, rest, kvi_jinja_int(name[0] == 'o')) && !ctx->failed;
    }
    if (args->n == 0 && (strcmp(name, "lower") == 0 || strcmp(name, "upper") == 0)) {
        kvi_jinja_value s = kvi_jinja_str_of(ctx, x);
        if (ctx->failed) return false;
        static const kvi_jinja_args none = {NULL, 0, NULL, NULL, 0};
        return kvi_jinja_truth(kvi_jinja_str_method(in, s.u.s, name[0] == 'l' ? "islower" : "isupper", &none));
    }
    kvi_jinja_fail(ctx, "unknown or unsupported test '%s' with %zu argument(s)", name, args->n);
    return false;
}
