/* chat_parts.c - whether a template takes the content of a message as a list of parts. Decided from its syntax tree: it
 * does when it walks over message content (for, selectattr, rejectattr, map, groupby) or reaches into one of its elements
 * (content[0].text). To know: asking `content is string` does not count. Templates ask that to drop what is no string
 * (Qwen 3 puts '' in its place), and a text that vanishes is worse than parts that were joined. Content is followed
 * through set, namespaces and arguments of macros, without regard to the order of statements. */
#include "chat_template_impl.h"

#include <string.h>

#define MAX_NAMES 64u
#define MAX_WALK 400u /* deeper expressions are beyond what rendering accepts */
#define MAX_ROUNDS 8u

typedef struct search {
    const char *names[MAX_NAMES]; /* interned; variables and attributes that hold content */
    const kvi_jinja_node *macros[MAX_NAMES];
    size_t n_names, n_macros;
    bool grew, found;
    const char *wanted; /* a string constant, or NULL: look for parts */
} search;

static bool is_constant(const kvi_jinja_node *node, const char *text)
{
    return node && node->kind == KVI_JINJA_N_CONST && node->constant.type == KVI_JINJA_STR &&
           kvi_jinja_str_is(node->constant.u.s, text);
}

static bool is_named(const search *s, const char *name)
{
    for (size_t i = 0; i < s->n_names; i++)
        if (s->names[i] == name) return true;
    return false;
}

static void add_name(search *s, const char *name)
{
    if (is_named(s, name) || s->n_names == MAX_NAMES) return;
    s->names[s->n_names++] = name;
    s->grew = true;
}

/* The value of the expression may be the content of a message. */
static bool is_content(const search *s, const kvi_jinja_node *node, unsigned depth)
{
    if (!node || depth > MAX_WALK) return false;
    switch (node->kind) {
    case KVI_JINJA_N_NAME: return is_named(s, node->name);
    case KVI_JINJA_N_ATTR: return strcmp(node->name, "content") == 0 || is_named(s, node->name);
    case KVI_JINJA_N_ITEM: return is_constant(node->b, "content");
    case KVI_JINJA_N_CALL:
        return node->a->kind == KVI_JINJA_N_ATTR && strcmp(node->a->name, "get") == 0 &&
               is_constant(node->list, "content");
    case KVI_JINJA_N_FILTER:
        return (strcmp(node->name, "default") == 0 || strcmp(node->name, "d") == 0 ||
                strcmp(node->name, "list") == 0) &&
               is_content(s, node->a, depth + 1);
    case KVI_JINJA_N_COND: return is_content(s, node->a, depth + 1) || is_content(s, node->c, depth + 1);
    case KVI_JINJA_N_AND:
    case KVI_JINJA_N_OR: return is_content(s, node->a, depth + 1) || is_content(s, node->b, depth + 1);
    default: return false;
    }
}

static bool walks_over(const char *filter)
{
    static const char *const names[] = {"selectattr", "rejectattr", "map", "groupby"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i], filter) == 0) return true;
    return false;
}

/* content[0], but not content[1:] or content['text'] */
static bool is_element(const search *s, const kvi_jinja_node *node)
{
    return node && node->kind == KVI_JINJA_N_ITEM && is_content(s, node->a, 0) && node->b &&
           node->b->kind != KVI_JINJA_N_SLICE &&
           !(node->b->kind == KVI_JINJA_N_CONST && node->b->constant.type == KVI_JINJA_STR);
}

static void add_macro(search *s, const kvi_jinja_node *macro)
{
    for (size_t i = 0; i < s->n_macros; i++)
        if (s->macros[i] == macro) return;
    if (s->n_macros == MAX_NAMES) return;
    s->macros[s->n_macros++] = macro;
    s->grew = true;
}

static const kvi_jinja_node *find_macro(const search *s, const kvi_jinja_node *callee)
{
    for (size_t i = 0; i < s->n_macros && callee->kind == KVI_JINJA_N_NAME; i++)
        if (s->macros[i]->name == callee->name) return s->macros[i];
    return NULL;
}

/* Parameters of a macro are content where the arguments are. */
static void follow_call(search *s, const kvi_jinja_node *call)
{
    const kvi_jinja_node *macro = find_macro(s, call->a);
    const kvi_jinja_node *parameter = macro ? macro->other : NULL;
    for (const kvi_jinja_node *arg = call->list; macro && arg; arg = arg->next) {
        if (arg->kind == KVI_JINJA_N_KEYWORD) {
            if (is_content(s, arg->a, 0)) add_name(s, arg->name);
            continue;
        }
        if (parameter && is_content(s, arg, 0)) add_name(s, parameter->name);
        if (parameter) parameter = parameter->next;
    }
}

static void look_at(search *s, const kvi_jinja_node *node)
{
    if (s->wanted) {
        s->found = s->found || is_constant(node, s->wanted);
        return;
    }
    switch (node->kind) {
    case KVI_JINJA_N_SET:
        if (node->a->name && is_content(s, node->b, 0)) add_name(s, node->a->name);
        break;
    case KVI_JINJA_N_WITH:
        for (const kvi_jinja_node *binding = node->other; binding; binding = binding->next)
            if (is_content(s, binding->a, 0)) add_name(s, binding->name);
        break;
    case KVI_JINJA_N_MACRO: add_macro(s, node); break;
    case KVI_JINJA_N_CALL: follow_call(s, node); break;
    case KVI_JINJA_N_FOR: s->found = s->found || is_content(s, node->b, 0); break;
    case KVI_JINJA_N_FILTER: s->found = s->found || (walks_over(node->name) && is_content(s, node->a, 0)); break;
    case KVI_JINJA_N_ATTR:
    case KVI_JINJA_N_ITEM: s->found = s->found || is_element(s, node->a); break;
    default: break;
    }
}

static void walk(search *s, const kvi_jinja_node *node, unsigned depth)
{
    for (; node && !s->found && depth < MAX_WALK; node = node->next) {
        look_at(s, node);
        walk(s, node->a, depth + 1);
        walk(s, node->b, depth + 1);
        walk(s, node->c, depth + 1);
        walk(s, node->list, depth + 1);
        walk(s, node->other, depth + 1);
    }
}

bool kvi_chat_takes_parts(const kvi_jinja_node *body)
{
    search s = {.n_names = 0};
    for (unsigned round = 0; round < MAX_ROUNDS && !s.found; round++) {
        s.grew = false;
        walk(&s, body, 0);
        if (!s.grew) break;
    }
    return s.found;
}

bool kvi_chat_mentions(const kvi_jinja_node *body, const char *text)
{
    search s = {.wanted = text};
    walk(&s, body, 0);
    return s.found;
}
