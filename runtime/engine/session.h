/* session.h - one timeline of tokens on an engine, and the pages that hold what was computed of it. */
#ifndef KVI_SESSION_H
#define KVI_SESSION_H
#include "engine.h"
#include "generation.h"
#include "request.h"
#include "../kv/elastic.h"
#include "../kv/states.h"

#define KVI_CONVERT_BATCH 8u /* pages converted by one call of the backend */

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
    kvi_states states;
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
/* Where a page begins: the state of recurrent layers is saved, if there is room, so that the session can come back to here. */
kvrt_status kvi_session_save_state(kvi_session *session, kvrt_error *error);
/* Cuts the cache to at most n tokens: page-rounded where pages are encoded, to a checkpoint where layers are recurrent. */
void kvi_session_cut_cache(kvi_session *session, uint32_t n);
/* After positions were accepted: encodes the pages that are due, gives back those out of their window, saves the state of recurrent layers. */
kvrt_status kvi_session_settle(kvi_session *session, kvrt_error *error);

#endif
