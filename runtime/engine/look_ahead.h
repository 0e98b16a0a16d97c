/* look_ahead.h - the token after the next one: the layer of model.mtp, run beside the steps of one session. Speculation is built on it.
 *
 * Its row of a position needs the hidden state there and the token behind, so it is one position late: a step's rows are followed when the
 * step has ended, the last one when the token behind it is known, which is when the next step begins or when somebody asks for a draft. Hidden
 * states are lost with the next step, so a session has its rows only as long as its steps are its own: after a step with others, or one of another
 * session between two of its steps, there is a gap, and no draft until the session is cut to where the gap begins. */
#ifndef KVI_LOOK_AHEAD_H
#define KVI_LOOK_AHEAD_H
#include "step.h"

/* Called by the batch: before its step begins; after it, while pages are as they were and logits of the step are still to be read. */
void kvi_ahead_before_step(kvi_engine *engine, kvi_batch *batch);
void kvi_ahead_after_step(kvi_engine *engine, kvi_batch *batch);
/* The same for a step of one session with guesses: n of its rows, from position `first` on, count, and a token stands behind each. */
kvrt_status kvi_ahead_after_drafts(kvi_session *session, uint32_t first, uint32_t n, kvrt_error *error);

/* The session's last step was the engine's last. With `next` behind its last token: logits of the token behind that, in row 0 of the device's
 * (read_logits). Each further call goes one token on, from the layer's own result: next is what the call before predicted. Nothing of the session
 * changes; its pages grow by what is predicted, and the next step overwrites it. The logits of the step are gone. Errors: STATE (no
 * model.mtp; the session has a gap; its last step is not the last), ARG (no token), CTX_FULL. */
kvrt_status kvi_ahead_draft(kvi_session *session, int32_t next, kvrt_error *error);

#endif
