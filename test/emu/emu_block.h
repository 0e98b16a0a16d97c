/* emu_block.h - a machine: one host thread that executes CUDA blocks, one after the other. Owns lanes, warps, their order, barriers and
 * what is said when they do not meet. Knows nothing of the driver API.
 *
 * The one thing to know: a thread runs until it waits, then another one of its warp goes on, then another warp. So a warp runs ahead of
 * the others as far as barriers let it, which is what makes a missing one show. The order is drawn from the seed: 0 natural,
 * 1 backwards, others shuffled. */
#ifndef KVRT_EMU_BLOCK_H
#define KVRT_EMU_BLOCK_H
#include "emu_device.h"
#include "emu_switch.h"
#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

namespace kvi_emu
{

struct machine;

/* Named to ThreadSanitizer when something orders memory; it keeps one clock per 8 bytes of address. */
struct alignas(8) token {
    char unused[8];
};

/* Of one thread; powers of two. */
static const uint32_t max_copies = 256, max_groups = 32;

struct lane : lane_view {
    machine *owner;
    uint32_t warp;
    bool stopped; /* resume holds where it goes on; else it has not begun, runs, or has returned */
    resume_point resume;
    stack *home;
    const char *waits_in, *file; /* while stopped */
    int line;
    pending_copy *copies;        /* (max_copies) ring of cp.async under way */
    uint16_t groups[max_groups]; /* ring: copies left in each committed group */
    uint32_t first_copy, n_copies, first_group, n_groups, n_open;
};

struct warp {
    uint32_t index, members; /* bit per lane that exists */
    uint32_t ready;          /* begun or not, waits for nothing but its turn */
    uint32_t arrived, phase; /* at the collective; phase flips when it completes */
    const char *waits_in, *file;
    int line;
    uint32_t values[2][32]; /* [phase][lane] shuffle */
    uint4 rows[2][32];      /* [phase][lane] ldmatrix */
    uint32_t a[16][8];      /* mma: pairs of 16-bit values, (row, k/2) */
    uint32_t b[8][8];       /* (column, k/2) */
    float c[16][8];         /* (row, column), in and out */
    token tokens[2];        /* kvi_sync_warp */
};

/* What a launch asks for. */
struct launch {
    const kernel *code;
    const void *params; /* (code->param_bytes) a copy */
    dim3 grid, threads;
    uint32_t shared_bytes;
    uint32_t seed;   /* 0 natural, 1 backwards, else shuffled */
    uint32_t number; /* of launches so far: shuffles differ from launch to launch */
    token begun, ended;
};

struct statistics {
    uint64_t launches, blocks, switches;
};

struct machine {
    block_view view;
    launch *job;
    lane *lanes; /* (1024) */
    warp warps[32];
    uint32_t n_threads, n_warps, all_warps;
    uint32_t ready_warps; /* bit per warp that may have ready lanes */
    warp *current;
    uint32_t n_returned;
    uint32_t barrier_arrived, barrier_phase;
    const char *barrier_file;
    int barrier_line;
    token barrier_tokens[2];
    enum { natural, backwards, shuffled } order;
    uint32_t random;
    resume_point host;
    stack **stacks; /* (n_stacks) free ones */
    uint32_t n_stacks, n_created;
    unsigned char *shared;
    uint32_t shared_cap;
    void **old_shared; /* ThreadSanitizer: blocks of the launch, freed when it ends */
    uint32_t n_old_shared, cap_old_shared;
    uint64_t switches;
    uint32_t fault; /* result code of the driver API; 0: none */
    char report[4096];
};

machine *machine_create();
/* Makes room for a launch of this shape. */
void machine_prepare(machine *m, launch *job);
/* One block. False: a fault; m->report says it. After a fault the machine is not used again. */
bool machine_run(machine *m, const uint3 &index);
void machine_finish(machine *m); /* the launch is over */

/* Ends the block with a report that begins with kernel, block and thread. */
[[noreturn]] void fault(lane *at, uint32_t code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* One warp's mma: fragments in, product, fragments out. */
void fragments_in(warp *w, uint32_t lane, const float c[4], const uint32_t a[4], const uint32_t b[2]);
void fragments_out(const warp *w, uint32_t lane, float c[4]);
void warp_multiply(float c[16][8], const uint32_t a[16][8], const uint32_t b[8][8], bool bf16);

/* Watched by the memory profile (profile/), else NULL: a lane came through a barrier or collective; cp_next hands out a copy (true), or has none left. */
extern void (*on_collective)(lane *me), (*on_copy)(bool copies);

/* The registry that KVI_KERNEL fills. */
const kernel *kernel_find(const char *name);
const kernel *kernel_at(uint32_t index);

} // namespace kvi_emu
#endif
