/* generation.c - the states of a generation: see generation.h. No function here loops over steps. */
#include "generation_parts.h"
#include "seat.h"
#include "step.h"

/* ----------------------------------------------------------------------------------------------------- beginning --- */
void kvi_generation_renew(kvi_session *s)
{
    kvi_generation *gen = &s->gen;
    gen->state = KVI_PREFILL;
    gen->request = kvi_requests_begin(s->requests);
    gen->n_prompt = s->n_tokens;
    gen->n_reused = gen->n_generated = 0;
    gen->prefill_us = gen->decode_us = gen->first_token_us = 0;
}

void kvi_generation_listen(kvi_session *s, kvrt_event_fn fn, void *user)
{
    kvi_generation *gen = &s->gen;
    gen->fn = fn, gen->user = user;
    gen->finish = KVRT_FINISH_NONE;
    gen->status = KVRT_OK;
    gen->error = (kvrt_error){.size = sizeof gen->error};
    gen->lap_us = kvi_os_now_us();
}

kvrt_status kvi_generation_begin(kvi_session *s, const kvrt_options *options, kvrt_event_fn fn, void *user,
                                 kvrt_error *error)
{
    kvi_generation *gen = &s->gen;
    if (s->n_tokens == 0)
        return kvi_error_set(error, KVRT_STATE,
                             "generate: the session has 0 tokens, need at least 1 (kvrt_session_sync)");
    const bool goes_on = gen->state == KVI_PAUSED;
    if (goes_on) gen->state = KVI_DECODE;
    else KVI_TRY(kvi_generation_start(s, options, error));
    kvi_generation_listen(s, fn, user);
    /* The last token is computed alone, in the form of those that will be generated, and again when all of them are cached: so its logits
     * are the same after a rewind. */
    if (s->n_cached == s->n_tokens && gen->max_tokens > gen->n_generated)
        kvi_session_cut_cache(s, s->n_tokens - 1, s->n_tokens);
    if (goes_on) return KVRT_OK;
    const kvrt_status status = gen->max_tokens > 0 ? kvi_session_reuse(s, s->n_tokens - 1, error) : KVRT_OK;
    gen->n_reused = s->n_cached;
    if (status < KVRT_OK) kvi_generation_end(gen, false);
    return status;
}

/* Microseconds since the last lap, or since begin. */
static uint64_t lap(kvi_generation *gen)
{
    const uint64_t now = kvi_os_now_us(), elapsed = now - gen->lap_us;
    gen->lap_us = now;
    return elapsed;
}

/* -------------------------------------------------------------------------------------------------------- ending --- */
static void fail(kvi_session *s, kvrt_status status)
{
    kvi_generation *gen = &s->gen;
    gen->status = kvi_engine_noted(s->engine, status);
    gen->finish = status == KVRT_CANCELLED ? KVRT_FINISH_CANCELLED : KVRT_FINISH_NONE;
    kvi_generation_tell_error(s);
    kvi_generation_end(gen, false);
}

/* For the reason in gen->finish. */
static void finish(kvi_session *s)
{
    kvi_generation *gen = &s->gen;
    gen->decode_us += lap(gen);
    if (gen->finish == KVRT_FINISH_PAUSED) {
        gen->state = KVI_PAUSED;
        gen->status = KVRT_PAUSED;
        return;
    }
    const int32_t reason = gen->finish;
    bool stopped = reason == KVRT_FINISH_STOP; /* then nothing is withheld */
    if (kvi_generation_text_is_over(reason) && !stopped) {
        const kvrt_status status = kvi_generation_flush(s, &stopped, &gen->error);
        gen->finish = stopped ? KVRT_FINISH_STOP : reason;
        if (status < KVRT_OK) {
            fail(s, status);
            return;
        }
    }
    kvi_generation_tell_done(s);
    kvi_generation_end(gen, kvi_generation_text_is_over(reason));
}

/* Whether a limit is reached, which is then the reason to finish. Where a full context drops something, it does so `before` the next token is
 * sampled, not behind the last one: so it is the same whether a call ended between the two. */
static bool limit_reached(kvi_session *s, bool before)
{
    kvi_generation *gen = &s->gen;
    const bool shifts = s->shift.when_full != KVI_FULL_STOP;
    if (gen->n_generated >= gen->max_tokens) gen->finish = KVRT_FINISH_LENGTH;
    else if (s->n_tokens >= s->ctx_size && (before || !shifts)) {
        if (!kvi_session_shift(s, s->n_cached, 1)) gen->finish = KVRT_FINISH_CTX_FULL;
        else kvi_generation_tell_shift(s);
    }
    return gen->finish != KVRT_FINISH_NONE;
}

/* ------------------------------------------------------------------------------------------------------- wanting --- */
static bool runs(const kvi_generation *gen) { return gen->state == KVI_PREFILL || gen->state == KVI_DECODE; }

kvi_want kvi_generation_next(kvi_session *s)
{
    static const uint32_t row[KVI_DECODE_ROWS] = {0, 1, 2, 3, 4, 5, 6, 7};
    _Static_assert(KVI_DECODE_ROWS == 8, "a number for each row");
    kvi_generation *gen = &s->gen;
    if (!runs(gen)) return (kvi_want){.n = 0};
    if (gen->finish != KVRT_FINISH_NONE) /* a wrong guess is made good before the end */
        return (kvi_want){.first = s->n_cached, .n = kvi_step_length(s, s->n_tokens - 1, false)};
    if (gen->n_generated >= gen->max_tokens && !gen->embed.out) {
        gen->finish = KVRT_FINISH_LENGTH;
        finish(s);
    } else if (kvi_requests_cancelled(s->requests)) {
        kvi_generation_take(s, kvi_error_set(&gen->error, KVRT_CANCELLED, "cancelled"), 0);
    }
    if (!runs(gen)) return (kvi_want){.n = 0};
    const kvi_want sink = kvi_session_sink_want(s);
    if (sink.n) return sink;
    const uint32_t last = s->n_tokens - 1;
    /* What another session has computed meanwhile: of ten that read one text each computes a part. */
    const bool takes = gen->state == KVI_PREFILL && !(gen->embed.out && gen->embed.pooling != KVRT_POOL_LAST);
    const kvrt_status status = takes ? kvi_session_reuse(s, last, &gen->error) : KVRT_OK;
    if (status < KVRT_OK) {
        kvi_generation_take(s, status, 0);
        return (kvi_want){.n = 0};
    }
    if (gen->embed.out) return kvi_embed_want(s);
    if (s->n_cached == last) return (kvi_want){.first = last, .n = 1, .logit_rows = row, .n_logit_rows = 1};
    if (s->n_cached < gen->n_settled) {
        const uint32_t end = gen->n_settled < last ? gen->n_settled : last;
        kvi_want want = {.first = s->n_cached, .n = kvi_step_length(s, end, true), .wide = true};
        if (!kvi_step_takes_last(s, &want)) return want;
        gen->last_row = want.n++;
        want.n_narrow = want.n_logit_rows = 1;
        want.logit_rows = &gen->last_row;
        return want;
    }
    /* Tokens that a grammar forced: generated ones, several at once. */
    const uint32_t n = kvi_step_length(s, s->n_tokens, false);
    return (kvi_want){
        .first = s->n_cached, .n = n, .logit_rows = row + n - 1, .n_logit_rows = s->n_cached + n == s->n_tokens};
}

/* -------------------------------------------------------------------------------------------------------- taking --- */
/* Samples from a row of logits: from the best of them, which the device finds, where they decide. *logprob (may be NULL) costs a pass over
 * the vocabulary. */
static kvrt_status choose(kvi_session *s, uint32_t row, int32_t *id, float *logprob)
{
    kvi_engine *e = s->engine;
    kvi_sampler *sampler = &s->gen.sampler;
    kvrt_error *error = &s->gen.error;
    const bool constrained = s->gen.constraint.of != NULL, whole = constrained || s->gen.top_wanted > 0;
    if (kvi_sampler_takes_best(sampler) && !whole) {
        kvi_best best;
        KVI_TRY(e->backend->read_best(e->device, row, &best, error));
        if (!best.bad && kvi_sampler_from_best(sampler, best.logits, best.ids, best.n, best.sum, id, logprob))
            return KVRT_OK;
    }
    KVI_TRY(e->backend->read_logits(e->device, row, e->logits, error));
    if (constrained) KVI_TRY(kvi_constraint_mask(s, e->logits, error));
    const kvrt_status status = kvi_sampler_sample(sampler, e->logits, s->tokens, s->n_tokens, id, error);
    if (status == KVRT_ARG && constrained && kvi_constraint_is_dead_end(e->logits, e->config.vocab_size))
        return kvi_error_set(error, KVRT_GRAMMAR_DEAD_END, "grammar: sample.logit_bias bans all that may come next");
    KVI_TRY(status);
    if (!logprob) return KVRT_OK;
    /* Penalties and biases changed the copy: a log probability is of the raw logits. */
    if (!kvi_sampler_takes_best(sampler) || constrained)
        KVI_TRY(e->backend->read_logits(e->device, row, e->logits, error));
    *logprob = kvi_log_probability(e->logits, (int32_t)e->config.vocab_size, *id);
    s->gen.n_top =
        kvi_likeliest(e->logits, (int32_t)e->config.vocab_size, s->gen.top_wanted, s->gen.top, s->gen.top_logprobs);
    return KVRT_OK;
}

/* A token joins the session, and what it says goes out. */
static kvrt_status put(kvi_session *s, int32_t id, float logprob)
{
    kvi_generation *gen = &s->gen;
    bool stopped;
    const bool eos = kvi_is_eos(s->engine, id) && !gen->ignore_eos;
    s->tokens[s->n_tokens++] = id;
    gen->n_generated++;
    if (gen->constraint.of) KVI_TRY(kvi_constraint_take(s, id, &gen->error));
    KVI_TRY(kvi_generation_put(s, id, logprob, eos, &stopped, &gen->error));
    if (stopped) gen->finish = KVRT_FINISH_STOP;
    else if (eos) gen->finish = KVRT_FINISH_EOS;
    if (gen->finish == KVRT_FINISH_NONE) (void)limit_reached(s, false);
    return KVRT_OK;
}

/* The next token, from the logits of the last one; and those that follow it without a choice. */
static kvrt_status sample(kvi_session *s, uint32_t row)
{
    kvi_generation *gen = &s->gen;
    int32_t id;
    float logprob = 0;
    kvi_constraint *c = &gen->constraint;
    gen->n_settled = s->n_tokens;
    if (c->n_forced == 0 && kvi_constraint_is_complete(s)) gen->finish = KVRT_FINISH_GRAMMAR;
    else if (c->n_forced == 0) { /* else the last call was cut among them */
        KVI_TRY(choose(s, row, &id, gen->token_events ? &logprob : NULL));
        KVI_TRY(put(s, id, logprob));
        KVI_TRY(kvi_constraint_forward(s, &gen->error));
    }
    while (s->n_tokens < s->ctx_size && kvi_constraint_forced(c, &id) && gen->finish == KVRT_FINISH_NONE) {
        c->n_forced--;
        KVI_TRY(put(s, id, 0));
    }
    if (gen->finish == KVRT_FINISH_NONE && kvi_constraint_is_complete(s)) gen->finish = KVRT_FINISH_GRAMMAR;
    return KVRT_OK;
}

/* The same from each row of a step whose guess before it came true. */
static kvrt_status sample_rows(kvi_session *s, uint32_t row)
{
    kvi_generation *gen = &s->gen;
    const kvi_draft *d = &gen->draft;
    const uint32_t base = s->n_tokens;
    for (uint32_t n_true = 0;; n_true++) {
        kvrt_status status = sample(s, row + n_true);
        const uint32_t n_new = s->n_tokens - base;
        /* The last token is left to be computed, unless it is a guess and a token is wanted behind it. */
        while (n_true < d->n && n_true + 1 < n_new && s->tokens[base + n_true] == d->ids[n_true]) n_true++;
        const bool goes_on = status >= KVRT_OK && gen->finish == KVRT_FINISH_NONE && n_true < d->n &&
                             n_true + 1 == n_new && s->tokens[base + n_true] == d->ids[n_true];
        if (goes_on && !kvi_requests_cancelled(s->requests)) continue;
        if (goes_on) gen->finish = KVRT_FINISH_CANCELLED;
        const kvrt_status moved = kvi_draft_take(s, n_true, &gen->error);
        return status < KVRT_OK ? status : moved;
    }
}

/* A prompt does not pause, and a STOP or a cancel before its logits are there is an error: there is nothing to keep. */
static kvrt_status take_prefill(kvi_session *s, kvrt_status status, bool computed)
{
    kvi_generation *gen = &s->gen;
    const uint32_t total = gen->n_prompt - gen->n_reused;
    if (gen->finish == KVRT_FINISH_PAUSED) gen->finish = KVRT_FINISH_NONE;
    if (status == KVRT_OK && total > s->engine->plan.limits.max_rows) {
        const kvrt_event event = {
            .type = KVRT_EVENT_PREFILL_PROGRESS, .done = s->n_cached - gen->n_reused, .total = total};
        if (kvi_generation_tell(s, event) == KVRT_STOP) gen->finish = KVRT_FINISH_CALLBACK;
    }
    if (status >= KVRT_OK && gen->finish == KVRT_FINISH_CALLBACK)
        return kvi_error_set(&gen->error, KVRT_CANCELLED, "cancelled by the callback during prefill");
    if (status == KVRT_OK && computed) {
        gen->state = KVI_DECODE;
        gen->prefill_us = gen->first_token_us = lap(gen);
        if (kvi_session_select(s)) kvi_generation_tell_shift(s);
    }
    return status;
}

/* What ends an answer that has begun is a result and no error. */
static kvrt_status take_decode(kvi_session *s, kvrt_status status)
{
    if (status == KVRT_CANCELLED) s->gen.finish = KVRT_FINISH_CANCELLED;
    else if (status == KVRT_CTX_FULL && kvi_session_shift(s, s->n_cached, 1))
        kvi_generation_tell_shift(s); /* the pool was */
    else if (status == KVRT_CTX_FULL) s->gen.finish = KVRT_FINISH_CTX_FULL;
    else return status;
    return KVRT_OK;
}

void kvi_generation_take(kvi_session *s, kvrt_status status, uint32_t logit_row)
{
    kvi_generation *gen = &s->gen;
    const bool computed = status == KVRT_OK && (s->n_cached == s->n_tokens || gen->draft.n);
    if (gen->finish != KVRT_FINISH_NONE) {
        if (!kvi_draft_is_behind(s) || status < KVRT_OK) finish(s);
        return;
    }
    if (status != KVRT_OK) gen->draft.n = 0;
    kvi_generation_tell_demotions(s);
    kvi_generation_tell_shift(s);
    if (status == KVRT_OK && gen->embed.out) status = kvi_embed_take(s, &gen->error);
    status = gen->state == KVI_PREFILL ? take_prefill(s, status, computed) : take_decode(s, status);
    if (status >= KVRT_OK && computed && gen->finish == KVRT_FINISH_NONE && !limit_reached(s, true)) {
        if (kvi_requests_cancelled(s->requests)) gen->finish = KVRT_FINISH_CANCELLED;
        else status = sample_rows(s, logit_row);
    }
    if (gen->draft.n) { /* nothing was sampled */
        const kvrt_status moved = kvi_draft_take(s, 0, &gen->error);
        if (moved < KVRT_OK) status = moved;
    }
    if (status < KVRT_OK) fail(s, status);
    else if (gen->finish == KVRT_FINISH_CANCELLED || (gen->finish != KVRT_FINISH_NONE && !kvi_draft_is_behind(s)))
        finish(s);
}

/* ---------------------------------------------------------------------------------------------------------- over --- */
/* Nothing is withheld any more. */
static void end_text(kvi_generation *gen)
{
    kvi_stream_reset(&gen->stream);
    gen->sections.reasoning = false;
    gen->sections.n_held = 0;
    gen->decode = (kvi_decode_start){.started = true};
    kvi_calls_reset(&gen->tools.calls);
}

void kvi_generation_end(kvi_generation *gen, bool text_over)
{
    gen->state = KVI_DONE;
    if (!gen->embed.out) gen->goes_on = true;
    gen->embed.out = NULL;
    kvi_sampler_free(&gen->sampler);
    if (text_over) end_text(gen);
    if (text_over) kvi_constraint_end(&gen->constraint);
}

void kvi_generation_break(kvi_generation *gen, uint32_t n)
{
    kvi_generation_end(gen, true);
    gen->goes_on = false;
    kvi_constraint_cut(&gen->constraint, n);
    if (gen->n_settled > n) gen->n_settled = n;
}

void kvi_generation_shift(kvi_generation *gen, uint32_t n)
{
    gen->n_settled -= n < gen->n_settled ? n : gen->n_settled;
    gen->constraint.first -= n;
}

void kvi_generation_free(kvi_generation *gen)
{
    kvi_sampler_free(&gen->sampler);
    kvi_constraint_free(&gen->constraint);
    kvi_tool_calls_free(&gen->tools);
    kvi_stream_free(&gen->stream);
    kvi_sections_free(&gen->sections);
}
