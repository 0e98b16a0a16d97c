/* test_kv_states.c - states of a made-up size: random lives of a few sequences in one pool, every byte followed, against a list of what was
 * saved. A sequence goes back to the last checkpoint at or before the wanted position and finds there what it had; the one missed least makes room
 * for a new one; under pressure checkpoints go, the live state never. */
#include "../../runtime/kv/compact.h"
#include "../../runtime/kv/states.h"

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

enum { UNITS = 3000, STATE = 7 }; /* units */
static uint64_t content[UNITS];   /* of each unit: whose state, at which position, which unit of it */

static uint64_t word(uint32_t sequence, uint64_t position, uint32_t unit)
{
    return position << 16 | sequence << 8 | unit;
}
static void copy_units(kvi_extent_copy copy)
{
    memmove(content + copy.to_unit, content + copy.from_unit, copy.units * sizeof content[0]);
}
static kvrt_status move_units(void *user, uint32_t from, uint32_t to, uint32_t units, kvrt_error *error)
{
    (void)user, (void)error;
    copy_units((kvi_extent_copy){from, to, units});
    return KVRT_OK;
}
/* The state after so many positions. */
static void compute(const kvi_states *s, uint32_t sequence, uint64_t position)
{
    for (uint32_t u = 0; u < STATE; u++) content[kvi_states_unit(s) + u] = word(sequence, position, u);
}
static void check(const kvi_states *s, uint32_t sequence, uint64_t position)
{
    for (uint32_t u = 0; u < STATE; u++) assert_int_equal(content[kvi_states_unit(s) + u], word(sequence, position, u));
}

static void without_states(void **state)
{
    kvi_store store;
    kvi_states none;
    kvi_extent_copy copy;
    assert_int_equal(kvi_store_init(&store, 10 * KVI_KV_UNIT, 10, NULL), KVRT_OK);
    kvi_states_init(&none, &store, 0);
    assert_true(kvi_states_begin(&none));
    assert_false(kvi_states_save(&none, 128, &copy));
    assert_int_equal(kvi_states_nearest(&none, 1000), 0);
    kvi_states_restore(&none, 0, &copy);
    assert_int_equal(copy.units, 0);
    assert_int_equal(kvi_states_unit(&none), 0);
    kvi_states_free(&none);
    assert_int_equal(store.pool.free_units, 10);
    kvi_store_free(&store);
    assert_int_equal(kvi_state_units(1), 1);
    assert_int_equal(kvi_state_units(KVI_KV_UNIT + 1), 2);
}

static void back_to_the_last_checkpoint(void **state)
{
    kvi_store store;
    kvi_states s;
    kvi_extent_copy copy;
    assert_int_equal(kvi_store_init(&store, UNITS * KVI_KV_UNIT, 400, NULL), KVRT_OK);
    kvi_states_init(&s, &store, STATE * KVI_KV_UNIT - 3);
    assert_int_equal(s.units, STATE);
    assert_false(kvi_states_save(&s, 128, &copy)); /* nothing is live */
    assert_true(kvi_states_begin(&s) && kvi_states_begin(&s));
    assert_int_equal(store.pool.free_units, UNITS - STATE);
    assert_false(kvi_states_save(&s, 0, &copy)); /* the state of position 0 is zero everywhere */
    for (uint32_t p = 128; p <= 128 * KVI_STATE_CHECKPOINTS; p += 128) {
        compute(&s, 0, p);
        assert_true(kvi_states_save(&s, p, &copy) && copy.units == STATE);
        copy_units(copy);
    }
    assert_int_equal(store.pool.free_units, UNITS - STATE * (1 + KVI_STATE_CHECKPOINTS));
    compute(&s, 0, 999);
    assert_int_equal(kvi_states_nearest(&s, 127), 0);
    assert_int_equal(kvi_states_nearest(&s, 128), 128);
    assert_int_equal(kvi_states_nearest(&s, 383), 256);
    assert_int_equal(kvi_states_nearest(&s, 9999), 512);
    kvi_states_restore(&s, 256, &copy);
    copy_units(copy);
    check(&s, 0, 256);
    /* Of 128, 256, 384 and 512 the way past the last is shortest at 600; at 700 that past 128. A position saved again keeps its place. */
    for (uint32_t p = 600; p <= 700; p += 100) {
        compute(&s, 0, p);
        assert_true(kvi_states_save(&s, p, &copy));
        copy_units(copy);
        assert_true(kvi_states_save(&s, p, &copy));
        assert_int_equal(kvi_states_nearest(&s, 255), p == 600 ? 128 : 0);
        assert_int_equal(kvi_states_nearest(&s, p - 1), p == 600 ? 384 : 600);
        assert_int_equal(kvi_states_nearest(&s, 9999), p);
    }
    kvi_states_cut(&s, 600);
    assert_int_equal(kvi_states_nearest(&s, 9999), 600);
    assert_int_equal(store.pool.free_units, UNITS - STATE * KVI_STATE_CHECKPOINTS);
    /* Under pressure: least recently used first, the live one never. */
    assert_int_equal(store.idle_units, 3 * STATE); /* 384, 256, 600 */
    assert_true(kvi_store_free_up(&store, store.pool.free_units + 1));
    assert_int_equal(kvi_states_nearest(&s, 599), 256);
    assert_true(kvi_store_free_up(&store, store.pool.free_units + 1));
    assert_int_equal(kvi_states_nearest(&s, 599), 0);
    assert_int_equal(kvi_states_nearest(&s, 600), 600);
    assert_false(kvi_store_free_up(&store, UNITS));
    assert_int_equal(store.pool.free_units, UNITS - STATE);
    assert_true(kvi_states_unit(&s) < UNITS);
    kvi_states_free(&s);
    assert_int_equal(store.pool.free_units, UNITS);
    kvi_store_free(&store);
}

/* In a long text the checkpoints lie apart, and that of the prompt's end stays. */
static void a_long_text(void **state)
{
    kvi_store store;
    kvi_states s;
    kvi_extent_copy copy;
    assert_int_equal(kvi_store_init(&store, UNITS * KVI_KV_UNIT, 400, NULL), KVRT_OK);
    kvi_states_init(&s, &store, STATE * KVI_KV_UNIT);
    assert_true(kvi_states_begin(&s));
    for (uint32_t p = 128; p <= 64 * 1024; p += 128) {
        if (p == 1024) s.kept = p;
        assert_true(kvi_states_save(&s, p, &copy));
        if (p >= 1024) assert_int_equal(kvi_states_nearest(&s, 1024 + 127), 1024);
        if (p < 4096) continue;
        /* A return by a tenth of the text, or to its middle, computes at most half of it again. */
        for (uint32_t part = 2; part <= 10; part += 8)
            assert_true(p - p / part - kvi_states_nearest(&s, p - p / part) <= p / 2);
    }
    kvi_states_free(&s);
    kvi_store_free(&store);
}

/* In a pool without room a checkpoint overwrites one of its own; with none of its own, there is no checkpoint. */
static void without_room(void **state)
{
    kvi_store store;
    kvi_states s;
    kvi_extent_copy copy;
    assert_int_equal(kvi_store_init(&store, 2 * STATE * KVI_KV_UNIT, 20, NULL), KVRT_OK);
    kvi_states_init(&s, &store, STATE * KVI_KV_UNIT);
    assert_true(kvi_states_begin(&s));
    assert_true(kvi_states_save(&s, 5, &copy));
    assert_true(kvi_states_save(&s, 6, &copy));
    assert_int_equal(kvi_states_nearest(&s, 5), 0);
    assert_int_equal(kvi_states_nearest(&s, 6), 6);
    assert_true(kvi_store_free_up(&store, STATE));
    const uint32_t other = kvi_store_take(&store, 0, KVI_KV_FMT_F16, STATE, false);
    assert_int_equal(kvi_states_nearest(&s, 6), 0);
    assert_false(kvi_states_save(&s, 7, &copy));
    kvi_states second;
    kvi_states_init(&second, &store, STATE * KVI_KV_UNIT);
    assert_false(kvi_states_begin(&second));
    kvi_store_drop(&store, other);
    assert_true(kvi_states_begin(&second));
    kvi_states_free(&s), kvi_states_free(&second);
    assert_int_equal(store.pool.free_units, 2 * STATE);
    kvi_store_free(&store);
}

/* Sequences go on, save, go back, lose checkpoints to pressure and are moved; a checkpoint that is named holds what it was saved with. */
static void random_lives(void **state)
{
    enum { SEQUENCES = 5 };
    kvi_store store;
    kvi_states s[SEQUENCES];
    uint64_t at[SEQUENCES] = {0};
    unsigned n_back = 0, n_lost = 0;
    assert_int_equal(kvi_store_init(&store, 190 * KVI_KV_UNIT, 190, NULL), KVRT_OK);
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        kvi_states_init(&s[i], &store, STATE * KVI_KV_UNIT);
        assert_true(kvi_states_begin(&s[i]));
    }
    uint32_t pages[8], n_pages = 0;
    for (uint32_t round = 0; round < 40000; round++) {
        const uint32_t i = below(SEQUENCES), what = below(8);
        kvi_extent_copy copy;
        if (what < 3) compute(&s[i], i, at[i] += 1 + below(100));
        else if (what < 5 && at[i] && kvi_states_save(&s[i], (uint32_t)at[i], &copy)) {
            copy_units(copy);
            assert_int_equal(kvi_states_nearest(&s[i], (uint32_t)at[i]), at[i]);
        } else if (what == 5 && at[i]) {
            const uint32_t wanted = (uint32_t)(at[i] - at[i] * below(100) / 400),
                           there = kvi_states_nearest(&s[i], wanted);
            assert_true(there <= wanted);
            kvi_states_cut(&s[i], there);
            kvi_states_restore(&s[i], there, &copy);
            assert_int_equal(copy.units, there ? STATE : 0);
            copy_units(copy);
            at[i] = there;
            n_back += there > 0, n_lost += there == 0;
            if (!there) compute(&s[i], i, 0);
        } else if (what == 6) {
            bool done;
            if (n_pages == 8 || below(3) == 0) {
                if (n_pages) kvi_store_drop(&store, pages[--n_pages]);
            } else {
                const uint32_t units = 1 + below(15);
                pages[n_pages] = kvi_store_take(&store, 0, KVI_KV_FMT_F16, units, true);
                if (pages[n_pages] == KVI_NO_PAGE && kvi_store_free_up(&store, units)) {
                    assert_int_equal(kvi_compact(&store, units, move_units, NULL, &done, NULL), KVRT_OK);
                    pages[n_pages] = kvi_store_take(&store, 0, KVI_KV_FMT_F16, units, true);
                    assert_true(pages[n_pages] != KVI_NO_PAGE);
                }
                n_pages += pages[n_pages] != KVI_NO_PAGE;
            }
        }
        for (uint32_t k = 0; k < SEQUENCES; k++)
            if (at[k]) check(&s[k], k, at[k]);
    }
    assert_true(n_back > 300 && n_lost > 30);
    while (n_pages) kvi_store_drop(&store, pages[--n_pages]);
    for (uint32_t i = 0; i < SEQUENCES; i++) kvi_states_free(&s[i]);
    assert_int_equal(store.pool.free_units, 190);
    kvi_store_free(&store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(without_states), cmocka_unit_test(back_to_the_last_checkpoint),
                                       cmocka_unit_test(a_long_text), cmocka_unit_test(without_room),
                                       cmocka_unit_test(random_lives)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
