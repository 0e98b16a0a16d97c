/* transfer.c - see transfer.h. */
#include "transfer.h"
#include "drive.h"
#include "seat.h"

#include <string.h>

#define NEWS_BYTES (sizeof(((kvrt_error *)NULL)->message)) /* text of the event that ends one */

void kvi_transfer_free(kvi_session *s)
{
    kvi_transfer *t = s->transfer;
    if (!t) return;
    kvi_saving_free(&t->saving);
    kvi_loading_free(&t->loading);
    kvi_os_read_end(&t->reader);
    (void)kvi_os_replace_end(&t->writer, false, NULL);
    kvi_mem_free(t->bytes);
    kvi_mem_free(t);
    s->transfer = NULL;
}

bool kvi_transfers_wait(const kvi_engine *e)
{
    bool any = false;
    for (uint32_t i = 0; i < e->n_submitted; i++) any = any || e->submitted[i]->transfer;
    return any;
}

static bool has_voice(kvi_engine *e) { return kvi_events_need(1, NEWS_BYTES) <= kvi_events_room(&e->events); }

bool kvi_transfers_gagged(kvi_engine *e) { return kvi_transfers_wait(e) && !has_voice(e); }

/* ---------------------------------------------------------------------------------------------------------- pieces --- */
static kvrt_status save_piece(kvi_session *s, kvi_transfer *t, kvrt_error *error)
{
    if (!t->begun) {
        KVI_TRY(kvi_saving_begin(&t->saving, s, t->flags, kvi_sink_file(&t->writer), error));
        t->begun = true;
        return KVRT_MORE;
    }
    const kvrt_status status = kvi_saving_go(&t->saving, error);
    kvi_os_replace_hurry(&t->writer);
    return status;
}

static kvrt_status load_piece(kvi_session *s, kvi_transfer *t, kvrt_error *error)
{
    const uint64_t left = t->reader.n - t->n_read, n = left < KVI_SNAPSHOT_PIECE ? left : KVI_SNAPSHOT_PIECE;
    if (t->begun) return kvi_loading_go(&t->loading, error);
    KVI_TRY(kvi_os_read_next(&t->reader, t->bytes + t->n_read, n, error));
    t->n_read += n;
    if (t->n_read < t->reader.n) return KVRT_MORE;
    KVI_TRY(kvi_loading_begin(&t->loading, s, t->bytes, t->n_read, t->flags, error));
    t->begun = true;
    return KVRT_MORE;
}

static bool needs_stillness(const kvi_transfer *t)
{
    return t->loads && t->begun && t->loading.stage == KVI_LOADING_TAKES;
}

/* A load that has taken the session's pages ends what it began. */
static bool may_end(const kvi_transfer *t) { return !(t->loads && t->begun && t->loading.stage == KVI_LOADING_FILLS); }

static void tell(kvi_session *s, kvrt_status status, const kvrt_error *why)
{
    const kvi_transfer *t = s->transfer;
    kvrt_event event = {.type = KVRT_EVENT_DONE,
                        .request = t->request,
                        .done = t->loads ? t->n_read : t->saving.total_bytes,
                        .total = t->loads ? t->reader.n : t->saving.total_bytes};
    if (status < KVRT_OK) {
        event.type = KVRT_EVENT_ERROR;
        event.status = status;
        event.finish = status == KVRT_CANCELLED ? KVRT_FINISH_CANCELLED : KVRT_FINISH_NONE;
        event.text = why->message;
        event.text_len = strlen(why->message);
    }
    (void)kvi_engine_event(s->engine, kvi_events_push, &s->engine->events, &event);
}

static void end(kvi_session *s, kvrt_status status, kvrt_error *why)
{
    kvi_transfer *t = s->transfer;
    if (status >= KVRT_OK && !t->loads) status = kvi_os_replace_end(&t->writer, true, why);
    tell(s, status, why);
    kvi_transfer_free(s);
    kvi_drive_leave(s->engine, s);
}

void kvi_transfers_lose(kvi_engine *e)
{
    kvrt_error why = {.size = sizeof why};
    for (uint32_t i = e->n_submitted; i-- > 0;)
        if (e->submitted[i]->transfer)
            end(e->submitted[i],
                kvi_error_set(&why, KVRT_DEVICE_LOST, "engine: the device was lost while another session used it"),
                &why);
}

/* Who was served longest ago. */
static kvi_session *next_of(const kvi_engine *e, bool still)
{
    kvi_session *best = NULL;
    for (uint32_t i = 0; i < e->n_submitted; i++) {
        kvi_session *s = e->submitted[i];
        if (s->transfer && (still || !needs_stillness(s->transfer)) && (!best || s->served < best->served)) best = s;
    }
    return best;
}

static kvrt_status piece(kvi_session *s, kvrt_error *why)
{
    kvi_transfer *t = s->transfer;
    if (may_end(t) && kvi_requests_cancelled(s->requests)) return kvi_error_set(why, KVRT_CANCELLED, "cancelled");
    return t->loads ? load_piece(s, t, why) : save_piece(s, t, why);
}

bool kvi_transfers_go(kvi_engine *e, uint64_t until, bool must, bool still)
{
    kvi_pace *pace = &e->pace;
    bool any = false;
    for (kvi_session *s; has_voice(e) && (s = next_of(e, still)) && !kvi_seat_is_wanted(&e->seat); any = true) {
        const uint64_t start = pace->now_us();
        kvrt_error why = {.size = sizeof why};
        if (start + kvi_pace_expect_piece(pace) > until && (any || !must)) break;
        s->served = ++e->n_served;
        const kvrt_status status = piece(s, &why);
        kvi_pace_learn_piece(pace, pace->now_us() - start);
        pace->moved = true;
        if (status != KVRT_MORE) end(s, status, &why);
        kvi_drive_lost(e);
    }
    return any;
}

/* ------------------------------------------------------------------------------------------------------ submitting --- */
static kvrt_status prepare(kvi_session *s, const char *path, kvrt_error *error)
{
    kvi_transfer *t = s->transfer;
    KVI_TRY(kvi_snapshot_check_flags(t->flags, t->loads, error));
    if (t->loads) {
        KVI_TRY(kvi_os_read_begin(&t->reader, path, error));
        t->bytes = kvi_mem_alloc(t->reader.n);
        return t->bytes ? KVRT_OK : kvi_error_nomem(error, t->reader.n, "snapshot");
    }
    if (s->shift.sink_is_behind) {
        kvi_drive_finish(s->engine);
        KVI_TRY(kvi_session_finish_sink(s, error));
    }
    return kvi_os_replace_begin(&t->writer, path, error);
}

static kvrt_status begin(kvi_session *s, bool loads, const char *path, uint32_t flags, kvrt_error *error)
{
    kvi_engine *e = s->engine;
    if (!kvi_drive_reserve(e)) return kvi_error_nomem(error, sizeof *e->submitted, "list of submitted requests");
    s->transfer = kvi_mem_zalloc(1, sizeof *s->transfer);
    if (!s->transfer) return kvi_error_nomem(error, sizeof *s->transfer, "snapshot");
    s->transfer->loads = loads, s->transfer->flags = flags;
    const kvrt_status status = prepare(s, path, error);
    if (status < KVRT_OK) {
        kvi_transfer_free(s);
        return status;
    }
    s->transfer->request = kvi_requests_begin(s->requests);
    kvi_drive_join(e, s);
    return KVRT_OK;
}

static kvrt_status submit(kvrt_session handle, bool loads, const char *path, uint32_t flags, uint64_t *request,
                          kvrt_error *error)
{
    kvi_session *s;
    if (!path) return kvi_error_set(error, KVRT_ARG, "kvrt_submit_%s: path is NULL", loads ? "load" : "save");
    KVI_TRY(loads ? kvi_session_enter_still(handle, &s, error) : kvi_session_enter_idle(handle, &s, error));
    kvi_engine *e = s->engine;
    kvi_account *before = kvi_account_use(e->account);
    const kvrt_status status = begin(s, loads, path, flags, error);
    if (status >= KVRT_OK && request) *request = s->transfer->request;
    (void)kvi_account_use(before);
    kvi_session_leave(s, KVI_DRIVE);
    if (status >= KVRT_OK) kvi_seat_signal(&e->seat);
    return status;
}

kvrt_status kvrt_submit_save(kvrt_session session, const char *path, uint32_t flags, uint64_t *request,
                             kvrt_error *error)
{
    return submit(session, false, path, flags, request, error);
}

kvrt_status kvrt_submit_load(kvrt_session session, const char *path, uint32_t flags, uint64_t *request,
                             kvrt_error *error)
{
    return submit(session, true, path, flags, request, error);
}
