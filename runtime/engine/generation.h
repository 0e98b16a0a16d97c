/* generation.h - one session's generating as a machine without loops: it says what it wants computed next, and takes what was computed. Drivers
 * (drive.h) go round between the two; it neither computes nor waits.
 *
 *                begin            last of the prompt          STOP, end of text, length, full, cancel
 *      DONE  ----------> PREFILL --------------> DECODE ---------------------------------------------> DONE
 *        ^                  | error, cancel      |    ^
 *        +------------------+             PAUSE  v    | begin
 *                                               PAUSED
 *
 * Every request ends with one event, DONE or ERROR, whatever ends it; a pause has none. Events go to the callback of the call that drives. */
#ifndef KVI_GENERATION_H
#define KVI_GENERATION_H
#include "constraint.h"
#include "draft.h"
#include "embed.h"
#include "tool_calls.h"
#include "../text/sampler.h"
#include "../text/channels.h"
#include "../text/sections.h"
#include "../text/stream.h"
#include "../tokenizer/tokenizer.h"

struct kvi_session;
struct kvi_want;

typedef enum kvi_generation_state {
    KVI_DONE,    /* no request, or the last one is over: `status` and `finish` tell how */
    KVI_PREFILL, /* logits of the prompt's last token are not there yet */
    KVI_DECODE,  /* a token was sampled and is to be computed */
    KVI_PAUSED   /* by the host; begin goes on in DECODE */
} kvi_generation_state;

/* The random numbers of a session, and where they began. */
typedef struct kvi_luck {
    kvi_random random;
    uint64_t seed;
    bool begun, given; /* by sample.seed */
} kvi_luck;

typedef struct kvi_generation {
    kvi_generation_state state;
    /* The request: what it was begun with, */
    kvrt_event_fn fn;
    void *user;
    kvi_sampler sampler;
    int64_t max_tokens;
    bool ignore_eos, token_events;
    int32_t top_wanted, n_top; /* alternatives to tell; those of the token that is told next */
    int32_t top[KVI_LIKELIEST];
    float top_logprobs[KVI_LIKELIEST];
    /* what came of it; stays until the next one begins. */
    uint64_t request, prefill_us, decode_us, first_token_us;
    uint64_t lap_us; /* when the time that runs began */
    uint32_t n_prompt, n_reused, n_generated;
    int32_t finish; /* kvrt_finish; while it runs: what the host's answers ask for */
    kvrt_status status;
    kvrt_error error;
    /* The text: from one request to the next, until the tokens change otherwise (kvi_generation_break) or the text ends. */
    bool goes_on; /* the tokens are as the last request left them */
    kvi_stream stream;
    kvi_sections sections;
    kvi_channels channels;
    kvi_channel_state channel;
    kvi_decode_start decode;
    kvi_tool_calls tools;
    kvi_constraint constraint; /* the grammar of the text, if it has one */
    uint32_t
        n_settled; /* tokens before those that were generated and are to be computed: narrow ones (kvrt.h, rule 8) */
    uint32_t last_row; /* of the step with the prompt's last token, which that one is */
    kvi_draft draft;
    kvi_embed embed; /* of a request for hidden states, which has nothing to do with the text */
    /* For the session's life. */
    kvi_luck luck;
} kvi_generation;

/* Begins a request with the session's options and those of the call, or goes on with a paused one; events go to fn. A failing call leaves
 * everything as it was. Errors: STATE (no tokens), ARG, NOMEM_HOST. */
kvrt_status kvi_generation_begin(struct kvi_session *session, const kvrt_options *options, kvrt_event_fn fn, void *user,
                                 kvrt_error *error);
/* What the session wants computed; n = 0 when nothing runs. A request that needs no step to end (cancelled, no tokens left to generate) ends
 * here. */
struct kvi_want kvi_generation_next(struct kvi_session *session);
/* What became of it: `status` of the step's part (step.h), its error in gen.error; with OK and the logits of the last token in row `logit_row`
 * of the
 * step, samples, gives out text, decides whether to go on. */
void kvi_generation_take(struct kvi_session *session, kvrt_status status, uint32_t logit_row);

/* The request is over. With `text_over` nothing that is withheld will be needed: the next request begins a text. */
void kvi_generation_end(kvi_generation *gen, bool text_over);
/* The tokens of the session changed otherwise than by generating, from the n-th on: a paused request is over, and the next one begins a text of its
 * own (of which a grammar may still know the beginning). */
void kvi_generation_break(kvi_generation *gen, uint32_t n);
/* n tokens in the middle are gone; numbers of those behind are n less. */
void kvi_generation_shift(kvi_generation *gen, uint32_t n);
void kvi_generation_free(kvi_generation *gen);

#endif
