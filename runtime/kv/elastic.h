/* elastic.h - elastic precision: which pages give up precision when the pool is full. Decisions only; the engine converts the bytes
 * (engine/room.c).
 *
 *   level        0      1      2      3
 *   format      f16 -> i8 -> k4v4 -> k4v2
 *
 * THE RULE. A page may be demoted when it would be encoded in a cache of a fixed format: complete, accepted, older than the tail, not the
 * sink. Of these the next to go is the oldest (lowest position; then lowest group) of those at the lowest level number. So every page is
 * at i8 before the first goes to k4v4, precision never increases with age, and two pages differ by more than a level only while new ones
 * leave the tail. One level at a time, and never a page more than the bytes that are needed.
 *
 * A SHARED PAGE counts in full against the share of each session that holds it, and a session that demotes it gets a copy of its own, while the
 * others keep theirs. So a session demotes when it would alone, and no other changes what it reads. What sharing saves is free in the pool;
 * and as every page is counted at least once, shares that fit the pool still do. */
#ifndef KVI_KV_ELASTIC_H
#define KVI_KV_ELASTIC_H
#include "pages.h"

#define KVI_ELASTIC_LEVELS 4u
kvi_kv_format kvi_elastic_format(uint32_t level);
/* KVI_ELASTIC_LEVELS when the format is none of an elastic cache. */
uint32_t kvi_elastic_level(uint32_t format);

/* Jobs that demote pages by one level until the sequence holds `units` less, at most `cap`, all of them to the same format; in place, but for
 * pages that others hold too. 0 when no page has anything left to give, or when the next one is held by others too and the pool has no hole
 * of *lacking units (else 0) for its copy. After they ran: kvi_pages_converted. */
uint32_t kvi_elastic_pick(kvi_pages *pages, uint32_t n_accepted, uint32_t units, kvi_page_job *jobs, uint32_t *page_of,
                          uint32_t cap, uint32_t *lacking);
/* Units that the sequence holds less after a job. */
uint32_t kvi_elastic_freed(const kvi_pages *pages, const kvi_page_job *job);

#endif
