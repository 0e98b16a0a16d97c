/* grammar.h - context-free rules over terminals, each of which is a regular language of bytes (expr.h), and the lexer that reads terminals.
 * Owns: rules, terminals, the automaton of terminals, which is made while it is used and may be forgotten at any time (kvi_grammar_forget).
 * Refuses: grammars that no text satisfies; more than its limits.
 * The one thing to know: every rule that stays after kvi_grammar_finish can be completed. So a text that has not failed yet can always be
 * continued to one that the grammar accepts, and a mask never leads into a dead end. */
#ifndef KVI_GRAMMAR_H
#define KVI_GRAMMAR_H
#include "expr.h"
#include "../base/status.h"

#define KVI_GRAMMAR_SLICES 3u /* kinds of tokens that are allowed all at once: token_trie.h */

/* A symbol: a nonterminal, a terminal, or one of two that stand for languages without rules. */
typedef uint32_t kvi_symbol;
#define KVI_SYMBOL_TERMINAL 0x40000000u /* | number of a terminal */
#define KVI_SYMBOL_END 0x80000000u      /* | nonterminal: behind the last symbol of one of its rules */
#define KVI_SYMBOL_NONE 0xfffffffeu     /* no text: rules with it are dropped */
#define KVI_SYMBOL_VOID 0xffffffffu     /* the empty text: left out of rules */

typedef struct kvi_terminal_at {
    uint32_t terminal;
    kvi_expr rest;
} kvi_terminal_at;

/* A state of the lexer: terminals under way, each with what may follow, and terminals that end here. */
typedef struct kvi_lex_state {
    uint32_t first, n;               /* in `under_way` */
    uint32_t first_ended, n_ended;   /* in `ended`, sorted */
    uint8_t slices_known, slices_in; /* a bit per slice: whether all its texts keep some terminal under way */
} kvi_lex_state;
#define KVI_LEX_UNKNOWN 0u
#define KVI_LEX_DEAD 1u

typedef struct kvi_grammar {
    kvi_exprs exprs;
    size_t n_kept, kept_bytes; /* expressions that terminals and slices are made of */
    /* While it is built: */
    struct kvi_rule {
        uint32_t of, first, n;
        bool dropped;
    } * rules; // (n_rules)
    size_t n_rules, cap_rules;
    uint32_t *symbols; // (n_symbols) of all rules
    size_t n_symbols, cap_symbols;
    uint32_t n_nonterminals;
    kvi_expr *terminals; // (n_terminals)
    size_t n_terminals, cap_terminals;
    uint32_t *terminal_of; // (cap_terminal_of) of an expression: number + 1
    size_t cap_terminal_of;
    size_t max_symbols;
    /* When it is finished: rules one after the other, each closed by KVI_SYMBOL_END. A place in it is a rule with a dot. */
    uint32_t *places;      // (n_places)
    uint32_t *first_place; // (n_nonterminals + 1) in `starts`
    uint32_t *starts;      // places where a rule begins, by nonterminal
    bool *nullable;        // (n_nonterminals)
    uint32_t start;
    uint32_t n_places;
    /* The lexer. */
    uint8_t classes[256];
    uint8_t first_of[256]; /* a byte of each class */
    uint16_t class_size[256];
    uint32_t n_classes;
    kvi_expr slices[KVI_GRAMMAR_SLICES];
    uint8_t slice_classes[KVI_GRAMMAR_SLICES][256]; // (n_slice_classes) that texts of a slice are made of
    uint32_t n_slice_classes[KVI_GRAMMAR_SLICES];
    kvi_lex_state *states; // (n_states)
    size_t n_states, cap_states;
    uint32_t *next; // (n_states, n_classes) KVI_LEX_UNKNOWN until it is asked for
    size_t cap_next;
    kvi_terminal_at *under_way;
    size_t n_under_way, cap_under_way;
    uint32_t *ended;
    size_t n_ended, cap_ended;
    uint32_t *state_table; // (n_state_table) state
    size_t n_state_table;
    uint64_t call_steps; /* that a call of a matcher may take, in the matcher and in expressions */
    uint64_t epoch;      /* counts how often it was forgotten: numbers of states are good within one */
    struct {
        kvi_terminal_at *under_way;
        uint32_t *ended;
        uint64_t *pairs;
        size_t cap_under_way, cap_ended, cap_pairs;
    } scratch;
} kvi_grammar;

typedef struct kvi_grammar_limits {
    size_t max_exprs, max_symbols;
    uint64_t steps;
} kvi_grammar_limits;
kvi_grammar_limits kvi_grammar_default_limits(void);

/* NULL when memory is out. */
kvi_grammar *kvi_grammar_new(kvi_grammar_limits limits);
void kvi_grammar_free(kvi_grammar *grammar);            /* NULL is fine */
uint64_t kvi_grammar_bytes(const kvi_grammar *grammar); /* in all; and what states and expressions use of it */
size_t kvi_grammar_used(const kvi_grammar *grammar);

kvi_symbol kvi_grammar_terminal(kvi_grammar *grammar, kvi_expr expr);
kvi_symbol kvi_grammar_nonterminal(kvi_grammar *grammar);
void kvi_grammar_rule(kvi_grammar *grammar, kvi_symbol of, const kvi_symbol *symbols, size_t n);
/* A new nonterminal with this one rule; a single symbol is itself. */
kvi_symbol kvi_grammar_sequence(kvi_grammar *grammar, const kvi_symbol *symbols, size_t n);
/* No more rules. `name` is the grammar's in messages. Errors: GRAMMAR (no text satisfies it, or a limit), NOMEM_HOST. */
kvrt_status kvi_grammar_finish(kvi_grammar *grammar, kvi_symbol start, const char *name, kvrt_error *error);
/* The error for exprs.why. */
kvrt_status kvi_grammar_failed(const kvi_grammar *grammar, const char *name, kvrt_error *error);

/* ---- the lexer ---- */
/* The state in which these terminals (sorted) begin. KVI_LEX_DEAD with exprs.why set when a limit is reached. */
uint32_t kvi_lex_start(kvi_grammar *grammar, const uint32_t *terminals, size_t n);
uint32_t kvi_lex_make_step(kvi_grammar *grammar, uint32_t state, uint32_t class_of_byte);
static inline uint32_t kvi_lex_step(kvi_grammar *g, uint32_t state, uint32_t class_of_byte)
{
    const uint32_t next = g->next[(size_t)state * g->n_classes + class_of_byte];
    return next != KVI_LEX_UNKNOWN ? next : kvi_lex_make_step(g, state, class_of_byte);
}
/* A state that goes on as this one does for `far` bytes, with counts that are out of their reach left out. */
uint32_t kvi_lex_near(kvi_grammar *grammar, uint32_t state, uint32_t far);
/* Whether every text of the slice keeps a terminal of the state under way or ends one. False when it takes too long to find out. */
bool kvi_lex_takes_slice(kvi_grammar *grammar, uint32_t state, uint32_t slice);
/* Forgets all states. */
void kvi_grammar_forget(kvi_grammar *grammar);

#endif
