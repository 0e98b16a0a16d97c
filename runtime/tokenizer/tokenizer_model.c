/* tokenizer_model.c - "model" of tokenizer.json: vocabulary, BPE merges, Unigram scores. Owns: the lookup tables of the
 * model. Refuses: WordPiece, WordLevel, ids far beyond the number of tokens, merges of tokens that do not exist. To
 * know: this is the 9 MB part, read in one pass; merges that precede the vocabulary (sorted keys) are read again once
 * it is known. */
#include "tokenizer_impl.h"
#include "../base/utf8.h"

#include <math.h>
#include <string.h>

#define UNK_PENALTY 10.0 /* below the worst score, as in SentencePiece */

typedef struct model_reader {
    kvi_tokenizer *tok;
    kvi_json *r;
    kvrt_error *error;
    kvi_json merges_at; /* read at once when the vocabulary is known, else at the end */
    bool merges_done;
    bool has_vocab, has_merges, has_scores;
    double *scores; // (n_tokens) of Unigram, by id
    size_t n_tokens, scores_cap;
    double min_score;
    int64_t unk_id;
    kvi_bytes unk_token;
    char type[24];
} model_reader;

static kvrt_status malformed(model_reader *m) { return kvi_json_fail(m->r, m->tok->name, m->error); }
static kvrt_status no_memory(model_reader *m) { return kvi_error_nomem(m->error, 0, "tokenizer"); }

/* ------------------------------------------------------------------------------------------------------- tokens --- */
static kvrt_status add_token(model_reader *m, kvi_bytes text, int64_t id)
{
    kvi_tokenizer *tok = m->tok;
    if (!text.data) return no_memory(m);
    m->n_tokens++;
    KVI_TRY(kvi_load_reserve(tok, id, m->n_tokens, m->error));
    tok->tokens[id] = (kvi_token){.text = text.data, .text_len = (uint32_t)text.len, .flags = KVI_TOKEN_USED};
    if (text.len > tok->max_token_bytes) tok->max_token_bytes = text.len;
    return kvi_string_table_put(&tok->vocab, text.data, text.len, (int32_t)id) ? KVRT_OK : no_memory(m);
}

static kvrt_status read_vocab_object(model_reader *m)
{
    kvi_json_expect(m->r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(m->r)) {
        kvi_bytes text = kvi_load_string(m->tok, m->r);
        int64_t id = kvi_json_i64(m->r);
        if (m->r->error) break;
        KVI_TRY(add_token(m, text, id));
    }
    m->has_vocab = true;
    return m->r->error ? malformed(m) : KVRT_OK;
}

/* Unigram: [["<unk>", 0.0], ["the", -3.5], ...], ids in order. */
static kvrt_status read_vocab_array(model_reader *m)
{
    kvi_json_expect(m->r, KVI_JSON_ARRAY);
    while (kvi_json_next_item(m->r)) {
        kvi_json_expect(m->r, KVI_JSON_ARRAY);
        if (!kvi_json_next_item(m->r) || !kvi_json_string(m->r)) break;
        kvi_bytes text = kvi_load_string(m->tok, m->r);
        double score = kvi_json_next_item(m->r) ? kvi_json_f64(m->r) : 0;
        if (kvi_json_next_item(m->r)) kvi_json_set_error(m->r, "need [token, score]");
        if (m->r->error) break;
        void *data = m->scores;
        if (!kvi_mem_grow(&data, &m->scores_cap, m->n_tokens + 1, sizeof *m->scores)) return no_memory(m);
        m->scores = data;
        m->scores[m->n_tokens] = score;
        if (score < m->min_score) m->min_score = score;
        KVI_TRY(add_token(m, text, (int64_t)m->n_tokens));
    }
    m->has_scores = true;
    if (!m->r->error && m->n_tokens == 0) kvi_json_set_error(m->r, "empty vocabulary");
    return m->r->error ? malformed(m) : KVRT_OK;
}

/* -------------------------------------------------------------------------------------------------- whole model --- */
static kvrt_status read_optional_text(model_reader *m, kvi_bytes *out)
{
    if (kvi_json_null(m->r)) return KVRT_OK;
    if (!kvi_json_string(m->r)) return malformed(m);
    *out = kvi_load_string(m->tok, m->r);
    return out->data ? KVRT_OK : no_memory(m);
}

static bool optional_bool(kvi_json *r) { return !kvi_json_null(r) && kvi_json_bool(r); }

static kvrt_status read_key(model_reader *m)
{
    kvi_json *r = m->r;
    kvi_bpe *bpe = &m->tok->bpe;
    if (kvi_json_key_is(r, "vocab"))
        return kvi_json_peek(r) == KVI_JSON_ARRAY ? read_vocab_array(m) : read_vocab_object(m);
    if (kvi_json_key_is(r, "merges")) {
        m->has_merges = true;
        m->merges_at = *r;
        if (m->has_vocab) {
            m->merges_done = true;
            return kvi_load_merges(m->tok, r, m->error);
        }
        kvi_json_skip(r);
        return r->error ? malformed(m) : KVRT_OK;
    }
    if (kvi_json_key_is(r, "type")) {
        if (!kvi_json_string(r)) return malformed(m);
        size_t n = r->str_len < sizeof m->type ? r->str_len : sizeof m->type - 1;
        memcpy(m->type, r->str, n);
        return KVRT_OK;
    }
    if (kvi_json_key_is(r, "unk_token")) return read_optional_text(m, &m->unk_token);
    if (kvi_json_key_is(r, "continuing_subword_prefix")) {
        KVI_TRY(read_optional_text(m, &bpe->prefix));
        if (m->merges_done && bpe->prefix.len) { /* the merges were read without it: once more, later */
            kvi_pair_table_free(&bpe->merges);
            m->merges_done = false;
        }
        return KVRT_OK;
    }
    if (kvi_json_key_is(r, "dropout")) {
        if (kvi_json_null(r) || kvi_json_f64(r) == 0) return r->error ? malformed(m) : KVRT_OK;
        return kvi_error_set(m->error, KVRT_UNSUPPORTED, "%s: dropout is not supported (it makes ids random)",
                             m->tok->name);
    }
    if (kvi_json_key_is(r, "end_of_word_suffix")) return read_optional_text(m, &bpe->suffix);
    if (kvi_json_key_is(r, "byte_fallback")) bpe->byte_fallback = optional_bool(r);
    else if (kvi_json_key_is(r, "fuse_unk")) bpe->fuse_unk = optional_bool(r);
    else if (kvi_json_key_is(r, "ignore_merges")) bpe->ignore_merges = optional_bool(r);
    else if (kvi_json_key_is(r, "unk_id")) m->unk_id = kvi_json_null(r) ? -1 : kvi_json_i64(r);
    else kvi_json_skip(r);
    return r->error ? malformed(m) : KVRT_OK;
}

void kvi_load_byte_ids(kvi_tokenizer *tok, int32_t *byte_ids)
{
    static const char hex[] = "0123456789ABCDEF";
    for (unsigned b = 0; b < 256; b++) {
        char text[6] = {'<', '0', 'x', hex[b >> 4], hex[b & 15], '>'}, letter[4];
        byte_ids[b] = kvi_string_table_get(&tok->vocab, text, sizeof text);
        tok->bpe.alphabet_ids[b] =
            kvi_string_table_get(&tok->vocab, letter, kvi_utf8_encode(letter, kvi_byte_alphabet[b]));
    }
}

static kvrt_status finish_bpe(model_reader *m)
{
    kvi_tokenizer *tok = m->tok;
    tok->model = KVI_MODEL_BPE;
    tok->bpe.unk_id = m->unk_token.data ? kvi_string_table_get(&tok->vocab, m->unk_token.data, m->unk_token.len) : -1;
    if (m->unk_token.data && tok->bpe.unk_id < 0)
        return kvi_error_set(m->error, KVRT_FORMAT, "%s: unk_token is not in the vocabulary", tok->name);
    tok->unk_id = tok->bpe.unk_id;
    kvi_load_byte_ids(tok, tok->bpe.byte_ids);
    return m->merges_done ? KVRT_OK : kvi_load_merges(m->tok, &m->merges_at, m->error);
}

static kvrt_status finish_unigram(model_reader *m)
{
    kvi_tokenizer *tok = m->tok;
    kvi_unigram *u = &tok->unigram;
    tok->model = KVI_MODEL_UNIGRAM;
    if (m->unk_id >= (int64_t)m->n_tokens)
        return kvi_error_set(m->error, KVRT_FORMAT, "%s: unk_id %lld, need less than %zu", tok->name,
                             (long long)m->unk_id, m->n_tokens);
    u->unk_id = tok->unk_id = m->unk_id < 0 ? -1 : (int32_t)m->unk_id;
    u->byte_fallback = tok->bpe.byte_fallback;
    u->unk_score = m->min_score - UNK_PENALTY;
    double *scores = kvi_arena_alloc(&tok->arena, m->n_tokens * sizeof *scores);
    if (!scores || !kvi_trie_init(&u->trie)) return no_memory(m);
    memcpy(scores, m->scores, m->n_tokens * sizeof *scores);
    u->scores = scores;
    kvi_load_byte_ids(tok, u->byte_ids);
    for (size_t id = 0; id < m->n_tokens; id++) {
        const kvi_token *token = &tok->tokens[id];
        if (token->text_len && !kvi_trie_put(&u->trie, token->text, token->text_len, (int32_t)id)) return no_memory(m);
    }
    return KVRT_OK;
}

kvrt_status kvi_load_model(kvi_tokenizer *tok, kvi_json *r, kvrt_error *error)
{
    model_reader m = {.tok = tok, .r = r, .error = error, .unk_id = -1, .min_score = INFINITY};
    kvrt_status status = kvi_string_table_init(&tok->vocab, 256 + (r->len - r->pos) / 64) ? KVRT_OK : no_memory(&m);
    kvi_json_expect(r, KVI_JSON_OBJECT);
    while (status == KVRT_OK && kvi_json_next_key(r)) {
        if ((m.has_vocab || m.has_scores) && kvi_json_key_is(r, "vocab")) kvi_json_set_error(r, "a second vocab");
        else if (m.has_merges && kvi_json_key_is(r, "merges")) kvi_json_set_error(r, "second merges");
        else status = read_key(&m);
    }
    if (status == KVRT_OK && r->error) status = malformed(&m);
    bool bpe = m.has_vocab && m.has_merges && (!m.type[0] || strcmp(m.type, "BPE") == 0);
    bool unigram = m.has_scores && (!m.type[0] || strcmp(m.type, "Unigram") == 0);
    if (status == KVRT_OK && bpe) status = finish_bpe(&m);
    else if (status == KVRT_OK && unigram) status = finish_unigram(&m);
    else if (status == KVRT_OK)
        status = kvi_error_set(error, KVRT_UNSUPPORTED, "%s: model %s is not supported, need BPE or Unigram", tok->name,
                               m.type[0] ? m.type : "without a type");
    kvi_mem_free(m.scores);
    return status;
}

void kvi_model_exclude_markers(kvi_tokenizer *tok)
{
    for (int32_t id = 0; id < tok->n_ids && tok->model == KVI_MODEL_UNIGRAM; id++) {
        const kvi_token *token = &tok->tokens[id];
        if (!(token->flags & KVI_TOKEN_MARKER) || token->text_len == 0) continue;
        uint32_t node = 0;
        for (uint32_t i = 0; i < token->text_len && (i == 0 || node); i++)
            node = kvi_trie_step(&tok->unigram.trie, node, (unsigned char)token->text[i]);
        if (node) tok->unigram.trie.values[node] = -1;
    }
    /* Markers are hardly ever among the model's own tokens; only those could come out of a merge. */
    bool any = false;
    for (size_t i = 0; i < tok->n_added && !any; i++) {
        const kvi_bytes *text = &tok->added[i].content;
        any = tok->added[i].marker && kvi_string_table_get(&tok->vocab, text->data, text->len) >= 0;
    }
    for (size_t i = 0; any && tok->bpe.merges.slots && i <= tok->bpe.merges.mask; i++) {
        kvi_pair_slot *slot = &tok->bpe.merges.slots[i];
        if (slot->rank == UINT32_MAX || !(tok->tokens[slot->id].flags & KVI_TOKEN_MARKER)) continue;
        /* The slot stays, for the probing; a key that no pair has takes it out of use. */
        slot->key = UINT64_MAX;
    }
}
