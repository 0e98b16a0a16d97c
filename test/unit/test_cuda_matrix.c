/* test_cuda_matrix.c - what the CUDA backend must serve, tried on the emulated device: every family with a golden, every quantized folder, every
 * type of a GGUF file, every cache. Nothing of it may be refused. Logits are compared with the reference where the cache keeps 16 bits, within what quantized caches of random
 * models are held to elsewhere. With KVRT_TEST_CARD set it runs on the card instead. */
#define _POSIX_C_SOURCE 200809L /* mkdtemp */
#include "golden_model.h"
#include "cuda_engine.h"
#include "gguf_writer.h"
#include "../../runtime/kv/half.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
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

/* Logits of a quantized model against the CPU's, which computes in f32 and whose numbers have been compared with others' elsewhere. */
static void compare_with_cpu(const char *name, const char *path)
{
    enum { N = 24 };
    static float logits[2][N * 4096];
    int32_t ids[N];
    uint32_t rows[N];
    uint32_t vocab = 0;
    kvrt_error error = {.size = sizeof error};
    for (unsigned on_cuda = 0; on_cuda < 2; on_cuda++) {
        const char *pairs[] = {"device.backend", "cpu",  "kv.format", "f16", "ctx.size", "512",
                               "cpu.exact",      "true", NULL};
        kvrt_engine engine = NULL;
        kvrt_session session;
        kvrt_engine_info info = {.size = sizeof info};
        if (on_cuda) engine = open_or_fail(path, "f16");
        else if (cuda_open(path, pairs, &engine, &error) < 0) fail_msg("%s: %s", name, error.message);
        assert_true(kvrt_engine_get_info(engine, &info, &error) >= 0);
        vocab = (uint32_t)info.vocab_size;
        assert_in_range(vocab, 8, 4096);
        for (uint32_t k = 0; k < N; k++) ids[k] = (int32_t)((k * 7 + 3) % vocab), rows[k] = k;
        assert_true(kvrt_session_create(engine, NULL, &session, &error) >= 0);
        if (kvrt_session_eval(session, ids, N, rows, N, logits[on_cuda], &error) < 0)
            fail_msg("%s: %s", name, error.message);
        kvrt_engine_close(engine, NULL);
    }
    double squares = 0, apart = 0;
    for (uint32_t k = 0; k < N * vocab; k++) {
        squares += (double)logits[0][k] * (double)logits[0][k];
        apart += pow((double)logits[0][k] - (double)logits[1][k], 2);
    }
    const double relative = sqrt(apart / squares);
    print_message("%s: %g apart\n", name, relative);
    if (!(relative <= 2e-2 && squares > 0)) fail_msg("%s: logits %g apart, need at most 2e-2", name, relative);
}

static void folders_are_served(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT(folders); i++) {
        char dir[1200];
        snprintf(dir, sizeof dir, "%s/golden/quantized/%s", KVRT_TEST_DIR, folders[i]);
        compare_with_cpu(folders[i], dir);
    }
}

/* Types of ggml.h: blocks of so many numbers and bytes, random but for the F16 of the whole block (and of its mins), which make numbers of the size of
 * a weight; of MXFP4 an exponent. */
static const struct gguf_type {
    const char *name;
    uint32_t type, numbers, bytes, scale_at;
    float scale, min;
} gguf_types[] = {{"Q4_0", 2, 32, 18, 0, 0.013f, 0.0f},       {"Q4_1", 3, 32, 20, 0, 0.013f, -0.1f},
                  {"Q5_0", 6, 32, 22, 0, 0.0065f, 0.0f},      {"Q5_1", 7, 32, 24, 0, 0.0065f, -0.1f},
                  {"Q8_0", 8, 32, 34, 0, 0.0008f, 0.0f},      {"Q2_K", 10, 256, 84, 80, 0.006f, 0.009f},
                  {"Q3_K", 11, 256, 110, 108, 0.0015f, 0.0f}, {"Q4_K", 12, 256, 144, 0, 0.0004f, 0.003f},
                  {"Q5_K", 13, 256, 176, 0, 0.0002f, 0.003f}, {"Q6_K", 14, 256, 210, 208, 0.00005f, 0.0f},
                  {"IQ4_NL", 20, 32, 18, 0, 0.0009f, 0.0f},   {"IQ4_XS", 23, 256, 136, 0, 0.00005f, 0.0f},
                  {"MXFP4", 39, 32, 17, 0, 0.0f, 0.0f}};

static void put_matrix(kvi_buf *infos, kvi_buf *data, const char *name, uint32_t n_in, uint32_t n_out,
                       const struct gguf_type *t, uint32_t *seed)
{
    gguf_pad(data, 32);
    gguf_tensor(infos, name, n_in, n_out, t ? t->type : 0, data->len);
    if (!t) { /* a norm, F32 */
        for (uint32_t k = 0; k < n_in; k++) gguf_uint(data, 0x3f800000u + 0x20000u * (k % 5u), 4);
        return;
    }
    for (uint32_t block = 0; block < n_in / t->numbers * n_out; block++) {
        uint8_t b[256];
        for (uint32_t k = 0; k < t->bytes; k++) b[k] = (uint8_t)((*seed = *seed * 1664525u + 1013904223u) >> 24);
        const uint16_t scale = kvi_f32_to_f16(t->scale * (0.5f + (float)(b[t->bytes / 2] / 256.0))),
                       min = kvi_f32_to_f16(t->min);
        if (t->scale > 0.0f) memcpy(b + t->scale_at, &scale, 2);
        else b[t->scale_at] = (uint8_t)(120u + b[t->scale_at] % 4u);
        if (t->min != 0.0f) memcpy(b + t->scale_at + 2, &min, 2);
        kvi_buf_append(data, (const char *)b, t->bytes);
    }
}

/* A Llama of one layer, all of whose matrices are of one type. */
static void write_gguf(const char *path, const struct gguf_type *t)
{
    enum { HIDDEN = 256, FFN = 512, VOCAB = 64, KV = 128 };
    static const struct {
        const char *name;
        uint32_t n_in, n_out;
    } matrices[] = {
        {"token_embd", HIDDEN, VOCAB},   {"output", HIDDEN, VOCAB},      {"blk.0.attn_q", HIDDEN, HIDDEN},
        {"blk.0.attn_k", HIDDEN, KV},    {"blk.0.attn_v", HIDDEN, KV},   {"blk.0.attn_output", HIDDEN, HIDDEN},
        {"blk.0.ffn_gate", HIDDEN, FFN}, {"blk.0.ffn_up", HIDDEN, FFN},  {"blk.0.ffn_down", FFN, HIDDEN},
        {"output_norm", HIDDEN, 0},      {"blk.0.attn_norm", HIDDEN, 0}, {"blk.0.ffn_norm", HIDDEN, 0}};
    static const struct {
        const char *key;
        uint32_t value;
    } ints[] = {
        {"llama.block_count", 1},           {"llama.embedding_length", HIDDEN},   {"llama.feed_forward_length", FFN},
        {"llama.context_length", 512},      {"llama.attention.head_count", 4},    {"llama.attention.head_count_kv", 2},
        {"llama.attention.key_length", 64}, {"llama.attention.value_length", 64}, {"tokenizer.ggml.eos_token_id", 1}};
    kvi_buf keys = {0}, infos = {0}, data = {0}, all = {0};
    uint32_t seed = t->type;
    gguf_key_text(&keys, "general.architecture", "llama");
    for (size_t i = 0; i < COUNT(ints); i++) gguf_key_u32(&keys, ints[i].key, ints[i].value);
    gguf_key_f32(&keys, "llama.rope.freq_base", 10000.0f);
    gguf_key_f32(&keys, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    gguf_key_text(&keys, "tokenizer.ggml.model", "gpt2");
    gguf_key_text(&keys, "tokenizer.ggml.pre", "gpt-2");
    gguf_key_array(&keys, "tokenizer.ggml.tokens", 8, VOCAB);
    for (uint32_t i = 0; i < VOCAB; i++) {
        char text[16];
        snprintf(text, sizeof text, "t%u", i);
        gguf_text(&keys, text);
    }
    gguf_key_array(&keys, "tokenizer.ggml.merges", 8, 0);
    for (size_t i = 0; i < COUNT(matrices); i++) {
        char name[64];
        snprintf(name, sizeof name, "%s.weight", matrices[i].name);
        put_matrix(&infos, &data, name, matrices[i].n_in, matrices[i].n_out, matrices[i].n_out ? t : NULL, &seed);
    }
    gguf_header(&all, 3, COUNT(matrices), COUNT(ints) + 7);
    kvi_buf_append(&all, keys.data, keys.len);
    kvi_buf_append(&all, infos.data, infos.len);
    gguf_pad(&all, 32);
    kvi_buf_append(&all, data.data, data.len);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(all.data, 1, all.len, file), all.len);
    assert_int_equal(fclose(file), 0);
    kvi_buf_free(&keys), kvi_buf_free(&infos), kvi_buf_free(&data), kvi_buf_free(&all);
}

static void gguf_files_are_served(void **state)
{
    (void)state;
    char folder[] = "/tmp/kvrt_cuda_matrix_XXXXXX", path[64];
    assert_non_null(mkdtemp(folder));
    for (unsigned i = 0; i < COUNT(gguf_types); i++) {
        snprintf(path, sizeof path, "%s/%s.gguf", folder, gguf_types[i].name);
        write_gguf(path, &gguf_types[i]);
        compare_with_cpu(gguf_types[i].name, path);
        assert_int_equal(unlink(path), 0);
    }
    assert_int_equal(rmdir(folder), 0);
}

static void count_is_not_zero(void **state)
{
    (void)state;
    print_message("%u engines served\n", served);
    assert_true(served >= 4 * COUNT(families) + COUNT(folders) + COUNT(gguf_types));
}

int main(int argc, char **argv)
{
    if (!cuda_find_driver()) return 77;
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(families_are_served),
                                       cmocka_unit_test(folders_are_served),
                                       cmocka_unit_test(gguf_files_are_served),
                                       cmocka_unit_test(caches_are_served),
                                       cmocka_unit_test(pairs_open),
                                       cmocka_unit_test(count_is_not_zero)};
    return cmocka_run_group_tests_name("matrix, cuda", tests, NULL, NULL);
}
