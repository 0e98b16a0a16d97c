/* token_trie.c - see token_trie.h. */
#include "token_trie.h"
#include "../base/utf8.h"

#include <string.h>

#define SHORT_CHARACTERS 8u /* as the slices of grammar.c */
#define LONG_CHARACTERS 32u

typedef struct token_text {
    const uint8_t *bytes;
    uint32_t len;
    int32_t id;
} token_text;

bool kvi_token_trie_text(const kvi_tokenizer *tok, int32_t id, const char **bytes, size_t *len)
{
    *bytes = "", *len = 0;
    if (kvi_tokenizer_is_marker(tok, id)) return false;
    kvi_tokenizer_token_bytes(tok, NULL, id, 0, bytes, len);
    return *len > 0 && *len < UINT16_MAX;
}

/* ----------------------------------------------------------------------------------------------------------- making --- */
static int compare(const token_text *x, const token_text *y)
{
    const int order = memcmp(x->bytes, y->bytes, x->len < y->len ? x->len : y->len);
    if (order) return order;
    if (x->len != y->len) return x->len < y->len ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* Merges runs of doubling length, back and forth between two lists; returns the one that is sorted. */
static token_text *sort(token_text *list, token_text *other, size_t n)
{
    for (size_t run = 1; run < n; run *= 2) {
        for (size_t low = 0; low < n; low += run * 2) {
            const size_t middle = low + run < n ? low + run : n, high = low + run * 2 < n ? low + run * 2 : n;
            size_t a = low, b = middle;
            for (size_t i = low; i < high; i++)
                other[i] = b == high || (a < middle && compare(&list[a], &list[b]) < 0) ? list[a++] : list[b++];
        }
        token_text *swap = list;
        list = other;
        other = swap;
    }
    return list;
}

/* Which slice all of whose texts a token is one of; see make_slices in grammar.c. */
static uint32_t slice_of(const token_text *t)
{
    const char *text = (const char *)t->bytes;
    uint32_t n = 0;
    bool ascii = true;
    for (size_t i = 0; i < t->len; n++) {
        uint32_t cp;
        const size_t used = kvi_utf8_decode(text + i, t->len - i, &cp);
        if (used == 0 || cp < 0x20 || cp == '"' || cp == '\\' || (cp > 0x7e && cp < 0xa1)) return KVI_GRAMMAR_SLICES;
        if (cp == 0x2028 || cp == 0x2029) return KVI_GRAMMAR_SLICES;
        ascii = ascii && cp < 0x80;
        i += used;
    }
    if (n > LONG_CHARACTERS) return KVI_GRAMMAR_SLICES;
    if (!ascii) return 2;
    return n <= SHORT_CHARACTERS ? 0 : 1;
}

static uint32_t common(const token_text *x, const token_text *y)
{
    uint32_t n = 0;
    while (n < x->len && n < y->len && x->bytes[n] == y->bytes[n]) n++;
    return n;
}

/* The tokens of one slice, sorted, as a tree in the order in which it is walked. `open` (deepest + 1): nodes on the way to the last one. */
static bool make_tree(kvi_token_trie *trie, struct kvi_trie_tree *tree, const token_text *list, size_t n,
                      uint32_t *open)
{
    uint64_t n_nodes = 0;
    for (size_t i = 0; i < n; i++) n_nodes += list[i].len - (i ? common(&list[i - 1], &list[i]) : 0);
    tree->nodes = n_nodes < UINT32_MAX ? kvi_mem_zalloc((size_t)n_nodes + 1, sizeof *tree->nodes) : NULL;
    tree->mask = kvi_mem_zalloc(trie->n_words, sizeof *tree->mask);
    if (!tree->nodes || !tree->mask) return false;
    uint32_t depth = 0;
    for (size_t i = 0; i < n; i++) {
        const uint32_t keep = i ? common(&list[i - 1], &list[i]) : 0;
        const int32_t id = list[i].id;
        tree->mask[id >> 5] |= 1u << (id & 31);
        if (i && keep == list[i].len && keep == list[i - 1].len) {
            void *same = trie->same;
            if (!kvi_mem_grow(&same, &trie->cap_same, trie->n_same + 1, sizeof *trie->same)) return false;
            trie->same = same;
            trie->same[trie->n_same][0] = tree->nodes[tree->n - 1].token;
            trie->same[trie->n_same++][1] = id;
            continue;
        }
        while (depth > keep) tree->nodes[open[--depth]].next = tree->n;
        for (uint32_t k = keep; k < list[i].len; k++) {
            open[depth++] = tree->n;
            tree->nodes[tree->n++] =
                (struct kvi_trie_node){.token = -1, .depth = (uint16_t)depth, .byte = list[i].bytes[k]};
        }
        tree->nodes[tree->n - 1].token = id;
    }
    while (depth > 0) tree->nodes[open[--depth]].next = tree->n;
    return true;
}

static bool make_trees(kvi_token_trie *trie, const kvi_tokenizer *tok)
{
    const size_t n_vocab = (size_t)trie->n_vocab;
    token_text *list = kvi_mem_zalloc(n_vocab + 1, sizeof *list), *other = kvi_mem_zalloc(n_vocab + 1, sizeof *other);
    uint32_t *open = NULL;
    size_t n = 0;
    for (int32_t id = 0; list && other && id < trie->n_vocab; id++) {
        const char *bytes;
        size_t len;
        if (!kvi_token_trie_text(tok, id, &bytes, &len)) continue;
        list[n++] = (token_text){(const uint8_t *)bytes, (uint32_t)len, id};
        if (len > trie->deepest) trie->deepest = (uint32_t)len;
    }
    trie->walk = kvi_mem_zalloc(trie->deepest + 1u, sizeof *trie->walk);
    open = kvi_mem_zalloc(trie->deepest + 1u, sizeof *open);
    bool ok = list && other && open && trie->walk;
    token_text *sorted = ok ? sort(list, other, n) : NULL, *part = sorted == list ? other : list;
    for (uint32_t t = 0; t < KVI_TRIE_TREES && ok; t++) {
        size_t n_part = 0;
        for (size_t i = 0; i < n; i++)
            if (slice_of(&sorted[i]) == t) part[n_part++] = sorted[i];
        ok = make_tree(trie, &trie->trees[t], part, n_part, open);
    }
    kvi_mem_free(list);
    kvi_mem_free(other);
    kvi_mem_free(open);
    return ok;
}

kvrt_status kvi_token_trie_new(const kvi_tokenizer *tok, int32_t n_vocab, kvi_token_trie **out, kvrt_error *error)
{
    kvi_token_trie *trie = kvi_mem_zalloc(1, sizeof *trie);
    if (trie) {
        trie->n_vocab = n_vocab;
        trie->n_words = ((uint32_t)n_vocab + 31) / 32;
        if (make_trees(trie, tok)) {
            *out = trie;
            return KVRT_OK;
        }
    }
    kvi_token_trie_free(trie);
    return kvi_error_nomem(error, (uint64_t)n_vocab * 40, "the vocabulary as a tree");
}

void kvi_token_trie_free(kvi_token_trie *trie)
{
    if (!trie) return;
    for (uint32_t t = 0; t < KVI_TRIE_TREES; t++) {
        kvi_mem_free(trie->trees[t].nodes);
        kvi_mem_free(trie->trees[t].mask);
    }
    kvi_mem_free(trie->same);
    kvi_mem_free(trie->walk);
    kvi_mem_free(trie);
}

uint64_t kvi_token_trie_bytes(const kvi_token_trie *trie)
{
    uint64_t bytes = sizeof *trie + trie->cap_same * sizeof *trie->same;
    for (uint32_t t = 0; t < KVI_TRIE_TREES; t++)
        bytes += trie->trees[t].n * sizeof *trie->trees[t].nodes + trie->n_words * sizeof(uint32_t);
    return bytes;
}

/* ------------------------------------------------------------------------------------------------------------- mask --- */
static void walk_tree(kvi_token_trie *trie, const struct kvi_trie_tree *tree, kvi_matcher *m, uint32_t *mask)
{
    const struct kvi_trie_node *nodes = tree->nodes;
    const uint8_t *classes = m->grammar->classes;
    kvi_spot *walk = trie->walk;
    for (uint32_t i = 0; i < tree->n;) {
        const struct kvi_trie_node node = nodes[i];
        const kvi_spot to = kvi_matcher_step(m, walk[node.depth - 1], classes[node.byte]);
        if (to == KVI_SPOT_DEAD) {
            i = node.next;
            continue;
        }
        walk[node.depth] = to;
        if (node.token >= 0) mask[node.token >> 5] |= 1u << (node.token & 31);
        i++;
    }
}

/* Whether some thread takes whatever the slice holds. */
static bool takes_slice(kvi_matcher *m, kvi_spot from, uint32_t slice)
{
    const struct kvi_text_place place = m->places[from];
    for (uint32_t i = 0; i < place.n; i++)
        if (kvi_lex_takes_slice(m->grammar, m->threads[place.first + i].lex, slice)) return true;
    return false;
}

/* Tokens with the same bytes as one that is allowed. */
static void add_same(const kvi_token_trie *trie, uint32_t *mask)
{
    for (size_t i = 0; i < trie->n_same; i++) {
        const int32_t id = trie->same[i][0], other = trie->same[i][1];
        if (mask[id >> 5] >> (id & 31) & 1) mask[other >> 5] |= 1u << (other & 31);
    }
}

kvrt_status kvi_token_mask(kvi_token_trie *trie, kvi_matcher *m, uint32_t *mask, bool *any, kvrt_error *error)
{
    KVI_TRY(kvi_matcher_prepare(m, error));
    memset(mask, 0, trie->n_words * sizeof *mask);
    const kvi_spot from = trie->walk[0] = kvi_matcher_near(m, m->at, trie->deepest);
    for (uint32_t t = 0; t < KVI_TRIE_TREES; t++) {
        const struct kvi_trie_tree *tree = &trie->trees[t];
        if (t == KVI_GRAMMAR_SLICES || tree->n == 0 || !takes_slice(m, from, t)) walk_tree(trie, tree, m, mask);
        else
            for (uint32_t w = 0; w < trie->n_words; w++) mask[w] |= tree->mask[w];
        if (m->why || m->grammar->exprs.why) return kvi_matcher_failed(m, error);
    }
    add_same(trie, mask);
    *any = false;
    for (uint32_t w = 0; w < trie->n_words && !*any; w++) *any = mask[w] != 0;
    return KVRT_OK;
}
