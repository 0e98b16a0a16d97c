/* emu_driver.cpp - the driver's state, errors, device, context, libraries and kernels, launches; what a test may ask for.
 * Refuses what a real driver refuses, and says why on stderr. See README.md. */
#include "emu_driver.h"
#include "emu_control.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string>
#include <unistd.h>

using namespace kvi_emu;

struct kvi_cu_context_t {
    int unused;
};
struct kvi_cu_library_t {
    int unused;
};
static kvi_cu_context_t primary;

namespace kvi_emu
{

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const uint32_t max_pushed = 64;
static __thread kvi_cu_context pushed[max_pushed];
static __thread uint32_t n_pushed;

/* Never destroyed: objects of the host may outlive static destructors. */
state &driver()
{
    static state *one = new state{};
    return *one;
}
static std::string &texts()
{
    static std::string *all = new std::string;
    return *all;
}

void report(const char *format, ...)
{
    char text[5000];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    driver().n_reports++;
    std::string &all = texts();
    all += text;
    if (all.size() > 20000) all.erase(0, all.size() - 10000);
    fputs(text, stderr);
}
kvi_cu_result misuse(kvi_cu_result result, const char *format, ...)
{
    char text[1000];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    const char *name = "";
    cuGetErrorName(result, &name);
    report("kvrt-emu: refused: %s (%s)\n", text, name);
    return result;
}

entry::entry(const char *call_, bool needs_context) : call(call_), result(KVI_CU_SUCCESS)
{
    pthread_mutex_lock(&lock);
    state &d = driver();
    if (!d.ready) result = misuse(KVI_CU_NOT_INITIALIZED, "%s before cuInit", call);
    else if (!needs_context) result = KVI_CU_SUCCESS;
    else if (!n_pushed || !pushed[n_pushed - 1u])
        result = misuse(KVI_CU_INVALID_CONTEXT, "%s: no current context", call);
    else if (!d.retained) result = misuse(KVI_CU_INVALID_CONTEXT, "%s: the primary context was released", call);
    else result = d.lost;
}
entry::~entry() { pthread_mutex_unlock(&lock); }

/* ----------------------------------------------------------------------------------------------------- environment --- */
static uint64_t number_of(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text && *text ? strtoull(text, nullptr, 10) : otherwise;
}
static injection *injection_of(const char *what)
{
    state &d = driver();
    return strcmp(what, "alloc") == 0    ? &d.allocs
           : strcmp(what, "launch") == 0 ? &d.launches
           : strcmp(what, "lost") == 0   ? &d.operations
                                         : nullptr;
}
void control_read_environment()
{
    state &d = driver();
    d.set.seed = (uint32_t)number_of("KVRT_EMU_SEED", 0);
    d.set.sms = (uint32_t)number_of("KVRT_EMU_SMS", 4);
    d.set.capability = (uint32_t)number_of("KVRT_EMU_CAPABILITY", 86);
    d.set.threads = (uint32_t)number_of("KVRT_EMU_THREADS", 1);
    d.set.memory_bytes = number_of("KVRT_EMU_MEMORY_MIB", 2048) << 20;
    d.set.has_virtual = number_of("KVRT_EMU_VIRTUAL", 1) != 0;
    d.set.trace = number_of("KVRT_EMU_TRACE", 0) != 0;
    if (!d.set.threads) d.set.threads = 1;
    if (!d.set.sms) d.set.sms = 1;
    const char *fail = getenv("KVRT_EMU_FAIL"); /* alloc:3 */
    const char *colon = fail ? strchr(fail, ':') : nullptr;
    if (!colon) return;
    injection *which = injection_of(std::string(fail, (size_t)(colon - fail)).c_str());
    if (which) *which = {0, strtoull(colon + 1, nullptr, 10)};
}

/* ------------------------------------------------------------------------------------------------------------- end --- */
static void objects_left()
{
    state &d = driver();
    memory_leaks();
    virtual_leaks();
    static const struct {
        const char *what;
        std::set<void *> state::*live;
    } kinds[] = {{"streams", &state::streams},
                 {"events", &state::events},
                 {"libraries", &state::libraries},
                 {"graphs", &state::graphs},
                 {"executable graphs", &state::executables}};
    for (const auto &kind : kinds)
        if (!(d.*kind.live).empty()) report("kvrt-emu: leak: %zu %s\n", (d.*kind.live).size(), kind.what);
}
void launch_print_trace();

/* A program that ends with reports does not end well, whatever it says itself. */
__attribute__((destructor)) static void at_exit()
{
    state &d = driver();
    if (d.set.trace) launch_print_trace();
    if (d.retained) objects_left();
    if (!d.n_reports) return;
    fprintf(stderr, "kvrt-emu: %llu reports\n", (unsigned long long)d.n_reports);
    fflush(nullptr);
    _exit(86);
}

} // namespace kvi_emu

/* ---------------------------------------------------------------------------------------------------------- control --- */
KVRT_EMU_API void kvrt_emu_seed(uint32_t seed)
{
    pthread_mutex_lock(&lock);
    driver().set.seed = seed;
    pthread_mutex_unlock(&lock);
}
KVRT_EMU_API void kvrt_emu_fail(const char *what, uint64_t nth)
{
    pthread_mutex_lock(&lock);
    injection *which = injection_of(what);
    if (which) *which = {0, nth};
    else report("kvrt-emu: kvrt_emu_fail(\"%s\"): no such failure\n", what);
    pthread_mutex_unlock(&lock);
}
KVRT_EMU_API uint64_t kvrt_emu_count(const char *what)
{
    pthread_mutex_lock(&lock);
    state &d = driver();
    const std::string name = what;
    uint64_t count = 0;
    if (const injection *which = injection_of(what)) count = which->seen;
    else if (name == "kernels") count = d.counted.launches;
    else if (name == "blocks") count = d.counted.blocks;
    else if (name == "switches") count = d.counted.switches;
    else if (name == "bytes") count = d.device_bytes;
    else if (name == "to_host") count = d.to_host_bytes;
    else if (name == "reports") count = d.n_reports;
    else if (name == "objects")
        count = d.device.size() + d.pinned.size() + d.streams.size() + d.events.size() + d.libraries.size() +
                d.graphs.size() + d.executables.size() + virtual_objects();
    else report("kvrt-emu: kvrt_emu_count(\"%s\"): no such count\n", what);
    pthread_mutex_unlock(&lock);
    return count;
}
KVRT_EMU_API const char *kvrt_emu_reports(void) { return texts().c_str(); }
KVRT_EMU_API void kvrt_emu_forget_reports(void)
{
    pthread_mutex_lock(&lock);
    driver().n_reports = 0;
    texts().clear();
    pthread_mutex_unlock(&lock);
}

/* ----------------------------------------------------------------------------------------------------------- errors --- */
static const struct {
    kvi_cu_result result;
    const char *name, *text;
} results[] = {
    {KVI_CU_SUCCESS, "CUDA_SUCCESS", "no error"},
    {KVI_CU_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {KVI_CU_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {KVI_CU_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {KVI_CU_NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {KVI_CU_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {KVI_CU_INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {KVI_CU_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {KVI_CU_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {KVI_CU_NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {KVI_CU_NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {KVI_CU_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {KVI_CU_LAUNCH_OUT_OF_RESOURCES, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {KVI_CU_HARDWARE_STACK_ERROR, "CUDA_ERROR_HARDWARE_STACK_ERROR", "hardware stack error"},
    {KVI_CU_MISALIGNED_ADDRESS, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {KVI_CU_LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {KVI_CU_UNKNOWN, "CUDA_ERROR_UNKNOWN", "unknown error"},
};
KVRT_EMU_API kvi_cu_result cuGetErrorName(kvi_cu_result result, const char **name)
{
    for (const auto &r : results)
        if (r.result == result) return *name = r.name, KVI_CU_SUCCESS;
    *name = nullptr;
    return KVI_CU_INVALID_VALUE;
}
KVRT_EMU_API kvi_cu_result cuGetErrorString(kvi_cu_result result, const char **text)
{
    for (const auto &r : results)
        if (r.result == result) return *text = r.text, KVI_CU_SUCCESS;
    *text = nullptr;
    return KVI_CU_INVALID_VALUE;
}

/* ----------------------------------------------------------------------------------------------------------- device --- */
KVRT_EMU_API kvi_cu_result cuInit(unsigned int flags)
{
    pthread_mutex_lock(&lock);
    state &d = driver();
    if (!d.ready) control_read_environment();
    d.ready = true;
    kvi_cu_result result = flags ? misuse(KVI_CU_INVALID_VALUE, "cuInit: flags %u, must be 0", flags) : KVI_CU_SUCCESS;
    pthread_mutex_unlock(&lock);
    return result;
}
KVRT_EMU_API kvi_cu_result cuDriverGetVersion(int *version)
{
    *version = (int)number_of("KVRT_EMU_VERSION", 13000); /* asked before cuInit */
    return KVI_CU_SUCCESS;
}
KVRT_EMU_API kvi_cu_result cuDeviceGetCount(int *count)
{
    KVRT_EMU_ENTER(false);
    *count = 1;
    return KVI_CU_SUCCESS;
}
KVRT_EMU_API kvi_cu_result cuDeviceGet(kvi_cu_device *device, int ordinal)
{
    KVRT_EMU_ENTER(false);
    if (ordinal != 0) return KVI_CU_INVALID_DEVICE;
    *device = 0;
    return KVI_CU_SUCCESS;
}
KVRT_EMU_API kvi_cu_result cuDeviceGetName(char *name, int len, kvi_cu_device device)
{
    KVRT_EMU_ENTER(false);
    if (device != 0 || len < 1) return KVI_CU_INVALID_DEVICE;
    snprintf(name, (size_t)len, "kvrt emulated device");
    return KVI_CU_SUCCESS;
}
KVRT_EMU_API kvi_cu_result cuDeviceTotalMem_v2(size_t *bytes, kvi_cu_device device)
{
    KVRT_EMU_ENTER(false);
    if (device != 0) return KVI_CU_INVALID_DEVICE;
    *bytes = driver().set.memory_bytes;
    return KVI_CU_SUCCESS;
}
/* A card of compute capability 8.6, with fewer multiprocessors, since every block costs time here. */
KVRT_EMU_API kvi_cu_result cuDeviceGetAttribute(int *value, int attribute, kvi_cu_device device)
{
    KVRT_EMU_ENTER(false);
    if (device != 0) return KVI_CU_INVALID_DEVICE;
    switch (attribute) {
    case KVI_CU_ATTR_MAX_THREADS_PER_BLOCK: *value = 1024; break;
    case KVI_CU_ATTR_MAX_SHARED_PER_BLOCK: *value = 48 * 1024; break;
    case KVI_CU_ATTR_CLOCK_KHZ: *value = 1695000; break;
    case KVI_CU_ATTR_SM_COUNT: *value = (int)number_of("KVRT_EMU_SMS", driver().set.sms); break;
    case KVI_CU_ATTR_COMPUTE_MODE: *value = 0; break;
    case KVI_CU_ATTR_MEMORY_CLOCK_KHZ: *value = 9751000; break;
    case KVI_CU_ATTR_MEMORY_BUS_BITS: *value = 384; break;
    case KVI_CU_ATTR_L2_BYTES: *value = 6 << 20; break;
    case KVI_CU_ATTR_VIRTUAL_MEMORY:
        *value = number_of("KVRT_EMU_VIRTUAL", driver().set.has_virtual) != 0; /* asked anew, as a test may change it */
        break;
    case KVI_CU_ATTR_CAPABILITY_MAJOR: *value = static_cast<int>(driver().set.capability / 10); break;
    case KVI_CU_ATTR_CAPABILITY_MINOR: *value = static_cast<int>(driver().set.capability % 10); break;
    default: return misuse(KVI_CU_INVALID_VALUE, "cuDeviceGetAttribute: attribute %d is not emulated", attribute);
    }
    return KVI_CU_SUCCESS;
}

/* ---------------------------------------------------------------------------------------------------------- context --- */
KVRT_EMU_API kvi_cu_result cuDevicePrimaryCtxRetain(kvi_cu_context *context, kvi_cu_device device)
{
    KVRT_EMU_ENTER(false);
    if (device != 0) return KVI_CU_INVALID_DEVICE;
    driver().retained++;
    *context = &primary;
    return KVI_CU_SUCCESS;
}
KVRT_EMU_API kvi_cu_result cuDevicePrimaryCtxRelease_v2(kvi_cu_device device)
{
    KVRT_EMU_ENTER(false);
    state &d = driver();
    if (device != 0) return KVI_CU_INVALID_DEVICE;
    if (!d.retained)
        return misuse(KVI_CU_INVALID_CONTEXT, "cuDevicePrimaryCtxRelease: released more often than retained");
    if (--d.retained) return KVI_CU_SUCCESS;
    stream_flush_all();
    objects_left();
    d.lost = KVI_CU_SUCCESS;
    return KVI_CU_SUCCESS;
}
KVRT_EMU_API kvi_cu_result cuCtxPushCurrent_v2(kvi_cu_context context)
{
    KVRT_EMU_ENTER(false);
    if (context && context != &primary) return misuse(KVI_CU_INVALID_CONTEXT, "cuCtxPushCurrent: no such context");
    if (n_pushed == max_pushed)
        return misuse(KVI_CU_INVALID_CONTEXT, "cuCtxPushCurrent: %u contexts pushed on one thread", max_pushed);
    pushed[n_pushed++] = context;
    return KVI_CU_SUCCESS;
}
KVRT_EMU_API kvi_cu_result cuCtxPopCurrent_v2(kvi_cu_context *context)
{
    KVRT_EMU_ENTER(false);
    if (!n_pushed) return misuse(KVI_CU_INVALID_CONTEXT, "cuCtxPopCurrent: nothing was pushed on this thread");
    n_pushed--;
    if (context) *context = pushed[n_pushed];
    return KVI_CU_SUCCESS;
}
KVRT_EMU_API kvi_cu_result cuCtxGetCurrent(kvi_cu_context *context)
{
    KVRT_EMU_ENTER(false);
    *context = n_pushed ? pushed[n_pushed - 1u] : nullptr;
    return KVI_CU_SUCCESS;
}

KVRT_EMU_API kvi_cu_result cuCtxGetDevice(kvi_cu_device *device)
{
    KVRT_EMU_ENTER(true);
    *device = (int)number_of("KVRT_EMU_CONTEXT_DEVICE", 0);
    return KVI_CU_SUCCESS;
}

/* ------------------------------------------------------------------------------------------------ libraries, kernels --- */
namespace kvi_emu
{
/* ABI 8 moved the architecture in the header's flags. */
uint32_t image_architecture(const void *image)
{
    static const unsigned char elf[4] = {0x7f, 'E', 'L', 'F'};
    const unsigned char *header = static_cast<const unsigned char *>(image);
    return memcmp(image, elf, sizeof elf) != 0 ? 0 : header[header[8] >= 8 ? 49 : 48];
}
static bool is_text(const void *image)
{
    return strncmp(static_cast<const char *>(image), "//\n// Generated by NVIDIA", 25) == 0 ||
           strcmp(static_cast<const char *>(image), KVI_CU_PLACEHOLDER_IMAGE) == 0;
}
} // namespace kvi_emu

/* A library and a function are what the registry says. */
KVRT_EMU_API kvi_cu_result cuLibraryLoadData(kvi_cu_library *library, const void *image, void *, void **,
                                             unsigned int n_jit, void *, void **, unsigned int n_options)
{
    KVRT_EMU_ENTER(true);
    (void)n_jit, (void)n_options;
    if (!image || (!image_architecture(image) && !is_text(image))) return KVI_CU_INVALID_IMAGE;
    const kvi_cu_result taken = image_take(image);
    if (taken != KVI_CU_SUCCESS) return taken;
    *library = new kvi_cu_library_t{0};
    driver().libraries.insert(*library);
    return KVI_CU_SUCCESS;
}
KVRT_EMU_API kvi_cu_result cuLibraryUnload(kvi_cu_library library)
{
    entry guard(__func__);
    state &d = driver();
    if (guard.result != KVI_CU_SUCCESS && !d.lost) return guard.result;
    if (!d.libraries.erase(library)) return misuse(KVI_CU_INVALID_HANDLE, "cuLibraryUnload: not a live library");
    stream_flush_all();
    delete library;
    return d.lost;
}
KVRT_EMU_API kvi_cu_result cuLibraryGetKernel(kvi_cu_kernel *out, kvi_cu_library library, const char *name)
{
    KVRT_EMU_ENTER(true);
    if (!driver().libraries.count(library))
        return misuse(KVI_CU_INVALID_HANDLE, "cuLibraryGetKernel: not a live library");
    const kernel *found = kernel_find(name);
    if (!found) return KVI_CU_NOT_FOUND;
    *out = reinterpret_cast<kvi_cu_kernel>(const_cast<kernel *>(found));
    return KVI_CU_SUCCESS;
}
static const kernel *kernel_of(const void *handle)
{
    for (uint32_t i = 0; const kernel *k = kernel_at(i); i++)
        if (k == handle) return k;
    return nullptr;
}
KVRT_EMU_API kvi_cu_result cuKernelGetFunction(kvi_cu_function *function, kvi_cu_kernel handle)
{
    KVRT_EMU_ENTER(true);
    if (!kernel_of(handle)) return misuse(KVI_CU_INVALID_HANDLE, "cuKernelGetFunction: not a kernel");
    *function = reinterpret_cast<kvi_cu_function>(handle);
    return KVI_CU_SUCCESS;
}
KVRT_EMU_API kvi_cu_result cuFuncGetAttribute(int *value, int attribute, kvi_cu_function function)
{
    KVRT_EMU_ENTER(true);
    const kernel *k = kernel_of(function);
    if (!k) return misuse(KVI_CU_INVALID_HANDLE, "cuFuncGetAttribute: not a function");
    switch (attribute) {
    case KVI_CU_FUNC_MAX_THREADS: *value = (int)k->max_threads; break;
    case KVI_CU_FUNC_SHARED_BYTES:
    case KVI_CU_FUNC_LOCAL_BYTES: *value = 0; break;
    case KVI_CU_FUNC_REGISTERS:
        *value = (int)(65536u / (k->max_threads * k->min_blocks)) & ~7;
        break; /* what its bounds leave it */
    default: return misuse(KVI_CU_INVALID_VALUE, "cuFuncGetAttribute: attribute %d is not emulated", attribute);
    }
    return KVI_CU_SUCCESS;
}
/* CUDA 12.4: offset and size of a parameter; what the host can check its structs against. */
KVRT_EMU_API kvi_cu_result cuFuncGetParamInfo(kvi_cu_function function, size_t index, size_t *offset, size_t *bytes)
{
    KVRT_EMU_ENTER(true);
    const kernel *k = kernel_of(function);
    if (!k || index != 0) return KVI_CU_INVALID_VALUE;
    *offset = 0;
    if (bytes) *bytes = k->param_bytes;
    return KVI_CU_SUCCESS;
}

namespace kvi_emu
{
/* The launch as asked for, checked; parameters are copied now, as the driver does. */
kvi_cu_result node_make(const char *call, node *out, kvi_cu_function function, dim3 grid, dim3 threads,
                        uint32_t shared_bytes, void **params, void **extra)
{
    const kernel *k = kernel_of(function);
    if (!k) return misuse(KVI_CU_INVALID_HANDLE, "%s: not a function", call);
    out->code = k;
    out->grid = grid;
    out->threads = threads;
    out->shared_bytes = shared_bytes;
    kvi_cu_result result = launch_check(*out);
    if (result != KVI_CU_SUCCESS) return result;
    const unsigned char *from = nullptr;
    if (params && extra) return misuse(KVI_CU_INVALID_VALUE, "%s: %s has both parameters and extra", call, k->name);
    if (params) from = static_cast<const unsigned char *>(params[0]);
    if (extra) { /* CU_LAUNCH_PARAM_BUFFER_POINTER 1, CU_LAUNCH_PARAM_BUFFER_SIZE 2, end 0: the size is known here, and checked */
        size_t bytes = 0;
        for (void **e = extra; *e; e += 2) {
            if (*e == (void *)1) from = static_cast<const unsigned char *>(e[1]);
            else if (*e == (void *)2) bytes = *static_cast<const size_t *>(e[1]);
        }
        if (bytes != k->param_bytes)
            return misuse(KVI_CU_INVALID_VALUE, "%s: %s takes %u bytes of parameters, got %zu", call, k->name,
                          k->param_bytes, bytes);
    }
    if (!from)
        return misuse(KVI_CU_INVALID_VALUE, "%s: %s takes %u bytes of parameters, got none", call, k->name,
                      k->param_bytes);
    out->params.resize(k->param_bytes);
    memcpy(out->params.data(), from, k->param_bytes); /* AddressSanitizer sees a struct that is too short */
    return KVI_CU_SUCCESS;
}
} // namespace kvi_emu

KVRT_EMU_API kvi_cu_result cuLaunchKernel(kvi_cu_function function, unsigned int grid_x, unsigned int grid_y,
                                          unsigned int grid_z, unsigned int block_x, unsigned int block_y,
                                          unsigned int block_z, unsigned int shared_bytes, kvi_cu_stream stream,
                                          void **params, void **extra)
{
    KVRT_EMU_ENTER(true);
    node n;
    kvi_cu_result result = node_make(__func__, &n, function, dim3(grid_x, grid_y, grid_z),
                                     dim3(block_x, block_y, block_z), shared_bytes, params, extra);
    if (result != KVI_CU_SUCCESS) return result;
    if (driver().launches.strikes()) return KVI_CU_LAUNCH_OUT_OF_RESOURCES;
    work item = {};
    item.kind = work::kernels;
    item.nodes = std::make_shared<const node_list>(1, std::move(n));
    return stream_enqueue(__func__, stream, std::move(item));
}
