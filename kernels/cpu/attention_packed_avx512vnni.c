/* attention_packed_avx512vnni.c - codes of 4 and 2 bits times numbers of 16 bits (vpdpwssd): twice the products of f32 in an instruction, and sums
 * that are exact whatever their order.
 *
 *   x = in * A = unit * whole, unit = largest |x| / 32767         (of a query's rows of one page: D of K, 128 of V)
 *   sum of x code = unit * (sum of whole (code - middle)) + middle * (sum of x)
 *
 * What is lost is the rounding of `whole`, half a unit at most: 3e-5 of a row of attention (relative L2; up to 2.5e-4 where one weight is most of
 * a page's sum; f32 2e-6), where rounding keys and values to such codes has cost some 5e-2. Codes become numbers once for up to 32 queries, two
 * rows to a lane, as the instruction wants them. A page of k4v4 and 64 dimensions, K and V, Zen 4: 32 queries 6.8 us (f32 12.5), 4 queries 1.26
 * (1.53), one 0.69 (0.70). */
#if defined(__x86_64__)
#include "attention_packed.h"

#define VB 64
#include "../../runtime/base/simd.h"

#include <immintrin.h>

#define QUERIES 4u  /* whose sums are in registers, for four vectors of columns */
#define MANY 32u    /* that codes are expanded for */
#define LANES 16u   /* columns of a vector */
#define SEGMENT 64u /* columns that are expanded at once */
#define LD_PAD 32u  /* between rows of x, so that they do not meet in the same sets of the cache */
_Static_assert(MANY *(KVI_CPU_FIXED_DIM + LD_PAD) + KVI_CPU_FIXED_DIM * SEGMENT <= 2u * KVI_CPU_PACKED_SCRATCH,
               "x and a segment, 2 bytes each");
_Static_assert(KVI_CPU_FIXED_DIM >= KVI_KV_PAGE && 32768ll * 8 * KVI_CPU_FIXED_DIM < INT32_MAX, "sums");

typedef struct product {
    const uint8_t *codes, *next; /* next: fetched meanwhile */
    const uint8_t *a, *z, *o;    /* F16: (n_rows), (n_rows), (n_cols) */
    uint32_t bits, row_bytes, n_rows, n_cols;
    int16_t *x;     /* (MANY, ldx) */
    int16_t *pairs; /* (n_rows / 2, vectors, LANES, 2): code - middle of a segment */
    size_t ldx;
    float unit[MANY], zero[MANY];
    float *out; /* (queries, n_cols): set, or added to */
    bool adds;
} product;

INLINE __m512 half_at(const uint8_t *halves, uint32_t i)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(halves + 2u * i)));
}
static int32_t middle_of(const product *p) { return 1 << (p->bits - 1u); }

/* x, unit and zero of n queries at `in` (n, n_rows). Sizes are compared as their bits, which order them, with infinity and NaN above all numbers:
 * either makes the unit NaN. */
static void fold(product *p, const float *in, uint32_t n)
{
    float gain[KVI_CPU_FIXED_DIM], mean[KVI_CPU_FIXED_DIM], x[KVI_CPU_FIXED_DIM];
    for (uint32_t i = 0; i < p->n_rows; i += LANES) {
        const __m512 a = half_at(p->a, i);
        _mm512_storeu_ps(gain + i, a);
        _mm512_storeu_ps(mean + i, _mm512_fmadd_ps(_mm512_set1_ps((float)middle_of(p)), a, half_at(p->z, i)));
    }
    for (uint32_t q = 0; q < n; q++, in += p->n_rows) {
        __m512 sum = _mm512_setzero_ps();
        __m512i most = _mm512_setzero_si512();
        for (uint32_t i = 0; i < p->n_rows; i += LANES) {
            const __m512 value = _mm512_loadu_ps(in + i), scaled = _mm512_mul_ps(value, _mm512_loadu_ps(gain + i));
            sum = _mm512_fmadd_ps(value, _mm512_loadu_ps(mean + i), sum);
            most = _mm512_max_epi32(most, _mm512_castps_si512(_mm512_abs_ps(scaled)));
            _mm512_storeu_ps(x + i, scaled);
        }
        const int32_t bits = _mm512_reduce_max_epi32(most);
        float top;
        memcpy(&top, &bits, sizeof top);
        const bool counts = top >= 1e-30f; /* what is smaller counts as zero */
        p->zero[q] = _mm512_reduce_add_ps(sum);
        p->unit[q] = top - top != 0.0f ? top - top : counts ? top / 32767.0f : 0.0f;
        const __m512 inverse = _mm512_set1_ps(counts ? 32767.0f / top : 0.0f);
        for (uint32_t i = 0; i < p->n_rows; i += LANES) {
            const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), inverse));
            _mm256_storeu_si256((__m256i *)(void *)(p->x + q * p->ldx + i), _mm512_cvtsepi32_epi16(whole));
        }
    }
}

/* Codes of n_v vectors of columns from `column` on to `pairs`. A word of 16 bits has 16 / bits codes; those of the second row stand in the upper half
 * of `both`. */
INLINE void expand(const product *p, uint32_t column, uint32_t n_v)
{
    const uint32_t bits = p->bits, bytes = n_v * LANES * bits / 8u;
    const __mmask32 have = bytes < 32u ? (1u << bytes) - 1u : UINT32_MAX;
    uint16_t index[32], shift[32];
    for (uint32_t e = 0; e < 32u; e++)
        index[e] = (uint16_t)(e / 2u * bits / 16u + e % 2u * 16u), shift[e] = (uint16_t)(e / 2u * bits % 16u);
    const __m512i shifts = _mm512_loadu_si512(shift), mask = _mm512_set1_epi16((int16_t)((1 << bits) - 1)),
                  middle = _mm512_set1_epi16((int16_t)middle_of(p));
    const size_t at = column * bits / 8u;
    int16_t *to = p->pairs;
    for (uint32_t row = 0; row < p->n_rows; row += 2u) {
        const size_t first = row * p->row_bytes + at, second = first + p->row_bytes;
        const __m256i low = _mm256_maskz_loadu_epi8(have, p->codes + first),
                      high = _mm256_maskz_loadu_epi8(have, p->codes + second);
        const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
        _mm_prefetch((const char *)p->next + first, _MM_HINT_T0);
        _mm_prefetch((const char *)p->next + second, _MM_HINT_T0);
        for (uint32_t v = 0; v < n_v; v++, to += 2u * LANES) {
            const __m512i places = _mm512_add_epi16(_mm512_loadu_si512(index), _mm512_set1_epi16((int16_t)(v * bits))),
                          word = _mm512_permutexvar_epi16(places, both),
                          code = _mm512_and_si512(_mm512_srlv_epi16(word, shifts), mask);
            _mm512_store_si512(to, _mm512_sub_epi16(code, middle));
        }
    }
}

/* n_q queries from q on; n_q and n_v are constants. */
INLINE void multiply(const product *p, uint32_t q, uint32_t n_q, uint32_t column, uint32_t n_v)
{
    vi sums[QUERIES][4]; /* as 32-bit lanes, or GCC copies each of them in every round */
    for (uint32_t i = 0; i < n_q; i++)
        for (uint32_t v = 0; v < n_v; v++) sums[i][v] = (vi){0};
    const int16_t *pairs = p->pairs, *x = p->x + q * p->ldx;
    for (uint32_t row = 0; row < p->n_rows; row += 2u, pairs += n_v * 2u * LANES) {
        __m512i code[4];
        for (uint32_t v = 0; v < n_v; v++) code[v] = _mm512_load_si512(pairs + v * 2u * LANES);
        for (uint32_t i = 0; i < n_q; i++) {
            int32_t two;
            memcpy(&two, x + i * p->ldx + row, sizeof two);
            for (uint32_t v = 0; v < n_v; v++)
                sums[i][v] = (vi)_mm512_dpwssd_epi32((__m512i)sums[i][v], code[v], _mm512_set1_epi32(two));
        }
    }
    for (uint32_t v = 0; v < n_v; v++) {
        const uint32_t c = column + v * LANES;
        const __m512 o = half_at(p->o, c);
        for (uint32_t i = 0; i < n_q; i++) {
            const __m512 value = _mm512_fmadd_ps(_mm512_cvtepi32_ps((__m512i)sums[i][v]),
                                                 _mm512_set1_ps(p->unit[q + i]), _mm512_set1_ps(p->zero[q + i]));
            float *to = p->out + (size_t)(q + i) * p->n_cols + c;
            _mm512_storeu_ps(to, p->adds ? _mm512_fmadd_ps(value, o, _mm512_loadu_ps(to)) : _mm512_mul_ps(value, o));
        }
    }
}

INLINE void segment(const product *p, uint32_t n, uint32_t column, uint32_t n_v)
{
    expand(p, column, n_v);
    for (uint32_t q = 0; q < n; q += QUERIES) {
        if (n - q >= 4u) multiply(p, q, 4, column, n_v);
        else if (n - q == 3u) multiply(p, q, 3, column, n_v);
        else if (n - q == 2u) multiply(p, q, 2, column, n_v);
        else multiply(p, q, 1, column, n_v);
    }
}

static void run(product *p, const float *in, uint32_t n_q, void *scratch)
{
    p->ldx = p->n_rows + LD_PAD;
    p->pairs = scratch;
    p->x = p->pairs + KVI_CPU_FIXED_DIM * SEGMENT;
    for (uint32_t first = 0; first < n_q; first += MANY, in += MANY * p->n_rows, p->out += MANY * p->n_cols) {
        const uint32_t n = n_q - first < MANY ? n_q - first : MANY;
        uint32_t column = 0;
        fold(p, in, n);
        for (; column + SEGMENT <= p->n_cols; column += SEGMENT) segment(p, n, column, SEGMENT / LANES);
        for (; column < p->n_cols; column += LANES) segment(p, n, column, 1);
    }
}

static product product_of(const uint8_t *side, const kvi_kv_side *s, kvi_kv_code code, const uint8_t *next)
{
    return (product){.codes = side + s->codes_off,
                     .next = next,
                     .a = side + s->a_off,
                     .z = side + s->z_off,
                     .o = side + s->o_off,
                     .bits = kvi_kv_code_bits(code)};
}

static void score(const uint8_t *side, kvi_kv_code code, uint32_t d, const float *q, uint32_t n_q, float *scores,
                  const uint8_t *next, float *scratch)
{
    const kvi_kv_side s = kvi_kv_k_side(code, d);
    product p = product_of(side, &s, code, next);
    p.n_rows = d, p.n_cols = KVI_KV_PAGE, p.row_bytes = s.codes_bytes / d;
    p.out = scores;
    run(&p, q, n_q, scratch);
}

static void blend(const uint8_t *side, kvi_kv_code code, uint32_t d, const float *weights, uint32_t n_q, float *acc,
                  const uint8_t *next, float *scratch)
{
    const kvi_kv_side s = kvi_kv_v_side(code, d);
    product p = product_of(side, &s, code, next);
    p.n_rows = KVI_KV_PAGE, p.n_cols = d, p.row_bytes = s.codes_bytes / KVI_KV_PAGE;
    p.out = acc, p.adds = true;
    run(&p, weights, n_q, scratch);
}

const kvi_cpu_packed kvi_cpu_packed_avx512vnni = {.score = score, .blend = blend};
#else
typedef int kvi_packed_avx512vnni_absent;
#endif
