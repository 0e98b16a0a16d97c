/* pool.h - byte extents of the KV pool: who holds which part of it. Bookkeeping only; the bytes live in the backend.
 * Extents are counted in units of KVI_KV_UNIT; first fit from either end, neighbours merge on release, so that pages of different
 * formats share the pool without waste. Not thread-safe: the engine's driver owns it. */
#ifndef KVI_KV_POOL_H
#define KVI_KV_POOL_H
#include "../base/status.h"
#include <stdbool.h>

typedef struct kvi_pool_hole {
    uint32_t unit, len;
} kvi_pool_hole;

typedef struct kvi_pool {
    kvi_pool_hole *holes; /* free extents, by address; capacity is fixed at init so that a step allocates nothing */
    uint32_t n_holes, cap_holes;
    uint32_t n_units, free_units;
} kvi_pool;

/* max_extents: most extents alive at a time; there are never more holes than that + 1. */
kvrt_status kvi_pool_init(kvi_pool *pool, uint64_t bytes, uint32_t max_extents, kvrt_error *error);
uint64_t kvi_pool_host_bytes(uint32_t max_extents); /* host bytes of it */
void kvi_pool_free(kvi_pool *pool);
/* KVI_KV_NO_EXTENT when no hole is large enough. Long-lived extents (encoded pages) are taken from the low end, short-lived ones (open
 * pages) from the high end, so that the two do not cut each other's room into pieces. */
uint32_t kvi_pool_take(kvi_pool *pool, uint32_t units);
uint32_t kvi_pool_take_high(kvi_pool *pool, uint32_t units);
/* Gives back an extent, or any end of one: whoever shrinks an extent in place releases what lies behind its new end. */
void kvi_pool_release(kvi_pool *pool, uint32_t unit, uint32_t units);
/* Moves an extent down over the hole right below it, whatever its size, and returns its new place; `unit` itself when there is no hole.
 * The bytes are the caller's business: move them before anything else is taken. */
uint32_t kvi_pool_move_down(kvi_pool *pool, uint32_t unit, uint32_t units);
uint64_t kvi_pool_used_bytes(const kvi_pool *pool);
/* The pool has so many units from now on. Nothing stands behind them. */
void kvi_pool_resize(kvi_pool *pool, uint32_t n_units);

#endif
