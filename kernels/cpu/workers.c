/* workers.c - see workers.h. A run is open as long as tasks are left to take, and over when none is unfinished. Whoever takes a task counts, not
 * who is there: a thread that the system has put aside between runs holds up nobody, and on cores shared with other programs the caller does
 * alone what nobody helps with. Threads spin for a moment and then sleep, the caller too: its core may be what the other one needs.
 * (Tried: waiting until every thread had seen the run. With several busy programs on two cores each operation then waited for the other thread's
 * next time slice: 80 instead of 420 tokens/s for a model of 8M parameters, 340 instead of 5,500 for one of 0.4M.) */
#include "workers.h"
#include "../../runtime/base/mem.h"

#include <stdatomic.h>
#include <string.h>

#define SPINS 1500 /* some 60 us: longer than the gaps between operations of a step, shorter than a time slice */

struct kvi_workers {
    uint32_t n_threads;
    kvi_thread *threads; /* (n_threads), the first one unused: it is the caller */
    struct worker_arg *args;
    kvi_mutex mutex;
    kvi_cond wake, done;
    _Atomic uint32_t left;       /* tasks that nobody has taken; the last field of a run to be written */
    _Atomic uint32_t unfinished; /* tasks */
    _Atomic uint32_t sleeping;   /* workers */
    _Atomic bool waiting;        /* the caller sleeps */
    _Atomic bool stop;
    kvi_task_fn fn; /* these four: read only by who has taken a task, and so keeps the run open */
    void *arg;
    uint32_t n_tasks, first;
};

typedef struct worker_arg {
    kvi_workers *workers;
    uint32_t index;
} worker_arg;

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static bool take(kvi_workers *w, uint32_t *task)
{
    uint32_t left = atomic_load_explicit(&w->left, memory_order_acquire);
    do
        if (left == 0) return false;
    while (
        !atomic_compare_exchange_weak_explicit(&w->left, &left, left - 1, memory_order_acquire, memory_order_acquire));
    *task = w->first + w->n_tasks - left;
    return true;
}

/* Tasks until none is left; who finishes the last one wakes the caller. */
static void work(kvi_workers *w, uint32_t thread)
{
    uint32_t task, n = 0;
    for (; take(w, &task); n++) w->fn(w->arg, task, thread);
    if (n == 0 || atomic_fetch_sub(&w->unfinished, n) != n || !atomic_load(&w->waiting)) return;
    kvi_mutex_lock(&w->mutex);
    kvi_cond_broadcast(&w->done);
    kvi_mutex_unlock(&w->mutex);
}

static void wait_for_run(kvi_workers *w)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&w->left, memory_order_relaxed) ||
            atomic_load_explicit(&w->stop, memory_order_relaxed))
            return;
        relax();
    }
    kvi_mutex_lock(&w->mutex);
    atomic_fetch_add(&w->sleeping, 1);
    while (!atomic_load(&w->left) && !atomic_load(&w->stop)) kvi_cond_wait(&w->wake, &w->mutex);
    atomic_fetch_sub(&w->sleeping, 1);
    kvi_mutex_unlock(&w->mutex);
}

static void worker_main(void *arg)
{
    worker_arg *self = arg;
    kvi_workers *w = self->workers;
    while (!atomic_load(&w->stop)) {
        work(w, self->index);
        wait_for_run(w);
    }
}

static void wake_sleepers(kvi_workers *w)
{
    if (!atomic_load(&w->sleeping)) return;
    kvi_mutex_lock(&w->mutex);
    kvi_cond_broadcast(&w->wake);
    kvi_mutex_unlock(&w->mutex);
}

static void wait_for_end(kvi_workers *w)
{
    for (int i = 0; i < SPINS; i++) {
        if (!atomic_load_explicit(&w->unfinished, memory_order_acquire)) return;
        relax();
    }
    kvi_mutex_lock(&w->mutex);
    atomic_store(&w->waiting, true);
    while (atomic_load(&w->unfinished)) kvi_cond_wait(&w->done, &w->mutex);
    atomic_store(&w->waiting, false);
    kvi_mutex_unlock(&w->mutex);
}

void kvi_workers_run(kvi_workers *w, kvi_task_fn fn, void *arg, uint32_t n_tasks)
{
    kvi_workers_run_from(w, fn, arg, 0, n_tasks);
}

void kvi_workers_run_from(kvi_workers *w, kvi_task_fn fn, void *arg, uint32_t first, uint32_t n_tasks)
{
    if (w->n_threads == 1 || n_tasks <= 1) {
        for (uint32_t task = 0; task < n_tasks; task++) fn(arg, first + task, 0);
        return;
    }
    w->first = first;
    w->fn = fn;
    w->arg = arg;
    w->n_tasks = n_tasks;
    atomic_store(&w->unfinished, n_tasks);
    atomic_store(&w->left, n_tasks);
    wake_sleepers(w);
    work(w, 0);
    wait_for_end(w);
}

uint64_t kvi_workers_bytes(uint32_t n_threads)
{
    return sizeof(kvi_workers) + n_threads * (sizeof(kvi_thread) + sizeof(worker_arg));
}

kvrt_status kvi_workers_open(uint32_t n_threads, kvi_workers **out, kvrt_error *error)
{
    *out = NULL;
    kvi_workers *w = kvi_mem_zalloc(1, sizeof *w);
    if (!w) return kvi_error_nomem(error, sizeof *w, "worker pool");
    kvi_mutex_init(&w->mutex);
    kvi_cond_init(&w->wake);
    kvi_cond_init(&w->done);
    w->n_threads = 1;
    w->threads = kvi_mem_zalloc(n_threads, sizeof *w->threads);
    w->args = kvi_mem_zalloc(n_threads, sizeof *w->args);
    kvrt_status status =
        w->threads && w->args ? KVRT_OK : kvi_error_nomem(error, n_threads * sizeof *w->args, "worker pool");
    for (uint32_t i = 1; i < n_threads && status >= KVRT_OK; i++) {
        w->args[i] = (worker_arg){w, i};
        status = kvi_thread_start(&w->threads[i], worker_main, &w->args[i], error);
        if (status >= KVRT_OK) w->n_threads++;
    }
    if (status < KVRT_OK) {
        kvi_workers_close(w);
        return status;
    }
    *out = w;
    return KVRT_OK;
}

void kvi_workers_close(kvi_workers *w)
{
    if (!w) return;
    atomic_store(&w->stop, true);
    wake_sleepers(w);
    for (uint32_t i = 1; i < w->n_threads; i++) kvi_thread_join(&w->threads[i]);
    kvi_mutex_destroy(&w->mutex);
    kvi_cond_destroy(&w->wake);
    kvi_cond_destroy(&w->done);
    kvi_mem_free(w->threads);
    kvi_mem_free(w->args);
    kvi_mem_free(w);
}

uint32_t kvi_workers_count(const kvi_workers *w) { return w->n_threads; }
