/* test_transfer.c - sessions saved and loaded between the steps of others: the same files, the same bits, a piece at a time; what ends one early; and
 * what loaded sessions hold in common. */
#define _DEFAULT_SOURCE
#include "golden_model.h"
#include "../../runtime/base/os.h"
#include "../../runtime/engine/seat.h"
#include "../../runtime/engine/snapshot.h"
#include "files_in.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static golden_model model, tiny;
static char dir[] = "/tmp/kvrt-transfer-XXXXXX", path[64], other_path[64];

static kvrt_engine open_of(const golden_model *m, const char *format, const char *sessions)
{
    const char *pairs[] = {"cpu.threads", "1",   "kv.format",      format, "kv.tail",      "64",     "ctx.chunk", "64",
                           "ctx.size",    "900", "gen.ignore_eos", "true", "ctx.sessions", sessions, NULL};
    return golden_open(m, pairs);
}

static void prompt(kvrt_session s, uint32_t story, uint32_t n)
{
    int32_t ids[1024];
    for (uint32_t i = 0; i < n; i++) ids[i] = (int32_t)(2 + (i * 31 + (i >= 512 ? story : 3) * 17) % 90);
    assert_int_equal(kvrt_session_sync(s, ids, n, NULL, NULL), KVRT_OK);
}

static kvrt_options *greedy(uint32_t n)
{
    kvrt_options *o;
    kvrt_options_create(&o, NULL);
    kvrt_options_set_i64(o, "gen.max_tokens", n, NULL);
    kvrt_options_set_f64(o, "sample.temperature", 0, NULL);
    return o;
}

static uint64_t digest_of(kvrt_session s)
{
    int32_t ids[1024];
    uint64_t n, sum = 1;
    assert_int_equal(kvrt_session_tokens(s, ids, 1024, &n, NULL), KVRT_OK);
    for (uint64_t i = 0; i < n; i++) sum = (sum ^ (uint32_t)ids[i]) * 1099511628211u;
    return sum;
}

static void generate(kvrt_session s, uint32_t n)
{
    kvrt_options *o = greedy(n);
    kvrt_error error = {.size = sizeof error};
    if (kvrt_generate(s, o, NULL, NULL, NULL, &error) < KVRT_OK) fail_msg("%s", error.message);
    kvrt_options_destroy(o);
}

typedef struct heard {
    uint32_t n_steps, n_done, n_errors;
    int32_t status;
    uint64_t bytes;
} heard;

/* Until nothing is left, a budget at a time. */
static heard drive(kvrt_engine engine, uint64_t budget_us, uint64_t request)
{
    heard h = {0};
    int32_t status;
    do {
        kvrt_event event = {.size = sizeof event};
        status = kvrt_step(engine, budget_us, NULL);
        assert_true(status >= KVRT_OK);
        h.n_steps++;
        while (kvrt_poll(engine, &event, NULL) == KVRT_OK) {
            if (event.request != request) continue;
            h.n_done += event.type == KVRT_EVENT_DONE;
            h.n_errors += event.type == KVRT_EVENT_ERROR;
            if (event.type == KVRT_EVENT_ERROR) h.status = event.status;
            if (event.type == KVRT_EVENT_DONE) h.bytes = event.done;
        }
    } while (status != KVRT_DONE);
    return h;
}

static uint8_t *file_bytes(const char *name, uint64_t *n)
{
    FILE *f = fopen(name, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    *n = (uint64_t)ftell(f);
    rewind(f);
    uint8_t *bytes = malloc(*n);
    assert_int_equal(fread(bytes, 1, *n, f), *n);
    fclose(f);
    return bytes;
}

/* Beside a session that generates: its tokens are those that it has alone, the file is the one that a blocking call writes, and a session that is
 * loaded likewise goes on as the saved one does. */
static void beside_others(const golden_model *m, const char *format, uint64_t budget_us, uint32_t n_prompt)
{
    kvrt_engine engine = open_of(m, format, "3"), alone = open_of(m, format, "3");
    kvrt_session talks = golden_session(engine), kept = golden_session(engine), back = golden_session(engine),
                 quiet = golden_session(alone);
    uint64_t request = 0, n_whole, n_file;
    prompt(talks, 5, 100), prompt(quiet, 5, 100);
    generate(quiet, 120);
    prompt(kept, 7, n_prompt), generate(kept, 5);
    assert_int_equal(kvrt_session_save_bytes(kept, 0, NULL, 0, &n_whole, NULL), KVRT_PARTIAL);
    uint8_t *whole = malloc(n_whole);
    assert_int_equal(kvrt_session_save_bytes(kept, 0, whole, n_whole, &n_whole, NULL), KVRT_OK);
    kvrt_options *o = greedy(60);
    for (uint32_t loads = 0; loads < 2; loads++) {
        assert_int_equal(kvrt_submit(talks, o, NULL, NULL), KVRT_OK);
        assert_int_equal(loads ? kvrt_submit_load(back, path, 0, &request, NULL)
                               : kvrt_submit_save(kept, path, 0, &request, NULL),
                         KVRT_OK);
        kvrt_session busy = loads ? back : kept, fork;
        assert_int_equal(kvrt_session_rewind(busy, 0, NULL), KVRT_STATE);
        assert_int_equal(kvrt_session_fork(busy, &fork, NULL), KVRT_STATE);
        assert_int_equal(kvrt_session_save(busy, other_path, 0, NULL), KVRT_STATE);
        assert_int_equal(kvrt_submit(busy, NULL, NULL, NULL), KVRT_STATE);
        const heard h = drive(engine, budget_us, request);
        assert_int_equal(h.n_done, 1);
        assert_int_equal(h.bytes, n_whole);
        assert_true(budget_us || h.n_steps > n_whole / KVI_SNAPSHOT_PIECE);
    }
    kvrt_options_destroy(o);
    uint8_t *file = file_bytes(path, &n_file);
    assert_int_equal(n_file, n_whole);
    assert_memory_equal(file, whole, n_whole);
    if (digest_of(talks) != digest_of(quiet)) fail_msg("%s: a session beside transfers has other tokens", format);
    generate(kept, 70), generate(back, 70);
    assert_int_equal(digest_of(kept), digest_of(back));
    free(file), free(whole);
    kvrt_engine_close(engine, NULL), kvrt_engine_close(alone, NULL);
}

static void the_same_bytes_and_tokens(void **state)
{
    (void)state;
    static const char *const formats[] = {"f16", "k4v4", "i8", "elastic"};
    for (uint32_t f = 0; f < 4; f++)
        for (uint32_t b = 0; b < 3; b++) beside_others(&model, formats[f], b == 0 ? 0 : b == 1 ? 300 : 1000000, 600);
    beside_others(&tiny, "f16", 0, 500); /* pages of several pieces */
    beside_others(&tiny, "k4v4", 300, 500);
}

/* A step of no time does one piece, however large a page is. */
static uint64_t n_written, most_written;
static int64_t counting_write(int32_t file, const void *bytes, uint64_t n)
{
    n_written += n;
    return write(file, bytes, n);
}

static void a_piece_at_a_time(void **state)
{
    (void)state;
    kvrt_engine engine = open_of(&tiny, "f16", "2");
    kvrt_session s = golden_session(engine);
    uint64_t request;
    int32_t status;
    prompt(s, 1, 600), generate(s, 2);
    kvi_os_write_hook = counting_write;
    assert_int_equal(kvrt_submit_save(s, path, 0, &request, NULL), KVRT_OK);
    uint32_t n_steps = 0;
    do {
        n_written = 0;
        status = kvrt_step(engine, 0, NULL);
        if (n_written > most_written) most_written = n_written;
        n_steps++;
    } while (status == KVRT_MORE);
    kvi_os_write_hook = NULL;
    assert_int_equal(status, KVRT_DONE);
    assert_true(most_written == KVI_SNAPSHOT_PIECE + 8 && n_steps > 4);
    kvrt_engine_close(engine, NULL);
}

/* Cancelled, closed, damaged, of another model: nothing has changed, and no part of a file is left. */
static void what_ends_early(void **state)
{
    (void)state;
    kvrt_engine engine = open_of(&model, "k4v4", "3");
    kvrt_session a = golden_session(engine), b = golden_session(engine), c = golden_session(engine);
    uint64_t request, n;
    prompt(a, 1, 700), generate(a, 3);
    prompt(b, 2, 640), generate(b, 3);
    assert_int_equal(kvrt_session_save(a, path, 0, NULL), KVRT_OK);
    const uint64_t was = digest_of(b);
    for (uint32_t after = 0; after < 12; after++) {
        assert_int_equal(kvrt_submit_load(b, path, 0, &request, NULL), KVRT_OK);
        for (uint32_t i = 0; i < after; i++) (void)kvrt_step(engine, 0, NULL);
        kvrt_cancel_id(request);
        const heard h = drive(engine, 1000, request);
        assert_int_equal(h.n_done + h.n_errors, 1);
        if (h.n_errors) assert_int_equal(h.status, KVRT_CANCELLED);
        assert_int_equal(digest_of(b), h.n_errors ? was : digest_of(a));
        if (h.n_done) break;
    }
    prompt(b, 2, 640), generate(b, 3);
    for (uint32_t after = 0; after < 4; after++) { /* saving: the old file stays */
        assert_int_equal(kvrt_submit_save(b, path, 0, &request, NULL), KVRT_OK);
        for (uint32_t i = 0; i < after; i++) (void)kvrt_step(engine, 0, NULL);
        kvrt_cancel_id(request);
        assert_int_equal(drive(engine, 1000, request).status, KVRT_CANCELLED);
        assert_int_equal(files_in(dir), 1);
    }
    for (uint32_t after = 0; after < 10; after += 3)
        for (uint32_t loads = 0; loads < 2; loads++) {
            if (loads) assert_int_equal(kvrt_submit_load(c, path, 0, &request, NULL), KVRT_OK);
            else assert_int_equal(kvrt_submit_save(c, path, 0, &request, NULL), KVRT_OK);
            for (uint32_t i = 0; i < after && (loads || i < 2); i++) (void)kvrt_step(engine, 0, NULL);
            assert_int_equal(kvrt_session_close(c, NULL), KVRT_OK);
            c = golden_session(engine);
            if (loads) assert_int_equal(files_in(dir), 1);
        }
    assert_int_equal(kvrt_session_save(a, path, 0, NULL), KVRT_OK);
    uint8_t *bytes = file_bytes(path, &n);
    for (uint64_t at = 8; at < n; at += n / 23) {
        FILE *f = fopen(other_path, "wb");
        bytes[at] ^= 4;
        assert_int_equal(fwrite(bytes, 1, n, f), n);
        bytes[at] ^= 4;
        fclose(f);
        const uint64_t before = digest_of(b);
        assert_int_equal(kvrt_submit_load(b, other_path, 0, &request, NULL), KVRT_OK);
        const heard h = drive(engine, 500, request);
        assert_true(h.n_errors == 1 && (h.status == KVRT_SNAPSHOT_CORRUPT || h.status == KVRT_SNAPSHOT_MISMATCH));
        assert_int_equal(digest_of(b), before);
    }
    unlink(other_path);
    assert_int_equal(kvrt_submit_load(b, "/nowhere", 0, &request, NULL), KVRT_IO);
    assert_int_equal(kvrt_submit_save(b, "/nowhere/at/all", 0, &request, NULL), KVRT_IO);
    assert_int_equal(kvrt_submit_save(b, path, 8, &request, NULL), KVRT_ARG);
    assert_int_equal(kvrt_submit_save(b, NULL, 0, &request, NULL), KVRT_ARG);
    generate(b, 4); /* it is nobody's any more */
    free(bytes);
    kvrt_engine_close(engine, NULL);
}

/* Three characters on one lore, saved and loaded: the lore is in the pool once, and others find it where the host says that the file is its own. */
static void prefixes_are_shared(const char *format)
{
    char names[3][80];
    uint64_t want[3];
    kvrt_engine first = open_of(&model, format, "3");
    for (uint32_t i = 0; i < 3; i++) {
        kvrt_session s = golden_session(first);
        snprintf(names[i], sizeof names[i], "%s/c%u", dir, i);
        prompt(s, i, 560), generate(s, 20);
        assert_int_equal(kvrt_session_save(s, names[i], 0, NULL), KVRT_OK);
        generate(s, 90);
        want[i] = digest_of(s);
    }
    for (uint32_t own = 0; own < 2; own++) {
        kvrt_engine engine = open_of(&model, format, "4");
        kvrt_session s[3], late = golden_session(engine);
        for (uint32_t i = 0; i < 3; i++) {
            s[i] = golden_session(engine);
            assert_int_equal(kvrt_session_load(s[i], names[i], own ? KVRT_SNAPSHOT_OWN : 0, NULL), KVRT_OK);
            assert_int_equal(golden_session_info(s[i]).n_cached, 579);
            const uint32_t n_shared = golden_session_info(s[i]).n_shared_pages;
            if (own ? i > 0 && n_shared < 4 : n_shared > 0)
                fail_msg("%s: load %u shares %u pages", format, i, n_shared);
        }
        prompt(late, 9, 560);
        generate(late, 1);
        /* A prompt takes what it would have computed: at 16 bits all, else no page that it would not have packed yet, of which the file has none. */
        const uint64_t most = strcmp(format, "f16") == 0 ? 512 : 128;
        if (own ? golden_session_info(late).n_found < most : golden_session_info(late).n_found > 0)
            fail_msg("%s: a prompt took %llu tokens of loaded ones", format,
                     (unsigned long long)golden_session_info(late).n_found);
        for (uint32_t i = 0; i < 3; i++) {
            const uint64_t before = golden_session_info(s[i]).n_computed;
            generate(s[i], 90);
            assert_int_equal(golden_session_info(s[i]).n_computed, before + 90);
            if (digest_of(s[i]) != want[i]) fail_msg("%s, own %u: session %u goes on otherwise", format, own, i);
        }
        /* A file of a prompt that the engine has computed itself is not held twice, whoever wrote it. */
        if (!own) {
            assert_int_equal(kvrt_session_load(s[0], names[1], 0, NULL), KVRT_OK);
            assert_true(golden_session_info(s[0]).n_shared_pages >=
                        3); /* the fourth is packed in the file, and not yet there */
        }
        kvrt_engine_close(engine, NULL);
    }
    for (uint32_t i = 0; i < 3; i++) unlink(names[i]);
    kvrt_engine_close(first, NULL);
}

static void loaded_sessions_share(void **state)
{
    (void)state;
    prefixes_are_shared("f16");
    prefixes_are_shared("k4v4");
    prefixes_are_shared("t2");
}

static int set_up(void **state)
{
    (void)state;
    if (!mkdtemp(dir)) return -1;
    snprintf(path, sizeof path, "%s/save.kvrt", dir);
    snprintf(other_path, sizeof other_path, "%s/other.kvrt", dir);
    snprintf(tiny.dir, sizeof tiny.dir, "%s/../examples/models/storyteller-8m", KVRT_TEST_DIR);
    return golden_load("llama_gqa2", &model) ? 0 : -1;
}
static int tear_down(void **state)
{
    (void)state;
    golden_free(&model);
    unlink(path);
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_same_bytes_and_tokens), cmocka_unit_test(a_piece_at_a_time),
                                       cmocka_unit_test(what_ends_early), cmocka_unit_test(loaded_sessions_share)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
