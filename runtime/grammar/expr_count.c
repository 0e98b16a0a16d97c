/* expr_count.c - texts of a language that are so many characters long: X and C{low,high}, which minLength and maxLength beside a pattern are.
 *
 * A derivative of it for each number of characters would be a state for each, all of which would have to be looked at to find out whether any text is
 * left, and tokens would be walked anew at each. So the count is taken out: X and C* has few states, and of each is found out once what lengths are
 * possible from it on:
 *
 *     shortest   the fewest characters that complete a text
 *     looped     the fewest with a loop on the way, which may be walked any number of times, `loop` characters each
 *     longest    where no loop can be reached: the most characters
 *
 * Most questions are answered by that exactly (kvi_expr_counted_holds), the others by searching as before; and where both bounds are far, counts can
 * be left out altogether (kvi_expr_near). Lengths are in characters, `far` in bytes, of which there are as many at least.
 * Owns: spans, graphs. See expr.h. */
#include "expr.h"

#include <string.h>

#define NODES_MOST 32768u /* of one graph */
#define FAILURES_MOST 2u  /* graphs that were too large, before no more are tried */
#define MANY KVI_EXPR_MANY

typedef struct kvi_expr_span span;

/* Of "others and D": D is C{low,high}, or the rest of a character and that. */
typedef struct counted {
    uint32_t counted_child; /* D */
    kvi_expr rest;          /* of the character; VOID between characters */
    uint32_t low, high;
} counted;

static bool is_count(const kvi_exprs *p, kvi_expr e)
{
    return p->nodes[e].kind == KVI_EXPR_IS_REPEAT && p->nodes[e].a == p->unit;
}

void kvi_expr_count_unit(kvi_exprs *p, kvi_expr unit)
{
    if (p->unit != unit) p->unit = unit, p->n_rests = 0;
}

/* Whether e may be left of a character of which some bytes were taken. What may be is found when it is asked for first. */
static bool is_rest(kvi_exprs *p, kvi_expr e)
{
    for (uint32_t i = 0, first = p->n_rests; first == 0 && i <= p->n_rests; i++)
        for (unsigned b = 0; b < 256; b++) {
            const kvi_expr d = kvi_expr_derive(p, i ? p->rests[i - 1] : p->unit, (uint8_t)b);
            uint32_t same = 0;
            while (same < p->n_rests && p->rests[same] != d) same++;
            if (d == KVI_EXPR_NONE || d == KVI_EXPR_VOID || same < p->n_rests) continue;
            if (p->n_rests == sizeof p->rests / sizeof *p->rests) return false;
            p->rests[p->n_rests++] = d;
        }
    for (uint32_t i = 0; i < p->n_rests; i++)
        if (p->rests[i] == e) return true;
    return false;
}

/* Of "the rest of a character and C{low,high}": that rest, and the count. */
static kvi_expr split_rest(kvi_exprs *p, kvi_expr e, kvi_expr *count)
{
    const kvi_expr_node n = p->nodes[e];
    if (n.kind == KVI_EXPR_IS_THEN) return kvi_expr_then(p, n.a, split_rest(p, n.b, count));
    *count = e;
    return KVI_EXPR_VOID;
}

static bool take_apart(kvi_exprs *p, kvi_expr e, counted *out)
{
    const kvi_expr_node n = p->nodes[e];
    bool found = false;
    if (n.kind != KVI_EXPR_IS_AND || p->unit == KVI_EXPR_NONE) return false;
    for (uint32_t i = 0; i < n.b; i++) {
        const kvi_expr child = p->children[n.a + i];
        kvi_expr count = child, rest = KVI_EXPR_VOID;
        for (unsigned k = 0; k < 8 && p->nodes[count].kind == KVI_EXPR_IS_THEN; k++) count = p->nodes[count].b;
        if (!is_count(p, count)) continue;
        if (count != child) {
            rest = split_rest(p, child, &count);
            if (!is_rest(p, rest)) continue;
        }
        const kvi_expr_node repeat = p->nodes[count];
        if (repeat.b == 0 && repeat.c == MANY) continue; /* any number: no count */
        if (found) return false;
        found = true;
        *out = (counted){child, rest, repeat.b, repeat.c};
    }
    return found;
}

/* The same with other bounds. */
static kvi_expr with_count(kvi_exprs *p, kvi_expr e, const counted *c, uint32_t low, uint32_t high)
{
    const kvi_expr_node n = p->nodes[e];
    const kvi_expr count = kvi_expr_then(p, c->rest, kvi_expr_repeat(p, p->unit, low, high));
    kvi_expr list[16], out = count;
    uint32_t k = 0;
    for (uint32_t i = 0; i < n.b; i++) {
        const kvi_expr child = p->children[n.a + i];
        if (child == c->counted_child) continue;
        list[k++] = child;
        if (k < 15 && i + 1 < n.b) continue;
        list[k++] = out;
        out = kvi_expr_and(p, list, k);
        k = 0;
    }
    if (k) list[k++] = out, out = kvi_expr_and(p, list, k);
    return out;
}

/* ------------------------------------------------------------------------------------------------------------ graphs --- */
typedef struct edge {
    uint32_t to, characters; /* 1 where a character is complete */
} edge;

typedef struct graph {
    kvi_expr *nodes;          // (n)
    uint32_t *first;          // (n + 1) in edges
    edge *edges;              // (n_edges)
    span *spans;              // (n)
    uint32_t *parent, *depth; // (n) of the walk in depth: n while not reached; characters from the first node
    size_t n, n_edges, cap_nodes, cap_first, cap_edges, cap_spans;
} graph;

static void free_graph(graph *g)
{
    void *const blocks[] = {g->nodes, g->first, g->edges, g->spans, g->parent, g->depth};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) kvi_mem_free(blocks[i]);
}

static bool grow(void *list, size_t *cap, size_t need, size_t size)
{
    void *block;
    memcpy(&block, list, sizeof block);
    const bool ok = kvi_mem_grow(&block, cap, need, size);
    memcpy(list, &block, sizeof block);
    return ok;
}

/* Whether a node of a graph is between characters: it has C* for a child, is C*, or is complete. */
static bool between_characters(const kvi_exprs *p, kvi_expr e, kvi_expr any)
{
    const kvi_expr_node n = p->nodes[e];
    if (e == any || e == KVI_EXPR_VOID) return true;
    for (uint32_t i = 0; n.kind == KVI_EXPR_IS_AND && i < n.b; i++)
        if (p->children[n.a + i] == any) return true;
    return false;
}

static bool add_node(kvi_exprs *p, graph *g, kvi_expr e, uint32_t search)
{
    if (g->n == NODES_MOST || !grow(&g->nodes, &g->cap_nodes, g->n + 1, sizeof *g->nodes) ||
        !grow(&g->spans, &g->cap_spans, g->n + 1, sizeof *g->spans))
        return false;
    p->seen[e] = search;
    p->came[e] = (uint32_t)g->n;
    g->spans[g->n] = (span){.shortest = p->nodes[e].nullable ? 0 : MANY, .looped = MANY};
    g->nodes[g->n++] = e;
    return true;
}

/* All that can be reached from e. */
static bool explore(kvi_exprs *p, graph *g, kvi_expr e)
{
    const kvi_expr any = kvi_expr_repeat(p, p->unit, 0, MANY);
    const uint64_t least = p->steps / 2; /* the other half is for whoever asks */
    if (!kvi_expr_room_to_search(p)) return false;
    const uint32_t search = ++p->search;
    if (!add_node(p, g, e, search)) return false;
    for (size_t i = 0; i < g->n; i++) {
        if (p->steps <= least || !grow(&g->first, &g->cap_first, i + 2, sizeof *g->first)) return false;
        g->first[i] = (uint32_t)g->n_edges;
        for (uint32_t c = 0; c < p->n_classes; c++) {
            const kvi_expr d = kvi_expr_derive(p, g->nodes[i], p->first_of[c]);
            if (p->why || !kvi_expr_room_to_search(p)) return false;
            if (d == KVI_EXPR_NONE) continue;
            if (p->seen[d] != search && !add_node(p, g, d, search)) return false;
            size_t same = g->first[i];
            while (same < g->n_edges && g->edges[same].to != p->came[d]) same++;
            if (same < g->n_edges) continue;
            if (!grow(&g->edges, &g->cap_edges, g->n_edges + 1, sizeof *g->edges)) return false;
            g->edges[g->n_edges++] = (edge){p->came[d], between_characters(p, d, any)};
        }
        g->first[i + 1] = (uint32_t)g->n_edges;
    }
    return true;
}

/* Loops: of every one there is an edge back to a node that is still being walked in depth. */
static bool find_loops(graph *g)
{
    const uint32_t n = (uint32_t)g->n;
    uint32_t *next = kvi_mem_alloc(g->n * sizeof *next); /* edge to look at; of a node that is done: first[i + 1] */
    g->parent = kvi_mem_alloc(g->n * sizeof *g->parent);
    g->depth = kvi_mem_zalloc(g->n, sizeof *g->depth);
    if (!next || !g->parent || !g->depth) return kvi_mem_free(next), false;
    for (uint32_t i = 0; i < n; i++) next[i] = g->first[i], g->parent[i] = n;
    bool ok = true; /* a loop without a character would be no loop of texts */
    g->parent[0] = 0;
    for (uint32_t at = 0;;) {
        if (next[at] == g->first[at + 1]) { /* done */
            next[at]++;
            if (at == 0) break;
            at = g->parent[at];
            continue;
        }
        const edge e = g->edges[next[at]++];
        if (g->parent[e.to] == n) {
            g->parent[e.to] = at;
            g->depth[e.to] = g->depth[at] + e.characters;
            at = e.to;
        } else if (next[e.to] <= g->first[e.to + 1]) {
            const uint32_t loop = g->depth[at] + e.characters - g->depth[e.to];
            span *s = &g->spans[e.to];
            ok = ok && loop > 0;
            if (s->loop == 0 || loop < s->loop) s->loop = loop;
        }
    }
    kvi_mem_free(next);
    return ok;
}

/* Takes the steps of a pass over the graph. */
static bool may_pass(kvi_exprs *p, const graph *g)
{
    const size_t steps = g->n_edges + g->n;
    if (steps > p->steps) return false;
    p->steps -= steps;
    return true;
}

/* Lengths, carried from node to node against the edges until nothing changes. False: it does not end soon. */
static bool find_lengths(kvi_exprs *p, graph *g)
{
    for (bool changed = true; changed;) {
        changed = false;
        if (!may_pass(p, g)) return false;
        for (size_t i = g->n; i-- > 0;) {
            span *s = &g->spans[i];
            const span was = *s;
            for (uint32_t k = g->first[i]; k < g->first[i + 1]; k++) {
                const span *to = &g->spans[g->edges[k].to];
                const uint32_t c = g->edges[k].characters;
                if (to->shortest != MANY && to->shortest + c < s->shortest) s->shortest = to->shortest + c;
                if (to->looped != MANY && (s->looped == MANY || to->looped + c + to->walked < s->looped + s->walked))
                    s->looped = to->looped + c, s->walked = to->walked;
            }
            if (s->loop && s->shortest != MANY && (s->looped == MANY || s->shortest + s->loop < s->looped + s->walked))
                s->looped = s->shortest, s->walked = s->loop;
            changed = changed || s->shortest != was.shortest || s->looped != was.looped || s->walked != was.walked;
        }
    }
    for (bool changed = true; changed;) {
        changed = false;
        if (!may_pass(p, g)) return false;
        for (size_t i = g->n; i-- > 0;) {
            span *s = &g->spans[i];
            if (s->shortest == MANY) continue;
            if (s->looped != MANY) {
                s->longest = MANY;
                continue;
            }
            for (uint32_t k = g->first[i]; k < g->first[i + 1]; k++) {
                const span *to = &g->spans[g->edges[k].to];
                const uint32_t c = g->edges[k].characters;
                if (to->shortest == MANY || to->longest + c <= s->longest) continue;
                s->longest = to->longest + c;
                changed = true;
            }
        }
    }
    return true;
}

/* Keeps what was found, and over all nodes: how far a text may be from its end, how long one without loops, and the longest loop. */
static bool keep(kvi_exprs *p, const graph *g)
{
    struct kvi_expr_graph all = {0};
    for (size_t i = 0; i < g->n; i++) {
        const span *s = &g->spans[i];
        if (s->shortest == MANY) continue;
        if (s->looped == MANY) all.longest = s->longest > all.longest ? s->longest : all.longest;
        else if (s->looped + s->walked > all.farthest) all.farthest = s->looped + s->walked;
        if (s->looped != MANY && s->walked > all.loop) all.loop = s->walked;
    }
    if (!grow(&p->graphs, &p->cap_graphs, p->n_graphs + 1, sizeof *p->graphs) ||
        !grow(&p->spans, &p->cap_spans, p->n_spans + g->n, sizeof *p->spans))
        return false;
    for (size_t i = 0; i < g->n; i++) {
        if (p->span_of[g->nodes[i]]) continue; /* of another graph, which says the same */
        p->spans[p->n_spans] = g->spans[i];
        p->spans[p->n_spans].graph = (uint32_t)p->n_graphs;
        p->span_of[g->nodes[i]] = (uint32_t)++p->n_spans;
    }
    p->graphs[p->n_graphs++] = all;
    return true;
}

/* Room in span_of[] for all nodes. */
static bool room_for_spans(kvi_exprs *p)
{
    const size_t before = p->cap_span_of;
    if (!grow(&p->span_of, &p->cap_span_of, p->n, sizeof *p->span_of)) return false;
    if (p->cap_span_of > before) memset(p->span_of + before, 0, (p->cap_span_of - before) * sizeof *p->span_of);
    return true;
}

/* What is known of "X and C*"; NULL: nothing. */
static const span *find_span(kvi_exprs *p, kvi_expr x)
{
    if (p->why || !room_for_spans(p)) return NULL;
    if (p->span_of[x]) return &p->spans[p->span_of[x] - 1];
    if (p->n_too_large >= FAILURES_MOST) return NULL;
    kvi_exprs_classify(p);
    graph g = {0};
    const bool ok = explore(p, &g, x) && find_loops(&g) && find_lengths(p, &g) && room_for_spans(p) && keep(p, &g);
    free_graph(&g);
    if (!ok) p->n_too_large++;
    return ok ? &p->spans[p->span_of[x] - 1] : NULL;
}

/* ----------------------------------------------------------------------------------------------------------- asking --- */
int kvi_expr_counted_holds(kvi_exprs *p, kvi_expr e)
{
    counted c;
    if (!take_apart(p, e, &c)) return -1;
    const kvi_expr x = with_count(p, e, &c, 0, MANY);
    if (x == KVI_EXPR_NONE) return p->why ? -1 : 0;
    const span *s = find_span(p, x);
    if (!s) return -1;
    const uint32_t more = c.rest != KVI_EXPR_VOID; /* the character under way */
    const uint64_t low = (uint64_t)c.low + more, high = c.high == MANY ? UINT64_MAX : (uint64_t)c.high + more;
    if (s->shortest == MANY || s->shortest > high) return 0;
    if (s->shortest >= low) return 1;
    if (s->looped == MANY) return s->longest < low ? 0 : -1;
    const uint64_t rounds = s->looped >= low ? 0 : (low - s->looped + s->walked - 1) / s->walked;
    return s->looped + rounds * s->walked <= high ? 1 : -1;
}

static kvi_expr near_count(kvi_exprs *p, kvi_expr e, uint32_t far)
{
    counted c;
    if (!take_apart(p, e, &c) || (c.low <= far && c.high <= far)) return e;
    const kvi_expr x = with_count(p, e, &c, 0, MANY);
    const span *s = x == KVI_EXPR_NONE ? NULL : find_span(p, x);
    if (!s) return e;
    const struct kvi_expr_graph *g = &p->graphs[s->graph];
    const uint64_t least = (uint64_t)far + g->longest + 2;
    const uint64_t most = (uint64_t)far + 2 + (g->farthest > g->longest ? g->farthest : g->longest);
    const bool far_off = c.high != MANY && c.high >= most && c.high - c.low + 1 >= g->loop;
    if (c.high != MANY && !far_off) return e;
    return with_count(p, e, &c, c.low > least ? (uint32_t)least : c.low, MANY);
}

kvi_expr kvi_expr_near(kvi_exprs *p, kvi_expr e, uint32_t far)
{
    const kvi_expr_node n = p->nodes[e];
    if (p->why) return e;
    if (n.kind == KVI_EXPR_IS_REPEAT && !n.hard && !p->nodes[n.a].nullable)
        return kvi_expr_repeat(p, n.a, n.b > far + 1 ? far + 1 : n.b, n.c != MANY && n.c > far ? MANY : n.c);
    if (n.kind == KVI_EXPR_IS_THEN) {
        const kvi_expr first = kvi_expr_near(p, n.a, far);
        /* The rest of a character, then the string. */
        const bool next = p->nodes[n.a].kind != KVI_EXPR_IS_REPEAT && p->nodes[n.b].kind == KVI_EXPR_IS_THEN;
        const kvi_expr rest = next ? kvi_expr_near(p, n.b, far) : n.b;
        return first == n.a && rest == n.b ? e : kvi_expr_then(p, first, rest);
    }
    return n.kind == KVI_EXPR_IS_AND ? near_count(p, e, far) : e;
}
