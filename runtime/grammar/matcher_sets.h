/* matcher_sets.h - what matcher.c needs of the part that makes sets and places. */
#ifndef KVI_MATCHER_SETS_H
#define KVI_MATCHER_SETS_H
#include "matcher.h"

/* Forgets sets and places; returns the place where a text begins. `why` tells when it fails. */
kvi_spot kvi_matcher_restart(kvi_matcher *matcher);
/* Bytes of what there is, as opposed to what there is room for. */
size_t kvi_matcher_used(const kvi_matcher *matcher);

#endif
