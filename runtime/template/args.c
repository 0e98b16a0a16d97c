/* args.c - see args.h. */
#include "args.h"

#include <string.h>

static const char absent[] = "absent";

kvi_jinja_value kvi_jinja_absent_value(void) { return kvi_jinja_undefined(absent); }

bool kvi_jinja_absent(kvi_jinja_value value) { return value.type == KVI_JINJA_UNDEFINED && value.u.why == absent; }

bool kvi_jinja_given(kvi_jinja_value value) { return !kvi_jinja_absent(value) && value.type != KVI_JINJA_NONE; }

bool kvi_jinja_flag(kvi_jinja_value value, bool when_absent)
{
    return kvi_jinja_absent(value) ? when_absent : kvi_jinja_truth(value);
}

bool kvi_jinja_bind(kvi_jinja_ctx *ctx, const char *what, const kvi_jinja_args *args, const char *const *names,
                    size_t n, kvi_jinja_value *out)
{
    if (args->n > n) kvi_jinja_fail(ctx, "TypeError: %s takes at most %zu argument(s), found %zu", what, n, args->n);
    for (size_t i = 0; i < n; i++) out[i] = i < args->n ? args->values[i] : kvi_jinja_absent_value();
    for (size_t k = 0; k < args->n_keys && !ctx->failed; k++) {
        size_t i = 0;
        while (i < n && (!names[i][0] || strcmp(names[i], args->keys[k]) != 0)) i++;
        if (i == n) kvi_jinja_fail(ctx, "TypeError: %s got an unexpected keyword argument '%s'", what, args->keys[k]);
        else if (!kvi_jinja_absent(out[i]))
            kvi_jinja_fail(ctx, "TypeError: %s got multiple values for argument '%s'", what, args->keys[k]);
        else out[i] = args->named[k];
    }
    return !ctx->failed;
}

bool kvi_jinja_want_int(kvi_jinja_ctx *ctx, kvi_jinja_value value, const char *what, int64_t *out)
{
    if (value.type == KVI_JINJA_INT || value.type == KVI_JINJA_BOOL) {
        *out = value.type == KVI_JINJA_INT ? value.u.i : value.u.b;
        return true;
    }
    if (value.type == KVI_JINJA_BIG) kvi_jinja_fail(ctx, "OverflowError: %s: an integer does not fit 64 bits", what);
    else if (kvi_jinja_absent(value)) kvi_jinja_fail(ctx, "TypeError: %s: an argument is missing", what);
    else
        kvi_jinja_fail(ctx, "TypeError: %s: '%s' object cannot be interpreted as an integer", what,
                       kvi_jinja_type_name(value));
    return false;
}

bool kvi_jinja_want_str(kvi_jinja_ctx *ctx, kvi_jinja_value value, const char *what, const kvi_jinja_str **out)
{
    if (value.type == KVI_JINJA_STR) *out = value.u.s;
    else
        kvi_jinja_fail(ctx, "TypeError: %s needs str, not %s", what,
                       kvi_jinja_absent(value) ? "nothing" : kvi_jinja_type_name(value));
    return value.type == KVI_JINJA_STR;
}
