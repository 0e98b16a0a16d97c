/* store_hash.c - names of objects: 128 bits, of two independent sums over words of eight bytes. Against accidents, not against malice. */
#include "serve_store.h"

#include <string.h>

static uint64_t turn(uint64_t x, unsigned n) { return x << n | x >> (64 - n); }
static uint64_t finish(uint64_t x)
{
    x = (x ^ x >> 33) * 0xff51afd7ed558ccdu;
    x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53u;
    return x ^ x >> 33;
}

store_name store_hash(const void *bytes, size_t n, store_name seed)
{
    const unsigned char *p = bytes;
    uint64_t a = seed.a ^ 0x9e3779b97f4a7c15u ^ n, b = seed.b + 0xbf58476d1ce4e5b9u * (n + 1);
    for (size_t i = 0; i < n; i += 8) {
        uint64_t word = 0;
        memcpy(&word, p + i, n - i < 8 ? n - i : 8);
        a = turn((a ^ word) * 0x9fb21c651e98df25u, 29);
        b = turn(b + word, 17) * 0xd6e8feb86659fd93u;
        b ^= b >> 31;
    }
    a = finish(a + b), b = finish(b ^ turn(a, 23));
    return (store_name){a, b ? b : 1};
}
