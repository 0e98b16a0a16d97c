/* unigram.c - the Unigram model: the segmentation of a piece with the highest sum of token scores (Viterbi over byte
 * positions). Scores are doubles, ties and unknown characters go as in the reference library: a character that no
 * single token covers costs the worst score minus ten, runs of unknown characters are one token. */
#include "tokenizer_impl.h"
#include "../text/unicode.h"

#include <string.h>

/* Best way to end at a byte position. */
typedef struct kvi_lattice_node {
    double score;
    uint32_t start; /* UINT32_MAX: not reached */
    int32_t id;     /* -1: unknown */
} lattice_node;

static kvrt_status no_memory(kvi_encoder *e, size_t n) { return kvi_error_nomem(e->error, n, "tokenizer"); }

static void offer(lattice_node *node, double score, size_t start, int32_t id)
{
    if (node->start != UINT32_MAX && !(score > node->score)) return;
    *node = (lattice_node){.score = score, .start = (uint32_t)start, .id = id};
}

/* Fills e->nodes; position 0 is reached with score 0. False: the budget is spent. */
static bool fill_lattice(kvi_encoder *e, const char *text, size_t len)
{
    const kvi_unigram *model = &e->tok->unigram;
    lattice_node *nodes = e->nodes;
    for (size_t i = 0; i <= len; i++) nodes[i] = (lattice_node){.start = UINT32_MAX, .id = -1};
    for (size_t pos = 0; pos < len;) {
        uint32_t cp = 0;
        size_t char_len = kvi_utf8_decode(text + pos, len - pos, &cp);
        bool single = false;
        uint32_t node = 0;
        size_t i = pos;
        for (; i < len; i++) {
            node = kvi_trie_step(&model->trie, node, (unsigned char)text[i]);
            if (node == 0) break;
            int32_t id = model->trie.values[node];
            if (id < 0) continue;
            offer(&nodes[i + 1], model->scores[id] + nodes[pos].score, pos, id);
            if (i + 1 - pos == char_len) single = true;
        }
        if (!kvi_budget_take(&e->budget, 1 + i - pos)) return false;
        if (!single) offer(&nodes[pos + char_len], model->unk_score + nodes[pos].score, pos, -1);
        pos += char_len;
    }
    return true;
}

/* Ids of an unknown stretch, which a literal spelling of the unknown token may be part of: the token that is spelled
 * so, else its byte tokens when the model has them all, else one unknown token. */
static bool push_unknown(kvi_encoder *e, const char *text, size_t len)
{
    const kvi_unigram *model = &e->tok->unigram;
    int32_t known = kvi_string_table_get(&e->tok->vocab, text, len);
    if (known >= 0 && (known == model->unk_id || !(e->tok->tokens[known].flags & KVI_TOKEN_MARKER)))
        return kvi_ids_push(e->out, known);
    size_t first = e->out->len;
    bool all = model->byte_fallback;
    for (size_t pos = 0; pos < len && all;) {
        uint32_t cp = 0;
        size_t n = kvi_utf8_decode(text + pos, len - pos, &cp);
        bool stand_in = e->byte_base != KVI_UTF8_NO_BASE && cp - e->byte_base < 128;
        for (size_t i = 0; i < (stand_in ? 1 : n) && all; i++) {
            unsigned char byte = stand_in ? (unsigned char)(cp - e->byte_base + 0x80) : (unsigned char)text[pos + i];
            all = model->byte_ids[byte] >= 0;
            if (all && !kvi_ids_push(e->out, model->byte_ids[byte])) return false;
        }
        pos += n;
    }
    if (all) return true;
    e->out->len = first;
    return model->unk_id < 0 || kvi_ids_push(e->out, model->unk_id);
}

static bool is_unknown(const kvi_encoder *e, int32_t id) { return id < 0 || id == e->tok->unigram.unk_id; }

kvrt_status kvi_unigram_encode(kvi_encoder *e, const char *text, size_t len)
{
    if (len == 0) return KVRT_OK;
    void *data = e->nodes;
    if (!kvi_mem_grow(&data, &e->nodes_cap, len + 1, sizeof *e->nodes))
        return no_memory(e, (len + 1) * sizeof *e->nodes);
    e->nodes = data;
    if (!fill_lattice(e, text, len)) return kvi_budget_spent(e->error);
    /* Turn the chain of starts around, so that it reads from the front: nodes[start].start becomes the end of that
     * token. */
    size_t end = len;
    uint32_t next_end = UINT32_MAX;
    int32_t next_id = -1;
    while (end > 0) {
        lattice_node node = e->nodes[end];
        e->nodes[end].start = next_end;
        e->nodes[end].id = next_id;
        next_end = (uint32_t)end;
        next_id = node.id;
        end = node.start;
    }
    e->nodes[0].start = next_end;
    e->nodes[0].id = next_id;
    for (size_t pos = 0; pos < len;) {
        size_t stop = e->nodes[pos].start;
        int32_t id = e->nodes[pos].id;
        if (!is_unknown(e, id)) {
            if (!kvi_ids_push(e->out, id)) return no_memory(e, sizeof id);
        } else {
            while (stop < len && is_unknown(e, e->nodes[stop].id)) stop = e->nodes[stop].start;
            if (!push_unknown(e, text + pos, stop - pos)) return no_memory(e, sizeof id);
        }
        pos = stop;
    }
    return KVRT_OK;
}
