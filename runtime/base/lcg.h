/* lcg.h - numbers without structure that are the same everywhere, for synthetic content. Not for sampling. */
#ifndef KVI_LCG_H
#define KVI_LCG_H
#include <stdint.h>

/* Knuth's MMIX generator; the upper half of the state is what may be used. */
static inline uint64_t kvi_lcg(uint64_t *state)
{
    return *state = *state * 6364136223846793005u + 1442695040888963407u;
}

#endif
