/* sass_values.h - what operands are worth in the lanes of a warp, and how results come back. Included by the files of handlers. */
#ifndef KVRT_SASS_VALUES_H
#define KVRT_SASS_VALUES_H
#include "sass_machine.h"
#include "sass_table.h"

#include <math.h>
#include <string.h>

#define SASS_LANES(l) for (int l = 0; l < 32; l++)

static inline float sass_f32(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
static inline uint32_t sass_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}
static inline double sass_f64(uint64_t bits)
{
    double d;
    memcpy(&d, &bits, 8);
    return d;
}
static inline uint64_t sass_bits64(double d)
{
    uint64_t u;
    memcpy(&u, &d, 8);
    return u;
}

/* The k-th register of a vector that begins at `reg`. */
static inline uint32_t sass_row(uint32_t reg, uint32_t k) { return reg == SASS_RZ ? SASS_RZ : (reg + k) & 255u; }

/* A word of a constant bank; a fault where the bank ends before. */
uint32_t sass_constant(sass_warp *w, uint32_t bank, uint32_t offset);

/* The same word for all lanes: immediate, constant, uniform register. `k`: 1 is the upper word of a pair. */
static inline uint32_t sass_uniform(sass_warp *w, const sass_operand *o, uint32_t k)
{
    switch (o->kind) {
    case SASS_IMM: return k ? o->high : o->value;
    case SASS_UREG: return w->u[o->reg == SASS_URZ ? SASS_URZ : (o->reg + k) & 63u];
    case SASS_CONST: return sass_constant(w, o->bank, o->value + (o->ureg == SASS_URZ ? 0 : w->u[o->ureg]) + 4 * k);
    default: return w->r[sass_row(o->reg, k)][0];
    }
}
/* 32 words without the operand's signs; `room` is used where they are not a row of registers. */
static inline const uint32_t *sass_plain(sass_warp *w, const sass_operand *o, uint32_t k, uint32_t room[32])
{
    if (o->kind == SASS_REG) return w->r[sass_row(o->reg, k)];
    const uint32_t value = sass_uniform(w, o, k);
    SASS_LANES(l) room[l] = value;
    return room;
}
/* With the signs of an integer. */
static inline const uint32_t *sass_int(sass_warp *w, const sass_operand *o, uint32_t room[32])
{
    const uint32_t *v = sass_plain(w, o, 0, room);
    if (!(o->neg | o->inv | o->abs)) return v;
    if (o->abs) SASS_LANES(l) room[l] = (int32_t)v[l] < 0 ? 0u - v[l] : v[l];
    else SASS_LANES(l) room[l] = v[l];
    if (o->neg) SASS_LANES(l) room[l] = 0u - room[l];
    if (o->inv) SASS_LANES(l) room[l] = ~room[l];
    return room;
}
/* With the signs of an f32. */
static inline const uint32_t *sass_float(sass_warp *w, const sass_operand *o, uint32_t room[32])
{
    const uint32_t *v = sass_plain(w, o, 0, room), keep = o->abs ? 0x7fffffffu : SASS_ALL,
                   turn = o->neg ? 0x80000000u : 0;
    if (!(o->neg | o->abs) || o->kind == SASS_IMM) return v;
    SASS_LANES(l) room[l] = (v[l] & keep) ^ turn;
    return room;
}
/* 64 bits of a lane, without signs. Of an f64 immediate that is printed with a point the word is the upper half. */
static inline void sass_pair(sass_warp *w, const sass_operand *o, uint64_t out[32])
{
    uint32_t low[32], high[32];
    const uint32_t *a = sass_plain(w, o, 0, low), *b = sass_plain(w, o, 1, high);
    SASS_LANES(l) out[l] = (uint64_t)b[l] << 32 | a[l];
}
/* With the sign of an integer. */
static inline void sass_int64(sass_warp *w, const sass_operand *o, uint64_t out[32])
{
    sass_pair(w, o, out);
    if (o->neg) SASS_LANES(l) out[l] = 0 - out[l];
    if (o->inv) SASS_LANES(l) out[l] = ~out[l];
}
/* A bit per lane. */
static inline uint32_t sass_pred(const sass_warp *w, const sass_operand *o)
{
    const uint32_t v = o->kind == SASS_UPRED ? (w->up >> o->reg & 1 ? SASS_ALL : 0) : w->p[o->reg];
    return o->inv ? ~v : v;
}

static inline void sass_put(sass_warp *w, uint32_t reg, const uint32_t value[32], uint32_t mask)
{
    if (reg == SASS_RZ) return;
    uint32_t *row = w->r[reg];
    if (mask == SASS_ALL) memcpy(row, value, sizeof w->r[0]);
    else SASS_LANES(l) row[l] = mask >> l & 1 ? value[l] : row[l];
}
static inline void sass_put_pair(sass_warp *w, uint32_t reg, const uint64_t value[32], uint32_t mask)
{
    uint32_t low[32], high[32];
    SASS_LANES(l) low[l] = (uint32_t)value[l], high[l] = (uint32_t)(value[l] >> 32);
    sass_put(w, reg, low, mask);
    if (reg != SASS_RZ) sass_put(w, sass_row(reg, 1), high, mask);
}
static inline void sass_put_pred(sass_warp *w, const sass_operand *o, uint32_t value, uint32_t mask)
{
    if (o->reg != SASS_PT) w->p[o->reg] = (w->p[o->reg] & ~mask) | (value & mask);
}
/* 0 or 1 per lane, as bits. */
static inline uint32_t sass_pack(const uint32_t one[32])
{
    uint32_t bits = 0;
    SASS_LANES(l) bits |= one[l] << l;
    return bits;
}

#endif
