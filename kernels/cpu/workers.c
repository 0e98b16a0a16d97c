/* workers.c - see workers.h. A run is published by bumping `generation`; the last thread to leave it sets `busy` to 0.
 */
#include "workers.h"
#include "../../runtime/base/mem.h"

#include <stdatomic.h>
#include <string.h>

#define SPINS 4000 /* about 50 us: longer than the gaps between operations of a step, shorter than a scheduler tick */

struct kvi_workers {
    uint32_t n_threads;
    kvi_thread **threads; /* n_threads - 1 */
    struct worker_arg *args;
    kvi_mutex mutex;
    kvi_cond wake;
    _Atomic uint32_t generation, busy, next_task, sleeping;
    _Atomic bool stop;
    kvi_task_fn fn;
    void *arg;
    uint32_t n_tasks;
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

static void work(kvi_workers *w, uint32_t thread)
{
    for (;;) {
        uint32_t task = atomic_fetch_add_explicit(&w->next_task, 1, memory_order_relaxed);
        if (task >= w->n_tasks) return;
        w->fn(w->arg, task, thread);
    }
}

static void wait_for_run(kvi_workers *w, uint32_t seen)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&w->generation, memory_order_acquire) != seen) return;
        relax();
    }
    kvi_mutex_lock(&w->mutex);
    atomic_fetch_add(&w->sleeping, 1);
    while (atomic_load(&w->generation) == seen) kvi_cond_wait(&w->wake, &w->mutex);
    atomic_fetch_sub(&w->sleeping, 1);
    kvi_mutex_unlock(&w->mutex);
}

static void worker_main(void *arg)
{
    worker_arg *self = arg;
    kvi_workers *w = self->workers;
    uint32_t seen = 0;
    for (;;) {
        wait_for_run(w, seen);
        seen++;
        if (atomic_load(&w->stop)) return;
        work(w, self->index);
        atomic_fetch_sub_explicit(&w->busy, 1, memory_order_release);
    }
}

static void publish(kvi_workers *w)
{
    atomic_fetch_add_explicit(&w->generation, 1, memory_order_seq_cst);
    if (atomic_load(&w->sleeping)) {
        kvi_mutex_lock(&w->mutex);
        kvi_cond_broadcast(&w->wake);
        kvi_mutex_unlock(&w->mutex);
    }
}

void kvi_workers_run(kvi_workers *w, kvi_task_fn fn, void *arg, uint32_t n_tasks)
{
    if (w->n_threads == 1 || n_tasks <= 1) {
        for (uint32_t task = 0; task < n_tasks; task++) fn(arg, task, 0);
        return;
    }
    w->fn = fn;
    w->arg = arg;
    w->n_tasks = n_tasks;
    atomic_store_explicit(&w->next_task, 0, memory_order_relaxed);
    atomic_store_explicit(&w->busy, w->n_threads - 1, memory_order_relaxed);
    publish(w);
    work(w, 0);
    while (atomic_load_explicit(&w->busy, memory_order_acquire)) relax();
}

kvrt_status kvi_workers_open(uint32_t n_threads, kvi_workers **out, kvrt_error *error)
{
    *out = NULL;
    kvi_workers *w = kvi_mem_zalloc(1, sizeof *w);
    if (!w) return kvi_error_nomem(error, sizeof *w, "worker pool");
    kvi_mutex_init(&w->mutex);
    kvi_cond_init(&w->wake);
    w->n_threads = 1;
    w->threads = kvi_mem_zalloc(n_threads, sizeof *w->threads);
    w->args = kvi_mem_zalloc(n_threads, sizeof *w->args);
    kvrt_status status =
        w->threads && w->args ? KVRT_OK : kvi_error_nomem(error, n_threads * sizeof *w->args, "worker pool");
    for (uint32_t i = 1; i < n_threads && status >= KVRT_OK; i++) {
        w->args[i] = (worker_arg){w, i};
        status = kvi_thread_start(worker_main, &w->args[i], &w->threads[i], error);
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
    publish(w);
    for (uint32_t i = 1; i < w->n_threads; i++) kvi_thread_join(w->threads[i]);
    kvi_mutex_destroy(&w->mutex);
    kvi_cond_destroy(&w->wake);
    kvi_mem_free(w->threads);
    kvi_mem_free(w->args);
    kvi_mem_free(w);
}

uint32_t kvi_workers_count(const kvi_workers *w) { return w->n_threads; }
