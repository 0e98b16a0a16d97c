/* interpret.h - what the evaluator's files share: scopes, calls, and the tables of filters, tests, methods and
 * functions. To know: names are resolved at run time through a chain of scopes. A for loop (each iteration), a macro,
 * a call, set, filter or with block opens a scope; if does not; set writes to the innermost one. */
#ifndef KVI_JINJA_EVAL_H
#define KVI_JINJA_EVAL_H
#include "ast.h"

#define KVI_JINJA_MAX_DEPTH 250u /* nested evaluations: the C stack stays below about 200 KiB */
#define KVI_JINJA_MAX_RANGE 100000

typedef struct kvi_jinja_var {
    const char *name; /* interned */
    kvi_jinja_value value;
    struct kvi_jinja_var *next;
} kvi_jinja_var;

typedef struct kvi_jinja_scope {
    kvi_jinja_var *vars;
    struct kvi_jinja_scope *parent;
} kvi_jinja_scope;

typedef struct kvi_jinja_macro {
    const kvi_jinja_node *node;
    kvi_jinja_scope *scope; /* where it was defined */
} kvi_jinja_macro;

typedef struct kvi_jinja_loop {
    const kvi_jinja_node *node; /* its for statement */
    kvi_jinja_scope *scope;     /* around it */
    const kvi_jinja_seq *seq;
    size_t index0, depth0;
    bool has_changed;
    kvi_jinja_value changed;
} kvi_jinja_loop;

typedef struct kvi_jinja_interp {
    kvi_jinja_ctx *ctx;
    kvi_jinja_names *names;
    kvi_jinja_scope *scope;
    kvi_jinja_builder *out;
    enum { KVI_JINJA_RUN = 0, KVI_JINJA_BREAK, KVI_JINJA_CONTINUE } flow;
    int64_t now; /* local wall time in seconds since 1970, for strftime_now */
} kvi_jinja_interp;

typedef struct kvi_jinja_args {
    const kvi_jinja_value *values; // (n)
    size_t n;
    const char *const *keys;      // (n_keys)
    const kvi_jinja_value *named; // (n_keys)
    size_t n_keys;
} kvi_jinja_args;

/* interpret.c */
void kvi_jinja_run_body(kvi_jinja_interp *in, const kvi_jinja_node *body);
/* Runs the template with `globals` (name, value pairs of a dict) and appends to `out`. */
void kvi_jinja_run_template(kvi_jinja_ctx *ctx, kvi_jinja_names *names, const kvi_jinja_node *body,
                            const kvi_jinja_dict *globals, int64_t now, kvi_jinja_builder *out);
/* loop(iterable) of a recursive loop: its output. */
kvi_jinja_value kvi_jinja_call_loop(kvi_jinja_interp *in, const kvi_jinja_loop *loop, const kvi_jinja_args *args);
kvi_jinja_value kvi_jinja_lookup(kvi_jinja_interp *in, const char *name);
void kvi_jinja_assign(kvi_jinja_interp *in, const char *name, kvi_jinja_value value);

/* interpret_expr.c */
kvi_jinja_value kvi_jinja_eval(kvi_jinja_interp *in, const kvi_jinja_node *node);
kvi_jinja_value kvi_jinja_eval_filter(kvi_jinja_interp *in, const kvi_jinja_node *filters, kvi_jinja_value input);
void kvi_jinja_eval_args(kvi_jinja_interp *in, const kvi_jinja_node *list, kvi_jinja_args *out);
void kvi_jinja_at(kvi_jinja_interp *in, const kvi_jinja_node *node); /* errors from now on name this place */

/* call.c */
kvi_jinja_value kvi_jinja_call(kvi_jinja_interp *in, kvi_jinja_value callee, const kvi_jinja_args *args);

/* access.c */
kvi_jinja_value kvi_jinja_bound(kvi_jinja_interp *in, kvi_jinja_value self, const char *method);
/* Python's getattr, within the sandbox; false when there is no such attribute. */
bool kvi_jinja_getattr(kvi_jinja_interp *in, kvi_jinja_value object, const char *name, kvi_jinja_value *out);
kvi_jinja_value kvi_jinja_attribute(kvi_jinja_interp *in, kvi_jinja_value object, const char *name);
kvi_jinja_value kvi_jinja_item(kvi_jinja_interp *in, kvi_jinja_value object, kvi_jinja_value key);
kvi_jinja_value kvi_jinja_slice(kvi_jinja_interp *in, kvi_jinja_value object,
                                const kvi_jinja_value part[3]); /* absent parts */
/* "a.b.0" as the filters' attribute argument means it; `fallback` stands for undefined elements unless it is none. */
kvi_jinja_value kvi_jinja_path(kvi_jinja_interp *in, kvi_jinja_value object, kvi_jinja_value path,
                               kvi_jinja_value fallback);

/* arith.c */
kvi_jinja_value kvi_jinja_binary(kvi_jinja_ctx *ctx, char op, kvi_jinja_value a, kvi_jinja_value b);
kvi_jinja_value kvi_jinja_negate(kvi_jinja_ctx *ctx, kvi_jinja_value a, bool negative);
kvi_jinja_value kvi_jinja_escape(kvi_jinja_ctx *ctx, kvi_jinja_value value); /* HTML; gives markup */
kvi_jinja_value kvi_jinja_as_markup(kvi_jinja_ctx *ctx, kvi_jinja_value str, bool markup);

/* objects.c */
kvi_jinja_value kvi_jinja_cycler(kvi_jinja_ctx *ctx, const kvi_jinja_args *args);
kvi_jinja_value kvi_jinja_joiner(kvi_jinja_ctx *ctx, const kvi_jinja_args *args);
kvi_jinja_value kvi_jinja_call_joiner(kvi_jinja_ctx *ctx, kvi_jinja_value joiner, const kvi_jinja_args *args);
kvi_jinja_value kvi_jinja_cycler_method(kvi_jinja_ctx *ctx, kvi_jinja_value self, const char *name,
                                        const kvi_jinja_args *args);
bool kvi_jinja_object_attribute(kvi_jinja_interp *in, kvi_jinja_value object, const char *name, kvi_jinja_value *out);

/* functions.c: globals and methods of str, dict, list, loop */
typedef enum kvi_jinja_function {
    KVI_JINJA_F_RANGE = 0,
    KVI_JINJA_F_DICT,
    KVI_JINJA_F_NAMESPACE,
    KVI_JINJA_F_RAISE,
    KVI_JINJA_F_STRFTIME,
    KVI_JINJA_F_CYCLER,
    KVI_JINJA_F_JOINER,
    KVI_JINJA_F_SELF, /* not a function: the template itself */
    KVI_JINJA_F_LIPSUM
} kvi_jinja_function;
bool kvi_jinja_find_function(const char *name, kvi_jinja_value *out);
kvi_jinja_value kvi_jinja_call_function(kvi_jinja_interp *in, kvi_jinja_value function, const kvi_jinja_args *args);
kvi_jinja_value kvi_jinja_call_method(kvi_jinja_interp *in, const kvi_jinja_method *method, const kvi_jinja_args *args);
kvi_jinja_value kvi_jinja_str_method(kvi_jinja_interp *in, const kvi_jinja_str *s, const char *name,
                                     const kvi_jinja_args *args);

kvi_jinja_value kvi_jinja_decode(kvi_jinja_ctx *ctx, const kvi_jinja_str *bytes, const kvi_jinja_args *args);

/* strings.c: what methods and filters have in common */
kvi_jinja_value kvi_jinja_strip(kvi_jinja_ctx *ctx, kvi_jinja_value s, kvi_jinja_value chars, bool left, bool right);
kvi_jinja_value kvi_jinja_replace(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, const kvi_jinja_str *from,
                                  const kvi_jinja_str *to, int64_t count);
typedef enum kvi_jinja_case {
    KVI_JINJA_LOWER,
    KVI_JINJA_UPPER,
    KVI_JINJA_TITLE,
    KVI_JINJA_FILTER_TITLE,
    KVI_JINJA_CAPITALIZE
} kvi_jinja_case;
kvi_jinja_value kvi_jinja_change_case(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, kvi_jinja_case mode);
kvi_jinja_value kvi_jinja_join(kvi_jinja_ctx *ctx, const kvi_jinja_seq *seq, const kvi_jinja_str *separator,
                               bool strict);
kvi_jinja_value kvi_jinja_centered(kvi_jinja_ctx *ctx, const kvi_jinja_str *s, int64_t width, const char *fill,
                                   size_t fill_len);
bool kvi_jinja_is_word(uint32_t cp);                            /* \w of Python's re */
bool kvi_jinja_is_decimal(uint32_t cp);                         /* category Nd */
size_t kvi_jinja_byte_at(const kvi_jinja_str *s, size_t chars); /* offset of the character with that index */

/* filters*.c, value_tests.c */
typedef kvi_jinja_value (*kvi_jinja_filter_fn)(kvi_jinja_interp *in, kvi_jinja_value input, const kvi_jinja_args *args);
kvi_jinja_filter_fn kvi_jinja_find_filter(const char *name);
kvi_jinja_filter_fn kvi_jinja_find_seq_filter(const char *name);
kvi_jinja_filter_fn kvi_jinja_find_text_filter(const char *name);
kvi_jinja_value kvi_jinja_wordwrap(kvi_jinja_interp *in, kvi_jinja_value x, const kvi_jinja_args *args);
/* Python's float(text). */
bool kvi_jinja_parse_float(const kvi_jinja_str *s, double *out);
kvi_jinja_value kvi_jinja_apply_filter(kvi_jinja_interp *in, const char *name, kvi_jinja_value input,
                                       const kvi_jinja_args *args);
bool kvi_jinja_apply_test(kvi_jinja_interp *in, const char *name, kvi_jinja_value input, const kvi_jinja_args *args);

/* strftime.c: Python's strftime in the C locale; false for a directive it does not know. */
bool kvi_jinja_strftime(int64_t seconds, const char *format, size_t len, kvi_buf *out);

#endif
