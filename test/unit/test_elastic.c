/* test_elastic.c - elastic precision: the choice of pages against an independent simulation, gathering against brute force, moved bytes on a
 * backend that marks every page, and whole generations in a pool that is too small for 16 bits. */
#include "golden_model.h"
#include "../../runtime/engine/session.h"
#include "../../runtime/kv/compact.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static uint32_t random_state = 1;
static uint32_t below(uint32_t n)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % n;
}

/* ------------------------------------------------------------------------------------------------------- gathering --- */
enum { UNITS = 400, MOST = 60 };

/* Cheapest run by trying every pair of holes; UINT32_MAX: none. */
static uint32_t cheapest(const uint8_t *map, uint32_t units)
{
    uint32_t best = UINT32_MAX; /* map: 0 free, 1 movable, 2 fixed */
    for (uint32_t from = 0; from < UNITS; from++) {
        uint32_t room = 0, cost = 0;
        if (map[from] || (from && !map[from - 1])) continue; /* starts of holes only */
        for (uint32_t to = from; to < UNITS && map[to] != 2; to++) {
            room += map[to] == 0;
            cost += map[to] == 1;
            if (room >= units && cost < best) best = cost;
        }
    }
    return best;
}

/* What moves, in units: a map of the pool, and what it cost. */
typedef struct mover {
    uint8_t map[UNITS]; /* 0 free, else the page's number + 1; 255 fixed */
    uint32_t cost, n;
} mover;
static kvrt_status move_units(void *user, uint32_t from, uint32_t to, uint32_t units, kvrt_error *error)
{
    (void)error;
    mover *m = user;
    assert_true(to < from && units > 0);
    for (uint32_t u = 0; u < units; u++) {
        assert_true(m->map[from + u] != 0 && m->map[from + u] != 255);
        assert_int_equal(m->map[to + u] == 0 || to + u >= from, true);
        const uint8_t what = m->map[from + u];
        m->map[from + u] = 0;
        m->map[to + u] = what;
    }
    m->cost += units;
    m->n++;
    return KVRT_OK;
}

static void gathering_is_cheapest(void **state)
{
    (void)state;
    unsigned found = 0, merged = 0;
    for (unsigned round = 0; round < 4000; round++) {
        kvi_store store;
        mover m = {.cost = 0};
        uint8_t map[UNITS] = {0};
        uint32_t held[MOST][4], n_held = 0, n_moved_pages = 0;
        assert_int_equal(kvi_store_init(&store, UNITS * KVI_KV_UNIT, MOST, NULL), KVRT_OK);
        kvi_pool *pool = &store.pool;
        for (uint32_t len, at = 0; n_held < MOST; n_held++, at += len) {
            held[n_held][0] = at, held[n_held][1] = len = 1 + below(20);
            held[n_held][2] = below(10); /* 0: fixed, no object of the store; 1..5: a page, else released */
            held[n_held][3] = KVI_NO_PAGE;
            if (held[n_held][2] >= 1 && held[n_held][2] <= 5) {
                held[n_held][3] = kvi_store_take(&store, 0, KVI_KV_FMT_F16, len, false);
                if (held[n_held][3] == KVI_NO_PAGE) break;
                assert_int_equal(store.pages[held[n_held][3]].unit, at);
            } else if (kvi_pool_take(pool, len) == KVI_KV_NO_EXTENT) break;
        }
        for (uint32_t i = 0; i < n_held; i++) {
            if (held[i][2] > 5) kvi_pool_release(pool, held[i][0], held[i][1]);
            else memset(map + held[i][0], held[i][2] ? 1 : 2, held[i][1]);
            if (held[i][2] <= 5) memset(m.map + held[i][0], held[i][2] ? (int)i + 1 : 255, held[i][1]);
        }
        const uint32_t units = 1 + below(60), want = cheapest(map, units), free_before = pool->free_units;
        uint32_t longest_before = 0;
        for (uint32_t i = 0; i < pool->n_holes; i++)
            longest_before = pool->holes[i].len > longest_before ? pool->holes[i].len : longest_before;
        bool got;
        assert_int_equal(kvi_compact(&store, units, move_units, &m, &got, NULL), KVRT_OK);
        assert_int_equal(got, want != UINT32_MAX && longest_before < units);
        assert_int_equal(m.cost, got ? want : 0);
        found += got;
        assert_int_equal(pool->free_units, free_before);
        uint32_t free_units = 0, longest = 0; /* the holes are the gaps of the map, in order, merged */
        for (uint32_t i = 0; i < pool->n_holes; i++) {
            assert_true(i == 0 || pool->holes[i].unit > pool->holes[i - 1].unit + pool->holes[i - 1].len);
            for (uint32_t u = 0; u < pool->holes[i].len; u++) assert_int_equal(m.map[pool->holes[i].unit + u], 0);
            free_units += pool->holes[i].len;
            longest = pool->holes[i].len > longest ? pool->holes[i].len : longest;
        }
        assert_int_equal(free_units, free_before);
        assert_true(!got || longest >= units);
        for (uint32_t i = 0; i < n_held; i++) { /* every page is where its entry says, whole */
            if (held[i][3] == KVI_NO_PAGE) continue;
            const kvi_page *page = &store.pages[held[i][3]];
            assert_int_equal(page->units, held[i][1]);
            for (uint32_t u = 0; u < page->units; u++) assert_int_equal(m.map[page->unit + u], i + 1);
            n_moved_pages += page->unit != held[i][0];
        }
        merged += m.n < n_moved_pages;
        kvi_store_free(&store);
    }
    assert_true(found > 300 && merged > 30);
}

/* ------------------------------------------------------------------------------------------ sessions on a marking backend --- */
typedef struct rig {
    kvi_engine engine;
    kvi_session sessions[3];
    kvi_cache_group groups[2];
    uint8_t *bytes;   /* the pool */
    uint32_t fail_in; /* conversions until one fails; 0: none */
    uint32_t n_converted, n_moved;
} rig;
static rig r;

/* Every unit of a page carries its owner and number. */
static void mark(uint32_t session, uint32_t group, uint32_t page, uint32_t unit, uint32_t units)
{
    for (uint32_t u = 0; u < units; u++) {
        uint32_t words[64];
        for (uint32_t i = 0; i < 64; i++)
            words[i] = (session << 28) | (group << 24) | (page << 10) | ((u * 64 + i) & 1023);
        memcpy(r.bytes + (uint64_t)(unit + u) * KVI_KV_UNIT, words, sizeof words);
    }
}

static kvrt_status fake_convert(kvi_device *device, const kvi_page_job *jobs, uint32_t n,
                                const kvi_encode_params *params, kvrt_error *error)
{
    (void)device, (void)params;
    if (r.fail_in && --r.fail_in == 0) return kvi_error_set(error, KVRT_INTERNAL, "planted");
    for (uint32_t i = 0; i < n;
         i++) { /* the first word tells whose page it is; what is kept is the front, as if it had been encoded */
        uint32_t word;
        memcpy(&word, r.bytes + (uint64_t)jobs[i].from.unit * KVI_KV_UNIT, 4);
        mark(word >> 28, word >> 24 & 15, word >> 10 & 0x3fff, jobs[i].to.unit,
             kvi_kv_page_units(jobs[i].to.format, &r.groups[jobs[i].group].shape));
    }
    r.n_converted += n;
    return KVRT_OK;
}
static kvrt_status fake_move(kvi_device *device, uint32_t from, uint32_t to, uint32_t units, kvrt_error *error)
{
    (void)device, (void)error;
    r.n_moved++;
    assert_true(units > 0 && (to < from || from + units <= to)); /* down, or apart */
    memmove(r.bytes + (uint64_t)to * KVI_KV_UNIT, r.bytes + (uint64_t)from * KVI_KV_UNIT,
            (uint64_t)units * KVI_KV_UNIT);
    return KVRT_OK;
}
static const kvi_backend fake = {.name = "fake", .convert_pages = fake_convert, .pool_move = fake_move};

static void open_rig(uint32_t pool_units, uint32_t window, uint32_t n_elastic, uint32_t n_fixed, uint32_t tail)
{
    memset(&r, 0, sizeof r);
    r.groups[0] = (kvi_cache_group){.shape = {2, 2, 64, 0}, .plain = KVI_KV_F16};
    r.groups[1] = (kvi_cache_group){.shape = {1, 2, 64, 0}, .plain = KVI_KV_F16, .window = window};
    r.bytes = calloc(pool_units, KVI_KV_UNIT);
    r.engine.backend = &fake;
    r.engine.format.elastic = true;
    kvi_group_measure(&r.groups[0]), kvi_group_measure(&r.groups[1]);
    assert_int_equal(kvi_store_init(&r.engine.store, (uint64_t)pool_units * KVI_KV_UNIT, 2000, NULL), KVRT_OK);
    for (uint32_t i = 0; i < n_elastic + n_fixed; i++) {
        kvi_session *s = &r.sessions[i];
        s->engine = &r.engine;
        s->next = r.engine.sessions;
        r.engine.sessions = s;
        assert_int_equal(kvi_pages_init(&s->pages, &r.engine.store, r.groups, window ? 2 : 1, 128 * 600,
                                        i < n_elastic ? KVI_KV_FMT_F16 : KVI_KV_FMT_K4V4, tail, NULL),
                         KVRT_OK);
        s->pages.elastic = i < n_elastic;
        s->pages.share_units = pool_units / n_elastic;
    }
}

static void close_rig(void)
{
    for (uint32_t i = 0; i < 3; i++)
        if (r.sessions[i].engine) kvi_pages_free(&r.sessions[i].pages);
    assert_int_equal(kvi_pool_used_bytes(&r.engine.store.pool), 0);
    assert_true(r.engine.store.pool.n_holes == 1);
    kvi_store_free(&r.engine.store);
    free(r.bytes);
}

/* Every page still holds its own bytes, and the pool's count is the sum of the pages. */
static void check_rig(void)
{
    uint64_t held = 0;
    for (uint32_t i = 0; i < 3; i++) {
        const kvi_pages *pages = &r.sessions[i].pages;
        held += kvi_pages_bytes(pages);
        for (uint32_t g = 0; g < pages->n_groups; g++)
            for (uint32_t p = 0; p < pages->n_pages[g]; p++) {
                const kvi_page_ref at = kvi_pages_at(pages, g, p), *ref = &at;
                if (ref->unit == KVI_KV_NO_EXTENT) continue;
                for (uint32_t u = 0; u < kvi_kv_page_units(ref->format, &r.groups[g].shape); u++)
                    for (uint32_t w = 0; w < 64; w += 63) {
                        uint32_t word, want = (i << 28) | (g << 24) | (p << 10) | ((u * 64 + w) & 1023);
                        memcpy(&word, r.bytes + (uint64_t)(ref->unit + u) * KVI_KV_UNIT + w * 4, 4);
                        if (word != want)
                            fail_msg("session %u, group %u, page %u, unit %u: %x instead of %x", i, g, p, u, word,
                                     want);
                    }
            }
    }
    assert_int_equal(kvi_pool_used_bytes(&r.engine.store.pool), held);
}

/* Positions up to n appear and are accepted. */
static kvrt_status grow(uint32_t session, uint32_t n)
{
    kvi_session *s = &r.sessions[session];
    const uint32_t before = s->pages.n_pages[0];
    const kvrt_status status = kvi_session_reserve(s, n, NULL);
    if (status < KVRT_OK) return status;
    for (uint32_t g = 0; g < s->pages.n_groups; g++)
        for (uint32_t p = before; p < s->pages.n_pages[g]; p++)
            mark(session, g, p, kvi_pages_at(&s->pages, g, p).unit,
                 kvi_kv_page_units(KVI_KV_FMT_F16, &r.groups[g].shape));
    s->n_cached = n;
    kvi_pages_expire(&s->pages, n);
    return KVRT_OK;
}

/* The rule of elastic.h, written down once more: sizes and levels only, one page at a time. */
typedef struct simulation {
    uint32_t level[2][600], n_pages, used, share, window, tail, n, freed[4], count[4];
    bool gone[2][600];
} simulation;

static uint32_t size_of(uint32_t group, uint32_t level)
{
    static const uint32_t bits[4] = {16 + 16, 8 + 8, 4 + 4, 4 + 2}; /* of a K and a V element */
    const uint32_t records = group ? 2 : 4, d = 64, i8_vectors = 3 * 128,
                   packed_vectors = (2 * d + 128) + (d + 2 * 128);
    const uint32_t bytes = d * 128 / 8 * bits[level] + 2 * (level == 0 ? 0 : level == 1 ? i8_vectors : packed_vectors);
    return (records * bytes + 255) / 256;
}

static bool simulate(simulation *m, uint32_t groups, uint32_t n)
{
    memset(m->freed, 0, sizeof m->freed);
    memset(m->count, 0, sizeof m->count);
    for (; m->n_pages * 128 < n; m->n_pages++) {
        uint32_t need = size_of(0, 0) + (groups > 1 ? size_of(1, 0) : 0);
        while (m->used + need > m->share) {
            uint32_t best = 3, at = 0, group = 0;
            for (uint32_t p = 1; 128 * (p + 1) + m->tail <= m->n && p < m->n_pages; p++)
                for (uint32_t g = 0; g < groups; g++)
                    if (!m->gone[g][p] && m->level[g][p] < best) best = m->level[g][p], at = p, group = g;
            if (best == 3) return false;
            uint32_t gain = size_of(group, best) - size_of(group, best + 1);
            m->level[group][at]++;
            m->used -= gain;
            m->freed[best + 1] += gain;
            m->count[best + 1]++;
        }
        m->used += need;
    }
    m->n = n;
    for (uint32_t p = 0; groups > 1 && p < m->n_pages; p++)
        if (!m->gone[1][p] && (p + 1) * 128 + m->window <= n + 1)
            m->gone[1][p] = true, m->used -= size_of(1, m->level[1][p]);
    return true;
}

static void pages_follow_the_simulation(void **state)
{
    (void)state;
    static const struct {
        uint32_t units, window, tail, step;
    } cases[] = {{3000, 0, 128, 1},  {3000, 0, 0, 128},   {4000, 0, 300, 77},   {4000, 700, 128, 1},
                 {4001, 130, 0, 50}, {6000, 0, 128, 512}, {5000, 2000, 256, 33}};
    for (unsigned c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        static simulation m;
        const uint32_t groups = cases[c].window ? 2 : 1;
        memset(&m, 0, sizeof m);
        m.share = cases[c].units, m.window = cases[c].window, m.tail = cases[c].tail;
        open_rig(cases[c].units, cases[c].window, 1, 0, cases[c].tail);
        uint32_t n = 0, seen[4] = {0};
        for (;; n += cases[c].step) {
            const kvi_pages *pages = &r.sessions[0].pages;
            const bool room = simulate(&m, groups, n + cases[c].step);
            const kvrt_status status = grow(0, n + cases[c].step);
            if ((status >= KVRT_OK) != room)
                fail_msg("case %u, %u positions: status %d, the simulation has %s", c, n, status,
                         room ? "room" : "none");
            for (uint32_t level = 1; level < 4; level++) {
                assert_int_equal(r.sessions[0].demoted[level].n_pages, m.count[level]);
                assert_int_equal(r.sessions[0].demoted[level].bytes, (uint64_t)m.freed[level] * KVI_KV_UNIT);
                seen[level] += m.count[level];
            }
            for (uint32_t g = 0; g < groups; g++)
                for (uint32_t p = 0; p < pages->n_pages[g]; p++) {
                    assert_int_equal(kvi_pages_at(pages, g, p).unit == KVI_KV_NO_EXTENT, m.gone[g][p]);
                    if (!m.gone[g][p])
                        assert_int_equal(kvi_elastic_level(kvi_pages_at(pages, g, p).format), m.level[g][p]);
                }
            if ((n + cases[c].step) / 128 != n / 128 || !room) check_rig();
            if (!room) break;
        }
        for (uint32_t p = 1; 128 * (p + 1) + cases[c].tail <= n; p++) /* context full: nothing is left to give */
            assert_int_equal(kvi_elastic_level(kvi_pages_at(&r.sessions[0].pages, 0, p).format), 3);
        if (!(seen[1] > 3 && seen[1] >= seen[2] && seen[2] >= seen[3] && seen[3] > 0))
            fail_msg("case %u: %u, %u, %u", c, seen[1], seen[2], seen[3]);
        assert_true(groups > 1 || seen[1] == seen[3]);
        close_rig();
    }
}

static void sessions_share_a_pool(void **state)
{
    (void)state;
    /* Alone, beside another elastic session, and beside a fixed one in a pool that has room for it: the same formats at the same time. */
    static uint8_t levels[3][1900 / 128 + 1][40];
    for (unsigned round = 0; round < 3; round++) {
        const bool other = round == 1, fixed = round == 2;
        open_rig(fixed ? 3000 + 3 * 512 : other ? 6000 : 3000, 0, other ? 2 : 1, fixed, 128);
        r.sessions[0].pages.share_units = r.sessions[1].pages.share_units = 3000;
        if (fixed) assert_int_equal(grow(1, 128 * 3), KVRT_OK);
        for (uint32_t n = 1; n <= 1900; n++) {
            if (grow(0, n) < KVRT_OK) fail_msg("round %u: no room at %u", round, n);
            if (other) assert_int_equal(grow(1, n - n / 3), KVRT_OK);
            if (n % 128 == 0) {
                check_rig();
                for (uint32_t p = 0; p < n / 128; p++)
                    levels[round][n / 128][p] =
                        (uint8_t)kvi_elastic_level(kvi_pages_at(&r.sessions[0].pages, 0, p).format);
            }
        }
        for (uint32_t p = 0; fixed && p < 3; p++)
            assert_int_equal(kvi_pages_at(&r.sessions[1].pages, 0, p).format, KVI_KV_FMT_F16); /* never demoted */
        if (round) assert_memory_equal(levels[round], levels[0], sizeof levels[0]);
        close_rig();
    }
}

/* A session that begins with the pages of another: each demotes at the moments and to the formats at which it would alone, for itself alone, and
 * reads what was written for it. Pages that both have at one precision are there once. */
static void shared_pages_demote_for_one(void **state)
{
    (void)state;
    enum { SHARE = 4200, FORK = 900, END = 1700 };
    static uint8_t alone[END + 1][16];
    open_rig(SHARE, 0, 1, 0, 128);
    for (uint32_t n = 1; n <= END; n++) {
        if (grow(0, n) < KVRT_OK) fail_msg("alone: no room at %u", n);
        for (uint32_t p = 0; p < r.sessions[0].pages.n_pages[0]; p++)
            alone[n][p] = (uint8_t)kvi_elastic_level(kvi_pages_at(&r.sessions[0].pages, 0, p).format);
    }
    assert_true(alone[FORK][1] == 0 && alone[END][1] == 2); /* the shared pages go through two levels */
    close_rig();
    for (uint32_t style = 0; style < 3; style++) {
        open_rig(2 * SHARE, 0, 2, 0, 128);
        for (uint32_t n = 1; n <= FORK; n++) assert_int_equal(grow(0, n), KVRT_OK);
        const uint64_t used = kvi_pool_used_bytes(&r.engine.store.pool);
        kvi_pages_share(&r.sessions[1].pages, &r.sessions[0].pages, FORK);
        r.sessions[1].n_cached = FORK;
        assert_int_equal(kvi_pool_used_bytes(&r.engine.store.pool), used);
        for (uint32_t at[2] = {FORK, FORK}; at[0] < END || at[1] < END;) { /* in turn, or one behind the other */
            const uint32_t i = at[0] == END ? 1 : at[1] == END ? 0 : style == 2 ? below(2) : style == 1 ? 1 : 0;
            if (grow(i, ++at[i]) < KVRT_OK) fail_msg("style %u, session %u: no room at %u", style, i, at[i]);
            for (uint32_t k = 0; k < 2; k++)
                for (uint32_t p = 0; p < r.sessions[k].pages.n_pages[0]; p++) {
                    const kvi_page_ref ref = kvi_pages_at(&r.sessions[k].pages, 0, p);
                    const uint32_t owner = p <= FORK / 128 ? 0 : k;
                    uint32_t found;
                    assert_int_equal(kvi_elastic_level(ref.format), alone[at[k]][p]);
                    for (uint32_t u = 0; u < kvi_kv_page_units(ref.format, &r.groups[0].shape); u += 7) {
                        memcpy(&found, r.bytes + (uint64_t)(ref.unit + u) * KVI_KV_UNIT, 4);
                        if (found != ((owner << 28) | (p << 10) | ((u * 64) & 1023)))
                            fail_msg("style %u, session %u, page %u, unit %u: %x", style, k, p, u, found);
                    }
                }
        }
        const uint64_t sum = kvi_pages_bytes(&r.sessions[0].pages) + kvi_pages_bytes(&r.sessions[1].pages);
        assert_true(kvi_pool_used_bytes(&r.engine.store.pool) < sum); /* the sink at least */
        close_rig();
    }
}

/* Pages of a fixed session in the middle of the pool keep format and content, and do not keep the elastic one from the last byte of it. */
static void fixed_pages_in_the_way(void **state)
{
    (void)state;
    for (uint32_t at = 128; at <= 768; at += 128) {
        open_rig(4000, 0, 1, 1, 0);
        r.sessions[0].pages.share_units = 4000;
        uint32_t n = 0;
        while (n < at) assert_int_equal(grow(0, n += 64), KVRT_OK);
        assert_int_equal(grow(1, 100), KVRT_OK);
        while (grow(0, n + 64) >= KVRT_OK) n += 64;
        check_rig();
        assert_int_equal(kvi_pages_at(&r.sessions[1].pages, 0, 0).format, KVI_KV_FMT_F16);
        for (uint32_t p = 1; 128 * (p + 1) <= n; p++)
            assert_int_equal(kvi_elastic_level(kvi_pages_at(&r.sessions[0].pages, 0, p).format), 3);
        assert_true(r.engine.store.pool.free_units < size_of(0, 0));
        close_rig();
    }
}

static void rewind_gives_back(void **state)
{
    (void)state;
    open_rig(3000, 0, 1, 0, 128);
    uint32_t n = 0;
    while (grow(0, n + 1) >= KVRT_OK) n++;
    const uint32_t page = n / 128 / 2;
    const uint32_t keep = kvi_pages_rewind(&r.sessions[0].pages, page * 128 + 5, page * 128 + 5);
    assert_int_equal(keep, page * 128);
    r.sessions[0].n_cached = keep;
    check_rig();
    /* Goes on in 16 bits as far as there is room, and to the same end. */
    assert_int_equal(grow(0, keep + 1), KVRT_OK);
    assert_int_equal(kvi_pages_at(&r.sessions[0].pages, 0, page).format, KVI_KV_FMT_F16);
    for (uint32_t k = keep + 2; k <= n; k++) assert_int_equal(grow(0, k), KVRT_OK);
    assert_int_equal(grow(0, n + 1), KVRT_CTX_FULL);
    check_rig();
    close_rig();
}

/* A conversion that fails: its status comes out, tables and pool agree, nothing was added, the engine is lost. */
static void failing_conversion(void **state)
{
    (void)state;
    for (uint32_t nth = 1; nth < 12; nth++) {
        open_rig(3000, 0, 1, 0, 0);
        uint32_t n = 0;
        kvrt_status status;
        r.fail_in = nth;
        while ((status = grow(0, n + 128)) >= KVRT_OK) n += 128;
        assert_int_equal(status, KVRT_INTERNAL);
        assert_int_equal(r.sessions[0].pages.n_pages[0], n / 128);
        assert_true(atomic_load(&r.engine.lost));
        check_rig();
        close_rig();
    }
}

/* ---------------------------------------------------------------------------------------------------- whole generations --- */
static golden_model model;
static const int32_t prompt[5] = {10, 20, 30, 40, 50};
typedef struct collected {
    int32_t tokens[4096];
    float logprobs[4096];
    uint32_t n, first_demotion, n_events, stop_at_event;
    uint64_t pages[4], bytes[4];
    int32_t answer;
    uint64_t allocations[2]; /* at the last token, and those between tokens */
} collected;

static int32_t collect(const kvrt_event *event, void *user)
{
    collected *c = user;
    uint64_t now;
    kvrt_debug_mem(NULL, NULL, &now);
    if (event->type == KVRT_EVENT_TOKEN) {
        if (c->n && now != c->allocations[0]) c->allocations[1] += now - c->allocations[0];
        c->allocations[0] = now;
        c->tokens[c->n] = event->token;
        c->logprobs[c->n++] = event->logprob;
    }
    if (event->type != KVRT_EVENT_KV_DEMOTED) return KVRT_CONTINUE;
    const uint32_t level = strcmp(event->text, "i8") == 0     ? 1
                           : strcmp(event->text, "k4v4") == 0 ? 2
                           : strcmp(event->text, "k4v2") == 0 ? 3
                                                              : 0;
    assert_true(level > 0 && event->done > 0 && event->total > 0 && event->total % KVI_KV_UNIT == 0);
    assert_true(level <= 1 ||
                c->pages[level - 1] >= c->pages[level] + event->done); /* a page goes through the levels one by one */
    if (!c->n_events++) c->first_demotion = c->n;
    c->pages[level] += event->done;
    c->bytes[level] += event->total;
    return c->n_events == c->stop_at_event ? c->answer : KVRT_CONTINUE;
}

static const char *const tiny[] = {"kv.format",
                                   "elastic",
                                   "kv.pool",
                                   "367KiB",
                                   "ctx.size",
                                   "3600",
                                   "kv.tail",
                                   "0",
                                   "ctx.chunk",
                                   "64",
                                   "gen.token_events",
                                   "true",
                                   "gen.max_tokens",
                                   "4000",
                                   "gen.ignore_eos",
                                   "true",
                                   "sample.temperature",
                                   "1.2",
                                   "sample.seed",
                                   "3",
                                   NULL};

static kvrt_engine open_with(const char *key, const char *value)
{
    const char *pairs[40];
    unsigned n = 0;
    for (; tiny[n]; n++) pairs[n] = tiny[n];
    pairs[n++] = key, pairs[n++] = value, pairs[n] = NULL;
    return golden_open(&model, pairs);
}

static void run(kvrt_engine engine, collected *c, kvrt_result *result, kvrt_session *out)
{
    kvrt_error error = {.size = sizeof error};
    assert_int_equal(kvrt_session_create(engine, NULL, out, &error), KVRT_OK);
    assert_int_equal(kvrt_session_sync(*out, prompt, 5, NULL, &error), KVRT_OK);
    *result = (kvrt_result){.size = sizeof *result};
    if (kvrt_generate(*out, NULL, collect, c, result, &error) < 0) fail_msg("%s", error.message);
}

static void long_generation_keeps_running(void **state)
{
    (void)state;
    static collected a, b, exact;
    kvrt_result result, again;
    kvrt_session s, t;
    kvrt_engine_info info = {.size = sizeof info};
    kvrt_session_info pages = {.size = sizeof pages};
    kvrt_options *short_run;
    memset(&a, 0, sizeof a), memset(&b, 0, sizeof b), memset(&exact, 0, sizeof exact);
    kvrt_engine engine = open_with("cpu.threads", "1"), other = open_with("cpu.threads", "2"),
                plain = open_with("kv.format", "f16");
    kvrt_engine_get_info(engine, &info, NULL);
    assert_true(info.kv_pool_bytes <= 367 * 1024);
    assert_string_equal(info.kv_format, "elastic");
    run(engine, &a, &result, &s);
    assert_int_equal(result.finish, KVRT_FINISH_CTX_FULL);
    assert_int_equal(result.n_prompt + result.n_generated, info.ctx_size); /* to the last planned position */
    assert_true(a.n_events > 3 && a.pages[1] && a.pages[2] && a.pages[3]);
    assert_int_equal(a.allocations[1], 0);
    /* Freed bytes: all pages at 16 bits, less what the events name, is what is held. */
    kvrt_session_get_info(s, &pages, NULL);
    kvrt_engine_get_info(engine, &info, NULL);
    assert_int_equal(pages.kv_bytes, info.kv_pool_used_bytes);
    assert_int_equal(pages.n_packed_pages, a.pages[1]);
    kvrt_engine_info plain_info = {.size = sizeof plain_info};
    kvrt_engine_get_info(plain, &plain_info, NULL);
    assert_int_equal(pages.kv_bytes + a.bytes[1] + a.bytes[2] + a.bytes[3],
                     (uint64_t)(pages.n_pages * 128 * plain_info.kv_bytes_per_token));
    /* Twice the same, whatever the threads; the f16 run until the first demotion. */
    run(other, &b, &again, &t);
    assert_int_equal(b.n, a.n);
    assert_memory_equal(a.tokens, b.tokens, a.n * sizeof a.tokens[0]);
    assert_memory_equal(a.logprobs, b.logprobs, a.n * sizeof a.logprobs[0]);
    assert_memory_equal(a.bytes, b.bytes, sizeof a.bytes);
    kvrt_session u;
    kvrt_options_create(&short_run, NULL);
    kvrt_options_set_i64(short_run, "gen.max_tokens", a.first_demotion, NULL);
    kvrt_session_create(plain, short_run, &u, NULL);
    kvrt_session_sync(u, prompt, 5, NULL, NULL);
    assert_int_equal(kvrt_generate(u, NULL, collect, &exact, NULL, NULL), KVRT_OK);
    kvrt_options_destroy(short_run);
    assert_true(a.first_demotion > 128 && exact.n == a.first_demotion);
    assert_memory_equal(a.tokens, exact.tokens, a.first_demotion * sizeof a.tokens[0]);
    assert_memory_equal(a.logprobs, exact.logprobs, a.first_demotion * sizeof a.logprobs[0]);
    /* Rewind into a demoted page: to its start, and on from there. */
    assert_int_equal(kvrt_session_rewind(s, 300, NULL), KVRT_OK);
    kvrt_session_get_info(s, &pages, NULL);
    assert_int_equal(pages.n_cached, 256);
    memset(&b, 0, sizeof b);
    again = (kvrt_result){.size = sizeof again};
    assert_int_equal(kvrt_generate(s, NULL, collect, &b, &again, NULL), KVRT_OK);
    assert_int_equal(again.finish, KVRT_FINISH_CTX_FULL);
    assert_int_equal(again.n_prompt, 300);
    assert_int_equal(kvrt_session_close(s, NULL), KVRT_OK);
    kvrt_engine_get_info(engine, &info, NULL);
    assert_int_equal(info.kv_pool_used_bytes, 0);
    kvrt_engine_close(engine, NULL), kvrt_engine_close(other, NULL), kvrt_engine_close(plain, NULL);
}

/* With room for 16 bits nothing is ever demoted: elastic is f16 then, to the last bit. */
static void enough_memory_is_f16(void **state)
{
    (void)state;
    static collected a, b;
    memset(&a, 0, sizeof a), memset(&b, 0, sizeof b);
    kvrt_result result;
    kvrt_session s;
    static const char *const both[] = {"gen.max_tokens",
                                       "600",
                                       "gen.token_events",
                                       "true",
                                       "gen.ignore_eos",
                                       "true",
                                       "ctx.size",
                                       "700",
                                       "sample.temperature",
                                       "1.2",
                                       "cpu.threads",
                                       "1",
                                       "kv.format",
                                       "elastic",
                                       "sample.seed",
                                       "3",
                                       NULL};
    const char *f16[17];
    memcpy(f16, both, sizeof both);
    f16[13] = "f16";
    kvrt_engine elastic = golden_open(&model, both), plain = golden_open(&model, f16);
    run(elastic, &a, &result, &s);
    run(plain, &b, &result, &s);
    assert_int_equal(a.n_events, 0);
    assert_int_equal(a.n, b.n);
    assert_memory_equal(a.tokens, b.tokens, a.n * sizeof a.tokens[0]);
    kvrt_engine_close(elastic, NULL), kvrt_engine_close(plain, NULL);
}

/* STOP and PAUSE in answer to the event. */
static void event_is_answered(void **state)
{
    (void)state;
    static collected a, b;
    memset(&a, 0, sizeof a), memset(&b, 0, sizeof b);
    kvrt_result result;
    kvrt_session s, t;
    kvrt_engine engine = open_with("cpu.threads", "1");
    run(engine, &a, &result, &s);
    kvrt_session_close(s, NULL);
    b.stop_at_event = 2, b.answer = KVRT_PAUSE;
    run(engine, &b, &result, &t);
    assert_int_equal(result.finish, KVRT_FINISH_PAUSED);
    b.stop_at_event = 4, b.answer = KVRT_STOP;
    assert_int_equal(kvrt_generate(t, NULL, collect, &b, &result, NULL), KVRT_OK);
    assert_int_equal(result.finish, KVRT_FINISH_CALLBACK);
    assert_true(b.n > a.first_demotion && b.n < a.n);
    assert_memory_equal(a.tokens, b.tokens, b.n * sizeof a.tokens[0]);
    kvrt_engine_close(engine, NULL);
}

static void refusals_and_failed_allocations(void **state)
{
    (void)state;
    kvrt_options *o;
    kvrt_engine engine;
    kvrt_session s;
    kvrt_error error = {.size = sizeof error};
    uint64_t bytes, blocks, bytes_after, blocks_after;
    kvrt_options_create(&o, NULL);
    kvrt_options_set_string(o, "model.path", model.dir, -1, NULL);
    for (unsigned i = 0; tiny[i]; i += 2) kvrt_options_set_text(o, tiny[i], tiny[i + 1], NULL);
    kvrt_options_set_i64(o, "ctx.size", 8000, NULL);
    assert_int_equal(kvrt_engine_open(o, NULL, NULL, &engine, &error), KVRT_OVER_BUDGET);
    assert_non_null(strstr(error.message, "kv.pool is 367 KiB"));
    assert_int_equal(error.available_bytes, 367 * 1024);
    kvrt_options_clear(o, "ctx.size", NULL);
    kvrt_debug_mem(&bytes, &blocks, NULL);
    int failures = 0;
    for (uint64_t nth = 1;; nth++) {
        kvrt_debug_fail_alloc(nth);
        kvrt_status status = kvrt_engine_open(o, NULL, NULL, &engine, &error);
        if (status >= 0) status = kvrt_session_create(engine, NULL, &s, &error);
        kvrt_debug_fail_alloc(0);
        if (engine) kvrt_engine_close(engine, NULL);
        kvrt_debug_mem(&bytes_after, &blocks_after, NULL);
        assert_int_equal(bytes_after, bytes);
        assert_int_equal(blocks_after, blocks);
        if (status >= 0) break;
        assert_int_equal(status, KVRT_NOMEM_HOST);
        failures++;
    }
    assert_true(failures > 20);
    kvrt_options_destroy(o);
    /* A session may be plainer than an elastic engine, not the other way round. */
    kvrt_options_create(&o, NULL);
    kvrt_options_set_text(o, "kv.format", "k4v4", NULL);
    engine = open_with("cpu.threads", "1");
    assert_int_equal(kvrt_session_create(engine, o, &s, &error), KVRT_OK);
    kvrt_engine_close(engine, NULL);
    kvrt_options_set_text(o, "kv.format", "elastic", NULL);
    engine = open_with("kv.format", "k4v2");
    assert_int_equal(kvrt_session_create(engine, o, &s, &error), KVRT_UNSUPPORTED);
    assert_non_null(strstr(error.message, "kv.format elastic"));
    kvrt_engine_close(engine, NULL);
    kvrt_options_destroy(o);
}

/* The plan: as far as k4v2, in at least its bytes; a windowed model reaches its planned end too. */
static void plan_and_windows(void **state)
{
    (void)state;
    kvrt_plan_row rows[2] = {{.size = sizeof rows[0]}, {.size = sizeof rows[0]}};
    kvrt_options *o;
    uint64_t n;
    kvrt_options_create(&o, NULL);
    kvrt_options_set_text(o, "model.shape", "llama-3.2-1b", NULL);
    kvrt_options_set_text(o, "mem.limit", "3GiB", NULL);
    kvrt_options_set_text(o, "kv.round", "plain", NULL); /* plain pages of an elastic cache keep no queries */
    assert_int_equal(kvrt_plan(o, "k4v2,elastic", NULL, rows, 2, &n, NULL), KVRT_OK);
    assert_int_equal(n, 2);
    assert_string_equal(rows[1].kv, "elastic");
    assert_int_equal(rows[0].max_ctx, rows[1].max_ctx);
    assert_true(rows[1].kv_bytes >= rows[0].kv_bytes && rows[1].total_bytes <= 3ull << 30); /* more precision */
    kvrt_options_destroy(o);
    golden_model windowed;
    assert_true(golden_load("qwen2_window", &windowed));
    static const char *const pairs[] = {"kv.format", "elastic", "kv.pool",  "400KiB", "kv.tail", "100",
                                        "ctx.chunk", "200",     "ctx.size", "6000",   NULL};
    static const char *const small[] = {"kv.format", "k4v2",     "kv.tail", "100", "ctx.chunk",
                                        "200",       "ctx.size", "6000",    NULL};
    kvrt_engine engine = golden_open(&windowed, small);
    kvrt_engine_info info = {.size = sizeof info};
    kvrt_engine_get_info(engine, &info, NULL);
    kvrt_engine_close(engine, NULL);
    char limit[32];
    snprintf(limit, sizeof limit, "%llu", (unsigned long long)info.kv_pool_bytes); /* just what k4v2 takes */
    const char *exact[12];
    memcpy(exact, pairs, sizeof pairs);
    exact[3] = limit;
    engine = golden_open(&windowed, exact);
    kvrt_session s;
    kvrt_error error = {.size = sizeof error};
    int32_t ids[200];
    for (int k = 0; k < 200; k++) ids[k] = 2 + k % 90;
    assert_int_equal(kvrt_session_create(engine, NULL, &s, NULL), KVRT_OK);
    for (uint32_t at = 0; at < 6000; at += 200)
        if (kvrt_session_eval(s, ids, 200, NULL, 0, NULL, &error) < 0) fail_msg("at %u: %s", at, error.message);
    kvrt_engine_close(engine, NULL);
    golden_free(&windowed);
}

static int setup(void **state)
{
    (void)state;
    return golden_load("llama_gqa2", &model) ? 0 : -1;
}
static int teardown(void **state)
{
    (void)state;
    golden_free(&model);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(gathering_is_cheapest),
                                       cmocka_unit_test(pages_follow_the_simulation),
                                       cmocka_unit_test(sessions_share_a_pool),
                                       cmocka_unit_test(shared_pages_demote_for_one),
                                       cmocka_unit_test(fixed_pages_in_the_way),
                                       cmocka_unit_test(rewind_gives_back),
                                       cmocka_unit_test(failing_conversion),
                                       cmocka_unit_test(long_generation_keeps_running),
                                       cmocka_unit_test(enough_memory_is_f16),
                                       cmocka_unit_test(event_is_answered),
                                       cmocka_unit_test(refusals_and_failed_allocations),
                                       cmocka_unit_test(plan_and_windows)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
