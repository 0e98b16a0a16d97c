/* step.h - steps of the recorded program. */
#ifndef KVI_STEP_H
#define KVI_STEP_H
#include "session.h"

/* Computes tokens [n_cached, n_cached + n) of the session, in the wide or the narrow form (backend.h); logits of the given rows (relative,
 * increasing) stay readable on the device until the next step. Looks at the cancel flag between slices. n <= limits.max_rows. Errors: CTX_FULL,
 * CANCELLED, ... */
kvrt_status kvi_step_tokens(kvi_session *session, uint32_t n, bool wide, const uint32_t *rows, uint32_t n_rows,
                            kvrt_error *error);
/* Tokens of the next step on the way to `end` > n_cached: where steps are cut is part of what kvrt.h promises (rule 8). Wide ones end at multiples
 * of the chunk, counted from position 0, so that what is computed again after a rewind sees its pages as it did. Narrow ones also end where a page
 * begins or may be encoded, so that each of several rows sees the pages as it would alone. */
uint32_t kvi_step_length(const kvi_session *session, uint32_t end, bool wide);

#endif
