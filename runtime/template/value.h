/* value.h - the values a chat template computes with, equal to Python's as far as templates can see. Owns:
 * strings with provenance, sequences, ordered dictionaries, comparison, truth, str() and repr(). Refuses: integers
 * of more than 4,300 digits (an error), sets, objects of the host. To know: everything lives in one arena that dies with the
 * rendering; a value is never changed after it was shared, except namespaces. The first error sticks in the context
 * (`failed`), values that follow are meaningless. Each byte of a string knows whether it was written by the template
 * (KVI_JINJA_LITERAL) or came from outside (KVI_JINJA_TEXT); operations that cannot keep the two apart answer TEXT. */
#ifndef KVI_JINJA_VALUE_H
#define KVI_JINJA_VALUE_H
#include "../base/mem.h"
#include "../base/status.h"

typedef enum kvi_jinja_type {
    KVI_JINJA_UNDEFINED = 0,
    KVI_JINJA_NONE,
    KVI_JINJA_BOOL,
    KVI_JINJA_INT,
    KVI_JINJA_FLOAT,
    KVI_JINJA_STR,
    KVI_JINJA_SEQ,
    KVI_JINJA_DICT,
    KVI_JINJA_NAMESPACE,
    KVI_JINJA_FUNCTION, /* a builtin: index in .i */
    KVI_JINJA_METHOD,   /* a method bound to a value */
    KVI_JINJA_MACRO,
    KVI_JINJA_LOOP,
    KVI_JINJA_BIG,   /* an integer beyond 64 bits */
    KVI_JINJA_BYTES, /* what str.encode gives; only printed, measured, compared and decoded */
    KVI_JINJA_CYCLER,
    KVI_JINJA_JOINER
} kvi_jinja_type;

enum { KVI_JINJA_TEXT = 0, KVI_JINJA_LITERAL = 1 };

/* Bytes up to `end` (from the end of the run before) have one tag. */
typedef struct kvi_jinja_run {
    size_t end;
    int tag;
} kvi_jinja_run;

typedef struct kvi_jinja_str {
    const char *data;
    size_t len;
    const kvi_jinja_run *runs; /* NULL: `tag` holds for all bytes */
    size_t n_runs;
    int tag;
    bool markup; /* result of the filter `safe` or `escape`: + escapes what is joined to it */
} kvi_jinja_str;

typedef enum kvi_jinja_seq_kind {
    KVI_JINJA_LIST = 0,
    KVI_JINJA_TUPLE,
    KVI_JINJA_RANGE,
    KVI_JINJA_ITERATOR, /* what map(), select() and the like give: no length, no index, once only */
    KVI_JINJA_KEYS,
    KVI_JINJA_VALUES,
    KVI_JINJA_ITEMS
} kvi_jinja_seq_kind;

/* limbs[0] + limbs[1] * 10^9 + ...; the last is not zero. */
typedef struct kvi_jinja_big {
    bool negative;
    size_t n;
    const uint32_t *limbs; // (n)
} kvi_jinja_big;

struct kvi_jinja_seq;
struct kvi_jinja_dict;
struct kvi_jinja_method;
struct kvi_jinja_macro;
struct kvi_jinja_loop;
struct kvi_jinja_cursor;

typedef struct kvi_jinja_value {
    kvi_jinja_type type;
    union {
        bool b;
        int64_t i;
        double f;
        const kvi_jinja_str *s;
        struct kvi_jinja_seq *seq;
        struct kvi_jinja_dict *dict;
        struct kvi_jinja_method *method;
        struct kvi_jinja_macro *macro;
        struct kvi_jinja_loop *loop;
        struct kvi_jinja_cursor *cursor;
        const kvi_jinja_big *big;
        const char *why; /* of an undefined value: the message of an error that uses it, may be NULL */
    } u;
} kvi_jinja_value;

typedef struct kvi_jinja_seq {
    kvi_jinja_value *items; // (n)
    size_t n, cap;
    kvi_jinja_seq_kind kind;
    bool consumed;             /* an iterator that was read */
    bool named;                /* a tuple of the filter groupby: grouper, list */
    const char *label;         /* of an iterator: what Python calls it, "generator object do_batch" */
    int64_t start, stop, step; /* of a range */
} kvi_jinja_seq;

typedef struct kvi_jinja_dict {
    kvi_jinja_value *keys, *values; // (n)
    size_t n, cap;
} kvi_jinja_dict;

/* cycler(...) and joiner(...): they remember where they are. */
typedef struct kvi_jinja_cursor {
    kvi_jinja_value items; /* a list; of a joiner the separator */
    size_t at;
} kvi_jinja_cursor;

typedef struct kvi_jinja_method {
    kvi_jinja_value self;
    const char *name;
} kvi_jinja_method;

/* What every operation needs: memory, limits, the error and the place in the template it would name. */
typedef struct kvi_jinja_ctx {
    kvi_arena arena;
    size_t max_bytes;
    uint64_t steps, max_steps;
    uint32_t depth;
    bool failed;
    kvrt_error *error;
    const char *name; /* of the template, for messages */
    uint32_t line, column;
} kvi_jinja_ctx;

/* KVRT_TEMPLATE with "name: line L, column C: message". The first error wins. Returns an undefined value for
 * `return`. */
kvi_jinja_value kvi_jinja_fail(kvi_jinja_ctx *ctx, const char *format, ...) KVI_PRINTF(2, 3);
void *kvi_jinja_alloc(kvi_jinja_ctx *ctx, size_t bytes);   /* zeroed; NULL after an error (memory, limit) */
bool kvi_jinja_charge(kvi_jinja_ctx *ctx, uint64_t steps); /* false when the step limit is reached */

static inline kvi_jinja_value kvi_jinja_none(void) { return (kvi_jinja_value){.type = KVI_JINJA_NONE}; }
static inline kvi_jinja_value kvi_jinja_undefined(const char *why)
{
    return (kvi_jinja_value){KVI_JINJA_UNDEFINED, {.why = why}};
}
static inline kvi_jinja_value kvi_jinja_bool(bool b) { return (kvi_jinja_value){KVI_JINJA_BOOL, {.b = b}}; }
static inline kvi_jinja_value kvi_jinja_int(int64_t i) { return (kvi_jinja_value){KVI_JINJA_INT, {.i = i}}; }
static inline kvi_jinja_value kvi_jinja_float(double f) { return (kvi_jinja_value){KVI_JINJA_FLOAT, {.f = f}}; }

/* ---- strings */
kvi_jinja_value kvi_jinja_str_copy(kvi_jinja_ctx *ctx, const char *data, size_t len, int tag);
kvi_jinja_value kvi_jinja_str_static(kvi_jinja_ctx *ctx, const char *text); /* tag TEXT, not copied */
kvi_jinja_value kvi_jinja_slice_bytes(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, size_t from, size_t to);
size_t kvi_jinja_str_chars(const kvi_jinja_str *s);
bool kvi_jinja_str_is(const kvi_jinja_str *s, const char *text);
/* Python's str.isspace for one code point. */
bool kvi_jinja_is_space(uint32_t cp);
bool kvi_jinja_is_printable(uint32_t cp); /* shown as itself by repr */

/* Collects pieces of strings with their tags. Start from {0}. */
typedef struct kvi_jinja_builder {
    char *data;
    size_t len, cap;
    kvi_jinja_run *runs;
    size_t n_runs, cap_runs;
} kvi_jinja_builder;
void kvi_jinja_add(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, const char *data, size_t len, int tag);
void kvi_jinja_add_range(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, const kvi_jinja_str *s, size_t from, size_t to);
void kvi_jinja_add_str(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, const kvi_jinja_str *s);
kvi_jinja_value kvi_jinja_built(kvi_jinja_ctx *ctx, const kvi_jinja_builder *b);
/* `count` times one character, as TEXT. */
void kvi_jinja_pad(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, const char *fill, size_t len, size_t count);

/* ---- sequences and dictionaries */
kvi_jinja_seq *kvi_jinja_seq_new(kvi_jinja_ctx *ctx, kvi_jinja_seq_kind kind);
void kvi_jinja_seq_push(kvi_jinja_ctx *ctx, kvi_jinja_seq *seq, kvi_jinja_value value);
static inline kvi_jinja_value kvi_jinja_seq_value(kvi_jinja_seq *seq)
{
    return (kvi_jinja_value){KVI_JINJA_SEQ, {.seq = seq}};
}
kvi_jinja_value kvi_jinja_pair(kvi_jinja_ctx *ctx, kvi_jinja_value a, kvi_jinja_value b); /* a tuple of two */
kvi_jinja_dict *kvi_jinja_dict_new(kvi_jinja_ctx *ctx);
void kvi_jinja_dict_set(kvi_jinja_ctx *ctx, kvi_jinja_dict *dict, kvi_jinja_value key, kvi_jinja_value value);
kvi_jinja_value *kvi_jinja_dict_find(kvi_jinja_ctx *ctx, const kvi_jinja_dict *dict, kvi_jinja_value key);
kvi_jinja_value *kvi_jinja_dict_get(const kvi_jinja_dict *dict, const char *key); /* a string key; NULL: absent */
kvi_jinja_value kvi_jinja_dict_view(kvi_jinja_ctx *ctx, const kvi_jinja_dict *dict, kvi_jinja_seq_kind kind);
/* The elements of anything Python can iterate; an error for what it cannot, named by `what`. */
kvi_jinja_seq *kvi_jinja_iterate(kvi_jinja_ctx *ctx, kvi_jinja_value value);
bool kvi_jinja_is_iterable(kvi_jinja_value value);

/* ---- meaning */
bool kvi_jinja_truth(kvi_jinja_value value);
bool kvi_jinja_equal(kvi_jinja_ctx *ctx, kvi_jinja_value a, kvi_jinja_value b);
int kvi_jinja_order(kvi_jinja_ctx *ctx, kvi_jinja_value a, kvi_jinja_value b,
                    const char *op); /* TypeError when unordered */
bool kvi_jinja_contains(kvi_jinja_ctx *ctx, kvi_jinja_value item, kvi_jinja_value container);
const char *kvi_jinja_type_name(kvi_jinja_value value);                      /* Python's: "str", "NoneType" */
kvi_jinja_value kvi_jinja_str_of(kvi_jinja_ctx *ctx, kvi_jinja_value value); /* str(value), type STR */
void kvi_jinja_add_value(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, kvi_jinja_value value); /* str(value) appended */
void kvi_jinja_add_repr(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, kvi_jinja_value value);
/* The text of loops, macros, cyclers and joiners (objects.c); `address` ends those that Python ends so. */
void kvi_jinja_add_object(kvi_jinja_ctx *ctx, kvi_jinja_builder *b, kvi_jinja_value value, const char *address);
kvi_jinja_value kvi_jinja_use_undefined(kvi_jinja_ctx *ctx, kvi_jinja_value value); /* the error of using it */

/* ---- numbers as text */
/* Shortest text that reads back as the same double, as Python's repr: "0.1", "1e+16", "inf". dst holds 32 bytes. */
size_t kvi_jinja_float_repr(double f, char *dst);
/* Digits and decimal exponent of a finite f > 0 rounded (half to even) to n digits: 0.d1d2d3... * 10^exponent. n
 * <= 801. */
void kvi_jinja_float_digits(double f, unsigned n, char *digits, int *exponent);
/* f with `places` digits after the point, as Python's "%.*f"; -1 when it does not fit dst[cap]. */
int kvi_jinja_float_fixed(double f, unsigned places, char *dst, size_t cap);
size_t kvi_jinja_int_text(int64_t i, char *dst); /* dst holds 24 bytes */

/* ---- integers of any size (BOOL, INT, BIG); results are INT where they fit 64 bits, else BIG */
#define KVI_JINJA_INT_TEXT 4320 /* bytes the text of any integer needs */
static inline bool kvi_jinja_is_int(kvi_jinja_value v)
{
    return v.type == KVI_JINJA_INT || v.type == KVI_JINJA_BOOL || v.type == KVI_JINJA_BIG;
}
/* op: + - * F (//) % P (**, exponent >= 0). The divisor is not zero. */
kvi_jinja_value kvi_jinja_int_binary(kvi_jinja_ctx *ctx, char op, kvi_jinja_value a, kvi_jinja_value b);
int kvi_jinja_int_compare(kvi_jinja_value a, kvi_jinja_value b);
/* Digits of `base` 2..36, known to be valid. */
kvi_jinja_value kvi_jinja_int_parse(kvi_jinja_ctx *ctx, const char *digits, size_t len, unsigned base, bool negative);
size_t kvi_jinja_int_digits(kvi_jinja_value v, char *dst); /* decimal, with a sign; dst holds KVI_JINJA_INT_TEXT */
double kvi_jinja_int_to_float(kvi_jinja_value v);          /* nearest, infinite beyond the range */
kvi_jinja_value kvi_jinja_int_of_float(kvi_jinja_ctx *ctx, double f); /* toward zero; an error for inf and nan */

/* ---- JSON */
/* Text to value; strings get `tag`. Errors: KVRT_TEMPLATE naming `what`. */
kvi_jinja_value kvi_jinja_from_json(kvi_jinja_ctx *ctx, const char *json, size_t len, const char *what, int tag);
typedef struct kvi_jinja_json_style {
    bool ensure_ascii, sort_keys;
    int indent;                                          /* -1: one line */
    const char *indent_text;                             /* instead of spaces */
    const kvi_jinja_str *item_separator, *key_separator; /* NULL: Python's default */
} kvi_jinja_json_style;
kvi_jinja_value kvi_jinja_to_json(kvi_jinja_ctx *ctx, kvi_jinja_value value, const kvi_jinja_json_style *style);

#endif
