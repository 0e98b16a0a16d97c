/* sass_warp.c - a warp's program counter, divergence, barriers; and a block's warps in turn.
 *
 * The one thing to know: lanes that stand at one instruction execute it together. While all of them are together one program counter counts; after
 * a branch that only some take, each lane has its own, and the group with the lowest address goes first, until it reaches the next group's. So
 * lanes meet again at the latest where their paths do; BSSY and BSYNC (B0 to B15 name the lanes that shall meet) and WARPSYNC make it certain.
 * A card may interleave groups otherwise; code that depends on it is wrong there and not seen here. */
#include "sass_values.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { AT_WARPSYNC = 16, AT_BAR = 17 };
static const uint64_t most_steps = 400000000; /* of a block: code that goes round for ever ends here */

void sass_fault(sass_warp *w, const char *format, ...)
{
    sass_block *b = w->block;
    if (b->faulted) return;
    b->faulted = true;
    int n = snprintf(b->fault, sizeof b->fault, "%s, block (%u,%u,%u), warp %u, 0x%x: %s: ", b->kernel->function.name,
                     b->at[0], b->at[1], b->at[2], w->index, b->now ? b->now->at : 0, b->now ? b->now->text : "");
    if (n < 0 || n >= (int)sizeof b->fault) return;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(b->fault + n, sizeof b->fault - (size_t)n, format, args);
    va_end(args);
}

/* ----------------------------------------------------------------------------------------------------- who goes on --- */
static void place(sass_warp *w, uint32_t lanes, uint32_t pc)
{
    for (; lanes; lanes &= lanes - 1) w->lane_pc[__builtin_ctz(lanes)] = pc;
}
/* Lanes that wait at `where` go on if nobody they wait for is elsewhere. */
static void meet(sass_warp *w, uint32_t where, uint32_t expected)
{
    if (!w->waits_at[where] || (expected & w->alive & ~w->waits_at[where])) return;
    w->waits &= ~w->waits_at[where];
    w->waits_at[where] = 0;
}
static void wait_at(sass_warp *w, uint32_t where, uint32_t lanes)
{
    w->waits |= lanes;
    w->waits_at[where] |= lanes;
}
static void meet_everywhere(sass_warp *w)
{
    for (uint32_t k = 0; k < 16; k++) meet(w, k, w->barrier[k]);
    meet(w, AT_WARPSYNC, w->warpsync);
}
/* The next group of a split warp; *until: where another one stands. False: nobody can go on. */
static bool choose(sass_warp *w, uint32_t *until)
{
    uint32_t lowest = UINT32_MAX, second = UINT32_MAX;
    w->group = 0;
    for (uint32_t lanes = w->alive & ~w->waits; lanes; lanes &= lanes - 1) {
        const uint32_t l = (uint32_t)__builtin_ctz(lanes), pc = w->lane_pc[l];
        if (pc < lowest) second = lowest, lowest = pc, w->group = 1u << l;
        else if (pc == lowest) w->group |= 1u << l;
        else if (pc < second) second = pc;
    }
    w->pc = lowest;
    *until = second;
    w->split = w->group != w->alive;
    return w->group != 0;
}

/* -------------------------------------------------------------------------------------------------------- control --- */
/* Lanes of the group that an operand of BRA, BREAK and the like picks beyond the guard. */
static uint32_t picked(const sass_warp *w, const sass_ins *i, uint32_t mask)
{
    for (uint32_t k = 0; k < i->n; k++) {
        const sass_operand *o = &i->arg[k];
        if (o->kind == SASS_PRED) mask &= w->p[o->reg] ^ (o->inv ? SASS_ALL : 0);
        if (o->kind == SASS_UPRED && (w->up >> o->reg & 1) == o->inv) mask = 0;
    }
    return mask;
}
/* The lanes that BRA.DIV, BRA.CONV and WARPSYNC name, of those that are left. */
static uint32_t named(const sass_warp *w, const sass_ins *i)
{
    uint32_t value = SASS_ALL;
    const sass_operand *o = &i->arg[0];
    if (o->kind == SASS_UREG) value = w->u[o->reg];
    else if (o->kind == SASS_REG) value = w->r[o->reg][__builtin_ctz(w->group)];
    else if (o->kind == SASS_IMM) value = o->value;
    return (o->inv ? ~value : value) & w->alive;
}
/* Lanes of the group go to `target`, the others on. Whether the group stays one. */
static bool branch(sass_warp *w, uint32_t taken, uint32_t target)
{
    if (taken == w->group) w->pc = target;
    else if (!taken) w->pc++;
    else {
        place(w, w->group, w->pc + 1);
        place(w, taken, target);
        w->split = true;
        return false;
    }
    return true;
}
/* Each lane to an address of its own. */
static bool scatter(sass_warp *w, uint32_t mask, const uint32_t address[32])
{
    place(w, w->group, w->pc + 1);
    for (uint32_t lanes = mask; lanes; lanes &= lanes - 1) {
        const uint32_t l = (uint32_t)__builtin_ctz(lanes);
        if (address[l] % 16 || address[l] / 16 >= w->block->kernel->function.n) {
            sass_fault(w, "lane %u goes to 0x%x, which is not in the function", l, address[l]);
            return false;
        }
        w->lane_pc[l] = address[l] / 16;
    }
    w->split = true;
    return false;
}
/* Whether the group goes on as it is; else the next one is chosen. */
static bool flow(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    uint32_t address[32], number;
    switch ((sass_flow)i->flow) {
    case SASS_BRA:
        if (sass_has(i, SASS_M_DIV)) return branch(w, w->group == named(w, i) ? 0 : mask, i->target);
        if (sass_has(i, SASS_M_CONV)) return branch(w, w->group == named(w, i) ? mask : 0, i->target);
        return branch(w, picked(w, i, mask), i->target);
    case SASS_CALL: return branch(w, mask, i->target);
    case SASS_RET: /* an address of the function, in a register, and a displacement */
        for (int l = 0; l < 32; l++) address[l] = w->r[i->arg[0].reg][l] + i->arg[1].value;
        return scatter(w, mask, address);
    case SASS_BRX: /* relative to the next instruction */
        for (int l = 0; l < 32; l++)
            address[l] = i->at + 16 + i->arg[1].value +
                         (i->arg[0].kind == SASS_UREG ? w->u[i->arg[0].reg] : w->r[i->arg[0].reg][l]);
        return scatter(w, mask, address);
    case SASS_EXIT:
        mask = picked(w, i, mask);
        w->alive &= ~mask;
        for (uint32_t k = 0; k < 16; k++) w->barrier[k] &= ~mask;
        place(w, w->group & ~mask, ++w->pc);
        w->group &= ~mask;
        meet_everywhere(w);
        return !w->split && w->group;
    case SASS_BSSY:
        w->barrier[i->arg[0].reg] = mask;
        w->pc++;
        return true;
    case SASS_BREAK:
        number = i->arg[i->n - 1].reg;
        w->barrier[number] &= ~picked(w, i, mask);
        place(w, w->group, ++w->pc);
        meet(w, number, w->barrier[number]);
        return !w->split;
    case SASS_BMOV:
        number = i->arg[1].reg;
        w->barrier[i->arg[0].reg] = i->arg[1].kind == SASS_BARRIER ? w->barrier[number] : i->arg[1].value;
        if (sass_has(i, SASS_M_CLEAR)) w->barrier[number] = 0;
        w->pc++;
        return true;
    case SASS_BSYNC:
        number = i->arg[0].reg;
        w->pc++;
        if (mask == w->group && mask == (w->barrier[number] & w->alive)) return true;
        place(w, w->group, w->pc);
        wait_at(w, number, mask);
        meet(w, number, w->barrier[number]);
        w->split = true;
        return false;
    case SASS_WARPSYNC:
        w->warpsync = named(w, i);
        w->pc++;
        if (mask == w->group && mask == w->warpsync) return true;
        place(w, w->group, w->pc);
        wait_at(w, AT_WARPSYNC, mask);
        meet(w, AT_WARPSYNC, w->warpsync);
        w->split = true;
        return false;
    case SASS_BAR:
        w->pc++;
        place(w, w->group, w->pc);
        wait_at(w, AT_BAR, mask);
        w->split = true;
        return false;
    default: sass_fault(w, "this way of control is not interpreted"); return false;
    }
}

static void remember(sass_trace *t, uint32_t pc)
{
    if (t->n == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 4096;
        uint32_t *more = realloc(t->at, t->cap * sizeof *more);
        if (!more) abort();
        t->at = more;
    }
    t->at[t->n++] = pc;
}
void sass_warp_run(sass_warp *w)
{
    sass_block *b = w->block;
    const sass_ins *code = b->code;
    const uint32_t n_code = b->kernel->function.n;
    uint64_t *counts = b->counts;
    while (!b->faulted) {
        uint32_t until = UINT32_MAX;
        if (w->split && !choose(w, &until)) {
            w->done = !w->alive;
            w->at_barrier = !(w->alive & ~w->waits_at[AT_BAR]);
            if (!w->done && !w->at_barrier)
                sass_fault(w, "lanes 0x%x wait for each other (at B0..B15, WARPSYNC or BAR) and nobody goes on",
                           w->alive);
            break;
        }
        if (!w->alive) {
            w->done = true;
            break;
        }
        bool together = true;
        while (together && w->pc < until) {
            if (w->pc >= n_code) {
                sass_fault(w, "goes on behind the last instruction");
                return;
            }
            const sass_ins *i = &code[w->pc];
            uint32_t mask = w->group;
            if (i->guard_uniform) mask = (w->up >> i->guard & 1) != i->guard_not ? mask : 0;
            else mask &= w->p[i->guard] ^ (i->guard_not ? SASS_ALL : 0);
            counts[w->pc]++;
            if (b->traces) remember(&w->trace, w->pc);
            b->now = i;
            if (++b->n_steps > most_steps)
                sass_fault(w, "the block has not ended after %llu instructions", (unsigned long long)most_steps);
            if (i->flow == SASS_STRAIGHT) {
                if (mask) i->run(w, i, mask);
                w->pc++;
            } else if (mask) together = flow(w, i, mask);
            else w->pc++;
            if (b->faulted) return;
        }
        if (together && w->split) place(w, w->group, w->pc);
    }
    if (w->done) sass_copies_finish(w, 0);
}

/* ----------------------------------------------------------------------------------------------------------- block --- */
static uint32_t words_to(uint32_t bytes) { return (bytes + 3) & ~3u; }

bool sass_block_prepare(sass_block *b, const sass_kernel *kernel, const uint32_t grid[3], const uint32_t threads[3],
                        uint32_t dynamic_shared, const void *params)
{
    const uint32_t n_threads = threads[0] * threads[1] * threads[2];
    sass_block_free(b);
    b->kernel = kernel, b->code = kernel->function.code;
    b->n_warps = (n_threads + 31) / 32;
    b->shared_bytes = words_to(kernel->static_shared + dynamic_shared);
    b->stack_bytes = words_to(kernel->stack_bytes);
    memset(b->range, 0, sizeof b->range);
    memcpy(b->grid, grid, sizeof b->grid), memcpy(b->threads, threads, sizeof b->threads);
    for (int k = 0; k < SASS_BANKS; k++)
        b->bank_bytes[k] = kernel->bank_bytes[k], b->bank[k] = (uint8_t *)(uintptr_t)kernel->bank[k];
    b->bank_bytes[0] = words_to(kernel->param_offset + kernel->param_bytes);
    b->bank[0] = calloc(1, b->bank_bytes[0]);
    b->shared = malloc(b->shared_bytes + 16u);
    b->local = malloc((size_t)n_threads * b->stack_bytes + 16u);
    b->warps = aligned_alloc(64, (b->n_warps * sizeof *b->warps + 63) & ~(size_t)63);
    b->counts = calloc(kernel->function.n, sizeof *b->counts);
    b->sectors = calloc(kernel->function.n, sizeof *b->sectors);
    if (!b->bank[0] || !b->shared || !b->local || !b->warps || !b->counts || !b->sectors) {
        sass_block_free(b);
        return false;
    }
    memset(b->warps, 0, b->n_warps * sizeof *b->warps);
    /* What the driver leaves in c[0x0]: the shape of the launch, the top of the stack, the parameters. */
    const bool since_blackwell = kernel->param_offset >= 0x380;
    memcpy(b->bank[0] + (since_blackwell ? 0x360 : 0), threads, 12);
    memcpy(b->bank[0] + (since_blackwell ? 0x370 : 12), grid, 12);
    memcpy(b->bank[0] + (since_blackwell ? 0x37c : 0x28), &b->stack_bytes, 4);
    memcpy(b->bank[0] + kernel->param_offset, params, kernel->param_bytes);
    return true;
}
void sass_block_free(sass_block *b)
{
    for (uint32_t k = 0; b->warps && k < b->n_warps; k++) free(b->warps[k].copies), free(b->warps[k].trace.at);
    free(b->longest.at);
    b->longest = (sass_trace){NULL, 0, 0};
    free(b->bank[0]), free(b->shared), free(b->local), free(b->warps), free(b->counts), free(b->sectors);
    b->bank[0] = NULL, b->shared = b->local = NULL, b->warps = NULL, b->counts = NULL, b->sectors = NULL;
}

/* Registers, and what stands in shared and local memory, are NaN in every type: code that reads what it has not written is found. */
static void begin(sass_block *b, uint32_t index)
{
    sass_warp *w = &b->warps[index];
    sass_copy *copies = w->copies;
    const sass_trace trace = {w->trace.at, 0, w->trace.cap};
    const uint32_t cap = w->cap_copies, n_threads = b->threads[0] * b->threads[1] * b->threads[2];
    memset(w, 0, offsetof(sass_warp, tid));
    memset(w->r, 0xff, sizeof w->r);
    memset(w->r[SASS_RZ], 0, sizeof w->r[0]);
    w->p[SASS_PT] = SASS_ALL, w->up = 1u << SASS_PT;
    w->copies = copies, w->cap_copies = cap, w->trace = trace;
    w->index = index, w->block = b;
    for (uint32_t l = 0; l < 32; l++) {
        const uint32_t t = index * 32 + l;
        if (t < n_threads) w->alive |= 1u << l;
        w->tid[0][l] = t % b->threads[0], w->tid[1][l] = t / b->threads[0] % b->threads[1];
        w->tid[2][l] = t / (b->threads[0] * b->threads[1]);
    }
    w->group = w->alive;
}
static uint32_t turn(uint32_t k, uint32_t n, uint32_t seed, uint32_t round)
{
    if (seed == 0) return k;
    if (seed == 1) return n - 1 - k;
    return (k + (seed * 2654435761u + round * 40503u) % n) % n; /* another one begins each time */
}

static void keep_longest(sass_block *b)
{
    for (uint32_t k = 0; b->traces && k < b->n_warps; k++) {
        sass_trace *own = &b->warps[k].trace, last = b->longest;
        if (own->n <= last.n) continue;
        b->longest = *own, *own = last;
    }
}
bool sass_block_run(sass_block *b, const uint32_t at[3], uint32_t seed)
{
    memcpy(b->at, at, sizeof b->at);
    b->faulted = b->misaligned = false;
    b->n_steps = 0, b->now = NULL;
    memset(b->shared, 0xff, b->shared_bytes);
    if (b->stack_bytes) memset(b->local, 0xff, (size_t)b->stack_bytes * b->threads[0] * b->threads[1] * b->threads[2]);
    for (uint32_t k = 0; k < b->n_warps; k++) begin(b, k);
    for (uint32_t round = 0;; round++) {
        uint32_t n_done = 0;
        for (uint32_t k = 0; k < b->n_warps; k++) {
            sass_warp *w = &b->warps[turn(k, b->n_warps, seed, round)];
            if (!w->done) sass_warp_run(w);
            if (b->faulted) return false;
            n_done += w->done;
        }
        if (n_done == b->n_warps) {
            keep_longest(b);
            return true;
        }
        for (uint32_t k = 0; k < b->n_warps; k++) { /* all that are left stand at the barrier */
            sass_warp *w = &b->warps[k];
            w->at_barrier = false;
            w->waits &= ~w->waits_at[AT_BAR];
            w->waits_at[AT_BAR] = 0;
        }
    }
}
