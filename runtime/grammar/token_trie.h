/* token_trie.h - the vocabulary as a tree of bytes, and the mask of tokens that a grammar allows next.
 * Owns: a tree for each slice, and one for the tokens in none. Refuses: nothing; tokens without bytes (special ones, and markers such as
 * <tool_call>,
 * which would mean something else than their text) are never allowed.
 * The one thing to know: what the tokens of a slice have in common (plain text of some length) is decided at once where a string is under way,
 * so that
 * a mask there walks a tenth of the vocabulary. Everything else is exact walking, with a table lookup per byte. */
#ifndef KVI_TOKEN_TRIE_H
#define KVI_TOKEN_TRIE_H
#include "matcher.h"
#include "../tokenizer/tokenizer.h"

#define KVI_TRIE_TREES (KVI_GRAMMAR_SLICES + 1u)

typedef struct kvi_token_trie {
    int32_t n_vocab;
    uint32_t n_words; /* of a mask: 32 tokens each */
    struct kvi_trie_tree {
        struct kvi_trie_node {
            uint32_t next;  /* node behind everything below this one */
            int32_t token;  /* that ends here; -1: none */
            uint16_t depth; /* bytes, this one included */
            uint8_t byte;
        } * nodes; // (n)
        uint32_t n;
        uint32_t *mask;      // (n_words) of all its tokens
    } trees[KVI_TRIE_TREES]; /* the last one: tokens in no slice */
    int32_t (*same)[2];      // (n_same) tokens with the same bytes: the one in the tree, another
    size_t n_same, cap_same;
    uint32_t deepest;
    kvi_spot *walk; // (deepest + 1)
} kvi_token_trie;

/* For the tokens 0 .. n_vocab - 1, which a model may have more of than its tokenizer. Errors: NOMEM_HOST. */
kvrt_status kvi_token_trie_new(const kvi_tokenizer *tokenizer, int32_t n_vocab, kvi_token_trie **out,
                               kvrt_error *error);
void kvi_token_trie_free(kvi_token_trie *trie); /* NULL is fine */
uint64_t kvi_token_trie_bytes(const kvi_token_trie *trie);
/* Bytes that a token stands for in a constrained text; false when it never may stand there. */
bool kvi_token_trie_text(const kvi_tokenizer *tokenizer, int32_t id, const char **bytes, size_t *len);

/* mask (n_words): a bit for each token whose bytes the text can go on with. *any tells whether there is one. Errors: GRAMMAR, NOMEM_HOST. */
kvrt_status kvi_token_mask(kvi_token_trie *trie, kvi_matcher *matcher, uint32_t *mask, bool *any, kvrt_error *error);

#endif
