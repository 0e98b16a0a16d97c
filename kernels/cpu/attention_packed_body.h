/* attention_packed_body.h - the source of the packed attention kernels, compiled once per instruction set by attention_packed_*.c, which
 * define VB (bytes of a vector) and TABLE, include this, and then define
 *   fma_vec     a * b + c, fused where the instruction set has it
 *   number      the low `bits` bits of every 32-bit lane as f32, less CENTRE (2^bits - 1) / 2; CENTRE is 0 or 1. Centred codes cancel less
 *   shift       lanes >> counts; same: all counts are equal
 *   bytes       VW unsigned bytes as f32
 *   repeat      `words` 32-bit words, repeated until the vector is full
 *   zip         elements of a and b alternating
 *   half_bytes  VW E4M3 codes as f32, divided by 256
 *   level       the levels of the states in the low six bits of every lane (trellis.h)
 * With RINGS_ALONE there are trellis codes only, and of them
 *   levels_of_64  levels of numbers first .. first + 63 of a row, which is a ring
 *
 * The sums of four queries fit the registers beside the codes. More queries (a verification, sessions behind a prefix that they share) let codes
 * become numbers once, a tile of rows at a time that the first cache holds, and pass over it by fours: the same products in the same order.
 *
 * A row of 4-bit codes in LSB-first order is a row of 32-bit words of 8 codes. A vector of words shifted right by 4 j holds code j of every
 * word: one load serves 8 vectors of codes, and nothing moves between lanes. The results come out in the order (j, word) and are put
 * in natural order once per page by log2(8) perfect shuffles. Rows too short for a vector are repeated in it, each copy shifted to another
 * code. 2-bit codes alike, with 16 codes a word. */
#include "attention_packed.h"
#include "../../runtime/base/simd.h"
#include "../../runtime/kv/codec.h"

#define QUERIES 4u    /* whose sums are in registers */
#define MANY 32u      /* that share a tile of numbers */
#define TILE_ROWS 32u /* of four vectors: 8 KiB with 512 bits */
#define LD_PAD 16u    /* between rows of scratch, so that they do not meet in the same sets of the cache */
_Static_assert(MANY *(KVI_CPU_PACKED_DIM + KVI_KV_PAGE + 2u * LD_PAD) + TILE_ROWS * 64u <= KVI_CPU_PACKED_SCRATCH,
               "x, out and a tile of numbers");

INLINE vf fma_vec(vf a, vf b, vf c);
INLINE vf number(vu lanes, uint32_t bits);
INLINE vu shift(vu lanes, vu counts, bool same);
INLINE vf bytes(const uint8_t *p);
INLINE vu repeat(const uint8_t *p, uint32_t words);
INLINE void zip(vf a, vf b, vf *low, vf *high);
INLINE vf half_bytes(const uint8_t *p);
INLINE vf level(vu states, const float *levels);
#ifdef RINGS_ALONE
INLINE void levels_of_64(vf *value, const uint8_t *row, uint32_t row_bytes, uint32_t first, uint32_t bits);
#endif

INLINE float total(vf v)
{
    float parts[VB / 4];
    memcpy(parts, &v, sizeof v);
    for (uint32_t n = VW / 2; n; n /= 2)
        for (uint32_t i = 0; i < n; i++) parts[i] += parts[i + n];
    return parts[0];
}

/* Words that hold VW 2- or 3-bit codes from code i of a row on, each in the low bits of its lane once that is shifted: eight codes are 16 or 24 bits,
 * and what the last of them reads of its successors in a ring 3 more. Reads up to two bytes past them, inside the record. `last`: the row is a
 * ring and ends with the vector. */
INLINE vu words_at(const uint8_t *row, uint32_t row_bytes, uint32_t i, uint32_t bits, bool last)
{
    const uint32_t half = VW == 16u ? bits : 0u; /* bytes from the first eight numbers to the second eight */
    uint32_t low, high;
    if (last) { /* four bytes that end with the row, and its first ones behind them */
        uint32_t end, first = 0;
        memcpy(&end, row + row_bytes - 4u, 4);
        memcpy(&first, row, 4);
        high = end >> (32u - 8u * bits) | first << (8u * bits);
    } else memcpy(&high, row + i * bits / 8u + half, 4);
    if (VW != 16u) return high - (vu){0};
    memcpy(&low, row + i * bits / 8u, 4);
    vu lane;
    for (uint32_t k = 0; k < VW; k++) lane[k] = k;
    const vu upper = (vu)(lane > 7u);
    return ((low - (vu){0}) & ~upper) | ((high - (vu){0}) & upper);
}

/* Codes of which a product takes n_v <= 4 vectors of every row; kind and n_v are constants. `counts`: per vector and lane the bits to shift away.
 * Trellis codes: `codes` are whole rows, whose numbers from
 * `first` on are meant; one text serves both, so that their bits come with them. */
typedef struct columns {
    const uint8_t *codes;
    size_t row_bytes;
    uint32_t words, first, ring_bits;
    const vu *counts;
    const uint8_t *next; /* fetched meanwhile */
} columns;

/* Row r as numbers. */
INLINE void numbers_of(const columns *c, kvi_kv_code kind, uint32_t r, uint32_t n_v, vf *value)
{
    const uint32_t bits = c->ring_bits ? c->ring_bits : kvi_kv_code_bits(kind),
                   eights_end = (uint32_t)c->row_bytes * 8u / bits - (VW > 8u ? VW : 8u);
    const uint8_t *row = c->codes + r * c->row_bytes;
    __builtin_prefetch(c->next + r * c->row_bytes);
    vu word = {0};
    uint32_t j = 0;
    if (kind == KVI_KV_Q4 || kind == KVI_KV_Q2) word = repeat(row, c->words);
#ifdef RINGS_ALONE
    if (n_v == 4u) levels_of_64(value, row, (uint32_t)c->row_bytes, c->first, bits), j = n_v;
#endif
    for (; j < n_v; j++) {
        if (kind == KVI_KV_Q4 || kind == KVI_KV_Q2) value[j] = number(shift(word, c->counts[j], c->words == VW), bits);
        else if (kind == KVI_KV_Q3)
            value[j] = number(shift(words_at(row, 0, j * VW, 3, false), c->counts[0], false), 3);
        else if (kind == KVI_KV_F8) value[j] = half_bytes(row + j * VW);
        else if (kvi_kv_code_is_trellis(kind)) {
            const uint32_t at = (c->first + j * VW) / 8u * 8u;
            const vu states = words_at(row, (uint32_t)c->row_bytes, at, bits, at == eights_end);
            value[j] = level(shift(states, c->counts[0], false), kvi_kv_levels(bits));
        } else value[j] = bytes(row + j * VW) - splat(128.0f);
    }
}

/* out[i][j] = sum over rows of x[i][row] * (vector j of the row's codes), i < n_q, j < n_v; n_q is a constant as well. */
INLINE void mac(const columns *c, kvi_kv_code kind, uint32_t n_rows, uint32_t n_v, const float *x, size_t ldx,
                uint32_t n_q, float *out, size_t ldo)
{
    vf acc[QUERIES * 4];
    for (uint32_t i = 0; i < QUERIES * 4; i++) acc[i] = (vf){0};
    for (uint32_t r = 0; r < n_rows; r++) {
        vf value[4];
        numbers_of(c, kind, r, n_v, value);
        for (uint32_t i = 0; i < n_q; i++) {
            vf factor = splat(x[i * ldx + r]);
            for (uint32_t j = 0; j < n_v; j++) acc[i * 4 + j] = fma_vec(factor, value[j], acc[i * 4 + j]);
        }
    }
    for (uint32_t i = 0; i < n_q; i++)
        for (uint32_t j = 0; j < n_v; j++) store(out + i * ldo + j * VW, acc[i * 4 + j]);
}

/* The same of numbers, (n_rows, n_v) vectors; `more`: the sums go on where `out` is. */
INLINE void mac_numbers(const float *numbers, uint32_t n_rows, uint32_t n_v, const float *x, size_t ldx, uint32_t n_q,
                        bool more, float *out, size_t ldo)
{
    vf acc[QUERIES * 4];
    for (uint32_t i = 0; i < n_q; i++)
        for (uint32_t j = 0; j < n_v; j++) acc[i * 4 + j] = more ? load(out + i * ldo + j * VW) : (vf){0};
    for (uint32_t r = 0; r < n_rows; r++) {
        vf value[4];
        for (uint32_t j = 0; j < n_v; j++) value[j] = load(numbers + (r * n_v + j) * VW);
        for (uint32_t i = 0; i < n_q; i++) {
            vf factor = splat(x[i * ldx + r]);
            for (uint32_t j = 0; j < n_v; j++) acc[i * 4 + j] = fma_vec(factor, value[j], acc[i * 4 + j]);
        }
    }
    for (uint32_t i = 0; i < n_q; i++)
        for (uint32_t j = 0; j < n_v; j++) store(out + i * ldo + j * VW, acc[i * 4 + j]);
}

typedef struct product {
    const uint8_t *codes;
    size_t row_bytes;
    kvi_kv_code kind;
    uint32_t n_rows, n_cols, n_q;
    const float *x; /* (n_q, ldx) */
    float *out;     /* (n_q, ldo) in natural order */
    size_t ldx, ldo;
    float *numbers;      /* (TILE_ROWS, 4) vectors */
    const uint8_t *next; /* codes to fetch meanwhile */
} product;

#define EACH_SIZE(CASE)                                                                                                \
    CASE(4, 4)                                                                                                         \
    CASE(4, 3)                                                                                                         \
    CASE(4, 2) CASE(4, 1) CASE(2, 4) CASE(2, 3) CASE(2, 2) CASE(2, 1) CASE(1, 4) CASE(1, 3) CASE(1, 2) CASE(1, 1)

/* A tile of numbers, rows from `row` on, times all queries. */
static void multiply_tile(const product *p, uint32_t row, uint32_t n_rows, uint32_t n_v, float *out)
{
    for (uint32_t q = 0; q < p->n_q; q += QUERIES) {
        const uint32_t n_q = p->n_q - q < QUERIES ? p->n_q - q : QUERIES;
        const float *x = p->x + q * p->ldx + row;
        float *to = out + q * p->ldo;
#define CASE(v, n)                                                                                                     \
    if (n_v == (v) && n_q == (n)) mac_numbers(p->numbers, n_rows, v, x, p->ldx, n, row != 0, to, p->ldo);
        EACH_SIZE(CASE)
#undef CASE
    }
}

INLINE void block_of_many(const product *p, kvi_kv_code kind, const columns *c, uint32_t n_v, float *out)
{
    for (uint32_t row = 0; row < p->n_rows; row += TILE_ROWS) {
        const uint32_t n = p->n_rows - row < TILE_ROWS ? p->n_rows - row : TILE_ROWS;
        for (uint32_t r = 0; r < n; r++) {
            vf value[4];
            numbers_of(c, kind, row + r, n_v, value);
            for (uint32_t j = 0; j < n_v; j++) store(p->numbers + (r * n_v + j) * VW, value[j]);
        }
        multiply_tile(p, row, n, n_v, out);
    }
}

INLINE void block(const product *p, kvi_kv_code kind, const uint8_t *codes, uint32_t words, uint32_t first,
                  uint32_t ring_bits, const vu *counts, uint32_t n_v, bool many, float *out)
{
    const columns c = {codes, p->row_bytes, words, first, ring_bits, counts, p->next + (codes - p->codes)};
    if (many) {
        if (n_v == 4) block_of_many(p, kind, &c, 4, out);
        else if (n_v == 2) block_of_many(p, kind, &c, 2, out);
        else block_of_many(p, kind, &c, 1, out);
        return;
    }
#define CASE(v, q)                                                                                                     \
    if (n_v == (v) && p->n_q == (q)) mac(&c, kind, p->n_rows, v, p->x, p->ldx, q, out, p->ldo);
    EACH_SIZE(CASE)
#undef CASE
}

/* Vectors are VW neighbouring codes; `many` and `kind` are constants. */
INLINE void product_natural(const product *p, kvi_kv_code kind, uint32_t ring_bits, bool many)
{
    const uint32_t bits = ring_bits ? ring_bits : kvi_kv_code_bits(kind);
    const bool ring = kvi_kv_code_is_trellis(kind), halves = VW == 4u && (kind == KVI_KV_Q3 || ring);
    vu counts[4];
    for (uint32_t k = 0; k < VW; k++) counts[0][k] = (k % 8u) * bits;
    for (uint32_t c = 0; c < p->n_cols;) {
        const uint32_t left = (p->n_cols - c) / VW;
        /* Vectors of 4 codes may begin at half bytes: one by one, counted from the eight codes they belong to. */
        const uint32_t n_v = halves ? 1u : left >= 4 ? 4u : left >= 2 ? 2u : 1u;
        const uint32_t from = halves ? c / 8u * 8u : c;
        if (halves)
            for (uint32_t k = 0; k < VW; k++) counts[0][k] = (c - from + k) * bits;
        block(p, kind, p->codes + (ring ? 0u : from * bits / 8u), 0, c, ring_bits, counts, n_v, many, p->out + c);
        c += n_v * VW;
    }
}

#ifndef RINGS_ALONE
/* n vectors of one query, (j, word) order to natural order: `rounds` perfect shuffles of the n * VW values. */
INLINE void put_in_order(float *values, uint32_t n, uint32_t rounds)
{
    vf x[16], y[16];
    for (uint32_t j = 0; j < n; j++) x[j] = load(values + j * VW);
    for (uint32_t r = 0; r < rounds; r++) {
        for (uint32_t j = 0; j < n / 2; j++) zip(x[j], x[j + n / 2], &y[2 * j], &y[2 * j + 1]);
        for (uint32_t j = 0; j < n; j++) x[j] = y[j];
    }
    for (uint32_t j = 0; j < n; j++) store(values + j * VW, x[j]);
}

/* One vector: its first half is zipped with its second. */
static void put_one_in_order(float *values, uint32_t rounds)
{
    float copy[VB / 4];
    for (uint32_t r = 0; r < rounds; r++) {
        memcpy(copy, values, sizeof copy);
        for (uint32_t i = 0; i < VW; i++) values[i] = copy[i / 2 + i % 2 * (VW / 2)];
    }
}

/* 4- and 2-bit kinds, few queries: segments of a power of two of words, as many as fit a vector. */
INLINE void product_words(const product *p, kvi_kv_code kind)
{
    const uint32_t bits = kvi_kv_code_bits(kind), fields = 32u / bits, rounds = kind == KVI_KV_Q4 ? 3u : 4u;
    for (uint32_t c = 0; c < p->n_cols;) {
        uint32_t words = VW;
        while (words * fields > p->n_cols - c) words /= 2;
        const uint32_t copies = VW / words, n = words * fields / VW;
        for (uint32_t j = 0; j < n;) {
            const uint32_t n_v = n - j >= 4 ? 4u : n - j >= 2 ? 2u : 1u;
            vu counts[4];
            for (uint32_t k = 0; k < 4; k++)
                for (uint32_t lane = 0; lane < VW; lane++)
                    counts[k][lane] = ((j + k) * copies + lane / words) % fields * bits;
            block(p, kind, p->codes + c * bits / 8u, words, 0, 0, counts, n_v, false, p->out + c + j * VW);
            j += n_v;
        }
        for (uint32_t i = 0; i < p->n_q; i++) {
            float *values = p->out + i * p->ldo + c;
            if (n == 16) put_in_order(values, 16, rounds);
            else if (n == 8) put_in_order(values, 8, rounds);
            else if (n == 4) put_in_order(values, 4, rounds);
            else if (n == 2) put_in_order(values, 2, rounds);
            else put_one_in_order(values, rounds);
        }
        c += words * fields;
    }
}
#endif

static void few_rings(const product *p) { product_natural(p, KVI_KV_T3, kvi_kv_code_bits(p->kind), false); }
static void many_rings(const product *p) { product_natural(p, KVI_KV_T3, kvi_kv_code_bits(p->kind), true); }
#ifndef RINGS_ALONE
static void few_q4(const product *p) { product_words(p, KVI_KV_Q4); }
static void few_q2(const product *p) { product_words(p, KVI_KV_Q2); }
static void few_q3(const product *p) { product_natural(p, KVI_KV_Q3, 0, false); }
static void many_q3(const product *p) { product_natural(p, KVI_KV_Q3, 0, true); }
static void few_i8(const product *p) { product_natural(p, KVI_KV_I8, 0, false); }
static void few_f8(const product *p) { product_natural(p, KVI_KV_F8, 0, false); }
static void many_f8(const product *p) { product_natural(p, KVI_KV_F8, 0, true); }
#endif

/* Products of more than QUERIES queries: by a tile of numbers where making them costs more than storing and loading them. Of 4 bits, 2 bits and
 * bytes it does not: the multiplications hide it (64 dimensions, 32 queries, AVX-512: 0.96 to 1.02 of the time by fours, 16 queries 1.05). */
static void run(const product *p)
{
    typedef void (*way)(const product *);
    way few = few_rings, many = many_rings;
#ifndef RINGS_ALONE
    const kvi_kv_code kind = p->kind;
    if (kind == KVI_KV_Q4) few = few_q4, many = NULL;
    else if (kind == KVI_KV_Q2) few = few_q2, many = NULL;
    else if (kind == KVI_KV_I8) few = few_i8, many = NULL;
    else if (kind == KVI_KV_Q3) few = few_q3, many = many_q3;
    else if (kind == KVI_KV_F8) few = few_f8, many = many_f8;
#endif
    if (many && p->n_q > QUERIES) {
        many(p);
        return;
    }
    product part = *p;
    for (uint32_t q = 0; q < p->n_q; q += QUERIES, part.x += QUERIES * p->ldx, part.out += QUERIES * p->ldo) {
        part.n_q = p->n_q - q < QUERIES ? p->n_q - q : QUERIES;
        few(&part);
    }
}

INLINE vf load_half(const uint8_t *side, uint32_t off, uint32_t i);

/* x = in * A per row, zero = sum of in * Z, of up to QUERIES queries; A or Z absent: 1 and 0. `gain` multiplies A, `shift` is added to Z / A. */
static void fold(const uint8_t *side, bool has_a, uint32_t a_off, bool has_z, uint32_t z_off, uint32_t n, float gain,
                 float shift, const float *in, uint32_t n_in, uint32_t n_q, float *x, size_t ldx, float *zero)
{
    vf zeros[QUERIES];
    for (uint32_t q = 0; q < n_q; q++) zeros[q] = (vf){0};
    for (uint32_t i = 0; i < n; i += VW) {
        const vf a = has_a ? load_half(side, a_off, i) : splat(1.0f);
        const vf z = has_z ? fma_vec(splat(shift), a, load_half(side, z_off, i)) : (vf){0};
        for (uint32_t q = 0; q < n_q; q++) {
            const vf value = load(in + (size_t)q * n_in + i);
            store(x + q * ldx + i, value * a * splat(gain));
            zeros[q] = fma_vec(value, z, zeros[q]);
        }
    }
    for (uint32_t q = 0; q < n_q; q++) zero[q] = has_z ? total(zeros[q]) : 0.0f;
}

/* What the kernel takes from every code before it multiplies. */
static float taken(kvi_kv_code code)
{
    if (code == KVI_KV_I8) return 128.0f;
    if (kvi_kv_code_is_trellis(code)) return 0.0f;
    return code >= KVI_KV_Q4 ? (float)CENTRE * 0.5f * (float)((1u << kvi_kv_code_bits(code)) - 1u) : 0.0f;
}

/* Room of a product in the caller's scratch. */
static product room_of(float *scratch, kvi_kv_code kind, uint32_t n_rows, uint32_t n_cols)
{
    const size_t ldx = n_rows + LD_PAD, ldo = n_cols + LD_PAD;
    float *out = scratch + MANY * ldx;
    return (product){.kind = kind,
                     .n_rows = n_rows,
                     .n_cols = n_cols,
                     .x = scratch,
                     .out = out,
                     .ldx = ldx,
                     .ldo = ldo,
                     .numbers = out + MANY * ldo};
}

static void score(const uint8_t *side, kvi_kv_code code, uint32_t d, const float *q, uint32_t n_q, float *scores,
                  const uint8_t *next, float *scratch)
{
    const kvi_kv_side s = kvi_kv_k_side(code, d);
    const bool affine = code >= KVI_KV_Q4;           /* I8: the kernel takes 128 from the codes, so Z is spent */
    const bool apart = kvi_kv_code_is_trellis(code); /* no scale multiplies the mean */
    product p = room_of(scratch, code, d, KVI_KV_PAGE);
    float zero[MANY];
    p.codes = side + s.codes_off, p.row_bytes = s.codes_bytes / d, p.next = next;
    for (uint32_t first = 0; first < n_q; first += MANY) {
        p.n_q = n_q - first < MANY ? n_q - first : MANY;
        for (uint32_t i = 0; i < p.n_q; i += QUERIES)
            fold(side, affine, s.a_off, affine, s.z_off, d, code == KVI_KV_F8 ? 256.0f : 1.0f, taken(code),
                 q + (size_t)(first + i) * d, d, p.n_q - i < QUERIES ? p.n_q - i : QUERIES, scratch + i * p.ldx, p.ldx,
                 zero + i);
        run(&p);
        for (uint32_t t = 0; t < KVI_KV_PAGE; t += VW) {
            const vf o = load_half(side, s.o_off, t);
            for (uint32_t i = 0; i < p.n_q; i++) {
                const vf sum = load(p.out + i * p.ldo + t);
                store(scores + (size_t)(first + i) * KVI_KV_PAGE + t,
                      apart ? fma_vec(sum, o, splat(zero[i])) : (sum + splat(zero[i])) * o);
            }
        }
    }
}

static void blend(const uint8_t *side, kvi_kv_code code, uint32_t d, const float *p, uint32_t n_q, float *acc,
                  const uint8_t *next, float *scratch)
{
    const kvi_kv_side s = kvi_kv_v_side(code, d);
    const bool normal = kvi_kv_code_is_trellis(code);
    product job = room_of(scratch, code, KVI_KV_PAGE, d);
    float zero[MANY];
    job.codes = side + s.codes_off, job.row_bytes = s.codes_bytes / KVI_KV_PAGE, job.next = next;
    for (uint32_t first = 0; first < n_q; first += MANY) {
        const uint32_t n = n_q - first < MANY ? n_q - first : MANY;
        job.n_q = n;
        for (uint32_t i = 0; i < n; i += QUERIES)
            fold(side, true, s.a_off, code != KVI_KV_F8 && !normal, s.z_off, KVI_KV_PAGE,
                 code == KVI_KV_F8 ? 256.0f : 1.0f, taken(code), p + (size_t)(first + i) * KVI_KV_PAGE, KVI_KV_PAGE,
                 n - i < QUERIES ? n - i : QUERIES, scratch + i * job.ldx, job.ldx, zero + i);
        run(&job);
        for (uint32_t i = 0; i < n && normal; i++) { /* the mean, by the sum of p */
            vf sum = (vf){0};
            for (uint32_t t = 0; t < KVI_KV_PAGE; t += VW) sum += load(p + (size_t)(first + i) * KVI_KV_PAGE + t);
            const vf weight = splat(total(sum));
            for (uint32_t c = 0; c < d; c += VW) {
                float *to = acc + (size_t)(first + i) * d + c;
                store(to, fma_vec(weight, load_half(side, s.z_off, c), load(to)));
            }
        }
        for (uint32_t c = 0; c < d; c += VW) {
            const vf o = code >= KVI_KV_Q4 ? load_half(side, s.o_off, c) : splat(1.0f);
            for (uint32_t i = 0; i < n; i++) {
                float *to = acc + (size_t)(first + i) * d + c;
                store(to, fma_vec(load(job.out + i * job.ldo + c) + splat(zero[i]), o, load(to)));
            }
        }
    }
}

const kvi_cpu_packed TABLE = {.score = score, .blend = blend};
