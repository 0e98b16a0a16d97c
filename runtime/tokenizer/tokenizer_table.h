/* tokenizer_table.h - the three lookups of a tokenizer: spelling -> id, pair of ids -> merge, prefix tree over bytes.
 * Open addressing, power-of-two sizes, at most half full; built once, then const. Memory comes from kvi_mem and is
 * freed by free. */
#ifndef KVI_TOKENIZER_TABLE_H
#define KVI_TOKENIZER_TABLE_H
#include "../base/mem.h"

typedef struct kvi_string_slot {
    const char *text; /* NULL: empty; not owned */
    uint32_t len;
    int32_t id;
} kvi_string_slot;
typedef struct kvi_string_table {
    kvi_string_slot *slots; // (mask + 1)
    size_t mask, n;
} kvi_string_table;
bool kvi_string_table_init(kvi_string_table *table, size_t n);
/* Adds or replaces; false when memory is out. */
bool kvi_string_table_put(kvi_string_table *table, const char *text, size_t len, int32_t id);
int32_t kvi_string_table_get(const kvi_string_table *table, const char *text, size_t len); /* -1: none */
/* Id of the concatenation of two strings. */
int32_t kvi_string_table_get2(const kvi_string_table *table, const char *a, size_t a_len, const char *b, size_t b_len);
/* The same in steps, for many lookups at once: hash, then find. */
uint64_t kvi_string_hash(const char *a, size_t a_len, const char *b, size_t b_len);
int32_t kvi_string_table_find(const kvi_string_table *table, uint64_t hash, const char *a, size_t a_len, const char *b,
                              size_t b_len);
void kvi_string_table_free(kvi_string_table *table);

typedef struct kvi_pair_slot {
    uint64_t key;  /* left id << 32 | right id */
    uint32_t rank; /* UINT32_MAX: empty */
    int32_t id;    /* what the pair becomes */
} kvi_pair_slot;
typedef struct kvi_pair_table {
    kvi_pair_slot *slots; // (mask + 1)
    size_t mask;
} kvi_pair_table;
bool kvi_pair_table_init(kvi_pair_table *table, size_t n);
void kvi_pair_table_put(kvi_pair_table *table, int32_t left, int32_t right, uint32_t rank, int32_t id);
void kvi_pair_table_free(kvi_pair_table *table);
static inline const kvi_pair_slot *kvi_pair_table_get(const kvi_pair_table *table, int32_t left, int32_t right)
{
    if (!table->slots) return NULL;
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t i = (size_t)((key * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & table->mask;
    for (;; i = (i + 1) & table->mask) {
        if (table->slots[i].rank == UINT32_MAX) return NULL;
        if (table->slots[i].key == key) return &table->slots[i];
    }
}

/* Prefix tree: the edges of all nodes in one hash table, the root's also in an array. Values are >= 0. */
typedef struct kvi_trie_edge {
    uint32_t key;   /* node << 8 | byte */
    uint32_t child; /* 0: empty (the root is nobody's child) */
} kvi_trie_edge;
typedef struct kvi_trie {
    kvi_trie_edge *edges; // (mask + 1)
    size_t mask, n_edges;
    int32_t *values; // (n_nodes), -1: none
    size_t n_nodes, values_cap;
    uint32_t root[256];
} kvi_trie;
bool kvi_trie_init(kvi_trie *trie);
bool kvi_trie_put(kvi_trie *trie, const char *text, size_t len, int32_t value); /* false: memory or 2^24 nodes */
void kvi_trie_free(kvi_trie *trie);
static inline uint32_t kvi_trie_step(const kvi_trie *trie, uint32_t node, unsigned char byte)
{
    if (node == 0) return trie->root[byte];
    uint32_t key = node << 8 | byte;
    size_t i = (size_t)((key * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & trie->mask;
    for (;; i = (i + 1) & trie->mask) {
        if (trie->edges[i].child == 0) return 0;
        if (trie->edges[i].key == key) return trie->edges[i].child;
    }
}

#endif
