/* eval.c - `kvrt eval`: teacher-forced comparison of cache formats with the f16 cache of the same build.
 * In mode decode every token sees exactly the cache it would see in generation: steps of 128 positions aligned to pages, because pages are
 * encoded at multiples of 128 (kv.tail is rounded up to one), so within such a step the set of quantized pages does not change. */
#include "eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { X_TEXT, X_KV, X_MODE, X_JSON, X_RETRIEVAL, X_PLOT, X_LIMIT, X_COUNT };
static const argparse_option extra[X_COUNT] = {
    {"text", 0, 1, 0, "FILE", "text to score"},
    {"kv", 0, 1, 0, "LIST", "formats to compare, comma-separated (i8,k4v4,k4v2,k2v2)"},
    {"mode", 0, 1, 0, "decode|prefill",
     "decode: each token sees the quantized past (default); prefill: steps of --chunk"},
    {"json", 0, 0, 0, NULL, "print JSON"},
    {"retrieval", 0, 1, 0, "FILE", "exact match by distance over JSONL {context, question, answer, distance}"},
    {"plot", 0, 1, 0, "FILE.svg", "draw quality against bits"},
    {"tokens", 0, 1, 0, "N", "most tokens of the text (all of --ctx)"},
};
const command eval_command = {
    "eval",
    "eval MODEL --text FILE | --retrieval FILE [--ctx N] [--kv LIST] [--tail N] [--mode decode|prefill]",
    "Measures what a cache format costs in quality, against f16.",
    extra,
    X_COUNT,
    OPTIONS_OF_A_MODEL};

static int usage_error(const char *message)
{
    fprintf(stderr, "kvrt eval: %s (see kvrt eval --help)\n", message);
    return EXIT_USAGE;
}

static int wrong_value(const char *flag, const char *need, const char *found)
{
    fprintf(stderr, "kvrt eval: %s: need %s, found '%s' (see kvrt eval --help)\n", flag, need, found);
    return EXIT_USAGE;
}

static int wrong_arguments(const command_line *line)
{
    char message[160];
    if (line->n_positional == 0) return usage_error("no model: its folder is the first argument");
    snprintf(message, sizeof message, "need one model folder, found '%.80s' as well; a text is --text FILE",
             line->positional[1]);
    return usage_error(message);
}

static bool read_limit(const char *text, uint64_t *out)
{
    char *end;
    if (*text < '0' || *text > '9') return false;
    *out = strtoull(text, &end, 10);
    return !*end && *out;
}

/* ------------------------------------------------------------------------------------------------------- engines --- */
static int open_format(eval *e, eval_format *f, const char *kv)
{
    kvrt_error error = command_error();
    f->kv = kv;
    int32_t status = kvrt_options_set_text(e->line.options, "kv.format", kv, &error);
    if (status < 0) return command_fail(status, &error);
    int code = command_open(e->line.options, &f->engine);
    if (code) return code;
    kvrt_engine_info info = {.size = sizeof info};
    status = kvrt_engine_get_info(f->engine, &info, &error);
    if (status >= 0) status = kvrt_session_create(f->engine, NULL, &f->session, &error);
    if (status < 0) return command_fail(status, &error);
    f->bytes_per_token = info.kv_bytes_per_token;
    f->bits_per_element = 8 * info.kv_bytes_per_token / (2.0 * info.n_layers * info.n_kv_heads * info.head_dim);
    e->vocab = info.vocab_size;
    e->ctx = info.ctx_size;
    return EXIT_OK;
}

static int open_all(eval *e, char *list)
{
    kvrt_error error = command_error();
    int64_t tail = 128, chunk = 512;
    (void)kvrt_options_get_i64(e->line.options, "kv.tail", &tail, NULL);
    (void)kvrt_options_get_i64(e->line.options, "ctx.chunk", &chunk, NULL);
    if (e->decode) {
        chunk = 128;
        int32_t status = kvrt_options_set_i64(e->line.options, "kv.tail", (tail + 127) / 128 * 128, &error);
        if (status >= 0) status = kvrt_options_set_i64(e->line.options, "ctx.chunk", chunk, &error);
        if (status < 0) return command_fail(status, &error);
    }
    e->chunk = (uint32_t)chunk;
    /* Page 0 stays as it is; page 1 is packed when it is complete and kv.tail newer tokens are there, between two steps. */
    (void)kvrt_options_get_i64(e->line.options, "kv.tail", &tail, NULL);
    e->n_before = (uint64_t)(256 + tail + chunk - 1) / (uint64_t)chunk * (uint64_t)chunk;
    int code = open_format(e, &e->reference, "f16");
    for (char *at = strtok(list, ","); at && code == EXIT_OK; at = strtok(NULL, ",")) {
        if (e->n_formats == EVAL_MAX_FORMATS) return usage_error("at most 16 formats");
        code = open_format(e, &e->formats[e->n_formats++], at);
    }
    return code;
}

/* -------------------------------------------------------------------------------------------------------- scoring --- */
/* Log-probabilities in place; returns the index of the largest. */
static uint32_t log_softmax(float *logits, uint32_t n)
{
    uint32_t top = 0;
    double sum = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[top]) top = i;
    const float high = logits[top];
    for (uint32_t i = 0; i < n; i++) sum += exp((double)(logits[i] - high));
    const float norm = (float)((double)high + log(sum));
    for (uint32_t i = 0; i < n; i++) logits[i] -= norm;
    return top;
}

/* Kullback-Leibler divergence of q from the reference p, both log-probabilities, in nats. */
static double divergence(const float *p, const float *q, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += exp((double)p[i]) * ((double)p[i] - (double)q[i]);
    return sum > 0 ? sum : 0;
}

static void add(eval_bucket *b, double nll, double kld, bool same)
{
    b->n++;
    b->nll += nll;
    b->kld += kld;
    b->same_top += same;
}

static void score_chunk(eval *e, eval_format *f, const float *reference, const uint32_t *tops, float *logits,
                        const int32_t *targets, uint32_t n, uint64_t first)
{
    for (uint32_t r = 0; r < n; r++) {
        float *row = logits + (size_t)r * e->vocab;
        uint32_t top = log_softmax(row, e->vocab);
        double kld = reference ? divergence(reference + (size_t)r * e->vocab, row, e->vocab) : 0;
        double nll = -(double)row[targets[r]];
        bool same = !tops || tops[r] == top;
        add(&f->all, nll, kld, same);
        add(&f->buckets[(first + r) * EVAL_BUCKETS / e->n_tokens], nll, kld, same);
        f->klds[first + r] = (float)kld;
    }
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

static int32_t score(eval *e, const int32_t *ids, kvrt_error *error)
{
    const size_t cells = (size_t)e->chunk * e->vocab;
    float *reference = malloc(cells * sizeof *reference), *logits = malloc(cells * sizeof *logits);
    uint32_t *rows = malloc(e->chunk * sizeof *rows), *tops = malloc(e->chunk * sizeof *tops);
    int32_t status = reference && logits && rows && tops ? KVRT_OK : KVRT_NOMEM_HOST;
    command_progress progress = {0};
    for (uint32_t i = 0; status >= 0 && i < e->chunk; i++) rows[i] = i;
    for (uint64_t done = 0; done < e->n_tokens && status >= 0;) {
        uint32_t n = e->n_tokens - done < e->chunk ? (uint32_t)(e->n_tokens - done) : e->chunk;
        status = kvrt_session_eval(e->reference.session, ids + done, n, rows, n, reference, error);
        for (uint32_t r = 0; r < n && status >= 0; r++) {
            float *row = reference + (size_t)r * e->vocab;
            tops[r] = log_softmax(row, e->vocab);
            add(&e->reference.all, -(double)row[ids[done + r + 1]], 0, true);
        }
        for (unsigned k = 0; k < e->n_formats && status >= 0; k++) {
            kvrt_session_info before = {.size = sizeof before};
            if (kvrt_session_get_info(e->formats[k].session, &before, NULL) >= 0 && before.n_packed_pages)
                e->formats[k].n_after_packing += n;
            status = kvrt_session_eval(e->formats[k].session, ids + done, n, rows, n, logits, error);
            if (status >= 0) score_chunk(e, &e->formats[k], reference, tops, logits, ids + done + 1, n, done);
        }
        done += n;
        command_progress_show(&progress, "eval", done, e->n_tokens, 1, "tokens");
        if (command_interrupted) status = KVRT_CANCELLED;
    }
    command_progress_clear(&progress);
    for (unsigned k = 0; k < e->n_formats && status >= 0; k++) {
        eval_format *f = &e->formats[k];
        qsort(f->klds, e->n_tokens, sizeof *f->klds, by_value);
        f->kld_p50 = (double)f->klds[e->n_tokens / 2];
        f->kld_p999 = (double)f->klds[e->n_tokens - 1 - e->n_tokens / 1000];
    }
    free(reference);
    free(logits);
    free(rows);
    free(tops);
    return status;
}

static int score_text(eval *e, const char *path)
{
    kvrt_error error = command_error();
    size_t len;
    char *text = command_read_file(path, &len);
    if (!text) return EXIT_RUN;
    const uint64_t cap = (uint64_t)e->ctx + 1;
    /* A token is at least one byte and rarely more than 16: enough text for the context, no more. */
    if (len > cap * 16) len = cap * 16;
    uint64_t n = 0;
    int32_t *ids = malloc((len + 16) * sizeof *ids);
    int32_t status = ids ? kvrt_tokenize(e->reference.engine, text, (int64_t)len, KVRT_TOKENIZE_ADD_SPECIAL, ids,
                                         len + 16, &n, &error)
                         : KVRT_NOMEM_HOST;
    e->n_tokens = n > cap ? cap - 1 : n ? n - 1 : 0;
    if (e->limit && e->n_tokens > e->limit) e->n_tokens = e->limit;
    int code = EXIT_OK;
    if (status >= 0 && e->n_tokens == 0) code = usage_error("the text has fewer than 2 tokens");
    for (unsigned k = 0; k < e->n_formats && code == EXIT_OK; k++)
        if (!(e->formats[k].klds = calloc(e->n_tokens, sizeof(float)))) status = KVRT_NOMEM_HOST;
    if (code == EXIT_OK && status >= 0) status = score(e, ids, &error);
    free(text);
    free(ids);
    return status < 0 ? command_fail(status, &error) : code;
}

int eval_main(int argc, char **argv)
{
    eval *e = calloc(1, sizeof *e);
    char formats[256];
    if (!e) return EXIT_RUN;
    int code = command_parse(&eval_command, argc, argv, true, &e->line);
    const char **x = e->line.extra;
    if (code < 0 && e->line.n_positional != 1) code = wrong_arguments(&e->line);
    if (code < 0 && !x[X_TEXT] && !x[X_RETRIEVAL]) code = usage_error("need --text FILE or --retrieval FILE");
    if (code < 0 && x[X_PLOT] && !x[X_TEXT]) code = usage_error("--plot draws the scores of a text: need --text FILE");
    if (code < 0 && x[X_MODE] && strcmp(x[X_MODE], "decode") != 0 && strcmp(x[X_MODE], "prefill") != 0)
        code = wrong_value("--mode", "decode or prefill", x[X_MODE]);
    if (code < 0 && x[X_LIMIT] && !read_limit(x[X_LIMIT], &e->limit))
        code = wrong_value("--tokens", "a number from 1", x[X_LIMIT]);
    if (code < 0) {
        e->decode = !x[X_MODE] || strcmp(x[X_MODE], "decode") == 0;
        snprintf(formats, sizeof formats, "%s", x[X_KV] ? x[X_KV] : "i8,k4v4,k4v2,k2v2");
        code = open_all(e, formats);
        if (code == EXIT_OK && x[X_TEXT]) code = score_text(e, x[X_TEXT]);
        if (code == EXIT_OK && x[X_RETRIEVAL]) code = eval_retrieval(e, x[X_RETRIEVAL]);
        if (code == EXIT_OK && x[X_JSON]) eval_print_json(e);
        else if (code == EXIT_OK) eval_print_table(e);
        if (code == EXIT_OK && x[X_PLOT] && !eval_plot(e, x[X_PLOT])) code = EXIT_RUN;
        if (!command_write("", 0)) code = EXIT_RUN;
    }
    for (unsigned k = 0; k < e->n_formats; k++) {
        free(e->formats[k].klds);
        if (e->formats[k].engine) (void)kvrt_engine_close(e->formats[k].engine, NULL);
    }
    if (e->reference.engine) (void)kvrt_engine_close(e->reference.engine, NULL);
    command_free(&e->line);
    free(e);
    return code;
}
