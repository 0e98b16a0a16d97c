/* sass_exchange.c - between lanes, special registers, and the uniform registers, of which a warp has one each. */
#include "sass_values.h"

/* SHFL.mode p, d, a, b, c: the lane that d comes from, kept inside the segment that c names. What a lane gives that does not take part is NaN
 * here. */
void sass_shfl(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    uint32_t ra[32], rb[32], rc[32], out[32], one[32];
    const uint32_t *a = sass_plain(w, &i->arg[2], 0, ra), *b = sass_plain(w, &i->arg[3], 0, rb),
                   *c = sass_plain(w, &i->arg[4], 0, rc);
    SASS_LANES(l)
    {
        const int segment = (int)(c[l] >> 8 & 31u), clamp = (int)(c[l] & 31u), by = (int)(b[l] & 31u);
        const int least = l & segment, most = least | (clamp & ~segment);
        int from;
        bool good;
        if (sass_has(i, SASS_M_UP)) from = l - by, good = from >= most;
        else if (sass_has(i, SASS_M_DOWN)) from = l + by, good = from <= most;
        else if (sass_has(i, SASS_M_BFLY)) from = l ^ by, good = from <= most;
        else from = least | (by & ~segment), good = from <= most;
        if (!good) from = l;
        one[l] = good;
        out[l] = mask >> from & 1 ? a[from] : SASS_ALL;
    }
    sass_put_pred(w, &i->arg[0], sass_pack(one), mask);
    sass_put(w, i->arg[1].reg, out, mask);
}
/* VOTE.mode [d,] p, q: of the lanes that take part, whether all or any have q; d: which. */
static uint32_t vote(const sass_ins *i, uint32_t with, uint32_t mask)
{
    if (sass_has(i, SASS_M_ALL)) return (with & mask) == mask;
    if (sass_has(i, SASS_M_ANY)) return (with & mask) != 0;
    return (with & mask) == mask || !(with & mask); /* EQ */
}
void sass_vote(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const uint32_t first = i->arg[0].kind == SASS_REG, with = sass_pred(w, &i->arg[i->n - 1]);
    uint32_t out[32];
    SASS_LANES(l) out[l] = with & mask;
    if (first) sass_put(w, i->arg[0].reg, out, mask);
    sass_put_pred(w, &i->arg[first], vote(i, with, mask) ? SASS_ALL : 0, mask);
}
static void put_upred(sass_warp *w, const sass_operand *o, bool value)
{
    if (o->reg != SASS_PT) w->up = (w->up & ~(1u << o->reg)) | (uint32_t)value << o->reg;
}
static void put_uniform(sass_warp *w, const sass_operand *o, uint32_t value)
{
    if (o->reg != SASS_URZ) w->u[o->reg] = value;
}
static void put_uniform_pair(sass_warp *w, const sass_operand *o, uint64_t value)
{
    if (o->reg == SASS_URZ) return;
    w->u[o->reg] = (uint32_t)value, w->u[(o->reg + 1) & 63u] = (uint32_t)(value >> 32);
}
void sass_voteu(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const uint32_t first = i->arg[0].kind == SASS_UREG, with = sass_pred(w, &i->arg[i->n - 1]);
    if (first) put_uniform(w, &i->arg[0], with & mask);
    put_upred(w, &i->arg[first], vote(i, with, mask));
}

static void special(const sass_warp *w, uint32_t which, uint32_t out[32])
{
    const sass_block *b = w->block;
    SASS_LANES(l)
    {
        const uint32_t bit = 1u << l;
        switch (which) { /* as listed in sass_text.c */
        case 0:
        case 1:
        case 2: out[l] = w->tid[which][l]; break;
        case 3:
        case 4:
        case 5: out[l] = b->at[which - 3]; break;
        case 6: out[l] = (uint32_t)l; break;
        case 8: out[l] = bit; break;
        case 9: out[l] = bit - 1; break;
        case 10: out[l] = bit | (bit - 1); break;
        case 11: out[l] = ~(bit | (bit - 1)); break;
        case 12: out[l] = ~(bit - 1); break;
        case 14: out[l] = 0x7f00u; break; /* upper word of a generic address of shared memory */
        default: out[l] = 0;
        }
    }
}
void sass_s2r(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    uint32_t out[32];
    special(w, i->arg[1].reg, out);
    sass_put(w, i->arg[0].reg, out, mask);
}
/* A pair unless .32 says one: what it reads has 64 bits. */
void sass_cs2r(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    uint32_t out[32];
    special(w, i->arg[1].reg, out);
    sass_put(w, i->arg[0].reg, out, mask);
    memset(out, 0, sizeof out);
    if (!sass_has(i, SASS_M_32) && i->arg[0].reg != SASS_RZ) sass_put(w, sass_row(i->arg[0].reg, 1), out, mask);
}
void sass_s2ur(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    uint32_t out[32];
    (void)mask;
    special(w, i->arg[1].reg, out);
    put_uniform(w, &i->arg[0], out[0]);
}
void sass_r2ur(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    put_uniform(w, &i->arg[0], w->r[i->arg[i->n - 1].reg][__builtin_ctz(mask)]);
}

/* -------------------------------------------------------------------------------------------------------- uniform --- */
static uint32_t value_of(sass_warp *w, const sass_operand *o)
{
    const uint32_t v = sass_uniform(w, o, 0);
    return o->neg ? 0u - v : o->inv ? ~v : v;
}
static uint64_t pair_of(sass_warp *w, const sass_operand *o)
{
    const uint64_t v = (uint64_t)sass_uniform(w, o, 1) << 32 | sass_uniform(w, o, 0);
    return o->neg ? 0 - v : o->inv ? ~v : v;
}
static bool upred(const sass_warp *w, const sass_operand *o)
{
    return (o->kind == SASS_PRED ? w->p[o->reg] & 1 : w->up >> o->reg & 1) != o->inv;
}
static uint64_t term(sass_warp *w, const sass_operand *o)
{
    const uint32_t v = sass_uniform(w, o, 0);
    return o->neg ? (uint64_t)~v + 1 : o->inv ? ~v : v;
}
static uint32_t carries_of(const sass_ins *i)
{
    uint32_t n = 0;
    while (n + 1 < i->n && i->arg[n + 1].kind == SASS_UPRED) n++;
    return n;
}
void sass_umov(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    (void)mask;
    if (sass_has(i, SASS_M_64)) put_uniform_pair(w, &i->arg[0], pair_of(w, &i->arg[1]));
    else put_uniform(w, &i->arg[0], value_of(w, &i->arg[1]));
}
void sass_uldc(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const sass_operand *o = &i->arg[1];
    const uint32_t at = o->value + (o->ureg == SASS_URZ ? 0 : w->u[o->ureg]),
                   word = sass_constant(w, o->bank, at & ~3u) >> 8 * (at & 3u);
    (void)mask;
    const uint32_t n = sass_has(i, SASS_M_128) ? 4 : sass_has(i, SASS_M_64) ? 2 : 1;
    if (sass_has(i, SASS_M_U8)) put_uniform(w, &i->arg[0], word & 0xffu);
    else if (sass_has(i, SASS_M_U16)) put_uniform(w, &i->arg[0], word & 0xffffu);
    else
        for (uint32_t k = 0; k < n && i->arg[0].reg != SASS_URZ; k++)
            w->u[(i->arg[0].reg + k) & 63u] = sass_constant(w, o->bank, at + 4 * k);
}
void sass_uiadd3(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const uint32_t n = carries_of(i);
    uint64_t sum = 0;
    (void)mask;
    if (sass_has(i, SASS_M_64)) {
        for (uint32_t k = n + 1; k < i->n; k++) sum += pair_of(w, &i->arg[k]);
        put_uniform_pair(w, &i->arg[0], sum);
        return;
    }
    for (uint32_t k = n + 1; k < i->n; k++) sum += k < n + 4 ? term(w, &i->arg[k]) : upred(w, &i->arg[k]);
    put_uniform(w, &i->arg[0], (uint32_t)sum);
    for (uint32_t k = 0; k < n; k++) put_upred(w, &i->arg[1 + k], sum >> 32 > k);
}
void sass_uimad(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const uint32_t n = carries_of(i), a = value_of(w, &i->arg[n + 1]), b = value_of(w, &i->arg[n + 2]);
    const sass_operand *c = &i->arg[n + 3];
    const uint64_t wide = sass_has(i, SASS_M_U32) ? (uint64_t)a * b : (uint64_t)((int64_t)(int32_t)a * (int32_t)b);
    (void)mask;
    if (sass_has(i, SASS_M_WIDE)) {
        const uint64_t add = pair_of(w, c);
        put_uniform_pair(w, &i->arg[0], wide + add);
        if (n) put_upred(w, &i->arg[1], wide + add < add);
    } else if (sass_has(i, SASS_M_HI)) put_uniform(w, &i->arg[0], (uint32_t)((wide + pair_of(w, c)) >> 32));
    else put_uniform(w, &i->arg[0], a * b + value_of(w, c) + (i->n > n + 4u ? upred(w, &i->arg[n + 4]) : 0));
}
void sass_ulea(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const uint32_t n = carries_of(i);
    const sass_operand *a = &i->arg[n + 1], *b = a + 1, *after = b + 1;
    const uint32_t v = value_of(w, a);
    uint64_t high = 0, sum;
    (void)mask;
    if (sass_has(i, SASS_M_HI) && !sass_has(i, SASS_M_SX32)) high = value_of(w, after++);
    const uint32_t shift = after->value & 31u;
    if (!sass_has(i, SASS_M_HI)) sum = v << shift;
    else if (sass_has(i, SASS_M_SX32)) sum = (uint32_t)((uint64_t)(int64_t)(int32_t)v << shift >> 32);
    else sum = (uint32_t)((high << 32 | v) << shift >> 32);
    sum += term(w, b);
    if (after + 1 < i->arg + i->n) sum += upred(w, after + 1);
    put_uniform(w, &i->arg[0], (uint32_t)sum);
    for (uint32_t k = 0; k < n; k++) put_upred(w, &i->arg[1 + k], sum >> 32 > k);
}
void sass_ushf(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const uint32_t a = value_of(w, &i->arg[1]), s = value_of(w, &i->arg[2]), c = value_of(w, &i->arg[3]);
    const bool is64 = sass_has(i, SASS_M_U64) || sass_has(i, SASS_M_S64),
               is_signed = sass_has(i, SASS_M_S32) || sass_has(i, SASS_M_S64);
    const uint32_t most = is64 ? 63 : 32, by = sass_has(i, SASS_M_W) ? s & (is64 ? 63u : 31u) : s < most ? s : most;
    const uint64_t both = (uint64_t)c << 32 | a;
    uint64_t v;
    (void)mask;
    if (sass_has(i, SASS_M_L)) v = sass_has(i, SASS_M_HI) ? both << by >> 32 : (uint64_t)a << by;
    else if (!sass_has(i, SASS_M_HI)) v = is_signed ? (uint64_t)((int64_t)both >> by) : both >> by;
    else v = is_signed ? (uint64_t)((int64_t)(int32_t)c >> by) : (uint64_t)c >> by;
    put_uniform(w, &i->arg[0], (uint32_t)v);
}
void sass_ulop3(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const uint32_t first = i->arg[0].kind == SASS_UPRED;
    const sass_operand *o = &i->arg[first];
    const uint32_t a = value_of(w, o + 1), b = value_of(w, o + 2), c = value_of(w, o + 3), lut = o[4].value;
    uint32_t v = 0;
    (void)mask;
    for (uint32_t k = 0; k < 8; k++)
        if (lut >> k & 1) v |= (k & 4 ? a : ~a) & (k & 2 ? b : ~b) & (k & 1 ? c : ~c);
    if (first) put_upred(w, &i->arg[0], v != 0 || (i->n > first + 5 && upred(w, &o[5])));
    put_uniform(w, o, v);
}
void sass_uisetp(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const bool pairs = sass_has(i, SASS_M_S64) || sass_has(i, SASS_M_U64),
               is_signed = !sass_has(i, SASS_M_U32) && !sass_has(i, SASS_M_U64);
    const uint64_t flip = !is_signed ? 0 : pairs ? 1ull << 63 : 1ull << 31;
    const uint64_t a = (pairs ? pair_of(w, &i->arg[2]) : value_of(w, &i->arg[2])) ^ flip,
                   b = (pairs ? pair_of(w, &i->arg[3]) : value_of(w, &i->arg[3])) ^ flip;
    const uint32_t less = a < b ? SASS_ALL : 0, equal = a == b ? SASS_ALL : 0,
                   with = upred(w, &i->arg[4]) ? SASS_ALL : 0;
    uint32_t value = sass_compared(i, less, equal, 0);
    (void)mask;
    if (sass_has(i, SASS_M_EX)) {
        const uint32_t lower = upred(w, &i->arg[5]) ? SASS_ALL : 0;
        const bool up = sass_has(i, SASS_M_GT) || sass_has(i, SASS_M_GE);
        value = sass_has(i, SASS_M_EQ)   ? equal & lower
                : sass_has(i, SASS_M_NE) ? ~equal | lower
                                         : (up ? ~(less | equal) : less) | (equal & lower);
    }
    put_upred(w, &i->arg[0], sass_joined(i, value, with) & 1);
    put_upred(w, &i->arg[1], sass_joined(i, ~value, with) & 1);
}
void sass_usel(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const sass_operand *o = &i->arg[upred(w, &i->arg[3]) ? 1 : 2];
    (void)mask;
    if (sass_has(i, SASS_M_64)) put_uniform_pair(w, &i->arg[0], pair_of(w, o));
    else put_uniform(w, &i->arg[0], value_of(w, o));
}
void sass_uplop3(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const uint32_t index = 4u * upred(w, &i->arg[2]) + 2u * upred(w, &i->arg[3]) + upred(w, &i->arg[4]);
    (void)mask;
    put_upred(w, &i->arg[0], i->arg[5].value >> index & 1);
    put_upred(w, &i->arg[1], i->arg[6].value >> index & 1);
}
void sass_uprmt(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const uint32_t s = value_of(w, &i->arg[2]);
    const uint64_t both = (uint64_t)value_of(w, &i->arg[3]) << 32 | value_of(w, &i->arg[1]);
    uint32_t out = 0;
    (void)mask;
    for (uint32_t k = 0; k < 4; k++) {
        const uint32_t by = s >> 4 * k, byte = (uint32_t)(both >> 8 * (by & 7u)) & 0xffu;
        out |= (by & 8u ? (byte & 0x80u ? 0xffu : 0) : byte) << 8 * k;
    }
    put_uniform(w, &i->arg[0], out);
}
/* What lanes have an instruction for: all of them compute it into a register that comes back as it was. */
static void by_lanes(sass_warp *w, const sass_ins *i, sass_handler *run)
{
    enum { OWN = 0 };
    uint32_t kept[32];
    sass_ins lanes = *i;
    memcpy(kept, w->r[OWN], sizeof kept);
    lanes.arg[0] = (sass_operand){.kind = SASS_REG, .reg = OWN};
    run(w, &lanes, SASS_ALL);
    put_uniform(w, &i->arg[0], w->r[OWN][0]);
    memcpy(w->r[OWN], kept, sizeof kept);
}
void sass_uvimnmx(sass_warp *w, const sass_ins *i, uint32_t mask) { (void)mask, by_lanes(w, i, sass_imnmx); }
void sass_ui2f(sass_warp *w, const sass_ins *i, uint32_t mask) { (void)mask, by_lanes(w, i, sass_i2f); }
void sass_uf2i(sass_warp *w, const sass_ins *i, uint32_t mask) { (void)mask, by_lanes(w, i, sass_f2i); }
void sass_ufadd(sass_warp *w, const sass_ins *i, uint32_t mask) { (void)mask, by_lanes(w, i, sass_fadd); }
void sass_ufsetp(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const uint32_t kept[2] = {w->p[0], w->p[1]};
    sass_ins lanes = *i;
    (void)mask;
    lanes.arg[0] = (sass_operand){.kind = SASS_PRED, .reg = 0},
    lanes.arg[1] = (sass_operand){.kind = SASS_PRED, .reg = 1};
    sass_fsetp(w, &lanes, SASS_ALL);
    const bool p = w->p[0] & 1, q = w->p[1] & 1;
    w->p[0] = kept[0], w->p[1] = kept[1];
    put_upred(w, &i->arg[0], p), put_upred(w, &i->arg[1], q);
}
void sass_up2ur(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const uint32_t picks = i->arg[3].value & 0x7fu;
    (void)mask;
    put_uniform(w, &i->arg[0], (value_of(w, &i->arg[2]) & ~picks) | (w->up & picks));
}
void sass_nop(sass_warp *w, const sass_ins *i, uint32_t mask) { (void)w, (void)i, (void)mask; }
