/* filters_seq.c - filters on sequences and dictionaries. map, select and their kin give iterators: no length, no
 * index, once only, exactly as Python's generators (except that their work is done at once). */
#include "args.h"

#include <string.h>

static kvi_jinja_value end_item(kvi_jinja_interp *in, kvi_jinja_value x, const kvi_jinja_args *args, bool last)
{
    if (args->n || args->n_keys)
        return kvi_jinja_fail(in->ctx, "TypeError: %s takes no arguments", last ? "last" : "first");
    if (last && x.type == KVI_JINJA_SEQ && x.u.seq->kind == KVI_JINJA_ITERATOR)
        return kvi_jinja_fail(in->ctx, "TypeError: 'generator' object is not reversible");
    bool generator = x.type == KVI_JINJA_SEQ && x.u.seq->kind == KVI_JINJA_ITERATOR;
    kvi_jinja_seq *seq = generator ? x.u.seq : kvi_jinja_iterate(in->ctx, x);
    if (generator && !seq->consumed && seq->n) return seq->n--, *seq->items++; /* the rest stays for later */
    if (!seq || !seq->n || generator)
        return kvi_jinja_undefined(last ? "No last item, sequence was empty." : "No first item, sequence was empty.");
    return seq->items[last ? seq->n - 1 : 0];
}
FILTER(filter_first) { return end_item(in, x, args, false); }
FILTER(filter_last) { return end_item(in, x, args, true); }

static kvi_jinja_seq *iterator_new(kvi_jinja_ctx *ctx, const char *label)
{
    kvi_jinja_seq *out = kvi_jinja_seq_new(ctx, KVI_JINJA_ITERATOR);
    if (out) out->label = label;
    return out;
}

static kvi_jinja_value copy_into(kvi_jinja_ctx *ctx, kvi_jinja_seq *out, const kvi_jinja_seq *seq, bool reversed)
{
    for (size_t i = 0; out && seq && i < seq->n && !ctx->failed; i++)
        kvi_jinja_seq_push(ctx, out, seq->items[reversed ? seq->n - 1 - i : i]);
    return ctx->failed ? kvi_jinja_undefined(NULL) : kvi_jinja_seq_value(out);
}

FILTER(filter_list)
{
    NO_ARGUMENTS("list");
    return copy_into(in->ctx, kvi_jinja_seq_new(in->ctx, KVI_JINJA_LIST), kvi_jinja_iterate(in->ctx, x), false);
}

FILTER(filter_reverse)
{
    static const char *const labels[] = {"list_reverseiterator object",    "reversed object",
                                         "range_iterator object",          "",
                                         "dict_reversekeyiterator object", "dict_reversevalueiterator object",
                                         "dict_reverseitemiterator object"};
    NO_ARGUMENTS("reverse");
    bool generator = x.type == KVI_JINJA_SEQ && x.u.seq->kind == KVI_JINJA_ITERATOR;
    const char *label = x.type == KVI_JINJA_DICT  ? labels[KVI_JINJA_KEYS]
                        : x.type == KVI_JINJA_SEQ ? labels[x.u.seq->kind]
                                                  : labels[KVI_JINJA_TUPLE];
    kvi_jinja_seq *seq = kvi_jinja_iterate(in->ctx, x);
    kvi_jinja_seq *to = generator ? kvi_jinja_seq_new(in->ctx, KVI_JINJA_LIST) : iterator_new(in->ctx, label);
    kvi_jinja_value out = copy_into(in->ctx, to, seq, true);
    if (in->ctx->failed || x.type != KVI_JINJA_STR) return out;
    kvi_jinja_value empty = kvi_jinja_str_static(in->ctx, "");
    out = in->ctx->failed ? empty : kvi_jinja_join(in->ctx, out.u.seq, empty.u.s, true);
    return kvi_jinja_as_markup(in->ctx, out, x.u.s->markup);
}

FILTER(filter_join)
{
    BIND("join", 2, "d", "attribute");
    kvi_jinja_seq *seq = kvi_jinja_iterate(in->ctx, x);
    kvi_jinja_value separator =
        kvi_jinja_absent(v[0]) ? kvi_jinja_str_static(in->ctx, "") : kvi_jinja_str_of(in->ctx, v[0]);
    kvi_jinja_seq *mapped = seq;
    if (kvi_jinja_given(v[1])) {
        mapped = kvi_jinja_seq_new(in->ctx, KVI_JINJA_LIST);
        for (size_t i = 0; seq && mapped && i < seq->n && !in->ctx->failed; i++)
            kvi_jinja_seq_push(in->ctx, mapped, kvi_jinja_path(in, seq->items[i], v[1], kvi_jinja_none()));
    }
    return in->ctx->failed ? separator : kvi_jinja_join(in->ctx, mapped, separator.u.s, false);
}

FILTER(filter_items)
{
    NO_ARGUMENTS("items");
    if (x.type == KVI_JINJA_UNDEFINED)
        return copy_into(in->ctx, iterator_new(in->ctx, "generator object do_items"), NULL, false);
    if (x.type != KVI_JINJA_DICT) return kvi_jinja_fail(in->ctx, "TypeError: Can only get item pairs from a mapping.");
    kvi_jinja_value out = kvi_jinja_dict_view(in->ctx, x.u.dict, KVI_JINJA_ITEMS);
    if (!in->ctx->failed) out.u.seq->kind = KVI_JINJA_ITERATOR, out.u.seq->label = "generator object do_items";
    return out;
}

FILTER(filter_attr)
{
    BIND("attr", 1, "name");
    if (v[0].type != KVI_JINJA_STR) return kvi_jinja_fail(in->ctx, "TypeError: attr needs a name");
    /* The attribute alone, never the element: only namespaces, loops, macros and methods have any. */
    if (x.type == KVI_JINJA_UNDEFINED) return kvi_jinja_use_undefined(in->ctx, x);
    kvi_jinja_value out;
    const char *name = kvi_jinja_intern(in->ctx, in->names, v[0].u.s->data, v[0].u.s->len);
    if (in->ctx->failed || kvi_jinja_getattr(in, x, name, &out)) return in->ctx->failed ? x : out;
    return kvi_jinja_undefined("there is no such attribute");
}

/* --------------------------------------------------------------------------------------------- map, select,
 * reject --- */
/* map(attribute=..., default=...) */
static kvi_jinja_value map_attribute(kvi_jinja_interp *in, const kvi_jinja_seq *seq, const kvi_jinja_args *args,
                                     kvi_jinja_seq *out)
{
    kvi_jinja_value attribute = kvi_jinja_absent_value(), fallback = kvi_jinja_none();
    const char *unknown = NULL;
    for (size_t k = 0; k < args->n_keys; k++) {
        if (strcmp(args->keys[k], "attribute") == 0) attribute = args->named[k];
        else if (strcmp(args->keys[k], "default") == 0) fallback = args->named[k];
        else unknown = args->keys[k];
    }
    if (kvi_jinja_absent(attribute))
        return kvi_jinja_fail(in->ctx, "FilterArgumentError: map requires a filter argument");
    if (unknown) return kvi_jinja_fail(in->ctx, "FilterArgumentError: Unexpected keyword argument '%s'", unknown);
    for (size_t i = 0; i < seq->n && !in->ctx->failed; i++)
        kvi_jinja_seq_push(in->ctx, out, kvi_jinja_path(in, seq->items[i], attribute, fallback));
    return kvi_jinja_seq_value(out);
}

FILTER(filter_map)
{
    kvi_jinja_seq *out = iterator_new(in->ctx, "generator object sync_do_map");
    if (!out) return x;
    if (!kvi_jinja_truth(x)) return kvi_jinja_seq_value(out);
    kvi_jinja_seq *seq = kvi_jinja_iterate(in->ctx, x);
    const kvi_jinja_str *filter;
    if (!seq) return x;
    if (!args->n) return map_attribute(in, seq, args, out);
    if (!kvi_jinja_want_str(in->ctx, args->values[0], "map", &filter)) return x;
    const char *name = kvi_jinja_intern(in->ctx, in->names, filter->data, filter->len);
    kvi_jinja_args rest = {args->values + 1, args->n - 1, args->keys, args->named, args->n_keys};
    for (size_t i = 0; i < seq->n && !in->ctx->failed; i++)
        kvi_jinja_seq_push(in->ctx, out, kvi_jinja_apply_filter(in, name, seq->items[i], &rest));
    return kvi_jinja_seq_value(out);
}

static kvi_jinja_value choose(kvi_jinja_interp *in, kvi_jinja_value x, const kvi_jinja_args *args, bool by_attribute,
                              bool keep)
{
    kvi_jinja_seq *out = iterator_new(in->ctx, "generator object select_or_reject");
    size_t skip = by_attribute;
    if (!out || !kvi_jinja_truth(x)) return kvi_jinja_seq_value(out);
    kvi_jinja_seq *seq = kvi_jinja_iterate(in->ctx, x);
    if (!seq) return x;
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
        kvi_jinja_value item =
            by_attribute ? kvi_jinja_path(in, seq->items[i], args->values[0], kvi_jinja_none()) : seq->items[i];
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
typedef struct sort_by {
    kvi_jinja_value attribute, fallback;
    bool case_sensitive;
} sort_by;

static kvi_jinja_value sort_key(kvi_jinja_interp *in, kvi_jinja_value item, const sort_by *by)
{
    if (kvi_jinja_given(by->attribute)) item = kvi_jinja_path(in, item, by->attribute, by->fallback);
    if (in->ctx->failed || by->case_sensitive || item.type != KVI_JINJA_STR) return item;
    return kvi_jinja_change_case(in->ctx, item.u.s, KVI_JINJA_LOWER);
}

/* The key of the filter sort is a list, one element for each attribute of "a,b"; equal elements are not ordered, so
 * that lists of none or of undefined values can be sorted. */
static kvi_jinja_value list_key(kvi_jinja_interp *in, kvi_jinja_value item, const sort_by *by)
{
    kvi_jinja_seq *key = kvi_jinja_seq_new(in->ctx, KVI_JINJA_LIST);
    if (by->attribute.type != KVI_JINJA_STR) {
        if (key) kvi_jinja_seq_push(in->ctx, key, sort_key(in, item, by));
        return kvi_jinja_seq_value(key);
    }
    const kvi_jinja_str *s = by->attribute.u.s;
    for (size_t from = 0, at = 0; key && at <= s->len && !in->ctx->failed; at++) {
        if (at < s->len && s->data[at] != ',') continue;
        sort_by one = *by;
        one.attribute = kvi_jinja_slice_bytes(in->ctx, s, from, at);
        if (!in->ctx->failed) kvi_jinja_seq_push(in->ctx, key, sort_key(in, item, &one));
        from = at + 1;
    }
    return kvi_jinja_seq_value(key);
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

typedef kvi_jinja_value (*key_fn)(kvi_jinja_interp *in, kvi_jinja_value item, const sort_by *by);

static kvi_jinja_value *keys_of(kvi_jinja_interp *in, const kvi_jinja_seq *seq, key_fn key, const sort_by *by)
{
    kvi_jinja_value *keys = kvi_jinja_alloc(in->ctx, (seq->n + 1) * sizeof *keys);
    for (size_t i = 0; keys && i < seq->n && !in->ctx->failed; i++) keys[i] = key(in, seq->items[i], by);
    return in->ctx->failed ? NULL : keys;
}

static sort_by by_attribute(kvi_jinja_value attribute, kvi_jinja_value case_sensitive)
{
    return (sort_by){attribute, kvi_jinja_none(), kvi_jinja_flag(case_sensitive, false)};
}

FILTER(filter_sort)
{
    BIND("sort", 3, "reverse", "case_sensitive", "attribute");
    kvi_jinja_seq *seq = kvi_jinja_iterate(in->ctx, x), *out = kvi_jinja_seq_new(in->ctx, KVI_JINJA_LIST);
    sort_by by = by_attribute(v[2], v[1]);
    kvi_jinja_value *keys = seq && out ? keys_of(in, seq, list_key, &by) : NULL;
    size_t *order = keys ? sorted(in, keys, seq->n, kvi_jinja_flag(v[0], false)) : NULL;
    for (size_t i = 0; order && i < seq->n; i++) kvi_jinja_seq_push(in->ctx, out, seq->items[order[i]]);
    return kvi_jinja_seq_value(out);
}

/* (key, elements), as a tuple whose parts have names. */
static kvi_jinja_seq *group_new(kvi_jinja_ctx *ctx, kvi_jinja_value key, kvi_jinja_seq **elements)
{
    kvi_jinja_seq *group = kvi_jinja_seq_new(ctx, KVI_JINJA_TUPLE);
    *elements = kvi_jinja_seq_new(ctx, KVI_JINJA_LIST);
    if (!group || !*elements) return NULL;
    group->named = true;
    kvi_jinja_seq_push(ctx, group, key);
    kvi_jinja_seq_push(ctx, group, kvi_jinja_seq_value(*elements));
    return group;
}

FILTER(filter_groupby)
{
    BIND("groupby", 3, "attribute", "default", "case_sensitive");
    if (kvi_jinja_absent(v[0])) return kvi_jinja_fail(in->ctx, "TypeError: groupby needs an attribute");
    sort_by by = {v[0], kvi_jinja_absent(v[1]) ? kvi_jinja_none() : v[1], kvi_jinja_flag(v[2], false)}, real = by;
    real.case_sensitive = true; /* the group is named by its first element as it is */
    kvi_jinja_seq *seq = kvi_jinja_iterate(in->ctx, x), *out = kvi_jinja_seq_new(in->ctx, KVI_JINJA_LIST),
                  *elements = NULL;
    kvi_jinja_value *keys = seq && out ? keys_of(in, seq, sort_key, &by) : NULL;
    size_t *order = keys ? sorted(in, keys, seq->n, false) : NULL;
    for (size_t i = 0; order && i < seq->n && !in->ctx->failed; i++) {
        if (!i || !kvi_jinja_equal(in->ctx, keys[order[i - 1]], keys[order[i]])) {
            kvi_jinja_seq *group = group_new(in->ctx, sort_key(in, seq->items[order[i]], &real), &elements);
            if (!group) return x;
            kvi_jinja_seq_push(in->ctx, out, kvi_jinja_seq_value(group));
        }
        kvi_jinja_seq_push(in->ctx, elements, seq->items[order[i]]);
    }
    return kvi_jinja_seq_value(out);
}

FILTER(filter_dictsort)
{
    BIND("dictsort", 3, "case_sensitive", "by", "reverse");
    if (x.type == KVI_JINJA_UNDEFINED) return kvi_jinja_use_undefined(in->ctx, x);
    if (x.type != KVI_JINJA_DICT)
        return kvi_jinja_fail(in->ctx, "TypeError: dictsort needs a mapping, found %s", kvi_jinja_type_name(x));
    bool by_value = v[1].type == KVI_JINJA_STR && kvi_jinja_str_is(v[1].u.s, "value");
    if (!by_value && !kvi_jinja_absent(v[1]) && !(v[1].type == KVI_JINJA_STR && kvi_jinja_str_is(v[1].u.s, "key")))
        return kvi_jinja_fail(in->ctx, "FilterArgumentError: You can only sort by either \"key\" or \"value\"");
    kvi_jinja_value pairs = kvi_jinja_dict_view(in->ctx, x.u.dict, KVI_JINJA_LIST);
    if (in->ctx->failed) return pairs;
    sort_by by = by_attribute(kvi_jinja_int(by_value), v[0]);
    kvi_jinja_value *keys = keys_of(in, pairs.u.seq, sort_key, &by);
    size_t *order = keys ? sorted(in, keys, pairs.u.seq->n, kvi_jinja_flag(v[2], false)) : NULL;
    kvi_jinja_seq *out = kvi_jinja_seq_new(in->ctx, KVI_JINJA_LIST);
    for (size_t i = 0; out && order && i < pairs.u.seq->n; i++)
        kvi_jinja_seq_push(in->ctx, out, pairs.u.seq->items[order[i]]);
    return kvi_jinja_seq_value(out);
}

FILTER(filter_unique)
{
    BIND("unique", 2, "case_sensitive", "attribute");
    kvi_jinja_seq *seq = kvi_jinja_iterate(in->ctx, x), *out = iterator_new(in->ctx, "generator object sync_do_unique");
    sort_by by = by_attribute(v[1], v[0]);
    kvi_jinja_value *keys = seq ? keys_of(in, seq, sort_key, &by) : NULL;
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
    sort_by by = by_attribute(v[1], v[0]);
    kvi_jinja_value *keys = seq ? keys_of(in, seq, sort_key, &by) : NULL;
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
        kvi_jinja_value item =
            kvi_jinja_given(v[0]) ? kvi_jinja_path(in, seq->items[i], v[0], kvi_jinja_none()) : seq->items[i];
        if (!in->ctx->failed) total = kvi_jinja_binary(in->ctx, '+', total, item);
    }
    return total;
}

/* A size that is never reached (below 1) gives one batch; 0 gives an empty one before it, as Jinja2 does. */
FILTER(filter_batch)
{
    BIND("batch", 2, "linecount", "fill_with");
    int64_t size = 0;
    kvi_jinja_seq *seq = kvi_jinja_iterate(in->ctx, x), *row = NULL;
    kvi_jinja_seq *out = iterator_new(in->ctx, "generator object do_batch");
    bool never = !kvi_jinja_absent(v[0]) && !kvi_jinja_is_int(v[0]) && v[0].type != KVI_JINJA_FLOAT;
    if (never && !kvi_jinja_given(v[1])) size = -1; /* no length equals it */
    else if (!kvi_jinja_want_int(in->ctx, v[0], "batch", &size)) return x;
    if (!seq || !out) return x;
    for (size_t i = 0; i < seq->n && !in->ctx->failed; i++) {
        if (!row || (int64_t)row->n == size || (!i && !size)) {
            if (!i && !size)
                kvi_jinja_seq_push(in->ctx, out, kvi_jinja_seq_value(kvi_jinja_seq_new(in->ctx, KVI_JINJA_LIST)));
            row = kvi_jinja_seq_new(in->ctx, KVI_JINJA_LIST);
            if (!row) return x;
            kvi_jinja_seq_push(in->ctx, out, kvi_jinja_seq_value(row));
        }
        kvi_jinja_seq_push(in->ctx, row, seq->items[i]);
    }
    while (row && kvi_jinja_given(v[1]) && (int64_t)row->n < size && kvi_jinja_charge(in->ctx, 1))
        kvi_jinja_seq_push(in->ctx, row, v[1]);
    return kvi_jinja_seq_value(out);
}

FILTER(filter_slice)
{
    BIND("slice", 2, "slices", "fill_with");
    int64_t slices = 0;
    kvi_jinja_seq *seq = kvi_jinja_iterate(in->ctx, x), *out = iterator_new(in->ctx, "generator object sync_do_slice");
    if (!seq || !out || !kvi_jinja_want_int(in->ctx, v[0], "slice", &slices)) return x;
    if (!slices) return kvi_jinja_fail(in->ctx, "ZeroDivisionError: integer division or modulo by zero");
    size_t per = slices > 0 ? seq->n / (uint64_t)slices : 0, longer = slices > 0 ? seq->n % (uint64_t)slices : 0,
           at = 0;
    for (int64_t i = 0; i < slices && kvi_jinja_charge(in->ctx, 1); i++) {
        kvi_jinja_seq *row = kvi_jinja_seq_new(in->ctx, KVI_JINJA_LIST);
        bool extra = (uint64_t)i < longer;
        for (size_t k = 0; row && k < per + extra; k++) kvi_jinja_seq_push(in->ctx, row, seq->items[at++]);
        if (row && kvi_jinja_given(v[1]) && !extra) kvi_jinja_seq_push(in->ctx, row, v[1]);
        kvi_jinja_seq_push(in->ctx, out, kvi_jinja_seq_value(row));
    }
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
                 {"batch", filter_batch},
                 {"slice", filter_slice},
                 {"groupby", filter_groupby}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i].name, name) == 0) return table[i].fn;
    return NULL;
}
