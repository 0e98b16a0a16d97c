/* test_weights.c - forms and their sizes; binding of a model's places to the tensors of a container that is no file: what is bound to what, and
 * what is refused with which words. */
#include "../../runtime/model/synthetic.h"
#include "../../runtime/model/weight_codec.h"
#include "../../runtime/model/weights.h"
#include "../../runtime/model/weight_codec.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

/* --------------------------------------------------------------------------------------------------------- forms --- */
/* Published sizes: bytes of a row of 4,096. */
static void sizes_are_the_published_ones(void **state)
{
    static const struct {
        kvi_weight_form form;
        uint32_t row;
    } rows[] = {
        {KVI_FORM_F32, 16384},        {KVI_FORM_F16, 8192},        {KVI_FORM_BF16, 8192},   {KVI_FORM_F64, 32768},
        {KVI_FORM_F8_E4M3, 4096},     {KVI_FORM_I8, 4096},         {KVI_FORM_I4, 2048},     {KVI_FORM_NF4, 2048},
        {KVI_FORM_MXFP4, 2048},       {KVI_FORM_NVFP4, 2048},      {KVI_FORM_Q4_0, 2304},   {KVI_FORM_Q4_1, 2560},
        {KVI_FORM_Q5_0, 2816},        {KVI_FORM_Q5_1, 3072},       {KVI_FORM_Q8_0, 4352},   {KVI_FORM_Q2_K, 1344},
        {KVI_FORM_Q3_K, 1760},        {KVI_FORM_Q4_K, 2304},       {KVI_FORM_Q5_K, 2816},   {KVI_FORM_Q6_K, 3360},
        {KVI_FORM_F8_E5M2, 4096},     {KVI_FORM_MXFP8, 4096},      {KVI_FORM_A2, 1024},     {KVI_FORM_A3, 1536},
        {KVI_FORM_A4, 2048},          {KVI_FORM_A5, 2560},         {KVI_FORM_A6, 3072},     {KVI_FORM_A8, 4096},
        {KVI_FORM_BNB_FP4, 2048},     {KVI_FORM_BNB_I8, 4096},     {KVI_FORM_IQ4_NL, 2304}, {KVI_FORM_IQ4_XS, 2176},
        {KVI_FORM_MXFP4_BLOCK, 2176}, {KVI_FORM_NVFP4_BLOCK, 2304}};
    for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_int_equal(kvi_weight_row_bytes(rows[i].form, 4096), rows[i].row);
    assert_int_equal(sizeof rows / sizeof rows[0], KVI_FORM_COUNT);
    for (int form = 0; form < KVI_FORM_COUNT; form++) {
        const kvi_form_info *info = kvi_form((kvi_weight_form)form);
        assert_int_equal(kvi_form_named(info->name), form);
        assert_true(info->block > 0 && info->block <= KVI_MAX_FORM_BLOCK && KVI_MAX_FORM_BLOCK % info->block == 0);
    }
    assert_int_equal(kvi_form_named("k4v4"), KVI_FORM_NONE);
}

static void parts_add_up(void **state)
{
    static const uint8_t there[64];
    kvi_weight_desc w = {.form = KVI_FORM_I4, .n_out = 3, .n_in = 300, .group = 128, .scale_type = KVI_F16};
    assert_int_equal(kvi_weight_part_bytes(&w, KVI_PART_CODES), 3 * 152); /* 37.5 words of 8 codes */
    assert_int_equal(kvi_weight_bytes(&w), 3 * 152 + 3 * 3 * 2);          /* scales are needed, so they count */
    w.parts[KVI_PART_ZEROS] = w.parts[KVI_PART_GROUPS] = there;
    assert_int_equal(kvi_weight_bytes(&w), 3 * 152 + 3 * 3 * 3 + 300 * 4);
    w.n_experts = 5;
    assert_int_equal(kvi_weight_bytes(&w), 5 * (3 * 152 + 3 * 3 * 3 + 300 * 4));
    assert_ptr_equal(kvi_weight_part_at(&w, KVI_PART_ZEROS, 4), there + 4 * 9);
    w = (kvi_weight_desc){
        .form = KVI_FORM_F8_E4M3, .n_out = 300, .n_in = 257, .group = 128, .group_rows = 128, .scale_type = KVI_F32};
    assert_int_equal(kvi_weight_bytes(&w), 300 * 257 + 3 * 3 * 4);
    w = (kvi_weight_desc){.form = KVI_FORM_NVFP4, .n_out = 2, .n_in = 64, .group = 16};
    assert_int_equal(kvi_weight_bytes(&w), 2 * 32 + 2 * 4 + 4);
}

/* Every code of every place of the eight-bit and four-bit forms, at the edges of a group, by hand. */
static void codes_are_numbers(void **state)
{
    const uint8_t word[4] = {0x10, 0x32, 0xba, 0xfe};
    const float scale = 0.5f;
    float out[8];
    kvi_weight_desc w = {.form = KVI_FORM_I4, .n_out = 1, .n_in = 8, .parts = {word, &scale}};
    static const int code[8] = {0, 1, 2, 3, 10, 11, 14, 15};
    assert_true(kvi_weight_decode(&w, 0, 0, 0, 8, out));
    for (int i = 0; i < 8; i++) assert_true(out[i] == (float)(code[i] - 8) * 0.5f);
    /* The same word as AWQ reads it, as a column of eight rows. */
    static const int awq[8] = {0, 10, 1, 11, 2, 14, 3, 15};
    w = (kvi_weight_desc){
        .form = KVI_FORM_I4, .n_out = 8, .n_in = 1, .code_order = {KVI_PACK_AWQ, 1, 1}, .parts = {word}};
    for (uint32_t row = 0; row < 8; row++) {
        uint8_t got = 99;
        kvi_weight_codes(&w, 0, row, 0, 1, &got);
        assert_int_equal(got, awq[row]);
    }
    const uint8_t bytes[4] = {0x80, 0xff, 0, 0x7f}, zero = 0xfe; /* -128 -1 0 127, zero -2 */
    w = (kvi_weight_desc){.form = KVI_FORM_I8, .n_out = 1, .n_in = 4, .parts = {bytes, &scale, &zero}};
    assert_true(kvi_weight_decode(&w, 0, 0, 0, 4, out));
    assert_true(out[0] == -63.0f && out[1] == 0.5f && out[2] == 1.0f && out[3] == 64.5f);
    const uint8_t f8[4] = {0x7e, 0xfe, 0x01, 0x38}; /* 448 -448 2^-9 1 */
    w = (kvi_weight_desc){.form = KVI_FORM_F8_E4M3, .n_out = 1, .n_in = 4, .parts = {f8, &scale}};
    assert_true(kvi_weight_decode(&w, 0, 0, 0, 4, out));
    assert_true(out[0] == 224.0f && out[1] == -224.0f && out[2] == 0x1p-10f && out[3] == 0.5f);
    const double halves[2] = {1 + 0x1p-24, 1 + 0x3p-24}; /* between two f32: to the even one */
    w = (kvi_weight_desc){.form = KVI_FORM_F64, .n_out = 1, .n_in = 2, .parts = {halves}};
    assert_true(kvi_weight_decode(&w, 0, 0, 0, 2, out));
    assert_true(out[0] == 1.0f && out[1] == 1 + 0x1p-22f);
}

/* Elements count up through a file of two experts of six rows of four, so that what is read says where it stood. */
static void rows_may_be_part_of_a_tensor(void **state)
{
    enum { EXPERTS = 2, OF = 6, COLS = 4 };
    float file[EXPERTS * OF * COLS], out[COLS];
    for (int i = 0; i < EXPERTS * OF * COLS; i++) file[i] = (float)i;
    const kvi_expert_parts apart[EXPERTS] = {{{file + OF * COLS}}, {{file}}};
    static const kvi_weight_rows rows[] = {{0}, {2, 0, 0, OF}, {0, 1, 2, OF}, {1, 1, 2, OF}, {1, 2, 3, OF}};
    for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (int how = 0; how < 3; how++) { /* as it is; by columns; experts apart, in the other order */
            const uint32_t run = rows[i].run ? rows[i].run : OF, n_out = i == 0 ? OF : i == 4 ? 4 : 3;
            const kvi_weight_desc w = {.form = KVI_FORM_F32,
                                       .n_out = n_out,
                                       .n_in = COLS,
                                       .n_experts = EXPERTS,
                                       .parts = {file},
                                       .rows = rows[i],
                                       .transposed = how == 1,
                                       .experts = how == 2 ? apart : NULL};
            assert_int_equal(kvi_weight_bytes(&w), EXPERTS * w.n_out * COLS * 4);
            assert_int_equal(kvi_weight_rows_are_neighbours(&w), !rows[i].run && how != 1);
            assert_int_equal(kvi_weight_neighbours(&w, 1), how == 1 ? 0 : run == OF ? n_out - 1 : run == 1 ? 1 : 1);
            for (uint32_t e = 0; e < EXPERTS; e++)
                for (uint32_t r = 0; r < w.n_out; r++) {
                    const uint32_t row = rows[i].first + r / run * rows[i].step + r % run,
                                   base = (how == 2 ? 1 - e : e) * OF * COLS;
                    assert_true(kvi_weight_decode(&w, e, r, 0, COLS, out));
                    for (uint32_t k = 0; k < COLS; k++)
                        assert_true(out[k] == (float)(base + (how == 1 ? k * OF + row : row * COLS + k)));
                }
        }
    /* Scales of a row go with it, those of a run of rows too. */
    const uint8_t codes[4] = {1, 1, 1, 1};
    const float scales[4] = {1, 2, 4, 8};
    kvi_weight_desc w = {.form = KVI_FORM_I8, .n_out = 2, .n_in = 1, .parts = {codes, scales}, .rows = {1, 1, 2, 4}};
    for (uint32_t r = 0; r < 2; r++) {
        assert_true(kvi_weight_decode(&w, 0, r, 0, 1, out));
        assert_true(out[0] == (r ? 8.0f : 2.0f));
    }
    w.group_rows = 2, w.rows.run = 0, w.rows.first = 2;
    assert_true(kvi_weight_decode(&w, 0, 0, 0, 1, out) && out[0] == 2.0f);
}

/* ------------------------------------------------------------------------------------------------------- binding --- */
#define HIDDEN 32u
#define FFN 64u
#define VOCAB 50u

static const kvi_model_config config = {.n_layers = 1,
                                        .hidden_size = HIDDEN,
                                        .attention = {{.n_heads = 2, .n_kv_heads = 1, .head_dim = 16}},
                                        .ffn_size = FFN,
                                        .vocab_size = VOCAB,
                                        .tied_embeddings = true,
                                        .architecture = "TestForCausalLM"};

/* A container of its own: tensors in an array. */
typedef struct shelf {
    kvi_checkpoint base;
    kvi_tensor tensors[16];
} shelf;
static const kvi_tensor *shelf_find(const kvi_checkpoint *checkpoint, const char *name)
{
    const shelf *s = (const shelf *)checkpoint;
    for (uint64_t i = 0; i < s->base.n_tensors; i++)
        if (strcmp(s->tensors[i].name, name) == 0) return &s->tensors[i];
    return NULL;
}
static const kvi_checkpoint_reader shelf_reader = {
    .settings = "config.json", .types = "F64, F32, F16 or BF16", .find = shelf_find};

static const uint8_t data[64 * 1024]; /* every tensor's */

static kvi_tensor *put(shelf *s, const char *name, kvi_weight_form form, uint32_t n_dims, uint64_t rows, uint64_t cols)
{
    kvi_tensor *t = &s->tensors[s->base.n_tensors++];
    *t = (kvi_tensor){.name = name,
                      .dtype = form == KVI_FORM_NONE ? "I64" : kvi_form(form)->name,
                      .form = form,
                      .n_dims = n_dims,
                      .shape = {rows, cols},
                      .data = data};
    return t;
}

#define LAYER "model.layers.0."
static shelf whole(kvi_weight_form form)
{
    shelf s = {.base = {.reader = &shelf_reader}};
    put(&s, "model.embed_tokens.weight", KVI_FORM_BF16, 2, VOCAB, HIDDEN);
    put(&s, "model.norm.weight", KVI_FORM_F32, 1, HIDDEN, 0);
    put(&s, LAYER "input_layernorm.weight", KVI_FORM_F32, 1, HIDDEN, 0);
    put(&s, LAYER "post_attention_layernorm.weight", KVI_FORM_F32, 1, HIDDEN, 0);
    put(&s, LAYER "self_attn.k_proj.weight", KVI_FORM_F16, 2, 16, HIDDEN);
    put(&s, LAYER "self_attn.v_proj.weight", KVI_FORM_F16, 2, 16, HIDDEN);
    put(&s, LAYER "self_attn.o_proj.weight", KVI_FORM_F16, 2, HIDDEN, HIDDEN);
    put(&s, LAYER "mlp.gate_proj.weight", KVI_FORM_F16, 2, FFN, HIDDEN);
    put(&s, LAYER "mlp.up_proj.weight", KVI_FORM_F16, 2, FFN, HIDDEN);
    put(&s, LAYER "mlp.down_proj.weight", KVI_FORM_Q8_0, 2, HIDDEN, FFN);
    put(&s, LAYER "self_attn.q_proj.weight", form, 2, HIDDEN, HIDDEN);
    return s;
}

/* A backend that remembers what q_proj became, and has every form but one. */
static kvi_weight_desc seen;
static kvi_weight_form lacking;
static kvrt_status weigh(const kvi_weight_desc *desc, uint64_t *bytes, kvrt_error *error)
{
    if (desc->form == lacking) return kvi_error_set(error, KVRT_UNSUPPORTED, "tensor %s: lacking", desc->name);
    if (strstr(desc->name, "q_proj") || strstr(desc->name, "qkv_proj")) seen = *desc;
    *bytes = 7;
    return KVRT_OK;
}
static const kvi_backend backend = {.name = "test", .weight_bytes = weigh};

static kvrt_status bind(const shelf *s, kvrt_error *error, uint64_t *bytes)
{
    kvi_model_weights weights;
    memset(&seen, 0, sizeof seen);
    *error = (kvrt_error){.size = sizeof *error};
    kvrt_status status = kvi_weights_bind(&config, &s->base, &(kvi_weight_wish){.form = KVI_FORM_BF16}, &backend, NULL,
                                          NULL, NULL, &weights, error);
    if (status < KVRT_OK) return status;
    assert_int_equal(weights.taken_bytes, 11 * 7);
    *bytes = weights.bytes;
    kvi_weights_free(&weights);
    return status;
}

/* q, k and v in one tensor, gate and up in another: rows of it, in place; the plan counts each byte once. */
static void fused_tensors_are_bound_in_place(void **state)
{
    static uint8_t fused[64 * HIDDEN * 2], mlp[2 * FFN * HIDDEN * 2];
    kvrt_error error;
    uint64_t bytes = 0, fused_bytes = 0;
    lacking = KVI_FORM_NONE;
    shelf s = whole(KVI_FORM_F16);
    assert_int_equal(bind(&s, &error, &bytes), KVRT_OK);
    s.tensors[10].name = LAYER "self_attn.qkv_proj.weight"; /* was q */
    s.tensors[10].shape[0] = 64, s.tensors[10].data = fused;
    s.tensors[4].name = s.tensors[5].name = "nothing"; /* were k and v */
    s.tensors[7].name = LAYER "mlp.gate_up_proj.weight";
    s.tensors[7].shape[0] = 2 * FFN, s.tensors[7].data = mlp;
    s.tensors[8].name = "nothing";
    assert_int_equal(bind(&s, &error, &fused_bytes), KVRT_OK);
    assert_int_equal(fused_bytes, bytes);
    assert_ptr_equal(seen.parts[KVI_PART_CODES], fused);
    assert_true(seen.n_out == 16 && seen.rows.first == 48 && seen.rows.of == 64); /* v, the last of them */
    s.tensors[10].shape[0] = 63;
    assert_int_equal(bind(&s, &error, &fused_bytes), KVRT_FORMAT);
    assert_non_null(strstr(error.message, "qkv_proj.weight: shape [63, 32], need [64, 32]"));
}

/* Text models inside models that also see, and such without a head. */
static void prefixes_are_found(void **state)
{
    static const char *const prefixes[] = {"model.", "", "model.language_model.", "language_model.model."};
    kvrt_error error;
    uint64_t bytes = 0;
    lacking = KVI_FORM_NONE;
    for (unsigned i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        char names[11][96];
        shelf s = whole(KVI_FORM_F16);
        for (uint32_t t = 0; t < s.base.n_tensors; t++) {
            (void)snprintf(names[t], sizeof names[t], "%s%s", prefixes[i], s.tensors[t].name + strlen("model."));
            s.tensors[t].name = names[t];
        }
        assert_int_equal(bind(&s, &error, &bytes), KVRT_OK);
    }
}

static void scales_are_bound_with_their_codes(void **state)
{
    static const struct {
        uint32_t n_dims;
        uint64_t rows, cols;
        uint32_t group, group_rows; /* group_rows 0: refused */
    } cases[] = {{0, 0, 0, 0, HIDDEN}, {1, 1, 0, 0, HIDDEN}, {2, HIDDEN, 1, 0, 1}, {1, HIDDEN, 0, 0, 1},
                 {2, HIDDEN, 4, 8, 1}, {2, HIDDEN, 5, 0, 0}, {2, 2, 2, 0, 0},      {2, 7, 1, 0, 0},
                 {3, HIDDEN, 1, 0, 0}, {2, HIDDEN, 0, 0, 0}};
    lacking = KVI_FORM_NONE;
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        shelf s = whole(i % 2 ? KVI_FORM_I8 : KVI_FORM_F8_E4M3);
        kvrt_error error;
        uint64_t bytes = 0;
        put(&s, LAYER "self_attn.q_proj.weight_scale", KVI_FORM_BF16, cases[i].n_dims, cases[i].rows, cases[i].cols);
        s.tensors[s.base.n_tensors - 1].data = data + 999;
        const kvrt_status status = bind(&s, &error, &bytes);
        if (!cases[i].group_rows) {
            assert_int_equal(status, KVRT_UNSUPPORTED);
            assert_non_null(strstr(error.message, "q_proj.weight_scale: shape ["));
            continue;
        }
        assert_int_equal(status, KVRT_OK);
        assert_true(seen.group == cases[i].group && seen.group_rows == cases[i].group_rows);
        assert_true(seen.scale_type == KVI_BF16 && seen.parts[KVI_PART_SCALES] == data + 999);
        assert_true(seen.parts[KVI_PART_CODES] == data && !seen.parts[KVI_PART_ZEROS]);
        const uint64_t others =
            VOCAB * HIDDEN * 2 + 3 * HIDDEN * 4 + (16 + 16 + HIDDEN + 2 * FFN) * HIDDEN * 2 + HIDDEN * 68;
        const uint64_t n_scales =
            cases[i].group_rows == 1 ? HIDDEN * (cases[i].group ? HIDDEN / cases[i].group : 1) : 1;
        assert_int_equal(bytes, others + HIDDEN * HIDDEN + n_scales * 2);
    }
}

static void what_is_refused_is_named(void **state)
{
    kvrt_error error;
    uint64_t bytes;
    lacking = KVI_FORM_NONE;
    shelf s = whole(KVI_FORM_F8_E4M3);
    assert_int_equal(bind(&s, &error, &bytes), KVRT_UNSUPPORTED);
    assert_non_null(strstr(error.message, "q_proj.weight: dtype f8_e4m3 without scales"));
    s = whole(KVI_FORM_NONE);
    assert_int_equal(bind(&s, &error, &bytes), KVRT_UNSUPPORTED);
    assert_non_null(strstr(error.message, "q_proj.weight: dtype I64, need"));
    s = whole(KVI_FORM_Q4_K); /* 32 columns in blocks of 256 */
    assert_int_equal(bind(&s, &error, &bytes), KVRT_FORMAT);
    assert_non_null(strstr(error.message, "32 columns, need a multiple of 256 (q4_k)"));
    s = whole(KVI_FORM_Q4_0);
    assert_int_equal(bind(&s, &error, &bytes), KVRT_OK);
    assert_int_equal(seen.form, KVI_FORM_Q4_0);
    lacking = KVI_FORM_Q8_0; /* a plan refuses what the backend lacks */
    assert_int_equal(bind(&s, &error, &bytes), KVRT_UNSUPPORTED);
    assert_non_null(strstr(error.message, "down_proj.weight: lacking"));
}

/* Synthetic weights of every form are numbers of an ordinary size, of both signs, and rows differ; what does not divide is refused. */
static void synthetic_weights_are_numbers(void **state)
{
    enum { ROWS = 8, COLS = 512 };
    (void)state;
    for (int f = 0; f < KVI_FORM_COUNT; f++) {
        static unsigned char memory[KVI_WEIGHT_PARTS][ROWS * COLS * 4 + 64];
        float rows[ROWS][COLS];
        double sum = 0;
        kvi_weight_desc desc = {.name = "x", .form = (kvi_weight_form)f, .n_out = ROWS, .n_in = COLS};
        if (f == KVI_FORM_F64) continue;
        assert_int_equal(kvi_synthetic_shape(&desc), !kvi_form_is_plain(desc.form));
        for (int part = 0; part < KVI_WEIGHT_PARTS; part++) {
            if (part && !(kvi_form(desc.form)->needs >> part & 1u)) continue;
            desc.parts[part] = memory[part];
            kvi_synthetic_fill(desc.form, (kvi_weight_part)part, memory[part],
                               kvi_weight_part_bytes(&desc, (kvi_weight_part)part));
        }
        for (uint32_t r = 0; r < ROWS; r++) {
            assert_true(kvi_weight_decode(&desc, 0, r, 0, COLS, rows[r]));
            for (uint32_t k = 0; k < COLS; k++) {
                if (!(fabsf(rows[r][k]) <= 4.0f)) fail_msg("%s: %g", kvi_form(desc.form)->name, (double)rows[r][k]);
                sum += fabs((double)rows[r][k]) / (ROWS * COLS);
            }
        }
        if (!(sum > 1e-4 && sum < 1)) fail_msg("%s: mean size %g", kvi_form(desc.form)->name, sum);
        assert_memory_not_equal(rows[0], rows[1], sizeof rows[0]);
        desc.n_in = 268;
        if (kvi_form(desc.form)->block > 4) assert_true(!kvi_synthetic_shape(&desc) && desc.form == KVI_FORM_F16);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_the_published_ones),
        cmocka_unit_test(parts_add_up),
        cmocka_unit_test(codes_are_numbers),
        cmocka_unit_test(rows_may_be_part_of_a_tensor),
        cmocka_unit_test(fused_tensors_are_bound_in_place),
        cmocka_unit_test(prefixes_are_found),
        cmocka_unit_test(scales_are_bound_with_their_codes),
        cmocka_unit_test(what_is_refused_is_named),
        cmocka_unit_test(synthetic_weights_are_numbers),
    };
    return cmocka_run_group_tests_name("weights", tests, NULL, NULL);
}
