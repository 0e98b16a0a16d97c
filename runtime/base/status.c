/* status.c - status names from the one X-macro, and error messages. The only formatting used is vsnprintf with integers and strings. */
#include "status.h"
#include "utf8.h"

#include <stdarg.h>
#include <stdbool.h>
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

/* ---------------------------------------------------------------------------------------------- caller's structs --- */
static uint32_t size_of(const void *theirs)
{
    uint32_t size;
    memcpy(&size, theirs, sizeof size);
    return size;
}

kvrt_status kvi_struct_check(const void *theirs, const char *name, kvrt_error *error)
{
    if (!theirs) return kvi_error_set(error, KVRT_ARG, "%s: is NULL", name);
    if (size_of(theirs) >= 2 * sizeof(uint32_t)) return KVRT_OK; /* the size itself and a field */
    return kvi_error_set(error, KVRT_ARG, "%s: size is %u, need sizeof(%s)", name, size_of(theirs), name);
}

void kvi_struct_read(void *ours, uint32_t size, const void *theirs)
{
    const uint32_t have = size_of(theirs);
    memset(ours, 0, size);
    memcpy(ours, theirs, have < size ? have : size);
}

void kvi_struct_write(void *theirs, const void *ours, uint32_t size)
{
    const uint32_t have = size_of(theirs);
    memcpy(theirs, ours, have < size ? have : size);
    if (have >= sizeof have) memcpy(theirs, &have, sizeof have);
}

/* -------------------------------------------------------------------------------------------------------- errors --- */
/* Names and texts of files are quoted as they are, and quoted in part: what is no UTF-8 leaves the message. */
static void keep_code_points(char *message, size_t len)
{
    size_t kept = 0;
    for (size_t i = 0, n; i < len; i += n) {
        n = kvi_utf8_valid_prefix(message + i, len - i);
        memmove(message + kept, message + i, n);
        kept += n;
        if (n == 0) n = 1;
    }
    message[kept] = 0;
}

/* `suffix` follows the message. */
static void fill(kvrt_error *error, const kvrt_error *values, const char *suffix, const char *format, va_list args)
{
    if (!error || error->size < sizeof error->size) return;
    kvrt_error full = *values;
    const size_t at = offsetof(kvrt_error, message), room = error->size > at ? error->size - at : 0,
                 cap = room < sizeof full.message ? room : sizeof full.message;
    if (cap) {
        int n = vsnprintf(full.message, cap, format, args);
        if (n < 0) full.message[n = 0] = 0;
        size_t len = (size_t)n < cap ? (size_t)n : cap - 1;
        n = snprintf(full.message + len, cap - len, "%s", suffix);
        keep_code_points(full.message, strlen(full.message));
    }
    kvi_struct_write(error, &full, sizeof full);
}

static void KVI_PRINTF(3, 4) fill_with(kvrt_error *error, const kvrt_error *values, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fill(error, values, "", format, args);
    va_end(args);
}

kvrt_status kvi_error_hand_on(kvrt_error *error, const kvrt_error *why)
{
    fill_with(error, why, "%s", why->message);
    return (kvrt_status)why->code;
}

kvrt_status kvi_error_set(kvrt_error *error, kvrt_status code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fill(error, &(kvrt_error){.code = code}, "", format, args);
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
    char suffix[64];
    (void)snprintf(suffix, sizeof suffix, ": %s (errno %d)", errno_text(system_code), system_code);
    fill(error, &(kvrt_error){.code = code, .system_code = system_code}, suffix, format, args);
    va_end(args);
    return code;
}

kvrt_status kvi_error_memory(kvrt_error *error, kvrt_status code, uint64_t needed, uint64_t available,
                             const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fill(error, &(kvrt_error){.code = code, .needed_bytes = needed, .available_bytes = available}, "", format, args);
    va_end(args);
    return code;
}

kvrt_status kvi_error_nomem(kvrt_error *error, uint64_t bytes, const char *what)
{
    return kvi_error_memory(error, KVRT_NOMEM_HOST, bytes, 0, "%s: out of host memory, need %llu bytes", what,
                            (unsigned long long)bytes);
}
