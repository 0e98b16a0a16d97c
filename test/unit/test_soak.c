/* test_soak.c - random calls from several threads while the worker drives: nothing is lost, nothing is left. And many tokens over random
 * sessions, twice: the same hash, and memory that does not grow (KVRT_TEST_TOKENS: how many; 6,000, the long run has 1,000,000).
 * KVRT_TEST_OPS: how many calls for each of three seeds (999; the long run has 20,000). Meant for the sanitizers; without them it checks
 * what can be counted. */
#define _POSIX_C_SOURCE 200809L
#include "golden_model.h"
#include "../../runtime/engine/drive.h"
#include "../../runtime/engine/seat.h"
#include "process_memory.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

enum { THREADS = 3, SESSIONS = 5, CTX = 400 }; /* of each thread */
static golden_model model;

static struct {
    kvrt_engine engine;
    _Atomic uint64_t n_submitted, n_ended;
    _Atomic uint32_t n_suspended, n_spilled, n_limited;
    uint64_t planned_bytes, pool_bytes;
    _Atomic uint32_t n_wrong; /* statuses that no call may give here */
    _Atomic int32_t wrong;
    _Atomic bool stop;
    uint32_t n_ops;
} soak;

static uint32_t n_spilled, n_suspended, n_limited; /* in all lives */
static char transfers[] = "/tmp/kvrt-soak-files-XXXXXX";

typedef struct guest {
    uint32_t random;
    kvrt_session sessions[SESSIONS];
    uint64_t requests[SESSIONS];
    uint8_t *saved;
    uint64_t n_saved, cap_saved;
    pthread_t thread;
} guest;

static uint32_t below(guest *g, uint32_t n)
{
    g->random = g->random * 1664525u + 1013904223u;
    return (g->random >> 8) % n;
}

/* What a call may answer to a guest who does everything at the wrong moment. */
static void check(kvrt_status status)
{
    switch (status) {
    case KVRT_OK:
    case KVRT_PARTIAL:
    case KVRT_DONE:
    case KVRT_MORE:
    case KVRT_STATE:
    case KVRT_BUSY:
    case KVRT_CTX_FULL:
    case KVRT_CANCELLED:
    case KVRT_OVER_BUDGET:
    case KVRT_SNAPSHOT_CORRUPT: return;
    default: soak.wrong = status; soak.n_wrong++;
    }
}

static void sync_some(guest *g, kvrt_session s)
{
    int32_t ids[CTX];
    const uint32_t n = 1 + below(g, CTX - 60), family = below(g, 2), same = 100 + below(g, 3) * 90,
                   member = below(g, 3);
    for (uint32_t i = 0; i < n; i++)
        ids[i] = (int32_t)(2 + (i * 31 + family * 17 + (i < same ? 0 : member * 7 + 1)) % 90);
    check(kvrt_session_sync(s, ids, n, NULL, NULL));
}

static void submit_some(guest *g, uint32_t i)
{
    kvrt_options *o;
    if (kvrt_options_create(&o, NULL) < KVRT_OK) return;
    kvrt_options_set_i64(o, "gen.max_tokens", below(g, 30), NULL);
    const kvrt_status status = kvrt_submit(g->sessions[i], o, &g->requests[i], NULL);
    if (status == KVRT_OK) soak.n_submitted++;
    check(status);
    kvrt_options_destroy(o);
}

static void save_some(guest *g, kvrt_session s)
{
    uint64_t n;
    const uint32_t flags = below(g, 4) == 0 ? KVRT_SNAPSHOT_TOKENS : 0;
    const kvrt_status status = kvrt_session_save_bytes(s, flags, g->saved, g->cap_saved, &n, NULL);
    check(status);
    if (status == KVRT_OK) g->n_saved = n;
}

/* Between the steps of others. */
static void transfer_some(guest *g, uint32_t i)
{
    char path[64];
    const uint32_t n = below(g, 4);
    snprintf(path, sizeof path, "%s/s%u", transfers, n % 2);
    const kvrt_status status =
        n < 2 ? kvrt_submit_save(g->sessions[i], path, 0, &g->requests[i], NULL)
              : kvrt_submit_load(g->sessions[i], path, below(g, 2) ? KVRT_SNAPSHOT_OWN : 0, &g->requests[i], NULL);
    if (status == KVRT_OK) soak.n_submitted++;
    if (status != KVRT_IO) check(status); /* nobody has saved yet */
}

static void load_some(guest *g, kvrt_session s)
{
    if (!g->n_saved) return;
    if (below(g, 3) == 0) g->saved[below(g, (uint32_t)g->n_saved)] ^= 1; /* stays damaged until the next save */
    check(kvrt_session_load_bytes(s, g->saved, g->n_saved, 0, NULL));
}

/* The engine leaves its memory for a moment. One guest at a time can stop the worker; all others are told STATE. */
static void suspend_some(void)
{
    const struct timespec nap = {.tv_nsec = 100000};
    const kvrt_status stopped = kvrt_worker_stop(soak.engine, NULL);
    check(stopped);
    if (stopped != KVRT_OK) return;
    kvrt_status status = kvrt_suspend(soak.engine, NULL);
    check(status);
    nanosleep(&nap, NULL);
    if (status == KVRT_OK)
        while ((status = kvrt_resume(soak.engine, NULL)) == KVRT_BUSY) nanosleep(&nap, NULL);
    check(status);
    while ((status = kvrt_worker_start(soak.engine, NULL, NULL, NULL)) == KVRT_BUSY) nanosleep(&nap, NULL);
    check(status);
    soak.n_suspended++;
}

/* The pool becomes another, under a limit of a half to all of what was planned. What sessions hold may not fit, and is told so. */
static void limit_some(guest *g)
{
    const uint64_t limit = soak.planned_bytes - soak.pool_bytes / 16 * below(g, 9);
    const kvrt_status status = kvrt_mem_limit(soak.engine, limit, NULL, NULL);
    check(status);
    soak.n_limited += status == KVRT_OK;
}

/* BUSY while the worker drives, as it nearly always does. */
static void generate_some(guest *g, kvrt_session s)
{
    kvrt_options *o;
    if (kvrt_options_create(&o, NULL) < KVRT_OK) return;
    kvrt_options_set_i64(o, "gen.max_tokens", below(g, 5), NULL);
    check(kvrt_generate(s, o, NULL, NULL, NULL, NULL));
    kvrt_options_destroy(o);
}

static void close_one(guest *g, uint32_t i)
{
    const kvrt_status status = kvrt_session_close(g->sessions[i], NULL);
    check(status);
    if (status == KVRT_OK) g->sessions[i] = NULL, g->requests[i] = 0;
}

/* Closes it when its request is over, so that ends can be counted. */
static void end_and_close(guest *g, uint32_t i)
{
    const struct timespec nap = {.tv_nsec = 300000};
    bool runs = true;
    kvrt_cancel_id(g->requests[i]);
    for (uint32_t round = 0; runs && round < 2000; round++) {
        kvi_session *s;
        if (kvi_session_enter(g->sessions[i], KVI_READ, &s, NULL) != KVRT_OK) continue;
        runs = s->submitted;
        kvi_session_leave(s, KVI_READ);
        if (runs) nanosleep(&nap, NULL);
    }
    if (!runs) close_one(g, i);
}

static void *be_a_guest(void *user)
{
    guest *g = user;
    for (uint32_t op = 0; op < soak.n_ops; op++) {
        const uint32_t i = below(g, SESSIONS);
        const struct timespec nap = {.tv_nsec = 200000};
        if (op % 8 == 0) nanosleep(&nap, NULL); /* so that requests come to their end between */
        kvrt_session_info info = {.size = sizeof info};
        if (!g->sessions[i]) {
            const uint32_t from = below(g, SESSIONS);
            kvrt_session s = NULL;
            if (g->sessions[from] && below(g, 2)) check(kvrt_session_fork(g->sessions[from], &s, NULL));
            else check(kvrt_session_create(soak.engine, NULL, &s, NULL));
            g->sessions[i] = s, g->requests[i] = 0;
            continue;
        }
        uint64_t moved = 0;
        switch (below(g, 16)) {
        case 14: limit_some(g); break;
        case 13: transfer_some(g, i); break;
        case 0:
        case 1:
        case 2:
            sync_some(g, g->sessions[i]);
            submit_some(g, i);
            break;
        case 3:
        case 4:
        case 5: submit_some(g, i); break;
        case 6: (void)kvrt_session_rewind(g->sessions[i], below(g, 200), NULL); break; /* ARG: it is shorter */
        case 7: kvrt_cancel_id(g->requests[i]); break;
        case 8: save_some(g, g->sessions[i]); break;
        case 9: load_some(g, g->sessions[i]); break;
        case 10: check(kvrt_session_get_info(g->sessions[i], &info, NULL)); break;
        case 11:
            check(kvrt_session_spill(g->sessions[i], &moved, NULL));
            soak.n_spilled += moved > 0;
            break;
        case 12:
            if (below(g, 4) == 0) suspend_some();
            else generate_some(g, g->sessions[i]);
            break;
        default:
            if (below(g, 3) == 0) end_and_close(g, i);
        }
    }
    return NULL;
}

/* The thread that hears what is said. */
static void *be_the_listener(void *user)
{
    kvrt_event event = {.size = sizeof event};
    const struct timespec nap = {.tv_nsec = 200000};
    (void)user;
    for (bool last = false;; nanosleep(&nap, NULL)) {
        while (kvrt_poll(soak.engine, &event, NULL) == KVRT_OK)
            if (event.type == KVRT_EVENT_DONE || event.type == KVRT_EVENT_ERROR) soak.n_ended++;
        if (last) return NULL;
        last = soak.stop;
    }
}

/* Every reference, extent and list of the store, counted again from the tables. */
static void check_store(kvi_engine *e)
{
    kvi_store *store = &e->store;
    uint32_t *refs = calloc(store->cap, sizeof *refs), used = 0, idle = 0;
    for (const kvi_session *s = e->sessions; s; s = s->next) {
        for (uint32_t g = 0; g < s->pages.n_groups; g++)
            for (uint32_t p = 0; p < s->pages.n_pages[g]; p++)
                if (s->pages.ids[g][p] != KVI_NO_PAGE) refs[s->pages.ids[g][p]]++;
        if (s->states.live != KVI_NO_PAGE) refs[s->states.live]++;
        if (s->states.spare != KVI_NO_PAGE) refs[s->states.spare]++;
    }
    for (uint32_t id = 0; id < store->n_ids; id++) {
        const kvi_page *page = &store->pages[id];
        if (page->unit == KVI_KV_NO_EXTENT) continue;
        if (page->refs != refs[id]) fail_msg("page %u: %u references, %u tables hold it", id, page->refs, refs[id]);
        used += page->units;
        idle += page->refs ? 0 : page->units;
    }
    assert_int_equal(store->pool.n_units - store->pool.free_units, used);
    assert_int_equal(store->idle_units, idle);
    free(refs);
}

static void live(const char *weights, const char *format, const char *where, const char *when_full, uint32_t seed)
{
    static guest guests[THREADS];
    pthread_t listener;
    const char *pairs[] = {GOLDEN_WEIGHTS(weights),
                           "cpu.threads",
                           "1",
                           "kv.format",
                           format,
                           "kv.tail",
                           "64",
                           "ctx.chunk",
                           "128",
                           "ctx.sessions",
                           "9",
                           "ctx.size",
                           "400",
                           "gen.ignore_eos",
                           "true",
                           "kv.spill",
                           where,
                           "ctx.full",
                           when_full,
                           NULL};
    uint64_t before, after;
    kvrt_debug_mem(&before, NULL, NULL);
    memset(&soak, 0, sizeof soak);
    soak.engine = golden_open(&model, pairs);
    soak.n_ops = getenv("KVRT_TEST_OPS") ? (uint32_t)atoi(getenv("KVRT_TEST_OPS")) / THREADS : 333;
    const kvrt_memory memory = golden_memory(soak.engine);
    soak.planned_bytes = memory.planned_bytes, soak.pool_bytes = memory.kv_pool_bytes;
    kvi_engine *e;
    assert_int_equal(kvi_engine_enter(soak.engine, KVI_LOOK, &e, NULL), KVRT_OK);
    kvi_engine_leave(e, KVI_LOOK);
    assert_int_equal(kvrt_worker_start(soak.engine, NULL, NULL, NULL), KVRT_OK);
    assert_int_equal(pthread_create(&listener, NULL, be_the_listener, NULL), 0);
    for (uint32_t i = 0; i < THREADS; i++) {
        guests[i] = (guest){.random = seed * 77 + i, .cap_saved = 1 << 20, .saved = malloc(1 << 20)};
        assert_int_equal(pthread_create(&guests[i].thread, NULL, be_a_guest, &guests[i]), 0);
    }
    for (uint32_t i = 0; i < THREADS; i++) pthread_join(guests[i].thread, NULL);
    for (uint32_t round = 0; soak.n_ended < soak.n_submitted && round < 60000; round++) {
        const struct timespec nap = {.tv_nsec = 1000000};
        nanosleep(&nap, NULL);
    }
    if (soak.n_wrong)
        fail_msg("%u calls answered what they may not, such as %s", soak.n_wrong, kvrt_status_name(soak.wrong));
    if (soak.n_ended != soak.n_submitted)
        fail_msg("%llu requests, %llu ended", (unsigned long long)soak.n_submitted, (unsigned long long)soak.n_ended);
    assert_true(soak.n_submitted > 20);
    n_spilled += soak.n_spilled, n_suspended += soak.n_suspended, n_limited += soak.n_limited;
    assert_int_equal(kvrt_worker_stop(soak.engine, NULL), KVRT_OK);
    soak.stop = true;
    pthread_join(listener, NULL);
    check_store(e);
    for (uint32_t i = 0; i < THREADS; i++) {
        for (uint32_t k = 0; k < SESSIONS; k++)
            if (guests[i].sessions[k]) assert_int_equal(kvrt_session_close(guests[i].sessions[k], NULL), KVRT_OK);
        free(guests[i].saved);
    }
    check_store(e);
    kvrt_engine_info info = {.size = sizeof info};
    assert_int_equal(kvrt_engine_get_info(soak.engine, &info, NULL), KVRT_OK);
    assert_int_equal(info.kv_pool_used_bytes, 0);
    assert_int_equal(kvrt_engine_close(soak.engine, NULL), KVRT_OK);
    kvrt_debug_mem(&after, NULL, NULL);
    assert_int_equal(before, after);
}

static void nothing_is_lost(void **state)
{
    char dir[] = "/tmp/kvrt-soak-XXXXXX";
    assert_non_null(mkdtemp(dir));
    assert_non_null(mkdtemp(transfers));
    live("auto", "f16", "memory", "shift", 1);
    live("i8", "k4v4", dir, "shift", 2);
    live("i8", "elastic", "memory", "demote", 3);
    /* Only an idle session spills, and how many are idle when they are asked is for the machine: further lives until it has happened. */
    for (uint32_t seed = 4; seed < 100 && !(n_spilled > 0 && n_suspended > 0 && n_limited > 0); seed++)
        live("auto", "f16", "memory", "shift", seed);
    assert_true(n_spilled > 0 && n_suspended > 0 && n_limited > 0);
    assert_int_equal(rmdir(dir), 0); /* nothing was left in it */
    for (uint32_t i = 0; i < 2; i++) {
        char path[64];
        snprintf(path, sizeof path, "%s/s%u", transfers, i);
        (void)unlink(path);
    }
    assert_int_equal(rmdir(transfers), 0);
}

/* ---------------------------------------------------------------------------------------------------- many tokens --- */
enum { CROWD = 16 };
typedef struct crowd {
    kvrt_engine engine;
    kvrt_session sessions[CROWD];
    uint64_t requests[CROWD], digests[CROWD];
    guest dice;
} crowd;

/* All that was submitted, to its end; what each says is kept apart, as they take turns by time. Returns the tokens. */
static uint64_t drive_crowd(crowd *c)
{
    uint64_t n = 0;
    kvrt_event event = {.size = sizeof event};
    for (int32_t status = KVRT_MORE; status == KVRT_MORE || status == KVRT_PARTIAL;) {
        status = kvrt_step(c->engine, 100000, NULL);
        assert_true(status >= KVRT_OK);
        while (kvrt_poll(c->engine, &event, NULL) == KVRT_OK) {
            if (event.type == KVRT_EVENT_ERROR) fail_msg("%s", event.text);
            if (event.type != KVRT_EVENT_TOKEN) continue;
            for (uint32_t i = 0; i < CROWD; i++)
                if (c->requests[i] == event.request)
                    c->digests[i] = (c->digests[i] ^ (uint32_t)event.token) * 1099511628211u;
            n++;
        }
    }
    return n;
}

/* One of them does something else than to answer. */
static void stir(crowd *c, uint32_t i)
{
    kvrt_session s = NULL;
    uint64_t n;
    switch (below(&c->dice, 8)) {
    case 0: assert_int_equal(kvrt_session_close(c->sessions[i], NULL), KVRT_OK); c->sessions[i] = NULL;
    /* fall through */
    case 1:
        if (c->sessions[i]) assert_int_equal(kvrt_session_close(c->sessions[i], NULL), KVRT_OK);
        assert_int_equal(kvrt_session_fork(c->sessions[(i + 1) % CROWD], &s, NULL), KVRT_OK);
        c->sessions[i] = s;
        break;
    case 2: (void)kvrt_session_rewind(c->sessions[i], below(&c->dice, 300), NULL); break;
    case 3:
        assert_int_equal(kvrt_session_save_bytes(c->sessions[i], 0, c->dice.saved, c->dice.cap_saved, &n, NULL),
                         KVRT_OK);
        assert_int_equal(kvrt_session_load_bytes(c->sessions[(i + 3) % CROWD], c->dice.saved, n, 0, NULL), KVRT_OK);
        break;
    case 4: (void)kvrt_session_spill(c->sessions[i], &n, NULL); break;
    default: sync_some(&c->dice, c->sessions[i]);
    }
}

static uint64_t many_tokens(uint64_t n_tokens, uint64_t *grown)
{
    static crowd c;
    const char *pairs[] = {"cpu.threads",
                           "2",
                           "kv.format",
                           "k4v4",
                           "kv.tail",
                           "64",
                           "ctx.chunk",
                           "128",
                           "ctx.sessions",
                           "16",
                           "ctx.size",
                           "400",
                           "gen.ignore_eos",
                           "true",
                           "kv.spill",
                           "memory",
                           "ctx.full",
                           "shift",
                           "gen.token_events",
                           "true",
                           NULL};
    uint64_t n = 0, first_held = 0, first_resident = 0, digest = 1;
    memset(&c, 0, sizeof c);
    c.dice = (guest){.random = 4711, .cap_saved = 1 << 20, .saved = malloc(1 << 20)};
    c.engine = golden_open(&model, pairs);
    for (uint32_t i = 0; i < CROWD; i++) c.sessions[i] = golden_session(c.engine), sync_some(&c.dice, c.sessions[i]);
    for (uint32_t round = 0; n < n_tokens; round++) {
        for (uint32_t i = 0; i < CROWD; i++)
            if (below(&c.dice, 3) == 0) stir(&c, i);
        for (uint32_t i = 0; i < CROWD; i++) {
            kvrt_options *o;
            if (golden_session_info(c.sessions[i]).n_tokens == 0) sync_some(&c.dice, c.sessions[i]);
            kvrt_options_create(&o, NULL);
            kvrt_options_set_i64(o, "gen.max_tokens", 1 + below(&c.dice, 60), NULL);
            kvrt_options_set_i64(o, "sample.seed", round * CROWD + i, NULL);
            kvrt_error error = {.size = sizeof error};
            if (kvrt_submit(c.sessions[i], o, &c.requests[i], &error) < KVRT_OK) fail_msg("%s", error.message);
            kvrt_options_destroy(o);
        }
        n += drive_crowd(&c);
        const uint64_t now = held(), here = resident();
        if (n >= n_tokens / 10 && !first_held) first_held = now, first_resident = here;
        /* Lists of pages that are away come and go; nothing else does. */
        if (first_held && now > first_held + (1u << 20))
            fail_msg("%llu tokens: %llu bytes held, %llu before", (unsigned long long)n, (unsigned long long)now,
                     (unsigned long long)first_held);
        if (first_resident && here > first_resident + *grown) *grown = here - first_resident;
    }
    for (uint32_t i = 0; i < CROWD; i++) {
        digest = (digest ^ c.digests[i]) * 1099511628211u;
        assert_int_equal(kvrt_session_close(c.sessions[i], NULL), KVRT_OK);
    }
    assert_int_equal(kvrt_engine_close(c.engine, NULL), KVRT_OK);
    free(c.dice.saved);
    return digest;
}

static void many_tokens_again(void **state)
{
    (void)state;
    const uint64_t n = getenv("KVRT_TEST_TOKENS") ? strtoull(getenv("KVRT_TEST_TOKENS"), NULL, 10) : 6000,
                   before = held();
    uint64_t grown = 0;
    const uint64_t one = many_tokens(n, &grown), two = many_tokens(n, &grown);
    print_message("%llu tokens: hash %016llx, resident memory grew by %llu KiB from the first tenth on\n",
                  (unsigned long long)n, (unsigned long long)one, (unsigned long long)grown >> 10);
    if (one != two)
        fail_msg("%llu tokens: hash %016llx, and again %016llx", (unsigned long long)n, (unsigned long long)one,
                 (unsigned long long)two);
    assert_int_equal(held(), before);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    assert_true(grown <= 8u << 20);
#endif
}

static int set_up(void **state) { return golden_load("llama_gqa2", &model) ? 0 : -1; }
static int tear_down(void **state)
{
    golden_free(&model);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(nothing_is_lost), cmocka_unit_test(many_tokens_again)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
