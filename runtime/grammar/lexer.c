/* lexer.c - the automaton of terminals, made while it is used. A state is a set of terminals under way with what is left of each; equal ones are
 * one state. See grammar.h. */
#include "grammar.h"

#include <string.h>

#define SLICE_PAIRS 100u /* states that are looked at to decide about a slice */
#define SLICE_FAR 64u    /* more than the characters of a token in a slice */

static uint32_t mix(uint32_t h, uint32_t v)
{
    h = (h ^ v) * 0x9e3779b1u;
    return h ^ h >> 15;
}

/* The list with room for `need`; where memory is out it stays as it is, and exprs.why says so. */
static void *grow(kvi_grammar *g, void *list, size_t *cap, size_t need, size_t size)
{
    if (!kvi_mem_grow(&list, cap, need, size)) (void)kvi_expr_fail(&g->exprs, "");
    return list;
}

static uint32_t hash_state(const kvi_terminal_at *under_way, size_t n, const uint32_t *ended, size_t n_ended)
{
    uint32_t h = (uint32_t)n;
    for (size_t i = 0; i < n; i++) h = mix(mix(h, under_way[i].terminal), under_way[i].rest);
    for (size_t i = 0; i < n_ended; i++) h = mix(h, ended[i]);
    return h;
}

static uint32_t hash_of(const kvi_grammar *g, uint32_t state)
{
    const kvi_lex_state *s = &g->states[state];
    return hash_state(g->under_way + s->first, s->n, g->ended + s->first_ended, s->n_ended);
}

static bool grow_table(kvi_grammar *g)
{
    const size_t n = g->n_state_table ? g->n_state_table * 2 : 256;
    uint32_t *table = kvi_mem_zalloc(n, sizeof *table);
    if (!table) return kvi_expr_fail(&g->exprs, ""), false;
    for (uint32_t s = KVI_LEX_DEAD; s < g->n_states; s++) {
        size_t at = hash_of(g, s) & (n - 1);
        while (table[at]) at = (at + 1) & (n - 1);
        table[at] = s;
    }
    kvi_mem_free(g->state_table);
    g->state_table = table;
    g->n_state_table = n;
    return true;
}

/* The state with what stands in the scratch lists. */
static uint32_t intern(kvi_grammar *g, size_t n, size_t n_ended)
{
    const kvi_terminal_at *under_way = g->scratch.under_way;
    const uint32_t *ended = g->scratch.ended;
    const uint32_t hash = hash_state(under_way, n, ended, n_ended);
    for (size_t at = hash & (g->n_state_table - 1); g->state_table[at]; at = (at + 1) & (g->n_state_table - 1)) {
        const kvi_lex_state *s = &g->states[g->state_table[at]];
        if (s->n != n || s->n_ended != n_ended) continue;
        if (n && memcmp(g->under_way + s->first, under_way, n * sizeof *under_way) != 0) continue;
        if (n_ended && memcmp(g->ended + s->first_ended, ended, n_ended * sizeof *ended) != 0) continue;
        return g->state_table[at];
    }
    g->states = grow(g, g->states, &g->cap_states, g->n_states + 1, sizeof *g->states);
    g->next = grow(g, g->next, &g->cap_next, (g->n_states + 1) * g->n_classes, sizeof *g->next);
    g->under_way = grow(g, g->under_way, &g->cap_under_way, g->n_under_way + n, sizeof *g->under_way);
    g->ended = grow(g, g->ended, &g->cap_ended, g->n_ended + n_ended, sizeof *g->ended);
    if (g->exprs.why) return KVI_LEX_DEAD;
    const uint32_t state = (uint32_t)g->n_states++;
    g->states[state] = (kvi_lex_state){.first = (uint32_t)g->n_under_way,
                                       .n = (uint32_t)n,
                                       .first_ended = (uint32_t)g->n_ended,
                                       .n_ended = (uint32_t)n_ended};
    memset(g->next + (size_t)state * g->n_classes, 0, g->n_classes * sizeof *g->next);
    if (n) memcpy(g->under_way + g->n_under_way, under_way, n * sizeof *under_way);
    if (n_ended) memcpy(g->ended + g->n_ended, ended, n_ended * sizeof *ended);
    g->n_under_way += n;
    g->n_ended += n_ended;
    if (g->n_states * 2 > g->n_state_table) return grow_table(g) ? state : KVI_LEX_DEAD;
    size_t at = hash & (g->n_state_table - 1);
    while (g->state_table[at]) at = (at + 1) & (g->n_state_table - 1);
    g->state_table[at] = state;
    return state;
}

void kvi_grammar_forget(kvi_grammar *g)
{
    kvi_exprs_truncate(&g->exprs, g->n_kept);
    g->n_states = g->n_under_way = g->n_ended = 0;
    g->epoch++;
    if (g->state_table) memset(g->state_table, 0, g->n_state_table * sizeof *g->state_table);
    else if (!grow_table(g)) return;
    g->states = grow(g, g->states, &g->cap_states, 2, sizeof *g->states);
    g->next = grow(g, g->next, &g->cap_next, (size_t)g->n_classes * 2, sizeof *g->next);
    if (g->exprs.why) return;
    memset(g->next, 0, 2 * g->n_classes * sizeof *g->next);
    g->states[KVI_LEX_UNKNOWN] = g->states[KVI_LEX_DEAD] = (kvi_lex_state){0};
    g->n_states = 2;
    for (uint32_t c = 0; c < g->n_classes; c++) g->next[g->n_classes + c] = KVI_LEX_DEAD;
    size_t at = hash_of(g, KVI_LEX_DEAD) & (g->n_state_table - 1);
    g->state_table[at] = KVI_LEX_DEAD;
}

uint32_t kvi_lex_start(kvi_grammar *g, const uint32_t *terminals, size_t n)
{
    g->scratch.under_way = grow(g, g->scratch.under_way, &g->scratch.cap_under_way, n, sizeof *g->under_way);
    if (g->exprs.why) return KVI_LEX_DEAD;
    for (size_t i = 0; i < n; i++)
        g->scratch.under_way[i] = (kvi_terminal_at){terminals[i], g->terminals[terminals[i]]};
    return intern(g, n, 0);
}

uint32_t kvi_lex_make_step(kvi_grammar *g, uint32_t state, uint32_t class_of_byte)
{
    kvi_exprs *p = &g->exprs;
    const kvi_lex_state s = g->states[state];
    size_t n = 0, n_ended = 0;
    g->scratch.under_way = grow(g, g->scratch.under_way, &g->scratch.cap_under_way, s.n + 1, sizeof *g->under_way);
    g->scratch.ended = grow(g, g->scratch.ended, &g->scratch.cap_ended, s.n + 1, sizeof *g->ended);
    if (p->why) return KVI_LEX_DEAD;
    for (uint32_t i = 0; i < s.n; i++) {
        const kvi_terminal_at was = g->under_way[s.first + i];
        const kvi_expr rest = kvi_expr_derive(p, was.rest, g->first_of[class_of_byte]);
        if (rest == KVI_EXPR_NONE || !kvi_expr_holds_any(p, rest)) continue;
        if (kvi_expr_nullable(p, rest)) g->scratch.ended[n_ended++] = was.terminal;
        if (rest != KVI_EXPR_VOID) g->scratch.under_way[n++] = (kvi_terminal_at){was.terminal, rest};
    }
    if (p->why) return KVI_LEX_DEAD;
    const uint32_t next = intern(g, n, n_ended);
    if (!p->why) g->next[(size_t)state * g->n_classes + class_of_byte] = next;
    return next;
}

uint32_t kvi_lex_near(kvi_grammar *g, uint32_t state, uint32_t far)
{
    const kvi_lex_state s = g->states[state];
    bool same = true;
    g->scratch.under_way = grow(g, g->scratch.under_way, &g->scratch.cap_under_way, s.n + 1, sizeof *g->under_way);
    for (uint32_t i = 0; i < s.n && !g->exprs.why; i++) {
        const kvi_terminal_at was = g->under_way[s.first + i];
        g->scratch.under_way[i] = (kvi_terminal_at){was.terminal, kvi_expr_near(&g->exprs, was.rest, far)};
        same = same && g->scratch.under_way[i].rest == was.rest;
    }
    return g->exprs.why ? KVI_LEX_DEAD : same ? state : intern(g, s.n, 0);
}

/* ----------------------------------------------------------------------------------------------------------- slices --- */
/* Walks slice and state together; `pairs` are (what is left of the slice, state). */
static bool takes_slice(kvi_grammar *g, uint32_t state, uint32_t which)
{
    kvi_exprs *p = &g->exprs;
    size_t n = 1;
    g->scratch.pairs = grow(g, g->scratch.pairs, &g->scratch.cap_pairs, SLICE_PAIRS, sizeof *g->scratch.pairs);
    if (p->why) return false;
    uint64_t *pairs = g->scratch.pairs;
    pairs[0] = (uint64_t)g->slices[which] << 32 | state;
    for (size_t i = 0; i < n; i++) {
        for (uint32_t k = 0; k < g->n_slice_classes[which]; k++) {
            const uint32_t c = g->slice_classes[which][k];
            const kvi_expr left = kvi_expr_derive(p, (kvi_expr)(pairs[i] >> 32), g->first_of[c]);
            if (left == KVI_EXPR_NONE) continue;
            const uint32_t next = kvi_lex_step(g, (uint32_t)pairs[i], c);
            if (next == KVI_LEX_DEAD || p->why) return false;
            if (left == KVI_EXPR_VOID) continue;
            if (g->states[next].n == 0) return false; /* something must be able to follow */
            const uint64_t pair = (uint64_t)left << 32 | next;
            size_t same = 0;
            while (same < n && pairs[same] != pair) same++;
            if (same < n) continue;
            if (n == SLICE_PAIRS) return false;
            pairs[n++] = pair;
        }
    }
    return true;
}

/* Whether one terminal under way takes the slice by itself, with counts that are out of reach left out; found out once per such expression. */
static bool pair_takes_slice(kvi_grammar *g, kvi_terminal_at at, uint32_t slice)
{
    const uint8_t bit = (uint8_t)(1u << slice);
    g->scratch.under_way = grow(g, g->scratch.under_way, &g->scratch.cap_under_way, 1, sizeof *g->under_way);
    at.rest = kvi_expr_nearby(&g->exprs, at.rest, SLICE_FAR);
    if (g->exprs.why) return false;
    g->scratch.under_way[0] = at;
    const uint32_t alone = intern(g, 1, 0);
    if (g->exprs.why) return false;
    if (!(g->states[alone].slices_known & bit)) {
        const bool takes = takes_slice(g, alone, slice);
        g->states[alone].slices_known |= bit;
        if (takes) g->states[alone].slices_in |= bit;
    }
    return g->states[alone].slices_in & bit;
}

bool kvi_lex_takes_slice(kvi_grammar *g, uint32_t state, uint32_t slice)
{
    const uint8_t bit = (uint8_t)(16u << slice); /* the lower bits are of a terminal alone */
    if (!(g->states[state].slices_known & bit)) {
        bool takes = false;
        for (uint32_t i = 0; i < g->states[state].n && !takes; i++)
            takes = pair_takes_slice(g, g->under_way[g->states[state].first + i], slice);
        g->states[state].slices_known |= bit;
        if (takes) g->states[state].slices_in |= bit;
    }
    return g->states[state].slices_in & bit;
}
