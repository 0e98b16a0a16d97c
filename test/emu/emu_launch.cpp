/* emu_launch.cpp - the registry of kernels, what sm_86 refuses, and the walk over the blocks of a grid.
 * Blocks run in an order drawn from the seed. With KVRT_EMU_THREADS > 1 several host threads share them out by position, so each block
 * is executed as with one; only kernels that talk through atomics across blocks can tell. */
#include "emu_driver.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

namespace kvi_emu
{

/* -------------------------------------------------------------------------------------------------------- registry --- */
static kernel *first_kernel;

kernel::kernel(const char *name_, const char *file_, void (*run_)(const void *), uint32_t param_bytes_,
               uint32_t max_threads_, uint32_t min_blocks_)
    : name(name_), file(file_), run(run_), param_bytes(param_bytes_), max_threads(max_threads_),
      min_blocks(min_blocks_), next(first_kernel)
{
    first_kernel = this;
}
const kernel *kernel_find(const char *name)
{
    for (const kernel *k = first_kernel; k; k = k->next)
        if (strcmp(k->name, name) == 0) return k;
    return nullptr;
}
const kernel *kernel_at(uint32_t index)
{
    const kernel *k = first_kernel;
    while (k && index--) k = k->next;
    return k;
}

/* ---------------------------------------------------------------------------------------------------------- limits --- */
kvi_cu_result launch_check(const node &n)
{
    const char *name = n.code->name;
    const uint64_t threads = (uint64_t)n.threads.x * n.threads.y * n.threads.z;
    if (!threads || !n.grid.x || !n.grid.y || !n.grid.z)
        return misuse(KVI_CU_INVALID_VALUE, "%s: a grid or block of size 0", name);
    if (n.grid.x > 2147483647u || n.grid.y > 65535u || n.grid.z > 65535u)
        return misuse(KVI_CU_INVALID_VALUE, "%s: grid (%u,%u,%u), the limit is (2147483647,65535,65535)", name,
                      n.grid.x, n.grid.y, n.grid.z);
    if (n.threads.x > 1024u || n.threads.y > 1024u || n.threads.z > 64u || threads > 1024u)
        return misuse(KVI_CU_INVALID_VALUE, "%s: block (%u,%u,%u), the limit is 1024 threads, 64 in z", name,
                      n.threads.x, n.threads.y, n.threads.z);
    if (threads > n.code->max_threads)
        return misuse(KVI_CU_LAUNCH_OUT_OF_RESOURCES, "%s: %u threads a block, its launch bounds are %u", name,
                      (uint32_t)threads, n.code->max_threads);
    if (n.shared_bytes > 48u * 1024u)
        return misuse(KVI_CU_INVALID_VALUE, "%s: %u bytes of shared memory a block, the limit is 49152", name,
                      n.shared_bytes);
    return KVI_CU_SUCCESS;
}

/* --------------------------------------------------------------------------------------------------- memory faults --- */
#if !defined(KVRT_EMU_ASAN) && !defined(KVRT_EMU_TSAN)
static void on_fault(int number, siginfo_t *info, void *)
{
    signal(number, SIG_DFL); /* the instruction is tried again, and ends the process */
    if (!self) return;
    const lane *at = static_cast<const lane *>(self);
    const uint3 &b = at->block->block_index, &t = at->thread;
    char text[300];
    int len = snprintf(text, sizeof text,
                       "kvrt-emu: %s, block (%u,%u,%u), thread (%u,%u,%u), seed %u: touched address %p, which is no "
                       "memory, or the end of its stack\n",
                       at->owner->job->code->name, b.x, b.y, b.z, t.x, t.y, t.z, at->owner->job->seed, info->si_addr);
    if (len > 0) fwrite(text, 1, (size_t)len, stderr);
}
static void watch_faults()
{
    static bool watched;            /* first called under the driver's lock, by the calling thread's share */
    static __thread bool has_stack; /* the handler's own: the fault may be the end of the thread's */
    struct sigaction old, ours = {};
    stack_t there;
    if (!has_stack && sigaltstack(nullptr, &there) == 0 && (there.ss_flags & SS_DISABLE)) {
        there = {};
        there.ss_size = 64u << 10;
        there.ss_sp = malloc(there.ss_size);
        sigaltstack(&there, nullptr);
    }
    has_stack = true;
    if (watched) return;
    watched = true;
    for (int number : {SIGSEGV, SIGBUS}) {
        if (sigaction(number, nullptr, &old) != 0 || old.sa_handler != SIG_DFL) continue;
        ours.sa_sigaction = on_fault;
        ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigaction(number, &ours, nullptr);
    }
}
#else
static void watch_faults() {}
#endif

/* ------------------------------------------------------------------------------------------------------------ grid --- */
/* Position i of the order: i, or the last first, or (start + i * stride) modulo n with a stride that has no factor in common with n. */
struct block_order {
    uint64_t n, start, stride;
    uint64_t at(uint64_t i) const { return (start + (uint64_t)((unsigned __int128)i * stride % n)) % n; }
};
static uint64_t common_factor(uint64_t a, uint64_t b) { return b ? common_factor(b, a % b) : a; }
static block_order order_blocks(uint64_t n, uint32_t seed, uint32_t number)
{
    if (seed == 0) return {n, 0, 1};
    if (seed == 1) return {n, n - 1, n - 1 ? n - 1 : 1};
    uint64_t mix = (seed * 0x9e3779b97f4a7c15u) ^ (number * 0xc2b2ae3d27d4eb4fu);
    mix ^= mix >> 29, mix *= 0xbf58476d1ce4e5b9u, mix ^= mix >> 32;
    uint64_t stride = mix % n + 1;
    while (common_factor(n, stride) != 1) stride++;
    return {n, (mix >> 20) % n, stride};
}

struct share { /* of a launch, for one host thread */
    machine *m;
    launch *job;
    block_order order;
    uint64_t first, step, done;
    bool good;
};
static void run_share(share *s)
{
    const dim3 &g = s->job->grid;
    s->good = true;
    s->done = 0;
    watch_faults();
    machine_prepare(s->m, s->job);
    for (uint64_t i = s->first; i < s->order.n && s->good; i += s->step, s->done++) {
        uint64_t at = s->order.at(i);
        s->good = machine_run(
            s->m, uint3{(uint32_t)(at % g.x), (uint32_t)(at / g.x % g.y), (uint32_t)(at / ((uint64_t)g.x * g.y))});
    }
    if (s->good) machine_finish(s->m);
}

static const uint32_t max_workers = 64;
static struct {
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t begin = PTHREAD_COND_INITIALIZER, end = PTHREAD_COND_INITIALIZER;
    uint32_t n_started, n_sharing, n_working;
    uint64_t round;
    share shares[max_workers]; /* 0 is the calling thread's */
} pool;

static void *worker(void *argument)
{
    const uint32_t index = (uint32_t)(uintptr_t)argument;
    uint64_t seen = 0;
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        while (pool.round == seen) pthread_cond_wait(&pool.begin, &pool.lock);
        seen = pool.round;
        if (index >= pool.n_sharing) continue;
        pthread_mutex_unlock(&pool.lock);
        run_share(&pool.shares[index]);
        pthread_mutex_lock(&pool.lock);
        if (--pool.n_working == 0) pthread_cond_signal(&pool.end);
    }
    return nullptr;
}
static void run_shares(uint32_t n)
{
    pthread_mutex_lock(&pool.lock);
    for (; pool.n_started + 1u < n; pool.n_started++) {
        pthread_t thread;
        if (pthread_create(&thread, nullptr, worker, (void *)(uintptr_t)(pool.n_started + 1u)) != 0) abort();
        pthread_detach(thread);
    }
    pool.n_sharing = n;
    pool.n_working = n - 1u;
    pool.round++;
    pthread_cond_broadcast(&pool.begin);
    pthread_mutex_unlock(&pool.lock);
    run_share(&pool.shares[0]);
    pthread_mutex_lock(&pool.lock);
    while (pool.n_working) pthread_cond_wait(&pool.end, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
}

/* ----------------------------------------------------------------------------------------------------------- trace --- */
struct trace_line {
    uint64_t launches, blocks;
    double ms;
};
static std::map<const kernel *, trace_line> &trace()
{
    static auto *lines = new std::map<const kernel *, trace_line>; /* outlives every destructor */
    return *lines;
}
static double now_ms()
{
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}
void launch_print_trace()
{
    for (const auto &line : trace())
        fprintf(stderr, "kvrt-emu: %-32s %8llu launches %10llu blocks %10.1f ms\n", line.first->name,
                (unsigned long long)line.second.launches, (unsigned long long)line.second.blocks, line.second.ms);
}

/* --------------------------------------------------------------------------------------------------------- a launch --- */
kvi_cu_result launch_run(const node &n)
{
    state &d = driver();
    const double start = d.set.trace ? now_ms() : 0.0;
    const uint64_t n_blocks = (uint64_t)n.grid.x * n.grid.y * n.grid.z;
    void *params = malloc(n.code->param_bytes); /* exactly as long as the struct */
    if (!params) return KVI_CU_OUT_OF_MEMORY;
    memcpy(params, n.params.data(), n.code->param_bytes);
    launch job = {n.code, params, n.grid, n.threads, n.shared_bytes, d.set.seed, (uint32_t)d.counted.launches, {}, {}};
    uint32_t n_shares = d.set.threads < n_blocks ? d.set.threads : (uint32_t)n_blocks;
    if (n_shares > max_workers) n_shares = max_workers;
    block_order order = order_blocks(n_blocks, d.set.seed, job.number);
    for (uint32_t i = 0; i < n_shares; i++) {
        share *s = &pool.shares[i];
        if (!s->m) s->m = machine_create();
        *s = {s->m, &job, order, i, n_shares, 0, true};
    }
    if (n_shares == 1) run_share(&pool.shares[0]);
    else run_shares(n_shares);
    kvi_cu_result result = KVI_CU_SUCCESS;
    d.counted.launches++;
    for (uint32_t i = 0; i < n_shares; i++) {
        machine *m = pool.shares[i].m;
        d.counted.blocks += pool.shares[i].done;
        d.counted.switches += m->switches;
        m->switches = 0;
        if (pool.shares[i].good) continue;
        acquired(&job.ended);
        if (result == KVI_CU_SUCCESS) {
            report("%s", m->report);
            result = (kvi_cu_result)m->fault;
        }
        pool.shares[i].m = nullptr; /* its stacks are full of stopped threads */
    }
    if (d.set.trace) {
        trace_line &line = trace()[n.code];
        line.launches++, line.blocks += n_blocks, line.ms += now_ms() - start;
    }
    if (result == KVI_CU_SUCCESS) free(params);
    return result;
}

} // namespace kvi_emu
