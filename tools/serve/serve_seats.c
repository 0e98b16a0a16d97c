/* serve_seats.c - as many sessions as the engine was planned for, and who gets which.
 *
 * A session stays when its answer is over. The next turn of its conversation finds it by what it holds: the new prompt, as the
 * template spells it, begins with the old prompt and the bytes that were generated, so the tokens stay as they are, also where a
 * tokenizer would cut that text otherwise, and only what follows is computed. A prompt that is not rendered (completions), and one
 * whose answer was changed or is asked for again, is compared by tokens, and takes a session only if that returns to its last prompt
 * or goes on behind its end: there results have the same bits as in a new session (kvrt.h, rule 8). Everything else gets a new
 * session, which still takes whole pages of prompts from what others have computed. */
#define _POSIX_C_SOURCE 200809L
#include "serve.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LAST_PIECES                                                                                                    \
    8u /* tokens at the end of an answer that the client may not send back: end of text, a stop string */

/* ---------------------------------------------------------------------------------------------------- who may --- */
static void leave_queue(serve_server *s, const serve_waiter *me)
{
    for (serve_waiter **at = &s->waiters; *at; at = &(*at)->next)
        if (*at == me) {
            *at = me->next;
            break;
        }
    s->n_waiting--;
    pthread_cond_broadcast(&s->freed);
}

int serve_seats_wait(serve_call *call)
{
    serve_server *s = call->server;
    serve_waiter me = {.need = call->n_answers};
    int code = 200;
    pthread_mutex_lock(&s->lock);
    if ((s->waiters || s->n_free < me.need) && s->n_waiting >= s->max_waiting) {
        pthread_mutex_unlock(&s->lock);
        return 429;
    }
    serve_waiter **last = &s->waiters;
    while (*last) last = &(*last)->next;
    *last = &me;
    s->n_waiting++;
    while (code == 200 && !(s->waiters == &me && s->n_free >= me.need)) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += 200 * 1000 * 1000;
        if (until.tv_nsec >= 1000000000) until.tv_nsec -= 1000000000, until.tv_sec++;
        (void)pthread_cond_timedwait(&s->freed, &s->lock, &until);
        if (s->aborting) code = 503;
        else if (serve_client_gone(call->connection)) code = 499;
    }
    leave_queue(s, &me);
    if (code == 200) {
        s->n_free -= me.need;
        s->n_running++;
        call->n_seats = me.need;
        serve_observe(&s->counts.queue, serve_now_us() - call->since_us);
    }
    pthread_mutex_unlock(&s->lock);
    return code;
}

void serve_seats_give_back(serve_server *s, unsigned n)
{
    if (!n) return;
    pthread_mutex_lock(&s->lock);
    s->n_free += n;
    s->n_running--;
    pthread_cond_broadcast(&s->freed);
    pthread_mutex_unlock(&s->lock);
}

/* --------------------------------------------------------------------------------------------------- who gets which --- */
/* The same by the text alone: of a prompt that is all of what the seat was asked, or goes on behind its answer. */
static size_t keeps_text(const serve_seat *seat, const serve_prompt *prompt, size_t *text)
{
    const size_t known = seat->prompt.len, n_pieces = seat->n_ids - seat->n_prompt;
    *text = known;
    if (known && prompt->text.len == known && memcmp(prompt->text.data, seat->prompt.data, known) == 0)
        return seat->n_prompt;
    if (known && prompt->text.len > known && memcmp(prompt->text.data, seat->prompt.data, known) == 0) {
        const char *rest = prompt->text.data + known;
        const size_t room = prompt->text.len - known;
        size_t k = 0, at = 0;
        while (k < n_pieces && seat->ends[k] < room &&
               memcmp(rest + at, seat->pieces.data + at, seat->ends[k] - at) == 0)
            at = seat->ends[k++];
        if (k && k + LAST_PIECES >= n_pieces) {
            *text = known + at;
            return seat->n_prompt + k;
        }
    }
    return *text = 0;
}

size_t serve_seat_would_keep(const serve_seat *seat, const serve_prompt *prompt)
{
    size_t text;
    if (!seat->prompt.len && !prompt->text.len) return seat->n_prompt; /* it was found by its tokens */
    return keeps_text(seat, prompt, &text);
}

/* Tokens that the seat's session may keep for the prompt, and in *text the bytes of the rendering that they stand for (0: compare ids alone). */
static size_t keeps(const serve_seat *seat, const serve_prompt *prompt, size_t *text)
{
    *text = 0;
    if (!seat->session || !seat->n_ids) return 0;
    const size_t by_text = keeps_text(seat, prompt, text);
    if (by_text) return by_text;
    size_t same = 0;
    while (same < seat->n_ids && same < prompt->n && seat->ids[same] == prompt->ids[same]) same++;
    /* The very tokens of the session would be its own text going on, with what waits of it. */
    if (same == seat->n_ids) return same < prompt->n ? same : 0;
    return same >= seat->n_prompt ? same : 0;
}

/* Under engine_lock: the free seat that keeps most, else an unused one, else the one used longest ago. */
static serve_seat *choose(serve_server *s, const serve_prompt *prompt, size_t *kept, size_t *text)
{
    serve_seat *best = NULL, *oldest = NULL;
    *kept = 0;
    *text = 0;
    for (unsigned i = 0; i < s->n_seats; i++) {
        serve_seat *seat = &s->seats[i];
        size_t bytes;
        if (seat->taken) continue;
        const size_t n = keeps(seat, prompt, &bytes);
        if (n > *kept) best = seat, *kept = n, *text = bytes;
        const uint64_t age = seat->session ? seat->used : 0;
        if (!oldest || age < (oldest->session ? oldest->used : 0)) oldest = seat;
    }
    return best ? best : oldest;
}

void serve_seat_forget(serve_seat *seat)
{
    if (seat->session) (void)kvrt_session_close(seat->session, NULL);
    free(seat->ids);
    free(seat->ends);
    serve_text_free(&seat->prompt);
    serve_text_free(&seat->pieces);
    const bool taken = seat->taken;
    *seat = (serve_seat){.taken = taken, .seed = -1};
}

/* The kept tokens and those of the rest of the rendering. */
static int32_t join(serve_server *s, const serve_seat *seat, const serve_prompt *prompt, size_t kept, size_t text,
                    int32_t **ids, size_t *n, kvrt_error *error)
{
    int32_t *rest = NULL;
    size_t n_rest = 0;
    int32_t status = serve_render(s, prompt, text, &rest, &n_rest, NULL, error);
    *ids = status < 0 ? NULL : malloc((kept + n_rest) * sizeof **ids);
    if (*ids) {
        memcpy(*ids, seat->ids, kept * sizeof **ids);
        if (n_rest) memcpy(*ids + kept, rest, n_rest * sizeof **ids);
        *n = kept + n_rest;
    }
    free(rest);
    return status;
}

/* One random stream goes over all calls of a session. A request that names the seed of the call before wants its numbers from the beginning: a
 * request for no tokens with another seed, which computes nothing, makes that so. */
static int32_t restart_random(serve_server *s, serve_seat *seat, int64_t seed, kvrt_error *error)
{
    pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
    serve_job job = {.changed = &changed};
    kvrt_options *options = NULL;
    int32_t status = kvrt_options_create(&options, error);
    if (status >= 0) status = kvrt_options_set_i64(options, "sample.seed", seed ^ 1, error);
    if (status >= 0) status = kvrt_options_set_i64(options, "gen.max_tokens", 0, error);
    if (status >= 0) status = serve_job_start(s, &job, seat->session, options, error);
    serve_job_wait(s, &job);
    serve_job_free(&job);
    kvrt_options_destroy(options);
    pthread_cond_destroy(&changed);
    return status;
}

void serve_seat_drop(serve_server *s, serve_seat *seat)
{
    pthread_mutex_lock(&s->engine_lock);
    serve_seat_forget(seat);
    seat->taken = false;
    pthread_mutex_unlock(&s->engine_lock);
}

int32_t serve_seat_borrow(serve_server *s, serve_seat **out, kvrt_error *error)
{
    const serve_prompt nothing = {0};
    size_t kept, text;
    pthread_mutex_lock(&s->engine_lock);
    serve_seat *seat = choose(s, &nothing, &kept, &text);
    serve_seat_forget(seat);
    const int32_t status = kvrt_session_create(s->engine, NULL, &seat->session, error);
    seat->taken = status >= 0;
    pthread_mutex_unlock(&s->engine_lock);
    *out = status >= 0 ? seat : NULL;
    return status;
}

int32_t serve_seat_take(serve_server *s, const serve_prompt *prompt, int64_t seed, serve_seat **out, kvrt_error *error)
{
    size_t kept, text, n = prompt->n;
    int32_t *joined = NULL;
    int32_t status = KVRT_OK;
    pthread_mutex_lock(&s->engine_lock);
    serve_seat *seat = choose(s, prompt, &kept, &text);
    if (s->store && (!kept || s->role == SERVE_DECODE)) { /* nobody here knows this conversation, or all of it */
        pthread_mutex_unlock(&s->engine_lock);
        serve_store_find(s, prompt, kept);
        pthread_mutex_lock(&s->engine_lock);
        seat = choose(s, prompt, &kept, &text);
    }
    seat->taken = true;
    seat->used = ++s->clock;
    if (!kept) serve_seat_forget(seat);
    if (kept && text) status = join(s, seat, prompt, kept, text, &joined, &n, error);
    if (status >= 0 && !seat->session) status = kvrt_session_create(s->engine, NULL, &seat->session, error);
    if (status >= 0)
        status = kvrt_session_sync(seat->session, joined ? joined : prompt->ids, joined ? n : prompt->n, NULL, error);
    if (status >= 0) {
        int32_t *ids = joined ? joined : malloc(prompt->n * sizeof *ids);
        if (ids && !joined) memcpy(ids, prompt->ids, prompt->n * sizeof *ids);
        free(seat->ids);
        seat->ids = ids;
        seat->n_ids = seat->n_prompt = ids ? (joined ? n : prompt->n) : 0;
        joined = NULL;
    }
    free(joined);
    pthread_mutex_unlock(&s->engine_lock);
    if (status >= 0 && seed >= 0 && seat->seed == seed) status = restart_random(s, seat, seed, error);
    if (status < 0) {
        serve_seat_drop(s, seat);
        return status;
    }
    seat->seed = seed;
    *out = seat;
    return status;
}

/* Special tokens come without text; the template writes theirs. */
static void spell_specials(serve_server *s, serve_job *job, serve_text *pieces, size_t *ends)
{
    char text[256];
    for (size_t i = 0, from = 0; i < job->n_ids; from = job->ends[i++]) {
        uint64_t len = 0;
        const size_t n = job->ends[i] - from;
        if (n) serve_put(pieces, job->pieces.data + from, n);
        else if (kvrt_detokenize(s->engine, &job->ids[i], 1, KVRT_DETOKENIZE_KEEP_SPECIAL, text, sizeof text, &len,
                                 NULL) == KVRT_OK)
            serve_put(pieces, text, len);
        ends[i] = pieces->len;
    }
}

/* Under engine_lock. False when the seat cannot say what its session holds. */
static bool remember(serve_server *s, serve_seat *seat, const serve_prompt *prompt, serve_job *job)
{
    kvrt_session_info info = {.size = sizeof info};
    const bool cancelled = job->status == KVRT_CANCELLED;
    if ((job->status < 0 && !cancelled) || !seat->ids) return false;
    int32_t *ids = realloc(seat->ids, (seat->n_prompt + job->n_ids) * sizeof *ids);
    size_t *ends = malloc((job->n_ids + 1) * sizeof *ends);
    if (ids) seat->ids = ids;
    free(seat->ends);
    seat->ends = ends;
    if (!ids || !ends) return false;
    if (job->n_ids) memcpy(ids + seat->n_prompt, job->ids, job->n_ids * sizeof *ids);
    seat->n_ids = seat->n_prompt + job->n_ids;
    serve_text_clear(&seat->prompt);
    serve_text_clear(&seat->pieces);
    if (prompt->text.len) serve_put(&seat->prompt, prompt->text.data, prompt->text.len);
    spell_specials(s, job, &seat->pieces, ends);
    serve_put(&seat->pieces, "", 0);
    /* A full context may have dropped some (ctx.full=shift). */
    return !seat->prompt.failed && !seat->pieces.failed && kvrt_session_get_info(seat->session, &info, NULL) >= 0 &&
           info.n_tokens == seat->n_ids;
}

void serve_seat_return(serve_server *s, serve_seat *seat, const serve_prompt *prompt, serve_job *job)
{
    pthread_mutex_lock(&s->engine_lock);
    struct serve_segment *segment = NULL;
    if (!remember(s, seat, prompt, job)) serve_seat_forget(seat);
    else segment = serve_store_take(s, seat);
    seat->taken = false;
    seat->used = ++s->clock;
    pthread_mutex_unlock(&s->engine_lock);
    serve_store_put(s, segment);
}

bool serve_seat_import(serve_server *s, serve_seat *found, const void *session, uint64_t len)
{
    kvrt_error error = {.size = sizeof error};
    const serve_prompt nothing = {0};
    size_t kept, text;
    uint64_t n = 0;
    pthread_mutex_lock(&s->engine_lock);
    serve_seat *seat = choose(s, &nothing, &kept, &text);
    serve_seat_forget(seat); /* there are no more sessions than seats */
    int32_t status = kvrt_session_create(s->engine, NULL, &found->session, &error);
    if (status >= 0) status = kvrt_session_load_bytes(found->session, session, len, 0, &error);
    found->ids = malloc((found->n_ids + 1) * sizeof *found->ids);
    if (status >= 0)
        status = kvrt_session_tokens(found->session, found->ids, found->ids ? found->n_ids : 0, &n, &error);
    const bool ok = status >= 0 && found->ids && n == found->n_ids;
    if (ok) {
        found->used = ++s->clock;
        *seat = *found;
    } else serve_seat_forget(found);
    pthread_mutex_unlock(&s->engine_lock);
    return ok;
}

void serve_seats_free(serve_server *s)
{
    for (unsigned i = 0; i < s->n_seats && s->seats; i++) serve_seat_forget(&s->seats[i]);
    free(s->seats);
    s->seats = NULL;
}
