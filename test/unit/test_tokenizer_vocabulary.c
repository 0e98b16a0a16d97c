/* test_tokenizer_vocabulary.c - tokenizers from bare vocabularies, as GGUF files carry them. A tokenizer.json is taken apart into tokens,
 * types, scores and merges, and must give the ids of the reference library for that file; a small model of SentencePiece must give
 * SentencePiece's. What is wrong is refused by name. */
#include "tokenizer_cases.h"
#include "gguf_writer.h"

#include <stdlib.h>

#define GOLDEN KVRT_TEST_DIR "/golden/tokenizers/"
#define DATA KVRT_SHARED_DIR "/data/tokenizers/"
enum { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE };

/* What a GGUF file would hold. */
typedef struct pieces {
    kvi_buf tokens, types, scores, merges;
    uint64_t n, n_merges;
} pieces;

static void put_word(kvi_buf *list, uint64_t i, uint32_t word)
{
    while (list->len < 4 * (i + 1)) gguf_uint(list, 0, 4);
    memcpy(list->data + 4 * i, &word, 4);
}

static void put_score(pieces *p, uint64_t id, float score)
{
    uint32_t word;
    memcpy(&word, &score, sizeof word);
    put_word(&p->scores, id, word);
}

static void put_text(kvi_buf *list, const kvi_buf *text)
{
    gguf_uint(list, text->len, 8);
    if (text->len) kvi_buf_append(list, text->data, text->len);
}

static void free_pieces(pieces *p)
{
    kvi_buf_free(&p->tokens);
    kvi_buf_free(&p->types);
    kvi_buf_free(&p->scores);
    kvi_buf_free(&p->merges);
}

static kvi_vocabulary vocabulary_of(const pieces *p, const char *model, const char *pre)
{
    return (kvi_vocabulary){.model = model,
                            .pre = pre,
                            .tokens = {(const uint8_t *)p->tokens.data, p->n},
                            .types = (const uint8_t *)p->types.data,
                            .scores = (const uint8_t *)p->scores.data,
                            .merges = {(const uint8_t *)p->merges.data, p->n_merges},
                            .bos_id = -1,
                            .eos_id = -1,
                            .unk_id = -1,
                            .add_bos = -1,
                            .add_eos = -1,
                            .space_prefix = -1};
}

static kvi_tokenizer *build(const kvi_vocabulary *v)
{
    kvi_tokenizer *tok;
    kvrt_error error = {.size = sizeof error};
    if (kvi_tokenizer_from_vocabulary(v, "m.gguf", &tok, &error) < KVRT_OK) fail_msg("%s", error.message);
    return tok;
}

/* ---------------------------------------------------------------------------------------- from tokenizer.json --- */
#define MAX_TOKENS 200000u
typedef struct taken {
    kvi_buf texts[MAX_TOKENS];
    uint32_t types[MAX_TOKENS];
    uint64_t n;
} taken;

static void take(taken *t, int64_t id, const kvi_json *text, uint32_t type)
{
    assert_true(id >= 0 && id < (int64_t)MAX_TOKENS);
    kvi_buf_clear(&t->texts[id]);
    kvi_json_str_copy(text, &t->texts[id]);
    t->types[id] = type;
    if ((uint64_t)id >= t->n) t->n = (uint64_t)id + 1;
}

static void take_vocab(taken *t, kvi_json *r)
{
    kvi_json_expect(r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(r)) {
        const kvi_json key = *r;
        const int64_t id = kvi_json_i64(r);
        const bool byte = key.str_len == 6 && memcmp(key.str, "<0x", 3) == 0;
        take(t, id, &key, byte ? BYTE : NORMAL);
    }
}

/* Merges are "a b" or ["a", "b"]. */
static void take_merges(pieces *p, kvi_json *r)
{
    kvi_json_expect(r, KVI_JSON_ARRAY);
    for (; kvi_json_next_item(r); p->n_merges++) {
        kvi_buf text = {0};
        if (kvi_json_peek(r) == KVI_JSON_STRING) {
            kvi_json_string(r);
            kvi_json_str_copy(r, &text);
        } else {
            kvi_json_expect(r, KVI_JSON_ARRAY);
            while (kvi_json_next_item(r) && kvi_json_string(r)) {
                if (text.len) kvi_buf_append_byte(&text, ' ');
                kvi_json_str_copy(r, &text);
            }
        }
        put_text(&p->merges, &text);
        kvi_buf_free(&text);
    }
}

static void take_added(taken *t, kvi_json *r)
{
    kvi_json_expect(r, KVI_JSON_ARRAY);
    while (kvi_json_next_item(r)) {
        kvi_json content = {0};
        int64_t id = -1;
        bool special = false;
        kvi_json_expect(r, KVI_JSON_OBJECT);
        while (kvi_json_next_key(r)) {
            if (kvi_json_key_is(r, "id")) id = kvi_json_i64(r);
            else if (kvi_json_key_is(r, "special")) special = kvi_json_bool(r);
            else if (kvi_json_key_is(r, "content") && kvi_json_string(r)) content = *r;
            else kvi_json_skip(r);
        }
        take(t, id, &content, special ? CONTROL : USER_DEFINED);
    }
}

/* In the vocabularies of SentencePiece ids follow the order of merging, but Llama's runs of spaces come last, all with one score (Gemma's do
 * not). */
static bool is_run_of_marks(const kvi_buf *text)
{
    size_t i = 0;
    while (i + 3 <= text->len && memcmp(text->data + i, "\xe2\x96\x81", 3) == 0) i += 3;
    return i == text->len && i > 3;
}

static pieces pieces_of(const char *path, bool runs_last)
{
    pieces p = {0};
    kvi_map map;
    kvi_json r;
    taken *t = calloc(1, sizeof *t);
    case_map(path, &map, &r);
    kvi_json added = r;
    kvi_json_expect(&r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(&r)) {
        if (!kvi_json_key_is(&r, "model")) {
            kvi_json_skip(&r);
            continue;
        }
        kvi_json_expect(&r, KVI_JSON_OBJECT);
        while (kvi_json_next_key(&r))
            if (kvi_json_key_is(&r, "vocab")) take_vocab(t, &r);
            else if (kvi_json_key_is(&r, "merges")) take_merges(&p, &r);
            else kvi_json_skip(&r);
    }
    assert_null(r.error);
    if (case_find(&added, "added_tokens")) take_added(t, &added);
    p.n = t->n;
    for (uint64_t id = 0; id < t->n; id++) {
        put_text(&p.tokens, &t->texts[id]);
        put_word(&p.types, id, t->types[id] ? t->types[id] : UNUSED);
        put_score(&p, id, runs_last && is_run_of_marks(&t->texts[id]) ? -1e9f : -(float)id);
        kvi_buf_free(&t->texts[id]);
    }
    free(t);
    kvi_os_unmap(&map);
    return p;
}

static void run(const char *tokenizer, const char *cases, const char *model, const char *pre, int64_t bos_id,
                int add_bos, int space_prefix, const case_rules *rules)
{
    if (kvi_os_path_kind(tokenizer) != KVI_OS_FILE) {
        printf("skipped: no %s\n", tokenizer);
        skip();
    }
    pieces p = pieces_of(tokenizer, space_prefix != 0);
    kvi_vocabulary v = vocabulary_of(&p, model, pre);
    v.bos_id = bos_id;
    v.add_bos = add_bos;
    v.space_prefix = space_prefix;
    uint64_t start = kvi_os_now_us(), blocks;
    kvi_tokenizer *tok = build(&v);
    printf("%s, built in %llu us\n", kvi_tokenizer_describe(tok), (unsigned long long)(kvi_os_now_us() - start));
    case_run_file(tok, cases, rules);
    kvi_tokenizer_free(tok);
    free_pieces(&p);
    kvi_mem_stats(NULL, &blocks, NULL);
    assert_int_equal(blocks, 0);
}

/* GGUF files do not tell which tokens take spaces with them or stand alone. */
static const char *const odd_tokens[] = {"<|end|>", "<mask>", "word", NULL};

static void byte_level_llama3(void **state)
{
    run(GOLDEN "byte_level_llama3.json", GOLDEN "byte_level_llama3.cases.json", "gpt2", "llama-bpe", 500, -1, -1,
        &(case_rules){.without = odd_tokens});
}
static void byte_level_qwen2(void **state)
{
    run(GOLDEN "byte_level_qwen2.json", GOLDEN "byte_level_qwen2.cases.json", "gpt2", "qwen2", 460, 1, -1,
        &(case_rules){.without = odd_tokens});
}
/* The names that GGUF files have for what the tokenizer.json of the family spells out. */
static void byte_level_qwen35(void **state)
{
    run(GOLDEN "byte_level_qwen35.json", GOLDEN "byte_level_qwen35.cases.json", "gpt2", "qwen35", 460, 1, -1,
        &(case_rules){.without = odd_tokens});
}
static void byte_level_o200k(void **state)
{
    run(GOLDEN "byte_level_o200k.json", GOLDEN "byte_level_o200k.cases.json", "gpt2", "gpt-4o", 480, 1, -1,
        &(case_rules){.without = odd_tokens});
}
static void byte_level_tekken(void **state)
{
    run(GOLDEN "byte_level_tekken.json", GOLDEN "byte_level_tekken.cases.json", "gpt2", "tekken", 480, -1, -1,
        &(case_rules){.without = odd_tokens});
}
static void byte_level_deepseek3(void **state)
{
    run(GOLDEN "byte_level_deepseek3.json", GOLDEN "byte_level_deepseek3.cases.json", "gpt2", "deepseek-v3", 460, 1, -1,
        &(case_rules){.without = odd_tokens});
}
static void byte_level_deepseek_llm(void **state)
{
    run(GOLDEN "byte_level_deepseek_llm.json", GOLDEN "byte_level_deepseek_llm.cases.json", "gpt2", "deepseek-llm", 460,
        1, -1, &(case_rules){.without = odd_tokens});
}
static void byte_level_deepseek_coder(void **state)
{
    run(GOLDEN "byte_level_deepseek_coder.json", GOLDEN "byte_level_deepseek_coder.cases.json", "gpt2",
        "deepseek-coder", 460, 1, -1, &(case_rules){.without = odd_tokens});
}
/* Gemma 2 and 3 (scores) and Gemma 4 (merges). */
static void gemma_by_scores(void **state)
{
    run(GOLDEN "gemma_bpe.json", GOLDEN "gemma_bpe.cases.json", "llama", "default", 2, -1, 0,
        &(case_rules){.without = odd_tokens});
}
static void gemma_by_merges(void **state)
{
    run(GOLDEN "gemma_bpe.json", GOLDEN "gemma_bpe.cases.json", "gemma4", NULL, 2, -1, 0,
        &(case_rules){.without = odd_tokens});
}
static void real_llama3(void **state)
{
    run(DATA "llama3/tokenizer.json", DATA "encodings/llama3.json", "gpt2", "llama-bpe", 128000, -1, -1,
        &(case_rules){.tidy = true});
}
static void real_qwen2_5(void **state)
{
    run(DATA "qwen2.5/tokenizer.json", DATA "encodings/qwen2.5.json", "gpt2", "qwen2", -1, -1, -1,
        &(case_rules){.tidy = true});
}
static void real_gpt2(void **state)
{
    run(DATA "gpt2/tokenizer.json", DATA "encodings/gpt2.json", "gpt2", "gpt-2", -1, -1, -1,
        &(case_rules){.tidy = true});
}
static void real_phi_3(void **state)
{
    static const char *const takes_spaces[] = {"<|", "</s>", NULL};
    run(DATA "phi-3/tokenizer.json", DATA "encodings/phi-3.json", "llama", NULL, -1, 0, -1,
        &(case_rules){.tidy = true, .without = takes_spaces});
}
static void real_mistral_v3(void **state)
{
    run(DATA "mistral-v3/tokenizer.json", DATA "encodings/mistral-v3.json", "llama", NULL, 1, -1, -1,
        &(case_rules){.tidy = true});
}

/* ---------------------------------------------------------------------------------------------- SentencePiece --- */
static pieces scored_pieces(void)
{
    pieces p = {0};
    kvi_map map;
    kvi_json r;
    case_map(GOLDEN "scored_bpe.json", &map, &r);
    assert_true(case_find(&r, "pieces"));
    kvi_json_expect(&r, KVI_JSON_ARRAY);
    for (; kvi_json_next_item(&r); p.n++) {
        kvi_buf text = {0};
        kvi_json_expect(&r, KVI_JSON_ARRAY);
        assert_true(kvi_json_next_item(&r));
        kvi_json_string(&r);
        kvi_json_str_copy(&r, &text);
        put_text(&p.tokens, &text);
        kvi_buf_free(&text);
        assert_true(kvi_json_next_item(&r));
        put_score(&p, p.n, (float)kvi_json_f64(&r));
        assert_true(kvi_json_next_item(&r));
        put_word(&p.types, p.n, (uint32_t)kvi_json_i64(&r));
        assert_false(kvi_json_next_item(&r));
    }
    assert_null(r.error);
    kvi_os_unmap(&map);
    return p;
}

static void scored_as_sentencepiece(void **state)
{
    pieces p = scored_pieces();
    const kvi_vocabulary v = vocabulary_of(&p, "llama", NULL);
    kvi_tokenizer *tok = build(&v); /* BOS is 1 and put before a text, as files that say nothing mean it */
    case_run_file(tok, GOLDEN "scored_bpe.json", &(case_rules){0});
    kvi_tokenizer_free(tok);
    free_pieces(&p);
}

/* ---------------------------------------------------------------------------------------------------- refusals --- */
static void wrong_vocabularies_are_refused(void **state)
{
    pieces p = scored_pieces();
    const kvi_vocabulary right = vocabulary_of(&p, "llama", NULL);
    enum { MODEL, PRE, NO_MERGES, NO_SCORES, NO_TOKENS, BOS, MERGE_FORM, MERGE_TOKEN, N };
    static const struct {
        kvrt_status status;
        const char *named;
    } expected[N] = {
        [MODEL] = {KVRT_UNSUPPORTED, "tokenizer.ggml.model: is 'bert', need gpt2, llama or gemma4"},
        [PRE] = {KVRT_UNSUPPORTED, "tokenizer.ggml.pre: is 'gpt', need one of"},
        [NO_MERGES] = {KVRT_FORMAT, "tokenizer.ggml.merges: not found"},
        [NO_SCORES] = {KVRT_FORMAT, "tokenizer.ggml.scores: not found"},
        [NO_TOKENS] = {KVRT_FORMAT, "tokenizer.ggml.tokens: 0 tokens"},
        [BOS] = {KVRT_FORMAT, "tokenizer.ggml.bos_token_id: is 700, need less than 700"},
        [MERGE_FORM] = {KVRT_FORMAT, "merge 0: need \"left right\""},
        [MERGE_TOKEN] = {KVRT_FORMAT, "merge 0 names a token"},
    };
    for (int i = 0; i < N; i++) {
        kvi_vocabulary v = right;
        kvi_buf merges = {0};
        kvi_tokenizer *tok;
        kvrt_error error = {.size = sizeof error};
        gguf_text(&merges, i == MERGE_FORM ? "ab" : "a nothing");
        v.merges = (kvi_texts){i == NO_MERGES ? NULL : (const uint8_t *)merges.data, 1};
        if (i == MODEL) v.model = "bert";
        else if (i == NO_SCORES) v.scores = NULL;
        else if (i == NO_TOKENS) v.tokens.n = 0;
        else if (i == BOS) v.bos_id = 700;
        else v.model = "gpt2";
        v.pre = i == PRE ? "gpt" : "gpt-2";
        const kvrt_status status = kvi_tokenizer_from_vocabulary(&v, "m.gguf", &tok, &error);
        if (status != expected[i].status || tok || strncmp(error.message, "m.gguf: ", 8) != 0 ||
            !strstr(error.message, expected[i].named))
            fail_msg("case %d: status %d, '%s'", i, (int)status, error.message);
        kvi_buf_free(&merges);
    }
    free_pieces(&p);
    uint64_t blocks;
    kvi_mem_stats(NULL, &blocks, NULL);
    assert_int_equal(blocks, 0);
}

/* A control token of half a character would cut texts where none may be cut. */
static void tokens_found_in_text_are_utf8(void **state)
{
    for (uint32_t type = NORMAL; type <= BYTE; type++) {
        pieces p = {.n = 2};
        kvi_tokenizer *tok;
        kvrt_error error = {.size = sizeof error};
        gguf_text(&p.tokens, "a"), gguf_text(&p.tokens, "\x9f");
        put_word(&p.types, 0, NORMAL), put_word(&p.types, 1, type);
        put_score(&p, 0, 0), put_score(&p, 1, -1);
        const kvi_vocabulary v = vocabulary_of(&p, "llama", NULL);
        const kvrt_status status = kvi_tokenizer_from_vocabulary(&v, "m.gguf", &tok, &error);
        const bool found = type == UNKNOWN || type == CONTROL || type == USER_DEFINED;
        assert_int_equal(status, found ? KVRT_FORMAT : KVRT_OK);
        if (found) assert_non_null(strstr(error.message, "token 1 is not UTF-8"));
        kvi_tokenizer_free(tok);
        free_pieces(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(byte_level_llama3),
                                       cmocka_unit_test(byte_level_qwen2),
                                       cmocka_unit_test(byte_level_qwen35),
                                       cmocka_unit_test(byte_level_o200k),
                                       cmocka_unit_test(byte_level_tekken),
                                       cmocka_unit_test(byte_level_deepseek3),
                                       cmocka_unit_test(byte_level_deepseek_llm),
                                       cmocka_unit_test(byte_level_deepseek_coder),
                                       cmocka_unit_test(gemma_by_scores),
                                       cmocka_unit_test(gemma_by_merges),
                                       cmocka_unit_test(scored_as_sentencepiece),
                                       cmocka_unit_test(wrong_vocabularies_are_refused),
                                       cmocka_unit_test(tokens_found_in_text_are_utf8),
                                       cmocka_unit_test(real_llama3),
                                       cmocka_unit_test(real_qwen2_5),
                                       cmocka_unit_test(real_gpt2),
                                       cmocka_unit_test(real_phi_3),
                                       cmocka_unit_test(real_mistral_v3)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
