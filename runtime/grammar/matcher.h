/* matcher.h - a text against a grammar, byte by byte: Earley's algorithm over terminals that the lexer reads.
 * Owns: the sets of rules under way, the places that a text can be at, its bytes (for the way back). Refuses: texts and grammars that need more than
 * its memory or steps.
 * The one thing to know: where a terminal may end is not decided. A place in the text is a list of threads, each a set (where terminals began) and a
 * state of the lexer (where they are); where some end, one more set begins there and the longer ones stay. Sets and places are made once and have
 * numbers, so a text is a walk over numbers: looking ahead for a mask is the same walk, and going back is an old number. */
#ifndef KVI_MATCHER_H
#define KVI_MATCHER_H
#include "grammar.h"

typedef uint32_t kvi_spot;
#define KVI_SPOT_UNKNOWN 0u
#define KVI_SPOT_DEAD 1u

typedef struct kvi_matcher {
    kvi_grammar *grammar; /* shared; whoever has the matcher holds a reference */
    uint64_t epoch;       /* of the grammar's lexer, that places are good for */
    /* Sets: rules under way at a byte, by the symbol that comes next. */
    struct kvi_earley_item {
        uint32_t symbol, place, origin; /* of the grammar's places; the set where the rule began */
    } * items;
    struct kvi_earley_set {
        uint32_t first, n;
        uint32_t lex; /* where its terminals begin */
        bool accepts;
    } * sets;
    struct kvi_lex_thread {
        uint32_t set, lex;
    } * threads, *keys; /* keys: which threads' ends made a set */
    struct kvi_text_place {
        uint32_t first, n; /* in threads */
        bool accepts;
    } * places;
    uint32_t *next; // (n_places, grammar->n_classes)
    size_t n_items, cap_items, n_sets, cap_sets, n_threads, cap_threads, n_keys, cap_keys, n_places, cap_places,
        cap_next;
    struct kvi_set_key {
        uint32_t first, n, set;
    } * set_keys; // (n_set_keys)
    size_t n_set_keys, cap_set_keys;
    uint32_t *set_table, *place_table;
    size_t n_set_table, n_place_table;
    /* The text. */
    kvi_spot at;
    kvi_buf bytes;
    struct kvi_token_at {
        kvi_spot before;
        size_t n_bytes; /* of the text before it */
    } * tokens;         // (n_tokens)
    size_t n_tokens, cap_tokens;
    /* While a set or place is made. */
    uint32_t *predicted; // (nonterminals) number of the making
    uint64_t *seen;      // (n_seen) place and origin, open addressing, with its making in seen_in
    uint32_t *seen_in, *work;
    size_t n_seen, cap_predicted, cap_work, n_work;
    uint32_t making;
    struct kvi_lex_thread *new_threads, *ends;
    size_t cap_new_threads, cap_ends;
    uint32_t *terminals;
    size_t cap_terminals;
    uint64_t steps; /* left for this call */
    const char *why;
    size_t max_bytes;
} kvi_matcher;

#define KVI_MATCHER_BYTES ((size_t)48 << 20) /* of sets and places */

/* At the beginning of a text. Errors: NOMEM_HOST, GRAMMAR. */
kvrt_status kvi_matcher_init(kvi_matcher *matcher, kvi_grammar *grammar, kvrt_error *error);
void kvi_matcher_free(kvi_matcher *matcher); /* zeroes are fine; the grammar stays */
uint64_t kvi_matcher_bytes(const kvi_matcher *matcher);
/* Another one at the same place of the same text. `copy` is not initialized. */
kvrt_status kvi_matcher_copy(const kvi_matcher *matcher, kvi_matcher *copy, kvrt_error *error);

/* Takes the bytes of a token; *fits is false when the grammar does not go on so, and then nothing is changed. Errors: GRAMMAR (too ambiguous, too
 * long), NOMEM_HOST: nothing is changed either. */
kvrt_status kvi_matcher_take(kvi_matcher *matcher, const char *bytes, size_t len, bool *fits, kvrt_error *error);
/* Goes back by n tokens (at most all that were taken). */
kvrt_status kvi_matcher_back(kvi_matcher *matcher, size_t n, kvrt_error *error);
/* Whether the text may end here. */
bool kvi_matcher_accepts(const kvi_matcher *matcher);
/* The bytes that must come next, as far as there is no choice, at most `cap`. *ends: behind them the text is complete and nothing can follow. */
kvrt_status kvi_matcher_forced(kvi_matcher *matcher, char *bytes, size_t cap, size_t *n, bool *ends, kvrt_error *error);
/* To be called before a walk: brings places up to date when the grammar has forgotten its states, and keeps memory within bounds. */
kvrt_status kvi_matcher_prepare(kvi_matcher *matcher, kvrt_error *error);
kvrt_status kvi_matcher_failed(const kvi_matcher *matcher, kvrt_error *error);

/* A place from which texts of up to `far` bytes go on as from this one: counts that are out of their reach are left out, so that it is the same for
 * most of a long string. */
kvi_spot kvi_matcher_near(kvi_matcher *matcher, kvi_spot place, uint32_t far);

/* A step from a place. KVI_SPOT_DEAD also when something went wrong: look at `why` at the end of a walk. */
kvi_spot kvi_matcher_make_step(kvi_matcher *matcher, kvi_spot place, uint32_t class_of_byte);
static inline kvi_spot kvi_matcher_step(kvi_matcher *m, kvi_spot place, uint32_t class_of_byte)
{
    const kvi_spot next = m->next[(size_t)place * m->grammar->n_classes + class_of_byte];
    return next != KVI_SPOT_UNKNOWN ? next : kvi_matcher_make_step(m, place, class_of_byte);
}

#endif
