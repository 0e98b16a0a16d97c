/* prefix.c - see prefix.h. */
#include "prefix.h"

/* Page p of group g in a format, KVI_NO_PAGE: nowhere. */
static uint32_t page_in(const kvi_pages *pages, const kvi_prefix *prefix, uint32_t n, uint32_t g, uint32_t p,
                        kvi_kv_format format)
{
    const uint32_t end = (p + 1) * KVI_KV_PAGE, own = p < pages->n_pages[g] ? pages->ids[g][p] : KVI_NO_PAGE;
    if (own != KVI_NO_PAGE && end <= prefix->n_own && pages->store->pages[own].format == format) return own;
    if (end > n) return n == prefix->n_partial ? prefix->partial[g] : KVI_NO_PAGE;
    const uint32_t key = kvi_pages_key_of(pages, g, p, format);
    return key < prefix->n_keys ? kvi_store_find(pages->store, g, format, prefix->keys[key]) : KVI_NO_PAGE;
}

static uint32_t chunk_of(const kvi_prefix *prefix, uint32_t n) { return n / prefix->chunk * prefix->chunk; }

static uint32_t wanted(const kvi_pages *pages, const kvi_prefix *prefix, uint32_t n, uint32_t g, uint32_t p)
{
    return page_in(pages, prefix, n, g, p, kvi_pages_format_at(pages, g, p, chunk_of(prefix, n)));
}

/* First page that is missing for a sequence of n positions; their number when none is. *units: of all. */
static uint32_t first_missing(const kvi_pages *pages, const kvi_prefix *prefix, uint32_t n, uint64_t *units)
{
    const uint32_t n_pages = (n + KVI_KV_PAGE - 1) / KVI_KV_PAGE;
    *units = 0;
    for (uint32_t p = 0; p < n_pages; p++)
        for (uint32_t g = 0; g < pages->n_groups; g++) {
            if (p < kvi_pages_first_at(pages, g, chunk_of(prefix, n))) continue;
            const uint32_t id = wanted(pages, prefix, n, g, p);
            if (id == KVI_NO_PAGE) return p;
            *units += pages->store->pages[id].units;
        }
    return n_pages;
}

/* An elastic sequence that has more than its share would have demoted on the way. */
static bool fits_share(const kvi_pages *pages, uint64_t units)
{
    return !pages->elastic || units <= pages->share_units;
}

uint32_t kvi_prefix_state(const kvi_states *states, const kvi_prefix *prefix, uint32_t n)
{
    if (n == 0 || n % KVI_KV_PAGE || n / KVI_KV_PAGE > prefix->n_keys) return KVI_NO_PAGE;
    return kvi_store_find(states->store, KVI_MAX_GROUPS, 0, prefix->keys[n / KVI_KV_PAGE - 1]);
}

static bool has_state(const kvi_states *states, const kvi_prefix *prefix, uint32_t n)
{
    return !states->units || kvi_prefix_state(states, prefix, n) != KVI_NO_PAGE;
}

uint32_t kvi_prefix_find(const kvi_pages *pages, const kvi_states *states, const kvi_prefix *prefix, uint32_t most)
{
    uint64_t units;
    uint32_t n = prefix->n_partial;
    const bool partial = n > prefix->n_own && n <= most && !states->units;
    if (partial && first_missing(pages, prefix, n, &units) == (n + KVI_KV_PAGE - 1) / KVI_KV_PAGE &&
        fits_share(pages, units))
        return n;
    uint32_t n_pages = most / KVI_KV_PAGE < prefix->n_keys ? most / KVI_KV_PAGE : prefix->n_keys;
    while (n_pages * KVI_KV_PAGE > prefix->n_own) {
        n = n_pages * KVI_KV_PAGE;
        if (!has_state(states, prefix, n)) {
            n_pages--;
            continue;
        }
        const uint32_t missing = first_missing(pages, prefix, n, &units);
        if (missing == n_pages && fits_share(pages, units)) return n;
        /* A missing page may be there in the format that a shorter sequence has; one that nobody has in any ends the search above it. */
        bool anywhere = missing == n_pages;
        for (uint32_t g = 0; g < pages->n_groups && !anywhere; g++)
            anywhere = page_in(pages, prefix, n, g, missing, kvi_group_plain(&pages->groups[g])) != KVI_NO_PAGE ||
                       page_in(pages, prefix, n, g, missing, pages->body) != KVI_NO_PAGE;
        n_pages = anywhere ? n_pages - 1 : missing;
    }
    return prefix->n_own;
}

void kvi_prefix_take(kvi_pages *pages, const kvi_prefix *prefix, uint32_t n)
{
    const uint32_t n_pages = (n + KVI_KV_PAGE - 1) / KVI_KV_PAGE, chunk = chunk_of(prefix, n);
    for (uint32_t g = 0; g < pages->n_groups; g++) {
        const uint32_t first = kvi_pages_first_at(pages, g, chunk);
        for (uint32_t p = 0; p < n_pages; p++)
            kvi_pages_put(pages, g, p, p < first ? KVI_NO_PAGE : wanted(pages, prefix, n, g, p));
        pages->first_page[g] = first < n_pages ? first : n_pages;
        pages->n_encoded[g] = 0;
        for (uint32_t p = 1; p < n_pages; p++)
            if (!kvi_kv_format_is_plain(kvi_pages_format_at(pages, g, p, chunk))) pages->n_encoded[g] = p + 1;
    }
}
