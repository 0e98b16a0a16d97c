/* generation_parts.h - what the files of one machine share: generation.c has its states, generation_start.c makes a request from options,
 * generation_text.c turns tokens into text and tells the host. */
#ifndef KVI_GENERATION_PARTS_H
#define KVI_GENERATION_PARTS_H
#include "session.h"

/* A new request, in PREFILL. A failing call leaves everything as it was. */
kvrt_status kvi_generation_start(kvi_session *session, const kvrt_options *options, kvrt_error *error);

/* What begins a request of any kind: its number, counts of nothing, PREFILL. */
void kvi_generation_renew(kvi_session *session);
/* What begins every stretch of a request, of which a paused one has several: who listens, no end and no error, the clock. */
void kvi_generation_listen(kvi_session *session, kvrt_event_fn fn, void *user);

/* The one place where events leave; returns the host's answer. */
int32_t kvi_generation_tell(kvi_session *session, kvrt_event event);
/* The same, and a STOP or PAUSE becomes the reason to finish. */
void kvi_generation_ask(kvi_session *session, kvrt_event event);

/* What the step gave up to find room (KV_DEMOTED); the kinds of last event. */
void kvi_generation_tell_demotions(kvi_session *session);
/* What was dropped behind the sink, once (CTX_SHIFTED). */
void kvi_generation_tell_shift(kvi_session *session);
void kvi_generation_tell_done(kvi_session *session);
void kvi_generation_tell_error(kvi_session *session);

/* Gives out a sampled token as the text it completes. *stopped: a stop string ends it. */
kvrt_status kvi_generation_put(kvi_session *session, int32_t id, float logprob, bool eos, bool *stopped,
                               kvrt_error *error);
/* Gives out everything that is withheld: the text, or its section, ends here. */
kvrt_status kvi_generation_flush(kvi_session *session, bool *stopped, kvrt_error *error);
/* Whether no call can go on with the text: what is withheld is then given out, else it waits. */
bool kvi_generation_text_is_over(int32_t finish);

#endif
