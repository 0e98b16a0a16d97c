/* pretokenize.c - a run of normalized text into pieces for the model. Owns: Split, ByteLevel, Metaspace,
 * WhitespaceSplit, Whitespace, Punctuation, Digits, UnicodeScripts, FixedLength and their sequence. To know: the steps are walked depth first, one
 * piece at a time, so each step needs only one list of splits and one buffer, whatever the text. */
#include "tokenizer_impl.h"
#include "../text/unicode.h"

#include <string.h>

typedef struct kvi_split {
    size_t start, end;
    bool match;
} split;

/* The splits of one step. */
typedef struct splitter {
    kvi_encoder *e;
    size_t op;
} splitter;

static kvrt_status add(const splitter *s, size_t start, size_t end, bool match)
{
    kvi_encoder *e = s->e;
    void *data = e->pre[s->op].items;
    if (!kvi_mem_grow(&data, &e->pre[s->op].cap, e->pre[s->op].n + 1, sizeof(split)))
        return kvi_error_nomem(e->error, e->pre[s->op].n * sizeof(split), "tokenizer");
    e->pre[s->op].items = data;
    e->pre[s->op].items[e->pre[s->op].n++] = (split){.start = start, .end = end, .match = match};
    return KVRT_OK;
}

/* ----------------------------------------------------------------------------------- finding matches and gaps --- */
static kvrt_status find_regex(const splitter *s, const kvi_regex *regex, const char *text, size_t len)
{
    size_t from = 0, done = 0;
    bool had_match = false;
    while (from <= len) {
        bool found;
        size_t start, end;
        KVI_TRY(kvi_regex_find(regex, &s->e->regex, &s->e->budget, text, len, from, &found, &start, &end, s->e->error));
        if (!found) break;
        /* An empty match right after a match does not count: step over one character. */
        if (start == end && had_match && done == end) {
            if (from >= len) break;
            uint32_t cp;
            size_t n = kvi_utf8_decode(text + from, len - from, &cp);
            from += n ? n : 1;
            continue;
        }
        if (start > done) KVI_TRY(add(s, done, start, false));
        KVI_TRY(add(s, start, end, true));
        done = from = end;
        had_match = true;
    }
    return done < len ? add(s, done, len, false) : KVRT_OK;
}

static kvrt_status find_literal(const splitter *s, const kvi_bytes *literal, const char *text, size_t len)
{
    size_t done = 0;
    for (size_t pos = 0; pos + literal->len <= len;) {
        const char *hit = memchr(text + pos, literal->data[0], len - literal->len + 1 - pos);
        if (!hit) break;
        pos = (size_t)(hit - text);
        if (memcmp(hit, literal->data, literal->len) != 0) {
            pos++;
            continue;
        }
        if (pos > done) KVI_TRY(add(s, done, pos, false));
        KVI_TRY(add(s, pos, pos + literal->len, true));
        done = pos += literal->len;
    }
    return done < len ? add(s, done, len, false) : KVRT_OK;
}

/* Each character of the class is a match of its own. */
static kvrt_status find_class(const splitter *s, bool (*member)(uint32_t), const char *text, size_t len)
{
    size_t done = 0;
    for (size_t pos = 0; pos < len;) {
        uint32_t cp = 0;
        size_t n = kvi_utf8_decode(text + pos, len - pos, &cp);
        if (member(cp)) {
            if (pos > done) KVI_TRY(add(s, done, pos, false));
            KVI_TRY(add(s, pos, pos + n, true));
            done = pos + n;
        }
        pos += n;
    }
    return done < len ? add(s, done, len, false) : KVRT_OK;
}

/* \w+|[^\w\s]+ */
static kvrt_status find_words(const splitter *s, const char *text, size_t len)
{
    size_t start = 0;
    int previous = -1;
    for (size_t pos = 0; pos < len;) {
        uint32_t cp = 0;
        size_t n = kvi_utf8_decode(text + pos, len - pos, &cp);
        int kind = kvi_cp_is_word(cp) ? 0 : kvi_cp_is_space(cp) ? 1 : 2;
        if (kind != previous && previous >= 0) {
            KVI_TRY(add(s, start, pos, previous != 1));
            start = pos;
        }
        previous = kind;
        pos += n;
    }
    return len ? add(s, start, len, previous != 1) : KVRT_OK;
}

/* A border wherever the script changes; what comes before the first character that has one is dropped, as the
 * reference library does. */
static kvrt_status find_scripts(const splitter *s, const char *text, size_t len)
{
    size_t start = SIZE_MAX;
    int last = -1;
    for (size_t pos = 0; pos < len;) {
        uint32_t cp = 0;
        size_t n = kvi_utf8_decode(text + pos, len - pos, &cp);
        int script = kvi_cp_script(cp);
        if (script >= 0 && script != last) {
            if (start != SIZE_MAX) KVI_TRY(add(s, start, pos, false));
            start = pos;
            last = script;
        }
        pos += n;
    }
    return start != SIZE_MAX ? add(s, start, len, false) : KVRT_OK;
}

static kvrt_status find_lengths(const splitter *s, size_t length, const char *text, size_t len)
{
    size_t start = 0, count = 0;
    for (size_t pos = 0; pos < len;) {
        uint32_t cp = 0;
        pos += kvi_utf8_decode(text + pos, len - pos, &cp);
        if (++count < length && pos < len) continue;
        KVI_TRY(add(s, start, pos, false));
        start = pos;
        count = 0;
    }
    return KVRT_OK;
}

/* ------------------------------------------------------------------------------------------------- behaviours --- */
static void merge_splits(split *items, size_t *n, kvi_behavior behavior)
{
    size_t kept = 0;
    bool previous_match = false;
    if (behavior == KVI_SPLIT_WITH_NEXT) {
        /* From the back: a match swallows what follows it, unless that is a match. Kept items gather at the end. */
        size_t first = *n;
        for (size_t i = *n; i-- > 0;) {
            if (items[i].match && !previous_match && first < *n) items[first].start = items[i].start;
            else items[--first] = items[i];
            previous_match = items[i].match;
        }
        memmove(items, items + first, (*n - first) * sizeof *items);
        *n -= first;
        return;
    }
    for (size_t i = 0; i < *n; i++) {
        split item = items[i];
        bool keep = true;
        switch (behavior) {
        case KVI_SPLIT_REMOVED: keep = !item.match; break;
        case KVI_SPLIT_WITH_PREVIOUS: keep = !(item.match && !previous_match && kept > 0); break;
        case KVI_SPLIT_CONTIGUOUS: keep = !(i > 0 && item.match == previous_match); break;
        case KVI_SPLIT_ISOLATED:
        case KVI_SPLIT_WITH_NEXT: break;
        }
        if (keep) items[kept++] = item;
        else if (behavior != KVI_SPLIT_REMOVED) items[kept - 1].end = item.end;
        previous_match = item.match;
    }
    *n = kept;
}

/* Hands the pieces to the next step. The list of this step stays untouched meanwhile: later steps have their own. */
static kvrt_status hand_on(kvi_encoder *e, size_t op, kvi_behavior behavior, bool invert, const char *text,
                           bool at_start)
{
    if (invert)
        for (size_t i = 0; i < e->pre[op].n; i++) e->pre[op].items[i].match = !e->pre[op].items[i].match;
    if (e->pre[op].n) merge_splits(e->pre[op].items, &e->pre[op].n, behavior);
    for (size_t i = 0; i < e->pre[op].n; i++) {
        split item = e->pre[op].items[i];
        if (item.end > item.start)
            KVI_TRY(kvi_pretokenize(e, op + 1, text + item.start, item.end - item.start, at_start && item.start == 0));
    }
    return KVRT_OK;
}

/* ------------------------------------------------------------------------------------------------------- steps --- */
static bool starts_with(const char *text, size_t len, const char *head, size_t head_len)
{
    return len >= head_len && memcmp(text, head, head_len) == 0;
}

/* The text in letters of the byte-level alphabet, stand-ins as the bytes they stand for. */
static void spell(kvi_buf *out, const char *text, size_t len, uint32_t byte_base)
{
    for (size_t pos = 0; pos < len;) {
        uint32_t cp = 0;
        size_t n = kvi_utf8_decode(text + pos, len - pos, &cp);
        if (byte_base != KVI_UTF8_NO_BASE && cp - byte_base < 128)
            kvi_utf8_append(out, kvi_byte_alphabet[cp - byte_base + 0x80]);
        else
            for (size_t i = 0; i < n; i++) kvi_utf8_append(out, kvi_byte_alphabet[(unsigned char)text[pos + i]]);
        pos += n;
    }
}

static kvrt_status produced(kvi_encoder *e, const kvi_buf *buf)
{
    if (buf->failed) return kvi_error_nomem(e->error, buf->len, "tokenizer");
    bool enough = buf->len <= e->budget.bytes && kvi_budget_take(&e->budget, buf->len);
    return enough ? KVRT_OK : kvi_budget_spent(e->error);
}

/* Splits the text as ByteLevel does and hands its pieces on in its alphabet. */
static kvrt_status spell_splits(kvi_encoder *e, size_t op, const char *text, bool at_start)
{
    kvi_buf *out = &e->pre[op].spelled;
    for (size_t i = 0; i < e->pre[op].n; i++) {
        split item = e->pre[op].items[i];
        kvi_buf_clear(out);
        spell(out, text + item.start, item.end - item.start, e->byte_base);
        KVI_TRY(produced(e, out));
        KVI_TRY(kvi_pretokenize(e, op + 1, out->data, out->len, at_start && item.start == 0));
    }
    return KVRT_OK;
}

static kvrt_status byte_level(kvi_encoder *e, size_t op, const char *text, size_t len, bool at_start)
{
    const kvi_pre_op *pre = &e->tok->pre[op];
    if (pre->add_prefix_space && !starts_with(text, len, " ", 1)) {
        kvi_buf *buf = &e->pre[op].buf;
        kvi_buf_clear(buf);
        kvi_buf_append_byte(buf, ' ');
        kvi_buf_append(buf, text, len);
        KVI_TRY(produced(e, buf));
        text = buf->data;
        len = buf->len;
    }
    splitter s = {.e = e, .op = op};
    KVI_TRY(pre->regex ? find_regex(&s, pre->regex, text, len) : add(&s, 0, len, false));
    return pre->spell ? spell_splits(e, op, text, at_start) : hand_on(e, op, KVI_SPLIT_ISOLATED, false, text, at_start);
}

static kvrt_status metaspace(kvi_encoder *e, size_t op, const char *text, size_t len, bool at_start)
{
    const kvi_pre_op *pre = &e->tok->pre[op];
    const kvi_bytes *mark = &pre->literal;
    kvi_buf *buf = &e->pre[op].buf;
    kvi_buf_clear(buf);
    bool begins = starts_with(text, len, mark->data, mark->len) || starts_with(text, len, " ", 1);
    bool prepend = pre->prepend == KVI_PREPEND_ALWAYS || (pre->prepend == KVI_PREPEND_FIRST && at_start);
    if (prepend && !begins) kvi_buf_append(buf, mark->data, mark->len);
    for (size_t pos = 0; pos < len;) {
        const char *space = memchr(text + pos, ' ', len - pos);
        size_t run = space ? (size_t)(space - text) - pos : len - pos;
        kvi_buf_append(buf, text + pos, run);
        if (space) kvi_buf_append(buf, mark->data, mark->len);
        pos += run + (space ? 1 : 0);
    }
    KVI_TRY(produced(e, buf));
    splitter s = {.e = e, .op = op};
    KVI_TRY(pre->split ? find_literal(&s, mark, buf->data, buf->len) : add(&s, 0, buf->len, false));
    return hand_on(e, op, pre->split ? KVI_SPLIT_WITH_NEXT : KVI_SPLIT_ISOLATED, false, buf->data, at_start);
}

kvrt_status kvi_pretokenize(kvi_encoder *e, size_t op, const char *text, size_t len, bool at_start)
{
    const kvi_tokenizer *tok = e->tok;
    if (len == 0) return KVRT_OK;
    if (op == tok->n_pre)
        return tok->model == KVI_MODEL_UNIGRAM ? kvi_unigram_encode(e, text, len) : kvi_bpe_encode(e, text, len);
    const kvi_pre_op *pre = &tok->pre[op];
    splitter s = {.e = e, .op = op};
    e->pre[op].n = 0;
    switch (pre->kind) {
    case KVI_PRE_BYTE_LEVEL: return byte_level(e, op, text, len, at_start);
    case KVI_PRE_METASPACE: return metaspace(e, op, text, len, at_start);
    case KVI_PRE_SPLIT:
        KVI_TRY(pre->regex ? find_regex(&s, pre->regex, text, len) : find_literal(&s, &pre->literal, text, len));
        return hand_on(e, op, pre->behavior, pre->invert, text, at_start);
    case KVI_PRE_WHITESPACE_SPLIT:
        KVI_TRY(find_class(&s, kvi_cp_is_space, text, len));
        return hand_on(e, op, KVI_SPLIT_REMOVED, false, text, at_start);
    case KVI_PRE_WHITESPACE:
        KVI_TRY(find_words(&s, text, len));
        return hand_on(e, op, KVI_SPLIT_REMOVED, true, text, at_start);
    case KVI_PRE_PUNCTUATION:
        KVI_TRY(find_class(&s, kvi_cp_is_punctuation, text, len));
        return hand_on(e, op, pre->behavior, false, text, at_start);
    case KVI_PRE_DIGITS:
        KVI_TRY(find_class(&s, kvi_cp_is_numeric, text, len));
        return hand_on(e, op, pre->individual ? KVI_SPLIT_ISOLATED : KVI_SPLIT_CONTIGUOUS, false, text, at_start);
    case KVI_PRE_SCRIPTS:
        KVI_TRY(find_scripts(&s, text, len));
        return hand_on(e, op, KVI_SPLIT_ISOLATED, false, text, at_start);
    case KVI_PRE_FIXED_LENGTH:
        KVI_TRY(find_lengths(&s, pre->length, text, len));
        return hand_on(e, op, KVI_SPLIT_ISOLATED, false, text, at_start);
    }
    return KVRT_OK;
}
