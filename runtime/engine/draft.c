/* draft.c - see draft.h. */
#include "draft.h"
#include "look_ahead.h"
#include "step.h"

#include <string.h>

enum { LEAST = 2, MOST = 16, FIRST_DEPTH = 3, MOST_PAUSE = 64 };

/* -------------------------------------------------------------------------------------------------------- sources --- */
uint32_t kvi_draft_lookup(const int32_t *tokens, uint32_t n, uint32_t most, int32_t *out)
{
    uint32_t best = 0, longest = LEAST - 1;
    for (uint32_t end = n > 0 ? n - 1 : 0; end >= LEAST && longest < MOST; end--) {
        uint32_t same = 0;
        while (same < MOST && same < end && tokens[end - 1 - same] == tokens[n - 1 - same]) same++;
        if (same > longest) longest = same, best = end;
    }
    if (best == 0) return 0;
    for (uint32_t i = 0; i < most; i++) out[i] = tokens[best + i % (n - best)];
    return most;
}

void kvi_draft_draws(const kvi_session *s, kvi_sampler *sampler, kvi_random *random)
{
    *random = s->gen.luck.random;
    *sampler = s->gen.sampler;
    sampler->random = random;
}

/* From a row of logits of the draft model or layer. */
bool kvi_draft_draw(kvi_session *s, kvi_sampler *sampler, float *logits, uint32_t n, int32_t *out)
{
    return (!s->gen.constraint.of || kvi_constraint_mask(s, logits, NULL) >= KVRT_OK) &&
           kvi_sampler_sample(sampler, logits, s->tokens, s->n_tokens + n, out, NULL) >= KVRT_OK;
}

/* The layer that looks ahead, from its own results on; *n_before guesses have gone through it. */
static uint32_t look_ahead(kvi_session *s, kvi_sampler *sampler, uint32_t n, uint32_t *n_before, int32_t *out)
{
    const kvi_engine *e = s->engine;
    for (const int32_t *next = s->tokens + s->n_tokens - 1; *n_before <= n; ++*n_before)
        if (kvi_ahead_draft(s, next[*n_before], NULL) < KVRT_OK) return 0;
    return e->backend->read_logits(e->device, 0, e->logits, NULL) >= KVRT_OK &&
           kvi_draft_draw(s, sampler, e->logits, n, out);
}

/* Guesses behind the session's tokens, in its list: a source says one or more at a time, the grammar what has to follow. */
static uint32_t guess(kvi_session *s, uint32_t most)
{
    const kvi_draft *d = &s->gen.draft;
    int32_t *next = s->tokens + s->n_tokens, ids[KVI_DRAFT_ROWS];
    uint32_t n = 0, n_more = 1, n_before = 0;
    kvi_random random;
    kvi_sampler sampler;
    kvi_draft_draws(s, &sampler, &random);
    if (d->type == KVI_DRAFT_MTP && !d->alone) return 0;
    while (n < most && n_more) {
        n_more = d->type == KVI_DRAFT_MODEL ? kvi_draft_model(s, &sampler, n, ids)
                 : d->type == KVI_DRAFT_MTP ? look_ahead(s, &sampler, n, &n_before, ids)
                                            : kvi_draft_lookup(s->tokens, s->n_tokens + n, most - n, ids);
        /* Behind what the grammar forced the source may say something else. */
        for (uint32_t i = 0, n_taken = 1; i < n_more && n < most && n_taken == 1; i++) {
            n_taken = kvi_constraint_guess(s, ids[i], next + n, most - n);
            n += n_taken;
            if (!n_taken) n_more = 0;
        }
    }
    kvi_constraint_unguess(s);
    return n;
}

kvrt_status kvi_draft_begin(const kvi_session *s, const kvrt_options *o, kvi_draft *out, kvrt_error *error)
{
    static const char *const names[] = {"off", "lookup", "model", "mtp"};
    const kvi_engine *e = s->engine;
    const char *type = kvi_options_string(o, "draft.type");
    *out = (kvi_draft){.most = (uint32_t)kvi_options_i64(o, "draft.max"), .depth = FIRST_DEPTH};
    for (uint32_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(type, names[i]) == 0) out->type = (kvi_draft_type)i;
    if (out->type == KVI_DRAFT_MODEL && !e->draft)
        return kvi_error_set(error, KVRT_ARG, "option draft.type: model, need an engine opened with draft.model");
    if (out->type == KVI_DRAFT_MTP && !e->config.n_ahead)
        return kvi_error_set(error, KVRT_ARG,
                             "option draft.type: mtp, need an engine opened with it, or with model.mtp");
    /* A second state is planned for where the engine's own options ask for guesses. */
    if (s->states.units && strcmp(kvi_options_string(e->options, "draft.type"), "off") == 0) out->type = KVI_DRAFT_OFF;
    return KVRT_OK;
}

/* --------------------------------------------------------------------------------------------------------- adding --- */
static uint32_t least(uint32_t a, uint64_t b) { return b < a ? (uint32_t)b : a; }

void kvi_draft_add(kvi_session *s, kvi_want *want, uint32_t streams)
{
    kvi_generation *gen = &s->gen;
    kvi_draft *d = &gen->draft;
    const kvi_limits *limits = &s->engine->plan.limits;
    d->n = 0;
    if (d->type == KVI_DRAFT_OFF || want->wide || !want->n_logit_rows || gen->constraint.n_forced ||
        streams > KVI_DRAFT_STREAMS)
        return;
    if (d->rest > 0) {
        d->rest--;
        return;
    }
    /* Not behind what the request or the context ends with: no token is sampled there. */
    const uint32_t rows = least(KVI_DECODE_ROWS, limits->max_rows) / streams;
    uint32_t n = least(d->depth, d->most);
    n = least(n, rows > want->n ? rows - want->n : 0);
    n = least(n, limits->max_logit_rows > streams ? limits->max_logit_rows / streams - 1 : 0);
    n = least(n, s->ctx_size - s->n_tokens > 0 ? s->ctx_size - s->n_tokens - 1 : 0);
    n = least(n, (uint64_t)(gen->max_tokens - gen->n_generated - 1));
    /* Where a page begins or is encoded steps end in any case, so that guesses never need a page. */
    n = kvi_step_length(s, s->n_tokens + n, false) - want->n;
    d->alone = streams == 1;
    if (n) n = guess(s, n);
    if (!n) return;
    memcpy(d->ids, s->tokens + s->n_tokens, n * sizeof *d->ids);
    d->n = n, d->base = s->n_tokens, d->first = want->first;
    want->n += n, want->n_logit_rows += n, want->n_draft = n;
}

void kvi_draft_drop(kvi_session *s, kvi_want *want)
{
    want->n -= want->n_draft, want->n_logit_rows -= want->n_draft;
    want->n_draft = s->gen.draft.n = 0;
}

kvrt_status kvi_draft_reserve(kvi_session *s, bool *made, kvrt_error *error)
{
    *made = kvi_states_borrow(&s->states);
    if (!*made) KVI_TRY(kvi_session_gather(s, s->states.units, error));
    *made = *made || kvi_states_borrow(&s->states);
    if (!s->states.units || !*made) return KVRT_OK;
    return kvi_session_copy(
        s, &(kvi_extent_copy){kvi_states_unit(&s->states), kvi_states_borrowed_unit(&s->states), s->states.units},
        error);
}

/* --------------------------------------------------------------------------------------------------------- taking --- */
/* The next guesses are as many as came true and one, and twice as many if all did; after wrong ones there are none for a while. It rests on tokens
 * alone, not on time, so that a text has the same steps wherever it is made. */
static void learn(kvi_draft *d, uint32_t n_true)
{
    if (n_true == d->n) d->depth = 2 * d->n < KVI_DRAFT_ROWS ? 2 * d->n : KVI_DRAFT_ROWS - 1;
    else d->depth = n_true + 1;
    d->pause = n_true ? 0 : d->pause == 0 ? 1 : d->pause < MOST_PAUSE ? 2 * d->pause : MOST_PAUSE;
    d->rest = d->pause;
}

kvrt_status kvi_draft_take(kvi_session *s, uint32_t n_true, kvrt_error *error)
{
    kvi_draft *d = &s->gen.draft;
    const bool all = n_true == d->n;
    if (d->n == 0) return KVRT_OK;
    learn(d, n_true);
    d->n_drafted += d->n, d->n_accepted += n_true;
    s->n_drafted += d->n, s->n_accepted += n_true;
    d->n = 0;
    if (s->states.units) {
        if (all) kvi_states_swap(&s->states);
        kvi_states_give_back(&s->states);
        if (!all) {
            d->behind = true;
            if (s->gen.n_settled > s->n_cached) s->gen.n_settled = s->n_cached; /* narrow again */
            return KVRT_OK;
        }
    }
    const uint32_t from = s->n_cached;
    s->n_cached = d->base + n_true;
    if (d->alone) KVI_TRY(kvi_ahead_after_drafts(s, d->first, s->n_cached - d->first, error));
    if (s->n_cached == from) return KVRT_OK;
    kvi_session_publish(s, from, s->n_cached - from, false);
    return kvi_session_settle(s, error);
}

bool kvi_draft_is_behind(kvi_session *s)
{
    kvi_draft *d = &s->gen.draft;
    if (d->behind && s->n_cached + 1 >= s->n_tokens) d->behind = false;
    return d->behind;
}
