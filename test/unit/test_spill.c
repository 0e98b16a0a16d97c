/* test_spill.c - pages that leave the pool and come back: a session that was away goes on to the bit, whatever its cache; many sessions take
 * turns in a pool for one; what is shared is kept once; what is lost or damaged there is computed again; what fails changes nothing. */
#define _DEFAULT_SOURCE
#include "crowd.h"
#include "golden_model.h"
#include "../../runtime/base/os.h"
#include "../../runtime/engine/seat.h"

#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static golden_model model;
static char dir[] = "/tmp/kvrt-spill-XXXXXX";

static kvrt_status try_engine(const char *format, const char *sessions, const char *where, const char *limit,
                              kvrt_engine *out, kvrt_error *error)
{
    const char *pairs[] = {"model.path",
                           model.dir,
                           "device.backend",
                           "cpu",
                           "cpu.threads",
                           "1",
                           "kv.format",
                           format,
                           "kv.tail",
                           "64",
                           "ctx.chunk",
                           "64",
                           "ctx.sessions",
                           sessions,
                           "ctx.size",
                           "500",
                           "kv.spill",
                           where,
                           "kv.spill_limit",
                           limit,
                           "gen.ignore_eos",
                           "true",
                           "gen.token_events",
                           "true",
                           "kv.pool",
                           strcmp(format, "elastic") ? "0" : "400KiB",
                           NULL};
    return golden_try_open(pairs, out, error);
}

static kvrt_engine open_engine(const char *format, const char *sessions, const char *where)
{
    kvrt_engine engine;
    kvrt_error error = {.size = sizeof error};
    if (try_engine(format, sessions, where, "0", &engine, &error) < KVRT_OK) fail_msg("%s", error.message);
    return engine;
}

static void prompt(kvrt_session s, uint32_t story, uint32_t n)
{
    int32_t ids[512];
    kvrt_error error = {.size = sizeof error};
    for (uint32_t i = 0; i < n; i++) ids[i] = crowd_token(story, i);
    if (kvrt_session_sync(s, ids, n, NULL, &error) < KVRT_OK) fail_msg("%s", error.message);
}

static int32_t listen(const kvrt_event *event, void *user)
{
    uint64_t *digest = user;
    uint32_t bits;
    if (event->type != KVRT_EVENT_TOKEN) return KVRT_CONTINUE;
    memcpy(&bits, &event->logprob, sizeof bits);
    *digest = (*digest ^ (uint32_t)event->token ^ bits) * 1099511628211u;
    return KVRT_CONTINUE;
}

/* A digest of every token and every bit of its log probability. */
static uint64_t generate(kvrt_session s, uint32_t n)
{
    uint64_t digest = 1;
    kvrt_options *o;
    kvrt_error error = {.size = sizeof error};
    kvrt_options_create(&o, NULL);
    kvrt_options_set_i64(o, "gen.max_tokens", n, NULL);
    kvrt_options_set_f64(o, "sample.temperature", 1.3, NULL);
    kvrt_options_set_i64(o, "sample.seed", 5, NULL);
    if (kvrt_generate(s, o, listen, &digest, NULL, &error) < KVRT_OK) fail_msg("%s", error.message);
    kvrt_options_destroy(o);
    return digest;
}

static uint64_t spill(kvrt_session s)
{
    uint64_t moved = 0;
    kvi_session *session;
    kvrt_error error = {.size = sizeof error};
    if (kvrt_session_spill(s, &moved, &error) < KVRT_OK) fail_msg("%s", error.message);
    assert_int_equal(kvi_session_enter(s, KVI_LOOK, &session, NULL), KVRT_OK);
    kvi_session_leave(session, KVI_LOOK);
    assert_int_equal(kvrt_trim(session->engine->handle, NULL, NULL),
                     KVRT_OK); /* what is cached is not to be had otherwise */
    return moved;
}

/* Bytes and number of the files below `path`; fn may change each. */
static uint64_t files(const char *path, uint32_t *n, void (*fn)(const char *path))
{
    uint64_t bytes = 0;
    DIR *listing = opendir(path);
    for (struct dirent *entry; listing && (entry = readdir(listing));) {
        char name[600];
        struct stat st;
        if (entry->d_name[0] == '.') continue;
        snprintf(name, sizeof name, "%.300s/%s", path, entry->d_name);
        if (stat(name, &st) != 0) continue;
        if (S_ISDIR(st.st_mode)) {
            bytes += files(name, n, fn);
            continue;
        }
        bytes += (uint64_t)st.st_size;
        ++*n;
        if (fn) fn(name);
    }
    if (listing) closedir(listing);
    return bytes;
}

/* All pages stand in one file: what is `part` quarters from its beginning is harmed. */
static uint32_t part;
static long harmed_at(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return (long)(st.st_size / 4 * part + 77);
}
static void flip_a_bit(const char *path)
{
    const long at = harmed_at(path);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    fseek(file, at, SEEK_SET);
    const int c = fgetc(file);
    fseek(file, at, SEEK_SET);
    fputc(c ^ 4, file);
    fclose(file);
}
static void cut_it(const char *path) { assert_int_equal(truncate(path, harmed_at(path)), 0); }
static void remove_it(const char *path) { assert_int_equal(unlink(path), 0); }

/* ------------------------------------------------------------------------------------------------------- going on --- */
static void check_going_on(const char *name, const char *format, const char *where, uint32_t n_prompt, uint32_t n_first)
{
    golden_free(&model);
    assert_true(golden_load(name, &model));
    kvrt_engine engine = open_engine(format, "2", where), other = open_engine(format, "2", "");
    kvrt_session s = golden_session(engine), stays = golden_session(other);
    prompt(s, 3, n_prompt), prompt(stays, 3, n_prompt);
    assert_int_equal(generate(s, n_first), generate(stays, n_first));
    const uint64_t held = golden_memory(engine).kv_used_bytes, moved = spill(s);
    assert_true(moved > 0 && moved <= held);
    assert_int_equal(golden_session_info(s).kv_away_bytes, moved);
    assert_int_equal(golden_memory(engine).kv_away_bytes, moved);
    uint32_t n = 0;
    if (strcmp(where, "memory") != 0) assert_int_equal(files(dir, &n, NULL), moved);
    assert_int_equal(spill(s), 0); /* it is away already */
    const uint64_t computed = golden_session_info(s).n_computed;
    if (generate(s, 30) != generate(stays, 30)) fail_msg("%s, %s, %u tokens: not as without", name, format, n_prompt);
    assert_int_equal(golden_session_info(s).n_computed - computed, 30); /* the last token of before, and 29 */
    assert_int_equal(golden_session_info(s).kv_away_bytes, 0);
    assert_int_equal(golden_memory(engine).kv_away_bytes, 0);
    /* What is out of date is written over, so that there are never more bytes than were away at a time. */
    assert_true(files(dir, &n, NULL) <= moved);
    const uint64_t again = spill(s);
    assert_true(files(dir, &n, NULL) <= (again > moved ? again : moved));
    if (generate(s, 10) != generate(stays, 10)) fail_msg("%s, %s, %u tokens: not as without", name, format, n_prompt);
    (void)spill(s);
    kvrt_engine_close(engine, NULL), kvrt_engine_close(other, NULL);
    n = 0;
    assert_int_equal(files(dir, &n, NULL), 0);
}

static void goes_on_to_the_bit(void **state)
{
    (void)state;
    static const char *const formats[] = {"f32", "f16", "bf16", "i8", "f8", "k4v4", "k4v2", "k3v3", "k2v2", "elastic"};
    for (unsigned f = 0; f < sizeof formats / sizeof *formats; f++) {
        check_going_on("llama_gqa2", formats[f], f % 2 ? dir : "memory", 256, 1);
        check_going_on("llama_gqa2", formats[f], f % 2 ? "memory" : dir, 257, 1);
        check_going_on("llama_gqa2", formats[f], dir, 383, 1);
    }
    static const char *const names[] = {"qwen2_window", "gemma3", "qwen3_next", "qwen3_5", "deepseek_v3"};
    for (unsigned i = 0; i < 5; i++) {
        check_going_on(names[i], "k4v4", dir, 300, 40);
        check_going_on(names[i], "f16", "memory", 129, 3);
    }
}

/* A pool for one, and five who take turns: each as alone. */
static void many_take_turns(void **state)
{
    (void)state;
    enum { N = 5, ROUNDS = 4 };
    static const char *const names[] = {"llama_gqa2", "qwen2_window", "qwen3_next"};
    for (unsigned m = 0; m < 3; m++)
        for (int elastic = 0; elastic < (m == 0 ? 2 : 1); elastic++) {
            const char *format = elastic ? "elastic" : "k4v4";
            golden_free(&model);
            assert_true(golden_load(names[m], &model));
            kvrt_engine engine = open_engine(format, "1", dir), others[N];
            kvrt_session s[N], alone[N];
            uint64_t most = 0;
            for (uint32_t i = 0; i < N; i++) {
                s[i] = golden_session(engine);
                others[i] = open_engine(format, "1", "");
                alone[i] = golden_session(others[i]);
                prompt(s[i], i, 380 + i), prompt(alone[i], i, 380 + i);
            }
            for (uint32_t round = 0; round < ROUNDS; round++)
                for (uint32_t k = 0; k < N; k++) {
                    const uint32_t i = (k * (round + 1)) % N;
                    assert_int_equal(generate(s[i], 20), generate(alone[i], 20));
                    if (golden_memory(engine).kv_away_bytes > most) most = golden_memory(engine).kv_away_bytes;
                }
            assert_true(most > 0);
            for (uint32_t i = 0; i < N; i++) assert_int_equal(kvrt_session_close(s[i], NULL), KVRT_OK);
            assert_int_equal(golden_memory(engine).kv_used_bytes, 0);
            kvrt_engine_close(engine, NULL);
            for (uint32_t i = 0; i < N; i++) kvrt_engine_close(others[i], NULL);
        }
    /* Without a place to go there is no room, and that is said. */
    golden_free(&model);
    assert_true(golden_load("llama_gqa2", &model));
    kvrt_engine engine = open_engine("k4v4", "1", "");
    kvrt_session a = golden_session(engine), b = golden_session(engine);
    kvrt_error error = {.size = sizeof error};
    prompt(a, 1, 490), prompt(b, 2, 490);
    (void)generate(a, 3);
    assert_int_equal(kvrt_generate(b, NULL, NULL, NULL, NULL, &error), KVRT_CTX_FULL);
    kvrt_engine_close(engine, NULL);
}

/* Forks and prefixes go once, and are one again when they are back. */
static void what_is_shared_is_kept_once(void **state)
{
    (void)state;
    golden_free(&model);
    assert_true(golden_load("llama_gqa2", &model));
    kvrt_engine engine = open_engine("k4v4", "4", dir), other = open_engine("k4v4", "4", "");
    kvrt_session s[3], stays = golden_session(other);
    prompt(stays, 1, 300);
    (void)generate(stays, 90);
    s[0] = golden_session(engine);
    prompt(s[0], 1, 300);
    (void)generate(s[0], 90);
    for (int i = 1; i < 3; i++) assert_int_equal(kvrt_session_fork(s[0], &s[i], NULL), KVRT_OK);
    const uint64_t used = golden_memory(engine).kv_used_bytes;
    uint32_t n_one = 0, n_all = 0;
    const uint64_t moved = spill(s[0]);
    files(dir, &n_one, NULL);
    for (int i = 1; i < 3; i++) assert_int_equal(spill(s[i]), moved);
    assert_int_equal(files(dir, &n_all, NULL), moved);
    assert_int_equal(n_one, n_all);
    const uint64_t want = generate(stays, 20);
    for (int i = 0; i < 3; i++) assert_int_equal(generate(s[i], 20), want);
    assert_true(golden_memory(engine).kv_used_bytes < used * 2); /* the open page of each, no more */
    assert_true(golden_session_info(s[0]).n_shared_pages >= 2);
    assert_true(files(dir, &n_all, NULL) <= moved);
    /* One goes, while others hold its pages: nothing is read for it. */
    const uint64_t computed = golden_session_info(s[1]).n_computed;
    (void)spill(s[1]);
    (void)files(dir, &n_all, remove_it);
    prompt(s[1], 1, 260);
    (void)generate(s[1], 1);
    assert_true(golden_session_info(s[1]).n_computed - computed < 20);
    kvrt_engine_close(engine, NULL), kvrt_engine_close(other, NULL);
}

/* ---------------------------------------------------------------------------------------------------------- damage --- */
/* To the bit where nothing is encoded: a page that is computed again behind an encoded one sees that (rule 8). */
static void what_is_lost_is_computed_again(void **state)
{
    (void)state;
    static void (*const damage[])(const char *) = {flip_a_bit, cut_it, remove_it};
    static const char *const names[] = {"llama_gqa2", "qwen2_window", "qwen3_next"};
    for (unsigned m = 0; m < 3; m++)
        for (unsigned d = 0; d < 3; d++)
            for (part = 0; part < 4; part++) {
                uint32_t n = 0;
                golden_free(&model);
                assert_true(golden_load(names[m], &model));
                kvrt_engine engine = open_engine("f16", "2", dir), other = open_engine("f16", "2", "");
                kvrt_session s = golden_session(engine), stays = golden_session(other);
                prompt(s, 2, 450), prompt(stays, 2, 450);
                (void)generate(s, 1), (void)generate(stays, 1);
                (void)spill(s);
                (void)files(dir, &n, damage[d]);
                assert_true(n > 0);
                /* All as a prompt: so is a session that reads it all. */
                int32_t ids[512];
                uint64_t n_ids, computed = golden_session_info(s).n_computed;
                assert_int_equal(kvrt_session_tokens(s, ids, 512, &n_ids, NULL), KVRT_OK);
                assert_int_equal(kvrt_session_rewind(stays, 0, NULL), KVRT_OK);
                assert_int_equal(kvrt_session_sync(stays, ids, n_ids, NULL, NULL), KVRT_OK);
                if (generate(s, 20) != generate(stays, 20))
                    fail_msg("%s: harmed at %u quarters (%u): not as without", names[m], part, d);
                assert_true(golden_session_info(s).n_computed > computed + 20);
                kvrt_engine_close(engine, NULL), kvrt_engine_close(other, NULL);
                n = 0;
                assert_int_equal(files(dir, &n, NULL), 0);
            }
}

/* Everything that a host does with a session that is away. */
static void every_call_finds_it(void **state)
{
    (void)state;
    golden_free(&model);
    assert_true(golden_load("llama_gqa2", &model));
    kvrt_engine engine = open_engine("k4v4", "4", dir), other = open_engine("k4v4", "4", "");
    kvrt_session s = golden_session(engine), stays = golden_session(other), fork, loaded = golden_session(engine);
    float *logits = malloc(model.vocab * sizeof *logits), *want = malloc(model.vocab * sizeof *want);
    uint64_t n;
    prompt(s, 4, 300), prompt(stays, 4, 300);
    (void)generate(s, 30), (void)generate(stays, 30);
    (void)spill(s);
    assert_int_equal(kvrt_session_fork(s, &fork, NULL), KVRT_OK);
    (void)spill(s);
    assert_int_equal(kvrt_session_save_bytes(s, 0, NULL, 0, &n, NULL), KVRT_PARTIAL);
    void *bytes = malloc(n);
    (void)spill(s);
    assert_int_equal(kvrt_session_save_bytes(s, 0, bytes, n, &n, NULL), KVRT_OK);
    prompt(loaded, 9, 200);
    (void)generate(loaded, 2);
    (void)spill(loaded);
    assert_int_equal(kvrt_session_load_bytes(loaded, bytes, n, 0, NULL), KVRT_OK);
    assert_int_equal(golden_session_info(loaded).kv_away_bytes, 0);
    (void)spill(s);
    const int32_t id = 7;
    assert_int_equal(kvrt_session_eval(s, &id, 1, NULL, 1, logits, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_eval(stays, &id, 1, NULL, 1, want, NULL), KVRT_OK);
    assert_memory_equal(logits, want, model.vocab * sizeof *want);
    (void)spill(s);
    assert_int_equal(kvrt_session_rewind(s, 310, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_rewind(stays, 310, NULL), KVRT_OK);
    (void)spill(s);
    assert_int_equal(generate(s, 20), generate(stays, 20));
    (void)spill(s);
    prompt(s, 4, 305), prompt(stays, 4, 305);
    assert_int_equal(generate(s, 20), generate(stays, 20));
    assert_int_equal(generate(fork, 20), generate(loaded, 20));
    (void)spill(s);
    assert_int_equal(kvrt_suspend(engine, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_rewind(s, 200, NULL), KVRT_STATE);
    assert_int_equal(kvrt_resume(engine, NULL), KVRT_OK);
    assert_int_equal(generate(s, 20), generate(stays, 20));
    uint64_t request;
    assert_int_equal(kvrt_submit(s, NULL, &request, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_spill(s, NULL, NULL), KVRT_STATE);
    (void)spill(fork);
    assert_int_equal(kvrt_session_close(fork, NULL), KVRT_OK);
    free(bytes), free(logits), free(want);
    kvrt_engine_close(engine, NULL), kvrt_engine_close(other, NULL);
}

/* ---------------------------------------------------------------------------------------------------------- errors --- */
static uint32_t writes_left;
static int64_t full_disk(int32_t file, const void *bytes, uint64_t n)
{
    if (writes_left-- > 0) return write(file, bytes, n < 1000 ? n : 1000);
    writes_left = 0;
    errno = ENOSPC;
    return -1;
}

static void what_fails_changes_nothing(void **state)
{
    (void)state;
    kvrt_error error = {.size = sizeof error};
    kvrt_engine engine;
    uint32_t n = 0;
    golden_free(&model);
    assert_true(golden_load("llama_gqa2", &model));
    assert_int_equal(try_engine("k4v4", "2", "/dev/null/folder", "0", &engine, &error), KVRT_IO);
    assert_non_null(strstr(error.message, "/dev/null/folder"));
    engine = open_engine("k4v4", "2", "");
    kvrt_session s = golden_session(engine), stays;
    assert_int_equal(kvrt_session_spill(s, NULL, &error), KVRT_STATE);
    kvrt_engine_close(engine, NULL);
    assert_int_equal(try_engine("k4v4", "2", "memory", "100KiB", &engine, &error), KVRT_OK);
    s = golden_session(engine);
    assert_int_equal(kvrt_session_spill(s, NULL, NULL), KVRT_OK); /* nothing to move */
    prompt(s, 1, 300);
    (void)generate(s, 2);
    assert_int_equal(kvrt_session_spill(s, NULL, &error), KVRT_OVER_BUDGET);
    assert_int_equal(error.available_bytes, 100 << 10);
    assert_int_equal(golden_session_info(s).kv_away_bytes, 0);
    kvrt_engine_close(engine, NULL);
    /* A full disk, at any moment; and every allocation. */
    engine = open_engine("k4v4", "2", dir);
    kvrt_engine other = open_engine("k4v4", "2", "");
    s = golden_session(engine), stays = golden_session(other);
    prompt(s, 1, 450), prompt(stays, 1, 450);
    (void)generate(s, 2), (void)generate(stays, 2);
    kvi_os_write_hook = full_disk;
    for (uint32_t at = 0;; at += 9) {
        writes_left = at;
        const kvrt_status status = kvrt_session_spill(s, NULL, &error);
        if (status == KVRT_OK) {
            assert_true(at > 20);
            break;
        }
        assert_int_equal(status, KVRT_IO);
        assert_int_equal(error.system_code, ENOSPC);
        assert_int_equal(golden_session_info(s).kv_away_bytes, 0);
        n = 0;
        assert_int_equal(files(dir, &n, NULL), 0);
    }
    kvi_os_write_hook = NULL;
    assert_int_equal(kvrt_session_rewind(s, 452, NULL), KVRT_OK);
    for (uint64_t nth = 1;; nth++) {
        kvrt_debug_fail_alloc(nth);
        const kvrt_status status = kvrt_session_spill(s, NULL, NULL);
        kvrt_debug_fail_alloc(0);
        if (status == KVRT_OK) break;
        assert_int_equal(status, KVRT_NOMEM_HOST);
        assert_int_equal(golden_session_info(s).kv_away_bytes, 0);
        assert_true(nth < 20);
    }
    for (uint64_t nth = 1;; nth++) {
        kvrt_debug_fail_alloc(nth);
        const kvrt_status status = kvrt_session_rewind(s, 452, NULL);
        kvrt_debug_fail_alloc(0);
        if (status == KVRT_OK) break;
        assert_int_equal(status, KVRT_NOMEM_HOST);
        assert_true(golden_session_info(s).kv_away_bytes > 0);
        assert_true(nth < 20);
    }
    assert_int_equal(generate(s, 20), generate(stays, 20));
    kvrt_engine_close(engine, NULL), kvrt_engine_close(other, NULL);
}

/* Who was used longest ago goes first, and nobody who need not. */
static void the_oldest_goes(void **state)
{
    (void)state;
    golden_free(&model);
    assert_true(golden_load("llama_gqa2", &model));
    kvrt_engine engine = open_engine("f16", "2", "memory");
    kvrt_session a = golden_session(engine), b = golden_session(engine), c = golden_session(engine);
    prompt(a, 1, 400), prompt(b, 2, 400), prompt(c, 3, 400);
    (void)generate(a, 2), (void)generate(b, 2), (void)generate(a, 2);
    assert_int_equal(golden_memory(engine).kv_away_bytes, 0);
    (void)generate(c, 2);
    assert_int_equal(golden_session_info(a).kv_away_bytes, 0);
    assert_true(golden_session_info(b).kv_away_bytes > 0);
    (void)generate(b, 2);
    assert_true(golden_session_info(a).kv_away_bytes > 0);
    assert_int_equal(golden_session_info(c).kv_away_bytes, 0);
    kvrt_engine_close(engine, NULL);
}

/* No room to come back, as all others are at work: it stays whole, and comes back later. */
static void no_room_to_come_back(void **state)
{
    (void)state;
    golden_free(&model);
    assert_true(golden_load("llama_gqa2", &model));
    kvrt_engine engine = open_engine("k4v4", "1", "memory"), other = open_engine("k4v4", "1", "");
    kvrt_session a = golden_session(engine), b = golden_session(engine), stays = golden_session(other);
    kvrt_error error = {.size = sizeof error};
    kvrt_options *o;
    prompt(a, 1, 400), prompt(stays, 1, 400);
    (void)generate(a, 5), (void)generate(stays, 5);
    prompt(b, 2, 450);
    assert_int_equal(kvrt_options_create(&o, NULL), KVRT_OK);
    kvrt_options_set_i64(o, "gen.max_tokens", 40, NULL);
    assert_int_equal(kvrt_submit(b, o, NULL, NULL), KVRT_OK);
    for (int i = 0; i < 400 && golden_session_info(b).n_cached < 440; i++) (void)kvrt_step(engine, 1000, NULL);
    assert_true(golden_session_info(a).kv_away_bytes > 0); /* it had to go for b */
    assert_int_equal(kvrt_session_rewind(a, 404, &error), KVRT_CTX_FULL);
    assert_true(golden_session_info(a).kv_away_bytes > 0);
    assert_int_equal(golden_session_info(a).n_tokens, 405);
    kvrt_event event = {.size = sizeof event};
    for (kvrt_status status = KVRT_MORE; status == KVRT_MORE || status == KVRT_PARTIAL;) {
        status = kvrt_step(engine, 1000000, NULL);
        while (kvrt_poll(engine, &event, NULL) == KVRT_OK) {
        }
    }
    assert_int_equal(generate(a, 20), generate(stays, 20));
    assert_true(golden_session_info(b).kv_away_bytes > 0);
    kvrt_options_destroy(o);
    kvrt_engine_close(engine, NULL), kvrt_engine_close(other, NULL);
}

static int remove_folder(void **state)
{
    (void)state;
    return rmdir(dir); /* nothing is left in it */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(goes_on_to_the_bit),
        cmocka_unit_test(many_take_turns),
        cmocka_unit_test(what_is_shared_is_kept_once),
        cmocka_unit_test(what_is_lost_is_computed_again),
        cmocka_unit_test(every_call_finds_it),
        cmocka_unit_test(what_fails_changes_nothing),
        cmocka_unit_test(the_oldest_goes),
        cmocka_unit_test(no_room_to_come_back),
    };
    assert_non_null(mkdtemp(dir));
    const int failed = cmocka_run_group_tests(tests, NULL, remove_folder);
    golden_free(&model);
    return failed;
}
