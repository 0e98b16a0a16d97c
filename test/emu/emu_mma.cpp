/* emu_mma.cpp - mma.m16n8k16 of a whole warp at once: 16-bit operands, products exact in f32, sums in f32 in the order of k.
 * A tensor core adds several products at a time and truncates where this rounds; tests compare within a tolerance for that reason. */
#include "emu_block.h"

namespace kvi_emu
{

#if defined(__AVX2__) && defined(__F16C__) && defined(__FMA__)
static __m256 eight(const uint32_t *pairs, bool bf16)
{
    __m128i h = _mm_loadu_si128(reinterpret_cast<const __m128i *>(pairs));
    if (bf16) return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
    return _mm256_cvtph_ps(h);
}
/* A product of two 16-bit values is exact in f32, so a fused operation rounds where a separate one does. */
void warp_multiply(float c[16][8], const uint32_t a[16][8], const uint32_t b[8][8], bool bf16)
{
    alignas(32) float columns[16][8], wide[16];
    for (int n = 0; n < 8; n++) {
        alignas(32) float k[16];
        _mm256_store_ps(k, eight(b[n], bf16));
        _mm256_store_ps(k + 8, eight(b[n] + 4, bf16));
        for (int i = 0; i < 16; i++) columns[i][n] = k[i];
    }
    for (int row = 0; row < 16; row++) {
        _mm256_store_ps(wide, eight(a[row], bf16));
        _mm256_store_ps(wide + 8, eight(a[row] + 4, bf16));
        __m256 sum = _mm256_loadu_ps(c[row]);
        for (int k = 0; k < 16; k++) sum = _mm256_fmadd_ps(_mm256_set1_ps(wide[k]), _mm256_load_ps(columns[k]), sum);
        _mm256_storeu_ps(c[row], sum);
    }
}
#else
static float bf16_value(uint32_t h) { return kvi_f32_from_bits(h << 16); }
void warp_multiply(float c[16][8], const uint32_t a[16][8], const uint32_t b[8][8], bool bf16)
{
    float columns[16][8], wide[16];
    for (int n = 0; n < 8; n++)
        for (int k = 0; k < 16; k++) {
            uint32_t h = b[n][k / 2] >> (16 * (k & 1)) & 0xffffu;
            columns[k][n] = bf16 ? bf16_value(h) : f16(h);
        }
    for (int row = 0; row < 16; row++) {
        for (int k = 0; k < 16; k++) {
            uint32_t h = a[row][k / 2] >> (16 * (k & 1)) & 0xffffu;
            wide[k] = bf16 ? bf16_value(h) : f16(h);
        }
        for (int k = 0; k < 16; k++)
            for (int n = 0; n < 8; n++) c[row][n] += wide[k] * columns[k][n];
    }
}
#endif

/* PTX ISA, "Matrix fragments for mma.m16n8k16": lane = 4 g + t holds
 *   a[0..3] = A[g][2t..], A[g+8][2t..], A[g][2t+8..], A[g+8][2t+8..]   b[0..1] = B[2t..][g], B[2t+8..][g]
 *   c[0..3] = C[g][2t], C[g][2t+1], C[g+8][2t], C[g+8][2t+1] */
void fragments_in(warp *w, uint32_t lane, const float c[4], const uint32_t a[4], const uint32_t b[2])
{
    uint32_t g = lane >> 2, t = lane & 3u;
    w->a[g][t] = a[0], w->a[g + 8][t] = a[1], w->a[g][t + 4] = a[2], w->a[g + 8][t + 4] = a[3];
    w->b[g][t] = b[0], w->b[g][t + 4] = b[1];
    w->c[g][2 * t] = c[0], w->c[g][2 * t + 1] = c[1], w->c[g + 8][2 * t] = c[2], w->c[g + 8][2 * t + 1] = c[3];
}
void fragments_out(const warp *w, uint32_t lane, float c[4])
{
    uint32_t g = lane >> 2, t = lane & 3u;
    c[0] = w->c[g][2 * t], c[1] = w->c[g][2 * t + 1], c[2] = w->c[g + 8][2 * t], c[3] = w->c[g + 8][2 * t + 1];
}

} // namespace kvi_emu
