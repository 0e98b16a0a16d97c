/* batch.c - one step from what several sessions want, and its outcome for each of them. A session whose rows were computed moves on; another stays
 * where it was, and asks again. */
#include "draft.h"
#include "step.h"
#include "look_ahead.h"
#include "seat.h"

#include <string.h>

bool kvi_batch_add(kvi_batch *b, kvi_session *s, const kvi_want *want, kvrt_error *error)
{
    const kvi_limits *limits = &s->engine->plan.limits;
    if (b->n_parts > 0) {
        const kvi_part *first = &b->parts[0];
        const uint32_t n_wide = first->want.wide ? first->want.n - first->want.n_narrow : 0;
        const bool mixes = kvi_step_has_company(first->session, &first->want) && kvi_step_has_company(s, want);
        if (want->wide || (n_wide && !mixes) || b->n_parts == limits->max_seqs || b->n_parts == KVI_BATCH_ROWS ||
            b->n_rows + want->n - n_wide > s->engine->backend->narrow_rows || b->n_rows + want->n > limits->max_rows ||
            b->n_logit_rows + want->n_logit_rows > limits->max_logit_rows)
            return false;
    }
    b->parts[b->n_parts++] = (kvi_part){.session = s, .want = *want, .status = KVRT_MORE, .error = error};
    b->n_rows += want->n;
    b->n_logit_rows += want->n_logit_rows;
    return true;
}

static bool is_in(const kvi_part *part) { return part->status >= KVRT_OK; }

/* Room for all before the first row: pages may move for a later part, so tables are read when the step begins. */
static void reserve(kvi_batch *b)
{
    for (uint32_t i = 0; i < b->n_parts; i++) {
        kvi_part *part = &b->parts[i];
        kvrt_status status = KVRT_OK;
        /* A prompt that was taken from others may have pages that are due when its last step would have ended. */
        if (!part->want.wide) status = kvi_session_encode(part->session, part->error);
        if (status >= KVRT_OK)
            status = part->want.sink ? kvi_session_reserve_sink(part->session, part->error)
                                     : kvi_session_reserve(part->session, part->want.first + part->want.n, part->error);
        bool made = true;
        if (status >= KVRT_OK && part->want.n_draft) status = kvi_draft_reserve(part->session, &made, part->error);
        if (!made) kvi_draft_drop(part->session, &part->want);
        if (status < KVRT_OK) part->status = status;
    }
}

/* One cancel ends the step for all, who ask again: what it computed of them is soon computed anew. Where layers are recurrent it is not, as their
 * states have moved on; there a step ends early only when nobody needs it. */
static bool cancelled(const kvi_batch *b)
{
    uint32_t n_in = 0, n_cancelled = 0;
    bool recurrent = false;
    for (uint32_t i = 0; i < b->n_parts; i++) {
        const kvi_session *s = b->parts[i].session;
        if (!is_in(&b->parts[i])) continue;
        n_in++;
        n_cancelled += kvi_requests_cancelled(s->requests);
        recurrent = recurrent || s->states.units;
    }
    return recurrent ? n_cancelled == n_in : n_cancelled > 0;
}

/* The sink anew is no part of the sequence's way, and guesses may be wrong: recurrent layers work beside the live state. */
static uint32_t state_unit(const kvi_part *part)
{
    const kvi_states *states = &part->session->states;
    return part->want.sink || part->want.n_draft ? kvi_states_borrowed_unit(states) : kvi_states_unit(states);
}

/* Rows [from, from + n) of what a part wants, as a sequence behind those that are there. */
static void add_rows(kvi_batch *b, const kvi_part *part, const kvi_page_ref *const *tables, uint32_t from, uint32_t n)
{
    kvi_seq *seq = &b->seqs[b->step.n_seqs++];
    *seq = (kvi_seq){.first_row = b->step.n_rows,
                     .n_rows = n,
                     .pos = part->want.first + from,
                     .ahead = part->session->shift.ahead,
                     .state_unit = state_unit(part),
                     .pages = tables};
    seq->mass = kvi_session_mass(part->session, &part->want, &seq->mass_from);
    b->step.n_rows += n;
}

/* The parts one behind the other. Tokens and logit rows of several are gathered here; those of one stand where they are. */
static void gather(kvi_engine *e, kvi_batch *b)
{
    kvi_step *step = &b->step;
    uint32_t n_wide = 0;
    *step = (kvi_step){.seqs = b->seqs, .ids = e->step_ids, .logit_rows = b->rows, .narrow = true};
    for (uint32_t p = 0; p < b->n_parts; p++) {
        kvi_part *part = &b->parts[p];
        const kvi_want *want = &part->want;
        const int32_t *tokens = part->session->tokens + want->first;
        if (!is_in(part)) continue;
        kvi_pages_refs(&part->session->pages, b->tables[p]);
        part->logit_row = step->n_logit_rows;
        if (b->n_parts == 1) {
            step->ids = tokens, step->logit_rows = want->logit_rows;
        } else {
            memcpy(e->step_ids + step->n_rows, tokens, want->n * sizeof *tokens);
            for (uint32_t i = 0; i < want->n_logit_rows; i++)
                b->rows[step->n_logit_rows + i] = step->n_rows + want->logit_rows[i];
        }
        step->n_logit_rows += want->n_logit_rows;
        if (want->wide) step->wide = true, step->narrow = false, n_wide = want->n - want->n_narrow;
        add_rows(b, part, b->tables[p], 0, want->n - want->n_narrow);
        if (want->n_narrow) add_rows(b, part, b->tables[p], want->n - want->n_narrow, want->n_narrow);
    }
    if (n_wide < step->n_rows) step->n_wide = n_wide;
}

void kvi_batch_begin(kvi_engine *e, kvi_batch *b)
{
    const kvi_program *program = &e->program.program;
    b->why = (kvrt_error){.size = sizeof b->why};
    reserve(b);
    gather(e, b);
    kvi_ahead_before_step(e, b);
    /* Without logits to compute the program ends before its head. */
    b->is_accepted = false;
    b->encoding.part = b->encoding.n = 0;
    b->op = b->round = 0, b->end = b->step.n_seqs ? program->n_step : 0;
    while (!b->step.n_logit_rows && b->end > 0 && program->ops[b->end - 1].kind == KVI_OP_HEAD) b->end--;
    b->status = b->end ? e->backend->step_begin(e->device, &b->step, &b->why) : KVRT_OK;
    if (b->status == KVRT_OK && b->end) b->status = KVRT_MORE;
}

/* Without a budget a slice is one layer, or a part of the head. A decode step of a device that replays it as a whole takes milliseconds, and is one
 * slice. */
static uint32_t slice_end(const kvi_engine *e, const kvi_batch *b, bool in_time)
{
    if (e->backend->decodes_at_once && b->step.n_rows <= KVI_DECODE_ROWS) return b->end;
    const uint32_t end = in_time ? b->op + 1 : kvi_program_slice(&e->program.program, b->op);
    return end < b->end ? end : b->end;
}

/* An operation that was left half-way is ended first: what is done of it is not done again. */
static kvrt_status run_slice(kvi_engine *e, kvi_batch *b)
{
    uint32_t n_run;
    bool over;
    if (b->round) {
        const kvrt_status status =
            e->backend->run_some(e->device, b->op++, b->round, UINT32_MAX, &n_run, &over, &b->why);
        b->round = 0;
        return status;
    }
    const uint32_t next = slice_end(e, b, false);
    const kvrt_status status = e->backend->run(e->device, b->op, next - b->op, &b->why);
    b->op = next;
    return status;
}

bool kvi_batch_is_by_row(const kvi_engine *e, const kvi_batch *b, uint32_t op)
{
    const kvi_program *program = &e->program.program;
    const bool of_logits = op == program->n_step || program->ops[op].kind == KVI_OP_HEAD;
    return kvi_step_is_wide(&b->step) && !(b->step.n_logit_rows && of_logits);
}

/* With a budget it is a single operation, or so many rounds of it as take half of what is left: what is expected may be wrong, and the clock is
 * looked at again before time is over. */
static kvrt_status run_rounds(kvi_engine *e, kvi_batch *b, uint64_t start, uint64_t until)
{
    const kvi_backend *backend = e->backend;
    kvi_pace *pace = &e->pace;
    const bool wide = kvi_batch_is_by_row(e, b, b->op);
    const uint32_t op = b->op, next = slice_end(e, b, true), n_rows = b->step.n_rows;
    uint32_t n_run = 1;
    bool over = true;
    const kvrt_status status =
        backend->run_some && next == op + 1
            ? backend->run_some(e->device, op, b->round,
                                kvi_pace_rounds(pace, wide, op, n_rows, until > start ? until - start : 0), &n_run,
                                &over, &b->why)
            : backend->run(e->device, op, next - op, &b->why);
    b->round = over ? 0 : b->round + n_run;
    if (over) b->op = next;
    kvi_pace_learn(pace, wide, op, n_rows, n_run, pace->now_us() - start);
    return status;
}

/* Sessions whose rows were computed move on. */
static void accept(kvi_engine *e, kvi_batch *b)
{
    b->is_accepted = true;
    for (uint32_t i = 0; i < b->n_parts; i++) {
        kvi_part *part = &b->parts[i];
        const uint32_t n = part->want.n - part->want.n_draft;
        if (!is_in(part) || part->want.sink || (part->want.n_draft && part->session->states.units)) continue;
        part->session->n_cached += n;
        if (!part->want.n_draft && !part->want.hidden) kvi_ahead_after_step(e, b);
        const uint32_t n_last = part->want.n_narrow;
        kvi_session_publish(part->session, part->want.first, n - n_last, part->want.wide);
        if (n_last) kvi_session_publish(part->session, part->want.first + n - n_last, n_last, false);
    }
}

/* One round or more of the conversion under way; false: there is no time for one. In place it is not cut, as others may share the page meanwhile. */
static bool convert_rounds(kvi_engine *e, kvi_batch *b, uint64_t until, bool *over, kvrt_status *status)
{
    const kvi_backend *backend = e->backend;
    const kvi_page_job *job = &b->encoding.job;
    kvi_pace *pace = &e->pace;
    const bool in_time = until != KVI_FOREVER;
    const uint64_t start = in_time ? pace->now_us() : 0;
    const bool is_late = start + kvi_pace_expect_encode(pace) > until;
    uint32_t n_run = 1;
    if (in_time && pace->moved && (is_late || kvi_seat_is_wanted(&e->seat))) return false;
    pace->moved = true;
    *over = true;
    if (!backend->convert_some || job->from.unit == job->to.unit) {
        *status = backend->convert_pages(e->device, job, 1, &e->encode, &b->why);
        return true;
    }
    const uint32_t rounds = in_time ? kvi_pace_encode_rounds(pace, until > start ? until - start : 0) : UINT32_MAX;
    *status = backend->convert_some(e->device, job, &e->encode, b->encoding.round, rounds, &n_run, over, &b->why);
    b->encoding.round += n_run;
    if (in_time) kvi_pace_learn_encode(pace, n_run, pace->now_us() - start);
    return true;
}

/* The next page of a session that is due. */
static kvrt_status begin_page(kvi_batch *b, kvi_session *s)
{
    const uint32_t units = kvi_pages_due_units(&s->pages, s->n_cached);
    b->encoding.round = 0;
    if (units) KVI_TRY(kvi_session_make_hole(s, units, &b->why));
    b->encoding.n = kvi_pages_due(&s->pages, s->n_cached, &b->encoding.job, &b->encoding.page, 1);
    return KVRT_OK;
}

/* Encodes what is due in the sessions of an accepted step, a little at a time; false: time is over. */
static bool encode_due(kvi_engine *e, kvi_batch *b, uint64_t until)
{
    for (; b->encoding.part < b->n_parts; b->encoding.part++) {
        kvi_part *part = &b->parts[b->encoding.part];
        while (is_in(part) && !part->want.sink && !part->want.part && !part->want.n_draft) {
            kvrt_status status = b->encoding.n ? KVRT_OK : begin_page(b, part->session);
            bool over = false;
            if (status >= KVRT_OK && !b->encoding.n) break;
            if (status >= KVRT_OK && !convert_rounds(e, b, until, &over, &status)) return false;
            if (status >= KVRT_OK && !over) continue;
            if (b->encoding.n)
                kvi_pages_converted(&part->session->pages, &b->encoding.job, &b->encoding.page, 1, status >= KVRT_OK);
            b->encoding.n = 0;
            if (status >= KVRT_OK) continue;
            part->status = kvi_engine_noted(e, status);
            if (part->error) kvi_struct_write(part->error, &b->why, sizeof b->why);
        }
    }
    return true;
}

/* The only caller of backend->run. */
bool kvi_batch_go(kvi_engine *e, kvi_batch *b, uint64_t until)
{
    kvi_pace *pace = &e->pace;
    const bool in_time = until != KVI_FOREVER;
    while (b->status == KVRT_MORE) {
        const uint64_t start = in_time ? pace->now_us() : 0;
        if (b->op < b->end && cancelled(b)) {
            b->status = kvi_error_set(&b->why, KVRT_CANCELLED, "cancelled");
            break;
        }
        /* Ending is the last slice: sampling, encoding of pages. */
        const uint32_t slice = b->op < b->end ? b->op : pace->n_ops;
        const bool wide = kvi_batch_is_by_row(e, b, slice),
                   is_late = start + kvi_pace_expect(pace, wide, slice, b->step.n_rows) > until;
        if (b->op == b->end && in_time && !b->is_accepted) accept(e, b);
        if (b->op == b->end && b->is_accepted && !encode_due(e, b, until)) return false;
        if (in_time && pace->moved && (is_late || kvi_seat_is_wanted(&e->seat))) return false;
        if (b->op == b->end) break;
        const kvrt_status status = in_time ? run_rounds(e, b, start, until) : run_slice(e, b);
        if (status < KVRT_OK) b->status = status;
        pace->moved = true;
    }
    if (b->status == KVRT_MORE) b->status = KVRT_OK;
    return true;
}

/* The whole step failed, or was ended by the cancel of some. A state that the step has begun to overwrite is that of no position: the session goes
 * back to its last checkpoint. */
static void refuse(kvi_part *part, kvrt_status status, const kvrt_error *why)
{
    kvi_session *s = part->session;
    if (part->want.sink) kvi_session_sink_computed(s, 0);
    else if (part->want.n_draft) kvi_states_give_back(&s->states);
    else if (s->states.units && s->n_cached) kvi_session_cut_cache(s, s->n_cached - 1, s->n_tokens);
    if (status == KVRT_CANCELLED && !kvi_requests_cancelled(s->requests)) return;
    part->status = status;
    if (part->error) kvi_struct_write(part->error, why, sizeof *why);
}

void kvi_batch_end(kvi_engine *e, kvi_batch *b)
{
    if (b->status >= KVRT_OK && !b->is_accepted) accept(e, b);
    for (uint32_t i = 0; i < b->n_parts; i++) {
        kvi_part *part = &b->parts[i];
        if (!is_in(part)) continue;
        if (b->status < KVRT_OK) {
            refuse(part, b->status, &b->why);
        } else if (part->want.sink) {
            kvi_session_sink_computed(part->session, part->want.n);
            part->status = KVRT_OK;
        } else if (part->want.n_draft && part->session->states.units) {
            part->status = KVRT_OK; /* all or nothing, by kvi_draft_take */
        } else {
            part->status = part->want.part ? KVRT_OK : kvi_session_settle(part->session, part->error);
        }
        (void)kvi_engine_noted(e, part->status);
    }
}

void kvi_batch_run(kvi_engine *e, kvi_batch *b)
{
    kvi_batch_begin(e, b);
    (void)kvi_batch_go(e, b, KVI_FOREVER);
    kvi_batch_end(e, b);
}

kvrt_status kvi_step_alone(kvi_session *s, const kvi_want *want, kvrt_error *error)
{
    kvi_batch batch;
    batch.n_parts = batch.n_rows = batch.n_logit_rows = 0;
    (void)kvi_batch_add(&batch, s, want, error);
    kvi_batch_run(s->engine, &batch);
    return batch.parts[0].status;
}
