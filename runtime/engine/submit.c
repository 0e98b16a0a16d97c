/* submit.c - requests that others drive: submitting, stepping, polling, cancelling by number, limits. */
#include "drive.h"
#include "handle.h"
#include "seat.h"

/* With params an embedding, else by options. */
static kvrt_status submit(kvrt_session handle, const kvrt_options *options, const kvrt_embed_params *params,
                          uint64_t *request, kvrt_error *error)
{
    kvi_session *s;
    KVI_TRY(kvi_session_enter_idle(handle, &s, error));
    kvi_engine *e = s->engine;
    kvi_account *before = kvi_account_use(e->account);
    if (s->states.units) kvi_drive_finish(e); /* room for a state may move pages */
    kvrt_status status =
        kvi_drive_reserve(e) ? KVRT_OK : kvi_error_nomem(error, sizeof *e->submitted, "list of submitted requests");
    if (status >= KVRT_OK)
        status = params ? kvi_embed_begin(s, params, kvi_events_push, &e->events, error)
                        : kvi_generation_begin(s, options, kvi_events_push, &e->events, error);
    if (status >= KVRT_OK) {
        kvi_drive_join(e, s);
        if (request) *request = s->gen.request;
    }
    (void)kvi_account_use(before);
    kvi_session_leave(s, KVI_DRIVE);
    if (status >= KVRT_OK) kvi_seat_signal(&e->seat);
    return status;
}

kvrt_status kvrt_submit(kvrt_session session, const kvrt_options *options, uint64_t *request, kvrt_error *error)
{
    return submit(session, options, NULL, request, error);
}

kvrt_status kvrt_submit_embed(kvrt_session session, const kvrt_embed_params *params, uint64_t *request,
                              kvrt_error *error)
{
    KVI_TRY(kvi_struct_check(params, "kvrt_embed_params", error));
    return submit(session, NULL, params, request, error);
}

kvrt_status kvrt_step(kvrt_engine handle, uint64_t budget_us, kvrt_error *error)
{
    kvi_engine *e;
    KVI_TRY(kvi_engine_enter(handle, KVI_DRIVE, &e, error));
    kvrt_status status;
    if (e->worker.runs) {
        status = kvi_error_set(error, KVRT_BUSY, "engine: its worker is driving it");
    } else {
        kvi_account *before = kvi_account_use(e->account);
        const uint64_t now = e->pace.now_us();
        status = kvi_drive_until(e, budget_us < KVI_FOREVER - now ? now + budget_us : KVI_FOREVER - 1);
        (void)kvi_account_use(before);
    }
    kvi_engine_leave(e, KVI_DRIVE);
    return status;
}

kvrt_status kvrt_poll(kvrt_engine handle, kvrt_event *out, kvrt_error *error)
{
    kvi_engine *e;
    KVI_TRY(kvi_struct_check(out, "kvrt_event", error));
    KVI_TRY(kvi_engine_enter(handle, KVI_LOOK, &e, error));
    kvrt_status status = KVRT_DONE;
    if (e->events.cap) {
        kvi_account *before = kvi_account_use(e->account);
        status = kvi_events_poll(&e->events, out, error);
        (void)kvi_account_use(before);
        if (status == KVRT_OK) kvi_seat_signal(&e->seat);
    }
    kvi_engine_leave(e, KVI_LOOK);
    return status;
}

kvrt_status kvrt_engine_limit(kvrt_engine handle, const kvrt_limits *limits, kvrt_error *error)
{
    kvi_engine *e;
    kvrt_limits l = {.size = sizeof l};
    KVI_TRY(kvi_struct_check(limits, "kvrt_limits", error));
    kvi_struct_read(&l, sizeof l, limits);
    if (!(l.tokens_per_second >= 0 && l.tokens_per_second <= 1e6))
        return kvi_error_set(error, KVRT_ARG, "limits: tokens_per_second is not in 0..1000000");
    if (!(l.duty_percent >= 0 && l.duty_percent <= 100))
        return kvi_error_set(error, KVRT_ARG, "limits: duty_percent is not in 0..100");
    if (l.mode < 0 || l.mode > KVRT_MODE_COMPUTE)
        return kvi_error_set(error, KVRT_ARG, "limits: mode is %d, need a kvrt_mode", l.mode);
    KVI_TRY(kvi_engine_enter(handle, KVI_LOOK, &e, error));
    kvrt_status status = KVRT_OK;
    if (e->pace.costs) kvi_pace_limit(&e->pace, l.tokens_per_second, l.duty_percent / 100, l.mode);
    else status = kvi_error_set(error, KVRT_STATE, "engine: opened with model.load=tokenizer, it computes nothing");
    if (status >= KVRT_OK) kvi_seat_signal(&e->seat);
    kvi_engine_leave(e, KVI_LOOK);
    return status;
}

void kvrt_cancel_id(uint64_t request)
{
    if (request) kvi_handle_cancel_anywhere(request);
}
