/* methods.c - methods of strings. Those of Python's str that templates do not use are errors that name them. */
#include "interpret.h"
#include "../base/utf8.h"

#include <string.h>

typedef kvi_jinja_value (*str_fn)(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_value *v);

static kvi_jinja_value self_value(const kvi_jinja_str *s) { return (kvi_jinja_value){KVI_JINJA_STR, {.s = s}}; }

static bool want_str(kvi_jinja_ctx *ctx, kvi_jinja_value v, const kvi_jinja_str **out)
{
    if (v.type == KVI_JINJA_STR) *out = v.u.s;
    else
        kvi_jinja_fail(ctx, "TypeError: a string method needs str, not %s",
                       kvi_jinja_absent(v) ? "nothing" : kvi_jinja_type_name(v));
    return v.type == KVI_JINJA_STR;
}

static kvi_jinja_value do_strip(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_value *v)
{
    return kvi_jinja_strip(ctx, self_value(s), v[0], true, true);
}
static kvi_jinja_value do_lstrip(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_value *v)
{
    return kvi_jinja_strip(ctx, self_value(s), v[0], true, false);
}
static kvi_jinja_value do_rstrip(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_value *v)
{
    return kvi_jinja_strip(ctx, self_value(s), v[0], false, true);
}
static kvi_jinja_value do_upper(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_value *v)
{
    (void)v;
    return kvi_jinja_change_case(ctx, s, KVI_JINJA_UPPER);
}
static kvi_jinja_value do_lower(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_value *v)
{
    (void)v;
    return kvi_jinja_change_case(ctx, s, KVI_JINJA_LOWER);
}
static kvi_jinja_value do_title(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_value *v)
{
    (void)v;
    return kvi_jinja_change_case(ctx, s, KVI_JINJA_TITLE);
}
static kvi_jinja_value do_capitalize(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_value *v)
{
    (void)v;
    return kvi_jinja_change_case(ctx, s, KVI_JINJA_CAPITALIZE);
}

static bool affix(const kvi_jinja_str *s, const kvi_jinja_str *part, bool end)
{
    return part->len <= s->len && memcmp(s->data + (end ? s->len - part->len : 0), part->data, part->len) == 0;
}

static kvi_jinja_value has_affix(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_value *v, bool end)
{
    const kvi_jinja_str *part;
    if (!kvi_jinja_absent(v[1])) return kvi_jinja_fail(ctx, "startswith and endswith with positions are not supported");
    if (v[0].type != KVI_JINJA_SEQ || v[0].u.seq->kind != KVI_JINJA_TUPLE)
        return want_str(ctx, v[0], &part) ? kvi_jinja_bool(affix(s, part, end)) : v[0];
    for (size_t i = 0; i < v[0].u.seq->n; i++)
        if (!want_str(ctx, v[0].u.seq->items[i], &part) || affix(s, part, end)) return kvi_jinja_bool(true);
    return kvi_jinja_bool(false);
}
static kvi_jinja_value do_startswith(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_value *v)
{
    return has_affix(ctx, s, v, false);
}
static kvi_jinja_value do_endswith(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_value *v)
{
    return has_affix(ctx, s, v, true);
}

static kvi_jinja_value remove_affix(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, kvi_jinja_value v, bool end)
{
    const kvi_jinja_str *part;
    if (!want_str(ctx, v, &part)) return v;
    if (!affix(s, part, end)) return self_value(s);
    return kvi_jinja_slice_bytes(ctx, s, end ? 0 : part->len, end ? s->len - part->len : s->len);
}
static kvi_jinja_value do_removeprefix(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_value *v)
{
    return remove_affix(ctx, s, v[0], false);
}
static kvi_jinja_value do_removesuffix(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_value *v)
{
    return remove_affix(ctx, s, v[0], true);
}

static kvi_jinja_value do_replace(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_value *v)
{
    const kvi_jinja_str *from, *to;
    int64_t count = -1;
    if (!want_str(ctx, v[0], &from) || !want_str(ctx, v[1], &to)) return v[0];
    if (!kvi_jinja_absent(v[2]) && !kvi_jinja_want_int(ctx, v[2], "replace", &count)) return v[2];
    if (s->markup) {
        kvi_jinja_value escaped = kvi_jinja_escape(ctx, self_value(to));
        if (ctx->failed) return escaped;
        to = escaped.u.s;
    }
    return kvi_jinja_replace(ctx, s, from, to, count);
}

static kvi_jinja_value do_join(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_value *v)
{
    kvi_jinja_seq *seq = kvi_jinja_iterate(ctx, v[0]);
    if (s->markup) return kvi_jinja_fail(ctx, "join on a safe string is not supported");
    return seq ? kvi_jinja_join(ctx, seq, s, true) : v[0];
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
    int64_t count;
    if (!kvi_jinja_absent(v[1])) return kvi_jinja_fail(ctx, "find and index with positions are not supported");
    if (!want_str(ctx, v[0], &part)) return v[0];
    int64_t at = find_in(ctx, s, part, last, &count);
    return must && at < 0 ? kvi_jinja_fail(ctx, "ValueError: substring not found") : kvi_jinja_int(at);
}
static kvi_jinja_value do_find(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_value *v)
{
    return find(ctx, s, v, false, false);
}
static kvi_jinja_value do_rfind(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_value *v)
{
    return find(ctx, s, v, true, false);
}
static kvi_jinja_value do_index(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_value *v)
{
    return find(ctx, s, v, false, true);
}
static kvi_jinja_value do_count(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_value *v)
{
    const kvi_jinja_str *part;
    int64_t count = 0;
    if (want_str(ctx, v[0], &part)) (void)find_in(ctx, s, part, false, &count);
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
    for (size_t i = 0; i < out->n / 2; i++) {
        kvi_jinja_value v = out->items[i];
        out->items[i] = out->items[out->n - 1 - i];
        out->items[out->n - 1 - i] = v;
    }
}

static kvi_jinja_value split(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_value *v, bool right)
{
    int64_t max = -1;
    kvi_jinja_seq *out = kvi_jinja_seq_new(ctx, KVI_JINJA_LIST);
    kvi_jinja_charge(ctx, s->len / 64);
    if (!kvi_jinja_absent(v[1]) && !kvi_jinja_want_int(ctx, v[1], "split", &max)) return v[1];
    if (!out) return kvi_jinja_undefined(NULL);
    if (v[0].type == KVI_JINJA_NONE || kvi_jinja_absent(v[0])) {
        if (right && max >= 0) return kvi_jinja_fail(ctx, "rsplit on whitespace with a limit is not supported");
        split_spaces(ctx, s, max, out);
    } else {
        const kvi_jinja_str *separator;
        if (!want_str(ctx, v[0], &separator)) return v[0];
        if (!separator->len) return kvi_jinja_fail(ctx, "ValueError: empty separator");
        if (right) rsplit_on(ctx, s, separator, max, out);
        else split_on(ctx, s, separator, max, out);
    }
    return kvi_jinja_seq_value(out);
}
static kvi_jinja_value do_split(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_value *v)
{
    return split(ctx, s, v, false);
}
static kvi_jinja_value do_rsplit(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_value *v)
{
    return split(ctx, s, v, true);
}

/* ASCII answers only: what templates ask about digits and letters. */
static kvi_jinja_value ascii_class(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, int kind)
{
    bool all = s->len > 0, cased = false;
    for (size_t i = 0; i < s->len; i++) {
        char c = s->data[i];
        if ((unsigned char)c >= 0x80) return kvi_jinja_fail(ctx, "is...() methods beyond ASCII are not supported");
        bool digit = c >= '0' && c <= '9', lower = c >= 'a' && c <= 'z', upper = c >= 'A' && c <= 'Z';
        cased = cased || (kind == 'l' ? lower : upper);
        all = all && (kind == 'd'   ? digit
                      : kind == 'a' ? lower || upper
                      : kind == 'n' ? digit || lower || upper
                      : kind == 's' ? kvi_jinja_is_space((unsigned char)c)
                      : kind == 'l' ? !upper
                                    : !lower);
    }
    return kvi_jinja_bool(all && (cased || (kind != 'l' && kind != 'u')));
}
static kvi_jinja_value do_isdigit(kvi_jinja_ctx *c, const kvi_jinja_str *s, const kvi_jinja_value *v)
{
    (void)v;
    return ascii_class(c, s, 'd');
}
static kvi_jinja_value do_isalpha(kvi_jinja_ctx *c, const kvi_jinja_str *s, const kvi_jinja_value *v)
{
    (void)v;
    return ascii_class(c, s, 'a');
}
static kvi_jinja_value do_isalnum(kvi_jinja_ctx *c, const kvi_jinja_str *s, const kvi_jinja_value *v)
{
    (void)v;
    return ascii_class(c, s, 'n');
}
static kvi_jinja_value do_isspace(kvi_jinja_ctx *c, const kvi_jinja_str *s, const kvi_jinja_value *v)
{
    (void)v;
    return ascii_class(c, s, 's');
}
static kvi_jinja_value do_islower(kvi_jinja_ctx *c, const kvi_jinja_str *s, const kvi_jinja_value *v)
{
    (void)v;
    return ascii_class(c, s, 'l');
}
static kvi_jinja_value do_isupper(kvi_jinja_ctx *c, const kvi_jinja_str *s, const kvi_jinja_value *v)
{
    (void)v;
    return ascii_class(c, s, 'u');
}

static kvi_jinja_value do_splitlines(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_value *v)
{
    kvi_jinja_seq *out = kvi_jinja_seq_new(ctx, KVI_JINJA_LIST);
    if (!kvi_jinja_absent(v[0])) return kvi_jinja_fail(ctx, "splitlines(keepends) is not supported");
    size_t from = 0;
    for (size_t at = 0; out && at < s->len && kvi_jinja_charge(ctx, 1); at++) {
        uint32_t cp = (unsigned char)s->data[at];
        size_t n = kvi_utf8_decode(s->data + at, s->len - at, &cp);
        bool ends =
            (cp >= 0x0a && cp <= 0x0d) || (cp >= 0x1c && cp <= 0x1e) || cp == 0x85 || cp == 0x2028 || cp == 0x2029;
        if (!n || !ends) continue;
        push_part(ctx, out, s, from, at);
        if (cp == '\r' && at + 1 < s->len && s->data[at + 1] == '\n') n = 2;
        from = at + n;
        at = from - 1;
    }
    if (out && from < s->len) push_part(ctx, out, s, from, s->len);
    return kvi_jinja_seq_value(out);
}

kvi_jinja_value kvi_jinja_str_method(kvi_jinja_interp *in, const kvi_jinja_str *s, const char *name,
                                     const kvi_jinja_args *args)
{
    static const char *const none[] = {"", "", ""}, *const split_names[] = {"sep", "maxsplit"};
    static const struct {
        const char *name;
        str_fn fn;
        size_t n;
        const char *const *names;
    } table[] = {{"strip", do_strip, 1, none},
                 {"lstrip", do_lstrip, 1, none},
                 {"rstrip", do_rstrip, 1, none},
                 {"upper", do_upper, 0, none},
                 {"lower", do_lower, 0, none},
                 {"title", do_title, 0, none},
                 {"capitalize", do_capitalize, 0, none},
                 {"startswith", do_startswith, 2, none},
                 {"endswith", do_endswith, 2, none},
                 {"removeprefix", do_removeprefix, 1, none},
                 {"removesuffix", do_removesuffix, 1, none},
                 {"replace", do_replace, 3, none},
                 {"join", do_join, 1, none},
                 {"find", do_find, 2, none},
                 {"rfind", do_rfind, 2, none},
                 {"index", do_index, 2, none},
                 {"count", do_count, 1, none},
                 {"split", do_split, 2, split_names},
                 {"rsplit", do_rsplit, 2, split_names},
                 {"splitlines", do_splitlines, 1, none},
                 {"isdigit", do_isdigit, 0, none},
                 {"isalpha", do_isalpha, 0, none},
                 {"isalnum", do_isalnum, 0, none},
                 {"isspace", do_isspace, 0, none},
                 {"islower", do_islower, 0, none},
                 {"isupper", do_isupper, 0, none}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (strcmp(table[i].name, name) != 0) continue;
        kvi_jinja_value v[3];
        return kvi_jinja_bind(in->ctx, name, args, table[i].names, table[i].n, v) ? table[i].fn(in->ctx, s, v)
                                                                                  : kvi_jinja_undefined(NULL);
    }
    return kvi_jinja_fail(in->ctx, "method str.%s is not supported", name);
}
