/* attention_prefill_amx.c - see attention_prefill_amx.h.
 * scores = Q K^T and acc += P V, both with 32 queries as the A operand and four accumulator tiles. The 32 x 128 scores go through memory once
 * (16 KiB, in L1), where the softmax finds them by rows. Per query and page of 64 dimensions the tiles take 32 cycles and the
 * softmax about 80, so the exponential is what matters: base 2, degree 4 (relative error 3e-6, BF16 keeps 2e-3), no branches. */
#include "attention_prefill_amx.h"

#if defined(__x86_64__)
#include "amx.h"
#include "variants.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

#define TILE 1024u
#define POSITIONS 128u

void kvi_amx_prefill_begin(void)
{
    kvi_amx_config config;
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int t = 0; t < 8; t++) config.colsb[t] = 64, config.rows[t] = 16;
    kvi_amx_configure(&config);
}

void kvi_amx_prefill_end(void) { kvi_amx_release(); }

/* ------------------------------------------------------------------------------------------------------- operands --- */
/* Rounded to nearest, ties away from zero; the upper halves of the result are the BF16 numbers. NaN may turn into something else. */
static inline __m512i round_up(__m512 x) { return _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000)); }
/* The same, and NaN stays NaN. */
static inline __m512i round_safe(__m512 x)
{
    return _mm512_mask_mov_epi32(round_up(x), _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc00000));
}
/* The upper halves of 32 words, in order. */
static inline __m512i join(__m512i first, __m512i second)
{
    const __m512i upper = _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27,
                                           25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    return _mm512_permutex2var_epi16(first, upper, second);
}

void kvi_amx_prefill_query(const float *x, float factor, uint32_t d, uint16_t *out)
{
    const __m512 f = _mm512_set1_ps(factor);
    for (uint32_t i = 0; i < kvi_amx_padded(d); i += 32) {
        const __m512 a = _mm512_mul_ps(_mm512_loadu_ps(x + i), f);
        const __m512 b = i + 16 < d ? _mm512_mul_ps(_mm512_loadu_ps(x + i + 16), f) : _mm512_setzero_ps();
        _mm512_storeu_si512(out + i, join(round_safe(a), round_safe(b)));
    }
}

void kvi_amx_prefill_pack(const float *x, size_t stride, uint32_t n_valid, uint32_t n_k, void *tiles)
{
    const __m512i high = _mm512_set1_epi32((int)0xffff0000u);
    uint8_t *to = tiles;
    for (uint32_t k = 0; k < n_k; k += 2, to += 64) {
        __m512 a = _mm512_setzero_ps(), b = a;
        if (k < n_valid) a = _mm512_loadu_ps(x + k * stride);
        if (k + 1 < n_valid) b = _mm512_loadu_ps(x + (k + 1) * stride);
        _mm512_store_si512(
            to, _mm512_or_si512(_mm512_srli_epi32(round_safe(a), 16), _mm512_and_si512(round_safe(b), high)));
    }
}

void kvi_amx_prefill_turn(const float *rows, uint32_t n, uint32_t n_k, void *tiles)
{
    for (uint32_t block = 0; block < POSITIONS / 16u; block++) kvi_cpu_bf16_amx.pack_block(rows, n, n_k, block, tiles);
}

/* ------------------------------------------------------------------------------------------------------- products --- */
/* c (32, 32) of rows `ldc` floats apart (+)= a (32, 32 n_steps) . b; a rows lda bytes apart, b two columns of n_steps tiles. */
static inline void multiply(const uint8_t *a, size_t lda, const uint8_t *b0, const uint8_t *b1, uint32_t n_steps,
                            float *c, size_t ldc, int add)
{
    float *c1 = c + 16 * ldc;
    if (add) {
        KVI_AMX_LOAD(0, c, ldc * 4);
        KVI_AMX_LOAD(1, c + 16, ldc * 4);
        KVI_AMX_LOAD(2, c1, ldc * 4);
        KVI_AMX_LOAD(3, c1 + 16, ldc * 4);
    } else {
        KVI_AMX_ZERO(0);
        KVI_AMX_ZERO(1);
        KVI_AMX_ZERO(2);
        KVI_AMX_ZERO(3);
    }
    for (uint32_t k = 0; k < n_steps; k++) {
        KVI_AMX_LOAD(4, a + k * 64, lda);
        KVI_AMX_LOAD(6, b0 + k * TILE, 64);
        KVI_AMX_LOAD(7, b1 + k * TILE, 64);
        KVI_AMX_LOAD(5, a + 16 * lda + k * 64, lda);
        KVI_AMX_DP_BF16(0, 4, 6);
        KVI_AMX_DP_BF16(1, 4, 7);
        KVI_AMX_DP_BF16(2, 5, 6);
        KVI_AMX_DP_BF16(3, 5, 7);
    }
    KVI_AMX_STORE(0, c, ldc * 4);
    KVI_AMX_STORE(1, c + 16, ldc * 4);
    KVI_AMX_STORE(2, c1, ldc * 4);
    KVI_AMX_STORE(3, c1 + 16, ldc * 4);
}

/* ------------------------------------------------------------------------------------------------------- softmax --- */
/* 2^x for x <= 0; 0 below -126, -inf included, because results near zero cost the processor some hundred cycles each; NaN stays. */
static inline __m512 power(__m512 x)
{
    const __mmask16 alive = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
    const __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), r = _mm512_sub_ps(x, n);
    __m512 p = _mm512_set1_ps(9.5827e-3f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.590594e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.4024098e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.9312425e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_maskz_scalef_ps(alive, p, n);
}

/* Scores to probabilities, one online step for all queries of the group. Unseen positions are -inf; a query that sees nothing keeps m = -inf, l = 0
 * and acc = 0. A score that is not a number makes the sum, and with it the result, not a number. */
static void softmax(const kvi_amx_page *page, uint32_t width)
{
    float top[KVI_AMX_GROUP], factor[KVI_AMX_GROUP], sum[KVI_AMX_GROUP];
    for (uint32_t i = 0; i < KVI_AMX_GROUP; i++) {
        float *s = page->scores + (size_t)i * POSITIONS;
        for (uint32_t t = 0; t < page->begin[i]; t++) s[t] = -INFINITY;
        for (uint32_t t = page->end[i]; t < POSITIONS; t++) s[t] = -INFINITY;
        __m512 most = _mm512_set1_ps(-INFINITY);
        for (uint32_t t = 0; t < POSITIONS; t += 16)
            most = _mm512_max_ps(_mm512_load_ps(s + t), most); /* passes over a NaN in front */
        top[i] = _mm512_reduce_max_ps(most);
    }
    for (uint32_t i = 0; i < KVI_AMX_GROUP; i += 16) {
        const __m512 before = _mm512_load_ps(page->m + i), now = _mm512_max_ps(_mm512_loadu_ps(top + i), before);
        const __m512 base = _mm512_mask_mov_ps(now, _mm512_cmp_ps_mask(now, _mm512_set1_ps(-INFINITY), _CMP_EQ_OQ),
                                               _mm512_setzero_ps());
        _mm512_store_ps(page->m + i, now);
        _mm512_storeu_ps(top + i, base);
        _mm512_storeu_ps(factor + i, power(_mm512_sub_ps(before, base)));
    }
    for (uint32_t i = 0; i < KVI_AMX_GROUP; i++) {
        const float *s = page->scores + (size_t)i * POSITIONS;
        uint16_t *p = page->p + (size_t)i * POSITIONS;
        const __m512 base = _mm512_set1_ps(top[i]);
        __m512 even = _mm512_setzero_ps(), odd = even;
        for (uint32_t t = 0; t < POSITIONS; t += 32) {
            const __m512 a = power(_mm512_sub_ps(_mm512_load_ps(s + t), base)),
                         b = power(_mm512_sub_ps(_mm512_load_ps(s + t + 16), base));
            even = _mm512_add_ps(even, a);
            odd = _mm512_add_ps(odd, b);
            _mm512_store_si512(p + t, join(round_up(a), round_up(b))); /* a NaN shows in the sum */
        }
        sum[i] = _mm512_reduce_add_ps(_mm512_add_ps(even, odd));
        if (factor[i] == 1.0f) continue;
        float *acc = page->acc + (size_t)i * width;
        for (uint32_t c = 0; c < width; c += 16)
            _mm512_store_ps(acc + c, _mm512_mul_ps(_mm512_load_ps(acc + c), _mm512_set1_ps(factor[i])));
    }
    for (uint32_t i = 0; i < KVI_AMX_GROUP; i += 16)
        _mm512_store_ps(page->l + i, _mm512_fmadd_ps(_mm512_load_ps(page->l + i), _mm512_loadu_ps(factor + i),
                                                     _mm512_loadu_ps(sum + i)));
}

void kvi_amx_prefill_page(const kvi_amx_page *page)
{
    const uint32_t width = kvi_amx_padded(page->d), steps = width / 32u;
    const uint8_t *k = page->k, *v = page->v;
    for (uint32_t t = 0; t < POSITIONS / 16u; t += 2)
        multiply((const uint8_t *)page->q, (size_t)width * 2, k + (size_t)t * steps * TILE,
                 k + (size_t)(t + 1) * steps * TILE, steps, page->scores + 16 * t, POSITIONS, 0);
    softmax(page, width);
    for (uint32_t c = 0; c < width / 16u; c += 2)
        multiply((const uint8_t *)page->p, POSITIONS * 2, v + (size_t)c * 4 * TILE, v + (size_t)(c + 1) * 4 * TILE, 4,
                 page->acc + 16 * c, width, 1);
}
#else
typedef int kvi_prefill_amx_absent;
#endif
