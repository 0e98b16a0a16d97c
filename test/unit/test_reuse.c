/* test_reuse.c - sessions that take prefixes from one another and fork: what is computed and stored once, and that nobody sees it in the results.
 * The oracle is a session alone in an engine that shares nothing, which is told the same; every sampled token and every bit of its log probability
 * must be the same. */
#include "golden_model.h"
#include "../../runtime/engine/seat.h"
#include "../../runtime/engine/drive.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static golden_model model;
static uint32_t random_state;
static uint32_t below(uint32_t n)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % n;
}

enum { MOST = 1300 };

/* Texts of a family begin alike: member m differs from its family from token `same` on. */
static int32_t token(uint32_t family, uint32_t same, uint32_t member, uint32_t at)
{
    return (int32_t)(2 + (at * 31 + family * 17 + at / 90 * family + (at < same ? 0 : member * 7 + 1)) % 90);
}

static const char *weights = "auto"; /* i8: rows of both forms in one step */

static kvrt_engine open_engine(const char *format, const char *chunk, const char *tail, const char *sessions,
                               bool share)
{
    char pool[16];
    snprintf(pool, sizeof pool, "%dKiB", atoi(sessions) * 242);
    const char *pairs[] = {GOLDEN_WEIGHTS(weights),
                           "cpu.threads",
                           "1",
                           "kv.format",
                           format,
                           "kv.tail",
                           tail,
                           "ctx.chunk",
                           chunk,
                           "ctx.sessions",
                           sessions,
                           "ctx.size",
                           "1300",
                           "gen.ignore_eos",
                           "true",
                           "gen.token_events",
                           "true",
                           "kv.share",
                           share ? "true" : "false",
                           strcmp(format, "elastic") == 0 ? "kv.pool" : NULL,
                           pool,
                           NULL};
    return golden_open(&model, pairs);
}

static kvrt_engine_info engine_info(kvrt_engine e)
{
    kvrt_engine_info info = {.size = sizeof info};
    assert_int_equal(kvrt_engine_get_info(e, &info, NULL), KVRT_OK);
    return info;
}

static uint32_t sync_to(kvrt_session s, uint32_t family, uint32_t same, uint32_t member, uint32_t n)
{
    int32_t ids[MOST];
    uint64_t reused;
    kvrt_error error = {.size = sizeof error};
    for (uint32_t i = 0; i < n; i++) ids[i] = token(family, same, member, i);
    if (kvrt_session_sync(s, ids, n, &reused, &error) < KVRT_OK) fail_msg("%s", error.message);
    return (uint32_t)reused;
}

static int32_t listen(const kvrt_event *event, void *user)
{
    uint64_t *digest = user;
    if (event->type != KVRT_EVENT_TOKEN) return KVRT_CONTINUE;
    uint32_t bits;
    memcpy(&bits, &event->logprob, sizeof bits);
    *digest = (*digest ^ (uint32_t)event->token) * 1099511628211u;
    *digest = (*digest ^ bits) * 1099511628211u;
    return KVRT_CONTINUE;
}

static kvrt_options *call_options(uint32_t n, uint32_t seed)
{
    kvrt_options *o;
    assert_int_equal(kvrt_options_create(&o, NULL), KVRT_OK);
    kvrt_options_set_i64(o, "gen.max_tokens", n, NULL);
    kvrt_options_set_f64(o, "sample.temperature", seed ? 1.2 : 0, NULL);
    if (seed) kvrt_options_set_i64(o, "sample.seed", seed, NULL);
    return o;
}

static uint64_t generate(kvrt_session s, uint32_t n, uint32_t seed)
{
    uint64_t digest = 1;
    kvrt_error error = {.size = sizeof error};
    kvrt_options *o = call_options(n, seed);
    if (kvrt_generate(s, o, listen, &digest, NULL, &error) < KVRT_OK) fail_msg("%s", error.message);
    kvrt_options_destroy(o);
    return digest;
}

/* -------------------------------------------------------------------------------------------------- what it saves --- */
/* One after the other: each after the first computes what follows the prefix, to the token, and holds its pages with the others. */
static void a_prefix_is_computed_once(void **state)
{
    static const char *const formats[] = {"f16", "k4v4", "elastic"};
    enum { N = 10, PREFIX = 530, PROMPT = 560, ANSWER = 20 };
    for (unsigned f = 0; f < 3; f++) {
        kvrt_engine engine = open_engine(formats[f], "128", "128", "10", true);
        kvrt_session s[N];
        uint64_t computed = 0, apart = 0;
        for (uint32_t i = 0; i < N; i++) {
            s[i] = golden_session(engine);
            assert_int_equal(sync_to(s[i], 1, PREFIX, i, PROMPT), i ? PREFIX : 0);
            kvrt_engine alone = open_engine(formats[f], "128", "128", "10", false);
            kvrt_session t = golden_session(alone);
            assert_int_equal(sync_to(t, 1, PREFIX, i, PROMPT), 0);
            if (generate(s[i], ANSWER, 0) != generate(t, ANSWER, 0)) fail_msg("%s: session %u", formats[f], i);
            apart += golden_session_info(t).kv_bytes;
            kvrt_engine_close(alone, NULL);
            const kvrt_session_info info = golden_session_info(s[i]);
            assert_int_equal(info.n_computed, (i ? PROMPT - PREFIX : PROMPT) + ANSWER - 1);
            assert_int_equal(info.n_found, i ? PREFIX : 0);
            computed += info.n_computed;
        }
        assert_int_equal(computed, PREFIX + N * (PROMPT - PREFIX + ANSWER - 1));
        uint64_t held = 0;
        for (uint32_t i = 0; i < N; i++) {
            assert_int_equal(golden_session_info(s[i]).n_shared_pages, PREFIX / 128); /* all whole pages of it */
            held += golden_session_info(s[i]).kv_bytes;
        }
        assert_true(engine_info(engine).kv_pool_used_bytes < held * 4 / 10);
        assert_true(held <= apart);
        for (uint32_t i = 0; i < N; i++) assert_int_equal(kvrt_session_close(s[i], NULL), KVRT_OK);
        assert_int_equal(engine_info(engine).kv_pool_used_bytes, 0);
        assert_true(engine_info(engine).kv_pool_cached_bytes > 0);
        /* A session that comes later finds whole pages. */
        kvrt_session late = golden_session(engine);
        assert_int_equal(sync_to(late, 1, PREFIX, 77, PROMPT), PREFIX / 128 * 128);
        assert_int_equal(sync_to(late, 2, PREFIX, 77, PROMPT), 0);
        kvrt_engine_close(engine, NULL);
    }
}

/* All begin before anything is computed: each computes a chunk of the prefix, and takes the others' chunks. */
static void together_they_compute_it_once(void **state)
{
    static const char *const formats[] = {"f16", "k4v4"};
    enum { N = 10, PREFIX = 530, PROMPT = 560, ANSWER = 8 };
    for (unsigned f = 0; f < 2; f++) {
        kvrt_engine engine = open_engine(formats[f], "128", "128", "10", true);
        kvrt_session handles[N];
        kvi_session *s[N];
        uint64_t digests[N], computed = 0;
        kvrt_options *o = call_options(ANSWER, 0);
        for (uint32_t i = 0; i < N; i++) {
            handles[i] = golden_session(engine);
            assert_int_equal(sync_to(handles[i], 1, PREFIX, i, PROMPT), 0);
            assert_int_equal(kvi_session_enter(handles[i], KVI_LOOK, &s[i], NULL), KVRT_OK);
            kvi_session_leave(s[i], KVI_LOOK);
            digests[i] = 1;
            assert_int_equal(kvi_generation_begin(s[i], o, listen, &digests[i], NULL), KVRT_OK);
        }
        kvrt_options_destroy(o);
        kvi_engine_drive(s[0]->engine, s, N);
        for (uint32_t i = 0; i < N; i++) {
            kvrt_engine alone = open_engine(formats[f], "128", "128", "10", false);
            kvrt_session t = golden_session(alone);
            sync_to(t, 1, PREFIX, i, PROMPT);
            if (generate(t, ANSWER, 0) != digests[i]) fail_msg("%s: session %u", formats[f], i);
            kvrt_engine_close(alone, NULL);
            computed += golden_session_info(handles[i]).n_computed;
        }
        /* Of the prefix's last page each may have computed its part: those who came to it before the first was through. */
        const uint64_t least = PREFIX + N * (PROMPT - PREFIX + ANSWER - 1);
        if (computed < least || computed > least + (PREFIX % 128) * N)
            fail_msg("%s: %llu tokens computed, need %llu", formats[f], (unsigned long long)computed,
                     (unsigned long long)least);
        kvrt_engine_close(engine, NULL);
    }
}

/* What is cached goes for whoever needs the room, oldest first, and the pool serves as many sessions as it was planned for. */
static void cached_pages_give_way(void **state)
{
    kvrt_engine engine = open_engine("k4v4", "128", "128", "1", true);
    for (uint32_t family = 0; family < 12; family++) {
        kvrt_session s = golden_session(engine);
        assert_int_equal(sync_to(s, family, MOST, 0, 1200), 0);
        (void)generate(s, 100, 0); /* to the last position */
        kvrt_session_close(s, NULL);
        const kvrt_engine_info info = engine_info(engine);
        assert_true(info.kv_pool_used_bytes == 0 && info.kv_pool_cached_bytes <= info.kv_pool_bytes);
    }
    kvrt_session s = golden_session(engine);
    assert_true(sync_to(s, 11, MOST, 0, 1200) >= 128);
    assert_int_equal(sync_to(s, 0, MOST, 0, 1200), 0);
    kvrt_engine_close(engine, NULL);
}

static void nothing_is_shared_against_the_will(void **state)
{
    kvrt_engine engine = open_engine("f16", "128", "128", "4", true);
    kvrt_options *o;
    kvrt_session s[3];
    kvrt_options_create(&o, NULL);
    kvrt_options_set_bool(o, "kv.share", 0, NULL);
    s[0] = golden_session(engine);
    assert_int_equal(kvrt_session_create(engine, o, &s[1], NULL), KVRT_OK);
    s[2] = golden_session(engine);
    sync_to(s[1], 1, MOST, 0, 400), (void)generate(s[1], 1, 0);
    assert_int_equal(sync_to(s[0], 1, MOST, 0, 400), 0); /* it gives nothing */
    (void)generate(s[0], 1, 0);
    kvrt_session_rewind(s[1], 0, NULL);
    assert_int_equal(sync_to(s[1], 1, MOST, 0, 400), 0); /* and takes nothing */
    assert_int_equal(sync_to(s[2], 1, MOST, 0, 400), 399);
    kvrt_options_destroy(o);
    kvrt_engine_close(engine, NULL);
}

/* A session of a fixed format may have more 16-bit pages than an elastic one can have without demoting. */
static void an_elastic_session_takes_no_more_than_its_share(void **state)
{
    kvrt_options *o;
    kvrt_session fixed;
    kvrt_engine engine = open_engine("elastic", "64", "64", "3", true),
                alone = open_engine("elastic", "64", "64", "3", false);
    kvrt_options_create(&o, NULL);
    kvrt_options_set_text(o, "kv.format", "f16", NULL);
    assert_int_equal(kvrt_session_create(engine, o, &fixed, NULL), KVRT_OK);
    sync_to(fixed, 1, MOST, 0, 1200), (void)generate(fixed, 1, 0);
    kvrt_session s = golden_session(engine), t = golden_session(alone);
    const uint32_t found = sync_to(s, 1, MOST, 0, 1210);
    if (!(found >= 256 && found < 1100)) fail_msg("%u tokens found", found);
    sync_to(t, 1, MOST, 0, 1210);
    assert_int_equal(generate(s, 5, 0), generate(t, 5, 0));
    assert_true(golden_session_info(t).n_packed_pages > 0);
    kvrt_options_destroy(o);
    kvrt_engine_close(engine, NULL), kvrt_engine_close(alone, NULL);
}

/* ------------------------------------------------------------------------------------------------------------- forks --- */
/* Forked at any offset of a page the two go on alike, in text, random numbers and bits, and then apart without disturbing one another. */
static void a_fork_goes_on(void **state)
{
    static const char *const formats[] = {"f16", "i8", "k4v4", "k4v2", "k3v3", "elastic"};
    static const uint32_t prompts[] = {1, 128, 129, 255, 256, 257, 400};
    for (unsigned f = 0; f < 6; f++)
        for (unsigned p = 0; p < 7; p++) {
            kvrt_engine engine = open_engine(formats[f], "64", "64", "3", true);
            kvrt_session a = golden_session(engine), b, c;
            sync_to(a, 3, MOST, 0, prompts[p]);
            (void)generate(a, 30, 9);
            assert_int_equal(kvrt_session_fork(a, &b, NULL), KVRT_OK);
            assert_int_equal(golden_session_info(b).n_cached, golden_session_info(a).n_cached);
            assert_int_equal(golden_session_info(b).n_computed, 0);
            assert_int_equal(golden_session_info(b).n_pages, golden_session_info(b).n_shared_pages);
            const uint64_t digest = generate(a, 140, 9);
            assert_int_equal(kvrt_session_fork(b, &c, NULL), KVRT_OK);
            if (generate(b, 140, 9) != digest) fail_msg("%s, %u tokens: the fork is another", formats[f], prompts[p]);
            assert_int_equal(kvrt_session_close(b, NULL), KVRT_OK);
            if (generate(c, 140, 9) != digest) fail_msg("%s, %u tokens: a fork's fork", formats[f], prompts[p]);
            assert_int_equal(kvrt_session_close(a, NULL), KVRT_OK);
            assert_int_equal(kvrt_session_rewind(c, prompts[p], NULL), KVRT_OK);
            (void)generate(c, 3, 0);
            kvrt_engine_close(engine, NULL);
        }
}

/* ---------------------------------------------------------------------------------------------------- random lives --- */
enum { LIVES = 5, OPS = 40 };
typedef struct op {
    enum { SYNC, GENERATE, REWIND, APPEND } kind;
    uint32_t a, b, c, d;
} op;
typedef struct life {
    kvrt_session session;
    op ops[OPS * 2]; /* everything that it was told, what it was forked from included */
    uint32_t n_ops;
} life;

/* What it has, generated or not, becomes the beginning of a longer prompt. */
static void append(kvrt_session s, uint32_t member, uint32_t n)
{
    int32_t ids[MOST];
    uint64_t have;
    assert_int_equal(kvrt_session_tokens(s, ids, MOST, &have, NULL), KVRT_OK);
    for (uint64_t end = have + n; have < end; have++) ids[have] = token(4, 0, member, (uint32_t)have);
    assert_int_equal(kvrt_session_sync(s, ids, have, NULL, NULL), KVRT_OK);
}

static uint64_t obey(kvrt_session s, const op *o)
{
    const uint32_t have = golden_session_info(s).n_tokens;
    if (o->kind == SYNC) sync_to(s, o->a, o->b, o->c, o->d);
    else if (o->kind == REWIND) kvrt_session_rewind(s, have > o->a ? have - o->a : 0, NULL);
    else if (o->kind == APPEND && have + o->b < MOST) append(s, o->a, o->b);
    else if (o->kind == GENERATE && have && have + o->a < MOST) return generate(s, o->a, o->b);
    return 0;
}

static op random_op(void)
{
    static const uint32_t same[] = {100, 128, 256, 300, 385}, lengths[] = {257, 300, 385, 513, 1000};
    switch (below(5)) {
    case 0: return (op){SYNC, below(8) == 0, same[below(5)], below(3), 1 + below(900)};
    case 1: return (op){SYNC, 0, same[below(5)], below(2), lengths[below(5)]};
    case 2: return (op){GENERATE, 1 + below(40), below(3), 0, 0};
    case 3: return (op){APPEND, below(2), 1 + below(150), 0, 0};
    default: return (op){REWIND, 1 + below(below(3) ? 20 : 300), 0, 0, 0};
    }
}

/* Each life is lived again, alone, and every answer must be what it was in company. */
static void check_life(const life *l, const uint64_t *answers, const char *format, const char *chunk, const char *tail)
{
    kvrt_engine alone = open_engine(format, chunk, tail, "8", false);
    kvrt_session s = golden_session(alone);
    for (uint32_t i = 0; i < l->n_ops; i++) {
        const uint64_t answer = obey(s, &l->ops[i]);
        if (answers[i] != answer)
            fail_msg("%s, chunk %s, tail %s: operation %u of a life is not what it is alone", format, chunk, tail, i);
    }
    kvrt_engine_close(alone, NULL);
}

static void live(const char *format, const char *chunk, const char *tail, uint32_t seed, uint64_t *found)
{
    kvrt_engine engine = open_engine(format, chunk, tail, "8", true); /* room for all that a rewind wants back */
    life *lives = calloc(LIVES, sizeof *lives);
    uint64_t(*answers)[OPS * 2] = calloc(LIVES, sizeof *answers);
    assert_true(lives && answers);
    random_state = seed;
    for (unsigned step = 0; step < OPS * 3; step++) {
        const uint32_t i = below(LIVES), what = below(10);
        life *l = &lives[i];
        if (l->session && (what == 0 || l->n_ops == OPS * 2)) {
            check_life(l, answers[i], format, chunk, tail);
            *found += golden_session_info(l->session).n_found;
            assert_int_equal(kvrt_session_close(l->session, NULL), KVRT_OK);
            l->session = NULL;
        } else if (!l->session && what < 4 && lives[(i + 1) % LIVES].session) {
            *l = lives[(i + 1) % LIVES];
            memcpy(answers[i], answers[(i + 1) % LIVES], sizeof answers[i]);
            assert_int_equal(kvrt_session_fork(l->session, &l->session, NULL), KVRT_OK);
        } else {
            if (!l->session) l->session = golden_session(engine), l->n_ops = 0;
            l->ops[l->n_ops] = random_op();
            answers[i][l->n_ops] = obey(l->session, &l->ops[l->n_ops]);
            l->n_ops++;
        }
    }
    for (uint32_t i = 0; i < LIVES; i++)
        if (lives[i].session) check_life(&lives[i], answers[i], format, chunk, tail);
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
    free(lives), free(answers);
}

static void nobody_notices(void **state)
{
    static const char *const formats[] = {"f16", "k4v4", "i8", "elastic"};
    static const char *const models[] = {"llama_gqa2", "qwen2_window", "llama_gqa2"};
    const char *seed = getenv("KVRT_TEST_SEED");
    for (unsigned m = 0; m < 3; m++) {
        uint64_t found = 0;
        weights = m == 2 ? "i8" : "auto";
        golden_free(&model);
        assert_true(golden_load(models[m], &model));
        for (unsigned f = 0; f < 4; f++) {
            live(formats[f], f % 2 ? "64" : "200", m ? "100" : "0", (seed ? (uint32_t)atoi(seed) : 1) + m * 10 + f,
                 &found);
            live(formats[f], f % 2 ? "300" : "128", m ? "0" : "128",
                 (seed ? (uint32_t)atoi(seed) : 1) + m * 10 + f + 99, &found);
        }
        if (found < 2000) fail_msg("%s: only %llu tokens were found", models[m], (unsigned long long)found);
    }
    weights = "auto";
}

static int set_up(void **state) { return golden_load("llama_gqa2", &model) ? 0 : -1; }
static int tear_down(void **state)
{
    golden_free(&model);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_prefix_is_computed_once),
                                       cmocka_unit_test(together_they_compute_it_once),
                                       cmocka_unit_test(cached_pages_give_way),
                                       cmocka_unit_test(nothing_is_shared_against_the_will),
                                       cmocka_unit_test(an_elastic_session_takes_no_more_than_its_share),
                                       cmocka_unit_test(a_fork_goes_on),
                                       cmocka_unit_test(nobody_notices)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
