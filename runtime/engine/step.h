/* step.h - what sessions want computed, and the steps that compute it. A step is one pass of the recorded program over the rows of several
 * sessions. Its rows have one form (backend.h): either narrow rows, KVI_DECODE_ROWS at most and of as many sessions, or wide rows of one session. */
#ifndef KVI_STEP_H
#define KVI_STEP_H
#include "session.h"

/* Tokens [first, first + n) of a session, first = n_cached. */
typedef struct kvi_want {
    uint32_t first, n; /* n = 0: nothing */
    bool wide;
    const uint32_t *logit_rows; /* (n_logit_rows) relative to first, increasing */
    uint32_t n_logit_rows;
} kvi_want;

/* One session's part of a step, and what became of it: OK and its tokens are computed; MORE and they are not, because a cancel of another
 * session's request ended the step; or its own error. */
typedef struct kvi_part {
    kvi_session *session;
    kvi_want want;
    kvrt_status status;
    uint32_t logit_row; /* first of its rows among those of the step */
    kvrt_error *error;  /* may be NULL */
} kvi_part;

typedef struct kvi_batch {
    kvi_part parts[KVI_DECODE_ROWS];
    uint32_t n_parts, n_rows, n_logit_rows;
} kvi_batch;

/* Tokens of the next step on the way to `end` > n_cached: where steps are cut is part of what kvrt.h promises (rule 8). Wide ones end at multiples
 * of the chunk, counted from position 0, so that what is computed again after a rewind sees its pages as it did. Narrow ones also end where a page
 * begins or may be encoded, so that each of several rows sees the pages as it would alone. */
uint32_t kvi_step_length(const kvi_session *session, uint32_t end, bool wide);

/* Runs a step slice by slice, asking between two of them whether to go on. Leaves sessions alone: batch.c knows them. */
kvrt_status kvi_step_run(kvi_engine *engine, const kvi_step *step, bool (*cancelled)(const void *user),
                         const void *user, kvrt_error *error);

/* Adds what a session wants, n >= 1, to an empty batch or one of the same engine. False: no room beside what is there, nothing changed. */
bool kvi_batch_add(kvi_batch *batch, kvi_session *session, const kvi_want *want, kvrt_error *error);
/* Makes room in the pool for each part, which may fail for one and leaves the others; computes the rest as one step, looking at every cancel
 * between slices; encodes the pages that are due. The logits stay readable on the device until the next step. Allocates nothing. */
void kvi_batch_run(kvi_engine *engine, kvi_batch *batch);
/* A step of this session alone. */
kvrt_status kvi_step_alone(kvi_session *session, const kvi_want *want, kvrt_error *error);

#endif
