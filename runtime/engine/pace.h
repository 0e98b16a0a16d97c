/* pace.h - how much is computed when: what the parts of a step cost, learned while they run, so that a budget is met; and the host's limits (tokens
 * per second, share of the time, mode), which may change at any moment. */
#ifndef KVI_PACE_H
#define KVI_PACE_H
#include "../base/mem.h"
#include "../base/os.h"

typedef struct kvi_cost {
    float mean_us,
        spread_us; /* of a round of the operation in a narrow step (backend.h); in a wide one, of a row of that */
} kvi_cost;

typedef struct kvi_pace {
    uint64_t (*now_us)(void); /* tests have a clock of their own */
    kvi_cost *costs;          /* (2, n_ops + 1): narrow, wide; the last: what comes before and after the operations */
    uint32_t n_ops;
    kvi_cost piece;   /* of a transfer (transfer.h) */
    kvi_cost encode;  /* a round of encoding a page */
    bool moved;       /* something was computed within the current budget */
    uint64_t turn_us; /* the current budget, when it began */
    /* Limits. Written by any thread. */
    kvi_mutex lock;
    double tokens_per_second, duty; /* 0: as fast as it goes; the mode's */
    int32_t mode;                   /* kvrt_mode */
    /* The driver's. */
    uint64_t next_token_us, rest_until_us;
} kvi_pace;

kvrt_status kvi_pace_open(kvi_pace *pace, uint32_t n_ops, kvrt_error *error);
void kvi_pace_close(kvi_pace *pace); /* zeroes are fine */
uint64_t kvi_pace_host_bytes(uint32_t n_ops);

/* What a round of operation `op` (n_ops: beginning and ending) is expected to take; 0 when it has not run yet. */
uint64_t kvi_pace_expect(const kvi_pace *pace, bool wide, uint32_t op, uint32_t n_rows);
/* Rounds that are expected to take half of `us`, at least one. */
uint32_t kvi_pace_rounds(const kvi_pace *pace, bool wide, uint32_t op, uint32_t n_rows, uint64_t us);
void kvi_pace_learn(kvi_pace *pace, bool wide, uint32_t op, uint32_t n_rows, uint32_t n_rounds, uint64_t elapsed_us);
/* The same of encoding. */
uint64_t kvi_pace_expect_encode(const kvi_pace *pace);
uint32_t kvi_pace_encode_rounds(const kvi_pace *pace, uint64_t us);
void kvi_pace_learn_encode(kvi_pace *pace, uint32_t n_rounds, uint64_t elapsed_us);
uint64_t kvi_pace_expect_piece(const kvi_pace *pace);
void kvi_pace_learn_piece(kvi_pace *pace, uint64_t elapsed_us);
/* Rows of a wide step whose longest round is expected to take at most `us`; `unknown` while nothing is known. */
uint32_t kvi_pace_rows(const kvi_pace *pace, uint64_t us, uint32_t unknown);

/* `tokens_per_second` 0: no limit; `duty` 0: that of the mode; `mode` 0: as it is. By any thread. */
void kvi_pace_limit(kvi_pace *pace, double tokens_per_second, double duty, int32_t mode);
/* Until when nothing may be computed, or no token generated; 0: now. */
uint64_t kvi_pace_rests(kvi_pace *pace, bool narrow);
/* `busy_us` of work were done, and so many tokens generated. */
void kvi_pace_worked(kvi_pace *pace, uint64_t busy_us, uint32_t n_tokens);
/* Whether the host limits the tokens per second: then a turn is over with its step. */
bool kvi_pace_limits_tokens(kvi_pace *pace);
/* Microseconds of a turn of the worker. */
uint64_t kvi_pace_turn_us(kvi_pace *pace);

#endif
