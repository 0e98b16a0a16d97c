/* value.c - context, strings with provenance, sequences, dictionaries. See value.h. */
#include "value.h"
#include "../text/unicode.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

kvi_jinja_value kvi_jinja_fail(kvi_jinja_ctx *ctx, const char *format, ...)
{
    if (!ctx->failed) {
        char text[400];
        va_list args;
        va_start(args, format);
        vsnprintf(text, sizeof text, format, args);
        va_end(args);
        /* A cut in the middle of a code point would make the message invalid UTF-8. */
        text[kvi_utf8_valid_prefix(text, strlen(text))] = 0;
        if (ctx->line)
            kvi_error_set(ctx->error, KVRT_TEMPLATE, "%s: line %u, column %u: %s", ctx->name, ctx->line, ctx->column,
                          text);
        else kvi_error_set(ctx->error, KVRT_TEMPLATE, "%s: %s", ctx->name, text);
    }
    ctx->failed = true;
    return kvi_jinja_undefined(NULL);
}

void *kvi_jinja_alloc(kvi_jinja_ctx *ctx, size_t bytes)
{
    if (ctx->failed) return NULL;
    if (bytes > ctx->max_bytes || ctx->arena.total_bytes > ctx->max_bytes - bytes) {
        kvi_jinja_fail(ctx, "needs more than %zu MiB of memory", ctx->max_bytes >> 20);
        return NULL;
    }
    /* Zeroing and filling memory is work: the step limit covers it too. */
    if (!kvi_jinja_charge(ctx, bytes / 512)) return NULL;
    void *block = kvi_arena_alloc(&ctx->arena, bytes ? bytes : 1);
    if (!block) {
        kvi_error_nomem(ctx->error, bytes, "chat template values");
        ctx->failed = true;
    }
    return block;
}

bool kvi_jinja_charge(kvi_jinja_ctx *ctx, uint64_t steps)
{
    if (ctx->failed) return false;
    ctx->steps += steps;
    if (ctx->steps <= ctx->max_steps) return true;
    kvi_jinja_fail(ctx, "more than %llu steps of work", (unsigned long long)ctx->max_steps);
    return false;
}

/* -------------------------------------------------------------------------------------------------------- strings
 * --- */
static kvi_jinja_value make_str(kvi_jinja_ctx *ctx, const char *data, size_t len, int tag)
{
    kvi_jinja_str *s = kvi_jinja_alloc(ctx, sizeof *s);
    if (!s) return kvi_jinja_undefined(NULL);
    s->data = data;
    s->len = len;
    s->tag = tag;
    return (kvi_jinja_value){KVI_JINJA_STR, {.s = s}};
}

kvi_jinja_value kvi_jinja_str_copy(kvi_jinja_ctx *ctx, const char *data, size_t len, int tag)
{
    char *copy = kvi_jinja_alloc(ctx, len + 1);
    if (!copy) return kvi_jinja_undefined(NULL);
    if (len) memcpy(copy, data, len);
    return make_str(ctx, copy, len, tag);
}

kvi_jinja_value kvi_jinja_str_static(kvi_jinja_ctx *ctx, const char *text)
{
    return make_str(ctx, text, strlen(text), KVI_JINJA_TEXT);
}

bool kvi_jinja_str_is(const kvi_jinja_str *s, const char *text)
{
    size_t len = strlen(text);
    return s->len == len && memcmp(s->data, text, len) == 0;
}

size_t kvi_jinja_str_chars(const kvi_jinja_str *s)
{
    size_t n = 0;
    for (size_t i = 0; i < s->len; i++) n += ((unsigned char)s->data[i] & 0xc0) != 0x80;
    return n;
}

bool kvi_jinja_is_space(uint32_t cp) { return (cp >= 0x1c && cp <= 0x1f) || kvi_cp_is_space(cp); }

/* Runs of [from, to), moved to start at 0; shares nothing but the bytes. */
kvi_jinja_value kvi_jinja_slice_bytes(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, size_t from, size_t to)
{
    kvi_jinja_value out = make_str(ctx, s->data + from, to - from, s->tag);
    if (ctx->failed) return out;
    kvi_jinja_str *cut = (kvi_jinja_str *)(uintptr_t)out.u.s;
    cut->markup = s->markup;
    if (!s->runs) return out;
    size_t first = 0, last;
    while (first + 1 < s->n_runs && s->runs[first].end <= from) first++;
    for (last = first; last + 1 < s->n_runs && s->runs[last].end < to; last++) {
    }
    cut->tag = s->runs[first].tag;
    if (first == last) return out;
    kvi_jinja_run *runs = kvi_jinja_alloc(ctx, (last - first + 1) * sizeof *runs);
    if (!runs) return out;
    for (size_t i = first; i <= last; i++)
        runs[i - first] = (kvi_jinja_run){(s->runs[i].end < to ? s->runs[i].end : to) - from, s->runs[i].tag};
    cut->runs = runs;
    cut->n_runs = last - first + 1;
    return out;
}

/* The arena cannot shrink, so growth doubles; the garbage is at most as large as the result. */
static bool grow(kvi_jinja_ctx *ctx, void **data, size_t *cap, size_t need, size_t have, size_t size)
{
    if (need <= *cap) return true;
    size_t want = *cap ? *cap * 2 : 16;
    while (want < need) want *= 2;
    void *bigger = want > SIZE_MAX / 64 ? NULL : kvi_jinja_alloc(ctx, want * size);
    if (!bigger) {
        kvi_jinja_fail(ctx, "a value is too large");
        return false;
    }
    if (have) memcpy(bigger, *data, have * size);
    *data = bigger;
    *cap = want;
    return true;
}

void kvi_jinja_add(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, const char *data, size_t len, int tag)
{
    if (ctx->failed || !len) return;
    if (len > SIZE_MAX / 4 - b->len || !grow(ctx, (void **)&b->data, &b->cap, b->len + len + 1, b->len, 1)) return;
    kvi_jinja_charge(ctx, len / 512);
    memcpy(b->data + b->len, data, len);
    b->len += len;
    if (b->n_runs && b->runs[b->n_runs - 1].tag == tag) {
        b->runs[b->n_runs - 1].end = b->len;
        return;
    }
    if (!grow(ctx, (void **)&b->runs, &b->cap_runs, b->n_runs + 1, b->n_runs, sizeof *b->runs)) return;
    b->runs[b->n_runs++] = (kvi_jinja_run){b->len, tag};
}

void kvi_jinja_add_range(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, const kvi_jinja_str *s, size_t from, size_t to)
{
    if (!s->runs) {
        kvi_jinja_add(ctx, b, s->data + from, to - from, s->tag);
        return;
    }
    for (size_t i = 0, start = 0; i < s->n_runs && start < to; start = s->runs[i++].end) {
        size_t lo = start > from ? start : from, hi = s->runs[i].end < to ? s->runs[i].end : to;
        if (lo < hi) kvi_jinja_add(ctx, b, s->data + lo, hi - lo, s->runs[i].tag);
    }
}

void kvi_jinja_add_str(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, const kvi_jinja_str *s)
{
    kvi_jinja_add_range(ctx, b, s, 0, s->len);
}

kvi_jinja_value kvi_jinja_built(kvi_jinja_ctx *ctx, const kvi_jinja_builder *b)
{
    kvi_jinja_value out = make_str(ctx, b->len ? b->data : "", b->len, b->n_runs ? b->runs[0].tag : KVI_JINJA_LITERAL);
    if (ctx->failed || b->n_runs < 2) return out;
    kvi_jinja_str *s = (kvi_jinja_str *)(uintptr_t)out.u.s;
    s->runs = b->runs;
    s->n_runs = b->n_runs;
    return out;
}

void kvi_jinja_pad(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, const char *fill, size_t len, size_t count)
{
    char block[256];
    size_t n = 0, per = sizeof block / len;
    for (; n < per && n < count; n++) memcpy(block + n * len, fill, len);
    for (; count && !ctx->failed; count -= n < count ? n : count)
        kvi_jinja_add(ctx, b, block, (n < count ? n : count) * len, KVI_JINJA_TEXT);
}

/* ------------------------------------------------------------------------------------------------------ sequences
 * --- */
kvi_jinja_seq *kvi_jinja_seq_new(kvi_jinja_ctx *ctx, kvi_jinja_seq_kind kind)
{
    kvi_jinja_seq *seq = kvi_jinja_alloc(ctx, sizeof *seq);
    if (seq) seq->kind = kind;
    return seq;
}

void kvi_jinja_seq_push(kvi_jinja_ctx *ctx, kvi_jinja_seq *seq, kvi_jinja_value value)
{
    if (ctx->failed || !grow(ctx, (void **)&seq->items, &seq->cap, seq->n + 1, seq->n, sizeof *seq->items)) return;
    seq->items[seq->n++] = value;
}

kvi_jinja_value kvi_jinja_pair(kvi_jinja_ctx *ctx, kvi_jinja_value a, kvi_jinja_value b)
{
    kvi_jinja_seq *pair = kvi_jinja_seq_new(ctx, KVI_JINJA_TUPLE);
    if (!pair) return kvi_jinja_undefined(NULL);
    kvi_jinja_seq_push(ctx, pair, a);
    kvi_jinja_seq_push(ctx, pair, b);
    return kvi_jinja_seq_value(pair);
}

bool kvi_jinja_is_iterable(kvi_jinja_value value)
{
    return value.type == KVI_JINJA_UNDEFINED || value.type == KVI_JINJA_STR || value.type == KVI_JINJA_SEQ ||
           value.type == KVI_JINJA_DICT || value.type == KVI_JINJA_LOOP;
}

/* The characters are plain strings, also those of a safe one. */
static void iterate_str(kvi_jinja_ctx *ctx, kvi_jinja_seq *out, const kvi_jinja_str *whole)
{
    kvi_jinja_str plain = *whole, *s = &plain;
    plain.markup = false;
    for (size_t at = 0; at < s->len && kvi_jinja_charge(ctx, 1);) {
        size_t next = at + 1;
        while (next < s->len && ((unsigned char)s->data[next] & 0xc0) == 0x80) next++;
        kvi_jinja_seq_push(ctx, out, kvi_jinja_slice_bytes(ctx, s, at, next));
        at = next;
    }
}

kvi_jinja_seq *kvi_jinja_iterate(kvi_jinja_ctx *ctx, kvi_jinja_value value)
{
    if (value.type == KVI_JINJA_SEQ && value.u.seq->kind != KVI_JINJA_ITERATOR) return value.u.seq;
    kvi_jinja_seq *out = kvi_jinja_seq_new(ctx, KVI_JINJA_LIST);
    if (!out) return NULL;
    switch (value.type) {
    case KVI_JINJA_SEQ:
        if (value.u.seq->consumed) return out;
        value.u.seq->consumed = true;
        *out = *value.u.seq;
        out->kind = KVI_JINJA_LIST;
        return out;
    case KVI_JINJA_UNDEFINED: return out;
    case KVI_JINJA_STR: iterate_str(ctx, out, value.u.s); return out;
    case KVI_JINJA_DICT:
        for (size_t i = 0; i < value.u.dict->n; i++) kvi_jinja_seq_push(ctx, out, value.u.dict->keys[i]);
        return out;
    default: kvi_jinja_fail(ctx, "TypeError: '%s' object is not iterable", kvi_jinja_type_name(value)); return NULL;
    }
}

/* ------------------------------------------------------------------------------------------------------------
 * dict --- */
kvi_jinja_dict *kvi_jinja_dict_new(kvi_jinja_ctx *ctx) { return kvi_jinja_alloc(ctx, sizeof(kvi_jinja_dict)); }

kvi_jinja_value *kvi_jinja_dict_get(const kvi_jinja_dict *dict, const char *key)
{
    for (size_t i = 0; i < dict->n; i++)
        if (dict->keys[i].type == KVI_JINJA_STR && kvi_jinja_str_is(dict->keys[i].u.s, key)) return &dict->values[i];
    return NULL;
}

kvi_jinja_value *kvi_jinja_dict_find(kvi_jinja_ctx *ctx, const kvi_jinja_dict *dict, kvi_jinja_value key)
{
    if (!kvi_jinja_charge(ctx, dict->n / 8)) return NULL;
    if ((key.type == KVI_JINJA_SEQ && key.u.seq->kind != KVI_JINJA_TUPLE && key.u.seq->kind != KVI_JINJA_RANGE) ||
        key.type == KVI_JINJA_DICT) {
        kvi_jinja_fail(ctx, "TypeError: unhashable type: '%s'", kvi_jinja_type_name(key));
        return NULL;
    }
    for (size_t i = 0; i < dict->n; i++)
        if (kvi_jinja_equal(ctx, dict->keys[i], key)) return &dict->values[i];
    return NULL;
}

void kvi_jinja_dict_set(kvi_jinja_ctx *ctx, kvi_jinja_dict *dict, kvi_jinja_value key, kvi_jinja_value value)
{
    if (ctx->failed) return;
    kvi_jinja_value *old = kvi_jinja_dict_find(ctx, dict, key);
    if (ctx->failed) return;
    if (old) {
        *old = value;
        return;
    }
    size_t cap = dict->cap;
    if (!grow(ctx, (void **)&dict->keys, &cap, dict->n + 1, dict->n, sizeof key)) return;
    if (!grow(ctx, (void **)&dict->values, &dict->cap, dict->n + 1, dict->n, sizeof value)) return;
    dict->keys[dict->n] = key;
    dict->values[dict->n++] = value;
}

kvi_jinja_value kvi_jinja_dict_view(kvi_jinja_ctx *ctx, const kvi_jinja_dict *dict, kvi_jinja_seq_kind kind)
{
    kvi_jinja_seq *out = kvi_jinja_seq_new(ctx, kind);
    if (!out) return kvi_jinja_undefined(NULL);
    for (size_t i = 0; i < dict->n && !ctx->failed; i++)
        kvi_jinja_seq_push(ctx, out,
                           kind == KVI_JINJA_KEYS     ? dict->keys[i]
                           : kind == KVI_JINJA_VALUES ? dict->values[i]
                                                      : kvi_jinja_pair(ctx, dict->keys[i], dict->values[i]));
    return kvi_jinja_seq_value(out);
}
