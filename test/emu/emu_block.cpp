/* emu_block.cpp - executes one block: order of threads, barriers, exchange within a warp, reports. See emu_block.h.
 * Never compiled with ThreadSanitizer: its own accesses are not the kernel's. It is told what a barrier orders (released, acquired), and
 * that nothing else does: a shuffle or a matrix product moves registers and orders no memory. */
#include "emu_block.h"
#include "../../kernels/cuda/cuda_api.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

namespace kvi_emu
{

__thread lane_view *self;

static const unsigned char poison = 0xff; /* NaN as f32, f16 and bf16 */
static const uint32_t guard_bytes = 256;  /* behind shared memory, where no AddressSanitizer watches */

static lane *current_lane() { return static_cast<lane *>(self); }
void (*on_collective)(lane *me), (*on_copy)(bool copies);
/* The lane has come through a collective, at which all of its warp had arrived. */
static inline void through(lane *me)
{
    if (on_collective) on_collective(me);
}

/* ---------------------------------------------------------------------------------------------------------- order --- */
static inline uint32_t draw(machine *m)
{
    uint32_t x = m->random;
    x ^= x << 13, x ^= x >> 17, x ^= x << 5;
    return m->random = x;
}
static inline uint32_t pick(machine *m, uint32_t set)
{
    if (m->order == machine::natural) return (uint32_t)__builtin_ctz(set);
    if (m->order == machine::backwards) return 31u - (uint32_t)__builtin_clz(set);
    uint32_t by = draw(m) >> 27;
    uint32_t turned = set >> by | set << (-by & 31u);
    return ((uint32_t)__builtin_ctz(turned) + by) & 31u;
}
/* The next thread that may run; nullptr: none may. */
static inline lane *choose(machine *m)
{
    warp *w = m->current;
    if (!w->ready) {
        do {
            m->ready_warps &= ~(1u << w->index);
            if (!m->ready_warps) return nullptr;
            w = &m->warps[pick(m, m->ready_warps)];
        } while (!w->ready);
        m->current = w;
    }
    uint32_t i = pick(m, w->ready);
    w->ready &= ~(1u << i);
    return &m->lanes[w->index * 32u + i];
}

/* --------------------------------------------------------------------------------------------------------- stacks --- */
static void lane_main();

static stack *take_stack(machine *m)
{
    if (!m->n_stacks) return stack_create(m->n_created++, lane_main);
#if defined(KVRT_EMU_TSAN)
    /* A fiber of ThreadSanitizer sees no race with itself, so threads change fibers from block to block. */
    uint32_t i = (m->random * 2654435761u >> 8) % m->n_stacks;
    stack *s = m->stacks[i];
    m->stacks[i] = m->stacks[--m->n_stacks];
    return s;
#else
    return m->stacks[--m->n_stacks];
#endif
}
static void give_stack(machine *m, stack *s)
{
    stack_rewind(s, lane_main);
    m->stacks[m->n_stacks++] = s;
}
static inline void go(machine *m, resume_point *from, lane *next)
{
    m->switches++;
    self = next;
    if (next->stopped) {
        next->stopped = false;
        switch_to(from, &next->resume);
        return;
    }
    next->home = take_stack(m);
    switch_to(from, &next->home->start);
}

/* -------------------------------------------------------------------------------------------------------- reports --- */
static void say(machine *m, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(machine *m, const char *format, ...)
{
    size_t used = strlen(m->report);
    va_list args;
    va_start(args, format);
    vsnprintf(m->report + used, sizeof m->report - used, format, args);
    va_end(args);
}
static const char *base_name(const char *file)
{
    const char *slash = strrchr(file, '/');
    return slash ? slash + 1 : file;
}
static void say_block(machine *m)
{
    const uint3 &b = m->view.block_index;
    const dim3 &g = m->view.grid_dim, &t = m->view.block_dim;
    say(m, "kvrt-emu: %s, block (%u,%u,%u) of (%u,%u,%u), %u threads, seed %u: ", m->job->code->name, b.x, b.y, b.z,
        g.x, g.y, g.z, t.x * t.y * t.z, m->job->seed);
}
[[noreturn]] static void leave(machine *m, uint32_t code)
{
    resume_point dropped;
    m->fault = code;
    released(&m->job->ended);
    switch_to(&dropped, &m->host);
    abort();
}
[[noreturn]] void fault(lane *at, uint32_t code, const char *format, ...)
{
    machine *m = at->owner;
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    say_block(m);
    say(m, "thread (%u,%u,%u): %s\n", at->thread.x, at->thread.y, at->thread.z, text);
    leave(m, code);
}
[[noreturn]] void misaligned(const char *what, const void *at, uint32_t bytes, const char *file, int line)
{
    fault(current_lane(), KVI_CU_MISALIGNED_ADDRESS, "misaligned: %s at %s:%d, address %p, needs a multiple of %u",
          what, base_name(file), line, at, bytes);
}
/* Nobody may run and not everybody returned: says who waits where. */
[[noreturn]] static void stuck(machine *m)
{
    say_block(m);
    say(m, "threads wait for each other for ever (divergent barrier, or a return before one)\n");
    for (uint32_t i = 0; i < m->n_threads;) {
        const lane *first = &m->lanes[i];
        uint32_t end = i + 1;
        while (end < m->n_threads && m->lanes[end].stopped == first->stopped &&
               (!first->stopped || (m->lanes[end].line == first->line && m->lanes[end].waits_in == first->waits_in)))
            end++;
        say(m, "kvrt-emu:   threads %u to %u ", i, end - 1);
        if (first->stopped) say(m, "wait in %s at %s:%d\n", first->waits_in, base_name(first->file), first->line);
        else say(m, "have returned\n");
        i = end;
    }
    leave(m, KVI_CU_LAUNCH_FAILED);
}

/* -------------------------------------------------------------------------------------------------- life of a thread --- */
static void lane_main()
{
    for (;;) {
        lane *me = current_lane();
        machine *m = me->owner;
        acquired(&m->job->begun);
        m->job->code->run(m->job->params);
        me->n_copies = me->n_groups = me->n_open = 0;
        released(&m->job->ended);
        stack *home = me->home;
        if (++m->n_returned == m->n_threads) {
            resume_point dropped;
            give_stack(m, home);
            switch_to(&dropped, &m->host);
        }
        lane *next = choose(m);
        if (!next) stuck(m);
#if !defined(KVRT_EMU_TSAN)
        if (!next->stopped) { /* without barriers a block is a plain loop over its threads, on one stack */
            next->home = home;
            self = next;
            continue;
        }
#endif
        resume_point dropped;
        give_stack(m, home);
        go(m, &dropped, next);
    }
}
/* `me` waits, as recorded; returns when somebody has made it ready and its turn has come. */
static inline void park(machine *m, lane *me)
{
    me->stopped = true;
    lane *next = choose(m);
    if (__builtin_expect(!next, 0)) stuck(m);
    if (next == me) {
        me->stopped = false;
        return;
    }
    go(m, &me->resume, next);
}

/* ------------------------------------------------------------------------------------------------------- barriers --- */
static inline void waits(lane *me, const char *name, const char *file, int line)
{
    me->waits_in = name;
    me->file = file;
    me->line = line;
}
static inline bool same_place(const char *a, const char *b) { return a == b || strcmp(a, b) == 0; }

void sync_block(const char *file, int line)
{
    lane *me = current_lane();
    machine *m = me->owner;
    uint32_t phase = m->barrier_phase;
    waits(me, "kvi_sync_block", file, line);
    if (!m->barrier_arrived++) {
        m->barrier_file = file;
        m->barrier_line = line;
    } else if (__builtin_expect(line != m->barrier_line || !same_place(file, m->barrier_file), 0)) {
        fault(me, KVI_CU_LAUNCH_FAILED, "divergent barrier: it waits in kvi_sync_block at %s:%d, others at %s:%d",
              base_name(file), line, base_name(m->barrier_file), m->barrier_line);
    }
    released(&m->barrier_tokens[phase]);
    if (m->barrier_arrived < m->n_threads) {
        park(m, me);
    } else {
        m->barrier_arrived = 0;
        m->barrier_phase = phase ^ 1u;
        for (uint32_t i = 0; i < m->n_warps; i++) m->warps[i].ready = m->warps[i].members;
        m->ready_warps = m->all_warps;
        if (m->order == machine::shuffled && draw(m) & 256u) {
            m->current = &m->warps[pick(m, m->all_warps)];
            park(m, me);
        } else {
            m->warps[me->warp].ready &= ~(1u << me->in_warp);
        }
    }
    acquired(&m->barrier_tokens[phase]);
    through(me);
}

/* All 32 lanes come here. True for the last one, which completes the exchange and goes on at once. */
static inline bool arrive(machine *m, warp *w, lane *me, const char *name, const char *file, int line)
{
    waits(me, name, file, line);
    if (!w->arrived) {
        if (__builtin_expect(w->members != ~0u, 0))
            fault(me, KVI_CU_LAUNCH_FAILED, "%s at %s:%d needs 32 lanes, the block ends after %d of this warp", name,
                  base_name(file), line, __builtin_popcount(w->members));
        w->waits_in = name;
        w->file = file;
        w->line = line;
    } else if (__builtin_expect(line != w->line || !same_place(name, w->waits_in), 0)) {
        fault(me, KVI_CU_LAUNCH_FAILED, "divergent warp: it is in %s at %s:%d, other lanes in %s at %s:%d", name,
              base_name(file), line, w->waits_in, base_name(w->file), w->line);
    }
    w->arrived |= 1u << me->in_warp;
    if (w->arrived != ~0u) return false;
    w->arrived = 0;
    w->phase ^= 1u;
    w->ready = ~(1u << me->in_warp);
    m->ready_warps |= 1u << w->index;
    return true;
}

void sync_warp(const char *file, int line)
{
    lane *me = current_lane();
    machine *m = me->owner;
    warp *w = &m->warps[me->warp];
    token *order = &w->tokens[w->phase];
    released(order);
    if (!arrive(m, w, me, "kvi_sync_warp", file, line)) park(m, me);
    acquired(order);
    through(me);
}

/* Orders what came before it against what comes after another thread's fence that ran later, and nothing else: the atomic in between is
 * relaxed, so leaving one of the two fences out is a race to ThreadSanitizer. */
static token fence_token;
void fence()
{
    acquired(&fence_token);
    released(&fence_token);
}

/* ------------------------------------------------------------------------------------------------ warp collectives --- */
/* A lane may reach the next exchange before a slow one has read this one's values, but not the one after: two sets are enough. */
uint32_t shuffle(uint32_t value, uint32_t source, const char *name, const char *file, int line)
{
    lane *me = current_lane();
    machine *m = me->owner;
    warp *w = &m->warps[me->warp];
    uint32_t *values = w->values[w->phase];
    values[me->in_warp] = value;
    if (!arrive(m, w, me, name, file, line)) park(m, me);
    through(me);
    return values[source & 31u];
}

uint32_t ballot(bool yes, const char *file, int line)
{
    lane *me = current_lane();
    machine *m = me->owner;
    warp *w = &m->warps[me->warp];
    uint32_t *values = w->values[w->phase], bits = 0;
    values[me->in_warp] = yes;
    if (!arrive(m, w, me, "kvi_ballot", file, line)) park(m, me);
    through(me);
    for (uint32_t i = 0; i < 32; i++) bits |= values[i] << i;
    return bits;
}

/* PTX ISA, "ldmatrix": lane 8 i + j gives row j of matrix i; lane 4 g + t gets columns 2t and 2t + 1 of row g of each, transposed: rows
 * 2t and 2t + 1 of column g. */
void ldmatrix(uint32_t *r, const uint4 &row, uint32_t n, bool transposed, const char *file, int line)
{
    lane *me = current_lane();
    machine *m = me->owner;
    warp *w = &m->warps[me->warp];
    const uint4 *rows = w->rows[w->phase];
    w->rows[w->phase][me->in_warp] = row;
    if (!arrive(m, w, me, transposed ? "kvi_ldmatrix_trans" : "kvi_ldmatrix", file, line)) park(m, me);
    through(me);
    uint32_t g = me->in_warp >> 2, t = me->in_warp & 3u;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t *matrix = &rows[i * 8u].x; /* (8 rows, 4 words) */
        if (!transposed) {
            r[i] = matrix[g * 4u + t];
        } else {
            uint32_t shift = 16u * (g & 1u), word = g >> 1;
            uint32_t lo = matrix[(2u * t) * 4u + word] >> shift & 0xffffu,
                     hi = matrix[(2u * t + 1u) * 4u + word] >> shift & 0xffffu;
            r[i] = lo | hi << 16;
        }
    }
}

uint32_t transpose(uint32_t pair, const char *file, int line)
{
    lane *me = current_lane();
    machine *m = me->owner;
    warp *w = &m->warps[me->warp];
    uint32_t *pairs = w->values[w->phase]; /* (8 rows, 4 pairs of columns) */
    pairs[me->in_warp] = pair;
    if (!arrive(m, w, me, "kvi_transpose8x8", file, line)) park(m, me);
    through(me);
    uint32_t g = me->in_warp >> 2, t = me->in_warp & 3u, shift = 16u * (g & 1u), word = g >> 1;
    return (pairs[(2u * t) * 4u + word] >> shift & 0xffffu) | (pairs[(2u * t + 1u) * 4u + word] >> shift & 0xffffu)
                                                                  << 16;
}

void mma(float c[4], const uint32_t a[4], const uint32_t b[2], bool bf16, const char *file, int line)
{
    lane *me = current_lane();
    machine *m = me->owner;
    warp *w = &m->warps[me->warp];
    fragments_in(w, me->in_warp, c, a, b);
    if (arrive(m, w, me, bf16 ? "kvi_mma_bf16" : "kvi_mma_f16", file, line)) warp_multiply(w->c, w->a, w->b, bf16);
    else park(m, me);
    fragments_out(w, me->in_warp, c);
    through(me);
}

/* ------------------------------------------------------------------------------------------------------- cp.async --- */
void cp_add(const pending_copy &copy)
{
    lane *me = current_lane();
    if (me->n_copies == max_copies)
        fault(me, KVI_CU_LAUNCH_FAILED, "more than %u cp.async under way in one thread", max_copies);
    me->copies[(me->first_copy + me->n_copies++) % max_copies] = copy;
    me->n_open++;
}
void cp_commit()
{
    lane *me = current_lane();
    if (me->n_groups == max_groups)
        fault(me, KVI_CU_LAUNCH_FAILED, "more than %u groups of cp.async under way in one thread", max_groups);
    me->groups[(me->first_group + me->n_groups++) % max_groups] = (uint16_t)me->n_open;
    me->n_open = 0;
}
bool cp_next(uint32_t pending, pending_copy *out)
{
    lane *me = current_lane();
    while (me->n_groups > pending) {
        uint16_t *left = &me->groups[me->first_group % max_groups];
        if (*left) {
            --*left;
            *out = me->copies[me->first_copy++ % max_copies];
            me->n_copies--;
            if (on_copy) on_copy(true);
            return true;
        }
        me->first_group++;
        me->n_groups--;
    }
    if (on_copy) on_copy(false);
    return false;
}

/* ---------------------------------------------------------------------------------------------------------- blocks --- */
machine *machine_create()
{
    machine *m = static_cast<machine *>(calloc(1, sizeof *m));
    if (!m) abort();
    m->lanes = static_cast<lane *>(calloc(1024, sizeof *m->lanes));
    m->stacks = static_cast<stack **>(calloc(1024, sizeof *m->stacks));
    pending_copy *copies = static_cast<pending_copy *>(calloc(1024u * max_copies, sizeof *copies));
    if (!m->lanes || !m->stacks || !copies) abort();
    for (uint32_t i = 0; i < 1024; i++) {
        lane *l = &m->lanes[i];
        l->owner = m;
        l->block = &m->view;
        l->warp = i / 32u;
        l->in_warp = i % 32u;
        l->copies = copies + i * max_copies;
    }
    for (uint32_t i = 0; i < 32; i++) m->warps[i].index = i;
    return m;
}

/* Exactly the bytes asked for, so that AddressSanitizer sees the first one too many; elsewhere a guard is looked at afterwards. */
static void fresh_shared(machine *m)
{
#if defined(KVRT_EMU_ASAN)
    const uint32_t guard = 0;
#else
    const uint32_t guard = guard_bytes;
#endif
    uint32_t bytes = m->job->shared_bytes;
#if defined(KVRT_EMU_TSAN)
    if (m->n_old_shared == m->cap_old_shared) {
        m->cap_old_shared = m->cap_old_shared * 2u + 64u;
        m->old_shared = static_cast<void **>(realloc(m->old_shared, m->cap_old_shared * sizeof *m->old_shared));
    }
    m->old_shared[m->n_old_shared++] = m->shared = static_cast<unsigned char *>(malloc(bytes + guard));
#else
    if (!m->shared) m->shared = static_cast<unsigned char *>(malloc(bytes + guard));
#endif
    if (!m->shared) abort();
    memset(m->shared, poison, bytes + guard);
    m->view.shared = m->shared;
}
static bool guard_touched(const machine *m)
{
#if !defined(KVRT_EMU_ASAN)
    for (uint32_t i = 0; i < guard_bytes; i++)
        if (m->shared[m->job->shared_bytes + i] != poison) return true;
#endif
    (void)m;
    return false;
}

void machine_prepare(machine *m, launch *job)
{
    m->job = job;
    m->view.block_dim = job->threads;
    m->view.grid_dim = job->grid;
    m->n_threads = job->threads.x * job->threads.y * job->threads.z;
    m->n_warps = (m->n_threads + 31u) / 32u;
    m->all_warps = m->n_warps == 32 ? ~0u : (1u << m->n_warps) - 1u;
    m->order = job->seed == 0 ? machine::natural : job->seed == 1 ? machine::backwards : machine::shuffled;
#if defined(KVRT_EMU_TSAN)
    /* All fibers beforehand: to ThreadSanitizer, who creates a fiber comes before it. */
    while (m->n_created < m->n_threads) m->stacks[m->n_stacks++] = stack_create(m->n_created++, lane_main);
#endif
    for (uint32_t i = 0; i < m->n_threads; i++) {
        uint32_t x = job->threads.x, y = job->threads.y;
        m->lanes[i].thread = uint3{i % x, i / x % y, i / (x * y)};
    }
}

bool machine_run(machine *m, const uint3 &index)
{
    m->view.block_index = index;
    fresh_shared(m);
    uint32_t mix = m->job->seed * 2654435761u ^ m->job->number * 2246822519u ^ index.x * 3266489917u ^
                   index.y * 668265263u ^ index.z * 374761393u;
    mix ^= mix >> 15, mix *= 2246822519u, mix ^= mix >> 13;
    m->random = mix | 1u;
    for (uint32_t i = 0; i < m->n_warps; i++) {
        warp *w = &m->warps[i];
        uint32_t left = m->n_threads - 32u * i;
        w->members = w->ready = left >= 32u ? ~0u : (1u << left) - 1u;
        w->arrived = 0;
    }
    m->ready_warps = m->all_warps;
    m->n_returned = m->barrier_arrived = 0;
    m->current = &m->warps[pick(m, m->all_warps)];
    released(&m->job->begun);
    lane *first = choose(m);
#if defined(KVRT_EMU_TSAN)
    m->host.fiber = __tsan_get_current_fiber();
#endif
    go(m, &m->host, first);
    self = nullptr;
    if (!m->fault && guard_touched(m)) {
        say_block(m);
        say(m, "shared memory overrun: bytes behind the %u of the launch were written\n", m->job->shared_bytes);
        m->fault = KVI_CU_ILLEGAL_ADDRESS;
    }
    return m->fault == 0;
}

void machine_finish(machine *m)
{
    acquired(&m->job->ended);
    for (uint32_t i = 0; i < m->n_old_shared; i++) free(m->old_shared[i]);
    m->n_old_shared = 0;
#if !defined(KVRT_EMU_TSAN)
    free(m->shared);
#endif
    m->shared = nullptr;
    m->job = nullptr;
}

} // namespace kvi_emu
