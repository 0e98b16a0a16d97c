/* test_grammar_schema.c - JSON Schema: the JSON-Schema-Test-Suite (test/golden/make_grammar.py), what is refused and how it is said, what the
 * suite has
 * no case for. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/grammar/json_tree.h"
#include "runtime/grammar/matcher.h"
#include "runtime/grammar/schema.h"
#include "grammar_accepts.h"

static kvrt_status compile(const char *schema, size_t len, kvi_grammar **out, kvrt_error *error)
{
    *error = (kvrt_error){.size = sizeof *error};
    return kvi_schema_compile(schema, len, kvi_grammar_default_limits(), out, error);
}

/* A tree as text again. */
static void write_json(const kvi_json_value *v, kvi_buf *out)
{
    const bool object = v->type == KVI_JSON_OBJECT;
    if (v->type == KVI_JSON_STRING) kvi_json_write_string(out, v->text, v->len);
    else if (!object && v->type != KVI_JSON_ARRAY) kvi_buf_append(out, v->text, v->len);
    else {
        kvi_buf_append_byte(out, object ? '{' : '[');
        for (const kvi_json_value *c = v->first; c; c = c->next) {
            if (c != v->first) kvi_buf_append_byte(out, ',');
            if (object) kvi_json_write_string(out, c->key, c->key_len), kvi_buf_append_byte(out, ':');
            write_json(c, out);
        }
        kvi_buf_append_byte(out, object ? '}' : ']');
    }
}

static void the_test_suite(void **state)
{
    (void)state;
    kvi_arena arena;
    kvi_json_value *root;
    kvrt_error error = {.size = sizeof error};
    unsigned n_valid = 0, n_invalid = 0, n_open = 0, n_refused = 0;
    FILE *f = fopen(KVRT_TEST_DIR "/golden/grammar/suite.json", "rb");
    assert_non_null(f);
    static char json[2 << 20];
    const size_t n = fread(json, 1, sizeof json, f);
    fclose(f);
    kvi_arena_init(&arena, 1u << 16);
    if (kvi_json_tree(json, n, "suite.json", &arena, &root, &error) < KVRT_OK) fail_msg("%s", error.message);
    for (const kvi_json_value *c = kvi_json_get(root, "cases")->first; c; c = c->next) {
        const kvi_json_value *refused = kvi_json_get(c, "refused");
        kvi_buf schema = {0};
        kvi_grammar *g = NULL;
        write_json(kvi_json_get(c, "schema"), &schema);
        const kvrt_status status = compile(schema.data, schema.len, &g, &error);
        if ((status < KVRT_OK) != (refused != NULL) || (refused && !strstr(error.message, refused->text)))
            fail_msg("%s: %s, need %s", schema.data, status < KVRT_OK ? error.message : "ok",
                     refused ? refused->text : "ok");
        n_refused += refused != NULL;
        for (const kvi_json_value *t = kvi_json_get(c, "texts")->first; t && !refused; t = t->next) {
            const kvi_json_value *text = t->first;
            const bool valid = text->next->type == KVI_JSON_TRUE, open = t->n > 2;
            if (accepts(g, text->text, text->len) != (valid && !open))
                fail_msg("%s: %s should be %d", schema.data, text->text, valid);
            n_valid += valid, n_invalid += !valid, n_open += open;
        }
        kvi_grammar_free(g);
        kvi_buf_free(&schema);
    }
    assert_true(n_valid > 450 && n_invalid > 450 && n_open < 45 && n_refused < 150);
    kvi_arena_free(&arena);
}

/* Keyword and place of everything that no grammar says; never ignored. */
static void what_is_refused_is_named(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"{\"contains\":{}}", "grammar.schema: #/contains: not supported"},
        {"{\"properties\":{\"a\":{\"items\":{\"uniqueItems\":true,\"type\":\"array\"}}}}",
         "/properties/a/items/uniqueItems: not supported"},
        {"{\"$defs\":{\"x/y\":{\"minContains\":1}},\"$ref\":\"#/$defs/x~1y\"}",
         "/$defs/x~1y/minContains: not supported"},
        {"{\"maxContains\":1}", "/maxContains: not supported"},
        {"{\"$dynamicRef\":\"#a\"}", "/$dynamicRef: not supported"},
        {"{\"$ref\":\"other.json\"}", "/$ref: nothing in this schema is there"},
        {"{\"$ref\":\"#/$defs/none\"}", "/$ref: nothing in this schema is there"},
        {"{\"format\":\"regex\",\"type\":\"string\"}", "/format: an unknown format"},
        {"{\"pattern\":\"(a\"}", "/pattern: ( without )"},
        {"{\"pattern\":\"\\\\bfoo\"}", "/pattern: word boundaries are not supported"},
        {"{\"oneOf\":[{\"type\":\"string\"},{\"maxLength\":3}]}", "/oneOf: two of them may hold at once"},
        {"{\"not\":{\"minimum\":3}}", "/not: supported of types"},
        {"{\"if\":{\"minimum\":3},\"then\":{\"multipleOf\":2}}", "/if: supported of types"},
        {"{\"unevaluatedProperties\":false,\"allOf\":[{}]}", "/unevaluatedProperties: not supported beside"},
        {"{\"multipleOf\":1.2345678}", "multipleOf: need a positive number"},
        {"{\"multipleOf\":0}", "/multipleOf: need a number above 0"},
        {"{\"MaxLength\":3}", "/MaxLength: no keyword, but for letter case it would be one"},
        {"{\"type\":\"text\"}", "/type: need one of"},
        {"{\"type\":\"array\",\"maxItems\":5000,\"items\":{}}", "/maxItems: more than 4096"},
        {"{\"minLength\":-1}", "/minLength: need a whole number"},
        {"{\"minItems\":1.5}", "/minItems: need a whole number"},
        {"{\"required\":true}", "/required: need an array of names"},
        {"{\"anyOf\":[]}", "/anyOf: need an array of at least one schema"},
        {"{\"properties\":{\"a\":5}}", "/properties/a: a schema is an object, true or false"},
        {"{\"$ref\":\"#\"}", "it refers to itself before it allows a value"},
        {"{\"allOf\":[{\"type\":\"string\"},{\"type\":\"null\"}]}", "no text satisfies it"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}", "no text satisfies it"},
        {"{\"type\": \"object\",}", "grammar.schema: "},
        {"", "grammar.schema: "},
        {"[]", "a schema is an object, true or false"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        kvi_grammar *g = NULL;
        kvrt_error error;
        const kvrt_status status = compile(bad[i][0], strlen(bad[i][0]), &g, &error);
        if (status != KVRT_GRAMMAR || !strstr(error.message, bad[i][1]))
            fail_msg("%s: %d %s", bad[i][0], status, error.message);
    }
}

/* Schemas with texts that satisfy them and, behind NULL, texts that do not. */
static void what_the_suite_leaves_out(void **state)
{
    (void)state;
    static const char *const cases[][14] = {
        {"{\"type\":\"integer\",\"minimum\":-12,\"maximum\":105}", "-12", "-1", "0", "99", "105", NULL, "-13", "106",
         "-0", "007", "1.0", "--1"},
        {"{\"type\":\"number\",\"exclusiveMinimum\":-0.05,\"maximum\":1e2}", "-0.049", "0", "0.5", "1e1", "1E+02", NULL,
         "-0.05", "-5e-02", "100.01", "1.01e2", "10e0", "0e1"},
        {"{\"minimum\":0.25,\"exclusiveMaximum\":0.3,\"type\":\"number\"}", "0.25", "0.250", "0.2999", NULL, "0.3",
         "0.2", "0.24", "1", "0"},
        {"{\"type\":\"integer\",\"multipleOf\":25,\"minimum\":30}", "50", "75", "1000", NULL, "25", "51", "0", "-50"},
        {"{\"type\":\"number\",\"multipleOf\":0.25}", "0.25", "1.5", "3", "-2.75", NULL, "0.3", "1.255"},
        {"{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}", "\"ab\"", "\"\\u00e9\\n\"", "\"\xf0\x9f\x98\x80x\"",
         "\"\\ud83d\\ude00xy\"", NULL, "\"a\"", "\"abcd\"", "\"\\ud83dx\"", "\"a\nb\"", "\"\x01 \""},
        {"{\"type\":\"string\",\"pattern\":\"^(?!admin)(?=.*\\\\d)[a-z0-9\\\"]{3,8}$\"}", "\"abc1\"", "\"1\\\"a\"",
         NULL, "\"admin1\"", "\"abc\"", "\"a1\"", "\"abc1\\u0061\""},
        {"{\"type\":\"object\",\"properties\":{\"a\":{},\"b\":{},\"c\":{}},\"required\":[\"b\"],"
         "\"additionalProperties\":false}",
         "{\"b\":1}", "{\"a\": 1, \"b\": 2, \"c\": 3}", "{\n  \"b\": 1,\n  \"c\": {}\n}", NULL, "{}", "{\"a\":1}",
         "{\"b\":1,\"b\":1}", "{\"c\":1,\"b\":2}", "{\"b\":1,}", "{\"b\":1,\"d\":1}"},
        {"{\"type\":\"object\",\"minProperties\":2,\"maxProperties\":3,\"properties\":{\"a\":{\"type\":\"null\"}},"
         "\"additionalProperties\":{\"type\":"
         "\"integer\"}}",
         "{\"a\":null,\"x\":1}", "{\"x\":1,\"y\":2}", "{\"a\":null,\"x\":1,\"y\":2}", NULL, "{\"a\":null}", "{}",
         "{\"x\":1,\"y\":2,\"z\":3,\"w\":4}", "{\"x\":1,\"a\":null}"},
        {"{\"$defs\":{\"tree\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},\"kids\":{\"type\":"
         "\"array\",\"items\":{\"$ref\":"
         "\"#/$defs/tree\"}}},\"required\":[\"v\"],\"additionalProperties\":false}},\"$ref\":\"#/$defs/tree\"}",
         "{\"v\":1}", "{\"v\":1,\"kids\":[{\"v\":2,\"kids\":[]},{\"v\":3}]}", NULL, "{\"v\":1,\"kids\":[{}]}",
         "{\"v\":1,\"kids\":[{\"v\":2}}"},
        {"{\"allOf\":[{\"properties\":{\"a\":{\"minimum\":3}}},{\"properties\":{\"a\":{\"type\":\"integer\","
         "\"maximum\":5}},\"required\":[\"a\"]}],\"type\":"
         "\"object\"}",
         "{\"a\":3}", "{\"a\":5,\"b\":null}", NULL, "{\"a\":2}", "{\"a\":6}", "{}", "3"},
        {"{\"oneOf\":[{\"type\":\"object\",\"properties\":{\"k\":{\"const\":\"x\"},\"v\":{\"type\":\"integer\"}},"
         "\"required\":[\"k\",\"v\"]},{\"type\":\"object\","
         "\"properties\":{\"k\":{\"const\":\"y\"}},\"required\":[\"k\"]}]}",
         "{\"k\":\"x\",\"v\":1}", "{\"k\":\"y\"}", NULL, "{\"k\":\"x\"}", "{\"k\":\"z\"}"},
        {"{\"enum\":[\"a\\\"b\",12,{\"k\":[1,null]},true]}", "\"a\\\"b\"", "12", "{\"k\": [1, null]}", "true", NULL,
         "false", "1", "{\"k\":[1]}", "\"a\"b\""},
        {"{\"if\":{\"properties\":{\"t\":{\"const\":\"n\"}},\"required\":[\"t\"]},\"then\":{\"required\":[\"v\"]},"
         "\"else\":{\"maxProperties\":2},\"type\":"
         "\"object\",\"properties\":{\"t\":{\"type\":\"string\"},\"v\":{\"type\":\"integer\"}}}",
         "{\"t\":\"n\",\"v\":1}", "{\"t\":\"m\"}", "{}", NULL, "{\"t\":\"n\"}", "{\"t\":\"m\",\"v\":1,\"w\":2}"},
        {"{\"type\":[\"string\",\"null\"],\"nullable\":true,\"maxLength\":1}", "\"a\"", "null", NULL, "\"ab\"", "1"},
        {"{\"type\":\"array\",\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"string\"}],\"items\":false,"
         "\"minItems\":1}",
         "[1]", "[1,\"a\"]", NULL, "[]", "[\"a\"]", "[1,\"a\",2]"},
        {"{\"type\":\"object\",\"propertyNames\":{\"pattern\":\"^[a-z]+$\"},\"patternProperties\":{\"^n\":{\"type\":"
         "\"integer\"}},\"additionalProperties\":"
         "{\"type\":\"string\"}}",
         "{\"nx\":1,\"a\":\"b\"}", "{}", NULL, "{\"nx\":\"1\"}", "{\"A\":\"b\"}", "{\"a\":1}"},
        {"{\"type\":\"string\",\"format\":\"date\"}", "\"0001-01-01\"", "\"0004-02-29\"", "\"0400-02-29\"", NULL,
         "\"0000-08-12\"", "\"0000-02-29\"", "\"0100-02-29\"", "\"001-01-01\""},
        {"{\"type\":\"string\",\"format\":\"date\"}", "\"2024-02-29\"", "\"2000-02-29\"", "\"1999-12-31\"", NULL,
         "\"2023-02-29\"", "\"1900-02-29\"", "\"2023-13-01\"", "\"2023-04-31\""},
        /* Properties in the order in which the schema's keywords name them; those that are only required are behind them. */
        {"{\"required\":[\"z\",\"b\"],\"allOf\":[{\"properties\":{\"b\":{},\"a\":{}}}],\"properties\":{\"c\":{},\"a\":{"
         "}}}",
         "{\"b\":1,\"a\":2,\"c\":3,\"z\":4}", "{\"b\":1,\"c\":3,\"z\":4,\"y\":5}", NULL, "{\"z\":4,\"b\":1}",
         "{\"a\":2,\"b\":1,\"z\":4}", "{\"b\":1}"},
        {"{\"properties\":{\"c\":{},\"a\":{}},\"anyOf\":[{\"properties\":{\"b\":{},\"a\":{}},\"required\":[\"z\"]},"
         "{\"required\":[\"b\",\"a\"]}]}",
         "{\"c\":1,\"a\":2,\"b\":3}", "{\"c\":1,\"a\":2,\"b\":3,\"z\":4}", "{\"a\":2,\"b\":3}", NULL,
         "{\"b\":3,\"a\":2}", "{\"a\":2}"},
        /* Drafts up to 7 ignore what stands beside $ref; keywords of later drafts are notes. */
        {"{\"$schema\":\"http://json-schema.org/draft-07/schema#\",\"properties\":{\"a\":{\"$ref\":\"#/definitions/"
         "n\",\"maximum\":3,"
         "\"contains\":{}}},\"definitions\":{\"n\":{\"type\":\"integer\"}}}",
         "{\"a\":5}", NULL, "{\"a\":\"5\"}"},
        {"{\"properties\":{\"a\":{\"$ref\":\"#/definitions/"
         "n\",\"maximum\":3}},\"definitions\":{\"n\":{\"type\":\"integer\"}}}",
         "{\"a\":3}", NULL, "{\"a\":5}"},
        {"{\"$schema\":\"http://json-schema.org/draft-04/"
         "schema\",\"type\":\"object\",\"if\":{\"minimum\":3},\"then\":false,"
         "\"propertyNames\":false,\"contains\":{},\"properties\":{\"a\":{\"const\":1}}}",
         "{\"a\":2}", "{}", NULL, "1"},
        {"{\"$schema\":\"http://json-schema.org/draft-06/"
         "schema\",\"if\":true,\"then\":false,\"properties\":{\"a\":{\"const\":1}}}",
         "{\"a\":1}", NULL, "{\"a\":2}"},
        {"{\"enum\":[2.0,-0.50,1e2,[3.0]]}", "2", "2.0", "-0.5", "-0.50", "100", "1e2", "[3]", NULL, "2.00", "-2", "5",
         "0.5"},
        {"{}", "null", "[]", "{}", "[1, {\"a\": [true]}]", "-1.5e+10", NULL, "[1,]", "{a:1}", "nul", "01", "[1  ]", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kvi_grammar *g = NULL;
        kvrt_error error;
        if (compile(cases[i][0], strlen(cases[i][0]), &g, &error) < KVRT_OK)
            fail_msg("%s: %s", cases[i][0], error.message);
        bool valid = true;
        for (size_t k = 1; k < 14; k++) {
            if (!cases[i][k]) {
                if (!valid) break;
                valid = false;
                continue;
            }
            if (accepts(g, cases[i][k], strlen(cases[i][k])) != valid)
                fail_msg("%s: %s should be %d", cases[i][0], cases[i][k], valid);
        }
        kvi_grammar_free(g);
    }
}

/* Words of which there are so many, in a string of such a length: where it has reached its length within blanks it cannot end, and whether it can before is
 * found without looking at all texts between. */
static void words_within_a_length(void **state)
{
    static const struct {
        unsigned words, most, least;
    } cases[] = {{50, 500, 0}, {10, 120, 1}, {20, 200, 1}, {50, 500, 8}};
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        char schema[300], text[6000];
        kvi_grammar *g;
        const int len = snprintf(schema, sizeof schema,
                                 "{\"type\":\"array\",\"items\":{\"type\":\"string\",\"minLength\":%u,\"maxLength\":%u,"
                                 "\"pattern\":\"^(?:\\\\S+\\\\s+){0,%u}\\\\S+$\"},\"maxItems\":2}",
                                 cases[i].least, cases[i].most, cases[i].words - 1);
        assert_int_equal(kvi_schema_compile(schema, (size_t)len, kvi_grammar_default_limits(), &g, NULL), KVRT_OK);
        const unsigned word = (cases[i].most + 1) / cases[i].words - 1; /* all of them fill the length, or nearly */
        for (unsigned n = cases[i].words - 1; n <= cases[i].words + 1; n++)
            for (int blank = 0; blank < 2; blank++) {
                size_t at = 0;
                text[at++] = '[', text[at++] = '"';
                for (unsigned w = 0; w < n; w++) {
                    for (unsigned k = 0; k < word - (n > cases[i].words); k++) text[at++] = (char)('a' + (w + k) % 26);
                    if (w + 1 < n || blank) text[at++] = ' ';
                }
                const size_t chars = at - 2;
                text[at++] = '"', text[at++] = ']';
                const bool fits = n <= cases[i].words && !blank && chars <= cases[i].most && chars >= cases[i].least;
                if (accepts(g, text, at) != fits) fail_msg("case %u, %u words, %zu characters: %d", i, n, chars, fits);
            }
        kvi_grammar_free(g);
    }
}

/* Numbers between bounds, without and with an exponent: against doubles, which hold all of these exactly enough to be compared. */
static void numbers_with_exponents(void **state)
{
    (void)state;
    static const char *const bounds[] = {"-1e3", "-12.5",  "-1",   "-0.02", "-1e-7", "0",    "1e-7", "0.00123",
                                         "0.02", "0.0999", "0.25", "1",     "9.99",  "12.5", "100",  "1e3"};
    static const char *const mantissas[] = {"0",    "1",     "2",    "9",    "10",    "1.0",   "1.2",
                                            "1.23", "1.230", "1.24", "9.99", "9.990", "9.991", "0.5"};
    static const char *const powers[] = {"",     "e0",  "e-0", "E+2",  "e2",  "e02", "e3", "e-1", "e-2",
                                         "e-02", "e-3", "e-7", "E-07", "e-8", "e1",  "e4", "e12"};
    const size_t n = sizeof bounds / sizeof *bounds, n_powers = sizeof powers / sizeof *powers;
    unsigned n_in = 0, n_out = 0;
    for (size_t k = 0; k < n * (n + 1) * 4; k++) {
        const char *low = k % n < n - 1 ? bounds[k % n] : NULL,
                   *high = k / n % (n + 1) < n ? bounds[k / n % (n + 1)] : NULL;
        const bool low_open = k / n / (n + 1) & 1, high_open = k / n / (n + 1) & 2;
        char schema[200];
        int len = snprintf(schema, sizeof schema, "{\"type\":\"number\"");
        if (low)
            len += snprintf(schema + len, sizeof schema - (size_t)len, ",\"%s\":%s",
                            low_open ? "exclusiveMinimum" : "minimum", low);
        if (high)
            len += snprintf(schema + len, sizeof schema - (size_t)len, ",\"%s\":%s",
                            high_open ? "exclusiveMaximum" : "maximum", high);
        len += snprintf(schema + len, sizeof schema - (size_t)len, "}");
        kvi_grammar *g = NULL;
        kvrt_error error;
        const kvrt_status status = compile(schema, (size_t)len, &g, &error);
        const double from = low ? strtod(low, NULL) : -HUGE_VAL, to = high ? strtod(high, NULL) : HUGE_VAL;
        const bool empty = from > to || (from == to && (low_open || high_open));
        if ((status == KVRT_GRAMMAR) != empty) fail_msg("%s: %d %s", schema, status, error.message);
        for (size_t t = 0; t < sizeof mantissas / sizeof *mantissas * n_powers * 2 && !empty; t++) {
            const char *m = mantissas[t / 2 / n_powers], *power = powers[t / 2 % n_powers];
            char text[40];
            const int text_len = snprintf(text, sizeof text, "%s%s%s", t & 1 ? "-" : "", m, power);
            const double x = strtod(text, NULL), front = t & 1 ? -strtod(m, NULL) : strtod(m, NULL);
            const bool fits = x >= from && x <= to && !(low_open && x == from) && !(high_open && x == to);
            /* What may be left out: zero below zero, exponents behind other digits than d or d.ddd, or behind a number that does not fit itself. */
            const bool other =
                (x == 0 && t & 1) || (*power && (*m == '0' || strcmp(m, "10") == 0 || front < from || front > to ||
                                                 (low_open && front == from) || (high_open && front == to)));
            if (accepts(g, text, (size_t)text_len) != fits && !(fits && other))
                fail_msg("%s: %s should be %d", schema, text, fits);
            *(fits ? &n_in : &n_out) += 1;
        }
        kvi_grammar_free(g);
    }
    assert_true(n_in > 10000 && n_out > 10000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_test_suite),
        cmocka_unit_test(what_is_refused_is_named),
        cmocka_unit_test(what_the_suite_leaves_out),
        cmocka_unit_test(words_within_a_length),
        cmocka_unit_test(numbers_with_exponents),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
