/* tokenizer_cases.h - runs a file of tokenizer cases: {"cases": [{"text", "ids", "ids_special", "decoded",
 * "decoded_skip"}, ...]}. "decoded" keeps special tokens, "decoded_skip" drops them. Used for our own goldens and,
 * where present, for the shared vectors. Those come from a JavaScript library that also tidies spaces before
 * punctuation: with case_rules.tidy, a decoded text may equal either form. Where that library departs from the
 * reference (it takes NFKC for T5's character map), `exceptions` has a file of cases from the reference that replace
 * those with the same text. */
#ifndef KVI_TEST_TOKENIZER_CASES_H
#define KVI_TEST_TOKENIZER_CASES_H
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/json.h"
#include "runtime/base/os.h"
#include "runtime/tokenizer/tokenizer.h"

typedef struct case_rules {
    bool tidy;
    const char *exceptions;     /* path, or NULL */
    const char *const *without; /* texts that contain one of these are left out; ends with NULL */
} case_rules;

typedef struct case_totals {
    int n_cases, n_failed, n_replaced;
} case_totals;

static inline bool case_read_ids(kvi_json *r, kvi_ids *out)
{
    out->len = 0;
    kvi_json_expect(r, KVI_JSON_ARRAY);
    while (kvi_json_next_item(r)) kvi_ids_push(out, (int32_t)kvi_json_i64(r));
    return !r->error;
}

static inline void case_print_ids(const char *label, const kvi_ids *ids)
{
    printf("  %s:", label);
    for (size_t i = 0; i < ids->len && i < 40; i++) printf(" %d", (int)ids->data[i]);
    printf("\n");
}

static inline bool case_same(const kvi_ids *a, const kvi_ids *b)
{
    return a->len == b->len && (a->len == 0 || memcmp(a->data, b->data, a->len * sizeof *a->data) == 0);
}

static inline void case_check_encode(const kvi_tokenizer *tok, const kvi_buf *text, uint32_t flags,
                                     const kvi_ids *expected, const char *what, case_totals *totals)
{
    kvi_ids got = {0};
    kvrt_error error = {.size = sizeof error};
    kvrt_status status = kvi_tokenizer_encode(tok, text->data ? text->data : "", text->len,
                                              flags | KVRT_TOKENIZE_PARSE_SPECIAL, &got, &error);
    if (status != KVRT_OK || !case_same(&got, expected)) {
        totals->n_failed++;
        printf("FAIL %s: \"%.*s\" status %d %s\n", what, (int)text->len, text->data ? text->data : "", (int)status,
               status ? error.message : "");
        case_print_ids("expected", expected);
        case_print_ids("got     ", &got);
    }
    kvi_ids_free(&got);
}

/* What transformers calls clean_up_tokenization. */
static inline void case_tidy(kvi_buf *text)
{
    static const char *const pairs[][2] = {{" .", "."},     {" ?", "?"},     {" !", "!"},   {" ,", ","},
                                           {" ' ", "'"},    {" n't", "n't"}, {" 'm", "'m"}, {" 's", "'s"},
                                           {" 've", "'ve"}, {" 're", "'re"}};
    for (size_t k = 0; k < sizeof pairs / sizeof *pairs; k++) {
        size_t n = strlen(pairs[k][0]), m = strlen(pairs[k][1]), to = 0;
        for (size_t i = 0; i < text->len;) {
            if (text->len - i >= n && memcmp(text->data + i, pairs[k][0], n) == 0) {
                memcpy(text->data + to, pairs[k][1], m);
                to += m;
                i += n;
            } else {
                text->data[to++] = text->data[i++];
            }
        }
        text->len = to;
    }
}

static inline bool case_equal(const kvi_buf *a, const kvi_buf *b)
{
    return a->len == b->len && (a->len == 0 || memcmp(a->data, b->data, a->len) == 0);
}

static inline void case_check_decode(const kvi_tokenizer *tok, const kvi_ids *ids, uint32_t flags,
                                     const kvi_buf *expected, bool tidy, case_totals *totals)
{
    kvi_buf got = {0};
    kvrt_status status = kvi_tokenizer_decode(tok, ids->data, ids->len, flags, &got, NULL);
    bool same = status == KVRT_OK && case_equal(&got, expected);
    if (!same && tidy) {
        case_tidy(&got);
        same = case_equal(&got, expected);
    }
    if (!same) {
        totals->n_failed++;
        printf("FAIL decode: expected \"%.*s\" got \"%.*s\"\n", (int)expected->len,
               expected->data ? expected->data : "", (int)got.len, got.data ? got.data : "");
        case_print_ids("ids", ids);
    }
    kvi_buf_free(&got);
}

typedef struct case_one {
    kvi_buf text, decoded, decoded_skip;
    kvi_ids ids, special;
    bool has_ids, has_special, has_decoded, has_skip;
} case_one;

static inline void case_free(case_one *c)
{
    kvi_buf_free(&c->text);
    kvi_buf_free(&c->decoded);
    kvi_buf_free(&c->decoded_skip);
    kvi_ids_free(&c->ids);
    kvi_ids_free(&c->special);
}

static inline bool case_read_text(kvi_json *r, kvi_buf *out)
{
    kvi_json_string(r);
    kvi_buf_clear(out);
    kvi_json_str_copy(r, out);
    return !r->error;
}

static inline void case_read(kvi_json *r, case_one *c)
{
    kvi_json_expect(r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(r)) {
        if (kvi_json_key_is(r, "text")) case_read_text(r, &c->text);
        else if (kvi_json_key_is(r, "decoded") && kvi_json_peek(r) == KVI_JSON_STRING)
            c->has_decoded = case_read_text(r, &c->decoded);
        else if (kvi_json_key_is(r, "decoded_skip")) c->has_skip = case_read_text(r, &c->decoded_skip);
        else if (kvi_json_key_is(r, "ids")) c->has_ids = case_read_ids(r, &c->ids);
        else if (kvi_json_key_is(r, "ids_special")) c->has_special = case_read_ids(r, &c->special);
        else kvi_json_skip(r);
    }
}

/* Puts the reference's case in the place of one with the same text; false: there is none. */
static inline bool case_replace(kvi_json r, case_one *c)
{
    bool found = false;
    kvi_json_expect(&r, KVI_JSON_ARRAY);
    while (!found && kvi_json_next_item(&r)) {
        case_one other = {0};
        case_read(&r, &other);
        found = case_equal(&other.text, &c->text);
        if (found) {
            case_one swap = *c;
            *c = other;
            other = swap;
        }
        case_free(&other);
    }
    return found;
}

static inline bool case_is_left_out(const kvi_buf *text, const char *const *without)
{
    for (; without && *without; without++) {
        const size_t n = strlen(*without);
        for (size_t i = 0; i + n <= text->len; i++)
            if (memcmp(text->data + i, *without, n) == 0) return true;
    }
    return false;
}

static inline void case_run_one(const kvi_tokenizer *tok, kvi_json *r, const kvi_json *exceptions,
                                const case_rules *rules, case_totals *totals)
{
    const bool tidy = rules->tidy;
    case_one c = {0};
    case_read(r, &c);
    if (case_is_left_out(&c.text, rules->without)) {
        case_free(&c);
        return;
    }
    if (exceptions && case_replace(*exceptions, &c)) totals->n_replaced++;
    if (c.has_ids) case_check_encode(tok, &c.text, 0, &c.ids, "ids", totals);
    if (c.has_special) case_check_encode(tok, &c.text, KVRT_TOKENIZE_ADD_SPECIAL, &c.special, "ids_special", totals);
    if (c.has_ids && c.has_decoded)
        case_check_decode(tok, &c.ids, KVRT_DETOKENIZE_KEEP_SPECIAL, &c.decoded, tidy, totals);
    if (c.has_ids && c.has_skip) case_check_decode(tok, &c.ids, 0, &c.decoded_skip, tidy, totals);
    totals->n_cases++;
    case_free(&c);
}

static inline void case_map(const char *path, kvi_map *map, kvi_json *r)
{
    kvrt_error error = {.size = sizeof error};
    if (kvi_os_map(path, NULL, map, &error) != KVRT_OK) fail_msg("%s", error.message);
    kvi_json_init(r, (const char *)map->data, (size_t)map->len);
}

/* Steps to the value of `key` in the object that comes next; false: there is none. */
static inline bool case_find(kvi_json *r, const char *key)
{
    kvi_json_expect(r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(r)) {
        if (kvi_json_key_is(r, key)) return true;
        kvi_json_skip(r);
    }
    return false;
}

/* Fails the test when a case differs. Returns the number of cases. */
static inline int case_run_file(const kvi_tokenizer *tok, const char *path, const case_rules *rules)
{
    kvi_map map = {0}, exceptions_map = {0};
    kvi_json r, exceptions = {0};
    case_map(path, &map, &r);
    bool replace = rules->exceptions != NULL;
    if (replace) {
        case_map(rules->exceptions, &exceptions_map, &exceptions);
        if (!case_find(&exceptions, "cases")) fail_msg("%s: no cases", rules->exceptions);
    }
    case_totals totals = {0};
    if (!case_find(&r, "cases")) fail_msg("%s: no cases", path);
    kvi_json_expect(&r, KVI_JSON_ARRAY);
    while (kvi_json_next_item(&r)) case_run_one(tok, &r, replace ? &exceptions : NULL, rules, &totals);
    if (r.error) fail_msg("%s: %s at byte %zu", path, r.error, r.error_pos);
    kvi_os_unmap(&map);
    kvi_os_unmap(&exceptions_map);
    printf("%s: %d cases, %d replaced by the reference's, %d differences\n", path, totals.n_cases, totals.n_replaced,
           totals.n_failed);
    assert_int_equal(totals.n_failed, 0);
    assert_true(totals.n_cases > 0);
    return totals.n_cases;
}

#endif
