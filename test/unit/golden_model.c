/* golden_model.c - see golden_model.h. */
#include "golden_model.h"
#include "../../runtime/base/json.h"
#include "../../runtime/base/os.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const char *const names[] = {
    "llama_mha",  "llama_gqa2",      "llama_gqa4_d32", "llama_gqa8_d64", "llama_d80",      "llama_d128", "llama_rope3",
    "llama_bias", "llama_head_only", "llama_sharded",  "mistral",        "mistral_window", "qwen2",      "qwen2_window",
    "qwen3",      "qwen3_bf16",      "llama_mlp_bias", "qwen3_5",        "qwen3_5_nested", "qwen3_5_odd"};
const char *golden_name(unsigned index) { return index < sizeof names / sizeof names[0] ? names[index] : NULL; }

static uint32_t read_list(kvi_json *r, int32_t *ints, uint32_t *unsigned_ints, double *reals, uint32_t cap)
{
    uint32_t n = 0;
    kvi_json_expect(r, KVI_JSON_ARRAY);
    while (kvi_json_next_item(r) && n < cap) {
        if (ints) ints[n++] = (int32_t)kvi_json_i64(r);
        else if (unsigned_ints) unsigned_ints[n++] = (uint32_t)kvi_json_i64(r);
        else reals[n++] = kvi_json_f64(r);
    }
    return n;
}

static void read_prompt(kvi_json *r, golden_prompt *p)
{
    kvi_json_expect(r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(r)) {
        if (kvi_json_key_is(r, "ids")) p->n = read_list(r, p->ids, NULL, NULL, 512);
        else if (kvi_json_key_is(r, "rows")) p->n_rows = read_list(r, NULL, p->rows, NULL, 64);
        else if (kvi_json_key_is(r, "greedy")) p->n_greedy = read_list(r, p->greedy, NULL, NULL, 64);
        else if (kvi_json_key_is(r, "margin")) read_list(r, NULL, NULL, p->margin, 64);
        else kvi_json_skip(r);
    }
}

bool golden_load(const char *name, golden_model *out)
{
    char path[600];
    kvi_map json = {0}, bin = {0};
    memset(out, 0, sizeof *out);
    snprintf(out->dir, sizeof out->dir, "%s/golden/models/%s", KVRT_TEST_DIR, name);
    snprintf(path, sizeof path, "%s/golden.json", out->dir);
    if (kvi_os_map(path, &kvi_mem_copies, &json, NULL) < KVRT_OK) return false;
    kvi_json r;
    kvi_json_init(&r, (const char *)json.data, json.len);
    kvi_json_expect(&r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(&r)) {
        if (kvi_json_key_is(&r, "vocab")) out->vocab = (uint32_t)kvi_json_i64(&r);
        else if (kvi_json_key_is(&r, "std")) out->std = kvi_json_f64(&r);
        else if (kvi_json_key_is(&r, "prompts")) {
            kvi_json_expect(&r, KVI_JSON_ARRAY);
            while (kvi_json_next_item(&r) && out->n_prompts < GOLDEN_MAX_PROMPTS)
                read_prompt(&r, &out->prompts[out->n_prompts++]);
        } else kvi_json_skip(&r);
    }
    bool ok = kvi_json_end(&r);
    snprintf(path, sizeof path, "%s/golden.bin", out->dir);
    ok = ok && kvi_os_map(path, &kvi_mem_copies, &bin, NULL) >= KVRT_OK;
    uint64_t floats = 0;
    for (uint32_t i = 0; i < out->n_prompts; i++) floats += (uint64_t)out->prompts[i].n_rows * out->vocab;
    ok = ok && bin.len == floats * 4;
    if (ok) {
        out->blob = malloc(bin.len);
        memcpy(out->blob, bin.data, bin.len);
        const float *at = out->blob;
        for (uint32_t i = 0; i < out->n_prompts; at += (size_t)out->prompts[i].n_rows * out->vocab, i++)
            out->prompts[i].logits = at;
    }
    kvi_os_unmap(&json);
    kvi_os_unmap(&bin);
    return ok;
}

float *golden_hidden(const golden_model *model, uint32_t *width)
{
    char path[600];
    kvi_map bin = {0};
    snprintf(path, sizeof path, "%s/hidden.bin", model->dir);
    if (kvi_os_map(path, &kvi_mem_copies, &bin, NULL) < KVRT_OK) fail_msg("%s is not there", path);
    *width = (uint32_t)(bin.len / sizeof(float) / (GOLDEN_HIDDEN_TOKENS + 4));
    assert_int_equal(bin.len, (uint64_t)*width * (GOLDEN_HIDDEN_TOKENS + 4) * sizeof(float));
    float *rows = malloc(bin.len);
    memcpy(rows, bin.data, bin.len);
    kvi_os_unmap(&bin);
    return rows;
}

const golden_prompt *golden_prompt_of(const golden_model *model, uint32_t n)
{
    for (uint32_t i = 0; i < model->n_prompts; i++)
        if (model->prompts[i].n == n) return &model->prompts[i];
    fail_msg("%s has no prompt of %u tokens", model->dir, n);
    return NULL;
}

void golden_free(golden_model *model) { free(model->blob); }

kvrt_engine golden_open_tiny(const char *const *pairs)
{
    golden_model tiny = {0};
    snprintf(tiny.dir, sizeof tiny.dir, "%s/../examples/models/storyteller-tiny", KVRT_TEST_DIR);
    return golden_open(&tiny, pairs);
}

kvrt_options *golden_options(const char *const *pairs)
{
    kvrt_options *o;
    kvrt_error error = {.size = sizeof error};
    assert_int_equal(kvrt_options_create(&o, NULL), KVRT_OK);
    for (; *pairs; pairs += 2)
        if (kvrt_options_set_text(o, pairs[0], pairs[1], &error) < KVRT_OK) fail_msg("%s", error.message);
    return o;
}

kvrt_status golden_try_open(const char *const *pairs, kvrt_engine *out, kvrt_error *error)
{
    kvrt_options *o = golden_options(pairs);
    const kvrt_status status = kvrt_engine_open(o, NULL, NULL, out, error);
    kvrt_options_destroy(o);
    return status;
}

kvrt_engine golden_open(const golden_model *model, const char *const *pairs)
{
    kvrt_error error = {.size = sizeof error};
    kvrt_options *options;
    kvrt_engine engine = NULL;
    assert_int_equal(kvrt_options_create(&options, &error), KVRT_OK);
    kvrt_options_set_string(options, "model.path", model->dir, -1, &error);
    kvrt_options_set_text(options, "device.backend", "cpu",
                          &error); /* `pairs` may say otherwise; a card in the machine does not */
    kvrt_options_set_text(options, "cpu.exact", "true", &error); /* so that they are held to the limits of f32 */
    for (; pairs && *pairs; pairs += 2)
        if (kvrt_options_set_text(options, pairs[0], pairs[1], &error) < 0) fail_msg("%s", error.message);
    if (kvrt_engine_open(options, NULL, NULL, &engine, &error) < 0) fail_msg("%s: %s", model->dir, error.message);
    kvrt_options_destroy(options);
    return engine;
}

kvrt_session golden_session(kvrt_engine engine)
{
    kvrt_session session;
    kvrt_error error = {.size = sizeof error};
    if (kvrt_session_create(engine, NULL, &session, &error) < KVRT_OK) fail_msg("%s", error.message);
    return session;
}

kvrt_session_info golden_session_info(kvrt_session session)
{
    kvrt_session_info info = {.size = sizeof info};
    assert_int_equal(kvrt_session_get_info(session, &info, NULL), KVRT_OK);
    return info;
}

kvrt_memory golden_memory(kvrt_engine engine)
{
    kvrt_memory memory = {.size = sizeof memory};
    assert_int_equal(kvrt_mem_info(engine, &memory, NULL), KVRT_OK);
    return memory;
}

kvrt_session golden_session_with(kvrt_engine engine, uint32_t story, uint32_t n)
{
    int32_t ids[600];
    kvrt_session s = golden_session(engine);
    for (uint32_t i = 0; i < n; i++) ids[i] = (int32_t)(2 + (i * 31 + story * 17) % 90);
    assert_int_equal(kvrt_session_sync(s, ids, n, NULL, NULL), KVRT_OK);
    return s;
}

void golden_note(const kvrt_event *event, uint64_t *digest)
{
    uint32_t bits;
    memcpy(&bits, &event->logprob, sizeof bits);
    if (event->type == KVRT_EVENT_TOKEN) *digest = (*digest ^ (uint32_t)event->token ^ bits) * 1099511628211u;
}

static int32_t note(const kvrt_event *event, void *user)
{
    golden_note(event, user);
    return KVRT_CONTINUE;
}

uint64_t golden_generate(kvrt_session session, kvrt_options *options)
{
    uint64_t digest = 1;
    kvrt_error error = {.size = sizeof error};
    if (kvrt_generate(session, options, note, &digest, NULL, &error) < KVRT_OK) fail_msg("%s", error.message);
    kvrt_options_destroy(options);
    return digest;
}

uint64_t golden_limit_for(kvrt_engine engine, uint64_t pool)
{
    const kvrt_memory m = golden_memory(engine);
    return m.planned_bytes - m.kv_pool_bytes + pool;
}

static int larger_first(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

double golden_row_error(kvrt_engine engine, const golden_model *model, double part, uint64_t *digest)
{
    kvrt_error error = {.size = sizeof error};
    double worst[GOLDEN_MAX_PROMPTS * 64] = {0};
    uint32_t rows = 0;
    for (uint32_t i = 0; i < model->n_prompts; i++) {
        const golden_prompt *p = &model->prompts[i];
        kvrt_session session;
        size_t n = (size_t)p->n_rows * model->vocab;
        float *logits = malloc(n * sizeof *logits);
        assert_int_equal(kvrt_session_create(engine, NULL, &session, &error), KVRT_OK);
        if (kvrt_session_eval(session, p->ids, p->n, p->rows, p->n_rows, logits, &error) < 0)
            fail_msg("%s", error.message);
        for (size_t k = 0; k < n; k++) {
            const double e = fabs((double)logits[k] - (double)p->logits[k]);
            double *row = &worst[rows + k / model->vocab];
            if (!(e <= *row)) *row = isnan(e) ? INFINITY : e;
            if (digest) {
                uint32_t bits;
                memcpy(&bits, &logits[k], 4);
                *digest = (*digest ^ bits) * 1099511628211u;
            }
        }
        rows += p->n_rows;
        free(logits);
        kvrt_session_close(session, NULL);
    }
    qsort(worst, rows, sizeof *worst, larger_first);
    return worst[(uint32_t)(rows * part)];
}

double golden_logit_error(kvrt_engine engine, const golden_model *model, uint64_t *digest)
{
    return golden_row_error(engine, model, 0, digest);
}

unsigned golden_greedy(kvrt_engine engine, const golden_model *model, double error)
{
    unsigned compared = 0;
    for (uint32_t p = 0; p < model->n_prompts; p++) {
        const golden_prompt *prompt = &model->prompts[p];
        kvrt_session session;
        int32_t ids[600];
        uint64_t n;
        assert_int_equal(kvrt_session_create(engine, NULL, &session, NULL), KVRT_OK);
        assert_int_equal(kvrt_session_sync(session, prompt->ids, prompt->n, NULL, NULL), KVRT_OK);
        assert_int_equal(kvrt_generate(session, NULL, NULL, NULL, NULL, NULL), KVRT_OK);
        assert_int_equal(kvrt_session_tokens(session, ids, 600, &n, NULL), KVRT_OK);
        assert_int_equal(n, prompt->n + 16);
        for (uint32_t k = 0; k < prompt->n_greedy && prompt->margin[k] > 2 * error; k++, compared++)
            if (ids[prompt->n + k] != prompt->greedy[k])
                fail_msg("%s, prompt of %u: token %u is %d, need %d", model->dir, prompt->n, k, ids[prompt->n + k],
                         prompt->greedy[k]);
        kvrt_session_close(session, NULL);
    }
    return compared;
}

/* ------------------------------------------------------------------------------------------- what every golden must do --- */
double golden_limit(const golden_model *m, double tolerance) { return tolerance * (m->std > 1 ? m->std : 1); }

/* The error with these options, and what the tolerance allows. */
static double error_with(const char *name, double tolerance, const char *const *pairs, uint64_t *digest, double *most)
{
    golden_model m;
    assert_true(golden_load(name, &m));
    kvrt_engine engine = golden_open(&m, pairs);
    const double error = golden_logit_error(engine, &m, digest);
    *most = golden_limit(&m, tolerance);
    kvrt_engine_close(engine, NULL);
    golden_free(&m);
    return error;
}

void golden_expect(const char *name, double tolerance, const char *const *pairs, uint64_t *digest)
{
    double most;
    const double error = error_with(name, tolerance, pairs, digest, &most);
    if (!(error <= most))
        fail_msg("%s, %s %s, %s %s: logit error %g, need at most %g", name, pairs[0], pairs[1],
                 pairs[2] ? pairs[2] : "", pairs[2] ? pairs[3] : "", error, most);
}

void golden_expect_chunks_and_threads(const char *name)
{
    static const char *const chunks[] = {"1", "7", "64", "512"}, *const threads[] = {"2", "1", "2"};
    for (unsigned k = 0; k < 4; k++) {
        uint64_t digests[3] = {0};
        for (unsigned run = 0; run < 3; run++) {
            const char *pairs[] = {"kv.format", "f32", "ctx.chunk", chunks[k], "cpu.threads", threads[run], NULL};
            golden_expect(name, GOLDEN_F32_CACHE, pairs, &digests[run]);
        }
        if (digests[0] != digests[1]) fail_msg("%s, chunk %s: 1 and 2 threads differ", name, chunks[k]);
        if (digests[0] != digests[2]) fail_msg("%s, chunk %s: two runs differ", name, chunks[k]);
    }
}

void golden_expect_greedy(const char *name)
{
    static const char *const pairs[] = {
        "kv.format", "f32", "sample.temperature", "0", "gen.max_tokens", "16", "gen.ignore_eos", "true", NULL};
    golden_model m;
    assert_true(golden_load(name, &m));
    kvrt_engine engine = golden_open(&m, pairs);
    (void)golden_greedy(engine, &m, golden_logit_error(engine, &m, NULL));
    kvrt_engine_close(engine, NULL);
    golden_free(&m);
}

void golden_expect_failure_without(const char *name, const char *part)
{
    const char *pairs[] = {"kv.format", "f32", "debug.disable", part, NULL};
    double most;
    const double error = error_with(name, GOLDEN_F16_CACHE, pairs, NULL, &most);
    if (!(error > 2 * most)) fail_msg("%s without %s: error %g would pass (limit %g)", name, part, error, most);
}

void golden_expect_rotation_cancels(const char *name)
{
    static const char *const off[] = {"kv.format", "f32", "kv.rotate", "false", NULL};
    golden_expect(name, GOLDEN_F32_CACHE, off, NULL);
}
