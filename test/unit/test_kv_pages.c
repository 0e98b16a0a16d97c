/* test_kv_pages.c - pool and page tables: extents without waste or overlap, encoding, window, rewind, recycling. */
#include "../../runtime/kv/pages.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* Random takes and releases against a map of units: no overlap, exact accounting, everything merges back into one hole. */
static void pool_is_exact(void **state)
{
    (void)state;
    enum { UNITS = 1000, MAX = 200 };
    kvi_pool pool;
    uint8_t owner[UNITS] = {0};
    struct {
        uint32_t unit, len;
    } held[MAX];
    uint32_t n = 0, used = 0, random = 1;
    assert_int_equal(kvi_pool_init(&pool, UNITS * KVI_KV_UNIT + 17, MAX, NULL), KVRT_OK);
    for (int step = 0; step < 20000; step++) {
        random = random * 1664525u + 1013904223u;
        if (n < MAX && (random >> 31 || !n)) {
            uint32_t len = 1 + (random >> 8) % 40, run = 0, longest = 0;
            uint32_t unit = random & 64 ? kvi_pool_take(&pool, len) : kvi_pool_take_high(&pool, len);
            for (uint32_t i = 0; i < UNITS; i++) {
                run = owner[i] ? 0 : run + 1;
                longest = run > longest ? run : longest;
            }
            assert_int_equal(unit == KVI_KV_NO_EXTENT, longest < len);
            if (unit == KVI_KV_NO_EXTENT) continue;
            for (uint32_t i = 0; i < len; i++) assert_int_equal(owner[unit + i]++, 0);
            held[n].unit = unit, held[n++].len = len, used += len;
        } else {
            uint32_t k = (random >> 8) % n;
            for (uint32_t i = 0; i < held[k].len; i++) owner[held[k].unit + i]--;
            kvi_pool_release(&pool, held[k].unit, held[k].len);
            used -= held[k].len;
            held[k] = held[--n];
        }
        assert_int_equal(kvi_pool_used_bytes(&pool), (uint64_t)used * KVI_KV_UNIT);
    }
    while (n) n--, kvi_pool_release(&pool, held[n].unit, held[n].len);
    assert_int_equal(pool.n_holes, 1);
    assert_int_equal(kvi_pool_take(&pool, UNITS), 0);
    assert_int_equal(kvi_pool_take(&pool, 1), KVI_KV_NO_EXTENT);
    kvi_pool_free(&pool);
}

typedef struct rig {
    kvi_store store;
    kvi_pages pages;
    kvi_cache_group groups[2];
} rig;

static void open_rig(rig *r, uint64_t pool_bytes, uint32_t window, kvi_kv_format body, uint32_t tail)
{
    memset(r, 0, sizeof *r);
    r->groups[0] = (kvi_cache_group){.shape = {2, 2, 64, 0}, .plain = KVI_KV_F16};
    r->groups[1] = (kvi_cache_group){.shape = {1, 2, 64, 0}, .plain = KVI_KV_F16, .window = window};
    kvi_group_measure(&r->groups[0]), kvi_group_measure(&r->groups[1]);
    assert_int_equal(kvi_store_init(&r->store, pool_bytes, 400, NULL), KVRT_OK);
    assert_int_equal(kvi_pages_init(&r->pages, &r->store, r->groups, window ? 2 : 1, 8192, body, tail, NULL), KVRT_OK);
}

static void close_rig(rig *r)
{
    kvi_pages_free(&r->pages);
    assert_int_equal(kvi_pool_used_bytes(&r->store.pool), 0);
    kvi_store_free(&r->store);
}

static void encode_all(rig *r, uint32_t n)
{
    kvi_page_job jobs[4];
    uint32_t page_of[4], k;
    while ((k = kvi_pages_due(&r->pages, n, jobs, page_of, 4)) > 0)
        kvi_pages_converted(&r->pages, jobs, page_of, k, true);
    kvi_pages_expire(&r->pages, n);
}

/* Page p is encoded exactly when 128 (p + 1) + tail positions are accepted; the sink never. */
static void encoding_rule(void **state)
{
    (void)state;
    for (uint32_t tail = 0; tail <= 300; tail += 100) {
        rig r;
        open_rig(&r, 64 << 20, 0, KVI_KV_FMT_K4V2, tail);
        for (uint32_t n = 1; n <= 1200; n++) {
            assert_true(kvi_pages_extend(&r.pages, n));
            encode_all(&r, n);
            for (uint32_t p = 0; p < r.pages.n_pages[0]; p++) {
                bool packed = kvi_pages_at(&r.pages, 0, p).format == KVI_KV_FMT_K4V2,
                     due = p > 0 && 128 * (p + 1) + tail <= n;
                if (packed != due)
                    fail_msg("tail %u, %u positions: page %u packed %d, due %d", tail, n, p, packed, due);
            }
        }
        /* Bytes follow the formula. */
        uint32_t n_pages, n_packed, n_shared;
        kvi_pages_count(&r.pages, &n_pages, &n_packed, &n_shared);
        uint64_t want =
            (uint64_t)KVI_KV_UNIT * ((n_pages - n_packed) * kvi_kv_page_units(KVI_KV_FMT_F16, &r.groups[0].shape) +
                                     n_packed * kvi_kv_page_units(KVI_KV_FMT_K4V2, &r.groups[0].shape));
        assert_int_equal(kvi_pages_bytes(&r.pages), want);
        assert_int_equal(kvi_pool_used_bytes(&r.store.pool), want);
        close_rig(&r);
    }
}

/* Without room beside it, a page is encoded in place and its end returns to the pool; a failing encoding gives the target back. */
static void encoding_in_a_full_pool(void **state)
{
    (void)state;
    rig r;
    uint64_t page = (uint64_t)KVI_KV_UNIT * kvi_kv_page_units(KVI_KV_FMT_F16, &(kvi_kv_shape){2, 2, 64, 0});
    open_rig(&r, 4 * page, 0, KVI_KV_FMT_K4V4, 0);
    assert_true(kvi_pages_extend(&r.pages, 512));
    assert_false(kvi_pages_extend(&r.pages, 513));
    assert_int_equal(r.pages.n_pages[0], 4);
    kvi_page_job jobs[4];
    uint32_t page_of[4];
    uint64_t before = kvi_pool_used_bytes(&r.store.pool);
    uint32_t n = kvi_pages_due(&r.pages, 512, jobs, page_of, 4);
    assert_int_equal(n, 3);
    for (uint32_t i = 0; i < n; i++) assert_int_equal(jobs[i].from.unit, jobs[i].to.unit);
    kvi_pages_converted(&r.pages, jobs, page_of, n, false);
    assert_int_equal(kvi_pool_used_bytes(&r.store.pool), before);
    encode_all(&r, 512);
    uint64_t packed = (uint64_t)KVI_KV_UNIT * kvi_kv_page_units(KVI_KV_FMT_K4V4, &r.groups[0].shape);
    assert_int_equal(kvi_pool_used_bytes(&r.store.pool), page + 3 * packed);
    close_rig(&r);
}

static void window_keeps_its_window(void **state)
{
    (void)state;
    rig r;
    open_rig(&r, 64 << 20, 300, KVI_KV_FMT_F16, 0);
    for (uint32_t n = 1; n <= 2000; n++) {
        assert_true(kvi_pages_extend(&r.pages, n));
        encode_all(&r, n);
        for (uint32_t p = 0; p < r.pages.n_pages[1]; p++) {
            /* A query at position n sees positions above n - 300. */
            bool seen = (p + 1) * 128 > n - (n < 300 ? n : 299),
                 there = kvi_pages_at(&r.pages, 1, p).unit != KVI_KV_NO_EXTENT;
            if (seen && !there) fail_msg("%u positions: page %u of the window is gone", n, p);
            assert_true(kvi_pages_at(&r.pages, 0, p).unit != KVI_KV_NO_EXTENT);
        }
    }
    uint32_t alive = 0;
    for (uint32_t p = 0; p < r.pages.n_pages[1]; p++) alive += kvi_pages_at(&r.pages, 1, p).unit != KVI_KV_NO_EXTENT;
    assert_true(alive <= 4);
    /* Back by a little: exact. Back past what the window gave away: from the start. */
    assert_int_equal(kvi_pages_rewind(&r.pages, 1990, 1990), 1990);
    assert_int_equal(kvi_pages_rewind(&r.pages, 900, 900), 0);
    assert_int_equal(kvi_pages_bytes(&r.pages), 0);
    assert_true(kvi_pages_extend(&r.pages, 700));
    close_rig(&r);
}

static void rewind_rounds_to_encoded_pages(void **state)
{
    (void)state;
    rig r;
    open_rig(&r, 64 << 20, 0, KVI_KV_FMT_K4V4, 128);
    assert_true(kvi_pages_extend(&r.pages, 1000));
    encode_all(&r, 1000); /* pages 1..5 packed */
    assert_int_equal(kvi_pages_rewind(&r.pages, 999, 999), 999);
    assert_int_equal(kvi_pages_rewind(&r.pages, 800, 800), 800);
    assert_int_equal(kvi_pages_rewind(&r.pages, 768, 768), 768);
    assert_int_equal(kvi_pages_rewind(&r.pages, 767, 767), 640);
    assert_int_equal(kvi_pages_rewind(&r.pages, 256, 256), 256);
    assert_int_equal(kvi_pages_rewind(&r.pages, 100, 100), 100); /* the sink is plain */
    assert_true(kvi_pages_extend(&r.pages, 400));
    assert_int_equal(kvi_pages_at(&r.pages, 0, 2).format, KVI_KV_FMT_F16);
    close_rig(&r);
}

static void open_keeping_queries(rig *r, uint32_t tail)
{
    open_rig(r, 64 << 20, 0, KVI_KV_FMT_K4V4, tail);
    r->groups[0].n_queries = 64;
    kvi_group_measure(&r->groups[0]);
}

/* Queries cost a plain page 64 rows of each record; a page is encoded with those of its successor, when the tail says that it is complete. */
static void codes_are_shaped_by_the_successor(void **state)
{
    (void)state;
    for (uint32_t tail = 0; tail <= 300; tail += 100) {
        rig r;
        uint32_t n_jobs = 0;
        open_keeping_queries(&r, tail);
        assert_int_equal(kvi_group_units(&r.groups[0], KVI_KV_FMT_F16), (4 * (2 * 128 * 64 * 2 + 64 * 64)) / 256);
        assert_int_equal(kvi_group_units(&r.groups[0], KVI_KV_FMT_K4V4),
                         kvi_kv_page_units(KVI_KV_FMT_K4V4, &r.groups[0].shape));
        for (uint32_t n = 1; n <= 1200; n += n % 100 == 1 ? 100 : 1) {
            kvi_page_job jobs[3];
            uint32_t page_of[3], k;
            assert_true(kvi_pages_extend(&r.pages, n));
            while ((k = kvi_pages_due(&r.pages, n, jobs, page_of, 3)) > 0) {
                for (uint32_t i = 0; i < k; i++, n_jobs++) {
                    const kvi_page_ref next = kvi_pages_at(&r.pages, 0, page_of[i] + 1);
                    if (tail < 128) assert_int_equal(jobs[i].next.unit, KVI_KV_NO_EXTENT);
                    else assert_memory_equal(&jobs[i].next, &next, sizeof next);
                    assert_int_equal(kvi_pages_at(&r.pages, 0, page_of[i] + 1).format, KVI_KV_FMT_F16);
                }
                kvi_pages_converted(&r.pages, jobs, page_of, k, true);
            }
        }
        assert_true(n_jobs >= 5);
        close_rig(&r);
    }
}

/* A page rests on its successor's tokens: it goes when one of them does, and stays when they are only computed again. */
static void rewind_drops_what_was_shaped_by_lost_tokens(void **state)
{
    (void)state;
    for (uint32_t tail = 0; tail <= 128; tail += 128) {
        rig r;
        open_keeping_queries(&r, tail);
        assert_true(kvi_pages_extend(&r.pages, 1000));
        encode_all(&r, 1000); /* pages 1..5 packed with the tail, 1..6 without */
        assert_int_equal(kvi_pages_rests_on(&r.pages, 0, 5), tail ? 896 : 768);
        assert_int_equal(kvi_pages_rests_on(&r.pages, 0, 7), 1024);
        assert_int_equal(kvi_pages_rewind(&r.pages, 897, 897), 897);
        assert_int_equal(kvi_pages_rewind(&r.pages, 896, 896), 896);
        assert_int_equal(kvi_pages_rewind(&r.pages, 895, 896), tail ? 895 : 768); /* without a tail, page 6 is packed */
        assert_int_equal(kvi_pages_rewind(&r.pages, 768, 895), tail ? 640 : 768);
        assert_int_equal(kvi_pages_rewind(&r.pages, 640, 767), tail ? 512 : 640);
        assert_int_equal(kvi_pages_rewind(&r.pages, 384, 640),
                         384); /* tokens up to 640 stay: nothing that is left rests on more */
        assert_int_equal(kvi_pages_rewind(&r.pages, 100, 100), 100);
        close_rig(&r);
    }
}

/* An encoding that fails gives its new extents back and leaves the pages as they were. */
static void failed_encoding_gives_extents_back(void **state)
{
    (void)state;
    rig r;
    kvi_page_job jobs[8];
    uint32_t page_of[8];
    open_rig(&r, 4u << 20, 0, KVI_KV_FORMAT(KVI_KV_Q4, KVI_KV_Q4), 0);
    assert_true(kvi_pages_extend(&r.pages, 1024));
    const uint64_t before = kvi_pool_used_bytes(&r.store.pool);
    const kvi_page_ref page = kvi_pages_at(&r.pages, 0, 1);
    const uint32_t n = kvi_pages_due(&r.pages, 1024, jobs, page_of, 8);
    assert_true(n > 1 && kvi_pool_used_bytes(&r.store.pool) > before);
    kvi_pages_converted(&r.pages, jobs, page_of, n, false);
    assert_int_equal(kvi_pool_used_bytes(&r.store.pool), before);
    const kvi_page_ref after = kvi_pages_at(&r.pages, 0, 1);
    assert_memory_equal(&page, &after, sizeof page);
    close_rig(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(failed_encoding_gives_extents_back),
                                       cmocka_unit_test(pool_is_exact),
                                       cmocka_unit_test(encoding_rule),
                                       cmocka_unit_test(encoding_in_a_full_pool),
                                       cmocka_unit_test(window_keeps_its_window),
                                       cmocka_unit_test(rewind_rounds_to_encoded_pages),
                                       cmocka_unit_test(codes_are_shaped_by_the_successor),
                                       cmocka_unit_test(rewind_drops_what_was_shaped_by_lost_tokens)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
