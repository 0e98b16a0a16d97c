/* command_embed.c - `kvrt embed MODEL`: the text, or each line of stdin, to an embedding: a JSON object on a line. */
#define _POSIX_C_SOURCE 200809L
#include "command.h"
#include "pooling.h"

#include <stdlib.h>
#include <string.h>

enum { X_POOLING, X_PLAIN, X_RAW, X_COUNT };
static const argparse_option extra[X_COUNT] = {
    {"pooling", 0, 1, 0, "HOW",
     "mean of all tokens, last token, tokens (a list of all), or auto: as the folder's 1_Pooling says, else last "
     "[auto]"},
    {"no-normalize", 0, 0, 0, NULL, "hidden states as they are; else they have a length of 1"},
    {"raw", 0, 0, 0, NULL, "do not add the tokenizer's special tokens (BOS, EOS)"},
};
const command embed_command = {"embed",
                               "embed MODEL [TEXT | < lines] [--pooling mean|last|tokens]",
                               "Texts to embeddings: hidden states, pooled.",
                               extra,
                               X_COUNT,
                               OPTIONS_OF_A_MODEL};

typedef struct embedder {
    kvrt_engine engine;
    kvrt_session session;
    uint32_t width;
    int32_t pooling;
    bool normalize;
    uint32_t flags;
} embedder;

static void print_row(const float *row, uint32_t n)
{
    putchar('[');
    for (uint32_t i = 0; i < n; i++) printf("%s%.9g", i ? "," : "", (double)row[i]);
    putchar(']');
}

static void print(const embedder *e, const float *out, uint64_t n)
{
    const bool list = e->pooling == KVRT_POOL_TOKENS;
    printf("{\"n_tokens\":%llu,\"embedding\":", (unsigned long long)n);
    if (list) putchar('[');
    for (uint64_t i = 0; i < (list ? n : 1); i++) {
        if (i) putchar(',');
        print_row(out + i * e->width, e->width);
    }
    printf(list ? "]}\n" : "}\n");
}

static int embed(const embedder *e, const char *text, size_t len)
{
    kvrt_error error = command_error();
    uint64_t n = 0;
    int32_t status = kvrt_tokenize(e->engine, text, (int64_t)len, e->flags, NULL, 0, &n, &error);
    int32_t *ids = malloc((n + 1) * sizeof *ids);
    const uint64_t cap = e->width * (e->pooling == KVRT_POOL_TOKENS ? n : 1);
    float *out = malloc((cap + 1) * sizeof *out);
    const kvrt_embed_params params = {
        .size = sizeof params, .pooling = e->pooling, .normalize = e->normalize, .out = out, .cap = cap};
    if (status >= 0) status = ids && out ? KVRT_OK : KVRT_NOMEM_HOST;
    if (status >= 0) status = kvrt_tokenize(e->engine, text, (int64_t)len, e->flags, ids, n, &n, &error);
    if (status >= 0) status = kvrt_session_sync(e->session, ids, n, NULL, &error);
    if (status >= 0) status = kvrt_embed(e->session, &params, NULL, NULL, NULL, &error);
    if (status >= 0) print(e, out, n);
    free(ids);
    free(out);
    return status < 0 ? command_fail(status, &error) : EXIT_OK;
}

static int embed_lines(const embedder *e, const char *text, size_t len)
{
    int code = EXIT_OK;
    while (len && code == EXIT_OK) {
        const char *end = memchr(text, '\n', len);
        const size_t n = end ? (size_t)(end - text) : len, used = end ? n + 1 : n;
        code = embed(e, text, n && text[n - 1] == '\r' ? n - 1 : n);
        text += used, len -= used;
    }
    return code;
}

static int run(command_line *line, embedder *e)
{
    kvrt_error error = command_error();
    kvrt_engine_info info = {.size = sizeof info};
    const char *given = command_prompt(line, NULL);
    size_t len = given ? strlen(given) : 0;
    char *text = given ? strdup(given) : command_read_file("-", &len);
    int code = text ? command_open(line->options, &e->engine) : EXIT_RUN;
    if (code == EXIT_OK) {
        int32_t status = kvrt_engine_get_info(e->engine, &info, &error);
        e->width = info.hidden_size;
        if (status >= 0) status = kvrt_session_create(e->engine, NULL, &e->session, &error);
        if (status < 0) code = command_fail(status, &error);
        else {
            command_catch_interrupt(e->session);
            code = given ? embed(e, text, len) : embed_lines(e, text, len);
            command_catch_interrupt(NULL);
        }
    }
    if (e->engine) (void)kvrt_engine_close(e->engine, NULL);
    free(text);
    return code;
}

int embed_main(int argc, char **argv)
{
    command_line line;
    embedder e = {0};
    int code = command_parse(&embed_command, argc, argv, true, &line);
    if (code < 0) code = command_check_prompt(&embed_command, &line, NULL);
    if (code < 0) {
        code = pooling_of(line.extra[X_POOLING], line.model[0] ? line.model : line.positional[0], &e.pooling);
        if (code == EXIT_USAGE)
            fprintf(stderr, "kvrt embed: --pooling: need auto, mean, last or tokens, found '%.40s'\n",
                    line.extra[X_POOLING]);
    }
    if (code == EXIT_OK) {
        e.normalize = !line.extra[X_PLAIN];
        e.flags = line.extra[X_RAW] ? 0 : KVRT_TOKENIZE_ADD_SPECIAL;
        code = run(&line, &e);
    }
    command_free(&line);
    return code;
}
