/* schema_shape.c - shapes that hold together, exclude one another, or fit a value. See schema_impl.h. */
#include "schema_impl.h"

#include <string.h>

#define STEPS 200000u /* of comparing shapes, for a whole schema */

static bool take_step(kvi_schema *s)
{
    if (++s->steps > STEPS) (void)kvi_schema_fail(s, NULL, NULL, "its parts take too many steps to compare");
    return !kvi_schema_failed(s);
}

/* ------------------------------------------------------------------------------------------------------ properties --- */
const kvi_property *kvi_property_find(const kvi_property *list, const char *name, size_t len)
{
    while (list && !(list->len == len && memcmp(list->name, name, len) == 0)) list = list->next;
    return list;
}

static bool name_matches(kvi_schema *s, kvi_expr pattern, const char *name, size_t len)
{
    kvi_buf text = {0};
    kvi_json_write_string(&text, name, len);
    const bool ok = !text.failed && kvi_expr_matches(&s->g->exprs, pattern, text.data + 1, text.len - 2);
    if (text.failed) s->no_memory = true;
    kvi_buf_free(&text);
    return ok;
}

kvi_shape_id kvi_shape_by_pattern(kvi_schema *s, const kvi_shape *shape, const char *name, size_t len, bool *matches)
{
    kvi_shape_id id = KVI_SHAPE_ANY;
    *matches = false;
    if (shape->has_names && !name_matches(s, shape->names, name, len)) return KVI_SHAPE_NOTHING;
    for (const kvi_property *p = shape->patterns; p; p = p->next) {
        if (!name_matches(s, p->pattern, name, len)) continue;
        id = kvi_shape_both(s, id, p->shape);
        *matches = true;
    }
    return id;
}

kvi_shape_id kvi_shape_property(kvi_schema *s, const kvi_shape *shape, const char *name, size_t len)
{
    const kvi_property *named = kvi_property_find(shape->properties, name, len);
    if (named) return named->shape;
    bool matches;
    const kvi_shape_id id = kvi_shape_by_pattern(s, shape, name, len, &matches);
    return matches || id == KVI_SHAPE_NOTHING ? id : shape->additional;
}

/* Appends a copy; returns where the next one goes. */
static kvi_property **append(kvi_schema *s, kvi_property **end, kvi_property property)
{
    kvi_property *copy = kvi_schema_alloc(s, sizeof *copy);
    if (!copy) return end;
    *copy = property;
    copy->next = NULL;
    *end = copy;
    return &copy->next;
}

/* ------------------------------------------------------------------------------------------------- both must hold --- */
static void tighter(const char **text, size_t *len, bool *open, const char *other, size_t other_len, bool other_open,
                    bool low)
{
    if (!other) return;
    const int order = *text ? kvi_decimal_compare(other, other_len, *text, *len) : (low ? 1 : -1);
    if (order == 0) *open |= other_open;
    if (low ? order == 1 : order == -1) *text = other, *len = other_len, *open = other_open;
}

static void both_numbers(kvi_schema *s, kvi_shape *out, const kvi_shape *b)
{
    kvi_decimal_range *r = &out->number;
    const kvi_decimal_range *o = &b->number;
    tighter(&r->low, &r->low_len, &r->low_open, o->low, o->low_len, o->low_open, true);
    tighter(&r->high, &r->high_len, &r->high_open, o->high, o->high_len, o->high_open, false);
    r->integer |= o->integer;
    const kvi_json_value *const more[2] = {b->multiple, b->multiple2};
    for (int i = 0; i < 2; i++) {
        if (!more[i] || (out->multiple && kvi_json_equal(out->multiple, more[i]))) continue;
        if (!out->multiple) out->multiple = more[i];
        else if (!out->multiple2) out->multiple2 = more[i];
        else (void)kvi_schema_fail(s, out->schema, "multipleOf", "more than two of them hold together");
    }
}

static void both_arrays(kvi_schema *s, kvi_shape *out, const kvi_shape *a, const kvi_shape *b)
{
    const kvi_shape_list *x = a->prefix, *y = b->prefix;
    kvi_shape_list **end = &out->prefix;
    out->prefix = NULL;
    while (x || y) {
        kvi_shape_list *one = kvi_schema_alloc(s, sizeof *one);
        if (!one) return;
        one->shape = kvi_shape_both(s, x ? x->shape : a->items, y ? y->shape : b->items);
        *end = one;
        end = &one->next;
        if (x) x = x->next;
        if (y) y = y->next;
    }
    out->items = kvi_shape_both(s, a->items, b->items);
}

/* Patterns of one side whose names the other side's `additional` speaks of as well. */
static kvi_property **take_patterns(kvi_schema *s, kvi_property **end, const kvi_shape *of, const kvi_shape *other,
                                    bool first)
{
    for (const kvi_property *p = of->patterns; p; p = p->next) {
        const kvi_property *same = other->patterns;
        while (same && same->pattern != p->pattern) same = same->next;
        kvi_property merged = *p;
        if (same && !first) continue; /* it came with the other side */
        if (same) merged.shape = kvi_shape_both(s, p->shape, same->shape);
        else if (other->additional != KVI_SHAPE_ANY) {
            if (other->patterns)
                (void)kvi_schema_fail(s, of->schema, "patternProperties",
                                      "different ones hold together with additionalProperties");
            merged.shape = kvi_shape_both(s, p->shape, other->additional);
        }
        end = append(s, end, merged);
    }
    return end;
}

static void both_objects(kvi_schema *s, kvi_shape *out, const kvi_shape *a, const kvi_shape *b)
{
    kvi_property **end = &out->properties;
    out->properties = out->patterns = NULL;
    /* Those that one side lists, the first side's before the other's; then those that are only spoken of. */
    for (int round = 0; round < 4; round++) {
        const kvi_shape *one = round & 1 ? b : a, *two = round & 1 ? a : b;
        for (const kvi_property *p = one->properties; p; p = p->next) {
            const kvi_property *other = kvi_property_find(two->properties, p->name, p->len);
            if (p->listed != (round < 2) || (other && (round == 3 || (round > 0 && other->listed)))) continue;
            kvi_property merged = *p;
            merged.shape =
                kvi_shape_both(s, kvi_shape_property(s, a, p->name, p->len), kvi_shape_property(s, b, p->name, p->len));
            merged.required |= other && other->required;
            end = append(s, end, merged);
        }
    }
    kvi_property **patterns = take_patterns(s, &out->patterns, a, b, true);
    (void)take_patterns(s, patterns, b, a, false);
    out->additional = kvi_shape_both(s, a->additional, b->additional);
    if (b->has_names) out->names = a->has_names ? kvi_expr_and2(&s->g->exprs, a->names, b->names) : b->names;
    out->has_names = a->has_names || b->has_names;
}

static uint32_t larger(uint32_t x, uint32_t y) { return x > y ? x : y; }
static uint32_t smaller(uint32_t x, uint32_t y) { return x < y ? x : y; }

static kvi_shape_id both_typed(kvi_schema *s, const kvi_shape *a, const kvi_shape *b)
{
    const kvi_shape_id id = kvi_shape_new(s, KVI_SHAPE_TYPED, a->schema ? a->schema : b->schema);
    if (id == KVI_SHAPE_NOTHING) return id;
    kvi_shape *out = s->shapes[id];
    const kvi_json_value *schema = out->schema;
    *out = *a;
    out->schema = schema;
    out->has_symbol = out->busy = false;
    out->types = a->types & b->types;
    if (!out->types) return KVI_SHAPE_NOTHING;
    both_numbers(s, out, b);
    if (b->has_text) out->text = a->has_text ? kvi_expr_and2(&s->g->exprs, a->text, b->text) : b->text;
    out->has_text |= b->has_text;
    out->min_length = larger(a->min_length, b->min_length), out->max_length = smaller(a->max_length, b->max_length);
    out->min_items = larger(a->min_items, b->min_items), out->max_items = smaller(a->max_items, b->max_items);
    out->min_properties = larger(a->min_properties, b->min_properties);
    out->max_properties = smaller(a->max_properties, b->max_properties);
    if (out->types & KVI_IS_ARRAY) both_arrays(s, out, a, b);
    if (out->types & KVI_IS_OBJECT) both_objects(s, out, a, b);
    return id;
}

kvi_shape_id kvi_shape_intersect(kvi_schema *s, kvi_shape_id a, kvi_shape_id b)
{
    if (a == b || b == KVI_SHAPE_ANY) return a;
    if (a == KVI_SHAPE_ANY) return b;
    if (a == KVI_SHAPE_NOTHING || b == KVI_SHAPE_NOTHING || !take_step(s)) return KVI_SHAPE_NOTHING;
    const kvi_shape *x = s->shapes[a], *y = s->shapes[b];
    if (x->kind == KVI_SHAPE_VALUES || y->kind == KVI_SHAPE_VALUES) {
        const bool first = x->kind == KVI_SHAPE_VALUES;
        const kvi_shape_id id = kvi_shape_new(s, KVI_SHAPE_VALUES, x->schema);
        kvi_value_list **end = &s->shapes[id]->values;
        for (const kvi_value_list *v = first ? x->values : y->values; v && id != KVI_SHAPE_NOTHING; v = v->next) {
            if (!kvi_shape_fits(s, first ? b : a, v->value)) continue;
            kvi_value_list *copy = kvi_schema_alloc(s, sizeof *copy);
            if (!copy) break;
            copy->value = v->value;
            *end = copy;
            end = &copy->next;
        }
        return s->shapes[id]->values ? id : KVI_SHAPE_NOTHING;
    }
    if (x->kind == KVI_SHAPE_TYPED && y->kind == KVI_SHAPE_TYPED) return both_typed(s, x, y);
    const bool first = x->kind == KVI_SHAPE_CHOICE;
    const kvi_shape_id id = kvi_shape_new(s, KVI_SHAPE_CHOICE, x->schema);
    kvi_shape_list **end = &s->shapes[id]->choices;
    for (const kvi_shape_list *c = first ? x->choices : y->choices; c && id != KVI_SHAPE_NOTHING; c = c->next) {
        kvi_shape_list *one = kvi_schema_alloc(s, sizeof *one);
        if (!one) break;
        one->shape = first ? kvi_shape_both(s, c->shape, b) : kvi_shape_both(s, a, c->shape);
        *end = one;
        end = &one->next;
    }
    return id;
}

/* ------------------------------------------------------------------------------------------------------- a value fits --- */
static uint32_t type_of(const kvi_json_value *v)
{
    switch (v->type) {
    case KVI_JSON_NULL: return KVI_IS_NULL;
    case KVI_JSON_TRUE:
    case KVI_JSON_FALSE: return KVI_IS_BOOL;
    case KVI_JSON_NUMBER: return KVI_IS_NUMBER;
    case KVI_JSON_STRING: return KVI_IS_STRING;
    case KVI_JSON_ARRAY: return KVI_IS_ARRAY;
    default: return KVI_IS_OBJECT;
    }
}

static bool number_fits(const kvi_shape *shape, const kvi_json_value *v)
{
    const kvi_decimal_range *r = &shape->number;
    const int low = r->low ? kvi_decimal_compare(v->text, v->len, r->low, r->low_len) : 1;
    const int high = r->high ? kvi_decimal_compare(v->text, v->len, r->high, r->high_len) : -1;
    if (r->integer && !kvi_decimal_is_integer(v->text, v->len)) return false;
    if (low == -1 || (low == 0 && r->low_open) || high == 1 || (high == 0 && r->high_open)) return false;
    const kvi_json_value *const of[2] = {shape->multiple, shape->multiple2};
    for (int i = 0; i < 2; i++)
        if (of[i] && !kvi_decimal_is_multiple(v->text, v->len, of[i]->text, of[i]->len)) return false;
    return true;
}

static bool string_fits(kvi_schema *s, const kvi_shape *shape, const kvi_json_value *v)
{
    uint32_t n = 0;
    for (size_t i = 0; i < v->len; i++) n += ((uint8_t)v->text[i] & 0xc0) != 0x80;
    if (n < shape->min_length || n > shape->max_length) return false;
    return !shape->has_text || name_matches(s, shape->text, v->text, v->len);
}

static bool array_fits(kvi_schema *s, const kvi_shape *shape, const kvi_json_value *v)
{
    if (v->n < shape->min_items || v->n > shape->max_items) return false;
    const kvi_shape_list *prefix = shape->prefix;
    for (const kvi_json_value *c = v->first; c; c = c->next, prefix = prefix ? prefix->next : NULL)
        if (!kvi_shape_fits(s, prefix ? prefix->shape : shape->items, c)) return false;
    return true;
}

static bool object_fits(kvi_schema *s, const kvi_shape *shape, const kvi_json_value *v)
{
    if (v->n < shape->min_properties || v->n > shape->max_properties) return false;
    for (const kvi_property *p = shape->properties; p; p = p->next)
        if (p->required && !kvi_json_get_n(v, p->name, p->len)) return false;
    for (const kvi_json_value *c = v->first; c; c = c->next) {
        if (shape->has_names && !name_matches(s, shape->names, c->key, c->key_len)) return false;
        if (!kvi_shape_fits(s, kvi_shape_property(s, shape, c->key, c->key_len), c)) return false;
    }
    return true;
}

bool kvi_shape_fits(kvi_schema *s, kvi_shape_id id, const kvi_json_value *v)
{
    if (!take_step(s)) return false;
    const kvi_shape *shape = kvi_shape_get(s, id);
    if (shape->kind == KVI_SHAPE_VALUES) {
        for (const kvi_value_list *one = shape->values; one; one = one->next)
            if (kvi_json_equal(one->value, v)) return true;
        return false;
    }
    if (shape->kind == KVI_SHAPE_CHOICE) {
        for (const kvi_shape_list *c = shape->choices; c; c = c->next)
            if (kvi_shape_fits(s, c->shape, v)) return true;
        return false;
    }
    const uint32_t type = type_of(v);
    if (!(shape->types & type)) return false;
    if (type == KVI_IS_NUMBER) return number_fits(shape, v);
    if (type == KVI_IS_STRING) return string_fits(s, shape, v);
    if (type == KVI_IS_ARRAY) return array_fits(s, shape, v);
    return type != KVI_IS_OBJECT || object_fits(s, shape, v);
}

/* -------------------------------------------------------------------------------------------------------- disjoint --- */
static bool arrays_disjoint(kvi_schema *s, const kvi_shape *a, const kvi_shape *b, unsigned depth)
{
    const uint32_t least = larger(a->min_items, b->min_items);
    if (least > smaller(a->max_items, b->max_items)) return true;
    const kvi_shape_list *x = a->prefix, *y = b->prefix;
    for (uint32_t i = 0; i < least; i++) {
        if (kvi_shape_disjoint(s, x ? x->shape : a->items, y ? y->shape : b->items, depth + 1)) return true;
        if (!x && !y) break;
        if (x) x = x->next;
        if (y) y = y->next;
    }
    return false;
}

/* Some property that one of them requires can have no value that both allow. */
static bool objects_disjoint(kvi_schema *s, const kvi_shape *a, const kvi_shape *b, unsigned depth)
{
    if (larger(a->min_properties, b->min_properties) > smaller(a->max_properties, b->max_properties)) return true;
    for (int side = 0; side < 2; side++) {
        const kvi_shape *one = side ? b : a, *other = side ? a : b;
        for (const kvi_property *p = one->properties; p; p = p->next)
            if (p->required &&
                kvi_shape_disjoint(s, p->shape, kvi_shape_property(s, other, p->name, p->len), depth + 1))
                return true;
    }
    return false;
}

static bool typed_disjoint(kvi_schema *s, const kvi_shape *a, const kvi_shape *b, unsigned depth)
{
    const uint32_t types = a->types & b->types;
    if (types & (KVI_IS_NULL | KVI_IS_BOOL)) return false;
    if (types & (KVI_IS_NUMBER | KVI_IS_STRING)) {
        kvi_shape both = *a;
        both_numbers(s, &both, b);
        both.has_text = a->has_text || b->has_text;
        both.text = a->has_text && b->has_text ? kvi_expr_and2(&s->g->exprs, a->text, b->text)
                    : a->has_text              ? a->text
                                               : b->text;
        both.min_length = larger(a->min_length, b->min_length), both.max_length = smaller(a->max_length, b->max_length);
        if (types & KVI_IS_NUMBER && kvi_schema_number(s, &both) != KVI_EXPR_NONE) return false;
        if (types & KVI_IS_STRING && kvi_schema_string(s, &both) != KVI_EXPR_NONE) return false;
    }
    if (types & KVI_IS_ARRAY && !arrays_disjoint(s, a, b, depth)) return false;
    return !(types & KVI_IS_OBJECT) || objects_disjoint(s, a, b, depth);
}

bool kvi_shape_disjoint(kvi_schema *s, kvi_shape_id a, kvi_shape_id b, unsigned depth)
{
    if (a == KVI_SHAPE_NOTHING || b == KVI_SHAPE_NOTHING) return true;
    if (a == b || depth > 8 || !take_step(s)) return false;
    const kvi_shape *x = kvi_shape_get(s, a), *y = kvi_shape_get(s, b);
    if (x->kind == KVI_SHAPE_VALUES || y->kind == KVI_SHAPE_VALUES) {
        const bool first = x->kind == KVI_SHAPE_VALUES;
        for (const kvi_value_list *v = first ? x->values : y->values; v; v = v->next)
            if (kvi_shape_fits(s, first ? b : a, v->value)) return false;
        return true;
    }
    if (x->kind == KVI_SHAPE_CHOICE || y->kind == KVI_SHAPE_CHOICE) {
        const bool first = x->kind == KVI_SHAPE_CHOICE;
        for (const kvi_shape_list *c = first ? x->choices : y->choices; c; c = c->next)
            if (!kvi_shape_disjoint(s, c->shape, first ? b : a, depth + 1)) return false;
        return true;
    }
    return typed_disjoint(s, x, y, depth);
}
