/* functions.c - the global functions of chat templates, and methods of dictionaries, lists and loops. Refuses,
 * by name: lipsum, which is random. */
#include "args.h"

#include <math.h>
#include <string.h>

bool kvi_jinja_find_function(const char *name, kvi_jinja_value *out)
{
    static const struct {
        const char *name;
        kvi_jinja_function id;
    } table[] = {{"range", KVI_JINJA_F_RANGE},
                 {"dict", KVI_JINJA_F_DICT},
                 {"namespace", KVI_JINJA_F_NAMESPACE},
                 {"raise_exception", KVI_JINJA_F_RAISE},
                 {"strftime_now", KVI_JINJA_F_STRFTIME},
                 {"cycler", KVI_JINJA_F_CYCLER},
                 {"joiner", KVI_JINJA_F_JOINER},
                 {"lipsum", KVI_JINJA_F_LIPSUM},
                 {"self", KVI_JINJA_F_SELF}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i].name, name) == 0) {
            *out = (kvi_jinja_value){KVI_JINJA_FUNCTION, {.i = table[i].id}};
            return true;
        }
    return false;
}

static kvi_jinja_value call_range(kvi_jinja_ctx *ctx, const kvi_jinja_args *args)
{
    int64_t v[3] = {0, 0, 1};
    if (args->n_keys || !args->n || args->n > 3)
        return kvi_jinja_fail(ctx, "TypeError: range expects 1 to 3 arguments");
    for (size_t i = 0; i < args->n; i++)
        if (!kvi_jinja_want_int(ctx, args->values[i], "range", &v[args->n == 1 ? 1 : i]))
            return kvi_jinja_undefined(NULL);
    if (!v[2]) return kvi_jinja_fail(ctx, "ValueError: range() arg 3 must not be zero");
    kvi_jinja_seq *out = kvi_jinja_seq_new(ctx, KVI_JINJA_RANGE);
    if (!out) return kvi_jinja_undefined(NULL);
    out->start = v[0], out->stop = v[1], out->step = v[2];
    for (int64_t i = v[0]; (v[2] > 0 ? i < v[1] : i > v[1]) && kvi_jinja_charge(ctx, 1);) {
        if (out->n == KVI_JINJA_MAX_RANGE)
            return kvi_jinja_fail(ctx, "OverflowError: Range too big. The sandbox blocks ranges larger than %d.",
                                  KVI_JINJA_MAX_RANGE);
        kvi_jinja_seq_push(ctx, out, kvi_jinja_int(i));
        if (__builtin_add_overflow(i, v[2], &i)) break;
    }
    return kvi_jinja_seq_value(out);
}

/* dict(...) and namespace(...): a mapping or pairs, then keywords. */
static kvi_jinja_value call_dict(kvi_jinja_ctx *ctx, const kvi_jinja_args *args, bool is_namespace)
{
    const char *what = is_namespace ? "namespace" : "dict";
    kvi_jinja_dict *out = kvi_jinja_dict_new(ctx);
    if (args->n > 1) return kvi_jinja_fail(ctx, "TypeError: %s expected at most 1 argument, got %zu", what, args->n);
    if (args->n && args->values[0].type == KVI_JINJA_DICT) {
        const kvi_jinja_dict *from = args->values[0].u.dict;
        for (size_t i = 0; out && i < from->n && !ctx->failed; i++)
            kvi_jinja_dict_set(ctx, out, from->keys[i], from->values[i]);
    } else if (args->n && args->values[0].type == KVI_JINJA_UNDEFINED)
        return kvi_jinja_use_undefined(ctx, args->values[0]);
    else if (args->n) {
        kvi_jinja_seq *pairs = kvi_jinja_iterate(ctx, args->values[0]);
        for (size_t i = 0; out && pairs && i < pairs->n && !ctx->failed; i++) {
            kvi_jinja_seq *pair = kvi_jinja_iterate(ctx, pairs->items[i]);
            if (pair && pair->n == 2) kvi_jinja_dict_set(ctx, out, pair->items[0], pair->items[1]);
            else kvi_jinja_fail(ctx, "ValueError: %s element %zu is not a pair", what, i);
        }
    }
    for (size_t k = 0; out && k < args->n_keys && !ctx->failed; k++) {
        if (is_namespace && args->keys[k][0] == '_')
            return kvi_jinja_fail(ctx,
                                  "SecurityError: cannot store the underscore-prefixed attribute '%s' on a namespace",
                                  args->keys[k]);
        kvi_jinja_dict_set(ctx, out, kvi_jinja_str_copy(ctx, args->keys[k], strlen(args->keys[k]), KVI_JINJA_LITERAL),
                           args->named[k]);
    }
    return (kvi_jinja_value){is_namespace ? KVI_JINJA_NAMESPACE : KVI_JINJA_DICT, {.dict = out}};
}

static kvi_jinja_value call_raise(kvi_jinja_ctx *ctx, const kvi_jinja_args *args)
{
    static const char *const names[] = {"message"};
    kvi_jinja_value v;
    if (!kvi_jinja_bind(ctx, "raise_exception", args, names, 1, &v)) return v;
    if (kvi_jinja_absent(v)) return kvi_jinja_fail(ctx, "TypeError: raise_exception needs a message");
    v = kvi_jinja_str_of(ctx, v);
    if (ctx->failed) return v;
    return kvi_jinja_fail(ctx, "TemplateError: %.*s", (int)(v.u.s->len < 380 ? v.u.s->len : 380), v.u.s->data);
}

static kvi_jinja_value call_strftime(kvi_jinja_interp *in, const kvi_jinja_args *args)
{
    static const char *const names[] = {"format"};
    kvi_jinja_value v;
    if (!kvi_jinja_bind(in->ctx, "strftime_now", args, names, 1, &v)) return v;
    if (v.type != KVI_JINJA_STR)
        return kvi_jinja_fail(in->ctx, "TypeError: strftime() argument 1 must be str, not %s", kvi_jinja_type_name(v));
    kvi_buf text = {.max = 4096};
    bool known = kvi_jinja_strftime(in->now, v.u.s->data, v.u.s->len, &text);
    kvi_jinja_value out = kvi_jinja_undefined(NULL);
    if (!known || text.failed) kvi_jinja_fail(in->ctx, "strftime_now: unsupported or too long a format");
    else out = kvi_jinja_str_copy(in->ctx, text.len ? text.data : "", text.len, KVI_JINJA_TEXT);
    kvi_buf_free(&text);
    return out;
}

kvi_jinja_value kvi_jinja_call_function(kvi_jinja_interp *in, kvi_jinja_value function, const kvi_jinja_args *args)
{
    switch ((kvi_jinja_function)function.u.i) {
    case KVI_JINJA_F_RANGE: return call_range(in->ctx, args);
    case KVI_JINJA_F_DICT: return call_dict(in->ctx, args, false);
    case KVI_JINJA_F_NAMESPACE: return call_dict(in->ctx, args, true);
    case KVI_JINJA_F_RAISE: return call_raise(in->ctx, args);
    case KVI_JINJA_F_STRFTIME: return call_strftime(in, args);
    case KVI_JINJA_F_CYCLER: return kvi_jinja_cycler(in->ctx, args);
    case KVI_JINJA_F_JOINER: return kvi_jinja_joiner(in->ctx, args);
    case KVI_JINJA_F_SELF: return kvi_jinja_fail(in->ctx, "TypeError: 'TemplateReference' object is not callable");
    default: return kvi_jinja_fail(in->ctx, "lipsum is not supported: its text is random");
    }
}

/* -------------------------------------------------------------------------------------------------------- methods
 * --- */
static kvi_jinja_value dict_method(kvi_jinja_interp *in, kvi_jinja_value self, const char *name,
                                   const kvi_jinja_args *args)
{
    static const char *const get_names[] = {"key", "default"};
    kvi_jinja_ctx *ctx = in->ctx;
    kvi_jinja_value v[2];
    bool get = strcmp(name, "get") == 0;
    if (get && args->n_keys) return kvi_jinja_fail(ctx, "TypeError: dict.get() takes no keyword arguments");
    if (!kvi_jinja_bind(ctx, name, args, get_names, get ? 2 : 0, v)) return v[0];
    if (strcmp(name, "items") == 0) return kvi_jinja_dict_view(ctx, self.u.dict, KVI_JINJA_ITEMS);
    if (strcmp(name, "keys") == 0) return kvi_jinja_dict_view(ctx, self.u.dict, KVI_JINJA_KEYS);
    if (strcmp(name, "values") == 0) return kvi_jinja_dict_view(ctx, self.u.dict, KVI_JINJA_VALUES);
    if (strcmp(name, "copy") == 0) return call_dict(ctx, &(kvi_jinja_args){&self, 1, NULL, NULL, 0}, false);
    if (!get) return kvi_jinja_fail(ctx, "the method dict.%s is not supported", name);
    if (kvi_jinja_absent(v[0])) return kvi_jinja_fail(ctx, "TypeError: get expected at least 1 argument, got 0");
    kvi_jinja_value *found = kvi_jinja_dict_find(ctx, self.u.dict, v[0]);
    return found ? *found : kvi_jinja_absent(v[1]) ? kvi_jinja_none() : v[1];
}

static kvi_jinja_value list_method(kvi_jinja_interp *in, kvi_jinja_value self, const char *name,
                                   const kvi_jinja_args *args)
{
    static const char *const names[] = {"", "", ""};
    kvi_jinja_ctx *ctx = in->ctx;
    kvi_jinja_seq *seq = self.u.seq;
    bool copy = strcmp(name, "copy") == 0, index = strcmp(name, "index") == 0;
    kvi_jinja_value bound[3], v;
    if (!kvi_jinja_bind(ctx, name, args, names, copy ? 0 : index ? 3 : 1, bound)) return bound[0];
    v = bound[0];
    if (index && args->n > 1) {
        kvi_jinja_value part[3] = {bound[1], args->n > 2 ? bound[2] : kvi_jinja_none(), kvi_jinja_none()};
        if (part[0].type == KVI_JINJA_NONE || (args->n > 2 && part[1].type == KVI_JINJA_NONE))
            return kvi_jinja_fail(ctx, "TypeError: slice indices must be integers");
        kvi_jinja_value all = kvi_jinja_slice(in, self, part);
        if (ctx->failed) return all;
        for (size_t i = 0; i < all.u.seq->n && !ctx->failed; i++)
            if (kvi_jinja_equal(ctx, all.u.seq->items[i], v)) {
                int64_t start = part[0].type == KVI_JINJA_INT ? part[0].u.i : part[0].u.b;
                if (start < 0) start += (int64_t)seq->n;
                return kvi_jinja_int((start < 0 ? 0 : start) + (int64_t)i);
            }
        return kvi_jinja_fail(ctx, "ValueError: the value is not in the list");
    }
    if (copy)
        return kvi_jinja_slice(in, self, (kvi_jinja_value[3]){kvi_jinja_none(), kvi_jinja_none(), kvi_jinja_none()});
    if (kvi_jinja_absent(v)) return kvi_jinja_fail(ctx, "TypeError: %s expected at least 1 argument, got 0", name);
    int64_t count = 0;
    for (size_t i = 0; i < seq->n && !ctx->failed; i++)
        if (kvi_jinja_equal(ctx, seq->items[i], v)) {
            if (index) return kvi_jinja_int((int64_t)i);
            count++;
        }
    return index ? kvi_jinja_fail(ctx, "ValueError: the value is not in the list") : kvi_jinja_int(count);
}

static kvi_jinja_value number_method(kvi_jinja_ctx *ctx, kvi_jinja_value self, const char *name,
                                     const kvi_jinja_args *args)
{
    if (args->n || args->n_keys) return kvi_jinja_fail(ctx, "TypeError: %s takes no arguments", name);
    if (strcmp(name, "conjugate") == 0) return self;
    if (strcmp(name, "is_integer") == 0) return kvi_jinja_bool(isfinite(self.u.f) && floor(self.u.f) == self.u.f);
    int64_t bits = 0, ones = 0;
    if (kvi_jinja_int_compare(self, kvi_jinja_int(0)) < 0) self = kvi_jinja_negate(ctx, self, true);
    while (!ctx->failed && kvi_jinja_truth(self)) {
        ones += kvi_jinja_truth(kvi_jinja_binary(ctx, '%', self, kvi_jinja_int(2)));
        self = kvi_jinja_binary(ctx, 'F', self, kvi_jinja_int(2));
        bits++;
    }
    return kvi_jinja_int(strcmp(name, "bit_length") == 0 ? bits : ones);
}

static kvi_jinja_value loop_method(kvi_jinja_interp *in, kvi_jinja_value self, const char *name,
                                   const kvi_jinja_args *args)
{
    kvi_jinja_loop *loop = self.u.loop;
    if (args->n_keys) return kvi_jinja_fail(in->ctx, "TypeError: loop.%s takes no keyword arguments", name);
    if (strcmp(name, "cycle") == 0) {
        if (!args->n) return kvi_jinja_fail(in->ctx, "TypeError: no items for cycling given");
        return args->values[loop->index0 % args->n];
    }
    kvi_jinja_seq *now = kvi_jinja_seq_new(in->ctx, KVI_JINJA_TUPLE);
    for (size_t i = 0; now && i < args->n; i++) kvi_jinja_seq_push(in->ctx, now, args->values[i]);
    bool changed = !loop->has_changed || !kvi_jinja_equal(in->ctx, loop->changed, kvi_jinja_seq_value(now));
    loop->has_changed = true;
    loop->changed = kvi_jinja_seq_value(now);
    return kvi_jinja_bool(changed);
}

kvi_jinja_value kvi_jinja_call_method(kvi_jinja_interp *in, const kvi_jinja_method *method, const kvi_jinja_args *args)
{
    switch (method->self.type) {
    case KVI_JINJA_STR: return kvi_jinja_str_method(in, method->self.u.s, method->name, args);
    case KVI_JINJA_DICT: return dict_method(in, method->self, method->name, args);
    case KVI_JINJA_SEQ: return list_method(in, method->self, method->name, args);
    case KVI_JINJA_CYCLER: return kvi_jinja_cycler_method(in->ctx, method->self, method->name, args);
    case KVI_JINJA_BYTES: return kvi_jinja_decode(in->ctx, method->self.u.s, args);
    case KVI_JINJA_BOOL:
    case KVI_JINJA_INT:
    case KVI_JINJA_BIG:
    case KVI_JINJA_FLOAT: return number_method(in->ctx, method->self, method->name, args);
    default: return loop_method(in, method->self, method->name, args);
    }
}
