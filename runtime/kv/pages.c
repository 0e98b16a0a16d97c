/* pages.c - see pages.h. */
#include "pages.h"
#include "../base/mem.h"

#include <string.h>

kvi_kv_format kvi_pages_plain(const kvi_cache_group *group) { return KVI_KV_FORMAT(group->plain, group->plain); }

static bool absent(const kvi_page_ref *page) { return page->unit == KVI_KV_NO_EXTENT; }

static uint32_t units_of(const kvi_pages *pages, uint32_t group, const kvi_page_ref *page)
{
    return kvi_kv_page_units(page->format, &pages->groups[group].shape);
}

static void release(kvi_pages *pages, uint32_t group, kvi_page_ref *page)
{
    if (absent(page)) return;
    kvi_pool_release(pages->pool, page->unit, units_of(pages, group, page));
    page->unit = KVI_KV_NO_EXTENT;
}

static bool release_held(kvi_pages *pages, uint32_t group, uint32_t page)
{
    uint32_t *unit = &pages->held[group][page];
    if (*unit == KVI_KV_NO_EXTENT) return false;
    kvi_pool_release(pages->pool, *unit,
                     kvi_kv_page_units(kvi_pages_plain(&pages->groups[group]), &pages->groups[group].shape));
    *unit = KVI_KV_NO_EXTENT;
    return true;
}

static void release_all(kvi_pages *pages, uint32_t group, uint32_t page)
{
    release(pages, group, &pages->table[group][page]);
    (void)release_held(pages, group, page);
}

/* Positions at which page p is encoded. */
static uint64_t due_at(const kvi_pages *pages, uint32_t p) { return (uint64_t)KVI_KV_PAGE * (p + 1) + pages->tail; }

/* The page has positions below the mark, and was plain there. */
static bool worth_holding(const kvi_pages *pages, uint32_t p)
{
    return (uint64_t)KVI_KV_PAGE * p < pages->mark && pages->mark < due_at(pages, p);
}

kvrt_status kvi_pages_init(kvi_pages *pages, kvi_pool *pool, const kvi_cache_group *groups, uint32_t n_groups,
                           uint32_t max_ctx, kvi_kv_format body, uint32_t tail, kvrt_error *error)
{
    memset(pages, 0, sizeof *pages);
    pages->pool = pool;
    pages->groups = groups;
    pages->n_groups = n_groups;
    pages->body = body;
    pages->tail = tail;
    pages->cap_pages = (max_ctx + KVI_KV_PAGE - 1) / KVI_KV_PAGE;
    for (uint32_t g = 0; g < n_groups; g++) {
        pages->table[g] = kvi_mem_zalloc(pages->cap_pages, sizeof *pages->table[g]);
        pages->held[g] = kvi_mem_zalloc(pages->cap_pages, sizeof *pages->held[g]);
        if (!pages->table[g] || !pages->held[g]) {
            kvi_pages_free(pages);
            return kvi_error_nomem(error, pages->cap_pages * (sizeof(kvi_page_ref) + 4u), "page table");
        }
    }
    return KVRT_OK;
}

void kvi_pages_free(kvi_pages *pages)
{
    for (uint32_t g = 0; g < pages->n_groups; g++) {
        for (uint32_t p = 0; p < pages->n_pages[g]; p++) release_all(pages, g, p);
        kvi_mem_free(pages->table[g]);
        kvi_mem_free(pages->held[g]);
    }
    memset(pages, 0, sizeof *pages);
}

bool kvi_pages_extend(kvi_pages *pages, uint32_t n)
{
    uint32_t need = (n + KVI_KV_PAGE - 1) / KVI_KV_PAGE, before[KVI_MAX_GROUPS];
    if (need > pages->cap_pages) return false;
    for (uint32_t g = 0; g < pages->n_groups; g++) before[g] = pages->n_pages[g];
    for (uint32_t g = 0; g < pages->n_groups; g++)
        while (pages->n_pages[g] < need) {
            kvi_page_ref page = {.format = kvi_pages_plain(&pages->groups[g])};
            page.unit = kvi_pool_take_high(pages->pool, units_of(pages, g, &page));
            if (absent(&page)) {
                for (uint32_t k = 0; k <= g; k++)
                    while (pages->n_pages[k] > before[k]) release(pages, k, &pages->table[k][--pages->n_pages[k]]);
                return false;
            }
            pages->held[g][pages->n_pages[g]] = KVI_KV_NO_EXTENT;
            pages->table[g][pages->n_pages[g]++] = page;
        }
    return true;
}

uint32_t kvi_pages_due(kvi_pages *pages, uint32_t n_accepted, kvi_page_job *jobs, uint32_t *page_of, uint32_t cap)
{
    uint32_t n = 0;
    if (kvi_kv_format_is_plain(pages->body)) return 0;
    for (uint32_t g = 0; g < pages->n_groups; g++) {
        uint32_t p = pages->n_committed[g] > 1 ? pages->n_committed[g] : 1; /* page 0 is the sink */
        for (; n < cap && p < pages->n_pages[g] && due_at(pages, p) <= n_accepted; p++) {
            const kvi_page_ref *from = &pages->table[g][p];
            if (absent(from)) continue;                          /* already out of its window */
            if (!kvi_kv_format_is_plain(from->format)) continue; /* one below it was held, and is plain again */
            kvi_page_ref to = {.format = pages->body};
            to.unit = kvi_pool_take(pages->pool, units_of(pages, g, &to));
            /* Without room beside it, the page is encoded in place: a record is never longer than what it replaces. */
            if (absent(&to)) to.unit = from->unit;
            page_of[n] = p;
            jobs[n++] = (kvi_page_job){.group = g, .from = *from, .to = to};
        }
    }
    return n;
}

void kvi_pages_committed(kvi_pages *pages, const kvi_page_job *jobs, const uint32_t *page_of, uint32_t n, bool success)
{
    for (uint32_t i = 0; i < n; i++) {
        const kvi_page_job *job = &jobs[i];
        uint32_t g = job->group, from_units = units_of(pages, g, &job->from), to_units = units_of(pages, g, &job->to);
        bool in_place = job->from.unit == job->to.unit;
        if (!success) {
            if (!in_place) kvi_pool_release(pages->pool, job->to.unit, to_units);
            continue;
        }
        if (in_place) kvi_pool_release(pages->pool, job->from.unit + to_units, from_units - to_units);
        else if (worth_holding(pages, page_of[i])) pages->held[g][page_of[i]] = job->from.unit;
        else kvi_pool_release(pages->pool, job->from.unit, from_units);
        pages->table[g][page_of[i]] = job->to;
        if (pages->n_committed[g] < page_of[i] + 1) pages->n_committed[g] = page_of[i] + 1;
    }
}

void kvi_pages_slide(kvi_pages *pages, uint32_t n)
{
    for (uint32_t g = 0; g < pages->n_groups; g++) {
        uint32_t window = pages->groups[g].window;
        if (!window || n < window) continue;
        /* A query at n sees positions above n - window. */
        uint32_t first = (n - window + 1) / KVI_KV_PAGE;
        for (uint32_t p = pages->first_page[g]; p < first && p < pages->n_pages[g]; p++) release_all(pages, g, p);
        if (pages->first_page[g] < first) pages->first_page[g] = first;
    }
}

/* True when group g still holds every page that a query at position n - 1 + anything later may see after a cut to n. */
static bool window_intact(const kvi_pages *pages, uint32_t g, uint32_t n)
{
    uint32_t window = pages->groups[g].window;
    if (!window || !pages->first_page[g]) return true;
    uint32_t first_seen = n >= window ? n - window + 1 : 0;
    return first_seen / KVI_KV_PAGE >= pages->first_page[g];
}

void kvi_pages_mark(kvi_pages *pages, uint32_t n)
{
    pages->mark = n;
    for (uint32_t g = 0; g < pages->n_groups; g++)
        for (uint32_t p = 0; p < pages->n_pages[g]; p++)
            if (!worth_holding(pages, p)) (void)release_held(pages, g, p);
}

bool kvi_pages_drop_held(kvi_pages *pages)
{
    bool any = false;
    for (uint32_t g = 0; g < pages->n_groups; g++)
        for (uint32_t p = 0; p < pages->n_pages[g]; p++) any = release_held(pages, g, p) || any;
    return any;
}

/* Held pages that are plain in a sequence of n positions take their place again. */
static void restore_held(kvi_pages *pages, uint32_t n)
{
    for (uint32_t g = 0; g < pages->n_groups; g++)
        for (uint32_t p = 0; p < pages->n_pages[g]; p++) {
            if (pages->held[g][p] == KVI_KV_NO_EXTENT || n >= due_at(pages, p)) continue;
            release(pages, g, &pages->table[g][p]);
            pages->table[g][p] = (kvi_page_ref){pages->held[g][p], kvi_pages_plain(&pages->groups[g])};
            pages->held[g][p] = KVI_KV_NO_EXTENT;
            if (pages->n_committed[g] > p) pages->n_committed[g] = p;
        }
}

uint32_t kvi_pages_rewind(kvi_pages *pages, uint32_t n)
{
    uint32_t keep = n;
    restore_held(pages, n);
    for (uint32_t g = 0; g < pages->n_groups; g++) {
        uint32_t page = keep / KVI_KV_PAGE;
        bool in_packed = keep % KVI_KV_PAGE && page < pages->n_pages[g] && !absent(&pages->table[g][page]) &&
                         !kvi_kv_format_is_plain(pages->table[g][page].format);
        if (in_packed) keep = page * KVI_KV_PAGE;
    }
    for (uint32_t g = 0; g < pages->n_groups; g++)
        if (!window_intact(pages, g, keep)) keep = 0;
    uint32_t n_keep = (keep + KVI_KV_PAGE - 1) / KVI_KV_PAGE;
    for (uint32_t g = 0; g < pages->n_groups; g++) {
        while (pages->n_pages[g] > n_keep) release_all(pages, g, --pages->n_pages[g]);
        if (pages->n_committed[g] > n_keep) pages->n_committed[g] = n_keep;
        if (pages->first_page[g] > n_keep) pages->first_page[g] = n_keep;
        if (!n_keep) pages->first_page[g] = 0;
    }
    return keep;
}

uint64_t kvi_pages_bytes(const kvi_pages *pages)
{
    uint64_t units = 0;
    for (uint32_t g = 0; g < pages->n_groups; g++)
        for (uint32_t p = 0; p < pages->n_pages[g]; p++) {
            const kvi_page_ref held = {pages->held[g][p], kvi_pages_plain(&pages->groups[g])};
            if (!absent(&pages->table[g][p])) units += units_of(pages, g, &pages->table[g][p]);
            if (!absent(&held)) units += units_of(pages, g, &held);
        }
    return units * KVI_KV_UNIT;
}

void kvi_pages_count(const kvi_pages *pages, uint32_t *n_pages, uint32_t *n_packed)
{
    *n_pages = *n_packed = 0;
    for (uint32_t g = 0; g < pages->n_groups; g++)
        for (uint32_t p = 0; p < pages->n_pages[g]; p++) {
            if (absent(&pages->table[g][p])) continue;
            ++*n_pages;
            *n_packed += !kvi_kv_format_is_plain(pages->table[g][p].format);
        }
}
