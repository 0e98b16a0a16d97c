/* tier_memory.c - objects in the host's memory: see tier.h. A table by name, which grows. What is set by one call stands in one block, since new
 * memory costs more than the copy, and large blocks have large pages; a block goes with its last object, and the pages of one that goes earlier go
 * back to the system meanwhile (the account has the block whole until then). */
#include "tier.h"
#include "../base/mem.h"

#include <string.h>

enum { ALIGN = 64 };
typedef struct block {
    uint32_t n_objects; /* that are there; their bytes follow, each at a multiple of ALIGN */
} block;

typedef struct entry {
    kvi_tier_name name;
    uint8_t *bytes; /* NULL: free */
    uint64_t n;
    block *block;
} entry;

typedef struct memory {
    kvi_tier tier;
    entry *entries; /* (cap), a power of two; open addressing */
    uint32_t cap, used;
} memory;

static uint32_t slot_of(const memory *m, kvi_tier_name name)
{
    uint32_t i = (uint32_t)(name.low ^ name.high >> 7) & (m->cap - 1);
    while (m->entries[i].bytes && (m->entries[i].name.low != name.low || m->entries[i].name.high != name.high))
        i = (i + 1) & (m->cap - 1);
    return i;
}

static bool reserve(memory *m, uint32_t more)
{
    uint32_t cap = m->cap ? m->cap : 64;
    while (cap < 2 * (m->used + more)) cap *= 2;
    if (cap == m->cap) return true;
    memory grown = {.entries = kvi_mem_zalloc(cap, sizeof *grown.entries), .cap = cap};
    if (!grown.entries) return false;
    for (uint32_t i = 0; i < m->cap; i++)
        if (m->entries[i].bytes) grown.entries[slot_of(&grown, m->entries[i].name)] = m->entries[i];
    kvi_mem_free(m->entries);
    m->entries = grown.entries;
    m->cap = cap;
    return true;
}

static kvrt_status exists(kvi_tier *tier, kvi_tier_object *objects, uint32_t count, kvrt_error *error)
{
    const memory *m = (const memory *)tier;
    (void)error;
    for (uint32_t i = 0; i < count; i++) {
        const entry *e = m->cap ? &m->entries[slot_of(m, objects[i].name)] : NULL;
        objects[i].there = e && e->bytes && e->n == objects[i].n;
    }
    return KVRT_OK;
}

static kvrt_status get(kvi_tier *tier, kvi_tier_object *objects, uint32_t count, kvrt_error *error)
{
    const memory *m = (const memory *)tier;
    KVI_TRY(exists(tier, objects, count, error));
    for (uint32_t i = 0; i < count; i++)
        if (objects[i].there) memcpy(objects[i].bytes, m->entries[slot_of(m, objects[i].name)].bytes, objects[i].n);
    return KVRT_OK;
}

/* Those behind it in the same run of places move up, so that none is behind a gap. */
static void remove_at(memory *m, uint32_t i)
{
    const entry gone = m->entries[i];
    m->entries[i].bytes = NULL;
    m->used--;
    if (--gone.block->n_objects == 0) kvi_mem_free_aligned(gone.block);
    else kvi_os_pages_discard(gone.bytes, gone.n);
    for (uint32_t k = (i + 1) & (m->cap - 1); m->entries[k].bytes; k = (k + 1) & (m->cap - 1)) {
        const entry moved = m->entries[k];
        m->entries[k].bytes = NULL;
        m->entries[slot_of(m, moved.name)] = moved;
    }
}

static void drop(kvi_tier *tier, const kvi_tier_object *objects, uint32_t count)
{
    memory *m = (memory *)tier;
    for (uint32_t i = 0; i < count && m->cap; i++) {
        const uint32_t at = slot_of(m, objects[i].name);
        if (m->entries[at].bytes) remove_at(m, at);
    }
}

static uint64_t room_of(uint64_t n) { return (n + ALIGN - 1) / ALIGN * ALIGN; }

static kvrt_status set(kvi_tier *tier, const kvi_tier_object *objects, uint32_t count, kvrt_error *error)
{
    memory *m = (memory *)tier;
    uint64_t n = ALIGN;
    if (!reserve(m, count)) return kvi_error_nomem(error, count * sizeof(entry), "table of pages in memory");
    for (uint32_t i = 0; i < count; i++)
        if (!m->entries[slot_of(m, objects[i].name)].bytes) n += room_of(objects[i].n);
    if (n == ALIGN) return KVRT_OK;
    block *b = kvi_mem_alloc_aligned(n);
    if (!b) return kvi_error_nomem(error, n, "pages in memory");
    uint8_t *next = (uint8_t *)b + ALIGN;
    for (uint32_t i = 0; i < count; i++) {
        entry *e = &m->entries[slot_of(m, objects[i].name)];
        if (e->bytes) continue;
        *e = (entry){objects[i].name, next, objects[i].n, b};
        memcpy(next, objects[i].bytes, objects[i].n);
        next += room_of(objects[i].n);
        b->n_objects++, m->used++;
    }
    return KVRT_OK;
}

static void close_it(kvi_tier *tier)
{
    memory *m = (memory *)tier;
    for (uint32_t i = 0; m && i < m->cap; i++)
        if (m->entries[i].bytes && --m->entries[i].block->n_objects == 0) kvi_mem_free_aligned(m->entries[i].block);
    if (m) kvi_mem_free(m->entries);
    kvi_mem_free(m);
}

static const kvi_tier_kind kind = {"memory", exists, get, set, drop, close_it};

kvrt_status kvi_tier_memory(kvi_tier **out, kvrt_error *error)
{
    memory *m = kvi_mem_zalloc(1, sizeof *m);
    if (!m) return kvi_error_nomem(error, sizeof *m, "pages in memory");
    m->tier.kind = &kind;
    *out = &m->tier;
    return KVRT_OK;
}
