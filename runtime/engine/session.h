/* session.h - one timeline of tokens on an engine, and the pages that hold what was computed of it. */
#ifndef KVI_SESSION_H
#define KVI_SESSION_H
#include "engine.h"
#include "generation.h"
#include "request.h"
#include "../kv/pages.h"

#define KVI_COMMIT_BATCH 8u /* pages encoded by one call of the backend */

typedef struct kvi_session {
    kvrt_session handle;
    kvi_requests *requests; /* in the handle table */
    kvi_engine *engine;
    struct kvi_session *next;
    kvrt_options *options; /* the engine's, overridden by those of create */
    int32_t *tokens;       /* (ctx_size) */
    uint32_t n_tokens;
    uint32_t n_cached; /* leading tokens whose K/V are in the pages */
    uint32_t ctx_size;
    kvi_pages pages;
    struct {
        uint32_t n_pages;
        uint64_t bytes;
    } demoted[KVI_ELASTIC_LEVELS]; /* to each level by the last step */
    kvi_generation gen;
} kvi_session;

/* Closes a session that is out of the handle table. */
void kvi_session_destroy(kvi_session *session);

/* Whether a text that begins after these tokens begins inside a reasoning section. */
kvrt_status kvi_reasoning_begins(const kvi_session *session, bool *inside, kvrt_error *error);

/* Makes the page tables cover positions [0, n), n > n_cached; pages may move for that, and those of an elastic session be demoted. CTX_FULL when
 * there is no room: then no page was added. Allocates nothing. */
kvrt_status kvi_session_reserve(kvi_session *session, uint32_t n, kvrt_error *error);
/* Cuts the cache to at most n tokens (page-rounded where pages are encoded). */
void kvi_session_cut_cache(kvi_session *session, uint32_t n);
/* Encodes the pages that are due. */
kvrt_status kvi_session_commit(kvi_session *session, kvrt_error *error);

#endif
