/* same_vocabulary.c - see same_vocabulary.h. */
#include "same_vocabulary.h"
#include "command.h"

#include <string.h>

typedef struct token {
    char text[1024];
    uint64_t len;
} token;

/* Bytes of token 0. */
static uint64_t length_of_zero(kvrt_engine engine)
{
    const int32_t zero = 0;
    uint64_t len = 0;
    (void)kvrt_detokenize(engine, &zero, 1, KVRT_DETOKENIZE_KEEP_SPECIAL, NULL, 0, &len, NULL);
    return len;
}

/* The text of token `id` behind token 0, whose bytes are left out, since some tokenizers drop the space that a text begins with. Empty: there is no
 * such token. */
static token text_of(kvrt_engine engine, int32_t id, uint64_t zero)
{
    const int32_t ids[2] = {0, id};
    token t = {.len = 0};
    const uint32_t keep = KVRT_DETOKENIZE_KEEP_SPECIAL;
    if (kvrt_detokenize(engine, ids, 2, keep, t.text, sizeof t.text, &t.len, NULL) != KVRT_OK || t.len < zero)
        return (token){.len = 0};
    t.len -= zero;
    memmove(t.text, t.text + zero, t.len);
    return t;
}

static int compare(kvrt_engine engine, kvrt_engine other, const char *folder)
{
    kvrt_engine_info info = {.size = sizeof info};
    kvrt_error error = command_error();
    int32_t status = kvrt_engine_get_info(engine, &info, &error);
    if (status < KVRT_OK) return command_fail(status, &error);
    const uint64_t zero = length_of_zero(engine), their_zero = length_of_zero(other);
    for (int32_t id = 0; id < (int32_t)info.vocab_size; id++) {
        const token ours = text_of(engine, id, zero), theirs = text_of(other, id, their_zero);
        if (ours.len == theirs.len && memcmp(ours.text, theirs.text, ours.len) == 0) continue;
        /* What converters fill a vocabulary with that is shorter than the embedding; a tokenizer.json has nothing there. */
        if (theirs.len == 0 && ours.len > 4 && memcmp(ours.text, "[PAD", 4) == 0) continue;
        fprintf(stderr, "kvrt quantize: --like %s: token %d is \"%.*s\" there, need \"%.*s\" as in the GGUF file\n",
                folder, id, (int)theirs.len, theirs.text, (int)ours.len, ours.text);
        return EXIT_USAGE;
    }
    return EXIT_OK;
}

int same_vocabulary(kvrt_engine engine, const char *folder)
{
    kvrt_engine other = NULL;
    kvrt_options *options = NULL;
    kvrt_error error = command_error();
    int32_t status = kvrt_options_create(&options, &error);
    if (status >= KVRT_OK) status = kvrt_options_set_text(options, "model.path", folder, &error);
    if (status >= KVRT_OK) status = kvrt_options_set_text(options, "model.load", "tokenizer", &error);
    if (status >= KVRT_OK) status = kvrt_engine_open(options, NULL, NULL, &other, &error);
    const int code = status < KVRT_OK ? command_fail(status, &error) : compare(engine, other, folder);
    if (other) (void)kvrt_engine_close(other, NULL);
    kvrt_options_destroy(options);
    return code;
}
