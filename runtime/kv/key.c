/* key.c - see key.h. Each half takes in a word by a product with an odd constant and a fold of the high bits; the last step mixes once more,
 * so that every bit of a word reaches every bit of the key. A page is 128 words in 128 decoding steps, taken in one at a time as tokens come:
 * speed is of no matter, and a hash of whole blocks (xxHash, as checksum.c has it) would have to be fed and kept as a stream. */
#include "key.h"

static uint64_t fold(uint64_t x, uint64_t factor)
{
    x *= factor;
    return x ^ (x >> 32);
}

static kvi_page_key take_in(kvi_page_key key, uint64_t word)
{
    key.low = fold(key.low ^ word, 0x9e3779b97f4a7c15u) + 0x2545f4914f6cdd1du;
    key.high = fold(key.high + word, 0xd6e8feb86659fd93u) ^ 0x5851f42d4c957f2du;
    return key;
}

static kvi_page_key finish(kvi_page_key key)
{
    key.low = fold(fold(key.low, 0xbf58476d1ce4e5b9u), 0x94d049bb133111ebu);
    key.high = fold(fold(key.high, 0xff51afd7ed558ccdu), 0xc4ceb9fe1a85ec53u);
    if (!key.low && !key.high) key.low = 1;
    return key;
}

kvi_page_key kvi_key_begin(const void *seed, uint64_t n)
{
    kvi_page_key key = {0x6a09e667f3bcc908u, 0xbb67ae8584caa73bu};
    for (uint64_t i = 0; i < n; i++) key = take_in(key, ((const uint8_t *)seed)[i]);
    return finish(key);
}

kvi_page_key kvi_key_next(kvi_page_key before, const int32_t *ids, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) before = take_in(before, (uint32_t)ids[i]);
    return finish(before);
}
