/* objects.c - values with a state of their own: cycler, joiner, and what loops and macros say about themselves. */
#include "args.h"

#include <stdio.h>
#include <string.h>

void kvi_jinja_add_object(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, kvi_jinja_value value, const char *address)
{
    char text[160];
    switch (value.type) {
    case KVI_JINJA_LOOP:
        snprintf(text, sizeof text, "<LoopContext %zu/%zu>", value.u.loop->index0 + 1, value.u.loop->seq->n);
        break;
    case KVI_JINJA_MACRO: snprintf(text, sizeof text, "<Macro '%.100s'>", value.u.macro->node->name); break;
    case KVI_JINJA_CYCLER: snprintf(text, sizeof text, "<jinja2.utils.Cycler object%s", address); break;
    default: snprintf(text, sizeof text, "<jinja2.utils.Joiner object%s", address); break;
    }
    kvi_jinja_add(ctx, b, text, strlen(text), KVI_JINJA_TEXT);
}

static kvi_jinja_value cursor(kvi_jinja_ctx *ctx, kvi_jinja_type type, kvi_jinja_value items)
{
    kvi_jinja_cursor *c = kvi_jinja_alloc(ctx, sizeof *c);
    if (!c) return kvi_jinja_undefined(NULL);
    c->items = items;
    return (kvi_jinja_value){type, {.cursor = c}};
}

kvi_jinja_value kvi_jinja_cycler(kvi_jinja_ctx *ctx, const kvi_jinja_args *args)
{
    if (args->n_keys) return kvi_jinja_fail(ctx, "TypeError: cycler takes no keyword arguments");
    if (!args->n) return kvi_jinja_fail(ctx, "RuntimeError: at least one item has to be provided");
    kvi_jinja_seq *items = kvi_jinja_seq_new(ctx, KVI_JINJA_TUPLE);
    for (size_t i = 0; items && i < args->n; i++) kvi_jinja_seq_push(ctx, items, args->values[i]);
    return cursor(ctx, KVI_JINJA_CYCLER, kvi_jinja_seq_value(items));
}

kvi_jinja_value kvi_jinja_joiner(kvi_jinja_ctx *ctx, const kvi_jinja_args *args)
{
    static const char *const names[] = {"sep"};
    kvi_jinja_value v;
    if (!kvi_jinja_bind(ctx, "joiner", args, names, 1, &v)) return v;
    if (kvi_jinja_absent(v)) v = kvi_jinja_str_copy(ctx, ", ", 2, KVI_JINJA_LITERAL);
    return cursor(ctx, KVI_JINJA_JOINER, v);
}

kvi_jinja_value kvi_jinja_call_joiner(kvi_jinja_ctx *ctx, kvi_jinja_value joiner, const kvi_jinja_args *args)
{
    if (args->n || args->n_keys) return kvi_jinja_fail(ctx, "TypeError: a joiner takes no arguments");
    return joiner.u.cursor->at++ ? joiner.u.cursor->items : kvi_jinja_str_static(ctx, "");
}

static kvi_jinja_value current(const kvi_jinja_cursor *c) { return c->items.u.seq->items[c->at % c->items.u.seq->n]; }

kvi_jinja_value kvi_jinja_cycler_method(kvi_jinja_ctx *ctx, kvi_jinja_value self, const char *name,
                                        const kvi_jinja_args *args)
{
    kvi_jinja_cursor *c = self.u.cursor;
    if (args->n || args->n_keys) return kvi_jinja_fail(ctx, "TypeError: cycler.%s takes no arguments", name);
    kvi_jinja_value now = current(c);
    bool next = strcmp(name, "next") == 0;
    c->at = next ? c->at + 1 : 0;
    return next ? now : kvi_jinja_none();
}

bool kvi_jinja_object_attribute(kvi_jinja_interp *in, kvi_jinja_value object, const char *name, kvi_jinja_value *out)
{
    if (object.type == KVI_JINJA_CYCLER) {
        if (strcmp(name, "current") == 0) *out = current(object.u.cursor);
        else if (strcmp(name, "pos") == 0)
            *out = kvi_jinja_int((int64_t)(object.u.cursor->at % object.u.cursor->items.u.seq->n));
        else if (strcmp(name, "items") == 0) *out = object.u.cursor->items;
        else if (strcmp(name, "next") == 0 || strcmp(name, "reset") == 0) *out = kvi_jinja_bound(in, object, name);
        else return false;
        return true;
    }
    if (object.type == KVI_JINJA_JOINER) {
        if (strcmp(name, "sep") == 0) *out = object.u.cursor->items;
        else if (strcmp(name, "used") == 0) *out = kvi_jinja_bool(object.u.cursor->at > 0);
        else return false;
        return true;
    }
    const kvi_jinja_node *node = object.u.macro->node;
    if (strcmp(name, "name") == 0) *out = kvi_jinja_str_static(in->ctx, node->name);
    else if (strcmp(name, "catch_varargs") == 0) *out = kvi_jinja_bool(node->uses & KVI_JINJA_USES_VARARGS);
    else if (strcmp(name, "catch_kwargs") == 0) *out = kvi_jinja_bool(node->uses & KVI_JINJA_USES_KWARGS);
    else if (strcmp(name, "caller") == 0) *out = kvi_jinja_bool(node->uses & KVI_JINJA_USES_CALLER);
    else if (strcmp(name, "arguments") == 0) {
        kvi_jinja_seq *list = kvi_jinja_seq_new(in->ctx, KVI_JINJA_TUPLE);
        for (const kvi_jinja_node *p = node->other; list && p; p = p->next)
            kvi_jinja_seq_push(in->ctx, list, kvi_jinja_str_static(in->ctx, p->name));
        *out = kvi_jinja_seq_value(list);
    } else return false;
    return true;
}
