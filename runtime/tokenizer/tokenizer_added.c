/* tokenizer_added.c - added tokens: what they are, and finding them in text. Owns: lstrip, rstrip, single_word,
 * normalized, and the rule that user text never becomes a marker. To know: matching is leftmost, then longest; tokens
 * with "normalized": false are looked for in the raw text, the others in the normalized text, by their normalized
 * spelling. */
#include "tokenizer_impl.h"
#include "../text/unicode.h"

#include <string.h>

static bool looks_like_markup(const kvi_bytes *text)
{
    return text->len >= 3 && text->data[0] == '<' && text->data[text->len - 1] == '>';
}

/* ----------------------------------------------------------------------------------------------------- loading --- */
static kvrt_status read_added(kvi_tokenizer *tok, kvi_json *r, kvi_added *out, int64_t *id, kvrt_error *error)
{
    bool normalized_given = false;
    *out = (kvi_added){.id = -1};
    *id = -1;
    kvi_json_expect(r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(r)) {
        if (kvi_json_key_is(r, "id")) *id = kvi_json_i64(r);
        else if (kvi_json_key_is(r, "special")) out->special = kvi_json_bool(r);
        else if (kvi_json_key_is(r, "single_word")) out->single_word = kvi_json_bool(r);
        else if (kvi_json_key_is(r, "lstrip")) out->lstrip = kvi_json_bool(r);
        else if (kvi_json_key_is(r, "rstrip")) out->rstrip = kvi_json_bool(r);
        else if (kvi_json_key_is(r, "normalized")) {
            out->normalized = kvi_json_bool(r);
            normalized_given = true;
        } else if (kvi_json_key_is(r, "content")) {
            if (!kvi_json_string(r)) break;
            out->content = kvi_load_string(tok, r);
            if (!out->content.data) return kvi_error_nomem(error, r->str_len, "tokenizer");
        } else kvi_json_skip(r);
    }
    if (!normalized_given) out->normalized = !out->special;
    if (r->error) return kvi_json_fail(r, tok->name, error);
    return KVRT_OK;
}

kvrt_status kvi_load_added_token(kvi_tokenizer *tok, kvi_added *added, int64_t id, kvrt_error *error)
{
    if (added->content.len == 0) return KVRT_OK; /* the reference library ignores them too */
    /* A token of the model keeps its id, whatever the file says here. */
    int32_t known = kvi_string_table_get(&tok->vocab, added->content.data, added->content.len);
    if (known >= 0) id = known;
    KVI_TRY(kvi_load_reserve(tok, id, tok->vocab.n + tok->n_added + 1, error));
    added->id = (int32_t)id;
    added->marker = added->special || looks_like_markup(&added->content);
    void *data = tok->added;
    if (!kvi_mem_grow(&data, &tok->added_cap, tok->n_added + 1, sizeof *tok->added) ||
        !kvi_string_table_put(&tok->added_by_text, added->content.data, added->content.len, added->id))
        return kvi_error_nomem(error, sizeof *added, "tokenizer");
    tok->added = data;
    tok->added[tok->n_added++] = *added;
    uint32_t flags = KVI_TOKEN_USED | KVI_TOKEN_ADDED | (added->special ? KVI_TOKEN_SPECIAL : 0u) |
                     (added->marker ? KVI_TOKEN_MARKER : 0u);
    tok->tokens[id] =
        (kvi_token){.text = added->content.data, .text_len = (uint32_t)added->content.len, .flags = flags};
    return KVRT_OK;
}

kvrt_status kvi_load_added(kvi_tokenizer *tok, kvi_json *r, kvrt_error *error)
{
    if (!kvi_string_table_init(&tok->added_by_text, 64)) return kvi_error_nomem(error, 0, "tokenizer");
    if (!r->text || kvi_json_null(r)) return KVRT_OK;
    kvi_json_expect(r, KVI_JSON_ARRAY);
    while (kvi_json_next_item(r)) {
        kvi_added added;
        int64_t id;
        KVI_TRY(read_added(tok, r, &added, &id, error));
        KVI_TRY(kvi_load_added_token(tok, &added, id, error));
    }
    return r->error ? kvi_json_fail(r, tok->name, error) : KVRT_OK;
}

kvrt_status kvi_added_prepare(kvi_tokenizer *tok, kvrt_error *error)
{
    kvi_norm_text buffers[2] = {0};
    kvi_regex_scratch scratch = {0};
    size_t total = 0;
    for (size_t i = 0; i < tok->n_added; i++) total += tok->added[i].content.len;
    kvi_budget budget = kvi_budget_for(total);
    kvrt_status status = kvi_trie_init(&tok->raw_trie) && kvi_trie_init(&tok->norm_trie)
                             ? KVRT_OK
                             : kvi_error_nomem(error, 0, "tokenizer");
    for (size_t i = 0; i < tok->n_added && status == KVRT_OK; i++) {
        const kvi_added *added = &tok->added[i];
        kvi_view view = {.text = added->content.data, .len = added->content.len, .at_start = true};
        if (added->normalized) status = kvi_normalize(tok->norm, tok->n_norm, &view, buffers, &scratch, &budget, error);
        if (status != KVRT_OK || view.len == 0) continue;
        kvi_trie *trie = added->normalized ? &tok->norm_trie : &tok->raw_trie;
        if (!kvi_trie_put(trie, view.text, view.len, (int32_t)i))
            status = kvi_error_nomem(error, view.len, "tokenizer");
    }
    for (size_t i = 0; i < 2; i++) {
        kvi_buf_free(&buffers[i].text);
        kvi_buf_free(&buffers[i].mark);
    }
    kvi_regex_scratch_free(&scratch);
    return status;
}

/* ---------------------------------------------------------------------------------------------------- matching --- */
static bool touches_user(const kvi_encoder *e, const kvi_view *in, size_t start, size_t end)
{
    return e->user || (in->mark && memchr(in->mark + start, 1, end - start) != NULL);
}

/* Longest token that begins at `start` and may stand there; its end, or 0. */
static size_t match_at(kvi_encoder *e, const kvi_view *in, const kvi_trie *trie, size_t start, const kvi_added **found)
{
    size_t end = 0;
    uint32_t node = 0;
    for (size_t i = start; i < in->len; i++) {
        node = kvi_trie_step(trie, node, (unsigned char)in->text[i]);
        if (node == 0 || !kvi_budget_take(&e->budget, 1)) break;
        if (trie->values[node] < 0) continue;
        const kvi_added *added = &e->tok->added[trie->values[node]];
        if (added->marker && touches_user(e, in, start, i + 1)) continue;
        *found = added;
        end = i + 1;
    }
    return end;
}

static bool stands_alone(const kvi_view *in, size_t start, size_t end)
{
    uint32_t before = ' ', after = ' ';
    size_t previous = start > 0 ? kvi_utf8_prev(in->text, start) : 0;
    if (start > 0) kvi_utf8_decode(in->text + previous, in->len - previous, &before);
    if (end < in->len) kvi_utf8_decode(in->text + end, in->len - end, &after);
    return !kvi_cp_is_word(before) && !kvi_cp_is_word(after);
}

static size_t spaces_before(const kvi_view *in, size_t pos, size_t floor)
{
    while (pos > floor) {
        uint32_t cp = 0;
        size_t previous = kvi_utf8_prev(in->text, pos);
        kvi_utf8_decode(in->text + previous, in->len - previous, &cp);
        if (!kvi_cp_is_space(cp)) break;
        pos = previous;
    }
    return pos;
}

static size_t spaces_after(const kvi_view *in, size_t pos)
{
    while (pos < in->len) {
        uint32_t cp = 0;
        size_t n = kvi_utf8_decode(in->text + pos, in->len - pos, &cp);
        if (!kvi_cp_is_space(cp)) break;
        pos += n;
    }
    return pos;
}

kvrt_status kvi_added_walk(kvi_encoder *e, const kvi_view *in, bool normalized, kvi_added_fn fn)
{
    const kvi_trie *trie = normalized ? &e->tok->norm_trie : &e->tok->raw_trie;
    size_t done = 0;
    for (size_t pos = 0; trie->n_edges > 0 && pos < in->len;) {
        const kvi_added *added = NULL;
        size_t end = trie->root[(unsigned char)in->text[pos]] ? match_at(e, in, trie, pos, &added) : 0;
        if (end == 0) {
            pos++;
            continue;
        }
        size_t start = pos, stop = end;
        pos = end;
        if (added->single_word && !stands_alone(in, start, end)) continue;
        if (added->lstrip && start > done) start = spaces_before(in, start, done);
        if (added->rstrip) stop = spaces_after(in, stop);
        if (start > done) KVI_TRY(fn(e, done, start, -1, in));
        KVI_TRY(fn(e, start, stop, added->id, in));
        done = stop;
    }
    if (e->budget.steps == 0) return kvi_budget_spent(e->error);
    return done < in->len ? fn(e, done, in->len, -1, in) : KVRT_OK;
}
