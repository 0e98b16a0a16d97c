/* test_grammar_counts.c - lengths beside patterns (expr_count.c) and counts within them: random patterns against all texts that are short enough,
 * matched by a table that knows nothing of derivatives; long bounds against a store that has no unit and so looks at every text. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/grammar/pattern.h"

static uint64_t seed = 7;
static uint32_t rnd(uint32_t n)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(seed >> 33) % n;
}

/* ----------------------------------------------------------------------------------------------------- the reference --- */
/* Texts are numbers in base 3 with a leading 1; their letters are a, b and one of two bytes. */
enum { MOST_NODES = 64, MOST_TEXT = 8, END = 6561 * 3 };
static const char *const letters[3] = {"a", "b", "\xc3\xa9"};

typedef struct tree {
    enum { LETTERS, SEQUENCE, CHOICE, REPEAT } kind;
    uint32_t set, low, high; /* of letters; of a repetition, high 0: without end */
    int child[3], n;
} tree;
typedef struct random_pattern {
    tree nodes[MOST_NODES];
    int n;
    bool begin, end; /* ^ and $ */
} random_pattern;

static int make_tree(random_pattern *p, int depth)
{
    const int at = p->n++;
    const uint32_t pick = depth > 3 || p->n > MOST_NODES - 8 ? 0 : rnd(9);
    tree t = {.kind = LETTERS, .set = 1 + rnd(7)};
    if (pick > 2 && pick < 5) t = (tree){.kind = SEQUENCE, .n = 2 + (int)rnd(2)};
    if (pick == 5) t = (tree){.kind = CHOICE, .n = 2};
    if (pick > 5) {
        t = (tree){.kind = REPEAT, .low = rnd(3), .n = 1};
        t.high = rnd(2) ? 0 : t.low + rnd(3);
        if (t.high == 0 && rnd(2)) t.low = rnd(2);
        if (t.low == 0 && t.high == 0 && rnd(2)) t.high = 1;
    }
    for (int i = 0; i < t.n; i++) t.child[i] = make_tree(p, depth + 1);
    p->nodes[at] = t;
    return at;
}

static void print_tree(const random_pattern *p, int at, char *out)
{
    const tree *t = &p->nodes[at];
    if (t->kind == LETTERS) {
        strcat(out, "[");
        for (int i = 0; i < 3; i++) strcat(out, t->set >> i & 1 ? letters[i] : "");
        strcat(out, "]");
        return;
    }
    strcat(out, "(?:");
    for (int i = 0; i < t->n; i++) {
        if (i && t->kind == CHOICE) strcat(out, "|");
        print_tree(p, t->child[i], out);
    }
    strcat(out, ")");
    if (t->kind != REPEAT) return;
    if (t->high) sprintf(out + strlen(out), "{%u,%u}", t->low, t->high);
    else sprintf(out + strlen(out), "{%u,}", t->low);
}

static uint32_t ends_of(const random_pattern *p, int at, uint32_t begins, const uint8_t *text, uint32_t len)
{
    const tree *t = &p->nodes[at];
    uint32_t out = 0;
    if (t->kind == LETTERS) {
        for (uint32_t i = 0; i < len; i++)
            if (begins >> i & 1 && t->set >> text[i] & 1) out |= 2u << i;
    } else if (t->kind == SEQUENCE) {
        for (int i = 0; i < t->n; i++) begins = ends_of(p, t->child[i], begins, text, len);
        out = begins;
    } else if (t->kind == CHOICE) {
        for (int i = 0; i < t->n; i++) out |= ends_of(p, t->child[i], begins, text, len);
    } else {
        const uint32_t most = t->high ? t->high : t->low + len + 1;
        for (uint32_t k = 0; k <= most; k++) {
            if (k >= t->low) out |= begins;
            begins = ends_of(p, t->child[0], begins, text, len);
        }
    }
    return out;
}

static bool matches(const random_pattern *p, const uint8_t *text, uint32_t len)
{
    const uint32_t all = (2u << len) - 1, ends = ends_of(p, 0, p->begin ? 1 : all, text, len);
    return p->end ? ends >> len & 1 : ends != 0;
}

static bool is_text(uint32_t number)
{
    while (number > 2) number /= 3;
    return number == 1;
}

static uint32_t read_text(uint32_t number, uint8_t *text)
{
    uint32_t len = 0;
    for (uint32_t rest = number; rest > 1; rest /= 3) len++;
    for (uint32_t i = len; i-- > 0; number /= 3) text[i] = (uint8_t)(number % 3);
    return len;
}

/* -------------------------------------------------------------------------------------------------------- the engine --- */
static kvi_expr parse(kvi_exprs *pool, const random_pattern *p, char *out)
{
    size_t at;
    *out = 0;
    if (p->begin) strcat(out, "^(?:");
    print_tree(p, 0, out);
    if (p->begin) strcat(out, ")");
    if (p->end) strcat(out, "$");
    return kvi_pattern_parse(pool, out, strlen(out), KVI_PATTERN_JSON, false, &at);
}

static kvi_expr begin(kvi_exprs *pool, bool with_unit)
{
    assert_true(kvi_exprs_init(pool, 1u << 20, UINT64_C(1) << 40));
    const kvi_expr unit = kvi_pattern_characters(pool, 0, 0x10ffff, KVI_PATTERN_JSON);
    if (with_unit) kvi_expr_count_unit(pool, unit);
    return unit;
}

static kvi_expr take(kvi_exprs *pool, kvi_expr e, const char *bytes)
{
    for (; *bytes; bytes++) e = kvi_expr_derive(pool, e, (uint8_t)*bytes);
    return e;
}

static void random_pattern_of(random_pattern *p)
{
    *p = (random_pattern){.begin = rnd(4) != 0, .end = rnd(4) != 0};
    (void)make_tree(p, 0);
}

/* Whether a text matches; and of each beginning, whether a text of the length allowed is left. */
static void short_lengths_agree_with_all_texts(void **state)
{
    (void)state;
    static bool match[END], alive[END];
    unsigned n_alive = 0, n_dead = 0, n_matches = 0;
    for (int round = 0; round < 300; round++) {
        random_pattern p;
        kvi_exprs pool;
        char text[2000];
        uint8_t word[MOST_TEXT + 1];
        random_pattern_of(&p);
        const uint32_t low = rnd(MOST_TEXT), high = low + rnd(MOST_TEXT + 1 - low);
        const kvi_expr unit = begin(&pool, true);
        static kvi_expr of[END];
        const kvi_expr whole = parse(&pool, &p, text);
        of[1] = kvi_expr_and2(&pool, whole, kvi_expr_repeat(&pool, unit, low, high));
        for (uint32_t i = END; i-- > 1;) {
            if (!is_text(i)) continue;
            const uint32_t len = read_text(i, word);
            match[i] = len >= low && len <= high && matches(&p, word, len);
            alive[i] = match[i];
            for (uint32_t k = 0; k < 3 && i * 3 < END; k++) alive[i] = alive[i] || alive[i * 3 + k];
        }
        for (uint32_t i = 1; i < END; i++) {
            if (!is_text(i)) continue;
            if (i > 1 && !alive[i / 3]) {
                of[i] = KVI_EXPR_NONE;
                continue;
            }
            if (i > 1) of[i] = take(&pool, of[i / 3], letters[i % 3]);
            const bool holds = kvi_expr_holds_any(&pool, of[i]), ends = kvi_expr_nullable(&pool, of[i]);
            const kvi_expr quoted = kvi_expr_then(&pool, of[i], kvi_expr_bytes(&pool, '"', '"'));
            if (kvi_expr_holds_any(&pool, quoted) != holds) fail_msg("%s {%u,%u} text %u, quoted", text, low, high, i);
            if (pool.why) fail_msg("%s {%u,%u}: %s", text, low, high, pool.why);
            if (holds != alive[i] || ends != match[i])
                fail_msg("%s {%u,%u} text %u: holds %d need %d, ends %d need %d", text, low, high, i, holds, alive[i],
                         ends, match[i]);
            if (i * 3 < END) { /* within a character */
                const bool half = kvi_expr_holds_any(&pool, kvi_expr_derive(&pool, of[i], (uint8_t)letters[2][0]));
                if (half != alive[i * 3 + 2])
                    fail_msg("%s {%u,%u} text %u: half a letter: %d", text, low, high, i, half);
            }
            n_alive += alive[i], n_dead += !alive[i], n_matches += match[i];
        }
        kvi_exprs_free(&pool);
    }
    assert_true(n_alive > 20000 && n_dead > 20000 && n_matches > 10000);
}

/* Loops of two and three characters, a way that ends, ways of both kinds; NULL: any text. */
static const char *const loops[] = {"^(?:[ab][ab])+$",
                                    "^(?:[ab]{3})*a$",
                                    "^(?:aa)*b(?:bbb)*$",
                                    "^a{0,20}$",
                                    "^(?:a{30}|b+)$",
                                    "^(?:(?:ab)*|b{7})$",
                                    "b$",
                                    NULL,
                                    NULL};

/* Long bounds: the same questions to a store that counts and to one that searches, and what kvi_expr_near makes of it. */
static void long_lengths_agree_with_a_search(void **state)
{
    (void)state;
    unsigned n_nearer = 0, n_dead = 0, n_alive = 0;
    for (int round = 0; round < 360; round++) {
        random_pattern p;
        kvi_exprs counting, searching;
        char text[2000];
        const bool fixed = round % 2, quote = rnd(2);
        const char *loop = fixed ? loops[(unsigned)round / 2 % (sizeof loops / sizeof *loops)] : text;
        random_pattern_of(&p);
        const uint32_t low = rnd(3) ? rnd(60) : 0, far = 1 + rnd(8);
        const uint32_t high = rnd(4) == 0 ? KVI_EXPR_MANY : low + rnd(rnd(2) ? 40 : 3);
        kvi_expr of[2];
        for (int i = 0; i < 2; i++) {
            kvi_exprs *pool = i ? &searching : &counting;
            const kvi_expr unit = begin(pool, !i);
            size_t at;
            of[i] = kvi_expr_repeat(pool, unit, low, high);
            if (!fixed) of[i] = kvi_expr_and2(pool, of[i], parse(pool, &p, text));
            else if (loop)
                of[i] = kvi_expr_and2(pool, of[i],
                                      kvi_pattern_parse(pool, loop, strlen(loop), KVI_PATTERN_JSON, false, &at));
            if (quote) of[i] = kvi_expr_then(pool, of[i], kvi_expr_bytes(pool, '"', '"'));
        }
        kvi_expr e = of[0], s = of[1];
        if (!loop) loop = "any text";
        for (int step = 0; step < 60; step++) {
            const bool holds = kvi_expr_holds_any(&counting, e);
            if (holds != kvi_expr_holds_any(&searching, s)) fail_msg("%s {%u,%u} step %d", loop, low, high, step);
            n_alive += holds, n_dead += !holds;
            if (!holds) break;
            kvi_expr near = kvi_expr_near(&counting, e, far), on = e;
            n_nearer += near != e;
            for (uint32_t left = far; left > 0;) { /* somewhere from here */
                const char *letter = letters[rnd(3)];
                if (strlen(letter) > left) continue;
                left -= (uint32_t)strlen(letter);
                on = take(&counting, on, letter), near = take(&counting, near, letter);
                if (quote && kvi_expr_derive(&counting, on, '"') != kvi_expr_derive(&counting, near, '"') && left > 0)
                    fail_msg("%s {%u,%u} step %d: nearby it ends elsewhere", loop, low, high, step);
                if (kvi_expr_holds_any(&counting, on) != kvi_expr_holds_any(&counting, near) ||
                    kvi_expr_nullable(&counting, on) != kvi_expr_nullable(&counting, near))
                    fail_msg("%s {%u,%u} step %d: nearby it is something else", loop, low, high, step);
            }
            kvi_expr next = KVI_EXPR_NONE, other = KVI_EXPR_NONE; /* on with a letter that can be */
            for (uint32_t k = 0, first = rnd(3); k < 3 && !kvi_expr_holds_any(&counting, next); k++) {
                next = take(&counting, e, letters[(first + k) % 3]);
                other = take(&searching, s, letters[(first + k) % 3]);
            }
            e = next, s = other;
        }
        if (counting.why || searching.why) fail_msg("%s: %s%s", loop, counting.why, searching.why);
        kvi_exprs_free(&counting);
        kvi_exprs_free(&searching);
    }
    assert_true(n_nearer > 500 && n_alive > 2000 && n_dead > 50);
}

/* Alternatives that differ in a count alone become one only where none between them is missing. */
static void counts_that_meet_are_one(void **state)
{
    (void)state;
    static const char *const cases[][2] = {{"^(?:a{0,1}b|a{3,5}b)$", "aab"},
                                           {"^(?:a{0,1}b|a{2,5}b)$", NULL},
                                           {"^(?:a{4,5}|a{0,2})$", "aaa"},
                                           {"^(?:a{3,}b|a?b)$", "aab"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kvi_exprs pool;
        size_t at;
        (void)begin(&pool, true);
        const kvi_expr e = kvi_pattern_parse(&pool, cases[i][0], strlen(cases[i][0]), KVI_PATTERN_JSON, false, &at);
        for (size_t n = 0; n <= 5; n++) {
            char text[8];
            memset(text, 'a', n);
            strcpy(text + n, strchr(cases[i][0], 'b') ? "b" : "");
            const bool fits = !cases[i][1] || strcmp(text, cases[i][1]) != 0;
            if (kvi_expr_matches(&pool, e, text, strlen(text)) != fits)
                fail_msg("%s: %s: need %d", cases[i][0], text, fits);
        }
        kvi_exprs_free(&pool);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(short_lengths_agree_with_all_texts),
        cmocka_unit_test(long_lengths_agree_with_a_search),
        cmocka_unit_test(counts_that_meet_are_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
