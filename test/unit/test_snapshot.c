/* test_snapshot.c - sessions as bytes: what goes on after a load is what would have gone on, to the bit; no damage gets in; a file is the old one or
 * the new one, whatever happens while it is written. */
#define _DEFAULT_SOURCE
#include "golden_model.h"
#include "../../runtime/base/os.h"
#include "../../runtime/engine/seat.h"
#include "../../runtime/engine/snapshot.h"
#include "files_in.h"

#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

static golden_model model;
static char dir[] = "/tmp/kvrt-snapshot-XXXXXX", path[64];
static uint32_t random_state = 1;
static uint32_t below(uint32_t n)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % n;
}

static kvrt_engine open_engine(const char *format, const char *tail, const char *ctx)
{
    const char *pairs[] = {"cpu.threads",
                           "1",
                           "kv.format",
                           format,
                           "kv.tail",
                           tail,
                           "ctx.chunk",
                           "64",
                           "ctx.sessions",
                           "3",
                           "ctx.size",
                           ctx,
                           "gen.ignore_eos",
                           "true",
                           "gen.token_events",
                           "true",
                           strcmp(format, "elastic") == 0 ? "kv.pool" : NULL,
                           "600KiB",
                           NULL};
    return golden_open(&model, pairs);
}

static void prompt(kvrt_session s, uint32_t story, uint32_t n)
{
    int32_t ids[1024];
    for (uint32_t i = 0; i < n; i++) ids[i] = (int32_t)(2 + (i * 31 + story * 17 + i / 90 * story) % 90);
    assert_int_equal(kvrt_session_sync(s, ids, n, NULL, NULL), KVRT_OK);
}

static int32_t listen(const kvrt_event *event, void *user)
{
    uint64_t *digest = user;
    uint32_t bits;
    if (event->type != KVRT_EVENT_TOKEN && event->type != KVRT_EVENT_TEXT) return KVRT_CONTINUE;
    memcpy(&bits, &event->logprob, sizeof bits);
    *digest = (*digest ^ (uint32_t)event->token ^ bits) * 1099511628211u;
    for (size_t i = 0; i < event->text_len; i++) *digest = (*digest ^ (uint8_t)event->text[i]) * 1099511628211u;
    return KVRT_CONTINUE;
}

static uint64_t generate(kvrt_session s, uint32_t n, uint32_t seed)
{
    uint64_t digest = 1;
    kvrt_options *o;
    kvrt_error error = {.size = sizeof error};
    kvrt_options_create(&o, NULL);
    kvrt_options_set_i64(o, "gen.max_tokens", n, NULL);
    kvrt_options_set_f64(o, "sample.temperature", 1.3, NULL);
    kvrt_options_set_i64(o, "sample.seed", seed, NULL);
    if (kvrt_generate(s, o, listen, &digest, NULL, &error) < KVRT_OK) fail_msg("%s", error.message);
    kvrt_options_destroy(o);
    return digest;
}

static uint8_t *bytes_of(kvrt_session s, uint32_t flags, uint64_t *n)
{
    assert_int_equal(kvrt_session_save_bytes(s, flags, NULL, 0, n, NULL), KVRT_PARTIAL);
    uint8_t *bytes = malloc(*n);
    assert_int_equal(kvrt_session_save_bytes(s, flags, bytes, *n, n, NULL), KVRT_OK);
    return bytes;
}

/* ------------------------------------------------------------------------------------------------------- going on --- */
static void it_goes_on(void **state)
{
    static const char *const formats[] = {"f16", "i8", "k4v4", "k4v2", "k3v3", "t2", "elastic"}, *const models[] = {
                                                                                                     "llama_gqa2",
                                                                                                     "qwen2_window"};
    static const uint32_t ends[] = {256, 257, 383, 400}; /* where it is saved */
    for (unsigned m = 0; m < 2; m++) {
        golden_free(&model);
        assert_true(golden_load(models[m], &model));
        for (unsigned f = 0; f < 6; f++)
            for (unsigned i = 0; i < 4; i++) {
                kvrt_engine engine = open_engine(formats[f], "64", "700"), other = open_engine(formats[f], "64", "700");
                kvrt_session a = golden_session(engine), b = golden_session(other);
                prompt(a, i, ends[i] - 40);
                (void)generate(a, 41, 5);                    /* the last token waits to be computed */
                prompt(b, 9, 500), (void)generate(b, 30, 1); /* somebody else's content */
                assert_int_equal(golden_session_info(a).n_cached, ends[i]);
                assert_int_equal(kvrt_session_save(a, path, 0, NULL), KVRT_OK);
                const uint64_t want = generate(a, 200, 5), before = golden_session_info(b).n_computed;
                assert_int_equal(kvrt_session_load(b, path, 0, NULL), KVRT_OK);
                assert_int_equal(golden_session_info(b).n_tokens, ends[i] + 1);
                assert_int_equal(golden_session_info(b).n_cached, ends[i]);
                if (generate(b, 200, 5) != want)
                    fail_msg("%s, %s, saved at %u: it goes on otherwise", models[m], formats[f], ends[i]);
                assert_int_equal(golden_session_info(b).n_computed, before + 200);
                kvrt_engine_close(engine, NULL), kvrt_engine_close(other, NULL);
            }
    }
    golden_free(&model);
    assert_true(golden_load(models[0], &model));
}

/* Tokens alone: computed again, as a prompt. Also into another format, whose pages would not fit. */
static void tokens_alone(void **state)
{
    uint64_t n, all;
    kvrt_engine engine = open_engine("k4v4", "64", "700"), other = open_engine("f16", "128", "700");
    kvrt_session a = golden_session(engine), b = golden_session(other), c = golden_session(engine);
    prompt(a, 1, 300);
    (void)generate(a, 20, 3);
    uint8_t *bytes = bytes_of(a, KVRT_SNAPSHOT_TOKENS, &n), *whole = bytes_of(a, 0, &all);
    assert_true(n < 300 * 4 + 600 && all > 10 * n);
    assert_int_equal(kvrt_session_load_bytes(b, whole, all, 0, NULL), KVRT_SNAPSHOT_MISMATCH);
    assert_int_equal(kvrt_session_load_bytes(b, whole, all, KVRT_SNAPSHOT_TOKENS, NULL), KVRT_OK);
    assert_int_equal(golden_session_info(b).n_cached, 0);
    assert_int_equal(kvrt_session_load_bytes(b, bytes, n, 0, NULL), KVRT_OK);
    assert_int_equal(golden_session_info(b).n_tokens, 320);
    (void)generate(b, 5, 3);
    assert_int_equal(kvrt_session_load_bytes(c, bytes, n, 0, NULL), KVRT_OK);
    prompt(a, 2, 1); /* the same tokens read as a prompt give the same */
    int32_t ids[320];
    uint64_t n_ids;
    assert_int_equal(kvrt_session_tokens(c, ids, 320, &n_ids, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_sync(a, ids, 320, NULL, NULL), KVRT_OK);
    assert_true(generate(a, 30, 8) == generate(c, 30, 8));
    free(bytes), free(whole);
    kvrt_engine_close(engine, NULL), kvrt_engine_close(other, NULL);
}

/* ------------------------------------------------------------------------------------------------------------ damage --- */
static void refused(kvrt_session s, const uint8_t *bytes, uint64_t n, const char *what, uint64_t at)
{
    kvrt_error error = {.size = sizeof error};
    const kvrt_status status = kvrt_session_load_bytes(s, bytes, n, 0, &error);
    if (status != KVRT_SNAPSHOT_CORRUPT && status != KVRT_SNAPSHOT_MISMATCH)
        fail_msg("%s at %llu: %s %s", what, (unsigned long long)at, kvrt_status_name(status), error.message);
}

static void no_damage_gets_in(void **state)
{
    kvrt_engine engine = open_engine("k4v4", "64", "700");
    kvrt_session a = golden_session(engine), b = golden_session(engine), fork;
    uint64_t n;
    prompt(a, 1, 200), (void)generate(a, 5, 1);
    prompt(b, 2, 260), (void)generate(b, 5, 1);
    uint8_t *bytes = bytes_of(a, 0, &n), *copy = malloc(n + 8);
    assert_int_equal(kvrt_session_fork(b, &fork, NULL), KVRT_OK);
    const uint64_t want = generate(fork, 40, 2);
    for (uint32_t i = 0; i < 2000; i++) {
        const uint64_t at = i < 256 * 8 / 2 ? below(KVI_SNAPSHOT_HEADER + 1000) : below((uint32_t)n);
        memcpy(copy, bytes, n);
        copy[at] ^= (uint8_t)(1u << below(8));
        refused(b, copy, n, "a bit flipped", at);
    }
    assert_int_equal(kvrt_session_load_bytes(b, bytes, 0, KVRT_SNAPSHOT_TOKENS, NULL), KVRT_SNAPSHOT_CORRUPT);
    for (uint64_t len = 0; len < n; len += 1 + len / 7) refused(b, bytes, len, "cut off", len);
    memcpy(copy, bytes, n), memset(copy + n, 0, 8);
    refused(b, copy, n + 8, "more bytes", n);
    for (uint32_t i = 0; i < 500; i++) { /* pieces that are whole, elsewhere */
        memcpy(copy, bytes, n);
        const uint64_t len = 8u << below(8), from = below((uint32_t)(n - len)) / 8 * 8,
                       to = below((uint32_t)(n - len)) / 8 * 8;
        memmove(copy + to, bytes + from, len);
        if (memcmp(copy, bytes, n) != 0) refused(b, copy, n, "moved", to);
    }
    assert_true(generate(b, 40, 2) == want); /* as if nothing had been tried */
    assert_int_equal(kvrt_session_load_bytes(b, bytes, n, 0, NULL), KVRT_OK);
    free(bytes), free(copy);
    kvrt_engine_close(engine, NULL);
}

/* Headers and directories that are whole, with right checksums, and lie. */
static void liars(void **state)
{
    kvrt_engine engine = open_engine("k4v4", "64", "700");
    kvrt_session a = golden_session(engine), b = golden_session(engine);
    uint64_t n;
    kvi_snapshot head;
    prompt(a, 1, 200), (void)generate(a, 5, 1);
    uint8_t *bytes = bytes_of(a, 0, &n), *copy = malloc(n);
    assert_int_equal(kvi_snapshot_get(bytes, n, &head, NULL), KVRT_OK);
    for (uint32_t i = 0; i < 400; i++) {
        kvi_snapshot lie = head;
        uint32_t *const fields[] = {&lie.n_tokens, &lie.n_cached, &lie.n_text,  &lie.n_pages,
                                    &lie.tail,     &lie.body,     &lie.plain,   &lie.elastic,
                                    &lie.n_held,   &lie.n_tail,   &lie.version, &lie.vocab_size};
        static const uint32_t values[] = {0, 1, 7, 128, 0x7fffffff, 0xffffffff};
        uint32_t *field = fields[below(12)];
        *field = below(3) ? values[below(6)] : *field + below(5) - 2;
        memcpy(copy, bytes, n);
        kvi_snapshot_put(&lie, copy);
        kvrt_error error = {.size = sizeof error};
        const kvrt_status status = kvrt_session_load_bytes(b, copy, n, 0, &error);
        assert_true(status < KVRT_OK || memcmp(copy, bytes, n) == 0);
        assert_int_equal(golden_session_info(b).n_tokens, 0 + (status >= KVRT_OK ? 205 : 0));
        if (status >= KVRT_OK) kvrt_session_rewind(b, 0, NULL);
    }
    free(bytes), free(copy);
    kvrt_engine_close(engine, NULL);
}

static void what_belongs_elsewhere(void **state)
{
    kvrt_engine engine = open_engine("k4v4", "64", "700"), other;
    kvrt_session a = golden_session(engine), b;
    kvrt_error error = {.size = sizeof error};
    uint64_t n;
    prompt(a, 1, 650), (void)generate(a, 1, 1);
    uint8_t *bytes = bytes_of(a, 0, &n);
    static const struct {
        const char *format, *tail, *ctx, *says;
        kvrt_status status;
    } cases[] = {{"k4v2", "64", "700", "kv.format", KVRT_SNAPSHOT_MISMATCH},
                 {"elastic", "64", "700", "kv.format", KVRT_SNAPSHOT_MISMATCH},
                 {"k4v4", "128", "700", "kv.tail", KVRT_SNAPSHOT_MISMATCH},
                 {"k4v4", "64", "640", "ctx.size", KVRT_CTX_FULL}};
    for (unsigned i = 0; i < 4; i++) {
        other = open_engine(cases[i].format, cases[i].tail, cases[i].ctx);
        b = golden_session(other);
        assert_int_equal(kvrt_session_load_bytes(b, bytes, n, 0, &error), cases[i].status);
        assert_non_null(strstr(error.message, cases[i].says));
        kvrt_engine_close(other, NULL);
    }
    /* No room in the pool: others hold it. */
    other = open_engine("k4v4", "64", "700");
    for (unsigned i = 0; i < 4; i++) {
        b = golden_session(other);
        if (i == 3) break;
        prompt(b, 20 + i, i == 2 ? 200 : 690), (void)generate(b, 1, 1);
    }
    prompt(b, 3, 60), (void)generate(b, 1, 1);
    assert_int_equal(kvrt_session_load_bytes(b, bytes, n, 0, &error), KVRT_CTX_FULL);
    assert_int_equal(golden_session_info(b).n_tokens, 61);
    (void)generate(b, 3, 1);
    kvrt_engine_close(other, NULL);
    /* Another model with the same tokenizer. */
    golden_model was = model;
    if (golden_load("llama_gqa8_d64", &model)) {
        other = open_engine("k4v4", "64", "700");
        b = golden_session(other);
        assert_int_equal(kvrt_session_load_bytes(b, bytes, n, 0, &error), KVRT_SNAPSHOT_MISMATCH);
        kvrt_engine_close(other, NULL);
        golden_free(&model);
    }
    model = was;
    free(bytes);
    kvrt_engine_close(engine, NULL);
}

/* A recurrent state is in it, and stands in the session's own place afterwards. */
static void states_too(void **state)
{
    uint8_t pattern[5000], found[5000];
    uint64_t n;
    kvi_session *s;
    kvrt_engine engine = open_engine("k4v4", "64", "500"), other = open_engine("k4v4", "64", "500");
    kvrt_engine both[2] = {engine, other};
    kvrt_session sessions[2];
    for (int i = 0; i < 2; i++) {
        kvi_engine *e;
        assert_int_equal(kvi_engine_enter(both[i], KVI_LOOK, &e, NULL), KVRT_OK);
        e->program.program.state_bytes = sizeof pattern;
        kvi_engine_leave(e, KVI_LOOK);
        sessions[i] = golden_session(both[i]);
    }
    prompt(sessions[0], 1, 150), (void)generate(sessions[0], 3, 1);
    for (unsigned i = 0; i < sizeof pattern; i++) pattern[i] = (uint8_t)below(256);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(kvi_session_enter(sessions[i], KVI_LOOK, &s, NULL), KVRT_OK);
        const uint64_t at = (uint64_t)kvi_states_unit(&s->states) * KVI_KV_UNIT;
        if (i == 0) {
            s->engine->backend->pool_write(s->engine->device, at, pattern, sizeof pattern, NULL);
            kvi_session_leave(s, KVI_LOOK);
            uint8_t *bytes = bytes_of(sessions[0], 0, &n);
            kvrt_error error = {.size = sizeof error};
            if (kvrt_session_load_bytes(sessions[1], bytes, n, 0, &error) < KVRT_OK) fail_msg("%s", error.message);
            free(bytes);
            continue;
        }
        s->engine->backend->pool_read(s->engine->device, at, found, sizeof found, NULL);
        kvi_session_leave(s, KVI_LOOK);
        assert_memory_equal(found, pattern, sizeof pattern);
    }
    kvrt_engine_close(engine, NULL), kvrt_engine_close(other, NULL);
}

/* ------------------------------------------------------------------------------------------------------------- files --- */
static struct {
    uint32_t n_calls, fail_at, most; /* of write; bytes of one; */
    int code;
} disk;
static int64_t bad_write(int32_t file, const void *bytes, uint64_t n)
{
    disk.n_calls++;
    if (disk.fail_at && disk.n_calls >= disk.fail_at) {
        errno = disk.code;
        if (disk.code == EINTR && disk.n_calls % 2) return write(file, bytes, n);
        return disk.code ? -1 : 0;
    }
    return write(file, bytes, disk.most && n > disk.most ? disk.most : n);
}

static void disks_that_fail(void **state)
{
    kvrt_engine engine = open_engine("k4v4", "64", "700");
    kvrt_session a = golden_session(engine), b = golden_session(engine);
    kvrt_error error = {.size = sizeof error};
    prompt(a, 1, 300), (void)generate(a, 3, 1);
    prompt(b, 2, 290), (void)generate(b, 3, 1);
    unlink(path);
    assert_int_equal(kvrt_session_save(b, path, 0, NULL), KVRT_OK); /* the old file */
    kvi_os_write_hook = bad_write;
    disk.most = 3, disk.fail_at = 0;
    char second[80];
    snprintf(second, sizeof second, "%s/short", dir);
    assert_int_equal(kvrt_session_save(a, second, 0, NULL), KVRT_OK); /* in pieces of three bytes */
    assert_int_equal(kvrt_session_load(a, second, 0, NULL), KVRT_OK);
    unlink(second);
    disk.most = 0, disk.n_calls = 0;
    assert_int_equal(kvrt_session_save(a, second, 0, NULL), KVRT_OK);
    const uint32_t n_writes = disk.n_calls;
    unlink(second);
    static const int codes[] = {ENOSPC, EIO, 0};
    for (unsigned c = 0; c < 3; c++)
        for (uint32_t at = 1; at <= n_writes; at++) {
            disk.n_calls = 0, disk.fail_at = at, disk.code = codes[c];
            assert_int_equal(kvrt_session_save(a, path, 0, &error), KVRT_IO);
            assert_int_equal(error.system_code, codes[c] ? codes[c] : EIO);
            assert_int_equal(files_in(dir), 1);
        }
    disk.n_calls = 0, disk.fail_at = 1, disk.code = EINTR;
    assert_int_equal(kvrt_session_save(a, second, 0, &error), KVRT_OK);
    unlink(second);
    kvi_os_write_hook = NULL;
    assert_int_equal(kvrt_session_load(a, path, 0, NULL), KVRT_OK);
    assert_int_equal(golden_session_info(a).n_tokens, 293); /* the old file, whole */
    assert_int_equal(kvrt_session_save(a, "/nowhere/at/all", 0, &error), KVRT_IO);
    assert_int_equal(kvrt_session_load(a, "/nowhere/at/all", 0, &error), KVRT_IO);
    assert_int_equal(kvrt_session_save(a, "", 0, &error), KVRT_ARG);
    assert_int_equal(kvrt_session_save(a, path, 8, &error), KVRT_ARG);
    assert_int_equal(kvrt_session_save(a, dir, 0, &error), KVRT_IO); /* a folder */
    assert_int_equal(files_in(dir), 1);
    kvrt_engine_close(engine, NULL);
}

/* Killed while it saves, at any moment: the file is one of the two that were ever written to it. KVRT_TEST_KILLS: how often. */
static void killed_while_saving(void **state)
{
    const char *many = getenv("KVRT_TEST_KILLS");
    const uint32_t rounds = many ? (uint32_t)atoi(many) : 25;
    kvrt_engine engine = open_engine("k4v4", "64", "700");
    kvrt_session s = golden_session(engine);
    uint32_t seen[2] = {0, 0}, n_left = 0;
    prompt(s, 1, 600), (void)generate(s, 1, 1);
    unlink(path);
    assert_int_equal(kvrt_session_save(s, path, 0, NULL), KVRT_OK);
    /* On a busy machine the child may have no turn before it is killed: more rounds then, until one was in the middle. */
    for (uint32_t i = 0; i < rounds || (n_left == 0 && i < rounds + 400); i++) {
        int ready[2];
        char byte;
        assert_int_equal(pipe(ready), 0);
        const pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            kvrt_engine own = open_engine("k4v4", "64", "700");
            kvrt_session a = golden_session(own), b = golden_session(own);
            prompt(a, 1, 600), (void)generate(a, 1, 1);
            prompt(b, 2, 500), (void)generate(b, 1, 1);
            if (write(ready[1], "r", 1) != 1) _exit(2);
            for (;;)
                if (kvrt_session_save(a, path, 0, NULL) != KVRT_OK || kvrt_session_save(b, path, 0, NULL) != KVRT_OK)
                    _exit(1);
        }
        close(ready[1]);
        assert_int_equal(read(ready[0], &byte, 1), 1);
        close(ready[0]);
        const struct timespec nap = {.tv_nsec = 1000 + (long)below(4000000)};
        nanosleep(&nap, NULL);
        kill(child, SIGKILL);
        int how;
        assert_int_equal(waitpid(child, &how, 0), child);
        assert_true(WIFSIGNALED(how));
        kvrt_error error = {.size = sizeof error};
        if (kvrt_session_load(s, path, 0, &error) < KVRT_OK) fail_msg("after kill %u: %s", i, error.message);
        const uint32_t n = golden_session_info(s).n_tokens;
        assert_true(n == 601 || n == 501);
        seen[n == 501]++;
        n_left += files_in(dir) - 1;
        DIR *d = opendir(dir);
        for (struct dirent *e; (e = readdir(d));)
            if (strstr(e->d_name, ".part")) unlinkat(dirfd(d), e->d_name, 0);
        closedir(d);
    }
    assert_true(n_left > 0);
    kvrt_engine_close(engine, NULL);
}

typedef struct tape {
    uint8_t *bytes;
    uint64_t n, at, cap;
    uint32_t n_calls, fail_at;
} tape;
static int32_t put(void *user, const void *bytes, uint64_t n)
{
    tape *t = user;
    if (++t->n_calls == t->fail_at || n > t->cap - t->n) return 1;
    memcpy(t->bytes + t->n, bytes, n);
    t->n += n;
    return 0;
}
static int32_t get(void *user, void *bytes, uint64_t n)
{
    tape *t = user;
    if (++t->n_calls == t->fail_at || n > t->n - t->at) return 1;
    memcpy(bytes, t->bytes + t->at, n);
    t->at += n;
    return 0;
}

static void through_the_host(void **state)
{
    kvrt_engine engine = open_engine("k4v4", "64", "700");
    kvrt_session a = golden_session(engine), b = golden_session(engine);
    uint64_t n;
    prompt(a, 1, 300), (void)generate(a, 3, 1);
    uint8_t *bytes = bytes_of(a, 0, &n);
    tape t = {.bytes = malloc(n), .cap = n};
    assert_int_equal(kvrt_session_save_to(a, 0, put, &t, NULL), KVRT_OK);
    assert_int_equal(t.n, n);
    assert_memory_equal(t.bytes, bytes, n);
    const uint32_t n_calls = t.n_calls;
    for (uint32_t at = 1; at <= n_calls; at++) {
        t.n = t.n_calls = 0, t.fail_at = at;
        assert_int_equal(kvrt_session_save_to(a, 0, put, &t, NULL), KVRT_IO);
    }
    memcpy(t.bytes, bytes, n);
    t.n = n;
    for (uint32_t at = 0; at < 3; at++) {
        t.at = t.n_calls = 0, t.fail_at = (at + 1) % 3;
        assert_int_equal(kvrt_session_load_from(b, 0, get, &t, NULL), t.fail_at ? KVRT_IO : KVRT_OK);
    }
    assert_int_equal(golden_session_info(b).n_tokens, 303);
    t.at = t.n_calls = 0, t.n = n - 1;
    assert_int_equal(kvrt_session_load_from(b, 0, get, &t, NULL), KVRT_IO);
    free(bytes), free(t.bytes);
    kvrt_engine_close(engine, NULL);
}

static int set_up(void **state)
{
    if (!mkdtemp(dir)) return -1;
    snprintf(path, sizeof path, "%s/save.kvrt", dir);
    return golden_load("llama_gqa2", &model) ? 0 : -1;
}
static int tear_down(void **state)
{
    golden_free(&model);
    unlink(path);
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(it_goes_on),
                                       cmocka_unit_test(tokens_alone),
                                       cmocka_unit_test(no_damage_gets_in),
                                       cmocka_unit_test(liars),
                                       cmocka_unit_test(what_belongs_elsewhere),
                                       cmocka_unit_test(states_too),
                                       cmocka_unit_test(disks_that_fail),
                                       cmocka_unit_test(through_the_host),
                                       cmocka_unit_test(killed_while_saving)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
