/* test_tiles_cuda.c - quantized weights on the CUDA backend, on the emulated device and on a card when there is one: rows of an embedding have the
 * numbers of weight_codec.h to the bit, and products are those of double precision, for every form that has a tile form and every edge of
 * panels, runs, blocks and groups. */
#include "kernels/tile_form.h"
#include "op_rig.h"
#include "runtime/kv/half.h"
#include "runtime/model/weight_codec.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define MAX_IN 1300u
#define MAX_OUT 130u
#define MAX_ROWS 70u
#define COUNT(a) ((uint32_t)(sizeof(a) / sizeof(a)[0]))

static const struct tile_case {
    kvi_weight_form form;
    uint32_t n_in, group, group_rows;
    kvi_dtype scale_type;
    bool zeros, shuffled, global, divides;
} cases[] = {
    {KVI_FORM_Q4_0, .n_in = 32},
    {KVI_FORM_Q4_0, .n_in = 1280},
    {KVI_FORM_Q4_1, .n_in = 576},
    {KVI_FORM_Q5_0, .n_in = 224},
    {KVI_FORM_Q5_1, .n_in = 800},
    {KVI_FORM_Q8_0, .n_in = 1056},
    {KVI_FORM_Q2_K, .n_in = 512},
    {KVI_FORM_Q3_K, .n_in = 768},
    {KVI_FORM_Q4_K, .n_in = 1280},
    {KVI_FORM_Q5_K, .n_in = 512},
    {KVI_FORM_Q6_K, .n_in = 768},
    {KVI_FORM_IQ4_NL, .n_in = 96},
    {KVI_FORM_IQ4_XS, .n_in = 512},
    {KVI_FORM_MXFP4_BLOCK, .n_in = 544},
    {KVI_FORM_NVFP4_BLOCK, .n_in = 1088},
    {KVI_FORM_I4, .n_in = 384, .group = 128, .scale_type = KVI_F16},
    {KVI_FORM_I4, .n_in = 300, .group = 64, .scale_type = KVI_BF16, .zeros = true},
    {KVI_FORM_I4, .n_in = 13, .scale_type = KVI_F32},
    {KVI_FORM_I4, .n_in = 257, .group = 32, .scale_type = KVI_F32, .zeros = true},
    {KVI_FORM_I4, .n_in = 1030, .group = 16, .scale_type = KVI_F16},
    {KVI_FORM_I4, .n_in = 1023, .group = 48, .group_rows = 16, .scale_type = KVI_BF16},
    {KVI_FORM_I4, .n_in = 272, .group = 128, .scale_type = KVI_F16, .zeros = true, .shuffled = true},
    {KVI_FORM_A2, .n_in = 320, .group = 64, .scale_type = KVI_BF16},
    {KVI_FORM_A3, .n_in = 264, .group = 32, .scale_type = KVI_F16},
    {KVI_FORM_A4, .n_in = 1088, .group = 64, .scale_type = KVI_BF16},
    {KVI_FORM_A5, .n_in = 512, .group = 128, .scale_type = KVI_F32},
    {KVI_FORM_A6, .n_in = 96, .group = 32, .scale_type = KVI_F16},
    {KVI_FORM_A8, .n_in = 640, .group = 64, .scale_type = KVI_BF16},
    {KVI_FORM_MXFP4, .n_in = 544, .group = 32},
    {KVI_FORM_NVFP4, .n_in = 336, .group = 16, .global = true},
    {KVI_FORM_NVFP4, .n_in = 512, .group = 16, .global = true, .divides = true},
    {KVI_FORM_I8, .n_in = 1025, .scale_type = KVI_F16},
    {KVI_FORM_I8, .n_in = 255, .scale_type = KVI_F32, .zeros = true},
    {KVI_FORM_I8, .n_in = 639, .group = 256, .group_rows = MAX_OUT, .scale_type = KVI_BF16},
    {KVI_FORM_F8_E4M3, .n_in = 300, .group = 128, .group_rows = 16, .scale_type = KVI_F32},
    {KVI_FORM_F8_E4M3, .n_in = 257, .scale_type = KVI_BF16, .global = true},
    {KVI_FORM_F8_E5M2, .n_in = 513, .group_rows = MAX_OUT, .scale_type = KVI_F32},
    {KVI_FORM_MXFP8, .n_in = 544, .group = 32},
    {KVI_FORM_NF4, .n_in = 640, .group = 64, .scale_type = KVI_F32},
    {KVI_FORM_BNB_FP4, .n_in = 256, .group = 128, .scale_type = KVI_F16},
};

/* Sums of f32 in the emulator's order; a tensor core cuts off what it adds to a larger sum. */
#define SUMS_EMULATED 2e-6
#define SUMS_CARD 2e-5
static op_target target = {.backend = &kvi_backend_cuda, .linear_f16 = SUMS_EMULATED};
static char emulated[1024];

static uint32_t bits(uint32_t n) { return (uint32_t)(op_uniform() * (double)(1ull << n)); }

/* ----------------------------------------------------------------------------------------------------- weights --- */
static uint8_t *random_part(op_rig *rig, kvi_weight_desc *desc, kvi_weight_part part, uint32_t misalign)
{
    const uint64_t n = kvi_weight_part_bytes(desc, part) + 8;
    uint8_t *p = op_rig_memory(rig, n);
    for (uint64_t i = 0; i < n; i++) p[i] = (uint8_t)bits(8);
    desc->parts[part] = p + misalign;
    return p + misalign;
}

/* Numbers of ordinary size where scales stand, so that sums can be judged. */
static void tame_numbers(kvi_weight_desc *desc, kvi_weight_part part, uint8_t *p)
{
    const kvi_scale_kind kind = kvi_form(desc->form)->scale;
    const uint32_t size = kvi_weight_scale_bytes(desc);
    for (uint64_t i = 0; i < kvi_weight_part_bytes(desc, part) / size; i++) {
        const float f = (bits(1) ? 0.01f : -0.01f) * (0.5f + (float)bits(10) / 2048.0f);
        const uint16_t h = desc->scale_type == KVI_F16 ? kvi_f32_to_f16(f) : kvi_f32_to_bf16(f);
        if (kind == KVI_SCALE_E4M3) p[i] = (uint8_t)(0x28 + bits(5));
        else if (kind == KVI_SCALE_E8M0) p[i] = (uint8_t)(119 + bits(3));
        else memcpy(p + i * size, size == 4 ? (const void *)&f : (const void *)&h, size);
    }
}

static void tame_blocks(const kvi_weight_desc *desc, uint8_t *p)
{
    const kvi_weight_form f = desc->form;
    const uint32_t bytes = kvi_form(f)->block_bytes, at = f == KVI_FORM_Q2_K   ? 80
                                                          : f == KVI_FORM_Q3_K ? 108
                                                          : f == KVI_FORM_Q6_K ? 208
                                                                               : 0;
    const bool mins =
        f == KVI_FORM_Q4_1 || f == KVI_FORM_Q5_1 || f == KVI_FORM_Q2_K || f == KVI_FORM_Q4_K || f == KVI_FORM_Q5_K;
    for (uint64_t i = 0; i < kvi_weight_part_bytes(desc, KVI_PART_CODES) / bytes; i++, p += bytes) {
        const uint16_t d = kvi_f32_to_f16(0.01f * (0.5f + (float)bits(10) / 2048.0f)),
                       m = kvi_f32_to_f16(bits(1) ? 0.013f : -0.02f);
        if (f == KVI_FORM_MXFP4_BLOCK) p[0] = (uint8_t)(120 + bits(3));
        else if (f == KVI_FORM_NVFP4_BLOCK)
            for (int g = 0; g < 4; g++) p[g] = (uint8_t)(0x28 + bits(5));
        else memcpy(p + at, &d, 2);
        if (mins) memcpy(p + at + 2, &m, 2);
    }
}

/* A weight of random codes; values (n_out, n_in) by weight_codec.h. */
static kvi_weight_desc random_weight(op_rig *rig, const struct tile_case *c, uint32_t n_out, float **values)
{
    kvi_weight_desc desc = {.name = "test.tiles",
                            .form = c->form,
                            .n_out = n_out,
                            .n_in = c->n_in,
                            .group = c->group,
                            .group_rows = c->group_rows,
                            .scale_type = c->scale_type,
                            .global_divides = c->divides};
    uint8_t *codes = random_part(rig, &desc, KVI_PART_CODES, n_out % 3u);
    if (c->form == KVI_FORM_F8_E4M3 || c->form == KVI_FORM_MXFP8 ||
        c->form == KVI_FORM_F8_E5M2) /* neither NaN nor infinity */
        for (uint64_t i = 0; i < kvi_weight_part_bytes(&desc, KVI_PART_CODES); i++)
            if ((codes[i] & 0x78u) == 0x78u) codes[i] &= 0xbfu;
    if (kvi_form(c->form)->needs) {
        tame_numbers(&desc, KVI_PART_SCALES, random_part(rig, &desc, KVI_PART_SCALES, 1));
        if (c->zeros) random_part(rig, &desc, KVI_PART_ZEROS, 0);
        for (uint64_t i = 0; c->zeros && c->form == KVI_FORM_I4 && i < kvi_weight_part_bytes(&desc, KVI_PART_ZEROS);
             i++)
            ((uint8_t *)(uintptr_t)desc.parts[KVI_PART_ZEROS])[i] &= 15u;
        if (kvi_form(c->form)->needs & KVI_HAS_MINS)
            tame_numbers(&desc, KVI_PART_MINS, random_part(rig, &desc, KVI_PART_MINS, 3));
        if (c->shuffled) {
            uint32_t *group = (uint32_t *)(void *)random_part(rig, &desc, KVI_PART_GROUPS, 0);
            for (uint32_t k = 0; k < desc.n_in; k++) group[k] = k / desc.group;
            for (uint32_t k = desc.n_in; k > 1; k--) {
                const uint32_t other = bits(16) % k, kept = group[k - 1];
                group[k - 1] = group[other], group[other] = kept;
            }
        }
        const float global = c->divides ? 24.0f : 0.03f;
        if (c->global) memcpy(random_part(rig, &desc, KVI_PART_GLOBAL, 0), &global, 4);
    } else tame_blocks(&desc, codes);
    *values = op_rig_memory(rig, (size_t)n_out * c->n_in * 4);
    for (uint32_t r = 0; r < n_out; r++)
        assert_true(kvi_weight_read(&desc, 0, r, 0, c->n_in, *values + (size_t)r * c->n_in));
    return desc;
}

static const kvi_weight *import(op_rig *rig, const kvi_weight_desc *desc)
{
    kvrt_error error = {.size = sizeof error};
    kvi_weight *weight = NULL;
    if (target.backend->weight_import(rig->device, desc, &weight, &error) < KVRT_OK) fail_msg("%s", error.message);
    return weight;
}

/* ----------------------------------------------------------------------------------------------------- numbers --- */
/* EMBED alone: the rows of the residual are read as they are. */
static void numbers_are_the_codecs(void **state)
{
    (void)state;
    static float out[5 * MAX_IN];
    for (uint32_t i = 0; i < COUNT(cases); i++) {
        op_rig rig;
        float *values;
        op_seed = 100 + i;
        op_rig_open(&rig, &target);
        const kvi_buffer x = op_rig_buffer(&rig, cases[i].n_in, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
        kvi_weight_desc desc = random_weight(&rig, &cases[i], 37, &values);
        desc.looked_up = i % 2;
        kvi_op *op = op_rig_op(&rig, KVI_OP_EMBED, x, x);
        op->n_weights = 1;
        op->weights[0] = import(&rig, &desc);
        rig.program.logits = x;
        rig.program.vocab_size = cases[i].n_in;
        assert_true(op_rig_load(&rig, 5, 1, 128, 0));
        const int32_t ids[5] = {36, 0, 15, 16, 31};
        const kvi_seq seq = {.n_rows = 5};
        op_rig_step(&rig, &(kvi_step){.ids = ids, .n_rows = 5, .seqs = &seq, .n_seqs = 1}, false, out);
        /* NF4 and its like are the sum of two f16, 22 bits of 24 */
        const bool is_split = desc.form == KVI_FORM_NF4 || desc.form == KVI_FORM_BNB_FP4;
        for (uint32_t r = 0; r < 5; r++)
            for (uint32_t k = 0; k < desc.n_in; k++) {
                const float want = values[(size_t)ids[r] * desc.n_in + k], got = out[r * desc.n_in + k];
                if (is_split ? !(fabsf(got - want) <= 3e-7f * fabsf(want)) : !(got == want))
                    fail_msg("%s, case %u, row %d, column %u: found %.9g, need %.9g", kvi_form(desc.form)->name, i,
                             (int)ids[r], k, (double)got, (double)want);
            }
        op_rig_close(&rig);
    }
}

/* ---------------------------------------------------------------------------------------------------- products --- */
/* io += x W^T, with a bias. */
static void product(const struct tile_case *c, uint32_t rows, uint32_t n_out, float *out)
{
    op_rig rig;
    float *w;
    char text[100];
    snprintf(text, sizeof text, "%s, group %u, %u rows, %u of %u", kvi_form(c->form)->name, c->group, rows, n_out,
             c->n_in);
    op_rig_open(&rig, &target);
    rig.inputs = KVI_F16; /* the operand holds them as they are, so nothing is rounded but sums */
    const kvi_buffer x = op_rig_buffer(&rig, c->n_in, KVI_ROWS_TOKEN, KVI_PRECISION_OPERAND),
                     y = op_rig_buffer(&rig, n_out, KVI_ROWS_TOKEN, KVI_PRECISION_RESIDUAL);
    const op_matrix in = op_rig_input(&rig, x, MAX_ROWS), before = op_rig_input(&rig, y, MAX_ROWS),
                    bias = op_rig_matrix(&rig, 1, n_out, KVI_F32, 0, 0.3, 0);
    const kvi_weight_desc desc = random_weight(&rig, c, n_out, &w);
    kvi_op *op = op_rig_op(&rig, KVI_OP_LINEAR_ADD, x, y);
    op->n_weights = 1;
    op->weights[0] = import(&rig, &desc);
    op->biases[0] = bias.weight;
    rig.program.logits = y;
    rig.program.vocab_size = n_out;
    assert_true(op_rig_load(&rig, rows, 1, 128, 0));
    op_rig_rows(&rig, rows, false, out);
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t o = 0; o < n_out; o++) {
            double want = before.values[r * n_out + o] + bias.values[o], size = fabs(want);
            for (uint32_t k = 0; k < c->n_in; k++) {
                const double term = (double)w[(size_t)o * c->n_in + k] * in.values[(size_t)r * c->n_in + k];
                want += term, size += fabs(term);
            }
            op_check(&target, text, r, o, (double)out[r * n_out + o], want,
                     target.linear_f16 * (size + fabs(want)) + 1e-6);
        }
    op_rig_close(&rig);
}

static void products_are_right(void **state)
{
    (void)state;
    static float out[MAX_ROWS * MAX_OUT];
    static const uint32_t rows[] = {1, 3, 8, 9, 33, 70}, outs[] = {2, 16, 17, 33, 63, 130};
    for (uint32_t i = 0; i < COUNT(cases); i++)
        for (uint32_t k = 0; k < COUNT(rows); k++)
            op_seed = i + 1, product(&cases[i], rows[k], outs[(i + k) % COUNT(outs)], out);
}

/* A row's bits are the same alone and among eight, of a panel's first and last outputs too. */
static void rows_do_not_meet(void **state)
{
    (void)state;
    static float one[MAX_OUT], eight[8 * MAX_OUT];
    for (uint32_t i = 0; i < COUNT(cases); i += 3) {
        op_seed = i + 1, product(&cases[i], 1, 33, one);
        op_seed = i + 1, product(&cases[i], 8, 33, eight);
        assert_memory_equal(one, eight, 33 * sizeof *one);
    }
}

/* What the device would compute wrongly is refused by name. */
static void no_number_is_refused(void **state)
{
    (void)state;
    op_rig rig;
    float *values;
    kvrt_error error = {.size = sizeof error};
    kvi_weight *weight = NULL;
    op_rig_open(&rig, &target);
    kvi_weight_desc desc =
        random_weight(&rig, &(struct tile_case){KVI_FORM_F8_E4M3, .n_in = 64, .scale_type = KVI_F32}, 20, &values);
    ((uint8_t *)(uintptr_t)desc.parts[KVI_PART_CODES])[64 * 19 + 63] = 0xff;
    assert_int_equal(target.backend->weight_import(rig.device, &desc, &weight, &error), KVRT_FORMAT);
    assert_non_null(strstr(error.message, "test.tiles"));
    op_rig_close(&rig);
}

int main(int argc, char **argv)
{
    const char *build = getenv("KVRT_BUILD_DIR"), *card = getenv("KVRT_TEST_CARD");
    char text[256];
    snprintf(emulated, sizeof emulated, "%s/libkvrt-emu-cuda.so", build ? build : "build");
    target.name = card ? "cuda" : "emulated cuda";
    if (card) target.linear_f16 = SUMS_CARD;
    else target.options.cuda_driver = emulated;
    if (!target.backend->probe(&target.options, text, sizeof text)) {
        printf("skipped: %s: %s\n", target.name, text);
        return 77;
    }
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(numbers_are_the_codecs), cmocka_unit_test(products_are_right),
                                       cmocka_unit_test(rows_do_not_meet), cmocka_unit_test(no_number_is_refused)};
    return cmocka_run_group_tests_name("quantized weights, cuda", tests, NULL, NULL);
}
