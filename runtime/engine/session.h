/* session.h - one timeline of tokens on an engine, and the pages that hold what was computed of it. */
#ifndef KVI_SESSION_H
#define KVI_SESSION_H
#include "engine.h"
#include "generation.h"
#include "request.h"
#include "../kv/elastic.h"
#include "../kv/states.h"

#define KVI_CONVERT_BATCH 8u /* pages converted by one call of the backend */

/* What a full context does (shift.c). */
typedef enum kvi_when_full { KVI_FULL_STOP, KVI_FULL_SHIFT, KVI_FULL_H2O, KVI_FULL_SNAPKV } kvi_when_full;
typedef struct kvi_shift {
    kvi_when_full when_full;
    uint32_t ahead;       /* of positions in the cache: turns of RoPE with which pages behind the sink were written */
    bool sink_is_behind;  /* the sink's keys have other turns: it is computed anew before anything else is */
    uint32_t n_sink;      /* positions of it that have been */
    uint32_t n_dropped;   /* the tokens are a longer list without [128, 128 + n_dropped); 0: they are all there are */
    kvi_page_key history; /* key of that list's first 128 + n_dropped tokens */
    uint32_t n_untold;    /* positions dropped since the host was told */
    uint32_t
        whole_from; /* a cut in front of it would leave tokens whose turns do not follow one another: then all begins anew. 0: nothing dropped */
    uint32_t keep;  /* SNAPKV: positions that stay at the end of a prompt; 0: all that fit */
    uint32_t observed; /* SNAPKV: tokens of the prompt that `mass` is of */
} kvi_shift;

typedef struct kvi_session {
    kvrt_session handle;
    kvi_requests *requests; /* in the handle table */
    kvi_engine *engine;
    struct kvi_session *next;
    kvrt_options *options; /* the engine's, overridden by those of create */
    int32_t *tokens;       /* (ctx_size) */
    uint32_t n_tokens;
    uint32_t n_cached; /* leading tokens whose K/V are in the pages */
    uint32_t
        n_pure; /* of these, leading ones that are what a new session would compute for them as its prompt: others may take them */
    uint32_t n_ahead;     /* leading positions that the layer that looks ahead has keys and values of */
    uint32_t n_published; /* pages of them that others can find */
    uint32_t n_keys;
    kvi_page_key *keys;             /* (ctx_size / 128) of whole pages of tokens; n_keys of them are up to date */
    kvi_page_key seed;              /* that they begin with */
    bool shares;                    /* kv.share */
    uint64_t n_computed, n_found;   /* tokens, since it was created: in steps, and taken from other sessions */
    uint64_t n_drafted, n_accepted; /* guesses, and those that came true */
    uint32_t ctx_size;
    kvi_shift shift;
    float *mass;       /* (ctx_size / 128 + 1) H2O, SNAPKV: attention paid to each page; NULL: nobody asks */
    kvi_away away;     /* its pages, when they are not here (spill.h) */
    uint64_t last_use; /* among all of the engine */
    kvi_pages pages;
    kvi_states states;
    struct {
        uint32_t n_pages;
        uint64_t bytes;
    } demoted[KVI_ELASTIC_LEVELS]; /* to each level by the last step */
    kvi_generation gen;
    struct kvi_session *draft;  /* that follows it, of engine->draft */
    uint64_t last_turn, served; /* number of the step that it was last in; of the place that it had there */
    int32_t priority;
    bool submitted;                /* its request is driven by kvrt_step or the worker */
    struct kvi_transfer *transfer; /* the request is to save or to load it (transfer.h) */
} kvi_session;

/* A session on an engine whose seat is taken, with the engine's options and these. */
kvrt_status kvi_session_open(kvi_engine *engine, const kvrt_options *options, kvi_session **out, kvrt_error *error);
/* Closes one that nobody has the handle of yet. */
void kvi_session_discard(kvi_session *session);
/* Closes a session that is out of the handle table. */
void kvi_session_destroy(kvi_session *session);

/* Whether a text that begins after these tokens begins inside a reasoning section, and where in a message with a header. */
kvrt_status kvi_reasoning_begins(const kvi_session *session, bool *inside, kvi_channel_state *channel,
                                 kvrt_error *error);

/* Makes the page tables cover positions [0, n), n > n_cached; pages may move for that, and those of an elastic session be demoted. CTX_FULL when
 * there is no room: then no page was added. Allocates nothing. */
kvrt_status kvi_session_reserve(kvi_session *session, uint32_t n, kvrt_error *error);
/* Where a page begins and where a prompt ends: the state of recurrent layers is saved if there is room, so that the session can come back. */
kvrt_status kvi_session_save_state(kvi_session *session, kvrt_error *error);
/* Cuts the cache to at most n tokens: page-rounded where pages are encoded, to a checkpoint where layers are recurrent. n_same >= n leading tokens
 * stay what they are; those from n on are to be computed again. */
void kvi_session_cut_cache(kvi_session *session, uint32_t n, uint32_t n_same);
/* What sessions take from one another (reuse.c). Of a new session whose pages are there. */
kvrt_status kvi_session_begin_keys(kvi_session *session, kvrt_error *error);
/* Tokens changed from position n on. */
void kvi_session_cut_keys(kvi_session *session, uint32_t n);
/* Positions [first, first + n) were computed: what others may use of them is published. */
void kvi_session_publish(kvi_session *session, uint32_t first, uint32_t n, bool wide);
/* Its pages came from a snapshot that may be believed: others may use those of the first n_pure positions. */
void kvi_session_publish_loaded(kvi_session *session, uint32_t n_pure);
/* Tokens that the session has or can take of the first `most`, and taking them. It takes them when it would compute them, not before: a session
 * that was somewhere and goes back is another than one that never was there (rule 8), so it must not get there by a sync. */
uint32_t kvi_session_reusable(kvi_session *session, uint32_t most);
kvrt_status kvi_session_reuse(kvi_session *session, uint32_t most, kvrt_error *error);

/* CONTEXT FULL (shift.c): drops pages behind the sink until the session has room for at least `room` more tokens; pages of its first `n_whole` <=
 * n_cached positions. False: its options do not want that, or too little would be left. Nothing is computed: what stands there is right, but for
 * the sink (kvi_session_sink_want). */
bool kvi_session_shift(kvi_session *session, uint32_t n_whole, uint64_t room);
/* SNAPKV, where a prompt has been read: drops what its end did not look at. Dropped anything? */
bool kvi_session_select(kvi_session *session);
/* Which of rows [first, first + n) are observed, from *mass_from on; NULL: none. */
float *kvi_session_mass(kvi_session *session, const struct kvi_want *want, uint32_t *mass_from);
/* What is to be computed before anything else, so that the sink's keys are where they should be; n = 0: nothing. */
struct kvi_want kvi_session_sink_want(const kvi_session *session);
/* Room for it, and where its recurrent layers work. */
kvrt_status kvi_session_reserve_sink(kvi_session *session, kvrt_error *error);
/* n more positions of it were computed, or the step was refused (n = 0). */
void kvi_session_sink_computed(kvi_session *session, uint32_t n);
/* Computes what is wanted. */
kvrt_status kvi_session_finish_sink(kvi_session *session, kvrt_error *error);
/* The cache was cut to n positions, or begins anew. */
void kvi_session_shift_cut(kvi_session *session, uint32_t n);
/* The host's list may still have what was dropped here: how many of its tokens behind the sink are to be passed over. */
uint32_t kvi_session_passed_over(const kvi_session *session, const int32_t *ids, uint64_t n);

/* Room for a live state of recurrent layers. *made = false: there is none. */
kvrt_status kvi_session_begin_state(kvi_session *session, bool *made, kvrt_error *error);
/* Copies within the pool; when that fails half-way the engine is lost. */
kvrt_status kvi_session_copy(kvi_session *session, const kvi_extent_copy *copy, kvrt_error *error);

/* An elastic session gives up precision until it holds no more than its share, or can give no more. */
kvrt_status kvi_session_keep_share(kvi_session *session, kvrt_error *error);
/* All objects of the pool to its low end. */
kvrt_status kvi_engine_compact(kvi_engine *engine, kvrt_error *error);
/* Makes one hole of `units`, of whatever is free and idle; others' pages may move. */
kvrt_status kvi_session_gather(kvi_session *session, uint32_t units, kvrt_error *error);
/* Makes room beside what is held for something of `units`, as long as only what is cached has to go for it. */
kvrt_status kvi_session_make_hole(kvi_session *session, uint32_t units, kvrt_error *error);
/* Encodes the pages that are due at n_cached positions. */
kvrt_status kvi_session_encode(kvi_session *session, kvrt_error *error);
/* After positions were accepted: encodes the pages that are due, gives back those out of their window, saves the state of recurrent layers. */
kvrt_status kvi_session_settle(kvi_session *session, kvrt_error *error);

#endif
