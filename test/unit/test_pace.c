/* test_pace.c - what steps are expected to take, and the host's limits, against a clock of the test's own and the formulas in doubles. */
#include "../../runtime/engine/pace.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

enum { OPS = 3 };
static uint64_t clock_us;
static uint64_t fake_now(void) { return clock_us; }

static kvi_pace open_pace(void)
{
    kvi_pace pace;
    assert_int_equal(kvi_pace_open(&pace, OPS, NULL), KVRT_OK);
    pace.now_us = fake_now;
    clock_us = 1000000;
    return pace;
}

/* A mean and a mean deviation, a quarter of the way each time; what is expected is two deviations above the mean. */
static void costs_are_learned(void **state)
{
    (void)state;
    kvi_pace pace = open_pace();
    uint32_t random = 7;
    for (uint32_t op = 0; op <= OPS; op++)
        for (int wide = 0; wide < 2; wide++) {
            assert_int_equal(kvi_pace_expect(&pace, wide, op, 64), 0);
            double mean = 0, spread = 0;
            for (uint32_t n = 0; n < 40; n++) {
                const uint32_t rows = wide ? 16 + n : 1 + n % 8;
                random = random * 1664525u + 1013904223u;
                const uint64_t us = 500 + (random >> 20) + op * 1000;
                const double one = wide ? (double)us / rows : (double)us;
                kvi_pace_learn(&pace, wide, op, rows, 1, us);
                const double off = one - mean;
                if (n == 0) mean = one;
                else mean += off / 4, spread += (fabs(off) - spread) / 4;
                const double want = (mean + 2 * spread) * (wide ? 48 : 1);
                assert_true(fabs((double)kvi_pace_expect(&pace, wide, op, 48) - want) <= 1 + want * 1e-5);
            }
        }
    kvi_pace_close(&pace);
}

/* Rounds that take half of the time, at least one; of what is not known one. */
static void rounds_fit_the_time(void **state)
{
    (void)state;
    kvi_pace pace = open_pace();
    assert_int_equal(kvi_pace_rounds(&pace, false, 1, 1, 1000), 1);
    kvi_pace_learn(&pace, false, 1, 8, 20, 400); /* 20 us a round, however many rows */
    kvi_pace_learn(&pace, true, 1, 10, 4, 800);  /* 20 us a round and row */
    assert_int_equal(kvi_pace_expect(&pace, false, 1, 3), 20);
    assert_int_equal(kvi_pace_expect(&pace, true, 1, 3), 60);
    assert_int_equal(kvi_pace_rounds(&pace, false, 1, 3, 1000), 25);
    assert_int_equal(kvi_pace_rounds(&pace, true, 1, 5, 1000), 5);
    assert_int_equal(kvi_pace_rounds(&pace, false, 1, 3, 39), 1);
    assert_int_equal(kvi_pace_rounds(&pace, false, 1, 3, 0), 1);
    assert_int_equal(kvi_pace_rounds(&pace, false, 1, 3, UINT64_MAX), 65536);
    kvi_pace_learn(&pace, false, 2, 1, 50, 0); /* shorter than the clock can tell is not unknown */
    assert_true(kvi_pace_rounds(&pace, false, 2, 1, 1000) > 1000);
    kvi_pace_close(&pace);
}

static void rows_fit_the_time(void **state)
{
    (void)state;
    kvi_pace pace = open_pace();
    assert_int_equal(kvi_pace_rows(&pace, 1000, 16), 16); /* nothing is known */
    kvi_pace_learn(&pace, true, 0, 10, 1, 100);           /* 10 us a row */
    kvi_pace_learn(&pace, true, 2, 10, 1, 400);           /* the longest: 40 */
    kvi_pace_learn(&pace, true, OPS, 1, 1, 100000);       /* begin and end are no operation */
    kvi_pace_learn(&pace, false, 1, 1, 1, 100000);        /* nor are narrow ones asked */
    assert_int_equal(kvi_pace_rows(&pace, 400, 16), 10);
    assert_int_equal(kvi_pace_rows(&pace, 439, 16), 10);
    assert_int_equal(kvi_pace_rows(&pace, 39, 16), 1);
    assert_int_equal(kvi_pace_rows(&pace, 0, 16), 1);
    assert_int_equal(kvi_pace_rows(&pace, 1ull << 50, 16), 65536);
    kvi_pace_close(&pace);
}

static void a_share_of_the_time(void **state)
{
    (void)state;
    static const struct {
        double duty;
        int32_t mode;
        double share;
    } cases[] = {{0, KVRT_MODE_COMPUTE, 1},       {0, KVRT_MODE_BALANCED, 0.9},   {0, KVRT_MODE_GRAPHICS, 0.5},
                 {0.25, KVRT_MODE_COMPUTE, 0.25}, {0.8, KVRT_MODE_GRAPHICS, 0.8}, {1, KVRT_MODE_GRAPHICS, 1}};
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        kvi_pace pace = open_pace();
        kvi_pace_limit(&pace, 0, cases[i].duty, cases[i].mode);
        kvi_pace_worked(&pace, 900, 0);
        const double rest = 900 * (1 - cases[i].share) / cases[i].share;
        const uint64_t until = kvi_pace_rests(&pace, false);
        assert_int_equal(kvi_pace_rests(&pace, true), until);
        if (rest == 0) assert_int_equal(until, 0);
        else assert_true(fabs((double)(until - clock_us) - rest) <= 1); /* whole microseconds */
        if (until) clock_us = until;
        assert_int_equal(kvi_pace_rests(&pace, false), 0);
        kvi_pace_close(&pace);
    }
}

static void tokens_per_second(void **state)
{
    (void)state;
    kvi_pace pace = open_pace();
    assert_false(kvi_pace_limits_tokens(&pace));
    kvi_pace_limit(&pace, 100, 0, 0);
    assert_true(kvi_pace_limits_tokens(&pace));
    assert_int_equal(pace.mode, KVRT_MODE_COMPUTE); /* 0: as it is */
    const uint64_t start = clock_us;
    kvi_pace_worked(&pace, 100, 3);
    assert_int_equal(kvi_pace_rests(&pace, true), start + 30000);
    assert_int_equal(kvi_pace_rests(&pace, false), 0); /* prompts are not slowed down */
    kvi_pace_worked(&pace, 100, 0);                    /* nor does a prompt's step cost anything */
    assert_int_equal(kvi_pace_rests(&pace, true), start + 30000);
    clock_us = start + 35000; /* a little late: the next is counted from when it was due, */
    kvi_pace_worked(&pace, 100, 1);
    assert_int_equal(kvi_pace_rests(&pace, true), start + 40000);
    clock_us = start + 500000; /* and long after from now: a pause is not made good */
    kvi_pace_worked(&pace, 100, 1);
    assert_int_equal(kvi_pace_rests(&pace, true), start + 510000);
    kvi_pace_limit(&pace, 0, 0, 0);
    kvi_pace_worked(&pace, 100, 5);
    assert_int_equal(kvi_pace_rests(&pace, true), 0);
    kvi_pace_close(&pace);
}

static void turns_of_the_worker(void **state)
{
    (void)state;
    static const struct {
        int32_t mode;
        uint64_t us;
    } turns[] = {{KVRT_MODE_GRAPHICS, 1000}, {KVRT_MODE_BALANCED, 4000}, {KVRT_MODE_COMPUTE, 20000}};
    kvi_pace pace = open_pace();
    for (unsigned i = 0; i < 3; i++) {
        kvi_pace_limit(&pace, 0, 0, turns[i].mode);
        assert_int_equal(kvi_pace_turn_us(&pace), turns[i].us);
    }
    kvi_pace_close(&pace);
    kvi_pace never = {0};
    kvi_pace_close(&never);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(costs_are_learned),   cmocka_unit_test(rows_fit_the_time),
        cmocka_unit_test(rounds_fit_the_time), cmocka_unit_test(a_share_of_the_time),
        cmocka_unit_test(tokens_per_second),   cmocka_unit_test(turns_of_the_worker),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
