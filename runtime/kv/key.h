/* key.h - what a page of the cache may be found by: a hash over everything that its content follows from. That is the model, how its cache is
 * made, and all tokens up to the page's end, so that keys form a chain: the key of page p is made from that of page p - 1.
 * A key found is believed, and a false one would be a wrong answer: hence 128 bits, of two independent sums. It is no protection against
 * somebody who computes collisions: who serves strangers gives each of them a seed of their own. */
#ifndef KVI_KV_KEY_H
#define KVI_KV_KEY_H
#include <stdbool.h>
#include <stdint.h>

typedef struct kvi_page_key {
    uint64_t low, high; /* never both zero */
} kvi_page_key;
static inline bool kvi_key_is_set(kvi_page_key key) { return (key.low | key.high) != 0; }

/* The key before the first page. `seed`: n bytes that name the model and the settings of the cache. */
kvi_page_key kvi_key_begin(const void *seed, uint64_t n);
/* The key of the page that holds tokens ids[0..n) and follows the page with key `before`. */
kvi_page_key kvi_key_next(kvi_page_key before, const int32_t *ids, uint32_t n);

#endif
