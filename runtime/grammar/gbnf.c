/* gbnf.c - see gbnf.h. Rules are read into a tree first, because only when all are known it is clear which of them are recursive: those become
 * rules,
 * all others expressions. */
#include "gbnf.h"
#include "pattern.h"
#include "../base/utf8.h"

#include <string.h>

#define GBNF_DEPTH 40u
#define REPEAT_MOST 2000u
#define INLINE_DEPTH 60u /* rules within rules, without recursion */

typedef enum node_kind { NODE_EXPR, NODE_RULE, NODE_SEQUENCE, NODE_CHOICE, NODE_REPEAT } node_kind;
typedef struct node {
    node_kind kind;
    uint32_t value;       /* EXPR: expression; RULE: its number */
    uint32_t first, next; /* first child; next of the same parent; 0: none */
    uint32_t min, max;
} node;

typedef struct rule {
    const char *name;
    size_t len;
    uint32_t tree;  /* 0: not written */
    size_t used_at; /* where it was first named */
    uint8_t visit;  /* 1: about to become an expression, 2: is one */
    bool recursive;
    kvi_expr expr; /* of one that is not */
    kvi_symbol symbol;
} rule;

typedef struct reader {
    kvi_grammar *g;
    const char *begin, *p, *end;
    const char *why;
    size_t why_at;
    node *nodes; // (n_nodes) number 0 is none
    size_t n_nodes, cap_nodes;
    rule *rules;
    size_t n_rules, cap_rules;
    unsigned depth;
} reader;

static bool refuse_at(reader *r, size_t where, const char *why)
{
    if (!r->why) r->why = why, r->why_at = where;
    return false;
}
static bool refuse(reader *r, const char *why) { return refuse_at(r, (size_t)(r->p - r->begin), why); }
static bool failed(const reader *r) { return r->why || r->g->exprs.why; }

static uint32_t new_node(reader *r, node n)
{
    void *nodes = r->nodes;
    if (r->n_nodes == 0) r->n_nodes = 1;
    if (r->n_nodes >= 1000000) return (void)refuse(r, "it is too long"), 0;
    if (!kvi_mem_grow(&nodes, &r->cap_nodes, r->n_nodes + 1, sizeof *r->nodes))
        return (void)kvi_expr_fail(&r->g->exprs, ""), 0;
    r->nodes = nodes;
    r->nodes[r->n_nodes] = n;
    return (uint32_t)r->n_nodes++;
}

/* ---------------------------------------------------------------------------------------------------------- reading --- */
/* White space and comments; line ends only where a rule goes on (in groups, behind ::= and |). */
static void skip(reader *r, bool lines)
{
    for (; r->p < r->end; r->p++) {
        if (*r->p == '#') {
            while (r->p + 1 < r->end && r->p[1] != '\n') r->p++;
            continue;
        }
        if (*r->p != ' ' && *r->p != '\t' && !(lines && (*r->p == '\n' || *r->p == '\r'))) break;
    }
}

static bool is_word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

static bool read_name(reader *r, const char **name, size_t *len)
{
    *name = r->p;
    while (r->p < r->end && is_word(*r->p)) r->p++;
    *len = (size_t)(r->p - *name);
    return *len > 0;
}

static uint32_t find_rule(reader *r, const char *name, size_t len)
{
    for (size_t i = 0; i < r->n_rules; i++)
        if (r->rules[i].len == len && memcmp(r->rules[i].name, name, len) == 0) return (uint32_t)i;
    void *rules = r->rules;
    if (!kvi_mem_grow(&rules, &r->cap_rules, r->n_rules + 1, sizeof *r->rules))
        return (void)kvi_expr_fail(&r->g->exprs, ""), 0;
    r->rules = rules;
    r->rules[r->n_rules] = (rule){.name = name, .len = len, .used_at = (size_t)(name - r->begin)};
    return (uint32_t)r->n_rules++;
}

/* One code point of a literal or class. */
static bool read_character(reader *r, uint32_t *cp)
{
    if (r->p >= r->end) return refuse(r, "it ends within a literal or class");
    if (*r->p != '\\') {
        const size_t n = kvi_utf8_decode(r->p, (size_t)(r->end - r->p), cp);
        if (n == 0) return refuse(r, "it is not UTF-8");
        r->p += n;
        return true;
    }
    static const char from[] = "nrt\\\"[]", to[] = "\n\r\t\\\"[]";
    const char c = r->p + 1 < r->end ? r->p[1] : 0;
    const char *simple = c ? strchr(from, c) : NULL;
    const unsigned digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (!simple && !digits) return refuse(r, "an unknown escape");
    r->p += 2;
    *cp = simple ? (uint8_t)to[simple - from] : 0;
    for (unsigned i = 0; i < digits; i++, r->p++) {
        static const char hex[] = "0123456789abcdefABCDEF";
        const char *d = r->p < r->end && *r->p ? strchr(hex, *r->p) : NULL;
        if (!d) return refuse(r, "an escape lacks hexadecimal digits");
        *cp = *cp << 4 | (uint32_t)(d - hex >= 16 ? d - hex - 6 : d - hex);
    }
    if (*cp > 0x10ffff || (*cp >= 0xd800 && *cp < 0xe000)) return refuse(r, "an escape is no code point");
    return true;
}

static kvi_expr read_literal(reader *r)
{
    kvi_buf text = {0};
    r->p++;
    while (!failed(r) && r->p < r->end && *r->p != '"') {
        uint32_t cp;
        if (read_character(r, &cp)) kvi_utf8_append(&text, cp);
    }
    if (!failed(r) && r->p >= r->end) (void)refuse(r, "\" without its end");
    r->p++;
    const kvi_expr e = text.failed ? kvi_expr_fail(&r->g->exprs, "") : kvi_expr_text(&r->g->exprs, text.data, text.len);
    kvi_buf_free(&text);
    return e;
}

/* Ranges are collected as an expression; [^...] is every code point and none of these. */
static kvi_expr read_class(reader *r)
{
    kvi_exprs *p = &r->g->exprs;
    kvi_expr e = KVI_EXPR_NONE;
    const bool negated = r->end - r->p > 1 && r->p[1] == '^';
    r->p += negated ? 2 : 1;
    while (!failed(r) && r->p < r->end && *r->p != ']') {
        uint32_t first, last;
        if (!read_character(r, &first)) break;
        last = first;
        if (r->end - r->p > 1 && *r->p == '-' && r->p[1] != ']') {
            r->p++;
            if (!read_character(r, &last)) break;
            if (last < first) (void)refuse(r, "a range of characters is upside down");
        }
        e = kvi_expr_or2(p, e, kvi_expr_code_points(p, first, last));
    }
    if (!failed(r) && r->p >= r->end) (void)refuse(r, "[ without ]");
    r->p++;
    return negated ? kvi_expr_and2(p, kvi_expr_code_points(p, 0, 0x10ffff), kvi_expr_not(p, e)) : e;
}

static uint32_t read_choice(reader *r, bool in_group);

static bool read_number(reader *r, uint32_t *n)
{
    const char *from = r->p;
    for (*n = 0; r->p < r->end && *r->p >= '0' && *r->p <= '9'; r->p++)
        if (*n < 1000000) *n = *n * 10 + (uint32_t)(*r->p - '0');
    if (r->p == from) return refuse(r, "{ without a number");
    return *n <= REPEAT_MOST || refuse(r, "a repetition of more than 2000");
}

static bool read_braces(reader *r, uint32_t *min, uint32_t *max)
{
    r->p++;
    skip(r, true);
    if (!read_number(r, min)) return false;
    *max = *min;
    skip(r, true);
    if (r->p < r->end && *r->p == ',') {
        r->p++;
        skip(r, true);
        *max = KVI_EXPR_MANY;
        if (r->p < r->end && *r->p != '}' && !read_number(r, max)) return false;
        skip(r, true);
    }
    if (r->p >= r->end || *r->p != '}') return refuse(r, "{ without }");
    r->p++;
    return *min <= *max || refuse(r, "a repetition is upside down");
}

static uint32_t read_item(reader *r, bool in_group)
{
    const char c = *r->p, *name;
    size_t len;
    uint32_t at = 0;
    if (c == '"') at = new_node(r, (node){.kind = NODE_EXPR, .value = read_literal(r)});
    else if (c == '[') at = new_node(r, (node){.kind = NODE_EXPR, .value = read_class(r)});
    else if (c == '.') {
        r->p++;
        at = new_node(r, (node){.kind = NODE_EXPR, .value = kvi_expr_code_points(&r->g->exprs, 0, 0x10ffff)});
    } else if (c == '(') {
        r->p++;
        if (++r->depth > GBNF_DEPTH) return (void)refuse(r, "it nests too deeply"), 0;
        at = read_choice(r, true);
        r->depth--;
        if (!failed(r) && (r->p >= r->end || *r->p != ')')) (void)refuse(r, "( without )");
        r->p++;
    } else if (c == '<' || c == '!') (void)refuse(r, "tokens by number or name are not supported");
    else if (read_name(r, &name, &len)) at = new_node(r, (node){.kind = NODE_RULE, .value = find_rule(r, name, len)});
    else (void)refuse(r, "an unexpected character");
    skip(r, in_group);
    for (int n = 0; !failed(r) && r->p < r->end && *r->p && strchr("*+?{", *r->p); n++) {
        uint32_t min = 0, max = KVI_EXPR_MANY;
        if (n == 3) return (void)refuse(r, "nothing to repeat"), 0;
        if (*r->p == '{') {
            if (!read_braces(r, &min, &max)) return 0;
        } else {
            min = *r->p == '+';
            if (*r->p++ == '?') max = 1;
        }
        at = new_node(r, (node){.kind = NODE_REPEAT, .first = at, .min = min, .max = max});
        skip(r, in_group);
    }
    return at;
}

static uint32_t read_sequence(reader *r, bool in_group)
{
    const uint32_t at = new_node(r, (node){.kind = NODE_SEQUENCE});
    uint32_t last = 0;
    skip(r, in_group);
    while (!failed(r) && r->p < r->end && *r->p != '|' && *r->p != ')' && *r->p != '\n' && *r->p != '\r') {
        const uint32_t item = read_item(r, in_group);
        if (failed(r)) break;
        if (last) r->nodes[last].next = item;
        else r->nodes[at].first = item;
        last = item;
    }
    return at;
}

static uint32_t read_choice(reader *r, bool in_group)
{
    const uint32_t at = new_node(r, (node){.kind = NODE_CHOICE});
    uint32_t last = 0;
    while (!failed(r)) {
        skip(r, true);
        const uint32_t one = read_sequence(r, in_group);
        if (failed(r)) break;
        if (last) r->nodes[last].next = one;
        else r->nodes[at].first = one;
        last = one;
        /* A line may begin with | as well. */
        const char *here = r->p;
        skip(r, true);
        if (r->p < r->end && *r->p == '|') r->p++;
        else {
            if (!in_group) r->p = here;
            break;
        }
    }
    return at;
}

static bool read_rules(reader *r)
{
    for (;;) {
        const char *name;
        size_t len;
        skip(r, true);
        if (failed(r) || r->p >= r->end) return !failed(r);
        const size_t where = (size_t)(r->p - r->begin);
        if (!read_name(r, &name, &len)) return refuse(r, "need a rule's name");
        const uint32_t of = find_rule(r, name, len);
        skip(r, false);
        if (r->end - r->p < 3 || memcmp(r->p, "::=", 3) != 0) return refuse(r, "need ::=");
        r->p += 3;
        if (failed(r)) return false;
        if (r->rules[of].tree) return refuse_at(r, where, "the rule is written twice");
        const uint32_t tree = read_choice(r, false);
        if (failed(r)) return false;
        r->rules[of].tree = tree;
        skip(r, false);
        if (r->p < r->end && *r->p != '\n' && *r->p != '\r') return refuse(r, "need the end of the line");
    }
}

/* ------------------------------------------------------------------------------------------------------- recursion --- */
/* A rule is recursive if it reaches itself, or one that does: then it cannot be one expression. */
static bool names_recursive(const reader *r, uint32_t at, unsigned depth)
{
    for (; at; at = r->nodes[at].next) {
        const node *n = &r->nodes[at];
        if (n->kind == NODE_RULE && r->rules[n->value].recursive) return true;
        if (n->first && depth < 4 * GBNF_DEPTH && names_recursive(r, n->first, depth + 1)) return true;
    }
    return false;
}
static bool names_unresolved(const reader *r, uint32_t at, unsigned depth)
{
    for (; at; at = r->nodes[at].next) {
        const node *n = &r->nodes[at];
        if (n->kind == NODE_RULE && r->rules[n->value].visit != 2) return true;
        if (n->first && depth < 4 * GBNF_DEPTH && names_unresolved(r, n->first, depth + 1)) return true;
    }
    return false;
}

static kvi_expr make_expr(reader *r, uint32_t at)
{
    kvi_exprs *p = &r->g->exprs;
    const node n = r->nodes[at];
    if (failed(r)) return KVI_EXPR_NONE;
    if (n.kind == NODE_EXPR) return n.value;
    if (n.kind == NODE_RULE) return r->rules[n.value].expr;
    if (n.kind == NODE_REPEAT) return kvi_expr_repeat(p, make_expr(r, n.first), n.min, n.max);
    kvi_expr e = n.kind == NODE_CHOICE ? KVI_EXPR_NONE : KVI_EXPR_VOID;
    for (uint32_t child = n.first; child; child = r->nodes[child].next) {
        const kvi_expr part = make_expr(r, child);
        e = n.kind == NODE_CHOICE ? kvi_expr_or2(p, e, part) : kvi_expr_then(p, e, part);
    }
    return e;
}

/* What names only rules that are expressions becomes one itself; what never gets there is recursive. In this order, so that making goes down one
 * tree
 * at a time. INLINE_DEPTH bounds how deep expressions are put into one another. */
static void find_recursion(reader *r)
{
    for (unsigned rank = 0; rank < INLINE_DEPTH && !failed(r); rank++) {
        bool more = false;
        for (size_t i = 0; i < r->n_rules; i++) {
            if (r->rules[i].visit || names_unresolved(r, r->rules[i].tree, 0)) continue;
            r->rules[i].visit = 1;
            more = true;
        }
        for (size_t i = 0; i < r->n_rules; i++) {
            if (r->rules[i].visit != 1) continue;
            r->rules[i].expr = make_expr(r, r->rules[i].tree);
            r->rules[i].visit = 2;
        }
        if (!more) break;
    }
    for (size_t i = 0; i < r->n_rules; i++) r->rules[i].recursive = r->rules[i].visit != 2;
}

static bool is_regular(const reader *r, uint32_t at)
{
    const node *n = &r->nodes[at];
    if (n->kind == NODE_RULE) return !r->rules[n->value].recursive;
    return !n->first || !names_recursive(r, n->first, 0);
}

static kvi_symbol make_symbol(reader *r, uint32_t at);

/* Children of a sequence, those that are regular joined: symbols are pushed on the expressions' stack. */
static kvi_symbol make_sequence(reader *r, const node *n)
{
    kvi_grammar *g = r->g;
    kvi_symbol so_far = KVI_SYMBOL_VOID;
    kvi_expr run = KVI_EXPR_VOID;
    for (uint32_t child = n->first; !failed(r); child = r->nodes[child].next) {
        if (child && is_regular(r, child)) {
            run = kvi_expr_then(&g->exprs, run, make_expr(r, child));
            continue;
        }
        const kvi_symbol parts[3] = {so_far, kvi_grammar_terminal(g, run),
                                     child ? make_symbol(r, child) : KVI_SYMBOL_VOID};
        so_far = kvi_grammar_nonterminal(g);
        kvi_grammar_rule(g, so_far, parts, 3);
        run = KVI_EXPR_VOID;
        if (!child) break;
    }
    return so_far;
}

/* min..max of a symbol: lists grow to the left. */
static kvi_symbol make_repeat(reader *r, const node *n)
{
    kvi_grammar *g = r->g;
    const kvi_symbol one = make_symbol(r, n->first);
    kvi_symbol list = KVI_SYMBOL_VOID;
    for (uint32_t i = 0; i < n->min && !failed(r); i++) list = kvi_grammar_sequence(g, (kvi_symbol[]){list, one}, 2);
    if (n->max == KVI_EXPR_MANY) {
        const kvi_symbol many = kvi_grammar_nonterminal(g);
        kvi_grammar_rule(g, many, &list, 1);
        kvi_grammar_rule(g, many, (kvi_symbol[]){many, one}, 2);
        return many;
    }
    for (uint32_t i = n->min; i < n->max && !failed(r); i++) {
        const kvi_symbol up_to = kvi_grammar_nonterminal(g);
        kvi_grammar_rule(g, up_to, &list, 1);
        kvi_grammar_rule(g, up_to, (kvi_symbol[]){list, one}, 2);
        list = up_to;
    }
    return list;
}

static kvi_symbol make_choice(reader *r, const node *n, kvi_symbol as)
{
    kvi_grammar *g = r->g;
    kvi_expr regular = KVI_EXPR_NONE;
    for (uint32_t child = n->first; child && !failed(r); child = r->nodes[child].next) {
        if (is_regular(r, child)) {
            regular = kvi_expr_or2(&g->exprs, regular, make_expr(r, child));
            continue;
        }
        const kvi_symbol one = make_symbol(r, child);
        kvi_grammar_rule(g, as, &one, 1);
    }
    const kvi_symbol terminal = kvi_grammar_terminal(g, regular);
    kvi_grammar_rule(g, as, &terminal, 1);
    return as;
}

/* The rules of a grammar are made one by one (make_rules), so that this goes down one tree only. */
static kvi_symbol make_symbol(reader *r, uint32_t at)
{
    const node n = r->nodes[at];
    if (failed(r)) return KVI_SYMBOL_NONE;
    if (is_regular(r, at)) return kvi_grammar_terminal(r->g, make_expr(r, at));
    if (n.kind == NODE_RULE) return r->rules[n.value].symbol;
    if (n.kind == NODE_REPEAT) return make_repeat(r, &n);
    if (n.kind == NODE_SEQUENCE) return make_sequence(r, &n);
    return make_choice(r, &n, kvi_grammar_nonterminal(r->g));
}

static kvi_symbol make_rules(reader *r)
{
    const uint32_t root = find_rule(r, "root", 4);
    for (size_t i = 0; i < r->n_rules; i++)
        if (!r->rules[i].tree && !failed(r)) {
            if (i != root) (void)refuse_at(r, r->rules[i].used_at, "a rule that is not written");
            else r->why = "it has no rule root", r->why_at = 0;
        }
    if (failed(r)) return KVI_SYMBOL_NONE;
    find_recursion(r);
    if (!r->rules[root].recursive) return kvi_grammar_terminal(r->g, r->rules[root].expr);
    for (size_t i = 0; i < r->n_rules; i++)
        if (r->rules[i].recursive) r->rules[i].symbol = kvi_grammar_nonterminal(r->g);
    for (size_t i = 0; i < r->n_rules && !failed(r); i++) {
        const node tree = r->nodes[r->rules[i].tree];
        if (r->rules[i].recursive) (void)make_choice(r, &tree, r->rules[i].symbol);
    }
    return r->rules[root].symbol;
}

static kvrt_status fail(const char *name, const char *why, const char *text, size_t at, kvrt_error *error)
{
    size_t line = 1, column = 1;
    for (size_t i = 0; i < at; i++) {
        if (text[i] == '\n') line++, column = 0;
        column += ((uint8_t)text[i] & 0xc0) != 0x80;
    }
    return kvi_error_set(error, KVRT_GRAMMAR, "%s: line %zu, column %zu: %s", name, line, column, why);
}

kvrt_status kvi_gbnf_compile(const char *text, size_t len, kvi_grammar_limits limits, kvi_grammar **out,
                             kvrt_error *error)
{
    reader r = {.g = kvi_grammar_new(limits), .begin = text, .p = text, .end = text + len};
    if (!r.g) return kvi_error_nomem(error, len, "grammar.gbnf");
    kvrt_status status = KVRT_OK;
    (void)read_rules(&r);
    const kvi_symbol start = failed(&r) ? KVI_SYMBOL_NONE : make_rules(&r);
    if (r.why) status = fail("grammar.gbnf", r.why, text, r.why_at, error);
    else if (r.g->exprs.why) status = kvi_grammar_failed(r.g, "grammar.gbnf", error);
    else status = kvi_grammar_finish(r.g, start, "grammar.gbnf", error);
    kvi_mem_free(r.nodes);
    kvi_mem_free(r.rules);
    if (status < KVRT_OK) kvi_grammar_free(r.g);
    else *out = r.g;
    return status;
}

kvrt_status kvi_regex_grammar(const char *text, size_t len, kvi_grammar_limits limits, kvi_grammar **out,
                              kvrt_error *error)
{
    kvi_grammar *g = kvi_grammar_new(limits);
    if (!g) return kvi_error_nomem(error, len, "grammar.regex");
    size_t at = 0;
    const kvi_expr e = kvi_pattern_parse(&g->exprs, text, len, KVI_PATTERN_PLAIN, true, &at);
    kvrt_status status = KVRT_OK;
    if (g->exprs.why && *g->exprs.why) status = fail("grammar.regex", g->exprs.why, text, at, error);
    else if (g->exprs.why) status = kvi_grammar_failed(g, "grammar.regex", error);
    if (status >= KVRT_OK) status = kvi_grammar_finish(g, kvi_grammar_terminal(g, e), "grammar.regex", error);
    if (status < KVRT_OK) kvi_grammar_free(g);
    else *out = g;
    return status;
}
