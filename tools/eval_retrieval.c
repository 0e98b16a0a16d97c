/* eval_retrieval.c - exact match of greedy answers by distance. The file holds one JSON object per line: {context, question, answer, distance}. */
#include "eval.h"

#include <stdlib.h>
#include <string.h>

/* Appends code point cp as UTF-8. */
static size_t put_utf8(char *out, uint32_t cp)
{
    if (cp < 0x80) return out[0] = (char)cp, 1;
    if (cp < 0x800) return out[0] = (char)(0xc0 | (cp >> 6)), out[1] = (char)(0x80 | (cp & 63)), 2;
    if (cp < 0x10000)
        return out[0] = (char)(0xe0 | (cp >> 12)), out[1] = (char)(0x80 | ((cp >> 6) & 63)),
               out[2] = (char)(0x80 | (cp & 63)), 3;
    out[0] = (char)(0xf0 | (cp >> 18));
    out[1] = (char)(0x80 | ((cp >> 12) & 63));
    out[2] = (char)(0x80 | ((cp >> 6) & 63));
    out[3] = (char)(0x80 | (cp & 63));
    return 4;
}

static const char *after_key(const char *line, const char *key)
{
    char quoted[32];
    snprintf(quoted, sizeof quoted, "\"%s\"", key);
    const char *at = strstr(line, quoted);
    if (!at) return NULL;
    at += strlen(quoted);
    while (*at == ' ' || *at == ':') at++;
    return at;
}

char *eval_string(const char *line, const char *key)
{
    const char *at = after_key(line, key);
    if (!at || *at != '"') return NULL;
    char *out = malloc(strlen(at) + 1);
    size_t n = 0;
    for (at++; out && *at && *at != '"'; at++) {
        if (*at != '\\') {
            out[n++] = *at;
            continue;
        }
        char c = *++at;
        if (!c) break;
        if (c == 'u') {
            char hex[5] = {0};
            strncpy(hex, at + 1, 4);
            uint32_t cp = (uint32_t)strtoul(hex, NULL, 16);
            if (strlen(hex) < 4) break;
            at += 4;
            if (cp >= 0xd800 && cp < 0xdc00 && at[1] == '\\' && at[2] == 'u' && strlen(at + 3) >= 4) {
                strncpy(hex, at + 3, 4);
                cp = 0x10000 + ((cp - 0xd800) << 10) + ((uint32_t)strtoul(hex, NULL, 16) - 0xdc00);
                at += 6;
            }
            n += put_utf8(out + n, cp);
        } else out[n++] = c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c;
    }
    if (out && *at != '"') {
        free(out);
        return NULL;
    }
    if (out) out[n] = 0;
    return out;
}

static int32_t count(eval_format *f, uint64_t distance, bool right, kvrt_error *error)
{
    unsigned d = 0;
    while (d < f->n_distances && f->retrieval[d].distance != distance) d++;
    if (d == EVAL_DISTANCES) {
        snprintf(error->message, sizeof error->message, "retrieval: more than %u different distances, the next is %llu",
                 EVAL_DISTANCES, (unsigned long long)distance);
        return KVRT_ARG;
    }
    if (d == f->n_distances) f->retrieval[f->n_distances++].distance = distance;
    f->retrieval[d].asked++;
    f->retrieval[d].right += right;
    return KVRT_OK;
}

/* Greedy continuation of `prompt`, as many tokens as the answer has; true when the ids are the same. */
static int32_t ask(eval_format *f, const char *prompt, const char *answer, bool *right, kvrt_error *error)
{
    const size_t cap = strlen(prompt) + strlen(answer) + 16;
    int32_t *ids = malloc(cap * sizeof *ids), *want = malloc(cap * sizeof *want);
    uint64_t n = 0, n_want = 0, n_all = 0;
    kvrt_options *options = NULL;
    int32_t status = ids && want ? kvrt_tokenize(f->engine, prompt, -1, KVRT_TOKENIZE_ADD_SPECIAL, ids, cap, &n, error)
                                 : KVRT_NOMEM_HOST;
    if (status >= 0) status = kvrt_tokenize(f->engine, answer, -1, 0, want, cap, &n_want, error);
    if (status >= 0) status = kvrt_options_create(&options, error);
    if (status >= 0) status = kvrt_options_set_f64(options, "sample.temperature", 0, error);
    if (status >= 0) status = kvrt_options_set_i64(options, "gen.max_tokens", (int64_t)n_want, error);
    if (status >= 0) status = kvrt_session_rewind(f->session, 0, error);
    if (status >= 0) status = kvrt_session_sync(f->session, ids, n, NULL, error);
    if (status >= 0) status = kvrt_generate(f->session, options, NULL, NULL, NULL, error);
    if (status >= 0) {
        int32_t *all = malloc((n + n_want + 1) * sizeof *all);
        status = all ? kvrt_session_tokens(f->session, all, n + n_want, &n_all, error) : KVRT_NOMEM_HOST;
        *right = status >= 0 && n_all == n + n_want && memcmp(all + n, want, n_want * sizeof *want) == 0;
        free(all);
    }
    kvrt_options_destroy(options);
    free(ids);
    free(want);
    return status;
}

static int32_t one_item(eval *e, const char *line, kvrt_error *error)
{
    char *context = eval_string(line, "context"), *question = eval_string(line, "question"),
         *answer = eval_string(line, "answer");
    const char *distance = after_key(line, "distance");
    int32_t status = KVRT_OK;
    if (!context || !question || !answer || !distance) {
        snprintf(error->message, sizeof error->message,
                 "retrieval: a line lacks context, question, answer or distance: %.60s", line);
        status = KVRT_FORMAT;
    }
    char *prompt = status >= 0 ? malloc(strlen(context) + strlen(question) + 1) : NULL;
    if (prompt) {
        strcpy(prompt, context);
        strcat(prompt, question);
        for (unsigned k = 0; k <= e->n_formats && status >= 0; k++) {
            eval_format *f = k ? &e->formats[k - 1] : &e->reference;
            bool right = false;
            status = ask(f, prompt, answer, &right, error);
            if (status == KVRT_CTX_FULL) {
                status = KVRT_OK; /* longer than the context: not asked */
                break;
            }
            if (status >= 0) status = count(f, strtoull(distance, NULL, 10), right, error);
        }
    }
    free(prompt);
    free(context);
    free(question);
    free(answer);
    return status;
}

int eval_retrieval(eval *e, const char *path)
{
    kvrt_error error = command_error();
    size_t len;
    char *text = command_read_file(path, &len);
    if (!text) return EXIT_RUN;
    int32_t status = KVRT_OK;
    uint64_t number = 1, n_items = 0;
    command_progress progress = {0};
    for (char *line = text; *line && status >= 0 && !command_interrupted; number++) {
        char *end = line + strcspn(line, "\n"), *next = *end ? end + 1 : end;
        *end = 0;
        line += strspn(line, " \t\r");
        if (*line && *line != '{') {
            fprintf(stderr,
                    "kvrt eval: %s:%llu: found '%.40s', need a JSON object {context, question, answer, distance}\n",
                    path, (unsigned long long)number, line);
            free(text);
            return EXIT_USAGE;
        }
        if (*line) status = one_item(e, line, &error), n_items++;
        line = next;
        command_progress_show(&progress, "retrieval", (uint64_t)(line - text), len, 1.0 / 1024, "KiB");
    }
    command_progress_clear(&progress);
    free(text);
    if (status < 0) return command_fail(status, &error);
    if (!e->reference.n_distances && !command_interrupted) {
        if (n_items)
            fprintf(stderr,
                    "kvrt eval: %s: nothing was asked: all %llu questions are longer than the context of %u tokens\n",
                    path, (unsigned long long)n_items, e->ctx);
        else fprintf(stderr, "kvrt eval: %s: is empty, need lines {context, question, answer, distance}\n", path);
        return n_items ? EXIT_CONTEXT : EXIT_USAGE;
    }
    if (!command_interrupted) return EXIT_OK;
    fprintf(stderr, "kvrt eval: interrupted\n");
    return EXIT_INTERRUPT;
}
