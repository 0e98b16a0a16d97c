/* pages.c - see pages.h. */
#include "pages.h"
#include "../base/mem.h"

#include <string.h>

static kvi_page *page_of_table(const kvi_pages *pages, uint32_t g, uint32_t p)
{
    const uint32_t id = pages->ids[g][p];
    return id == KVI_NO_PAGE ? NULL : &pages->store->pages[id];
}

static void drop(kvi_pages *pages, uint32_t g, uint32_t p)
{
    if (pages->ids[g][p] != KVI_NO_PAGE) kvi_store_drop(pages->store, pages->ids[g][p]);
    pages->ids[g][p] = KVI_NO_PAGE;
}

static void forget_plain(kvi_pages *pages, uint32_t g, uint32_t p)
{
    (void)kvi_store_forget(pages->store, pages->plain[g][p]);
    pages->plain[g][p] = (kvi_memo){0, 0};
}

/* Positions at which page p is encoded. */
static uint64_t due_at(const kvi_pages *pages, uint32_t p) { return (uint64_t)KVI_KV_PAGE * (p + 1) + pages->tail; }

kvi_kv_format kvi_pages_format_at(const kvi_pages *pages, uint32_t g, uint32_t p, uint32_t n)
{
    const bool encoded = p > 0 && !kvi_kv_format_is_plain(pages->body) && due_at(pages, p) <= n;
    return encoded ? pages->body : kvi_group_plain(&pages->groups[g]);
}

uint32_t kvi_pages_first_at(const kvi_pages *pages, uint32_t g, uint32_t n)
{
    const uint32_t window = pages->groups[g].window;
    return window && n >= window ? (n - window + 1) / KVI_KV_PAGE
                                 : 0; /* a query at n sees positions above n - window */
}

bool kvi_pages_shape_others(const kvi_pages *pages, uint32_t g)
{
    return pages->groups[g].n_queries && pages->tail >= KVI_KV_PAGE;
}

uint64_t kvi_pages_rests_on(const kvi_pages *pages, uint32_t g, uint32_t p)
{
    const kvi_page *page = page_of_table(pages, g, p);
    const bool shaped = page && !kvi_kv_format_is_plain(page->format) && kvi_pages_shape_others(pages, g);
    return (uint64_t)KVI_KV_PAGE * (p + (shaped ? 2 : 1));
}

/* The page has positions below the mark, and was plain there. */
static bool worth_remembering(const kvi_pages *pages, uint32_t p)
{
    return (uint64_t)KVI_KV_PAGE * p < pages->mark && pages->mark < due_at(pages, p);
}

uint64_t kvi_pages_host_bytes(uint32_t n_groups, uint64_t max_ctx)
{
    const uint64_t cap = (max_ctx + KVI_KV_PAGE - 1) / KVI_KV_PAGE;
    return n_groups * cap * (sizeof(uint32_t) + sizeof(kvi_page_ref) + sizeof(kvi_memo));
}

kvrt_status kvi_pages_init(kvi_pages *pages, kvi_store *store, const kvi_cache_group *groups, uint32_t n_groups,
                           uint32_t max_ctx, kvi_kv_format body, uint32_t tail, kvrt_error *error)
{
    memset(pages, 0, sizeof *pages);
    pages->store = store;
    pages->groups = groups;
    pages->n_groups = n_groups;
    pages->body = body;
    pages->tail = tail;
    pages->cap_pages = (max_ctx + KVI_KV_PAGE - 1) / KVI_KV_PAGE;
    for (uint32_t g = 0; g < n_groups; g++) {
        pages->ids[g] = kvi_mem_zalloc(pages->cap_pages, sizeof *pages->ids[g]);
        pages->refs[g] = kvi_mem_zalloc(pages->cap_pages, sizeof *pages->refs[g]);
        pages->plain[g] = kvi_mem_zalloc(pages->cap_pages, sizeof *pages->plain[g]);
        if (!pages->ids[g] || !pages->refs[g] || !pages->plain[g]) {
            kvi_pages_free(pages);
            return kvi_error_nomem(error, kvi_pages_host_bytes(n_groups, max_ctx), "page table");
        }
    }
    return KVRT_OK;
}

void kvi_pages_free(kvi_pages *pages)
{
    for (uint32_t g = 0; g < pages->n_groups; g++) {
        /* From the end, so that what is cached of it goes from the end too: a prefix is of use without what follows it. */
        for (uint32_t p = pages->n_pages[g]; p-- > 0;) {
            forget_plain(pages, g, p);
            drop(pages, g, p);
        }
        kvi_mem_free(pages->ids[g]);
        kvi_mem_free(pages->refs[g]);
        kvi_mem_free(pages->plain[g]);
    }
    memset(pages, 0, sizeof *pages);
}

kvi_page_ref kvi_pages_at(const kvi_pages *pages, uint32_t g, uint32_t p)
{
    return kvi_store_ref(pages->store, pages->ids[g][p]);
}

void kvi_pages_refs(kvi_pages *pages, const kvi_page_ref *tables[KVI_MAX_GROUPS])
{
    for (uint32_t g = 0; g < pages->n_groups; g++) {
        for (uint32_t p = 0; p < pages->n_pages[g]; p++) pages->refs[g][p] = kvi_pages_at(pages, g, p);
        tables[g] = pages->refs[g];
    }
}

/* ------------------------------------------------------------------------------------------------------- publishing --- */
/* Of two pages with the same content one stays. */
static void publish(kvi_pages *pages, uint32_t g, uint32_t p, kvi_page_key key)
{
    const uint32_t id = pages->ids[g][p], known = kvi_store_publish(pages->store, id, key);
    if (known == id) return;
    kvi_store_share(pages->store, known);
    kvi_store_drop(pages->store, id);
    pages->ids[g][p] = known;
}

void kvi_pages_publish(kvi_pages *pages, uint32_t p, kvi_page_key key)
{
    for (uint32_t g = 0; g < pages->n_groups; g++)
        if (p < pages->n_pages[g] && pages->ids[g][p] != KVI_NO_PAGE) publish(pages, g, p, key);
}

void kvi_pages_publish_one(kvi_pages *pages, uint32_t g, uint32_t p, kvi_page_key key) { publish(pages, g, p, key); }

uint32_t kvi_pages_key_of(const kvi_pages *pages, uint32_t g, uint32_t p, kvi_kv_format format)
{
    return p + (!kvi_kv_format_is_plain(format) && kvi_pages_shape_others(pages, g) ? 1 : 0);
}

/* ---------------------------------------------------------------------------------------------------------- growing --- */
uint32_t kvi_pages_row_units(const kvi_pages *pages)
{
    uint32_t units = 0;
    for (uint32_t g = 0; g < pages->n_groups; g++)
        units += kvi_group_units(&pages->groups[g], kvi_group_plain(&pages->groups[g]));
    return units;
}

static uint32_t take_plain(kvi_pages *pages, uint32_t g)
{
    const kvi_cache_group *group = &pages->groups[g];
    const kvi_kv_format plain = kvi_group_plain(group);
    const uint32_t units = kvi_group_units(group, plain);
    (void)kvi_store_free_cached(pages->store, units);
    return kvi_store_take(pages->store, g, plain, units, true);
}

bool kvi_pages_extend(kvi_pages *pages, uint32_t n)
{
    uint32_t need = (n + KVI_KV_PAGE - 1) / KVI_KV_PAGE, before[KVI_MAX_GROUPS];
    if (need > pages->cap_pages) return false;
    for (uint32_t g = 0; g < pages->n_groups; g++) before[g] = pages->n_pages[g];
    for (uint32_t g = 0; g < pages->n_groups; g++)
        while (pages->n_pages[g] < need) {
            const uint32_t id = take_plain(pages, g);
            if (id == KVI_NO_PAGE) {
                for (uint32_t k = 0; k <= g; k++)
                    while (pages->n_pages[k] > before[k]) drop(pages, k, --pages->n_pages[k]);
                return false;
            }
            pages->ids[g][pages->n_pages[g]++] = id;
        }
    return true;
}

/* ------------------------------------------------------------------------------------------------------- converting --- */
bool kvi_pages_job(kvi_pages *pages, uint32_t g, uint32_t p, kvi_kv_format to, bool beside, kvi_page_job *job)
{
    const kvi_page *page = page_of_table(pages, g, p);
    const bool shared = page->refs > 1;
    const uint32_t units = kvi_group_units(&pages->groups[g], to);
    uint32_t unit = KVI_KV_NO_EXTENT;
    if (beside || shared) {
        (void)kvi_store_free_cached(pages->store, units);
        unit = kvi_pool_take(&pages->store->pool, units);
    }
    if (unit == KVI_KV_NO_EXTENT && shared) return false;
    /* Without room beside it, the page is converted in place: a record is never longer than what it replaces. */
    if (unit == KVI_KV_NO_EXTENT) unit = page->unit;
    *job =
        (kvi_page_job){.group = g, .from = {page->unit, page->format}, .to = {unit, to}, .next = {KVI_KV_NO_EXTENT, 0}};
    return true;
}

uint32_t kvi_pages_due_units(const kvi_pages *pages, uint32_t n_accepted)
{
    uint32_t most = 0;
    if (kvi_kv_format_is_plain(pages->body)) return 0;
    for (uint32_t g = 0; g < pages->n_groups; g++) {
        const uint32_t p = pages->n_encoded[g] > 1 ? pages->n_encoded[g] : 1,
                       units = kvi_group_units(&pages->groups[g], pages->body);
        if (p < pages->n_pages[g] && due_at(pages, p) <= n_accepted && units > most) most = units;
    }
    return most;
}

bool kvi_pages_none_due(const kvi_pages *pages, uint32_t n_accepted)
{
    for (uint32_t g = 0; g < pages->n_groups && !kvi_kv_format_is_plain(pages->body); g++)
        if (due_at(pages, pages->n_encoded[g] > 1 ? pages->n_encoded[g] : 1) <= n_accepted) return false;
    return true;
}

bool kvi_pages_are_as_at(const kvi_pages *pages, uint32_t n)
{
    for (uint32_t g = 0; g < pages->n_groups; g++)
        for (uint32_t p = 0; p < pages->n_pages[g]; p++) {
            const kvi_page *page = page_of_table(pages, g, p);
            if (page && page->format != kvi_pages_format_at(pages, g, p, n)) return false;
        }
    return true;
}

/* The page behind p, when it is complete and keeps its queries. */
static kvi_page_ref successor(const kvi_pages *pages, uint32_t g, uint32_t p, uint32_t n_accepted)
{
    const kvi_page *page = p + 1 < pages->n_pages[g] ? page_of_table(pages, g, p + 1) : NULL;
    const bool keeps = page && pages->groups[g].n_queries && kvi_kv_format_is_plain(page->format) &&
                       (uint64_t)KVI_KV_PAGE * (p + 2) <= n_accepted;
    return keeps ? (kvi_page_ref){page->unit, page->format} : (kvi_page_ref){KVI_KV_NO_EXTENT, 0};
}

uint32_t kvi_pages_due(kvi_pages *pages, uint32_t n_accepted, kvi_page_job *jobs, uint32_t *page_of, uint32_t cap)
{
    uint32_t n = 0;
    if (kvi_kv_format_is_plain(pages->body)) return 0;
    for (uint32_t g = 0; g < pages->n_groups; g++) {
        uint32_t p = pages->n_encoded[g] > 1 ? pages->n_encoded[g] : 1; /* page 0 is the sink */
        for (; n < cap && p < pages->n_pages[g] && due_at(pages, p) <= n_accepted; p++) {
            const kvi_page *page = page_of_table(pages, g, p);
            if (!page) continue;                                 /* already out of its window */
            if (!kvi_kv_format_is_plain(page->format)) continue; /* one below it was remembered, and is plain again */
            if (!kvi_pages_job(pages, g, p, pages->body, true, &jobs[n])) break; /* later ones wait with it */
            if (kvi_pages_shape_others(pages, g)) jobs[n].next = successor(pages, g, p, n_accepted);
            page_of[n++] = p;
        }
    }
    return n;
}

/* What codes follow from: the page's tokens, and its successor's where these shaped them. None: the page or its successor has no key. */
static kvi_page_key key_of_codes(const kvi_pages *pages, const kvi_page_job *job, uint32_t p)
{
    const kvi_page_key none = {0, 0}, own = pages->store->pages[pages->ids[job->group][p]].key;
    if (!kvi_key_is_set(own) || !kvi_pages_shape_others(pages, job->group)) return own;
    return job->next.unit == KVI_KV_NO_EXTENT ? none : pages->store->pages[pages->ids[job->group][p + 1]].key;
}

void kvi_pages_converted(kvi_pages *pages, const kvi_page_job *jobs, const uint32_t *page_of, uint32_t n, bool success)
{
    for (uint32_t i = 0; i < n; i++) {
        const kvi_page_job *job = &jobs[i];
        const uint32_t g = job->group, p = page_of[i], id = pages->ids[g][p],
                       units = kvi_group_units(&pages->groups[g], (kvi_kv_format)job->to.format);
        const bool in_place = job->from.unit == job->to.unit;
        if (!success) {
            if (!in_place) kvi_pool_release(&pages->store->pool, job->to.unit, units);
            continue;
        }
        const kvi_page_key key = key_of_codes(pages, job, p), plain_key = pages->store->pages[id].key;
        const bool remember = !in_place && worth_remembering(pages, p),
                   stays = remember || (!in_place && kvi_key_is_set(plain_key));
        if (stays) kvi_store_share(pages->store, id);
        pages->ids[g][p] = kvi_store_convert(pages->store, id, job->to, units);
        if (remember) pages->plain[g][p] = kvi_store_remember(pages->store, id, true);
        if (stays) kvi_store_drop(pages->store, id);
        if (kvi_key_is_set(key) && !pages->elastic) publish(pages, g, p, key);
        if (pages->n_encoded[g] < p + 1) pages->n_encoded[g] = p + 1;
    }
}

/* ------------------------------------------------------------------------------------------------------- giving back --- */
void kvi_pages_expire(kvi_pages *pages, uint32_t n)
{
    for (uint32_t g = 0; g < pages->n_groups; g++) {
        const uint32_t first = kvi_pages_first_at(pages, g, n);
        for (uint32_t p = pages->first_page[g]; p < first && p < pages->n_pages[g]; p++) {
            forget_plain(pages, g, p);
            drop(pages, g, p);
        }
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
            if (!worth_remembering(pages, p)) forget_plain(pages, g, p);
}

/* Remembered pages that are plain in a sequence of n positions take their place again. */
static void restore_plain(kvi_pages *pages, uint32_t n)
{
    for (uint32_t g = 0; g < pages->n_groups; g++)
        for (uint32_t p = 0; p < pages->n_pages[g]; p++) {
            if (n >= due_at(pages, p)) continue;
            const uint32_t id = kvi_store_take_back(pages->store, pages->plain[g][p]);
            pages->plain[g][p] = (kvi_memo){0, 0};
            if (id == KVI_NO_PAGE) continue;
            drop(pages, g, p);
            pages->ids[g][p] = id;
            if (pages->n_encoded[g] > p) pages->n_encoded[g] = p;
        }
}

/* Positions below n whose codes are what n_same tokens make them: up to the first packed page that is cut, or that was shaped by a token beyond, or
 * that stands behind a page which is plain again and will want its queries. */
static uint32_t whole(const kvi_pages *pages, uint32_t g, uint32_t n, uint32_t n_same)
{
    bool after_plain = false;
    for (uint32_t p = 1; p < pages->n_pages[g] && p * KVI_KV_PAGE < n; p++) {
        const kvi_page *page = page_of_table(pages, g, p);
        if (!page) continue;
        const bool packed = !kvi_kv_format_is_plain(page->format), shaped = pages->groups[g].n_queries > 0;
        if (packed &&
            (n < (p + 1) * KVI_KV_PAGE || kvi_pages_rests_on(pages, g, p) > n_same || (shaped && after_plain)))
            return p * KVI_KV_PAGE;
        after_plain = after_plain || !packed;
    }
    return n;
}

uint32_t kvi_pages_rewind(kvi_pages *pages, uint32_t n, uint32_t n_same)
{
    uint32_t keep = n;
    if (n_same < n) n_same = n;
    restore_plain(pages, n);
    for (uint32_t g = 0; g < pages->n_groups; g++) {
        const uint32_t most = whole(pages, g, n, n_same);
        if (most < keep) keep = most;
    }
    for (uint32_t g = 0; g < pages->n_groups; g++)
        if (!window_intact(pages, g, keep)) keep = 0;
    uint32_t n_keep = (keep + KVI_KV_PAGE - 1) / KVI_KV_PAGE;
    for (uint32_t g = 0; g < pages->n_groups; g++) {
        while (pages->n_pages[g] > n_keep) {
            const uint32_t p = --pages->n_pages[g];
            forget_plain(pages, g, p);
            drop(pages, g, p);
        }
        if (pages->n_encoded[g] > n_keep) pages->n_encoded[g] = n_keep;
        if (pages->first_page[g] > n_keep) pages->first_page[g] = n_keep;
        if (!n_keep) pages->first_page[g] = 0;
    }
    return keep;
}

/* --------------------------------------------------------------------------------------------------------- dropping --- */
static uint32_t moved_down(uint32_t at, uint32_t first, uint32_t n)
{
    return at >= first + n ? at - n : at < first ? at : first;
}

void kvi_pages_drop_middle(kvi_pages *pages, uint32_t first, uint32_t n)
{
    const uint32_t end = (first + n) * KVI_KV_PAGE;
    kvi_pages_mark(pages, pages->mark >= end ? pages->mark : 0);
    for (uint32_t g = 0; g < pages->n_groups; g++) {
        for (uint32_t p = first; p < first + n; p++) {
            forget_plain(pages, g, p);
            drop(pages, g, p);
        }
        for (uint32_t p = first + n; p < pages->n_pages[g]; p++) {
            pages->ids[g][p - n] = pages->ids[g][p];
            pages->plain[g][p - n] = pages->plain[g][p];
            pages->ids[g][p] = KVI_NO_PAGE;
            pages->plain[g][p] = (kvi_memo){0, 0};
        }
        pages->n_pages[g] -= n;
        pages->n_encoded[g] = moved_down(pages->n_encoded[g], first, n);
        /* A window that had reached into what is dropped now reaches page 0. */
        pages->first_page[g] = pages->first_page[g] > first + n ? pages->first_page[g] - n : 0;
    }
    if (pages->mark) pages->mark -= n * KVI_KV_PAGE;
}

bool kvi_pages_renew_sink(kvi_pages *pages)
{
    for (uint32_t g = 0; g < pages->n_groups; g++) {
        const kvi_page *page = page_of_table(pages, g, 0);
        if (page && page->refs == 1) {
            kvi_store_renew(pages->store, pages->ids[g][0]);
            continue;
        }
        const uint32_t id = take_plain(pages, g);
        if (id == KVI_NO_PAGE) return false;
        drop(pages, g, 0);
        pages->ids[g][0] = id;
    }
    return true;
}

void kvi_pages_sink_renewed(kvi_pages *pages)
{
    for (uint32_t g = 0; g < pages->n_groups; g++)
        if (pages->first_page[g] > 0) drop(pages, g, 0);
}

/* ---------------------------------------------------------------------------------------------------------- sharing --- */
void kvi_pages_put(kvi_pages *pages, uint32_t g, uint32_t p, uint32_t id)
{
    if (p < pages->n_pages[g] && pages->ids[g][p] == id) return;
    if (id != KVI_NO_PAGE) kvi_store_share(pages->store, id);
    if (p < pages->n_pages[g]) {
        forget_plain(pages, g, p);
        drop(pages, g, p);
    } else pages->n_pages[g] = p + 1;
    pages->ids[g][p] = id;
}

void kvi_pages_share(kvi_pages *to, const kvi_pages *from, uint32_t n)
{
    const uint32_t n_pages = (n + KVI_KV_PAGE - 1) / KVI_KV_PAGE;
    for (uint32_t g = 0; g < from->n_groups; g++) {
        for (uint32_t p = 0; p < n_pages; p++) {
            to->ids[g][p] = from->ids[g][p];
            if (to->ids[g][p] != KVI_NO_PAGE) kvi_store_share(to->store, to->ids[g][p]);
            const uint32_t plain = kvi_store_recall(from->store, from->plain[g][p]);
            if (plain != KVI_NO_PAGE) to->plain[g][p] = kvi_store_remember(to->store, plain, true);
        }
        to->n_pages[g] = n_pages;
        to->first_page[g] = from->first_page[g] < n_pages ? from->first_page[g] : n_pages;
        to->n_encoded[g] = from->n_encoded[g] < n_pages ? from->n_encoded[g] : n_pages;
    }
    to->mark = from->mark;
}

bool kvi_pages_own(kvi_pages *pages, uint32_t g, uint32_t n, kvi_extent_copy *copy)
{
    const uint32_t p = n / KVI_KV_PAGE;
    kvi_page *page = n % KVI_KV_PAGE && p < pages->n_pages[g] ? page_of_table(pages, g, p) : NULL;
    *copy = (kvi_extent_copy){0, 0, 0};
    if (!page) return true;
    if (page->refs == 1) {
        kvi_store_renew(pages->store, pages->ids[g][p]); /* who found or remembered it meant what now changes */
        return true;
    }
    const uint32_t id = take_plain(pages, g);
    if (id == KVI_NO_PAGE) return false;
    *copy = (kvi_extent_copy){page->unit, pages->store->pages[id].unit, page->units};
    kvi_store_drop(pages->store, pages->ids[g][p]);
    pages->ids[g][p] = id;
    return true;
}

/* --------------------------------------------------------------------------------------------------------- counting --- */
uint64_t kvi_pages_bytes(const kvi_pages *pages)
{
    uint64_t units = 0;
    for (uint32_t g = 0; g < pages->n_groups; g++)
        for (uint32_t p = 0; p < pages->n_pages[g]; p++) {
            const kvi_page *page = page_of_table(pages, g, p);
            const uint32_t plain = kvi_store_recall(pages->store, pages->plain[g][p]);
            if (page) units += page->units;
            if (plain != KVI_NO_PAGE) units += pages->store->pages[plain].units;
        }
    return units * KVI_KV_UNIT;
}

void kvi_pages_count(const kvi_pages *pages, uint32_t *n_pages, uint32_t *n_packed, uint32_t *n_shared)
{
    *n_pages = *n_packed = *n_shared = 0;
    for (uint32_t g = 0; g < pages->n_groups; g++)
        for (uint32_t p = 0; p < pages->n_pages[g]; p++) {
            const kvi_page *page = page_of_table(pages, g, p);
            if (!page) continue;
            ++*n_pages;
            *n_packed += !kvi_kv_format_is_plain(page->format);
            *n_shared += page->refs > 1;
        }
}
