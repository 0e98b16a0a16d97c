/* test_weight_codec.c - every form that keeps its scales beside its codes against the library that defines it, bit for bit:
 * test/golden/forms/forms.bin, every code and every scale of the small floats, groups and blocks that end with the row and that do not. */
#include "../../runtime/model/weight_codec.h"
#include "../../runtime/model/weights.h"
#include "../../runtime/base/os.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

typedef struct header {
    char form[16];
    uint32_t n_out, n_in, group, group_rows, scale_type, divides, bytes[4];
} header;
static const kvi_weight_part order[4] = {KVI_PART_CODES, KVI_PART_SCALES, KVI_PART_GLOBAL, KVI_PART_MINS};

/* NaN is NaN, whatever its payload; zeros have signs. */
static bool same(float a, const uint8_t *expected)
{
    float b;
    memcpy(&b, expected, sizeof b);
    return isnan(a) ? isnan(b) : memcmp(&a, &b, sizeof a) == 0;
}

/* A piece of a row, which begins and ends at any block. */
static void check_piece(const kvi_weight_desc *w, uint32_t row, uint32_t first, uint32_t n, const uint8_t *values)
{
    float *out = malloc(n * sizeof *out); /* AddressSanitizer sees a write past it */
    assert_true(kvi_weight_decode(w, 0, row, first, n, out));
    for (uint32_t i = 0; i < n; i++)
        if (!same(out[i], values + 4 * ((size_t)row * w->n_in + first + i)))
            fail_msg("%s row %u element %u: %a", w->name, row, first + i, (double)out[i]);
    free(out);
}

static void check_case(const header *h, const uint8_t *data)
{
    kvi_weight_desc w = {.name = h->form,
                         .form = kvi_form_named(h->form),
                         .n_out = h->n_out,
                         .n_in = h->n_in,
                         .group = h->group,
                         .group_rows = h->group_rows,
                         .scale_type = (kvi_dtype)h->scale_type,
                         .global_divides = h->divides != 0};
    uint8_t *exact[4] = {NULL}; /* and a read past a part */
    assert_true(w.form != KVI_FORM_NONE);
    for (int i = 0; i < 4; i++) {
        if (!h->bytes[i]) continue;
        assert_int_equal(h->bytes[i], kvi_weight_part_bytes(&w, order[i]));
        exact[i] = malloc(h->bytes[i]);
        memcpy(exact[i], data, h->bytes[i]);
        w.parts[order[i]] = exact[i];
        data += h->bytes[i];
    }
    const uint32_t block = kvi_form(w.form)->block;
    for (uint32_t row = 0; row < w.n_out; row++) {
        check_piece(&w, row, 0, w.n_in, data);
        for (uint32_t first = 0, n = block; first < w.n_in; first += n, n += block)
            check_piece(&w, row, first, n < w.n_in - first ? n : w.n_in - first, data);
    }
    for (int i = 0; i < 4; i++) free(exact[i]);
}

static void forms_are_those_of_the_libraries(void **state)
{
    kvi_map map;
    kvrt_error error = {.size = sizeof error};
    bool seen[KVI_FORM_COUNT] = {false};
    if (kvi_os_map(KVRT_TEST_DIR "/golden/forms/forms.bin", NULL, &map, &error) < KVRT_OK)
        fail_msg("%s", error.message);
    for (uint64_t at = 0; at < map.len;) {
        header h;
        memcpy(&h, map.data + at, sizeof h);
        at += sizeof h;
        check_case(&h, map.data + at);
        seen[kvi_form_named(h.form)] = true;
        at += (uint64_t)h.bytes[0] + h.bytes[1] + h.bytes[2] + h.bytes[3] + 4ull * h.n_out * h.n_in;
    }
    for (int form = 0; form < KVI_FORM_COUNT; form++) /* I8 and I4 stand in test_weights.c */
        if (kvi_form((kvi_weight_form)form)->needs && form != KVI_FORM_I8 && form != KVI_FORM_I4)
            assert_true(seen[form]);
    kvi_os_unmap(&map);
}

static void no_form_is_only_a_name(void **state)
{
    static const uint8_t zeros[4096];
    float out[KVI_MAX_FORM_BLOCK];
    for (int form = 0; form < KVI_FORM_COUNT; form++) {
        kvi_weight_desc w = {.form = (kvi_weight_form)form, .n_out = 1, .n_in = KVI_MAX_FORM_BLOCK};
        for (int part = 0; part < KVI_WEIGHT_PARTS; part++)
            if (part == KVI_PART_CODES || (kvi_form(w.form)->needs >> part & 1u)) w.parts[part] = zeros;
        assert_true(kvi_weight_decode(&w, 0, 0, 0, KVI_MAX_FORM_BLOCK, out));
    }
    const kvi_weight_desc none = {.form = KVI_FORM_NONE, .n_out = 1, .n_in = 1, .parts = {zeros}};
    assert_false(kvi_weight_decode(&none, 0, 0, 0, 1, out));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(forms_are_those_of_the_libraries),
                                       cmocka_unit_test(no_form_is_only_a_name)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
