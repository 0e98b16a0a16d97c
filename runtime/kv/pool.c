/* pool.c - see pool.h. */
#include "pool.h"
#include "layout.h"
#include "../base/mem.h"

#include <string.h>

uint64_t kvi_pool_host_bytes(uint32_t max_extents) { return (max_extents + 2ull) * sizeof(kvi_pool_hole); }

kvrt_status kvi_pool_init(kvi_pool *pool, uint64_t bytes, uint32_t max_extents, kvrt_error *error)
{
    memset(pool, 0, sizeof *pool);
    uint64_t units = bytes / KVI_KV_UNIT;
    if (units >= KVI_KV_NO_EXTENT)
        return kvi_error_set(error, KVRT_UNSUPPORTED, "KV pool: %llu bytes, need less than 1 TiB",
                             (unsigned long long)bytes);
    pool->cap_holes = max_extents + 2;
    pool->holes = kvi_mem_zalloc(pool->cap_holes, sizeof *pool->holes);
    if (!pool->holes) return kvi_error_nomem(error, pool->cap_holes * sizeof *pool->holes, "KV pool bookkeeping");
    pool->n_units = pool->free_units = (uint32_t)units;
    if (units) pool->holes[pool->n_holes++] = (kvi_pool_hole){0, (uint32_t)units};
    return KVRT_OK;
}

void kvi_pool_free(kvi_pool *pool)
{
    kvi_mem_free(pool->holes);
    memset(pool, 0, sizeof *pool);
}

static void remove_hole(kvi_pool *pool, uint32_t i)
{
    memmove(pool->holes + i, pool->holes + i + 1, (pool->n_holes - i - 1) * sizeof *pool->holes);
    pool->n_holes--;
}

uint32_t kvi_pool_take(kvi_pool *pool, uint32_t units)
{
    for (uint32_t i = 0; units && i < pool->n_holes; i++) {
        kvi_pool_hole *hole = &pool->holes[i];
        if (hole->len < units) continue;
        uint32_t unit = hole->unit;
        hole->unit += units;
        hole->len -= units;
        if (!hole->len) remove_hole(pool, i);
        pool->free_units -= units;
        return unit;
    }
    return KVI_KV_NO_EXTENT;
}

uint32_t kvi_pool_take_high(kvi_pool *pool, uint32_t units)
{
    for (uint32_t i = pool->n_holes; units && i-- > 0;) {
        kvi_pool_hole *hole = &pool->holes[i];
        if (hole->len < units) continue;
        hole->len -= units;
        uint32_t unit = hole->unit + hole->len;
        if (!hole->len) remove_hole(pool, i);
        pool->free_units -= units;
        return unit;
    }
    return KVI_KV_NO_EXTENT;
}

void kvi_pool_release(kvi_pool *pool, uint32_t unit, uint32_t units)
{
    if (!units) return;
    uint32_t i = 0;
    while (i < pool->n_holes && pool->holes[i].unit < unit) i++;
    bool joins_left = i > 0 && pool->holes[i - 1].unit + pool->holes[i - 1].len == unit;
    bool joins_right = i < pool->n_holes && unit + units == pool->holes[i].unit;
    pool->free_units += units;
    if (joins_left) {
        pool->holes[i - 1].len += units;
        if (!joins_right) return;
        pool->holes[i - 1].len += pool->holes[i].len;
        remove_hole(pool, i);
    } else if (joins_right) {
        pool->holes[i].unit = unit;
        pool->holes[i].len += units;
    } else {
        memmove(pool->holes + i + 1, pool->holes + i, (pool->n_holes - i) * sizeof *pool->holes);
        pool->holes[i] = (kvi_pool_hole){unit, units};
        pool->n_holes++;
    }
}

uint32_t kvi_pool_move_down(kvi_pool *pool, uint32_t unit, uint32_t units)
{
    for (uint32_t i = 0; i < pool->n_holes && pool->holes[i].unit < unit; i++) {
        kvi_pool_hole *hole = &pool->holes[i];
        if (hole->unit + hole->len != unit) continue;
        const uint32_t place = hole->unit;
        hole->unit += units;
        if (i + 1 < pool->n_holes && hole->unit + hole->len == pool->holes[i + 1].unit) {
            hole->len += pool->holes[i + 1].len;
            remove_hole(pool, i + 1);
        }
        return place;
    }
    return unit;
}

void kvi_pool_resize(kvi_pool *pool, uint32_t n_units)
{
    if (n_units > pool->n_units) {
        const uint32_t from = pool->n_units;
        pool->n_units = n_units;
        kvi_pool_release(pool, from, n_units - from);
    } else if (n_units < pool->n_units) {
        kvi_pool_hole *last = &pool->holes[pool->n_holes - 1];
        pool->free_units -= pool->n_units - n_units;
        last->len -= pool->n_units - n_units;
        pool->n_units = n_units;
        if (!last->len) pool->n_holes--;
    }
}

uint64_t kvi_pool_used_bytes(const kvi_pool *pool)
{
    return (uint64_t)(pool->n_units - pool->free_units) * KVI_KV_UNIT;
}
