/* matcher_sets.c - how sets and places are made: prediction, scanning and completion, each set once for the ends of terminals that it comes from.
 * Recursion to the left costs nothing, so front ends write lists that way; recursion to the right makes completion walk along the list. Rules that
 * may be empty are skipped when they are predicted (Aycock and Horspool 2002), so nothing is ever completed within the set it began in. */
#include "matcher_sets.h"

#include <string.h>

static uint32_t mix(uint32_t h, uint32_t v)
{
    h = (h ^ v) * 0x9e3779b1u;
    return h ^ h >> 15;
}

static bool failed(const kvi_matcher *m) { return m->why || m->grammar->exprs.why; }

static void *grow(kvi_matcher *m, void *list, size_t *cap, size_t need, size_t size)
{
    if (!kvi_mem_grow(&list, cap, need, size) && !m->why) m->why = "";
    return list;
}

static void take_steps(kvi_matcher *m, uint64_t n)
{
    if (n <= m->steps) m->steps -= n;
    else if (!m->why) m->why = "it is too ambiguous to follow";
}

uint64_t kvi_matcher_bytes(const kvi_matcher *m)
{
    return m->cap_items * sizeof *m->items + m->cap_sets * sizeof *m->sets + m->cap_threads * sizeof *m->threads +
           m->cap_keys * sizeof *m->keys + m->cap_places * sizeof *m->places + m->cap_next * sizeof *m->next +
           m->cap_set_keys * sizeof *m->set_keys + (m->n_set_table + m->n_place_table) * sizeof(uint32_t);
}

size_t kvi_matcher_used(const kvi_matcher *m)
{
    return m->n_items * sizeof *m->items + m->n_sets * sizeof *m->sets + m->n_threads * sizeof *m->threads +
           m->n_keys * sizeof *m->keys + m->n_places * (sizeof *m->places + m->grammar->n_classes * sizeof *m->next) +
           m->n_set_keys * sizeof *m->set_keys;
}

static void free_sets(kvi_matcher *m)
{
    void *const blocks[] = {m->items, m->sets,     m->threads,   m->keys,       m->places,
                            m->next,  m->set_keys, m->set_table, m->place_table};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) kvi_mem_free(blocks[i]);
    m->items = NULL, m->sets = NULL, m->threads = m->keys = NULL, m->places = NULL, m->next = NULL, m->set_keys = NULL;
    m->set_table = m->place_table = NULL;
    m->n_items = m->cap_items = m->n_sets = m->cap_sets = m->n_threads = m->cap_threads = m->n_keys = m->cap_keys = 0;
    m->n_places = m->cap_places = m->cap_next = m->n_set_keys = m->cap_set_keys = m->n_set_table = m->n_place_table = 0;
}

void kvi_matcher_free(kvi_matcher *m)
{
    free_sets(m);
    void *const blocks[] = {m->tokens, m->predicted,   m->seen, m->seen_in,
                            m->work,   m->new_threads, m->ends, m->terminals};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) kvi_mem_free(blocks[i]);
    kvi_buf_free(&m->bytes);
    *m = (kvi_matcher){0};
}

/* ------------------------------------------------------------------------------------------------------------- sets --- */
static bool grow_seen(kvi_matcher *m)
{
    const size_t n = m->n_seen ? m->n_seen * 2 : 256;
    uint64_t *seen = kvi_mem_alloc(n * sizeof *seen);
    uint32_t *in = kvi_mem_zalloc(n, sizeof *in);
    if (!seen || !in) {
        kvi_mem_free(seen), kvi_mem_free(in);
        m->why = "";
        return false;
    }
    for (size_t i = 0; i < m->n_seen; i++) {
        if (m->seen_in[i] != m->making) continue;
        size_t at = mix((uint32_t)(m->seen[i] >> 32), (uint32_t)m->seen[i]) & (n - 1);
        while (in[at]) at = (at + 1) & (n - 1);
        seen[at] = m->seen[i], in[at] = m->making;
    }
    kvi_mem_free(m->seen), kvi_mem_free(m->seen_in);
    m->seen = seen, m->seen_in = in, m->n_seen = n;
    return true;
}

/* Adds a rule under way to the set that is made, once. */
static void add(kvi_matcher *m, uint32_t place, uint32_t origin)
{
    const uint64_t key = (uint64_t)place << 32 | origin;
    take_steps(m, 1);
    if (failed(m) || ((m->n_work + 1) * 2 > m->n_seen && !grow_seen(m))) return;
    size_t at = mix(place, origin) & (m->n_seen - 1);
    for (; m->seen_in[at] == m->making; at = (at + 1) & (m->n_seen - 1))
        if (m->seen[at] == key) return;
    m->items = grow(m, m->items, &m->cap_items, m->n_items + m->n_work + 1, sizeof *m->items);
    if (failed(m)) return;
    m->seen[at] = key, m->seen_in[at] = m->making;
    m->items[m->n_items + m->n_work++] = (struct kvi_earley_item){m->grammar->places[place], place, origin};
}

/* Everything in a set that waits for `symbol` goes on. */
static void advance(kvi_matcher *m, uint32_t set, uint32_t symbol)
{
    const struct kvi_earley_set s = m->sets[set];
    uint32_t low = s.first, high = s.first + s.n;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (m->items[middle].symbol < symbol) low = middle + 1;
        else high = middle;
    }
    for (; low < s.first + s.n && m->items[low].symbol == symbol && !failed(m); low++)
        add(m, m->items[low].place + 1, m->items[low].origin);
}

static void predict(kvi_matcher *m, uint32_t nonterminal, uint32_t set)
{
    const kvi_grammar *g = m->grammar;
    if (m->predicted[nonterminal] == m->making) return;
    m->predicted[nonterminal] = m->making;
    const uint32_t end = g->first_place[nonterminal + 1];
    for (uint32_t i = g->first_place[nonterminal]; i < end; i++) add(m, g->starts[i], set);
}

static bool before(const struct kvi_earley_item *x, const struct kvi_earley_item *y)
{
    if (x->symbol != y->symbol) return x->symbol < y->symbol;
    return x->place != y->place ? x->place < y->place : x->origin < y->origin;
}

static void sort(struct kvi_earley_item *list, size_t n)
{
    for (size_t gap = n / 2; gap > 0; gap /= 2)
        for (size_t i = gap; i < n; i++)
            for (size_t k = i; k >= gap && before(&list[k], &list[k - gap]); k -= gap) {
                const struct kvi_earley_item swap = list[k];
                list[k] = list[k - gap];
                list[k - gap] = swap;
            }
}

/* What was added, and what follows from it, becomes set number n_sets. */
static void close_set(kvi_matcher *m)
{
    const kvi_grammar *g = m->grammar;
    const uint32_t set = (uint32_t)m->n_sets;
    struct kvi_earley_set s = {.first = (uint32_t)m->n_items};
    for (size_t i = 0; i < m->n_work && !failed(m); i++) {
        const struct kvi_earley_item item = m->items[m->n_items + i];
        if (item.symbol & KVI_SYMBOL_END) {
            const uint32_t of = item.symbol & ~KVI_SYMBOL_END;
            if (of == g->start) s.accepts = true;
            else if (item.origin != set) advance(m, item.origin, of);
        } else if (!(item.symbol & KVI_SYMBOL_TERMINAL)) {
            predict(m, item.symbol, set);
            if (g->nullable[item.symbol]) add(m, item.place + 1, item.origin);
        }
    }
    if (failed(m)) return;
    /* Completed rules have done their work. */
    struct kvi_earley_item *items = m->items + m->n_items;
    for (size_t i = 0; i < m->n_work; i++)
        if (!(items[i].symbol & KVI_SYMBOL_END)) items[s.n++] = items[i];
    sort(items, s.n);
    take_steps(m, s.n);
    m->terminals = grow(m, m->terminals, &m->cap_terminals, s.n + 1, sizeof *m->terminals);
    m->sets = grow(m, m->sets, &m->cap_sets, m->n_sets + 1, sizeof *m->sets);
    if (failed(m)) return;
    size_t n = 0;
    for (uint32_t i = 0; i < s.n; i++) {
        const uint32_t t = items[i].symbol & ~KVI_SYMBOL_TERMINAL;
        if (items[i].symbol & KVI_SYMBOL_TERMINAL && (n == 0 || m->terminals[n - 1] != t)) m->terminals[n++] = t;
    }
    s.lex = n ? kvi_lex_start(m->grammar, m->terminals, n) : KVI_LEX_DEAD;
    if (failed(m)) return;
    m->n_items += s.n;
    m->sets[m->n_sets++] = s;
}

static bool begin_set(kvi_matcher *m)
{
    const size_t n = m->grammar->n_nonterminals, was = m->cap_predicted;
    m->predicted = grow(m, m->predicted, &m->cap_predicted, n + 1, sizeof *m->predicted);
    if (failed(m)) return false;
    if (m->cap_predicted > was) memset(m->predicted + was, 0, (m->cap_predicted - was) * sizeof *m->predicted);
    m->making++;
    m->n_work = 0;
    return true;
}

/* The set that begins where terminals of these threads end; made once. */
static uint32_t set_of(kvi_matcher *m, const struct kvi_lex_thread *ends, size_t n)
{
    uint32_t hash = (uint32_t)n;
    for (size_t i = 0; i < n; i++) hash = mix(mix(hash, ends[i].set), ends[i].lex);
    if ((m->n_set_keys + 1) * 2 > m->n_set_table) {
        const size_t size = m->n_set_table ? m->n_set_table * 2 : 256;
        uint32_t *table = kvi_mem_zalloc(size, sizeof *table);
        if (!table) return m->why = "", 0;
        for (size_t i = 0; i < m->n_set_keys; i++) {
            const struct kvi_set_key *k = &m->set_keys[i];
            uint32_t h = k->n;
            for (uint32_t t = 0; t < k->n; t++) h = mix(mix(h, m->keys[k->first + t].set), m->keys[k->first + t].lex);
            size_t at = h & (size - 1);
            while (table[at]) at = (at + 1) & (size - 1);
            table[at] = (uint32_t)i + 1;
        }
        kvi_mem_free(m->set_table);
        m->set_table = table, m->n_set_table = size;
    }
    size_t at = hash & (m->n_set_table - 1);
    for (; m->set_table[at]; at = (at + 1) & (m->n_set_table - 1)) {
        const struct kvi_set_key *k = &m->set_keys[m->set_table[at] - 1];
        if (k->n == n && memcmp(m->keys + k->first, ends, n * sizeof *ends) == 0) return k->set;
    }
    if (!begin_set(m)) return 0;
    for (size_t i = 0; i < n; i++) {
        const kvi_lex_state *lex = &m->grammar->states[ends[i].lex];
        const uint32_t first = lex->first_ended, count = lex->n_ended;
        for (uint32_t k = 0; k < count; k++)
            advance(m, ends[i].set, KVI_SYMBOL_TERMINAL | m->grammar->ended[first + k]);
    }
    close_set(m);
    m->keys = grow(m, m->keys, &m->cap_keys, m->n_keys + n, sizeof *m->keys);
    m->set_keys = grow(m, m->set_keys, &m->cap_set_keys, m->n_set_keys + 1, sizeof *m->set_keys);
    if (failed(m)) return 0;
    memcpy(m->keys + m->n_keys, ends, n * sizeof *ends);
    m->set_keys[m->n_set_keys++] = (struct kvi_set_key){(uint32_t)m->n_keys, (uint32_t)n, (uint32_t)m->n_sets - 1};
    m->n_keys += n;
    m->set_table[at] = (uint32_t)m->n_set_keys;
    return (uint32_t)m->n_sets - 1;
}

/* ----------------------------------------------------------------------------------------------------------- places --- */
static uint32_t hash_place(const struct kvi_lex_thread *threads, size_t n, bool accepts)
{
    uint32_t h = mix((uint32_t)n, accepts);
    for (size_t i = 0; i < n; i++) h = mix(mix(h, threads[i].set), threads[i].lex);
    return h;
}

static bool grow_place_table(kvi_matcher *m)
{
    const size_t size = m->n_place_table ? m->n_place_table * 2 : 256;
    uint32_t *table = kvi_mem_zalloc(size, sizeof *table);
    if (!table) return m->why = "", false;
    for (uint32_t i = KVI_SPOT_DEAD; i < m->n_places; i++) {
        const struct kvi_text_place *p = &m->places[i];
        size_t at = hash_place(m->threads + p->first, p->n, p->accepts) & (size - 1);
        while (table[at]) at = (at + 1) & (size - 1);
        table[at] = i;
    }
    kvi_mem_free(m->place_table);
    m->place_table = table, m->n_place_table = size;
    return true;
}

static kvi_spot intern(kvi_matcher *m, const struct kvi_lex_thread *threads, size_t n, bool accepts)
{
    const size_t n_classes = m->grammar->n_classes;
    if (failed(m) || ((m->n_places + 1) * 2 > m->n_place_table && !grow_place_table(m))) return KVI_SPOT_DEAD;
    size_t at = hash_place(threads, n, accepts) & (m->n_place_table - 1);
    for (; m->place_table[at]; at = (at + 1) & (m->n_place_table - 1)) {
        const struct kvi_text_place *p = &m->places[m->place_table[at]];
        if (p->n == n && p->accepts == accepts &&
            (n == 0 || memcmp(m->threads + p->first, threads, n * sizeof *threads) == 0))
            return m->place_table[at];
    }
    m->places = grow(m, m->places, &m->cap_places, m->n_places + 1, sizeof *m->places);
    m->threads = grow(m, m->threads, &m->cap_threads, m->n_threads + n, sizeof *m->threads);
    m->next = grow(m, m->next, &m->cap_next, (m->n_places + 1) * n_classes, sizeof *m->next);
    /* One call may look ahead far; what it makes is bounded all the same. */
    if (!m->why && kvi_matcher_used(m) > m->max_bytes * 4) m->why = "it needs too much memory to look ahead";
    if (failed(m)) return KVI_SPOT_DEAD;
    if (n) memcpy(m->threads + m->n_threads, threads, n * sizeof *threads);
    memset(m->next + m->n_places * n_classes, 0, n_classes * sizeof *m->next);
    m->places[m->n_places] = (struct kvi_text_place){(uint32_t)m->n_threads, (uint32_t)n, accepts};
    m->n_threads += n;
    m->place_table[at] = (uint32_t)m->n_places;
    return (kvi_spot)m->n_places++;
}

kvi_spot kvi_matcher_near(kvi_matcher *m, kvi_spot place, uint32_t far)
{
    const struct kvi_text_place from = m->places[place];
    bool same = true;
    m->new_threads = grow(m, m->new_threads, &m->cap_new_threads, from.n + 1u, sizeof *m->new_threads);
    for (uint32_t i = 0; i < from.n && !failed(m); i++) {
        const struct kvi_lex_thread t = m->threads[from.first + i];
        m->new_threads[i] = (struct kvi_lex_thread){t.set, kvi_lex_near(m->grammar, t.lex, far)};
        same = same && m->new_threads[i].lex == t.lex;
    }
    return failed(m) ? KVI_SPOT_DEAD : same ? place : intern(m, m->new_threads, from.n, from.accepts);
}

kvi_spot kvi_matcher_make_step(kvi_matcher *m, kvi_spot place, uint32_t class_of_byte)
{
    const struct kvi_text_place from = m->places[place];
    size_t n = 0, n_ends = 0;
    if (failed(m)) return KVI_SPOT_DEAD;
    m->new_threads = grow(m, m->new_threads, &m->cap_new_threads, from.n + 1u, sizeof *m->new_threads);
    m->ends = grow(m, m->ends, &m->cap_ends, from.n + 1u, sizeof *m->ends);
    take_steps(m, from.n + 1u);
    for (uint32_t i = 0; i < from.n && !failed(m); i++) {
        const struct kvi_lex_thread t = m->threads[from.first + i];
        const uint32_t lex = kvi_lex_step(m->grammar, t.lex, class_of_byte);
        const kvi_lex_state *state = &m->grammar->states[lex];
        if (lex == KVI_LEX_DEAD) continue;
        if (state->n) m->new_threads[n++] = (struct kvi_lex_thread){t.set, lex};
        if (state->n_ended) m->ends[n_ends++] = (struct kvi_lex_thread){t.set, lex};
    }
    bool accepts = false;
    if (n_ends && !failed(m)) {
        const uint32_t set = set_of(m, m->ends, n_ends);
        if (failed(m)) return KVI_SPOT_DEAD;
        accepts = m->sets[set].accepts;
        if (m->sets[set].lex != KVI_LEX_DEAD) m->new_threads[n++] = (struct kvi_lex_thread){set, m->sets[set].lex};
    }
    if (failed(m)) return KVI_SPOT_DEAD;
    const kvi_spot next = n || accepts ? intern(m, m->new_threads, n, accepts) : KVI_SPOT_DEAD;
    if (!failed(m)) m->next[(size_t)place * m->grammar->n_classes + class_of_byte] = next;
    return next;
}

kvi_spot kvi_matcher_restart(kvi_matcher *m)
{
    const kvi_grammar *g = m->grammar;
    free_sets(m);
    /* Place 0 stands for what is not known yet, place 1 is the dead end: one without threads that does not accept. */
    m->places = grow(m, m->places, &m->cap_places, 2, sizeof *m->places);
    m->next = grow(m, m->next, &m->cap_next, 2 * (size_t)g->n_classes, sizeof *m->next);
    if (failed(m)) return KVI_SPOT_DEAD;
    m->places[0] = m->places[1] = (struct kvi_text_place){0};
    for (size_t i = 0; i < 2 * (size_t)g->n_classes; i++) m->next[i] = KVI_SPOT_DEAD;
    m->n_places = 2;
    if (!begin_set(m)) return KVI_SPOT_DEAD;
    predict(m, g->start, 0);
    close_set(m);
    if (failed(m)) return KVI_SPOT_DEAD;
    const struct kvi_lex_thread first = {0, m->sets[0].lex};
    return intern(m, &first, first.lex != KVI_LEX_DEAD, m->sets[0].accepts || g->nullable[g->start]);
}
