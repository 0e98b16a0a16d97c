/* interpret.c - running statements: output, scopes, loops, macros as definitions. Calls are in call.c. */
#include "interpret.h"

#include <string.h>

kvi_jinja_value kvi_jinja_lookup(kvi_jinja_interp *in, const char *name)
{
    for (const kvi_jinja_scope *scope = in->scope; scope; scope = scope->parent)
        for (const kvi_jinja_var *var = scope->vars; var; var = var->next)
            if (var->name == name) return var->value;
    kvi_jinja_value function;
    if (kvi_jinja_find_function(name, &function)) return function;
    char *why = kvi_jinja_alloc(in->ctx, strlen(name) + 32);
    if (why) {
        why[0] = '\'';
        strcpy(why + 1, name);
        strcat(why, "' is undefined");
    }
    return kvi_jinja_undefined(why);
}

void kvi_jinja_assign(kvi_jinja_interp *in, const char *name, kvi_jinja_value value)
{
    if (in->ctx->failed) return;
    size_t n = 0;
    for (kvi_jinja_var *var = in->scope->vars; var; var = var->next, n++)
        if (var->name == name) {
            var->value = value;
            return;
        }
    kvi_jinja_charge(in->ctx, n / 8);
    kvi_jinja_var *var = kvi_jinja_alloc(in->ctx, sizeof *var);
    if (!var) return;
    *var = (kvi_jinja_var){name, value, in->scope->vars};
    in->scope->vars = var;
}

static bool open_scope(kvi_jinja_interp *in, kvi_jinja_scope **saved)
{
    kvi_jinja_scope *scope = kvi_jinja_alloc(in->ctx, sizeof *scope);
    *saved = in->scope;
    if (!scope) return false;
    scope->parent = in->scope;
    in->scope = scope;
    return true;
}

static void assign_target(kvi_jinja_interp *in, const kvi_jinja_node *target, kvi_jinja_value value)
{
    if (in->ctx->failed) return;
    if (target->kind == KVI_JINJA_N_NAME) {
        kvi_jinja_assign(in, target->name, value);
        return;
    }
    if (target->kind == KVI_JINJA_N_ATTR) {
        kvi_jinja_value ns = kvi_jinja_lookup(in, target->a->name);
        if (ns.type != KVI_JINJA_NAMESPACE) {
            kvi_jinja_fail(in->ctx, "TemplateRuntimeError: cannot assign attribute on non-namespace object");
            return;
        }
        if (target->name[0] == '_') {
            kvi_jinja_fail(in->ctx, "SecurityError: cannot store the underscore-prefixed attribute '%s' on a namespace",
                           target->name);
            return;
        }
        kvi_jinja_dict_set(in->ctx, ns.u.dict,
                           kvi_jinja_str_copy(in->ctx, target->name, strlen(target->name), KVI_JINJA_TEXT), value);
        return;
    }
    kvi_jinja_seq *seq = kvi_jinja_iterate(in->ctx, value);
    size_t n = 0;
    for (const kvi_jinja_node *item = target->list; item; item = item->next) n++;
    if (seq && seq->n != n)
        kvi_jinja_fail(in->ctx, "ValueError: %s values to unpack (found %zu, need %zu)",
                       seq->n > n ? "too many" : "not enough", seq->n, n);
    size_t i = 0;
    for (const kvi_jinja_node *item = target->list; item && !in->ctx->failed; item = item->next)
        assign_target(in, item, seq->items[i++]);
}

/* The elements that pass `if`; each is tried in a scope of its own. */
static kvi_jinja_seq *select_items(kvi_jinja_interp *in, const kvi_jinja_node *node, kvi_jinja_seq *all)
{
    kvi_jinja_seq *out = kvi_jinja_seq_new(in->ctx, KVI_JINJA_LIST);
    for (size_t i = 0; out && i < all->n && !in->ctx->failed; i++) {
        kvi_jinja_scope *saved;
        if (!open_scope(in, &saved)) break;
        assign_target(in, node->a, all->items[i]);
        if (kvi_jinja_truth(kvi_jinja_eval(in, node->c))) kvi_jinja_seq_push(in->ctx, out, all->items[i]);
        in->scope = saved;
    }
    return out;
}

static void run_loop(kvi_jinja_interp *in, const kvi_jinja_node *node, kvi_jinja_value source, size_t depth0)
{
    kvi_jinja_seq *seq = in->ctx->failed ? NULL : kvi_jinja_iterate(in->ctx, source);
    if (seq && node->c) seq = select_items(in, node, seq);
    if (!seq || in->ctx->failed) return;
    kvi_jinja_loop *loop = kvi_jinja_alloc(in->ctx, sizeof *loop);
    if (!loop) return;
    *loop = (kvi_jinja_loop){.node = node, .scope = in->scope, .seq = seq, .depth0 = depth0};
    const char *loop_name = kvi_jinja_intern(in->ctx, in->names, "loop", 4);
    for (size_t i = 0; i < seq->n && !in->ctx->failed && in->flow != KVI_JINJA_BREAK; i++) {
        kvi_jinja_scope *saved;
        in->flow = KVI_JINJA_RUN;
        loop->index0 = i;
        if (!open_scope(in, &saved)) break;
        kvi_jinja_assign(in, loop_name, (kvi_jinja_value){KVI_JINJA_LOOP, {.loop = loop}});
        assign_target(in, node->a, seq->items[i]);
        kvi_jinja_run_body(in, node->list);
        in->scope = saved;
    }
    in->flow = KVI_JINJA_RUN;
    kvi_jinja_scope *saved;
    if (!seq->n && node->other && open_scope(in, &saved)) {
        kvi_jinja_run_body(in, node->other);
        in->scope = saved;
    }
}

static void run_for(kvi_jinja_interp *in, const kvi_jinja_node *node)
{
    run_loop(in, node, kvi_jinja_eval(in, node->b), 0);
}

kvi_jinja_value kvi_jinja_call_loop(kvi_jinja_interp *in, const kvi_jinja_loop *loop, const kvi_jinja_args *args)
{
    if (!(loop->node->uses & KVI_JINJA_RECURSIVE))
        return kvi_jinja_fail(in->ctx, "TypeError: The loop must have the 'recursive' marker to be recursive.");
    if (args->n != 1 || args->n_keys) return kvi_jinja_fail(in->ctx, "TypeError: loop takes one iterable");
    kvi_jinja_builder b = {0}, *saved_out = in->out;
    kvi_jinja_scope *saved_scope = in->scope;
    uint32_t line = in->ctx->line, column = in->ctx->column;
    if (++in->ctx->depth > KVI_JINJA_MAX_DEPTH)
        kvi_jinja_fail(in->ctx, "RecursionError: more than %u levels", KVI_JINJA_MAX_DEPTH);
    in->scope = loop->scope;
    in->out = &b;
    run_loop(in, loop->node, args->values[0], loop->depth0 + 1);
    in->out = saved_out;
    in->scope = saved_scope;
    in->ctx->depth--;
    if (!in->ctx->failed) in->ctx->line = line, in->ctx->column = column;
    return kvi_jinja_built(in->ctx, &b);
}

static void run_if(kvi_jinja_interp *in, const kvi_jinja_node *node)
{
    for (;;) {
        kvi_jinja_at(in, node);
        if (kvi_jinja_truth(kvi_jinja_eval(in, node->a))) {
            if (!in->ctx->failed) kvi_jinja_run_body(in, node->list);
            return;
        }
        const kvi_jinja_node *other = node->other;
        if (in->ctx->failed) return;
        /* An elif is the only IF that stands in `other` without a tag of its own; running a body of one IF is the
         * same thing. */
        if (!other || other->kind != KVI_JINJA_N_IF || other->next) {
            kvi_jinja_run_body(in, other);
            return;
        }
        node = other;
    }
}

/* Output of a body as a string. */
static kvi_jinja_value capture(kvi_jinja_interp *in, const kvi_jinja_node *body)
{
    kvi_jinja_builder b = {0}, *saved_out = in->out;
    kvi_jinja_scope *saved;
    if (!open_scope(in, &saved)) return kvi_jinja_undefined(NULL);
    in->out = &b;
    kvi_jinja_run_body(in, body);
    in->out = saved_out;
    in->scope = saved;
    return kvi_jinja_built(in->ctx, &b);
}

static void run_call_block(kvi_jinja_interp *in, const kvi_jinja_node *node)
{
    kvi_jinja_macro *caller = kvi_jinja_alloc(in->ctx, sizeof *caller);
    if (!caller) return;
    *caller = (kvi_jinja_macro){node->a, in->scope};
    kvi_jinja_args args, with;
    kvi_jinja_value callee = kvi_jinja_eval(in, node->b->a);
    kvi_jinja_eval_args(in, node->b->list, &args);
    const char **keys = kvi_jinja_alloc(in->ctx, (args.n_keys + 1) * sizeof *keys);
    kvi_jinja_value *named = kvi_jinja_alloc(in->ctx, (args.n_keys + 1) * sizeof *named);
    if (!keys || !named) return;
    for (size_t i = 0; i < args.n_keys; i++) keys[i] = args.keys[i], named[i] = args.named[i];
    keys[args.n_keys] = "caller";
    named[args.n_keys] = (kvi_jinja_value){KVI_JINJA_MACRO, {.macro = caller}};
    with = (kvi_jinja_args){args.values, args.n, keys, named, args.n_keys + 1};
    kvi_jinja_at(in, node->b);
    kvi_jinja_value result = kvi_jinja_call(in, callee, &with);
    if (!in->ctx->failed) kvi_jinja_add_value(in->ctx, in->out, result);
}

static void run_with(kvi_jinja_interp *in, const kvi_jinja_node *node)
{
    /* The values see the outer scope only. */
    kvi_jinja_scope *outer = in->scope, *inner;
    if (!open_scope(in, &outer)) return;
    inner = in->scope;
    for (const kvi_jinja_node *binding = node->other; binding && !in->ctx->failed; binding = binding->next) {
        in->scope = outer;
        kvi_jinja_value value = kvi_jinja_eval(in, binding->a);
        in->scope = inner;
        kvi_jinja_assign(in, binding->name, value);
    }
    kvi_jinja_run_body(in, node->list);
    in->scope = outer;
}

static void run_macro(kvi_jinja_interp *in, const kvi_jinja_node *node)
{
    kvi_jinja_macro *macro = kvi_jinja_alloc(in->ctx, sizeof *macro);
    if (!macro) return;
    *macro = (kvi_jinja_macro){node, in->scope};
    kvi_jinja_assign(in, node->name, (kvi_jinja_value){KVI_JINJA_MACRO, {.macro = macro}});
}

static void run_print(kvi_jinja_interp *in, const kvi_jinja_node *node)
{
    kvi_jinja_value value = kvi_jinja_eval(in, node->a);
    kvi_jinja_at(in, node);
    if (!in->ctx->failed) kvi_jinja_add_value(in->ctx, in->out, value);
}

static void run_statement(kvi_jinja_interp *in, const kvi_jinja_node *node)
{
    kvi_jinja_value value;
    kvi_jinja_at(in, node);
    switch (node->kind) {
    case KVI_JINJA_N_DATA: kvi_jinja_add_str(in->ctx, in->out, node->constant.u.s); break;
    case KVI_JINJA_N_PRINT: run_print(in, node); break;
    case KVI_JINJA_N_FOR: run_for(in, node); break;
    case KVI_JINJA_N_IF: run_if(in, node); break;
    case KVI_JINJA_N_SET: assign_target(in, node->a, kvi_jinja_eval(in, node->b)); break;
    case KVI_JINJA_N_SET_BLOCK:
        value = capture(in, node->list);
        if (node->b) value = kvi_jinja_eval_filter(in, node->b, value);
        assign_target(in, node->a, value);
        break;
    case KVI_JINJA_N_MACRO: run_macro(in, node); break;
    case KVI_JINJA_N_CALL_BLOCK: run_call_block(in, node); break;
    case KVI_JINJA_N_FILTER_BLOCK:
        value = kvi_jinja_eval_filter(in, node->b, capture(in, node->list));
        if (!in->ctx->failed) kvi_jinja_add_value(in->ctx, in->out, value);
        break;
    case KVI_JINJA_N_WITH: run_with(in, node); break;
    case KVI_JINJA_N_GENERATION:
        value = capture(in, node->list);
        if (!in->ctx->failed) kvi_jinja_add_str(in->ctx, in->out, value.u.s);
        break;
    case KVI_JINJA_N_BREAK: in->flow = KVI_JINJA_BREAK; break;
    case KVI_JINJA_N_CONTINUE: in->flow = KVI_JINJA_CONTINUE; break;
    default: kvi_jinja_fail(in->ctx, "not a statement"); break;
    }
}

void kvi_jinja_run_body(kvi_jinja_interp *in, const kvi_jinja_node *body)
{
    if (++in->ctx->depth > KVI_JINJA_MAX_DEPTH)
        kvi_jinja_fail(in->ctx, "RecursionError: more than %u levels", KVI_JINJA_MAX_DEPTH);
    for (; body && in->flow == KVI_JINJA_RUN && kvi_jinja_charge(in->ctx, 1); body = body->next)
        run_statement(in, body);
    in->ctx->depth--;
}

void kvi_jinja_run_template(kvi_jinja_ctx *ctx, kvi_jinja_names *names, const kvi_jinja_node *body,
                            const kvi_jinja_dict *globals, int64_t now, kvi_jinja_builder *out)
{
    kvi_jinja_scope context = {NULL, NULL}, root = {NULL, &context};
    kvi_jinja_interp in = {.ctx = ctx, .names = names, .scope = &context, .out = out, .now = now};
    for (size_t i = 0; i < globals->n; i++) {
        const kvi_jinja_str *key = globals->keys[i].u.s;
        kvi_jinja_assign(&in, kvi_jinja_intern(ctx, names, key->data, key->len), globals->values[i]);
    }
    in.scope = &root;
    kvi_jinja_run_body(&in, body);
}
