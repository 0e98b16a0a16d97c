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
static uint32_t level_at(const kvi_pages *pages, uint32_t g, uint32_t p)
{
    uint32_t level = KVI_ELASTIC_LEVELS;
    if (p < pages->n_pages[g] && pages->ids[g][p] != KVI_NO_PAGE)
        level = kvi_elastic_level(pages->store->pages[pages->ids[g][p]].format);
    return level < KVI_ELASTIC_LEVELS - 1 ? level : KVI_ELASTIC_LEVELS - 1;
}

uint32_t kvi_elastic_freed(const kvi_pages *pages, const kvi_page_job *job)
{
    const kvi_cache_group *group = &pages->groups[job->group];
    return kvi_group_units(group, (kvi_kv_format)job->from.format) -
           kvi_group_units(group, (kvi_kv_format)job->to.format);
}

uint32_t kvi_elastic_pick(kvi_pages *pages, uint32_t n_accepted, uint32_t units, kvi_page_job *jobs, uint32_t *page_of,
                          uint32_t cap, uint32_t *lacking)
{
    const uint32_t end = old_pages(pages, n_accepted);
    uint32_t level = KVI_ELASTIC_LEVELS - 1, n = 0, freed = 0;
    *lacking = 0;
    for (uint32_t p = 1; p < end; p++)
        for (uint32_t g = 0; g < pages->n_groups; g++)
            if (level_at(pages, g, p) < level) level = level_at(pages, g, p);
    if (level == KVI_ELASTIC_LEVELS - 1) return 0;
    const kvi_kv_format to = levels[level + 1];
    for (uint32_t p = 1; p < end; p++)
        for (uint32_t g = 0; g < pages->n_groups && n < cap && freed < units; g++) {
            if (level_at(pages, g, p) != level) continue;
            if (!kvi_pages_job(pages, g, p, to, false, &jobs[n])) {
                *lacking = kvi_group_units(&pages->groups[g], to);
                return n;
            }
            freed += kvi_elastic_freed(pages, &jobs[n]);
            page_of[n++] = p;
        }
    return n;
}
