/* plan_report.c - see plan_report.h. The table fits 80 columns. */
#include "plan_report.h"

#include <string.h>

static double mib(uint64_t bytes) { return (double)bytes / 1048576.0; }

static void keep_one(plan_report *r)
{
    uint64_t i = 0;
    while (i < r->n && strcmp(r->rows[i].kv, r->only) != 0) i++;
    if (i < r->n) r->rows[0] = r->rows[i];
    r->n = i < r->n;
}

int32_t plan_report_make(const kvrt_options *options, const char *only, plan_report *out, kvrt_error *error)
{
    memset(out, 0, sizeof *out);
    out->only = only;
    out->info.size = sizeof out->info;
    for (size_t i = 0; i < PLAN_MAX_ROWS; i++) out->rows[i].size = sizeof out->rows[i];
    (void)kvrt_options_get_i64(options, "ctx.size", &out->ctx_request, NULL);
    int64_t limit = 0;
    (void)kvrt_options_get_i64(options, "mem.limit", &limit, NULL);
    int32_t status = kvrt_plan(options, NULL, &out->info, out->rows, PLAN_MAX_ROWS, &out->n, error);
    if (out->n > PLAN_MAX_ROWS) out->n = PLAN_MAX_ROWS;
    if (only) keep_one(out);
    out->reserve_counts = out->info.reserve_bytes && (uint64_t)limit != out->info.budget_bytes;
    return status;
}

void plan_report_json(const plan_report *r)
{
    const kvrt_plan_info *info = &r->info;
    printf("{\"architecture\":\"%s\",\"backend\":\"%s\",\"n_params\":%llu,\"weight_bytes\":%llu,"
           "\"mapped_bytes\":%llu,\"loading_bytes\":%llu,\"device_context_bytes\":%llu,\"budget_bytes\":%llu,"
           "\"reserve_bytes\":%llu,\"expert_bytes\":%llu,\"state_bytes\":%llu,\"forms\":\"%s\",\"ctx_model\":%u,"
           "\"rows\":[",
           info->architecture, info->backend, (unsigned long long)info->n_params,
           (unsigned long long)info->weight_bytes, (unsigned long long)info->mapped_bytes,
           (unsigned long long)info->loading_bytes, (unsigned long long)info->device_context_bytes,
           (unsigned long long)info->budget_bytes, (unsigned long long)info->reserve_bytes,
           (unsigned long long)info->expert_bytes, (unsigned long long)info->state_bytes, info->forms, info->ctx_model);
    for (uint64_t i = 0; i < r->n; i++) {
        const kvrt_plan_row *row = &r->rows[i];
        printf("%s{\"kv\":\"%s\",\"bits_per_element\":%.4f,\"bytes_per_token\":%.1f,\"fixed_kv_bytes\":%llu,"
               "\"max_ctx\":%llu,\"capped_by\":\"%s\",\"ctx\":%llu,\"kv_bytes\":%llu,\"kv_most_bytes\":%llu,\"weight_"
               "bytes\":%llu,"
               "\"table_bytes\":%llu,\"workspace_bytes\":%llu,\"session_bytes\":%llu,\"context_bytes\":%llu,"
               "\"total_bytes\":%llu,\"host_bytes\":%llu,\"fits\":%s,\"max_sessions\":%llu,\"problem\":",
               i ? "," : "", row->kv, row->bits_per_element, row->bytes_per_token,
               (unsigned long long)row->fixed_kv_bytes, (unsigned long long)row->max_ctx, row->capped_by,
               (unsigned long long)row->ctx, (unsigned long long)row->kv_bytes, (unsigned long long)row->kv_most_bytes,
               (unsigned long long)row->weight_bytes, (unsigned long long)row->table_bytes,
               (unsigned long long)row->workspace_bytes, (unsigned long long)row->session_bytes,
               (unsigned long long)row->context_bytes, (unsigned long long)row->total_bytes,
               (unsigned long long)row->host_bytes, row->fits ? "true" : "false",
               (unsigned long long)row->max_sessions);
        command_json_string(stdout, row->problem, strlen(row->problem));
        printf("}");
    }
    printf("]}\n");
}

static void print_params(FILE *to, uint64_t n)
{
    if (n >= 1000000000) fprintf(to, "%.2f G parameters", (double)n / 1e9);
    else fprintf(to, "%.2f M parameters", (double)n / 1e6);
}

static uint64_t other_bytes(const kvrt_plan_row *row)
{
    return row->workspace_bytes + row->table_bytes + row->session_bytes;
}

static void print_row(const kvrt_plan_row *row, FILE *to)
{
    const char *cap = row->max_ctx ? row->capped_by : "-";
    fprintf(to, "%-7s %6.3f %8.0f %8llu %-9s %8.1f %9.1f %9.1f ", row->kv, row->bits_per_element, row->bytes_per_token,
            (unsigned long long)row->max_ctx, cap, mib(row->kv_bytes), mib(other_bytes(row)), mib(row->total_bytes));
    if (row->fits) fprintf(to, "%8llu\n", (unsigned long long)row->max_sessions);
    else fprintf(to, "%8s\n", "no fit");
}

/* Words in lines of at most 80 columns, from a column on; returns the last one. */
static int print_wrapped(const char *text, int column, FILE *to)
{
    for (const char *at = text; *at;) {
        const int n = (int)strcspn(at, " ");
        if (column + n + 1 > 80) column = fprintf(to, "\n   ") - 1;
        column += fprintf(to, " %.*s", n, at);
        at += n + (at[n] != 0);
    }
    return column;
}

/* Every reason once, behind the formats that it is about. */
static void print_refused(const plan_report *r, FILE *to)
{
    bool any = false;
    for (uint64_t i = 0; i < r->n; i++) {
        bool told = !r->rows[i].problem[0];
        for (uint64_t k = 0; k < i; k++) told = told || strcmp(r->rows[i].problem, r->rows[k].problem) == 0;
        if (told) continue;
        if (!any) fprintf(to, "\nNot on %s:\n", r->info.backend);
        any = true;
        int column = print_wrapped(r->rows[i].kv, 0, to);
        for (uint64_t k = i + 1; k < r->n; k++)
            if (strcmp(r->rows[i].problem, r->rows[k].problem) == 0) column = print_wrapped(r->rows[k].kv, column, to);
        fputc(':', to);
        print_wrapped(r->rows[i].problem, column + 1, to);
        fputc('\n', to);
    }
}

/* Forms of weights, one a line. */
static void print_forms(const char *forms, FILE *to)
{
    for (const char *at = forms; *at;) {
        const int n = (int)strcspn(at, ";");
        fprintf(to, "           %.*s\n", n, at);
        at += n;
        at += strspn(at, "; ");
    }
}

static void print_weights(const plan_report *r, FILE *to)
{
    const kvrt_plan_info *info = &r->info;
    uint64_t taken = 0;
    for (uint64_t i = 0; i < r->n && !taken; i++) taken = r->rows[i].weight_bytes;
    fprintf(to, "memory     weights %.1f MiB", mib(info->weight_bytes));
    if (info->mapped_bytes && info->mapped_bytes < info->weight_bytes)
        fprintf(to, ": %.1f MiB mapped from the file, not in the totals; %.1f MiB taken", mib(info->mapped_bytes),
                mib(taken));
    else if (info->mapped_bytes) fprintf(to, " mapped from the file, not in the totals; %.1f MiB taken", mib(taken));
    else if (strcmp(info->backend, "cpu") == 0) fprintf(to, " in memory; %.1f MiB taken", mib(taken));
    else fprintf(to, " on the card");
    fputc('\n', to);
    if (info->forms[0]) print_forms(info->forms, to);
    if (info->expert_bytes) fprintf(to, "           of them experts %.1f MiB\n", mib(info->expert_bytes));
    if (info->state_bytes)
        fprintf(to, "           states of recurrent layers %.1f MiB a session (live and %u checkpoints), part of KV\n",
                mib(info->state_bytes), info->n_states - 1);
    if (info->device_context_bytes)
        fprintf(to, "           device context %.0f MiB, an assumption (--mem-context sets it)\n",
                mib(info->device_context_bytes));
    else if (strcmp(info->backend, "cpu") != 0)
        fprintf(to, "           the device context is there already and not in the totals\n");
    if (info->loading_bytes > info->budget_bytes)
        fprintf(to, "           loading alone needs %.1f MiB for a moment\n", mib(info->loading_bytes));
}

void plan_report_warn(const plan_report *r, FILE *to)
{
    if (r->ctx_request > (int64_t)r->info.ctx_model)
        fprintf(to, "kvrt warning: context of %lld tokens: the model was trained for %u\n", (long long)r->ctx_request,
                r->info.ctx_model);
}

void plan_report_table(const plan_report *r, FILE *to)
{
    const kvrt_plan_info *info = &r->info;
    const char *memory = strcmp(info->backend, "cpu") == 0 ? "" : " of the card";
    fprintf(to, "model      %s, ", info->architecture);
    print_params(to, info->n_params);
    fprintf(to, ", trained for %u tokens\n", info->ctx_model);
    print_weights(r, to);
    fprintf(to, "budget     %.1f MiB%s", mib(info->budget_bytes), memory);
    if (r->reserve_counts) fprintf(to, ", %.0f MiB kept free", mib(info->reserve_bytes));
    fprintf(to, "\nTotals are for %s.\n",
            r->ctx_request > 0 ? "the context asked for" : "the longest context (128 tokens where none fits)");
    fprintf(to, "total = weights taken%s + KV + other (workspace, tables, token lists)\n\n",
            info->device_context_bytes ? " + context" : "");
    fprintf(to, "%-7s %6s %8s %8s %-9s %8s %9s %9s %8s\n", "KV", "bits", "B/token", "max ctx", "capped by", "KV MiB",
            "other MiB", "total MiB", "sessions");
    for (uint64_t i = 0; i < r->n; i++)
        if (!r->rows[i].problem[0]) print_row(&r->rows[i], to);
    print_refused(r, to);
}

void plan_report_explain(const kvrt_options *options)
{
    static plan_report report;
    if (plan_report_make(options, NULL, &report, NULL) < 0) return;
    fputc('\n', stderr);
    plan_report_table(&report, stderr);
}
