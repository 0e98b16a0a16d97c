/* wordwrap.c - the filter wordwrap: Python's textwrap.wrap of each line, words broken at hyphens and, when they are
 * longer than a line, anywhere. */
#include "args.h"
#include "../base/utf8.h"

#include <string.h>

/* A line as characters; at[n] is its end in bytes. */
typedef struct line {
    kvi_jinja_ctx *ctx;
    const kvi_jinja_str *s;
    uint32_t *cp; // (n)
    size_t *at;   // (n + 1)
    size_t n;
    bool hyphens;
} line;

static bool is_blank(const line *l, size_t i) { return l->cp[i] == ' ' || (l->cp[i] >= '\t' && l->cp[i] <= '\r'); }

static bool is_letter(const line *l, size_t i)
{
    return i < l->n && kvi_jinja_is_word(l->cp[i]) && !kvi_jinja_is_decimal(l->cp[i]);
}

static bool is_word_or_mark(const line *l, size_t i)
{
    uint32_t c = l->cp[i];
    return kvi_jinja_is_word(c) || (c < 0x80 && c && strchr("!\"'&.,?", (int)c));
}

/* Two or more dashes at i, behind a word and before one: their end, else 0. */
static size_t em_dash(const line *l, size_t i)
{
    size_t end = i;
    while (end < l->n && l->cp[end] == '-') end++;
    kvi_jinja_charge(l->ctx, (end - i) / 8);
    return i > 0 && end - i >= 2 && is_word_or_mark(l, i - 1) && end < l->n && kvi_jinja_is_word(l->cp[end]) ? end : 0;
}

/* A hyphen at j that a line may end with: letters around it. */
static bool breaks_after(const line *l, size_t j)
{
    if (l->cp[j] != '-' || j < 2 || !is_letter(l, j - 1)) return false;
    bool before = is_letter(l, j - 2) || (j >= 3 && l->cp[j - 2] == '-' && is_letter(l, j - 3));
    bool after =
        is_letter(l, j + 1) && (is_letter(l, j + 2) || (j + 2 < l->n && l->cp[j + 2] == '-' && is_letter(l, j + 3)));
    return before && after;
}

/* End of the piece that begins at i: white space, a word, a part of a hyphenated word, or dashes. */
static size_t chunk_end(const line *l, size_t i)
{
    size_t j = i + 1;
    if (is_blank(l, i)) {
        while (j < l->n && is_blank(l, j)) j++;
        return j;
    }
    size_t dash = l->hyphens ? em_dash(l, i) : 0;
    if (dash) return dash;
    for (; j < l->n && !is_blank(l, j) && kvi_jinja_charge(l->ctx, 1); j++) {
        if (!l->hyphens) continue;
        if (breaks_after(l, j)) return j + 1;
        if (l->cp[j] == '-' && em_dash(l, j)) return j;
    }
    return j;
}

static bool all_space(const line *l, size_t from, size_t to)
{
    while (from < to && kvi_jinja_is_space(l->cp[from])) from++;
    return from == to;
}

/* Where a word longer than the line is cut when `room` characters are left: behind its last hyphen, or at the edge. */
static size_t cut_word(const line *l, size_t from, size_t to, size_t room)
{
    if (!l->hyphens || to - from <= room) return room < to - from ? room : to - from;
    size_t hyphen = room;
    while (hyphen > 0 && l->cp[from + hyphen - 1] != '-') hyphen--;
    if (hyphen < 2) return room;
    for (size_t i = 0; i + 1 < hyphen; i++)
        if (l->cp[from + i] != '-') return hyphen;
    return room;
}

static void add_line(line *l, kvi_jinja_builder *b, const kvi_jinja_str *separator, bool *first, size_t from, size_t to)
{
    if (from == to) return;
    if (!*first) kvi_jinja_add_str(l->ctx, b, separator);
    *first = false;
    kvi_jinja_add_range(l->ctx, b, l->s, l->at[from], l->at[to]);
}

/* A line of output is always one range of the input: pieces are only left out at its ends. */
static void wrap(line *l, kvi_jinja_builder *b, size_t width, bool break_long, const kvi_jinja_str *separator)
{
    bool first = true;
    for (size_t at = 0, end = 0; at < l->n && kvi_jinja_charge(l->ctx, 1);) {
        if (end <= at) end = chunk_end(l, at);
        if (!first && all_space(l, at, end)) at = end;
        size_t start = at, last = at; /* [start, at) is the line, its last piece begins at `last` */
        while (at < l->n) {
            if (end <= at) end = chunk_end(l, at);
            if (end - start > width) break;
            last = at;
            at = end;
        }
        if (at < l->n && end - at > width) {
            if (break_long) {
                size_t cut = cut_word(l, at, end, width - (at - start));
                last = at; /* an empty piece is one, too: it saves the white space before it */
                at += cut;
            } else if (at == start) last = at, at = end;
        }
        add_line(l, b, separator, &first, start, at > start && all_space(l, last, at) ? last : at);
    }
}

static bool read_line(line *l, const kvi_jinja_str *s)
{
    l->s = s;
    l->n = 0;
    l->cp = kvi_jinja_alloc(l->ctx, (s->len + 1) * sizeof *l->cp);
    l->at = kvi_jinja_alloc(l->ctx, (s->len + 1) * sizeof *l->at);
    if (!l->cp || !l->at) return false;
    for (size_t at = 0; at < s->len;) {
        size_t n = kvi_utf8_decode(s->data + at, s->len - at, &l->cp[l->n]);
        l->at[l->n++] = at;
        at += n ? n : 1;
    }
    l->at[l->n] = s->len;
    return true;
}

kvi_jinja_value kvi_jinja_wordwrap(kvi_jinja_interp *in, kvi_jinja_value x, const kvi_jinja_args *args)
{
    BIND("wordwrap", 4, "width", "break_long_words", "wrapstring", "break_on_hyphens");
    kvi_jinja_ctx *ctx = in->ctx;
    int64_t width = 79;
    const kvi_jinja_str *separator, *s;
    kvi_jinja_builder b = {0};
    kvi_jinja_value newline = kvi_jinja_given(v[2]) ? v[2] : kvi_jinja_str_static(ctx, "\n");
    if (x.type == KVI_JINJA_UNDEFINED) return kvi_jinja_use_undefined(ctx, x);
    if (!kvi_jinja_want_str(ctx, x, "wordwrap", &s) || !kvi_jinja_want_str(ctx, newline, "wordwrap", &separator) ||
        (!kvi_jinja_absent(v[0]) && !kvi_jinja_want_int(ctx, v[0], "wordwrap", &width)))
        return x;
    kvi_jinja_value lines = kvi_jinja_str_method(in, s, "splitlines", &(kvi_jinja_args){NULL, 0, NULL, NULL, 0});
    line l = {.ctx = ctx, .hyphens = kvi_jinja_flag(v[3], true)};
    if (!ctx->failed && width <= 0 && lines.u.seq->n)
        return kvi_jinja_fail(ctx, "ValueError: invalid width %lld (must be > 0)", (long long)width);
    for (size_t i = 0; !ctx->failed && i < lines.u.seq->n; i++) {
        if (i) kvi_jinja_add_str(ctx, &b, separator);
        if (read_line(&l, lines.u.seq->items[i].u.s))
            wrap(&l, &b, (size_t)width, kvi_jinja_flag(v[1], true), separator);
    }
    return kvi_jinja_built(ctx, &b);
}
