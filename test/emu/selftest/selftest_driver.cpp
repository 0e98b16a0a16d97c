/* selftest_driver.cpp - hosts that misuse the driver, failures on demand, graphs. */
#include "selftest.h"

/* One thread of good_scale_add per number: out = in * n + extra. */
static void scale_add(kvi_cu_dptr in, kvi_cu_dptr out, uint32_t n, uint32_t extra)
{
    MUST(device_launch("good_scale_add", 2, 32, 0, {in, 0, out, n, extra}));
}
static std::vector<uint32_t> counting(size_t n)
{
    std::vector<uint32_t> v(n);
    for (size_t i = 0; i < n; i++) v[i] = (uint32_t)i;
    return v;
}

/* ------------------------------------------------------------------------------------------------------ as it should --- */
/* a -> b and c -> d = the last writer of a chain that the edges force; replayed with other input. */
static kvi_cu_node add_node(kvi_cu_graph graph, std::vector<kvi_cu_node> after, selftest_params params)
{
    void *list[1] = {&params};
    kvi_cu_kernel_node launch = {device_kernel("good_scale_add"), 2, 1, 1, 32, 1, 1, 0, list, NULL, NULL, NULL};
    kvi_cu_node node;
    MUST(cuGraphAddKernelNode_v2(&node, graph, after.data(), after.size(), &launch));
    return node;
}
static bool graph_run(bool with_edge)
{
    std::vector<uint32_t> in = counting(64);
    bool right = true;
    device_open();
    kvi_cu_dptr a = device_put(in), b = device_take(256), c = device_take(256), d = device_take(256);
    kvi_cu_graph graph;
    kvi_cu_graph_exec exec;
    MUST(cuGraphCreate(&graph, 0));
    kvi_cu_node first = add_node(graph, {}, {a, 0, b, 3, 1});
    kvi_cu_node second =
        add_node(graph, with_edge ? std::vector<kvi_cu_node>{first} : std::vector<kvi_cu_node>{}, {b, 0, c, 2, 5});
    add_node(graph, {second}, {c, 0, d, 1, 7});
    MUST(cuGraphInstantiateWithFlags(&exec, graph, 0));
    MUST(cuGraphDestroy(graph));
    for (uint32_t round = 0; round < 3; round++) {
        for (uint32_t &x : in) x += round;
        MUST(cuMemcpyHtoDAsync_v2(a, in.data(), 256, NULL));
        MUST(cuMemsetD8Async(b, 0xff, 256, NULL));
        MUST(cuGraphLaunch(exec, NULL));
        std::vector<uint32_t> got = device_get<uint32_t>(d, 64);
        for (uint32_t i = 0; i < 64; i++) right = right && got[i] == (in[i] * 3 + 1) * 2 + 12;
    }
    MUST(cuGraphExecDestroy(exec));
    device_give(a), device_give(b), device_give(c), device_give(d), device_close();
    return right;
}
static bool host_graph() { return graph_run(true); }
static bool host_graph_without_edge() { return graph_run(false); }

/* Two streams, pinned memory, events; nothing remains. */
static bool host_streams()
{
    bool right = true;
    float ms = -1.0f;
    void *pinned = NULL;
    kvi_cu_stream stream;
    kvi_cu_event start, end;
    device_open();
    kvi_cu_dptr a = device_take(256), b = device_take(256);
    MUST(cuMemAllocHost_v2(&pinned, 512));
    MUST(cuStreamCreate(&stream, KVI_CU_STREAM_NON_BLOCKING));
    MUST(cuEventCreate(&start, KVI_CU_EVENT_DEFAULT));
    MUST(cuEventCreate(&end, KVI_CU_EVENT_DEFAULT));
    uint32_t *numbers = static_cast<uint32_t *>(pinned);
    for (uint32_t i = 0; i < 64; i++) numbers[i] = i;
    MUST(cuEventRecord(start, stream));
    MUST(cuMemcpyHtoDAsync_v2(a, numbers, 256, stream));
    selftest_params params = {a, 0, b, 9, 1};
    void *list[1] = {&params};
    MUST(cuLaunchKernel(device_kernel("good_scale_add"), 2, 1, 1, 32, 1, 1, 0, stream, list, NULL));
    MUST(cuMemcpyDtoDAsync_v2(a, b, 128, stream));
    MUST(cuMemcpyDtoHAsync_v2(numbers + 64, a, 256, stream));
    MUST(cuEventRecord(end, stream));
    MUST(cuEventSynchronize(end));
    MUST(cuEventElapsedTime(&ms, start, end));
    for (uint32_t i = 0; i < 64; i++) right = right && numbers[64 + i] == (i < 32 ? i * 9 + 1 : i);
    MUST(cuEventDestroy_v2(start));
    MUST(cuEventDestroy_v2(end));
    MUST(cuStreamDestroy_v2(stream));
    MUST(cuMemFreeHost(pinned));
    device_give(a), device_give(b), device_close();
    return right && ms >= 0.0f && kvrt_emu_count("objects") == 0;
}
static bool host_limits_of_device()
{
    size_t free_bytes = 0, total = 0;
    kvi_cu_dptr at = 0;
    kvi_cu_library library;
    kvi_cu_kernel kernel;
    device_open();
    MUST(cuMemGetInfo_v2(&free_bytes, &total));
    bool right = cuMemAlloc_v2(&at, total + 1) == KVI_CU_OUT_OF_MEMORY && free_bytes == total;
    right = right && cuLibraryLoadData(&library, "nonsense", NULL, NULL, 0, NULL, NULL, 0) == KVI_CU_INVALID_IMAGE;
    MUST(cuLibraryLoadData(&library, KVI_CU_PLACEHOLDER_IMAGE, NULL, NULL, 0, NULL, NULL, 0));
    right = right && cuLibraryGetKernel(&kernel, library, "no_such_kernel") == KVI_CU_NOT_FOUND;
    MUST(cuLibraryUnload(library));
    device_close();
    return right;
}

/* -------------------------------------------------------------------------------------------------------- failures --- */
static bool host_failing_alloc()
{
    kvi_cu_dptr first = 0, second = 0, third = 0;
    device_open();
    kvrt_emu_fail("alloc", 2);
    bool right = cuMemAlloc_v2(&first, 100) == KVI_CU_SUCCESS;
    right = right && cuMemAlloc_v2(&second, 100) == KVI_CU_OUT_OF_MEMORY;
    right = right && cuMemAlloc_v2(&third, 100) == KVI_CU_SUCCESS && kvrt_emu_count("alloc") == 3;
    device_give(first), device_give(third), device_close();
    return right;
}
static bool host_failing_launch()
{
    device_open();
    kvi_cu_dptr a = device_put(counting(64)), b = device_take(256);
    const selftest_params params = {a, 0, b, 2, 0};
    kvrt_emu_fail("launch", 2);
    bool right = device_launch("good_scale_add", 2, 32, 0, params) == KVI_CU_SUCCESS;
    right = right && device_launch("good_scale_add", 2, 32, 0, params) == KVI_CU_LAUNCH_OUT_OF_RESOURCES;
    right = right && device_get<uint32_t>(b, 64)[63] == 126;
    device_give(a), device_give(b), device_close();
    return right;
}
static bool host_lost_device()
{
    device_open();
    kvi_cu_dptr a = device_put(counting(64)), b = device_take(256), c = 0;
    MUST(cuStreamSynchronize(NULL));
    kvrt_emu_fail("lost", 2);
    scale_add(a, b, 2, 0);
    scale_add(a, b, 2, 0);
    bool right = cuStreamSynchronize(NULL) == KVI_CU_LAUNCH_FAILED && cuMemAlloc_v2(&c, 4) == KVI_CU_LAUNCH_FAILED;
    right = right && cuMemFree_v2(a) == KVI_CU_LAUNCH_FAILED && cuMemFree_v2(b) == KVI_CU_LAUNCH_FAILED;
    MUST(cuCtxPopCurrent_v2(NULL));
    MUST(cuDevicePrimaryCtxRelease_v2(0)); /* says that the library is still loaded */
    kvrt_emu_forget_reports();
    device_open(); /* a new context is a whole one */
    a = device_put(counting(64));
    right = right && device_get<uint32_t>(a, 64)[5] == 5;
    device_give(a), device_close();
    kvrt_emu_forget_reports();
    return right;
}

/* ---------------------------------------------------------------------------------------------------------- misuse --- */
static bool refused(kvi_cu_result result) { return result != KVI_CU_SUCCESS; }

static bool host_much_shared()
{
    device_open();
    bool right = refused(device_launch("good_sum", 1, 32, 49153, {0, 0, 0, 0, 0}));
    device_close();
    return right;
}
static bool host_many_threads()
{
    device_open();
    bool right = refused(device_launch("good_sum", 1, 288, 64, {0, 0, 0, 0, 0}));
    device_close();
    return right;
}
static bool host_large_grid()
{
    selftest_params params = {0, 0, 0, 0, 0};
    void *list[1] = {&params};
    device_open();
    bool right = refused(cuLaunchKernel(device_kernel("good_sum"), 1, 65536, 1, 32, 1, 1, 0, NULL, list, NULL));
    right = right && refused(cuLaunchKernel(device_kernel("good_sum"), 1, 0, 1, 32, 1, 1, 0, NULL, list, NULL));
    device_close();
    return right;
}
static bool host_no_params()
{
    device_open();
    bool right = refused(cuLaunchKernel(device_kernel("good_sum"), 1, 1, 1, 32, 1, 1, 0, NULL, NULL, NULL));
    device_close();
    return right;
}
/* Given with its size, a struct of the wrong length is refused. */
static bool host_params_of_wrong_size()
{
    uint64_t some[2] = {0, 0};
    size_t bytes = sizeof some;
    void *extra[] = {(void *)1, some, (void *)2, &bytes, NULL};
    device_open();
    bool right = refused(cuLaunchKernel(device_kernel("good_sum"), 1, 1, 1, 32, 1, 1, 0, NULL, NULL, extra));
    device_close();
    return right;
}
/* Given as a pointer, only AddressSanitizer can tell. */
static bool host_short_params()
{
    std::vector<uint64_t> some(2, 0);
    void *list[1] = {some.data()};
    device_open();
    kvi_cu_dptr out = device_take(4);
    some[0] = out;
    (void)cuLaunchKernel(device_kernel("good_cells"), 1, 1, 2, 1, 1, 1, 0, NULL, list, NULL);
    device_give(out);
    device_close();
    return true;
}
static bool host_double_free()
{
    device_open();
    kvi_cu_dptr a = device_take(100);
    device_give(a);
    bool right = refused(cuMemFree_v2(a));
    device_close();
    return right;
}
static bool host_copy_too_long()
{
    std::vector<uint8_t> bytes(101, 0);
    device_open();
    kvi_cu_dptr a = device_take(100);
    bool right = refused(cuMemcpyHtoDAsync_v2(a, bytes.data(), 101, NULL)) &&
                 refused(cuMemcpyDtoHAsync_v2(bytes.data(), a + 50, 51, NULL));
    right = right && refused(cuMemsetD8Async(a + 200, 0, 1, NULL));
    device_give(a);
    device_close();
    return right;
}
static bool host_leak()
{
    device_open();
    (void)device_take(12345);
    device_close();
    return true;
}
static bool host_leaked_objects()
{
    kvi_cu_stream stream;
    kvi_cu_graph graph;
    device_open();
    MUST(cuStreamCreate(&stream, 0));
    MUST(cuGraphCreate(&graph, 0));
    device_close();
    return true;
}
static bool host_without_context()
{
    kvi_cu_dptr a = 0;
    device_open();
    kvi_cu_context context;
    MUST(cuCtxPopCurrent_v2(&context));
    bool right = refused(cuMemAlloc_v2(&a, 4));
    MUST(cuCtxPushCurrent_v2(context));
    device_close();
    return right;
}
static bool host_dead_stream()
{
    kvi_cu_stream stream;
    device_open();
    MUST(cuStreamCreate(&stream, 0));
    MUST(cuStreamDestroy_v2(stream));
    bool right = refused(cuStreamSynchronize(stream));
    device_close();
    return right;
}
static bool host_foreign_node()
{
    kvi_cu_graph one, two;
    selftest_params params = {0, 0, 0, 0, 0};
    void *list[1] = {&params};
    device_open();
    MUST(cuGraphCreate(&one, 0));
    MUST(cuGraphCreate(&two, 0));
    kvi_cu_node node = add_node(one, {}, params), other;
    kvi_cu_kernel_node launch = {device_kernel("good_scale_add"), 1, 1, 1, 32, 1, 1, 0, list, NULL, NULL, NULL};
    bool right = refused(cuGraphAddKernelNode_v2(&other, two, &node, 1, &launch));
    MUST(cuGraphDestroy(one));
    MUST(cuGraphDestroy(two));
    device_close();
    return right;
}
/* The staging buffer is written again before the copy from it has run. */
static bool host_early_reuse()
{
    void *pinned = NULL;
    device_open();
    kvi_cu_dptr a = device_take(4), b = device_take(4);
    MUST(cuMemAllocHost_v2(&pinned, 4));
    *static_cast<uint32_t *>(pinned) = 1;
    MUST(cuMemcpyHtoDAsync_v2(a, pinned, 4, NULL));
    *static_cast<uint32_t *>(pinned) = 2; /* cuStreamSynchronize is missing */
    MUST(cuMemcpyHtoDAsync_v2(b, pinned, 4, NULL));
    bool right = device_get<uint32_t>(a, 1)[0] == 1;
    MUST(cuMemFreeHost(pinned));
    device_give(a), device_give(b), device_close();
    return right;
}
/* The result is looked at before anybody waited for it. */
static bool host_early_read()
{
    void *pinned = NULL;
    device_open();
    kvi_cu_dptr a = device_put(counting(64));
    MUST(cuMemAllocHost_v2(&pinned, 256));
    MUST(cuMemcpyDtoHAsync_v2(pinned, a, 256, NULL));
    bool right = static_cast<uint32_t *>(pinned)[5] == 5; /* cuStreamSynchronize is missing */
    MUST(cuMemFreeHost(pinned));
    device_give(a), device_close();
    return right;
}

#define EVERYWHERE(text) text, text, text
const test_case driver_cases[] = {
    {"host_graph", host_graph, EVERYWHERE(nullptr)},
    {"host_streams", host_streams, EVERYWHERE(nullptr)},
    {"host_limits_of_device", host_limits_of_device, EVERYWHERE(nullptr)},
    {"host_failing_alloc", host_failing_alloc, EVERYWHERE(nullptr)},
    {"host_failing_launch", host_failing_launch, EVERYWHERE(nullptr)},
    {"host_lost_device", host_lost_device, EVERYWHERE("1 libraries")},
    {"host_graph_without_edge", host_graph_without_edge, EVERYWHERE("wrong")},
    {"host_much_shared", host_much_shared, EVERYWHERE("49153 bytes of shared memory a block, the limit is 49152")},
    {"host_many_threads", host_many_threads, EVERYWHERE("288 threads a block, its launch bounds are 256")},
    {"host_large_grid", host_large_grid, EVERYWHERE("the limit is (2147483647,65535,65535)")},
    {"host_no_params", host_no_params, EVERYWHERE("takes 32 bytes of parameters, got none")},
    {"host_params_of_wrong_size", host_params_of_wrong_size, EVERYWHERE("takes 32 bytes of parameters, got 16")},
    {"host_short_params", host_short_params, "", "heap-buffer-overflow", ""},
    {"host_double_free", host_double_free, EVERYWHERE("freed twice, or never taken")},
    {"host_copy_too_long", host_copy_too_long, EVERYWHERE("51 bytes at offset 50 of a block of 100 bytes")},
    {"host_leak", host_leak, EVERYWHERE("leak: 12345 bytes of device memory")},
    {"host_leaked_objects", host_leaked_objects, EVERYWHERE("leak: 1 graphs")},
    {"host_without_context", host_without_context, EVERYWHERE("no current context")},
    {"host_dead_stream", host_dead_stream, EVERYWHERE("not a live stream")},
    {"host_foreign_node", host_foreign_node, EVERYWHERE("no node of this graph")},
    {"host_early_reuse", host_early_reuse, EVERYWHERE("wrong")},
    {"host_early_read", host_early_read, EVERYWHERE("wrong")},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};
