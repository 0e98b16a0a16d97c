/* call.c - calling things: macros with their parameters, caller(), bound methods, builtin functions. */
#include "args.h"

#include <string.h>

/* Arguments beyond the parameters: varargs and kwargs where the body reads them, an error otherwise. */
static void bind_rest(kvi_jinja_interp *in, const kvi_jinja_node *node, const kvi_jinja_args *args, size_t n_params,
                      const bool *used)
{
    kvi_jinja_ctx *ctx = in->ctx;
    if (node->uses & KVI_JINJA_USES_VARARGS) {
        kvi_jinja_seq *rest = kvi_jinja_seq_new(ctx, KVI_JINJA_TUPLE);
        for (size_t i = n_params; rest && i < args->n; i++) kvi_jinja_seq_push(ctx, rest, args->values[i]);
        kvi_jinja_assign(in, kvi_jinja_intern(ctx, in->names, "varargs", 7), kvi_jinja_seq_value(rest));
    } else if (args->n > n_params)
        kvi_jinja_fail(ctx, "TypeError: macro '%s' takes not more than %zu argument(s)", node->name, n_params);
    kvi_jinja_dict *rest = kvi_jinja_dict_new(ctx);
    for (size_t k = 0; rest && k < args->n_keys && !ctx->failed; k++) {
        if (used[k]) continue;
        if (strcmp(args->keys[k], "caller") == 0 && node->uses & KVI_JINJA_USES_CALLER)
            kvi_jinja_assign(in, kvi_jinja_intern(ctx, in->names, "caller", 6), args->named[k]);
        else if (node->uses & KVI_JINJA_USES_KWARGS)
            kvi_jinja_dict_set(ctx, rest, kvi_jinja_str_copy(ctx, args->keys[k], strlen(args->keys[k]), KVI_JINJA_TEXT),
                               args->named[k]);
        else kvi_jinja_fail(ctx, "TypeError: macro '%s' takes no keyword argument '%s'", node->name, args->keys[k]);
    }
    if (node->uses & KVI_JINJA_USES_KWARGS)
        kvi_jinja_assign(in, kvi_jinja_intern(ctx, in->names, "kwargs", 6),
                         (kvi_jinja_value){KVI_JINJA_DICT, {.dict = rest}});
}

static void bind_params(kvi_jinja_interp *in, const kvi_jinja_node *node, const kvi_jinja_args *args)
{
    kvi_jinja_ctx *ctx = in->ctx;
    bool *used = kvi_jinja_alloc(ctx, args->n_keys + 1);
    size_t n = 0;
    for (const kvi_jinja_node *p = node->other; p && used && !ctx->failed; p = p->next, n++) {
        kvi_jinja_value value = kvi_jinja_absent_value();
        if (n < args->n) value = args->values[n];
        for (size_t k = 0; k < args->n_keys; k++) {
            if (strcmp(args->keys[k], p->name) != 0) continue;
            if (n < args->n)
                kvi_jinja_fail(ctx, "TypeError: macro '%s' got multiple values for argument '%s'", node->name, p->name);
            value = args->named[k];
            used[k] = true;
        }
        if (kvi_jinja_absent(value)) {
            value = kvi_jinja_undefined("a parameter of a macro was not provided");
            if (p->a) value = kvi_jinja_eval(in, p->a);
        }
        kvi_jinja_assign(in, p->name, value);
    }
    if (used && !ctx->failed) bind_rest(in, node, args, n, used);
}

static kvi_jinja_value call_macro(kvi_jinja_interp *in, const kvi_jinja_macro *macro, const kvi_jinja_args *args)
{
    kvi_jinja_scope *saved_scope = in->scope, *scope = kvi_jinja_alloc(in->ctx, sizeof *scope);
    kvi_jinja_builder b = {0}, *saved_out = in->out;
    uint32_t line = in->ctx->line, column = in->ctx->column;
    if (!scope) return kvi_jinja_undefined(NULL);
    scope->parent = macro->scope;
    in->scope = scope;
    in->out = &b;
    bind_params(in, macro->node, args);
    kvi_jinja_run_body(in, macro->node->list);
    in->scope = saved_scope;
    in->out = saved_out;
    if (!in->ctx->failed) in->ctx->line = line, in->ctx->column = column;
    return kvi_jinja_built(in->ctx, &b);
}

kvi_jinja_value kvi_jinja_call(kvi_jinja_interp *in, kvi_jinja_value callee, const kvi_jinja_args *args)
{
    switch (callee.type) {
    case KVI_JINJA_UNDEFINED: return kvi_jinja_use_undefined(in->ctx, callee);
    case KVI_JINJA_MACRO: return call_macro(in, callee.u.macro, args);
    case KVI_JINJA_FUNCTION: return kvi_jinja_call_function(in, callee, args);
    case KVI_JINJA_METHOD: return kvi_jinja_call_method(in, callee.u.method, args);
    case KVI_JINJA_LOOP: return kvi_jinja_call_loop(in, callee.u.loop, args);
    case KVI_JINJA_JOINER: return kvi_jinja_call_joiner(in->ctx, callee, args);
    default: return kvi_jinja_fail(in->ctx, "TypeError: '%s' object is not callable", kvi_jinja_type_name(callee));
    }
}
