/* sass_table.h - what the table of opcodes is made of: modifiers by number, the handlers that its rows name. */
#ifndef KVRT_SASS_TABLE_H
#define KVRT_SASS_TABLE_H
#include "sass_code.h"

/* clang-format off */
#define SASS_MODIFIERS(M) \
    M(X) M(HI) M(SX32) M(WIDE) M(U32) M(S32) M(U64) M(S64) M(U16) M(S16) M(U8) M(S8) M(MOV) M(SHL) M(IADD) M(LUT) M(PAND) M(L) M(R) M(W) \
    M(LT) M(LE) M(EQ) M(NE) M(GE) M(GT) M(LTU) M(LEU) M(EQU) M(NEU) M(GEU) M(GTU) M(NUM) M(NAN) M(AND) M(OR) M(XOR) M(EX) \
    M(FTZ) M(RZ) M(RM) M(RP) M(SAT) M(RELU) M(TRUNC) M(FLOOR) M(CEIL) M(NTZ) M(F16) M(F32) M(F64) M(BF16) M(BF16_V2) M(PACK_AB) M(MMA) \
    M(RCP) M(RSQ) M(SQRT) M(EX2) M(LG2) M(SIN) M(COS) M(TANH) M(RCP64H) M(RSQ64H) M(SH) \
    M(E) M(32) M(64) M(128) M(CONSTANT) M(NA) M(STRONG) M(GPU) M(SM) M(SYS) M(SC) M(ADD) M(EXCH) M(BYPASS) M(LTC128B) M(EF) M(EL) M(IVALL) \
    M(M88) M(MT88) M(16) M(2) M(4) M(16816) M(1688) M(16832) M(BFLY) M(IDX) M(UP) M(DOWN) M(ALL) M(ANY) M(4A) \
    M(DIV) M(CONV) M(REL) M(NOINC) M(NODEC) M(SYNC) M(POPC) M(INC) M(DEFER_BLOCKING) M(COLLECTIVE) M(RECONVERGENT) M(RELIABLE) M(U) \
    M(ZFILL) M(LU) M(CLEAR)
/* clang-format on */

typedef enum sass_modifier {
#define SASS_MODIFIER_NUMBER(name) SASS_M_##name,
    SASS_MODIFIERS(SASS_MODIFIER_NUMBER)
#undef SASS_MODIFIER_NUMBER
        SASS_N_MODIFIERS
} sass_modifier;

static inline bool sass_has(const sass_ins *i, sass_modifier m) { return i->modifiers[m >> 6] >> (m & 63) & 1; }

/* Handlers, one per name in the table; sass_integer.c, sass_float.c, sass_half.c, sass_memory.c, sass_exchange.c. */
#define OPCODE(name, modifiers, flow, handler, meaning) sass_handler sass_##handler;
#include "sass_opcodes.h"
#undef OPCODE

/* Of comparisons: lanes by the relation that the modifiers name, and joined with a predicate by AND, OR, XOR. */
uint32_t sass_compared(const sass_ins *i, uint32_t less, uint32_t equal, uint32_t unordered);
uint32_t sass_joined(const sass_ins *i, uint32_t value, uint32_t with);

#endif
