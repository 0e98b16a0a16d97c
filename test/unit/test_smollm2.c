/* test_smollm2.c - a real GGUF file, SmolLM2-135M-Instruct in Q4_1, against transformers' reading of it (test/golden/gguf/smollm2.bin, float32):
 * logits of 2,000 positions, and a chat. Skipped where the model is not: `examples/models/fetch.sh smollm2` brings it. */
#include "../../runtime/kvrt.h"
#include "../../runtime/base/mem.h"
#include "../../runtime/base/os.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define MODEL KVRT_TEST_DIR "/../examples/models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
#define LIMIT 2e-4 /* of the logits' standard deviation, as for folders in f32 */
#define BATCH 100u
#define SAMPLES 16u

typedef struct position {
    int32_t id, best;
    float best_logit, log_sum_exp, samples[SAMPLES];
} position;

typedef struct golden {
    kvi_map map;
    uint32_t n, vocab, n_prompt, n_new;
    float std;
    const uint8_t *positions, *prompt, *text; /* of position, of int32_t */
} golden;

static uint32_t word(const golden *g, uint64_t offset)
{
    uint32_t value;
    assert_true(offset + 4 <= g->map.len);
    memcpy(&value, g->map.data + offset, 4);
    return value;
}

static golden load(void)
{
    golden g = {0};
    kvrt_error error = {.size = sizeof error};
    if (kvi_os_path_kind(MODEL) != KVI_OS_FILE) {
        print_message("skipped: no %s (examples/models/fetch.sh smollm2)\n", MODEL);
        skip();
    }
    if (kvi_os_map(KVRT_TEST_DIR "/golden/gguf/smollm2.bin", &kvi_mem_copies, &g.map, &error) < KVRT_OK)
        fail_msg("%s", error.message);
    g.n = word(&g, 0), g.vocab = word(&g, 4);
    memcpy(&g.std, g.map.data + 8, 4);
    g.positions = g.map.data + 12;
    uint64_t at = 12 + (uint64_t)g.n * sizeof(position);
    g.n_prompt = word(&g, at);
    g.prompt = g.map.data + at + 4;
    at += 4 + 4 * (uint64_t)g.n_prompt;
    g.n_new = word(&g, at);
    g.text = g.map.data + at + 4;
    assert_int_equal(at + 4 + 4 * (uint64_t)g.n_new, g.map.len);
    return g;
}

static kvrt_engine open_model(const char *format)
{
    kvrt_options *options;
    kvrt_engine engine;
    kvrt_error error = {.size = sizeof error};
    assert_int_equal(kvrt_options_create(&options, NULL), KVRT_OK);
    kvrt_options_set_string(options, "model.path", MODEL, -1, NULL);
    static const char *const pairs[][2] = {
        {"device.backend", "cpu"}, {"ctx.size", "2048"}, {"sample.temperature", "0"}, {"gen.max_tokens", "24"}};
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++)
        assert_int_equal(kvrt_options_set_text(options, pairs[i][0], pairs[i][1], NULL), KVRT_OK);
    assert_int_equal(kvrt_options_set_text(options, "kv.format", format, NULL), KVRT_OK);
    if (kvrt_engine_open(options, NULL, NULL, &engine, &error) < KVRT_OK) fail_msg("%s", error.message);
    kvrt_options_destroy(options);
    return engine;
}

static position position_at(const golden *g, uint32_t index)
{
    position p;
    memcpy(&p, g->positions + (size_t)index * sizeof p, sizeof p);
    return p;
}

/* Largest error of what is kept of a row; a NaN is infinite. */
static double row_error(const golden *g, uint32_t index, const float *logits)
{
    const position p = position_at(g, index);
    double sum = 0, worst = fabs((double)logits[p.best] - (double)p.best_logit);
    for (uint32_t v = 0; v < g->vocab; v++) sum += exp((double)logits[v] - (double)p.best_logit);
    const double lse = fabs((double)p.best_logit + log(sum) - (double)p.log_sum_exp);
    if (!(lse <= worst)) worst = lse;
    for (uint32_t k = 0; k < SAMPLES; k++) {
        const uint64_t at = ((uint64_t)index * 7919u + k * 104729u) % g->vocab;
        const double e = fabs((double)logits[at] - (double)p.samples[k]);
        if (!(e <= worst)) worst = e;
    }
    return isnan(worst) ? INFINITY : worst;
}

static void logits_are_those_of_transformers(void **state)
{
    golden g = load();
    kvrt_engine engine = open_model("f32");
    kvrt_session session;
    kvrt_error error = {.size = sizeof error};
    float *logits = malloc((size_t)BATCH * g.vocab * sizeof *logits);
    uint32_t rows[BATCH];
    int32_t ids[BATCH];
    double worst = 0;
    assert_int_equal(kvrt_session_create(engine, NULL, &session, &error), KVRT_OK);
    for (uint32_t first = 0; first < g.n; first += BATCH) {
        const uint32_t n = g.n - first < BATCH ? g.n - first : BATCH;
        for (uint32_t i = 0; i < n; i++) rows[i] = i, ids[i] = position_at(&g, first + i).id;
        if (kvrt_session_eval(session, ids, n, rows, n, logits, &error) < KVRT_OK) fail_msg("%s", error.message);
        for (uint32_t i = 0; i < n; i++) {
            const double e = row_error(&g, first + i, logits + (size_t)i * g.vocab);
            if (!(e <= worst)) worst = e;
        }
    }
    print_message("%u positions: largest error %.2e of the standard deviation\n", g.n, worst / (double)g.std);
    assert_true(worst <= LIMIT * (double)g.std);
    free(logits);
    kvrt_session_close(session, NULL);
    kvrt_engine_close(engine, NULL);
    kvi_os_unmap(&g.map);
}

/* The file's template and tokenizer give the ids of the Rust library, and greedy decoding transformers' text. */
static void a_chat_is_that_of_transformers(void **state)
{
    golden g = load();
    kvrt_engine engine = open_model("f16");
    kvrt_session session;
    kvrt_error error = {.size = sizeof error};
    kvrt_chat_input input = {.size = sizeof input,
                             .messages = "[{\"role\":\"user\",\"content\":\"What is the capital of France?\"}]",
                             .messages_len = -1,
                             .add_generation_prompt = 1};
    int32_t ids[256];
    uint64_t n;
    if (kvrt_chat_render(engine, &input, ids, 256, &n, NULL, 0, NULL, &error) < KVRT_OK) fail_msg("%s", error.message);
    assert_int_equal(n, g.n_prompt);
    assert_memory_equal(ids, g.prompt, 4 * (size_t)n);
    assert_int_equal(kvrt_session_create(engine, NULL, &session, &error), KVRT_OK);
    assert_int_equal(kvrt_session_sync(session, ids, n, NULL, &error), KVRT_OK);
    if (kvrt_generate(session, NULL, NULL, NULL, NULL, &error) < KVRT_OK) fail_msg("%s", error.message);
    uint64_t all;
    assert_int_equal(kvrt_session_tokens(session, ids, 256, &all, &error), KVRT_OK);
    for (uint64_t i = 0; i < g.n_new && n + i < all; i++) {
        int32_t expected;
        memcpy(&expected, g.text + 4 * i, 4);
        if (ids[n + i] != expected) fail_msg("token %u is %d, need %d", (unsigned)i, ids[n + i], expected);
    }
    assert_true(all >= n + g.n_new - 1); /* the end token itself may not be among the tokens */
    kvrt_session_close(session, NULL);
    kvrt_engine_close(engine, NULL);
    kvi_os_unmap(&g.map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(logits_are_those_of_transformers),
                                       cmocka_unit_test(a_chat_is_that_of_transformers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
