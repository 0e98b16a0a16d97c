/* attention_packed_amx.c - packed attention on AMX byte tiles without loss: codes are bytes as they are, and a query with its scales folded in
 * is a fixed-point number of 24 bits relative to its largest element, three rows of signed bytes of the A operand. Products and sums are exact
 * in 32-bit integers; what is lost is 2^-23 of the largest element, as in f32. Five queries share a pass over the codes.
 *
 *   x = in * A = scale (65536 x2 + 256 x1 + x0),  sum of x code = scale (65536 C2 + 256 C1 + C0),  C_i = sum of x_i code
 *
 * A B tile holds four neighbouring k (rows of codes) in each 32-bit lane, 16 k by 16 columns. Four rows are interleaved byte by byte; a mask
 * and a shift then make one tile row per field of the byte: no table, no conversion. Columns come out as (lane, vector, word, field) and are
 * put in order once per page. Bound: 16 x 64 codes per `3 queries` cycles of the tile unit, and 20 vector operations per 512 codes. */
#include "attention_packed.h"

#if defined(__x86_64__)
#include "amx.h"

#include <immintrin.h>
#include <string.h>

#define GROUP 5u   /* queries of an A tile */
#define CHUNK 20u  /* queries that are prepared at once */
#define TILE 1024u /* bytes */
#define TILE_K 64u /* k of a tile */
#define MAX_STEPS (KVI_CPU_TILES_DIM / TILE_K)
#define MAX_TILES                                                                                                      \
    16u /* of 64 bytes of a row: 4 vectors of up to 4 fields; steps * tiles never exceed 32 (see expand) */

/* A product: `a` of the queries of a chunk times one side's codes. */
typedef struct job {
    const uint8_t *codes;
    const uint8_t *next, *next_end; /* what will be read after this side and is not fetched yet */
    uint32_t bits, row_bytes, n_rows, n_steps, n_queries, n_groups;
    int8_t *a;  /* (n_groups, n_steps) tiles */
    uint8_t *b; /* (n_steps, tiles of a piece) tiles */
    float scale[CHUNK], zero[CHUNK];
    float (*out)[KVI_CPU_TILES_DIM]; /* (CHUNK, columns) in natural order */
} job;

/* A piece of every row: `bytes` of 64, 32 or 16; `left` of them (at most) are codes. */
typedef struct piece {
    uint32_t at, bytes, left, n_vectors, n_tiles;
} piece;

/* Fetches some lines of the next side. A core has about 16 outstanding misses, so they are spread over all of the work: in one burst
 * they would stall the loads of this side. Into L2: the tiles fill L1. (At 4,096 positions k4v4 takes 6.4 ms of one core so, 6.7 with L1 as
 * the goal, 7.9 with every second line, 9.4 without; i8 8.7, 9.5, 10.5, 11.7.) */
static inline void fetch(job *w, uint32_t lines)
{
    for (uint32_t i = 0; i < lines && w->next < w->next_end; i++, w->next += 64)
        _mm_prefetch((const char *)w->next, _MM_HINT_T1);
}

/* ---------------------------------------------------------------------------------------------------- the queries --- */
static __m512 half_at(const uint8_t *side, uint32_t off, uint32_t i)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(side + off + 2u * i)));
}

/* Where k of a group of four neighbours stands in its tile: put_query leaves them transposed, 4 vectors by 4 lanes. */
static uint32_t row_of(uint32_t k) { return k / 4u % 4u * 4u + k / 16u % 4u; }

/* x (n_steps * 64) to rows 3 q, 3 q + 1, 3 q + 2 of its group's tiles: the bytes of a number are signed digits once 128 is added to each,
 * with carries, and taken again without. */
static void put_query(job *w, uint32_t query, const float *x, float largest)
{
    int8_t *tile = w->a + (size_t)(query / GROUP) * w->n_steps * TILE + query % GROUP * 3u * TILE_K;
    const float scale = largest > 0x1p-100f ? largest * 0x1p-22f : 0x1p-122f; /* a query this small counts as zero */
    const __m512 inverse = _mm512_set1_ps(1.0f / scale);
    const __m512i bias = _mm512_set1_epi32(0x808080);
    const __m512i by_digit =
        _mm512_broadcast_i32x4(_mm_setr_epi8(2, 6, 10, 14, 1, 5, 9, 13, 0, 4, 8, 12, 3, 7, 11, 15));
    for (uint32_t step = 0; step < w->n_steps; step++, tile += TILE, x += TILE_K) {
        __m512i v[4];
        for (uint32_t i = 0; i < 4; i++) {
            const __m512i value = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 16 * i), inverse));
            v[i] = _mm512_shuffle_epi8(_mm512_xor_si512(_mm512_add_epi32(value, bias), bias), by_digit);
        }
        const __m512i a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpacklo_epi32(v[2], v[3]);
        const __m512i c = _mm512_unpackhi_epi32(v[0], v[1]), d = _mm512_unpackhi_epi32(v[2], v[3]);
        _mm512_store_si512(tile, _mm512_unpacklo_epi64(a, b));
        _mm512_store_si512(tile + TILE_K, _mm512_unpackhi_epi64(a, b));
        _mm512_store_si512(tile + 2 * TILE_K, _mm512_unpacklo_epi64(c, d));
    }
    w->scale[query] = scale;
}

/* The queries of a chunk, A folded in; zero = in . (Z + middle A). A or Z absent: 1 and 0. */
static void fold(job *w, const uint8_t *side, bool has_a, uint32_t a_off, bool has_z, uint32_t z_off, float middle,
                 const float *in, uint32_t n_in)
{
    float a[KVI_CPU_TILES_DIM], z[KVI_CPU_TILES_DIM], x[KVI_CPU_TILES_DIM];
    for (uint32_t k = 0; k < w->n_rows; k += 16) {
        const __m512 gain = has_a ? half_at(side, a_off, k) : _mm512_set1_ps(1.0f);
        _mm512_storeu_ps(a + k, gain);
        _mm512_storeu_ps(z + k, has_z ? _mm512_fmadd_ps(_mm512_set1_ps(middle), gain, half_at(side, z_off, k))
                                      : _mm512_setzero_ps());
    }
    for (uint32_t k = w->n_rows; k < w->n_steps * TILE_K; k++) x[k] = 0;
    for (uint32_t i = 0; i < w->n_queries; i++) {
        __m512 sum = _mm512_setzero_ps(), largest = sum;
        for (uint32_t k = 0; k < w->n_rows; k += 16) {
            const __m512 q = _mm512_loadu_ps(in + (size_t)i * n_in + k),
                         value = _mm512_mul_ps(q, _mm512_loadu_ps(a + k));
            sum = _mm512_fmadd_ps(q, _mm512_loadu_ps(z + k), sum);
            largest = _mm512_max_ps(largest, _mm512_abs_ps(value));
            _mm512_storeu_ps(x + k, value);
        }
        w->zero[i] = _mm512_reduce_add_ps(sum);
        put_query(w, i, x, _mm512_reduce_max_ps(largest));
        fetch(w, 4);
    }
}

/* ------------------------------------------------------------------------------------------------------ the codes --- */
/* A piece of one row, spread over the four lanes so that unpacking interleaves it completely: 16, 8 or 4 bytes a lane. */
static inline __attribute__((always_inline)) __m512i load_piece(const uint8_t *row, uint32_t bytes, __mmask64 take)
{
    if (bytes == 64) return take == ~(__mmask64)0 ? _mm512_loadu_si512(row) : _mm512_maskz_loadu_epi8(take, row);
    const __m512i part = take == 0xffffffffu
                             ? _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)row))
                             : _mm512_maskz_loadu_epi8(take, row);
    if (bytes == 32) return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3), part);
    return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3), part);
}

/* The tiles of a piece for all k: tile h * fields + f, row of k, word (lane L, w) = field f of byte (bytes / 4) L + 4 h + w of four rows. Bytes
 * that are whole codes become signed. Rows past n_rows stay as they are: the A operand is zero there. */
static inline __attribute__((always_inline)) void expand_bits(job *w, const piece *p, uint32_t bits, uint32_t bytes,
                                                              __mmask64 take)
{
    const uint32_t fields = 8u / bits, n_vectors = bytes / 16u;
    const __m512i mask = _mm512_set1_epi8((char)((1u << bits) - 1u)), sign = _mm512_set1_epi8((char)0x80);
    for (uint32_t k = 0; k < w->n_rows; k += 4) {
        const uint8_t *row = w->codes + (size_t)k * w->row_bytes + p->at;
        uint8_t *to = w->b + (size_t)(k / TILE_K) * (n_vectors * fields) * TILE + row_of(k) * 64u;
        fetch(w, bytes == 64 ? 2 : 1);
        const __m512i r0 = load_piece(row, bytes, take), r1 = load_piece(row + w->row_bytes, bytes, take);
        const __m512i r2 = load_piece(row + 2 * w->row_bytes, bytes, take),
                      r3 = load_piece(row + 3 * w->row_bytes, bytes, take);
        const __m512i a = _mm512_unpacklo_epi8(r0, r1), b = _mm512_unpacklo_epi8(r2, r3);
        const __m512i c = _mm512_unpackhi_epi8(r0, r1), d = _mm512_unpackhi_epi8(r2, r3);
        const __m512i v[4] = {_mm512_unpacklo_epi16(a, b), _mm512_unpackhi_epi16(a, b), _mm512_unpacklo_epi16(c, d),
                              _mm512_unpackhi_epi16(c, d)};
        for (uint32_t h = 0; h < n_vectors; h++)
            for (uint32_t f = 0; f < fields; f++) {
                const __m512i code = f ? _mm512_srlv_epi16(v[h], _mm512_set1_epi16((short)(f * bits))) : v[h];
                _mm512_store_si512(to + (h * fields + f) * TILE,
                                   bits == 8 ? _mm512_xor_si512(code, sign) : _mm512_and_si512(code, mask));
            }
    }
}
static inline __attribute__((always_inline)) void expand_size(job *w, const piece *p, uint32_t bits)
{
    if (p->left == 64) expand_bits(w, p, bits, 64, ~(__mmask64)0);
    else if (p->left == 32) expand_bits(w, p, bits, 32, 0xffffffffu);
    else expand_bits(w, p, bits, p->bytes, ((__mmask64)1 << p->left) - 1u);
}
static void expand(job *w, const piece *p)
{
    if (w->bits == 4) expand_size(w, p, 4);
    else if (w->bits == 2) expand_size(w, p, 2);
    else expand_size(w, p, 8);
}

/* --------------------------------------------------------------------------------------------------- the products --- */
/* Four tiles of a piece against a group; out (4, rows, 16). Fewer than four tiles: the last one is computed again. */
static inline __attribute__((always_inline)) void multiply_kind(const job *w, const piece *p, uint32_t group,
                                                                uint32_t first, bool is_signed, int32_t out[4][16][16])
{
    const int8_t *a = w->a + (size_t)group * w->n_steps * TILE;
    const size_t last = p->n_tiles - 1, step = (size_t)p->n_tiles * TILE;
    const uint8_t *b0 = w->b + first * TILE, *b1 = w->b + (first + 1 > last ? last : first + 1) * TILE;
    const uint8_t *b2 = w->b + (first + 2 > last ? last : first + 2) * TILE,
                  *b3 = w->b + (first + 3 > last ? last : first + 3) * TILE;
    KVI_AMX_ZERO(0);
    KVI_AMX_ZERO(1);
    KVI_AMX_ZERO(2);
    KVI_AMX_ZERO(3);
    for (uint32_t k = 0; k < w->n_steps; k++, a += TILE, b0 += step, b1 += step, b2 += step, b3 += step) {
        KVI_AMX_LOAD(4, a, TILE_K);
        KVI_AMX_LOAD(5, b0, 64);
        KVI_AMX_LOAD(6, b1, 64);
        if (is_signed) KVI_AMX_DP_S8S8(0, 4, 5);
        else KVI_AMX_DP_S8U8(0, 4, 5);
        KVI_AMX_LOAD(7, b2, 64);
        if (is_signed) KVI_AMX_DP_S8S8(1, 4, 6);
        else KVI_AMX_DP_S8U8(1, 4, 6);
        KVI_AMX_LOAD(5, b3, 64);
        if (is_signed) KVI_AMX_DP_S8S8(2, 4, 7);
        else KVI_AMX_DP_S8U8(2, 4, 7);
        if (is_signed) KVI_AMX_DP_S8S8(3, 4, 5);
        else KVI_AMX_DP_S8U8(3, 4, 5);
    }
    KVI_AMX_STORE(0, out[0], 64);
    KVI_AMX_STORE(1, out[1], 64);
    KVI_AMX_STORE(2, out[2], 64);
    KVI_AMX_STORE(3, out[3], 64);
}

static void multiply(const job *w, const piece *p, uint32_t group, uint32_t first, int32_t out[4][16][16])
{
    if (w->bits == 8) multiply_kind(w, p, group, first, true, out);
    else multiply_kind(w, p, group, first, false, out);
}

/* Sixteen columns of one query: scale (256 (256 C2 + C1) + C0) + zero. */
static inline __m512 join(const int32_t rows[3][16], __m512 scale, __m512 zero)
{
    const __m512i c2 = _mm512_load_si512(rows[0]), c1 = _mm512_load_si512(rows[1]), c0 = _mm512_load_si512(rows[2]);
    const __m512 high = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(c2, 8), c1));
    return _mm512_fmadd_ps(_mm512_fmadd_ps(high, _mm512_set1_ps(256.0f), _mm512_cvtepi32_ps(c0)), scale, zero);
}

/* v[h * fields + f] (lane L, word w) to pieces of four neighbouring columns: afterwards v[i], lane L, holds columns 4 i .. 4 i + 3 of run L. */
static inline void gather_fields(__m512 *v, uint32_t n_vectors, uint32_t fields)
{
    for (uint32_t h = 0; h < n_vectors && fields > 1; h++) {
        __m512 *x = v + h * fields;
        if (fields == 2) {
            const __m512 low = _mm512_unpacklo_ps(x[0], x[1]);
            x[1] = _mm512_unpackhi_ps(x[0], x[1]);
            x[0] = low;
            continue;
        }
        const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(x[0], x[1])),
                      b = _mm512_castps_pd(_mm512_unpacklo_ps(x[2], x[3]));
        const __m512d c = _mm512_castps_pd(_mm512_unpackhi_ps(x[0], x[1])),
                      d = _mm512_castps_pd(_mm512_unpackhi_ps(x[2], x[3]));
        x[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
        x[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        x[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(c, d));
        x[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(c, d));
    }
}

/* Runs of n * 4 columns, one per lane, to out. */
static inline void put_runs(const __m512 *v, uint32_t n, float *out)
{
    if (n == 1) {
        _mm512_storeu_ps(out, v[0]);
        return;
    }
    if (n == 2) {
        const __m512 a = _mm512_shuffle_f32x4(v[0], v[1], 0x44),
                     b = _mm512_shuffle_f32x4(v[0], v[1], 0xee); /* v0.0 v0.1 v1.0 v1.1 */
        _mm512_storeu_ps(out, _mm512_shuffle_f32x4(a, a, 0xd8));
        _mm512_storeu_ps(out + 16, _mm512_shuffle_f32x4(b, b, 0xd8));
        return;
    }
    for (uint32_t i = 0; i < n; i += 4) {
        const __m512 a = _mm512_shuffle_f32x4(v[i], v[i + 1], 0x44), b = _mm512_shuffle_f32x4(v[i + 2], v[i + 3], 0x44);
        const __m512 c = _mm512_shuffle_f32x4(v[i], v[i + 1], 0xee), d = _mm512_shuffle_f32x4(v[i + 2], v[i + 3], 0xee);
        _mm512_storeu_ps(out + 4 * i, _mm512_shuffle_f32x4(a, b, 0x88));
        _mm512_storeu_ps(out + 4 * (n + i), _mm512_shuffle_f32x4(a, b, 0xdd));
        _mm512_storeu_ps(out + 4 * (2 * n + i), _mm512_shuffle_f32x4(c, d, 0x88));
        _mm512_storeu_ps(out + 4 * (3 * n + i), _mm512_shuffle_f32x4(c, d, 0xdd));
    }
}

static inline __attribute__((always_inline)) void product_fields(job *w, const piece *p, uint32_t n_vectors,
                                                                 uint32_t fields)
{
    const uint32_t first_col = p->at * fields, n_cols = p->left * fields, n_tiles = n_vectors * fields;
    int32_t tiles[MAX_TILES / 4][4][16][16] __attribute__((aligned(64)));
    float row[KVI_CPU_TILES_DIM];
    for (uint32_t g = 0; g < w->n_groups; g++) {
        for (uint32_t t = 0; t < n_tiles; t += 4) multiply(w, p, g, t, tiles[t / 4]);
        for (uint32_t i = 0; i < GROUP && g * GROUP + i < w->n_queries; i++) {
            const uint32_t q = g * GROUP + i;
            const __m512 scale = _mm512_set1_ps(w->scale[q]), zero = _mm512_set1_ps(w->zero[q]);
            __m512 v[MAX_TILES];
            fetch(w, 4);
            for (uint32_t t = 0; t < n_tiles; t++)
                v[t] = join((const int32_t(*)[16])tiles[t / 4][t % 4][3 * i], scale, zero);
            gather_fields(v, n_vectors, fields);
            const bool whole = n_cols == n_tiles * 16u;
            put_runs(v, n_tiles, whole ? w->out[q] + first_col : row);
            if (!whole) memcpy(w->out[q] + first_col, row, n_cols * sizeof(float));
        }
    }
}
static void product(job *w, const piece *p)
{
    const uint32_t fields = 8u / w->bits;
#define CASE(v, f)                                                                                                     \
    if (p->n_vectors == (v) && fields == (f)) product_fields(w, p, v, f)
    CASE(4, 2);
    CASE(2, 2);
    CASE(1, 2);
    CASE(4, 4);
    CASE(2, 4);
    CASE(1, 4);
    CASE(4, 1);
    CASE(2, 1);
    CASE(1, 1);
#undef CASE
}

static void run(job *w)
{
    for (uint32_t at = 0; at < w->row_bytes;) {
        const uint32_t rest = w->row_bytes - at;
        piece p = {.at = at, .bytes = rest > 32 ? 64u : rest > 16 ? 32u : 16u};
        p.left = rest < p.bytes ? rest : p.bytes;
        p.n_vectors = p.bytes / 16u;
        p.n_tiles = p.n_vectors * 8u / w->bits;
        expand(w, &p);
        product(w, &p);
        at += p.left;
    }
}

/* Tiles 0-4 have as many rows as there are parts of queries: a product takes as many cycles. */
static void begin(uint32_t n_queries)
{
    kvi_amx_config config;
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (uint32_t t = 0; t < 8; t++) {
        config.colsb[t] = 64;
        config.rows[t] = (uint8_t)(t < 5 ? 3u * (n_queries < GROUP ? n_queries : GROUP) : 16u);
    }
    kvi_amx_configure(&config);
}
static void end(void) { kvi_amx_release(); }

static job job_of(const kvi_kv_side *s, const uint8_t *side, uint32_t bits, uint32_t n_rows, const uint8_t *next)
{
    return (job){.codes = side + s->codes_off,
                 .next = next,
                 .next_end = next + s->bytes,
                 .bits = bits,
                 .row_bytes = s->codes_bytes / n_rows,
                 .n_rows = n_rows,
                 .n_steps = (n_rows + TILE_K - 1u) / TILE_K};
}
/* As many of the queries left as one pass takes. */
static void take_queries(job *w, uint32_t left)
{
    w->n_queries = left < CHUNK ? left : CHUNK;
    w->n_groups = (w->n_queries + GROUP - 1u) / GROUP;
}

/* Tiles of the queries, of the codes, and the products. */
#define A_BYTES (CHUNK / GROUP * MAX_STEPS * TILE)
#define B_BYTES (32u * TILE)
#define OUT_BYTES (CHUNK * KVI_CPU_TILES_DIM * (uint32_t)sizeof(float))
_Static_assert(A_BYTES + B_BYTES + OUT_BYTES <= KVI_CPU_PACKED_SCRATCH * sizeof(float), "the scratch is too small");
static void take_scratch(job *w, float *scratch)
{
    uint8_t *at = (uint8_t *)(void *)scratch;
    w->a = (int8_t *)at;
    w->b = at + A_BYTES;
    w->out = (float(*)[KVI_CPU_TILES_DIM])(void *)(at + A_BYTES + B_BYTES);
}

static void score(const uint8_t *side, kvi_kv_code code, uint32_t d, const float *q, uint32_t n_q, float *scores,
                  const uint8_t *next, float *scratch)
{
    const kvi_kv_side s = kvi_kv_k_side(code, d);
    const bool affine = code != KVI_KV_I8; /* I8: A = 1 and Z = -128, which makes the bytes signed */
    job w = job_of(&s, side, kvi_kv_code_bits(code), d, next);
    take_scratch(&w, scratch);
    for (uint32_t first = 0; first < n_q; first += CHUNK) {
        take_queries(&w, n_q - first);
        fold(&w, side, affine, s.a_off, affine, s.z_off, 0.0f, q + (size_t)first * d, d);
        run(&w);
        fetch(&w, 256);
        for (uint32_t t = 0; t < KVI_KV_PAGE; t += 16) {
            const __m512 o = half_at(side, s.o_off, t);
            for (uint32_t i = 0; i < w.n_queries; i++)
                _mm512_storeu_ps(scores + (size_t)(first + i) * KVI_KV_PAGE + t,
                                 _mm512_mul_ps(_mm512_loadu_ps(w.out[i] + t), o));
        }
    }
}

static void blend(const uint8_t *side, kvi_kv_code code, uint32_t d, const float *p, uint32_t n_q, float *acc,
                  const uint8_t *next, float *scratch)
{
    const kvi_kv_side s = kvi_kv_v_side(code, d);
    job w = job_of(&s, side, kvi_kv_code_bits(code), KVI_KV_PAGE, next);
    take_scratch(&w, scratch);
    for (uint32_t first = 0; first < n_q; first += CHUNK) {
        take_queries(&w, n_q - first);
        fold(&w, side, true, s.a_off, true, s.z_off, code == KVI_KV_I8 ? 128.0f : 0.0f, p + (size_t)first * KVI_KV_PAGE,
             KVI_KV_PAGE);
        run(&w);
        fetch(&w, 256);
        for (uint32_t c = 0; c < d; c += 16) {
            const __m512 o = code == KVI_KV_I8 ? _mm512_set1_ps(1.0f) : half_at(side, s.o_off, c);
            for (uint32_t i = 0; i < w.n_queries; i++) {
                float *to = acc + (size_t)(first + i) * d + c;
                _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_loadu_ps(w.out[i] + c), o, _mm512_loadu_ps(to)));
            }
        }
    }
}

const kvi_cpu_packed kvi_cpu_packed_amx = {.score = score, .blend = blend, .begin = begin, .end = end};
#else
typedef int kvi_packed_amx_absent;
#endif
