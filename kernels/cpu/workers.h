/* workers.h - the CPU backend's thread pool: runs fn(arg, task, thread) for every task of a range on all threads, the
 * caller included. Tasks are handed out dynamically; results must not depend on who runs a task. Workers spin briefly
 * between runs, then sleep. */
#ifndef KVI_WORKERS_H
#define KVI_WORKERS_H
#include "../../runtime/base/os.h"

typedef struct kvi_workers kvi_workers;
typedef void (*kvi_task_fn)(void *arg, uint32_t task, uint32_t thread);

kvrt_status kvi_workers_open(uint32_t n_threads, kvi_workers **out, kvrt_error *error);
uint64_t kvi_workers_bytes(uint32_t n_threads); /* what an open pool takes; stacks are the system's */
void kvi_workers_close(kvi_workers *workers);
uint32_t kvi_workers_count(const kvi_workers *workers); /* threads, the caller included */
void kvi_workers_run(kvi_workers *workers, kvi_task_fn fn, void *arg, uint32_t n_tasks);
/* Tasks [first, first + n_tasks). */
void kvi_workers_run_from(kvi_workers *workers, kvi_task_fn fn, void *arg, uint32_t first, uint32_t n_tasks);

#endif
