/* embed.c - see embed.h. */
#include "generation_parts.h"
#include "seat.h"
#include "step.h"

#include <math.h>

static uint32_t width(const kvi_session *s)
{
    const kvi_program *p = &s->engine->program.program;
    return p->buffers[p->ops[p->hidden].out].cols;
}

kvrt_status kvi_embed_begin(kvi_session *s, const kvrt_embed_params *params, kvrt_event_fn fn, void *user,
                            kvrt_error *error)
{
    kvi_generation *gen = &s->gen;
    kvrt_embed_params p = {.size = sizeof p};
    KVI_TRY(kvi_struct_check(params, "kvrt_embed_params", error));
    kvi_struct_read(&p, sizeof p, params);
    if (s->n_tokens == 0)
        return kvi_error_set(error, KVRT_STATE, "embed: the session has 0 tokens, need at least 1 (kvrt_session_sync)");
    if (p.pooling < KVRT_POOL_TOKENS || p.pooling > KVRT_POOL_LAST)
        return kvi_error_set(error, KVRT_ARG, "embed: pooling is %d, need a kvrt_pooling", p.pooling);
    const uint64_t need = (uint64_t)width(s) * (p.pooling == KVRT_POOL_TOKENS ? s->n_tokens : 1);
    if (!p.out || p.cap < need)
        return kvi_error_set(error, KVRT_ARG, "embed: room for %llu numbers, need %llu",
                             (unsigned long long)(p.out ? p.cap : 0), (unsigned long long)need);
    if (gen->state != KVI_DONE) kvi_generation_end(gen, false); /* a paused one */
    const uint32_t last = s->n_tokens - 1;
    kvi_session_cut_cache(s, p.pooling == KVRT_POOL_LAST ? last : 0, s->n_tokens);
    if (p.pooling == KVRT_POOL_LAST) KVI_TRY(kvi_session_reuse(s, last, error));
    gen->embed = (kvi_embed){.out = p.out, .pooling = p.pooling, .normalize = p.normalize != 0};
    gen->draft = (kvi_draft){0};
    gen->max_tokens = 0;
    kvi_generation_renew(s);
    kvi_generation_listen(s, fn, user);
    gen->n_reused = s->n_cached;
    return KVRT_OK;
}

/* Where layers have a state it is saved in front of the last token, so that whoever asks again, or generates, need not begin anew. */
kvi_want kvi_embed_want(kvi_session *s)
{
    const uint32_t last = s->n_tokens - 1, end = s->states.units && s->n_cached < last ? last : s->n_tokens;
    s->gen.embed.first = s->n_cached;
    return (kvi_want){.first = s->n_cached, .n = kvi_step_length(s, end, true), .wide = true, .hidden = true};
}

static void divide(float *row, uint32_t n, double by)
{
    for (uint32_t i = 0; i < n && by > 0; i++) row[i] = (float)(row[i] / by);
}

static void normalize(float *row, uint32_t n)
{
    double squares = 0;
    for (uint32_t i = 0; i < n; i++) squares += (double)row[i] * row[i];
    divide(row, n, sqrt(squares));
}

kvrt_status kvi_embed_take(kvi_session *s, kvrt_error *error)
{
    kvi_engine *e = s->engine;
    kvi_embed *of = &s->gen.embed;
    const kvi_program *program = &e->program.program;
    const uint32_t n = width(s), end = s->n_cached, n_rows = of->pooling == KVRT_POOL_TOKENS ? s->n_tokens : 1;
    uint32_t at = of->first > of->n_done ? of->first : of->n_done;
    if (of->pooling == KVRT_POOL_LAST) at = s->n_tokens - 1;
    if (at < end) KVI_TRY(e->backend->run(e->device, program->hidden, 1, error));
    for (; at < end; at++) {
        const bool adds = of->pooling == KVRT_POOL_MEAN && at > 0;
        float *row = adds ? e->logits : of->pooling == KVRT_POOL_TOKENS ? of->out + (size_t)at * n : of->out;
        KVI_TRY(e->backend->read_row(e->device, program->ops[program->hidden].out, at - of->first, row, error));
        for (uint32_t i = 0; i < n && adds; i++) of->out[i] += row[i];
        of->n_done = at + 1;
    }
    if (end < s->n_tokens) return KVRT_OK;
    if (of->pooling == KVRT_POOL_MEAN) divide(of->out, n, s->n_tokens);
    for (uint32_t i = 0; i < n_rows && of->normalize; i++) normalize(of->out + (size_t)i * n, n);
    return KVRT_OK;
}
