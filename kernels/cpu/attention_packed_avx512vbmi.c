/* attention_packed_avx512vbmi.c - trellis codes where AVX-512 permutes bytes (VBMI): 64 states are cut out of a row by one vpmultishiftqb, and one
 * vpermb, which looks at the low six bits of its index only, makes them levels. Same bits as attention_packed_avx512.c. */
#if defined(__x86_64__)
#include <immintrin.h>
#define VB 64
#define CENTRE 1
#define RINGS_ALONE
#define TABLE kvi_cpu_packed_avx512vbmi
#include "attention_packed_body.h"
#include "attention_packed_lanes.h"

/* Byte b of eight numbers q is byte q * bits + b of their row; number i of the eight begins at bit i * bits of them. */
#define EIGHT(X, q) X(q, 0), X(q, 1), X(q, 2), X(q, 3), X(q, 4), X(q, 5), X(q, 6), X(q, 7)
#define ALL(X) EIGHT(X, 0), EIGHT(X, 1), EIGHT(X, 2), EIGHT(X, 3), EIGHT(X, 4), EIGHT(X, 5), EIGHT(X, 6), EIGHT(X, 7)
#define BYTES_OF_2(q, b) (q) * 2 + ((b) < 3 ? (b) : 0)
#define BYTES_OF_3(q, b) (q) * 3 + ((b) < 4 ? (b) : 0)
#define BITS_OF_2(q, i) (i) * 2
#define BITS_OF_3(q, i) (i) * 3
static const int8_t bytes_of[2][64] = {{ALL(BYTES_OF_2)}, {ALL(BYTES_OF_3)}},
                    bits_of[2][64] = {{ALL(BITS_OF_2)}, {ALL(BITS_OF_3)}};
static const int8_t levels_in_bytes[2][64] = {{KVI_KV_T2_LEVELS}, {KVI_KV_T3_LEVELS}};

INLINE void levels_of_64(vf *value, const uint8_t *row, uint32_t row_bytes, uint32_t first, uint32_t bits)
{
    const uint32_t at = first / 8u * bits, n = 8u * bits, end = at + n < row_bytes ? at + n : 0;
    const __m256i part =
        _mm256_maskz_loadu_epi8((1u << n) - 1u, row + at); /* and the byte that the last state ends in */
    const __m256i window = _mm256_mask_set1_epi8(part, 1u << n, (char)row[end]);
    const __m512i eights =
        _mm512_permutexvar_epi8(_mm512_loadu_si512(bytes_of[bits - 2u]), _mm512_castsi256_si512(window));
    const __m512i states = _mm512_multishift_epi64_epi8(_mm512_loadu_si512(bits_of[bits - 2u]), eights);
    const __m512i levels = _mm512_permutexvar_epi8(states, _mm512_loadu_si512(levels_in_bytes[bits - 2u]));
#define PART(j) (vf) _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm512_extracti32x4_epi32(levels, j)))
    value[0] = PART(0), value[1] = PART(1), value[2] = PART(2), value[3] = PART(3);
#undef PART
}
#else
typedef int kvi_packed_avx512vbmi_absent;
#endif
