/* selftest_kernels.cpp - the cases of selftest_good.cu and selftest_bad.cu. */
#include "selftest.h"
#include "../../../runtime/kv/half.h"

#include <algorithm>
#include <math.h>

static std::vector<float> ramp(size_t n)
{
    std::vector<float> v(n);
    for (size_t i = 0; i < n; i++) v[i] = (float)((i * 7919u + 13u) % 61u) * 0.25f;
    return v;
}

/* ------------------------------------------------------------------------------------------------- correct kernels --- */
static bool good_sum()
{
    const uint32_t rows = 5, n = 1000;
    std::vector<float> in = ramp(rows * n);
    device_open();
    kvi_cu_dptr a = device_put(in), out = device_take(rows * 4);
    MUST(device_launch("good_sum", rows, 256, 32, {a, 0, out, n, 0}));
    std::vector<float> got = device_get<float>(out, rows);
    bool right = true;
    for (uint32_t r = 0; r < rows; r++) {
        double want = 0.0;
        for (uint32_t i = 0; i < n; i++) want += in[r * n + i];
        right = right && fabs(got[r] - want) <= 1e-2;
    }
    device_give(a), device_give(out), device_close();
    return right;
}
static bool good_exchange()
{
    std::vector<uint32_t> in(64);
    for (uint32_t i = 0; i < 64; i++) in[i] = i * i + 3;
    device_open();
    kvi_cu_dptr a = device_put(in), out = device_take(256);
    MUST(device_launch("good_exchange", 1, 64, 256, {a, 0, out, 0, 0}));
    std::vector<uint32_t> got = device_get<uint32_t>(out, 64);
    bool right = true;
    for (uint32_t i = 0; i < 64; i++) right = right && got[i] == in[i ^ 1u] + in[i ^ 31u];
    device_give(a), device_give(out), device_close();
    return right;
}
static bool product(const char *name, bool bf16)
{
    const uint32_t n = 24, k = 80;
    std::vector<uint16_t> a(16 * k), b(n * k);
    const auto fill = [&](std::vector<uint16_t> &v, uint32_t seed) {
        for (size_t i = 0; i < v.size(); i++) {
            float x = (float)((i * 2654435761u + seed) >> 7 & 255u) / 64.0f - 2.0f;
            v[i] = bf16 ? kvi_f32_to_bf16(x) : kvi_f32_to_f16(x);
        }
    };
    const auto value = [&](uint16_t h) { return (double)(bf16 ? kvi_bf16_to_f32(h) : kvi_f16_to_f32(h)); };
    fill(a, 1), fill(b, 99);
    device_open();
    kvi_cu_dptr da = device_put(a), db = device_put(b), out = device_take(16 * n * 4);
    MUST(device_launch(name, n / 8, 32, 2 * 24 * 24 * 2, {da, db, out, n, k}));
    std::vector<float> got = device_get<float>(out, 16 * n);
    bool right = true;
    for (uint32_t i = 0; i < 16; i++)
        for (uint32_t j = 0; j < n; j++) {
            double want = 0.0;
            for (uint32_t c = 0; c < k; c++) want += value(a[i * k + c]) * value(b[j * k + c]);
            right = right && fabs(got[i * n + j] - want) <= 1e-3;
        }
    device_give(da), device_give(db), device_give(out), device_close();
    return right;
}
static bool good_product_f16() { return product("good_product_f16", false); }
static bool good_product_bf16() { return product("good_product_bf16", true); }

static bool good_transposes()
{
    std::vector<uint16_t> in(64);
    for (uint32_t i = 0; i < 64; i++) in[i] = (uint16_t)(i * 257u);
    device_open();
    kvi_cu_dptr a = device_put(in), out = device_take(256);
    MUST(device_launch("good_transposes", 1, 32, 512, {a, 0, out, 0, 0}));
    std::vector<uint16_t> got = device_get<uint16_t>(out, 128);
    bool right = true;
    for (uint32_t i = 0; i < 8; i++)
        for (uint32_t j = 0; j < 8; j++)
            right = right && got[i * 8 + j] == in[j * 8 + i] && got[64 + i * 8 + j] == in[j * 8 + i];
    device_give(a), device_give(out), device_close();
    return right;
}
static bool good_cells()
{
    const uint32_t n = 3 * 2 * 3 * 90;
    std::vector<uint32_t> zeros(n, 0);
    device_open();
    kvi_cu_dptr out = device_put(zeros);
    selftest_params params = {0, 0, out, 0, 0};
    void *list[1] = {&params};
    MUST(cuLaunchKernel(device_kernel("good_cells"), 3, 2, 3, 5, 6, 3, 0, NULL, list, NULL));
    std::vector<uint32_t> got = device_get<uint32_t>(out, n);
    bool right = true;
    for (uint32_t i = 0; i < n; i++) right = right && got[i] == (i / (6 * 90) == 1 ? 0u : 1u);
#if !defined(KVRT_EMU_TSAN)
    right =
        right && kvrt_emu_count("switches") == 18; /* one into each block: without a barrier, threads cost nothing */
#endif
    device_give(out), device_close();
    return right;
}
static bool good_last_block()
{
    const uint32_t blocks = 12, n = 5;
    std::vector<float> in = ramp(blocks * n);
    std::vector<uint32_t> zero(1, 0);
    double want = 0.0;
    for (float x : in) want += x;
    device_open();
    kvi_cu_dptr a = device_put(in), counter = device_put(zero), out = device_take((blocks + 1) * 4);
    MUST(device_launch("good_last_block", blocks, 64, 4, {a, counter, out, n, 0}));
    bool right = fabs(device_get<float>(out, blocks + 1)[blocks] - want) <= 1e-3;
    device_give(a), device_give(counter), device_give(out), device_close();
    return right;
}
static bool good_zfill()
{
    const uint32_t whole = 17, cut = 6;
    std::vector<uint8_t> in(18 * 16), want(40 * 16, 0);
    for (size_t i = 0; i < in.size(); i++) in[i] = (uint8_t)(i * 7 + 1);
    for (uint32_t i = 0; i < 40; i++)
        for (uint32_t b = 0; b < 16; b++)
            if (i < whole || (i == whole && b < cut)) want[(39 - i) * 16 + b] = in[i * 16 + b];
    device_open();
    kvi_cu_dptr a = device_put(in), out = device_take(640);
    MUST(device_launch("good_zfill", 1, 40, 640, {a, 0, out, whole, cut}));
    bool right = device_get<uint8_t>(out, 640) == want;
    device_give(a), device_give(out), device_close();
    return right;
}
static bool good_bits()
{
    const uint32_t a = 0x44332211u, b = 0x88776655u;
    const uint32_t want[] = {0x88226611u, (a & b) | 0x01010101u,   0x7bff3c00u, 0xc0403f80u, 0x3c033c00u, 0x45000000u,
                             0x46004500u, 2u | (uint32_t)-4 << 16, 0x3e000000u};
    std::vector<uint32_t> in = {a, b};
    device_open();
    kvi_cu_dptr d = device_put(in), out = device_take(41 * 4);
    MUST(device_launch("good_bits", 1, 32, 0, {d, 0, out, 0, 0}));
    std::vector<uint32_t> got = device_get<uint32_t>(out, 41);
    bool right = true;
    for (uint32_t i = 0; i < 32; i++) right = right && got[i] == (31u - i) * 3u;
    for (uint32_t i = 0; i < 9; i++) right = right && got[32 + i] == want[i];
    device_give(d), device_give(out), device_close();
    return right;
}

const test_case good_cases[] = {
    {"good_sum", good_sum, nullptr, nullptr, nullptr},
    {"good_exchange", good_exchange, nullptr, nullptr, nullptr},
    {"good_product_f16", good_product_f16, nullptr, nullptr, nullptr},
    {"good_product_bf16", good_product_bf16, nullptr, nullptr, nullptr},
    {"good_transposes", good_transposes, nullptr, nullptr, nullptr},
    {"good_cells", good_cells, nullptr, nullptr, nullptr},
    {"good_last_block", good_last_block, nullptr, nullptr, nullptr},
    {"good_zfill", good_zfill, nullptr, nullptr, nullptr},
    {"good_bits", good_bits, nullptr, nullptr, nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

/* ---------------------------------------------------------------------------------------------------- planted bugs --- */
/* Runs a kernel on 256 floats and compares as many floats of the result as `want` has. */
static bool run(const char *name, uint32_t blocks, uint32_t threads, uint32_t shared, uint32_t n, uint32_t extra,
                const std::vector<float> &want, size_t out_floats)
{
    std::vector<float> in = ramp(256);
    std::vector<uint32_t> zero(1, 0);
    device_open();
    kvi_cu_dptr a = device_put(in), counter = device_put(zero), out = device_take(out_floats * 4);
    MUST(cuMemsetD8Async(out, 0, out_floats * 4, NULL));
    kvi_cu_result result = device_launch(name, blocks, threads, shared, {a, counter, out, n, extra});
    if (result == KVI_CU_SUCCESS) result = cuStreamSynchronize(NULL);
    bool right = result == KVI_CU_SUCCESS;
    if (right && !want.empty()) {
        std::vector<float> got = device_get<float>(out, want.size());
        for (size_t i = 0; i < want.size(); i++) right = right && got[i] == want[i];
    }
    (void)cuMemFree_v2(a), (void)cuMemFree_v2(counter), (void)cuMemFree_v2(out);
    device_close();
    return right;
}
static std::vector<float> reversed(size_t n)
{
    std::vector<float> v = ramp(n);
    std::reverse(v.begin(), v.end());
    return v;
}
static std::vector<float> sum_of_rounds()
{
    std::vector<float> in = ramp(256), want(64, 0.0f);
    for (uint32_t r = 0; r < 4; r++)
        for (uint32_t i = 0; i < 64; i++) want[i] += in[r * 64 + 63 - i];
    return want;
}
static std::vector<float> quads_reversed()
{
    std::vector<float> in = ramp(256), want(256);
    for (uint32_t i = 0; i < 64; i++) std::copy_n(&in[(63 - i) * 4], 4, &want[i * 4]);
    return want;
}

#define KERNEL_CASE(name, ...)                                                                                         \
    static bool name() { return run(#name, __VA_ARGS__); }
KERNEL_CASE(bad_no_barrier, 1, 64, 256, 0, 0, reversed(64), 64)
KERNEL_CASE(bad_no_second_barrier, 1, 64, 256, 0, 0, sum_of_rounds(), 64)
KERNEL_CASE(bad_no_warp_sync, 1, 32, 128, 0, 0, reversed(32), 32)
KERNEL_CASE(bad_no_cp_wait, 1, 32, 512, 0, 0, ramp(128), 128)
KERNEL_CASE(bad_cp_wait_too_few, 1, 32, 512, 0, 0, ramp(128), 128)
KERNEL_CASE(bad_cp_no_barrier, 1, 64, 1024, 0, 0, quads_reversed(), 256)
KERNEL_CASE(bad_block_race, 8, 32, 0, 0, 0, {}, 1)
KERNEL_CASE(bad_no_fence, 8, 32, 0, 0, 0, {}, 9)
KERNEL_CASE(bad_shared_overrun, 1, 64, 256, 0, 0, {}, 64)
KERNEL_CASE(bad_global_overrun, 1, 64, 0, 0, 0, {}, 64)
KERNEL_CASE(bad_null, 1, 32, 0, 0, 16, {}, 32)
KERNEL_CASE(bad_shared_read, 1, 64, 256, 0, 0, reversed(64), 64)
KERNEL_CASE(bad_misaligned_load, 1, 32, 0, 0, 0, {}, 128)
KERNEL_CASE(bad_misaligned_copy, 1, 32, 1024, 0, 0, {}, 128)
KERNEL_CASE(bad_misaligned_pointer, 1, 32, 0, 0, 0, {}, 32)
KERNEL_CASE(bad_deep_stack, 1, 32, 0, 5, 0, {}, 32)
KERNEL_CASE(bad_two_barriers, 1, 64, 0, 0, 0, {}, 64)
KERNEL_CASE(bad_half_barrier, 1, 64, 0, 0, 0, {}, 64)
KERNEL_CASE(bad_return_before_barrier, 1, 64, 0, 50, 0, {}, 64)
KERNEL_CASE(bad_return_before_shuffle, 1, 64, 0, 50, 0, {}, 64)
KERNEL_CASE(bad_two_shuffles, 1, 32, 0, 0, 0, {}, 32)
KERNEL_CASE(bad_shuffle_and_mma, 1, 32, 0, 0, 0, {}, 32)
KERNEL_CASE(bad_part_of_a_warp, 1, 48, 0, 0, 0, {}, 48)
KERNEL_CASE(bad_barrier_in_loop, 1, 64, 0, 0, 0, {}, 64)

/* The block is as long as its reader thinks plus nothing: 64 floats, of which it reads 65. */
static bool bad_global_read()
{
    std::vector<float> in = ramp(64);
    device_open();
    kvi_cu_dptr a = device_put(in), out = device_take(256);
    MUST(device_launch("bad_global_read", 1, 64, 0, {a, 0, out, 0, 0}));
    std::vector<float> got = device_get<float>(out, 64);
    bool right = got[63] == got[63] && got[63] >= 0.0f;
    device_give(a), device_give(out), device_close();
    return right;
}
/* A kernel is given a block that was freed. */
static bool bad_use_after_free()
{
    std::vector<float> in = ramp(256);
    device_open();
    kvi_cu_dptr a = device_put(in), out = device_take(256);
    device_give(a);
    MUST(device_launch("bad_no_barrier", 1, 32, 128, {a, 0, out, 0, 0}));
    std::vector<float> got = device_get<float>(out, 32);
    device_give(out), device_close();
    return got == reversed(32);
}
/* A buffer that nobody wrote. */
static bool bad_unwritten_memory()
{
    device_open();
    kvi_cu_dptr a = device_take(4096), out = device_take(4);
    MUST(device_launch("good_sum", 1, 256, 32, {a, 0, out, 1024, 0}));
    float got = device_get<float>(out, 1)[0];
    device_give(a), device_give(out), device_close();
    return got == got;
}

const test_case kernel_cases[] = {
    {"bad_no_barrier", bad_no_barrier, "wrong", "wrong", "data race"},
    {"bad_no_second_barrier", bad_no_second_barrier, "wrong", "wrong", "data race"},
    {"bad_no_warp_sync", bad_no_warp_sync, nullptr, nullptr, "data race"}, /* found by nothing else */
    {"bad_no_cp_wait", bad_no_cp_wait, "wrong", "wrong", "wrong"},
    {"bad_cp_wait_too_few", bad_cp_wait_too_few, "wrong", "wrong", "wrong"},
    {"bad_cp_no_barrier", bad_cp_no_barrier, "wrong", "wrong", "data race"},
    {"bad_block_race", bad_block_race, nullptr, nullptr, "data race"},
    {"bad_no_fence", bad_no_fence, nullptr, nullptr, "data race"},
    {"bad_shared_overrun", bad_shared_overrun, "shared memory overrun", "heap-buffer-overflow",
     "shared memory overrun"},
    {"bad_global_overrun", bad_global_overrun, "device memory overrun", "heap-buffer-overflow",
     "device memory overrun"},
    {"bad_global_read", bad_global_read, "wrong", "heap-buffer-overflow", "wrong"},
    {"bad_use_after_free", bad_use_after_free, "wrong", "heap-use-after-free", "heap-use-after-free"},
    {"bad_unwritten_memory", bad_unwritten_memory, "wrong", "wrong", "wrong"},
    {"bad_null", bad_null, "bad_null, block (0,0,0), thread", "SEGV", "SEGV"},
    {"bad_shared_read", bad_shared_read, "wrong", "wrong", "wrong"},
    {"bad_misaligned_load", bad_misaligned_load, "thread (5,0,0): misaligned: kvi_load128", "misaligned: kvi_load128",
     "misaligned: kvi_load128"},
    {"bad_misaligned_copy", bad_misaligned_copy, "misaligned: kvi_cp_async16 to shared", "misaligned: kvi_cp_async16",
     "misaligned: kvi_cp_async16"},
    {"bad_misaligned_pointer", bad_misaligned_pointer, nullptr, "misaligned address", nullptr},
    {"bad_deep_stack", bad_deep_stack, "or the end of its stack", "bad_deep_stack", "bad_deep_stack"},
    {"bad_two_barriers", bad_two_barriers, "divergent barrier", "divergent barrier", "divergent barrier"},
    {"bad_half_barrier", bad_half_barrier, "threads 0 to 47 wait in kvi_sync_block", "threads 48 to 63 have returned",
     "for ever"},
    {"bad_return_before_barrier", bad_return_before_barrier, "threads 50 to 63 have returned", "for ever", "for ever"},
    {"bad_return_before_shuffle", bad_return_before_shuffle, "threads 32 to 49 wait in kvi_shfl_xor", "for ever",
     "for ever"},
    {"bad_two_shuffles", bad_two_shuffles, "divergent warp", "divergent warp", "divergent warp"},
    {"bad_shuffle_and_mma", bad_shuffle_and_mma, "divergent warp", "divergent warp", "divergent warp"},
    {"bad_part_of_a_warp", bad_part_of_a_warp, "needs 32 lanes", "needs 32 lanes", "needs 32 lanes"},
    {"bad_barrier_in_loop", bad_barrier_in_loop, "threads 0 to 31 have returned", "for ever", "for ever"},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};
