/* call_grammar.c - see call_grammar.h. */
#include "call_grammar.h"
#include "schema_impl.h"
#include "../base/log.h"

#include <string.h>

enum {
    TAG_OPEN,
    TAG_CLOSE,
    PYTHON_TAG,
    TOOL_CALLS,
    ARGS,
    CALL_ID,
    GEMMA_OPEN,
    GEMMA_CLOSE,
    GEMMA_QUOTE,
    KEY_OPEN,
    KEY_CLOSE,
    VALUE_OPEN,
    VALUE_CLOSE,
    START,
    CHANNEL,
    MESSAGE,
    END,
    CONSTRAIN
};
const char *const kvi_call_marks[KVI_CALL_MARKS] = {[TAG_OPEN] = "<tool_call>",
                                                    [TAG_CLOSE] = "</tool_call>",
                                                    [PYTHON_TAG] = "<|python_tag|>",
                                                    [TOOL_CALLS] = "[TOOL_CALLS]",
                                                    [ARGS] = "[ARGS]",
                                                    [CALL_ID] = "[CALL_ID]",
                                                    [GEMMA_OPEN] = "<|tool_call>",
                                                    [GEMMA_CLOSE] = "<tool_call|>",
                                                    [GEMMA_QUOTE] = "<|\"|>",
                                                    [KEY_OPEN] = "<arg_key>",
                                                    [KEY_CLOSE] = "</arg_key>",
                                                    [VALUE_OPEN] = "<arg_value>",
                                                    [VALUE_CLOSE] = "</arg_value>",
                                                    [START] = "<|start|>",
                                                    [CHANNEL] = "<|channel|>",
                                                    [MESSAGE] = "<|message|>",
                                                    [END] = "<|end|>",
                                                    [CONSTRAIN] = "<|constrain|>"};

typedef struct builder {
    kvi_grammar *g;
    kvi_exprs *p;
    const kvi_call_rules *r;
    kvi_expr space; /* as JSON printers write it */
    kvrt_status status;
    kvrt_error *error;
} builder;

/* ---------------------------------------------------------------------------------------------------------- pieces --- */
static kvi_expr text(builder *b, const char *s) { return kvi_expr_text(b->p, s, strlen(s)); }

static kvi_expr mark(builder *b, unsigned m)
{
    const char bytes[2] = {(char)KVI_CALL_MARK, (char)(m + 1)};
    return b->r->single >> m & 1 ? kvi_expr_text(b->p, bytes, 2) : text(b, kvi_call_marks[m]);
}

/* One after the other, up to KVI_EXPR_NONE; so none of them may hold nothing. */
static kvi_expr chain(builder *b, const kvi_expr *list)
{
    size_t n = 0;
    while (list[n] != KVI_EXPR_NONE) n++;
    kvi_expr e = KVI_EXPR_VOID;
    while (n--) e = kvi_expr_then(b->p, list[n], e);
    return e;
}
#define CHAIN(...) chain(b, (const kvi_expr[]){__VA_ARGS__, KVI_EXPR_NONE})
static kvi_expr maybe(builder *b, kvi_expr e) { return kvi_expr_or2(b->p, KVI_EXPR_VOID, e); }
static kvi_symbol terminal(builder *b, kvi_expr e) { return kvi_grammar_terminal(b->g, e); }

/* Texts of e without this one in them. */
static kvi_expr without(builder *b, kvi_expr e, const char *what)
{
    const kvi_expr any = kvi_expr_anything(b->p);
    return kvi_expr_and2(b->p, e, kvi_expr_not(b->p, CHAIN(any, text(b, what), any)));
}

/* Any bytes but KVI_CALL_MARK, and tokens without text but those of the marks in `not`. */
static kvi_expr free_text(builder *b, uint32_t not )
{
    kvi_byte_set all = {{~0ull, ~0ull, ~0ull, ~0ull >> 1}}, marks = {{1ull << KVI_CALL_OTHER, 0, 0, 0}};
    for (unsigned m = 0; m < KVI_CALL_MARKS; m++)
        if (!(not >> m & 1)) marks.bits[0] |= 1ull << (m + 1);
    const kvi_expr token = CHAIN(kvi_expr_bytes(b->p, KVI_CALL_MARK, KVI_CALL_MARK), kvi_expr_byte_set(b->p, &marks));
    return kvi_expr_repeat(b->p, kvi_expr_or2(b->p, kvi_expr_byte_set(b->p, &all), token), 0, KVI_EXPR_MANY);
}

/* ------------------------------------------------------------------------------------------------------- arguments --- */
static const char parameter_end[] = "</parameter>";

static bool is_json(const char *s, size_t len)
{
    kvi_json r;
    kvi_json_init(&r, s, len);
    kvi_json_skip(&r);
    return kvi_json_end(&r);
}

/* A value that stands without quotes. `is_text`: the reader takes it for a string whatever it looks like; else strings are JSON, and those of an
 * enum also as they are if they look like nothing else. */
static kvi_symbol bare_value(builder *b, kvi_schema *s, kvi_shape_id id, bool is_text, const char *stop)
{
    const kvi_shape *shape = kvi_shape_get(s, id);
    if (kvi_schema_failed(s)) return KVI_SYMBOL_NONE;
    if (is_text && shape->kind == KVI_SHAPE_TYPED)
        return shape->types & KVI_IS_STRING ? terminal(b, kvi_schema_raw_string(s, shape, stop)) : KVI_SYMBOL_NONE;
    if (shape->kind == KVI_SHAPE_VALUES) {
        kvi_expr e = KVI_EXPR_NONE;
        for (const kvi_value_list *v = shape->values; v; v = v->next) {
            const bool string = v->value->type == KVI_JSON_STRING;
            if (!is_text) e = kvi_expr_or2(b->p, e, kvi_schema_literal(s, v->value));
            if (string && (is_text || !is_json(v->value->text, v->value->len)))
                e = kvi_expr_or2(b->p, e, kvi_schema_raw_text(s, v->value->text, v->value->len, stop));
        }
        return terminal(b, e);
    }
    if (!is_text) return kvi_schema_symbol(s, id);
    const kvi_symbol any = kvi_grammar_nonterminal(b->g);
    for (const kvi_shape_list *c = shape->choices; c; c = c->next) {
        const kvi_symbol one = bare_value(b, s, c->shape, true, stop);
        kvi_grammar_rule(b->g, any, &one, 1);
    }
    return any;
}

/* name and value of an argument, as the format has them; `names`: what may stand for the name. */
static kvi_symbol argument(builder *b, kvi_expr names, kvi_symbol value)
{
    const kvi_expr line = maybe(b, text(b, "\n"));
    if (names == KVI_EXPR_NONE) return KVI_SYMBOL_NONE;
    const bool keys = b->r->style == KVI_CALL_STYLE_ARG_KEY;
    const kvi_expr before = keys ? CHAIN(mark(b, KEY_OPEN), names, mark(b, KEY_CLOSE), line, mark(b, VALUE_OPEN))
                                 : CHAIN(text(b, "<parameter="), names, text(b, ">\n"));
    const kvi_expr behind =
        keys ? CHAIN(mark(b, VALUE_CLOSE), line) : CHAIN(text(b, "\n"), text(b, parameter_end), line);
    return kvi_grammar_sequence(b->g, (kvi_symbol[]){terminal(b, before), value, terminal(b, behind)}, 3);
}

/* The arguments of an object one after the other, in the schema's order. */
static kvi_symbol bare_arguments(builder *b, kvi_schema *s, kvi_shape_id id)
{
    const kvi_shape *shape = kvi_shape_get(s, id);
    const char *stop = b->r->style == KVI_CALL_STYLE_ARG_KEY ? kvi_call_marks[VALUE_CLOSE] : parameter_end;
    if (kvi_schema_failed(s)) return KVI_SYMBOL_NONE;
    if (shape->kind == KVI_SHAPE_CHOICE) {
        const kvi_symbol any = kvi_grammar_nonterminal(b->g);
        for (const kvi_shape_list *c = shape->choices; c; c = c->next) {
            const kvi_symbol one = bare_arguments(b, s, c->shape);
            kvi_grammar_rule(b->g, any, &one, 1);
        }
        return any;
    }
    if (shape->kind != KVI_SHAPE_TYPED || !(shape->types & KVI_IS_OBJECT)) return KVI_SYMBOL_NONE;
    static const char unsupported[] = "not supported where arguments are written one by one";
    uint32_t n_required = 0;
    for (const kvi_property *p = shape->properties; p; p = p->next) n_required += p->required;
    if (shape->patterns || shape->has_names)
        (void)kvi_schema_fail(s, shape->schema, shape->patterns ? "patternProperties" : "propertyNames", unsupported);
    if (shape->min_properties > n_required || shape->max_properties != KVI_NO_LIMIT)
        (void)kvi_schema_fail(s, shape->schema, shape->min_properties > n_required ? "minProperties" : "maxProperties",
                              unsupported);
    const kvi_json_value *said = kvi_json_get(s->root, "properties");
    const kvi_expr bare = kvi_schema_bare_names(s);
    kvi_expr other = bare;
    kvi_symbol list = KVI_SYMBOL_VOID;
    for (const kvi_property *p = shape->properties; p && !kvi_schema_failed(s); p = p->next) {
        const kvi_expr name = kvi_expr_text(b->p, p->name, p->len);
        const bool can = kvi_expr_matches(b->p, bare, p->name, p->len);
        const bool is_text = kvi_json_is_text(kvi_json_get(kvi_json_get_n(said, p->name, p->len), "type"), "string");
        const kvi_symbol value = bare_value(b, s, p->shape, is_text, stop), next = kvi_grammar_nonterminal(b->g);
        kvi_grammar_rule(b->g, next, (kvi_symbol[]){list, argument(b, can ? name : KVI_EXPR_NONE, value)}, 2);
        if (!p->required) kvi_grammar_rule(b->g, next, &list, 1);
        other = kvi_expr_and2(b->p, other, kvi_expr_not(b->p, name));
        list = next;
    }
    if (shape->additional == KVI_SHAPE_NOTHING || kvi_schema_failed(s)) return list;
    const kvi_symbol more = kvi_grammar_nonterminal(b->g);
    const kvi_symbol value = bare_value(b, s, shape->additional, false, stop);
    kvi_grammar_rule(b->g, more, &list, 1);
    kvi_grammar_rule(b->g, more, (kvi_symbol[]){more, argument(b, other, value)}, 2);
    return more;
}

typedef struct tool {
    const char *name;
    size_t len;
    kvi_json_value *parameters;
    bool strict;
} tool;

static void forget_notes(kvi_json_value *v)
{
    v->note = 0;
    for (kvi_json_value *c = v->first; c; c = c->next) forget_notes(c);
}

/* The arguments of a tool into grammar g: its schema's (parameters NULL: none), or with `loose` any object. */
static kvrt_status make_arguments(builder *b, const tool *t, bool loose, kvi_symbol *out, kvrt_error *error)
{
    static kvi_json_value none = {.type = KVI_JSON_OBJECT};
    const kvi_call_style style = b->r->style;
    kvi_schema s = {.g = b->g, .name = "gen.tools"};
    if (style == KVI_CALL_STYLE_GEMMA) s.quote = mark(b, GEMMA_QUOTE), s.stop = kvi_call_marks[GEMMA_QUOTE];
    if (t->parameters) forget_notes(t->parameters);
    kvi_schema_begin(&s, t->parameters ? t->parameters : &none);
    kvi_shape_id id = kvi_shape_new(&s, KVI_SHAPE_TYPED, NULL);
    if (!kvi_schema_failed(&s)) {
        s.shapes[id]->types = KVI_IS_OBJECT;
        if (!t->parameters) s.shapes[id]->additional = KVI_SHAPE_NOTHING;
        else if (!loose) id = kvi_shape_both(&s, kvi_shape_of(&s, s.root), id);
    }
    *out = style == KVI_CALL_STYLE_FUNCTION || style == KVI_CALL_STYLE_ARG_KEY ? bare_arguments(b, &s, id)
                                                                               : kvi_schema_symbol(&s, id);
    kvi_schema_make_rules(&s);
    return kvi_schema_end(&s, error);
}

/* Whether the tool's schema can be followed, found out in a grammar of its own: what fails there would spoil this one. */
static kvrt_status try_arguments(const builder *b, const tool *t, kvrt_error *error)
{
    kvi_symbol start;
    builder own = {.r = b->r, .g = kvi_grammar_new(kvi_grammar_default_limits())};
    if (!own.g) return kvi_error_nomem(error, sizeof *own.g, "gen.tools");
    own.p = &own.g->exprs;
    kvrt_status status = make_arguments(&own, t, false, &start, error);
    /* Arguments that are written one by one may be none at all. */
    if (status >= KVRT_OK && start != KVI_SYMBOL_VOID) status = kvi_grammar_finish(own.g, start, "gen.tools", error);
    kvi_grammar_free(own.g);
    return status;
}

static kvi_symbol arguments(builder *b, const tool *t)
{
    kvrt_error why = {.size = sizeof why};
    kvi_symbol out = KVI_SYMBOL_NONE;
    if (b->status < KVRT_OK) return out;
    b->status = try_arguments(b, t, &why);
    const bool loose = b->status == KVRT_GRAMMAR && !t->strict;
    if (loose)
        kvi_log(KVI_LOG_WARN, "%s (tool %.*s: its arguments are held to being an object)", why.message, (int)t->len,
                t->name);
    if (loose || b->status >= KVRT_OK) b->status = make_arguments(b, t, loose, &out, &why);
    if (b->status < KVRT_OK) (void)kvi_error_hand_on(b->error, &why);
    return out;
}

/* ----------------------------------------------------------------------------------------------------------- calls --- */
/* {"name": "f", "arguments": up to the arguments. */
static kvi_expr json_head(builder *b, const tool *t, const char *arguments, bool type)
{
    const kvi_expr name = kvi_pattern_literal(b->p, t->name, t->len, KVI_PATTERN_JSON), sp = b->space;
    const kvi_expr function = CHAIN(text(b, "\"type\":"), sp, text(b, "\"function\","), sp);
    return CHAIN(text(b, "{"), sp, type ? maybe(b, function) : KVI_EXPR_VOID, text(b, "\"name\":"), sp, text(b, "\""),
                 name, text(b, "\","), sp, text(b, arguments), sp);
}

/* A call of this tool without its opening mark. */
static kvi_symbol one_call(builder *b, const tool *t)
{
    const kvi_call_style style = b->r->style;
    const kvi_symbol value = arguments(b, t);
    const kvi_expr name = kvi_expr_text(b->p, t->name, t->len), sp = b->space, line = maybe(b, text(b, "\n"));
    const kvi_expr close = CHAIN(sp, text(b, "}"));
    kvi_expr head, tail = KVI_EXPR_VOID;
    if (style == KVI_CALL_STYLE_JSON) {
        head = CHAIN(sp, json_head(b, t, "\"arguments\":", false));
        tail = CHAIN(close, sp, mark(b, TAG_CLOSE));
    } else if (style == KVI_CALL_STYLE_FUNCTION) {
        head = CHAIN(line, text(b, "<function="), name, text(b, ">"), line);
        tail = CHAIN(text(b, "</function>"), line, mark(b, TAG_CLOSE));
    } else if (style == KVI_CALL_STYLE_ARG_KEY) {
        head = CHAIN(name, line);
        tail = mark(b, TAG_CLOSE);
    } else if (style == KVI_CALL_STYLE_LLAMA) {
        head = json_head(b, t, "\"parameters\":", true);
        tail = close;
    } else if (style == KVI_CALL_STYLE_LIST) {
        static const char id[] = "\"[A-Za-z0-9]{9}\"";
        size_t at = 0;
        const kvi_expr value_of_id = kvi_pattern_parse(b->p, id, sizeof id - 1, KVI_PATTERN_PLAIN, true, &at);
        head = json_head(b, t, "\"arguments\":", false);
        tail = CHAIN(maybe(b, CHAIN(text(b, ","), sp, text(b, "\"id\":"), sp, value_of_id)), close);
    } else if (style == KVI_CALL_STYLE_ARGS) head = CHAIN(name, mark(b, ARGS));
    else {
        head = CHAIN(text(b, "call:"), name);
        tail = mark(b, GEMMA_CLOSE);
    }
    return kvi_grammar_sequence(b->g, (kvi_symbol[]){terminal(b, head), value, terminal(b, tail)}, 3);
}

static bool next_tool(builder *b, kvi_json_value **at, tool *out)
{
    for (kvi_json_value *t = *at; t; t = t->next) {
        const kvi_json_value *f = kvi_json_get(t, "function"), *of = f ? f : t, *name = kvi_json_get(of, "name");
        const kvi_json_value *strict = kvi_json_get(of, "strict");
        if (b->r->only && (name->len != b->r->only_len || memcmp(name->text, b->r->only, name->len) != 0)) continue;
        *out = (tool){name->text, name->len, kvi_json_get(of, "parameters"), strict && strict->type == KVI_JSON_TRUE};
        *at = t->next;
        return true;
    }
    return false;
}

/* Calls of any of the tools, each behind `mark` (VOID: none): one, or for lists several. */
static kvi_symbol any_call(builder *b)
{
    const kvi_symbol any = kvi_grammar_nonterminal(b->g);
    kvi_json_value *at = b->r->tools->first;
    for (tool t; next_tool(b, &at, &t);) {
        const kvi_symbol call = one_call(b, &t);
        kvi_grammar_rule(b->g, any, &call, 1);
    }
    if (b->r->style != KVI_CALL_STYLE_LIST) return any;
    const kvi_symbol comma = terminal(b, CHAIN(text(b, ","), b->space)), list = kvi_grammar_nonterminal(b->g);
    kvi_grammar_rule(b->g, list, &any, 1);
    if (!b->r->only) kvi_grammar_rule(b->g, list, (kvi_symbol[]){list, comma, any}, 3);
    return kvi_grammar_sequence(b->g,
                                (kvi_symbol[]){terminal(b, CHAIN(b->space, text(b, "["), b->space)), list,
                                               terminal(b, CHAIN(b->space, text(b, "]")))},
                                3);
}

static unsigned opening_mark(kvi_call_style style)
{
    return style == KVI_CALL_STYLE_LLAMA                                  ? PYTHON_TAG
           : style == KVI_CALL_STYLE_LIST || style == KVI_CALL_STYLE_ARGS ? TOOL_CALLS
           : style == KVI_CALL_STYLE_GEMMA                                ? GEMMA_OPEN
                                                                          : TAG_OPEN;
}

/* A text that must satisfy a schema. */
static kvi_symbol schema_text(builder *b)
{
    kvi_schema s = {.g = b->g, .name = "grammar.schema"};
    if (b->status < KVRT_OK) return KVI_SYMBOL_NONE;
    forget_notes(b->r->schema);
    kvi_schema_begin(&s, b->r->schema);
    const kvi_symbol symbol = kvi_schema_failed(&s) ? KVI_SYMBOL_NONE : kvi_schema_symbol(&s, kvi_shape_of(&s, s.root));
    kvi_schema_make_rules(&s);
    b->status = kvi_schema_end(&s, b->error);
    return symbol;
}

/* calls: one behind the other; text: free with calls in it. */
static kvi_symbol marked_text(builder *b)
{
    kvi_grammar *g = b->g;
    const kvi_call_style style = b->r->style;
    const unsigned m = opening_mark(style);
    const kvi_symbol body = any_call(b), root = kvi_grammar_nonterminal(g), calls = kvi_grammar_nonterminal(g);
    const kvi_symbol open = terminal(b, mark(b, m)), behind = terminal(b, maybe(b, b->space));
    const bool llama = style == KVI_CALL_STYLE_LLAMA, nothing_between = m == TOOL_CALLS || m == GEMMA_OPEN;
    kvi_grammar_rule(g, calls, (kvi_symbol[]){open, body}, 2);
    if (llama) kvi_grammar_rule(g, calls, &body, 1);
    if (!b->r->only)
        kvi_grammar_rule(g, calls, (kvi_symbol[]){calls, nothing_between ? KVI_SYMBOL_VOID : behind, open, body}, 4);
    if (b->r->schema || b->r->required) {
        kvi_grammar_rule(g, root, &calls, 1);
        if (b->r->schema && !b->r->required) kvi_grammar_rule(g, root, (kvi_symbol[]){schema_text(b)}, 1);
        return root;
    }
    const kvi_expr text_expr = without(b, free_text(b, 1u << m), kvi_call_marks[m]);
    const kvi_symbol text_symbol = terminal(b, text_expr);
    const kvi_symbol any_open = terminal(b, kvi_expr_or2(b->p, mark(b, m), text(b, kvi_call_marks[m])));
    if (llama) { /* a text that begins as a call does is one */
        static const char begins[] = "[ \\n\\r\\t]*\\{[ \\n\\r\\t]*\"(name|type|parameters|arguments)\"";
        size_t at = 0;
        const kvi_expr call = kvi_pattern_parse(b->p, begins, sizeof begins - 1, KVI_PATTERN_PLAIN, true, &at);
        const kvi_expr first = kvi_expr_and2(b->p, text_expr, kvi_expr_not(b->p, CHAIN(call, kvi_expr_anything(b->p))));
        const kvi_symbol blank = terminal(b, b->space);
        kvi_grammar_rule(g, root, (kvi_symbol[]){terminal(b, first)}, 1);
        kvi_grammar_rule(g, root, (kvi_symbol[]){blank, body, text_symbol}, 3);
    } else kvi_grammar_rule(g, root, &text_symbol, 1);
    kvi_grammar_rule(g, root, (kvi_symbol[]){root, any_open, body, text_symbol}, 4);
    return root;
}

/* --------------------------------------------------------------------------------------------------------- gpt-oss --- */
/* Messages: a header up to <|message|>, a body. One to a tool is the last. */
static kvi_symbol harmony(builder *b)
{
    static const char to[] = "to=functions.";
    kvi_grammar *g = b->g;
    const uint32_t ends = 1u << START | 1u << MESSAGE | 1u << END;
    const kvi_expr final = CHAIN(mark(b, CHANNEL), text(b, "final")), any = kvi_expr_anything(b->p);
    const kvi_expr is_final = CHAIN(any, final, any);
    const kvi_expr role = maybe(b, text(b, "assistant")), channel = CHAIN(mark(b, CHANNEL), text(b, "commentary"));
    kvi_expr header = without(b, free_text(b, ends), to);
    if (b->r->required) header = CHAIN(role, mark(b, CHANNEL), text(b, "analysis"));
    else if (b->r->schema) header = kvi_expr_and2(b->p, header, kvi_expr_not(b->p, is_final));
    const kvi_symbol message = terminal(b, CHAIN(header, mark(b, MESSAGE))), start = terminal(b, mark(b, START));
    const kvi_symbol body = terminal(b, free_text(b, ends | 1u << CHANNEL)), end = terminal(b, mark(b, END));
    const kvi_symbol root = kvi_grammar_nonterminal(g), before = kvi_grammar_nonterminal(g);
    const kvi_symbol list = kvi_grammar_nonterminal(g), last = kvi_grammar_nonterminal(g);
    kvi_grammar_rule(g, list, (kvi_symbol[]){message, body}, 2);
    kvi_grammar_rule(g, list, (kvi_symbol[]){list, end, start, message, body}, 5);
    kvi_grammar_rule(g, before, NULL, 0);
    kvi_grammar_rule(g, before, (kvi_symbol[]){list, end, start}, 3);
    const kvi_expr head = CHAIN(role, maybe(b, channel), maybe(b, text(b, " ")), text(b, to));
    const kvi_expr kind =
        kvi_expr_or(b->p,
                    (kvi_expr[]){CHAIN(maybe(b, text(b, " ")), mark(b, CONSTRAIN), maybe(b, text(b, "json"))),
                                 text(b, " json"), KVI_EXPR_VOID},
                    3);
    const kvi_expr tail = CHAIN(maybe(b, channel), kind, mark(b, MESSAGE));
    kvi_json_value *at = b->r->tools->first;
    for (tool t; next_tool(b, &at, &t);) {
        const kvi_symbol value = arguments(b, &t);
        const kvi_expr name = kvi_expr_text(b->p, t.name, t.len);
        kvi_grammar_rule(g, last, (kvi_symbol[]){terminal(b, CHAIN(head, name, tail)), value}, 2);
    }
    kvi_grammar_rule(g, root, (kvi_symbol[]){before, last}, 2);
    if (b->r->required) return root;
    if (b->r->schema) {
        const kvi_symbol answer = terminal(b, CHAIN(role, final, mark(b, MESSAGE)));
        kvi_grammar_rule(g, root, (kvi_symbol[]){before, answer, schema_text(b)}, 3);
        return root;
    }
    kvi_grammar_rule(g, root, &list, 1);
    return root;
}

kvrt_status kvi_call_grammar(const kvi_call_rules *rules, kvi_grammar_limits limits, kvi_grammar **out,
                             kvrt_error *error)
{
    builder b = {.g = kvi_grammar_new(limits), .r = rules, .error = error};
    kvi_json_value *at = rules->tools->first;
    tool first;
    if (!b.g) return kvi_error_nomem(error, sizeof *b.g, "gen.tools");
    b.p = &b.g->exprs;
    kvi_schema printers = {.g = b.g};
    b.space = kvi_schema_space(&printers);
    if (!next_tool(&b, &at, &first))
        b.status = rules->only ? kvi_error_set(error, KVRT_ARG, "option gen.tool_choice: no tool is named %.*s",
                                               (int)rules->only_len, rules->only)
                               : kvi_error_set(error, KVRT_ARG, "option gen.tool_choice: there are no tools");
    const kvi_symbol root = b.status < KVRT_OK                       ? KVI_SYMBOL_NONE
                            : rules->style == KVI_CALL_STYLE_HARMONY ? harmony(&b)
                                                                     : marked_text(&b);
    if (b.status >= KVRT_OK) b.status = kvi_grammar_finish(b.g, root, "gen.tools", error);
    if (b.status < KVRT_OK) kvi_grammar_free(b.g);
    else *out = b.g;
    return b.status;
}
