/* test_ops_cpu.c - the operation cases on the CPU backend: every instruction set that this CPU has, one and two
 * threads. */
#include "op_cases.h"
#include "tolerance.h"
#include "runtime/base/os.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

/* Pairs: one thread, two threads. Of those with integer products only forms are asked. */
static op_target targets[10], integers[8];
static uint32_t n_targets, n_integers;

/* Whether wide products of BF16 weights round activations without AMX. */
static bool rounds(void)
{
    kvi_cpu cpu;
    kvi_os_cpu(&cpu);
    return cpu.avx512_bf16;
}

/* rounded: wide products of BF16 weights round activations, as AMX does, and narrow attention reads small codes in fixed point. */
static void add(const char *name, const char *isa, bool amx, bool rounded)
{
    for (uint32_t threads = 1; threads <= 2; threads++) {
        kvi_device *device;
        op_target t = {.name = name,
                       .backend = &kvi_backend_cpu,
                       .options = {.n_threads = threads, .isa = isa, .amx = amx, .exact = !rounded},
                       .integers = rounded,
                       .linear = amx || rounded ? OPS_LINEAR_AMX : OPS_LINEAR_F32,
                       .attention = amx       ? OPS_ATTENTION_AMX
                                    : rounded ? OPS_ATTENTION_FIXED
                                              : OPS_ATTENTION_F32,
                       .rotary = OPS_ROTARY_F32,
                       .copy = OPS_COPY_F32};
        bool there = kvi_backend_cpu.open(&t.options, &device, NULL) >= KVRT_OK;
        if (there && amx) there = strstr(kvi_backend_cpu.describe(device), "AMX") != NULL;
        if (device) kvi_backend_cpu.close(device);
        if (there) targets[n_targets++] = t;
        if (there && !amx && !rounded) {
            t.options.exact = false, t.integers = true;
            if (strcmp(isa, "avx512") == 0 && rounds()) t.linear = OPS_LINEAR_AMX;
            integers[n_integers++] = t;
        }
        if (!there && threads == 1) printf("skipped: this CPU has no %s\n", name);
    }
}

OP_CASES(OP_CASE_TEST)

static void test_same_bits(void **state)
{
    (void)state;
    for (uint32_t i = 0; i + 1 < n_targets; i += 2)
        op_case_same_bits(&targets[i], &targets[i + 1]), op_case_attention_bits(&targets[i], &targets[i + 1]),
            op_case_experts_bits(&targets[i], &targets[i + 1]), op_case_latent_bits(&targets[i], &targets[i + 1]);
}

static void test_integers(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < n_integers; i++)
        op_seed = 7, op_case_forms(&integers[i]), op_case_mixed_forms(&integers[i]), op_case_form_experts(&integers[i]);
    for (uint32_t i = 0; i + 1 < n_integers; i += 2) op_case_form_bits(&integers[i], &integers[i + 1]);
}

int main(void)
{
    add("cpu portable", "portable", false, false);
    add("cpu avx2", "avx2", false, false);
    add("cpu avx512", "avx512", false, false);
    if (rounds()) add("cpu avx512bf16", "avx512", false, true);
    add("cpu amx", "auto", true, false);
    const struct CMUnitTest tests[] = {OP_CASES(OP_CASE_ENTRY) cmocka_unit_test(test_same_bits),
                                       cmocka_unit_test(test_integers)};
    return cmocka_run_group_tests_name("operations, cpu", tests, NULL, NULL);
}
