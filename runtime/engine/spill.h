/* spill.h - pages of sessions that nobody uses leave the pool for a tier (kv/tier.h) and come back when the session is used: by request, and
 * least recently used first when another session lacks room. The host sees nothing of it but time.
 *
 * A session that is *away* holds no page: its tables are empty, a list says what stood where, under which name, with which checksum. What it
 * shares with others stays where they hold it, and is shared again on the way back if it is still there; what several that are away have in
 * common is in the tier once. A tier may lose pages: then the session is cut in front of the first one that is missing or damaged, and what is
 * behind is computed again. */
#ifndef KVI_SPILL_H
#define KVI_SPILL_H
#include "../kv/store.h"
#include "../kv/tier.h"

struct kvi_engine;
struct kvi_session;

typedef struct kvi_away_page {
    uint32_t group, index; /* group KVI_MAX_GROUPS: the live state */
    kvi_kv_format format;
    uint32_t units;
    kvi_page_key key; /* it was published under; zero: it was not */
    kvi_memo memo;    /* the object, as long as others hold it */
    kvi_tier_name name;
    uint64_t sum;
} kvi_away_page;

typedef struct kvi_away {
    kvi_away_page *pages; /* (n); NULL: the session is here */
    uint32_t n;
    uint64_t bytes;
} kvi_away;

typedef struct kvi_spill {
    kvi_tier *tier; /* NULL: pages stay */
    uint64_t limit,
        bytes;       /* most that may be there, 0: as much as there is room for; that is of sessions that are away */
    uint64_t origin; /* of this engine's names: others may use the same directory */
    uint64_t n_uses;
} kvi_spill;

/* By kv.spill, once the engine's cache is known. */
kvrt_status kvi_spill_open(struct kvi_engine *engine, kvrt_error *error);
void kvi_spill_close(struct kvi_engine *engine); /* sessions first */

/* The session's pages leave. On an error they are here. *moved (may be NULL): bytes. */
kvrt_status kvi_session_go_away(struct kvi_session *session, uint64_t *moved, kvrt_error *error);
/* The session is used: its pages are here, or computed again. CTX_FULL: no room for them, nothing has changed. */
kvrt_status kvi_session_come_back(struct kvi_session *session, kvrt_error *error);
/* What is away of it is not needed. */
void kvi_session_forget_away(struct kvi_session *session);
/* Sends the idle session that was used longest ago away, not this one (NULL: whichever). False: there is none that could. */
bool kvi_spill_one(struct kvi_engine *engine, const struct kvi_session *but);
/* Whether what is away takes of the memory that mem.limit is about. */
bool kvi_spill_counts(const struct kvi_engine *engine);

#endif
