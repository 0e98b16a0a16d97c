/* eval.c - `kvrt eval`: teacher-forced comparison of cache formats with the f16 cache of the same build.
 * In mode decode every token sees exactly the cache it would see in generation: steps of 128 positions aligned to pages, because pages are
 * encoded at multiples of 128 (kv.tail is rounded up to one), so within such a step the set of quantized pages does not change. */
#include "eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { X_TEXT, X_KV, X_MODE, X_JSON, X_RETRIEVAL, X_PLOT, X_LIMIT, X_WINDOWS, X_GENERATE, X_SPECIAL, X_CALLS, X_COUNT };
static const argparse_option extra[X_COUNT] = {
    {"text", 0, 1, 0, "FILE", "text to score"},
    {"kv", 0, 1, 0, "LIST",
     "formats to compare, comma-separated (i8,k4v4,k4v2,k2v2); an option of one of them: k4v4:kv.round=plain"},
    {"mode", 0, 1, 0, "decode|prefill",
     "decode: each token sees the quantized past (default); prefill: steps of --chunk"},
    {"json", 0, 0, 0, NULL, "print JSON"},
    {"retrieval", 0, 1, 0, "FILE", "exact match by distance over JSONL {context, question, answer, distance}"},
    {"plot", 0, 1, 0, "FILE.svg", "draw quality against bits"},
    {"tokens", 0, 1, 0, "N", "most tokens of the text, or of each window of it (all of --ctx)"},
    {"windows", 0, 1, 0, "N", "windows of the text, one behind the other, each begun anew (1)"},
    {"generate", 0, 1, 0, "N", "behind each window, tokens of greedy text until they differ, at most N"},
    {"parse-special", 0, 0, 0, NULL, "text that spells a special token becomes that token"},
    {"calls", 0, 1, 0, "FILE",
     "tool calls, teacher-forced: JSONL {text, call}, a conversation begins with \"start\": true"},
};
const command eval_command = {
    "eval",
    "eval MODEL --text FILE | --retrieval FILE | --calls FILE [--ctx N] [--kv LIST] [--tail N] [--mode decode|prefill]",
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
/* NAME, or NAME:KEY=VALUE with any number of options. */
static int32_t set_format(eval_format *f, const char *kv, kvrt_error *error)
{
    char spec[128];
    snprintf(spec, sizeof spec, "%s", kv);
    char *more = strchr(spec, ':');
    if (more) *more++ = 0;
    int32_t status = kvrt_options_set_text(f->options, "kv.format", spec, error);
    while (more && status >= 0) {
        char *next = strchr(more, ':'), *value = strchr(more, '=');
        if (next) *next++ = 0;
        if (value) *value++ = 0;
        status = kvrt_options_set_text(f->options, more, value ? value : "true", error);
        more = next;
    }
    return status;
}

static int open_format(eval *e, eval_format *f, const char *kv)
{
    kvrt_error error = command_error();
    f->kv = kv;
    int32_t status = kvrt_options_clone(e->line.options, &f->options, &error);
    if (status >= 0) status = set_format(f, kv, &error);
    if (status < 0) return command_fail(status, &error);
    int code = command_open(f->options, &f->engine);
    if (code) return code;
    kvrt_engine_info info = {.size = sizeof info};
    status = kvrt_engine_get_info(f->engine, &info, &error);
    if (status >= 0) status = kvrt_session_create(f->engine, NULL, &f->session, &error);
    if (status < 0) return command_fail(status, &error);
    f->bytes_per_token = info.kv_bytes_per_token;
    e->elements = 2.0 * info.n_layers * info.n_kv_heads * info.head_dim;
    f->bits_per_element = 8 * info.kv_bytes_per_token / e->elements;
    e->vocab = info.vocab_size;
    /* A session that drops what it has no room for reads any text. */
    const char *when_full = "";
    (void)kvrt_options_get_string(f->options, "ctx.full", &when_full, NULL);
    const bool drops =
        strcmp(when_full, "shift") == 0 || strcmp(when_full, "h2o") == 0 || strcmp(when_full, "snapkv") == 0;
    if (f == &e->reference || (!drops && info.ctx_size < e->ctx)) e->ctx = info.ctx_size;
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
uint32_t eval_log_softmax(float *logits, uint32_t n)
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

double eval_divergence(const float *p, const float *q, uint32_t n)
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

static void score_chunk(const eval *e, eval_format *f, uint32_t window, const float *reference, const uint32_t *tops,
                        float *logits, const int32_t *targets, uint32_t n, uint64_t first)
{
    for (uint32_t r = 0; r < n; r++) {
        float *row = logits + (size_t)r * e->vocab;
        uint32_t top = eval_log_softmax(row, e->vocab);
        double kld = eval_divergence(reference + (size_t)r * e->vocab, row, e->vocab), nll = -(double)row[targets[r]];
        bool same = tops[r] == top;
        add(&f->all, nll, kld, same);
        add(&f->buckets[(first + r) * EVAL_BUCKETS / e->n_tokens], nll, kld, same);
        f->window_kld[window] += kld;
        f->window_nll[window] += nll;
        f->klds[window * e->n_tokens + first + r] = (float)kld;
    }
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

/* What scoring a chunk takes: logits of the reference and of a format, (chunk, vocab). */
typedef struct workplace {
    float *reference, *logits;
    uint32_t *rows, *tops;
} workplace;

/* One window of ids (n_tokens + 1) through every cache, each begun anew. */
static int32_t score_window(eval *e, const workplace *w, uint32_t window, const int32_t *ids,
                            command_progress *progress, kvrt_error *error)
{
    int32_t status = KVRT_OK;
    for (unsigned k = 0; k <= e->n_formats && status >= 0; k++)
        status = kvrt_session_rewind(k ? e->formats[k - 1].session : e->reference.session, 0, error);
    for (uint64_t done = 0; done < e->n_tokens && status >= 0;) {
        uint32_t n = e->n_tokens - done < e->chunk ? (uint32_t)(e->n_tokens - done) : e->chunk;
        status = kvrt_session_eval(e->reference.session, ids + done, n, w->rows, n, w->reference, error);
        for (uint32_t r = 0; r < n && status >= 0; r++) {
            float *row = w->reference + (size_t)r * e->vocab;
            w->tops[r] = eval_log_softmax(row, e->vocab);
            add(&e->reference.all, -(double)row[ids[done + r + 1]], 0, true);
        }
        for (unsigned k = 0; k < e->n_formats && status >= 0; k++) {
            kvrt_session_info before = {.size = sizeof before};
            if (kvrt_session_get_info(e->formats[k].session, &before, NULL) >= 0 && before.n_packed_pages)
                e->formats[k].n_after_packing += n;
            status = kvrt_session_eval(e->formats[k].session, ids + done, n, w->rows, n, w->logits, error);
            if (status >= 0)
                score_chunk(e, &e->formats[k], window, w->reference, w->tops, w->logits, ids + done + 1, n, done);
        }
        done += n;
        command_progress_show(progress, "eval", window * e->n_tokens + done, e->n_windows * e->n_tokens, 1, "tokens");
        if (command_interrupted) status = KVRT_CANCELLED;
    }
    for (unsigned k = 0; k <= e->n_formats && status >= 0; k++) {
        eval_format *f = k ? &e->formats[k - 1] : &e->reference;
        kvrt_session_info info = {.size = sizeof info};
        status = kvrt_session_get_info(f->session, &info, error);
        f->allocated_bits += 8.0 * (double)info.kv_bytes / (e->elements * (double)e->n_tokens) / e->n_windows;
    }
    return status;
}

/* Greedy text behind a window, `most` tokens of it; *n: how many there are. */
static int32_t continue_greedily(const eval_format *f, uint64_t most, int32_t *ids, uint64_t *n, kvrt_error *error)
{
    kvrt_session_info info = {.size = sizeof info};
    kvrt_options *options = NULL;
    uint64_t n_all = 0;
    int32_t *all = NULL, status = kvrt_session_get_info(f->session, &info, error);
    if (status >= 0) status = kvrt_options_create(&options, error);
    if (status >= 0) status = kvrt_options_set_f64(options, "sample.temperature", 0, error);
    if (status >= 0) status = kvrt_options_set_i64(options, "gen.max_tokens", (int64_t)most, error);
    if (status >= 0) status = kvrt_options_set_bool(options, "gen.ignore_eos", true, error);
    if (status >= 0) status = kvrt_generate(f->session, options, NULL, NULL, NULL, error);
    if (status >= 0 && !(all = malloc((info.n_tokens + most) * sizeof *all))) status = KVRT_NOMEM_HOST;
    if (status >= 0) status = kvrt_session_tokens(f->session, all, info.n_tokens + most, &n_all, error);
    *n = status >= 0 ? n_all - info.n_tokens : 0;
    if (status >= 0) memcpy(ids, all + info.n_tokens, *n * sizeof *ids);
    kvrt_options_destroy(options);
    free(all);
    return status;
}

static int32_t compare_generations(eval *e, uint32_t window, kvrt_error *error)
{
    int32_t *want = malloc(e->n_generate * sizeof *want), *got = malloc(e->n_generate * sizeof *got);
    uint64_t n_want = 0, n_got = 0;
    int32_t status =
        want && got ? continue_greedily(&e->reference, e->n_generate, want, &n_want, error) : KVRT_NOMEM_HOST;
    for (unsigned k = 0; k < e->n_formats && status >= 0; k++) {
        status = continue_greedily(&e->formats[k], e->n_generate, got, &n_got, error);
        uint32_t same = 0;
        while (same < n_want && same < n_got && want[same] == got[same]) same++;
        e->formats[k].agreed[window] = same;
    }
    free(want);
    free(got);
    return status;
}

static int32_t score(eval *e, const int32_t *ids, kvrt_error *error)
{
    const size_t cells = (size_t)e->chunk * e->vocab;
    const workplace w = {malloc(cells * sizeof(float)), malloc(cells * sizeof(float)),
                         malloc(e->chunk * sizeof(uint32_t)), malloc(e->chunk * sizeof(uint32_t))};
    int32_t status = w.reference && w.logits && w.rows && w.tops ? KVRT_OK : KVRT_NOMEM_HOST;
    command_progress progress = {0};
    for (uint32_t i = 0; status >= 0 && i < e->chunk; i++) w.rows[i] = i;
    for (uint32_t window = 0; window < e->n_windows && status >= 0; window++) {
        status = score_window(e, &w, window, ids + window * e->n_tokens, &progress, error);
        if (status >= 0 && e->n_generate) status = compare_generations(e, window, error);
    }
    command_progress_clear(&progress);
    for (unsigned k = 0; k < e->n_formats && status >= 0; k++) {
        eval_format *f = &e->formats[k];
        const uint64_t n = e->n_windows * e->n_tokens;
        qsort(f->klds, n, sizeof *f->klds, by_value);
        f->kld_p50 = (double)f->klds[n / 2];
        f->kld_p999 = (double)f->klds[n - 1 - n / 1000];
    }
    free(w.reference);
    free(w.logits);
    free(w.rows);
    free(w.tops);
    return status;
}

static int score_text(eval *e, const char *path)
{
    kvrt_error error = command_error();
    size_t len;
    char *text = command_read_file(path, &len);
    if (!text) return EXIT_RUN;
    const uint64_t room = e->ctx > e->n_generate ? e->ctx - e->n_generate : 0,
                   most = e->limit && e->limit < room ? e->limit : room, cap = most * e->n_windows + 1;
    /* A token is at least one byte and rarely more than 16: enough text for the windows, no more. */
    if (len > cap * 16) len = cap * 16;
    uint64_t n = 0;
    const uint32_t flags = KVRT_TOKENIZE_ADD_SPECIAL | (e->line.extra[X_SPECIAL] ? KVRT_TOKENIZE_PARSE_SPECIAL : 0);
    int32_t *ids = malloc((len + 16) * sizeof *ids);
    int32_t status = ids ? kvrt_tokenize(e->reference.engine, text, (int64_t)len, flags, ids, len + 16, &n, &error)
                         : KVRT_NOMEM_HOST;
    e->n_tokens = n > cap ? most : n ? (n - 1) / e->n_windows : 0;
    int code = EXIT_OK;
    if (status >= 0 && e->n_tokens == 0) code = usage_error("the text has fewer than 2 tokens for each window");
    for (unsigned k = 0; k < e->n_formats && code == EXIT_OK; k++)
        if (!(e->formats[k].klds = calloc(e->n_windows * e->n_tokens, sizeof(float)))) status = KVRT_NOMEM_HOST;
    if (code == EXIT_OK && status >= 0) status = score(e, ids, &error);
    free(text);
    free(ids);
    return status < 0 ? command_fail(status, &error) : code;
}

int eval_main(int argc, char **argv)
{
    eval *e = calloc(1, sizeof *e);
    char formats[512];
    if (!e) return EXIT_RUN;
    int code = command_parse(&eval_command, argc, argv, true, &e->line);
    const char **x = e->line.extra;
    if (code < 0 && e->line.n_positional != 1) code = wrong_arguments(&e->line);
    uint64_t n_windows = 1;
    if (code < 0 && !x[X_TEXT] && !x[X_RETRIEVAL] && !x[X_CALLS])
        code = usage_error("need --text FILE or --retrieval FILE or --calls FILE");
    if (code < 0 && x[X_PLOT] && !x[X_TEXT]) code = usage_error("--plot draws the scores of a text: need --text FILE");
    if (code < 0 && x[X_MODE] && strcmp(x[X_MODE], "decode") != 0 && strcmp(x[X_MODE], "prefill") != 0)
        code = wrong_value("--mode", "decode or prefill", x[X_MODE]);
    if (code < 0 && x[X_LIMIT] && !read_limit(x[X_LIMIT], &e->limit))
        code = wrong_value("--tokens", "a number from 1", x[X_LIMIT]);
    if (code < 0 && x[X_WINDOWS] && (!read_limit(x[X_WINDOWS], &n_windows) || n_windows > EVAL_MAX_WINDOWS))
        code = wrong_value("--windows", "a number from 1 to 64", x[X_WINDOWS]);
    if (code < 0 && x[X_GENERATE] && !read_limit(x[X_GENERATE], &e->n_generate))
        code = wrong_value("--generate", "a number from 1", x[X_GENERATE]);
    if (code < 0) {
        e->n_windows = (uint32_t)n_windows;
        e->decode = !x[X_MODE] || strcmp(x[X_MODE], "decode") == 0;
        snprintf(formats, sizeof formats, "%s", x[X_KV] ? x[X_KV] : "i8,k4v4,k4v2,k2v2");
        code = open_all(e, formats);
        if (code == EXIT_OK && x[X_TEXT]) code = score_text(e, x[X_TEXT]);
        if (code == EXIT_OK && x[X_RETRIEVAL]) code = eval_retrieval(e, x[X_RETRIEVAL]);
        if (code == EXIT_OK && x[X_CALLS]) code = eval_tool_calls(e, x[X_CALLS]);
        if (code == EXIT_OK && x[X_JSON]) eval_print_json(e);
        else if (code == EXIT_OK) eval_print_table(e);
        if (code == EXIT_OK && x[X_PLOT] && !eval_plot(e, x[X_PLOT])) code = EXIT_RUN;
        if (!command_write("", 0)) code = EXIT_RUN;
    }
    for (unsigned k = 0; k < e->n_formats; k++) {
        free(e->formats[k].klds);
        if (e->formats[k].engine) (void)kvrt_engine_close(e->formats[k].engine, NULL);
        kvrt_options_destroy(e->formats[k].options);
    }
    if (e->reference.engine) (void)kvrt_engine_close(e->reference.engine, NULL);
    kvrt_options_destroy(e->reference.options);
    command_free(&e->line);
    free(e);
    return code;
}
