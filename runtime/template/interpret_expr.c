/* interpret_expr.c - evaluating expressions: operators, comparison chains, literals, filters and tests by name. */
#include "interpret.h"

#include <string.h>

void kvi_jinja_at(kvi_jinja_interp *in, const kvi_jinja_node *node)
{
    if (in->ctx->failed) return;
    in->ctx->line = node->line;
    in->ctx->column = node->column;
}

/* The argument lists while they grow. */
typedef struct arguments {
    kvi_jinja_seq *values, *keys, *named;
} arguments;

static void add_keyword(kvi_jinja_interp *in, arguments *a, kvi_jinja_value key, kvi_jinja_value value)
{
    for (size_t i = 0; i < a->keys->n && kvi_jinja_charge(in->ctx, 1); i++)
        if (kvi_jinja_equal(in->ctx, a->keys->items[i], key))
            kvi_jinja_fail(in->ctx, "TypeError: got multiple values for keyword argument '%.*s'",
                           (int)(key.u.s->len < 60 ? key.u.s->len : 60), key.u.s->data);
    kvi_jinja_seq_push(in->ctx, a->keys, key);
    kvi_jinja_seq_push(in->ctx, a->named, value);
}

static void add_spread(kvi_jinja_interp *in, arguments *a, const kvi_jinja_node *arg)
{
    kvi_jinja_value value = kvi_jinja_eval(in, arg->a);
    if (in->ctx->failed) return;
    if (arg->op == '*') {
        kvi_jinja_seq *seq = kvi_jinja_iterate(in->ctx, value);
        for (size_t i = 0; seq && i < seq->n && !in->ctx->failed; i++)
            kvi_jinja_seq_push(in->ctx, a->values, seq->items[i]);
        return;
    }
    if (value.type == KVI_JINJA_UNDEFINED) kvi_jinja_use_undefined(in->ctx, value);
    else if (value.type != KVI_JINJA_DICT)
        kvi_jinja_fail(in->ctx, "TypeError: argument after ** must be a mapping, not %s", kvi_jinja_type_name(value));
    for (size_t i = 0; !in->ctx->failed && i < value.u.dict->n; i++) {
        if (value.u.dict->keys[i].type != KVI_JINJA_STR) kvi_jinja_fail(in->ctx, "TypeError: keywords must be strings");
        else add_keyword(in, a, value.u.dict->keys[i], value.u.dict->values[i]);
    }
}

void kvi_jinja_eval_args(kvi_jinja_interp *in, const kvi_jinja_node *list, kvi_jinja_args *out)
{
    kvi_jinja_ctx *ctx = in->ctx;
    *out = (kvi_jinja_args){NULL, 0, NULL, NULL, 0};
    if (!list) return;
    arguments a = {kvi_jinja_seq_new(ctx, KVI_JINJA_LIST), kvi_jinja_seq_new(ctx, KVI_JINJA_LIST),
                   kvi_jinja_seq_new(ctx, KVI_JINJA_LIST)};
    for (const kvi_jinja_node *arg = list; arg && !ctx->failed; arg = arg->next) {
        if (arg->kind == KVI_JINJA_N_SPREAD) add_spread(in, &a, arg);
        else if (arg->kind != KVI_JINJA_N_KEYWORD) kvi_jinja_seq_push(ctx, a.values, kvi_jinja_eval(in, arg));
        else {
            kvi_jinja_value key = kvi_jinja_str_static(ctx, arg->name), value = kvi_jinja_eval(in, arg->a);
            if (!ctx->failed) add_keyword(in, &a, key, value);
        }
    }
    const char **keys = ctx->failed ? NULL : kvi_jinja_alloc(ctx, (a.keys->n + 1) * sizeof *keys);
    for (size_t i = 0; keys && i < a.keys->n; i++) {
        const kvi_jinja_str *key = a.keys->items[i].u.s;
        char *text = kvi_jinja_alloc(ctx, key->len + 1); /* those of ** need not end with NUL */
        if (!text) return;
        memcpy(text, key->data, key->len);
        keys[i] = text;
    }
    if (keys) *out = (kvi_jinja_args){a.values->items, a.values->n, keys, a.named->items, a.keys->n};
}

static kvi_jinja_value eval_sequence(kvi_jinja_interp *in, const kvi_jinja_node *node, kvi_jinja_seq_kind kind)
{
    kvi_jinja_seq *seq = kvi_jinja_seq_new(in->ctx, kind);
    for (const kvi_jinja_node *item = node->list; seq && item && !in->ctx->failed; item = item->next)
        kvi_jinja_seq_push(in->ctx, seq, kvi_jinja_eval(in, item));
    return kvi_jinja_seq_value(seq);
}

static kvi_jinja_value eval_dict(kvi_jinja_interp *in, const kvi_jinja_node *node)
{
    kvi_jinja_dict *dict = kvi_jinja_dict_new(in->ctx);
    for (const kvi_jinja_node *key = node->list; dict && key && !in->ctx->failed; key = key->next->next) {
        kvi_jinja_value k = kvi_jinja_eval(in, key);
        kvi_jinja_dict_set(in->ctx, dict, k, kvi_jinja_eval(in, key->next));
    }
    return (kvi_jinja_value){KVI_JINJA_DICT, {.dict = dict}};
}

static kvi_jinja_value eval_item(kvi_jinja_interp *in, const kvi_jinja_node *node)
{
    kvi_jinja_value object = kvi_jinja_eval(in, node->a);
    if (in->ctx->failed) return object;
    if (node->b->kind != KVI_JINJA_N_SLICE) {
        kvi_jinja_value key = kvi_jinja_eval(in, node->b);
        kvi_jinja_at(in, node);
        return in->ctx->failed ? key : kvi_jinja_item(in, object, key);
    }
    const kvi_jinja_node *parts[3] = {node->b->a, node->b->b, node->b->c};
    kvi_jinja_value values[3];
    for (size_t i = 0; i < 3; i++) values[i] = parts[i] ? kvi_jinja_eval(in, parts[i]) : kvi_jinja_none();
    kvi_jinja_at(in, node);
    return in->ctx->failed ? values[0] : kvi_jinja_slice(in, object, values);
}

static kvi_jinja_value eval_compare(kvi_jinja_interp *in, const kvi_jinja_node *node)
{
    kvi_jinja_ctx *ctx = in->ctx;
    kvi_jinja_value left = kvi_jinja_eval(in, node->a);
    bool holds = true;
    for (const kvi_jinja_node *next = node->list; next && holds && !ctx->failed; next = next->next) {
        kvi_jinja_value right = kvi_jinja_eval(in, next->a);
        if (ctx->failed) break;
        kvi_jinja_at(in, next);
        int c = 0;
        switch (next->op) {
        case '=': holds = kvi_jinja_equal(ctx, left, right); break;
        case '!': holds = !kvi_jinja_equal(ctx, left, right); break;
        case '<': c = kvi_jinja_order(ctx, left, right, "<"), holds = c < 0; break;
        case '>': c = kvi_jinja_order(ctx, left, right, ">"), holds = c == 1; break;
        case 'l': c = kvi_jinja_order(ctx, left, right, "<="), holds = c <= 0; break;
        case 'g': c = kvi_jinja_order(ctx, left, right, ">="), holds = c == 0 || c == 1; break;
        case 'i': holds = kvi_jinja_contains(ctx, left, right); break;
        default: holds = !kvi_jinja_contains(ctx, left, right); break;
        }
        left = right;
    }
    return kvi_jinja_bool(holds);
}

static kvi_jinja_value eval_concat(kvi_jinja_interp *in, const kvi_jinja_node *node)
{
    kvi_jinja_builder b = {0};
    for (const kvi_jinja_node *item = node->list; item && !in->ctx->failed; item = item->next) {
        kvi_jinja_value value = kvi_jinja_eval(in, item);
        if (!in->ctx->failed) kvi_jinja_add_value(in->ctx, &b, value);
    }
    return kvi_jinja_built(in->ctx, &b);
}

kvi_jinja_value kvi_jinja_eval_filter(kvi_jinja_interp *in, const kvi_jinja_node *node, kvi_jinja_value input)
{
    /* A chain hangs together by a; its head is the one without. */
    kvi_jinja_args args;
    if (++in->ctx->depth > KVI_JINJA_MAX_DEPTH)
        kvi_jinja_fail(in->ctx, "RecursionError: more than %u levels", KVI_JINJA_MAX_DEPTH);
    if (node->a && !in->ctx->failed)
        input = node->a->kind == KVI_JINJA_N_FILTER ? kvi_jinja_eval_filter(in, node->a, input)
                                                    : kvi_jinja_eval(in, node->a);
    in->ctx->depth--;
    if (in->ctx->failed) return input;
    kvi_jinja_eval_args(in, node->list, &args);
    kvi_jinja_at(in, node);
    return in->ctx->failed ? input : kvi_jinja_apply_filter(in, node->name, input, &args);
}

static kvi_jinja_value eval_test(kvi_jinja_interp *in, const kvi_jinja_node *node)
{
    kvi_jinja_args args;
    kvi_jinja_value input = kvi_jinja_eval(in, node->a);
    kvi_jinja_eval_args(in, node->list, &args);
    kvi_jinja_at(in, node);
    return kvi_jinja_bool(!in->ctx->failed && kvi_jinja_apply_test(in, node->name, input, &args));
}

static kvi_jinja_value eval_call(kvi_jinja_interp *in, const kvi_jinja_node *node)
{
    kvi_jinja_args args;
    kvi_jinja_value callee = kvi_jinja_eval(in, node->a);
    if (in->ctx->failed) return callee;
    kvi_jinja_eval_args(in, node->list, &args);
    kvi_jinja_at(in, node);
    return in->ctx->failed ? callee : kvi_jinja_call(in, callee, &args);
}

static kvi_jinja_value eval_binary(kvi_jinja_interp *in, const kvi_jinja_node *node)
{
    kvi_jinja_value a = kvi_jinja_eval(in, node->a);
    kvi_jinja_value b = in->ctx->failed ? a : kvi_jinja_eval(in, node->b);
    kvi_jinja_at(in, node);
    return in->ctx->failed ? a : kvi_jinja_binary(in->ctx, node->op, a, b);
}

static kvi_jinja_value eval_condition(kvi_jinja_interp *in, const kvi_jinja_node *node)
{
    kvi_jinja_value test = kvi_jinja_eval(in, node->b);
    if (in->ctx->failed) return test;
    if (kvi_jinja_truth(test)) return kvi_jinja_eval(in, node->a);
    if (node->c) return kvi_jinja_eval(in, node->c);
    return kvi_jinja_undefined("the inline if-expression evaluated to false and no else section was defined.");
}

static kvi_jinja_value eval_kind(kvi_jinja_interp *in, const kvi_jinja_node *node)
{
    kvi_jinja_value a;
    switch (node->kind) {
    case KVI_JINJA_N_CONST: return node->constant;
    case KVI_JINJA_N_NAME: return kvi_jinja_lookup(in, node->name);
    case KVI_JINJA_N_LIST: return eval_sequence(in, node, KVI_JINJA_LIST);
    case KVI_JINJA_N_TUPLE: return eval_sequence(in, node, KVI_JINJA_TUPLE);
    case KVI_JINJA_N_DICT: return eval_dict(in, node);
    case KVI_JINJA_N_ATTR:
        a = kvi_jinja_eval(in, node->a);
        kvi_jinja_at(in, node);
        return in->ctx->failed ? a : kvi_jinja_attribute(in, a, node->name);
    case KVI_JINJA_N_ITEM: return eval_item(in, node);
    case KVI_JINJA_N_CALL: return eval_call(in, node);
    case KVI_JINJA_N_FILTER: return kvi_jinja_eval_filter(in, node, kvi_jinja_none());
    case KVI_JINJA_N_TEST: return eval_test(in, node);
    case KVI_JINJA_N_NOT: return kvi_jinja_bool(!kvi_jinja_truth(kvi_jinja_eval(in, node->a)));
    case KVI_JINJA_N_NEGATIVE:
    case KVI_JINJA_N_POSITIVE:
        a = kvi_jinja_eval(in, node->a);
        return in->ctx->failed ? a : kvi_jinja_negate(in->ctx, a, node->kind == KVI_JINJA_N_NEGATIVE);
    case KVI_JINJA_N_AND:
        a = kvi_jinja_eval(in, node->a);
        return !in->ctx->failed && kvi_jinja_truth(a) ? kvi_jinja_eval(in, node->b) : a;
    case KVI_JINJA_N_OR:
        a = kvi_jinja_eval(in, node->a);
        return in->ctx->failed || kvi_jinja_truth(a) ? a : kvi_jinja_eval(in, node->b);
    case KVI_JINJA_N_BINARY: return eval_binary(in, node);
    case KVI_JINJA_N_CONCAT: return eval_concat(in, node);
    case KVI_JINJA_N_COMPARE: return eval_compare(in, node);
    case KVI_JINJA_N_COND: return eval_condition(in, node);
    default: return kvi_jinja_fail(in->ctx, "not an expression");
    }
}

kvi_jinja_value kvi_jinja_eval(kvi_jinja_interp *in, const kvi_jinja_node *node)
{
    kvi_jinja_ctx *ctx = in->ctx;
    if (!kvi_jinja_charge(ctx, 1)) return kvi_jinja_undefined(NULL);
    if (++ctx->depth > KVI_JINJA_MAX_DEPTH)
        kvi_jinja_fail(ctx, "RecursionError: more than %u levels", KVI_JINJA_MAX_DEPTH);
    kvi_jinja_value value = ctx->failed ? kvi_jinja_undefined(NULL) : eval_kind(in, node);
    ctx->depth--;
    return value;
}
