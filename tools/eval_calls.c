/* eval_calls.c - recorded conversations in which a model calls tools: does a cache still lead to the same call? Prose hides such damage: one wrong
 * digit of an argument is one token among hundreds. Everything is teacher-forced: a call counts as right when each of its tokens is the likeliest
 * one after the recorded ones before it; divergence is taken over the tokens of calls alone.
 *
 * The file: one JSON object per line, {"text": what precedes the call, "call": the call}; a line with "start": true begins a conversation. Texts may
 * spell special tokens. What does not fit the context is not asked. */
#include "eval.h"

#include <stdlib.h>
#include <string.h>

/* Tokens of one conversation, as long as the context has room for whole calls. */
typedef struct talk {
    int32_t *ids;
    uint64_t n, n_calls;
    struct {
        uint64_t first, end; /* tokens of the call */
    } * calls;
} talk;

/* Adds a text's tokens; *fits = false and nothing is added when they are more than the context holds. */
static int32_t add_text(const eval *e, talk *t, const char *text, uint32_t flags, bool *fits, kvrt_error *error)
{
    uint64_t n = 0;
    const int32_t status = kvrt_tokenize(e->reference.engine, text, -1, flags | KVRT_TOKENIZE_PARSE_SPECIAL,
                                         t->ids + t->n, e->ctx - t->n, &n, error);
    *fits = n <= e->ctx - t->n;
    if (status >= 0 && *fits) t->n += n;
    return status;
}

static int32_t add_call(const eval *e, talk *t, const char *text, const char *call, bool *fits, kvrt_error *error)
{
    const uint64_t before = t->n;
    int32_t status = add_text(e, t, text, before ? 0 : KVRT_TOKENIZE_ADD_SPECIAL, fits, error);
    const uint64_t first = t->n;
    if (status >= 0 && *fits) status = add_text(e, t, call, 0, fits, error);
    if (status < 0 || !*fits || first == 0) {
        t->n = before;
        return status;
    }
    t->calls[t->n_calls].first = first;
    t->calls[t->n_calls++].end = t->n;
    return KVRT_OK;
}

/* The rows of [first, first + n) that predict a token of a call. */
static uint32_t rows_of_calls(const talk *t, uint64_t first, uint32_t n, uint32_t *rows)
{
    uint32_t n_rows = 0;
    for (uint64_t c = 0; c < t->n_calls; c++)
        for (uint64_t at = t->calls[c].first; at < t->calls[c].end; at++)
            if (at - 1 >= first && at - 1 < first + n) rows[n_rows++] = (uint32_t)(at - 1 - first);
    return n_rows;
}

/* Token by token: whether the likeliest one is the recorded one, and the divergence from the reference. */
typedef struct verdict {
    bool *right; /* (n) by position of the token */
    double *kld; /* (n) */
} verdict;

static int32_t ask_chunk(const eval *e, const eval_format *f, const talk *t, uint64_t first, uint32_t n,
                         const uint32_t *rows, uint32_t n_rows, float *logits, const float *reference, verdict *v,
                         kvrt_error *error)
{
    const int32_t status = kvrt_session_eval(f->session, t->ids + first, n, rows, n_rows, logits, error);
    for (uint32_t r = 0; r < n_rows && status >= 0; r++) {
        float *row = logits + (size_t)r * e->vocab;
        const uint64_t at = first + rows[r] + 1;
        v->right[at] = eval_log_softmax(row, e->vocab) == (uint32_t)t->ids[at];
        v->kld[at] = reference ? eval_divergence(reference + (size_t)r * e->vocab, row, e->vocab) : 0;
    }
    return status;
}

static bool whole(const talk *t, uint64_t c, const verdict *v)
{
    bool right = true;
    for (uint64_t at = t->calls[c].first; at < t->calls[c].end; at++) right = right && v->right[at];
    return right;
}

static void count(eval_calls *sum, const talk *t, const verdict *reference, const verdict *v)
{
    for (uint64_t c = 0; c < t->n_calls; c++) {
        const bool right = whole(t, c, v);
        sum->n++;
        sum->right += right;
        sum->both += right && whole(t, c, reference);
        for (uint64_t at = t->calls[c].first; at < t->calls[c].end; at++) sum->kld += v->kld[at], sum->n_tokens++;
    }
}

static int32_t ask(eval *e, const talk *t, kvrt_error *error)
{
    const size_t cells = (size_t)e->chunk * e->vocab;
    float *reference = malloc(cells * sizeof *reference), *logits = malloc(cells * sizeof *logits);
    uint32_t *rows = malloc(e->chunk * sizeof *rows);
    verdict v[EVAL_MAX_FORMATS + 1] = {{0}};
    int32_t status = reference && logits && rows ? KVRT_OK : KVRT_NOMEM_HOST;
    for (unsigned k = 0; k <= e->n_formats && status >= 0; k++) {
        v[k] = (verdict){calloc(t->n, sizeof(bool)), calloc(t->n, sizeof(double))};
        if (!v[k].right || !v[k].kld) status = KVRT_NOMEM_HOST;
        else status = kvrt_session_rewind(k ? e->formats[k - 1].session : e->reference.session, 0, error);
    }
    for (uint64_t done = 0; done < t->n && status >= 0 && !command_interrupted;) {
        const uint32_t n = t->n - done < e->chunk ? (uint32_t)(t->n - done) : e->chunk,
                       n_rows = rows_of_calls(t, done, n, rows);
        for (unsigned k = 0; k <= e->n_formats && status >= 0; k++)
            status = ask_chunk(e, k ? &e->formats[k - 1] : &e->reference, t, done, n, rows, n_rows,
                               k ? logits : reference, k ? reference : NULL, &v[k], error);
        done += n;
    }
    for (unsigned k = 0; k <= e->n_formats && status >= 0 && !command_interrupted; k++)
        count(k ? &e->formats[k - 1].calls : &e->reference.calls, t, &v[0], &v[k]);
    for (unsigned k = 0; k <= e->n_formats; k++) free(v[k].right), free(v[k].kld);
    free(reference);
    free(logits);
    free(rows);
    return status;
}

/* One line of the file; a conversation is asked when the next begins. */
static int32_t take_line(eval *e, talk *t, bool *open, const char *line, kvrt_error *error)
{
    char *text = eval_string(line, "text"), *call = eval_string(line, "call");
    int32_t status = KVRT_OK;
    if (!text || !call) {
        snprintf(error->message, sizeof error->message, "calls: a line lacks text or call: %.60s", line);
        status = KVRT_FORMAT;
    }
    if (status >= 0 && strstr(line, "\"start\": true")) {
        if (t->n_calls) status = ask(e, t, error);
        t->n = t->n_calls = 0;
        *open = true;
    }
    if (status >= 0 && *open) status = add_call(e, t, text, call, open, error);
    free(text);
    free(call);
    return status;
}

int eval_tool_calls(eval *e, const char *path)
{
    kvrt_error error = command_error();
    size_t len;
    char *text = command_read_file(path, &len);
    if (!text) return EXIT_RUN;
    /* A call is a token at least. */
    talk t = {.ids = malloc(e->ctx * sizeof *t.ids), .calls = malloc(e->ctx * sizeof *t.calls)};
    int32_t status = t.ids && t.calls ? KVRT_OK : KVRT_NOMEM_HOST;
    bool open = false;
    command_progress progress = {0};
    for (char *line = text; *line && status >= 0 && !command_interrupted;) {
        char *end = line + strcspn(line, "\n"), *next = *end ? end + 1 : end;
        *end = 0;
        if (*line) status = take_line(e, &t, &open, line, &error);
        line = next;
        command_progress_show(&progress, "calls", (uint64_t)(line - text), len, 1.0 / 1024, "KiB");
    }
    if (status >= 0 && t.n_calls && !command_interrupted) status = ask(e, &t, &error);
    command_progress_clear(&progress);
    free(text);
    free(t.ids);
    free(t.calls);
    if (status < 0) return command_fail(status, &error);
    if (command_interrupted) {
        fprintf(stderr, "kvrt eval: interrupted\n");
        return EXIT_INTERRUPT;
    }
    if (e->reference.calls.n) return EXIT_OK;
    fprintf(
        stderr,
        "kvrt eval: %s: no call was asked for, need lines {\"start\": true, \"text\", \"call\"} that fit %u tokens\n",
        path, e->ctx);
    return EXIT_USAGE;
}
