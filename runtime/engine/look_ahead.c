/* look_ahead.c - see look_ahead.h. */
#include "look_ahead.h"

/* Rows of the session from position `first` on, with these tokens behind each. */
typedef struct rows_ahead {
    uint32_t first, n;
    const int32_t *ids;
    bool wide, head;
    const kvi_page_ref *tables[KVI_MAX_GROUPS]; /* read until the step is over */
} rows_ahead;

static kvrt_status run(kvi_engine *e, uint32_t first_op, uint32_t end, kvrt_error *error)
{
    return e->backend->run(e->device, first_op, end - first_op, error);
}

/* A step of its own. The logits of the step before it stay readable. */
static kvrt_status begin(kvi_session *s, rows_ahead *rows, const kvi_step *before, kvrt_error *error)
{
    static const uint32_t row_0 = 0;
    kvi_engine *e = s->engine;
    kvi_pages_refs(&s->pages, rows->tables);
    const kvi_seq seq = {
        .n_rows = rows->n, .pos = rows->first, .state_unit = kvi_states_unit(&s->states), .pages = rows->tables};
    return e->backend->step_begin(e->device,
                                  &(kvi_step){.ids = rows->ids,
                                              .n_rows = rows->n,
                                              .seqs = &seq,
                                              .n_seqs = 1,
                                              .logit_rows = before ? before->logit_rows : &row_0,
                                              .n_logit_rows = before ? before->n_logit_rows : rows->head,
                                              .wide = rows->wide},
                                  error);
}

/* Whether the layer's row of a position can still be written: not once its page is encoded, which with kv.tail = 0 it is when it has ended. */
static bool is_open(kvi_session *s, uint32_t position)
{
    const kvi_program *p = &s->engine->program.program;
    const kvi_page_ref *tables[KVI_MAX_GROUPS];
    uint32_t op = p->ahead.layer;
    while (p->ops[op].kind != KVI_OP_ROPE_APPEND) op++;
    kvi_pages_refs(&s->pages, tables);
    return kvi_kv_format_is_plain((kvi_kv_format)tables[p->ops[op].group][position / KVI_KV_PAGE].format);
}

/* The row of the hidden state at hand, with the token behind it; logits if wanted. */
static kvrt_status follow_last(kvi_session *s, int32_t next, bool head, kvrt_error *error)
{
    kvi_engine *e = s->engine;
    const kvi_ahead *ops = &e->program.program.ahead;
    rows_ahead row = {.first = e->ahead.position, .n = 1, .ids = &next, .head = head};
    KVI_TRY(begin(s, &row, NULL, error));
    KVI_TRY(run(e, ops->take, ops->again, error));
    return run(e, ops->layer, head ? ops->end : ops->head, error);
}

void kvi_ahead_before_step(kvi_engine *e, kvi_batch *b)
{
    const kvi_ahead_at at = e->ahead;
    kvi_part *part = &b->parts[0];
    kvi_session *s = part->session;
    if (!at.session) return;
    if (b->n_parts == 1 && part->status >= KVRT_OK && at.session == s && at.position + 1 == part->want.first &&
        s->n_ahead == at.position && is_open(s, at.position)) {
        const int32_t next = s->tokens[part->want.first];
        /* Drafts from there on may have been of another token. */
        const kvrt_status status = next == at.next ? KVRT_OK : follow_last(s, next, false, part->error);
        if (status >= KVRT_OK) s->n_ahead++;
        else part->status = status;
    }
    e->ahead = (kvi_ahead_at){0};
}

void kvi_ahead_after_step(kvi_engine *e, kvi_batch *b)
{
    const kvi_ahead *ops = &e->program.program.ahead;
    kvi_part *part = &b->parts[0];
    kvi_session *s = part->session;
    const kvi_want *want = &part->want;
    if (!ops->end || b->n_parts != 1 || s->n_ahead != want->first) return;
    const uint32_t known = s->n_tokens - 1 - want->first, n = want->n < known ? want->n : known;
    rows_ahead rows = {
        .first = want->first, .n = n, .ids = s->tokens + want->first + 1, .wide = kvi_step_is_wide(&b->step)};
    kvrt_status status = run(e, ops->take, ops->again, part->error);
    if (status >= KVRT_OK && n) status = begin(s, &rows, &b->step, part->error);
    if (status >= KVRT_OK && n) status = run(e, ops->layer, ops->head, part->error);
    if (status < KVRT_OK) {
        part->status = status;
        return;
    }
    s->n_ahead = want->first + n;
    if (n < want->n) e->ahead = (kvi_ahead_at){.session = s, .position = want->first + n, .next = -1};
}

/* The last row that counts is the one at hand: a step of those alone says which that is. */
kvrt_status kvi_ahead_after_drafts(kvi_session *s, uint32_t first, uint32_t n, kvrt_error *error)
{
    kvi_engine *e = s->engine;
    const kvi_ahead *ops = &e->program.program.ahead;
    rows_ahead rows = {.first = first, .n = n, .ids = s->tokens + first + 1};
    if (!ops->end || s->n_ahead != first) return KVRT_OK;
    KVI_TRY(begin(s, &rows, NULL, error));
    KVI_TRY(run(e, ops->take, ops->again, error));
    rows.n--;
    if (rows.n) KVI_TRY(begin(s, &rows, NULL, error));
    if (rows.n) KVI_TRY(run(e, ops->layer, ops->head, error));
    s->n_ahead = first + rows.n;
    e->ahead = (kvi_ahead_at){.session = s, .position = s->n_ahead, .next = -1};
    return KVRT_OK;
}

kvrt_status kvi_ahead_draft(kvi_session *s, int32_t next, kvrt_error *error)
{
    kvi_engine *e = s->engine;
    const kvi_ahead *ops = &e->program.program.ahead;
    kvi_ahead_at *at = &e->ahead;
    if (!ops->end) return kvi_error_set(error, KVRT_STATE, "draft: the engine was opened without model.mtp");
    if (at->session != s || at->position + 1 != s->n_cached || !is_open(s, at->position))
        return kvi_error_set(
            error, KVRT_STATE,
            "draft: %u of %u computed positions have been looked ahead from, need all but the last, which the "
            "engine's last step computed",
            s->n_ahead, s->n_cached);
    if (next < 0 || (uint32_t)next >= e->config.vocab_size)
        return kvi_error_set(error, KVRT_ARG, "draft: token %d, need 0 to %u", next, e->config.vocab_size - 1);
    if (at->depth == 0) {
        KVI_TRY(follow_last(s, next, true, error));
        at->next = next;
    } else {
        const uint32_t position = at->position + at->depth;
        rows_ahead row = {.first = position, .n = 1, .ids = &next, .head = true};
        KVI_TRY(kvi_session_reserve(s, position + 1, error));
        KVI_TRY(run(e, ops->again, ops->layer, error));
        KVI_TRY(begin(s, &row, NULL, error));
        KVI_TRY(run(e, ops->layer, ops->end, error));
    }
    at->depth++;
    return KVRT_OK;
}
