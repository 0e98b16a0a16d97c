/* test_embed.c - hidden states (kvrt_embed): against transformers' last_hidden_state, in any chunks, alone and beside generations, cancelled, and what
 * becomes of the session. */
#include "golden_model.h"
#include "../../runtime/engine/drive.h"
#include "../../runtime/engine/handle.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { TOKENS = GOLDEN_HIDDEN_TOKENS, WIDEST = 64 };
/* Those that have a hidden.bin. */
static const char *const names[] = {"llama_gqa2", "llama_gqa8_d64", "mistral_window", "qwen2",
                                    "qwen3_bf16", "qwen3_5",        "gemma2_plain",   "granite",
                                    "olmo2",      "mixtral_one",    "gpt_oss",        "deepseek_v3"};
#define N_NAMES (sizeof names / sizeof names[0])

typedef struct hidden {
    golden_model model;
    float *rows; /* (TOKENS + 4, width) tokens of the prompt of 17; mean, last of 130; mean, last of 300 */
    uint32_t width;
    double std;
} hidden;

static void load(const char *name, hidden *h)
{
    double sum = 0, squares = 0;
    assert_true(golden_load(name, &h->model));
    h->rows = golden_hidden(&h->model, &h->width);
    assert_true(h->width <= WIDEST);
    const size_t n = (size_t)h->width * (TOKENS + 4);
    for (size_t i = 0; i < n; i++) sum += h->rows[i], squares += (double)h->rows[i] * h->rows[i];
    h->std = sqrt(squares / (double)n - sum / (double)n * (sum / (double)n));
}

static void unload(hidden *h)
{
    free(h->rows);
    golden_free(&h->model);
}

static void sync_to(kvrt_session s, const golden_prompt *p)
{
    assert_int_equal(kvrt_session_sync(s, p->ids, p->n, NULL, NULL), KVRT_OK);
}

static void embed(kvrt_session s, int32_t pooling, bool normalize, float *out, uint64_t cap, kvrt_result *result)
{
    kvrt_error error = {.size = sizeof error};
    const kvrt_embed_params params = {
        .size = sizeof params, .pooling = pooling, .normalize = normalize, .out = out, .cap = cap};
    kvrt_result own = {.size = sizeof own};
    if (kvrt_embed(s, &params, NULL, NULL, result ? result : &own, &error) != KVRT_OK) fail_msg("%s", error.message);
}

static double differ(const float *a, const float *b, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        const double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= most)) most = d;
        if (isnan(d)) return INFINITY;
    }
    return most;
}

/* ---------------------------------------------------------------------------------------------------------- values --- */
static void rows_are_those_of_transformers(void **state)
{
    (void)state;
    static const char *const chunks[] = {"512", "64", "7", "1"};
    for (unsigned i = 0; i < N_NAMES; i++)
        for (unsigned k = 0; k < 4; k++) {
            hidden h;
            float out[TOKENS * WIDEST];
            load(names[i], &h);
            const char *pairs[] = {"kv.format", "f32", "ctx.chunk", chunks[k], NULL};
            kvrt_engine engine = golden_open(&h.model, pairs);
            kvrt_session s = golden_session(engine);
            const double most = GOLDEN_F32_CACHE * fmax(1, h.std);
            const float *golden = h.rows;
            sync_to(s, golden_prompt_of(&h.model, TOKENS));
            embed(s, KVRT_POOL_TOKENS, false, out, TOKENS * h.width, NULL);
            double d = differ(out, golden, (size_t)TOKENS * h.width);
            if (!(d <= most)) fail_msg("%s, chunk %s, tokens: differ by %g, most %g", names[i], chunks[k], d, most);
            golden += TOKENS * h.width;
            for (unsigned p = 0; p < 2; p++)
                for (unsigned pooling = KVRT_POOL_MEAN; pooling <= KVRT_POOL_LAST; pooling++, golden += h.width) {
                    sync_to(s, golden_prompt_of(&h.model, p ? 300 : 130));
                    embed(s, (int32_t)pooling, false, out, h.width, NULL);
                    d = differ(out, golden, h.width);
                    if (!(d <= most))
                        fail_msg("%s, chunk %s, pooling %u of %s: differ by %g, most %g", names[i], chunks[k], pooling,
                                 p ? "300" : "130", d, most);
                }
            kvrt_engine_close(engine, NULL);
            unload(&h);
        }
}

/* The mean and the last of the rows, and norms, in double precision from TOKENS of the same engine. */
static void pooling_and_norm(void **state)
{
    (void)state;
    static const char *const pairs[] = {"kv.format", "k4v4", "ctx.chunk", "64", NULL};
    hidden h;
    load("llama_gqa2", &h);
    kvrt_engine engine = golden_open(&h.model, pairs);
    kvrt_session s = golden_session(engine);
    const golden_prompt *p = golden_prompt_of(&h.model, 300);
    float *all = malloc(300u * h.width * sizeof *all), *unit = malloc(300u * h.width * sizeof *unit), one[WIDEST];
    sync_to(s, p);
    embed(s, KVRT_POOL_TOKENS, false, all, 300u * h.width, NULL);
    embed(s, KVRT_POOL_TOKENS, true, unit, 300u * h.width, NULL);
    for (uint32_t t = 0; t < 300; t++) {
        double squares = 0;
        for (uint32_t i = 0; i < h.width; i++) squares += (double)all[t * h.width + i] * all[t * h.width + i];
        for (uint32_t i = 0; i < h.width; i++)
            assert_true(fabs(unit[t * h.width + i] - all[t * h.width + i] / sqrt(squares)) < 1e-6);
    }
    embed(s, KVRT_POOL_LAST, false, one, h.width, NULL);
    assert_memory_equal(one, all + 299 * h.width, h.width * sizeof *one);
    embed(s, KVRT_POOL_MEAN, false, one, h.width, NULL);
    for (uint32_t i = 0; i < h.width; i++) {
        double mean = 0;
        for (uint32_t t = 0; t < 300; t++) mean += (double)all[t * h.width + i] / 300;
        assert_true(fabs(one[i] - mean) < 1e-5);
    }
    embed(s, KVRT_POOL_MEAN, true, one, h.width, NULL);
    double squares = 0;
    for (uint32_t i = 0; i < h.width; i++) squares += (double)one[i] * one[i];
    assert_true(fabs(squares - 1) < 1e-5);
    free(all);
    free(unit);
    kvrt_engine_close(engine, NULL);
    unload(&h);
}

/* --------------------------------------------------------------------------------------------------------- session --- */
/* LAST takes what is there; what a text goes on with is as if nobody had asked. */
static void session_stays(void **state)
{
    (void)state;
    static const char *const pairs[] = {"kv.format", "f16", "sample.temperature", "0", "gen.max_tokens", "8", NULL};
    hidden h;
    load("qwen3_5", &h); /* with states, which are cut to a checkpoint */
    kvrt_engine engine = golden_open(&h.model, pairs);
    const golden_prompt *p = golden_prompt_of(&h.model, 130);
    int32_t ids[2][200];
    float out[2][WIDEST];
    for (unsigned k = 0; k < 2; k++) {
        kvrt_session s = golden_session(engine);
        kvrt_result result = {.size = sizeof result};
        uint64_t n = 0;
        sync_to(s, p);
        embed(s, KVRT_POOL_LAST, false, out[0], h.width, &result);
        assert_int_equal(result.n_prompt, 130);
        assert_int_equal(result.n_generated, 0);
        assert_int_equal(result.finish, KVRT_FINISH_LENGTH);
        embed(s, KVRT_POOL_LAST, false, out[1], h.width, &result);
        assert_true(result.n_reused >= 128 && result.n_reused < 130);
        assert_memory_equal(out[0], out[1], h.width * sizeof(float));
        if (k) embed(s, KVRT_POOL_MEAN, true, out[1], h.width, &result);
        if (k) assert_int_equal(result.n_reused, 0);
        assert_int_equal(golden_session_info(s).n_tokens, 130);
        assert_int_equal(golden_session_info(s).n_cached, 130);
        assert_int_equal(kvrt_generate(s, NULL, NULL, NULL, NULL, NULL), KVRT_OK);
        assert_int_equal(kvrt_session_tokens(s, ids[k], 200, &n, NULL), KVRT_OK);
        assert_int_equal(n, 138);
        kvrt_session_close(s, NULL);
    }
    assert_memory_equal(ids[0], ids[1], 138 * sizeof ids[0][0]);
    kvrt_engine_close(engine, NULL);
    unload(&h);
}

static int32_t stop(const kvrt_event *event, void *user)
{
    (void)user;
    return event->type == KVRT_EVENT_PREFILL_PROGRESS && event->done >= 128 ? KVRT_STOP : KVRT_CONTINUE;
}

static void what_is_refused(void **state)
{
    (void)state;
    static const char *const pairs[] = {"kv.format", "f16", "ctx.chunk", "64", NULL};
    hidden h;
    load("llama_gqa2", &h);
    kvrt_engine engine = golden_open(&h.model, pairs);
    kvrt_session s = golden_session(engine);
    float out[2][WIDEST] = {{0}};
    kvrt_error error = {.size = sizeof error};
    kvrt_embed_params p = {.size = sizeof p, .pooling = KVRT_POOL_MEAN, .out = out[0], .cap = h.width};
    assert_int_equal(kvrt_embed(s, &p, NULL, NULL, NULL, &error), KVRT_STATE);
    sync_to(s, golden_prompt_of(&h.model, 300));
    assert_int_equal(kvrt_embed(s, NULL, NULL, NULL, NULL, &error), KVRT_ARG);
    p.cap = h.width - 1;
    assert_int_equal(kvrt_embed(s, &p, NULL, NULL, NULL, &error), KVRT_ARG);
    assert_non_null(strstr(error.message, "room for 47 numbers, need 48"));
    p.cap = h.width, p.pooling = KVRT_POOL_TOKENS;
    assert_int_equal(kvrt_embed(s, &p, NULL, NULL, NULL, &error), KVRT_ARG);
    assert_non_null(strstr(error.message, "need 14400"));
    p.pooling = 4;
    assert_int_equal(kvrt_submit_embed(s, &p, NULL, &error), KVRT_ARG);
    p.pooling = 0;
    assert_int_equal(kvrt_embed(s, &p, NULL, NULL, NULL, &error), KVRT_ARG);
    p.pooling = KVRT_POOL_MEAN, p.out = NULL;
    assert_int_equal(kvrt_embed(s, &p, NULL, NULL, NULL, &error), KVRT_ARG);
    /* Stopped half-way, and asked again. */
    p.out = out[0];
    assert_int_equal(kvrt_embed(s, &p, NULL, NULL, NULL, &error), KVRT_OK);
    p.out = out[1];
    assert_int_equal(kvrt_embed(s, &p, stop, NULL, NULL, &error), KVRT_CANCELLED);
    assert_int_equal(golden_session_info(s).n_tokens, 300);
    assert_true(golden_session_info(s).n_cached < 300);
    assert_int_equal(kvrt_embed(s, &p, NULL, NULL, NULL, &error), KVRT_OK);
    assert_memory_equal(out[0], out[1], h.width * sizeof(float));
    kvrt_engine_close(engine, NULL);
    unload(&h);
}

/* ------------------------------------------------------------------------------------------------------------ beside --- */
/* Submitted beside generations, in steps of a budget: the same numbers, and theirs are the same texts; a cancelled one ends with an error. */
static void beside_others(void **state)
{
    (void)state;
    static const char *const pairs[] = {"kv.format",
                                        "f16",
                                        "ctx.chunk",
                                        "64",
                                        "ctx.sessions",
                                        "4",
                                        "sample.temperature",
                                        "0",
                                        "gen.max_tokens",
                                        "40",
                                        "gen.ignore_eos",
                                        "true",
                                        NULL};
    enum { N = 4 };
    static const char *const models[] = {"llama_gqa2", "qwen3_5"};
    for (unsigned m = 0; m < 2; m++) {
        hidden h;
        load(models[m], &h);
        kvrt_engine engine = golden_open(&h.model, pairs);
        kvrt_session s[N];
        float alone[WIDEST], together[2][WIDEST] = {{0}};
        int32_t ids[2][512];
        uint64_t n[2], requests[N], over = 0;
        kvrt_event event = {.size = sizeof event};
        sync_to(s[0] = golden_session(engine), golden_prompt_of(&h.model, 300));
        embed(s[0], KVRT_POOL_MEAN, true, alone, h.width, NULL);
        sync_to(s[1] = golden_session(engine), golden_prompt_of(&h.model, 17));
        assert_int_equal(kvrt_generate(s[1], NULL, NULL, NULL, NULL, NULL), KVRT_OK);
        assert_int_equal(kvrt_session_tokens(s[1], ids[0], 512, &n[0], NULL), KVRT_OK);
        sync_to(s[1], golden_prompt_of(&h.model, 17));
        sync_to(s[2] = golden_session(engine), golden_prompt_of(&h.model, 130));
        sync_to(s[3] = golden_session(engine), golden_prompt_of(&h.model, 300));
        assert_int_equal(kvrt_submit(s[1], NULL, &requests[1], NULL), KVRT_OK);
        for (unsigned i = 0; i < 2; i++) {
            const kvrt_embed_params p = {
                .size = sizeof p, .pooling = KVRT_POOL_MEAN, .normalize = 1, .out = together[i], .cap = h.width};
            assert_int_equal(kvrt_submit_embed(s[i ? 3 : 0], &p, &requests[i ? 3 : 0], NULL), KVRT_OK);
        }
        assert_int_equal(kvrt_submit(s[2], NULL, &requests[2], NULL), KVRT_OK);
        assert_int_equal(kvrt_session_sync(s[0], ids[0], 3, NULL, NULL), KVRT_STATE);
        for (unsigned round = 0; kvrt_step(engine, 1, NULL) != KVRT_DONE; round++) {
            if (round == 3) kvrt_cancel_id(requests[3]);
            while (kvrt_poll(engine, &event, NULL) == KVRT_OK) {
                over += event.type == KVRT_EVENT_DONE || event.type == KVRT_EVENT_ERROR;
                if (event.type == KVRT_EVENT_ERROR) assert_int_equal(event.request, requests[3]);
                if (event.type == KVRT_EVENT_ERROR) assert_int_equal(event.status, KVRT_CANCELLED);
            }
        }
        while (kvrt_poll(engine, &event, NULL) == KVRT_OK)
            over += event.type == KVRT_EVENT_DONE || event.type == KVRT_EVENT_ERROR;
        assert_int_equal(over, N);
        assert_memory_equal(alone, together[0], h.width * sizeof(float));
        assert_int_equal(kvrt_session_tokens(s[1], ids[1], 512, &n[1], NULL), KVRT_OK);
        assert_int_equal(n[0], n[1]);
        assert_memory_equal(ids[0], ids[1], n[0] * sizeof ids[0][0]);
        kvrt_engine_close(engine, NULL);
        unload(&h);
    }
}

/* A text in progress goes on as it would have, what it withholds included. */
static void text_goes_on(void **state)
{
    (void)state;
    static const char *const pairs[] = {
        "kv.format", "f32", "sample.temperature", "0", "gen.max_tokens", "5", "gen.ignore_eos", "true", NULL};
    hidden h;
    load("llama_gqa2", &h);
    kvrt_engine engine = golden_open(&h.model, pairs);
    int32_t ids[2][64];
    for (unsigned k = 0; k < 2; k++) {
        kvrt_session s = golden_session(engine);
        float out[WIDEST];
        uint64_t n;
        sync_to(s, golden_prompt_of(&h.model, 17));
        kvrt_session_info info = golden_session_info(s);
        for (unsigned call = 0; call < 3; call++) {
            assert_int_equal(kvrt_generate(s, NULL, NULL, NULL, NULL, NULL), KVRT_OK);
            if (k) embed(s, KVRT_POOL_MEAN, false, out, h.width, NULL);
            info = golden_session_info(s);
            assert_int_equal(info.n_tokens, 17 + 5 * (call + 1));
        }
        assert_int_equal(kvrt_session_tokens(s, ids[k], 64, &n, NULL), KVRT_OK);
    }
    assert_memory_equal(ids[0], ids[1], 32 * sizeof ids[0][0]);
    kvrt_engine_close(engine, NULL);
    unload(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_are_those_of_transformers),
                                       cmocka_unit_test(pooling_and_norm),
                                       cmocka_unit_test(session_stays),
                                       cmocka_unit_test(what_is_refused),
                                       cmocka_unit_test(beside_others),
                                       cmocka_unit_test(text_goes_on)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
