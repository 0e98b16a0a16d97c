/* test_cuda_models.c - whole models on the CUDA backend of the emulated device, through the public API: golden models and the bundled one
 * against the CPU, mutations, graphs against single launches, thread orders. With KVRT_TEST_CARD set it runs on the card instead. */
#include "../../runtime/engine/handle.h"
#include "../../runtime/engine/look_ahead.h"
#include "crowd.h"
#include "golden_model.h"
#include "cuda_engine.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define TOL_CUDA 3e-2      /* times max(1, s): operands of 16 bits against f32; those of F16 weights reach 8e-3 */
#define TOL_CUDA_BF16 6e-2 /* BF16 has three bits less: 4.5e-2 of heads of 16 */
#define TEXT_TOKENS 32u

/* ------------------------------------------------------------------------------------------------- golden models --- */
/* In chunks of 64: states pass from step to step. */
static kvrt_engine golden_on_cuda(const golden_model *m, const char *disable)
{
    kvrt_error error = {.size = sizeof error};
    const char *pairs[] = {"device.backend", "cuda",  "kv.format", "f16", "ctx.chunk", "64",
                           "debug.disable",  disable, NULL};
    kvrt_engine engine = NULL;
    kvrt_status status = cuda_open(m->dir, pairs, &engine, &error);
    if (status < 0) fail_msg("%s: %s", m->dir, error.message);
    return engine;
}

/* The norms of a recurrent layer's heads, 16 wide in these models, pass on some ten times of a rounding: in BF16, which has three bits less, that is
 * more than the limit, and qwen3_5_d64, the same model in F16, stays within it. */
static double limit(const golden_model *m)
{
    char path[1200], text[4096] = "";
    snprintf(path, sizeof path, "%s/config.json", m->dir);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    const size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    const bool bf16 = n && strstr(text, "\"bfloat16\""), recurrent = n && strstr(text, "linear_key_head_dim");
    return golden_limit(m, bf16 ? TOL_CUDA_BF16 : TOL_CUDA) * (bf16 && recurrent ? 4 : 1);
}

/* Rounded activations let a router near a tie choose another expert than the reference, and a recurrent head whose output nearly vanishes is
 * normalized all the same: one row in twenty may show it. */
#define LEFT_OUT 0.05
static double layer_error(kvrt_engine engine, const golden_model *m)
{
    return golden_row_error(engine, m, LEFT_OUT, NULL);
}

/* One model for each kind of layer beyond the plain transformer, by the models' whole names: none of them may be refused. */
static const char *const kinds[] = {"qwen3_moe_d64",   "gpt_oss_d64", "gpt_oss_mxfp4_d64", "qwen3_5_d64",
                                    "qwen3_5_moe_d64", "deepseek_v2", "deepseek_v3",       "glm4_moe_lite"};
#define N_KINDS (sizeof kinds / sizeof kinds[0])

static void golden_layers(void **state)
{
    (void)state;
    for (unsigned i = 0; i < N_KINDS; i++) {
        golden_model m;
        assert_true(golden_load(kinds[i], &m));
        kvrt_engine engine = golden_on_cuda(&m, "");
        const double error = layer_error(engine, &m);
        print_message("%s: largest logit error %g, limit %g\n", kinds[i], error, limit(&m));
        if (!(error <= limit(&m))) fail_msg("%s: logit error %g, need at most %g", kinds[i], error, limit(&m));
        kvrt_engine_close(engine, NULL);
        golden_free(&m);
    }
}

static void golden_models(void **state)
{
    (void)state;
    unsigned n = 0;
    for (unsigned i = 0; golden_name(i); i++) {
        golden_model m;
        assert_true(golden_load(golden_name(i), &m));
        kvrt_engine engine = golden_on_cuda(&m, "");
        const double error = golden_logit_error(engine, &m, NULL);
        n++;
        print_message("%s: largest logit error %g, limit %g\n", golden_name(i), error, limit(&m));
        if (!(error <= limit(&m))) fail_msg("%s: logit error %g, need at most %g", golden_name(i), error, limit(&m));
        kvrt_engine_close(engine, NULL);
        golden_free(&m);
    }
    print_message("%u models, none refused\n", n);
    assert_true(n > 0);
}

/* Greedy text is the reference's as long as its margin is wider than twice the error. */
static void golden_greedy_text(void **state)
{
    (void)state;
    static const char *const pairs[] = {
        "device.backend", "cuda", "kv.format", "f16", "sample.temperature", "0", "gen.max_tokens", "16",
        "gen.ignore_eos", "true", NULL};
    unsigned compared = 0;
    for (unsigned i = 0; golden_name(i); i++) {
        golden_model m;
        kvrt_engine engine = NULL;
        kvrt_error error = {.size = sizeof error};
        assert_true(golden_load(golden_name(i), &m));
        if (cuda_open(m.dir, pairs, &engine, &error) < 0) fail_msg("%s: %s", m.dir, error.message);
        compared += golden_greedy(engine, &m, golden_logit_error(engine, &m, NULL));
        kvrt_engine_close(engine, NULL);
        golden_free(&m);
    }
    print_message("%u tokens\n", compared);
    assert_true(compared > 10);
}

/* weights.type on the device: the same numbers as on the CPU, which does its sums in f32 here; and fewer than the folder has. */
static void weights_rounded_at_open(void **state)
{
    (void)state;
    static const char *const types[] = {"i4", "i8"};
    golden_model m;
    assert_true(golden_load("llama_gqa8_d64", &m));
    for (unsigned t = 0; t < 2; t++) {
        const golden_prompt *p = &m.prompts[0];
        const size_t n = (size_t)p->n_rows * m.vocab;
        float *logits[2] = {malloc(n * sizeof(float)), malloc(n * sizeof(float))};
        kvrt_error error = {.size = sizeof error};
        assert_true(logits[0] && logits[1]);
        for (unsigned i = 0; i < 2; i++) {
            const char *pairs[] = {"device.backend",
                                   i ? "cuda" : "cpu",
                                   "kv.format",
                                   "f16",
                                   "weights.type",
                                   types[t],
                                   "weights.group",
                                   "32",
                                   "cpu.exact",
                                   "true",
                                   NULL};
            kvrt_engine engine = NULL;
            kvrt_session session;
            if (cuda_open(m.dir, pairs, &engine, &error) < 0) fail_msg("%s: %s", types[t], error.message);
            assert_int_equal(kvrt_session_create(engine, NULL, &session, NULL), KVRT_OK);
            if (kvrt_session_eval(session, p->ids, p->n, p->rows, p->n_rows, logits[i], &error) < 0)
                fail_msg("%s: %s", types[t], error.message);
            kvrt_engine_close(engine, NULL);
        }
        double worst = 0, moved = 0;
        for (size_t k = 0; k < n; k++) {
            const double e = fabs((double)logits[0][k] - (double)logits[1][k]),
                         from = fabs((double)logits[0][k] - (double)p->logits[k]);
            if (!(e <= worst)) worst = isnan(e) ? INFINITY : e;
            if (from > moved) moved = from;
        }
        print_message("%s: apart by %g, limit %g; by %g from the folder's\n", types[t], worst, limit(&m), moved);
        if (!(worst <= limit(&m))) fail_msg("%s: logits apart by %g, need at most %g", types[t], worst, limit(&m));
        assert_true(moved > 1e-3);
        free(logits[0]), free(logits[1]);
    }
    golden_free(&m);
}

/* Sessions that share steps, which are replayed graphs of 1, 2 and 4 rows, against each alone. */
static void sessions_share_steps(void **state)
{
    (void)state;
    static const char *const pairs[] = {
        "device.backend", "cuda", "kv.format", "k4v4", "kv.tail", "0", "ctx.chunk", "64",
        "ctx.sessions",   "3",    "ctx.size",  "256",  NULL};
    static const crowd_member scripts[3] = {
        {.options = {"sample.temperature", "0", "gen.max_tokens", "9"}, .story = 0, .n_prompt = 236},
        {.options = {"sample.temperature", "1", "sample.seed", "5", "gen.max_tokens", "12"}, .story = 1, .n_prompt = 5},
        {.options = {"sample.temperature", "0", "gen.max_tokens", "12"},
         .story = 2,
         .n_prompt = 20,
         .arrives = 3,
         .act = CROWD_PAUSE,
         .act_at = 4}};
    crowd_member alone[3], together[3];
    kvrt_engine engines[3], engine;
    golden_model m;
    assert_true(golden_load("llama_gqa8_d64", &m));
    assert_int_equal(cuda_open(m.dir, pairs, &engine, NULL), KVRT_OK);
    for (uint32_t i = 0; i < 3; i++) {
        alone[i] = together[i] = scripts[i];
        assert_int_equal(cuda_open(m.dir, pairs, &engines[i], NULL), KVRT_OK);
        crowd_join(engines[i], &alone[i]);
        crowd_alone(&alone[i]);
        crowd_join(engine, &together[i]);
    }
    assert_int_equal(crowd_together(engine, together, 3, NULL, NULL), 0);
    for (uint32_t i = 0; i < 3; i++) {
        assert_true(alone[i].n_tokens >= 9);
        crowd_same(&alone[i], &together[i], "cuda");
        kvrt_engine_close(engines[i], NULL);
    }
    kvrt_engine_close(engine, NULL);
    golden_free(&m);
}

/* Up to 16 sessions of one row in a step: two blocks of eight rows in a product, twice the partial results of attention. */
static void sixteen_sessions_share_steps(void **state)
{
    (void)state;
    enum { N = CROWD_MOST };
    static const char *const models[] = {"llama_gqa8_d64", "qwen3_moe_d64", "deepseek_v3"};
    static const char *const pairs[] = {
        "device.backend", "cuda", "kv.format", "k4v4", "kv.tail", "0", "ctx.chunk", "64",
        "ctx.sessions",   "16",   "ctx.size",  "256",  NULL};
    for (unsigned k = 0; k < sizeof models / sizeof models[0]; k++) {
        static crowd_member alone[N], together[N];
        kvrt_engine engines[N + 1];
        golden_model m;
        assert_true(golden_load(models[k], &m));
        for (unsigned i = 0; i <= N; i++) assert_int_equal(cuda_open(m.dir, pairs, &engines[i], NULL), KVRT_OK);
        for (uint32_t i = 0; i < N; i++) {
            alone[i] = together[i] = (crowd_member){.options = {"sample.temperature", "0", "gen.max_tokens", "14"},
                                                    .story = i, /* nothing in common */
                                                    .n_prompt = i == 4 ? 140 : 3 + 2 * i};
            crowd_join(engines[i], &alone[i]);
            crowd_alone(&alone[i]);
            crowd_join(engines[N], &together[i]);
        }
        assert_int_equal(crowd_together(engines[N], together, N, NULL, NULL), 0);
        for (uint32_t i = 0; i < N; i++) crowd_same(&alone[i], &together[i], models[k]);
        for (unsigned i = 0; i <= N; i++) kvrt_engine_close(engines[i], NULL);
        golden_free(&m);
    }
}

/* model.mtp: the layer that looks one token further, behind steps of several lengths and behind itself, against the CPU's. */
static void drafts_are_the_cpus(void **state)
{
    (void)state;
    enum { N = 150, DRAFTS = 6 };
    static const char *const models[] = {"qwen3_5_mtp", "qwen3_5_moe_mtp"};
    static const uint32_t lengths[] = {1, 7, 64, N};
    for (unsigned k = 0; k < 2; k++) {
        golden_model m;
        assert_true(golden_load(models[k], &m));
        float *logits[2];
        double worst = 0, squares = 0;
        for (unsigned on_cuda = 0; on_cuda < 2; on_cuda++) {
            const char *pairs[] = {"device.backend",
                                   on_cuda ? "cuda" : "cpu",
                                   "model.mtp",
                                   "true",
                                   "kv.format",
                                   "f16",
                                   "ctx.chunk",
                                   "64",
                                   "cpu.exact",
                                   "true",
                                   NULL};
            kvrt_error error = {.size = sizeof error};
            kvrt_engine engine;
            int32_t ids[N];
            float *to = logits[on_cuda] = calloc((size_t)m.vocab * DRAFTS * 4, sizeof(float));
            assert_non_null(to);
            if (cuda_open(m.dir, pairs, &engine, &error) < 0) fail_msg("%s: %s", models[k], error.message);
            for (uint32_t i = 0; i < N; i++) ids[i] = crowd_token(k, i);
            for (unsigned l = 0; l < 4; l++) {
                kvrt_session session;
                kvi_session *s;
                assert_int_equal(kvrt_session_create(engine, NULL, &session, NULL), KVRT_OK);
                if (kvrt_session_eval(session, ids, lengths[l], NULL, 0, NULL, &error) < 0)
                    fail_msg("%s", error.message);
                assert_int_equal(kvi_session_enter_compute(session, &s, NULL), KVRT_OK);
                for (uint32_t i = 0; i < DRAFTS; i++, to += m.vocab)
                    if (kvi_ahead_draft(s, crowd_token(k + 1, i), &error) < 0 ||
                        s->engine->backend->read_logits(s->engine->device, 0, to, &error) < 0)
                        fail_msg("%s: %s", models[k], error.message);
                kvi_session_leave(s, KVI_DRIVE);
                kvrt_session_close(session, NULL);
            }
            kvrt_engine_close(engine, NULL);
        }
        for (uint32_t i = 0; i < m.vocab * DRAFTS * 4; i++) {
            const double apart = fabs((double)logits[0][i] - (double)logits[1][i]);
            if (!(apart <= worst)) worst = isnan(apart) ? INFINITY : apart;
            squares += (double)logits[0][i] * (double)logits[0][i];
        }
        print_message("%s: drafts apart by %g, limit %g\n", models[k], worst, limit(&m));
        assert_true(squares > 1);
        if (!(worst <= limit(&m))) fail_msg("%s: drafts apart by %g, need at most %g", models[k], worst, limit(&m));
        free(logits[0]), free(logits[1]);
        golden_free(&m);
    }
}

static void mutations_are_found(void **state)
{
    (void)state;
    static const char *const cases[][2] = {{"rope", "llama_gqa8_d64"},     {"mask", "llama_gqa8_d64"},
                                           {"rope", "llama_d128"},         {"renormalize", "qwen3_moe_d64"},
                                           {"clamp", "gpt_oss_mxfp4_d64"}, {"bias", "gpt_oss_d64"},
                                           {"decay", "qwen3_5_d64"},       {"conv_state", "qwen3_5_d64"},
                                           {"delta_gate", "qwen3_5_d64"},  {"shared_expert", "qwen3_5_moe_d64"},
                                           {"latent_norm", "deepseek_v2"}, {"score_scale", "deepseek_v3"},
                                           {"rope", "deepseek_v3"},        {"groups", "deepseek_v3"},
                                           {"mask", "glm4_moe_lite"}};
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        golden_model m;
        assert_true(golden_load(cases[i][1], &m));
        kvrt_engine engine = golden_on_cuda(&m, cases[i][0]);
        assert_non_null(engine);
        const double error = layer_error(engine, &m);
        if (!(error > 2 * limit(&m)))
            fail_msg("%s without %s: error %g would pass (limit %g)", cases[i][1], cases[i][0], error, limit(&m));
        kvrt_engine_close(engine, NULL);
        golden_free(&m);
    }
}

/* ---------------------------------------------------------------------------------------------- the bundled model --- */
/* A prompt of n tokens that reads like the model's own text: its greedy continuation of a few words, on the CPU. */
static void make_prompt(int32_t *ids, uint64_t n)
{
    const char *pairs[] = {"device.backend",
                           "cpu",
                           "sample.temperature",
                           "0",
                           "gen.ignore_eos",
                           "true",
                           "gen.max_tokens",
                           "600",
                           "kv.format",
                           "f16",
                           "ctx.size",
                           "1024",
                           NULL};
    kvrt_engine engine;
    kvrt_session s;
    uint64_t n_start, n_all;
    static int32_t all[1024];
    assert_int_equal(cuda_open(cuda_bundled_model(), pairs, &engine, NULL), KVRT_OK);
    assert_int_equal(kvrt_tokenize(engine, "Once upon a time", -1, 0, all, 16, &n_start, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_create(engine, NULL, &s, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_sync(s, all, n_start, NULL, NULL), KVRT_OK);
    assert_int_equal(kvrt_generate(s, NULL, NULL, NULL, NULL, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_tokens(s, all, 1024, &n_all, NULL), KVRT_OK);
    assert_true(n_all >= n);
    memcpy(ids, all, n * sizeof *ids);
    kvrt_engine_close(engine, NULL);
}

typedef struct story {
    int32_t ids[TEXT_TOKENS];
    float logits[TEXT_TOKENS][512]; /* (token, vocab) of each step */
} story;

/* Prefill of n tokens, then TEXT_TOKENS greedy steps of one token. `single`: times operations, which launches kernels one by one. */
static void tell(const char *backend, const char *format, const int32_t *prompt, uint64_t n, bool single, story *out)
{
    const char *pairs[] = {"device.backend",
                           backend,
                           "kv.format",
                           format,
                           "ctx.size",
                           "640",
                           "ctx.chunk",
                           "64",
                           "kv.tail",
                           "0",
                           "kv.round",
                           "plain", /* the same bytes: queries of two backends differ by roundings */
                           strcmp(format, "elastic") == 0 ? "kv.pool" : NULL,
                           "400KiB" /* of 480 that f16 would take: pages are demoted in place */,
                           NULL};
    kvrt_error error = {.size = sizeof error};
    kvrt_engine engine;
    kvrt_session s;
    if (cuda_open(cuda_bundled_model(), pairs, &engine, &error) < 0) fail_msg("%s", error.message);
    if (single) assert_int_equal(kvrt_measure_ops(engine, 1, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_create(engine, NULL, &s, NULL), KVRT_OK);
    const uint64_t allocations = cuda_emu.count("alloc");
    for (uint32_t i = 0; i < TEXT_TOKENS; i++) {
        const int32_t *ids = i ? &out->ids[i - 1] : prompt;
        if (kvrt_session_eval(s, ids, i ? 1 : n, NULL, 1, out->logits[i], &error) < 0)
            fail_msg("%s: %s", backend, error.message);
        out->ids[i] = 0;
        for (int32_t t = 1; t < 512; t++)
            if (out->logits[i][t] > out->logits[i][out->ids[i]]) out->ids[i] = t;
    }
    assert_int_equal(cuda_emu.count("alloc"), allocations); /* a step allocates nothing */
    kvrt_session_info info = {.size = sizeof info};
    assert_int_equal(kvrt_session_get_info(s, &info, NULL), KVRT_OK);
    if (strcmp(format, "elastic") == 0) assert_true(info.kv_bytes <= 400 * 1024 && info.n_packed_pages > 0);
    kvrt_engine_close(engine, NULL);
}

static double deviation(const float *x, uint32_t n)
{
    double sum = 0, squares = 0;
    for (uint32_t i = 0; i < n; i++) sum += (double)x[i], squares += (double)x[i] * (double)x[i];
    return sqrt(squares / n - sum / n * (sum / n));
}

/* Greedy text is the CPU's as long as the CPU's margin is wider than twice the error. */
static void compare_stories(const char *format, const story *cpu, const story *cuda)
{
    double worst = 0;
    for (uint32_t i = 0; i < TEXT_TOKENS; i++) {
        const double s = deviation(cpu->logits[i], 512), most = TOL_CUDA * (s > 1 ? s : 1);
        double error = 0, second = -INFINITY;
        for (uint32_t t = 0; t < 512; t++) {
            const double e = fabs((double)cuda->logits[i][t] - (double)cpu->logits[i][t]);
            if (!(e <= error)) error = isnan(e) ? INFINITY : e;
            if ((int32_t)t != cpu->ids[i] && (double)cpu->logits[i][t] > second) second = (double)cpu->logits[i][t];
        }
        if (error > worst) worst = error;
        if (!(error <= most)) fail_msg("%s, token %u: logit error %g, need at most %g", format, i, error, most);
        if (cuda->ids[i] != cpu->ids[i]) {
            if ((double)cpu->logits[i][cpu->ids[i]] - second > 2 * error)
                fail_msg("%s, token %u: found %d, need %d", format, i, cuda->ids[i], cpu->ids[i]);
            break; /* a tie: the texts part here */
        }
    }
    print_message("%s: largest logit error %g over %u tokens\n", format, worst, TEXT_TOKENS);
}

static void bundled_model_as_on_the_cpu(void **state)
{
    (void)state;
    static const char *const formats[] = {"f16", "i8", "k4v4", "k4v2", "elastic"};
    static story cpu, cuda, single;
    int32_t prompt[580];
    make_prompt(prompt, 580); /* five pages: the second split of decode attention has work */
    for (unsigned i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        tell("cpu", formats[i], prompt, 580, false, &cpu);
        tell("cuda", formats[i], prompt, 580, false, &cuda);
        compare_stories(formats[i], &cpu, &cuda);
        if (i % 2) continue;
        tell("cuda", formats[i], prompt, 580, true, &single); /* graphs and single launches: the same bits */
        assert_memory_equal(&single, &cuda, sizeof cuda);
    }
}

static void thread_orders_change_nothing(void **state)
{
    (void)state;
    static story first, other;
    int32_t prompt[300];
    make_prompt(prompt, 300);
    for (uint32_t seed = 0; seed < 4; seed++) {
        cuda_emu.seed(seed);
        tell("cuda", "k4v4", prompt, 300, false, seed ? &other : &first);
        if (seed) assert_memory_equal(&first, &other, sizeof first);
    }
    cuda_emu.seed(0);
}

/* ------------------------------------------------------------------------------------------------- hidden states --- */
/* What the head is given, by the public call: mean and last token of 130 and 300 tokens, of plain, mixed and recurrent models. */
static void hidden_states(void **state)
{
    (void)state;
    static const char *const names[] = {"llama_gqa8_d64", "gemma2_plain", "gpt_oss", "qwen3_5", "deepseek_v3"};
    for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
        golden_model m;
        uint32_t width;
        double most = 0;
        assert_true(golden_load(names[i], &m));
        float *rows = golden_hidden(&m, &width), *out = malloc(width * sizeof *out);
        const float *golden = rows + GOLDEN_HIDDEN_TOKENS * width;
        kvrt_engine engine = golden_on_cuda(&m, "");
        if (!engine) fail_msg("%s: refused", names[i]);
        kvrt_session s = golden_session(engine);
        for (unsigned k = 0; k < 4; k++, golden += width) {
            kvrt_error error = {.size = sizeof error};
            const golden_prompt *p = golden_prompt_of(&m, k < 2 ? 130 : 300);
            const kvrt_embed_params params = {
                .size = sizeof params, .pooling = k % 2 ? KVRT_POOL_LAST : KVRT_POOL_MEAN, .out = out, .cap = width};
            assert_int_equal(kvrt_session_sync(s, p->ids, p->n, NULL, NULL), KVRT_OK);
            if (kvrt_embed(s, &params, NULL, NULL, NULL, &error) < 0) fail_msg("%s: %s", names[i], error.message);
            for (uint32_t c = 0; c < width; c++) {
                const double d = fabs((double)out[c] - (double)golden[c]);
                if (!(d <= most)) most = isnan(d) ? INFINITY : d;
            }
        }
        print_message("%s: largest error of a hidden state %g, limit %g\n", names[i], most, limit(&m));
        if (!(most <= limit(&m))) fail_msg("%s: error %g, need at most %g", names[i], most, limit(&m));
        kvrt_engine_close(engine, NULL);
        golden_free(&m);
        free(rows);
        free(out);
    }
}

/* An argument names the tests to run. */
int main(int argc, char **argv)
{
    if (!cuda_find_driver()) return 77;
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(golden_models),
                                       cmocka_unit_test(golden_layers),
                                       cmocka_unit_test(hidden_states),
                                       cmocka_unit_test(golden_greedy_text),
                                       cmocka_unit_test(weights_rounded_at_open),
                                       cmocka_unit_test(sessions_share_steps),
                                       cmocka_unit_test(sixteen_sessions_share_steps),
                                       cmocka_unit_test(drafts_are_the_cpus),
                                       cmocka_unit_test(mutations_are_found),
                                       cmocka_unit_test(bundled_model_as_on_the_cpu),
                                       cmocka_unit_test(thread_orders_change_nothing)};
    return cmocka_run_group_tests_name("models, cuda", tests, NULL, NULL);
}
