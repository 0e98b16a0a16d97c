/* plan.c - every byte, computed before anything is taken: what one session takes in a format, how long a context fits. kvrt_plan and
 * kvrt_engine_open ask the same functions. The one thing to know: what files leave in memory (names, tokenizer, template) is not computed but
 * measured, by reading them, which both do. */
#include "step.h"

#include <string.h>

kvi_device_options kvi_device_options_from(const kvrt_options *options)
{
    int64_t threads = kvi_options_i64(options, "cpu.threads");
    const char *driver = kvi_options_string(options, "debug.cuda_driver");
    return (kvi_device_options){.n_threads = threads > 0 ? (uint32_t)threads : kvi_os_cpu_count(),
                                .amx = kvi_options_bool(options, "cpu.amx"),
                                .exact = kvi_options_bool(options, "cpu.exact"),
                                .isa = kvi_options_string(options, "cpu.isa"),
                                .cuda_driver = driver[0] ? driver : NULL,
                                .device_index = (int32_t)kvi_options_i64(options, "device.index"),
                                .cuda_context = (void *)(uintptr_t)kvi_options_i64(options, "device.cuda_context"),
                                .cuda_stream = (void *)(uintptr_t)kvi_options_i64(options, "device.cuda_stream")};
}

kvrt_status kvi_format_named(const char *name, kvi_cache_format *out, kvrt_error *error)
{
    *out = (kvi_cache_format){.body = kvi_elastic_format(KVI_ELASTIC_LEVELS - 1),
                              .plain = KVI_KV_F16,
                              .elastic = strcmp(name, "elastic") == 0};
    if (out->elastic) return KVRT_OK;
    if (!kvi_kv_format_parse(name, strlen(name), &out->body))
        return kvi_error_set(error, KVRT_ARG,
                             "option kv.format: found '%.40s', need f32, f16, bf16, i8, f8, k4v4, k4v2, k3v3, k2v2, "
                             "t3, t2, kXvY or elastic",
                             name);
    if (kvi_kv_format_is_plain(out->body) && KVI_KV_K_CODE(out->body) == KVI_KV_V_CODE(out->body))
        out->plain = KVI_KV_K_CODE(out->body);
    return KVRT_OK;
}

static uint32_t codes_of(kvi_kv_format format) { return (1u << KVI_KV_K_CODE(format)) | (1u << KVI_KV_V_CODE(format)); }

uint32_t kvi_format_codes(const kvi_cache_format *format)
{
    uint32_t codes = codes_of(format->body) | (1u << format->plain);
    for (uint32_t level = 0; format->elastic && level < KVI_ELASTIC_LEVELS; level++)
        codes |= codes_of(kvi_elastic_format(level));
    return codes;
}

/* ------------------------------------------------------------------------------------------------------- budget --- */
const kvi_backend *kvi_plan_backend(const kvrt_options *options)
{
    const char *want = kvi_options_string(options, "device.backend");
    const kvi_device_options device_options = kvi_device_options_from(options);
    const bool is_auto = strcmp(want, "auto") == 0;
    char why[256];
    for (uint32_t i = 0; kvi_backend_at(i); i++) {
        const kvi_backend *backend = kvi_backend_at(i);
        if (is_auto ? !kvi_backend_at(i + 1) || backend->probe(&device_options, why, sizeof why)
                    : strcmp(backend->name, want) == 0)
            return backend;
    }
    return NULL;
}

uint64_t kvi_plan_budget(const kvrt_options *options, uint64_t available)
{
    const uint64_t limit = (uint64_t)kvi_options_i64(options, "mem.limit"),
                   reserve = (uint64_t)kvi_options_i64(options, "mem.reserve");
    if (!limit) return available > reserve ? available - reserve : 0;
    const uint64_t most = kvi_plan_limit(options);
    if (!kvi_options_bool(options, "mem.shared")) return most;
    const kvi_backend *backend = kvi_plan_backend(options);
    const uint64_t others = kvi_shared_bytes(backend && backend->own_memory);
    return most > others ? most - others : 0;
}

uint64_t kvi_plan_less_reserve(const kvrt_options *options, uint64_t limit)
{
    const uint64_t reserve = (uint64_t)kvi_options_i64(options, "mem.reserve");
    return limit > reserve && kvi_options_is_set(options, "mem.reserve") ? limit - reserve : limit;
}

uint64_t kvi_plan_limit(const kvrt_options *options)
{
    return kvi_plan_less_reserve(options, (uint64_t)kvi_options_i64(options, "mem.limit"));
}

uint64_t kvi_plan_most(const kvrt_options *options)
{
    return kvi_plan_less_reserve(options, (uint64_t)kvi_options_i64(options, "mem.most"));
}

void kvi_engine_plan_input(const kvi_engine *e, bool copied, uint64_t available, kvi_plan_input *out)
{
    const kvrt_options *o = e->options;
    const bool to_copy = e->checkpoint && strcmp(kvi_options_string(o, "model.io"), "copy") == 0,
               assumes_context = e->backend->own_memory && kvi_options_i64(o, "mem.limit") > 0 &&
                                 kvi_options_i64(o, "device.cuda_context") == 0;
    const uint64_t copy_bytes = to_copy ? e->checkpoint->file_bytes : 0;
    *out = (kvi_plan_input){.program = &e->program.program,
                            .backend = e->backend,
                            .device_options = kvi_device_options_from(o),
                            .format = e->format,
                            .import_bytes = e->weights.taken_bytes,
                            .read_bytes = kvi_account_bytes(e->account) - e->device_bytes - (copied ? copy_bytes : 0),
                            .copied_bytes = (to_copy ? copy_bytes : 0) + e->weights.memory_bytes,
                            .loading_bytes = e->loading_bytes + (copied ? 0 : copy_bytes),
                            .context_bytes = assumes_context ? (uint64_t)kvi_options_i64(o, "mem.context") : 0,
                            .budget_bytes = kvi_plan_budget(o, available),
                            .most_bytes = e->backend->pool_resize ? kvi_plan_most(o) : 0,
                            .chunk = (uint32_t)kvi_options_i64(o, "ctx.chunk"),
                            .tail = (uint32_t)kvi_options_i64(o, "kv.tail"),
                            .draft_bytes = e->draft_bytes,
                            .drafts = strcmp(kvi_options_string(o, "draft.type"), "off") != 0,
                            .n_sessions = (uint32_t)kvi_options_i64(o, "ctx.sessions"),
                            .ctx_model = e->config.ctx_model,
                            .ctx_request = kvi_options_i64(o, "ctx.size"),
                            .pool_most_bytes = (uint64_t)kvi_options_i64(o, "kv.pool")};
}

/* -------------------------------------------------------------------------------------------------------- parts --- */
static uint64_t page_bytes(const kvi_cache_group *group, kvi_kv_format format)
{
    return (uint64_t)kvi_group_units(group, format) * KVI_KV_UNIT;
}

/* Most pages that n positions in a row can touch. */
static uint64_t pages_touched(uint64_t n) { return 1 + (n + KVI_KV_PAGE - 2) / KVI_KV_PAGE; }

/* Plain at once: the sink, and what the tail and a chunk on top of it touch. */
uint64_t kvi_plan_plain_pages(const kvi_plan_input *input)
{
    return 1 + pages_touched((uint64_t)input->tail + input->chunk);
}

/* Recurrent layers: the live state, the copies of it that a rewind may go back to, and one for guesses. */
uint32_t kvi_plan_n_states(const kvi_plan_input *input)
{
    return input->program->state_bytes ? 1 + KVI_STATE_CHECKPOINTS + input->drafts : 0;
}

uint64_t kvi_plan_state_bytes(const kvi_plan_input *input)
{
    return (uint64_t)kvi_plan_n_states(input) * kvi_state_units(input->program->state_bytes) * KVI_KV_UNIT;
}

static uint64_t session_bytes(const kvi_plan_input *input, kvi_kv_format body, uint64_t ctx)
{
    uint64_t total = 0;
    const uint64_t pages = (ctx + KVI_KV_PAGE - 1) / KVI_KV_PAGE, plain_most = kvi_plan_plain_pages(input);
    for (uint32_t g = 0; g < input->program->n_groups; g++) {
        const kvi_cache_group *group = &input->program->groups[g];
        const kvi_kv_format plain = kvi_group_plain(group);
        uint64_t held = pages;
        if (group->window) {
            const uint64_t window_pages = pages_touched((uint64_t)group->window - 1 + input->chunk);
            if (window_pages < held) held = window_pages;
        }
        uint64_t n_plain = kvi_kv_format_is_plain(body) || held < plain_most ? held : plain_most;
        total += n_plain * page_bytes(group, plain) + (held - n_plain) * page_bytes(group, body);
    }
    return total + kvi_plan_state_bytes(input);
}

uint64_t kvi_plan_session_bytes(const kvi_plan_input *input, uint64_t ctx)
{
    return session_bytes(input, input->format.body, ctx);
}

/* Options, text stream, stop strings and logit biases of one session. */
#define SESSION_ROOM (64u << 10)

uint64_t kvi_plan_session_host_bytes(const kvi_program *program, uint64_t ctx)
{
    return sizeof(kvi_session) + ctx * sizeof(int32_t) + ctx / KVI_KV_PAGE * sizeof(kvi_page_key) +
           kvi_pages_host_bytes(program->n_groups, ctx) + kvi_sampler_bytes((int32_t)program->vocab_size) +
           SESSION_ROOM;
}

size_t kvi_plan_row_floats(const kvi_program *program)
{
    const uint32_t hidden = program->buffers[program->ops[program->hidden].out].cols;
    return program->vocab_size > hidden ? program->vocab_size : hidden;
}

static kvi_limits limits_for(const kvi_plan_input *input, uint64_t ctx)
{
    kvi_limits limits = {.max_rows = input->chunk, .max_seqs = input->n_sessions, .max_ctx = (uint32_t)ctx};
    if (limits.max_rows > ctx) limits.max_rows = (uint32_t)ctx;
    /* Logits of a whole chunk only where they are small: 32 MiB. */
    uint64_t rows = (32ull << 20) / ((uint64_t)input->program->vocab_size * 4);
    limits.max_logit_rows = rows < 1 ? 1 : rows > limits.max_rows ? limits.max_rows : (uint32_t)rows;
    limits.pool_bytes = input->n_sessions * kvi_plan_session_bytes(input, ctx);
    limits.page_formats = kvi_format_codes(&input->format);
    limits.body = input->format.body;
    return limits;
}

uint32_t kvi_plan_most_pages(const kvi_program *program, const kvi_limits *limits)
{
    const uint32_t state = kvi_state_units(program->state_bytes);
    uint32_t smallest = state ? state : UINT32_MAX;
    for (uint32_t g = 0; g < program->n_groups; g++)
        for (uint32_t i = 0; i < KVI_KV_FORMATS; i++) {
            const kvi_kv_format format = kvi_kv_format_of_index(i);
            if (codes_of(format) & ~limits->page_formats) continue;
            const uint32_t units = kvi_group_units(&program->groups[g], format);
            if (units < smallest) smallest = units;
        }
    const uint64_t pool = limits->pool_most_bytes > limits->pool_bytes ? limits->pool_most_bytes : limits->pool_bytes;
    return (uint32_t)(pool / KVI_KV_UNIT / (smallest ? smallest : 1)) + 1;
}

/* Adds up everything but the pool's own size, which the limits say. */
static void add_all(const kvi_plan_input *input, kvi_memory_plan *out)
{
    const kvi_backend *backend = input->backend;
    const uint32_t most_pages = kvi_plan_most_pages(input->program, &out->limits);
    const uint64_t tables = input->read_bytes +
                            backend->host_bytes(input->program, &out->limits, &input->device_options) +
                            kvi_store_host_bytes(most_pages) + kvi_plan_row_floats(input->program) * sizeof(float) +
                            out->limits.max_logit_rows * sizeof(uint32_t) + out->limits.max_rows * sizeof(int32_t) +
                            kvi_events_host_bytes() + kvi_pace_host_bytes(input->program->n_step) + sizeof(kvi_batch);
    const uint64_t session = kvi_plan_session_host_bytes(input->program, out->ctx_size),
                   sessions = input->n_sessions * session;
    out->planned_pool_bytes = out->limits.pool_bytes;
    out->session_host_bytes = backend->own_memory ? 0 : session;
    out->workspace_bytes = backend->workspace_bytes(input->program, &out->limits, &input->device_options);
    out->weight_bytes = input->import_bytes + (backend->own_memory ? 0 : input->copied_bytes);
    out->table_bytes = backend->own_memory ? 0 : tables;
    out->session_bytes = backend->own_memory ? 0 : sessions;
    out->host_bytes = backend->own_memory ? tables + sessions + input->copied_bytes : 0;
    out->total_bytes = out->weight_bytes + out->table_bytes + out->workspace_bytes + out->session_bytes +
                       out->context_bytes + out->limits.pool_bytes + input->draft_bytes;
}

uint64_t kvi_plan_pool_under(const kvi_memory_plan *plan, uint64_t limit)
{
    const uint64_t rest = plan->total_bytes - plan->limits.pool_bytes, planned = plan->planned_pool_bytes;
    if (limit <= rest) return 0;
    uint64_t pool = limit - rest;
    if (pool > planned) {
        const uint64_t kv = plan->session_kv_bytes, each = kv + plan->session_host_bytes, more = pool - planned,
                       part = each ? more % each : 0;
        pool = planned + (each ? more / each * kv + (part < kv ? part : kv) : 0);
    }
    if (pool > plan->limits.pool_most_bytes) pool = plan->limits.pool_most_bytes;
    const uint64_t grain = kvi_limits_grain(&plan->limits);
    return pool / grain * grain;
}

uint64_t kvi_plan_most_pool(const kvi_memory_plan *plan, uint64_t most)
{
    const uint64_t least = plan->total_bytes - plan->limits.pool_bytes + plan->planned_pool_bytes;
    return kvi_plan_pool_under(plan, most > least ? most : least);
}

/* Bookkeeping for the largest pool is taken at once. How large that is follows from what the rest takes without it, so that a little more may be
 * kept ready than is ever used. */
static void add_up(const kvi_plan_input *input, kvi_memory_plan *out)
{
    const uint64_t grain = out->limits.pool_grain = input->most_bytes ? input->backend->pool_grain : 0;
    if (grain) out->limits.pool_bytes = (out->limits.pool_bytes + grain - 1) / grain * grain;
    out->limits.pool_most_bytes = out->limits.pool_bytes;
    add_all(input, out);
    if (input->most_bytes <= out->total_bytes) return;
    out->limits.pool_most_bytes = UINT64_MAX / 2;
    out->limits.pool_most_bytes = kvi_plan_pool_under(out, input->most_bytes);
    add_all(input, out);
}

void kvi_plan_at(const kvi_plan_input *input, uint64_t ctx, kvi_memory_plan *out)
{
    *out = (kvi_memory_plan){.limits = limits_for(input, ctx),
                             .ctx_size = (uint32_t)ctx,
                             .context_bytes = input->context_bytes,
                             .budget_bytes = input->budget_bytes,
                             .session_kv_bytes = kvi_plan_session_bytes(input, ctx)};
    add_up(input, out);
}

/* ----------------------------------------------------------------------------------------------------- deciding --- */
bool kvi_plan_fits(const kvi_plan_input *input, const kvi_memory_plan *plan)
{
    const bool pool_fits =
        !input->format.elastic || !input->pool_most_bytes || plan->limits.pool_bytes <= input->pool_most_bytes;
    const bool loads = input->backend->own_memory || input->loading_bytes <= input->budget_bytes;
    return pool_fits && loads && plan->total_bytes <= input->budget_bytes;
}

/* The context of an elastic cache is what its last level allows; beyond that, memory buys precision: up to 16 bits for every page. */
static void grow_elastic_pool(const kvi_plan_input *input, kvi_memory_plan *plan)
{
    if (!input->format.elastic) return;
    const uint64_t least = plan->limits.pool_bytes, grain = plan->limits.pool_grain,
                   step = grain ? grain : (uint64_t)KVI_KV_UNIT * input->n_sessions;
    const uint64_t most = session_bytes(input, kvi_elastic_format(0), plan->ctx_size) * input->n_sessions;
    uint64_t pool = input->pool_most_bytes && input->pool_most_bytes < most ? input->pool_most_bytes : most;
    /* Its bookkeeping grows with it: what is too much is taken off until both fit. */
    for (pool = pool / step * step; pool > least; pool = pool > step ? (pool - step) / step * step : 0) {
        plan->limits.pool_bytes = pool;
        add_up(input, plan);
        if (plan->total_bytes <= input->budget_bytes) break;
        const uint64_t excess = plan->total_bytes - input->budget_bytes;
        pool = pool > excess - excess / 64 ? pool - (excess - excess / 64) : 0;
    }
    if (pool <= least) {
        plan->limits.pool_bytes = least;
        add_up(input, plan);
    }
    plan->session_kv_bytes = plan->limits.pool_bytes / input->n_sessions;
}

static unsigned long long mib_up(uint64_t bytes) { return (unsigned long long)((bytes + (1u << 20) - 1) >> 20); }

static kvrt_status over_budget(const kvi_plan_input *input, const kvi_memory_plan *plan, bool asked, kvrt_error *error)
{
    const unsigned long long budget = (unsigned long long)(input->budget_bytes >> 20);
    const uint64_t loading = input->backend->own_memory ? 0 : input->loading_bytes;
    if (loading > input->budget_bytes && loading > plan->total_bytes)
        return kvi_error_memory(error, KVRT_OVER_BUDGET, loading, input->budget_bytes,
                                "model: loading needs %llu MiB for a moment, the budget is %llu MiB", mib_up(loading),
                                budget);
    if (plan->total_bytes <= input->budget_bytes)
        return kvi_error_memory(
            error, KVRT_OVER_BUDGET, plan->limits.pool_bytes, input->pool_most_bytes,
            "context of %u tokens: needs a KV pool of %llu KiB at the lowest precision, kv.pool is %llu KiB",
            plan->ctx_size, (unsigned long long)((plan->limits.pool_bytes + 1023u) >> 10),
            (unsigned long long)(input->pool_most_bytes >> 10));
    if (asked)
        return kvi_error_memory(error, KVRT_OVER_BUDGET, plan->total_bytes, input->budget_bytes,
                                "context of %u tokens: needs %llu MiB, the budget is %llu MiB", plan->ctx_size,
                                mib_up(plan->total_bytes), budget);
    return kvi_error_memory(error, KVRT_OVER_BUDGET, plan->total_bytes, input->budget_bytes,
                            "model: needs %llu MiB for its smallest context, the budget is %llu MiB",
                            mib_up(plan->total_bytes), budget);
}

kvrt_status kvi_plan_memory(const kvi_plan_input *input, kvi_memory_plan *out, kvrt_error *error)
{
    const bool asked = input->ctx_request > 0;
    const uint64_t high = asked ? (uint64_t)input->ctx_request : input->ctx_model;
    kvi_plan_at(input, high, out);
    if (kvi_plan_fits(input, out)) {
        grow_elastic_pool(input, out);
        out->capped_by = asked ? "request" : "model";
        return KVRT_OK;
    }
    if (asked) return over_budget(input, out, true, error);
    /* Total bytes grow with the context: bisect on whole pages. */
    uint64_t low = 0;
    for (uint64_t step = (high + KVI_KV_PAGE - 1) / KVI_KV_PAGE; step > 0; step = step > 1 ? (step + 1) / 2 : 0)
        while ((low + step) * KVI_KV_PAGE <= high &&
               (kvi_plan_at(input, (low + step) * KVI_KV_PAGE, out), kvi_plan_fits(input, out)))
            low += step;
    kvi_plan_at(input, (low ? low : 1) * KVI_KV_PAGE, out);
    out->capped_by = "memory";
    if (low == 0) return over_budget(input, out, false, error);
    grow_elastic_pool(input, out);
    return KVRT_OK;
}

uint64_t kvi_plan_most_sessions(const kvi_plan_input *input, uint32_t ctx)
{
    kvi_plan_input more = *input;
    kvi_memory_plan plan;
    uint64_t low = 0;
    for (uint64_t step = 1u << 16; step > 0; step /= 2) {
        more.n_sessions = (uint32_t)(low + step);
        kvi_plan_at(&more, ctx, &plan);
        if (kvi_plan_fits(&more, &plan)) low += step;
    }
    return low;
}
