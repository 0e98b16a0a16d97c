/* seat.c - entering an engine or a session, leaving it, and calling the host back. One thread at a time sits in the driving seat of an engine. */
#include "seat.h"
#include "handle.h"
#include "session.h"

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

static kvrt_status take_seat(kvi_engine *engine, kvi_entry entry, kvrt_error *error)
{
    if (entry == KVI_LOOK) return KVRT_OK;
    if (in_callback == engine)
        return kvi_error_set(error, KVRT_REENTRANT, "engine: this call is not allowed inside an event callback");
    if (entry != KVI_CLOSE && !engine->device)
        return kvi_error_set(error, KVRT_STATE,
                             "engine: opened with model.load=tokenizer, this call needs model.load=all");
    if (entry != KVI_CLOSE && atomic_load(&engine->lost))
        return kvi_error_set(error, KVRT_DEVICE_LOST, "engine: the device was lost, only close works");
    if (atomic_exchange(&engine->driving, true))
        return kvi_error_set(error, KVRT_BUSY, "engine: another thread is driving it");
    return KVRT_OK;
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

/* The seat first: the handle keeps engine and session alive until then. */
void kvi_engine_leave(kvi_engine *engine, kvi_entry entry)
{
    kvi_arithmetic_leave();
    if (entry != KVI_LOOK) atomic_store(&engine->driving, false);
    kvi_handle_leave(engine->handle);
}

void kvi_session_leave(kvi_session *session, kvi_entry entry)
{
    kvi_arithmetic_leave();
    if (entry != KVI_LOOK) atomic_store(&session->engine->driving, false);
    kvi_handle_leave(session->handle);
}

/* Whoever is about to close sits in the seat, so that no session comes or goes, and is the last one inside. */
kvrt_status kvi_close_handles(const void *const *handles, uint32_t n, kvi_engine *engine, kvrt_error *error)
{
    kvi_handle_leave(handles[0]);
    if (kvi_handle_close(handles, n)) return KVRT_OK;
    atomic_store(&engine->driving, false);
    return kvi_error_set(error, KVRT_BUSY, "close: another thread is inside a call on the engine or its sessions");
}
