/* test_workers.c - the CPU backend's thread pool: every task of every run exactly once, and done when the call returns; runs of any length one
 * after the other, with and without pauses long enough for the threads to fall asleep, more threads than cores. */
#include "kernels/cpu/workers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

enum { MOST = 300 };
typedef struct run {
    uint32_t done[MOST]; /* plain: a task belongs to one thread, and the caller reads them after the run */
    uint32_t value, work, n_threads, bad_thread;
    _Atomic uint32_t by_others;
} run;

static void task_of(void *arg, uint32_t task, uint32_t thread)
{
    run *r = arg;
    volatile uint32_t x = 0;
    for (uint32_t i = 0; i < r->work; i++) x = x + i;
    r->done[task] += r->value;
    if (thread >= r->n_threads) r->bad_thread = 1;
    if (thread) atomic_fetch_add_explicit(&r->by_others, 1, memory_order_relaxed);
}

static void every_task_once(void **state)
{
    (void)state;
    uint32_t seed = 1, helped = 0;
    for (uint32_t threads = 1; threads <= 5; threads++) {
        kvi_workers *w;
        assert_int_equal(kvi_workers_open(threads, &w, NULL), KVRT_OK);
        assert_int_equal(kvi_workers_count(w), threads);
        for (uint32_t round = 0; round < 3000; round++) {
            static run r;
            memset(&r, 0, sizeof r);
            seed = seed * 1664525u + 1013904223u;
            const uint32_t n = (seed >> 8) % (round % 3 ? 8 : MOST);
            r.value = 1 + round, r.n_threads = threads, r.work = (seed >> 20) % 1000;
            if (round % 500 == 499) { /* asleep by then */
                const uint64_t until = kvi_os_now_us() + 3000;
                while (kvi_os_now_us() < until) continue;
                r.work = 20000;
            }
            kvi_workers_run(w, task_of, &r, n);
            for (uint32_t i = 0; i < MOST; i++)
                if (r.done[i] != (i < n ? r.value : 0))
                    fail_msg("%u threads, round %u: task %u of %u ran %u times", threads, round, i, n,
                             r.done[i] / r.value);
            assert_int_equal(r.bad_thread, 0);
            helped += r.by_others;
        }
        kvi_workers_close(w);
    }
    print_message("%u tasks by other threads than the caller\n", helped);
    assert_true(helped > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_task_once)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
