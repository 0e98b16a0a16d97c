/* expr.h - regular languages of bytes as expressions that are taken apart byte by byte (Brzozowski's derivatives).
 * Owns: one store of expressions; equal ones are one number, so that comparing is one comparison and a language that comes round to itself is the
 * same state. Refuses: expressions that nest deeper than KVI_EXPR_DEPTH, more than the store's limits.
 * The one thing to know: nothing here returns errors. The first that goes wrong stays in `why`, and every later expression is the empty
 * language: whoever builds looks once, at the end. */
#ifndef KVI_EXPR_H
#define KVI_EXPR_H
#include "../base/mem.h"
#include <stdbool.h>
#include <stdint.h>

typedef uint32_t kvi_expr;
#define KVI_EXPR_NONE 0u /* no text at all */
#define KVI_EXPR_VOID 1u /* the empty text */
#define KVI_EXPR_DEPTH 120u
#define KVI_EXPR_MANY UINT32_MAX /* of kvi_expr_repeat: without an upper bound */

typedef enum kvi_expr_kind {
    KVI_EXPR_IS_NONE,
    KVI_EXPR_IS_VOID,
    KVI_EXPR_IS_SET,    /* one byte of set a */
    KVI_EXPR_IS_THEN,   /* a, then b; a is no THEN itself */
    KVI_EXPR_IS_OR,     /* any of the b children from a on, sorted */
    KVI_EXPR_IS_AND,    /* all of them */
    KVI_EXPR_IS_NOT,    /* everything but a */
    KVI_EXPR_IS_REPEAT, /* a, from b to c times */
    KVI_EXPR_IS_DIGITS, /* decimal digits with which a number is a multiple, see kvi_expr_multiple */
    KVI_EXPR_IS_BEGIN,  /* ^ and $ of a pattern: only until kvi_expr_search has resolved them */
    KVI_EXPR_IS_END
} kvi_expr_kind;

typedef struct kvi_expr_node {
    uint8_t kind, depth;
    bool nullable; /* holds the empty text */
    bool hard;     /* built with AND, NOT or DIGITS: whether it holds anything at all needs a search */
    bool anchored; /* has BEGIN or END somewhere */
    uint8_t known; /* of hard ones: 1 it holds something, 2 it holds nothing */
    uint32_t a, b, c;
} kvi_expr_node;

typedef struct kvi_byte_set {
    uint64_t bits[4];
} kvi_byte_set;

typedef struct kvi_exprs {
    kvi_expr_node *nodes; // (n)
    size_t n, cap;
    uint32_t *children; // (n_children)
    size_t n_children, cap_children;
    kvi_byte_set *sets; // (n_sets)
    size_t n_sets, cap_sets;
    uint32_t *table; // (n_table) a power of two; node + 1
    size_t n_table;
    uint32_t *set_table; // (n_set_table) the same of sets
    size_t n_set_table;
    uint32_t *scratch; /* a stack for building: recursion keeps positions, not addresses */
    size_t n_scratch, cap_scratch;
    uint32_t *seen; // (cap) which search saw a node last
    uint32_t *came; // (cap) from where
    size_t cap_seen, cap_came;
    uint32_t search;
    struct kvi_expr_memo {
        kvi_expr of, is;
        uint32_t byte;
    } * memo;             // (KVI_EXPR_MEMO) derivatives computed lately
    uint8_t classes[256]; /* bytes that no set tells apart have one class */
    uint8_t first_of[256];
    uint32_t n_classes;
    size_t classes_for; /* n_sets when they were computed */
    bool has_digits;
    /* Lengths (expr_count.c). */
    kvi_expr unit;      /* a character, which lengths count; NONE: there is none */
    kvi_expr rests[32]; // (n_rests) what may be left of one
    uint32_t n_rests;
    struct kvi_expr_span {
        uint32_t shortest, looped, walked, longest; /* in characters; MANY: none */
        uint32_t loop, graph;
    } * spans;         // (n_spans)
    uint32_t *span_of; // (cap_span_of) of a node: number + 1
    struct kvi_expr_graph {
        uint32_t farthest, longest, loop;
    } * graphs; // (n_graphs)
    size_t n_spans, cap_spans, cap_span_of, n_graphs, cap_graphs;
    uint32_t n_too_large;
    size_t max_nodes;
    uint64_t steps;  /* that may still be spent */
    const char *why; /* static; NULL while all is well, "" when memory ran out */
} kvi_exprs;

/* False when memory is out. */
bool kvi_exprs_init(kvi_exprs *pool, size_t max_nodes, uint64_t steps);
void kvi_exprs_free(kvi_exprs *pool);
uint64_t kvi_exprs_bytes(const kvi_exprs *pool);
/* Forgets all expressions from number n on; nobody may hold one of them. */
void kvi_exprs_truncate(kvi_exprs *pool, size_t n);
/* Notes what went wrong, if nothing did before; returns KVI_EXPR_NONE. */
kvi_expr kvi_expr_fail(kvi_exprs *pool, const char *why);

/* ---- building ---- */
kvi_expr kvi_expr_byte_set(kvi_exprs *pool, const kvi_byte_set *set);
kvi_expr kvi_expr_bytes(kvi_exprs *pool, uint8_t first, uint8_t last);         /* one byte of a range */
kvi_expr kvi_expr_text(kvi_exprs *pool, const char *bytes, size_t len);        /* this text */
kvi_expr kvi_expr_code_points(kvi_exprs *pool, uint32_t first, uint32_t last); /* one code point of a range, as UTF-8 */
kvi_expr kvi_expr_then(kvi_exprs *pool, kvi_expr a, kvi_expr b);
kvi_expr kvi_expr_or(kvi_exprs *pool, const kvi_expr *list, size_t n);
kvi_expr kvi_expr_and(kvi_exprs *pool, const kvi_expr *list, size_t n);
kvi_expr kvi_expr_or2(kvi_exprs *pool, kvi_expr a, kvi_expr b);
kvi_expr kvi_expr_and2(kvi_exprs *pool, kvi_expr a, kvi_expr b);
/* An OR of many, of which the parts before the last are expressions too: joined pairwise, they are n log n and not n * n. Begins as zeros. */
typedef struct kvi_expr_union {
    kvi_expr parts[32]; /* of 2^i */
} kvi_expr_union;
void kvi_expr_union_add(kvi_exprs *pool, kvi_expr_union *of, kvi_expr e);
kvi_expr kvi_expr_union_all(kvi_exprs *pool, const kvi_expr_union *of);
kvi_expr kvi_expr_not(kvi_exprs *pool, kvi_expr a);
kvi_expr kvi_expr_repeat(kvi_exprs *pool, kvi_expr a, uint32_t min, uint32_t max);
kvi_expr kvi_expr_anything(kvi_exprs *pool); /* any text */
/* Decimal digits, at most one point among them and up to `fraction` digits behind it, whose number times 10^fraction is a multiple of `of`
 * (1 .. 2^32 / 10 - 1). Fewer digits than `fraction` count as if zeros followed. */
kvi_expr kvi_expr_multiple(kvi_exprs *pool, uint32_t of, uint32_t fraction);
kvi_expr kvi_expr_anchor(kvi_exprs *pool, bool end);
/* What a pattern with anchors finds somewhere in a text: `around` (such as any characters) may stand on sides without an anchor. Anchors within
 * repetitions, AND and NOT are refused. */
kvi_expr kvi_expr_search(kvi_exprs *pool, kvi_expr pattern, kvi_expr around);

/* ---- asking ---- */
static inline bool kvi_expr_nullable(const kvi_exprs *pool, kvi_expr e) { return pool->nodes[e].nullable; }
/* What may follow `byte`. */
kvi_expr kvi_expr_derive(kvi_exprs *pool, kvi_expr e, uint8_t byte);
/* A simpler expression for whoever asks whether texts of up to `far` bytes can be gone on with: where they can in it, they can in `e`. Counts beyond
 * that are as good as none, so that a string with a long way to its limit is one state; so are exceptions from any name. */
kvi_expr kvi_expr_nearby(kvi_exprs *pool, kvi_expr e, uint32_t far);
/* An expression of which texts of up to `far` bytes leave something over, or end, just where they do in e; greater counts are left out. */
kvi_expr kvi_expr_near(kvi_exprs *pool, kvi_expr e, uint32_t far);
/* What minLength and maxLength count: one character of a text, no beginning of which is one. */
void kvi_expr_count_unit(kvi_exprs *pool, kvi_expr unit);
/* Of "a language and so many characters", whether it holds any text: 1 or 0; -1: it is something else, or must be searched. */
int kvi_expr_counted_holds(kvi_exprs *pool, kvi_expr e);
/* Room in seen[] and came[] for all nodes. */
bool kvi_expr_room_to_search(kvi_exprs *pool);
/* Whether it holds any text. */
bool kvi_expr_holds_any(kvi_exprs *pool, kvi_expr e);
bool kvi_expr_matches(kvi_exprs *pool, kvi_expr e, const char *bytes, size_t len);
/* Computes classes[], first_of[] and n_classes for the sets that there are. */
void kvi_exprs_classify(kvi_exprs *pool);

#endif
