/* encode_feedback.cuh - K rounded with feedback in the metric of the queries: feedback.h, a token per thread. Sums of products of queries are whole
 * numbers, the same in any order; all else has the CPU's order along j and i. */
#ifndef KVI_ENCODE_FEEDBACK_CUH
#define KVI_ENCODE_FEEDBACK_CUH
#include "encode_tile.cuh"

#define DAMPING 0.25f /* FEEDBACK_DAMPING */

/* Row j of t.metric, left of the diagonal, becomes column j of U, the diagonal D. False: there is no query; the same for all threads. */
KVI_DEV bool factor_metric(const tile &t, const vectors &v, const queries &q)
{
    const uint32_t d = t.d, me = threadIdx.x;
    for (uint32_t k = me; k < d * d; k += THREADS) {
        const uint32_t i = k / d, j = k % d;
        int32_t sum = 0;
        if (j > i) continue;
        for (uint32_t page = 0; page < 2; page++) {
            const int8_t *z = q.rows[page];
            for (uint32_t r = 0; z && r < q.n; r++, z += d) sum += (int32_t)z[i] * (int32_t)z[j];
        }
        t.metric[k] = (float)sum;
    }
    kvi_sync_block();
    if (me == 0) {
        float trace = 0.0f;
        for (uint32_t i = 0; i < d; i++) trace += t.metric[i * d + i];
        v.words[0] = trace;
    }
    kvi_sync_block();
    const float trace = v.words[0];
    kvi_sync_block();
    if (!(trace > 0.0f)) return false;
    const float damping = trace / (float)d * DAMPING;
    for (uint32_t i = me; i < d; i += THREADS) t.metric[i * d + i] += damping;
    kvi_sync_block();
    for (uint32_t j = d - 1u; j > 0; j--) {
        const float *row = t.metric + j * d;
        const float pivot = row[j], inverse = pivot > 0.0f ? 1.0f / pivot : 0.0f;
        /* Rows i and j - 1 - i together have j + 1 numbers to change. */
        for (uint32_t k = me; k < (j + 1u) / 2u * (j + 1u); k += THREADS) {
            const uint32_t pair = k / (j + 1u), at = k % (j + 1u), i = at <= pair ? pair : j - 1u - pair,
                           col = at <= pair ? at : at - pair - 1u;
            if (at > pair && i == pair) continue; /* the row in the middle, which has no partner */
            t.metric[i * d + col] -= row[i] * inverse * row[col];
        }
        kvi_sync_block();
        for (uint32_t i = me; i < j; i += THREADS) t.metric[j * d + i] *= inverse;
        kvi_sync_block();
    }
    return true;
}

/* t.x (channels, tokens), balanced, to codes of step[channel] and low[channel]. t.xt holds what each code lost, (channels, tokens), as its content
 * has been used up. */
KVI_DEV void round_with_feedback(const tile &t, const vectors &v, const float *step, const float *low, uint32_t bits,
                                 uint8_t *codes)
{
    const uint32_t me = threadIdx.x, n = KVI_KV_PAGE, d = t.n_rows;
    const float top = (float)((1u << bits) - 1u);
    uint32_t *rounded = (uint32_t *)v.errors; /* codes of a channel, of two channels in turn */
    for (uint32_t j = 0; j < d; j++) {
        if (me < n) {
            const float x = t.x[j * n + me], *u = t.metric + j * d;
            float want = x;
#pragma unroll 8
            for (uint32_t i = 0; i < j; i++) want += u[i] * t.xt[i * n + me];
            const float q = to_code((want - low[j]) * (1.0f / step[j]), top);
            t.xt[j * n + me] = x - (q * step[j] + low[j]);
            rounded[(j & 1u) * n + me] = (uint32_t)q;
        }
        kvi_sync_block();
        if (me < n / 8u) {
            uint32_t packed = 0;
            for (uint32_t k = 0; k < 8u; k++) packed |= rounded[(j & 1u) * n + 8u * me + k] << (k * bits);
            for (uint32_t b = 0; b < bits; b++) codes[(j * (n / 8u) + me) * bits + b] = (uint8_t)(packed >> (8u * b));
        }
    }
    kvi_sync_block();
}

#endif
