/* sass_code.h - the machine code of a kernel as the interpreter reads it: operands, instructions, functions, and how text becomes them.
 *
 * The text is what cuobjdump -sass prints of a cubin. The one thing to know: everything about an instruction is decided when it is read. An
 * opcode, a modifier or a form of operand that the table of sass_opcodes.h does not name is an error that names it; nothing is guessed. */
#ifndef KVRT_SASS_CODE_H
#define KVRT_SASS_CODE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SASS_RZ = 255, /* reads as zero, and what is written to it is lost */
    SASS_ROWS = 256,
    SASS_URZ = 63,
    SASS_PT = 7, /* the predicate that is always true, per lane and uniform */
    SASS_MAX_OPERANDS = 9,
    SASS_MAX_TEXT = 160,
};

typedef enum sass_kind {
    SASS_NONE,
    SASS_REG,       /* R4, -R4, |R4|, ~R4, R4.H0_H0, R4.64 */
    SASS_UREG,      /* UR4 */
    SASS_PRED,      /* P0, !P0 */
    SASS_UPRED,     /* UP0 */
    SASS_PREDS,     /* PR: all predicates as one value */
    SASS_IMM,       /* 0x10; of what is printed as a decimal number, the bits of the instruction word */
    SASS_CONST,     /* c[0x0][0x160], c[0x0][R4+0x160] */
    SASS_MEM,       /* [R4.64+UR6+0x10], [R4.X8+0x10], [UR4]; behind desc[UR4], which says how to cache */
    SASS_SPECIAL,   /* SR_TID.X */
    SASS_BARRIER,   /* B0: of divergence */
    SASS_SCOREBOARD /* SB0 */
} sass_kind;

typedef struct sass_operand {
    uint8_t kind;        /* sass_kind */
    bool neg, abs, inv;  /* -x, |x|, ~x or !p */
    bool wide;           /* .64: a pair of registers */
    bool unsigned_index; /* [R4.U32+UR4] */
    uint8_t half;        /* 0: both halves; 1: H0_H0; 2: H1_H1 */
    uint8_t select;      /* of I2F, IDP and the like: R4.B1 is 2, R4.H1 6; 0: whole */
    uint8_t scale;       /* of the register in a memory operand: 1, 4, 8, 16 */
    uint8_t bank;        /* of SASS_CONST */
    uint16_t reg;        /* row, or number of predicate, barrier, special register; SASS_RZ where there is none */
    uint16_t ureg;       /* uniform register of a memory operand; SASS_URZ where there is none */
    uint32_t value;      /* immediate, or offset */
    uint32_t high; /* upper word of an immediate, which .64 takes: that of 0x3ff0000000000000, all ones of -0x10 */
} sass_operand;

struct sass_warp;
struct sass_ins;
/* Executes for the lanes of `mask`, of which there is at least one unless the opcode is marked as one that always runs. */
typedef void sass_handler(struct sass_warp *w, const struct sass_ins *i, uint32_t mask);

/* Opcodes that move program counters are the loop's own (sass_warp.c). */
typedef enum sass_flow {
    SASS_STRAIGHT,
    SASS_BRA,
    SASS_BRX,
    SASS_CALL,
    SASS_RET,
    SASS_EXIT,
    SASS_BSSY,
    SASS_BSYNC,
    SASS_BREAK,
    SASS_BMOV,
    SASS_WARPSYNC,
    SASS_BAR,
    SASS_KILL
} sass_flow;

typedef struct sass_opcode {
    const char *name, *modifiers; /* " A B C ": those that may follow; NULL-terminated table */
    sass_flow flow;
    sass_handler *run;
    const char *meaning;
} sass_opcode;

typedef struct sass_ins {
    sass_handler *run;
    uint8_t flow; /* sass_flow */
    uint8_t guard;
    bool guard_not, guard_uniform;
    uint8_t n;             /* operands */
    uint8_t n_preds;       /* leading predicates among them: of IADD3 the carries */
    uint32_t target;       /* index of the instruction that a branch goes to */
    uint64_t modifiers[2]; /* bit per sass_modifier */
    sass_operand arg[SASS_MAX_OPERANDS];
    uint32_t at; /* address in the function */
    uint64_t raw[2];
    const sass_opcode *opcode;
    char text[SASS_MAX_TEXT];
} sass_ins;

extern const sass_opcode sass_opcodes[]; /* ends with a row without name */

typedef struct sass_function {
    char name[128];
    sass_ins *code;
    uint32_t n;
} sass_function;

/* Reads the text of one function, from behind its "Function :" line to the next or to the end. False: error says what and where. */
bool sass_read_function(const char *text, size_t length, sass_function *out, char *error, size_t cap);
/* One instruction without address and semicolon, "@P0 IADD3 R0, P1, R2, 0x10, RZ"; `raw` may be NULL where no float immediate occurs. */
bool sass_read_instruction(const char *text, const uint64_t raw[2], sass_ins *out, char *error, size_t cap);

#endif
