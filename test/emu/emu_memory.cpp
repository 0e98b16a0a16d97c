/* emu_memory.cpp - device and pinned memory: heap blocks of exactly the size asked for, in a table that knows what is alive.
 * Fresh memory is 0xff bytes (NaN). Without AddressSanitizer a guard on both sides is looked at when a block is freed. */
#include "emu_driver.h"

#include <stdlib.h>

namespace kvi_emu
{

static const unsigned char fill = 0xff, guard_fill = 0xa5;
static const size_t fill_bytes =
    64u << 20; /* larger blocks are filled up to here: a pool of gigabytes stays unmapped until used */
static const size_t alignment = 256;
#if defined(KVRT_EMU_ASAN)
static const size_t guard = 0;
#else
static const size_t guard = 256;
#endif

bool memory_contains(const std::map<uintptr_t, allocation> &table, uintptr_t at, size_t bytes)
{
    auto after = table.upper_bound(at);
    if (after == table.begin()) return false;
    --after;
    return at - after->first <= after->second.bytes && bytes <= after->second.bytes - (at - after->first);
}
kvi_cu_result memory_check(const char *call, kvi_cu_dptr at, size_t bytes)
{
    const auto &table = driver().device;
    if (memory_contains(table, (uintptr_t)at, bytes)) return KVI_CU_SUCCESS;
    if (virtual_contains((uintptr_t)at, bytes)) return KVI_CU_SUCCESS;
    auto after = table.upper_bound((uintptr_t)at);
    if (after == table.begin() || (uintptr_t)at - std::prev(after)->first >= std::prev(after)->second.bytes)
        return misuse(KVI_CU_INVALID_VALUE, "%s: %zu bytes at 0x%llx, which is no device memory", call, bytes,
                      (unsigned long long)at);
    --after;
    return misuse(KVI_CU_INVALID_VALUE, "%s: %zu bytes at offset %zu of a block of %zu bytes (allocation %llu)", call,
                  bytes, (size_t)at - after->first, after->second.bytes, (unsigned long long)after->second.number);
}

static void *take(size_t bytes)
{
    void *memory = nullptr;
    if (posix_memalign(&memory, alignment, bytes + 2 * guard) != 0) return nullptr;
    unsigned char *at = static_cast<unsigned char *>(memory) + guard;
    if (guard) {
        memset(at - guard, guard_fill, guard);
        memset(at + bytes, guard_fill, guard);
    }
    memset(at, fill, bytes < fill_bytes ? bytes : fill_bytes);
    return at;
}
static void give(const char *what, uintptr_t at, const allocation &a)
{
    unsigned char *p = reinterpret_cast<unsigned char *>(at);
    for (size_t i = 0; i < guard; i++)
        if (p[i - guard] != guard_fill || p[a.bytes + i] != guard_fill) {
            report("kvrt-emu: %s memory overrun: bytes outside allocation %llu of %zu bytes were written\n", what,
                   (unsigned long long)a.number, a.bytes);
            break;
        }
    memset(p, fill, a.bytes < fill_bytes ? a.bytes : fill_bytes);
    free(p - guard);
}

void memory_leaks()
{
    state &d = driver();
    for (const auto &block : d.device)
        report("kvrt-emu: leak: %zu bytes of device memory (allocation %llu)\n", block.second.bytes,
               (unsigned long long)block.second.number);
    for (const auto &block : d.pinned)
        report("kvrt-emu: leak: %zu bytes of pinned memory (allocation %llu)\n", block.second.bytes,
               (unsigned long long)block.second.number);
}

static kvi_cu_result allocate(std::map<uintptr_t, allocation> &table, size_t bytes, uintptr_t *out)
{
    state &d = driver();
    if (!bytes) return misuse(KVI_CU_INVALID_VALUE, "an allocation of 0 bytes");
    if (d.allocs.strikes()) return KVI_CU_OUT_OF_MEMORY;
    void *memory = take(bytes);
    if (!memory) return KVI_CU_OUT_OF_MEMORY;
    *out = reinterpret_cast<uintptr_t>(memory);
    table[*out] = allocation{bytes, ++d.n_allocations};
    return KVI_CU_SUCCESS;
}
static kvi_cu_result release(std::map<uintptr_t, allocation> &table, const char *what, uintptr_t at)
{
    stream_flush_all(); /* the driver waits for the device before memory goes */
    auto found = table.find(at);
    if (found == table.end())
        return misuse(KVI_CU_INVALID_VALUE,
                      "free of %s memory at 0x%llx, which is no live allocation: freed twice, or never taken", what,
                      (unsigned long long)at);
    give(what, at, found->second);
    table.erase(found);
    return KVI_CU_SUCCESS;
}

} // namespace kvi_emu

using namespace kvi_emu;

KVRT_EMU_API kvi_cu_result cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes)
{
    KVRT_EMU_ENTER(true);
    state &d = driver();
    *total_bytes = d.set.memory_bytes;
    *free_bytes = d.set.memory_bytes - d.device_bytes;
    return KVI_CU_SUCCESS;
}
KVRT_EMU_API kvi_cu_result cuMemAlloc_v2(kvi_cu_dptr *at, size_t bytes)
{
    KVRT_EMU_ENTER(true);
    state &d = driver();
    uintptr_t memory = 0;
    if (bytes > d.set.memory_bytes - d.device_bytes) return KVI_CU_OUT_OF_MEMORY;
    kvi_cu_result result = allocate(d.device, bytes, &memory);
    if (result != KVI_CU_SUCCESS) return result;
    d.device_bytes += bytes;
    *at = memory;
    return KVI_CU_SUCCESS;
}
/* A lost device still gives its memory back here, so that a leak is told from a loss. */
KVRT_EMU_API kvi_cu_result cuMemFree_v2(kvi_cu_dptr at)
{
    entry guard_(__func__);
    state &d = driver();
    if (guard_.result != KVI_CU_SUCCESS && !d.lost) return guard_.result;
    auto found = d.device.find((uintptr_t)at);
    size_t bytes = found == d.device.end() ? 0 : found->second.bytes;
    kvi_cu_result result = release(d.device, "device", (uintptr_t)at);
    if (result == KVI_CU_SUCCESS) d.device_bytes -= bytes;
    return d.lost ? d.lost : result;
}
KVRT_EMU_API kvi_cu_result cuMemAllocHost_v2(void **at, size_t bytes)
{
    KVRT_EMU_ENTER(true);
    uintptr_t memory = 0;
    kvi_cu_result result = allocate(driver().pinned, bytes, &memory);
    if (result == KVI_CU_SUCCESS) *at = reinterpret_cast<void *>(memory);
    return result;
}
KVRT_EMU_API kvi_cu_result cuMemFreeHost(void *at)
{
    entry guard_(__func__);
    state &d = driver();
    if (guard_.result != KVI_CU_SUCCESS && !d.lost) return guard_.result;
    kvi_cu_result result = release(d.pinned, "pinned", reinterpret_cast<uintptr_t>(at));
    return d.lost ? d.lost : result;
}
