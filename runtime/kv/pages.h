/* pages.h - the page tables of one sequence: which page of the store holds which 128 positions of each cache group.
 * Owns the life of a page in a sequence: page 0 is the sink, on which models put much of their attention, and stays plain; a page p is
 * *encoded* once n_accepted - 128 (p + 1) >= tail, as the latest positions are read most and may still be taken back; windowed groups
 * give back pages that no later query can see.
 * Encoding loses bits, so a sequence that goes back to where a page was plain is not what it was there. One place is likely: the end of the
 * prompt, the *mark*. Pages that were plain at the mark and are encoded later are remembered beside their codes, at most tail / 128 + 2 of each
 * group, and are back when the sequence is cut to the mark. They are idle in the store: the first to go when the pool has no room.
 * Where pages keep their queries (page.h), codes of K are shaped by the queries of the page and of its successor, which a tail of a page or more
 * always has; with a shorter one by the page's own alone. So a page's codes rest on the tokens up to its successor's end: whoever finds pages by
 * their tokens (key.h) counts those in, and a sequence that is cut before that end computes the page again. */
#ifndef KVI_KV_PAGES_H
#define KVI_KV_PAGES_H
#include "store.h"

typedef struct kvi_pages {
    kvi_store *store;
    const kvi_cache_group *groups; /* (n_groups) measured */
    uint32_t n_groups;
    uint32_t cap_pages;                  /* per group */
    uint32_t n_pages[KVI_MAX_GROUPS];    /* table length: pages below it exist or were given back */
    uint32_t first_page[KVI_MAX_GROUPS]; /* pages below it, the sink too, were given back by the window */
    uint32_t n_encoded[KVI_MAX_GROUPS];  /* pages below it (sink excepted) are encoded */
    uint32_t *ids[KVI_MAX_GROUPS];       /* (cap_pages) KVI_NO_PAGE: given back */
    kvi_page_ref *refs[KVI_MAX_GROUPS];  /* (cap_pages) scratch of kvi_pages_refs */
    kvi_memo *plain[KVI_MAX_GROUPS];     /* (cap_pages) what an encoded page was at the mark */
    uint32_t mark;                       /* positions; 0: nothing is remembered */
    kvi_kv_format body;                  /* format of encoded pages; plain: nothing is ever encoded */
    uint32_t tail;                       /* positions */
    bool elastic;         /* pages give up precision when the pool is full (elastic.h); body is plain then */
    uint32_t share_units; /* of an elastic sequence: what it may hold before it does */
} kvi_pages;

kvrt_status kvi_pages_init(kvi_pages *pages, kvi_store *store, const kvi_cache_group *groups, uint32_t n_groups,
                           uint32_t max_ctx, kvi_kv_format body, uint32_t tail, kvrt_error *error);
void kvi_pages_free(kvi_pages *pages);                              /* drops every page */
uint64_t kvi_pages_host_bytes(uint32_t n_groups, uint64_t max_ctx); /* what init takes */

/* Where page p of group g stands now; unit KVI_KV_NO_EXTENT when it was given back. */
kvi_page_ref kvi_pages_at(const kvi_pages *pages, uint32_t g, uint32_t p);
/* The tables of a step, (n_groups) -> (n_pages), as of now: pages move and change between steps. */
void kvi_pages_refs(kvi_pages *pages, const kvi_page_ref *tables[KVI_MAX_GROUPS]);

/* Makes the tables cover positions [0, n). False when the pool has no room; then nothing has changed. Allocates no memory. */
bool kvi_pages_extend(kvi_pages *pages, uint32_t n);
/* Pool units of one more page in every group. */
uint32_t kvi_pages_row_units(const kvi_pages *pages);

/* Publishes page p of every group under `key`; where another page has the key already, that one takes its place. */
void kvi_pages_publish(kvi_pages *pages, uint32_t p, kvi_page_key key);
/* Page p of group g alone, in whatever format, under the key that belongs to it. */
void kvi_pages_publish_one(kvi_pages *pages, uint32_t g, uint32_t p, kvi_page_key key);
/* Which page's key the content of page p in a format has: its own, or its successor's where that has shaped the codes. */
uint32_t kvi_pages_key_of(const kvi_pages *pages, uint32_t g, uint32_t p, kvi_kv_format format);
/* Puts page `id` (KVI_NO_PAGE: given back) at p <= the length of the table, with a reference of its own. */
void kvi_pages_put(kvi_pages *pages, uint32_t g, uint32_t p, uint32_t id);

/* What a sequence that has just accepted n positions has: the format of page p, and the first page that its window still holds. */
kvi_kv_format kvi_pages_format_at(const kvi_pages *pages, uint32_t g, uint32_t p, uint32_t n);
uint32_t kvi_pages_first_at(const kvi_pages *pages, uint32_t g, uint32_t n);
/* Whether every page that is there has the format that it has at n positions. */
bool kvi_pages_are_as_at(const kvi_pages *pages, uint32_t n);

/* Pool units that encoding the next page beside it takes, once n_accepted positions are there; 0: none is due. */
uint32_t kvi_pages_due_units(const kvi_pages *pages, uint32_t n_accepted);
/* Whether no page will be due at n_accepted positions that is not encoded now. */
bool kvi_pages_none_due(const kvi_pages *pages, uint32_t n_accepted);
/* Writes up to cap jobs that encode pages complete and old enough at n_accepted positions; targets are taken from the pool. Returns the
 * number of jobs. Call kvi_pages_converted with the same jobs after they ran. */
uint32_t kvi_pages_due(kvi_pages *pages, uint32_t n_accepted, kvi_page_job *jobs, uint32_t *page_of, uint32_t cap);
/* A job for page p of group g: beside it where there is room and `beside` asks for it or others hold the page, else in place. False when others
 * hold it and there is no room: what several hold is not converted under them. */
bool kvi_pages_job(kvi_pages *pages, uint32_t g, uint32_t p, kvi_kv_format to, bool beside, kvi_page_job *job);
void kvi_pages_converted(kvi_pages *pages, const kvi_page_job *jobs, const uint32_t *page_of, uint32_t n, bool success);

/* Gives back pages that a query at position n or later cannot see. */
void kvi_pages_expire(kvi_pages *pages, uint32_t n);
/* Moves the mark to n positions; what the new one does not need is forgotten. */
void kvi_pages_mark(kvi_pages *pages, uint32_t n);
/* Positions that may stay when the sequence is cut to n: n itself, or the start of the page when n falls into an encoded one or into the successor
 * that shaped it, or 0 when a windowed group has already given back what a shorter sequence needs. Drops the pages beyond. n_same >= n: leading
 * tokens that stay what they are, although those from n on are to be computed again. */
uint32_t kvi_pages_rewind(kvi_pages *pages, uint32_t n, uint32_t n_same);
/* Drops pages [first, first + n), and closes the gap: those behind become first, first + 1, .... Page 0 stays in the table, but groups that the
 * window took it from. The mark and what is remembered move along, or are forgotten. */
void kvi_pages_drop_middle(kvi_pages *pages, uint32_t first, uint32_t n);
/* Before page 0 is written anew: a plain page in every group that is nobody else's, its content undefined. False: no room; what was replaced
 * stays so. */
bool kvi_pages_renew_sink(kvi_pages *pages);
/* It was: groups whose window is past it give it back. */
void kvi_pages_sink_renewed(kvi_pages *pages);
/* Whether codes of the group's pages follow from their successors' tokens too, so that those of page p have the key of page p + 1. */
bool kvi_pages_shape_others(const kvi_pages *pages, uint32_t g);
/* Positions whose tokens the content of page p follows from. */
uint64_t kvi_pages_rests_on(const kvi_pages *pages, uint32_t g, uint32_t p);

/* Makes `to`, an empty sequence of the same model and cache, hold the first n positions of `from`: the same pages, one reference more, the same
 * mark and what is remembered for it. Its tokens must be the same up to where those pages rest on them. */
void kvi_pages_share(kvi_pages *to, const kvi_pages *from, uint32_t n);
/* Before position n is written: the page of group g that it falls into becomes the sequence's own. When others hold it too, that is a new page,
 * and *copy tells what the caller must copy before anything else (units 0: nothing). False: no room for it. */
bool kvi_pages_own(kvi_pages *pages, uint32_t g, uint32_t n, kvi_extent_copy *copy);

/* Pool bytes of the sequence, what it remembers included. A page that others hold too counts in full. */
uint64_t kvi_pages_bytes(const kvi_pages *pages);
/* Pages held; of these, encoded ones, and those that others hold too. */
void kvi_pages_count(const kvi_pages *pages, uint32_t *n_pages, uint32_t *n_packed, uint32_t *n_shared);

#endif
