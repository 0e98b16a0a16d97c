/* reuse.c - what sessions of an engine take from one another: prefixes that one computed, and forks. Pages are found by their key, those of
 * sessions that are closed too as long as nobody needs the room; the page that a prefix ends within by comparing token lists of open ones.
 * The one thing to know: a session takes only what it would have computed itself, to the bit (kv/prefix.h), so that nobody notices but by time
 * and memory. Hence n_pure: positions that were computed wide, from 0 on without a gap, and saw the pages as a prompt read from 0 sees them. */
#include "session.h"
#include "../kv/prefix.h"

/* Sessions whose pages differ begin with different keys: what is encoded, and when. */
kvrt_status kvi_session_begin_keys(kvi_session *s, kvrt_error *error)
{
    /* What looks ahead has made of a page's last position depends on the token behind the page, which no key knows. */
    s->shares = kvi_options_bool(s->options, "kv.share") && !s->engine->config.n_ahead;
    s->keys = kvi_mem_zalloc(s->ctx_size / KVI_KV_PAGE, sizeof *s->keys);
    if (!s->keys) return kvi_error_nomem(error, s->ctx_size / KVI_KV_PAGE * sizeof *s->keys, "keys of pages");
    const uint32_t settings[2] = {s->pages.body, kvi_kv_format_is_plain(s->pages.body) ? 0 : s->pages.tail};
    s->seed = kvi_key_begin(settings, sizeof settings);
    return KVRT_OK;
}

void kvi_session_cut_keys(kvi_session *s, uint32_t n)
{
    if (s->n_keys > n / KVI_KV_PAGE) s->n_keys = n / KVI_KV_PAGE;
}

static void make_keys(kvi_session *s, uint32_t n_pages)
{
    for (; s->n_keys < n_pages; s->n_keys++)
        s->keys[s->n_keys] = kvi_key_next(s->n_keys ? s->keys[s->n_keys - 1] : s->seed,
                                          s->tokens + s->n_keys * KVI_KV_PAGE, KVI_KV_PAGE);
}

/* --------------------------------------------------------------------------------------------------------- giving --- */
/* What is computed next, wide, from n on, is what a new session would have there. A way back over an encoded page is another way. */
static bool goes_on_pure(const kvi_session *s, uint32_t n)
{
    const uint32_t chunk = s->engine->plan.limits.max_rows;
    return s->n_pure == n && kvi_pages_are_as_at(&s->pages, n / chunk * chunk);
}

void kvi_session_publish(kvi_session *s, uint32_t first, uint32_t n, bool wide)
{
    s->n_computed += n;
    if (!wide || !goes_on_pure(s, first)) return;
    s->n_pure += n;
    if (!s->shares) return;
    make_keys(s, s->n_pure / KVI_KV_PAGE);
    for (; s->n_published < s->n_pure / KVI_KV_PAGE; s->n_published++)
        kvi_pages_publish(&s->pages, s->n_published, s->keys[s->n_published]);
}

void kvi_session_publish_loaded(kvi_session *s, uint32_t n_pure)
{
    if (!s->shares || n_pure > s->n_cached) return;
    s->n_pure = n_pure;
    make_keys(s, n_pure / KVI_KV_PAGE);
    for (uint32_t p = 0; p < n_pure / KVI_KV_PAGE; p++)
        for (uint32_t g = 0; g < s->pages.n_groups; g++) {
            const kvi_kv_format format = (kvi_kv_format)kvi_pages_at(&s->pages, g, p).format;
            const uint32_t key = kvi_pages_key_of(&s->pages, g, p, format);
            if (s->pages.ids[g][p] == KVI_NO_PAGE || key >= s->n_keys) continue;
            if (kvi_kv_format_is_plain(format) || !s->pages.elastic)
                kvi_pages_publish_one(&s->pages, g, p, s->keys[key]);
        }
    s->n_published = n_pure / KVI_KV_PAGE;
}

/* --------------------------------------------------------------------------------------------------------- taking --- */
static uint32_t same_tokens(const kvi_session *a, const kvi_session *b, uint32_t most)
{
    uint32_t n = 0;
    while (n < most && a->tokens[n] == b->tokens[n]) n++;
    return n;
}

/* The open session that has most of these tokens offers the page that they end within. */
static void offer_partial(kvi_session *s, uint32_t most, kvi_prefix *prefix)
{
    for (kvi_session *other = s->engine->sessions; other; other = other->next) {
        if (other == s || !other->shares || other->seed.low != s->seed.low || other->seed.high != s->seed.high)
            continue;
        const uint32_t limit = other->n_pure < most ? other->n_pure : most;
        if (limit <= prefix->n_partial || limit <= s->n_cached) continue;
        const uint32_t n = same_tokens(s, other, limit), p = n / KVI_KV_PAGE;
        if (n <= prefix->n_partial || n % KVI_KV_PAGE == 0) continue;
        prefix->n_partial = n;
        for (uint32_t g = 0; g < s->pages.n_groups; g++) {
            const kvi_kv_format plain = kvi_group_plain(&s->pages.groups[g]);
            uint32_t id = p < other->pages.n_pages[g] ? other->pages.ids[g][p] : KVI_NO_PAGE;
            if (id == KVI_NO_PAGE || s->engine->store.pages[id].format != plain)
                id = p < other->n_published ? kvi_store_find(&s->engine->store, g, plain, other->keys[p]) : KVI_NO_PAGE;
            prefix->partial[g] = id;
        }
    }
}

/* How far the store goes beyond n_cached. */
static uint32_t find(kvi_session *s, uint32_t most, kvi_prefix *prefix)
{
    if (!s->shares || !goes_on_pure(s, s->n_cached) || most <= s->n_cached) return s->n_cached;
    make_keys(s, s->n_tokens / KVI_KV_PAGE);
    *prefix = (kvi_prefix){
        .keys = s->keys, .n_keys = s->n_keys, .chunk = s->engine->plan.limits.max_rows, .n_own = s->n_cached};
    offer_partial(s, most, prefix);
    return kvi_prefix_find(&s->pages, &s->states, prefix, most);
}

uint32_t kvi_session_reusable(kvi_session *s, uint32_t most)
{
    kvi_prefix prefix;
    return find(s, most, &prefix);
}

kvrt_status kvi_session_reuse(kvi_session *s, uint32_t most, kvrt_error *error)
{
    kvi_prefix prefix;
    bool made;
    if (find(s, most, &prefix) == s->n_cached) return KVRT_OK;
    KVI_TRY(kvi_session_begin_state(s, &made, error)); /* its room may be made of what was found */
    const uint32_t n = made ? find(s, most, &prefix) : s->n_cached;
    if (n == s->n_cached) return KVRT_OK;
    if (s->states.units) {
        kvi_extent_copy copy;
        kvi_states_adopt(&s->states, kvi_prefix_state(&s->states, &prefix, n), n, &copy);
        KVI_TRY(kvi_session_copy(s, &copy, error));
    }
    kvi_prefix_take(&s->pages, &prefix, n);
    s->n_found += n - s->n_cached;
    s->n_cached = s->n_pure = n;
    s->n_published = n / KVI_KV_PAGE;
    return KVRT_OK;
}
