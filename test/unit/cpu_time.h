/* cpu_time.h - how long something computed, for limits that tell seconds from hours: neighbours on the machine, and a host that stops it for a moment,
 * take wall time alone. */
#ifndef TEST_CPU_TIME_H
#define TEST_CPU_TIME_H
#include <stdint.h>
#include <time.h>

/* CPU time of this process in microseconds, of all its threads. */
static inline uint64_t cpu_us(void) { return (uint64_t)((double)clock() * 1e6 / CLOCKS_PER_SEC); }

#endif
