/* test_tiles.c - the CPU's tile form: its numbers are those of weight_codec.h to the bit, for every form that has it and every edge of rows,
 * runs, blocks and groups; and products of integers against double precision, with the activations rounded as dots.h says. */
#include "kernels/cpu/device_cpu.h"
#include "runtime/base/lcg.h"
#include "runtime/kv/half.h"
#include "runtime/model/quantize.h"
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
#define MAX_OUT 50u
#define MAX_X 45u
#define COUNT(a) ((uint32_t)(sizeof(a) / sizeof(a)[0]))

extern const kvi_cpu_dots kvi_dots_evex256, kvi_dots_emulated; /* of the *_avx512vnni.c beside this file */
extern const kvi_cpu_bf16 kvi_cpu_bf16_emulated;

typedef struct tile_case {
    kvi_weight_form form;
    uint32_t n_in, group, group_rows;
    kvi_dtype scale_type;
    bool zeros, shuffled, global, divides;
} tile_case;

static const tile_case cases[] = {
    {KVI_FORM_Q4_0, .n_in = 32},
    {KVI_FORM_Q4_0, .n_in = 288},
    {KVI_FORM_Q4_0, .n_in = 1280},
    {KVI_FORM_Q4_1, .n_in = 256},
    {KVI_FORM_Q4_1, .n_in = 576},
    {KVI_FORM_Q5_0, .n_in = 224},
    {KVI_FORM_Q5_0, .n_in = 512},
    {KVI_FORM_Q5_1, .n_in = 64},
    {KVI_FORM_Q5_1, .n_in = 800},
    {KVI_FORM_Q8_0, .n_in = 32},
    {KVI_FORM_Q8_0, .n_in = 1056},
    {KVI_FORM_Q2_K, .n_in = 256},
    {KVI_FORM_Q2_K, .n_in = 1280},
    {KVI_FORM_Q3_K, .n_in = 256},
    {KVI_FORM_Q3_K, .n_in = 768},
    {KVI_FORM_Q4_K, .n_in = 256},
    {KVI_FORM_Q4_K, .n_in = 1280},
    {KVI_FORM_Q5_K, .n_in = 512},
    {KVI_FORM_Q6_K, .n_in = 256},
    {KVI_FORM_Q6_K, .n_in = 1280},
    {KVI_FORM_IQ4_NL, .n_in = 96},
    {KVI_FORM_IQ4_NL, .n_in = 1056},
    {KVI_FORM_IQ4_XS, .n_in = 512},
    {KVI_FORM_MXFP4_BLOCK, .n_in = 32},
    {KVI_FORM_MXFP4_BLOCK, .n_in = 544},
    {KVI_FORM_NVFP4_BLOCK, .n_in = 64},
    {KVI_FORM_NVFP4_BLOCK, .n_in = 1088},
    {KVI_FORM_I4, .n_in = 384, .group = 128, .scale_type = KVI_F16},
    {KVI_FORM_I4, .n_in = 300, .group = 64, .scale_type = KVI_BF16, .zeros = true},
    {KVI_FORM_I4, .n_in = 13, .scale_type = KVI_F32},
    {KVI_FORM_I4, .n_in = 257, .group = 32, .scale_type = KVI_F32, .zeros = true},
    {KVI_FORM_I4, .n_in = 1030, .group = 16, .scale_type = KVI_F16},
    {KVI_FORM_I4, .n_in = 1024, .group = 512, .scale_type = KVI_F16, .zeros = true},
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
    {KVI_FORM_I8, .n_in = 33, .group = 32, .scale_type = KVI_F16, .zeros = true},
    {KVI_FORM_I8, .n_in = 400, .group = 384, .group_rows = 7, .scale_type = KVI_F32, .shuffled = true},
    {KVI_FORM_I8, .n_in = 639, .group = 256, .group_rows = MAX_OUT, .scale_type = KVI_BF16},
};

/* Those that are no integers: compared, not multiplied here. */
static const tile_case floats[] = {
    {KVI_FORM_F8_E4M3, .n_in = 300, .group = 128, .group_rows = 16, .scale_type = KVI_F32},
    {KVI_FORM_F8_E4M3, .n_in = 257, .scale_type = KVI_BF16, .global = true},
    {KVI_FORM_F8_E5M2, .n_in = 513, .group_rows = MAX_OUT, .scale_type = KVI_F32},
    {KVI_FORM_MXFP8, .n_in = 544, .group = 32},
    {KVI_FORM_NF4, .n_in = 640, .group = 64, .scale_type = KVI_F32},
    {KVI_FORM_BNB_FP4, .n_in = 256, .group = 128, .scale_type = KVI_F16},
};

static uint64_t seed;
static uint32_t bits(uint32_t n) { return (uint32_t)(kvi_lcg(&seed) >> 33) & (uint32_t)((1ull << n) - 1u); }
static float normal(void)
{
    double sum = 0;
    for (int i = 0; i < 12; i++) sum += bits(20) / 1048576.0;
    return (float)(sum - 6);
}

/* ----------------------------------------------------------------------------------------------------- weights --- */
typedef struct sample {
    kvi_device *device;
    kvi_weight_desc desc;
    kvi_weight *weight;
    void *parts[KVI_WEIGHT_PARTS];
    char text[120];
} sample;

static uint8_t *random_part(sample *s, kvi_weight_part part, uint32_t misalign)
{
    const uint64_t n = kvi_weight_part_bytes(&s->desc, part) * (s->desc.n_experts > 1 ? s->desc.n_experts : 1);
    uint8_t *bytes = s->parts[part] = malloc(n + 8);
    assert_non_null(bytes);
    for (uint64_t i = 0; i < n + 8; i++) bytes[i] = (uint8_t)bits(8);
    s->desc.parts[part] = bytes + misalign;
    return bytes + misalign;
}

static void put_half(uint8_t *p, double size)
{
    const uint16_t h = kvi_f32_to_f16((float)(size * (0.5 + bits(10) / 2048.0)));
    memcpy(p, &h, 2);
}

/* Scales that are numbers of ordinary size, so that sums of products can be judged. */
static void tame_blocks(sample *s, uint8_t *codes)
{
    const kvi_weight_form f = s->desc.form;
    const kvi_form_info *info = kvi_form(f);
    const uint64_t n = kvi_weight_part_bytes(&s->desc, KVI_PART_CODES) * s->desc.n_experts / info->block_bytes;
    for (uint64_t i = 0; i < n; i++, codes += info->block_bytes) {
        const uint32_t at = f == KVI_FORM_Q2_K ? 80 : f == KVI_FORM_Q3_K ? 108 : f == KVI_FORM_Q6_K ? 208 : 0;
        const bool mins =
            f == KVI_FORM_Q4_1 || f == KVI_FORM_Q5_1 || f == KVI_FORM_Q2_K || f == KVI_FORM_Q4_K || f == KVI_FORM_Q5_K;
        if (f == KVI_FORM_MXFP4_BLOCK) codes[0] = (uint8_t)(120 + bits(3));
        else if (f == KVI_FORM_NVFP4_BLOCK)
            for (int g = 0; g < 4; g++) codes[g] = (uint8_t)(0x28 + bits(5));
        else put_half(codes + at, 0.01);
        if (mins) put_half(codes + at + 2, bits(1) ? 0.02 : -0.02);
    }
}

static void tame_scales(sample *s, uint8_t *scales)
{
    const uint32_t size = kvi_weight_scale_bytes(&s->desc);
    if (kvi_form(s->desc.form)->scale == KVI_SCALE_E4M3) {
        for (uint64_t i = 0; i < kvi_weight_part_bytes(&s->desc, KVI_PART_SCALES) * s->desc.n_experts; i++)
            scales[i] = (uint8_t)(0x28 + bits(5));
        return;
    }
    if (kvi_form(s->desc.form)->scale == KVI_SCALE_E8M0) {
        for (uint64_t i = 0; i < kvi_weight_part_bytes(&s->desc, KVI_PART_SCALES) * s->desc.n_experts; i++)
            scales[i] = (uint8_t)(119 + bits(3));
        return;
    }
    const uint64_t n = kvi_weight_part_bytes(&s->desc, KVI_PART_SCALES) * s->desc.n_experts / size;
    for (uint64_t i = 0; i < n; i++) {
        const float f = (bits(1) ? 0.01f : -0.01f) * (0.5f + (float)bits(10) / 2048.0f);
        const uint16_t h = s->desc.scale_type == KVI_F16 ? kvi_f32_to_f16(f) : kvi_f32_to_bf16(f);
        memcpy(scales + i * size, size == 4 ? (const void *)&f : (const void *)&h, size);
    }
}

/* Columns of equal groups, in an order of chance. */
static void shuffle_groups(sample *s)
{
    for (uint32_t e = 0; e < s->desc.n_experts; e++) {
        uint32_t *group = (uint32_t *)s->parts[KVI_PART_GROUPS] + (size_t)e * s->desc.n_in;
        for (uint32_t k = 0; k < s->desc.n_in; k++) group[k] = k / s->desc.group;
        for (uint32_t k = s->desc.n_in; k > 1; k--) {
            const uint32_t other = bits(16) % k, kept = group[k - 1];
            group[k - 1] = group[other], group[other] = kept;
        }
    }
}

static sample make(const tile_case *c, const char *isa, uint32_t n_out, uint32_t n_experts, bool tame)
{
    sample s = {.desc = {.name = "test.tiles",
                         .form = c->form,
                         .n_out = n_out,
                         .n_in = c->n_in,
                         .n_experts = n_experts,
                         .group = c->group,
                         .group_rows = c->group_rows,
                         .scale_type = c->scale_type,
                         .global_divides = c->divides}};
    kvrt_error error = {.size = sizeof error};
    uint64_t bytes = 0;
    snprintf(s.text, sizeof s.text, "%s, group %u, %u of %u, %s", kvi_form(c->form)->name, c->group, n_out, c->n_in,
             isa);
    uint8_t *codes = random_part(&s, KVI_PART_CODES, n_out % 3u);
    if (kvi_form(c->form)->needs) {
        uint8_t *scales = random_part(&s, KVI_PART_SCALES, 1);
        if (tame) tame_scales(&s, scales);
        if (c->zeros) random_part(&s, KVI_PART_ZEROS, 0);
        for (uint64_t i = 0;
             c->zeros && c->form == KVI_FORM_I4 && i < kvi_weight_part_bytes(&s.desc, KVI_PART_ZEROS) * n_experts; i++)
            ((uint8_t *)s.parts[KVI_PART_ZEROS])[i] &= 15u;
        if (kvi_form(c->form)->needs & KVI_HAS_MINS) {
            uint8_t *mins = random_part(&s, KVI_PART_MINS, 3);
            if (tame) tame_scales(&s, mins);
        }
        if (c->shuffled) random_part(&s, KVI_PART_GROUPS, 0), shuffle_groups(&s);
        for (uint32_t e = 0; c->global && e < n_experts; e++) {
            const float global = c->divides ? 24.0f : 0.03f + (float)e;
            uint8_t *at = e ? (uint8_t *)s.parts[KVI_PART_GLOBAL] + 4 * e : random_part(&s, KVI_PART_GLOBAL, 0);
            memcpy(at, &global, 4);
        }
    } else if (tame) tame_blocks(&s, codes);
    assert_int_equal(kvi_backend_cpu.open(&(kvi_device_options){.n_threads = 2, .isa = isa}, &s.device, &error),
                     KVRT_OK);
    assert_int_equal(kvi_backend_cpu.weight_bytes(&s.desc, &bytes, &error), KVRT_OK);
    assert_int_equal(kvi_backend_cpu.weights_reserve(s.device, bytes, &error), KVRT_OK);
    const size_t reserved = s.device->arena.total_bytes;
    if (kvi_backend_cpu.weight_import(s.device, &s.desc, &s.weight, &error) < KVRT_OK) fail_msg("%s", error.message);
    assert_int_equal(s.device->arena.total_bytes, reserved); /* what weight_bytes said, and no more */
    assert_int_equal(s.device->arena.used_bytes, bytes);
    assert_true(s.weight->tile.bits);
    return s;
}

static void drop(sample *s)
{
    kvi_backend_cpu.close(s->device);
    for (uint32_t i = 0; i < KVI_WEIGHT_PARTS; i++) free(s->parts[i]);
}

static bool there(const char *isa)
{
    kvi_cpu cpu;
    kvi_os_cpu(&cpu);
    return kvi_cpu_choose(&cpu, isa) != NULL;
}

/* ----------------------------------------------------------------------------------------------------- lossless --- */
/* A zero has no sign here: codes are integers, and E2M1's -0 is 0. */
static bool same_number(float a, float b)
{
    return isnan(a) ? isnan(b) : (a == 0 && b == 0) || memcmp(&a, &b, sizeof a) == 0;
}

/* Every number of the weight, as the panels of a product have it. */
static void compare_numbers(const sample *s)
{
    const uint32_t panel = s->device->v->panel, n_in = s->desc.n_in;
    static float row[MAX_IN], packed[KVI_CPU_KC * 64u];
    const kvi_cpu_kernel *kernel = &s->device->v->tiled;
    for (uint32_t e = 0; e < s->desc.n_experts; e++)
        for (uint32_t first = 0; first < s->desc.n_out; first += panel) {
            const uint32_t n = s->desc.n_out - first < panel ? s->desc.n_out - first : panel;
            for (uint32_t r = 0; r < n; r++) {
                (void)kvi_weight_decode(&s->desc, e, first + r, 0, n_in, row);
                for (uint32_t k0 = 0; k0 < n_in; k0 += KVI_CPU_KC) {
                    const uint32_t n_k = n_in - k0 < KVI_CPU_KC ? n_in - k0 : KVI_CPU_KC;
                    kernel->pack(s->weight, e, first, n, k0, n_k, packed);
                    for (uint32_t k = 0; k < n_k; k++) {
                        const uint32_t column = s->weight->order ? s->weight->order[(size_t)e * n_in + k0 + k] : k0 + k;
                        if (!same_number(packed[(size_t)k * panel + r], row[column]))
                            fail_msg("%s: expert %u, row %u, column %u: %.9g, need %.9g", s->text, e, first + r, column,
                                     (double)packed[(size_t)k * panel + r], (double)row[column]);
                    }
                }
            }
        }
}

static void numbers_are_the_codecs(void **state)
{
    static const char *const sets[] = {"portable", "avx2", "avx512"};
    static const uint32_t outs[] = {2, 15, 16, 17, 33};
    (void)state;
    for (uint32_t set = 0; set < COUNT(sets); set++)
        for (uint32_t i = 0; there(sets[set]) && i < COUNT(cases); i++) {
            seed = 77 + i;
            sample s = make(&cases[i], sets[set], outs[(i + set) % COUNT(outs)], 2, false);
            compare_numbers(&s);
            drop(&s);
        }
    for (uint32_t set = 0; set < COUNT(sets); set++)
        for (uint32_t i = 0; there(sets[set]) && i < COUNT(floats); i++) {
            seed = 177 + i;
            sample s = make(&floats[i], sets[set], outs[(i + set) % COUNT(outs)], 2, false);
            assert_false(kvi_cpu_multiplies_integers(s.device, s.weight));
            compare_numbers(&s);
            drop(&s);
        }
}

static void odd_groups(void **state)
{
    const tile_case c = {KVI_FORM_I4, .n_in = 272, .group = 128, .scale_type = KVI_F16, .shuffled = true};
    kvrt_error error = {.size = sizeof error};
    kvi_weight *weight;
    (void)state;
    seed = 5;
    sample s = make(&c, "auto", 17, 1, true);
    uint32_t *group = s.parts[KVI_PART_GROUPS];
    for (uint32_t k = 0; k < 272; k++) group[k] = k / 128;
    assert_int_equal(kvi_backend_cpu.weight_import(s.device, &s.desc, &weight, &error), KVRT_OK);
    assert_true(weight->tile.bits && !weight->order); /* already in order */
    group[3] = 1;
    assert_int_equal(kvi_backend_cpu.weight_import(s.device, &s.desc, &weight, &error), KVRT_OK);
    assert_true(!weight->tile.bits && weight->kernel == &s.device->v->decoded); /* 127 and 129 columns */
    group[3] = 3;
    assert_int_equal(kvi_backend_cpu.weight_import(s.device, &s.desc, &weight, &error), KVRT_FORMAT);
    assert_non_null(strstr(error.message, "test.tiles"));
    drop(&s);
}

/* A weight that is rounded while it is imported is the one that would have been rounded before: in tiles, in rows where there is no tile form or
 * rows are looked up, and its rows read back. */
static void rounded_on_import(void **state)
{
    static const struct {
        kvi_weight_form form, from;
        uint32_t n_in, n_out, n_experts, group;
        bool looked_up, transposed, tiles;
        kvi_weight_rows rows;
    } all[] = {
        {KVI_FORM_I4, KVI_FORM_BF16, 384, 33, 1, 128, .tiles = true},
        {KVI_FORM_I4, KVI_FORM_F16, 256, 16, 2, 32, .tiles = true},
        {KVI_FORM_I4, KVI_FORM_F32, 513, 17, 1, 0, .tiles = true},
        {KVI_FORM_I8, KVI_FORM_BF16, 301, 15, 3, 0, .tiles = true},
        {KVI_FORM_I8, KVI_FORM_F32, 640, 40, 1, 64, .tiles = true},
        {KVI_FORM_I8, KVI_FORM_F16, 300, 35, 1, 0, .looked_up = true},
        {KVI_FORM_I4, KVI_FORM_BF16, 240, 18, 2, .group = 24},
        {KVI_FORM_I4, KVI_FORM_BF16, 128, 20, 2, 64, .tiles = true, .rows = {1, 1, 2, 40}},
        {KVI_FORM_I4, KVI_FORM_BF16, 128, 20, 2, 64, .tiles = true, .transposed = true},
        {KVI_FORM_I8, KVI_FORM_Q8_0, 288, 19, 1, 0, .tiles = true},
    };
    static float want[MAX_IN], found[MAX_IN], packed[KVI_CPU_KC * 64u];
    (void)state;
    for (uint32_t i = 0; i < COUNT(all); i++) {
        kvrt_error error = {.size = sizeof error};
        sample s = {.desc = {.name = "test.source",
                             .form = all[i].from,
                             .n_out = all[i].rows.of ? all[i].rows.of : all[i].n_out,
                             .n_in = all[i].n_in,
                             .n_experts = all[i].n_experts}};
        seed = 300 + i;
        uint8_t *bytes = random_part(&s, KVI_PART_CODES, 0);
        const uint64_t n = kvi_weight_bytes(&s.desc);
        for (uint64_t k = 0; k < n / 4 && all[i].from == KVI_FORM_F32; k++) ((float *)(void *)bytes)[k] = normal();
        for (uint64_t k = 0; k < n / 2 && kvi_form_is_plain(all[i].from) && all[i].from != KVI_FORM_F32; k++)
            ((uint16_t *)(void *)bytes)[k] =
                all[i].from == KVI_FORM_F16 ? kvi_f32_to_f16(normal()) : kvi_f32_to_bf16(normal());
        if (!kvi_form_is_plain(all[i].from)) tame_blocks(&s, bytes);
        s.desc.n_out = all[i].n_out, s.desc.rows = all[i].rows, s.desc.transposed = all[i].transposed;
        kvi_weight_desc made = {.name = "test.rounded",
                                .form = all[i].form,
                                .n_out = all[i].n_out,
                                .n_in = all[i].n_in,
                                .n_experts = all[i].n_experts,
                                .group = all[i].group,
                                .scale_type = KVI_BF16,
                                .is_unsigned = true,
                                .looked_up = all[i].looked_up,
                                .source = &s.desc};
        const uint64_t n_codes = kvi_weight_part_bytes(&made, KVI_PART_CODES),
                       n_scales = kvi_weight_part_bytes(&made, KVI_PART_SCALES);
        uint8_t *codes = malloc(n_codes * made.n_experts), *scales = malloc(n_scales * made.n_experts);
        float *scratch = malloc(kvi_quantize_scratch(&made) * sizeof *scratch);
        for (uint32_t e = 0; e < made.n_experts; e++)
            kvi_quantize_rows(&made, e, 0, made.n_out, scratch, codes + e * n_codes, scales + e * n_scales);
        kvi_weight_desc stored = made;
        stored.source = NULL;
        stored.parts[KVI_PART_CODES] = codes, stored.parts[KVI_PART_SCALES] = scales;
        uint64_t taken = 0;
        assert_int_equal(kvi_backend_cpu.open(&(kvi_device_options){.n_threads = 3, .isa = "auto"}, &s.device, &error),
                         KVRT_OK);
        assert_int_equal(kvi_backend_cpu.weight_bytes(&made, &taken, &error), KVRT_OK);
        assert_int_equal(kvi_backend_cpu.weights_reserve(s.device, taken, &error), KVRT_OK);
        assert_int_equal(kvi_backend_cpu.weight_import(s.device, &made, &s.weight, &error), KVRT_OK);
        assert_int_equal(s.device->arena.used_bytes, taken);
        assert_true(!s.weight->tile.bits == !all[i].tiles && !s.weight->desc.source);
        const uint32_t panel = s.device->v->panel;
        for (uint32_t e = 0; e < made.n_experts; e++)
            for (uint32_t r = 0; r < made.n_out; r++) {
                (void)kvi_weight_decode(&stored, e, r, 0, made.n_in, want);
                if (e == 0) {
                    kvi_cpu_weight_row(s.device, s.weight, r, found);
                    assert_memory_equal(found, want, made.n_in * sizeof *want);
                }
                for (uint32_t k0 = 0; k0 < made.n_in; k0 += KVI_CPU_KC) {
                    const uint32_t n_k = made.n_in - k0 < KVI_CPU_KC ? made.n_in - k0 : KVI_CPU_KC;
                    s.weight->kernel->pack(s.weight, e, r, 1, k0, n_k, packed);
                    for (uint32_t k = 0; k < n_k; k++)
                        if (!same_number(packed[(size_t)k * panel], want[k0 + k]))
                            fail_msg("case %u, expert %u, row %u, column %u: %g, need %g", i, e, r, k0 + k,
                                     (double)packed[(size_t)k * panel], (double)want[k0 + k]);
                }
            }
        drop(&s);
        free(codes), free(scales), free(scratch);
    }
}

/* ----------------------------------------------------------------------------------------------------- products --- */
static const kvi_cpu_dots *ways[6];
static uint32_t n_ways;

static void find_ways(void)
{
    kvi_cpu cpu;
    kvi_os_cpu(&cpu);
    ways[n_ways++] = &kvi_dots_portable;
#if defined(__x86_64__)
    if (there("avx2")) ways[n_ways++] = &kvi_dots_avx2;
    if (there("avx2") && cpu.avx_vnni) ways[n_ways++] = &kvi_dots_avxvnni;
    if (cpu.avx512_vnni) {
        ways[n_ways++] = &kvi_dots_evex256, ways[n_ways++] = &kvi_dots_avx512vnni;
        ways[n_ways++] = &kvi_dots_emulated; /* no gemv */
    }
#endif
}

/* One product's inputs, and what comes out in double precision. */
typedef struct bench {
    sample s;
    float x[MAX_X][MAX_IN];
    double want[MAX_X][MAX_OUT], limit[MAX_X][MAX_OUT];
    uint8_t *memory, *alone;
    kvi_dots_input in;
    void *scratch;
} bench;

/* The step of a form as its table says: its group, 128 at most. */
static uint32_t step_of(const tile_case *c)
{
    if (!kvi_form(c->form)->needs)
        return c->form == KVI_FORM_Q2_K || c->form == KVI_FORM_Q3_K || c->form == KVI_FORM_Q6_K ||
                       c->form == KVI_FORM_NVFP4_BLOCK
                   ? 16
                   : 32;
    if (!c->group || c->group >= c->n_in) return 128;
    uint32_t step = 128;
    while (c->group % step) step /= 2;
    return step;
}

/* Row r of x at the places of the weight, rounded: s a, with sizes for the limit. */
static void round_row(const bench *b, const tile_case *c, uint32_t r, double *out)
{
    const uint32_t step = step_of(c), n = c->n_in;
    for (uint32_t k = 0; k < n; k += step) {
        float most = 0;
        for (uint32_t i = k; i < k + step && i < n; i++) {
            const float x = fabsf(b->x[r][b->s.weight->order ? b->s.weight->order[i] : i]);
            if (x > most) most = x;
        }
        for (uint32_t i = k; i < k + step && i < n; i++) {
            const float x = b->x[r][b->s.weight->order ? b->s.weight->order[i] : i];
            out[i] = most > 0 ? (double)nearbyintf(x * (127.0f / most)) * (double)(most / 127.0f) : 0;
        }
    }
}

static void fill_x(bench *b, uint32_t n_in)
{
    for (uint32_t r = 0; r < MAX_X; r++)
        for (uint32_t k = 0; k < n_in; k++) {
            b->x[r][k] = normal() * (float)(1 + r % 3);
            if (k % 97 == 5) b->x[r][k] *= 30; /* outliers */
            if (r == 2 || (r == 3 && k < 130)) b->x[r][k] = 0;
        }
}

static void fill_want(bench *b, const tile_case *c)
{
    static float w[MAX_IN];
    static double x[MAX_IN];
    for (uint32_t r = 0; r < MAX_X; r++) {
        round_row(b, c, r, x);
        for (uint32_t o = 0; o < b->s.desc.n_out; o++) {
            double most = 0, size = 0;
            (void)kvi_weight_decode(&b->s.desc, 0, o, 0, c->n_in, w);
            b->want[r][o] = 0;
            for (uint32_t i = 0; i < c->n_in; i++) {
                const double v = (double)w[b->s.weight->order ? b->s.weight->order[i] : i];
                b->want[r][o] += v * x[i];
                size += fabs(x[i]);
                if (fabs(v) > most) most = fabs(v);
            }
            b->limit[r][o] = 3e-6 * most * size + 1e-30; /* f32 sums over steps, of codes before zeros are taken off */
        }
    }
}

static void open_bench(bench *b, const tile_case *c)
{
    seed = 1234 + c->n_in + (uint32_t)c->form;
    b->s = make(c, "auto", MAX_OUT - c->n_in % 7u, 1, true);
    fill_x(b, c->n_in);
    fill_want(b, c);
    const uint64_t bytes = kvi_dots_input_bytes(c->n_in, MAX_X);
    b->memory = kvi_mem_alloc_aligned(bytes);
    b->alone = kvi_mem_alloc_aligned(bytes);
    b->scratch = kvi_mem_alloc_aligned(kvi_dots_scratch());
    assert_true(b->memory && b->alone && b->scratch);
    memset(b->memory, 0xa5, bytes), memset(b->alone, 0x5a, bytes); /* nothing may depend on what was there */
}

static void close_bench(bench *b)
{
    kvi_mem_free_aligned(b->memory), kvi_mem_free_aligned(b->alone), kvi_mem_free_aligned(b->scratch);
    drop(&b->s);
}

static kvi_dots_input codes_of(const bench *b, const kvi_cpu_dots *way, uint32_t first, uint32_t n, bool for_gemv,
                               uint8_t *memory)
{
    const kvi_tile *t = &b->s.weight->tile;
    const kvi_dots_input in = kvi_dots_input_at(t, n, for_gemv, memory);
    assert_true((uint64_t)((uint8_t *)(in.starts + (n + 3u) / 4u * 4u * in.n_steps) - memory) <=
                kvi_dots_input_bytes(t->n_in, n));
    for (uint32_t g = 0; g < (n + 3u) / 4u; g++) way->quantize(t, b->x[first], MAX_IN, n, b->s.weight->order, g, &in);
    return in;
}

static void check_row(const bench *b, const kvi_cpu_dots *way, const char *what, uint32_t r, uint32_t first, uint32_t n,
                      const float *y)
{
    for (uint32_t i = 0; i < n; i++)
        if (!(fabs((double)y[i] - b->want[r][first + i]) <= b->limit[r][first + i]))
            fail_msg("%s, %s %s: row %u, output %u: %.9g, need %.9g", b->s.text, way->name, what, r, first + i,
                     (double)y[i], b->want[r][first + i]);
}

/* All outputs, and some that begin and end inside a panel, of many rows and of each alone. */
static void products_of(bench *b, const kvi_cpu_dots *way)
{
    static float few[MAX_X][MAX_OUT], many[MAX_X][MAX_OUT], one[4 * MAX_OUT], other[MAX_X][MAX_OUT];
    const kvi_tile *t = &b->s.weight->tile;
    const uint8_t *panels = b->s.weight->panels;
    const uint32_t n = t->n_out;
    const kvi_dots_input in = codes_of(b, way, 0, MAX_X, false, b->memory);
    for (uint32_t r = 0; way->gemv && r < MAX_X; r += 4)
        way->gemv(t, panels, 0, n, &in, r, MAX_X - r < 4 ? MAX_X - r : 4, few[r], MAX_OUT);
    way->gemm(t, panels, 0, n, &in, MAX_X, b->scratch, many[0], MAX_OUT);
    for (uint32_t r = 0; r < MAX_X; r++) {
        if (way->gemv) check_row(b, way, "gemv", r, 0, n, few[r]);
        check_row(b, way, "gemm", r, 0, n, many[r]);
        kvi_dots_input alone;
        if (way->gemv) {
            alone = codes_of(b, way, r, 1, true, b->alone);
            way->gemv(t, panels, 0, n, &alone, 0, 1, one, MAX_OUT);
            assert_memory_equal(one, few[r], n * sizeof *one);
        }
        alone = codes_of(b, way, r, 1, false, b->alone);
        way->gemm(t, panels, 0, n, &alone, 1, b->scratch, one, MAX_OUT);
        assert_memory_equal(one, many[r], n * sizeof *one);
        if (way->gemv) assert_memory_equal(few[r], many[r], n * sizeof *one); /* which way is taken shows nowhere */
    }
    for (uint32_t rows = 1; way->gemv && rows <= MAX_X; rows += rows < 17 ? 1 : 7) { /* as many at once as there are */
        const kvi_dots_input some_rows = codes_of(b, way, 0, rows, true, b->alone);
        way->gemv(t, panels, 0, n, &some_rows, 0, rows, other[0], MAX_OUT);
        for (uint32_t j = 0; j < rows; j++) assert_memory_equal(other[j], few[j], n * sizeof *one);
    }
    for (uint32_t rows = 4; way->gemv && rows <= 6; rows++) { /* the fifth lies alone */
        const kvi_dots_input some_rows = codes_of(b, way, 0, rows, true, b->alone);
        way->gemv(t, panels, 0, n, &some_rows, rows / 5 * 4, rows - rows / 5 * 4, one, MAX_OUT);
        for (uint32_t j = rows / 5 * 4; j < rows; j++)
            assert_memory_equal(one + j % 4 * MAX_OUT, few[j], n * sizeof *one);
    }
    for (uint32_t n_x = 2; way->gemv && n_x <= 3; n_x++) {
        way->gemv(t, panels, 0, n, &in, 4, n_x, one, MAX_OUT);
        for (uint32_t j = 0; j < n_x; j++) assert_memory_equal(one + j * MAX_OUT, few[4 + j], n * sizeof *one);
    }
    const uint32_t first = 5, some = n - 12;
    if (way->gemv) {
        way->gemv(t, panels, first, some, &in, 0, 1, one, MAX_OUT);
        assert_memory_equal(one, few[0] + first, some * sizeof *one);
    }
    memset(other, 0, sizeof other);
    way->gemm(t, panels, first, some, &in, MAX_X, b->scratch, other[0], MAX_OUT);
    for (uint32_t r = 0; r < MAX_X; r++) {
        assert_memory_equal(other[r], many[r] + first, some * sizeof *one);
        for (uint32_t i = some; i < MAX_OUT; i++) assert_true(other[r][i] == 0);
    }
}

static void products_are_right(void **state)
{
    bench *b = calloc(1, sizeof *b);
    (void)state;
    assert_non_null(b);
    for (uint32_t i = 0; i < COUNT(cases); i++) {
        open_bench(b, &cases[i]);
        for (uint32_t w = 0; w < n_ways; w++) products_of(b, ways[w]);
        close_bench(b);
    }
    free(b);
}

/* Largest codes everywhere: nothing may overflow on the way. */
static void extremes_fit(void **state)
{
    static const tile_case extreme[] = {{KVI_FORM_Q4_0, .n_in = 512},
                                        {KVI_FORM_Q5_0, .n_in = 512},
                                        {KVI_FORM_Q6_K, .n_in = 512},
                                        {KVI_FORM_Q8_0, .n_in = 512},
                                        {KVI_FORM_IQ4_NL, .n_in = 512},
                                        {KVI_FORM_NVFP4_BLOCK, .n_in = 512},
                                        {KVI_FORM_I8, .n_in = 1024, .scale_type = KVI_F32}};
    bench *b = calloc(1, sizeof *b);
    (void)state;
    assert_non_null(b);
    for (uint32_t i = 0; i < COUNT(extreme); i++)
        for (uint32_t fill = 0; fill < 2; fill++) {
            open_bench(b, &extreme[i]);
            const uint64_t n = kvi_weight_part_bytes(&b->s.desc, KVI_PART_CODES);
            uint8_t *codes = (uint8_t *)(uintptr_t)b->s.desc.parts[KVI_PART_CODES];
            memset(codes, fill ? 0xff : 0, n);
            if (extreme[i].form == KVI_FORM_I8) memset(codes, fill ? 0x7f : 0x80, n);
            else tame_blocks(&b->s, codes);
            if (extreme[i].form == KVI_FORM_Q8_0)
                for (uint64_t k = 0; k < n; k++)
                    if (k % 34 >= 2) codes[k] = fill ? 0x7f : 0x80;
            for (uint32_t r = 0; r < MAX_X; r++)
                for (uint32_t k = 0; k < extreme[i].n_in; k++) b->x[r][k] = r % 2 ? -3.0f : 3.0f;
            for (uint32_t p = 0; p < kvi_tile_panels(&b->s.weight->tile); p++)
                kvi_tile_lay(&b->s.weight->tile, &b->s.desc, 0, p, NULL,
                             (uint8_t *)(uintptr_t)b->s.weight->panels + p * b->s.weight->tile.panel_bytes);
            fill_want(b, &extreme[i]);
            for (uint32_t w = 0; w < n_ways; w++) products_of(b, ways[w]);
            close_bench(b);
        }
    free(b);
}

/* What is not a number must not become one. */
static void wrong_activations_show(void **state)
{
    static const float wrong[] = {NAN, INFINITY, -INFINITY};
    bench *b = calloc(1, sizeof *b);
    (void)state;
    assert_non_null(b);
    open_bench(b, &cases[4]);
    for (uint32_t i = 0; i < COUNT(wrong); i++)
        for (uint32_t w = 0; w < n_ways; w++) {
            float y[2 * MAX_OUT];
            fill_x(b, cases[4].n_in);
            b->x[1][313] = wrong[i];
            const kvi_dots_input in = codes_of(b, ways[w], 0, 2, false, b->memory);
            ways[w]->gemm(&b->s.weight->tile, b->s.weight->panels, 0, b->s.desc.n_out, &in, 2, b->scratch, y, MAX_OUT);
            for (uint32_t o = 0; o < b->s.desc.n_out; o++) assert_true(isfinite(y[o]) && !isfinite(y[MAX_OUT + o]));
        }
    close_bench(b);
    free(b);
}

#if defined(__x86_64__)
/* Products of BF16 weights that round activations to BF16, n_rows of them, more k than a panel has. */
static void bf16_of(const kvi_cpu_bf16 *way, uint32_t n_rows)
{
    enum { IN = KVI_CPU_BF16_DEPTH + 32, OUT = 64, ROWS = 37 };
    static uint16_t w[OUT][IN];
    static float x[ROWS][IN], bias[OUT], y[ROWS][OUT];
    void *packed = kvi_mem_alloc_aligned((size_t)64 * IN * 2), *scratch = kvi_mem_alloc_aligned(KVI_CPU_BF16_SCRATCH);
    seed = 99;
    assert_true(n_rows <= ROWS);
    for (uint32_t o = 0; o < OUT; o++) {
        bias[o] = normal();
        for (uint32_t k = 0; k < IN; k++) w[o][k] = kvi_f32_to_bf16(normal());
    }
    for (uint32_t r = 0; r < ROWS; r++)
        for (uint32_t k = 0; k < IN; k++) x[r][k] = normal();
    for (uint32_t r = 0; r < ROWS; r++)
        for (uint32_t o = 0; o < OUT; o++) y[r][o] = 1;
    for (uint32_t block = 0; block < (n_rows + 31u) / 32u * 2u; block++)
        way->pack_block(x[0], n_rows, IN, block, packed);
    way->gemm(w, OUT, IN, packed, n_rows, bias, true, scratch, y[0], OUT);
    for (uint32_t r = 0; r < ROWS; r++)
        for (uint32_t o = 0; o < OUT; o++) {
            double want = 1 + (double)bias[o], size = 0;
            for (uint32_t k = 0; k < IN; k++) {
                const double p = (double)kvi_bf16_to_f32(w[o][k]) * (double)kvi_bf16_to_f32(kvi_f32_to_bf16(x[r][k]));
                want += p, size += fabs(p);
            }
            if (r >= n_rows) want = 1, size = 0;
            assert_true(fabs((double)y[r][o] - want) <= 2e-6 * (size + fabs(want)));
        }
    kvi_mem_free_aligned(packed);
    kvi_mem_free_aligned(scratch);
}

static void bf16_products_are_right(void **state)
{
    static const uint32_t rows[] = {1, 4, 5, 8, 9, 12, 13, 16, 17, 37};
    kvi_cpu cpu;
    (void)state;
    kvi_os_cpu(&cpu);
    if (n_ways < 3) skip(); /* no AVX-512 */
    for (uint32_t i = 0; i < COUNT(rows); i++) {
        bf16_of(&kvi_cpu_bf16_emulated, rows[i]);
        if (cpu.avx512_bf16) bf16_of(&kvi_cpu_bf16_avx512, rows[i]);
    }
}
#endif

/* Plain rows: how many are walked side by side, and what is asked for in advance, changes no bit. Which numbers a CPU is given depends on its
 * maker, so that no machine would run both. */
static void streams_change_nothing(void **state)
{
    static const char *const sets[] = {"portable", "avx2", "avx512"};
    static const kvi_weight_form forms[] = {KVI_FORM_F32, KVI_FORM_F16, KVI_FORM_BF16};
    enum { OUT = 19, IN = 333 };
    static uint8_t rows[OUT * IN * 4];
    float x[IN], y[3][OUT];
    kvrt_error error = {.size = sizeof error};
    (void)state;
    for (uint32_t i = 0; i < IN; i++) x[i] = normal();
    for (uint32_t i = 0; i < COUNT(sets) * COUNT(forms); i++) {
        kvi_device *device;
        kvi_weight *w;
        kvi_weight_desc desc = {
            .name = "rows", .form = forms[i % 3], .n_out = OUT, .n_in = IN, .n_experts = 1, .parts = {rows}};
        if (!there(sets[i / 3])) continue;
        for (uint32_t k = 0; k < OUT * IN; k++) {
            const float f = normal();
            const uint16_t half = forms[i % 3] == KVI_FORM_F16 ? kvi_f32_to_f16(f) : kvi_f32_to_bf16(f);
            if (forms[i % 3] == KVI_FORM_F32) memcpy(rows + 4 * k, &f, 4);
            else memcpy(rows + 2 * k, &half, 2);
        }
        assert_int_equal(
            kvi_backend_cpu.open(&(kvi_device_options){.n_threads = 1, .isa = sets[i / 3]}, &device, &error), KVRT_OK);
        uint64_t bytes;
        assert_int_equal(kvi_backend_cpu.weight_bytes(&desc, &bytes, &error), KVRT_OK);
        assert_int_equal(kvi_backend_cpu.weights_reserve(device, bytes, &error), KVRT_OK);
        assert_int_equal(kvi_backend_cpu.weight_import(device, &desc, &w, &error), KVRT_OK);
        for (uint32_t n = 1; n <= OUT; n++) {
            for (uint32_t way = 0; way < 3; way++) {
                memset(y[way], 0xff, sizeof y[way]);
                w->streams = way ? 8 : 4, w->ahead = way < 2 ? 384 : 0;
                w->kernel->gemv(w, 0, 0, n, x, 1, IN, y[way], OUT);
                assert_memory_equal(y[way], y[0], sizeof y[0]);
            }
            double want = 0;
            for (uint32_t k = 0; k < IN; k++) {
                float row[IN];
                (void)kvi_weight_decode(&desc, 0, n - 1, 0, IN, row);
                want += (double)row[k] * (double)x[k];
            }
            assert_true(fabs((double)y[0][n - 1] - want) < 1e-3);
        }
        kvi_backend_cpu.close(device);
    }
}

int main(void)
{
    find_ways();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_the_codecs),
        cmocka_unit_test(odd_groups),
        cmocka_unit_test(rounded_on_import),
        cmocka_unit_test(products_are_right),
        cmocka_unit_test(extremes_fit),
        cmocka_unit_test(wrong_activations_show),
#if defined(__x86_64__)
        cmocka_unit_test(bf16_products_are_right),
#endif
        cmocka_unit_test(streams_change_nothing)
    };
    return cmocka_run_group_tests_name("tile form", tests, NULL, NULL);
}
