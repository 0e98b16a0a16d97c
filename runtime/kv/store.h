/* store.h - the objects of the KV pool: pages of the cache, and states of recurrent layers. The store alone knows where an object stands and
 * in which format; whoever uses one holds its id, and any number of page tables may hold the same. So an object is moved or converted in one
 * place, whoever refers to it.
 *
 *     table of session A  [ 4  7  9 ]              id   unit  units  format  refs
 *     table of session B  [ 4  7 12 ]   ------->    4      0    512  f16        2
 *                                                   7    512    140  k4v4       2
 *     idle, oldest first  [ 3 ]                     3   1024    140  k4v4       0   kept for whoever finds it
 *
 * LIFE. An object is taken with one reference. Who gives it to another adds one (share), who no longer needs it takes one off (drop). Without
 * references it goes back to the pool, unless somebody remembers it or it was published under a key: then it is idle, may be had again, and goes
 * when room is needed (kvi_store_free_up): first what nobody but a key leads to, which is *cached*; then what is remembered and of little worth
 * (spare); then what is remembered. Of each kind the least recently used goes first. What several hold nobody writes to: a writer first gets a
 * copy of its own.
 *
 * Nothing here touches bytes or asks a device. All memory is taken at init; not thread-safe: the engine's driver owns it. */
#ifndef KVI_KV_STORE_H
#define KVI_KV_STORE_H
#include "key.h"
#include "page.h"
#include "pool.h"

#define KVI_NO_PAGE 0xffffffffu

typedef enum kvi_idle_kind { KVI_IDLE_CACHED, KVI_IDLE_SPARE, KVI_IDLE_REMEMBERED, KVI_IDLE_KINDS } kvi_idle_kind;

typedef struct kvi_page {
    uint32_t unit, units; /* the extent; unit KVI_KV_NO_EXTENT: the id is free */
    uint32_t refs;        /* tables that hold it */
    uint8_t group;        /* KVI_MAX_GROUPS: a state */
    kvi_kv_format format;
    uint8_t kind;          /* the list of idle objects that it is in */
    bool spare;            /* what is remembered of it is of little worth */
    uint32_t n_memos;      /* how many remember it */
    uint32_t serial;       /* another one for every content, never 0 */
    kvi_page_key key;      /* what it may be found by; none: zero */
    uint32_t same_bucket;  /* next page of the bucket of its key; of a free id: the next free one */
    uint32_t older, newer; /* neighbours in the list of idle objects */
} kvi_page;

typedef struct kvi_store {
    kvi_pool pool;
    kvi_page *pages;     /* (cap) by id */
    uint32_t cap, n_ids; /* ids below n_ids have been in use */
    uint32_t free_id;
    uint32_t *buckets; /* (n_buckets, a power of two) first page by key */
    uint32_t n_buckets;
    uint32_t oldest[KVI_IDLE_KINDS], newest[KVI_IDLE_KINDS]; /* idle objects, in the order in which they go */
    uint32_t idle_units, next_serial;
    uint32_t *order; /* (cap) scratch of compact.c */
} kvi_store;

/* max_pages: most objects alive at a time, idle ones too. */
kvrt_status kvi_store_init(kvi_store *store, uint64_t pool_bytes, uint32_t max_pages, kvrt_error *error);
void kvi_store_free(kvi_store *store);
uint64_t kvi_store_host_bytes(uint32_t max_pages); /* what init takes */

/* KVI_NO_PAGE when no hole is large enough. Short-lived objects (open pages) come from the high end, so that they do not cut the room of the
 * others into pieces. */
uint32_t kvi_store_take(kvi_store *store, uint32_t group, kvi_kv_format format, uint32_t units, bool short_lived);
void kvi_store_share(kvi_store *store, uint32_t id);
void kvi_store_drop(kvi_store *store, uint32_t id);
/* The content changes: nobody who remembers it or knows its key finds it any more. */
void kvi_store_renew(kvi_store *store, uint32_t id);

/* An object that is remembered and not held: it may be gone. {0, 0}: none. */
typedef struct kvi_memo {
    uint32_t id, serial;
} kvi_memo;
/* Then drop it. `spare`: of little worth, so that it goes before what is remembered otherwise. */
kvi_memo kvi_store_remember(kvi_store *store, uint32_t id, bool spare);
/* Its id, to look at; KVI_NO_PAGE: gone. */
uint32_t kvi_store_recall(const kvi_store *store, kvi_memo memo);
/* The same with a reference for the caller, who remembers it no longer; nobody does what is then his alone. */
uint32_t kvi_store_take_back(kvi_store *store, kvi_memo memo);
/* Was there such an object? Its room is free, unless others have to do with it. */
bool kvi_store_forget(kvi_store *store, kvi_memo memo);

/* Drops idle objects, in their order, until `units` are free, in one piece or not. False: they are not, and nothing is idle. */
bool kvi_store_free_up(kvi_store *store, uint32_t units);
/* The same, but only what is cached goes: nobody who has to do with the pool notices. */
bool kvi_store_free_cached(kvi_store *store, uint32_t units);

/* Publishes a whole object under its key, and keeps it. When another page of its group and format has that key, nothing happens; returns which
 * page has it. */
uint32_t kvi_store_publish(kvi_store *store, uint32_t id, kvi_page_key key);
/* KVI_NO_PAGE: none. The page is not held by that: share it before anything else. */
uint32_t kvi_store_find(const kvi_store *store, uint32_t group, kvi_kv_format format, kvi_page_key key);

/* The page's content stands at `to` (an extent of `units`) in another format; in place when to.unit is its own. Returns the id that the caller
 * holds from now on: the page itself, which nobody then knows or remembers as what it was; or, when others hold it too, one of the caller's own
 * (then not in place). */
uint32_t kvi_store_convert(kvi_store *store, uint32_t id, kvi_page_ref to, uint32_t units);
/* Moves it down over the hole right below it, whatever its size. The bytes are the caller's business: `from` was unit before. */
void kvi_store_move(kvi_store *store, uint32_t id);

static inline kvi_page_ref kvi_store_ref(const kvi_store *store, uint32_t id)
{
    return id == KVI_NO_PAGE ? (kvi_page_ref){KVI_KV_NO_EXTENT, 0}
                             : (kvi_page_ref){store->pages[id].unit, store->pages[id].format};
}

#endif
