/* test_cuda_pool.c - a KV pool on the CUDA backend that grows and shrinks (mem.most, kvrt_mem_limit), on the emulated device: memory comes and goes to
 * the byte that plan and engine say, sessions go on with the bits of an engine that was left alone, and whatever fails leaves all as it was. With
 * KVRT_TEST_CARD set it runs on a card, without what only the emulator can provoke. */
#define _POSIX_C_SOURCE 200809L /* setenv */
#define _DEFAULT_SOURCE         /* mkdtemp */
#include "cuda_engine.h"
#include "golden_model.h"
#include "../../kernels/cuda/device_cuda.h"
#include "../../runtime/engine/seat.h"
#include "../../runtime/engine/session.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define MIB (1u << 20)
#define GRAIN (2 * MIB)
#define BASE                                                                                                           \
    "device.backend", "cuda", "ctx.size", "4000", "ctx.sessions", "4", "ctx.chunk", "64", "gen.ignore_eos", "true",    \
        "gen.token_events", "true", "sample.temperature", "0"
#define CHANGES BASE, "kv.format", "f16", "mem.limit", "600MiB", "mem.most", "640MiB"
static const char *const changes[] = {CHANGES, NULL};

static kvrt_engine open_with(const char *const *pairs)
{
    kvrt_engine engine = NULL;
    kvrt_error error = {.size = sizeof error};
    if (cuda_open(cuda_bundled_model(), pairs, &engine, &error) < KVRT_OK) fail_msg("%s", error.message);
    return engine;
}

static void set(kvrt_engine engine, uint64_t limit)
{
    kvrt_error error = {.size = sizeof error};
    uint64_t pool = 0;
    if (kvrt_mem_limit(engine, limit, &pool, &error) < KVRT_OK) fail_msg("%s", error.message);
    assert_int_equal(pool, golden_memory(engine).kv_pool_bytes);
    assert_int_equal(pool % GRAIN, 0);
}

static uint64_t generate(kvrt_session s, uint32_t n)
{
    char text[16];
    snprintf(text, sizeof text, "%u", n);
    kvrt_options *o = golden_options((const char *const[]){"gen.max_tokens", text, NULL});
    return golden_generate(s, o);
}

/* Memory of the device that is in use, of an emulated one. */
static uint64_t device_bytes(void) { return cuda_emu.count("bytes"); }

/* ------------------------------------------------------------------------------------------------------------- memory --- */
static void memory_goes_and_comes_to_the_byte(void **state)
{
    (void)state;
    static const char *const kvs[] = {"f16", "k4v4", "elastic"};
    for (unsigned i = 0; i < 3; i++) {
        const char *const pairs[] = {BASE, "kv.format", kvs[i], "mem.limit", "600MiB", "mem.most", "640MiB", NULL};
        kvrt_options *o = cuda_options(cuda_bundled_model(), pairs);
        kvrt_plan_row row = {.size = sizeof row};
        kvrt_error error = {.size = sizeof error};
        kvrt_engine engine;
        uint64_t n;
        if (kvrt_plan(o, kvs[i], NULL, &row, 1, &n, &error) < KVRT_OK) fail_msg("%s", error.message);
        const uint64_t before = device_bytes();
        if (kvrt_engine_open(o, NULL, NULL, &engine, &error) < KVRT_OK) fail_msg("%s", error.message);
        kvrt_options_destroy(o);
        const kvrt_memory m = golden_memory(engine);
        const uint64_t taken = row.total_bytes - row.context_bytes;
        assert_int_equal(m.kv_pool_bytes % GRAIN, 0);
        assert_true(m.kv_pool_bytes >= 2 * GRAIN && m.kv_pool_bytes == row.kv_bytes);
        assert_int_equal(m.kv_pool_most_bytes, row.kv_most_bytes);
        assert_true(row.kv_most_bytes > row.kv_bytes + 10u * MIB);
        assert_int_equal(m.device_bytes, taken);
        if (!cuda_on_card()) assert_int_equal(device_bytes() - before, taken);
        const uint64_t wished[] = {GRAIN, 3 * GRAIN + 1, 9 * GRAIN - 1, m.kv_pool_most_bytes, GRAIN, 20 * GRAIN};
        for (unsigned k = 0; k < 6; k++) {
            set(engine, golden_limit_for(engine, wished[k]));
            const kvrt_memory now = golden_memory(engine);
            if (wished[k] <= m.kv_pool_bytes) assert_int_equal(now.kv_pool_bytes, wished[k] / GRAIN * GRAIN);
            else assert_true(now.kv_pool_bytes <= wished[k]);
            assert_int_equal(now.device_bytes, taken - m.kv_pool_bytes + now.kv_pool_bytes);
            assert_int_equal(now.planned_bytes, row.total_bytes - m.kv_pool_bytes + now.kv_pool_bytes);
            if (!cuda_on_card()) assert_int_equal(device_bytes() - before, now.device_bytes);
        }
        set(engine, 640u * MIB);
        assert_int_equal(golden_memory(engine).kv_pool_bytes, m.kv_pool_most_bytes);
        kvrt_engine_close(engine, NULL);
        assert_int_equal(device_bytes(), before);
    }
}

/* ----------------------------------------------------------------------------------------------------------- sessions --- */
/* Sessions between others that go, packed under the least limit, given more than ever, and suspended in between. */
static void sessions_go_on(void **state)
{
    (void)state;
    kvrt_engine engine = open_with(changes), other = open_with(changes);
    kvrt_session a[2], b[2], gone;
    kvrt_error error = {.size = sizeof error};
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(kvrt_session_create(engine, NULL, &gone, NULL), KVRT_OK);
        assert_int_equal(kvrt_measure_fill(gone, 3800, 1, NULL), KVRT_OK);
        a[i] = golden_session_with(engine, i, 300), b[i] = golden_session_with(other, i, 300);
        assert_true(generate(a[i], 5) == generate(b[i], 5));
        if (i == 0) assert_int_equal(kvrt_session_close(gone, NULL), KVRT_OK);
    }
    const uint64_t whole = golden_memory(engine).planned_bytes;
    /* What is held does not fit, which is said; what would do is said, and does. */
    assert_int_equal(kvrt_mem_limit(engine, golden_limit_for(engine, GRAIN), NULL, &error), KVRT_OVER_BUDGET);
    assert_non_null(strstr(error.message, "mem.limit: sessions hold"));
    const uint64_t least = error.needed_bytes, pool = golden_memory(engine).kv_pool_bytes;
    assert_int_equal(kvrt_mem_limit(engine, least - 1, NULL, NULL), KVRT_OVER_BUDGET);
    assert_int_equal(golden_memory(engine).kv_pool_bytes, pool);
    set(engine, least);
    assert_true(golden_memory(engine).kv_pool_bytes < pool);
    assert_int_equal(kvrt_session_close(gone, NULL), KVRT_OK);
    for (uint32_t round = 0; round < 3; round++) {
        (void)kvrt_mem_limit(engine, golden_limit_for(engine, 0) + 256, NULL, &error);
        set(engine, error.needed_bytes); /* one piece holds both */
        assert_int_equal(golden_memory(engine).kv_pool_bytes, GRAIN);
        if (round == 1) {
            assert_int_equal(kvrt_suspend(engine, NULL), KVRT_OK);
            assert_int_equal(kvrt_resume(engine, NULL), KVRT_OK);
            assert_int_equal(golden_memory(engine).kv_pool_bytes, GRAIN);
        }
        for (uint32_t i = 0; i < 2; i++)
            if (generate(a[i], 4) != generate(b[i], 4)) fail_msg("round %u: session %u goes on otherwise", round, i);
        set(engine, round == 2 ? 640u * MIB : whole);
        for (uint32_t i = 0; i < 2; i++)
            if (generate(a[i], 4) != generate(b[i], 4)) fail_msg("round %u: session %u goes on otherwise", round, i);
    }
    /* What is new can be used to its end. */
    for (uint32_t i = 0; i < 6; i++) {
        assert_int_equal(kvrt_session_create(engine, NULL, &gone, NULL), KVRT_OK);
        assert_int_equal(kvrt_measure_fill(gone, 3900, i, NULL), KVRT_OK);
    }
    assert_true(golden_memory(engine).kv_used_bytes > pool);
    for (uint32_t i = 0; i < 2; i++) assert_true(generate(a[i], 4) == generate(b[i], 4));
    kvrt_engine_close(engine, NULL);
    kvrt_engine_close(other, NULL);
}

/* Submitted requests run on, whatever becomes of the pool between steps. */
static void requests_go_on(void **state)
{
    (void)state;
    kvrt_engine engine = open_with(changes), other = open_with(changes);
    kvrt_session a = golden_session_with(engine, 3, 150), b = golden_session_with(other, 3, 150);
    kvrt_options *o = golden_options((const char *const[]){"gen.max_tokens", "20", NULL});
    uint64_t digest = 1;
    uint32_t n = 0;
    assert_true(generate(a, 1) == generate(b, 1)); /* prompts that are read in other pieces may differ on a card */
    kvrt_event event = {.size = sizeof event};
    assert_int_equal(kvrt_submit(a, o, NULL, NULL), KVRT_OK);
    for (kvrt_status status = KVRT_MORE; status != KVRT_DONE; n++) {
        status = kvrt_step(engine, 200, NULL);
        assert_true(status >= KVRT_OK);
        while (kvrt_poll(engine, &event, NULL) == KVRT_OK) golden_note(&event, &digest);
        set(engine, golden_limit_for(engine, (1 + n % 5) * GRAIN));
    }
    assert_true(n > 5);
    assert_true(generate(b, 20) == digest);
    kvrt_options_destroy(o);
    kvrt_engine_close(engine, NULL);
    kvrt_engine_close(other, NULL);
}

/* Idle sessions leave for a directory, elastic ones give up precision. */
static void sessions_make_room(void **state)
{
    (void)state;
    char folder[] = "/tmp/kvrt_pool_XXXXXX";
    assert_non_null(mkdtemp(folder));
    const char *const spills[] = {CHANGES, "kv.spill", folder, NULL};
    kvrt_engine engine = open_with(spills), other = open_with(changes);
    kvrt_session a[3], b = golden_session_with(other, 1, 200);
    for (uint32_t i = 0; i < 3; i++) {
        a[i] = golden_session(engine);
        assert_int_equal(kvrt_measure_fill(a[i], 2000, 1, NULL), KVRT_OK);
    }
    kvrt_session s = golden_session_with(engine, 1, 200);
    assert_true(generate(s, 3) == generate(b, 3));
    set(engine, golden_limit_for(engine, GRAIN));
    assert_true(golden_memory(engine).kv_away_bytes > GRAIN);
    assert_true(generate(s, 3) == generate(b, 3));
    kvrt_engine_close(engine, NULL);
    kvrt_engine_close(other, NULL);
    (void)rmdir(folder);
    const char *const elastic[] = {BASE, "kv.format", "elastic", "mem.limit", "600MiB", "mem.most", "640MiB", NULL};
    engine = open_with(elastic);
    s = golden_session(engine);
    assert_int_equal(kvrt_measure_fill(s, 3000, 1, NULL), KVRT_OK);
    const kvrt_session_info before = golden_session_info(s);
    set(engine, golden_limit_for(engine, GRAIN));
    const kvrt_session_info after = golden_session_info(s);
    assert_true(after.kv_bytes < before.kv_bytes && after.kv_bytes <= GRAIN && before.kv_bytes > GRAIN);
    assert_true(after.n_tokens == before.n_tokens && after.n_packed_pages > before.n_packed_pages);
    kvrt_engine_close(engine, NULL);
}

/* Raw bytes there and back, by blocks of pinned memory: of one, a byte around each edge, of several, one behind the other and mixed. */
static void bytes_there_and_back(void **state)
{
    (void)state;
    kvrt_engine engine = open_with(changes);
    kvrt_session session = golden_session(engine);
    kvi_session *s;
    set(engine, 640u * MIB);
    assert_int_equal(kvi_session_enter(session, KVI_LOOK, &s, NULL), KVRT_OK);
    const kvi_backend *b = s->engine->backend;
    kvi_device *device = s->engine->device;
    const uint64_t block = KVI_CUDA_STAGING, most = 5 * block + 77,
                   sizes[] = {1,         255,           block - 1,     block, block + 1, 2 * block - 1,
                              2 * block, 2 * block + 1, 3 * block + 5, most};
    assert_true(golden_memory(engine).kv_pool_bytes > most + 300);
    uint8_t *bytes = malloc(most), *back = malloc(most);
    uint32_t random = 1;
    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (uint64_t k = 0; k < sizes[i]; k++) bytes[k] = (uint8_t)((random = random * 1664525u + 1013904223u) >> 24);
        assert_int_equal(b->pool_write(device, 256 * (i % 2), bytes, sizes[i], NULL), KVRT_OK);
        for (unsigned again = 0; again < 2; again++) {
            memset(back, 0, most);
            assert_int_equal(b->pool_read(device, 256 * (i % 2), back, sizes[i], NULL), KVRT_OK);
            if (memcmp(bytes, back, sizes[i]) != 0)
                fail_msg("%llu bytes, other ones came back", (unsigned long long)sizes[i]);
            assert_true(sizes[i] == most || back[sizes[i]] == 0);
        }
    }
    free(bytes), free(back);
    kvi_session_leave(s, KVI_LOOK);
    kvrt_engine_close(engine, NULL);
}

/* ----------------------------------------------------------------------------------------------------------- failures --- */
static void whatever_fails_changes_nothing(void **state)
{
    (void)state;
    if (cuda_on_card()) skip();
    kvrt_error error = {.size = sizeof error};
    const uint64_t objects = cuda_emu.count("objects"), bytes = device_bytes();
    /* Every allocation of an open. */
    uint64_t nth = 0;
    kvrt_status status;
    do {
        kvrt_engine engine = NULL;
        cuda_emu.break_nth("alloc", ++nth);
        status = cuda_open(cuda_bundled_model(), changes, &engine, &error);
        cuda_emu.break_nth("alloc", 0);
        if (status >= KVRT_OK) assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
        else assert_true(status == KVRT_NOMEM_DEVICE || status == KVRT_NOMEM_HOST);
        assert_int_equal(cuda_emu.count("objects"), objects);
        assert_int_equal(device_bytes(), bytes);
        assert_true(nth < 100);
    } while (status < KVRT_OK);
    assert_true(nth > 12); /* addresses, six pieces and six mappings of the pool, access */
    /* And of growing. */
    kvrt_engine engine = open_with(changes), other = open_with(changes);
    kvrt_session a = golden_session_with(engine, 1, 200), b = golden_session_with(other, 1, 200);
    const kvrt_memory m = golden_memory(engine);
    const uint64_t held = device_bytes(), alive = cuda_emu.count("objects"),
                   larger = golden_limit_for(engine, m.kv_pool_bytes + 10 * GRAIN);
    for (nth = 1;; nth++) {
        cuda_emu.break_nth("alloc", nth);
        status = kvrt_mem_limit(engine, larger, NULL, &error);
        cuda_emu.break_nth("alloc", 0);
        if (status >= KVRT_OK) break;
        assert_int_equal(status, KVRT_NOMEM_DEVICE);
        assert_non_null(strstr(error.message, "KV pool: need"));
        assert_int_equal(golden_memory(engine).kv_pool_bytes, m.kv_pool_bytes);
        assert_int_equal(device_bytes(), held);
        assert_int_equal(cuda_emu.count("objects"), alive);
        if (nth % 9 == 1) assert_true(generate(a, 1) == generate(b, 1));
        assert_true(nth < 200);
    }
    assert_true(nth > 20);
    assert_int_equal(golden_memory(engine).kv_pool_bytes, m.kv_pool_bytes + 10 * GRAIN);
    assert_true(generate(a, 3) == generate(b, 3));
    kvrt_engine_close(engine, NULL);
    kvrt_engine_close(other, NULL);
    assert_int_equal(cuda_emu.count("objects"), objects);
}

static void a_lost_device_is_said(void **state)
{
    (void)state;
    if (cuda_on_card()) skip();
    kvrt_error error = {.size = sizeof error};
    const uint64_t objects = cuda_emu.count("objects");
    kvrt_engine engine = open_with(changes);
    kvrt_session s = golden_session_with(engine, 1, 100);
    cuda_emu.break_nth("lost", 1);
    kvrt_options *o = golden_options((const char *const[]){"gen.max_tokens", "1", NULL});
    assert_int_equal(kvrt_generate(s, o, NULL, NULL, NULL, &error), KVRT_DEVICE_LOST);
    kvrt_options_destroy(o);
    assert_int_equal(kvrt_mem_limit(engine, 640u * MIB, NULL, &error), KVRT_DEVICE_LOST);
    cuda_emu.break_nth("lost", 0);
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
    assert_int_equal(cuda_emu.count("objects"), objects);
}

static void refusals_have_names(void **state)
{
    (void)state;
    kvrt_error error = {.size = sizeof error};
    const char *const fixed[] = {BASE, "kv.format", "f16", NULL};
    const uint64_t objects = cuda_emu.count("objects");
    kvrt_engine engine = open_with(fixed);
    const uint64_t pool = golden_memory(engine).kv_pool_bytes;
    assert_int_equal(kvrt_mem_limit(engine, 1 << 30, NULL, &error), KVRT_UNSUPPORTED);
    assert_non_null(strstr(error.message, "mem.limit: the KV pool of the backend cuda changes only if"));
    assert_int_equal(golden_memory(engine).kv_pool_bytes, pool);
    kvrt_engine_close(engine, NULL);
    if (cuda_on_card()) skip();
    setenv("KVRT_EMU_VIRTUAL", "0", 1); /* a device without */
    assert_int_equal(cuda_open(cuda_bundled_model(), changes, &engine, &error), KVRT_UNSUPPORTED);
    unsetenv("KVRT_EMU_VIRTUAL");
    assert_non_null(strstr(error.message, "mem.most: kvrt emulated device"));
    assert_int_equal(cuda_emu.count("objects"), objects);
}

static int tear_down(void **state)
{
    (void)state;
    return cuda_emu.count("reports") != 0 || cuda_emu.count("objects") != 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(memory_goes_and_comes_to_the_byte),
                                       cmocka_unit_test(sessions_go_on),
                                       cmocka_unit_test(requests_go_on),
                                       cmocka_unit_test(sessions_make_room),
                                       cmocka_unit_test(bytes_there_and_back),
                                       cmocka_unit_test(whatever_fails_changes_nothing),
                                       cmocka_unit_test(a_lost_device_is_said),
                                       cmocka_unit_test(refusals_have_names)};
    if (!cuda_find_driver()) return 77;
    return cmocka_run_group_tests(tests, NULL, tear_down);
}
