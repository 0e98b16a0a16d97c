/* memory_limit.c - kvrt_mem_limit: the KV pool of an open engine becomes smaller or larger with mem.limit. Addresses for its largest size are
 * reserved at open, and so is its bookkeeping, so that pages stay where they are and nothing is allocated here; memory goes and comes by
 * the system's pages. The one thing to know: only the pool changes. What the plan says of everything else holds, and a pool that is too small for a
 * planned context is a full one, which sessions are told as ever. */
#include "drive.h"
#include "seat.h"

static uint64_t kib_up(uint64_t bytes) { return (bytes + 1023) >> 10; }

/* What the limit leaves this engine: all of it, or what others have not taken; without one, what is free and what it has itself. */
static uint64_t budget_of(const kvi_engine *e)
{
    const uint64_t free_bytes =
                       e->backend->own_memory ? e->backend->memory_available(e->device) : kvi_os_memory_available(),
                   reserve = (uint64_t)kvi_options_i64(e->options, "mem.reserve");
    if (!e->mem_limit) return e->plan.total_bytes + (free_bytes > reserve ? free_bytes - reserve : 0);
    const uint64_t own = kvi_plan_less_reserve(e->options, e->mem_limit);
    if (!kvi_options_bool(e->options, "mem.shared")) return own;
    const uint64_t others = kvi_shared_bytes(e->share.of_card) - e->share.bytes;
    return own > others ? own - others : 0;
}

static uint32_t held_units(const kvi_store *store)
{
    return store->pool.n_units - store->pool.free_units - store->idle_units;
}

static void set_shares(kvi_engine *e, uint32_t n_units)
{
    for (kvi_session *s = e->sessions; s; s = s->next) s->pages.share_units = n_units / e->plan.limits.max_seqs;
}

/* Makes what stands in the pool fit into n_units, in the order in which somebody misses it. *fits = false: it does not. */
static kvrt_status make_fit(kvi_engine *e, uint32_t n_units, bool *fits, kvrt_error *error)
{
    kvi_store *store = &e->store;
    const uint32_t n_free = store->pool.n_units - n_units;
    const bool spills = e->spill.tier && !kvi_spill_counts(e); /* what stays in the same memory gives nothing back */
    while (spills && held_units(store) > n_units && kvi_spill_one(e, NULL)) {
    }
    for (kvi_session *s = e->sessions; s && held_units(store) > n_units; s = s->next)
        if (s->pages.elastic) KVI_TRY(kvi_session_keep_share(s, error));
    *fits = held_units(store) <= n_units;
    return *fits && kvi_store_free_up(store, n_free) ? kvi_engine_compact(e, error) : KVRT_OK;
}

static kvrt_status shrink(kvi_engine *e, uint64_t pool, uint64_t rest, uint64_t budget, kvrt_error *error)
{
    const uint32_t n_units = (uint32_t)(pool / KVI_KV_UNIT), before = e->store.pool.n_units;
    bool fits;
    set_shares(e, n_units);
    kvrt_status status = make_fit(e, n_units, &fits, error);
    if (status >= KVRT_OK && fits) status = e->backend->pool_resize(e->device, pool, error);
    if (status >= KVRT_OK && fits) {
        kvi_pool_resize(&e->store.pool, n_units);
        return KVRT_OK;
    }
    set_shares(e, before);
    if (status < KVRT_OK) return status;
    const uint64_t grain = kvi_limits_grain(&e->plan.limits),
                   held = ((uint64_t)held_units(&e->store) * KVI_KV_UNIT + grain - 1) / grain * grain;
    return kvi_error_memory(
        error, KVRT_OVER_BUDGET, rest + held, budget,
        "mem.limit: sessions hold %llu KiB of the KV pool, %llu KiB are left for it: close or spill "
        "sessions, or leave %llu KiB in all",
        (unsigned long long)kib_up(held), (unsigned long long)(pool >> 10), (unsigned long long)kib_up(rest + held));
}

static kvrt_status grow(kvi_engine *e, uint64_t pool, kvrt_error *error)
{
    KVI_TRY(e->backend->pool_resize(e->device, pool, error));
    kvi_pool_resize(&e->store.pool, (uint32_t)(pool / KVI_KV_UNIT));
    set_shares(e, e->store.pool.n_units);
    return KVRT_OK;
}

/* The share of a common limit is taken before, and given back behind. */
static kvrt_status resize(kvi_engine *e, uint64_t pool, uint64_t rest, uint64_t budget, kvrt_error *error)
{
    kvi_memory_plan *plan = &e->plan;
    const uint64_t before = plan->limits.pool_bytes, share = e->share.bytes;
    const uint64_t limit = kvi_plan_less_reserve(e->options, e->mem_limit);
    if (share && pool > before && !kvi_share_set(&e->share, share - before + pool, limit))
        return kvi_error_memory(error, KVRT_OVER_BUDGET, rest + pool, budget,
                                "engine: others have taken of mem.limit in the meantime (mem.shared)");
    kvrt_status status = pool < before ? shrink(e, pool, rest, budget, error) : grow(e, pool, error);
    if (share && (status < KVRT_OK) == (pool > before))
        (void)kvi_share_set(&e->share, status < KVRT_OK ? share : share - before + pool, limit);
    KVI_TRY(kvi_engine_noted(e, status));
    if (e->format.elastic) plan->session_kv_bytes = pool / plan->limits.max_seqs;
    plan->total_bytes = rest + pool;
    plan->limits.pool_bytes = pool;
    return KVRT_OK;
}

static kvrt_status set_limit(kvi_engine *e, kvrt_error *error)
{
    if (!e->backend->pool_resize)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "mem.limit: the backend %s cannot change its KV pool while it is open", e->backend->name);
    if (e->backend->pool_grain && !e->plan.limits.pool_grain)
        return kvi_error_set(
            error, KVRT_UNSUPPORTED,
            "mem.limit: the KV pool of the backend %s changes only if the engine was opened with mem.most",
            e->backend->name);
    const kvi_memory_plan *plan = &e->plan;
    const uint64_t budget = budget_of(e), away = kvi_spill_counts(e) ? e->spill.bytes : 0,
                   rest = plan->total_bytes - plan->limits.pool_bytes,
                   most = kvi_plan_most_pool(plan, kvi_plan_most(e->options));
    uint64_t pool = e->mem_limit ? kvi_plan_pool_under(plan, budget > away ? budget - away : 0) : most;
    if (pool > most) pool = most;
    if (budget < rest + away)
        return kvi_error_memory(error, KVRT_OVER_BUDGET, rest + away, budget,
                                "mem.limit: the engine needs %llu KiB beside its KV pool, %llu KiB are left for it",
                                (unsigned long long)kib_up(rest + away), (unsigned long long)(budget >> 10));
    if (pool != plan->limits.pool_bytes) KVI_TRY(resize(e, pool, rest, budget, error));
    e->plan.budget_bytes = budget;
    return KVRT_OK;
}

kvrt_status kvrt_mem_limit(kvrt_engine handle, uint64_t bytes, uint64_t *pool, kvrt_error *error)
{
    kvi_engine *e;
    KVI_TRY(kvi_engine_enter(handle, KVI_DRIVE, &e, error));
    kvi_account *account = kvi_account_use(e->account);
    const uint64_t before = e->mem_limit;
    kvi_drive_finish(e); /* pages move */
    e->mem_limit = bytes;
    const kvrt_status status = set_limit(e, error);
    if (status < KVRT_OK) e->mem_limit = before;
    if (pool) *pool = e->plan.limits.pool_bytes;
    (void)kvi_account_use(account);
    kvi_engine_leave(e, KVI_DRIVE);
    return status;
}
