/* budget.c - see budget.h. */
#include "budget.h"
#include "../base/os.h"

static uint64_t held[2];

uint64_t kvi_shared_bytes(bool of_card)
{
    kvi_global_lock();
    const uint64_t bytes = held[of_card];
    kvi_global_unlock();
    return bytes;
}

bool kvi_share_set(kvi_share *share, uint64_t bytes, uint64_t limit)
{
    kvi_global_lock();
    const uint64_t others = held[share->of_card] - share->bytes;
    const bool fits = bytes <= share->bytes || (others <= limit && bytes <= limit - others);
    if (fits) {
        held[share->of_card] = others + bytes;
        share->bytes = bytes;
    }
    kvi_global_unlock();
    return fits;
}
