/* generate.c - prefill what is missing, then sample token by token, streaming text to the callback. */
#include "engine.h"
#include "../base/json.h"

#include <string.h>

typedef struct run {
    kvi_session *s;
    kvrt_event_fn fn;
    void *user;
    int32_t finish; /* kvrt_finish */
    kvrt_error *error;
} run;

/* ------------------------------------------------------------------------------------------------------- setup --- */
static bool parse_bias(const char *item, kvi_logit_bias *out)
{
    const char *equals = strchr(item, '=');
    double id, bias;
    bool banned = equals && strcmp(equals + 1, "-inf") == 0;
    if (!equals || !kvi_parse_f64(item, (size_t)(equals - item), &id)) return false;
    if (!banned && !kvi_parse_f64(equals + 1, strlen(equals + 1), &bias)) return false;
    if (id < 0 || id > 2147483647.0 || id != (double)(int32_t)id) return false;
    *out = (kvi_logit_bias){(int32_t)id, banned ? -__builtin_inff() : (float)bias};
    return true;
}

static kvrt_status start_sampler(kvi_session *s, const kvrt_options *o, kvrt_error *error)
{
    uint32_t n_bias = kvi_options_list_len(o, "sample.logit_bias");
    kvi_logit_bias *bias = kvi_mem_zalloc(n_bias + 1u, sizeof *bias);
    if (!bias) return kvi_error_nomem(error, n_bias * sizeof *bias, "logit bias");
    kvrt_status status = KVRT_OK;
    for (uint32_t i = 0; i < n_bias && status >= KVRT_OK; i++) {
        const char *item = kvi_options_list_item(o, "sample.logit_bias", i, NULL);
        if (!parse_bias(item, &bias[i]))
            status =
                kvi_error_set(error, KVRT_ARG,
                              "option sample.logit_bias: found '%.60s', need ID=BIAS such as 42=-5 or 42=-inf", item);
    }
    kvi_sampler_params params = {.temperature = (float)kvi_options_f64(o, "sample.temperature"),
                                 .top_k = (uint32_t)kvi_options_i64(o, "sample.top_k"),
                                 .top_p = (float)kvi_options_f64(o, "sample.top_p"),
                                 .min_p = (float)kvi_options_f64(o, "sample.min_p"),
                                 .repeat_penalty = (float)kvi_options_f64(o, "sample.repeat_penalty"),
                                 .frequency_penalty = (float)kvi_options_f64(o, "sample.frequency_penalty"),
                                 .presence_penalty = (float)kvi_options_f64(o, "sample.presence_penalty"),
                                 .repeat_last = (uint32_t)kvi_options_i64(o, "sample.repeat_last"),
                                 .bias = bias,
                                 .n_bias = n_bias};
    if (status >= KVRT_OK)
        status =
            kvi_sampler_init(&s->gen.sampler, &params, (int32_t)s->engine->config.vocab_size, &s->luck.random, error);
    kvi_mem_free(bias);
    return status;
}

/* Random numbers go on from call to call. They begin anew with a seed that was not given before; without one, with a random seed
 * whenever the generation does not continue the text of the last one. */
static void start_luck(kvi_session *s, const kvrt_options *o)
{
    const int64_t asked = kvi_options_i64(o, "sample.seed");
    const bool given = asked >= 0;
    kvi_luck *luck = &s->luck;
    if (given ? luck->given && luck->seed == (uint64_t)asked : luck->begun && !luck->given && s->goes_on) return;
    *luck = (kvi_luck){.seed = given ? (uint64_t)asked : kvi_os_random() >> 11, .begun = true, .given = given};
    kvi_random_seed(&luck->random, luck->seed);
}

static kvrt_status start_stream(kvi_session *s, const kvrt_options *o, kvrt_error *error)
{
    uint32_t n = kvi_options_list_len(o, "gen.stop");
    kvi_stop *stops = kvi_mem_zalloc(n + 1u, sizeof *stops);
    if (!stops) return kvi_error_nomem(error, n * sizeof *stops, "stop strings");
    for (uint32_t i = 0; i < n; i++) {
        uint64_t len;
        stops[i].text = kvi_options_list_item(o, "gen.stop", i, &len);
        stops[i].len = len;
    }
    kvrt_status status = kvi_stream_init(&s->gen.stream, stops, n, error);
    kvi_mem_free(stops);
    if (status >= KVRT_OK) status = kvi_stream_reserve(&s->gen.stream, 1024, error);
    return status;
}

static void end_generation(kvi_session *s)
{
    kvi_stream_free(&s->gen.stream);
    kvi_sampler_free(&s->gen.sampler);
    memset(&s->gen, 0, sizeof s->gen);
}

static kvrt_status start_generation(kvi_session *s, const kvrt_options *options, kvrt_error *error)
{
    kvrt_options *merged = NULL;
    KVI_TRY(kvrt_options_clone(s->options, &merged, error));
    memset(&s->gen, 0, sizeof s->gen);
    kvrt_status status = kvi_options_merge(merged, options, error);
    if (status >= KVRT_OK) status = start_sampler(s, merged, error);
    if (status >= KVRT_OK) status = start_stream(s, merged, error);
    if (status < KVRT_OK) end_generation(s);
    else {
        start_luck(s, merged);
        s->gen.active = true;
        s->gen.decode.started = s->n_tokens > 0;
        s->gen.n_prompt = s->n_tokens;
        s->gen.request = kvi_requests_begin(s->requests);
        s->gen.max_tokens = kvi_options_i64(merged, "gen.max_tokens");
        if (s->gen.max_tokens < 0) s->gen.max_tokens = INT64_MAX;
        s->gen.ignore_eos = kvi_options_bool(merged, "gen.ignore_eos");
        s->gen.token_events = kvi_options_bool(merged, "gen.token_events");
    }
    kvrt_options_destroy(merged);
    return status;
}

/* -------------------------------------------------------------------------------------------------------- events --- */
static int32_t send(run *r, kvrt_event event)
{
    event.request = r->s->gen.request;
    return kvi_engine_event(r->s->engine, r->fn, r->user, &event);
}

/* Delivers text; a STOP or PAUSE of the host becomes the reason to finish. */
static void send_text(run *r, const char *text, size_t len)
{
    if (!len) return;
    int32_t answer = send(r, (kvrt_event){.type = KVRT_EVENT_TEXT, .text = text, .text_len = len});
    if (answer == KVRT_STOP) r->finish = KVRT_FINISH_CALLBACK;
    if (answer == KVRT_PAUSE) r->finish = KVRT_FINISH_PAUSED;
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
        int32_t answer = send(r, event);
        if (answer == KVRT_STOP) r->finish = KVRT_FINISH_CALLBACK;
        if (answer == KVRT_PAUSE) r->finish = KVRT_FINISH_PAUSED;
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
static bool is_eos(const kvi_engine *e, int32_t id)
{
    for (uint32_t i = 0; i < e->config.n_eos; i++)
        if (e->config.eos_ids[i] == id) return true;
    return false;
}

/* Samples from the logits of the last step: from the best of them where a device finds those and they decide. */
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
    return kvi_sampler_sample(sampler, e->logits, r->s->tokens, r->s->n_tokens, id, logprob, r->error);
}

/* Streams the next token. */
static kvrt_status next_token(run *r)
{
    kvi_session *s = r->s;
    kvi_engine *e = s->engine;
    kvi_generation *gen = &s->gen;
    int32_t id;
    float logprob;
    KVI_TRY(choose(r, &id, &logprob));
    s->tokens[s->n_tokens++] = id;
    gen->n_generated++;
    const char *bytes = "", *text;
    size_t n_bytes = 0, n_text;
    bool stopped = false, eos = is_eos(e, id) && !gen->ignore_eos;
    if (e->tokenizer && !eos) kvi_tokenizer_token_bytes(e->tokenizer, &gen->decode, id, 0, &bytes, &n_bytes);
    if (gen->token_events) {
        int32_t answer =
            send(r, (kvrt_event){
                        .type = KVRT_EVENT_TOKEN, .token = id, .text = bytes, .text_len = n_bytes, .logprob = logprob});
        if (answer == KVRT_STOP) r->finish = KVRT_FINISH_CALLBACK;
        if (answer == KVRT_PAUSE) r->finish = KVRT_FINISH_PAUSED;
    }
    KVI_TRY(kvi_stream_push(&gen->stream, bytes, n_bytes, &text, &n_text, &stopped, r->error));
    send_text(r, text, n_text);
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

/* What the stream still holds goes out, except after a stop string. */
static kvrt_status flush(run *r)
{
    const char *text;
    size_t len;
    bool stopped;
    int32_t finish = r->finish;
    if (finish == KVRT_FINISH_STOP) return KVRT_OK;
    KVI_TRY(kvi_stream_finish(&r->s->gen.stream, &text, &len, &stopped, r->error));
    send_text(r, text, len);
    r->finish = stopped ? KVRT_FINISH_STOP : finish;
    return KVRT_OK;
}

static void fill_result(const run *r, kvrt_result *out)
{
    const kvi_generation *gen = &r->s->gen;
    *out = (kvrt_result){.size = out->size,
                         .finish = r->finish,
                         .request = gen->request,
                         .n_prompt = gen->n_prompt,
                         .n_reused = gen->n_reused,
                         .n_generated = gen->n_generated,
                         .prefill_us = gen->prefill_us,
                         .decode_us = gen->decode_us,
                         .first_token_us = gen->first_token_us,
                         .kv_bytes = kvi_pages_bytes(&r->s->pages),
                         .seed = r->s->luck.seed};
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
        return flush(r);
    }
    KVI_TRY(status);
    uint64_t prefilled = kvi_os_now_us();
    if (gen->n_generated == 0) gen->prefill_us = gen->first_token_us = prefilled - start;
    KVI_TRY(decode(r));
    gen->decode_us += kvi_os_now_us() - prefilled;
    return r->finish == KVRT_FINISH_PAUSED ? KVRT_PAUSED : flush(r);
}

kvrt_status kvrt_generate(kvrt_session handle, const kvrt_options *options, kvrt_event_fn fn, void *user,
                          kvrt_result *out, kvrt_error *error)
{
    kvi_session *s;
    if (out && out->size < sizeof *out) return kvi_error_set(error, KVRT_ARG, "kvrt_result: size not set");
    KVI_TRY(kvi_session_enter(handle, KVI_DRIVE, &s, error));
    kvi_account *before = kvi_account_use(s->engine->account);
    run r = {.s = s, .fn = fn, .user = user, .error = error};
    kvrt_status status = KVRT_OK;
    if (s->n_tokens == 0)
        status =
            kvi_error_set(error, KVRT_STATE, "generate: the session has 0 tokens, need at least 1 (kvrt_session_sync)");
    if (status >= KVRT_OK && !s->gen.active) status = start_generation(s, options, error);
    if (status >= KVRT_OK) {
        status = generate(&r);
        if (status < KVRT_OK) {
            kvrt_event failed = {.type = KVRT_EVENT_ERROR,
                                 .status = status,
                                 .text = error && error->size >= sizeof *error ? error->message : "",
                                 .finish = status == KVRT_CANCELLED ? KVRT_FINISH_CANCELLED : KVRT_FINISH_NONE};
            failed.text_len = strlen(failed.text);
            (void)send(&r, failed);
            if (status == KVRT_CANCELLED) r.finish = KVRT_FINISH_CANCELLED;
        } else if (status != KVRT_PAUSED) {
            (void)send(&r, (kvrt_event){.type = KVRT_EVENT_DONE, .finish = r.finish});
        }
        if (out) fill_result(&r, out);
        if (status != KVRT_PAUSED) end_generation(s);
        s->goes_on = true;
    }
    (void)kvi_account_use(before);
    kvi_session_leave(s, KVI_DRIVE);
    return status;
}
