/* test_mem.c - accounts: what they count, whom a block belongs to, limits, an account that outlives its owner. */
#include "../../runtime/base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static uint64_t live(void)
{
    uint64_t bytes;
    kvi_mem_stats(&bytes, NULL, NULL);
    return bytes;
}

static void blocks_belong_to_who_took_them(void **state)
{
    (void)state;
    const uint64_t before = live();
    kvi_account *a = kvi_account_open(), *b = kvi_account_open();
    const uint64_t own = kvi_account_bytes(a);
    assert_int_equal(live() - before, 2 * own); /* they count themselves */
    assert_null(kvi_account_use(a));
    void *mine = kvi_mem_alloc(1000), *wide = kvi_mem_alloc_aligned(3u << 20);
    assert_ptr_equal(kvi_account_use(b), a);
    void *other = kvi_mem_zalloc(50, 2);
    mine = kvi_mem_realloc(mine, 5000); /* by another owner's thread: it stays a's */
    assert_ptr_equal(kvi_account_use(NULL), b);
    void *nobodys = kvi_mem_alloc(77);
    assert_int_equal(kvi_account_bytes(a), own + 5000 + (3u << 20));
    assert_int_equal(kvi_account_bytes(b), own + 100);
    assert_int_equal(live() - before, kvi_account_bytes(a) + kvi_account_bytes(b) + 77);
    kvi_mem_free_aligned(wide);
    kvi_mem_free(mine);
    assert_int_equal(kvi_account_bytes(a), own);
    assert_int_equal(kvi_account_peak(a), own + 1000 + 5000 + (3u << 20)); /* both sizes of the one that grew */
    kvi_account_close(a);
    kvi_account_close(b); /* before its block: it lives on */
    assert_int_equal(live() - before, own + 100 + 77);
    kvi_mem_free(other);
    kvi_mem_free(nobodys);
    assert_int_equal(live(), before);
    kvi_account_close(NULL);
}

static void a_limit_is_not_passed(void **state)
{
    (void)state;
    const uint64_t before = live();
    kvi_account *a = kvi_account_open();
    const uint64_t own = kvi_account_bytes(a);
    kvi_account_limit(a, own + 1000);
    (void)kvi_account_use(a);
    void *block = kvi_mem_alloc(600);
    assert_non_null(block);
    assert_int_equal(kvi_account_refused(a), 0);
    assert_null(kvi_mem_alloc(401));
    assert_int_equal(kvi_account_refused(a), own + 1001);
    assert_null(kvi_mem_alloc_aligned(500));
    assert_null(kvi_mem_realloc(block, 700)); /* for a moment there would be both */
    void *rest = kvi_mem_alloc(400);          /* to the byte */
    assert_non_null(rest);
    assert_int_equal(kvi_account_bytes(a), own + 1000);
    kvi_account_limit(a, 0);
    void *more = kvi_mem_alloc(1u << 20);
    assert_non_null(more);
    (void)kvi_account_use(NULL);
    kvi_mem_free(block);
    kvi_mem_free(rest);
    kvi_mem_free(more);
    kvi_account_close(a);
    assert_int_equal(live(), before);
}

static void a_failed_allocation_counts_nothing(void **state)
{
    (void)state;
    const uint64_t before = live();
    kvi_mem_fail_nth(1);
    assert_null(kvi_account_open());
    kvi_account *a = kvi_account_open();
    const uint64_t own = kvi_account_bytes(a);
    (void)kvi_account_use(a);
    kvi_mem_fail_nth(1);
    assert_null(kvi_mem_alloc(10));
    assert_int_equal(kvi_account_bytes(a), own);
    assert_int_equal(kvi_account_refused(a), 0);
    (void)kvi_account_use(NULL);
    kvi_account_close(a);
    assert_int_equal(live(), before);
}

static void a_reserved_arena_is_one_block(void **state)
{
    (void)state;
    kvi_arena arena;
    kvi_account *a = kvi_account_open();
    const uint64_t own = kvi_account_bytes(a);
    kvi_arena_init(&arena, 64);
    (void)kvi_account_use(a);
    assert_true(kvi_arena_reserve(&arena, 4800));
    for (unsigned i = 0; i < 100; i++) {
        unsigned char *p = kvi_arena_alloc(&arena, 48);
        assert_true(p && (uintptr_t)p % 16 == 0 && p[0] == 0 && p[47] == 0);
        memset(p, 0xff, 48);
    }
    assert_int_equal(kvi_account_bytes(a), own + 4800 + KVI_ARENA_HEADER);
    assert_non_null(kvi_arena_alloc(&arena, 16)); /* beyond it: a block as usual */
    assert_int_equal(kvi_account_bytes(a), own + 4800 + 64 + 2 * KVI_ARENA_HEADER);
    kvi_arena_free(&arena);
    (void)kvi_account_use(NULL);
    assert_int_equal(kvi_account_bytes(a), own);
    kvi_account_close(a);
}

static void a_reserved_block_grows_and_shrinks(void **state)
{
    (void)state;
    const uint64_t before = live();
    kvi_account *a = kvi_account_open();
    const uint64_t own = kvi_account_bytes(a);
    (void)kvi_account_use(a);
    unsigned char *p = kvi_mem_alloc_reserved(5000, 1u << 24);
    assert_true(p && (uintptr_t)p % 64 == 0);
    assert_int_equal(kvi_account_bytes(a), own + 5000);
    memset(p, 7, 5000);
    assert_true(kvi_mem_resize_reserved(p, 1u << 24));
    assert_int_equal(kvi_account_bytes(a), own + (1u << 24));
    assert_int_equal(kvi_account_peak(a), own + (1u << 24)); /* never both sizes */
    assert_true(p[4999] == 7 && p[(1u << 24) - 1] == 0);
    memset(p + 5000, 9, (1u << 24) - 5000);
    assert_true(kvi_mem_resize_reserved(p, 100000));
    assert_int_equal(live() - before, kvi_account_bytes(a));
    assert_true(kvi_mem_resize_reserved(p, 200000));
    assert_true(p[4999] == 7 && p[99999] == 9 && p[199999] == 0); /* what was given back is gone */
    assert_false(kvi_mem_resize_reserved(p, (1u << 24) + 64));
    kvi_mem_fail_nth(1);
    assert_false(kvi_mem_resize_reserved(p, 300000));
    kvi_account_limit(a, own + 250000);
    assert_false(kvi_mem_resize_reserved(p, 250001));
    assert_true(kvi_mem_resize_reserved(p, 250000));
    assert_int_equal(kvi_account_bytes(a), own + 250000);
    assert_true(kvi_mem_resize_reserved(p, 0));
    kvi_account_limit(a, 0);
    (void)kvi_account_use(NULL);
    kvi_mem_free_aligned(p);
    assert_null(kvi_mem_alloc_reserved(2, 1));
    assert_int_equal(kvi_account_bytes(a), own);
    kvi_account_close(a);
    assert_int_equal(live(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_belong_to_who_took_them), cmocka_unit_test(a_limit_is_not_passed),
        cmocka_unit_test(a_failed_allocation_counts_nothing), cmocka_unit_test(a_reserved_arena_is_one_block),
        cmocka_unit_test(a_reserved_block_grows_and_shrinks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
