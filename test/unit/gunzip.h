/* gunzip.h - a small inflate for test data that comes as .gz (RFC 1951 and 1952). Slow and simple; false on anything
 * odd. */
#ifndef KVI_TEST_GUNZIP_H
#define KVI_TEST_GUNZIP_H
#include <string.h>

#include "runtime/base/mem.h"

typedef struct gunzip {
    const uint8_t *p, *end;
    uint32_t bits;
    unsigned n_bits;
    bool bad;
} gunzip;

static inline unsigned gunzip_bits(gunzip *g, unsigned n)
{
    while (g->n_bits < n) {
        if (g->p == g->end) {
            g->bad = true;
            return 0;
        }
        g->bits |= (uint32_t)*g->p++ << g->n_bits;
        g->n_bits += 8;
    }
    unsigned value = g->bits & ((1u << n) - 1);
    g->bits >>= n;
    g->n_bits -= n;
    return value;
}

/* Canonical Huffman code: symbols by length. */
typedef struct gunzip_code {
    uint16_t count[16], symbols[288];
} gunzip_code;

static inline void gunzip_build(gunzip_code *code, const uint8_t *lengths, unsigned n)
{
    uint16_t offsets[16] = {0};
    memset(code, 0, sizeof *code);
    for (unsigned i = 0; i < n; i++) code->count[lengths[i]]++;
    code->count[0] = 0;
    for (unsigned i = 1; i < 16; i++) offsets[i] = (uint16_t)(offsets[i - 1] + code->count[i - 1]);
    for (unsigned i = 0; i < n; i++)
        if (lengths[i]) code->symbols[offsets[lengths[i]]++] = (uint16_t)i;
}

static inline unsigned gunzip_symbol(gunzip *g, const gunzip_code *code)
{
    int value = 0, first = 0, index = 0;
    for (unsigned len = 1; len < 16; len++) {
        value |= (int)gunzip_bits(g, 1);
        int count = code->count[len];
        if (value - count < first) return code->symbols[index + value - first];
        index += count;
        first = (first + count) << 1;
        value <<= 1;
    }
    g->bad = true;
    return 256;
}

static inline void gunzip_codes(gunzip *g, gunzip_code *literals, gunzip_code *distances, bool fixed)
{
    static const uint8_t order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    uint8_t lengths[320] = {0};
    if (fixed) {
        for (unsigned i = 0; i < 288; i++) lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
        gunzip_build(literals, lengths, 288);
        memset(lengths, 5, 30);
        gunzip_build(distances, lengths, 30);
        return;
    }
    unsigned n_literal = gunzip_bits(g, 5) + 257, n_distance = gunzip_bits(g, 5) + 1, n_code = gunzip_bits(g, 4) + 4;
    for (unsigned i = 0; i < n_code; i++) lengths[order[i]] = (uint8_t)gunzip_bits(g, 3);
    gunzip_build(literals, lengths, 19);
    memset(lengths, 0, sizeof lengths);
    for (unsigned i = 0; i < n_literal + n_distance && !g->bad;) {
        unsigned symbol = gunzip_symbol(g, literals), repeat = 1;
        uint8_t value = (uint8_t)symbol;
        if (symbol == 16) value = i ? lengths[i - 1] : 0, repeat = 3 + gunzip_bits(g, 2);
        else if (symbol == 17) value = 0, repeat = 3 + gunzip_bits(g, 3);
        else if (symbol > 17) value = 0, repeat = 11 + gunzip_bits(g, 7);
        while (repeat-- && i < n_literal + n_distance) lengths[i++] = value;
    }
    gunzip_build(literals, lengths, n_literal > 286 ? 286 : n_literal);
    gunzip_build(distances, lengths + n_literal, n_distance);
}

static inline void gunzip_block(gunzip *g, kvi_buf *out, bool fixed)
{
    static const uint16_t base[] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                    31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
    static const uint8_t extra[] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                    2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
    static const uint16_t far_base[] = {1,    2,    3,    4,    5,    7,    9,    13,    17,    25,
                                        33,   49,   65,   97,   129,  193,  257,  385,   513,   769,
                                        1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
    gunzip_code literals, distances;
    gunzip_codes(g, &literals, &distances, fixed);
    while (!g->bad) {
        unsigned symbol = gunzip_symbol(g, &literals);
        if (symbol == 256) return;
        if (symbol < 256) {
            kvi_buf_append_byte(out, (char)symbol);
            continue;
        }
        if (symbol > 285) break;
        size_t len = base[symbol - 257] + gunzip_bits(g, extra[symbol - 257]);
        unsigned d = gunzip_symbol(g, &distances);
        if (d > 29) break;
        size_t distance = far_base[d] + gunzip_bits(g, d < 2 ? 0 : d / 2 - 1);
        if (distance > out->len) break;
        while (len--) kvi_buf_append_byte(out, out->data[out->len - distance]);
    }
    g->bad = true;
}

static inline bool gunzip_all(const uint8_t *data, size_t len, kvi_buf *out)
{
    gunzip g = {.p = data + 10, .end = data + len};
    if (len < 18 || data[0] != 0x1f || data[1] != 0x8b || (data[3] & ~8u)) return false;
    if (data[3] & 8u) { /* a file name */
        while (g.p < g.end && *g.p) g.p++;
        if (g.p < g.end) g.p++;
    }
    for (bool last = false; !last && !g.bad;) {
        last = gunzip_bits(&g, 1);
        unsigned kind = gunzip_bits(&g, 2);
        if (kind == 1 || kind == 2) gunzip_block(&g, out, kind == 1);
        else if (kind == 0) {
            g.bits = 0;
            g.n_bits = 0;
            size_t n = g.end - g.p >= 4 ? (size_t)(g.p[0] | g.p[1] << 8) : 0;
            if ((size_t)(g.end - g.p) < n + 4) return false;
            kvi_buf_append(out, g.p + 4, n);
            g.p += n + 4;
        } else g.bad = true;
    }
    return !g.bad && !out->failed;
}

#endif
