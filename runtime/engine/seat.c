/* seat.c - entering an engine or a session, leaving it, and calling the host back. One thread at a time sits in the driving seat of an engine. */
#include "seat.h"
#include "drive.h"
#include "handle.h"
#include "transfer.h"

/* The engine whose callback runs on this thread: calls that would drive it are refused. */
static _Thread_local const kvi_engine *in_callback;
/* Mode of arithmetic that the host's thread had when it entered. A callback runs in it; calls made there leave it as they found it. */
static _Thread_local fenv_t host_arithmetic;

void kvi_arithmetic_enter(void) { kvi_os_arithmetic_enter(&host_arithmetic); }
void kvi_arithmetic_leave(void) { kvi_os_arithmetic_leave(&host_arithmetic); }

int32_t kvi_engine_event(kvi_engine *engine, kvrt_event_fn fn, void *user, kvrt_event *event)
{
    if (!fn) return KVRT_CONTINUE;
    event->size = sizeof *event;
    if (!event->text) event->text = "";
    const kvi_engine *outer = in_callback;
    kvi_account *account = kvi_account_use(NULL); /* what the host makes there is not the engine's */
    in_callback = engine;
    kvi_arithmetic_leave();
    int32_t answer = fn(event, user);
    kvi_arithmetic_enter();
    in_callback = outer;
    (void)kvi_account_use(account);
    return answer;
}

kvrt_status kvi_engine_noted(kvi_engine *engine, kvrt_status status)
{
    if (status == KVRT_DEVICE_LOST || status == KVRT_INTERNAL) atomic_store(&engine->lost, true);
    return status;
}

void kvi_engine_wake(kvi_engine *engine, kvrt_wakeup_fn fn, void *user)
{
    const kvi_engine *outer = in_callback;
    if (!fn) return;
    in_callback = engine;
    kvi_arithmetic_leave();
    fn(user);
    kvi_arithmetic_enter();
    in_callback = outer;
}

/* ------------------------------------------------------------------------------------------------------- the seat --- */
void kvi_seat_open(kvi_seat *seat)
{
    kvi_mutex_init(&seat->lock);
    kvi_cond_init(&seat->changed);
    seat->is_open = true;
}

void kvi_seat_close(kvi_seat *seat)
{
    if (!seat->is_open) return;
    kvi_cond_destroy(&seat->changed);
    kvi_mutex_destroy(&seat->lock);
    seat->is_open = false;
}

/* False: another thread has it that is not the worker. */
static bool seat_take(kvi_seat *seat)
{
    kvi_mutex_lock(&seat->lock);
    while (seat->taken && seat->by_worker) {
        seat->n_waiting++;
        kvi_cond_wait(&seat->changed, &seat->lock);
        seat->n_waiting--;
    }
    const bool is_free = !seat->taken;
    if (is_free) seat->taken = true;
    kvi_mutex_unlock(&seat->lock);
    return is_free;
}

void kvi_seat_leave(kvi_seat *seat)
{
    kvi_mutex_lock(&seat->lock);
    seat->taken = seat->by_worker = false;
    kvi_cond_broadcast(&seat->changed);
    kvi_mutex_unlock(&seat->lock);
}

bool kvi_seat_is_wanted(kvi_seat *seat)
{
    kvi_mutex_lock(&seat->lock);
    const bool is_wanted = seat->n_waiting > 0;
    kvi_mutex_unlock(&seat->lock);
    return is_wanted;
}

void kvi_seat_signal(kvi_seat *seat)
{
    kvi_mutex_lock(&seat->lock);
    seat->called = true;
    kvi_cond_broadcast(&seat->changed);
    kvi_mutex_unlock(&seat->lock);
}

static bool has_seat(const kvi_engine *engine, kvi_entry entry)
{
    return entry != KVI_LOOK && !(entry == KVI_READ && in_callback == engine);
}

/* Whether the engine is in a state for this call. Of whoever has the seat: until then another thread may suspend it. */
static kvrt_status check_state(const kvi_engine *engine, kvi_entry entry, kvrt_error *error)
{
    if ((entry == KVI_DRIVE || entry == KVI_RESUME) && atomic_load(&engine->lost))
        return kvi_error_set(error, KVRT_DEVICE_LOST, "engine: the device was lost, only close works");
    if (entry == KVI_DRIVE && engine->suspended.bytes)
        return kvi_error_set(error, KVRT_STATE, "engine: it is suspended, this call needs kvrt_resume first");
    if (entry == KVI_DRIVE && !engine->device)
        return kvi_error_set(error, KVRT_STATE,
                             "engine: opened with model.load=tokenizer, this call needs model.load=all");
    return KVRT_OK;
}

static kvrt_status take_seat(kvi_engine *engine, kvi_entry entry, kvrt_error *error)
{
    if (!has_seat(engine, entry)) return KVRT_OK;
    if (in_callback == engine)
        return kvi_error_set(error, KVRT_REENTRANT, "engine: this call is not allowed inside an event callback");
    if (!seat_take(&engine->seat)) return kvi_error_set(error, KVRT_BUSY, "engine: another thread is driving it");
    const kvrt_status status = check_state(engine, entry, error);
    if (status < KVRT_OK) kvi_seat_leave(&engine->seat);
    return status;
}

kvrt_status kvi_engine_enter(kvrt_engine handle, kvi_entry entry, kvi_engine **out, kvrt_error *error)
{
    void *object;
    KVI_TRY(kvi_handle_enter(handle, KVI_HANDLE_ENGINE, &object, error));
    *out = object;
    kvrt_status status = take_seat(*out, entry, error);
    if (status < KVRT_OK) kvi_handle_leave(handle);
    else if (entry != KVI_CLOSE) kvi_arithmetic_enter();
    return status;
}

kvrt_status kvi_session_enter(kvrt_session handle, kvi_entry entry, kvi_session **out, kvrt_error *error)
{
    void *object;
    KVI_TRY(kvi_handle_enter(handle, KVI_HANDLE_SESSION, &object, error));
    *out = object;
    kvrt_status status = take_seat((*out)->engine, entry, error);
    if (status < KVRT_OK) kvi_handle_leave(handle);
    else if (entry != KVI_CLOSE) kvi_arithmetic_enter();
    return status;
}

kvrt_status kvi_session_enter_idle(kvrt_session handle, kvi_session **out, kvrt_error *error)
{
    KVI_TRY(kvi_session_enter_still(handle, out, error));
    const kvrt_status status = kvi_session_come_back(*out, error);
    if (status < KVRT_OK) kvi_session_leave(*out, KVI_DRIVE);
    return status;
}

kvrt_status kvi_session_enter_still(kvrt_session handle, kvi_session **out, kvrt_error *error)
{
    KVI_TRY(kvi_session_enter(handle, KVI_DRIVE, out, error));
    kvi_session *s = *out;
    if (!s->submitted) return KVRT_OK;
    const kvrt_status status =
        kvi_error_set(error, KVRT_STATE, "session: request %llu is running; wait for its end, or cancel it",
                      (unsigned long long)(s->transfer ? s->transfer->request : s->gen.request));
    kvi_session_leave(s, KVI_DRIVE);
    return status;
}

kvrt_status kvi_session_enter_compute(kvrt_session handle, kvi_session **out, kvrt_error *error)
{
    KVI_TRY(kvi_session_enter_idle(handle, out, error));
    kvi_engine *e = (*out)->engine;
    if (e->worker.runs) {
        kvi_session_leave(*out, KVI_DRIVE);
        return kvi_error_set(error, KVRT_BUSY, "engine: its worker is driving it");
    }
    kvi_drive_finish(e);
    return KVRT_OK;
}

/* The seat first: the handle keeps engine and session alive until then. */
void kvi_engine_leave(kvi_engine *engine, kvi_entry entry)
{
    kvi_arithmetic_leave();
    if (has_seat(engine, entry)) kvi_seat_leave(&engine->seat);
    kvi_handle_leave(engine->handle);
}

void kvi_session_leave(kvi_session *session, kvi_entry entry)
{
    kvi_arithmetic_leave();
    if (has_seat(session->engine, entry)) kvi_seat_leave(&session->engine->seat);
    kvi_handle_leave(session->handle);
}

/* Whoever is about to close sits in the seat, so that no session comes or goes, and is the last one inside. */
kvrt_status kvi_close_handles(const void *const *handles, uint32_t n, kvi_engine *engine, kvrt_error *error)
{
    kvi_handle_leave(handles[0]);
    if (kvi_handle_close(handles, n)) return KVRT_OK;
    kvi_seat_leave(&engine->seat);
    return kvi_error_set(error, KVRT_BUSY, "close: another thread is inside a call on the engine or its sessions");
}
