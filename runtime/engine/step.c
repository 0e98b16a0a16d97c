/* step.c - one step of the recorded program for a session: step state, slices, commit. The only caller of backend->run. */
#include "step.h"

kvrt_status kvi_session_commit(kvi_session *s, kvrt_error *error)
{
    kvi_engine *e = s->engine;
    kvi_page_job jobs[KVI_COMMIT_BATCH];
    uint32_t page_of[KVI_COMMIT_BATCH], n;
    while ((n = kvi_pages_due(&s->pages, s->n_cached, jobs, page_of, KVI_COMMIT_BATCH)) > 0) {
        kvrt_status status = e->backend->convert_pages(e->device, jobs, n, &e->encode, error);
        kvi_pages_committed(&s->pages, jobs, page_of, n, status >= KVRT_OK);
        KVI_TRY(status);
    }
    kvi_pages_slide(&s->pages, s->n_cached);
    return KVRT_OK;
}

/* The program slice by slice (one layer, a part of the head), with a look at the cancel flag between them. A decode step of a device that
 * replays it as a whole takes milliseconds, and is one slice. Without logits to compute the program ends before its head. */
static kvrt_status run_program(kvi_session *s, uint32_t n_tokens, bool want_logits, kvrt_error *error)
{
    kvi_engine *e = s->engine;
    const kvi_program *program = &e->program.program;
    const bool at_once = e->backend->decodes_at_once && n_tokens <= KVI_DECODE_ROWS;
    uint32_t end = program->n_ops;
    while (!want_logits && end > 0 && program->ops[end - 1].kind == KVI_OP_HEAD) end--;
    for (uint32_t op = 0; op < end;) {
        if (kvi_requests_cancelled(s->requests)) return kvi_error_set(error, KVRT_CANCELLED, "cancelled");
        const uint32_t next = at_once ? end : kvi_program_slice(program, op);
        KVI_TRY(e->backend->run(e->device, op, next - op, error));
        op = next;
    }
    return KVRT_OK;
}

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

kvrt_status kvi_step_tokens(kvi_session *s, uint32_t n, bool wide, const uint32_t *rows, uint32_t n_rows,
                            kvrt_error *error)
{
    kvi_engine *e = s->engine;
    KVI_TRY(kvi_session_reserve(s, s->n_cached + n, error));
    const kvi_page_ref *tables[KVI_MAX_GROUPS];
    for (uint32_t g = 0; g < s->pages.n_groups; g++) tables[g] = s->pages.table[g];
    const kvi_seq seq = {.first_row = 0, .n_rows = n, .pos = s->n_cached, .pages = tables};
    const kvi_step step = {.ids = s->tokens + s->n_cached,
                           .n_rows = n,
                           .seqs = &seq,
                           .n_seqs = 1,
                           .logit_rows = rows,
                           .n_logit_rows = n_rows,
                           .wide = wide};
    kvrt_status status = e->backend->step_begin(e->device, &step, error);
    if (status >= KVRT_OK) status = run_program(s, n, n_rows > 0, error);
    if (status == KVRT_DEVICE_LOST || status == KVRT_INTERNAL) atomic_store(&e->lost, true);
    KVI_TRY(status);
    s->n_cached += n;
    return kvi_session_commit(s, error);
}
