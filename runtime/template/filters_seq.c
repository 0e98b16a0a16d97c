/* filters_seq.c - filters on sequences and dictionaries. map, select and their kin give iterators: no length, no
 * index, once only, exactly as Python's generators (except that their work is done at once). */
#include "interpret.h"

#include <string.h>

#define FILTER(name) static kvi_jinja_value name(kvi_jinja_interp *in, kvi_jinja_value x, const kvi_jinja_args *args)
#define BIND(what, n, ...)                                                                                             \
    static const char *const names[] = {__VA_ARGS__};                                                                  \
    kvi_jinja_value v[n];                                                                                              \
    if (!kvi_jinja_bind(in->ctx, what, args, names, n, v)) return v[0]

static bool flag(kvi_jinja_value v, bool absent) { return kvi_jinja_absent(v) ? absent : kvi_jinja_truth(v); }
static bool given(kvi_jinja_value v) { return !kvi_jinja_absent(v) && v.type != KVI_JINJA_NONE; }

static kvi_jinja_value end_item(kvi_jinja_interp *in, kvi_jinja_value x, const kvi_jinja_args *args, bool last)
{
    if (args->n || args->n_keys)
        return kvi_jinja_fail(in->ctx, "TypeError: %s takes no arguments", last ? "last" : "first");
    if (last && x.type == KVI_JINJA_SEQ && x.u.seq->kind == KVI_JINJA_ITERATOR)
        return kvi_jinja_fail(in->ctx, "TypeError: 'generator' object is not reversible");
    kvi_jinja_seq *seq = kvi_jinja_iterate(in->ctx, x);
    if (!seq || !seq->n)
        return kvi_jinja_undefined(last ? "No last item, sequence was empty." : "No first item, sequence was empty.");
    return seq->items[last ? seq->n - 1 : 0];
}
FILTER(filter_first) { return end_item(in, x, args, false); }
FILTER(filter_last) { return end_item(in, x, args, true); }

static kvi_jinja_value copy_list(kvi_jinja_ctx *ctx, const kvi_jinja_seq *seq, bool reversed, kvi_jinja_seq_kind kind)
{
    kvi_jinja_seq *out = seq ? kvi_jinja_seq_new(ctx, kind) : NULL;
    for (size_t i = 0; out && i < seq->n && !ctx->failed; i++)
        kvi_jinja_seq_push(ctx, out, seq->items[reversed ? seq->n - 1 - i : i]);
    return out ? kvi_jinja_seq_value(out) : kvi_jinja_undefined(NULL);
}

FILTER(filter_list)
{
    if (args->n || args->n_keys) return kvi_jinja_fail(in->ctx, "TypeError: list takes no arguments");
    return copy_list(in->ctx, kvi_jinja_iterate(in->ctx, x), false, KVI_JINJA_LIST);
}

FILTER(filter_reverse)
{
    if (args->n || args->n_keys) return kvi_jinja_fail(in->ctx, "TypeError: reverse takes no arguments");
    kvi_jinja_value out = copy_list(in->ctx, kvi_jinja_iterate(in->ctx, x), true, KVI_JINJA_ITERATOR);
    if (in->ctx->failed || x.type != KVI_JINJA_STR) return out;
    kvi_jinja_value empty = kvi_jinja_str_static(in->ctx, "");
    return in->ctx->failed ? empty : kvi_jinja_join(in->ctx, out.u.seq, empty.u.s, true);
}

FILTER(filter_join)
{
    BIND("join", 2, "d", "attribute");
    kvi_jinja_seq *seq = kvi_jinja_iterate(in->ctx, x);
    kvi_jinja_value separator =
        kvi_jinja_absent(v[0]) ? kvi_jinja_str_static(in->ctx, "") : kvi_jinja_str_of(in->ctx, v[0]);
    kvi_jinja_seq *mapped = seq;
    if (given(v[1])) {
        mapped = kvi_jinja_seq_new(in->ctx, KVI_JINJA_LIST);
        for (size_t i = 0; seq && mapped && i < seq->n && !in->ctx->failed; i++)
            kvi_jinja_seq_push(in->ctx, mapped, kvi_jinja_path(in, seq->items[i], v[1]));
    }
    return in->ctx->failed ? separator : kvi_jinja_join(in->ctx, mapped, separator.u.s, false);
}

FILTER(filter_items)
{
    if (args->n || args->n_keys) return kvi_jinja_fail(in->ctx, "TypeError: items takes no arguments");
    if (x.type == KVI_JINJA_UNDEFINED)
        return copy_list(in->ctx, kvi_jinja_iterate(in->ctx, x), false, KVI_JINJA_ITERATOR);
    if (x.type != KVI_JINJA_DICT) return kvi_jinja_fail(in->ctx, "TypeError: Can only get item pairs from a mapping.");
    kvi_jinja_value out = kvi_jinja_dict_view(in->ctx, x.u.dict, KVI_JINJA_ITEMS);
    if (!in->ctx->failed) out.u.seq->kind = KVI_JINJA_ITERATOR;
    return out;
}

FILTER(filter_attr)
{
    BIND("attr", 1, "name");
    if (v[0].type != KVI_JINJA_STR) return kvi_jinja_fail(in->ctx, "TypeError: attr needs a name");
    /* The attribute alone, never the element: only namespaces, loops and methods have any. */
    if (x.type == KVI_JINJA_DICT) return kvi_jinja_undefined("'dict object' has no such attribute");
    return kvi_jinja_item(in, x, v[0]);
}

/* --------------------------------------------------------------------------------------------- map, select,
 * reject --- */
FILTER(filter_map)
{
    kvi_jinja_seq *seq = kvi_jinja_iterate(in->ctx, x), *out = kvi_jinja_seq_new(in->ctx, KVI_JINJA_ITERATOR);
    kvi_jinja_value attribute = kvi_jinja_none(), fallback = kvi_jinja_none();
    bool has_default = false;
    if (!seq || !out) return x;
    for (size_t k = 0; k < args->n_keys && !args->n; k++) {
        if (strcmp(args->keys[k], "attribute") == 0) attribute = args->named[k];
        else if (strcmp(args->keys[k], "default") == 0) fallback = args->named[k], has_default = true;
        else return kvi_jinja_fail(in->ctx, "FilterArgumentError: Unexpected keyword argument '%s'", args->keys[k]);
    }
    if (!args->n && attribute.type == KVI_JINJA_NONE)
        return kvi_jinja_fail(in->ctx, "FilterArgumentError: map requires a filter argument");
    if (args->n && args->values[0].type != KVI_JINJA_STR)
        return kvi_jinja_fail(in->ctx, "TypeError: map needs the name of a filter");
    char *name = kvi_jinja_alloc(in->ctx, args->n ? args->values[0].u.s->len + 1 : 1);
    if (!name) return x;
    if (args->n) memcpy(name, args->values[0].u.s->data, args->values[0].u.s->len);
    kvi_jinja_args rest = {args->values + 1, args->n ? args->n - 1 : 0, args->keys, args->named, args->n_keys};
    for (size_t i = 0; i < seq->n && !in->ctx->failed; i++) {
        kvi_jinja_value item = args->n ? kvi_jinja_apply_filter(in, name, seq->items[i], &rest)
                                       : kvi_jinja_path(in, seq->items[i], attribute);
        if (!args->n && has_default && item.type == KVI_JINJA_UNDEFINED) item = fallback;
        kvi_jinja_seq_push(in->ctx, out, item);
    }
    return kvi_jinja_seq_value(out);
}

static kvi_jinja_value choose(kvi_jinja_interp *in, kvi_jinja_value x, const kvi_jinja_args *args, bool by_attribute,
                              bool keep)
{
    kvi_jinja_seq *seq = kvi_jinja_iterate(in->ctx, x), *out = kvi_jinja_seq_new(in->ctx, KVI_JINJA_ITERATOR);
    size_t skip = by_attribute;
    if (!seq || !out) return x;
    if (args->n < skip) return kvi_jinja_fail(in->ctx, "FilterArgumentError: Missing parameter for attribute name");
    char test[64] = "";
    bool has_test = args->n > skip;
    if (has_test) {
        kvi_jinja_value name = args->values[skip];
        if (name.type != KVI_JINJA_STR || name.u.s->len >= sizeof test)
            return kvi_jinja_fail(in->ctx, "TypeError: the name of a test is needed");
        memcpy(test, name.u.s->data, name.u.s->len);
        test[name.u.s->len] = 0;
    }
    kvi_jinja_args rest = {has_test ? args->values + skip + 1 : NULL, has_test ? args->n - skip - 1 : 0, args->keys,
                           args->named, args->n_keys};
    for (size_t i = 0; i < seq->n && kvi_jinja_charge(in->ctx, 1); i++) {
        kvi_jinja_value item = by_attribute ? kvi_jinja_path(in, seq->items[i], args->values[0]) : seq->items[i];
        bool passes =
            !in->ctx->failed && (has_test ? kvi_jinja_apply_test(in, test, item, &rest) : kvi_jinja_truth(item));
        if (passes == keep) kvi_jinja_seq_push(in->ctx, out, seq->items[i]);
    }
    return kvi_jinja_seq_value(out);
}
FILTER(filter_select) { return choose(in, x, args, false, true); }
FILTER(filter_reject) { return choose(in, x, args, false, false); }
FILTER(filter_selectattr) { return choose(in, x, args, true, true); }
FILTER(filter_rejectattr) { return choose(in, x, args, true, false); }

/* ---------------------------------------------------------------------------------------------------------- order
 * --- */
/* What values are compared by: an attribute, lower case unless asked otherwise. */
static kvi_jinja_value sort_key(kvi_jinja_interp *in, kvi_jinja_value item, kvi_jinja_value attribute,
                                bool case_sensitive)
{
    if (given(attribute)) item = kvi_jinja_path(in, item, attribute);
    if (in->ctx->failed || case_sensitive || item.type != KVI_JINJA_STR) return item;
    return kvi_jinja_change_case(in->ctx, item.u.s, KVI_JINJA_LOWER);
}

/* Stable merge sort of order[n] by keys; Python's `reverse` keeps equal elements in their order, too. */
static void merge_sort(kvi_jinja_ctx *ctx, const kvi_jinja_value *keys, size_t *order, size_t *scratch, size_t n,
                       bool reverse)
{
    for (size_t width = 1; width < n && !ctx->failed; width *= 2) {
        for (size_t lo = 0; lo < n; lo += 2 * width) {
            size_t mid = lo + width < n ? lo + width : n, hi = lo + 2 * width < n ? lo + 2 * width : n, a = lo, b = mid;
            for (size_t i = lo; i < hi; i++) {
                bool right = a == mid;
                if (!right && b < hi) {
                    int c = kvi_jinja_order(ctx, keys[order[b]], keys[order[a]], "<");
                    right = reverse ? c == 1 : c < 0;
                }
                scratch[i] = right ? order[b++] : order[a++];
            }
        }
        memcpy(order, scratch, n * sizeof *order);
    }
}

static size_t *sorted(kvi_jinja_interp *in, const kvi_jinja_value *keys, size_t n, bool reverse)
{
    size_t *order = kvi_jinja_alloc(in->ctx, (n + 1) * sizeof *order),
           *scratch = kvi_jinja_alloc(in->ctx, (n + 1) * sizeof *scratch);
    if (!order || !scratch) return NULL;
    for (size_t i = 0; i < n; i++) order[i] = i;
    merge_sort(in->ctx, keys, order, scratch, n, reverse);
    return in->ctx->failed ? NULL : order;
}

static kvi_jinja_value *keys_of(kvi_jinja_interp *in, const kvi_jinja_seq *seq, kvi_jinja_value attribute,
                                bool case_sensitive)
{
    kvi_jinja_value *keys = kvi_jinja_alloc(in->ctx, (seq->n + 1) * sizeof *keys);
    for (size_t i = 0; keys && i < seq->n && !in->ctx->failed; i++)
        keys[i] = sort_key(in, seq->items[i], attribute, case_sensitive);
    return in->ctx->failed ? NULL : keys;
}

FILTER(filter_sort)
{
    BIND("sort", 3, "reverse", "case_sensitive", "attribute");
    kvi_jinja_seq *seq = kvi_jinja_iterate(in->ctx, x), *out = kvi_jinja_seq_new(in->ctx, KVI_JINJA_LIST);
    if (v[2].type == KVI_JINJA_STR && memchr(v[2].u.s->data, ',', v[2].u.s->len))
        return kvi_jinja_fail(in->ctx, "sort by several attributes is not supported");
    kvi_jinja_value *keys = seq && out ? keys_of(in, seq, v[2], flag(v[1], false)) : NULL;
    size_t *order = keys ? sorted(in, keys, seq->n, flag(v[0], false)) : NULL;
    for (size_t i = 0; order && i < seq->n; i++) kvi_jinja_seq_push(in->ctx, out, seq->items[order[i]]);
    return kvi_jinja_seq_value(out);
}

FILTER(filter_dictsort)
{
    BIND("dictsort", 3, "case_sensitive", "by", "reverse");
    if (x.type != KVI_JINJA_DICT)
        return kvi_jinja_fail(in->ctx, "TypeError: dictsort needs a mapping, found %s", kvi_jinja_type_name(x));
    bool by_value = v[1].type == KVI_JINJA_STR && kvi_jinja_str_is(v[1].u.s, "value");
    if (!by_value && !kvi_jinja_absent(v[1]) && !(v[1].type == KVI_JINJA_STR && kvi_jinja_str_is(v[1].u.s, "key")))
        return kvi_jinja_fail(in->ctx, "FilterArgumentError: You can only sort by either \"key\" or \"value\"");
    kvi_jinja_value pairs = kvi_jinja_dict_view(in->ctx, x.u.dict, KVI_JINJA_LIST);
    if (in->ctx->failed) return pairs;
    kvi_jinja_value *keys = keys_of(in, pairs.u.seq, kvi_jinja_int(by_value), flag(v[0], false));
    size_t *order = keys ? sorted(in, keys, pairs.u.seq->n, flag(v[2], false)) : NULL;
    kvi_jinja_seq *out = kvi_jinja_seq_new(in->ctx, KVI_JINJA_LIST);
    for (size_t i = 0; out && order && i < pairs.u.seq->n; i++)
        kvi_jinja_seq_push(in->ctx, out, pairs.u.seq->items[order[i]]);
    return kvi_jinja_seq_value(out);
}

FILTER(filter_unique)
{
    BIND("unique", 2, "case_sensitive", "attribute");
    kvi_jinja_seq *seq = kvi_jinja_iterate(in->ctx, x), *out = kvi_jinja_seq_new(in->ctx, KVI_JINJA_ITERATOR);
    kvi_jinja_value *keys = seq ? keys_of(in, seq, v[1], flag(v[0], false)) : NULL;
    kvi_jinja_dict *seen = kvi_jinja_dict_new(in->ctx);
    for (size_t i = 0; keys && seen && out && i < seq->n && !in->ctx->failed; i++) {
        if (kvi_jinja_dict_find(in->ctx, seen, keys[i])) continue;
        kvi_jinja_dict_set(in->ctx, seen, keys[i], kvi_jinja_none());
        kvi_jinja_seq_push(in->ctx, out, seq->items[i]);
    }
    return kvi_jinja_seq_value(out);
}

static kvi_jinja_value extreme(kvi_jinja_interp *in, kvi_jinja_value x, const kvi_jinja_args *args, bool max)
{
    BIND("min and max", 2, "case_sensitive", "attribute");
    kvi_jinja_seq *seq = kvi_jinja_iterate(in->ctx, x);
    kvi_jinja_value *keys = seq ? keys_of(in, seq, v[1], flag(v[0], false)) : NULL;
    size_t best = 0;
    if (!keys) return x;
    if (!seq->n) return kvi_jinja_undefined("No aggregated item, sequence was empty.");
    for (size_t i = 1; i < seq->n && !in->ctx->failed; i++) {
        int c = kvi_jinja_order(in->ctx, keys[i], keys[best], max ? ">" : "<");
        if (max ? c == 1 : c < 0) best = i;
    }
    return seq->items[best];
}
FILTER(filter_min) { return extreme(in, x, args, false); }
FILTER(filter_max) { return extreme(in, x, args, true); }

FILTER(filter_sum)
{
    BIND("sum", 2, "attribute", "start");
    kvi_jinja_seq *seq = kvi_jinja_iterate(in->ctx, x);
    kvi_jinja_value total = kvi_jinja_absent(v[1]) ? kvi_jinja_int(0) : v[1];
    if (total.type == KVI_JINJA_STR)
        return kvi_jinja_fail(in->ctx, "TypeError: sum() can't sum strings [use ''.join(seq) instead]");
    for (size_t i = 0; seq && i < seq->n && !in->ctx->failed; i++) {
        kvi_jinja_value item = given(v[0]) ? kvi_jinja_path(in, seq->items[i], v[0]) : seq->items[i];
        if (!in->ctx->failed) total = kvi_jinja_binary(in->ctx, '+', total, item);
    }
    return total;
}

FILTER(filter_batch)
{
    BIND("batch", 2, "linecount", "fill_with");
    int64_t size = 0;
    kvi_jinja_seq *seq = kvi_jinja_iterate(in->ctx, x), *out = kvi_jinja_seq_new(in->ctx, KVI_JINJA_ITERATOR),
                  *row = NULL;
    if (!seq || !out || !kvi_jinja_want_int(in->ctx, v[0], "batch", &size)) return x;
    if (size < 1) return kvi_jinja_fail(in->ctx, "batch: a size of %lld is not supported", (long long)size);
    for (size_t i = 0; i < seq->n && !in->ctx->failed; i++) {
        if (i % (uint64_t)size == 0) {
            row = kvi_jinja_seq_new(in->ctx, KVI_JINJA_LIST);
            if (!row) return x;
            kvi_jinja_seq_push(in->ctx, out, kvi_jinja_seq_value(row));
        }
        kvi_jinja_seq_push(in->ctx, row, seq->items[i]);
    }
    while (row && given(v[1]) && row->n < (uint64_t)size && kvi_jinja_charge(in->ctx, 1))
        kvi_jinja_seq_push(in->ctx, row, v[1]);
    return kvi_jinja_seq_value(out);
}

kvi_jinja_filter_fn kvi_jinja_find_seq_filter(const char *name)
{
    static const struct {
        const char *name;
        kvi_jinja_filter_fn fn;
    } table[] = {{"first", filter_first},
                 {"last", filter_last},
                 {"list", filter_list},
                 {"reverse", filter_reverse},
                 {"join", filter_join},
                 {"items", filter_items},
                 {"attr", filter_attr},
                 {"map", filter_map},
                 {"select", filter_select},
                 {"reject", filter_reject},
                 {"selectattr", filter_selectattr},
                 {"rejectattr", filter_rejectattr},
                 {"sort", filter_sort},
                 {"dictsort", filter_dictsort},
                 {"unique", filter_unique},
                 {"min", filter_min},
                 {"max", filter_max},
                 {"sum", filter_sum},
                 {"batch", filter_batch}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i].name, name) == 0) return table[i].fn;
    return NULL;
}
