/* bench.c - `kvrt bench`: prefill and decode speed by context depth and KV format. The machine's read bandwidth (of a
 * card: its copy bandwidth) is measured in the same run, in rounds that alternate with the rows, because shared machines
 * drift; figures are medians over the rounds. Operations are timed in a pass of their own, since a device that is asked
 * after every operation does not run at its speed. */
#define _POSIX_C_SOURCE 200809L
#include "bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { X_PROMPT, X_GEN, X_DEPTH, X_KV, X_WEIGHTS, X_REPS, X_JSON, X_OPS, X_FILL, X_TOGETHER, X_COUNT };
static const argparse_option extra[X_COUNT] = {
    {"prompt", 'p', 1, 0, "N", "tokens of the prefill measurement (512; 0: none)"},
    {"gen", 'g', 1, 0, "N", "tokens of the decode measurement (64)"},
    {"depth", 'd', 1, 0, "LIST", "context depths, comma-separated (0,4096)"},
    {"kv", 0, 1, 0, "LIST", "KV formats, comma-separated (f16)"},
    {"weights", 0, 1, 0, "LIST", "forms of synthetic weights, comma-separated (bf16); of a model auto, i4, i8"},
    {"reps", 'r', 1, 0, "N", "rounds (5)"},
    {"json", 0, 0, 0, NULL, "print JSON"},
    {"ops", 0, 0, 0, NULL, "times per operation"},
    {"fill", 0, 1, 0, "HOW", "how depths are filled: synthetic"},
    {"together", 0, 1, 0, "N",
     "instead: N sessions behind one prefix that decode at once against one, and one beside N - 1 prompts"},
};
const command bench_command = {"bench",
                               "bench MODEL | --shape NAME [--weights LIST] [--depth 0,4096] [--kv LIST]",
                               "Measures speed as a share of this machine's read bandwidth.",
                               extra,
                               X_COUNT,
                               "model. weights. device. cpu. ctx.chunk ctx.sessions kv. mem. log. debug. draft."};

#define MAX_LIST 16u /* depths, formats */
#define MAX_ROWS 64u
#define MAX_REPS 64u
#define OPS_TOKENS 16u /* of the pass that times operations */
#define MAX_READS (MAX_ROWS * MAX_REPS)

typedef struct bench_row {
    const char *kv, *want_weights; /* NULL: those of the model */
    char weights[16], kernel[48];  /* what there is, and what most of it is multiplied by */
    double bits;                   /* of a weight */
    uint32_t depth;
    double prefill_tps[MAX_REPS], decode_tps[MAX_REPS], gbps[MAX_REPS], share[MAX_REPS], attn_us[MAX_REPS];
    double kv_read_bytes;
    uint64_t kv_bytes;
    bench_ops decode_ops, prefill_ops;
} bench_row;

typedef struct bench_run {
    command_line line;
    uint32_t n_together, n_prompt, n_gen, n_reps, n_rows, depths[MAX_LIST], n_depths;
    char kv_text[256], weights_text[256];
    const char *kvs[MAX_LIST], *weights[MAX_LIST];
    unsigned n_kvs, n_weights;
    bench_row *rows;
    double read_gbps[MAX_READS], read_now; /* every reading; the one beside the row at hand */
    uint32_t n_reads;
    kvrt_bandwidth *probe;
    kvrt_engine_info info;
    char device[200], backend[8];
    uint32_t round;
} bench_run;

static uint64_t now_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Median; the range goes to low and high when asked for. */
static double median(const double *values, uint32_t n, double *low, double *high)
{
    static double sorted[MAX_READS];
    memcpy(sorted, values, n * sizeof *values);
    qsort(sorted, n, sizeof *sorted, by_value);
    if (low) *low = sorted[0];
    if (high) *high = sorted[n - 1];
    return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

/* --------------------------------------------------------------------------------------------------- settings --- */
static bool read_count(const char *text, uint32_t low, uint32_t high, uint32_t *out)
{
    char *end;
    if (!text) return true;
    long value = strtol(text, &end, 10);
    if (end == text || *end || value < (long)low || value > (long)high) return false;
    *out = (uint32_t)value;
    return true;
}

static int usage_error(const char *what, const char *found)
{
    fprintf(stderr, "kvrt bench: %s, found '%s' (see kvrt bench --help)\n", what, found);
    return EXIT_USAGE;
}

static int read_settings(bench_run *b)
{
    const char **x = b->line.extra;
    b->n_prompt = 512, b->n_gen = 64, b->n_reps = 5;
    if (!read_count(x[X_TOGETHER], 2, 16, &b->n_together)) return usage_error("--together: need 2..16", x[X_TOGETHER]);
    if (!read_count(x[X_PROMPT], 0, 1u << 20, &b->n_prompt))
        return usage_error("--prompt: need 0..1048576", x[X_PROMPT]);
    if (!read_count(x[X_GEN], 1, 1u << 20, &b->n_gen)) return usage_error("--gen: need 1..1048576", x[X_GEN]);
    if (!read_count(x[X_REPS], 1, MAX_REPS, &b->n_reps)) return usage_error("--reps: need 1..64", x[X_REPS]);
    if (x[X_FILL] && strcmp(x[X_FILL], "synthetic") != 0) return usage_error("--fill: need synthetic", x[X_FILL]);
    char depths[sizeof b->kv_text];
    const char *depth_list = x[X_DEPTH] ? x[X_DEPTH] : "0,4096", *kv_list = x[X_KV] ? x[X_KV] : "f16";
    if (strlen(depth_list) >= sizeof depths) return usage_error("--depth: need at most 16 depths", depth_list);
    if (strlen(kv_list) >= sizeof b->kv_text) return usage_error("--kv: need at most 16 formats", kv_list);
    strcpy(depths, depth_list);
    for (char *at = strtok(depths, ","); at; at = strtok(NULL, ",")) {
        if (b->n_depths == MAX_LIST) return usage_error("--depth: need at most 16 depths", depth_list);
        if (!read_count(at, 0, 1u << 24, &b->depths[b->n_depths++]))
            return usage_error("--depth: need a list of numbers", at);
    }
    strcpy(b->kv_text, kv_list);
    for (char *at = strtok(b->kv_text, ","); at; at = strtok(NULL, ",")) {
        if (b->n_kvs == MAX_LIST) return usage_error("--kv: need at most 16 formats", kv_list);
        b->kvs[b->n_kvs++] = at;
    }
    if (x[X_WEIGHTS] && strlen(x[X_WEIGHTS]) >= sizeof b->weights_text)
        return usage_error("--weights: need at most 16 forms", x[X_WEIGHTS]);
    if (x[X_WEIGHTS]) strcpy(b->weights_text, x[X_WEIGHTS]);
    for (char *at = strtok(b->weights_text, ","); at; at = strtok(NULL, ",")) {
        if (b->n_weights == MAX_LIST) return usage_error("--weights: need at most 16 forms", x[X_WEIGHTS]);
        b->weights[b->n_weights++] = at;
    }
    if (!b->n_weights) b->weights[b->n_weights++] = NULL;
    b->n_rows = b->n_weights * b->n_kvs * b->n_depths;
    if (b->n_rows == 0 || b->n_rows > MAX_ROWS) return usage_error("need 1..64 rows", x[X_DEPTH] ? x[X_DEPTH] : "");
    b->rows = calloc(b->n_rows, sizeof *b->rows);
    if (!b->rows) return EXIT_RUN;
    for (unsigned i = 0; i < b->n_rows; i++)
        b->rows[i] = (bench_row){.want_weights = b->weights[i / b->n_depths / b->n_kvs],
                                 .kv = b->kvs[i / b->n_depths % b->n_kvs],
                                 .depth = b->depths[i % b->n_depths]};
    uint32_t deepest = 0;
    for (unsigned d = 0; d < b->n_depths; d++) deepest = b->depths[d] > deepest ? b->depths[d] : deepest;
    kvrt_error error = command_error();
    const uint32_t decoded = b->n_gen + OPS_TOKENS;
    uint32_t ctx = deepest + (b->n_prompt > decoded ? b->n_prompt : decoded) + 2;
    int32_t status = kvrt_options_set_i64(b->line.options, "ctx.size", ctx, &error);
    return status < 0 ? command_fail(status, &error) : EXIT_OK;
}

/* ------------------------------------------------------------------------------------------------------- rows --- */
static double attention_us(kvrt_engine engine)
{
    kvrt_op_time time = {.size = sizeof time};
    for (uint32_t i = 0; kvrt_measure_op_at(engine, i, &time, NULL) == KVRT_OK; i++)
        if (strcmp(time.op, "attention") == 0 || strcmp(time.op, "attention_latent") == 0) return (double)time.total_us;
    return 0;
}

static double attention_bytes(kvrt_engine engine)
{
    kvrt_op_time time = {.size = sizeof time};
    for (uint32_t i = 0; kvrt_measure_op_at(engine, i, &time, NULL) == KVRT_OK; i++)
        if (strcmp(time.op, "attention") == 0) return (double)time.bytes;
    return 0;
}

static int32_t steps(const bench_run *b, kvrt_session session, uint32_t n, float *logits, kvrt_error *error)
{
    int32_t status = KVRT_OK;
    for (uint32_t i = 0; i < n && status >= 0; i++) {
        const int32_t id = (int32_t)((i * 7919u + 11u) % b->info.vocab_size);
        status = kvrt_session_eval(session, &id, 1, NULL, 1, logits, error);
    }
    return status;
}

static int32_t decode(bench_run *b, bench_row *row, kvrt_engine engine, kvrt_session session, kvrt_error *error)
{
    float *logits = malloc(b->info.vocab_size * sizeof *logits);
    if (!logits) return KVRT_NOMEM_HOST;
    int32_t status = steps(b, session, 1, logits, error); /* warm-up */
    uint64_t start = now_us();
    if (status >= 0) status = steps(b, session, b->n_gen, logits, error);
    double seconds = (double)(now_us() - start) / 1e6;
    const uint32_t n_timed = b->n_gen < OPS_TOKENS ? b->n_gen : OPS_TOKENS;
    if (status >= 0) status = kvrt_measure_ops(engine, 1, error);
    if (status >= 0) status = steps(b, session, n_timed, logits, error);
    if (status >= 0) {
        row->decode_tps[b->round] = b->n_gen / seconds;
        row->attn_us[b->round] = attention_us(engine) / n_timed;
        row->kv_read_bytes = attention_bytes(engine) / n_timed;
        row->gbps[b->round] = ((double)b->info.weight_read_bytes + row->kv_read_bytes) * b->n_gen / seconds / 1e9;
        row->share[b->round] = b->read_now > 0 ? 100 * row->gbps[b->round] / b->read_now : 0;
        status = bench_take_ops(&row->decode_ops, engine, n_timed, error);
    }
    free(logits);
    return status;
}

/* One evaluation of the prompt, timed as a whole, or by operations. */
static int32_t prefill(bench_run *b, bench_row *row, kvrt_engine engine, kvrt_session session, bool by_op,
                       kvrt_error *error)
{
    if (!b->n_prompt) return KVRT_OK;
    int32_t *ids = malloc(b->n_prompt * sizeof *ids);
    float *logits = malloc(b->info.vocab_size * sizeof *logits);
    if (!ids || !logits) return KVRT_NOMEM_HOST;
    for (uint32_t i = 0; i < b->n_prompt; i++) ids[i] = (int32_t)((i * 2654435761u) % b->info.vocab_size);
    int32_t status = by_op ? kvrt_measure_ops(engine, 1, error) : KVRT_OK;
    uint64_t start = now_us();
    if (status >= 0) status = kvrt_session_eval(session, ids, b->n_prompt, NULL, 1, logits, error);
    if (status >= 0 && by_op) status = bench_take_ops(&row->prefill_ops, engine, b->n_prompt, error);
    else if (status >= 0) row->prefill_tps[b->round] = b->n_prompt * 1e6 / (double)(now_us() - start + 1);
    free(ids);
    free(logits);
    return status;
}

/* One session per measurement, so that each starts at the row's depth. */
typedef enum bench_part { PART_DECODE, PART_PREFILL, PART_PREFILL_OPS } bench_part;
static int32_t with_session(bench_run *b, bench_row *row, kvrt_engine engine, bench_part part, kvrt_error *error)
{
    kvrt_session session;
    int32_t status = kvrt_session_create(engine, NULL, &session, error);
    if (status < 0) return status;
    if (row->depth) status = kvrt_measure_fill(session, row->depth, 1, error);
    kvrt_session_info info = {.size = sizeof info};
    if (status >= 0) status = kvrt_session_get_info(session, &info, error);
    row->kv_bytes = info.kv_bytes;
    if (status >= 0 && part == PART_DECODE) status = decode(b, row, engine, session, error);
    else if (status >= 0) status = prefill(b, row, engine, session, part == PART_PREFILL_OPS, error);
    (void)kvrt_session_close(session, NULL);
    return status;
}

/* What the device at hand can move; 0: cannot be measured here. */
static double bandwidth(const bench_run *b, kvrt_engine engine)
{
    double gbps = 0;
    if (strcmp(b->info.backend, "cuda") != 0) return kvrt_bandwidth_read_gbps(b->probe);
    return kvrt_measure_copy(engine, &gbps, NULL) >= 0 ? gbps : 0;
}

/* What the table says of the weights of a row. */
static void describe_weights(const bench_run *b, bench_row *row)
{
    snprintf(row->weights, sizeof row->weights, "%s", b->info.weight_dtype);
    row->bits = b->info.n_params ? 8.0 * (double)b->info.weight_bytes / (double)b->info.n_params : 0;
    const bench_ops *t = &row->decode_ops;
    for (unsigned i = 0; i < t->n; i++)
        if (strcmp(t->ops[i].op, "norm_gate_up") == 0)
            snprintf(row->kernel, sizeof row->kernel, "%s", t->ops[i].kernel);
}

/* All rounds of one form of weights and KV format, whose rows are `rows`: one engine, opened once. */
static int bench_format(bench_run *b, bench_row *rows)
{
    kvrt_error error = command_error();
    kvrt_engine engine;
    int32_t status = kvrt_options_set_text(b->line.options, "kv.format", rows->kv, &error);
    if (status >= 0 && rows->want_weights)
        status = kvrt_options_set_text(b->line.options, "weights.type", rows->want_weights, &error);
    if (status < 0) return command_fail(status, &error);
    int code = command_open(b->line.options, &engine);
    if (code) return code;
    b->info = (kvrt_engine_info){.size = sizeof b->info};
    status = kvrt_engine_get_info(engine, &b->info, &error);
    snprintf(b->device, sizeof b->device, "%s", b->info.device);
    snprintf(b->backend, sizeof b->backend, "%s", b->info.backend);
    for (b->round = 0; b->round < b->n_reps && status >= 0; b->round++)
        for (unsigned d = 0; d < b->n_depths && status >= 0 && !command_interrupted; d++) {
            bench_row *row = &rows[d];
            if (command_is_terminal(stderr))
                fprintf(stderr, "\r%s depth %u: round %u of %u\033[K", row->kv, row->depth, b->round + 1, b->n_reps);
            b->read_now = b->read_gbps[b->n_reads++] = bandwidth(b, engine);
            status = with_session(b, row, engine, PART_DECODE, &error);
            if (status >= 0) status = with_session(b, row, engine, PART_PREFILL, &error);
            if (status >= 0 && b->line.extra[X_OPS] && b->round + 1 == b->n_reps)
                status = with_session(b, row, engine, PART_PREFILL_OPS, &error);
            describe_weights(b, row);
        }
    if (command_is_terminal(stderr)) fprintf(stderr, "\r\033[K");
    (void)kvrt_engine_close(engine, NULL);
    if (command_interrupted) {
        fprintf(stderr, "kvrt bench: interrupted\n");
        return EXIT_INTERRUPT;
    }
    return status < 0 ? command_fail(status, &error) : EXIT_OK;
}

/* ----------------------------------------------------------------------------------------------------- output --- */
static void print_json(const bench_run *b)
{
    printf("{\"machine\":{\"read_gbps\":%.2f,\"threads\":", median(b->read_gbps, b->n_reads, NULL, NULL));
    const char *threads = strrchr(b->device, ',');
    printf("%d,\"cpu\":", threads ? atoi(threads + 1) : 0);
    command_json_string(stdout, b->device, strlen(b->device));
    printf("},\"rows\":[");
    for (uint32_t i = 0; i < b->n_rows; i++) {
        const bench_row *r = &b->rows[i];
        double low, high, share_low, share_high;
        double decode_tps = median(r->decode_tps, b->n_reps, &low, &high),
               share = median(r->share, b->n_reps, &share_low, &share_high);
        printf("%s{\"kv\":\"%s\",\"weights\":\"%s\",\"bits_per_weight\":%.3f,\"kernel\":\"%s\",\"depth\":%u,\"n_"
               "prompt\":%u,\"n_gen\":%u,\"prefill_tps\":%.2f,"
               "\"decode_tps\":%.3f,\"decode_tps_range\":[%.3f,%.3f],"
               "\"decode_gbps\":%.3f,\"roofline_pct\":%.1f,\"roofline_pct_range\":[%.1f,%.1f],\"attn_us\":%.1f,\"kv_"
               "bytes\":%llu",
               i ? "," : "", r->kv, r->weights, r->bits, r->kernel, r->depth, b->n_prompt, b->n_gen,
               median(r->prefill_tps, b->n_reps, NULL, NULL), decode_tps, low, high,
               median(r->gbps, b->n_reps, NULL, NULL), share, share_low, share_high,
               median(r->attn_us, b->n_reps, NULL, NULL), (unsigned long long)r->kv_bytes);
        if (b->line.extra[X_OPS]) {
            printf(",\"ops\":[");
            bench_print_ops(&r->decode_ops, "token", true);
            printf("],\"prefill_ops\":[");
            bench_print_ops(&r->prefill_ops, "token", true);
            printf("]");
        }
        printf("}");
    }
    printf("]}\n");
}

static void print_table(const bench_run *b)
{
    double low, high, read = median(b->read_gbps, b->n_reads, &low, &high);
    printf("machine: %s; %s bandwidth %.1f GB/s (%.1f..%.1f), %u rounds\n\n", b->device,
           strcmp(b->backend, "cuda") == 0 ? "copy" : "read", read, low, high, b->n_reps);
    printf("%-6s %-11s %5s %8s %12s %22s %9s %16s %11s  %s\n", "kv", "w", "bits", "depth", "prefill t/s",
           "decode t/s (range)", "GB/s", "% bw (range)", "attn us", "kernel");
    for (uint32_t i = 0; i < b->n_rows; i++) {
        const bench_row *r = &b->rows[i];
        double share_low, share_high, tps = median(r->decode_tps, b->n_reps, &low, &high),
                                      share = median(r->share, b->n_reps, &share_low, &share_high);
        printf("%-6s %-11s %5.2f %8u %12.1f %8.2f (%.2f..%.2f) %9.2f %5.0f (%.0f..%.0f) %11.1f  %s\n", r->kv,
               r->weights, r->bits, r->depth, median(r->prefill_tps, b->n_reps, NULL, NULL), tps, low, high,
               median(r->gbps, b->n_reps, NULL, NULL), share, share_low, share_high,
               median(r->attn_us, b->n_reps, NULL, NULL), r->kernel);
        if (!b->line.extra[X_OPS]) continue;
        printf("  decode\n");
        bench_print_ops(&r->decode_ops, "token", false);
        if (r->prefill_ops.n) printf("  prefill\n");
        bench_print_ops(&r->prefill_ops, "token", false);
    }
}

static int bench(bench_run *b)
{
    kvrt_error error = command_error();
    int64_t threads = -1;
    (void)kvrt_options_get_i64(b->line.options, "cpu.threads", &threads, NULL);
    int32_t status = kvrt_bandwidth_open(threads > 0 ? (uint32_t)threads : 0, 512ull << 20, &b->probe, &error);
    int code = status < 0 ? command_fail(status, &error) : EXIT_OK;
    for (unsigned i = 0; i < b->n_rows && code == EXIT_OK; i += b->n_depths) code = bench_format(b, &b->rows[i]);
    if (code == EXIT_OK) {
        if (b->line.extra[X_JSON]) print_json(b);
        else print_table(b);
    }
    kvrt_bandwidth_close(b->probe);
    return code;
}

/* The measurements that have a file of their own: of one cache and one form of weights. */
static int other(const bench_run *b, bool draft)
{
    kvrt_error error = command_error();
    if (b->n_rows > b->n_depths || (b->n_depths != 1 && !draft))
        return usage_error("--together and --draft: need one --depth, --kv and --weights", b->kv_text);
    int32_t status = kvrt_options_set_text(b->line.options, "kv.format", b->kvs[0], &error);
    if (status >= 0 && b->weights[0])
        status = kvrt_options_set_text(b->line.options, "weights.type", b->weights[0], &error);
    if (status < 0) return command_fail(status, &error);
    if (draft) return bench_draft(&b->line, b->n_prompt, b->n_gen, b->n_reps, b->line.extra[X_JSON] != NULL);
    return bench_together(&b->line, b->n_together, b->depths[0], b->n_prompt, b->n_gen, b->n_reps,
                          b->line.extra[X_OPS] != NULL, b->line.extra[X_JSON] != NULL);
}

int bench_main(int argc, char **argv)
{
    bench_run *b = calloc(1, sizeof *b);
    if (!b) return EXIT_RUN;
    int code = command_parse(&bench_command, argc, argv, true, &b->line);
    if (code < 0) code = command_check_model(&bench_command, &b->line);
    if (code < 0 && (code = read_settings(b)) == EXIT_OK) {
        const char *type = "off";
        (void)kvrt_options_get_string(b->line.options, "draft.type", &type, NULL);
        const bool draft = strcmp(type, "off") != 0;
        code = draft || b->n_together ? other(b, draft) : bench(b);
    }
    free(b->rows);
    command_free(&b->line);
    free(b);
    return code;
}
