/* fork.c - a second session that goes on where the first one stands. Pages are held by both; only the live state of recurrent layers is copied. */
#include "drive.h"
#include "seat.h"

#include <string.h>

/* What waits in the text, and where the random numbers are. A request that runs or is paused is over for the fork; its text goes on. */
static kvrt_status fork_generation(const kvi_generation *from, kvi_generation *to, kvrt_error *error)
{
    KVI_TRY(kvi_stream_init(&to->stream, NULL, 0, error));
    KVI_TRY(kvi_stream_take(&to->stream, &from->stream, error));
    to->sections.marks = from->sections.marks;
    to->sections.reasoning = from->sections.reasoning;
    to->sections.n_held = from->sections.n_held;
    memcpy(to->sections.held, from->sections.held, sizeof to->sections.held);
    to->decode = from->decode;
    to->luck = from->luck;
    to->n_settled = from->n_settled;
    KVI_TRY(kvi_constraint_copy(&from->constraint, &to->constraint, error));
    to->goes_on = from->goes_on || from->state != KVI_DONE;
    return KVRT_OK;
}

static kvrt_status fork_cache(kvi_session *from, kvi_session *to, kvrt_error *error)
{
    kvi_extent_copy copy;
    bool made = true;
    if (from->states.live != KVI_NO_PAGE) KVI_TRY(kvi_session_begin_state(to, &made, error));
    if (!made) return kvi_error_set(error, KVRT_CTX_FULL, "fork: the KV pool has no room for a second state");
    kvi_pages_share(&to->pages, &from->pages, from->n_cached);
    kvi_states_share(&to->states, &from->states, &copy);
    KVI_TRY(kvi_session_copy(to, &copy, error));
    memcpy(to->tokens, from->tokens, from->n_tokens * sizeof *to->tokens);
    memcpy(to->keys, from->keys, from->n_keys * sizeof *to->keys);
    to->n_tokens = from->n_tokens;
    to->n_cached = from->n_cached;
    to->n_pure = from->n_pure;
    to->n_ahead = from->n_ahead;
    to->n_published = from->n_published;
    to->n_keys = from->n_keys;
    to->shift = from->shift;
    if (from->mass && to->mass) memcpy(to->mass, from->mass, (from->ctx_size / KVI_KV_PAGE + 1u) * sizeof *to->mass);
    return KVRT_OK;
}

kvrt_status kvrt_session_fork(kvrt_session handle, kvrt_session *out, kvrt_error *error)
{
    kvi_session *from, *to = NULL;
    if (!out) return kvi_error_set(error, KVRT_ARG, "kvrt_session_fork: out is NULL");
    *out = NULL;
    KVI_TRY(kvi_session_enter(handle, KVI_DRIVE, &from, error));
    if (from->transfer) {
        kvi_session_leave(from, KVI_DRIVE);
        return kvi_error_set(error, KVRT_STATE, "session: it is being saved or loaded");
    }
    kvi_account *before = kvi_account_use(from->engine->account);
    if (from->states.units) kvi_drive_finish(from->engine); /* room for a state may move pages */
    kvi_drive_finish_of(from->engine, from);
    if (from->shift.sink_is_behind) kvi_drive_finish(from->engine);
    kvrt_status status = kvi_session_come_back(from, error);
    if (status >= KVRT_OK) status = kvi_session_finish_sink(from, error);
    if (status >= KVRT_OK) status = kvi_session_open(from->engine, from->options, &to, error);
    if (status >= KVRT_OK) status = fork_generation(&from->gen, &to->gen, error);
    if (status >= KVRT_OK) status = fork_cache(from, to, error);
    if (status >= KVRT_OK) *out = to->handle;
    else if (to) kvi_session_discard(to);
    (void)kvi_account_use(before);
    kvi_session_leave(from, KVI_DRIVE);
    return status;
}
