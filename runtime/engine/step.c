/* step.c - where steps are cut, and encoding what is due after one. */
#include "step.h"

uint32_t kvi_step_length(const kvi_session *s, uint32_t end, bool wide)
{
    const uint32_t from = s->n_cached, most = s->engine->plan.limits.max_rows, tail = s->pages.tail;
    uint32_t cut = from / most * most + most;
    if (!wide) {
        const uint32_t page = from / KVI_KV_PAGE * KVI_KV_PAGE + KVI_KV_PAGE,
                       encoded = from < tail ? tail : (from - tail) / KVI_KV_PAGE * KVI_KV_PAGE + KVI_KV_PAGE + tail;
        cut = page < encoded ? page : encoded;
        if (cut > from + most) cut = from + most;
        if (cut > from + KVI_DECODE_ROWS) cut = from + KVI_DECODE_ROWS;
    }
    return (end < cut ? end : cut) - from;
}

/* Whose rows are observed, and what looks at the rows of a whole step, keeps its steps to itself. */
bool kvi_step_has_company(const kvi_session *s, const kvi_want *want)
{
    return s->engine->mixes && !want->sink && !want->hidden && !s->mass;
}

/* Pages would be encoded in front of it, or demoted for a page that begins with it; guesses are rows of a narrow step. */
bool kvi_step_takes_last(const kvi_session *s, const kvi_want *want)
{
    const uint32_t last = s->n_tokens - 1;
    return kvi_step_has_company(s, want) && want->wide && want->first + want->n == last &&
           want->n < s->engine->plan.limits.max_rows && s->gen.n_settled == s->n_tokens && !s->pages.elastic &&
           s->gen.draft.type == KVI_DRAFT_OFF && kvi_pages_none_due(&s->pages, last);
}

kvrt_status kvi_session_encode(kvi_session *s, kvrt_error *error)
{
    kvi_engine *e = s->engine;
    kvi_page_job jobs[KVI_CONVERT_BATCH];
    uint32_t page_of[KVI_CONVERT_BATCH], n;
    const uint32_t units = kvi_pages_due_units(&s->pages, s->n_cached);
    if (units) KVI_TRY(kvi_session_make_hole(s, units, error));
    while ((n = kvi_pages_due(&s->pages, s->n_cached, jobs, page_of, KVI_CONVERT_BATCH)) > 0) {
        kvrt_status status = e->backend->convert_pages(e->device, jobs, n, &e->encode, error);
        kvi_pages_converted(&s->pages, jobs, page_of, n, status >= KVRT_OK);
        KVI_TRY(status);
    }
    return KVRT_OK;
}

kvrt_status kvi_session_settle(kvi_session *s, kvrt_error *error)
{
    KVI_TRY(kvi_session_encode(s, error));
    kvi_pages_expire(&s->pages, s->n_cached);
    return s->states.units ? kvi_session_save_state(s, error) : KVRT_OK;
}
