/* test_quantize.c - weights to integers: codes, scales and compensated errors against double precision, and a model that is quantized, written and
 * opened again. */
#define _POSIX_C_SOURCE 200809L /* mkdtemp */
#include "golden_model.h"
#include "../../runtime/base/lcg.h"
#include "../../runtime/base/mem.h"
#include "../../runtime/model/quantize_loops.h"
#include "../../runtime/model/weight_codec.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <cmocka.h>

static uint64_t seed = 7;
static float normal(void)
{
    float sum = 0;
    for (int i = 0; i < 12; i++) {
        (void)kvi_lcg(&seed);
        sum += (float)(seed >> 40) / (float)(1 << 24);
    }
    return sum - 6;
}

/* -------------------------------------------------------------------------------------------------- arithmetic --- */
static void codes_are_the_nearest_and_read_back(void **state)
{
    static const uint32_t widths[] = {8, 32, 63, 64, 100}, groups[] = {0, 16, 32};
    static const kvi_dtype types[] = {KVI_F32, KVI_F16, KVI_BF16};
    for (int n = 0; n < 90; n++) {
        const kvi_quantize_args args = {.bits = n % 2 ? 4 : 8,
                                        .group = groups[n / 2 % 3],
                                        .scale_type = types[n / 6 % 3],
                                        .method = (kvi_quantize_method)(n / 18 % 2)};
        const uint32_t n_in = widths[n % 5], group = args.group ? args.group : n_in, top = args.bits == 4 ? 7 : 127;
        float w[100], scales[100], out[100], stored[100];
        uint16_t halves[100];
        int8_t codes[100];
        uint8_t packed[128];
        for (uint32_t k = 0; k < n_in; k++) w[k] = n == 50 ? 0 : normal() * 0.02f;
        kvi_quantize_scales(&args, w, NULL, n_in, scales);
        kvi_quantize_round(&args, w, scales, n_in, codes);
        kvi_quantize_pack(&args, codes, n_in, packed);
        for (uint32_t k = 0; k < n_in; k++) {
            const double q = w[k] == 0 ? 0 : (double)w[k] / (double)scales[k / group];
            assert_true(codes[k] >= -(int)top - 1 && codes[k] <= (int)top);
            const double nearest = q > top ? top : q < -(double)top - 1 ? -(double)top - 1 : q;
            assert_true(fabs(nearest - codes[k]) <= 0.5 + 1e-3);
        }
        /* As a weight of the library: codes and scales as they are stored. */
        const uint32_t n_groups = (n_in + group - 1) / group;
        for (uint32_t g = 0; g < n_groups; g++) {
            halves[g] = args.scale_type == KVI_F16 ? kvi_f32_to_f16(scales[g]) : kvi_f32_to_bf16(scales[g]);
            stored[g] = scales[g];
        }
        const kvi_weight_desc desc = {.form = args.bits == 4 ? KVI_FORM_I4 : KVI_FORM_I8,
                                      .n_out = 1,
                                      .n_in = n_in,
                                      .group = args.group,
                                      .scale_type = args.scale_type,
                                      .is_unsigned = true,
                                      .parts = {packed, args.scale_type == KVI_F32 ? (void *)stored : (void *)halves}};
        assert_true(kvi_weight_decode(&desc, 0, 0, 0, n_in, out));
        for (uint32_t k = 0; k < n_in; k++) assert_true(out[k] == (float)codes[k] * scales[k / group]);
    }
}

static double squared_error(const kvi_quantize_args *args, const float *w, const float *importance, uint32_t n)
{
    float scales[64];
    int8_t codes[256];
    double error = 0;
    kvi_quantize_scales(args, w, importance, n, scales);
    kvi_quantize_round(args, w, scales, n, codes);
    for (uint32_t k = 0; k < n; k++)
        error += pow((double)w[k] - (double)codes[k] * (double)scales[k / args->group], 2) *
                 (importance ? (double)importance[k] : 1);
    return error;
}

static void a_search_is_never_worse_and_mostly_better(void **state)
{
    double plain = 0, searched = 0;
    for (int n = 0; n < 60; n++) {
        float w[256], importance[256];
        for (int k = 0; k < 256; k++) w[k] = normal() * 0.02f, importance[k] = expf(normal());
        kvi_quantize_args args = {.bits = 4, .group = 64, .scale_type = KVI_BF16, .method = KVI_QUANTIZE_RTN};
        const double rtn = squared_error(&args, w, n % 2 ? importance : NULL, 256);
        args.method = KVI_QUANTIZE_SEARCH;
        const double search = squared_error(&args, w, n % 2 ? importance : NULL, 256);
        assert_true(search <= rtn * (1 + 1e-6));
        plain += rtn, searched += search;
    }
    assert_true(searched < 0.85 * plain);
}

#define N 48u
#define ROWS 200u
/* Inputs in which neighbours go together, as activations do. */
static void correlated(float *x)
{
    for (uint32_t r = 0; r < ROWS; r++) {
        float common = normal();
        for (uint32_t k = 0; k < N; k++) {
            common = 0.9f * common + 0.45f * normal();
            x[r * N + k] = common * (k % 7 == 0 ? 4.0f : 1.0f);
        }
    }
}

static void moments_are_sums_of_products(void **state)
{
    const kvi_gptq_loops *const loops[] = {&kvi_gptq_loops_portable, &kvi_gptq_loops_avx2, &kvi_gptq_loops_avx512};
    static float x[ROWS * N], h[N * N];
    kvi_cpu cpu;
    kvi_os_cpu(&cpu);
    correlated(x);
    for (int i = 0; i < 3; i++) {
        if ((i == 1 && !cpu.avx2) || (i == 2 && !cpu.avx512)) continue;
        memset(h, 0, sizeof h);
        loops[i]->moments(h, x, ROWS - 3, N); /* not a multiple of what goes at once */
        for (uint32_t a = 0; a < N; a++)
            for (uint32_t b = 0; b <= a; b++) {
                double sum = 0, size = 0;
                for (uint32_t r = 0; r < ROWS - 3; r++) {
                    sum += (double)x[r * N + a] * (double)x[r * N + b];
                    size += fabs((double)x[r * N + a] * (double)x[r * N + b]);
                }
                assert_true(fabs(sum - (double)h[a * N + b]) <= 1e-5 * size);
            }
    }
}

/* U^T U is the inverse of H with a hundredth of its mean diagonal added, in the order of the columns. */
static void the_factor_is_that_of_the_inverse(void **state)
{
    static float x[ROWS * N], h[N * N];
    kvi_gptq g;
    correlated(x);
    memset(h, 0, sizeof h);
    kvi_moments_add(h, x, ROWS, N);
    assert_int_equal(kvi_gptq_prepare(h, N, &g, NULL), KVRT_OK);
    double mean = 0;
    for (uint32_t k = 0; k < N; k++) mean += (double)h[k * N + k] / N;
    for (uint32_t k = 1; k < N; k++) assert_true(g.importance[g.columns[k]] <= g.importance[g.columns[k - 1]]);
    for (uint32_t i = 0; i < N; i++)
        for (uint32_t j = 0; j < N; j++) {
            double sum = 0;
            for (uint32_t k = 0; k < N; k++) {
                double inverse = 0;
                for (uint32_t m = 0; m <= i && m <= k; m++) inverse += (double)g.u[m * N + i] * (double)g.u[m * N + k];
                const uint32_t a = g.columns[k] > g.columns[j] ? g.columns[k] : g.columns[j],
                               b = g.columns[k] > g.columns[j] ? g.columns[j] : g.columns[k];
                sum += inverse * ((double)h[a * N + b] + (k == j ? 0.01 * mean : 0));
            }
            assert_true(fabs(sum - (i == j)) < 2e-3);
        }
    kvi_gptq_free(&g);
}

static double output_error(const float *x, const float *w, const int8_t *codes, const float *scales, uint32_t group)
{
    double error = 0;
    for (uint32_t r = 0; r < ROWS; r++) {
        double y = 0;
        for (uint32_t k = 0; k < N; k++)
            y += (double)x[r * N + k] * ((double)w[k] - (double)codes[k] * (double)scales[k / group]);
        error += y * y;
    }
    return error;
}

static void compensated_rounding_keeps_the_outputs(void **state)
{
    static float x[ROWS * N], h[N * N], unit[N * N];
    kvi_gptq g, plain;
    double rounded = 0, compensated = 0;
    correlated(x);
    memset(h, 0, sizeof h);
    kvi_moments_add(h, x, ROWS, N);
    for (uint32_t k = 0; k < N; k++) unit[k * N + k] = 3;
    assert_int_equal(kvi_gptq_prepare(h, N, &g, NULL), KVRT_OK);
    assert_int_equal(kvi_gptq_prepare(unit, N, &plain, NULL), KVRT_OK);
    const kvi_quantize_args args = {.bits = 4, .group = 16, .scale_type = KVI_BF16};
    for (int n = 0; n < 40; n++) {
        float w[KVI_GPTQ_ROWS * N], scales[KVI_GPTQ_ROWS * 3];
        int8_t codes[KVI_GPTQ_ROWS * N], nearest[N];
        const uint32_t rows = 1 + (uint32_t)n % KVI_GPTQ_ROWS;
        for (uint32_t k = 0; k < rows * N; k++) w[k] = normal() * 0.02f;
        for (uint32_t r = 0; r < rows; r++) kvi_quantize_scales(&args, w + r * N, NULL, N, scales + r * 3);
        kvi_gptq_round(&g, &args, w, scales, rows, codes);
        for (uint32_t r = 0; r < rows; r++) {
            kvi_quantize_round(&args, w + r * N, scales + r * 3, N, nearest);
            rounded += output_error(x, w + r * N, nearest, scales + r * 3, 16);
            compensated += output_error(x, w + r * N, codes + r * N, scales + r * 3, 16);
        }
        /* Inputs that have nothing to do with each other make nothing good. */
        kvi_gptq_round(&plain, &args, w, scales, rows, codes);
        kvi_quantize_round(&args, w, scales, N, nearest);
        assert_memory_equal(codes, nearest, N);
    }
    assert_true(compensated < 0.5 * rounded);
    kvi_gptq_free(&g);
    kvi_gptq_free(&plain);
}

/* Inputs that are always zero, and a text that is shorter than a row is wide. */
static void singular_moments_are_factored(void **state)
{
    static float x[ROWS * N], h[N * N];
    kvi_gptq g;
    correlated(x);
    for (int n = 0; n < 2; n++) {
        memset(h, 0, sizeof h);
        if (n) kvi_moments_add(h, x, 5, N);
        assert_int_equal(kvi_gptq_prepare(h, N, &g, NULL), KVRT_OK);
        for (uint32_t k = 0; k < N; k++) assert_true(g.u[k * N + k] > 0 && isfinite(g.u[k * N + k]));
        kvi_gptq_free(&g);
    }
}

/* ----------------------------------------------------------------------------------------------------- a model --- */
typedef struct folder {
    char dir[64];
    char *header;
    size_t len, cap;
    unsigned char *data;
    uint64_t bytes;
    uint32_t events, stop_at;
    uint32_t n_list, n_tensors, n_learn;
} folder;

static int32_t keep(const kvrt_quantize_event *e, void *user)
{
    folder *f = user;
    if (++f->events == f->stop_at) return 1;
    if (f->cap < f->len + 1024) f->header = realloc(f->header, f->cap = f->cap * 2 + 4096);
    if (e->kind == KVRT_QUANTIZE_LIST) {
        f->n_list++;
        assert_null(e->data);
        f->len += (size_t)snprintf(f->header + f->len, 1024, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%llu",
                                   f->len ? "," : "{", e->name, e->dtype, (unsigned long long)e->shape[0]);
        for (uint64_t i = 1; i < e->n_dims; i++)
            f->len += (size_t)snprintf(f->header + f->len, 64, ",%llu", (unsigned long long)e->shape[i]);
        f->len += (size_t)snprintf(f->header + f->len, 128, "],\"data_offsets\":[%llu,%llu]}",
                                   (unsigned long long)f->bytes, (unsigned long long)(f->bytes + e->bytes));
        f->bytes += e->bytes;
    } else if (e->kind == KVRT_QUANTIZE_TENSOR) {
        if (!f->n_tensors++) f->data = malloc(f->bytes);
        assert_true(e->data && e->total == f->bytes && e->done <= e->total);
        memcpy(f->data + e->done - e->bytes, e->data, e->bytes);
    } else if (e->kind == KVRT_QUANTIZE_LEARN) {
        f->n_learn++;
        assert_true(e->done < e->total);
    } else {
        char path[128];
        snprintf(path, sizeof path, "%s/config.json", f->dir);
        FILE *file = fopen(path, "wb");
        fwrite(e->data, 1, e->bytes, file);
        fclose(file);
    }
    return 0;
}

static void write_weights(const folder *f)
{
    char path[128];
    const uint64_t len = f->len + 1;
    snprintf(path, sizeof path, "%s/model.safetensors", f->dir);
    FILE *file = fopen(path, "wb");
    fwrite(&len, 1, 8, file);
    fwrite(f->header, 1, f->len, file);
    fputc('}', file);
    fwrite(f->data, 1, f->bytes, file);
    fclose(file);
}

static void copy_tokenizer(const char *from, const char *to)
{
    char path[700], text[8192];
    snprintf(path, sizeof path, "%s/tokenizer.json", from);
    FILE *in = fopen(path, "rb");
    const size_t n = fread(text, 1, sizeof text, in);
    fclose(in);
    snprintf(path, sizeof path, "%s/tokenizer.json", to);
    FILE *out = fopen(path, "wb");
    fwrite(text, 1, n, out);
    fclose(out);
}

static void remove_folder(const char *dir)
{
    static const char *const names[] = {"config.json", "model.safetensors", "tokenizer.json"};
    char path[128];
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        (void)remove(path);
    }
    (void)remove(dir);
}

static const char *const exact[] = {"kv.format", "f32", "cpu.amx", "false", NULL};

/* Error of the logits, as a part of their deviation, of a model that was quantized and opened again. */
static double error_of(const char *name, kvrt_quantize_params params, bool text)
{
    golden_model model;
    kvrt_error error = {.size = sizeof error};
    folder f = {.dir = "/tmp/kvrt_quantize_XXXXXX"};
    assert_non_null(mkdtemp(f.dir));
    assert_true(golden_load(name, &model));
    kvrt_engine engine = golden_open(&model, exact);
    params.size = sizeof params;
    if (text) params.ids = model.prompts[3].ids, params.n_ids = model.prompts[3].n;
    if (kvrt_quantize(engine, &params, keep, &f, &error) < 0) fail_msg("%s: %s", name, error.message);
    kvrt_engine_close(engine, NULL);
    assert_int_equal(f.n_list, f.n_tensors);
    assert_true(!text == !f.n_learn);
    write_weights(&f);
    copy_tokenizer(model.dir, f.dir);
    memcpy(model.dir, f.dir, sizeof f.dir);
    engine = golden_open(&model, exact);
    const double off = golden_logit_error(engine, &model, NULL) / model.std;
    kvrt_engine_info info = {.size = sizeof info};
    assert_int_equal(kvrt_engine_get_info(engine, &info, &error), KVRT_OK);
    kvrt_engine_close(engine, NULL);
    remove_folder(f.dir);
    free(f.header);
    free(f.data);
    golden_free(&model);
    return off;
}

static void a_quantized_model_is_nearly_the_same(void **state)
{
    static const char *const names_[] = {"llama_gqa2", "qwen3_bf16",
                                         "llama_d128"}; /* F32 tied, BF16 tied, F16 with a head */
    for (int i = 0; i < 3; i++) {
        const double i8 = error_of(names_[i], (kvrt_quantize_params){.bits = 8, .method = KVRT_QUANTIZE_RTN}, false),
                     head = error_of(
                         names_[i],
                         (kvrt_quantize_params){.bits = 8, .head_bits = 8, .group = 16, .method = KVRT_QUANTIZE_SEARCH},
                         false),
                     i4 = error_of(names_[i],
                                   (kvrt_quantize_params){.bits = 4, .group = 16, .method = KVRT_QUANTIZE_SEARCH},
                                   false),
                     gptq = error_of(
                         names_[i], (kvrt_quantize_params){.bits = 4, .group = 16, .method = KVRT_QUANTIZE_GPTQ}, true);
        if (!(i8 < 0.25 && head < 0.25 && i4 < 3 && gptq < 3 && i8 < i4))
            fail_msg("%s: errors %g %g %g %g", names_[i], i8, head, i4, gptq);
    }
}

/* Rounding at open is the folder that would have been written: every bit of every logit, whoever rounds, in both modes of the CPU. */
static void at_open_as_from_a_folder(void **state)
{
    static const struct {
        const char *name, *type, *group, *head;
        kvrt_quantize_params params;
    } all[] = {{"llama_gqa2", "i4", "16", "auto", {.bits = 4, .group = 16}},
               {"llama_d128", "i4", "48", "auto", {.bits = 4, .group = 48}},
               {"llama_d128", "i8", "auto", "i8", {.bits = 8, .head_bits = 8}},
               {"qwen3_bf16", "i4", "32", "i8", {.bits = 4, .group = 32, .head_bits = 8}},
               {"qwen3_bf16", "i8", "64", "auto", {.bits = 8, .group = 64}},
               {"llama_head_only", "i4", "16", "i8", {.bits = 4, .group = 16, .head_bits = 8}},
               /* several matrices in one tensor */
               {"phi3", "i4", "16", "auto", {.bits = 4, .group = 16}},
               {"granite4", "i8", "auto", "i8", {.bits = 8, .head_bits = 8}},
               {"qwen3_5", "i4", "16", "auto", {.bits = 4, .group = 16}},
               {"gemma4_e", "i4", "8", "auto", {.bits = 4, .group = 8}},
               /* experts, as tensors of their own and all in one, with rows of 24 and of 32, which share a group */
               {"mixtral", "i4", "16", "auto", {.bits = 4, .group = 16}},
               {"mixtral_fused", "i4", "24", "auto", {.bits = 4, .group = 24}},
               {"qwen3_moe", "i4", "8", "i8", {.bits = 4, .group = 8, .head_bits = 8}},
               {"qwen3_moe_fused", "i8", "auto", "auto", {.bits = 8}},
               {"qwen3_next", "i4", "8", "auto", {.bits = 4, .group = 8}},
               {"deepseek_v2", "i4", "8", "auto", {.bits = 4, .group = 8}}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        for (int mode = 0; mode < 2; mode++) {
            golden_model model;
            kvrt_error error = {.size = sizeof error};
            folder f = {.dir = "/tmp/kvrt_quantize_XXXXXX"};
            kvrt_quantize_params params = all[i].params;
            const char *exact_mode = mode ? "true" : "false", *threads = mode ? "3" : "1";
            const char *const plain[] = {"kv.format", "f32", "cpu.amx", "false", "cpu.exact", exact_mode, NULL};
            const char *const rounded[] = {"kv.format",    "f32",          "cpu.amx",     "false",         "cpu.exact",
                                           exact_mode,     "weights.type", all[i].type,   "weights.group", all[i].group,
                                           "weights.head", all[i].head,    "cpu.threads", threads,         NULL};
            uint64_t at_open = 0, from_folder = 0;
            assert_non_null(mkdtemp(f.dir));
            assert_true(golden_load(all[i].name, &model));
            kvrt_engine engine = golden_open(&model, rounded);
            kvrt_engine_info info = {.size = sizeof info}, stored = {.size = sizeof stored};
            (void)golden_logit_error(engine, &model, &at_open);
            assert_int_equal(kvrt_engine_get_info(engine, &info, &error), KVRT_OK);
            assert_true(info.resident_bytes <= info.planned_bytes);
            params.size = sizeof params;
            assert_int_equal(kvrt_quantize(engine, &params, keep, &f, &error), KVRT_STATE);
            kvrt_engine_close(engine, NULL);
            engine = golden_open(&model, plain);
            if (kvrt_quantize(engine, &params, keep, &f, &error) < 0) fail_msg("%s: %s", all[i].name, error.message);
            kvrt_engine_close(engine, NULL);
            write_weights(&f);
            copy_tokenizer(model.dir, f.dir);
            memcpy(model.dir, f.dir, sizeof f.dir);
            engine = golden_open(&model, plain);
            (void)golden_logit_error(engine, &model, &from_folder);
            assert_int_equal(kvrt_engine_get_info(engine, &stored, &error), KVRT_OK);
            kvrt_engine_close(engine, NULL);
            assert_string_equal(info.weight_dtype, stored.weight_dtype);
            if (at_open != from_folder || !at_open)
                fail_msg("%s, %s: other logits than of the folder", all[i].name, all[i].type);
            assert_true(info.weight_bytes == stored.weight_bytes && info.n_params == stored.n_params);
            assert_true(info.mapped_bytes < stored.mapped_bytes);
            remove_folder(f.dir);
            free(f.header);
            free(f.data);
            golden_free(&model);
        }
}

/* Embeddings in 8 bits: nearly the same model, whether the head shares them or not. */
static void embeddings_in_8_bits(void **state)
{
    static const char *const names_[] = {"llama_gqa2", "qwen3_bf16", "llama_d128"};
    static const char *const pairs[] = {"kv.format", "f32", "cpu.amx", "false", "weights.embed", "i8", NULL};
    for (int i = 0; i < 3; i++) {
        golden_model model;
        assert_true(golden_load(names_[i], &model));
        kvrt_engine engine = golden_open(&model, pairs);
        const double off = golden_logit_error(engine, &model, NULL) / model.std;
        kvrt_engine_close(engine, NULL);
        if (!(off > 1e-4 && off < 0.25)) fail_msg("%s: error %g", names_[i], off);
        golden_free(&model);
    }
}

static void what_cannot_be_asked_for_at_open(void **state)
{
    static const struct {
        const char *key, *value, *says;
    } all[] = {{"weights.type", "q4_0", "need i4 or i8"},
               {"weights.group", "4", "need 0 or 8"},
               {"weights.type", "i5", "weights.type"},
               {"weights.head", "i4", "weights.head"}};
    golden_model model;
    assert_true(golden_load("llama_gqa2", &model));
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        kvrt_error error = {.size = sizeof error};
        kvrt_options *options;
        kvrt_engine engine;
        assert_int_equal(kvrt_options_create(&options, NULL), KVRT_OK);
        assert_int_equal(kvrt_options_set_text(options, "model.path", model.dir, NULL), KVRT_OK);
        assert_int_equal(kvrt_options_set_text(options, "device.backend", "cpu", NULL), KVRT_OK);
        kvrt_status status = kvrt_options_set_text(options, all[i].key, all[i].value, &error);
        if (status >= KVRT_OK) status = kvrt_engine_open(options, NULL, NULL, &engine, &error);
        assert_int_equal(status, KVRT_ARG);
        if (!strstr(error.message, all[i].says)) fail_msg("%s", error.message);
        kvrt_options_destroy(options);
    }
    golden_free(&model);
}

static void what_cannot_be_quantized_is_refused(void **state)
{
    static const struct {
        kvrt_quantize_params params;
        kvrt_status status;
        const char *says;
    } cases[] = {{{.bits = 5}, KVRT_ARG, "bits 4 or 8"},
                 {{.bits = 4, .head_bits = 4}, KVRT_ARG, "head_bits 0 or 8"},
                 {{.bits = 4, .method = 3}, KVRT_ARG, "a method"},
                 {{.bits = 4, .method = KVRT_QUANTIZE_GPTQ}, KVRT_ARG, "128 tokens"}};
    golden_model model;
    assert_true(golden_load("llama_gqa2", &model));
    kvrt_engine engine = golden_open(&model, exact);
    for (size_t i = 0; i < 4; i++) {
        kvrt_error error = {.size = sizeof error};
        kvrt_quantize_params params = cases[i].params;
        folder f = {.dir = ""};
        params.size = sizeof params;
        assert_int_equal(kvrt_quantize(engine, &params, keep, &f, &error), cases[i].status);
        assert_non_null(strstr(error.message, cases[i].says));
        assert_int_equal(f.events, 0);
    }
    /* Cancelled at every event: an error, nothing is left behind, and the engine computes as before. */
    for (uint32_t stop = 1;; stop++) {
        kvrt_error error = {.size = sizeof error};
        kvrt_quantize_params params = {.size = sizeof params,
                                       .bits = 4,
                                       .group = 16,
                                       .method = KVRT_QUANTIZE_GPTQ,
                                       .ids = model.prompts[2].ids,
                                       .n_ids = model.prompts[2].n};
        folder f = {.dir = "", .stop_at = stop};
        uint64_t before, after, blocks, allocations;
        kvi_mem_stats(&before, &blocks, &allocations);
        const kvrt_status status = kvrt_quantize(engine, &params, keep, &f, &error);
        kvi_mem_stats(&after, &blocks, &allocations);
        assert_int_equal(before, after);
        free(f.header);
        free(f.data);
        if (f.n_tensors + 1 < f.n_list || stop < 60) {
            assert_int_equal(status, KVRT_CANCELLED);
            continue;
        }
        break; /* before config.json, which has no folder here */
    }
    assert_true(golden_logit_error(engine, &model, NULL) < 1e-3);
    kvrt_engine_close(engine, NULL);
    golden_free(&model);
    /* What is quantized already. */
    assert_true(golden_load("../quantized/packed_sym", &model));
    engine = golden_open(&model, exact);
    kvrt_error error = {.size = sizeof error};
    kvrt_quantize_params params = {.size = sizeof params, .bits = 4};
    folder f = {.dir = ""};
    assert_int_equal(kvrt_quantize(engine, &params, keep, &f, &error), KVRT_UNSUPPORTED);
    assert_non_null(strstr(error.message, "quantized already (compressed-tensors)"));
    kvrt_engine_close(engine, NULL);
    golden_free(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(codes_are_the_nearest_and_read_back),
                                       cmocka_unit_test(a_search_is_never_worse_and_mostly_better),
                                       cmocka_unit_test(moments_are_sums_of_products),
                                       cmocka_unit_test(the_factor_is_that_of_the_inverse),
                                       cmocka_unit_test(compensated_rounding_keeps_the_outputs),
                                       cmocka_unit_test(singular_moments_are_factored),
                                       cmocka_unit_test(a_quantized_model_is_nearly_the_same),
                                       cmocka_unit_test(at_open_as_from_a_folder),
                                       cmocka_unit_test(embeddings_in_8_bits),
                                       cmocka_unit_test(what_cannot_be_asked_for_at_open),
                                       cmocka_unit_test(what_cannot_be_quantized_is_refused)};
    return cmocka_run_group_tests_name("quantize", tests, NULL, NULL);
}
