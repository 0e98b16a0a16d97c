/* generate.c - prefill what is missing, then sample token by token, streaming text to the callback. */
#include "seat.h"
#include "step.h"

#include <string.h>

typedef struct run {
    kvi_session *s;
    kvrt_event_fn fn;
    void *user;
    int32_t finish; /* kvrt_finish */
    kvrt_error *error;
} run;

/* -------------------------------------------------------------------------------------------------------- events --- */
static int32_t send(run *r, kvrt_event event)
{
    event.request = r->s->gen.request;
    return kvi_engine_event(r->s->engine, r->fn, r->user, &event);
}

/* A STOP or PAUSE of the host becomes the reason to finish. */
static void send_answered(run *r, kvrt_event event)
{
    const int32_t answer = send(r, event);
    if (answer == KVRT_STOP) r->finish = KVRT_FINISH_CALLBACK;
    if (answer == KVRT_PAUSE) r->finish = KVRT_FINISH_PAUSED;
}

/* Delivers text of the open section. */
static void send_text(run *r, const char *text, size_t len)
{
    const int32_t type = r->s->gen.sections.reasoning ? KVRT_EVENT_REASONING : KVRT_EVENT_TEXT;
    if (len) send_answered(r, (kvrt_event){.type = type, .text = text, .text_len = len});
}

/* Tells what the step gave up to find room. A STOP or PAUSE is answered like one to text. */
static void send_demotions(run *r)
{
    kvi_session *s = r->s;
    for (uint32_t level = 1; level < KVI_ELASTIC_LEVELS; level++) {
        char name[8];
        if (!s->demoted[level].n_pages) continue;
        kvrt_event event = {.type = KVRT_EVENT_KV_DEMOTED,
                            .done = s->demoted[level].n_pages,
                            .total = s->demoted[level].bytes,
                            .text = kvi_kv_format_name(kvi_elastic_format(level), name)};
        event.text_len = strlen(event.text);
        send_answered(r, event);
    }
}

/* One step of n tokens: of a prompt, in the wide form, or of the one whose logits are needed. */
static kvrt_status step(run *r, uint32_t n, bool of_prompt)
{
    const uint32_t row = 0;
    kvrt_status status = kvi_step_tokens(r->s, n, of_prompt, &row, !of_prompt, r->error);
    send_demotions(r);
    return status;
}

/* ------------------------------------------------------------------------------------------------------- prefill --- */
static kvrt_status prefill(run *r)
{
    kvi_session *s = r->s;
    const uint32_t most = s->engine->plan.limits.max_rows, last = s->n_tokens - 1;
    /* The last token is computed alone, in the form of those that will be generated, and again when all of them are cached: so its logits
     * are the same after a rewind. */
    if (s->n_cached == s->n_tokens) kvi_session_cut_cache(s, last);
    if (s->gen.n_generated == 0) s->gen.n_reused = s->n_cached;
    const uint32_t first = s->n_cached, total = s->n_tokens - first;
    while (s->n_cached < s->n_tokens) {
        const bool of_prompt = s->n_cached < last;
        KVI_TRY(step(r, of_prompt ? kvi_step_length(s, last, true) : 1, of_prompt));
        if (r->finish == KVRT_FINISH_PAUSED) r->finish = KVRT_FINISH_NONE; /* a prefill does not pause */
        const kvrt_event event = {.type = KVRT_EVENT_PREFILL_PROGRESS, .done = s->n_cached - first, .total = total};
        if ((total > most && send(r, event) == KVRT_STOP) || r->finish == KVRT_FINISH_CALLBACK)
            return kvi_error_set(r->error, KVRT_CANCELLED, "cancelled by the callback during prefill");
    }
    return KVRT_OK;
}

/* -------------------------------------------------------------------------------------------------------- decode --- */
bool kvi_is_eos(const kvi_engine *e, int32_t id)
{
    for (uint32_t i = 0; i < e->config.n_eos; i++)
        if (e->config.eos_ids[i] == id) return true;
    return false;
}

/* Samples from the logits of the last step: from the best of them where a device finds those and they decide. *logprob (may be NULL) costs a
 * pass over the vocabulary. */
static kvrt_status choose(run *r, int32_t *id, float *logprob)
{
    kvi_engine *e = r->s->engine;
    kvi_sampler *sampler = &r->s->gen.sampler;
    if (e->backend->read_best && kvi_sampler_takes_best(sampler)) {
        kvi_best best;
        KVI_TRY(e->backend->read_best(e->device, 0, &best, r->error));
        if (!best.bad && kvi_sampler_from_best(sampler, best.logits, best.ids, best.n, best.sum, id, logprob))
            return KVRT_OK;
    }
    KVI_TRY(e->backend->read_logits(e->device, 0, e->logits, r->error));
    KVI_TRY(kvi_sampler_sample(sampler, e->logits, r->s->tokens, r->s->n_tokens, id, r->error));
    if (!logprob) return KVRT_OK;
    /* Penalties and biases changed the copy: a log probability is of the raw logits. */
    if (!kvi_sampler_takes_best(sampler)) KVI_TRY(e->backend->read_logits(e->device, 0, e->logits, r->error));
    *logprob = kvi_log_probability(e->logits, (int32_t)e->config.vocab_size, *id);
    return KVRT_OK;
}

/* Everything that is withheld goes out: the text, or its section, ends here. */
static kvrt_status flush(run *r, bool *stopped)
{
    kvi_generation *gen = &r->s->gen;
    const char *text;
    size_t len;
    kvi_sections_finish(&gen->sections);
    KVI_TRY(
        kvi_stream_push(&gen->stream, gen->sections.out.data, gen->sections.out.len, &text, &len, stopped, r->error));
    send_text(r, text, len);
    if (*stopped) return KVRT_OK;
    KVI_TRY(kvi_stream_finish(&gen->stream, &text, &len, stopped, r->error));
    send_text(r, text, len);
    return KVRT_OK;
}

/* The bytes of one token: marks end sections, the rest is text of the one that is open. */
static kvrt_status stream_bytes(run *r, const char *bytes, size_t len, bool *stopped)
{
    kvi_generation *gen = &r->s->gen;
    while (len > 0 && !*stopped) {
        const char *text;
        size_t n_text, used;
        const bool mark = kvi_sections_push(&gen->sections, bytes, len, &used);
        bytes += used, len -= used;
        KVI_TRY(kvi_stream_push(&gen->stream, gen->sections.out.data, gen->sections.out.len, &text, &n_text, stopped,
                                r->error));
        send_text(r, text, n_text);
        if (!mark || *stopped) continue;
        KVI_TRY(flush(r, stopped));
        kvi_sections_turn(&gen->sections);
    }
    return KVRT_OK;
}

/* Samples the next token and streams it. */
static kvrt_status next_token(run *r)
{
    kvi_session *s = r->s;
    kvi_engine *e = s->engine;
    kvi_generation *gen = &s->gen;
    const kvi_marks *marks = &gen->sections.marks;
    int32_t id;
    float logprob = 0;
    KVI_TRY(choose(r, &id, gen->token_events ? &logprob : NULL));
    s->tokens[s->n_tokens++] = id;
    gen->n_generated++;
    const char *bytes = "";
    size_t n_bytes = 0;
    bool stopped = false, eos = kvi_is_eos(e, id) && !gen->ignore_eos;
    if (e->tokenizer && !eos) kvi_tokenizer_token_bytes(e->tokenizer, &gen->decode, id, 0, &bytes, &n_bytes);
    if (gen->token_events)
        send_answered(
            r, (kvrt_event){
                   .type = KVRT_EVENT_TOKEN, .token = id, .text = bytes, .text_len = n_bytes, .logprob = logprob});
    if (marks->open && id == (gen->sections.reasoning ? marks->close_id : marks->open_id)) {
        KVI_TRY(flush(r, &stopped));
        kvi_sections_turn(&gen->sections);
    } else KVI_TRY(stream_bytes(r, bytes, n_bytes, &stopped));
    if (stopped) r->finish = KVRT_FINISH_STOP;
    else if (eos) r->finish = KVRT_FINISH_EOS;
    return KVRT_OK;
}

static kvrt_status decode(run *r)
{
    kvi_session *s = r->s;
    kvi_generation *gen = &s->gen;
    while (r->finish == KVRT_FINISH_NONE) {
        if ((int64_t)gen->n_generated >= gen->max_tokens) r->finish = KVRT_FINISH_LENGTH;
        else if (s->n_tokens >= s->ctx_size) r->finish = KVRT_FINISH_CTX_FULL;
        else if (kvi_requests_cancelled(s->requests)) r->finish = KVRT_FINISH_CANCELLED;
        else KVI_TRY(next_token(r));
        if (r->finish != KVRT_FINISH_NONE) break;
        if ((int64_t)gen->n_generated >= gen->max_tokens || s->n_tokens >= s->ctx_size) continue;
        kvrt_status status = step(r, 1, false);
        if (status == KVRT_CANCELLED) r->finish = KVRT_FINISH_CANCELLED;
        else if (status == KVRT_CTX_FULL) r->finish = KVRT_FINISH_CTX_FULL;
        else KVI_TRY(status);
    }
    return KVRT_OK;
}

/* ------------------------------------------------------------------------------------------------------- the call --- */
/* Whether no call can go on with the text: what is withheld is then given out, else it waits. */
static bool text_is_over(int32_t finish)
{
    return finish == KVRT_FINISH_EOS || finish == KVRT_FINISH_STOP || finish == KVRT_FINISH_CTX_FULL;
}

static kvrt_status finish_text(run *r)
{
    const int32_t finish = r->finish;
    bool stopped = false;
    if (!text_is_over(finish) || finish == KVRT_FINISH_STOP) return KVRT_OK;
    KVI_TRY(flush(r, &stopped));
    r->finish = stopped ? KVRT_FINISH_STOP : finish;
    return KVRT_OK;
}

/* The last event tells what waits, for a host that does not go on. */
static void send_done(run *r)
{
    kvi_generation *gen = &r->s->gen;
    kvrt_event event = {.type = KVRT_EVENT_DONE, .finish = r->finish};
    size_t len = 0;
    if (!text_is_over(r->finish) && !gen->sections.reasoning)
        (void)kvi_stream_peek(&gen->stream, gen->sections.held, gen->sections.n_held, &event.text, &len, NULL);
    event.text_len = len;
    (void)send(r, event);
}

static void fill_result(const run *r, kvrt_result *out)
{
    const kvi_generation *gen = &r->s->gen;
    const kvrt_result full = {.finish = r->finish,
                              .request = gen->request,
                              .n_prompt = gen->n_prompt,
                              .n_reused = gen->n_reused,
                              .n_generated = gen->n_generated,
                              .prefill_us = gen->prefill_us,
                              .decode_us = gen->decode_us,
                              .first_token_us = gen->first_token_us,
                              .kv_bytes = kvi_pages_bytes(&r->s->pages),
                              .seed = gen->luck.seed};
    kvi_struct_write(out, &full, sizeof full);
}

static kvrt_status generate(run *r)
{
    kvi_generation *gen = &r->s->gen;
    uint64_t start = kvi_os_now_us();
    if (gen->max_tokens == 0) {
        r->finish = KVRT_FINISH_LENGTH;
        return KVRT_OK;
    }
    /* After a pause what is missing is a step of decoding, and a cancel then ends the generation without being an error. */
    kvrt_status status = prefill(r);
    if (status == KVRT_CANCELLED && gen->n_generated && r->finish == KVRT_FINISH_NONE) {
        r->finish = KVRT_FINISH_CANCELLED;
        return KVRT_OK;
    }
    KVI_TRY(status);
    uint64_t prefilled = kvi_os_now_us();
    if (gen->n_generated == 0) gen->prefill_us = gen->first_token_us = prefilled - start;
    KVI_TRY(decode(r));
    gen->decode_us += kvi_os_now_us() - prefilled;
    return r->finish == KVRT_FINISH_PAUSED ? KVRT_PAUSED : finish_text(r);
}

kvrt_status kvrt_generate(kvrt_session handle, const kvrt_options *options, kvrt_event_fn fn, void *user,
                          kvrt_result *out, kvrt_error *error)
{
    kvi_session *s;
    if (out) KVI_TRY(kvi_struct_check(out, "kvrt_result", error));
    KVI_TRY(kvi_session_enter(handle, KVI_DRIVE, &s, error));
    kvi_account *before = kvi_account_use(s->engine->account);
    kvrt_error why = {.size = sizeof why}; /* full, for the event */
    run r = {.s = s, .fn = fn, .user = user, .error = &why};
    kvrt_status status = KVRT_OK;
    if (s->n_tokens == 0)
        status =
            kvi_error_set(error, KVRT_STATE, "generate: the session has 0 tokens, need at least 1 (kvrt_session_sync)");
    if (status >= KVRT_OK && !s->gen.active) status = kvi_generation_start(s, options, error);
    if (status >= KVRT_OK) {
        status = generate(&r);
        if (status < KVRT_OK) {
            kvrt_event failed = {.type = KVRT_EVENT_ERROR,
                                 .status = status,
                                 .text = why.message,
                                 .finish = status == KVRT_CANCELLED ? KVRT_FINISH_CANCELLED : KVRT_FINISH_NONE};
            failed.text_len = strlen(failed.text);
            (void)send(&r, failed);
            if (error) kvi_struct_write(error, &why, sizeof why);
            if (status == KVRT_CANCELLED) r.finish = KVRT_FINISH_CANCELLED;
        } else if (status != KVRT_PAUSED) {
            send_done(&r);
        }
        if (out) fill_result(&r, out);
        if (status != KVRT_PAUSED) kvi_generation_end(&s->gen, status >= KVRT_OK && text_is_over(r.finish));
    }
    (void)kvi_account_use(before);
    kvi_session_leave(s, KVI_DRIVE);
    return status;
}
