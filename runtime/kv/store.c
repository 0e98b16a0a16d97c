/* store.c - see store.h. Three lists run through the table of objects, by ids: free ids, idle objects, pages of equal hash. */
#include "store.h"
#include "../base/mem.h"

#include <string.h>

/* ---------------------------------------------------------------------------------------------------------- memory --- */
static uint32_t buckets_for(uint32_t max_pages)
{
    uint32_t n = 1;
    while (n < max_pages && n < 1u << 30) n *= 2;
    return n;
}

uint64_t kvi_store_host_bytes(uint32_t max_pages)
{
    return kvi_pool_host_bytes(max_pages) + max_pages * (uint64_t)(sizeof(kvi_page) + sizeof(uint32_t)) +
           buckets_for(max_pages) * (uint64_t)sizeof(uint32_t);
}

kvrt_status kvi_store_init(kvi_store *store, uint64_t pool_bytes, uint32_t max_pages, kvrt_error *error)
{
    memset(store, 0, sizeof *store);
    KVI_TRY(kvi_pool_init(&store->pool, pool_bytes, max_pages, error));
    store->cap = max_pages;
    store->n_buckets = buckets_for(max_pages);
    store->pages = kvi_mem_zalloc(max_pages, sizeof *store->pages);
    store->order = kvi_mem_zalloc(max_pages, sizeof *store->order);
    store->buckets = kvi_mem_zalloc(store->n_buckets, sizeof *store->buckets);
    store->free_id = KVI_NO_PAGE;
    for (uint32_t kind = 0; kind < KVI_IDLE_KINDS; kind++) store->oldest[kind] = store->newest[kind] = KVI_NO_PAGE;
    if (!store->pages || !store->order || !store->buckets) {
        kvi_store_free(store);
        return kvi_error_nomem(error, kvi_store_host_bytes(max_pages), "pages of the KV pool");
    }
    memset(store->buckets, 0xff, store->n_buckets * sizeof *store->buckets);
    return KVRT_OK;
}

void kvi_store_free(kvi_store *store)
{
    kvi_pool_free(&store->pool);
    kvi_mem_free(store->pages);
    kvi_mem_free(store->order);
    kvi_mem_free(store->buckets);
    memset(store, 0, sizeof *store);
}

/* ----------------------------------------------------------------------------------------------------- ids and keys --- */
static uint32_t new_serial(kvi_store *store)
{
    if (++store->next_serial == 0) store->next_serial = 1;
    return store->next_serial;
}

/* There is always one: every object has an extent of the pool, and `cap` counts the smallest. */
static uint32_t new_id(kvi_store *store, kvi_page page)
{
    uint32_t id = store->free_id;
    if (id != KVI_NO_PAGE) store->free_id = store->pages[id].same_bucket;
    else if (store->n_ids < store->cap) id = store->n_ids++;
    else return KVI_NO_PAGE;
    page.refs = 1;
    page.serial = new_serial(store);
    page.older = page.newer = page.same_bucket = KVI_NO_PAGE;
    store->pages[id] = page;
    return id;
}

static uint32_t *bucket_of(const kvi_store *store, kvi_page_key key)
{
    return &store->buckets[key.low & (store->n_buckets - 1)];
}

static void forget_key(kvi_store *store, uint32_t id)
{
    kvi_page *page = &store->pages[id];
    if (!kvi_key_is_set(page->key)) return;
    uint32_t *link = bucket_of(store, page->key);
    while (*link != id) link = &store->pages[*link].same_bucket;
    *link = page->same_bucket;
    page->same_bucket = KVI_NO_PAGE;
    page->key = (kvi_page_key){0, 0};
}

static void release(kvi_store *store, uint32_t id)
{
    kvi_page *page = &store->pages[id];
    forget_key(store, id);
    kvi_pool_release(&store->pool, page->unit, page->units);
    *page = (kvi_page){.unit = KVI_KV_NO_EXTENT, .same_bucket = store->free_id};
    store->free_id = id;
}

/* ------------------------------------------------------------------------------------------------------------ idle --- */
static void set_idle(kvi_store *store, uint32_t id)
{
    kvi_page *page = &store->pages[id];
    const kvi_idle_kind kind = !page->n_memos ? KVI_IDLE_CACHED : page->spare ? KVI_IDLE_SPARE : KVI_IDLE_REMEMBERED;
    page->kind = (uint8_t)kind;
    page->older = store->newest[kind];
    page->newer = KVI_NO_PAGE;
    *(page->older == KVI_NO_PAGE ? &store->oldest[kind] : &store->pages[page->older].newer) = id;
    store->newest[kind] = id;
    store->idle_units += page->units;
}

static void leave_idle(kvi_store *store, uint32_t id)
{
    kvi_page *page = &store->pages[id];
    *(page->older == KVI_NO_PAGE ? &store->oldest[page->kind] : &store->pages[page->older].newer) = page->newer;
    *(page->newer == KVI_NO_PAGE ? &store->newest[page->kind] : &store->pages[page->newer].older) = page->older;
    page->older = page->newer = KVI_NO_PAGE;
    store->idle_units -= page->units;
}

static bool free_kind(kvi_store *store, kvi_idle_kind kind, uint32_t units)
{
    while (store->pool.free_units < units && store->oldest[kind] != KVI_NO_PAGE) {
        const uint32_t id = store->oldest[kind];
        leave_idle(store, id);
        release(store, id);
    }
    return store->pool.free_units >= units;
}

bool kvi_store_free_cached(kvi_store *store, uint32_t units) { return free_kind(store, KVI_IDLE_CACHED, units); }

bool kvi_store_free_up(kvi_store *store, uint32_t units)
{
    for (int kind = 0; kind < KVI_IDLE_KINDS; kind++)
        if (free_kind(store, (kvi_idle_kind)kind, units)) return true;
    return false;
}

/* ------------------------------------------------------------------------------------------------------- references --- */
uint32_t kvi_store_take(kvi_store *store, uint32_t group, kvi_kv_format format, uint32_t units, bool short_lived)
{
    const uint32_t unit = short_lived ? kvi_pool_take_high(&store->pool, units) : kvi_pool_take(&store->pool, units);
    if (unit == KVI_KV_NO_EXTENT) return KVI_NO_PAGE;
    const uint32_t id =
        new_id(store, (kvi_page){.unit = unit, .units = units, .group = (uint8_t)group, .format = format});
    if (id == KVI_NO_PAGE) kvi_pool_release(&store->pool, unit, units);
    return id;
}

void kvi_store_share(kvi_store *store, uint32_t id)
{
    if (store->pages[id].refs++ == 0) leave_idle(store, id);
}

void kvi_store_drop(kvi_store *store, uint32_t id)
{
    kvi_page *page = &store->pages[id];
    if (--page->refs > 0) return;
    if (page->n_memos || kvi_key_is_set(page->key)) set_idle(store, id);
    else release(store, id);
}

void kvi_store_renew(kvi_store *store, uint32_t id)
{
    forget_key(store, id);
    store->pages[id].n_memos = 0;
    store->pages[id].serial = new_serial(store);
}

/* ------------------------------------------------------------------------------------------------------ remembering --- */
kvi_memo kvi_store_remember(kvi_store *store, uint32_t id, bool spare)
{
    store->pages[id].spare = spare && (store->pages[id].spare || !store->pages[id].n_memos);
    store->pages[id].n_memos++;
    return (kvi_memo){id, store->pages[id].serial};
}

uint32_t kvi_store_recall(const kvi_store *store, kvi_memo memo)
{
    return memo.serial && store->pages[memo.id].serial == memo.serial ? memo.id : KVI_NO_PAGE;
}

uint32_t kvi_store_take_back(kvi_store *store, kvi_memo memo)
{
    const uint32_t id = kvi_store_recall(store, memo);
    if (id == KVI_NO_PAGE) return id;
    kvi_page *page = &store->pages[id];
    kvi_store_share(store, id);
    page->n_memos--;
    if (page->refs == 1 && !page->n_memos && !kvi_key_is_set(page->key)) kvi_store_renew(store, id);
    return id;
}

bool kvi_store_forget(kvi_store *store, kvi_memo memo)
{
    const uint32_t id = kvi_store_take_back(store, memo);
    if (id != KVI_NO_PAGE) kvi_store_drop(store, id);
    return id != KVI_NO_PAGE;
}

/* --------------------------------------------------------------------------------------------------------- identity --- */
uint32_t kvi_store_find(const kvi_store *store, uint32_t group, kvi_kv_format format, kvi_page_key key)
{
    uint32_t id = *bucket_of(store, key);
    for (; id != KVI_NO_PAGE; id = store->pages[id].same_bucket) {
        const kvi_page *page = &store->pages[id];
        if (page->key.low == key.low && page->key.high == key.high && page->group == group && page->format == format)
            break;
    }
    return id;
}

uint32_t kvi_store_publish(kvi_store *store, uint32_t id, kvi_page_key key)
{
    kvi_page *page = &store->pages[id];
    const uint32_t known = kvi_store_find(store, page->group, page->format, key);
    if (known != KVI_NO_PAGE) return known;
    forget_key(store, id);
    page->key = key;
    uint32_t *bucket = bucket_of(store, key);
    page->same_bucket = *bucket;
    *bucket = id;
    return id;
}

/* ---------------------------------------------------------------------------------------------------- convert, move --- */
uint32_t kvi_store_convert(kvi_store *store, uint32_t id, kvi_page_ref to, uint32_t units)
{
    kvi_page *page = &store->pages[id];
    if (page->refs > 1) {
        page->refs--;
        return new_id(
            store,
            (kvi_page){.unit = to.unit, .units = units, .group = page->group, .format = (kvi_kv_format)to.format});
    }
    kvi_store_renew(store, id);
    if (to.unit == page->unit) kvi_pool_release(&store->pool, page->unit + units, page->units - units);
    else kvi_pool_release(&store->pool, page->unit, page->units);
    page->unit = to.unit;
    page->units = units;
    page->format = (kvi_kv_format)to.format;
    return id;
}

void kvi_store_move(kvi_store *store, uint32_t id)
{
    kvi_page *page = &store->pages[id];
    page->unit = kvi_pool_move_down(&store->pool, page->unit, page->units);
}
