/* test_cuda_plan.c - what the CUDA backend decides before anything runs: which machine code a card is given, and how decode attention splits the
 * context over it. */
#include "../../kernels/cuda/attention_params.h"
#include "../../kernels/cuda/device_cuda.h"
#include "../../kernels/cuda/encode_params.h"

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

/* What a launch must be for any card: no block more than the card holds at once, unless the KV heads alone are more; no card left half empty by
 * rounding; no split without a page; the same for one row and for eight. */
static void splits_of_the_context(void **state)
{
    (void)state;
    static const uint32_t sms[] = {1, 4, 16, 46, 60, 68, 76, 82, 84, 108, 128, 132, 142, 170, 188, 192};
    static const uint32_t heads[] = {1, 2, 3, 4, 8, 16, 32, 40, 64};
    static const uint32_t contexts[] = {1, 127, 128, 129, 512, 4096, 32768, 131071, 131072, 1u << 20};
    for (size_t i = 0; i < sizeof sms / sizeof sms[0]; i++)
        for (size_t h = 0; h < sizeof heads / sizeof heads[0]; h++)
            for (size_t c = 0; c < sizeof contexts / sizeof contexts[0]; c++)
                for (uint32_t blocks = 2; blocks <= 3; blocks++) {
                    const uint32_t slots = blocks * sms[i], pages = (contexts[c] + 127) / 128;
                    const uint32_t n = kvi_cuda_decode_splits(blocks, sms[i], heads[h], contexts[c], 1);
                    assert_in_range(n, 1, pages);
                    if (slots >= heads[h]) assert_true(n * heads[h] <= slots);
                    if (n < pages && slots >= heads[h]) assert_true((n + 1) * heads[h] > slots);
                    for (uint32_t rows = 2; rows <= 8; rows++)
                        assert_int_equal(kvi_cuda_decode_splits(blocks, sms[i], heads[h], contexts[c], rows), n);
                    for (uint32_t rows = 9; rows <= 32; rows++) { /* within the partial results of eight rows */
                        const uint32_t fewer = kvi_cuda_decode_splits(blocks, sms[i], heads[h], contexts[c], rows);
                        assert_true(fewer >= 1 && (fewer == 1 || fewer * rows <= 8 * n));
                    }
                }
    /* RTX 3090, 4080, 4090, A100, H200 with 8 KV heads: 246, 228, 384, 324 and 396 blocks of 4-bit pages fit. */
    static const uint32_t cards[][2] = {{82, 30}, {76, 28}, {128, 48}, {108, 40}, {132, 49}};
    for (size_t i = 0; i < sizeof cards / sizeof cards[0]; i++)
        assert_int_equal(kvi_cuda_decode_splits(3, cards[i][0], 8, 131072, 1), cards[i][1]);
}

/* The layout of a block's memory: what follows one another does not overlap, and stays below 48 KiB. */
static void memory_of_a_block(void **state)
{
    (void)state;
    for (uint32_t d = 64; d <= 256; d *= 2) {
        const uint32_t flags = kvi_cuda_decode_flags(d), queries = 16 * d;
        const uint32_t last_sum = (KVI_DECODE_WARPS * KVI_DECODE_COLS / 2 - 1) * KVI_DECODE_PAIR(d) + 2 * d;
        assert_true(flags >= queries && flags % 16 == 0);
        assert_true(flags >= 4 * (2 * KVI_DECODE_WARPS * KVI_DECODE_COLS + last_sum));
        assert_true(kvi_cuda_decode_shared(d) <= 48 * 1024);
        assert_int_equal(KVI_DECODE_PAIR(d) % 32, 4); /* another bank for each of the four pairs */
    }
    for (uint32_t d = 16; d <= KVI_KV_MAX_HEAD_DIM; d += 16) {
        const uint32_t width = d <= 128 ? 128 : 256, stages = KVI_ANY_WARPS * KVI_ANY_STAGE * 2;
        assert_true(kvi_cuda_any_shared(d, width) >= KVI_ANY_LEVELS + KVI_ANY_COLS * (d + 8) * 2 + stages);
        assert_true(kvi_cuda_any_shared(d, width) <= 48 * 1024);
        assert_int_equal((d + 8) * 2 % 16, 0); /* where ldmatrix reads */
        assert_true((d / 2 + 4) % 8 == 4);     /* eight rows of queries in different banks */
    }
    assert_true(KVI_CONVERT_SHARED <= 48 * 1024);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(machine_code_for_a_card),
                                       cmocka_unit_test(splits_of_the_context), cmocka_unit_test(memory_of_a_block)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
