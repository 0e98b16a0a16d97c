/* regex_impl.h - the program a regular expression becomes; shared by regex_parse.c and regex_match.c. Jumps are
 * relative, so that a piece of program can be moved and repeated. */
#ifndef KVI_REGEX_IMPL_H
#define KVI_REGEX_IMPL_H
#include "regex.h"
#include "regex_set.h"

typedef enum kvi_op {
    KVI_OP_MATCH,
    KVI_OP_CLASS,     /* one code point of class x */
    KVI_OP_BYTES,     /* the y bytes of the pool at x */
    KVI_OP_LOOP,      /* class x, y to z times, as many as possible first */
    KVI_OP_LOOP_LAZY, /* as few as possible first */
    KVI_OP_LOOP_KEEP, /* as many as possible, never fewer */
    KVI_OP_JUMP,      /* to x */
    KVI_OP_SPLIT,     /* to x, failing that to y */
    KVI_OP_ENTER,     /* register x = position, at the start of a round of a loop */
    KVI_OP_LEAVE,     /* ends the loop, going to y, when the round that register x saw begin matched nothing */
    KVI_OP_MARK,      /* register x = number of choices, register x + 1 = position */
    KVI_OP_CUT,       /* forgets the choices since MARK x */
    KVI_OP_AHEAD,     /* the same, and goes back to the position of MARK x */
    KVI_OP_FAIL,      /* forgets the choices since MARK x, which must have been followed by a SPLIT, and fails */
    KVI_OP_BACK,      /* x code points back */
    KVI_OP_SAVE,      /* register x = position */
    KVI_OP_REPEAT,    /* what lies between registers x and x + 1 once more */
    KVI_OP_ASSERT,    /* x: a kvi_assertion */
} kvi_op;
typedef enum kvi_assertion {
    KVI_AT_LINE_START,
    KVI_AT_LINE_END,
    KVI_AT_TEXT_START,
    KVI_AT_TEXT_END,
    KVI_AT_LAST_LINE_END,
    KVI_AT_SEARCH_START,
    KVI_AT_WORD_EDGE,
    KVI_NOT_AT_WORD_EDGE
} kvi_assertion;
typedef struct kvi_inst {
    kvi_op op;
    int32_t x, y, z;
} kvi_inst;
#define KVI_LOOP_MAX INT32_MAX /* z of a loop without upper bound */

/* Membership: a bitmap for the first 65,536 code points, ranges above. */
typedef struct kvi_class {
    uint8_t *low;     // (8192)
    kvi_range *items; // (n) the whole set, tidy
    size_t n, first_high;
} kvi_class;

#define KVI_REGEX_REGISTERS 128
struct kvi_regex {
    kvi_regex *next;
    kvi_inst *code; // (n_code)
    size_t n_code, code_cap;
    kvi_class *classes; // (n_classes)
    size_t n_classes, classes_cap;
    kvi_buf pool;
    int32_t n_registers;
    int32_t word;         /* class of \w for \b, -1: not used */
    bool can_start[256];  /* first bytes a match may have */
    bool starts_anywhere; /* also before no byte at all: it may be empty */
};

static inline bool kvi_class_has(const kvi_class *c, uint32_t cp)
{
    if (cp < 0x10000) return c->low[cp >> 3] >> (cp & 7) & 1;
    size_t low = c->first_high, high = c->n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (cp > c->items[middle].last) low = middle + 1;
        else high = middle;
    }
    return low < c->n && cp >= c->items[low].first;
}

/* regex_parse.c: fills code, classes and pool. False with *why (static text), or with *why = NULL when memory is out. */
bool kvi_regex_parse(kvi_regex *regex, const char *pattern, size_t len, const char **why);

#endif
