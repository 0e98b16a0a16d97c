/* sass_integer.c - integers, bits and predicates of lanes. Formulas stand in sass_opcodes.h. */
#include "sass_values.h"

/* -------------------------------------------------------------------------------------------------------- addition --- */
/* x, -x as ~x + 1 with its carry, ~x */
static void add_term(sass_warp *w, const sass_operand *o, uint64_t sum[32])
{
    uint32_t room[32];
    const uint32_t *v = sass_plain(w, o, 0, room);
    if (o->neg) SASS_LANES(l) sum[l] += (uint64_t)~v[l] + 1;
    else if (o->inv) SASS_LANES(l) sum[l] += (uint32_t)~v[l];
    else SASS_LANES(l) sum[l] += v[l];
}
static void add_pred(const sass_warp *w, const sass_operand *o, uint64_t sum[32])
{
    const uint32_t p = sass_pred(w, o);
    SASS_LANES(l) sum[l] += p >> l & 1;
}
/* The low words go to the register, what exceeds them to up to two predicates: at least 1, at least 2. */
static void put_sum(sass_warp *w, uint32_t reg, const sass_operand *carries, uint32_t n_carries, const uint64_t sum[32],
                    uint32_t mask)
{
    uint32_t low[32], one[32];
    SASS_LANES(l) low[l] = (uint32_t)sum[l];
    sass_put(w, reg, low, mask);
    for (uint32_t k = 0; k < n_carries; k++) {
        SASS_LANES(l) one[l] = sum[l] >> 32 > k;
        sass_put_pred(w, &carries[k], sass_pack(one), mask);
    }
}
/* Predicates that follow the destination. */
static uint32_t carries_of(const sass_ins *i)
{
    uint32_t n = 0;
    while (n + 1 < i->n && i->arg[n + 1].kind == SASS_PRED) n++;
    return n;
}
void sass_iadd3(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const uint32_t n = carries_of(i);
    uint64_t sum[32] = {0};
    for (uint32_t k = n + 1; k < i->n; k++)
        if (k < n + 4) add_term(w, &i->arg[k], sum);
        else add_pred(w, &i->arg[k], sum); /* .X */
    put_sum(w, i->arg[0].reg, &i->arg[1], n, sum, mask);
}
void sass_iadd64(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    uint64_t a[32], b[32];
    if (!sass_has(i, SASS_M_64)) {
        sass_fault(w, "IADD of pairs alone is interpreted");
        return;
    }
    sass_int64(w, &i->arg[1], a), sass_int64(w, &i->arg[2], b);
    SASS_LANES(l) a[l] += b[l];
    sass_put_pair(w, i->arg[0].reg, a, mask);
}
void sass_viadd(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    uint32_t ra[32], rb[32], out[32];
    const uint32_t *a = sass_int(w, &i->arg[1], ra), *b = sass_int(w, &i->arg[2], rb);
    SASS_LANES(l) out[l] = a[l] + b[l];
    sass_put(w, i->arg[0].reg, out, mask);
}
void sass_lea(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const uint32_t n = carries_of(i);
    const sass_operand *a = &i->arg[n + 1], *b = a + 1, *after = b + 1;
    uint32_t room[32], high_room[32];
    uint64_t sum[32];
    const uint32_t *v = sass_int(w, a, room), *high = NULL;
    if (sass_has(i, SASS_M_HI) && !sass_has(i, SASS_M_SX32)) high = sass_int(w, after++, high_room);
    const uint32_t shift = after->value & 31u;
    if (!sass_has(i, SASS_M_HI)) SASS_LANES(l) sum[l] = v[l] << shift;
    else if (high) SASS_LANES(l) sum[l] = (uint32_t)(((uint64_t)high[l] << 32 | v[l]) << shift >> 32);
    else SASS_LANES(l) sum[l] = (uint32_t)((uint64_t)((int64_t)(int32_t)v[l]) << shift >> 32);
    add_term(w, b, sum);
    if (after + 1 < i->arg + i->n) add_pred(w, after + 1, sum); /* .X */
    put_sum(w, i->arg[0].reg, &i->arg[1], n, sum, mask);
}
void sass_imad(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const uint32_t n = carries_of(i);
    uint32_t ra[32], rb[32], rc[32], out[32], one[32];
    const uint32_t *a = sass_int(w, &i->arg[n + 1], ra), *b = sass_int(w, &i->arg[n + 2], rb);
    const sass_operand *c = &i->arg[n + 3];
    if (sass_has(i, SASS_M_WIDE) || sass_has(i, SASS_M_HI)) {
        uint64_t wide[32], add[32];
        if (sass_has(i, SASS_M_U32)) SASS_LANES(l) wide[l] = (uint64_t)a[l] * b[l];
        else SASS_LANES(l) wide[l] = (uint64_t)((int64_t)(int32_t)a[l] * (int32_t)b[l]);
        sass_pair(w, c, add);
        if (c->neg) SASS_LANES(l) add[l] = 0 - add[l];
        if (c->inv) SASS_LANES(l) add[l] = ~add[l];
        if (i->n > n + 4u) {
            const uint32_t p = sass_pred(w, &i->arg[n + 4]);
            SASS_LANES(l) add[l] += p >> l & 1;
        }
        SASS_LANES(l) wide[l] += add[l];
        if (n) {
            SASS_LANES(l) one[l] = wide[l] < add[l];
            sass_put_pred(w, &i->arg[1], sass_pack(one), mask);
        }
        if (sass_has(i, SASS_M_WIDE)) sass_put_pair(w, i->arg[0].reg, wide, mask);
        else {
            SASS_LANES(l) out[l] = (uint32_t)(wide[l] >> 32);
            sass_put(w, i->arg[0].reg, out, mask);
        }
        return;
    }
    const uint32_t *add = sass_int(w, c, rc);
    if (sass_has(i, SASS_M_X)) {
        const uint32_t p = i->n > n + 4u ? sass_pred(w, &i->arg[n + 4]) : 0;
        SASS_LANES(l) out[l] = a[l] * b[l] + add[l] + (p >> l & 1);
    } else SASS_LANES(l) out[l] = a[l] * b[l] + add[l];
    sass_put(w, i->arg[0].reg, out, mask);
}
void sass_iabs(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    uint32_t room[32], out[32];
    const uint32_t *a = sass_int(w, &i->arg[1], room);
    SASS_LANES(l) out[l] = (int32_t)a[l] < 0 ? 0u - a[l] : a[l];
    sass_put(w, i->arg[0].reg, out, mask);
}

/* ------------------------------------------------------------------------------------------------------------ bits --- */
/* Truth table: bit 4a + 2b + c of it. */
static inline uint32_t lut_word(uint32_t lut, uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t out = 0;
    if (lut & 1) out |= ~a & ~b & ~c;
    if (lut & 2) out |= ~a & ~b & c;
    if (lut & 4) out |= ~a & b & ~c;
    if (lut & 8) out |= ~a & b & c;
    if (lut & 16) out |= a & ~b & ~c;
    if (lut & 32) out |= a & ~b & c;
    if (lut & 64) out |= a & b & ~c;
    if (lut & 128) out |= a & b & c;
    return out;
}
void sass_lop3(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const uint32_t first = i->arg[0].kind == SASS_PRED;
    uint32_t ra[32], rb[32], rc[32], out[32], one[32];
    const sass_operand *o = &i->arg[first];
    const uint32_t *a = sass_int(w, o + 1, ra), *b = sass_int(w, o + 2, rb), *c = sass_int(w, o + 3, rc),
                   lut = o[4].value;
    switch (lut) {
    case 0xc0: SASS_LANES(l) out[l] = a[l] & b[l]; break;
    case 0xfc: SASS_LANES(l) out[l] = a[l] | b[l]; break;
    case 0x3c: SASS_LANES(l) out[l] = a[l] ^ b[l]; break;
    case 0xea: SASS_LANES(l) out[l] = (a[l] & b[l]) | c[l]; break;
    case 0xf8: SASS_LANES(l) out[l] = a[l] | (b[l] & c[l]); break;
    default: SASS_LANES(l) out[l] = lut_word(lut, a[l], b[l], c[l]);
    }
    if (first) {
        SASS_LANES(l) one[l] = out[l] != 0;
        uint32_t p = sass_pack(one);
        if (i->n > first + 5) {
            const uint32_t with = sass_pred(w, &o[5]);
            p = sass_has(i, SASS_M_PAND) ? p & with : p | with;
        }
        sass_put_pred(w, &i->arg[0], p, mask);
    }
    sass_put(w, o->reg, out, mask);
}
void sass_plop3(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const uint32_t a = sass_pred(w, &i->arg[2]), b = sass_pred(w, &i->arg[3]), c = sass_pred(w, &i->arg[4]);
    sass_put_pred(w, &i->arg[0], lut_word(i->arg[5].value, a, b, c), mask);
    sass_put_pred(w, &i->arg[1], lut_word(i->arg[6].value, a, b, c), mask);
}
void sass_shf(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const bool left = sass_has(i, SASS_M_L), high = sass_has(i, SASS_M_HI),
               is_signed = sass_has(i, SASS_M_S32) || sass_has(i, SASS_M_S64);
    const bool is64 = sass_has(i, SASS_M_U64) || sass_has(i, SASS_M_S64), wraps = sass_has(i, SASS_M_W);
    uint32_t ra[32], rs[32], rc[32], out[32];
    const uint32_t *a = sass_int(w, &i->arg[1], ra), *s = sass_int(w, &i->arg[2], rs), *c = sass_int(w, &i->arg[3], rc);
    const uint32_t most = is64 ? 63 : 32;
    SASS_LANES(l)
    {
        const uint32_t by = wraps ? s[l] & (is64 ? 63u : 31u) : s[l] < most ? s[l] : most;
        const uint64_t both = (uint64_t)c[l] << 32 | a[l];
        if (left) out[l] = high ? (uint32_t)(both << by >> 32) : (uint32_t)((uint64_t)a[l] << by);
        else if (!high) out[l] = is_signed ? (uint32_t)((int64_t)both >> by) : (uint32_t)(both >> by);
        else if (is_signed) out[l] = (uint32_t)((int64_t)(int32_t)c[l] >> by);
        else out[l] = (uint32_t)((uint64_t)c[l] >> by);
    }
    sass_put(w, i->arg[0].reg, out, mask);
}
void sass_prmt(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    uint32_t ra[32], rs[32], rc[32], out[32];
    const uint32_t *a = sass_int(w, &i->arg[1], ra), *s = sass_int(w, &i->arg[2], rs), *c = sass_int(w, &i->arg[3], rc);
    SASS_LANES(l) out[l] = 0;
    for (uint32_t k = 0; k < 32; k += 8)
        for (int l = 0; l < 32; l++) {
            const uint32_t by = s[l] >> (k / 2);
            uint32_t byte = (uint32_t)(((uint64_t)c[l] << 32 | a[l]) >> (8 * (by & 7))) & 0xff;
            if (by & 8) byte = byte & 0x80 ? 0xff : 0;
            out[l] |= byte << k;
        }
    sass_put(w, i->arg[0].reg, out, mask);
}
void sass_popc(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    uint32_t room[32], out[32];
    const uint32_t *a = sass_int(w, &i->arg[1], room);
    SASS_LANES(l) out[l] = (uint32_t)__builtin_popcount(a[l]);
    sass_put(w, i->arg[0].reg, out, mask);
}
/* The highest bit that differs from the sign; .SH: how far left of it there are others. */
void sass_flo(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    uint32_t room[32], out[32];
    const uint32_t *a = sass_int(w, &i->arg[1], room);
    SASS_LANES(l)
    {
        const uint32_t v = !sass_has(i, SASS_M_U32) && (int32_t)a[l] < 0 ? ~a[l] : a[l],
                       first = v ? (uint32_t)__builtin_clz(v) : 0;
        out[l] = !v ? SASS_ALL : sass_has(i, SASS_M_SH) ? first : 31 - first;
    }
    sass_put(w, i->arg[0].reg, out, mask);
}
void sass_brev(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    uint32_t room[32], out[32];
    const uint32_t *a = sass_int(w, &i->arg[1], room);
    SASS_LANES(l)
    {
        out[l] = 0;
        for (uint32_t k = 0; k < 32; k++) out[l] |= (a[l] >> k & 1) << (31 - k);
    }
    sass_put(w, i->arg[0].reg, out, mask);
}
void sass_sgxt(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    uint32_t ra[32], rb[32], out[32];
    const uint32_t *a = sass_int(w, &i->arg[1], ra), *b = sass_int(w, &i->arg[2], rb);
    SASS_LANES(l)
    {
        const uint32_t n = sass_has(i, SASS_M_W) ? b[l] & 31u : b[l];
        if (n >= 32) out[l] = a[l];
        else if (!n) out[l] = 0;
        else if (sass_has(i, SASS_M_U32)) out[l] = a[l] & ((1u << n) - 1);
        else out[l] = (uint32_t)((int32_t)(a[l] << (32 - n)) >> (32 - n));
    }
    sass_put(w, i->arg[0].reg, out, mask);
}
void sass_bmsk(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    uint32_t ra[32], rb[32], out[32];
    const uint32_t *a = sass_int(w, &i->arg[1], ra), *b = sass_int(w, &i->arg[2], rb);
    SASS_LANES(l)
    {
        const uint32_t from = sass_has(i, SASS_M_W) ? a[l] & 31u : a[l], n = sass_has(i, SASS_M_W) ? b[l] & 31u : b[l];
        const uint64_t bits = n >= 32 ? 0xffffffffull : (1ull << n) - 1;
        out[l] = from >= 32 ? 0 : (uint32_t)(bits << from);
    }
    sass_put(w, i->arg[0].reg, out, mask);
}
/* Sums of products of bytes. */
void sass_idp(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    uint32_t ra[32], rb[32], rc[32], out[32];
    const uint32_t *a = sass_int(w, &i->arg[1], ra), *b = sass_int(w, &i->arg[2], rb), *c = sass_int(w, &i->arg[3], rc);
    const bool a_unsigned = sass_has(i, SASS_M_U8), b_unsigned = a_unsigned && !sass_has(i, SASS_M_S8);
    SASS_LANES(l)
    {
        out[l] = c[l];
        for (uint32_t k = 0; k < 32; k += 8) {
            const uint32_t x = a[l] >> k & 0xff, y = b[l] >> k & 0xff;
            out[l] += (uint32_t)((a_unsigned ? (int32_t)x : (int8_t)x) * (b_unsigned ? (int32_t)y : (int8_t)y));
        }
    }
    sass_put(w, i->arg[0].reg, out, mask);
}

/* ------------------------------------------------------------------------------------------------ choice, comparison --- */
void sass_mov(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    uint32_t room[32];
    if (sass_has(i, SASS_M_64)) {
        uint64_t wide[32];
        sass_int64(w, &i->arg[1], wide);
        sass_put_pair(w, i->arg[0].reg, wide, mask);
        return;
    }
    sass_put(w, i->arg[0].reg, sass_int(w, &i->arg[1], room), mask);
}
void sass_sel(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    uint32_t ra[32], rb[32], out[32];
    const uint32_t p = sass_pred(w, &i->arg[3]);
    if (sass_has(i, SASS_M_64)) {
        uint64_t x[32], y[32];
        sass_int64(w, &i->arg[1], x), sass_int64(w, &i->arg[2], y);
        SASS_LANES(l) x[l] = p >> l & 1 ? x[l] : y[l];
        sass_put_pair(w, i->arg[0].reg, x, mask);
        return;
    }
    const uint32_t *a = sass_int(w, &i->arg[1], ra), *b = sass_int(w, &i->arg[2], rb);
    SASS_LANES(l) out[l] = p >> l & 1 ? a[l] : b[l];
    sass_put(w, i->arg[0].reg, out, mask);
}
static uint32_t chosen(uint32_t a, uint32_t b, uint32_t flip, uint32_t least)
{
    return ((a ^ flip) < (b ^ flip)) == least ? a : b;
}
void sass_viaddmnmx(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const uint32_t flip = sass_has(i, SASS_M_U32) ? 0 : 0x80000000u, p = sass_pred(w, &i->arg[4]);
    uint32_t ra[32], rb[32], rc[32], out[32];
    const uint32_t *a = sass_int(w, &i->arg[1], ra), *b = sass_int(w, &i->arg[2], rb), *c = sass_int(w, &i->arg[3], rc);
    SASS_LANES(l) out[l] = chosen(a[l] + b[l], c[l], flip, p >> l & 1);
    sass_put(w, i->arg[0].reg, out, mask);
}
void sass_imnmx(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const uint32_t flip = sass_has(i, SASS_M_U32) ? 0 : 0x80000000u; /* signed order is that of the flipped words */
    uint32_t ra[32], rb[32], out[32];
    const uint32_t *a = sass_int(w, &i->arg[1], ra), *b = sass_int(w, &i->arg[2], rb), p = sass_pred(w, &i->arg[3]);
    SASS_LANES(l) out[l] = chosen(a[l], b[l], flip, p >> l & 1);
    sass_put(w, i->arg[0].reg, out, mask);
}
uint32_t sass_compared(const sass_ins *i, uint32_t less, uint32_t equal, uint32_t unordered)
{
    const uint32_t more = ~(less | equal | unordered);
    if (sass_has(i, SASS_M_LT)) return less;
    if (sass_has(i, SASS_M_LE)) return less | equal;
    if (sass_has(i, SASS_M_EQ)) return equal;
    if (sass_has(i, SASS_M_NE)) return less | more;
    if (sass_has(i, SASS_M_GE)) return more | equal;
    if (sass_has(i, SASS_M_GT)) return more;
    if (sass_has(i, SASS_M_LTU)) return less | unordered;
    if (sass_has(i, SASS_M_LEU)) return less | equal | unordered;
    if (sass_has(i, SASS_M_EQU)) return equal | unordered;
    if (sass_has(i, SASS_M_NEU)) return less | more | unordered;
    if (sass_has(i, SASS_M_GEU)) return more | equal | unordered;
    if (sass_has(i, SASS_M_GTU)) return more | unordered;
    if (sass_has(i, SASS_M_NUM)) return ~unordered;
    return unordered; /* NAN */
}
uint32_t sass_joined(const sass_ins *i, uint32_t value, uint32_t with)
{
    return sass_has(i, SASS_M_OR) ? value | with : sass_has(i, SASS_M_XOR) ? value ^ with : value & with;
}
void sass_isetp(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const uint32_t flip = sass_has(i, SASS_M_U32) ? 0 : 0x80000000u;
    uint32_t ra[32], rb[32], one[32];
    const uint32_t with = sass_pred(w, &i->arg[4]);
    uint32_t less, equal, value;
    if (sass_has(i, SASS_M_S64) || sass_has(i, SASS_M_U64)) {
        const uint64_t flip64 = sass_has(i, SASS_M_U64) ? 0 : 1ull << 63;
        uint64_t a[32], b[32];
        sass_int64(w, &i->arg[2], a), sass_int64(w, &i->arg[3], b);
        SASS_LANES(l) one[l] = (a[l] ^ flip64) < (b[l] ^ flip64);
        less = sass_pack(one);
        SASS_LANES(l) one[l] = a[l] == b[l];
    } else {
        const uint32_t *a = sass_int(w, &i->arg[2], ra), *b = sass_int(w, &i->arg[3], rb);
        SASS_LANES(l) one[l] = (a[l] ^ flip) < (b[l] ^ flip);
        less = sass_pack(one);
        SASS_LANES(l) one[l] = a[l] == b[l];
    }
    equal = sass_pack(one);
    if (sass_has(i, SASS_M_EX)) { /* these are the upper words; the last operand says how the lower ones compared */
        const uint32_t lower = sass_pred(w, &i->arg[5]), more = ~(less | equal);
        const bool up = sass_has(i, SASS_M_GT) || sass_has(i, SASS_M_GE);
        value = sass_has(i, SASS_M_EQ)   ? equal & lower
                : sass_has(i, SASS_M_NE) ? ~equal | lower
                                         : (up ? more : less) | (equal & lower);
    } else value = sass_compared(i, less, equal, 0);
    sass_put_pred(w, &i->arg[0], sass_joined(i, value, with), mask);
    sass_put_pred(w, &i->arg[1], sass_joined(i, ~value, with), mask);
}
/* Predicates as bits of a register, and back. */
void sass_p2r(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const uint32_t at = i->arg[0].select ? 8u * (i->arg[0].select - 1u) : 0, picks = i->arg[3].value;
    uint32_t room[32], out[32];
    const uint32_t *b = sass_int(w, &i->arg[2], room);
    SASS_LANES(l)
    {
        uint32_t bits = 0;
        for (uint32_t k = 0; k < 7; k++) bits |= (w->p[k] >> l & 1) << k;
        out[l] = (b[l] & ~(picks << at)) | (bits & picks) << at;
    }
    sass_put(w, i->arg[0].reg, out, mask);
}
void sass_r2p(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const uint32_t at = i->arg[1].select ? 8u * (i->arg[1].select - 1u) : 0;
    uint32_t room[32], one[32];
    const uint32_t *a = sass_plain(w, &i->arg[1], 0, room);
    for (uint16_t k = 0; k < 7; k++)
        if (i->arg[2].value >> k & 1) {
            SASS_LANES(l) one[l] = a[l] >> (at + k) & 1;
            sass_put_pred(w, &(sass_operand){.reg = k}, sass_pack(one), mask);
        }
}
