/* tokenize.c - `kvrt tokenize MODEL`: bytes on stdin to one JSON array of ids on one line; --decode reads ids and
 * writes bytes. */
#define _POSIX_C_SOURCE 200809L
#include "command.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { X_SPECIAL, X_PARSE, X_DECODE, X_COUNT };
static const argparse_option extra[X_COUNT] = {
    {"special", 0, 0, 0, NULL, "add what the tokenizer's post-processor adds (BOS, EOS)"},
    {"parse-special", 0, 0, 0, NULL, "text that spells a special token becomes that token"},
    {"decode", 0, 0, 0, NULL, "read ids (a JSON array, or with spaces between), write bytes"},
};
const command tokenize_command = {
    "tokenize", "tokenize MODEL [TEXT | < input] [--special] [--decode]", "Text to token ids and back.", extra, X_COUNT,
    "log."};

static int encode(kvrt_engine engine, const char *text, size_t len, uint32_t flags)
{
    kvrt_error error = command_error();
    uint64_t n = 0;
    int32_t *ids = NULL;
    int32_t status = kvrt_tokenize(engine, text, (int64_t)len, flags, NULL, 0, &n, &error);
    if (status >= 0) {
        ids = malloc((n + 1) * sizeof *ids);
        if (!ids) return EXIT_RUN;
        status = kvrt_tokenize(engine, text, (int64_t)len, flags, ids, n, &n, &error);
    }
    if (status >= 0) {
        putchar('[');
        for (uint64_t i = 0; i < n; i++) printf("%s%d", i ? "," : "", ids[i]);
        printf("]\n");
    }
    free(ids);
    return status < 0 ? command_fail(status, &error) : EXIT_OK;
}

static size_t skip_space(const char *text, size_t len, size_t i)
{
    while (i < len && text[i] && strchr(" \t\r\n", text[i])) i++;
    return i;
}

static int32_t *not_ids(int32_t *ids, const char *text, size_t len, size_t at, const char *need)
{
    if (at < len) fprintf(stderr, "kvrt tokenize: found '%.10s' at byte %zu, need %s\n", text + at, at, need);
    else fprintf(stderr, "kvrt tokenize: the list ends at byte %zu, need %s\n", at, need);
    free(ids);
    return NULL;
}

/* Bytes of the id at `at`, 0 when there is none. */
static size_t take_id(const char *text, size_t len, size_t at, int32_t *id)
{
    char *end;
    if (at >= len || !strchr("-0123456789", text[at]) || !text[at]) return 0;
    errno = 0;
    const long value = strtol(text + at, &end, 10);
    *id = (int32_t)value;
    return errno || value < INT32_MIN || value > INT32_MAX ? 0 : (size_t)(end - text) - at;
}

/* A JSON array of ids, or ids with spaces or commas between them and no brackets at all. */
static int32_t *read_ids(const char *text, size_t len, uint64_t *n)
{
    int32_t *ids = malloc((len / 2 + 2) * sizeof *ids);
    size_t i = skip_space(text, len, 0);
    const bool array = i < len && text[i] == '[';
    bool comma = false;
    *n = 0;
    i = skip_space(text, len, i + array);
    while (ids && (comma || (array ? i >= len || text[i] != ']' : i < len))) {
        const size_t bytes = take_id(text, len, i, &ids[*n]), behind = i + bytes;
        if (!bytes) return not_ids(ids, text, len, i, "an id");
        ++*n;
        i = skip_space(text, len, behind);
        comma = i < len && text[i] == ',';
        if (!comma && array && (i >= len || text[i] != ']')) return not_ids(ids, text, len, i, "',' or ']'");
        if (!comma && !array && i < len && i == behind) return not_ids(ids, text, len, i, "a space or ','");
        i = skip_space(text, len, i + comma);
    }
    i = skip_space(text, len, i + array);
    return ids && i < len ? not_ids(ids, text, len, i, "nothing behind the list") : ids;
}

static int decode(kvrt_engine engine, const char *text, size_t len, uint32_t flags)
{
    kvrt_error error = command_error();
    uint64_t n, n_bytes = 0;
    int32_t *ids = read_ids(text, len, &n);
    if (!ids) return EXIT_RUN;
    int32_t status = kvrt_detokenize(engine, ids, n, flags, NULL, 0, &n_bytes, &error);
    char *bytes = malloc(n_bytes + 1);
    if (status >= 0 && bytes) status = kvrt_detokenize(engine, ids, n, flags, bytes, n_bytes, &n_bytes, &error);
    if (status >= 0 && !bytes) status = KVRT_NOMEM_HOST;
    if (status >= 0) fwrite(bytes, 1, n_bytes, stdout);
    free(ids);
    free(bytes);
    return status < 0 ? command_fail(status, &error) : EXIT_OK;
}

int tokenize_main(int argc, char **argv)
{
    command_line line;
    kvrt_engine engine = NULL;
    int code = command_parse(&tokenize_command, argc, argv, true, &line);
    if (code < 0) code = command_check_prompt(&tokenize_command, &line, NULL);
    if (code < 0) {
        const char *given = command_prompt(&line, NULL);
        size_t len = given ? strlen(given) : 0;
        char *text = given ? strdup(given) : command_read_file("-", &len);
        (void)kvrt_options_set_text(line.options, "model.load", "tokenizer", NULL);
        code = text ? command_open(line.options, &engine) : EXIT_RUN;
        uint32_t flags = (line.extra[X_SPECIAL] ? KVRT_TOKENIZE_ADD_SPECIAL : 0) |
                         (line.extra[X_PARSE] ? KVRT_TOKENIZE_PARSE_SPECIAL : 0);
        if (code == EXIT_OK)
            code = line.extra[X_DECODE]
                       ? decode(engine, text, len, line.extra[X_SPECIAL] ? KVRT_DETOKENIZE_KEEP_SPECIAL : 0)
                       : encode(engine, text, len, flags);
        if (engine) (void)kvrt_engine_close(engine, NULL);
        free(text);
    }
    command_free(&line);
    return code;
}
