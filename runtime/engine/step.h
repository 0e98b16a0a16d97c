/* step.h - what sessions want computed, and the steps that compute it. A step is one pass of the recorded program over the rows of several
 * sessions: narrow rows (backend.h), as many as the backend takes at once, KVI_BATCH_ROWS at most, or wide rows of one session; or both, where the
 * backend mixes them. Then the last token of a prompt, which is narrow, needs no step of its own either. */
#ifndef KVI_STEP_H
#define KVI_STEP_H
#include "session.h"

/* Tokens [first, first + n) of a session, first = n_cached. */
typedef struct kvi_want {
    uint32_t first, n; /* n = 0: nothing */
    bool wide;
    bool hidden; /* the request is an embedding, which takes the rows of the residual (embed.h) */
    bool sink;   /* the sink anew (shift.c): nothing is appended */
    bool part;   /* of a chunk: the next one sees the pages as this one does, so that nothing is encoded between them */
    const uint32_t *logit_rows; /* (n_logit_rows) relative to first, increasing */
    uint32_t n_logit_rows;
    uint32_t n_narrow; /* of n, wide otherwise: 1, the prompt's last token, or 0 */
    uint32_t
        n_draft; /* of n, the last ones: guesses (draft.h). The session moves on over those that come true when its request takes the step */
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
    kvi_part parts[KVI_BATCH_ROWS];
    uint32_t n_parts, n_rows, n_logit_rows;
    /* The step, once it has begun: operations [0, op) of [0, end) are done. */
    kvi_step step;
    uint32_t op, end;
    uint32_t round;   /* rounds of operation `op` that are done */
    bool is_accepted; /* the sessions have moved on: the step cannot be dropped any more */
    struct {
        uint32_t part;    /* parts before it have no page left that is due */
        uint32_t n, page; /* n 1: `job` is under way, for that page, and `round` rounds of it are done */
        uint32_t round;
        kvi_page_job job;
    } encoding;         /* once it is accepted */
    kvrt_status status; /* MORE: it goes on */
    kvrt_error why;
    const kvi_page_ref *tables[KVI_BATCH_ROWS][KVI_MAX_GROUPS];
    kvi_seq seqs[KVI_BATCH_ROWS + 1]; /* wide rows and the narrow one behind them are two */
    uint32_t rows[KVI_BATCH_ROWS];
} kvi_batch;

/* Tokens of the next step on the way to `end` > n_cached: where steps are cut is part of what kvrt.h promises (rule 8). Wide ones end at multiples
 * of the chunk, counted from position 0, so that what is computed again after a rewind sees its pages as it did. Narrow ones also end where a page
 * begins or may be encoded, so that each of several rows sees the pages as it would alone. */
uint32_t kvi_step_length(const kvi_session *session, uint32_t end, bool wide);

/* No end of time: whole slices, and nothing is learned of what they cost. */
#define KVI_FOREVER UINT64_MAX

/* Whether the last token of the prompt may be computed in the step that ends with the token before it: nothing happens to the session's pages
 * between the two that the last one would see. */
bool kvi_step_takes_last(const kvi_session *session, const kvi_want *want);
/* Whether rows of the prompt may be computed beside narrow ones of others. */
bool kvi_step_has_company(const kvi_session *session, const kvi_want *want);

/* Adds what a session wants, n >= 1, to an empty batch or one of the same engine. False: no room beside what is there, nothing changed. */
bool kvi_batch_add(kvi_batch *batch, kvi_session *session, const kvi_want *want, kvrt_error *error);
/* Makes room in the pool for each part, which may fail for one and leaves the others; computes the rest as one step, looking at every cancel
 * between slices; encodes the pages that are due. The logits stay readable on the device until the next step. Allocates nothing. */
void kvi_batch_run(kvi_engine *engine, kvi_batch *batch);
/* The same in pieces: begins; goes on, at any round of an operation, for as long as what comes next is expected to end before `until` (pace.h), and
 * returns whether the step is over; ends. Between two pieces pages may be shared and given back, but nothing may move or be computed. */
void kvi_batch_begin(kvi_engine *engine, kvi_batch *batch);
bool kvi_batch_go(kvi_engine *engine, kvi_batch *batch, uint64_t until);
void kvi_batch_end(kvi_engine *engine, kvi_batch *batch);
/* Whether what operation `op` of the step takes (n_step: its end) is in proportion to its rows. Of a step that is wide; but rows of logits, and what
 * is sampled from them, are narrow. */
bool kvi_batch_is_by_row(const kvi_engine *engine, const kvi_batch *batch, uint32_t op);
/* A step of this session alone. */
kvrt_status kvi_step_alone(kvi_session *session, const kvi_want *want, kvrt_error *error);

#endif
