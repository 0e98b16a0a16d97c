/* plan_report.c - see plan_report.h. The table fits 80 columns. */
#include "plan_report.h"

#include <string.h>

static double mib(uint64_t bytes) { return (double)bytes / 1048576.0; }

int32_t plan_report_make(const kvrt_options *options, plan_report *out, kvrt_error *error)
{
    memset(out, 0, sizeof *out);
    out->info.size = sizeof out->info;
    for (size_t i = 0; i < PLAN_MAX_ROWS; i++) out->rows[i].size = sizeof out->rows[i];
    (void)kvrt_options_get_i64(options, "ctx.size", &out->ctx_request, NULL);
    int64_t limit = 0;
    (void)kvrt_options_get_i64(options, "mem.limit", &limit, NULL);
    int32_t status = kvrt_plan(options, NULL, &out->info, out->rows, PLAN_MAX_ROWS, &out->n, error);
    if (out->n > PLAN_MAX_ROWS) out->n = PLAN_MAX_ROWS;
    out->reserve_counts = out->info.reserve_bytes && (uint64_t)limit != out->info.budget_bytes;
    return status;
}

void plan_report_json(const plan_report *r)
{
    const kvrt_plan_info *info = &r->info;
    printf("{\"architecture\":\"%s\",\"n_params\":%llu,\"weight_bytes\":%llu,\"workspace_bytes\":%llu,"
           "\"device_context_bytes\":%llu,\"budget_bytes\":%llu,\"reserve_bytes\":%llu,\"ctx_model\":%u,\"rows\":[",
           info->architecture, (unsigned long long)info->n_params, (unsigned long long)info->weight_bytes,
           (unsigned long long)info->workspace_bytes, (unsigned long long)info->device_context_bytes,
           (unsigned long long)info->budget_bytes, (unsigned long long)info->reserve_bytes, info->ctx_model);
    for (uint64_t i = 0; i < r->n; i++) {
        const kvrt_plan_row *row = &r->rows[i];
        printf("%s{\"kv\":\"%s\",\"bits_per_element\":%.4f,\"bytes_per_token\":%.1f,\"fixed_kv_bytes\":%llu,"
               "\"max_ctx\":%llu,\"capped_by\":\"%s\",\"ctx\":%llu,\"kv_bytes\":%llu,\"total_bytes\":%llu,"
               "\"fits\":%s,\"max_sessions\":%llu}",
               i ? "," : "", row->kv, row->bits_per_element, row->bytes_per_token,
               (unsigned long long)row->fixed_kv_bytes, (unsigned long long)row->max_ctx, row->capped_by,
               (unsigned long long)row->ctx, (unsigned long long)row->kv_bytes, (unsigned long long)row->total_bytes,
               row->fits ? "true" : "false", (unsigned long long)row->max_sessions);
    }
    printf("]}\n");
}

static void print_params(FILE *to, uint64_t n)
{
    if (n >= 1000000000) fprintf(to, "%.2f G parameters", (double)n / 1e9);
    else fprintf(to, "%.2f M parameters", (double)n / 1e6);
}

static void print_row(const kvrt_plan_row *row, FILE *to)
{
    const char *cap = row->max_ctx ? row->capped_by : "-";
    fprintf(to, "%-7s %6.3f %8.0f %9.1f %8llu %-9s %8.1f %9.1f ", row->kv, row->bits_per_element, row->bytes_per_token,
            mib(row->fixed_kv_bytes), (unsigned long long)row->max_ctx, cap, mib(row->kv_bytes), mib(row->total_bytes));
    if (row->fits) fprintf(to, "%8llu\n", (unsigned long long)row->max_sessions);
    else fprintf(to, "%8s\n", "no fit");
}

void plan_report_table(const plan_report *r, FILE *to)
{
    const kvrt_plan_info *info = &r->info;
    fprintf(to, "model      %s, ", info->architecture);
    print_params(to, info->n_params);
    fprintf(to, ", trained for %u tokens\n", info->ctx_model);
    fprintf(to, "memory     weights %.1f MiB, workspace %.1f MiB, device context %.0f MiB\n", mib(info->weight_bytes),
            mib(info->workspace_bytes), mib(info->device_context_bytes));
    fprintf(to, "budget     %.1f MiB", mib(info->budget_bytes));
    if (r->reserve_counts) fprintf(to, ", %.0f MiB kept free", mib(info->reserve_bytes));
    fputc('\n', to);
    fprintf(to, "KV and total are for %s\n\n",
            r->ctx_request > 0 ? "the context asked for" : "the longest context (128 tokens where none fits)");
    fprintf(to, "%-7s %6s %8s %9s %8s %-9s %8s %9s %8s\n", "KV", "bits", "B/token", "fixed MiB", "max ctx", "capped by",
            "KV MiB", "total MiB", "sessions");
    for (uint64_t i = 0; i < r->n; i++) print_row(&r->rows[i], to);
}

static void see_device(const char *name, const char *text, int32_t usable, void *user)
{
    (void)text;
    if (usable && strcmp(name, "cpu") != 0) *(bool *)user = true;
}

/* A plan is about the CPU, where the weights stay in the file's map, unless there is a memory limit: that stands for a
 * card. So when the open was about a card, what it found there becomes the limit. */
void plan_report_explain(const kvrt_options *options, const kvrt_error *error)
{
    static plan_report report;
    kvrt_options *here = NULL;
    bool has_card = false;
    const char *backend = "";
    if (kvrt_options_clone(options, &here, NULL) < 0) return;
    (void)kvrt_options_get_string(here, "device.backend", &backend, NULL);
    kvrt_measure_devices(see_device, &has_card);
    const bool on_card = strcmp(backend, "cpu") != 0 && (has_card || strcmp(backend, "auto") != 0);
    if (!on_card) (void)kvrt_options_set_text(here, "device.backend", "cpu", NULL);
    if (on_card && error->available_bytes) {
        (void)kvrt_options_set_i64(here, "mem.limit", (int64_t)error->available_bytes, NULL);
        (void)kvrt_options_set_i64(here, "mem.reserve", 0, NULL);
    }
    if (plan_report_make(here, &report, NULL) >= 0) {
        fputc('\n', stderr);
        plan_report_table(&report, stderr);
    }
    kvrt_options_destroy(here);
}
