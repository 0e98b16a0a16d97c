/* words_avx512.h - what the BF16 products share: numbers to BF16, and a square of words turned. For files that are compiled with AVX-512. */
#ifndef KVI_WORDS_AVX512_H
#define KVI_WORDS_AVX512_H
#include <immintrin.h>
#include <string.h>

/* (16, 16) words in place: rows become columns. */
static inline void kvi_turn_words(__m512i r[16])
{
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) { /* r[i + 4 q] holds column i of every lane, rows 4 q .. 4 q + 3 */
        __m512i ab = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88), cd = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        __m512i AB = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd), CD = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
        t[i] = _mm512_shuffle_i32x4(ab, cd, 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(AB, CD, 0x88);
        t[i + 8] = _mm512_shuffle_i32x4(ab, cd, 0xdd);
        t[i + 12] = _mm512_shuffle_i32x4(AB, CD, 0xdd);
    }
    memcpy(r, t, sizeof t);
}

/* Bits of 16 floats rounded to BF16, to nearest even, in the low half of each word; NaN stays NaN. */
static inline __m512i kvi_round_bf16(__m512 x)
{
    const __m512i u = _mm512_castps_si512(x), high = _mm512_srli_epi32(u, 16);
    const __m512i bias = _mm512_add_epi32(_mm512_set1_epi32(0x7fff), _mm512_and_si512(high, _mm512_set1_epi32(1)));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(u, bias), 16);
    return _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), high, _mm512_set1_epi32(0x40));
}

/* 32 floats as 16 words: elements 2 p and 2 p + 1 in word p. */
static inline __m512i kvi_bf16_words(const float *x)
{
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30),
                  odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    const __m512i a = kvi_round_bf16(_mm512_loadu_ps(x)), b = kvi_round_bf16(_mm512_loadu_ps(x + 16));
    return _mm512_or_si512(_mm512_permutex2var_epi32(a, even, b),
                           _mm512_slli_epi32(_mm512_permutex2var_epi32(a, odd, b), 16));
}

#endif
