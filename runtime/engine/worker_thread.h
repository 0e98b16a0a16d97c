/* worker_thread.h - the thread that drives submitted requests, if the host wants one. It takes the seat for a turn of a few milliseconds at most,
 * leaves it between two operations to whoever waits, and sleeps when there is nothing to do. */
#ifndef KVI_WORKER_THREAD_H
#define KVI_WORKER_THREAD_H
#include "../base/os.h"
#include "../base/status.h"

struct kvi_engine;

typedef struct kvi_worker {
    kvi_thread thread;
    bool runs, stop; /* changed by whoever has the seat */
    kvrt_wakeup_fn wakeup;
    void *user;
} kvi_worker;

/* Ends the thread, by whoever has the seat; it stays his. */
void kvi_worker_stop(struct kvi_engine *engine);

#endif
