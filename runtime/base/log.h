/* log.h - log lines to the host's callback; silent by default. */
#ifndef KVI_LOG_H
#define KVI_LOG_H
#include "status.h"
#include <stdbool.h>
typedef enum kvi_log_level {
    KVI_LOG_ERROR = 1,
    KVI_LOG_WARN,
    KVI_LOG_INFO,
    KVI_LOG_DEBUG,
    KVI_LOG_KERNELS
} kvi_log_level;
/* Warnings of this thread go to `fn` instead, until it is NULL again: where the host listens for events, they are events. */
void kvi_log_warnings_to(void (*fn)(const char *line, void *user), void *user);
bool kvi_log_on(kvi_log_level level);
void kvi_log(kvi_log_level level, const char *format, ...) KVI_PRINTF(2, 3);
#endif
