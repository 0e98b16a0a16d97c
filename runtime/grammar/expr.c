/* expr.c - the store of expressions, and what is always simplified when one is made: without that, derivatives would not come round to the same
 * expression and a lexer would not have finitely many states in practice. See expr.h. */
#include "expr.h"
#include "../base/utf8.h"

#include <string.h>

#define KVI_EXPR_MEMO 4096u

/* -------------------------------------------------------------------------------------------------------- the store --- */
kvi_expr kvi_expr_fail(kvi_exprs *p, const char *why)
{
    if (!p->why) p->why = why;
    return KVI_EXPR_NONE;
}

static bool take_steps(kvi_exprs *p, uint64_t n)
{
    if (p->why) return false;
    if (n > p->steps) {
        p->steps = 0;
        (void)kvi_expr_fail(p, "it takes too many steps to work out");
        return false;
    }
    p->steps -= n;
    return true;
}

static uint32_t mix(uint32_t h, uint32_t v)
{
    h = (h ^ v) * 0x9e3779b1u;
    return h ^ h >> 15;
}

static uint32_t hash_node(const kvi_exprs *p, const kvi_expr_node *n)
{
    uint32_t h = mix(mix(n->kind, n->b), n->c);
    if (n->kind != KVI_EXPR_IS_OR && n->kind != KVI_EXPR_IS_AND) return mix(h, n->a);
    for (uint32_t i = 0; i < n->b; i++) h = mix(h, p->children[n->a + i]);
    return h;
}

static bool same_node(const kvi_exprs *p, const kvi_expr_node *x, const kvi_expr_node *y)
{
    if (x->kind != y->kind || x->b != y->b || x->c != y->c) return false;
    if (x->kind != KVI_EXPR_IS_OR && x->kind != KVI_EXPR_IS_AND) return x->a == y->a;
    return memcmp(p->children + x->a, p->children + y->a, x->b * sizeof *p->children) == 0;
}

static void put_in_table(uint32_t *table, size_t n_table, uint32_t hash, uint32_t value)
{
    size_t at = hash & (n_table - 1);
    while (table[at]) at = (at + 1) & (n_table - 1);
    table[at] = value;
}

static bool rebuild_table(kvi_exprs *p, size_t n_table)
{
    uint32_t *table = kvi_mem_zalloc(n_table, sizeof *table);
    if (!table) return false;
    for (size_t i = 0; i < p->n; i++) put_in_table(table, n_table, hash_node(p, &p->nodes[i]), (uint32_t)i + 1);
    kvi_mem_free(p->table);
    p->table = table;
    p->n_table = n_table;
    return true;
}

/* The number of this node, which is an old one when there is an equal one. New children stand at the end of p->children. */
static kvi_expr intern(kvi_exprs *p, kvi_expr_node node)
{
    if (!take_steps(p, 1)) return KVI_EXPR_NONE;
    const bool listed = node.kind == KVI_EXPR_IS_OR || node.kind == KVI_EXPR_IS_AND;
    const uint32_t hash = hash_node(p, &node);
    for (size_t at = hash & (p->n_table - 1); p->table[at]; at = (at + 1) & (p->n_table - 1)) {
        const kvi_expr old = p->table[at] - 1;
        if (!same_node(p, &p->nodes[old], &node)) continue;
        if (listed) p->n_children = node.a;
        return old;
    }
    void *nodes = p->nodes;
    if (node.depth > KVI_EXPR_DEPTH) return kvi_expr_fail(p, "it nests too deeply");
    if (p->n >= p->max_nodes) return kvi_expr_fail(p, "it needs too many expressions");
    if (!kvi_mem_grow(&nodes, &p->cap, p->n + 1, sizeof *p->nodes)) return kvi_expr_fail(p, "");
    p->nodes = nodes;
    p->nodes[p->n++] = node;
    if (p->n * 2 > p->n_table) {
        if (!rebuild_table(p, p->n_table * 2)) return p->n--, kvi_expr_fail(p, "");
    } else put_in_table(p->table, p->n_table, hash, (uint32_t)p->n);
    return (kvi_expr)(p->n - 1);
}

bool kvi_exprs_init(kvi_exprs *p, size_t max_nodes, uint64_t steps)
{
    *p = (kvi_exprs){.max_nodes = max_nodes, .steps = steps};
    p->n_set_table = 256;
    p->set_table = kvi_mem_zalloc(p->n_set_table, sizeof *p->set_table);
    p->memo = kvi_mem_zalloc(KVI_EXPR_MEMO, sizeof *p->memo);
    if (!p->set_table || !p->memo || !rebuild_table(p, 1024)) return false;
    (void)intern(p, (kvi_expr_node){.kind = KVI_EXPR_IS_NONE});
    (void)intern(p, (kvi_expr_node){.kind = KVI_EXPR_IS_VOID, .nullable = true});
    return !p->why;
}

void kvi_exprs_free(kvi_exprs *p)
{
    void *const blocks[] = {p->nodes, p->children, p->sets, p->table, p->set_table, p->scratch,
                            p->seen,  p->came,     p->memo, p->spans, p->span_of,   p->graphs};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) kvi_mem_free(blocks[i]);
    *p = (kvi_exprs){0};
}

uint64_t kvi_exprs_bytes(const kvi_exprs *p)
{
    return p->cap * sizeof *p->nodes + (p->cap_children + p->n_table + p->n_set_table + p->cap_scratch) * 4u +
           (p->cap_seen + p->cap_came + p->cap_span_of) * 4u + p->cap_spans * sizeof *p->spans +
           p->cap_graphs * sizeof *p->graphs + p->cap_sets * sizeof *p->sets + KVI_EXPR_MEMO * sizeof *p->memo;
}

void kvi_exprs_truncate(kvi_exprs *p, size_t n)
{
    if (n >= p->n) return;
    p->n = n;
    size_t n_children = 0;
    for (size_t i = 0; i < n; i++) {
        const kvi_expr_node *e = &p->nodes[i];
        const bool listed = e->kind == KVI_EXPR_IS_OR || e->kind == KVI_EXPR_IS_AND;
        if (listed && e->a + (size_t)e->b > n_children) n_children = e->a + (size_t)e->b;
    }
    p->n_children = n_children;
    memset(p->table, 0, p->n_table * sizeof *p->table);
    for (size_t i = 0; i < n; i++) put_in_table(p->table, p->n_table, hash_node(p, &p->nodes[i]), (uint32_t)i + 1);
    memset(p->memo, 0, KVI_EXPR_MEMO * sizeof *p->memo);
    if (p->cap_span_of) memset(p->span_of, 0, p->cap_span_of * sizeof *p->span_of);
    p->n_spans = p->n_graphs = 0;
}

/* Adds the flags of a child. A THEN is walked along, so that a long one is not a deep one. */
static void inherit(const kvi_exprs *p, kvi_expr_node *node, kvi_expr child, bool deeper)
{
    const kvi_expr_node *c = &p->nodes[child];
    const uint8_t depth = (uint8_t)(c->depth + (deeper && c->depth < 255));
    if (depth > node->depth) node->depth = depth;
    node->hard |= c->hard;
    node->anchored |= c->anchored;
}

static bool push(kvi_exprs *p, uint32_t value)
{
    void *scratch = p->scratch;
    if (!kvi_mem_grow(&scratch, &p->cap_scratch, p->n_scratch + 1, sizeof *p->scratch))
        return kvi_expr_fail(p, ""), false;
    p->scratch = scratch;
    p->scratch[p->n_scratch++] = value;
    return true;
}

/* ------------------------------------------------------------------------------------------------------- byte sets --- */
static uint32_t hash_set(const kvi_byte_set *s)
{
    uint32_t h = 7;
    for (int i = 0; i < 4; i++) h = mix(mix(h, (uint32_t)s->bits[i]), (uint32_t)(s->bits[i] >> 32));
    return h;
}

static bool grow_set_table(kvi_exprs *p)
{
    const size_t n = p->n_set_table * 2;
    uint32_t *table = kvi_mem_zalloc(n, sizeof *table);
    if (!table) return false;
    for (size_t i = 0; i < p->n_sets; i++) put_in_table(table, n, hash_set(&p->sets[i]), (uint32_t)i + 1);
    kvi_mem_free(p->set_table);
    p->set_table = table;
    p->n_set_table = n;
    return true;
}

kvi_expr kvi_expr_byte_set(kvi_exprs *p, const kvi_byte_set *set)
{
    if (p->why || !(set->bits[0] | set->bits[1] | set->bits[2] | set->bits[3])) return KVI_EXPR_NONE;
    const uint32_t hash = hash_set(set);
    size_t at = hash & (p->n_set_table - 1);
    for (; p->set_table[at]; at = (at + 1) & (p->n_set_table - 1))
        if (memcmp(&p->sets[p->set_table[at] - 1], set, sizeof *set) == 0) break;
    if (!p->set_table[at]) {
        void *sets = p->sets;
        if (!kvi_mem_grow(&sets, &p->cap_sets, p->n_sets + 1, sizeof *p->sets)) return kvi_expr_fail(p, "");
        p->sets = sets;
        p->sets[p->n_sets++] = *set;
        p->set_table[at] = (uint32_t)p->n_sets;
        const kvi_expr_node node = {.kind = KVI_EXPR_IS_SET, .depth = 1, .a = (uint32_t)p->n_sets - 1};
        if (p->n_sets * 2 > p->n_set_table && !grow_set_table(p)) return kvi_expr_fail(p, "");
        return intern(p, node);
    }
    return intern(p, (kvi_expr_node){.kind = KVI_EXPR_IS_SET, .depth = 1, .a = p->set_table[at] - 1});
}

kvi_expr kvi_expr_bytes(kvi_exprs *p, uint8_t first, uint8_t last)
{
    kvi_byte_set set = {{0}};
    for (unsigned b = first; b <= last; b++) set.bits[b >> 6] |= 1ull << (b & 63);
    return kvi_expr_byte_set(p, &set);
}

/* -------------------------------------------------------------------------------------------------------- building --- */
kvi_expr kvi_expr_then(kvi_exprs *p, kvi_expr a, kvi_expr b)
{
    if (p->why || a == KVI_EXPR_NONE || b == KVI_EXPR_NONE) return KVI_EXPR_NONE;
    if (a == KVI_EXPR_VOID) return b;
    if (b == KVI_EXPR_VOID) return a;
    /* The pieces of a, then b, joined from the right. */
    const size_t base = p->n_scratch;
    while (p->nodes[a].kind == KVI_EXPR_IS_THEN) {
        if (!push(p, p->nodes[a].a)) return KVI_EXPR_NONE;
        a = p->nodes[a].b;
    }
    if (!push(p, a)) return KVI_EXPR_NONE;
    while (p->n_scratch > base && !p->why) {
        const kvi_expr piece = p->scratch[--p->n_scratch];
        kvi_expr_node node = {.kind = KVI_EXPR_IS_THEN, .a = piece, .b = b};
        node.nullable = p->nodes[piece].nullable && p->nodes[b].nullable;
        inherit(p, &node, piece, true);
        inherit(p, &node, b, p->nodes[b].kind != KVI_EXPR_IS_THEN);
        b = intern(p, node);
    }
    p->n_scratch = base;
    return p->why ? KVI_EXPR_NONE : b;
}

kvi_expr kvi_expr_text(kvi_exprs *p, const char *bytes, size_t len)
{
    kvi_expr e = KVI_EXPR_VOID;
    for (size_t i = len; i-- > 0;) e = kvi_expr_then(p, kvi_expr_bytes(p, (uint8_t)bytes[i], (uint8_t)bytes[i]), e);
    return e;
}

static void sort(uint32_t *list, size_t n)
{
    for (size_t gap = n / 2; gap > 0; gap /= 2)
        for (size_t i = gap; i < n; i++)
            for (size_t k = i; k >= gap && list[k - gap] > list[k]; k -= gap) {
                const uint32_t swap = list[k];
                list[k] = list[k - gap];
                list[k - gap] = swap;
            }
}

/* Pushes the members of a list with those of lists of the same kind within, and merges all sets into one. */
static bool push_flat(kvi_exprs *p, uint8_t kind, kvi_expr e, kvi_byte_set *set, bool *has_set)
{
    const kvi_expr_node n = p->nodes[e];
    if (n.kind == kind) {
        for (uint32_t i = 0; i < n.b; i++)
            if (!push_flat(p, kind, p->children[n.a + i], set, has_set)) return false;
        return true;
    }
    if (n.kind != KVI_EXPR_IS_SET) return push(p, e);
    for (int i = 0; i < 4; i++) {
        const uint64_t bits = p->sets[n.a].bits[i];
        if (!*has_set) set->bits[i] = bits;
        else if (kind == KVI_EXPR_IS_OR) set->bits[i] |= bits;
        else set->bits[i] &= bits;
    }
    *has_set = true;
    return true;
}

static bool is_anything(const kvi_exprs *p, kvi_expr e)
{
    return p->nodes[e].kind == KVI_EXPR_IS_NOT && p->nodes[e].a == KVI_EXPR_NONE;
}

/* Of alternatives that differ in a count alone, as a repetition that may begin at every byte leaves them, one remains: a{0,7}b or a{3,9}b is a{0,9}b.
 * What stands on the scratch stack from `base` on. */
static void merge_counts(kvi_exprs *p, size_t base)
{
    if (p->n_scratch - base > 32) return;
    for (size_t i = base + 1; i < p->n_scratch && !p->why; i++) {
        const kvi_expr_node x = p->nodes[p->scratch[i]], x_head = x.kind == KVI_EXPR_IS_THEN ? p->nodes[x.a] : x;
        for (size_t k = base; k < i && x_head.kind == KVI_EXPR_IS_REPEAT; k++) {
            const kvi_expr_node y = p->nodes[p->scratch[k]], y_head = y.kind == KVI_EXPR_IS_THEN ? p->nodes[y.a] : y;
            if (y_head.kind != KVI_EXPR_IS_REPEAT || x_head.a != y_head.a || x.kind != y.kind) continue;
            if (x.kind == KVI_EXPR_IS_THEN && x.b != y.b) continue;
            const uint32_t low = x_head.b < y_head.b ? x_head.b : y_head.b,
                           high = x_head.c > y_head.c ? x_head.c : y_head.c;
            const uint32_t later = x_head.b > y_head.b ? x_head.b : y_head.b,
                           end = x_head.c < y_head.c ? x_head.c : y_head.c;
            if (end != KVI_EXPR_MANY && later > end + 1) continue; /* a gap between them */
            const kvi_expr both = kvi_expr_repeat(p, x_head.a, low, high);
            p->scratch[k] = x.kind == KVI_EXPR_IS_THEN ? kvi_expr_then(p, both, x.b) : both;
            p->scratch[i--] = p->scratch[--p->n_scratch];
            break;
        }
    }
}

/* OR and AND: `zero` decides alone (NONE of an AND), `one` changes nothing. What is on the scratch stack from `base` on. */
static kvi_expr join(kvi_exprs *p, uint8_t kind, size_t base)
{
    const bool is_or = kind == KVI_EXPR_IS_OR;
    if (is_or) merge_counts(p, base);
    uint32_t *list = p->scratch + base;
    size_t n = p->n_scratch - base, kept = 0;
    bool nullable = !is_or, other_nullable = false;
    if (!take_steps(p, n)) return KVI_EXPR_NONE;
    sort(list, n);
    for (size_t i = 0; i < n; i++) {
        const kvi_expr e = list[i];
        if (kept && list[kept - 1] == e) continue;
        if (is_or ? is_anything(p, e) : e == KVI_EXPR_NONE) return e;
        if (is_or ? e == KVI_EXPR_NONE : is_anything(p, e)) continue;
        if (is_or) nullable |= p->nodes[e].nullable;
        else nullable &= p->nodes[e].nullable;
        if (e != KVI_EXPR_VOID) other_nullable |= p->nodes[e].nullable;
        list[kept++] = e;
    }
    if (kept && list[0] == KVI_EXPR_VOID) { /* sorted, so it stands in front */
        if (!is_or) return nullable ? KVI_EXPR_VOID : KVI_EXPR_NONE;
        if (other_nullable) memmove(list, list + 1, --kept * sizeof *list);
    }
    if (kept == 0) return is_or ? KVI_EXPR_NONE : kvi_expr_anything(p);
    if (kept == 1) return list[0];
    void *children = p->children;
    if (!kvi_mem_grow(&children, &p->cap_children, p->n_children + kept, sizeof *p->children))
        return kvi_expr_fail(p, "");
    p->children = children;
    kvi_expr_node node = {
        .kind = kind, .nullable = nullable, .hard = !is_or, .a = (uint32_t)p->n_children, .b = (uint32_t)kept};
    for (size_t i = 0; i < kept; i++) inherit(p, &node, list[i], true);
    memcpy(p->children + p->n_children, list, kept * sizeof *list);
    p->n_children += kept;
    return intern(p, node);
}

static kvi_expr join_list(kvi_exprs *p, uint8_t kind, const kvi_expr *list, size_t n)
{
    const size_t base = p->n_scratch;
    kvi_byte_set set;
    bool has_set = false, ok = !p->why;
    for (size_t i = 0; i < n && ok; i++) ok = push_flat(p, kind, list[i], &set, &has_set);
    if (ok && has_set) ok = push(p, kvi_expr_byte_set(p, &set));
    const kvi_expr e = ok ? join(p, kind, base) : KVI_EXPR_NONE;
    p->n_scratch = base;
    return e;
}

kvi_expr kvi_expr_or(kvi_exprs *p, const kvi_expr *list, size_t n) { return join_list(p, KVI_EXPR_IS_OR, list, n); }
kvi_expr kvi_expr_and(kvi_exprs *p, const kvi_expr *list, size_t n) { return join_list(p, KVI_EXPR_IS_AND, list, n); }
kvi_expr kvi_expr_or2(kvi_exprs *p, kvi_expr a, kvi_expr b) { return kvi_expr_or(p, (kvi_expr[]){a, b}, 2); }
kvi_expr kvi_expr_and2(kvi_exprs *p, kvi_expr a, kvi_expr b) { return kvi_expr_and(p, (kvi_expr[]){a, b}, 2); }

void kvi_expr_union_add(kvi_exprs *p, kvi_expr_union *of, kvi_expr e)
{
    uint32_t i = 0;
    for (; i < 31 && of->parts[i] != KVI_EXPR_NONE; of->parts[i++] = KVI_EXPR_NONE)
        e = kvi_expr_or2(p, of->parts[i], e);
    of->parts[i] = kvi_expr_or2(p, of->parts[i], e);
}

kvi_expr kvi_expr_union_all(kvi_exprs *p, const kvi_expr_union *of) { return kvi_expr_or(p, of->parts, 32); }

kvi_expr kvi_expr_not(kvi_exprs *p, kvi_expr a)
{
    if (p->why) return KVI_EXPR_NONE;
    if (p->nodes[a].kind == KVI_EXPR_IS_NOT) return p->nodes[a].a;
    kvi_expr_node node = {.kind = KVI_EXPR_IS_NOT, .nullable = !p->nodes[a].nullable, .a = a};
    inherit(p, &node, a, true);
    node.hard = a != KVI_EXPR_NONE;
    return intern(p, node);
}

kvi_expr kvi_expr_anything(kvi_exprs *p) { return kvi_expr_not(p, KVI_EXPR_NONE); }

kvi_expr kvi_expr_repeat(kvi_exprs *p, kvi_expr a, uint32_t min, uint32_t max)
{
    if (p->why || min > max) return KVI_EXPR_NONE;
    if (max == 0 || a == KVI_EXPR_VOID) return KVI_EXPR_VOID;
    if (a == KVI_EXPR_NONE) return min ? KVI_EXPR_NONE : KVI_EXPR_VOID;
    if (is_anything(p, a)) return a;
    const kvi_expr_node child = p->nodes[a];
    if (child.nullable) min = 0;
    if (min == 1 && max == 1) return a;
    if (child.nullable && max == 1) return a;
    if (child.kind == KVI_EXPR_IS_REPEAT && child.b == 0 && child.c == KVI_EXPR_MANY) return a;
    kvi_expr_node node = {.kind = KVI_EXPR_IS_REPEAT, .nullable = min == 0, .a = a, .b = min, .c = max};
    inherit(p, &node, a, true);
    return intern(p, node);
}

/* DIGITS: a = the divisor, b = rest so far, c = digits still to come behind the point, times two, plus one before the point. */
static kvi_expr digits(kvi_exprs *p, uint32_t of, uint32_t rest, uint32_t fraction, bool before)
{
    uint64_t value = rest;
    for (uint32_t i = 0; i < fraction; i++) value = value * 10 % of;
    p->has_digits = true;
    return intern(p, (kvi_expr_node){.kind = KVI_EXPR_IS_DIGITS,
                                     .depth = 1,
                                     .nullable = value == 0,
                                     .hard = true,
                                     .a = of,
                                     .b = rest,
                                     .c = fraction * 2 + before});
}

kvi_expr kvi_expr_multiple(kvi_exprs *p, uint32_t of, uint32_t fraction)
{
    if (of == 0 || of >= UINT32_MAX / 10 || fraction > 60) return kvi_expr_fail(p, "the divisor is too large");
    return digits(p, of, 0, fraction, true);
}

kvi_expr kvi_expr_anchor(kvi_exprs *p, bool end)
{
    const uint8_t kind = end ? KVI_EXPR_IS_END : KVI_EXPR_IS_BEGIN;
    return intern(p, (kvi_expr_node){.kind = kind, .depth = 1, .anchored = true});
}

/* ----------------------------------------------------------------------------------------------------- derivatives --- */
static kvi_expr derive(kvi_exprs *p, kvi_expr e, uint8_t byte);

static kvi_expr derive_list(kvi_exprs *p, kvi_expr_node n, uint8_t byte)
{
    const size_t base = p->n_scratch;
    kvi_byte_set set;
    bool has_set = false, ok = true;
    for (uint32_t i = 0; i < n.b && ok; i++) {
        const kvi_expr d = derive(p, p->children[n.a + i], byte);
        if (d == KVI_EXPR_NONE && n.kind == KVI_EXPR_IS_AND) {
            p->n_scratch = base;
            return d;
        }
        ok = !p->why && push_flat(p, n.kind, d, &set, &has_set);
    }
    if (ok && has_set) ok = push(p, kvi_expr_byte_set(p, &set));
    const kvi_expr d = ok ? join(p, n.kind, base) : KVI_EXPR_NONE;
    p->n_scratch = base;
    return d;
}

/* a then b then c ...: the byte is taken by a, or by b where a may be empty, or ... */
static kvi_expr derive_then(kvi_exprs *p, kvi_expr e, uint8_t byte)
{
    const size_t base = p->n_scratch;
    kvi_byte_set set;
    bool has_set = false, ok = true, more = true;
    while (ok && more) {
        const kvi_expr_node n = p->nodes[e];
        const bool then = n.kind == KVI_EXPR_IS_THEN;
        kvi_expr d = derive(p, then ? n.a : e, byte);
        if (then) d = kvi_expr_then(p, d, n.b);
        ok = !p->why && (d == KVI_EXPR_NONE || push_flat(p, KVI_EXPR_IS_OR, d, &set, &has_set));
        more = then && p->nodes[n.a].nullable;
        e = n.b;
    }
    if (ok && has_set) ok = push(p, kvi_expr_byte_set(p, &set));
    const kvi_expr d = ok ? join(p, KVI_EXPR_IS_OR, base) : KVI_EXPR_NONE;
    p->n_scratch = base;
    return d;
}

static kvi_expr derive_digits(kvi_exprs *p, kvi_expr_node n, uint8_t byte)
{
    const uint32_t left = n.c >> 1;
    const bool before = n.c & 1;
    if (byte == '.') return before && left ? digits(p, n.a, n.b, left, false) : KVI_EXPR_NONE;
    if (byte < '0' || byte > '9' || (!before && !left)) return KVI_EXPR_NONE;
    const uint32_t rest = (uint32_t)(((uint64_t)n.b * 10 + (byte - '0')) % n.a);
    return digits(p, n.a, rest, before ? left : left - 1, before);
}

static kvi_expr derive(kvi_exprs *p, kvi_expr e, uint8_t byte)
{
    if (!take_steps(p, 1)) return KVI_EXPR_NONE;
    const kvi_expr_node n = p->nodes[e];
    switch (n.kind) {
    case KVI_EXPR_IS_SET: return p->sets[n.a].bits[byte >> 6] >> (byte & 63) & 1 ? KVI_EXPR_VOID : KVI_EXPR_NONE;
    case KVI_EXPR_IS_DIGITS: return derive_digits(p, n, byte);
    case KVI_EXPR_IS_THEN:
    case KVI_EXPR_IS_OR:
    case KVI_EXPR_IS_AND:
    case KVI_EXPR_IS_NOT:
    case KVI_EXPR_IS_REPEAT: break;
    default: return KVI_EXPR_NONE;
    }
    struct kvi_expr_memo *memo = &p->memo[mix(e, byte) & (KVI_EXPR_MEMO - 1)];
    if (memo->of == e && memo->byte == byte && e) return memo->is;
    kvi_expr d;
    if (n.kind == KVI_EXPR_IS_THEN) d = derive_then(p, e, byte);
    else if (n.kind == KVI_EXPR_IS_NOT) d = kvi_expr_not(p, derive(p, n.a, byte));
    else if (n.kind != KVI_EXPR_IS_REPEAT) d = derive_list(p, n, byte);
    else {
        const kvi_expr first = derive(p, n.a, byte);
        if (first == KVI_EXPR_NONE) return KVI_EXPR_NONE;
        d = kvi_expr_then(p, first, kvi_expr_repeat(p, n.a, n.b ? n.b - 1 : 0, n.c == KVI_EXPR_MANY ? n.c : n.c - 1));
    }
    if (!p->why) *memo = (struct kvi_expr_memo){.of = e, .is = d, .byte = byte};
    return d;
}

kvi_expr kvi_expr_derive(kvi_exprs *p, kvi_expr e, uint8_t byte) { return derive(p, e, byte); }

/* Whether it holds finitely many texts, or infinitely many however it is gone on with. */
static bool is_finite(const kvi_exprs *p, kvi_expr e)
{
    for (;;) {
        const kvi_expr_node n = p->nodes[e];
        if (n.kind == KVI_EXPR_IS_NONE || n.kind == KVI_EXPR_IS_VOID || n.kind == KVI_EXPR_IS_SET) return true;
        if (n.kind == KVI_EXPR_IS_REPEAT) return n.c != KVI_EXPR_MANY && is_finite(p, n.a);
        if (n.kind == KVI_EXPR_IS_OR) {
            for (uint32_t i = 0; i < n.b; i++)
                if (!is_finite(p, p->children[n.a + i])) return false;
            return true;
        }
        if (n.kind != KVI_EXPR_IS_THEN || !is_finite(p, n.a)) return false;
        e = n.b;
    }
}
static bool is_endless(const kvi_exprs *p, kvi_expr e)
{
    for (;;) {
        const kvi_expr_node n = p->nodes[e];
        if (n.hard) return false;
        if (n.kind == KVI_EXPR_IS_REPEAT) return n.c == KVI_EXPR_MANY && !p->nodes[n.a].nullable;
        if (n.kind == KVI_EXPR_IS_OR) {
            for (uint32_t i = 0; i < n.b; i++)
                if (!is_endless(p, p->children[n.a + i])) return false;
            return true;
        }
        if (n.kind != KVI_EXPR_IS_THEN) return false;
        e = n.b;
    }
}

/* Of "any name but these": the names. What goes on for ever minus finitely many texts goes on for ever. NONE: it is something else. */
static kvi_expr without_exceptions(const kvi_exprs *p, kvi_expr_node n)
{
    kvi_expr names = KVI_EXPR_NONE;
    if (n.kind != KVI_EXPR_IS_AND) return KVI_EXPR_NONE;
    for (uint32_t i = 0; i < n.b; i++) {
        const kvi_expr child = p->children[n.a + i];
        if (p->nodes[child].kind == KVI_EXPR_IS_NOT && is_finite(p, p->nodes[child].a)) continue;
        if (names != KVI_EXPR_NONE || !is_endless(p, child)) return KVI_EXPR_NONE;
        names = child;
    }
    return names;
}

kvi_expr kvi_expr_nearby(kvi_exprs *p, kvi_expr e, uint32_t far)
{
    const kvi_expr_node n = p->nodes[e];
    if (p->why) return e;
    if (n.hard) { /* what is behind the names is left out: it may only follow names that are no exceptions */
        const kvi_expr names = without_exceptions(p, n.kind == KVI_EXPR_IS_THEN ? p->nodes[n.a] : n);
        return names == KVI_EXPR_NONE ? e : names;
    }
    if (n.kind == KVI_EXPR_IS_REPEAT) {
        const uint32_t most = n.c > far && !p->nodes[n.a].nullable ? KVI_EXPR_MANY : n.c;
        return kvi_expr_repeat(p, n.a, n.b > far ? far : n.b, most);
    }
    if (n.kind == KVI_EXPR_IS_THEN) {
        const kvi_expr first = kvi_expr_nearby(p, n.a, far);
        /* The rest of a character, then the string: what is behind that is not looked at. */
        const bool at_end = p->nodes[n.b].kind != KVI_EXPR_IS_THEN;
        const bool string = p->nodes[n.a].kind == KVI_EXPR_IS_REPEAT;
        return kvi_expr_then(p, first, string || at_end ? n.b : kvi_expr_nearby(p, n.b, far));
    }
    if (n.kind != KVI_EXPR_IS_OR) return e;
    const size_t base = p->n_scratch;
    bool ok = true;
    for (uint32_t i = 0; i < n.b && ok; i++) ok = push(p, kvi_expr_nearby(p, p->children[n.a + i], far));
    for (size_t i = base; i < p->n_scratch && ok; i++)
        e = i == base ? p->scratch[i] : kvi_expr_or2(p, e, p->scratch[i]);
    p->n_scratch = base;
    return e;
}

bool kvi_expr_matches(kvi_exprs *p, kvi_expr e, const char *bytes, size_t len)
{
    for (size_t i = 0; i < len && e != KVI_EXPR_NONE; i++) e = derive(p, e, (uint8_t)bytes[i]);
    return !p->why && p->nodes[e].nullable;
}

/* --------------------------------------------------------------------------------------------------------- classes --- */
static void split_classes(kvi_exprs *p, const kvi_byte_set *set)
{
    uint8_t moved[256];
    uint8_t in[256] = {0}, out[256] = {0};
    for (unsigned b = 0; b < 256; b++) {
        if (set->bits[b >> 6] >> (b & 63) & 1) in[p->classes[b]] = 1;
        else out[p->classes[b]] = 1;
    }
    const uint32_t n = p->n_classes;
    for (uint32_t c = 0; c < n; c++)
        if (in[c] && out[c]) moved[c] = (uint8_t)p->n_classes++;
    for (unsigned b = 0; b < 256; b++) {
        const uint8_t c = p->classes[b];
        if (c < n && in[c] && out[c] && set->bits[b >> 6] >> (b & 63) & 1) p->classes[b] = moved[c];
    }
}

void kvi_exprs_classify(kvi_exprs *p)
{
    if (p->classes_for == p->n_sets + 1) return;
    if (p->classes_for == 0) p->n_classes = 1, p->classes_for = 1; /* those before stay, and new sets split them */
    for (size_t i = p->classes_for - 1; i < p->n_sets && p->n_classes < 256; i++) split_classes(p, &p->sets[i]);
    for (unsigned b = '.'; b <= '9' && p->has_digits; b++) {
        kvi_byte_set one = {{0}};
        one.bits[0] = 1ull << b;
        if (p->n_classes < 256) split_classes(p, &one);
    }
    for (unsigned b = 256; b-- > 0;) p->first_of[p->classes[b]] = (uint8_t)b;
    p->classes_for = p->n_sets + 1;
}

/* ------------------------------------------------------------------------------------------------------ is it empty --- */
bool kvi_expr_room_to_search(kvi_exprs *p)
{
    void *seen = p->seen, *came = p->came;
    const size_t before = p->cap_seen;
    bool ok = kvi_mem_grow(&seen, &p->cap_seen, p->n, sizeof *p->seen);
    p->seen = seen;
    if (ok && p->cap_seen > before) memset(p->seen + before, 0, (p->cap_seen - before) * sizeof *p->seen);
    ok = ok && kvi_mem_grow(&came, &p->cap_came, p->n, sizeof *p->came);
    p->came = came;
    if (!ok) (void)kvi_expr_fail(p, "");
    return ok;
}

/* Follows derivatives to one that holds the empty text or is known to hold something; all on the way there hold something too. Nearest first up to
 * `most` of them, or newest first. False: none was found; *whole: there is none. */
static bool find_text(kvi_exprs *p, kvi_expr e, bool nearest, size_t most, bool *whole)
{
    const size_t base = p->n_scratch;
    size_t head = base;
    if (!kvi_expr_room_to_search(p) || !push(p, e)) return false;
    const uint32_t search = ++p->search;
    p->seen[e] = search;
    p->came[e] = e;
    while (p->n_scratch > head && p->n_scratch - base < most && !p->why) {
        const kvi_expr at = nearest ? p->scratch[head++] : p->scratch[--p->n_scratch];
        for (uint32_t c = p->n_classes; c-- > 0 && !p->why;) {
            const kvi_expr d = derive(p, at, p->first_of[c]);
            if (d == KVI_EXPR_NONE || !kvi_expr_room_to_search(p) || p->seen[d] == search || p->nodes[d].known == 2)
                continue;
            p->seen[d] = search;
            p->came[d] = at;
            if (p->nodes[d].nullable || !p->nodes[d].hard || p->nodes[d].known == 1) {
                p->n_scratch = base;
                for (kvi_expr on = at;; on = p->came[on]) {
                    p->nodes[on].known = 1;
                    if (on == e) return true;
                }
            }
            if (!push(p, d)) break;
        }
    }
    *whole = p->n_scratch == head;
    p->n_scratch = base;
    return false;
}

/* Where a text may end soon, as within a string, that is found at once by looking at what is near; newest first would go to the string's greatest
 * length, and where it cannot end there (words of which there are at most fifty, and no blank at the end) look at all that is between. A text that
 * must be long is found by going on. */
bool kvi_expr_holds_any(kvi_exprs *p, kvi_expr e)
{
    enum { NEAR = 256 };
    bool whole = false, holds = false;
    if (p->why || e == KVI_EXPR_NONE) return false;
    const kvi_expr_node n = p->nodes[e];
    if (!n.hard || n.nullable) return true;
    if (n.known) return n.known == 1;
    if (n.kind == KVI_EXPR_IS_THEN) {
        kvi_expr on = e;
        for (holds = true; holds && p->nodes[on].kind == KVI_EXPR_IS_THEN; on = p->nodes[on].b)
            holds = kvi_expr_holds_any(p, p->nodes[on].a);
        holds = holds && kvi_expr_holds_any(p, on);
    } else if (n.kind == KVI_EXPR_IS_OR) {
        for (uint32_t i = 0; i < n.b && !holds; i++) holds = kvi_expr_holds_any(p, p->children[n.a + i]);
    } else if (n.kind == KVI_EXPR_IS_REPEAT) holds = kvi_expr_holds_any(p, n.a);
    else {
        kvi_exprs_classify(p);
        const int counted = kvi_expr_counted_holds(p, e);
        holds = counted >= 0
                    ? counted
                    : find_text(p, e, true, NEAR, &whole) || (!whole && find_text(p, e, false, SIZE_MAX, &whole));
    }
    if (!p->why) p->nodes[e].known = holds ? 1 : 2;
    return holds && !p->why;
}
