/* test_ops_cuda.c - the operation cases on the CUDA backend: on the emulated device, which runs the same kernel source on the CPU, and on
 * a card when there is one. What it may refuse by name at load is listed, and each refusal must be met. */
#include "op_cases.h"
#include "tolerance.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static op_refusal refusals[] = {
    {.part = "f32 pages", .reason = "tensor cores multiply 16-bit numbers, and no model is served from an f32 cache"},
    {.part = NULL}};
static op_target targets[2];
static uint32_t n_targets;
static char emulated[1024];

static void add(const char *name, const char *driver)
{
    char text[256];
    op_target t = {.name = name,
                   .backend = &kvi_backend_cuda,
                   .options = {.cuda_driver = driver},
                   .linear = OPS_LINEAR_BF16,
                   .linear_f16 = OPS_LINEAR_F16,
                   .attention = OPS_ATTENTION_F16,
                   .rotary = OPS_ROTARY_F16,
                   .copy = OPS_COPY_F16,
                   .refusals = refusals};
    if (kvi_backend_cuda.probe(&t.options, text, sizeof text)) targets[n_targets++] = t;
    else printf("skipped: %s: %s\n", name, text);
}

OP_CASES(OP_CASE_TEST)
OP_CASE_TEST(best)

/* Programs run whole, which for few rows is a graph, and operation by operation. */
static void test_same_bits(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < n_targets; i++)
        op_case_same_bits(&targets[i], &targets[i]), op_case_attention_bits(&targets[i], &targets[i]);
}

/* An argument names the tests to run: 'test_form*'. */
int main(int argc, char **argv)
{
    const char *build = getenv("KVRT_BUILD_DIR");
    snprintf(emulated, sizeof emulated, "%s/libkvrt-emu-cuda.so", build ? build : "build");
    if (!getenv("KVRT_TEST_CARD")) add("emulated cuda", emulated); /* test/gpu/run.sh wants the card alone */
    add("cuda", NULL);
    if (!n_targets) return 77;
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {OP_CASES(OP_CASE_ENTRY) OP_CASE_ENTRY(best) cmocka_unit_test(test_same_bits)};
    const int failed = cmocka_run_group_tests_name("operations, cuda", tests, NULL, NULL);
    return failed || argc > 1 || op_refusals_met(&targets[0]) ? failed : 1; /* of a choice of tests some are not met */
}
