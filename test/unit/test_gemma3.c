/* test_gemma3.c - a real GGUF file, Gemma 3 270M (base) in Q4_K_M, against transformers' reading of it (test/golden/gguf/gemma3.bin, float32): logits
 * of 1,200 positions, which are more than two windows, its vocabulary of 262,144, and a continuation. Skipped where the model is not:
 * `examples/models/fetch.sh gemma3` brings it. */
#include "real_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

enum { BYTES, PROMPT, TEXT, LISTS };
static real_golden load(void) { return real_load("gemma3/gemma-3-270m-q4_k_m.gguf", "gemma3.bin", LISTS); }

static void logits_are_those_of_transformers(void **state)
{
    real_golden g = load();
    kvrt_engine engine = real_open(&g, "f32");
    assert_true(real_logit_error(&g, engine) <= REAL_LIMIT);
    kvrt_engine_close(engine, NULL);
    real_free(&g);
}

/* Runs of spaces and newlines, digits, several scripts: the ids are those of transformers, and so is what follows. */
static void a_text_goes_on_like_that_of_transformers(void **state)
{
    real_golden g = load();
    kvrt_engine engine = real_open(&g, "f16");
    kvrt_error error = {.size = sizeof error};
    char text[1024];
    int32_t ids[512];
    uint64_t n;
    assert_true(g.lists[BYTES].n < sizeof text);
    for (uint32_t i = 0; i < g.lists[BYTES].n; i++) text[i] = (char)real_item(&g.lists[BYTES], i);
    if (kvrt_tokenize(engine, text, g.lists[BYTES].n, KVRT_TOKENIZE_ADD_SPECIAL, ids, 512, &n, &error) < KVRT_OK)
        fail_msg("%s", error.message);
    assert_int_equal(n, g.lists[PROMPT].n);
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] != real_item(&g.lists[PROMPT], i))
            fail_msg("id %u is %d, need %d", i, ids[i], real_item(&g.lists[PROMPT], i));
    real_text(engine, ids, (uint32_t)n, &g.lists[TEXT]);
    kvrt_engine_close(engine, NULL);
    real_free(&g);
}

/* A base model: it completes, and a chat says what is missing. */
static void a_chat_says_that_there_is_no_template(void **state)
{
    real_golden g = load();
    kvrt_engine engine = real_open(&g, "f16");
    kvrt_error error = {.size = sizeof error};
    kvrt_chat_input input = {.size = sizeof input,
                             .messages = "[{\"role\":\"user\",\"content\":\"Hello\"}]",
                             .messages_len = -1,
                             .add_generation_prompt = 1};
    int32_t ids[64];
    uint64_t n;
    assert_true(kvrt_chat_render(engine, &input, ids, 64, &n, NULL, 0, NULL, &error) < KVRT_OK);
    assert_non_null(strstr(error.message, "template"));
    kvrt_engine_close(engine, NULL);
    real_free(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(logits_are_those_of_transformers),
                                       cmocka_unit_test(a_text_goes_on_like_that_of_transformers),
                                       cmocka_unit_test(a_chat_says_that_there_is_no_template)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
