/* session.c - one timeline of tokens: creating, closing, making it equal to a list, cutting it. Nothing here computes. */
#include "seat.h"
#include "handle.h"
#include "drive.h"
#include "transfer.h"

#include <string.h>

static kvrt_status check_session_options(const kvi_engine *e, const kvi_session *s, kvi_cache_format *format,
                                         kvrt_error *error)
{
    KVI_TRY(kvi_format_named(kvi_options_string(s->options, "kv.format"), format, error));
    const bool same_plain =
        format->plain == e->program.groups[0].plain || !(format->elastic || kvi_kv_format_is_plain(format->body));
    const uint32_t codes = kvi_format_codes(format) & ~(1u << format->plain);
    if ((codes & ~e->plan.limits.page_formats) || !same_plain || (format->elastic && !e->format.elastic))
        return kvi_error_set(error, KVRT_UNSUPPORTED, "session: kv.format %s, need one the engine was opened for (%s)",
                             kvi_options_string(s->options, "kv.format"), kvi_options_string(e->options, "kv.format"));
    return KVRT_OK;
}

/* Policies that choose pages by the attention paid to them. */
static kvrt_status begin_mass(kvi_session *s, const char *name, kvrt_error *error)
{
    bool any = false;
    for (uint32_t g = 0; g < s->pages.n_groups; g++)
        any = any || (!s->pages.groups[g].window && !s->pages.groups[g].shape.rope_dim);
    if (!any || !s->engine->backend->observes)
        return kvi_error_set(error, KVRT_UNSUPPORTED, "session: ctx.full %s, need %s", name,
                             any ? "the cpu backend, which alone tells how much attention a page gets"
                                 : "a layer of attention over the whole text");
    s->shift.keep = (uint32_t)kvi_options_i64(s->options, "ctx.keep");
    const uint32_t n = s->ctx_size / KVI_KV_PAGE + 1u;
    s->mass = kvi_mem_zalloc(n, sizeof *s->mass);
    return s->mass ? KVRT_OK : kvi_error_nomem(error, n * sizeof *s->mass, "attention of pages");
}

/* demote is what an elastic cache does of itself. */
static kvrt_status read_when_full(kvi_session *s, const kvi_cache_format *format, kvrt_error *error)
{
    const char *name = kvi_options_string(s->options, "ctx.full");
    s->shift.when_full = strcmp(name, "shift") == 0    ? KVI_FULL_SHIFT
                         : strcmp(name, "h2o") == 0    ? KVI_FULL_H2O
                         : strcmp(name, "snapkv") == 0 ? KVI_FULL_SNAPKV
                                                       : KVI_FULL_STOP;
    if (s->shift.when_full == KVI_FULL_H2O || s->shift.when_full == KVI_FULL_SNAPKV) return begin_mass(s, name, error);
    if (strcmp(name, "demote") != 0 || format->elastic) return KVRT_OK;
    return kvi_error_set(error, KVRT_ARG, "session: ctx.full demote, need kv.format elastic with it (it is %s)",
                         kvi_options_string(s->options, "kv.format"));
}

/* Planned sessions always pass; more of them have to fit the limit with all that they may take later. */
static kvrt_status check_memory_limit(const kvi_engine *e, uint32_t ctx_size, kvrt_error *error)
{
    const kvi_program *program = &e->program.program;
    if (e->mem_limit == 0 || e->backend->own_memory) return KVRT_OK;
    uint64_t need = e->plan.total_bytes - e->plan.session_bytes + kvi_plan_session_host_bytes(program, ctx_size);
    for (const kvi_session *s = e->sessions; s; s = s->next) need += kvi_plan_session_host_bytes(program, s->ctx_size);
    if (need <= e->plan.budget_bytes) return KVRT_OK;
    return kvi_error_memory(error, KVRT_OVER_BUDGET, need, e->plan.budget_bytes,
                            "session %u: needs %llu KiB in all, the budget is %llu KiB (mem.limit, ctx.sessions)",
                            e->n_sessions + 1, (unsigned long long)((need + 1023) >> 10),
                            (unsigned long long)(e->plan.budget_bytes >> 10));
}

static kvrt_status session_init(kvi_engine *e, const kvrt_options *options, kvi_session *s, kvrt_error *error)
{
    kvi_cache_format format;
    s->engine = e;
    KVI_TRY(kvi_options_check_scope(options, e->options, KVRT_SCOPE_SESSION, error));
    KVI_TRY(kvrt_options_clone(e->options, &s->options, error));
    KVI_TRY(kvi_options_merge(s->options, options, error));
    KVI_TRY(check_session_options(e, s, &format, error));
    int64_t ctx = options && kvi_options_is_set(options, "ctx.size") ? kvi_options_i64(options, "ctx.size") : -1;
    s->ctx_size = ctx > 0 ? (uint32_t)(ctx < UINT32_MAX ? ctx : UINT32_MAX) : e->plan.ctx_size;
    if (s->ctx_size > e->plan.ctx_size)
        return kvi_error_set(error, KVRT_ARG, "session: ctx.size %u, need at most the engine's %u", s->ctx_size,
                             e->plan.ctx_size);
    KVI_TRY(check_memory_limit(e, s->ctx_size, error));
    s->tokens = kvi_mem_zalloc(s->ctx_size, sizeof *s->tokens);
    if (!s->tokens) return kvi_error_nomem(error, (uint64_t)s->ctx_size * 4, "token list");
    KVI_TRY(kvi_pages_init(&s->pages, &e->store, e->program.program.groups, e->program.program.n_groups, s->ctx_size,
                           format.elastic ? kvi_elastic_format(0) : format.body,
                           (uint32_t)kvi_options_i64(s->options, "kv.tail"), error));
    s->pages.elastic = format.elastic;
    s->pages.share_units = e->store.pool.n_units / e->plan.limits.max_seqs;
    kvi_states_init(&s->states, &e->store, e->program.program.state_bytes);
    KVI_TRY(read_when_full(s, &format, error));
    s->priority = (int32_t)kvi_options_i64(s->options, "sched.priority");
    if (e->draft) {
        KVI_TRY(kvi_session_open(e->draft, NULL, &s->draft, error));
        kvi_requests_begin_other(s->draft->requests); /* which nobody cancels */
    }
    return kvi_session_begin_keys(s, error);
}

void kvi_session_destroy(kvi_session *s)
{
    kvi_session **link = &s->engine->sessions;
    while (*link && *link != s) link = &(*link)->next;
    if (*link) {
        *link = s->next;
        s->engine->n_sessions--;
    }
    kvi_transfer_free(s);
    kvi_session_forget_away(s);
    if (s->draft) kvi_session_discard(s->draft);
    if (s->engine->ahead.session == s) s->engine->ahead = (kvi_ahead_at){0};
    kvi_generation_free(&s->gen);
    kvi_pages_free(&s->pages);
    kvi_states_free(&s->states);
    kvi_mem_free(s->tokens);
    kvi_mem_free(s->keys);
    kvi_mem_free(s->mass);
    kvrt_options_destroy(s->options);
    kvi_mem_free(s);
}

kvrt_status kvi_session_open(kvi_engine *e, const kvrt_options *options, kvi_session **out, kvrt_error *error)
{
    kvi_account *before = kvi_account_use(e->account);
    kvi_session *s = kvi_mem_zalloc(1, sizeof *s);
    kvrt_status status = s ? session_init(e, options, s, error) : kvi_error_nomem(error, sizeof *s, "session");
    if (status >= KVRT_OK) {
        s->handle = kvi_handle_new(KVI_HANDLE_SESSION, s);
        if (!s->handle) status = kvi_error_set(error, KVRT_STATE, "session: 1024 objects are open, need a free place");
    }
    if (status >= KVRT_OK) {
        s->requests = kvi_handle_requests(s->handle);
        s->next = e->sessions;
        e->sessions = s;
        e->n_sessions++;
        *out = s;
    } else if (s) kvi_session_destroy(s);
    (void)kvi_account_use(before);
    return status;
}

void kvi_session_discard(kvi_session *s)
{
    const void *handles[] = {s->handle};
    (void)kvi_handle_close(handles, 1);
    kvi_session_destroy(s);
}

kvrt_status kvrt_session_create(kvrt_engine engine, const kvrt_options *options, kvrt_session *out, kvrt_error *error)
{
    kvi_engine *e;
    kvi_session *s;
    if (!out) return kvi_error_set(error, KVRT_ARG, "kvrt_session_create: out is NULL");
    *out = NULL;
    KVI_TRY(kvi_engine_enter(engine, KVI_DRIVE, &e, error));
    const kvrt_status status = kvi_session_open(e, options, &s, error);
    if (status >= KVRT_OK) *out = s->handle;
    kvi_engine_leave(e, KVI_DRIVE);
    return status;
}

kvrt_status kvrt_session_close(kvrt_session handle, kvrt_error *error)
{
    kvi_session *s;
    KVI_TRY(kvi_session_enter(handle, KVI_CLOSE, &s, error));
    kvi_engine *e = s->engine;
    const void *handles[] = {handle};
    KVI_TRY(kvi_close_handles(handles, 1, e, error));
    kvi_drive_leave(e, s);
    kvi_session_destroy(s);
    kvi_seat_leave(&e->seat);
    return KVRT_OK;
}

kvrt_status kvrt_session_get_info(kvrt_session handle, kvrt_session_info *out, kvrt_error *error)
{
    kvi_session *s;
    KVI_TRY(kvi_struct_check(out, "kvrt_session_info", error));
    KVI_TRY(kvi_session_enter(handle, KVI_READ, &s, error));
    kvrt_session_info info = {.ctx_size = s->ctx_size,
                              .n_tokens = s->n_tokens,
                              .n_cached = s->n_cached,
                              .kv_bytes = kvi_pages_bytes(&s->pages),
                              .n_computed = s->n_computed,
                              .n_found = s->n_found,
                              .n_dropped = s->shift.n_dropped,
                              .kv_away_bytes = s->away.bytes,
                              .n_drafted = s->n_drafted,
                              .n_accepted = s->n_accepted};
    kvi_pages_count(&s->pages, &info.n_pages, &info.n_packed_pages, &info.n_shared_pages);
    kvi_struct_write(out, &info, sizeof info);
    kvi_session_leave(s, KVI_READ);
    return KVRT_OK;
}

kvrt_status kvrt_session_tokens(kvrt_session handle, int32_t *ids, uint64_t cap, uint64_t *n, kvrt_error *error)
{
    kvi_session *s;
    if (!n || (cap && !ids)) return kvi_error_set(error, KVRT_ARG, "kvrt_session_tokens: ids or n is NULL");
    KVI_TRY(kvi_session_enter(handle, KVI_READ, &s, error));
    uint64_t copied = s->n_tokens < cap ? s->n_tokens : cap;
    if (copied) memcpy(ids, s->tokens, copied * sizeof *ids);
    *n = s->n_tokens;
    kvi_session_leave(s, KVI_READ);
    return *n > cap ? KVRT_PARTIAL : KVRT_OK;
}

static kvrt_status check_ids(const kvi_session *s, const int32_t *ids, uint64_t n, kvrt_error *error)
{
    if (n == 0) return kvi_error_set(error, KVRT_ARG, "prompt: 0 tokens, need at least 1");
    if (!ids) return kvi_error_set(error, KVRT_ARG, "prompt: ids is NULL");
    for (uint64_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= s->engine->config.vocab_size)
            return kvi_error_set(error, KVRT_ARG, "prompt: token %llu is %d, need 0..%u", (unsigned long long)i, ids[i],
                                 s->engine->config.vocab_size - 1);
    return KVRT_OK;
}

/* Room for n more tokens, when the first n_whole positions stay what they are. */
static bool has_room(kvi_session *s, uint32_t n_whole, uint64_t n)
{
    return n <= s->ctx_size - s->n_tokens || kvi_session_shift(s, n_whole, n);
}

static kvrt_status too_long(const kvi_session *s, uint64_t n, uint32_t most, kvrt_error *error)
{
    return kvi_error_set(error, KVRT_CTX_FULL, "prompt: %llu tokens, need at most %u (context of %u)",
                         (unsigned long long)n, most, s->ctx_size);
}

/* A paused request is over in any case; the text goes on when the tokens stay what they are. The first n do. */
static void change_tokens(kvi_session *s, bool same, uint32_t n)
{
    if (!same) kvi_generation_break(&s->gen, n);
    else if (s->gen.state != KVI_DONE) kvi_generation_end(&s->gen, false);
}

/* The list as the session has it: without what it dropped. */
static int32_t id_at(const int32_t *ids, uint32_t over, uint64_t i) { return ids[i < KVI_KV_PAGE ? i : i + over]; }

static kvrt_status make_equal(kvi_session *s, const int32_t *ids, uint64_t n, kvrt_error *error)
{
    const uint32_t over = kvi_session_passed_over(s, ids, n), n_before = s->n_tokens;
    uint32_t same = 0;
    n -= over;
    while (same < n_before && same < n && s->tokens[same] == id_at(ids, over, same)) same++;
    const bool all = same == n && n == n_before;
    uint32_t dropped = s->shift.n_dropped;
    if (n > s->ctx_size) {
        /* Tokens behind the common ones go in any case. */
        s->n_tokens = same;
        if (!has_room(s, same < s->n_cached ? same : s->n_cached, n - same)) {
            s->n_tokens = n_before;
            return too_long(s, n, s->ctx_size, error);
        }
    }
    dropped = s->shift.n_dropped - dropped;
    kvi_session_cut_cache(s, same - dropped, same - dropped);
    kvi_session_cut_keys(s, same - dropped);
    change_tokens(s, all, same - dropped);
    n -= dropped;
    for (uint32_t i = same - dropped; i < n; i++) s->tokens[i] = id_at(ids, over + dropped, i);
    s->n_tokens = (uint32_t)n;
    if (same - dropped <= KVI_KV_PAGE) s->shift.n_dropped = 0; /* another list */
    return KVRT_OK;
}

kvrt_status kvrt_session_sync(kvrt_session handle, const int32_t *ids, uint64_t n, uint64_t *n_reused,
                              kvrt_error *error)
{
    kvi_session *s;
    KVI_TRY(kvi_session_enter_idle(handle, &s, error));
    kvrt_status status = check_ids(s, ids, n, error);
    if (status >= KVRT_OK) status = make_equal(s, ids, n, error);
    if (status >= KVRT_OK) {
        kvi_pages_mark(&s->pages, s->n_tokens - 1);
        if (n_reused) *n_reused = kvi_session_reusable(s, s->n_tokens - 1);
    }
    kvi_session_leave(s, KVI_DRIVE);
    return status;
}

kvrt_status kvrt_session_rewind(kvrt_session handle, uint64_t n, kvrt_error *error)
{
    kvi_session *s;
    KVI_TRY(kvi_session_enter_idle(handle, &s, error));
    kvrt_status status = KVRT_OK;
    if (n > s->n_tokens)
        status = kvi_error_set(error, KVRT_ARG, "rewind: to %llu tokens, need at most %u", (unsigned long long)n,
                               s->n_tokens);
    else {
        kvi_session_cut_cache(s, (uint32_t)n, (uint32_t)n);
        kvi_session_cut_keys(s, (uint32_t)n);
        change_tokens(s, n == s->n_tokens, (uint32_t)n);
        s->n_tokens = (uint32_t)n;
        if (n <= KVI_KV_PAGE) s->shift.n_dropped = 0;
        kvi_pages_mark(&s->pages, n ? s->n_tokens - 1 : 0);
    }
    kvi_session_leave(s, KVI_DRIVE);
    return status;
}

/* Computes what is missing before the appended tokens, as a prompt, then the tokens, asking for logits step by step. More of them than a
 * narrow step takes are wide, to the last. */
static kvrt_status eval(kvi_session *s, uint64_t n, const uint32_t *rows, uint64_t n_rows, float *logits,
                        kvrt_error *error)
{
    kvi_engine *e = s->engine;
    const uint32_t base = s->n_tokens - (uint32_t)n, vocab = e->config.vocab_size;
    uint64_t next = 0; /* row to deliver */
    KVI_TRY(kvi_session_finish_sink(s, error));
    KVI_TRY(kvi_session_reuse(s, base, error));
    while (s->n_cached < s->n_tokens) {
        const bool before = s->n_cached < base, wide = before || n > KVI_DECODE_ROWS;
        uint32_t chunk = kvi_step_length(s, before ? base : s->n_tokens, wide), n_here = 0;
        /* Cut the chunk after the last row whose logits there is room for. */
        while (s->n_cached >= base && next + n_here < n_rows && rows[next + n_here] < s->n_cached - base + chunk) {
            if (n_here == e->plan.limits.max_logit_rows) {
                chunk = rows[next + n_here] - (s->n_cached - base);
                break;
            }
            e->logit_rows[n_here] = rows[next + n_here] - (s->n_cached - base);
            n_here++;
        }
        const kvi_want want = {
            .first = s->n_cached, .n = chunk, .wide = wide, .logit_rows = e->logit_rows, .n_logit_rows = n_here};
        KVI_TRY(kvi_step_alone(s, &want, error));
        for (uint32_t i = 0; i < n_here; i++) {
            const kvrt_status status = e->backend->read_logits(e->device, i, logits + (next + i) * vocab, error);
            KVI_TRY(kvi_engine_noted(e, status));
        }
        next += n_here;
    }
    if (n > KVI_DECODE_ROWS) (void)kvi_session_select(s);
    return KVRT_OK;
}

kvrt_status kvrt_session_eval(kvrt_session handle, const int32_t *ids, uint64_t n, const uint32_t *rows,
                              uint64_t n_rows, float *logits, kvrt_error *error)
{
    kvi_session *s;
    if (n_rows && (!logits || (!rows && n_rows != 1)))
        return kvi_error_set(error, KVRT_ARG, "kvrt_session_eval: logits or rows is NULL");
    KVI_TRY(kvi_session_enter_compute(handle, &s, error));
    kvrt_status status = check_ids(s, ids, n, error);
    const uint32_t last = (uint32_t)(n - 1);
    if (status >= KVRT_OK && n_rows && !rows) rows = &last;
    for (uint64_t i = 0; i < n_rows && status >= KVRT_OK; i++)
        if (rows[i] >= n || (i && rows[i] <= rows[i - 1]))
            status =
                kvi_error_set(error, KVRT_ARG, "kvrt_session_eval: row %llu is %u, need increasing rows below %llu",
                              (unsigned long long)i, rows[i], (unsigned long long)n);
    if (status >= KVRT_OK && !has_room(s, s->n_cached, n)) status = too_long(s, n, s->ctx_size - s->n_tokens, error);
    if (status >= KVRT_OK) {
        const uint32_t before = s->n_tokens;
        memcpy(s->tokens + before, ids, n * sizeof *ids);
        s->n_tokens += (uint32_t)n;
        kvi_requests_begin_other(s->requests);
        kvi_generation_break(&s->gen, before);
        if (n > KVI_DECODE_ROWS) kvi_pages_mark(&s->pages, s->n_tokens - 1);
        status = eval(s, n, rows, n_rows, logits, error);
        kvi_drive_lost(s->engine);
        if (status < KVRT_OK) {
            /* The session is as it was; what was computed of the new tokens is dropped. */
            kvi_session_cut_cache(s, before, before);
            kvi_session_cut_keys(s, before);
            s->n_tokens = before;
        }
    }
    kvi_session_leave(s, KVI_DRIVE);
    return status;
}

/* ---------------------------------------------------------------------------------------------------- cancelling --- */
kvrt_status kvrt_request_reserve(kvrt_session handle, uint64_t *request, kvrt_error *error)
{
    kvi_session *s;
    if (!request) return kvi_error_set(error, KVRT_ARG, "kvrt_request_reserve: request is NULL");
    KVI_TRY(kvi_session_enter(handle, KVI_LOOK, &s, error));
    *request = kvi_requests_reserve(s->requests);
    kvi_session_leave(s, KVI_LOOK);
    return KVRT_OK;
}

void kvrt_cancel_request(kvrt_session session, uint64_t request)
{
    if (request) kvi_handle_cancel(session, request);
}

void kvrt_cancel(kvrt_session session) { kvi_handle_cancel(session, 0); }
