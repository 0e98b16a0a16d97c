/* test_cuda_guest.c - the CUDA backend as a guest in somebody's process, through the public API, on the emulated device: the host's context
 * and stream, memory that comes back, progress and cancel of loading, every allocation, launch and operation failing in turn, drivers that are
 * missing or too old, what a step reads back. With KVRT_TEST_CARD set it runs on a card, without what only the emulator can provoke. */
#define _POSIX_C_SOURCE 200809L /* setenv */
#include "cuda_engine.h"
#include "golden_model.h"
#include "../../kernels/cuda/cuda_api.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define SMALL                                                                                                          \
    "device.backend", "cuda", "kv.format", "k4v4", "ctx.size", "256", "gen.max_tokens", "4", "gen.ignore_eos", "true"
static const char *const small[] = {SMALL, NULL};

/* A prompt of n tokens (above 32: prefill kernels) and four tokens more. */
static kvrt_status generate(kvrt_engine engine, uint32_t n, kvrt_error *error)
{
    kvrt_session s;
    int32_t ids[64];
    for (uint32_t i = 0; i < n; i++) ids[i] = (int32_t)(10 + 3 * i);
    kvrt_status status = kvrt_session_create(engine, NULL, &s, error);
    if (status < 0) return status;
    status = kvrt_session_sync(s, ids, n, NULL, error);
    if (status >= 0) status = kvrt_generate(s, NULL, NULL, NULL, NULL, error);
    kvrt_session_close(s, NULL);
    return status;
}

/* -------------------------------------------------------------------------------------------- context, stream, memory --- */
typedef struct functions {
    kvi_cu_result (*init)(unsigned), (*push)(kvi_cu_context), (*pop)(kvi_cu_context *), (*current)(kvi_cu_context *),
        (*retain)(kvi_cu_context *, kvi_cu_device), (*release)(kvi_cu_device), (*info)(size_t *, size_t *),
        (*stream_create)(kvi_cu_stream *, unsigned), (*stream_destroy)(kvi_cu_stream), (*stream_wait)(kvi_cu_stream);
} functions;

static functions driver(void)
{
    functions f;
    *(void **)&f.init = cuda_symbol("cuInit");
    *(void **)&f.push = cuda_symbol("cuCtxPushCurrent_v2");
    *(void **)&f.pop = cuda_symbol("cuCtxPopCurrent_v2");
    *(void **)&f.current = cuda_symbol("cuCtxGetCurrent");
    *(void **)&f.retain = cuda_symbol("cuDevicePrimaryCtxRetain");
    *(void **)&f.release = cuda_symbol("cuDevicePrimaryCtxRelease_v2");
    *(void **)&f.info = cuda_symbol("cuMemGetInfo_v2");
    *(void **)&f.stream_create = cuda_symbol("cuStreamCreate");
    *(void **)&f.stream_destroy = cuda_symbol("cuStreamDestroy_v2");
    *(void **)&f.stream_wait = cuda_symbol("cuStreamSynchronize");
    assert_int_equal(f.init(0), 0);
    return f;
}

static void context_of_the_host_stays(void **state)
{
    (void)state;
    const functions f = driver();
    for (int with = 0; with < 2; with++) { /* without a current context, and with one */
        kvi_cu_context mine = NULL, seen = NULL;
        kvrt_engine engine;
        if (with) assert_true(f.retain(&mine, 0) == 0 && f.push(mine) == 0);
        assert_int_equal(cuda_open(cuda_bundled_model(), small, &engine, NULL), KVRT_OK);
        assert_true(f.current(&seen) == 0 && seen == mine);
        assert_true(generate(engine, 5, NULL) >= 0);
        assert_true(f.current(&seen) == 0 && seen == mine);
        assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
        assert_true(f.current(&seen) == 0 && seen == mine);
        if (with) assert_true(f.pop(&seen) == 0 && seen == mine && f.release(0) == 0);
    }
}

/* The host hands over its context and stream: both are used, neither is pushed for good nor destroyed. */
static void context_and_stream_handed_over(void **state)
{
    (void)state;
    const functions f = driver();
    kvi_cu_context mine = NULL, seen = NULL;
    kvi_cu_stream stream = NULL;
    kvrt_engine engine;
    char context_text[32], stream_text[32];
    assert_true(f.retain(&mine, 0) == 0 && f.push(mine) == 0 && f.stream_create(&stream, 0) == 0 && f.pop(&seen) == 0);
    snprintf(context_text, sizeof context_text, "%llu", (unsigned long long)(uintptr_t)mine);
    snprintf(stream_text, sizeof stream_text, "%llu", (unsigned long long)(uintptr_t)stream);
    const char *pairs[] = {SMALL, "device.cuda_context", context_text, "device.cuda_stream", stream_text, NULL};
    const uint64_t objects = cuda_emu.count("objects");
    assert_int_equal(cuda_open(cuda_bundled_model(), pairs, &engine, NULL), KVRT_OK);
    assert_true(generate(engine, 40, NULL) >= 0);
    assert_true(f.current(&seen) == 0 && seen == NULL);
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
    assert_true(f.current(&seen) == 0 && seen == NULL);
    assert_int_equal(cuda_emu.count("objects"), objects);
    assert_true(f.push(mine) == 0 && f.stream_wait(stream) == 0 && f.stream_destroy(stream) == 0 && f.pop(&seen) == 0 &&
                f.release(0) == 0);
}

static void memory_returns(void **state)
{
    (void)state;
    const functions f = driver();
    kvi_cu_context mine = NULL, seen;
    size_t before = 0, after = 0, total;
    assert_true(f.retain(&mine, 0) == 0 && f.push(mine) == 0);
    for (int i = 0; i < (cuda_on_card() ? 101 : 4); i++) {
        kvrt_engine engine;
        assert_int_equal(cuda_open(cuda_bundled_model(), small, &engine, NULL), KVRT_OK);
        assert_true(generate(engine, 5, NULL) >= 0);
        assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
        assert_int_equal(f.info(i ? &after : &before, &total), 0); /* the first round is the driver's own */
    }
    assert_int_equal(before, after);
    assert_true(f.pop(&seen) == 0 && f.release(0) == 0);
}

/* What is planned, with and without a limit, is what the device then gives: to the byte, and of the host's memory nearly. An open that does
 * not fit is refused before a byte of it is taken. */
static void plan_is_what_is_taken(void **state)
{
    (void)state;
    static const char *const kvs[] = {"f16", "i8", "k4v4", "k4v2", "elastic"}, *const sessions[] = {"1", "2", "3", "4"};
    const functions f = driver();
    kvi_cu_context mine = NULL, seen;
    size_t before = 0, after = 0, total;
    assert_true(f.retain(&mine, 0) == 0 && f.push(mine) == 0);
    for (unsigned i = 0; i < 10; i++) {
        const char *const pairs[] = {"device.backend",
                                     "cuda",
                                     "kv.format",
                                     kvs[i % 5],
                                     "ctx.size",
                                     "300",
                                     "ctx.sessions",
                                     sessions[i % 4],
                                     "mem.limit",
                                     i < 5 ? "700MiB" : "0",
                                     NULL};
        kvrt_options *o = cuda_options(cuda_bundled_model(), pairs);
        kvrt_error error = {.size = sizeof error};
        kvrt_plan_row row = {.size = sizeof row};
        kvrt_engine_info info = {.size = sizeof info};
        kvrt_engine engine;
        uint64_t n, host_before, host_after;
        if (kvrt_plan(o, kvs[i % 5], NULL, &row, 1, &n, &error) != KVRT_OK) fail_msg("%s", error.message);
        assert_true(row.fits && !row.problem[0] && row.context_bytes == (i < 5 ? 450u << 20 : 0));
        kvrt_debug_mem(&host_before, NULL, NULL);
        f.info(&before, &total);
        if (kvrt_engine_open(o, NULL, NULL, &engine, &error) < 0) fail_msg("%s: %s", kvs[i % 5], error.message);
        f.info(&after, &total);
        kvrt_debug_mem(&host_after, NULL, NULL);
        if (!cuda_on_card()) assert_int_equal(before - after, row.total_bytes - row.context_bytes);
        assert_int_equal(kvrt_engine_get_info(engine, &info, NULL), KVRT_OK);
        assert_int_equal(info.host_bytes, host_after - host_before);
        assert_int_equal(info.resident_bytes, row.total_bytes - row.context_bytes + info.host_bytes);
        assert_true(info.mapped_bytes == 0 && info.host_bytes <= row.host_bytes);
        kvrt_engine_close(engine, NULL);
        char limit[32];
        snprintf(limit, sizeof limit, "%llu", (unsigned long long)row.total_bytes - 1);
        if (i < 5) kvrt_options_set_text(o, "mem.limit", limit, NULL);
        if (i < 5) assert_int_equal(kvrt_engine_open(o, NULL, NULL, &engine, &error), KVRT_OVER_BUDGET);
        kvrt_options_destroy(o);
    }
    assert_true(f.pop(&seen) == 0 && f.release(0) == 0);
}

static uint64_t planned(kvrt_options *o)
{
    kvrt_plan_row row = {.size = sizeof row};
    uint64_t n;
    assert_int_equal(kvrt_plan(o, "f16", NULL, &row, 1, &n, NULL), KVRT_OK);
    return row.total_bytes;
}

/* The longest context takes what is free and no more, weights included. */
static void auto_context_fits_the_card(void **state)
{
    (void)state;
    const functions f = driver();
    kvi_cu_context mine = NULL, seen;
    kvi_cu_dptr others = 0;
    size_t available = 0, total;
    kvi_cu_result (*take)(kvi_cu_dptr *, size_t), (*give)(kvi_cu_dptr);
    kvrt_error error = {.size = sizeof error};
    kvrt_engine_info info = {.size = sizeof info};
    kvrt_engine engine;
    *(void **)&take = cuda_symbol("cuMemAlloc_v2");
    *(void **)&give = cuda_symbol("cuMemFree_v2");
    const char *const pairs[] = {"device.backend", "cuda", "kv.format", "f16", "ctx.sessions", "8", NULL};
    kvrt_options *o = cuda_options(cuda_bundled_model(), pairs);
    assert_true(f.retain(&mine, 0) == 0 && f.push(mine) == 0 && f.info(&available, &total) == 0);
    const uint64_t most = planned(o);
    kvrt_options_set_text(o, "ctx.size", "128", NULL);
    const uint64_t least = planned(o);
    kvrt_options_clear(o, "ctx.size", NULL);
    assert_int_equal(take(&others, available - (most + least) / 2), 0); /* somebody else has the rest */
    kvrt_status status = kvrt_engine_open(o, NULL, NULL, &engine, &error);
    if (status >= 0) {
        kvrt_engine_get_info(engine, &info, NULL);
        kvrt_engine_close(engine, NULL);
    }
    assert_int_equal(give(others), 0);
    if (status < 0) fail_msg("%s", error.message);
    assert_true(info.ctx_size < info.ctx_model && info.ctx_size > 128);
    assert_true(info.resident_bytes - info.host_bytes <= (most + least) / 2);
    kvrt_options_destroy(o);
    assert_true(f.pop(&seen) == 0 && f.release(0) == 0);
}

/* ------------------------------------------------------------------------------------------------------ loading --- */
typedef struct loading {
    uint64_t done, total, events, stop_after;
} loading;

static int32_t on_load(const kvrt_event *event, void *user)
{
    loading *l = user;
    if (event->type != KVRT_EVENT_LOAD_PROGRESS || event->text_len != 7 || memcmp(event->text, "weights", 7) != 0)
        return KVRT_CONTINUE;
    assert_true(event->done >= l->done && event->done <= event->total);
    l->done = event->done, l->total = event->total;
    return ++l->events == l->stop_after ? KVRT_STOP : KVRT_CONTINUE;
}

static void weights_report_progress_and_stop(void **state)
{
    (void)state;
    const uint64_t objects = cuda_emu.count("objects");
    loading all = {0}, some = {.stop_after = 5};
    kvrt_engine engine = NULL;
    kvrt_error error = {.size = sizeof error};
    kvrt_options *o = cuda_options(cuda_bundled_model(), small);
    assert_int_equal(kvrt_engine_open(o, on_load, &all, &engine, &error), KVRT_OK);
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
    assert_true(all.events > 10 && all.done == all.total && all.total > 0);
    assert_int_equal(kvrt_engine_open(o, on_load, &some, &engine, &error), KVRT_CANCELLED);
    assert_null(engine);
    assert_int_equal(some.events, 5);
    assert_int_equal(cuda_emu.count("objects"), objects);
    kvrt_options_destroy(o);
}

/* --------------------------------------------------------------------------------------------------------- failures --- */
static void every_failing_allocation(void **state)
{
    (void)state;
    if (cuda_on_card()) skip();
    const uint64_t objects = cuda_emu.count("objects");
    uint64_t nth = 0;
    kvrt_status status;
    do {
        kvrt_engine engine = NULL;
        kvrt_error error = {.size = sizeof error};
        cuda_emu.break_nth("alloc", ++nth);
        status = cuda_open(cuda_bundled_model(), small, &engine, &error);
        if (status < 0) {
            if (status != KVRT_NOMEM_DEVICE && status != KVRT_NOMEM_HOST)
                fail_msg("allocation %d: %s", (int)nth, error.message);
            assert_null(engine);
        } else assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
        assert_int_equal(cuda_emu.count("objects"), objects);
        assert_true(nth < 100);
    } while (status < 0);
    cuda_emu.break_nth("alloc", 0);
    print_message("%d allocations, each failed in turn\n", (int)nth - 1);
    assert_true(nth > 4);
}

/* A launch that is refused ends the step with its name; closing works, and the next engine is whole. */
static void every_failing_launch(void **state)
{
    (void)state;
    if (cuda_on_card()) skip();
    const uint64_t objects = cuda_emu.count("objects");
    kvrt_engine engine = NULL;
    assert_int_equal(cuda_open(cuda_bundled_model(), small, &engine, NULL), KVRT_OK);
    cuda_emu.break_nth("launch", 0);
    assert_true(generate(engine, 40, NULL) >= 0);
    const uint64_t n = cuda_emu.count("launch");
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
    assert_true(n > 20); /* prefill kernel by kernel, four steps as graphs, four sampling heads */
    for (uint64_t nth = 1; nth <= n; nth += nth + 12 < n ? 5 : 1) { /* all of the last ones, every fifth of prefill */
        kvrt_error error = {.size = sizeof error};
        assert_int_equal(cuda_open(cuda_bundled_model(), small, &engine, NULL), KVRT_OK);
        cuda_emu.break_nth("launch", nth);
        const kvrt_status status = generate(engine, 40, &error);
        if (status != KVRT_INTERNAL || !strstr(error.message, "LAUNCH_OUT_OF_RESOURCES"))
            fail_msg("launch %d of %d: status %d, %s", (int)nth, (int)n, (int)status, error.message);
        assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
        assert_int_equal(cuda_emu.count("objects"), objects);
    }
    cuda_emu.break_nth("launch", 0);
    print_message("%d launches\n", (int)n);
}

/* The device is lost at any operation of opening, or while generating. */
static void lost_device(void **state)
{
    (void)state;
    if (cuda_on_card()) skip();
    const uint64_t objects = cuda_emu.count("objects");
    kvrt_engine engine = NULL;
    kvrt_error error = {.size = sizeof error};
    cuda_emu.break_nth("lost", 0);
    assert_int_equal(cuda_open(cuda_bundled_model(), small, &engine, NULL), KVRT_OK);
    const uint64_t opening = cuda_emu.count("lost");
    assert_true(generate(engine, 40, NULL) >= 0);
    const uint64_t all = cuda_emu.count("lost");
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
    assert_true(opening > 10 && all > opening + 10);
    for (uint64_t nth = 1; nth <= all; nth += 1 + all / 40) {
        cuda_emu.break_nth("lost", nth);
        kvrt_status status = cuda_open(cuda_bundled_model(), small, &engine, &error);
        assert_int_equal(status, nth <= opening ? KVRT_DEVICE_LOST : KVRT_OK);
        if (status < 0) assert_null(engine);
        else {
            assert_int_equal(generate(engine, 40, &error), KVRT_DEVICE_LOST);
            assert_int_equal(generate(engine, 5, &error), KVRT_DEVICE_LOST); /* and it stays so */
            assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
        }
        assert_int_equal(cuda_emu.count("objects"), objects);
    }
    print_message("%d operations, %d of them at open; %s\n", (int)all, (int)opening, error.message);
    cuda_emu.break_nth("lost", 0);
    assert_int_equal(cuda_open(cuda_bundled_model(), small, &engine, &error),
                     KVRT_OK); /* a fresh open in the same process */
    assert_true(generate(engine, 5, NULL) >= 0);
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
}

/* --------------------------------------------------------------------------------------------------------- refusals --- */
static void refused(const char *dir, const char *const *pairs, kvrt_status want, const char *part)
{
    kvrt_engine engine = NULL;
    kvrt_error error = {.size = sizeof error};
    const uint64_t objects = cuda_emu.count("objects");
    const kvrt_status status = cuda_open(dir, pairs, &engine, &error);
    print_message("%s\n", error.message);
    if (status != want || !strstr(error.message, part))
        fail_msg("status %d: %s; need %d and '%s'", (int)status, error.message, (int)want, part);
    assert_null(engine);
    assert_int_equal(cuda_emu.count("objects"), objects);
}

static void refusals_have_names(void **state)
{
    (void)state;
    const char *no_driver[] = {"device.backend", "cuda", "debug.cuda_driver", "/nonexistent/libcuda.so.1", NULL};
    const char *no_symbols[] = {"device.backend", "cuda", "debug.cuda_driver", "libm.so.6", NULL};
    const char *no_card[] = {"device.backend", "cuda", "device.index", "63", NULL};
    const char *f32_pages[] = {"device.backend", "cuda", "kv.format", "f32", NULL};
    refused(cuda_bundled_model(), no_driver, KVRT_NO_DEVICE, "no driver");
    refused(cuda_bundled_model(), no_symbols, KVRT_DRIVER_TOO_OLD, "has no cuInit; need a driver for CUDA 1");
    refused(cuda_bundled_model(), no_card, KVRT_NO_DEVICE, "device.index");
    refused(cuda_bundled_model(), f32_pages, KVRT_UNSUPPORTED, "f32 pages");
    char latent[1100];
    const char *k4v4[] = {"device.backend", "cuda", "kv.format", "k4v4", NULL};
    snprintf(latent, sizeof latent, "%s/golden/models/deepseek_v2", KVRT_TEST_DIR); /* roped keys of 8 dimensions */
    refused(latent, k4v4, KVRT_UNSUPPORTED, "the CUDA backend");
}

/* `auto` takes the card for a model that it serves, and the CPU for others, as it does without a driver. */
static void auto_takes_what_serves_the_model(void **state)
{
    (void)state;
    char latent[1100];
    const uint64_t objects = cuda_emu.count("objects");
    snprintf(latent, sizeof latent, "%s/golden/models/deepseek_v3", KVRT_TEST_DIR);
    const char *const cases[][4] = {{cuda_bundled_model(), "k4v4", NULL, "cuda"},
                                    {latent, "k4v4", NULL, "cuda"},
                                    {cuda_bundled_model(), "k3v3", NULL, "cuda"},
                                    {cuda_bundled_model(), "f32", NULL, "cpu"},
                                    {cuda_bundled_model(), "k4v4", "/nonexistent/libcuda.so.1", "cpu"}};
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *pairs[] = {"device.backend",
                               "auto",
                               "kv.format",
                               cases[i][1],
                               "ctx.size",
                               "256",
                               cases[i][2] ? "debug.cuda_driver" : NULL,
                               cases[i][2],
                               NULL};
        kvrt_engine engine = NULL;
        kvrt_error error = {.size = sizeof error};
        kvrt_engine_info info = {.size = sizeof info};
        if (cuda_open(cases[i][0], pairs, &engine, &error) < 0) fail_msg("case %u: %s", i, error.message);
        assert_int_equal(kvrt_engine_get_info(engine, &info, NULL), KVRT_OK);
        assert_string_equal(info.backend, cases[i][3]);
        if (strcmp(info.backend, "cpu") == 0) assert_int_equal(cuda_emu.count("objects"), objects);
        assert_true(generate(engine, 5, NULL) >= 0);
        assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
    }
    assert_int_equal(cuda_emu.count("objects"), objects);
}

static void old_drivers_are_named(void **state)
{
    (void)state;
    if (cuda_on_card()) skip();
    setenv("KVRT_EMU_VERSION", "11080", 1);
    refused(cuda_bundled_model(), small, KVRT_DRIVER_TOO_OLD, "found CUDA 11.8, need CUDA 1");
    unsetenv("KVRT_EMU_VERSION");
}

static void a_context_of_another_device_is_named(void **state)
{
    (void)state;
    if (cuda_on_card()) skip();
    setenv("KVRT_EMU_CONTEXT_DEVICE", "3", 1);
    refused(cuda_bundled_model(), small, KVRT_ARG, "belongs to device 3, option device.index is 0");
    unsetenv("KVRT_EMU_CONTEXT_DEVICE");
}

/* More multiprocessors than workspace is planned for: grids stay within it. */
static void a_card_beyond_the_plan(void **state)
{
    (void)state;
    kvrt_engine engine;
    if (cuda_on_card()) skip();
    setenv("KVRT_EMU_SMS", "500", 1);
    assert_int_equal(cuda_open(cuda_bundled_model(), small, &engine, NULL), KVRT_OK);
    assert_true(generate(engine, 5, NULL) >= 0);
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
    unsetenv("KVRT_EMU_SMS");
}

/* -------------------------------------------------------------------------------------------------------- read-back --- */
/* Bytes that eight tokens read back, and the tokens. */
static uint64_t read_back(const char *temperature, const char *penalty, int32_t tokens[13])
{
    const char *pairs[] = {"device.backend",
                           "cuda",
                           "ctx.size",
                           "256",
                           "gen.max_tokens",
                           "8",
                           "gen.ignore_eos",
                           "true",
                           "sample.seed",
                           "3",
                           "sample.temperature",
                           temperature,
                           "sample.top_p",
                           "1",
                           "sample.presence_penalty",
                           penalty,
                           NULL};
    const int32_t ids[5] = {10, 20, 30, 40, 50};
    kvrt_engine engine;
    kvrt_session s;
    uint64_t n = 0;
    assert_int_equal(cuda_open(cuda_bundled_model(), pairs, &engine, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_create(engine, NULL, &s, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_sync(s, ids, 5, NULL, NULL), KVRT_OK);
    const uint64_t before = cuda_emu.count("to_host");
    assert_true(kvrt_generate(s, NULL, NULL, NULL, NULL, NULL) >= 0);
    const uint64_t bytes = cuda_emu.count("to_host") - before;
    assert_int_equal(kvrt_session_tokens(s, tokens, 13, &n, NULL), KVRT_OK);
    assert_int_equal(n, 13);
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
    return bytes;
}

/* A penalty needs all logits, and one of nearly nothing changes no choice: the same tokens by both ways. */
static void steps_read_back_little(void **state)
{
    (void)state;
    static const char *const cases[] = {"0", "0.8"};
    for (unsigned i = 0; i < 2; i++) {
        int32_t best[13], all[13];
        const uint64_t few = read_back(cases[i], "0", best);
        if (i) {
            const uint64_t many = read_back(cases[i], "1e-9", all);
            assert_memory_equal(best, all, sizeof all);
            if (!cuda_on_card()) assert_int_equal(many, 8 * 512 * 4);
        }
        if (!cuda_on_card()) assert_true(few <= 8 * 528);
    }
}

int main(void)
{
    if (!cuda_find_driver()) return 77;
    const struct CMUnitTest tests[] = {cmocka_unit_test(context_of_the_host_stays),
                                       cmocka_unit_test(context_and_stream_handed_over),
                                       cmocka_unit_test(memory_returns),
                                       cmocka_unit_test(plan_is_what_is_taken),
                                       cmocka_unit_test(auto_context_fits_the_card),
                                       cmocka_unit_test(weights_report_progress_and_stop),
                                       cmocka_unit_test(every_failing_allocation),
                                       cmocka_unit_test(every_failing_launch),
                                       cmocka_unit_test(lost_device),
                                       cmocka_unit_test(refusals_have_names),
                                       cmocka_unit_test(auto_takes_what_serves_the_model),
                                       cmocka_unit_test(old_drivers_are_named),
                                       cmocka_unit_test(a_context_of_another_device_is_named),
                                       cmocka_unit_test(a_card_beyond_the_plan),
                                       cmocka_unit_test(steps_read_back_little)};
    return cmocka_run_group_tests_name("guest, cuda", tests, NULL, NULL);
}
