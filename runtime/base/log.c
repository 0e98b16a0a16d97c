/* log.c - hands formatted lines to the host's callback. Owns one process-wide sink; refuses to print by itself. */
#include "log.h"
#include "os.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

static kvrt_log_fn sink;
static void *sink_user;
static _Atomic int32_t sink_level;

static _Thread_local void (*warnings)(const char *line, void *user);
static _Thread_local void *warnings_user;

void kvi_log_warnings_to(void (*fn)(const char *line, void *user), void *user)
{
    warnings = fn;
    warnings_user = user;
}

void kvrt_log_set(kvrt_log_fn fn, void *user, int32_t max_level)
{
    kvi_global_lock();
    sink = fn;
    sink_user = user;
    atomic_store(&sink_level, fn ? max_level : 0);
    kvi_global_unlock();
}

bool kvi_log_on(kvi_log_level level)
{
    return (level == KVI_LOG_WARN && warnings) ||
           (int32_t)level <= atomic_load_explicit(&sink_level, memory_order_relaxed);
}

void kvi_log(kvi_log_level level, const char *format, ...)
{
    if (!kvi_log_on(level)) return;
    char line[1024];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (n < 0) return;
    if (level == KVI_LOG_WARN && warnings) {
        warnings(line, warnings_user);
        return;
    }
    /* The callback runs without the lock, so that it may call getters. */
    kvi_global_lock();
    kvrt_log_fn fn = sink;
    void *user = sink_user;
    kvi_global_unlock();
    if (fn) fn((int32_t)level, line, user);
}
