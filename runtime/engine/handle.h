/* handle.h - public handles: pointer-typed values that encode kind, index and generation and are never dereferenced, so that double close
 * and use after close are errors and not accidents. A handle in use cannot be closed. A handle belongs to the process that opened it: after a
 * fork the child's copy of an engine has no worker threads, and locks as they happened to be, so every call there is refused before any lock. */
#ifndef KVI_HANDLE_H
#define KVI_HANDLE_H
#include "request.h"
#include "../base/status.h"

typedef enum kvi_handle_kind { KVI_HANDLE_ENGINE = 1, KVI_HANDLE_SESSION = 2 } kvi_handle_kind;
enum { KVI_MAX_HANDLES = 1024 };

/* NULL handle value when the table is full. */
void *kvi_handle_new(kvi_handle_kind kind, void *object);
/* The object, held until kvi_handle_leave. HANDLE when the handle is not open, of another kind or of another process. */
kvrt_status kvi_handle_enter(const void *handle, kvi_handle_kind kind, void **object, kvrt_error *error);
void kvi_handle_leave(const void *handle);
/* Closes these open handles, or none: false when someone is inside one of them. Their objects are the caller's from then on. */
bool kvi_handle_close(const void *const *handles, uint32_t n);

/* The requests of a session, in static memory: valid as long as the handle is open. */
kvi_requests *kvi_handle_requests(const void *handle);
/* Cancels one request of the session, or with 0 what is reserved and current. Harmless for any value. [async-signal-safe] */
void kvi_handle_cancel(const void *handle, uint64_t request);

/* Cancels this request of any session. [async-signal-safe] */
void kvi_handle_cancel_anywhere(uint64_t request);

#endif
