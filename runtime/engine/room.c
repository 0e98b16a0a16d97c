/* room.c - makes room in the KV pool for the next positions of a session. A session of a fixed format has room or has not. An elastic one
 * demotes pages until its share of the pool (pool / ctx.sessions) and the pool itself hold the new page. What is idle in the pool goes before
 * anybody lacks room. Pages of different sizes come and go (a window gives back, a page shrinks), so that what is free may lie apart: then
 * objects move together (kv/compact.c), whosever they are, and free bytes are room. Sessions of fixed formats are never demoted.
 * The one thing to know: what an elastic session computes depends on its own inputs and its share alone, because the share decides when it
 * demotes. Other sessions matter only when more are open than planned, or when one of a fixed format takes more than its part. */
#include "session.h"
#include "../kv/compact.h"

/* In-place work that fails half-way leaves a page that is neither: then the engine is lost. */
static kvrt_status checked(kvi_engine *e, kvrt_status status)
{
    if (status < KVRT_OK) atomic_store(&e->lost, true);
    return status;
}

static kvrt_status move(void *user, uint32_t from_unit, uint32_t to_unit, uint32_t units, kvrt_error *error)
{
    kvi_engine *e = user;
    return checked(e, e->backend->pool_move(e->device, from_unit, to_unit, units, error));
}

kvrt_status kvi_session_copy(kvi_session *s, const kvi_extent_copy *copy, kvrt_error *error)
{
    return copy->units ? move(s->engine, copy->from_unit, copy->to_unit, copy->units, error) : KVRT_OK;
}

/* Makes the pool's free units, if they suffice, one hole of at least `units`. *done: there is such a hole now and there was none. */
static kvrt_status gather(kvi_engine *e, uint32_t units, bool *done, kvrt_error *error)
{
    *done = false;
    return kvi_store_free_up(&e->store, units) ? kvi_compact(&e->store, units, move, e, done, error) : KVRT_OK;
}

kvrt_status kvi_session_gather(kvi_session *s, uint32_t units, kvrt_error *error)
{
    bool done;
    return gather(s->engine, units, &done, error);
}

kvrt_status kvi_session_make_hole(kvi_session *s, uint32_t units, kvrt_error *error)
{
    kvi_engine *e = s->engine;
    bool done;
    if (!kvi_store_free_cached(&e->store, units)) return KVRT_OK;
    return kvi_compact(&e->store, units, move, e, &done, error);
}

/* Lets the session hold at least `units` less when the pages of one level can give them, else what they can; *freed = 0: everything is at the
 * last level. */
static kvrt_status demote(kvi_session *s, uint32_t units, uint32_t *freed, kvrt_error *error)
{
    kvi_engine *e = s->engine;
    kvi_page_job jobs[KVI_CONVERT_BATCH];
    uint32_t page_of[KVI_CONVERT_BATCH], n, lacking;
    *freed = 0;
    for (bool joined = true;;) {
        n = kvi_elastic_pick(&s->pages, s->n_cached, units, jobs, page_of, KVI_CONVERT_BATCH, &lacking);
        if (n || !lacking || !joined) break;
        KVI_TRY(gather(e, lacking, &joined, error));
    }
    if (n == 0) return KVRT_OK;
    kvrt_status status = checked(e, e->backend->convert_pages(e->device, jobs, n, &e->encode, error));
    kvi_pages_converted(&s->pages, jobs, page_of, n, status >= KVRT_OK);
    KVI_TRY(status);
    for (uint32_t i = 0; i < n; i++) *freed += kvi_elastic_freed(&s->pages, &jobs[i]);
    const uint32_t level = kvi_elastic_level(jobs[0].to.format);
    s->demoted[level].n_pages += n;
    s->demoted[level].bytes += (uint64_t)*freed * KVI_KV_UNIT;
    return KVRT_OK;
}

kvrt_status kvi_session_keep_share(kvi_session *s, kvrt_error *error)
{
    for (uint32_t held, freed = 1;
         freed && (held = (uint32_t)(kvi_pages_bytes(&s->pages) / KVI_KV_UNIT)) > s->pages.share_units;)
        KVI_TRY(demote(s, held - s->pages.share_units, &freed, error));
    return KVRT_OK;
}

kvrt_status kvi_engine_compact(kvi_engine *e, kvrt_error *error) { return kvi_compact_all(&e->store, move, e, error); }

/* Extends the tables to n positions, at most one page further. *made = false: no room, and nothing left to demote. */
static kvrt_status reserve_page(kvi_session *s, uint32_t n, bool *made, kvrt_error *error)
{
    kvi_pages *pages = &s->pages;
    kvi_store *store = &s->engine->store;
    const uint32_t need = kvi_pages_row_units(pages);
    for (bool spent = !pages->elastic;;) {
        const uint64_t after = kvi_pages_bytes(pages) / KVI_KV_UNIT + need;
        uint32_t lacking = pages->elastic && after > pages->share_units ? (uint32_t)(after - pages->share_units) : 0,
                 freed = 0;
        bool fits = kvi_store_free_up(store, need);
        while (!fits && kvi_spill_one(s->engine, s)) fits = kvi_store_free_up(store, need);
        if (!fits && need - store->pool.free_units > lacking) lacking = need - store->pool.free_units;
        if (lacking && !spent) {
            KVI_TRY(demote(s, lacking, &freed, error));
            spent = freed == 0;
            continue;
        }
        *made = kvi_pages_extend(pages, n);
        if (*made || !fits) return KVRT_OK;
        bool joined;
        KVI_TRY(gather(s->engine, need, &joined, error));
        if (!joined) return KVRT_OK; /* cannot be: every object of the pool may move */
    }
}

/* The page that position n_cached falls into is written to: it must be the session's alone. */
static kvrt_status own_open_pages(kvi_session *s, bool *made, kvrt_error *error)
{
    kvi_engine *e = s->engine;
    for (uint32_t g = 0; *made && g < s->pages.n_groups; g++) {
        kvi_extent_copy copy;
        const uint32_t need = kvi_group_units(&s->pages.groups[g], kvi_group_plain(&s->pages.groups[g]));
        for (bool joined = true; !(*made = kvi_pages_own(&s->pages, g, s->n_cached, &copy)) && joined;)
            KVI_TRY(gather(e, need, &joined, error));
        if (*made) KVI_TRY(kvi_session_copy(s, &copy, error));
    }
    return KVRT_OK;
}

kvrt_status kvi_session_begin_state(kvi_session *s, bool *made, kvrt_error *error)
{
    for (bool joined = true; !(*made = kvi_states_begin(&s->states)) && joined;)
        KVI_TRY(gather(s->engine, s->states.units, &joined, error));
    return KVRT_OK;
}

static kvrt_status reserve(kvi_session *s, uint32_t n, bool *made, kvrt_error *error)
{
    kvi_pages *pages = &s->pages;
    const uint32_t n_pages = (n + KVI_KV_PAGE - 1) / KVI_KV_PAGE;
    KVI_TRY(kvi_session_begin_state(s, made, error));
    if (*made) KVI_TRY(own_open_pages(s, made, error));
    if (!*made || (!pages->elastic && kvi_pages_extend(pages, n))) return KVRT_OK;
    *made = n_pages <= pages->cap_pages;
    for (uint32_t p = pages->n_groups ? pages->n_pages[0] : n_pages; *made && p < n_pages; p++)
        KVI_TRY(reserve_page(s, (p + 1) * KVI_KV_PAGE, made, error));
    return KVRT_OK;
}

kvrt_status kvi_session_reserve(kvi_session *s, uint32_t n, kvrt_error *error)
{
    kvi_pages *pages = &s->pages;
    bool made;
    for (uint32_t level = 0; level < KVI_ELASTIC_LEVELS; level++)
        s->demoted[level].n_pages = 0, s->demoted[level].bytes = 0;
    do KVI_TRY(reserve(s, n, &made, error));
    while (!made && kvi_spill_one(s->engine, s));
    if (made) return KVRT_OK;
    (void)kvi_pages_rewind(pages, s->n_cached, s->n_tokens); /* pages that were added before the pool was full */
    const char *hint =
        pages->elastic ? "kv.pool or mem.limit" : "ctx.sessions (sessions of ctx.size tokens in the pool)";
    return kvi_error_memory(error, KVRT_CTX_FULL, (uint64_t)kvi_pages_row_units(pages) * KVI_KV_UNIT,
                            (uint64_t)s->engine->store.pool.free_units * KVI_KV_UNIT,
                            "KV pool: no room for position %u: close a session, or open the engine with a larger %s", n,
                            hint);
}

/* -------------------------------------------------------------------------------------------------------- states --- */
kvrt_status kvi_session_save_state(kvi_session *s, kvrt_error *error)
{
    kvi_extent_copy copy;
    const bool prompt_ends = s->n_cached == s->pages.mark;
    if (prompt_ends) s->states.kept = s->n_cached;
    if (s->n_cached == 0 || (s->n_cached % KVI_KV_PAGE && !prompt_ends) ||
        !kvi_states_save(&s->states, s->n_cached, &copy))
        return KVRT_OK;
    KVI_TRY(kvi_session_copy(s, &copy, error));
    if (s->n_cached % KVI_KV_PAGE == 0 && s->n_pure == s->n_cached && s->n_published == s->n_cached / KVI_KV_PAGE)
        kvi_states_publish(&s->states, s->n_cached, s->keys[s->n_published - 1]);
    return KVRT_OK;
}

void kvi_session_cut_cache(kvi_session *s, uint32_t n, uint32_t n_same)
{
    bool all = n >= s->n_cached;
    if (all) n = s->n_cached;
    /* The layer that looks ahead has seen the token behind the last position, and needs the hidden state there anew for another one. */
    if (n > 0 && n_same <= n && s->n_ahead >= n) n--, all = false;
    uint32_t keep = kvi_pages_rewind(&s->pages, n, n_same);
    if (all && keep == n) return; /* no page rests on a token that goes */
    if (s->states.units) {
        kvi_extent_copy copy;
        for (uint32_t at; (at = kvi_states_nearest(&s->states, keep)) < keep;)
            keep = kvi_pages_rewind(&s->pages, at, n_same);
        kvi_states_cut(&s->states, keep);
        kvi_states_restore(&s->states, keep, &copy);
        /* Without its state the sequence begins anew. */
        if (kvi_session_copy(s, &copy, NULL) < KVRT_OK) keep = kvi_pages_rewind(&s->pages, 0, 0);
    }
    if (s->shift.ahead && keep < s->shift.whole_from) keep = kvi_pages_rewind(&s->pages, 0, 0);
    kvi_session_shift_cut(s, keep);
    s->n_cached = keep;
    if (s->n_ahead > keep) s->n_ahead = keep;
    if (s->engine->ahead.session == s) s->engine->ahead = (kvi_ahead_at){0};
    if (s->n_pure > keep) s->n_pure = keep;
    if (s->n_published > keep / KVI_KV_PAGE) s->n_published = keep / KVI_KV_PAGE;
}
