/* generate.c - kvrt_generate and kvrt_embed: the blocking driver of one session. */
#include "drive.h"
#include "seat.h"

static void fill_result(const kvi_session *s, kvrt_result *out)
{
    const kvi_generation *gen = &s->gen;
    const kvrt_result full = {.finish = gen->finish,
                              .request = gen->request,
                              .n_prompt = gen->n_prompt,
                              .n_reused = gen->n_reused,
                              .n_generated = gen->n_generated,
                              .prefill_us = gen->prefill_us,
                              .decode_us = gen->decode_us,
                              .first_token_us = gen->first_token_us,
                              .kv_bytes = kvi_pages_bytes(&s->pages),
                              .seed = gen->luck.seed,
                              .n_drafted = gen->draft.n_drafted,
                              .n_accepted = gen->draft.n_accepted};
    kvi_struct_write(out, &full, sizeof full);
}

kvrt_status kvrt_session_result(kvrt_session handle, kvrt_result *out, kvrt_error *error)
{
    kvi_session *s;
    KVI_TRY(kvi_struct_check(out, "kvrt_result", error));
    KVI_TRY(kvi_session_enter(handle, KVI_READ, &s, error));
    fill_result(s, out);
    kvi_session_leave(s, KVI_READ);
    return KVRT_OK;
}

/* With params an embedding, else by options. */
static kvrt_status compute(kvrt_session handle, const kvrt_options *options, const kvrt_embed_params *params,
                           kvrt_event_fn fn, void *user, kvrt_result *out, kvrt_error *error)
{
    kvi_session *s;
    if (out) KVI_TRY(kvi_struct_check(out, "kvrt_result", error));
    KVI_TRY(kvi_session_enter_compute(handle, &s, error));
    kvi_account *before = kvi_account_use(s->engine->account);
    kvrt_status status =
        params ? kvi_embed_begin(s, params, fn, user, error) : kvi_generation_begin(s, options, fn, user, error);
    if (status >= KVRT_OK) {
        kvi_engine_drive(s->engine, &s, 1);
        kvi_drive_lost(s->engine);
        status = s->gen.status;
        if (status < KVRT_OK) (void)kvi_error_hand_on(error, &s->gen.error);
        if (out) fill_result(s, out);
    }
    (void)kvi_account_use(before);
    kvi_session_leave(s, KVI_DRIVE);
    return status;
}

kvrt_status kvrt_generate(kvrt_session session, const kvrt_options *options, kvrt_event_fn fn, void *user,
                          kvrt_result *out, kvrt_error *error)
{
    return compute(session, options, NULL, fn, user, out, error);
}

kvrt_status kvrt_embed(kvrt_session session, const kvrt_embed_params *params, kvrt_event_fn fn, void *user,
                       kvrt_result *out, kvrt_error *error)
{
    KVI_TRY(kvi_struct_check(params, "kvrt_embed_params", error));
    return compute(session, NULL, params, fn, user, out, error);
}
