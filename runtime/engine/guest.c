/* guest.c - memory for guests of a process that needs it for something else: what is taken, giving back what is only kept in case (trim), and giving
 * back everything but the sessions for a while (suspend, resume). The one thing to know: while an engine is suspended its tables of pages, keys and
 * states stay as they are; only the bytes of the pool wait in the host's memory, object after object, and come back to the same places. */
#include "drive.h"
#include "seat.h"

#include <string.h>

/* Objects of the pool that are held, and idle ones. */
static void count_pages(const kvi_store *store, uint64_t *used, uint64_t *idle)
{
    *used = *idle = 0;
    for (uint32_t i = 0; i < store->n_ids; i++) {
        if (store->pages[i].unit == KVI_KV_NO_EXTENT) continue;
        *(store->pages[i].refs ? used : idle) += 1;
    }
}

kvrt_status kvrt_mem_info(kvrt_engine handle, kvrt_memory *out, kvrt_error *error)
{
    kvi_engine *e;
    KVI_TRY(kvi_struct_check(out, "kvrt_memory", error));
    KVI_TRY(kvi_engine_enter(handle, KVI_READ, &e, error));
    const bool own = e->backend && e->backend->own_memory;
    const uint64_t cached = (uint64_t)e->store.idle_units * KVI_KV_UNIT, host = kvi_engine_host_bytes(e);
    const kvi_memory_plan *plan = &e->plan;
    uint64_t used, idle;
    count_pages(&e->store, &used, &idle);
    const kvrt_memory memory = {
        .kv_used_pages = used,
        .kv_cached_pages = idle,
        .suspended = e->suspended.bytes != NULL,
        .host_bytes = host,
        .device_bytes = own && e->device ? plan->total_bytes - plan->context_bytes : 0,
        .workspace_bytes = e->device ? plan->workspace_bytes : 0,
        .kv_pool_bytes = e->device ? plan->limits.pool_bytes : 0,
        .kv_used_bytes = kvi_pool_used_bytes(&e->store.pool) - cached,
        .kv_cached_bytes = cached,
        .kv_saved_bytes = e->suspended.n,
        .planned_bytes = plan->total_bytes,
        .budget_bytes = plan->budget_bytes,
        .kv_away_bytes = e->spill.bytes,
        .kv_pool_most_bytes = e->device ? kvi_plan_most_pool(plan, kvi_plan_most(e->options)) : 0,
        .available_bytes = own && e->device ? e->backend->memory_available(e->device) : kvi_os_memory_available()};
    kvi_struct_write(out, &memory, sizeof memory);
    kvi_engine_leave(e, KVI_READ);
    return KVRT_OK;
}

/* ------------------------------------------------------------------------------------------------------- trimming --- */
static void drop_cached(kvi_engine *e, uint64_t *freed)
{
    const uint32_t before = e->store.pool.free_units;
    (void)kvi_store_free_cached(&e->store, UINT32_MAX);
    *freed = (uint64_t)(e->store.pool.free_units - before) * KVI_KV_UNIT;
}

kvrt_status kvrt_trim(kvrt_engine handle, uint64_t *freed, kvrt_error *error)
{
    kvi_engine *e;
    uint64_t n;
    KVI_TRY(kvi_engine_enter(handle, KVI_DRIVE, &e, error));
    kvi_drive_finish(e); /* its pages are written to */
    drop_cached(e, &n);
    for (uint32_t i = 0; e->backend->pool_discard && i < e->store.pool.n_holes; i++) {
        const kvi_pool_hole *hole = &e->store.pool.holes[i];
        e->backend->pool_discard(e->device, (uint64_t)hole->unit * KVI_KV_UNIT, (uint64_t)hole->len * KVI_KV_UNIT);
    }
    if (freed) *freed = n;
    kvi_engine_leave(e, KVI_DRIVE);
    return KVRT_OK;
}

/* ----------------------------------------------------------------------------------------------------- suspending --- */
/* Between the pool and the block, every object that was there when the engine was suspended and is still. */
static kvrt_status copy_objects(kvi_engine *e, bool to_pool, kvrt_error *error)
{
    const kvi_backend *b = e->backend;
    uint64_t at = 0;
    for (uint32_t id = 0; id < e->store.n_ids; id++) {
        const kvi_page *page = &e->store.pages[id];
        const uint64_t n = (uint64_t)e->suspended.units[id] * KVI_KV_UNIT;
        const uint64_t offset = (uint64_t)page->unit * KVI_KV_UNIT;
        if (n && page->unit != KVI_KV_NO_EXTENT)
            KVI_TRY(to_pool ? b->pool_write(e->device, offset, e->suspended.bytes + at, n, error)
                            : b->pool_read(e->device, offset, e->suspended.bytes + at, n, error));
        at += n;
    }
    return KVRT_OK;
}

static void forget(kvi_engine *e)
{
    kvi_mem_free(e->suspended.bytes);
    kvi_mem_free(e->suspended.units);
    memset(&e->suspended, 0, sizeof e->suspended);
}

static kvrt_status make_room(kvi_engine *e, kvrt_error *error)
{
    const kvi_store *store = &e->store;
    e->suspended.n = kvi_pool_used_bytes(&store->pool);
    e->suspended.bytes = kvi_mem_alloc(e->suspended.n);
    e->suspended.units = kvi_mem_zalloc(store->n_ids, sizeof *e->suspended.units);
    if (!e->suspended.bytes || !e->suspended.units)
        return kvi_error_nomem(error, e->suspended.n, "pages of the sessions");
    for (uint32_t id = 0; id < store->n_ids; id++)
        if (store->pages[id].unit != KVI_KV_NO_EXTENT) e->suspended.units[id] = store->pages[id].units;
    return KVRT_OK;
}

static kvrt_status resume(kvi_engine *e, kvrt_error *error);

/* The engine of draft.model goes first and comes back first. Its memory is its own. */
static kvrt_status of_draft(kvi_engine *e, kvrt_status (*fn)(kvi_engine *, kvrt_error *), kvrt_error *error)
{
    if (!e->draft) return KVRT_OK;
    kvi_account *before = kvi_account_use(e->draft->account);
    const kvrt_status status = fn(e->draft, error);
    (void)kvi_account_use(before);
    return status;
}

static kvrt_status suspend(kvi_engine *e, kvrt_error *error)
{
    uint64_t freed;
    kvi_drive_finish(e);
    KVI_TRY(of_draft(e, suspend, error));
    drop_cached(e, &freed);
    kvrt_status status = make_room(e, error);
    if (status >= KVRT_OK) status = kvi_engine_noted(e, copy_objects(e, false, error));
    if (status >= KVRT_OK) status = kvi_engine_leave_device(e, error);
    if (status < KVRT_OK) forget(e);
    if (status < KVRT_OK) (void)of_draft(e, resume, NULL);
    return status;
}

kvrt_status kvrt_suspend(kvrt_engine handle, kvrt_error *error)
{
    kvi_engine *e;
    KVI_TRY(kvi_engine_enter(handle, KVI_DRIVE, &e, error));
    kvrt_status status;
    if (e->worker.runs) {
        status = kvi_error_set(error, KVRT_STATE, "engine: its worker is running, stop it first");
    } else {
        kvi_account *before = kvi_account_use(e->account);
        status = suspend(e, error);
        (void)kvi_account_use(before);
    }
    kvi_engine_leave(e, KVI_DRIVE);
    return status;
}

static kvrt_status resume(kvi_engine *e, kvrt_error *error)
{
    if (!e->suspended.bytes) return kvi_error_set(error, KVRT_STATE, "engine: it is not suspended");
    if (e->draft && e->draft->suspended.bytes) KVI_TRY(of_draft(e, resume, error));
    KVI_TRY(kvi_engine_take_device(e, error));
    kvrt_status status = copy_objects(e, true, error);
    if (status < KVRT_OK) {
        kvrt_error ignored = {.size = sizeof ignored};
        (void)kvi_engine_leave_device(e, &ignored);
        return status;
    }
    forget(e);
    return KVRT_OK;
}

kvrt_status kvrt_resume(kvrt_engine handle, kvrt_error *error)
{
    kvi_engine *e;
    KVI_TRY(kvi_engine_enter(handle, KVI_RESUME, &e, error));
    kvi_account *before = kvi_account_use(e->account);
    const kvrt_status status = resume(e, error);
    (void)kvi_account_use(before);
    kvi_engine_leave(e, KVI_RESUME);
    return status;
}
