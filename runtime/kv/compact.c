/* compact.c - see compact.h. */
#include "compact.h"

/* Ids of all objects by address, into store->order. Shell sort: qsort of the C library may allocate. */
static uint32_t sort_by_address(kvi_store *store)
{
    uint32_t *order = store->order, n = 0, gap = 1;
    for (uint32_t id = 0; id < store->n_ids; id++)
        if (store->pages[id].unit != KVI_KV_NO_EXTENT) order[n++] = id;
    while (gap < n / 3) gap = 3 * gap + 1;
    for (; gap > 0; gap /= 3)
        for (uint32_t i = gap; i < n; i++) {
            const uint32_t id = order[i];
            uint32_t k = i;
            for (; k >= gap && store->pages[order[k - gap]].unit > store->pages[id].unit; k -= gap)
                order[k] = order[k - gap];
            order[k] = id;
        }
    return n;
}

/* The run order[*first, *first + *count) that costs least. False when there is none. */
static bool choose(const kvi_store *store, uint32_t n, uint32_t units, uint32_t *first, uint32_t *count)
{
    const kvi_pool *pool = &store->pool;
    const kvi_page *pages = store->pages;
    const uint32_t *order = store->order;
    /* Window of holes [low, high]: `room` units free in it, `cost` units of objects [from, to) between its first and last hole. */
    uint32_t low = 0, from = 0, to = 0;
    uint64_t room = 0, cost = 0, best = UINT64_MAX;
    for (uint32_t high = 0; high < pool->n_holes; high++) {
        const kvi_pool_hole *hole = &pool->holes[high];
        uint32_t between = 0;
        if (high == low) {
            while (to < n && pages[order[to]].unit < hole->unit) to++;
            from = to;
        }
        for (; to < n && pages[order[to]].unit < hole->unit; to++) between += pages[order[to]].units;
        if (high > low && pool->holes[high - 1].unit + pool->holes[high - 1].len + between != hole->unit) {
            low = high, from = to, room = cost = 0; /* what is no object stands between: begin anew */
            between = 0;
        }
        room += hole->len;
        cost += between;
        /* Holes at the low end that are not needed leave, with the objects behind them. */
        while (low < high && room - pool->holes[low].len >= units) {
            room -= pool->holes[low++].len;
            while (from < to && pages[order[from]].unit < pool->holes[low].unit) cost -= pages[order[from++]].units;
        }
        if (room >= units && cost < best) {
            best = cost;
            *first = from;
            *count = to - from;
        }
    }
    return best != UINT64_MAX;
}

/* Moves the run order[first, first + count) down, each over the hole below it. */
static kvrt_status slide(kvi_store *store, uint32_t first, uint32_t count, kvi_move_fn move, void *user,
                         kvrt_error *error)
{
    uint32_t from = 0, to = 0, len = 0; /* neighbours are one move: no hole is between them */
    for (uint32_t i = first; i < first + count; i++) {
        const kvi_page *page = &store->pages[store->order[i]];
        const uint32_t unit = page->unit;
        kvi_store_move(store, store->order[i]);
        if (len && unit == from + len) {
            len += page->units;
            continue;
        }
        if (len && to != from) KVI_TRY(move(user, from, to, len, error));
        from = unit, to = page->unit, len = page->units;
    }
    return len && to != from ? move(user, from, to, len, error) : KVRT_OK;
}

kvrt_status kvi_compact(kvi_store *store, uint32_t units, kvi_move_fn move, void *user, bool *done, kvrt_error *error)
{
    const uint32_t n = sort_by_address(store);
    uint32_t first = 0, count = 0;
    *done = false;
    if (!choose(store, n, units, &first, &count) || count == 0) return KVRT_OK;
    KVI_TRY(slide(store, first, count, move, user, error));
    *done = true;
    return KVRT_OK;
}

kvrt_status kvi_compact_all(kvi_store *store, kvi_move_fn move, void *user, kvrt_error *error)
{
    return slide(store, 0, sort_by_address(store), move, user, error);
}
