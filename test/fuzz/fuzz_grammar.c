/* fuzz_grammar.c - schemas, GBNF, regular expressions and calls of tools from strangers. The first byte chooses: 's', 'g', 'r', or 'c' with the format in
 * the next byte. What compiles is followed along bytes that fit, back again, and to what is forced: a text that has not failed must have a way on. */
#include "../../runtime/grammar/calls.h"
#include "../../runtime/grammar/gbnf.h"
#include "../../runtime/grammar/matcher.h"
#include "../../runtime/grammar/schema.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void follow(kvi_grammar *g)
{
    kvi_matcher m;
    uint32_t turn = 7;
    char forced[32];
    size_t n;
    bool ends;
    if (kvi_matcher_init(&m, g, NULL) < KVRT_OK) return;
    for (int i = 0; i < 40; i++) {
        bool fits = false;
        turn = turn * 1664525u + 1013904223u;
        for (unsigned k = 0; k < 256 && !fits; k++) {
            const char byte = (char)(k + (turn >> 24));
            if (kvi_matcher_take(&m, &byte, 1, &fits, NULL) < KVRT_OK) goto out; /* a limit */
        }
        if (!fits) {
            if (!kvi_matcher_accepts(&m)) abort(); /* a dead end */
            break;
        }
        if (turn >> 20 & 1 && m.n_tokens > 2 && kvi_matcher_back(&m, 2, NULL) < KVRT_OK) goto out;
        if (kvi_matcher_forced(&m, forced, sizeof forced, &n, &ends, NULL) < KVRT_OK) goto out;
        if (n && (kvi_matcher_take(&m, forced, n, &fits, NULL) < KVRT_OK || !fits)) break;
    }
out:
    kvi_matcher_free(&m);
}

static void ignore(void *user, kvi_call_news news, const char *text, size_t len, uint32_t call)
{
    size_t *sum = user;
    for (size_t i = 0; i < len; i++) *sum += (uint8_t)text[i] + (size_t)news + call;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const kvi_grammar_limits limits = {.max_exprs = 20000, .max_symbols = 20000, .steps = 300000};
    kvi_grammar *g = NULL;
    kvrt_status status = KVRT_ARG;
    if (size < 2 || size > 4096) return 0;
    const char *text = (const char *)data + 1;
    if (*data == 's') status = kvi_schema_compile(text, size - 1, limits, &g, NULL);
    else if (*data == 'g') status = kvi_gbnf_compile(text, size - 1, limits, &g, NULL);
    else if (*data == 'r') status = kvi_regex_grammar(text, size - 1, limits, &g, NULL);
    else if (*data == 'c') {
        size_t sum = 0;
        kvi_calls c = {.format = (kvi_call_format)(data[1] % 6), .fn = ignore, .user = &sum};
        for (size_t at = 2; at < size; at += 1 + data[at] % 7) {
            const size_t n = 1 + data[at] % 7u;
            (void)kvi_calls_push(&c, (const char *)data + at, n < size - at ? n : size - at);
        }
        (void)kvi_calls_finish(&c);
        kvi_calls_free(&c);
    }
    if (status >= KVRT_OK) {
        g->exprs.max_nodes = 40000;
        g->call_steps = limits.steps; /* in the product it is a hundred times that */
        follow(g);
        kvi_grammar_free(g);
    }
    return 0;
}
