/* test_cuda_plan.c - what the CUDA backend decides before anything runs: which machine code a card is given. */
#include "../../kernels/cuda/driver.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void machine_code_for_a_card(void **state)
{
    (void)state;
    static const kvi_cuda_image table[] = {{"gemv", "80", 80}, {"gemv", "86", 86},   {"gemv", "89", 89},
                                           {"gemv", "ptx", 0}, {"norm", "90", 90},   {"norm", "86", 86},
                                           {"norm", "80", 80}, {"norm", "120", 120}, {NULL, NULL, 0}};
    static const struct {
        uint32_t capability, first, second; /* architectures that fit; 1: none does */
    } cards[] = {{80, 80, 80}, {86, 86, 86},  {87, 86, 86},  {89, 89, 86}, {90, 0, 90},
                 {100, 0, 1},  {120, 0, 120}, {121, 0, 120}, {75, 0, 1}};
    for (size_t i = 0; i < sizeof cards / sizeof cards[0]; i++) {
        const kvi_cuda_image *next = NULL, *end = table;
        const kvi_cuda_image *found = kvi_cuda_image_for(table, cards[i].capability, &next);
        assert_non_null(found);
        assert_int_equal(found->arch, cards[i].first);
        assert_ptr_equal(next, &table[4]);
        found = kvi_cuda_image_for(next, cards[i].capability, &end);
        assert_int_equal(found ? found->arch : 1, cards[i].second);
        assert_null(end);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(machine_code_for_a_card)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
