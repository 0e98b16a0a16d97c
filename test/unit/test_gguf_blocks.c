/* test_gguf_blocks.c - every form of GGUF block against the package gguf, bit for bit: test/golden/gguf/blocks.bin, random blocks and scales
 * at every edge of F16 (zero, subnormal, largest, infinite, NaN), every exponent of MXFP4 and scale of NVFP4. */
#include "../../runtime/model/gguf_blocks.h"
#include "../../runtime/base/os.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* Numbers in the file, and the forms that they are. */
static const struct {
    uint32_t type;
    kvi_weight_form form;
} forms[] = {{2, KVI_FORM_Q4_0},         {3, KVI_FORM_Q4_1},        {6, KVI_FORM_Q5_0},    {7, KVI_FORM_Q5_1},
             {8, KVI_FORM_Q8_0},         {10, KVI_FORM_Q2_K},       {11, KVI_FORM_Q3_K},   {12, KVI_FORM_Q4_K},
             {13, KVI_FORM_Q5_K},        {14, KVI_FORM_Q6_K},       {20, KVI_FORM_IQ4_NL}, {23, KVI_FORM_IQ4_XS},
             {39, KVI_FORM_MXFP4_BLOCK}, {40, KVI_FORM_NVFP4_BLOCK}};
#define N_FORMS (sizeof forms / sizeof forms[0])

/* NaN is NaN, whatever its payload; zeros have signs. */
static bool same(float a, const uint8_t *expected)
{
    float b;
    memcpy(&b, expected, sizeof b);
    return isnan(a) ? isnan(b) : memcmp(&a, &b, sizeof a) == 0;
}

static void check_form(kvi_weight_form form, const uint8_t *blocks, uint32_t n_blocks, const uint8_t *values)
{
    const uint32_t n = kvi_form(form)->block, bytes = kvi_form(form)->block_bytes;
    float out[KVI_MAX_FORM_BLOCK];
    for (uint32_t b = 0; b < n_blocks; b++) {
        uint8_t *exact = malloc(bytes); /* AddressSanitizer sees a read past it */
        memcpy(exact, blocks + (size_t)b * bytes, bytes);
        assert_true(kvi_gguf_block(form, exact, out));
        free(exact);
        for (uint32_t i = 0; i < n; i++)
            if (!same(out[i], values + 4 * ((size_t)b * n + i)))
                fail_msg("%s block %u element %u: %a", kvi_form(form)->name, b, i, (double)out[i]);
    }
}

static void blocks_are_those_of_the_package(void **state)
{
    kvi_map map;
    kvrt_error error = {.size = sizeof error};
    bool seen[N_FORMS] = {false};
    if (kvi_os_map(KVRT_TEST_DIR "/golden/gguf/blocks.bin", NULL, &map, &error) < KVRT_OK)
        fail_msg("%s", error.message);
    for (uint64_t at = 0; at < map.len;) {
        uint32_t header[4]; /* type, blocks, bytes of a block, weights of a block */
        memcpy(header, map.data + at, sizeof header);
        size_t k = 0;
        while (k < N_FORMS && forms[k].type != header[0]) k++;
        assert_true(k < N_FORMS);
        seen[k] = true;
        assert_int_equal(kvi_form(forms[k].form)->block, header[3]);
        assert_int_equal(kvi_form(forms[k].form)->block_bytes, header[2]);
        const uint8_t *blocks = map.data + at + sizeof header, *values = blocks + (size_t)header[1] * header[2];
        check_form(forms[k].form, blocks, header[1], values);
        at += sizeof header + (uint64_t)header[1] * (header[2] + 4 * header[3]);
    }
    for (size_t k = 0; k < N_FORMS; k++) assert_true(seen[k]);
    kvi_os_unmap(&map);
}

static void other_forms_are_none(void **state)
{
    float out[KVI_MAX_FORM_BLOCK];
    static const uint8_t block[256];
    assert_false(kvi_gguf_block(KVI_FORM_F32, block, out));
    assert_false(kvi_gguf_block(KVI_FORM_I4, block, out));
    assert_false(kvi_gguf_block(KVI_FORM_NONE, block, out));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(blocks_are_those_of_the_package),
                                       cmocka_unit_test(other_forms_are_none)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
