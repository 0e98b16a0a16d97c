/* drive.h - driving the machine of generation.h: step after step of what sessions want. All ways to drive an engine are a loop around the same
 * choice: the blocking call goes on until its session wants nothing more; kvrt_step until its time is over; the worker until it is stopped.
 *
 * WHOSE TURN. Who was served longest ago is next; a priority counts as steps waited for, so that it is served earlier and nobody is starved. Narrow
 * and wide rows: where a step may have both, a part of a prompt takes with it as many rows of others as there is room for. Else after one chunk
 * of a prompt every session that decodes has its step, in as many steps as their rows make (kvi_backend.narrow_rows), before the next chunk. So with
 * up to 16 that decode, nobody waits for more than a chunk and one narrow step. */
#ifndef KVI_DRIVE_H
#define KVI_DRIVE_H
#include "step.h"

#define KVI_PRIORITY_STEPS 4 /* that one more of priority counts for */

/* One step for some of these n sessions of an engine. False: none of them wants anything. The list may differ from call to call. */
bool kvi_drive_step(kvi_engine *engine, kvi_session *const *sessions, uint32_t n);
/* Until none of them wants anything. */
void kvi_engine_drive(kvi_engine *engine, kvi_session *const *sessions, uint32_t n);

/* SUBMITTED REQUESTS (kvrt_submit). Their sessions stand in engine->submitted, and their events go to engine->events. */

/* For the submitted requests, until the clock of the pace says `until`. DONE: none is left; MORE: time is over, or the host's limits demand a rest;
 * PARTIAL: the event queue has no room for what would come. */
kvrt_status kvi_drive_until(kvi_engine *engine, uint64_t until);
/* A place in the list for one more. */
bool kvi_drive_reserve(kvi_engine *engine);
/* The session is submitted from now on; there is a place. */
void kvi_drive_join(kvi_engine *engine, kvi_session *session);
/* Ends the step that kvi_drive_until has left under way, if there is one: before anything moves pages or computes. */
void kvi_drive_finish(kvi_engine *engine);
/* The same only if the session is in it. */
void kvi_drive_finish_of(kvi_engine *engine, const kvi_session *session);
/* If the device is lost: says so to all of them. Whoever computes calls it, as no driver gets in any more. */
void kvi_drive_lost(kvi_engine *engine);
/* The session is submitted no longer, whatever it was in. */
void kvi_drive_leave(kvi_engine *engine, kvi_session *session);

#endif
