/* normalize.c - the normalizers of tokenizer.json. Owns: Unicode forms, lower case, strip, accents, replace, prepend,
 * NMT; the Precompiled map is in normalize_charsmap.c. To know: where provenance is mixed, every output byte carries
 * the mark of the input it came from (user text wins within one Unicode segment), so that user text stays recognizable
 * after any rewriting. */
#include "tokenizer_impl.h"
#include "normalize_parts.h"
#include "../text/unicode.h"

#include <string.h>
#include <utf8proc.h>

/* Room for n more bytes; beyond the limit the text is full and stays as it is. */
static bool has_room(kvi_norm_text *out, size_t n)
{
    out->full |= n > out->limit - out->text.len;
    return !out->full;
}

void kvi_norm_emit(kvi_norm_text *out, const char *bytes, size_t n, char mark)
{
    if (!has_room(out, n)) return;
    kvi_buf_append(&out->text, bytes, n);
    if (!out->marked) return;
    for (size_t i = 0; i < n; i++) kvi_buf_append_byte(&out->mark, mark);
}

static void emit_cp(kvi_norm_text *out, uint32_t cp, char mark)
{
    char bytes[4];
    kvi_norm_emit(out, bytes, kvi_utf8_encode(bytes, cp), mark);
}

static char mark_at(const kvi_view *in, size_t pos) { return in->mark && pos < in->len ? in->mark[pos] : 0; }

/* Copies a stretch with its marks. */
static void copy(kvi_norm_text *out, const kvi_view *in, size_t start, size_t end)
{
    if (end <= start || !has_room(out, end - start)) return;
    kvi_buf_append(&out->text, in->text + start, end - start);
    if (in->mark) kvi_buf_append(&out->mark, in->mark + start, end - start);
}

/* ----------------------------------------------------------------------------------------------- Unicode forms --- */
/* A segment: code points that may reorder or compose with one another, decomposed. */
typedef struct segment {
    utf8proc_int32_t *cps;
    size_t n, cap;
    char mark, first_mark; /* of all its code points together; of the first */
} segment;

static bool decompose(segment *s, uint32_t cp, utf8proc_option_t options)
{
    utf8proc_int32_t parts[32]; /* the longest compatibility decomposition has 18 */
    int bound = 0;
    utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)cp, parts, 32, options, &bound);
    if (n < 0 || n > 32) {
        parts[0] = (utf8proc_int32_t)cp;
        n = 1;
    }
    void *data = s->cps;
    if (!kvi_mem_grow(&data, &s->cap, s->n + (size_t)n, sizeof *s->cps)) return false;
    s->cps = data;
    memcpy(s->cps + s->n, parts, (size_t)n * sizeof *parts);
    s->n += (size_t)n;
    return true;
}

static int combining_class(utf8proc_int32_t cp)
{
    if (cp < 0x300 || kvi_cp_is_unformed((uint32_t)cp)) return 0;
    return utf8proc_get_property(cp)->combining_class;
}

/* Nothing that begins with cp reorders or composes with what is before: class 0, no mark, no Hangul vowel or final. */
static bool is_boundary(utf8proc_int32_t cp)
{
    if (cp < 0x300) return true;
    if (combining_class(cp) != 0 || kvi_cp_is_mark((uint32_t)cp)) return false;
    return !(cp >= 0x1161 && cp <= 0x1175) && !(cp >= 0x11a8 && cp <= 0x11c2);
}

/* Canonical order: stable by combining class within each run of non-starters. Counting sort, because a text may be a
 * megabyte of marks, on which an insertion sort (utf8proc's own) is quadratic. */
static bool reorder(segment *s)
{
    utf8proc_int32_t *sorted = NULL;
    for (size_t i = 0; i < s->n;) {
        size_t end = i;
        bool in_order = true;
        for (int last = 0; end < s->n && combining_class(s->cps[end]) != 0; end++) {
            int class = combining_class(s->cps[end]);
            in_order = in_order && class >= last;
            last = class;
        }
        if (!in_order) {
            if (!sorted) sorted = kvi_mem_alloc(s->n * sizeof *sorted);
            if (!sorted) return false;
            size_t first[257] = {0};
            for (size_t k = i; k < end; k++) first[combining_class(s->cps[k]) + 1]++;
            for (size_t c = 1; c < 257; c++) first[c] += first[c - 1];
            for (size_t k = i; k < end; k++) sorted[first[combining_class(s->cps[k])]++] = s->cps[k];
            memcpy(s->cps + i, sorted, (end - i) * sizeof *sorted);
        }
        i = end > i ? end : i + 1;
    }
    kvi_mem_free(sorted);
    return true;
}

static bool flush(segment *s, utf8proc_option_t options, kvi_norm_text *out)
{
    if (s->n > 1 && !reorder(s)) return false;
    utf8proc_ssize_t n = (utf8proc_ssize_t)s->n;
    utf8proc_int32_t first = n ? s->cps[0] : 0;
    if ((options & UTF8PROC_COMPOSE) && n > 1) n = utf8proc_normalize_utf32(s->cps, n, options);
    /* A first code point that nothing was joined to stays what it was, whatever comes after it. */
    for (utf8proc_ssize_t i = 0; i < n; i++)
        emit_cp(out, (uint32_t)s->cps[i], i == 0 && s->cps[0] == first ? s->first_mark : s->mark);
    s->n = 0;
    s->mark = s->first_mark = 0;
    return true;
}

/* Code points that a form leaves as they are when they stand between boundaries. */
static bool is_plain(const char *text, size_t len, size_t pos)
{
    return (unsigned char)text[pos] < 0x80 && (pos + 1 == len || (unsigned char)text[pos + 1] < 0x80);
}

static bool unicode_form(const kvi_view *in, kvi_norm_text *out, utf8proc_option_t options)
{
    segment s = {0};
    const char *text = in->text;
    size_t len = in->len;
    bool ok = true;
    for (size_t pos = 0; pos < len && ok;) {
        size_t run = pos;
        while (run < len && is_plain(text, len, run)) run++;
        if (run > pos) {
            ok = flush(&s, options, out);
            copy(out, in, pos, run);
            pos = run;
            continue;
        }
        uint32_t cp = 0;
        size_t n = kvi_utf8_decode(text + pos, len - pos, &cp), before = s.n;
        if (kvi_cp_is_unformed(cp)) { /* utf8proc may know it, the reference library does not: it stands alone */
            ok = flush(&s, options, out);
            copy(out, in, pos, pos + n);
            pos += n;
            continue;
        }
        bool begins = before == 0;
        ok = decompose(&s, cp, options);
        if (ok && before > 0 && is_boundary(s.cps[before])) {
            /* The new code point begins a segment of its own: flush the part before it, then keep it. */
            size_t n_new = s.n - before;
            utf8proc_int32_t parts[32];
            memcpy(parts, s.cps + before, n_new * sizeof *parts);
            s.n = before;
            ok = flush(&s, options, out);
            memcpy(s.cps, parts, n_new * sizeof *parts);
            s.n = n_new;
            begins = true;
        }
        if (begins) s.first_mark = mark_at(in, pos);
        s.mark = (char)(s.mark | mark_at(in, pos));
        pos += n;
    }
    ok = ok && flush(&s, options, out);
    kvi_mem_free(s.cps);
    return ok;
}

/* ------------------------------------------------------------------------------------------------- other kinds --- */
/* True when it took something from the front. */
static bool map_each(const kvi_view *in, kvi_norm_text *out, kvi_norm_kind kind)
{
    bool front_gone = false;
    for (size_t pos = 0; pos < in->len;) {
        uint32_t cp = 0;
        size_t n = kvi_utf8_decode(in->text + pos, in->len - pos, &cp), before = out->text.len;
        char mark = mark_at(in, pos);
        if (kind == KVI_NORM_LOWERCASE) {
            if (!has_room(out, 4)) return false;
            kvi_cp_append_lower(&out->text, cp);
            for (size_t i = before; out->marked && i < out->text.len; i++) kvi_buf_append_byte(&out->mark, mark);
        } else if (kind == KVI_NORM_STRIP_ACCENTS) {
            if (cp < 0x300 || !kvi_cp_is_mark(cp)) copy(out, in, pos, pos + n);
        } else { /* NMT */
            bool gone = (cp >= 1 && cp <= 8) || cp == 0xb || (cp >= 0xe && cp <= 0x1f) || cp == 0x7f || cp == 0x8f ||
                        cp == 0x9f;
            bool space = cp == 9 || cp == 0xa || cp == 0xc || cp == 0xd || cp == 0x1680 ||
                         (cp >= 0x200b && cp <= 0x200f) || cp == 0x2028 || cp == 0x2029 || cp == 0x2581 ||
                         cp == 0xfeff || cp == 0xfffd;
            if (space) kvi_norm_emit(out, " ", 1, mark);
            else if (!gone) copy(out, in, pos, pos + n);
        }
        front_gone |= pos == 0 && out->text.len == 0;
        pos += n;
    }
    return front_gone;
}

/* True when it took something from the front. */
static bool strip(const kvi_norm_op *op, const kvi_view *in, kvi_norm_text *out)
{
    size_t start = 0, end = in->len;
    uint32_t cp = 0;
    while (op->left && start < end) {
        size_t n = kvi_utf8_decode(in->text + start, end - start, &cp);
        if (!kvi_cp_is_space(cp)) break;
        start += n;
    }
    while (op->right && end > start) {
        size_t previous = kvi_utf8_prev(in->text, end);
        kvi_utf8_decode(in->text + previous, end - previous, &cp);
        if (!kvi_cp_is_space(cp)) break;
        end = previous;
    }
    copy(out, in, start, end);
    return start > 0;
}

static void replace_literal(const kvi_norm_op *op, const kvi_view *in, kvi_norm_text *out)
{
    const kvi_bytes *pattern = &op->pattern;
    size_t done = 0, len = in->len;
    for (size_t pos = 0; pos + pattern->len <= len && !out->full;) {
        const char *hit = memchr(in->text + pos, pattern->data[0], len - pattern->len + 1 - pos);
        if (!hit) break;
        pos = (size_t)(hit - in->text);
        if (memcmp(hit, pattern->data, pattern->len) != 0) {
            pos++;
            continue;
        }
        copy(out, in, done, pos);
        kvi_norm_emit(out, op->content.data, op->content.len, mark_at(in, pos));
        done = pos += pattern->len;
    }
    copy(out, in, done, len);
}

static kvrt_status replace_regex(const kvi_norm_op *op, const kvi_view *in, kvi_norm_text *out,
                                 kvi_regex_scratch *scratch, kvi_budget *budget, kvrt_error *error)
{
    size_t done = 0, pos = 0, len = in->len;
    while (pos <= len && !out->full) {
        bool found;
        size_t start, end;
        KVI_TRY(kvi_regex_find(op->regex, scratch, budget, in->text, len, pos, &found, &start, &end, error));
        if (!found) break;
        copy(out, in, done, start);
        kvi_norm_emit(out, op->content.data, op->content.len, mark_at(in, start < len ? start : len - 1));
        done = end;
        pos = end > start ? end : end + 1;
        while (pos < len && ((unsigned char)in->text[pos] & 0xc0) == 0x80) pos++;
    }
    copy(out, in, done, len);
    return KVRT_OK;
}

/* ------------------------------------------------------------------------------------------------------- chain --- */
static kvrt_status run_op(const kvi_norm_op *op, const kvi_view *in, kvi_norm_text *out, bool *from_start,
                          kvi_regex_scratch *scratch, kvi_budget *budget, kvrt_error *error)
{
    bool ok = true;
    switch (op->kind) {
    case KVI_NORM_NFC: ok = unicode_form(in, out, UTF8PROC_STABLE | UTF8PROC_COMPOSE); break;
    case KVI_NORM_NFD: ok = unicode_form(in, out, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE); break;
    case KVI_NORM_NFKC: ok = unicode_form(in, out, UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT); break;
    case KVI_NORM_NFKD: ok = unicode_form(in, out, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT); break;
    case KVI_NORM_LOWERCASE:
    case KVI_NORM_STRIP_ACCENTS:
    case KVI_NORM_NMT: *from_start = !map_each(in, out, op->kind) && *from_start; break;
    case KVI_NORM_STRIP: *from_start = !strip(op, in, out) && *from_start; break;
    case KVI_NORM_REPLACE:
        if (op->regex) KVI_TRY(replace_regex(op, in, out, scratch, budget, error));
        else replace_literal(op, in, out);
        break;
    case KVI_NORM_PREPEND:
        kvi_norm_emit(out, op->content.data, op->content.len, mark_at(in, 0));
        copy(out, in, 0, in->len);
        break;
    case KVI_NORM_PRECOMPILED: kvi_charsmap_apply(op, in, out); break;
    case KVI_NORM_BYTE_LEVEL:
        for (size_t i = 0; i < in->len; i++)
            emit_cp(out, kvi_byte_alphabet[(unsigned char)in->text[i]], mark_at(in, i));
        break;
    }
    if (!ok || out->text.failed || out->mark.failed) return kvi_error_nomem(error, in->len, "normalized text");
    return KVRT_OK;
}

kvrt_status kvi_normalize(const kvi_norm_op *ops, size_t n_ops, kvi_view *view, kvi_norm_text buffers[2],
                          kvi_regex_scratch *scratch, kvi_budget *budget, kvrt_error *error)
{
    for (size_t i = 0; i < n_ops && view->len > 0; i++) {
        kvi_norm_text *out = &buffers[i % 2];
        kvi_buf_clear(&out->text);
        kvi_buf_clear(&out->mark);
        out->marked = view->mark != NULL;
        out->limit = budget->bytes;
        out->full = false;
        bool from_start = view->at_start;
        KVI_TRY(run_op(&ops[i], view, out, &from_start, scratch, budget, error));
        if (out->full || !kvi_budget_take(budget, view->len + out->text.len)) return kvi_budget_spent(error);
        *view = (kvi_view){.text = out->text.len ? out->text.data : "",
                           .len = out->text.len,
                           .at_start = from_start,
                           .mark = !out->marked    ? NULL
                                   : out->mark.len ? out->mark.data
                                                   : ""};
    }
    return KVRT_OK;
}
