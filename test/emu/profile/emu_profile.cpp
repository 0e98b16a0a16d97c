/* emu_profile.cpp - memory profile of emulated kernels. Kernels are compiled with -fsanitize=thread and linked with this file instead of the sanitizer's
 * runtime, so that every load and store calls a function here with its address; the caller's address is the place in the source.
 *
 * A request is what the lanes of a warp do at one place at one time. Lanes run one after the other here, so accesses are put together
 * by (warp, place, how often this lane was here since the warp's last collective): when the first lane comes through one, all 32 had
 * arrived, so what they did before is complete, is counted and dropped.
 *
 * Counted as on sm_80 to sm_90: global requests in sectors of 32 bytes and lines of 128; shared requests in phases of 32, 16 or 8 lanes (4, 8, 16
 * bytes), each taking as many passes as the busiest of the 32 banks has different words. One host thread (KVRT_EMU_THREADS=1). */
#include "emu_profile.h"
#include "../emu_driver.h"

#include <algorithm>
#include <unordered_map>
#include <stdio.h>
#include <stdlib.h>

using namespace kvi_emu;

namespace
{

enum space : uint8_t { GLOBAL, STREAMED, SHARED, PARAMS, IMAGE, N_SPACES };
const char *const space_names[] = {"global", "streamed", "shared", "params", "image"};

struct site {
    uintptr_t pc;
    uint32_t size;
    space where;
    bool write, atomic, loose; /* loose: alignment unknown to the compiler */
    uint64_t requests, partial, accesses, bytes, unique_bytes, sectors, least_sectors, lines, passes, least_passes,
        max_degree;
    uint64_t fused_requests, fused_passes,
        fused_least; /* shared memory, neighbouring accesses put together as nvcc does */
};
struct open_request {
    uint32_t mask;
    uintptr_t at[32];
};
struct open_site {
    uint32_t count[32];
    std::vector<open_request> requests; /* the first `used` are of this epoch */
    uint32_t used;
};
struct warp_state {
    std::vector<open_site> sites; /* by index in profile::sites */
    std::vector<uint32_t> touched;
    uint32_t epoch, lane_epoch[32];
};
/* Which sectors were touched: pages of 4,096 of them. */
struct footprint {
    std::unordered_map<uintptr_t, std::vector<uint64_t>> pages;
    uintptr_t last = ~(uintptr_t)0;
    std::vector<uint64_t> *bits = nullptr;
    uint64_t n = 0;
    bool add(uintptr_t sector)
    {
        if (sector >> 12 != last) {
            last = sector >> 12;
            bits = &pages[last];
            if (bits->empty()) bits->resize(64);
        }
        uint64_t &word = (*bits)[sector >> 6 & 63u], bit = 1ull << (sector & 63u);
        if (word & bit) return false;
        word |= bit, n++;
        return true;
    }
    void clear()
    {
        pages.clear();
        last = ~(uintptr_t)0, n = 0;
    }
};
struct profile {
    const char *name;
    uint64_t launches, blocks, warps;
    std::vector<site> sites;
    std::unordered_map<uint64_t, uint32_t> index;
    uint64_t launch_sectors[2], block_sectors[2], skipped[N_SPACES]; /* [write] */
};

std::map<const kernel *, profile> *profiles;
struct {
    profile *p;
    machine *m;
    launch *job;
    uint32_t number;
    uint3 block;
    uintptr_t low, high; /* the allocation that was hit last, and what it is */
    space what;
    bool muted;
    footprint in_launch[2], in_block[2];
} now;
warp_state warps[32];
std::vector<uintptr_t> *streamed; /* allocations that profile_streamed named */

/* ------------------------------------------------------------------------------------------------------- analysis --- */
/* Sorted intervals -> bytes covered. */
uint64_t covered(std::pair<uintptr_t, uintptr_t> *of, uint32_t n)
{
    uint64_t bytes = 0;
    uintptr_t end = 0;
    std::sort(of, of + n);
    for (uint32_t i = 0; i < n; i++) {
        if (of[i].second <= end) continue;
        bytes += of[i].second - std::max(of[i].first, end);
        end = of[i].second;
    }
    return bytes;
}
void global_request(site &s, const open_request &r)
{
    std::pair<uintptr_t, uintptr_t> spans[32];
    uintptr_t sectors[32 * 3], lines[32 * 3]; /* a lane's 16 bytes touch two at most */
    uint32_t n = 0, n_sectors = 0, n_lines = 0;
    for (uint32_t lane = 0; lane < 32; lane++) {
        if (!(r.mask >> lane & 1u)) continue;
        const uintptr_t at = r.at[lane], end = at + s.size;
        spans[n++] = {at, end};
        for (uintptr_t x = at / 32; x <= (end - 1) / 32 && n_sectors < 96; x++) sectors[n_sectors++] = x;
        for (uintptr_t x = at / 128; x <= (end - 1) / 128 && n_lines < 96; x++) lines[n_lines++] = x;
    }
    std::sort(sectors, sectors + n_sectors), std::sort(lines, lines + n_lines);
    n_sectors = (uint32_t)(std::unique(sectors, sectors + n_sectors) - sectors);
    n_lines = (uint32_t)(std::unique(lines, lines + n_lines) - lines);
    const uint64_t bytes = covered(spans, n);
    s.unique_bytes += bytes;
    s.sectors += n_sectors;
    s.least_sectors += (bytes + 31) / 32;
    s.lines += n_lines;
    for (uint32_t i = 0; i < n_sectors; i++)
        now.in_launch[s.write].add(sectors[i]), now.in_block[s.write].add(sectors[i]);
}
struct pass_count {
    uint64_t passes, least;
};
pass_count shared_passes(uint32_t size, const open_request &r)
{
    const uint32_t lanes = size <= 4 ? 32 : size <= 8 ? 16 : 8; /* of a phase */
    pass_count sum = {0, 0};
    for (uint32_t first = 0; first < 32; first += lanes) {
        uintptr_t words[32 * 4];
        uint32_t n = 0, load[32] = {0}, most = 0;
        for (uint32_t lane = first; lane < first + lanes; lane++) {
            if (!(r.mask >> lane & 1u)) continue;
            const uintptr_t at = r.at[lane] - (uintptr_t)now.m->shared;
            for (uintptr_t x = at / 4; x <= (at + size - 1) / 4 && n < 128; x++) words[n++] = x;
        }
        if (!n) continue;
        std::sort(words, words + n);
        n = (uint32_t)(std::unique(words, words + n) - words);
        for (uint32_t i = 0; i < n; i++) most = std::max(most, ++load[words[i] % 32]);
        sum.passes += most;
        sum.least++;
    }
    return sum;
}
void shared_request(site &s, const open_request &r)
{
    const pass_count n = shared_passes(s.size, r);
    s.passes += n.passes;
    s.least_passes += n.least;
    s.max_degree = std::max(s.max_degree, (n.passes + n.least - 1) / n.least);
}

/* nvcc makes one wide access of neighbouring ones in shared memory, whose alignment it knows: 4 bytes to 8 or 16, 8 to 16. (In global memory, reached
 * through integers, it knows none and does not.) Requests of one epoch whose addresses follow each other in every lane are taken as one. */
struct candidate {
    site *s;
    const open_request *r;
    uintptr_t first; /* address of the lowest active lane */
    bool operator<(const candidate &o) const
    {
        if (s->write != o.s->write) return s->write < o.s->write;
        if (s->size != o.s->size) return s->size < o.s->size;
        if (r->mask != o.r->mask) return r->mask < o.r->mask;
        return first < o.first;
    }
};
bool follows(const candidate &a, const candidate &b, uint32_t by)
{
    if (a.s->write != b.s->write || a.s->size != b.s->size || a.r->mask != b.r->mask) return false;
    for (uint32_t lane = 0; lane < 32; lane++)
        if (a.r->mask >> lane & 1u && a.r->at[lane] + by != b.r->at[lane]) return false;
    return true;
}
bool aligned(const candidate &a, uint32_t to)
{
    for (uint32_t lane = 0; lane < 32; lane++)
        if (a.r->mask >> lane & 1u && (a.r->at[lane] - (uintptr_t)now.m->shared) % to) return false;
    return true;
}
void fuse(std::vector<candidate> &all)
{
    std::sort(all.begin(), all.end());
    for (size_t i = 0; i < all.size();) {
        const candidate &c = all[i];
        uint32_t size = c.s->size, n = 1;
        for (uint32_t wide = 16; wide > c.s->size && c.s->size >= 4; wide /= 2) {
            const uint32_t parts = wide / c.s->size;
            bool good = i + parts <= all.size() && aligned(c, wide);
            for (uint32_t k = 1; good && k < parts; k++) good = follows(c, all[i + k], k * c.s->size);
            if (!good) continue;
            size = wide, n = parts;
            break;
        }
        const pass_count p = shared_passes(size, *c.r);
        c.s->fused_requests++;
        c.s->fused_passes += p.passes;
        c.s->fused_least += p.least;
        i += n;
    }
}
void flush(warp_state &w)
{
    static auto &all = *new std::vector<candidate>; /* outlives every destructor: the last flush is in one */
    all.clear();
    for (uint32_t i : w.touched) {
        site &s = now.p->sites[i];
        open_site &o = w.sites[i];
        for (uint32_t k = 0; k < o.used; k++) {
            const open_request &r = o.requests[k];
            const uint32_t lanes = (uint32_t)__builtin_popcount(r.mask);
            s.requests++, s.accesses += lanes, s.bytes += (uint64_t)lanes * s.size;
            if (r.mask != ~0u) s.partial++;
            if (s.where <= STREAMED) global_request(s, r);
            if (s.where != SHARED) continue;
            shared_request(s, r);
            all.push_back({&s, &r, r.at[__builtin_ctz(r.mask)]});
        }
        o.used = 0;
        memset(o.count, 0, sizeof o.count);
    }
    fuse(all);
    w.touched.clear();
}

/* --------------------------------------------------------------------------------------------- blocks and launches --- */
void end_block()
{
    if (!now.p) return;
    for (warp_state &w : warps) {
        flush(w);
        w.epoch = 0;
        memset(w.lane_epoch, 0, sizeof w.lane_epoch);
    }
    for (int write = 0; write < 2; write++)
        now.p->block_sectors[write] += now.in_block[write].n, now.in_block[write].clear();
}
void end_launch()
{
    if (!now.p) return;
    for (int write = 0; write < 2; write++)
        now.p->launch_sectors[write] += now.in_launch[write].n, now.in_launch[write].clear();
    for (warp_state &w : warps) w.sites.clear();
}
void look(lane *me)
{
    machine *m = me->owner;
    const uint3 &b = m->view.block_index;
    const bool same_launch = now.p && now.job == m->job && now.number == m->job->number;
    if (same_launch && b.x == now.block.x && b.y == now.block.y && b.z == now.block.z) return;
    end_block();
    if (!same_launch) {
        end_launch();
        if (!profiles) profiles = new std::map<const kernel *, profile>;
        now.p = &(*profiles)[m->job->code];
        now.p->name = m->job->code->name;
        now.p->launches++;
        now.m = m, now.job = m->job, now.number = m->job->number;
        now.low = now.high = 0;
    }
    now.p->blocks++;
    now.p->warps += m->n_warps;
    now.block = b;
}
/* The lane has come through a collective: all of its warp had arrived, so what they did before is complete. */
void passed(lane *me)
{
    look(me);
    warp_state &w = warps[me->warp];
    const uint32_t epoch = ++w.lane_epoch[me->in_warp];
    if (w.epoch == epoch) return;
    flush(w);
    w.epoch = epoch;
}

/* ---------------------------------------------------------------------------------------------------------- access --- */
space place(const lane *me, uintptr_t at)
{
    const machine *m = me->owner;
    if (at - now.low < now.high - now.low) return now.what;
    if (at - (uintptr_t)m->shared < m->job->shared_bytes) return SHARED;
    if (at - (uintptr_t)m->job->params < m->job->code->param_bytes) return PARAMS;
    const auto &table = driver().device;
    auto after = table.upper_bound(at);
    if (after != table.begin()) {
        --after;
        if (at - after->first < after->second.bytes) {
            now.low = after->first, now.high = after->first + after->second.bytes;
            now.what = streamed && std::count(streamed->begin(), streamed->end(), after->first) ? STREAMED : GLOBAL;
            return now.what;
        }
    }
    return IMAGE;
}
inline void touch(void *pc, const void *where, uint32_t size, bool write, bool atomic, bool loose)
{
    lane *me = static_cast<lane *>(self);
    if (!me || now.muted) return;
    const uintptr_t at = (uintptr_t)where;
    if (at - (uintptr_t)me->home->memory < (2u << 20)) return;
    look(me);
    const space kind = place(me, at);
    now.p->skipped[kind]++;
    if (kind >= PARAMS) return;
    const uint64_t key = (uint64_t)(uintptr_t)pc * 8u + kind * 2u + write;
    auto found = now.p->index.find(key);
    uint32_t i;
    if (found == now.p->index.end()) {
        i = (uint32_t)now.p->sites.size();
        now.p->index[key] = i;
        site s = {};
        s.pc = (uintptr_t)pc, s.size = size, s.where = kind, s.write = write, s.atomic = atomic, s.loose = loose;
        now.p->sites.push_back(s);
    } else i = found->second;
    warp_state &w = warps[me->warp];
    if (w.sites.size() <= i) w.sites.resize(i + 16u);
    open_site &o = w.sites[i];
    const uint32_t turn = o.count[me->in_warp]++;
    if (turn >= o.used) {
        if (!o.used) w.touched.push_back(i);
        if (o.requests.size() <= turn) o.requests.resize(turn * 2u + 1u);
        o.requests[turn].mask = 0;
        o.used = turn + 1u;
    }
    o.requests[turn].mask |= 1u << me->in_warp;
    o.requests[turn].at[me->in_warp] = at;
}

/* ---------------------------------------------------------------------------------------------------------- report --- */
extern "C" const char __ehdr_start __attribute__((weak, visibility("hidden")));
void write_table(FILE *f)
{
    const uintptr_t base = (uintptr_t)&__ehdr_start;
    for (auto &entry : *profiles) {
        const profile &p = entry.second;
        fprintf(f, "K\t%s\t%llu\t%llu\t%llu", p.name, (unsigned long long)p.launches, (unsigned long long)p.blocks,
                (unsigned long long)p.warps);
        for (uint64_t n : {p.launch_sectors[0], p.launch_sectors[1], p.block_sectors[0], p.block_sectors[1]})
            fprintf(f, "\t%llu", (unsigned long long)n);
        fprintf(f, "\n");
        for (const site &s : p.sites) {
            fprintf(f, "S\t%s\t%llx\t%s\t%c%s\t%u", p.name, (unsigned long long)(s.pc - base), space_names[s.where],
                    s.atomic  ? 'a'
                    : s.write ? 'w'
                              : 'r',
                    s.loose ? "?" : "", s.size);
            for (uint64_t n :
                 {s.requests, s.partial, s.accesses, s.bytes, s.unique_bytes, s.sectors, s.least_sectors, s.lines,
                  s.passes, s.least_passes, s.max_degree, s.fused_requests, s.fused_passes, s.fused_least})
                fprintf(f, "\t%llu", (unsigned long long)n);
            fprintf(f, "\n");
        }
    }
}
struct watch {
    watch()
    {
        on_collective = passed, on_copy = [](bool copies) { now.muted = copies; };
    }
    ~watch() { profile_write(); }
} watch_;

} // namespace

void kvi_emu::profile_write()
{
    const char *path = getenv("KVRT_EMU_PROFILE");
    if (!profiles || !path) return;
    end_block(), end_launch();
    now.p = nullptr;
    if (FILE *f = fopen(path, "w")) write_table(f), fclose(f);
}

void kvi_emu::profile_streamed(uintptr_t allocation)
{
    if (!streamed) streamed = new std::vector<uintptr_t>;
    streamed->push_back(allocation);
}
void kvi_emu::profile_forget_streamed()
{
    if (streamed) streamed->clear();
}

kvi_emu::profile_totals kvi_emu::profile_take(const char *name)
{
    profile_totals t = {};
    if (!profiles) return t;
    end_block(), end_launch();
    now.p = nullptr;
    for (auto i = profiles->begin(); i != profiles->end(); ++i) {
        const profile &p = i->second;
        if (strcmp(p.name, name) != 0) continue;
        t.footprint[0] = p.launch_sectors[0], t.footprint[1] = p.launch_sectors[1];
        for (const site &s : p.sites) {
            profile_requests &r = s.where == SHARED ? t.shared : s.where == STREAMED ? t.streamed : t.other[s.write];
            r.requests += s.where == SHARED ? s.fused_requests : s.requests;
            r.cost += s.where == SHARED ? s.fused_passes : s.sectors;
            r.least += s.where == SHARED ? s.fused_least : s.least_sectors;
            r.plain += s.where == SHARED ? s.passes : s.sectors;
        }
        if (!getenv("KVRT_EMU_PROFILE")) profiles->erase(i);
        break;
    }
    return t;
}

/* ------------------------------------------------------------------------------------- what -fsanitize=thread calls --- */
#define HOOK(name, size, write, loose)                                                                                 \
    extern "C" void name(void *at) { touch(__builtin_return_address(0), at, size, write, false, loose); }
HOOK(__tsan_read1, 1, false, false)
HOOK(__tsan_read2, 2, false, false)
HOOK(__tsan_read4, 4, false, false)
HOOK(__tsan_read8, 8, false, false)
HOOK(__tsan_read16, 16, false, false)
HOOK(__tsan_write1, 1, true, false)
HOOK(__tsan_write2, 2, true, false)
HOOK(__tsan_write4, 4, true, false)
HOOK(__tsan_write8, 8, true, false)
HOOK(__tsan_write16, 16, true, false)
HOOK(__tsan_unaligned_read2, 2, false, true)
HOOK(__tsan_unaligned_read4, 4, false, true)
HOOK(__tsan_unaligned_read8, 8, false, true)
HOOK(__tsan_unaligned_read16, 16, false, true)
HOOK(__tsan_unaligned_write2, 2, true, true)
HOOK(__tsan_unaligned_write4, 4, true, true)
HOOK(__tsan_unaligned_write8, 8, true, true)
HOOK(__tsan_unaligned_write16, 16, true, true)
extern "C" void __tsan_read_range(void *at, uint64_t n)
{
    touch(__builtin_return_address(0), at, (uint32_t)n, false, false, true);
}
extern "C" void __tsan_write_range(void *at, uint64_t n)
{
    touch(__builtin_return_address(0), at, (uint32_t)n, true, false, true);
}
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void *) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_vptr_update(void **, void *) {}
extern "C" void __tsan_vptr_read(void **) {}
extern "C" uint32_t __tsan_atomic32_fetch_add(volatile uint32_t *at, uint32_t by, int)
{
    touch(__builtin_return_address(0), (const void *)at, 4, true, true, false);
    return __atomic_fetch_add(at, by, __ATOMIC_RELAXED);
}
extern "C" uint32_t __tsan_atomic32_load(const volatile uint32_t *at, int)
{
    return __atomic_load_n(at, __ATOMIC_RELAXED);
}
extern "C" void __tsan_atomic32_store(volatile uint32_t *at, uint32_t v, int)
{
    __atomic_store_n(at, v, __ATOMIC_RELAXED);
}
