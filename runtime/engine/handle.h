/* handle.h - public handles: pointer-typed values that encode kind, index and generation and are never dereferenced, so that double close
 * and use after close are errors and not accidents. A handle in use cannot be closed. */
#ifndef KVI_HANDLE_H
#define KVI_HANDLE_H
#include "../base/status.h"
#include <stdbool.h>

typedef enum kvi_handle_kind { KVI_HANDLE_ENGINE = 1, KVI_HANDLE_SESSION = 2 } kvi_handle_kind;

/* NULL handle value when the table is full (1,024 objects). */
void *kvi_handle_new(kvi_handle_kind kind, void *object);
/* The object, held until kvi_handle_leave; NULL when the handle is not open or of another kind. */
void *kvi_handle_enter(const void *handle, kvi_handle_kind kind);
void kvi_handle_leave(const void *handle);
/* Takes the object out: HANDLE when not open, BUSY when someone else is inside. */
kvrt_status kvi_handle_close(const void *handle, kvi_handle_kind kind, void **object);

/* Cancel flag of a handle: static memory, so that setting it is safe in a signal handler. */
void kvi_handle_cancel(const void *handle, bool cancel);
bool kvi_handle_cancelled(const void *handle);

#endif
