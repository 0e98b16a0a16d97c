/* seat.h - how a call of the host gets in and out, and how the host is called back. Everything public enters through kvi_engine_enter or
 * kvi_session_enter and leaves through the matching call. One thread at a time sits in the driving seat of an engine. The worker
 * (worker_thread.h) leaves it between two operations to whoever waits, so that calls wait for it and get no BUSY; only a second driver gets that. */
#ifndef KVI_SEAT_H
#define KVI_SEAT_H
#include "../base/os.h"
#include "../base/status.h"

struct kvi_engine;
struct kvi_session;

typedef struct kvi_seat {
    kvi_mutex lock;
    kvi_cond changed; /* somebody left, or there is something to do */
    bool taken, by_worker, is_open;
    uint32_t n_waiting; /* for the worker to leave */
    bool called;        /* there may be something to do for it */
} kvi_seat;
void kvi_seat_open(kvi_seat *seat);
void kvi_seat_close(kvi_seat *seat); /* zeroes are fine */
void kvi_seat_leave(kvi_seat *seat);
/* Somebody waits: whoever drives for the worker leaves soon. */
bool kvi_seat_is_wanted(kvi_seat *seat);
/* Calls the worker. */
void kvi_seat_signal(kvi_seat *seat);

/* Entering: a held object, or a status. To drive is to take the engine's driving seat too (BUSY, REENTRANT, DEVICE_LOST); to close does so even
 * when the device is lost; to read, too, except in a callback, whose thread has it; to resume, when there is no device. */
typedef enum kvi_entry { KVI_LOOK, KVI_READ, KVI_DRIVE, KVI_RESUME, KVI_CLOSE } kvi_entry;
kvrt_status kvi_engine_enter(kvrt_engine handle, kvi_entry entry, struct kvi_engine **out, kvrt_error *error);
void kvi_engine_leave(struct kvi_engine *engine, kvi_entry entry);
kvrt_status kvi_session_enter(kvrt_session handle, kvi_entry entry, struct kvi_session **out, kvrt_error *error);
void kvi_session_leave(struct kvi_session *session, kvi_entry entry);
/* To drive a session that has no submitted request, else STATE, wherever its pages are. */
kvrt_status kvi_session_enter_still(kvrt_session handle, struct kvi_session **out, kvrt_error *error);
/* The same with its pages here. */
kvrt_status kvi_session_enter_idle(kvrt_session handle, struct kvi_session **out, kvrt_error *error);
/* To compute at once: BUSY while the worker does. A step that is under way is ended first. */
kvrt_status kvi_session_enter_compute(kvrt_session handle, struct kvi_session **out, kvrt_error *error);
/* Instead of leaving handles[0], entered to close: closes all n handles, of this engine and its sessions, and keeps the seat; or closes none and
 * leaves: BUSY when another thread is inside one of them. */
kvrt_status kvi_close_handles(const void *const *handles, uint32_t n, struct kvi_engine *engine, kvrt_error *error);

/* Returns `status`, and notes what it says of the engine: after DEVICE_LOST or INTERNAL only close works. */
kvrt_status kvi_engine_noted(struct kvi_engine *engine, kvrt_status status);

/* The library's mode of arithmetic (os.h), for calls that enter no engine; the others are in it from entering to leaving. */
void kvi_arithmetic_enter(void);
void kvi_arithmetic_leave(void);

/* Calls the host's callback; while it runs, driving calls on this engine answer REENTRANT. NULL fn continues. */
int32_t kvi_engine_event(struct kvi_engine *engine, kvrt_event_fn fn, void *user, kvrt_event *event);
/* The same for a callback that may only signal. */
void kvi_engine_wake(struct kvi_engine *engine, kvrt_wakeup_fn fn, void *user);

#endif
