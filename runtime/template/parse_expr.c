/* parse_expr.c - expressions, with the precedence of Jinja2 (not quite Python's: ** binds looser than a sign,
 * filters bind tighter than everything but attributes and calls). */
#include "ast.h"

#include <string.h>

static bool enter(kvi_jinja_parser *p)
{
    if (++p->ctx->depth <= KVI_JINJA_MAX_NESTING) return !p->ctx->failed;
    kvi_jinja_fail(p->ctx, "more than %u levels of nesting", KVI_JINJA_MAX_NESTING);
    return false;
}

static kvi_jinja_node *leave(kvi_jinja_parser *p, kvi_jinja_node *node)
{
    p->ctx->depth--;
    return p->ctx->failed ? NULL : node;
}

static kvi_jinja_node *binary(kvi_jinja_parser *p, kvi_jinja_kind kind, char op, kvi_jinja_node *a)
{
    kvi_jinja_node *node = kvi_jinja_node_new(p, kind);
    if (!node) return NULL;
    node->op = op;
    node->a = a;
    return node;
}

static bool at_tuple_end(const kvi_jinja_parser *p, const char *end)
{
    kvi_jinja_token_type t = p->token->type;
    return t == KVI_JINJA_T_PRINT_END || t == KVI_JINJA_T_BLOCK_END || t == KVI_JINJA_T_END ||
           kvi_jinja_is_op(p, ")") || (end && kvi_jinja_is_name(p, end));
}

static kvi_jinja_node *tuple_of(kvi_jinja_parser *p, bool with_condition, const char *end, bool parentheses)
{
    kvi_jinja_node *first = NULL, **tail = &first, *item;
    size_t n = 0;
    bool comma = false;
    while (!p->ctx->failed) {
        if (n) kvi_jinja_expect_op(p, ",");
        if (p->ctx->failed || at_tuple_end(p, end)) break;
        item = kvi_jinja_parse_expr(p, with_condition);
        if (!item) return NULL;
        *tail = item;
        tail = &item->next;
        n++;
        comma = kvi_jinja_is_op(p, ",");
        if (!comma) break;
    }
    if (p->ctx->failed) return NULL;
    if (n == 1 && !comma) return first;
    if (!n && !parentheses) {
        kvi_jinja_unexpected(p, "an expression");
        return NULL;
    }
    kvi_jinja_node *node = kvi_jinja_node_new(p, KVI_JINJA_N_TUPLE);
    if (node) node->list = first;
    return node;
}

kvi_jinja_node *kvi_jinja_parse_tuple(kvi_jinja_parser *p, bool with_condition, const char *end)
{
    return tuple_of(p, with_condition, end, false);
}

static kvi_jinja_node *parse_list(kvi_jinja_parser *p)
{
    kvi_jinja_node *node = kvi_jinja_node_new(p, KVI_JINJA_N_LIST);
    if (!node) return NULL;
    kvi_jinja_expect_op(p, "[");
    for (kvi_jinja_node **tail = &node->list; !p->ctx->failed && !kvi_jinja_skip_op(p, "]");) {
        if (node->list) {
            kvi_jinja_expect_op(p, ",");
            if (kvi_jinja_skip_op(p, "]")) break;
        }
        kvi_jinja_node *item = kvi_jinja_parse_expr(p, true);
        if (!item) return NULL;
        *tail = item;
        tail = &item->next;
    }
    return node;
}

static kvi_jinja_node *parse_dict(kvi_jinja_parser *p)
{
    kvi_jinja_node *node = kvi_jinja_node_new(p, KVI_JINJA_N_DICT);
    if (!node) return NULL;
    kvi_jinja_expect_op(p, "{");
    for (kvi_jinja_node **tail = &node->list; !p->ctx->failed && !kvi_jinja_skip_op(p, "}");) {
        if (node->list) {
            kvi_jinja_expect_op(p, ",");
            if (kvi_jinja_skip_op(p, "}")) break;
        }
        kvi_jinja_node *key = kvi_jinja_parse_expr(p, true);
        kvi_jinja_expect_op(p, ":");
        kvi_jinja_node *value = kvi_jinja_parse_expr(p, true);
        if (!key || !value) return NULL;
        *tail = key;
        key->next = value;
        tail = &value->next;
    }
    return node;
}

static kvi_jinja_node *parse_constant(kvi_jinja_parser *p)
{
    kvi_jinja_node *node = kvi_jinja_node_new(p, KVI_JINJA_N_CONST);
    if (!node) return NULL;
    const kvi_jinja_token *t = p->token;
    if (t->type == KVI_JINJA_T_INT || t->type == KVI_JINJA_T_FLOAT) node->constant = t->number, p->token++;
    else {
        kvi_jinja_builder b = {0};
        for (; p->token->type == KVI_JINJA_T_STRING && !p->ctx->failed; p->token++)
            kvi_jinja_add(p->ctx, &b, p->token->text, p->token->len, KVI_JINJA_LITERAL);
        node->constant = kvi_jinja_built(p->ctx, &b);
    }
    return node;
}

static kvi_jinja_node *parse_name(kvi_jinja_parser *p)
{
    static const char *const words[] = {"true", "True", "false", "False", "none", "None"};
    for (size_t i = 0; i < 6; i++) {
        if (!kvi_jinja_is_name(p, words[i])) continue;
        kvi_jinja_node *node = kvi_jinja_node_new(p, KVI_JINJA_N_CONST);
        if (node) node->constant = i < 4 ? kvi_jinja_bool(i < 2) : kvi_jinja_none();
        p->token++;
        return node;
    }
    if (kvi_jinja_is_name(p, "caller")) p->uses |= KVI_JINJA_USES_CALLER;
    if (kvi_jinja_is_name(p, "varargs")) p->uses |= KVI_JINJA_USES_VARARGS;
    if (kvi_jinja_is_name(p, "kwargs")) p->uses |= KVI_JINJA_USES_KWARGS;
    kvi_jinja_node *node = kvi_jinja_node_new(p, KVI_JINJA_N_NAME);
    if (node) node->name = kvi_jinja_expect_name(p);
    return node;
}

static kvi_jinja_node *parse_primary(kvi_jinja_parser *p)
{
    switch (p->token->type) {
    case KVI_JINJA_T_NAME: return parse_name(p);
    case KVI_JINJA_T_STRING:
    case KVI_JINJA_T_INT:
    case KVI_JINJA_T_FLOAT: return parse_constant(p);
    default: break;
    }
    if (kvi_jinja_is_op(p, "[")) return parse_list(p);
    if (kvi_jinja_is_op(p, "{")) return parse_dict(p);
    if (!kvi_jinja_skip_op(p, "(")) {
        kvi_jinja_unexpected(p, "an expression");
        return NULL;
    }
    kvi_jinja_node *node = tuple_of(p, true, NULL, true);
    kvi_jinja_expect_op(p, ")");
    return node;
}

/* What stood among the arguments so far; the order is positional, keywords, *, **, where keywords may follow *. */
enum { SEEN_KEYWORD = 1, SEEN_STAR = 2, SEEN_STARS = 4 };

static kvi_jinja_node *parse_argument(kvi_jinja_parser *p, unsigned *seen)
{
    static const char order[] = "TemplateSyntaxError: invalid syntax for function call expression";
    kvi_jinja_node *arg;
    bool stars = kvi_jinja_is_op(p, "**");
    if (stars || kvi_jinja_is_op(p, "*")) {
        if (*seen & (stars ? SEEN_STARS : SEEN_STAR | SEEN_STARS)) kvi_jinja_fail(p->ctx, "%s", order);
        *seen |= stars ? SEEN_STARS : SEEN_STAR;
        arg = kvi_jinja_node_new(p, KVI_JINJA_N_SPREAD);
        if (!arg) return NULL;
        p->token++;
        arg->op = stars ? 'P' : '*';
        arg->a = kvi_jinja_parse_expr(p, true);
        return arg;
    }
    if (p->token->type == KVI_JINJA_T_NAME && p->token[1].type == KVI_JINJA_T_OP && p->token[1].len == 1 &&
        p->token[1].text[0] == '=') {
        if (*seen & SEEN_STARS) kvi_jinja_fail(p->ctx, "%s", order);
        *seen |= SEEN_KEYWORD;
        arg = kvi_jinja_node_new(p, KVI_JINJA_N_KEYWORD);
        if (!arg) return NULL;
        arg->name = kvi_jinja_expect_name(p);
        p->token++;
        arg->a = kvi_jinja_parse_expr(p, true);
        return arg;
    }
    if (*seen) kvi_jinja_fail(p->ctx, "%s", order);
    return kvi_jinja_parse_expr(p, true);
}

/* Inside of "(": list and ")" . */
static kvi_jinja_node *parse_arguments(kvi_jinja_parser *p)
{
    kvi_jinja_node *first = NULL, **tail = &first;
    unsigned seen = 0;
    kvi_jinja_expect_op(p, "(");
    while (!p->ctx->failed && !kvi_jinja_skip_op(p, ")")) {
        if (first) {
            kvi_jinja_expect_op(p, ",");
            if (kvi_jinja_skip_op(p, ")")) break;
        }
        kvi_jinja_node *arg = p->ctx->failed ? NULL : parse_argument(p, &seen);
        if (!arg || p->ctx->failed) return NULL;
        *tail = arg;
        tail = &arg->next;
    }
    return first;
}

/* a, a:b, :b:c and so on. */
static kvi_jinja_node *parse_subscribed(kvi_jinja_parser *p)
{
    kvi_jinja_node *parts[3] = {NULL, NULL, NULL};
    size_t n = 0;
    bool slice = false;
    while (!p->ctx->failed && n < 3) {
        if (!kvi_jinja_is_op(p, ":") && !kvi_jinja_is_op(p, "]") && !kvi_jinja_is_op(p, ","))
            parts[n] = kvi_jinja_parse_expr(p, true);
        if (n == 2 || !kvi_jinja_skip_op(p, ":")) break;
        slice = true;
        n++;
    }
    if (p->ctx->failed) return NULL;
    if (!slice && !parts[0]) kvi_jinja_unexpected(p, "a subscript");
    if (!slice) return parts[0];
    kvi_jinja_node *node = kvi_jinja_node_new(p, KVI_JINJA_N_SLICE);
    if (node) node->a = parts[0], node->b = parts[1], node->c = parts[2];
    return node;
}

static kvi_jinja_node *parse_subscript(kvi_jinja_parser *p, kvi_jinja_node *a)
{
    kvi_jinja_node *node = binary(p, KVI_JINJA_N_ITEM, 0, a), *key;
    kvi_jinja_expect_op(p, "[");
    if (!node || !(key = parse_subscribed(p))) return NULL;
    node->b = key;
    if (kvi_jinja_is_op(p, ",")) { /* several subscripts are one tuple */
        node->b = kvi_jinja_node_new(p, KVI_JINJA_N_TUPLE);
        if (!node->b) return NULL;
        node->b->list = key;
        while (!p->ctx->failed && kvi_jinja_skip_op(p, ",")) {
            if (key->kind == KVI_JINJA_N_SLICE) kvi_jinja_unexpected(p, "']' (a slice beside others is not supported)");
            key->next = parse_subscribed(p);
            key = key->next;
            if (!key) return NULL;
        }
    }
    kvi_jinja_expect_op(p, "]");
    return p->ctx->failed ? NULL : node;
}

static kvi_jinja_node *parse_attribute(kvi_jinja_parser *p, kvi_jinja_node *a)
{
    kvi_jinja_node *node = binary(p, KVI_JINJA_N_ATTR, 0, a);
    kvi_jinja_expect_op(p, ".");
    if (!node) return NULL;
    if (p->token->type == KVI_JINJA_T_INT) {
        node->kind = KVI_JINJA_N_ITEM;
        node->b = parse_constant(p);
    } else node->name = kvi_jinja_expect_name(p);
    return node;
}

static kvi_jinja_node *parse_call(kvi_jinja_parser *p, kvi_jinja_node *a)
{
    kvi_jinja_node *node = binary(p, KVI_JINJA_N_CALL, 0, a);
    kvi_jinja_node *arguments = parse_arguments(p);
    if (node) node->list = arguments;
    return node;
}

/* Chains are iterative, but evaluated recursively: each link counts as nesting. */
kvi_jinja_node *kvi_jinja_parse_postfix(kvi_jinja_parser *p, kvi_jinja_node *node)
{
    while (node && !p->ctx->failed) {
        if (kvi_jinja_is_op(p, ".")) node = parse_attribute(p, node);
        else if (kvi_jinja_is_op(p, "[")) node = parse_subscript(p, node);
        else if (kvi_jinja_is_op(p, "(")) node = parse_call(p, node);
        else break;
    }
    return node;
}

static kvi_jinja_node *parse_test(kvi_jinja_parser *p, kvi_jinja_node *a)
{
    kvi_jinja_node *node = binary(p, KVI_JINJA_N_TEST, 0, a);
    bool negated = kvi_jinja_skip_name(p, "not");
    if (!node) return NULL;
    node->name = kvi_jinja_expect_name(p);
    const kvi_jinja_token *t = p->token;
    bool value = t->type == KVI_JINJA_T_NAME || t->type == KVI_JINJA_T_STRING || t->type == KVI_JINJA_T_INT ||
                 t->type == KVI_JINJA_T_FLOAT || kvi_jinja_is_op(p, "[") || kvi_jinja_is_op(p, "{");
    if (kvi_jinja_is_op(p, "(")) node->list = parse_arguments(p);
    else if (value && !kvi_jinja_is_name(p, "else") && !kvi_jinja_is_name(p, "or") && !kvi_jinja_is_name(p, "and")) {
        if (kvi_jinja_is_name(p, "is"))
            kvi_jinja_fail(p->ctx, "TemplateSyntaxError: You cannot chain multiple tests with is");
        node->list = kvi_jinja_parse_postfix(p, parse_primary(p));
    }
    return negated ? binary(p, KVI_JINJA_N_NOT, 0, node) : node;
}

static kvi_jinja_node *parse_filter(kvi_jinja_parser *p, kvi_jinja_node *a)
{
    kvi_jinja_node *node = binary(p, KVI_JINJA_N_FILTER, 0, a);
    if (!node) return NULL;
    node->name = kvi_jinja_expect_name(p);
    if (kvi_jinja_is_op(p, ".")) kvi_jinja_unexpected(p, "a filter");
    if (kvi_jinja_is_op(p, "(")) node->list = parse_arguments(p);
    return node;
}

kvi_jinja_node *kvi_jinja_parse_filters(kvi_jinja_parser *p, kvi_jinja_node *input, bool first_needs_pipe)
{
    kvi_jinja_node *node = input;
    while (!p->ctx->failed && (!first_needs_pipe || kvi_jinja_is_op(p, "|"))) {
        if (first_needs_pipe) p->token++;
        first_needs_pipe = true;
        node = parse_filter(p, node);
    }
    return node;
}

kvi_jinja_node *kvi_jinja_parse_unary(kvi_jinja_parser *p, bool with_filters)
{
    if (!enter(p)) return leave(p, NULL);
    kvi_jinja_node *node;
    bool minus = kvi_jinja_is_op(p, "-");
    if (minus || kvi_jinja_is_op(p, "+")) {
        p->token++;
        node = binary(p, minus ? KVI_JINJA_N_NEGATIVE : KVI_JINJA_N_POSITIVE, 0, kvi_jinja_parse_unary(p, false));
    } else node = parse_primary(p);
    node = kvi_jinja_parse_postfix(p, node);
    while (with_filters && node && !p->ctx->failed) {
        if (kvi_jinja_skip_op(p, "|")) node = parse_filter(p, node);
        else if (kvi_jinja_skip_name(p, "is")) node = parse_test(p, node);
        else if (kvi_jinja_is_op(p, "(")) node = parse_call(p, node);
        else break;
    }
    return leave(p, node);
}

static kvi_jinja_node *parse_power(kvi_jinja_parser *p)
{
    kvi_jinja_node *node = kvi_jinja_parse_unary(p, true);
    while (node && kvi_jinja_skip_op(p, "**")) {
        node = binary(p, KVI_JINJA_N_BINARY, 'P', node);
        if (node) node->b = kvi_jinja_parse_unary(p, true);
    }
    return node;
}

static kvi_jinja_node *parse_product(kvi_jinja_parser *p)
{
    kvi_jinja_node *node = parse_power(p);
    while (node && !p->ctx->failed) {
        char op = kvi_jinja_is_op(p, "*")    ? '*'
                  : kvi_jinja_is_op(p, "/")  ? '/'
                  : kvi_jinja_is_op(p, "//") ? 'F'
                  : kvi_jinja_is_op(p, "%")  ? '%'
                                             : 0;
        if (!op) break;
        node = binary(p, KVI_JINJA_N_BINARY, op, node);
        p->token++;
        if (node) node->b = parse_power(p);
    }
    return node;
}

static kvi_jinja_node *parse_concat(kvi_jinja_parser *p)
{
    kvi_jinja_node *first = parse_product(p);
    if (!first || !kvi_jinja_is_op(p, "~")) return first;
    kvi_jinja_node *node = kvi_jinja_node_new(p, KVI_JINJA_N_CONCAT), **tail = &first->next;
    if (node) node->list = first;
    while (kvi_jinja_skip_op(p, "~") && !p->ctx->failed) {
        kvi_jinja_node *item = parse_product(p);
        if (!item) return NULL;
        *tail = item;
        tail = &item->next;
    }
    return node;
}

static kvi_jinja_node *parse_sum(kvi_jinja_parser *p)
{
    kvi_jinja_node *node = parse_concat(p);
    while (node && (kvi_jinja_is_op(p, "+") || kvi_jinja_is_op(p, "-")) && !p->ctx->failed) {
        node = binary(p, KVI_JINJA_N_BINARY, p->token->text[0], node);
        p->token++;
        if (node) node->b = parse_concat(p);
    }
    return node;
}

static char comparison(kvi_jinja_parser *p)
{
    static const char *const ops[] = {"==", "!=", "<", ">", "<=", ">="};
    for (size_t i = 0; i < 6; i++)
        if (kvi_jinja_skip_op(p, ops[i])) return "=!<>lg"[i];
    if (kvi_jinja_skip_name(p, "in")) return 'i';
    if (kvi_jinja_is_name(p, "not") && p->token[1].type == KVI_JINJA_T_NAME && p->token[1].len == 2 &&
        memcmp(p->token[1].text, "in", 2) == 0) {
        p->token += 2;
        return 'n';
    }
    return 0;
}

static kvi_jinja_node *parse_compare(kvi_jinja_parser *p)
{
    kvi_jinja_node *first = parse_sum(p), *node = NULL, **tail = NULL;
    char op;
    while (first && !p->ctx->failed && (op = comparison(p)) != 0) {
        if (!node) {
            node = binary(p, KVI_JINJA_N_COMPARE, 0, first);
            if (!node) return NULL;
            tail = &node->list;
        }
        kvi_jinja_node *right = binary(p, KVI_JINJA_N_COMPARAND, op, parse_sum(p));
        if (!right) return NULL;
        *tail = right;
        tail = &right->next;
    }
    return node ? node : first;
}

static kvi_jinja_node *parse_not(kvi_jinja_parser *p)
{
    if (!kvi_jinja_skip_name(p, "not")) return parse_compare(p);
    if (!enter(p)) return leave(p, NULL);
    return leave(p, binary(p, KVI_JINJA_N_NOT, 0, parse_not(p)));
}

static kvi_jinja_node *parse_and(kvi_jinja_parser *p)
{
    kvi_jinja_node *node = parse_not(p);
    while (node && kvi_jinja_skip_name(p, "and")) {
        node = binary(p, KVI_JINJA_N_AND, 0, node);
        if (node) node->b = parse_not(p);
    }
    return node;
}

static kvi_jinja_node *parse_or(kvi_jinja_parser *p)
{
    kvi_jinja_node *node = parse_and(p);
    while (node && kvi_jinja_skip_name(p, "or")) {
        node = binary(p, KVI_JINJA_N_OR, 0, node);
        if (node) node->b = parse_and(p);
    }
    return node;
}

kvi_jinja_node *kvi_jinja_parse_expr(kvi_jinja_parser *p, bool with_condition)
{
    if (!enter(p)) return leave(p, NULL);
    kvi_jinja_node *node = parse_or(p);
    while (with_condition && node && kvi_jinja_skip_name(p, "if")) {
        node = binary(p, KVI_JINJA_N_COND, 0, node);
        if (!node) break;
        node->b = parse_or(p);
        if (kvi_jinja_skip_name(p, "else")) node->c = kvi_jinja_parse_expr(p, true);
    }
    return leave(p, node);
}
