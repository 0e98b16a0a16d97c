/* compact.h - joins free bytes of the pool that lie apart: windows give pages back, pages shrink, sessions close, and no hole may be large
 * enough although enough is free. Then neighbouring objects of the store move down, each to the one before it, whosever they are; contents
 * do not change, and every step reads places anew. */
#ifndef KVI_KV_COMPACT_H
#define KVI_KV_COMPACT_H
#include "store.h"

/* Copies `units` from one place of the pool to a lower one; the two may overlap. */
typedef kvrt_status (*kvi_move_fn)(void *user, uint32_t from_unit, uint32_t to_unit, uint32_t units, kvrt_error *error);

/* Makes a hole of at least `units` by moving as little as possible. *done: something was moved and there is such a hole now. False without an
 * error: there was one, or free bytes do not suffice, or what is no object of the store stands between. */
kvrt_status kvi_compact(kvi_store *store, uint32_t units, kvi_move_fn move, void *user, bool *done, kvrt_error *error);

/* All objects to the low end, in their order: what is free is one hole behind them. */
kvrt_status kvi_compact_all(kvi_store *store, kvi_move_fn move, void *user, kvrt_error *error);

#endif
