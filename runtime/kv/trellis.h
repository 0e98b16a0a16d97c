/* trellis.h - the codes T2 and T3: numbers of a row share their bits, so that 2 bits a number choose among 64 levels.
 *
 * A row of n numbers is a ring of n b bits, LSB first; number i reads the six that begin at bit i b, its *state*, and is the level of that
 * state. The state of the next number is this one's, shifted down by b, with b new bits on top: an encoder searches the path through all states
 * that errs least (Viterbi), a decoder looks six bits up and depends on nothing before them. Squared error on Gaussian numbers: 0.0877 with 2
 * bits and 0.0252 with 3 (the best 4 and 8 levels: 0.1175 and 0.0345). Source: trellis coded quantization (Marcellin and Fischer, IEEE Trans.
 * Comm. 1990), read from a plain bit stream as in QTIP (arXiv 2406.11235). Levels are whole numbers in 1/32 of a standard deviation;
 * test/study/kv/trellis_levels.py finds them. */
#ifndef KVI_KV_TRELLIS_H
#define KVI_KV_TRELLIS_H
#include "../base/element.h"

#define KVI_KV_STATES 64u
#define KVI_KV_LEVEL_UNIT 0.03125f /* of a level */

#define KVI_KV_T2_LEVELS                                                                                               \
    -57, -14, -29, -58, -19, -44, -80, -17, -60, -9, -30, -53, -22, -46, -71, -21, -29, 14, -3, -29, 7, -17, -43, 6,   \
        -32, 16, -5, -30, 6, -19, -39, 5, -5, 39, 19, -6, 30, 5, -16, 32, -6, 43, 17, -7, 29, 3, -14, 29, 21, 71, 46,  \
        22, 53, 30, 9, 60, 17, 80, 44, 19, 58, 29, 14, 57
#define KVI_KV_T3_LEVELS                                                                                               \
    -56, -83, -62, -42, -84, -60, -39, -73, -32, -50, -34, -20, -50, -33, -19, -48, -16, -35, -19, -6, -31, -17, -4,   \
        -28, -1, -23, -7, 6, -20, -5, 9, -12, 12, -9, 5, 20, -6, 7, 23, 1, 28, 4, 17, 31, 6, 19, 35, 16, 48, 19, 33,   \
        50, 20, 34, 50, 32, 73, 39, 60, 84, 42, 62, 83, 56

/* State of number i of a row of row_bytes. */
KVI_HD static inline uint32_t kvi_kv_state(const uint8_t *row, uint32_t row_bytes, uint32_t i, uint32_t bits)
{
    const uint32_t at = i * bits >> 3, next = at + 1u < row_bytes ? at + 1u : 0u;
    return ((uint32_t)row[at] | (uint32_t)row[next] << 8) >> (i * bits & 7u) & (KVI_KV_STATES - 1u);
}
#ifndef __CUDACC__
/* Levels by state, on a boundary of 64 bytes; bits: 2 or 3. */
static inline const float *kvi_kv_levels(uint32_t bits)
{
    static const float two[KVI_KV_STATES] __attribute__((aligned(64))) = {KVI_KV_T2_LEVELS};
    static const float three[KVI_KV_STATES] __attribute__((aligned(64))) = {KVI_KV_T3_LEVELS};
    return bits == 2u ? two : three;
}
#endif
/* Level of a state. Device code has none, as a table would cost its kernels a stack: they read levels from memory that the host fills. */
KVI_HD static inline float kvi_kv_level(uint32_t state, uint32_t bits)
{
#ifdef __CUDACC__
    (void)state, (void)bits;
    return 0.0f;
#else
    return kvi_kv_levels(bits)[state];
#endif
}

#endif
