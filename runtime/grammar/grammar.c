/* grammar.c - rules while they are collected, and what is worked out of them at the end. See grammar.h. */
#include "grammar.h"

#include <string.h>

#define SLICE_CHARACTERS 32u /* of the longest token that a slice may hold */
#define SLICE_SHORT 8u

#define STEPS_PER_CALL 40000000ull

kvi_grammar_limits kvi_grammar_default_limits(void)
{
    return (kvi_grammar_limits){.max_exprs = 1u << 20, .max_symbols = 1u << 20, .steps = 100u * 1000 * 1000};
}

kvi_grammar *kvi_grammar_new(kvi_grammar_limits limits)
{
    kvi_grammar *g = kvi_mem_zalloc(1, sizeof *g);
    if (!g) return NULL;
    g->max_symbols = limits.max_symbols;
    g->call_steps = STEPS_PER_CALL;
    if (kvi_exprs_init(&g->exprs, limits.max_exprs, limits.steps)) return g;
    kvi_grammar_free(g);
    return NULL;
}

void kvi_grammar_free(kvi_grammar *g)
{
    if (!g) return;
    kvi_exprs_free(&g->exprs);
    void *const blocks[] = {
        g->rules,       g->symbols,           g->terminals,     g->terminal_of,  g->places,    g->starts,
        g->nullable,    g->first_place,       g->states,        g->next,         g->under_way, g->ended,
        g->state_table, g->scratch.under_way, g->scratch.ended, g->scratch.pairs};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) kvi_mem_free(blocks[i]);
    kvi_mem_free(g);
}

size_t kvi_grammar_used(const kvi_grammar *g)
{
    return g->exprs.n * (sizeof *g->exprs.nodes + 16u) + g->exprs.n_children * sizeof *g->exprs.children +
           g->n_states * (sizeof *g->states + g->n_classes * sizeof *g->next) + g->n_under_way * sizeof *g->under_way +
           g->n_ended * sizeof *g->ended;
}

uint64_t kvi_grammar_bytes(const kvi_grammar *g)
{
    return kvi_exprs_bytes(&g->exprs) + g->cap_next * sizeof *g->next + g->cap_states * sizeof *g->states +
           g->cap_under_way * sizeof *g->under_way + g->cap_ended * sizeof *g->ended +
           g->n_state_table * sizeof *g->state_table + (g->cap_symbols + g->n_places) * sizeof *g->places;
}

kvrt_status kvi_grammar_failed(const kvi_grammar *g, const char *name, kvrt_error *error)
{
    if (!g->exprs.why || !*g->exprs.why) return kvi_error_nomem(error, kvi_grammar_bytes(g), name);
    return kvi_error_set(error, KVRT_GRAMMAR, "%s: %s", name, g->exprs.why);
}

/* ------------------------------------------------------------------------------------------------------- collecting --- */
kvi_symbol kvi_grammar_terminal(kvi_grammar *g, kvi_expr e)
{
    if (g->exprs.why || e == KVI_EXPR_NONE) return KVI_SYMBOL_NONE;
    if (e == KVI_EXPR_VOID) return KVI_SYMBOL_VOID;
    void *of = g->terminal_of, *terminals = g->terminals;
    const size_t before = g->cap_terminal_of;
    bool ok = kvi_mem_grow(&of, &g->cap_terminal_of, (size_t)e + 1, sizeof *g->terminal_of);
    g->terminal_of = of;
    if (ok && g->cap_terminal_of > before)
        memset(g->terminal_of + before, 0, (g->cap_terminal_of - before) * sizeof *g->terminal_of);
    if (ok && g->terminal_of[e]) return KVI_SYMBOL_TERMINAL | (g->terminal_of[e] - 1);
    ok = ok && kvi_mem_grow(&terminals, &g->cap_terminals, g->n_terminals + 1, sizeof *g->terminals);
    g->terminals = terminals;
    if (!ok) return kvi_expr_fail(&g->exprs, ""), KVI_SYMBOL_NONE;
    g->terminals[g->n_terminals++] = e;
    g->terminal_of[e] = (uint32_t)g->n_terminals;
    return KVI_SYMBOL_TERMINAL | (uint32_t)(g->n_terminals - 1);
}

kvi_symbol kvi_grammar_nonterminal(kvi_grammar *g)
{
    if (g->n_nonterminals >= g->max_symbols) return kvi_expr_fail(&g->exprs, "it has too many rules"), KVI_SYMBOL_NONE;
    return g->n_nonterminals++;
}

void kvi_grammar_rule(kvi_grammar *g, kvi_symbol of, const kvi_symbol *symbols, size_t n)
{
    if (g->exprs.why || of == KVI_SYMBOL_NONE) return;
    for (size_t i = 0; i < n; i++)
        if (symbols[i] == KVI_SYMBOL_NONE) return;
    void *rules = g->rules, *list = g->symbols;
    if (g->n_symbols + n + g->n_rules > g->max_symbols) {
        (void)kvi_expr_fail(&g->exprs, "it has too many rules");
        return;
    }
    bool ok = kvi_mem_grow(&rules, &g->cap_rules, g->n_rules + 1, sizeof *g->rules);
    g->rules = rules;
    ok = ok && kvi_mem_grow(&list, &g->cap_symbols, g->n_symbols + n, sizeof *g->symbols);
    g->symbols = list;
    if (!ok) {
        (void)kvi_expr_fail(&g->exprs, "");
        return;
    }
    struct kvi_rule *rule = &g->rules[g->n_rules++];
    *rule = (struct kvi_rule){.of = of, .first = (uint32_t)g->n_symbols};
    for (size_t i = 0; i < n; i++) {
        if (symbols[i] == KVI_SYMBOL_VOID) continue;
        g->symbols[g->n_symbols++] = symbols[i];
        rule->n++;
    }
}

kvi_symbol kvi_grammar_sequence(kvi_grammar *g, const kvi_symbol *symbols, size_t n)
{
    if (n == 1) return symbols[0];
    const kvi_symbol s = kvi_grammar_nonterminal(g);
    kvi_grammar_rule(g, s, symbols, n);
    return s;
}

/* -------------------------------------------------------------------------------------------------------- finishing --- */
/* A terminal that may be empty becomes a nonterminal with two rules: the lexer only sees what has at least a byte. */
static void split_nullable_terminals(kvi_grammar *g)
{
    const size_t n = g->n_symbols;
    uint32_t *instead = kvi_mem_zalloc(g->n_terminals + 1, sizeof *instead);
    if (!instead) (void)kvi_expr_fail(&g->exprs, "");
    for (size_t i = 0; i < n && !g->exprs.why; i++) {
        const uint32_t t = g->symbols[i] & ~KVI_SYMBOL_TERMINAL;
        if (!(g->symbols[i] & KVI_SYMBOL_TERMINAL) || !kvi_expr_nullable(&g->exprs, g->terminals[t])) continue;
        if (!instead[t]) {
            const kvi_symbol symbol = g->symbols[i], both = kvi_grammar_nonterminal(g);
            kvi_grammar_rule(g, both, &symbol, 1);
            kvi_grammar_rule(g, both, NULL, 0);
            instead[t] = both + 1;
        }
        g->symbols[i] = instead[t] - 1;
    }
    kvi_mem_free(instead);
}

static bool terminal_holds_bytes(kvi_grammar *g, kvi_expr e)
{
    kvi_exprs *p = &g->exprs;
    if (!p->nodes[e].hard) return true;
    if (kvi_expr_nullable(p, e)) e = kvi_expr_and2(p, e, kvi_expr_not(p, KVI_EXPR_VOID));
    return kvi_expr_holds_any(p, e);
}

/* Marks in `good` the nonterminals of which some rule has only symbols that are good: productive ones, or with `terminals` = NULL nullable ones. */
static void close_over_rules(const kvi_grammar *g, bool *good, const bool *terminals)
{
    for (bool more = true; more;) {
        more = false;
        for (size_t r = 0; r < g->n_rules; r++) {
            const struct kvi_rule *rule = &g->rules[r];
            bool all = !rule->dropped && !good[rule->of];
            for (uint32_t i = 0; i < rule->n && all; i++) {
                const uint32_t s = g->symbols[rule->first + i];
                all = s & KVI_SYMBOL_TERMINAL ? terminals && terminals[s & ~KVI_SYMBOL_TERMINAL] : good[s];
            }
            more |= all;
            if (all) good[rule->of] = true;
        }
    }
}

/* Drops rules that can never be completed. */
static void drop_unproductive(kvi_grammar *g, kvi_symbol start, bool *start_is_good)
{
    bool *terminals = kvi_mem_zalloc(g->n_terminals + 1, sizeof *terminals);
    bool *good = kvi_mem_zalloc((size_t)g->n_nonterminals + 1, sizeof *good);
    if (terminals && good) {
        for (size_t t = 0; t < g->n_terminals; t++) terminals[t] = terminal_holds_bytes(g, g->terminals[t]);
        close_over_rules(g, good, terminals);
        for (size_t r = 0; r < g->n_rules; r++) {
            struct kvi_rule *rule = &g->rules[r];
            for (uint32_t i = 0; i < rule->n; i++) {
                const uint32_t s = g->symbols[rule->first + i];
                if (!(s & KVI_SYMBOL_TERMINAL ? terminals[s & ~KVI_SYMBOL_TERMINAL] : good[s])) rule->dropped = true;
            }
        }
        *start_is_good = good[start];
    } else (void)kvi_expr_fail(&g->exprs, "");
    kvi_mem_free(terminals);
    kvi_mem_free(good);
}

/* Rules one after the other, by nonterminal. */
static bool lay_out(kvi_grammar *g)
{
    const size_t n = g->n_nonterminals;
    g->nullable = kvi_mem_zalloc(n + 1, sizeof *g->nullable);
    g->first_place = kvi_mem_zalloc(n + 2, sizeof *g->first_place);
    g->starts = kvi_mem_zalloc(g->n_rules + 1, sizeof *g->starts);
    g->places = kvi_mem_zalloc(g->n_symbols + g->n_rules + 1, sizeof *g->places);
    if (!g->nullable || !g->first_place || !g->starts || !g->places) return kvi_expr_fail(&g->exprs, ""), false;
    close_over_rules(g, g->nullable, NULL);
    for (size_t r = 0; r < g->n_rules; r++)
        if (!g->rules[r].dropped) g->first_place[g->rules[r].of + 2]++;
    for (size_t i = 2; i < n + 2; i++) g->first_place[i] += g->first_place[i - 1];
    for (size_t r = 0; r < g->n_rules; r++) {
        const struct kvi_rule *rule = &g->rules[r];
        if (rule->dropped) continue;
        g->starts[g->first_place[rule->of + 1]++] = g->n_places;
        if (rule->n) memcpy(g->places + g->n_places, g->symbols + rule->first, rule->n * sizeof *g->places);
        g->n_places += rule->n;
        g->places[g->n_places++] = KVI_SYMBOL_END | rule->of;
    }
    return true;
}

/* Texts that most string terminals take at any place: printable ASCII that JSON does not escape, short and long, and the same with code points
 * of more
 * than a byte (without line ends, which the dot of a pattern excludes). */
static void make_slices(kvi_grammar *g)
{
    kvi_exprs *p = &g->exprs;
    const kvi_expr ascii = kvi_expr_or(
        p, (kvi_expr[]){kvi_expr_bytes(p, 0x20, 0x21), kvi_expr_bytes(p, 0x23, 0x5b), kvi_expr_bytes(p, 0x5d, 0x7e)},
        3);
    const kvi_expr others =
        kvi_expr_or2(p, kvi_expr_code_points(p, 0xa1, 0x2027), kvi_expr_code_points(p, 0x202a, 0x10ffff));
    g->slices[0] = kvi_expr_repeat(p, ascii, 1, SLICE_SHORT);
    g->slices[1] = kvi_expr_repeat(p, ascii, 1, SLICE_CHARACTERS);
    g->slices[2] = kvi_expr_repeat(p, kvi_expr_or2(p, ascii, others), 1, KVI_EXPR_MANY);
}

static void freeze_classes(kvi_grammar *g)
{
    kvi_exprs_classify(&g->exprs);
    memcpy(g->classes, g->exprs.classes, sizeof g->classes);
    memcpy(g->first_of, g->exprs.first_of, sizeof g->first_of);
    g->n_classes = g->exprs.n_classes;
    for (unsigned b = 0; b < 256; b++) g->class_size[g->classes[b]]++;
    for (uint32_t i = 0; i < KVI_GRAMMAR_SLICES; i++)
        for (uint32_t c = 0; c < g->n_classes; c++) {
            const uint8_t b = g->first_of[c];
            /* Printable ASCII that JSON does not escape; of the last slice, bytes of longer code points too. */
            if ((b >= 0x20 && b < 0x7f && b != '"' && b != '\\') || (b >= 0x80 && i == KVI_GRAMMAR_SLICES - 1))
                g->slice_classes[i][g->n_slice_classes[i]++] = (uint8_t)c;
        }
    g->n_kept = g->exprs.n;
    g->kept_bytes = kvi_grammar_used(g);
}

kvrt_status kvi_grammar_finish(kvi_grammar *g, kvi_symbol start, const char *name, kvrt_error *error)
{
    bool start_is_good = false;
    if (start == KVI_SYMBOL_NONE && !g->exprs.why)
        return kvi_error_set(error, KVRT_GRAMMAR, "%s: no text satisfies it", name);
    const kvi_symbol root = kvi_grammar_nonterminal(g);
    kvi_grammar_rule(g, root, &start, 1);
    if (!g->exprs.why) split_nullable_terminals(g);
    if (!g->exprs.why) drop_unproductive(g, root, &start_is_good);
    if (!g->exprs.why && !start_is_good) return kvi_error_set(error, KVRT_GRAMMAR, "%s: no text satisfies it", name);
    if (!g->exprs.why && lay_out(g)) make_slices(g);
    g->start = root;
    if (!g->exprs.why) freeze_classes(g);
    kvi_mem_free(g->terminal_of);
    g->terminal_of = NULL, g->cap_terminal_of = 0;
    if (!g->exprs.why) kvi_grammar_forget(g);
    return g->exprs.why ? kvi_grammar_failed(g, name, error) : KVRT_OK;
}
