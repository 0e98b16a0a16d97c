/* test_cuda_matrix.c - what the CUDA backend must serve, tried on the emulated device: every family with a golden, every quantized folder, every
 * cache. Nothing of it may be refused. Logits are compared with the reference where the cache keeps 16 bits, within what quantized caches of random
 * models are held to elsewhere. With KVRT_TEST_CARD set it runs on the card instead. */
#include "golden_model.h"
#include "cuda_engine.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* BF16 operands; recurrent layers pass on some ten times of a rounding (test_cuda_models.c). */
#define TOL_16BIT 24e-2
#define LEFT_OUT 0.05 /* rows in which a router near a tie chose another expert */

static const char *const families[] = {"llama_gqa4_d32",  "llama_d80",
                                       "llama_yarn",      "llama_longrope",
                                       "mistral_window",  "ministral3",
                                       "qwen2",           "qwen3_bf16",
                                       "qwen2_moe",       "qwen3_moe",
                                       "qwen3_moe_fused", "qwen3_5",
                                       "qwen3_5_moe",     "qwen3_next",
                                       "gpt_oss",         "gpt_oss_mxfp4",
                                       "gemma2",          "gemma3",
                                       "gemma4",          "gemma4_e",
                                       "gemma4_moe",      "deepseek_v2_groups",
                                       "deepseek_v3",     "glm4_moe_lite",
                                       "glm4_moe",        "phi3",
                                       "phi3_longrope",   "smollm3",
                                       "mixtral",         "olmo2_gqa",
                                       "olmo3",           "olmoe",
                                       "granite4",        "granitemoe_shared"};
static const char *const folders[] = {"gptq_sym",       "gptq_group64",   "gptq_group128",
                                      "gptq_desc_act",  "gptq_v2_8bit",   "awq_gemm",
                                      "awq_gemv",       "packed_sym",     "packed_asym",
                                      "packed_8bit",    "packed_g_idx",   "int_channel",
                                      "naive_block",    "fp8_block",      "fp8_tensor",
                                      "fp8_ue8m0",      "float_channel",  "fbgemm_fp8",
                                      "mxfp4",          "mxfp8",          "nvfp4",
                                      "bnb_nf4_nested", "bnb_fp4",        "bnb_int8",
                                      "mlx_3bit",       "mlx_4bit",       "mlx_mixed",
                                      "experts_awq",    "experts_gptq",   "experts_gptq_desc_act",
                                      "experts_int",    "experts_packed", "experts_packed_g_idx"};
/* One of each kind of layer, and of heads that have kernels of their own and that have not. */
static const char *const kinds[] = {"llama_gqa8_d64",     "gemma3",       "gemma4",
                                    "gpt_oss_d64",        "qwen3_5_d64",  "qwen3_moe_d64",
                                    "deepseek_v2_groups", "glm4_moe_lite"};
static const char *const caches[] = {"f16", "bf16", "i8", "f8", "k8v4", "k4v4", "k4v2", "t3", "t2", "elastic"};
#define COUNT(a) (sizeof(a) / sizeof(a)[0])

static unsigned served;

static kvrt_engine open_or_fail(const char *dir, const char *cache)
{
    const char *pairs[] = {"device.backend", "cuda", "kv.format", cache, "kv.tail", "0",
                           "ctx.size",       "512",  "ctx.chunk", "64",  NULL};
    kvrt_error error = {.size = sizeof error};
    kvrt_engine engine = NULL;
    if (cuda_open(dir, pairs, &engine, &error) < 0) fail_msg("%s, %s: %s", dir, cache, error.message);
    served++;
    return engine;
}

static void compare(const char *name, const char *cache, double tolerance)
{
    golden_model m;
    if (!golden_load(name, &m)) fail_msg("%s: there is no such golden", name);
    kvrt_engine engine = open_or_fail(m.dir, cache);
    const double error = golden_row_error(engine, &m, LEFT_OUT, NULL), limit = golden_limit(&m, tolerance);
    print_message("%s, %s: largest logit error %g, limit %g\n", name, cache, error, limit);
    if (!(error <= limit)) fail_msg("%s, %s: logit error %g, need at most %g", name, cache, error, limit);
    kvrt_engine_close(engine, NULL);
    golden_free(&m);
}

static void families_are_served(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT(families); i++) compare(families[i], "f16", TOL_16BIT);
}

static void caches_are_served(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT(kinds); i++)
        for (unsigned c = 1; c < COUNT(caches); c++) /* all of them for plain heads and latents, else every third */
            if (i == 0 || i + 2 == COUNT(kinds) || (c + i) % 3 == 0)
                compare(kinds[i], caches[c], c == 1 ? 2 * TOL_16BIT : GOLDEN_QUANTIZED);
}

/* Other pairs of family and cache are opened alone: what has been computed of either is the same kernels. Three caches of each family, other ones
 * of the next. */
static void pairs_open(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT(families); i++)
        for (unsigned c = 1 + i % 3; c < COUNT(caches); c += 3) {
            golden_model m;
            if (!golden_load(families[i], &m)) fail_msg("%s: there is no such golden", families[i]);
            kvrt_engine_close(open_or_fail(m.dir, caches[c]), NULL);
            golden_free(&m);
        }
}

/* A quantized folder has the numbers of its library in unit.quantized; here the CPU computes with them, in f32. */
static void folders_are_served(void **state)
{
    (void)state;
    enum { N = 24 };
    for (unsigned i = 0; i < COUNT(folders); i++) {
        static float logits[2][N * 4096];
        char dir[1200];
        int32_t ids[N];
        uint32_t rows[N];
        uint32_t vocab = 0;
        kvrt_error error = {.size = sizeof error};
        snprintf(dir, sizeof dir, "%s/golden/quantized/%s", KVRT_TEST_DIR, folders[i]);
        for (unsigned on_cuda = 0; on_cuda < 2; on_cuda++) {
            const char *pairs[] = {"device.backend", "cpu",  "kv.format", "f16", "ctx.size", "512",
                                   "cpu.exact",      "true", NULL};
            kvrt_engine engine = NULL;
            kvrt_session session;
            kvrt_engine_info info = {.size = sizeof info};
            if (on_cuda) engine = open_or_fail(dir, "f16");
            else if (cuda_open(dir, pairs, &engine, &error) < 0) fail_msg("%s: %s", dir, error.message);
            assert_true(kvrt_engine_get_info(engine, &info, &error) >= 0);
            vocab = (uint32_t)info.vocab_size;
            assert_in_range(vocab, 8, 4096);
            for (uint32_t k = 0; k < N; k++) ids[k] = (int32_t)((k * 7 + 3) % vocab), rows[k] = k;
            assert_true(kvrt_session_create(engine, NULL, &session, &error) >= 0);
            if (kvrt_session_eval(session, ids, N, rows, N, logits[on_cuda], &error) < 0)
                fail_msg("%s: %s", dir, error.message);
            kvrt_engine_close(engine, NULL);
        }
        double squares = 0, apart = 0;
        for (uint32_t k = 0; k < N * vocab; k++) {
            squares += (double)logits[0][k] * (double)logits[0][k];
            apart += pow((double)logits[0][k] - (double)logits[1][k], 2);
        }
        const double relative = sqrt(apart / squares);
        print_message("%s: %g apart\n", folders[i], relative);
        if (!(relative <= 2e-2)) fail_msg("%s: logits %g apart, need at most 2e-2", folders[i], relative);
    }
}

static void count_is_not_zero(void **state)
{
    (void)state;
    print_message("%u engines served\n", served);
    assert_true(served >= 4 * COUNT(families) + COUNT(folders));
}

int main(int argc, char **argv)
{
    if (!cuda_find_driver()) return 77;
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(families_are_served), cmocka_unit_test(folders_are_served),
                                       cmocka_unit_test(caches_are_served), cmocka_unit_test(pairs_open),
                                       cmocka_unit_test(count_is_not_zero)};
    return cmocka_run_group_tests_name("matrix, cuda", tests, NULL, NULL);
}
