/* checksum.c - see checksum.h. This file and checksum_avx2.c alone include xxHash. */
#include "checksum.h"
#include "os.h"

#include <stdatomic.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { SHORT = 4096 }; /* where it makes no difference */

#if defined(__x86_64__)
static bool has_avx2(void)
{
    static _Atomic int known; /* 0: not asked yet */
    int has = atomic_load_explicit(&known, memory_order_relaxed);
    if (has == 0) {
        kvi_cpu cpu;
        kvi_os_cpu(&cpu);
        has = cpu.avx2 ? 2 : 1;
        atomic_store_explicit(&known, has, memory_order_relaxed);
    }
    return has == 2;
}
#endif

uint64_t kvi_checksum(const void *bytes, uint64_t n, uint64_t seed)
{
#if defined(__x86_64__)
    if (n > SHORT && has_avx2()) return kvi_checksum_avx2(bytes, n, seed);
#endif
    return XXH3_64bits_withSeed(bytes, n, seed);
}
