/* args.h - arguments of filters, tests, methods and functions: spread over parameters, and read as what they must be.
 * To know: a parameter that was not given is "absent", which no value of a template is. */
#ifndef KVI_JINJA_ARGS_H
#define KVI_JINJA_ARGS_H
#include "interpret.h"

/* Spreads the arguments over n parameters; those not given read as absent. False after an error (too many,
 * unknown, twice). A parameter with the name "" is positional only. */
bool kvi_jinja_bind(kvi_jinja_ctx *ctx, const char *what, const kvi_jinja_args *args, const char *const *names,
                    size_t n, kvi_jinja_value *out);
kvi_jinja_value kvi_jinja_absent_value(void);
bool kvi_jinja_absent(kvi_jinja_value value);
bool kvi_jinja_given(kvi_jinja_value value);             /* neither absent nor none */
bool kvi_jinja_flag(kvi_jinja_value value, bool absent); /* truth, `absent` when not given */

/* False, with a message that names `what`, when the value is of another type. */
bool kvi_jinja_want_int(kvi_jinja_ctx *ctx, kvi_jinja_value value, const char *what, int64_t *out);
bool kvi_jinja_want_str(kvi_jinja_ctx *ctx, kvi_jinja_value value, const char *what, const kvi_jinja_str **out);

#define FILTER(name) static kvi_jinja_value name(kvi_jinja_interp *in, kvi_jinja_value x, const kvi_jinja_args *args)
#define BIND(what, n, ...)                                                                                             \
    static const char *const names[] = {__VA_ARGS__};                                                                  \
    kvi_jinja_value v[n];                                                                                              \
    if (!kvi_jinja_bind(in->ctx, what, args, names, n, v)) return v[0]
#define NO_ARGUMENTS(what)                                                                                             \
    if (args->n || args->n_keys) return kvi_jinja_fail(in->ctx, "TypeError: %s takes no arguments", what)

#endif
