/* expr_utf8.c - code points as bytes, and what anchors of a pattern mean. See expr.h. */
#include "expr.h"
#include "../base/utf8.h"

/* ---------------------------------------------------------------------------------------------------- code points --- */
/* Texts of n bytes from `low` to `high` in the order of bytes, all of whose continuation bytes may be anything from 80 to BF between them. */
static kvi_expr byte_range(kvi_exprs *p, const uint8_t *low, const uint8_t *high, size_t n)
{
    if (n == 1) return kvi_expr_bytes(p, low[0], high[0]);
    if (low[0] == high[0])
        return kvi_expr_then(p, kvi_expr_bytes(p, low[0], low[0]), byte_range(p, low + 1, high + 1, n - 1));
    static const uint8_t lowest[3] = {0x80, 0x80, 0x80}, highest[3] = {0xbf, 0xbf, 0xbf};
    const kvi_expr first = kvi_expr_then(p, kvi_expr_bytes(p, low[0], low[0]), byte_range(p, low + 1, highest, n - 1));
    const kvi_expr last = kvi_expr_then(p, kvi_expr_bytes(p, high[0], high[0]), byte_range(p, lowest, high + 1, n - 1));
    const kvi_expr ends = kvi_expr_or2(p, first, last);
    if (high[0] - low[0] < 2) return ends;
    const kvi_expr middle = kvi_expr_then(p, kvi_expr_bytes(p, (uint8_t)(low[0] + 1), (uint8_t)(high[0] - 1)),
                                          byte_range(p, lowest, highest, n - 1));
    return kvi_expr_or2(p, ends, middle);
}

kvi_expr kvi_expr_code_points(kvi_exprs *p, uint32_t first, uint32_t last)
{
    static const uint32_t ends[] = {0x7f, 0x7ff, 0xd7ff, 0xffff, 0x10ffff};
    kvi_expr e = KVI_EXPR_NONE;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        const uint32_t begin = i == 0 ? 0 : i == 3 ? 0xe000 : ends[i - 1] + 1;
        const uint32_t low = first > begin ? first : begin, high = last < ends[i] ? last : ends[i];
        if (low > high) continue;
        char from[4], to[4];
        const size_t n = kvi_utf8_encode(from, low);
        (void)kvi_utf8_encode(to, high);
        e = kvi_expr_or2(p, e, byte_range(p, (const uint8_t *)from, (const uint8_t *)to, n));
    }
    return e;
}

/* -------------------------------------------------------------------------------------------------------- anchors --- */
/* The two anchors are mirror images; `end` says which is meant. AWAY: the place is not the text's edge, so the anchor matches nothing. EDGE: the
 * expression begins (ends) where the text does, so an anchor in front (at the back) is empty. */
typedef enum place { AWAY, EDGE } place;
static kvi_expr resolve(kvi_exprs *p, kvi_expr e, bool end, place at);

static bool push_piece(kvi_exprs *p, kvi_expr e)
{
    void *scratch = p->scratch;
    if (!kvi_mem_grow(&scratch, &p->cap_scratch, p->n_scratch + 1, sizeof *p->scratch))
        return (void)kvi_expr_fail(p, ""), false;
    p->scratch = scratch;
    p->scratch[p->n_scratch++] = e;
    return true;
}

/* Pieces [first, last) of the stack, joined; all AWAY from the edge. */
static kvi_expr join_pieces(kvi_exprs *p, size_t first, size_t last, bool end)
{
    kvi_expr e = KVI_EXPR_VOID;
    for (size_t i = last; i-- > first;) e = kvi_expr_then(p, resolve(p, p->scratch[i], end, AWAY), e);
    return e;
}

static kvi_expr resolve_then(kvi_exprs *p, kvi_expr e, bool end, place at)
{
    const size_t base = p->n_scratch;
    for (; p->nodes[e].kind == KVI_EXPR_IS_THEN; e = p->nodes[e].b)
        if (!push_piece(p, p->nodes[e].a)) return KVI_EXPR_NONE;
    if (!push_piece(p, e)) return KVI_EXPR_NONE;
    const size_t n = p->n_scratch - base;
    kvi_expr out = KVI_EXPR_NONE;
    if (at == AWAY) out = join_pieces(p, base, base + n, end);
    /* The piece at the edge is the first, or the next one as long as those before can be empty there. */
    for (size_t k = 0; at == EDGE && k < n && !p->why; k++) {
        const size_t i = end ? base + n - 1 - k : base + k;
        const kvi_expr edge = resolve(p, p->scratch[i], end, EDGE);
        const kvi_expr rest = end ? join_pieces(p, base, i, end) : join_pieces(p, i + 1, base + n, end);
        out = kvi_expr_or2(p, out, end ? kvi_expr_then(p, rest, edge) : kvi_expr_then(p, edge, rest));
        if (!kvi_expr_nullable(p, edge)) break;
    }
    p->n_scratch = base;
    return out;
}

static kvi_expr resolve(kvi_exprs *p, kvi_expr e, bool end, place at)
{
    if (p->why) return KVI_EXPR_NONE;
    const kvi_expr_node n = p->nodes[e];
    if (!n.anchored) return e;
    if (n.kind == (end ? KVI_EXPR_IS_END : KVI_EXPR_IS_BEGIN)) return at == EDGE ? KVI_EXPR_VOID : KVI_EXPR_NONE;
    if (n.kind == KVI_EXPR_IS_END || n.kind == KVI_EXPR_IS_BEGIN) return e;
    if (n.kind == KVI_EXPR_IS_THEN) return resolve_then(p, e, end, at);
    if (n.kind != KVI_EXPR_IS_OR)
        return kvi_expr_fail(p, "an anchor within a repetition or a lookahead is not supported");
    kvi_expr out = KVI_EXPR_NONE;
    for (uint32_t i = 0; i < n.b; i++) out = kvi_expr_or2(p, out, resolve(p, p->children[n.a + i], end, at));
    return out;
}

/* Beside any characters the last (first) of a repetition that must not be there says nothing: a{1,255} is found where a is. */
static kvi_expr trim(kvi_exprs *p, kvi_expr e, bool end)
{
    const kvi_expr_node n = p->nodes[e];
    if (n.kind == KVI_EXPR_IS_REPEAT && n.c != n.b) return kvi_expr_repeat(p, n.a, n.b, n.b);
    if (n.kind == KVI_EXPR_IS_OR) {
        kvi_expr out = KVI_EXPR_NONE;
        for (uint32_t i = 0; i < n.b; i++) out = kvi_expr_or2(p, out, trim(p, p->children[n.a + i], end));
        return out;
    }
    if (n.kind != KVI_EXPR_IS_THEN) return e;
    if (!end) {
        const kvi_expr first = trim(p, n.a, end);
        return first == KVI_EXPR_VOID ? trim(p, n.b, end) : kvi_expr_then(p, first, n.b);
    }
    const kvi_expr rest = trim(p, n.b, end);
    return rest == KVI_EXPR_VOID ? trim(p, n.a, end) : kvi_expr_then(p, n.a, rest);
}

kvi_expr kvi_expr_search(kvi_exprs *p, kvi_expr pattern, kvi_expr around)
{
    kvi_expr away = resolve(p, pattern, false, AWAY);
    if (around != KVI_EXPR_VOID) away = trim(p, away, false);
    const kvi_expr left = kvi_expr_or2(p, resolve(p, pattern, false, EDGE), kvi_expr_then(p, around, away));
    away = resolve(p, left, true, AWAY);
    if (around != KVI_EXPR_VOID) away = trim(p, away, true);
    return kvi_expr_or2(p, resolve(p, left, true, EDGE), kvi_expr_then(p, away, around));
}
