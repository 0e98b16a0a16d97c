/* tokenizer_table.c - see tokenizer_table.h. */
#include "tokenizer_table.h"

#include <string.h>

static size_t slots_for(size_t n)
{
    size_t slots = 16;
    while (slots < 2 * n) slots *= 2;
    return slots;
}

/* Eight bytes a step, multiply and fold. Speed matters (loading hashes a million short strings), secrecy does not:
 * whoever writes the tokenizer file owns the model anyway. */
static uint64_t mix(uint64_t a, uint64_t b)
{
    a = (a ^ b) * UINT64_C(0x9fb21c651e98df25);
    return a ^ a >> 29;
}

typedef struct hasher {
    uint64_t hash, word;
    unsigned n; /* bytes in word */
} hasher;

static void hash_add(hasher *h, const char *text, size_t len)
{
    size_t i = 0;
    if (h->n == 0) {
        for (; len - i >= 8; i += 8) {
            uint64_t word;
            memcpy(&word, text + i, 8);
            h->hash = mix(h->hash, word);
        }
    }
    for (; i < len; i++) {
        h->word |= (uint64_t)(unsigned char)text[i] << (8 * h->n);
        if (++h->n == 8) {
            h->hash = mix(h->hash, h->word);
            h->word = 0;
            h->n = 0;
        }
    }
}

static uint64_t hash_end(hasher *h, size_t len)
{
    uint64_t hash = mix(mix(h->hash, h->word), len + UINT64_C(0x9e3779b97f4a7c15));
    return hash ^ hash >> 32;
}

bool kvi_string_table_init(kvi_string_table *table, size_t n)
{
    size_t slots = slots_for(n);
    table->slots = kvi_mem_alloc_aligned(slots * sizeof *table->slots); /* zeroed, in huge pages where it is large */
    table->mask = slots - 1;
    table->n = 0;
    return table->slots != NULL;
}

static void place(kvi_string_table *table, const kvi_string_slot *slot)
{
    hasher h = {0};
    hash_add(&h, slot->text, slot->len);
    size_t i = (size_t)hash_end(&h, slot->len) & table->mask;
    for (;; i = (i + 1) & table->mask) {
        kvi_string_slot *to = &table->slots[i];
        if (to->text && (to->len != slot->len || memcmp(to->text, slot->text, slot->len) != 0)) continue;
        if (!to->text) table->n++;
        *to = *slot;
        return;
    }
}

bool kvi_string_table_put(kvi_string_table *table, const char *text, size_t len, int32_t id)
{
    if (2 * (table->n + 1) > table->mask + 1) {
        kvi_string_table bigger;
        if (!kvi_string_table_init(&bigger, table->mask + 1)) return false;
        for (size_t i = 0; i <= table->mask; i++)
            if (table->slots[i].text) place(&bigger, &table->slots[i]);
        kvi_mem_free_aligned(table->slots);
        *table = bigger;
    }
    place(table, &(kvi_string_slot){.text = text, .len = (uint32_t)len, .id = id});
    return true;
}

uint64_t kvi_string_hash(const char *a, size_t a_len, const char *b, size_t b_len)
{
    hasher h = {0};
    hash_add(&h, a, a_len);
    hash_add(&h, b, b_len);
    return hash_end(&h, a_len + b_len);
}

int32_t kvi_string_table_find(const kvi_string_table *table, uint64_t hash, const char *a, size_t a_len, const char *b,
                              size_t b_len)
{
    if (!table->slots) return -1;
    for (size_t i = (size_t)hash & table->mask;; i = (i + 1) & table->mask) {
        const kvi_string_slot *slot = &table->slots[i];
        if (!slot->text) return -1;
        if (slot->len != a_len + b_len || (a_len && memcmp(slot->text, a, a_len) != 0)) continue;
        if (b_len && memcmp(slot->text + a_len, b, b_len) != 0) continue;
        return slot->id;
    }
}

int32_t kvi_string_table_get2(const kvi_string_table *table, const char *a, size_t a_len, const char *b, size_t b_len)
{
    return kvi_string_table_find(table, kvi_string_hash(a, a_len, b, b_len), a, a_len, b, b_len);
}

int32_t kvi_string_table_get(const kvi_string_table *table, const char *text, size_t len)
{
    return kvi_string_table_get2(table, text, len, NULL, 0);
}

void kvi_string_table_free(kvi_string_table *table)
{
    kvi_mem_free_aligned(table->slots);
    table->slots = NULL;
}

bool kvi_pair_table_init(kvi_pair_table *table, size_t n)
{
    size_t slots = slots_for(n);
    table->slots = kvi_mem_alloc_aligned(slots * sizeof *table->slots);
    table->mask = slots - 1;
    if (table->slots) memset(table->slots, 0xff, slots * sizeof *table->slots);
    return table->slots != NULL;
}

void kvi_pair_table_put(kvi_pair_table *table, int32_t left, int32_t right, uint32_t rank, int32_t id)
{
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t i = (size_t)((key * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & table->mask;
    while (table->slots[i].rank != UINT32_MAX && table->slots[i].key != key) i = (i + 1) & table->mask;
    table->slots[i] = (kvi_pair_slot){.key = key, .rank = rank, .id = id};
}

void kvi_pair_table_free(kvi_pair_table *table)
{
    kvi_mem_free_aligned(table->slots);
    table->slots = NULL;
}

/* -------------------------------------------------------------------------------------------------------- trie --- */
#define MAX_NODES (1u << 24)

bool kvi_trie_init(kvi_trie *trie)
{
    memset(trie, 0, sizeof *trie);
    void *values = NULL;
    trie->mask = 255;
    trie->edges = kvi_mem_zalloc(trie->mask + 1, sizeof *trie->edges);
    if (!trie->edges || !kvi_mem_grow(&values, &trie->values_cap, 16, sizeof *trie->values)) return false;
    trie->values = values;
    trie->values[0] = -1;
    trie->n_nodes = 1;
    return true;
}

static void put_edge(kvi_trie_edge *edges, size_t mask, uint32_t key, uint32_t child)
{
    size_t i = (size_t)((key * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & mask;
    while (edges[i].child != 0) i = (i + 1) & mask;
    edges[i] = (kvi_trie_edge){.key = key, .child = child};
}

static bool grow_edges(kvi_trie *trie)
{
    size_t mask = trie->mask * 2 + 1;
    kvi_trie_edge *edges = kvi_mem_zalloc(mask + 1, sizeof *edges);
    if (!edges) return false;
    for (size_t i = 0; i <= trie->mask; i++)
        if (trie->edges[i].child) put_edge(edges, mask, trie->edges[i].key, trie->edges[i].child);
    kvi_mem_free(trie->edges);
    trie->edges = edges;
    trie->mask = mask;
    return true;
}

bool kvi_trie_put(kvi_trie *trie, const char *text, size_t len, int32_t value)
{
    uint32_t node = 0;
    for (size_t i = 0; i < len; i++) {
        unsigned char byte = (unsigned char)text[i];
        uint32_t child = kvi_trie_step(trie, node, byte);
        if (child == 0) {
            void *values = trie->values;
            if (trie->n_nodes >= MAX_NODES ||
                !kvi_mem_grow(&values, &trie->values_cap, trie->n_nodes + 1, sizeof *trie->values))
                return false;
            trie->values = values;
            if (2 * (trie->n_edges + 1) > trie->mask && !grow_edges(trie)) return false;
            child = (uint32_t)trie->n_nodes++;
            trie->values[child] = -1;
            trie->n_edges++;
            if (node == 0) trie->root[byte] = child;
            else put_edge(trie->edges, trie->mask, node << 8 | byte, child);
        }
        node = child;
    }
    trie->values[node] = value;
    return true;
}

void kvi_trie_free(kvi_trie *trie)
{
    kvi_mem_free(trie->edges);
    kvi_mem_free(trie->values);
    memset(trie, 0, sizeof *trie);
}
