/* worker_thread.c - see worker_thread.h. */
#include "drive.h"
#include "seat.h"

#define NAP_US 10000u /* most that it sleeps while it rests: a cancel is noticed then */

/* False: it is to stop. Others come first. */
static bool take_seat(kvi_engine *e)
{
    kvi_seat *seat = &e->seat;
    kvi_mutex_lock(&seat->lock);
    while (!e->worker.stop && (seat->taken || seat->n_waiting)) kvi_cond_wait(&seat->changed, &seat->lock);
    const bool goes_on = !e->worker.stop;
    if (goes_on) seat->taken = seat->by_worker = true;
    seat->called = false;
    kvi_mutex_unlock(&seat->lock);
    return goes_on;
}

/* Until somebody signals; with something to do, for a moment only. */
static void sleep_for(kvi_engine *e, kvrt_status status)
{
    kvi_seat *seat = &e->seat;
    kvi_mutex_lock(&seat->lock);
    if (!e->worker.stop && !seat->called) {
        if (status == KVRT_MORE) kvi_cond_wait_for(&seat->changed, &seat->lock, NAP_US);
        else kvi_cond_wait(&seat->changed, &seat->lock);
    }
    kvi_mutex_unlock(&seat->lock);
}

static void work(void *arg)
{
    kvi_engine *e = arg;
    kvi_account *before = kvi_account_use(e->account);
    while (take_seat(e)) {
        kvi_pace *pace = &e->pace;
        const kvrt_status status = kvi_drive_until(e, pace->now_us() + kvi_pace_turn_us(pace));
        const bool news = kvi_events_news(&e->events),
                   sleeps = status != KVRT_MORE || kvi_pace_rests(pace, !e->in_flight);
        kvi_seat_leave(&e->seat);
        if (news) kvi_engine_wake(e, e->worker.wakeup, e->worker.user);
        if (sleeps) sleep_for(e, status);
    }
    (void)kvi_account_use(before);
}

kvrt_status kvrt_worker_start(kvrt_engine handle, kvrt_wakeup_fn wakeup, void *user, kvrt_error *error)
{
    kvi_engine *e;
    KVI_TRY(kvi_engine_enter(handle, KVI_DRIVE, &e, error));
    kvrt_status status = KVRT_OK;
    if (e->worker.runs) {
        status = kvi_error_set(error, KVRT_STATE, "engine: its worker is running already");
    } else {
        e->worker.wakeup = wakeup, e->worker.user = user;
        e->worker.stop = false;
        status = kvi_thread_start(&e->worker.thread, work, e, error);
        e->worker.runs = status >= KVRT_OK;
    }
    kvi_engine_leave(e, KVI_DRIVE);
    return status;
}

void kvi_worker_stop(kvi_engine *e)
{
    if (!e->worker.runs) return;
    kvi_mutex_lock(&e->seat.lock);
    e->worker.stop = true;
    kvi_cond_broadcast(&e->seat.changed);
    kvi_mutex_unlock(&e->seat.lock);
    kvi_thread_join(&e->worker.thread);
    e->worker.runs = false;
}

kvrt_status kvrt_worker_stop(kvrt_engine handle, kvrt_error *error)
{
    kvi_engine *e;
    KVI_TRY(kvi_engine_enter(handle, KVI_DRIVE, &e, error));
    kvi_worker_stop(e);
    kvi_engine_leave(e, KVI_DRIVE);
    return KVRT_OK;
}
