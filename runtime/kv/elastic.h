/* elastic.h - elastic precision: which pages give up precision when the pool is full; and, for pages of every kind, how free bytes that lie
 * apart become one hole. Decisions only; the engine moves and converts the bytes (engine/room.c).
 *
 *   level        0      1      2      3
 *   format      f16 -> i8 -> k4v4 -> k4v2
 *
 * THE RULE. A page may be demoted when it would be encoded in a cache of a fixed format: complete, accepted, older than the tail, not the
 * sink. Of these the next to go is the oldest (lowest position; then lowest group) of those at the lowest level number. So every page is
 * at i8 before the first goes to k4v4, precision never increases with age, and two pages differ by more than a level only while new ones
 * leave the tail. One level at a time, and never a page more than the bytes that are needed. */
#ifndef KVI_KV_ELASTIC_H
#define KVI_KV_ELASTIC_H
#include "pages.h"

#define KVI_ELASTIC_LEVELS 4u
kvi_kv_format kvi_elastic_format(uint32_t level);
/* KVI_ELASTIC_LEVELS when the format is none of an elastic cache. */
uint32_t kvi_elastic_level(uint32_t format);

/* Jobs (in place) that demote pages by one level until the freed ends reach `units`, at most `cap`, all of them to the same format; 0 when no
 * page has anything left to give. After they ran: kvi_pages_committed. */
uint32_t kvi_elastic_pick(const kvi_pages *pages, uint32_t n_accepted, uint32_t units, kvi_page_job *jobs,
                          uint32_t *page_of, uint32_t cap);
/* Units that a job gives back. */
uint32_t kvi_elastic_freed(const kvi_pages *pages, const kvi_page_job *job);

/* A page that may be moved; its contents do not change by that. */
typedef struct kvi_elastic_extent {
    uint32_t unit, units, group, page;
    kvi_pages *owner;
} kvi_elastic_extent;

/* Writes the extents of one sequence behind the first n of `out` and returns the new number, at most cap. */
uint32_t kvi_elastic_extents(kvi_pages *pages, kvi_elastic_extent *out, uint32_t n, uint32_t cap);
void kvi_elastic_sort(kvi_elastic_extent *extents, uint32_t n); /* by address */
/* The run of neighbouring extents, fewest units in all, that leaves a hole of at least `units` when each slides down to the one before it.
 * What is not in the list stays where it is. False when there is no such run. */
bool kvi_elastic_gather(const kvi_pool *pool, const kvi_elastic_extent *extents, uint32_t n, uint32_t units,
                        uint32_t *first, uint32_t *count);

#endif
