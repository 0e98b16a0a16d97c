/* test_drive.c - several sessions in one drive: steps are shared, and what each host sees, to the last bit of every log probability, is what it
 * would see alone. */
#include "crowd.h"
#include "golden_model.h"
#include "../../runtime/engine/seat.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static golden_model model;

/* ------------------------------------------------------------------------------------ a backend that is looked at --- */
static struct {
    const kvi_engine *engine;
    uint32_t n_steps, n_shared, most_sequences, n_mixed;
    uint32_t waits[CROWD_MOST], longest_wait; /* steps that went by while a session wanted one */
    uint32_t n_runs;
    uint32_t fail_at; /* the run that fails, from 1; 0: none */
    kvrt_status fail_with;
    uint32_t cancel_at; /* the run during which `victim` is cancelled */
    const kvi_session *victim;
    bool is_in_step;
    uint32_t n_late; /* runs of a step after the victim, who is in it, was cancelled */
    bool recurrent;  /* the model is to be one with states (below) */
    const kvi_step *step;
    uint32_t n_states, n_wrong_states;
    uint32_t reached[CROWD_MOST], n_back; /* steps of others than the victim that begin before an earlier one */
} seen;
static kvi_backend watched;

static bool is_in(const kvi_step *step, const kvi_session *s)
{
    for (uint32_t i = 0; i < step->n_seqs; i++)
        if (step->seqs[i].pages[0] == s->pages.refs[0]) return true;
    return false;
}

static const kvi_session *session_of(const kvi_seq *seq)
{
    for (const kvi_session *s = seen.engine->sessions; s; s = s->next)
        if (seq->pages[0] == s->pages.refs[0]) return s;
    fail_msg("a sequence of no session");
    return NULL;
}

/* A recurrent layer in the place of a real one: its state after n positions is this digest of their tokens. A step finds that of the positions
 * before it (at 0 anything counts as zero), and its first operations overwrite it, wherever the step ends. */
static uint64_t state_after(const kvi_session *s, uint32_t n)
{
    uint64_t state = 0;
    for (uint32_t i = 0; i < n; i++) state = (state ^ (uint64_t)(uint32_t)s->tokens[i]) * 1099511628211u + 1;
    return state;
}

static void run_recurrent_layer(kvi_device *device)
{
    for (uint32_t i = 0; i < seen.step->n_seqs; i++) {
        const kvi_seq *seq = &seen.step->seqs[i];
        const kvi_session *s = session_of(seq);
        const uint64_t at = (uint64_t)seq->state_unit * KVI_KV_UNIT, next = state_after(s, seq->pos + seq->n_rows);
        uint64_t found;
        assert_int_equal(kvi_backend_cpu.pool_read(device, at, &found, sizeof found, NULL), KVRT_OK);
        seen.n_states++;
        seen.n_wrong_states += seq->pos > 0 && found != state_after(s, seq->pos);
        assert_int_equal(kvi_backend_cpu.pool_write(device, at, &next, sizeof next, NULL), KVRT_OK);
    }
}

static kvrt_status watch_step(kvi_device *device, const kvi_step *step, kvrt_error *error)
{
    uint32_t i = 0;
    seen.n_steps++;
    seen.n_shared += step->n_seqs > 1;
    if (step->n_seqs > seen.most_sequences) seen.most_sequences = step->n_seqs;
    seen.n_mixed += step->n_seqs > 1 && kvi_step_is_wide(step);
    for (const kvi_session *s = seen.engine->sessions; s; s = s->next, i++) {
        const bool waits = (s->gen.state == KVI_PREFILL || s->gen.state == KVI_DECODE) && !is_in(step, s);
        seen.waits[i] = waits ? seen.waits[i] + 1 : 0;
        if (seen.waits[i] > seen.longest_wait) seen.longest_wait = seen.waits[i];
        if (waits) continue;
        seen.n_back += s != seen.victim && s->n_cached < seen.reached[i];
        seen.reached[i] = s->n_cached;
    }
    seen.is_in_step = seen.victim && is_in(step, seen.victim);
    seen.step = step;
    return kvi_backend_cpu.step_begin(device, step, error);
}

static kvrt_status watch_run(kvi_device *device, uint32_t first, uint32_t n, kvrt_error *error)
{
    seen.n_runs++;
    if (seen.recurrent && seen.step) run_recurrent_layer(device);
    seen.step = NULL; /* its first run is over */
    if (seen.n_runs == seen.fail_at) return kvi_error_set(error, seen.fail_with, "failed on purpose");
    seen.n_late += seen.is_in_step && kvi_requests_cancelled(seen.victim->requests);
    if (seen.n_runs == seen.cancel_at) kvrt_cancel(seen.victim->handle);
    return kvi_backend_cpu.run(device, first, n, error);
}

static void watch(const crowd_member *member)
{
    watched = kvi_backend_cpu;
    watched.step_begin = watch_step;
    watched.run = watch_run;
    member->session->engine->backend = &watched;
    memset(&seen, 0, sizeof seen);
    seen.engine = member->session->engine;
}

/* -------------------------------------------------------------------------------------------------------- scripts --- */
static kvrt_engine open_engine(const char *format, const char *sessions, const char *ctx, const char *pool)
{
    const char *pairs[] = {"cpu.threads",
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
                           ctx,
                           pool ? "kv.pool" : NULL,
                           pool,
                           NULL};
    return golden_open(&model, pairs);
}

/* Eight that differ in everything; the last has no room for what it is asked for. */
static const crowd_member scripts[8] = {
    {.options = {"sample.temperature", "0", "gen.max_tokens", "150"}, .n_prompt = 5},
    {.options = {"sample.temperature", "0", "gen.max_tokens", "60", "sample.repeat_penalty", "1.2"},
     .n_prompt = 3,
     .act = CROWD_CANCEL,
     .act_at = 20},
    {.options = {"sample.temperature", "1.3", "sample.seed", "7", "gen.max_tokens", "90"}, .n_prompt = 200},
    {.options = {"sample.temperature", "0.8", "sample.seed", "3", "sample.top_k", "5", "gen.max_tokens", "40"},
     .n_prompt = 64,
     .arrives = 9,
     .act = CROWD_PAUSE,
     .act_at = 11},
    {.options = {"sample.temperature", "0", "gen.max_tokens", "-1", "ctx.size", "140"}, .n_prompt = 110, .arrives = 2},
    {.options = {"sample.temperature", "2", "sample.seed", "11", "gen.max_tokens", "70"},
     .n_prompt = 129,
     .arrives = 30,
     .act = CROWD_STOP,
     .act_at = 33},
    {.options = {"sample.temperature", "0", "gen.max_tokens", "0"}, .n_prompt = 70, .arrives = 5},
    {.options = {"sample.temperature", "0", "gen.max_tokens", "1"}, .n_prompt = 300, .arrives = 12}};

static uint32_t next_random(uint32_t *state) { return (*state = *state * 1664525u + 1013904223u) >> 16; }

/* The first n scripts, arriving at other moments in each round of a test. */
static void write_scripts(crowd_member *members, uint32_t n, uint32_t seed)
{
    for (uint32_t i = 0; i < n; i++) {
        members[i] = scripts[i % 8];
        members[i].story = i;
        if (seed) members[i].arrives = next_random(&seed) % 60;
    }
}

static void all_alone(const char *format, const char *sessions, const char *ctx, const char *pool,
                      crowd_member *members, uint32_t n, kvrt_engine *engines)
{
    for (uint32_t i = 0; i < n; i++) {
        engines[i] = open_engine(format, sessions, ctx, pool);
        crowd_join(engines[i], &members[i]);
        crowd_alone(&members[i]);
    }
}

static void close_all(kvrt_engine *engines, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) assert_int_equal(kvrt_engine_close(engines[i], NULL), KVRT_OK);
}

/* ---------------------------------------------------------------------------------------------------------- tests --- */
static void each_is_as_it_is_alone(void **state)
{
    (void)state;
    static const char *const formats[] = {"f16", "k4v4", "i8"}, *const models[] = {"llama_gqa2", "qwen2_window"};
    for (unsigned m = 0; m < 2; m++) {
        golden_free(&model);
        assert_true(golden_load(models[m], &model));
        for (unsigned f = 0; f < 3; f++) {
            crowd_member alone[8], together[8];
            kvrt_engine engines[8];
            write_scripts(alone, 8, 0);
            all_alone(formats[f], "8", "500", NULL, alone, 8, engines);
            for (uint32_t n = 2; n <= 8; n += 3) {
                kvrt_engine engine = open_engine(formats[f], "8", "500", NULL);
                write_scripts(together, n, n == 8 ? 0 : n * 77 + f);
                for (uint32_t i = 0; i < n; i++) crowd_join(engine, &together[i]);
                watch(&together[0]);
                assert_int_equal(crowd_together(engine, together, n, NULL, NULL), 0);
                for (uint32_t i = 0; i < n; i++) crowd_same(&alone[i], &together[i], formats[f]);
                assert_int_equal(seen.n_mixed, 0);
                if (n == 8) assert_true(seen.n_shared > 50 && seen.most_sequences >= 5);
                kvrt_engine_close(engine, NULL);
            }
            assert_int_equal(alone[1].result.finish, KVRT_FINISH_CANCELLED);
            assert_int_equal(alone[4].result.finish, KVRT_FINISH_CTX_FULL);
            assert_int_equal(alone[5].result.finish, KVRT_FINISH_CALLBACK);
            close_all(engines, 8);
        }
    }
}

/* Elastic sessions demote for themselves alone, and one of a fixed format is never touched; more sessions than rows of a step. */
static void an_elastic_crowd(void **state)
{
    (void)state;
    enum { N = 11 };
    crowd_member alone[N], together[N];
    kvrt_engine engines[N];
    write_scripts(alone, N, 0);
    for (uint32_t i = 0; i < N; i++)
        alone[i] = (crowd_member){.options = {"sample.temperature", "0", "gen.max_tokens", "120"},
                                  .story = i,
                                  .n_prompt = 500 + 37 * i,
                                  .arrives = i * 5};
    alone[3].options[4] = "kv.format", alone[3].options[5] = "k4v4";
    memcpy(together, alone, sizeof together);
    all_alone("elastic", "11", "1100", "1760KiB", alone, N, engines);
    kvrt_engine engine = open_engine("elastic", "11", "1100", "1760KiB");
    for (uint32_t i = 0; i < N; i++) crowd_join(engine, &together[i]);
    watch(&together[0]);
    assert_int_equal(crowd_together(engine, together, N, NULL, NULL), 0);
    uint32_t n_demotions = 0;
    for (uint32_t i = 0; i < N; i++) {
        crowd_same(&alone[i], &together[i], "elastic");
        n_demotions += alone[i].n_demotions;
    }
    assert_int_equal(alone[3].n_demotions, 0);
    assert_true(n_demotions > 20);
    assert_int_equal(seen.most_sequences, N); /* all in one step */
    assert_true(N > KVI_DECODE_ROWS && N <= KVI_BATCH_ROWS);
    if (seen.longest_wait > 2 * N) fail_msg("a session waited %u steps for its turn", seen.longest_wait);
    kvrt_engine_close(engine, NULL);
    close_all(engines, N);
}

/* The victim's request ends where it was cancelled, and what was sampled until then is what it is alone. */
static void check_victim(const crowd_member *alone, const crowd_member *victim)
{
    const uint32_t n = victim->session->n_tokens;
    assert_int_equal(victim->result.finish, KVRT_FINISH_CANCELLED);
    assert_int_equal(victim->status, victim->result.n_generated ? KVRT_OK : KVRT_CANCELLED);
    assert_true(victim->result.n_generated < alone->result.n_generated);
    assert_memory_equal(victim->session->tokens, alone->session->tokens, n * sizeof(int32_t));
}

static void cancel_in_round(uint32_t round, void *user)
{
    if (round == *(uint32_t *)user) kvrt_cancel(seen.victim->handle);
}

/* Between two steps, or within one while the rows of others are computed with it; in its prompt, or in its answer: the others do not notice. */
static void a_cancel_is_of_one(void **state)
{
    (void)state;
    enum { VICTIM = 2 };
    crowd_member alone[4], together[4];
    kvrt_engine engines[4];
    write_scripts(alone, 4, 0);
    all_alone("k4v4", "4", "500", NULL, alone, 4, engines);
    uint32_t in_prompt = 0, in_answer = 0, n_runs = 0;
    for (uint32_t i = 0; i < 24; i++) {
        const bool within = i % 2;
        uint32_t round = within ? UINT32_MAX : 1 + i * i / 8;
        kvrt_engine engine = open_engine("k4v4", "4", "500", NULL);
        write_scripts(together, 4, 0);
        for (uint32_t k = 0; k < 4; k++) crowd_join(engine, &together[k]);
        watch(&together[0]);
        seen.victim = together[VICTIM].session;
        seen.cancel_at = within ? 2 + i * i / 2 : 0;
        (void)crowd_together(engine, together, 4, cancel_in_round, &round);
        check_victim(&alone[VICTIM], &together[VICTIM]);
        assert_int_equal(seen.n_late, 0);
        for (uint32_t k = 0; k < 4; k++)
            if (k != VICTIM) crowd_same(&alone[k], &together[k], "beside a cancelled one");
        in_prompt += together[VICTIM].status == KVRT_CANCELLED;
        in_answer += together[VICTIM].status == KVRT_OK;
        n_runs += seen.n_runs;
        kvrt_engine_close(engine, NULL);
    }
    assert_true(in_prompt > 3 && in_answer > 3 && n_runs > 0);
    close_all(engines, 4);
}

/* Where a state was half overwritten the session goes back to a checkpoint: no step finds a state that is not of its position. */
static void states_are_of_their_position(void **state)
{
    (void)state;
    uint32_t n_states = 0, n_back = 0;
    for (uint32_t i = 0; i < 20; i++) {
        crowd_member m[4];
        kvrt_engine engine = open_engine("k4v4", "8", "500", NULL);
        kvi_engine *e;
        assert_int_equal(kvi_engine_enter(engine, KVI_LOOK, &e, NULL), KVRT_OK);
        kvi_engine_leave(e, KVI_LOOK);
        e->program.program.state_bytes = 5000;
        write_scripts(m, 4, 0);
        m[0].n_prompt = 150;
        for (uint32_t k = 0; k < 4; k++) crowd_join(engine, &m[k]);
        watch(&m[0]);
        seen.recurrent = true;
        seen.victim = m[i % 2 ? 0 : 2].session;
        seen.cancel_at = 2 + i * i;
        if (i % 5 == 4) seen.cancel_at = 0, seen.fail_at = 2 + i * i, seen.fail_with = KVRT_NOMEM_HOST;
        (void)crowd_together(engine, m, 4, NULL, NULL);
        for (uint32_t k = 0; k < 4; k++) {
            n_back += m[k].session->n_cached + 1 < m[k].session->n_tokens;
            crowd_alone(&m[k]); /* each goes on */
        }
        assert_int_equal(seen.n_wrong_states, 0);
        if (!seen.fail_at) assert_int_equal(seen.n_back, 0);
        n_states += seen.n_states;
        kvrt_engine_close(engine, NULL);
    }
    assert_true(n_states > 1000 && n_back > 5);
}

/* A state that another session saved is found where a prefix is, and only there; a fork has one of its own. */
static void find_states(uint32_t chunk, uint32_t saved)
{
    enum { PROMPT = 300 };
    crowd_member m[3];
    kvrt_session fork;
    kvrt_engine engine = open_engine("k4v4", "8", "500", NULL);
    kvi_engine *e;
    assert_int_equal(kvi_engine_enter(engine, KVI_LOOK, &e, NULL), KVRT_OK);
    kvi_engine_leave(e, KVI_LOOK);
    e->program.program.state_bytes = 5000;
    e->plan.limits.max_rows = chunk;
    for (uint32_t i = 0; i < 3; i++) {
        m[i] = (crowd_member){
            .options = {"sample.temperature", "0", "gen.max_tokens", "100"}, .story = i / 2, .n_prompt = PROMPT - i};
        crowd_join(engine, &m[i]);
        if (i == 0) watch(&m[0]), seen.recurrent = true;
        crowd_alone(&m[i]);
        assert_int_equal(m[i].session->n_found, i == 1 ? saved : 0);
    }
    assert_int_equal(kvrt_session_fork(m[0].handle, &fork, NULL), KVRT_OK);
    kvrt_session_close(m[0].handle, NULL);
    m[0].handle = fork;
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(kvi_session_enter(m[i].handle, KVI_LOOK, &m[i].session, NULL), KVRT_OK);
        kvi_session_leave(m[i].session, KVI_LOOK);
        assert_int_equal(kvrt_session_rewind(m[i].handle, 290, NULL), KVRT_OK);
        assert_int_equal(m[i].session->n_cached, saved);
        crowd_alone(&m[i]);
    }
    assert_true(seen.n_states > 500);
    assert_int_equal(seen.n_wrong_states, 0);
    kvrt_engine_close(engine, NULL);
}

static void states_are_found(void **state)
{
    (void)state;
    find_states(64, 256);
    find_states(48, 0); /* no step ended where a page of the prompt does: pages are there and no state */
}

/* More sessions than the pool was planned for: some end with CTX_FULL, each with the text it has alone up to there; and every page comes back. */
static void one_without_room_leaves_the_others(void **state)
{
    (void)state;
    crowd_member alone[6], together[6];
    kvrt_engine engines[6];
    for (uint32_t i = 0; i < 6; i++)
        alone[i] = (crowd_member){.options = {"sample.temperature", "0", "gen.max_tokens", "200"},
                                  .story = i,
                                  .n_prompt = 100 + 40 * i,
                                  .arrives = i * 4};
    memcpy(together, alone, sizeof together);
    all_alone("f16", "1", "500", NULL, alone, 6, engines);
    kvrt_engine engine = open_engine("f16", "5", "500", NULL);
    for (uint32_t i = 0; i < 6; i++) crowd_join(engine, &together[i]);
    watch(&together[0]);
    (void)crowd_together(engine, together, 6, NULL, NULL);
    uint32_t n_whole = 0, n_full = 0;
    for (uint32_t i = 0; i < 6; i++) {
        const kvi_session *s = together[i].session;
        assert_memory_equal(s->tokens, alone[i].session->tokens, s->n_tokens * sizeof(int32_t));
        if (together[i].result.finish == KVRT_FINISH_LENGTH) {
            crowd_same(&alone[i], &together[i], "a full pool");
            n_whole++;
        } else if (together[i].status == KVRT_CTX_FULL || together[i].result.finish == KVRT_FINISH_CTX_FULL) {
            n_full++;
        }
    }
    assert_true(n_whole >= 2 && n_full >= 1 && n_whole + n_full == 6);
    assert_true(seen.n_shared > 20 && seen.most_sequences == 5); /* ctx.sessions bounds a step */
    kvi_engine *e = together[0].session->engine;
    for (uint32_t i = 0; i < 6; i++) assert_int_equal(kvrt_session_close(together[i].handle, NULL), KVRT_OK);
    assert_int_equal(kvi_pool_used_bytes(&e->store.pool), (uint64_t)e->store.idle_units * KVI_KV_UNIT);
    kvrt_engine_close(engine, NULL);
    close_all(engines, 6);
}

/* A step that fails is an error of every session in it; after the loss of the device, of all. */
static void a_step_that_fails(void **state)
{
    (void)state;
    static const kvrt_status failures[] = {KVRT_NOMEM_HOST, KVRT_DEVICE_LOST, KVRT_INTERNAL};
    for (unsigned f = 0; f < 3; f++) {
        crowd_member m[3];
        const bool lost = failures[f] != KVRT_NOMEM_HOST;
        kvrt_engine engine = open_engine("f16", "3", "500", NULL);
        for (uint32_t i = 0; i < 3; i++) {
            m[i] = (crowd_member){.options = {"sample.temperature", "0", "gen.max_tokens", "30"},
                                  .story = i,
                                  .n_prompt = i == 2 ? 20 : 1};
            m[i].arrives = i == 2 ? 25 : 0;
            crowd_join(engine, &m[i]);
        }
        watch(&m[0]);
        seen.fail_at = 20, seen.fail_with = failures[f];
        (void)crowd_together(engine, m, 3, NULL, NULL);
        for (uint32_t i = 0; i < 2; i++) {
            assert_int_equal(m[i].status, failures[f]);
            assert_string_equal(m[i].session->gen.error.message, "failed on purpose");
            assert_true(m[i].n_tokens > 0 && m[i].n_tokens < 30);
        }
        assert_int_equal(m[2].status, lost ? KVRT_DEVICE_LOST : KVRT_OK);
        assert_int_equal(kvrt_session_rewind(m[0].handle, 1, NULL), lost ? KVRT_DEVICE_LOST : KVRT_OK);
        assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
    }
}

static int set_up(void **state)
{
    (void)state;
    return golden_load("llama_gqa2", &model) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    golden_free(&model);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(an_elastic_crowd),
                                       cmocka_unit_test(a_cancel_is_of_one),
                                       cmocka_unit_test(one_without_room_leaves_the_others),
                                       cmocka_unit_test(a_step_that_fails),
                                       cmocka_unit_test(states_are_of_their_position),
                                       cmocka_unit_test(states_are_found),
                                       cmocka_unit_test(each_is_as_it_is_alone)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
