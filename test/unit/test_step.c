/* test_step.c - submitted requests: by kvrt_step with any budget, or by the worker, each session gets to the bit what kvrt_generate gives it alone.
 * The clock is the test's own, and every operation of the model takes the time that the test says: so budgets are checked without measuring. */
#define _POSIX_C_SOURCE 200809L
#include "golden_model.h"
#include "../../kernels/cpu/variants.h"
#include "../../runtime/engine/drive.h"
#include "../../runtime/engine/seat.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

static golden_model llama, mixture, hybrid, latent, integers, many;
static const golden_model *model = &llama;
static const char *weights = "auto"; /* in integers steps have rows of both forms */
static uint32_t random_state = 1;
static uint32_t below(uint32_t n)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % n;
}

/* --------------------------------------------------------------------------------------- a clock, and what work costs --- */
static uint64_t now;
static uint64_t fake_now(void) { return now; }
static struct {
    uint64_t longest_run; /* of one operation, or of one round of one */
    uint64_t n_encodings_cut;
    uint64_t n_rounds, n_cut;           /* of operations that may be cut; operations that were left half-way */
    uint32_t n_runs, n_rows, most_seqs; /* of the step */
    uint32_t fail_at;
    uint64_t begins;
    uint32_t n_company, n_last; /* steps of a prompt and others' tokens; with the prompt's own last token */
    const kvi_program *program;
} work;
static kvi_backend slow;
static bool wide; /* but for the head, whose rows are narrow in a step of both forms */
static bool by_row(uint32_t op) { return wide && work.program->ops[op].kind != KVI_OP_HEAD; }

static kvrt_status slow_begin(kvi_device *device, const kvi_step *step, kvrt_error *error)
{
    work.n_rows = step->n_rows;
    wide = kvi_step_is_wide(step);
    if (step->n_seqs > work.most_seqs) work.most_seqs = step->n_seqs;
    work.begins++;
    if (step->n_wide) {
        const bool own = step->seqs[1].pages == step->seqs[0].pages;
        assert_true(wide && step->seqs[0].n_rows == step->n_wide && step->n_rows <= step->n_wide + 16);
        assert_true(!own || step->seqs[1].pos == step->seqs[0].pos + step->n_wide);
        work.n_last += own;
        work.n_company += step->n_seqs > (own ? 2u : 1u);
    }
    return kvi_backend_cpu.step_begin(device, step, error);
}

/* An operation takes 20 to 59 us, and in a wide step 2 to 6 us a row. */
static kvrt_status slow_run(kvi_device *device, uint32_t first, uint32_t n, kvrt_error *error)
{
    uint64_t us = 0;
    for (uint32_t op = first; op < first + n; op++) us += by_row(op) ? (2 + op % 5) * work.n_rows : 20 + op * 7 % 40;
    now += us;
    if (us > work.longest_run) work.longest_run = us;
    if (++work.n_runs == work.fail_at) return kvi_error_set(error, KVRT_DEVICE_LOST, "lost on purpose");
    return kvi_backend_cpu.run(device, first, n, error);
}

/* A round of an operation takes 4 to 11 us, and in a wide step 1/4 to 1 us a row. */
static kvrt_status slow_run_some(kvi_device *device, uint32_t op, uint32_t first, uint32_t n, uint32_t *n_run,
                                 bool *over, kvrt_error *error)
{
    const uint64_t us = by_row(op) ? (1 + op % 4) * work.n_rows / 4 : 4 + op * 5 % 8;
    const kvrt_status status = kvi_backend_cpu.run_some(device, op, first, n, n_run, over, error);
    now += us * *n_run;
    if (us > work.longest_run) work.longest_run = us;
    work.n_rounds += *n_run;
    work.n_cut += !*over;
    if (++work.n_runs == work.fail_at) return kvi_error_set(error, KVRT_DEVICE_LOST, "lost on purpose");
    return status;
}

/* A round of encoding takes 6 us. */
static kvrt_status slow_convert_some(kvi_device *device, const kvi_page_job *job, const kvi_encode_params *params,
                                     uint32_t first, uint32_t n, uint32_t *n_run, bool *over, kvrt_error *error)
{
    const kvrt_status status = kvi_backend_cpu.convert_some(device, job, params, first, n, n_run, over, error);
    now += 6ull * *n_run;
    if (work.longest_run < 6) work.longest_run = 6;
    work.n_encodings_cut += !*over;
    return status;
}

static kvi_engine *inside(kvrt_engine handle)
{
    kvi_engine *e;
    assert_int_equal(kvi_engine_enter(handle, KVI_LOOK, &e, NULL), KVRT_OK);
    kvi_engine_leave(e, KVI_LOOK);
    return e;
}

static kvrt_engine open_engine(const char *format, const char *sessions, bool is_slow)
{
    const char *pairs[] = {GOLDEN_WEIGHTS(weights),
                           "cpu.threads",
                           "1",
                           "kv.format",
                           format,
                           "kv.tail",
                           "64",
                           "ctx.chunk",
                           "200",
                           "ctx.sessions",
                           sessions,
                           "ctx.size",
                           "500",
                           "gen.ignore_eos",
                           "true",
                           NULL};
    kvrt_engine engine = golden_open(model, pairs);
    kvi_engine *e = inside(engine);
    assert_true(e->mixes == (*weights == 'i'));
    if (!is_slow) return engine;
    slow = kvi_backend_cpu;
    slow.step_begin = slow_begin, slow.run = slow_run, slow.run_some = slow_run_some;
    slow.convert_some = slow_convert_some;
    e->backend = &slow;
    e->pace.now_us = fake_now;
    memset(&work, 0, sizeof work);
    work.program = &e->program.program;
    return engine;
}

/* -------------------------------------------------------------------------------------------------------- members --- */
typedef struct member {
    kvrt_session session;
    uint32_t story, n_prompt, n_answer, seed;
    uint64_t request, digest;
    uint32_t n_tokens, n_ends;
    int32_t finish, status;
} member;

static member make(uint32_t i)
{
    static const uint32_t prompts[] = {5, 130, 64, 1, 200, 420, 70, 390}, answers[] = {60, 20, 90, 40, 1, 33, 0, 70};
    return (member){.story = i,
                    .n_prompt = prompts[i % 8] + i / 8,
                    .n_answer = answers[(i * 3 + i / 8) % 8],
                    .seed = i % 3,
                    .digest = 1};
}

static void rejoin(const member *m)
{
    int32_t ids[512];
    for (uint32_t k = 0; k < m->n_prompt; k++)
        ids[k] = (int32_t)(2 + (k * 31 + m->story * 17 + k / 90 * m->story) % 90);
    assert_int_equal(kvrt_session_sync(m->session, ids, m->n_prompt, NULL, NULL), KVRT_OK);
}

static void join(kvrt_engine engine, member *m)
{
    kvrt_error error = {.size = sizeof error};
    if (kvrt_session_create(engine, NULL, &m->session, &error) < KVRT_OK) fail_msg("%s", error.message);
    rejoin(m);
}

static kvrt_options *options_of(const member *m)
{
    kvrt_options *o;
    kvrt_options_create(&o, NULL);
    kvrt_options_set_bool(o, "gen.token_events", 1, NULL);
    kvrt_options_set_i64(o, "gen.max_tokens", m->n_answer, NULL);
    kvrt_options_set_f64(o, "sample.temperature", m->seed ? 1.1 : 0, NULL);
    if (m->seed) kvrt_options_set_i64(o, "sample.seed", m->seed, NULL);
    return o;
}

/* Everything but progress, which tells of chunks. */
static int32_t hear(const kvrt_event *event, void *user)
{
    member *m = user;
    uint32_t bits;
    if (event->type == KVRT_EVENT_PREFILL_PROGRESS) return KVRT_CONTINUE;
    memcpy(&bits, &event->logprob, sizeof bits);
    const int64_t fields[] = {event->type, (int64_t)event->text_len, event->token, event->finish, event->status, bits};
    for (size_t i = 0; i < sizeof fields; i++) m->digest = (m->digest ^ ((const uint8_t *)fields)[i]) * 1099511628211u;
    for (size_t i = 0; i < event->text_len; i++) m->digest = (m->digest ^ (uint8_t)event->text[i]) * 1099511628211u;
    assert_int_equal(event->text[event->text_len], 0);
    m->n_tokens += event->type == KVRT_EVENT_TOKEN;
    if (event->type == KVRT_EVENT_DONE || event->type == KVRT_EVENT_ERROR)
        m->n_ends++, m->finish = event->finish, m->status = event->status;
    return KVRT_CONTINUE;
}

static void submit(member *m)
{
    kvrt_error error = {.size = sizeof error};
    kvrt_options *o = options_of(m);
    if (kvrt_submit(m->session, o, &m->request, &error) < KVRT_OK) fail_msg("%s", error.message);
    kvrt_options_destroy(o);
}

static uint64_t alone(const char *format, uint32_t i, uint32_t *n_tokens)
{
    kvrt_engine engine = open_engine(format, "1", false);
    member m = make(i);
    inside(engine)->mixes = false; /* every step has one form */
    join(engine, &m);
    kvrt_options *o = options_of(&m);
    (void)kvrt_generate(m.session, o, hear, &m, NULL, NULL);
    kvrt_options_destroy(o);
    kvrt_engine_close(engine, NULL);
    *n_tokens = m.n_tokens;
    return m.digest;
}

/* Gives out what is queued; returns how many events there were. */
static uint32_t poll_all(kvrt_engine engine, member *m, uint32_t n)
{
    kvrt_event event = {.size = sizeof event};
    uint32_t n_events = 0;
    for (; kvrt_poll(engine, &event, NULL) == KVRT_OK; n_events++)
        for (uint32_t i = 0; i < n; i++)
            if (m[i].request == event.request) (void)hear(&event, &m[i]);
    return n_events;
}

/* ---------------------------------------------------------------------------------------------------------- tests --- */
/* Up to 16 that run together, under budgets from a single operation to many tokens, drawn anew for each step. */
static void any_budget_gives_the_same(void **state)
{
    enum { N = 16 };
    static const char *const formats[] = {"f16", "k4v4"};
    static const uint64_t budgets[] = {1, 100, 1000, 3000, 20000};
    for (unsigned f = 0; f < 2; f++) {
        uint64_t want[N];
        uint32_t n_tokens[N];
        for (uint32_t i = 0; i < N; i++) want[i] = alone(formats[f], i, &n_tokens[i]);
        for (unsigned b = 0; b < 6; b++) {
            member m[N];
            kvrt_engine engine = open_engine(formats[f], "16", true);
            for (uint32_t i = 0; i < N; i++) m[i] = make(i), join(engine, &m[i]);
            for (uint32_t i = 0, steps = 0;; steps++) {
                while (i < N && steps >= i * 3) submit(&m[i++]);
                const kvrt_status status = kvrt_step(engine, b < 5 ? budgets[b] : below(6000), NULL);
                poll_all(engine, m, N);
                /* A step that is under way, in the middle of an operation too, is ended by who moves pages. */
                if (below(50) == 0) assert_int_equal(kvrt_trim(engine, NULL, NULL), KVRT_OK);
                if (status == KVRT_DONE && i == N) break;
                assert_true(status >= KVRT_OK);
            }
            for (uint32_t i = 0; i < N; i++) {
                assert_int_equal(m[i].n_ends, 1);
                if (m[i].digest != want[i] || m[i].n_tokens != n_tokens[i])
                    fail_msg("%s, budget %u: session %u is not what it is alone", formats[f], b, i);
            }
            if (b == 1) assert_true(work.most_seqs >= 6);
            if (b < 2 && !(work.n_cut > 200 && (f == 0 || *weights == 'i' || work.n_encodings_cut > 0)))
                fail_msg("%s, budget %u: %u operations cut, %u encodings", formats[f], b, (unsigned)work.n_cut,
                         (unsigned)work.n_encodings_cut);
            if (*weights == 'i' && !(work.n_company > (b == 4 ? 1 : 10) && work.n_last > 2))
                fail_msg("%s, budget %u: %u steps of a prompt beside others, %u with its own last token", formats[f], b,
                         work.n_company, work.n_last);
            kvrt_engine_close(engine, NULL);
        }
    }
}

static void a_budget_is_kept(void **state);
/* Layers of experts, with a state, with latents. */
static void other_layers(void **state)
{
    enum { N = 6 };
    static const golden_model *const models[] = {&mixture, &hybrid, &latent, &many, &latent};
    static const uint64_t budgets[] = {1, 300, 3000};
    for (unsigned k = 0; k < 5; k++) {
        uint64_t want[N];
        uint32_t n_tokens[N];
        model = models[k];
        weights = k < 3 ? "auto" : "i8";
        for (uint32_t i = 0; i < N; i++) want[i] = alone("k4v4", i, &n_tokens[i]);
        for (unsigned b = 0; b < 4; b++) {
            member m[N];
            kvrt_engine engine = open_engine("k4v4", "6", true);
            for (uint32_t i = 0; i < N; i++) m[i] = make(i), join(engine, &m[i]), submit(&m[i]);
            while (kvrt_step(engine, b < 3 ? budgets[b] : below(6000), NULL) != KVRT_DONE) poll_all(engine, m, N);
            poll_all(engine, m, N);
            for (uint32_t i = 0; i < N; i++)
                if (m[i].digest != want[i] || m[i].n_ends != 1 || m[i].n_tokens != n_tokens[i])
                    fail_msg("model %u, budget %u: session %u is not what it is alone", k, b, i);
            if (b < 2) assert_true(work.n_cut > 200);
            if (k > 2 && !(work.n_company > 0 && work.n_last > 0))
                fail_msg("model %u, budget %u: %u steps of a prompt beside others, %u with its own last token", k, b,
                         work.n_company, work.n_last);
            kvrt_engine_close(engine, NULL);
        }
        a_budget_is_kept(state);
    }
    model = &llama, weights = "auto";
}

/* Once the costs are known, a step of the budget never takes longer, unless a single operation does; and it uses most of it. */
static void a_budget_is_kept(void **state)
{
    static const uint64_t budgets[] = {200, 1000, 2000, 4000, 8000};
    for (unsigned b = 0; b < 5; b++) {
        member m[6];
        kvrt_engine engine = open_engine("k4v4", "6", true);
        for (uint32_t i = 0; i < 6; i++) {
            m[i] = make(i);
            m[i].n_prompt = 200 + i, m[i].n_answer = 60;
            join(engine, &m[i]);
        }
        uint64_t used = 0, n = 0, n_over = 0;
        for (uint32_t wave = 0; wave < 2; wave++) { /* the first learns */
            for (uint32_t i = 0; i < 6; i++) kvrt_session_rewind(m[i].session, 0, NULL), rejoin(&m[i]), submit(&m[i]);
            for (kvrt_status status = KVRT_MORE; status != KVRT_DONE;) {
                const uint64_t start = now;
                work.longest_run = 0;
                status = kvrt_step(engine, budgets[b], NULL);
                poll_all(engine, m, 6);
                if (status == KVRT_DONE || !wave) continue;
                used += now - start, n++;
                n_over += now - start > budgets[b] && now - start > work.longest_run;
            }
        }
        if (n_over)
            fail_msg("budget of %u us: %u steps of %u took longer", (unsigned)budgets[b], (unsigned)n_over,
                     (unsigned)n);
        if (used < n * budgets[b] * 6 / 10)
            fail_msg("budget of %u us: %u us a step used", (unsigned)budgets[b], (unsigned)(used / n));
        kvrt_engine_close(engine, NULL);
    }
}

/* What a round of the model that frames are for takes: a range of rows of one matrix, so few weights that a thread reads them in some 50 us. */
static uint64_t most_weights;
static kvrt_status count_rounds(kvi_device *device, uint32_t op, uint32_t first, uint32_t n, uint32_t *n_run,
                                bool *over, kvrt_error *error)
{
    uint64_t rounds, weights;
    const kvrt_status status = kvi_backend_cpu.run_some(device, op, first, n, n_run, over, error);
    const kvi_op *o = &work.program->ops[op];
    rounds = first + *n_run, weights = 0;
    for (uint32_t i = 0; i < o->n_weights; i++)
        if (o->kind != KVI_OP_EMBED && o->weights[i])
            weights += (uint64_t)(o->n_out ? o->n_out : o->weights[i]->desc.n_out) * o->weights[i]->desc.n_in;
    if (*over && weights / rounds > most_weights) most_weights = weights / rounds;
    return status;
}

static void rounds_are_short(void **state)
{
    static const char *const forms[] = {"q4_0", "bf16"};
    for (unsigned f = 0; f < 2; f++) {
        const char *pairs[] = {
            "model.shape", "llama-3.2-1b:1", "weights.type", forms[f],         "cpu.threads", "1", "ctx.sessions",
            "1",           "ctx.size",       "100",          "gen.max_tokens", "1",           NULL};
        kvrt_engine engine;
        kvrt_session s;
        kvrt_error error = {.size = sizeof error};
        int32_t ids[64] = {0};
        if (golden_try_open(pairs, &engine, &error) < KVRT_OK) fail_msg("%s", error.message);
        kvi_engine *e = inside(engine);
        slow = kvi_backend_cpu;
        slow.run_some = count_rounds;
        e->backend = &slow;
        work.program = &e->program.program;
        most_weights = 0;
        assert_int_equal(kvrt_session_create(engine, NULL, &s, NULL), KVRT_OK);
        assert_int_equal(kvrt_session_sync(s, ids, 20, NULL, NULL), KVRT_OK);
        assert_int_equal(kvrt_submit(s, NULL, NULL, NULL), KVRT_OK);
        while (kvrt_step(engine, 1000, NULL) == KVRT_MORE) {
        }
        assert_in_range(most_weights, 1, 256 * 8192); /* of the widest rows: a quarter of an operation's at most */
        kvrt_engine_close(engine, NULL);
    }
}

/* Narrow steps between the chunks of long prompts: who decodes gets a token at least with every second chunk's time. */
static void a_prompt_delays_by_a_chunk(void **state)
{
    enum { N = 13, DECODING = 12 };
    member m[N];
    kvrt_engine engine = open_engine("f16", "13", true);
    for (uint32_t i = 0; i < N; i++) {
        m[i] = make(i);
        m[i].n_prompt = i < DECODING ? 1 : 420, m[i].n_answer = i < DECODING ? 450 : 2, m[i].seed = 0;
        join(engine, &m[i]);
        if (i < DECODING) submit(&m[i]);
    }
    for (uint32_t i = 0; i < 4; i++) kvrt_step(engine, 4000, NULL), poll_all(engine, m, N);
    submit(&m[DECODING]);
    kvi_engine *e = inside(engine);
    for (uint32_t chunk = 0; m[DECODING].n_ends == 0;) {
        uint64_t had[DECODING], wide_turn = e->last_wide_turn;
        for (uint32_t i = 0; i < DECODING; i++) had[i] = m[i].n_tokens;
        while (e->last_wide_turn == wide_turn && m[DECODING].n_tokens == 0)
            kvrt_step(engine, 50, NULL), poll_all(engine, m, N);
        if (m[DECODING].n_tokens) break;
        if (chunk++ > 1)
            for (uint32_t i = 0; i < DECODING; i++)
                if (m[i].n_tokens < had[i] + 1 || m[i].n_tokens > had[i] + 2)
                    fail_msg("session %u had %u tokens between two chunks, %u %u %u", i,
                             (unsigned)(m[i].n_tokens - had[i]), chunk, m[i].n_tokens, m[i].n_ends);
    }
    kvrt_engine_close(engine, NULL);
}

/* Whose rows are observed has steps of its own: between the parts of a prompt too. */
static void an_observed_session_waits_for_a_part(void **state)
{
    member m[2] = {make(0), make(5)};
    kvrt_engine engine = open_engine("f16", "2", true);
    kvrt_options *o = golden_options((const char *const[]){"ctx.full", "h2o", NULL});
    kvrt_error error = {.size = sizeof error};
    if (kvrt_session_create(engine, o, &m[0].session, &error) < KVRT_OK) fail_msg("%s", error.message);
    kvrt_options_destroy(o);
    m[0].n_prompt = 1, m[0].n_answer = 400, m[0].seed = 0;
    rejoin(&m[0]), join(engine, &m[1]);
    submit(&m[0]);
    for (uint32_t i = 0; i < 4; i++) kvrt_step(engine, 4000, NULL), poll_all(engine, m, 2);
    const uint32_t had = m[0].n_tokens;
    work.n_company = 0;
    submit(&m[1]);
    while (m[1].n_tokens == 0) kvrt_step(engine, 1000, NULL), poll_all(engine, m, 2);
    assert_true(m[1].n_prompt == 420 && m[0].n_tokens >= had + 2 && work.n_company == 0);
    kvrt_engine_close(engine, NULL);
}

/* A session of a higher priority gets more of the steps, and the others are not starved. */
static void priorities(void **state)
{
    enum { N = 20 };
    member m[N];
    kvrt_engine engine = open_engine("f16", "20", true);
    for (uint32_t i = 0; i < N; i++) {
        m[i] = make(i);
        m[i].n_prompt = 1, m[i].n_answer = 400, m[i].seed = 0;
        join(engine, &m[i]);
        kvi_session *s;
        assert_int_equal(kvi_session_enter(m[i].session, KVI_LOOK, &s, NULL), KVRT_OK);
        s->priority = i < 2 ? 3 : 0;
        kvi_session_leave(s, KVI_LOOK);
        submit(&m[i]);
    }
    while (m[0].n_tokens < 200) kvrt_step(engine, 3000, NULL), poll_all(engine, m, N);
    for (uint32_t i = 1; i < N; i++) {
        if (i < 2) assert_in_range(m[i].n_tokens, 199, 203);
        else assert_in_range(m[i].n_tokens, 145, 167); /* 14 places for 18 of them */
    }
    kvrt_engine_close(engine, NULL);
}

/* Cancelled at any moment, in the middle of a token too: it ends once, the others do not notice. */
static void a_cancel_by_number(void **state)
{
    enum { N = 5, VICTIM = 1 };
    uint64_t want[N];
    uint32_t n_tokens[N], in_prompt = 0, in_answer = 0;
    for (uint32_t i = 0; i < N; i++) want[i] = alone("k4v4", i, &n_tokens[i]);
    for (uint32_t at = 0; at < 40; at++) {
        member m[N];
        kvrt_engine engine = open_engine("k4v4", "5", true);
        for (uint32_t i = 0; i < N; i++) m[i] = make(i), join(engine, &m[i]), submit(&m[i]);
        for (uint32_t steps = 0; kvrt_step(engine, 150, NULL) != KVRT_DONE; steps++) {
            if (steps == at * 20) kvrt_cancel_id(m[VICTIM].request);
            poll_all(engine, m, N);
        }
        poll_all(engine, m, N);
        for (uint32_t i = 0; i < N; i++) {
            assert_int_equal(m[i].n_ends, 1);
            if (i != VICTIM && m[i].digest != want[i]) fail_msg("cancelled at %u: session %u noticed", at, i);
        }
        if (m[VICTIM].finish == KVRT_FINISH_CANCELLED) m[VICTIM].status == KVRT_CANCELLED ? in_prompt++ : in_answer++;
        kvrt_cancel_id(m[VICTIM].request); /* it is over */
        kvrt_engine_close(engine, NULL);
    }
    if (!(in_prompt > 2 && in_answer > 5))
        fail_msg("%u cancelled in the prompt, %u in the answer", in_prompt, in_answer);
}

/* Who does not poll stops the engine, with no more than the queue held; who then polls misses nothing. */
static void back_pressure(void **state)
{
    enum { N = 4 };
    uint64_t want[N], bytes, before;
    uint32_t n_tokens[N];
    for (uint32_t i = 0; i < N; i++) want[i] = alone("f16", i, &n_tokens[i]);
    member m[60];
    kvrt_engine engine = open_engine("f16", "60", true);
    for (uint32_t i = 0; i < 60; i++) m[i] = make(i % N), join(engine, &m[i]), submit(&m[i]);
    kvrt_debug_mem(&before, NULL, NULL);
    kvrt_status status;
    while ((status = kvrt_step(engine, 5000, NULL)) == KVRT_MORE) {
    }
    assert_int_equal(status, KVRT_PARTIAL);
    const uint64_t begins = work.begins;
    for (int i = 0; i < 20; i++) assert_int_equal(kvrt_step(engine, 5000, NULL), KVRT_PARTIAL);
    assert_int_equal(work.begins, begins);
    kvrt_debug_mem(&bytes, NULL, NULL);
    assert_true(bytes <= before + 1024); /* what ended gave its sampler back */
    while (kvrt_step(engine, 5000, NULL) != KVRT_DONE) poll_all(engine, m, 60);
    poll_all(engine, m, 60);
    for (uint32_t i = 0; i < 60; i++)
        if (m[i].digest != want[i % N] || m[i].n_ends != 1) fail_msg("session %u lost something", i);
    kvrt_engine_close(engine, NULL);
}

static void limit(kvrt_engine engine, double tokens_per_second, double duty, int32_t mode)
{
    const kvrt_limits limits = {
        .size = sizeof limits, .tokens_per_second = tokens_per_second, .duty_percent = duty, .mode = mode};
    assert_int_equal(kvrt_engine_limit(engine, &limits, NULL), KVRT_OK);
}

static void limits_hold(void **state)
{
    member m[3];
    kvrt_engine engine = open_engine("f16", "3", true);
    for (uint32_t i = 0; i < 3; i++)
        m[i] = make(i), m[i].n_answer = 495, m[i].n_prompt = 3, join(engine, &m[i]), submit(&m[i]);
    for (int i = 0; i < 30; i++) kvrt_step(engine, 2000, NULL), poll_all(engine, m, 3);
    /* 50 tokens a second, in frames of 16 ms. */
    limit(engine, 50, 0, 0);
    kvrt_step(engine, 2000, NULL), poll_all(engine, m, 3);
    uint32_t had = m[0].n_tokens + m[1].n_tokens + m[2].n_tokens;
    for (const uint64_t end = now + 4000000; now < end; now += 14000)
        kvrt_step(engine, 2000, NULL), poll_all(engine, m, 3);
    assert_in_range(m[0].n_tokens + m[1].n_tokens + m[2].n_tokens - had, 190, 206);
    /* A quarter of the time. */
    limit(engine, 0, 25, 0);
    uint64_t busy = 0, start = now;
    while (now < start + 200000) {
        const uint64_t before = now;
        kvrt_step(engine, 1000, NULL), poll_all(engine, m, 3);
        busy += now - before;
        if (now == before) now += 50;
    }
    assert_in_range(busy * 100 / (now - start), 22, 27);
    limit(engine, 0, 0, KVRT_MODE_GRAPHICS);
    for (busy = 0, start = now; now < start + 100000;) {
        const uint64_t before = now;
        kvrt_step(engine, 1000, NULL), poll_all(engine, m, 3);
        busy += now - before;
        if (now == before) now += 50;
    }
    assert_in_range(busy * 100 / (now - start), 45, 52);
    const kvrt_limits bad[] = {{.size = sizeof bad[0], .mode = 9},
                               {.size = sizeof bad[0], .duty_percent = 101},
                               {.size = sizeof bad[0], .tokens_per_second = -1},
                               {.size = sizeof bad[0], .tokens_per_second = __builtin_nan("")}};
    for (int i = 0; i < 4; i++) assert_int_equal(kvrt_engine_limit(engine, &bad[i], NULL), KVRT_ARG);
    kvrt_engine_close(engine, NULL);
}

/* What may be done with a session whose request runs, while a step is under way. */
static void around_a_step(void **state)
{
    member m[4];
    kvrt_session fork;
    const int32_t ids[] = {5, 6, 7};
    float logits[512];
    uint32_t n_tokens;
    const uint64_t want = alone("k4v4", 0, &n_tokens), other = alone("k4v4", 7, &n_tokens);
    for (uint32_t at = 1; at < 60; at += 7) {
        kvrt_engine engine = open_engine("k4v4", "8", true);
        for (uint32_t i = 0; i < 4; i++) m[i] = make(i == 3 ? 7 : 0), join(engine, &m[i]);
        submit(&m[0]), submit(&m[1]);
        for (uint32_t i = 0; i < at; i++) assert_int_equal(kvrt_step(engine, 30, NULL), KVRT_MORE);
        assert_int_equal(kvrt_session_sync(m[0].session, ids, 3, NULL, NULL), KVRT_STATE);
        assert_int_equal(kvrt_session_rewind(m[0].session, 0, NULL), KVRT_STATE);
        assert_int_equal(kvrt_session_eval(m[0].session, ids, 1, NULL, 0, NULL, NULL), KVRT_STATE);
        assert_int_equal(kvrt_submit(m[0].session, NULL, NULL, NULL), KVRT_STATE);
        assert_int_equal(kvrt_generate(m[0].session, NULL, NULL, NULL, NULL, NULL), KVRT_STATE);
        switch (at / 7 % 4) {
        case 0: assert_int_equal(kvrt_session_close(m[1].session, NULL), KVRT_OK); break;
        case 1:
            assert_int_equal(kvrt_session_fork(m[1].session, &fork, NULL), KVRT_OK), kvrt_session_close(fork, NULL);
            break;
        case 2: assert_int_equal(kvrt_session_eval(m[2].session, ids, 3, NULL, 1, logits, NULL), KVRT_OK); break;
        default: {
            kvrt_options *o = options_of(&m[3]);
            assert_int_equal(kvrt_generate(m[3].session, o, hear, &m[3], NULL, NULL), KVRT_OK);
            kvrt_options_destroy(o);
            assert_true(m[3].digest == other);
        }
        }
        while (kvrt_step(engine, 700, NULL) != KVRT_DONE) poll_all(engine, m, 2);
        poll_all(engine, m, 2);
        assert_true(m[0].digest == want && m[0].n_ends == 1);
        if (at / 7 % 4) assert_true(m[1].digest == want && m[1].n_ends == 1);
        kvrt_result result = {.size = sizeof result};
        assert_int_equal(kvrt_session_result(m[0].session, &result, NULL), KVRT_OK);
        assert_true(result.request == m[0].request && result.n_generated == m[0].n_tokens);
        kvrt_engine_close(engine, NULL);
    }
}

/* The device is lost in a step: an error of every request, once. */
static void a_lost_device(void **state)
{
    member m[3];
    kvrt_engine engine = open_engine("f16", "3", true);
    for (uint32_t i = 0; i < 3; i++) m[i] = make(i), m[i].n_answer = 90, join(engine, &m[i]), submit(&m[i]);
    work.fail_at = 40;
    for (int i = 0; i < 50; i++) (void)kvrt_step(engine, 1000, NULL);
    poll_all(engine, m, 3);
    for (uint32_t i = 0; i < 3; i++) assert_true(m[i].n_ends == 1 && m[i].status == KVRT_DEVICE_LOST);
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
}

/* --------------------------------------------------------------------------------------------------------- worker --- */
static _Atomic uint32_t n_wakeups;
static void wake(void *user) { (*(_Atomic uint32_t *)user)++; }

/* The worker drives while the host creates, forks, closes and cancels: results are what they are alone, and every request ends once. */
static void the_worker(void **state)
{
    enum { N = 12 };
    uint64_t want[N];
    uint32_t n_tokens[N];
    for (uint32_t i = 0; i < N; i++) want[i] = alone("k4v4", i, &n_tokens[i]);
    for (int32_t mode = 1; mode <= 3; mode++) {
        member m[N];
        uint32_t n_ends = 0;
        kvrt_engine engine = open_engine("k4v4", "14", false);
        const struct timespec nap = {.tv_nsec = 200000};
        assert_int_equal(kvrt_worker_start(engine, wake, &n_wakeups, NULL), KVRT_OK);
        assert_int_equal(kvrt_worker_start(engine, wake, &n_wakeups, NULL), KVRT_STATE);
        assert_int_equal(kvrt_step(engine, 100, NULL), KVRT_BUSY);
        limit(engine, 0, mode == 1 ? 100 : 0, mode);
        for (uint32_t i = 0; i < N; i++) m[i] = make(i), join(engine, &m[i]), submit(&m[i]), poll_all(engine, m, i + 1);
        assert_int_equal(kvrt_generate(m[0].session, NULL, NULL, NULL, NULL, NULL) < KVRT_OK, 1);
        kvrt_cancel_id(m[2].request);
        for (uint32_t round = 0; n_ends < N; round++) {
            kvrt_session s;
            kvrt_session_info info = {.size = sizeof info};
            if (round < 20) {
                assert_int_equal(kvrt_session_fork(m[round % N].session, &s, NULL), KVRT_OK);
                assert_int_equal(kvrt_session_get_info(s, &info, NULL), KVRT_OK);
                assert_int_equal(kvrt_session_close(s, NULL), KVRT_OK);
            }
            poll_all(engine, m, N);
            n_ends = 0;
            for (uint32_t i = 0; i < N; i++) n_ends += m[i].n_ends;
            nanosleep(&nap, NULL);
        }
        for (uint32_t i = 0; i < N; i++) {
            assert_int_equal(m[i].n_ends, 1);
            if (i != 2 && m[i].digest != want[i]) fail_msg("mode %d: session %u is not what it is alone", mode, i);
        }
        assert_true(n_wakeups > 0);
        if (mode == 2) assert_int_equal(kvrt_worker_stop(engine, NULL), KVRT_OK);
        if (mode == 2) assert_int_equal(kvrt_step(engine, 100, NULL), KVRT_DONE);
        if (mode == 3) m[0].n_ends = 0, submit(&m[0]);
        assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
    }
}

static int set_up(void **state)
{
    return golden_load("llama_gqa2", &llama) && golden_load("qwen3_moe", &mixture) &&
                   golden_load("qwen3_5_moe", &hybrid) && golden_load("glm4_moe_lite", &latent) &&
                   golden_load("llama_gqa8_d64", &integers) && golden_load("qwen3_moe_d64", &many)
               ? 0
               : -1;
}
static int set_up_integers(void **state)
{
    model = &integers, weights = "i8";
    return 0;
}
static int tear_down(void **state)
{
    golden_free(&llama), golden_free(&mixture), golden_free(&hybrid), golden_free(&latent), golden_free(&integers),
        golden_free(&many);
    return 0;
}

#define OF_BOTH_FORMS                                                                                                  \
    cmocka_unit_test(a_prompt_delays_by_a_chunk), cmocka_unit_test(priorities), cmocka_unit_test(a_cancel_by_number),  \
        cmocka_unit_test(back_pressure), cmocka_unit_test(limits_hold), cmocka_unit_test(around_a_step),               \
        cmocka_unit_test(a_lost_device), cmocka_unit_test(the_worker)
int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(any_budget_gives_the_same), cmocka_unit_test(other_layers),
                                       cmocka_unit_test(a_budget_is_kept), cmocka_unit_test(rounds_are_short),
                                       OF_BOTH_FORMS};
    const struct CMUnitTest both[] = {cmocka_unit_test(an_observed_session_waits_for_a_part),
                                      cmocka_unit_test(any_budget_gives_the_same), cmocka_unit_test(a_budget_is_kept),
                                      OF_BOTH_FORMS};
    const int n_failed = cmocka_run_group_tests_name("one form", tests, set_up, NULL);
    return n_failed + cmocka_run_group_tests_name("both forms", both, set_up_integers, tear_down);
}
