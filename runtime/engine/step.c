/* step.c - where steps are cut, running one slice by slice, and encoding what is due after it. The only caller of backend->run. */
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

/* Slices are one layer, or a part of the head. A decode step of a device that replays it as a whole takes milliseconds, and is one slice. Without
 * logits to compute the program ends before its head. */
kvrt_status kvi_step_run(kvi_engine *e, const kvi_step *step, bool (*cancelled)(const void *user), const void *user,
                         kvrt_error *error)
{
    const kvi_program *program = &e->program.program;
    const bool at_once = e->backend->decodes_at_once && step->n_rows <= KVI_DECODE_ROWS;
    uint32_t end = program->n_ops;
    while (!step->n_logit_rows && end > 0 && program->ops[end - 1].kind == KVI_OP_HEAD) end--;
    KVI_TRY(e->backend->step_begin(e->device, step, error));
    for (uint32_t op = 0; op < end;) {
        if (cancelled(user)) return kvi_error_set(error, KVRT_CANCELLED, "cancelled");
        const uint32_t next = at_once ? end : kvi_program_slice(program, op);
        KVI_TRY(e->backend->run(e->device, op, next - op, error));
        op = next;
    }
    return KVRT_OK;
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
