/* test_threads.c - what a host may rely on about kvrt's threads: they never take a signal of its process. */
#define _POSIX_C_SOURCE 200809L
#include "runtime/base/os.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void read_mask(void *arg) { (void)pthread_sigmask(SIG_SETMASK, NULL, arg); }

static void workers_take_no_signals(void **state)
{
    (void)state;
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGCHLD, SIGALRM, SIGUSR1, SIGUSR2, SIGPIPE, SIGWINCH};
    sigset_t before, after, worker;
    read_mask(&before);
    sigemptyset(&worker);
    kvi_thread thread;
    assert_int_equal(kvi_thread_start(&thread, read_mask, &worker, NULL), KVRT_OK);
    kvi_thread_join(&thread);
    read_mask(&after);
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        assert_int_equal(sigismember(&worker, signals[i]), 1);
        assert_int_equal(sigismember(&after, signals[i]), sigismember(&before, signals[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(workers_take_no_signals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
