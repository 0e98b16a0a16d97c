/* test_kv_scales.c - scales of the KV cache that a model brings: codes made with them against arithmetic in double, logits against
 * transformers (test/golden/kv_scales), what is read from where, and what is refused with which words. */
#define _POSIX_C_SOURCE 200809L /* mkdtemp */
#include "golden_model.h"
#include "../../runtime/kv/encode.h"
#include "../../runtime/model/kv_scales.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

/* --------------------------------------------------------------------------------------------------------- codes --- */
#define DIM 16u

/* The nearest value of the type, ties to the even code, by looking at all of them. */
static double nearest(kvi_kv_code kind, double x)
{
    double best = 0, distance = INFINITY;
    for (int code = 0; code < 256; code++) {
        const double value = kind == KVI_KV_I8 ? code - 128 : (double)kvi_e4m3_to_f32((uint8_t)code);
        const double d = fabs(value - x);
        if (!(d <= distance) || (d == distance && code % 2)) continue;
        best = value;
        distance = d;
    }
    return best;
}

static void codes_are_the_nearest(void **state)
{
    static const kvi_kv_code kinds[] = {KVI_KV_F8, KVI_KV_I8};
    static const float scales[] = {0.25f, 0.0123f, 3.0f};
    static float rows[KVI_KV_PAGE * DIM], back[KVI_KV_PAGE * DIM];
    static uint8_t side[KVI_KV_PAGE * DIM + 1024];
    uint32_t random = 7;
    for (uint32_t i = 0; i < KVI_KV_PAGE * DIM; i++) {
        random = random * 1664525u + 1013904223u;
        rows[i] = (float)((int)(random >> 8) - (1 << 23)) / (float)(1 << 23) * (i % 3 ? 1.0f : i % 2 ? 100.0f : 0.01f);
    }
    rows[5] = INFINITY, rows[6] = -INFINITY, rows[7] = 0.125f * 3; /* the last one is a tie of 0.25 * (1 or 2) */
    for (int k = 0; k < 2; k++)
        for (int s = 0; s < 3; s++)
            for (int is_v = 0; is_v < 2; is_v++) {
                const double scale = (double)kvi_f16_to_f32(kvi_f32_to_f16(scales[s]));
                kvi_kv_encode_fixed(kinds[k], is_v, rows, DIM, scales[s], side);
                kvi_kv_decode_rows(side, kinds[k], is_v, DIM, back);
                for (uint32_t i = 0; i < KVI_KV_PAGE * DIM; i++) {
                    const double x = (double)(rows[i] / (float)scale); /* one rounding, as the encoder's */
                    const double want =
                        (isinf(x) ? (x > 0 ? 1 : -1) * (k ? 127 + (x < 0) : 448) : nearest(kinds[k], x)) * scale;
                    if ((double)back[i] != want)
                        fail_msg("kind %d scale %g side %d element %u: %g, %g from %g", k, scale, is_v, i,
                                 (double)back[i], want, (double)rows[i]);
                }
            }
    rows[0] = NAN;
    kvi_kv_encode_fixed(KVI_KV_I8, true, rows, DIM, 1, side);
    kvi_kv_decode_rows(side, KVI_KV_I8, true, DIM, back);
    assert_true(back[0] == 0.0f);
}

/* -------------------------------------------------------------------------------------------------------- logits --- */
/* In units of the logits' deviation. Rows around rounding edges of a code fall to the other side of it, hence not an f32 limit. */
static double error_of(const char *name, const char *format, const char *scales)
{
    golden_model model;
    const char *pairs[] = {"cpu.threads", "1",        "kv.format", format,      "kv.tail", "0", "ctx.chunk",
                           "128",         "ctx.size", "512",       "kv.scales", scales,    NULL};
    if (!golden_load(name, &model)) fail_msg("no golden model %s", name);
    kvrt_engine engine = golden_open(&model, pairs);
    const double error = golden_logit_error(engine, &model, NULL) / model.std;
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
    golden_free(&model);
    return error;
}

static void logits_are_those_of_such_a_cache(void **state)
{
    static const char *const cases[][2] = {
        {"../kv_scales/f8", "f8"}, {"../kv_scales/i8", "i8"}, {"../kv_scales/file", "f8"}};
    for (int i = 0; i < 3; i++) {
        const double error = error_of(cases[i][0], cases[i][1], "checkpoint"),
                     own = error_of(cases[i][0], cases[i][1], "rows");
        print_message("%s: %.2e, with scales of the rows %.2e\n", cases[i][0], error, own);
        assert_true(error < 5e-3);
        assert_true(own > 0.1);
    }
}

/* Scales of the other type say nothing: a cache of i8 with scales for f8 is as one without. */
static void scales_of_another_type_are_none(void **state)
{
    static const char *const cases[][2] = {
        {"../kv_scales/f8", "i8"}, {"../kv_scales/i8", "f8"}, {"../kv_scales/file", "i8"}};
    for (int i = 0; i < 3; i++)
        assert_true(error_of(cases[i][0], cases[i][1], "checkpoint") == error_of(cases[i][0], cases[i][1], "rows"));
}

/* -------------------------------------------------------------------------------------------------------- reading --- */
typedef struct shelf {
    kvi_checkpoint base;
    kvi_tensor tensors[4];
} shelf;
static const kvi_tensor *shelf_find(const kvi_checkpoint *checkpoint, const char *name)
{
    const shelf *s = (const shelf *)checkpoint;
    for (uint64_t i = 0; i < s->base.n_tensors; i++)
        if (strcmp(s->tensors[i].name, name) == 0) return &s->tensors[i];
    return NULL;
}
static const kvi_checkpoint_reader shelf_reader = {.find = shelf_find};
static const float numbers[4] = {0.5f, 0.25f, 0.125f, 2.0f};

static kvi_tensor scale_tensor(const char *name, uint64_t n)
{
    return (kvi_tensor){.name = name,
                        .dtype = "F32",
                        .form = KVI_FORM_F32,
                        .n_dims = n ? 1 : 0,
                        .shape = {n},
                        .data = (const uint8_t *)numbers};
}

static void every_name_is_found(void **state)
{
    static const char *const names[][2] = {
        {"model.layers.1.self_attn.k_scale", "model.layers.1.self_attn.v_scale"},
        {"model.layers.1.self_attn.attn.k_scale", "model.layers.1.self_attn.attn.v_scale"},
        {"model.layers.1.attn.k_scale", "model.layers.1.attn.v_scale"},
        {"layers.1.self_attn.k_proj.k_scale", "layers.1.self_attn.v_proj.v_scale"},
        {"model.layers.1.self_attn.k_proj.output_scale", "model.layers.1.self_attn.v_proj.output_scale"},
        {"model.layers.1.self_attn.kv_scale", NULL}};
    const kvi_model_config config = {.n_layers = 2, .n_attentions = 1, .attention = {{.n_kv_heads = 2}}};
    kvrt_error error = {.size = sizeof error};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        shelf s = {.base = {.reader = &shelf_reader, .n_tensors = names[i][1] ? 2 : 1},
                   .tensors = {scale_tensor(names[i][0], i == 1 || i == 3 ? 2 : 0)}};
        kvi_kv_scales scales;
        if (names[i][1]) s.tensors[1] = scale_tensor(names[i][1], 1);
        assert_int_equal(kvi_kv_scales_read("/nowhere", &s.base, &config, KVI_KV_F8, &scales, &error), KVRT_OK);
        assert_non_null(scales.by_layer);
        assert_true(scales.by_layer[0] == 0 && scales.by_layer[3] == 0); /* layer 0 has none */
        assert_true(scales.by_layer[4] == 0.5f && scales.by_layer[5] == 0.5f && scales.by_layer[7] == 0.5f);
        assert_true(scales.by_layer[6] == (i == 1 || i == 3 ? 0.25f : 0.5f));
        kvi_kv_scales_free(&scales);
    }
}

/* Layers of two kinds, with 2 and with 4 KV heads, in two groups of a cache. */
static void every_group_gets_those_of_its_layers(void **state)
{
    const kvi_model_config config = {
        .n_layers = 4,
        .n_attentions = 2,
        .attention = {{.n_kv_heads = 2}, {.n_kv_heads = 4}},
        .layers = {{.attention = 0}, {.attention = 1}, {.attention = 0}, {.attention = 1}}};
    static const kvi_op ops[] = {{.kind = KVI_OP_ROPE_APPEND, .layer = 0, .group = 0, .group_layer = 0},
                                 {.kind = KVI_OP_ATTENTION, .layer = 0, .group = 0, .group_layer = 0},
                                 {.kind = KVI_OP_ROPE_APPEND, .layer = 1, .group = 1, .group_layer = 0},
                                 {.kind = KVI_OP_ROPE_APPEND, .layer = 2, .group = 0, .group_layer = 1},
                                 {.kind = KVI_OP_ROPE_APPEND, .layer = 3, .group = 1, .group_layer = 1}};
    kvi_cache_group groups[2] = {{.shape = {.n_layers = 2, .n_kv_heads = 2}, .rotate = true},
                                 {.shape = {.n_layers = 2, .n_kv_heads = 4}, .rotate = true}};
    const kvi_program program = {.ops = ops, .n_ops = 5, .groups = groups, .n_groups = 2};
    kvrt_error error = {.size = sizeof error};
    kvi_kv_scales scales;
    shelf s = {.base = {.reader = &shelf_reader, .n_tensors = 3},
               .tensors = {scale_tensor("model.layers.0.self_attn.kv_scale", 2),
                           scale_tensor("model.layers.2.self_attn.kv_scale", 1),
                           scale_tensor("model.layers.3.self_attn.kv_scale", 4)}};
    assert_int_equal(kvi_kv_scales_read("/nowhere", &s.base, &config, KVI_KV_F8, &scales, &error), KVRT_OK);
    assert_int_equal(kvi_kv_scales_apply(&scales, &config, &program, groups, &error), KVRT_OK);
    static const float want[2][16] = {{0.5f, 0.5f, 0.25f, 0.25f, 0.5f, 0.5f, 0.5f, 0.5f},
                                      {0, 0, 0, 0, 0, 0, 0, 0, 0.5f, 0.5f, 0.25f, 0.25f, 0.125f, 0.125f, 2, 2}};
    for (uint32_t g = 0; g < 2; g++) {
        assert_false(groups[g].rotate);
        assert_memory_equal(groups[g].scales, want[g], (g ? 16 : 8) * sizeof(float));
    }
    kvi_kv_scales_free(&scales);
}

/* Which cache they are for, by the folder's config.json and hf_quant_config.json. */
static void what_they_are_for_is_read(void **state)
{
    static const struct {
        const char *config, *modelopt;
        bool f8, i8;
    } cases[] = {
        {"{}", "{}", true, false},
        {"{\"quantization_config\": null}", "{}", true, false},
        {"{\"quantization_config\": {\"kv_cache_scheme\": null}}", "{}", true, false},
        {"{\"quantization_config\": {\"kv_cache_scheme\": {\"type\": \"float\", \"num_bits\": 8}}}", "{}", true, false},
        {"{\"quantization_config\": {\"kv_cache_scheme\": {\"type\": \"int\", \"num_bits\": 8}}}", "{}", false, true},
        {"{\"quantization_config\": {\"kv_cache_scheme\": {\"type\": \"int\", \"num_bits\": 4}}}", "{}", false, false},
        {"{\"quantization_config\": {\"kv_cache_scheme\": {\"type\": \"int\", \"symmetric\": false}}}", "{}", false,
         false},
        {"{\"quantization_config\": {\"kv_cache_quant_algo\": \"NVFP4\"}}", "{}", false, false},
        {"{\"a\": Infinity}", "{\"quantization\": {\"kv_cache_quant_algo\": \"INT8\"}}", false, true},
        {"{}", "{\"quantization\": {\"kv_cache_quant_algo\": \"FP8\"}}", true, false}};
    const kvi_model_config config = {.n_layers = 1, .n_attentions = 1, .attention = {{.n_kv_heads = 2}}};
    char dir[] = "/tmp/kvrt_kv_scales_XXXXXX", path[2][64];
    kvrt_error error = {.size = sizeof error};
    shelf s = {.base = {.reader = &shelf_reader, .n_tensors = 1},
               .tensors = {scale_tensor("model.layers.0.self_attn.kv_scale", 1)}};
    assert_non_null(mkdtemp(dir));
    snprintf(path[0], sizeof path[0], "%s/config.json", dir);
    snprintf(path[1], sizeof path[1], "%s/hf_quant_config.json", dir);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int k = 0; k < 2; k++) {
            kvi_kv_scales scales;
            for (int f = 0; f < 2; f++) {
                FILE *file = fopen(path[f], "w");
                assert_non_null(file);
                fputs(f ? cases[i].modelopt : cases[i].config, file);
                fclose(file);
            }
            if (kvi_kv_scales_read(dir, &s.base, &config, k ? KVI_KV_I8 : KVI_KV_F8, &scales, &error) < KVRT_OK)
                fail_msg("%s", error.message);
            if ((scales.by_layer != NULL) != (k ? cases[i].i8 : cases[i].f8))
                fail_msg("case %zu, %s", i, k ? "i8" : "f8");
            kvi_kv_scales_free(&scales);
        }
    unlink(path[0]), unlink(path[1]), rmdir(dir);
}

static void what_is_refused_is_named(void **state)
{
    const kvi_model_config config = {.n_layers = 2, .n_attentions = 1, .attention = {{.n_kv_heads = 2}}};
    static const float bad[] = {0, -1, NAN, INFINITY, 1e-5f, 1e3f};
    kvrt_error error = {.size = sizeof error};
    kvi_kv_scales scales;
    shelf s = {.base = {.reader = &shelf_reader, .n_tensors = 1},
               .tensors = {scale_tensor("model.layers.0.self_attn.k_scale", 1)}};
    assert_int_equal(kvi_kv_scales_read("/nowhere", &s.base, &config, KVI_KV_F8, &scales, &error), KVRT_FORMAT);
    assert_non_null(strstr(error.message, "model.layers.0.self_attn.v_scale: not found"));
    s.tensors[s.base.n_tensors++] = scale_tensor("model.layers.0.self_attn.v_scale", 3);
    assert_int_equal(kvi_kv_scales_read("/nowhere", &s.base, &config, KVI_KV_F8, &scales, &error), KVRT_FORMAT);
    assert_non_null(strstr(error.message, "v_scale: 3 numbers of F32, need 1 or 2"));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        s.tensors[1] = scale_tensor("model.layers.0.self_attn.v_scale", 0);
        s.tensors[1].data = (const uint8_t *)&bad[i];
        assert_int_equal(kvi_kv_scales_read("/nowhere", &s.base, &config, KVI_KV_F8, &scales, &error), KVRT_FORMAT);
        assert_non_null(strstr(error.message, "v_scale: a scale of the KV cache is "));
        assert_null(scales.by_layer);
    }
    s.tensors[1].form = KVI_FORM_NONE, s.tensors[1].dtype = "I64";
    assert_int_equal(kvi_kv_scales_read("/nowhere", &s.base, &config, KVI_KV_F8, &scales, &error), KVRT_FORMAT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(codes_are_the_nearest),
                                       cmocka_unit_test(logits_are_those_of_such_a_cache),
                                       cmocka_unit_test(scales_of_another_type_are_none),
                                       cmocka_unit_test(every_name_is_found),
                                       cmocka_unit_test(every_group_gets_those_of_its_layers),
                                       cmocka_unit_test(what_they_are_for_is_read),
                                       cmocka_unit_test(what_is_refused_is_named)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
