/* methods.c - methods of strings that strip, search, split and join, and the way from a name to its method. maketrans
 * and translate are errors that name them. */
#include "format.h"
#include "methods.h"
#include "../base/utf8.h"

#include <string.h>

static kvi_jinja_value self_value(const kvi_jinja_str *s) { return (kvi_jinja_value){KVI_JINJA_STR, {.s = s}}; }

static METHOD(do_strip) { return kvi_jinja_strip(ctx, self_value(s), v[0], true, true); }
static METHOD(do_lstrip) { return kvi_jinja_strip(ctx, self_value(s), v[0], true, false); }
static METHOD(do_rstrip) { return kvi_jinja_strip(ctx, self_value(s), v[0], false, true); }
static bool affix(const kvi_jinja_str *s, const kvi_jinja_str *part, bool end)
{
    return part->len <= s->len && memcmp(s->data + (end ? s->len - part->len : 0), part->data, part->len) == 0;
}

/* The part s[start:end] that find, count, startswith and their kin look at, their second and third argument. False: the
 * start lies behind the end, and nothing is found, not even "". */
static bool window(kvi_jinja_ctx *ctx, const kvi_jinja_str **s, const kvi_jinja_value *v, int64_t *start)
{
    int64_t n = (int64_t)kvi_jinja_str_chars(*s), end = n;
    *start = 0;
    if (!kvi_jinja_given(v[1]) && !kvi_jinja_given(v[2])) return true;
    if (kvi_jinja_given(v[1]) && !kvi_jinja_want_int(ctx, v[1], "a position", start)) return false;
    if (kvi_jinja_given(v[2]) && !kvi_jinja_want_int(ctx, v[2], "a position", &end)) return false;
    if (*start < 0) *start = *start + n < 0 ? 0 : *start + n;
    if (end < 0) end = end + n < 0 ? 0 : end + n;
    if (end > n) end = n;
    if (*start > end) return false;
    kvi_jinja_charge(ctx, (*s)->len / 64);
    kvi_jinja_value part =
        kvi_jinja_slice_bytes(ctx, *s, kvi_jinja_byte_at(*s, (size_t)*start), kvi_jinja_byte_at(*s, (size_t)end));
    if (!ctx->failed) *s = part.u.s;
    return !ctx->failed;
}

static kvi_jinja_value has_affix(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_value *v, bool end)
{
    const kvi_jinja_str *part;
    int64_t start;
    bool within = window(ctx, &s, v, &start);
    if (v[0].type != KVI_JINJA_SEQ || v[0].u.seq->kind != KVI_JINJA_TUPLE)
        return kvi_jinja_want_str(ctx, v[0], "a string method", &part) ? kvi_jinja_bool(within && affix(s, part, end))
                                                                       : v[0];
    for (size_t i = 0; i < v[0].u.seq->n; i++)
        if (!kvi_jinja_want_str(ctx, v[0].u.seq->items[i], "a string method", &part) || (within && affix(s, part, end)))
            return kvi_jinja_bool(true);
    return kvi_jinja_bool(false);
}
static METHOD(do_startswith) { return has_affix(ctx, s, v, false); }
static METHOD(do_endswith) { return has_affix(ctx, s, v, true); }

static kvi_jinja_value remove_affix(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, kvi_jinja_value v, bool end)
{
    const kvi_jinja_str *part;
    if (!kvi_jinja_want_str(ctx, v, "a string method", &part)) return v;
    if (!affix(s, part, end)) return self_value(s);
    return kvi_jinja_slice_bytes(ctx, s, end ? 0 : part->len, end ? s->len - part->len : s->len);
}
static METHOD(do_removeprefix) { return remove_affix(ctx, s, v[0], false); }
static METHOD(do_removesuffix) { return remove_affix(ctx, s, v[0], true); }

static METHOD(do_replace)
{
    const kvi_jinja_str *from, *to;
    int64_t count = -1;
    if (!kvi_jinja_want_str(ctx, v[0], "a string method", &from) ||
        !kvi_jinja_want_str(ctx, v[1], "a string method", &to))
        return v[0];
    if (!kvi_jinja_absent(v[2]) && !kvi_jinja_want_int(ctx, v[2], "replace", &count)) return v[2];
    if (s->markup) {
        kvi_jinja_value escaped = kvi_jinja_escape(ctx, self_value(to));
        if (ctx->failed) return escaped;
        to = escaped.u.s;
    }
    return kvi_jinja_replace(ctx, s, from, to, count);
}

static METHOD(do_join)
{
    kvi_jinja_seq *seq = kvi_jinja_iterate(ctx, v[0]);
    if (!seq || !s->markup) return seq ? kvi_jinja_join(ctx, seq, s, true) : v[0];
    kvi_jinja_seq *escaped = kvi_jinja_seq_new(ctx, KVI_JINJA_LIST);
    for (size_t i = 0; escaped && i < seq->n && !ctx->failed; i++)
        kvi_jinja_seq_push(ctx, escaped, kvi_jinja_escape(ctx, seq->items[i]));
    return ctx->failed ? v[0] : kvi_jinja_as_markup(ctx, kvi_jinja_join(ctx, escaped, s, true), true);
}

/* First or last place of `part` in characters, -1: none. */
static int64_t find_in(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_str *part, bool last, int64_t *count)
{
    int64_t chars = 0, found = -1;
    *count = 0;
    kvi_jinja_charge(ctx, s->len / 64);
    for (size_t at = 0, free_from = 0; at + part->len <= s->len; at++) {
        bool start = at == s->len || ((unsigned char)s->data[at] & 0xc0) != 0x80;
        if (start && memcmp(s->data + at, part->data, part->len) == 0) {
            if (found < 0 || last) found = chars;
            if (at >= free_from) ++*count, free_from = at + part->len;
        }
        chars += start;
    }
    return found;
}

static kvi_jinja_value find(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_value *v, bool last, bool must)
{
    const kvi_jinja_str *part;
    int64_t count, start, at = -1;
    if (!kvi_jinja_want_str(ctx, v[0], "a string method", &part)) return v[0];
    if (window(ctx, &s, v, &start)) at = find_in(ctx, s, part, last, &count);
    if (at >= 0) at += start;
    return must && at < 0 ? kvi_jinja_fail(ctx, "ValueError: substring not found") : kvi_jinja_int(at);
}
static METHOD(do_find) { return find(ctx, s, v, false, false); }
static METHOD(do_rfind) { return find(ctx, s, v, true, false); }
static METHOD(do_index) { return find(ctx, s, v, false, true); }
static METHOD(do_rindex) { return find(ctx, s, v, true, true); }
static METHOD(do_count)
{
    const kvi_jinja_str *part;
    int64_t count = 0, start;
    if (kvi_jinja_want_str(ctx, v[0], "a string method", &part) && window(ctx, &s, v, &start))
        (void)find_in(ctx, s, part, false, &count);
    return kvi_jinja_int(count);
}

/* ---------------------------------------------------------------------------------------------------------- split
 * --- */
static void push_part(kvi_jinja_ctx *ctx, kvi_jinja_seq *out, const kvi_jinja_str *s, size_t from, size_t to)
{
    kvi_jinja_seq_push(ctx, out, kvi_jinja_slice_bytes(ctx, s, from, to));
}

static size_t space_len(const kvi_jinja_str *s, size_t at)
{
    uint32_t cp;
    size_t n = kvi_utf8_decode(s->data + at, s->len - at, &cp);
    return n && kvi_jinja_is_space(cp) ? n : 0;
}

static void split_spaces(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, int64_t max, kvi_jinja_seq *out)
{
    for (size_t at = 0; at < s->len && !ctx->failed;) {
        size_t n = space_len(s, at), from = at;
        if (n) {
            at += n;
            continue;
        }
        if (max == 0) {
            push_part(ctx, out, s, from, s->len); /* Python keeps the white space at the end of the rest */
            return;
        }
        while (at < s->len && !space_len(s, at)) at++;
        push_part(ctx, out, s, from, at);
        if (max > 0) max--;
    }
}

static void split_on(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_str *separator, int64_t max,
                     kvi_jinja_seq *out)
{
    size_t from = 0;
    for (size_t at = 0; max != 0 && at + separator->len <= s->len && !ctx->failed;) {
        if (memcmp(s->data + at, separator->data, separator->len) != 0) {
            at++;
            continue;
        }
        push_part(ctx, out, s, from, at);
        at += separator->len;
        from = at;
        if (max > 0) max--;
    }
    push_part(ctx, out, s, from, s->len);
}

static void reverse_items(kvi_jinja_seq *seq)
{
    for (size_t i = 0; i < seq->n / 2; i++) {
        kvi_jinja_value v = seq->items[i];
        seq->items[i] = seq->items[seq->n - 1 - i];
        seq->items[seq->n - 1 - i] = v;
    }
}

static size_t space_before(const kvi_jinja_str *s, size_t to)
{
    size_t from = kvi_utf8_prev(s->data, to);
    return space_len(s, from) == to - from ? to - from : 0;
}

static void rsplit_spaces(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, int64_t max, kvi_jinja_seq *out)
{
    for (size_t to = s->len; to > 0 && !ctx->failed;) {
        size_t n = space_before(s, to), from = to;
        if (n) {
            to -= n;
            continue;
        }
        if (max == 0) from = 0;
        while (from > 0 && !space_before(s, from)) from = kvi_utf8_prev(s->data, from);
        push_part(ctx, out, s, from, to);
        if (max == 0) break;
        if (max > 0) max--;
        to = from;
    }
    reverse_items(out);
}

static void rsplit_on(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_str *separator, int64_t max,
                      kvi_jinja_seq *out)
{
    size_t to = s->len;
    for (size_t at = s->len; max != 0 && at >= separator->len && !ctx->failed;) {
        if (memcmp(s->data + at - separator->len, separator->data, separator->len) != 0) {
            at--;
            continue;
        }
        push_part(ctx, out, s, at, to);
        at -= separator->len;
        to = at;
        if (max > 0) max--;
    }
    push_part(ctx, out, s, 0, to);
    reverse_items(out);
}

static kvi_jinja_value split(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_value *v, bool right)
{
    int64_t max = -1;
    kvi_jinja_seq *out = kvi_jinja_seq_new(ctx, KVI_JINJA_LIST);
    kvi_jinja_charge(ctx, s->len / 64);
    if (!kvi_jinja_absent(v[1]) && !kvi_jinja_want_int(ctx, v[1], "split", &max)) return v[1];
    if (!out) return kvi_jinja_undefined(NULL);
    if (v[0].type == KVI_JINJA_NONE || kvi_jinja_absent(v[0])) {
        if (right) rsplit_spaces(ctx, s, max, out);
        else split_spaces(ctx, s, max, out);
    } else {
        const kvi_jinja_str *separator;
        if (!kvi_jinja_want_str(ctx, v[0], "a string method", &separator)) return v[0];
        if (!separator->len) return kvi_jinja_fail(ctx, "ValueError: empty separator");
        if (right) rsplit_on(ctx, s, separator, max, out);
        else split_on(ctx, s, separator, max, out);
    }
    return kvi_jinja_seq_value(out);
}
static METHOD(do_split) { return split(ctx, s, v, false); }
static METHOD(do_rsplit) { return split(ctx, s, v, true); }

static METHOD(do_splitlines)
{
    kvi_jinja_seq *out = kvi_jinja_seq_new(ctx, KVI_JINJA_LIST);
    bool keep = kvi_jinja_flag(v[0], false);
    size_t from = 0;
    for (size_t at = 0; out && at < s->len && kvi_jinja_charge(ctx, 1); at++) {
        uint32_t cp = (unsigned char)s->data[at];
        size_t n = kvi_utf8_decode(s->data + at, s->len - at, &cp);
        bool ends =
            (cp >= 0x0a && cp <= 0x0d) || (cp >= 0x1c && cp <= 0x1e) || cp == 0x85 || cp == 0x2028 || cp == 0x2029;
        if (!n || !ends) continue;
        if (cp == '\r' && at + 1 < s->len && s->data[at + 1] == '\n') n = 2;
        push_part(ctx, out, s, from, keep ? at + n : at);
        from = at + n;
        at = from - 1;
    }
    if (out && from < s->len) push_part(ctx, out, s, from, s->len);
    return kvi_jinja_seq_value(out);
}

static const kvi_jinja_method_row *find_row(const char *name)
{
    static const char *const split_names[] = {"sep", "maxsplit"}, *const lines_names[] = {"keepends"};
    static const kvi_jinja_method_row table[] = {{"strip", do_strip, 1, NULL},
                                                 {"lstrip", do_lstrip, 1, NULL},
                                                 {"rstrip", do_rstrip, 1, NULL},
                                                 {"startswith", do_startswith, 3, NULL},
                                                 {"endswith", do_endswith, 3, NULL},
                                                 {"removeprefix", do_removeprefix, 1, NULL},
                                                 {"removesuffix", do_removesuffix, 1, NULL},
                                                 {"replace", do_replace, 3, NULL},
                                                 {"join", do_join, 1, NULL},
                                                 {"find", do_find, 3, NULL},
                                                 {"rfind", do_rfind, 3, NULL},
                                                 {"index", do_index, 3, NULL},
                                                 {"rindex", do_rindex, 3, NULL},
                                                 {"count", do_count, 3, NULL},
                                                 {"split", do_split, 2, split_names},
                                                 {"rsplit", do_rsplit, 2, split_names},
                                                 {"splitlines", do_splitlines, 1, lines_names}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i].name, name) == 0) return &table[i];
    const kvi_jinja_method_row *row = kvi_jinja_text_method(name);
    return row ? row : kvi_jinja_class_method(name);
}

/* format(...) and format_map(mapping) take any arguments. */
static kvi_jinja_value format(kvi_jinja_interp *in, const kvi_jinja_str *s, bool map, const kvi_jinja_args *args)
{
    static const kvi_jinja_args nothing = {NULL, 0, NULL, NULL, 0};
    if (!map) return kvi_jinja_str_format(in, s, args, NULL);
    if (args->n != 1 || args->n_keys || args->values[0].type != KVI_JINJA_DICT)
        return kvi_jinja_fail(in->ctx, "TypeError: format_map() takes one mapping");
    return kvi_jinja_str_format(in, s, &nothing, args->values[0].u.dict);
}

kvi_jinja_value kvi_jinja_str_method(kvi_jinja_interp *in, const kvi_jinja_str *s, const char *name,
                                     const kvi_jinja_args *args)
{
    static const char *const none[] = {"", "", ""};
    const kvi_jinja_method_row *row = find_row(name);
    kvi_jinja_value v[3];
    if (strncmp(name, "format", 6) == 0) return format(in, s, name[6] == '_', args);
    if (!row) return kvi_jinja_fail(in->ctx, "the method str.%s is not supported", name);
    if (!kvi_jinja_bind(in->ctx, name, args, row->names ? row->names : none, row->n, v)) return v[0];
    return row->fn(in->ctx, s, v);
}
