/* schema_impl.h - what the files of the schema compiler share. A schema becomes *shapes*: what kinds of values it allows, with the limits of
 * each kind.
 *
 *     schema.c         a schema object to shapes that hold together: its own keywords, $ref, allOf, anyOf, ...
 *     schema_shape.c   two shapes that must both hold, as one; whether two can hold together; whether a value fits
 *     schema_rules.c   a shape to rules and terminals
 *     schema_text.c    strings: formats, patterns, lengths
 *
 * Shapes are worked out when they are asked for (kvi_shape_resolve), so that recursive schemas end. */
#ifndef KVI_SCHEMA_IMPL_H
#define KVI_SCHEMA_IMPL_H
#include "decimal.h"
#include "grammar.h"
#include "json_tree.h"
#include "pattern.h"

typedef uint32_t kvi_shape_id; /* 0: no shape; 1: everything; 2: nothing */
#define KVI_SHAPE_ANY 1u
#define KVI_SHAPE_NOTHING 2u

enum {
    KVI_IS_NULL = 1,
    KVI_IS_BOOL = 2,
    KVI_IS_NUMBER = 4,
    KVI_IS_STRING = 8,
    KVI_IS_ARRAY = 16,
    KVI_IS_OBJECT = 32,
    KVI_IS_ANY = 63
};

typedef enum kvi_shape_kind {
    KVI_SHAPE_RAW,    /* a schema that is not looked at yet */
    KVI_SHAPE_BOTH,   /* left and right, not worked out yet */
    KVI_SHAPE_SAME,   /* worked out: see `is` */
    KVI_SHAPE_TYPED,  /* kinds of values, each with its limits */
    KVI_SHAPE_VALUES, /* one of these values */
    KVI_SHAPE_CHOICE  /* any of these shapes */
} kvi_shape_kind;

typedef struct kvi_property {
    const char *name; /* PROPERTY: unescaped */
    size_t len;
    kvi_expr pattern; /* of patternProperties: JSON text of names */
    kvi_shape_id shape;
    bool required; /* PROPERTY */
    bool listed;   /* PROPERTY: of `properties`, which give the order; others are only spoken of (required, not) */
    struct kvi_property *next;
} kvi_property;

typedef struct kvi_shape_list {
    kvi_shape_id shape;
    struct kvi_shape_list *next;
} kvi_shape_list;

typedef struct kvi_value_list {
    const kvi_json_value *value;
    struct kvi_value_list *next;
} kvi_value_list;

typedef struct kvi_shape {
    kvi_shape_kind kind;
    bool busy;                    /* being worked out */
    const kvi_json_value *schema; /* RAW; else where it comes from, for messages */
    kvi_shape_id left, right, is; /* BOTH; SAME */
    kvi_symbol symbol;
    bool has_symbol;
    /* TYPED */
    uint32_t types;
    kvi_decimal_range number;
    const kvi_json_value *multiple, *multiple2; /* of both */
    kvi_expr text;                              /* content of strings; has_text */
    bool has_text;
    uint32_t min_length, max_length, min_items, max_items, min_properties, max_properties;
    kvi_shape_list *prefix;
    kvi_shape_id items;
    kvi_property *properties, *patterns;
    kvi_shape_id additional;
    kvi_expr names; /* that every property must have; has_names */
    bool has_names;
    kvi_value_list *values;  /* VALUES */
    kvi_shape_list *choices; /* CHOICE */
} kvi_shape;

typedef struct kvi_schema {
    kvi_grammar *g;
    const char *name; /* of the text that it is from, in messages */
    /* How values are written: JSON, or with quote != KVI_EXPR_NONE as Gemma 4 does: bare names, no white space, strings as they are between quotes,
     * which `stop` (the quote's spelling) is not part of. */
    kvi_expr quote;
    const char *stop;
    kvi_arena arena;
    kvi_json_value *root;
    uint32_t draft;     /* that its $schema names: 3, 4, 6, 7; later ones, and none, are 8 */
    kvi_shape **shapes; // (n_shapes) in the arena
    size_t n_shapes, cap_shapes;
    kvi_shape_id *both_table; // (n_both_table) of BOTH, by left and right
    size_t n_both, n_both_table;
    unsigned depth;      /* of resolving */
    kvi_shape_id *queue; // (n_queue) shapes whose rules are to be made
    size_t n_queue, cap_queue;
    kvi_symbol any; /* any JSON value, once made; has_any */
    bool has_any;
    kvi_expr character, plain; /* of a free string; of one in which only what must be is escaped */
    /* The first error. */
    const kvi_json_value *where;
    const char *keyword;
    char message[200];
    bool failed, no_memory;
    uint64_t steps; /* of comparing shapes */
} kvi_schema;

#define KVI_NO_LIMIT UINT32_MAX

/* Notes an error at a schema's keyword (NULL: the schema itself); returns KVI_SHAPE_NOTHING. */
kvi_shape_id kvi_schema_fail(kvi_schema *s, const kvi_json_value *where, const char *keyword, const char *message);
bool kvi_schema_failed(const kvi_schema *s);
void *kvi_schema_alloc(kvi_schema *s, size_t bytes); /* zeroed; NULL: failed */

kvi_shape_id kvi_shape_new(kvi_schema *s, kvi_shape_kind kind, const kvi_json_value *schema);
kvi_shape_id kvi_shape_of(kvi_schema *s, kvi_json_value *schema);           /* RAW */
kvi_shape_id kvi_shape_both(kvi_schema *s, kvi_shape_id a, kvi_shape_id b); /* lazy */
/* The shape, worked out: TYPED, VALUES or CHOICE. */
kvi_shape_id kvi_shape_resolve(kvi_schema *s, kvi_shape_id id);
const kvi_shape *kvi_shape_get(kvi_schema *s, kvi_shape_id id); /* resolves */

kvi_shape_id kvi_shape_intersect(kvi_schema *s, kvi_shape_id a, kvi_shape_id b); /* both resolved */
bool kvi_shape_disjoint(kvi_schema *s, kvi_shape_id a, kvi_shape_id b, unsigned depth);
bool kvi_shape_fits(kvi_schema *s, kvi_shape_id id, const kvi_json_value *value);
/* The shape of a property of this name in an object shape: named, by pattern, or additional. */
kvi_shape_id kvi_shape_property(kvi_schema *s, const kvi_shape *shape, const char *name, size_t len);
/* What patternProperties and propertyNames say of a name; ANY and *matches = false where no pattern speaks of it. */
kvi_shape_id kvi_shape_by_pattern(kvi_schema *s, const kvi_shape *shape, const char *name, size_t len, bool *matches);
const kvi_property *kvi_property_find(const kvi_property *list, const char *name, size_t len);

/* Strings (schema_text.c). */
void kvi_schema_text(kvi_schema *s, const kvi_json_value *schema, kvi_shape *shape); /* pattern, format, lengths */
kvi_expr kvi_schema_pattern(kvi_schema *s, const kvi_json_value *where, const char *keyword, const char *text,
                            size_t len);
kvi_expr kvi_schema_string(kvi_schema *s, const kvi_shape *shape); /* with quotes */
/* A string as it is, without escapes; `stop` is not part of it. What a pattern or format allows only with escapes is left out. */
kvi_expr kvi_schema_raw_string(kvi_schema *s, const kvi_shape *shape, const char *stop);
kvi_expr kvi_schema_raw_text(kvi_schema *s, const char *text, size_t len, const char *stop);
kvi_expr kvi_schema_number(kvi_schema *s, const kvi_shape *shape);
kvi_expr kvi_schema_literal(kvi_schema *s, const kvi_json_value *value); /* JSON text of a value */
kvi_expr kvi_schema_bare_names(kvi_schema *s); /* of properties, where they stand without quotes */
kvi_expr kvi_schema_space(kvi_schema *s);      /* white space where JSON printers write some */
void kvi_schema_begin_texts(kvi_schema *s);

/* A schema (schema.c), which must live until the end: s->g and s->name are set, s->root becomes `root`. */
void kvi_schema_begin(kvi_schema *s, kvi_json_value *root);
/* The first error, as GRAMMAR or NOMEM_HOST; frees all but the grammar. */
kvrt_status kvi_schema_end(kvi_schema *s, kvrt_error *error);

/* The symbol of a shape (schema_rules.c): rules of what is behind it are made by kvi_schema_make_rules. */
kvi_symbol kvi_schema_symbol(kvi_schema *s, kvi_shape_id id);
void kvi_schema_make_rules(kvi_schema *s);

#endif
