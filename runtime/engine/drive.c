/* drive.c - see drive.h. */
#include "drive.h"
#include "seat.h"
#include "transfer.h"

#define MOST_IN_COMPANY 128u /* rows of a part of a prompt beside others who decode */
#define USUAL_TOKEN 64u      /* bytes of an alternative that are reckoned with; the queue grows for more */

/* ------------------------------------------------------------------------------------------------------- choosing --- */
/* Lower is earlier. */
static int64_t rank(const kvi_session *s)
{
    return (int64_t)s->served - (int64_t)s->priority * KVI_PRIORITY_STEPS * (int64_t)s->engine->backend->narrow_rows;
}

/* Whether what the next step may say of the session fits in the event queue, less what others in the step may say. Two sections and a flush. */
static bool may_speak(const kvi_session *s, uint32_t n_tokens, size_t *room)
{
    const kvi_generation *gen = &s->gen;
    const size_t withheld = gen->stream.pending.len + gen->sections.n_held + sizeof gen->stream.tail,
                 need = kvi_events_need(KVI_ELASTIC_LEVELS + n_tokens * (7 + (uint32_t)gen->top_wanted),
                                        sizeof gen->error.message + n_tokens * (3 * (withheld + KVI_EVENT_TEXT) +
                                                                                (size_t)gen->top_wanted * USUAL_TOKEN));
    if (!s->submitted) return true;
    if (need > *room) return false;
    *room -= need;
    return true;
}

typedef struct choice {
    kvi_session *const *sessions;
    uint32_t n;
    uint32_t part_rows; /* most rows of a wide step; 0: whole chunks */
    size_t room;        /* of the event queue */
    bool gagged;        /* somebody waits for it */
    bool rests;         /* no narrow step now */
    uint32_t n_narrow;  /* that want narrow rows */
    bool apart;         /* some of them only in steps of their own */
} choice;

/* The next of those who want this form and are not in the step yet; NULL: nobody. */
static kvi_session *next_of(const choice *c, bool wide, const kvi_engine *e)
{
    kvi_session *best = NULL;
    for (uint32_t i = 0; i < c->n; i++) {
        kvi_session *s = c->sessions[i];
        if (s->last_turn == e->turn || (best && rank(s) >= rank(best))) continue;
        const kvi_want want = kvi_generation_next(s);
        if (want.n && want.wide == wide) best = s;
    }
    return best;
}

/* Some decoding session has had no step since the last wide one. */
static bool narrow_is_next(choice *c, const kvi_engine *e, bool *any_wide)
{
    bool waits = false;
    c->n_narrow = 0;
    c->apart = false;
    *any_wide = false;
    for (uint32_t i = 0; i < c->n; i++) {
        const kvi_want want = kvi_generation_next(c->sessions[i]);
        if (!want.n) continue;
        *any_wide = *any_wide || want.wide;
        if (want.wide || c->rests) continue;
        c->n_narrow++;
        c->apart = c->apart || !kvi_step_has_company(c->sessions[i], &want);
        waits = waits || c->sessions[i]->last_turn <= e->last_wide_turn;
    }
    return c->n_narrow && (waits || !*any_wide);
}

/* A chunk may be computed in parts, where the bits do not depend on it: kvi_want.part. The last token waits for the last part, and until tokens may
 * be generated. */
static void cut(const choice *c, kvi_want *want)
{
    uint32_t n = want->n - want->n_narrow, n_parts = 1;
    if (!want->wide) return;
    if (c->part_rows && n > c->part_rows) n_parts = (n + c->part_rows - 1) / c->part_rows;
    if (n_parts == 1 && !c->rests) return;
    want->n = (n + n_parts - 1) / n_parts; /* of one length, so that costs are alike */
    want->n_narrow = want->n_logit_rows = 0;
    want->part = n_parts > 1;
}

/* The session has a place in the step, if there is one; false: the step is full, or has to wait. */
static bool add(kvi_engine *e, choice *c, kvi_batch *b, kvi_session *s)
{
    kvi_want want = kvi_generation_next(s);
    if (!want.n) return true; /* a cancel came between the two questions, and it is over */
    kvi_draft_add(s, &want, c->n_narrow);
    if (want.n_draft && !may_speak(s, 1 + want.n_draft, &c->room)) kvi_draft_drop(s, &want);
    if (!want.n_draft && !may_speak(s, 1, &c->room)) {
        c->gagged = true;
        return false;
    }
    cut(c, &want);
    if (!kvi_batch_add(b, s, &want, &s->gen.error)) return false;
    s->last_turn = e->turn;
    s->served = ++e->n_served;
    return true;
}

/* Rows of a part of some `wanted` rows beside n narrow ones. Weights are read once for every eight rows of a few (dots.h), so all of them are about a
 * multiple of that: one more would cost as much as eight. */
static uint32_t rows_beside(uint32_t wanted, uint32_t n, uint32_t most)
{
    const uint32_t others = n < most ? n : most, low = (wanted + others) / KVI_DECODE_ROWS * KVI_DECODE_ROWS - others;
    return low >= wanted * 3 / 4 ? low : low + KVI_DECODE_ROWS;
}

/* A part of a prompt beside those who decode, if all may be there. They have a token with every part then, so that parts are short, and shorter than
 * the chunk by the narrow rows. */
static bool add_prompt(kvi_engine *e, choice *c, kvi_batch *b)
{
    const uint32_t most_rows = e->plan.limits.max_rows, n_narrow = e->backend->narrow_rows;
    kvi_session *s = next_of(c, true, e);
    if (!s || !c->n_narrow || c->apart || most_rows < 4 * n_narrow) return false;
    const kvi_want want = kvi_generation_next(s);
    if (!want.n || !kvi_step_has_company(s, &want)) return false;
    const uint32_t most = most_rows - n_narrow < MOST_IN_COMPANY ? most_rows - n_narrow : MOST_IN_COMPANY;
    if (!c->part_rows || c->part_rows > most) c->part_rows = most;
    else c->part_rows = rows_beside(c->part_rows, c->n_narrow, n_narrow);
    (void)add(e, c, b, s);
    return b->n_parts > 0 || c->gagged;
}

/* False: nobody wants anything, or may not now. */
static bool choose(kvi_engine *e, choice *c, kvi_batch *b)
{
    bool any_wide;
    b->n_parts = b->n_rows = b->n_logit_rows = 0;
    const bool narrow = narrow_is_next(c, e, &any_wide);
    if (!c->n_narrow && !any_wide) return false;
    e->turn++;
    const bool mixed = e->mixes && any_wide && add_prompt(e, c, b);
    for (kvi_session *s; !c->gagged && (s = next_of(c, !mixed && !narrow, e)) && add(e, c, b, s);) {
    }
    if (b->n_parts && b->parts[0].want.wide) e->last_wide_turn = e->turn;
    return b->n_parts > 0;
}

static uint32_t take(kvi_batch *b)
{
    uint32_t n_before = 0, n_after = 0;
    for (uint32_t i = 0; i < b->n_parts; i++) {
        kvi_part *part = &b->parts[i];
        n_before += part->session->gen.n_generated;
        kvi_generation_take(part->session, part->status, part->logit_row);
        n_after += part->session->gen.n_generated;
    }
    return n_after - n_before;
}

static void lose(kvi_session *const *sessions, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (kvi_generation_next(sessions[i]).n)
            kvi_generation_take(sessions[i],
                                kvi_error_set(&sessions[i]->gen.error, KVRT_DEVICE_LOST,
                                              "engine: the device was lost while another session used it"),
                                0);
}

/* ------------------------------------------------------------------------------------------------------- blocking --- */
bool kvi_drive_step(kvi_engine *e, kvi_session *const *sessions, uint32_t n)
{
    kvi_batch batch;
    choice c = {.sessions = sessions, .n = n, .room = SIZE_MAX};
    if (atomic_load(&e->lost)) lose(sessions, n);
    if (!choose(e, &c, &batch)) return false;
    kvi_batch_run(e, &batch);
    (void)take(&batch);
    return true;
}

void kvi_engine_drive(kvi_engine *e, kvi_session *const *sessions, uint32_t n)
{
    while (kvi_drive_step(e, sessions, n)) {
    }
}

/* ------------------------------------------------------------------------------------------------------ submitted --- */
static void remove_at(kvi_engine *e, uint32_t i)
{
    e->submitted[i]->submitted = false;
    e->submitted[i] = e->submitted[--e->n_submitted];
}

bool kvi_drive_reserve(kvi_engine *e)
{
    void *list = e->submitted;
    const bool made = kvi_mem_grow(&list, &e->cap_submitted, e->n_submitted + 1u, sizeof *e->submitted);
    e->submitted = list;
    return made;
}

void kvi_drive_join(kvi_engine *e, kvi_session *s)
{
    s->submitted = true;
    s->last_turn = e->turn, s->served = e->n_served; /* it has waited for nothing yet */
    e->submitted[e->n_submitted++] = s;
}

/* Requests that are over. */
static void clear_out(kvi_engine *e)
{
    for (uint32_t i = e->n_submitted; i-- > 0;)
        if (!e->submitted[i]->transfer && e->submitted[i]->gen.state == KVI_DONE) remove_at(e, i);
}

void kvi_drive_lost(kvi_engine *e)
{
    if (!atomic_load(&e->lost)) return;
    e->in_flight = false;
    lose(e->submitted, e->n_submitted);
    kvi_transfers_lose(e);
    clear_out(e);
}

static uint32_t end_flight(kvi_engine *e)
{
    kvi_pace *pace = &e->pace;
    const uint64_t start = pace->now_us();
    kvi_batch_end(e, e->flight);
    const uint32_t n_tokens = take(e->flight);
    kvi_pace_learn(pace, kvi_batch_is_by_row(e, e->flight, pace->n_ops), pace->n_ops, e->flight->step.n_rows, 1,
                   pace->now_us() - start);
    e->in_flight = false;
    clear_out(e);
    kvi_drive_lost(e);
    return n_tokens;
}

void kvi_drive_finish(kvi_engine *e)
{
    if (!e->in_flight) return;
    (void)kvi_batch_go(e, e->flight, KVI_FOREVER);
    (void)end_flight(e);
}

static bool is_in_flight(const kvi_engine *e, const kvi_session *s)
{
    for (uint32_t i = 0; e->in_flight && i < e->flight->n_parts; i++)
        if (e->flight->parts[i].session == s) return true;
    return false;
}

void kvi_drive_finish_of(kvi_engine *e, const kvi_session *s)
{
    if (is_in_flight(e, s)) kvi_drive_finish(e);
}

/* A step that nobody has taken the results of has not been: the others in it ask again. Not where it has changed states. */
void kvi_drive_leave(kvi_engine *e, kvi_session *s)
{
    if (is_in_flight(e, s)) {
        if (s->states.units || e->flight->is_accepted) kvi_drive_finish(e);
        e->in_flight = false;
    }
    for (uint32_t i = e->n_submitted; i-- > 0;)
        if (e->submitted[i] == s) remove_at(e, i);
}

/* Rows of a wide step of which no round takes more than an eighth of the budget, and no fewer than keep the matrix kernels busy. */
static uint32_t part_rows(const kvi_engine *e)
{
    enum { LEAST = 16 };
    const uint32_t rows = kvi_pace_rows(&e->pace, e->pace.turn_us / 8, LEAST);
    return rows < LEAST ? LEAST : rows;
}

static bool begin_flight(kvi_engine *e, uint64_t until, bool *gagged)
{
    choice c = {.sessions = e->submitted,
                .n = e->n_submitted,
                .part_rows = until == KVI_FOREVER ? 0 : part_rows(e),
                .room = kvi_events_room(&e->events),
                .rests = kvi_pace_rests(&e->pace, true) != 0};
    e->in_flight = choose(e, &c, e->flight);
    *gagged = c.gagged && !e->in_flight;
    if (e->in_flight) kvi_batch_begin(e, e->flight);
    clear_out(e); /* those that needed no step to end */
    return e->in_flight;
}

/* What is saved and loaded between the steps of others has a part of the time, beside them; alone it has all. */
static void transfer_some(kvi_engine *e, uint64_t until)
{
    const uint64_t now = e->pace.now_us(), quarter = until > now ? (until - now) / 4 : 0,
                   turn = now + (quarter < KVI_TRANSFER_TURN_US ? quarter : KVI_TRANSFER_TURN_US);
    if (kvi_transfers_wait(e)) (void)kvi_transfers_go(e, turn, false, !e->in_flight);
}

kvrt_status kvi_drive_until(kvi_engine *e, uint64_t until)
{
    kvi_pace *pace = &e->pace;
    const uint64_t start = pace->now_us();
    kvrt_status status = KVRT_MORE;
    uint32_t n_tokens = 0;
    bool gagged = false;
    if (kvi_pace_rests(pace, false)) return e->n_submitted ? KVRT_MORE : KVRT_DONE;
    pace->moved = false;
    pace->turn_us = until > start ? until - start : 0;
    while (status == KVRT_MORE) {
        transfer_some(e, until);
        if (!e->in_flight && !begin_flight(e, until, &gagged)) {
            if (kvi_transfers_wait(e) && kvi_transfers_go(e, until, !pace->moved, true)) continue;
            if (kvi_transfers_gagged(e)) gagged = true;
            status = gagged ? KVRT_PARTIAL : e->n_submitted ? KVRT_MORE : KVRT_DONE;
            break;
        }
        if (!kvi_batch_go(e, e->flight, until)) break;
        n_tokens += end_flight(e);
        const uint64_t now = pace->now_us(), next = kvi_pace_expect(pace, false, pace->n_ops, 1);
        if (!e->n_submitted) status = KVRT_DONE;
        if (now + next >= until || kvi_pace_limits_tokens(pace) || kvi_seat_is_wanted(&e->seat)) break;
    }
    kvi_pace_worked(pace, pace->now_us() - start, n_tokens);
    return status;
}
