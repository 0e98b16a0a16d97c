/* attention_packed_lanes.h - what attention_packed_body.h asks for, on vectors of 64 bytes with AVX-512 F, BW, DQ, VL. Codes become numbers by a
 * table in a register: vpermps looks at the low four bits of its index only, so neither a mask nor a conversion is needed. */
INLINE vf fma_vec(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
INLINE vf number(vu lanes, uint32_t bits)
{
    const float half = 0.5f * (float)((1u << bits) - 1u), top = (bits == 4 ? 8.0f : 0.0f) - half,
                middle = (bits >= 3 ? 4.0f : 0.0f) - half, both = top + middle + half;
    const __m512 table = _mm512_setr_ps(-half, 1 - half, 2 - half, 3 - half, middle, middle + 1, middle + 2, middle + 3,
                                        top, top + 1, top + 2, top + 3, both, both + 1, both + 2, both + 3);
    return (vf)_mm512_permutexvar_ps((__m512i)lanes, table);
}
INLINE vu shift(vu lanes, vu counts, bool same)
{
    (void)same;
    return (vu)_mm512_srlv_epi32((__m512i)lanes, (__m512i)counts);
}
INLINE vf bytes(const uint8_t *p)
{
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}
INLINE vu repeat(const uint8_t *p, uint32_t words)
{
    const void *at = p;
    int64_t two;
    int32_t one;
    if (words == 16) return (vu)_mm512_loadu_si512(at);
    if (words == 8) return (vu)_mm512_broadcast_i32x8(_mm256_loadu_si256((const __m256i *)at));
    if (words == 4) return (vu)_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)at));
    if (words == 2) return memcpy(&two, at, 8), (vu)_mm512_set1_epi64(two);
    return memcpy(&one, at, 4), (vu)_mm512_set1_epi32(one);
}
INLINE void zip(vf a, vf b, vf *low, vf *high)
{
    const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i second = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    *low = (vf)_mm512_permutex2var_ps((__m512)a, first, (__m512)b);
    *high = (vf)_mm512_permutex2var_ps((__m512)a, second, (__m512)b);
}
INLINE vf half_bytes(const uint8_t *p)
{
    const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p));
    const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(0x80)), 8);
    const __m256i rest = _mm256_slli_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(0x7f)), 7);
    return (vf)_mm512_cvtph_ps(_mm256_or_si256(sign, rest));
}
INLINE vf level(vu states, const float *levels)
{
    const __m512i s = (__m512i)states;
    const __m512 lower = _mm512_permutex2var_ps(_mm512_load_ps(levels), s, _mm512_load_ps(levels + 16));
    const __m512 upper = _mm512_permutex2var_ps(_mm512_load_ps(levels + 32), s, _mm512_load_ps(levels + 48));
    return (vf)_mm512_mask_blend_ps(_mm512_test_epi32_mask(s, _mm512_set1_epi32(32)), lower, upper);
}
INLINE vf load_half(const uint8_t *side, uint32_t off, uint32_t i)
{
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(side + off + 2u * i)));
}
