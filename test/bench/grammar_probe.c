/* grammar_probe.c - grammars without a model, for scripts: a JSON object per line in, one out. Not a test by itself; test/bench/grammar_*.py and
 * test/golden/make_grammar.py drive it.
 *   in   {"kind": "schema" | "gbnf" | "regex", "text": "...", "texts": ["...", ...], "masks": true}
 *   out  {"error": "..."} or {"compile_us": n, "texts": [{"bytes": taken, "accepts": true, "mask_ns": [...], "refused": false}]}
 * "bytes" is how far the text can be followed. With masks (needs a tokenizer folder as argument) it is taken token by token, and a token that the
 * mask lacks ends it: "refused" then says that the bytes would have gone on, which is a false rejection. */
#define _POSIX_C_SOURCE 200809L
#include "../../runtime/grammar/gbnf.h"
#include "../../runtime/grammar/json_tree.h"
#include "../../runtime/grammar/schema.h"
#include "../../runtime/grammar/token_trie.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); /* of this thread: the machine may be busy */
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static kvi_tokenizer *tokenizer;
static kvi_token_trie *trie;
static uint32_t *mask;

static void print_text(const char *key, const char *text)
{
    kvi_buf out = {0};
    kvi_json_write_string(&out, text, strlen(text));
    printf("\"%s\":%s", key, out.data);
    kvi_buf_free(&out);
}

static void by_bytes(kvi_matcher *m, const char *text, size_t len, size_t *taken)
{
    bool fits = true;
    for (*taken = 0; *taken < len; ++*taken) {
        kvrt_error error = {.size = sizeof error};
        if (kvi_matcher_take(m, text + *taken, 1, &fits, &error) < KVRT_OK)
            print_text("failed", error.message), printf(",");
        if (!fits) return;
    }
}

static void by_tokens(kvi_matcher *m, const char *text, size_t len, size_t *taken, bool *refused)
{
    kvi_ids ids = {0};
    kvrt_error error = {.size = sizeof error};
    *taken = 0;
    *refused = false;
    (void)kvi_tokenizer_encode(tokenizer, text, len, 0, &ids, &error);
    printf("\"mask_ns\":[");
    for (size_t i = 0; i < ids.len; i++) {
        const uint64_t from = now_ns();
        bool any, fits = false;
        const kvrt_status status = kvi_token_mask(trie, m, mask, &any, &error);
        const char *bytes;
        size_t n;
        (void)kvi_token_trie_text(tokenizer, ids.data[i], &bytes, &n);
        const bool in = status >= KVRT_OK && mask[ids.data[i] >> 5] >> (ids.data[i] & 31) & 1;
        if (in) (void)kvi_matcher_take(m, bytes, n, &fits, &error);
        printf("%s%llu", i ? "," : "", (unsigned long long)(now_ns() - from));
        if (!in) {
            (void)kvi_matcher_take(m, bytes, n, refused, &error);
            break;
        }
        *taken += n;
    }
    printf("],");
    kvi_ids_free(&ids);
}

static void answer(const kvi_json_value *in)
{
    const kvi_json_value *kind = kvi_json_get(in, "kind"), *text = kvi_json_get(in, "text"),
                         *texts = kvi_json_get(in, "texts");
    const kvi_json_value *masks = kvi_json_get(in, "masks");
    kvrt_error error = {.size = sizeof error};
    kvi_grammar *g = NULL;
    const kvi_grammar_limits limits = kvi_grammar_default_limits();
    const uint64_t from = now_ns();
    const kvrt_status status =
        kvi_json_is_text(kind, "schema") ? kvi_schema_compile(text->text, text->len, limits, &g, &error)
        : kvi_json_is_text(kind, "gbnf") ? kvi_gbnf_compile(text->text, text->len, limits, &g, &error)
                                         : kvi_regex_grammar(text->text, text->len, limits, &g, &error);
    printf("{");
    if (status < KVRT_OK) {
        print_text("error", error.message);
        printf("}\n");
        return;
    }
    printf("\"compile_us\":%llu,\"texts\":[", (unsigned long long)((now_ns() - from) / 1000));
    for (const kvi_json_value *t = texts ? texts->first : NULL; t; t = t->next) {
        kvi_matcher m;
        size_t taken = 0;
        bool refused = false;
        printf("%s{", t == texts->first ? "" : ",");
        if (kvi_matcher_init(&m, g, &error) < KVRT_OK) print_text("failed", error.message), printf(",");
        else if (masks && masks->type == KVI_JSON_TRUE && trie) by_tokens(&m, t->text, t->len, &taken, &refused);
        else by_bytes(&m, t->text, t->len, &taken);
        printf("\"bytes\":%zu,\"accepts\":%s,\"refused\":%s,\"memory\":%llu}", taken,
               taken == t->len && kvi_matcher_accepts(&m) ? "true" : "false", refused ? "true" : "false",
               (unsigned long long)(kvi_matcher_bytes(&m) + kvi_grammar_bytes(g)));
        kvi_matcher_free(&m);
    }
    printf("]}\n");
    kvi_grammar_free(g);
}

int main(int argc, char **argv)
{
    kvrt_error error = {.size = sizeof error};
    if (argc > 1) {
        const uint64_t from = now_ns();
        if (kvi_tokenizer_load(argv[1], &tokenizer, &error) < KVRT_OK ||
            kvi_token_trie_new(tokenizer, kvi_tokenizer_vocab_size(tokenizer), &trie, &error) < KVRT_OK) {
            fprintf(stderr, "%s\n", error.message);
            return 1;
        }
        mask = calloc(trie->n_words, sizeof *mask);
        fprintf(stderr, "%d tokens, trie %.1f MB, loaded in %.0f ms\n", trie->n_vocab,
                (double)kvi_token_trie_bytes(trie) / 1e6, (double)(now_ns() - from) / 1e6);
    }
    char *line = NULL;
    size_t cap = 0;
    for (long n; (n = (long)getline(&line, &cap, stdin)) > 0;) {
        kvi_arena arena;
        kvi_json_value *in;
        kvi_arena_init(&arena, 1u << 16);
        if (kvi_json_tree(line, (size_t)n, "line", &arena, &in, &error) < KVRT_OK) printf("{\"bad\":1}\n");
        else answer(in);
        fflush(stdout);
        kvi_arena_free(&arena);
    }
    free(line);
    free(mask);
    kvi_token_trie_free(trie);
    kvi_tokenizer_free(tokenizer);
    return 0;
}
