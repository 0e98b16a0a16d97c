/* dump_bits.c - prints a hash of the logits of a model under one set of options, for comparing two builds of the library.
 * usage: dump_bits MODEL N_PROMPT N_DECODE [KEY VALUE]...
 * Ids are drawn from a fixed generator. One line per prefill row that is looked at and per decoded token would be long, so
 * all logits go into one FNV-1a hash; the first and the last values are printed beside it to make a difference tellable. */
#include <kvrt.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t hash = 1469598103934665603u;

static void add(const float *logits, size_t n)
{
    const unsigned char *bytes = (const unsigned char *)logits;
    for (size_t i = 0; i < n * sizeof *logits; i++) hash = (hash ^ bytes[i]) * 1099511628211u;
}

static void check(kvrt_status status, const kvrt_error *error, const char *what)
{
    if (status >= KVRT_OK) return;
    printf("%s: %s\n", what, error->message);
    exit(1);
}

int main(int argc, char **argv)
{
    if (argc < 4) return fprintf(stderr, "usage: dump_bits MODEL N_PROMPT N_DECODE [KEY VALUE]...\n"), 2;
    const uint32_t n_prompt = (uint32_t)atoi(argv[2]), n_decode = (uint32_t)atoi(argv[3]);
    kvrt_error error = {.size = sizeof error};
    kvrt_options *options = NULL;
    kvrt_engine engine = NULL;
    kvrt_session session = NULL;
    check(kvrt_options_create(&options, &error), &error, "options");
    check(kvrt_options_set_string(options, "model.path", argv[1], -1, &error), &error, "model");
    for (int i = 4; i + 1 < argc; i += 2)
        check(kvrt_options_set_text(options, argv[i], argv[i + 1], &error), &error, argv[i]);
    check(kvrt_engine_open(options, NULL, NULL, &engine, &error), &error, "open");
    check(kvrt_session_create(engine, NULL, &session, &error), &error, "session");
    kvrt_engine_info info = {.size = sizeof info};
    check(kvrt_engine_get_info(engine, &info, &error), &error, "info");

    int32_t *ids = calloc(n_prompt + n_decode, sizeof *ids);
    uint32_t rows[4], n_rows = 0;
    float *logits = calloc((size_t)info.vocab_size * 4, sizeof *logits);
    if (!ids || !logits) return 1;
    uint32_t state = 1;
    for (uint32_t i = 0; i < n_prompt + n_decode; i++) {
        state = state * 1664525u + 1013904223u;
        ids[i] = (int32_t)((state >> 8) % info.vocab_size);
    }
    for (uint32_t i = 0; i < 4 && i < n_prompt; i++) rows[n_rows++] = n_prompt > 4 ? (n_prompt - 1) * i / 3 : i;
    check(kvrt_session_eval(session, ids, n_prompt, rows, n_rows, logits, &error), &error, "prompt");
    add(logits, (size_t)info.vocab_size * n_rows);
    const float first = logits[0];
    for (uint32_t i = 0; i < n_decode; i++) {
        const uint32_t row = 0;
        check(kvrt_session_eval(session, ids + n_prompt + i, 1, &row, 1, logits, &error), &error, "decode");
        add(logits, info.vocab_size);
    }
    printf("%016llx %.9g %.9g\n", (unsigned long long)hash, (double)first, (double)logits[info.vocab_size - 1]);
    return 0; /* the process ends here, and with it everything that is open */
}
