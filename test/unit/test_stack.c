/* test_stack.c - stack that every public call takes, as kvrt.h tells: each runs on a thread whose stack was painted, and what is no longer the
 * paint was used. The thread's own part is measured with a function that does nothing, and taken off. */
#define _GNU_SOURCE
#include "golden_model.h"
#include "../../runtime/base/os.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

enum { LIMIT = 48 * 1024, STACK = 1 << 20, N_TEXT = 60000 };
static golden_model model;
static kvrt_options *options;
static kvrt_engine engine;
static kvrt_session session;
static char text[N_TEXT + 1], deep[400];
static int32_t ids[N_TEXT + 100];
static float *logits;
static kvrt_error error = {.size = sizeof error};

static void nothing(void) {}
static void options_call(void)
{
    kvrt_options *other;
    kvrt_options_clone(options, &other, NULL);
    kvrt_options_set_text(other, "samplle.temprature", "0.7", &error); /* looks for the nearest key */
    kvrt_options_set_text(other, "mem.limit", "1.5GiB", NULL);
    kvrt_options_destroy(other);
}
static void plan(void)
{
    kvrt_plan_row rows[24];
    kvrt_plan_info info = {.size = sizeof info};
    uint64_t n;
    for (unsigned i = 0; i < 24; i++) rows[i].size = sizeof *rows;
    assert_true(kvrt_plan(options, NULL, &info, rows, 24, &n, &error) >= KVRT_OK);
}
static void inspect(void)
{
    static kvrt_inspect_info info;
    info.size = sizeof info;
    assert_int_equal(kvrt_inspect(model.dir, &info, NULL, NULL, &error), KVRT_OK);
}
static void open_call(void)
{
    if (kvrt_engine_open(options, NULL, NULL, &engine, &error) < KVRT_OK) fail_msg("%s", error.message);
}
static void tokenize(void)
{
    uint64_t n, len;
    assert_true(kvrt_tokenize(engine, text, N_TEXT, 3, ids, N_TEXT, &n, &error) >= KVRT_OK);
    assert_true(kvrt_detokenize(engine, ids, n, 0, text, N_TEXT, &len, &error) >= KVRT_OK);
}
static void chat(void)
{
    uint64_t n;
    const kvrt_chat_input input = {
        .size = sizeof input, .messages = deep, .messages_len = -1, .add_generation_prompt = 1};
    (void)kvrt_chat_render(engine, &input, ids, 1000, &n, NULL, 0, NULL, &error);
}
static void create(void) { assert_int_equal(kvrt_session_create(engine, NULL, &session, &error), KVRT_OK); }
static void generate(void)
{
    for (int32_t i = 0; i < 900; i++) ids[i] = i % 90 + 3;
    assert_int_equal(kvrt_session_sync(session, ids, 900, NULL, &error), KVRT_OK);
    if (kvrt_generate(session, options, NULL, NULL, NULL, &error) < KVRT_OK) fail_msg("%s", error.message);
    assert_int_equal(kvrt_session_rewind(session, 880, &error), KVRT_OK);
}
static void evaluate(void)
{
    static uint32_t rows[100];
    for (uint32_t i = 0; i < 100; i++) rows[i] = i;
    assert_int_equal(kvrt_session_eval(session, ids, 100, rows, 100, logits, &error), KVRT_OK);
    assert_int_equal(kvrt_session_eval(session, ids, 8, rows, 8, logits, &error), KVRT_OK);
    assert_int_equal(kvrt_session_eval(session, ids, 1, rows, 1, logits, &error), KVRT_OK);
}
static void facts(void)
{
    kvrt_session_info info = {.size = sizeof info};
    kvrt_engine_info about = {.size = sizeof about};
    uint64_t n;
    kvrt_session_get_info(session, &info, NULL);
    kvrt_engine_get_info(engine, &about, NULL);
    kvrt_session_tokens(session, ids, 1000, &n, NULL);
}
static void close_calls(void)
{
    assert_int_equal(kvrt_session_close(session, NULL), KVRT_OK);
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
}

typedef struct call {
    const char *name;
    void (*run)(void);
} call;
static const call calls[] = {
    {"nothing", nothing},   {"options", options_call}, {"plan", plan},   {"inspect", inspect},
    {"open", open_call},    {"tokenize", tokenize},    {"chat", chat},   {"session_create", create},
    {"generate", generate}, {"eval", evaluate},        {"facts", facts}, {"close", close_calls},
};
enum { N_CALLS = sizeof calls / sizeof *calls };

static void *run_call(void *arg)
{
    ((const call *)arg)->run();
    return NULL;
}

static size_t used_by(const call *c)
{
    unsigned char *stack = aligned_alloc(4096, STACK);
    pthread_attr_t attributes;
    pthread_t thread;
    size_t untouched = 0;
    memset(stack, 0xa5, STACK);
    pthread_attr_init(&attributes);
    pthread_attr_setstack(&attributes, stack, STACK);
    assert_int_equal(pthread_create(&thread, &attributes, run_call, (void *)(uintptr_t)c), 0);
    pthread_join(thread, NULL);
    pthread_attr_destroy(&attributes);
    while (untouched < STACK && stack[untouched] == 0xa5) untouched++;
    free(stack);
    return STACK - untouched;
}

static void every_call_stays_small(void **state)
{
    static const char *const formats[] = {"f16", "i8", "k4v4", "k3v3", "f8", "elastic"};
    static const char *const isas[] = {"portable", "avx2", "avx512", "auto"};
    size_t most[N_CALLS] = {0};
    kvi_cpu cpu;
    if (SANITIZED) skip();
    kvi_os_cpu(&cpu);
    for (unsigned f = 0; f < 6; f++)
        for (unsigned i = 0; i < 4; i++) {
            if ((i == 1 && !cpu.avx2) || (i == 2 && !cpu.avx512) || (i == 3 && !cpu.amx_bf16)) continue;
            const char *const pairs[] = {"kv.format",
                                         formats[f],
                                         "cpu.isa",
                                         isas[i],
                                         "cpu.amx",
                                         i == 3 ? "true" : "false",
                                         "ctx.size",
                                         "1200",
                                         "cpu.threads",
                                         "1",
                                         "gen.max_tokens",
                                         "12",
                                         "gen.ignore_eos",
                                         "true",
                                         "device.backend",
                                         "cpu",
                                         NULL};
            kvrt_options_create(&options, NULL);
            kvrt_options_set_string(options, "model.path", model.dir, -1, NULL);
            for (const char *const *p = pairs; *p; p += 2)
                assert_int_equal(kvrt_options_set_text(options, p[0], p[1], NULL), KVRT_OK);
            const size_t none = used_by(&calls[0]);
            for (unsigned c = 1; c < N_CALLS; c++) {
                const size_t used = used_by(&calls[c]) - none;
                if (used > most[c]) most[c] = used;
                if (used > LIMIT)
                    fail_msg("%s, %s, %s: %zu bytes of stack, need at most %d", calls[c].name, formats[f], isas[i],
                             used, LIMIT);
            }
            kvrt_options_destroy(options);
        }
    for (unsigned c = 1; c < N_CALLS; c++) printf("%s %zu  ", calls[c].name, most[c]);
    printf("\n");
}

static int setup(void **state)
{
    for (unsigned i = 0; i < N_TEXT; i++) text[i] = "Once upon a time, there was 123 \n"[i % 33];
    char *at = deep + sprintf(deep, "[{\"role\":\"user\",\"content\":\"x\",\"y\":");
    for (unsigned i = 0; i < 60; i++) *at++ = '[';
    for (unsigned i = 0; i < 60; i++) *at++ = ']';
    strcpy(at, "}]");
    if (!golden_load("llama_gqa8_d64", &model)) return -1;
    logits = malloc((size_t)model.vocab * 100 * sizeof *logits);
    return logits ? 0 : -1;
}
static int teardown(void **state)
{
    golden_free(&model);
    free(logits);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_call_stays_small)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
