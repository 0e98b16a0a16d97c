/* prefix.h - the longest beginning of a list of tokens that the store still has, whoever computed it, and taking it.
 *
 * A sequence may take what another computed only if it is what it would have computed itself, to the bit. Two things decide that:
 * - *Which pages are published*: those of positions that were computed as a prompt is, one after the other from position 0 (session.h, n_pure).
 * - *Which formats are taken.* A step sees the pages as they were when it began, and steps of a prompt begin at multiples of the chunk. So a
 *   sequence that goes on at n takes the formats that pages have at the last multiple of the chunk <= n: encoded what was due there, the rest
 *   plain. Encoding therefore leaves plain pages that were published in the store, cached, for as long as nobody needs their room. */
#ifndef KVI_KV_PREFIX_H
#define KVI_KV_PREFIX_H
#include "pages.h"
#include "states.h"

typedef struct kvi_prefix {
    const kvi_page_key *keys; /* (n_keys) of the whole pages of the tokens */
    uint32_t n_keys;
    uint32_t chunk;
    uint32_t n_own; /* positions that the sequence itself holds, all of them as a prompt gives them */
    uint32_t
        n_partial; /* positions that it would hold with the pages `partial`, which end within one; 0: none are offered */
    uint32_t partial[KVI_MAX_GROUPS]; /* ids of the plain pages with positions up to n_partial */
} kvi_prefix;

/* The most positions n_own <= n <= most that the sequence can hold. Changes nothing. */
uint32_t kvi_prefix_find(const kvi_pages *pages, const kvi_states *states, const kvi_prefix *prefix, uint32_t most);
/* Makes it hold the first n positions, which kvi_prefix_find has named for the same `prefix`. Of recurrent layers the caller adopts the state. */
void kvi_prefix_take(kvi_pages *pages, const kvi_prefix *prefix, uint32_t n);
/* The state after n > 0 positions; KVI_NO_PAGE: there is none. */
uint32_t kvi_prefix_state(const kvi_states *states, const kvi_prefix *prefix, uint32_t n);

#endif
