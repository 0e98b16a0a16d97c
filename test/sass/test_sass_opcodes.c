/* test_sass_opcodes.c - the interpreter of machine code against formulas written down a second time: every row is an instruction as the
 * disassembler
 * prints it, with R0, R1, R2 as operands (edges and random bits, another set in each lane) and what R4 (R5) and P1 must be. Each runs for all
 * lanes and
 * under a guard, and lanes without it must keep what they had. Then programs: divergence, barriers, copies, and what must be refused. */
#include "sass_values.h"
#include "../../runtime/kv/half.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

typedef struct in {
    uint32_t a, b, c;
    bool p, q; /* P3, P4 */
} in;
typedef struct out {
    uint64_t d; /* R4, R5 */
    bool p;     /* P1 */
} out;
typedef out formula(in x);
static const uint32_t garbage = 0xdeadbeefu;

/* ------------------------------------------------------------------------------------------------------- formulas --- */
#define INT(name, ...)                                                                                                 \
    static out name(in x) { return (out){.d = (uint32_t)(__VA_ARGS__), .p = x.p}; }
#define LONG(name, ...)                                                                                                \
    static out name(in x) { return (out){.d = (uint64_t)(__VA_ARGS__), .p = x.p}; }
#define PRED(name, ...)                                                                                                \
    static out name(in x) { return (out){.d = garbage, .p = (__VA_ARGS__)}; }
static float f(uint32_t u) { return sass_f32(u); }
static uint32_t bits(float v) { return v == v ? sass_bits(v) : 0x7fffffffu; }
static int64_t s(uint32_t u) { return (int32_t)u; }
static uint64_t u(uint32_t x) { return x; }

static out add_carry(in x)
{
    const uint64_t sum = u(x.a) + x.b + x.c;
    return (out){.d = (uint32_t)sum, .p = sum > 0xffffffffull};
}
static out sub_carry(in x) { return (out){.d = x.a - x.b, .p = x.a >= x.b}; }
static out add_x(in x) { return (out){.d = x.a + x.b + x.p, .p = x.p}; }
static out sub_x(in x) { return (out){.d = x.a - x.b - !x.p, .p = x.p}; }
static out shift_add(in x)
{
    const uint64_t sum = u(x.a << 3) + x.b;
    return (out){.d = (uint32_t)sum, .p = sum >> 32};
}
INT(shift_add_high, (uint32_t)((u(x.c) << 32 | x.a) << 3 >> 32) + x.b + x.p)
INT(shift_add_wide, (uint32_t)((uint64_t)s(x.a) << 5 >> 32) + x.b)
INT(shift_add_round, (x.a >> (32 - 0x1b)) - x.b)
INT(mad, x.a *x.b + x.c)
INT(mad_x, x.a *x.b + x.c + x.p)
LONG(mad_wide_u, u(x.a) * x.b + u(x.c))
LONG(mad_wide_s, (uint64_t)(s(x.a) * s(x.b)) + u(x.c))
INT(mad_high, (u(x.a) * x.b) >> 32)
INT(absolute, s(x.a) < 0 ? 0u - x.a : x.a)
INT(least_s, s(x.a) < s(x.b) ? x.a : x.b)
INT(most_u, x.a > x.b ? x.a : x.b)
PRED(less_s_and, s(x.a) < s(x.b) && x.p)
PRED(ge_u_or, x.a >= x.b || x.p)
PRED(gt_wide, (x.a == x.b && x.p) || x.a > x.b)
PRED(ne_wide, x.a != x.b || x.p)
INT(choose, x.p ? x.a : x.b)
INT(lop_mux, (x.a & x.b) | (~x.a & x.c))
INT(lop_xor3, x.a ^ x.b ^ x.c)
INT(lop_and, x.a & 0xff0u)
static out lop_test(in x) { return (out){.d = garbage, .p = (x.a & x.b) != 0}; }
PRED(plop_a8, (x.p || x.q))
INT(left_wide, (uint32_t)((u(x.c) << 32 | x.a) << 9 >> 32))
INT(left_by, x.b >= 32 ? 0 : x.a << x.b)
INT(right_by, x.b >= 32 ? 0 : x.c >> x.b)
INT(right_signed, s(x.c) >> (x.b >= 32 ? 31 : x.b))
INT(right_funnel, (uint32_t)((u(x.c) << 32 | x.a) >> 7))
INT(rotate, x.a << (x.b & 31) | (x.b & 31 ? x.a >> (32 - (x.b & 31)) : 0))
static out permute(in x)
{
    uint8_t bytes[8];
    uint32_t d = 0;
    memcpy(bytes, &x.a, 4), memcpy(bytes + 4, &x.c, 4);
    for (int k = 0; k < 4; k++) {
        const uint32_t n = x.b >> 4 * k & 15;
        d |= (uint32_t)(n & 8 ? (bytes[n & 7] >> 7) * 255 : bytes[n & 7]) << 8 * k;
    }
    return (out){.d = d, .p = x.p};
}
static out count(in x)
{
    uint32_t n = 0;
    for (int k = 0; k < 32; k++) n += x.a >> k & 1;
    return (out){.d = n, .p = x.p};
}
static out highest(in x)
{
    int k = 31;
    while (k >= 0 && !(x.a >> k & 1)) k--;
    return (out){.d = (uint32_t)k, .p = x.p};
}
INT(fadd_, bits(f(x.a) + f(x.b)))
INT(fsub_abs, bits(fabsf(f(x.a)) - f(x.b)))
INT(fmul_, bits(f(x.a) * f(x.b)))
INT(ffma_, bits(fmaf(f(x.a), f(x.b), f(x.c))))
static float ftz(float v) { return fabsf(v) < 0x1p-126f ? copysignf(0, v) : v; }
INT(fadd_ftz, bits(ftz(ftz(f(x.a)) + ftz(f(x.b)))))
static float most(uint32_t a, uint32_t b)
{
    return isnan(f(a)) ? f(b) : isnan(f(b)) ? f(a) : (a | b) << 1 == 0 ? f(a & b) : fmaxf(f(a), f(b));
}
INT(fmax_number, bits(most(x.a, x.b)))
INT(fmin_nan, bits(isnan(f(x.a)) || isnan(f(x.b)) ? NAN : (x.a | x.b) << 1 == 0 ? f(x.a | x.b) : fminf(f(x.a), f(x.b))))
INT(fsel_, x.p ? x.a ^ 0x80000000u : x.b)
PRED(flt, f(x.a) < f(x.b))
PRED(fne, f(x.a) < f(x.b) || f(x.a) > f(x.b))
PRED(fneu_or, !(f(x.a) == f(x.b)) || x.p)
PRED(fgeu, !(f(x.a) < f(x.b)))
INT(int_to_float, bits((float)(int32_t)x.a))
INT(uint_to_float, bits((float)x.a))
static out uint_up(in x)
{
    float v = (float)x.a;
    if ((double)v < (double)x.a) v = nextafterf(v, INFINITY);
    return (out){.d = bits(v), .p = x.p};
}
static out to_int(double v, double least, double most, in x)
{
    v = v != v ? 0 : v < least ? least : v > most ? most : v;
    return (out){.d = (uint32_t)(int64_t)v, .p = x.p};
}
static out float_to_int(in x) { return to_int(rint((double)f(x.a)), -2147483648.0, 2147483647.0, x); }
static out float_to_uint(in x) { return to_int(trunc((double)f(x.a)), 0, 4294967295.0, x); }
/* Directed rounding is checked by its definition: no f32 lies between the result and the exact value. */
static double exact(in x) { return (double)f(x.a) * (double)f(x.b); }
static out mul_up(in x)
{
    float v = (float)exact(x);
    if ((double)v < exact(x)) v = nextafterf(v, INFINITY);
    return (out){.d = bits(v), .p = x.p};
}
static out mul_zero(in x)
{
    float v = (float)exact(x);
    if (fabs((double)v) > fabs(exact(x))) v = nextafterf(v, 0);
    return (out){.d = bits(v), .p = x.p};
}
static uint32_t half(uint32_t x) { return isnan(f(x)) ? 0x7fffu : kvi_f32_to_f16(f(x)); }
static uint32_t brain(uint32_t x) { return isnan(f(x)) ? 0x7fffu : kvi_f32_to_bf16(f(x)); }
INT(pack_f16, half(x.a) << 16 | half(x.b))
INT(pack_bf16, brain(x.a) << 16 | brain(x.b))
INT(unpack_high, kvi_f16_to_f32((uint16_t)(x.a >> 16)) == kvi_f16_to_f32((uint16_t)(x.a >> 16))
                     ? sass_bits(kvi_f16_to_f32((uint16_t)(x.a >> 16)))
                     : 0)
INT(predicates, (x.b & ~0x18u) | (uint32_t)x.p << 3 | (uint32_t)x.q << 4)
PRED(from_bits, x.a >> 1 & 1)
/* Pairs: R1 and R0 are one, R3 and R2 with R3 = 0 the other. */
static uint64_t pair(in x) { return u(x.b) << 32 | x.a; }
LONG(pair_add, pair(x) + x.c)
LONG(pair_less, pair(x) - 16)
LONG(pair_negative, 16 - pair(x))
LONG(pair_copy, pair(x))
LONG(pair_number, 0x3ff0000000000123ull)
LONG(pair_choose, x.p ? pair(x) : (uint64_t)-0x40)
PRED(pair_less_s, (int64_t)pair(x) < (int64_t)x.c && x.p)
PRED(pair_ge_u, pair(x) >= x.c || x.p)
INT(difference, x.a - x.b)
INT(least_of_sum_s, s((uint32_t)(x.a + x.b)) < s(x.c) ? x.a + x.b : x.c)
INT(most_of_sum_u, x.a + x.b > x.c ? x.a + x.b : x.c)
INT(byte_to_float, bits((float)(x.a & 0xff)))
LONG(two_words, 0x1122334455667788ull)

enum { FLOATS = 1, HALVES = 2, SMALL_B = 4 };
static const struct row {
    const char *text;
    formula *want;
    int inputs;
} rows[] = {
    {"IADD3 R4, P1, R0, R1, R2", add_carry, 0},
    {"IADD3 R4, P1, R0, -R1, RZ", sub_carry, 0},
    {"IADD3.X R4, R0, R1, RZ, P3, !PT", add_x, 0},
    {"IADD3.X R4, R0, ~R1, RZ, P3, !PT", sub_x, 0},
    {"LEA R4, P1, R0, R1, 0x3", shift_add, 0},
    {"LEA.HI.X R4, R0, R1, R2, 0x3, P3", shift_add_high, 0},
    {"LEA.HI.SX32 R4, R0, R1, 0x5", shift_add_wide, 0},
    {"LEA.HI R4, R0, -R1, RZ, 0x1b", shift_add_round, 0},
    {"IMAD R4, R0, R1, R2", mad, 0},
    {"IMAD.X R4, R0, R1, R2, P3", mad_x, 0},
    {"IMAD.WIDE.U32 R4, R0, R1, R2", mad_wide_u, 0}, /* R3 is 0 */
    {"IMAD.WIDE R4, R0, R1, R2", mad_wide_s, 0},
    {"IMAD.HI.U32 R4, R0, R1, RZ", mad_high, 0},
    {"IABS R4, R0", absolute, 0},
    {"IMNMX R4, R0, R1, PT", least_s, 0},
    {"IMNMX.U32 R4, R0, R1, !PT", most_u, 0},
    {"ISETP.LT.AND P1, PT, R0, R1, P3", less_s_and, 0},
    {"ISETP.GE.U32.OR P1, PT, R0, R1, P3", ge_u_or, 0},
    {"ISETP.GT.U32.AND.EX P1, PT, R0, R1, PT, P3", gt_wide, 0},
    {"ISETP.NE.AND.EX P1, PT, R0, R1, PT, P3", ne_wide, 0},
    {"SEL R4, R0, R1, P3", choose, 0},
    {"LOP3.LUT R4, R0, R1, R2, 0xca, !PT", lop_mux, 0},
    {"LOP3.LUT R4, R0, R1, R2, 0x96, !PT", lop_xor3, 0},
    {"LOP3.LUT R4, R0, 0xff0, RZ, 0xc0, !PT", lop_and, 0},
    {"LOP3.LUT P1, RZ, R0, R1, RZ, 0xc0, !PT", lop_test, 0},
    {"PLOP3.LUT P1, PT, P3, P4, PT, 0xa8, 0x0", plop_a8, 0},
    {"SHF.L.U64.HI R4, R0, 0x9, R2", left_wide, 0},
    {"SHF.L.U32 R4, R0, R1, RZ", left_by, SMALL_B},
    {"SHF.R.U32.HI R4, RZ, R1, R2", right_by, SMALL_B},
    {"SHF.R.S32.HI R4, RZ, R1, R2", right_signed, SMALL_B},
    {"SHF.R.U64 R4, R0, 0x7, R2", right_funnel, 0},
    {"SHF.L.W.U32.HI R4, R0, R1, R0", rotate, SMALL_B},
    {"PRMT R4, R0, R1, R2", permute, 0},
    {"POPC R4, R0", count, 0},
    {"FLO.U32 R4, R0", highest, 0},
    {"FADD R4, R0, R1", fadd_, FLOATS},
    {"FADD R4, |R0|, -R1", fsub_abs, FLOATS},
    {"FADD.FTZ R4, R0, R1", fadd_ftz, FLOATS},
    {"FMUL R4, R0, R1", fmul_, FLOATS},
    {"FMUL.RP R4, R0, R1", mul_up, FLOATS},
    {"FMUL.RZ R4, R0, R1", mul_zero, FLOATS},
    {"FFMA R4, R0, R1, R2", ffma_, FLOATS},
    {"FMNMX R4, R0, R1, !PT", fmax_number, FLOATS},
    {"FMNMX.NAN R4, R0, R1, PT", fmin_nan, FLOATS},
    {"FSEL R4, -R0, R1, P3", fsel_, FLOATS},
    {"FSETP.LT.AND P1, PT, R0, R1, PT", flt, FLOATS},
    {"FSETP.NE.AND P1, PT, R0, R1, PT", fne, FLOATS},
    {"FSETP.NEU.OR P1, PT, R0, R1, P3", fneu_or, FLOATS},
    {"FSETP.GEU.AND P1, PT, R0, R1, PT", fgeu, FLOATS},
    {"I2FP.F32.S32 R4, R0", int_to_float, 0},
    {"I2FP.F32.U32 R4, R0", uint_to_float, 0},
    {"I2F.U32.RP R4, R0", uint_up, 0},
    {"F2I.NTZ R4, R0", float_to_int, FLOATS},
    {"F2I.U32.TRUNC.NTZ R4, R0", float_to_uint, FLOATS},
    {"F2FP.PACK_AB R4, R0, R1", pack_f16, FLOATS},
    {"F2FP.BF16.PACK_AB R4, R0, R1", pack_bf16, FLOATS},
    {"HADD2.F32 R4, -RZ, R0.H1_H1", unpack_high, HALVES},
    {"P2R R4, PR, R1, 0x18", predicates, 0},
    {"R2P PR, R0, 0x2", from_bits, 0},
    /* what came behind sm_86 */
    {"F2FP.F16.F32.PACK_AB R4, R0, R1", pack_f16, FLOATS},
    {"F2FP.BF16.F32.PACK_AB R4, R0, R1", pack_bf16, FLOATS},
    {"VIADD R4, R0, -R1", difference, 0},
    {"VIADDMNMX R4, R0, R1, R2, PT", least_of_sum_s, 0},
    {"VIADDMNMX.U32 R4, R0, R1, R2, !PT", most_of_sum_u, 0},
    {"VIMNMX.S32 R4, R0, R1, PT", least_s, 0},
    {"VIMNMX.U32 R4, R0, R1, !PT", most_u, 0},
    {"IADD.64 R4, R0, R2", pair_add, 0},
    {"IADD.64 R4, R0, -0x10", pair_less, 0},
    {"IADD.64 R4, -R0, 0x10", pair_negative, 0},
    {"MOV.64 R4, R0", pair_copy, 0},
    {"MOV.64 R4, 0x3ff0000000000123", pair_number, 0},
    {"SEL.64 R4, R0, -0x40, P3", pair_choose, 0},
    {"ISETP.LT.S64.AND P1, PT, R0, R2, P3", pair_less_s, 0},
    {"ISETP.GE.U64.OR P1, PT, R0, R2, P3", pair_ge_u, 0},
};
/* The same of uniform registers: UR0, UR1, UR2 and UP3, UP4, of which UR4 (UR5) and UP1 become. */
static const struct row uniform_rows[] = {
    {"UIADD3 UR4, UP1, UR0, UR1, UR2", add_carry, 0},
    {"UIADD3.64 UR4, UPT, UPT, UR0, UR2, URZ", pair_add, 0},
    {"UIADD3.64 UR4, UPT, UPT, UR0, -0x10, URZ", pair_less, 0},
    {"UIMAD UR4, UR0, UR1, UR2", mad, 0},
    {"UIMAD.WIDE.U32 UR4, UR0, UR1, UR2", mad_wide_u, 0},
    {"ULEA UR4, UP1, UR0, UR1, 0x3", shift_add, 0},
    {"ULOP3.LUT UR4, UR0, UR1, UR2, 0xca, !UPT", lop_mux, 0},
    {"USHF.R.U64 UR4, UR0, 0x7, UR2", right_funnel, 0},
    {"UPRMT UR4, UR0, UR1, UR2", permute, 0},
    {"UISETP.GE.U32.OR UP1, UPT, UR0, UR1, UP3", ge_u_or, 0},
    {"UISETP.LT.S64.AND UP1, UPT, UR0, UR2, UP3", pair_less_s, 0},
    {"UISETP.GE.U64.OR UP1, UPT, UR0, UR2, UP3", pair_ge_u, 0},
    {"USEL UR4, UR0, UR1, UP3", choose, 0},
    {"USEL.64 UR4, UR0, -0x40, UP3", pair_choose, 0},
    {"UMOV.64 UR4, UR0", pair_copy, 0},
    {"UMOV.64 UR4, 0x3ff0000000000123", pair_number, 0},
    {"LDCU.64 UR4, c[0x0][0x160]", two_words, 0},
    {"UVIMNMX.U32 UR4, UR0, UR1, !UPT", most_u, 0},
    {"UI2F.U32.RP UR4, UR0", uint_up, 0},
    {"UI2F.U8 UR4, UR0", byte_to_float, 0},
    {"UF2I.U32.TRUNC.NTZ UR4, UR0", float_to_uint, FLOATS},
    {"UFADD UR4, UR0, UR1", fadd_, FLOATS},
    {"UFSETP.GEU.AND UP1, UPT, UR0, UR1, UPT", fgeu, FLOATS},
    {"UP2UR UR4, UPR, UR1, 0x18", predicates, 0},
};

/* ------------------------------------------------------------------------------------------------------------ rig --- */
typedef struct rig {
    sass_kernel kernel;
    sass_block block;
    sass_ins code[64];
} rig;
static uint8_t global_memory[4096] __attribute__((aligned(256)));
static bool reach(uint64_t at, uint32_t bytes, uint64_t *from, uint64_t *to)
{
    *from = (uint64_t)(uintptr_t)global_memory, *to = *from + sizeof global_memory;
    return at >= *from && at <= *to && *to - at >= bytes;
}
/* Instructions separated by newlines; targets are addresses, 16 bytes each. */
static void assemble(rig *r, const char *text)
{
    char error[400], line[200];
    uint32_t n = 0;
    while (*text) {
        const size_t length = strcspn(text, "\n");
        memcpy(line, text, length), line[length] = 0;
        if (!sass_read_instruction(line, NULL, &r->code[n], error, sizeof error)) fail_msg("%s", error);
        r->code[n].at = 16 * n;
        const sass_operand *last = &r->code[n].arg[r->code[n].n ? r->code[n].n - 1 : 0];
        if (last->kind == SASS_IMM) r->code[n].target = last->value / 16;
        n++;
        text += length + (text[length] == '\n');
    }
    r->kernel.function.code = r->code, r->kernel.function.n = n;
}
static void open_block(rig *r, uint32_t threads)
{
    const uint64_t parameter = (uint64_t)(uintptr_t)global_memory;
    r->kernel.param_offset = 0x160, r->kernel.param_bytes = 8;
    assert_true(sass_block_prepare(&r->block, &r->kernel, (uint32_t[]){1, 1, 1}, (uint32_t[]){threads, 1, 1}, 4096,
                                   &parameter));
    r->block.reach = reach;
}
/* c[0x0][0x160] is the address of global_memory. */
static bool run(rig *r, const char *text, uint32_t threads, uint32_t seed)
{
    memset(r, 0, sizeof *r);
    assemble(r, text);
    open_block(r, threads);
    r->block.seed = seed;
    return sass_block_run(&r->block, (uint32_t[]){0, 0, 0}, seed);
}

static uint32_t draw(void)
{
    static uint64_t state = 88172645463325252ull;
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (uint32_t)(state >> 16);
}
static uint32_t input(int inputs, bool is_b)
{
    static const uint32_t edges[] = {0, 1, 2, 31, 32, 33, 0x7fffffffu, 0x80000000u, 0xffffffffu, 0xffff0000u, 0x10000u};
    static const uint32_t floats[] = {0,           0x80000000u, 0x3f800000u, 0xbf800000u, 0x7f800000u, 0xff800000u,
                                      0x7fffffffu, 1u,          0x807fffffu, 0x00800000u, 0x7f7fffffu, 0x4f000000u,
                                      0x4effffffu, 0xcf000000u, 0x3effffffu, 0x477ff000u, 0x33000000u, 0x33000001u,
                                      0x38800000u, 0x3f808000u, 0x3f818000u, 0x40200000u};
    if (is_b && (inputs & SMALL_B)) return draw() % 40;
    if (inputs & HALVES) return draw() & 0xbfffbfffu; /* no infinities and NaNs */
    if (inputs & FLOATS) {
        if (draw() % 3 == 0) return floats[draw() % (sizeof floats / sizeof *floats)];
        return draw() % 2 ? draw() : (draw() & 0x80ffffffu) | (0x3au + draw() % 12u) << 24;
    }
    return draw() % 3 ? draw() : edges[draw() % (sizeof edges / sizeof *edges)];
}
static bool has_pair(const struct row *row) { return strstr(row->text, "WIDE.") || strstr(row->text, ".64 "); }
static void check_row(const struct row *row)
{
    static rig r;
    char guarded[200];
    (void)snprintf(guarded, sizeof guarded, "@!P2 %s", row->text);
    for (uint32_t round = 0; round < 64; round++) {
        memset(&r, 0, sizeof r);
        assemble(&r, guarded);
        open_block(&r, 32);
        sass_warp *w = &r.block.warps[0];
        w->block = &r.block;
        memset(w->r, 0, sizeof w->r);
        memset(w->p, 0, sizeof w->p);
        w->p[SASS_PT] = SASS_ALL, w->up = 1u << SASS_PT;
        in x[32];
        w->p[2] = round % 2 ? draw() : 0;
        SASS_LANES(l)
        {
            x[l] = (in){input(row->inputs, false), input(row->inputs, true), input(row->inputs, false), draw() & 1,
                        draw() & 1};
            if (draw() % 4 == 0) x[l].b = x[l].a;
            if (row->inputs & SMALL_B) x[l].b %= 40;
            w->r[0][l] = x[l].a, w->r[1][l] = x[l].b, w->r[2][l] = x[l].c, w->r[4][l] = w->r[5][l] = garbage;
            w->p[3] |= (uint32_t)x[l].p << l, w->p[4] |= (uint32_t)x[l].q << l;
            w->p[1] |= (uint32_t)x[l].p << l; /* rows that write no predicate leave it */
        }
        if (~w->p[2]) r.code[0].run(w, &r.code[0], ~w->p[2]);
        if (r.block.faulted) fail_msg("%s", r.block.fault);
        SASS_LANES(l)
        {
            const bool on = !(w->p[2] >> l & 1);
            out want = row->want(x[l]);
            if (!on) want = (out){.d = garbage, .p = x[l].p};
            if (w->r[4][l] != (uint32_t)want.d || (w->p[1] >> l & 1) != want.p ||
                (on && has_pair(row) && w->r[5][l] != (uint32_t)(want.d >> 32)) || (!on && w->r[5][l] != garbage))
                fail_msg("%s, lane %d, %s: a %08x b %08x c %08x p %d q %d: got %08x %08x %d, want %016llx %d",
                         row->text, l, on ? "on" : "off", x[l].a, x[l].b, x[l].c, x[l].p, x[l].q, w->r[4][l],
                         w->r[5][l], (int)(w->p[1] >> l & 1), (unsigned long long)want.d, want.p);
        }
        sass_block_free(&r.block);
    }
}
static void check_uniform_row(const struct row *row)
{
    static rig r;
    for (uint32_t round = 0; round < 500; round++) {
        const uint64_t parameter = 0x1122334455667788ull;
        memset(&r, 0, sizeof r);
        assemble(&r, row->text);
        open_block(&r, 32);
        memcpy(r.block.bank[0] + 0x160, &parameter, sizeof parameter);
        sass_warp *w = &r.block.warps[0];
        w->block = &r.block;
        in x = {input(row->inputs, false), input(row->inputs, true), input(row->inputs, false), draw() & 1, draw() & 1};
        if (draw() % 4 == 0) x.b = x.a;
        w->u[0] = x.a, w->u[1] = x.b, w->u[2] = x.c, w->u[3] = 0, w->u[4] = w->u[5] = garbage;
        w->up = 1u << SASS_PT | (uint32_t)x.p << 1 | (uint32_t)x.p << 3 | (uint32_t)x.q << 4;
        memset(w->r, 0x5a, sizeof w->r);
        memset(w->p, 0x5a, sizeof w->p);
        r.code[0].run(w, &r.code[0], 1u << 7);
        if (r.block.faulted) fail_msg("%s", r.block.fault);
        const out want = row->want(x);
        if (w->u[4] != (uint32_t)want.d || (w->up >> 1 & 1) != want.p ||
            (has_pair(row) && w->u[5] != (uint32_t)(want.d >> 32)))
            fail_msg("%s: a %08x b %08x c %08x p %d: got %08x %08x %d, want %016llx %d", row->text, x.a, x.b, x.c, x.p,
                     w->u[4], w->u[5], (int)(w->up >> 1 & 1), (unsigned long long)want.d, want.p);
        for (size_t k = 0; k < sizeof w->r / 4; k++) assert_int_equal(w->r[k / 32][k % 32], 0x5a5a5a5au);
        for (size_t k = 0; k < 8; k++) assert_int_equal(w->p[k], 0x5a5a5a5au);
        sass_block_free(&r.block);
    }
}
static void test_rows(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) check_row(&rows[k]);
    for (size_t k = 0; k < sizeof uniform_rows / sizeof *uniform_rows; k++) check_uniform_row(&uniform_rows[k]);
}

/* -------------------------------------------------------------------------------------------------------- programs --- */
static uint32_t word(uint32_t index)
{
    uint32_t v;
    memcpy(&v, global_memory + 4 * index, 4);
    return v;
}
#define STORE                                                                                                          \
    "IMAD.MOV.U32 R10, RZ, RZ, c[0x0][0x160]\nIMAD.MOV.U32 R11, RZ, RZ, c[0x0][0x164]\nS2R R0, "                       \
    "SR_TID.X\nIMAD.WIDE.U32 R10, R0, 0x4, R10\n"
static rig shared_rig;
static void expect(const char *text, uint32_t threads, uint32_t (*want)(uint32_t thread), const char *what)
{
    for (uint32_t seed = 0; seed < 4; seed++) {
        memset(global_memory, 0, sizeof global_memory);
        if (!run(&shared_rig, text, threads, seed)) fail_msg("%s: %s", what, shared_rig.block.fault);
        sass_block_free(&shared_rig.block);
        for (uint32_t t = 0; t < threads; t++)
            if (word(t) != want(t)) fail_msg("%s, seed %u: thread %u has %u, want %u", what, seed, t, word(t), want(t));
    }
}
static uint32_t want_odd(uint32_t t) { return t & 1 ? 7 + 32 : 5 + 32; }
static uint32_t want_turns(uint32_t t) { return t * (t + 1) / 2; }
static uint32_t want_early(uint32_t t) { return t < 8 ? 0 : 24; }
static uint32_t want_turned(uint32_t t) { return 63 - t; }
static uint32_t want_xor(uint32_t t) { return t ^ 5; }
static uint32_t want_neighbour(uint32_t t) { return t ^ 1; }
static void test_divergence(void **state)
{
    (void)state;
    /* Lanes take two ways, meet at BSYNC, and all 32 vote behind it. */
    expect(STORE "LOP3.LUT P0, RZ, R0, 0x1, RZ, 0xc0, !PT\n" /* 4 */
                 "BSSY B0, 0xa0\n"                           /* 5 */
                 "@P0 BRA 0x90\n"                            /* 6 */
                 "MOV R1, 0x5\n"                             /* 7 */
                 "BRA 0xa0\n"                                /* 8 */
                 "MOV R1, 0x7\n"                             /* 9 */
                 "BSYNC B0\n"                                /* a */
                 "VOTE.ANY R2, PT, PT\nPOPC R3, R2\nIADD3 R1, R1, R3, RZ\nSTG.E [R10.64], R1\nEXIT\n",
           32, want_odd, "two ways");
    /* A loop of as many turns as the lane's number. */
    expect(STORE "MOV R1, RZ\nMOV R2, RZ\n"                      /* 4, 5 */
                 "BSSY B0, 0xc0\n"                               /* 6 */
                 "ISETP.GE.U32.AND P0, PT, R2, R0, PT\n"         /* 7 */
                 "@P0 BRA 0xc0\n"                                /* 8 */
                 "IADD3 R2, R2, 0x1, RZ\nIADD3 R1, R1, R2, RZ\n" /* 9, a */
                 "BRA 0x70\n"                                    /* b */
                 "BSYNC B0\nSTG.E [R10.64], R1\nEXIT\n",
           32, want_turns, "a loop");
    /* Even lanes wait for the odd ones, which come back, at a B that is moved there, and at one that is a number. */
#define MEET_AT_B3                                                                                                     \
    "@P0 BRA 0xf0\nMOV R1, 0x5\nBSYNC B3\n"                                              /* 7, 8, 9 */                 \
    "VOTE.ANY R2, PT, PT\nPOPC R3, R2\nIADD3 R1, R1, R3, RZ\nSTG.E [R10.64], R1\nEXIT\n" /* a to e */                  \
    "MOV R1, 0x7\nBRA 0x90\n"
    expect(STORE "LOP3.LUT P0, RZ, R0, 0x1, RZ, 0xc0, !PT\nBSSY B0, 0x90\nBMOV.32.CLEAR B3, B0\n" MEET_AT_B3, 32,
           want_odd, "a B that is moved");
    expect(STORE "LOP3.LUT P0, RZ, R0, 0x1, RZ, 0xc0, !PT\nBMOV.32 B3, 0xffffffff\nNOP\n" MEET_AT_B3, 32, want_odd,
           "a B by number");
    /* Eight lanes end; the others do not wait for them. */
    expect(STORE "BSSY B0, 0x80\n"                        /* 4 */
                 "ISETP.LT.U32.AND P0, PT, R0, 0x8, PT\n" /* 5 */
                 "@P0 EXIT\nNOP\n"                        /* 6, 7 */
                 "BSYNC B0\nVOTE.ANY R2, PT, PT\nPOPC R1, R2\nSTG.E [R10.64], R1\nEXIT\n",
           32, want_early, "lanes that end");
    /* Two warps exchange through shared memory. */
    expect(STORE "STS [R0.X4], R0\nBAR.SYNC.DEFER_BLOCKING 0x0\nIADD3 R1, -R0, 0x3f, RZ\nLDS R2, [R1.X4]\nSTG.E "
                 "[R10.64], R2\nEXIT\n",
           64, want_turned, "a barrier");
    expect(STORE "SHFL.BFLY PT, R1, R0, 0x5, 0x1f\nSTG.E [R10.64], R1\nEXIT\n", 32, want_xor, "a shuffle");
    /* Even lanes come first and wait for the odd ones, which come back to them. */
    expect(STORE "LOP3.LUT P0, RZ, R0, 0x1, RZ, 0xc0, !PT\nMOV R5, 0xffffffff\n"   /* 4, 5 */
                 "@P0 BRA 0xb0\n"                                                  /* 6 */
                 "WARPSYNC.COLLECTIVE R5, 0x90\nSHFL.BFLY PT, R1, R0, 0x1, 0x1f\n" /* 7, 8 */
                 "ENDCOLLECTIVE\nBRA 0xd0\n"                                       /* 9, a */
                 "NOP\nBRA 0x70\n"                                                 /* b, c */
                 "STG.E desc[UR4][R10.64], R1\nEXIT\n",
           32, want_neighbour, "a shuffle of lanes that have parted");
}
/* Without the barrier some order of the warps reads what is not written yet; so does a copy that nobody waits for. */
static void test_missing_waits(void **state)
{
    (void)state;
    const char *no_barrier =
        STORE "STS [R0.X4], R0\nIADD3 R1, -R0, 0x3f, RZ\nLDS R2, [R1.X4]\nSTG.E [R10.64], R2\nEXIT\n";
    const char *copy[2] = {
        STORE
        "LDGSTS.E [R0.X4], [R10.64]\nLDGDEPBAR\nDEPBAR.LE SB0, 0x0\nLDS R2, [R0.X4]\nSTG.E [R10.64+0x400], R2\nEXIT\n",
        STORE
        "LDGSTS.E [R0.X4], [R10.64]\nLDGDEPBAR\nDEPBAR.LE SB0, 0x1\nLDS R2, [R0.X4]\nSTG.E [R10.64+0x400], R2\nEXIT\n"};
    memset(global_memory, 0, sizeof global_memory);
    assert_true(run(&shared_rig, no_barrier, 64, 0));
    sass_block_free(&shared_rig.block);
    assert_int_equal(word(0), 0xffffffffu);
    for (int missing = 0; missing < 2; missing++) {
        for (uint32_t k = 0; k < 32; k++) memcpy(global_memory + 4 * k, &(uint32_t){k * 3}, 4);
        assert_true(run(&shared_rig, copy[missing], 32, 0));
        sass_block_free(&shared_rig.block);
        for (uint32_t k = 0; k < 32; k++) assert_int_equal(word(256 + k), missing ? 0xffffffffu : k * 3);
    }
}
/* mma, ldmatrix and movmatrix by their definitions on small integers, which 16-bit floats hold exactly. */
static void test_matrices(void **state)
{
    static rig r;
    (void)state;
    memset(&r, 0, sizeof r);
    assemble(&r, "HMMA.16816.F32 R8, R0, R4, R8\nMOVM.16.MT88 R12, R0\nHMMA.16816.F32.BF16 R16, R20, R24, "
                 "RZ\nIMMA.16832.S8.S8 R28, R0, R4, RZ\n");
    open_block(&r, 32);
    sass_warp *w = &r.block.warps[0];
    w->block = &r.block;
    float a[16][16], b[16][8];
    for (int k = 0; k < 256; k++) a[k / 16][k % 16] = (float)((int)(draw() % 33) - 16);
    for (int k = 0; k < 128; k++) b[k / 8][k % 8] = (float)((int)(draw() % 33) - 16);
#define PAIR(x, y) (kvi_f32_to_f16(x) | (uint32_t)kvi_f32_to_f16(y) << 16)
#define BPAIR(x, y) (kvi_f32_to_bf16(x) | (uint32_t)kvi_f32_to_bf16(y) << 16)
    SASS_LANES(l)
    {
        const int g = l / 4, t = 2 * (l % 4);
        for (int k = 0; k < 4; k++) { /* a0: (g, t), a1: (g + 8, t), a2: (g, t + 8), a3: (g + 8, t + 8) */
            const int row = g + 8 * (k % 2), col = t + 8 * (k / 2);
            w->r[k][l] = PAIR(a[row][col], a[row][col + 1]), w->r[20 + k][l] = BPAIR(a[row][col], a[row][col + 1]);
        }
        for (int k = 0; k < 2; k++)
            w->r[4 + k][l] = PAIR(b[t + 8 * k][g], b[t + 8 * k + 1][g]),
                     w->r[24 + k][l] = BPAIR(b[t + 8 * k][g], b[t + 8 * k + 1][g]);
        for (int k = 0; k < 4; k++) w->r[8 + k][l] = sass_bits((float)k);
    }
    for (int k = 0; k < 3; k++) r.code[k].run(w, &r.code[k], SASS_ALL);
    SASS_LANES(l)
    {
        const int g = l / 4, t = 2 * (l % 4);
        for (int k = 0; k < 4; k++) {
            const int row = g + 8 * (k / 2), col = t + k % 2;
            float sum = 0;
            for (int j = 0; j < 16; j++) sum += a[row][j] * b[j][col];
            assert_true(sass_f32(w->r[8 + k][l]) == sum + (float)k);
            assert_true(sass_f32(w->r[16 + k][l]) == sum);
        }
        assert_int_equal(w->r[12][l], PAIR(a[t][g], a[t + 1][g])); /* columns below 8 of rows below 8, transposed */
    }
    /* Bytes: registers of A and B anew. */
    int8_t wide_a[16][32], wide_b[32][8];
    for (int k = 0; k < 512; k++) wide_a[k / 32][k % 32] = (int8_t)draw();
    for (int k = 0; k < 256; k++) wide_b[k / 8][k % 8] = (int8_t)draw();
    SASS_LANES(l)
    {
        const int g = l / 4, t = 4 * (l % 4);
        for (int k = 0; k < 4; k++) memcpy(&w->r[k][l], &wide_a[g + 8 * (k % 2)][t + 16 * (k / 2)], 4);
        for (int k = 0; k < 2; k++) {
            w->r[4 + k][l] = 0;
            for (int e = 0; e < 4; e++) w->r[4 + k][l] |= (uint32_t)(uint8_t)wide_b[t + 16 * k + e][g] << 8 * e;
        }
    }
    r.code[3].run(w, &r.code[3], SASS_ALL);
    SASS_LANES(l) for (int k = 0; k < 4; k++)
    {
        int32_t sum = 0;
        for (int j = 0; j < 32; j++) sum += wide_a[l / 4 + 8 * (k / 2)][j] * wide_b[j][2 * (l % 4) + k % 2];
        assert_int_equal((int32_t)w->r[28 + k][l], sum);
    }
    assert_false(r.block.faulted);
    sass_block_free(&r.block);
}
/* What must not pass: it ends with a report that names it. */
static void test_faults(void **state)
{
    static const struct {
        const char *text, *says;
    } bad[] = {
        {STORE "IMAD.MOV.U32 R10, RZ, RZ, RZ\nIMAD.MOV.U32 R11, RZ, RZ, RZ\nLDG.E R1, [R10.64]\nEXIT\n",
         "no device memory"},
        {STORE "LDG.E R1, [R10.64+0x2]\nEXIT\n", "no multiple of 4"},
        {"LDS R1, [0x1000]\nEXIT\n", "of 4096 bytes of shared memory"},
        {"BRA 0x0\n", "has not ended"},
        {"MOV R1, c[0x0][0x200]\nEXIT\n", "the bank has"},
        {"S2R R0, SR_TID.X\nISETP.LT.U32.AND P0, PT, R0, 0x4, PT\n@P0 HMMA.16816.F32 R4, R4, R8, R4\nEXIT\n", "alone"},
        {"NOP\n", "behind the last instruction"}};
    (void)state;
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
        assert_false(run(&shared_rig, bad[k].text, 32, 0));
        if (!strstr(shared_rig.block.fault, bad[k].says)) fail_msg("%s: says %s", bad[k].text, shared_rig.block.fault);
        sass_block_free(&shared_rig.block);
    }
    static const struct {
        const char *text, *says;
    } unread[] = {{"FROB R0, R1", "unknown opcode FROB"},
                  {"IADD3.Q R0, R1, R2, R3", "unknown modifier .Q of IADD3"},
                  {"MOV R0, R1.B7", "unknown suffix"},
                  {"MOV R0, 1.5", "without its instruction word"},
                  {"IADD3.FTZ R0, R1, R2, R3", "modifier .FTZ"},
                  {"S2R R0, SR_CLOCK", "special register"},
                  {"@R0 MOV R0, R1", "no guard"},
                  {"MOV R0, c[0x9][0x0]", "constant bank"}};
    sass_ins i;
    char error[400];
    for (size_t k = 0; k < sizeof unread / sizeof *unread; k++) {
        assert_false(sass_read_instruction(unread[k].text, NULL, &i, error, sizeof error));
        if (!strstr(error, unread[k].says)) fail_msg("%s: says %s", unread[k].text, error);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows), cmocka_unit_test(test_divergence),
                                       cmocka_unit_test(test_missing_waits), cmocka_unit_test(test_matrices),
                                       cmocka_unit_test(test_faults)};
    return cmocka_run_group_tests_name("machine code, instruction by instruction", tests, NULL, NULL);
}
