/* draft_model.c - guesses by a smaller model: an engine within the engine, with a session behind each session, whose tokens it follows. A guess is
 * drawn as the session would draw it, by the same rules from the same random numbers, so that two models which agree choose alike at any temperature.
 * Refuses: another vocabulary (token numbers would mean something else), recurrent layers (every guess would be a way back). */
#include "draft.h"
#include "seat.h"
#include "snapshot.h"
#include "step.h"

#include <math.h>
#include <string.h>

enum { AUTO_CTX = 8192 };

/* The engine's options, for the smaller model. */
static kvrt_status options_of(const kvrt_options *o, kvrt_options **out, kvrt_error *error)
{
    static const char *const own[] = {"model.shape",  "model.mtp",     "draft.type",   "draft.model",
                                      "weights.type", "weights.group", "weights.head", "weights.embed",
                                      "mem.shared",   "kv.spill",      "ctx.full",     "debug.disable"};
    const int64_t ctx = kvi_options_i64(o, "ctx.size");
    KVI_TRY(kvrt_options_clone(o, out, error));
    kvrt_status status = KVRT_OK;
    for (uint32_t i = 0; i < sizeof own / sizeof *own && status >= KVRT_OK; i++)
        status = kvrt_options_clear(*out, own[i], error);
    if (status >= KVRT_OK)
        status = kvrt_options_set_string(*out, "model.path", kvi_options_string(o, "draft.model"), -1, error);
    if (status >= KVRT_OK) status = kvrt_options_set_i64(*out, "ctx.size", ctx > 0 ? ctx : AUTO_CTX, error);
    if (status < KVRT_OK) kvrt_options_destroy(*out);
    return status;
}

kvrt_status kvi_draft_plan(kvi_engine *e, kvrt_error *error)
{
    kvrt_options *o;
    kvrt_plan_row row = {.size = sizeof row};
    uint64_t n;
    if (!kvi_options_string(e->options, "draft.model")[0]) return KVRT_OK;
    KVI_TRY(options_of(e->options, &o, error));
    const kvrt_status status = kvrt_plan(o, kvi_options_string(o, "kv.format"), NULL, &row, 1, &n, error);
    kvrt_options_destroy(o);
    e->draft_bytes = row.total_bytes;
    return status;
}

kvrt_status kvi_draft_open(kvi_engine *e, kvrt_error *error)
{
    kvrt_options *o;
    kvrt_engine handle;
    if (!kvi_options_string(e->options, "draft.model")[0]) return KVRT_OK;
    KVI_TRY(options_of(e->options, &o, error));
    kvrt_status status = kvrt_engine_open(o, NULL, NULL, &handle, error);
    kvrt_options_destroy(o);
    if (status < KVRT_OK) return status;
    status = kvi_engine_enter(handle, KVI_LOOK, &e->draft, error);
    if (status >= KVRT_OK) kvi_engine_leave(e->draft, KVI_LOOK);
    if (status >= KVRT_OK) e->draft_bytes = e->draft->plan.total_bytes;
    return status;
}

kvrt_status kvi_draft_check(kvi_engine *e, kvrt_error *error)
{
    kvi_engine *d = e->draft;
    if (d->program.program.state_bytes)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "option draft.model: %s has recurrent layers, which cannot go back", d->config.family);
    if (!e->tokenizer || kvi_engine_fingerprints(d)->tokenizer == kvi_engine_fingerprints(e)->tokenizer) return KVRT_OK;
    return kvi_error_set(error, KVRT_UNSUPPORTED,
                         "option draft.model: its tokenizer is another one (%u tokens), need that of the model (%u)",
                         (unsigned)kvi_tokenizer_vocab_size(d->tokenizer),
                         (unsigned)kvi_tokenizer_vocab_size(e->tokenizer));
}

/* ------------------------------------------------------------------------------------------------------- guessing --- */
/* The session behind has all tokens in its cache but the last; false: not yet. A long text is read a chunk at a time, so that nobody waits longer. */
static bool follow(const kvi_session *s, kvi_session *d)
{
    const uint32_t n = s->n_tokens, most = d->n_tokens < n ? d->n_tokens : n;
    uint32_t same = 0;
    while (same < most && d->tokens[same] == s->tokens[same]) same++;
    if (same < d->n_tokens) {
        kvi_session_cut_cache(d, same, same);
        kvi_session_cut_keys(d, same);
    }
    memcpy(d->tokens + same, s->tokens + same, (n - same) * sizeof *d->tokens);
    d->n_tokens = n;
    if (kvi_session_reuse(d, n - 1, NULL) < KVRT_OK) return false;
    for (bool first = true; d->n_cached + 1 < n; first = false) {
        const bool wide = n - d->n_cached > KVI_DECODE_ROWS;
        if (wide && !first) return false;
        const kvi_want want = {.first = d->n_cached, .n = kvi_step_length(d, n - 1, wide), .wide = wide};
        if (kvi_step_alone(d, &want, NULL) != KVRT_OK) return false;
    }
    if (d->n_cached == n) kvi_session_cut_cache(d, n - 1, n);
    return d->n_cached + 1 == n;
}

uint32_t kvi_draft_model(kvi_session *s, kvi_sampler *sampler, uint32_t n, int32_t *out)
{
    kvi_session *d = s->draft;
    const kvi_engine *e = d->engine;
    const uint32_t n_vocab = s->engine->config.vocab_size, n_own = e->config.vocab_size, end = s->n_tokens + n;
    float *logits = n_own > n_vocab ? e->logits : s->engine->logits;
    if (end >= d->ctx_size || (n == 0 && !follow(s, d))) return 0;
    memcpy(d->tokens + d->n_tokens, s->tokens + d->n_tokens, (end - d->n_tokens) * sizeof *d->tokens);
    d->n_tokens = end;
    while (d->n_cached < end) {
        const uint32_t len = kvi_step_length(d, end, false), last = len - 1;
        const kvi_want want = {
            .first = d->n_cached, .n = len, .logit_rows = &last, .n_logit_rows = d->n_cached + len == end};
        if (kvi_step_alone(d, &want, NULL) != KVRT_OK) return 0;
    }
    if (e->backend->read_logits(e->device, 0, logits, NULL) < KVRT_OK) return 0;
    for (uint32_t id = n_own; id < n_vocab; id++) logits[id] = -INFINITY;
    return kvi_draft_draw(s, sampler, logits, n, out);
}
