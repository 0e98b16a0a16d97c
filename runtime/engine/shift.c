/* shift.c - a full context under ctx.full=shift: the sink and the newest pages stay, whole pages between them go (StreamingLLM, arXiv 2309.17453).
 *
 *     before    page 0 | 1  2  3  4 | 5  6  7 ...                dropped: 1 to 4; then page 5 is page 1, and so on
 *     after     page 0 | 5  6  7 ...
 *
 * POSITIONS are those in the cache: a query sees the sink as far behind as if there had never been anything between. Keys are stored turned by
 * RoPE, most of them in few bits, and turning them again would round them again. But attention sees differences of turns only. So the newest pages
 * stay as they are, to the bit; whatever comes now is turned as if nothing had been dropped (kvi_seq.ahead); and the sink, 128 tokens that are
 * never encoded, is computed anew with as much ahead, by an ordinary step. No operation knows of it, and nothing is rounded twice, however often
 * it happens. What is not as in a fresh session over the kept tokens: the newest pages were computed when what is dropped could be seen, and so
 * were states. */
#include "session.h"
#include "step.h"

#include <string.h>

#define SINK KVI_KV_PAGE

/* Pages that stay at the end: one, and all that a window may reach into, so that what it sees has no gap. */
static uint32_t newest_pages(const kvi_session *s)
{
    uint32_t window = 0;
    for (uint32_t g = 0; s->shift.when_full != KVI_FULL_SHIFT && g < s->pages.n_groups; g++)
        if (s->pages.groups[g].window > window) window = s->pages.groups[g].window;
    return 1u + (window + KVI_KV_PAGE - 1u) / KVI_KV_PAGE;
}

/* Pages to drop so that there is room for `room` more tokens, when `n_whole` positions are cached and to stay what they are; 0: too little would
 * be left. A quarter at least, so that it is seldom; and as much as a page stays behind the sink. */
static uint32_t pages_to_drop(const kvi_session *s, uint32_t n_whole, uint64_t room)
{
    const uint64_t end = s->n_tokens + room, over = end > s->ctx_size ? end - s->ctx_size : 0,
                   least = (over + KVI_KV_PAGE - 1) / KVI_KV_PAGE, quarter = n_whole / KVI_KV_PAGE / 4;
    const uint32_t kept = 1u + newest_pages(s), most = n_whole / KVI_KV_PAGE > kept ? n_whole / KVI_KV_PAGE - kept : 0;
    uint64_t n = quarter > least ? quarter : least;
    if (n == 0) n = 1;
    if (n > most) n = most;
    return n < least ? 0 : (uint32_t)n;
}

static void note_history(kvi_session *s, uint32_t n)
{
    kvi_shift *shift = &s->shift;
    if (shift->when_full != KVI_FULL_SHIFT) { /* not one piece of the list: a longer one is another */
        shift->history = (kvi_page_key){0, 0};
        shift->n_dropped += n;
        shift->n_untold += n;
        return;
    }
    if (shift->n_dropped == 0) shift->history = kvi_key_next(kvi_key_begin("history", 7), s->tokens, SINK);
    for (uint32_t i = 0; i < n; i += KVI_KV_PAGE)
        shift->history = kvi_key_next(shift->history, s->tokens + SINK + i, KVI_KV_PAGE);
    shift->n_dropped += n;
    shift->n_untold += n;
}

/* Pages [first, first + n) go, and what is behind them closes up. */
static void drop(kvi_session *s, uint32_t first, uint32_t n_pages)
{
    const uint32_t at = first * KVI_KV_PAGE, n = n_pages * KVI_KV_PAGE;
    kvi_pages_drop_middle(&s->pages, first, n_pages);
    kvi_states_drop_middle(&s->states, at, n);
    memmove(s->tokens + at, s->tokens + at + n, (s->n_tokens - at - n) * sizeof *s->tokens);
    if (s->mass) {
        const uint32_t all = s->ctx_size / KVI_KV_PAGE + 1u, behind = all - first - n_pages;
        memmove(s->mass + first, s->mass + first + n_pages, behind * sizeof *s->mass);
        memset(s->mass + first + behind, 0, n_pages * sizeof *s->mass);
    }
    s->n_tokens -= n;
    s->n_cached -= n;
    kvi_generation_shift(&s->gen, n);
    s->n_pure = s->n_published = s->n_keys = 0; /* nobody else would compute this */
    s->shift.ahead += n;
    if (s->shift.whole_from > at) s->shift.whole_from = s->shift.whole_from > at + n ? s->shift.whole_from - n : at;
    if (s->shift.whole_from < at) s->shift.whole_from = at;
}

/* The page of least attention in [1, end); of equals the oldest. */
static uint32_t least_of(const kvi_session *s, uint32_t end)
{
    uint32_t least = 1;
    for (uint32_t p = 2; p < end; p++)
        if (s->mass[p] < s->mass[least]) least = p;
    return least;
}

/* H2O and SnapKV, by page: n of the pages that end before position n_whole go, those that got least attention. Pages keep the turns that they have,
 * and what comes later goes on at its place in the whole text: so nothing is computed anew, and distances stay what they were. */
static bool drop_least(kvi_session *s, uint32_t n_whole, uint32_t n_pages)
{
    uint32_t end = n_whole / KVI_KV_PAGE - newest_pages(s);
    for (uint32_t i = 0; i < n_pages; i++, end--) drop(s, least_of(s, end), 1);
    note_history(s, n_pages * KVI_KV_PAGE);
    return n_pages > 0;
}

bool kvi_session_shift(kvi_session *s, uint32_t n_whole, uint64_t room)
{
    const uint32_t n_pages = s->shift.when_full != KVI_FULL_STOP ? pages_to_drop(s, n_whole, room) : 0;
    if (n_pages == 0) return false;
    if (s->shift.when_full != KVI_FULL_SHIFT) return drop_least(s, n_whole, n_pages);
    note_history(s, n_pages * KVI_KV_PAGE);
    drop(s, SINK / KVI_KV_PAGE, n_pages);
    s->shift.whole_from = SINK + 1u;
    s->shift.sink_is_behind = true;
    s->shift.n_sink = 0;
    return true;
}

bool kvi_session_select(kvi_session *s)
{
    const uint32_t keep = s->shift.keep, whole = s->n_cached / KVI_KV_PAGE;
    if (s->shift.when_full != KVI_FULL_SNAPKV || !keep || s->n_cached < keep + KVI_KV_PAGE) return false;
    const uint32_t most = whole > 1u + newest_pages(s) ? whole - 1u - newest_pages(s) : 0,
                   n = (s->n_cached - keep) / KVI_KV_PAGE;
    return drop_least(s, s->n_cached, n < most ? n : most);
}

float *kvi_session_mass(kvi_session *s, const kvi_want *want, uint32_t *mass_from)
{
    enum {
        LAST = 64
    }; /* queries of a prompt that choose, as in the paper (arXiv 2404.14469) within a page's precision */
    *mass_from = 0;
    if (!s->mass || want->sink) return NULL;
    if (s->shift.when_full == KVI_FULL_H2O) return s->mass; /* all queries (arXiv 2306.14048) */
    if (!want->wide && s->gen.state != KVI_PREFILL) return NULL;
    if (s->shift.observed != s->n_tokens) {
        memset(s->mass, 0, (s->ctx_size / KVI_KV_PAGE + 1u) * sizeof *s->mass);
        s->shift.observed = s->n_tokens;
    }
    const uint32_t from = s->n_tokens > LAST ? s->n_tokens - LAST : 0;
    if (from > want->first) *mass_from = from - want->first;
    return s->mass;
}

void kvi_session_shift_cut(kvi_session *s, uint32_t n)
{
    if (s->mass && n == 0) memset(s->mass, 0, (s->ctx_size / KVI_KV_PAGE + 1u) * sizeof *s->mass);
    if (n > 0) return;
    s->shift.ahead = s->shift.n_sink = s->shift.whole_from = s->shift.observed = 0;
    s->shift.sink_is_behind = false;
    kvi_states_give_back(&s->states);
}

/* ------------------------------------------------------------------------------------------------------ the sink --- */
kvi_want kvi_session_sink_want(const kvi_session *s)
{
    const uint32_t left = SINK - s->shift.n_sink, most = s->engine->plan.limits.max_rows;
    if (!s->shift.sink_is_behind) return (kvi_want){.n = 0};
    return (kvi_want){.first = s->shift.n_sink, .n = left < most ? left : most, .wide = true, .sink = true};
}

kvrt_status kvi_session_reserve_sink(kvi_session *s, kvrt_error *error)
{
    const uint32_t pages = kvi_pages_row_units(&s->pages), need = pages > s->states.units ? pages : s->states.units;
    if (s->shift.n_sink > 0) return KVRT_OK; /* a part of it is there */
    bool made = false;
    do {
        made = kvi_pages_renew_sink(&s->pages) && kvi_states_borrow(&s->states);
        if (made) break;
        KVI_TRY(kvi_session_gather(s, need, error));
        made = kvi_pages_renew_sink(&s->pages) && kvi_states_borrow(&s->states);
    } while (!made && kvi_spill_one(s->engine, s));
    return made ? KVRT_OK : kvi_error_set(error, KVRT_CTX_FULL, "KV pool: no room to compute the first page anew");
}

void kvi_session_sink_computed(kvi_session *s, uint32_t n)
{
    s->shift.n_sink = n ? s->shift.n_sink + n : 0;
    if (s->shift.n_sink < SINK) return;
    s->shift.n_sink = 0;
    s->shift.sink_is_behind = false;
    kvi_pages_sink_renewed(&s->pages);
    kvi_states_give_back(&s->states);
}

kvrt_status kvi_session_finish_sink(kvi_session *s, kvrt_error *error)
{
    for (kvi_want want; (want = kvi_session_sink_want(s)).n;) KVI_TRY(kvi_step_alone(s, &want, error));
    return KVRT_OK;
}

/* --------------------------------------------------------------------------------------------------- the host's list --- */
uint32_t kvi_session_passed_over(const kvi_session *s, const int32_t *ids, uint64_t n)
{
    const uint32_t n_dropped = s->shift.n_dropped;
    if (n_dropped == 0 || n <= (uint64_t)SINK + n_dropped) return 0;
    kvi_page_key key = kvi_key_begin("history", 7);
    for (uint32_t i = 0; i < SINK + n_dropped; i += KVI_KV_PAGE) key = kvi_key_next(key, ids + i, KVI_KV_PAGE);
    return key.low == s->shift.history.low && key.high == s->shift.history.high ? n_dropped : 0;
}
