/* tokenizer_merges.c - "merges" of a BPE model: pairs of spellings to pairs of ids. Refuses merges of tokens that do not
 * exist. To know: this is most of the work of loading. Each of some 300,000 merges takes three lookups in a table far
 * larger than the caches, so they are done in batches: hash all, ask for the slots, ask for the spellings, compare
 * (Llama 3, busy machine: 100 ms of processor time for the whole file one by one, 90 ms in batches). */
#include "tokenizer_impl.h"

#include <string.h>

#define BATCH 64u

typedef struct merge {
    int32_t left, right, id;
} merge;

/* One merge before its lookups. The strings lie in the file's text or, when they have escapes, in `copies`. */
typedef struct wanted {
    kvi_bytes left, right, tail; /* tail: right without the continuing prefix */
    uint64_t hash[3];            /* of left, right, left and tail together */
} wanted;

typedef struct merge_reader {
    kvi_tokenizer *tok;
    kvi_json *r; /* NULL: the merges are no JSON */
    kvrt_error *error;
    kvi_buf copies;
    wanted batch[BATCH];
    size_t n_batch;
    merge *merges; // (n)
    size_t n, cap;
} merge_reader;

static kvrt_status no_memory(merge_reader *m) { return kvi_error_nomem(m->error, 0, "tokenizer"); }

static const kvi_string_slot *slot_of(const merge_reader *m, uint64_t hash)
{
    return &m->tok->vocab.slots[(size_t)hash & m->tok->vocab.mask];
}

static kvrt_status look_up_batch(merge_reader *m)
{
    const kvi_string_table *vocab = &m->tok->vocab;
    void *data = m->merges;
    if (!kvi_mem_grow(&data, &m->cap, m->n + m->n_batch, sizeof *m->merges)) return no_memory(m);
    m->merges = data;
    for (size_t i = 0; i < m->n_batch; i++)
        for (size_t k = 0; k < 3; k++) __builtin_prefetch(slot_of(m, m->batch[i].hash[k]));
    for (size_t i = 0; i < m->n_batch; i++)
        for (size_t k = 0; k < 3; k++) __builtin_prefetch(slot_of(m, m->batch[i].hash[k])->text);
    for (size_t i = 0; i < m->n_batch; i++) {
        const wanted *w = &m->batch[i];
        merge one = {
            .left = kvi_string_table_find(vocab, w->hash[0], w->left.data, w->left.len, NULL, 0),
            .right = kvi_string_table_find(vocab, w->hash[1], w->right.data, w->right.len, NULL, 0),
            .id = kvi_string_table_find(vocab, w->hash[2], w->left.data, w->left.len, w->tail.data, w->tail.len)};
        if (one.left < 0 || one.right < 0 || one.id < 0)
            return kvi_error_set(m->error, KVRT_FORMAT, "%s: merge %zu names a token that is not in the vocabulary",
                                 m->tok->name, m->n);
        m->merges[m->n++] = one;
    }
    m->n_batch = 0;
    kvi_buf_clear(&m->copies);
    return m->n < INT32_MAX ? KVRT_OK : no_memory(m);
}

static kvrt_status add(merge_reader *m, kvi_bytes left, kvi_bytes right)
{
    size_t prefix = m->tok->bpe.prefix.len, cut = prefix < right.len ? prefix : right.len;
    wanted *w = &m->batch[m->n_batch++];
    *w = (wanted){.left = left, .right = right, .tail = {.data = right.data + cut, .len = right.len - cut}};
    w->hash[0] = kvi_string_hash(left.data, left.len, NULL, 0);
    w->hash[1] = kvi_string_hash(right.data, right.len, NULL, 0);
    w->hash[2] = kvi_string_hash(left.data, left.len, w->tail.data, w->tail.len);
    return m->n_batch == BATCH ? look_up_batch(m) : KVRT_OK;
}

/* "left right" as it stands in `all`. */
static kvrt_status add_joined(merge_reader *m, kvi_bytes all)
{
    const char *space = all.len ? memchr(all.data, ' ', all.len) : NULL;
    kvi_bytes left = {.data = all.data, .len = space ? (size_t)(space - all.data) : 0};
    kvi_bytes right = {.data = space ? space + 1 : all.data, .len = space ? all.len - left.len - 1 : 0};
    if (space && !memchr(right.data, ' ', right.len)) return add(m, left, right);
    if (!m->r)
        return kvi_error_set(m->error, KVRT_FORMAT, "%s: merge %zu: need \"left right\"", m->tok->name,
                             m->n + m->n_batch);
    kvi_json_set_error(m->r, "need \"left right\"");
    return kvi_json_fail(m->r, m->tok->name, m->error);
}

/* A merge with escapes is rare; it is looked up at once, so that `copies` may be used again. */
static kvrt_status add_copied(merge_reader *m, size_t left_len, bool joined)
{
    if (m->copies.failed) return no_memory(m);
    kvi_bytes all = {.data = m->copies.data ? m->copies.data : "", .len = m->copies.len};
    if (joined) KVI_TRY(add_joined(m, all));
    else KVI_TRY(add(m, (kvi_bytes){all.data, left_len}, (kvi_bytes){all.data + left_len, all.len - left_len}));
    return look_up_batch(m);
}

/* "left right" or ["left", "right"]. */
static kvrt_status read_one(merge_reader *m)
{
    kvi_json *r = m->r;
    if (kvi_json_peek(r) != KVI_JSON_ARRAY) {
        if (!kvi_json_string(r)) return kvi_json_fail(r, m->tok->name, m->error);
        if (!r->str_escaped) return add_joined(m, (kvi_bytes){r->str, r->str_len});
        kvi_json_str_copy(r, &m->copies);
        return add_copied(m, 0, true);
    }
    kvi_json left = {0}, right = {0};
    kvi_json_expect(r, KVI_JSON_ARRAY);
    if (kvi_json_next_item(r) && kvi_json_string(r)) left = *r;
    if (kvi_json_next_item(r) && kvi_json_string(r)) right = *r;
    if (!right.text || kvi_json_next_item(r)) kvi_json_set_error(r, "need [left, right]");
    if (r->error) return kvi_json_fail(r, m->tok->name, m->error);
    if (!left.str_escaped && !right.str_escaped)
        return add(m, (kvi_bytes){left.str, left.str_len}, (kvi_bytes){right.str, right.str_len});
    kvi_json_str_copy(&left, &m->copies);
    size_t left_len = m->copies.len;
    kvi_json_str_copy(&right, &m->copies);
    return add_copied(m, left_len, false);
}

static kvrt_status keep(merge_reader *m)
{
    kvi_bpe *bpe = &m->tok->bpe;
    bpe->rank_ids = kvi_arena_alloc(&m->tok->arena, m->n * sizeof *bpe->rank_ids + 1);
    if (!bpe->rank_ids || !kvi_pair_table_init(&bpe->merges, m->n)) return no_memory(m);
    for (size_t i = 0; i < m->n; i++) {
        kvi_pair_table_put(&bpe->merges, m->merges[i].left, m->merges[i].right, (uint32_t)i, m->merges[i].id);
        bpe->rank_ids[i] = m->merges[i].id;
    }
    bpe->n_merges = m->n;
    return KVRT_OK;
}

kvrt_status kvi_load_merge_list(kvi_tokenizer *tok, const kvi_texts *texts, kvrt_error *error)
{
    merge_reader m = {.tok = tok, .error = error};
    const uint8_t *at = texts->at;
    kvrt_status status = KVRT_OK;
    for (uint64_t i = 0; status == KVRT_OK && i < texts->n; i++) status = add_joined(&m, kvi_texts_next(&at));
    if (status == KVRT_OK) status = look_up_batch(&m);
    if (status == KVRT_OK) status = keep(&m);
    kvi_mem_free(m.merges);
    return status;
}

kvrt_status kvi_load_merges(kvi_tokenizer *tok, kvi_json *r, kvrt_error *error)
{
    merge_reader m = {.tok = tok, .r = r, .error = error};
    kvrt_status status = KVRT_OK;
    kvi_json_expect(r, KVI_JSON_ARRAY);
    while (status == KVRT_OK && kvi_json_next_item(r)) status = read_one(&m);
    if (status == KVRT_OK && r->error) status = kvi_json_fail(r, tok->name, error);
    if (status == KVRT_OK) status = look_up_batch(&m);
    if (status == KVRT_OK) status = keep(&m);
    kvi_mem_free(m.merges);
    kvi_buf_free(&m.copies);
    return status;
}
