/* test_smollm2.c - a real GGUF file, SmolLM2-135M-Instruct in Q4_1, against transformers' reading of it (test/golden/gguf/smollm2.bin, float32):
 * logits of 2,000 positions, and a chat. Skipped where the model is not: `examples/models/fetch.sh smollm2` brings it. */
#include "real_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

enum { PROMPT, TEXT, LISTS };
static real_golden load(void) { return real_load("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2.bin", LISTS); }

static void logits_are_those_of_transformers(void **state)
{
    real_golden g = load();
    kvrt_engine engine = real_open(&g, "f32");
    assert_true(real_logit_error(&g, engine) <= REAL_LIMIT);
    kvrt_engine_close(engine, NULL);
    real_free(&g);
}

/* What activations of 8 bits cost: DESIGN.md, Weights. */
static void integers_are_close(void **state)
{
    real_golden g = load();
    double divergence, agreement;
    kvrt_engine exact = real_open(&g, "f16"), integers = real_open_exact(&g, "f16", "false");
    real_distance(&g, exact, integers, &divergence, &agreement);
    assert_true(divergence <= 4e-3 && agreement >= 0.95);
    kvrt_engine_close(exact, NULL), kvrt_engine_close(integers, NULL);
    real_free(&g);
}

/* The file's template and tokenizer give the ids of the Rust library, and greedy decoding transformers' text. */
static void a_chat_is_that_of_transformers(void **state)
{
    real_golden g = load();
    kvrt_engine engine = real_open(&g, "f16");
    kvrt_error error = {.size = sizeof error};
    kvrt_chat_input input = {.size = sizeof input,
                             .messages = "[{\"role\":\"user\",\"content\":\"What is the capital of France?\"}]",
                             .messages_len = -1,
                             .add_generation_prompt = 1};
    int32_t ids[256];
    uint64_t n;
    if (kvrt_chat_render(engine, &input, ids, 256, &n, NULL, 0, NULL, &error) < KVRT_OK) fail_msg("%s", error.message);
    assert_int_equal(n, g.lists[PROMPT].n);
    for (uint32_t i = 0; i < n; i++) assert_int_equal(ids[i], real_item(&g.lists[PROMPT], i));
    real_text(engine, ids, (uint32_t)n, &g.lists[TEXT]);
    kvrt_engine_close(engine, NULL);
    real_free(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(logits_are_those_of_transformers),
                                       cmocka_unit_test(integers_are_close),
                                       cmocka_unit_test(a_chat_is_that_of_transformers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
