/* test_grammar.c - the grammar core against naive implementations: random grammars against a table of all ways to match, masks against every
 * token of
 * a vocabulary, the way back against beginning anew, limits by name. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/grammar/gbnf.h"
#include "runtime/grammar/schema.h"
#include "runtime/grammar/token_trie.h"

static uint64_t seed = 1;
static uint32_t rnd(uint32_t n)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(seed >> 33) % n;
}

/* ---------------------------------------------------------------------------------------------------------- random --- */
/* A grammar over the letters a, b, c as a tree, printed as GBNF and matched by a table: ends[rule][begin] is a set of ends, made larger until
 * nothing
 * changes. It knows nothing of derivatives, items or sets. */
enum { RULES = 4, MOST_NODES = 80, MOST_TEXT = 12 };
typedef struct tree {
    enum { LETTER, CLASS, RULE, SEQUENCE, CHOICE, MANY, SOME, MAYBE } kind;
    int value, child[3], n;
} tree;
typedef struct random_grammar {
    tree nodes[MOST_NODES];
    int n, root[RULES];
} random_grammar;

static int make_tree(random_grammar *g, int depth)
{
    const int at = g->n++;
    tree *t = &g->nodes[at];
    const uint32_t pick = depth > 3 || g->n > MOST_NODES - 8 ? rnd(3) : rnd(11);
    *t = (tree){0};
    if (pick == 0) t->kind = LETTER, t->value = (int)rnd(3);
    else if (pick == 1) t->kind = CLASS, t->value = 1 + (int)rnd(6);
    else if (pick == 2) t->kind = depth ? RULE : LETTER, t->value = (int)rnd(3);
    else if (pick < 6) t->kind = SEQUENCE, t->n = 2 + (int)rnd(2);
    else if (pick < 8) t->kind = CHOICE, t->n = 2 + (int)rnd(2);
    else t->kind = pick == 8 ? MANY : pick == 9 ? SOME : MAYBE, t->n = 1;
    const int n = t->n;
    for (int i = 0; i < n; i++) {
        const int child = make_tree(g, depth + 1);
        g->nodes[at].child[i] = child;
    }
    return at;
}

static void print_tree(const random_grammar *g, int at, char *out)
{
    const tree *t = &g->nodes[at];
    char *end = out + strlen(out);
    if (t->kind == LETTER) sprintf(end, "\"%c\"", 'a' + t->value);
    else if (t->kind == CLASS)
        sprintf(end, "[%s%s%s]", t->value & 1 ? "a" : "", t->value & 2 ? "b" : "", t->value & 4 ? "c" : "");
    else if (t->kind == RULE) sprintf(end, "r%d", t->value % RULES);
    else {
        strcat(out, "(");
        for (int i = 0; i < t->n; i++) {
            if (i) strcat(out, t->kind == CHOICE ? " | " : " ");
            print_tree(g, t->child[i], out);
        }
        strcat(out, t->kind == MANY ? ")*" : t->kind == SOME ? ")+" : t->kind == MAYBE ? ")?" : ")");
    }
}

static uint32_t ends_of(const random_grammar *g, int at, uint32_t begins, const char *text, int len,
                        uint32_t table[RULES][MOST_TEXT + 1])
{
    const tree *t = &g->nodes[at];
    uint32_t out = 0, more;
    if (t->kind == RULE) {
        for (int i = 0; i <= len; i++)
            if (begins >> i & 1) out |= table[t->value % RULES][i];
        return out;
    }
    if (t->kind == LETTER || t->kind == CLASS) {
        const int set = t->kind == LETTER ? 1 << t->value : t->value;
        for (int i = 0; i < len; i++)
            if (begins >> i & 1 && set >> (text[i] - 'a') & 1) out |= 2u << i;
        return out;
    }
    if (t->kind == SEQUENCE) {
        for (int i = 0; i < t->n; i++) begins = ends_of(g, t->child[i], begins, text, len, table);
        return begins;
    }
    if (t->kind == CHOICE) {
        for (int i = 0; i < t->n; i++) out |= ends_of(g, t->child[i], begins, text, len, table);
        return out;
    }
    more = ends_of(g, t->child[0], begins, text, len, table);
    if (t->kind == MAYBE) return begins | more;
    out = t->kind == MANY ? begins : 0;
    while ((out | more) != out) {
        out |= more;
        more = ends_of(g, t->child[0], out, text, len, table);
    }
    return out;
}

static bool reference_matches(const random_grammar *g, const char *text)
{
    uint32_t table[RULES][MOST_TEXT + 1] = {{0}};
    const int len = (int)strlen(text);
    for (bool changed = true; changed;) {
        changed = false;
        for (int r = 0; r < RULES; r++)
            for (int i = 0; i <= len; i++) {
                const uint32_t ends = ends_of(g, g->root[r], 1u << i, text, len, table);
                changed = changed || (ends | table[r][i]) != table[r][i];
                table[r][i] |= ends;
            }
    }
    return table[0][0] >> len & 1;
}

static void random_text(char *text)
{
    const uint32_t n = rnd(MOST_TEXT - 2);
    for (uint32_t i = 0; i < n; i++) text[i] = (char)('a' + rnd(3));
    text[n] = 0;
}

/* A text that the grammar can go on with at every byte, ended where it accepts if that comes. */
static void walk_text(kvi_grammar *g, char *text)
{
    kvi_matcher m;
    size_t n = 0;
    assert_int_equal(kvi_matcher_init(&m, g, NULL), KVRT_OK);
    while (n < MOST_TEXT - 1 && !(kvi_matcher_accepts(&m) && rnd(4) == 0)) {
        bool fits = false;
        for (int tries = 0; tries < 12 && !fits; tries++) {
            text[n] = (char)('a' + rnd(3));
            assert_int_equal(kvi_matcher_take(&m, text + n, 1, &fits, NULL), KVRT_OK);
        }
        if (!fits) break;
        n++;
    }
    text[n] = 0;
    kvi_matcher_free(&m);
}

static bool engine_matches(kvi_grammar *g, const char *text)
{
    kvi_matcher m;
    bool fits = true;
    assert_int_equal(kvi_matcher_init(&m, g, NULL), KVRT_OK);
    for (size_t i = 0; text[i] && fits; i++) assert_int_equal(kvi_matcher_take(&m, text + i, 1, &fits, NULL), KVRT_OK);
    const bool accepts = fits && kvi_matcher_accepts(&m);
    kvi_matcher_free(&m);
    return accepts;
}

static void random_grammars_agree_with_a_table(void **state)
{
    (void)state;
    unsigned n_texts = 0, n_accepted = 0, n_recursive = 0;
    for (seed = 1; n_texts < 10000; seed++) {
        random_grammar r = {.n = 0};
        char text[8192] = "";
        const uint64_t begun = seed;
        for (int i = 0; i < RULES; i++) {
            sprintf(text + strlen(text), i ? "r%d ::= " : "root ::= r0\nr%d ::= ", i);
            r.root[i] = make_tree(&r, 0);
            print_tree(&r, r.root[i], text);
            strcat(text, "\n");
        }
        kvi_grammar *g;
        kvrt_error error = {.size = sizeof error};
        const kvrt_status status = kvi_gbnf_compile(text, strlen(text), kvi_grammar_default_limits(), &g, &error);
        if (status < KVRT_OK) { /* rules without an end: the reference must not find a text either */
            if (!strstr(error.message, "no text satisfies it")) fail_msg("%s\n%s", text, error.message);
            for (int i = 0; i < 50; i++) {
                char word[MOST_TEXT + 1];
                random_text(word);
                if (reference_matches(&r, word)) fail_msg("%s accepts %s", text, word);
            }
            seed = begun;
            continue;
        }
        n_recursive += g->n_terminals > 1;
        for (int i = 0; i < 50; i++, n_texts++) {
            char word[MOST_TEXT + 1];
            if (i % 2) random_text(word);
            else walk_text(g, word);
            const bool is = reference_matches(&r, word);
            n_accepted += is;
            if (engine_matches(g, word) != is)
                fail_msg("seed %llu\n%s%s: the reference says %d", (unsigned long long)begun, text, word, is);
        }
        kvi_grammar_free(g);
        seed = begun;
    }
    /* A test that sees one kind only proves little. */
    assert_in_range(n_accepted, 2000, 9000);
    assert_true(n_recursive >= 20);
}

/* ----------------------------------------------------------------------------------------------------------- masks --- */
static kvi_tokenizer *load_tokenizer(const char *name)
{
    kvi_tokenizer *tok = NULL;
    kvrt_error error = {.size = sizeof error};
    char path[600];
    snprintf(path, sizeof path, KVRT_TEST_DIR "/golden/tokenizers/%s.json", name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    static char json[1 << 20];
    const size_t n = fread(json, 1, sizeof json, f);
    fclose(f);
    if (kvi_tokenizer_load_json(json, n, NULL, 0, name, &tok, &error) < KVRT_OK) fail_msg("%s", error.message);
    return tok;
}

static const struct {
    const char *kind, *text;
} masked[] = {
    {"schema", "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\",\"maxLength\":12},\"n\":{\"type\":"
               "\"integer\",\"minimum\":-3,"
               "\"maximum\":250},\"tags\":{\"type\":\"array\",\"items\":{\"enum\":[\"a "
               "b\",\"c\",null,1.5]}}},\"required\":[\"name\"]}"},
    {"schema", "{}"},
    {"schema", "{\"type\":\"string\",\"pattern\":\"^(the|a) [a-z ]+\\\\.$\",\"minLength\":6}"},
    {"gbnf", "root ::= \"(\" root \")\" root | [^()]? \nx ::= root"},
    {"gbnf", "root ::= item+\nitem ::= \"- \" [^\\n]+ \"\\n\""},
    {"regex", "(?=.*[0-9]).{3,40}"},
    {"regex", "(?!no)(yes|no|noon|nay)"},
    {"regex", "[\\u0400-\\u04ff\\u{1f300}-\\u{1f5ff}]+ and [^a]*"},
};

static kvi_grammar *compile(const char *kind, const char *text)
{
    kvi_grammar *g = NULL;
    kvrt_error error = {.size = sizeof error};
    const kvi_grammar_limits limits = kvi_grammar_default_limits();
    const kvrt_status status = *kind == 's'   ? kvi_schema_compile(text, strlen(text), limits, &g, &error)
                               : *kind == 'g' ? kvi_gbnf_compile(text, strlen(text), limits, &g, &error)
                                              : kvi_regex_grammar(text, strlen(text), limits, &g, &error);
    if (status < KVRT_OK) fail_msg("%s\n%s", text, error.message);
    return g;
}

/* Every token taken and given back. */
static unsigned check_mask(kvi_token_trie *trie, const kvi_tokenizer *tok, kvi_matcher *m, uint32_t *mask)
{
    bool any;
    unsigned n = 0;
    assert_int_equal(kvi_token_mask(trie, m, mask, &any, NULL), KVRT_OK);
    for (int32_t id = 0; id < trie->n_vocab; id++) {
        const char *bytes;
        size_t len;
        bool fits = false;
        if (kvi_token_trie_text(tok, id, &bytes, &len)) {
            assert_int_equal(kvi_matcher_take(m, bytes, len, &fits, NULL), KVRT_OK);
            if (fits) assert_int_equal(kvi_matcher_back(m, 1, NULL), KVRT_OK);
        }
        if (fits != (mask[id >> 5] >> (id & 31) & 1))
            fail_msg("token %d '%.*s' after '%.*s': fits %d, mask says otherwise", id, (int)len, bytes,
                     (int)m->bytes.len, m->bytes.data ? m->bytes.data : "", fits);
        n += fits;
    }
    assert_int_equal(any, n > 0);
    return n;
}

static void masks_equal_every_token(void **state)
{
    (void)state;
    static const char *const names[] = {"byte_level_llama3", "gemma_bpe", "byte_level_qwen35"};
    unsigned n_states = 0, n_full = 0;
    seed = 5;
    for (size_t t = 0; t < 3; t++) {
        kvi_tokenizer *tok = load_tokenizer(names[t]);
        kvi_token_trie *trie;
        assert_int_equal(kvi_token_trie_new(tok, kvi_tokenizer_vocab_size(tok) + 5, &trie, NULL), KVRT_OK);
        uint32_t *mask = malloc(trie->n_words * sizeof *mask);
        for (size_t k = 0; k < sizeof masked / sizeof *masked; k++) {
            kvi_grammar *g = compile(masked[k].kind, masked[k].text);
            for (int walk = 0; walk < 2; walk++) {
                kvi_matcher m;
                assert_int_equal(kvi_matcher_init(&m, g, NULL), KVRT_OK);
                for (int i = 0; i < 9; i++) {
                    const unsigned n = check_mask(trie, tok, &m, mask);
                    n_states++;
                    n_full += n > 100;
                    if (n == 0) {
                        assert_true(kvi_matcher_accepts(&m));
                        break;
                    }
                    /* One of the allowed tokens. */
                    uint32_t skip = rnd(n);
                    int32_t id = 0;
                    while (!(mask[id >> 5] >> (id & 31) & 1) || skip--) id++;
                    const char *bytes;
                    size_t len;
                    bool fits;
                    assert_true(kvi_token_trie_text(tok, id, &bytes, &len));
                    assert_int_equal(kvi_matcher_take(&m, bytes, len, &fits, NULL), KVRT_OK);
                    assert_true(fits);
                }
                kvi_matcher_free(&m);
            }
            kvi_grammar_free(g);
        }
        free(mask);
        kvi_token_trie_free(trie);
        kvi_tokenizer_free(tok);
    }
    assert_true(n_states >= 200);
    assert_true(n_full >= 50); /* of states in which a slice decides */
}

/* ------------------------------------------------------------------------------------------------- back and forth --- */
static void going_back_is_beginning_anew(void **state)
{
    (void)state;
    kvi_grammar *g = compile("schema", masked[0].text);
    const char *const text =
        "{\"name\": \"ab\\n\", \"n\": 17, \"tags\": [\"a b\", null, 1.5], \"x\": {\"y\": [1, \"\"]}}";
    const size_t len = strlen(text);
    kvi_matcher m;
    bool fits;
    assert_int_equal(kvi_matcher_init(&m, g, NULL), KVRT_OK);
    for (int round = 0; round < 30; round++) {
        /* Tokens of random lengths to the end, or to somewhere; then back by some. */
        while (m.bytes.len < len && rnd(8)) {
            size_t n = 1 + rnd(6);
            if (n > len - m.bytes.len) n = len - m.bytes.len;
            assert_int_equal(kvi_matcher_take(&m, text + m.bytes.len, n, &fits, NULL), KVRT_OK);
            assert_true(fits);
        }
        if (round % 7 == 3) kvi_grammar_forget(g); /* as a full lexer does */
        if (round % 5 == 2) m.max_bytes = 4096;    /* as a full matcher does; what is there must not be lost */
        kvi_matcher fresh;
        assert_int_equal(kvi_matcher_init(&fresh, g, NULL), KVRT_OK);
        for (size_t i = 0; i < m.bytes.len; i++)
            assert_int_equal(kvi_matcher_take(&fresh, text + i, 1, &fits, NULL), KVRT_OK);
        m.max_bytes = KVI_MATCHER_BYTES;
        assert_int_equal(kvi_matcher_prepare(&m, NULL), KVRT_OK);
        assert_int_equal(kvi_matcher_accepts(&fresh), kvi_matcher_accepts(&m));
        for (unsigned b = 0; b < 256; b++) {
            const char byte = (char)b;
            bool in_fresh, in_m;
            assert_int_equal(kvi_matcher_take(&fresh, &byte, 1, &in_fresh, NULL), KVRT_OK);
            assert_int_equal(kvi_matcher_take(&m, &byte, 1, &in_m, NULL), KVRT_OK);
            assert_int_equal(in_fresh, in_m);
            if (in_m) assert_int_equal(kvi_matcher_back(&m, 1, NULL), KVRT_OK);
            if (in_fresh) assert_int_equal(kvi_matcher_back(&fresh, 1, NULL), KVRT_OK);
        }
        kvi_matcher_free(&fresh);
        const size_t back = rnd((uint32_t)m.n_tokens + 1);
        assert_int_equal(kvi_matcher_back(&m, back, NULL), KVRT_OK);
    }
    assert_int_equal(kvi_matcher_back(&m, m.n_tokens + 1, NULL), KVRT_ARG);
    kvi_matcher_free(&m);
    kvi_grammar_free(g);
}

static void forced_bytes_are_the_only_ones(void **state)
{
    (void)state;
    kvi_grammar *g = compile("gbnf", "root ::= \"the answer is \" (\"yes\" | \"yet\") \".\"");
    kvi_matcher m;
    char bytes[64];
    size_t n;
    bool ends, fits;
    assert_int_equal(kvi_matcher_init(&m, g, NULL), KVRT_OK);
    assert_int_equal(kvi_matcher_forced(&m, bytes, sizeof bytes, &n, &ends, NULL), KVRT_OK);
    assert_int_equal(n, 16);
    assert_memory_equal(bytes, "the answer is ye", 16);
    assert_false(ends);
    assert_int_equal(kvi_matcher_forced(&m, bytes, 5, &n, &ends, NULL), KVRT_OK);
    assert_int_equal(n, 5);
    assert_int_equal(kvi_matcher_take(&m, "the answer is yes", 17, &fits, NULL), KVRT_OK);
    assert_int_equal(kvi_matcher_forced(&m, bytes, sizeof bytes, &n, &ends, NULL), KVRT_OK);
    assert_int_equal(n, 1);
    assert_true(ends);
    kvi_matcher_free(&m);
    kvi_grammar_free(g);
    /* Where the text may end nothing is forced, though only one byte could follow. */
    g = compile("regex", "a(bc)*");
    assert_int_equal(kvi_matcher_init(&m, g, NULL), KVRT_OK);
    assert_int_equal(kvi_matcher_forced(&m, bytes, sizeof bytes, &n, &ends, NULL), KVRT_OK);
    assert_int_equal(n, 1);
    assert_false(ends);
    kvi_matcher_free(&m);
    kvi_grammar_free(g);
}

/* ---------------------------------------------------------------------------------------------------------- errors --- */
static void errors_name_the_place(void **state)
{
    (void)state;
    static const struct {
        const char *kind, *text, *says;
    } bad[] = {
        {"g", "root = \"a\"", "grammar.gbnf: line 1, column 6: need ::="},
        {"g", "root ::= \"a\"\nroot ::= \"b\"", "line 2, column 1: the rule is written twice"},
        {"g", "root ::= thing", "line 1, column 10: a rule that is not written"},
        {"g", "a ::= \"b\"", "it has no rule root"},
        {"g", "root ::= \"a", "\" without its end"},
        {"g", "root ::= [a-", "[ without ]"},
        {"g", "root ::= [a-\\", "an unknown escape"},
        {"g", "root ::= [z-a]", "upside down"},
        {"g", "root ::= (\"a\"", "( without )"},
        {"g", "root ::= \"a\"{2", "{ without }"},
        {"g", "root ::= \"a\"{3,2}", "upside down"},
        {"g", "root ::= \"\\q\"", "an unknown escape"},
        {"g", "root ::= <think> \"a\"", "tokens by number or name"},
        {"g", "root ::= root \"a\"", "no text satisfies it"},
        {"g", "root ::= \"a\"****", "nothing to repeat"},
        {"r", "(a", "grammar.regex: line 1, column 3: ( without )"},
        {"r", "a)", ") without ("},
        {"r", "*a", "nothing to repeat"},
        {"r", "a\\1", "backreferences"},
        {"r", "\\bword", "word boundaries"},
        {"r", "(?<=a)b", "lookbehind"},
        {"r", "(a(?=b))c", "lookahead is supported in front"},
        {"r", "(^a)*b", "an anchor within a repetition"},
        {"r", "a{1000001}", "more than 100000"},
        {"r", "[[:alpha:]", NULL},
        {"r", "\\p{Nonsense}", "an unknown property"},
        {"r", "(?=a)b", "no text satisfies it"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        kvi_grammar *g = NULL;
        kvrt_error error = {.size = sizeof error};
        const kvi_grammar_limits limits = kvi_grammar_default_limits();
        const kvrt_status status = *bad[i].kind == 'g'
                                       ? kvi_gbnf_compile(bad[i].text, strlen(bad[i].text), limits, &g, &error)
                                       : kvi_regex_grammar(bad[i].text, strlen(bad[i].text), limits, &g, &error);
        if (!bad[i].says) {
            assert_int_equal(status, KVRT_OK);
            kvi_grammar_free(g);
            continue;
        }
        if (status != KVRT_GRAMMAR || !strstr(error.message, bad[i].says))
            fail_msg("%s: %d %s", bad[i].text, status, error.message);
    }
}

/* What is hostile ends by name, within limits of steps and memory. */
static void limits_are_errors(void **state)
{
    (void)state;
    static const char *const hostile[] = {"((((a{9}){9}){9}){9}){9}b", "(?=.*a.{40}b)(?=.*b.{41}a)(?=.*[ab]{500}c).*",
                                          "(a|b|ab)*(a|b|ba)*c{99999}"};
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        kvi_grammar *g = NULL;
        kvrt_error error = {.size = sizeof error};
        const kvi_grammar_limits limits = {.max_exprs = 20000, .max_symbols = 1000, .steps = 200000};
        const kvrt_status status = kvi_regex_grammar(hostile[i], strlen(hostile[i]), limits, &g, &error);
        if (status < KVRT_OK) assert_int_equal(status, KVRT_GRAMMAR);
        else kvi_grammar_free(g);
    }
    /* Two million ways to read a text of ambiguous rules: followed within the limit of steps, or refused. */
    kvi_grammar *g = compile("gbnf", "root ::= s\ns ::= s s s | s s | \"a\" | \"\"");
    kvi_matcher m;
    bool fits = true;
    kvrt_status status = kvi_matcher_init(&m, g, NULL);
    assert_int_equal(status, KVRT_OK);
    for (int i = 0; i < 300 && status >= KVRT_OK; i++) status = kvi_matcher_take(&m, "a", 1, &fits, NULL);
    assert_true(status == KVRT_OK || status == KVRT_GRAMMAR);
    assert_true(fits || status < KVRT_OK);
    kvi_matcher_free(&m);
    kvi_grammar_free(g);
}

/* Each allocation fails once: an error, and nothing is lost. */
static void out_of_memory(void **state)
{
    (void)state;
    for (uint64_t nth = 1; nth < 4000; nth += 1 + nth / 8) {
        kvi_grammar *g = NULL;
        kvrt_error error = {.size = sizeof error};
        uint64_t before, after, blocks;
        kvi_mem_stats(&before, &blocks, NULL);
        kvi_mem_fail_nth(nth);
        kvrt_status status =
            kvi_schema_compile(masked[0].text, strlen(masked[0].text), kvi_grammar_default_limits(), &g, &error);
        if (status >= KVRT_OK) {
            kvi_matcher m = {0};
            bool fits;
            status = kvi_matcher_init(&m, g, &error);
            if (status >= KVRT_OK) status = kvi_matcher_take(&m, "{\"name\": \"x\"", 12, &fits, &error);
            kvi_matcher_free(&m);
            kvi_grammar_free(g);
        }
        kvi_mem_fail_nth(0);
        assert_true(status == KVRT_OK || status == KVRT_NOMEM_HOST);
        kvi_mem_stats(&after, &blocks, NULL);
        assert_int_equal(before, after);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_grammars_agree_with_a_table),
        cmocka_unit_test(masks_equal_every_token),
        cmocka_unit_test(going_back_is_beginning_anew),
        cmocka_unit_test(forced_bytes_are_the_only_ones),
        cmocka_unit_test(errors_name_the_place),
        cmocka_unit_test(limits_are_errors),
        cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
