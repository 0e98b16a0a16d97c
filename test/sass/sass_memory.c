/* sass_memory.c - loads, stores, atomics, copies in the background. Global addresses are the host's own and every one is looked up in the table of
 * device memory; shared and local memory and constant banks have their ends. Vectors must be aligned to their size. */
#include "sass_values.h"

#include <stdlib.h>

uint32_t sass_constant(sass_warp *w, uint32_t bank, uint32_t offset)
{
    const sass_block *b = w->block;
    uint32_t value = 0;
    if (bank >= SASS_BANKS || !b->bank[bank] || offset > b->bank_bytes[bank] || b->bank_bytes[bank] - offset < 4 ||
        offset % 4)
        sass_fault(w, "c[0x%x][0x%x] is not there: the bank has %u bytes", bank, offset,
                   bank < SASS_BANKS ? b->bank_bytes[bank] : 0);
    else memcpy(&value, b->bank[bank] + offset, 4);
    return value;
}

/* ------------------------------------------------------------------------------------------------------- addresses --- */
typedef enum sass_space { SASS_GLOBAL, SASS_SHARED, SASS_LOCAL } sass_space;

static void global_addresses(sass_warp *w, const sass_operand *o, uint64_t at[32])
{
    const uint64_t more = (uint64_t)(int64_t)(int32_t)o->value +
                          (o->ureg == SASS_URZ ? 0 : (uint64_t)w->u[(o->ureg + 1) & 63u] << 32 | w->u[o->ureg]);
    const uint32_t *low = w->r[o->reg], *high = w->r[sass_row(o->reg, 1)];
    if (o->wide) SASS_LANES(l) at[l] = ((uint64_t)high[l] << 32 | low[l]) + more;
    else SASS_LANES(l) at[l] = low[l] + more;
}
static void near_addresses(sass_warp *w, const sass_operand *o, uint32_t at[32])
{
    const uint32_t more = o->value + (o->ureg == SASS_URZ ? 0 : w->u[o->ureg]), *low = w->r[o->reg];
    SASS_LANES(l) at[l] = low[l] * o->scale + more;
}
static bool in_range(const uint64_t range[2], uint64_t from, uint64_t to, uint32_t bytes)
{
    return from >= range[0] && to <= range[1] && range[1] - to >= bytes;
}
/* A request moves whole sectors. */
static void count_sectors(sass_warp *w, const uint64_t at[32], uint32_t mask)
{
    uint64_t seen[32];
    uint32_t n = 0;
    for (; mask; mask &= mask - 1) {
        const uint64_t sector = at[__builtin_ctz(mask)] >> 5;
        uint32_t k = 0;
        while (k < n && seen[k] != sector) k++;
        if (k == n) seen[n++] = sector;
    }
    w->block->sectors[w->block->now - w->block->code] += n;
}
static bool check_global(sass_warp *w, const uint64_t at[32], uint32_t bytes, uint32_t mask)
{
    sass_block *b = w->block;
    uint64_t from = UINT64_MAX, to = 0, odd = 0;
    SASS_LANES(l) if (mask >> l & 1)
    {
        from = at[l] < from ? at[l] : from, to = at[l] > to ? at[l] : to;
        odd |= at[l];
    }
    if (b->traces) count_sectors(w, at, mask);
    if (odd & (bytes - 1)) {
        b->misaligned = true;
        sass_fault(w, "an address that is no multiple of %u", bytes);
        return false;
    }
    for (uint32_t k = 0; k < 4; k++)
        if (in_range(b->range[k], from, to, bytes)) return true;
    for (uint32_t lanes = mask; lanes; lanes &= lanes - 1) {
        const uint64_t one = at[__builtin_ctz(lanes)];
        uint32_t k = 0;
        while (k < 4 && !in_range(b->range[k], one, one, bytes)) k++;
        if (k < 4) continue;
        uint64_t *room = b->range[b->next_range++ % 4];
        if (!b->reach(one, bytes, &room[0], &room[1])) {
            room[0] = room[1] = 0;
            sass_fault(w, "lane %d: %u bytes at 0x%llx, which is no device memory", __builtin_ctz(lanes), bytes,
                       (unsigned long long)one);
            return false;
        }
    }
    return true;
}
/* Host addresses of what the lanes of `mask` touch. False: a fault. */
static bool places(sass_warp *w, const sass_operand *o, sass_space space, uint32_t bytes, uint32_t mask,
                   uint8_t *out[32])
{
    sass_block *b = w->block;
    uint64_t at[32];
    uint32_t near[32];
    if (space == SASS_GLOBAL) {
        global_addresses(w, o, at);
        if (!check_global(w, at, bytes, mask)) return false;
        SASS_LANES(l) out[l] = (uint8_t *)(uintptr_t)at[l];
        return true;
    }
    near_addresses(w, o, near);
    const uint32_t size = space == SASS_SHARED ? b->shared_bytes : b->stack_bytes;
    uint32_t most = 0, odd = 0;
    SASS_LANES(l) if (mask >> l & 1) most = near[l] > most ? near[l] : most, odd |= near[l];
    if (most > size || size - most < bytes || odd & (bytes - 1)) {
        b->misaligned = odd & (bytes - 1);
        sass_fault(w, "%u bytes at 0x%x of %u bytes of %s memory", bytes, most, size,
                   space == SASS_SHARED ? "shared" : "local");
        return false;
    }
    if (space == SASS_SHARED) SASS_LANES(l) out[l] = b->shared + near[l];
    else SASS_LANES(l) out[l] = b->local + (size_t)(w->index * 32 + (uint32_t)l) * b->stack_bytes + near[l];
    return true;
}
static uint32_t width(const sass_ins *i)
{
    if (sass_has(i, SASS_M_128)) return 16;
    if (sass_has(i, SASS_M_64)) return 8;
    if (sass_has(i, SASS_M_U16) || sass_has(i, SASS_M_S16)) return 2;
    return sass_has(i, SASS_M_U8) || sass_has(i, SASS_M_S8) ? 1 : 4;
}
static uint32_t extended(const sass_ins *i, const uint8_t *from, uint32_t bytes)
{
    uint16_t half;
    if (bytes == 1) return sass_has(i, SASS_M_S8) ? (uint32_t)(int8_t)*from : *from;
    memcpy(&half, from, 2);
    return sass_has(i, SASS_M_S16) ? (uint32_t)(int16_t)half : half;
}

/* ------------------------------------------------------------------------------------------------- loads and stores --- */
static void load(sass_warp *w, const sass_ins *i, sass_space space, uint32_t mask)
{
    const uint32_t bytes = width(i), reg = i->arg[0].reg;
    uint8_t *from[32];
    if (!places(w, &i->arg[1], space, bytes, mask, from) || reg == SASS_RZ) return;
    if (bytes < 4) {
        SASS_LANES(l) if (mask >> l & 1) w->r[reg][l] = extended(i, from[l], bytes);
        return;
    }
    for (uint32_t k = 0; k < bytes / 4; k++) {
        uint32_t *row = w->r[sass_row(reg, k)];
        if (mask == SASS_ALL) SASS_LANES(l) memcpy(&row[l], from[l] + 4 * k, 4);
        else SASS_LANES(l) if (mask >> l & 1) memcpy(&row[l], from[l] + 4 * k, 4);
    }
}
static void store(sass_warp *w, const sass_ins *i, sass_space space, uint32_t mask)
{
    const uint32_t bytes = width(i), reg = i->arg[1].reg;
    uint8_t *to[32];
    if (!places(w, &i->arg[0], space, bytes, mask, to)) return;
    for (uint32_t k = 0; k < (bytes + 3) / 4; k++) {
        const uint32_t *row = w->r[sass_row(reg, k)];
        SASS_LANES(l) if (mask >> l & 1) memcpy(to[l] + 4 * k, &row[l], bytes < 4 ? bytes : 4);
    }
}
void sass_ldg(sass_warp *w, const sass_ins *i, uint32_t mask) { load(w, i, SASS_GLOBAL, mask); }
void sass_lds(sass_warp *w, const sass_ins *i, uint32_t mask) { load(w, i, SASS_SHARED, mask); }
void sass_ldl(sass_warp *w, const sass_ins *i, uint32_t mask) { load(w, i, SASS_LOCAL, mask); }
void sass_stg(sass_warp *w, const sass_ins *i, uint32_t mask) { store(w, i, SASS_GLOBAL, mask); }
void sass_sts(sass_warp *w, const sass_ins *i, uint32_t mask) { store(w, i, SASS_SHARED, mask); }
void sass_stl(sass_warp *w, const sass_ins *i, uint32_t mask) { store(w, i, SASS_LOCAL, mask); }

void sass_ldc(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const sass_operand *o = &i->arg[1];
    const uint32_t bytes = width(i), *index = w->r[o->reg];
    const uint32_t base = o->value + (o->ureg == SASS_URZ ? 0 : w->u[o->ureg]);
    uint32_t out[2][32] = {{0}}; /* the index may be a register of the result */
    for (uint32_t k = 0; k < (bytes > 4 ? 2 : 1); k++) SASS_LANES(l) if (mask >> l & 1)
        {
            const uint32_t at = base + index[l] * o->scale + 4 * k, word = sass_constant(w, o->bank, at & ~3u);
            uint8_t four[8] = {0};
            memcpy(four, &word, 4);
            out[k][l] = bytes < 4 ? extended(i, four + (at & 3u), bytes) : word;
        }
    for (uint32_t k = 0; k < (bytes > 4 ? 2 : 1); k++) sass_put(w, sass_row(i->arg[0].reg, k), out[k], mask);
}

/* Matrices of 8 x 8 16-bit values: the lanes 8 m .. 8 m + 7 say where the rows of matrix m are, lane 4 g + t gets columns 2t, 2t + 1 of row g;
 * .MT88: of the transposed. */
void sass_ldsm(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const uint32_t n = sass_has(i, SASS_M_4)   ? 4
                       : sass_has(i, SASS_M_2) ? 2
                                               : 1,
                   rows = n == 4 ? SASS_ALL : (1u << 8 * n) - 1;
    const bool turned = sass_has(i, SASS_M_MT88);
    uint8_t *from[32];
    uint32_t out[4][32];
    if (mask != SASS_ALL) {
        sass_fault(w, "matrices are loaded by lanes 0x%x alone", mask);
        return;
    }
    if (!places(w, &i->arg[1], SASS_SHARED, 16, rows, from)) return;
    for (uint32_t m = 0; m < n; m++)
        for (uint32_t l = 0; l < 32; l++) {
            const uint32_t g = l >> 2, t = l & 3u;
            uint16_t pair[2];
            if (turned)
                memcpy(&pair[0], from[8 * m + 2 * t] + 2 * g, 2), memcpy(&pair[1], from[8 * m + 2 * t + 1] + 2 * g, 2);
            else memcpy(pair, from[8 * m + g] + 4 * t, 4);
            out[m][l] = pair[0] | (uint32_t)pair[1] << 16;
        }
    for (uint32_t m = 0; m < n; m++) sass_put(w, sass_row(i->arg[0].reg, m), out[m], SASS_ALL);
}

/* -------------------------------------------------------------------------------------------- copies in the background --- */
/* What a copy will bring stands there only when it was waited for; until then the place is NaN. */
void sass_ldgsts(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const uint32_t bytes = width(i);
    uint32_t reads = mask;
    uint8_t *to[32], *from[32];
    if (i->n > 2) reads &= sass_pred(w, &i->arg[2]);
    if (!places(w, &i->arg[0], SASS_SHARED, bytes, mask, to)) return;
    if (reads && !places(w, &i->arg[1], SASS_GLOBAL, bytes, reads, from)) return;
    if (w->n_copies + 32 > w->cap_copies) {
        w->cap_copies = w->cap_copies ? 2 * w->cap_copies : 256;
        sass_copy *more = realloc(w->copies, w->cap_copies * sizeof *more);
        if (!more) abort();
        w->copies = more;
    }
    SASS_LANES(l) if (mask >> l & 1)
    {
        if (!(reads >> l & 1)) {
            w->copies[w->n_copies++] = (sass_copy){to[l], NULL, bytes};
        } else w->copies[w->n_copies++] = (sass_copy){to[l], from[l], bytes};
        memset(to[l], 0xff, bytes);
    }
}
void sass_copies_finish(sass_warp *w, uint32_t left)
{
    if (w->n_groups <= left && !(left == 0 && w->done)) return;
    const uint32_t n = w->n_groups - (left < w->n_groups ? left : w->n_groups), end = w->done ? w->n_copies
                                                                                      : n     ? w->group_end[n - 1]
                                                                                              : 0;
    for (uint32_t k = 0; k < end; k++) {
        const sass_copy *c = &w->copies[k];
        if (c->from) memcpy(c->to, c->from, c->bytes);
        else memset(c->to, 0, c->bytes);
    }
    memmove(w->copies, w->copies + end, (w->n_copies - end) * sizeof *w->copies);
    w->n_copies -= end;
    for (uint32_t k = n; k < w->n_groups; k++) w->group_end[k - n] = w->group_end[k] - end;
    w->n_groups -= n;
}
/* Ends a group of copies; DEPBAR.LE SB0, n waits until at most n groups are left. ptxas counts groups on SB0. */
void sass_ldgdepbar(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    (void)i, (void)mask;
    if (w->n_groups == SASS_MAX_GROUPS) sass_fault(w, "more than %d groups of copies under way", SASS_MAX_GROUPS);
    else w->group_end[w->n_groups++] = w->n_copies;
}
void sass_depbar(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    (void)mask;
    if (i->n > 1 && i->arg[0].kind == SASS_SCOREBOARD && i->arg[0].reg == 0) sass_copies_finish(w, i->arg[1].value);
}

/* --------------------------------------------------------------------------------------------------------- atomics --- */
/* ATOMG.E.ADD.STRONG.GPU PT, R4, [R2.64], R5: reads, adds, writes; lanes one after the other. RED does not keep what was read. `by` NULL: one. */
static void atomic(sass_warp *w, sass_space space, const sass_operand *to, const sass_operand *at,
                   const sass_operand *by, const sass_ins *i, uint32_t mask)
{
    uint8_t *place[32];
    uint32_t room[32], old[32] = {0};
    SASS_LANES(l) room[l] = 1;
    const uint32_t *v = by ? sass_plain(w, by, 0, room) : room;
    if (!places(w, at, space, 4, mask, place)) return;
    SASS_LANES(l) if (mask >> l & 1)
    {
        uint32_t *word = (uint32_t *)(void *)place[l];
        if (sass_has(i, SASS_M_ADD) || sass_has(i, SASS_M_INC))
            old[l] = __atomic_fetch_add(word, v[l], __ATOMIC_RELAXED);
        else if (sass_has(i, SASS_M_OR)) old[l] = __atomic_fetch_or(word, v[l], __ATOMIC_RELAXED);
        else if (sass_has(i, SASS_M_AND)) old[l] = __atomic_fetch_and(word, v[l], __ATOMIC_RELAXED);
        else if (sass_has(i, SASS_M_EXCH)) old[l] = __atomic_exchange_n(word, v[l], __ATOMIC_RELAXED);
        else sass_fault(w, "this atomic operation is not interpreted");
    }
    if (to) sass_put(w, to->reg, old, mask);
}
void sass_atomg(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    atomic(w, SASS_GLOBAL, &i->arg[1], &i->arg[2], &i->arg[3], i, mask);
}
/* ATOMS.ADD R5, [R6.X4], R11; ATOMS.POPC.INC.32 RZ, [R2.X4+URZ]: as many are added as lanes meet at a place, so one for each. */
void sass_atoms(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    atomic(w, SASS_SHARED, &i->arg[0], &i->arg[1], i->n > 2 ? &i->arg[2] : NULL, i, mask);
}
void sass_red(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    atomic(w, SASS_GLOBAL, NULL, &i->arg[0], &i->arg[1], i, mask);
}
