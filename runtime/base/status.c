/* status.c - status names from the one X-macro, and error messages. The only formatting used is vsnprintf with integers and strings. */
#include "status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *kvrt_status_name(int32_t status)
{
    switch (status) {
#define KVI_STATUS_NAME(name, value, text)                                                                             \
    case value: return "KVRT_" #name;
        KVRT_STATUS_LIST(KVI_STATUS_NAME)
#undef KVI_STATUS_NAME
    default: return "KVRT_?";
    }
}

const char *kvrt_status_text(int32_t status)
{
    switch (status) {
#define KVI_STATUS_TEXT(name, value, text)                                                                             \
    case value: return text;
        KVRT_STATUS_LIST(KVI_STATUS_TEXT)
#undef KVI_STATUS_TEXT
    default: return "unknown status";
    }
}

uint32_t kvrt_version(void) { return (KVRT_VERSION_MAJOR << 16) | (KVRT_VERSION_MINOR << 8) | KVRT_VERSION_PATCH; }

#define KVI_TEXT_(x) #x
#define KVI_TEXT(x) KVI_TEXT_(x)
const char *kvrt_version_string(void)
{
    return KVI_TEXT(KVRT_VERSION_MAJOR) "." KVI_TEXT(KVRT_VERSION_MINOR) "." KVI_TEXT(KVRT_VERSION_PATCH);
}

kvrt_status kvrt_abi_check(uint32_t header_abi) { return header_abi == KVRT_ABI_VERSION ? KVRT_OK : KVRT_ABI; }

/* The caller's struct may be shorter than ours: an older header. Fields past its size are not touched. */
static void fill(kvrt_error *error, kvrt_status code, int system_code, uint64_t needed, uint64_t available,
                 const char *format, va_list args)
{
    if (!error || error->size < offsetof(kvrt_error, message) + 16) return;
    size_t cap = error->size - offsetof(kvrt_error, message);
    if (cap > sizeof error->message) cap = sizeof error->message;
    error->code = code;
    error->extended = 0;
    error->system_code = system_code;
    error->needed_bytes = needed;
    error->available_bytes = available;
    int n = vsnprintf(error->message, cap, format, args);
    if (n < 0) error->message[0] = 0;
    /* A cut message must not end inside a code point. */
    size_t len = strlen(error->message);
    if (n >= 0 && (size_t)n >= cap)
        while (len > 0 && ((unsigned char)error->message[len - 1] & 0x80)) {
            int lead = ((unsigned char)error->message[len - 1] & 0x40) != 0;
            error->message[--len] = 0;
            if (lead) break;
        }
}

kvrt_status kvi_error_set(kvrt_error *error, kvrt_status code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fill(error, code, 0, 0, 0, format, args);
    va_end(args);
    return code;
}

/* strerror_r has two incompatible forms and strerror reads the locale: a short table of what files and memory give is enough. */
static const char *errno_text(int code)
{
    switch (code) {
    case 1: return "operation not permitted";
    case 2: return "no such file or directory";
    case 5: return "input/output error";
    case 12: return "out of memory";
    case 13: return "permission denied";
    case 17: return "file exists";
    case 20: return "not a directory";
    case 21: return "is a directory";
    case 22: return "invalid argument";
    case 23:
    case 24: return "too many open files";
    case 27: return "file too large";
    case 28: return "no space left on device";
    case 30: return "read-only file system";
    case 36: return "file name too long";
    case 40: return "too many symbolic links";
    default: return "system error";
    }
}

kvrt_status kvi_error_errno(kvrt_error *error, kvrt_status code, int system_code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fill(error, code, system_code, 0, 0, format, args);
    va_end(args);
    if (error && error->size >= sizeof *error) {
        size_t len = strlen(error->message);
        (void)snprintf(error->message + len, sizeof error->message - len, ": %s (errno %d)", errno_text(system_code),
                       system_code);
    }
    return code;
}

kvrt_status kvi_error_memory(kvrt_error *error, kvrt_status code, uint64_t needed, uint64_t available,
                             const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fill(error, code, 0, needed, available, format, args);
    va_end(args);
    return code;
}

kvrt_status kvi_error_nomem(kvrt_error *error, uint64_t bytes, const char *what)
{
    return kvi_error_memory(error, KVRT_NOMEM_HOST, bytes, 0, "%s: out of host memory, need %llu bytes", what,
                            (unsigned long long)bytes);
}
