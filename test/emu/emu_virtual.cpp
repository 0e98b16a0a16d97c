/* emu_virtual.cpp - addresses without memory, memory without addresses, and mappings between the two: cuMemAddressReserve and what belongs to it. Memory is
 * a file of the system's that has no name, so that content stays while mappings come and go, and whoever touches what is not mapped, or not
 * accessible yet, dies on the spot. What the real driver demands is demanded: multiples of the grain, whole mappings, matching frees. */
#include "emu_driver.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

namespace kvi_emu
{

struct block {
    int file;
    size_t bytes, mappings;
    bool released;
};
struct mapping {
    size_t bytes;
    kvi_cu_memory memory;
    bool accessible;
};
static const size_t grain = 2u << 20;
/* Never destroyed, as the driver's state. */
static std::map<uintptr_t, size_t> &reserved = *new std::map<uintptr_t, size_t>;
static std::map<kvi_cu_memory, block> &blocks = *new std::map<kvi_cu_memory, block>;
static std::map<uintptr_t, mapping> &mappings = *new std::map<uintptr_t, mapping>;

/* Whole mappings that cover [at, at + bytes) without a gap. */
static bool covers(uintptr_t at, size_t bytes)
{
    auto m = mappings.find(at);
    for (uintptr_t end = at + bytes; at < end; at += m->second.bytes, ++m)
        if (m == mappings.end() || m->first != at || m->second.bytes > end - at) return false;
    return bytes > 0;
}

bool virtual_contains(uintptr_t at, size_t bytes)
{
    auto m = mappings.upper_bound(at);
    if (m == mappings.begin()) return false;
    --m;
    for (uintptr_t next = m->first, end = at + bytes;; next += m->second.bytes, ++m) {
        if (m == mappings.end() || m->first != next || !m->second.accessible) return false;
        if (end <= next + m->second.bytes) return at <= next + m->second.bytes;
    }
}

size_t virtual_objects() { return reserved.size() + blocks.size(); }

void virtual_leaks()
{
    for (const auto &r : reserved) report("kvrt-emu: leak: %zu bytes of reserved addresses\n", r.second);
    for (const auto &b : blocks)
        report("kvrt-emu: leak: %zu bytes of device memory (cuMemCreate), %zu mappings\n", b.second.bytes,
               b.second.mappings);
}

static void give_if_unused(std::map<kvi_cu_memory, block>::iterator b)
{
    if (!b->second.released || b->second.mappings) return;
    close(b->second.file);
    driver().device_bytes -= b->second.bytes;
    blocks.erase(b);
}

static bool is_grained(uintptr_t at, size_t bytes) { return bytes > 0 && at % grain == 0 && bytes % grain == 0; }

static bool within_reserved(uintptr_t at, size_t bytes)
{
    auto r = reserved.upper_bound(at);
    if (r == reserved.begin()) return false;
    --r;
    return at - r->first <= r->second && bytes <= r->second - (at - r->first);
}

/* Addresses that may not be touched, in place of what is there. */
static bool bar(uintptr_t at, size_t bytes)
{
    return mmap(reinterpret_cast<void *>(at), bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
                -1, 0) != MAP_FAILED;
}

} // namespace kvi_emu

using namespace kvi_emu;

KVRT_EMU_API kvi_cu_result cuMemGetAllocationGranularity(size_t *out, const kvi_cu_memory_kind *kind, int which)
{
    KVRT_EMU_ENTER(false);
    if (kind->type != KVI_CU_MEMORY_PINNED || kind->location.type != KVI_CU_LOCATION_DEVICE || kind->location.id != 0 ||
        which != KVI_CU_GRAIN_LEAST)
        return misuse(KVI_CU_INVALID_VALUE, "%s: not memory of the device", __func__);
    *out = grain;
    return KVI_CU_SUCCESS;
}

KVRT_EMU_API kvi_cu_result cuMemAddressReserve(kvi_cu_dptr *out, size_t bytes, size_t alignment, kvi_cu_dptr wish,
                                               unsigned long long flags)
{
    KVRT_EMU_ENTER(true);
    if (!is_grained(0, bytes) || alignment > grain || wish != 0 || flags != 0)
        return misuse(KVI_CU_INVALID_VALUE, "%s: %zu bytes", __func__, bytes);
    if (driver().allocs.strikes()) return KVI_CU_OUT_OF_MEMORY;
    void *memory = mmap(nullptr, bytes + grain, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return KVI_CU_OUT_OF_MEMORY;
    const uintptr_t from = reinterpret_cast<uintptr_t>(memory), at = (from + grain - 1) / grain * grain;
    if (at > from) munmap(memory, at - from);
    munmap(reinterpret_cast<void *>(at + bytes), from + grain - at);
    reserved[at] = bytes;
    *out = at;
    return KVI_CU_SUCCESS;
}

KVRT_EMU_API kvi_cu_result cuMemAddressFree(kvi_cu_dptr at, size_t bytes)
{
    entry guard_(__func__);
    state &d = driver();
    if (guard_.result != KVI_CU_SUCCESS && !d.lost) return guard_.result;
    auto r = reserved.find((uintptr_t)at);
    if (r == reserved.end() || r->second != bytes)
        return misuse(KVI_CU_INVALID_VALUE, "%s: %zu bytes at 0x%llx, which were not reserved so", __func__, bytes,
                      (unsigned long long)at);
    auto m = mappings.lower_bound((uintptr_t)at);
    if (m != mappings.end() && m->first < at + bytes)
        return misuse(KVI_CU_INVALID_VALUE, "%s: memory is mapped there", __func__);
    munmap(reinterpret_cast<void *>((uintptr_t)at), bytes);
    reserved.erase(r);
    return d.lost ? d.lost : KVI_CU_SUCCESS;
}

KVRT_EMU_API kvi_cu_result cuMemCreate(kvi_cu_memory *out, size_t bytes, const kvi_cu_memory_kind *kind,
                                       unsigned long long flags)
{
    KVRT_EMU_ENTER(true);
    state &d = driver();
    if (!is_grained(0, bytes) || kind->type != KVI_CU_MEMORY_PINNED || kind->handles != 0 ||
        kind->location.type != KVI_CU_LOCATION_DEVICE || kind->location.id != 0 || kind->windows || flags != 0)
        return misuse(KVI_CU_INVALID_VALUE, "%s: %zu bytes", __func__, bytes);
    if (d.allocs.strikes() || bytes > d.set.memory_bytes - d.device_bytes) return KVI_CU_OUT_OF_MEMORY;
    const int file = memfd_create("kvrt-emu", MFD_CLOEXEC);
    void *content = file >= 0 && ftruncate(file, (off_t)bytes) == 0
                        ? mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)
                        : MAP_FAILED;
    if (content == MAP_FAILED) {
        if (file >= 0) close(file);
        return KVI_CU_OUT_OF_MEMORY;
    }
    memset(content, 0xff, bytes); /* NaN, as all fresh memory */
    munmap(content, bytes);
    *out = ++d.n_allocations;
    blocks[*out] = block{file, bytes, 0, false};
    d.device_bytes += bytes;
    return KVI_CU_SUCCESS;
}

KVRT_EMU_API kvi_cu_result cuMemRelease(kvi_cu_memory memory)
{
    entry guard_(__func__);
    state &d = driver();
    if (guard_.result != KVI_CU_SUCCESS && !d.lost) return guard_.result;
    auto b = blocks.find(memory);
    if (b == blocks.end() || b->second.released)
        return misuse(KVI_CU_INVALID_VALUE, "%s: not a handle of memory, or released twice", __func__);
    b->second.released = true;
    give_if_unused(b);
    return d.lost ? d.lost : KVI_CU_SUCCESS;
}

KVRT_EMU_API kvi_cu_result cuMemMap(kvi_cu_dptr at, size_t bytes, size_t offset, kvi_cu_memory memory,
                                    unsigned long long flags)
{
    KVRT_EMU_ENTER(true);
    auto b = blocks.find(memory);
    if (b == blocks.end() || b->second.released || bytes != b->second.bytes || offset != 0 || flags != 0)
        return misuse(KVI_CU_INVALID_VALUE, "%s: %zu bytes, which is not a whole block of memory", __func__, bytes);
    if (!is_grained((uintptr_t)at, bytes) || !within_reserved((uintptr_t)at, bytes))
        return misuse(KVI_CU_INVALID_VALUE, "%s: at 0x%llx, which is not reserved", __func__, (unsigned long long)at);
    auto m = mappings.lower_bound((uintptr_t)at);
    if ((m != mappings.end() && m->first < at + bytes) ||
        (m != mappings.begin() && std::prev(m)->first + std::prev(m)->second.bytes > at))
        return misuse(KVI_CU_INVALID_VALUE, "%s: memory is mapped there", __func__);
    if (driver().allocs.strikes()) return KVI_CU_OUT_OF_MEMORY;
    if (mmap(reinterpret_cast<void *>((uintptr_t)at), bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, b->second.file, 0) ==
        MAP_FAILED)
        return KVI_CU_OUT_OF_MEMORY;
    mappings[(uintptr_t)at] = mapping{bytes, memory, false};
    b->second.mappings++;
    return KVI_CU_SUCCESS;
}

KVRT_EMU_API kvi_cu_result cuMemSetAccess(kvi_cu_dptr at, size_t bytes, const kvi_cu_memory_access *access,
                                          size_t count)
{
    KVRT_EMU_ENTER(true);
    if (count != 1 || access->location.type != KVI_CU_LOCATION_DEVICE || access->location.id != 0 ||
        access->flags != KVI_CU_ACCESS_READ_WRITE || !covers((uintptr_t)at, bytes))
        return misuse(KVI_CU_INVALID_VALUE, "%s: %zu bytes at 0x%llx are not whole mappings", __func__, bytes,
                      (unsigned long long)at);
    if (driver().allocs.strikes()) return KVI_CU_OUT_OF_MEMORY;
    if (mprotect(reinterpret_cast<void *>((uintptr_t)at), bytes, PROT_READ | PROT_WRITE) != 0)
        return KVI_CU_OUT_OF_MEMORY;
    for (auto m = mappings.find((uintptr_t)at); m != mappings.end() && m->first < at + bytes; ++m)
        m->second.accessible = true;
    return KVI_CU_SUCCESS;
}

/* Work that is queued is not done first: the real driver does not wait either, and whoever did not wait for it is found out. */
KVRT_EMU_API kvi_cu_result cuMemUnmap(kvi_cu_dptr at, size_t bytes)
{
    entry guard_(__func__);
    state &d = driver();
    if (guard_.result != KVI_CU_SUCCESS && !d.lost) return guard_.result;
    if (!covers((uintptr_t)at, bytes))
        return misuse(KVI_CU_INVALID_VALUE, "%s: %zu bytes at 0x%llx are not whole mappings", __func__, bytes,
                      (unsigned long long)at);
    if (!bar((uintptr_t)at, bytes)) return KVI_CU_UNKNOWN;
    for (auto m = mappings.find((uintptr_t)at); m != mappings.end() && m->first < at + bytes;) {
        auto b = blocks.find(m->second.memory);
        b->second.mappings--;
        give_if_unused(b);
        m = mappings.erase(m);
    }
    return d.lost ? d.lost : KVI_CU_SUCCESS;
}
