/* elastic.c - see elastic.h. */
#include "elastic.h"

static const kvi_kv_format levels[KVI_ELASTIC_LEVELS] = {KVI_KV_FMT_F16, KVI_KV_FMT_I8, KVI_KV_FMT_K4V4,
                                                         KVI_KV_FMT_K4V2};

kvi_kv_format kvi_elastic_format(uint32_t level) { return levels[level]; }

uint32_t kvi_elastic_level(uint32_t format)
{
    uint32_t level = 0;
    while (level < KVI_ELASTIC_LEVELS && levels[level] != format) level++;
    return level;
}

/* Pages of the sequence that are old enough: [1, end). */
static uint32_t old_pages(const kvi_pages *pages, uint32_t n_accepted)
{
    return n_accepted > pages->tail ? (n_accepted - pages->tail) / KVI_KV_PAGE : 0;
}

/* Level of a page that could still give something; KVI_ELASTIC_LEVELS - 1 for all others. */
static uint32_t level_at(const kvi_pages *pages, uint32_t group, uint32_t page)
{
    const kvi_page_ref *ref = &pages->table[group][page];
    const uint32_t level = page < pages->n_pages[group] && ref->unit != KVI_KV_NO_EXTENT
                               ? kvi_elastic_level(ref->format)
                               : KVI_ELASTIC_LEVELS;
    return level < KVI_ELASTIC_LEVELS - 1 ? level : KVI_ELASTIC_LEVELS - 1;
}

uint32_t kvi_elastic_freed(const kvi_pages *pages, const kvi_page_job *job)
{
    const kvi_kv_shape *shape = &pages->groups[job->group].shape;
    return kvi_kv_page_units(job->from.format, shape) - kvi_kv_page_units(job->to.format, shape);
}

uint32_t kvi_elastic_pick(const kvi_pages *pages, uint32_t n_accepted, uint32_t units, kvi_page_job *jobs,
                          uint32_t *page_of, uint32_t cap)
{
    const uint32_t end = old_pages(pages, n_accepted);
    uint32_t level = KVI_ELASTIC_LEVELS - 1, n = 0, freed = 0;
    for (uint32_t p = 1; p < end; p++)
        for (uint32_t g = 0; g < pages->n_groups; g++)
            if (level_at(pages, g, p) < level) level = level_at(pages, g, p);
    if (level == KVI_ELASTIC_LEVELS - 1) return 0;
    for (uint32_t p = 1; p < end; p++)
        for (uint32_t g = 0; g < pages->n_groups && n < cap && freed < units; g++) {
            if (level_at(pages, g, p) != level) continue;
            const kvi_page_ref from = pages->table[g][p];
            jobs[n] = (kvi_page_job){.group = g, .from = from, .to = {from.unit, levels[level + 1]}};
            freed += kvi_elastic_freed(pages, &jobs[n]);
            page_of[n++] = p;
        }
    return n;
}

/* ------------------------------------------------------------------------------------------------------- gathering --- */
uint32_t kvi_elastic_extents(kvi_pages *pages, kvi_elastic_extent *out, uint32_t n, uint32_t cap)
{
    for (uint32_t g = 0; g < pages->n_groups; g++)
        for (uint32_t p = 0; p < pages->n_pages[g]; p++) {
            const kvi_page_ref *ref = &pages->table[g][p];
            if (ref->unit == KVI_KV_NO_EXTENT || n == cap) continue;
            out[n++] =
                (kvi_elastic_extent){ref->unit, kvi_kv_page_units(ref->format, &pages->groups[g].shape), g, p, pages};
        }
    return n;
}

/* Shell sort: qsort of the C library may allocate. */
void kvi_elastic_sort(kvi_elastic_extent *extents, uint32_t n)
{
    uint32_t gap = 1;
    while (gap < n / 3) gap = 3 * gap + 1;
    for (; gap > 0; gap /= 3)
        for (uint32_t i = gap; i < n; i++) {
            const kvi_elastic_extent x = extents[i];
            uint32_t k = i;
            for (; k >= gap && extents[k - gap].unit > x.unit; k -= gap) extents[k] = extents[k - gap];
            extents[k] = x;
        }
}

bool kvi_elastic_gather(const kvi_pool *pool, const kvi_elastic_extent *extents, uint32_t n, uint32_t units,
                        uint32_t *first, uint32_t *count)
{
    /* Window of holes [low, high]: `room` units free in it, `cost` units of extents [from, to) between its first and last hole. */
    uint32_t low = 0, from = 0, to = 0;
    uint64_t room = 0, cost = 0, best = UINT64_MAX;
    for (uint32_t high = 0; high < pool->n_holes; high++) {
        const kvi_pool_hole *hole = &pool->holes[high];
        uint32_t between = 0;
        if (high == low) {
            while (to < n && extents[to].unit < hole->unit) to++;
            from = to;
        }
        for (; to < n && extents[to].unit < hole->unit; to++) between += extents[to].units;
        if (high > low && pool->holes[high - 1].unit + pool->holes[high - 1].len + between != hole->unit) {
            low = high, from = to, room = cost = 0; /* somebody else's extent stands between: begin anew */
            between = 0;
        }
        room += hole->len;
        cost += between;
        /* Holes at the low end that are not needed leave, with the extents behind them. */
        while (low < high && room - pool->holes[low].len >= units) {
            room -= pool->holes[low++].len;
            while (from < to && extents[from].unit < pool->holes[low].unit) cost -= extents[from++].units;
        }
        if (room >= units && cost < best) {
            best = cost;
            *first = from;
            *count = to - from;
        }
    }
    return best != UINT64_MAX;
}
