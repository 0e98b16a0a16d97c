/* schema.c - a schema object to the shapes that must hold together. See schema.h and schema_impl.h. */
#include "schema.h"
#include "schema_impl.h"

#include <string.h>

#define RESOLVE_DEPTH 32u /* of references and allOf within one another, before anything of them is a value */
#define SHAPES_MOST 200000u

/* ---------------------------------------------------------------------------------------------------------- errors --- */
kvi_shape_id kvi_schema_fail(kvi_schema *s, const kvi_json_value *where, const char *keyword, const char *message)
{
    if (s->failed) return KVI_SHAPE_NOTHING;
    s->failed = true;
    s->where = where;
    s->keyword = keyword;
    const size_t n = strlen(message);
    memcpy(s->message, message, n < sizeof s->message ? n : sizeof s->message - 1);
    return KVI_SHAPE_NOTHING;
}

bool kvi_schema_failed(const kvi_schema *s) { return s->failed || s->no_memory || s->g->exprs.why; }

void *kvi_schema_alloc(kvi_schema *s, size_t bytes)
{
    void *block = s->no_memory ? NULL : kvi_arena_alloc(&s->arena, bytes);
    if (!block) s->no_memory = true;
    return block;
}

static kvi_shape_id fail(kvi_schema *s, const kvi_json_value *where, const char *keyword, const char *message)
{
    return kvi_schema_fail(s, where, keyword, message);
}

/* ---------------------------------------------------------------------------------------------------------- shapes --- */
kvi_shape_id kvi_shape_new(kvi_schema *s, kvi_shape_kind kind, const kvi_json_value *schema)
{
    void *shapes = s->shapes;
    kvi_shape *shape = kvi_schema_alloc(s, sizeof *shape);
    if (!shape) return KVI_SHAPE_NOTHING;
    if (s->n_shapes >= SHAPES_MOST) return fail(s, schema, NULL, "it is too large");
    if (!kvi_mem_grow(&shapes, &s->cap_shapes, s->n_shapes + 1, sizeof *s->shapes)) {
        s->no_memory = true;
        return KVI_SHAPE_NOTHING;
    }
    s->shapes = shapes;
    *shape = (kvi_shape){.kind = kind,
                         .schema = schema,
                         .types = KVI_IS_ANY,
                         .max_length = KVI_NO_LIMIT,
                         .max_items = KVI_NO_LIMIT,
                         .max_properties = KVI_NO_LIMIT,
                         .items = KVI_SHAPE_ANY,
                         .additional = KVI_SHAPE_ANY};
    s->shapes[s->n_shapes] = shape;
    return (kvi_shape_id)s->n_shapes++;
}

kvi_shape_id kvi_shape_of(kvi_schema *s, kvi_json_value *schema)
{
    if (schema->type == KVI_JSON_TRUE || (schema->type == KVI_JSON_OBJECT && schema->n == 0)) return KVI_SHAPE_ANY;
    if (schema->type == KVI_JSON_FALSE) return KVI_SHAPE_NOTHING;
    if (schema->type != KVI_JSON_OBJECT) return fail(s, schema, NULL, "a schema is an object, true or false");
    if (!schema->note)
        schema->note = kvi_shape_new(s, KVI_SHAPE_RAW, schema); /* once, so that recursion meets itself */
    return schema->note;
}

static size_t hash_both(kvi_shape_id a, kvi_shape_id b) { return (a * 0x9e3779b1u) ^ (b * 0x85ebca6bu) >> 3; }

static bool grow_both(kvi_schema *s)
{
    const size_t n = s->n_both_table ? s->n_both_table * 2 : 64;
    kvi_shape_id *table = kvi_mem_zalloc(n, sizeof *table);
    if (!table) return s->no_memory = true, false;
    for (size_t i = 0; i < s->n_both_table; i++) {
        if (!s->both_table[i]) continue;
        const kvi_shape *shape = s->shapes[s->both_table[i]];
        size_t at = hash_both(shape->left, shape->right) & (n - 1);
        while (table[at]) at = (at + 1) & (n - 1);
        table[at] = s->both_table[i];
    }
    kvi_mem_free(s->both_table);
    s->both_table = table, s->n_both_table = n;
    return true;
}

kvi_shape_id kvi_shape_both(kvi_schema *s, kvi_shape_id a, kvi_shape_id b)
{
    if (a == b || b == KVI_SHAPE_ANY) return a;
    if (a == KVI_SHAPE_ANY) return b;
    if (a == KVI_SHAPE_NOTHING || b == KVI_SHAPE_NOTHING) return KVI_SHAPE_NOTHING;
    if ((s->n_both + 1) * 2 > s->n_both_table && !grow_both(s)) return KVI_SHAPE_NOTHING;
    size_t at = hash_both(a, b) & (s->n_both_table - 1);
    for (; s->both_table[at]; at = (at + 1) & (s->n_both_table - 1)) { /* once, so that recursion meets itself */
        const kvi_shape *old = s->shapes[s->both_table[at]];
        if (old->left == a && old->right == b) return s->both_table[at];
    }
    const kvi_shape_id id = kvi_shape_new(s, KVI_SHAPE_BOTH, s->shapes[a]->schema);
    if (id == KVI_SHAPE_NOTHING) return id;
    s->shapes[id]->left = a, s->shapes[id]->right = b;
    s->both_table[at] = id;
    s->n_both++;
    return id;
}

/* ------------------------------------------------------------------------------------------------------ references --- */
/* The schema with this $id, or with this anchor. *twice: there are several, which only scopes of $id would tell apart. */
static kvi_json_value *find_anchor(kvi_json_value *root, const char *name, size_t len, bool whole_id, bool *twice)
{
    kvi_json_value *found = NULL;
    for (kvi_json_value *v = root; v;) {
        static const char *const keys[] = {"$id", "id", "$anchor", "$dynamicAnchor"};
        for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
            const kvi_json_value *id = kvi_json_get(v, keys[i]);
            if (!id || id->type != KVI_JSON_STRING) continue;
            size_t n = id->len;
            const char *text = id->text;
            if (whole_id && n && text[n - 1] == '#') n--;
            if (!whole_id && i < 2) { /* "$id": "#name" of draft 6 */
                if (!n || *text != '#') continue;
                text++, n--;
            }
            if (whole_id == (i < 2) || (!whole_id && i < 2))
                if (n == len && memcmp(text, name, n) == 0) {
                    *twice = *twice || (found && found != v);
                    found = v;
                }
        }
        if (v->first) v = v->first;
        else {
            while (v && v != root && !v->next) v = v->parent;
            v = v && v != root ? v->next : NULL;
        }
    }
    return found;
}

static kvi_shape_id resolve_reference(kvi_schema *s, const kvi_json_value *schema, const kvi_json_value *ref)
{
    if (ref->type != KVI_JSON_STRING) return fail(s, schema, "$ref", "need a string");
    const char *text = ref->text, *hash = memchr(text, '#', ref->len);
    const size_t n = hash ? (size_t)(hash - text) : ref->len;
    kvi_json_value *target = s->root;
    bool twice = false;
    if (n > 0) target = find_anchor(s->root, text, n, true, &twice);
    if (target && hash) {
        const char *fragment = hash + 1;
        const size_t len = ref->len - n - 1;
        if (len && *fragment != '/') target = find_anchor(target, fragment, len, false, &twice);
        else target = kvi_json_at(target, fragment, len);
    }
    if (twice) return fail(s, schema, "$ref", "several schemas have this name; scopes of $id are not told apart");
    if (!target) return fail(s, schema, "$ref", "nothing in this schema is there; other documents are not read");
    return kvi_shape_of(s, target);
}

/* ---------------------------------------------------------------------------------------------------- own keywords --- */
/* What a schema says of a value by itself, and what it says by other schemas and values. Together: all that is computed with. */
static const char *const own[] = {"type",
                                  "properties",
                                  "required",
                                  "additionalProperties",
                                  "patternProperties",
                                  "propertyNames",
                                  "minProperties",
                                  "maxProperties",
                                  "items",
                                  "prefixItems",
                                  "minItems",
                                  "maxItems",
                                  "minLength",
                                  "maxLength",
                                  "pattern",
                                  "format",
                                  "minimum",
                                  "maximum",
                                  "exclusiveMinimum",
                                  "exclusiveMaximum",
                                  "multipleOf",
                                  "uniqueItems",
                                  "unevaluatedProperties",
                                  "unevaluatedItems"};
static const char *const composed[] = {"enum",
                                       "const",
                                       "additionalItems",
                                       "anyOf",
                                       "oneOf",
                                       "allOf",
                                       "not",
                                       "$ref",
                                       "nullable",
                                       "dependentRequired",
                                       "dependencies",
                                       "dependentSchemas",
                                       "if",
                                       "then",
                                       "else"};
static const char *const notes[] = {
    "$schema",     "$id",         "id",        "$anchor",         "$dynamicAnchor",   "$comment",     "$defs",
    "definitions", "$vocabulary", "title",     "description",     "default",          "examples",     "example",
    "deprecated",  "readOnly",    "writeOnly", "contentEncoding", "contentMediaType", "contentSchema"};
static const char *const refused[] = {"contains",    "minContains",   "maxContains",
                                      "$dynamicRef", "$recursiveRef", "$recursiveAnchor"};

static bool is_in(const kvi_json_value *v, const char *const *list, size_t n, bool any_case)
{
    for (size_t i = 0; i < n; i++) {
        if (strlen(list[i]) != v->key_len) continue;
        size_t k = 0;
        while (k < v->key_len && (any_case ? (v->key[k] | 32) == (list[i][k] | 32) : v->key[k] == list[i][k])) k++;
        if (k == v->key_len) return true;
    }
    return false;
}

static bool is_computed(const kvi_json_value *v, bool any_case)
{
    return is_in(v, own, sizeof own / sizeof *own, any_case) ||
           is_in(v, composed, sizeof composed / sizeof *composed, any_case);
}

static bool is(const kvi_json_value *v, const char *keyword) { return is_in(v, &keyword, 1, false); }

/* Keywords of later drafts are notes of others where the schema says that it is of an earlier one. */
static bool is_later(const kvi_schema *s, const kvi_json_value *v)
{
    static const char *const since_6[] = {"const", "contains", "propertyNames"};
    return (s->draft < 6 && is_in(v, since_6, 3, false)) || (s->draft < 7 && is(v, "if"));
}

/* The keyword where this draft has it. */
static kvi_json_value *get(const kvi_schema *s, const kvi_json_value *schema, const char *keyword)
{
    kvi_json_value *v = kvi_json_get(schema, keyword);
    return v && is_later(s, v) ? NULL : v;
}

/* Every keyword is computed with, a note, or refused; other names are notes of others, unless they differ from a keyword in letter case alone. */
static void check_keywords(kvi_schema *s, const kvi_json_value *schema)
{
    for (const kvi_json_value *v = schema->first; v && !s->failed; v = v->next) {
        if (is_computed(v, false) || is_later(s, v)) continue;
        if (is_in(v, notes, sizeof notes / sizeof *notes, false)) continue;
        if (is_in(v, refused, sizeof refused / sizeof *refused, false)) (void)fail(s, schema, v->key, "not supported");
        if (is_computed(v, true)) (void)fail(s, schema, v->key, "no keyword, but for letter case it would be one");
    }
}

static uint32_t one_type(kvi_schema *s, const kvi_json_value *schema, const kvi_json_value *v, bool *integer,
                         bool *number)
{
    static const struct {
        const char *name;
        uint32_t type;
    } types[] = {{"null", KVI_IS_NULL},      {"boolean", KVI_IS_BOOL},  {"number", KVI_IS_NUMBER},
                 {"integer", KVI_IS_NUMBER}, {"string", KVI_IS_STRING}, {"array", KVI_IS_ARRAY},
                 {"object", KVI_IS_OBJECT}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (kvi_json_is_text(v, types[i].name)) {
            *integer |= i == 3;
            *number |= i == 2;
            return types[i].type;
        }
    (void)fail(s, schema, "type",
               "need one of null, boolean, number, integer, string, array, object, or a list of them");
    return 0;
}

static void read_type(kvi_schema *s, const kvi_json_value *schema, kvi_shape *shape)
{
    const kvi_json_value *type = kvi_json_get(schema, "type"), *nullable = kvi_json_get(schema, "nullable");
    bool integer = false, number = false;
    if (!type) return;
    shape->types = 0;
    if (type->type != KVI_JSON_ARRAY) shape->types = one_type(s, schema, type, &integer, &number);
    for (const kvi_json_value *v = type->type == KVI_JSON_ARRAY ? type->first : NULL; v; v = v->next)
        shape->types |= one_type(s, schema, v, &integer, &number);
    if (nullable && nullable->type == KVI_JSON_TRUE) shape->types |= KVI_IS_NULL;
    shape->number.integer = integer && !number;
}

static void read_count(kvi_schema *s, const kvi_json_value *schema, const char *keyword, uint32_t *out)
{
    const kvi_json_value *v = kvi_json_get(schema, keyword);
    if (!v) return;
    kvi_decimal d;
    if (v->type != KVI_JSON_NUMBER || !kvi_decimal_read(v->text, v->len, &d) || d.negative || d.n_fraction) {
        (void)fail(s, schema, keyword, "need a whole number from 0 on");
        return;
    }
    uint64_t n = 0;
    for (uint32_t i = 0; i < d.n_whole && n < KVI_NO_LIMIT; i++) n = n * 10 + (uint64_t)(d.whole[i] - '0');
    *out = n < KVI_NO_LIMIT ? (uint32_t)n : KVI_NO_LIMIT - 1;
}

static const kvi_json_value *read_number(kvi_schema *s, const kvi_json_value *schema, const char *keyword)
{
    const kvi_json_value *v = kvi_json_get(schema, keyword);
    if (!v || v->type == KVI_JSON_NUMBER) return v;
    if (v->type != KVI_JSON_TRUE && v->type != KVI_JSON_FALSE) (void)fail(s, schema, keyword, "need a number");
    else if (keyword[0] != 'e') (void)fail(s, schema, keyword, "need a number");
    return NULL;
}

static void read_bounds(kvi_schema *s, const kvi_json_value *schema, kvi_shape *shape)
{
    static const char *const keys[2][2] = {{"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}};
    for (int high = 0; high < 2; high++) {
        const kvi_json_value *closed = read_number(s, schema, keys[high][0]),
                             *open = read_number(s, schema, keys[high][1]);
        const kvi_json_value *draft4 = kvi_json_get(schema, keys[high][1]);
        bool is_open = draft4 && draft4->type == KVI_JSON_TRUE; /* of `minimum` */
        const kvi_json_value *bound = closed;
        if (open) {
            const int order = closed ? kvi_decimal_compare(open->text, open->len, closed->text, closed->len) : 2;
            if (!closed || order == 0 || order == (high ? -1 : 1)) bound = open, is_open = true;
        }
        if (!bound) continue;
        if (high)
            shape->number.high = bound->text, shape->number.high_len = bound->len, shape->number.high_open = is_open;
        else shape->number.low = bound->text, shape->number.low_len = bound->len, shape->number.low_open = is_open;
    }
    shape->multiple = read_number(s, schema, "multipleOf");
    if (shape->multiple && (shape->multiple->text[0] == '-' ||
                            kvi_decimal_compare(shape->multiple->text, shape->multiple->len, "0", 1) == 0))
        (void)fail(s, schema, "multipleOf", "need a number above 0");
}

static void read_prefix(kvi_schema *s, const kvi_json_value *list, kvi_shape *shape)
{
    kvi_shape_list **end = &shape->prefix;
    for (kvi_json_value *v = list->first; v; v = v->next) {
        kvi_shape_list *one = kvi_schema_alloc(s, sizeof *one);
        if (!one) return;
        one->shape = kvi_shape_of(s, v);
        *end = one;
        end = &one->next;
    }
}

static void read_array(kvi_schema *s, const kvi_json_value *schema, kvi_shape *shape)
{
    kvi_json_value *items = kvi_json_get(schema, "items"), *prefix = kvi_json_get(schema, "prefixItems");
    kvi_json_value *unique = kvi_json_get(schema, "uniqueItems"), *rest = kvi_json_get(schema, "additionalItems");
    kvi_json_value *unevaluated = kvi_json_get(schema, "unevaluatedItems");
    read_count(s, schema, "minItems", &shape->min_items);
    read_count(s, schema, "maxItems", &shape->max_items);
    if (items && items->type == KVI_JSON_ARRAY) prefix = items, items = rest; /* before 2020-12 */
    if (prefix && prefix->type != KVI_JSON_ARRAY) (void)fail(s, schema, "prefixItems", "need an array of schemas");
    else if (prefix) read_prefix(s, prefix, shape);
    if (items) shape->items = kvi_shape_of(s, items);
    else if (unevaluated) {
        if (kvi_json_get(schema, "$ref") || kvi_json_get(schema, "allOf") || kvi_json_get(schema, "anyOf") ||
            kvi_json_get(schema, "oneOf"))
            (void)fail(s, schema, "unevaluatedItems", "not supported beside $ref, allOf, anyOf and oneOf");
        shape->items = kvi_shape_of(s, unevaluated);
    }
    if (unique && unique->type == KVI_JSON_TRUE && shape->types & KVI_IS_ARRAY && shape->max_items > 1)
        (void)fail(s, schema, "uniqueItems", "not supported: no grammar can compare items");
}

static kvi_property *add_property(kvi_schema *s, kvi_property **list, kvi_property property)
{
    while (*list) list = &(*list)->next;
    kvi_property *p = kvi_schema_alloc(s, sizeof *p);
    if (p) *p = property, *list = p;
    return p;
}

/* What the names of a text may be: of propertyNames, which must speak of strings alone. */
static void read_names(kvi_schema *s, const kvi_json_value *schema, kvi_shape *shape)
{
    kvi_json_value *names = get(s, schema, "propertyNames");
    if (!names || kvi_schema_failed(s)) return;
    const kvi_shape *of = kvi_shape_get(s, kvi_shape_of(s, names));
    kvi_exprs *p = &s->g->exprs;
    if (kvi_schema_failed(s)) return;
    if (of->kind == KVI_SHAPE_CHOICE) {
        (void)fail(s, schema, "propertyNames", "a choice is not supported");
        return;
    }
    shape->has_names = true;
    kvi_expr_union texts = {{0}};
    for (const kvi_value_list *v = of->values; of->kind == KVI_SHAPE_VALUES && v; v = v->next)
        if (v->value->type == KVI_JSON_STRING)
            kvi_expr_union_add(p, &texts, kvi_pattern_literal(p, v->value->text, v->value->len, KVI_PATTERN_JSON));
    shape->names = kvi_expr_union_all(p, &texts);
    if (of->kind == KVI_SHAPE_TYPED && of->types & KVI_IS_STRING) {
        shape->names = of->has_text ? of->text : kvi_pattern_anything(p, KVI_PATTERN_JSON);
        if (of->min_length || of->max_length != KVI_NO_LIMIT)
            shape->names = kvi_expr_and2(p, shape->names, kvi_expr_repeat(p, s->plain, of->min_length, of->max_length));
    }
}

static void read_required(kvi_schema *s, const kvi_json_value *schema, const kvi_json_value *names, const char *keyword,
                          kvi_shape *shape)
{
    if (names->type != KVI_JSON_ARRAY) {
        (void)fail(s, schema, keyword, "need an array of names");
        return;
    }
    for (const kvi_json_value *v = names->first; v; v = v->next) {
        if (v->type != KVI_JSON_STRING) {
            (void)fail(s, schema, keyword, "need an array of names");
            return;
        }
        kvi_property *p = shape->properties;
        while (p && !(p->len == v->len && memcmp(p->name, v->text, v->len) == 0)) p = p->next;
        if (!p)
            p = add_property(
                s, &shape->properties,
                (kvi_property){.name = v->text, .len = v->len, .shape = kvi_shape_property(s, shape, v->text, v->len)});
        if (p) p->required = true;
    }
}

static void read_object(kvi_schema *s, const kvi_json_value *schema, kvi_shape *shape)
{
    const kvi_json_value *properties = kvi_json_get(schema, "properties"),
                         *patterns = kvi_json_get(schema, "patternProperties");
    kvi_json_value *additional = kvi_json_get(schema, "additionalProperties"),
                   *required = kvi_json_get(schema, "required");
    kvi_json_value *unevaluated = kvi_json_get(schema, "unevaluatedProperties");
    read_count(s, schema, "minProperties", &shape->min_properties);
    read_count(s, schema, "maxProperties", &shape->max_properties);
    if ((properties && properties->type != KVI_JSON_OBJECT) || (patterns && patterns->type != KVI_JSON_OBJECT)) {
        (void)fail(s, schema, properties && properties->type != KVI_JSON_OBJECT ? "properties" : "patternProperties",
                   "need an object of schemas");
        return;
    }
    read_names(s, schema, shape);
    for (kvi_json_value *v = patterns ? patterns->first : NULL; v && !kvi_schema_failed(s); v = v->next)
        (void)add_property(
            s, &shape->patterns,
            (kvi_property){.name = v->key,
                           .len = v->key_len,
                           .pattern = kvi_schema_pattern(s, schema, "patternProperties", v->key, v->key_len),
                           .shape = kvi_shape_of(s, v)});
    if (additional) shape->additional = kvi_shape_of(s, additional);
    else if (unevaluated) {
        if (kvi_json_get(schema, "$ref") || kvi_json_get(schema, "allOf") || kvi_json_get(schema, "anyOf") ||
            kvi_json_get(schema, "oneOf") || kvi_json_get(schema, "if"))
            (void)fail(s, schema, "unevaluatedProperties", "not supported beside $ref, allOf, anyOf, oneOf and if");
        shape->additional = kvi_shape_of(s, unevaluated);
    }
    kvi_property *named = NULL, **end = &named;
    for (const kvi_json_value *v = properties ? properties->first : NULL; v && !kvi_schema_failed(s); v = v->next) {
        if (kvi_property_find(named, v->key, v->key_len)) continue; /* written twice: the last one counts */
        kvi_json_value *last = kvi_json_get_n(properties, v->key, v->key_len);
        bool matches;
        const kvi_shape_id by_pattern = kvi_shape_by_pattern(s, shape, v->key, v->key_len, &matches);
        const kvi_shape_id id = kvi_shape_both(s, kvi_shape_of(s, last), by_pattern);
        kvi_property *p = kvi_schema_alloc(s, sizeof *p);
        if (!p) return;
        *p = (kvi_property){.name = v->key, .len = v->key_len, .shape = id, .listed = true};
        *end = p;
        end = &p->next;
    }
    shape->properties = named;
    if (required) read_required(s, schema, required, "required", shape);
}

static bool says_something(const kvi_json_value *schema)
{
    for (const kvi_json_value *v = schema->first; v; v = v->next)
        if (is_in(v, own, sizeof own / sizeof *own, false)) return true;
    return false;
}

static kvi_shape_id read_own(kvi_schema *s, const kvi_json_value *schema)
{
    if (!says_something(schema)) return KVI_SHAPE_ANY;
    const kvi_shape_id id = kvi_shape_new(s, KVI_SHAPE_TYPED, schema);
    kvi_shape *shape = s->shapes[id];
    if (id == KVI_SHAPE_NOTHING) return id;
    read_type(s, schema, shape);
    read_bounds(s, schema, shape);
    read_count(s, schema, "minLength", &shape->min_length);
    read_count(s, schema, "maxLength", &shape->max_length);
    kvi_schema_text(s, schema, shape);
    if (shape->types & KVI_IS_ARRAY) read_array(s, schema, shape);
    if (shape->types & KVI_IS_OBJECT) read_object(s, schema, shape);
    return id;
}

/* ----------------------------------------------------------------------------------------------- what holds as well --- */
static void add_value(kvi_schema *s, kvi_shape *shape, const kvi_json_value *value)
{
    kvi_value_list **end = &shape->values;
    while (*end) {
        if (kvi_json_equal((*end)->value, value)) return;
        end = &(*end)->next;
    }
    kvi_value_list *one = kvi_schema_alloc(s, sizeof *one);
    if (one) one->value = value, *end = one;
}

static kvi_shape_id read_values(kvi_schema *s, const kvi_json_value *schema)
{
    const kvi_json_value *list = kvi_json_get(schema, "enum"), *value = get(s, schema, "const");
    if (!list && !value) return KVI_SHAPE_ANY;
    if (list && list->type != KVI_JSON_ARRAY) return fail(s, schema, "enum", "need an array of values");
    const kvi_shape_id id = kvi_shape_new(s, KVI_SHAPE_VALUES, schema);
    if (id == KVI_SHAPE_NOTHING) return id;
    if (!list) add_value(s, s->shapes[id], value);
    for (const kvi_json_value *v = list ? list->first : NULL; v; v = v->next)
        if (!value || kvi_json_equal(v, value)) add_value(s, s->shapes[id], v);
    return s->shapes[id]->values ? id : KVI_SHAPE_NOTHING;
}

static kvi_shape_id read_choice(kvi_schema *s, const kvi_json_value *schema, const char *keyword)
{
    const kvi_json_value *list = kvi_json_get(schema, keyword);
    const bool one_of = keyword[0] == 'o';
    if (!list) return KVI_SHAPE_ANY;
    if (list->type != KVI_JSON_ARRAY || list->n == 0)
        return fail(s, schema, keyword, "need an array of at least one schema");
    const kvi_shape_id id = kvi_shape_new(s, KVI_SHAPE_CHOICE, schema);
    if (id == KVI_SHAPE_NOTHING) return id;
    kvi_shape_list **end = &s->shapes[id]->choices;
    for (kvi_json_value *v = list->first; v; v = v->next) {
        kvi_shape_list *one = kvi_schema_alloc(s, sizeof *one);
        if (!one) return KVI_SHAPE_NOTHING;
        one->shape = kvi_shape_of(s, v);
        for (const kvi_shape_list *c = s->shapes[id]->choices; one_of && c && !kvi_schema_failed(s); c = c->next)
            if (!kvi_shape_disjoint(s, c->shape, one->shape, 0) && !kvi_schema_failed(s))
                return fail(s, schema, keyword,
                            "two of them may hold at once: supported where they exclude one another (else anyOf)");
        *end = one;
        end = &one->next;
    }
    return id;
}

/* A shape with only this: the property (not) there, of objects; other kinds of values stay free. */
static kvi_shape_id with_property(kvi_schema *s, const kvi_json_value *schema, const char *name, size_t len, bool there)
{
    const kvi_shape_id id = kvi_shape_new(s, KVI_SHAPE_TYPED, schema);
    if (id == KVI_SHAPE_NOTHING) return id;
    kvi_property p = {.name = name, .len = len, .required = there, .shape = there ? KVI_SHAPE_ANY : KVI_SHAPE_NOTHING};
    (void)add_property(s, &s->shapes[id]->properties, p);
    return id;
}

static kvi_shape_id choose(kvi_schema *s, const kvi_json_value *schema, kvi_shape_id a, kvi_shape_id b)
{
    const kvi_shape_id id = kvi_shape_new(s, KVI_SHAPE_CHOICE, schema);
    kvi_shape_list *one = kvi_schema_alloc(s, sizeof *one), *two = kvi_schema_alloc(s, sizeof *two);
    if (id == KVI_SHAPE_NOTHING || !one || !two) return KVI_SHAPE_NOTHING;
    *two = (kvi_shape_list){.shape = b};
    *one = (kvi_shape_list){.shape = a, .next = two};
    s->shapes[id]->choices = one;
    return id;
}

/* If a property is there, others must be, or a schema must hold: two alternatives each. */
static kvi_shape_id read_dependencies(kvi_schema *s, const kvi_json_value *schema, const char *keyword,
                                      kvi_shape_id so_far)
{
    const kvi_json_value *all = kvi_json_get(schema, keyword);
    if (!all) return so_far;
    if (all->type != KVI_JSON_OBJECT) return fail(s, schema, keyword, "need an object");
    for (kvi_json_value *v = all->first; v && !kvi_schema_failed(s); v = v->next) {
        kvi_shape_id then = with_property(s, schema, v->key, v->key_len, true);
        if (then == KVI_SHAPE_NOTHING) return then;
        s->shapes[then]->types = KVI_IS_OBJECT;
        if (v->type == KVI_JSON_ARRAY) read_required(s, schema, v, keyword, s->shapes[then]);
        else then = kvi_shape_both(s, then, kvi_shape_of(s, v));
        const kvi_shape_id without = with_property(s, schema, v->key, v->key_len, false);
        so_far = kvi_shape_intersect(s, so_far, choose(s, schema, without, then));
    }
    return so_far;
}

/* The complement of a shape, where there is one. */
static kvi_shape_id negate(kvi_schema *s, const kvi_json_value *schema, const char *keyword, kvi_shape_id of)
{
    const kvi_shape *shape = kvi_shape_get(s, of);
    kvi_exprs *p = &s->g->exprs;
    if (kvi_schema_failed(s)) return KVI_SHAPE_NOTHING;
    if (of == KVI_SHAPE_ANY) return KVI_SHAPE_NOTHING;
    const kvi_shape_id id = kvi_shape_new(s, KVI_SHAPE_TYPED, schema);
    if (id == KVI_SHAPE_NOTHING) return id;
    kvi_shape *out = s->shapes[id];
    if (shape->kind ==
        KVI_SHAPE_VALUES) { /* strings but these; of null and booleans nothing is left to say more finely */
        kvi_expr_union texts = {{0}};
        for (const kvi_value_list *v = shape->values; v; v = v->next) {
            if (v->value->type == KVI_JSON_NULL) out->types &= ~(uint32_t)KVI_IS_NULL;
            else if (v->value->type == KVI_JSON_STRING)
                kvi_expr_union_add(p, &texts, kvi_pattern_literal(p, v->value->text, v->value->len, KVI_PATTERN_JSON));
            else return fail(s, schema, keyword, "supported of types, strings, null and required alone");
        }
        out->text =
            kvi_expr_and2(p, kvi_pattern_anything(p, KVI_PATTERN_JSON), kvi_expr_not(p, kvi_expr_union_all(p, &texts)));
        out->has_text = true;
        return id;
    }
    if (shape->kind != KVI_SHAPE_TYPED || shape->number.integer || shape->number.low || shape->number.high ||
        shape->multiple || shape->min_length || shape->max_length != KVI_NO_LIMIT || shape->min_items ||
        shape->max_items != KVI_NO_LIMIT || shape->prefix || shape->items != KVI_SHAPE_ANY || shape->patterns ||
        shape->additional != KVI_SHAPE_ANY || shape->has_names || shape->min_properties ||
        shape->max_properties != KVI_NO_LIMIT)
        return fail(s, schema, keyword, "supported of types, strings, null and required alone");
    if (!shape->properties && !shape->has_text) {
        out->types = KVI_IS_ANY & ~shape->types;
        return out->types ? id : KVI_SHAPE_NOTHING;
    }
    if (shape->has_text && !shape->properties && (shape->types == KVI_IS_STRING || shape->types == KVI_IS_ANY)) {
        if (shape->types == KVI_IS_ANY) out->types = KVI_IS_STRING;
        out->text = kvi_expr_and2(p, kvi_pattern_anything(p, KVI_PATTERN_JSON), kvi_expr_not(p, shape->text));
        out->has_text = true;
        return id;
    }
    /* Some property is missing, or has another value than it may; objects only, unless the shape says so itself. */
    kvi_shape_id any_of = KVI_SHAPE_NOTHING;
    for (const kvi_property *q = shape->properties; q && !shape->has_text; q = q->next) {
        if (q->required) {
            const kvi_shape_id missing = with_property(s, schema, q->name, q->len, false);
            s->shapes[missing]->types = KVI_IS_OBJECT;
            any_of = any_of == KVI_SHAPE_NOTHING ? missing : choose(s, schema, any_of, missing);
        }
        if (q->shape == KVI_SHAPE_ANY) continue;
        const kvi_shape_id other = negate(s, schema, keyword, q->shape),
                           wrong = with_property(s, schema, q->name, q->len, true);
        if (kvi_schema_failed(s)) return KVI_SHAPE_NOTHING;
        s->shapes[wrong]->types = KVI_IS_OBJECT;
        s->shapes[wrong]->properties->shape = other;
        any_of = any_of == KVI_SHAPE_NOTHING ? wrong : choose(s, schema, any_of, wrong);
    }
    if (shape->has_text) return fail(s, schema, keyword, "supported of types, strings, null and required alone");
    if (shape->types != KVI_IS_ANY && shape->types != KVI_IS_OBJECT)
        return fail(s, schema, keyword, "supported of types, strings, null and required alone");
    if (shape->types == KVI_IS_ANY) return any_of;
    out->types = KVI_IS_ANY & ~(uint32_t)KVI_IS_OBJECT;
    return any_of == KVI_SHAPE_NOTHING ? id : choose(s, schema, id, any_of);
}

static kvi_shape_id read_condition(kvi_schema *s, const kvi_json_value *schema, kvi_shape_id so_far)
{
    kvi_json_value *cond = get(s, schema, "if"), *then = kvi_json_get(schema, "then"),
                   *other = kvi_json_get(schema, "else");
    if (!cond || (!then && !other)) return so_far;
    const kvi_shape_id holds = kvi_shape_of(s, cond), fails = negate(s, schema, "if", holds);
    if (kvi_schema_failed(s)) return KVI_SHAPE_NOTHING;
    const kvi_shape_id first = then ? kvi_shape_both(s, holds, kvi_shape_of(s, then)) : holds;
    const kvi_shape_id second = other ? kvi_shape_both(s, fails, kvi_shape_of(s, other)) : fails;
    return kvi_shape_intersect(s, so_far, choose(s, schema, first, second));
}

/* One keyword that adds to what its neighbours say of a value. */
static kvi_shape_id read_composed(kvi_schema *s, const kvi_json_value *schema, kvi_json_value *v, kvi_shape_id id)
{
    if (kvi_json_get_n(schema, v->key, v->key_len) != v) return id; /* written twice: the last one counts */
    if (is(v, "$ref")) return kvi_shape_intersect(s, id, kvi_shape_resolve(s, resolve_reference(s, schema, v)));
    if (is(v, "anyOf") || is(v, "oneOf")) return kvi_shape_intersect(s, id, read_choice(s, schema, v->key));
    if (!is(v, "allOf")) return id;
    if (v->type != KVI_JSON_ARRAY) return fail(s, schema, "allOf", "need an array of schemas");
    for (kvi_json_value *c = v->first; c && !kvi_schema_failed(s); c = c->next)
        id = kvi_shape_intersect(s, id, kvi_shape_resolve(s, kvi_shape_of(s, c)));
    return id;
}

static kvi_shape_id read_schema(kvi_schema *s, const kvi_json_value *schema)
{
    kvi_json_value *ref = kvi_json_get(schema, "$ref");
    if (ref && s->draft < 8) /* "All other properties in a $ref object MUST be ignored" (draft 7 and before) */
        return kvi_shape_resolve(s, resolve_reference(s, schema, ref));
    check_keywords(s, schema);
    /* What comes first in the schema gives the first properties, as whoever wrote it reads it. */
    const kvi_json_value *properties = kvi_json_get(schema, "properties");
    kvi_json_value *not = kvi_json_get(schema, "not"), *v = schema->first;
    kvi_shape_id id = read_values(s, schema);
    for (; properties && v && v != properties && !kvi_schema_failed(s); v = v->next)
        id = read_composed(s, schema, v, id);
    if (!kvi_schema_failed(s)) id = kvi_shape_intersect(s, id, read_own(s, schema));
    for (; v && !kvi_schema_failed(s); v = v->next) id = read_composed(s, schema, v, id);
    if (not &&!kvi_schema_failed(s))
        id = kvi_shape_intersect(s, id, kvi_shape_resolve(s, negate(s, schema, "not", kvi_shape_of(s, not ))));
    if (!kvi_schema_failed(s)) id = read_dependencies(s, schema, "dependentRequired", id);
    if (!kvi_schema_failed(s)) id = read_dependencies(s, schema, "dependentSchemas", id);
    if (!kvi_schema_failed(s)) id = read_dependencies(s, schema, "dependencies", id);
    if (!kvi_schema_failed(s)) id = read_condition(s, schema, id);
    return kvi_schema_failed(s) ? KVI_SHAPE_NOTHING : id;
}

kvi_shape_id kvi_shape_resolve(kvi_schema *s, kvi_shape_id id)
{
    kvi_shape *shape = s->shapes[id];
    while (shape->kind == KVI_SHAPE_SAME) shape = s->shapes[id = shape->is];
    if (shape->kind != KVI_SHAPE_RAW && shape->kind != KVI_SHAPE_BOTH) return id;
    if (kvi_schema_failed(s)) return KVI_SHAPE_NOTHING;
    if (shape->busy) return fail(s, shape->schema, NULL, "it refers to itself before it allows a value");
    if (++s->depth > RESOLVE_DEPTH) return fail(s, shape->schema, NULL, "references and allOf nest too deeply");
    shape->busy = true;
    kvi_shape_id is;
    if (shape->kind == KVI_SHAPE_RAW) is = read_schema(s, shape->schema);
    else {
        const kvi_shape_id a = kvi_shape_resolve(s, shape->left), b = kvi_shape_resolve(s, shape->right);
        is = kvi_shape_intersect(s, a, b);
    }
    s->depth--;
    shape->busy = false;
    shape->kind = KVI_SHAPE_SAME;
    shape->is = is;
    return is;
}

const kvi_shape *kvi_shape_get(kvi_schema *s, kvi_shape_id id)
{
    id = kvi_shape_resolve(s, id); /* which may move the list */
    return s->shapes[id];
}

/* --------------------------------------------------------------------------------------------------------- compile --- */
static kvrt_status tell(kvi_schema *s, kvrt_error *error)
{
    if (s->no_memory || (s->g->exprs.why && !*s->g->exprs.why && !s->failed))
        return kvi_error_nomem(error, s->arena.total_bytes, s->name);
    kvi_buf where = {0};
    kvi_json_pointer(s->where, &where);
    const char *message = s->failed ? s->message : s->g->exprs.why, *at = where.len ? where.data : "#";
    const kvrt_status status =
        s->keyword ? kvi_error_set(error, KVRT_GRAMMAR, "%s: %.200s/%.60s: %s", s->name, at, s->keyword, message)
                   : kvi_error_set(error, KVRT_GRAMMAR, "%s: %.200s: %s", s->name, at, message);
    kvi_buf_free(&where);
    return status;
}

static uint32_t draft_of(const kvi_json_value *root)
{
    static const char mark[] = "json-schema.org/draft-0";
    const kvi_json_value *schema = kvi_json_get(root, "$schema");
    const char *at = schema && schema->type == KVI_JSON_STRING ? strstr(schema->text, mark) : NULL;
    return at && at[sizeof mark - 1] >= '0' && at[sizeof mark - 1] < '8' ? (uint32_t)(at[sizeof mark - 1] - '0') : 8;
}

void kvi_schema_begin(kvi_schema *s, kvi_json_value *root)
{
    if (!s->arena.block_bytes) kvi_arena_init(&s->arena, 1u << 16);
    s->root = root;
    s->draft = draft_of(root);
    kvi_schema_begin_texts(s);
    (void)kvi_shape_new(s, KVI_SHAPE_TYPED, NULL); /* number 0 is none */
    (void)kvi_shape_new(s, KVI_SHAPE_TYPED, NULL);
    (void)kvi_shape_new(s, KVI_SHAPE_VALUES, NULL);
}

kvrt_status kvi_schema_end(kvi_schema *s, kvrt_error *error)
{
    const kvrt_status status = kvi_schema_failed(s) ? tell(s, error) : KVRT_OK;
    kvi_mem_free(s->shapes);
    kvi_mem_free(s->queue);
    kvi_mem_free(s->both_table);
    kvi_arena_free(&s->arena);
    return status;
}

kvrt_status kvi_schema_compile(const char *text, size_t len, kvi_grammar_limits limits, kvi_grammar **out,
                               kvrt_error *error)
{
    kvi_schema s = {.g = kvi_grammar_new(limits), .name = "grammar.schema"};
    kvi_json_value *root = NULL;
    kvi_symbol start = KVI_SYMBOL_NONE;
    if (!s.g) return kvi_error_nomem(error, len, s.name);
    kvi_arena_init(&s.arena, 1u << 16);
    kvrt_status status = kvi_json_tree(text, len, s.name, &s.arena, &root, error);
    if (status >= KVRT_OK) {
        kvi_schema_begin(&s, root);
        if (s.n_shapes == 3) start = kvi_schema_symbol(&s, kvi_shape_of(&s, s.root));
        kvi_schema_make_rules(&s);
        status = kvi_schema_end(&s, error);
    } else kvi_arena_free(&s.arena);
    if (status >= KVRT_OK) status = kvi_grammar_finish(s.g, start, s.name, error);
    if (status < KVRT_OK) kvi_grammar_free(s.g);
    else *out = s.g;
    return status;
}
