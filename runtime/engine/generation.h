/* generation.h - what a session knows about generating, apart from its tokens and their cache: the request that runs or is paused, how far the
 * text of its tokens has been given out, and its random numbers. generate.c drives it; it computes nothing. */
#ifndef KVI_GENERATION_H
#define KVI_GENERATION_H
#include "../text/sampler.h"
#include "../text/sections.h"
#include "../text/stream.h"
#include "../tokenizer/tokenizer.h"

struct kvi_session;

/* The random numbers of a session, and where they began. */
typedef struct kvi_luck {
    kvi_random random;
    uint64_t seed;
    bool begun, given; /* by sample.seed */
} kvi_luck;

typedef struct kvi_generation {
    /* The request: from kvi_generation_start to kvi_generation_end. */
    bool active;
    kvi_sampler sampler;
    uint64_t request, prefill_us, decode_us, first_token_us;
    uint32_t n_prompt, n_reused, n_generated;
    int64_t max_tokens;
    bool ignore_eos, token_events;
    /* The text: from one request to the next, until the tokens change otherwise (kvi_generation_break) or the text ends. */
    bool goes_on; /* the tokens are as the last request left them */
    kvi_stream stream;
    kvi_sections sections;
    kvi_decode_start decode;
    /* For the session's life. */
    kvi_luck luck;
} kvi_generation;

/* Begins a request with the session's options and those of the call. A failing call leaves everything as it was. */
kvrt_status kvi_generation_start(struct kvi_session *session, const kvrt_options *options, kvrt_error *error);
/* The request is over. With `text_over` nothing that is withheld will be needed: the next request begins a text. */
void kvi_generation_end(kvi_generation *gen, bool text_over);
/* The tokens of the session changed otherwise than by generating: a paused request is over, and the next one begins a text of its own. */
void kvi_generation_break(kvi_generation *gen);
void kvi_generation_free(kvi_generation *gen);

#endif
