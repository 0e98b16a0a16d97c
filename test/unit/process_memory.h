/* process_memory.h - what a process takes: bytes that the library counts, and resident ones. */
#ifndef TEST_PROCESS_MEMORY_H
#define TEST_PROCESS_MEMORY_H
#include "runtime/kvrt.h"

#include <stdio.h>

/* Bytes that the library holds. */
static inline uint64_t held(void)
{
    uint64_t bytes = 0;
    kvrt_debug_mem(&bytes, NULL, NULL);
    return bytes;
}

/* Anonymous resident memory of this process in bytes, 0 when the system does not tell. */
static inline uint64_t resident(void)
{
    unsigned long long kib = 0;
    char line[128];
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "RssAnon: %llu kB", &kib) == 1) break;
    if (status) fclose(status);
    return kib << 10;
}

#endif
