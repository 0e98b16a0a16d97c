/* command_plan.c - `kvrt plan`: what context fits into which memory, per KV format, before anything is allocated. */
#define _POSIX_C_SOURCE 200809L
#include "plan_report.h"

#include <string.h>
#include <strings.h>

enum { X_VRAM, X_CARD, X_JSON, X_PLOT, X_COUNT };
static const argparse_option extra[X_COUNT] = {
    {"vram", 0, 1, 0, "BYTES", "memory of the card, such as 24GiB"},
    {"card", 0, 1, 0, "rtx3060|rtx3090|rtx4060ti|rtx4070|rtx4080|rtx4090|rtx5090", "a well-known card"},
    {"json", 0, 0, 0, NULL, "print JSON"},
    {"plot", 0, 1, 0, "FILE.svg", "draw memory against context"},
};
const command plan_command = {"plan",
                              "plan MODEL | --shape NAME [--card NAME | --vram BYTES] [--ctx N] [--kv FORMAT]",
                              "Shows what fits: weights, cache and the longest context for each KV format.",
                              extra,
                              X_COUNT,
                              OPTIONS_OF_A_MODEL " model. draft."};

/* Memory a program can use on an otherwise idle card, as the driver reports it. */
static const struct {
    const char *name;
    uint64_t mib;
} cards[] = {{"rtx3060", 12288}, {"rtx3090", 24576}, {"rtx4060ti", 16380}, {"rtx4070", 12282},
             {"rtx4080", 16376}, {"rtx4090", 24564}, {"rtx5090", 32607}};

static int usage_error(const char *message, const char *found)
{
    fprintf(stderr, "kvrt plan: %s, found '%s' (see kvrt plan --help)\n", message, found);
    return EXIT_USAGE;
}

static int unknown_card(const char *card)
{
    fprintf(stderr, "kvrt plan: card '%s' is unknown, need --vram BYTES or one of", card);
    for (size_t i = 0; i < sizeof cards / sizeof cards[0]; i++) fprintf(stderr, "%s %s", i ? "," : "", cards[i].name);
    fputc('\n', stderr);
    return EXIT_USAGE;
}

/* "RTX 4090", "4090" and "rtx-4090" are rtx4090. */
static bool is_card(const char *name, const char *typed)
{
    char plain[32];
    size_t n = 0;
    for (; *typed && n + 1 < sizeof plain; typed++)
        if (!strchr(" -_", *typed)) plain[n++] = *typed;
    plain[n] = 0;
    return strcasecmp(plain, name) == 0 || strcasecmp(plain, name + strlen("rtx")) == 0;
}

static int apply_card(command_line *line)
{
    kvrt_error error = command_error();
    const char *vram = line->extra[X_VRAM], *card = line->extra[X_CARD];
    char text[32];
    if (vram && card) return usage_error("need --card or --vram, not both", card);
    for (size_t i = 0; card && i < sizeof cards / sizeof cards[0]; i++)
        if (is_card(cards[i].name, card)) {
            snprintf(text, sizeof text, "%lluMiB", (unsigned long long)cards[i].mib);
            vram = text;
        }
    if (card && !vram) return unknown_card(card);
    if (!vram) return EXIT_OK;
    int64_t bytes = 0, reserve = 0;
    int32_t status = kvrt_options_set_text(line->options, "mem.limit", vram, &error);
    if (status >= 0) status = kvrt_options_get_i64(line->options, "mem.limit", &bytes, &error);
    if (status < 0 || bytes < 1 << 20) return usage_error("--vram: need an amount of memory such as 24GiB", vram);
    /* It is a card, wherever this runs, unless a backend was named. */
    const char *backend = "";
    status = kvrt_options_get_string(line->options, "device.backend", &backend, &error);
    if (status >= 0 && strcmp(backend, "auto") == 0)
        status = kvrt_options_set_text(line->options, "device.backend", "cuda", &error);
    if (status < 0) return command_fail(status, &error);
    /* The reserve counts against a card unless the caller chose one. */
    status = kvrt_options_get_i64(line->options, "mem.reserve", &reserve, &error);
    if (status >= 0) status = kvrt_options_set_i64(line->options, "mem.reserve", reserve, &error);
    return status < 0 ? command_fail(status, &error) : EXIT_OK;
}

/* --kv on the command line chooses one row; a format of the environment or of a file is not what this was asked about. */
static const char *chosen_format(const command_line *line)
{
    const char *kv = NULL;
    if (command_source_of(line, "kv.format") != SOURCE_OPTION) return NULL;
    return kvrt_options_get_string(line->options, "kv.format", &kv, NULL) < 0 ? NULL : kv;
}

static int unknown_format(const command_line *line, const char *kv)
{
    static plan_report all;
    kvrt_error error = command_error();
    const int32_t status = plan_report_make(line->options, NULL, &all, &error);
    if (status < 0) return command_fail(status, &error);
    fprintf(stderr, "kvrt plan: --kv: found '%s', the plan has", kv);
    for (uint64_t i = 0; i < all.n; i++) fprintf(stderr, "%s %s", i ? "," : "", all.rows[i].kv);
    fputc('\n', stderr);
    return EXIT_USAGE;
}

static int plan(command_line *line)
{
    kvrt_error error = command_error();
    static plan_report report;
    uint64_t n_fit = 0, n_refused = 0;
    int32_t status = plan_report_make(line->options, chosen_format(line), &report, &error);
    if (status < 0) return command_fail(status, &error);
    if (report.n == 0) return unknown_format(line, report.only);
    for (uint64_t i = 0; i < report.n; i++)
        n_fit += report.rows[i].fits != 0, n_refused += report.rows[i].problem[0] != 0;
    if (line->extra[X_JSON]) plan_report_json(&report);
    else plan_report_table(&report, stdout);
    plan_report_warn(&report, stderr);
    const char *limit = line->extra[X_CARD] ? line->extra[X_CARD] : line->extra[X_VRAM] ? "card" : "budget";
    if (line->extra[X_PLOT] && !plan_report_plot(line->options, &report, limit, line->extra[X_PLOT])) return EXIT_RUN;
    return n_fit ? EXIT_OK : n_refused == report.n ? EXIT_MODEL : EXIT_FIT;
}

int plan_main(int argc, char **argv)
{
    command_line line;
    int code = command_parse(&plan_command, argc, argv, true, &line);
    if (code < 0 && (code = command_check_model(&plan_command, &line)) < 0 && (code = apply_card(&line)) == EXIT_OK)
        code = plan(&line);
    command_free(&line);
    return code;
}
