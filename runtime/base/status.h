/* status.h - building the caller's kvrt_error. Owns the message format; refuses floats (their text depends on the locale).
 * Message form: what, which object, found, needed, hint. */
#ifndef KVI_STATUS_H
#define KVI_STATUS_H
#include "../kvrt.h"

#if defined(__GNUC__)
#define KVI_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define KVI_PRINTF(fmt, args)
#endif

/* Fills *error (may be NULL) and returns `code`, so that callers write `return kvi_error_set(...)`. */
kvrt_status kvi_error_set(kvrt_error *error, kvrt_status code, const char *format, ...) KVI_PRINTF(3, 4);
/* The same with errno (its text is appended). */
kvrt_status kvi_error_errno(kvrt_error *error, kvrt_status code, int system_code, const char *format, ...)
    KVI_PRINTF(4, 5);
/* The same for memory errors. */
kvrt_status kvi_error_memory(kvrt_error *error, kvrt_status code, uint64_t needed, uint64_t available,
                             const char *format, ...) KVI_PRINTF(5, 6);
/* NOMEM_HOST for `bytes` of `what`. */
kvrt_status kvi_error_nomem(kvrt_error *error, uint64_t bytes, const char *what);

/* Gives the caller's record what `why`, a full record, says; returns its code. Whoever may yet succeed lets others write into a record of its
 * own first: a call that succeeds writes nothing. */
kvrt_status kvi_error_hand_on(kvrt_error *error, const kvrt_error *why);

/* Structs of the caller begin with their size, and may be shorter than ours (an older header) or longer (a newer one): what both have is read
 * and written, the rest is left alone or reads as 0. The one place that knows this; `ours` is a full struct of `size` bytes. ARG for a
 * size that cannot be one; `name` is the struct's. */
kvrt_status kvi_struct_check(const void *theirs, const char *name, kvrt_error *error);
void kvi_struct_read(void *ours, uint32_t size, const void *theirs);
void kvi_struct_write(void *theirs, const void *ours, uint32_t size); /* their size stays */

#define KVI_TRY(expression)                                                                                            \
    do {                                                                                                               \
        kvrt_status kvi_try_ = (expression);                                                                           \
        if (kvi_try_ < KVRT_OK) return kvi_try_;                                                                       \
    } while (0)

#endif
