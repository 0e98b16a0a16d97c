/* checksum.h - XXH3, 64 bits: finds damage of every kind that is not made on purpose. From xxHash (Debian's libxxhash-dev), compiled into
 * checksum.c and checksum_avx2.c alone. */
#ifndef KVI_CHECKSUM_H
#define KVI_CHECKSUM_H
#include <stdint.h>

/* `seed`: another for every place, so that what is whole but stands elsewhere is found too; or the checksum of what comes before. */
uint64_t kvi_checksum(const void *bytes, uint64_t n, uint64_t seed);
uint64_t kvi_checksum_avx2(const void *bytes, uint64_t n, uint64_t seed); /* only on CPUs that have it */

#endif
