/* sass_machine.h - what executes: a warp of 32 lanes, the block it stands in, the launch. Registers are rows of 32 words, so that an instruction
 * is a loop over a row, which the compiler makes vectors of. */
#ifndef KVRT_SASS_MACHINE_H
#define KVRT_SASS_MACHINE_H
#include "sass_code.h"

enum { SASS_BANKS = 5, SASS_MAX_WARPS = 32, SASS_MAX_GROUPS = 64 };
#define SASS_ALL 0xffffffffu

/* A kernel of an image: code, constants, limits. */
typedef struct sass_kernel {
    sass_function function;
    const uint8_t *bank[SASS_BANKS]; /* c[0x0] holds nothing but room: its words are a launch's */
    uint32_t bank_bytes[SASS_BANKS];
    uint32_t param_offset, param_bytes, max_threads, registers, static_shared, stack_bytes, symbol;
    const char *text; /* of its code */
    size_t text_length;
} sass_kernel;

typedef struct sass_copy { /* of LDGSTS, under way */
    uint8_t *to;
    const uint8_t *from;
    uint32_t bytes;
} sass_copy;

/* Which instructions a warp executed, in order, when that is asked for (sass_block.traces): what a model of time walks through. */
typedef struct sass_trace {
    uint32_t *at; /* index of an instruction, and its lanes' share is not kept */
    uint32_t n, cap;
} sass_trace;

typedef struct sass_warp {
    uint32_t r[SASS_ROWS][32] __attribute__((aligned(64)));
    uint32_t p[8]; /* a bit per lane */
    uint32_t u[SASS_URZ + 1];
    uint32_t up; /* a bit per uniform predicate */
    /* Lanes: those that exist and have not left; where they are. While all that can run are together, `pc` alone counts. */
    uint32_t alive, group, pc;
    uint32_t lane_pc[32];
    uint32_t waits;        /* lanes that wait at a BSYNC, WARPSYNC or BAR */
    uint32_t waits_at[18]; /* which of them: at B0 .. B15, at WARPSYNC (16), at BAR (17) */
    uint32_t barrier[16];  /* lanes that BSSY named */
    uint32_t warpsync;     /* lanes that WARPSYNC names */
    bool split, at_barrier, done;
    sass_copy *copies;
    uint32_t n_copies, cap_copies;
    uint32_t group_end[SASS_MAX_GROUPS], n_groups; /* committed groups of copies: n_copies behind each */
    sass_trace trace;
    uint32_t tid[3][32], index;
    struct sass_block *block;
} sass_warp;

typedef struct sass_block {
    const sass_kernel *kernel;
    const sass_ins *code;
    uint64_t *counts;          /* (code) how often a warp executed each instruction, over all blocks */
    uint8_t *bank[SASS_BANKS]; /* c[0x0] of this launch */
    uint32_t bank_bytes[SASS_BANKS];
    uint32_t grid[3], threads[3], at[3]; /* at: index of the block */
    uint8_t *shared, *local;             /* local: (threads, stack_bytes) */
    uint32_t shared_bytes, stack_bytes, n_warps;
    sass_warp *warps;
    /* Whether [at, at + bytes) is device memory; then the range around it goes into *from, *to. */
    bool (*reach)(uint64_t at, uint32_t bytes, uint64_t *from, uint64_t *to);
    uint32_t seed;        /* beyond 0: approximations are one unit off, see sass_float.c */
    uint64_t range[4][2]; /* of device memory that was touched last */
    uint32_t next_range;
    uint64_t n_steps;
    bool traces;
    uint64_t *sectors;  /* (code) while traces: 32-byte pieces of global memory that its requests touched */
    sass_trace longest; /* of the warps of the launch */
    /* A fault ends the block: what, where. */
    const sass_ins *now;
    bool faulted, misaligned;
    char fault[1000];
} sass_block;

/* Rooms for a launch; false: out of memory. */
bool sass_block_prepare(sass_block *b, const sass_kernel *kernel, const uint32_t grid[3], const uint32_t threads[3],
                        uint32_t dynamic_shared, const void *params);
/* One block; warps take turns at barriers in the order of the seed (0 natural, 1 backwards, others shuffled). False: fault. */
bool sass_block_run(sass_block *b, const uint32_t at[3], uint32_t seed);
void sass_block_free(sass_block *b);
/* Ends the block. The first one said counts. */
void sass_fault(sass_warp *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A warp until its next barrier or its end. */
void sass_warp_run(sass_warp *w);

/* sass_memory.c: copies of LDGSTS that may still be under way are made until `left` groups remain. */
void sass_copies_finish(sass_warp *w, uint32_t left);

#endif
