/* command_plan.c - `kvrt plan`: what context fits into which memory, per KV format, before anything is allocated. */
#include "command.h"

#include <stdlib.h>
#include <string.h>

enum { X_VRAM, X_CARD, X_JSON, X_COUNT };
static const argparse_option extra[X_COUNT] = {
    {"vram", 0, 1, 0, "BYTES", "memory of the card, such as 24GiB"},
    {"card", 0, 1, 0, "NAME", "a well-known card: rtx3060, rtx3090, rtx4060ti, rtx4070, rtx4080, rtx4090, rtx5090"},
    {"json", 0, 0, 0, NULL, "print JSON"},
};
const command plan_command = {"plan", "plan MODEL | --shape NAME [--card NAME | --vram BYTES] [--ctx N]",
                              "Shows what fits: weights, cache and the longest context for each KV format.", extra,
                              X_COUNT};

/* Memory a program can use on an otherwise idle card, as the driver reports it. */
static const struct {
    const char *name;
    uint64_t mib;
} cards[] = {{"rtx3060", 12288}, {"rtx3090", 24576}, {"rtx4060ti", 16380}, {"rtx4070", 12282},
             {"rtx4080", 16376}, {"rtx4090", 24564}, {"rtx5090", 32607}};

static int apply_card(command_line *line)
{
    kvrt_error error = command_error();
    const char *vram = line->extra[X_VRAM], *card = line->extra[X_CARD];
    char text[32];
    for (size_t i = 0; card && i < sizeof cards / sizeof cards[0]; i++)
        if (strcmp(cards[i].name, card) == 0) {
            snprintf(text, sizeof text, "%lluMiB", (unsigned long long)cards[i].mib);
            vram = text;
        }
    if (card && vram != text) {
        fprintf(stderr, "kvrt plan: card '%s' is unknown (see kvrt plan --help), or use --vram\n", card);
        return EXIT_USAGE;
    }
    if (!vram) return EXIT_OK;
    int32_t status = kvrt_options_set_text(line->options, "mem.limit", vram, &error);
    /* The reserve counts against a card unless the caller chose one. */
    int64_t reserve = 0;
    if (status >= 0) status = kvrt_options_get_i64(line->options, "mem.reserve", &reserve, &error);
    if (status >= 0) status = kvrt_options_set_i64(line->options, "mem.reserve", reserve, &error);
    return status < 0 ? command_fail(status, &error) : EXIT_OK;
}

static double mib(uint64_t bytes) { return (double)bytes / 1048576.0; }

static void print_json(const kvrt_plan_info *info, const kvrt_plan_row *rows, uint64_t n)
{
    printf("{\"architecture\":\"%s\",\"weight_bytes\":%llu,\"workspace_bytes\":%llu,\"device_context_bytes\":%llu,"
           "\"budget_bytes\":%llu,\"ctx_model\":%u,\"rows\":[",
           info->architecture, (unsigned long long)info->weight_bytes, (unsigned long long)info->workspace_bytes,
           (unsigned long long)info->device_context_bytes, (unsigned long long)info->budget_bytes, info->ctx_model);
    for (uint64_t i = 0; i < n; i++)
        printf("%s{\"kv\":\"%s\",\"bits_per_element\":%.4f,\"bytes_per_token\":%.1f,\"max_ctx\":%llu,\"capped_by\":\"%"
               "s\",\"ctx\":%llu,\"kv_bytes\":%llu,\"total_bytes\":%llu,\"fits\":%s}",
               i ? "," : "", rows[i].kv, rows[i].bits_per_element, rows[i].bytes_per_token,
               (unsigned long long)rows[i].max_ctx, rows[i].capped_by, (unsigned long long)rows[i].ctx,
               (unsigned long long)rows[i].kv_bytes, (unsigned long long)rows[i].total_bytes,
               rows[i].fits ? "true" : "false");
    printf("]}\n");
}

static void print_table(const kvrt_plan_info *info, const kvrt_plan_row *rows, uint64_t n)
{
    printf("model      %s, %.2f G parameters, trained for %u tokens\n", info->architecture,
           (double)info->n_params / 1e9, info->ctx_model);
    printf("weights    %.0f MiB   workspace %.0f MiB   device context %.0f MiB   budget %.0f MiB\n\n",
           mib(info->weight_bytes), mib(info->workspace_bytes), mib(info->device_context_bytes),
           mib(info->budget_bytes));
    printf("%-6s %12s %14s %12s %-13s %12s %12s\n", "KV", "bits/element", "bytes/token", "max context", "capped by",
           "KV MiB", "total MiB");
    for (uint64_t i = 0; i < n; i++)
        printf("%-6s %12.4f %14.0f %12llu %-13s %12.0f %12.0f%s\n", rows[i].kv, rows[i].bits_per_element,
               rows[i].bytes_per_token, (unsigned long long)rows[i].max_ctx, rows[i].capped_by, mib(rows[i].kv_bytes),
               mib(rows[i].total_bytes), rows[i].fits ? "" : "  does not fit");
}

static int plan(command_line *line)
{
    kvrt_error error = command_error();
    kvrt_plan_info info = {.size = sizeof info};
    kvrt_plan_row rows[16];
    for (size_t i = 0; i < 16; i++) rows[i] = (kvrt_plan_row){.size = sizeof rows[i]};
    uint64_t n = 0, n_fit = 0;
    const char *format = NULL;
    (void)kvrt_options_get_string(line->options, "kv.format", &format, NULL);
    int32_t status = kvrt_plan(line->options, NULL, &info, rows, 16, &n, &error);
    if (status < 0) return command_fail(status, &error);
    for (uint64_t i = 0; i < n; i++) n_fit += rows[i].fits != 0;
    if (line->extra[X_JSON]) print_json(&info, rows, n);
    else print_table(&info, rows, n);
    return n_fit ? EXIT_OK : EXIT_FIT;
}

int plan_main(int argc, char **argv)
{
    command_line line;
    int code = command_parse(&plan_command, argc, argv, true, &line);
    if (code < 0 && (code = apply_card(&line)) == EXIT_OK) code = plan(&line);
    command_free(&line);
    return code;
}
