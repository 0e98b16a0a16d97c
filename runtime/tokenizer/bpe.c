/* bpe.c - byte pair encoding of one piece: initial symbols, then merges in order of rank from a heap (n log n on any
 * word). Owns: ignore_merges, byte fallback, unknown tokens, the byte-level alphabet. Gives exactly what the reference
 * library gives, including which stale heap entries still count. */
#include "tokenizer_impl.h"
#include "../text/unicode.h"

#include <string.h>

typedef struct kvi_symbol {
    int32_t id;
    int32_t prev, next; /* positions, -1: none */
    bool dead;
} symbol;

static kvrt_status no_memory(kvi_encoder *e, size_t n) { return kvi_error_nomem(e->error, n, "tokenizer"); }

/* -------------------------------------------------------------------------------------------------------- heap --- */
/* Keys are rank << 32 | position: lowest rank first, leftmost among equals. */
static bool heap_push(kvi_encoder *e, size_t *n, uint64_t key)
{
    void *data = e->heap;
    if (!kvi_mem_grow(&data, &e->heap_cap, *n + 1, sizeof *e->heap)) return false;
    e->heap = data;
    size_t i = (*n)++;
    while (i > 0 && e->heap[(i - 1) / 2] > key) {
        e->heap[i] = e->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    e->heap[i] = key;
    return true;
}

static uint64_t heap_pop(kvi_encoder *e, size_t *n)
{
    uint64_t top = e->heap[0], last = e->heap[--*n];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= *n) break;
        if (child + 1 < *n && e->heap[child + 1] < e->heap[child]) child++;
        if (e->heap[child] >= last) break;
        e->heap[i] = e->heap[child];
        i = child;
    }
    if (*n) e->heap[i] = last;
    return top;
}

/* ----------------------------------------------------------------------------------------------------- merging --- */
static bool push_pair(kvi_encoder *e, size_t *n, int32_t pos)
{
    const symbol *s = &e->symbols[pos];
    if (s->next < 0) return true;
    const kvi_pair_slot *merge = kvi_pair_table_get(&e->tok->bpe.merges, s->id, e->symbols[s->next].id);
    return !merge || heap_push(e, n, (uint64_t)merge->rank << 32 | (uint32_t)pos);
}

static kvrt_status merge_all(kvi_encoder *e, size_t n_symbols)
{
    const kvi_bpe *bpe = &e->tok->bpe;
    size_t n = 0;
    for (size_t i = 0; i < n_symbols; i++)
        if (!push_pair(e, &n, (int32_t)i)) return no_memory(e, n * sizeof *e->heap);
    while (n > 0) {
        uint64_t key = heap_pop(e, &n);
        int32_t pos = (int32_t)(uint32_t)key;
        symbol *s = &e->symbols[pos];
        if (s->dead || s->next < 0) continue;
        symbol *right = &e->symbols[s->next];
        const kvi_pair_slot *merge = kvi_pair_table_get(&bpe->merges, s->id, right->id);
        /* An entry is stale when the pair here no longer gives the token the entry was made for (its rank names that
         * token, or one of those that share it). */
        const uint64_t rank = key >> 32;
        if (!merge || (merge->rank != rank && merge->id != bpe->rank_ids[rank])) continue;
        s->id = merge->id;
        right->dead = true;
        s->next = right->next;
        if (s->next >= 0) e->symbols[s->next].prev = pos;
        if ((s->prev >= 0 && !push_pair(e, &n, s->prev)) || !push_pair(e, &n, pos))
            return no_memory(e, n * sizeof *e->heap);
    }
    return KVRT_OK;
}

/* --------------------------------------------------------------------------------------------- initial symbols --- */
typedef struct symbols {
    kvi_encoder *e;
    size_t n;
    bool last_unknown; /* the last symbol is an unknown token that fuse_unk extends */
} symbols;

static bool add_symbol(symbols *s, int32_t id)
{
    void *data = s->e->symbols;
    if (s->n >= INT32_MAX || !kvi_mem_grow(&data, &s->e->symbols_cap, s->n + 1, sizeof(symbol))) return false;
    s->e->symbols = data;
    int32_t i = (int32_t)s->n++;
    s->e->symbols[i] = (symbol){.id = id, .prev = i - 1, .next = -1};
    if (i > 0) s->e->symbols[i - 1].next = i;
    s->last_unknown = false;
    return true;
}

static bool add_unknown(symbols *s)
{
    const kvi_bpe *bpe = &s->e->tok->bpe;
    if (bpe->unk_id < 0 || (bpe->fuse_unk && s->last_unknown)) return true;
    if (!add_symbol(s, bpe->unk_id)) return false;
    s->last_unknown = true;
    return true;
}

/* The byte tokens of a character with its prefix and suffix, all or none. */
static bool add_bytes(symbols *s, const unsigned char *bytes, size_t n, bool *added)
{
    const int32_t *ids = s->e->tok->bpe.byte_ids;
    *added = false;
    for (size_t i = 0; i < n; i++)
        if (ids[bytes[i]] < 0) return true;
    for (size_t i = 0; i < n; i++)
        if (!add_symbol(s, ids[bytes[i]])) return false;
    *added = true;
    return true;
}

/* A character in its spelling with the model's prefix and suffix; {NULL, 0} when memory is out. */
static kvi_bytes spelling(kvi_encoder *e, const char *c, size_t n, bool first, bool last)
{
    const kvi_bytes *prefix = &e->tok->bpe.prefix, *suffix = &e->tok->bpe.suffix;
    if ((prefix->len == 0 || first) && (suffix->len == 0 || !last)) return (kvi_bytes){c, n};
    kvi_buf_clear(&e->word);
    if (!first) kvi_buf_append(&e->word, prefix->data, prefix->len);
    kvi_buf_append(&e->word, c, n);
    if (last) kvi_buf_append(&e->word, suffix->data, suffix->len);
    e->failed |= e->word.failed;
    return e->word.failed ? (kvi_bytes){0} : (kvi_bytes){e->word.data, e->word.len};
}

static bool add_chars(symbols *s, const char *text, size_t len)
{
    kvi_encoder *e = s->e;
    for (size_t pos = 0; pos < len;) {
        uint32_t cp = 0;
        size_t n = kvi_utf8_decode(text + pos, len - pos, &cp);
        bool stand_in = e->byte_base != KVI_UTF8_NO_BASE && cp - e->byte_base < 128;
        unsigned char byte = (unsigned char)(cp - e->byte_base + 0x80);
        kvi_bytes word =
            stand_in ? (kvi_bytes){(const char *)&byte, 1} : spelling(e, text + pos, n, pos == 0, pos + n == len);
        if (!word.data) return false;
        int32_t id = stand_in ? -1 : kvi_string_table_get(&e->tok->vocab, word.data, word.len);
        bool added = false;
        if (id >= 0) {
            if (!add_symbol(s, id)) return false;
        } else {
            const unsigned char *bytes = (const unsigned char *)word.data;
            if (e->tok->bpe.byte_fallback && !add_bytes(s, bytes, word.len, &added)) return false;
            if (!added && !add_unknown(s)) return false;
        }
        pos += n;
    }
    return true;
}

static bool add_alphabet(symbols *s, const char *text, size_t len)
{
    const int32_t *ids = s->e->tok->bpe.alphabet_ids;
    for (size_t i = 0; i < len; i++) {
        int32_t id = ids[(unsigned char)text[i]];
        if (id < 0 ? !add_unknown(s) : !add_symbol(s, id)) return false;
    }
    return true;
}

/* Gives stand-ins back their byte: the byte-level alphabet spells any byte. Result in e->raw. */
static bool restore_bytes(kvi_encoder *e, const char **text, size_t *len)
{
    kvi_buf *raw = &e->raw;
    kvi_buf_clear(raw);
    for (size_t pos = 0; pos < *len;) {
        uint32_t cp = 0;
        size_t n = kvi_utf8_decode(*text + pos, *len - pos, &cp);
        if (cp - e->byte_base < 128) kvi_buf_append_byte(raw, (char)(cp - e->byte_base + 0x80));
        else kvi_buf_append(raw, *text + pos, n);
        pos += n;
    }
    *text = raw->data;
    *len = raw->len;
    return !raw->failed;
}

/* The whole piece as one token, -1: it is none. */
static int32_t whole_piece(kvi_encoder *e, const char *text, size_t len)
{
    if (!e->tok->byte_level) return kvi_string_table_get(&e->tok->vocab, text, len);
    if (len > e->tok->max_token_bytes) return -1;
    kvi_buf_clear(&e->word);
    for (size_t i = 0; i < len; i++) kvi_utf8_append(&e->word, kvi_byte_alphabet[(unsigned char)text[i]]);
    e->failed |= e->word.failed;
    return e->word.failed ? -1 : kvi_string_table_get(&e->tok->vocab, e->word.data, e->word.len);
}

kvrt_status kvi_bpe_encode(kvi_encoder *e, const char *text, size_t len)
{
    if (len == 0) return KVRT_OK;
    const kvi_tokenizer *tok = e->tok;
    if (tok->byte_level && e->byte_base != KVI_UTF8_NO_BASE && !restore_bytes(e, &text, &len)) return no_memory(e, len);
    if (tok->bpe.ignore_merges) {
        int32_t id = whole_piece(e, text, len);
        if (id >= 0) return kvi_ids_push(e->out, id) ? KVRT_OK : no_memory(e, sizeof id);
    }
    symbols s = {.e = e};
    if (!(tok->byte_level ? add_alphabet(&s, text, len) : add_chars(&s, text, len)) || e->failed)
        return no_memory(e, s.n * sizeof(symbol));
    KVI_TRY(merge_all(e, s.n));
    for (int32_t i = s.n ? 0 : -1; i >= 0; i = e->symbols[i].next)
        if (!kvi_ids_push(e->out, e->symbols[i].id)) return no_memory(e, sizeof(int32_t));
    return KVRT_OK;
}
