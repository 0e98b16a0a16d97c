/* parse.c - statements of a template. Refuses, by name: extends, include, import, block, do, autoescape, trans. */
#include "ast.h"

#include <string.h>

/* -------------------------------------------------------------------------------------------------------- helpers
 * --- */
const char *kvi_jinja_intern(kvi_jinja_ctx *ctx, kvi_jinja_names *names, const char *text, size_t len)
{
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < len; i++) hash = (hash ^ (unsigned char)text[i]) * 16777619u;
    kvi_jinja_name **bucket = &names->buckets[hash % KVI_JINJA_BUCKETS];
    for (kvi_jinja_name *n = *bucket; n && kvi_jinja_charge(ctx, 1); n = n->next)
        if (n->len == len && memcmp(n->text, text, len) == 0) return n->text;
    kvi_jinja_name *fresh = kvi_jinja_alloc(ctx, sizeof *fresh);
    char *copy = kvi_jinja_alloc(ctx, len + 1);
    if (!fresh || !copy) return "";
    memcpy(copy, text, len);
    *fresh = (kvi_jinja_name){*bucket, len, copy};
    *bucket = fresh;
    return copy;
}

kvi_jinja_node *kvi_jinja_node_new(kvi_jinja_parser *p, kvi_jinja_kind kind)
{
    kvi_jinja_node *node = kvi_jinja_charge(p->ctx, 1) ? kvi_jinja_alloc(p->ctx, sizeof *node) : NULL;
    if (!node) return NULL;
    node->kind = kind;
    node->line = p->token->line;
    node->column = p->token->column;
    return node;
}

bool kvi_jinja_is_op(const kvi_jinja_parser *p, const char *op)
{
    size_t n = strlen(op);
    return p->token->type == KVI_JINJA_T_OP && p->token->len == n && memcmp(p->token->text, op, n) == 0;
}

bool kvi_jinja_is_name(const kvi_jinja_parser *p, const char *name)
{
    size_t n = strlen(name);
    return p->token->type == KVI_JINJA_T_NAME && p->token->len == n && memcmp(p->token->text, name, n) == 0;
}

bool kvi_jinja_skip_op(kvi_jinja_parser *p, const char *op)
{
    bool is = !p->ctx->failed && kvi_jinja_is_op(p, op);
    if (is) p->token++;
    return is;
}

bool kvi_jinja_skip_name(kvi_jinja_parser *p, const char *name)
{
    bool is = !p->ctx->failed && kvi_jinja_is_name(p, name);
    if (is) p->token++;
    return is;
}

void kvi_jinja_unexpected(kvi_jinja_parser *p, const char *needed)
{
    const kvi_jinja_token *t = p->token;
    static const char *const names[] = {"text", "begin of a statement", "end of the statement", "begin of a print",
                                        "end of the print"};
    p->ctx->line = t->line;
    p->ctx->column = t->column;
    if (t->type == KVI_JINJA_T_END)
        kvi_jinja_fail(p->ctx, "TemplateSyntaxError: unexpected end of template, need %s", needed);
    else if (t->type <= KVI_JINJA_T_PRINT_END)
        kvi_jinja_fail(p->ctx, "TemplateSyntaxError: unexpected %s, need %s", names[t->type], needed);
    else
        kvi_jinja_fail(p->ctx, "TemplateSyntaxError: unexpected '%.*s', need %s", (int)(t->len < 60 ? t->len : 60),
                       t->text, needed);
}

void kvi_jinja_expect_op(kvi_jinja_parser *p, const char *op)
{
    char needed[8] = {'\''};
    if (p->ctx->failed || kvi_jinja_skip_op(p, op)) return;
    memcpy(needed + 1, op, strlen(op));
    needed[1 + strlen(op)] = '\'';
    kvi_jinja_unexpected(p, needed);
}

const char *kvi_jinja_expect_name(kvi_jinja_parser *p)
{
    if (p->token->type != KVI_JINJA_T_NAME) {
        kvi_jinja_unexpected(p, "a name");
        return "";
    }
    const kvi_jinja_token *t = p->token++;
    return kvi_jinja_intern(p->ctx, p->names, t->text, t->len);
}

/* ----------------------------------------------------------------------------------------------------- statements
 * --- */
static kvi_jinja_node *parse_body(kvi_jinja_parser *p, const char *const *ends);

static void expect_block_end(kvi_jinja_parser *p)
{
    if (p->ctx->failed) return;
    if (kvi_jinja_is_op(p, ":")) p->token++; /* Jinja allows the colon of Python */
    if (p->token->type == KVI_JINJA_T_BLOCK_END) p->token++;
    else kvi_jinja_unexpected(p, "end of the statement");
}

/* Body up to {% end... %}; the end tag is consumed. */
static kvi_jinja_node *body_until(kvi_jinja_parser *p, const char *end)
{
    const char *const ends[] = {end, NULL};
    expect_block_end(p);
    kvi_jinja_node *body = parse_body(p, ends);
    if (!p->ctx->failed) p->token++;
    expect_block_end(p);
    return body;
}

/* A name, or a tuple of targets in parentheses. */
static kvi_jinja_node *target_item(kvi_jinja_parser *p)
{
    static const char *const words[] = {"true", "True", "false", "False", "none", "None"};
    if (++p->ctx->depth > KVI_JINJA_MAX_NESTING)
        kvi_jinja_fail(p->ctx, "more than %u levels of nesting", KVI_JINJA_MAX_NESTING);
    kvi_jinja_node *node = NULL;
    if (!p->ctx->failed && kvi_jinja_skip_op(p, "(")) {
        node = kvi_jinja_parse_target(p, false);
        kvi_jinja_expect_op(p, ")");
    } else if ((node = kvi_jinja_node_new(p, KVI_JINJA_N_NAME)) != NULL) {
        node->name = kvi_jinja_expect_name(p);
        for (size_t i = 0; i < 6; i++)
            if (strcmp(node->name, words[i]) == 0)
                kvi_jinja_fail(p->ctx, "TemplateSyntaxError: can't assign to '%s'", words[i]);
    }
    p->ctx->depth--;
    return p->ctx->failed ? NULL : node;
}

kvi_jinja_node *kvi_jinja_parse_target(kvi_jinja_parser *p, bool with_namespace)
{
    kvi_jinja_node *first = NULL, **tail = &first;
    bool tuple = false;
    do {
        if (first && (kvi_jinja_is_op(p, ")") || kvi_jinja_is_op(p, "=") || kvi_jinja_is_name(p, "in"))) break;
        kvi_jinja_node *node = target_item(p);
        if (!node) return NULL;
        if (with_namespace && !tuple && node->kind == KVI_JINJA_N_NAME && kvi_jinja_skip_op(p, ".")) {
            kvi_jinja_node *attr = kvi_jinja_node_new(p, KVI_JINJA_N_ATTR);
            if (!attr) return NULL;
            attr->a = node;
            attr->name = kvi_jinja_expect_name(p);
            return attr;
        }
        *tail = node;
        tail = &node->next;
    } while (kvi_jinja_skip_op(p, ",") && (tuple = true));
    if (p->ctx->failed) return NULL;
    if (!tuple) return first;
    kvi_jinja_node *node = kvi_jinja_node_new(p, KVI_JINJA_N_TUPLE);
    if (node) node->list = first;
    return node;
}

static bool names_loop(const kvi_jinja_node *target)
{
    if (target->kind == KVI_JINJA_N_NAME) return strcmp(target->name, "loop") == 0;
    for (const kvi_jinja_node *item = target->list; item; item = item->next)
        if (names_loop(item)) return true;
    return false;
}

static void parse_for(kvi_jinja_parser *p, kvi_jinja_node *node)
{
    static const char *const ends[] = {"endfor", "else", NULL}, *const end[] = {"endfor", NULL};
    node->a = kvi_jinja_parse_target(p, false);
    if (node->a && names_loop(node->a))
        kvi_jinja_fail(p->ctx, "TemplateAssertionError: can't assign to special loop variable in for-loop");
    if (!p->ctx->failed && !kvi_jinja_skip_name(p, "in")) kvi_jinja_unexpected(p, "'in'");
    node->b = kvi_jinja_parse_tuple(p, false, "recursive");
    if (kvi_jinja_skip_name(p, "if")) node->c = kvi_jinja_parse_expr(p, true);
    if (kvi_jinja_skip_name(p, "recursive")) node->uses = KVI_JINJA_RECURSIVE;
    expect_block_end(p);
    p->loops++;
    node->list = parse_body(p, ends);
    p->loops--;
    if (kvi_jinja_skip_name(p, "else")) {
        expect_block_end(p);
        node->other = parse_body(p, end);
    }
    if (!p->ctx->failed) p->token++;
    expect_block_end(p);
}

static void parse_if(kvi_jinja_parser *p, kvi_jinja_node *node)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL}, *const end[] = {"endif", NULL};
    for (;;) {
        node->a = kvi_jinja_parse_tuple(p, false, NULL);
        expect_block_end(p);
        node->list = parse_body(p, ends);
        if (!kvi_jinja_skip_name(p, "elif")) break;
        node->other = kvi_jinja_node_new(p, KVI_JINJA_N_IF);
        if (!node->other) return;
        node = node->other;
    }
    if (kvi_jinja_skip_name(p, "else")) {
        expect_block_end(p);
        node->other = parse_body(p, end);
    }
    if (!p->ctx->failed) p->token++;
    expect_block_end(p);
}

static void parse_set(kvi_jinja_parser *p, kvi_jinja_node *node)
{
    node->a = kvi_jinja_parse_target(p, true);
    if (kvi_jinja_skip_op(p, "=")) {
        node->b = kvi_jinja_parse_tuple(p, true, NULL);
        expect_block_end(p);
        return;
    }
    node->kind = KVI_JINJA_N_SET_BLOCK;
    node->b = kvi_jinja_parse_filters(p, NULL, true);
    node->list = body_until(p, "endset");
}

/* "(a, b=1)" into other. */
static void parse_parameters(kvi_jinja_parser *p, kvi_jinja_node *node)
{
    kvi_jinja_node **tail = &node->other;
    kvi_jinja_expect_op(p, "(");
    bool defaults = false;
    while (!p->ctx->failed && !kvi_jinja_skip_op(p, ")")) {
        if (node->other) kvi_jinja_expect_op(p, ",");
        kvi_jinja_node *parameter = kvi_jinja_node_new(p, KVI_JINJA_N_KEYWORD);
        if (!parameter) return;
        parameter->name = kvi_jinja_expect_name(p);
        for (const kvi_jinja_node *other = node->other; other; other = other->next)
            if (other->name == parameter->name)
                kvi_jinja_fail(p->ctx, "SyntaxError: duplicate argument '%s'", parameter->name);
        if (kvi_jinja_skip_op(p, "=")) {
            parameter->a = kvi_jinja_parse_expr(p, true);
            defaults = true;
        } else if (defaults)
            kvi_jinja_fail(p->ctx, "TemplateSyntaxError: non-default argument follows default argument");
        *tail = parameter;
        tail = &parameter->next;
    }
}

/* Macro-like: a break inside may not leave it, and names such as caller are its own. */
static void parse_macro_body(kvi_jinja_parser *p, kvi_jinja_node *macro, const char *end)
{
    unsigned loops = p->loops;
    uint8_t uses = p->uses;
    p->loops = 0;
    p->uses = 0;
    macro->list = body_until(p, end);
    macro->uses = p->uses;
    p->uses = uses;
    p->loops = loops;
}

static void parse_call_block(kvi_jinja_parser *p, kvi_jinja_node *node)
{
    node->a = kvi_jinja_node_new(p, KVI_JINJA_N_MACRO);
    if (!node->a) return;
    node->a->name = "caller";
    if (kvi_jinja_is_op(p, "(")) parse_parameters(p, node->a);
    node->b = kvi_jinja_parse_expr(p, true);
    if (node->b && node->b->kind != KVI_JINJA_N_CALL) kvi_jinja_fail(p->ctx, "TemplateSyntaxError: expected call");
    parse_macro_body(p, node->a, "endcall");
}

static void parse_with(kvi_jinja_parser *p, kvi_jinja_node *node)
{
    kvi_jinja_node **tail = &node->other;
    while (!p->ctx->failed && p->token->type != KVI_JINJA_T_BLOCK_END) {
        if (node->other) kvi_jinja_expect_op(p, ",");
        kvi_jinja_node *binding = kvi_jinja_node_new(p, KVI_JINJA_N_KEYWORD);
        if (!binding) return;
        binding->name = kvi_jinja_expect_name(p);
        kvi_jinja_expect_op(p, "=");
        binding->a = kvi_jinja_parse_expr(p, true);
        *tail = binding;
        tail = &binding->next;
    }
    node->list = body_until(p, "endwith");
}

static kvi_jinja_node *parse_statement(kvi_jinja_parser *p)
{
    static const struct {
        const char *name;
        kvi_jinja_kind kind;
    } words[] = {{"for", KVI_JINJA_N_FOR},         {"if", KVI_JINJA_N_IF},
                 {"set", KVI_JINJA_N_SET},         {"macro", KVI_JINJA_N_MACRO},
                 {"call", KVI_JINJA_N_CALL_BLOCK}, {"filter", KVI_JINJA_N_FILTER_BLOCK},
                 {"with", KVI_JINJA_N_WITH},       {"generation", KVI_JINJA_N_GENERATION},
                 {"break", KVI_JINJA_N_BREAK},     {"continue", KVI_JINJA_N_CONTINUE}};
    size_t i = 0;
    while (i < sizeof words / sizeof *words && !kvi_jinja_is_name(p, words[i].name)) i++;
    if (i == sizeof words / sizeof *words) {
        p->ctx->line = p->token->line;
        p->ctx->column = p->token->column;
        kvi_jinja_fail(p->ctx, "unknown or unsupported tag '%.*s'", (int)(p->token->len < 60 ? p->token->len : 60),
                       p->token->text);
        return NULL;
    }
    kvi_jinja_node *node = kvi_jinja_node_new(p, words[i].kind);
    if (!node) return NULL;
    p->token++;
    switch (node->kind) {
    case KVI_JINJA_N_FOR: parse_for(p, node); break;
    case KVI_JINJA_N_IF: parse_if(p, node); break;
    case KVI_JINJA_N_SET: parse_set(p, node); break;
    case KVI_JINJA_N_MACRO:
        node->name = kvi_jinja_expect_name(p);
        parse_parameters(p, node);
        parse_macro_body(p, node, "endmacro");
        break;
    case KVI_JINJA_N_CALL_BLOCK: parse_call_block(p, node); break;
    case KVI_JINJA_N_FILTER_BLOCK:
        node->b = kvi_jinja_parse_filters(p, NULL, false);
        node->list = body_until(p, "endfilter");
        break;
    case KVI_JINJA_N_WITH: parse_with(p, node); break;
    case KVI_JINJA_N_GENERATION: parse_macro_body(p, node, "endgeneration"); break;
    default:
        if (!p->loops) kvi_jinja_fail(p->ctx, "TemplateSyntaxError: '%s' outside loop", words[i].name);
        expect_block_end(p);
        break;
    }
    return node;
}

static kvi_jinja_node *parse_print(kvi_jinja_parser *p)
{
    kvi_jinja_node *node = kvi_jinja_node_new(p, KVI_JINJA_N_PRINT);
    if (!node) return NULL;
    node->a = kvi_jinja_parse_tuple(p, true, NULL);
    if (!p->ctx->failed && p->token->type != KVI_JINJA_T_PRINT_END) kvi_jinja_unexpected(p, "end of the print");
    else p->token++;
    return node;
}

static bool at_any(const kvi_jinja_parser *p, const char *const *ends)
{
    for (; ends && *ends; ends++)
        if (kvi_jinja_is_name(p, *ends)) return true;
    return false;
}

/* Stops at one of the end tags, behind its "{%". */
static kvi_jinja_node *parse_body(kvi_jinja_parser *p, const char *const *ends)
{
    kvi_jinja_node *first = NULL, **tail = &first;
    if (++p->ctx->depth > KVI_JINJA_MAX_NESTING)
        kvi_jinja_fail(p->ctx, "more than %u levels of nesting", KVI_JINJA_MAX_NESTING);
    while (!p->ctx->failed) {
        kvi_jinja_node *node = NULL;
        const kvi_jinja_token *t = p->token;
        p->ctx->line = t->line;
        p->ctx->column = t->column;
        if (t->type == KVI_JINJA_T_END) {
            if (ends)
                kvi_jinja_fail(p->ctx, "TemplateSyntaxError: unexpected end of template, need {%% %s %%}", ends[0]);
            break;
        }
        if (t->type == KVI_JINJA_T_DATA) {
            node = kvi_jinja_node_new(p, KVI_JINJA_N_DATA);
            if (node) node->constant = kvi_jinja_str_copy(p->ctx, t->text, t->len, KVI_JINJA_LITERAL);
            p->token++;
        } else {
            p->token++;
            if (t->type == KVI_JINJA_T_PRINT_BEGIN) node = parse_print(p);
            else if (at_any(p, ends)) break;
            else node = parse_statement(p);
        }
        if (!node) break;
        *tail = node;
        tail = &node->next;
    }
    p->ctx->depth--;
    return p->ctx->failed ? NULL : first;
}

kvi_jinja_node *kvi_jinja_parse(kvi_jinja_ctx *ctx, const kvi_jinja_tokens *tokens, kvi_jinja_names *names)
{
    kvi_jinja_parser p = {.ctx = ctx, .token = tokens->data, .names = names};
    return parse_body(&p, NULL);
}
