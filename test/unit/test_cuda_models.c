/* test_cuda_models.c - whole models on the CUDA backend of the emulated device, through the public API: golden models and the bundled one
 * against the CPU, mutations, graphs against single launches, thread orders, and the promises to the host: its current context, its
 * memory, no allocation in a step, every failing allocation and a lost device. With KVRT_TEST_CARD set it runs on the card instead, without
 * what only the emulator can provoke. */
#include "golden_model.h"
#include "../emu/emu_control.h"
#include "../../kernels/cuda/cuda_api.h"

#include <dlfcn.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define TOL_CUDA 3e-2 /* times max(1, s): operands of 16 bits against f32 */
#define TEXT_TOKENS 32u

static char driver_path[1024]; /* empty: the system's, a card */
static bool on_card(void) { return !driver_path[0]; }
static struct {
    void (*seed)(uint32_t);
    void (*break_nth)(const char *, uint64_t);
    uint64_t (*count)(const char *);
} emu;

static void no_seed(uint32_t seed) { (void)seed; }
static uint64_t no_count(const char *what)
{
    (void)what;
    return 0;
}

static void *symbol(void *library, const char *name)
{
    void *address = dlsym(library, name);
    if (!address) fail_msg("%s: no %s", driver_path, name);
    return address;
}

static kvrt_options *options_for(const char *dir, const char *const *pairs)
{
    kvrt_options *o;
    kvrt_error error = {.size = sizeof error};
    assert_int_equal(kvrt_options_create(&o, NULL), KVRT_OK);
    assert_int_equal(kvrt_options_set_string(o, "model.path", dir, -1, NULL), KVRT_OK);
    assert_int_equal(kvrt_options_set_text(o, "debug.cuda_driver", driver_path, NULL), KVRT_OK);
    assert_int_equal(kvrt_options_set_text(o, "mem.reserve", "0", NULL), KVRT_OK);
    for (; pairs && *pairs; pairs += 2)
        if (kvrt_options_set_text(o, pairs[0], pairs[1], &error) < 0) fail_msg("%s", error.message);
    return o;
}

static kvrt_status open_on(const char *dir, const char *const *pairs, kvrt_engine *out, kvrt_error *error)
{
    kvrt_options *o = options_for(dir, pairs);
    kvrt_status status = kvrt_engine_open(o, NULL, NULL, out, error);
    kvrt_options_destroy(o);
    return status;
}

/* ------------------------------------------------------------------------------------------------- golden models --- */
static kvrt_engine golden_on_cuda(const golden_model *m, const char *disable)
{
    kvrt_error error = {.size = sizeof error};
    const char *pairs[] = {"device.backend", "cuda", "kv.format", "f16", "debug.disable", disable, NULL};
    kvrt_engine engine = NULL;
    kvrt_status status = open_on(m->dir, pairs, &engine, &error);
    if (status == KVRT_UNSUPPORTED && strstr(error.message, "head_dim")) return NULL; /* by name, at open */
    if (status < 0) fail_msg("%s: %s", m->dir, error.message);
    return engine;
}

static double limit(const golden_model *m) { return TOL_CUDA * (m->std > 1 ? m->std : 1); }

static void golden_models(void **state)
{
    (void)state;
    unsigned n = 0;
    for (unsigned i = 0; golden_name(i); i++) {
        golden_model m;
        assert_true(golden_load(golden_name(i), &m));
        kvrt_engine engine = golden_on_cuda(&m, "");
        if (engine) {
            const double error = golden_logit_error(engine, &m, NULL);
            n++;
            print_message("%s: largest logit error %g, limit %g\n", golden_name(i), error, limit(&m));
            if (!(error <= limit(&m))) fail_msg("%s: logit error %g, need at most %g", golden_name(i), error, limit(&m));
            kvrt_engine_close(engine);
        }
        golden_free(&m);
    }
    assert_true(n > 0);
}

static void mutations_are_found(void **state)
{
    (void)state;
    static const char *const cases[][2] = {{"rope", "llama_gqa8_d64"}, {"mask", "llama_gqa8_d64"}, {"rope", "llama_d128"}};
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        golden_model m;
        assert_true(golden_load(cases[i][1], &m));
        kvrt_engine engine = golden_on_cuda(&m, cases[i][0]);
        assert_non_null(engine);
        const double error = golden_logit_error(engine, &m, NULL);
        if (!(error > 2 * limit(&m))) fail_msg("%s without %s: error %g would pass (limit %g)", cases[i][1], cases[i][0], error, limit(&m));
        kvrt_engine_close(engine);
        golden_free(&m);
    }
}

/* ---------------------------------------------------------------------------------------------- the bundled model --- */
static const char *bundled(void)
{
    static char dir[1024];
    snprintf(dir, sizeof dir, "%s/../examples/models/storyteller-tiny", KVRT_TEST_DIR);
    return dir;
}

/* A prompt of n tokens that reads like the model's own text: its greedy continuation of a few words, on the CPU. */
static void make_prompt(int32_t *ids, uint64_t n)
{
    const char *pairs[] = {"device.backend", "cpu", "sample.temperature", "0", "gen.ignore_eos", "true", "gen.max_tokens", "600", "kv.format",
                           "f16", "ctx.size", "1024", NULL};
    kvrt_engine engine;
    kvrt_session s;
    uint64_t n_start, n_all;
    static int32_t all[1024];
    assert_int_equal(open_on(bundled(), pairs, &engine, NULL), KVRT_OK);
    assert_int_equal(kvrt_tokenize(engine, "Once upon a time", -1, 0, all, 16, &n_start, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_create(engine, NULL, &s, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_sync(s, all, n_start, NULL, NULL), KVRT_OK);
    assert_int_equal(kvrt_generate(s, NULL, NULL, NULL, NULL, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_tokens(s, all, 1024, &n_all, NULL), KVRT_OK);
    assert_true(n_all >= n);
    memcpy(ids, all, n * sizeof *ids);
    kvrt_engine_close(engine);
}

typedef struct story {
    int32_t ids[TEXT_TOKENS];
    float logits[TEXT_TOKENS][512]; /* (token, vocab) of each step */
} story;

/* Prefill of n tokens, then TEXT_TOKENS greedy steps of one token. `single`: times operations, which launches kernels one by one. */
static void tell(const char *backend, const char *format, const int32_t *prompt, uint64_t n, bool single, story *out)
{
    const char *pairs[] = {"device.backend", backend, "kv.format", format, "ctx.size", "640", "ctx.chunk", "64", "kv.tail", "0", NULL};
    kvrt_error error = {.size = sizeof error};
    kvrt_engine engine;
    kvrt_session s;
    if (open_on(bundled(), pairs, &engine, &error) < 0) fail_msg("%s", error.message);
    if (single) assert_int_equal(kvrt_measure_ops(engine, 1, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_create(engine, NULL, &s, NULL), KVRT_OK);
    const uint64_t allocations = emu.count("alloc");
    for (uint32_t i = 0; i < TEXT_TOKENS; i++) {
        const int32_t *ids = i ? &out->ids[i - 1] : prompt;
        if (kvrt_session_eval(s, ids, i ? 1 : n, NULL, 1, out->logits[i], &error) < 0) fail_msg("%s: %s", backend, error.message);
        out->ids[i] = 0;
        for (int32_t t = 1; t < 512; t++)
            if (out->logits[i][t] > out->logits[i][out->ids[i]]) out->ids[i] = t;
    }
    assert_int_equal(emu.count("alloc"), allocations); /* a step allocates nothing */
    kvrt_engine_close(engine);
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
    static const char *const formats[] = {"f16", "i8", "k4v4", "k4v2"};
    static story cpu, cuda, single;
    int32_t prompt[480];
    make_prompt(prompt, 480);
    for (unsigned i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        tell("cpu", formats[i], prompt, 480, false, &cpu);
        tell("cuda", formats[i], prompt, 480, false, &cuda);
        compare_stories(formats[i], &cpu, &cuda);
        if (i % 2) continue;
        tell("cuda", formats[i], prompt, 480, true, &single); /* graphs and single launches: the same bits */
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
        emu.seed(seed);
        tell("cuda", "k4v4", prompt, 300, false, seed ? &other : &first);
        if (seed) assert_memory_equal(&first, &other, sizeof first);
    }
    emu.seed(0);
}

/* ----------------------------------------------------------------------------------------------- a guest's promises --- */
static const char *const small[] = {"device.backend", "cuda", "kv.format", "k4v4", "ctx.size", "256", "gen.max_tokens", "4", "gen.ignore_eos", "true",
                                    NULL};

static kvrt_status generate(kvrt_engine engine, kvrt_error *error)
{
    kvrt_session s;
    const int32_t ids[5] = {10, 20, 30, 40, 50};
    assert_int_equal(kvrt_session_create(engine, NULL, &s, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_sync(s, ids, 5, NULL, NULL), KVRT_OK);
    kvrt_status status = kvrt_generate(s, NULL, NULL, NULL, NULL, error);
    kvrt_session_close(s);
    return status;
}

static void context_of_the_host_stays(void **state)
{
    (void)state;
    void *library = dlopen(on_card() ? "libcuda.so.1" : driver_path, RTLD_NOW | RTLD_LOCAL);
    assert_non_null(library);
    kvi_cu_result (*push)(kvi_cu_context), (*pop)(kvi_cu_context *), (*current)(kvi_cu_context *), (*retain)(kvi_cu_context *, kvi_cu_device),
        (*release)(kvi_cu_device);
    *(void **)&push = symbol(library, "cuCtxPushCurrent_v2");
    *(void **)&pop = symbol(library, "cuCtxPopCurrent_v2");
    *(void **)&current = symbol(library, "cuCtxGetCurrent");
    *(void **)&retain = symbol(library, "cuDevicePrimaryCtxRetain");
    *(void **)&release = symbol(library, "cuDevicePrimaryCtxRelease_v2");
    for (int with = 0; with < 2; with++) { /* without a current context, and with one */
        kvi_cu_context mine = NULL, seen = NULL;
        kvrt_engine engine;
        if (with) assert_true(retain(&mine, 0) == 0 && push(mine) == 0);
        assert_int_equal(open_on(bundled(), small, &engine, NULL), KVRT_OK);
        assert_true(current(&seen) == 0 && seen == mine);
        assert_true(generate(engine, NULL) >= 0);
        assert_true(current(&seen) == 0 && seen == mine);
        assert_int_equal(kvrt_engine_close(engine), KVRT_OK);
        assert_true(current(&seen) == 0 && seen == mine);
        if (with) assert_true(pop(&seen) == 0 && seen == mine && release(0) == 0);
    }
}

static void memory_returns(void **state)
{
    (void)state;
    void *library = dlopen(on_card() ? "libcuda.so.1" : driver_path, RTLD_NOW | RTLD_LOCAL);
    assert_non_null(library);
    kvi_cu_result (*push)(kvi_cu_context), (*pop)(kvi_cu_context *), (*retain)(kvi_cu_context *, kvi_cu_device), (*release)(kvi_cu_device),
        (*info)(size_t *, size_t *), (*init)(unsigned);
    *(void **)&push = symbol(library, "cuCtxPushCurrent_v2");
    *(void **)&pop = symbol(library, "cuCtxPopCurrent_v2");
    *(void **)&retain = symbol(library, "cuDevicePrimaryCtxRetain");
    *(void **)&release = symbol(library, "cuDevicePrimaryCtxRelease_v2");
    *(void **)&info = symbol(library, "cuMemGetInfo_v2");
    *(void **)&init = symbol(library, "cuInit");
    kvi_cu_context mine = NULL, seen;
    size_t before = 0, after = 0, total;
    assert_true(init(0) == 0 && retain(&mine, 0) == 0 && push(mine) == 0);
    for (int i = 0; i < (on_card() ? 101 : 4); i++) {
        kvrt_engine engine;
        assert_int_equal(open_on(bundled(), small, &engine, NULL), KVRT_OK);
        assert_true(generate(engine, NULL) >= 0);
        assert_int_equal(kvrt_engine_close(engine), KVRT_OK);
        assert_int_equal(info(i ? &after : &before, &total), 0); /* the first round is the driver's own */
    }
    assert_int_equal(before, after);
    assert_true(pop(&seen) == 0 && release(0) == 0);
}

static void every_failing_allocation(void **state)
{
    (void)state;
    if (on_card()) skip();
    const uint64_t objects = emu.count("objects");
    uint64_t nth = 0;
    kvrt_status status;
    do {
        kvrt_engine engine = NULL;
        kvrt_error error = {.size = sizeof error};
        emu.break_nth("alloc", ++nth);
        status = open_on(bundled(), small, &engine, &error);
        if (status < 0) {
            if (status != KVRT_NOMEM_DEVICE && status != KVRT_NOMEM_HOST) fail_msg("allocation %d: %s", (int)nth, error.message);
            assert_null(engine);
        } else assert_int_equal(kvrt_engine_close(engine), KVRT_OK);
        assert_int_equal(emu.count("objects"), objects);
        assert_true(nth < 100);
    } while (status < 0);
    emu.break_nth("alloc", 0);
    print_message("%d allocations, each failed in turn\n", (int)nth - 1);
    assert_true(nth > 4);
}

static void lost_device(void **state)
{
    (void)state;
    if (on_card()) skip();
    const uint64_t objects = emu.count("objects");
    kvrt_engine engine = NULL;
    kvrt_error error = {.size = sizeof error};
    assert_int_equal(open_on(bundled(), small, &engine, NULL), KVRT_OK);
    emu.break_nth("lost", 3);
    assert_int_equal(generate(engine, &error), KVRT_DEVICE_LOST);
    print_message("%s\n", error.message);
    kvrt_session s;
    const int32_t id = 1;
    kvrt_status status = kvrt_session_create(engine, NULL, &s, NULL);
    if (status >= 0) assert_int_equal(kvrt_session_eval(s, &id, 1, NULL, 0, NULL, NULL), KVRT_DEVICE_LOST);
    assert_int_equal(kvrt_engine_close(engine), KVRT_OK);
    assert_int_equal(emu.count("objects"), objects);
    emu.break_nth("lost", 0);
    assert_int_equal(open_on(bundled(), small, &engine, &error), KVRT_OK); /* a fresh open in the same process */
    assert_true(generate(engine, NULL) >= 0);
    assert_int_equal(kvrt_engine_close(engine), KVRT_OK);
}

static void refusals_have_names(void **state)
{
    (void)state;
    kvrt_engine engine = NULL;
    kvrt_error error = {.size = sizeof error};
    const char *no_driver[] = {"device.backend", "cuda", "debug.cuda_driver", "/nonexistent/libcuda.so.1", NULL};
    assert_int_equal(open_on(bundled(), no_driver, &engine, &error), KVRT_NO_DEVICE);
    assert_non_null(strstr(error.message, "no driver"));
    const char *no_card[] = {"device.backend", "cuda", "device.index", "63", NULL};
    assert_int_equal(open_on(bundled(), no_card, &engine, &error), KVRT_NO_DEVICE);
    assert_non_null(strstr(error.message, "device.index"));
    const char *f32_pages[] = {"device.backend", "cuda", "kv.format", "f32", NULL};
    assert_int_equal(open_on(bundled(), f32_pages, &engine, &error), KVRT_UNSUPPORTED);
    print_message("%s\n", error.message);
}

static bool find_driver(void)
{
    const char *build = getenv("KVRT_BUILD_DIR");
    emu.seed = no_seed;
    emu.count = no_count;
    if (getenv("KVRT_TEST_CARD")) return true;
    snprintf(driver_path, sizeof driver_path, "%s/libkvrt-emu-cuda.so", build ? build : "build");
    void *library = dlopen(driver_path, RTLD_NOW | RTLD_LOCAL);
    if (library) {
        *(void **)&emu.seed = dlsym(library, "kvrt_emu_seed");
        *(void **)&emu.break_nth = dlsym(library, "kvrt_emu_fail");
        *(void **)&emu.count = dlsym(library, "kvrt_emu_count");
    } else printf("skipped: %s\n", dlerror());
    return library && emu.seed && emu.break_nth && emu.count;
}

int main(void)
{
    if (!find_driver()) return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_models),           cmocka_unit_test(mutations_are_found),
        cmocka_unit_test(bundled_model_as_on_the_cpu), cmocka_unit_test(thread_orders_change_nothing),
        cmocka_unit_test(context_of_the_host_stays),   cmocka_unit_test(memory_returns),
        cmocka_unit_test(every_failing_allocation),    cmocka_unit_test(lost_device),
        cmocka_unit_test(refusals_have_names)};
    return cmocka_run_group_tests_name("models, cuda", tests, NULL, NULL);
}
