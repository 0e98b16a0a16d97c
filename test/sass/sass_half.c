/* sass_half.c - pairs of 16-bit floats, and their conversions. Results are rounded once, to nearest even. */
#include "sass_values.h"
#include "../../runtime/kv/half.h"

#ifdef __F16C__
#include <immintrin.h>
static inline float from_half(uint32_t h) { return _cvtsh_ss((uint16_t)h); }
static inline uint32_t to_half(float f) { return _cvtss_sh(f, _MM_FROUND_TO_NEAREST_INT); }
#else
static inline float from_half(uint32_t h) { return kvi_f16_to_f32((uint16_t)h); }
static inline uint32_t to_half(float f) { return kvi_f32_to_f16(f); }
#endif

static inline float value_of(uint32_t h, bool bf16) { return bf16 ? sass_f32(h << 16) : from_half(h & 0xffffu); }
static inline uint32_t bits_of(float f, bool bf16)
{
    return f != f ? 0x7fffu : bf16 ? kvi_f32_to_bf16(f) : to_half(f);
} /* the card's one NaN */
/* A double rounded to 16 bits once: through an f32 rounded to odd, whose last bit keeps the second rounding honest. */
static uint32_t once(double exact, bool bf16)
{
    float f = (float)exact;
    if ((double)f != exact && isfinite(f) && exact == exact) {
        uint32_t u = sass_bits(f);
        if (fabs((double)f) > fabs(exact)) u--;
        f = sass_f32(u | 1u);
    }
    return bits_of(f, bf16);
}
/* The k-th half of an operand, with its signs. */
static void halves_of(sass_warp *w, const sass_operand *o, int k, bool bf16, float out[32])
{
    uint32_t room[32];
    const uint32_t *v = sass_plain(w, o, 0, room);
    const int at = o->half ? 16 * (o->half - 1) : 16 * k;
    if (bf16) SASS_LANES(l) out[l] = sass_f32((v[l] >> at) << 16);
    else SASS_LANES(l) out[l] = from_half(v[l] >> at & 0xffffu);
    if (o->kind == SASS_IMM) return;
    if (o->abs) SASS_LANES(l) out[l] = fabsf(out[l]);
    if (o->neg) SASS_LANES(l) out[l] = -out[l];
}
static inline float clamped(const sass_ins *i, float x)
{
    if (sass_has(i, SASS_M_SAT)) return x > 0 ? x < 1 ? x : 1 : 0;
    if (sass_has(i, SASS_M_RELU)) return x > 0 || x != x ? x : 0;
    return x;
}

void sass_hadd2(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const bool bf16 = sass_has(i, SASS_M_BF16_V2) || sass_has(i, SASS_M_BF16);
    float a[32], b[32];
    uint32_t out[32] = {0};
    if (sass_has(i, SASS_M_F32)) { /* one sum, kept in f32 */
        halves_of(w, &i->arg[1], 0, bf16, a), halves_of(w, &i->arg[2], 0, bf16, b);
        SASS_LANES(l) out[l] = sass_bits(a[l] + b[l]);
    } else
        for (int k = 0; k < 2; k++) {
            halves_of(w, &i->arg[1], k, bf16, a), halves_of(w, &i->arg[2], k, bf16, b);
            SASS_LANES(l)
            out[l] |= bits_of(clamped(i, a[l] + b[l]), bf16) << 16 * k; /* exact or rounded alike in f32 */
        }
    sass_put(w, i->arg[0].reg, out, mask);
}
void sass_hmul2(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const bool bf16 = sass_has(i, SASS_M_BF16_V2) || sass_has(i, SASS_M_BF16);
    float a[32], b[32];
    uint32_t out[32] = {0};
    for (int k = 0; k < 2; k++) {
        halves_of(w, &i->arg[1], k, bf16, a), halves_of(w, &i->arg[2], k, bf16, b);
        SASS_LANES(l) out[l] |= bits_of(clamped(i, a[l] * b[l]), bf16) << 16 * k; /* the product is exact in f32 */
    }
    sass_put(w, i->arg[0].reg, out, mask);
}
void sass_hfma2(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const bool bf16 = sass_has(i, SASS_M_BF16_V2) || sass_has(i, SASS_M_BF16);
    float a[32], b[32], c[32];
    uint32_t out[32] = {0};
    for (int k = 0; k < 2; k++) {
        halves_of(w, &i->arg[1], k, bf16, a), halves_of(w, &i->arg[2], k, bf16, b),
            halves_of(w, &i->arg[3], k, bf16, c);
        SASS_LANES(l)
        {
            const float p = a[l] * b[l], s = p + c[l]; /* p is exact; where the sum is too, one rounding is left */
            const uint32_t h =
                (double)p + c[l] == (double)s ? bits_of(clamped(i, s), bf16) : once((double)p + c[l], bf16);
            out[l] |= h << 16 * k;
        }
    }
    sass_put(w, i->arg[0].reg, out, mask);
}
void sass_hmnmx2(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const bool bf16 = sass_has(i, SASS_M_BF16_V2) || sass_has(i, SASS_M_BF16);
    const uint32_t p = sass_pred(w, &i->arg[3]);
    float a[32], b[32];
    uint32_t out[32] = {0};
    for (int k = 0; k < 2; k++) {
        halves_of(w, &i->arg[1], k, bf16, a), halves_of(w, &i->arg[2], k, bf16, b);
        SASS_LANES(l)
        {
            const float least = a[l] < b[l] || b[l] != b[l] ? a[l] : b[l],
                        most = a[l] > b[l] || b[l] != b[l] ? a[l] : b[l];
            out[l] |= bits_of(p >> l & 1 ? least : most, bf16) << 16 * k;
        }
    }
    sass_put(w, i->arg[0].reg, out, mask);
}
/* Two predicates, one per half; .BF16_V2 and .H0_H0 as elsewhere. */
void sass_hsetp2(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const bool bf16 = sass_has(i, SASS_M_BF16_V2);
    const uint32_t with = sass_pred(w, &i->arg[4]);
    float a[32], b[32];
    for (int k = 0; k < 2; k++) {
        uint32_t less[32], equal[32], unordered[32];
        halves_of(w, &i->arg[2], k, bf16, a), halves_of(w, &i->arg[3], k, bf16, b);
        SASS_LANES(l) less[l] = a[l] < b[l], equal[l] = a[l] == b[l], unordered[l] = a[l] != a[l] || b[l] != b[l];
        const uint32_t value = sass_compared(i, sass_pack(less), sass_pack(equal), sass_pack(unordered));
        sass_put_pred(w, &i->arg[k], sass_joined(i, value, with), mask);
    }
}
/* Two f32 to a pair: the first goes to the upper half. */
void sass_f2fp(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const bool bf16 = sass_has(i, SASS_M_BF16), packs = sass_has(i, SASS_M_PACK_AB);
    uint32_t ra[32], rb[32], out[32];
    const uint32_t *a = sass_float(w, &i->arg[1], ra), *b = sass_float(w, &i->arg[2], rb);
    if (!packs) {
        sass_fault(w, "F2FP packs alone are interpreted");
        return;
    }
    SASS_LANES(l) out[l] = bits_of(clamped(i, sass_f32(a[l])), bf16) << 16 | bits_of(clamped(i, sass_f32(b[l])), bf16);
    sass_put(w, i->arg[0].reg, out, mask);
}

/* ------------------------------------------------------------------------------------------------------- matrices --- */
/* PTX ISA, "Matrix Fragments for mma.m16n8k16": lane 4 g + t holds
 *   A: rows g and g + 8 (registers 0 and 1), and eight columns on (2 and 3); columns 2t, 2t + 1 of each
 *   B: rows 2t, 2t + 1, and eight rows on; column g        C, D: row g, columns 2t, 2t + 1; then row g + 8
 * Products are exact in f32 and added in f32 in the order of k. A tensor core adds several at a time and truncates what it aligns; nobody says
 * how exactly, so results are compared within a tolerance. */
void sass_hmma(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const bool bf16 = sass_has(i, SASS_M_BF16), f32 = sass_has(i, SASS_M_F32);
    const uint32_t n_k = sass_has(i, SASS_M_16816) ? 16 : 8, ra = i->arg[1].reg, rb = i->arg[2].reg, rc = i->arg[3].reg;
    float a[16][16], b[16][8] __attribute__((aligned(32))), c[16][8] __attribute__((aligned(32)));
    if (mask != SASS_ALL) {
        sass_fault(w, "a product of matrices by lanes 0x%x alone", mask);
        return;
    }
    for (uint32_t l = 0; l < 32; l++) {
        const uint32_t g = l >> 2, t = l & 3u;
        for (uint32_t k = 0; k < n_k; k += 8) {
            const uint32_t top = w->r[sass_row(ra, k / 4)][l], low = w->r[sass_row(ra, k / 4 + 1)][l],
                           col = w->r[sass_row(rb, k / 8)][l];
            a[g][k + 2 * t] = value_of(top & 0xffff, bf16), a[g][k + 2 * t + 1] = value_of(top >> 16, bf16);
            a[g + 8][k + 2 * t] = value_of(low & 0xffff, bf16), a[g + 8][k + 2 * t + 1] = value_of(low >> 16, bf16);
            b[k + 2 * t][g] = value_of(col & 0xffff, bf16), b[k + 2 * t + 1][g] = value_of(col >> 16, bf16);
        }
        for (uint32_t h = 0; h < 2; h++)
            for (uint32_t e = 0; e < 2; e++) {
                const uint32_t word = w->r[sass_row(rc, f32 ? 2 * h + e : h)][l];
                c[g + 8 * h][2 * t + e] = f32 ? sass_f32(word) : from_half(word >> 16 * e & 0xffff);
            }
    }
    for (uint32_t row = 0; row < 16; row++)
        for (uint32_t k = 0; k < n_k; k++)
            for (uint32_t n = 0; n < 8; n++) c[row][n] = fmaf(a[row][k], b[k][n], c[row][n]);
    for (uint32_t l = 0; l < 32; l++) {
        const uint32_t g = l >> 2, t = l & 3u, d = i->arg[0].reg;
        for (uint32_t h = 0; h < 2; h++) {
            const float x = c[g + 8 * h][2 * t], y = c[g + 8 * h][2 * t + 1];
            if (f32) w->r[sass_row(d, 2 * h)][l] = sass_bits(x), w->r[sass_row(d, 2 * h + 1)][l] = sass_bits(y);
            else w->r[sass_row(d, h)][l] = to_half(x) | to_half(y) << 16;
        }
    }
    memset(w->r[SASS_RZ], 0, sizeof w->r[0]);
}
/* Bytes, in the fragments of mma.m16n8k32 (or k16): the same picture with four values a register. Sums wrap, .SAT clamps. */
void sass_imma(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    const uint32_t n_k = sass_has(i, SASS_M_16832) ? 32 : 16, ra = i->arg[1].reg, rb = i->arg[2].reg,
                   rc = i->arg[3].reg, d = i->arg[0].reg;
    const bool any_unsigned = sass_has(i, SASS_M_U8);
    int32_t a[16][32], b[32][8];
    int64_t c[16][8];
    if (mask != SASS_ALL || (any_unsigned && sass_has(i, SASS_M_S8))) {
        sass_fault(w, "a product of matrices by lanes 0x%x alone, or of mixed signs", mask);
        return;
    }
    for (uint32_t l = 0; l < 32; l++) {
        const uint32_t g = l >> 2, t = l & 3u;
        for (uint32_t k = 0; k < n_k; k += 16)
            for (uint32_t e = 0; e < 4; e++) {
                const uint32_t top = w->r[sass_row(ra, k / 8)][l] >> 8 * e,
                               low = w->r[sass_row(ra, k / 8 + 1)][l] >> 8 * e;
                const uint32_t col = w->r[sass_row(rb, k / 16)][l] >> 8 * e;
                a[g][k + 4 * t + e] = any_unsigned ? (uint8_t)top : (int8_t)top;
                a[g + 8][k + 4 * t + e] = any_unsigned ? (uint8_t)low : (int8_t)low;
                b[k + 4 * t + e][g] = any_unsigned ? (uint8_t)col : (int8_t)col;
            }
        for (uint32_t e = 0; e < 4; e++) c[g + 8 * (e / 2)][2 * t + e % 2] = (int32_t)w->r[sass_row(rc, e)][l];
    }
    for (uint32_t row = 0; row < 16; row++)
        for (uint32_t n = 0; n < 8; n++) {
            for (uint32_t k = 0; k < n_k; k++) c[row][n] += a[row][k] * b[k][n];
            if (sass_has(i, SASS_M_SAT))
                c[row][n] = c[row][n] > INT32_MAX ? INT32_MAX : c[row][n] < INT32_MIN ? INT32_MIN : c[row][n];
        }
    for (uint32_t l = 0; l < 32; l++)
        for (uint32_t e = 0; e < 4; e++)
            w->r[sass_row(d, e)][l] = (uint32_t)c[(l >> 2) + 8 * (e / 2)][2 * (l & 3u) + e % 2];
    memset(w->r[SASS_RZ], 0, sizeof w->r[0]);
}
/* An 8x8 matrix of 16-bit values, transposed: lane 4 g + t holds columns 2t, 2t + 1 of row g. */
void sass_movm(sass_warp *w, const sass_ins *i, uint32_t mask)
{
    uint32_t out[32];
    const uint32_t *a = w->r[i->arg[1].reg];
    if (mask != SASS_ALL) {
        sass_fault(w, "a matrix is moved by lanes 0x%x alone", mask);
        return;
    }
    for (uint32_t l = 0; l < 32; l++) {
        const uint32_t g = l >> 2, t = l & 3u, at = 16 * (g & 1u); /* rows 2t and 2t + 1 of column g */
        out[l] = (a[4 * (2 * t) + g / 2] >> at & 0xffffu) | (a[4 * (2 * t + 1) + g / 2] >> at & 0xffffu) << 16;
    }
    sass_put(w, i->arg[0].reg, out, mask);
}
