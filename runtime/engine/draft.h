/* draft.h - speculation: guesses of the next tokens, computed in one narrow step with the last token and kept as far as they come true.
 *
 *     tokens    ... 17 42 | 42 was sampled; 8 3 9 are guesses
 *     one step         42  8  3  9        a row of logits for each
 *     sampled           8  3  5           by the session's own sampler, numbers and grammar: 8 and 3 came true, 5 is the next token
 *
 * Owns: where guesses come from, how many there are, and what becomes of the cache behind the step. Refuses: sources that the engine was not opened
 * with.
 * The one thing to know: what is sampled does not depend on the guesses. Each token is drawn from its row as it would be without them, so that by
 * rule 8 of kvrt.h texts, events, random numbers and caches are the same to the bit with any source, and none; a wrong guess costs time. (For a
 * guess x that is certain, speculative sampling accepts with probability p(x) too, so that nothing is lost by it.) Guesses are tokens of no list
 * but that of the step; their rows lie in the open 16-bit page behind the session's positions, where the next step writes. Recurrent layers work on
 * a copy of the state: where a guess was wrong, the tokens before it are computed again with the next step, on the state as it was. */
#ifndef KVI_DRAFT_H
#define KVI_DRAFT_H
#include "../base/options.h"

#define KVI_DRAFT_ROWS 8u    /* of a narrow step */
#define KVI_DRAFT_STREAMS 4u /* more that decode at once fill a step without guesses */

struct kvi_engine;
struct kvi_random;
struct kvi_sampler;
struct kvi_session;
struct kvi_want;

typedef enum kvi_draft_type { KVI_DRAFT_OFF, KVI_DRAFT_LOOKUP, KVI_DRAFT_MODEL, KVI_DRAFT_MTP } kvi_draft_type;

typedef struct kvi_draft {
    kvi_draft_type type;
    uint32_t most;  /* draft.max */
    uint32_t depth; /* tokens to guess next */
    uint32_t rest;  /* steps without guesses that come first */
    uint32_t pause; /* of them the last time; 0: the last guesses were good for something */
    /* The step under way: guesses behind `base` tokens, its first position. n = 0: it has none. */
    uint32_t n, base, first;
    int32_t ids[KVI_DRAFT_ROWS];
    bool alone;  /* nobody else is in it */
    bool behind; /* tokens before a wrong guess are to be computed again before the request may end */
    uint32_t n_drafted, n_accepted; /* of the request */
} kvi_draft;

/* What the options say, for a request that begins. Errors: ARG (a source that the engine was not opened with). */
kvrt_status kvi_draft_begin(const struct kvi_session *session, const kvrt_options *options, kvi_draft *out,
                            kvrt_error *error);
/* Adds guesses to what a session wants if that ends with its last token; `streams` sessions want narrow rows. */
void kvi_draft_add(struct kvi_session *session, struct kvi_want *want, uint32_t streams);
void kvi_draft_drop(struct kvi_session *session, struct kvi_want *want);
/* Before a step with guesses: a copy of the recurrent state for it. *made = false: no room. */
kvrt_status kvi_draft_reserve(struct kvi_session *session, bool *made, kvrt_error *error);
/* Behind a step: n_true of its guesses are tokens now, and the session moves on over them. */
kvrt_status kvi_draft_take(struct kvi_session *session, uint32_t n_true, kvrt_error *error);
/* Whether tokens are to be computed again before the request may end, and which. */
bool kvi_draft_is_behind(struct kvi_session *session);

/* Guesses by what the text says already: writes up to `most` tokens that followed the latest earlier place of the longest run of tokens that the list
 * (n) ends with, as if the text went on from there for ever. Returns how many; 0: no run of two stands there twice. */
uint32_t kvi_draft_lookup(const int32_t *tokens, uint32_t n, uint32_t most, int32_t *out);

/* draft.model (draft_model.c). What its engine will take, into engine->draft_bytes; the engine within the engine, and whether it is one for this
 * model. It is opened before the engine's own weights, whose plan counts it. Errors: as kvrt_engine_open; UNSUPPORTED (another tokenizer, recurrent
 * layers). */
kvrt_status kvi_draft_plan(struct kvi_engine *engine, kvrt_error *error);
kvrt_status kvi_draft_open(struct kvi_engine *engine, kvrt_error *error);
kvrt_status kvi_draft_check(struct kvi_engine *engine, kvrt_error *error);
/* A sampler that draws as the session's next tokens will be drawn, from a copy of its numbers, with its scratch; and a guess by it from logits,
 * among what the grammar allows behind the n guesses that there are. */
void kvi_draft_draws(const struct kvi_session *session, struct kvi_sampler *sampler, struct kvi_random *random);
bool kvi_draft_draw(struct kvi_session *session, struct kvi_sampler *sampler, float *logits, uint32_t n, int32_t *out);
/* Its guess behind n others, which stand behind the session's tokens: 1, or 0, as well while it still reads what the session has. */
uint32_t kvi_draft_model(struct kvi_session *session, struct kvi_sampler *sampler, uint32_t n, int32_t *out);

#endif
