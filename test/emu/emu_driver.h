/* emu_driver.h - what the files of the emulated driver share: settings, reports, tables of live objects. One device, one lock. */
#ifndef KVRT_EMU_DRIVER_H
#define KVRT_EMU_DRIVER_H
#include "../../kernels/cuda/cuda_api.h"
#include "emu_block.h"

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <vector>

#define KVRT_EMU_API extern "C" __attribute__((visibility("default")))

/* The functions as kvrt declares them: a definition that differs does not compile. */
#define KVRT_EMU_DECLARE(member, symbol, parameters) KVRT_EMU_API kvi_cu_result symbol parameters;
KVI_CU_FUNCTIONS(KVRT_EMU_DECLARE)
#undef KVRT_EMU_DECLARE

namespace kvi_emu
{

/* From the environment, read by cuInit; see README.md. */
struct settings {
    uint32_t seed, sms, threads;
    uint32_t capability; /* 86 is 8.6 */
    uint64_t memory_bytes;
    bool has_virtual; /* cuMemCreate and what belongs to it */
    bool trace;
};
/* Failures asked for: the nth of a kind from now on, 0 none. `seen` counts all of them. */
struct injection {
    uint64_t seen, fail_at;
    bool strikes() { return ++seen == fail_at; }
};

struct allocation {
    size_t bytes;
    uint64_t number;
};

/* Work that a stream has not done yet. Streams are lazy: nothing runs before the host waits for it, so a host that touches
 * a buffer too early is always caught, not only when the timing is unlucky. */
struct node {
    const kernel *code;
    dim3 grid, threads;
    uint32_t shared_bytes;
    std::vector<unsigned char> params;
    std::vector<size_t> after; /* graphs: nodes before this one */
};
typedef std::vector<node> node_list;
struct work {
    enum { to_device, to_host, on_device, set, kernels, event } kind;
    unsigned char *to;
    const unsigned char *from;
    size_t bytes;
    unsigned char value;
    std::vector<unsigned char> snapshot; /* to_device from pageable memory, which the driver copies before it returns */
    std::shared_ptr<const node_list> nodes;
    kvi_cu_event recorded;
};

struct state {
    bool ready;
    settings set;
    kvi_cu_result lost; /* sticky */
    int retained;
    uint64_t n_reports, n_allocations;
    uint64_t device_bytes, to_host_bytes;
    std::map<uintptr_t, allocation> device, pinned;
    std::set<void *> streams, events, libraries, graphs, executables;
    std::deque<work> default_queue;
    injection allocs, launches, operations;
    statistics counted;
};
state &driver();

/* Reports: counted, written to stderr as one piece; a process with reports ends with exit code 86. */
void report(const char *format, ...) __attribute__((format(printf, 1, 2)));
kvi_cu_result misuse(kvi_cu_result result, const char *format, ...) __attribute__((format(printf, 2, 3)));
void control_read_environment();

/* emu_launch.cpp */
kvi_cu_result launch_check(const node &n);
kvi_cu_result launch_run(const node &n);

/* The architecture that an ELF image is for, 86 of sm_86; 0: none. Whether the device takes an image: emu_image.cpp. */
uint32_t image_architecture(const void *image);
kvi_cu_result image_take(const void *image);

/* emu_memory.cpp */
bool memory_contains(const std::map<uintptr_t, allocation> &table, uintptr_t at, size_t bytes);
kvi_cu_result memory_check(const char *call, kvi_cu_dptr at, size_t bytes);
void memory_leaks();

/* emu_virtual.cpp */
bool virtual_contains(uintptr_t at, size_t bytes);
size_t virtual_objects();
void virtual_leaks();

/* emu_stream.cpp */
void stream_flush_all();
kvi_cu_result stream_enqueue(const char *call, kvi_cu_stream stream, work &&item);

/* Guards every entry: the lock, the sticky error, the current context. */
struct entry {
    const char *call;
    kvi_cu_result result;
    explicit entry(const char *call, bool needs_context = true);
    ~entry();
};
#define KVRT_EMU_ENTER(needs_context)                                                                                  \
    kvi_emu::entry guard(__func__, needs_context);                                                                     \
    if (guard.result != KVI_CU_SUCCESS) return guard.result

} // namespace kvi_emu
#endif
