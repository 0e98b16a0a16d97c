/* pages.h - the page tables of one sequence: which extent and format holds which 128 positions of each cache group.
 * Owns the life of a page: page 0 is the sink, on which models put much of their attention, and stays plain; a page p is *committed*
 * (encoded) once n_accepted - 128 (p + 1) >= tail, as the latest positions are read most and may still be taken back; windowed groups
 * give back pages that no later query can see.
 * Encoding loses bits, so a sequence that goes back to where a page was plain is not what it was there. One place is likely: the end of the
 * prompt, the *mark*. Pages that were plain at the mark and are encoded later are held beside their codes, at most tail / 128 + 2 of each
 * group, and are back when the sequence is cut to the mark. Held pages are the first to go when the pool has no room. */
#ifndef KVI_KV_PAGES_H
#define KVI_KV_PAGES_H
#include "pool.h"
#include "layout.h"
#include "page.h"

typedef struct kvi_pages {
    kvi_pool *pool;
    const kvi_cache_group *groups; /* (n_groups) */
    uint32_t n_groups;
    uint32_t cap_pages;                   /* per group */
    uint32_t n_pages[KVI_MAX_GROUPS];     /* table length: pages below it exist or were given back */
    uint32_t first_page[KVI_MAX_GROUPS];  /* pages below it, the sink too, were given back by the window */
    uint32_t n_committed[KVI_MAX_GROUPS]; /* pages below it (sink excepted) are encoded */
    kvi_page_ref *table[KVI_MAX_GROUPS];  /* (cap_pages) */
    uint32_t *held[KVI_MAX_GROUPS];       /* (cap_pages) unit of the plain extent that a committed page had, or none */
    uint32_t mark;                        /* positions; 0: nothing is held */
    kvi_kv_format body;                   /* format of committed pages; plain: nothing is ever encoded */
    uint32_t tail;                        /* positions */
    bool elastic;         /* pages give up precision when the pool is full (elastic.h); body is plain then */
    uint32_t share_units; /* of an elastic sequence: what it may hold before it does */
} kvi_pages;

kvrt_status kvi_pages_init(kvi_pages *pages, kvi_pool *pool, const kvi_cache_group *groups, uint32_t n_groups,
                           uint32_t max_ctx, kvi_kv_format body, uint32_t tail, kvrt_error *error);
void kvi_pages_free(kvi_pages *pages); /* gives every extent back */

/* Plain format of a group. */
kvi_kv_format kvi_pages_plain(const kvi_cache_group *group);

/* Makes the tables cover positions [0, n). False when the pool has no room; then nothing has changed. Allocates no memory. */
bool kvi_pages_extend(kvi_pages *pages, uint32_t n);
/* Writes up to cap jobs that encode pages complete and old enough at n_accepted positions; targets are taken from the pool. Returns the
 * number of jobs. Call kvi_pages_committed with the same jobs after they ran. */
uint32_t kvi_pages_due(kvi_pages *pages, uint32_t n_accepted, kvi_page_job *jobs, uint32_t *page_of, uint32_t cap);
void kvi_pages_committed(kvi_pages *pages, const kvi_page_job *jobs, const uint32_t *page_of, uint32_t n, bool success);
/* Gives back pages that a query at position n or later cannot see. */
void kvi_pages_slide(kvi_pages *pages, uint32_t n);
/* Moves the mark to n positions; what the new one does not need is given back. */
void kvi_pages_mark(kvi_pages *pages, uint32_t n);
/* Gives back every held extent; false: there was none. */
bool kvi_pages_drop_held(kvi_pages *pages);
/* Positions that may stay when the sequence is cut to n: n itself, or the start of the page when n falls into an encoded one, or 0 when a
 * windowed group has already given back what a shorter sequence needs. Drops the pages beyond. */
uint32_t kvi_pages_rewind(kvi_pages *pages, uint32_t n);

uint64_t kvi_pages_bytes(const kvi_pages *pages);
void kvi_pages_count(const kvi_pages *pages, uint32_t *n_pages, uint32_t *n_packed);

#endif
