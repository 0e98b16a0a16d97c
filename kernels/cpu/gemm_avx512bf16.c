/* gemm_avx512bf16.c - prefill GEMM with vdpbf16ps: BF16 weights from the map, activations rounded to BF16, f32 sums. As on AMX, results differ
 * from the f32 path by that rounding, 2^-9 of each activation; the instruction takes denormal numbers for zero.
 * A panel of 32 outputs x 2048 k is turned into the thread's scratch, so that a word, two k, of 16 outputs is a vector, and all rows pass it. It
 * stays in L2 and streams from there, 128 bytes for every 24 products, because sums that leave the registers more often cost more (256 k, a panel in
 * L1: 96 GMAC/s of the instruction's 116, this 106). A tile is 12 rows x 32 outputs; words of rows come four rows side by side, because rows at their
 * natural distance of some KiB fall into the same few sets of L1, and those of the next tile are asked for meanwhile. */
#include "variants.h"

#if defined(__x86_64__)
#include "words_avx512.h"

#define DEPTH KVI_CPU_BF16_DEPTH
#define GROUP 4u        /* rows side by side: word p of rows 0, 1, 2, 3, then the next word */
#define GROUP_BYTES 16u /* of a word of a group */
#define TILE_GROUPS 3u

static void pack_block(const float *x, uint32_t n_rows, uint32_t n_in, uint32_t block, void *packed)
{
    uint8_t *group = (uint8_t *)packed + (size_t)block * 16u * n_in * 2u;
    for (uint32_t g = 0; g < 16u / GROUP; g++, group += (size_t)GROUP * n_in * 2u)
        for (uint32_t k = 0; k < n_in; k += 32u) {
            __m512i r[GROUP];
            for (uint32_t i = 0; i < GROUP; i++) {
                const uint32_t row = block * 16u + g * GROUP + i;
                r[i] = row < n_rows ? kvi_bf16_words(x + (size_t)row * n_in + k) : _mm512_setzero_si512();
            }
            /* Words 4 q + i of the four rows go to lane q of vector i, and lanes to their places. */
            const __m512i a = _mm512_unpacklo_epi32(r[0], r[1]), b = _mm512_unpackhi_epi32(r[0], r[1]),
                          c = _mm512_unpacklo_epi32(r[2], r[3]), d = _mm512_unpackhi_epi32(r[2], r[3]);
            const __m512i v[4] = {_mm512_unpacklo_epi64(a, c), _mm512_unpackhi_epi64(a, c), _mm512_unpacklo_epi64(b, d),
                                  _mm512_unpackhi_epi64(b, d)};
            __m128i words[4][4];
            memcpy(words, v, sizeof words);
            for (uint32_t p = 0; p < 16u; p++)
                memcpy(group + ((size_t)k / 2u + p) * GROUP_BYTES, &words[p % 4u][p / 4u], GROUP_BYTES);
        }
}

/* panel (n_k / 2, 32) words: rows of w, row bytes apart, turned. */
static void turn_panel(const uint8_t *w, size_t row, uint32_t n_k, uint8_t *panel)
{
    for (uint32_t k = 0; k < n_k; k += 32u)
        for (uint32_t half = 0; half < 2u; half++) {
            __m512i r[16];
            for (uint32_t i = 0; i < 16u; i++) {
                const uint8_t *at = w + (16u * half + i) * row + (size_t)k * 2u;
                _mm_prefetch((const char *)at + 256, _MM_HINT_T0);
                r[i] = _mm512_loadu_si512(at);
            }
            kvi_turn_words(r);
            for (uint32_t i = 0; i < 16u; i++) _mm512_store_si512(panel + (k / 2u + i) * 128u + half * 64u, r[i]);
        }
}

static inline __m512bh word_at(const uint8_t *x)
{
    int32_t word;
    memcpy(&word, x, 4);
    return (__m512bh)_mm512_set1_epi32(word);
}

/* y (n_groups * 4 rows, 32) += or = products with a panel; n_groups is a constant. rows: those that are there. */
static inline __attribute__((always_inline)) void tile(const uint8_t *x, size_t stride, uint32_t n_groups, uint32_t n_k,
                                                       const uint8_t *panel, uint32_t rows, bool add, float *y,
                                                       size_t ldy)
{
    __m512 sums[TILE_GROUPS * GROUP][2];
    for (uint32_t r = 0; r < n_groups * GROUP; r++) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
#pragma GCC unroll 4
    for (uint32_t p = 0; p < n_k / 2u; p++, x += GROUP_BYTES, panel += 128u) {
        for (uint32_t g = 0; p % 4u == 0 && g < n_groups; g++)
            _mm_prefetch((const char *)((uintptr_t)x + (g + n_groups) * stride), _MM_HINT_T0);
        const __m512bh a = (__m512bh)_mm512_load_si512(panel), b = (__m512bh)_mm512_load_si512(panel + 64);
        for (uint32_t r = 0; r < n_groups * GROUP; r++) {
            const __m512bh word = word_at(x + r / GROUP * stride + r % GROUP * 4u);
            sums[r][0] = _mm512_dpbf16_ps(sums[r][0], a, word);
            sums[r][1] = _mm512_dpbf16_ps(sums[r][1], b, word);
        }
    }
    for (uint32_t r = 0; r < n_groups * GROUP && r < rows; r++)
        for (uint32_t half = 0; half < 2u; half++) {
            float *to = y + r * ldy + half * 16u;
            _mm512_storeu_ps(to, add ? _mm512_add_ps(_mm512_loadu_ps(to), sums[r][half]) : sums[r][half]);
        }
}

static void gemm(const void *w, uint32_t n_out, uint32_t n_in, const void *packed, uint32_t n_rows, const float *bias,
                 bool add, void *scratch, float *y, size_t ldy)
{
    const size_t stride = (size_t)n_in * GROUP * 2u;
    for (uint32_t o = 0; o < n_out; o += 32u) {
        for (uint32_t k = 0; k < n_in; k += DEPTH) {
            const uint32_t n_k = n_in - k < DEPTH ? n_in - k : DEPTH;
            turn_panel((const uint8_t *)w + ((size_t)o * n_in + k) * 2u, (size_t)n_in * 2u, n_k, scratch);
            for (uint32_t r = 0, n; r < n_rows; r += n) {
                const uint8_t *x = (const uint8_t *)packed + r / GROUP * stride + (size_t)k * GROUP * 2u;
                float *to = y + (size_t)r * ldy + o;
                n = n_rows - r > GROUP * (TILE_GROUPS - 1u) ? GROUP * TILE_GROUPS : GROUP;
                if (n > GROUP) tile(x, stride, TILE_GROUPS, n_k, scratch, n_rows - r, add || k > 0, to, ldy);
                else tile(x, stride, 1, n_k, scratch, n_rows - r, add || k > 0, to, ldy);
            }
        }
        for (uint32_t r = 0; bias && r < n_rows; r++)
            for (uint32_t i = 0; i < 32u; i++) y[(size_t)r * ldy + o + i] += bias[o + i];
    }
}

const kvi_cpu_bf16 kvi_cpu_bf16_avx512 = {.name = "gemm_bf16_avx512bf16", .pack_block = pack_block, .gemm = gemm};
#else
typedef int kvi_gemm_avx512bf16_absent;
#endif
