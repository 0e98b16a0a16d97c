/* tokenize.c - `kvrt tokenize MODEL`: bytes on stdin to one JSON array of ids on one line; --decode reads ids and
 * writes bytes. */
#include "command.h"

#include <stdlib.h>
#include <string.h>

enum { X_SPECIAL, X_PARSE, X_DECODE, X_COUNT };
static const argparse_option extra[X_COUNT] = {
    {"special", 0, 0, 0, NULL, "add what the tokenizer's post-processor adds (BOS, EOS)"},
    {"parse-special", 0, 0, 0, NULL, "text that spells a special token becomes that token"},
    {"decode", 0, 0, 0, NULL, "read a JSON array of ids, write bytes"},
};
const command tokenize_command = {
    "tokenize", "tokenize MODEL [--special] [--decode] < input", "Text to token ids and back.", extra, X_COUNT, "log."};

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

/* Reads integers separated by anything but digits and signs; a stray character other than [ ] , or space is an
 * error. */
static int32_t *read_ids(const char *text, size_t len, uint64_t *n)
{
    int32_t *ids = malloc((len / 2 + 2) * sizeof *ids);
    *n = 0;
    for (size_t i = 0; ids && i < len;) {
        if (strchr("[], \t\r\n", text[i]) && text[i]) {
            i++;
            continue;
        }
        char *end;
        long value = strtol(text + i, &end, 10);
        if (end == text + i || value < INT32_MIN || value > INT32_MAX) {
            fprintf(stderr, "kvrt tokenize: found '%.10s' at byte %zu, need a JSON array of ids\n", text + i, i);
            free(ids);
            return NULL;
        }
        ids[(*n)++] = (int32_t)value;
        i = (size_t)(end - text);
    }
    return ids;
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
    if (code < 0 && line.n_positional != 1) {
        fprintf(stderr, "kvrt tokenize: need one model folder (see kvrt tokenize --help)\n");
        code = EXIT_USAGE;
    }
    if (code < 0) {
        size_t len;
        char *text = command_read_file("-", &len);
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
