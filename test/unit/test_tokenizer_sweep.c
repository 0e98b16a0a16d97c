/* test_tokenizer_sweep.c - every code point, in four neighbourhoods, through the normalizers and pre-tokenizers of
 * well-known models: the ids of each block of 4,096 code points must have the hash that the reference library's ids
 * have (test/golden/tokenizers/make_sweep.py, which says how the texts are made). */
#include "tokenizer_cases.h"

#include "runtime/base/utf8.h"

#include <stdlib.h>

#define BLOCK 4096u
#define RICH_END 0x32000u
#define N_CODE_POINTS 0x110000u

static void block_text(kvi_buf *out, uint32_t first)
{
    kvi_buf_clear(out);
    for (uint32_t cp = first; cp < first + BLOCK; cp++) {
        char c[5] = "";
        if (cp >= 0xd800 && cp < 0xe000) continue;
        size_t n = kvi_utf8_encode(c, cp);
        static const char *const after[] = {"b ", "1", ".", "\n"};
        kvi_buf_append_str(out, "a");
        for (size_t k = 0; k < (cp < RICH_END ? 4 : 1); k++) {
            kvi_buf_append(out, c, n);
            kvi_buf_append_str(out, cp < RICH_END ? after[k] : "b");
        }
    }
}

static uint32_t ids_hash(const kvi_ids *ids)
{
    uint32_t value = 0x811c9dc5u;
    for (size_t i = 0; i < ids->len; i++) value = (value ^ (uint32_t)ids->data[i]) * 0x01000193u;
    return value;
}

/* The value at r, as text. */
static void append_value(kvi_buf *out, const char *key, kvi_json r)
{
    size_t start = r.pos;
    kvi_json_skip(&r);
    kvi_buf_append_str(out, key);
    kvi_buf_append(out, r.text + start, r.pos - start);
}

typedef struct totals {
    int n_pipelines, n_blocks, n_failed;
} totals;

static void sweep(totals *t, const char *name, const kvi_buf *json, const char *hashes)
{
    kvi_tokenizer *tok = NULL;
    kvrt_error error = {.size = sizeof error};
    if (kvi_tokenizer_load_json(json->data, json->len, NULL, 0, name, &tok, &error) != KVRT_OK)
        fail_msg("%s: %s", name, error.message);
    kvi_buf text = {0};
    kvi_ids ids = {0};
    t->n_pipelines++;
    const uint32_t step = getenv("KVRT_TEST_QUICK") ? 5 * BLOCK : BLOCK; /* a sample in the loop of an edit */
    for (uint32_t first = 0; first < N_CODE_POINTS; first += step, t->n_blocks++) {
        char got[9];
        block_text(&text, first);
        ids.len = 0;
        if (text.len && kvi_tokenizer_encode(tok, text.data, text.len, 0, &ids, &error) != KVRT_OK)
            fail_msg("%s: %s", name, error.message);
        (void)snprintf(got, sizeof got, "%08x", (unsigned)ids_hash(&ids));
        if (memcmp(got, hashes + first / BLOCK * 8, 8) == 0) continue;
        t->n_failed++;
        printf("FAIL %s: U+%04X to U+%04X differ\n", name, (unsigned)first, (unsigned)(first + BLOCK - 1));
    }
    kvi_buf_free(&text);
    kvi_ids_free(&ids);
    kvi_tokenizer_free(tok);
}

static void run_pipeline(totals *t, const char *name, kvi_json *r, const kvi_json *model)
{
    kvi_buf json = {0}, hashes = {0};
    append_value(&json, "{\"model\":", *model);
    kvi_json_expect(r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(r)) {
        if (kvi_json_key_is(r, "normalizer")) append_value(&json, ",\"normalizer\":", *r);
        else if (kvi_json_key_is(r, "pre_tokenizer")) append_value(&json, ",\"pre_tokenizer\":", *r);
        else if (kvi_json_key_is(r, "hashes")) {
            case_read_text(r, &hashes);
            continue;
        }
        kvi_json_skip(r);
    }
    kvi_buf_append_str(&json, "}");
    assert_int_equal(hashes.len, N_CODE_POINTS / BLOCK * 8);
    sweep(t, name, &json, hashes.data);
    kvi_buf_free(&json);
    kvi_buf_free(&hashes);
}

static void test_every_code_point(void **state)
{
    (void)state;
    kvi_map map = {0};
    kvi_json r, model;
    kvi_buf name = {0};
    case_map(KVRT_TEST_DIR "/golden/tokenizers/sweep.json", &map, &r);
    model = r;
    assert_true(case_find(&r, "pipelines") && case_find(&model, "model"));
    totals t = {0};
    kvi_json_expect(&r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(&r)) {
        kvi_buf_clear(&name);
        kvi_json_str_copy(&r, &name);
        run_pipeline(&t, name.data, &r, &model);
    }
    assert_null(r.error);
    kvi_os_unmap(&map);
    kvi_buf_free(&name);
    printf("%d pipelines, %d blocks, %d differ\n", t.n_pipelines, t.n_blocks, t.n_failed);
    assert_true(t.n_pipelines >= 13);
    assert_int_equal(t.n_failed, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_code_point)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
