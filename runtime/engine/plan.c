/* plan.c - every byte, computed before anything is allocated: what one session takes in a format, how long a context fits, and kvrt_plan. */
#include "engine.h"
#include "../model/shapes.h"

#include <string.h>

kvi_device_options kvi_device_options_from(const kvrt_options *options)
{
    int64_t threads = kvi_options_i64(options, "cpu.threads");
    const char *driver = kvi_options_string(options, "debug.cuda_driver");
    return (kvi_device_options){.n_threads = threads > 0 ? (uint32_t)threads : kvi_os_cpu_count(),
                                .amx = kvi_options_bool(options, "cpu.amx"),
                                .isa = kvi_options_string(options, "cpu.isa"),
                                .cuda_driver = driver[0] ? driver : NULL,
                                .device_index = (int32_t)kvi_options_i64(options, "device.index"),
                                .cuda_context = (void *)(uintptr_t)kvi_options_i64(options, "device.cuda_context"),
                                .cuda_stream = (void *)(uintptr_t)kvi_options_i64(options, "device.cuda_stream")};
}

kvrt_status kvi_format_option(const kvrt_options *options, kvi_cache_format *out, kvrt_error *error)
{
    const char *name = kvi_options_string(options, "kv.format");
    *out = (kvi_cache_format){.body = kvi_elastic_format(KVI_ELASTIC_LEVELS - 1),
                              .plain = KVI_KV_F16,
                              .elastic = strcmp(name, "elastic") == 0};
    if (out->elastic) return KVRT_OK;
    if (!kvi_kv_format_parse(name, strlen(name), &out->body))
        return kvi_error_set(
            error, KVRT_ARG,
            "option kv.format: found '%.40s', need f32, f16, bf16, i8, f8, k4v4, k4v2, k3v3, k2v2, kXvY or elastic",
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

void kvi_plan_input_from(const kvrt_options *options, uint64_t available, kvi_plan_input *out)
{
    uint64_t limit = (uint64_t)kvi_options_i64(options, "mem.limit"),
             reserve = (uint64_t)kvi_options_i64(options, "mem.reserve");
    uint64_t budget = available > reserve ? available - reserve : 0;
    if (limit) budget = limit > reserve && kvi_options_is_set(options, "mem.reserve") ? limit - reserve : limit;
    out->device_options = kvi_device_options_from(options);
    out->budget_bytes = budget;
    out->chunk = (uint32_t)kvi_options_i64(options, "ctx.chunk");
    out->tail = (uint32_t)kvi_options_i64(options, "kv.tail");
    out->n_sessions = (uint32_t)kvi_options_i64(options, "ctx.sessions");
    out->ctx_request = kvi_options_i64(options, "ctx.size");
    out->elastic = strcmp(kvi_options_string(options, "kv.format"), "elastic") == 0;
    out->pool_most_bytes = (uint64_t)kvi_options_i64(options, "kv.pool");
}

static uint64_t page_bytes(const kvi_kv_shape *shape, uint32_t format)
{
    return (uint64_t)kvi_kv_page_units(format, shape) * KVI_KV_UNIT;
}

/* Most pages that n positions in a row can touch. */
static uint64_t pages_touched(uint64_t n) { return 1 + (n + KVI_KV_PAGE - 2) / KVI_KV_PAGE; }

/* Plain at once: the sink, and what the tail and a chunk on top of it touch. */
static uint64_t plain_pages(const kvi_plan_input *input)
{
    return 1 + pages_touched((uint64_t)input->tail + input->chunk);
}

uint64_t kvi_plan_session_bytes(const kvi_plan_input *input, kvi_kv_format body, uint64_t ctx)
{
    uint64_t total = 0;
    const uint64_t pages = (ctx + KVI_KV_PAGE - 1) / KVI_KV_PAGE, plain_most = plain_pages(input);
    for (uint32_t g = 0; g < input->program->n_groups; g++) {
        const kvi_cache_group *group = &input->program->groups[g];
        const kvi_kv_format plain = kvi_kv_format_is_plain(body) ? body : kvi_pages_plain(group);
        uint64_t held = pages;
        if (group->window) {
            const uint64_t window_pages = pages_touched((uint64_t)group->window - 1 + input->chunk);
            if (window_pages < held) held = window_pages;
        }
        uint64_t n_plain = kvi_kv_format_is_plain(body) || held < plain_most ? held : plain_most;
        total += n_plain * page_bytes(&group->shape, plain) + (held - n_plain) * page_bytes(&group->shape, body);
    }
    return total;
}

static kvi_limits limits_for(const kvi_plan_input *input, kvi_kv_format body, uint64_t ctx)
{
    kvi_limits limits = {.max_rows = input->chunk, .max_seqs = input->n_sessions, .max_ctx = (uint32_t)ctx};
    if (limits.max_rows > ctx) limits.max_rows = (uint32_t)ctx;
    /* Logits of a whole chunk only where they are small: 64 MiB. */
    uint64_t rows = (64ull << 20) / ((uint64_t)input->program->vocab_size * 4);
    limits.max_logit_rows = rows < 1 ? 1 : rows > limits.max_rows ? limits.max_rows : (uint32_t)rows;
    limits.pool_bytes = input->n_sessions * kvi_plan_session_bytes(input, body, ctx);
    limits.page_formats = kvi_format_codes(&(kvi_cache_format){body, input->program->groups[0].plain, input->elastic});
    return limits;
}

static bool fits(const kvi_plan_input *input, const kvi_memory_plan *plan)
{
    const bool pool_fits =
        !input->elastic || !input->pool_most_bytes || plan->limits.pool_bytes <= input->pool_most_bytes;
    return pool_fits && plan->total_bytes <= input->budget_bytes;
}

/* The context of an elastic cache is what its last level allows; beyond that, memory buys precision: up to 16 bits for every page. */
static void grow_elastic_pool(const kvi_plan_input *input, kvi_memory_plan *plan)
{
    if (!input->elastic) return;
    const uint64_t most = kvi_plan_session_bytes(input, kvi_elastic_format(0), plan->ctx_size) * input->n_sessions;
    uint64_t pool = plan->limits.pool_bytes +
                    (input->budget_bytes > plan->total_bytes ? input->budget_bytes - plan->total_bytes : 0);
    if (pool > most) pool = most;
    if (input->pool_most_bytes && pool > input->pool_most_bytes) pool = input->pool_most_bytes;
    const uint64_t step = (uint64_t)KVI_KV_UNIT * input->n_sessions;
    if (pool / step * step <= plan->limits.pool_bytes) return;
    plan->total_bytes += pool / step * step - plan->limits.pool_bytes;
    plan->limits.pool_bytes = pool / step * step;
    plan->session_kv_bytes = plan->limits.pool_bytes / input->n_sessions;
}

static uint64_t total_at(const kvi_plan_input *input, kvi_kv_format body, uint64_t ctx, kvi_memory_plan *out)
{
    out->limits = limits_for(input, body, ctx);
    out->ctx_size = (uint32_t)ctx;
    out->weight_bytes = input->weight_bytes;
    out->context_bytes = input->context_bytes;
    out->budget_bytes = input->budget_bytes;
    out->session_kv_bytes = kvi_plan_session_bytes(input, body, ctx);
    out->workspace_bytes = input->backend->workspace_bytes(input->program, &out->limits, &input->device_options);
    out->total_bytes = out->weight_bytes + out->context_bytes + out->workspace_bytes + out->limits.pool_bytes;
    return out->total_bytes;
}

kvrt_status kvi_plan_memory(const kvi_plan_input *input, kvi_kv_format body, kvi_memory_plan *out, kvrt_error *error)
{
    memset(out, 0, sizeof *out);
    uint64_t high = input->ctx_request > 0 ? (uint64_t)input->ctx_request : input->config->ctx_model;
    total_at(input, body, high, out);
    if (fits(input, out)) {
        grow_elastic_pool(input, out);
        out->capped_by = input->ctx_request > 0 ? "request" : "model";
        return KVRT_OK;
    }
    if (input->ctx_request > 0 && out->total_bytes <= input->budget_bytes)
        return kvi_error_memory(
            error, KVRT_OVER_BUDGET, out->limits.pool_bytes, input->pool_most_bytes,
            "context of %llu tokens: needs a KV pool of %llu KiB at the lowest precision, kv.pool is %llu KiB",
            (unsigned long long)high, (unsigned long long)((out->limits.pool_bytes + 1023u) >> 10),
            (unsigned long long)(input->pool_most_bytes >> 10));
    if (input->ctx_request > 0)
        return kvi_error_memory(error, KVRT_OVER_BUDGET, out->total_bytes, input->budget_bytes,
                                "context of %llu tokens: needs %llu MiB, the budget is %llu MiB",
                                (unsigned long long)high,
                                (unsigned long long)((out->total_bytes + (1u << 20) - 1) >> 20),
                                (unsigned long long)(input->budget_bytes >> 20));
    /* Total bytes grow with the context: bisect on whole pages. */
    uint64_t low = 0;
    for (uint64_t step = (high + KVI_KV_PAGE - 1) / KVI_KV_PAGE; step > 0; step = step > 1 ? (step + 1) / 2 : 0)
        while ((low + step) * KVI_KV_PAGE <= high &&
               (total_at(input, body, (low + step) * KVI_KV_PAGE, out), fits(input, out)))
            low += step;
    out->capped_by = "memory";
    if (low == 0) {
        total_at(input, body, KVI_KV_PAGE, out);
        return kvi_error_memory(error, KVRT_OVER_BUDGET, out->total_bytes, input->budget_bytes,
                                "model: needs %llu MiB for its smallest context, the budget is %llu MiB",
                                (unsigned long long)((out->total_bytes + (1u << 20) - 1) >> 20),
                                (unsigned long long)(input->budget_bytes >> 20));
    }
    total_at(input, body, low * KVI_KV_PAGE, out);
    grow_elastic_pool(input, out);
    return KVRT_OK;
}

/* ------------------------------------------------------------------------------------------------------- public --- */
/* What kvrt_plan holds while it works; nothing of it survives the call. */
typedef struct planner {
    kvi_model_config config;
    kvi_checkpoint *checkpoint;
    kvi_model_weights weights;
    kvi_model_program program;
    kvi_plan_input input;
} planner;

static kvi_dtype synthetic_dtype(const kvrt_options *options)
{
    const char *name = kvi_options_string(options, "model.weights");
    return strcmp(name, "f32") == 0 ? KVI_F32 : strcmp(name, "f16") == 0 ? KVI_F16 : KVI_BF16;
}

static kvrt_status planner_open(planner *p, const kvrt_options *options, kvrt_error *error)
{
    const char *path = kvi_options_string(options, "model.path"), *shape = kvi_options_string(options, "model.shape");
    if (!path[0] && !shape[0]) return kvi_error_set(error, KVRT_ARG, "plan: need model.path or model.shape");
    if (path[0]) {
        KVI_TRY(kvi_config_read(path, &p->config, error));
        KVI_TRY(kvi_checkpoint_open(path, false, &p->checkpoint, error));
    } else KVI_TRY(kvi_shape_config(shape, &p->config, error));
    KVI_TRY(kvi_weights_bind(&p->config, p->checkpoint, synthetic_dtype(options), NULL, NULL, NULL, NULL, &p->weights,
                             error));
    kvi_record_options record = {
        .rotate = kvi_options_bool(options, "kv.rotate"), .plain = KVI_KV_F16, .head_parts = 1, .disable = ""};
    KVI_TRY(kvi_model_record(&p->config, &p->weights, &record, &p->program, error));
    return KVRT_OK;
}

static void planner_close(planner *p)
{
    kvi_model_program_free(&p->program);
    kvi_weights_free(&p->weights);
    kvi_checkpoint_close(p->checkpoint);
}

/* Of an elastic cache: what it takes at its last level, which is what decides. */
static void fill_row(const planner *p, const char *name, kvi_kv_format body, bool elastic, kvrt_plan_row *row)
{
    uint32_t size = row->size;
    kvi_memory_plan plan;
    memset(row, 0, sizeof *row);
    row->size = size;
    row->kv = name;
    row->bits_per_element = kvi_kv_bits_per_element(body, p->config.head_dim);
    uint64_t plain = 0;
    for (uint32_t g = 0; g < p->program.program.n_groups; g++) {
        const kvi_cache_group *group = &p->program.program.groups[g];
        if (group->window) continue; /* fixed, not per token */
        row->bytes_per_token += (double)kvi_kv_page_bytes(body, &group->shape) / KVI_KV_PAGE;
        plain += kvi_kv_page_bytes(kvi_pages_plain(group), &group->shape);
    }
    const uint64_t n_plain = plain_pages(&p->input);
    if (!kvi_kv_format_is_plain(body))
        row->fixed_kv_bytes = (uint64_t)((double)n_plain * ((double)plain - row->bytes_per_token * KVI_KV_PAGE));
    kvi_plan_input longest = p->input;
    longest.ctx_request = -1;
    longest.elastic = elastic;
    row->capped_by = "nothing fits";
    if (kvi_plan_memory(&longest, body, &plan, NULL) >= KVRT_OK)
        row->max_ctx = plan.ctx_size, row->capped_by = plan.capped_by;
    row->ctx = p->input.ctx_request > 0 ? (uint64_t)p->input.ctx_request : row->max_ctx;
    if (row->ctx == 0) row->ctx = KVI_KV_PAGE;
    row->total_bytes = total_at(&p->input, body, row->ctx, &plan);
    row->kv_bytes = plan.limits.pool_bytes;
    row->fits = row->total_bytes <= p->input.budget_bytes;
    uint64_t rest = plan.total_bytes - plan.limits.pool_bytes;
    if (row->fits && plan.session_kv_bytes) row->max_sessions = (p->input.budget_bytes - rest) / plan.session_kv_bytes;
}

static kvrt_status fill_rows(const planner *p, const char *formats, kvrt_plan_row *rows, uint64_t cap, uint64_t *n,
                             kvrt_error *error)
{
    *n = 0;
    bool elastic = false;
    for (uint32_t i = 0; !elastic; i++) {
        kvi_kv_format body = kvi_elastic_format(KVI_ELASTIC_LEVELS - 1);
        const char *name = kvi_kv_format_at(i, &body);
        elastic = !name;
        if (elastic) name = "elastic";
        if (!formats && body == KVI_KV_FMT_F32) continue; /* for tests; only on request */
        if (formats) {
            size_t len = strlen(name);
            const char *at = formats;
            while (at && (strncmp(at, name, len) != 0 || (at[len] && at[len] != ',')))
                at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL;
            if (!at) continue;
        }
        if (*n < cap) {
            if (rows[*n].size < sizeof *rows) return kvi_error_set(error, KVRT_ARG, "kvrt_plan_row: size not set");
            fill_row(p, name, body, elastic, &rows[*n]);
        }
        ++*n;
    }
    if (*n == 0) return kvi_error_set(error, KVRT_ARG, "plan: no known KV format in '%.100s'", formats ? formats : "");
    return *n > cap ? KVRT_PARTIAL : KVRT_OK;
}

kvrt_status kvrt_plan(const kvrt_options *options, const char *formats, kvrt_plan_info *info, kvrt_plan_row *rows,
                      uint64_t cap, uint64_t *n, kvrt_error *error)
{
    if (!n || (cap && !rows)) return kvi_error_set(error, KVRT_ARG, "kvrt_plan: n or rows is NULL");
    planner *p = kvi_mem_zalloc(1, sizeof *p);
    if (!p) return kvi_error_nomem(error, sizeof *p, "plan");
    kvrt_status status = planner_open(p, options, error);
    if (status >= KVRT_OK) {
        const char *want = kvi_options_string(options, "device.backend");
        p->input.backend = &kvi_backend_cpu;
        for (uint32_t i = 0; kvi_backend_at(i); i++)
            if (strcmp(kvi_backend_at(i)->name, want) == 0) p->input.backend = kvi_backend_at(i);
        p->input.config = &p->config;
        p->input.program = &p->program.program;
        kvi_plan_input_from(options, kvi_os_memory_available(), &p->input);
        /* A memory limit stands for a card, whose memory the weights have to fit too, unless the CPU is asked for: there they stay in the map. */
        bool card = kvi_options_i64(options, "mem.limit") > 0 && strcmp(want, "cpu") != 0;
        p->input.weight_bytes = card ? p->weights.bytes : 0;
        p->input.context_bytes = card ? 450ull << 20 : 0;
        p->input.elastic = false;
        status = fill_rows(p, formats, rows, cap, n, error);
        if (info && info->size >= sizeof *info) {
            kvi_memory_plan plan;
            total_at(&p->input, KVI_KV_FMT_F16,
                     p->input.ctx_request > 0 ? (uint64_t)p->input.ctx_request : p->config.ctx_model, &plan);
            *info = (kvrt_plan_info){.size = info->size,
                                     .weight_bytes = p->weights.bytes,
                                     .workspace_bytes = plan.workspace_bytes,
                                     .device_context_bytes = p->input.context_bytes,
                                     .budget_bytes = p->input.budget_bytes,
                                     .reserve_bytes = (uint64_t)kvi_options_i64(options, "mem.reserve"),
                                     .ctx_model = p->config.ctx_model,
                                     .n_params = p->weights.n_params};
            memcpy(info->architecture, p->config.family, strlen(p->config.family) + 1);
        }
    }
    planner_close(p);
    kvi_mem_free(p);
    return status;
}
