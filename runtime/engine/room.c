/* room.c - makes room in the KV pool for the next positions of a session. A session of a fixed format has room or has not. An elastic one
 * demotes pages until its share of the pool (pool / ctx.sessions) and the pool itself hold the new page. Pages of different sizes come and
 * go (a window gives back, a page shrinks), so that what is free may lie apart: then pages are slid together, whosever they are, and free
 * bytes are room. Sessions of fixed formats are never demoted.
 * The one thing to know: what an elastic session computes depends on its own inputs and its share alone, because the share decides when it
 * demotes. Other sessions matter only when more are open than planned, or when one of a fixed format takes more than its part. */
#include "session.h"

/* Pool units of one more page in every group. */
static uint32_t page_row_units(const kvi_pages *pages)
{
    uint32_t units = 0;
    for (uint32_t g = 0; g < pages->n_groups; g++)
        units += kvi_kv_page_units(kvi_pages_plain(&pages->groups[g]), &pages->groups[g].shape);
    return units;
}

/* In-place work that fails half-way leaves a page that is neither: then the engine is lost. */
static kvrt_status checked(kvi_engine *e, kvrt_status status)
{
    if (status < KVRT_OK) atomic_store(&e->lost, true);
    return status;
}

/* Frees at least `units` when the pages of one level can give them, else what they can; *freed = 0: everything is at the last level. */
static kvrt_status demote(kvi_session *s, uint32_t units, uint32_t *freed, kvrt_error *error)
{
    kvi_engine *e = s->engine;
    kvi_page_job jobs[KVI_COMMIT_BATCH];
    uint32_t page_of[KVI_COMMIT_BATCH];
    const uint32_t n = kvi_elastic_pick(&s->pages, s->n_cached, units, jobs, page_of, KVI_COMMIT_BATCH);
    *freed = 0;
    if (n == 0) return KVRT_OK;
    kvrt_status status = checked(e, e->backend->convert_pages(e->device, jobs, n, &e->encode, error));
    kvi_pages_committed(&s->pages, jobs, page_of, n, status >= KVRT_OK);
    KVI_TRY(status);
    for (uint32_t i = 0; i < n; i++) *freed += kvi_elastic_freed(&s->pages, &jobs[i]);
    const uint32_t level = kvi_elastic_level(jobs[0].to.format);
    s->demoted[level].n_pages += n;
    s->demoted[level].bytes += (uint64_t)*freed * KVI_KV_UNIT;
    return KVRT_OK;
}

/* Piece by piece through host memory: a page may overlap its own new place, and every backend can do this. */
static kvrt_status move_bytes(kvi_engine *e, uint32_t from, uint32_t to, uint32_t units, kvrt_error *error)
{
    const uint64_t bytes = (uint64_t)units * KVI_KV_UNIT;
    for (uint64_t at = 0; at < bytes; at += KVI_BOUNCE_BYTES) {
        const uint64_t n = bytes - at < KVI_BOUNCE_BYTES ? bytes - at : KVI_BOUNCE_BYTES;
        KVI_TRY(e->backend->pool_read(e->device, (uint64_t)from * KVI_KV_UNIT + at, e->bounce, n, error));
        KVI_TRY(e->backend->pool_write(e->device, (uint64_t)to * KVI_KV_UNIT + at, e->bounce, n, error));
    }
    return KVRT_OK;
}

/* Joins holes until one has `units`, moving as little as possible. *done: there is such a hole now and there was none. */
static kvrt_status gather(kvi_engine *e, uint32_t units, bool *done, kvrt_error *error)
{
    uint32_t n = 0, first, count;
    *done = false;
    for (kvi_session *s = e->sessions; s; s = s->next)
        n = kvi_elastic_extents(&s->pages, e->extents, n, e->cap_extents);
    kvi_elastic_sort(e->extents, n);
    if (!kvi_elastic_gather(&e->pool, e->extents, n, units, &first, &count) || count == 0) return KVRT_OK;
    for (uint32_t i = first; i < first + count; i++) {
        const kvi_elastic_extent *x = &e->extents[i];
        const uint32_t place = kvi_pool_slide(&e->pool, x->unit, x->units);
        KVI_TRY(checked(e, move_bytes(e, x->unit, place, x->units, error)));
        x->owner->table[x->group][x->page].unit = place;
    }
    *done = true;
    return KVRT_OK;
}

/* What sessions hold for a rewind (pages.h) is worth less than a page that is needed. */
static bool drop_held(kvi_engine *e)
{
    bool any = false;
    for (kvi_session *s = e->sessions; s; s = s->next) any = kvi_pages_drop_held(&s->pages) || any;
    return any;
}

/* Extends the tables to n positions, at most one page further. *made = false: no room, and nothing left to demote. */
static kvrt_status reserve_page(kvi_session *s, uint32_t n, bool *made, kvrt_error *error)
{
    kvi_pages *pages = &s->pages;
    const kvi_pool *pool = &s->engine->pool;
    const uint32_t need = page_row_units(pages);
    for (bool spent = !pages->elastic;;) {
        if (need > pool->free_units) (void)drop_held(s->engine);
        const uint64_t after = kvi_pages_bytes(pages) / KVI_KV_UNIT + need;
        uint32_t lacking = pages->elastic && after > pages->share_units ? (uint32_t)(after - pages->share_units) : 0,
                 freed = 0;
        if (need > pool->free_units && need - pool->free_units > lacking) lacking = need - pool->free_units;
        if (lacking && !spent) {
            KVI_TRY(demote(s, lacking, &freed, error));
            spent = freed == 0;
            continue;
        }
        *made = kvi_pages_extend(pages, n);
        if (*made || need > pool->free_units) return KVRT_OK;
        if (drop_held(s->engine)) continue;
        bool joined;
        KVI_TRY(gather(s->engine, need, &joined, error));
        if (!joined) return KVRT_OK; /* cannot be: every page is in the list of those that move */
    }
}

kvrt_status kvi_session_reserve(kvi_session *s, uint32_t n, kvrt_error *error)
{
    kvi_pages *pages = &s->pages;
    const uint32_t n_pages = (n + KVI_KV_PAGE - 1) / KVI_KV_PAGE;
    bool made = !pages->elastic && kvi_pages_extend(pages, n);
    for (uint32_t level = 0; level < KVI_ELASTIC_LEVELS; level++)
        s->demoted[level].n_pages = 0, s->demoted[level].bytes = 0;
    if (!made) {
        made = n_pages <= pages->cap_pages;
        for (uint32_t p = pages->n_pages[0]; made && p < n_pages; p++)
            KVI_TRY(reserve_page(s, (p + 1) * KVI_KV_PAGE, &made, error));
        if (!made) (void)kvi_pages_rewind(pages, s->n_cached); /* pages that were added before the pool was full */
    }
    if (made) return KVRT_OK;
    const char *hint =
        pages->elastic ? "kv.pool or mem.limit" : "ctx.sessions (sessions of ctx.size tokens in the pool)";
    return kvi_error_memory(error, KVRT_CTX_FULL, (uint64_t)page_row_units(pages) * KVI_KV_UNIT,
                            (uint64_t)s->engine->pool.free_units * KVI_KV_UNIT,
                            "KV pool: no room for position %u: close a session, or open the engine with a larger %s", n,
                            hint);
}
