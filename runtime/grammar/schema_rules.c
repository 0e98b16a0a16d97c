/* schema_rules.c - shapes to rules. Lists grow to the left (matcher_sets.c). Punctuation carries the white space: behind { [ , : and before } ],
 * so that
 * every text is read in one way. See schema_impl.h. */
#include "schema_impl.h"

#define COUNT_MOST 4096u /* items or properties that are counted one by one */
#define PATTERNS_MOST 5u /* patternProperties, whose combinations are told apart */

/* ----------------------------------------------------------------------------------------------------- punctuation --- */
typedef enum mark { OPEN, CLOSE, COMMA, COLON } mark;

static kvi_expr punctuation(kvi_schema *s, mark m, bool object)
{
    kvi_exprs *p = &s->g->exprs;
    static const char texts[2][4] = {{'[', ']', ',', ':'}, {'{', '}', ',', ':'}};
    const kvi_expr text = kvi_expr_text(p, &texts[object][m], 1), space = kvi_schema_space(s);
    return m == CLOSE ? kvi_expr_then(p, space, text) : kvi_expr_then(p, text, space);
}
static kvi_symbol punctuation_symbol(kvi_schema *s, mark m, bool object)
{
    return kvi_grammar_terminal(s->g, punctuation(s, m, object));
}

static kvi_symbol empty(kvi_schema *s, bool object)
{
    kvi_exprs *p = &s->g->exprs;
    return kvi_grammar_terminal(
        s->g, kvi_expr_then(p, punctuation(s, OPEN, object), kvi_expr_text(p, object ? "}" : "]", 1)));
}

/* A property's name up to its value, with a comma in front or not. `names` is what stands between the quotes. */
static kvi_symbol name_symbol(kvi_schema *s, kvi_expr names, bool comma)
{
    kvi_exprs *p = &s->g->exprs;
    const kvi_expr quote = kvi_expr_bytes(p, '"', '"'), colon = punctuation(s, COLON, true);
    kvi_expr e;
    if (s->quote) { /* a bare name */
        e = kvi_expr_and2(p, names, kvi_schema_bare_names(s));
        e = kvi_expr_holds_any(p, e) ? kvi_expr_then(p, e, colon) : KVI_EXPR_NONE;
    } else e = kvi_expr_then(p, quote, kvi_expr_then(p, names, kvi_expr_then(p, quote, colon)));
    if (comma) e = kvi_expr_then(p, punctuation(s, COMMA, true), e);
    return kvi_grammar_terminal(s->g, e);
}

/* -------------------------------------------------------------------------------------------------------- any value --- */
static kvi_expr scalars(kvi_schema *s, const kvi_shape *shape)
{
    kvi_exprs *p = &s->g->exprs;
    kvi_expr e = KVI_EXPR_NONE;
    if (shape->types & KVI_IS_NULL) e = kvi_expr_or2(p, e, kvi_expr_text(p, "null", 4));
    if (shape->types & KVI_IS_BOOL)
        e = kvi_expr_or(p, (kvi_expr[]){e, kvi_expr_text(p, "true", 4), kvi_expr_text(p, "false", 5)}, 3);
    if (shape->types & KVI_IS_NUMBER) e = kvi_expr_or2(p, e, kvi_schema_number(s, shape));
    if (shape->types & KVI_IS_STRING) e = kvi_expr_or2(p, e, kvi_schema_string(s, shape));
    return e;
}

static kvi_symbol any_value(kvi_schema *s)
{
    kvi_grammar *g = s->g;
    if (s->has_any) return s->any;
    s->has_any = true;
    s->any = kvi_grammar_nonterminal(g);
    const kvi_symbol items = kvi_grammar_nonterminal(g), members = kvi_grammar_nonterminal(g);
    const kvi_expr names = kvi_expr_repeat(&g->exprs, s->character, 0, KVI_EXPR_MANY);
    kvi_grammar_rule(g, s->any, (kvi_symbol[]){kvi_grammar_terminal(g, scalars(s, s->shapes[KVI_SHAPE_ANY]))}, 1);
    kvi_grammar_rule(g, s->any, (kvi_symbol[]){empty(s, false)}, 1);
    kvi_grammar_rule(g, s->any, (kvi_symbol[]){empty(s, true)}, 1);
    kvi_grammar_rule(g, s->any,
                     (kvi_symbol[]){punctuation_symbol(s, OPEN, false), items, punctuation_symbol(s, CLOSE, false)}, 3);
    kvi_grammar_rule(g, s->any,
                     (kvi_symbol[]){punctuation_symbol(s, OPEN, true), members, punctuation_symbol(s, CLOSE, true)}, 3);
    kvi_grammar_rule(g, items, (kvi_symbol[]){s->any}, 1);
    kvi_grammar_rule(g, items, (kvi_symbol[]){items, punctuation_symbol(s, COMMA, false), s->any}, 3);
    kvi_grammar_rule(g, members, (kvi_symbol[]){name_symbol(s, names, false), s->any}, 2);
    kvi_grammar_rule(g, members, (kvi_symbol[]){members, name_symbol(s, names, true), s->any}, 3);
    return s->any;
}

kvi_symbol kvi_schema_symbol(kvi_schema *s, kvi_shape_id id)
{
    id = kvi_shape_resolve(s, id);
    if (kvi_schema_failed(s) || id == KVI_SHAPE_NOTHING) return KVI_SYMBOL_NONE;
    if (id == KVI_SHAPE_ANY) return any_value(s);
    kvi_shape *shape = s->shapes[id];
    if (shape->has_symbol) return shape->symbol;
    shape->has_symbol = true;
    if (shape->kind == KVI_SHAPE_VALUES) {
        kvi_expr_union texts = {{0}};
        for (const kvi_value_list *v = shape->values; v; v = v->next)
            kvi_expr_union_add(&s->g->exprs, &texts, kvi_schema_literal(s, v->value));
        return shape->symbol = kvi_grammar_terminal(s->g, kvi_expr_union_all(&s->g->exprs, &texts));
    }
    if (shape->kind == KVI_SHAPE_TYPED && !(shape->types & (KVI_IS_ARRAY | KVI_IS_OBJECT)))
        return shape->symbol = kvi_grammar_terminal(s->g, scalars(s, shape));
    void *queue = s->queue;
    if (!kvi_mem_grow(&queue, &s->cap_queue, s->n_queue + 1, sizeof *s->queue)) {
        s->no_memory = true;
        return KVI_SYMBOL_NONE;
    }
    s->queue = queue;
    s->queue[s->n_queue++] = id;
    return shape->symbol = kvi_grammar_nonterminal(s->g);
}

/* ----------------------------------------------------------------------------------------------------------- arrays --- */
static void make_array(kvi_schema *s, const kvi_shape *shape)
{
    kvi_grammar *g = s->g;
    const kvi_symbol open = punctuation_symbol(s, OPEN, false), close = punctuation_symbol(s, CLOSE, false);
    const kvi_symbol comma = punctuation_symbol(s, COMMA, false);
    const kvi_symbol rest = shape->items == KVI_SHAPE_NOTHING ? KVI_SYMBOL_NONE : kvi_schema_symbol(s, shape->items);
    const kvi_shape_list *prefix = shape->prefix;
    const uint32_t min = shape->min_items, max = shape->max_items;
    kvi_symbol list = KVI_SYMBOL_VOID; /* the first i items */
    uint32_t i = 0;
    if (min > max) return;
    if (min == 0) kvi_grammar_rule(g, shape->symbol, (kvi_symbol[]){empty(s, false)}, 1);
    /* Items are counted while something depends on their number. */
    while (i < max && (prefix || i < min || max != KVI_NO_LIMIT) && !kvi_schema_failed(s)) {
        const kvi_symbol item = prefix ? kvi_schema_symbol(s, prefix->shape) : rest;
        if (prefix) prefix = prefix->next;
        if (item == KVI_SYMBOL_NONE) return; /* no longer arrays */
        if (++i > COUNT_MOST) {
            (void)kvi_schema_fail(s, shape->schema, min > COUNT_MOST ? "minItems" : "maxItems",
                                  "more than 4096 are not supported");
            return;
        }
        const kvi_symbol longer = kvi_grammar_nonterminal(g);
        kvi_grammar_rule(g, longer, (kvi_symbol[]){list, i > 1 ? comma : KVI_SYMBOL_VOID, item}, 3);
        list = longer;
        if (i >= min) kvi_grammar_rule(g, shape->symbol, (kvi_symbol[]){open, list, close}, 3);
    }
    if (max != KVI_NO_LIMIT || rest == KVI_SYMBOL_NONE) return;
    const kvi_symbol more = kvi_grammar_nonterminal(g);
    kvi_grammar_rule(g, more, (kvi_symbol[]){list, i ? comma : KVI_SYMBOL_VOID, rest}, 3);
    kvi_grammar_rule(g, more, (kvi_symbol[]){more, comma, rest}, 3);
    kvi_grammar_rule(g, shape->symbol, (kvi_symbol[]){open, more, close}, 3);
}

/* ---------------------------------------------------------------------------------------------------------- objects --- */
/* Properties so far: where something depends on their number, a symbol for each. Beyond what matters they are not told apart. */
typedef struct counter {
    kvi_symbol *with; // (most + 1) properties so far; NONE: not possible
    uint32_t most;
    bool saturates; /* `most` stands for more as well */
} counter;

static uint32_t count_up(const counter *c, uint32_t n) { return n < c->most ? n + 1 : c->saturates ? c->most : n + 1; }

/* After one more property: with its name and value behind what was there, without it where it may be missing. */
static void add_property(kvi_schema *s, counter *c, kvi_expr names, kvi_symbol value, bool optional, bool first)
{
    kvi_grammar *g = s->g;
    kvi_symbol *next = kvi_schema_alloc(s, (c->most + 1u) * sizeof *next);
    if (!next) return;
    for (uint32_t n = 0; n <= c->most; n++) next[n] = KVI_SYMBOL_NONE;
    const kvi_symbol name = name_symbol(s, names, true);
    for (uint32_t n = 0; n <= c->most && !kvi_schema_failed(s); n++) {
        const uint32_t to = count_up(c, n);
        if (c->with[n] == KVI_SYMBOL_NONE) continue;
        if (to <= c->most && value != KVI_SYMBOL_NONE) {
            if (next[to] == KVI_SYMBOL_NONE) next[to] = kvi_grammar_nonterminal(g);
            kvi_grammar_rule(g, next[to], (kvi_symbol[]){c->with[n], name, value}, 3);
        }
        if (!optional) continue;
        if (next[n] == KVI_SYMBOL_NONE) next[n] = kvi_grammar_nonterminal(g);
        kvi_grammar_rule(g, next[n], &c->with[n], 1);
    }
    const uint32_t one = count_up(c, 0);
    if (first && one <= c->most && value != KVI_SYMBOL_NONE) {
        if (next[one] == KVI_SYMBOL_NONE) next[one] = kvi_grammar_nonterminal(g);
        kvi_grammar_rule(g, next[one], (kvi_symbol[]){name_symbol(s, names, false), value}, 2);
    }
    c->with = next;
}

typedef struct extra {
    kvi_expr names;
    kvi_symbol value;
} extra;

/* Kinds of properties that are not named: for each combination of patterns the names that match just these, and what holds of them. */
static size_t find_extras(kvi_schema *s, const kvi_shape *shape, extra *out)
{
    kvi_exprs *p = &s->g->exprs;
    const kvi_property *patterns[PATTERNS_MOST];
    uint32_t n_patterns = 0;
    size_t n = 0;
    kvi_expr_union names_of = {{0}};
    for (const kvi_property *q = shape->properties; q; q = q->next)
        kvi_expr_union_add(p, &names_of, kvi_pattern_literal(p, q->name, q->len, KVI_PATTERN_JSON));
    const kvi_expr named = kvi_expr_union_all(p, &names_of);
    kvi_expr free_names = kvi_pattern_anything(p, KVI_PATTERN_JSON);
    if (named != KVI_EXPR_NONE) free_names = kvi_expr_and2(p, free_names, kvi_expr_not(p, named));
    if (shape->has_names) free_names = kvi_expr_and2(p, free_names, shape->names);
    for (const kvi_property *q = shape->patterns; q; q = q->next) {
        if (n_patterns == PATTERNS_MOST)
            return (void)kvi_schema_fail(s, shape->schema, "patternProperties", "more than 5 are not supported"), 0;
        patterns[n_patterns++] = q;
    }
    for (uint32_t set = 0; set < 1u << n_patterns && !kvi_schema_failed(s); set++) {
        kvi_expr names = free_names;
        kvi_shape_id id = set ? KVI_SHAPE_ANY : shape->additional;
        for (uint32_t i = 0; i < n_patterns; i++) {
            const bool in = set >> i & 1;
            if (in) id = kvi_shape_both(s, id, patterns[i]->shape);
            names = kvi_expr_and2(p, names, in ? patterns[i]->pattern : kvi_expr_not(p, patterns[i]->pattern));
        }
        const kvi_symbol value = kvi_schema_symbol(s, id);
        if (value != KVI_SYMBOL_NONE && kvi_expr_holds_any(p, names)) out[n++] = (extra){names, value};
    }
    return n;
}

static bool begin_count(kvi_schema *s, const kvi_shape *shape, uint32_t n_named, uint32_t n_required, bool extras,
                        counter *c)
{
    uint32_t max = shape->max_properties;
    if (!extras && max > n_named) max = n_named;
    const bool limited = extras ? max != KVI_NO_LIMIT : max < n_named;
    c->saturates = !limited;
    c->most = limited                                                                        ? max
              : shape->min_properties > n_required || (shape->min_properties && !n_required) ? shape->min_properties
                                                                                             : 0;
    if (c->most > COUNT_MOST || (uint64_t)c->most * n_named > 100000u) {
        (void)kvi_schema_fail(s, shape->schema, limited ? "maxProperties" : "minProperties",
                              "too many to count are not supported");
        return false;
    }
    c->with = kvi_schema_alloc(s, (c->most + 1u) * sizeof *c->with);
    for (uint32_t n = 0; c->with && n <= c->most; n++) c->with[n] = KVI_SYMBOL_NONE;
    return c->with != NULL;
}

/* One more property that is not named, any number of times. */
static void add_extras(kvi_schema *s, counter *c, const extra *extras, size_t n_extras, bool first)
{
    kvi_grammar *g = s->g;
    kvi_symbol *with = kvi_schema_alloc(s, (c->most + 1u) * sizeof *with);
    if (!with || n_extras == 0) return;
    for (uint32_t n = 0; n <= c->most; n++) {
        with[n] = kvi_grammar_nonterminal(g);
        if (c->with[n] != KVI_SYMBOL_NONE) kvi_grammar_rule(g, with[n], &c->with[n], 1);
    }
    for (size_t i = 0; i < n_extras && !kvi_schema_failed(s); i++) {
        const kvi_symbol name = name_symbol(s, extras[i].names, true);
        const uint32_t one = count_up(c, 0);
        for (uint32_t n = c->saturates && c->most == 0 ? 0 : 1; n <= c->most; n++)
            if (count_up(c, n) <= c->most)
                kvi_grammar_rule(g, with[count_up(c, n)], (kvi_symbol[]){with[n], name, extras[i].value}, 3);
        if (first && one <= c->most)
            kvi_grammar_rule(g, with[one], (kvi_symbol[]){name_symbol(s, extras[i].names, false), extras[i].value}, 2);
    }
    c->with = with;
}

static void make_object(kvi_schema *s, const kvi_shape *shape)
{
    kvi_grammar *g = s->g;
    extra extras[1u << PATTERNS_MOST];
    counter c;
    uint32_t n_named = 0, n_required = 0;
    bool first = true; /* nothing before must be there */
    const size_t n_extras = find_extras(s, shape, extras);
    for (const kvi_property *p = shape->properties; p; p = p->next) n_named++, n_required += p->required;
    if (kvi_schema_failed(s) || shape->min_properties > shape->max_properties) return;
    if (!begin_count(s, shape, n_named, n_required, n_extras > 0, &c)) return;
    for (const kvi_property *p = shape->properties; p && !kvi_schema_failed(s); p = p->next) {
        const kvi_expr name = kvi_pattern_literal(&g->exprs, p->name, p->len, KVI_PATTERN_JSON);
        add_property(s, &c, name, kvi_schema_symbol(s, p->shape), !p->required, first);
        first = first && !p->required;
    }
    if (kvi_schema_failed(s)) return;
    add_extras(s, &c, extras, n_extras, first);
    const kvi_symbol open = punctuation_symbol(s, OPEN, true), close = punctuation_symbol(s, CLOSE, true);
    const uint32_t least = c.most < shape->min_properties ? c.most : shape->min_properties;
    if (c.saturates || c.most >= shape->min_properties)
        for (uint32_t n = c.most == 0 ? 0 : least; n <= c.most; n++)
            if (c.with[n] != KVI_SYMBOL_NONE)
                kvi_grammar_rule(g, shape->symbol, (kvi_symbol[]){open, c.with[n], close}, 3);
    if (first && shape->min_properties == 0) kvi_grammar_rule(g, shape->symbol, (kvi_symbol[]){empty(s, true)}, 1);
}

void kvi_schema_make_rules(kvi_schema *s)
{
    for (size_t i = 0; i < s->n_queue && !kvi_schema_failed(s); i++) {
        const kvi_shape *shape = s->shapes[s->queue[i]];
        for (const kvi_shape_list *c = shape->choices; shape->kind == KVI_SHAPE_CHOICE && c; c = c->next) {
            const kvi_symbol one = kvi_schema_symbol(s, c->shape);
            kvi_grammar_rule(s->g, shape->symbol, &one, 1);
        }
        if (shape->kind != KVI_SHAPE_TYPED) continue;
        const kvi_symbol scalar = kvi_grammar_terminal(s->g, scalars(s, shape));
        kvi_grammar_rule(s->g, shape->symbol, &scalar, 1);
        if (shape->types & KVI_IS_ARRAY) make_array(s, shape);
        if (shape->types & KVI_IS_OBJECT) make_object(s, shape);
    }
}
