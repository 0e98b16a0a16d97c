/* plan_rows.c - kvrt_plan: one row per KV format, by the functions that decide an open (plan.c). It reads what an open reads, so that both
 * count the same bytes, and takes neither weights nor cache; nothing of it survives the call. A card needs no driver to be planned for. */
#include "draft.h"
#include "engine.h"
#include "../kv/states.h"

#include <stdio.h>
#include <string.h>

/* Bytes that are free for what the plan is about. A limit stands for a card that need not be here. */
static kvrt_status free_bytes(const kvi_engine *e, uint64_t host_available, uint64_t *out, kvrt_error *error)
{
    kvi_device *device = NULL;
    const kvi_device_options device_options = kvi_device_options_from(e->options);
    *out = host_available;
    if (!e->backend->own_memory || kvi_options_i64(e->options, "mem.limit") > 0) return KVRT_OK;
    KVI_TRY(e->backend->open(&device_options, &device, error));
    *out = e->backend->memory_available(device);
    e->backend->close(device);
    return KVRT_OK;
}

/* The cache alone: what a token costs for ever, and what sink and tail cost beyond that. */
static void fill_cache(const kvi_plan_input *input, kvrt_plan_row *row)
{
    const kvi_kv_format body = input->format.body;
    uint64_t plain = 0;
    row->bits_per_element = kvi_kv_bits_per_element(body, &input->program->groups[0].shape);
    for (uint32_t g = 0; g < input->program->n_groups; g++) {
        const kvi_cache_group *group = &input->program->groups[g];
        if (group->window) continue; /* fixed, not per token */
        row->bytes_per_token += (double)kvi_kv_page_bytes(body, &group->shape) / KVI_KV_PAGE;
        plain += kvi_group_page_bytes(group, kvi_group_plain(group));
    }
    if (!kvi_kv_format_is_plain(body))
        row->fixed_kv_bytes =
            (uint64_t)((double)kvi_plan_plain_pages(input) * ((double)plain - row->bytes_per_token * KVI_KV_PAGE));
}

/* The longest context that fits: up to what the model was trained for, or to what is asked for where that is more. */
static void fill_longest(const kvi_plan_input *input, kvi_memory_plan *plan, kvrt_plan_row *row)
{
    kvi_plan_input longest = *input;
    const bool beyond = input->ctx_request > (int64_t)input->ctx_model;
    longest.ctx_request = -1;
    if (beyond) longest.ctx_model = (uint32_t)input->ctx_request;
    row->capped_by = "nothing fits";
    if (kvi_plan_memory(&longest, plan, NULL) < KVRT_OK) return;
    row->max_ctx = plan->ctx_size;
    row->capped_by = beyond && strcmp(plan->capped_by, "model") == 0 ? "request" : plan->capped_by;
}

static void fill_row(const kvi_plan_input *input, const char *name, kvrt_plan_row *row)
{
    kvi_memory_plan plan;
    kvrt_error error = {.size = sizeof error};
    *row = (kvrt_plan_row){.size = sizeof *row, .kv = name};
    fill_cache(input, row);
    const kvi_limits any = {.page_formats = kvi_format_codes(&input->format), .body = input->format.body};
    if (input->backend->check(input->program, &any, &error) < KVRT_OK) {
        row->capped_by = "backend";
        (void)snprintf(row->problem, sizeof row->problem, "%.199s", error.message);
        return;
    }
    fill_longest(input, &plan, row);
    row->fits = row->max_ctx > 0;
    if (input->ctx_request > 0) row->fits = kvi_plan_memory(input, &plan, NULL) >= KVRT_OK;
    row->ctx = plan.ctx_size;
    if (row->fits && row->max_ctx < row->ctx) row->max_ctx = row->ctx; /* it ends within a page */
    row->kv_bytes = plan.limits.pool_bytes;
    row->weight_bytes = plan.weight_bytes, row->table_bytes = plan.table_bytes;
    row->workspace_bytes = plan.workspace_bytes, row->session_bytes = plan.session_bytes;
    row->context_bytes = plan.context_bytes, row->host_bytes = plan.host_bytes;
    row->total_bytes = plan.total_bytes;
    row->draft_bytes = input->draft_bytes;
    row->kv_most_bytes = kvi_plan_most_pool(&plan, input->most_bytes);
    if (row->fits) row->max_sessions = kvi_plan_most_sessions(input, plan.ctx_size);
}

/* ------------------------------------------------------------------------------------------------------- public --- */
static bool is_listed(const char *formats, const char *name)
{
    const size_t len = strlen(name);
    for (const char *at = formats; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
        if (strncmp(at, name, len) == 0 && (!at[len] || at[len] == ',')) return true;
    return false;
}

/* Rows lie as far apart as the caller's struct is long. */
static kvrt_status fill_rows(kvi_engine *e, const char *formats, uint64_t available, kvrt_plan_row *rows, uint64_t cap,
                             uint64_t *n, kvrt_error *error)
{
    const uint32_t stride = cap ? rows[0].size : 0;
    bool last = false;
    *n = 0;
    if (cap) KVI_TRY(kvi_struct_check(rows, "kvrt_plan_row", error));
    for (uint32_t i = 0; !last; i++) {
        kvi_kv_format unused;
        const char *name = kvi_kv_format_at(i, &unused);
        last = !name;
        if (last) name = "elastic";
        if (formats ? !is_listed(formats, name) : strcmp(name, "f32") == 0) continue; /* f32: only on request */
        if (*n < cap) {
            kvi_plan_input input;
            kvrt_plan_row row;
            KVI_TRY(kvi_format_named(name, &e->format, error));
            KVI_TRY(kvi_engine_outline(e, e->format.plain, error));
            kvi_engine_plan_input(e, false, available, &input);
            fill_row(&input, name, &row);
            void *place = (unsigned char *)rows + *n * stride;
            memcpy(place, &stride, sizeof stride);
            kvi_struct_write(place, &row, sizeof row);
        }
        ++*n;
    }
    if (*n == 0) return kvi_error_set(error, KVRT_ARG, "plan: no known KV format in '%.100s'", formats ? formats : "");
    return *n > cap ? KVRT_PARTIAL : KVRT_OK;
}

/* How much there is of each form, and what multiplies the most of it. */
typedef struct form_uses {
    const kvi_backend *backend;
    kvi_device_options options;
    struct {
        uint64_t n, bytes, largest;
        char kernel[64];
    } of[KVI_FORM_COUNT];
} form_uses;

static void count_form(void *user, const kvi_weight_desc *desc)
{
    form_uses *uses = user;
    const uint64_t n = (uint64_t)desc->n_out * desc->n_in * (desc->n_experts ? desc->n_experts : 1);
    if (desc->n_out == 1) return;
    uses->of[desc->form].n += n;
    uses->of[desc->form].bytes += kvi_weight_bytes(desc);
    if (desc->looked_up || n <= uses->of[desc->form].largest) return;
    uses->of[desc->form].largest = n;
    (void)uses->backend->kernel_of(desc, &uses->options, uses->of[desc->form].kernel,
                                   sizeof uses->of[desc->form].kernel);
}

/* "i4 4.125 bits (tiles, avx512vnni) 6.98 G; bf16 ...", the form of most bytes first. */
static kvrt_status describe_forms(kvi_engine *e, char *out, size_t cap, kvrt_error *error)
{
    form_uses *uses = kvi_mem_zalloc(1, sizeof *uses);
    size_t len = 0;
    if (!uses) return kvi_error_nomem(error, sizeof *uses, "forms of weights");
    uses->backend = e->backend;
    uses->options = kvi_device_options_from(e->options);
    const kvrt_status status = kvi_engine_each_weight(e, count_form, uses, error);
    for (int left = KVI_FORM_COUNT; status >= KVRT_OK && left > 0 && len < cap; left--) {
        int most = 0;
        for (int f = 1; f < KVI_FORM_COUNT; f++)
            if (uses->of[f].bytes > uses->of[most].bytes) most = f;
        if (!uses->of[most].bytes) break;
        len += (size_t)snprintf(
            out + len, cap - len, "%s%s %.4g bits (%s) %.4g M", len ? "; " : "", kvi_form((kvi_weight_form)most)->name,
            (double)uses->of[most].bytes * 8 / (double)uses->of[most].n,
            uses->of[most].kernel[0] ? uses->of[most].kernel : "single rows", (double)uses->of[most].n / 1e6);
        uses->of[most].bytes = 0;
    }
    kvi_mem_free(uses);
    return status;
}

static kvrt_status fill_info(kvi_engine *e, uint64_t available, kvrt_plan_info *info, kvrt_error *error)
{
    kvi_plan_input input;
    kvi_memory_plan plan;
    if (!info) return KVRT_OK;
    KVI_TRY(kvi_struct_check(info, "kvrt_plan_info", error));
    KVI_TRY(kvi_format_named("f16", &e->format, error));
    KVI_TRY(kvi_engine_outline(e, e->format.plain, error));
    KVI_TRY(kvi_engine_find_cache(e, false, error));
    kvi_engine_plan_input(e, false, available, &input);
    kvi_plan_at(&input, input.ctx_request > 0 ? (uint64_t)input.ctx_request : input.ctx_model, &plan);
    const bool maps = !e->backend->own_memory && input.copied_bytes == 0;
    kvrt_plan_info full = {.weight_bytes = e->weights.bytes,
                           .workspace_bytes = plan.workspace_bytes,
                           .device_context_bytes = plan.context_bytes,
                           .budget_bytes = plan.budget_bytes,
                           .reserve_bytes = (uint64_t)kvi_options_i64(e->options, "mem.reserve"),
                           .ctx_model = e->config.ctx_model,
                           .n_params = e->weights.n_params,
                           .mapped_bytes = maps ? e->weights.bytes - e->weights.own_bytes : 0,
                           .expert_bytes = e->weights.expert_bytes,
                           .state_bytes = kvi_plan_state_bytes(&input),
                           .n_states = kvi_plan_n_states(&input),
                           .loading_bytes = e->backend->own_memory ? 0 : input.loading_bytes};
    KVI_TRY(describe_forms(e, full.forms, sizeof full.forms, error));
    (void)snprintf(full.architecture, sizeof full.architecture, "%s", e->config.family);
    (void)snprintf(full.backend, sizeof full.backend, "%s", e->backend->name);
    kvi_struct_write(info, &full, sizeof full);
    return KVRT_OK;
}

static kvrt_status plan(kvi_engine *e, const char *formats, kvrt_plan_info *info, kvrt_plan_row *rows, uint64_t cap,
                        uint64_t *n, kvrt_error *error)
{
    uint64_t available = kvi_os_memory_available();
    e->backend = kvi_plan_backend(e->options);
    if (!e->backend) return kvi_error_set(error, KVRT_NO_DEVICE, "plan: no backend in this build");
    if (strcmp(kvi_options_string(e->options, "model.load"), "tokenizer") == 0)
        return kvi_error_set(error, KVRT_ARG, "plan: model.load is tokenizer, need a model to plan for");
    KVI_TRY(kvi_draft_plan(e, error));
    KVI_TRY(kvi_engine_read(e, false, NULL, NULL, error));
    KVI_TRY(free_bytes(e, available, &available, error));
    KVI_TRY(fill_info(e, available, info, error));
    return fill_rows(e, formats, available, rows, cap, n, error);
}

kvrt_status kvrt_plan(const kvrt_options *options, const char *formats, kvrt_plan_info *info, kvrt_plan_row *rows,
                      uint64_t cap, uint64_t *n, kvrt_error *error)
{
    kvi_engine *e;
    kvi_account *before;
    if (!n || (cap && !rows)) return kvi_error_set(error, KVRT_ARG, "kvrt_plan: n or rows is NULL");
    KVI_TRY(kvi_engine_new(options, &e, &before, error));
    kvrt_status status = plan(e, formats, info, rows, cap, n, error);
    (void)kvi_account_use(before);
    kvi_engine_free(e);
    return status;
}
