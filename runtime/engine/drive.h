/* drive.h - driving the machine of generation.h: round after round, a step of what sessions want. All ways to drive an engine are a loop around
 * kvi_drive_step: the blocking call goes on until its session wants nothing more; a call with a budget would go on until its time is over, a worker
 * until the engine closes. */
#ifndef KVI_DRIVE_H
#define KVI_DRIVE_H
#include "session.h"

/* Whose turn it is, so that none waits for ever. All zero at first. */
typedef struct kvi_turn {
    uint32_t narrow, wide; /* index to look at first */
    bool was_wide;
} kvi_turn;

/* One step for some of these n sessions of an engine: the decode rows of as many as fit, or one chunk of a prompt; where both are wanted they take
 * turns. False: none of them wants anything. The list may differ from call to call. */
bool kvi_drive_step(kvi_engine *engine, kvi_session *const *sessions, uint32_t n, kvi_turn *turn);
/* Until none of them wants anything. */
void kvi_engine_drive(kvi_engine *engine, kvi_session *const *sessions, uint32_t n);

#endif
