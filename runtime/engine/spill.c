/* spill.c - see spill.h. */
#include "spill.h"
#include "drive.h"
#include "seat.h"
#include "snapshot.h"
#include "../base/checksum.h"
#include "../base/log.h"

#include <string.h>

enum {
    BATCH = 16, /* most pages of one call of the tier */
    CACHED =
        1u
        << 20 /* bytes of one that reads: a checksum finds them in the processor's cache, where it is thrice as fast */
};

kvrt_status kvi_spill_open(kvi_engine *e, kvrt_error *error)
{
    const char *where = kvi_options_string(e->options, "kv.spill");
    kvi_spill *spill = &e->spill;
    if (!*where || !e->device) return KVRT_OK;
    const kvi_fingerprints *f = kvi_engine_fingerprints(e);
    const uint64_t facts[] = {1, f->model, f->cache}; /* 1: how objects are written */
    spill->limit = (uint64_t)kvi_options_i64(e->options, "kv.spill_limit");
    spill->origin = kvi_os_random() | 1;
    if (strcmp(where, "memory") == 0) return kvi_tier_memory(&spill->tier, error);
    return kvi_tier_directory(where, kvi_checksum(facts, sizeof facts, 0), &spill->tier, error);
}

void kvi_spill_close(kvi_engine *e)
{
    if (e->spill.tier) e->spill.tier->kind->close(e->spill.tier);
    memset(&e->spill, 0, sizeof e->spill);
}

/* ---------------------------------------------------------------------------------------------------------- away --- */
/* By what it is, where that is known; else by its place and serial, which belong to one content. */
static kvi_tier_name name_of(const kvi_spill *spill, const kvi_away_page *page)
{
    const uint32_t what[] = {page->group, page->format, page->units};
    if (!kvi_key_is_set(page->key))
        return (kvi_tier_name){(uint64_t)page->memo.id << 32 | page->memo.serial, spill->origin};
    return (kvi_tier_name){kvi_checksum(what, sizeof what, page->key.low),
                           kvi_checksum(what, sizeof what, page->key.high ^ spill->origin)};
}

static bool same_name(const kvi_tier_name *a, const kvi_tier_name *b) { return a->low == b->low && a->high == b->high; }

/* The next page of that name of a session that is away, behind *session and *i; NULL: there is none. */
static kvi_away_page *next_of_name(const kvi_session *but, const kvi_tier_name *name, kvi_session **session,
                                   uint32_t *i)
{
    for (; *session; *session = (*session)->next, *i = 0)
        for (; *session != but && *i < (*session)->away.n; ++*i)
            if (same_name(&(*session)->away.pages[*i].name, name)) return &(*session)->away.pages[(*i)++];
    return NULL;
}

static bool others_need(const kvi_session *s, const kvi_tier_name *name)
{
    kvi_session *other = s->engine->sessions;
    uint32_t i = 0;
    return next_of_name(s, name, &other, &i) != NULL;
}

static uint32_t id_at(const kvi_session *s, uint32_t g, uint32_t p)
{
    return g == KVI_MAX_GROUPS ? s->states.live : s->pages.ids[g][p];
}

static void add(const kvi_session *s, uint32_t g, uint32_t p, kvi_away *away)
{
    const uint32_t id = id_at(s, g, p);
    if (id == KVI_NO_PAGE) return;
    const kvi_page *page = &s->engine->store.pages[id];
    if (away->pages)
        away->pages[away->n] = (kvi_away_page){.group = g,
                                               .index = p,
                                               .format = page->format,
                                               .units = page->units,
                                               .key = page->key,
                                               .memo = {id, page->serial}};
    away->n++;
    away->bytes += (uint64_t)page->units * KVI_KV_UNIT;
}

static void list(const kvi_session *s, kvi_away *away)
{
    away->n = 0, away->bytes = 0;
    for (uint32_t g = 0; g < s->pages.n_groups; g++)
        for (uint32_t p = 0; p < s->pages.n_pages[g]; p++) add(s, g, p, away);
    add(s, KVI_MAX_GROUPS, 0, away);
}

static uint64_t bytes_of(const kvi_away_page *page) { return (uint64_t)page->units * KVI_KV_UNIT; }

/* Where the store has the object in the pool. */
static uint64_t offset_of(const kvi_engine *e, uint32_t id) { return (uint64_t)e->store.pages[id].unit * KVI_KV_UNIT; }

/* Where the bytes of page `id` are on their way: in the pool where the host can see it, so that nothing is copied, else in the buffer. */
static void *on_its_way(const kvi_engine *e, uint32_t id, uint8_t *buffer, uint64_t used)
{
    return e->backend->pool_at ? e->backend->pool_at(e->device, offset_of(e, id)) : buffer + used;
}

/* Bytes of a buffer for the largest batch. */
static uint64_t largest_batch(const kvi_engine *e, const kvi_away *away)
{
    uint64_t most = 1;
    if (e->backend->pool_at) return most;
    for (uint32_t first = 0; first < away->n; first += BATCH) {
        uint64_t bytes = 0;
        for (uint32_t i = first; i < away->n && i < first + BATCH; i++) bytes += bytes_of(&away->pages[i]);
        if (bytes > most) most = bytes;
    }
    return most;
}

/* Pages that no other session has away as well. */
static void drop_own(const kvi_session *s, const kvi_away *away, uint32_t n)
{
    kvi_tier *tier = s->engine->spill.tier;
    for (uint32_t i = 0; i < n; i++) {
        const kvi_tier_object object = {.name = away->pages[i].name, .n = bytes_of(&away->pages[i])};
        if (!others_need(s, &object.name)) tier->kind->drop(tier, &object, 1);
    }
}

static kvrt_status put(kvi_session *s, kvi_away *away, uint8_t *buffer, kvrt_error *error)
{
    kvi_engine *e = s->engine;
    kvi_tier *tier = e->spill.tier;
    kvi_tier_object objects[BATCH], missing[BATCH];
    for (uint32_t first = 0; first < away->n; first += BATCH) {
        const uint32_t n = away->n - first < BATCH ? away->n - first : BATCH;
        uint32_t n_missing = 0;
        uint64_t used = 0;
        for (uint32_t i = 0; i < n; used += objects[i++].n) {
            const kvi_away_page *page = &away->pages[first + i];
            void *bytes = on_its_way(e, id_at(s, page->group, page->index), buffer, used);
            objects[i] = (kvi_tier_object){.name = page->name, .bytes = bytes, .n = bytes_of(page)};
        }
        kvrt_status status = tier->kind->exists(tier, objects, n, error);
        for (uint32_t i = 0; i < n && status >= KVRT_OK; i++) {
            kvi_away_page *page = &away->pages[first + i];
            const uint64_t from = offset_of(e, id_at(s, page->group, page->index));
            if (!e->backend->pool_at)
                status =
                    kvi_engine_noted(e, e->backend->pool_read(e->device, from, objects[i].bytes, objects[i].n, error));
            page->sum = kvi_checksum(objects[i].bytes, objects[i].n, page->units);
            if (!objects[i].there) missing[n_missing++] = objects[i];
        }
        if (status >= KVRT_OK) status = tier->kind->set(tier, missing, n_missing, error);
        if (status < KVRT_OK) {
            drop_own(s, away, first);
            return status;
        }
    }
    return KVRT_OK;
}

static void leave_pool(kvi_session *s, const kvi_away *away)
{
    kvi_store *store = &s->engine->store;
    for (uint32_t i = away->n; i-- > 0;) { /* from the end, so that what is cached goes from the end */
        const kvi_away_page *page = &away->pages[i];
        uint32_t *id = page->group == KVI_MAX_GROUPS ? &s->states.live : &s->pages.ids[page->group][page->index];
        kvi_store_drop(store, *id);
        *id = KVI_NO_PAGE;
    }
}

bool kvi_spill_counts(const kvi_engine *e)
{
    return e->spill.tier && e->mem_limit != 0 && !e->backend->own_memory &&
           strcmp(e->spill.tier->kind->name, "memory") == 0;
}

static uint64_t most_bytes(const kvi_engine *e)
{
    const uint64_t left = kvi_spill_counts(e) ? e->plan.budget_bytes - e->plan.total_bytes : UINT64_MAX;
    return e->spill.limit && e->spill.limit < left ? e->spill.limit : left;
}

static kvrt_status go_away(kvi_session *s, kvrt_error *error)
{
    kvi_engine *e = s->engine;
    kvi_away away = {0};
    list(s, &away);
    if (away.n == 0) return KVRT_OK;
    const uint64_t left = most_bytes(e) - e->spill.bytes;
    if (away.bytes > left)
        return kvi_error_memory(
            error, KVRT_OVER_BUDGET, away.bytes, left,
            "session: its pages take %llu KiB, %llu KiB are left for them (kv.spill_limit, mem.limit)",
            (unsigned long long)(away.bytes >> 10), (unsigned long long)(left >> 10));
    away.pages = kvi_mem_zalloc(away.n, sizeof *away.pages);
    if (!away.pages) return kvi_error_nomem(error, away.n * sizeof *away.pages, "list of pages that are away");
    list(s, &away);
    for (uint32_t i = 0; i < away.n; i++) away.pages[i].name = name_of(&e->spill, &away.pages[i]);
    uint8_t *buffer = kvi_mem_alloc(largest_batch(e, &away));
    kvrt_status status =
        buffer ? put(s, &away, buffer, error) : kvi_error_nomem(error, largest_batch(e, &away), "pages on their way");
    kvi_mem_free(buffer);
    if (status < KVRT_OK) {
        kvi_mem_free(away.pages);
        return status;
    }
    leave_pool(s, &away);
    s->away = away;
    e->spill.bytes += away.bytes;
    return KVRT_OK;
}

kvrt_status kvi_session_go_away(kvi_session *s, uint64_t *moved, kvrt_error *error)
{
    if (moved) *moved = 0;
    if (!s->engine->spill.tier) return kvi_error_set(error, KVRT_STATE, "session: nowhere to go (kv.spill)");
    if (s->away.pages) return KVRT_OK;
    KVI_TRY(go_away(s, error));
    if (moved) *moved = s->away.bytes;
    return KVRT_OK;
}

void kvi_session_forget_away(kvi_session *s)
{
    if (!s->away.pages) return;
    drop_own(s, &s->away, s->away.n);
    s->engine->spill.bytes -= s->away.bytes;
    kvi_mem_free(s->away.pages);
    s->away = (kvi_away){0};
}

/* ---------------------------------------------------------------------------------------------------------- back --- */
/* Room for a page that is not in the pool any more: what is idle goes, then other sessions. */
static kvrt_status take(kvi_session *s, const kvi_away_page *page, uint32_t *id, kvrt_error *error)
{
    kvi_store *store = &s->engine->store;
    do {
        KVI_TRY(kvi_session_gather(s, page->units, error));
        *id = kvi_store_take(store, page->group, page->format, page->units, kvi_kv_format_is_plain(page->format));
    } while (*id == KVI_NO_PAGE && kvi_spill_one(s->engine, s));
    if (*id != KVI_NO_PAGE) return KVRT_OK;
    return kvi_error_memory(
        error, KVRT_CTX_FULL, s->away.bytes, (uint64_t)store->pool.free_units * KVI_KV_UNIT,
        "KV pool: no room for the session's pages to come back: close a session, or open the engine "
        "with a larger ctx.sessions");
}

/* A place in the pool for every page; *known: it has its content already, somebody else's. */
static kvrt_status take_all(kvi_session *s, bool *known, uint32_t *ids, kvrt_error *error)
{
    kvi_store *store = &s->engine->store;
    kvrt_status status = KVRT_OK;
    uint32_t n = 0;
    for (; n < s->away.n && status >= KVRT_OK; n++) {
        const kvi_away_page *page = &s->away.pages[n];
        ids[n] = kvi_store_recall(store, page->memo);
        if (ids[n] == KVI_NO_PAGE && kvi_key_is_set(page->key))
            ids[n] = kvi_store_find(store, page->group, page->format, page->key);
        known[n] = ids[n] != KVI_NO_PAGE;
        if (known[n]) kvi_store_share(store, ids[n]);
        else status = take(s, page, &ids[n], error);
    }
    if (status >= KVRT_OK) return status;
    for (n--; n-- > 0;) kvi_store_drop(store, ids[n]);
    return status;
}

/* Others that have it away too need not read it again as long as it is here. */
static void tell_others(kvi_session *s, const kvi_away_page *page, uint32_t id)
{
    kvi_session *other = s->engine->sessions;
    uint32_t i = 0;
    for (kvi_away_page *same; (same = next_of_name(s, &page->name, &other, &i));)
        same->memo = (kvi_memo){id, s->engine->store.pages[id].serial};
}

/* Reads what is not known, a batch at a time; *missing: the first position without a page, of any group. */
static kvrt_status fill(kvi_session *s, const bool *known, const uint32_t *ids, uint8_t *buffer, uint32_t *missing,
                        kvrt_error *error)
{
    kvi_engine *e = s->engine;
    kvi_tier *tier = e->spill.tier;
    kvi_tier_object objects[BATCH];
    uint32_t which[BATCH];
    *missing = UINT32_MAX;
    for (uint32_t next = 0; next < s->away.n;) {
        uint32_t n = 0;
        uint64_t used = 0;
        for (; next < s->away.n && n < BATCH && used < CACHED; next++) {
            const kvi_away_page *page = &s->away.pages[next];
            if (known[next]) continue;
            void *bytes = on_its_way(e, ids[next], buffer, used);
            objects[n] = (kvi_tier_object){.name = page->name, .bytes = bytes, .n = bytes_of(page)};
            used += objects[n].n;
            which[n++] = next;
        }
        if (n && tier->kind->get(tier, objects, n, NULL) < KVRT_OK)
            for (uint32_t i = 0; i < n; i++) objects[i].there = false;
        for (uint32_t i = 0; i < n; i++) {
            const kvi_away_page *page = &s->away.pages[which[i]];
            if (!objects[i].there || kvi_checksum(objects[i].bytes, objects[i].n, page->units) != page->sum) {
                const uint32_t from = page->group == KVI_MAX_GROUPS ? s->n_cached - 1 : page->index * KVI_KV_PAGE;
                if (from < *missing) *missing = from;
                continue;
            }
            const uint64_t to = offset_of(e, ids[which[i]]);
            if (!e->backend->pool_at)
                KVI_TRY(
                    kvi_engine_noted(e, e->backend->pool_write(e->device, to, objects[i].bytes, objects[i].n, error)));
            if (kvi_key_is_set(page->key)) (void)kvi_store_publish(&e->store, ids[which[i]], page->key);
            tell_others(s, page, ids[which[i]]);
        }
    }
    return KVRT_OK;
}

static void enter_tables(kvi_session *s, const uint32_t *ids)
{
    for (uint32_t i = 0; i < s->away.n; i++) {
        const kvi_away_page *page = &s->away.pages[i];
        if (page->group == KVI_MAX_GROUPS) s->states.live = ids[i];
        else s->pages.ids[page->group][page->index] = ids[i];
    }
}

/* Without a page nothing behind it is of use. The state of a recurrent layer goes back to a checkpoint, if there is one. */
static void cut(kvi_session *s, uint32_t missing)
{
    kvi_log(KVI_LOG_WARN, "session: a page that was away is lost or damaged; computed again from token %u on",
            missing / KVI_KV_PAGE * KVI_KV_PAGE);
    kvi_session_cut_cache(s, missing / KVI_KV_PAGE * KVI_KV_PAGE, s->n_tokens);
}

static kvrt_status come_back(kvi_session *s, uint8_t *buffer, bool *known, uint32_t *ids, kvrt_error *error)
{
    uint32_t missing;
    KVI_TRY(take_all(s, known, ids, error));
    kvrt_status status = fill(s, known, ids, buffer, &missing, error);
    enter_tables(s, ids);
    kvi_session_forget_away(s);
    if (status >= KVRT_OK && missing != UINT32_MAX) cut(s, missing);
    return status;
}

kvrt_status kvi_session_come_back(kvi_session *s, kvrt_error *error)
{
    s->last_use = ++s->engine->spill.n_uses;
    if (!s->away.pages) return KVRT_OK;
    kvi_account *before = kvi_account_use(s->engine->account);
    kvi_drive_finish(s->engine); /* pages may move */
    uint8_t *buffer = kvi_mem_alloc(largest_batch(s->engine, &s->away));
    bool *known = kvi_mem_zalloc(s->away.n, sizeof *known);
    uint32_t *ids = kvi_mem_zalloc(s->away.n, sizeof *ids);
    const kvrt_status status = buffer && known && ids
                                   ? come_back(s, buffer, known, ids, error)
                                   : kvi_error_nomem(error, largest_batch(s->engine, &s->away), "pages on their way");
    kvi_mem_free(buffer);
    kvi_mem_free(known);
    kvi_mem_free(ids);
    (void)kvi_account_use(before);
    return status;
}

/* ----------------------------------------------------------------------------------------------------- whose turn --- */
static bool may_go(const kvi_session *s)
{
    const bool runs = s->gen.state == KVI_PREFILL || s->gen.state == KVI_DECODE;
    return !s->submitted && !runs && !s->away.pages && kvi_pages_bytes(&s->pages) > 0;
}

bool kvi_spill_one(kvi_engine *e, const kvi_session *but)
{
    kvi_session *oldest = NULL;
    kvrt_error ignored = {.size = sizeof ignored};
    if (!e->spill.tier) return false;
    for (kvi_session *s = e->sessions; s; s = s->next)
        if (s != but && may_go(s) && (!oldest || s->last_use < oldest->last_use)) oldest = s;
    return oldest && go_away(oldest, &ignored) >= KVRT_OK;
}

kvrt_status kvrt_session_spill(kvrt_session handle, uint64_t *moved, kvrt_error *error)
{
    kvi_session *s;
    KVI_TRY(kvi_session_enter_still(handle, &s, error));
    kvi_account *before = kvi_account_use(s->engine->account);
    const kvrt_status status = kvi_session_go_away(s, moved, error);
    (void)kvi_account_use(before);
    kvi_session_leave(s, KVI_DRIVE);
    return status;
}
