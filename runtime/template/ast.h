/* ast.h - a parsed template. To know: nodes live in the arena of the context that parsed them and are never
 * changed afterwards; names are interned, so that two equal names are one pointer. */
#ifndef KVI_JINJA_AST_H
#define KVI_JINJA_AST_H
#include "lex.h"

typedef enum kvi_jinja_kind {
    /* Expressions: operands in a, b, c; lists in `list`. */
    KVI_JINJA_N_CONST,   /* constant */
    KVI_JINJA_N_NAME,    /* name */
    KVI_JINJA_N_LIST,    /* list */
    KVI_JINJA_N_TUPLE,   /* list */
    KVI_JINJA_N_DICT,    /* list: key, value, key, value, ... */
    KVI_JINJA_N_ATTR,    /* a.name */
    KVI_JINJA_N_ITEM,    /* a[b] */
    KVI_JINJA_N_SLICE,   /* [a:b:c] inside of ITEM, each may be NULL */
    KVI_JINJA_N_CALL,    /* a(list); KEYWORD nodes behind the positional ones */
    KVI_JINJA_N_KEYWORD, /* name=a */
    KVI_JINJA_N_SPREAD,  /* *a (op '*') or **a (op 'P') among arguments */
    KVI_JINJA_N_FILTER,  /* a|name(list); a is NULL at the head of a filter block */
    KVI_JINJA_N_TEST,    /* a is name(list) */
    KVI_JINJA_N_NOT,
    KVI_JINJA_N_NEGATIVE,
    KVI_JINJA_N_POSITIVE,
    KVI_JINJA_N_AND,
    KVI_JINJA_N_OR,
    KVI_JINJA_N_BINARY,    /* a op b; op: + - * / % F (//) P (**) */
    KVI_JINJA_N_CONCAT,    /* list */
    KVI_JINJA_N_COMPARE,   /* a, then list of COMPARAND */
    KVI_JINJA_N_COMPARAND, /* op: = ! < > l (<=) g (>=) i (in) n (not in); a */
    KVI_JINJA_N_COND,      /* a if b else c; c may be NULL */
    /* Statements: bodies in `list`, else in `other`. */
    KVI_JINJA_N_DATA,         /* constant */
    KVI_JINJA_N_PRINT,        /* a */
    KVI_JINJA_N_FOR,          /* for a in b if c: list, else other */
    KVI_JINJA_N_IF,           /* a: list, else other (an elif is an IF in other) */
    KVI_JINJA_N_SET,          /* a = b; a: NAME, TUPLE of NAMEs, or ATTR of a namespace */
    KVI_JINJA_N_SET_BLOCK,    /* a, filters in b, list */
    KVI_JINJA_N_MACRO,        /* name, parameters in other (KEYWORD, a = default or NULL), list */
    KVI_JINJA_N_CALL_BLOCK,   /* b: the call; a: a MACRO node that holds parameters and body */
    KVI_JINJA_N_FILTER_BLOCK, /* b: filters, list */
    KVI_JINJA_N_WITH,         /* other: KEYWORDs, list */
    KVI_JINJA_N_GENERATION,   /* list */
    KVI_JINJA_N_BREAK,
    KVI_JINJA_N_CONTINUE
} kvi_jinja_kind;

enum { KVI_JINJA_USES_VARARGS = 1, KVI_JINJA_USES_KWARGS = 2, KVI_JINJA_USES_CALLER = 4, KVI_JINJA_RECURSIVE = 8 };

typedef struct kvi_jinja_node {
    kvi_jinja_kind kind;
    char op;
    uint8_t uses; /* of a MACRO; RECURSIVE of a FOR */
    uint32_t line, column;
    const char *name;
    struct kvi_jinja_node *a, *b, *c, *list, *other, *next;
    kvi_jinja_value constant;
} kvi_jinja_node;

#define KVI_JINJA_BUCKETS 256u
typedef struct kvi_jinja_name {
    struct kvi_jinja_name *next;
    size_t len;
    const char *text;
} kvi_jinja_name;
typedef struct kvi_jinja_names {
    kvi_jinja_name *buckets[KVI_JINJA_BUCKETS];
} kvi_jinja_names;
const char *kvi_jinja_intern(kvi_jinja_ctx *ctx, kvi_jinja_names *names, const char *text, size_t len);

/* The statements of a template, chained by next; NULL with ctx->failed on an error (an empty template is NULL, too). */
kvi_jinja_node *kvi_jinja_parse(kvi_jinja_ctx *ctx, const kvi_jinja_tokens *tokens, kvi_jinja_names *names);

/* ---- shared by parse.c and parse_expr.c */
typedef struct kvi_jinja_parser {
    kvi_jinja_ctx *ctx;
    const kvi_jinja_token *token;
    kvi_jinja_names *names;
    uint8_t uses;   /* what the macro being parsed refers to */
    unsigned loops; /* open for loops of the current macro */
} kvi_jinja_parser;
#define KVI_JINJA_MAX_NESTING 100u

kvi_jinja_node *kvi_jinja_node_new(kvi_jinja_parser *p, kvi_jinja_kind kind);
bool kvi_jinja_is_op(const kvi_jinja_parser *p, const char *op);
bool kvi_jinja_is_name(const kvi_jinja_parser *p, const char *name);
bool kvi_jinja_skip_op(kvi_jinja_parser *p, const char *op);
bool kvi_jinja_skip_name(kvi_jinja_parser *p, const char *name);
void kvi_jinja_expect_op(kvi_jinja_parser *p, const char *op);
const char *kvi_jinja_expect_name(kvi_jinja_parser *p); /* interned */
void kvi_jinja_unexpected(kvi_jinja_parser *p, const char *needed);
kvi_jinja_node *kvi_jinja_parse_expr(kvi_jinja_parser *p, bool with_condition);
/* One expression, or several with commas as a TUPLE. `end`: a name that ends the tuple, may be NULL. */
kvi_jinja_node *kvi_jinja_parse_tuple(kvi_jinja_parser *p, bool with_condition, const char *end);
kvi_jinja_node *kvi_jinja_parse_target(kvi_jinja_parser *p, bool with_namespace); /* of set and for */
kvi_jinja_node *kvi_jinja_parse_filters(kvi_jinja_parser *p, kvi_jinja_node *input, bool first_needs_pipe);
kvi_jinja_node *kvi_jinja_parse_postfix(kvi_jinja_parser *p, kvi_jinja_node *node);
kvi_jinja_node *kvi_jinja_parse_unary(kvi_jinja_parser *p, bool with_filters);

#endif
