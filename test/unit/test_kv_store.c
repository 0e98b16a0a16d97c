/* test_kv_store.c - objects of the pool under ids: random lives against a model that knows no lists, the order in which idle ones go, keys,
 * page tables that share, copy before they write and convert for themselves alone, and memories of what may be gone. */
#include "../../runtime/kv/compact.h"
#include "../../runtime/kv/elastic.h"

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

/* -------------------------------------------------------------------------------------------------------------- keys --- */
static unsigned bits_between(kvi_page_key a, kvi_page_key b)
{
    unsigned n = 0;
    for (uint64_t x = a.low ^ b.low; x; x &= x - 1) n++;
    for (uint64_t x = a.high ^ b.high; x; x &= x - 1) n++;
    return n;
}
static bool same(kvi_page_key a, kvi_page_key b) { return a.low == b.low && a.high == b.high; }

/* One changed bit of any token, of the seed, of what came before: about half of the key's bits change. */
static void keys_depend_on_everything(void **state)
{
    int32_t ids[128];
    unsigned least = 128, most = 0;
    uint64_t sum = 0, n = 0;
    const kvi_page_key seed = kvi_key_begin("model, format", 13);
    for (int i = 0; i < 128; i++) ids[i] = (int32_t)below(128000);
    const kvi_page_key key = kvi_key_next(seed, ids, 128);
    assert_true(same(key, kvi_key_next(seed, ids, 128)));
    for (unsigned i = 0; i < 128; i++)
        for (unsigned bit = 0; bit < 31; bit++, n++) {
            ids[i] ^= (int32_t)(1u << bit);
            const unsigned differ = bits_between(key, kvi_key_next(seed, ids, 128));
            ids[i] ^= (int32_t)(1u << bit);
            sum += differ;
            if (differ < least) least = differ;
            if (differ > most) most = differ;
        }
    if (least < 30 || most > 98 || sum < 62 * n || sum > 66 * n)
        fail_msg("%u to %u bits change, %.1f in the mean", least, most, (double)sum / (double)n);
    assert_true(bits_between(key, kvi_key_next(kvi_key_begin("model, formaT", 13), ids, 128)) > 30);
    assert_true(bits_between(key, kvi_key_next(kvi_key_next(seed, ids, 64), ids + 64, 64)) > 30);
    assert_true(bits_between(key, kvi_key_next(seed, ids, 127)) > 30);
    const int32_t zeros[3] = {0, 0, 0};
    assert_false(same(kvi_key_next(seed, zeros, 2), kvi_key_next(seed, zeros, 3)));
    const int32_t swapped[2] = {5, 9}, other[2] = {9, 5};
    assert_false(same(kvi_key_next(seed, swapped, 2), kvi_key_next(seed, other, 2)));
}

static int by_value(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Each half alone tells 300,000 texts apart that differ in two small numbers (a chance of 2e-9 in 64 good bits). */
static void keys_do_not_collide(void **state)
{
    enum { SIDE = 550, N = SIDE * SIDE };
    uint64_t *low = malloc(N * sizeof *low), *high = malloc(N * sizeof *high);
    assert_true(low && high);
    int32_t ids[128] = {0};
    const kvi_page_key seed = kvi_key_begin(NULL, 0);
    for (int32_t i = 0; i < N; i++) {
        ids[3] = i / SIDE, ids[99] = i % SIDE;
        const kvi_page_key key = kvi_key_next(seed, ids, 128);
        low[i] = key.low, high[i] = key.high;
    }
    qsort(low, N, sizeof *low, by_value), qsort(high, N, sizeof *high, by_value);
    for (int i = 1; i < N; i++) assert_true(low[i] != low[i - 1] && high[i] != high[i - 1]);
    free(low), free(high);
}

/* ------------------------------------------------------------------------------------------------------ random lives --- */
enum { UNITS = 250, CAP = UNITS };            /* an object has a unit at least */
typedef struct thing {                        /* what a model knows of an object */
    uint32_t refs, units, group, key, serial; /* key 0: none; refs 0 and not kept: gone */
    uint64_t idle_since;
    bool alive, kept;
    kvi_kv_format format;
} thing;
static thing things[CAP];
static uint8_t content[UNITS]; /* id + 1 of whose unit it is */

static kvi_page_key key_of(uint32_t number) { return kvi_key_next(kvi_key_begin("k", 1), (const int32_t *)&number, 1); }

static kvrt_status move_content(void *user, uint32_t from, uint32_t to, uint32_t units, kvrt_error *error)
{
    (void)user, (void)error;
    memmove(content + to, content + from, units);
    return KVRT_OK;
}

static void set_content(const kvi_store *store, uint32_t id)
{
    memset(content + store->pages[id].unit, (int)id + 1, store->pages[id].units);
}

static void check_store(const kvi_store *store)
{
    uint8_t owner[UNITS] = {0};
    uint32_t used = 0, idle = 0;
    for (uint32_t id = 0; id < CAP; id++) {
        const thing *t = &things[id];
        const kvi_page *page = &store->pages[id];
        assert_int_equal(id < store->n_ids && page->unit != KVI_KV_NO_EXTENT, t->alive);
        if (!t->alive) continue;
        assert_int_equal(page->units, t->units);
        assert_int_equal(page->refs, t->refs);
        assert_int_equal(page->format, t->format);
        for (uint32_t u = page->unit; u < page->unit + page->units; u++) {
            assert_int_equal(owner[u]++, 0);
            assert_int_equal(content[u], id + 1);
        }
        used += t->units;
        idle += t->refs ? 0 : t->units;
        if (t->key) assert_int_equal(kvi_store_find(store, t->group, t->format, key_of(t->key)), id);
    }
    assert_int_equal(store->pool.n_units - store->pool.free_units, used);
    assert_int_equal(store->idle_units, idle);
}

static uint32_t random_thing(bool held)
{
    uint32_t some[CAP], n = 0;
    for (uint32_t id = 0; id < CAP; id++)
        if (things[id].alive && (things[id].refs > 0 || !held)) some[n++] = id;
    return n ? some[below(n)] : CAP;
}

static void drop_thing(kvi_store *store, uint32_t id, uint64_t now)
{
    thing *t = &things[id];
    kvi_store_drop(store, id);
    if (--t->refs > 0) return;
    if (t->kept) t->idle_since = now;
    else memset(t, 0, sizeof *t);
}

static void take_thing(kvi_store *store)
{
    const uint32_t units = 1 + below(12), group = below(2), before = store->pool.free_units;
    const uint32_t id = kvi_store_take(store, group, KVI_KV_FMT_F16, units, below(2));
    if (id == KVI_NO_PAGE) return;
    assert_int_equal(store->pool.free_units, before - units);
    assert_false(things[id].alive);
    things[id] = (thing){.refs = 1, .units = units, .group = group, .alive = true, .format = KVI_KV_FMT_F16};
    set_content(store, id);
}

static void publish_thing(kvi_store *store, uint32_t id)
{
    const uint32_t key = 1 + below(12), got = kvi_store_publish(store, id, key_of(key));
    uint32_t known = CAP;
    for (uint32_t i = 0; i < CAP; i++)
        if (things[i].alive && things[i].key == key && things[i].group == things[id].group &&
            things[i].format == things[id].format)
            known = i;
    assert_int_equal(got, known == CAP ? id : known);
    if (known == CAP) things[id].key = key, things[id].kept = true;
}

/* In place or beside; what several hold is left to the others. */
static void convert_thing(kvi_store *store, uint32_t id)
{
    thing *t = &things[id];
    if (t->units < 2 || t->format != KVI_KV_FMT_F16) return;
    const uint32_t units = t->units / 2, beside = kvi_pool_take(&store->pool, units);
    if (beside == KVI_KV_NO_EXTENT && t->refs > 1) return;
    const uint32_t unit = beside == KVI_KV_NO_EXTENT ? store->pages[id].unit : beside;
    const uint32_t got = kvi_store_convert(store, id, (kvi_page_ref){unit, KVI_KV_FMT_I8}, units);
    assert_int_equal(got == id, t->refs == 1);
    if (got == id) {
        t->units = units, t->format = KVI_KV_FMT_I8;
    } else {
        t->refs--;
        things[got] = (thing){.refs = 1, .units = units, .group = t->group, .alive = true, .format = KVI_KV_FMT_I8};
    }
    set_content(store, got);
}

/* The oldest idle ones go, and no more of them than needed. */
static void free_some(kvi_store *store)
{
    const uint32_t want = store->pool.free_units + below(8);
    uint32_t left = store->pool.free_units;
    while (left < want) {
        uint32_t oldest = CAP;
        for (uint32_t i = 0; i < CAP; i++)
            if (things[i].alive && !things[i].refs &&
                (oldest == CAP || things[i].idle_since < things[oldest].idle_since))
                oldest = i;
        if (oldest == CAP) break;
        left += things[oldest].units;
        memset(&things[oldest], 0, sizeof things[oldest]);
    }
    assert_int_equal(kvi_store_free_up(store, want), left >= want);
    assert_int_equal(store->pool.free_units, left);
}

static void random_lives(void **state)
{
    kvi_store store;
    unsigned found = 0, shared = 0, joined = 0;
    assert_int_equal(kvi_store_init(&store, UNITS * KVI_KV_UNIT, CAP, NULL), KVRT_OK);
    for (uint64_t now = 1; now < 60000; now++) {
        const uint32_t what = below(9), held = random_thing(true);
        if (what < 3) take_thing(&store);
        else if (what == 3 && held < CAP && below(3) == 0) kvi_store_share(&store, held), things[held].refs++, shared++;
        else if (what <= 5 && held < CAP) drop_thing(&store, held, now);
        else if (what == 6 && held < CAP && !things[held].key) publish_thing(&store, held);
        else if (what == 7) {
            const uint32_t key = 1 + below(12), group = below(2);
            const uint32_t id = kvi_store_find(&store, group, KVI_KV_FMT_F16, key_of(key));
            if (id == KVI_NO_PAGE) {
                for (uint32_t i = 0; i < CAP; i++)
                    assert_false(things[i].alive && things[i].key == key && things[i].group == group &&
                                 things[i].format == KVI_KV_FMT_F16);
            } else {
                assert_int_equal(things[id].key, key);
                kvi_store_share(&store, id);
                found += things[id].refs++ == 0;
            }
        } else if (below(3) == 0 && held < CAP && !things[held].key) convert_thing(&store, held);
        else if (below(2)) free_some(&store);
        else {
            bool done;
            assert_int_equal(kvi_compact(&store, 1 + below(20), move_content, NULL, &done, NULL), KVRT_OK);
            joined += done;
        }
        check_store(&store);
    }
    if (!(found > 40 && shared > 1000 && joined > 100))
        fail_msg("%u found, %u shared, %u joined", found, shared, joined);
    for (uint32_t id = 0; id < CAP; id++)
        while (things[id].refs) drop_thing(&store, id, UINT64_MAX);
    assert_true(kvi_store_free_up(&store, UNITS));
    assert_int_equal(store.pool.n_holes, 1);
    kvi_store_free(&store);
}

/* Ids of those that go first to last, and what is spare before what is not. */
static void idle_ones_go_in_order(void **state)
{
    kvi_store store;
    uint32_t id[5];
    kvi_memo memo[5];
    assert_int_equal(kvi_store_init(&store, 10 * KVI_KV_UNIT, 10, NULL), KVRT_OK);
    for (unsigned i = 0; i < 5; i++) {
        id[i] = kvi_store_take(&store, 0, KVI_KV_FMT_F16, 2, false);
        memo[i] = kvi_store_remember(&store, id[i], i == 4);
    }
    assert_int_equal(kvi_store_take(&store, 0, KVI_KV_FMT_F16, 1, false), KVI_NO_PAGE);
    assert_false(kvi_store_free_up(&store, 1)); /* what is held stays */
    kvi_store_drop(&store, id[2]), kvi_store_drop(&store, id[0]), kvi_store_drop(&store, id[1]);
    kvi_store_drop(&store, id[3]), kvi_store_drop(&store, id[4]);
    kvi_store_share(&store, id[2]), kvi_store_drop(&store, id[2]); /* used: 4, 0, 1, 3, 2 */
    static const unsigned order[5] = {4, 0, 1, 3, 2};
    for (unsigned i = 0; i < 5; i++) {
        for (unsigned k = 0; k < 5; k++)
            assert_int_equal(kvi_store_recall(&store, memo[order[k]]) != KVI_NO_PAGE, k >= i);
        assert_true(kvi_store_free_up(&store, 2 * i + 1));
    }
    /* The ids have new owners: nobody takes them for the old ones. */
    for (unsigned i = 0; i < 5; i++) assert_true(kvi_store_take(&store, 0, KVI_KV_FMT_F16, 2, false) != KVI_NO_PAGE);
    for (unsigned i = 0; i < 5; i++) assert_int_equal(kvi_store_recall(&store, memo[i]), KVI_NO_PAGE);
    kvi_store_free(&store);
}

static void memories(void **state)
{
    kvi_store store;
    assert_int_equal(kvi_store_init(&store, 10 * KVI_KV_UNIT, 10, NULL), KVRT_OK);
    assert_int_equal(kvi_store_recall(&store, (kvi_memo){0, 0}), KVI_NO_PAGE);
    assert_false(kvi_store_forget(&store, (kvi_memo){0, 0}));
    const uint32_t id = kvi_store_take(&store, 0, KVI_KV_FMT_F16, 3, false);
    kvi_memo memo = kvi_store_remember(&store, id, false);
    kvi_store_drop(&store, id);
    assert_int_equal(kvi_store_take_back(&store, memo), id);
    assert_int_equal(kvi_store_recall(&store, memo), KVI_NO_PAGE); /* it will be written to */
    kvi_store_drop(&store, id);
    assert_int_equal(store.pool.free_units, 10); /* and is nobody's any more */
    /* Published, it is there for others even when it was taken back and forgotten. */
    const uint32_t page = kvi_store_take(&store, 1, KVI_KV_FMT_I8, 3, false);
    const kvi_page_key key = key_of(7);
    assert_int_equal(kvi_store_publish(&store, page, key), page);
    memo = kvi_store_remember(&store, page, false);
    kvi_store_drop(&store, page);
    assert_true(kvi_store_forget(&store, memo));
    assert_int_equal(kvi_store_find(&store, 1, KVI_KV_FMT_I8, key), page);
    assert_int_equal(kvi_store_find(&store, 0, KVI_KV_FMT_I8, key), KVI_NO_PAGE);
    assert_int_equal(kvi_store_find(&store, 1, KVI_KV_FMT_F16, key), KVI_NO_PAGE);
    kvi_store_share(&store, page);
    kvi_store_renew(&store, page); /* written to: it is not that page any more */
    assert_int_equal(kvi_store_find(&store, 1, KVI_KV_FMT_I8, key), KVI_NO_PAGE);
    kvi_store_drop(&store, page);
    assert_int_equal(store.pool.free_units, 10);
    kvi_store_free(&store);
}

/* ------------------------------------------------------------------------------------------------------ shared tables --- */
typedef struct rig {
    kvi_store store;
    kvi_cache_group groups[2];
    kvi_pages a, b;
} rig;

static void open_rig(rig *r, uint32_t pool_units, kvi_kv_format body, uint32_t window)
{
    memset(r, 0, sizeof *r);
    r->groups[0] = (kvi_cache_group){.shape = {2, 2, 64, 0}, .plain = KVI_KV_F16};
    r->groups[1] = (kvi_cache_group){.shape = {1, 2, 64, 0}, .plain = KVI_KV_F16, .window = window};
    kvi_group_measure(&r->groups[0]), kvi_group_measure(&r->groups[1]);
    assert_int_equal(kvi_store_init(&r->store, (uint64_t)pool_units * KVI_KV_UNIT, 500, NULL), KVRT_OK);
    assert_int_equal(kvi_pages_init(&r->a, &r->store, r->groups, 2, 8192, body, 128, NULL), KVRT_OK);
    assert_int_equal(kvi_pages_init(&r->b, &r->store, r->groups, 2, 8192, body, 128, NULL), KVRT_OK);
}

static void close_rig(rig *r)
{
    kvi_pages_free(&r->a), kvi_pages_free(&r->b);
    assert_int_equal(kvi_pool_used_bytes(&r->store.pool), 0);
    kvi_store_free(&r->store);
}

static void encode_due(kvi_pages *pages, uint32_t n)
{
    kvi_page_job jobs[4];
    uint32_t page_of[4], k;
    while ((k = kvi_pages_due(pages, n, jobs, page_of, 4)) > 0) kvi_pages_converted(pages, jobs, page_of, k, true);
    kvi_pages_expire(pages, n);
}

static void same_tables(const kvi_pages *a, const kvi_pages *b, uint32_t n_pages)
{
    for (uint32_t g = 0; g < 2; g++)
        for (uint32_t p = 0; p < n_pages; p++) assert_int_equal(a->ids[g][p], b->ids[g][p]);
}

/* A prefix costs its pages once; the open page is copied when one of the two writes; what is encoded for one stays as it is for the other. */
static void shared_prefix(void **state)
{
    for (uint32_t first = 0; first < 2; first++) { /* who goes on first */
        rig r;
        kvi_extent_copy copy;
        open_rig(&r, 20000, KVI_KV_FMT_K4V4, 700);
        kvi_pages *one = first ? &r.b : &r.a, *two = first ? &r.a : &r.b;
        assert_true(kvi_pages_extend(&r.a, 1000));
        encode_due(&r.a, 1000);
        const uint64_t used = kvi_pool_used_bytes(&r.store.pool);
        kvi_pages_share(&r.b, &r.a, 1000);
        same_tables(&r.a, &r.b, 8);
        assert_int_equal(kvi_pool_used_bytes(&r.store.pool), used);
        assert_int_equal(kvi_pages_bytes(&r.a), kvi_pages_bytes(&r.b));
        for (uint32_t g = 0; g < 2; g++) {
            const kvi_page_ref open = kvi_pages_at(two, g, 7);
            assert_true(kvi_pages_own(one, g, 1000, &copy));
            assert_int_equal(copy.units, r.groups[g].units[kvi_kv_format_index(KVI_KV_FMT_F16)]);
            assert_int_equal(copy.from_unit, open.unit);
            assert_int_equal(copy.to_unit, kvi_pages_at(one, g, 7).unit);
            assert_int_not_equal(one->ids[g][7], two->ids[g][7]);
            assert_int_equal(kvi_pages_at(two, g, 7).unit, open.unit);
            assert_true(kvi_pages_own(two, g, 1000, &copy) && copy.units == 0); /* alone with it by now */
        }
        same_tables(&r.a, &r.b, 7);
        /* One goes on: page 6 is encoded at 1024, for it alone. */
        const kvi_page_ref plain = kvi_pages_at(two, 0, 6);
        assert_int_equal(plain.format, KVI_KV_FMT_F16);
        assert_true(kvi_pages_extend(one, 1100));
        encode_due(one, 1100);
        assert_int_equal(kvi_pages_at(one, 0, 6).format, KVI_KV_FMT_K4V4);
        assert_int_equal(kvi_pages_at(two, 0, 6).format, KVI_KV_FMT_F16);
        assert_int_equal(kvi_pages_at(two, 0, 6).unit, plain.unit);
        /* And the other: in the place of its own page, or beside. Rewinds cut for one alone. */
        assert_true(kvi_pages_extend(two, 1100));
        encode_due(two, 1100);
        assert_int_equal(kvi_pages_at(two, 0, 6).format, KVI_KV_FMT_K4V4);
        assert_int_equal(kvi_pages_rewind(one, 256, 256), 0); /* the window has gone on */
        assert_int_equal(two->n_pages[0], 9);
        for (uint32_t p = 0; p < 9; p++) assert_true(kvi_pages_at(two, 0, p).unit != KVI_KV_NO_EXTENT);
        kvi_pages_free(one);
        assert_int_equal(kvi_pages_bytes(two), kvi_pool_used_bytes(&r.store.pool));
        close_rig(&r);
    }
}

/* Without room beside it, a page that others hold waits; those behind it wait too, and none is forgotten. */
static void shared_pages_wait_for_room(void **state)
{
    rig r;
    open_rig(&r, 9 * 768, KVI_KV_FMT_K4V4, 0);
    assert_true(kvi_pages_extend(&r.a, 128 * 9));
    assert_int_equal(r.store.pool.free_units, 0);
    kvi_pages_share(&r.b, &r.a, 128 * 9);
    kvi_page_job jobs[8];
    uint32_t page_of[8];
    assert_int_equal(kvi_pages_due(&r.a, 128 * 9, jobs, page_of, 8), 0);
    kvi_pages_free(&r.b);
    encode_due(&r.a, 128 * 9);
    for (uint32_t p = 1; p < 8; p++) assert_int_equal(kvi_pages_at(&r.a, 0, p).format, KVI_KV_FMT_K4V4);
    close_rig(&r);
}

/* A page that was published and is written to again is not found any more; one that is shared is copied, and stays known. */
static void writing_ends_what_was_published(void **state)
{
    rig r;
    kvi_extent_copy copy;
    open_rig(&r, 20000, KVI_KV_FMT_F16, 0);
    assert_true(kvi_pages_extend(&r.a, 256));
    const kvi_page_key key = key_of(1);
    assert_int_equal(kvi_store_publish(&r.store, r.a.ids[0][1], key), r.a.ids[0][1]);
    assert_int_equal(kvi_pages_rewind(&r.a, 200, 200), 200);
    kvi_pages_share(&r.b, &r.a, 200);
    assert_true(kvi_pages_own(&r.b, 0, 200, &copy) && copy.units == 512);
    assert_int_equal(kvi_store_find(&r.store, 0, KVI_KV_FMT_F16, key), r.a.ids[0][1]);
    assert_true(kvi_pages_own(&r.a, 0, 200, &copy) && copy.units == 0);
    assert_int_equal(kvi_store_find(&r.store, 0, KVI_KV_FMT_F16, key), KVI_NO_PAGE);
    /* Idle until it is found: the sequence that made it is gone. */
    const uint32_t id = r.b.ids[0][0];
    kvi_pages_free(&r.a);
    (void)kvi_store_publish(&r.store, id, key);
    kvi_pages_free(&r.b);
    assert_int_equal(kvi_store_find(&r.store, 0, KVI_KV_FMT_F16, key), id);
    assert_int_equal(r.store.idle_units, 512);
    assert_true(kvi_store_free_up(&r.store, 20000));
    assert_int_equal(kvi_store_find(&r.store, 0, KVI_KV_FMT_F16, key), KVI_NO_PAGE);
    close_rig(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(keys_depend_on_everything),
                                       cmocka_unit_test(keys_do_not_collide),
                                       cmocka_unit_test(random_lives),
                                       cmocka_unit_test(idle_ones_go_in_order),
                                       cmocka_unit_test(memories),
                                       cmocka_unit_test(shared_prefix),
                                       cmocka_unit_test(shared_pages_wait_for_room),
                                       cmocka_unit_test(writing_ends_what_was_published)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
