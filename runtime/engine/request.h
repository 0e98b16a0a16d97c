/* request.h - which generation of a session is meant by a cancel. Numbers are unique in the process and never reused, so that cancelling
 * a finished generation, or one of a session that is closed, is harmless. Everything here is lock-free and async-signal-safe; handle.c
 * keeps it in static memory.
 * The one thing to know: a number is first reserved, then current. Each place has a mark of its own, and a canceller looks at `reserved`
 * before `current`: so a cancel at any moment of the change is found. */
#ifndef KVI_REQUEST_H
#define KVI_REQUEST_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct kvi_requests {
    _Atomic uint64_t reserved, current;   /* 0: none yet */
    _Atomic uint64_t reserved_mark, mark; /* the number that was cancelled there */
} kvi_requests;

void kvi_requests_reset(kvi_requests *requests);
/* A new number for the next generation; one reserved before and not used is over. */
uint64_t kvi_requests_reserve(kvi_requests *requests);
/* A generation begins: with the reserved number, or a new one. Only its driver calls this. */
uint64_t kvi_requests_begin(kvi_requests *requests);
/* Other work begins, which kvi_requests_cancel of the current number stops; the reservation stays. */
void kvi_requests_begin_other(kvi_requests *requests);
bool kvi_requests_cancelled(const kvi_requests *requests);

/* Cancels `request` where it is reserved or current. */
void kvi_requests_cancel(kvi_requests *requests, uint64_t request);

#endif
