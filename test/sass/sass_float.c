/* sass_float.c - f32 and f64 of lanes, conversions, the special functions. Formulas stand in sass_opcodes.h.
 * The sums and products are IEEE's, with the rounding that the instruction names; .FTZ flushes subnormal operands and results to zero. */
#include "sass_values.h"

#include <float.h>

static inline float flushed(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x; }
static void flush_row(float v[32]) { SASS_LANES(l) v[l] = flushed(v[l]); }

static void floats_of(sass_warp *w, const sass_operand *o, bool flush, float out[32])
{
    uint32_t room[32];
    memcpy(out, sass_float(w, o, room), sizeof room);
    if (flush) flush_row(out);
}
static void put_floats(sass_warp *w, const sass_ins *i, float v[32], uint32_t mask)
{
    uint32_t out[32];
    if (sass_has(i, SASS_M_SAT)) SASS_LANES(l) v[l] = v[l] > 0 ? v[l] < 1 ? v[l] : 1 : 0; /* NaN becomes 0 */
    if (sass_has(i, SASS_M_FTZ)) flush_row(v);
    SASS_LANES(l) out[l] = v[l] == v[l] ? sass_bits(v[l]) : 0x7fffffffu; /* the one NaN that cards make */
    sass_put(w, i->arg[0].reg, out, mask);
}

/* ------------------------------------------------------------------------------------------------ sums and products --- */
/* x + e rounded to f32 toward +, - or 0; e is below half a unit of x in double. */
static float directed(const sass_ins *i, double x, double e)
{
    const bool up = sass_has(i, SASS_M_RP) || (sass_has(i, SASS_M_RZ) && x < 0),
               down = sass_has(i, SASS_M_RM) || (sass_has(i, SASS_M_RZ) && x > 0);
    float f = (float)x;
    if (!isfinite(x)) return f;
    if (isinf(f)) return (x > 0 ? up : down) ? f : copysignf(FLT_MAX, f);
    const double rest = (x - (double)f) + e; /* the exact value is beyond f by this */
    if (rest > 0 && up) return nextafterf(f, INFINITY);
    return rest < 0 && down ? nextafterf(f, -INFINITY) : f;
}
static bool rounds_to_nearest(const sass_ins *i)
{
    return !sass_has(i, SASS_M_RP) && !sass_has(i, SASS_M_RM) && !sass_has(i, SASS_M_RZ);
}
static float directed_fma(const sass_ins *i, float a, float b, float c)
{
    const double p = (double)a * b, s = p + c, t = s - p; /* the product is exact; what the sum loses is e */
    return directed(i, s, (p - (s - t)) + (c - t));
}
void sass_fadd(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const bool flush = sass_has(i, SASS_M_FTZ);
    float a[32], b[32];
    floats_of(w, &i->arg[1], flush, a), floats_of(w, &i->arg[2], flush, b);
    if (rounds_to_nearest(i)) SASS_LANES(l) a[l] += b[l];
    else SASS_LANES(l) a[l] = directed_fma(i, a[l], 1, b[l]);
    put_floats(w, i, a, mask);
}
void sass_fmul(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const bool flush = sass_has(i, SASS_M_FTZ);
    float a[32], b[32];
    floats_of(w, &i->arg[1], flush, a), floats_of(w, &i->arg[2], flush, b);
    if (rounds_to_nearest(i)) SASS_LANES(l) a[l] *= b[l];
    else SASS_LANES(l) a[l] = directed(i, (double)a[l] * b[l], 0);
    put_floats(w, i, a, mask);
}
void sass_ffma(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const bool flush = sass_has(i, SASS_M_FTZ);
    float a[32], b[32], c[32];
    floats_of(w, &i->arg[1], flush, a), floats_of(w, &i->arg[2], flush, b), floats_of(w, &i->arg[3], flush, c);
    if (rounds_to_nearest(i)) SASS_LANES(l) a[l] = fmaf(a[l], b[l], c[l]);
    else SASS_LANES(l) a[l] = directed_fma(i, a[l], b[l], c[l]);
    put_floats(w, i, a, mask);
}
/* f64: an immediate is the upper word. */
static void doubles_of(sass_warp *w, const sass_operand *o, double out[32])
{
    uint64_t bits[32];
    sass_pair(w, o, bits);
    SASS_LANES(l)
    {
        out[l] = sass_f64(o->kind == SASS_IMM ? bits[l] << 32 : bits[l]);
        if (o->kind == SASS_IMM) continue;
        if (o->abs) out[l] = fabs(out[l]);
        if (o->neg) out[l] = -out[l];
    }
}
static void put_doubles(sass_warp *w, const sass_ins *i, const double v[32], uint32_t mask)
{
    uint64_t bits[32];
    SASS_LANES(l) bits[l] = sass_bits64(v[l]);
    sass_put_pair(w, i->arg[0].reg, bits, mask);
}
/* x, the exact value being x + e. */
static double directed_double(const sass_ins *i, double x, double e)
{
    const bool zero = sass_has(i, SASS_M_RZ);
    if (!isfinite(x)) return x;
    if (e > 0 && (sass_has(i, SASS_M_RP) || (zero && x < 0))) return nextafter(x, INFINITY);
    return e < 0 && (sass_has(i, SASS_M_RM) || (zero && x > 0)) ? nextafter(x, -INFINITY) : x;
}
void sass_dadd(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    double a[32], b[32];
    doubles_of(w, &i->arg[1], a), doubles_of(w, &i->arg[2], b);
    SASS_LANES(l)
    {
        const double sum = a[l] + b[l], t = sum - a[l];
        a[l] = directed_double(i, sum, (a[l] - (sum - t)) + (b[l] - t));
    }
    put_doubles(w, i, a, mask);
}
void sass_dmul(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    double a[32], b[32];
    doubles_of(w, &i->arg[1], a), doubles_of(w, &i->arg[2], b);
    SASS_LANES(l) a[l] = directed_double(i, a[l] * b[l], fma(a[l], b[l], -(a[l] * b[l])));
    put_doubles(w, i, a, mask);
}
void sass_dfma(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    double a[32], b[32], c[32];
    doubles_of(w, &i->arg[1], a), doubles_of(w, &i->arg[2], b), doubles_of(w, &i->arg[3], c);
    SASS_LANES(l) a[l] = fma(a[l], b[l], c[l]);
    put_doubles(w, i, a, mask);
}

/* ----------------------------------------------------------------------------------------------- choice, comparison --- */
void sass_fsel(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    uint32_t ra[32], rb[32], out[32];
    const uint32_t *a = sass_float(w, &i->arg[1], ra), *b = sass_float(w, &i->arg[2], rb), p = sass_pred(w, &i->arg[3]);
    SASS_LANES(l) out[l] = p >> l & 1 ? a[l] : b[l];
    if (sass_has(i, SASS_M_FTZ)) SASS_LANES(l) out[l] = sass_bits(flushed(sass_f32(out[l])));
    sass_put(w, i->arg[0].reg, out, mask);
}
/* -0 is below +0. */
static inline bool below(float a, float b) { return a < b || (a == b && signbit(a) && !signbit(b)); }
void sass_fmnmx(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const bool flush = sass_has(i, SASS_M_FTZ), nan = sass_has(i, SASS_M_NAN);
    const uint32_t p = sass_pred(w, &i->arg[3]);
    float a[32], b[32];
    floats_of(w, &i->arg[1], flush, a), floats_of(w, &i->arg[2], flush, b);
    SASS_LANES(l)
    {
        const bool either = isunordered(a[l], b[l]);
        if (either) a[l] = nan ? NAN : a[l] == a[l] ? a[l] : b[l];
        else if (below(b[l], a[l]) == (p >> l & 1)) a[l] = b[l];
    }
    put_floats(w, i, a, mask);
}
static void set_compared(sass_warp *w, const sass_ins *i, const double a[32], const double b[32], uint32_t mask)
{
    uint32_t less[32], equal[32], unordered[32];
    SASS_LANES(l) less[l] = a[l] < b[l], equal[l] = a[l] == b[l], unordered[l] = a[l] != a[l] || b[l] != b[l];
    const uint32_t value = sass_compared(i, sass_pack(less), sass_pack(equal), sass_pack(unordered)),
                   with = sass_pred(w, &i->arg[4]);
    sass_put_pred(w, &i->arg[0], sass_joined(i, value, with), mask);
    sass_put_pred(w, &i->arg[1], sass_joined(i, ~value, with), mask);
}
void sass_fsetp(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    float a[32], b[32];
    double wide_a[32], wide_b[32];
    floats_of(w, &i->arg[2], sass_has(i, SASS_M_FTZ), a), floats_of(w, &i->arg[3], sass_has(i, SASS_M_FTZ), b);
    SASS_LANES(l) wide_a[l] = a[l], wide_b[l] = b[l];
    set_compared(w, i, wide_a, wide_b, mask);
}
void sass_dsetp(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    double a[32], b[32];
    doubles_of(w, &i->arg[2], a), doubles_of(w, &i->arg[3], b);
    set_compared(w, i, a, b, mask);
}
/* Whether a / b by a reciprocal and its correction may go wrong, so that the long way is taken, which is right for all. NVIDIA does not say where
 * the card draws the line; this one is drawn around everything that can overflow, vanish or lose bits on the short way,
 * zeros among them, which lose their sign there. */
void sass_fchk(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    float a[32], b[32];
    uint32_t one[32];
    floats_of(w, &i->arg[1], false, a), floats_of(w, &i->arg[2], false, b);
    SASS_LANES(l)
    {
        const int ea = (int)(sass_bits(a[l]) >> 23 & 255), eb = (int)(sass_bits(b[l]) >> 23 & 255);
        one[l] = ea == 255 || eb == 255 || eb < 2 || eb > 252 || ea < 26 || ea - eb > 125 || ea - eb < -124;
    }
    sass_put_pred(w, &i->arg[0], sass_pack(one), mask);
}

/* ------------------------------------------------------------------------------------------------ special functions --- */
/* What PTX allows the approximations is 2^-23 for rcp, 2^-22.9 for rsqrt, 2^-22 for ex2 and lg2 (PTX ISA, "Floating Point Instructions"): about one
 * unit of the last place. Seed 0 gives the nearest value; with other seeds results are one unit off, up or down by their bits, so that code
 * whose result
 * hangs on the last bit of an approximation shows. Subnormal operands and results are zeros: the compiler scales around it. */
static float nudged(float x, uint32_t seed)
{
    const uint32_t bits = sass_bits(x), mixed = (bits ^ seed * 0x9e3779b9u) * 0x85ebca6bu, draw = mixed >> 30;
    if (!seed || !isfinite(x) || x == 0 || (bits & 0x7fffffu) == 0 || !(draw & 1))
        return x; /* powers of two are exact */
    return sass_f32(draw & 2 ? bits + 1 : bits - 1);
}
void sass_mufu(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    float a[32];
    uint32_t out[32] = {0}, room[32];
    const bool wide = sass_has(i, SASS_M_RCP64H) || sass_has(i, SASS_M_RSQ64H);
    const uint32_t *words = sass_float(w, &i->arg[1], room);
    floats_of(w, &i->arg[1], true, a);
    if (wide) {
        SASS_LANES(l)
        {
            const double x = sass_f64((uint64_t)words[l] << 32);
            out[l] = (uint32_t)(sass_bits64(sass_has(i, SASS_M_RCP64H) ? 1 / x : 1 / sqrt(x)) >> 32);
        }
        sass_put(w, i->arg[0].reg, out, mask);
        return;
    }
    SASS_LANES(l)
    {
        const double x = a[l];
        double y;
        if (!(mask >> l & 1)) continue;
        if (sass_has(i, SASS_M_RCP)) y = 1 / x;
        else if (sass_has(i, SASS_M_RSQ)) y = 1 / sqrt(x);
        else if (sass_has(i, SASS_M_SQRT)) y = sqrt(x);
        else if (sass_has(i, SASS_M_EX2)) y = exp2(x);
        else if (sass_has(i, SASS_M_LG2)) y = log2(x);
        else if (sass_has(i, SASS_M_SIN))
            y = sin(x * 6.283185307179586); /* RRO is a product with 1 / (2 pi) since sm_70 */
        else if (sass_has(i, SASS_M_COS)) y = cos(x * 6.283185307179586);
        else y = tanh(x);
        const float f = nudged(flushed((float)y), w->block->seed);
        out[l] = f == f ? sass_bits(f) : 0x7fffffffu;
    }
    sass_put(w, i->arg[0].reg, out, mask);
}

/* ----------------------------------------------------------------------------------------------------- conversions --- */
static void wide_integers(sass_warp *w, const sass_ins *i, const sass_operand *o, int64_t out[32])
{
    uint32_t room[32];
    const uint32_t *v = sass_plain(w, o, 0, room);
    const bool is16 = sass_has(i, SASS_M_U16) || sass_has(i, SASS_M_S16),
               is8 = sass_has(i, SASS_M_U8) || sass_has(i, SASS_M_S8);
    const bool is_unsigned = sass_has(i, SASS_M_U32) || sass_has(i, SASS_M_U16) || sass_has(i, SASS_M_U8);
    const uint32_t at = !o->select ? 0 : o->select > 4 ? 16u * (o->select - 5u) : 8u * (o->select - 1u);
    SASS_LANES(l)
    {
        const uint32_t u = v[l] >> at;
        if (is8) out[l] = is_unsigned ? (uint8_t)u : (int8_t)u;
        else if (is16) out[l] = is_unsigned ? (uint16_t)u : (int16_t)u;
        else out[l] = is_unsigned ? (int64_t)u : (int32_t)u;
        if (o->abs && out[l] < 0) out[l] = -out[l];
        if (o->neg) out[l] = -out[l];
    }
}
void sass_i2f(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    int64_t v[32];
    float f[32];
    double d[32];
    wide_integers(w, i, &i->arg[1], v);
    SASS_LANES(l) d[l] = (double)v[l];
    if (sass_has(i, SASS_M_F64)) {
        put_doubles(w, i, d, mask);
        return;
    }
    if (rounds_to_nearest(i)) SASS_LANES(l) f[l] = (float)d[l];
    else SASS_LANES(l) f[l] = directed(i, d[l], 0);
    put_floats(w, i, f, mask);
}
static double rounded(const sass_ins *i, double x)
{
    if (sass_has(i, SASS_M_TRUNC)) return trunc(x);
    if (sass_has(i, SASS_M_FLOOR)) return floor(x);
    if (sass_has(i, SASS_M_CEIL)) return ceil(x);
    return nearbyint(x);
}
/* What does not fit becomes the nearest that does, NaN 0. */
void sass_f2i(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    float a[32];
    double d[32];
    uint32_t out[32];
    if (sass_has(i, SASS_M_F64)) doubles_of(w, &i->arg[1], d);
    else {
        floats_of(w, &i->arg[1], sass_has(i, SASS_M_FTZ), a);
        SASS_LANES(l) d[l] = a[l];
    }
    if (sass_has(i, SASS_M_S64)) {
        uint64_t wide[32];
        SASS_LANES(l)
        {
            const double x = rounded(i, d[l]);
            wide[l] = !(x == x) ? 0x8000000000000000u
                                : (uint64_t)(x < -0x1p63   ? INT64_MIN
                                             : x >= 0x1p63 ? INT64_MAX
                                                           : (int64_t)x);
        }
        sass_put_pair(w, i->arg[0].reg, wide, mask);
        return;
    }
    const bool is_unsigned = sass_has(i, SASS_M_U32);
    const double least = is_unsigned ? 0 : -2147483648.0, most = is_unsigned ? 4294967295.0 : 2147483647.0;
    SASS_LANES(l)
    {
        double x = rounded(i, d[l]);
        if (!(x == x)) x = 0;
        x = x < least ? least : x > most ? most : x;
        out[l] = (uint32_t)(int64_t)x;
    }
    sass_put(w, i->arg[0].reg, out, mask);
}
void sass_frnd(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    float a[32];
    floats_of(w, &i->arg[1], sass_has(i, SASS_M_FTZ), a);
    SASS_LANES(l) a[l] = (float)rounded(i, a[l]);
    put_floats(w, i, a, mask);
}
/* F2F.TO.FROM */
void sass_f2f(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    float a[32];
    double d[32];
    const char *text = i->text + (i->text[0] == '@' ? strcspn(i->text, " ") + 1 : 0);
    text += strspn(text, " ");
    if (strstr(text, "F2F.F32.F64") == text) {
        doubles_of(w, &i->arg[1], d);
        SASS_LANES(l) a[l] = (float)d[l];
        put_floats(w, i, a, mask);
    } else if (strstr(text, "F2F.F64.F32") == text) {
        floats_of(w, &i->arg[1], false, a);
        SASS_LANES(l) d[l] = a[l];
        put_doubles(w, i, d, mask);
    } else sass_fault(w, "this conversion is not interpreted");
}
