/* methods_text.c - methods of strings that pad them, change their case, or take them apart at a separator. */
#include "methods.h"
#include "../base/utf8.h"

#include <string.h>
#include <utf8proc.h>

static kvi_jinja_value self_value(const kvi_jinja_str *s) { return (kvi_jinja_value){KVI_JINJA_STR, {.s = s}}; }

/* ------------------------------------------------------------------------------------------------------------ padding
 * --- */
static kvi_jinja_value padded(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, size_t left, size_t right, const char *fill,
                              size_t fill_len)
{
    kvi_jinja_builder b = {0};
    kvi_jinja_pad(ctx, &b, fill, fill_len, left);
    kvi_jinja_add_str(ctx, &b, s);
    kvi_jinja_pad(ctx, &b, fill, fill_len, right);
    return kvi_jinja_as_markup(ctx, kvi_jinja_built(ctx, &b), s->markup);
}

static size_t room(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, int64_t width)
{
    int64_t chars = (int64_t)kvi_jinja_str_chars(s);
    kvi_jinja_charge(ctx, s->len / 64);
    return width > chars ? (size_t)(width - chars) : 0;
}

kvi_jinja_value kvi_jinja_centered(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, int64_t width, const char *fill,
                                   size_t fill_len)
{
    size_t n = room(ctx, s, width), left = n / 2 + (n & (size_t)width & 1); /* CPython's choice for odd rooms */
    return padded(ctx, s, left, n - left, fill, fill_len);
}

static bool padding(kvi_jinja_ctx *ctx, const kvi_jinja_value *v, int64_t *width, const char **fill, size_t *len)
{
    const kvi_jinja_str *s;
    *fill = " ";
    *len = 1;
    if (!kvi_jinja_want_int(ctx, v[0], "width", width)) return false;
    if (kvi_jinja_absent(v[1])) return true;
    if (!kvi_jinja_want_str(ctx, v[1], "the fill character", &s)) return false;
    if (kvi_jinja_str_chars(s) != 1)
        return kvi_jinja_fail(ctx, "TypeError: The fill character must be exactly one character long"), false;
    *fill = s->data;
    *len = s->len;
    return true;
}

static METHOD(do_center)
{
    int64_t width;
    const char *fill;
    size_t len;
    return padding(ctx, v, &width, &fill, &len) ? kvi_jinja_centered(ctx, s, width, fill, len) : v[0];
}
static METHOD(do_ljust)
{
    int64_t width;
    const char *fill;
    size_t len;
    return padding(ctx, v, &width, &fill, &len) ? padded(ctx, s, 0, room(ctx, s, width), fill, len) : v[0];
}
static METHOD(do_rjust)
{
    int64_t width;
    const char *fill;
    size_t len;
    return padding(ctx, v, &width, &fill, &len) ? padded(ctx, s, room(ctx, s, width), 0, fill, len) : v[0];
}

static METHOD(do_zfill)
{
    int64_t width;
    kvi_jinja_builder b = {0};
    if (!kvi_jinja_want_int(ctx, v[0], "zfill", &width)) return v[0];
    size_t sign = s->len && (s->data[0] == '-' || s->data[0] == '+');
    kvi_jinja_add_range(ctx, &b, s, 0, sign);
    kvi_jinja_pad(ctx, &b, "0", 1, room(ctx, s, width));
    kvi_jinja_add_range(ctx, &b, s, sign, s->len);
    return kvi_jinja_as_markup(ctx, kvi_jinja_built(ctx, &b), s->markup);
}

static METHOD(do_expandtabs)
{
    int64_t size = 8, column = 0;
    kvi_jinja_builder b = {0};
    if (!kvi_jinja_absent(v[0]) && !kvi_jinja_want_int(ctx, v[0], "expandtabs", &size)) return v[0];
    for (size_t i = 0; i < s->len && kvi_jinja_charge(ctx, 1); i++) {
        char c = s->data[i];
        if (c != '\t') {
            kvi_jinja_add_range(ctx, &b, s, i, i + 1);
            column = c == '\n' || c == '\r' ? 0 : column + (((unsigned char)c & 0xc0) != 0x80);
        } else if (size > 0) {
            int64_t n = size - column % size;
            kvi_jinja_pad(ctx, &b, " ", 1, (size_t)n);
            column += n;
        }
    }
    return kvi_jinja_as_markup(ctx, kvi_jinja_built(ctx, &b), s->markup);
}

/* --------------------------------------------------------------------------------------------------------------- case
 * --- */
static METHOD(do_upper) { return (void)v, kvi_jinja_change_case(ctx, s, KVI_JINJA_UPPER); }
static METHOD(do_lower) { return (void)v, kvi_jinja_change_case(ctx, s, KVI_JINJA_LOWER); }
static METHOD(do_title) { return (void)v, kvi_jinja_change_case(ctx, s, KVI_JINJA_TITLE); }
static METHOD(do_capitalize) { return (void)v, kvi_jinja_change_case(ctx, s, KVI_JINJA_CAPITALIZE); }

/* Runs of one case at a time. */
static METHOD(do_swapcase)
{
    kvi_jinja_builder b = {0};
    (void)v;
    for (size_t from = 0, at = 0; from < s->len && kvi_jinja_charge(ctx, 4); from = at) {
        int run = -1;
        while (at < s->len) {
            uint32_t cp = 0;
            size_t n = kvi_utf8_decode(s->data + at, s->len - at, &cp);
            int now = utf8proc_isupper((utf8proc_int32_t)cp) ? 1 : utf8proc_islower((utf8proc_int32_t)cp) ? 0 : 2;
            if (run >= 0 && now != run) break;
            run = now;
            at += n ? n : 1;
        }
        kvi_jinja_value part = kvi_jinja_slice_bytes(ctx, s, from, at);
        if (!ctx->failed && run < 2)
            part = kvi_jinja_change_case(ctx, part.u.s, run ? KVI_JINJA_LOWER : KVI_JINJA_UPPER);
        if (!ctx->failed) kvi_jinja_add_str(ctx, &b, part.u.s);
    }
    return kvi_jinja_as_markup(ctx, kvi_jinja_built(ctx, &b), s->markup);
}

static METHOD(do_casefold)
{
    kvi_jinja_builder b = {0};
    (void)v;
    for (size_t at = 0; at < s->len && kvi_jinja_charge(ctx, 1);) {
        uint32_t cp = 0;
        utf8proc_int32_t folded[8];
        int boundary = 0;
        char utf8[4];
        size_t n = kvi_utf8_decode(s->data + at, s->len - at, &cp), from = at;
        utf8proc_ssize_t count = utf8proc_decompose_char((utf8proc_int32_t)cp, folded, 8, UTF8PROC_CASEFOLD, &boundary);
        at += n ? n : 1;
        if (count == 1 && folded[0] == (utf8proc_int32_t)cp) kvi_jinja_add_range(ctx, &b, s, from, at);
        else
            for (utf8proc_ssize_t i = 0; i < count && i < 8; i++)
                kvi_jinja_add(ctx, &b, utf8, kvi_utf8_encode(utf8, (uint32_t)folded[i]), KVI_JINJA_TEXT);
    }
    return kvi_jinja_as_markup(ctx, kvi_jinja_built(ctx, &b), s->markup);
}

/* ----------------------------------------------------------------------------------------------------- parts and bytes
 * --- */
static kvi_jinja_value three(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, size_t at, size_t end)
{
    kvi_jinja_seq *out = kvi_jinja_seq_new(ctx, KVI_JINJA_TUPLE);
    const size_t cuts[4] = {0, at, end, s->len};
    for (size_t i = 0; out && i < 3; i++)
        kvi_jinja_seq_push(ctx, out, kvi_jinja_slice_bytes(ctx, s, cuts[i], cuts[i + 1]));
    return ctx->failed ? kvi_jinja_undefined(NULL) : kvi_jinja_seq_value(out);
}

static kvi_jinja_value partition(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, kvi_jinja_value separator, bool last)
{
    const kvi_jinja_str *part;
    if (!kvi_jinja_want_str(ctx, separator, "partition", &part)) return separator;
    if (!part->len) return kvi_jinja_fail(ctx, "ValueError: empty separator");
    kvi_jinja_charge(ctx, s->len / 64);
    for (size_t i = 0; s->len >= part->len && i <= s->len - part->len; i++) {
        size_t at = last ? s->len - part->len - i : i;
        if (memcmp(s->data + at, part->data, part->len) == 0) return three(ctx, s, at, at + part->len);
    }
    return last ? three(ctx, s, 0, 0) : three(ctx, s, s->len, s->len);
}
static METHOD(do_partition) { return partition(ctx, s, v[0], false); }
static METHOD(do_rpartition) { return partition(ctx, s, v[0], true); }

/* utf-8 and ascii under their usual names. */
static int encoding(kvi_jinja_value name)
{
    char text[16];
    if (kvi_jinja_absent(name)) return 8;
    if (name.type != KVI_JINJA_STR || name.u.s->len >= sizeof text) return 0;
    size_t n = 0;
    for (size_t i = 0; i < name.u.s->len; i++)
        if (name.u.s->data[i] != '-' && name.u.s->data[i] != '_') text[n++] = (char)(name.u.s->data[i] | 0x20);
    text[n] = 0;
    return n == 4 && memcmp(text, "utf8", 4) == 0 ? 8 : strcmp(text, "ascii") == 0 ? 7 : 0;
}

static METHOD(do_encode)
{
    int bits = encoding(v[0]);
    if (!bits) return kvi_jinja_fail(ctx, "encode to anything but utf-8 and ascii is not supported");
    for (size_t i = 0; bits == 7 && i < s->len; i++)
        if ((unsigned char)s->data[i] >= 0x80)
            return kvi_jinja_fail(ctx, "UnicodeEncodeError: 'ascii' codec can't encode a character");
    return (kvi_jinja_value){KVI_JINJA_BYTES, {.s = s}};
}

kvi_jinja_value kvi_jinja_decode(kvi_jinja_ctx *ctx, const kvi_jinja_str *bytes, const kvi_jinja_args *args)
{
    static const char *const names[] = {"encoding", "errors"};
    kvi_jinja_value v[2];
    if (!kvi_jinja_bind(ctx, "decode", args, names, 2, v)) return v[0];
    if (!encoding(v[0])) return kvi_jinja_fail(ctx, "decode from anything but utf-8 and ascii is not supported");
    return self_value(bytes); /* it came from a string */
}

const kvi_jinja_method_row *kvi_jinja_text_method(const char *name)
{
    static const char *const tab_names[] = {"tabsize"}, *const encode_names[] = {"encoding", "errors"};
    static const kvi_jinja_method_row table[] = {{"center", do_center, 2, NULL},
                                                 {"ljust", do_ljust, 2, NULL},
                                                 {"rjust", do_rjust, 2, NULL},
                                                 {"zfill", do_zfill, 1, NULL},
                                                 {"expandtabs", do_expandtabs, 1, tab_names},
                                                 {"upper", do_upper, 0, NULL},
                                                 {"lower", do_lower, 0, NULL},
                                                 {"title", do_title, 0, NULL},
                                                 {"capitalize", do_capitalize, 0, NULL},
                                                 {"swapcase", do_swapcase, 0, NULL},
                                                 {"casefold", do_casefold, 0, NULL},
                                                 {"partition", do_partition, 1, NULL},
                                                 {"rpartition", do_rpartition, 1, NULL},
                                                 {"encode", do_encode, 2, encode_names}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i].name, name) == 0) return &table[i];
    return NULL;
}
