/* sass_opcodes.h - every opcode that is interpreted, in one place: OPCODE(name, modifiers that may follow, flow, handler, meaning); included
 * with OPCODE defined. What is not here, opcode or modifier, is refused by name. The meaning is what the handler does, in the words of PTX where
 * it has the operation.
 *
 * Sources. NVIDIA publishes names alone ("CUDA Binary Utilities", Ampere instruction set), so what an instruction does is taken from
 *   [P] the PTX ISA, for the PTX instruction that ptxas makes it of     [C] the CUDA C++ Programming Guide (rounding, error of functions)
 *   [J] Jia et al., "Dissecting the NVIDIA Volta GPU architecture via microbenchmarking", arXiv 1804.06826 (control flow, encoding)
 *   [M] Mesa's compiler for these cards (src/nouveau/compiler/nak), which encodes and folds them
 *   [O] read off code that ptxas makes of known source: division, remainder, 64-bit arithmetic; the numbers of all kernels agree
 * Operands: d is the destination, a, b, c follow; p, q are predicates; Ra64 is a pair of registers. Modifiers that change speed or caching alone
 * (.E, .CONSTANT, .LTC128B, .reuse) are accepted and have no effect. */
/* ---- integers ---- */
OPCODE(IADD3, "X", STRAIGHT, iadd3,
       "d [, carries p, q] = a + b + c [+ p + q with .X]; p: the sum reached 2^32, q: 2^33 [P add.cc, O]")
OPCODE(
    LEA, "HI X SX32", STRAIGHT, lea,
    "d [, carry] = (a << s) + b; .HI: the upper word of the pair (c, a) shifted, + b; .SX32: of a sign-extended [M, O]")
OPCODE(IMAD, "MOV SHL IADD U32 X WIDE HI", STRAIGHT, imad,
       "d = a * b + c; .WIDE: Rd64 = a * b + Rc64; .HI: its upper word; .X: + p [P mad]")
OPCODE(IADD, "64", STRAIGHT, iadd64, ".64: Rd64 = Ra64 + Rb64 [P add.s64]")
OPCODE(VIADD, "", STRAIGHT, viadd, "d = a + b, on another pipe [P add]")
OPCODE(VIADDMNMX, "U32", STRAIGHT, viaddmnmx, "d = p ? min(a + b, c) : max(a + b, c) [C __viaddmin_s32]")
OPCODE(IABS, "", STRAIGHT, iabs, "d = |a| [P abs]")
OPCODE(IMNMX, "U32", STRAIGHT, imnmx, "d = p ? min(a, b) : max(a, b) [P min]")
OPCODE(VIMNMX, "U32 S32", STRAIGHT, imnmx, "the same, on another pipe [P min]")
OPCODE(IDP, "4A S8 U8", STRAIGHT, idp, "d = c + sum of the four products of bytes of a and b [P dp4a]")
OPCODE(ISETP, "LT LE EQ NE GE GT U32 S64 U64 AND OR XOR EX", STRAIGHT, isetp,
       "p, q = (a ? b) with r, not (a ? b) with r; .EX: upper words, the last operand says how the lower compared; "
       ".S64: of pairs [P setp]")
OPCODE(MOV, "64", STRAIGHT, mov, "d = a; .64: Rd64 = Ra64 [P mov]")
OPCODE(SEL, "64", STRAIGHT, sel, "d = p ? a : b; .64: of pairs [P selp]")
/* ---- bits ---- */
OPCODE(LOP3, "LUT PAND", STRAIGHT, lop3,
       "d = table of (a, b, c), bit by bit; a predicate before d: d is not 0, or the last predicate [P lop3]")
OPCODE(PLOP3, "LUT", STRAIGHT, plop3, "p, q = two tables of three predicates [P lop3]")
OPCODE(
    SHF, "L R W U32 S32 U64 S64 HI", STRAIGHT, shf,
    "d = the pair (c, a) shifted by b: its lower or with .HI upper word; .W: b modulo the width, else clamped [P shf]")
OPCODE(PRMT, "", STRAIGHT, prmt,
       "d = four bytes picked of the pair (c, a), by nibbles of b; nibble bit 3: its sign [P prmt]")
OPCODE(POPC, "", STRAIGHT, popc, "d = bits set in a [P popc]")
OPCODE(FLO, "U32 SH", STRAIGHT, flo,
       "d = place of the highest bit of a that is no sign, -1 for none; .SH: counted from the left [P bfind]")
OPCODE(BREV, "", STRAIGHT, brev, "d = a with its bits in reverse [P brev]")
OPCODE(SGXT, "U32 W", STRAIGHT, sgxt, "d = the lower b bits of a, sign-extended or not [P szext]")
OPCODE(BMSK, "W", STRAIGHT, bmsk, "d = b ones from bit a on [P bmsk]")
OPCODE(P2R, "", STRAIGHT, p2r, "d = b with the predicates that c names put into its byte [O]")
OPCODE(R2P, "", STRAIGHT, r2p, "the predicates that b names = bits of a's byte [O]")
/* ---- f32 and f64 ---- */
OPCODE(FADD, "FTZ RZ RM RP SAT", STRAIGHT, fadd, "d = a + b, rounded once [P add.f32]")
OPCODE(FMUL, "FTZ RZ RM RP SAT", STRAIGHT, fmul, "d = a * b, rounded once [P mul.f32]")
OPCODE(FFMA, "FTZ RZ RM RP SAT", STRAIGHT, ffma, "d = a * b + c, rounded once [P fma.f32]")
OPCODE(FMNMX, "FTZ NAN", STRAIGHT, fmnmx,
       "d = p ? min(a, b) : max(a, b); the number if one is NaN, with .NAN the NaN; -0 is below +0 [P min.f32]")
OPCODE(FSEL, "FTZ", STRAIGHT, fsel, "d = p ? a : b, with their signs [P selp.f32]")
OPCODE(FSETP, "LT LE EQ NE GE GT LTU LEU EQU NEU GEU GTU NUM NAN FTZ AND OR XOR", STRAIGHT, fsetp,
       "p, q = (a ? b) with r, not (a ? b) with r; ..U: or unordered [P setp.f32]")
OPCODE(FCHK, "", STRAIGHT, fchk,
       "p = a / b may go wrong by reciprocal and correction, so that the long way is called [O, see the handler]")
OPCODE(MUFU, "RCP RSQ SQRT EX2 LG2 SIN COS TANH RCP64H RSQ64H", STRAIGHT, mufu,
       "d = f(a), to about a unit of the last place; ..64H: of the upper words of f64 [P ex2.approx and the like, C]")
OPCODE(DADD, "RZ RM RP", STRAIGHT, dadd, "Rd64 = Ra64 + Rb64 in f64 [P add.f64]")
OPCODE(DMUL, "RZ RM RP", STRAIGHT, dmul, "Rd64 = Ra64 * Rb64 in f64 [P mul.f64]")
OPCODE(DFMA, "", STRAIGHT, dfma, "Rd64 = Ra64 * Rb64 + Rc64 in f64, rounded once [P fma.f64]")
OPCODE(DSETP, "LT LE EQ NE GE GT LTU LEU EQU NEU GEU GTU NUM NAN AND OR XOR", STRAIGHT, dsetp,
       "as FSETP, of f64 [P setp.f64]")
/* ---- conversions ---- */
OPCODE(I2F, "U32 U16 S16 U8 S8 F64 RZ RM RP", STRAIGHT, i2f, "d = a as a float, rounded as said [P cvt]")
OPCODE(I2FP, "F32 S32 U32 RZ RM RP", STRAIGHT, i2f, "as I2F, to f32, on another pipe [P cvt]")
OPCODE(F2I, "FTZ U32 S64 TRUNC FLOOR CEIL NTZ F64", STRAIGHT, f2i,
       "d = a as an integer, nearest even unless said; too large: the nearest that fits; NaN: 0 [P cvt]")
OPCODE(FRND, "FTZ TRUNC FLOOR CEIL", STRAIGHT, frnd, "d = a rounded to an integer, as a float [P cvt.rni.f32.f32]")
OPCODE(F2F, "F32 F64", STRAIGHT, f2f, "F2F.TO.FROM: d = a in the other type [P cvt]")
OPCODE(F2FP, "BF16 F16 F32 PACK_AB RELU", STRAIGHT, f2fp,
       "d = a and b as 16-bit floats, a in the upper half [P cvt.rn.f16x2.f32]")
/* ---- pairs of 16-bit floats ---- */
OPCODE(HADD2, "F32 BF16 BF16_V2 SAT RELU", STRAIGHT, hadd2,
       "d = a + b in both halves; .F32: one sum, as f32 [P add.f16x2]")
OPCODE(HMUL2, "BF16 BF16_V2 SAT RELU", STRAIGHT, hmul2, "d = a * b in both halves [P mul.f16x2]")
OPCODE(HFMA2, "MMA BF16 BF16_V2 RELU", STRAIGHT, hfma2,
       "d = a * b + c in both halves, rounded once; .MMA: on another pipe [P fma.f16x2]")
OPCODE(HMNMX2, "BF16_V2", STRAIGHT, hmnmx2, "d = p ? min(a, b) : max(a, b) in both halves [P min.f16x2]")
OPCODE(HSETP2, "LT LE EQ NE GE GT LTU LEU EQU NEU GEU GTU NUM NAN BF16_V2 AND OR XOR", STRAIGHT, hsetp2,
       "p, q = the lower halves compared, the upper ones [P setp.f16x2]")
/* ---- matrices ---- */
OPCODE(HMMA, "16816 1688 F32 F16 BF16", STRAIGHT, hmma,
       "D = A * B + C of a warp, 16 x 8, over 16 or 8 values of 16 bits [P mma.m16n8k16]")
OPCODE(IMMA, "16816 16832 S8 U8 SAT", STRAIGHT, imma,
       "D = A * B + C of a warp, 16 x 8, over 16 or 32 bytes [P mma.m16n8k32]")
OPCODE(MOVM, "16 MT88", STRAIGHT, movm, "d = an 8 x 8 matrix of 16-bit values, transposed [P movmatrix]")
OPCODE(LDSM, "16 M88 MT88 2 4", STRAIGHT, ldsm,
       "1, 2 or 4 matrices of 8 x 8 16-bit values from shared memory [P ldmatrix]")
/* ---- memory ---- */
OPCODE(LDG, "E U8 S8 U16 S16 64 128 CONSTANT NA STRONG GPU SM SYS LTC128B EF EL", STRAIGHT, ldg,
       "d = global memory [P ld.global]")
OPCODE(LD, "E U8 S8 U16 S16 64 128 STRONG GPU SM SYS", STRAIGHT, ldg,
       "d = memory by a generic address, which is global here [P ld]")
OPCODE(STG, "E U8 U16 64 128 STRONG GPU SM SYS EF", STRAIGHT, stg, "global memory = b [P st.global]")
OPCODE(ST, "E U8 U16 64 128 STRONG GPU SM SYS", STRAIGHT, stg, "memory by a generic address = b [P st]")
OPCODE(LDS, "U8 S8 U16 S16 64 128", STRAIGHT, lds, "d = shared memory [P ld.shared]")
OPCODE(STS, "U8 U16 64 128", STRAIGHT, sts, "shared memory = b [P st.shared]")
OPCODE(LDL, "U8 S8 U16 S16 64 128 LU", STRAIGHT, ldl, "d = the thread's own memory [P ld.local]")
OPCODE(STL, "U8 U16 64 128", STRAIGHT, stl, "the thread's own memory = b [P st.local]")
OPCODE(LDC, "U8 S8 U16 S16 64", STRAIGHT, ldc, "d = a constant bank, by an index of the lane's own [P ld.const]")
OPCODE(LDGSTS, "E BYPASS LTC128B ZFILL 64 128", STRAIGHT, ldgsts,
       "shared memory = global memory, in the background; zeros in lanes without p [P cp.async with src-size 0]")
OPCODE(LDGDEPBAR, "", STRAIGHT, ldgdepbar, "ends a group of such copies [P cp.async.commit_group]")
OPCODE(DEPBAR, "LE", STRAIGHT, depbar, "waits until at most so many groups are under way [P cp.async.wait_group]")
OPCODE(ATOMG, "E ADD AND OR EXCH STRONG GPU", STRAIGHT, atomg,
       "d = global memory, which becomes the operation's result [P atom]")
OPCODE(ATOM, "E ADD AND OR EXCH STRONG GPU", STRAIGHT, atomg, "the same by a generic address [P atom]")
OPCODE(ATOMS, "ADD AND OR EXCH POPC INC 32", STRAIGHT, atoms,
       "d = shared memory, which becomes the operation's result; POPC.INC: one more for each lane [P atom.shared]")
OPCODE(RED, "E ADD AND OR STRONG GPU", STRAIGHT, red, "the same, nothing read [P red]")
OPCODE(MEMBAR, "SC ALL GPU SYS", STRAIGHT, nop, "orders memory; here it is in order [P membar]")
OPCODE(ERRBAR, "", STRAIGHT, nop, "reports errors of memory; here they are at once [O]")
OPCODE(CCTL, "IVALL", STRAIGHT, nop, "empties L1, which is not modelled [O]")
/* ---- between lanes, special registers ---- */
OPCODE(SHFL, "BFLY IDX UP DOWN", STRAIGHT, shfl, "p, d = a of another lane; p: it is in the segment [P shfl.sync]")
OPCODE(VOTE, "ALL ANY EQ", STRAIGHT, vote, "[d,] p = which lanes have q, whether all or any do [P vote.sync]")
OPCODE(VOTEU, "ALL ANY EQ", STRAIGHT, voteu, "the same into uniform registers [P vote.sync]")
OPCODE(S2R, "", STRAIGHT, s2r, "d = a special register [P mov from %tid and the like]")
OPCODE(CS2R, "32", STRAIGHT, cs2r, "Rd64 = a special register; SRZ is 0 [O]")
OPCODE(S2UR, "", STRAIGHT, s2ur, "a uniform register = a special register [P mov]")
OPCODE(R2UR, "", STRAIGHT, r2ur, "a uniform register = a of the first lane that takes part [O]")
/* ---- uniform: as the instructions without U, once per warp ---- */
OPCODE(UMOV, "64", STRAIGHT, umov, "d = a; .64: a pair")
OPCODE(ULDC, "64 U8 U16", STRAIGHT, uldc, "d = a constant bank")
OPCODE(LDCU, "64 128 U8 U16", STRAIGHT, uldc, "d = a constant bank")
OPCODE(UIADD3, "X 64", STRAIGHT, uiadd3, "as IADD3; .64: of pairs")
OPCODE(UIMAD, "WIDE U32 HI X MOV SHL IADD", STRAIGHT, uimad, "as IMAD")
OPCODE(ULEA, "HI X SX32", STRAIGHT, ulea, "as LEA")
OPCODE(USHF, "L R W U32 S32 U64 S64 HI", STRAIGHT, ushf, "as SHF")
OPCODE(ULOP3, "LUT", STRAIGHT, ulop3, "as LOP3")
OPCODE(UISETP, "LT LE EQ NE GE GT U32 S64 U64 AND OR XOR EX", STRAIGHT, uisetp, "as ISETP")
OPCODE(USEL, "64", STRAIGHT, usel, "as SEL")
OPCODE(UVIMNMX, "U32", STRAIGHT, uvimnmx, "as VIMNMX")
OPCODE(UI2F, "U32 U16 S16 U8 S8 RZ RM RP", STRAIGHT, ui2f, "as I2F, to f32")
OPCODE(UF2I, "FTZ U32 TRUNC FLOOR CEIL NTZ", STRAIGHT, uf2i, "as F2I, of f32")
OPCODE(UFADD, "FTZ RZ RM RP SAT", STRAIGHT, ufadd, "as FADD")
OPCODE(UFSETP, "LT LE EQ NE GE GT LTU LEU EQU NEU GEU GTU NUM NAN FTZ AND OR XOR", STRAIGHT, ufsetp, "as FSETP")
OPCODE(UP2UR, "", STRAIGHT, up2ur, "d = b with the uniform predicates that c names put into its first byte [O]")
OPCODE(UPRMT, "", STRAIGHT, uprmt, "as PRMT")
OPCODE(UPLOP3, "LUT", STRAIGHT, uplop3, "as PLOP3")
/* ---- control ---- */
OPCODE(NOP, "", STRAIGHT, nop, "nothing")
OPCODE(YIELD, "", STRAIGHT, nop, "a hint to the scheduler [J]")
OPCODE(BRA, "DIV CONV U", BRA, nop,
       "lanes with the predicates go to the target; .DIV: if not all that are named are here, .CONV: if all are [J, O]")
OPCODE(BRX, "", BRX, nop, "goes to the next address + a + displacement, a table's word [P brx.idx]")
OPCODE(BRXU, "", BRX, nop, "the same by a uniform register")
OPCODE(CALL, "REL NOINC", CALL, nop, "goes to the target; the address to return to is in registers already [J, O]")
OPCODE(RET, "REL NODEC", RET, nop, "goes to the address in a [J, O]")
OPCODE(EXIT, "", EXIT, nop, "lanes end [P exit]")
OPCODE(BSSY, "RECONVERGENT RELIABLE", BSSY, nop, "B = these lanes, which BSYNC brings together [J]")
OPCODE(BSYNC, "RECONVERGENT RELIABLE", BSYNC, nop, "waits for all lanes of B [J]")
OPCODE(BREAK, "RELIABLE", BREAK, nop, "takes lanes out of B [J]")
OPCODE(BMOV, "32 CLEAR", BMOV, nop, "B = a number, or another B, which .CLEAR empties: how kernels of sm_87 begin [O]")
OPCODE(
    WARPSYNC, "ALL COLLECTIVE", WARPSYNC, nop,
    "waits for the lanes that are named; .COLLECTIVE: for what they do together up to ENDCOLLECTIVE [P bar.warp.sync, "
    "O]")
OPCODE(ENDCOLLECTIVE, "", STRAIGHT, nop, "its end [O]")
OPCODE(BAR, "SYNC DEFER_BLOCKING", BAR, nop, "waits for all warps of the block [P bar.sync]")
