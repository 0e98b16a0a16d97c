/* access.c - a.b, a[b] and slices. As in Jinja2's sandbox: a.b tries Python's attribute first and the element
 * then, a[b] the other way round; what neither knows is undefined. Methods that would change a list or dictionary, and
 * names that begin with "__", are undefined values whose use is a SecurityError. */
#include "args.h"

#include <stdio.h>
#include <string.h>

static bool listed(const char *const *names, const char *name)
{
    for (; *names; names++)
        if (strcmp(*names, name) == 0) return true;
    return false;
}

static const char *const str_methods[] = {
    "capitalize",   "casefold",   "center",    "count",       "encode",    "endswith",     "expandtabs",   "find",
    "format",       "format_map", "index",     "isalnum",     "isalpha",   "isascii",      "isdecimal",    "isdigit",
    "isidentifier", "islower",    "isnumeric", "isprintable", "isspace",   "istitle",      "isupper",      "join",
    "ljust",        "lower",      "lstrip",    "maketrans",   "partition", "removeprefix", "removesuffix", "replace",
    "rfind",        "rindex",     "rjust",     "rpartition",  "rsplit",    "rstrip",       "split",        "splitlines",
    "startswith",   "strip",      "swapcase",  "title",       "translate", "upper",        "zfill",        NULL};
static const char *const dict_methods[] = {"copy", "fromkeys", "get", "items", "keys", "values", NULL};
static const char *const list_methods[] = {"copy", "count", "index", NULL};
static const char *const mutators[] = {"append", "clear",   "extend",     "insert", "pop",    "popitem",
                                       "remove", "reverse", "setdefault", "sort",   "update", NULL};
static const char *const number_attributes[] = {
    "as_integer_ratio", "bit_count", "bit_length", "conjugate", "denominator", "from_bytes", "fromhex", "hex", "imag",
    "is_integer",       "numerator", "real",       "to_bytes",  NULL};

static kvi_jinja_value message(kvi_jinja_interp *in, const char *format, const char *a, const char *b)
{
    size_t cap = strlen(format) + strlen(a) + strlen(b) + 1;
    char *text = kvi_jinja_alloc(in->ctx, cap);
    if (text) {
        const char *first = strstr(format, "%1"), *second = strstr(format, "%2");
        size_t n = (size_t)(first - format);
        memcpy(text, format, n);
        snprintf(text + n, cap - n, "%s%.*s%s%s", a, (int)(second - first - 2), first + 2, b, second + 2);
    }
    return kvi_jinja_undefined(text);
}

static const char *described(kvi_jinja_value object)
{
    return object.type == KVI_JINJA_NONE ? "None" : kvi_jinja_type_name(object);
}

kvi_jinja_value kvi_jinja_bound(kvi_jinja_interp *in, kvi_jinja_value self, const char *name)
{
    kvi_jinja_method *m = kvi_jinja_alloc(in->ctx, sizeof *m);
    if (!m) return kvi_jinja_undefined(NULL);
    *m = (kvi_jinja_method){self, name};
    return (kvi_jinja_value){KVI_JINJA_METHOD, {.method = m}};
}

static kvi_jinja_value loop_attribute(kvi_jinja_interp *in, kvi_jinja_value object, const char *name)
{
    const kvi_jinja_loop *loop = object.u.loop;
    int64_t i = (int64_t)loop->index0, n = (int64_t)loop->seq->n;
    if (strcmp(name, "index") == 0) return kvi_jinja_int(i + 1);
    if (strcmp(name, "index0") == 0) return kvi_jinja_int(i);
    if (strcmp(name, "first") == 0) return kvi_jinja_bool(i == 0);
    if (strcmp(name, "last") == 0) return kvi_jinja_bool(i + 1 == n);
    if (strcmp(name, "length") == 0) return kvi_jinja_int(n);
    if (strcmp(name, "revindex") == 0) return kvi_jinja_int(n - i);
    if (strcmp(name, "revindex0") == 0) return kvi_jinja_int(n - i - 1);
    if (strcmp(name, "depth") == 0) return kvi_jinja_int((int64_t)loop->depth0 + 1); /* counts recursion only */
    if (strcmp(name, "depth0") == 0) return kvi_jinja_int((int64_t)loop->depth0);
    if (strcmp(name, "previtem") == 0)
        return i ? loop->seq->items[i - 1] : kvi_jinja_undefined("there is no previous item");
    if (strcmp(name, "nextitem") == 0)
        return i + 1 < n ? loop->seq->items[i + 1] : kvi_jinja_undefined("there is no next item");
    if (strcmp(name, "cycle") == 0 || strcmp(name, "changed") == 0) return kvi_jinja_bound(in, object, name);
    return message(in, "'%1' has no attribute '%2'", "jinja2.runtime.LoopContext object", name);
}

static bool range_attribute(const kvi_jinja_seq *range, const char *name, kvi_jinja_value *out)
{
    if (strcmp(name, "start") == 0) *out = kvi_jinja_int(range->start);
    else if (strcmp(name, "stop") == 0) *out = kvi_jinja_int(range->stop);
    else if (strcmp(name, "step") == 0) *out = kvi_jinja_int(range->step);
    else return false;
    return true;
}

static bool number_attribute(kvi_jinja_interp *in, kvi_jinja_value object, const char *name, kvi_jinja_value *out)
{
    bool floating = object.type == KVI_JINJA_FLOAT;
    if (!listed(number_attributes, name)) return false;
    if (strcmp(name, "real") == 0 || (!floating && strcmp(name, "numerator") == 0))
        *out = floating ? object : kvi_jinja_negate(in->ctx, object, false);
    else if (strcmp(name, "imag") == 0) *out = floating ? kvi_jinja_float(0) : kvi_jinja_int(0);
    else if (!floating && strcmp(name, "denominator") == 0) *out = kvi_jinja_int(1);
    else if (strcmp(name, "conjugate") == 0 || (floating && strcmp(name, "is_integer") == 0) ||
             (!floating && strncmp(name, "bit_", 4) == 0))
        *out = kvi_jinja_bound(in, object, name);
    else if (floating == (strcmp(name, "fromhex") == 0 || strcmp(name, "hex") == 0) ||
             strcmp(name, "as_integer_ratio") == 0)
        *out = kvi_jinja_fail(in->ctx, "the attribute '%s' of numbers is not supported", name);
    else return false;
    return true;
}

/* Python's getattr. False when there is no such attribute. */
bool kvi_jinja_getattr(kvi_jinja_interp *in, kvi_jinja_value object, const char *name, kvi_jinja_value *out)
{
    bool container = object.type == KVI_JINJA_DICT || object.type == KVI_JINJA_SEQ;
    const char *const *methods = object.type == KVI_JINJA_STR    ? str_methods
                                 : object.type == KVI_JINJA_DICT ? dict_methods
                                                                 : list_methods;
    if (strncmp(name, "__", 2) == 0 || (container && listed(mutators, name) &&
                                        (object.type == KVI_JINJA_DICT || object.u.seq->kind == KVI_JINJA_LIST))) {
        *out =
            message(in, "SecurityError: access to attribute '%1' of '%2' object is unsafe.", name, described(object));
        return true;
    }
    switch (object.type) {
    case KVI_JINJA_NAMESPACE: {
        kvi_jinja_value *found = kvi_jinja_dict_get(object.u.dict, name);
        if (found) *out = *found;
        return found != NULL;
    }
    case KVI_JINJA_LOOP: *out = loop_attribute(in, object, name); return true;
    case KVI_JINJA_MACRO:
    case KVI_JINJA_CYCLER:
    case KVI_JINJA_JOINER: return kvi_jinja_object_attribute(in, object, name, out);
    case KVI_JINJA_BYTES:
        if (strcmp(name, "decode") != 0) return false;
        *out = kvi_jinja_bound(in, object, "decode");
        return true;
    case KVI_JINJA_SEQ:
        if (object.u.seq->named && strcmp(name, "grouper") == 0) return *out = object.u.seq->items[0], true;
        if (object.u.seq->named && strcmp(name, "list") == 0) return *out = object.u.seq->items[1], true;
        if (object.u.seq->kind == KVI_JINJA_RANGE && range_attribute(object.u.seq, name, out)) return true;
        if (object.u.seq->kind > KVI_JINJA_RANGE) return false;
        if (object.u.seq->kind != KVI_JINJA_LIST && strcmp(name, "copy") == 0) return false;
        break;
    case KVI_JINJA_STR:
    case KVI_JINJA_DICT: break;
    case KVI_JINJA_BOOL:
    case KVI_JINJA_INT:
    case KVI_JINJA_BIG:
    case KVI_JINJA_FLOAT: return number_attribute(in, object, name, out);
    default: return false;
    }
    if (!listed(methods, name)) return false;
    if (container && object.type == KVI_JINJA_DICT && strcmp(name, "fromkeys") == 0 && !in->ctx->failed)
        return *out = kvi_jinja_fail(in->ctx, "the method dict.fromkeys is not supported"), true;
    *out = kvi_jinja_bound(in, object, name);
    return true;
}

static bool hashable(kvi_jinja_value key)
{
    if (key.type == KVI_JINJA_SEQ && key.u.seq->kind == KVI_JINJA_TUPLE) {
        for (size_t i = 0; i < key.u.seq->n; i++)
            if (key.u.seq->items[i].type == KVI_JINJA_SEQ || key.u.seq->items[i].type == KVI_JINJA_DICT) return false;
        return true;
    }
    return key.type != KVI_JINJA_SEQ && key.type != KVI_JINJA_DICT;
}

/* Python's object[key]. False when it would raise. */
static bool python_item(kvi_jinja_interp *in, kvi_jinja_value object, kvi_jinja_value key, kvi_jinja_value *out)
{
    if (object.type == KVI_JINJA_DICT) {
        kvi_jinja_value *found = hashable(key) ? kvi_jinja_dict_find(in->ctx, object.u.dict, key) : NULL;
        if (found) *out = *found;
        return found != NULL;
    }
    if (key.type != KVI_JINJA_INT && key.type != KVI_JINJA_BOOL) return false;
    int64_t i = key.type == KVI_JINJA_INT ? key.u.i : key.u.b;
    if (object.type == KVI_JINJA_SEQ && object.u.seq->kind <= KVI_JINJA_RANGE) {
        int64_t n = (int64_t)object.u.seq->n;
        if (i < 0) i += n;
        if (i < 0 || i >= n) return false;
        *out = object.u.seq->items[i];
        return true;
    }
    if (object.type != KVI_JINJA_STR) return false;
    kvi_jinja_charge(in->ctx, object.u.s->len / 64);
    int64_t n = (int64_t)kvi_jinja_str_chars(object.u.s);
    if (i < 0) i += n;
    if (i < 0 || i >= n) return false;
    *out = kvi_jinja_slice_bytes(in->ctx, object.u.s, kvi_jinja_byte_at(object.u.s, (size_t)i),
                                 kvi_jinja_byte_at(object.u.s, (size_t)i + 1));
    return true;
}

kvi_jinja_value kvi_jinja_attribute(kvi_jinja_interp *in, kvi_jinja_value object, const char *name)
{
    kvi_jinja_value out;
    if (object.type == KVI_JINJA_UNDEFINED) return kvi_jinja_use_undefined(in->ctx, object);
    if (kvi_jinja_getattr(in, object, name, &out)) return out;
    if (object.type == KVI_JINJA_DICT) {
        kvi_jinja_value *found = kvi_jinja_dict_get(object.u.dict, name);
        kvi_jinja_charge(in->ctx, object.u.dict->n / 8);
        if (found) return *found;
    }
    if (in->ctx->failed) return kvi_jinja_undefined(NULL);
    return message(in, "'%1 object' has no attribute '%2'", described(object), name);
}

kvi_jinja_value kvi_jinja_item(kvi_jinja_interp *in, kvi_jinja_value object, kvi_jinja_value key)
{
    kvi_jinja_value out;
    if (object.type == KVI_JINJA_UNDEFINED) return kvi_jinja_use_undefined(in->ctx, object);
    if (python_item(in, object, key, &out)) return out;
    if (in->ctx->failed) return kvi_jinja_undefined(NULL);
    if (key.type == KVI_JINJA_STR && key.u.s->len < 200) {
        char name[200];
        memcpy(name, key.u.s->data, key.u.s->len);
        name[key.u.s->len] = 0;
        const char *kept = kvi_jinja_intern(in->ctx, in->names, name, key.u.s->len);
        if (kvi_jinja_getattr(in, object, kept, &out)) return out;
        return message(in, "'%1 object' has no attribute '%2'", described(object), kept);
    }
    return message(in, "'%1' has no such element%2", described(object), "");
}

/* False for what is no integer: Jinja2 then finds no such element. Beyond 64 bits is beyond every end. */
static bool slice_part(kvi_jinja_value part, int64_t *out, bool *given)
{
    *given = part.type != KVI_JINJA_NONE;
    if (part.type == KVI_JINJA_BIG) *out = part.u.big->negative ? INT64_MIN / 2 : INT64_MAX;
    else if (part.type == KVI_JINJA_INT) *out = part.u.i;
    else if (part.type == KVI_JINJA_BOOL) *out = part.u.b;
    return !*given || kvi_jinja_is_int(part);
}

static int64_t clamp(int64_t i, int64_t n, int64_t low, int64_t high)
{
    if (i < 0) i += n;
    return i < low ? low : i > high ? high : i;
}

kvi_jinja_value kvi_jinja_slice(kvi_jinja_interp *in, kvi_jinja_value object, const kvi_jinja_value part[3])
{
    int64_t start = 0, stop = 0, step = 1, n = 0;
    bool has_start, has_stop, has_step;
    if (object.type == KVI_JINJA_UNDEFINED) return kvi_jinja_use_undefined(in->ctx, object);
    bool is_str = object.type == KVI_JINJA_STR,
         is_seq = object.type == KVI_JINJA_SEQ && object.u.seq->kind <= KVI_JINJA_RANGE;
    if (!is_str && !is_seq) return message(in, "'%1' has no such element%2", described(object), "");
    if (!slice_part(part[0], &start, &has_start) || !slice_part(part[1], &stop, &has_stop) ||
        !slice_part(part[2], &step, &has_step))
        return message(in, "'%1' has no such element%2", described(object), "");
    if (has_step && !step) return kvi_jinja_fail(in->ctx, "ValueError: slice step cannot be zero");
    n = is_str ? (int64_t)kvi_jinja_str_chars(object.u.s) : (int64_t)object.u.seq->n;
    if (step == INT64_MIN) step = -INT64_MAX;
    int64_t low = step < 0 ? -1 : 0, high = step < 0 ? n - 1 : n;
    start = has_start ? clamp(start, n, low, high) : step < 0 ? high : low;
    stop = has_stop ? clamp(stop, n, low, high) : step < 0 ? low : high;
    if (is_str && step == 1) {
        size_t from = kvi_jinja_byte_at(object.u.s, (size_t)start);
        kvi_jinja_charge(in->ctx, object.u.s->len / 64);
        return kvi_jinja_slice_bytes(in->ctx, object.u.s, from,
                                     start < stop ? kvi_jinja_byte_at(object.u.s, (size_t)stop) : from);
    }
    kvi_jinja_seq *items = kvi_jinja_iterate(in->ctx, object);
    kvi_jinja_seq *out = kvi_jinja_seq_new(
        in->ctx, is_str || object.u.seq->kind == KVI_JINJA_RANGE ? KVI_JINJA_LIST : object.u.seq->kind);
    for (int64_t i = start; items && out && !in->ctx->failed && (step > 0 ? i < stop : i > stop);) {
        kvi_jinja_seq_push(in->ctx, out, items->items[i]);
        if (step > 0 ? i > INT64_MAX - step : i < INT64_MIN - step) break;
        i += step;
    }
    if (!out || in->ctx->failed) return kvi_jinja_undefined(NULL);
    if (is_str) {
        kvi_jinja_builder b = {0};
        for (size_t i = 0; i < out->n; i++) kvi_jinja_add_str(in->ctx, &b, out->items[i].u.s);
        return kvi_jinja_built(in->ctx, &b);
    }
    return kvi_jinja_seq_value(out);
}

/* One step of a path: the fallback stands for what is undefined, unless it is none. */
static kvi_jinja_value path_step(kvi_jinja_interp *in, kvi_jinja_value object, kvi_jinja_value key,
                                 kvi_jinja_value fallback)
{
    object = kvi_jinja_item(in, object, key);
    return object.type == KVI_JINJA_UNDEFINED && fallback.type != KVI_JINJA_NONE ? fallback : object;
}

kvi_jinja_value kvi_jinja_path(kvi_jinja_interp *in, kvi_jinja_value object, kvi_jinja_value path,
                               kvi_jinja_value fallback)
{
    if (path.type == KVI_JINJA_NONE) return object;
    if (path.type != KVI_JINJA_STR) return path_step(in, object, path, fallback);
    const kvi_jinja_str *s = path.u.s;
    for (size_t from = 0, at = 0; at <= s->len && !in->ctx->failed; at++) {
        if (at < s->len && s->data[at] != '.') continue;
        kvi_jinja_value key = kvi_jinja_slice_bytes(in->ctx, s, from, at);
        bool digits = at > from && at - from < 10;
        int64_t index = 0;
        for (size_t i = from; i < at && digits; i++) {
            digits = s->data[i] >= '0' && s->data[i] <= '9';
            index = index * 10 + (s->data[i] - '0');
        }
        object = path_step(in, object, digits ? kvi_jinja_int(index) : key, fallback);
        from = at + 1;
    }
    return object;
}
