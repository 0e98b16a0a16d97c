/* constraint.h - the grammar that a generation's text must satisfy: which tokens may come next, what must come next, and when the text is complete.
 * Owns: the grammars of an engine that were compiled lately, shared by its sessions; a session's place in its text. Refuses: more than one
 * grammar at a time (but calls of tools beside a schema, gen.tool_choice), and engines without a tokenizer.
 * The one thing to know: a text may be made by several calls. A call goes on where the last one stood if it gives the same grammar, the tokens
 * since are
 * what that call made (or were cut by a rewind), and the text was not complete; else it begins a new text. Reasoning is free.
 * Tools are a grammar too (call_grammar.h), of which free text is a part. */
#ifndef KVI_CONSTRAINT_H
#define KVI_CONSTRAINT_H
#include "../grammar/call_grammar.h"
#include "../grammar/token_trie.h"

struct kvi_engine;
struct kvi_session;

#define KVI_GRAMMARS 16u       /* compiled ones that an engine keeps */
#define KVI_FORWARD_TOKENS 16u /* that are taken at once where there is no choice */

typedef struct kvi_kept_grammar {
    kvi_grammar *grammar;
    char *text; /* (len) it was compiled from */
    size_t len;
    int32_t kind;
    bool required;  /* a call of a tool: the text cannot end without one */
    bool loose;     /* there was no place for it: it goes with its last user */
    uint32_t users; /* constraints that hold it */
    uint64_t used;  /* when it was last asked for */
} kvi_kept_grammar;

/* Of an engine. */
typedef struct kvi_grammars {
    kvi_kept_grammar *kept[KVI_GRAMMARS];
    uint64_t clock;
    kvi_token_trie *trie;          /* made with the first grammar */
    uint32_t *mask;                /* (trie->n_words) */
    kvi_ids ids;                   /* scratch of forced text */
    int32_t marks[KVI_CALL_MARKS]; /* tokens that are marks of calls, -1: none; with the trie */
} kvi_grammars;
void kvi_grammars_free(kvi_grammars *grammars);

/* Of a session. */
typedef struct kvi_constraint {
    kvi_kept_grammar *of; /* NULL: no grammar */
    kvi_matcher matcher;
    int64_t first; /* token of the session that its text begins with; negative when that was dropped (shift.c) */
    bool begun;    /* some token of it is there */
    bool over;     /* the text is complete; the next call begins a new one */
    /* Tokens that come next whatever is sampled, last one first: what a call does not take the next one does. */
    int32_t forced[KVI_FORWARD_TOKENS];
    uint32_t n_forced;
    uint32_t n_guessed; /* tokens that the matcher is ahead of the text */
    /* Of texts with calls: the mask of the place that free text is at, which comes again and again. */
    uint32_t *free_mask; // (trie->n_words) NULL: none yet
    kvi_spot free_at;
    uint64_t free_epoch;
} kvi_constraint;

/* What the options ask for; the session's own constraint moves there if it goes on. Errors, which leave the session as it was: ARG (two
 * grammars), GRAMMAR,
 * STATE (no tokenizer), NOMEM_HOST. */
kvrt_status kvi_constraint_make(struct kvi_session *session, const kvrt_options *options, kvi_constraint *out,
                                kvrt_error *error);
void kvi_constraint_free(kvi_constraint *constraint);
/* The text is complete, or was stopped. */
void kvi_constraint_end(kvi_constraint *constraint);
/* The session's tokens stay what they are up to n, and no further. */
void kvi_constraint_cut(kvi_constraint *constraint, uint32_t n);
/* The same grammar at the same place, for a fork. */
kvrt_status kvi_constraint_copy(const kvi_constraint *from, kvi_constraint *to, kvrt_error *error);

/* Sets logits (vocabulary) of tokens that may not come next to -infinity. Errors: GRAMMAR_DEAD_END, GRAMMAR. */
kvrt_status kvi_constraint_mask(struct kvi_session *session, float *logits, kvrt_error *error);
/* Whether nothing is left of logits after biases; false when some are no numbers. */
bool kvi_constraint_is_dead_end(const float *logits, uint32_t n);
/* A token was sampled (it is the session's last). */
kvrt_status kvi_constraint_take(struct kvi_session *session, int32_t id, kvrt_error *error);
/* Finds the tokens that come next whatever is sampled, at most KVI_FORWARD_TOKENS. */
kvrt_status kvi_constraint_forward(struct kvi_session *session, kvrt_error *error);
static inline bool kvi_constraint_forced(const kvi_constraint *c, int32_t *id)
{
    if (c->n_forced) *id = c->forced[c->n_forced - 1];
    return c->n_forced > 0;
}
/* Guesses (draft.h) go ahead of the text. One that fits there, and what the grammar forces behind it, to out, up to `most` in all; returns how
 * many, 0: it does not fit. kvi_constraint_mask is then of the place behind them, until all are given back. */
uint32_t kvi_constraint_guess(struct kvi_session *session, int32_t id, int32_t *out, uint32_t most);
void kvi_constraint_unguess(struct kvi_session *session);
/* Whether the text is complete and nothing can follow. */
bool kvi_constraint_is_complete(struct kvi_session *session);

#endif
