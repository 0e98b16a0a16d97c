/* checksum.c - see checksum.h. The one place that includes xxHash. */
#include "checksum.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t kvi_checksum(const void *bytes, uint64_t n, uint64_t seed) { return XXH3_64bits_withSeed(bytes, n, seed); }
